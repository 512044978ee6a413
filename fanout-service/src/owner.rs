//! One partition's driver: takes the partition, carries inputs in and effects out, and takes it anew when the log has
//! lost count of it.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use carillon_core::partition::{Effect, Partition, SWEPT_AT_ONCE, Start};
use carillon_platform::{
    bus::Subscription,
    log::{Append, AppendError, Appending, LogError, Part, ReadLimit, ReadSpan, Stored},
    shutdown::Shutdown,
    telemetry::{Figures, Reading, SharedHistogram, Unit},
};
use carillon_proto::{
    ids::{PARTITIONS, PartitionId, RoomName},
    lease::{self, Lease, Owner},
    link::{UpBatch, down_subject, up_subject},
    log::{self, Record},
    survey,
};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesOrdered, stream::FuturesUnordered};
use prost::Message as _;
use tokio::{
    sync::watch,
    time::{Duration, Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Fanout, RETRY,
    clock::Clock,
    hooks::{self, Queue},
    hops::{self, Hops},
    lease::{Leases, Phase, Tenure},
};

/// What the owners of a process did; only ever counts up.
#[derive(Debug, Default)]
pub struct Counters {
    /// Batches sent to gateways.
    pub batches: AtomicU64,
    /// Batches that could not be read: another version, or a stranger on the subject.
    pub refused_batches: AtomicU64,
    /// Times that a partition was taken, the first one included.
    pub takeovers: AtomicU64,
    /// Times that a partition was given away in good order.
    pub handovers: AtomicU64,
    /// Times that the log did not say what became of an append, so that the partition had to be taken anew.
    pub failed_appends: AtomicU64,
    /// Times that the log proved to lack what it had acked.
    pub lost_tails: AtomicU64,
    /// From an append to the log's ack.
    pub append_took: SharedHistogram,
    /// What is owned here.
    pub partitions: [Held; PARTITIONS as usize],
    /// Rooms in memory now.
    pub rooms: AtomicI64,
    /// Of webhooks.
    pub hooks: hooks::Counters,
}

/// A partition, as the metrics show it.
#[derive(Debug, Default)]
pub struct Held {
    /// Of the owner here; 0 while it is owned elsewhere, or being taken.
    pub generation: AtomicU64,
    /// How long ago the lease was written.
    pub lease_age_ms: AtomicU64,
    /// Messages that the log acked.
    pub appends: AtomicU64,
    /// Appends under way.
    pub in_flight: AtomicU64,
}

/// How often a partition looks at the clock; heartbeats go out every second.
const TICK: Duration = Duration::from_millis(250);

/// How often an owner tells all gateways that it is one. The first time at once; the others are for gateways whose first word
/// went to nobody, since the way to a new subscriber may take a moment to be known.
const ANNOUNCE_MS: u64 = 1_000;

/// Batches that are acted on before what they led to is carried out: enough to let a burst share its answers, few
/// enough to keep the first of it from waiting.
const INPUTS_PER_TURN: usize = 64;

/// Heads that are asked for at once: after a takeover gateways attach all of their rooms, and each answer may be as large as a frame.
const HEADS_AT_ONCE: usize = 256;

/// How long an owner that gives its partition away waits for what the log has not acked yet. What is left then, the next
/// owner finds in the log, and gateways say the rest again.
const LAST_ACKS: Duration = Duration::from_secs(1);

/// Owns `partition` whenever its lease is to be held here, until `stop` has ended that, or the log is closed for good.
pub(crate) async fn own(fanout: Fanout, leases: Leases, partition: PartitionId, stop: CancellationToken, shutdown: Shutdown) {
    loop {
        let tenure = tokio::select! {
            tenure = leases.take(partition) => Arc::new(tenure),
            () = stop.cancelled() => return,
        };
        let keeper = tokio::spawn(tenure.clone().keep());
        let ended = hold(&fanout, partition, &tenure).await;
        keeper.abort();
        fanout.counters.partitions[partition.index()].generation.store(0, Ordering::Relaxed);
        match ended {
            Ended::GivenAway => {
                fanout.counters.handovers.fetch_add(1, Ordering::Relaxed);
                tenure.give_back().await;
            }
            Ended::Lost => {}
            Ended::Closed(why) => return shutdown.fail("log", why),
        }
        if stop.is_cancelled() {
            return;
        }
    }
}

/// How the ownership of a partition ended here.
enum Ended {
    GivenAway,
    Lost,
    Closed(String),
}

/// Takes the partition under a lease, and anew whenever the log has lost count, until the lease ends.
async fn hold(fanout: &Fanout, partition: PartitionId, tenure: &Tenure) -> Ended {
    let mut phase = tenure.phase();
    loop {
        let taken = tokio::select! {
            taken = take(fanout, partition, tenure) => taken,
            ended = tenure_ends(&mut phase) => return ended,
        };
        let (lost, tail_was_lost) = match taken {
            Ok(None) => return Ended::Lost,
            Ok(Some(Taken { rules, generation, inbox, questions, queue })) => {
                let mut driver = Driver::new(fanout, partition, tenure, rules, generation, (inbox, questions));
                driver.queue = queue;
                let ended = driver.drive().await;
                fanout.counters.partitions[partition.index()].generation.store(0, Ordering::Relaxed);
                match ended {
                    DriveEnd::Tenure(ended) => return ended,
                    DriveEnd::Log(AppendError::Closed(why)) => return Ended::Closed(why),
                    DriveEnd::Log(lost) => {
                        fanout.counters.failed_appends.fetch_add(1, Ordering::Relaxed);
                        (lost.to_string(), false)
                    }
                    DriveEnd::TailLost => {
                        fanout.counters.lost_tails.fetch_add(1, Ordering::Relaxed);
                        tracing::error!(%partition, "the log lacks what it had acked: its rooms begin another life");
                        ("the log has lost its tail".to_owned(), true)
                    }
                }
            }
            Err(LogError::Broken(why)) => return Ended::Closed(why),
            Err(LogError::Unavailable(why)) => {
                tracing::warn!(%partition, %why, "the partition can't be taken yet");
                tokio::select! {
                    () = sleep(RETRY) => continue,
                    ended = tenure_ends(&mut phase) => return ended,
                }
            }
        };
        tracing::warn!(%partition, %lost, "taking the partition anew");
        // The lease is still held here, else this ends; and what the next owner says has a generation of its own.
        if tenure.renew(tail_was_lost).await.is_none() {
            return Ended::Lost;
        }
    }
}

async fn tenure_ends(phase: &mut watch::Receiver<Phase>) -> Ended {
    match phase.wait_for(|phase| *phase != Phase::Held).await.as_deref() {
        Ok(Phase::GiveAway) => Ended::GivenAway,
        Ok(_) | Err(_) => Ended::Lost,
    }
}

/// The one way to a partition, at the start and after every doubt: heard from here on, marked in the log, and only then
/// read, so that nothing can come between what was read and what is appended. `None` if the lease was lost meanwhile.
async fn take(fanout: &Fanout, partition: PartitionId, tenure: &Tenure) -> Result<Option<Taken>, LogError> {
    let started = Instant::now();
    let hear =
        async |subject: &str| fanout.bus.subscribe(subject).await.map_err(|error| LogError::Unavailable(error.to_string()));
    let (inbox, questions) = (hear(&up_subject(partition)).await?, hear(survey::QUESTIONS).await?);
    let opened = fanout.log.open(partition).await?;
    let mut lease = tenure.lease().await;
    if lease.incarnation != opened.incarnation || opened.found < lease.acked {
        let is_same_log = lease.incarnation == opened.incarnation;
        if is_same_log {
            let Lease { acked, .. } = lease;
            fanout.counters.lost_tails.fetch_add(1, Ordering::Relaxed);
            tracing::error!(%partition, acked, found = opened.found, "the log lacks what it had acked: its rooms begin another life");
        }
        tenure.on_acked(opened.last);
        let written = tenure.write(|lease| {
            lease.losses = if is_same_log { lease.losses + 1 } else { 0 };
            lease.incarnation = opened.incarnation.clone();
        });
        match written.await {
            Some(written) => lease = written,
            None => return Ok(None),
        }
    }
    tenure.on_acked(opened.last);
    let marked = started.elapsed();
    let recent = fanout.log.recent(partition, Duration::from_millis(fanout.config.key_window_ms), without_payload).await?;
    let start = Start {
        partition,
        generation: lease.generation,
        incarnation: carillon_core::lease::incarnation(&opened.incarnation, lease.losses),
        last_sequence: opened.last,
        seed: u128::from_be_bytes(uuid::Uuid::new_v4().into_bytes()),
    };
    fanout.counters.takeovers.fetch_add(1, Ordering::Relaxed);
    let Lease { generation, .. } = lease;
    tracing::info!(%partition, generation, ?marked, took = ?started.elapsed(), recent = recent.len(), "the partition is taken");
    // One after the other: read out all at once they are several times as large.
    let mut broken = None;
    let records = recent.iter().map_while(|stored| record(stored).map_err(|error| broken = Some(error)).ok());
    let rules = Partition::new(fanout.config.clone(), start, records);
    if let Some(error) = broken {
        return Err(error);
    }
    let queue = match &fanout.hooks {
        None => None,
        Some(hooks) => {
            let loaded = Queue::load(fanout, hooks.clone(), partition, lease.generation).await;
            Some(loaded.map_err(|error| LogError::Unavailable(error.to_string()))?)
        }
    };
    Ok(Some(Taken { rules, generation: lease.generation, inbox, questions, queue }))
}

/// A partition that was taken.
struct Taken {
    rules: Partition,
    generation: u64,
    inbox: Subscription,
    questions: Subscription,
    queue: Option<Queue>,
}

/// What is needed of a record to recognise its repeats. One that can't be read is for [`record`] to refuse.
fn without_payload(record: &[u8]) -> Bytes {
    match Record::decode(record) {
        Ok(record) => Record { payload: Bytes::new(), ..record }.encode_to_vec().into(),
        Err(_) => Bytes::copy_from_slice(record),
    }
}

/// Why a driver ended.
enum DriveEnd {
    /// What was under way is unknown, and the partition must be taken anew.
    Log(AppendError),
    /// Proof that the log lacks what it had acked.
    TailLost,
    /// The lease ends.
    Tenure(Ended),
}

/// What the log was asked, with the mark that the rules know the answer by.
type Asked<'f, Mark, Answer> = FuturesUnordered<BoxFuture<'f, (Mark, Result<Answer, LogError>)>>;

struct Driver<'f> {
    fanout: &'f Fanout,
    partition: PartitionId,
    tenure: &'f Tenure,
    generation: u64,
    rules: Partition,
    clock: Clock,
    inbox: Subscription,
    /// What gateways ask for admins.
    questions: Subscription,
    next_announce_ms: u64,
    /// Appends under way: for how many there is an answer, and which.
    appends: FuturesOrdered<BoxFuture<'static, (usize, Result<u64, AppendError>)>>,
    /// When each append began, and what is told of it, in the same order.
    began: VecDeque<(Instant, Option<hops::Append>)>,
    hops: Hops,
    heads: Asked<'f, RoomName, Option<Stored>>,
    /// Rooms whose heads are asked for once others are known.
    waiting_heads: VecDeque<RoomName>,
    reads: Asked<'f, u64, Part>,
    trims: Asked<'f, RoomName, ()>,
    empties: Asked<'f, RoomName, ()>,
    rooms: Asked<'f, (), Vec<RoomName>>,
    counted_rooms: i64,
    /// What webhooks are to be told, and what they are to be told of the appends under way, in their order.
    queue: Option<Queue>,
    noted: VecDeque<Vec<hooks::Placed>>,
}

