//! How many connections a user has, counted over all gateways.

use std::{net::SocketAddr, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    client::{Client, Dial},
    server::{PATIENCE, Server, Shape},
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
