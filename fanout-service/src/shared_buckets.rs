//! The buckets that other services use. This one makes them, as it makes the log: whoever may make or change a stream in NATS can
//! have it speak into any subject, so that nobody else may.

use std::{sync::Arc, time::Duration};

use carillon_platform::{
    auth::REVOCATIONS,
    kv::{Bucket, Buckets},
};

use crate::RETRY;

/// How often it is looked whether NATS still has them.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Sees that they are there; never ends. Every replica does: who comes second finds them made.
pub(crate) async fn keep(buckets: Arc<dyn Buckets>, recovery_s: u64) {
    tokio::join!(keep_one(&*buckets, REVOCATIONS), keep_one(&*buckets, Bucket::socketio(recovery_s)));
}

async fn keep_one(buckets: &dyn Buckets, bucket: Bucket) {
    loop {
        match buckets.open(bucket).await {
            Ok(_) => while_there(buckets, bucket).await,
            Err(error) => tracing::warn!(bucket = bucket.name, %error, "can't be made yet"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn while_there(buckets: &dyn Buckets, bucket: Bucket) {
    while buckets.find(bucket).await.is_ok() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
