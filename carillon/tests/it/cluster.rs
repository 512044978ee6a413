//! What only several processes can show: rooms that span gateways, any order of starts, and each process's death.

use std::{collections::BTreeMap, time::Instant};

use crate::{
    client::Dial,
    load::{Door, Member, Publisher, is_complete},
    server::{Server, Service, get, until_metric, value_of},
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
