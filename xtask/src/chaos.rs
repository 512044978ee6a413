//! `cargo xtask chaos`: the real shape (three NATS nodes, two fanouts, three gateways) under load, while one thing after the
//! other is killed, stopped, restarted. The load judges: nothing acked may be lost, doubled, reordered, or differ between
//! members. Writes what was done when, and what it cost, to `target/chaos/report.html`.

mod faults;
mod network;
pub(crate) mod owners;
mod report;

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::chaos::faults::{Chance, Done, Fault};
use crate::chaos::network::Network;
use crate::process::Process;
use crate::steps::{self, root};
use crate::{nats, test};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long the load goes on
    #[arg(long, default_value_t = 20)]
    minutes: u64,
    /// Chooses the faults and their times: the same seed does the same
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Publishes per second, over all publishers
    #[arg(long, default_value_t = 800)]
    rate: u64,
    /// Seconds from one fault to the next, the time that it lasts not counted
    #[arg(long, default_value_t = 8)]
    pause: u64,
    /// Folder with the binaries to run, for example of a release build; without it they are built
    #[arg(long)]
    binaries: Option<PathBuf>,
    /// Break the judge's heart: `delivery` or `append` swallows one of them, and the run must fail
    #[arg(long)]
    swallow: Option<String>,
}

/// NATS is quiet for longer than its duplicate window (30 s) now and then.
const QUIET: (u64, u64) = (240, 40);

pub(crate) fn run(args: &Args) -> Result<()> {
    let place = Place::new("target/chaos", args.binaries.as_deref(), true)?;
    let mut world = place.world(2)?;
    println!("up: {}", world.processes.iter().map(|it| format!("{} {}", it.name, it.pid())).collect::<Vec<_>>().join(", "));
    let load = place.load(args)?;
    let done = world.torment(args, load)?;
    let judged = report::judge(&place.data, &done)?;
    println!("{judged}");
    println!("report: {}", place.data.join("report.html").display());
    if !judged.is_good() {
        bail!("a promise was broken");
    }
    Ok(())
}

/// Where everything is.
struct Place {
    nats_server: PathBuf,
    binaries: PathBuf,
    data: PathBuf,
    /// None where it may not be made.
    network: Option<Network>,
    /// Client, route and monitoring port of each node.
    nats: [[u16; 3]; 3],
    auth: u16,
    gateways: [u16; 3],
}

const SECRET: &str = "a secret for one run of chaos, of 32 bytes and more";

impl Place {
    /// Where nothing will be cut, no network is made.
    fn new(folder: &str, binaries: Option<&Path>, is_cut: bool) -> Result<Self> {
        let nats_server = nats::find_or_fetch_server()?;
        let binaries = match binaries {
            Some(folder) => folder.to_owned(),
            None => {
                steps::run(&mut test::build_binaries())?;
                PathBuf::from(test::carillon_binary()?).parent().context("a binary is in a folder")?.to_owned()
            }
        };
        let data = root().join(folder);
        if data.exists() {
            fs::remove_dir_all(&data).with_context(|| format!("could not empty {}", data.display()))?;
        }
        fs::create_dir_all(&data)?;
        // Held until all are chosen, so that none is chosen twice.
        let mut held = Vec::new();
        let mut port = || -> Result<u16> {
            let listener = TcpListener::bind(("127.0.0.1", 0))?;
            let port = listener.local_addr()?.port();
            held.push(listener);
            Ok(port)
        };
        let mut node = || -> Result<[u16; 3]> { Ok([port()?, port()?, port()?]) };
        let nats = [node()?, node()?, node()?];
        let [auth, first, second] = node()?;
        let [third, ..] = node()?;
        let names = ["nats-1", "nats-2", "nats-3", "fanout-1", "fanout-2"].map(str::to_owned).to_vec();
        let make = || Network::make(names).inspect_err(|why| println!("no network is cut here: {why}")).ok();
        let network = is_cut.then(make).flatten();
        Ok(Self { nats_server, binaries, data, network, nats, auth, gateways: [first, second, third] })
    }

    fn nats_address(&self, number: usize) -> String {
        self.network.as_ref().map_or("127.0.0.1".to_owned(), |network| network.address(&format!("nats-{number}")))
    }

    fn nats_urls(&self, port: impl Fn(&[u16; 3]) -> u16) -> Vec<String> {
        self.nats.iter().zip(1..).map(|(ports, number)| format!("nats://{}:{}", self.nats_address(number), port(ports))).collect()
    }

