//! Sockets whose client has not shown a good token yet. There may be so many; beyond it, the one that has taken the longest
//! has to go, so that many that are slow on purpose don't keep out those that are not. Whoever asks only for what everybody
//! may have stays one of them, and is let go before long.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use carillon_proto::ids::UserId;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::known::{KnownSockets, Place};

/// Those of one shard, by when they came. Of one thread; shared as requests carry it, which may be sent to others.
pub(crate) struct Strangers {
    most: usize,
    here: Mutex<Here>,
}

#[derive(Default)]
struct Here {
    came: u64,
    by_turn: BTreeMap<u64, CancellationToken>,
}

/// One of them. It is none any more when this is dropped, or told that it is known. Goes with each of its requests, as an
/// extension.
pub(crate) struct Stranger {
    strangers: Arc<Strangers>,
    turn: u64,
    evicted: CancellationToken,
    is_known: AtomicBool,
    /// Who has asked over it, once a token was shown.
    place: Mutex<Option<Place>>,
    /// It is one of too many of its user.
    to_go: CancellationToken,
    /// Requests that have no answer yet.
    asks: AtomicUsize,
}

impl Strangers {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, here: Mutex::default() })
    }

    /// One more; and whether another one had to go for it.
    pub(crate) fn come(self: &Arc<Self>) -> (Arc<Stranger>, bool) {
        let mut here = self.here();
        let oldest = (here.by_turn.len() >= self.most).then(|| here.by_turn.pop_first()).flatten();
        if let Some((_, oldest)) = &oldest {
            oldest.cancel();
        }
        here.came += 1;
        let (turn, evicted) = (here.came, CancellationToken::new());
        here.by_turn.insert(turn, evicted.clone());
        let stranger = Stranger {
            strangers: self.clone(),
            turn,
            evicted,
            is_known: AtomicBool::new(false),
            place: Mutex::default(),
            to_go: CancellationToken::new(),
            asks: AtomicUsize::new(0),
        };
        (Arc::new(stranger), oldest.is_some())
    }

    fn here(&self) -> MutexGuard<'_, Here> {
        self.here.lock().expect("nobody panics while it is held")
    }
}

impl Stranger {
    /// Its client has shown a good token.
    pub(crate) fn is_known(&self) {
        self.is_known.store(true, Relaxed);
        self.strangers.here().by_turn.remove(&self.turn);
    }

    /// Its client is this user, as far as the newest request says.
    pub(super) fn is_known_as(&self, user: UserId, sockets: &Arc<KnownSockets>) {
        let mut place = self.place.lock().expect("nobody panics while it is held");
        // It counts once.
        *place = None;
        *place = Some(sockets.ask(user, self.to_go.clone()));
    }

    /// Resolves when it is one of too many of its user.
    pub(super) async fn one_of_too_many(&self) {
        self.to_go.cancelled().await;
    }

    /// Resolves when it has to go.
    pub(crate) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }

    /// One more of its requests is being answered, until this is dropped.
    pub(super) fn begin_request(&self) -> UnderWay<'_> {
        self.asks.fetch_add(1, Relaxed);
        UnderWay(self)
    }

    /// Resolves when it has been one for so long, and is not waiting for an answer; never for one that is known by then.
    pub(super) async fn overdue(&self, patience: Duration) {
        loop {
            sleep(patience).await;
            if self.is_known.load(Relaxed) {
                std::future::pending::<()>().await;
            }
            if self.asks.load(Relaxed) == 0 {
                return;
            }
        }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.is_known();
    }
}

/// See [`Stranger::begin_request`].
pub(super) struct UnderWay<'s>(&'s Stranger);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.asks.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slowest_goes_first() {
        let strangers = Strangers::new(2);
        let is_gone = |stranger: &Stranger| stranger.evicted.is_cancelled();
        let (first, second) = (strangers.come().0, strangers.come().0);
        let (third, someone_went) = strangers.come();
        assert!(someone_went && is_gone(&first) && !is_gone(&second));
        second.is_known();
        let (fourth, someone_went) = strangers.come();
        assert!(!someone_went);
        drop((third, fourth));
        assert!(strangers.here().by_turn.is_empty());
        assert!(!is_gone(&second));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_an_answer_or_is_known_is_not_overdue() {
        let strangers = Strangers::new(2);
        let (slow, known) = (strangers.come().0, strangers.come().0);
        let request = slow.begin_request();
        known.is_known();
        let is_over = async |stranger: &Stranger| {
            tokio::time::timeout(Duration::from_secs(60), stranger.overdue(Duration::from_secs(5))).await.is_ok()
        };
        assert!(!is_over(&slow).await && !is_over(&known).await);
        drop(request);
        assert!(is_over(&slow).await);
    }
}
