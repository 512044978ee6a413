//! `carillon-auth` as a process: what it refuses to start with, what it prints, how it ends.

#[path = "../../platform/tests/process/mod.rs"]
mod process;

use std::net::SocketAddr;

use carillon_platform::{
    auth::{GrpcVerifier, IssueRequest, TokenIssuer, TokenVerifier, VerifyError},
    settings::{Program, Settings, Url},
};
use process::{output, start};

const BINARY: &str = env!("CARGO_BIN_EXE_carillon-auth");
const SECRET: &str = "--jwt-secret=a secret of the tests, long enough for HS256";
const LISTEN: [&str; 2] = ["--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"];

fn refusal(args: &[&str]) -> String {
    let output = output(BINARY, args);
    assert_eq!(output.status.code(), Some(64), "{args:?}");
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn no_key_no_start() {
    assert!(refusal(&LISTEN).contains("jwt.secret"));
    assert!(refusal(&["--set", "jwt.private_key=/nowhere.pem"]).contains("/nowhere.pem"));
}

#[test]
fn bad_usage_is_64() {
    assert!(refusal(&["--nonsense"]).contains("--nonsense"));
    assert!(refusal(&["--set", "limits.frame_byte=1"]).contains("limits.frame_bytes"));
    assert!(refusal(&[SECRET, "--listen=nowhere"]).contains("listen"));
}

#[test]
fn help_is_no_mistake() {
    let help = output(BINARY, &["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8(help.stdout).unwrap().contains("limits.token_bytes"));
}

#[test]
fn taken_address_is_1() {
    let first = start(BINARY, &[SECRET, LISTEN[0], LISTEN[1]]);
    let listen = format!("--listen={}", first.address("listen"));
    let second = output(BINARY, &[SECRET, &listen, LISTEN[1]]);
    assert_eq!(second.status.code(), Some(1));
}

#[test]
fn signal_drains_to_0() {
    let mut auth = start(BINARY, &[SECRET, LISTEN[0], LISTEN[1]]);
    assert!(auth.ready.starts_with("ready listen=127.0.0.1:"), "{}", auth.ready);
    assert!(auth.admin("/readyz").starts_with("HTTP/1.1 200 "));
    assert!(auth.admin("/metrics").contains("carillon_verifications_total{outcome=\"accepted\"} 0\n"));
    auth.terminate();
    assert_eq!(auth.exit_code(), Some(0));
}

fn verifier(address: SocketAddr) -> GrpcVerifier {
    GrpcVerifier::new(&Url::parse(&format!("http://{address}"), &["http"]).unwrap()).unwrap()
}

async fn token(auth: &GrpcVerifier) -> String {
    let request = IssueRequest { sub: "ada".to_owned(), ttl_s: 600, grants: None, info: None };
    auth.issue(request).await.unwrap().token
}

#[tokio::test]
async fn killed_process_comes_back() {
    let process = start(BINARY, &[SECRET, LISTEN[0], LISTEN[1]]);
    let address = process.address("listen");
    let auth = verifier(address);
    let token = token(&auth).await;
    drop(process);
    assert!(matches!(auth.verify(&token).await, Err(VerifyError::Unavailable(_))));
    let _process = start(BINARY, &[SECRET, &format!("--listen={address}"), LISTEN[1]]);
    assert_eq!(auth.verify(&token).await.unwrap().sub, "ada");
}

#[tokio::test]
async fn stopped_process_goes_on() {
    let process = start(BINARY, &[SECRET, LISTEN[0], LISTEN[1]]);
    let auth = verifier(process.address("listen"));
    let token = token(&auth).await;
    process.signal("STOP");
    assert!(matches!(auth.verify(&token).await, Err(VerifyError::Unavailable(_))));
    process.signal("CONT");
    assert_eq!(auth.verify(&token).await.unwrap().sub, "ada");
}

#[test]
fn admin_port_publishes_keys() {
    let auth = start(BINARY, &[SECRET, LISTEN[0], LISTEN[1]]);
    let answer = auth.admin("/.well-known/jwks.json");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("application/jwk-set+json"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n{\"keys\":[]}"), "the secret is nobody's business: {answer}");
    let key = format!("jwt.private_key={}/tests/keys/ed25519.pem", env!("CARGO_MANIFEST_DIR"));
    let auth = start(BINARY, &["--set", &key, LISTEN[0], LISTEN[1]]);
    let answer = auth.admin("/.well-known/jwks.json");
    assert!(answer.contains(r#""kty":"OKP""#) && answer.contains(r#""kid":""#) && !answer.contains(r#""d":"#), "{answer}");
}

fn tls_file(name: &str) -> String {
    format!("{}/tests/keys/tls-{name}", env!("CARGO_MANIFEST_DIR"))
}

/// How a gateway asks that trusts the tests' authority, and shows its certificate or none.
fn over_tls(address: SocketAddr, shows_certificate: bool) -> GrpcVerifier {
    let mut auth = Settings::defaults(Program::Gateway).auth;
    auth.url = Url::parse(&format!("https://localhost:{}", address.port()), &["https"]).unwrap();
    auth.ca = Some(tls_file("ca.pem").into());
    if shows_certificate {
        (auth.cert, auth.key) = (Some(tls_file("client.pem").into()), Some(tls_file("client.key").into()));
    }
    GrpcVerifier::from_settings(&auth).unwrap()
}

#[tokio::test]
async fn gateways_are_known_by_their_certificates() {
    let (cert, key) = (format!("grpc.cert={}", tls_file("server.pem")), format!("grpc.key={}", tls_file("server.key")));
    let ca = format!("grpc.client_ca={}", tls_file("ca.pem"));
    let auth = start(BINARY, &[SECRET, LISTEN[0], LISTEN[1], "--set", &cert, "--set", &key, "--set", &ca]);
    let address = auth.address("listen");
    let known = over_tls(address, true);
    let token = token(&known).await;
    assert_eq!(known.verify(&token).await.unwrap().sub, "ada");
    for stranger in [over_tls(address, false), verifier(address)] {
        assert!(matches!(stranger.verify(&token).await, Err(VerifyError::Unavailable(_))));
    }
}

#[test]
fn half_an_identity_is_no_start() {
    let cert = format!("grpc.cert={}", tls_file("server.pem"));
    assert!(refusal(&[SECRET, "--set", &cert]).contains("grpc.key"));
    assert!(refusal(&[SECRET, "--set", &cert, "--set", "grpc.key=/nowhere"]).contains("/nowhere"));
    assert!(refusal(&[SECRET, "--set", &format!("grpc.client_ca={}", tls_file("ca.pem"))]).contains("grpc.cert"));
    assert!(refusal(&[SECRET, "--set", "nats.ca=/nowhere"]).contains("nats.ca"));
}
