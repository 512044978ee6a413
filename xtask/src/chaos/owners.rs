//! `cargo xtask owners`: what it costs when partitions change hands, on the shape of `cargo xtask chaos` (nothing is cut), under a load
//! that judges: nothing acked may be lost, doubled or reordered.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::chaos::{Load, Place, World, get, read, sleep_until};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What happens
    #[arg(value_enum)]
    what: What,
    /// Folder with the binaries to run, for example of a release build; without it they are built
    #[arg(long)]
    binaries: Option<PathBuf>,
    /// Messages per second over all rooms; `takeover` goes as fast as it can
    #[arg(long, default_value_t = 400)]
    rate: u64,
    /// `idle`: how long nobody speaks. `takeover`: how long the window of idempotency keys, 150 s, is filled
    #[arg(long, default_value_t = 180)]
    seconds: u64,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    /// Nobody speaks for a while, a node of NATS is killed and started again meanwhile; then all speak, and the replicas of every
    /// stream must be equal
    Idle,
    /// One of two owners is killed when the window of idempotency keys is full: how long the other one takes
    Takeover,
    /// One owner becomes three, and then one again: how even the spread is, how long each partition pauses
    Scale,
}

const PARTITIONS: usize = 16;

pub(crate) fn run(args: &Args) -> Result<()> {
    let place = Place::new("target/owners", args.binaries.as_deref(), false)?;
    match args.what {
        What::Idle => idle(&place, args),
        What::Takeover => takeover(&place, args),
        What::Scale => scale(&place, args),
    }
}

/// How long publishers speak before and after.
const SPEAKING_S: u64 = 20;

fn idle(place: &Place, args: &Args) -> Result<()> {
    let mut world = place.world(2)?;
    let load = place.begin(
        "soak",
        "load",
        &["--rooms", "32", "--members", "3", "--publishers", "8", "--in-flight", "64", "--drop-every-ms", "20000"],
        &[
            ("--rate", args.rate),
            ("--pause-every-s", SPEAKING_S),
            ("--pause-s", args.seconds),
            ("--seconds", 2 * SPEAKING_S + args.seconds),
        ],
    )?;
    sleep_until(load.started + Duration::from_secs(SPEAKING_S + args.seconds * 4 / 5));
    let before = world.replicas()?;
    world.process("nats-2")?.kill();
    println!("{:.0} s: nats-2 was killed", load.started.elapsed().as_secs_f64());
    std::thread::sleep(Duration::from_secs(3));
    world.process("nats-2")?.start()?;
    println!("{:.0} s: nats-2 runs again", load.started.elapsed().as_secs_f64());
    println!("{}", place.end("load", load)?);
    let started = Instant::now();
    let after = loop {
        match world.replicas() {
            Ok(replicas) if replicas[1..].iter().all(|other| *other == replicas[0]) => break replicas,
            Ok(replicas) if started.elapsed() > SETTLED => bail!("the replicas differ: {replicas:#?}"),
            Err(error) if started.elapsed() > SETTLED => return Err(error),
            _ => std::thread::sleep(Duration::from_millis(500)),
        }
    };
    let sum = |replicas: &[Replica]| replicas[0].values().map(|stream| stream.messages).sum::<u64>();
    println!("three equal replicas of {} streams: {} messages, {} before", after[0].len(), sum(&after), sum(&before));
    ensure!(sum(&after) > sum(&before), "nothing was written after the pause");
    Ok(())
}

/// How long replicas may take to be equal once nobody writes.
const SETTLED: Duration = Duration::from_secs(30);

/// By stream.
type Replica = BTreeMap<String, Stored>;

/// What a node holds of a stream.
#[derive(Debug, PartialEq, Eq)]
struct Stored {
    messages: u64,
    bytes: u64,
    first: u64,
    last: u64,
}

