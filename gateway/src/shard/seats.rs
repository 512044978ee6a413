//! Socket.IO clients of a shard: how one is let in, what its events lead to, and how it returns. The seat knows what is due;
//! here it is done.

use std::time::Duration;

use carillon_core::{
    rooms::Conn,
    session::{Act, Pace, Scratch},
};
use carillon_platform::kv::{Bucket, KvError, Revision};
use carillon_proto::{
    codes::{Close, ErrorCode},
    frame::{BadFrame, ClientFrame, Incoming},
    ids::ClientId,
    socketio::Record,
};

use super::{Opening, Shard};
use crate::{
    connection::Connection,
    door::Door,
    engineio::Socket,
    socketio::{
        client::Event,
        events, packet,
        seat::{RETURN, Seat, Todo},
    },
    wheel::Due,
};

/// A client that was here before.
pub(crate) struct Returning {
    pub(crate) pid: String,
    pub(crate) record: Record,
    pub(crate) revision: Revision,
    /// The string that it was last sent.
    pub(crate) trail: String,
}

/// Writing a record may take so long; a client whose record can't be written has to come again.
const RECORD_PATIENCE: Duration = Duration::from_secs(5);

impl Shard {
    /// A Socket.IO client with a verified token. It is answered once its personal room is attached and its record written.
    pub(crate) fn on_seat(&mut self, socket: Socket, mut opening: Opening, returning: Option<Returning>) -> Result<(), Close> {
        let now = self.now();
        let user = self.admit(&opening)?;
        let number = socket.number();
        let seat = match returning.filter(|returning| returning.record.user == user.as_str()) {
            None => Seat::new(socket),
            Some(Returning { pid, record, revision, trail }) => {
                opening.client = ClientId::parse(&record.client).ok().or(opening.client);
                Seat::returning(socket, pid, record, revision, &trail)
            }
        };
        let conn = self.open(user, Door::SocketIo(Box::new(seat)), opening, now);
        self.seats.insert(number, conn);
        self.schedule_record(conn);
        Ok(())
    }

    /// An event of a client. False if it may not speak yet.
    pub(crate) fn on_seat_event(&mut self, number: u64, event: &Event<'_>) -> bool {
        let now = self.now();
        let Some(conn) = self.seats.get(&number).copied() else { return false };
        let Some(connection) = self.hub.get_mut(conn).filter(|connection| connection.is_open) else { return false };
        self.tally.frames_in[connection.door.index()] += 1;
        let (name, arguments) = packet::arguments(event.arguments);
        let mut text = String::new();
        let mut asked = events::read(&name, &arguments, &mut text, self.config.session.json_depth);
        if !event.attachments.is_empty() {
            asked.frame = Err(events::refused(ErrorCode::BadRequest, "binary data is not supported: send JSON"));
        }
        if let (1.., Ok(ClientFrame::Join { room, options })) = (asked.kind_bytes, &mut asked.frame) {
            // Who may not see who is there joins all the same: nobody asked for it by name.
            options.presence = connection.session.grants().watch(room.clone()).is_some();
        }
        let parsed = match asked.frame {
            Ok(frame) => Ok(Incoming { reference: event.id, frame }),
            Err(bad) => Err(BadFrame { reference: event.id.map(Box::from), ..bad }),
        };
        let mut scratch = Scratch::default();
        let act = connection.session.on_frame(parsed, &mut scratch, &self.config.session, now.mono_ms);
        if let Act::Join { permit, options, reference } = &act
            && let Some(seat) = self.hub.seat(conn)
        {
            seat.on_join(permit.room(), options, asked.kind_bytes, *reference);
        }
        self.act(conn, act, now);
        self.want_flush();
        !self.hub.get(conn).is_some_and(|connection| connection.is_closing)
    }

    /// All that waited for a client is on its way.
    pub(crate) fn on_seat_drained(&mut self, number: u64) {
        let Some(conn) = self.seats.get(&number).copied() else { return };
        let now = self.now();
        self.hub.recount(conn);
        self.rooms.on_drained(conn, now);
        self.want_flush();
    }

    /// A client left by its own wish: it will not return. How fast it has spoken counts when it begins anew.
    pub(crate) fn on_seat_left(&mut self, number: u64) -> Option<Pace> {
        let conn = self.seats.get(&number).copied()?;
        let pace = self.hub.get(conn)?.session.pace();
        self.forget_record(conn);
        self.drop_connection(conn);
        Some(pace)
    }

    /// Takes a frame's worth for a CONNECT that is not the first one of its transport; false if there is none.
    pub(crate) fn may_connect_again(&self, pace: &mut Pace) -> bool {
        pace.begin_again(&self.config.session, self.now().mono_ms)
    }

    /// A client's transport is gone.
    pub(crate) fn on_seat_gone(&mut self, number: u64) {
        if let Some(conn) = self.seats.get(&number).copied() {
            self.drop_connection(conn);
        }
    }

    /// Whether one more client that nobody knows yet may come. Whether there is a place for it is seen when it is known.
    pub(crate) fn has_room(&self) -> bool {
        !self.is_draining
    }

    /// Does what seats have become ready for.
    pub(super) fn settle_seats(&mut self) {
        for conn in self.hub.take_unsettled() {
            self.settle_seat(conn);
        }
    }

