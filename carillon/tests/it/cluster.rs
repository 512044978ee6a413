//! What only several processes can show: rooms that span gateways, any order of starts, and each process's death.

use std::{collections::BTreeMap, time::Instant};

use crate::{
    client::Dial,
    http::Call,
    listener::Listen,
    load::{Door, Member, Publisher, is_complete},
    polling::Polling,
    server::{ORIGIN, SECRET, Server, Service, Shape, get, until_metric, value_of},
};

#[tokio::test]
async fn gateways_share_a_room() {
    let a = Server::cluster().await;
    let (b, c) = (a.another_gateway("b").await, a.another_gateway("c").await);
    let mut ada = a.connect("ada").await;
    let mut bob = Dial::to(b.listen).token(&a.token("bob")).connected().await;
    let _carl = Dial::to(c.listen).token(&a.token("carl")).connected().await;
    bob.join("lobby").await;
    ada.count("lobby", 1..=300).await;
    bob.hears(1..=300).await;
    bob.heard_nothing_else().await;
    until_metric(b.admin, "carillon_deliveries_received_total", 300).await;
    // What comes in is counted before this one is seen.
    let _dave = Dial::to(c.listen).token(&a.token("dave")).connected().await;
    until_metric(c.admin, "carillon_connections", 2).await;
    let metrics = get(c.admin, "/metrics").await.body;
    assert!(metrics.contains("carillon_deliveries_received_total 0\n"), "{metrics}");
    assert!(value_of("carillon_attaches_total", &metrics) >= 2, "personal rooms: {metrics}");
}

