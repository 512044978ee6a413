//! The connections of a shard, as its rooms see them: frames are encoded here, once for everyone, and put into outboxes.

use std::collections::HashMap;

use bytes::Bytes;
use carillon_core::{
    outbox::Piece,
    rooms::{Conn, Doors},
};
use carillon_platform::auth::TokenMark;
use carillon_proto::{
    codes::Close,
    frame::{Outgoing, ServerFrame},
    ids::{Epoch, Offset, RoomName},
    sse,
};

use crate::{
    config::Config,
    connection::{Connection, Written},
    counters::HubCounts,
    door::{Door, Encodings},
    events::{
        body::{Block, take_block},
        stream::Told,
    },
    socketio::seat::{Seat, Then},
    websocket::{codec::text_frame, socket::NativeSocket},
};

/// A client that takes nothing of what waits for so long, and has more waiting than may, is slow.
const STUCK_MS: u32 = 1000;
/// So many times the limit of an outbox may wait for a client that still takes some.
const BURST: usize = 4;

/// What waits for a Socket.IO client may be so many times its limit until the next tick.
const SEAT_BURST: usize = 4;

/// All connections of a shard, by place.
pub(crate) struct Hub {
    /// Boxed: an empty place costs a pointer, and a connection moves out whole when it closes.
    connections: Vec<Option<Box<Connection>>>,
    /// What the token of each is known by, should it be taken back; by place. Inside, it would cost each connection the next
    /// size of what the allocator gives out.
    marks: Vec<TokenMark>,
    /// When each came, Unix seconds; by place, for the same reason.
    since_s: Vec<u32>,
    /// First half of connection ids.
    shard_id: String,
    told: carillon_proto::frame::Limits,
    outbox_bytes: usize,
    /// Milliseconds of the shard's clock, wrapping, as of the last tick.
    now_ms: u32,
    /// What waits in all outboxes together, and what may.
    waiting_bytes: usize,
    total_bytes: usize,
    /// Streams of events that have begun, and are in no room but the personal one.
    welcomed: Vec<Conn>,
    /// Connections with something to write.
    dirty: Vec<Conn>,
    /// Those of them that are to be written to first.
    hurried: Vec<Conn>,
    /// Connections to be closed, and what to tell them.
    closing: Vec<(Conn, Close)>,
    /// Seats that had more than their limit waiting.
    over: Vec<Conn>,
    unsettled: Vec<Conn>,
    /// What was asked for and waits, of connections with such a thing: an answer may be larger than the limit of an outbox, and
    /// nobody is slow for having asked. A connection is given one at a time (`core::rooms`), so this bounds itself.
    answers: HashMap<Conn, usize>,
    counts: HubCounts,
}

impl Hub {
    pub(crate) fn new(shard_id: String, config: &Config) -> Self {
        Self {
            connections: Vec::new(),
            marks: Vec::new(),
            since_s: Vec::new(),
            shard_id,
            told: config.told,
            outbox_bytes: config.outbox_bytes,
            now_ms: 0,
            waiting_bytes: 0,
            total_bytes: config.outbox_total_bytes,
            dirty: Vec::new(),
            hurried: Vec::new(),
            welcomed: Vec::new(),
            closing: Vec::new(),
            over: Vec::new(),
            unsettled: Vec::new(),
            answers: HashMap::new(),
            counts: HubCounts::default(),
        }
    }

    pub(crate) fn insert(&mut self, conn: Conn, connection: Box<Connection>, mark: TokenMark, unix_ms: u64) {
        let index = conn.index as usize;
        if self.connections.len() <= index {
            self.connections.resize_with(index + 1, || None);
            self.marks.resize(index + 1, mark);
            self.since_s.resize(index + 1, 0);
        }
        self.since_s[index] = (unix_ms / 1000) as u32;
        self.marks[index] = mark;
        self.connections[index] = Some(connection);
    }

    pub(crate) fn get_mut(&mut self, conn: Conn) -> Option<&mut Connection> {
        self.connections.get_mut(conn.index as usize)?.as_deref_mut().filter(|connection| connection.life == conn.life)
    }

