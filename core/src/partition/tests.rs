//! A partition by hand: what goes in, what comes out, time as it is told.

use bytes::Bytes;
use carillon_proto::link::{Attach, Attached, Counted, Down, Page, Publish, Read, Up, UpBatch, down, read, up};
use prost::Message as _;

use super::{reads::MAX_WAITING_READS, *};

const GATEWAY: GatewayId = GatewayId([7; 16]);
const ROOM: &str = "r";

/// A partition with one gateway, and a log that does what it is told at once.
struct Desk {
    partition: Partition,
    log: Vec<Record>,
    first: Offset,
    now: Now,
    number: u64,
    publishes: u64,
    heard: Vec<down::Item>,
}

impl Desk {
    fn new(keep: Keep) -> Self {
        let retention = vec![Retention { rooms: "*".into(), keep }];
        let config = Config { ring_messages: 4, retention, ..Config::default() };
        let partition = RoomName::parse(ROOM).unwrap().partition();
        let start = Start { partition, generation: 1, incarnation: "i".into(), last_sequence: 0, seed: 5 };
        let now = Now { mono_ms: 1_000, unix_ms: 1_000_000 };
        let partition = Partition::new(config, start, []);
        Self { partition, log: Vec::new(), first: 1, now, number: 0, publishes: 0, heard: Vec::new() }
    }

    fn say(&mut self, item: up::Item) -> Vec<down::Item> {
        self.say_at_once([item]);
        self.settle();
        std::mem::take(&mut self.heard)
    }

    /// One batch; what comes of it is left to whoever asks.
    fn say_at_once(&mut self, items: impl IntoIterator<Item = up::Item>) {
        self.number += 1;
        let batch = UpBatch {
            version: link::VERSION,
            gateway: Bytes::copy_from_slice(&GATEWAY.0),
            link: 1,
            number: self.number,
            generation: 0,
            items: items.into_iter().map(|item| Up { item: Some(item) }).collect(),
            settled: 0,
        };
        self.partition.on_batch(batch, self.now);
    }

    fn settle(&mut self) {
        while let Some(effect) = self.partition.poll_effect(self.now) {
            let now = self.now;
            match effect {
                Effect::Append { offset, record, .. } => {
                    assert_eq!(offset, self.log.last().map_or(0, |last| last.offset) + 1);
                    self.log.push(Record::decode(record).unwrap());
                    self.partition.on_appended(now);
                }
                Effect::Head { room } => self.partition.on_head(room, self.log.last().cloned(), now),
                Effect::Read { ticket, after, before, limit, .. } => {
                    let kept = self.log.iter().filter(|record| record.offset >= self.first);
                    let found: Vec<Record> = match after {
                        Some(after) => kept.filter(|record| record.offset > after).take(limit).cloned().collect(),
                        None => {
                            let below = kept.filter(|record| record.offset < before.unwrap_or(u64::MAX));
                            let mut found: Vec<Record> = below.cloned().collect();
                            found.drain(..found.len().saturating_sub(limit));
                            found
                        }
                    };
                    let first = if self.log.is_empty() { 0 } else { self.first };
                    self.partition.on_part(ticket, found, first, now);
                }
                Effect::Trim { below, .. } => self.first = self.first.max(below),
                Effect::Empty { room, .. } => {
                    self.log.clear();
                    self.first = 1;
                    self.partition.on_emptied(room, now);
                }
                Effect::TailLost => panic!("this log loses nothing"),
                Effect::Present { .. } | Effect::Settled { .. } => {}
                Effect::Send { batch, .. } => self.heard.extend(batch.items.into_iter().filter_map(|Down { item }| item)),
            }
        }
    }

    fn attach(&mut self) -> Attached {
        let attach = Attach { room: ROOM.into(), ..Attach::default() };
        match &self.say(up::Item::Attach(attach))[..] {
            [down::Item::Attached(attached)] => attached.clone(),
            other => panic!("expected attached, got {other:?}"),
        }
    }