impl Drop for Driver<'_> {
    fn drop(&mut self) {
        self.count_rooms(0);
        self.held().in_flight.store(0, Ordering::Relaxed);
    }
}

impl<'f> Driver<'f> {
    fn new(
        fanout: &'f Fanout,
        partition: PartitionId,
        tenure: &'f Tenure,
        rules: Partition,
        generation: u64,
        (inbox, questions): (Subscription, Subscription),
    ) -> Self {
        Self {
            fanout,
            partition,
            tenure,
            generation,
            rules,
            clock: fanout.clock,
            inbox,
            questions,
            next_announce_ms: 0,
            appends: FuturesOrdered::new(),
            began: VecDeque::new(),
            hops: Hops::new(fanout.tracer.clone(), partition),
            heads: FuturesUnordered::new(),
            waiting_heads: VecDeque::new(),
            reads: FuturesUnordered::new(),
            trims: FuturesUnordered::new(),
            empties: FuturesUnordered::new(),
            rooms: FuturesUnordered::new(),
            counted_rooms: 0,
            queue: None,
            noted: VecDeque::new(),
        }
    }

    /// Runs until the lease ends, or an append fails.
    async fn drive(&mut self) -> DriveEnd {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut phase = self.tenure.phase();
        // Set once the partition is given away: until then the last acks are waited for, and nothing new is taken.
        let mut leaves_at: Option<Instant> = None;
        self.fanout.counters.partitions[self.partition.index()].generation.store(self.generation, Ordering::Relaxed);
        loop {
            self.rules.on_lease(self.tenure.until_ms());
            tokio::select! {
                batch = self.inbox.next(), if leaves_at.is_none() => match batch {
                    Some(batch) => self.on_batch(&batch),
                    None => return DriveEnd::Log(AppendError::Unknown("the bus is gone".into())),
                },
                ended = tenure_ends(&mut phase), if leaves_at.is_none() => match ended {
                    Ended::GivenAway => leaves_at = Some(Instant::now() + LAST_ACKS),
                    ended => return DriveEnd::Tenure(ended),
                },
                Some((count, appended)) = self.appends.next() => {
                    if let Err(lost) = self.on_appended(count, appended) {
                        return DriveEnd::Log(lost);
                    }
                }
                Some((room, head)) = self.heads.next() => {
                    self.on_head(room, head);
                    self.ask_heads();
                }
                Some((ticket, part)) = self.reads.next() => self.on_part(ticket, part),
                Some((room, trimmed)) = self.trims.next() => tell_trimmed(self.partition, &room, trimmed),
                Some((room, emptied)) = self.empties.next() => match emptied {
                    Ok(()) => self.rules.on_emptied(room, self.clock.now()),
                    // Whoever waits for the room waits no longer than for a lost owner.
                    Err(error) => return DriveEnd::Log(AppendError::Unknown(format!("a room could not be emptied: {error}"))),
                },
                Some(((), rooms)) = self.rooms.next() => {
                    // What could not be named now will be in the next round.
                    self.rules.on_rooms(rooms.unwrap_or_default(), self.clock.now());
                }
                Some(question) = self.questions.next(), if leaves_at.is_none() => self.on_question(&question),
                _ = tick.tick() => self.on_tick(),
            }
            // Before anything is said: a process that was stopped for a while finds out here.
            self.rules.on_lease(self.tenure.until_ms());
            if let Err(lost) = self.take_what_is_ready(leaves_at.is_none()) {
                return DriveEnd::Log(lost);
            }
            if self.carry_out() {
                return DriveEnd::TailLost;
            }
            if leaves_at.is_some_and(|at| self.rules.in_flight() == 0 || Instant::now() >= at) {
                return DriveEnd::Tenure(Ended::GivenAway);
            }
        }
    }