    pub(crate) fn get(&self, conn: Conn) -> Option<&Connection> {
        self.connections.get(conn.index as usize)?.as_deref().filter(|connection| connection.life == conn.life)
    }

    /// The socket of a native connection.
    pub(crate) fn native(&mut self, conn: Conn) -> Option<&mut NativeSocket> {
        match &mut self.get_mut(conn)?.door {
            Door::Native(socket) => Some(socket),
            Door::Events(_) | Door::Request(_) | Door::SocketIo(_) => None,
        }
    }

    /// The seat of a Socket.IO client.
    pub(crate) fn seat(&mut self, conn: Conn) -> Option<&mut Seat> {
        match &mut self.get_mut(conn)?.door {
            Door::SocketIo(seat) => Some(seat),
            Door::Native(_) | Door::Events(_) | Door::Request(_) => None,
        }
    }

    /// What the token of a connection is known by.
    pub(crate) fn mark(&self, conn: Conn) -> TokenMark {
        self.marks[conn.index as usize]
    }

    /// The connection goes on with another token.
    pub(crate) fn set_mark(&mut self, conn: Conn, mark: TokenMark) {
        self.marks[conn.index as usize] = mark;
    }

    /// Those in up to `count` places from the place `from` on, each with the Unix second in which it came. Where to go on; `None` after the last place.
    pub(crate) fn survey(&self, from: usize, count: usize, mut show: impl FnMut(Conn, &Connection, u32)) -> Option<usize> {
        let end = from.saturating_add(count).min(self.connections.len());
        for index in from..end {
            if let Some(connection) = &self.connections[index] {
                show(Conn { index: index as u32, life: connection.life }, connection, self.since_s[index]);
            }
        }
        (end < self.connections.len()).then_some(end)
    }

    /// What a connection is called by others.
    pub(crate) fn id(&self, conn: Conn) -> String {
        format!("{}-{}-{}", self.shard_id, conn.index, conn.life)
    }

