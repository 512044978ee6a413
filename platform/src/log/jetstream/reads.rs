//! Reading a partition. What must be true now (heads, the oldest offset) is asked of the stream's leader; what never
//! changes (a record by its sequence) may come from any replica, and from the leader if that one lags.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use async_nats::jetstream::{
    consumer::{DeliverPolicy, pull::OrderedConfig},
    message::StreamMessage,
    stream::{DirectGetErrorKind, RawMessageError, RawMessageErrorKind, Stream},
};
use bytes::Bytes;
use carillon_proto::ids::{Offset, RoomName};
use futures_util::{StreamExt, stream::FuturesUnordered};

use super::{
    Shared,
    message::{Found, OFFSET_HEADER},
    subject,
    trail::Trail,
};
use crate::log::{LogError, Part, ReadLimit, ReadSpan, Sequence, Stored};

/// Records that one read asks for at once: what one record points at, mostly.
const AT_ONCE: usize = 16;

/// Records of the first piece of a read; those after it are sized by what the first ones weighed.
const FIRST_PIECE: u64 = 16;

/// Records of any other piece. A page of 1,000 takes five pieces.
const MAX_PIECE: u64 = 256;

/// How long the stream may stay silent while a partition is taken.
const RECENT_TIMEOUT: Duration = Duration::from_secs(5);

/// The stream of one partition, without anything kept from earlier reads.
pub(super) struct Reads<'s> {
    shared: &'s Shared,
    stream: Stream<()>,
}

impl<'s> Reads<'s> {
    pub(super) fn of(shared: &'s Shared) -> Self {
        Self { shared, stream: shared.stream.clone() }
    }

    /// The newest record of a room.
    pub(super) async fn head(&self, room: &RoomName) -> Result<Option<Found>, LogError> {
        let subject = subject::room(self.shared.partition, room);
        match self.stream.get_last_raw_message_by_subject(&subject).await {
            Ok(message) => self.parse(message).map(Some),
            Err(error) => none_or(error),
        }
    }

    /// Where the room's records are.
    pub(super) async fn trail(&self, room: &RoomName) -> Result<Trail, LogError> {
        Ok(self.shared.while_up(self.head(room)).await?.map_or_else(Trail::default, |head| head.trail_with_it()))
    }

    /// The oldest record that retention left.
    async fn first(&self, room: &RoomName) -> Result<Option<Found>, LogError> {
        let subject = subject::room(self.shared.partition, room);
        match self.stream.get_first_raw_message_by_subject(&subject, 1).await {
            Ok(message) => self.parse(message).map(Some),
            Err(error) => none_or(error),
        }
    }

    /// Part of a room, oldest first.
    pub(super) async fn part(&self, room: &RoomName, span: ReadSpan, limit: ReadLimit) -> Result<Part, LogError> {
        let (head, first) = futures_util::try_join!(self.head(room), self.first(room))?;
        let (Some(head), Some(first)) = (head, first) else { return Ok(Part { records: Vec::new(), first: 0 }) };
        let mut crawl = Crawl::new(self, room, &head, first.offset);
        let most = limit.records as u64;
        let records = match span {
            ReadSpan::After(offset) => {
                let from = first.offset.max(offset.saturating_add(1));
                crawl.upward(from, head.offset.min(from.saturating_add(most.saturating_sub(1))), limit).await?
            }
            ReadSpan::Before(offset) => {
                let to = head.offset.min(offset.saturating_sub(1));
                crawl.downward(first.offset.max((to + 1).saturating_sub(most)), to, limit).await?
            }
        };
        Ok(Part { records, first: crawl.first })
    }

    /// The sequence of a room's offset, between its oldest and its newest. `None` if retention was faster.
    async fn sequence_of(
        &self,
        room: &RoomName,
        head: &Found,
        first: Offset,
        offset: Offset,
    ) -> Result<Option<Sequence>, LogError> {
        let mut crawl = Crawl::new(self, room, head, first);
        crawl.fetch(offset, offset).await?;
        Ok(crawl.found.get(&offset).map(|stored| stored.sequence))
    }

    /// Drops what is below an offset, except for the newest record and for what is above a sequence.
    pub(super) async fn trim(&self, room: &RoomName, below: Offset, through: Sequence) -> Result<(), LogError> {
        let (head, first) = futures_util::try_join!(self.head(room), self.first(room))?;
        let (Some(head), Some(first)) = (head, first) else { return Ok(()) };
        let below = below.min(head.offset);
        if below <= first.offset {
            return Ok(());
        }
        let Some(sequence) = self.sequence_of(room, &head, first.offset, below).await? else { return Ok(()) };
        self.purge(room, sequence.min(through.saturating_add(1))).await
    }

    /// Drops all of a room, if none of it is above a sequence.
    pub(super) async fn empty(&self, room: &RoomName, through: Sequence) -> Result<(), LogError> {
        match self.head(room).await? {
            None => Ok(()),
            Some(head) if head.stored.sequence > through => Err(grown(room)),
            // What comes in from here on is spared all the same.
            Some(_) => self.purge(room, through.saturating_add(1)).await,
        }
    }

