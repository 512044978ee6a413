//! Carillon as its operators run it: real processes, ended by signals, started again on the same ports and data. What the
//! processes are is the [`Shape`]'s business; a test only says which settings it needs.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use carillon_auth::Authority;
use carillon_platform::{
    auth::IssueRequest,
    settings::{Program, Secret, Settings},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

use crate::client::{Client, Dial};

/// Nothing here takes so long; a busy machine may come near it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The key that all tests sign with.
pub(crate) const SECRET: &str = "a secret of the system tests, of 32 bytes and more";
/// The page that browsers may connect from.
pub(crate) const ORIGIN: &str = "https://app.example.com";

/// Which processes are the product. The suite is one; every test runs against whichever shape this run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `carillon serve`: everything embedded.
    Serve,
    /// `carillon dev`: the same, with a key and a page of its own.
    Dev,
}

impl Shape {
    /// The shape that this run of the suite is for: `CARILLON_TEST_SHAPE`, `serve` without it.
    fn of_this_run() -> Self {
        match std::env::var("CARILLON_TEST_SHAPE").as_deref() {
            Err(_) | Ok("serve") => Self::Serve,
            Ok("dev") => Self::Dev,
            Ok(other) => panic!("CARILLON_TEST_SHAPE is serve or dev, not {other}"),
        }
    }

    fn command(self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::Dev => "dev",
        }
    }
}

/// A running product.
pub(crate) struct Server {
    shape: Shape,
    /// By environment variable.
    settings: BTreeMap<String, String>,
    folder: TempDir,
    authority: Authority,
    process: Process,
    pub(crate) listen: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Server {
    /// With the contract's defaults, except that clients may speak as fast as they like.
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// As [`Self::start`], and with these settings, each by its dotted name.
    pub(crate) async fn with(settings: &[(&str, &str)]) -> Self {
        let fast = [("limits.frames_per_second", "1000000"), ("limits.frames_burst", "1000000")];
        let needed = [("jwt.secret", SECRET), ("origins", ORIGIN), ("log.level", "info")];
        let all: Vec<_> = needed.iter().chain(&fast).chain(settings).copied().collect();
        Self::bare(Shape::of_this_run(), &all).await
    }

    /// With nothing but these settings.
    pub(crate) async fn bare(shape: Shape, settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings.iter().map(|(name, value)| (variable(name), (*value).to_owned())).collect();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (process, listen, admin) = start(shape, folder.path(), &settings, any, any).await;
        Self { shape, settings, folder, authority: authority(), process, listen, admin }
    }

    /// Dead without a word: the processes get SIGKILL.
    pub(crate) async fn kill(&mut self) {
        self.signal("KILL");
        self.ended().await;
    }

    /// Again, on the same ports and the same data.
    pub(crate) async fn start_again(&mut self) {
        (self.process, self.listen, self.admin) =
            start(self.shape, self.folder.path(), &self.settings, self.listen, self.admin).await;
    }

    pub(crate) async fn kill_and_restart(&mut self) {
        self.kill().await;
        self.start_again().await;
    }

    pub(crate) fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Waits for the end; the exit code, unless a signal ended it.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        self.process.ended().await.code()
    }

    pub(crate) fn data_dir(&self) -> &Path {
        self.folder.path()
    }

    /// Everything that it said on stdout so far.
    pub(crate) async fn stdout_line(&mut self) -> String {
        timeout(PATIENCE, self.process.stdout.recv()).await.expect("a line on stdout in time").expect("a line on stdout")
    }

    /// A token of `user` with the default grants, for an hour.
    pub(crate) fn token(&self, user: &str) -> String {
        self.token_of(user, 3600, None)
    }

    /// A token that allows just this, as JSON.
    pub(crate) fn token_for(&self, user: &str, grants: &str) -> String {
        self.token_of(user, 3600, Some(grants))
    }

    /// A token whose life began just now.
    pub(crate) fn token_of(&self, user: &str, ttl_s: u64, grants: Option<&str>) -> String {
        self.token_since(unix_ms(), user, ttl_s, grants)
    }

    /// A token of another time.
    pub(crate) fn token_since(&self, now_ms: u64, user: &str, ttl_s: u64, grants: Option<&str>) -> String {
        let grants = grants.map(|grants| serde_json::from_str(grants).expect("grants are JSON"));
        let request = IssueRequest { sub: user.to_owned(), ttl_s, grants, info: None };
        self.authority.issue_at(&request, now_ms).unwrap().token
    }

    /// A connection under way.
    pub(crate) fn dial(&self) -> Dial {
        Dial::to(self.listen)
    }

    /// A connection of `user` that has been welcomed.
    pub(crate) async fn connect(&self, user: &str) -> Client {
        self.dial().token(&self.token(user)).connected().await
    }

