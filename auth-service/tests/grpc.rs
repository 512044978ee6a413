//! The auth service and the gateway's side of it, over real sockets: what is answered, and what happens when nobody does.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_auth::{AuthService, Authority, Counters};
use carillon_platform::{
    auth::{CachedVerifier, GrpcVerifier, IssueError, IssueRequest, TokenIssuer, TokenVerifier, VerifyError},
    settings::{Program, Secret, Settings, Url},
    shutdown::Shutdown,
    telemetry::{Figures, Reading},
};
use carillon_proto::claims::Operation;
use serde_json::json;
use tokio::task::JoinHandle;
use tonic::transport::Endpoint;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

fn with_secret() -> Settings {
    let mut settings = Settings::defaults(Program::Auth);
    settings.jwt.secret = Secret::parse("a secret of the tests, long enough for HS256");
    settings
}

fn with_ed25519() -> Settings {
    let mut settings = Settings::defaults(Program::Auth);
    settings.jwt.private_key = Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys/ed25519.pem"));
    settings
}

struct Running {
    address: SocketAddr,
    shutdown: Shutdown,
    counters: Arc<Counters>,
    server: JoinHandle<()>,
}

impl Running {
    fn start(settings: &Settings) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").unwrap(), settings)
    }

    fn start_on(listener: TcpListener, settings: &Settings) -> Self {
        let auth = AuthService::new(Arc::new(Authority::from_settings(settings).unwrap()));
        let (address, shutdown, counters) = (listener.local_addr().unwrap(), Shutdown::new(), auth.counters());
        let drain = shutdown.clone();
        let server = tokio::spawn(async move { auth.run(listener, drain).await.unwrap() });
        Self { address, shutdown, counters, server }
    }

    fn verifier(&self) -> GrpcVerifier {
        verifier(self.address)
    }

    /// As `kill -9` would.
    async fn kill(self) -> SocketAddr {
        self.server.abort();
        let _ = self.server.await;
        self.address
    }
}

fn verifier(address: SocketAddr) -> GrpcVerifier {
    GrpcVerifier::new(&Url::parse(&format!("http://{address}"), &["http"]).unwrap()).unwrap()
}

fn request(sub: &str) -> IssueRequest {
    IssueRequest { sub: sub.to_owned(), ttl_s: 600, grants: None, info: None }
}

fn unavailable<T: std::fmt::Debug>(verified: Result<T, VerifyError>) -> String {
    match verified {
        Err(VerifyError::Unavailable(why)) => why,
        other => panic!("expected unavailable, found {other:?}"),
    }
}

/// A listener that takes connections and says nothing.
async fn hung() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut sockets = Vec::new();
        while let Ok((socket, _)) = listener.accept().await {
            sockets.push(socket);
        }
    });
    address
}

#[tokio::test]
async fn issued_tokens_are_verified() {
    for settings in [with_secret(), with_ed25519()] {
        let running = Running::start(&settings);
        let auth = running.verifier();
        let grants = json!([{ "rooms": ["chat:*"], "can": ["join", "publish"] }]);
        let info = json!({ "name": "Ada" });
        let issued = auth.issue(IssueRequest { grants: Some(grants), info: Some(info), ..request("ada") }).await.unwrap();
        let claims = auth.verify(&issued.token).await.unwrap();
        assert_eq!((claims.sub.as_str(), claims.exp * 1000), ("ada", issued.expires_at_ms));
        assert_eq!(claims.info.unwrap().get(), r#"{"name":"Ada"}"#);
        assert_eq!(claims.grants.unwrap()[0].can, [Operation::Join, Operation::Publish]);
        assert!(claims.jti.is_some());
        let metrics = Reading::of([&*running.counters as &dyn Figures]).to_string();
        assert!(metrics.contains("carillon_verifications_total{outcome=\"accepted\"} 1\n"), "{metrics}");
        assert!(metrics.contains("carillon_issues_total{outcome=\"issued\"} 1\n"), "{metrics}");
    }
}

#[tokio::test]
async fn refusals_tell_why() {
    let running = Running::start(&with_secret());
    let auth = running.verifier();
    let other = Running::start(&with_ed25519()).verifier().issue(request("ada")).await.unwrap();
    for token in ["", "garbage", &other.token, &"x".repeat(9000), &"x".repeat(100_000)] {
        let refused = auth.verify(token).await.unwrap_err();
        assert!(matches!(refused, VerifyError::Refused(_)), "{refused}");
    }
    let invalid = auth.issue(IssueRequest { ttl_s: 0, ..request("ada") }).await.unwrap_err();
    assert!(matches!(&invalid, IssueError::Invalid(why) if why.contains("ttl")), "{invalid}");
    let large = auth.issue(IssueRequest { info: Some(json!({ "x": "x".repeat(100_000) })), ..request("ada") }).await.unwrap_err();
    assert!(matches!(large, IssueError::Invalid(_)), "{large}");
}

#[tokio::test]
async fn verifying_key_issues_nothing() {
    let mut settings = Settings::defaults(Program::Auth);
    settings.jwt.public_keys = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys/ed25519.pub.pem")];
    let error = Running::start(&settings).verifier().issue(request("ada")).await.unwrap_err();
    assert!(matches!(&error, IssueError::Unavailable(why) if why.contains("jwt.private_key")), "{error}");
}

#[tokio::test]
async fn hung_service_is_unavailable() {
    let auth = verifier(hung().await);
    let started = Instant::now();
    let why = unavailable(auth.verify("token").await);
    let took = started.elapsed();
    assert!((Duration::from_millis(1900)..Duration::from_millis(3500)).contains(&took), "{took:?}");
    assert!(why.contains("2s"), "{why}");
}

/// Every place is taken by a question that hangs; those that wait for one are told in time, too.
#[tokio::test]
async fn hung_service_holds_nobody() {
    let auth = Arc::new(verifier(hung().await));
    let started = Instant::now();
    let storm: Vec<_> = (0..3000)
        .map(|n| {
            let auth = auth.clone();
            tokio::spawn(async move { auth.verify(&n.to_string()).await })
        })
        .collect();
    let mut crowded_out = 0;
    for one in storm {
        crowded_out += usize::from(unavailable(one.await.unwrap()).contains("too many"));
    }
    assert!(started.elapsed() < Duration::from_millis(4500), "{:?}", started.elapsed());
    assert_eq!(crowded_out, 3000 - 2176, "all but those with a place or in the queue");
}

#[tokio::test]
async fn absent_service_is_told_at_once() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let started = Instant::now();
    let why = unavailable(verifier(address).verify("token").await);
    assert!(why.contains("refused") && started.elapsed() < Duration::from_secs(1), "{why} after {:?}", started.elapsed());
}

