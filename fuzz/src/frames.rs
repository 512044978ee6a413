//! A client that sends any bytes at all, and everything behind its socket: codec, session, rooms, the owners of the
//! partitions. Nothing may panic, nothing may grow without bound, and it must not matter in which pieces the bytes came.
//! A bystander sees to it that what one client does harms nobody.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use carillon_core::{
    Now,
    grants::Grants,
    partition::{Config, Effect, Partition, Start},
    rate::Rate,
    rooms::{Conn, Doors, Publishing, RoomLimits, Rooms},
    session::{Act, Refusal, Scratch, Session, SessionLimits},
};
use carillon_gateway::websocket::codec::{Decoder, Event};
use carillon_proto::{
    claims::{Grant, Operation},
    codes::Close,
    frame::{Outgoing, ServerFrame},
    ids::{ClientId, Epoch, GatewayId, Offset, PartitionId, RoomName, UserId},
    log::Record,
};
use prost::Message as _;
use serde_json::value::RawValue;

/// Small limits, so that short inputs reach them.
const FRAME_BYTES: usize = 2048;
const ROOMS: usize = 4;
const RATE: Rate = Rate { per_second: 1000, burst: 200 };
/// The longest header of a client's frame (RFC 6455, section 5.2).
const HEADER_BYTES: usize = 14;
const NOW: Now = Now { mono_ms: 1000, unix_ms: 1_700_000_000_000 };
const LOBBY: &str = "lobby";

pub(crate) fn run(bytes: &[u8]) {
    let whole = life(bytes, usize::MAX);
    assert_eq!(whole, life(bytes, 7), "the pieces made a difference");
}

/// One client's life, its bytes in pieces of this size; what it was told.
fn life(bytes: &[u8], piece: usize) -> Vec<String> {
    let mut world = World::new();
    let (mut decoder, mut waiting) = (Decoder::default(), Vec::new());
    for piece in bytes.chunks(piece.min(bytes.len()).max(1)) {
        waiting.extend_from_slice(piece);
        match decoder.feed(&mut waiting, FRAME_BYTES, |event| world.on_event(event).is_continue()) {
            Ok(used) => drop(waiting.drain(..used)),
            Err(violation) => {
                world.doors.told.push(format!("{violation:?}"));
                break;
            }
        }
        if world.is_closed {
            break;
        }
        assert!(waiting.len() < FRAME_BYTES + HEADER_BYTES, "a partial frame is shorter than the largest one");
    }
    world.end()
}

struct World {
    session: Session,
    limits: SessionLimits,
    rooms: Rooms,
    doors: FakeDoors,
    client: Conn,
    bystander: Conn,
    owners: BTreeMap<PartitionId, Owner>,
    stored_bytes: usize,
    is_closed: bool,
}

/// A partition with a log that acks at once.
struct Owner {
    rules: Partition,
    log: BTreeMap<RoomName, Vec<Record>>,
}

impl World {
    fn new() -> Self {
        let grants = |name: &str| Arc::new(Grants::new(UserId::parse(name).expect("a user"), None));
        let limits = SessionLimits { frames: RATE, joins: RATE, json_depth: 64 };
        let session = Session::new(ClientId::parse("c").expect("a client id"), grants("ada"), u64::MAX, &limits, NOW.mono_ms);
        let room_limits =
            RoomLimits { rooms_per_connection: ROOMS, replay_messages: 8, replay_outbox_bytes: 4096, ..RoomLimits::default() };
        let mut rooms = Rooms::new(GatewayId([7; 16]), room_limits);
        let mut doors = FakeDoors::default();
        let client = rooms.connect(1, session.user().clone(), session.grants().personal(), NOW, &mut doors);
        doors.client = Some(client);
        let bystander = Conn { index: rooms.next_index(), life: 2 };
        doors.bystander = Some((bystander, 0));
        rooms.connect(2, grants("bob").user().clone(), grants("bob").personal(), NOW, &mut doors);
        let owners = BTreeMap::new();
        let mut world = Self { session, limits, rooms, doors, client, bystander, owners, stored_bytes: 0, is_closed: false };
        // Something to come back to, some of it the client's own.
        let lobby = RoomName::parse(LOBBY).expect("a room");
        for (speaker, key) in [(client, None), (bystander, Some("k")), (client, Some("k")), (bystander, None)] {
            let permit = grants("ada").publish(lobby.clone()).expect("granted by default");
            let said = Publishing { payload: "{}", key, echo: false, ephemeral: false, reference: None, traceparent: "" };
            world.rooms.publish(speaker, &permit, &said, NOW, &mut world.doors);
            world.settle();
        }
        let permit = grants("bob").join(lobby).expect("granted by default");
        world.rooms.join(bystander, &permit, Default::default(), None, NOW, &mut world.doors);
        world.settle();
        world.doors.bystander = Some((bystander, 4));
        world.doors.told.clear();
        world
    }

