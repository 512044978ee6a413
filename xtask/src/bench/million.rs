//! `cargo xtask million`: so many authenticated members of one room on one machine, the clients included, and one broadcast that
//! reaches all of them. A process has only so many descriptors, so there are many gateways, and for each a process of the load.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::contender::{Place, Running, SECRET, http};
use super::{in_a_network_of_its_own, prepare};
use crate::nats;
use crate::steps::{self, root};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Members in all
    #[arg(long, default_value_t = 1_000_000)]
    members: usize,
    /// Members of each gateway, which each has a process of the load for itself: both need as many descriptors
    #[arg(long, default_value_t = 16_000)]
    per_gateway: usize,
    /// Write what was measured into this file
    #[arg(long, default_value = "docs/benchmarks/million.json")]
    out: PathBuf,
    /// All is built and installed, and the network is the one to measure in
    #[arg(long, hide = true)]
    prepared: bool,
}

/// First part of the room's name, which the load gives it.
const PREFIX: &str = "million-";
/// Clients and servers share the processors, so that a million pings in 25 s would be most of what they do.
const SETTINGS: &[&str] =
    &["heartbeat.interval_ms=240000", "heartbeat.timeout_ms=120000", "gateway.shards=1", "limits.unauthenticated=16384"];
/// Processes of the load that come at once.
const AT_ONCE: usize = 4;
/// Connections that one process of the load opens at once.
const OPENING: usize = 8;

pub(crate) fn run(args: &Args) -> Result<()> {
    if !args.prepared {
        prepare()?;
        if let Some(mut quiet) = in_a_network_of_its_own()? {
            return steps::run(quiet.args(std::env::args_os().skip(1)).arg("--prepared"));
        }
    }
    let mut place = Place::new(nats::find_or_fetch_server()?, 0, 0)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    place.servers = format!("0-{}", cores - 1).leak();
    place.settings = SETTINGS;
    let cluster = place.cluster(args.members.div_ceil(args.per_gateway))?;
    let idle_kib = rss_kib(&cluster);
    println!("{} gateways are up, {idle_kib} KiB of memory together", cluster.urls.len());

    let (since_ns, began) = (unix_ns(), Instant::now());
    let crowd = &mut Crowd::default();
    crowd.seat(&place, &cluster, args, since_ns)?;
    let (seated_s, full_kib) = (began.elapsed().as_secs_f64(), rss_kib(&cluster));
    println!("{} members are in after {seated_s:.0} s; {full_kib} KiB", args.members);

    let said_ns = publish(&cluster.urls[0], since_ns)?;
    let reports = crowd.reports()?;
    let delivered: f64 = reports.iter().filter_map(|report| report["figures"]["delivered"].as_f64()).sum();
    let last_us = reports.iter().filter_map(|report| report["times"]["delivery"]["max"].as_f64()).fold(0.0, f64::max);
    let figures = serde_json::json!({
        "members": args.members,
        "gateways": cluster.urls.len(),
        "seated_after_s": seated_s,
        "connects_per_s": args.members as f64 / seated_s,
        "gateways_rss_kib": full_kib,
        "gateways_rss_kib_per_member": (full_kib.saturating_sub(idle_kib)) as f64 / args.members as f64,
        "delivered": delivered,
        "broadcast_reached_all_after_s": last_us / 1e6,
        "published_at_s": said_ns as f64 / 1e9,
        "loads": reports.iter().map(|report| &report["times"]["delivery"]).collect::<Vec<_>>(),
    });
    println!("{figures:#}");
    let out = root().join(&args.out);
    out.parent().map(fs::create_dir_all).transpose()?;
    fs::write(&out, format!("{figures:#}\n"))?;
    if delivered as usize != args.members {
        bail!("{delivered} of {} were reached", args.members);
    }
    Ok(())
}

fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

/// Memory of the gateways alone, files aside (proc(5), `statm`; 4 KiB a page).
fn rss_kib(cluster: &Running) -> u64 {
    let of = |pid: &u32| {
        let memory = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
        let pages: Vec<u64> = memory.split_whitespace().filter_map(|pages| pages.parse().ok()).collect();
        pages.get(1).zip(pages.get(2)).map_or(0, |(resident, of_files)| (resident - of_files) * 4)
    };
    // The first one watched is the fanout.
    cluster.watched.iter().skip(1).map(of).sum()
}

/// Says it, and when, nanoseconds of the crowd's clock.
fn publish(url: &str, since_ns: u64) -> Result<u64> {
    let mut command = Command::new(Place::binary("carillon"));
    command.args(["token", "--sub", "speaker"]).env("CARILLON_JWT__SECRET", SECRET);
    let token = steps::output(&mut command)?;
    let host = url.trim_start_matches("http://");
    let said_ns = unix_ns() - since_ns;
    let body = format!(r#"{{"payload":"~0~1~{said_ns}~{}"}}"#, "x".repeat(80));
    let length = body.len();
    let request = format!(
        "POST /rooms/{PREFIX}0/messages HTTP/1.0\r\nHost: {host}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}",
        token.trim()
    );
    http(host, &request)?;
    Ok(said_ns)
}

/// The processes of the load.
#[derive(Default)]
struct Crowd {
    parts: Vec<(Child, PathBuf)>,
    /// What they say is read to its end, or they could not end well.
    said: Vec<BufReader<ChildStdout>>,
}

impl Crowd {
    /// A few parts at once: were all of them to come together, the one fanout would get a hundredth of the processors.
    fn seat(&mut self, place: &Place, cluster: &Running, args: &Args, since_ns: u64) -> Result<()> {
        for (number, url) in cluster.urls.iter().enumerate() {
            let first = number * args.per_gateway;
            let connections = args.per_gateway.min(args.members - first);
            let json = place.data.join(format!("crowd-{number}.json"));
            let log = File::create(place.data.join(format!("crowd-{number}.log")))?;
            let mut command = Command::new(Place::binary("carillon"));
            command.args(["load", "--url", url, "--prefix", PREFIX, "--opening", &OPENING.to_string(), "--settle", "600"]);
            command.arg("--json").arg(&json).args(["crowd", "--since-ns", &since_ns.to_string()]);
            command.args(["--connections", &connections.to_string(), "--first", &first.to_string()]);
            command.env("CARILLON_JWT__SECRET", SECRET).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
            self.parts.push((command.spawn()?, json));
            if self.parts.len().is_multiple_of(AT_ONCE) {
                self.until_seated()?;
            }
        }
        self.until_seated()
    }

    /// All that have begun.
    fn until_seated(&mut self) -> Result<()> {
        for (number, (part, _)) in self.parts.iter_mut().enumerate().skip(self.said.len()) {
            let stdout = part.stdout.take().context("it was piped")?;
            let (mut said, mut line) = (BufReader::new(stdout), String::new());
            said.read_line(&mut line)?;
            self.said.push(said);
            if line.trim() != "seated" {
                bail!("part {number} of the crowd: {line:?}; see its log");
            }
        }
        Ok(())
    }

    fn reports(&mut self) -> Result<Vec<Value>> {
        for (part, _) in &mut self.parts {
            part.wait()?;
        }
        self.parts.iter().map(|(_, json)| Ok(serde_json::from_slice(&fs::read(json)?)?)).collect()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for (part, _) in &mut self.parts {
            let _ = part.kill();
            let _ = part.wait();
        }
    }
}
