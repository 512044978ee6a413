//! Webhooks, as a receiver sees them: everything at least once, in the order of each room, signed, whoever is away or killed meanwhile.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::sleep,
};

use crate::server::{PATIENCE, Server, Shape, until_metric};

const KEY: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// What was told, as it came: the id, and the body.
type Heard = Arc<Mutex<Vec<(String, Value)>>>;

/// A receiver that answers only so many requests of those it reads, and then breaks off each one unanswered.
struct Receiver {
    address: SocketAddr,
    heard: Heard,
    serving: JoinHandle<()>,
}

impl Receiver {
    async fn start(address: SocketAddr, heard: Heard, answers: usize) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (noted, left) = (heard.clone(), Arc::new(Mutex::new(answers)));
        let serving = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(socket, noted.clone(), left.clone()));
            }
        });
        Self { address, heard, serving }
    }

    fn hooks(&self, types: &str) -> String {
        format!("[{}]", hook(self.address, types))
    }

    async fn stop(self) {
        self.serving.abort();
        let _ = self.serving.await;
    }

    /// What was told first of each id, once there are so many of them.
    async fn until(&self, count: usize) -> Vec<Value> {
        let began = Instant::now();
        loop {
            let mut firsts = Vec::new();
            let mut known = BTreeMap::new();
            for (id, body) in self.heard.lock().unwrap().iter() {
                if known.insert(id.clone(), ()).is_none() {
                    firsts.push(body.clone());
                }
            }
            if firsts.len() >= count {
                assert_eq!(firsts.len(), count, "{firsts:?}");
                return firsts;
            }
            assert!(began.elapsed() < 2 * PATIENCE, "{} of {count}: {firsts:?}", firsts.len());
            sleep(Duration::from_millis(50)).await;
        }
    }
}

fn hook(address: SocketAddr, types: &str) -> String {
    format!(r#"{{"url":"http://{address}/hook?a=b","secret":"whsec_{KEY}","types":{types},"rooms":"chat:*"}}"#)
}

async fn serve(socket: TcpStream, heard: Heard, left: Arc<Mutex<usize>>) -> Option<()> {
    let mut socket = BufReader::new(socket);
    let mut line = String::new();
    socket.read_line(&mut line).await.ok()?;
    assert_eq!(line, "POST /hook?a=b HTTP/1.1\r\n");
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        socket.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    socket.read_exact(&mut body).await.ok()?;
    let body = String::from_utf8(body).unwrap();
    let (id, time) = (&headers["webhook-id"], &headers["webhook-timestamp"]);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &STANDARD.decode(KEY).unwrap());
    let signature = STANDARD.decode(headers["webhook-signature"].strip_prefix("v1,").unwrap()).unwrap();
    hmac::verify(&key, format!("{id}.{time}.{body}").as_bytes(), &signature).expect("the signature checks");
    heard.lock().unwrap().push((id.clone(), serde_json::from_str(&body).unwrap()));
    {
        let mut left = left.lock().unwrap();
        *left = left.checked_sub(1)?;
    }
    socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.ok()
}

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn text<'v>(told: &'v Value, name: &str) -> &'v str {
    told["data"][name].as_str().unwrap_or_else(|| panic!("no {name} in {told}"))
}

/// How long the receiver is away: no time in CI, a minute or more by hand.
fn outage() -> Duration {
    let seconds = std::env::var("CARILLON_TEST_OUTAGE_S").map(|seconds| seconds.parse().unwrap());
    Duration::from_secs(seconds.unwrap_or(0))
}

/// Repeats included.
fn heard_all(receiver: &Receiver) -> usize {
    receiver.heard.lock().unwrap().len()
}