#[tokio::test]
async fn killed_service_comes_back() {
    let running = Running::start(&with_secret());
    let auth = running.verifier();
    let token = auth.issue(request("ada")).await.unwrap().token;
    let address = running.kill().await;
    unavailable(auth.verify(&token).await);
    let _running = Running::start_on(TcpListener::bind(address).unwrap(), &with_secret());
    assert_eq!(auth.verify(&token).await.unwrap().sub, "ada");
}

#[tokio::test]
async fn restart_between_questions_goes_unnoticed() {
    let mut running = Running::start(&with_secret());
    let auth = running.verifier();
    let token = auth.issue(request("ada")).await.unwrap().token;
    for _ in 0..5 {
        let address = running.kill().await;
        running = Running::start_on(TcpListener::bind(address).unwrap(), &with_secret());
        assert_eq!(auth.verify(&token).await.unwrap().sub, "ada", "the second attempt gets through");
    }
}

#[tokio::test]
async fn cache_outlasts_the_service() {
    let running = Running::start(&with_secret());
    let auth = Arc::new(running.verifier());
    let cached = CachedVerifier::new(auth.clone());
    let (known, new) = (auth.issue(request("ada")).await.unwrap(), auth.issue(request("grace")).await.unwrap());
    cached.verify(&known.token).await.unwrap();
    let address = running.kill().await;
    let in_five_minutes = known.expires_at_ms - 300_000;
    assert_eq!(cached.verify_at(&known.token, in_five_minutes).await.unwrap().sub, "ada");
    unavailable(cached.verify_at(&new.token, in_five_minutes).await);
    let _running = Running::start_on(TcpListener::bind(address).unwrap(), &with_secret());
    assert_eq!(cached.verify(&new.token).await.unwrap().sub, "grace");
}

#[tokio::test]
async fn waiting_ends_when_it_serves() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let auth = Arc::new(verifier(address));
    let waiting = tokio::spawn(async move { auth.wait_until_serving().await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    let _running = Running::start_on(TcpListener::bind(address).unwrap(), &with_secret());
    tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
}

#[tokio::test]
async fn drain_is_told_then_ends() {
    let running = Running::start(&with_secret());
    let channel = async || Endpoint::from_shared(format!("http://{}", running.address)).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel().await);
    let mut status = async |service: &str| {
        let asked = health.check(HealthCheckRequest { service: service.to_owned() }).await;
        asked.unwrap().into_inner().status()
    };
    for service in ["", "carillon.auth.v1.AuthService"] {
        assert_eq!(status(service).await, ServingStatus::Serving);
    }
    // A connection that would never end by itself.
    let _stream = HealthClient::new(channel().await).watch(HealthCheckRequest::default()).await.unwrap();
    running.shutdown.begin();
    tokio::time::sleep(Duration::from_millis(200)).await;
    for service in ["", "carillon.auth.v1.AuthService"] {
        assert_eq!(status(service).await, ServingStatus::NotServing);
    }
    assert!(running.verifier().issue(request("ada")).await.is_ok(), "it still answers");
    tokio::time::timeout(Duration::from_secs(8), running.server).await.unwrap().unwrap();
}
