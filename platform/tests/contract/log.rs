//! The contract of the log port.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use carillon_platform::log::{Append, AppendError, Log, Part, ReadLimit, ReadSpan, Sequence};
use carillon_proto::ids::{Offset, PartitionId, RoomName};
use futures_util::{
    FutureExt,
    future::{BoxFuture, join_all},
};

/// A place where a log lives on while processes come and go.
///
/// An open may take sequences of its own, so that no fact counts from 1: it counts from where the open stood.
pub(crate) trait World {
    /// The log, opened by another process so to say. The one before was dropped.
    fn open(&self) -> BoxFuture<'_, Arc<dyn Log>>;
}

/// Makes one test per fact; the expression makes a [`World`] with an empty log, and may await.
macro_rules! log_contract {
    ($make:expr) => {
        $crate::contract::log::log_contract!($make;
            acks_come_in_order,
            wrong_sequence_is_fenced,
            wrong_offset_is_fenced,
            partitions_count_alone,
            empty_room_reads_empty,
            head_is_the_newest,
            reads_go_both_ways,
            reads_keep_their_limits,
            odd_names_stay_apart,
            prefixes_stay_apart,
            trim_moves_the_first,
            trim_keeps_the_newest,
            trim_survives_reopening,
            emptied_room_starts_anew,
            emptying_spares_what_was_not_judged,
            recent_is_in_order,
            reopening_loses_nothing,
            rooms_are_named_or_forgotten_by_the_log,
            worlds_have_own_incarnations,
        );
    };
    ($make:expr; $($fact:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $fact() {
                $crate::contract::log::$fact(async || $make).await;
            }
        )*
    };
}
pub(crate) use log_contract;

const P: PartitionId = PartitionId(3);
const ALL: ReadLimit = ReadLimit { records: 1_000, bytes: 1_000_000 };

fn room(name: &str) -> RoomName {
    RoomName::parse(name).expect("a legal name")
}

fn entry(room: &RoomName, offset: Offset, sequence: Sequence, text: impl Into<String>) -> Append {
    Append { room: room.clone(), offset, sequence, record: Bytes::from(text.into()) }
}

/// Opens the test's partition, and tells the sequence that the first append comes after.
async fn open(log: &Arc<dyn Log>) -> Sequence {
    log.open(P).await.expect("there").last
}

async fn append(log: &Arc<dyn Log>, room: &RoomName, offset: Offset, sequence: Sequence) {
    let ack = log.append(P, entry(room, offset, sequence, format!("{room} {offset}"))).await;
    assert_eq!(ack, Ok(sequence));
}

/// An empty room gets the offsets 1 to `count`, with the sequences after `last`.
async fn fill(log: &Arc<dyn Log>, room: &RoomName, last: Sequence, count: u64) {
    let acks = (1..=count).map(|n| log.append(P, entry(room, n, last + n, format!("{room} {n}"))));
    assert!(join_all(acks).await.iter().all(Result::is_ok));
}

async fn read(log: &Arc<dyn Log>, room: &RoomName, span: ReadSpan, limit: ReadLimit) -> Part {
    log.read(P, room, span, limit).await.expect("readable")
}

/// What the records say, and the room's first offset.
fn told(part: &Part) -> (Vec<String>, Offset) {
    (part.records.iter().map(|stored| String::from_utf8(stored.record.to_vec()).expect("text")).collect(), part.first)
}

fn offsets(room: &RoomName, offsets: impl IntoIterator<Item = u64>) -> Vec<String> {
    offsets.into_iter().map(|offset| format!("{room} {offset}")).collect()
}

pub(crate) async fn acks_come_in_order<W: World>(make: impl AsyncFn() -> W) {
    let world = make().await;
    let log = world.open().await;
    let last = open(&log).await;
    // Over two rooms, so that it isn't their offsets that keep the order.
    let rooms = [room("odd"), room("even")];
    let appends = (1..=500u64).map(|n| log.append(P, entry(&rooms[(n % 2) as usize], n.div_ceil(2), last + n, "x")));
    let mut waiting: Vec<_> = appends.collect();
    // When one resolves, all before it have: they are ready at once. (tokio would make the task pause after 128 of them.)
    assert_eq!(waiting.pop().expect("the last one").await, Ok(last + 500));
    for (ack, n) in waiting.into_iter().zip(1..) {
        assert_eq!(tokio::task::unconstrained(ack).now_or_never(), Some(Ok(last + n)));
    }
}

