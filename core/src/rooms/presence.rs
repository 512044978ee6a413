//! Who is in a room, as the members here are told. The owner counts; this side reports its own members, asks, and passes
//! on what changes. For rooms in which somebody watches it also keeps who is there, so that a link that broke shows as
//! the difference and not as everyone coming anew.

use std::collections::BTreeMap;

use carillon_proto::{
    codes::Close,
    frame::{Presence, Present, ServerFrame},
    ids::RoomName,
    link::{self, Came, Counted, UserIn, UserOut, Watch, Went, Who, up},
};

use super::{Conn, Doors, Reading, RoomKey, Rooms, Waiting, Waits};
use crate::{Now, grants::MayWatch};

/// The users of a watched room, as every member here that watches has been told.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// With their `info`.
    users: BTreeMap<Box<str>, Box<str>>,
    /// False in a room too large to be named whole: news is passed on as it comes then.
    is_whole: bool,
}

/// The most users that a frame names.
const MAX_NAMED: usize = 200;
/// Larger rooms are not kept by name.
const MAX_KNOWN: usize = 1_000;

impl Known {
    fn new(presence: &Presence) -> Self {
        let named = presence.members.iter().map(|member| (member.user.clone(), member.info.clone()));
        let users: BTreeMap<_, _> = named.collect();
        Self { is_whole: users.len() as u64 == presence.count, users }
    }

    /// Takes in that a user came or went; false if that is no news.
    fn on_news(&mut self, user: &str, info: &str, came: bool) -> bool {
        if !self.is_whole {
            return true;
        }
        if !came {
            return self.users.remove(user).is_some();
        }
        let is_new = self.users.insert(user.into(), info.into()).is_none();
        if self.users.len() > MAX_KNOWN {
            *self = Self::default();
        }
        is_new
    }
}

impl Rooms {
    /// A client wants to know who is there.
    pub fn presence(&mut self, conn: Conn, permit: &MayWatch, reference: Option<&str>, now: Now) {
        let who = self.ask_who(permit.room(), now);
        self.wait(self.deadline_ms(now), Waiting::Read(who));
        let room = permit.room().clone();
        self.reads.insert(who, Reading::Presence { conn, reference: reference.map(Box::from), room });
    }

    pub(super) fn next_ask(&mut self) -> u64 {
        self.next_read += 1;
        self.next_read
    }

    /// Asks the owner who is there, now or, while the room is being attached anew, as soon as it is.
    pub(super) fn ask_who(&mut self, room: &RoomName, now: Now) -> u64 {
        let who = self.next_ask();
        let question = Who { who, room: room.as_str().to_owned() };
        self.owner(room).queue(up::Item::Who(question), now.mono_ms);
        who
    }

    /// `ask` names the question how many connections the user has with this one; 0 asks nothing.
    pub(super) fn report_came(&mut self, key: RoomKey, conn: Conn, ask: u64, now: Now, doors: &impl Doors) {
        let name = self.rooms[key as usize].name.clone();
        let user = self.conns[conn.index as usize].user.as_str().to_owned();
        let came = Came { room: name.as_str().to_owned(), user, info: doors.info(conn).to_owned(), ask };
        self.owner(&name).queue(up::Item::Came(came), now.mono_ms);
    }

    /// `left`: by its own wish.
    pub(super) fn report_went(&mut self, key: RoomKey, user: &str, left: bool, now: Now) {
        let name = self.rooms[key as usize].name.clone();
        let went = Went { room: name.as_str().to_owned(), user: user.to_owned(), left };
        self.owner(&name).queue(up::Item::Went(went), now.mono_ms);
    }

    /// The room has one member more, or less, that wants to be told.
    pub(super) fn count_watcher(&mut self, key: RoomKey, more: bool, now: Now) {
        let room = &mut self.rooms[key as usize];
        let before = room.watchers;
        room.watchers = if more { before + 1 } else { before - 1 };
        if before > 0 && room.watchers > 0 {
            return;
        }
        if room.watchers == 0 {
            room.known = None;
        }
        let name = room.name.clone();
        let watch = Watch { room: name.as_str().to_owned(), on: more };
        self.owner(&name).queue(up::Item::Watch(watch), now.mono_ms);
    }

