//! A client that does not read is let go, harms nobody, and comes back to everything that it missed.

use futures_util::future::join_all;

use crate::{
    client::Event,
    server::{PATIENCE, Server},
};

#[tokio::test]
async fn slow_reader_is_closed() {
    // 20 MiB: more than both kernels' buffers and the outbox hold.
    const MESSAGES: u64 = 400;
    let server = Server::start().await;
    let mut slow = server.dial().token(&server.token("slow")).small_receive_buffer().connected().await;
    slow.join("lobby").await;
    let mut quick = server.connect("quick").await;
    quick.join("lobby").await;
    let mut ada = server.connect("ada").await;
    let payload = format!(r#""{}""#, "x".repeat(50_000));
    for offset in 1..=MESSAGES {
        ada.say("lobby", &payload).await;
        quick.hears(offset..=offset).await;
    }
    server.until_metric(r#"carillon_closes_total{code="4101"}"#, 1).await;
    let (frames, close) = slow.until_closed().await;
    assert_eq!(close, (4101, "slow_consumer".to_owned()));
    let seen = frames.len() as u64;
    assert!(seen < MESSAGES);
    assert!(frames.iter().map(|frame| frame.number("offset")).eq(1..=seen));
    // The others never noticed.
    quick.heard_nothing_else().await;
    ada.heard_nothing_else().await;
    server.until_metric("carillon_connections", 2).await;

    let mut slow = server.connect("slow").await;
    let joined = slow.join_with("lobby", &format!(r#""since":{seen}"#)).await;
    assert!(joined.flag("recovered"));
    slow.hears(seen + 1..=MESSAGES).await;
    slow.heard_nothing_else().await;
}

#[tokio::test]
async fn slow_resume_is_no_slow_reader() {
    // A member that catches up holds a position, not a queue: it may take its time.
    const MESSAGES: u64 = 400;
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    let payload = format!(r#""{}""#, "x".repeat(50_000));
    // In parts that fit the owner's window however slow the disk is.
    for _ in 0..MESSAGES / 50 {
        ada.say_all("lobby", vec![payload.clone(); 50]).await;
    }
    let mut slow = server.dial().token(&server.token("slow")).small_receive_buffer().connected().await;
    slow.send(r#"{"type":"join","room":"lobby","since":0}"#).await;
    // It reads nothing while ten MiB more are said.
    for _ in 0..200 {
        ada.say("lobby", &payload).await;
    }
    slow.expect("joined").await;
    slow.hears(1..=MESSAGES + 200).await;
    slow.heard_nothing_else().await;
    assert_eq!(server.metric(r#"carillon_closes_total{code="4101"}"#).await, 0);
}

#[tokio::test]
async fn unread_answers_are_bounded() {
    let server = Server::with(&[("limits.outbox_bytes", "65536"), ("limits.frames_burst", "400")]).await;
    let mut ada = server.connect("ada").await;
    let payload = format!(r#""{}""#, "x".repeat(50_000));
    for _ in 0..2 {
        ada.say("lobby", &payload).await;
    }
    // Asks and asks, and reads no answer: one that is larger than its outbox waits, and the questions behind it.
    let mut greedy = server.dial().token(&server.token("greedy")).small_receive_buffer().connected().await;
    let ask = |n| format!(r#"{{"type":"history","room":"lobby","ref":{n}}}"#);
    greedy.send_all((0..300).map(ask)).await;
    // What is more than may wait is refused, and told behind the answer that waits.
    let refused = async { while server.metric(r#"carillon_refusals_total{code="unavailable"}"#).await == 0 {} };
    tokio::time::timeout(PATIENCE, refused).await.expect("questions are refused");
    assert!(server.metric("carillon_outbox_bytes").await < 65_536 + 2 * 100_000);
    let (mut answers, mut refused) = (0, 0);
    while answers + refused < 300 {
        let frame = greedy.next().await;
        match frame.kind().as_str() {
            "history" => answers += 1,
            _ => refused += u64::from(frame.text("code") == "unavailable"),
        }
    }
    assert!(answers >= 128, "{answers}");
    assert_eq!(server.metric(r#"carillon_closes_total{code="4101"}"#).await, 0);
    ada.heard_nothing_else().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quick_reader_outlives_a_burst() {
    // Three times its outbox, as fast as the server can take it.
    const MESSAGES: u64 = 60;
    let server = Server::start().await;
    let mut quick = server.connect("quick").await;
    quick.join("lobby").await;
    let mut ada = server.connect("ada").await;
    let payload = format!(r#""{}""#, "x".repeat(50_000));
    let reading = tokio::spawn(async move {
        quick.hears(1..=MESSAGES).await;
        quick.heard_nothing_else().await;
    });
    ada.say_all("lobby", vec![payload; MESSAGES as usize]).await;
    reading.await.unwrap();
}

#[tokio::test]
async fn many_resumes_leave_each_other_room() {
    // 10 MB for each are more than the kernel takes, and 20 pages of 250 KB more than twice what all outboxes may hold.
    const MEMBERS: usize = 20;
    const MESSAGES: u64 = 200;
    let server = Server::with(&[("gateway.shards", "1"), ("limits.outbox_total_bytes", "2097152")]).await;
    let mut ada = server.connect("ada").await;
    let payload = format!(r#""{}""#, "x".repeat(50_000));
    for _ in 0..MESSAGES / 50 {
        ada.say_all("lobby", vec![payload.clone(); 50]).await;
    }
    let mut members = Vec::new();
    for member in 0..MEMBERS {
        // The kernel keeps little for them: what is not read stays in the outbox.
        let dial = server.dial().token(&server.token(&format!("member{member}")));
        members.push(dial.small_receive_buffer().connected().await);
    }
    // None reads before all have asked, and a while after: all pages come at once, if they may.
    for member in &mut members {
        member.send(r#"{"type":"join","room":"lobby","since":0}"#).await;
    }
    members[0].expect("joined").await;
    let rest = members.iter_mut().enumerate().map(async |(index, member)| {
        if index > 0 {
            assert!(member.expect("joined").await.flag("recovered"));
        }
        member.hears(1..=MESSAGES).await;
    });
    join_all(rest).await;
    assert_eq!(server.metric(r#"carillon_closes_total{code="4101"}"#).await, 0);
}

#[tokio::test]
async fn outboxes_are_bounded_together() {
    // What one may hold is no bound here: all of them together have less.
    const TOTAL: u64 = 1 << 20;
    const MOST: u64 = 600;
    let total = TOTAL.to_string();
    let settings =
        [("gateway.shards", "1"), ("limits.outbox_bytes", "1073741824"), ("limits.outbox_total_bytes", total.as_str())];
    let server = Server::with(&settings).await;
    let mut slow = Vec::new();
    for name in ["one", "two", "three"] {
        let mut client = server.dial().token(&server.token(name)).small_receive_buffer().connected().await;
        client.join("lobby").await;
        slow.push((name, client));
    }
    let mut quick = server.connect("quick").await;
    quick.join("lobby").await;
    let mut ada = server.connect("ada").await;
    let payload = format!(r#""{}""#, "x".repeat(50_000));
    let mut said = 0;
    let closes = r#"carillon_closes_total{code="4101"}"#;
    while server.metric(closes).await == 0 {
        said += 1;
        assert!(said <= MOST, "all outboxes together have no bound");
        ada.say("lobby", &payload).await;
        quick.hears(said..=said).await;
        // Three copies of the newest message may be over it until the next look.
        assert!(server.metric("carillon_outbox_bytes").await <= TOTAL + 3 * 51_000);
    }
    // The others never noticed, and whoever was closed missed nothing.
    ada.heard_nothing_else().await;
    quick.heard_nothing_else().await;
    for (name, mut client) in slow {
        let (mut seen, mut code) = (0, 0);
        while seen < said && code == 0 {
            match client.event().await {
                Event::Frame(message) => {
                    assert_eq!(message.number("offset"), seen + 1);
                    seen += 1;
                }
                Event::Ping => {}
                Event::Closed(closed, _) => code = closed,
            }
        }
        if code != 0 {
            assert_eq!(code, 4101, "{name}");
            let mut client = server.connect(name).await;
            assert!(client.join_with("lobby", &format!(r#""since":{seen}"#)).await.flag("recovered"));
            client.hears(seen + 1..=said).await;
        }
    }
}
