//! One client of the Socket.IO door, as the hub keeps it: where it stands in its rooms, what its record holds, and what waits
//! until that is written. Everything that is sent goes through here, so that nothing overtakes the record that it depends on.
//!
//! ```text
//!   arriving ─▶ (returning: its rooms are joined again) ─▶ record written ─▶ CONNECT, `connected` ─▶ open
//! ```

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use carillon_platform::kv::Revision;
use carillon_proto::{
    codes::ErrorCode,
    frame::{EpochClaim, JoinOptions, Outgoing, ServerFrame},
    ids::{Epoch, Offset, RoomName, fnv1a32},
    socketio::{self, Record},
};

use super::{
    events, packet,
    position::{self, Position},
};
use crate::{door::Encodings, engineio::Socket};

/// The reference of joins that a returning client did not ask for itself; acknowledgments are digits.
pub(crate) const RETURN: &str = "\"return\"";

/// Hash of no epoch: the room is empty, or its epoch is not known, and is not checked then.
const NO_EPOCH: u32 = fnv1a32(b"");

/// See the top.
pub(crate) struct Seat {
    pub(crate) socket: Socket,
    pub(crate) pid: String,
    stage: Stage,
    places: HashMap<RoomName, Place>,
    next_number: u32,
    held: Vec<(Bytes, Bytes)>,
    held_bytes: usize,
    /// The end of `connected`: where a client that returns stood before anything is replayed.
    start: Option<Bytes>,
    record: Recording,
    /// Of all outboxes' sum, what was counted for this one.
    pub(crate) counted_bytes: usize,
    /// Counts the bytes that the client has taken, wrapping.
    pub(crate) taken: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The personal room is not attached yet.
    Arriving { is_returning: bool },
    /// So many joins have no answer yet.
    Returning { waiting: usize, has_failed: bool },
    /// All is known that CONNECT depends on.
    Settled,
    /// CONNECT was answered.
    Open,
}

#[derive(Debug, Default)]
struct Recording {
    revision: Option<Revision>,
    is_under_way: bool,
    is_due: bool,
    /// It can't be kept; the client is served all the same.
    is_given_up: bool,
}

/// A room that it is in, or wants to be in.
#[derive(Debug, Clone)]
struct Place {
    number: u32,
    kind_bytes: usize,
    echo: bool,
    presence: bool,
    /// What it was last sent, or what waits for it.
    offset: Offset,
    epoch: u32,
    /// Where it stood when it joined or returned: that is what the record says, since nobody knows how much of what was sent
    /// since has reached it but the client itself. `None` until it was a member.
    kept: Option<(Offset, u32)>,
    /// What joins asked for that have no answer yet; answers come in their order.
    asked: VecDeque<Asked>,
    is_member: bool,
}

#[derive(Debug, Clone)]
struct Asked {
    options: JoinOptions,
    reference: Option<Box<str>>,
}

impl Place {
    fn new(number: u32, kind_bytes: usize) -> Self {
        let (echo, presence, is_member) = (false, false, false);
        Self { number, kind_bytes, echo, presence, offset: 0, epoch: NO_EPOCH, kept: None, asked: VecDeque::new(), is_member }
    }

    fn stands_at(&mut self, offset: Offset, epoch: u32) {
        (self.offset, self.epoch, self.kept) = (offset, epoch, Some((offset, epoch)));
        self.is_member = true;
    }

    /// It is told unasked that it joined: the room has another life, or retention was faster. Whoever returns from before that was told
    /// finds it out again, so what the record says stays.
    fn on_fallen_behind(&mut self, head: Offset, epoch: u32) {
        if self.kept.is_none() {
            self.stands_at(head, epoch);
        }
        (self.offset, self.epoch) = (head, epoch);
    }

    /// A join was answered; `number` is for what the client has been sent since. Where it stood before, other events have told it,
    /// and they may be all that it knows when it returns: so what it has not read yet stays in what the record says.
    fn on_joined(&mut self, options: &JoinOptions, number: u32, head: Offset, epoch: u32, recovered: bool) {
        (self.echo, self.presence) = (options.echo, options.presence);
        let was_member = std::mem::replace(&mut self.is_member, true);
        let newest = head.saturating_sub(options.last.unwrap_or(0).into());
        match (self.kept, options.since.filter(|_| recovered)) {
            // It goes on from where it stands, or behind a leave from here: events of the time before lead to no more than is stored.
            (Some(_), None) if options.since.is_none() && options.last.is_none() => {
                if !was_member {
                    (self.offset, self.epoch) = (head, epoch);
                }
            }
            // It is promised what it may have read before. Nothing that was said before this answer names that.
            (Some(kept), None) => {
                let from = if was_member && options.since.is_none() { newest.min(self.offset) } else { newest };
                (self.number, self.offset, self.epoch) = (number, from, epoch);
                self.kept = Some(if kept.1 == epoch { (kept.0.min(from), epoch) } else { kept });
            }
            (Some(_), Some(since)) => {
                self.number = number;
                self.stands_at(since, epoch);
            }
            (None, since) => self.stands_at(since.unwrap_or(newest), epoch),
        }
    }
}

