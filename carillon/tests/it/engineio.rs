//! Engine.IO at the real door: its own settings, whose time is up and whose is not, requests that another gateway forwards, and how
//! its WebSockets are closed. What the transport does for anybody is held by the echoes in `tests/web`.

use std::{net::SocketAddr, time::Duration};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use crate::{
    http::Call,
    polling::Polling,
    server::{PATIENCE, Server, Shape, ask},
};

/// What the handshake says, at any path of any gateway.
async fn handshake(address: SocketAddr, path: &str) -> Value {
    let request = format!("GET {path}?EIO=4&transport=polling HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let opened = ask(address, request).await;
    assert_eq!(opened.status, 200, "{}", opened.body);
    serde_json::from_str(opened.body.strip_prefix('0').expect("an open packet")).unwrap()
}

/// A WebSocket of Engine.IO, packets as text.
struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    /// `sid`: of the polling client that it is to take over.
    async fn open(address: SocketAddr, sid: Option<&str>) -> Self {
        let sid = sid.map(|sid| format!("&sid={sid}")).unwrap_or_default();
        let url = format!("ws://{address}/socket.io/?EIO=4&transport=websocket{sid}");
        let stream = TcpStream::connect(address).await.unwrap();
        Self(timeout(PATIENCE, client_async(url, stream)).await.unwrap().unwrap().0)
    }

    /// Takes over a polling client, whichever gateway holds that.
    async fn upgraded(address: SocketAddr, sid: &str) -> Self {
        let mut socket = Self::open(address, Some(sid)).await;
        socket.send("2probe").await;
        assert_eq!(socket.next().await, Ok("3probe".to_owned()));
        socket.send("5").await;
        socket
    }

    async fn send(&mut self, packet: &str) {
        self.0.send(Message::text(packet)).await.unwrap();
    }

    /// The next packet, or the code of the close frame.
    async fn next(&mut self) -> Result<String, Option<u16>> {
        loop {
            match timeout(PATIENCE, self.0.next()).await.expect("something in time") {
                Some(Ok(Message::Text(text))) => return Ok(text.to_string()),
                Some(Ok(Message::Close(close))) => return Err(close.map(|close| close.code.into())),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(None),
            }
        }
    }

    async fn next_with(&mut self, start: &str) -> String {
        loop {
            let packet = self.next().await.unwrap_or_else(|code| panic!("{start} and no close: {code:?}"));
            if packet.starts_with(start) {
                return packet;
            }
        }
    }

    async fn close_code(&mut self) -> Option<u16> {
        loop {
            if let Err(code) = self.next().await {
                return code;
            }
        }
    }
}

#[tokio::test]
async fn door_has_settings_of_its_own() {
    let server = Server::with(&[
        ("socketio.path", "/rt/chat/"),
        ("socketio.ping_interval_ms", "400"),
        ("socketio.ping_timeout_ms", "300"),
        ("limits.frame_bytes", "1000"),
    ])
    .await;
    assert_eq!(Call::new("GET", "/socket.io/?EIO=4&transport=polling").to(&server).await.status, 404);
    // Clients of either kind leave out the slash at the end.
    for path in ["/rt/chat/", "/rt/chat"] {
        let opened = handshake(server.listen, path).await;
        let told = ["pingInterval", "pingTimeout", "maxPayload"].map(|name| opened[name].as_u64().unwrap());
        assert_eq!(told, [400, 300, 1000], "{path}");
    }
    let sid = handshake(server.listen, "/rt/chat/").await["sid"].as_str().unwrap().to_owned();
    let path = format!("/rt/chat/?EIO=4&transport=polling&sid={sid}");
    let post = |body: &str| Call::new("POST", &path).header("content-type", "text/plain").body(body.as_bytes());
    assert_eq!(post(&format!("40{}", json!({ "token": server.token("ada") }))).to(&server).await.status, 200);
    // Pings come, and each that is answered is followed by another one; who answers none is gone.
    let mut pings = 0;
    loop {
        let polled = Call::new("GET", &path).to(&server).await;
        if polled.status != 200 {
            break;
        }
        if polled.body.split('\u{1e}').any(|packet| packet == "2") {
            pings += 1;
            if pings < 3 {
                assert_eq!(post("3").to(&server).await.status, 200);
            }
        }
    }
    assert_eq!(pings, 3);
    let sid = handshake(server.listen, "/rt/chat/").await["sid"].as_str().unwrap().to_owned();
    let path = format!("/rt/chat/?EIO=4&transport=polling&sid={sid}");
    let large = format!("4{}", "x".repeat(1000));
    assert_eq!(
        Call::new("POST", &path).header("content-type", "text/plain").body(large.as_bytes()).to(&server).await.status,
        413
    );
}

