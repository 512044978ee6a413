//! A copy of the log as one file: everything that was acked when it began, buckets included, taken while others append. Restored it is
//! another life of the log, since what was acked after the copy is not in it.
//!
//! ```text
//!   "carillon backup 1\n"
//!   keyspace ‖ key length ‖ value length ‖ key ‖ value    again and again; the log's identity comes first
//!   ff ‖ number of them ‖ SHA-256 of all before it
//! ```
//! The keyspace is one byte, lengths have 4 bytes, the number has 8, big endian.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::Path,
};

use fjall::{Database, Keyspace, OwnedWriteBatch, PersistMode, Readable as _};
use sha2::{Digest as _, Sha256};

use super::{
    EmbeddedLog, OpenError,
    folder::Folder,
    layout,
    store::{self, Store},
};

/// How every backup begins.
pub const MAGIC: &[u8] = b"carillon backup 1\n";

const META: u8 = 0;
const MESSAGES: u8 = 1;
/// The keyspaces in the order of the file, each with its number there.
const KEYSPACES: [(u8, &str); 5] = [(MESSAGES, "messages"), (2, "order"), (3, "floors"), (4, "entries"), (5, "ages")];
const END: u8 = 0xff;

/// Keys have no more than a room's name and some numbers; values no more than the largest record, with room to spare.
const MAX_KEY: usize = 64 * 1024;
const MAX_VALUE: usize = 64 * 1024 * 1024;

/// What is restored with one write: enough to be fast, little enough to be held.
const BATCH: usize = 1_024;
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// What a backup holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backup {
    /// Messages of rooms.
    pub messages: u64,
    /// All entries, those of the log itself included.
    pub entries: u64,
}

/// Why there is no log in the folder now that was not there before. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The file is no backup, or not all of one.
    #[error("the backup can't be used: {0}")]
    Bad(String),
    /// There is a log already.
    #[error("{0} holds a log already: move it away, or name another data_dir; a restore overwrites nothing")]
    NotEmpty(String),
    /// The folder can't be used.
    #[error(transparent)]
    Folder(#[from] OpenError),
}

impl From<io::Error> for RestoreError {
    fn from(error: io::Error) -> Self {
        Self::Bad(match error.kind() {
            io::ErrorKind::UnexpectedEof => "it ends in the middle; make another one".to_owned(),
            _ => error.to_string(),
        })
    }
}

impl EmbeddedLog {
    /// Writes everything that was acked before the call, and nothing of what is appended meanwhile. Blocks, for as long as the disk
    /// and whoever reads take.
    ///
    /// # Errors
    /// If it can't be written, or the log can't be read.
    pub fn back_up(&self, to: impl Write) -> io::Result<Backup> {
        let store: &Store = &self.store;
        let moment = store.db.snapshot();
        let mut out = Out { to: BufWriter::new(to), digest: Sha256::new(), done: Backup::default() };
        out.write(MAGIC)?;
        for (name, value) in store::identity() {
            out.entry(META, name.as_bytes(), value.as_bytes())?;
        }
        let keyspaces = [&store.messages, &store.order, &store.floors, &store.entries, &store.ages];
        for ((number, _), keyspace) in KEYSPACES.into_iter().zip(keyspaces) {
            for entry in moment.iter(keyspace) {
                let (key, value) = entry.into_inner().map_err(io::Error::other)?;
                out.entry(number, &key, &value)?;
            }
        }
        out.end()
    }
}

struct Out<W: Write> {
    to: BufWriter<W>,
    digest: Sha256,
    done: Backup,
}

impl<W: Write> Out<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digest.update(bytes);
        self.to.write_all(bytes)
    }

    fn entry(&mut self, keyspace: u8, key: &[u8], value: &[u8]) -> io::Result<()> {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).map(u32::to_be_bytes).map_err(io::Error::other);
        self.write(&[keyspace])?;
        self.write(&length(key)?)?;
        self.write(&length(value)?)?;
        self.write(key)?;
        self.write(value)?;
        self.done.entries += 1;
        self.done.messages += u64::from(keyspace == MESSAGES);
        Ok(())
    }

    fn end(mut self) -> io::Result<Backup> {
        self.write(&[END])?;
        self.write(&self.done.entries.to_be_bytes())?;
        let digest = self.digest.finalize();
        self.to.write_all(&digest)?;
        self.to.flush()?;
        Ok(self.done)
    }
}

