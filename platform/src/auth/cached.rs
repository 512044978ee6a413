//! Spares the auth service what it has said already. A token in use costs one request a minute, a storm of one token
//! costs one request, and tokens that were good lately stay good while nobody can be asked.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use carillon_proto::claims::Claims;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::oneshot, time::Instant};

use super::{
    TokenVerifier, VerifyError,
    known::{CACHE_BYTES, Known, KnownTokens, TokenKey},
};
use crate::telemetry::{Current, Figures, Reading, Unit, carried};

type Verified = Result<Arc<Claims>, VerifyError>;
type UnderWay = Shared<oneshot::Receiver<Verified>>;

/// A [`TokenVerifier`] that remembers the tokens that another one found good.
///
/// Refused tokens are not remembered: a refusal may be mended the next second (a new key, a token whose time begins), and
/// made-up tokens would push out the good ones. Revocations are for whoever asks this one to look up: see
/// [`Revocations`](super::Revocations). Repeats of one that are under way at the same time share their answer.
pub struct CachedVerifier<V> {
    inner: Arc<Inner<V>>,
    /// Where the inner verifier is asked. A gateway's shards end one by one; a question that one of them asked may have
    /// listeners in the others.
    runtime: Handle,
}

struct Inner<V> {
    verifier: V,
    state: Mutex<State>,
    counters: Counters,
}

struct State {
    known: KnownTokens,
    /// Questions that wait for their answer. As many as the inner verifier takes at once: it has a limit of its own, and
    /// ends each within a time of its own.
    under_way: HashMap<TokenKey, UnderWay>,
    /// How often all was forgotten. What was asked before that is not remembered after it.
    forgotten: u64,
}

/// How each check ended.
#[derive(Default)]
struct Counters {
    fresh: AtomicU64,
    asked: AtomicU64,
    aged: AtomicU64,
    refused: AtomicU64,
    unavailable: AtomicU64,
    requests: AtomicU64,
}

impl<V: TokenVerifier> CachedVerifier<V> {
    /// With nothing known yet. Call it within the runtime that outlives all its users.
    pub fn new(verifier: V) -> Self {
        let state = State { known: KnownTokens::new(CACHE_BYTES), under_way: HashMap::new(), forgotten: 0 };
        let inner = Inner { verifier, state: Mutex::new(state), counters: Counters::default() };
        Self { inner: Arc::new(inner), runtime: Handle::current() }
    }

    /// [`TokenVerifier::verify`] at a time, in Unix milliseconds.
    pub async fn verify_at(&self, token: &str, now_ms: u64) -> Result<Claims, VerifyError> {
        let counters = &self.inner.counters;
        let key = TokenKey::of(token);
        let started = Instant::now();
        let answer = {
            let mut state = self.inner.state.lock();
            if let Some(Known { claims, is_fresh: true }) = state.known.find(&key, now_ms) {
                counters.fresh.fetch_add(1, Relaxed);
                return Ok(claims.as_ref().clone());
            }
            let forgotten = state.forgotten;
            state.under_way.entry(key).or_insert_with(|| self.ask(key, token, now_ms, forgotten)).clone()
        };
        match answer.await.unwrap_or_else(|_| Err(VerifyError::Unavailable("the verifier broke".to_owned()))) {
            Ok(claims) => {
                counters.asked.fetch_add(1, Relaxed);
                Ok(claims.as_ref().clone())
            }
            Err(VerifyError::Refused(why)) => {
                counters.refused.fetch_add(1, Relaxed);
                Err(VerifyError::Refused(why))
            }
            Err(VerifyError::Unavailable(why)) => {
                let waited_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                let known = self.inner.state.lock().known.find(&key, now_ms.saturating_add(waited_ms));
                let Some(known) = known else {
                    counters.unavailable.fetch_add(1, Relaxed);
                    return Err(VerifyError::Unavailable(why));
                };
                counters.aged.fetch_add(1, Relaxed);
                Ok(known.claims.as_ref().clone())
            }
        }
    }

    /// Goes on when whoever asked first has gone: the others still wait, and the answer is worth remembering.
    fn ask(&self, key: TokenKey, token: &str, now_ms: u64, forgotten: u64) -> UnderWay {
        self.inner.counters.requests.fetch_add(1, Relaxed);
        let (tell, answer) = oneshot::channel();
        let (question, token) = (Question { inner: self.inner.clone(), key, forgotten }, token.to_owned());
        // Whoever asked first has it in their trace; the others only wait.
        let current = Current::here();
        self.runtime.spawn(carried(current, async move {
            let verified = question.inner.verifier.verify(&token).await.map(Arc::new);
            question.remember(&verified, now_ms);
            // Known before it is no longer under way, so that nobody in between asks again.
            drop(question);
            let _ = tell.send(verified);
        }));
        answer.shared()
    }