#[tokio::test]
async fn any_order_of_starts_will_do() {
    use Service::{Auth, Fanout, Gateway, Nats};
    for order in [[Gateway, Fanout, Auth, Nats], [Fanout, Nats, Gateway, Auth], [Auth, Gateway, Nats, Fanout]] {
        let server = Server::cluster_in_order(order).await;
        let door = Door { address: server.listen, token: server.token("ada"), client: "ada".to_owned() };
        let mut ada = door.enter().await;
        assert_eq!(ada.say("lobby", 1).await.number("offset"), 1, "{order:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_processes_lose_nothing() {
    let mut server = Server::cluster().await;
    let other = server.another_gateway("b").await;
    let (a, b) = (server.listen, other.listen);
    let door = |address, name: &str| Door { address, token: server.token(name), client: name.to_owned() };
    let mut members = [Member::start(door(a, "near")).await, Member::start(door(b, "far")).await];
    let start = async |name, address| Publisher::start(door(address, name), u64::MAX, false).await;
    let publishers = [start("ada", a).await, start("bob", a).await, start("carl", b).await];
    let newcomer = door(a, "newcomer");

    for service in [Service::Gateway, Service::Fanout, Service::Auth, Service::Nats] {
        until_said_since(&mut members, &publishers).await;
        let killed = Instant::now();
        server.service(service).kill().await;
        server.service(service).start_again().await;
        let up = killed.elapsed();
        until_said_since(&mut members, &publishers).await;
        let heard = killed.elapsed();
        newcomer.enter().await.close().await;
        println!(
            "{service:?} killed: up again after {up:.1?}, everyone hears everyone after {heard:.1?}, newcomers after {:.1?}",
            killed.elapsed()
        );
    }

    publishers.iter().for_each(Publisher::stop);
    let mut acked = BTreeMap::new();
    for publisher in publishers {
        let (name, said) = (publisher.name.clone(), publisher.said());
        let offsets = publisher.acked().await;
        assert_eq!(offsets.len() as u64, said, "{name}: all that was said is acked in the end");
        acked.insert(name, offsets);
    }
    let all: usize = acked.values().map(BTreeMap::len).sum();
    for member in &mut members {
        member.until(|heard| heard.len() >= all).await;
        assert!(is_complete(&member.heard.borrow(), &acked));
    }
    println!("{all} messages acked, each heard once and in order");
}

/// Waits until every member has heard every publisher say something that it had not said when this was called.
async fn until_said_since(members: &mut [Member], publishers: &[Publisher]) {
    let said: Vec<(&str, u64)> = publishers.iter().map(|publisher| (publisher.name.as_str(), publisher.said())).collect();
    for member in members {
        let is_newer = |(name, said): &(&str, u64), heard: &[(String, u64)]| {
            heard.iter().rev().find(|(sender, _)| sender == name).is_some_and(|(_, number)| number > said)
        };
        member.until(|heard| said.iter().all(|publisher| is_newer(publisher, heard))).await;
    }
}

#[tokio::test]
async fn every_door_says_that_it_is_only_for_now() {
    let settings = [
        ("jwt.secret", SECRET),
        ("origins", ORIGIN),
        ("limits.handshake_ms", "1000"),
        ("limits.publish_timeout_ms", "1000"),
        ("limits.request_timeout_ms", "1000"),
    ];
    let mut server = Server::bare(Shape::Cluster, &settings).await;
    let rooms = "/events?room=lobby";
    let mut bob = server.connect("bob").await;
    let mut ada = Listen::to(&server, rooms).token(&server.token("ada")).open().await.begun().await;
    let ask = |method: &str| Call::new(method, "/rooms/lobby/messages").json(r#"{"payload":1}"#);
    // Nobody orders: a stream that can't begin ends as one that may come back, a publish may be stored or not.
    server.service(Service::Fanout).kill().await;
    let (blocks, retry_ms) = Listen::to(&server, rooms).token(&server.token("ada")).open().await.ended().await;
    assert_eq!(blocks.len(), 1, "only when to come back: {blocks:?}");
    assert!((2000..=4000).contains(&retry_ms), "{retry_ms}");
    for (method, outcome) in [("POST", Some("unknown")), ("GET", None)] {
        let answer = ask(method).token(&server.token("ada")).to(&server).await;
        let problem: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!((answer.status, problem["code"].as_str(), problem["outcome"].as_str()), (503, Some("unavailable"), outcome));
        assert!(answer.head.contains("retry-after: 1"), "{}", answer.head);
    }
    server.service(Service::Fanout).start_again().await;
    while ask("GET").token(&server.token("ada")).to(&server).await.status != 200 {}
    // Nobody can say what a token is worth; streams that are there go on.
    let known = server.token("dora");
    server.dial().token(&known).connected().await.close().await;
    server.service(Service::Auth).kill().await;
    // One that was found good a short while ago opens every door.
    let mut dora = server.dial().token(&known).connected().await;
    Listen::to(&server, rooms).token(&known).open().await.begun().await;
    assert_eq!(ask("GET").token(&known).to(&server).await.status, 200);
    let auth = |token: &str| format!(r#"{{"token":"{token}"}}"#);
    let (mut seat, answer) = Polling::connect(&server, &auth(&known)).await;
    assert!(answer.starts_with("40{"), "{answer}");
    let token = server.token("carl");
    // The transport ends, and nobody says that the token is bad.
    let (refused, answer) = Polling::connect(&server, &auth(&token)).await;
    assert!(!answer.starts_with("44") && !refused.was_stopped().await, "{answer}");
    // A newer one has to wait, and what there is goes on.
    let newer = server.token_of("dora", 7200, None);
    dora.send(format!(r#"{{"type":"refresh","token":"{newer}","ref":"r"}}"#)).await;
    let refused = dora.expect_error("unavailable").await;
    assert_eq!((refused.text("ref").as_str(), refused.number("retryAfterMs")), ("r", 1000));
    let refused = seat.ask(&format!(r#"["refresh","{newer}"]"#)).await;
    assert!(refused.contains(r#""code":"unavailable""#), "{refused}");
    dora.send(format!(r#"{{"type":"refresh","token":"{known}","ref":"s"}}"#)).await;
    assert_eq!(dora.expect("refreshed").await.text("ref"), "s");
    dora.say("elsewhere", 1).await;
    assert_eq!(server.dial().token(&token).turned_away().await.0, 4100);
    let retry_ms = Listen::to(&server, rooms).token(&token).sent_away().await;
    assert!((2000..=4000).contains(&retry_ms), "{retry_ms}");
    let answer = ask("POST").token(&token).to(&server).await;
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert!(answer.body.contains(r#""code":"unavailable""#) && answer.head.contains("retry-after: 1"), "{}", answer.head);
    let said = bob.say("lobby", 1).await.number("offset");
    ada.hears("lobby", said..=said).await;
}
