//! Takes tokens back: stores each revocation in its bucket, under a key of its own, and tells the gateways. Looks after what is
//! there, too: what covers no living token any more is taken out. The bucket itself is the fanout service's to make.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use carillon_platform::{
    auth::{REVOCATIONS, RevokeError, RevokedTokens, TokenRevoker},
    bus::Bus,
    kv::{Buckets, Kv, KvError},
    settings::Settings,
};
use carillon_proto::{
    ids::UserId,
    notice::{self, Issued, Notice, Revocation, notice::Notice as Told, revocation::Tokens},
};
use futures_util::future::BoxFuture;
use prost::Message as _;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep, timeout};

use crate::authority::now_ms;

/// How long the bucket may take: less than a gateway waits for the answer.
const PATIENCE: Duration = Duration::from_millis(1500);

/// How often the bucket is looked through.
const SWEEP_EVERY: Duration = Duration::from_secs(600);

/// How often the bucket is looked at, so that one that NATS has lost and another service has made again is counted anew.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What is asked for then. No entry has this key.
const NO_KEY: &str = "-";

/// How long a revocation stays after its last token has ended: longer than any two clocks of a deployment differ.
const KEPT_AFTER_MS: u64 = 3_600_000;

/// How far ahead `issuedBefore` may be: clocks and time zones differ. Later than that, it is a slip of units, and would keep
/// the user out for good.
const FURTHEST_AHEAD_MS: u64 = 24 * 3_600_000;

/// Revocations that are kept. Every gateway holds all of them, some 150 bytes each. Without `jwt.max_ttl_s` none ever ends,
/// so that whoever revokes a lot has to set it.
const MOST: usize = 500_000;

/// Writes revocations.
pub struct Revoker {
    buckets: Arc<dyn Buckets>,
    /// As long as it does what it is asked.
    kv: Mutex<Option<Arc<dyn Kv>>>,
    bus: Arc<dyn Bus>,
    /// How long a token that is alive now may still live, leeway on both sides included; none: nobody knows.
    longest_ms: Option<u64>,
    token_bytes: usize,
    kept: AtomicUsize,
}

impl Revoker {
    /// By `jwt.max_ttl_s`, `jwt.leeway_s` and `limits.token_bytes`. Touches nothing yet.
    pub fn new(settings: &Settings, buckets: Arc<dyn Buckets>, bus: Arc<dyn Bus>) -> Self {
        let longest_s = settings.jwt.max_ttl_s.map(|longest_s| longest_s + 2 * settings.jwt.leeway_s);
        Self {
            buckets,
            kv: Mutex::default(),
            bus,
            longest_ms: longest_s.map(|longest_s| longest_s * 1000),
            token_bytes: settings.limits.token_bytes,
            kept: AtomicUsize::new(0),
        }
    }

    /// [`TokenRevoker::revoke`] at a time, in Unix milliseconds.
    pub async fn revoke_at(&self, tokens: RevokedTokens, now_ms: u64) -> Result<(), RevokeError> {
        let (key, revocation) = self.revocation(tokens, now_ms)?;
        if self.kept.load(Relaxed) >= MOST {
            let why = format!("{MOST} revocations are kept already: set jwt.max_ttl_s, so that they end");
            return Err(RevokeError::Unavailable(why));
        }
        let stored = async {
            let kv = self.kv().await?;
            kv.put(&key, revocation.encode_to_vec().into()).await
        };
        let stored = timeout(PATIENCE, stored).await;
        stored.unwrap_or_else(|_| Err(KvError::Unavailable("no answer in time".to_owned()))).map_err(|error| {
            self.forget_kv();
            RevokeError::Unavailable(error.to_string())
        })?;
        self.kept.fetch_add(1, Relaxed);
        let notice = Notice { version: notice::VERSION, notice: Some(Told::Revoked(revocation)) };
        self.bus.publish(notice::SUBJECT, notice.encode_to_vec().into());
        Ok(())
    }