    fn settle_seat(&mut self, conn: Conn) {
        loop {
            let Some(connection) = self.hub.get_mut(conn).filter(|connection| !connection.is_closing) else { return };
            let (user, client) = (connection.session.user().clone(), connection.session.client().clone());
            let Door::SocketIo(seat) = &mut connection.door else { return };
            match seat.poll() {
                Todo::Return => self.return_to_rooms(conn),
                Todo::BeginAnew => return self.begin_anew(conn),
                Todo::Record => {
                    let (record, revision) = seat.begin_record(user.as_str(), client.as_str());
                    let pid = seat.pid.clone();
                    return self.write_record(conn, pid, record, revision);
                }
                Todo::Nothing if seat.may_announce() => {
                    seat.announce(user.as_str(), client.as_str());
                    connection.is_open = true;
                }
                Todo::Nothing => break,
            }
        }
        self.hub.recount(conn);
    }

    fn return_to_rooms(&mut self, conn: Conn) {
        let now = self.now();
        let Some(seat) = self.hub.seat(conn) else { return };
        for (room, mut options) in seat.begin_return() {
            let Some(connection) = self.hub.get(conn) else { return };
            let grants = connection.session.grants();
            options.presence &= grants.watch(room.clone()).is_some();
            match grants.join(room) {
                Some(permit) => self.rooms.join(conn, &permit, options, Some(RETURN), now, &mut self.hub),
                None => {
                    if let Some(seat) = self.hub.seat(conn) {
                        seat.on_return_failed();
                    }
                }
            }
        }
    }

    /// Nothing is recovered where not everything can be: the client begins as one that was never here. Whatever is still under
    /// way for it finds nobody.
    fn begin_anew(&mut self, conn: Conn) {
        let now = self.now();
        self.forget_record(conn);
        let mark = self.hub.mark(conn);
        let Some(mut connection) = self.hub.remove(conn) else { return };
        self.rooms.disconnect(conn, now);
        let Door::SocketIo(seat) = &connection.door else { return };
        let socket = seat.socket.clone();
        let number = socket.number();
        connection.door = Door::SocketIo(Box::new(Seat::new(socket)));
        let (user, personal) = (connection.session.user().clone(), connection.session.grants().personal());
        let expires_at_ms = connection.session.expires_at_ms();
        let Connection { session, info, door, .. } = *connection;
        let anew = self.place(session, mark, info, door);
        self.rooms.connect(anew.life, user, personal, now, &mut self.hub);
        self.seats.insert(number, anew);
        self.wheel.schedule(now.mono_ms + self.config.handshake_ms, anew, Due::Welcome);
        self.schedule_expiry(anew, expires_at_ms, now);
        self.schedule_record(anew);
        self.want_flush();
    }

    fn write_record(&self, conn: Conn, pid: String, record: Record, revision: Option<Revision>) {
        let (records, this) = (self.records.clone(), self.this.clone());
        tokio::task::spawn_local(async move {
            let written = tokio::time::timeout(RECORD_PATIENCE, records.write(&pid, &record, revision)).await;
            let written = written.unwrap_or_else(|_| Err(KvError::Unavailable("no answer in time".into())));
            if let Some(shard) = this.upgrade() {
                shard.borrow_mut().on_recorded(conn, written);
            }
        });
    }

    fn on_recorded(&mut self, conn: Conn, written: Result<Revision, KvError>) {
        let Some(seat) = self.hub.seat(conn) else { return };
        match written {
            Ok(revision) => seat.on_recorded(Some(revision)),
            Err(KvError::Refused(why)) => {
                tracing::warn!(why, "a Socket.IO client can't be recovered (limits.rooms_per_connection)");
                seat.on_recorded(None);
                self.forget_record(conn);
            }
            // Another connection goes on with it, or nobody knows what is written: what was not acknowledged is not promised.
            Err(KvError::Conflict | KvError::Unavailable(_) | KvError::Broken(_)) => self.hub.close(conn, Close::Unavailable),
        }
        self.hub.unsettle(conn);
        self.want_flush();
    }

    pub(super) fn on_record_due(&mut self, conn: Conn) {
        let Some(seat) = self.hub.seat(conn) else { return };
        seat.want_record();
        self.hub.unsettle(conn);
        self.schedule_record(conn);
    }

    fn schedule_record(&mut self, conn: Conn) {
        let now = self.now();
        let in_ms = (self.config.recovery_s * 1000 / Bucket::WRITES_PER_RECOVERY).max(1000);
        self.wheel.schedule(now.mono_ms + in_ms, conn, Due::Record);
    }

    fn forget_record(&mut self, conn: Conn) {
        let Some(seat) = self.hub.seat(conn) else { return };
        let (pid, revision) = (seat.pid.clone(), seat.revision());
        let records = self.records.clone();
        records.begin_forgetting(&pid);
        tokio::task::spawn_local(async move {
            // Not worth more: what stays is too old before long.
            let _ = tokio::time::timeout(RECORD_PATIENCE, records.forget(&pid, revision)).await;
            records.end_forgetting(&pid);
        });
    }

    /// Lets a client go. Stop is DISCONNECT; after any other end it comes back.
    pub(super) fn end_seat(&mut self, conn: Conn, why: Close) {
        let is_stop = matches!(why, Close::Unauthorized | Close::Forbidden);
        if is_stop {
            self.forget_record(conn);
        }
        let Some(Connection { door: Door::SocketIo(seat), .. }) = self.forget(conn).map(|connection| *connection) else { return };
        if is_stop {
            let last = match seat.is_open() {
                true => packet::disconnect("/"),
                false => packet::connect_error("/", "Authentication failed"),
            };
            seat.socket.send(last.into(), bytes::Bytes::new());
        }
        seat.socket.close(Some((why.code(), why.reason().into_owned())));
    }
}
