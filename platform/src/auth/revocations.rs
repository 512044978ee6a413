//! What a gateway knows of the tokens that were taken back. The bucket is the truth; a notice on the bus makes it fast; the
//! bucket is read again every few seconds and whenever the bus comes back, so that a lost notice is a late one, and one that
//! was made up is forgotten. A token is refused here however it was found good before.
//!
//! ```text
//!   writer ─▶ bucket ──── read, read again ──▶ set ─▶ check (every token, every connection after it is registered)
//!       ╰───▶ notice ────────────────────────▶ set ─▶ news ─▶ shards close what is covered
//! ```

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use carillon_proto::{
    claims::Claims,
    notice::{self, Notice, Revocation, notice::Notice as Told},
};
use futures_util::future::BoxFuture;
use parking_lot::RwLock;
use prost::Message as _;
use tokio::{
    sync::{broadcast, watch},
    time::{Instant, sleep},
};

use super::{Revoked, TokenMark, TokenVerifier, VerifyError, revoked::Known};
use crate::{
    bus::{Bus, Subscription},
    kv::{Bucket, Buckets, Kv, KvError, Listed, Revision},
    telemetry::{Figures, Reading, Unit},
};

/// Where revocations are kept.
pub const REVOCATIONS: Bucket = Bucket::new("revocations");

/// So many reads of what is new, then one of all: a bucket that was lost and made anew counts its writes from the start, and
/// what the bucket does not have was made up by whoever told it.
const READS_BETWEEN_WHOLE: u32 = 12;

/// The pause after a failure.
const PAUSE: Duration = Duration::from_millis(500);

/// News that may wait for one shard. One that has no room for more looks at all its connections instead.
const NEWS: usize = 256;

/// What shards have to act on.
#[derive(Debug, Clone)]
pub enum News {
    /// Tokens were taken back: look at every connection again.
    Revoked,
    /// Close all connections of this user.
    Disconnect(Arc<str>),
}

/// The tokens that were taken back, as far as this process knows.
pub struct Revocations {
    known: RwLock<Known>,
    /// Whether the bucket was read at all: until then nobody knows who may come in.
    is_known: watch::Sender<bool>,
    news: broadcast::Sender<News>,
    key_withdrawals: watch::Sender<u64>,
    start: Instant,
    read_ms: AtomicU64,
    is_cut_off: AtomicBool,
}

impl Default for Revocations {
    fn default() -> Self {
        Self {
            known: RwLock::default(),
            is_known: watch::Sender::new(false),
            news: broadcast::Sender::new(NEWS),
            key_withdrawals: watch::Sender::default(),
            start: Instant::now(),
            read_ms: AtomicU64::new(0),
            is_cut_off: AtomicBool::new(false),
        }
    }
}

impl Revocations {
    /// Whether a verified token was taken back since.
    ///
    /// # Errors
    /// [`VerifyError::Refused`] if it was, [`VerifyError::Unavailable`] while nobody knows.
    pub fn check(&self, claims: &Claims) -> Result<(), VerifyError> {
        if !*self.is_known.borrow() {
            return Err(VerifyError::Unavailable("the revocations were not read yet".to_owned()));
        }
        match self.covers(&claims.sub, TokenMark::of(claims)) {
            true => Err(VerifyError::Refused("revoked".to_owned())),
            false => Ok(()),
        }
    }

    /// Whether a token of this user was taken back.
    pub fn covers(&self, sub: &str, mark: TokenMark) -> bool {
        self.known.read().covers(sub, mark)
    }

    /// Whether what others know can't be read now.
    pub fn is_cut_off(&self) -> bool {
        self.is_cut_off.load(Relaxed)
    }

    /// What happens from here on.
    pub fn news(&self) -> broadcast::Receiver<News> {
        self.news.subscribe()
    }

    /// Changes whenever the auth service tells that a key is none any more: what a cache knows may be signed with it.
    pub fn key_withdrawals(&self) -> watch::Receiver<u64> {
        self.key_withdrawals.subscribe()
    }

    /// Waits until the bucket was read once.
    pub async fn wait_until_known(&self) {
        let _ = self.is_known.subscribe().wait_for(|is_known| *is_known).await;
    }

    /// Keeps the set; never ends. The bucket is read this often for what no notice has told. One that can't be read, or that the
    /// auth service has not made yet, is tried again, and what is known holds meanwhile.
    pub async fn keep(self: Arc<Self>, bus: Arc<dyn Bus>, buckets: Arc<dyn Buckets>, read_again: Duration) {
        let listening = self.clone();
        tokio::join!(listening.listen(&*bus), self.read(&*buckets, read_again));
    }

