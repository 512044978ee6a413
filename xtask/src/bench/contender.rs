//! How contenders are started, each on the core of the servers, and how one is put under load from the other core.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::YARDSTICKS;
use crate::process::Process;
use crate::steps::root;

/// Processor of the servers, and that of the load.
const SERVER: &str = "0";
const LOAD: &str = "1";

pub(super) const SECRET: &str = "a secret for one run of the benchmark, of 32 bytes";

/// Settings that a benchmark needs: publishers here are no clients that speak too much, and nobody is seen as one user too often.
const SETTINGS: [&str; 5] = [
    r#"origins=["http://localhost"]"#,
    "limits.frames_per_second=1000000",
    "limits.frames_burst=1000000",
    "log.level=warn",
    r#"retention=[{"rooms":"*","messages":100000}]"#,
];

/// Where everything is, and how much is done.
pub(crate) struct Place {
    nats_server: PathBuf,
    pub(super) data: PathBuf,
    pub(crate) seconds: u64,
    pub(crate) connections: usize,
    /// The processors of the servers.
    pub(super) servers: &'static str,
    /// Settings of the services beside the usual ones.
    pub(super) settings: &'static [&'static str],
}

/// A server that runs; it ends with this.
pub(crate) struct Running {
    /// In the order in which they end.
    processes: Vec<Process>,
    pub(super) urls: Vec<String>,
    /// Whose memory and time are the server's.
    pub(super) watched: Vec<u32>,
    /// Where NATS tells what it has carried, if there is one.
    monitor: Option<u16>,
}

impl Place {
    pub(crate) fn new(nats_server: PathBuf, seconds: u64, connections: usize) -> Result<Self> {
        let data = root().join("target/bench");
        // Logs of an earlier run would be told as those of this one.
        let _ = fs::remove_dir_all(&data);
        fs::create_dir_all(&data)?;
        Ok(Self { nats_server, data, seconds, connections, servers: SERVER, settings: &[] })
    }

    pub(super) fn binary(name: &str) -> PathBuf {
        root().join("target/release").join(name)
    }

    fn pinned(core: &str, program: &std::path::Path) -> Command {
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", core]).arg(program).current_dir(root()).env("CARILLON_JWT__SECRET", SECRET);
        // It is for this task, and no setting of theirs.
        command.env_remove("CARILLON_NATS_SERVER");
        command
    }

    /// `args`: the subcommand, before the settings.
    fn service(&self, name: &str, args: &[&str]) -> Command {
        let mut command = Self::pinned(self.servers, &Self::binary(name));
        command.args(args);
        for setting in SETTINGS.iter().chain(self.settings) {
            command.args(["--set", setting]);
        }
        command
    }

    fn start(name: &str, command: Command, data: &std::path::Path) -> Result<Process> {
        let mut process = Process::new(name, command, data);
        process.start()?;
        process.wait_until_up()?;
        Ok(process)
    }

    fn alone(process: Process) -> Result<Running> {
        let said = process.said.split_whitespace().find_map(|word| word.strip_prefix("listen="));
        let urls = vec![format!("http://{}", said.with_context(|| format!("no address in {:?}", process.said))?)];
        let watched = vec![process.pid()];
        Ok(Running { processes: vec![process], urls, watched, monitor: None })
    }

    /// The same, with telemetry sent to a collector on the core of the load: what is measured is what it costs the sender.
    pub(crate) fn carillon_with_telemetry(&self) -> Result<Running> {
        let mut command = Self::pinned(LOAD, &Self::binary("examples/yardstick"));
        command.arg("collector");
        let collector = Self::alone(Self::start("collector", command, &self.data)?)?;
        let mut running = self.carillon_set(&[&format!("otel.endpoint={}", collector.urls[0])])?;
        running.processes.extend(collector.processes);
        Ok(running)
    }

    /// Everything in one process, on the embedded log.
    pub(crate) fn carillon(&self) -> Result<Running> {
        self.carillon_set(&[])
    }

    fn carillon_set(&self, settings: &[&str]) -> Result<Running> {
        let folder = self.data.join("carillon");
        let _ = fs::remove_dir_all(&folder);
        let mut command = self.service("carillon", &["serve"]);
        command.args(["--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--set", "gateway.shards=1"]);
        command.arg("--data-dir").arg(&folder);
        settings.iter().for_each(|setting| {
            command.args(["--set", setting]);
        });
        Self::alone(Self::start("carillon", command, &self.data)?)
    }

    /// One of our own bare servers.
    pub(crate) fn yardstick(&self, kind: &str) -> Result<Running> {
        let mut command = Self::pinned(self.servers, &Self::binary("examples/yardstick"));
        command.arg(kind);
        Self::alone(Self::start(kind, command, &self.data)?)
    }

    /// A server from npm.
    pub(crate) fn node(&self, script: &str, redis: Option<u16>) -> Result<Running> {
        let mut command = Self::pinned(self.servers, "node".as_ref());
        command.arg(root().join(YARDSTICKS).join(script));
        if let Some(port) = redis {
            command.env("REDIS_URL", format!("redis://127.0.0.1:{port}"));
        }
        Self::alone(Self::start(script, command, &self.data)?)
    }

    /// Socket.IO with the adapter that several servers need; Redis has a core of its own nowhere, so it shares the servers'.
    pub(crate) fn socketio_with_redis(&self) -> Result<Running> {
        let port = free_port()?;
        let mut command = Self::pinned(self.servers, "redis-server".as_ref());
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        let mut redis = Process::silent("redis", command, &self.data);
        redis.start().context("Debian's package redis-server has what is missing")?;
        wait_for(port)?;
        let mut running = self.node("socketio.js", Some(port))?;
        running.processes.push(redis);
        Ok(running)
    }

