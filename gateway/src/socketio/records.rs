//! What clients need to come back, in a bucket that all gateways share. A record belongs to the connection that wrote it
//! last: one that finds another's write has been replaced, and ends.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use carillon_platform::kv::{Bucket, Buckets, Kv, KvError, MAX_VALUE_BYTES, Revision};
use carillon_proto::socketio::{Record, VERSION};
use prost::Message as _;
use tokio::sync::OnceCell;

/// The records of all clients.
pub(crate) struct Records {
    buckets: Arc<dyn Buckets>,
    max_age: Duration,
    kv: OnceCell<Arc<dyn Kv>>,
    forgetting: Forgetting,
}

/// Records that are being forgotten by any shard of this gateway: a client that leaves and comes at once finds none.
pub(crate) type Forgetting = Arc<Mutex<HashSet<String>>>;

/// Records are written anew while their client is here, this many times in the time that they must last.
pub(crate) const WRITES_PER_LIFE: u64 = 4;

impl Records {
    /// Each kept for `recovery_s` seconds after its client was last here.
    pub(crate) fn new(buckets: Arc<dyn Buckets>, recovery_s: u64, forgetting: Forgetting) -> Self {
        // The last write may be a share of its life old when the client goes.
        let max_age = Duration::from_secs(recovery_s + recovery_s.div_ceil(WRITES_PER_LIFE) + 1);
        Self { buckets, max_age, kv: OnceCell::new(), forgetting }
    }

    async fn kv(&self) -> Result<&Arc<dyn Kv>, KvError> {
        let bucket = Bucket { name: "socketio", max_age: Some(self.max_age) };
        self.kv.get_or_try_init(|| self.buckets.open(bucket)).await
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
