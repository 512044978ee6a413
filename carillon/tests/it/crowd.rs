//! How many connections a user has, counted over all gateways.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::{
    client::{Client, Dial},
    http::Call,
    polling::Polling,
    server::{Answer, PATIENCE, Server, Shape},
    unread::http2_question,
};

const THREE: &[(&str, &str)] = &[("limits.connections_per_user", "3")];
const TOO_MANY: (u16, &str) = (4100, "too_many_connections");

async fn is_refused(dial: Dial) {
    let (code, reason) = dial.turned_away().await;
    assert_eq!((code, reason.as_str()), TOO_MANY);
}

/// As a client does that is told to come back.
async fn comes_in(address: SocketAddr, token: &str) -> Client {
    let started = Instant::now();
    loop {
        if let Some(client) = Dial::to(address).token(token).attempt().await {
            return client;
        }
        assert!(started.elapsed() < PATIENCE, "still refused");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn one_more_is_too_many() {
    let server = Server::with(THREE).await;
    let ada = server.token("ada");
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(server.dial().token(&ada).connected().await);
    }
    is_refused(server.dial().token(&ada)).await;
    // Before `connected`: who is refused was never there.
    server.connect("bob").await;
    held.pop().unwrap().close().await;
    held.push(comes_in(server.listen, &ada).await);
    is_refused(server.dial().token(&ada)).await;
    // Those that are in were not touched.
    for client in &mut held {
        client.heard_nothing_else().await;
    }
}

#[tokio::test]
async fn crowd_leaves_exactly_the_limit() {
    let server = Server::with(THREE).await;
    let ada = server.token("ada");
    let crowd: Vec<_> = (0..20)
        .map(|_| {
            let dial = server.dial().token(&ada);
            tokio::spawn(dial.attempt())
        })
        .collect();
    let mut held = Vec::new();
    for one in crowd {
        held.extend(one.await.unwrap());
    }
    assert_eq!(held.len(), 3);
}

#[tokio::test]
async fn gateways_count_together_and_heal() {
    let server = Server::shaped(Shape::Cluster, THREE).await;
    let mut other = server.another_gateway("b").await;
    let ada = server.token("ada");
    let _here = server.dial().token(&ada).connected().await;
    let _there = [Dial::to(other.listen).token(&ada).connected().await, Dial::to(other.listen).token(&ada).connected().await];
    is_refused(server.dial().token(&ada)).await;
    is_refused(Dial::to(other.listen).token(&ada)).await;
    // What a dead gateway held counts no longer.
    other.kill().await;
    let _again = [comes_in(server.listen, &ada).await, comes_in(server.listen, &ada).await];
    is_refused(server.dial().token(&ada)).await;
}

#[tokio::test]
async fn gateway_has_so_many_places() {
    let server = Server::with(&[("limits.connections", "3")]).await;
    let mut held = Vec::new();
    for user in ["ada", "bob", "carl"] {
        held.push(server.connect(user).await);
    }
    let dave = server.token("dave");
    assert_eq!(server.dial().token(&dave).turned_away().await, (4100, "over_capacity".to_owned()));
    held.pop().unwrap().close().await;
    comes_in(server.listen, &dave).await;
}

/// Reads to the end, which is the server's doing.
async fn ends(socket: &mut TcpStream) -> Duration {
    let started = Instant::now();
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("an end in time");
    started.elapsed()
}

#[tokio::test]
async fn slow_strangers_go_first() {
    let settings = [("limits.unauthenticated", "4"), ("gateway.shards", "1"), ("limits.handshake_ms", "20000")];
    let server = Server::with(&settings).await;
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut socket = TcpStream::connect(server.listen).await.unwrap();
        socket.write_all(b"GET /ws HTTP/1.1\r\nhost: a\r\n").await.unwrap();
        slow.push(socket);
    }
    // Whoever is quick gets in past all of them, and the one that has waited the longest goes.
    server.connect("ada").await;
    ends(&mut slow[0]).await;
    server.until_metric("carillon_strangers_evicted_total", 1).await;
    for socket in &mut slow[1..] {
        socket.write_all(b"x: y\r\n").await.unwrap();
    }
}

