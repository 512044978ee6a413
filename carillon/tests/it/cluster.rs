//! What only several processes can show: rooms that span gateways, any order of starts, and each process's death.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, future::select_all};
use tokio::{sync::watch, task::JoinHandle, time::timeout};

use crate::{
    client::{Client, Dial, Frame},
    http::Call,
    listener::Listen,
    load::{Door, Member, Publisher, is_complete},
    polling::Polling,
    server::{ORIGIN, PATIENCE, SECRET, Server, Service, Shape, ask, get, until_metric, value_of},
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

#[tokio::test]
async fn store_that_nats_lost_is_made_anew() {
    let mut server = Server::cluster().await;
    let mut ada = server.connect("ada").await;
    let joined = ada.join("lobby").await;
    ada.count("lobby", 1..=5).await;
    let epoch = ada.history("lobby", "").await.text("epoch");
    server.service(Service::Nats).kill().await;
    std::fs::remove_dir_all(server.data_dir().join("nats")).unwrap();
    server.service(Service::Nats).start_again().await;
    // Without anybody's help: the room begins another life, of which whoever knew the other one is told.
    let began = Instant::now();
    let offset = loop {
        assert!(began.elapsed() < 2 * PATIENCE, "nobody can publish any more");
        let answer = Call::new("POST", "/rooms/lobby/messages").json(r#"{"payload":"anew"}"#);
        let answer = answer.token(&server.token("bob")).to(&server).await;
        if answer.status == 201 {
            break serde_json::from_str::<serde_json::Value>(&answer.body).unwrap()["offset"].as_u64();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!((joined.number("offset"), offset), (0, Some(1)));
    let mut carl = server.connect("carl").await;
    let again = carl.join_with("lobby", &format!(r#""since":5,"epoch":"{epoch}""#)).await;
    assert_eq!((again.flag("recovered"), again.text("reason").as_str()), (false, "epoch"));
    assert_ne!(again.text("epoch"), epoch);
}

/// Who is there, and with how many connections.
fn users(frame: &Frame) -> Vec<String> {
    let members = frame.objects("members");
    let mut users: Vec<_> = members.iter().map(|it| format!("{} {}", it.text("userId"), it.number("connections"))).collect();
    users.sort();
    users
}

#[tokio::test]
async fn gateways_share_who_is_there() {
    let a = Server::cluster().await;
    let mut b = a.another_gateway("b").await;
    let mut ada = a.connect("ada").await;
    ada.join_with("hall", r#""presence":true"#).await;
    let mut bob = Dial::to(b.listen).token(&a.token("bob")).connected().await;
    let joined = bob.join_with("hall", r#""presence":true"#).await;
    assert_eq!(users(&joined), ["ada 1", "bob 1"]);
    let told = ada.expect("userJoined").await;
    assert_eq!((told.object("user").text("id").as_str(), told.number("count")), ("bob", 2));

    // A user with a device at each gateway is one.
    let mut phone = Dial::to(b.listen).token(&a.token("ada")).client("phone").connected().await;
    phone.join("hall").await;
    phone.ask("presence", "hall", "").await;
    let presence = phone.expect("presence").await;
    assert_eq!(presence.number("count"), 2);
    assert_eq!(users(&presence), ["ada 2", "bob 1"]);
    bob.heard_nothing_else().await;

    // Whoever was at a gateway that died without a word is gone some time later: at most 15 s, of which the rules take 13.
    let killed = Instant::now();
    b.kill().await;
    let told = ada.expect("userLeft").await;
    println!("ghosts are gone after {:.1?}", killed.elapsed());
    assert_eq!((told.object("user").text("id").as_str(), told.number("count")), ("bob", 1));
    ada.ask("presence", "hall", "").await;
    assert_eq!(users(&ada.expect("presence").await), ["ada 1"]);
    ada.heard_nothing_else().await;
}

#[tokio::test]
async fn outcome_is_unknown_after_its_limit() {
    const LIMIT: Duration = Duration::from_secs(2);
    let limit = LIMIT.as_millis().to_string();
    let mut server = Server::shaped(Shape::Cluster, &[("limits.publish_timeout_ms", &limit)]).await;
    let mut ada = server.connect("ada").await;
    ada.say("lobby", 1).await;
    server.service(Service::Fanout).kill().await;
    let asked = Instant::now();
    let reference = ada.ask("broadcast", "lobby", r#""payload":2,"key":"k""#).await;
    // Ephemeral ones are lost with their link, and there is nothing to know.
    let ephemeral = ada.ask("broadcast", "lobby", r#""payload":2,"ephemeral":true"#).await;
    let (mut told, mut lost) = (None, None);
    while told.is_none() || lost.is_none() {
        let error = ada.expect_error("unavailable").await;
        match error.number("ref") {
            it if it == reference => {
                assert!(asked.elapsed() >= LIMIT, "{:?}", asked.elapsed());
                told = Some(error);
            }
            it => {
                assert_eq!(it, ephemeral);
                lost = Some(error);
            }
        }
    }
    let (told, lost) = (told.unwrap(), lost.unwrap());
    assert_eq!((told.text("outcome").as_str(), told.text("room").as_str(), told.has("retryAfterMs")), ("unknown", "lobby", true));
    assert!(!lost.has("outcome"), "{}", lost.raw);

    // What became of it is learned by saying it again under its key.
    server.service(Service::Fanout).start_again().await;
    let offset = loop {
        ada.ask("broadcast", "lobby", r#""payload":2,"key":"k""#).await;
        let answer = ada.next().await;
        if answer.kind() == "ack" {
            break answer.number("offset");
        }
        assert_eq!(answer.text("code"), "unavailable", "{}", answer.raw);
    };
    assert_eq!((offset, ada.history("lobby", "").await.offsets()), (2, vec![1, 2]));
}

/// The first gateway that came to a new owner was told of its own connections alone, however many there were elsewhere.
#[tokio::test]
async fn takeover_lets_no_user_have_too_many_connections() {
    let mut server = Server::shaped(Shape::Cluster, &[("limits.connections_per_user", "2")]).await;
    let b = server.another_gateway("b").await;
    let mut clients = vec![server.connect("ada").await, server.connect("ada").await];
    server.service(Service::Fanout).kill().await;
    // The new owner hears nothing of the two for a while.
    server.service(Service::Gateway).signal("STOP");
    server.service(Service::Fanout).start_again().await;
    clients.push(Door { address: b.listen, token: server.token("ada"), client: "three".to_owned() }.enter().await);
    server.service(Service::Gateway).signal("CONT");
    // Which one goes depends on whether the first owner lived long enough to be sure of the two.
    let (close, gone, _) = select_all(clients.iter_mut().map(|client| client.closed().boxed())).await;
    assert_eq!(close, (4100, "too_many_connections".to_owned()));
    drop(clients.remove(gone));
    for client in &mut clients {
        client.heard_nothing_else().await;
    }
}

/// Deletions and publishes at the same time, while owners die: each life of the room counts from 1 without holes, and what was said
/// after the last deletion is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletions_outlive_their_owners() {
    let mut server = Server::cluster().await;
    let mut other = server.another_fanout("other").await;
    let ada = Door { address: server.listen, token: server.token("ada"), client: "ada".to_owned() };
    let publisher = Publisher::start(ada, u64::MAX, false).await;
    let mut bob = Lives::start(server.connect("bob").await).await;

    let admin = server.token_for("root", r#"[{"rooms":["*"],"can":["admin"]}]"#);
    let delete =
        format!("DELETE /rooms/lobby HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {admin}\r\nConnection: close\r\n\r\n");
    let (stop, stopped) = watch::channel(false);
    let listen = server.listen;
    let deleting = tokio::spawn(async move {
        let mut answers = BTreeMap::<u16, u32>::new();
        loop {
            let status = ask(listen, &delete).await.status;
            *answers.entry(status).or_default() += 1;
            // One that is done has all those done before it that nobody waited for any more.
            if status == 204 && *stopped.borrow() {
                return answers;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    for turn in 0..2 {
        until_said(&publisher, 100).await;
        let owner = if turn == 0 { server.service(Service::Fanout) } else { &mut other };
        owner.kill().await;
        until_said(&publisher, 100).await;
        owner.start_again().await;
    }
    until_said(&publisher, 100).await;
    stop.send(true).unwrap();
    let answers = deleting.await.unwrap();
    assert!(answers.keys().all(|status| [204, 503].contains(status)) && answers[&204] > 0, "{answers:?}");

    // Nothing is deleted any more.
    until_said(&publisher, 50).await;
    publisher.stop();
    let (said, acked) = (publisher.said(), publisher.acked().await);
    assert_eq!(acked.len() as u64, said, "all that was said is acked in the end");
    let mut reader = server.connect("reader").await;
    let (mut stored, mut more) = (Vec::new(), true);
    while more {
        let page = reader.history("lobby", &format!(r#""after":{},"limit":1000"#, stored.len())).await;
        stored.extend(page.objects("messages").iter().map(|message| (message.number("offset"), message.number("payload"))));
        more = page.flag("more");
    }
    assert!(stored.iter().map(|(offset, _)| *offset).eq(1..=stored.len() as u64), "{stored:?}");
    for number in said - 30..=said {
        assert!(stored.contains(&(acked[&number], number)), "{number} was said after the last deletion");
    }
    let lives = bob.until(&stored).await;
    println!("{said} said, {lives} lives, deletions: {answers:?}");
}

async fn until_said(publisher: &Publisher, more: u64) {
    let until = publisher.said() + more;
    while publisher.said() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A member of a room that is deleted again and again: it fails at the first hole.
struct Lives {
    heard: watch::Receiver<Life>,
    task: JoinHandle<()>,
}

impl Drop for Lives {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What it heard of the room's present life, and how it came there.
#[derive(Clone, Default)]
struct Life {
    heard: Vec<(u64, u64)>,
    last: u64,
    epochs: Vec<String>,
}

impl Lives {
    async fn start(mut client: Client) -> Self {
        let joined = client.join("lobby").await;
        let life = Life { last: joined.number("offset"), epochs: vec![joined.text("epoch")], ..Life::default() };
        let (tell, heard) = watch::channel(life);
        let task = tokio::spawn(async move {
            loop {
                let frame = client.next().await;
                tell.send_modify(|life| life.on_frame(&frame));
            }
        });
        Self { heard, task }
    }

    /// Waits until it stands where the room does; how many lives it saw.
    async fn until(&mut self, stored: &[(u64, u64)]) -> usize {
        let stands = |life: &Life| life.last == stored.len() as u64 && stored.ends_with(&life.heard);
        let life = timeout(PATIENCE, self.heard.wait_for(stands)).await.expect("it hears what is stored");
        life.expect("it heard no hole").epochs.len()
    }
}

impl Life {
    fn on_frame(&mut self, frame: &Frame) {
        let offset = frame.number("offset");
        match frame.kind().as_str() {
            "message" => {
                if offset == 1 {
                    self.begin(frame.text("epoch"), 0);
                }
                assert_eq!(offset, self.last + 1, "{}", frame.raw);
                self.last = offset;
                self.heard.push((offset, frame.number("payload")));
            }
            // The room's life ended while its owner was away.
            "joined" => {
                assert_eq!((frame.flag("recovered"), frame.text("reason").as_str()), (false, "epoch"), "{}", frame.raw);
                self.begin(frame.text("epoch"), offset);
            }
            _ => panic!("{}", frame.raw),
        }
    }

    fn begin(&mut self, epoch: String, last: u64) {
        // An empty room's life has no name before its first message.
        if !epoch.is_empty() {
            assert!(!self.epochs.contains(&epoch), "{epoch} again");
            self.epochs.push(epoch);
        }
        (self.heard, self.last) = (Vec::new(), last);
    }
}
