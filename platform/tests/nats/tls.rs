//! NATS over TLS with certificates on both sides: who is not known by the right authority isn't talked to, in either direction.

use std::time::Duration;

use carillon_platform::{
    bus::{Bus, NatsBus},
    nats::Nats,
    settings::{self, Url},
};
use tokio::time::timeout;

use crate::server::NatsServer;

fn file(name: &str) -> String {
    format!("{}/../auth-service/tests/keys/tls-{name}", env!("CARGO_MANIFEST_DIR"))
}

/// With a certificate for `localhost`, and for those whose certificate is of the same authority.
fn server() -> NatsServer {
    let files = [("cert", "server.pem"), ("key", "server.key"), ("cacert", "ca.pem")];
    let mut arguments = vec!["--tls".to_owned(), "--tlsverify".to_owned()];
    arguments.extend(files.map(|(flag, name)| format!("--tls{flag}={}", file(name))));
    NatsServer::start_with(&arguments)
}

fn settings(scheme: &str, server: &NatsServer, ca: Option<&str>, shows: bool) -> settings::Nats {
    let url = Url::parse(&format!("{scheme}://localhost:{}", server.port()), &["nats", "tls"]);
    let path = |name: &str| Some(file(name).into());
    let (cert, key) = if shows { (path("client.pem"), path("client.key")) } else { (None, None) };
    settings::Nats { url, ca: ca.and_then(path), cert, key, ..settings::Nats::default() }
}

#[tokio::test]
async fn both_sides_show_their_certificates() {
    let server = server();
    // A server that asks for TLS gets it, however the address begins.
    for scheme in ["tls", "nats"] {
        let connecting = async { Nats::connect(&settings(scheme, &server, Some("ca.pem"), true), "test").await.unwrap() };
        let bus = NatsBus::new(timeout(Duration::from_secs(20), connecting).await.expect("they know each other"));
        let mut heard = bus.subscribe("there").await.unwrap();
        bus.publish("there", "and back".into());
        assert_eq!(heard.next().await.unwrap(), "and back");
    }
}

#[tokio::test]
async fn strangers_are_not_talked_to() {
    let server = server();
    for (what, settings) in [
        // Any certificate that did not sign the server's will do for another authority.
        ("another authority", settings("tls", &server, Some("client.pem"), true)),
        ("the system's authorities", settings("tls", &server, None, true)),
        ("no certificate of ours", settings("tls", &server, Some("ca.pem"), false)),
    ] {
        // A server that is away is waited for, and so is one that can't be believed.
        let connected = timeout(Duration::from_secs(3), Nats::connect(&settings, "test")).await;
        assert!(!matches!(connected, Ok(Ok(_))), "{what}");
    }
    // The one that is known comes in all the same.
    let known = settings("tls", &server, Some("ca.pem"), true);
    timeout(Duration::from_secs(20), Nats::connect(&known, "test")).await.unwrap().unwrap();
}