    /// A NATS node with JetStream and its usual settings.
    fn nats(&self) -> Result<(Process, u16, u16)> {
        let folder = self.data.join("nats");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        let (port, monitor) = (free_port()?, free_port()?);
        let config = self.data.join("nats.conf");
        let store = folder.display().to_string();
        let text = format!("listen: 127.0.0.1:{port}\nhttp: 127.0.0.1:{monitor}\njetstream {{ store_dir: {store:?} }}\n");
        fs::write(&config, text)?;
        let mut command = Self::pinned(self.servers, &self.nats_server);
        command.arg("--config").arg(&config);
        let mut process = Process::silent("nats", command, &self.data);
        process.start()?;
        wait_for(port)?;
        Ok((process, port, monitor))
    }

    /// NATS, auth, fanout, and so many gateways.
    pub(crate) fn cluster(&self, gateways: usize) -> Result<Running> {
        let (nats, port, monitor) = self.nats()?;
        let nats_url = format!("--nats-url=nats://127.0.0.1:{port}");
        let mut auth = self.service("carillon-auth", &[]);
        let auth_port = free_port()?;
        auth.args([&format!("--listen=127.0.0.1:{auth_port}"), "--admin-listen=127.0.0.1:0", &nats_url]);
        let auth = Self::start("auth", auth, &self.data)?;
        let mut fanout = self.service("carillon-fanout", &[]);
        fanout.args(["--admin-listen=127.0.0.1:0", &nats_url]);
        let fanout = Self::start("fanout", fanout, &self.data)?;
        let mut running =
            Running { processes: Vec::new(), urls: Vec::new(), watched: vec![fanout.pid()], monitor: Some(monitor) };
        for number in 0..gateways {
            let mut gateway = self.service("carillon-gateway", &[]);
            gateway.args(["--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", &nats_url, "--set", "gateway.shards=1"]);
            gateway.arg(format!("--auth-url=http://127.0.0.1:{auth_port}"));
            let gateway = Self::alone(Self::start(&format!("gateway-{number}"), gateway, &self.data)?)?;
            running.urls.extend(gateway.urls);
            running.watched.extend(gateway.watched);
            running.processes.extend(gateway.processes);
        }
        running.processes.extend([fanout, auth, nats]);
        Ok(running)
    }

    /// What NATS itself needs for `what`, by name of the figure.
    pub(crate) fn bare_nats(&self, what: &str, figure: &str) -> Result<f64> {
        let (_nats, port, _) = self.nats()?;
        let mut command = Self::pinned(LOAD, &Self::binary("examples/yardstick"));
        command.args(["nats", what, "--url", &format!("nats://127.0.0.1:{port}"), "--seconds", &self.seconds.to_string()]);
        let output = command.stderr(Stdio::inherit()).output()?;
        let said: Value = serde_json::from_slice(&output.stdout).context("the yardstick said nothing")?;
        said[figure].as_f64().with_context(|| format!("no {figure} in {said}"))
    }

    /// Runs a load to its end. `args`: the scenario with its options, by blanks.
    pub(crate) fn load(&self, server: &Running, args: &str) -> Result<Value> {
        let json = self.data.join("load.json");
        let mut command = Self::pinned(LOAD, &Self::binary("carillon"));
        let pids: Vec<String> = server.watched.iter().map(u32::to_string).collect();
        command.args(["load", "--url", &server.urls.join(","), "--pid", &pids.join(",")]).arg("--json").arg(&json);
        command.args(args.split_whitespace());
        let output = command.stdin(Stdio::null()).output()?;
        if !output.status.success() {
            bail!("load {args}: {}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        }
        Ok(serde_json::from_slice(&fs::read(&json)?)?)
    }
}

impl Running {
    /// Everyone goes to one gateway.
    pub(crate) fn keep_first_url(&mut self) {
        self.urls.truncate(1);
    }

    /// Name and admin address of each service.
    pub(super) fn admins(&self) -> Vec<(&str, &str)> {
        fn admin(process: &Process) -> Option<(&str, &str)> {
            let (_, said) = process.said.split_once("admin=")?;
            Some((process.name.as_str(), said.split_whitespace().next()?))
        }
        self.processes.iter().filter_map(admin).collect()
    }

    /// Kills what goes by this name.
    pub(super) fn kill(&mut self, name: &str) {
        self.processes.iter_mut().filter(|process| process.name == name).for_each(Process::kill);
    }

    /// Kills a gateway of the cluster, by its place among the addresses.
    pub(super) fn kill_gateway(&mut self, number: usize) {
        self.processes[number].kill();
    }

    /// Messages that were given to NATS so far.
    pub(crate) fn nats_messages(&self) -> Result<f64> {
        let port = self.monitor.context("there is no NATS here")?;
        let told = http_get(port, "/varz")?;
        let told: Value = serde_json::from_str(&told)?;
        Ok(told["in_msgs"].as_f64().unwrap_or_default())
    }
}

/// A plain HTTP request, since nothing more is needed here.
fn http_get(port: u16, path: &str) -> Result<String> {
    http(&format!("127.0.0.1:{port}"), &format!("GET {path} HTTP/1.0\r\n\r\n"))
}

/// Sends a request, and gives the body of an answer that says 2xx.
pub(super) fn http(to: &str, request: &str) -> Result<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(to)?;
    stream.write_all(request.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no answer")?;
    if head.split(' ').nth(1).is_none_or(|status| !status.starts_with('2')) {
        bail!("{text}");
    }
    Ok(body.to_owned())
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn wait_for(port: u16) -> Result<()> {
    for _ in 0..200 {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    bail!("nobody listens on port {port}")
}
