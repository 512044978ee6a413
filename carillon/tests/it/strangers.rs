//! Who is on NATS without being one of us: garbage, foreign versions and oversize envelopes on the internal subjects change
//! nothing.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use carillon_proto::{
    ids::{PARTITIONS, RoomName},
    link::{Attach, Publish, Up, UpBatch, up},
};
use prost::Message as _;

use crate::client::Dial;
use crate::http::Call;
use crate::polling::Polling;
use crate::server::{PATIENCE, Server, Service, get, until_metric, value_of};

/// Publishes as a plain NATS client does, and waits until the server has taken it all (a pong follows everything before it).
fn publish(nats: SocketAddr, messages: &[(String, Vec<u8>)]) {
    let mut stream = TcpStream::connect(nats).unwrap();
    stream.write_all(b"CONNECT {\"verbose\":false}\r\n").unwrap();
    for (subject, payload) in messages {
        write!(stream, "PUB {subject} {}\r\n", payload.len()).unwrap();
        stream.write_all(payload).unwrap();
        stream.write_all(b"\r\n").unwrap();
    }
    stream.write_all(b"PING\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines();
    assert!(lines.any(|line| line.unwrap() == "PONG"));
}

#[tokio::test]
async fn strangers_on_nats_change_nothing() {
    let mut server = Server::cluster().await;
    let (nats, fanout) = (server.service(Service::Nats).listen, server.service(Service::Fanout).admin);
    let mut ada = server.connect("ada").await;
    ada.join("lobby").await;
    ada.say("lobby", 1).await;
    // The lobby, and her own.
    until_metric(fanout, "carillon_partition_rooms", 2).await;

    let partition = RoomName::parse("lobby").unwrap().partition();
    let item = |item| Up { item: Some(item) };
    let batch = |version, gateway: &[u8], items| {
        let gateway = gateway.to_vec().into();
        UpBatch { version, gateway, link: 1, number: 1, generation: 0, items, settled: 0 }.encode_to_vec()
    };
    let attach = |room: &str| item(up::Item::Attach(Attach { room: room.to_owned(), ..Attach::default() }));
    let said = Publish { publish: 1, room: "lobby".into(), user: "u".repeat(4000), payload: "2".into(), ..Publish::default() };
    let mut messages = Vec::new();
    for partition in 0..PARTITIONS {
        let subject = format!("pub.{partition}");
        messages.push((subject.clone(), b"\xff\xff\xff garbage".to_vec()));
        messages.push((subject.clone(), vec![0x0a; 900_000]));
        messages.push((subject.clone(), batch(99, &[1; 16], vec![attach("lobby")])));
        messages.push((subject.clone(), batch(1, b"short", vec![attach("lobby")])));
        messages.push((subject, batch(1, &[2; 16], vec![attach("\u{1}"), attach(&"x".repeat(100_000)), Up { item: None }])));
    }
    messages.push((format!("pub.{partition}"), batch(1, &[3; 16], vec![item(up::Item::Publish(said))])));
    publish(nats, &messages);
    until_metric(fanout, "carillon_batches_refused_total", 2 * u64::from(PARTITIONS)).await;

    assert_eq!(ada.say("lobby", 2).await.number("offset"), 2, "nothing of it was stored");
    ada.heard_nothing_else().await;
    assert_eq!(value_of("carillon_partition_rooms", &get(fanout, "/metrics").await.body), 2, "nothing of it stays");
}

/// What NATS answers to these lines of its protocol, up to the pong.
fn talk(nats: SocketAddr, lines: &str) -> String {
    let mut stream = TcpStream::connect(nats).unwrap();
    stream.write_all(lines.as_bytes()).unwrap();
    stream.write_all(b"PING\r\n").unwrap();
    let answers = BufReader::new(stream).lines().map_while(Result::ok);
    answers.take_while(|line| line != "PONG").collect::<Vec<_>>().join("\n")
}

/// A disk that was lost, or an operator's slip.
#[tokio::test]
async fn buckets_that_nats_has_lost_begin_anew() {
    let mut server = Server::cluster().await;
    let nats = server.service(Service::Nats).listen;
    for bucket in ["revocations", "socketio"] {
        let mut stream = TcpStream::connect(nats).unwrap();
        let delete = format!("PUB $JS.API.STREAM.DELETE.KV_{bucket} answer 0\r\n\r\n");
        stream.write_all(format!("CONNECT {{\"verbose\":false}}\r\nSUB answer 1\r\n{delete}").as_bytes()).unwrap();
        assert!(BufReader::new(stream).lines().any(|line| line.unwrap().contains(r#""success":true"#)), "{bucket}");
    }
    // Nobody revokes anything meanwhile. Who comes new knows nothing, and waits until there is something to know.
    let other = server.another_gateway("b").await;
    let token = server.token("ada");
    let started = Instant::now();
    while Dial::to(other.listen).token(&token).attempt().await.is_none() {
        assert!(started.elapsed() < PATIENCE, "nobody makes it");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let auth = format!(r#"{{"token":"{token}"}}"#);
    while !Polling::connect(&server, &auth).await.1.starts_with("40{") {
        assert!(started.elapsed() < PATIENCE, "no client of Socket.IO can come");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let admin = server.token_for("backend", r#"[{"rooms":["*"],"can":["admin"]}]"#);
    let answer = Call::new("POST", "/revocations").token(&admin).json(r#"{"sub":"ada"}"#).to(&server).await;
    assert_eq!(answer.status, 204, "{}", answer.body);
    assert_eq!(Dial::to(other.listen).token(&token).turned_away().await.0, 4001);
}

#[tokio::test]
async fn subjects_are_for_services_only() {
    let mut server = Server::guarded().await;
    let nats = server.service(Service::Nats).listen;
    // All of it works for those whose business it is.
    let (mut ada, mut bob) = (server.connect("ada").await, server.connect("bob").await);
    bob.join("lobby").await;
    ada.say("lobby", 1).await;
    bob.hears(1..=1).await;
    let admin = server.token_for("backend", r#"[{"rooms":["*"],"can":["admin"]}]"#);
    for path in ["/revocations", "/users/bob/disconnect"] {
        let answer = Call::new("POST", path).token(&admin).json(r#"{"sub":"ada"}"#).to(&server).await;
        assert_eq!(answer.status, 204, "{path}: {}", answer.body);
    }
    assert_eq!((ada.closed().await.0, bob.closed().await.0), (4001, 4003));
    let answer = Call::new("DELETE", "/rooms/lobby").token(&admin).to(&server).await;
    assert!(answer.status < 300, "{}", answer.body);
    let (_cid, answer) = Polling::connect(&server, &format!(r#"{{"token":"{}"}}"#, server.token("cid"))).await;
    assert!(answer.starts_with("40{"), "{answer}");
    // So does beginning with what is there.
    server.service(Service::Fanout).kill().await;
    server.service(Service::Fanout).start_again().await;
    server.kill_and_restart().await;
    let mut dan = server.connect("dan").await;
    dan.join("lobby").await;
    dan.say("lobby", 2).await;
    let logged = std::fs::read_to_string(server.service(Service::Nats).log()).unwrap();
    assert!(!logged.contains("Violation"), "somebody can't do what he has to: {logged}");
    // Nobody else gets in, and nobody oversteps.
    assert!(talk(nats, "CONNECT {\"verbose\":false}\r\n").contains("Authorization Violation"));
    for (service, line) in [
        ("gateway", "PUB gw.x.1 0\r\n\r\n"),
        ("gateway", "PUB log.1.r.x 0\r\n\r\n"),
        ("gateway", "SUB pub.1 1\r\n"),
        ("gateway", "PUB $JS.API.STREAM.DELETE.LOG_1 0\r\n\r\n"),
        ("gateway", "PUB $KV.revocations.x 0\r\n\r\n"),
        ("gateway", "PUB $JS.API.STREAM.DELETE.KV_revocations 0\r\n\r\n"),
        ("gateway", "PUB $JS.API.STREAM.UPDATE.KV_revocations 0\r\n\r\n"),
        ("gateway", "PUB $JS.API.STREAM.CREATE.KV_revocations 0\r\n\r\n"),
        ("gateway", "PUB $JS.API.STREAM.UPDATE.KV_socketio 0\r\n\r\n"),
        ("gateway", "PUB $JS.API.STREAM.CREATE.KV_socketio 0\r\n\r\n"),
        ("gateway", "PUB $JS.API.CONSUMER.CREATE.KV_socketio.x 0\r\n\r\n"),
        ("gateway", "SUB _INBOX.> 1\r\n"),
        ("gateway", "SUB _INBOX.auth.> 1\r\n"),
        ("auth", "SUB _INBOX.gateway.> 1\r\n"),
        ("fanout", "SUB _INBOX.auth.> 1\r\n"),
        ("fanout", "PUB _INBOX.auth.x 0\r\n\r\n"),
        ("fanout", "PUB $JS.API.STREAM.PURGE.KV_revocations 0\r\n\r\n"),
        ("auth", "PUB pub.1 0\r\n\r\n"),
        ("auth", "PUB $JS.API.STREAM.UPDATE.KV_revocations 0\r\n\r\n"),
        ("auth", "PUB $JS.API.STREAM.CREATE.KV_revocations 0\r\n\r\n"),
        ("auth", "SUB gw.> 1\r\n"),
        ("auth", "PUB $KV.leases.x 0\r\n\r\n"),
        ("fanout", "PUB notice 0\r\n\r\n"),
        ("fanout", "PUB $KV.revocations.x 0\r\n\r\n"),
        ("fanout", "PUB $JS.API.STREAM.MSG.DELETE.KV_revocations 0\r\n\r\n"),
        ("fanout", "PUB $KV.socketio.x 0\r\n\r\n"),
        ("fanout", "PUB $JS.API.STREAM.DELETE.LOG_1 0\r\n\r\n"),
        ("fanout", "PUB $JS.API.STREAM.RESTORE.x 0\r\n\r\n"),
        ("fanout", "PUB $JS.API.STREAM.SNAPSHOT.LOG_1 0\r\n\r\n"),
        ("fanout", "SUB gw.> 1\r\n"),
    ] {
        let login = format!("CONNECT {{\"verbose\":false,\"user\":\"{service}\",\"pass\":\"pass-{service}\"}}\r\n");
        assert!(talk(nats, &format!("{login}{line}")).contains("Permissions Violation"), "{service}: {line}");
    }
}