    /// Every token is asked about again, be it that nobody answers: a key was withdrawn, and any of them may be signed with it.
    pub fn forget_all(&self) {
        let mut state = self.inner.state.lock();
        state.known = KnownTokens::new(CACHE_BYTES);
        // Those who wait still get their answer; who comes from now on doesn't join them.
        state.under_way.clear();
        state.forgotten += 1;
    }
}

impl<V: TokenVerifier> Figures for CachedVerifier<V> {
    fn read(&self, to: &mut Reading) {
        let counters = &self.inner.counters;
        let outcomes = [
            ("fresh", &counters.fresh),
            ("asked", &counters.asked),
            ("aged", &counters.aged),
            ("refused", &counters.refused),
            ("unavailable", &counters.unavailable),
        ];
        let help = "Token checks by outcome: accepted from the cache (fresh), by the auth service (asked), from the cache while \
                    that was away (aged); refused; unavailable.";
        let outcomes = outcomes.map(|(outcome, count)| (outcome, count.load(Relaxed)));
        to.counters("carillon.token.checks", help, "outcome", outcomes);
        let help = "Tokens that the auth service was asked about.";
        to.counter("carillon.auth.requests", help, counters.requests.load(Relaxed));
        let cached = self.inner.state.lock().known.len() as f64;
        to.gauge("carillon.tokens.cached", "Verified tokens in the cache.", Unit::Count, cached);
    }
}

/// A question under way; it no longer is when this is dropped, be it by a panic of the verifier.
struct Question<V> {
    inner: Arc<Inner<V>>,
    key: TokenKey,
    forgotten: u64,
}

impl<V> Question<V> {
    fn remember(&self, verified: &Verified, asked_ms: u64) {
        let mut state = self.inner.state.lock();
        match verified {
            Ok(_) if state.forgotten != self.forgotten => {}
            Ok(claims) => state.known.remember(self.key, claims.clone(), asked_ms),
            // What was good before and is not any more must not open a door when the auth service goes away later.
            Err(VerifyError::Refused(_)) => state.known.forget(&self.key),
            Err(VerifyError::Unavailable(_)) => {}
        }
    }
}

impl<V> Drop for Question<V> {
    fn drop(&mut self) {
        let mut state = self.inner.state.lock();
        if state.forgotten == self.forgotten {
            state.under_way.remove(&self.key);
        }
    }
}

impl<V: TokenVerifier> TokenVerifier for CachedVerifier<V> {
    fn verify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Claims, VerifyError>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
        Box::pin(self.verify_at(token, u64::try_from(now.as_millis()).expect("the clock is before the year 584 million")))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::Semaphore;

    use super::{
        super::known::{FRESH_MS, USABLE_MS},
        *,
    };

    const NOW_MS: u64 = 1_700_000_000_000;

    /// Answers as it is told, each time it is let.
    struct Fake {
        answer: Mutex<Result<u64, VerifyError>>,
        asked: AtomicU64,
        gate: Semaphore,
    }

