//! A client as the contract describes one: it counts offsets, resumes where it stands, and fails the world at the first
//! gap, contradiction or broken promise.

use std::collections::{BTreeMap, HashMap, HashSet};

use carillon_core::rooms::Conn;

/// What a client saw of one frame.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Seen {
    Welcome,
    Message { room: String, offset: u64, payload: String, sender: (String, String), epoch: String },
    Own { room: String, offset: u64 },
    Joined { room: String, offset: u64, epoch: String, recovered: bool, members: Option<Vec<String>> },
    UserJoined { room: String, user: String, count: u64 },
    UserLeft { room: String, user: String, count: u64 },
    Left,
    Ack { reference: String, room: String, offset: u64 },
    Error { reference: Option<String>, code: &'static str, outcome_unknown: bool },
    History { room: String, offsets: Vec<u64> },
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Line {
    Down { until_ms: u64 },
    Up { gateway: usize, conn: Conn, welcomed: bool, since_ms: u64 },
}

/// What a client knows of a room.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) wants: bool,
    pub(crate) asked: bool,
    pub(crate) joined: bool,
    /// Everything up to here was seen, counted from `first`.
    pub(crate) position: Option<u64>,
    pub(crate) first: u64,
    pub(crate) epoch: String,
    pub(crate) seen: BTreeMap<u64, String>,
    /// Who else is there, as far as the client was told.
    pub(crate) others: HashSet<String>,
    pub(crate) count: u64,
}

impl Known {
    /// What was seen belongs to another life of the room; where it stands in this one.
    fn forget(&mut self, position: Option<u64>) {
        (self.position, self.first) = (position, position.unwrap_or(0));
        self.seen.clear();
    }
}

/// What became of a publish.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    Open,
    Acked(u64),
    Refused,
    Unknown,
}

#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) room: String,
    pub(crate) payload: String,
    pub(crate) key: Option<String>,
    pub(crate) outcome: Outcome,
    /// Which of the client's connections said it, the last time.
    pub(crate) connection: u64,
    pub(crate) is_repeated: bool,
}

impl Said {
    pub(crate) fn new(room: &str, payload: String, key: Option<String>, connection: u64) -> Self {
        Self { room: room.to_owned(), payload, key, outcome: Outcome::Open, connection, is_repeated: false }
    }
}

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) user: String,
    pub(crate) name: String,
    pub(crate) echo: bool,
    pub(crate) presence: bool,
    pub(crate) line: Line,
    pub(crate) connections: u64,
    pub(crate) rooms: HashMap<String, Known>,
    pub(crate) said: Vec<Said>,
    /// Retention may be faster than this client.
    pub(crate) may_miss: bool,
    /// Rooms may begin another life: their logs lose what they had acked.
    pub(crate) may_lose: bool,
}

impl Client {
    pub(crate) fn new(user: String, name: String, echo: bool, presence: bool) -> Self {
        Self {
            user,
            name,
            echo,
            presence,
            line: Line::Down { until_ms: 0 },
            connections: 0,
            rooms: HashMap::new(),
            said: Vec::new(),
            may_miss: false,
            may_lose: false,
        }
    }

    /// The connection is gone: what was under way is unknown, what was joined has to be joined again.
    pub(crate) fn on_down(&mut self, until_ms: u64) {
        self.line = Line::Down { until_ms };
        for room in self.rooms.values_mut() {
            (room.asked, room.joined) = (false, false);
            // Its own message was the room's first, and an ack names no epoch: it can't tell the life that it saw from another one,
            // and the contract leaves that to its risk.
            if self.may_lose && room.epoch.is_empty() && room.position > Some(0) {
                room.forget(None);
            }
        }
        for said in self.said.iter_mut().filter(|said| said.outcome == Outcome::Open) {
            said.outcome = Outcome::Unknown;
        }
    }

