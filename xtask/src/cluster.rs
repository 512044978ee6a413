//! `cargo xtask cluster`: the services as they run in production (NATS, auth, fanout, two gateways), each a process of
//! its own, on this machine, with data that ends with them. One that ends is started again, so that a `kill -9` shows how
//! the others take it. Ctrl-C ends all of them.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::process::{PATIENCE, Process};
use crate::steps::{self, command, root};
use crate::{nats, test};

/// How often the processes and the signals are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// The pause before one that ended is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

const USERS: [&str; 2] = ["ada", "grace"];

pub(crate) fn run() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    steps::run(&mut test::build_binaries())?;
    let plan = Plan::new(nats::find_or_fetch_server()?, test::carillon_binary()?.into())?;
    let mut cluster = Cluster { members: plan.members()?, data: plan.data.clone() };
    // All at once: none of them minds which of the others is there first.
    for member in &mut cluster.members {
        member.start()?;
    }
    for member in &mut cluster.members {
        member.wait_until_up()?;
    }
    println!("{}", plan.guide(&cluster.members)?);
    while signals.pending().next().is_none() {
        cluster.restart_ended()?;
        std::thread::sleep(LOOK);
    }
    println!("\nending all; Ctrl-C again does not wait");
    cluster.end(|| signals.pending().next().is_some());
    Ok(())
}

/// Starts the cluster as a person would, sees it come up, and ends it as a person would.
pub(crate) fn check() -> Result<()> {
    let mut cluster = Command::new(std::env::current_exe()?).arg("cluster").stdout(Stdio::piped()).spawn()?;
    let stdout = BufReader::new(cluster.stdout.take().context("its output is a pipe")?);
    for line in stdout.lines() {
        let line = line?;
        println!("{line}");
        if line.contains(LAST_WORDS) {
            // Read on: it says how it ends, and a closed pipe would break it off.
            run_kill("-INT", cluster.id())?;
        }
    }
    let status = cluster.wait()?;
    if !status.success() {
        bail!("the cluster ended with {status}");
    }
    Ok(())
}

fn run_kill(signal: &str, pid: u32) -> Result<()> {
    steps::run(&mut command("kill", &[signal, &pid.to_string()]))
}

/// How the guide ends.
const LAST_WORDS: &str = "Ctrl-C ends all.";

/// Where everything is.
struct Plan {
    nats_server: PathBuf,
    carillon: PathBuf,
    data: PathBuf,
    secret: String,
    nats: u16,
    auth: u16,
    gateways: [Ports; 2],
}

#[derive(Clone, Copy)]
struct Ports {
    listen: u16,
    admin: u16,
}