pub(crate) async fn wrong_sequence_is_fenced<W: World>(make: impl AsyncFn() -> W) {
    let world = make().await;
    let log = world.open().await;
    let last = open(&log).await;
    let a = room("a");
    append(&log, &a, 1, last + 1).await;
    // The zombie's whole pipeline fails, not only its first append.
    let zombie = [(2, 3), (3, 4), (4, 5), (2, 1)].map(|(offset, n)| log.append(P, entry(&a, offset, last + n, "no")));
    for (ack, n) in join_all(zombie).await.into_iter().zip([3, 4, 5, 1]) {
        assert_eq!(ack, Err(AppendError::Fenced { expected: last + n, last: last + 1 }));
    }
    let recent = log.recent(P, Duration::from_secs(60), Bytes::copy_from_slice).await.expect("readable");
    assert!(recent.iter().map(|stored| stored.sequence).eq([last + 1]));
    let last = open(&log).await;
    append(&log, &a, 2, last + 1).await;
    assert_eq!(told(&read(&log, &a, ReadSpan::After(0), ALL).await), (offsets(&a, 1..=2), 1));
}

pub(crate) async fn wrong_offset_is_fenced<W: World>(make: impl AsyncFn() -> W) {
    let world = make().await;
    let log = world.open().await;
    let last = open(&log).await;
    let (a, b) = (room("a"), room("b"));
    append(&log, &a, 1, last + 1).await;
    for (room, offset) in [(&a, 1), (&a, 3), (&a, 0), (&b, 2), (&b, 0)] {
        let ack = log.append(P, entry(room, offset, last + 2, "no")).await;
        assert_eq!(ack, Err(AppendError::Fenced { expected: last + 2, last: last + 1 }), "{room} {offset}");
    }
    append(&log, &b, 1, last + 2).await;
    append(&log, &a, 2, last + 3).await;
}

pub(crate) async fn partitions_count_alone<W: World>(make: impl AsyncFn() -> W) {
    let world = make().await;
    let log = world.open().await;
    let a = room("a");
    let opened = join_all(PartitionId::all().map(|partition| log.open(partition))).await;
    let lasts: Vec<_> = opened.into_iter().map(|opened| opened.expect("there").last).collect();
    assert!(lasts.iter().all(|last| *last == lasts[0]));
    let next = lasts[0] + 1;
    let acks = PartitionId::all().map(|partition| log.append(partition, entry(&a, 1, next, partition.to_string())));
    assert!(join_all(acks).await.iter().all(|ack| *ack == Ok(next)));
    for partition in PartitionId::all() {
        let part = log.read(partition, &a, ReadSpan::After(0), ALL).await.expect("readable");
        assert_eq!(told(&part), (vec![partition.to_string()], 1));
        assert_eq!(log.recent(partition, Duration::from_secs(60), Bytes::copy_from_slice).await.expect("readable").len(), 1);
        assert!(log.open(partition).await.expect("readable").last >= next);
    }
}

pub(crate) async fn empty_room_reads_empty<W: World>(make: impl AsyncFn() -> W) {
    let world = make().await;
    let log = world.open().await;
    let last = open(&log).await;
    append(&log, &room("neighbour"), 1, last + 1).await;
    let empty = room("empty");
    assert_eq!(log.head(P, &empty).await, Ok(None));
    for span in [ReadSpan::After(0), ReadSpan::After(7), ReadSpan::Before(Offset::MAX), ReadSpan::Before(0)] {
        assert_eq!(read(&log, &empty, span, ALL).await, Part { records: vec![], first: 0 });
    }
    assert_eq!(log.trim(P, &empty, 5, Sequence::MAX).await, Ok(()));
    append(&log, &empty, 1, last + 2).await;
    assert_eq!(told(&read(&log, &empty, ReadSpan::After(0), ALL).await), (offsets(&empty, [1]), 1));
}

pub(crate) async fn head_is_the_newest<W: World>(make: impl AsyncFn() -> W) {
    let world = make().await;
    let log = world.open().await;
    let last = open(&log).await;
    let (a, b) = (room("a"), room("b"));
    append(&log, &a, 1, last + 1).await;
    append(&log, &b, 1, last + 2).await;
    append(&log, &a, 2, last + 3).await;
    append(&log, &b, 2, last + 4).await;
    let head = log.head(P, &a).await.expect("readable").expect("not empty");
    assert_eq!((head.sequence, &head.record[..]), (last + 3, &b"a 2"[..]));
}