    /// Drops what a room has below a sequence. The stream takes the purge in order with what is appended, some time after it was
    /// asked, even if whoever asked is gone: so the sequence says what is meant, and not the moment.
    async fn purge(&self, room: &RoomName, below: Sequence) -> Result<(), LogError> {
        let purge = self.stream.purge().filter(subject::room(self.shared.partition, room)).sequence(below);
        purge.await.map_err(unavailable)?;
        Ok(())
    }

    /// Of everything that was appended within the last `window` what `keep` makes of it, oldest first, up to the newest sequence
    /// of this moment.
    pub(super) async fn recent(&self, window: Duration, keep: fn(&[u8]) -> Bytes) -> Result<Vec<Stored>, LogError> {
        let state = self.stream.get_info().await.map_err(unavailable)?.state;
        // Seen with three nodes: one that had been cut off for ten seconds answered, without the last 654 messages. Whoever believed
        // it would not recognise their repeats.
        let marked = self.shared.marked.load(Ordering::Relaxed);
        if state.last_sequence < marked {
            return Err(unavailable(format!(
                "whoever answers for the stream ends at {}, and {marked} was acked",
                state.last_sequence
            )));
        }
        if state.messages == 0 {
            return Ok(Vec::new());
        }
        // By the server's clock, which stamped the messages; counted from the newest one, so rather too much.
        let start_time = state.last_timestamp - window;
        let config = OrderedConfig { deliver_policy: DeliverPolicy::ByStartTime { start_time }, ..OrderedConfig::default() };
        let consumer = self.stream.create_consumer(config).await.map_err(unavailable)?;
        let mut messages = consumer.messages().await.map_err(unavailable)?;
        let markers = subject::markers(self.shared.partition);
        let mut recent = Vec::new();
        loop {
            // Up to that very sequence: whoever stopped at a pause would miss what a slow replica has not got yet.
            let message = tokio::time::timeout(RECENT_TIMEOUT, messages.next()).await.map_err(unavailable)?;
            let message = message.ok_or_else(|| unavailable("the stream ended"))?.map_err(unavailable)?;
            let sequence = message.info().map_err(unavailable)?.stream_sequence;
            if message.headers.as_ref().is_some_and(|headers| headers.get(OFFSET_HEADER).is_some()) {
                recent.push(Stored { sequence, record: keep(&message.payload) });
            } else if message.subject.as_str() != markers {
                // Somebody published into the stream by hand. It must not keep the partition from ever being taken again.
                tracing::error!(sequence, subject = %message.subject, "a message that is no record: who wrote it?");
            }
            if sequence >= state.last_sequence {
                return Ok(recent);
            }
        }
    }

    /// A record by its sequence. `None` if retention took it.
    async fn record(&self, sequence: Sequence) -> Result<Option<Found>, LogError> {
        match self.stream.direct_get(sequence).await {
            Ok(message) => return self.parse(message).map(Some),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => {}
            Err(error) => return Err(unavailable(error)),
        }
        match self.stream.get_raw_message(sequence).await {
            Ok(message) => self.parse(message).map(Some),
            Err(error) => none_or(error),
        }
    }

    fn parse(&self, message: StreamMessage) -> Result<Found, LogError> {
        let sequence = message.sequence;
        let stream = subject::stream(self.shared.partition);
        Found::parse(message)
            .ok_or_else(|| LogError::Broken(format!("message {sequence} of {stream} is no record: who wrote it?")))
    }
}

fn grown(room: &RoomName) -> LogError {
    unavailable(format!("{room} has grown since it was judged: another process owns its partition"))
}

fn unavailable(error: impl ToString) -> LogError {
    LogError::Unavailable(error.to_string())
}

fn none_or(error: RawMessageError) -> Result<Option<Found>, LogError> {
    match error.kind() {
        RawMessageErrorKind::NoMessageFound => Ok(None),
        _ => Err(unavailable(error)),
    }
}

/// One way through a room: from what is known to what is wanted, each record telling where others are.
struct Crawl<'r> {
    reads: &'r Reads<'r>,
    room: &'r RoomName,
    /// Offsets below it are gone.
    first: Offset,
    /// Where records are that were heard of.
    known: BTreeMap<Offset, Sequence>,
    /// The newest and the oldest record came with the first question.
    found: BTreeMap<Offset, Stored>,
    /// Sums up what was found, to size the next piece.
    records: u64,
    bytes: u64,
}

impl<'r> Crawl<'r> {
    fn new(reads: &'r Reads<'r>, room: &'r RoomName, head: &Found, first: Offset) -> Self {
        let mut crawl = Self { reads, room, first, known: BTreeMap::new(), found: BTreeMap::new(), records: 0, bytes: 0 };
        crawl.known.insert(head.offset, head.stored.sequence);
        crawl.learn(head);
        crawl.found.insert(head.offset, head.stored.clone());
        crawl
    }

