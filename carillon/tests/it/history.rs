//! Reading what is stored, in both directions.

use crate::{client::Client, http::Call, server::Server};

/// More than the owner keeps at hand, so that both of its sources are read.
const STORED: u64 = 300;

/// What the contract says: the offsets, and whether there are further ones in the direction asked.
fn expected(before: Option<u64>, after: Option<u64>, limit: u64) -> (Vec<u64>, bool) {
    match after {
        Some(after) => {
            let found: Vec<u64> = (after + 1..=STORED).take(limit as usize).collect();
            let more = found.last().is_some_and(|last| *last < STORED);
            (found, more)
        }
        None => {
            let end = before.map_or(STORED, |before| (before - 1).min(STORED));
            let first = end.saturating_sub(limit) + 1;
            ((first..=end).collect(), first > 1 && end > 0)
        }
    }
}

async fn assert_history(client: &mut Client, before: Option<u64>, after: Option<u64>, limit: Option<u64>) {
    let fields = [("before", before), ("after", after), ("limit", limit)];
    let fields: Vec<_> = fields.iter().filter_map(|(name, value)| Some(format!(r#""{name}":{}"#, (*value)?))).collect();
    let options = fields.join(",");
    let history = client.history("lobby", &options).await;
    let (offsets, more) = expected(before, after, limit.unwrap_or(50));
    assert_eq!(history.names(), ["epoch", "messages", "more", "ref", "room", "type"]);
    assert_eq!((history.offsets(), history.flag("more")), (offsets, more), "{options}");
}

#[tokio::test]
async fn every_page_is_as_asked() {
    let mut server = Server::start().await;
    let mut ada = server.connect("ada").await;
    ada.count("lobby", 1..=STORED).await;
    for _ in 0..2 {
        for limit in [None, Some(1), Some(2), Some(50), Some(128), Some(129), Some(299), Some(300), Some(301), Some(1000)] {
            assert_history(&mut ada, None, None, limit).await;
            for at in [0, 1, 2, 50, 51, 52, 128, 171, 172, 173, 174, 249, 250, 251, 298, 299, 300, 301, 302, 5000, (1 << 53) - 1]
            {
                assert_history(&mut ada, None, Some(at), limit).await;
                assert_history(&mut ada, Some(at.max(1)), None, limit).await;
            }
        }
        // Again with nothing at hand.
        server.kill_and_restart().await;
        ada = server.connect("ada").await;
    }
}

#[tokio::test]
async fn newest_after_a_crash_has_more() {
    let mut server = Server::start().await;
    server.connect("ada").await.count("lobby", 1..=5).await;
    server.kill_and_restart().await;
    let mut ada = server.connect("ada").await;
    ada.say("lobby", 6).await;
    let history = ada.history("lobby", r#""limit":1"#).await;
    assert_eq!((history.offsets(), history.flag("more")), (vec![6], true));
}

/// Where an owner reads one part of the log at a time, whoever else asks waits, and is answered all the same.
#[tokio::test]
async fn owner_that_reads_little_at_a_time_answers_all() {
    const READERS: usize = 8;
    const QUESTIONS: u64 = 16;
    let server = Server::with(&[("limits.owner_reads", "1")]).await;
    let mut ada = server.connect("ada").await;
    ada.count("lobby", 1..=STORED).await;
    let mut readers = Vec::new();
    for number in 0..READERS {
        readers.push(server.connect(&format!("reader{number}")).await);
    }
    // All of them old enough to be in the log alone.
    for reader in &mut readers {
        for question in 0..QUESTIONS {
            reader.ask("history", "lobby", &format!(r#""after":{question},"limit":20"#)).await;
        }
    }
    // One that goes away takes none of the others along.
    readers.pop();
    for reader in &mut readers {
        for question in 0..QUESTIONS {
            let history = reader.expect("history").await;
            assert_eq!(history.offsets(), (question + 1..=question + 20).collect::<Vec<_>>());
        }
    }
    assert_eq!(ada.say("lobby", STORED + 1).await.number("offset"), STORED + 1);
}

#[tokio::test]
async fn pages_add_up() {
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    ada.count("lobby", 1..=STORED).await;
    let (mut forwards, mut after, mut more) = (Vec::new(), 0, true);
    while more {
        let page = ada.history("lobby", &format!(r#""after":{after},"limit":64"#)).await;
        forwards.extend(page.offsets());
        (after, more) = (*forwards.last().unwrap(), page.flag("more"));
    }
    let (mut backwards, mut before, mut more) = (Vec::new(), STORED + 1, true);
    while more {
        let page = ada.history("lobby", &format!(r#""before":{before},"limit":64"#)).await;
        backwards.extend(page.offsets().into_iter().rev());
        (before, more) = (*backwards.last().unwrap(), page.flag("more"));
    }
    backwards.reverse();
    assert_eq!(forwards, (1..=STORED).collect::<Vec<_>>());
    assert_eq!(backwards, forwards);
}

#[tokio::test]
async fn large_messages_page_too() {
    const COUNT: u64 = 40;
    let server = Server::with(&[("limits.answer_bytes", "524288")]).await;
    let mut ada = server.connect("ada").await;
    let large = format!(r#""{}""#, "x".repeat(60_000));
    ada.say_all("lobby", vec![large; COUNT as usize]).await;
    // However few fit into a page: `more` is true until all of it was there.
    let (mut seen, mut more) = (0, true);
    while more {
        let page = ada.history("lobby", &format!(r#""after":{seen},"limit":1000"#)).await;
        assert!(page.raw.len() < 524_288, "{} bytes", page.raw.len());
        for offset in page.offsets() {
            assert_eq!(offset, seen + 1);
            seen = offset;
        }
        more = page.flag("more");
    }
    assert_eq!(seen, COUNT);
    let (mut oldest, mut more) = (COUNT + 1, true);
    while more {
        let page = ada.history("lobby", &format!(r#""before":{oldest},"limit":1000"#)).await;
        assert!(page.raw.len() < 524_288, "{} bytes", page.raw.len());
        assert_eq!(*page.offsets().last().unwrap(), oldest - 1);
        (oldest, more) = (page.offsets()[0], page.flag("more"));
    }
    assert_eq!(oldest, 1);
}

#[tokio::test]
async fn limit_holds_however_large_messages_are() {
    // Six megabytes: more than an owner tells at once, and more than an outbox holds.
    const COUNT: u64 = 1_000;
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    for _ in 0..COUNT / 50 {
        ada.say_all("lobby", vec![format!(r#""{}""#, "x".repeat(6_000)); 50]).await;
    }
    for (options, offsets, more) in [
        ("", COUNT - 49..=COUNT, true),
        (r#""limit":1000"#, 1..=COUNT, false),
        (r#""after":100,"limit":500"#, 101..=600, true),
        (r#""before":900,"limit":600"#, 300..=899, true),
    ] {
        let page = ada.history("lobby", options).await;
        assert_eq!((page.offsets(), page.flag("more")), (offsets.collect(), more), "{options}");
    }
    let request = format!(
        "GET /rooms/lobby/messages?limit=1000 HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
        server.token("ada")
    );
    let answer = crate::server::ask(server.listen, request).await;
    assert_eq!(answer.body.matches(r#""offset":"#).count() as u64, COUNT);
}

#[tokio::test]
async fn answer_that_the_kernel_takes_in_many_parts_arrives() {
    // Seven megabytes to a client whose kernel takes a few kilobytes at once: just below what one answer may be.
    const COUNT: u64 = 1_000;
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    for _ in 0..COUNT / 50 {
        ada.say_all("lobby", vec![format!(r#""{}""#, "x".repeat(7_000)); 50]).await;
    }
    let mut eve = server.dial().token(&server.token("eve")).small_receive_buffer().connected().await;
    let page = eve.history("lobby", r#""limit":1000"#).await;
    assert_eq!((page.offsets(), page.flag("more")), ((1..=COUNT).collect(), false));
    eve.heard_nothing_else().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundred_questions_at_once_are_answered() {
    // Thirty times what an outbox holds, all within the rate.
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    ada.say_all("lobby", vec![format!(r#""{}""#, "x".repeat(6_000)); 50]).await;
    let mut eve = server.connect("eve").await;
    eve.join("lobby").await;
    eve.send_all((0..100).map(|n| format!(r#"{{"type":"history","room":"lobby","ref":{n}}}"#))).await;
    // Others go on speaking, and nothing of it is lost behind large answers.
    ada.count("lobby", 51..=60).await;
    let (mut answered, mut heard) = (0, 50);
    while answered < 100 || heard < 60 {
        let frame = eve.next().await;
        if frame.kind() == "message" {
            heard += 1;
            assert_eq!(frame.number("offset"), heard);
        } else {
            assert_eq!((frame.number("ref"), frame.offsets().len()), (answered, 50));
            answered += 1;
        }
    }
    eve.heard_nothing_else().await;
}

#[tokio::test]
async fn entries_are_messages() {
    let server = Server::start().await;
    let (mut ada, mut bob) = (server.connect("ada").await, server.connect("bob").await);
    let empty = bob.history("lobby", "").await;
    assert_eq!((empty.offsets(), empty.flag("more"), empty.text("epoch").as_str()), (vec![], false, ""));
    bob.join("lobby").await;
    ada.count("lobby", 1..=2).await;
    let (first, second) = (bob.expect("message").await, bob.expect("message").await);
    let history = bob.history("lobby", "").await;
    assert_eq!(history.text("epoch"), first.text("epoch"));
    for (stored, heard) in history.objects("messages").iter().zip([first, second]) {
        for name in ["room", "payload", "sender", "offset", "id", "ts"] {
            assert_eq!(stored.json(name), heard.json(name));
        }
        assert_eq!(stored.has("epoch"), heard.has("epoch"));
    }
}

#[tokio::test]
async fn own_entries_have_their_keys() {
    let server = Server::start().await;
    let token = server.token("ada");
    let (mut phone, mut laptop) = (server.connect_as("ada", "phone").await, server.connect_as("ada", "laptop").await);
    let mut bob = server.connect_as("bob", "phone").await;
    phone.say_with("lobby", 1, r#""key":"a""#).await;
    laptop.say_with("lobby", 2, r#""key":"b""#).await;
    phone.say("lobby", 3).await;
    bob.say_with("lobby", 4, r#""key":"c""#).await;
    // In nobody's name, and so nobody's own.
    let post = Call::new("POST", "/rooms/lobby/messages").token(&token).json(r#"{"payload":5,"key":"d"}"#);
    assert_eq!(post.to(&server).await.status, 201);

    let keys = |page: &str| -> Vec<(u64, String)> {
        let page: serde_json::Value = serde_json::from_str(page).unwrap();
        let messages = page["messages"].as_array().unwrap().iter();
        messages.filter_map(|message| Some((message["offset"].as_u64()?, message["key"].as_str()?.to_owned()))).collect()
    };
    for (client, own) in [(&mut phone, vec![(1, "a")]), (&mut laptop, vec![(2, "b")]), (&mut bob, vec![(4, "c")])] {
        let own: Vec<_> = own.into_iter().map(|(offset, key)| (offset, key.to_owned())).collect();
        assert_eq!(keys(&client.history("lobby", "").await.raw), own);
    }
    let read = || Call::new("GET", "/rooms/lobby/messages").token(&token);
    assert_eq!(keys(&read().header("carillon-client", "phone").to(&server).await.body), [(1, "a".to_owned())]);
    assert!(keys(&read().to(&server).await.body).is_empty());
    assert_eq!(read().header("carillon-client", "not legal").to(&server).await.status, 400);
}

#[tokio::test]
async fn numbers_out_of_range_are_bad() {
    let server = Server::start().await;
    for options in [
        r#""before":1,"after":1"#,
        r#""limit":0"#,
        r#""limit":1001"#,
        r#""limit":-1"#,
        r#""limit":1.5"#,
        r#""limit":"5""#,
        r#""before":0"#,
        r#""before":-1"#,
        r#""after":-1"#,
        r#""after":9007199254740992"#,
        r#""before":9007199254740993"#,
        r#""after":18446744073709551616"#,
    ] {
        let mut ada = server.connect("ada").await;
        let reference = ada.ask("history", "lobby", options).await;
        assert_eq!(ada.expect_error("bad_request").await.number("ref"), reference, "{options}");
    }
}
