//! The streams: made when missing, brought up to the settings when they differ, refused when they hold another
//! partitioning.

use std::{collections::HashMap, time::Duration};

use async_nats::jetstream::{
    Context, ErrorCode,
    context::{CreateStreamErrorKind, GetStreamErrorKind},
    stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType},
};
use carillon_proto::ids::{PARTITIONS, PartitionId};

use super::subject;
use crate::settings::Settings;

/// How long NATS knows the ids of messages. No message has one; but NATS' own window of two minutes would keep it from taking a shorter age.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(30);

const PARTITIONS_KEY: &str = "carillon.partitions";
const HASH_KEY: &str = "carillon.hash";
const INCARNATION_KEY: &str = "carillon.incarnation";
const FORMAT_KEY: &str = "carillon.format";

/// What spreads rooms over partitions, see `RoomName::partition`.
const HASH: &str = "fnv1a32";
/// How records are linked, see `trail`.
const FORMAT: &str = "1";

/// What the operator decides about the streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JetStreamConfig {
    /// Copies of each stream.
    pub replicas: usize,
    /// The newest so many messages of each room stay at least.
    pub messages: u64,
    /// Messages stay at least so long, unless there are more of them.
    pub age: Duration,
}

impl JetStreamConfig {
    /// The widest of all retention patterns: a stream has one limit for all of its rooms.
    pub fn new(settings: &Settings) -> Self {
        Self {
            replicas: settings.nats.replicas,
            messages: settings.retention.iter().map(|kept| kept.messages).max().unwrap_or(u64::MAX),
            age: settings.retention.iter().map(|kept| kept.age).max().unwrap_or(Duration::MAX),
        }
    }
}

/// Why a stream can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// Not now; it may work later.
    #[error("stream {stream} can't be reached: {why}")]
    Unavailable {
        /// Its name.
        stream: String,
        /// What NATS said.
        why: String,
    },
    /// Somebody must do something first.
    #[error("stream {stream} can't be used: {why}")]
    Refused {
        /// Its name.
        stream: String,
        /// What was expected, what was found, what to do.
        why: String,
    },
}

/// A stream as it is.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) incarnation: String,
}

/// Looks for a stream and attempts to make it, one after the other, before the caller is told to come again.
const ATTEMPTS: u32 = 10;
/// Between two of them. A node of a cluster may refuse to make a stream whose name another one gave out, and not find it yet.
const PAUSE: Duration = Duration::from_millis(100);

/// Finds the stream of a partition, or makes it.
pub(super) async fn ensure(context: &Context, partition: PartitionId, config: &JetStreamConfig) -> Result<Found, StreamError> {
    let name = subject::stream(partition);
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        if let Some(found) = find(context, &name).await? {
            return bring_up(context, &name, found, partition, config).await;
        }
        if let Some(made) = make(context, &name, partition, config).await? {
            return Ok(made);
        }
    }
    Err(StreamError::Unavailable { stream: name, why: "its name is in use, and yet it can't be found".to_owned() })
}

async fn find(context: &Context, name: &str) -> Result<Option<Info>, StreamError> {
    match context.get_stream(name).await {
        Ok(stream) => Ok(Some(stream.cached_info().clone())),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
            GetStreamErrorKind::JetStream(refused) => Err(refused_or_unavailable(name.to_owned(), &refused)),
            _ => Err(StreamError::Unavailable { stream: name.to_owned(), why: error.to_string() }),
        },
    }
}

async fn bring_up(
    context: &Context,
    name: &str,
    found: Info,
    partition: PartitionId,
    config: &JetStreamConfig,
) -> Result<Found, StreamError> {
    let incarnation = check(name, &found)?;
    let wanted = wanted(found.config.clone(), partition, config);
    if wanted != found.config {
        tracing::info!(stream = name, ?config, "bringing the stream up to the settings");
        context.update_stream(wanted).await.map_err(|error| {
            let why = format!("it could not be brought up to the settings ({config:?}): {error}");
            StreamError::Unavailable { stream: name.to_owned(), why }
        })?;
    }
    Ok(Found { incarnation })
}

/// `None` if another process was faster, and chose another incarnation.
async fn make(
    context: &Context,
    name: &str,
    partition: PartitionId,
    config: &JetStreamConfig,
) -> Result<Option<Found>, StreamError> {
    let metadata = [
        (PARTITIONS_KEY, PARTITIONS.to_string()),
        (HASH_KEY, HASH.to_owned()),
        (INCARNATION_KEY, new_incarnation()),
        (FORMAT_KEY, FORMAT.to_owned()),
    ];
    let metadata: HashMap<_, _> = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let new = wanted(Config { metadata, ..Config::default() }, partition, config);
    match context.create_stream(new).await {
        Ok(stream) => {
            tracing::info!(stream = name, ?config, "made the stream");
            Ok(Some(Found { incarnation: check(name, stream.cached_info())? }))
        }
        Err(error) => match error.kind() {
            CreateStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NAME_EXIST => Ok(None),
            CreateStreamErrorKind::JetStream(refused) => Err(refused_or_unavailable(name.to_owned(), &refused)),
            _ => Err(StreamError::Unavailable { stream: name.to_owned(), why: error.to_string() }),
        },
    }
}

/// The stream's config with everything that Carillon decides; what else an operator set (placement, compression) stays.
fn wanted(found: Config, partition: PartitionId, config: &JetStreamConfig) -> Config {
    let age = match config.age.as_nanos() {
        nanos if nanos > i64::MAX as u128 => Duration::ZERO,
        _ => config.age,
    };
    Config {
        name: subject::stream(partition),
        subjects: vec![subject::all(partition)],
        storage: StorageType::File,
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::Old,
        num_replicas: config.replicas,
        allow_direct: true,
        allow_atomic_publish: true,
        // NATS wants the window no longer than the age.
        duplicate_window: if age.is_zero() { DUPLICATE_WINDOW } else { DUPLICATE_WINDOW.min(age) },
        max_messages_per_subject: i64::try_from(config.messages).unwrap_or(-1),
        max_age: age,
        ..found
    }
}

/// Whether the stream is one of ours, and which life of it.
fn check(name: &str, found: &Info) -> Result<String, StreamError> {
    let partitions = PARTITIONS.to_string();
    for (key, expected) in [(PARTITIONS_KEY, partitions.as_str()), (HASH_KEY, HASH), (FORMAT_KEY, FORMAT)] {
        let value = found.config.metadata.get(key).map_or("nothing", String::as_str);
        if value != expected {
            let why = format!(
                "its metadata says {value} for {key}, and this version needs {expected}: \
                 use the version that made it, or another NATS account"
            );
            return Err(StreamError::Refused { stream: name.to_owned(), why });
        }
    }
    found
        .config
        .metadata
        .get(INCARNATION_KEY)
        .cloned()
        .ok_or_else(|| StreamError::Refused { stream: name.to_owned(), why: format!("its metadata lacks {INCARNATION_KEY}") })
}

fn refused_or_unavailable(stream: String, error: &async_nats::jetstream::Error) -> StreamError {
    match error.error_code() {
        ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT => {
            let why = format!("{error}: start the NATS server with JetStream (-js), and enable it for the account");
            StreamError::Refused { stream, why }
        }
        _ => StreamError::Unavailable { stream, why: error.to_string() },
    }
}

/// Ten characters of chance: a place that is set up anew a billion times has one in a million to meet its old name.
fn new_incarnation() -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut random = [0; 10];
    getrandom::fill(&mut random).expect("the system has randomness");
    random.map(|byte| char::from(LETTERS[usize::from(byte) % LETTERS.len()])).iter().collect()
}
