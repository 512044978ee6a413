//! Buckets in NATS, laid out as NATS' own key-value buckets are (ADR-8 of nats-architecture-and-design): a stream `KV_<bucket>`, a
//! subject `$KV.<bucket>.<key>` per key that holds the newest value alone. So `nats kv` shows them. Reads ask the stream's
//! leader, since a replica may not have got yet what was acked.

use std::{fmt::Write as _, future::IntoFuture as _, sync::Arc, time::Duration};

use async_nats::{
    HeaderMap,
    jetstream::{
        self, ErrorCode,
        consumer::{DeliverPolicy, pull::OrderedConfig},
        context::{CreateStreamErrorKind, GetStreamErrorKind, PublishErrorKind},
        message::PublishMessage,
        stream::{Config, DiscardPolicy, RawMessageErrorKind, RetentionPolicy, StorageType, Stream},
    },
};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture};
use tokio::sync::SetOnce;

use super::{Bucket, Buckets, Entry, Kv, KvError, Listed, Revision};
use crate::nats::Nats;

/// What a message of a bucket does, where it is no value.
const OPERATION_HEADER: &str = "KV-Operation";
const DELETE: &str = "DEL";
/// The server leaves one where a value was taken by its age.
const MARKER_HEADER: &str = "Nats-Marker-Reason";

/// How long a list may stay silent.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long NATS knows the ids of messages. Writes have none.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(30);

/// Tries to create where a deletion comes between the look and the write.
const CREATE_TRIES: usize = 3;

/// The buckets of a NATS account; there before NATS is.
pub struct NatsBuckets {
    nats: SetOnce<Nats>,
    replicas: usize,
}

impl NatsBuckets {
    /// Buckets with so many copies; opening one waits for [`Self::arrive`].
    pub fn coming(replicas: usize) -> Self {
        Self { nats: SetOnce::new(), replicas }
    }

    /// NATS is there.
    pub fn arrive(&self, nats: Nats) {
        let _ = self.nats.set(nats);
    }
}

impl Buckets for NatsBuckets {
    fn open(&self, bucket: Bucket) -> BoxFuture<'_, Result<Arc<dyn Kv>, KvError>> {
        async move {
            let nats = self.nats.wait().await.clone();
            let context = jetstream::new(nats.client().clone());
            let ensured = ensure(&context, bucket, self.replicas);
            nats.while_up(ensured).await.unwrap_or_else(|away| Err(unavailable(away)))?;
            there(nats, context, bucket).await
        }
        .boxed()
    }

    fn find(&self, bucket: Bucket) -> BoxFuture<'_, Result<Arc<dyn Kv>, KvError>> {
        async move {
            let nats = self.nats.wait().await.clone();
            let context = jetstream::new(nats.client().clone());
            let looked = async {
                let found = context.get_stream(stream(bucket)).await.map_err(unavailable)?;
                let max_age = found.cached_info().config.max_age;
                let wanted = bucket.max_age.unwrap_or_default();
                if !max_age.is_zero() && (wanted.is_zero() || wanted > max_age) {
                    tracing::warn!(
                        bucket = bucket.name,
                        ?max_age,
                        ?wanted,
                        "the bucket's entries end sooner: whoever makes it has other settings"
                    );
                }
                Ok(())
            };
            nats.while_up(looked).await.unwrap_or_else(|away| Err(unavailable(away)))?;
            there(nats, context, bucket).await
        }
        .boxed()
    }
}

/// A bucket that is there, without another look.
async fn there(nats: Nats, context: jetstream::Context, bucket: Bucket) -> Result<Arc<dyn Kv>, KvError> {
    let stream = context.get_stream_no_info(stream(bucket)).await.map_err(unavailable)?;
    Ok(Arc::new(NatsKv { nats, context, stream, bucket }))
}

fn stream(bucket: Bucket) -> String {
    format!("KV_{}", bucket.name)
}

