//! `carillon-auth` as a process: what it refuses to start with, what it prints, how it ends.

#[path = "../../platform/tests/process/mod.rs"]
mod process;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use carillon_platform::{
    auth::{GrpcVerifier, IssueRequest, TokenIssuer, TokenVerifier, VerifyError},
    settings::{Auth, Program, Settings, Url},
};
use process::{command, output, start, start_command};

use tokio_rustls::rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

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
    GrpcVerifier::from_settings(&tls_settings(address, shows_certificate)).unwrap()
}

fn tls_settings(address: SocketAddr, shows_certificate: bool) -> Auth {
    let mut auth = Settings::defaults(Program::Gateway).auth;
    auth.url = Url::parse(&format!("https://localhost:{}", address.port()), &["https"]).unwrap();
    auth.ca = Some(tls_file("ca.pem").into());
    if shows_certificate {
        (auth.cert, auth.key) = (Some(tls_file("client.pem").into()), Some(tls_file("client.key").into()));
    }
    auth
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
    // A gateway that does not know the auth service's authority says nothing to it.
    let mut wrong = tls_settings(address, true);
    wrong.ca = Some(tls_file("client.pem").into());
    let wrong = GrpcVerifier::from_settings(&wrong).unwrap();
    for stranger in [over_tls(address, false), verifier(address), wrong] {
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

/// Somebody who publishes this over https, by the tests' certificate.
fn publish_over_tls(document: String) -> SocketAddr {
    let certificates = CertificateDer::pem_file_iter(tls_file("server.pem")).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(tls_file("server.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let config = Arc::new(config.with_single_cert(certificates, key).unwrap());
    // At every address of this machine, so that it is found by a name that its certificate does not have, too.
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let mut tls = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), socket);
            let mut asked = [0; 4096];
            // Nothing comes from a client that does not believe the certificate.
            if tls.read(&mut asked).is_ok_and(|count| count > 0) {
                let _ = write!(tls, "HTTP/1.1 200 X\r\nContent-Length: {}\r\n\r\n{document}", document.len());
                tls.conn.send_close_notify();
                let _ = tls.flush();
            }
        }
    });
    address
}

#[tokio::test]
async fn key_set_over_https_comes_from_whom_it_should() {
    let pem = std::fs::read(format!("{}/tests/keys/ed25519.pem", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let key = jsonwebtoken::EncodingKey::from_ed_pem(&pem).unwrap();
    let mut jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&key, jsonwebtoken::Algorithm::EdDSA).unwrap();
    jwk.common.key_id = Some("a".to_owned());
    let address = publish_over_tls(serde_json::json!({ "keys": [jwk] }).to_string());
    let header = jsonwebtoken::Header { kid: Some("a".to_owned()), ..jsonwebtoken::Header::new(jsonwebtoken::Algorithm::EdDSA) };
    let token = jsonwebtoken::encode(&header, &serde_json::json!({ "sub": "ada", "exp": 4_000_000_000_u64 }), &key).unwrap();
    let url = format!("jwt.jwks_url=https://localhost:{}/keys", address.port());
    let by_another_name = format!("jwt.jwks_url=https://127.0.0.2:{}/keys", address.port());
    for (url, authority, is_believed) in
        [(&url, "ca.pem", true), (&url, "client.pem", false), (&by_another_name, "ca.pem", false)]
    {
        let mut command = command(BINARY, &["--set", url, LISTEN[0], LISTEN[1]]);
        command.env("SSL_CERT_FILE", tls_file(authority)).env_remove("SSL_CERT_DIR");
        let auth = start_command(&mut command);
        let verified = verifier(auth.address("listen")).verify(&token).await;
        match is_believed {
            true => assert_eq!(verified.unwrap().sub, "ada"),
            false => assert!(matches!(verified, Err(VerifyError::Unavailable(_))), "{url} {authority}: {verified:?}"),
        }
    }
}