    fn learn(&mut self, found: &Found) {
        let first = self.first;
        self.known.extend(found.trail.known().filter(|(offset, _)| *offset >= first));
    }

    /// Records from `from` to at most `to`, as many as the limit takes, counted from the lower end.
    async fn upward(&mut self, mut from: Offset, to: Offset, limit: ReadLimit) -> Result<Vec<Stored>, LogError> {
        let mut taken = Taken::new(limit);
        while from <= to {
            let until = to.min(from + self.piece(&taken) - 1);
            self.fetch(from, until).await?;
            for offset in from.max(self.first)..=until {
                if !self.found.remove(&offset).is_none_or(|stored| taken.take(stored)) {
                    return Ok(taken.records);
                }
            }
            from = until + 1;
        }
        Ok(taken.records)
    }

    /// Records from `to` down to at least `from`, as many as the limit takes, counted from the upper end; oldest first.
    async fn downward(&mut self, from: Offset, mut to: Offset, limit: ReadLimit) -> Result<Vec<Stored>, LogError> {
        let mut taken = Taken::new(limit);
        'full: while from.max(self.first) <= to && to > 0 {
            let since = from.max(self.first).max((to + 1).saturating_sub(self.piece(&taken)));
            self.fetch(since, to).await?;
            for offset in (since.max(self.first)..=to).rev() {
                if !self.found.remove(&offset).is_none_or(|stored| taken.take(stored)) {
                    break 'full;
                }
            }
            to = since - 1;
        }
        taken.records.reverse();
        Ok(taken.records)
    }

    /// How many records to ask for: what is likely to fit.
    fn piece(&self, taken: &Taken) -> u64 {
        if self.records == 0 {
            return FIRST_PIECE;
        }
        (taken.bytes_left as u64 / (self.bytes / self.records).max(1)).clamp(FIRST_PIECE, MAX_PIECE)
    }

    /// Finds every record of the span that is still there, some at once, and the way to it before.
    async fn fetch(&mut self, from: Offset, to: Offset) -> Result<(), LogError> {
        let reads = self.reads;
        let mut under_way = FuturesUnordered::new();
        let mut asked = BTreeMap::new();
        loop {
            let from = from.max(self.first);
            if from > to {
                return Ok(());
            }
            let wanted: Vec<_> = self
                .known
                .range(from..=to)
                .rev()
                .filter(|(offset, _)| !self.found.contains_key(offset) && !asked.contains_key(*offset))
                .map(|(offset, sequence)| (*offset, *sequence))
                .take(AT_ONCE - under_way.len())
                .collect();
            let stone = if wanted.is_empty() && under_way.is_empty() {
                if (from..=to).all(|offset| self.found.contains_key(&offset)) {
                    return Ok(());
                }
                self.stone(from, to).filter(|(offset, _)| !asked.contains_key(offset))
            } else {
                None
            };
            for (offset, sequence) in wanted.into_iter().chain(stone) {
                asked.insert(offset, sequence);
                under_way.push(async move { (offset, reads.record(sequence).await) });
            }
            let Some((offset, record)) = under_way.next().await else {
                return Err(LogError::Broken(format!("the links of {} lead nowhere below {to}", self.room)));
            };
            match record? {
                Some(found) if found.offset == offset => {
                    self.records += 1;
                    self.bytes += found.stored.record.len() as u64;
                    self.learn(&found);
                    if (from..=to).contains(&offset) {
                        self.found.insert(offset, found.stored);
                    }
                }
                Some(found) => {
                    let why = format!(
                        "the links of {} name {} as {offset}, and it is {}",
                        self.room, found.stored.sequence, found.offset
                    );
                    return Err(LogError::Broken(why));
                }
                // Retention takes the oldest ones first: so those below are gone as well.
                None => self.first = self.first.max(offset + 1),
            }
        }
    }

    /// The lowest known record above the gap's upper end: what leads into the gap.
    fn stone(&self, from: Offset, to: Offset) -> Option<(Offset, Sequence)> {
        let missing = (from..=to).rev().find(|offset| !self.found.contains_key(offset))?;
        self.known.range(missing..).next().map(|(offset, sequence)| (*offset, *sequence))
    }
}

/// What fits into the limit.
struct Taken {
    records: Vec<Stored>,
    records_left: usize,
    bytes_left: usize,
}

impl Taken {
    fn new(limit: ReadLimit) -> Self {
        Self { records: Vec::new(), records_left: limit.records, bytes_left: limit.bytes }
    }

    /// Takes the record if it fits; the first one always does.
    fn take(&mut self, stored: Stored) -> bool {
        let bytes = stored.record.len();
        if self.records_left == 0 || (bytes > self.bytes_left && !self.records.is_empty()) {
            return false;
        }
        self.records_left -= 1;
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        self.records.push(stored);
        true
    }
}
