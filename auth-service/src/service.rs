//! The authority behind gRPC: `carillon/auth/v1/auth.proto`, and the standard health service beside it. Only carries
//! questions in and answers out.

use std::{
    io,
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use carillon_platform::{
    auth::{self, IssueError, RevokeError, RevokedTokens, TokenIssuer, TokenRevoker, TokenVerifier, VerifyError},
    pem::{self, BadPem},
    settings,
    shutdown::Shutdown,
    telemetry::{Figures, Reading, Span, SpanKind, Tracer, within_some},
};
use carillon_proto::auth::{
    IssueRequest, IssueResponse, PublicKeysRequest, PublicKeysResponse, RevokeRequest, RevokeResponse, VerifyRequest,
    VerifyResponse, auth_service_server, revoke_request, verify_response::Result as Verified,
};
use tonic::{
    Request, Response, Status,
    transport::{Certificate, Identity, Server, ServerTlsConfig, server::TcpIncoming},
};

use crate::Authority;

/// How long one question may take. Each takes some 50 to 100 µs, so whoever waits for longer waits behind a storm, and a
/// gateway has given up by then.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Questions that one gateway may have under way: eight times what our own gateways ask at once.
const QUESTIONS_PER_CONNECTION: u32 = 1024;

/// Header lines of one question: gRPC's own and a trace context are some 300 bytes.
const HEADER_BYTES: u32 = 8 * 1024;

/// What a question may have beside a token of the longest kind: names, numbers and lengths of its fields.
const QUESTION_EXTRA_BYTES: usize = 4 * 1024;

/// A gateway that is silent for this long is asked whether it is there, and dropped when it does not say so.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a drain still answers while it already says that it ends, so that balancers send new gateways elsewhere.
const DRAIN_NOTICE: Duration = Duration::from_secs(1);

/// How long open connections then have to end. Gateways go at once; a watcher of the health service may never.
const DRAIN_GRACE: Duration = Duration::from_secs(2);

/// The authority as a service.
#[derive(Clone)]
pub struct AuthService {
    authority: Arc<Authority>,
    revoker: Option<Arc<dyn TokenRevoker>>,
    tls: Option<ServerTlsConfig>,
    counters: Arc<Counters>,
    tracer: Tracer,
}

/// What the service did; only ever counts up.
#[derive(Debug, Default)]
pub struct Counters {
    accepted: AtomicU64,
    refused: AtomicU64,
    issued: AtomicU64,
    not_issued: AtomicU64,
    revoked: AtomicU64,
    not_revoked: AtomicU64,
}

impl AuthService {
    /// Answers by this authority.
    pub fn new(authority: Arc<Authority>) -> Self {
        Self { authority, revoker: None, tls: None, counters: Arc::default(), tracer: Tracer::default() }
    }

    /// Goes on with the traces of those who ask.
    pub fn traced(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }

    fn span<Q>(&self, name: &'static str, request: &Request<Q>) -> Option<Span> {
        let parent = request.metadata().get("traceparent")?.to_str().ok()?;
        let mut span = self.tracer.child(name, SpanKind::Server, parent)?;
        span.set("rpc.system.name", "grpc");
        Some(span)
    }

    /// Takes tokens back by this one; without one, nobody does.
    pub fn revoking(self, revoker: Arc<dyn TokenRevoker>) -> Self {
        Self { revoker: Some(revoker), ..self }
    }

    /// Speaks TLS as `grpc.*` say, and plain text without them.
    ///
    /// # Errors
    /// If a file can't be used; the text names its setting.
    pub fn with_tls(self, grpc: &settings::Grpc) -> Result<Self, BadPem> {
        let identity = pem::read_identity(["grpc.cert", "grpc.key"], grpc.cert.as_deref(), grpc.key.as_deref())?;
        let Some((cert, key)) = identity else {
            return match grpc.client_ca {
                Some(_) => Err(BadPem::new("grpc.cert", "it is needed, because grpc.client_ca is set")),
                None => Ok(self),
            };
        };
        let mut tls = ServerTlsConfig::new().identity(Identity::from_pem(cert, key));
        if let Some(client_ca) = &grpc.client_ca {
            tls = tls.client_ca_root(Certificate::from_pem(pem::read("grpc.client_ca", client_ca)?));
        }
        Ok(Self { tls: Some(tls), ..self })
    }

    /// What it did so far, for `/metrics`.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// Serves `listener` until the drain is over.
    ///
    /// # Errors
    /// If the listener can't be used, or breaks.
    pub async fn run(mut self, listener: TcpListener, shutdown: Shutdown) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(listener)?).with_nodelay(Some(true));
        let (health, health_service) = tonic_health::server::health_reporter();
        // `grants` and `info` of a request to issue have to fit a token, too; twice its length leaves the decision about
        // the last byte to the authority, which can say it better.
        let question_bytes = 2 * self.authority.token_bytes() + QUESTION_EXTRA_BYTES;
        let mut builder = Server::builder();
        if let Some(tls) = self.tls.take() {
            builder = builder.tls_config(tls).map_err(io::Error::other)?;
        }
        let service = auth_service_server::AuthServiceServer::new(self).max_decoding_message_size(question_bytes);
        health.set_serving::<auth_service_server::AuthServiceServer<Self>>().await;

        let drain = shutdown.clone();
        let serving = builder
            .timeout(ANSWER_TIMEOUT)
            .max_concurrent_streams(QUESTIONS_PER_CONNECTION)
            .http2_max_header_list_size(HEADER_BYTES)
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .add_service(health_service)
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, async move {
                drain.draining().await;
                health.set_not_serving::<auth_service_server::AuthServiceServer<Self>>().await;
                // "" is the server as a whole (gRPC Health Checking Protocol).
                health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
                notice(&drain).await;
            });
        tokio::select! {
            served = serving => served.map_err(io::Error::other),
            () = overdue(&shutdown) => {
                tracing::info!("connections are left that did not end by themselves");
                Ok(())
            }
        }
    }
}