    /// Its key and its value. One key is never written with two meanings, so that nothing here has to compare and swap.
    fn revocation(&self, tokens: RevokedTokens, now_ms: u64) -> Result<(String, Revocation), RevokeError> {
        let invalid = |why: String| Err(RevokeError::Invalid(why));
        let until_ms = |since_ms: u64| self.longest_ms.map_or(0, |longest_ms| since_ms.saturating_add(longest_ms));
        let (key, tokens, until_ms) = match tokens {
            RevokedTokens::Jti(jti) if jti.is_empty() || jti.len() > self.token_bytes => {
                return invalid(format!("jti has not 1 to {} bytes", self.token_bytes));
            }
            RevokedTokens::Jti(jti) => (format!("jti.{}", hex(&jti)), Tokens::Jti(jti), until_ms(now_ms)),
            RevokedTokens::Issued { sub, before_ms } => {
                if let Err(error) = UserId::parse(&sub) {
                    return invalid(format!("sub {error}"));
                }
                let before_ms = before_ms.unwrap_or(now_ms);
                if before_ms > now_ms.saturating_add(FURTHEST_AHEAD_MS) {
                    return invalid("issuedBefore is more than a day ahead".to_owned());
                }
                let key = format!("sub.{}.{before_ms}", hex(&sub));
                (key, Tokens::Issued(Issued { sub, before_ms }), until_ms(before_ms.max(now_ms)))
            }
        };
        Ok((key, Revocation { version: notice::VERSION, tokens: Some(tokens), until_ms }))
    }

    /// The bucket, once it is there.
    async fn kv(&self) -> Result<Arc<dyn Kv>, KvError> {
        if let Some(kv) = self.opened().clone() {
            return Ok(kv);
        }
        let kv = self.buckets.find(REVOCATIONS).await?;
        *self.opened() = Some(kv.clone());
        Ok(kv)
    }

    fn opened(&self) -> MutexGuard<'_, Option<Arc<dyn Kv>>> {
        self.kv.lock().expect("nobody panics while it is held")
    }

    fn forget_kv(&self) {
        *self.opened() = None;
    }

    /// Takes out, now and then, what covers no living token any more. Never ends.
    pub async fn sweep(self: Arc<Self>) {
        loop {
            match self.sweep_at(now_ms()).await {
                Ok(()) => self.while_there(SWEEP_EVERY).await,
                Err(error) => tracing::debug!(%error, "the revocations can't be looked through now"),
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Returns after so long, or when the bucket can't be read any more.
    async fn while_there(&self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            sleep(LOOK_EVERY).await;
            let looked = async { self.kv().await?.get(NO_KEY).await };
            if looked.await.is_err() {
                return self.forget_kv();
            }
        }
    }

    /// The same, once.
    ///
    /// # Errors
    /// If the bucket can't be read or written.
    pub async fn sweep_at(&self, now_ms: u64) -> Result<(), KvError> {
        let kv = self.kv().await?;
        let listed = kv.list().await.inspect_err(|_| self.forget_kv())?;
        let all = listed.len();
        let known: Vec<(String, Revocation)> =
            listed.into_iter().filter_map(|(key, entry)| Some((key, Revocation::decode(entry.value).ok()?))).collect();
        // The latest of a user covers all that earlier ones cover, and is kept for longer.
        let mut latest: HashMap<&str, u64> = HashMap::new();
        for (_, revocation) in &known {
            if let Some(Tokens::Issued(Issued { sub, before_ms })) = &revocation.tokens {
                let latest = latest.entry(sub).or_default();
                *latest = (*latest).max(*before_ms);
            }
        }
        let mut gone = 0;
        for (key, revocation) in &known {
            let is_over = revocation.until_ms != 0 && revocation.until_ms.saturating_add(KEPT_AFTER_MS) <= now_ms;
            let is_covered = match &revocation.tokens {
                Some(Tokens::Issued(Issued { sub, before_ms })) => latest[sub.as_str()] > *before_ms,
                _ => false,
            };
            if revocation.version == notice::VERSION && (is_over || is_covered) {
                kv.delete(key).await?;
                gone += 1;
            }
        }
        self.kept.store(all - gone, Relaxed);
        Ok(())
    }
}

/// Ids may have any bytes and any length; keys may not.
fn hex(id: &str) -> String {
    Sha256::digest(id.as_bytes()).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("text takes everything");
        text
    })
}

