//! A client that counts: whatever it is told of a room must follow from what it was told before, and from what the log has
//! held. It takes frames from its outbox when it likes.

use std::collections::{HashMap, VecDeque};

use carillon_core::rooms::Conn;
use carillon_proto::{
    frame::{EpochClaim, JoinOptions, Span},
    ids::Offset,
};

/// `limits.replay_messages`: `last` gives no more.
pub(crate) const REPLAY: u32 = 5;

/// What a join says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Join {
    pub(crate) since: Option<Offset>,
    pub(crate) epoch: Option<String>,
    pub(crate) last: Option<u32>,
    pub(crate) presence: bool,
}

impl Join {
    pub(crate) fn options(&self) -> JoinOptions {
        let epoch = self.epoch.as_ref().map(|epoch| EpochClaim::Named(epoch.as_str().into()));
        JoinOptions { since: self.since, epoch, last: self.last, presence: self.presence, echo: false }
    }
}

/// A frame, as far as it matters here.
#[derive(Debug, Clone)]
pub(crate) enum Seen {
    Welcome,
    Joined { room: String, reference: Option<String>, offset: Offset, epoch: String, reason: Option<String> },
    Message { room: String, offset: Offset, epoch: String, payload: String },
    History { reference: String, room: String, found: Vec<(Offset, String)>, more: bool, epoch: String },
    Left { room: String },
    Refused { reference: String },
    Other,
}

/// A frame in an outbox, and where the room stood when it was put there: what retention had left, and the newest.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) seen: Seen,
    pub(crate) floor: Offset,
    pub(crate) head: Offset,
}

/// How a room stood when something was asked of it.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) join: Option<Join>,
    pub(crate) history: Option<(Span, u64)>,
    pub(crate) floor: Offset,
    pub(crate) head: Offset,
    pub(crate) epoch: String,
}

/// What comes next in a room.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Place {
    After(Offset),
    /// The newest few: above `from`, though retention may have taken some of them; at the latest what follows `head`.
    Newest {
        from: Offset,
        head: Offset,
    },
}

#[derive(Debug, Default)]
pub(crate) struct Client {
    pub(crate) conn: Option<Conn>,
    pub(crate) is_welcome: bool,
    pub(crate) outbox: VecDeque<Waiting>,
    pub(crate) places: HashMap<String, Place>,
    pub(crate) epochs: HashMap<String, String>,
    pub(crate) asked: HashMap<String, Asked>,
    pub(crate) refused: Vec<String>,
}

impl Client {
    pub(crate) fn on_gone(&mut self) {
        *self = Self { epochs: std::mem::take(&mut self.epochs), ..Self::default() };
    }

