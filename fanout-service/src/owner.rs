//! One partition's driver: takes the partition, carries inputs in and effects out, and takes it anew when the log has
//! lost count of it.

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use carillon_core::{
    Now,
    partition::{Effect, Partition, Start},
};
use carillon_platform::{
    bus::Subscription,
    log::{Append, AppendError, LogError, Part, ReadLimit, ReadSpan, Stored},
    shutdown::Shutdown,
};
use carillon_proto::{
    ids::{PartitionId, RoomName},
    link::{UpBatch, down_subject, up_subject},
    log::{self, Record},
};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesOrdered, stream::FuturesUnordered};
use prost::Message as _;
use tokio::time::{Duration, MissedTickBehavior, interval, sleep};

use crate::{Fanout, RETRY};

/// What the owners of a process did; only ever counts up.
#[derive(Debug, Default)]
pub struct Counters {
    /// Messages that the log acked.
    pub appends: AtomicU64,
    /// Batches sent to gateways.
    pub batches: AtomicU64,
    /// Batches that could not be read: another version, or a stranger on the subject.
    pub refused_batches: AtomicU64,
    /// Times that a partition was taken, the first one included.
    pub takeovers: AtomicU64,
    /// Rooms in memory now.
    pub rooms: AtomicI64,
}

/// How often a partition looks at the clock; heartbeats go out every second.
const TICK: Duration = Duration::from_millis(250);

/// Batches that are acted on before what they led to is carried out: enough to let a burst share its answers, few
/// enough to keep the first of it from waiting.
const INPUTS_PER_TURN: usize = 64;

/// Owns `partition` until it is dropped, or the log is closed for good.
pub(crate) async fn own(fanout: Fanout, partition: PartitionId, shutdown: Shutdown) {
    let clock = Clock::start();
    let mut generation = 0;
    loop {
        generation = clock.now().unix_ms.max(generation + 1);
        match take(&fanout, partition, generation).await {
            Ok((taken, inbox)) => {
                let mut driver = Driver::new(&fanout, partition, taken, clock, inbox);
                match driver.drive().await {
                    AppendError::Closed(why) => return shutdown.fail("log", why),
                    lost => tracing::warn!(%partition, %lost, "taking the partition anew"),
                }
            }
            Err(LogError::Broken(why)) => return shutdown.fail("log", why),
            Err(LogError::Unavailable(why)) => {
                tracing::warn!(%partition, %why, "the partition can't be taken yet");
                sleep(RETRY).await;
            }
        }
    }
}

async fn take(fanout: &Fanout, partition: PartitionId, generation: u64) -> Result<(Partition, Subscription), LogError> {
    let inbox = fanout.bus.subscribe(&up_subject(partition)).await.map_err(|error| LogError::Unavailable(error.to_string()))?;
    let opened = fanout.log.open(partition).await?;
    let recent = fanout.log.recent(partition, Duration::from_millis(fanout.config.key_window_ms)).await?;
    let recent = recent.iter().map(record).collect::<Result<Vec<_>, _>>()?;
    let start = Start {
        partition,
        generation,
        incarnation: opened.incarnation,
        last_sequence: opened.last,
        seed: u128::from_be_bytes(uuid::Uuid::new_v4().into_bytes()),
    };
    fanout.counters.takeovers.fetch_add(1, Ordering::Relaxed);
    Ok((Partition::new(fanout.config.clone(), start, recent), inbox))
}

/// What the log was asked, with the mark that the rules know the answer by.
type Asked<'f, Mark, Answer> = FuturesUnordered<BoxFuture<'f, (Mark, Result<Answer, LogError>)>>;

struct Driver<'f> {
    fanout: &'f Fanout,
    partition: PartitionId,
    rules: Partition,
    clock: Clock,
    inbox: Subscription,
    appends: FuturesOrdered<BoxFuture<'static, Result<u64, AppendError>>>,
    heads: Asked<'f, RoomName, Option<Stored>>,
    reads: Asked<'f, u64, Part>,
    trims: Asked<'f, RoomName, ()>,
    empties: Asked<'f, RoomName, ()>,
    counted_rooms: i64,
}

impl Drop for Driver<'_> {
    fn drop(&mut self) {
        self.count_rooms(0);
    }
}

impl<'f> Driver<'f> {
    fn new(fanout: &'f Fanout, partition: PartitionId, rules: Partition, clock: Clock, inbox: Subscription) -> Self {
        Self {
            fanout,
            partition,
            rules,
            clock,
            inbox,
            appends: FuturesOrdered::new(),
            heads: FuturesUnordered::new(),
            reads: FuturesUnordered::new(),
            trims: FuturesUnordered::new(),
            empties: FuturesUnordered::new(),
            counted_rooms: 0,
        }
    }

