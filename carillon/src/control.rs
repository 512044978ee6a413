//! The way into the process that has a data folder, for whoever may use that folder too: a Unix socket in it, over which a copy of
//! the log is fetched while the process serves. The answer is a line, `ok` or `no` with the reason, and behind `ok` the backup.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{
            fs::PermissionsExt as _,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, TryLockError},
    time::Duration,
};

use carillon_platform::log::EmbeddedLog;
use tokio::net;

/// The socket's name in the data folder.
const SOCKET: &str = "control.sock";

/// What is asked for.
const BACKUP: &str = "backup";

/// The longest line that anybody says here.
const LINE_BYTES: u64 = 1024;

/// How long the other end may take to say what it wants, and to take some of what it is sent: a copy that nobody fetches holds
/// what it is of.
const PATIENCE: Duration = Duration::from_secs(60);

/// The socket, from inside. Dropping it takes it away.
pub struct Control {
    listener: net::UnixListener,
    log: Arc<EmbeddedLog>,
    path: PathBuf,
}

impl Control {
    /// Opens the socket of a folder that belongs to this process: what is there under its name is from an earlier life.
    ///
    /// # Errors
    /// If the file system has no sockets, say.
    pub fn open(data_dir: &Path, log: Arc<EmbeddedLog>) -> io::Result<Self> {
        let path = data_dir.join(SOCKET);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let folder = Folder::open(data_dir)?;
        let listener = UnixListener::bind(folder.socket())?;
        // Nobody but the owner of the folder: there are payloads in a backup.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener: net::UnixListener::from_std(listener)?, log, path })
    }

    /// Answers for as long as the process lives, one copy at a time.
    pub async fn serve(self) {
        let turn = Arc::new(Mutex::new(()));
        loop {
            let stream = match self.listener.accept().await.and_then(|(stream, _)| stream.into_std()) {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the control socket does not listen");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            let (log, turn) = (self.log.clone(), turn.clone());
            tokio::task::spawn_blocking(move || {
                if let Err(error) = answer(&stream, &log, &turn) {
                    tracing::warn!(%error, "a backup was not made");
                }
            });
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn answer(mut stream: &UnixStream, log: &EmbeddedLog, turn: &Mutex<()>) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let asked = line(&mut BufReader::new(stream))?;
    if asked != BACKUP {
        return writeln!(stream, "no: this process does not know {asked:?}; is it of another version?");
    }
    // Whoever panics ends the process: nobody left it in disorder.
    let Ok(_turn) = turn.try_lock().or_else(|held| match held {
        TryLockError::Poisoned(turn) => Ok(turn.into_inner()),
        TryLockError::WouldBlock => Err(()),
    }) else {
        return writeln!(stream, "no: another backup is being made; try again when it is done");
    };
    writeln!(stream, "ok")?;
    let began = std::time::Instant::now();
    let done = log.back_up(stream)?;
    tracing::info!(messages = done.messages, took = ?began.elapsed(), "a backup was fetched");
    Ok(())
}

/// Asks the process that has this folder for a backup: what is to be read is the backup, and whether it is whole is for its reader to
/// check. `None` if no process listens.
///
/// # Errors
/// If it refuses, or breaks off.
pub fn ask_for_backup(data_dir: &Path) -> io::Result<Option<impl Read + use<>>> {
    let stream = match Folder::open(data_dir).and_then(|folder| UnixStream::connect(folder.socket())) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => return Ok(None),
        Err(error) => return Err(error),
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    writeln!(&stream, "{BACKUP}")?;
    let mut stream = BufReader::new(stream);
    match line(&mut stream)?.as_str() {
        "ok" => Ok(Some(stream)),
        refused => Err(io::Error::other(refused.trim_start_matches("no: ").to_owned())),
    }
}

fn line(from: &mut impl io::BufRead) -> io::Result<String> {
    let mut line = String::new();
    from.by_ref().take(LINE_BYTES).read_line(&mut line)?;
    match line.pop() {
        Some('\n') => Ok(line),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// An open folder. The address of a socket has 108 bytes at most (`unix(7)`), and paths of folders may be longer: so it is named by the
/// folder's descriptor.
struct Folder(OwnedFd);

impl Folder {
    fn open(path: &Path) -> io::Result<Self> {
        fs::File::open(path).map(|folder| Self(folder.into()))
    }

    fn socket(&self) -> PathBuf {
        format!("/proc/self/fd/{}/{SOCKET}", self.0.as_raw_fd()).into()
    }
}
