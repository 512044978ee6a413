//! The data folder: one process at a time, and a log that is there as a whole or not at all.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};

/// Why a log could not be opened; the text is for the operator.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody else has it.
    #[error(
        "the data folder {} is in use by another process (pid {holder}): stop that one, or give this one a data folder of its \
         own; two processes can't share one", folder.display()
    )]
    InUse {
        /// The data folder.
        folder: PathBuf,
        /// Whose lock it is, as that process wrote it down.
        holder: String,
    },
    /// Made by a build that lays records out differently.
    #[error(
        "the log in {} was made with {what} {found}, this build expects {expected}: run the build that made it, or move the \
         folder away to begin with an empty log", folder.display()
    )]
    Foreign {
        /// The log's folder.
        folder: PathBuf,
        /// What differs.
        what: &'static str,
        /// What this build has.
        expected: String,
        /// What the log says.
        found: String,
    },
    /// Acknowledged records can't be read.
    #[error(
        "the log in {} is damaged: {found}. Nothing was changed. Check the disk, then restore a backup, or move the folder \
         away to begin with an empty log", folder.display()
    )]
    Damaged {
        /// The log's folder.
        folder: PathBuf,
        /// What is wrong, and where.
        found: String,
    },
    /// The file system refused.
    #[error("can't use the data folder {}: {error}. It must be a writable folder on a local disk with free space", folder.display())]
    Disk {
        /// The data folder.
        folder: PathBuf,
        /// As the system says it.
        error: io::Error,
    },
}

impl OpenError {
    pub(super) fn disk(folder: &Path, error: io::Error) -> Self {
        Self::Disk { folder: folder.into(), error }
    }

    pub(super) fn store(folder: &Path, error: fjall::Error) -> Self {
        match error {
            fjall::Error::Io(error) => Self::disk(folder, error),
            fjall::Error::Storage(fjall::LsmError::Io(error)) => Self::disk(folder, error),
            other => Self::Damaged { folder: folder.into(), found: other.to_string() },
        }
    }
}

/// A data folder that this process has to itself until it is dropped.
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes the folder if need be and locks it.
    ///
    /// The lock is our own although the store has one: that one comes too late for a log that is being made, tells neither
    /// who has it nor what to do, and waits.
    pub(super) fn lock(path: &Path) -> Result<Self, OpenError> {
        let disk = |error: io::Error| OpenError::disk(path, error);
        fs::create_dir_all(path).map_err(disk)?;
        let mut options = OpenOptions::new();
        let mut lock = options.read(true).write(true).create(true).truncate(false).open(path.join("lock")).map_err(disk)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                lock.read_to_string(&mut holder).map_err(disk)?;
                return Err(OpenError::InUse { folder: path.into(), holder: holder.trim().into() });
            }
            Err(TryLockError::Error(error)) => return Err(disk(error)),
        }
        lock.set_len(0).map_err(disk)?;
        lock.rewind().map_err(disk)?;
        writeln!(lock, "{}", std::process::id()).map_err(disk)?;
        Ok(Self { path: path.into(), _lock: lock })
    }

    /// The log's folder, made by `create` if there is none. It is made under another name first: a process that ends
    /// halfway would otherwise leave a folder that the store can neither open nor make.
    pub(super) fn ready(&self, create: impl FnOnce(&Path) -> Result<(), OpenError>) -> Result<PathBuf, OpenError> {
        let disk = |error: io::Error| OpenError::disk(&self.path, error);
        let path = self.path.join("log");
        if !path.try_exists().map_err(disk)? {
            let fresh = self.path.join("log.new");
            if fresh.try_exists().map_err(disk)? {
                fs::remove_dir_all(&fresh).map_err(disk)?;
            }
            create(&fresh)?;
            fs::rename(&fresh, &path).map_err(disk)?;
            File::open(&self.path).and_then(|folder| folder.sync_all()).map_err(disk)?;
        }
        Ok(path)
    }
}