    /// What an admin wants to see. Nobody's message waits for the answer but those of this partition: a walk over its rooms.
    fn on_question(&self, question: &Bytes) {
        let Ok(question) = survey::Question::decode(&question[..]) else { return };
        let Some(subject) = survey::answers(&question.gateway).filter(|_| question.version == survey::VERSION) else { return };
        let of = match question.of {
            Some(survey::question::Of::Rooms(asked)) => {
                self.rules.survey(&asked, self.clock.now()).map(survey::answer::Of::Rooms)
            }
            Some(survey::question::Of::Owners(_)) => Some(survey::answer::Of::Owner(survey::OwnerFound {
                partition: self.partition.index() as u32,
                generation: self.generation,
                fanout: self.fanout.id.to_string(),
                rooms: self.rules.rooms() as u64,
            })),
            _ => None,
        };
        let Some(of) = of else { return };
        let answer = survey::Answer { version: survey::VERSION, number: question.number, of: Some(of) };
        self.fanout.bus.publish(&subject, answer.encode_to_vec().into());
    }

    fn on_tick(&mut self) {
        let now = self.clock.now();
        self.hops.on_tick();
        self.rules.on_tick(now);
        if let Some(after) = self.rules.poll_sweep(now) {
            let (log, partition) = (&self.fanout.log, self.partition);
            self.rooms.push(async move { ((), log.rooms(partition, after.as_ref(), SWEPT_AT_ONCE).await) }.boxed());
        }
        if let Some(queue) = &mut self.queue {
            queue.on_tick(now, |room, user| self.rules.occupancy(room, user, now));
        }
        self.count_rooms(self.rules.rooms());
        self.held().lease_age_ms.store(self.tenure.age_ms(), Ordering::Relaxed);
        self.held().in_flight.store(self.rules.in_flight() as u64, Ordering::Relaxed);
        if now.mono_ms >= self.next_announce_ms && now.mono_ms < self.tenure.until_ms() {
            self.next_announce_ms = now.mono_ms + ANNOUNCE_MS;
            let owner = Owner { version: lease::VERSION, partition: u32::from(self.partition.0), generation: self.generation };
            self.fanout.bus.publish(lease::OWNERS, owner.encode_to_vec().into());
        }
    }

