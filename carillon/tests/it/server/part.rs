//! One process of the product: where its program is, how it is started, killed, and started again in its place.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use super::{PATIENCE, variable};

/// A port that the system chooses.
pub(super) const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// Our programs say on stdout that they are up, NATS in its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ours,
    Nats,
}

/// A process and its place: the same addresses, settings and folder at every start.
pub(crate) struct Part {
    kind: Kind,
    program: PathBuf,
    arguments: Vec<String>,
    /// By environment variable.
    settings: BTreeMap<String, String>,
    log: PathBuf,
    process: Process,
    /// Port 0 for one that has none.
    pub(crate) listen: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Part {
    /// One of our programs, once it has said that it is up. Where it listens is its own choice unless `listen` says so.
    pub(super) async fn start(
        program: &str,
        arguments: &[&str],
        settings: BTreeMap<String, String>,
        log: PathBuf,
        listen: SocketAddr,
    ) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Self::begin(Kind::Ours, binary(program), arguments, settings, log, listen).await
    }

    /// A NATS server with JetStream in this folder.
    pub(super) async fn start_nats(folder: &Path, listen: SocketAddr) -> Self {
        Self::start_nats_with(folder, listen, &[], BTreeMap::new()).await
    }

    /// The same, with more arguments and an environment of its own.
    pub(super) async fn start_nats_with(
        folder: &Path,
        listen: SocketAddr,
        more: &[&str],
        environment: BTreeMap<String, String>,
    ) -> Self {
        let store = folder.join("nats").to_str().unwrap().to_owned();
        let mut arguments = ["--jetstream", "--addr", "127.0.0.1", "--store_dir", &store].map(str::to_owned).to_vec();
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        Self::begin(Kind::Nats, nats_server(), arguments, environment, folder.join("nats.log"), listen).await
    }

    async fn begin(
        kind: Kind,
        program: PathBuf,
        arguments: Vec<String>,
        settings: BTreeMap<String, String>,
        log: PathBuf,
        listen: SocketAddr,
    ) -> Self {
        let process = Process::none();
        let mut part = Self { kind, program, arguments, settings, log, process, listen, admin: ANY };
        part.start_again().await;
        part
    }

    /// Where it says what happens.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// In its place, if it has ended or was killed.
    pub(crate) async fn start_again(&mut self) {
        if self.process.is_killed.load(Relaxed) {
            self.ended().await;
        } else if !self.process.has_ended() {
            return;
        }
        let mut command = Command::new(&self.program);
        command.env_clear().args(&self.arguments).envs(&self.settings).stdin(Stdio::null());
        match self.kind {
            Kind::Nats => {
                let port = if self.listen.port() == 0 { "-1".to_owned() } else { self.listen.port().to_string() };
                command.args(["--port", &port]);
            }
            Kind::Ours => {
                command.env(variable("listen"), self.listen.to_string());
                command.env(variable("admin_listen"), self.admin.to_string());
            }
        }
        self.process = Process::spawn(&mut command, &self.log, self.kind);
        let up = timeout(PATIENCE, self.until_up()).await.unwrap_or(None);
        up.unwrap_or_else(|| panic!("{} did not start: {}", self.program.display(), self.said()));
    }