impl Plan {
    fn new(nats_server: PathBuf, carillon: PathBuf) -> Result<Self> {
        let data = root().join("target/cluster");
        if data.exists() {
            fs::remove_dir_all(&data).with_context(|| format!("could not empty {}", data.display()))?;
        }
        fs::create_dir_all(&data)?;
        let mut random = [0; 32];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        let secret = random.iter().map(|byte| format!("{byte:02x}")).collect();
        // Held until all are chosen, so that none is chosen twice.
        let mut held = Vec::new();
        let mut port = |wish: u16| -> Result<u16> {
            let listener = TcpListener::bind(("127.0.0.1", wish)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)))?;
            let port = listener.local_addr()?.port();
            held.push(listener);
            Ok(port)
        };
        let (nats, auth) = (port(4222)?, port(8090)?);
        let gateways = [Ports { listen: port(8080)?, admin: port(8081)? }, Ports { listen: port(8180)?, admin: port(8181)? }];
        Ok(Self { nats_server, carillon, data, secret, nats, auth, gateways })
    }

    /// In the order in which they end: those that hold clients first, what they rely on last.
    fn members(&self) -> Result<Vec<Process>> {
        let mut members = Vec::new();
        for (name, ports) in ["gateway-a", "gateway-b"].into_iter().zip(self.gateways) {
            let mut gateway = self.service("carillon-gateway");
            gateway.args([format!("--listen=127.0.0.1:{}", ports.listen), format!("--admin-listen=127.0.0.1:{}", ports.admin)]);
            gateway.arg(format!("--auth-url=http://127.0.0.1:{}", self.auth));
            // Long enough to see that a drain is spread, short enough for whoever waits for it.
            gateway.args(["--set", "drain.window_ms=1000"]);
            members.push(Process::new(name, gateway, &self.data));
        }
        let mut fanout = self.service("carillon-fanout");
        fanout.arg("--admin-listen=127.0.0.1:0");
        members.push(Process::new("fanout", fanout, &self.data));
        let mut auth = self.service("carillon-auth");
        auth.env("CARILLON_JWT__SECRET", &self.secret);
        auth.args([format!("--listen=127.0.0.1:{}", self.auth), "--admin-listen=127.0.0.1:0".to_owned()]);
        members.push(Process::new("auth", auth, &self.data));

        let config = self.data.join("nats.conf");
        let store = self.data.join("nats");
        let text = format!(
            "listen: 127.0.0.1:{}\njetstream {{ store_dir: {:?}, sync_interval: 100ms }}\n",
            self.nats,
            store.display().to_string()
        );
        fs::write(&config, text)?;
        let mut nats = Command::new(&self.nats_server);
        nats.arg("--config").arg(&config);
        members.push(Process::silent("nats", nats, &self.data));
        Ok(members)
    }

    /// Settings in the environment reach all of them, as `CARILLON_ORIGINS` or `CARILLON_LOG__LEVEL`.
    fn service(&self, name: &str) -> Command {
        let mut service = Command::new(self.carillon.with_file_name(name));
        service.arg(format!("--nats-url=nats://127.0.0.1:{}", self.nats));
        service
    }

    fn guide(&self, members: &[Process]) -> Result<String> {
        let mut text = String::from("\nUp:\n");
        for member in members {
            text += &format!("  {:<10} pid {:<8} {}\n", member.name, member.pid(), member.said);
        }
        text += &format!("Logs and data: {}\n\nOne user on each gateway:\n", self.data.display());
        for (user, ports) in USERS.into_iter().zip(self.gateways) {
            let args = ["token", "--sub", user, "--ttl", "24h"];
            let mut token = command(&self.carillon.display().to_string(), &args);
            let token = steps::output(token.env("CARILLON_JWT__SECRET", &self.secret))?;
            text += &format!("  {user:<6} npx wscat -c 'ws://127.0.0.1:{}/ws?token={}'\n", ports.listen, token.trim());
        }
        text += "\nType in both:  {\"type\":\"join\",\"room\":\"chat:1\",\"echo\":true}\n\
                 and in either: {\"type\":\"broadcast\",\"room\":\"chat:1\",\"payload\":\"hello\",\"ref\":1}\n";
        text += &format!("Further tokens: CARILLON_JWT__SECRET={} carillon token --sub NAME\n", self.secret);
        text += &format!("Kill any of them by its pid: it is started again. {LAST_WORDS}");
        Ok(text)
    }
}

/// All of them; none outlives this.
struct Cluster {
    members: Vec<Process>,
    data: PathBuf,
}

impl Cluster {
    fn restart_ended(&mut self) -> Result<()> {
        for member in &mut self.members {
            if member.has_ended() {
                std::thread::sleep(RESTART_PAUSE);
                member.start()?;
                member.wait_until_up()?;
                println!("{}: started again, pid {}", member.name, member.pid());
            }
        }
        Ok(())
    }

    fn end(&mut self, is_enough: impl FnMut() -> bool) {
        let mut is_enough = is_enough;
        // Gateways drain at the same time; the others wait until those that rely on them are gone.
        for names in [&["gateway-a", "gateway-b"][..], &["fanout"], &["auth"], &["nats"]] {
            let ours = |member: &&mut Process| names.contains(&&*member.name);
            self.members.iter_mut().filter(ours).for_each(|member| member.signal("TERM"));
            let started = Instant::now();
            while self.members.iter_mut().filter(ours).any(|member| !member.has_ended()) {
                if started.elapsed() > PATIENCE || is_enough() {
                    return;
                }
                std::thread::sleep(LOOK);
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.members.iter_mut().for_each(Process::kill);
        let _ = fs::remove_dir_all(self.data.join("nats"));
    }
}