/// What a seat wants done, next time that somebody looks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Todo {
    Nothing,
    /// Join its rooms again.
    Return,
    /// It can't return: it begins anew.
    BeginAnew,
    /// Write its record.
    Record,
}

/// What a frame leads to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Then {
    Nothing,
    /// [`Seat::poll`] may have something to do.
    Look,
    /// Nobody can tell now whether it can return: it has to come again.
    ComeAgain,
}

/// Rooms that a client has asked for and is not in; what is more is forgotten, and came to nothing most likely.
const MAX_PLACES: usize = 100_000;

impl Seat {
    /// A client that comes for the first time.
    pub(crate) fn new(socket: Socket) -> Self {
        Self {
            socket,
            pid: uuid::Uuid::new_v4().simple().to_string(),
            stage: Stage::Arriving { is_returning: false },
            places: HashMap::new(),
            next_number: 0,
            held: Vec::new(),
            held_bytes: 0,
            start: None,
            record: Recording::default(),
            counted_bytes: 0,
            taken: 0,
        }
    }

    /// A client that was here before, with its record and the string that it was last sent.
    pub(crate) fn returning(socket: Socket, pid: String, record: Record, revision: Revision, trail: &str) -> Self {
        let mut seat = Self::new(socket);
        seat.pid = pid;
        seat.stage = Stage::Arriving { is_returning: true };
        seat.record.revision = Some(revision);
        seat.next_number = record.next_number;
        let positions = position::read(trail).unwrap_or_default();
        for kept in record.places {
            let Ok(room) = RoomName::parse(&kept.room) else { continue };
            let mut place = Place::new(kept.number, (kept.kind_bytes as usize).min(room.as_str().len().saturating_sub(1)));
            (place.echo, place.presence) = (kept.echo, kept.presence);
            match positions.iter().find(|seen| seen.number == kept.number) {
                Some(seen) if seen.epoch != kept.epoch || seen.offset > kept.offset => place.stands_at(seen.offset, seen.epoch),
                _ => place.stands_at(kept.offset, kept.epoch),
            }
            seat.places.insert(room, place);
        }
        seat
    }

