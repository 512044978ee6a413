//! Tokens that are taken back, and users that are sent away: on every gateway, for as long as it has to be.

use std::time::{Duration, Instant};

use crate::{
    client::Dial,
    http::Call,
    listener::Listen,
    polling::Polling,
    server::{Answer, PATIENCE, Server, Service, Shape, get, unix_ms},
};

const ADMIN: &str = r#"[{"rooms":["*"],"can":["admin"]}]"#;
const UNAUTHORIZED: (u16, &str) = (4001, "unauthorized");

async fn post(server: &Server, path: &str, body: &str) -> Answer {
    Call::new("POST", path).token(&server.token_for("backend", ADMIN)).json(body).to(server).await
}

async fn revoke(server: &Server, body: &str) {
    let answer = post(server, "/revocations", body).await;
    assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{body}");
}

/// A token of the product's own making, and its id.
async fn issued(server: &Server, user: &str) -> (String, String) {
    let answer = post(server, "/tokens", &format!(r#"{{"sub":"{user}","ttl":"1h"}}"#)).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    let token = body["token"].as_str().unwrap().to_owned();
    let expires_at = body["expiresAt"].as_u64().unwrap();
    assert!((unix_ms() + 3_500_000..=unix_ms() + 3_602_000).contains(&expires_at), "{expires_at}");
    (token.clone(), jti(&token))
}

fn jti(token: &str) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    claims["jti"].as_str().unwrap().to_owned()
}

async fn is_refused(dial: Dial) {
    let (code, reason) = dial.turned_away().await;
    assert_eq!((code, reason.as_str()), UNAUTHORIZED);
}

#[tokio::test]
async fn revoked_token_closes_and_stays_out() {
    let mut server = Server::start().await;
    let ((taken, id), (other, _)) = (issued(&server, "ada").await, issued(&server, "ada").await);
    let mut lost = server.dial().token(&taken).connected().await;
    let mut kept = server.dial().token(&other).connected().await;
    revoke(&server, &format!(r#"{{"jti":"{id}"}}"#)).await;
    assert_eq!(lost.closed().await, (UNAUTHORIZED.0, UNAUTHORIZED.1.to_owned()));
    kept.heard_nothing_else().await;
    is_refused(server.dial().token(&taken)).await;
    let answer = Call::new("GET", "/rooms/lobby/messages").token(&taken).to(&server).await;
    assert_eq!(answer.status, 401);
    // Nor does it go on with a connection that another one began.
    kept.send(format!(r#"{{"type":"refresh","token":"{taken}"}}"#)).await;
    assert_eq!(kept.closed().await.0, 4001);
    // Whoever comes after a restart of everything knows it still.
    server.kill_and_restart().await;
    is_refused(server.dial().token(&taken)).await;
    server.dial().token(&other).connected().await;
}

#[tokio::test]
async fn users_tokens_end_up_to_now() {
    let server = Server::start().await;
    let (old, _) = issued(&server, "ada").await;
    let unsaid = server.token_without_iat("ada");
    let (mut a, mut b) = (server.dial().token(&old).connected().await, server.dial().token(&unsaid).connected().await);
    let mut bob = server.connect("bob").await;
    revoke(&server, r#"{"sub":"ada"}"#).await;
    assert_eq!(a.closed().await.0, 4001);
    assert_eq!(b.closed().await.0, 4001, "a token that does not say when it was issued");
    bob.heard_nothing_else().await;
    is_refused(server.dial().token(&old)).await;
    // Within the same second, and yet none of those that were taken back.
    let (new, _) = issued(&server, "ada").await;
    server.dial().token(&new).connected().await.heard_nothing_else().await;
}

#[tokio::test]
async fn streams_of_events_end_too() {
    let server = Server::start().await;
    let (token, id) = issued(&server, "ada").await;
    let mut stream = Listen::to(&server, "/events/ada").token(&token).open().await;
    assert_eq!(stream.status, 200);
    revoke(&server, &format!(r#"{{"jti":"{id}"}}"#)).await;
    while stream.next().await.is_some() {}
    // A browser comes back by itself, and is told to stop.
    assert_eq!(Listen::to(&server, "/events/ada").token(&token).refused().await, (401, "unauthorized".to_owned()));
}

#[tokio::test]
async fn socketio_clients_are_told_to_stop() {
    let server = Server::start().await;
    let (token, id) = issued(&server, "ada").await;
    let auth = format!(r#"{{"token":"{token}"}}"#);
    let (mut client, answer) = Polling::connect(&server, &auth).await;
    assert!(answer.starts_with("40{"), "{answer}");
    revoke(&server, &format!(r#"{{"jti":"{id}"}}"#)).await;
    let mut packets = Vec::new();
    while let Some(packet) = client.next().await {
        packets.push(packet);
    }
    assert!(packets.iter().any(|packet| packet == "41"), "DISCONNECT, so that it does not come back: {packets:?}");
    let (_, answer) = Polling::connect(&server, &auth).await;
    assert_eq!(answer, r#"44{"message":"Authentication failed"}"#);
}

#[tokio::test]
async fn time_of_issue_decides() {
    let server = Server::start().await;
    let now_ms = unix_ms();
    let token = |ago_ms| server.token_since(now_ms - ago_ms, "ada", 3600, None);
    let (older, newer) = (token(60_000), token(20_000));
    let mut old = server.dial().token(&older).connected().await;
    let mut new = server.dial().token(&newer).connected().await;
    // In seconds, as in the tokens, means the same.
    for time in [now_ms - 40_000, (now_ms - 40_000) / 1000] {
        revoke(&server, &format!(r#"{{"sub":"ada","issuedBefore":{time}}}"#)).await;
    }
    assert_eq!(old.closed().await.0, 4001);
    new.heard_nothing_else().await;
    is_refused(server.dial().token(&older)).await;
    server.dial().token(&newer).connected().await;
}

#[tokio::test]
async fn disconnected_user_may_come_back() {
    let server = Server::start().await;
    let (mut ada, mut bob) = (server.connect("ada").await, server.connect("bob").await);
    assert_eq!(post(&server, "/users/ada/disconnect", "{}").await.status, 204);
    assert_eq!(ada.closed().await, (4003, "forbidden".to_owned()));
    bob.heard_nothing_else().await;
    server.connect("ada").await;
}

#[tokio::test]
async fn only_admins_act_for_others() {
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    let everything = r#"[{"rooms":["*"],"can":["join","publish","history","presence"]}]"#;
    for (path, body) in [
        ("/tokens", r#"{"sub":"eve","ttl":60,"grants":[{"rooms":["*"],"can":["admin"]}]}"#),
        ("/revocations", r#"{"sub":"ada"}"#),
        ("/users/ada/disconnect", ""),
    ] {
        for (token, status) in [
            (None, 401),
            (Some("nonsense".to_owned()), 401),
            (Some(server.token("eve")), 403),
            (Some(server.token_for("eve", everything)), 403),
        ] {
            let call = Call::new("POST", path).json(body);
            let call = if let Some(token) = &token { call.token(token) } else { call };
            let answer = call.to(&server).await;
            assert_eq!(answer.status, status, "{path} {token:?}: {}", answer.body);
            assert!(answer.head.contains("application/problem+json"));
        }
        let answer = Call::new("GET", path).to(&server).await;
        assert_eq!(answer.status, 405, "{path}");
    }
    ada.heard_nothing_else().await;
}

#[tokio::test]
async fn senseless_requests_are_refused() {
    let server = Server::start().await;
    for (path, body) in [
        ("/tokens", "{}"),
        ("/tokens", r#"{"sub":"ada"}"#),
        ("/tokens", r#"{"sub":" ","ttl":60}"#),
        ("/tokens", r#"{"sub":"ada","ttl":0}"#),
        ("/tokens", r#"{"sub":"ada","ttl":-1}"#),
        ("/tokens", r#"{"sub":"ada","ttl":"soon"}"#),
        ("/tokens", r#"{"sub":"ada","ttl":60,"info":"Ada"}"#),
        ("/tokens", r#"{"sub":"ada","ttl":60,"grants":[{"rooms":["*"],"can":["fly"]}]}"#),
        ("/revocations", "{}"),
        ("/revocations", "[]"),
        ("/revocations", "nonsense"),
        ("/revocations", r#"{"jti":""}"#),
        ("/revocations", r#"{"jti":"a","sub":"ada"}"#),
        ("/revocations", r#"{"jti":"a","issuedBefore":1}"#),
        ("/revocations", r#"{"issuedBefore":1}"#),
        ("/revocations", r#"{"sub":"ada","issuedBefore":"now"}"#),
        ("/revocations", r#"{"sub":"ada","issuedBefore":99999999999999}"#),
        ("/revocations", r#"{"sub":"ada","issuedBefore":18446744073709551615}"#),
        ("/users/%20/disconnect", "{}"),
    ] {
        let answer = post(&server, path, body).await;
        assert_eq!(answer.status, 400, "{path} {body}: {}", answer.body);
        assert!(answer.body.contains(r#""code":"bad_request""#), "{path} {body}: {}", answer.body);
    }
    let deep = format!(r#"{{"sub":"ada","ttl":60,"info":{}1{}}}"#, r#"{"a":"#.repeat(70), "}".repeat(70));
    assert_eq!(post(&server, "/tokens", &deep).await.status, 400);
}

#[tokio::test]
async fn public_keys_are_public() {
    let server = Server::start().await;
    let answer = get(server.listen, "/.well-known/jwks.json").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"keys":[]}"#), "the secret is nobody's business");
    assert!(answer.head.contains("application/jwk-set+json"), "{}", answer.head);
}

#[tokio::test]
async fn revocation_ends_with_its_tokens() {
    let server = Server::with(&[("jwt.max_ttl_s", "3600"), ("jwt.leeway_s", "0")]).await;
    let (token, id) = issued(&server, "ada").await;
    revoke(&server, &format!(r#"{{"jti":"{id}"}}"#)).await;
    is_refused(server.dial().token(&token)).await;
    let answer = post(&server, "/tokens", r#"{"sub":"ada","ttl":3601}"#).await;
    assert_eq!(answer.status, 400, "nothing outlives its revocation");
}

/// The time from the answer to the last close, over gateways that are told by the bus.
#[tokio::test]
async fn every_gateway_closes_at_once() {
    // Notices alone tell them: the bucket is not read again before an hour has passed.
    let settings = [("limits.connections_per_user", "1000000"), ("gateway.revocations_read_ms", "3600000")];
    let server = Server::shaped(Shape::Cluster, &settings).await;
    let others = [server.another_gateway("b").await, server.another_gateway("c").await];
    let mut took = Vec::new();
    for round in 0..100 {
        let (token, id) = issued(&server, "ada").await;
        let mut clients = Vec::new();
        for address in [server.listen, others[0].listen, others[1].listen] {
            clients.push(Dial::to(address).token(&token).connected().await);
        }
        match round % 2 {
            0 => revoke(&server, &format!(r#"{{"jti":"{id}"}}"#)).await,
            _ => revoke(&server, r#"{"sub":"ada"}"#).await,
        }
        let answered = Instant::now();
        for client in &mut clients {
            assert_eq!(client.closed().await.0, 4001);
        }
        took.push(answered.elapsed());
        is_refused(Dial::to(others[round % 2].listen).token(&token)).await;
    }
    took.sort();
    println!("from the answer to the close on three gateways: p50 {:?}, max {:?}", took[50], took[99]);
    assert!(took[99] < PATIENCE);
}

#[tokio::test]
async fn gateway_that_was_down_knows() {
    let mut server = Server::shaped(Shape::Cluster, &[]).await;
    let mut other = server.another_gateway("b").await;
    let (taken, id) = issued(&server, "ada").await;
    let (stopped, stopped_id) = issued(&server, "ada").await;
    Dial::to(other.listen).token(&taken).connected().await;
    other.kill().await;
    revoke(&server, &format!(r#"{{"jti":"{id}"}}"#)).await;
    // Forgotten by none of those that keep it, either.
    server.service(Service::Auth).kill().await;
    server.service(Service::Auth).start_again().await;
    other.start_again().await;
    is_refused(Dial::to(other.listen).token(&taken)).await;
    // One that only slept is told late, and closes what it holds.
    let mut asleep = Dial::to(other.listen).token(&stopped).connected().await;
    other.signal("STOP");
    revoke(&server, &format!(r#"{{"jti":"{stopped_id}"}}"#)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    other.signal("CONT");
    assert_eq!(asleep.closed().await.0, 4001);
}
