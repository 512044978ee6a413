//! Connection state recovery of Socket.IO, where it must be refused: `recovered` is a promise that nothing was missed, so whatever
//! can't be kept of it makes the client begin anew, with another `pid`, and with nothing of what was.

use serde_json::{Value, json};

use crate::{http::Call, polling::Polling, server::Server};

/// A client as it stands behind its CONNECT.
struct Seat<'a> {
    polling: Polling<'a>,
    pid: String,
    /// The string that the newest replayable event ended in.
    trail: String,
}

impl<'a> Seat<'a> {
    /// `before`: the `pid` and the `offset` that it hands back.
    async fn come(server: &'a Server, token: &str, before: Option<(&str, &str)>) -> Self {
        let mut auth = json!({ "token": token });
        if let Some((pid, trail)) = before {
            (auth["pid"], auth["offset"]) = (pid.into(), trail.into());
        }
        let (mut polling, answer) = Polling::connect(server, &auth.to_string()).await;
        let connect: Value = serde_json::from_str(answer.strip_prefix("40").unwrap_or_else(|| panic!("{answer}"))).unwrap();
        let pid = connect["pid"].as_str().expect("every client may come back").to_owned();
        // Nothing comes before it.
        let connected = polling.next().await.unwrap();
        assert!(connected.starts_with(r#"42["connected",{"#), "{connected}");
        let trail = Self::trail_of(&connected);
        Self { polling, pid, trail }
    }

    fn trail_of(event: &str) -> String {
        let event: Vec<Value> = serde_json::from_str(event.strip_prefix("42").unwrap()).unwrap();
        event.last().unwrap().as_str().expect("it ends in a string").to_owned()
    }

    async fn join(&mut self, room: &str) {
        let answer = self.polling.ask(&json!(["join", room]).to_string()).await;
        assert!(answer.contains(r#""recovered":true"#), "{answer}");
    }

    /// The offset of the next message, whatever comes before it.
    async fn hears(&mut self, room: &str) -> u64 {
        let event = self.polling.next_with(r#"42["message","#).await;
        self.trail = Self::trail_of(&event);
        let frame: Vec<Value> = serde_json::from_str(&event[2..]).unwrap();
        assert_eq!(frame[1]["room"], room);
        frame[1]["offset"].as_u64().unwrap()
    }

    /// The offsets of so many messages of a room, whatever else comes.
    async fn hears_all(&mut self, room: &str, count: usize) -> Vec<u64> {
        let mut heard = Vec::new();
        while heard.len() < count {
            let event = self.polling.next_with(r#"42["message","#).await;
            let frame: Vec<Value> = serde_json::from_str(&event[2..]).unwrap();
            if frame[1]["room"] == room {
                heard.push(frame[1]["offset"].as_u64().unwrap());
            }
        }
        heard
    }

    /// Its transport breaks.
    async fn drop(self) -> (String, String) {
        assert_eq!(self.polling.post("1").await, 200);
        (self.pid, self.trail)
    }

    /// It began anew: it is in none of these rooms, is not sent what was in them, and may come back as who it is now.
    async fn began_anew(mut self, server: &'a Server, token: &str, pid: &str, rooms: &[&str]) {
        assert_ne!(self.pid, pid);
        for room in rooms {
            let left = self.polling.ask(&json!(["leave", room]).to_string()).await;
            assert!(left.contains("not_joined"), "{room}: {left}");
        }
        self.join("anew").await;
        let said = self.polling.ask(&json!(["broadcast", { "room": "anew", "payload": 1, "echo": true }]).to_string()).await;
        let offset = serde_json::from_str::<Value>(&said).unwrap()[0]["offset"].as_u64().unwrap();
        // The first message that comes: none of what was missed was replayed.
        assert_eq!(self.hears("anew").await, offset);
        let (pid, trail) = self.drop().await;
        assert_eq!(Self::come(server, token, Some((&pid, &trail))).await.pid, pid, "recovered");
    }
}

#[tokio::test]
async fn one_trimmed_room_recovers_none() {
    let server = Server::with(&[("retention", r#"[{"rooms":"short","messages":2},{"rooms":"*"}]"#)]).await;
    let ada = server.token("ada");
    let mut seat = Seat::come(&server, &ada, None).await;
    seat.join("short").await;
    seat.join("long").await;
    let (pid, trail) = seat.drop().await;
    let mut bob = server.connect("bob").await;
    bob.count("long", 1..=3).await;
    bob.count("short", 1..=2).await;
    // What is still there is recovered.
    let mut seat = Seat::come(&server, &ada, Some((&pid, &trail))).await;
    assert_eq!(seat.pid, pid);
    let mut heard = Vec::new();
    while heard.len() < 5 {
        let event = seat.polling.next_with(r#"42["message","#).await;
        let frame: Vec<Value> = serde_json::from_str(&event[2..]).unwrap();
        heard.push((frame[1]["room"].as_str().unwrap().to_owned(), frame[1]["offset"].as_u64().unwrap()));
    }
    heard.sort();
    assert_eq!(
        heard,
        [("long", 1), ("long", 2), ("long", 3), ("short", 1), ("short", 2)].map(|(room, at)| (room.to_owned(), at))
    );
    seat.drop().await;
    // From where it was first it is not, any more.
    bob.count("short", 3..=6).await;
    let seat = Seat::come(&server, &ada, Some((&pid, &trail))).await;
    seat.began_anew(&server, &ada, &pid, &["short", "long"]).await;
}

#[tokio::test]
async fn what_a_second_join_promised_is_recovered() {
    let server = Server::start().await;
    let ada = server.token("ada");
    let mut seat = Seat::come(&server, &ada, None).await;
    seat.join("lobby").await;
    server.connect("bob").await.count("lobby", 1..=4).await;
    for offset in 1..=4 {
        assert_eq!(seat.hears("lobby").await, offset);
    }
    let answer = seat.polling.ask(&json!(["join", "lobby", { "since": 0 }]).to_string()).await;
    assert!(answer.contains(r#""recovered":true"#), "{answer}");
    // It breaks before anything of the replay is there: what it was last sent is older than its join.
    let (pid, trail) = seat.drop().await;
    let mut seat = Seat::come(&server, &ada, Some((&pid, &trail))).await;
    assert_eq!(seat.pid, pid);
    for offset in 1..=4 {
        assert_eq!(seat.hears("lobby").await, offset);
    }
}

/// What is replayed comes in many small parts, so that much of it is not even queued when a client goes.
const SMALL_PARTS: [(&str, &str); 4] = [
    ("limits.outbox_bytes", "20000"),
    ("limits.replay_messages", "5"),
    ("limits.frames_per_second", "5000"),
    ("limits.frames_burst", "5000"),
];
const MANY: u64 = 60;

/// So many messages of 1 KB in the room.
async fn filled(settings: &[(&str, &str)]) -> Server {
    let server = Server::with(settings).await;
    let mut bob = server.connect("bob").await;
    bob.say_all("lobby", vec![format!(r#""{}""#, "x".repeat(1_000)); MANY as usize]).await;
    server
}

#[tokio::test]
async fn second_join_in_the_middle_of_a_replay_loses_nothing() {
    let server = filled(&SMALL_PARTS).await;
    let ada = server.token("ada");
    for other_room in [false, true] {
        let mut seat = Seat::come(&server, &ada, None).await;
        seat.join("other").await;
        // As the usual tutorial has it: a client joins again whenever it connects, also when it was recovered.
        assert_eq!(seat.polling.post("42[\"join\",\"lobby\",{\"since\":0}]\u{1e}42[\"join\",\"lobby\"]").await, 200);
        assert_eq!((seat.hears("lobby").await, seat.hears("lobby").await), (1, 2));
        let mut seen = 2;
        if other_room {
            // Another room's message tells where the client stands in all of them.
            server.connect("bob").await.count("other", 1..=1).await;
            loop {
                let event = seat.polling.next_with(r#"42["message","#).await;
                seat.trail = Seat::trail_of(&event);
                let frame: Vec<Value> = serde_json::from_str(&event[2..]).unwrap();
                if frame[1]["room"] == "other" {
                    break;
                }
                seen = frame[1]["offset"].as_u64().unwrap();
            }
            assert!(seen < MANY, "it is still in the middle");
        }
        let (pid, trail) = seat.drop().await;
        let mut seat = Seat::come(&server, &ada, Some((&pid, &trail))).await;
        assert_eq!(seat.pid, pid);
        assert_eq!(seat.hears_all("lobby", (MANY - seen) as usize).await, Vec::from_iter(seen + 1..=MANY));
    }
}

#[tokio::test]
async fn retention_that_overtakes_a_replay_is_not_recovered() {
    let mut settings = SMALL_PARTS.to_vec();
    settings.push(("retention", r#"[{"rooms":"lobby","messages":60},{"rooms":"*"}]"#));
    let server = filled(&settings).await;
    let ada = server.token("ada");
    let mut seat = Seat::come(&server, &ada, None).await;
    let answer = seat.polling.ask(&json!(["join", "lobby", { "since": 0 }]).to_string()).await;
    assert!(answer.contains(r#""recovered":true"#), "{answer}");
    assert_eq!(seat.hears("lobby").await, 1);
    let (pid, trail) = (seat.pid.clone(), seat.trail.clone());
    server.connect("bob").await.count("lobby", MANY + 1..=3 * MANY).await;
    // It was told; what if it had gone before?
    let told = seat.polling.next_with(r#"42["joined","#).await;
    assert!(told.contains(r#""recovered":false,"reason":"trimmed""#), "{told}");
    seat.drop().await;
    let seat = Seat::come(&server, &ada, Some((&pid, &trail))).await;
    seat.began_anew(&server, &ada, &pid, &["lobby"]).await;
}

#[tokio::test]
async fn life_that_began_with_ones_own_message_is_known_by_its_epoch() {
    let server = Server::start().await;
    let ada = server.token("ada");
    let mut seat = Seat::come(&server, &ada, None).await;
    seat.join("mine").await;
    for _ in 0..2 {
        let said = seat.polling.ask(&json!(["broadcast", { "room": "mine", "payload": 1 }]).to_string()).await;
        assert!(said.contains(r#""offset""#), "{said}");
    }
    let (pid, trail) = seat.drop().await;
    let mut seat = Seat::come(&server, &ada, Some((&pid, &trail))).await;
    assert_eq!(seat.pid, pid);
    for _ in 0..2 {
        seat.trail = Seat::trail_of(&seat.polling.next_with(r#"42["own","#).await);
    }
    let (pid, trail) = seat.drop().await;
    let admin = server.token_for("root", r#"[{"rooms":["*"],"can":["admin"]}]"#);
    assert_eq!(Call::new("DELETE", "/rooms/mine").token(&admin).to(&server).await.status, 204);
    server.connect("bob").await.count("mine", 1..=3).await;
    let seat = Seat::come(&server, &ada, Some((&pid, &trail))).await;
    seat.began_anew(&server, &ada, &pid, &["mine"]).await;
}

#[tokio::test]
async fn another_life_of_a_room_is_not_recovered() {
    let server = Server::with(&[("retention", r#"[{"rooms":"brief","age":"1s"},{"rooms":"*"}]"#)]).await;
    let ada = server.token("ada");
    let mut bob = server.connect("bob").await;
    bob.count("brief", 1..=2).await;
    let mut seat = Seat::come(&server, &ada, None).await;
    seat.join("brief").await;
    seat.join("long").await;
    let (pid, trail) = seat.drop().await;
    while !bob.history("brief", "").await.offsets().is_empty() {
        tokio::task::yield_now().await;
    }
    // Its offset is there again, in another life.
    bob.count("brief", 1..=4).await;
    bob.say("long", 1).await;
    let seat = Seat::come(&server, &ada, Some((&pid, &trail))).await;
    seat.began_anew(&server, &ada, &pid, &["brief", "long"]).await;
}

#[tokio::test]
async fn a_grant_that_was_lost_recovers_nothing() {
    let server = Server::start().await;
    let mut seat = Seat::come(&server, &server.token("ada"), None).await;
    seat.join("open").await;
    seat.join("secret").await;
    let (pid, trail) = seat.drop().await;
    let mut bob = server.connect("bob").await;
    bob.say("secret", 1).await;
    bob.say("open", 1).await;
    let less = server.token_for("ada", r#"[{"rooms":["open","anew"],"can":["join","publish"]}]"#);
    let seat = Seat::come(&server, &less, Some((&pid, &trail))).await;
    seat.began_anew(&server, &less, &pid, &["open", "secret"]).await;
}

#[tokio::test]
async fn a_pid_is_its_users_alone() {
    let server = Server::start().await;
    let (ada, bob) = (server.token("ada"), server.token("bob"));
    let mut seat = Seat::come(&server, &ada, None).await;
    seat.join("lobby").await;
    let (pid, trail) = seat.drop().await;
    server.connect("carol").await.say("lobby", r#""for ada""#).await;
    let thief = Seat::come(&server, &bob, Some((&pid, &trail))).await;
    thief.began_anew(&server, &bob, &pid, &["lobby"]).await;
    // Ada's is as it was.
    let mut seat = Seat::come(&server, &ada, Some((&pid, &trail))).await;
    assert_eq!((seat.hears("lobby").await, seat.pid.as_str()), (1, pid.as_str()));
    // One who is told off takes nothing along either.
    let auth = json!({ "token": "nonsense", "pid": pid, "offset": trail }).to_string();
    assert_eq!(Polling::connect(&server, &auth).await.1, r#"44{"message":"Authentication failed"}"#);
}

#[tokio::test]
async fn who_takes_over_its_own_pid_ends_the_one_before() {
    let server = Server::start().await;
    let ada = server.token("ada");
    let mut first = Seat::come(&server, &ada, None).await;
    first.join("lobby").await;
    let mut second = Seat::come(&server, &ada, Some((&first.pid, &first.trail))).await;
    assert_eq!(second.pid, first.pid);
    // What it asks for now is not promised to anybody: it ends instead, and comes back.
    assert_eq!(first.polling.post(r#"4299["join","other"]"#).await, 200);
    let mut answers = Vec::new();
    while let Some(packet) = first.polling.next().await {
        answers.push(packet);
    }
    assert!(!answers.iter().any(|packet| packet.starts_with("4399") || packet.starts_with("41")), "{answers:?}");
    server.connect("bob").await.say("lobby", 1).await;
    assert_eq!(second.hears("lobby").await, 1);
}

#[tokio::test]
async fn what_nobody_was_given_recovers_nothing() {
    let server = Server::start().await;
    let ada = server.token("ada");
    let mut bob = server.connect("bob").await;
    let mut seat = Seat::come(&server, &ada, None).await;
    seat.join("lobby").await;
    bob.count("lobby", 1..=3).await;
    for at in 1..=3 {
        assert_eq!(seat.hears("lobby").await, at);
    }
    let (pid, trail) = seat.drop().await;
    for unknown in ["0123456789abcdef0123456789abcdef", "", "x", &pid[1..], &format!("{pid}0")] {
        let seat = Seat::come(&server, &ada, Some((unknown, &trail))).await;
        seat.began_anew(&server, &ada, &pid, &["lobby"]).await;
    }
    // Where the client stood can't be read: from where its record says, so rather twice than never.
    for garbage in ["", "nonsense", "AQ!", &trail[..trail.len() - 1]] {
        let mut seat = Seat::come(&server, &ada, Some((&pid, garbage))).await;
        assert_eq!(seat.pid, pid, "{garbage}");
        for at in 1..=3 {
            assert_eq!(seat.hears("lobby").await, at, "{garbage}");
        }
        seat.drop().await;
    }
    let mut seat = Seat::come(&server, &ada, Some((&pid, &trail))).await;
    bob.say("lobby", 4).await;
    assert_eq!((seat.hears("lobby").await, seat.pid.as_str()), (4, pid.as_str()), "nothing twice");
}

/// As the usual chat does whenever it is connected: it joins again, before it has read what waits for it. The answer is read, and the
/// messages before it, but the connection breaks before the application knows of them: its trail is older.
#[tokio::test]
async fn joining_again_skips_nothing() {
    let server = Server::start().await;
    let ada = server.token("ada");
    let mut bob = server.connect("bob").await;
    bob.count("lobby", 1..=3).await;
    for (again, expected) in [
        (json!(["join", "lobby"]), 5..=8),
        (json!(["join", "lobby", { "since": 0 }]), 1..=13),
        (json!(["join", "lobby", { "last": 5 }]), 13..=18),
    ] {
        let mut seat = Seat::come(&server, &ada, None).await;
        seat.join("lobby").await;
        let said = *expected.end() - 4;
        bob.say("lobby", said).await;
        assert_eq!(seat.hears("lobby").await, said);
        bob.count("lobby", said + 1..=said + 3).await;
        let answer = seat.polling.ask(&again.to_string()).await;
        assert!(answer.contains(r#""recovered":true"#), "{again}: {answer}");
        let (pid, trail) = seat.drop().await;
        bob.say("lobby", said + 4).await;
        let mut seat = Seat::come(&server, &ada, Some((&pid, &trail))).await;
        assert_eq!(seat.pid, pid);
        for at in expected {
            assert_eq!(seat.hears("lobby").await, at, "{again}");
        }
        seat.drop().await;
    }
}

/// Its own messages are told by `own` when it returns, and say which life of the room they are of, too.
#[tokio::test]
async fn own_messages_of_another_life_are_not_recovered() {
    let server = Server::start().await;
    let ada = server.token("ada");
    let mut seat = Seat::come(&server, &ada, None).await;
    seat.join("lobby").await;
    for payload in 1..=2 {
        seat.polling.ask(&json!(["broadcast", { "room": "lobby", "payload": payload }]).to_string()).await;
    }
    let (pid, trail) = seat.drop().await;
    let mut seat = Seat::come(&server, &ada, Some((&pid, &trail))).await;
    for _ in 1..=2 {
        let own = seat.polling.next_with(r#"42["own","#).await;
        seat.trail = Seat::trail_of(&own);
    }
    let (pid, trail) = seat.drop().await;
    let admin = server.token_for("backend", r#"[{"rooms":["*"],"can":["admin"]}]"#);
    assert_eq!(Call::new("DELETE", "/rooms/lobby").token(&admin).to(&server).await.status, 204);
    server.connect("bob").await.count("lobby", 1..=3).await;
    let seat = Seat::come(&server, &ada, Some((&pid, &trail))).await;
    seat.began_anew(&server, &ada, &pid, &["lobby"]).await;
}