async fn notice(shutdown: &Shutdown) {
    tokio::select! {
        () = tokio::time::sleep(DRAIN_NOTICE) => {}
        () = shutdown.failed() => {}
    }
}

async fn overdue(shutdown: &Shutdown) {
    shutdown.draining().await;
    tokio::time::sleep(DRAIN_NOTICE + DRAIN_GRACE).await;
}

#[tonic::async_trait]
impl auth_service_server::AuthService for AuthService {
    async fn verify(&self, request: Request<VerifyRequest>) -> Result<Response<VerifyResponse>, Status> {
        let span = self.span("carillon.auth.v1.AuthService/Verify", &request);
        let verified = within_some(span.as_ref(), self.authority.verify(&request.get_ref().token)).await;
        let mut leeway_s = None;
        let result = match verified {
            Ok(claims) => {
                leeway_s = claims.leeway_ms.map(|ms| ms / 1000);
                self.counters.accepted.fetch_add(1, Relaxed);
                let claims = serde_json::to_string(&claims).map_err(|error| Status::internal(error.to_string()))?;
                Verified::Claims(claims)
            }
            Err(VerifyError::Refused(why)) => {
                self.counters.refused.fetch_add(1, Relaxed);
                tracing::debug!(why, "a token was refused");
                Verified::Refused(why)
            }
            Err(VerifyError::Unavailable(why)) => return Err(Status::unavailable(why)),
        };
        Ok(Response::new(VerifyResponse { result: Some(result), leeway_s }))
    }

    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<IssueResponse>, Status> {
        let _span = self.span("carillon.auth.v1.AuthService/Issue", &request);
        let IssueRequest { sub, ttl_s, grants, info } = request.into_inner();
        let request = auth::IssueRequest { sub, ttl_s, grants: json("grants", &grants)?, info: json("info", &info)? };
        let issued = self.authority.issue(request).await;
        let counter = if issued.is_ok() { &self.counters.issued } else { &self.counters.not_issued };
        counter.fetch_add(1, Relaxed);
        let issued = issued.map_err(|error| match error {
            IssueError::Invalid(why) => Status::invalid_argument(why),
            // Not `unavailable`: it does not help to ask again.
            IssueError::Unavailable(why) => Status::failed_precondition(why),
        })?;
        Ok(Response::new(IssueResponse { token: issued.token, expires_at_ms: issued.expires_at_ms }))
    }

    async fn revoke(&self, request: Request<RevokeRequest>) -> Result<Response<RevokeResponse>, Status> {
        let _span = self.span("carillon.auth.v1.AuthService/Revoke", &request);
        let RevokeRequest { tokens, issued_before_ms } = request.into_inner();
        let tokens = match tokens {
            Some(revoke_request::Tokens::Jti(jti)) => RevokedTokens::Jti(jti),
            Some(revoke_request::Tokens::Sub(sub)) => RevokedTokens::Issued { sub, before_ms: issued_before_ms },
            None => return Err(Status::invalid_argument("name a jti or a sub")),
        };
        let Some(revoker) = &self.revoker else { return Err(Status::aborted("there is nowhere to keep revocations")) };
        let revoked = revoker.revoke(tokens).await;
        let counter = if revoked.is_ok() { &self.counters.revoked } else { &self.counters.not_revoked };
        counter.fetch_add(1, Relaxed);
        match revoked {
            Ok(()) => Ok(Response::new(RevokeResponse {})),
            Err(RevokeError::Invalid(why)) => Err(Status::invalid_argument(why)),
            Err(RevokeError::Unavailable(why)) => {
                tracing::warn!(why, "tokens could not be revoked");
                // Not `unavailable`: this is an answer, and asking at once again would not change it.
                Err(Status::aborted(why))
            }
        }
    }

    async fn public_keys(&self, _: Request<PublicKeysRequest>) -> Result<Response<PublicKeysResponse>, Status> {
        Ok(Response::new(PublicKeysResponse { jwks: Authority::public_keys(&self.authority) }))
    }
}

/// "" is none.
fn json(name: &str, text: &str) -> Result<Option<serde_json::Value>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    serde_json::from_str(text).map(Some).map_err(|error| Status::invalid_argument(format!("{name}: expected JSON: {error}")))
}

impl Figures for Counters {
    fn read(&self, to: &mut Reading) {
        let pair = |names: [&'static str; 2], counts: [&AtomicU64; 2]| {
            names.into_iter().zip(counts.map(|count| count.load(Relaxed))).collect::<Vec<_>>()
        };
        let verified = pair(["accepted", "refused"], [&self.accepted, &self.refused]);
        to.counters("carillon.verifications", "Tokens checked, by outcome.", "outcome", verified);
        let issued = pair(["issued", "refused"], [&self.issued, &self.not_issued]);
        to.counters("carillon.issues", "Requests for a token, by outcome.", "outcome", issued);
        let revoked = pair(["revoked", "refused"], [&self.revoked, &self.not_revoked]);
        to.counters("carillon.revocation.requests", "Requests to take tokens back, by outcome.", "outcome", revoked);
    }
}