pub(crate) async fn reads_go_both_ways<W: World>(make: impl AsyncFn() -> W) {
    let world = make().await;
    let log = world.open().await;
    let last = open(&log).await;
    let a = room("a");
    fill(&log, &a, last, 300).await;
    let ten = ReadLimit { records: 10, ..ALL };
    for (span, expected) in [
        (ReadSpan::After(0), 1..=10),
        (ReadSpan::After(255), 256..=265),
        (ReadSpan::After(295), 296..=300),
        (ReadSpan::Before(Offset::MAX), 291..=300),
        (ReadSpan::Before(301), 291..=300),
        (ReadSpan::Before(257), 247..=256),
        (ReadSpan::Before(4), 1..=3),
    ] {
        assert_eq!(told(&read(&log, &a, span, ten).await), (offsets(&a, expected), 1), "{span:?}");
    }
    for span in [ReadSpan::After(300), ReadSpan::After(Offset::MAX), ReadSpan::Before(1), ReadSpan::Before(0)] {
        assert_eq!(told(&read(&log, &a, span, ten).await), (vec![], 1), "{span:?}");
    }
    let part = read(&log, &a, ReadSpan::After(10), ten).await;
    assert!(part.records.iter().map(|stored| stored.sequence).eq(last + 11..=last + 20));
}

pub(crate) async fn reads_keep_their_limits<W: World>(make: impl AsyncFn() -> W) {
    let world = make().await;
    let log = world.open().await;
    let last = open(&log).await;
    let a = room("a");
    for n in 1..=5 {
        assert_eq!(log.append(P, entry(&a, n, last + n, "x".repeat(100))).await, Ok(last + n));
    }
    let count = async |span, bytes| read(&log, &a, span, ReadLimit { records: 4, bytes }).await.records.len();
    for span in [ReadSpan::After(0), ReadSpan::Before(Offset::MAX)] {
        assert_eq!(count(span, 1_000).await, 4, "{span:?} by records");
        assert_eq!(count(span, 300).await, 3, "{span:?} exactly full");
        assert_eq!(count(span, 299).await, 2, "{span:?} by bytes");
        assert_eq!(count(span, 1).await, 1, "{span:?} never nothing");
    }
}

pub(crate) async fn odd_names_stay_apart<W: World>(make: impl AsyncFn() -> W) {
    let world = make().await;
    let log = world.open().await;
    let last = open(&log).await;
    let long = "x".repeat(RoomName::MAX_BYTES);
    let names = [
        "a b",
        "a  b",
        "a.b",
        "a.*",
        "*",
        ">",
        "a.>",
        "räume",
        "ra\u{308}ume",
        "房间",
        "🎉",
        "\u{a0}",
        "a/b",
        "a\\b",
        "$JS",
        "..",
        ".",
        "%00",
        "\"",
        "_",
        "A",
        "a",
        "\u{10ffff}",
        &long,
        &long[1..],
        "user:a",
    ];
    let rooms = names.map(room);
    for (room, n) in rooms.iter().zip(1..) {
        append(&log, room, 1, last + n).await;
    }
    for (room, n) in rooms.iter().zip(1..) {
        append(&log, room, 2, last + names.len() as u64 + n).await;
    }
    for room in &rooms {
        assert_eq!(told(&read(&log, room, ReadSpan::After(0), ALL).await), (offsets(room, 1..=2), 1));
        let head = log.head(P, room).await.expect("readable").expect("not empty");
        assert_eq!(head.record, format!("{room} 2"));
    }
}

pub(crate) async fn prefixes_stay_apart<W: World>(make: impl AsyncFn() -> W) {
    let world = make().await;
    let log = world.open().await;
    let last = open(&log).await;
    let rooms = ["a", "a:", "ab", "a b", "a.b", "aa"].map(room);
    let mut sequence = last;
    for (count, room) in rooms.iter().enumerate() {
        for offset in 1..=count as u64 + 1 {
            sequence += 1;
            append(&log, room, offset, sequence).await;
        }
    }
    for (count, room) in rooms.iter().enumerate() {
        let all = offsets(room, 1..=count as u64 + 1);
        assert_eq!(told(&read(&log, room, ReadSpan::After(0), ALL).await), (all.clone(), 1));
        assert_eq!(told(&read(&log, room, ReadSpan::Before(Offset::MAX), ALL).await), (all, 1));
    }
    assert_eq!(log.trim(P, &rooms[5], 6, Sequence::MAX).await, Ok(()));
    assert_eq!(read(&log, &rooms[0], ReadSpan::After(0), ALL).await.first, 1);
}