    fn on_event(&mut self, event: Event<'_>) -> ControlFlow<()> {
        let told_before = self.doors.told_bytes;
        let mut scratch = Scratch::default();
        let length = match event {
            Event::Text(text) => {
                let act = self.session.on_text(text, &mut scratch, &self.limits, NOW.mono_ms);
                // The act may borrow the session's rights, never the session.
                act_on(&mut self.rooms, &mut self.doors, self.client, act, &mut self.is_closed);
                text.len()
            }
            Event::Binary(bytes) => {
                let act = self.session.on_binary(&self.limits, NOW.mono_ms);
                act_on(&mut self.rooms, &mut self.doors, self.client, act, &mut self.is_closed);
                bytes.len()
            }
            Event::Ping(payload) => {
                self.doors.told.push(format!("pong {payload:02x?}"));
                payload.len()
            }
            Event::Pong => 0,
            Event::Close(code) => {
                self.doors.told.push(format!("close {code:?}"));
                self.is_closed = true;
                0
            }
        };
        if let Some(token) = self.doors.token.take() {
            self.on_refresh(&token);
        }
        self.settle();
        // One frame can ask for everything that is stored, once; it can't multiply it.
        let told = self.doors.told_bytes - told_before;
        assert!(told <= 2 * (self.stored_bytes + length) + 4096, "{told} bytes told for {length}");
        assert!(self.rooms.rooms_of(self.client).count() <= ROOMS + 1);
        assert!(self.rooms.len() <= ROOMS + 3);
        if self.is_closed { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// What a gateway does with a verified token; which user's it is stands in for the signature.
    fn on_refresh(&mut self, token: &str) {
        let grants = match token {
            "all" => None,
            "some" => Some(vec![Grant { rooms: vec!["lobb*".to_owned()], can: vec![Operation::Join] }]),
            _ => {
                self.doors.told.push(format!("{:?}", Close::Unauthorized));
                self.is_closed = true;
                return;
            }
        };
        let grants = Arc::new(Grants::new(self.session.user().clone(), grants));
        self.session.on_refreshed(grants.clone(), u64::MAX).expect("the same user");
        let lost: Vec<_> =
            self.rooms.rooms_of(self.client).filter(|room| grants.join((*room).clone()).is_none()).cloned().collect();
        for room in lost {
            self.rooms.expel(self.client, &room, NOW, &mut self.doors);
        }
    }

    /// Carries batches to and fro until there are none, and the outbox drains.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut is_quiet = true;
            while let Some((partition, batch)) = self.rooms.poll_batch(NOW) {
                is_quiet = false;
                let owner = self.owners.entry(partition).or_insert_with(|| Owner::new(partition));
                owner.rules.on_batch(batch, NOW);
                while let Some(effect) = owner.rules.poll_effect(NOW) {
                    if let Some(batch) = owner.carry_out(effect, &mut self.stored_bytes) {
                        self.rooms.on_batch(partition, batch, NOW, &mut self.doors);
                    }
                }
            }
            for conn in [self.client, self.bystander] {
                self.doors.waiting.remove(&conn.index);
                self.rooms.on_drained(conn, NOW);
            }
            if is_quiet {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// Everyone leaves; nothing may stay.
    fn end(mut self) -> Vec<String> {
        self.rooms.disconnect(self.client, NOW);
        self.rooms.disconnect(self.bystander, NOW);
        self.settle();
        assert!(self.rooms.is_empty(), "rooms without members");
        let later = |minutes: u64| Now { mono_ms: NOW.mono_ms + minutes * 60_000, unix_ms: NOW.unix_ms + minutes * 60_000 };
        for owner in self.owners.values_mut() {
            assert_eq!(owner.rules.in_flight(), 0);
            owner.rules.on_tick(later(10));
            owner.rules.on_tick(later(20));
            assert_eq!(owner.rules.rooms(), 0, "rooms that nobody is attached to");
            for stored in owner.log.values() {
                assert!(stored.iter().map(|record| record.offset).eq(1..=stored.len() as u64), "a hole");
            }
        }
        self.doors.told
    }
}

fn act_on(rooms: &mut Rooms, doors: &mut FakeDoors, conn: Conn, act: Act<'_>, is_closed: &mut bool) {
    match act {
        Act::Join { permit, options, reference } => rooms.join(conn, &permit, options, reference, NOW, doors),
        Act::Leave { room, reference } => rooms.leave(conn, &room, reference, NOW, doors),
        Act::Publish { permit, said } => drop(rooms.publish(conn, &permit, &said, NOW, doors)),
        Act::History { permit, span, limit, reference } => rooms.history(conn, &permit, span, limit, reference, NOW, doors),
        Act::Presence { permit, reference } => rooms.presence(conn, &permit, reference, NOW),
        Act::Erase { permit, reference } => rooms.erase(conn, &permit, reference, NOW),
        Act::Refresh { token, .. } => doors.token = Some(token.to_owned()),
        Act::Pong { reference } => doors.frame(conn, &ServerFrame::Pong { reference }),
        Act::Refuse(Refusal { code, message, reference, room, retry_after_ms }) => {
            let (reference, room) = (reference.as_deref(), room.as_ref());
            let frame = ServerFrame::Error { code, message: &message, reference, room, retry_after_ms, outcome_unknown: false };
            doors.frame(conn, &frame);
        }
        Act::Close(why) => {
            doors.told.push(format!("{why:?}"));
            *is_closed = true;
        }
    }
}

impl Owner {
    fn new(partition: PartitionId) -> Self {
        let start = Start { partition, generation: 1, incarnation: "i".to_owned(), last_sequence: 0, seed: 5 };
        Self { rules: Partition::new(Config::default(), start, []), log: BTreeMap::new() }
    }

    /// Does it; a batch for the gateway, if that is what it was.
    fn carry_out(&mut self, effect: Effect, stored_bytes: &mut usize) -> Option<carillon_proto::link::DownBatch> {
        match effect {
            Effect::Append { room, offset, record, .. } => {
                // Room for what the frame around a payload says.
                *stored_bytes += record.len() + 512;
                let record = Record::decode(record).expect("a record");
                assert_eq!(record.offset, offset);
                self.log.entry(room).or_default().push(record);
                self.rules.on_appended(NOW);
            }
            Effect::Head { room } => {
                let newest = self.log.get(&room).and_then(|records| records.last()).cloned();
                self.rules.on_head(room, newest, NOW);
            }
            Effect::Read { ticket, room, after, before, limit, .. } => {
                let records = self.log.get(&room).map(Vec::as_slice).unwrap_or_default();
                let first = records.first().map_or(0, |record| record.offset);
                let end = before.map_or(records.len(), |before| records.partition_point(|record| record.offset < before));
                let start = after.map_or(end.saturating_sub(limit), |after| records.partition_point(|it| it.offset <= after));
                let part = records[start.min(end)..end].iter().take(limit).cloned().collect();
                self.rules.on_part(ticket, part, first, NOW);
            }
            Effect::Trim { .. } | Effect::Empty { .. } => {}
            Effect::TailLost => panic!("this log loses nothing"),
            Effect::Present { .. } | Effect::Settled { .. } => {}
            Effect::Send { batch, .. } => return Some(batch),
        }
        None
    }
}

#[derive(Default)]
struct FakeDoors {
    client: Option<Conn>,
    /// And the offset that it has seen in the lobby.
    bystander: Option<(Conn, Offset)>,
    told: Vec<String>,
    told_bytes: usize,
    /// Outboxes, by place.
    waiting: BTreeMap<u32, usize>,
    /// A token to go on with, for the world to judge.
    token: Option<String>,
}

impl Doors for FakeDoors {
    type Shared = ();

    fn message(&mut self, to: Conn, message: &Outgoing<'_>, (): &mut ()) {
        if let Some((bystander, seen)) = &mut self.bystander
            && *bystander == to
            && message.room == LOBBY
            && message.offset > 0
        {
            assert_eq!(message.offset, *seen + 1, "the bystander missed something");
            *seen = message.offset;
        }
        self.frame(to, &ServerFrame::Message(*message));
    }

    fn frame(&mut self, to: Conn, frame: &ServerFrame<'_>) {
        let text = String::from_utf8(frame.to_json()).expect("frames are UTF-8");
        let fields: BTreeMap<&str, &RawValue> =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in a frame of ours: {text}"));
        assert!(fields.contains_key("type"));
        *self.waiting.entry(to.index).or_default() += text.len();
        if Some(to) == self.client {
            self.told_bytes += text.len();
            self.told.push(text);
        }
    }

    fn welcome(&mut self, _: Conn, _: &RoomName, _: Offset, _: &Epoch) {}

    fn close(&mut self, _: Conn, _: Close) {}

    fn identity(&self, of: Conn) -> (&str, &str) {
        if self.bystander.is_some_and(|(bystander, _)| bystander == of) { ("bob", "c") } else { ("ada", "c") }
    }

    fn info(&self, _: Conn) -> &str {
        ""
    }

    fn outbox_bytes(&self, of: Conn) -> usize {
        self.waiting.get(&of.index).copied().unwrap_or_default()
    }

    fn outbox_taken(&self, _: Conn) -> u32 {
        0
    }
}
