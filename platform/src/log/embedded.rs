//! The log inside this process: an embedded store in one folder, each ack behind an fsync that it shares with all
//! appends of that moment. One thread writes, any thread reads; nothing here knows what a record means.

pub mod backup;
mod buckets;
mod folder;
mod journal;
mod layout;
mod reads;
mod store;
mod writer;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use carillon_proto::ids::{Offset, PartitionId, RoomName};
use futures_util::{FutureExt, future::BoxFuture};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

pub use self::{buckets::EmbeddedBuckets, folder::OpenError};
use self::{reads::Reads, store::Store, writer::Command};
use super::{Append, AppendError, Appending, Log, LogError, Opened, Part, ReadLimit, ReadSpan, Sequence, Stored};

/// Commands that may wait for the writer. Owners keep at most a window of appends in flight per partition
/// (16 × 4,096 = 65,536), so that this is only met when something is wrong.
const MAX_QUEUED: usize = 66_560;

/// Bytes of records that may wait for the writer: 16 partitions with 4 MiB of payloads each, and as much again for what is
/// stored beside small ones.
const MAX_QUEUED_BYTES: usize = 128 * 1024 * 1024;

/// Reads that may run at once; others wait. Each holds a thread of the runtime's blocking pool (512 by default, shared
/// with everybody), and more than this gains nothing from a disk.
const MAX_READS: usize = 16;

/// How often the store is asked whether one of its own threads has failed.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// A log in a folder of this machine.
///
/// An ack means: synced to this disk, in a group with everything else that was queued. The first failed write or sync is
/// final, because after it nobody can tell what the disk holds (<https://www.usenix.org/system/files/atc20-rebello.pdf>):
/// that append and all later ones get [`AppendError::Closed`], [`EmbeddedLog::closed`] resolves, and the process must
/// end. The next start finds everything that was acked, and maybe more.
///
/// Dropping it writes what is queued and frees the folder.
pub struct EmbeddedLog {
    store: Arc<Store>,
    /// `None` only while dropping.
    commands: Option<mpsc::Sender<Command>>,
    queued_bytes: Arc<AtomicUsize>,
    reads: Arc<Semaphore>,
    closed: watch::Sender<Option<String>>,
    writer: Option<JoinHandle<()>>,
    /// Dropping it ends the watch.
    watch: Option<std::sync::mpsc::Sender<()>>,
    watcher: Option<JoinHandle<()>>,
}

impl EmbeddedLog {
    /// Opens the log in `<data_dir>/log`, or makes a new one there, and locks the folder until it is dropped. Blocks while
    /// it reads the newest part of the log: up to a second or two.
    pub fn open(data_dir: &Path) -> Result<Self, OpenError> {
        let store = Arc::new(Store::open(data_dir)?);
        let (commands, queue) = mpsc::channel(MAX_QUEUED);
        let (closed, _) = watch::channel(None);
        let queued_bytes = Arc::new(AtomicUsize::new(0));

        let writer = writer::Writer::new(Arc::clone(&store), queue, Arc::clone(&queued_bytes), closed.clone())
            .map_err(|error| OpenError::store(data_dir, error))?;
        let writer = std::thread::Builder::new().name("log-writer".into()).spawn(|| writer.run());
        let (watch, ended) = std::sync::mpsc::channel();
        let watcher = {
            let (store, closed) = (Arc::clone(&store), closed.clone());
            std::thread::Builder::new().name("log-watch".into()).spawn(move || watch_store(&store, &closed, &ended))
        };
        Ok(Self {
            store,
            commands: Some(commands),
            queued_bytes,
            reads: Arc::new(Semaphore::new(MAX_READS)),
            closed,
            writer: Some(writer.map_err(|error| OpenError::disk(data_dir, error))?),
            watch: Some(watch),
            watcher: Some(watcher.map_err(|error| OpenError::disk(data_dir, error))?),
        })
    }

    /// Resolves with the reason once the log is closed for good: the process must end.
    pub fn closed(&self) -> impl Future<Output = String> + Send + 'static {
        let mut closed = self.closed.subscribe();
        async move {
            let reason = closed.wait_for(Option::is_some).await.map(|reason| reason.clone().expect("waited for it"));
            match reason {
                Ok(reason) => reason,
                // Dropped in good order: it can't fail any more.
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Hands a command to the writer, or tells why not.
    fn queue(&self, command: Command) -> Result<(), AppendError> {
        if let Some(reason) = self.closed.borrow().as_ref() {
            return Err(AppendError::Closed(reason.clone()));
        }
        let bytes = command.bytes();
        let full = || AppendError::Unknown("the queue of the log is full; nothing was stored".into());
        if self.queued_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > MAX_QUEUED_BYTES {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(full());
        }
        self.commands.as_ref().expect("not dropped").try_send(command).map_err(|refused| {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            match refused {
                mpsc::error::TrySendError::Full(_) => full(),
                mpsc::error::TrySendError::Closed(_) => AppendError::Closed(reason(&self.closed)),
            }
        })
    }

    fn append_as_one(&self, partition: PartitionId, appends: Vec<Append>) -> BoxFuture<'static, Result<Sequence, AppendError>> {
        let (ack, acked) = oneshot::channel();
        let queued = self.queue(Command::Append { partition, appends, ack });
        let closed = self.closed.clone();
        async move {
            queued?;
            acked.await.unwrap_or_else(|_| Err(AppendError::Closed(reason(&closed))))
        }
        .boxed()
    }

    /// Runs a read on the runtime's blocking pool. Inline it would mostly be shorter than the hop (about 20 µs), but a
    /// block that is not cached comes from the disk and would hold up every connection of this runtime thread meanwhile.
    /// What is hot doesn't come here: owners answer from their rings, and publishing never reads after a room's first.
    async fn read_store<T: Send + 'static>(
        &self,
        read: impl FnOnce(Reads<'_>) -> fjall::Result<T> + Send + 'static,
    ) -> Result<T, LogError> {
        let permit = Arc::clone(&self.reads).acquire_owned().await.expect("the semaphore is never closed");
        let store = Arc::clone(&self.store);
        let read = tokio::task::spawn_blocking(move || {
            let result = read(Reads::of(&store));
            // The permit belongs to the thread, not to the caller, who may have gone away.
            drop(permit);
            result
        });
        match read.await {
            Ok(result) => result.map_err(|error| LogError::Broken(error.to_string())),
            Err(ended) => Err(LogError::Unavailable(ended.to_string())),
        }
    }
}

impl Log for EmbeddedLog {
    fn open(&self, partition: PartitionId) -> BoxFuture<'_, Result<Opened, LogError>> {
        async move {
            let last = self.read_store(move |reads| reads.last(partition)).await?;
            Ok(Opened { incarnation: self.store.incarnation.clone(), last, found: last })
        }
        .boxed()
    }

