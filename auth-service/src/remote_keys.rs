//! The keys that somebody else publishes at an address and changes as they like (`jwt.jwks_url`). Keeps the last good set
//! while the address is away, and looks again when a token needs a key that is not in it, though not as often as whoever
//! makes such tokens up would like.
//!
//! ```text
//!   token that no key has made ─▶ wanted ─▶ keeper ─▶ fetch ─▶ set, looks ─▶ whoever waits looks again
//!             every jwt.jwks_refresh_s ──────▲ at most one per PAUSE
//! ```

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use carillon_platform::settings::Url;
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    fetch::Document,
    key_set,
    keys::{Expected, VerifyingKey},
};

/// The shortest time between two looks, whatever is asked for. A token by a key that was published a moment ago waits for
/// so long at most; its gateway waits for twice as long.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a token with an unknown `kid` waits for the next look: the pause and an answer.
const PATIENCE: Duration = Duration::from_millis(1800);

/// Tokens that wait for a look at once; half of what one gateway asks at a time, so that made-up `kid`s leave places for
/// those that need no look. Further ones are told to come back later.
const WAITERS: usize = 64;

/// How long a `kid` that a look did not find is taken as made up.
const ABSENT_FOR: Duration = Duration::from_secs(10);

/// Such `kid`s that are remembered, and the longest of them: 256 KiB in all. When there are more, all are forgotten, which
/// costs a look.
const ABSENT: usize = 1024;
const ABSENT_BYTES: usize = 256;

/// How soon an address that failed is looked at again, if nobody asks before.
const RETRY: Duration = Duration::from_secs(5);

pub(crate) struct RemoteKeys {
    url: Url,
    document: Document,
    refresh: Duration,
    expected: Expected,
    keys: RwLock<Arc<Vec<Arc<VerifyingKey>>>>,
    wanted: Notify,
    looks: watch::Sender<Looks>,
    /// Counts the sets that lacked a key of the one before.
    withdrawals: watch::Sender<u64>,
    waiters: Semaphore,
    absent: Mutex<HashMap<String, Instant>>,
    fetched: AtomicU64,
    failed: AtomicU64,
}

/// How the newest look went.
#[derive(Debug, Clone, Copy, Default)]
struct Looks {
    /// When it began.
    began: Option<Instant>,
    is_good: bool,
    /// Whether there ever was a good one.
    has_keys: bool,
}

/// What a look for a key came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Looked {
    /// The set is as new as can be: what is not in it now does not exist.
    Done,
    /// Nobody can tell now.
    NotNow(&'static str),
}

impl RemoteKeys {
    /// Goes to no network; see [`Self::keep`]. The error is for whoever wrote the address.
    pub(crate) fn new(url: &Url, refresh: Duration, expected: Expected) -> Result<Self, String> {
        Ok(Self {
            url: url.clone(),
            document: Document::at(url)?,
            refresh,
            expected,
            keys: RwLock::default(),
            wanted: Notify::new(),
            looks: watch::Sender::default(),
            withdrawals: watch::Sender::default(),
            waiters: Semaphore::new(WAITERS),
            absent: Mutex::default(),
            fetched: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        })
    }

    /// The newest good set.
    pub(crate) fn keys(&self) -> Arc<Vec<Arc<VerifyingKey>>> {
        self.keys.read().expect("nobody panics while reading").clone()
    }

    /// Changes whenever a key was taken out of the set.
    pub(crate) fn withdrawals(&self) -> watch::Receiver<u64> {
        self.withdrawals.subscribe()
    }

