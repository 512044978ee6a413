//! A server that is too old or too small is refused, and one that isn't there is waited for.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    time::Duration,
};

use carillon_platform::{
    nats::{ConnectError, Nats},
    settings,
};

use crate::server::NatsServer;

/// Greets one client as a NATS server would, and answers its pings.
fn stand_in(info: &'static str) -> settings::Nats {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("nats://me:secret@{}", listener.local_addr().expect("bound"));
    std::thread::spawn(move || {
        while let Ok((mut socket, _)) = listener.accept() {
            let _ = socket.write_all(format!("INFO {info}\r\n").as_bytes());
            let lines = BufReader::new(socket.try_clone().expect("a socket")).lines();
            for _ in lines.map_while(Result::ok).filter(|line| line == "PING") {
                let _ = socket.write_all(b"PONG\r\n");
            }
        }
    });
    settings::Nats { url: settings::Url::parse(&url, &["nats"]), ..settings::Nats::default() }
}

#[tokio::test]
async fn old_server_is_refused() {
    let settings = stand_in(r#"{"server_id":"S","server_name":"old","version":"2.11.9","max_payload":1048576,"proto":1}"#);
    let error = Nats::connect(&settings, "test").await.err().expect("refused");
    assert!(matches!(&error, ConnectError::TooOld { found, .. } if found == "2.11.9"));
    let text = error.to_string();
    assert!(text.contains("2.11.9") && text.contains("2.12 or newer") && !text.contains("secret"), "{text}");
}

#[tokio::test]
async fn small_payload_is_refused() {
    let settings = stand_in(r#"{"server_id":"S","server_name":"small","version":"2.15.1","max_payload":65536,"proto":1}"#);
    let error = Nats::connect(&settings, "test").await.err().expect("refused");
    assert!(matches!(error, ConnectError::SmallPayload { found: 65_536, needed: 1_048_576, .. }));
}

#[tokio::test]
async fn missing_url_is_refused() {
    assert!(matches!(Nats::connect(&settings::Nats::default(), "test").await, Err(ConnectError::NoUrl)));
}

#[tokio::test]
async fn missing_server_is_awaited() {
    let mut server = NatsServer::start();
    server.kill();
    let settings = server.settings();
    let connecting = tokio::spawn(async move { Nats::connect(&settings, "test").await.map(|nats| nats.is_up()) });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!connecting.is_finished());
    server.restart();
    assert!(connecting.await.expect("no panic").expect("new enough"));
}
