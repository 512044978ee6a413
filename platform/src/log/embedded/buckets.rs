//! Key-value buckets in the log's own database: a write is one more thing in the writer's next group, behind the same sync.
//! What is too old is not shown, and goes with later writes to its bucket, a few at a time.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use fjall::OwnedWriteBatch;
use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::sync::oneshot;

use super::{
    EmbeddedLog, layout,
    reads::{Reads, now_ms},
    store::Store,
    writer::Command,
};
use crate::{
    kv::{self, Bucket, Buckets, Entry, Kv, KvError, Listed, Revision},
    log::{AppendError, LogError},
};

/// Old entries that go with one write: more than come with one, so that none pile up, and a few so that it costs nothing.
const SWEPT_PER_WRITE: usize = 4;

/// The buckets of a data folder.
pub struct EmbeddedBuckets(Arc<EmbeddedLog>);

impl EmbeddedBuckets {
    /// Beside the messages of this log.
    pub fn of(log: Arc<EmbeddedLog>) -> Self {
        Self(log)
    }
}

impl Buckets for EmbeddedBuckets {
    fn open(&self, bucket: Bucket) -> BoxFuture<'_, Result<Arc<dyn Kv>, KvError>> {
        let kv: Arc<dyn Kv> = Arc::new(EmbeddedKv { log: self.0.clone(), bucket });
        std::future::ready(Ok(kv)).boxed()
    }

    /// All of them are there, or as good as.
    fn find(&self, bucket: Bucket) -> BoxFuture<'_, Result<Arc<dyn Kv>, KvError>> {
        self.open(bucket)
    }
}

struct EmbeddedKv {
    log: Arc<EmbeddedLog>,
    bucket: Bucket,
}

/// One write, as the writer is asked for it.
pub(super) struct Write {
    bucket: Bucket,
    key: String,
    change: Change,
    done: Done,
}

type Done = oneshot::Sender<Result<Revision, KvError>>;

enum Change {
    Put(Bytes),
    Create(Bytes),
    Update(Bytes, Revision),
    Delete,
}

impl Change {
    fn value(&self) -> &[u8] {
        match self {
            Self::Put(value) | Self::Create(value) | Self::Update(value, _) => value,
            Self::Delete => &[],
        }
    }
}

impl Write {
    pub(super) fn bytes(&self) -> usize {
        self.key.len() + self.change.value().len()
    }
}

impl EmbeddedKv {
    fn write(&self, key: &str, change: Change) -> BoxFuture<'_, Result<Revision, KvError>> {
        let (done, written) = oneshot::channel();
        let queued = kv::check(key, change.value()).and_then(|()| {
            let write = Write { bucket: self.bucket, key: key.to_owned(), change, done };
            self.log.queue(Command::Write(write)).map_err(|error| match error {
                AppendError::Closed(reason) => KvError::Broken(reason),
                full => KvError::Unavailable(full.to_string()),
            })
        });
        async move {
            queued?;
            written.await.unwrap_or_else(|_| Err(KvError::Broken(super::reason(&self.log.closed))))
        }
        .boxed()
    }
}

impl Kv for EmbeddedKv {
    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Entry>, KvError>> {
        let (bucket, key) = (self.bucket, key.to_owned());
        async move {
            kv::check(&key, &[])?;
            let found = self.log.read_store(move |reads| reads.entry(bucket.name, &key)).await.map_err(broken)?;
            Ok(found.filter(|found| !found.is_over(bucket.max_age, now_ms())).map(|found| found.entry))
        }
        .boxed()
    }

    fn list_after(&self, revision: Revision) -> BoxFuture<'_, Result<Listed, KvError>> {
        let bucket = self.bucket;
        async move {
            let read = move |reads: Reads<'_>| Ok((reads.last_revision()?, reads.entries(bucket.name)?));
            let (upto, found) = self.log.read_store(read).await.map_err(broken)?;
            let now = now_ms();
            let live =
                found.into_iter().filter(|(_, found)| found.entry.revision > revision && !found.is_over(bucket.max_age, now));
            Ok(Listed { entries: live.map(|(key, found)| (key, found.entry)).collect(), upto })
        }
        .boxed()
    }

    fn put(&self, key: &str, value: Bytes) -> BoxFuture<'_, Result<Revision, KvError>> {
        self.write(key, Change::Put(value))
    }

    fn create(&self, key: &str, value: Bytes) -> BoxFuture<'_, Result<Revision, KvError>> {
        self.write(key, Change::Create(value))
    }

    fn update(&self, key: &str, value: Bytes, revision: Revision) -> BoxFuture<'_, Result<Revision, KvError>> {
        self.write(key, Change::Update(value, revision))
    }

    fn delete(&self, key: &str) -> BoxFuture<'_, Result<(), KvError>> {
        self.write(key, Change::Delete).map(|deleted| deleted.map(drop)).boxed()
    }
}

fn broken(error: LogError) -> KvError {
    match error {
        LogError::Unavailable(why) => KvError::Unavailable(why),
        LogError::Broken(why) => KvError::Broken(why),
    }
}

/// An entry as the store has it.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) entry: Entry,
    /// Unix milliseconds.
    pub(super) written_ms: u64,
}

impl Found {
    fn is_over(&self, max_age: Option<Duration>, now_ms: u64) -> bool {
        max_age.is_some_and(|age| u128::from(now_ms.saturating_sub(self.written_ms)) >= age.as_millis())
    }
}