#[tokio::test]
async fn everything_is_told_although_the_receiver_and_the_server_are_killed() {
    let receiver = Receiver::start(ANY, Heard::default(), 5).await;
    let hooks = receiver.hooks(r#"["message.stored"]"#);
    let mut server = Server::with(&[("hooks", &hooks)]).await;
    let mut ada = server.connect("ada").await;
    let rooms = ["chat:1", "chat:2", "chat:3"];
    for n in 1..=20 {
        for room in rooms {
            ada.say(room, format!(r#"{{"n":{n}}}"#)).await;
        }
        ada.say("other", n).await;
    }
    // It has broken off in the middle; then it is not there at all, and neither is the server.
    let (address, heard) = (receiver.address, receiver.heard.clone());
    receiver.stop().await;
    sleep(outage()).await;
    server.kill_and_restart().await;
    let mut ada = server.connect("ada").await;
    ada.say("chat:1", r#"{"n":21}"#).await;
    let receiver = Receiver::start(address, heard, usize::MAX).await;
    let told = receiver.until(61).await;
    assert!(heard_all(&receiver) > 61, "those that were broken off are told again");
    for room in rooms {
        let of_room: Vec<&Value> = told.iter().filter(|told| text(told, "room") == room).collect();
        for (at, told) in of_room.iter().enumerate() {
            let n = at as u64 + 1;
            assert_eq!((&told["data"]["offset"], &told["data"]["payload"]["n"]), (&n.into(), &n.into()), "{told}");
            assert_eq!((told["type"].as_str(), text(told, "sender")), (Some("message.stored"), "ada"));
        }
        assert_eq!(of_room.len(), if room == "chat:1" { 21 } else { 20 });
    }
}

#[tokio::test]
async fn presence_is_told_by_its_edges() {
    let receiver = Receiver::start(ANY, Heard::default(), usize::MAX).await;
    let hooks = receiver.hooks(r#"["room.first_member","room.last_member","user.online","user.offline"]"#);
    let mut server = Server::with(&[("hooks", &hooks)]).await;
    let mut ada = server.connect_as("ada", "phone").await;
    let told = receiver.until(1).await;
    assert_eq!((told[0]["type"].as_str(), text(&told[0], "user")), (Some("user.online"), "ada"));
    // Not her first one, and not the room's first member.
    let mut laptop = server.connect_as("ada", "laptop").await;
    ada.join("chat:1").await;
    laptop.join("chat:1").await;
    ada.leave("chat:1").await;
    laptop.leave("chat:1").await;
    let told = receiver.until(3).await;
    let kinds: Vec<_> = told[1..].iter().map(|told| (told["type"].as_str().unwrap(), text(told, "room"))).collect();
    assert_eq!(kinds, [("room.first_member", "chat:1"), ("room.last_member", "chat:1")]);

    // All of it is killed, and she does not come back: whoever takes the partition tells.
    ada.join("chat:2").await;
    receiver.until(4).await;
    server.kill().await;
    server.start_again().await;
    let told = receiver.until(6).await;
    let mut last: Vec<_> = told[4..].iter().map(|told| told["type"].as_str().unwrap()).collect();
    last.sort_unstable();
    assert_eq!(last, ["room.last_member", "user.offline"]);
}

#[tokio::test]
async fn killed_gateway_takes_its_users_offline_once() {
    let receiver = Receiver::start(ANY, Heard::default(), usize::MAX).await;
    let hooks = receiver.hooks(r#"["user.online","user.offline"]"#);
    let mut server = Server::shaped(Shape::Cluster, &[("hooks", &hooks)]).await;
    let other = server.another_gateway("b").await;
    let mut clients = Vec::new();
    for n in 0..20 {
        clients.push(server.connect(&format!("user{n}")).await);
    }
    // One has a connection elsewhere, too.
    let _elsewhere = crate::client::Dial::to(other.listen).token(&server.token("user0")).connected().await;
    receiver.until(20).await;
    server.service(crate::server::Service::Gateway).signal("KILL");
    let told = receiver.until(39).await;
    let mut gone: Vec<_> = told[20..].iter().map(|told| (told["type"].as_str().unwrap(), text(told, "user"))).collect();
    gone.sort_unstable();
    let mut expected: Vec<String> = (1..20).map(|n| format!("user{n}")).collect();
    expected.sort();
    assert_eq!(gone, expected.iter().map(|user| ("user.offline", user.as_str())).collect::<Vec<_>>());
}

/// One takes its connections and never answers. The other one is told everything all the same.
#[tokio::test]
async fn slow_receiver_holds_up_nobody() {
    const ROOMS: usize = 60;
    let quick = Receiver::start(ANY, Heard::default(), usize::MAX).await;
    let silent = TcpListener::bind(ANY).await.unwrap();
    let held = Arc::new(Mutex::new(Vec::new()));
    let (address, holds) = (silent.local_addr().unwrap(), held.clone());
    tokio::spawn(async move {
        loop {
            let asked = silent.accept().await.unwrap();
            holds.lock().unwrap().push(asked);
        }
    });
    let types = r#"["message.stored"]"#;
    let hooks = format!("[{},{}]", hook(address, types), hook(quick.address, types));
    let server = Server::with(&[("hooks", &hooks), ("limits.frames_burst", "1000")]).await;
    let mut ada = server.connect("ada").await;
    for room in 0..ROOMS {
        ada.say(&format!("chat:{room}"), 1).await;
    }
    quick.until(ROOMS).await;
    until_metric(server.owners_admin(), "carillon_hooks_queued", ROOMS as u64).await;
    assert!(!held.lock().unwrap().is_empty(), "it was asked");
}