    fn held(&self) -> &'f Held {
        &self.fanout.counters.partitions[self.partition.index()]
    }

    fn count_rooms(&mut self, now: usize) {
        let now = now as i64;
        self.fanout.counters.rooms.fetch_add(now - self.counted_rooms, Ordering::Relaxed);
        self.counted_rooms = now;
    }

    fn take_what_is_ready(&mut self, takes_batches: bool) -> Result<(), AppendError> {
        for _ in 0..if takes_batches { INPUTS_PER_TURN } else { 0 } {
            match self.inbox.try_next() {
                Some(batch) => self.on_batch(&batch),
                None => break,
            }
        }
        while let Some(Some((count, appended))) = self.appends.next().now_or_never() {
            self.on_appended(count, appended)?;
        }
        Ok(())
    }

    fn on_batch(&mut self, batch: &Bytes) {
        match UpBatch::decode(batch.clone()) {
            Ok(mut batch) => {
                self.hops.on_batch(&mut batch);
                self.rules.on_batch(batch, self.clock.now());
            }
            Err(error) => {
                self.fanout.counters.refused_batches.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(partition = %self.partition, %error, "a batch that is none");
            }
        }
    }

    fn on_appended(&mut self, count: usize, appended: Result<u64, AppendError>) -> Result<(), AppendError> {
        self.tenure.on_acked(appended?);
        self.held().appends.fetch_add(count as u64, Ordering::Relaxed);
        let now = self.clock.now();
        for _ in 0..count {
            if let Some((began, append)) = self.began.pop_front() {
                self.fanout.counters.append_took.add(began.elapsed());
                append.into_iter().for_each(|append| self.hops.on_appended(append));
            }
            if let Some(queue) = &self.queue {
                queue.on_stored(self.noted.pop_front().unwrap_or_default());
            }
            self.rules.on_appended(now);
        }
        Ok(())
    }

    fn ask_heads(&mut self) {
        let (log, partition) = (&self.fanout.log, self.partition);
        while self.heads.len() < HEADS_AT_ONCE
            && let Some(room) = self.waiting_heads.pop_front()
        {
            self.heads.push(async move { (room.clone(), log.head(partition, &room).await) }.boxed());
        }
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

    /// Queues what was gathered.
    fn append(&mut self, gathered: &mut Vec<Append>) {
        if gathered.is_empty() {
            return;
        }
        if self.queue.is_some() {
            self.noted.extend(gathered.iter().map(|_| Vec::new()));
        }
        for Appending { count, acked } in self.fanout.log.append_all(self.partition, std::mem::take(gathered)) {
            self.appends.push_back(acked.map(move |acked| (count, acked)).boxed());
        }
    }

    /// Queues one that a webhook is to be told of: it counts as acked when that has been put, too.
    fn append_noted(&mut self, append: Append, (entries, put): hooks::Noted) {
        self.noted.push_back(entries);
        let append = self.fanout.log.append(self.partition, append);
        let both = async move {
            let (put, appended) = futures_util::future::join(put, append).await;
            let put = put.map_err(|error| AppendError::Unknown(format!("a webhook could not be noted: {error}")));
            (1, appended.and_then(|sequence| put.map(|()| sequence)))
        };
        self.appends.push_back(both.boxed());
    }

    /// Does what the rules say; true if they say that the log has lost its tail.
    fn carry_out(&mut self) -> bool {
        let now = self.clock.now();
        let (log, partition) = (&self.fanout.log, self.partition);
        let (began, mut gathered) = (Instant::now(), Vec::new());
        while let Some(effect) = self.rules.poll_effect(now) {
            // What takes away from the log comes behind what was to be appended before.
            if matches!(effect, Effect::Trim { .. } | Effect::Empty { .. } | Effect::TailLost) {
                self.append(&mut gathered);
            }
            match effect {
                Effect::Append { room, offset, sequence, record, traceparent } => {
                    self.began.push_back((began, self.hops.on_append(&traceparent, offset)));
                    let noted = self.queue.as_mut().and_then(|queue| queue.note(&room, offset));
                    let append = Append { room, offset, sequence, record };
                    match noted {
                        None => gathered.push(append),
                        Some(noted) => {
                            self.append(&mut gathered);
                            self.append_noted(append, noted);
                        }
                    }
                }
                Effect::Head { room } => {
                    self.waiting_heads.push_back(room);
                    self.ask_heads();
                }
                Effect::Read { ticket, room, after, before, limit, bytes } => {
                    let span = after.map_or(ReadSpan::Before(before.unwrap_or(u64::MAX)), ReadSpan::After);
                    let limit = ReadLimit { records: limit, bytes };
                    self.reads.push(async move { (ticket, log.read(partition, &room, span, limit).await) }.boxed());
                }
                Effect::Trim { room, below, through } => {
                    let trim = async move { (room.clone(), log.trim(partition, &room, below, through).await) };
                    self.trims.push(self.tenure.while_held(trim).boxed())
                }
                Effect::Empty { room, through } => {
                    // A trim that is still under way must not meet the room's next life.
                    let mut trims = std::mem::take(&mut self.trims);
                    let emptied = async move {
                        while let Some((room, trimmed)) = trims.next().await {
                            tell_trimmed(partition, &room, trimmed);
                        }
                        (room.clone(), log.empty(partition, &room, through).await)
                    };
                    self.empties.push(self.tenure.while_held(emptied).boxed());
                }
                Effect::Send { gateway, mut batch } => {
                    self.hops.on_send(gateway, &mut batch);
                    self.fanout.counters.batches.fetch_add(1, Ordering::Relaxed);
                    self.fanout.bus.publish(&down_subject(gateway, partition), batch.encode_to_vec().into());
                }
                Effect::Present { room, user, is_here, users } => {
                    if let Some(queue) = &mut self.queue {
                        queue.on_present(&room, &user, is_here, users, now);
                    }
                }
                Effect::Settled { room } => {
                    if let Some(queue) = &mut self.queue {
                        queue.on_settled(room);
                    }
                }
                Effect::TailLost => return true,
            }
        }
        self.append(&mut gathered);
        self.hops.on_carried_out();
        false
    }
}

