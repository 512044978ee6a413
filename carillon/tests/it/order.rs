//! Offsets count 1, 2, 3, …, whoever speaks and however many at once.

use std::collections::BTreeMap;

use futures_util::future::join_all;

use crate::server::Server;

#[tokio::test]
async fn crowd_leaves_no_hole() {
    const PUBLISHERS: u64 = 8;
    const EACH: u64 = 250;
    let server = Server::start().await;
    let mut listeners = join_all((0..3).map(|_| server.connect("listener"))).await;
    for listener in &mut listeners {
        listener.join("lobby").await;
    }
    let mut publishers = join_all((0..PUBLISHERS).map(|number| {
        let user = format!("p{number}");
        async { (server.connect(&user).await, user) }
    }))
    .await;
    join_all(publishers.iter_mut().map(|(publisher, _)| publisher.count("lobby", 1..=EACH))).await;
    let mut heard_by_all = Vec::new();
    for listener in &mut listeners {
        let mut said: BTreeMap<String, u64> = BTreeMap::new();
        let mut heard = Vec::new();
        let mut ts = 0;
        for offset in 1..=PUBLISHERS * EACH {
            let message = listener.expect("message").await;
            assert_eq!(message.number("offset"), offset);
            assert!(message.number("ts") >= ts, "time goes back within a room");
            ts = message.number("ts");
            // Of each publisher in the order in which it spoke.
            let latest = said.entry(message.text("sender")).or_default();
            *latest += 1;
            assert_eq!(message.number("payload"), *latest);
            heard.push((message.text("sender"), *latest, message.text("id")));
        }
        listener.heard_nothing_else().await;
        heard_by_all.push(heard);
    }
    assert!(heard_by_all.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test]
async fn acks_tell_the_truth() {
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    let mut bob = server.connect("bob").await;
    bob.join("lobby").await;
    ada.send_all((1..=500).map(|number| format!(r#"{{"type":"broadcast","room":"lobby","payload":{number},"ref":{number}}}"#)))
        .await;
    for number in 1..=500 {
        let (ack, message) = (ada.expect("ack").await, bob.expect("message").await);
        assert_eq!((ack.number("ref"), ack.number("offset")), (number, number));
        assert_eq!(message.number("payload"), number);
        assert_eq!((ack.json("id"), ack.json("ts")), (message.json("id"), message.json("ts")));
    }
}