    pub(crate) fn on_seen(&mut self, Waiting { seen, floor, head: newest }: Waiting) {
        match seen {
            Seen::Welcome => self.is_welcome = true,
            Seen::Joined { room, reference, offset, epoch, reason } => {
                let join = reference.and_then(|reference| self.asked.remove(&reference)?.join).unwrap_or_default();
                assert!(offset > 0 || epoch.is_empty(), "{room} is empty and has the epoch {epoch}");
                let last = u64::from(join.last.unwrap_or(0).min(REPLAY));
                let claims_epoch = join.epoch.as_ref().filter(|epoch| !epoch.is_empty() && join.since != Some(0));
                let is_elsewhere =
                    join.since.is_some_and(|since| since > offset) || claims_epoch.is_some_and(|claimed| *claimed != epoch);
                let place = match (reason.as_deref(), join.since) {
                    (None, Some(since)) => {
                        assert!(
                            !is_elsewhere,
                            "recovered {room} at {since} of {claims_epoch:?}, but it is at {offset} of {epoch}"
                        );
                        Place::After(since)
                    }
                    (Some("epoch"), Some(_)) => {
                        assert!(is_elsewhere, "{room} belongs to {epoch} and reaches {offset}, as was said: {join:?}");
                        Place::Newest { from: offset.saturating_sub(last), head: offset }
                    }
                    (Some("trimmed"), Some(since)) => {
                        assert!(floor > since + 1, "{room} has everything after {since}, from {floor} on");
                        Place::Newest { from: offset.saturating_sub(last), head: offset }
                    }
                    // Who was in the room misses nothing by joining it again.
                    (None, None) => {
                        let newest = offset.saturating_sub(last);
                        let is_same = self.epochs.get(&room).is_some_and(|known| known.is_empty() || *known == epoch);
                        let stood = self.places.get(&room).filter(|_| is_same);
                        let from = match stood {
                            Some(Place::After(position) | Place::Newest { from: position, .. }) => newest.min(*position),
                            None => newest,
                        };
                        Place::Newest { from, head: offset }
                    }
                    // Unasked: it was overtaken, by retention or by another life of the room.
                    (Some(_), None) => Place::After(offset),
                    (Some(other), _) => panic!("{other} is no reason"),
                };
                self.places.insert(room.clone(), place);
                self.epochs.insert(room, epoch);
            }
            Seen::Message { room, offset, epoch, .. } => {
                let place = self.places.get_mut(&room).unwrap_or_else(|| panic!("{room} was not joined"));
                let begins = offset == 1 && self.epochs.get(&room).is_none_or(|known| *known != epoch);
                match place {
                    _ if begins => {}
                    Place::After(position) => assert_eq!(offset, *position + 1, "a hole, or a repeat, in {room}"),
                    Place::Newest { from, head } => {
                        assert!(
                            offset > *from && offset <= *head + 1,
                            "{offset} is none of the newest {from} to {head} of {room}"
                        );
                        assert!(offset == *from + 1 || floor >= offset, "{room} is kept from {floor}, shown from {offset}");
                    }
                }
                *place = Place::After(offset);
                self.epochs.insert(room, epoch);
            }
            Seen::History { reference, room, found, more, epoch } => {
                let Some(asked) = self.asked.remove(&reference) else { panic!("nobody asked {reference}") };
                let offsets: Vec<Offset> = found.iter().map(|(offset, _)| *offset).collect();
                assert!(offsets.windows(2).all(|pair| pair[1] == pair[0] + 1), "history of {room} with a hole: {offsets:?}");
                let Some((span, limit)) = asked.history else { panic!("{reference} asked for no history") };
                assert!(offsets.len() as u64 <= limit);
                if epoch == asked.epoch {
                    judge_history(&room, span, &offsets, more, &asked, floor, newest);
                }
            }
            Seen::Left { room } => {
                self.places.remove(&room);
            }
            Seen::Refused { reference } => {
                self.asked.remove(&reference);
                self.refused.push(reference);
            }
            Seen::Other => {}
        }
    }
}

/// Between the question and the answer the room may have grown, and lost its oldest: the answer stands for one moment of it.
fn judge_history(room: &str, span: Span, offsets: &[Offset], more: bool, asked: &Asked, floor: Offset, head: Offset) {
    let told = || format!("{span:?} of {room}, from {}..{} to {floor}..{head}: {offsets:?}", asked.floor, asked.head);
    let (Some(first), Some(last)) = (offsets.first(), offsets.last()) else {
        let reaches = match span {
            Span::After(after) => (after < asked.head).then_some(asked.head),
            Span::Before(before) => Some(asked.head.min(before.saturating_sub(1))),
            Span::Newest => Some(asked.head),
        };
        assert!(reaches.is_none_or(|reaches| reaches < floor), "nothing: {}", told());
        return;
    };
    match span {
        Span::After(after) => {
            assert!((asked.floor.max(after + 1)..=floor.max(after + 1)).contains(first), "{}", told());
            assert!(if more { *last < head } else { *last >= asked.head }, "more is {more}: {}", told());
        }
        Span::Before(_) | Span::Newest => {
            let before = if let Span::Before(before) = span { before } else { Offset::MAX };
            assert!((asked.head.min(before - 1)..=head.min(before - 1)).contains(last), "{}", told());
            assert!(if more { *first > asked.floor } else { *first <= floor }, "more is {more}: {}", told());
        }
    }
}