    pub(crate) fn remove(&mut self, conn: Conn) -> Option<Box<Connection>> {
        self.get(conn)?;
        self.answers.remove(&conn);
        let connection = self.connections.get_mut(conn.index as usize)?.take()?;
        self.waiting_bytes -= match &connection.door {
            Door::SocketIo(seat) => seat.counted_bytes,
            Door::Native(_) | Door::Events(_) | Door::Request(_) => connection.outbox.bytes(),
        };
        Some(connection)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = Conn> {
        let places = self.connections.iter().enumerate();
        places.filter_map(|(index, it)| it.as_deref().map(|it| Conn { index: index as u32, life: it.life }))
    }

    /// Queues encoded frames for a connection. One whose outbox overflows is too slow, and is closed.
    pub(crate) fn push(&mut self, to: Conn, frames: impl Into<Piece>) {
        let frames = frames.into();
        let (limit, length) = (self.outbox_bytes, frames.bytes());
        let Some(connection) = self.get_mut(to).filter(|connection| !connection.is_closing) else { return };
        if connection.outbox.push(frames.clone(), limit).is_err() {
            // More than an outbox may come in before the next flush. A client is slow only if its socket takes no more, too;
            // how the write went shows at the flush, which this connection waits for.
            self.write(to);
            let limit = limit + self.answers.get(&to).copied().unwrap_or(0);
            let Some(connection) = self.get_mut(to) else { return };
            if connection.outbox.push(frames, limit).is_err() {
                return self.close(to, Close::SlowConsumer);
            }
        }
        self.on_queued(to, length);
    }

    /// Queues the answer to a question, whatever its length.
    fn push_answer(&mut self, to: Conn, frame: Bytes) {
        let length = frame.len();
        let Some(connection) = self.get_mut(to).filter(|connection| !connection.is_closing) else { return };
        connection.outbox.push(frame.into(), usize::MAX).expect("there is no limit here");
        *self.answers.entry(to).or_default() += length;
        self.on_queued(to, length);
    }

    /// So much waits for a connection now: of an answer there is not more left than that.
    fn on_taken(&mut self, conn: Conn, waiting: usize) {
        if self.answers.is_empty() {
            return;
        }
        if waiting == 0 {
            self.answers.remove(&conn);
        } else if let Some(answer) = self.answers.get_mut(&conn) {
            *answer = waiting.min(*answer);
        }
    }

    /// Queues a block for a door that asks for blocks: `line`, which is the client's own and may be empty, and what others are sent
    /// too. All of it or nothing, since a client that saw the line alone would believe that it saw the rest.
    ///
    /// Nothing can be written here to see whether the client is slow. It is, when it is over the limit and has taken nothing for
    /// a while; what comes in at once may be more than an outbox, but not without end.
    pub(crate) fn push_block(&mut self, to: Conn, line: Bytes, block: Bytes) {
        let (limit, now_ms, length) = (self.outbox_bytes, self.now_ms, line.len() + block.len());
        let Some(connection) = self.get_mut(to).filter(|connection| !connection.is_closing && length > 0) else { return };
        let Door::Events(stream) = &mut connection.door else { return };
        let waiting = connection.outbox.bytes();
        if waiting == 0 {
            stream.waits_since_ms = now_ms;
        } else if waiting + length > limit {
            let is_stuck = now_ms.wrapping_sub(stream.waits_since_ms) >= STUCK_MS;
            if is_stuck || waiting + length > limit.saturating_mul(BURST) {
                return self.close(to, Close::SlowConsumer);
            }
        }
        for chunk in [line, block].into_iter().filter(|chunk| !chunk.is_empty()) {
            connection.outbox.push(chunk.into(), usize::MAX).expect("there is no limit here");
        }
        self.on_queued(to, length);
    }

    /// The next block of a connection that is asked for it, and whether that was the last.
    pub(crate) fn pull(&mut self, conn: Conn) -> Option<(Block, bool)> {
        let now_ms = self.now_ms;
        let connection = self.get_mut(conn)?;
        let before = connection.outbox.bytes();
        let block = take_block(&mut connection.outbox)?;
        let after = connection.outbox.bytes();
        if let Door::Events(stream) = &mut connection.door {
            stream.waits_since_ms = now_ms;
        }
        self.waiting_bytes -= before - after;
        Some((block, after == 0))
    }

    /// Time passed.
    pub(crate) fn on_tick(&mut self, now_ms: u64) {
        self.now_ms = now_ms as u32;
    }

    /// More waits for a connection: it is written at the next flush.
    fn on_queued(&mut self, to: Conn, bytes: usize) {
        self.waiting_bytes += bytes;
        let Some(connection) = self.get_mut(to) else { return };
        if !std::mem::replace(&mut connection.is_dirty, true) {
            self.dirty.push(to);
        }
    }

    /// What waits for this connection is written before what others are told.
    fn hurry(&mut self, to: Conn) {
        if self.hurried.last() != Some(&to) {
            self.hurried.push(to);
        }
    }

    /// Something was queued at a seat, or was sent from there. One that stays over its limit until the next tick is too slow: what
    /// can go goes meanwhile.
    pub(crate) fn recount(&mut self, conn: Conn) {
        let Some(seat) = self.seat(conn) else { return };
        let waiting = seat.waiting_bytes();
        self.on_taken(conn, waiting);
        let answer = self.answers.get(&conn).copied().unwrap_or(0);
        let limit = self.outbox_bytes + answer;
        let Some(seat) = self.seat(conn) else { return };
        let before = std::mem::replace(&mut seat.counted_bytes, waiting);
        seat.taken = seat.taken.wrapping_add(before.saturating_sub(waiting) as u32);
        self.waiting_bytes = self.waiting_bytes - before + waiting;
        if waiting > self.outbox_bytes.saturating_mul(SEAT_BURST) + answer {
            self.close(conn, Close::SlowConsumer);
        } else if waiting > limit && before <= limit {
            self.over.push(conn);
        }
    }

    /// Closes what is still over its limit.
    pub(crate) fn close_slow_seats(&mut self) {
        for conn in std::mem::take(&mut self.over) {
            self.recount(conn);
            let limit = self.outbox_bytes + self.answers.get(&conn).copied().unwrap_or(0);
            if self.seat(conn).is_some_and(|seat| seat.waiting_bytes() > limit) {
                self.close(conn, Close::SlowConsumer);
            }
        }
    }

    /// Seats that may want something done.
    pub(crate) fn take_unsettled(&mut self) -> Vec<Conn> {
        std::mem::take(&mut self.unsettled)
    }

    /// Has a seat looked at.
    pub(crate) fn unsettle(&mut self, conn: Conn) {
        self.unsettled.push(conn);
    }

    /// Writes what a connection's socket takes.
    pub(crate) fn write(&mut self, conn: Conn) -> Option<Written> {
        let connection = self.get_mut(conn)?;
        let before = connection.outbox.bytes();
        let written = connection.write();
        let after = connection.outbox.bytes();
        self.waiting_bytes -= before - after;
        self.on_taken(conn, after);
        Some(written)
    }

    /// Gives up what a connection was not sent.
    pub(crate) fn drop_unsent(&mut self, conn: Conn) {
        let Some(connection) = self.get_mut(conn) else { return };
        if let Door::SocketIo(seat) = &connection.door {
            seat.socket.drop_unsent();
            return self.recount(conn);
        }
        let before = connection.outbox.bytes();
        connection.outbox.drop_unsent();
        let after = connection.outbox.bytes();
        self.waiting_bytes -= before - after;
    }

    /// What happened so far.
    pub(crate) fn counts(&self) -> HubCounts {
        self.counts
    }

    /// What may wait in all outboxes together.
    pub(crate) fn total_bytes(&self) -> usize {
        self.total_bytes
    }

    /// What waits in all outboxes together.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Closes the largest debtors while all outboxes together are over their limit. A tenth more than need be, so that this
    /// search over all connections is rare. Whether there were any.
    pub(crate) fn keep_total(&mut self) -> bool {
        if self.waiting_bytes <= self.total_bytes {
            return false;
        }
        let mut debtors: Vec<(usize, Conn)> =
            self.all().filter_map(|conn| Some((self.get(conn)?.waiting_bytes(), conn))).filter(|(bytes, _)| *bytes > 0).collect();
        debtors.sort_unstable_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let mut rest = self.waiting_bytes;
        for (bytes, conn) in debtors {
            if rest <= self.total_bytes / 10 * 9 {
                break;
            }
            rest -= bytes;
            self.close(conn, Close::SlowConsumer);
        }
        true
    }

    /// Ends a connection at the next flush; the first reason counts.
    pub(crate) fn close(&mut self, conn: Conn, why: Close) {
        if let Some(connection) = self.get_mut(conn)
            && !std::mem::replace(&mut connection.is_closing, true)
        {
            self.closing.push((conn, why));
        }
    }

    pub(crate) fn take_closing(&mut self) -> Vec<(Conn, Close)> {
        std::mem::take(&mut self.closing)
    }

    /// Streams of events that may join their rooms now.
    pub(crate) fn take_welcomed(&mut self) -> Vec<Conn> {
        std::mem::take(&mut self.welcomed)
    }

    /// Who is to be written to, in order; some may be told twice. Answers leave first: who waits for one speaks on while the kernel
    /// still takes what a large room is told.
    pub(crate) fn take_dirty(&mut self) -> impl Iterator<Item = Conn> + use<> {
        std::mem::take(&mut self.hurried).into_iter().chain(std::mem::take(&mut self.dirty))
    }
}

impl Doors for Hub {
    type Shared = Encodings;