    /// A connection of `user` under this client id.
    pub(crate) async fn connect_as(&self, user: &str, client: &str) -> Client {
        self.dial().token(&self.token(user)).client(client).connected().await
    }

    /// A metric of the admin port, as it is now.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let metrics = get(self.admin, "/metrics").await;
        let line = metrics.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().unwrap())
    }

    /// Waits until a metric has this value.
    pub(crate) async fn until_metric(&self, name: &str, value: u64) {
        let mut seen = 0;
        let reached = timeout(PATIENCE, async {
            loop {
                seen = self.metric(name).await;
                if seen == value {
                    return;
                }
                sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(reached.await.is_ok(), "{name} is {seen}, not {value}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join(LOG)).unwrap_or_default();
            eprintln!("--- the server's log\n{log}---");
        }
    }
}

/// A command that is expected to end by itself: its exit code, stdout and stderr.
pub(crate) async fn run(arguments: &[&str], settings: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = carillon(arguments, settings.iter().map(|(name, value)| (variable(name), (*value).to_owned())));
    let process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = process.id();
    let ended = tokio::task::spawn_blocking(move || process.wait_with_output());
    let Ok(output) = timeout(PATIENCE, ended).await else {
        kill(pid, "KILL");
        panic!("carillon {arguments:?} did not end");
    };
    let output = output.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// An HTTP answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// A plain GET, without any client that might mend what is wrong.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Answer {
    ask(address, &format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")).await
}

/// Sends these bytes and reads to the end.
pub(crate) async fn ask(address: SocketAddr, request: &str) -> Answer {
    let answered = timeout(PATIENCE, async {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).await.unwrap();
        text
    });
    let text = answered.await.expect("an HTTP answer in time");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// stderr of all starts, in the data folder's parent.
const LOG: &str = "stderr.log";

async fn start(
    shape: Shape,
    folder: &Path,
    settings: &BTreeMap<String, String>,
    listen: SocketAddr,
    admin: SocketAddr,
) -> (Process, SocketAddr, SocketAddr) {
    let places = [
        (variable("data_dir"), folder.to_str().unwrap().to_owned()),
        (variable("listen"), listen.to_string()),
        (variable("admin_listen"), admin.to_string()),
    ];
    let mut given = settings.clone();
    given.extend(places);
    let mut command = carillon(&[shape.command()], given);
    let mut process = Process::spawn(&mut command, folder.join(LOG));
    let ready = timeout(PATIENCE, process.stdout.recv()).await.ok().flatten();
    let log = || std::fs::read_to_string(folder.join(LOG)).unwrap_or_default();
    let ready = ready.unwrap_or_else(|| panic!("it did not start: {}", log()));
    let (listen, admin) = ready_line(&ready).unwrap_or_else(|| panic!("not a ready line: {ready:?}"));
    (process, listen, admin)
}

/// `ready listen=<addr> admin=<addr>`, to the letter.
fn ready_line(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let (listen, admin) = line.strip_prefix("ready listen=")?.split_once(" admin=")?;
    Some((listen.parse().ok()?, admin.parse().ok()?))
}

/// The binary, with these settings and none of whoever runs the tests.
fn carillon(arguments: &[&str], settings: impl IntoIterator<Item = (String, String)>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
    command.env_clear().args(arguments).envs(settings).stdin(Stdio::null());
    command
}

fn variable(setting: &str) -> String {
    format!("CARILLON_{}", setting.replace('.', "__").to_uppercase())
}

fn authority() -> Authority {
    let mut settings = Settings::defaults(Program::AllInOne);
    settings.jwt.secret = Secret::parse(SECRET);
    // Tokens over the limit of the server must be made by someone.
    settings.limits.token_bytes = 1 << 20;
    Authority::from_settings(&settings).unwrap()
}

/// One process. It is killed when it is dropped.
struct Process {
    pid: u32,
    end: watch::Receiver<Option<ExitStatus>>,
    stdout: mpsc::UnboundedReceiver<String>,
}

impl Process {
    fn spawn(command: &mut Command, log: PathBuf) -> Self {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let pid = child.id();
        let (said, stdout) = mpsc::unbounded_channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (ended, end) = watch::channel(None);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = said.send(line);
            }
            let _ = ended.send(Some(child.wait().unwrap()));
        });
        Self { pid, end, stdout }
    }

    fn signal(&self, name: &str) {
        if self.end.borrow().is_none() {
            kill(self.pid, name);
        }
    }

    async fn ended(&mut self) -> ExitStatus {
        let status = timeout(PATIENCE, self.end.wait_for(Option::is_some)).await.expect("the process ends in time");
        status.unwrap().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal("KILL");
    }
}

fn kill(pid: u32, signal: &str) {
    let _ = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).stderr(Stdio::null()).status();
}