async fn ensure(context: &jetstream::Context, bucket: Bucket, replicas: usize) -> Result<(), KvError> {
    let name = stream(bucket);
    let found = match context.get_stream(&name).await {
        Ok(stream) => stream.cached_info().config.clone(),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                return match context.create_stream(wanted(Config::default(), bucket, replicas)).await {
                    Ok(_) => Ok(()),
                    Err(error) => match error.kind() {
                        // Another process was faster, and wants the same.
                        CreateStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NAME_EXIST => Ok(()),
                        _ => Err(unavailable(error)),
                    },
                };
            }
            _ => return Err(unavailable(error)),
        },
    };
    let wanted = wanted(found.clone(), bucket, replicas);
    if wanted != found {
        tracing::info!(bucket = bucket.name, replicas, "bringing the bucket up to the settings");
        context.update_stream(wanted).await.map_err(unavailable)?;
    }
    Ok(())
}

/// The bucket with everything that Carillon decides; what else an operator set stays.
fn wanted(found: Config, bucket: Bucket, replicas: usize) -> Config {
    let max_age = bucket.max_age.unwrap_or_default();
    Config {
        name: stream(bucket),
        subjects: vec![format!("$KV.{}.>", bucket.name)],
        storage: StorageType::File,
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::New,
        num_replicas: replicas,
        max_messages_per_subject: 1,
        max_age,
        // NATS wants the window no longer than the age.
        duplicate_window: if max_age.is_zero() { DUPLICATE_WINDOW } else { DUPLICATE_WINDOW.min(max_age) },
        allow_direct: true,
        allow_rollup: true,
        deny_delete: true,
        ..found
    }
}

struct NatsKv {
    nats: Nats,
    context: jetstream::Context,
    stream: Stream<()>,
    bucket: Bucket,
}

/// The newest message of a key.
struct Newest {
    revision: Revision,
    /// `None` where it was deleted.
    value: Option<Bytes>,
}

impl NatsKv {
    fn subject(&self, key: &str) -> String {
        format!("$KV.{}.{}", self.bucket.name, encode(key))
    }

    async fn while_up<T>(&self, question: impl Future<Output = Result<T, KvError>>) -> Result<T, KvError> {
        self.nats.while_up(question).await.unwrap_or_else(|away| Err(unavailable(away)))
    }

    async fn newest(&self, key: &str) -> Result<Option<Newest>, KvError> {
        match self.stream.get_last_raw_message_by_subject(&self.subject(key)).await {
            Ok(message) => {
                let value = is_value(&message.headers).then_some(message.payload);
                Ok(Some(Newest { revision: message.sequence, value }))
            }
            Err(error) => match error.kind() {
                RawMessageErrorKind::NoMessageFound => Ok(None),
                _ => Err(unavailable(error)),
            },
        }
    }

