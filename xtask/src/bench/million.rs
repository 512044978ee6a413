//! `cargo xtask million`: so many authenticated members of one room on one machine, the clients included, and one broadcast that
//! reaches all of them. A process has only so many descriptors, so there are many gateways, and for each a process of the load.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};

use super::contender::{Place, Running, http};
use super::crowd::{Crowd, Part, rss_kib, token, unix_ns};
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
    // The first one watched is the fanout.
    let gateways = &cluster.watched[1..];
    let idle_kib = rss_kib(gateways);
    println!("{} gateways are up, {idle_kib} KiB of memory together", cluster.urls.len());

    let began = Instant::now();
    let mut crowd = Crowd::new(PREFIX);
    seat(&mut crowd, &place, &cluster, args)?;
    let (seated_s, full_kib) = (began.elapsed().as_secs_f64(), rss_kib(gateways));
    println!("{} members are in after {seated_s:.0} s; {full_kib} KiB", args.members);

    let said_ns = publish(&cluster.urls[0], crowd.since_ns())?;
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

/// A few parts at once: were all of them to come together, the one fanout would get a hundredth of the processors.
fn seat(crowd: &mut Crowd, place: &Place, cluster: &Running, args: &Args) -> Result<()> {
    let began = Instant::now();
    for (number, url) in cluster.urls.iter().enumerate() {
        let first = number * args.per_gateway;
        crowd.add(place, &Part { url, first, connections: args.per_gateway.min(args.members - first) })?;
        if (number + 1).is_multiple_of(AT_ONCE) {
            crowd.until_seated()?;
            tell(crowd, cluster, first + args.per_gateway, began);
        }
    }
    crowd.until_seated()
}

/// What so many members take, and what the machine has left.
fn tell(crowd: &Crowd, cluster: &Running, seated: usize, began: Instant) {
    let mib = |pids: &[u32]| rss_kib(pids) / 1024;
    // The first one watched is the fanout.
    let (fanout, gateways) = cluster.watched.split_at(1);
    println!(
        "{:>5} s  {seated:>7} in; MiB: gateways {}, fanout {}, load {}, left {}",
        began.elapsed().as_secs(),
        mib(gateways),
        mib(fanout),
        mib(&crowd.pids()),
        available_kib() / 1024
    );
}

/// What the whole machine has left (proc(5), `meminfo`).
fn available_kib() -> u64 {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    available.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// Says it, and when, nanoseconds of the crowd's clock.
fn publish(url: &str, since_ns: u64) -> Result<u64> {
    let token = token("speaker", &[])?;
    let host = url.trim_start_matches("http://");
    let said_ns = unix_ns() - since_ns;
    let body = format!(r#"{{"payload":"~0~1~{said_ns}~{}"}}"#, "x".repeat(80));
    let length = body.len();
    let request = format!(
        "POST /rooms/{PREFIX}0/messages HTTP/1.0\r\nHost: {host}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}",
        token
    );
    http(host, &request)?;
    Ok(said_ns)
}
