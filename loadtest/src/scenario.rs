//! The scenarios: who is there, who speaks, what happens when, and what is reported.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

use crate::{
    args::{Args, Common, Rooms, Scenario},
    book::Book,
    fleet::{Fleet, Shared, TICK, Task},
    history, member,
    payload::LEAST_BYTES,
    process::Usage,
    publisher,
    report::Report,
    tally::{Clock, Live, Tally},
    target::Target,
    token::Signer,
};

pub(crate) fn run(args: &Args) -> anyhow::Result<Report> {
    match &args.scenario {
        Scenario::Idle { connections, rooms, seconds } => idle(&args.common, *connections, *rooms, *seconds),
        Scenario::Rooms(rooms) => speaking(&args.common, rooms, None),
        Scenario::Soak { rooms, drop_every_ms, pause_every_s, pause_s } => {
            let pauses = (*pause_every_s > 0).then(|| (Duration::from_secs(*pause_every_s), Duration::from_secs(*pause_s)));
            speaking(&args.common, rooms, Some(Soak { drop_every_ms: *drop_every_ms, pauses }))
        }
        Scenario::Resume { members, rooms, missed, rate } => resume(&args.common, *members, *rooms, *missed, *rate),
        Scenario::Stall { members, stalled, seconds, rate } => stall(&args.common, *members, *stalled, *seconds, *rate),
        Scenario::Crowd { connections, first, offset, since_ns } => {
            crowd(&args.common, *first..*first + *connections, *offset, Clock::since(*since_ns))
        }
        Scenario::History { rooms, messages, read, limit, filled, fill_only } => {
            let (rooms, messages, read, limit) = (*rooms, *messages, *read, *limit);
            let fill = history::Fill { rooms, messages, read, limit, filled: *filled, fill_only: *fill_only };
            history::run(&args.common, &fill)
        }
    }
}

/// Everything but who is there.
pub(crate) struct Stage {
    pub(crate) shared: Arc<Shared>,
    common: Common,
    bar: ProgressBar,
    started: Instant,
    rss_kib: Vec<u64>,
}

impl Stage {
    pub(crate) fn new(common: &Common, rooms: usize, is_ephemeral: bool, with_book: bool) -> anyhow::Result<Self> {
        Self::on(Clock::start(), common, rooms, is_ephemeral, with_book)
    }

