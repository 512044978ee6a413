//! How long a gateway waits for a token to be verified: in this process, over gRPC, and from the cache, alone and with
//! many at once. Run by hand: `cargo run --release -p carillon-auth --example verify_latency [questions]`.
//!
//! Service and gateway share this machine's cores, so that a number includes the work of both sides; the network's share
//! is the loopback's.

use std::{net::TcpListener, path::Path, sync::Arc, time::Duration};

use carillon_auth::{AuthService, Authority};
use carillon_platform::{
    auth::{CachedVerifier, GrpcVerifier, IssueRequest, TokenIssuer, TokenVerifier},
    settings::{Program, Secret, Settings, Url},
    shutdown::Shutdown,
};
use tokio::time::Instant;

/// Questions of one row, unless the first argument says otherwise.
const QUESTIONS: usize = 20_000;

/// Distinct tokens, so that the cache is not one entry.
const TOKENS: usize = 1000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let questions = std::env::args().nth(1).map_or(Ok(QUESTIONS), |text| text.parse())?;
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let (service, gateway) = (runtime()?, runtime()?);
    println!("{questions} questions per row, {} cores\n", std::thread::available_parallelism()?);
    println!("| key | verified | at once | p50 µs | p99 µs | per second |\n|---|---|---|---|---|---|");
    for (key, settings) in [("HS256", with_secret()), ("EdDSA", with_ed25519())] {
        let authority = Arc::new(Authority::from_settings(&settings)?);
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = Url::parse(&format!("http://{}", listener.local_addr()?), &["http"]).expect("an address makes a URL");
        service.spawn(AuthService::new(authority.clone()).run(listener, Shutdown::new()));
        gateway.block_on(async {
            let mut tokens = Vec::new();
            for user in 0..TOKENS {
                let request = IssueRequest { sub: format!("user-{user}"), ttl_s: 3600, grants: None, info: None };
                tokens.push(authority.issue(request).await?.token);
            }
            let tokens = Arc::new(tokens);
            let grpc = Arc::new(GrpcVerifier::new(&url)?);
            let cached = Arc::new(CachedVerifier::new(grpc.clone()));
            for at_once in [1, 64] {
                report(key, "here", authority.clone(), &tokens, at_once, questions).await;
                report(key, "over gRPC", grpc.clone(), &tokens, at_once, questions).await;
                // The first question about each token fills the cache.
                ask(cached.clone(), &tokens, at_once, TOKENS).await;
                report(key, "over gRPC, cached", cached.clone(), &tokens, at_once, questions).await;
            }
            Ok::<_, Box<dyn std::error::Error>>(())
        })?;
    }
    Ok(())
}

fn with_secret() -> Settings {
    let mut settings = Settings::defaults(Program::Auth);
    settings.jwt.secret = Secret::parse("a secret of the measurement, long enough for HS256");
    settings
}

fn with_ed25519() -> Settings {
    let mut settings = Settings::defaults(Program::Auth);
    settings.jwt.private_key = Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys/ed25519.pem"));
    settings
}

async fn report<V: TokenVerifier>(key: &str, how: &str, verifier: Arc<V>, tokens: &Arc<Vec<String>>, at_once: usize, all: usize) {
    ask(verifier.clone(), tokens, at_once, all / 10).await;
    let started = Instant::now();
    let mut took = ask(verifier, tokens, at_once, all).await;
    let rate = took.len() as f64 / started.elapsed().as_secs_f64();
    took.sort();
    let [p50, p99] = [50, 99].map(|percent| took[took.len() * percent / 100].as_nanos() as f64 / 1000.0);
    println!("| {key} | {how} | {at_once} | {p50:.1} | {p99:.1} | {rate:.0} |");
}

/// Asks `all` questions, `at_once` of them at a time, and tells how long each took.
async fn ask<V: TokenVerifier>(verifier: Arc<V>, tokens: &Arc<Vec<String>>, at_once: usize, all: usize) -> Vec<Duration> {
    let askers: Vec<_> = (0..at_once)
        .map(|asker| {
            let (verifier, tokens) = (verifier.clone(), tokens.clone());
            tokio::spawn(async move {
                let mut took = Vec::new();
                for question in (asker..all).step_by(at_once) {
                    let started = Instant::now();
                    verifier.verify(&tokens[question % TOKENS]).await.expect("all of the tokens hold");
                    took.push(started.elapsed());
                }
                took
            })
        })
        .collect();
    let mut took = Vec::new();
    for asker in askers {
        took.extend(asker.await.expect("nobody panics"));
    }
    took
}
