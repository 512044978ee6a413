//! The opened store: a fjall database with six keyspaces, its limits, and what the log says about itself.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use carillon_proto::ids::PARTITIONS;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, compaction::Leveled};

use super::{
    folder::{Folder, OpenError},
    journal, layout,
};

// Memory: 32 (cache) + 5 × 8 (messages) + 5 × 2 (order) + 3 × 5 × 1 (floors, entries, ages) = 97 MiB at the very most, since fjall halts
// writing at four full memtables beside the one in use. Under a steady load it is one or two of each: about 55 MiB.

/// Blocks of the disk that are kept, decompressed.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;
/// What is gathered before it becomes a table. While a table is synced, the journal's syncs wait behind it on the same
/// disk: at 20,000 appends/s of 300 bytes the 99th percentile was 47 ms with 8 MiB here and in `TABLE_BYTES`, and 90 ms to
/// 136 ms with 16 MiB and fjall's 64 MiB.
const MESSAGES_MEMTABLE_BYTES: u64 = 8 * 1024 * 1024;
/// An entry of `order` is about 40 bytes where its message is some hundreds.
const ORDER_MEMTABLE_BYTES: u64 = 2 * 1024 * 1024;
/// Trimmed rooms, and entries of buckets, are few and small.
const SMALL_MEMTABLE_BYTES: u64 = 1024 * 1024;
/// A table of merged tables.
const TABLE_BYTES: u64 = 8 * 1024 * 1024;
/// fjall's smallest. Full journals wait until all that they hold is in tables, and are read again at the start: this and
/// the one in use, 64 MB, read at some hundred MB/s.
const JOURNAL_BYTES: u64 = 64 * 1024 * 1024;
/// One writes memtables out, the other merges tables. With only one, a long merge halts the appends under full load; with
/// two, the first one spins while the second one merges (fjall 3.1 `worker_pool.rs`, `WorkerMessage::Compact`).
const WORKERS: usize = 2;
/// Tables that are kept open: 2 GB without reopening, well below the usual limit of 1,024 files per process.
const OPEN_FILES: usize = 256;

/// The database. Dropping the last handle frees the folder.
pub(super) struct Store {
    pub(super) db: Database,
    pub(super) messages: Keyspace,
    pub(super) order: Keyspace,
    pub(super) floors: Keyspace,
    pub(super) entries: Keyspace,
    pub(super) ages: Keyspace,
    pub(super) incarnation: String,
    path: PathBuf,
    // Last, so that the folder is free only when the database is closed.
    _folder: Folder,
}

impl Store {
    /// Opens `<data_dir>/log`, and makes it first if need be.
    pub(super) fn open(data_dir: &Path) -> Result<Self, OpenError> {
        let folder = Folder::lock(data_dir)?;
        let path = folder.ready(create)?;
        journal::repair(&path)?;
        let broken = |error: fjall::Error| OpenError::store(&path, error);
        let db = database(&path).map_err(broken)?;

        let meta = db.keyspace("meta", small).map_err(broken)?;
        let said = |name: &str| -> Result<String, OpenError> {
            let value = meta.get(name).map_err(broken)?;
            Ok(value.map_or_else(|| "nothing".into(), |value| String::from_utf8_lossy(&value).into_owned()))
        };
        for (name, expected) in identity() {
            let found = said(name)?;
            if found != expected {
                return Err(OpenError::Foreign { folder: path, what: name, expected, found });
            }
        }
        Ok(Self {
            incarnation: said("incarnation")?,
            messages: db.keyspace("messages", messages).map_err(broken)?,
            order: db.keyspace("order", order).map_err(broken)?,
            floors: db.keyspace("floors", small).map_err(broken)?,
            // Made here in a log from before there were buckets.
            entries: db.keyspace("entries", small).map_err(broken)?,
            ages: db.keyspace("ages", small).map_err(broken)?,
            db,
            path,
            _folder: folder,
        })
    }

    /// Fails if one of the store's threads has failed. Cheap: nothing is waiting to be flushed between two groups.
    pub(super) fn check(&self) -> fjall::Result<()> {
        self.db.persist(PersistMode::Buffer)
    }

    /// Why the log is closed, for the operator.
    pub(super) fn failure(&self, error: &fjall::Error) -> String {
        let found = match error {
            fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => error.to_string(),
            // One of the store's own threads failed; only its log lines tell why.
            fjall::Error::Poisoned => "the store failed to write a table, see its messages before this one".into(),
            other => other.to_string(),
        };
        format!(
            "writing to {} failed: {found}. Look for free space and at the disk's health, then start again: everything \
             acknowledged is there",
            self.path.display()
        )
    }
}

/// What a log must say about itself to be read by this build.
pub(super) fn identity() -> [(&'static str, String); 3] {
    [("format", layout::FORMAT.into()), ("partitions", PARTITIONS.to_string()), ("hash", "fnv1a32".into())]
}

/// Makes an empty log, durable when it returns.
pub(super) fn create(path: &Path) -> Result<(), OpenError> {
    let broken = |error: fjall::Error| OpenError::store(path, error);
    let db = database(path).map_err(broken)?;
    let meta = db.keyspace("meta", small).map_err(broken)?;
    db.keyspace("messages", messages).map_err(broken)?;
    db.keyspace("order", order).map_err(broken)?;
    for name in ["floors", "entries", "ages"] {
        db.keyspace(name, small).map_err(broken)?;
    }
    for (name, value) in identity() {
        meta.insert(name, value).map_err(broken)?;
    }
    meta.insert("incarnation", new_incarnation()).map_err(broken)?;
    db.persist(PersistMode::SyncAll).map_err(broken)
}

/// 8 of 36 characters: 41 bits, so that a log that is made anew has another one.
fn new_incarnation() -> String {
    let mut random = getrandom::u64().expect("Linux has randomness once it has booted");
    let text = std::iter::repeat_with(|| {
        let digit = char::from_digit((random % 36) as u32, 36).expect("below 36");
        random /= 36;
        digit
    });
    text.take(8).collect()
}

/// A keyspace of a log that is there, by its name.
pub(super) fn keyspace_of(db: &Database, name: &str) -> fjall::Result<Keyspace> {
    match name {
        "messages" => db.keyspace(name, messages),
        "order" => db.keyspace(name, order),
        _ => db.keyspace(name, small),
    }
}

pub(super) fn database(path: &Path) -> fjall::Result<Database> {
    Database::builder(path)
        .cache_size(CACHE_BYTES)
        .max_journaling_size(JOURNAL_BYTES)
        .worker_threads(WORKERS)
        .max_cached_files(Some(OPEN_FILES))
        .open()
}

fn messages() -> KeyspaceCreateOptions {
    // Single records are only looked up when they are known to be there: the filters of the largest level would be idle.
    keyspace(MESSAGES_MEMTABLE_BYTES).expect_point_read_hits(true)
}

fn order() -> KeyspaceCreateOptions {
    keyspace(ORDER_MEMTABLE_BYTES).expect_point_read_hits(true)
}

fn small() -> KeyspaceCreateOptions {
    keyspace(SMALL_MEMTABLE_BYTES)
}

/// fjall stores these options with the keyspace: other ones take effect on new logs only.
fn keyspace(memtable_bytes: u64) -> KeyspaceCreateOptions {
    let compaction = Leveled::default().with_table_target_size(TABLE_BYTES);
    KeyspaceCreateOptions::default().max_memtable_size(memtable_bytes).compaction_strategy(Arc::new(compaction))
}
