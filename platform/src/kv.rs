//! The key-value port: small, durable buckets for what several processes must agree on and that is no message (leases,
//! revocations, what a client needs to come back). Writes may depend on what was there before; nothing here knows what
//! a value means.

mod nats;

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

pub use self::nats::NatsBuckets;
pub use crate::log::EmbeddedBuckets;

/// What a key may measure, in bytes of UTF-8. NATS has it in a subject, three characters for each unusual byte.
pub const MAX_KEY_BYTES: usize = 256;

/// What a value may measure. Buckets are listed as a whole, and NATS' default payload limit is 1 MiB.
pub const MAX_VALUE_BYTES: usize = 64 * 1024;

/// Counts the writes of a bucket: each one gets a greater one, maybe with holes.
pub type Revision = u64;

/// Where the buckets of a deployment are. Cheap to share.
pub trait Buckets: Send + Sync + 'static {
    /// Finds the bucket or makes it, and brings it up to these options. Over NATS it waits for the first connection.
    fn open(&self, bucket: Bucket) -> BoxFuture<'_, Result<std::sync::Arc<dyn Kv>, KvError>>;

    /// Finds a bucket that is another process's to make, and changes nothing of it; [`KvError::Unavailable`] while there is none.
    /// Over NATS it waits for the first connection.
    fn find(&self, bucket: Bucket) -> BoxFuture<'_, Result<std::sync::Arc<dyn Kv>, KvError>>;
}

/// A bucket's options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// Its name: letters, digits, `-` and `_`.
    pub name: &'static str,
    /// An entry that was not written for so long is gone some time later. Without it, entries stay until they are deleted.
    pub max_age: Option<Duration>,
}

impl Bucket {
    /// One whose entries stay.
    pub const fn new(name: &'static str) -> Self {
        Self { name, max_age: None }
    }

    /// What clients of Socket.IO need to come back for `recovery_s` seconds after they were last here; gateways write it anew
    /// [`Self::WRITES_PER_RECOVERY`] times in that time.
    pub const fn socketio(recovery_s: u64) -> Self {
        // The last write may be a share of its life old when the client goes.
        let max_age_s = recovery_s + recovery_s.div_ceil(Self::WRITES_PER_RECOVERY) + 1;
        Self { name: "socketio", max_age: Some(Duration::from_secs(max_age_s)) }
    }

    /// See [`Self::socketio`].
    pub const WRITES_PER_RECOVERY: u64 = 4;
}

/// One bucket. Keys are any text of 1 to [`MAX_KEY_BYTES`] bytes, values any bytes up to [`MAX_VALUE_BYTES`].
///
/// A write that has resolved is durable as an append of the log is: synced to this machine's disk (embedded), or acked by
/// JetStream. Reads see every write that has resolved, whichever process wrote. After [`KvError::Unavailable`] nobody
/// knows whether a write took place.
pub trait Kv: Send + Sync + 'static {
    /// What is there under the key.
    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Entry>, KvError>>;

    /// All entries, in no particular order.
    fn list(&self) -> BoxFuture<'_, Result<Vec<(String, Entry)>, KvError>> {
        Box::pin(async { Ok(self.list_after(0).await?.entries) })
    }

    /// The entries that were written after this revision. What was deleted since is not told.
    fn list_after(&self, revision: Revision) -> BoxFuture<'_, Result<Listed, KvError>>;

    /// Writes, whatever is there.
    fn put(&self, key: &str, value: Bytes) -> BoxFuture<'_, Result<Revision, KvError>>;

    /// Writes if nothing is there, else [`KvError::Conflict`].
    fn create(&self, key: &str, value: Bytes) -> BoxFuture<'_, Result<Revision, KvError>>;

    /// Writes if exactly the entry of this revision is there, else [`KvError::Conflict`].
    fn update(&self, key: &str, value: Bytes, revision: Revision) -> BoxFuture<'_, Result<Revision, KvError>>;

    /// Takes away what is there, if anything is.
    fn delete(&self, key: &str) -> BoxFuture<'_, Result<(), KvError>>;
}

/// Entries of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// With their keys, in no particular order.
    pub entries: Vec<(String, Entry)>,
    /// The bucket was read up to here, deletions included. It is smaller than that of an earlier list only where what answered
    /// lags behind, or the bucket was lost and made anew.
    pub upto: Revision,
}

/// What is there under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As it was written.
    pub value: Bytes,
    /// Of the write.
    pub revision: Revision,
}

/// Why a bucket did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// Something else is there than the write was made for. Nothing was written.
    #[error("another write came first")]
    Conflict,
    /// Not now; the same call may work later.
    #[error("the bucket can't be reached: {0}")]
    Unavailable(String),
    /// No bucket takes this: an empty or overlong key, a value that is too large.
    #[error("no entry of a bucket: {0}")]
    Refused(String),
    /// Never again in this process.
    #[error("the bucket is broken: {0}")]
    Broken(String),
}

/// What every adapter refuses.
pub(crate) fn check(key: &str, value: &[u8]) -> Result<(), KvError> {
    match (key.len(), value.len()) {
        (0, _) => Err(KvError::Refused("its key is empty".into())),
        (bytes, _) if bytes > MAX_KEY_BYTES => {
            Err(KvError::Refused(format!("its key has {bytes} bytes, and {MAX_KEY_BYTES} are allowed")))
        }
        (_, bytes) if bytes > MAX_VALUE_BYTES => {
            Err(KvError::Refused(format!("its value has {bytes} bytes, and {MAX_VALUE_BYTES} are allowed")))
        }
        _ => Ok(()),
    }
}
