//! Tokens that nobody may believe, at every door and in every place that a token may be in; and what good ones allow there.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    http::Call,
    listener::Listen,
    polling::Polling,
    server::{ORIGIN, SECRET, Server, signed, unix_ms},
};

fn key_file(name: &str) -> String {
    format!("{}/../auth-service/tests/keys/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn now_s() -> u64 {
    unix_ms() / 1000
}

/// Good claims with some changed; `null` takes one out.
fn claims(changed: Value) -> Value {
    let mut claims = json!({ "sub": "ada", "exp": now_s() + 3600, "iss": "us", "aud": "carillon" });
    let object = claims.as_object_mut().unwrap();
    object.extend(changed.as_object().unwrap().clone());
    object.retain(|_, value| !value.is_null());
    claims
}

fn by(algorithm: Algorithm, kid: Option<&str>, key: &EncodingKey) -> String {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
    jsonwebtoken::encode(&header, &claims(json!({})), key).unwrap()
}

/// Claims under a header of this text, without a good signature.
fn unsigned(header: &str, signature: &str) -> String {
    let claims = URL_SAFE_NO_PAD.encode(claims(json!({})).to_string());
    format!("{}.{claims}.{signature}", URL_SAFE_NO_PAD.encode(header))
}

fn forged() -> Vec<(&'static str, String)> {
    let rsa = EncodingKey::from_rsa_pem(&std::fs::read(key_file("rsa.pem")).unwrap()).unwrap();
    let public = EncodingKey::from_secret(&std::fs::read(key_file("rsa.pub.pem")).unwrap());
    let stranger = EncodingKey::from_secret(b"another secret, also long enough for HS256");
    let good = signed(&claims(json!({})));
    let (message, signature) = good.rsplit_once('.').unwrap();
    vec![
        ("garbage", "garbage".to_owned()),
        ("dots", "..".to_owned()),
        ("four parts", format!("{good}.x")),
        ("no signature", format!("{message}.")),
        ("cut signature", format!("{message}.{}", &signature[..10])),
        ("alg none", unsigned(r#"{"alg":"none"}"#, "")),
        ("alg nOnE", unsigned(r#"{"alg":"nOnE"}"#, "")),
        ("alg of another kind of key", unsigned(r#"{"alg":"RS256"}"#, signature)),
        ("header no JSON", unsigned("alg", signature)),
        ("critical header", unsigned(r#"{"alg":"HS256","crit":["x"],"x":1}"#, signature)),
        ("public key for a secret", by(Algorithm::HS256, None, &public)),
        ("public key for a secret, by its kid", by(Algorithm::HS256, Some("rsa.pub"), &public)),
        ("wrong key", by(Algorithm::HS256, None, &stranger)),
        ("unknown kid", by(Algorithm::RS256, Some("nobody"), &rsa)),
        ("key without its algorithm", by(Algorithm::RS512, Some("rsa.pub"), &rsa)),
        ("expired", signed(&claims(json!({ "exp": now_s() - 60 })))),
        ("not yet", signed(&claims(json!({ "nbf": now_s() + 60 })))),
        ("no exp", signed(&claims(json!({ "exp": null })))),
        ("exp a text", signed(&claims(json!({ "exp": "tomorrow" })))),
        ("wrong issuer", signed(&claims(json!({ "iss": "them" })))),
        ("no issuer", signed(&claims(json!({ "iss": null })))),
        ("wrong audience", signed(&claims(json!({ "aud": ["others"] })))),
        ("no audience", signed(&claims(json!({ "aud": null })))),
        ("no sub", signed(&claims(json!({ "sub": null })))),
        ("empty sub", signed(&claims(json!({ "sub": "" })))),
        ("sub no text", signed(&claims(json!({ "sub": 7 })))),
        ("sub no legal name", signed(&claims(json!({ "sub": "a\nb" })))),
        ("sub too long", signed(&claims(json!({ "sub": "x".repeat(124) })))),
        ("oversize", signed(&claims(json!({ "x": "x".repeat(8000) })))),
        ("grants no list", signed(&claims(json!({ "grants": "all" })))),
    ]
}

#[tokio::test]
async fn forged_tokens_open_no_door() {
    let keys = key_file("rsa.pub.pem");
    let settings = [("jwt.issuer", "us"), ("jwt.audience", "carillon"), ("jwt.public_keys", keys.as_str())];
    let server = Server::with(&settings).await;
    let unauthorized = (4001, "unauthorized".to_owned());
    assert_eq!(server.dial().turned_away().await, unauthorized, "none");
    assert_eq!(Call::new("GET", "/rooms/lobby/presence").to(&server).await.status, 401, "none");
    for (what, token) in forged() {
        for (place, dial) in [
            ("header", server.dial().token(&token)),
            ("offer", server.dial().token_offered(&token)),
            ("query", server.dial().token_asked(&token)),
        ] {
            assert_eq!(dial.turned_away().await, unauthorized, "{what} in the {place}");
        }
        for (method, path) in [("GET", "/rooms/lobby/messages"), ("POST", "/rooms/lobby/messages"), ("POST", "/revocations")] {
            let answer = Call::new(method, path).token(&token).json(r#"{"payload":1}"#).to(&server).await;
            assert_eq!(answer.status, 401, "{what}: {method} {path}: {}", answer.body);
            assert!(answer.head.contains("www-authenticate: bearer"), "{what}: {}", answer.head);
        }
        let (_, answer) = Polling::connect(&server, &json!({ "token": token }).to_string()).await;
        assert_eq!(answer, r#"44{"message":"Authentication failed"}"#, "{what} over Socket.IO");
        for path in ["/events/ada", "/events?room=lobby"] {
            let asked = format!("{path}{}token={token}", if path.contains('?') { '&' } else { '?' });
            for (place, listen) in [
                ("header", Listen::to(&server, path).token(&token)),
                ("query", Listen::to(&server, &asked)),
                (
                    "cookie",
                    Listen::to(&server, path).header("cookie", &format!("carillon_token={token}")).header("origin", ORIGIN),
                ),
            ] {
                assert_eq!(listen.refused().await, (401, "unauthorized".to_owned()), "{what} in the {place} for {path}");
            }
        }
    }
    // It is not that nothing comes in.
    let rsa = EncodingKey::from_rsa_pem(&std::fs::read(key_file("rsa.pem")).unwrap()).unwrap();
    for good in [signed(&claims(json!({}))), by(Algorithm::RS256, Some("rsa.pub"), &rsa)] {
        let mut ada = server.dial().token(&good).connected().await;
        // And nobody who is in goes on with one.
        let (_, forged) = &forged()[12];
        ada.send(format!(r#"{{"type":"refresh","token":"{forged}"}}"#)).await;
        assert_eq!(ada.closed().await, unauthorized);
    }
}

/// The golden table of grants, held against the doors.
#[tokio::test]
async fn grants_hold_at_every_door() {
    let server = Server::start().await;
    let vectors: Value = serde_json::from_str(include_str!("../../../proto/vectors/grants.json")).unwrap();
    for vector in vectors["grants"].as_array().unwrap() {
        let (user, room) = (vector["user"].as_str().unwrap(), vector["room"].as_str().unwrap());
        let may = |operation: &str| vector["can"].as_array().unwrap().contains(&operation.into());
        let mut token = json!({ "sub": user, "exp": now_s() + 3600 });
        if !vector["grants"].is_null() {
            token["grants"] = vector["grants"].clone();
        }
        let token = signed(&token);
        let mut client = server.dial().token(&token).connected().await;
        for (frame, operation, more) in [
            ("join", "join", ""),
            ("join", "join", r#""since":0"#),
            ("broadcast", "publish", r#""payload":1"#),
            ("broadcast", "publish", r#""payload":1,"ephemeral":true"#),
            ("history", "history", ""),
            ("presence", "presence", ""),
        ] {
            let reference = client.ask(frame, room, more).await;
            let answer = loop {
                let frame = client.next().await;
                if frame.raw.contains(&format!(r#""ref":{reference}"#)) {
                    break frame;
                }
            };
            let was_refused = answer.kind() == "error";
            assert_eq!(!was_refused, may(operation), "{frame} {more} {vector}: {}", answer.raw);
            assert!(!was_refused || answer.text("code") == "forbidden", "{}", answer.raw);
        }
        let (mut socketio, answer) = Polling::connect(&server, &json!({ "token": token }).to_string()).await;
        assert!(answer.starts_with("40{"), "{answer}");
        let mut events = vec![
            (json!(["join", room]), "join"),
            (json!(["join", room, { "since": 0 }]), "join"),
            (json!(["broadcast", { "room": room, "payload": 1 }]), "publish"),
            (json!(["broadcast", { "room": room, "payload": 1, "ephemeral": true }]), "publish"),
            (json!(["history", { "room": room }]), "history"),
            (json!(["presence", { "room": room }]), "presence"),
        ];
        if let Some((kind, id)) = room.split_once(':').filter(|(_, id)| !id.is_empty()) {
            events.push((json!([format!("{kind}:join"), id]), "join"));
            events.push((json!([format!("{kind}:message"), { "roomId": id, "text": 1 }]), "publish"));
        }
        for (event, operation) in events {
            let answer = socketio.ask(&event.to_string()).await;
            let was_refused = answer.contains(r#""error":{"#);
            assert_eq!(!was_refused, may(operation), "{event} {vector}: {answer}");
            assert!(!was_refused || answer.contains(r#""code":"forbidden""#), "{answer}");
        }
        // A personal room is joined by the path, whatever the token says; here it takes a grant like any other.
        for listen in [
            Listen::to(&server, &format!("/events?room={room}")),
            // Whoever comes back is asked as well.
            Listen::to(&server, &format!("/events?room={room}")).after("any cursor"),
            // One that is allowed opens no other.
            Listen::to(&server, &format!("/events?room=user:{user}&room={room}")),
        ] {
            let status = listen.token(&token).open().await.status;
            assert_eq!(status, if may("join") { 200 } else { 403 }, "events of {vector}");
        }
        let path = format!("/rooms/{room}");
        let admin = vector["admin"].as_bool().unwrap();
        for (method, path, is_allowed) in [
            ("POST", format!("{path}/messages"), may("publish")),
            ("GET", format!("{path}/messages"), may("history")),
            ("GET", format!("{path}/presence"), may("presence")),
            ("POST", "/users/nobody/disconnect".to_owned(), admin),
        ] {
            let answer = Call::new(method, &path).token(&token).json(r#"{"payload":1}"#).to(&server).await;
            match is_allowed {
                true => assert!(answer.status < 300, "{method} {path} {vector}: {}", answer.body),
                false => assert_eq!(answer.status, 403, "{method} {path} {vector}: {}", answer.body),
            }
        }
    }
}

/// What else CONNECT says decides nothing, whatever its type.
#[tokio::test]
async fn token_alone_decides_at_connect() {
    let server = Server::start().await;
    let (good, bad) = (server.token("ada"), "nonsense");
    for (token, lets_in) in [(good.as_str(), true), (bad, false)] {
        let auth = json!({ "token": token, "client": 5, "pid": {}, "offset": 0 }).to_string();
        let (_, answer) = Polling::connect(&server, &auth).await;
        assert_eq!(answer.starts_with("40"), lets_in, "{answer}");
    }
}

/// Between two of the same message.
const AGAIN: Duration = Duration::from_millis(100);

#[tokio::test]
async fn logs_hold_no_token_and_no_payload() {
    let server = Server::with(&[("log.level", "trace")]).await;
    let token = server.token_for("ada", r#"[{"rooms":["*"],"can":["join","publish","history","presence","admin"]}]"#);
    let secret = "what-ada-said";
    let mut ada = server.dial().token_asked(&token).connected().await;
    ada.join("lobby").await;
    ada.say("lobby", format!("\"{secret}\"")).await;
    ada.send(format!(r#"{{"type":"broadcast","room":"lobby","payload":"{secret}"#)).await;
    ada.expect_error("bad_request").await;
    ada.send(format!(r#"{{"type":"refresh","token":"{token}","ref":1}}"#)).await;
    ada.expect("refreshed").await;
    let forged = format!("{token}x");
    server.dial().token_asked(&forged).turned_away().await;
    for token in [&token, &forged] {
        let said = format!(r#"{{"payload":"{secret}"}}"#);
        Call::new("POST", "/rooms/lobby/messages").token(token).json(&said).to(&server).await;
        Call::new("POST", "/tokens").token(token).json(r#"{"sub":"bob","ttl":60}"#).to(&server).await;
    }
    // The other doors, friendly and not, and HTTP/2, whose library logs as well.
    let mut bob = server.connect("bob").await;
    for token in [&token, &forged] {
        let asked = format!("/events?room=lobby&token={token}");
        for listen in [
            Listen::to(&server, "/events/ada").token(token).http2(),
            Listen::to(&server, &asked),
            Listen::to(&server, "/events/ada").header("cookie", &format!("carillon_token={token}")).header("origin", ORIGIN),
            Listen::to(&server, "/events/ada").token(token).after(secret),
        ] {
            let mut listener = listen.open().await;
            if listener.status == 200 {
                bob.say("user:bob", format!("\"{secret}\"")).await;
                // Said again until the stream has joined: before that it is not its to hear.
                let mut heard = std::pin::pin!(listener.event());
                while timeout(AGAIN, &mut heard).await.is_err() {
                    bob.say("lobby", format!("\"{secret}\"")).await;
                }
            }
        }
        let (mut seat, answer) = Polling::connect(&server, &json!({ "token": token }).to_string()).await;
        if answer.starts_with("40") {
            let said = json!(["broadcast", { "room": "lobby", "payload": secret }]).to_string();
            assert!(seat.ask(&said).await.contains("offset"));
            seat.ask(&json!(["broadcast", { "room": "", "payload": secret }]).to_string()).await;
            seat.ask(&json!(["refresh", token]).to_string()).await;
            seat.post(&format!("42[\"{secret}")).await;
        }
        for body in [format!(r#"{{"payload":"{secret}"#), format!(r#"{{"payload":1,"key":["{secret}"]}}"#), secret.to_owned()] {
            Call::new("POST", "/rooms/lobby/messages").token(token).json(&body).to(&server).await;
            Call::new("POST", "/revocations").token(token).json(&body).to(&server).await;
        }
    }
    // Signed well, and of another shape than expected: what is told of it at every door must not be its own words.
    let exp = now_s() + 60;
    let odd = [
        json!({ "sub": "ada", "exp": secret }),
        json!({ "sub": "ada", "exp": exp, "grants": [{ "rooms": secret, "can": [] }] }),
        json!({ "sub": { "name": secret }, "exp": exp }),
        json!({ "sub": format!("\u{1}{secret}"), "exp": exp }),
    ];
    let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{secret}","typ":"JWT"}}"#));
    let no_header = format!("{header}.{}", token.split_once('.').unwrap().1);
    for odd in odd.iter().map(signed).chain([no_header]) {
        assert_eq!(server.dial().token_asked(&odd).turned_away().await.0, 4001);
        let said = Call::new("POST", "/rooms/lobby/messages").token(&odd).json(r#"{"payload":1}"#).to(&server).await;
        assert_eq!((said.status, said.body.contains(secret)), (401, false));
        assert_eq!(Listen::to(&server, "/events/ada").token(&odd).open().await.status, 401);
        let (_, answer) = Polling::connect(&server, &json!({ "token": odd }).to_string()).await;
        assert!(answer.starts_with("44"), "{answer}");
        let mut refreshing = server.connect("carl").await;
        refreshing.send(format!(r#"{{"type":"refresh","token":"{odd}"}}"#)).await;
        assert_eq!(refreshing.closed().await.0, 4001);
    }
    let mut eve = server.connect("eve").await;
    for bad in [secret.to_owned(), format!(r#"{{"type":"{secret}","room":"lobby"}}"#)] {
        eve.send(bad).await;
        eve.next().await;
    }
    eve.send_bytes(&[&[0xc1, 0x80 | secret.len() as u8, 0, 0, 0, 0], secret.as_bytes()].concat()).await;
    assert_eq!(eve.closed().await.0, 1002);
    let logged = server.logged();
    assert!(logged.len() > 200, "something was logged: {logged}");
    let signature = token.rsplit('.').next().unwrap();
    for private in [secret, signature, SECRET] {
        assert!(!logged.contains(private), "{private} in {}", logged.lines().find(|line| line.contains(private)).unwrap());
    }
}