    async fn listen(&self, bus: &dyn Bus) {
        loop {
            match bus.subscribe(notice::SUBJECT).await {
                Ok(subscription) => self.take_notices(subscription).await,
                Err(error) => tracing::warn!(%error, "can't listen to notices yet"),
            }
            sleep(PAUSE).await;
        }
    }

    async fn take_notices(&self, mut subscription: Subscription) {
        while let Some(bytes) = subscription.next().await {
            match Notice::decode(bytes) {
                Ok(Notice { version: notice::VERSION, notice: Some(told) }) => self.on_notice(told),
                Ok(_) => tracing::debug!("a notice of another version"),
                Err(error) => tracing::debug!(%error, "a notice that is none"),
            }
        }
    }

    fn on_notice(&self, told: Told) {
        match told {
            Told::Revoked(revocation) => self.on_revoked(&revocation),
            // Nobody is there to hear it while no shard runs.
            Told::Disconnect(user) => drop(self.news.send(News::Disconnect(user.into()))),
            Told::KeysWithdrawn(_) => self.key_withdrawals.send_modify(|count| *count += 1),
        }
    }

    fn on_revoked(&self, revocation: &Revocation) {
        let is_news = self.known.write().on_notice(revocation);
        self.tell_if(is_news);
    }

    fn tell_if(&self, is_news: bool) {
        if is_news {
            let _ = self.news.send(News::Revoked);
        }
    }

