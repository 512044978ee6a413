//! `cargo xtask presence`: a large crowd in one room over several gateways, seated wave by wave, so that it shows what a join costs the cluster
//! as the room grows; then one gateway is killed, and watchers at all others judge what they are told: everyone who has gone, once,
//! in time, and nobody who is still there. A user with another connection elsewhere is still there.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::contender::{Place, Running, http};
use super::crowd::{Crowd, Part, rss_kib, token};
use super::watcher::Watcher;
use super::{in_a_network_of_its_own, prepare};
use crate::nats;
use crate::steps::{self, root};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Members in all, those of the gateway that is killed included
    #[arg(long, default_value_t = 100_000)]
    members: usize,
    /// Members of the gateway that is killed
    #[arg(long, default_value_t = 10_000)]
    killed: usize,
    /// Of those, how many have another connection at another gateway
    #[arg(long, default_value_t = 500)]
    twins: usize,
    /// The most members of any gateway: it and its part of the crowd need as many descriptors
    #[arg(long, default_value_t = 18_000)]
    per_gateway: usize,
    /// Write what was measured into this file
    #[arg(long, default_value = "target/bench/presence.json")]
    out: PathBuf,
    /// All is built and installed, and the network is the one to measure in
    #[arg(long, hide = true)]
    prepared: bool,
}

const PREFIX: &str = "presence-";
const ROOM: &str = "presence-0";
/// As for the million: clients and servers share the processors, so pings are rare.
const SETTINGS: &[&str] =
    &["heartbeat.interval_ms=240000", "heartbeat.timeout_ms=120000", "gateway.shards=1", "limits.unauthenticated=16384"];
/// Members that come between two looks at what it cost.
const WAVE: usize = 9_000;
/// Of a gateway that is killed, all must be told as gone by then.
const GHOSTS: Duration = Duration::from_secs(15);
/// How long counts may take to agree, and watchers to hear of everybody.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.killed > args.per_gateway || args.twins > args.killed || args.killed >= args.members {
        bail!("--killed: at most --per-gateway, fewer than --members, and at least --twins");
    }
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
    let staying = args.members - args.killed;
    // Two more at least, so that the room has several gateways whatever is killed.
    let cluster = place.cluster(1 + staying.div_ceil(args.per_gateway).max(2))?;
    let mut stage = Stage::new(place, cluster, args)?;

    let waves = stage.seat()?;
    let agreed_ms = stage.until_counts_agree(args.members)?;
    println!("{} members: counts agree on all gateways {agreed_ms} ms after the last one was told that it is in", args.members);
    let (fanout_kib, gateways_kib) = (rss_kib(&stage.cluster.watched[..1]), rss_kib(&stage.cluster.watched[1..]));
    let figures = json!({
        "members": args.members,
        "gateways": stage.cluster.urls.len(),
        "waves": waves,
        "counts_agree_after_ms": agreed_ms,
        "fanout_bytes_per_member": (fanout_kib - stage.idle_kib.0.min(fanout_kib)) * 1024 / args.members as u64,
        "gateways_bytes_per_member": (gateways_kib - stage.idle_kib.1.min(gateways_kib)) * 1024 / args.members as u64,
        "killed": stage.kill_one()?,
    });
    println!("{figures:#}");
    let out = root().join(&args.out);
    out.parent().map(fs::create_dir_all).transpose()?;
    fs::write(&out, format!("{figures:#}\n"))?;
    Ok(())
}

struct Stage<'a> {
    args: &'a Args,
    place: Place,
    cluster: Running,
    crowd: Crowd,
    /// One at each gateway but the first, which is killed.
    watchers: Vec<Watcher>,
    /// Of the fanout, and of all gateways.
    idle_kib: (u64, u64),
    asks: String,
}

impl<'a> Stage<'a> {
    fn new(place: Place, cluster: Running, args: &'a Args) -> Result<Self> {
        let watcher = |(number, url): (usize, &String)| Watcher::start(url, &token(&format!("watcher{number}"), &[])?, ROOM);
        let watchers = cluster.urls.iter().enumerate().skip(1).map(watcher).collect::<Result<_>>()?;
        let idle_kib = (rss_kib(&cluster.watched[..1]), rss_kib(&cluster.watched[1..]));
        let asks = token("asker", &[])?;
        Ok(Self { args, place, cluster, crowd: Crowd::new(PREFIX), watchers, idle_kib, asks })
    }

    /// The first gateway's first, so that the others have watched them come.
    fn parts(&self) -> Vec<(usize, usize, usize)> {
        let mut parts = vec![(0, 0, self.args.killed)];
        let (mut first, mut number) = (self.args.killed, 0);
        let others = self.cluster.urls.len() - 1;
        while first < self.args.members {
            let connections = WAVE.min(self.args.members - first).min(self.args.per_gateway);
            parts.push((1 + number % others, first, connections));
            (first, number) = (first + connections, number + 1);
        }
        // Users of the first gateway, once more.
        parts.extend((self.args.twins > 0).then_some((1, 0, self.args.twins)));
        parts
    }