    fn on(clock: Clock, common: &Common, rooms: usize, is_ephemeral: bool, with_book: bool) -> anyhow::Result<Self> {
        let secret = match (&common.secret, &common.secret_file) {
            (Some(secret), _) => secret.clone(),
            (None, Some(file)) => std::fs::read_to_string(file)
                .with_context(|| format!("--secret-file: {} can't be read", file.display()))?
                .trim_end_matches(['\r', '\n'])
                .to_owned(),
            (None, None) => bail!("--secret is missing: the HS256 secret of the server (jwt.secret)"),
        };
        ensure!(common.payload >= LEAST_BYTES, "--payload: at least {LEAST_BYTES}, since it carries its number and its time");
        ensure!(common.threads > 0, "--threads: at least one");
        let prefix = common.prefix.clone().unwrap_or_else(|| format!("load-{:08x}-", fastrand::u32(..)));
        ensure!(
            prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":._-".contains(&byte))
                && !prefix.ends_with(|last: char| last.is_ascii_digit()),
            "--prefix: letters, digits and :._- only, and no digit at the end"
        );
        let bar = ProgressBar::new_spinner();
        bar.set_style(ProgressStyle::with_template("{spinner} {elapsed} {msg}").expect("a template that makes sense"));
        let shared = Arc::new(Shared {
            targets: common.url.iter().map(|url| Target::parse(url, common.door)).collect::<anyhow::Result<_>>()?,
            signer: Signer::new(&secret),
            clock,
            live: Live::default(),
            prefix,
            payload_bytes: common.payload,
            opening: common.opening,
            is_ephemeral,
            spins: common.spin,
            swallow: Mutex::new(common.swallow),
            heads: (0..rooms).map(|_| AtomicU64::new(0)).collect(),
            book: with_book.then(|| Arc::new(Book::new(rooms))),
            ready: CancellationToken::new(),
            sealed: CancellationToken::new(),
            over: CancellationToken::new(),
            phase: AtomicUsize::new(0),
            speaking: AtomicUsize::new(0),
            next_address: AtomicUsize::new(0),
        });
        Ok(Self { shared, common: common.clone(), bar, started: Instant::now(), rss_kib: Vec::new() })
    }

    /// The same rooms and what is known of them, for other members.
    fn begin_anew(&mut self) {
        let old = &self.shared;
        self.shared = Arc::new(Shared {
            targets: old.targets.clone(),
            signer: old.signer.clone(),
            clock: old.clock,
            live: Live::default(),
            prefix: old.prefix.clone(),
            payload_bytes: old.payload_bytes,
            opening: old.opening,
            is_ephemeral: old.is_ephemeral,
            spins: old.spins,
            swallow: Mutex::default(),
            heads: old.heads.iter().map(|head| AtomicU64::new(head.load(Ordering::Relaxed))).collect(),
            book: old.book.clone(),
            ready: CancellationToken::new(),
            sealed: CancellationToken::new(),
            over: CancellationToken::new(),
            phase: AtomicUsize::new(0),
            speaking: AtomicUsize::new(0),
            next_address: AtomicUsize::new(0),
        });
    }

    pub(crate) fn start(&self, tasks: Vec<Task>) -> Fleet {
        Fleet::start(&self.shared, tasks, self.common.threads)
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage::of(&self.common.pid)
    }

    /// Called ten times a second.
    pub(crate) fn show(&mut self, live: &Live) {
        let [seated, delivered, acked, faults] =
            [&live.seated, &live.delivered, &live.acked, &live.faults].map(|count| count.load(Ordering::Relaxed));
        self.bar.set_message(format!("{seated} seated, {acked} acked, {delivered} delivered, {faults} faults"));
        self.bar.tick();
        if !self.common.pid.is_empty() && self.started.elapsed().as_secs() as usize >= self.rss_kib.len() {
            self.rss_kib.push(self.usage().rss_kib);
        }
    }

    pub(crate) fn wait(&mut self, how_long: Duration) {
        let end = Instant::now() + how_long;
        while Instant::now() < end {
            let shared = self.shared.clone();
            self.show(&shared.live);
            std::thread::sleep(TICK.min(end.saturating_duration_since(Instant::now())));
        }
    }

    pub(crate) fn seated(&mut self, fleet: &Fleet) -> anyhow::Result<()> {
        fleet.until_seated(&mut |live| self.show(live))
    }

    pub(crate) fn said(&mut self, fleet: &Fleet) {
        fleet.until_said(&mut |live| self.show(live));
    }

    pub(crate) fn settle(&mut self, fleet: Fleet) -> Tally {
        let patience = Duration::from_secs(self.common.settle);
        fleet.settle(patience, &mut |live| self.show(live))
    }

    pub(crate) fn report(self, scenario: &str, tally: Tally, seconds: f64, usage: Usage) -> Report {
        self.bar.finish_and_clear();
        Report::new(scenario, tally, seconds, usage, self.rss_kib)
    }
}

fn member(number: usize, rooms: Vec<u32>) -> member::Plan {
    let user = format!("member{number}");
    member::Plan { client: user.clone(), user, turn: number, rooms, ..member::Plan::default() }
}

/// Publishers that share rooms and rate.
fn publishers(of: &Rooms, comes_back: bool) -> Vec<publisher::Plan> {
    let count = of.publishers.max(1);
    let period_ns = if of.rate > 0.0 { (1e9 * count as f64 / of.rate) as u64 } else { 0 };
    (0..of.publishers)
        .map(|number| {
            let own: Vec<u32> = (0..of.rooms as u32).filter(|room| *room as usize % count == number % of.rooms.max(1)).collect();
            publisher::Plan {
                number: number as u32,
                turn: number,
                rooms: if own.is_empty() { vec![(number % of.rooms) as u32] } else { own },
                phase_ns: period_ns / count as u64 * number as u64,
                period_ns,
                in_flight: of.in_flight,
                count: u64::MAX,
                lasts: Some(Duration::from_secs(of.seconds)),
                comes_back,
                pauses: None,
            }
        })
        .collect()
}

