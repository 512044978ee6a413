//! The server pings; who does not answer is gone.

use crate::{
    client::{Client, Event},
    server::Server,
};

const QUICK: &[(&str, &str)] = &[("heartbeat.interval_ms", "800"), ("heartbeat.timeout_ms", "600")];

async fn ping(client: &mut Client) {
    let event = client.event().await;
    assert!(matches!(event, Event::Ping), "{event:?}");
}

#[tokio::test]
async fn who_answers_lives() {
    let server = Server::with(QUICK).await;
    let mut ada = server.connect("ada").await;
    // Reading a ping answers it.
    for _ in 0..3 {
        ping(&mut ada).await;
    }
    ada.heard_nothing_else().await;
}

#[tokio::test]
async fn who_is_silent_is_closed() {
    let server = Server::with(QUICK).await;
    let mut ada = server.connect("ada").await;
    ada.join("lobby").await;
    // It reads nothing, so that it answers nothing.
    server.until_metric(r#"carillon_closes_total{code="4103"}"#, 1).await;
    let (frames, close) = ada.until_closed().await;
    assert!(frames.is_empty(), "{frames:?}");
    assert_eq!(close, (4103, "heartbeat_timeout".to_owned()));
    server.until_metric("carillon_connections", 0).await;
}

#[tokio::test]
async fn any_traffic_is_a_sign_of_life() {
    let server = Server::with(QUICK).await;
    let mut mute = server.connect("ada").await;
    let mut clock = server.connect("bob").await;
    // Three pings of another connection: in this time a silent one would be closed.
    for _ in 0..3 {
        loop {
            mute.send(r#"{"type":"leave","room":"nowhere"}"#).await;
            let waited = tokio::time::timeout(std::time::Duration::from_millis(40), clock.event()).await;
            if let Ok(event) = waited {
                assert!(matches!(event, Event::Ping));
                break;
            }
        }
    }
    assert_eq!(server.metric(r#"carillon_closes_total{code="4103"}"#).await, 0);
    mute.expect_error("not_joined").await;
}

#[tokio::test]
async fn interval_holds_with_a_long_timeout() {
    let server = Server::with(&[("heartbeat.interval_ms", "100"), ("heartbeat.timeout_ms", "20000")]).await;
    let mut ada = server.connect("ada").await;
    let started = std::time::Instant::now();
    for _ in 0..4 {
        ping(&mut ada).await;
    }
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
}
