//! What a stream of events knows of itself: which rooms it shows, where it stands in each, and how what the rooms tell it is
//! said in blocks. Knows no socket: the blocks wait in the outbox until the body is asked for more.

use std::{cell::RefCell, rc::Rc};

use bytes::Bytes;
use carillon_core::outbox::Outbox;
use carillon_proto::{
    cursor::{self, Cursor, Position, RoomMark, Unreadable},
    frame::{JoinOptions, Outgoing, ServerFrame},
    ids::{RoomName, UserId},
    sse,
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// What a connection of this door is, beside being a connection.
pub(crate) struct EventStream {
    /// The user's own stream: typed events, and `connected` before them.
    pub(crate) is_personal: bool,
    /// In the order of their names.
    places: Vec<Place>,
    /// The client stands elsewhere than the last `id` says.
    has_moved: bool,
    /// All rooms have been joined once, and the client has been told where it stands.
    is_told: bool,
    /// Milliseconds of the shard's clock, wrapping: since when what waits has waited, without anything of it being taken.
    pub(crate) waits_since_ms: u32,
    /// Where the body finds what is left when the connection is over.
    pub(crate) rest: Rest,
    /// Resolves when the body is gone: all of it has been taken, or the client has.
    pub(crate) gone: oneshot::Receiver<()>,
    /// Cuts the socket off, if it carries nothing else.
    pub(crate) abort: Option<CancellationToken>,
}

struct Place {
    room: RoomName,
    mark: RoomMark,
    /// Not known before the room is joined, unless the client said it.
    position: Option<Position>,
    /// The cursor that came with the request is none of this stream's, or was written before this room was joined.
    is_lost: bool,
    is_joined: bool,
}

/// What a connection leaves for its body.
pub(crate) type Rest = Rc<RefCell<Outbox>>;

/// The body's end of a stream.
pub(crate) struct Listener {
    pub(crate) rest: Rest,
    /// Dropped with the body.
    pub(crate) here: oneshot::Sender<()>,
}

/// What a frame leads to.
pub(crate) enum Told {
    /// These blocks.
    Blocks(Vec<u8>),
    /// The stream ends: a room is not to be had, or not any more, and the client should ask for all of them anew.
    End,
}

impl EventStream {
    /// A stream of these rooms, or of the user's personal one.
    pub(crate) fn new(
        user: &UserId,
        rooms: Option<Vec<RoomName>>,
        cursor: Option<Result<Cursor, Unreadable>>,
        abort: Option<CancellationToken>,
    ) -> (Self, Listener) {
        let is_personal = rooms.is_none();
        let rooms = rooms.unwrap_or_else(|| vec![RoomName::personal(user)]);
        let mut places: Vec<Place> = Vec::with_capacity(rooms.len());
        let marks: Vec<RoomMark> = rooms.iter().map(RoomMark::of).collect();
        for (room, mark) in rooms.into_iter().zip(&marks) {
            let same = marks.iter().filter(|other| *other == mark).count();
            let earlier = places.iter().filter(|place| place.mark == *mark).count();
            let read = cursor.as_ref().and_then(|cursor| cursor.as_ref().ok());
            let is_ambiguous = read.is_some_and(|cursor| cursor.is_ambiguous(*mark, same));
            let named = read.and_then(|cursor| cursor.find(*mark, earlier));
            let position = named.filter(|position| *position != Position::UNKNOWN && !is_ambiguous);
            places.push(Place { room, mark: *mark, position, is_lost: is_ambiguous || named != position, is_joined: false });
        }
        // One that names no room of the request belongs elsewhere; one that does not name all is older than the request.
        if cursor.is_some() && places.iter().all(|place| place.position.is_none()) {
            places.iter_mut().for_each(|place| place.is_lost = true);
        }
        let (here, gone) = oneshot::channel();
        let rest = Rest::default();
        let listener = Listener { rest: rest.clone(), here };
        let (has_moved, is_told, waits_since_ms) = (false, false, 0);
        (Self { is_personal, places, has_moved, is_told, waits_since_ms, rest, gone, abort }, listener)
    }

    /// The joins that make the stream.
    pub(crate) fn joins(&self) -> Vec<(RoomName, JoinOptions)> {
        let options = |place: &Place| place.position.map_or_else(JoinOptions::default, Position::resume);
        self.places.iter().map(|place| (place.room.clone(), options(place))).collect()
    }

    /// A message of a room. The line that goes before it, empty for one that is not stored; `None` if the stream does not show
    /// it: of the personal room, where that was not asked for.
    pub(crate) fn on_message(&mut self, message: &Outgoing<'_>) -> Option<Bytes> {
        let place = self.places.iter_mut().find(|place| place.room.as_str() == message.room && place.is_joined)?;
        if message.offset == 0 {
            return Some(Bytes::new());
        }
        place.position.as_mut()?.advance(message.offset, Some(message.epoch));
        self.has_moved = false;
        Some(sse::id_line(&self.cursor()).into())
    }

    /// Anything else that the rooms say.
    pub(crate) fn on_frame(&mut self, frame: &ServerFrame<'_>) -> Told {
        match *frame {
            ServerFrame::Joined { room, offset, epoch, reason, .. } => {
                Told::Blocks(self.on_joined(room, offset, epoch.as_str(), reason))
            }
            ServerFrame::Own { room, offset, epoch, .. } => {
                if let Some(position) = self.place(room).and_then(|place| place.position.as_mut()) {
                    position.advance(offset, Some(epoch));
                    self.has_moved = true;
                }
                Told::Blocks(Vec::new())
            }
            ServerFrame::Left { .. } | ServerFrame::Error { .. } => Told::End,
            _ => Told::Blocks(Vec::new()),
        }
    }

    fn on_joined(&mut self, room: &RoomName, head: u64, epoch: &str, reason: Option<&str>) -> Vec<u8> {
        let Some(place) = self.place(room.as_str()) else { return Vec::new() };
        place.is_joined = true;
        let reason = reason.or(std::mem::take(&mut place.is_lost).then_some("cursor"));
        // What was claimed and holds is where the client stands; what it missed follows.
        if reason.is_some() || place.position.is_none() {
            place.position = Some(Position::new(head, epoch));
        }
        let mut blocks = Vec::new();
        if let Some(reason) = reason {
            blocks.extend(sse::id_line(&self.cursor()));
            blocks.extend(sse::gap(room, reason));
            self.has_moved = false;
        }
        if !self.is_told && self.places.iter().all(|place| place.is_joined) {
            self.is_told = true;
            self.has_moved = false;
            blocks.extend(sse::moved(&self.cursor()));
        }
        blocks
    }

    /// The sign of life that is due.
    pub(crate) fn heartbeat(&mut self) -> Vec<u8> {
        let cursor = std::mem::take(&mut self.has_moved).then(|| self.cursor());
        sse::heartbeat(cursor.as_deref())
    }

    fn place(&mut self, room: &str) -> Option<&mut Place> {
        self.places.iter_mut().find(|place| place.room.as_str() == room)
    }

    /// Where the client stands once it has been sent what was said so far. All rooms are named, also those that have not been
    /// joined yet: one that was left out would look as if it were new in the request.
    fn cursor(&self) -> String {
        cursor::encode(self.places.iter().map(|place| (place.mark, place.position.unwrap_or(Position::UNKNOWN))))
    }
}

#[cfg(test)]
mod tests {
    use carillon_proto::ids::{Epoch, MessageId};

    use super::*;

    fn room(name: &str) -> RoomName {
        RoomName::parse(name).unwrap()
    }

    fn open(last_id: Option<&str>) -> EventStream {
        let cursor = last_id.map(|id| Cursor::parse(id, Cursor::MAX_ID_BYTES));
        EventStream::new(&UserId::parse("ada").unwrap(), Some(vec![room("a"), room("b")]), cursor, None).0
    }

    /// The blocks of a room that is joined with its head at 5.
    fn join(stream: &mut EventStream, name: &str) -> String {
        let (room, epoch) = (room(name), Epoch::new("i", 1));
        let (reference, recovered, reason, members) = (None, true, None, None);
        let joined = ServerFrame::Joined { room: &room, reference, offset: 5, epoch: &epoch, recovered, reason, members };
        match stream.on_frame(&joined) {
            Told::Blocks(blocks) => String::from_utf8(blocks).unwrap(),
            Told::End => panic!("it goes on"),
        }
    }

    fn id(text: &str) -> &str {
        text.lines().find_map(|line| line.strip_prefix("id: ")).unwrap_or_else(|| panic!("no id: {text}"))
    }

    fn since(stream: &EventStream) -> Vec<Option<u64>> {
        stream.joins().into_iter().map(|(_, options)| options.since).collect()
    }

    #[test]
    fn every_id_names_every_room() {
        // With a bad cursor, and with none: dropped behind the first room, nothing of the second one may be missed in silence.
        for last_id in [Some("nonsense"), None] {
            let mut stream = open(last_id);
            let joined = join(&mut stream, "a");
            assert_eq!(joined.contains("event: gap"), last_id.is_some(), "{joined}");
            let message = Outgoing {
                room: "a",
                payload: b"1",
                sender: "bob",
                offset: 6,
                id: MessageId([0; 16]),
                ts: 1,
                epoch: "i.1",
                key: "",
            };
            let line = stream.on_message(&message).unwrap();
            let seen = if last_id.is_some() { vec![(id(&joined), 5)] } else { Vec::new() };
            for (id, offset) in seen.into_iter().chain([(id(std::str::from_utf8(&line).unwrap()), 6)]) {
                let mut again = open(Some(id));
                assert_eq!(since(&again), [Some(offset), None]);
                assert_eq!(join(&mut again, "a"), "", "told once");
                let gap = join(&mut again, "b");
                assert!(gap.contains("event: gap\ndata: {\"room\":\"b\",\"reason\":\"cursor\"}\n"), "{gap}");
                assert_eq!(since(&open(Some(self::id(&gap)))), [Some(offset), Some(5)]);
            }
        }
    }

    /// One in sixteen million pairs of names has one mark.
    #[test]
    fn rooms_that_are_not_told_apart_are_gaps() {
        let mut names = std::collections::HashMap::new();
        let (a, b) = (0..)
            .find_map(|number: u32| {
                let name = room(&number.to_string());
                names.insert(RoomMark::of(&name), name.clone()).map(|other| (other.clone().min(name.clone()), other.max(name)))
            })
            .unwrap();
        let mark = RoomMark::of(&a);
        let stream = |rooms: &[&RoomName], positions: &[u64]| {
            let id = cursor::encode(positions.iter().map(|offset| (mark, Position::new(*offset, "i.1"))));
            let rooms = rooms.iter().map(|room| (*room).clone()).collect();
            EventStream::new(&UserId::parse("ada").unwrap(), Some(rooms), Some(Cursor::parse(&id, 1024)), None).0
        };
        assert_eq!(since(&stream(&[&a, &b], &[3, 4])), [Some(3), Some(4)]);
        assert_eq!(since(&stream(&[&b], &[3])), [Some(3)]);
        for (rooms, positions) in [(&[&a, &b][..], &[3][..]), (&[&a], &[3, 4])] {
            let mut stream = stream(rooms, positions);
            for room in rooms {
                let gap = join(&mut stream, room.as_str());
                assert!(gap.contains(r#""reason":"cursor""#), "{rooms:?} {positions:?}: {gap}");
            }
        }
    }

    #[test]
    fn rooms_that_are_new_in_the_request_begin_live() {
        let of_a = cursor::encode(std::iter::once((RoomMark::of(&room("a")), Position::new(3, "i.1"))));
        let mut stream = open(Some(&of_a));
        assert_eq!(join(&mut stream, "b"), "");
        let started = join(&mut stream, "a");
        assert!(!started.contains("gap"), "{started}");
        assert_eq!(since(&open(Some(id(&started)))), [Some(3), Some(5)]);
    }
}