    /// Whether it is let in.
    pub(crate) fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// Bytes that wait for the client.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.held_bytes + self.socket.waiting_bytes()
    }

    /// The personal room is attached.
    pub(crate) fn on_welcome(&mut self, personal: &RoomName, head: Offset, epoch: &Epoch) {
        let Stage::Arriving { is_returning } = self.stage else { return };
        if is_returning {
            self.stage = Stage::Returning { waiting: usize::MAX, has_failed: false };
            return;
        }
        let (number, epoch) = (self.new_number(), fnv1a32(epoch.as_str().as_bytes()));
        let mut place = Place::new(number, 0);
        place.stands_at(head, epoch);
        self.places.insert(personal.clone(), place);
        self.stage = Stage::Settled;
        self.record.is_due = true;
    }

    /// The joins of a client that returns, and that they are under way.
    pub(crate) fn begin_return(&mut self) -> Vec<(RoomName, JoinOptions)> {
        self.stage = Stage::Returning { waiting: self.places.len(), has_failed: self.places.is_empty() };
        self.start = Some(self.tail());
        let claims = self.places.iter().map(|(room, place)| {
            let options = JoinOptions {
                since: Some(place.offset),
                epoch: (place.epoch != NO_EPOCH).then_some(EpochClaim::Hashed(place.epoch)),
                last: None,
                presence: place.presence,
                echo: place.echo,
            };
            (room.clone(), options)
        });
        claims.collect()
    }

    /// A join of a client that returns can't be made, or was refused.
    pub(crate) fn on_return_failed(&mut self) {
        if let Stage::Returning { has_failed, .. } = &mut self.stage {
            *has_failed = true;
        }
    }

    /// What is to be done now.
    pub(crate) fn poll(&mut self) -> Todo {
        match self.stage {
            Stage::Returning { has_failed: true, .. } => return Todo::BeginAnew,
            Stage::Returning { waiting: usize::MAX, .. } => return Todo::Return,
            Stage::Returning { waiting: 0, .. } => {
                self.stage = Stage::Settled;
                self.record.is_due = true;
            }
            Stage::Arriving { .. } | Stage::Returning { .. } => return Todo::Nothing,
            Stage::Settled | Stage::Open => {}
        }
        if self.record.is_due && !self.record.is_under_way && !self.record.is_given_up {
            return Todo::Record;
        }
        self.release();
        Todo::Nothing
    }

    /// The record as it is to be written, and that this is under way.
    pub(crate) fn begin_record(&mut self, user: &str, client: &str) -> (Record, Option<Revision>) {
        self.record.is_due = false;
        self.record.is_under_way = true;
        let members = self.places.iter().filter(|(_, place)| place.is_member);
        let places = members.filter_map(|(room, place)| {
            let (offset, epoch) = place.kept?;
            let (kind_bytes, room) = (place.kind_bytes as u32, room.as_str().to_owned());
            let (echo, presence, number) = (place.echo, place.presence, place.number);
            Some(socketio::Place { room, kind_bytes, echo, presence, offset, epoch, number })
        });
        let record = Record {
            version: socketio::VERSION,
            user: user.to_owned(),
            client: client.to_owned(),
            places: places.collect(),
            next_number: self.next_number,
        };
        (record, self.record.revision)
    }

    /// The record is written; `None`: it can't be kept.
    pub(crate) fn on_recorded(&mut self, revision: Option<Revision>) {
        self.record.is_under_way = false;
        match revision {
            Some(revision) => self.record.revision = Some(revision),
            None => self.record.is_given_up = true,
        }
    }

    /// Of its record, as far as it is known.
    pub(crate) fn revision(&self) -> Option<Revision> {
        self.record.revision
    }

    /// The record is to be written anew, so that it lasts.
    pub(crate) fn want_record(&mut self) {
        self.record.is_due = true;
    }

    /// Sends what waited, if nothing holds it back any more.
    fn release(&mut self) {
        if self.holds() {
            return;
        }
        self.held_bytes = 0;
        for (body, tail) in std::mem::take(&mut self.held) {
            self.socket.send(body, tail);
        }
    }

    /// Whether CONNECT may be answered.
    pub(crate) fn may_announce(&self) -> bool {
        let is_written = !self.record.is_under_way && (!self.record.is_due || self.record.is_given_up);
        matches!(self.stage, Stage::Settled) && is_written
    }

    /// Lets it in: the answer to its CONNECT, and the first event.
    pub(crate) fn announce(&mut self, user: &str, client: &str) {
        let sid = uuid::Uuid::new_v4().simple().to_string();
        self.socket.send(packet::connect("/", &sid, Some(&self.pid)).into(), Bytes::new());
        let start = self.start.take().unwrap_or_else(|| self.tail());
        let text = |text: &str| serde_json::to_string(text).expect("text is JSON");
        let connected = format!(r#"42["connected",{{"userId":{},"clientId":{}}}"#, text(user), text(client));
        self.socket.send(connected.into(), start);
        self.stage = Stage::Open;
        self.release();
    }

    fn holds(&self) -> bool {
        self.stage != Stage::Open || self.record.is_under_way || (self.record.is_due && !self.record.is_given_up)
    }

    fn push(&mut self, body: Bytes, tail: Bytes) {
        if self.holds() {
            self.held_bytes += body.len() + tail.len();
            self.held.push((body, tail));
        } else {
            self.socket.send(body, tail);
        }
    }

    fn push_text(&mut self, text: String) {
        self.push(text.into(), Bytes::new());
    }

    fn new_number(&mut self) -> u32 {
        self.next_number += 1;
        self.next_number - 1
    }

    /// The end of a replayable event: where the client stands once it has it.
    pub(crate) fn tail(&self) -> Bytes {
        let members = self.places.values().filter(|place| place.is_member);
        let positions = members.map(|place| Position { number: place.number, offset: place.offset, epoch: place.epoch });
        format!(r#","{}"]"#, position::write(positions)).into()
    }

    fn kind_bytes(&self, room: &str) -> usize {
        self.places.get(room).map_or(0, |place| place.kind_bytes)
    }

    /// The client has been sent everything up to here.
    fn move_to(&mut self, room: &str, offset: Offset, epoch: Option<&str>) {
        let Some(place) = self.places.get_mut(room) else { return };
        place.offset = offset;
        if let Some(epoch) = epoch {
            place.epoch = fnv1a32(epoch.as_bytes());
        }
    }

    /// A message for it.
    pub(crate) fn on_message(&mut self, message: &Outgoing<'_>, shared: &mut Encodings) {
        let body = match self.kind_bytes(message.room) {
            0 => shared.event(message),
            kind_bytes => shared.event_of_kind(message, kind_bytes),
        };
        if message.offset == 0 {
            return self.push(body, Bytes::from_static(b"]"));
        }
        self.move_to(message.room, message.offset, Some(message.epoch).filter(|epoch| !epoch.is_empty()));
        let tail = self.tail();
        self.push(body, tail);
    }

    /// It asked to join: what for, so that the answer tells where it stands.
    pub(crate) fn on_join(&mut self, room: &RoomName, options: &JoinOptions, kind_bytes: usize, reference: Option<&str>) {
        if !self.places.contains_key(room) {
            if self.places.len() >= MAX_PLACES {
                self.places.retain(|_, place| place.is_member);
            }
            let number = self.new_number();
            self.places.insert(room.clone(), Place::new(number, kind_bytes));
        }
        let place = self.places.get_mut(room).expect("it is there");
        place.kind_bytes = kind_bytes;
        place.asked.push_back(Asked { options: options.clone(), reference: reference.map(Box::from) });
    }

    /// Any other frame for it.
    pub(crate) fn on_frame(&mut self, frame: &ServerFrame<'_>) -> Then {
        match *frame {
            ServerFrame::Joined { reference: Some(RETURN), recovered, room, epoch, .. } => {
                if let Stage::Returning { waiting, has_failed } = &mut self.stage {
                    *waiting -= 1;
                    *has_failed |= !recovered;
                }
                if let Some(place) = self.places.get_mut(room) {
                    place.epoch = fnv1a32(epoch.as_str().as_bytes());
                }
                return Then::Look;
            }
            ServerFrame::Error { reference: Some(RETURN), code: ErrorCode::Unavailable | ErrorCode::Internal, .. } => {
                return Then::ComeAgain;
            }
            ServerFrame::Error { reference: Some(RETURN), .. } => {
                self.on_return_failed();
                return Then::Look;
            }
            ServerFrame::Error { reference, code: ErrorCode::TooManyRooms, room: Some(room), .. } => {
                // Told at once: it is the newest.
                if let Some(place) = self.places.get_mut(room) {
                    place.asked.pop_back();
                    if !place.is_member && place.asked.is_empty() {
                        self.places.remove(room);
                    }
                }
                self.answer(reference, "error", frame);
            }
            ServerFrame::Error { reference: Some(reference), room: Some(room), .. } => {
                self.on_refused(room, reference);
                self.answer(Some(reference), "error", frame);
            }
            ServerFrame::Joined { room, reference, offset, epoch, recovered, .. } => {
                self.on_joined(room, offset, epoch, recovered);
                self.answer(reference, "joined", frame);
                return Then::Look;
            }
            ServerFrame::Left { room, reference } => {
                // A join that waits behind the leave keeps its place.
                if let Some(place) = self.places.get_mut(room) {
                    place.is_member = false;
                    if place.asked.is_empty() {
                        self.places.remove(room);
                    }
                }
                self.record.is_due = true;
                self.answer(reference, "left", frame);
                return Then::Look;
            }
            ServerFrame::Own { room, offset, epoch, .. } => {
                self.move_to(room, offset, Some(epoch).filter(|epoch| !epoch.is_empty()));
                let (body, tail) = (events::native(frame, "own"), self.tail());
                self.push(body, tail);
            }
            ServerFrame::UserJoined { room, user, info, .. } => self.on_user(room, "userJoined", user, info, frame),
            ServerFrame::UserLeft { room, user, info, .. } => self.on_user(room, "userLeft", user, info, frame),
            ServerFrame::Error { reference, .. } => self.answer(reference, "error", frame),
            ServerFrame::Ack { reference, .. } => self.answer(Some(reference), "ack", frame),
            ServerFrame::History { reference, .. } => self.answer(reference, "history", frame),
            ServerFrame::Presence { reference, .. } => self.answer(reference, "presence", frame),
            ServerFrame::Refreshed { reference, .. } => self.answer(reference, "refreshed", frame),
            ServerFrame::Pong { reference } => self.answer(reference, "pong", frame),
            ServerFrame::Message(_)
            | ServerFrame::Connected { .. }
            | ServerFrame::Draining { .. }
            | ServerFrame::Erased { .. } => {}
        }
        Then::Nothing
    }

    fn on_joined(&mut self, room: &RoomName, head: Offset, epoch: &Epoch, recovered: bool) {
        let number = self.new_number();
        let Some(place) = self.places.get_mut(room) else { return };
        let epoch = fnv1a32(epoch.as_str().as_bytes());
        match place.asked.pop_front() {
            Some(asked) => {
                place.on_joined(&asked.options, number, head, epoch, recovered);
                self.record.is_due = true;
            }
            None => place.on_fallen_behind(head, epoch),
        }
    }

    /// A join that is known by its reference comes to nothing; whatever else is refused has another one.
    fn on_refused(&mut self, room: &RoomName, reference: &str) {
        if let Some(place) = self.places.get_mut(room)
            && let Some(index) = place.asked.iter().position(|asked| asked.reference.as_deref() == Some(reference))
        {
            place.asked.remove(index);
        }
    }

    fn on_user(&mut self, room: &RoomName, verb: &str, user: &str, info: &str, frame: &ServerFrame<'_>) {
        match self.kind_bytes(room.as_str()) {
            0 => self.push(events::native(frame, verb), Bytes::from_static(b"]")),
            kind_bytes => self.push_text(events::user_of_kind(&room.as_str()[..kind_bytes], verb, user, info)),
        }
    }

    /// An acknowledgment, if one was asked for, else an event with the native frame.
    fn answer(&mut self, reference: Option<&str>, name: &str, frame: &ServerFrame<'_>) {
        match reference {
            Some(id) => self.push_text(events::answer(id, frame)),
            None => self.push(events::native(frame, name), Bytes::from_static(b"]")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: u32 = 7;

    /// A member that joined at 10 and has been sent everything up to 20, which it may not have read.
    fn member() -> Place {
        let mut place = Place::new(1, 0);
        place.on_joined(&JoinOptions::default(), 2, 10, LIFE, true);
        place.offset = 20;
        place
    }

    fn options(since: Option<Offset>, last: Option<u32>) -> JoinOptions {
        JoinOptions { since, last, ..JoinOptions::default() }
    }

    /// Its number, what is sent is behind this, and what the record says.
    fn stands(place: &Place) -> (u32, Offset, Option<Offset>) {
        (place.number, place.offset, place.kept.map(|(offset, _)| offset))
    }

    #[test]
    fn first_join_stands_where_it_asked() {
        for (since, last, recovered, offset) in
            [(None, None, true, 30), (None, Some(5), true, 25), (Some(3), None, true, 3), (Some(3), Some(5), false, 25)]
        {
            let mut place = Place::new(1, 0);
            place.on_joined(&options(since, last), 2, 30, LIFE, recovered);
            assert_eq!(stands(&place), (1, offset, Some(offset)), "{since:?} {last:?}");
        }
    }

    #[test]
    fn joining_again_goes_on() {
        // It still catches up: the head is further than what it was sent.
        let mut place = member();
        place.on_joined(&options(None, None), 2, 60, LIFE, true);
        assert_eq!(stands(&place), (1, 20, Some(10)));
        // Behind a leave, it is sent nothing of what was said meanwhile; but it may not have read what it was sent before.
        place.is_member = false;
        place.on_joined(&options(None, None), 3, 60, LIFE, true);
        assert_eq!(stands(&place), (1, 60, Some(10)));
    }

    #[test]
    fn what_a_later_join_promises_is_not_skipped() {
        // A trail of before names number 1, and is no reason to skip anything.
        let mut place = member();
        place.on_joined(&options(Some(3), None), 2, 60, LIFE, true);
        assert_eq!(stands(&place), (2, 3, Some(3)));
        let mut place = member();
        place.on_joined(&options(None, Some(55)), 2, 60, LIFE, true);
        assert_eq!(stands(&place), (2, 5, Some(5)));
        // Nor what was sent before it, and was not read.
        let mut place = member();
        place.on_joined(&options(None, Some(2)), 2, 60, LIFE, true);
        assert_eq!(stands(&place), (2, 20, Some(10)));
        let mut place = member();
        place.on_joined(&options(Some(99), None), 2, 60, LIFE + 1, false);
        assert_eq!((stands(&place), place.kept), ((2, 60, Some(10)), Some((10, LIFE))), "what it claims is refused again");
    }

    #[test]
    fn who_fell_behind_finds_it_out_again() {
        let mut place = member();
        place.on_fallen_behind(80, LIFE + 1);
        assert_eq!((stands(&place), place.kept), ((1, 80, Some(10)), Some((10, LIFE))));
    }
}