    fn next_message(shared: &mut Encodings) {
        shared.next_message();
    }

    fn message(&mut self, to: Conn, message: &Outgoing<'_>, shared: &mut Self::Shared) {
        let Some(connection) = self.connections.get_mut(to.index as usize).and_then(Option::as_deref_mut) else { return };
        if connection.life != to.life {
            return;
        }
        self.counts.frames_out[connection.door.index()] += 1;
        match &mut connection.door {
            Door::Native(_) => {
                let frame = shared.native(message);
                self.push(to, frame);
            }
            Door::Events(stream) => {
                let Some(id) = stream.on_message(message) else { return };
                let block = if stream.is_personal { shared.personal_events(message) } else { shared.events(message) };
                self.push_block(to, id, block);
            }
            Door::Request(_) => {}
            Door::SocketIo(seat) => {
                seat.on_message(message, shared);
                self.recount(to);
            }
        }
    }

    fn frame(&mut self, to: Conn, frame: &ServerFrame<'_>) {
        if let ServerFrame::Error { code, outcome_unknown, .. } = frame {
            self.counts.refusals[*code as usize] += 1;
            self.counts.unknown_outcomes += u64::from(*outcome_unknown);
        }
        let Some(door) = self.get(to).map(|connection| connection.door.index()) else { return };
        self.counts.frames_out[door] += 1;
        if matches!(frame, ServerFrame::Ack { .. }) {
            self.hurry(to);
        }
        let Some(connection) = self.get_mut(to) else { return };
        match &mut connection.door {
            Door::Native(_) if matches!(frame, ServerFrame::History { .. }) => {
                self.push_answer(to, text_frame(|out| frame.write(out)));
            }
            Door::Native(_) => self.push(to, text_frame(|out| frame.write(out))),
            Door::Events(stream) => match stream.on_frame(frame) {
                Told::Blocks(blocks) => self.push_block(to, Bytes::new(), blocks.into()),
                Told::End => self.close(to, Close::Unavailable),
            },
            Door::Request(request) => request.on_frame(frame),
            Door::SocketIo(seat) => {
                let before = seat.waiting_bytes();
                let then = seat.on_frame(frame);
                let length = seat.waiting_bytes().saturating_sub(before);
                if matches!(frame, ServerFrame::History { .. }) {
                    *self.answers.entry(to).or_default() += length;
                }
                match then {
                    Then::Nothing => {}
                    Then::Look => self.unsettle(to),
                    Then::ComeAgain => self.close(to, Close::Unavailable),
                }
                self.recount(to);
            }
        }
    }