/// Reads a backup to its end, and hands over what is in it; the end tells whether all of it was as it was written.
fn read(from: impl Read, mut take: impl FnMut(u8, Vec<u8>, Vec<u8>) -> Result<(), RestoreError>) -> Result<Backup, RestoreError> {
    let mut from = In { from: BufReader::new(from), digest: Sha256::new() };
    let bad = |why: &str| RestoreError::Bad(why.to_owned());
    if from.bytes(MAGIC.len())? != MAGIC {
        return Err(bad("it is none of this version of Carillon"));
    }
    let mut done = Backup::default();
    loop {
        let keyspace = from.bytes(1)?[0];
        if keyspace == END {
            let entries = from.number::<8>()?;
            let expected = from.digest.clone().finalize();
            let mut found = [0; 32];
            from.from.read_exact(&mut found)?;
            if entries != done.entries || found[..] != expected[..] {
                return Err(bad("it was changed since it was made; use another one"));
            }
            return Ok(done);
        }
        let (key, value) = (from.number::<4>()? as usize, from.number::<4>()? as usize);
        if key > MAX_KEY || value > MAX_VALUE {
            return Err(bad("it was changed since it was made; use another one"));
        }
        let (key, value) = (from.bytes(key)?, from.bytes(value)?);
        done.entries += 1;
        done.messages += u64::from(keyspace == MESSAGES);
        take(keyspace, key, value)?;
    }
}

struct In<R: Read> {
    from: BufReader<R>,
    digest: Sha256,
}

impl<R: Read> In<R> {
    fn bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.from.read_exact(&mut bytes)?;
        self.digest.update(&bytes);
        Ok(bytes)
    }

    fn number<const N: usize>(&mut self) -> io::Result<u64> {
        Ok(self.bytes(N)?.into_iter().fold(0, |number, byte| number << 8 | u64::from(byte)))
    }
}

/// Reads a backup to its end and tells what it holds.
///
/// # Errors
/// If it is none, or not all of one.
pub fn check(from: impl Read) -> Result<Backup, RestoreError> {
    read(from, |_, _, _| Ok(()))
}

/// Makes a log of a backup, in a data folder that has none. Blocks. It is another life: with an incarnation of its own, so that every
/// room has another epoch, and who knew the later messages that are not in it is told.
///
/// # Errors
/// If the backup or the folder can't be used; then there is no log in the folder.
pub fn restore(data_dir: &Path, from: impl Read) -> Result<Backup, RestoreError> {
    let folder = Folder::lock(data_dir)?;
    let disk = |error: io::Error| OpenError::disk(data_dir, error);
    let (log, fresh) = (data_dir.join("log"), data_dir.join("log.restored"));
    if log.try_exists().map_err(disk)? {
        return Err(RestoreError::NotEmpty(data_dir.display().to_string()));
    }
    let remove = || match fs::remove_dir_all(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(disk(error)),
        _ => Ok(()),
    };
    remove()?;
    match fill(&fresh, from) {
        Ok(done) => {
            fs::rename(&fresh, &log).map_err(disk)?;
            File::open(data_dir).and_then(|folder| folder.sync_all()).map_err(disk)?;
            drop(folder);
            Ok(done)
        }
        Err(error) => {
            remove()?;
            Err(error)
        }
    }
}

fn fill(path: &Path, from: impl Read) -> Result<Backup, RestoreError> {
    let broken = |error: fjall::Error| RestoreError::Folder(OpenError::store(path, error));
    store::create(path)?;
    let db = store::database(path).map_err(broken)?;
    let mut keyspaces: Vec<(u8, Keyspace)> = Vec::new();
    for (number, name) in KEYSPACES {
        keyspaces.push((number, store::keyspace_of(&db, name).map_err(broken)?));
    }
    let identity = store::identity();
    let mut known = 0;
    let mut group = Group { db: &db, batch: db.batch(), count: 0, bytes: 0 };
    let done = read(from, |number, key, value| {
        if number == META {
            let (key, value) = (String::from_utf8_lossy(&key), String::from_utf8_lossy(&value));
            if !identity.iter().any(|(name, expected)| *name == key && *expected == value) {
                return Err(RestoreError::Bad(format!("its log has {key} {value}; restore it with the version that made it")));
            }
            known += 1;
            return Ok(());
        }
        let Some((_, keyspace)) = keyspaces.iter().find(|(known, _)| *known == number) else {
            return Err(RestoreError::Bad("it holds what this version does not know".to_owned()));
        };
        group.insert(keyspace, key, value).map_err(broken)
    })?;
    if known != identity.len() {
        return Err(RestoreError::Bad(format!("it does not say what it is of (format {})", layout::FORMAT)));
    }
    group.batch.commit().map_err(broken)?;
    db.persist(PersistMode::SyncAll).map_err(broken)?;
    Ok(done)
}

/// What is written at once.
struct Group<'d> {
    db: &'d Database,
    batch: OwnedWriteBatch,
    count: usize,
    bytes: usize,
}

impl Group<'_> {
    fn insert(&mut self, keyspace: &Keyspace, key: Vec<u8>, value: Vec<u8>) -> fjall::Result<()> {
        self.count += 1;
        self.bytes += key.len() + value.len();
        self.batch.insert(keyspace, key, value);
        if self.count >= BATCH || self.bytes >= BATCH_BYTES {
            (self.count, self.bytes) = (0, 0);
            std::mem::replace(&mut self.batch, self.db.batch()).commit()?;
        }
        Ok(())
    }
}
