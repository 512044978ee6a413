//! A NATS server of one test's own: on a free port, with JetStream in a temporary folder, ended with the test.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use carillon_platform::{
    log::{JetStreamConfig, JetStreamLog},
    nats::Nats,
    settings::{self, Program, Settings},
};
use tempfile::TempDir;

/// How long a server may take to come up on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) struct NatsServer {
    folder: TempDir,
    process: Child,
    port: u16,
}

impl NatsServer {
    pub(crate) fn start() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let (process, port) = spawn(&folder, None, &[]);
        Self { folder, process, port }
    }

    /// With more arguments.
    pub(crate) fn start_with(more: &[String]) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let (process, port) = spawn(&folder, None, more);
        Self { folder, process, port }
    }

    /// One that carries messages and keeps none.
    pub(crate) fn start_without_jetstream() -> Self {
        Self::start_without_jetstream_with(&[])
    }

    /// The same, with more arguments.
    pub(crate) fn start_without_jetstream_with(more: &[String]) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let (process, port) = spawn_as(&folder, None, false, more);
        Self { folder, process, port }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn settings(&self) -> settings::Nats {
        let url = format!("nats://127.0.0.1:{}", self.port);
        settings::Nats { url: settings::Url::parse(&url, &["nats"]), ..settings::Nats::default() }
    }

    pub(crate) async fn connect(&self) -> Nats {
        Nats::connect(&self.settings(), "test").await.expect("the server is new enough")
    }

    /// A log as another process would have it, on a connection of its own.
    pub(crate) async fn log(&self) -> JetStreamLog {
        let config = JetStreamConfig::new(&Settings::defaults(Program::Fanout));
        JetStreamLog::start(self.connect().await, config).await.expect("the server has JetStream")
    }

    /// Three that keep every record three times, as one.
    pub(crate) fn start_three() -> [Self; 3] {
        // Held until all are chosen, so that none is chosen twice.
        let held = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let routes = held.each_ref().map(|held| format!("nats://{}", held.local_addr().expect("bound")));
        drop(held);
        routes.each_ref().map(|own| {
            let name = own.rsplit(':').next().expect("a port");
            let more = ["--cluster_name", "three", "--name", name, "--cluster", own, "--routes", &routes.join(",")];
            Self::start_with(&more.map(str::to_owned))
        })
    }

    /// As [`Self::log`], each record on three nodes. Waits until they have found each other.
    pub(crate) async fn log_on_three(&self) -> JetStreamLog {
        let config = JetStreamConfig { replicas: 3, ..JetStreamConfig::new(&Settings::defaults(Program::Fanout)) };
        let started = Instant::now();
        loop {
            match JetStreamLog::start(self.connect().await, config.clone()).await {
                Ok(log) => return log,
                Err(error) => assert!(started.elapsed() < START_TIMEOUT, "three nodes are no cluster yet: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// As `kill -9` does.
    pub(crate) fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Again on the same port and folder.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.process = spawn(&self.folder, Some(self.port), &[]).0;
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(folder: &TempDir, port: Option<u16>, more: &[String]) -> (Child, u16) {
    spawn_as(folder, port, true, more)
}

fn spawn_as(folder: &TempDir, port: Option<u16>, keeps: bool, more: &[String]) -> (Child, u16) {
    let ports = folder.path().join("ports");
    let _ = std::fs::remove_dir_all(&ports);
    std::fs::create_dir(&ports).expect("a folder for the port");
    let program = program();
    let process = Command::new(&program)
        .args(keeps.then_some("--jetstream"))
        .args(["--addr", "127.0.0.1", "--port", &port.map_or("-1".to_owned(), |port| port.to_string())])
        .arg("--store_dir")
        .arg(folder.path())
        .arg("--ports_file_dir")
        .arg(&ports)
        .arg("--log")
        .arg(folder.path().join("server.log"))
        .args(more)
        .stdin(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{} does not start: {error}", program.display()));
    let port = listening_port(&ports.join(format!("nats-server_{}.ports", process.id())));
    (process, port)
}

/// The file is written when everything listens.
fn listening_port(file: &Path) -> u16 {
    let started = Instant::now();
    loop {
        let ports = std::fs::read(file).ok().and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok());
        let url = ports.as_ref().and_then(|ports| ports["nats"][0].as_str());
        if let Some(port) = url.and_then(|url| url.rsplit(':').next()?.parse().ok()) {
            return port;
        }
        assert!(started.elapsed() < START_TIMEOUT, "the NATS server does not listen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The server that `cargo xtask test` names, or has fetched before.
fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("CARILLON_NATS_SERVER").filter(|path| !path.is_empty()) {
        return path.into();
    }
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/tools/nats-server");
    let fetched = folder.join(format!("nats-server{}", std::env::consts::EXE_SUFFIX));
    assert!(fetched.is_file(), "no NATS server for the tests: run `cargo xtask test`, or name one in CARILLON_NATS_SERVER");
    fetched
}