    fn welcome(&mut self, to: Conn, personal: &RoomName, head: Offset, epoch: &Epoch) {
        if let Some(connection) = self.get(to) {
            self.counts.frames_out[connection.door.index()] += 1;
        }
        let id = self.id(to);
        let limits = self.told;
        if let Some(seat) = self.seat(to) {
            seat.on_welcome(personal, head, epoch);
            return self.unsettle(to);
        }
        let Some(connection) = self.get_mut(to) else { return };
        if let Door::Events(stream) = &connection.door {
            let connected = if stream.is_personal { sse::connected(connection.session.user()) } else { Vec::new() };
            connection.is_open = true;
            self.welcomed.push(to);
            return self.push_block(to, Bytes::new(), connected.into());
        }
        let connected = text_frame(|out| {
            let frame = ServerFrame::Connected {
                user: connection.session.user(),
                client: connection.session.client(),
                connection: &id,
                expires_at: Some(connection.session.expires_at_ms()),
                limits,
                personal: (personal, head, epoch),
            };
            frame.write(out);
        });
        connection.is_open = true;
        connection.wake();
        self.push(to, connected);
    }

    fn close(&mut self, of: Conn, why: Close) {
        Self::close(self, of, why);
    }

    fn identity(&self, of: Conn) -> (&str, &str) {
        let Some(connection) = self.get(of) else { return ("", "") };
        let client = match &connection.door {
            Door::Native(_) | Door::Events(_) | Door::SocketIo(_) => connection.session.client().as_str(),
            // What is said in nobody's name excludes nobody.
            Door::Request(request) => request.client.as_ref().map_or("", |client| client.as_str()),
        };
        (connection.session.user().as_str(), client)
    }

    fn info(&self, of: Conn) -> &str {
        self.get(of).and_then(|connection| connection.info.as_deref()).unwrap_or_default()
    }

    fn outbox_bytes(&self, of: Conn) -> usize {
        self.get(of).map_or(usize::MAX, Connection::waiting_bytes)
    }

    fn outbox_taken(&self, of: Conn) -> u32 {
        self.get(of).map_or(0, Connection::taken)
    }
}