pub(crate) async fn trim_moves_the_first<W: World>(make: impl AsyncFn() -> W) {
    let world = make().await;
    let log = world.open().await;
    let last = open(&log).await;
    let (a, b) = (room("a"), room("b"));
    fill(&log, &a, last, 20).await;
    append(&log, &b, 1, last + 21).await;
    for below in [8, 8, 3, 0] {
        assert_eq!(log.trim(P, &a, below, Sequence::MAX).await, Ok(()));
        assert_eq!(told(&read(&log, &a, ReadSpan::After(0), ALL).await), (offsets(&a, 8..=20), 8));
        assert_eq!(told(&read(&log, &a, ReadSpan::Before(10), ALL).await), (offsets(&a, 8..=9), 8));
        assert_eq!(told(&read(&log, &a, ReadSpan::Before(8), ALL).await), (vec![], 8));
    }
    assert_eq!(read(&log, &b, ReadSpan::After(0), ALL).await.first, 1);
    append(&log, &a, 21, last + 22).await;
    // Two at once: the higher one holds, whichever is the last.
    let both = tokio::join!(log.trim(P, &a, 15, Sequence::MAX), log.trim(P, &a, 12, Sequence::MAX));
    assert_eq!(both, (Ok(()), Ok(())));
    assert_eq!(told(&read(&log, &a, ReadSpan::After(0), ALL).await), (offsets(&a, 15..=21), 15));
}

pub(crate) async fn trim_keeps_the_newest<W: World>(make: impl AsyncFn() -> W) {
    let world = make().await;
    let log = world.open().await;
    let last = open(&log).await;
    let a = room("a");
    fill(&log, &a, last, 5).await;
    assert_eq!(log.trim(P, &a, Offset::MAX, Sequence::MAX).await, Ok(()));
    assert_eq!(told(&read(&log, &a, ReadSpan::After(0), ALL).await), (offsets(&a, [5]), 5));
    let ack = log.append(P, entry(&a, 1, last + 6, "again")).await;
    assert_eq!(ack, Err(AppendError::Fenced { expected: last + 6, last: last + 5 }));
    append(&log, &a, 6, last + 6).await;
    assert_eq!(told(&read(&log, &a, ReadSpan::After(0), ALL).await), (offsets(&a, 5..=6), 5));
}

pub(crate) async fn emptied_room_starts_anew<W: World>(make: impl AsyncFn() -> W) {
    let world = make().await;
    let log = world.open().await;
    let last = open(&log).await;
    let (a, b) = (room("a"), room("ab"));
    fill(&log, &a, last, 20).await;
    append(&log, &b, 1, last + 21).await;
    assert_eq!(log.trim(P, &a, 8, Sequence::MAX).await, Ok(()));
    assert_eq!(log.empty(P, &a, last + 21).await, Ok(()));
    assert_eq!(log.head(P, &a).await, Ok(None));
    assert_eq!(read(&log, &a, ReadSpan::After(0), ALL).await.first, 0);
    append(&log, &a, 1, last + 22).await;
    append(&log, &a, 2, last + 23).await;
    drop(log);
    let log = world.open().await;
    assert_eq!(told(&read(&log, &a, ReadSpan::After(0), ALL).await), (offsets(&a, 1..=2), 1));
    assert_eq!(read(&log, &b, ReadSpan::After(0), ALL).await.first, 1);
    let recent = log.recent(P, Duration::from_secs(60), Bytes::copy_from_slice).await.unwrap();
    assert_eq!(recent.len(), 3, "what was emptied is not remembered, what came after it is once");
}

pub(crate) async fn emptying_spares_what_was_not_judged<W: World>(make: impl AsyncFn() -> W) {
    let world = make().await;
    let log = world.open().await;
    let last = open(&log).await;
    let a = room("a");
    fill(&log, &a, last, 3).await;
    assert!(log.empty(P, &a, last + 2).await.is_err());
    assert_eq!(told(&read(&log, &a, ReadSpan::After(0), ALL).await), (offsets(&a, 1..=3), 1));
    append(&log, &a, 4, last + 4).await;
    assert_eq!(log.empty(P, &a, last + 4).await, Ok(()));
    assert_eq!(log.head(P, &a).await, Ok(None));
}

