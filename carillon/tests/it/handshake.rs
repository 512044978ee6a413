//! Who is let in, and how the others are turned away.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::protocol::frame::{
    Frame as WireFrame,
    coding::{Data, OpCode},
};

use crate::server::{ORIGIN, Server, ask, unix_ms};

const UNAUTHORIZED: (u16, &str) = (4001, "unauthorized");

fn assert_close(close: (u16, String), expected: (u16, &str)) {
    assert_eq!((close.0, close.1.as_str()), expected);
}

#[tokio::test]
async fn token_has_three_places() {
    let server = Server::start().await;
    let token = server.token("ada");
    for dial in [server.dial().token(&token), server.dial().token_offered(&token), server.dial().token_asked(&token)] {
        assert_eq!(dial.greeted().await.1.text("userId"), "ada");
    }
}

#[tokio::test]
async fn first_place_decides() {
    let server = Server::start().await;
    let (ada, bob, eve) = (server.token("ada"), server.token("bob"), server.token("eve"));
    let user = async |dial: crate::client::Dial| dial.greeted().await.1.text("userId");
    assert_eq!(user(server.dial().token(&ada).token_offered(&bob).token_asked(&eve)).await, "ada");
    assert_eq!(user(server.dial().token_offered(&bob).token_asked(&eve)).await, "bob");
    // A bad one is not made good by another place.
    assert_close(server.dial().token("bad").token_offered(&bob).turned_away().await, UNAUTHORIZED);
    assert_close(server.dial().token_offered("bad").token_asked(&eve).turned_away().await, UNAUTHORIZED);
}

#[tokio::test]
async fn subprotocol_is_answered_if_offered() {
    let server = Server::start().await;
    let token = server.token("ada");
    let (_, response) = server.dial().token_offered(&token).open().await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "carillon.v1");
    let (mut client, response) = server.dial().token_asked(&token).open().await.unwrap();
    assert!(!response.headers().contains_key("sec-websocket-protocol"));
    client.expect("connected").await;
}

#[tokio::test]
async fn bad_tokens_are_turned_away() {
    let server = Server::start().await;
    let good = server.token("ada");
    let hour_ago = server.token_since(unix_ms() - 3_600_000, "ada", 600, None);
    let forged = format!("{}AAAA", &good[..good.len() - 4]);
    let of_nobody = server.dial();
    assert_close(of_nobody.turned_away().await, UNAUTHORIZED);
    for token in ["nonsense", &hour_ago, &forged, ""] {
        assert_close(server.dial().token_asked(token).turned_away().await, UNAUTHORIZED);
    }
}

