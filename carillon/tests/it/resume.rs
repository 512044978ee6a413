//! Coming back: nothing that was missed is missed, and what can't be honoured is said.

use futures_util::future::join_all;

use crate::{
    client::Client,
    server::{PATIENCE, Server},
};

/// One line of the contract: options of a join in a room with head 5, and what they lead to.
struct Case {
    options: &'static str,
    /// The reason why it was not recovered, if it was not.
    reason: Option<&'static str>,
    replay: std::ops::RangeInclusive<u64>,
}

const fn case(options: &'static str, reason: Option<&'static str>, replay: std::ops::RangeInclusive<u64>) -> Case {
    Case { options, reason, replay }
}

#[allow(clippy::reversed_empty_ranges)]
const NOTHING: std::ops::RangeInclusive<u64> = 1..=0;

/// `EPOCH` stands for the room's.
const CASES: &[Case] = &[
    case("", None, NOTHING),
    case(r#""last":0"#, None, NOTHING),
    case(r#""last":2"#, None, 4..=5),
    case(r#""last":5"#, None, 1..=5),
    case(r#""last":1000"#, None, 1..=5),
    case(r#""epoch":"another""#, None, NOTHING),
    case(r#""epoch":"another","last":1"#, None, 5..=5),
    // Nothing seen yet: any epoch that is whole will do.
    case(r#""since":0"#, None, 1..=5),
    case(r#""since":0,"epoch":"""#, None, 1..=5),
    case(r#""since":0,"epoch":"EPOCH""#, None, 1..=5),
    case(r#""since":0,"epoch":"another""#, None, 1..=5),
    case(r#""since":0,"epoch":"another","last":1"#, None, 1..=5),
    case(r#""since":3"#, None, 4..=5),
    case(r#""since":3,"epoch":"""#, None, 4..=5),
    case(r#""since":3,"epoch":null"#, None, 4..=5),
    case(r#""since":3,"epoch":"EPOCH""#, None, 4..=5),
    case(r#""since":3,"epoch":"another""#, Some("epoch"), NOTHING),
    case(r#""since":3,"epoch":"another","last":2"#, Some("epoch"), 4..=5),
    // `since` wins over `last`.
    case(r#""since":2,"epoch":"EPOCH","last":1"#, None, 3..=5),
    case(r#""since":4,"last":4"#, None, 5..=5),
    // At the head there is nothing to replay.
    case(r#""since":5"#, None, NOTHING),
    case(r#""since":5,"epoch":"EPOCH","last":3"#, None, NOTHING),
    case(r#""since":5,"epoch":"another""#, Some("epoch"), NOTHING),
    // Above it, another log was seen.
    case(r#""since":6"#, Some("epoch"), NOTHING),
    case(r#""since":6,"epoch":"EPOCH""#, Some("epoch"), NOTHING),
    case(r#""since":6,"epoch":"EPOCH","last":1"#, Some("epoch"), 5..=5),
    case(r#""since":9007199254740991,"last":1000"#, Some("epoch"), 1..=5),
];

async fn assert_case(client: &mut Client, room: &str, head: u64, epoch: &str, case: &Case) {
    let options = case.options.replace("EPOCH", epoch);
    let joined = client.join_with(room, &options).await;
    let what = format!("{options}: {}", joined.raw);
    assert_eq!((joined.number("offset"), joined.text("epoch").as_str()), (head, epoch), "{what}");
    assert_eq!(joined.flag("recovered"), case.reason.is_none(), "{what}");
    assert_eq!(joined.has("reason").then(|| joined.text("reason")).as_deref(), case.reason, "{what}");
    client.hears(case.replay.clone()).await;
    client.heard_nothing_else().await;
}

#[tokio::test]
async fn options_combine_as_told() {
    let mut server = Server::start().await;
    let mut bob = server.connect("bob").await;
    bob.join("lobby").await;
    server.connect("ada").await.count("lobby", 1..=5).await;
    let epoch = bob.expect("message").await.text("epoch");
    assert!(!epoch.is_empty());
    bob.hears(2..=5).await;
    for _ in 0..2 {
        for case in CASES {
            // As a newcomer, and as a member that joins again.
            assert_case(&mut server.connect("eve").await, "lobby", 5, &epoch, case).await;
            assert_case(&mut bob, "lobby", 5, &epoch, case).await;
        }
        server.kill_and_restart().await;
        bob = server.connect("bob").await;
    }
}

#[tokio::test]
async fn empty_room_has_nothing_to_resume() {
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    for (options, reason) in [
        ("", None),
        (r#""since":0"#, None),
        (r#""since":0,"epoch":"another""#, None),
        (r#""since":1"#, Some("epoch")),
        (r#""since":1,"epoch":"another","last":5"#, Some("epoch")),
        (r#""last":5"#, None),
    ] {
        assert_case(&mut ada, "empty", 0, "", &case(options, reason, NOTHING)).await;
    }
}

#[tokio::test]
async fn bad_options_are_refused() {
    let server = Server::start().await;
    for options in [
        r#""since":-1"#,
        r#""since":1.5"#,
        r#""since":"3""#,
        r#""since":9007199254740992"#,
        r#""last":1001"#,
        r#""last":-1"#,
        r#""epoch":5"#,
        r#""echo":1"#,
        r#""presence":"yes""#,
    ] {
        let mut ada = server.connect("ada").await;
        let reference = ada.ask("join", "lobby", options).await;
        assert_eq!(ada.expect_error("bad_request").await.number("ref"), reference, "{options}");
        ada.ask("leave", "lobby", "").await;
        ada.expect_error("not_joined").await;
    }
}

#[tokio::test]
async fn last_is_capped() {
    let server = Server::with(&[("limits.replay_messages", "10")]).await;
    server.connect("ada").await.count("lobby", 1..=30).await;
    let mut bob = server.connect("bob").await;
    bob.join_with("lobby", r#""last":1000"#).await;
    bob.hears(21..=30).await;
    bob.heard_nothing_else().await;
}

#[tokio::test]
async fn a_member_comes_back() {
    let server = Server::start().await;
    let (mut ada, mut bob) = (server.connect("ada").await, server.connect("bob").await);
    let epoch = {
        bob.join("lobby").await;
        ada.count("lobby", 1..=2).await;
        let epoch = bob.expect("message").await.text("epoch");
        bob.hears(2..=2).await;
        epoch
    };
    drop(bob);
    for round in 0..5 {
        let seen = 2 + round * 10;
        ada.count("lobby", seen + 1..=seen + 10).await;
        let mut bob = server.connect("bob").await;
        let joined = bob.join_with("lobby", &format!(r#""since":{seen},"epoch":"{epoch}""#)).await;
        assert!(joined.flag("recovered"));
        bob.hears(seen + 1..=seen + 10).await;
        bob.heard_nothing_else().await;
    }
}

#[tokio::test]
async fn long_resume_comes_in_pages() {
    const MISSED: u64 = 1000;
    let server = Server::with(&[("limits.replay_messages", "64")]).await;
    let (mut ada, mut bob) = (server.connect("ada").await, server.connect("bob").await);
    ada.count("lobby", 1..=MISSED).await;
    // What is said meanwhile comes behind it.
    let speaking = async {
        for number in MISSED + 1..=MISSED + 200 {
            ada.say("lobby", number).await;
        }
    };
    let resuming = async {
        let joined = bob.join_with("lobby", r#""since":0"#).await;
        assert!(joined.flag("recovered") && joined.number("offset") >= MISSED);
        for number in 1..=MISSED + 200 {
            let message = bob.expect("message").await;
            assert_eq!((message.number("offset"), message.number("payload")), (number, number));
        }
        bob.heard_nothing_else().await;
    };
    tokio::join!(speaking, resuming);
}

#[tokio::test]
async fn live_and_missed_do_not_mix() {
    // Many come at once, in the middle of what is being said.
    let server = Server::with(&[("limits.replay_messages", "20")]).await;
    let mut ada = server.connect("ada").await;
    ada.count("lobby", 1..=200).await;
    let mut members = join_all((0..10).map(|_| server.connect("bob"))).await;
    let speaking = ada.count("lobby", 201..=600);
    let resuming = members.iter_mut().enumerate().map(|(number, member)| async move {
        let since = number as u64 * 20;
        member.join_with("lobby", &format!(r#""since":{since}"#)).await;
        member.hears(since + 1..=600).await;
        member.heard_nothing_else().await;
    });
    tokio::join!(speaking, join_all(resuming));
}

#[tokio::test]
async fn many_rooms_resume_at_once() {
    const ROOMS: u64 = 16;
    const EACH: u64 = 60;
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    let payload = format!(r#""{}""#, "x".repeat(8000));
    for room in 0..ROOMS {
        ada.say_all(&format!("room {room}"), vec![payload.clone(); EACH as usize]).await;
    }
    // 7.5 MiB: no resume is too long and none overruns the outbox, not even one of many rooms.
    let mut bob = server.connect("bob").await;
    bob.send_all((0..ROOMS).map(|room| format!(r#"{{"type":"join","room":"room {room}","since":0}}"#))).await;
    assert_all_heard(&mut bob, ROOMS, EACH).await;
}

#[tokio::test]
async fn small_outbox_resumes_too() {
    const EACH: u64 = 200;
    let server = Server::with(&[("limits.outbox_bytes", "16384")]).await;
    let mut ada = server.connect("ada").await;
    let payload = format!(r#""{}""#, "x".repeat(1000));
    for _ in 0..EACH {
        ada.say("room 0", &payload).await;
    }
    let mut bob = server.connect("bob").await;
    bob.send(r#"{"type":"join","room":"room 0","since":0}"#).await;
    assert_all_heard(&mut bob, 1, EACH).await;
}

async fn assert_all_heard(client: &mut Client, rooms: u64, each: u64) {
    let mut seen = vec![0; rooms as usize];
    let heard = tokio::time::timeout(PATIENCE, async {
        while seen.iter().any(|offset| *offset < each) {
            let frame = client.next().await;
            if frame.kind() == "joined" {
                continue;
            }
            let room: usize = frame.text("room").strip_prefix("room ").unwrap().parse().unwrap();
            assert_eq!(frame.number("offset"), seen[room] + 1);
            seen[room] += 1;
        }
    });
    heard.await.expect("all of it in time");
    client.heard_nothing_else().await;
}
