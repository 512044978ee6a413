//! The end of a process: what its clients are told, and what its operator sees.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::server::{PATIENCE, Server, get};

#[tokio::test]
async fn clients_are_sent_away_in_turn() {
    let mut server = Server::with(&[("drain.window_ms", "1500")]).await;
    assert_eq!(get(server.admin, "/readyz").await.status, 200);
    let (mut ada, mut bob) = (server.connect("ada").await, server.connect("bob").await);
    for client in [&mut ada, &mut bob] {
        client.join("lobby").await;
    }
    server.signal("TERM");
    for client in [&mut ada, &mut bob] {
        let (frames, (code, reason)) = client.until_closed().await;
        let [draining] = frames.as_slice() else { panic!("not one frame: {frames:?}") };
        assert_eq!((draining.kind().as_str(), draining.names()), ("draining", vec!["retryAfterMs", "type"]));
        let retry_ms = draining.number("retryAfterMs");
        assert!(retry_ms <= 1000, "{retry_ms}");
        assert_eq!((code, reason), (4200, format!("draining retry_ms={retry_ms}")));
    }
    assert_eq!(server.ended().await, Some(0));
}

#[tokio::test]
async fn readiness_goes_first() {
    let mut server = Server::with(&[("drain.window_ms", "60000")]).await;
    // With two connections one of each shard's stays for a while, wherever they are.
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(server.connect("ada").await);
    }
    server.signal("TERM");
    while get(server.admin, "/readyz").await.status == 200 {}
    let readyz = get(server.admin, "/readyz").await;
    assert_eq!((readyz.status, readyz.body.as_str()), (503, "draining\n"));
    assert_eq!(get(server.admin, "/livez").await.status, 200);
    // The listener closes a moment later.
    let closed = async { while tokio::net::TcpStream::connect(server.listen).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, closed).await.expect("no new connections are taken");
    // A second signal ends it at once.
    server.signal("TERM");
    assert_eq!(server.ended().await, Some(1));
}

#[tokio::test]
async fn interrupt_drains_too() {
    let mut server = Server::with(&[("drain.window_ms", "0")]).await;
    let mut ada = server.connect("ada").await;
    server.signal("INT");
    let (frames, close) = ada.until_closed().await;
    assert_eq!((frames.len(), close.0), (1, 4200));
    assert_eq!(server.ended().await, Some(0));
}

#[tokio::test]
async fn idle_server_drains_at_once() {
    let mut server = Server::start().await;
    let started = Instant::now();
    server.signal("TERM");
    assert_eq!(server.ended().await, Some(0));
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
}

#[tokio::test]
async fn members_are_served_to_the_end() {
    let mut server = Server::with(&[("drain.window_ms", "60000")]).await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        let mut client = server.connect("ada").await;
        client.join("lobby").await;
        clients.push(client);
    }
    server.signal("TERM");
    while get(server.admin, "/readyz").await.status == 200 {}
    // Some have left at once; the others still talk.
    let mut acked = None;
    for client in &mut clients {
        client.send(r#"{"type":"broadcast","room":"lobby","payload":"late","ref":"late","key":"late"}"#).await;
        loop {
            match client.event().await {
                crate::client::Event::Frame(frame) if frame.kind() == "ack" => {
                    acked = Some(frame.number("offset"));
                    break;
                }
                crate::client::Event::Closed(code, _) => {
                    assert_eq!(code, 4200);
                    break;
                }
                _ => {}
            }
        }
    }
    let acked = acked.expect("someone was still served");
    server.signal("KILL");
    server.ended().await;
    server.start_again().await;
    assert_eq!(server.connect("ada").await.history("lobby", "").await.offsets().last(), Some(&acked));
}

#[tokio::test]
async fn what_was_said_last_is_kept() {
    let mut server = Server::with(&[("drain.window_ms", "0")]).await;
    let mut ada = server.connect("ada").await;
    ada.send_all((1..=300).map(|number| format!(r#"{{"type":"broadcast","room":"lobby","payload":1,"ref":{number}}}"#))).await;
    server.signal("TERM");
    let (frames, close) = ada.until_closed().await;
    assert_eq!(close.0, 4200);
    let acked = frames.iter().filter(|frame| frame.kind() == "ack").map(|ack| ack.number("offset")).max().unwrap_or(0);
    assert_eq!(server.ended().await, Some(0));
    server.start_again().await;
    let stored = server.connect("ada").await.history("lobby", r#""limit":1000"#).await.offsets();
    assert!(stored.len() as u64 >= acked, "{} stored, {acked} acked", stored.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closes_are_spread_over_the_window() {
    const CLIENTS: u32 = 24;
    const WINDOW: Duration = Duration::from_secs(3);
    let window = WINDOW.as_millis().to_string();
    let mut server = Server::with(&[("drain.window_ms", &window), ("gateway.shards", "1")]).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(server.connect("ada").await);
    }
    let began = Instant::now();
    server.signal("TERM");
    let waits = clients.into_iter().map(|mut client| async move {
        assert_eq!(client.until_closed().await.1.0, 4200);
        began.elapsed()
    });
    let mut closes: Vec<Duration> = join_all(waits.map(tokio::spawn)).await.into_iter().map(Result::unwrap).collect();
    closes.sort_unstable();
    // However slow the machine is, nobody leaves before its turn; and some are gone before the last ones are told to go.
    for (turn, closed) in (0..).zip(&closes) {
        assert!(*closed >= WINDOW * turn / CLIENTS, "{closes:?}");
    }
    assert!(closes[0] < WINDOW * (CLIENTS - 1) / CLIENTS, "{closes:?}");
    assert_eq!(server.ended().await, Some(0));
}