    /// A member may not see any more who is there: it is told nothing further.
    pub fn unwatch(&mut self, conn: Conn, room: &RoomName, now: Now) {
        let Some(joined) = self.joined(conn, room).filter(|joined| self.is_here(conn) && joined.place != super::NOT_YET) else {
            return;
        };
        let member = &mut self.rooms[joined.room as usize].members[joined.place as usize];
        if std::mem::take(&mut member.presence) {
            self.count_watcher(joined.room, false, now);
        }
    }

    /// After an attach: everyone who is here, and what they want to be told.
    pub(super) fn report_all(&mut self, key: RoomKey, now: Now, doors: &impl Doors) {
        let members: Vec<Conn> = self.rooms[key as usize].members.iter().map(|member| member.conn).collect();
        for conn in members {
            let ask = match self.catch_ups.get(&(key, conn.index)).map(|it| it.waits) {
                Some(Waits::Counted(ask)) => ask,
                _ => self.early.get(&(key, conn.index)).copied().unwrap_or(0),
            };
            self.report_came(key, conn, ask, now, doors);
        }
        let room = &self.rooms[key as usize];
        if room.watchers > 0 {
            let (name, text) = (room.name.clone(), room.name.as_str().to_owned());
            let owner = self.owner(&name);
            owner.queue(up::Item::Watch(Watch { room: text.clone(), on: true }), now.mono_ms);
            owner.queue(up::Item::Who(Who { who: 0, room: text }), now.mono_ms);
        }
    }

    /// The owner of a personal room has counted the user's connections: one that is within the limit begins. Each is counted
    /// from its question until it is closed, so that of any number that come together, as many begin as may. Right after a takeover the
    /// owner may not know of all: who begins then is counted again, and closed if it was one too many.
    pub(super) fn on_counted(&mut self, counted: &Counted, now: Now, doors: &mut impl Doors) {
        let Some(key) = self.names.get(counted.room.as_str()).copied() else { return };
        let waits = |conn: &Conn| self.catch_ups.get(&(key, conn.index)).map(|it| it.waits) == Some(Waits::Counted(counted.ask));
        let is_early = |conn: &Conn| self.early.get(&(key, conn.index)) == Some(&counted.ask);
        let members = || self.rooms[key as usize].members.iter().map(|member| member.conn);
        let (waiting, begun) = (members().find(waits), members().find(is_early));
        let Some(conn) = waiting.or(begun) else { return };
        if counted.connections > self.limits.connections_per_user {
            return doors.close(conn, Close::TooManyConnections);
        }
        match counted.early {
            true => self.early.insert((key, conn.index), counted.ask),
            false => self.early.remove(&(key, conn.index)),
        };
        if waiting.is_none() {
            return;
        }
        let owed = self.catch_ups.remove(&(key, conn.index)).and_then(|it| it.owed).expect("it waits for its beginning");
        self.begin(key, conn, owed, now, doors);
        self.grant_wishes(key, now, doors);
    }

    pub(super) fn on_present(&mut self, present: link::Present, now: Now, doors: &mut impl Doors) {
        if present.who == 0 {
            return self.on_truth(&present, doors);
        }
        let Some(reading) = self.reads.remove(&present.who) else { return };
        let who = present.who;
        match reading {
            Reading::Presence { conn, reference, room } if self.is_here(conn) => {
                let presence = presence(present);
                doors.frame(conn, &ServerFrame::Presence { room: &room, reference: reference.as_deref(), presence: &presence });
            }
            Reading::Join { conn } if self.is_here(conn) => {
                let Some(key) = self.names.get(present.room.as_str()).copied() else { return };
                let Some(catch_up) = self.catch_ups.get(&(key, conn.index)).filter(|it| it.waits == Waits::Present(who)) else {
                    return;
                };
                debug_assert!(catch_up.owed.is_some(), "who waits for this has not been answered yet");
                let mut presence = presence(present);
                // Whoever joins is there, even while the owner still gathers who else is.
                let count = self.rooms[key as usize].known.as_ref().map_or(0, |known| known.users.len() as u64 + 1);
                if self.rooms[key as usize].known.as_ref().is_some_and(|known| known.is_whole) {
                    let user = self.conns[conn.index as usize].user.clone();
                    let info: Box<str> = doors.info(conn).into();
                    self.tell(key, user.as_str(), &info, count, true, doors);
                }
                match &self.rooms[key as usize].known {
                    // Everyone here is told the same: what the owner knows better comes as news to all.
                    Some(known) if known.is_whole => presence = agreed(known, &presence),
                    Some(_) => {}
                    None => self.rooms[key as usize].known = Some(Box::new(Known::new(&presence))),
                }
                let mut owed = self.catch_ups.remove(&(key, conn.index)).and_then(|it| it.owed).expect("found above");
                owed.members = Some(presence);
                self.begin(key, conn, owed, now, doors);
                self.grant_wishes(key, now, doors);
            }
            _ => {}
        }
    }