fn idle(common: &Common, connections: usize, rooms: usize, seconds: u64) -> anyhow::Result<Report> {
    let mut stage = Stage::new(common, rooms, false, false)?;
    let started = Instant::now();
    let in_room = |number: usize| if rooms == 0 { vec![] } else { vec![(number % rooms) as u32] };
    let of = |numbers: Range<usize>| numbers.map(|number| Task::Member(member(number, in_room(number)))).collect();
    // What a server takes once, for its first clients, is none of what each further one costs.
    let first = connections / 5;
    let mut fleet = stage.start(of(0..first));
    stage.seated(&fleet)?;
    let before = stage.usage();
    fleet.join(stage.start(of(first..connections)));
    stage.seated(&fleet)?;
    let opening_s = started.elapsed().as_secs_f64();
    stage.wait(Duration::from_secs(seconds));
    let after = stage.usage();
    let tally = stage.settle(fleet);
    let mut report = stage.report(&format!("idle: {connections} connections"), tally, opening_s, after.since(before));
    report.figures.insert("connects_per_s".into(), connections as f64 / opening_s);
    let grown = after.rss_kib.saturating_sub(before.rss_kib) as f64;
    report.figures.insert("rss_kib_per_connection".into(), grown / (connections - first) as f64);
    Ok(report)
}

/// A part of a crowd: who waits is told by nobody here, so a member has all when it has the message with that offset.
fn crowd(common: &Common, numbers: Range<usize>, offset: u64, clock: Clock) -> anyhow::Result<Report> {
    ensure!(common.prefix.is_some(), "--prefix: the room of a crowd has to be known to who publishes");
    let mut stage = Stage::on(clock, common, 1, false, false)?;
    let (before, started, members) = (stage.usage(), Instant::now(), numbers.len());
    let fleet = stage.start(numbers.map(|number| Task::Member(member(number, vec![0]))).collect());
    stage.seated(&fleet)?;
    let opening_s = started.elapsed().as_secs_f64();
    println!("seated");
    stage.shared.heads[0].store(offset, Ordering::Relaxed);
    let tally = stage.settle(fleet);
    let usage = stage.usage().since(before);
    Ok(stage.report(&format!("crowd: {members} members of one room"), tally, opening_s, usage))
}

/// What makes a soak of it.
struct Soak {
    drop_every_ms: u64,
    /// Publishers are quiet after so long, for so long.
    pauses: Option<(Duration, Duration)>,
}

/// `soak`: members come and go, and everything is compared with everything.
fn speaking(common: &Common, of: &Rooms, soak: Option<Soak>) -> anyhow::Result<Report> {
    ensure!(of.rooms > 0, "--rooms: at least one");
    let is_soak = soak.is_some();
    let (drop_every_ms, pauses) = soak.map_or((0, None), |soak| (soak.drop_every_ms, soak.pauses));
    let mut stage = Stage::new(common, of.rooms, of.ephemeral, is_soak)?;
    let members = (0..of.rooms * of.members).map(|number| {
        let plan = member(number, vec![(number % of.rooms) as u32]);
        Task::Member(member::Plan { drop_every_ms, ..plan })
    });
    let publishers = publishers(of, is_soak).into_iter().map(|plan| Task::Publisher(publisher::Plan { pauses, ..plan }));
    let fleet = stage.start(members.chain(publishers).collect());
    stage.seated(&fleet)?;
    let (before, started) = (stage.usage(), Instant::now());
    stage.shared.ready.cancel();
    stage.said(&fleet);
    let seconds = started.elapsed().as_secs_f64();
    let usage = stage.usage().since(before);
    let mut tally = stage.settle(fleet);
    if is_soak {
        tally.add(read_all(&mut stage)?);
    }
    let name = format!(
        "{}: {} rooms × {} members, {} publishers, {}",
        if is_soak { "soak" } else { "rooms" },
        of.rooms,
        of.members,
        of.publishers,
        if of.ephemeral { "ephemeral" } else { "stored" }
    );
    Ok(stage.report(&name, tally, seconds, usage))
}

/// Rooms that one connection joins to read them: below the server's own limit.
const ROOMS_PER_READER: usize = 200;

