//! What clients need to come back, in a bucket that all gateways share. A record belongs to the connection that wrote it
//! last: one that finds another's write has been replaced, and ends.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use carillon_platform::kv::{Bucket, Buckets, Kv, KvError, MAX_VALUE_BYTES, Revision};
use carillon_proto::socketio::{Record, VERSION};
use prost::Message as _;
use tokio::sync::OnceCell;

/// The records of all clients.
pub(crate) struct Records {
    buckets: Arc<dyn Buckets>,
    bucket: Bucket,
    kv: OnceCell<Arc<dyn Kv>>,
    forgetting: Forgetting,
}

/// Records that are being forgotten by any shard of this gateway: a client that leaves and comes at once finds none.
pub(crate) type Forgetting = Arc<Mutex<HashSet<String>>>;

impl Records {
    /// Each kept for `recovery_s` seconds after its client was last here.
    pub(crate) fn new(buckets: Arc<dyn Buckets>, recovery_s: u64, forgetting: Forgetting) -> Self {
        Self { buckets, bucket: Bucket::socketio(recovery_s), kv: OnceCell::new(), forgetting }
    }

    /// The fanout service makes it: until then, nothing can be kept, and clients are told to come back.
    async fn kv(&self) -> Result<&Arc<dyn Kv>, KvError> {
        self.kv.get_or_try_init(|| self.buckets.find(self.bucket)).await
    }

    /// What is kept under a `pid`, if anything is.
    pub(crate) async fn find(&self, pid: &str) -> Result<Option<(Record, Revision)>, KvError> {
        if self.is_forgetting(pid) {
            return Ok(None);
        }
        let Some(entry) = self.kv().await?.get(pid).await? else { return Ok(None) };
        let record = Record::decode(entry.value).ok().filter(|record| record.version == VERSION);
        Ok(record.map(|record| (record, entry.revision)))
    }

    /// Writes a record, where `revision` is what its connection knows of it.
    pub(crate) async fn write(&self, pid: &str, record: &Record, revision: Option<Revision>) -> Result<Revision, KvError> {
        let value: Bytes = record.encode_to_vec().into();
        if value.len() > MAX_VALUE_BYTES {
            return Err(KvError::Refused("more rooms than a record has room for".into()));
        }
        match revision {
            None => self.kv().await?.create(pid, value).await,
            Some(revision) => self.kv().await?.update(pid, value, revision).await,
        }
    }

    fn is_forgetting(&self, pid: &str) -> bool {
        self.forgetting.lock().expect("nobody panics while looking").contains(pid)
    }

    /// From now on the record is not found here.
    pub(crate) fn begin_forgetting(&self, pid: &str) {
        self.forgetting.lock().expect("nobody panics while looking").insert(pid.to_owned());
    }

    /// The client does not come back: after [`Self::begin_forgetting`]. A record that another connection has taken over since stays.
    pub(crate) async fn forget(&self, pid: &str, revision: Option<Revision>) {
        if let Some(revision) = revision
            && let Ok(kv) = self.kv().await
            && let Err(error) = kv.update(pid, Bytes::new(), revision).await
        {
            tracing::debug!(%error, "a record stays until it is too old");
        }
    }

    /// Whatever became of it.
    pub(crate) fn end_forgetting(&self, pid: &str) {
        self.forgetting.lock().expect("nobody panics while looking").remove(pid);
    }
}