    pub(super) fn on_user_in(&mut self, news: UserIn, doors: &mut impl Doors) {
        let Some(key) = self.names.get(news.room.as_str()).copied() else { return };
        self.tell(key, &news.user, &news.info, news.count, true, doors);
    }

    pub(super) fn on_user_out(&mut self, news: UserOut, doors: &mut impl Doors) {
        let Some(key) = self.names.get(news.room.as_str()).copied() else { return };
        self.tell(key, &news.user, &news.info, news.count, false, doors);
    }

    /// What is true after a time of not knowing: the difference to what was known is news.
    fn on_truth(&mut self, present: &link::Present, doors: &mut impl Doors) {
        let Some(key) = self.names.get(present.room.as_str()).copied() else { return };
        let Some(known) = self.rooms[key as usize].known.as_deref() else { return };
        // A room that is too large to be named whole can't be compared.
        if !known.is_whole || present.count > present.users.len() as u64 {
            return;
        }
        let is_there = |user: &str| present.users.iter().any(|present| present.user == user);
        let gone: Vec<(Box<str>, Box<str>)> =
            known.users.iter().filter(|(user, _)| !is_there(user)).map(|(user, info)| (user.clone(), info.clone())).collect();
        for (user, info) in gone {
            self.tell(key, &user, &info, present.count, false, doors);
        }
        for user in &present.users {
            self.tell(key, &user.user, &user.info, present.count, true, doors);
        }
    }

    /// Passes on that a user came or went, if that is news here.
    fn tell(&mut self, key: RoomKey, user: &str, info: &str, count: u64, came: bool, doors: &mut impl Doors) {
        let known = self.rooms[key as usize].known.as_deref_mut();
        if !known.is_none_or(|known| known.on_news(user, info, came)) {
            return;
        }
        let room = &self.rooms[key as usize];
        for member in room.members.iter().filter(|member| member.presence) {
            // One that still waits for `joined` finds the news in there.
            if let Some(owed) = self.catch_ups.get_mut(&(key, member.conn.index)).and_then(|it| it.owed.as_mut()) {
                if let Some(members) = &mut owed.members {
                    update(members, user, info, count, came);
                }
                continue;
            }
            if self.conns[member.conn.index as usize].user.as_str() == user {
                continue;
            }
            let frame = match came {
                true => ServerFrame::UserJoined { room: &room.name, user, info, count },
                false => ServerFrame::UserLeft { room: &room.name, user, info, count },
            };
            doors.frame(member.conn, &frame);
        }
    }
}

fn update(presence: &mut Presence, user: &str, info: &str, count: u64, came: bool) {
    presence.count = count;
    presence.members.retain(|member| *member.user != *user);
    if came {
        presence.members.push(Present { user: user.into(), info: info.into(), connections: 1 });
    }
}

/// What is known here, with the connections that the owner counts.
fn agreed(known: &Known, fresh: &Presence) -> Presence {
    let members = known.users.iter().take(MAX_NAMED).map(|(user, info)| {
        let counted = fresh.members.iter().find(|member| member.user == *user);
        Present { user: user.clone(), info: info.clone(), connections: counted.map_or(1, |member| member.connections) }
    });
    Presence { count: known.users.len() as u64, members: members.collect() }
}

fn presence(present: link::Present) -> Presence {
    let members = present.users.into_iter().map(|user| Present {
        user: user.user.into(),
        info: user.info.into(),
        connections: user.connections,
    });
    Presence { count: present.count, members: members.collect() }
}