    async fn read(&self, buckets: &dyn Buckets, read_again: Duration) {
        let kv = loop {
            match buckets.find(REVOCATIONS).await {
                Ok(kv) => break kv,
                Err(error) => self.on_cut_off(&error),
            }
            sleep(PAUSE).await;
        };
        let (mut seen, mut reads) = (0, 0);
        loop {
            let after = if reads % READS_BETWEEN_WHOLE == 0 { 0 } else { seen };
            match self.read_after(&*kv, after).await {
                Ok(upto) => {
                    (seen, reads) = (upto, reads + 1);
                    sleep(read_again).await;
                }
                Err(error) => {
                    self.on_cut_off(&error);
                    reads = 0;
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// How far it was read.
    async fn read_after(&self, kv: &dyn Kv, after: Revision) -> Result<Revision, KvError> {
        let Listed { entries, upto } = kv.list_after(after).await?;
        let mut listed = Revoked::default();
        for revocation in entries.into_iter().filter_map(|(_, entry)| Revocation::decode(entry.value).ok()) {
            listed.add(&revocation);
        }
        let is_news = self.known.read().lacks(&listed);
        {
            let mut known = self.known.write();
            if after == 0 {
                known.on_whole(listed, upto)
            } else {
                known.on_read(listed, upto)
            }
            known.forget(now_ms());
        }
        self.tell_if(is_news);
        self.read_ms.store(self.start.elapsed().as_millis() as u64, Relaxed);
        if self.is_cut_off.swap(false, Relaxed) {
            tracing::info!("the revocations can be read again");
        }
        self.is_known.send_if_modified(|is_known| !std::mem::replace(is_known, true));
        Ok(upto)
    }

    /// One line when the bucket goes, not one for each try.
    fn on_cut_off(&self, error: &KvError) {
        if !self.is_cut_off.swap(true, Relaxed) {
            tracing::warn!(%error, "the revocations can't be read now; what is known holds");
        }
    }
}

impl Figures for Revocations {
    fn read(&self, to: &mut Reading) {
        let age_ms = self.start.elapsed().as_millis() as u64 - self.read_ms.load(Relaxed);
        let known = self.known.read().len() as f64;
        to.gauge("carillon.revocations", "Revocations that this process knows.", Unit::Count, known);
        let help = "Time since the revocations were last read.";
        to.gauge("carillon.revocations.age", help, Unit::Seconds, age_ms as f64 / 1e3);
    }
}

/// A [`TokenVerifier`] that refuses what was taken back, whatever another one or its cache says.
pub struct Unrevoked<V> {
    verifier: V,
    revocations: Arc<Revocations>,
}

impl<V: TokenVerifier> Unrevoked<V> {
    /// Asks that verifier first.
    pub fn new(verifier: V, revocations: Arc<Revocations>) -> Self {
        Self { verifier, revocations }
    }
}

impl<V: TokenVerifier> TokenVerifier for Unrevoked<V> {
    fn verify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Claims, VerifyError>> {
        Box::pin(async move {
            let claims = self.verifier.verify(token).await?;
            self.revocations.check(&claims)?;
            Ok(claims)
        })
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

#[cfg(test)]
mod tests {
    use carillon_proto::notice::revocation::Tokens;

    use super::*;
    use crate::{bus::InProcessBus, kv::EmbeddedBuckets, log::EmbeddedLog};

    const NEVER: Duration = Duration::from_secs(1_000_000);

    struct World {
        _folder: tempfile::TempDir,
        bus: Arc<InProcessBus>,
        buckets: Arc<EmbeddedBuckets>,
        kv: Arc<dyn Kv>,
    }

    impl World {
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let buckets = Arc::new(EmbeddedBuckets::of(Arc::new(EmbeddedLog::open(folder.path()).unwrap())));
            let kv = buckets.open(REVOCATIONS).await.unwrap();
            Self { _folder: folder, bus: Arc::new(InProcessBus::new()), buckets, kv }
        }

        /// Reads again after so long.
        fn start(&self, read_again: Duration) -> Arc<Revocations> {
            let revocations = Arc::new(Revocations::default());
            tokio::spawn(revocations.clone().keep(self.bus.clone(), self.buckets.clone(), read_again));
            revocations
        }
    }

    fn revocation(jti: &str) -> Revocation {
        Revocation { version: notice::VERSION, tokens: Some(Tokens::Jti(jti.to_owned())), until_ms: 0 }
    }

    fn claims(jti: &str) -> Claims {
        serde_json::from_str(&format!(r#"{{"sub":"ada","exp":9,"jti":"{jti}"}}"#)).unwrap()
    }

    #[tokio::test]
    async fn nobody_comes_in_before_the_first_read() {
        let revocations = Revocations::default();
        assert!(matches!(revocations.check(&claims("a")), Err(VerifyError::Unavailable(_))));
    }

    #[tokio::test]
    async fn stored_revocations_are_read_at_the_start() {
        let world = World::new().await;
        world.kv.put("a", revocation("a").encode_to_vec().into()).await.unwrap();
        world.kv.put("odd", "\u{0}garbage".into()).await.unwrap();
        let revocations = world.start(NEVER);
        revocations.wait_until_known().await;
        assert_eq!(revocations.check(&claims("a")), Err(VerifyError::Refused("revoked".to_owned())));
        assert_eq!(revocations.check(&claims("b")), Ok(()));
    }

    #[tokio::test]
    async fn notice_is_news_once() {
        let world = World::new().await;
        let revocations = world.start(NEVER);
        revocations.wait_until_known().await;
        let (mut news, mut withdrawals) = (revocations.news(), revocations.key_withdrawals());
        let told = |told| Notice { version: notice::VERSION, notice: Some(told) }.encode_to_vec();
        let disconnect = told(Told::Disconnect("ada".to_owned()));
        // Twice, and garbage between: the second is none.
        for bytes in [told(Told::Revoked(revocation("a"))), vec![255; 9], told(Told::Revoked(revocation("a"))), disconnect] {
            world.bus.publish(notice::SUBJECT, bytes.into());
        }
        assert!(matches!(news.recv().await, Ok(News::Revoked)));
        assert!(matches!(news.recv().await, Ok(News::Disconnect(user)) if *user == *"ada"));
        assert!(!withdrawals.has_changed().unwrap());
        world.bus.publish(notice::SUBJECT, told(Told::KeysWithdrawn(true)).into());
        withdrawals.changed().await.unwrap();
        assert!(revocations.check(&claims("a")).is_err());
    }

    #[tokio::test]
    async fn notice_that_the_bucket_does_not_confirm_is_forgotten() {
        let world = World::new().await;
        let revocations = world.start(Duration::from_millis(5));
        revocations.wait_until_known().await;
        let told = |jti| Notice { version: notice::VERSION, notice: Some(Told::Revoked(revocation(jti))) }.encode_to_vec();
        let mut news = revocations.news();
        world.kv.put("true", revocation("true").encode_to_vec().into()).await.unwrap();
        for jti in ["true", "forged"] {
            world.bus.publish(notice::SUBJECT, told(jti).into());
        }
        assert!(matches!(news.recv().await, Ok(News::Revoked)));
        let forgotten = async {
            while revocations.check(&claims("forged")).is_err() || revocations.known.read().len() > 1 {
                assert!(revocations.check(&claims("true")).is_err());
                sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), forgotten).await.expect("it is forgotten some time");
        for _ in 0..100 {
            assert!(revocations.check(&claims("true")).is_err());
            sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn lost_notice_is_a_late_one() {
        let world = World::new().await;
        let revocations = world.start(Duration::from_millis(50));
        revocations.wait_until_known().await;
        let mut news = revocations.news();
        world.kv.put("a", revocation("a").encode_to_vec().into()).await.unwrap();
        assert!(matches!(news.recv().await, Ok(News::Revoked)));
        assert!(revocations.check(&claims("a")).is_err());
    }
}
