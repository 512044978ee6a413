//! Keys that change under load: whoever brings a token by a published key comes in, at every moment; whoever brings one by a
//! key that was withdrawn does not.

#[path = "../../../auth-service/tests/key_server/mod.rs"]
mod key_server;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use key_server::KeyServer;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    client::{Dial, Event},
    server::{PATIENCE, Server, Shape, unix_ms},
};

struct Signer {
    kid: &'static str,
    key: EncodingKey,
    algorithm: Algorithm,
}

impl Signer {
    fn jwk(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
        jwk.common.key_id = Some(self.kid.to_owned());
        serde_json::to_value(jwk).unwrap()
    }

    /// Another one each time, so that no cache knows it.
    fn token(&self, number: u64) -> String {
        let header = Header { kid: Some(self.kid.to_owned()), ..Header::new(self.algorithm) };
        let claims = json!({ "sub": format!("user {}", number % 50), "exp": unix_ms() / 1000 + 600, "jti": number.to_string() });
        jsonwebtoken::encode(&header, &claims, &self.key).unwrap()
    }
}

fn signers() -> [Signer; 3] {
    let pem = |name: &str| {
        let path = format!("{}/../auth-service/tests/keys/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(path).unwrap()
    };
    [
        Signer { kid: "a", key: EncodingKey::from_ed_pem(&pem("ed25519.pem")).unwrap(), algorithm: Algorithm::EdDSA },
        Signer { kid: "b", key: EncodingKey::from_ec_pem(&pem("p256.pem")).unwrap(), algorithm: Algorithm::ES256 },
        Signer { kid: "c", key: EncodingKey::from_rsa_pem(&pem("rsa.pem")).unwrap(), algorithm: Algorithm::RS256 },
    ]
}

/// What a fresh connection is told first: nothing but `connected`, or how it is closed.
async fn outcome(address: SocketAddr, token: &str) -> Option<u16> {
    let (mut client, _) = Dial::to(address).token(token).open().await.unwrap();
    match client.event().await {
        Event::Frame(frame) if frame.kind() == "connected" => None,
        Event::Closed(code, _) => Some(code),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_change_under_load() {
    let signers = Arc::new(signers());
    let [a, b, c] = signers.each_ref().map(Signer::jwk);
    let keys = KeyServer::start(std::slice::from_ref(&a));
    let (url, refresh) = (keys.url(), "1");
    let server = Server::shaped(Shape::Cluster, &[("jwt.jwks_url", &url), ("jwt.jwks_refresh_s", refresh)]).await;
    let other = server.another_gateway("b").await;

    let (current, number, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = [server.listen, other.listen, server.listen, other.listen]
        .into_iter()
        .map(|address| {
            let (signers, current, number, stop) = (signers.clone(), current.clone(), number.clone(), stop.clone());
            tokio::spawn(async move {
                let mut refused = Vec::new();
                while !stop.load(SeqCst) {
                    let token = signers[current.load(SeqCst)].token(number.fetch_add(1, SeqCst));
                    refused.extend(outcome(address, &token).await);
                }
                refused
            })
        })
        .collect();

    let addresses = [server.listen, other.listen];
    for (old, overlap, next) in [(0, [a, b.clone()], b.clone()), (1, [b, c.clone()], c)] {
        sleep(Duration::from_millis(1500)).await;
        // Published, and used in the same moment.
        keys.publish(&overlap);
        current.store(old + 1, SeqCst);
        // One that both gateways have seen, and would not ask about again so soon.
        let known = signers[old].token(number.fetch_add(1, SeqCst));
        let mut stays = Dial::to(addresses[0]).token(&known).connected().await;
        for address in addresses {
            assert_eq!(outcome(address, &known).await, None);
        }
        sleep(Duration::from_millis(1500)).await;
        keys.publish(std::slice::from_ref(&next));
        let withdrawn = Instant::now();
        loop {
            match outcome(server.listen, &signers[old].token(number.fetch_add(1, SeqCst))).await {
                Some(4001) => break,
                told => assert!(withdrawn.elapsed() < PATIENCE, "a token by a withdrawn key is told {told:?}"),
            }
        }
        println!("refused {:?} after its key was withdrawn", withdrawn.elapsed());
        for address in addresses {
            while outcome(address, &known).await != Some(4001) {
                assert!(withdrawn.elapsed() < PATIENCE, "a token that was good once");
            }
        }
        println!("and one that was known by then {:?} after", withdrawn.elapsed());
        // Who is in stays, until the token ends or is revoked.
        stays.say("lobby", 1).await;
        stays.heard_nothing_else().await;
    }
    stop.store(true, SeqCst);
    for client in clients {
        assert_eq!(client.await.unwrap(), [0; 0], "a token by a published key was refused");
    }
    println!("{} tokens by published keys, all of them let in; {} looks at the keys", number.load(SeqCst), keys.asked());
}