    fn seat(&mut self) -> Result<Vec<Value>> {
        let mut waves = Vec::new();
        let idle_per_s = self.idle_messages_per_s()?;
        for (at, first, connections) in self.parts() {
            let (before, began) = (self.cluster.nats_messages()?, Instant::now());
            let url = self.cluster.urls[at].clone();
            self.crowd.add(&self.place, &Part { url: &url, first, connections })?;
            self.crowd.until_seated()?;
            let seconds = began.elapsed().as_secs_f64();
            let messages = self.cluster.nats_messages()? - before - idle_per_s * seconds;
            let per_member = messages / connections as f64;
            println!(
                "{connections} more after {first}: {seconds:.1} s, {per_member:.2} messages each, fanout {} MiB",
                rss_kib(&self.cluster.watched[..1]) / 1024
            );
            waves.push(json!({ "room": first, "more": connections, "seconds": seconds, "messages_each": per_member }));
        }
        Ok(waves)
    }

    /// Heartbeats and leases.
    fn idle_messages_per_s(&self) -> Result<f64> {
        const SECONDS: u64 = 3;
        let before = self.cluster.nats_messages()?;
        std::thread::sleep(Duration::from_secs(SECONDS));
        Ok((self.cluster.nats_messages()? - before) / SECONDS as f64)
    }

    /// Of so many members and the watchers, at each gateway that lives; and that watchers heard of all. In milliseconds.
    fn until_counts_agree(&self, members: usize) -> Result<u128> {
        let (began, users) = (Instant::now(), (members + self.watchers.len()) as u64);
        for url in self.cluster.urls.iter().skip(usize::from(members < self.args.members)) {
            while self.count(url)? != users {
                if began.elapsed() > PATIENCE {
                    bail!("{url} counts {}, and {users} are there", self.count(url)?);
                }
            }
        }
        for watcher in &self.watchers {
            while watcher.told().count != users {
                let told = watcher.told();
                if began.elapsed() > PATIENCE || told.end.is_some() {
                    bail!("a watcher heard of {}, and {users} are there; it ended: {:?}", told.count, told.end);
                }
                drop(told);
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(began.elapsed().as_millis())
    }

    fn count(&self, url: &str) -> Result<u64> {
        let host = url.trim_start_matches("http://");
        let asks = &self.asks;
        let request = format!("GET /rooms/{ROOM}/presence HTTP/1.0\r\nHost: {host}\r\nAuthorization: Bearer {asks}\r\n\r\n");
        let told: Value = serde_json::from_str(&http(host, &request)?)?;
        told["count"].as_u64().context("no count")
    }

    fn kill_one(&mut self) -> Result<Value> {
        let (killed, twins) = (self.args.killed, self.args.twins);
        for watcher in &self.watchers {
            watcher.told().left.clear();
        }
        let at = Instant::now();
        self.cluster.kill_gateway(0);
        self.crowd.kill(0);
        let staying = self.args.members - killed + twins;
        self.until_counts_agree(staying)?;
        // Longer than any would be late, for those that come twice.
        std::thread::sleep((at + GHOSTS + Duration::from_secs(3)).saturating_duration_since(Instant::now()));
        let expected: BTreeSet<String> = (twins..killed).map(|number| format!("member{number}")).collect();
        let (mut first_s, mut last_s) = (f64::MAX, 0.0_f64);
        for watcher in &self.watchers {
            let told = watcher.told();
            let twice = told.left.iter().filter(|(_, times)| times.len() > 1).count();
            let wrong = told.left.keys().filter(|user| !expected.contains(*user)).count();
            let missing = expected.iter().filter(|user| !told.left.contains_key(*user)).count();
            for time in told.left.values().flatten() {
                (first_s, last_s) = (first_s.min((*time - at).as_secs_f64()), last_s.max((*time - at).as_secs_f64()));
            }
            if twice + wrong + missing > 0 || told.end.is_some() {
                bail!("of {} who went: {missing} not told, {twice} twice, {wrong} wrongly; {:?}", expected.len(), told.end);
            }
        }
        println!(
            "{} who went were told once by each of {} watchers, {first_s:.1} to {last_s:.1} s after the kill",
            expected.len(),
            self.watchers.len()
        );
        if last_s > GHOSTS.as_secs_f64() {
            bail!("the last ghost was told as gone after {last_s:.1} s");
        }
        Ok(json!({ "members": killed, "elsewhere_too": twins, "first_told_after_s": first_s, "last_told_after_s": last_s }))
    }
}
