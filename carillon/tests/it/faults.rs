//! A bus that loses, doubles and delays: links repair what it does to them, and the same faults without repair do harm.

use std::{
    collections::BTreeMap,
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use carillon_auth::Revoker;
use carillon_fanout::Fanout;
use carillon_gateway::{Config, Counters, Gateway};
use carillon_platform::{
    auth::{IssueRequest, Revocations},
    bus::{Bus, BusError, InProcessBus, Subscription},
    kv::EmbeddedBuckets,
    log::EmbeddedLog,
    settings::{Program, Settings},
    shutdown::Shutdown,
    telemetry::{Figures, Reading, Tracer},
};
use carillon_proto::link::UpBatch;
use futures_util::future::BoxFuture;
use prost::Message as _;
use tokio::{runtime::Handle, time::sleep};

use crate::{
    load::{Door, Member, Publisher, is_complete},
    server::{authority, unix_ms, value_of},
};

/// Of a hundred batches so many are dropped, doubled, and delayed.
const FAULTS: [u64; 3] = [3, 3, 5];
const LONGEST_DELAY_MS: u64 = 40;
const MESSAGES: u64 = 120;
const PUBLISHERS: [&str; 3] = ["ada", "bob", "carl"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_repair_the_bus() {
    for seed in seeds() {
        let mut world = World::start(seed, true).await;
        let acked = world.publish().await;
        assert_eq!(acked.values().map(BTreeMap::len).sum::<usize>() as u64, MESSAGES * PUBLISHERS.len() as u64);
        for member in &mut world.members {
            member.until(|heard| heard.len() as u64 >= MESSAGES * PUBLISHERS.len() as u64).await;
            assert!(is_complete(&member.heard.borrow(), &acked), "CARILLON_TEST_SEED={seed}");
        }
        let faults = world.bus.done.each_ref().map(|count| count.load(Relaxed));
        assert!(faults.iter().all(|count| *count > 0), "{faults:?}, CARILLON_TEST_SEED={seed}");
        // Shards add up their counts every now and then.
        let mut repairs = 0;
        while repairs == 0 {
            sleep(Duration::from_millis(20)).await;
            repairs = value_of("carillon_repairs_total", &Reading::of([&*world.counters as &dyn Figures]).to_string());
        }
        println!("seed {seed}: {faults:?} batches dropped, doubled, delayed; {repairs} repairs");
    }
}

/// So that the test above is known to be able to fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unrepaired_links_lose() {
    for seed in seeds() {
        let world = World::start(seed, false).await;
        let acked = world.publish().await;
        let said = MESSAGES as usize * PUBLISHERS.len();
        let is_whole = |heard: &Vec<_>| heard.len() == said && is_complete(heard, &acked);
        assert!(!world.members.iter().any(|member| is_whole(&member.heard.borrow())), "CARILLON_TEST_SEED={seed}");
    }
}

fn seeds() -> Vec<u64> {
    std::env::var("CARILLON_TEST_SEED").map_or(vec![1, 2], |seed| vec![seed.parse().unwrap()])
}

/// A gateway and its owners in this process, with the bus between them.
struct World {
    bus: Arc<FaultyBus>,
    counters: Arc<Counters>,
    members: Vec<Member>,
    doors: Vec<Door>,
    repairs: bool,
    shutdown: Shutdown,
    _folder: tempfile::TempDir,
}

impl World {
    /// Two members are in the room before the first fault.
    async fn start(seed: u64, repairs: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::defaults(Program::AllInOne);
        settings.gateway.shards = 1;
        settings.limits.frames_per_second = 1_000_000;
        settings.limits.frames_burst = 1_000_000;
        if !repairs {
            settings.limits.publish_timeout_ms = 300;
        }
        settings.drain.window_ms = 0;
        let bus = Arc::new(FaultyBus::new(seed, repairs));
        let shutdown = Shutdown::new();
        let log = Arc::new(EmbeddedLog::open(folder.path()).unwrap());
        let buckets = Arc::new(EmbeddedBuckets::of(log.clone()));
        let fanout = Fanout::new(&settings, log, bus.clone(), buckets.clone()).unwrap().sole();
        tokio::spawn(fanout.run(shutdown.token(), shutdown.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (authority, counters) = (Arc::new(authority()), Arc::new(Counters::default()));
        let config = Config::new(&settings);
        let verifier = authority.clone();
        let revocations = Arc::new(Revocations::default());
        tokio::spawn(revocations.clone().keep(bus.clone(), buckets.clone(), Duration::from_secs(5)));
        revocations.wait_until_known().await;
        let gateway = Gateway {
            config,
            tls: None,
            bus: bus.clone(),
            buckets: buckets.clone(),
            verifier,
            issuer: authority.clone(),
            revoker: Arc::new(Revoker::new(&settings, buckets, bus.clone())),
            revocations,
            pages: &[],
            counters: counters.clone(),
            tracer: Tracer::default(),
        };
        tokio::spawn(gateway.run(listener, shutdown.clone()));
        let door = |name: &str| {
            let request = IssueRequest { sub: name.to_owned(), ttl_s: 3600, grants: None, info: None };
            let token = authority.issue_at(&request, unix_ms()).unwrap().token;
            Door { address, token, client: name.to_owned() }
        };
        let members = vec![Member::start(door("dave")).await, Member::start(door("eve")).await];
        let doors = PUBLISHERS.map(door).to_vec();
        Self { bus, counters, members, doors, repairs, shutdown, _folder: folder }
    }

    /// Says everything over the faulty bus; what was acked, by publisher and number.
    async fn publish(&self) -> BTreeMap<String, BTreeMap<u64, u64>> {
        let mut publishers = Vec::new();
        for door in &self.doors {
            publishers.push(Publisher::start(door.clone(), MESSAGES, !self.repairs).await);
        }
        self.bus.is_faulty.store(true, Relaxed);
        let mut acked = BTreeMap::new();
        for publisher in publishers {
            acked.insert(publisher.name.clone(), publisher.acked().await);
        }
        acked
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.begin();
    }
}

struct FaultyBus {
    inner: Arc<InProcessBus>,
    chance: Mutex<u64>,
    is_faulty: AtomicBool,
    repairs: bool,
    /// Batches dropped, doubled, delayed.
    done: [AtomicU64; 3],
    runtime: Handle,
}

impl FaultyBus {
    fn new(seed: u64, repairs: bool) -> Self {
        // Neighbouring seeds would begin alike.
        let chance = Mutex::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let (inner, done) = (Arc::new(InProcessBus::new()), Default::default());
        Self { inner, chance, is_faulty: AtomicBool::new(false), repairs, done, runtime: Handle::current() }
    }

    /// A small generator (xorshift).
    fn below(&self, bound: u64) -> u64 {
        let mut chance = self.chance.lock().unwrap();
        *chance ^= *chance << 13;
        *chance ^= *chance >> 7;
        *chance ^= *chance << 17;
        *chance % bound
    }
}

impl Bus for FaultyBus {
    fn publish(&self, subject: &str, batch: Bytes) {
        if !self.is_faulty.load(Relaxed) {
            return self.inner.publish(subject, batch);
        }
        let is_upward = carillon_proto::ids::PartitionId::all().any(|it| carillon_proto::link::up_subject(it) == subject);
        let opens_again = |batch: UpBatch| batch.link > 1 && batch.number == 1;
        if !self.repairs && is_upward && UpBatch::decode(batch.clone()).is_ok_and(opens_again) {
            return;
        }
        let mut fate = self.below(100);
        let fault = FAULTS.iter().position(|share| match fate.checked_sub(*share) {
            Some(rest) => {
                fate = rest;
                false
            }
            None => true,
        });
        if let Some(fault) = fault {
            self.done[fault].fetch_add(1, Relaxed);
        }
        match fault {
            Some(0) => {}
            Some(1) => {
                self.inner.publish(subject, batch.clone());
                self.inner.publish(subject, batch);
            }
            Some(_) => {
                let (inner, subject) = (self.inner.clone(), subject.to_owned());
                let delay = Duration::from_millis(1 + self.below(LONGEST_DELAY_MS));
                self.runtime.spawn(async move {
                    sleep(delay).await;
                    inner.publish(&subject, batch);
                });
            }
            None => self.inner.publish(subject, batch),
        }
    }

    fn subscribe(&self, subject: &str) -> BoxFuture<'_, Result<Subscription, BusError>> {
        self.inner.subscribe(subject)
    }
}