fn tell_trimmed(partition: PartitionId, room: &RoomName, trimmed: Result<(), LogError>) {
    if let Err(error) = trimmed {
        // What is over the limits is not shown anyhow; the next purge takes it along.
        tracing::warn!(%partition, %room, %error, "old messages can't be purged yet");
    }
}

pub(crate) fn record(stored: &Stored) -> Result<Record, LogError> {
    let record =
        Record::decode(stored.record.clone()).map_err(|error| LogError::Broken(format!("a record that is none: {error}")))?;
    if record.version != log::VERSION {
        return Err(LogError::Broken(format!("a record of format {}, this binary knows {}", record.version, log::VERSION)));
    }
    Ok(record)
}

impl Figures for Counters {
    fn read(&self, to: &mut Reading) {
        self.hooks.read(to);
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let of_all = |count: fn(&Held) -> &AtomicU64| self.partitions.iter().map(move |held| of(count(held))).enumerate();
        let is_held = |held: &&Held| of(&held.generation) > 0;
        to.counters("carillon.appends", "Messages that the log acked.", "partition", of_all(|held| &held.appends));
        let help = "Appends that the log has not answered yet.";
        to.gauges("carillon.appends.in_flight", help, "partition", of_all(|held| &held.in_flight));
        let help = "Times that the log did not say what became of an append.";
        to.counter("carillon.appends.failed", help, of(&self.failed_appends));
        to.durations("carillon.log.append.duration", "Time from an append to the log's ack.", self.append_took.read());
        to.counter("carillon.log.lost_tails", "Times that the log lacked what it had acked.", of(&self.lost_tails));
        to.counter("carillon.batches.sent", "Batches sent to gateways.", of(&self.batches));
        to.counter("carillon.batches.refused", "Batches that could not be read.", of(&self.refused_batches));
        to.counter("carillon.takeovers", "Times that a partition was taken.", of(&self.takeovers));
        let help = "Times that a partition was given away in good order.";
        to.counter("carillon.handovers", help, of(&self.handovers));
        let rooms = self.rooms.load(Ordering::Relaxed);
        to.gauge("carillon.partition.rooms", "Rooms in memory of their owners.", Unit::Count, rooms as f64);
        let owned = of_all(|held| &held.generation).map(|(partition, generation)| (partition, u64::from(generation > 0)));
        to.gauges("carillon.partition.owned", "Whether the partition is owned here.", "partition", owned);
        let help = "Generation of the owner here; 0 while the partition is owned elsewhere, or being taken.";
        to.gauges("carillon.partition.generation", help, "partition", of_all(|held| &held.generation));
        let owned = self.partitions.iter().filter(is_held).count();
        to.gauge("carillon.partitions.owned", "Partitions owned here.", Unit::Count, owned as f64);
        let ages = self.partitions.iter().filter(is_held).map(|held| of(&held.lease_age_ms));
        let help = "Age of the oldest lease held here; over 4.5 its owner is silent.";
        to.gauge("carillon.lease.age", help, Unit::Seconds, ages.max().unwrap_or(0) as f64 / 1e3);
    }
}