/// More members read every room from its first message on, and all that is known is compared.
fn read_all(stage: &mut Stage) -> anyhow::Result<Tally> {
    stage.begin_anew();
    let rooms: Vec<u32> = (0..stage.shared.heads.len() as u32).collect();
    let readers = rooms.chunks(ROOMS_PER_READER).enumerate().map(|(number, rooms)| {
        let user = format!("reader{number}");
        let plan = member::Plan { client: user.clone(), user, turn: number, rooms: rooms.to_vec(), ..member::Plan::default() };
        Task::Member(member::Plan { reads_all: true, ..plan })
    });
    let fleet = stage.start(readers.collect());
    stage.seated(&fleet)?;
    let mut tally = stage.settle(fleet);
    // What the readers took is no part of the load.
    tally = Tally { faults: tally.faults, told: tally.told, ..Tally::default() };
    for wrong in stage.shared.book.as_ref().map(|book| book.audit()).unwrap_or_default() {
        tally.fault(&stage.shared.live, || wrong);
    }
    Ok(tally)
}

fn resume(common: &Common, members: usize, rooms: usize, missed: usize, rate: f64) -> anyhow::Result<Report> {
    let mut stage = Stage::new(common, rooms, false, false)?;
    let (leave, back) = (CancellationToken::new(), CancellationToken::new());
    let plans = (0..members).map(|number| {
        let leaves = Some((leave.clone(), back.clone()));
        Task::Member(member::Plan { leaves, ..member(number, vec![(number % rooms) as u32]) })
    });
    let mut fleet = stage.start(plans.collect());
    stage.seated(&fleet)?;
    leave.cancel();
    stage.wait(Duration::from_secs(1));
    let missing = publisher::Plan {
        number: 0,
        turn: 0,
        rooms: (0..rooms as u32).collect(),
        phase_ns: 0,
        period_ns: 0,
        in_flight: 256,
        count: (rooms * missed) as u64,
        lasts: None,
        comes_back: false,
        pauses: None,
    };
    fleet.join(stage.start(vec![Task::Publisher(missing.clone())]));
    stage.shared.ready.cancel();
    stage.said(&fleet);
    if rate > 0.0 {
        // These go on while the others come back.
        let lasts = Some(Duration::from_secs(5));
        let period_ns = (1e9 / rate) as u64;
        let goes_on = publisher::Plan { number: 1, rooms: vec![0], period_ns, count: u64::MAX, lasts, ..missing };
        fleet.join(stage.start(vec![Task::Publisher(goes_on)]));
    }
    let (before, started) = (stage.usage(), Instant::now());
    back.cancel();
    stage.said(&fleet);
    let tally = stage.settle(fleet);
    let seconds = started.elapsed().as_secs_f64();
    let usage = stage.usage().since(before);
    let name = format!("resume: {members} members in {rooms} rooms, {missed} missed by each, {rate} per second meanwhile");
    let mut report = stage.report(&name, tally, seconds, usage);
    report.figures.insert("all_whole_after_s".into(), seconds);
    Ok(report)
}

fn stall(common: &Common, members: usize, stalled: usize, seconds: u64, rate: f64) -> anyhow::Result<Report> {
    let mut stage = Stage::new(common, 1, false, false)?;
    let from = CancellationToken::new();
    let how_long = Duration::from_secs(seconds);
    let plans = (0..members + stalled).map(|number| {
        let stalls = (number >= members).then(|| (from.clone(), how_long));
        Task::Member(member::Plan { stalls, ..member(number, vec![0]) })
    });
    let before_s = seconds.div_ceil(3);
    let speaks = Rooms {
        rooms: 1,
        members: 0,
        publishers: 1,
        rate,
        in_flight: 4096,
        ephemeral: false,
        seconds: before_s + seconds + seconds.div_ceil(6),
    };
    let fleet = stage.start(plans.chain(publishers(&speaks, false).into_iter().map(Task::Publisher)).collect());
    stage.seated(&fleet)?;
    let (before, started) = (stage.usage(), Instant::now());
    stage.shared.ready.cancel();
    stage.wait(Duration::from_secs(before_s));
    from.cancel();
    stage.shared.phase.store(1, Ordering::Relaxed);
    stage.wait(how_long);
    // What the stalled ones catch up with is old news: it says nothing of the others.
    stage.shared.phase.store(2, Ordering::Relaxed);
    stage.said(&fleet);
    let seconds_all = started.elapsed().as_secs_f64();
    let usage = stage.usage().since(before);
    let tally = stage.settle(fleet);
    let name =
        format!("stall: {stalled} of {} members read nothing for {seconds} s, {rate} messages per second", members + stalled);
    Ok(stage.report(&name, tally, seconds_all, usage))
}