/// The writer's side: what the group at hand changes.
#[derive(Default)]
pub(super) struct Writes {
    /// The last one given out.
    revision: Revision,
    /// By key in the store. One batch must not write a key twice, so that it is written when the group is whole.
    changed: BTreeMap<Vec<u8>, Changed>,
    /// Where the oldest entries of a bucket begin: what is before was removed, and would have to be stepped over.
    oldest: HashMap<&'static str, Revision>,
    owed: Vec<(Done, Result<Revision, KvError>)>,
}

struct Changed {
    bucket: Bucket,
    before: Option<Revision>,
    now: Option<Found>,
}

impl Writes {
    pub(super) fn new(store: &Store) -> fjall::Result<Self> {
        Ok(Self { revision: Reads::of(store).last_revision()?, ..Self::default() })
    }

    /// One more write of the group.
    pub(super) fn write(&mut self, store: &Store, write: Write, now_ms: u64) -> fjall::Result<()> {
        let Write { bucket, key, change, done } = write;
        let key_bytes = layout::entry_key(bucket.name, &key);
        if !self.changed.contains_key(&key_bytes) {
            let found = Reads::of(store).entry(bucket.name, &key)?;
            let before = found.as_ref().map(|found| found.entry.revision);
            self.changed.insert(key_bytes.clone(), Changed { bucket, before, now: found });
        }
        let changed = self.changed.get_mut(&key_bytes).expect("it was just put there");
        let there = changed.now.as_ref().filter(|found| !found.is_over(bucket.max_age, now_ms)).map(|found| found.entry.revision);
        let answer = match (change, there) {
            (Change::Delete, _) => {
                changed.now = None;
                Ok(self.revision)
            }
            (Change::Create(_), Some(_)) => Err(KvError::Conflict),
            (Change::Update(_, expected), there) if there != Some(expected) => Err(KvError::Conflict),
            (Change::Put(value) | Change::Create(value) | Change::Update(value, _), _) => {
                self.revision += 1;
                changed.now = Some(Found { entry: Entry { value, revision: self.revision }, written_ms: now_ms });
                Ok(self.revision)
            }
        };
        self.owed.push((done, answer));
        Ok(())
    }

    /// Puts what the group changes into its batch.
    pub(super) fn put_into(&mut self, batch: &mut OwnedWriteBatch, store: &Store, now_ms: u64) -> fjall::Result<()> {
        if self.changed.is_empty() {
            return Ok(());
        }
        let buckets: HashMap<&str, Bucket> = self.changed.values().map(|changed| (changed.bucket.name, changed.bucket)).collect();
        for bucket in buckets.into_values() {
            self.sweep(batch, store, bucket, now_ms)?;
        }
        for (key, Changed { bucket, before, now }) in std::mem::take(&mut self.changed) {
            if before == now.as_ref().map(|now| now.entry.revision) {
                continue;
            }
            if let Some(before) = before {
                batch.remove(&store.ages, layout::age_key(bucket.name, before));
            }
            match now {
                Some(Found { entry, written_ms }) => {
                    batch.insert(&store.ages, layout::age_key(bucket.name, entry.revision), layout::age_value(written_ms, &key));
                    batch.insert(&store.entries, key, layout::entry_value(entry.revision, written_ms, &entry.value));
                }
                None => batch.remove(&store.entries, key),
            }
        }
        batch.insert(&store.entries, layout::REVISION_KEY, self.revision.to_be_bytes());
        Ok(())
    }

    fn sweep(&mut self, batch: &mut OwnedWriteBatch, store: &Store, bucket: Bucket, now_ms: u64) -> fjall::Result<()> {
        let Some(max_age) = bucket.max_age else { return Ok(()) };
        let most = SWEPT_PER_WRITE * self.changed.len();
        let from = self.oldest.get(bucket.name).copied().unwrap_or(0);
        for age in Reads::of(store).ages(bucket.name, from).take(most) {
            let (age_key, age_value) = age.into_inner()?;
            self.oldest.insert(bucket.name, layout::age_revision(&age_key));
            let (written_ms, key) = layout::age(&age_value);
            if u128::from(now_ms.saturating_sub(written_ms)) < max_age.as_millis() {
                break;
            }
            // What the group changes takes care of its own age.
            if !self.changed.contains_key(key) {
                batch.remove(&store.entries, key);
                batch.remove(&store.ages, age_key);
            }
        }
        Ok(())
    }

    /// The group is durable.
    pub(super) fn answer(&mut self) {
        for (done, answer) in self.owed.drain(..) {
            // Who doesn't wait any more misses nothing.
            let _ = done.send(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Bucket = Bucket { name: "short", max_age: Some(Duration::from_secs(1)) };

    #[test]
    fn old_entries_leave_with_later_writes() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let mut writes = Writes::new(&store).unwrap();
        let mut write = |keys: &[String], now_ms| {
            let mut batch = store.db.batch();
            for key in keys {
                let change = Change::Put("x".into());
                writes
                    .write(&store, Write { bucket: SHORT, key: key.clone(), change, done: oneshot::channel().0 }, now_ms)
                    .unwrap();
            }
            writes.put_into(&mut batch, &store, now_ms).unwrap();
            batch.commit().unwrap();
            (store.entries.len().unwrap() - 1, store.ages.len().unwrap())
        };
        let keys: Vec<String> = (0..10).map(|n| n.to_string()).collect();
        assert_eq!(write(&keys, 1_000), (10, 10));
        // Twice in one group, and once more over what is there.
        assert_eq!(write(&["0".into(), "0".into(), "9".into()], 1_500), (10, 10));
        assert_eq!(write(&["new".into()], 1_999), (11, 11));
        assert_eq!(write(&["new".into()], 2_100), (7, 7));
        assert_eq!(write(&["new".into()], 2_200), (3, 3));
        assert_eq!(write(&["0".into()], 2_600), (2, 2));
    }
}