    impl TokenVerifier for Fake {
        fn verify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Claims, VerifyError>> {
            Box::pin(async move {
                self.asked.fetch_add(1, Relaxed);
                self.gate.acquire().await.unwrap().forget();
                let exp_ms = self.answer.lock().clone()?;
                assert_ne!(token, "poison", "as the test wants it");
                Ok(serde_json::from_str(&format!(r#"{{"sub":"{token}","exp":{}}}"#, exp_ms / 1000)).unwrap())
            })
        }
    }

    struct World {
        fake: Arc<Fake>,
        cached: Arc<CachedVerifier<Arc<Fake>>>,
    }

    impl World {
        /// Tokens that hold for an hour, answers at once.
        fn new() -> Self {
            let answer = Mutex::new(Ok(NOW_MS + 3_600_000));
            let fake = Arc::new(Fake { answer, asked: AtomicU64::new(0), gate: Semaphore::new(1000) });
            Self { cached: Arc::new(CachedVerifier::new(fake.clone())), fake }
        }

        fn answers(&self, answer: Result<u64, VerifyError>) {
            *self.fake.answer.lock() = answer;
        }

        async fn opens(&self, at_ms: u64) -> Result<String, VerifyError> {
            self.cached.verify_at("ada", at_ms).await.map(|claims| claims.sub)
        }

        fn asked(&self) -> u64 {
            self.fake.asked.load(Relaxed)
        }
    }

    fn away() -> VerifyError {
        VerifyError::Unavailable("away".to_owned())
    }

    fn refused() -> VerifyError {
        VerifyError::Refused("expired".to_owned())
    }

    #[tokio::test]
    async fn fresh_token_asks_nobody() {
        let world = World::new();
        for at_ms in [NOW_MS, NOW_MS + 1, NOW_MS + FRESH_MS - 1] {
            assert_eq!(world.opens(at_ms).await.unwrap(), "ada");
        }
        assert_eq!(world.asked(), 1);
        world.opens(NOW_MS + FRESH_MS).await.unwrap();
        assert_eq!(world.asked(), 2);
        world.opens(NOW_MS + 2 * FRESH_MS - 1).await.unwrap();
        assert_eq!(world.asked(), 2, "the second verification counts from its own time");
    }

    #[tokio::test]
    async fn known_token_outlasts_an_outage() {
        let world = World::new();
        world.opens(NOW_MS).await.unwrap();
        world.answers(Err(away()));
        assert!(world.opens(NOW_MS + USABLE_MS - 1).await.is_ok());
        assert_eq!(world.opens(NOW_MS + USABLE_MS).await, Err(away()));
        assert_eq!(world.cached.verify_at("new", NOW_MS).await.unwrap_err(), away());
    }

    #[tokio::test]
    async fn outage_prolongs_no_exp() {
        let world = World::new();
        world.answers(Ok(NOW_MS + FRESH_MS + 5000));
        world.opens(NOW_MS).await.unwrap();
        world.answers(Err(away()));
        assert!(world.opens(NOW_MS + FRESH_MS + 4999).await.is_ok());
        assert_eq!(world.opens(NOW_MS + FRESH_MS + 5000).await, Err(away()));
    }

    #[tokio::test]
    async fn refusal_is_not_remembered() {
        let world = World::new();
        world.answers(Err(refused()));
        assert_eq!(world.opens(NOW_MS).await, Err(refused()));
        world.answers(Ok(NOW_MS + 3_600_000));
        assert!(world.opens(NOW_MS).await.is_ok());
    }

    #[tokio::test]
    async fn refusal_ends_what_was_known() {
        let world = World::new();
        world.opens(NOW_MS).await.unwrap();
        world.answers(Err(refused()));
        assert_eq!(world.opens(NOW_MS + FRESH_MS).await, Err(refused()));
        world.answers(Err(away()));
        assert_eq!(world.opens(NOW_MS + FRESH_MS + 1).await, Err(away()));
    }

    #[tokio::test]
    async fn forgotten_tokens_open_nothing_unasked() {
        let world = World::new();
        world.opens(NOW_MS).await.unwrap();
        world.cached.forget_all();
        world.answers(Err(away()));
        assert_eq!(world.opens(NOW_MS).await, Err(away()), "also while nobody can be asked");
        world.answers(Err(refused()));
        assert_eq!(world.opens(NOW_MS).await, Err(refused()));
    }

    #[tokio::test]
    async fn answer_from_before_is_not_remembered() {
        let world = World::new();
        world.fake.gate.forget_permits(1000);
        let (cached, asked_before) = (world.cached.clone(), world.asked());
        let early = tokio::spawn(async move { cached.verify_at("ada", NOW_MS).await });
        while world.asked() == asked_before {
            tokio::task::yield_now().await;
        }
        world.cached.forget_all();
        world.fake.gate.add_permits(1000);
        early.await.unwrap().unwrap();
        world.answers(Err(refused()));
        assert_eq!(world.opens(NOW_MS).await, Err(refused()));
        assert!(world.cached.inner.state.lock().under_way.is_empty());
    }

    #[tokio::test]
    async fn storm_of_one_token_asks_once() {
        let world = World::new();
        world.fake.gate.forget_permits(1000);
        let storm: Vec<_> = (0..500)
            .map(|_| {
                let cached = world.cached.clone();
                tokio::spawn(async move { cached.verify_at("ada", NOW_MS).await })
            })
            .collect();
        while world.asked() == 0 {
            tokio::task::yield_now().await;
        }
        // The one that asked goes away; the others must not notice.
        storm[0].abort();
        // Room for all of them, so that more than one question fails this test instead of hanging it.
        world.fake.gate.add_permits(1000);
        let mut opened = 0;
        for one in storm {
            opened += usize::from(one.await.is_ok_and(|verified| verified.is_ok()));
        }
        assert!(opened >= 499, "{opened}");
        assert_eq!(world.asked(), 1);
        assert!(world.cached.inner.state.lock().under_way.is_empty());
    }

    #[tokio::test]
    async fn panic_leaves_nothing_behind() {
        let world = World::new();
        let poisoned = world.cached.verify_at("poison", NOW_MS).await.unwrap_err();
        assert_eq!(poisoned, VerifyError::Unavailable("the verifier broke".to_owned()));
        assert!(world.cached.inner.state.lock().under_way.is_empty());
    }

    #[test]
    fn ending_shard_leaves_the_others_waiting() {
        let main = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let world = main.block_on(async { World::new() });
        world.fake.gate.forget_permits(1000);
        let shard = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        shard.block_on(async {
            let asks = world.cached.verify_at("ada", NOW_MS);
            assert!(tokio::time::timeout(Duration::from_millis(20), asks).await.is_err());
        });
        drop(shard);
        world.fake.gate.add_permits(1);
        main.block_on(world.opens(NOW_MS)).unwrap();
        assert_eq!(world.asked(), 1);
    }
}