/// Asks over a socket that stays, and reads the whole answer: its head.
async fn asks(socket: &mut TcpStream, request: &str) -> String {
    socket.write_all(format!("{request}\r\nhost: a\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.to_ascii_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return head.to_owned();
            }
        }
        let read = timeout(PATIENCE, socket.read_buf(&mut answer)).await.expect("an answer in time").unwrap();
        assert!(read > 0, "it broke off: {answer:?}");
    }
}

#[tokio::test]
async fn nothing_but_a_token_makes_a_socket_known() {
    let settings = [("limits.unauthenticated", "3"), ("gateway.shards", "1"), ("limits.handshake_ms", "20000")];
    let server = Server::with(&settings).await;
    let mut known = TcpStream::connect(server.listen).await.unwrap();
    let asked = format!("GET /rooms/lobby/messages HTTP/1.1\r\nauthorization: Bearer {}", server.token("ada"));
    assert!(asks(&mut known, &asked).await.starts_with("HTTP/1.1 200"));
    // What everybody may have, and be it answered well, keeps nobody.
    let mut strangers = Vec::new();
    for request in ["GET /openapi.json", "OPTIONS /rooms/lobby/messages", "GET /socket.io/?EIO=4&transport=polling"] {
        let mut socket = TcpStream::connect(server.listen).await.unwrap();
        assert!(asks(&mut socket, &format!("{request} HTTP/1.1")).await.starts_with("HTTP/1.1 20"), "{request}");
        strangers.push(socket);
    }
    for (gone, mut stranger) in (1..).zip(strangers) {
        let mut newcomer = TcpStream::connect(server.listen).await.unwrap();
        assert!(asks(&mut newcomer, &asked).await.starts_with("HTTP/1.1 200"));
        let quiet = TcpStream::connect(server.listen).await.unwrap();
        ends(&mut stranger).await;
        server.until_metric("carillon_strangers_evicted_total", gone).await;
        tokio::spawn(async move {
            sleep(PATIENCE).await;
            drop(quiet)
        });
    }
    assert!(asks(&mut known, &asked).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn refused_upgrades_count_until_they_have_gone() {
    let settings = [("limits.unauthenticated", "2"), ("gateway.shards", "1"), ("limits.handshake_ms", "20000")];
    let server = Server::with(&settings).await;
    let upgrade = "GET /ws HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==";
    let mut refused = Vec::new();
    for _ in 0..2 {
        let mut socket = TcpStream::connect(server.listen).await.unwrap();
        assert!(asks(&mut socket, upgrade).await.starts_with("HTTP/1.1 101"));
        refused.push(socket);
    }
    server.connect("ada").await;
    server.until_metric("carillon_strangers_evicted_total", 1).await;
}

#[tokio::test]
async fn http2_without_a_token_ends() {
    let server = Server::with(&[("limits.handshake_ms", "500")]).await;
    let mut socket = TcpStream::connect(server.listen).await.unwrap();
    // The preface and empty settings (RFC 9113, section 3.4), and then nothing.
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    assert!(ends(&mut socket).await >= Duration::from_millis(400));
}

#[tokio::test]
async fn slowest_socketio_guest_goes_first() {
    let settings = [("limits.unauthenticated", "2"), ("gateway.shards", "1"), ("limits.handshake_ms", "20000")];
    let server = Server::with(&settings).await;
    let open = async || Call::new("GET", "/socket.io/?EIO=4&transport=polling").to(&server).await;
    let guests = [open().await, open().await];
    // Whoever says who it is gets in past them.
    let (_ada, answer) = Polling::connect(&server, &format!(r#"{{"token":"{}"}}"#, server.token("ada"))).await;
    assert!(answer.starts_with("40{"), "{answer}");
    let lives = async |opened: &Answer| {
        let open: serde_json::Value = serde_json::from_str(&opened.body[1..]).unwrap();
        let path = format!("/socket.io/?EIO=4&transport=polling&sid={}", open["sid"].as_str().unwrap());
        Call::new("POST", &path).header("content-type", "text/plain").body(b"6").to(&server).await.status == 200
    };
    assert!(!lives(&guests[0]).await && lives(&guests[1]).await);
}

#[tokio::test]
async fn quiet_sockets_of_a_user_go_first() {
    let settings = [("limits.http_sockets_per_user", "4"), ("heartbeat.interval_ms", "3600000"), ("gateway.shards", "1")];
    let server = Server::with(&settings).await;
    let ask = async |user: &str| {
        let mut socket = TcpStream::connect(server.listen).await.unwrap();
        socket.write_all(&http2_question(&server.token(user), "/rooms/lobby/presence", 65_535)).await.unwrap();
        // Its answer: the last that comes before it is quiet.
        let answered = async {
            let (mut heard, mut scratch) = (Vec::new(), [0; 1024]);
            while !heard.windows(12).any(|text| text == b"\"members\":[]") {
                let count = socket.read(&mut scratch).await.unwrap();
                assert!(count > 0, "it is answered");
                heard.extend_from_slice(&scratch[..count]);
            }
        };
        timeout(PATIENCE, answered).await.expect("an answer in time");
        socket
    };
    let mut other = ask("bob").await;
    let mut sockets = Vec::new();
    for _ in 0..8 {
        sockets.push(ask("ada").await);
    }
    for quiet in &mut sockets[..4] {
        ends(quiet).await;
    }
    for stays in sockets[4..].iter_mut().chain([&mut other]) {
        // It may have been sent something; but not its end.
        let heard = stays.try_read(&mut [0; 1024]);
        assert!(
            heard.as_ref().map_or_else(|error| error.kind() == std::io::ErrorKind::WouldBlock, |count| *count > 0),
            "{heard:?}"
        );
    }
}

#[tokio::test]
async fn slow_socketio_bodies_end() {
    let hour = "3600000";
    let settings = [
        ("limits.handshake_ms", "500"),
        ("socketio.ping_interval_ms", hour),
        ("socketio.ping_timeout_ms", hour),
        ("gateway.shards", "1"),
    ];
    let server = Server::with(&settings).await;
    let (guest, known) =
        (Polling::open(&server).await, Polling::connect(&server, &format!(r#"{{"token":"{}"}}"#, server.token("ada"))).await.0);
    for client in [guest, known] {
        let mut socket = TcpStream::connect(server.listen).await.unwrap();
        let head =
            format!("POST {} HTTP/1.1\r\nhost: a\r\ncontent-type: text/plain\r\ncontent-length: 60000\r\n\r\n6", client.path());
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        timeout(PATIENCE, socket.read_exact(&mut answer)).await.expect("an answer in time").unwrap();
        assert_eq!(&answer, b"HTTP/1.1 400");
    }
}

#[tokio::test]
async fn slow_handshakes_end() {
    let server = Server::with(&[("limits.handshake_ms", "500")]).await;
    for start in ["", "GET /ws HT", "GET /ws HTTP/1.1\r\nhost: a\r\n"] {
        let mut socket = TcpStream::connect(server.listen).await.unwrap();
        socket.write_all(start.as_bytes()).await.unwrap();
        assert!(ends(&mut socket).await >= Duration::from_millis(400), "{start:?}");
    }
}

#[tokio::test]
async fn endless_heads_are_refused() {
    let server = Server::start().await;
    let long = format!("x: {}\r\n", "x".repeat(40_000));
    let many: String = (0..200).map(|number| format!("x-{number}: 1\r\n")).collect();
    for headers in [long, many] {
        let mut socket = TcpStream::connect(server.listen).await.unwrap();
        let request = format!("GET /ws HTTP/1.1\r\nhost: a\r\n{headers}\r\n");
        let _ = socket.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("an end in time");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 ") || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    server.connect("ada").await;
}