impl World {
    /// What each node holds of the log.
    fn replicas(&self) -> Result<Vec<Replica>> {
        let of = |(address, port): &(String, u16)| -> Result<Replica> {
            let told: Value = serde_json::from_str(&get(address, *port, "/jsz?streams=true&accounts=true")?)?;
            let accounts = told["account_details"].as_array().context("no accounts")?;
            let streams = accounts.iter().filter_map(|account| account["stream_detail"].as_array()).flatten();
            let named = streams.map(|stream| (stream["name"].as_str().unwrap_or_default().to_owned(), &stream["state"]));
            let number = |state: &Value, name: &str| state[name].as_u64().unwrap_or_default();
            Ok(named
                .filter(|(name, _)| name.starts_with("LOG_"))
                .map(|(name, state)| {
                    let [messages, bytes, first, last] =
                        ["messages", "bytes", "first_seq", "last_seq"].map(|field| number(state, field));
                    (name, Stored { messages, bytes, first, last })
                })
                .collect())
        };
        self.monitors.iter().map(of).collect()
    }
}

fn takeover(place: &Place, args: &Args) -> Result<()> {
    let mut world = place.world(2)?;
    // Not a soak: reading all of it back would take longer than all the rest.
    let load = place.begin(
        "rooms",
        "load",
        &["--rooms", "64", "--members", "1", "--publishers", "16", "--in-flight", "64", "--rate", "0"],
        &[("--seconds", args.seconds + SPEAKING_S)],
    )?;
    sleep_until(load.started + Duration::from_secs(args.seconds));
    let known = read(&place.data, "fanout-2.log")?.len();
    world.process("fanout-1")?.kill();
    println!("{}", place.end("load", load)?);
    let told = read(&place.data, "fanout-2.log")?;
    let taken: Vec<Value> = told[known..].lines().filter_map(|line| serde_json::from_str(line).ok()).filter(is_taken).collect();
    let field = |line: &Value, name: &str| line[name].to_string();
    for line in &taken {
        println!("partition {}: {} with {} keys", field(line, "partition"), field(line, "took"), field(line, "recent"));
    }
    ensure!(!taken.is_empty(), "the other owner has taken nothing");
    Ok(())
}

fn is_taken(line: &Value) -> bool {
    line["message"] == "the partition is taken"
}

fn scale(place: &Place, args: &Args) -> Result<()> {
    const OTHERS: [&str; 2] = ["fanout-2", "fanout-3"];
    let mut world = place.world(3)?;
    for name in OTHERS {
        world.process(name)?.end()?;
    }
    let mut owners = vec![world.spread(&["fanout-1"])?];
    // A room and a load for each partition, so that what is seen is of that one alone.
    let rate = (args.rate / PARTITIONS as u64).max(1);
    let numbers = [("--rate", rate), ("--seconds", 5 * SPEAKING_S)];
    let words = ["--rooms", "1", "--members", "2", "--publishers", "1", "--in-flight", "256", "--drop-every-ms", "5000"];
    let loads: Vec<Load> = (0..PARTITIONS)
        .map(|partition| {
            let prefix = prefix_in(partition);
            place.begin("soak", &format!("load-{partition}"), &[&words[..], &["--prefix", &prefix]].concat(), &numbers)
        })
        .collect::<Result<_>>()?;
    let started = loads[0].started;
    sleep_until(started + Duration::from_secs(SPEAKING_S));
    for name in OTHERS {
        world.process(name)?.start()?;
    }
    for name in OTHERS {
        world.process(name)?.wait_until_up()?;
    }
    owners.push(world.spread(&["fanout-1", "fanout-2", "fanout-3"])?);
    let down = started + Duration::from_secs(3 * SPEAKING_S);
    sleep_until(down);
    for name in OTHERS {
        world.process(name)?.signal("TERM");
    }
    owners.push(world.spread(&["fanout-1"])?);
    let mut slowest = Vec::new();
    for (partition, load) in loads.into_iter().enumerate() {
        let name = format!("load-{partition}");
        let report = place.end(&name, load)?;
        println!("partition {partition}: {}", report.lines().last().unwrap_or_default().trim());
        slowest.push(slowest_acks(&place.data, &name)?);
    }
    for (stage, from) in [("1 → 3", SPEAKING_S), ("3 → 1", 3 * SPEAKING_S)] {
        let (before, after) = if from == SPEAKING_S { (&owners[0], &owners[1]) } else { (&owners[1], &owners[2]) };
        let window = from as usize * 10..(from + SPEAKING_S) as usize * 10;
        let moved = (0..PARTITIONS).filter(|partition| before[*partition] != after[*partition]);
        let pause = |partition: usize| slowest[partition].get(window.clone()).and_then(|tenths| tenths.iter().max()).copied();
        let mut pauses: Vec<u64> = moved.filter_map(pause).collect();
        pauses.sort_unstable();
        let (Some(most), median) = (pauses.last(), pauses.get(pauses.len() / 2)) else { bail!("{stage}: nothing has moved") };
        let median = median.copied().unwrap_or_default();
        println!("{stage}: {} partitions moved, the slowest ack of each: p50 {median} ms, max {most} ms", pauses.len());
    }
    Ok(())
}

