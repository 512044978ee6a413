//! The log on NATS JetStream: a stream per partition, a subject per room. One task per partition writes, anyone reads; an
//! ack means what the stream's replicas and the server's `sync_interval` make of it (`docs/guarantees.md`).

mod message;
mod reads;
mod rooms;
mod streams;
mod subject;
mod trail;
mod writer;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_nats::jetstream::{self, stream::Stream};
use bytes::Bytes;
use carillon_proto::ids::{Offset, PartitionId, RoomName};
use futures_util::{FutureExt, future::BoxFuture, future::try_join_all};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

pub use self::streams::{JetStreamConfig, StreamError};
use self::{
    reads::Reads,
    rooms::Rooms,
    writer::{Command, MARKER_HEIGHT, Writer},
};
use super::{Append, AppendError, Log, LogError, Opened, Part, ReadLimit, ReadSpan, Sequence, Stored};
use crate::nats::{self, Nats};

/// Commands that may wait for the writer of a partition. Owners keep at most a window of appends (4,096 by default) in
/// flight, so that this is only met when something is wrong.
const MAX_QUEUED: usize = 8_192;

/// Bytes of records that may wait for all writers together, as in the embedded log.
const MAX_QUEUED_BYTES: usize = 128 * 1024 * 1024;

/// How long to wait before a stream that can't be reached is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A log in the streams of a NATS server or cluster.
///
/// [`Log::open`] appends a marker: its sequence is [`Opened::last`], and from there on the appends form a chain that any
/// foreign record breaks, so that of two processes that opened a partition only the last one can append. An append that
/// failed ends the chain, and all of its partition fail until it is opened again; before the first open all fail, too.
pub struct JetStreamLog {
    context: jetstream::Context,
    config: JetStreamConfig,
    partitions: Vec<Partition>,
    queued_bytes: Arc<AtomicUsize>,
}

struct Partition {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
}

/// What the writer and the readers of a partition have in common.
struct Shared {
    partition: PartitionId,
    nats: Nats,
    stream: Stream<()>,
    rooms: Mutex<Rooms>,
    queued_bytes: Arc<AtomicUsize>,
    /// The newest sequence of the last marker: who says that the stream ends below it lags behind.
    marked: AtomicU64,
}

impl Shared {
    /// Reads, unless NATS is away or goes away meanwhile.
    async fn while_up<T>(&self, read: impl Future<Output = Result<T, LogError>>) -> Result<T, LogError> {
        self.nats.while_up(read).await.unwrap_or_else(|away| Err(LogError::Unavailable(away.to_string())))
    }

    fn give_back(&self, bytes: usize) {
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl JetStreamLog {
    /// Finds or makes the streams, and waits for them as long as they can't be reached. Call it inside a tokio runtime.
    pub async fn start(nats: Nats, config: JetStreamConfig) -> Result<Self, StreamError> {
        let context = jetstream::new(nats.client().clone());
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let partitions = try_join_all(PartitionId::all().map(async |partition| {
            wait_for_stream(&nats, &context, partition, &config).await?;
            let stream = context
                .get_stream_no_info(subject::stream(partition))
                .await
                .map_err(|error| StreamError::Refused { stream: subject::stream(partition), why: error.to_string() })?;
            let shared = Arc::new(Shared {
                partition,
                nats: nats.clone(),
                stream,
                rooms: Mutex::default(),
                queued_bytes: Arc::clone(&queued_bytes),
                marked: AtomicU64::new(0),
            });
            let (commands, queue) = mpsc::channel(MAX_QUEUED);
            tokio::spawn(Writer::new(Arc::clone(&shared), queue).run());
            Ok(Partition { shared, commands })
        }))
        .await?;
        Ok(Self { context, config, partitions, queued_bytes })
    }

    fn partition(&self, partition: PartitionId) -> &Partition {
        &self.partitions[partition.index()]
    }

    fn shared(&self, partition: PartitionId) -> &Shared {
        &self.partition(partition).shared
    }

    /// Hands an append to the writer, or tells why not.
    fn queue(
        &self,
        partition: PartitionId,
        append: Append,
    ) -> Result<oneshot::Receiver<Result<Sequence, AppendError>>, AppendError> {
        let bytes = append.record.len();
        let (ack, acked) = oneshot::channel();
        let queued = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let is_queued =
            queued <= MAX_QUEUED_BYTES && self.partition(partition).commands.try_send(Command::Append { append, ack }).is_ok();
        if is_queued {
            return Ok(acked);
        }
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        Err(AppendError::Unknown("the queue of the log is full; nothing was stored".into()))
    }
}

async fn wait_for_stream(
    nats: &Nats,
    context: &jetstream::Context,
    partition: PartitionId,
    config: &JetStreamConfig,
) -> Result<(), StreamError> {
    loop {
        match nats.while_up(streams::ensure(context, partition, config)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(refused @ StreamError::Refused { .. })) => return Err(refused),
            Ok(Err(error)) => tracing::warn!(%error, "waiting for a stream"),
            // It says so itself.
            Err(nats::Away) => {}
        }
        tokio::time::sleep(RETRY).await;
    }
}

impl Log for JetStreamLog {
    fn open(&self, partition: PartitionId) -> BoxFuture<'_, Result<Opened, LogError>> {
        async move {
            // Each time, since the stream may have been lost and made anew meanwhile.
            let ensured = async {
                streams::ensure(&self.context, partition, &self.config).await.map_err(|error| match error {
                    StreamError::Unavailable { .. } => LogError::Unavailable(error.to_string()),
                    StreamError::Refused { .. } => LogError::Broken(error.to_string()),
                })
            };
            let found = self.shared(partition).while_up(ensured).await?;
            let (opened, last) = oneshot::channel();
            let ended = || LogError::Broken("the writer of the log has ended".into());
            self.partition(partition).commands.send(Command::Open { opened }).await.map_err(|_| ended())?;
            let last = last.await.unwrap_or_else(|_| Err(ended()))?;
            // The marker's messages are the newest ones now.
            Ok(Opened { incarnation: found.incarnation, last, found: last.saturating_sub(MARKER_HEIGHT as Sequence) })
        }
        .boxed()
    }