    /// Runs until an append fails: what was under way is unknown then, and the partition must be taken anew.
    async fn drive(&mut self) -> AppendError {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                batch = self.inbox.next() => match batch {
                    Some(batch) => self.on_batch(&batch),
                    None => return AppendError::Unknown("the bus is gone".into()),
                },
                Some(appended) = self.appends.next() => {
                    if let Err(lost) = self.on_appended(appended) {
                        return lost;
                    }
                }
                Some((room, head)) = self.heads.next() => self.on_head(room, head),
                Some((ticket, part)) = self.reads.next() => self.on_part(ticket, part),
                Some((room, trimmed)) = self.trims.next() => {
                    if let Err(error) = trimmed {
                        // What is over the limits is not shown anyhow; the next purge takes it along.
                        tracing::warn!(partition = %self.partition, %room, %error, "old messages can't be purged yet");
                    }
                }
                Some((room, emptied)) = self.empties.next() => match emptied {
                    Ok(()) => self.rules.on_emptied(room, self.clock.now()),
                    // Whoever waits for the room waits no longer than for a lost owner.
                    Err(error) => return AppendError::Unknown(format!("a room could not be emptied: {error}")),
                },
                _ = tick.tick() => {
                    self.rules.on_tick(self.clock.now());
                    self.count_rooms(self.rules.rooms());
                }
            }
            if let Err(lost) = self.take_what_is_ready() {
                return lost;
            }
            self.carry_out();
        }
    }

    fn count_rooms(&mut self, now: usize) {
        let now = now as i64;
        self.fanout.counters.rooms.fetch_add(now - self.counted_rooms, Ordering::Relaxed);
        self.counted_rooms = now;
    }

    fn take_what_is_ready(&mut self) -> Result<(), AppendError> {
        for _ in 0..INPUTS_PER_TURN {
            match self.inbox.try_next() {
                Some(batch) => self.on_batch(&batch),
                None => break,
            }
        }
        while let Some(Some(appended)) = self.appends.next().now_or_never() {
            self.on_appended(appended)?;
        }
        Ok(())
    }

    fn on_batch(&mut self, batch: &Bytes) {
        match UpBatch::decode(batch.clone()) {
            Ok(batch) => self.rules.on_batch(batch, self.clock.now()),
            Err(error) => {
                self.fanout.counters.refused_batches.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(partition = %self.partition, %error, "a batch that is none");
            }
        }
    }

    fn on_appended(&mut self, appended: Result<u64, AppendError>) -> Result<(), AppendError> {
        appended?;
        self.fanout.counters.appends.fetch_add(1, Ordering::Relaxed);
        self.rules.on_appended(self.clock.now());
        Ok(())
    }

    fn on_head(&mut self, room: RoomName, head: Result<Option<Stored>, LogError>) {
        match head.and_then(|newest| newest.as_ref().map(record).transpose()) {
            Ok(newest) => self.rules.on_head(room, newest, self.clock.now()),
            Err(error) => {
                tracing::warn!(partition = %self.partition, %error, "the head of a room can't be read");
                self.rules.on_head_failed(&room);
            }
        }
    }

    fn on_part(&mut self, ticket: u64, part: Result<Part, LogError>) {
        let read = part.and_then(|part| Ok((part.records.iter().map(record).collect::<Result<Vec<_>, _>>()?, part.first)));
        match read {
            Ok((records, first)) => self.rules.on_part(ticket, records, first, self.clock.now()),
            Err(error) => {
                tracing::warn!(partition = %self.partition, %error, "part of a room can't be read");
                self.rules.on_part_failed(ticket);
            }
        }
    }

    fn carry_out(&mut self) {
        let now = self.clock.now();
        let (log, partition) = (&self.fanout.log, self.partition);
        while let Some(effect) = self.rules.poll_effect(now) {
            match effect {
                Effect::Append { room, offset, sequence, record } => {
                    self.appends.push_back(log.append(partition, Append { room, offset, sequence, record }));
                }
                Effect::Head { room } => {
                    self.heads.push(async move { (room.clone(), log.head(partition, &room).await) }.boxed());
                }
                Effect::Read { ticket, room, after, before, limit, bytes } => {
                    let span = after.map_or(ReadSpan::Before(before.unwrap_or(u64::MAX)), ReadSpan::After);
                    let limit = ReadLimit { records: limit, bytes };
                    self.reads.push(async move { (ticket, log.read(partition, &room, span, limit).await) }.boxed());
                }
                Effect::Trim { room, below } => {
                    self.trims.push(async move { (room.clone(), log.trim(partition, &room, below).await) }.boxed())
                }
                Effect::Empty { room } => {
                    self.empties.push(async move { (room.clone(), log.empty(partition, &room).await) }.boxed())
                }
                Effect::Send { gateway, batch } => {
                    self.fanout.counters.batches.fetch_add(1, Ordering::Relaxed);
                    self.fanout.bus.publish(&down_subject(gateway, partition), batch.encode_to_vec().into());
                }
            }
        }
    }
}

fn record(stored: &Stored) -> Result<Record, LogError> {
    let record =
        Record::decode(stored.record.clone()).map_err(|error| LogError::Broken(format!("a record that is none: {error}")))?;
    if record.version != log::VERSION {
        return Err(LogError::Broken(format!("a record of format {}, this binary knows {}", record.version, log::VERSION)));
    }
    Ok(record)
}

#[derive(Debug, Clone, Copy)]
struct Clock {
    start: Instant,
}

impl Clock {
    fn start() -> Self {
        Self { start: Instant::now() }
    }

    fn now(self) -> Now {
        // A clock before 1970 is a broken machine; messages then bear the time 0 rather than none.
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono_ms: self.start.elapsed().as_millis() as u64, unix_ms: unix.as_millis() as u64 }
    }
}

impl Counters {
    /// The Prometheus text of all of them.
    pub fn metrics(&self) -> String {
        let counters = [
            ("carillon_appends_total", "Messages that the log acked.", &self.appends),
            ("carillon_batches_sent_total", "Batches sent to gateways.", &self.batches),
            ("carillon_batches_refused_total", "Batches that could not be read.", &self.refused_batches),
            ("carillon_takeovers_total", "Times that a partition was taken.", &self.takeovers),
        ];
        let text = |(name, help, value): (&str, &str, &AtomicU64)| {
            format!("# HELP {name} {help}\n# TYPE {name} counter\n{name} {}\n", value.load(Ordering::Relaxed))
        };
        let rooms = ("carillon_partition_rooms", self.rooms.load(Ordering::Relaxed));
        let gauge = format!("# HELP {0} Rooms in memory of their owners.\n# TYPE {0} gauge\n{0} {1}\n", rooms.0, rooms.1);
        counters.into_iter().map(text).chain([gauge]).collect()
    }
}
