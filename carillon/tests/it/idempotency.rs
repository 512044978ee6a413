//! A repeat by its key stores nothing and is told what became of the first.

use crate::{
    client::{Dial, Frame},
    server::Server,
};

fn assert_repeats(repeat: &Frame, first: &Frame) {
    assert!(repeat.flag("duplicate"), "{}", repeat.raw);
    for name in ["offset", "id", "ts", "room"] {
        assert_eq!(repeat.json(name), first.json(name));
    }
}

#[tokio::test]
async fn repeat_stores_nothing() {
    let server = Server::start().await;
    let (mut ada, mut bob) = (server.connect("ada").await, server.connect("bob").await);
    bob.join("lobby").await;
    let first = ada.say_with("lobby", 1, r#""key":"k""#).await;
    assert!(!first.has("duplicate"));
    // Another payload does not make it another message.
    assert_repeats(&ada.say_with("lobby", 2, r#""key":"k""#).await, &first);
    assert_repeats(&server.connect_as("ada", "other").await.say_with("lobby", 1, r#""key":"k""#).await, &first);
    assert_eq!(ada.say_with("lobby", 3, r#""key":"l""#).await.number("offset"), 2);
    bob.hears(1..=2).await;
    bob.heard_nothing_else().await;
    assert_eq!(bob.history("lobby", "").await.offsets(), [1, 2]);
}

#[tokio::test]
async fn repeat_in_flight_waits_for_the_first() {
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    let say = |reference: u32| format!(r#"{{"type":"broadcast","room":"lobby","payload":1,"key":"k","ref":{reference}}}"#);
    for round in 0..20 {
        let room = format!("room {round}");
        ada.send_all((0..5).map(|reference| say(reference).replace("lobby", &room))).await;
        let first = ada.expect("ack").await;
        assert_eq!((first.number("ref"), first.number("offset"), first.has("duplicate")), (0, 1, false));
        for reference in 1..5 {
            let repeat = ada.expect("ack").await;
            assert_eq!(repeat.number("ref"), reference);
            assert_repeats(&repeat, &first);
        }
    }
}

#[tokio::test]
async fn keys_are_per_user_and_room() {
    let server = Server::start().await;
    let (mut ada, mut bob) = (server.connect("ada").await, server.connect("bob").await);
    for (client, room, offset) in [(&mut ada, "one", 1), (&mut bob, "one", 2)] {
        let ack = client.say_with(room, 1, r#""key":"k""#).await;
        assert_eq!((ack.number("offset"), ack.has("duplicate")), (offset, false));
    }
    assert!(!ada.say_with("two", 1, r#""key":"k""#).await.has("duplicate"));
}

#[tokio::test]
async fn keys_have_bounds() {
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    for key in ["k".repeat(64), "ä".repeat(32), r"\u0000 \n".to_owned()] {
        let options = format!(r#""key":"{key}""#);
        let first = ada.say_with("lobby", 1, &options).await;
        assert_repeats(&ada.say_with("lobby", 1, &options).await, &first);
    }
    for key in [r#""""#.to_owned(), format!(r#""{}""#, "k".repeat(65)), "7".to_owned()] {
        ada.ask("broadcast", "lobby", &format!(r#""payload":1,"key":{key}"#)).await;
        ada.expect_error("bad_request").await;
    }
}

#[tokio::test]
async fn keys_outlive_a_crash() {
    let mut server = Server::start().await;
    let mut ada = server.connect("ada").await;
    let first = ada.say_with("lobby", 1, r#""key":"k""#).await;
    server.kill_and_restart().await;
    let mut ada = server.connect("ada").await;
    assert_repeats(&ada.say_with("lobby", 1, r#""key":"k""#).await, &first);
    assert_eq!(ada.history("lobby", "").await.offsets(), [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_store_it_once() {
    const MESSAGES: usize = 1000;
    let a = Server::cluster().await;
    let b = a.another_gateway("b").await;
    let mut here = a.connect_as("ada", "phone").await;
    let mut there = Dial::to(b.listen).token(&a.token("ada")).client("phone").connected().await;
    let say =
        |number: usize| format!(r#"{{"type":"broadcast","room":"lobby","payload":{number},"key":"k{number}","ref":{number}}}"#);
    let said = || (0..MESSAGES).map(say);
    tokio::join!(here.send_all(said()), there.send_all(said()));
    let mut offsets = [vec![0; MESSAGES], vec![0; MESSAGES]];
    let mut duplicates = 0;
    for (client, offsets) in [&mut here, &mut there].into_iter().zip(&mut offsets) {
        for _ in 0..MESSAGES {
            let ack = client.expect("ack").await;
            offsets[ack.number("ref") as usize] = ack.number("offset");
            duplicates += usize::from(ack.has("duplicate"));
        }
    }
    assert_eq!(duplicates, MESSAGES);
    assert_eq!(offsets[0], offsets[1]);
    let mut stored = offsets[0].clone();
    stored.sort_unstable();
    assert!(stored.into_iter().eq(1..=MESSAGES as u64));
    let history = a.connect("bob").await.history("lobby", r#""after":999"#).await;
    assert_eq!(history.offsets(), [1000]);
}

#[tokio::test]
async fn sender_that_comes_back_learns_what_was_stored() {
    const MESSAGES: u64 = 20;
    let server = Server::start().await;
    let all = || {
        (1..=MESSAGES)
            .map(|number| format!(r#"{{"type":"broadcast","room":"lobby","payload":{number},"key":"k{number}","ref":{number}}}"#))
    };
    let mut ada = server.connect_as("ada", "phone").await;
    ada.send_all(all()).await;
    // One ack comes; the connection is lost before the others are read.
    ada.expect("ack").await;
    drop(ada);
    let mut ada = server.connect_as("ada", "phone").await;
    assert!(ada.join_with("lobby", r#""since":0"#).await.flag("recovered"));
    ada.send_all(all()).await;
    let (mut own, mut acked) = (0, 0);
    while acked < MESSAGES {
        let frame = ada.next().await;
        match frame.kind().as_str() {
            "own" => {
                own += 1;
                assert_eq!((frame.number("offset"), frame.text("key")), (own, format!("k{own}")), "{}", frame.raw);
            }
            "ack" => {
                acked += 1;
                assert_eq!((frame.number("ref"), frame.number("offset")), (acked, acked), "{}", frame.raw);
            }
            _ => panic!("unexpected: {}", frame.raw),
        }
    }
    assert!(own >= 1);
    assert_eq!(server.connect("bob").await.history("lobby", "").await.offsets(), (1..=MESSAGES).collect::<Vec<_>>());
}