    /// Writes; with a revision, if that one is the newest of the key, 0 for none.
    async fn write(&self, key: &str, message: PublishMessage, expected: Option<Revision>) -> Result<Revision, KvError> {
        let message = match expected {
            Some(revision) => message.expected_last_subject_sequence(revision),
            None => message,
        };
        let sent = self.context.send_publish(self.subject(key), message).await.map_err(unavailable)?;
        match sent.into_future().await {
            Ok(ack) => Ok(ack.sequence),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Err(KvError::Conflict),
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn create_value(&self, key: &str, value: Bytes) -> Result<Revision, KvError> {
        let mut expected = 0;
        for _ in 0..CREATE_TRIES {
            match self.write(key, PublishMessage::build().payload(value.clone()), Some(expected)).await {
                Err(KvError::Conflict) => {}
                answer => return answer,
            }
            expected = match self.newest(key).await? {
                Some(Newest { value: Some(_), .. }) => return Err(KvError::Conflict),
                Some(deleted) => deleted.revision,
                None => 0,
            };
        }
        Err(KvError::Conflict)
    }

    async fn all_after(&self, after: Revision) -> Result<Listed, KvError> {
        let state = self.stream.get_info().await.map_err(unavailable)?.state;
        let mut entries = Vec::new();
        if state.messages == 0 || state.last_sequence <= after {
            return Ok(Listed { entries, upto: state.last_sequence });
        }
        let deliver_policy = match after {
            0 => DeliverPolicy::LastPerSubject,
            // The bucket keeps one message per key: what comes after is the newest of its key.
            _ => DeliverPolicy::ByStartSequence { start_sequence: after + 1 },
        };
        let config =
            OrderedConfig { deliver_policy, filter_subject: format!("$KV.{}.>", self.bucket.name), ..OrderedConfig::default() };
        let consumer = self.stream.create_consumer(config).await.map_err(unavailable)?;
        let mut messages = consumer.messages().await.map_err(unavailable)?;
        let prefix = format!("$KV.{}.", self.bucket.name);
        loop {
            let message = tokio::time::timeout(LIST_TIMEOUT, messages.next()).await.map_err(unavailable)?;
            let message = message.ok_or_else(|| unavailable("the bucket ended"))?.map_err(unavailable)?;
            let info = message.info().map_err(unavailable)?;
            let (revision, pending) = (info.stream_sequence, info.pending);
            let key = message.subject.strip_prefix(&prefix).and_then(decode);
            if let Some(key) = key.filter(|_| message.headers.as_ref().is_none_or(is_value)) {
                entries.push((key, Entry { value: message.payload.clone(), revision }));
            }
            // Up to what the leader has: the consumer may be on a replica that lags.
            if pending == 0 && revision >= state.last_sequence {
                return Ok(Listed { entries, upto: revision });
            }
        }
    }
}

impl Kv for NatsKv {
    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Entry>, KvError>> {
        let key = key.to_owned();
        async move {
            super::check(&key, &[])?;
            let newest = self.while_up(self.newest(&key)).await?;
            Ok(newest.and_then(|newest| Some(Entry { value: newest.value?, revision: newest.revision })))
        }
        .boxed()
    }

    fn list_after(&self, revision: Revision) -> BoxFuture<'_, Result<Listed, KvError>> {
        async move { self.while_up(self.all_after(revision)).await }.boxed()
    }

    fn put(&self, key: &str, value: Bytes) -> BoxFuture<'_, Result<Revision, KvError>> {
        let key = key.to_owned();
        async move {
            super::check(&key, &value)?;
            self.while_up(self.write(&key, PublishMessage::build().payload(value), None)).await
        }
        .boxed()
    }

    fn create(&self, key: &str, value: Bytes) -> BoxFuture<'_, Result<Revision, KvError>> {
        let key = key.to_owned();
        async move {
            super::check(&key, &value)?;
            self.while_up(self.create_value(&key, value)).await
        }
        .boxed()
    }

    fn update(&self, key: &str, value: Bytes, revision: Revision) -> BoxFuture<'_, Result<Revision, KvError>> {
        let key = key.to_owned();
        async move {
            super::check(&key, &value)?;
            self.while_up(self.write(&key, PublishMessage::build().payload(value), Some(revision))).await
        }
        .boxed()
    }

    fn delete(&self, key: &str) -> BoxFuture<'_, Result<(), KvError>> {
        let key = key.to_owned();
        async move {
            super::check(&key, &[])?;
            let deleted = async {
                if self.newest(&key).await?.is_some_and(|newest| newest.value.is_some()) {
                    self.write(&key, PublishMessage::build().header(OPERATION_HEADER, DELETE), None).await?;
                }
                Ok(())
            };
            self.while_up(deleted).await
        }
        .boxed()
    }
}

fn is_value(headers: &HeaderMap) -> bool {
    headers.get(OPERATION_HEADER).is_none() && headers.get(MARKER_HEADER).is_none()
}

fn unavailable(error: impl ToString) -> KvError {
    KvError::Unavailable(error.to_string())
}

/// A key as one token of a subject, as rooms are: what means something in NATS is `=` and two hexadecimal digits.
fn encode(key: &str) -> String {
    let mut token = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => token.push(char::from(byte)),
            _ => write!(token, "={byte:02X}").expect("text takes everything"),
        }
    }
    token
}

/// `None` for what [`encode`] does not make.
fn decode(token: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(token.len());
    let mut parts = token.split('=');
    bytes.extend_from_slice(parts.next()?.as_bytes());
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_one_token() {
        for key in ["7", "user:42", "a.b c.*.>", "ä=", "\0", "a/b"] {
            let token = encode(key);
            assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_=".contains(&byte)), "{token}");
            assert_eq!(decode(&token).as_deref(), Some(key));
        }
        assert_eq!(decode("=C3"), None);
        assert_eq!(decode("=4"), None);
    }
}