#[tokio::test]
async fn who_connects_again_has_its_whole_time() {
    const HANDSHAKE_MS: u64 = 3000;
    let server = Server::with(&[("limits.handshake_ms", &HANDSHAKE_MS.to_string())]).await;
    let auth = json!({ "token": server.token("ada") }).to_string();
    // What was due for the first time must not end the second one: when it is about to connect, and when it has.
    let (mut early, answer) = Polling::connect(&server, &auth).await;
    assert!(answer.starts_with("40{"), "{answer}");
    sleep(Duration::from_millis(HANDSHAKE_MS * 3 / 4)).await;
    assert_eq!(early.post("41").await, 200);
    sleep(Duration::from_millis(HANDSHAKE_MS / 2)).await;
    assert_eq!(early.post(&format!("40{auth}")).await, 200, "it had half its time left");
    early.next_with("40{").await;
    assert!(early.ask(r#"["join","lobby"]"#).await.contains(r#""room":"lobby""#));
    sleep(Duration::from_millis(HANDSHAKE_MS)).await;
    assert!(early.ask(r#"["leave","lobby"]"#).await.contains(r#""room":"lobby""#));
    // Who stays out is not waited for without end.
    assert_eq!(early.post("41").await, 200);
    assert!(!early.was_stopped().await);
}

#[tokio::test]
async fn close_codes_come_by_every_way() {
    let server = Server::shaped(Shape::Cluster, &[("limits.frame_bytes", "2000"), ("jwt.leeway_s", "0")]).await;
    let other = server.another_gateway("b").await;
    let auth = |token: &str| format!("40{}", json!({ "token": token }));
    let connected = async |way: &str, token: &str| {
        let mut socket = match way {
            "websocket" => Socket::open(server.listen, None).await,
            way => {
                let sid = handshake(server.listen, "/socket.io/").await["sid"].as_str().unwrap().to_owned();
                Socket::upgraded(if way == "carried" { other.listen } else { server.listen }, &sid).await
            }
        };
        socket.send(&auth(token)).await;
        socket.next_with("40{").await;
        socket
    };
    for way in ["websocket", "upgraded", "carried"] {
        let mut ada = connected(way, &server.token("ada")).await;
        ada.send(&format!("42{}", json!(["broadcast", { "room": "r", "payload": "x".repeat(2000) }]))).await;
        assert_eq!(ada.close_code().await, Some(1009), "{way}: too large");
        let mut ada = connected(way, &server.token("ada")).await;
        ada.0.get_mut().write_all(&[0x83, 0x80, 0, 0, 0, 0]).await.unwrap();
        assert_eq!(ada.close_code().await, Some(1002), "{way}: no such frame");
        let mut ada = connected(way, &server.token("ada")).await;
        ada.0.get_mut().write_all(&[0x81, 0x82, 0, 0, 0, 0, 0xC3, 0x28]).await.unwrap();
        assert_eq!(ada.close_code().await, Some(1007), "{way}: not UTF-8");
        // What the holder says.
        let mut ada = connected(way, &server.token_of("ada", 2, None)).await;
        assert_eq!(ada.close_code().await, Some(4004), "{way}: its token ended");
    }
    // Also while it probes.
    for address in [server.listen, other.listen] {
        for (said, code) in [("x".repeat(2001), 1009), ("4too early".to_owned(), 1002)] {
            // Clients of their own: one whose probe has not been forgotten yet lets no other socket probe.
            let sid = handshake(server.listen, "/socket.io/").await["sid"].as_str().unwrap().to_owned();
            let mut socket = Socket::open(address, Some(&sid)).await;
            socket.send(&said).await;
            assert_eq!(socket.close_code().await, Some(code), "{address}");
        }
        // A second one, which the first does not mind; nor does it count for one that has not probed itself.
        for said in ["2probe", "5"] {
            let sid = handshake(server.listen, "/socket.io/").await["sid"].as_str().unwrap().to_owned();
            let mut first = Socket::open(server.listen, Some(&sid)).await;
            first.send("2probe").await;
            first.next_with("3probe").await;
            let mut second = Socket::open(address, Some(&sid)).await;
            second.send(said).await;
            assert_eq!(second.close_code().await, Some(1002), "{address} {said}");
            first.send("5").await;
            first.send(&auth(&server.token("ada"))).await;
            first.next_with("40{").await;
        }
    }
}

#[tokio::test]
async fn forwarded_requests_of_the_known_are_not_evicted() {
    const STRANGERS: usize = 4;
    let settings = [("limits.unauthenticated", STRANGERS.to_string()), ("gateway.shards", "1".to_owned())];
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    let server = Server::shaped(Shape::Cluster, &settings).await;
    let other = server.another_gateway("b").await;
    let (mut ada, answer) = Polling::connect(&server, &json!({ "token": server.token("ada") }).to_string()).await;
    assert!(answer.starts_with("40{"), "{answer}");
    ada.ask(r#"["join","lobby",{"echo":true}]"#).await;
    let path = format!("/socket.io/?EIO=4&transport=polling&sid={}", ada.sid());
    let mut polled = TcpStream::connect(other.listen).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    polled.write_all(request.as_bytes()).await.unwrap();
    // One that takes its time to write, too.
    let (mut posted, packet) =
        (TcpStream::connect(other.listen).await.unwrap(), r#"42["broadcast",{"room":"lobby","payload":1}]"#);
    let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n4", packet.len());
    posted.write_all(head.as_bytes()).await.unwrap();
    // Whoever holds the client has been asked by then, and has said that it is known.
    sleep(Duration::from_millis(500)).await;
    let mut strangers = Vec::new();
    for _ in 0..2 * STRANGERS {
        strangers.push(TcpStream::connect(other.listen).await.unwrap());
    }
    crate::server::until_metric(other.admin, "carillon_strangers_evicted_total", STRANGERS as u64).await;
    posted.write_all(&packet.as_bytes()[1..]).await.unwrap();
    for (mut socket, said) in [(posted, "ok"), (polled, r#""payload":1"#)] {
        let mut answer = String::new();
        timeout(PATIENCE, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(said), "{answer}");
    }
}

#[tokio::test]
async fn nobody_is_given_an_id_that_others_could_not_reach() {
    let server = Server::cluster().await;
    // NATS is nowhere near.
    let alone = server.another_gateway_with("alone", &[("nats.url", "nats://127.0.0.1:1")]).await;
    let request = "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let refused = ask(alone.listen, request).await;
    assert!(refused.status == 503 && refused.head.contains("retry-after: 1"), "{} {}", refused.status, refused.head);
    handshake(server.listen, "/socket.io/").await;
}
