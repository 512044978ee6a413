//! The auth service, asked over gRPC. The connection is made when it is first needed, watched, and made anew when it
//! breaks, so that it doesn't matter which of the two processes starts first. Knows nothing of tokens and remembers none.

use std::{
    error::Error as _,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

use carillon_proto::{
    auth::{
        self, PublicKeysRequest, RevokeRequest, VerifyRequest, auth_service_client::AuthServiceClient, revoke_request,
        verify_response,
    },
    claims::Claims,
};
use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::{
    Code, Request, Response, Status,
    metadata::AsciiMetadataValue,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::{
    IssueError, IssueRequest, Issued, RevokeError, RevokedTokens, TokenIssuer, TokenRevoker, TokenVerifier, VerifyError,
};
use crate::{
    pem::{self, BadPem},
    settings::{self, Url},
    telemetry::{self, Figures, Reading, SharedHistogram, SpanKind, Unit},
};

/// How long one question may take, its wait for a place, a new connection and a second attempt included. Well below
/// `limits.handshake_ms`, so that a client whose token can't be checked hears it in time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a new connection may take: half of the above, so that a second attempt has a chance.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection that is silent for this long is asked whether it still is one, and given up when it does not say so. A
/// machine that vanishes without a word is noticed after the sum of both.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Questions under way. A question takes the auth service some 50 to 100 µs of one core and the network a millisecond,
/// so a few dozen keep it busy.
const PLACES: usize = 128;

/// Questions that wait for a place. At 10,000 answers a second, the last one waits for 0.2 s; further ones are told
/// `unavailable` at once and come back later, rather than all of them when the time is over.
const QUEUE: usize = 2048;

/// The longest answer: the claims of the longest token, with the configured grants.
const ANSWER_BYTES: usize = 2 << 20;

/// How often an auth service that is away is looked for by [`GrpcVerifier::wait_until_serving`].
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The settings `auth.*` can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BadAuthUrl {
    /// The address.
    #[error("auth.url {url}: {problem}")]
    Url {
        /// As it was set.
        url: Url,
        /// What is wrong with it.
        problem: String,
    },
    /// A file of TLS.
    #[error(transparent)]
    Pem(#[from] BadPem),
}

/// Verifies and issues tokens by asking the auth service.
pub struct GrpcVerifier {
    client: AuthServiceClient<Channel>,
    url: Url,
    queue: Semaphore,
    places: Semaphore,
    is_away: AtomicBool,
    took: SharedHistogram,
}

impl GrpcVerifier {
    /// Connects to nothing yet. Call it within the runtime that outlives all its users.
    ///
    /// # Errors
    /// If the address is none that gRPC can use.
    pub fn new(url: &Url) -> Result<Self, BadAuthUrl> {
        Self::from_settings(&settings::Auth { url: url.clone(), ..settings::Auth::default() })
    }

    /// The same, with the certificates of the settings.
    ///
    /// # Errors
    /// If the address is none that gRPC can use, or a file can't be read.
    pub fn from_settings(auth: &settings::Auth) -> Result<Self, BadAuthUrl> {
        let url = &auth.url;
        let channel = channel(url, tls(auth)?);
        let channel = channel.map_err(|error| BadAuthUrl::Url { url: url.clone(), problem: with_causes(&error) })?;
        Ok(Self {
            client: AuthServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES),
            url: url.clone(),
            queue: Semaphore::new(PLACES + QUEUE),
            places: Semaphore::new(PLACES),
            is_away: AtomicBool::new(false),
            took: SharedHistogram::default(),
        })
    }

    /// Resolves when the auth service has answered once. Nobody has to wait for it: it is there so that the log of a
    /// process that was started first says what is missing.
    pub async fn wait_until_serving(&self) {
        // The empty token is refused by every auth service, and costs it nothing.
        while let Err(VerifyError::Unavailable(_)) = self.verify("").await {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Asks once, and once more where the first attempt did not get through: a connection that the other side has closed
    /// is often noticed by the next question only. Said twice, no question comes to more than said once.
    async fn ask<Q: Clone, A>(
        &self,
        question: Q,
        call: impl AsyncFn(AuthServiceClient<Channel>, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, Status> {
        let mut span = telemetry::part("ask auth", SpanKind::Client);
        let traceparent = span.as_ref().and_then(|span| span.context().to_string().parse::<AsciiMetadataValue>().ok());
        let answer = async {
            let _place = self.place().await?;
            let attempt = || {
                let mut request = Request::new(question.clone());
                request.set_timeout(ANSWER_TIMEOUT);
                if let Some(traceparent) = &traceparent {
                    request.metadata_mut().insert("traceparent", traceparent.clone());
                }
                call(self.client.clone(), request)
            };
            match attempt().await {
                Err(status) if got_lost(&status) => attempt().await,
                answer => answer,
            }
        };
        let asked = Instant::now();
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, answer).await;
        self.took.add(asked.elapsed());
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("no answer within {ANSWER_TIMEOUT:?}"))));
        self.tell_changes(answer.as_ref().err());
        if let (Some(span), Err(status)) = (&mut span, &answer) {
            span.fail(told(status));
        }
        answer.map(Response::into_inner)
    }

    async fn place(&self) -> Result<(SemaphorePermit<'_>, SemaphorePermit<'_>), Status> {
        let queued = self.queue.try_acquire().map_err(|_| Status::resource_exhausted("too many tokens wait to be checked"))?;
        let place = self.places.acquire().await.expect("the semaphore is never closed");
        Ok((queued, place))
    }

    /// One line when it goes and one when it is back, not one for each client that notices.
    fn tell_changes(&self, error: Option<&Status>) {
        let missing = error.filter(|status| is_missing(status));
        let is_away = missing.is_some();
        if self.is_away.swap(is_away, Relaxed) == is_away {
            return;
        }
        match missing {
            Some(status) => tracing::warn!(
                url = %self.url,
                error = told(status),
                "waiting for the auth service; new tokens are told `unavailable` until it answers"
            ),
            None => tracing::info!(url = %self.url, "the auth service answers"),
        }
    }
}

impl Figures for GrpcVerifier {
    fn read(&self, to: &mut Reading) {
        let is_up = !self.is_away.load(Relaxed);
        let help = "Whether the auth service answered when it was last asked.";
        to.gauge("carillon.auth.up", help, Unit::Count, f64::from(u8::from(is_up)));
        let help = "Time from a question to the auth service's answer, its wait for a place included.";
        to.durations("carillon.auth.request.duration", help, self.took.read());
    }
}

fn tls(auth: &settings::Auth) -> Result<ClientTlsConfig, BadPem> {
    let mut tls = ClientTlsConfig::new().with_native_roots();
    if let Some(ca) = &auth.ca {
        tls = tls.ca_certificate(Certificate::from_pem(pem::read("auth.ca", ca)?));
    }
    if let Some((cert, key)) = pem::read_identity(["auth.cert", "auth.key"], auth.cert.as_deref(), auth.key.as_deref())? {
        tls = tls.identity(Identity::from_pem(cert, key));
    }
    Ok(tls)
}

fn channel(url: &Url, tls: ClientTlsConfig) -> Result<Channel, tonic::transport::Error> {
    let mut endpoint = Endpoint::from_shared(url.as_str().to_owned())?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        // Otherwise the first client after a quiet night finds out.
        .keep_alive_while_idle(true);
    if url.as_str().starts_with("https://") {
        endpoint = endpoint.tls_config(tls)?;
    }
    Ok(endpoint.connect_lazy())
}

/// Whether the question or its answer did not make it. What the auth service itself answers has no source.
fn got_lost(status: &Status) -> bool {
    status.code() == Code::Unavailable || status.source().is_some()
}

/// Whether nobody was there to answer, as opposed to an answer that says no.
fn is_missing(status: &Status) -> bool {
    use Code::{Aborted, FailedPrecondition, InvalidArgument, OutOfRange, ResourceExhausted};
    !matches!(status.code(), Aborted | InvalidArgument | OutOfRange | FailedPrecondition | ResourceExhausted)
}

/// The causes are where a transport error says what happened.
fn told(status: &Status) -> String {
    match status.source() {
        Some(source) => with_causes(source),
        None => status.message().to_owned(),
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Some layers only repeat the one below.
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

impl TokenVerifier for GrpcVerifier {
    fn verify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Claims, VerifyError>> {
        Box::pin(async move {
            let question = VerifyRequest { token: token.to_owned() };
            let answer = self.ask(question, async |mut client, request| client.verify(request).await).await;
            let leeway_ms = answer.as_ref().ok().and_then(|answer| answer.leeway_s).map(|leeway_s| leeway_s.saturating_mul(1000));
            match answer.map(|answer| answer.result) {
                Ok(Some(verify_response::Result::Claims(claims))) => serde_json::from_str(&claims)
                    .map(|claims| Claims { leeway_ms, ..claims })
                    .map_err(|_| VerifyError::Unavailable("the auth service's claims can't be read".to_owned())),
                Ok(Some(verify_response::Result::Refused(why))) => Err(VerifyError::Refused(why)),
                // A newer auth service may know a third outcome; it is none that opens a door here.
                Ok(None) => Err(VerifyError::Unavailable("the auth service's answer is empty".to_owned())),
                // This gateway takes longer tokens than the auth service does: asking again will not shorten it.
                Err(status) if status.code() == Code::OutOfRange => Err(VerifyError::Refused(told(&status))),
                Err(status) => Err(VerifyError::Unavailable(told(&status))),
            }
        })
    }
}

impl TokenRevoker for GrpcVerifier {
    fn revoke(&self, tokens: RevokedTokens) -> BoxFuture<'_, Result<(), RevokeError>> {
        Box::pin(async move {
            let question = match tokens {
                RevokedTokens::Jti(jti) => {
                    RevokeRequest { tokens: Some(revoke_request::Tokens::Jti(jti)), issued_before_ms: None }
                }
                RevokedTokens::Issued { sub, before_ms } => {
                    RevokeRequest { tokens: Some(revoke_request::Tokens::Sub(sub)), issued_before_ms: before_ms }
                }
            };
            let answer = self.ask(question, async |mut client, request| client.revoke(request).await).await;
            answer.map(drop).map_err(|status| match status.code() {
                Code::InvalidArgument | Code::OutOfRange => RevokeError::Invalid(told(&status)),
                _ => RevokeError::Unavailable(told(&status)),
            })
        })
    }
}

impl TokenIssuer for GrpcVerifier {
    fn issue<'a>(&'a self, request: IssueRequest) -> BoxFuture<'a, Result<Issued, IssueError>> {
        Box::pin(async move {
            let json = |value: Option<serde_json::Value>| value.map(|value| value.to_string()).unwrap_or_default();
            let IssueRequest { sub, ttl_s, grants, info } = request;
            let question = auth::IssueRequest { sub, ttl_s, grants: json(grants), info: json(info) };
            match self.ask(question, async |mut client, request| client.issue(request).await).await {
                Ok(auth::IssueResponse { token, expires_at_ms }) => Ok(Issued { token, expires_at_ms }),
                Err(status) if status.code() == Code::InvalidArgument => Err(IssueError::Invalid(told(&status))),
                Err(status) if status.code() == Code::OutOfRange => Err(IssueError::Invalid("too long".to_owned())),
                Err(status) => Err(IssueError::Unavailable(told(&status))),
            }
        })
    }

    fn public_keys(&self) -> BoxFuture<'_, Result<String, IssueError>> {
        Box::pin(async move {
            let answer = self.ask(PublicKeysRequest {}, async |mut client, request| client.public_keys(request).await).await;
            answer.map(|answer| answer.jwks).map_err(|status| IssueError::Unavailable(told(&status)))
        })
    }
}
