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
    /// The cursor that came with the request is none of this stream's.
    is_lost: bool,
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
        for room in rooms {
            let mark = RoomMark::of(&room);
            let earlier = places.iter().filter(|place| place.mark == mark).count();
            let position = cursor.as_ref().and_then(|cursor| cursor.as_ref().ok()?.find(mark, earlier));
            places.push(Place { room, mark, position, is_joined: false });
        }
        // One that names no room of the request belongs elsewhere; one that does not name all is older than the request.
        let is_lost = cursor.is_some() && places.iter().all(|place| place.position.is_none());
        let (here, gone) = oneshot::channel();
        let rest = Rest::default();
        let listener = Listener { rest: rest.clone(), here };
        let (has_moved, is_told, waits_since_ms) = (false, false, 0);
        (Self { is_personal, places, has_moved, is_told, is_lost, waits_since_ms, rest, gone, abort }, listener)
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
            ServerFrame::Own { room, offset, .. } => {
                if let Some(position) = self.place(room).and_then(|place| place.position.as_mut()) {
                    position.advance(offset, None);
                    self.has_moved = true;
                }
                Told::Blocks(Vec::new())
            }
            ServerFrame::Left { .. } | ServerFrame::Error { .. } => Told::End,
            _ => Told::Blocks(Vec::new()),
        }
    }

    fn on_joined(&mut self, room: &RoomName, head: u64, epoch: &str, reason: Option<&str>) -> Vec<u8> {
        let is_lost = self.is_lost;
        let Some(place) = self.place(room.as_str()) else { return Vec::new() };
        let is_first = !std::mem::replace(&mut place.is_joined, true);
        let reason = reason.or((is_lost && is_first).then_some("cursor"));
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

    /// Where the client stands once it has been sent what was said so far.
    fn cursor(&self) -> String {
        cursor::encode(self.places.iter().filter_map(|place| Some((place.mark, place.position?))))
    }
}
