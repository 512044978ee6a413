//! Payloads come out byte for byte as they went in: live, in a replay, in history, and after a crash.

use crate::server::Server;

const PAYLOADS: &[&str] = &[
    "null",
    "true",
    "0",
    "-0",
    "-0.0",
    "1.0",
    "1e400",
    "1E+2",
    "1152921504606846976",
    "1152921504606846977",
    "123456789012345678901234567890.123456789012345678901234567890",
    r#""""#,
    r#""\u00e9""#,
    r#""é""#,
    r#""\u0000\/\ud83c\udfb5""#,
    r#""\ud800""#,
    r#""🎵\u2028""#,
    "\"\u{2028}\u{7f}\"",
    r#"{"a":1,"a":2}"#,
    r#"{"b":1,"a":[ 1 ,	2 ]}"#,
    r#"{"type":"ack","ref":1}"#,
    "[]",
    "{}",
    "[ 1,\r\n 2 ]",
];

#[tokio::test]
async fn bytes_are_kept() {
    let mut server = Server::start().await;
    let (mut ada, mut bob) = (server.connect("ada").await, server.connect("bob").await);
    bob.join("lobby").await;
    for payload in PAYLOADS {
        ada.say("lobby", payload).await;
        assert_eq!(bob.expect("message").await.json("payload"), *payload);
        ada.say_with("lobby", payload, r#""ephemeral":true"#).await;
        assert_eq!(bob.expect("message").await.json("payload"), *payload);
    }
    for _ in 0..2 {
        let stored = bob.history("lobby", "").await.objects("messages");
        assert_eq!(stored.iter().map(|message| message.json("payload")).collect::<Vec<_>>(), PAYLOADS);
        bob.join_with("lobby", r#""since":0"#).await;
        for payload in PAYLOADS {
            assert_eq!(bob.expect("message").await.json("payload"), *payload);
        }
        server.kill_and_restart().await;
        bob = server.connect("bob").await;
    }
}

#[tokio::test]
async fn depth_is_bounded() {
    let server = Server::start().await;
    let (mut ada, mut bob) = (server.connect("ada").await, server.connect("bob").await);
    bob.join("lobby").await;
    let nested = |open: &str, depth: usize, close: &str| format!("{}1{}", open.repeat(depth), close.repeat(depth));
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
        let deepest = nested(open, 64, close);
        ada.say("lobby", &deepest).await;
        assert_eq!(bob.expect("message").await.json("payload"), deepest);
        ada.ask("broadcast", "lobby", &format!(r#""payload":{}"#, nested(open, 65, close))).await;
        ada.expect_error("bad_request").await;
    }
    ada.ask("broadcast", "lobby", &format!(r#""payload":{}"#, nested("[", 30_000, "]"))).await;
    ada.expect_error("bad_request").await;
    // Brackets in a text are text.
    ada.say("lobby", format!(r#""{}""#, r#"[{\"\\"#.repeat(200))).await;
    bob.hears(3..=3).await;
}

#[tokio::test]
async fn spelling_of_the_frame_is_free() {
    let server = Server::start().await;
    let (mut ada, mut bob) = (server.connect("ada").await, server.connect("bob").await);
    bob.join("lobby").await;
    ada.send(
        " {\n\t\"payload\" :  1.50  , \"unknown\":{\"x\":[1]},\r\n\"\\u0074ype\":\"broad\\u0063ast\",\"room\":\"lobby\"} \n",
    )
    .await;
    assert_eq!(bob.expect("message").await.json("payload"), "1.50");
    ada.send(r#"{"type":"broadcast","room":"lobby","payload":2,"ref":"x","key":null,"echo":null,"ephemeral":null}"#).await;
    assert_eq!(ada.expect("ack").await.number("offset"), 2);
}