    /// Looks at the address now and then, and when it is asked to. Never ends.
    pub(crate) async fn keep(&self) {
        loop {
            let began = Instant::now();
            let is_good = match self.look().await {
                Ok(()) => true,
                Err(problem) => {
                    self.on_failure(&problem);
                    false
                }
            };
            self.looks.send_modify(|looks| {
                if is_good && !looks.is_good {
                    tracing::info!(url = %self.url, keys = self.keys().len(), "the key set is at hand");
                }
                *looks = Looks { began: Some(began), is_good, has_keys: looks.has_keys || is_good };
            });
            sleep_until(began + PAUSE).await;
            let next = began + if is_good { self.refresh } else { RETRY.min(self.refresh) };
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.wanted.notified() => {}
            }
        }
    }

    async fn look(&self) -> Result<(), String> {
        let set = key_set::read(&self.document.fetch().await?, &self.expected)?;
        // A publisher that ends all of its keys is less likely than one that is half set up; and then there is no saying who
        // would come in next.
        if set.keys.is_empty() {
            return Err(format!("expected keys that check tokens, found none (left out: {:?})", set.left_out));
        }
        self.fetched.fetch_add(1, Relaxed);
        let thumbprints = |keys: &[Arc<VerifyingKey>]| keys.iter().map(|key| key.public.clone()).collect::<Vec<_>>();
        let (before, after) = (thumbprints(&self.keys()), thumbprints(&set.keys));
        if before != after {
            tracing::info!(url = %self.url, keys = set.keys.len(), left_out = ?set.left_out, "the key set has changed");
            self.absent.lock().expect("nobody panics while writing").clear();
            *self.keys.write().expect("nobody panics while writing") = Arc::new(set.keys);
            // Told when it is refused here already, so that whoever asks because of it hears so.
            if before.iter().any(|key| !after.contains(key)) {
                self.withdrawals.send_modify(|count| *count += 1);
            }
        }
        Ok(())
    }

    /// One line when the address goes, not one for each look.
    fn on_failure(&self, problem: &str) {
        self.failed.fetch_add(1, Relaxed);
        let Looks { began, is_good, .. } = *self.looks.borrow();
        if is_good || began.is_none() {
            tracing::warn!(url = %self.url, problem, "the key set can't be fetched; the last good one is kept");
        }
    }

    /// Waits for a look that began after this call, because no key at hand has this `kid`, or those that might have made a token
    /// did not: that one goes by a name of its own.
    pub(crate) async fn look_for(&self, kid: &str) -> Looked {
        let asked = Instant::now();
        if self.is_absent(kid, asked) {
            return Looked::Done;
        }
        let Ok(_waiter) = self.waiters.try_acquire() else {
            return Looked::NotNow("too many tokens wait for the key set");
        };
        let mut looks = self.looks.subscribe();
        self.wanted.notify_one();
        let look = looks.wait_for(|looks| looks.began.is_some_and(|began| began >= asked));
        match timeout(PATIENCE, look).await {
            Ok(Ok(looks)) if looks.is_good => {}
            _ => return Looked::NotNow("the key set can't be fetched now"),
        }
        self.remember_absent(kid);
        Looked::Done
    }

    fn is_absent(&self, kid: &str, now: Instant) -> bool {
        let absent = self.absent.lock().expect("nobody panics while reading");
        absent.get(kid).is_some_and(|since| now.duration_since(*since) < ABSENT_FOR)
    }

    /// Also called for a `kid` that was found meanwhile: then nobody asks for it again.
    fn remember_absent(&self, kid: &str) {
        if kid.len() > ABSENT_BYTES {
            return;
        }
        let mut absent = self.absent.lock().expect("nobody panics while writing");
        if absent.len() >= ABSENT {
            absent.clear();
        }
        absent.insert(kid.to_owned(), Instant::now());
    }

    /// Waits for the first good set, for as long as this.
    pub(crate) async fn wait_for_first(&self, patience: Duration) {
        let mut looks = self.looks.subscribe();
        let _ = timeout(patience, looks.wait_for(|looks| looks.has_keys)).await;
    }

    /// Looks that were good, looks that failed, and keys now.
    pub(crate) fn counts(&self) -> (u64, u64, usize) {
        (self.fetched.load(Relaxed), self.failed.load(Relaxed), self.keys().len())
    }
}
