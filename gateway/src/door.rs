//! The ways in for clients. A connection is the same whatever its door: a session, an outbox, memberships. What a door
//! adds is how a message is encoded for it, where its bytes go, and how it is told that it ends.
//!
//! | door | encoding, made once per message | bytes leave by | it is closed by |
//! |---|---|---|---|
//! | native | a WebSocket text frame | a write to its socket | a close frame |
//! | events | a block of Server-Sent Events; before it a line of the client's own | a body that asks for the next one | `retry:` and the end |
//! | Socket.IO | an event, without where its client stands | its Engine.IO transport | DISCONNECT, or the transport's end |
//! | request | none: it is in no room | its one answer | a problem |
//!
//! A further door is a variant of [`Door`], a slot in [`Encodings`], and an arm wherever the compiler asks for one: in `hub`
//! (what it is sent) and in `shard` (when it is pinged, told to leave, and let go).

use bytes::Bytes;
use carillon_core::outbox::{Piece, Run};
use carillon_proto::{
    frame::{Outgoing, ServerFrame},
    sse,
};

use crate::{
    events::stream::EventStream,
    http::Request,
    socketio::{events, seat::Seat},
    websocket::{codec::append_text_frame, socket::NativeSocket},
};

/// What is a connection's own because of the door that it came in by. The native one is inline, since it is the one of
/// which there are many; others are boxed, so that they cost it nothing.
pub(crate) enum Door {
    /// `websocket`: the native wire.
    Native(NativeSocket),
    /// `events`: a browser that listens.
    Events(Box<EventStream>),
    /// `http`: one request, which is answered once.
    Request(Box<Request>),
    /// `socketio`: a client with events.
    SocketIo(Box<Seat>),
}

/// What the doors are called in figures, in the order of [`Door::index`].
pub(crate) const DOORS: [&str; 4] = ["websocket", "events", "http", "socketio"];

impl Door {
    /// Its place among [`DOORS`].
    pub(crate) fn index(&self) -> usize {
        match self {
            Self::Native(_) => 0,
            Self::Events(_) => 1,
            Self::Request(_) => 2,
            Self::SocketIo(_) => 3,
        }
    }
}

/// A message in every door's encoding, each made when the first member needs it, and shared by all of them.
#[derive(Default)]
pub(crate) struct Encodings {
    native: Option<Piece>,
    /// The native frames of this room's messages, one behind the other.
    run: Run,
    events: Option<Bytes>,
    personal_events: Option<Bytes>,
    event: Option<Bytes>,
    /// By the length of the kind: members of one room nearly always agree on it.
    event_of_kind: Option<(usize, Bytes)>,
}

impl Encodings {
    /// Another message follows: the run goes on with it, until it is long enough.
    pub(crate) fn next_message(&mut self) {
        let run = std::mem::take(&mut self.run);
        *self = Self { run: if run.bytes() < Run::ENOUGH_BYTES { run } else { Run::default() }, ..Self::default() };
    }

    /// The native frame.
    pub(crate) fn native(&mut self, message: &Outgoing<'_>) -> Piece {
        let append = || self.run.append(|out| append_text_frame(out, |out| ServerFrame::Message(*message).write(out)));
        self.native.get_or_insert_with(append).clone()
    }

    /// The block of Server-Sent Events, without the line that is each client's own.
    pub(crate) fn events(&mut self, message: &Outgoing<'_>) -> Bytes {
        self.events.get_or_insert_with(|| sse::message(message).into()).clone()
    }

    /// The same, for the stream of the user whose room it is.
    pub(crate) fn personal_events(&mut self, message: &Outgoing<'_>) -> Bytes {
        self.personal_events.get_or_insert_with(|| sse::personal_message(message).into()).clone()
    }

    /// The Socket.IO event `message`, without its end, which is each client's own.
    pub(crate) fn event(&mut self, message: &Outgoing<'_>) -> Bytes {
        self.event.get_or_insert_with(|| events::message(message)).clone()
    }

    /// The Socket.IO event `<kind>:message`, without its end.
    pub(crate) fn event_of_kind(&mut self, message: &Outgoing<'_>, kind_bytes: usize) -> Bytes {
        match &self.event_of_kind {
            Some((known, body)) if *known == kind_bytes => body.clone(),
            _ => {
                let body = events::message_of_kind(message, kind_bytes);
                self.event_of_kind = Some((kind_bytes, body.clone()));
                body
            }
        }
    }
}