    fn publish(&mut self, key: &str) -> Vec<down::Item> {
        self.publishes += 1;
        self.say(up::Item::Publish(Publish {
            publish: self.publishes,
            room: ROOM.into(),
            payload: Bytes::from_static(b"1"),
            user: "u".into(),
            client: "c".into(),
            key: key.into(),
            ..Publish::default()
        }))
    }

    fn read(&mut self, span: read::Span, limit: u32) -> Page {
        match &self.say(up::Item::Read(Read { read: 1, room: ROOM.into(), span: Some(span), limit }))[..] {
            [down::Item::Page(page)] => page.clone(),
            other => panic!("expected a page, got {other:?}"),
        }
    }

    fn wait(&mut self, ms: u64) {
        self.now = Now { mono_ms: self.now.mono_ms + ms, unix_ms: self.now.unix_ms + ms };
    }
}

fn offsets(page: &Page) -> Vec<Offset> {
    page.messages.iter().map(|message| message.offset).collect()
}

const MUCH: Keep = Keep { messages: 1_000, age_ms: 10_000 };

#[test]
fn answer_comes_before_delivery() {
    let mut desk = Desk::new(MUCH);
    desk.attach();
    assert!(matches!(&desk.publish("")[..], [down::Item::Published(_), down::Item::Message(_)]));
}

#[test]
fn key_is_stored_once() {
    let mut desk = Desk::new(MUCH);
    desk.publish("k");
    match &desk.publish("k")[..] {
        [down::Item::Published(told)] => assert!(told.duplicate && told.offset == 1),
        other => panic!("{other:?}"),
    }
    assert_eq!(desk.log.len(), 1);
}

#[test]
fn repeated_request_is_no_duplicate() {
    let mut desk = Desk::new(MUCH);
    desk.publish("k");
    desk.publishes -= 1;
    match &desk.publish("k")[..] {
        [down::Item::Published(told)] => assert!(!told.duplicate && told.offset == 1),
        other => panic!("{other:?}"),
    }
}

#[test]
fn pages_tell_whether_there_is_more() {
    let mut desk = Desk::new(MUCH);
    for _ in 0..10 {
        desk.publish("");
    }
    let page = desk.read(read::Span::Before(u64::MAX), 4);
    assert_eq!((offsets(&page), page.more), (vec![7, 8, 9, 10], true), "the ring's end is not the room's");
    let page = desk.read(read::Span::Before(7), 50);
    assert_eq!((offsets(&page), page.more), ((1..=6).collect(), false));
    let page = desk.read(read::Span::After(0), 4);
    assert_eq!((offsets(&page), page.more, page.first), (vec![1, 2, 3, 4], true, 1));
    let page = desk.read(read::Span::After(8), 4);
    assert_eq!((offsets(&page), page.more), (vec![9, 10], false));
}

#[test]
fn number_of_messages_is_kept() {
    let mut desk = Desk::new(Keep { messages: 20, ..MUCH });
    for _ in 0..50 {
        desk.publish("");
    }
    let page = desk.read(read::Span::After(0), 100);
    assert_eq!((offsets(&page), page.first), ((31..=50).collect(), 31));
    assert!(desk.first > 20, "purged now and then: {}", desk.first);
}

#[test]
fn old_messages_are_gone() {
    let mut desk = Desk::new(MUCH);
    for _ in 0..5 {
        desk.publish("");
    }
    desk.wait(6_000);
    desk.publish("");
    desk.wait(6_000);
    let page = desk.read(read::Span::After(0), 3);
    assert_eq!((offsets(&page), page.first), (vec![6], 6));
    assert_eq!(desk.first, 6);
}

/// The log names its one room, and the partition looks at it.
fn sweep(desk: &mut Desk) {
    assert_eq!(desk.partition.poll_sweep(desk.now), Some(None));
    assert_eq!(desk.partition.poll_sweep(desk.now), None, "one question at a time");
    desk.partition.on_rooms(vec![RoomName::parse(ROOM).unwrap()], desk.now);
    desk.partition.on_tick(desk.now);
    desk.settle();
    assert_eq!(desk.partition.poll_sweep(desk.now), Some(RoomName::parse(ROOM).ok()));
    desk.partition.on_rooms(Vec::new(), desk.now);
    assert_eq!(desk.partition.poll_sweep(desk.now), None, "the next round is later");
    desk.wait(1_000);
}