    fn append(&self, partition: PartitionId, append: Append) -> BoxFuture<'static, Result<Sequence, AppendError>> {
        self.append_as_one(partition, vec![append])
    }

    /// All of them in one command: they share a group and its sync anyhow.
    fn append_all(&self, partition: PartitionId, appends: Vec<Append>) -> Vec<Appending> {
        let count = appends.len();
        vec![Appending { count, acked: self.append_as_one(partition, appends) }]
    }

    fn head(&self, partition: PartitionId, room: &RoomName) -> BoxFuture<'_, Result<Option<Stored>, LogError>> {
        let room = room.clone();
        self.read_store(move |reads| reads.head(partition, &room)).boxed()
    }

    fn read(
        &self,
        partition: PartitionId,
        room: &RoomName,
        span: ReadSpan,
        limit: ReadLimit,
    ) -> BoxFuture<'_, Result<Part, LogError>> {
        let room = room.clone();
        self.read_store(move |reads| reads.part(partition, &room, span, limit)).boxed()
    }

    fn recent(
        &self,
        partition: PartitionId,
        window: Duration,
        keep: fn(&[u8]) -> Bytes,
    ) -> BoxFuture<'_, Result<Vec<Stored>, LogError>> {
        debug_assert!(window <= writer::ORDER_WINDOW, "what is older is forgotten");
        self.read_store(move |reads| reads.recent(partition, window, keep)).boxed()
    }

    fn rooms(
        &self,
        partition: PartitionId,
        after: Option<&RoomName>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<RoomName>, LogError>> {
        let after = after.cloned();
        self.read_store(move |reads| reads.rooms(partition, after, limit)).boxed()
    }

    /// Nobody else appends here, and what waits is taken in order: nothing is above what was judged.
    fn trim(&self, partition: PartitionId, room: &RoomName, below: Offset, _: Sequence) -> BoxFuture<'_, Result<(), LogError>> {
        let (done, trimmed) = oneshot::channel();
        self.wait_for(Command::Trim { partition, room: room.clone(), below, done }, trimmed)
    }

    fn empty(&self, partition: PartitionId, room: &RoomName, through: Sequence) -> BoxFuture<'_, Result<(), LogError>> {
        let (done, emptied) = oneshot::channel();
        self.wait_for(Command::Empty { partition, room: room.clone(), through, done }, emptied)
    }
}

impl EmbeddedLog {
    fn wait_for(&self, command: Command, done: oneshot::Receiver<Result<(), LogError>>) -> BoxFuture<'_, Result<(), LogError>> {
        let queued = self.queue(command);
        async move {
            match queued {
                Ok(()) => done.await.unwrap_or_else(|_| Err(LogError::Broken(reason(&self.closed)))),
                Err(AppendError::Closed(reason)) => Err(LogError::Broken(reason)),
                Err(full) => Err(LogError::Unavailable(full.to_string())),
            }
        }
        .boxed()
    }
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        self.commands = None;
        self.watch = None;
        // A log that has failed is not waited for: its writer may hang in the store for ever (see `watch_store`).
        if self.closed.borrow().is_none() {
            for thread in [self.writer.take(), self.watcher.take()].into_iter().flatten() {
                let _ = thread.join();
            }
        }
    }
}

fn reason(closed: &watch::Sender<Option<String>>) -> String {
    closed.borrow().clone().unwrap_or_else(|| "its writer has ended".into())
}

/// Closes the log when one of the store's own threads has failed, on a full disk say. An append would not find out:
/// while nobody writes there is none, and otherwise it may wait inside the store, for ever, until that thread has made room.
fn watch_store(store: &Store, closed: &watch::Sender<Option<String>>, ended: &std::sync::mpsc::Receiver<()>) {
    while ended.recv_timeout(WATCH_EVERY) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
        if let Err(error) = store.check() {
            writer::close(closed, store.failure(&error));
            return;
        }
    }
}