    /// In a namespace of its own, where there are some.
    fn apart(&self, name: &str, command: Command) -> Command {
        if self.network.is_none() {
            return command;
        }
        let mut inside = Network::command(name);
        inside.arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(key, value),
                None => inside.env_remove(key),
            };
        }
        inside
    }

    fn world(&self, fanouts: usize) -> Result<World> {
        let mut processes = Vec::new();
        let routes = self.nats_urls(|[_, route, _]| *route);
        for (number, [client, route, monitor]) in self.nats.iter().enumerate() {
            let name = format!("nats-{}", number + 1);
            let config = self.data.join(format!("{name}.conf"));
            let address = self.nats_address(number + 1);
            let store = self.data.join(&name).display().to_string();
            // A short lame duck: nobody here waits two minutes for one.
            let text = format!(
                "server_name: {name}\nlisten: {address}:{client}\nhttp: {address}:{monitor}\n\
                 jetstream {{ store_dir: {store:?}, sync_interval: always }}\n\
                 lame_duck_duration: 31s\nlame_duck_grace_period: 2s\n\
                 cluster {{ name: chaos, listen: {address}:{route}, routes: [{}] }}\n",
                routes.join(", ")
            );
            fs::write(&config, text)?;
            let mut nats = Command::new(&self.nats_server);
            nats.arg("--config").arg(&config);
            processes.push(Process::silent(&name, self.apart(&name, nats), &self.data));
        }
        let mut auth = self.service("carillon-auth");
        auth.args([format!("--listen=127.0.0.1:{}", self.auth), "--admin-listen=127.0.0.1:0".to_owned()]);
        processes.push(Process::new("auth", auth, &self.data));
        for number in 1..=fanouts {
            let name = format!("fanout-{number}");
            let mut fanout = self.service("carillon-fanout");
            fanout.arg("--admin-listen=127.0.0.1:0");
            fanout.args(["--set", r#"retention=[{"rooms":"*","messages":10000000}]"#]);
            processes.push(Process::new(&name, self.apart(&name, fanout), &self.data));
        }
        for (number, port) in self.gateways.iter().enumerate() {
            let mut gateway = self.service("carillon-gateway");
            gateway.args([format!("--listen=127.0.0.1:{port}"), "--admin-listen=127.0.0.1:0".to_owned()]);
            gateway.arg(format!("--auth-url=http://127.0.0.1:{}", self.auth));
            gateway.args(["--set", "drain.window_ms=3000"]);
            for setting in ["limits.frames_per_second=100000", "limits.frames_burst=100000"] {
                gateway.args(["--set", setting]);
            }
            processes.push(Process::new(&format!("gateway-{}", number + 1), gateway, &self.data));
        }
        for process in &mut processes {
            process.start()?;
        }
        for process in &mut processes {
            process.wait_until_up()?;
        }
        let monitors = (1..).zip(&self.nats).map(|(number, [_, _, monitor])| (self.nats_address(number), *monitor)).collect();
        Ok(World { processes, monitors, has_network: self.network.is_some() })
    }

    fn service(&self, name: &str) -> Command {
        let mut service = Command::new(self.binaries.join(name));
        let urls = self.nats_urls(|[client, ..]| *client);
        // What names the NATS server for this command is no setting of theirs.
        service.env_remove("CARILLON_NATS_SERVER");
        service.env("CARILLON_JWT__SECRET", SECRET).env("CARILLON_NATS__REPLICAS", "3");
        service.arg(format!("--nats-url={}", urls.join(",")));
        service
    }

    fn load(&self, args: &Args) -> Result<Load> {
        let mut words =
            vec!["--rooms", "32", "--members", "3", "--publishers", "16", "--in-flight", "256", "--drop-every-ms", "10000"];
        if let Some(what) = &args.swallow {
            words.extend(["--swallow", what]);
        }
        let numbers =
            [("--seconds", args.minutes * 60), ("--rate", args.rate), ("--pause-every-s", QUIET.0), ("--pause-s", QUIET.1)];
        self.begin("soak", "load", &words, &numbers)
    }

    /// Begins a load; its report is `<name>.json`, and as text `<name>.log`.
    fn begin(&self, scenario: &str, name: &str, words: &[&str], numbers: &[(&str, u64)]) -> Result<Load> {
        let urls: Vec<String> = self.gateways.iter().map(|port| format!("ws://127.0.0.1:{port}")).collect();
        let mut load = Command::new(self.binaries.join("carillon"));
        load.args(["load", scenario, "--settle", "120", "--url", &urls.join(","), "--secret", SECRET]).args(words);
        for (word, number) in numbers {
            load.args([*word, &number.to_string()]);
        }
        load.arg("--json").arg(self.data.join(format!("{name}.json")));
        let out = File::create(self.data.join(format!("{name}.log")))?;
        load.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        Ok(Load { child: load.spawn()?, started: Instant::now() })
    }
}

/// The load; it ends with this.
struct Load {
    child: Child,
    started: Instant,
}

impl Load {
    fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All processes that faults are done to.
struct World {
    processes: Vec<Process>,
    /// Of the nodes of NATS, in their order.
    monitors: Vec<(String, u16)>,
    has_network: bool,
}

impl World {
    fn torment(&mut self, args: &Args, mut load: Load) -> Result<Vec<Done>> {
        let mut chance = Chance::new(args.seed);
        let mut done = Vec::new();
        // All have joined by then; and the last faults are over before the load is.
        let (first, last) = (Duration::from_secs(10), Duration::from_secs((args.minutes * 60).saturating_sub(20)));
        sleep_until(load.started + first);
        while load.started.elapsed() < last && !load.has_ended()? {
            let fault = Fault::choose(&mut chance, done.len(), self.has_network);
            let at = load.started.elapsed();
            let what = fault.perform(self, &mut chance)?;
            println!("{:>7.1} s  {:<16} {what}", at.as_secs_f64(), fault.name());
            done.push(Done { fault, what, at, lasted: load.started.elapsed() - at });
            std::thread::sleep(Duration::from_millis(args.pause * 500 + chance.below(args.pause * 1000)));
        }
        // The load waits for its members, and reads the whole log.
        while !load.has_ended()? {
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(done)
    }

    fn process(&mut self, name: &str) -> Result<&mut Process> {
        self.processes.iter_mut().find(|process| process.name == name).with_context(|| format!("no process {name}"))
    }
}

fn sleep_until(moment: Instant) {
    std::thread::sleep(moment.saturating_duration_since(Instant::now()));
}

/// A short text over HTTP from a process of this machine.
fn get(address: &str, port: u16, path: &str) -> Result<String> {
    use std::io::{Read as _, Write as _};
    let mut socket = std::net::TcpStream::connect((address, port))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(socket, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    socket.read_to_string(&mut text)?;
    Ok(text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

/// Bytes of a folder's file, as text.
fn read(folder: &Path, name: &str) -> Result<String> {
    fs::read_to_string(folder.join(name)).with_context(|| format!("{name} was not written"))
}