#[test]
fn old_rooms_that_nobody_touches_leave_the_log() {
    let mut desk = Desk::new(MUCH);
    for _ in 0..3 {
        desk.publish("");
    }
    sweep(&mut desk);
    assert_eq!((desk.log.len(), desk.first), (3, 1), "it is young");
    desk.wait(20_000);
    // After a restart, so that nothing of the room is in memory.
    let start = Start { last_sequence: 3, ..desk.partition.start.clone() };
    desk.partition = Partition::new(desk.partition.config.clone(), start, []);
    sweep(&mut desk);
    assert!(desk.log.is_empty());
}

#[test]
fn old_messages_that_nobody_reads_leave_the_log() {
    let mut desk = Desk::new(MUCH);
    for _ in 0..5 {
        desk.publish("");
    }
    desk.wait(6_000);
    desk.publish("");
    desk.wait(6_000);
    sweep(&mut desk);
    assert_eq!((desk.first, desk.log.len()), (6, 6));
}

#[test]
fn emptied_room_begins_another_life() {
    let mut desk = Desk::new(MUCH);
    assert_eq!(desk.attach().epoch, "");
    desk.publish("");
    desk.publish("");
    desk.wait(20_000);
    let heard = desk.publish("");
    match &heard[..] {
        [down::Item::Attached(emptied), down::Item::Published(told), down::Item::Message(message)] => {
            assert_eq!((emptied.head, emptied.epoch.as_str()), (0, ""));
            assert_eq!((told.offset, message.offset, message.epoch.as_str()), (1, 1, "i.3"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn window_bounds_what_is_under_way() {
    let mut desk = Desk::new(MUCH);
    desk.partition.config.window = 0;
    match &desk.publish("")[..] {
        [down::Item::Failed(failed)] => assert_eq!((failed.code(), failed.retry_after_ms), (Code::Unavailable, RETRY_AFTER_MS)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn strangers_on_the_subject_change_nothing() {
    let mut desk = Desk::new(MUCH);
    desk.publish("");
    let batch = |gateway: &[u8], version| UpBatch {
        version,
        gateway: Bytes::copy_from_slice(gateway),
        link: 9,
        number: 1,
        items: vec![Up { item: Some(up::Item::Detach(link::Detach { room: "\u{0}".into() })) }],
        ..UpBatch::default()
    };
    for stranger in [batch(b"short", 1), batch(&[8; 16], 2), batch(&[8; 16], 1)] {
        desk.partition.on_batch(stranger, desk.now);
    }
    assert_eq!(desk.partition.rooms(), 1);
}

#[test]
fn absurd_numbers_are_survived() {
    let mut desk = Desk::new(MUCH);
    desk.publish("");
    for offset in [u64::MAX, u64::MAX - 1] {
        assert!(desk.read(read::Span::After(offset), u32::MAX).messages.is_empty());
        desk.read(read::Span::Before(offset), 0);
        let attach = Attach { room: ROOM.into(), since: Some(offset), epoch: "another.1".into() };
        desk.say(up::Item::Attach(attach));
    }
    let went = link::Went { room: ROOM.into(), user: "nobody".into(), left: true };
    desk.say(up::Item::Went(went));
    let batch = UpBatch {
        version: link::VERSION,
        gateway: Bytes::copy_from_slice(&GATEWAY.0),
        link: u64::MAX,
        number: u64::MAX,
        generation: 1,
        items: vec![Up { item: None }],
        settled: u64::MAX,
    };
    desk.partition.on_batch(batch, desk.now);
    desk.settle();
}

#[test]
fn connections_are_counted_when_asked() {
    let mut desk = Desk::new(Keep::DEFAULT);
    desk.attach();
    let mut came = |ask| {
        let came = Came { room: ROOM.into(), user: "ada".into(), info: String::new(), ask };
        desk.say(up::Item::Came(came)).into_iter().find_map(|item| match item {
            down::Item::Counted(Counted { ask, connections, .. }) => Some((ask, connections)),
            _ => None,
        })
    };
    assert_eq!([came(0), came(7), came(8)], [None, Some((7, 2)), Some((8, 3))]);
}

#[test]
fn more_seen_than_there_is_means_loss() {
    let mut desk = Desk::new(MUCH);
    let epoch = desk.attach().epoch;
    desk.publish("");
    desk.publish("");
    let epoch = Some(epoch).filter(|epoch| !epoch.is_empty()).unwrap_or_else(|| "i.1".into());
    desk.number += 1;
    for (since, is_loss) in [(2, false), (3, true)] {
        let attach = Attach { room: ROOM.into(), since: Some(since), epoch: epoch.clone() };
        let batch = UpBatch {
            version: link::VERSION,
            gateway: Bytes::copy_from_slice(&[8; 16]),
            link: since,
            number: 1,
            items: vec![Up { item: Some(up::Item::Attach(attach)) }],
            ..UpBatch::default()
        };
        desk.partition.on_batch(batch, desk.now);
        let effects: Vec<Effect> = std::iter::from_fn(|| desk.partition.poll_effect(desk.now)).collect();
        assert_eq!(effects.iter().any(|effect| matches!(effect, Effect::TailLost)), is_loss, "{effects:?}");
        assert_eq!(effects.iter().any(|effect| matches!(effect, Effect::Send { .. })), !is_loss, "{effects:?}");
    }
}

#[test]
fn another_incarnation_renames_every_epoch() {
    let mut desk = Desk::new(MUCH);
    desk.publish("");
    let start = Start { incarnation: "i-1".into(), last_sequence: 1, ..desk.partition.start.clone() };
    desk.partition = Partition::new(desk.partition.config.clone(), start, []);
    desk.number = 0;
    assert_eq!(desk.attach().epoch, "i-1.1");
    let page = desk.read(read::Span::After(0), 10);
    assert_eq!((page.epoch.as_str(), page.messages[0].epoch.as_str()), ("i-1.1", "i-1.1"));
}

#[test]
fn old_lease_silences() {
    let mut desk = Desk::new(MUCH);
    desk.attach();
    desk.partition.on_lease(desk.now.mono_ms + 1_000);
    assert_eq!(desk.publish("").len(), 2);
    desk.wait(1_000);
    assert!(desk.publish("").is_empty());
    desk.partition.on_tick(desk.now);
    assert!(desk.partition.poll_effect(desk.now).is_none());
    assert_eq!(desk.log.len(), 1);
    // What it did not hear makes a hole in the link, which is how the gateway finds out.
    desk.partition.on_lease(desk.now.mono_ms + 1_000);
    desk.publish("");
    assert_eq!(desk.log.len(), 1);
}

/// A publish waited for its room's head while its gateway, on its next link, told that it had the answer: from the owner
/// before, whose record of it was forgotten then. It was stored a second time.
#[test]
fn settled_publish_is_not_stored_again() {
    let mut desk = Desk::new(MUCH);
    desk.publish("");
    let start = Start { last_sequence: 1, ..desk.partition.start.clone() };
    desk.partition = Partition::new(desk.partition.config.clone(), start, desk.log.clone());
    let again = Publish {
        publish: 1,
        room: ROOM.into(),
        payload: Bytes::from_static(b"1"),
        user: "u".into(),
        client: "c".into(),
        ..Publish::default()
    };
    let attach = Attach { room: ROOM.into(), ..Attach::default() };
    for (link, settled, item) in [(1, 1, up::Item::Publish(again)), (2, 2, up::Item::Attach(attach))] {
        let batch = UpBatch {
            version: link::VERSION,
            gateway: Bytes::copy_from_slice(&GATEWAY.0),
            link,
            number: 1,
            generation: 0,
            items: vec![Up { item: Some(item) }],
            settled,
        };
        desk.partition.on_batch(batch, desk.now);
    }
    desk.settle();
    assert_eq!(desk.log.len(), 1);
}

/// Keys were forgotten by the clock of the day, which may jump.
#[test]
fn clock_of_the_day_ends_no_key() {
    let mut desk = Desk::new(Keep { age_ms: 86_400_000, ..MUCH });
    desk.publish("k");
    desk.now.unix_ms += 3_600_000;
    desk.partition.on_tick(desk.now);
    desk.publish("k");
    assert_eq!(desk.log.len(), 1);
}

fn erase(erase: u64) -> up::Item {
    up::Item::Erase(Erase { erase, room: ROOM.into() })
}

#[test]
fn erased_room_begins_another_life() {
    let mut desk = Desk::new(Keep::DEFAULT);
    let first = desk.attach();
    assert!(first.epoch.is_empty());
    for _ in 0..5 {
        desk.publish("");
    }
    let heard = desk.say(erase(7));
    // Members are told as of any emptied room, and only then whoever asked.
    assert!(
        matches!(&heard[..], [down::Item::Attached(told), down::Item::Erased(done)]
        if told.head == 0 && told.epoch.is_empty() && done.erase == 7),
        "{heard:?}"
    );
    assert!(desk.log.is_empty());
    assert!(offsets(&desk.read(read::Span::After(0), 10)).is_empty());
    let heard = desk.publish("");
    assert!(
        heard.iter().any(|item| matches!(item, down::Item::Message(message)
        if message.offset == 1 && message.epoch == "i.6")),
        "{heard:?}"
    );
}

#[test]
fn erasing_nothing_is_done_at_once() {
    let mut desk = Desk::new(Keep::DEFAULT);
    for number in 1..=2 {
        let heard = desk.say(erase(number));
        assert!(matches!(&heard[..], [down::Item::Erased(done)] if done.erase == number), "{heard:?}");
    }
}

/// One batch: two publishes, a deletion, a publish, another deletion; and a log that takes its time.
#[test]
fn deletion_has_its_place_among_publishes() {
    let mut desk = Desk::new(Keep::DEFAULT);
    desk.attach();
    let publish = |publish| {
        up::Item::Publish(Publish { publish, room: ROOM.into(), payload: Bytes::from_static(b"1"), ..Publish::default() })
    };
    let items = [publish(1), publish(2), erase(1), publish(3), publish(4), erase(2), publish(5)];
    desk.say_at_once(items);
    // Nothing is forgotten while an append is under way, and nothing is appended before it is forgotten.
    let mut done = Vec::new();
    let mut told = Vec::new();
    loop {
        let mut in_flight = 0;
        while let Some(effect) = desk.partition.poll_effect(desk.now) {
            match effect {
                Effect::Append { offset, .. } => {
                    in_flight += 1;
                    done.push(format!("append {offset}"));
                }
                Effect::Empty { room, .. } => {
                    assert_eq!(in_flight, 0);
                    done.push("empty".into());
                    desk.partition.on_emptied(room, desk.now);
                }
                Effect::Send { batch, .. } => told.extend(batch.items.into_iter().filter_map(|Down { item }| item)),
                other => panic!("{other:?}"),
            }
        }
        if in_flight == 0 {
            break;
        }
        for _ in 0..in_flight {
            desk.partition.on_appended(desk.now);
        }
    }
    assert_eq!(done, ["append 1", "append 2", "empty", "append 1", "append 2", "empty", "append 1"]);
    let epochs: Vec<&str> =
        told.iter().filter_map(|item| if let down::Item::Message(it) = item { Some(&*it.epoch) } else { None }).collect();
    assert_eq!(epochs, ["i.1", "i.1", "i.3", "i.3", "i.5"]);
    assert_eq!(told.iter().filter(|item| matches!(item, down::Item::Erased(_))).count(), 2);
}

/// A page that the log was asked for in one life must not come as one of the next.
#[test]
fn reads_under_way_are_asked_again_in_the_next_life() {
    let mut desk = Desk::new(Keep::DEFAULT);
    desk.attach();
    for _ in 0..20 {
        desk.publish("");
    }
    let read = Read { read: 9, room: ROOM.into(), span: Some(read::Span::After(0)), limit: 10 };
    desk.say_at_once([up::Item::Read(read), erase(1)]);
    let (mut ticket, mut late) = (None, None);
    while let Some(effect) = desk.partition.poll_effect(desk.now) {
        match effect {
            Effect::Read { ticket: of, .. } if ticket.is_none() => ticket = Some(of),
            Effect::Empty { room, .. } => {
                late = Some(desk.log.drain(..).take(10).collect::<Vec<_>>());
                desk.partition.on_emptied(room, desk.now);
            }
            Effect::Send { batch, .. } => desk.heard.extend(batch.items.into_iter().filter_map(|Down { item }| item)),
            other => panic!("{other:?}"),
        }
    }
    desk.publish("");
    desk.partition.on_part(ticket.expect("it is not in the ring"), late.expect("emptied"), 1, desk.now);
    desk.settle();
    let pages: Vec<_> = desk.heard.iter().filter(|item| matches!(item, down::Item::Page(_))).collect();
    assert!(pages.is_empty(), "{pages:?}");
}

/// Reads that the desk does not answer by itself.
fn asked_reads(desk: &mut Desk) -> Vec<u64> {
    let mut tickets = Vec::new();
    while let Some(effect) = desk.partition.poll_effect(desk.now) {
        if let Effect::Read { ticket, .. } = effect {
            tickets.push(ticket);
        }
    }
    tickets
}

fn read_batch(number: u64, reads: std::ops::Range<u64>) -> UpBatch {
    let read =
        |read| Up { item: Some(up::Item::Read(Read { read, room: ROOM.into(), span: Some(read::Span::After(0)), limit: 1 })) };
    UpBatch {
        version: link::VERSION,
        gateway: Bytes::copy_from_slice(&GATEWAY.0),
        link: 1,
        number,
        generation: 0,
        items: reads.map(read).collect(),
        settled: 0,
    }
}

#[test]
fn reads_wait_for_each_other() {
    let mut desk = Desk::new(MUCH);
    for _ in 0..10 {
        desk.publish("");
    }
    desk.partition.config.reads = 2;
    let count = 3 + MAX_WAITING_READS as u64;
    desk.partition.on_batch(read_batch(desk.number + 1, 0..count), desk.now);
    let (mut under_way, mut answered) = (Vec::new(), 0);
    while let Some(effect) = desk.partition.poll_effect(desk.now) {
        match effect {
            Effect::Read { ticket, .. } => under_way.push(ticket),
            Effect::Send { batch, .. } => {
                let failed = batch.items.iter().filter(|down| matches!(down.item, Some(down::Item::Failed(_)))).count();
                assert_eq!((failed, batch.items.len()), (1, 1), "one more than may wait");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(under_way.len(), 2);
    while let Some(ticket) = under_way.pop() {
        desk.partition.on_part(ticket, desk.log[..1].to_vec(), 1, desk.now);
        answered += 1;
        under_way.extend(asked_reads(&mut desk));
        assert!(under_way.len() <= 2);
    }
    assert_eq!(answered, count - 1);
}

#[test]
fn rings_are_bounded_together() {
    let rooms: Vec<String> = (0..100_000)
        .map(|number| format!("room {number}"))
        .filter(|name| RoomName::parse(name).unwrap().partition() == RoomName::parse(ROOM).unwrap().partition())
        .take(200)
        .collect();
    let mut desk = Desk::new(MUCH);
    desk.partition.config.rings_bytes = 50_000;
    let say = |desk: &mut Desk, room: &str| {
        desk.publishes += 1;
        let publish = Publish {
            publish: desk.publishes,
            room: room.into(),
            payload: Bytes::from(vec![b'1'; 1_000]),
            user: "u".into(),
            client: "c".into(),
            ..Publish::default()
        };
        desk.log.clear();
        desk.say(up::Item::Publish(publish));
        assert!(desk.partition.ring_bytes() <= 50_000, "{}", desk.partition.ring_bytes());
    };
    let first = |desk: &Desk, room: &str| match desk.partition.rooms.get(&RoomName::parse(room).unwrap()) {
        Some(Room::Ready(room)) => room.ring.first(),
        other => panic!("{other:?}"),
    };
    say(&mut desk, &rooms[0]);
    for room in &rooms[1..] {
        say(&mut desk, room);
        // Whoever is read from stays at hand.
        desk.say(up::Item::Read(Read { read: 1, room: rooms[0].clone(), span: Some(read::Span::After(0)), limit: 1 }));
    }
    assert_eq!(first(&desk, &rooms[0]), Some(1));
    assert_eq!(first(&desk, &rooms[1]), None);
    assert_eq!(first(&desk, &rooms[199]), Some(1));
    // Rooms that leave memory take their part along.
    desk.wait(120_000);
    desk.partition.on_tick(desk.now);
    assert_eq!((desk.partition.rooms(), desk.partition.ring_bytes()), (0, 0));
}

const OTHER: GatewayId = GatewayId([9; 16]);

fn from(gateway: GatewayId, link: u64, number: u64, items: Vec<up::Item>) -> UpBatch {
    UpBatch {
        version: link::VERSION,
        gateway: Bytes::copy_from_slice(&gateway.0),
        link,
        number,
        generation: 0,
        items: items.into_iter().map(|item| Up { item: Some(item) }).collect(),
        settled: 0,
    }
}

fn attach_known() -> up::Item {
    up::Item::Attach(Attach { room: ROOM.into(), since: Some(0), ..Attach::default() })
}

fn came(user: &str) -> up::Item {
    up::Item::Came(Came { room: ROOM.into(), user: user.into(), ..Came::default() })
}

fn who(who: u64) -> up::Item {
    up::Item::Who(Who { who, room: ROOM.into() })
}

fn told(heard: &[down::Item]) -> Vec<(u64, u64)> {
    let present = heard.iter().filter_map(|item| match item {
        down::Item::Present(present) => Some((present.who, present.count)),
        _ => None,
    });
    present.collect()
}

#[test]
fn who_is_there_is_told_when_it_is_known() {
    let mut desk = Desk::new(MUCH);
    // A new owner: of two gateways that knew the room, one is back already, and asks.
    desk.partition.on_batch(from(GATEWAY, 1, 1, vec![attach_known(), came("ada"), who(1)]), desk.now);
    desk.settle();
    assert_eq!(told(&std::mem::take(&mut desk.heard)), [], "ada may not be all");
    desk.wait(1_000);
    desk.partition.on_batch(from(OTHER, 1, 1, vec![attach_known(), came("bob")]), desk.now);
    desk.settle();
    desk.wait(presence::QUIET_MS);
    desk.partition.on_tick(desk.now);
    desk.settle();
    assert_eq!(told(&std::mem::take(&mut desk.heard)), [(1, 2)]);

    // A link that breaks and is opened again makes nobody wait: what was said on it is still known.
    desk.partition.on_batch(from(GATEWAY, 2, 1, vec![attach_known(), came("ada"), who(2)]), desk.now);
    desk.settle();
    assert_eq!(told(&std::mem::take(&mut desk.heard)), [(2, 2)]);
}

fn counted(heard: &[down::Item]) -> Vec<(u64, u32, bool)> {
    let counted = heard.iter().filter_map(|item| match item {
        down::Item::Counted(counted) => Some((counted.ask, counted.connections, counted.early)),
        _ => None,
    });
    counted.collect()
}

/// The limit of connections per user could be passed after a takeover: the first gateway that came back was told of its own alone.
#[test]
fn connections_are_counted_again_once_all_are_back() {
    let asks = |ask| up::Item::Came(Came { room: ROOM.into(), user: "ada".into(), ask, ..Came::default() });
    let mut desk = Desk::new(MUCH);
    desk.attach();
    let heard = desk.say(asks(7));
    assert_eq!(counted(&heard), [(7, 1, true)]);
    // Another gateway, where ada has two connections, comes back later than this new one.
    desk.wait(1_000);
    desk.partition.on_batch(from(OTHER, 1, 1, vec![attach_known(), came("ada"), came("ada")]), desk.now);
    desk.settle();
    desk.heard.clear();
    desk.wait(presence::QUIET_MS);
    desk.partition.on_tick(desk.now);
    desk.settle();
    assert_eq!(counted(&std::mem::take(&mut desk.heard)), [(7, 3, false)]);
    let heard = desk.say(asks(8));
    assert_eq!(counted(&heard), [(8, 4, false)]);
}
