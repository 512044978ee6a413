//! A credentials file (`nats.creds`) for a NATS whose accounts are JWTs: it opens the door of its account, and no other file does.

use std::{path::PathBuf, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use carillon_platform::{
    bus::{Bus, NatsBus},
    nats::{ConnectError, Nats},
    settings,
};
use nkeys::KeyPair;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::server::NatsServer;

/// What NATS takes as a JWT (ADR-14 of nats-architecture-and-design).
fn jwt(signer: &KeyPair, of: &KeyPair, nats: Value) -> String {
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({
        "jti": of.public_key(), "iat": 1_700_000_000, "iss": signer.public_key(), "sub": of.public_key(), "name": "test", "nats": nats,
    });
    let message = format!("{}.{}", part(json!({ "typ": "JWT", "alg": "ed25519-nkey" })), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(signer.sign(message.as_bytes()).unwrap());
    format!("{message}.{signature}")
}

/// A server of one account.
fn server(folder: &TempDir, account: &KeyPair) -> NatsServer {
    let operator = KeyPair::new_operator();
    let own = jwt(&operator, &operator, json!({ "type": "operator", "version": 2 }));
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
    });
    let accounts = jwt(&operator, account, json!({ "type": "account", "version": 2, "limits": limits }));
    let config = folder.path().join("server.conf");
    let id = account.public_key();
    std::fs::write(&config, format!("operator: {own}\nresolver: MEMORY\nresolver_preload: {{ {id}: {accounts} }}\n")).unwrap();
    NatsServer::start_without_jetstream_with(&["--config".to_owned(), config.to_str().unwrap().to_owned()])
}

/// As `nsc` writes it.
fn creds(folder: &TempDir, name: &str, account: &KeyPair) -> PathBuf {
    let user = KeyPair::new_user();
    let token = jwt(account, &user, json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 }));
    let seed = user.seed().unwrap();
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test]
async fn credentials_open_the_door_of_their_account() {
    let folder = TempDir::new().unwrap();
    let (account, other) = (KeyPair::new_account(), KeyPair::new_account());
    let server = server(&folder, &account);
    let with = |creds: Option<PathBuf>| settings::Nats { creds, ..server.settings() };
    let good = with(Some(creds(&folder, "good.creds", &account)));
    let nats = timeout(Duration::from_secs(20), Nats::connect(&good, "test")).await.expect("it is let in").unwrap();
    let bus = NatsBus::new(nats);
    let mut heard = bus.subscribe("there").await.unwrap();
    bus.publish("there", "and back".into());
    assert_eq!(heard.next().await.unwrap(), "and back");
    for (what, settings) in [("none", with(None)), ("another account's", with(Some(creds(&folder, "other.creds", &other))))] {
        let connected = timeout(Duration::from_secs(3), Nats::connect(&settings, "test")).await;
        assert!(!matches!(connected, Ok(Ok(_))), "{what}");
    }
}

#[tokio::test]
async fn credentials_that_are_none_stop_the_start() {
    let folder = TempDir::new().unwrap();
    let odd = folder.path().join("odd.creds");
    std::fs::write(&odd, "nonsense").unwrap();
    for path in [odd, folder.path().join("missing.creds")] {
        let url = settings::Url::parse("nats://127.0.0.1:1", &["nats"]);
        let settings = settings::Nats { url, creds: Some(path.clone()), ..settings::Nats::default() };
        let connected =
            timeout(Duration::from_secs(20), Nats::connect(&settings, "test")).await.expect("it does not go on trying");
        let Err(error @ ConnectError::Creds { .. }) = connected else { panic!("{}", path.display()) };
        assert!(error.to_string().contains("nats.creds") && error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}