impl TokenRevoker for Revoker {
    fn revoke(&self, tokens: RevokedTokens) -> BoxFuture<'_, Result<(), RevokeError>> {
        Box::pin(self.revoke_at(tokens, now_ms()))
    }
}

#[cfg(test)]
mod tests {
    use carillon_platform::{bus::InProcessBus, kv::EmbeddedBuckets, log::EmbeddedLog, settings::Program};

    use super::*;

    const NOW_MS: u64 = 1_700_000_000_000;

    struct World {
        _folder: tempfile::TempDir,
        revoker: Revoker,
    }

    impl World {
        fn new(max_ttl_s: Option<u64>) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let buckets = Arc::new(EmbeddedBuckets::of(Arc::new(EmbeddedLog::open(folder.path()).unwrap())));
            let mut settings = Settings::defaults(Program::Auth);
            settings.jwt.max_ttl_s = max_ttl_s;
            let revoker = Revoker::new(&settings, buckets, Arc::new(InProcessBus::new()));
            Self { _folder: folder, revoker }
        }

        async fn stored(&self) -> Vec<Revocation> {
            let mut listed = self.revoker.kv().await.unwrap().list().await.unwrap();
            listed.sort_by_key(|(_, entry)| entry.revision);
            listed.into_iter().map(|(_, entry)| Revocation::decode(entry.value).unwrap()).collect()
        }

        async fn revoke(&self, tokens: RevokedTokens) {
            self.revoker.revoke_at(tokens, NOW_MS).await.unwrap();
        }
    }

    fn jti(jti: &str) -> RevokedTokens {
        RevokedTokens::Jti(jti.to_owned())
    }

    fn issued(before_ms: Option<u64>) -> RevokedTokens {
        RevokedTokens::Issued { sub: "ada".to_owned(), before_ms }
    }

    #[tokio::test]
    async fn revocation_lasts_as_long_as_its_tokens() {
        let world = World::new(Some(60));
        for tokens in [jti("a"), issued(None), issued(Some(NOW_MS - 5)), issued(Some(NOW_MS + 5))] {
            world.revoke(tokens).await;
        }
        let untils: Vec<u64> = world.stored().await.iter().map(|stored| stored.until_ms - NOW_MS).collect();
        assert_eq!(untils, [70_000, 70_000, 70_000, 70_005]);
        world.revoker.sweep_at(NOW_MS + 70_004 + KEPT_AFTER_MS).await.unwrap();
        assert_eq!(world.stored().await.len(), 1);
        let forever = World::new(None);
        forever.revoke(jti("a")).await;
        forever.revoker.sweep_at(u64::MAX).await.unwrap();
        assert_eq!(forever.stored().await[0].until_ms, 0);
    }

    #[tokio::test]
    async fn latest_of_a_user_is_enough() {
        let world = World::new(None);
        for before_ms in [5, 9, 7] {
            world.revoke(issued(Some(before_ms))).await;
        }
        world.revoker.sweep_at(NOW_MS).await.unwrap();
        let kept = world.stored().await;
        assert!(matches!(&kept[..], [Revocation { tokens: Some(Tokens::Issued(Issued { before_ms: 9, .. })), .. }]), "{kept:?}");
    }

    #[tokio::test]
    async fn senseless_tokens_are_refused() {
        let world = World::new(None);
        let none = RevokedTokens::Issued { sub: " ".to_owned(), before_ms: None };
        let [day_ahead, later, never] = [NOW_MS + FURTHEST_AHEAD_MS, NOW_MS + FURTHEST_AHEAD_MS + 1, u64::MAX].map(Some);
        for tokens in [jti(""), jti(&"x".repeat(8193)), none, issued(later), issued(never)] {
            assert!(matches!(world.revoker.revoke_at(tokens, NOW_MS).await, Err(RevokeError::Invalid(_))));
        }
        world.revoke(issued(day_ahead)).await;
    }
}
