//! The public keys as a gateway tells them: asked for now and then, whether or not anybody wants them, and kept while nobody
//! answers. Who wants them is anybody, so asking costs the auth service little.

use std::sync::Arc;

use tokio::{
    sync::Mutex,
    time::{Duration, Instant},
};

use super::{IssueError, TokenIssuer};

/// How long an answer is passed on without asking again.
const FRESH: Duration = Duration::from_secs(10);

/// How often the auth service is asked though nobody wants to know, so that there is an answer when it is away.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// How long after a failure it is not tried again. The question has a time limit of its own.
const PAUSE: Duration = Duration::from_secs(1);

/// The last answer, and whom to ask for the next.
pub struct KeptKeys {
    issuer: Arc<dyn TokenIssuer>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    jwks: Option<String>,
    ask_at: Option<Instant>,
}

impl KeptKeys {
    /// Has asked nobody yet.
    pub fn new(issuer: Arc<dyn TokenIssuer>) -> Self {
        Self { issuer, kept: Mutex::default() }
    }

    /// Asks from time to time; never ends.
    pub async fn keep(&self) {
        loop {
            let pause = if self.jwks().await.is_ok() { LOOK_EVERY } else { PAUSE };
            tokio::time::sleep(pause).await;
        }
    }

    /// The text of a JSON Web Key Set.
    ///
    /// # Errors
    /// If there never was an answer.
    pub async fn jwks(&self) -> Result<String, IssueError> {
        // One question at a time; whoever comes meanwhile has the same answer.
        let mut kept = self.kept.lock().await;
        let is_due = kept.ask_at.is_none_or(|at| Instant::now() >= at);
        let mut problem = IssueError::Unavailable("the public keys are not known yet".to_owned());
        if is_due {
            match self.issuer.public_keys().await {
                Ok(jwks) => *kept = Kept { jwks: Some(jwks), ask_at: Some(Instant::now() + FRESH) },
                Err(error) => {
                    kept.ask_at = Some(Instant::now() + PAUSE);
                    problem = error;
                }
            }
        }
        kept.jwks.clone().ok_or(problem)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use futures_util::future::BoxFuture;

    use super::{
        super::{IssueRequest, Issued},
        *,
    };

    /// Away for the first and the third question.
    #[derive(Default)]
    struct Fake(AtomicU64);

    impl TokenIssuer for Fake {
        fn issue<'a>(&'a self, _: IssueRequest) -> BoxFuture<'a, Result<Issued, IssueError>> {
            unreachable!("nobody asks for a token")
        }

        fn public_keys(&self) -> BoxFuture<'_, Result<String, IssueError>> {
            Box::pin(async {
                match self.0.fetch_add(1, Relaxed) {
                    0 | 2 => Err(IssueError::Unavailable("away".to_owned())),
                    asked => Ok(format!("set {asked}")),
                }
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_asked_for_before_anybody_wants_them() {
        let fake = Arc::new(Fake::default());
        let keys = Arc::new(KeptKeys::new(fake.clone()));
        let keeping = tokio::spawn({
            let keys = keys.clone();
            async move { keys.keep().await }
        });
        // Away at first; then away again.
        while fake.0.load(Relaxed) < 2 {
            tokio::time::sleep(PAUSE).await;
        }
        keeping.abort();
        tokio::time::advance(FRESH).await;
        assert_eq!(keys.jwks().await.unwrap(), "set 1");
        assert_eq!(fake.0.load(Relaxed), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn last_answer_is_kept() {
        let keys = KeptKeys::new(Arc::new(Fake::default()));
        assert!(keys.jwks().await.is_err());
        assert!(keys.jwks().await.is_err(), "the second question comes after the pause");
        for expected in ["set 1", "set 1", "set 3"] {
            tokio::time::advance(FRESH).await;
            assert_eq!(keys.jwks().await.unwrap(), expected);
            assert_eq!(keys.jwks().await.unwrap(), expected);
        }
    }
}