    async fn until_up(&mut self) -> Option<()> {
        if self.kind == Kind::Ours {
            let ready = self.process.lines.recv().await?;
            let (listen, admin) = ready_line(&ready).unwrap_or_else(|| panic!("not a ready line: {ready:?}"));
            (self.listen, self.admin) = (listen.unwrap_or(ANY), admin);
            return Some(());
        }
        loop {
            let line = self.process.lines.recv().await?;
            if let Some((_, address)) = line.split_once("Listening for client connections on ") {
                self.listen = address.parse().ok()?;
            }
            if line.ends_with("Server is ready") {
                return Some(());
            }
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Memory that it holds, KiB.
    pub(super) fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Waits for the end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        self.process.ended().await
    }

    /// Dead without a word.
    pub(crate) async fn kill(&mut self) {
        self.signal("KILL");
        self.ended().await;
    }

    /// The next line on stdout.
    pub(super) async fn line(&mut self) -> String {
        timeout(PATIENCE, self.process.lines.recv()).await.expect("a line on stdout in time").expect("a line on stdout")
    }

    /// Everything that it logged, in all its lives.
    pub(super) fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(super) fn name(&self) -> String {
        self.program.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// `ready listen=<addr> admin=<addr>`, to the letter; the fanout has no `listen`.
fn ready_line(line: &str) -> Option<(Option<SocketAddr>, SocketAddr)> {
    match line.strip_prefix("ready listen=") {
        Some(rest) => {
            let (listen, admin) = rest.split_once(" admin=")?;
            Some((Some(listen.parse().ok()?), admin.parse().ok()?))
        }
        None => Some((None, line.strip_prefix("ready admin=")?.parse().ok()?)),
    }
}

/// One of our binaries. Cargo tells where the one of this package is, and builds the others beside it.
pub(super) fn binary(name: &str) -> PathBuf {
    let ours = Path::new(env!("CARGO_BIN_EXE_carillon"));
    let found = ours.with_file_name(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(
        found.is_file(),
        "the cluster shape needs {}: run `cargo build --bins -p carillon-auth -p carillon-fanout -p carillon-gateway` first, \
         or `cargo xtask test`, which does",
        found.display()
    );
    found
}

/// The server that `cargo xtask test` names, or has fetched before.
fn nats_server() -> PathBuf {
    if let Some(path) = std::env::var_os("CARILLON_NATS_SERVER").filter(|path| !path.is_empty()) {
        return path.into();
    }
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/tools/nats-server");
    let fetched = folder.join(format!("nats-server{}", std::env::consts::EXE_SUFFIX));
    assert!(fetched.is_file(), "no NATS server for the tests: run `cargo xtask test`, or name one in CARILLON_NATS_SERVER");
    fetched
}

/// One life of a part. It is killed when it is dropped.
struct Process {
    pid: u32,
    is_killed: AtomicBool,
    end: watch::Receiver<Option<ExitStatus>>,
    /// Of stdout; of the log, where that is what tells.
    lines: mpsc::UnboundedReceiver<String>,
}

impl Process {
    /// One that has ended before it began.
    fn none() -> Self {
        let (_, end) = watch::channel(Some(ExitStatus::default()));
        Self { pid: 0, is_killed: AtomicBool::new(false), end, lines: mpsc::unbounded_channel().1 }
    }

    fn spawn(command: &mut Command, log: &Path, kind: Kind) -> Self {
        let mut log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        match kind {
            Kind::Ours => command.stdout(Stdio::piped()).stderr(log.try_clone().unwrap()),
            Kind::Nats => command.stdout(Stdio::null()).stderr(Stdio::piped()),
        };
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let pid = child.id();
        let (said, lines) = mpsc::unbounded_channel();
        let told: Box<dyn Read + Send> = match kind {
            Kind::Ours => Box::new(child.stdout.take().unwrap()),
            Kind::Nats => Box::new(child.stderr.take().unwrap()),
        };
        let (ended, end) = watch::channel(None);
        std::thread::spawn(move || {
            for line in BufReader::new(told).lines().map_while(Result::ok) {
                if kind == Kind::Nats {
                    let _ = writeln!(log, "{line}");
                }
                let _ = said.send(line);
            }
            let _ = ended.send(Some(child.wait().unwrap()));
        });
        Self { pid, is_killed: AtomicBool::new(false), end, lines }
    }

    fn has_ended(&self) -> bool {
        self.end.borrow().is_some()
    }

    fn signal(&self, name: &str) {
        self.is_killed.fetch_or(name == "KILL", Relaxed);
        if !self.has_ended() {
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

pub(super) fn kill(pid: u32, signal: &str) {
    let _ = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).stderr(Stdio::null()).status();
}