    pub(crate) fn on_seen(&mut self, seen: Seen) {
        if std::env::var_os("SIM_TRACE").is_some() {
            eprintln!("{} {:?} {seen:?}", self.name, self.line);
        }
        match seen {
            Seen::Welcome => {
                if let Line::Up { welcomed, .. } = &mut self.line {
                    *welcomed = true;
                }
            }
            Seen::Joined { room, offset, epoch, recovered, members } => {
                let who = self.name.clone();
                let known = self.rooms.get_mut(&room).expect("asked for");
                // A member that is told that it missed something stays one, and knows who else is.
                let is_news = !(known.joined && !recovered && self.may_miss);
                assert!(!is_news || members.is_some() == self.presence, "members are told to those who ask");
                assert!(recovered || self.may_miss, "{who}: {room} was not recovered though nothing was ever trimmed");
                if !recovered {
                    known.forget(None);
                }
                known.joined = true;
                if is_news {
                    known.count = members.as_ref().map_or(0, |members| members.len() as u64);
                    known.others = members.into_iter().flatten().filter(|user| *user != self.user).collect();
                }
                known.epoch = epoch;
                if known.position.is_none() {
                    known.position = Some(offset);
                    known.first = offset;
                }
            }
            Seen::Message { room, offset: 0, .. } => assert!(self.rooms.contains_key(&room)),
            Seen::Message { room, offset, payload, sender, epoch } => {
                let is_own = sender == (self.user.clone(), self.name.clone());
                assert!(self.echo || !is_own, "{}: sent its own message {offset} of {room}", self.name);
                if offset == 1 {
                    let known = self.rooms.get_mut(&room).expect("asked for");
                    // The room had its first message lost before anyone but its sender knew of it: it begins once more.
                    if self.may_lose && known.epoch != epoch && known.position > Some(0) {
                        known.forget(Some(0));
                    }
                    known.epoch = epoch;
                }
                self.advance(&room, offset, payload);
            }
            Seen::Own { room, offset } => {
                let payload = self.own_payload(&room, offset);
                self.advance(&room, offset, payload);
            }
            Seen::Ack { reference, room, offset } => {
                let said = &mut self.said[reference.parse::<usize>().expect("a number")];
                assert_eq!(said.room, room);
                said.outcome = Outcome::Acked(offset);
                let payload = said.payload.clone();
                let Some(known) = self.rooms.get_mut(&room).filter(|known| known.joined && !self.echo) else { return };
                // Live, an own message is told by its ack, in its place; in a replay, by an `own` frame that is still to come.
                if known.position.is_some_and(|position| position + 1 == offset) {
                    self.advance(&room, offset, payload);
                } else {
                    known.seen.entry(offset).or_insert(payload);
                }
            }
            Seen::Error { reference, code, outcome_unknown } => {
                let Some(reference) = reference else { panic!("{}: error {code} without a reference", self.name) };
                if let Some(room) = reference.strip_prefix("\"join ") {
                    let known = self.rooms.get_mut(room.trim_end_matches('"')).expect("asked for");
                    (known.asked, known.joined) = (false, false);
                    return;
                }
                if let Ok(number) = reference.parse::<usize>() {
                    self.said[number].outcome = if outcome_unknown { Outcome::Unknown } else { Outcome::Refused };
                }
            }
            Seen::History { offsets, .. } => {
                assert!(offsets.windows(2).all(|pair| pair[0] + 1 == pair[1]), "history with a hole: {offsets:?}");
            }
            Seen::UserJoined { room, user, count } => {
                assert_ne!(user, self.user, "nobody is told of themselves");
                let known = self.rooms.get_mut(&room).expect("asked for");
                assert!(self.presence && known.joined);
                assert!(known.others.insert(user.clone()), "{}: {user} joined {room} twice", self.name);
                known.count = count;
            }
            Seen::UserLeft { room, user, count } => {
                let known = self.rooms.get_mut(&room).expect("asked for");
                assert!(known.others.remove(&user), "{}: {user} left {room} without having been there", self.name);
                known.count = count;
            }
            Seen::Left => {}
        }
    }

    /// `own` names the offset; what was said there the client knows from its ack, or learns now.
    fn own_payload(&self, room: &str, offset: u64) -> String {
        self.rooms[room].seen.get(&offset).cloned().unwrap_or_else(|| OWN.to_owned())
    }

    fn advance(&mut self, room: &str, offset: u64, payload: String) {
        let who = &self.name;
        let known = self.rooms.get_mut(room).expect("asked for");
        assert!(known.joined, "{who}: a message of {room} before it was joined");
        let position = known.position.expect("joined");
        if offset <= position {
            let before = &known.seen[&offset];
            assert!(
                *before == payload || before == OWN || payload == OWN,
                "{who}: offset {offset} of {room} said {before}, now {payload}"
            );
            return;
        }
        // Own messages that were acked out of their place fill what would be a hole.
        for between in position + 1..offset {
            assert!(known.seen.contains_key(&between), "{who}: gap in {room}: {offset} after {position}");
        }
        known.seen.insert(offset, payload);
        known.position = Some(offset);
    }
}

/// Stands for the content of an own message that was told by an `own` frame alone.
pub(crate) const OWN: &str = "(own)";