#[tokio::test]
async fn long_tokens_are_turned_away() {
    let server = Server::with(&[("limits.token_bytes", "8192")]).await;
    let padded = |bytes: usize| {
        // Each byte of a pattern is 4/3 bytes of a token: come near from below, then take the longest that fits.
        let with =
            |padding: usize| server.token_for("ada", &format!(r#"[{{"rooms":["{}"],"can":["join"]}}]"#, "x".repeat(padding)));
        let mut padding = bytes * 3 / 4 - 400;
        while with(padding + 1).len() <= bytes {
            padding += 1;
        }
        with(padding)
    };
    let longest = padded(8192);
    assert!(longest.len() > 8188, "{}", longest.len());
    server.dial().token(&longest).connected().await;
    for bytes in [8200, 12_000, 30_000] {
        assert_close(server.dial().token(&padded(bytes)).turned_away().await, UNAUTHORIZED);
    }
}

#[tokio::test]
async fn nothing_is_read_without_a_token() {
    let server = Server::start().await;
    let (mut stranger, _) = server.dial().open().await.unwrap();
    stranger.send(r#"{"type":"broadcast","room":"lobby","payload":"from nobody","ref":1}"#).await;
    assert_close(stranger.closed().await, UNAUTHORIZED);
    assert!(server.connect("ada").await.history("lobby", "").await.offsets().is_empty());
}

#[tokio::test]
async fn origins_are_exact() {
    let server = Server::with(&[("origins", "https://app.example.com,http://other.example:8080")]).await;
    let token = server.token("ada");
    let status = async |origin: &str| server.dial().token(&token).origin(origin).open().await.map(|_| 101);
    assert_eq!(status(ORIGIN).await, Ok(101));
    assert_eq!(status("http://other.example:8080").await, Ok(101));
    for origin in [
        "https://app.example.com.evil.example",
        "http://app.example.com",
        "https://app.example.com:8443",
        "https://sub.app.example.com",
        "http://other.example",
        "http://localhost:3000",
        "null",
        "https://app.example.com/",
    ] {
        assert_eq!(status(origin).await, Err(403), "{origin}");
    }
}

#[tokio::test]
async fn client_ids_are_checked() {
    let server = Server::start().await;
    let token = server.token("ada");
    let longest = "Az09_-".repeat(10) + "abcd";
    let (_, connected) = server.dial().token(&token).client(&longest).greeted().await;
    assert_eq!(connected.text("clientId"), longest);
    for client in ["", &"x".repeat(65), "a%20b", "a.b", "%C3%A4"] {
        assert_eq!(server.dial().token(&token).client(client).open().await.map(|_| ()), Err(400), "{client}");
    }
    let made = async || server.dial().token(&token).greeted().await.1.text("clientId");
    assert_ne!(made().await, made().await);
}

#[tokio::test]
async fn connected_says_who_and_what() {
    let server =
        Server::bare(crate::server::Shape::of_this_run(), &[("jwt.secret", crate::server::SECRET), ("origins", ORIGIN)]).await;
    let before = unix_ms() / 1000 * 1000;
    let token = server.token_of("ada", 600, None);
    let (_, connected) = server.dial().token(&token).client("phone").greeted().await;
    let names = ["clientId", "connectionId", "expiresAt", "limits", "personal", "type", "userId"];
    assert_eq!(connected.names(), names);
    assert_eq!((connected.text("userId").as_str(), connected.text("clientId").as_str()), ("ada", "phone"));
    let expires_at = connected.number("expiresAt");
    assert!((before + 600_000..=unix_ms() + 600_000).contains(&expires_at), "{expires_at}");
    let limits = connected.object("limits");
    assert_eq!(limits.names(), ["frameBytes", "framesPerSecond", "rooms"]);
    assert_eq!([limits.number("frameBytes"), limits.number("framesPerSecond"), limits.number("rooms")], [65_536, 50, 256]);
    let personal = connected.object("personal");
    assert_eq!(personal.names(), ["epoch", "offset", "room"]);
    assert_eq!((personal.text("room").as_str(), personal.number("offset")), ("user:ada", 0));
    assert_eq!(personal.text("epoch"), "");
    let (_, again) = server.dial().token(&token).client("phone").greeted().await;
    assert_ne!(again.text("connectionId"), connected.text("connectionId"));
}

#[tokio::test]
async fn other_requests_are_refused() {
    let server = Server::start().await;
    let status = async |request: &str| ask(server.listen, request).await.status;
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n";
    let key = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let plain = ask(server.listen, "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert_eq!(plain.status, 426);
    assert!(plain.head.contains("upgrade: websocket"), "{}", plain.head);
    assert!(plain.body.contains(r#""code":"bad_request""#), "{}", plain.body);
    let old = upgrade.replace("13", "8").replace("connection: upgrade", "connection: upgrade, close");
    assert_eq!(status(&format!("GET /ws HTTP/1.1\r\nhost: a\r\n{old}{key}\r\n")).await, 426);
    assert_eq!(status("POST /ws HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await, 400);
    let without_key = upgrade.replace("connection: upgrade", "connection: upgrade, close");
    assert_eq!(status(&format!("GET /ws HTTP/1.1\r\nhost: a\r\n{without_key}\r\n")).await, 400);
    assert_eq!(status("GET /nothing HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await, 404);
    server.connect("ada").await.heard_nothing_else().await;
}

#[tokio::test]
async fn frames_may_come_with_the_handshake() {
    let server = Server::start().await;
    let token = server.token("ada");
    let mut stream = TcpStream::connect(server.listen).await.unwrap();
    let mut bytes = format!(
        "GET /ws?token={token} HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes();
    let mut early = WireFrame::message(r#"{"type":"ping","ref":"early"}"#, OpCode::Data(Data::Text), true);
    early.header_mut().mask = Some([1, 2, 3, 4]);
    early.format(&mut bytes).unwrap();
    stream.write_all(&bytes).await.unwrap();
    let answered = tokio::time::timeout(crate::server::PATIENCE, async {
        let (mut heard, mut piece) = (Vec::new(), [0; 4096]);
        while !heard.windows(PONG.len()).any(|window| window == PONG) {
            let count = stream.read(&mut piece).await.unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&heard));
            heard.extend_from_slice(&piece[..count]);
        }
    });
    answered.await.expect("the early frame is answered");
}

const PONG: &[u8] = br#"{"type":"pong","ref":"early"}"#;

#[tokio::test]
async fn many_early_bytes_harm_nobody() {
    let server = Server::with(&[("limits.frame_bytes", "64")]).await;
    let token = server.token("ada");
    let mut stream = TcpStream::connect(server.listen).await.unwrap();
    let head = format!(
        "GET /ws?token={token} HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nx-padding: {}\r\n",
        "x".repeat(20_000)
    );
    // In two pieces, so that the server has made room for a long head when the rest comes.
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut rest = b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".to_vec();
    rest.extend([0x8A, 0x80, 0, 0, 0, 0].repeat(5000));
    stream.write_all(&rest).await.unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 101");
    server.connect("bob").await.heard_nothing_else().await;
}