/// The first part of the name of a room, `<prefix>0`, of that partition.
fn prefix_in(partition: usize) -> String {
    // FNV-1a, as PROTOCOL.md of the parts has it: `fnv1a32(room) mod 16`.
    let hash = |name: &str| name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let prefixes = (0..).map(|number: u32| format!("owned-{number}-"));
    prefixes.into_iter().find(|prefix| hash(&format!("{prefix}0")) as usize % PARTITIONS == partition).expect("there is no end")
}

/// The slowest ack of each tenth of a second, milliseconds.
fn slowest_acks(data: &std::path::Path, name: &str) -> Result<Vec<u64>> {
    let load: Value = serde_json::from_str(&read(data, &format!("{name}.json"))?)?;
    let tenths = load["timeline"].as_array().context("no timeline")?;
    Ok(tenths.iter().map(|tenth| tenth["slowest_ack_us"].as_u64().unwrap_or_default() / 1000).collect())
}

/// How long partitions may take to be spread evenly.
const SPREAD: Duration = Duration::from_secs(30);

impl World {
    /// Who owns each partition, once each has an owner and nobody has two more than another.
    fn spread(&mut self, names: &[&'static str]) -> Result<Vec<&'static str>> {
        let started = Instant::now();
        loop {
            let mut owners = vec![""; PARTITIONS];
            for name in names {
                for partition in self.owned(name)? {
                    owners[partition] = name;
                }
            }
            let counts: Vec<usize> = names.iter().map(|name| owners.iter().filter(|owner| *owner == name).count()).collect();
            let (least, most) = (counts.iter().min(), counts.iter().max());
            if counts.iter().sum::<usize>() == PARTITIONS && most.zip(least).is_some_and(|(most, least)| most - least <= 1) {
                println!("{}: {counts:?} after {:.1} s", names.join(", "), started.elapsed().as_secs_f64());
                return Ok(owners);
            }
            ensure!(started.elapsed() < SPREAD, "{}: {counts:?} after {SPREAD:?}", names.join(", "));
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn owned(&mut self, name: &str) -> Result<Vec<usize>> {
        let said = self.process(name)?.said.clone();
        let admin = said.split_once("admin=").map(|(_, address)| address.trim()).context("it named its admin port")?;
        let (address, port) = admin.rsplit_once(':').context("an address has a port")?;
        let metrics = get(address, port.parse()?, "/metrics")?;
        let owned =
            metrics.lines().filter_map(|line| line.strip_prefix("carillon_partition_owned{partition=\"")?.split_once('"'));
        Ok(owned.filter(|(_, rest)| rest.ends_with(" 1")).filter_map(|(partition, _)| partition.parse().ok()).collect())
    }
}

impl Place {
    /// Waits for a load, and reads its report out: a promise that was broken is an error.
    fn end(&self, name: &str, mut load: Load) -> Result<String> {
        while !load.has_ended()? {
            std::thread::sleep(Duration::from_millis(100));
        }
        let report = read(&self.data, &format!("{name}.log"))?;
        let judged = read(&self.data, &format!("{name}.json")).with_context(|| report.clone())?;
        let judged: Value = serde_json::from_str(&judged)?;
        ensure!(judged["ok"] == true, "a promise was broken:\n{report}");
        Ok(report)
    }
}
