//! The threads of a load, and what they share. Each runs its members and publishers by itself, on one core; the conductor only
//! says when to speak, when all has been said, and adds up what they saw.

use std::{
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use std::cell::{RefCell, RefMut};

use anyhow::bail;
use tokio::{sync::Semaphore, task::LocalSet};
use tokio_util::sync::CancellationToken;

use crate::{
    args::Swallow,
    book::Book,
    member, publisher,
    tally::{Clock, Live, Tally},
    target::Target,
    token::Signer,
};

/// What all threads know.
pub(crate) struct Shared {
    pub(crate) targets: Vec<Target>,
    pub(crate) signer: Signer,
    pub(crate) clock: Clock,
    pub(crate) live: Live,
    /// First part of the names of rooms; the number follows.
    pub(crate) prefix: String,
    pub(crate) payload_bytes: usize,
    pub(crate) opening: usize,
    pub(crate) is_ephemeral: bool,
    /// Times are waited for without timers.
    pub(crate) spins: bool,
    /// What is overlooked once, on purpose.
    pub(crate) swallow: Mutex<Option<Swallow>>,
    /// By room: what was acked last, or for ephemeral messages how many were sent.
    pub(crate) heads: Vec<AtomicU64>,
    /// Kept where everything is compared with everything.
    pub(crate) book: Option<Arc<Book>>,
    /// Everyone is seated: publishers may speak.
    pub(crate) ready: CancellationToken,
    /// All has been said: members leave when they have it.
    pub(crate) sealed: CancellationToken,
    /// Nobody waits any longer.
    pub(crate) over: CancellationToken,
    /// What a latency counts for: an index into [`Tally::delivery_us`].
    pub(crate) phase: AtomicUsize,
    /// Publishers that have not said all yet.
    pub(crate) speaking: AtomicUsize,
    /// Spreads connections over local addresses: one has too few ports for a million.
    pub(crate) next_address: AtomicUsize,
}

impl Shared {
    /// Whether this is the one to overlook. Only what comes when a run is well under way.
    pub(crate) fn swallows(&self, what: Swallow, so_far: u64) -> bool {
        if so_far < SWALLOW_AFTER {
            return false;
        }
        let mut swallow = self.swallow.lock().expect("nobody panics here");
        swallow.take_if(|wish| *wish == what).is_some()
    }

    pub(crate) fn room_name(&self, room: u32) -> String {
        format!("{}{room}", self.prefix)
    }
}

/// Deliveries to a member, or messages of a publisher, before one may be overlooked.
const SWALLOW_AFTER: u64 = 20;

/// What one thread knows.
pub(crate) struct Local {
    pub(crate) shared: Arc<Shared>,
    tally: RefCell<Tally>,
    pub(crate) opening: Semaphore,
}

impl Local {
    pub(crate) fn tally(&self) -> RefMut<'_, Tally> {
        self.tally.borrow_mut()
    }

    /// A promise was broken.
    pub(crate) fn fault(&self, what: impl FnOnce() -> String) {
        self.tally().fault(&self.shared.live, what);
    }
}

/// One of the many.
pub(crate) enum Task {
    Member(member::Plan),
    Publisher(publisher::Plan),
}

/// The running threads.
pub(crate) struct Fleet {
    shared: Arc<Shared>,
    members: usize,
    threads: Vec<JoinHandle<Tally>>,
}

impl Fleet {
    pub(crate) fn start(shared: &Arc<Shared>, tasks: Vec<Task>, threads: usize) -> Self {
        let members = tasks.iter().filter(|task| matches!(task, Task::Member(_))).count();
        shared.speaking.fetch_add(tasks.len() - members, Ordering::Relaxed);
        let mut shares: Vec<Vec<Task>> = (0..threads).map(|_| Vec::new()).collect();
        for (turn, task) in tasks.into_iter().enumerate() {
            shares[turn % threads].push(task);
        }
        let start = |share| {
            let shared = shared.clone();
            std::thread::spawn(move || run_thread(shared, share))
        };
        Self { shared: shared.clone(), members, threads: shares.into_iter().map(start).collect() }
    }

    /// Others join in.
    pub(crate) fn join(&mut self, others: Self) {
        self.members += others.members;
        self.threads.extend(others.threads);
    }

    /// Until all members are in all their rooms.
    pub(crate) fn until_seated(&self, show: &mut impl FnMut(&Live)) -> anyhow::Result<()> {
        let mut before = 0;
        let mut idle = 0;
        loop {
            let seated = self.shared.live.seated.load(Ordering::Relaxed);
            if seated >= self.members as u64 {
                return Ok(());
            }
            idle = if seated == before { idle + 1 } else { 0 };
            if idle > 600 {
                self.shared.over.cancel();
                bail!("only {seated} of {} members could join, and no other one for a minute", self.members);
            }
            before = seated;
            show(&self.shared.live);
            std::thread::sleep(TICK);
        }
    }

    /// Until all publishers have said all, and have been told that it is stored.
    pub(crate) fn until_said(&self, show: &mut impl FnMut(&Live)) {
        while self.shared.speaking.load(Ordering::Relaxed) > 0 {
            show(&self.shared.live);
            std::thread::sleep(TICK);
        }
    }

    /// Until all members have what was said, or have waited `patience` for it.
    pub(crate) fn settle(self, patience: Duration, show: &mut impl FnMut(&Live)) -> Tally {
        self.shared.sealed.cancel();
        let end = std::time::Instant::now() + patience;
        while self.threads.iter().any(|thread| !thread.is_finished()) {
            if std::time::Instant::now() > end {
                self.shared.over.cancel();
            }
            show(&self.shared.live);
            std::thread::sleep(TICK);
        }
        let mut all = Tally::default();
        for thread in self.threads {
            all.add(thread.join().expect("a thread of the load panicked"));
        }
        all
    }
}

/// How often the conductor looks.
pub(crate) const TICK: Duration = Duration::from_millis(100);

fn run_thread(shared: Arc<Shared>, tasks: Vec<Task>) -> Tally {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be had");
    let local = Rc::new(Local { opening: Semaphore::new(shared.opening), shared, tally: RefCell::default() });
    LocalSet::new().block_on(&runtime, async {
        let tasks: Vec<_> = tasks
            .into_iter()
            .map(|task| match task {
                Task::Member(plan) => tokio::task::spawn_local(member::attend(local.clone(), plan)),
                Task::Publisher(plan) => tokio::task::spawn_local(publisher::speak(local.clone(), plan)),
            })
            .collect();
        for task in tasks {
            task.await.expect("a task of the load panicked");
        }
    });
    let Some(local) = Rc::into_inner(local) else { unreachable!("all tasks have ended") };
    local.tally.into_inner()
}