    fn append(&self, partition: PartitionId, append: Append) -> BoxFuture<'static, Result<Sequence, AppendError>> {
        let queued = self.queue(partition, append);
        async move {
            let ended = || AppendError::Unknown("the log was dropped".into());
            queued?.await.unwrap_or_else(|_| Err(ended()))
        }
        .boxed()
    }

    fn head(&self, partition: PartitionId, room: &RoomName) -> BoxFuture<'_, Result<Option<Stored>, LogError>> {
        let room = room.clone();
        async move {
            let shared = self.shared(partition);
            let life = shared.rooms.lock().life;
            let head = shared.while_up(Reads::of(shared).head(&room)).await?;
            // Whoever asks for a head is about to append to the room, and the writer needs not ask again.
            let trail = head.as_ref().map_or_else(Default::default, |head| head.trail_with_it());
            shared.rooms.lock().learn(&room, trail, life);
            Ok(head.map(|head| head.stored))
        }
        .boxed()
    }

    fn read(
        &self,
        partition: PartitionId,
        room: &RoomName,
        span: ReadSpan,
        limit: ReadLimit,
    ) -> BoxFuture<'_, Result<Part, LogError>> {
        let room = room.clone();
        let shared = self.shared(partition);
        async move { shared.while_up(Reads::of(shared).part(&room, span, limit)).await }.boxed()
    }

    fn recent(
        &self,
        partition: PartitionId,
        window: Duration,
        keep: fn(&[u8]) -> Bytes,
    ) -> BoxFuture<'_, Result<Vec<Stored>, LogError>> {
        let shared = self.shared(partition);
        async move { shared.while_up(Reads::of(shared).recent(window, keep)).await }.boxed()
    }

    fn rooms(&self, _: PartitionId, _: Option<&RoomName>, _: usize) -> BoxFuture<'_, Result<Vec<RoomName>, LogError>> {
        std::future::ready(Ok(Vec::new())).boxed()
    }

    fn trim(
        &self,
        partition: PartitionId,
        room: &RoomName,
        below: Offset,
        through: Sequence,
    ) -> BoxFuture<'_, Result<(), LogError>> {
        let room = room.clone();
        let shared = self.shared(partition);
        async move { shared.while_up(Reads::of(shared).trim(&room, below, through)).await }.boxed()
    }

    fn empty(&self, partition: PartitionId, room: &RoomName, through: Sequence) -> BoxFuture<'_, Result<(), LogError>> {
        let room = room.clone();
        let shared = self.shared(partition);
        async move {
            shared.while_up(Reads::of(shared).empty(&room, through)).await?;
            shared.rooms.lock().replace(&room, Default::default());
            Ok(())
        }
        .boxed()
    }
}