pub(crate) async fn trim_survives_reopening<W: World>(make: impl AsyncFn() -> W) {
    let world = make().await;
    let log = world.open().await;
    let last = open(&log).await;
    let a = room("a");
    fill(&log, &a, last, 20).await;
    assert_eq!(log.trim(P, &a, 15, Sequence::MAX).await, Ok(()));
    drop(log);
    let log = world.open().await;
    assert_eq!(told(&read(&log, &a, ReadSpan::After(0), ALL).await), (offsets(&a, 15..=20), 15));
    assert_eq!(log.trim(P, &a, 18, Sequence::MAX).await, Ok(()));
    assert_eq!(told(&read(&log, &a, ReadSpan::After(0), ALL).await), (offsets(&a, 18..=20), 18));
}

pub(crate) async fn recent_is_in_order<W: World>(make: impl AsyncFn() -> W) {
    let world = make().await;
    let log = world.open().await;
    let last = open(&log).await;
    let (a, b) = (room("a"), room("b"));
    for n in 1..=10 {
        append(&log, &a, n, last + 2 * n - 1).await;
        append(&log, &b, n, last + 2 * n).await;
    }
    let recent = log.recent(P, Duration::from_secs(120), Bytes::copy_from_slice).await.expect("readable");
    assert!(recent.iter().map(|stored| stored.sequence).eq(last + 1..=last + 20));
    assert_eq!(recent[18].record, "a 10");
    assert_eq!(recent[19].record, "b 10");
    let kept = log.recent(P, Duration::from_secs(120), |record| Bytes::copy_from_slice(&record[..1])).await.expect("readable");
    assert!(kept.iter().all(|stored| stored.record == if (stored.sequence - last) % 2 == 1 { "a" } else { "b" }));
    assert_eq!(log.recent(PartitionId(4), Duration::from_secs(120), Bytes::copy_from_slice).await, Ok(vec![]));
}

pub(crate) async fn rooms_are_named_or_forgotten_by_the_log<W: World>(make: impl AsyncFn() -> W) {
    let world = make().await;
    let log = world.open().await;
    let last = open(&log).await;
    let rooms = ["a", "a b", "ab", "b", "ä"].map(room);
    for (room, n) in rooms.iter().zip(1..) {
        append(&log, room, 1, last + n).await;
    }
    append(&log, &rooms[0], 2, last + 6).await;
    log.empty(P, &rooms[3], last + 6).await.expect("possible");
    let first = log.rooms(P, None, 2).await.expect("readable");
    if first.is_empty() {
        return;
    }
    assert_eq!(first, rooms[..2]);
    assert_eq!(log.rooms(P, Some(&rooms[1]), 9).await.expect("readable"), [rooms[2].clone(), rooms[4].clone()]);
    assert_eq!(log.rooms(PartitionId(4), None, 9).await, Ok(vec![]));
}

pub(crate) async fn reopening_loses_nothing<W: World>(make: impl AsyncFn() -> W) {
    let world = make().await;
    let log = world.open().await;
    let a = room("a");
    let first = log.open(P).await.expect("readable");
    fill(&log, &a, first.last, 100).await;
    drop(log);

    let log = world.open().await;
    let again = log.open(P).await.expect("readable");
    assert_eq!(again.incarnation, first.incarnation);
    assert!(again.last >= first.last + 100);
    assert_eq!(told(&read(&log, &a, ReadSpan::After(0), ALL).await), (offsets(&a, 1..=100), 1));
    let recent = log.recent(P, Duration::from_secs(120), Bytes::copy_from_slice).await.expect("readable");
    assert!(recent.iter().map(|stored| stored.sequence).eq(first.last + 1..=first.last + 100));
    let ack = log.append(P, entry(&a, 101, again.last, "no")).await;
    assert_eq!(ack, Err(AppendError::Fenced { expected: again.last, last: again.last }));
    append(&log, &a, 101, again.last + 1).await;
}

pub(crate) async fn worlds_have_own_incarnations<W: World>(make: impl AsyncFn() -> W) {
    let (one, two) = (make().await, make().await);
    let one = one.open().await.open(P).await.expect("readable").incarnation;
    let two = two.open().await.open(P).await.expect("readable").incarnation;
    assert_ne!(one, two);
    for incarnation in [one, two] {
        assert!(!incarnation.is_empty() && incarnation.len() <= 16, "{incarnation}");
        assert!(incarnation.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()), "{incarnation}");
    }
}
