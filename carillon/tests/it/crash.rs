//! `kill -9`, again and again, in the middle of what is being said: everything that was acked is there, offsets go on
//! without a hole, and a member that resumes has missed nothing.

use crate::{
    client::{Client, Event, Frame},
    server::Server,
};

/// How often it is killed. `CARILLON_TEST_CRASHES` says otherwise.
const CRASHES: u64 = 50;
/// Then another data folder: a start reads all that was said in the last minutes, which would make every round slower than
/// the one before.
const CRASHES_PER_LOG: usize = 10;
/// Messages between two crashes.
const MESSAGES: u64 = 1000;
/// Messages under way at once: small enough that a crash finds some of them not sent yet.
const WINDOW: u64 = 64;

#[tokio::test]
async fn acked_is_never_lost() {
    let crashes = std::env::var("CARILLON_TEST_CRASHES").map_or(CRASHES, |crashes| crashes.parse().unwrap());
    let seed = std::env::var("CARILLON_TEST_SEED").map_or_else(|_| crate::server::unix_ms(), |seed| seed.parse().unwrap());
    eprintln!("CARILLON_TEST_SEED={seed}");
    let mut chance = Chance(seed | 1);

    for first in (0..crashes).step_by(CRASHES_PER_LOG) {
        one_log(CRASHES_PER_LOG.min((crashes - first) as usize) as u64, &mut chance).await;
    }
}

async fn one_log(crashes: u64, chance: &mut Chance) {
    let mut server = Server::start().await;
    let mut writer = Writer { client: server.connect_as("ada", "writer").await, acked: Vec::new() };
    let mut member = Member { client: server.connect("bob").await, heard: Vec::new(), epoch: String::new() };
    member.join().await;
    for round in 1..=crashes {
        let last = round * MESSAGES;
        let kill_after = last - MESSAGES + chance.below(MESSAGES);
        tokio::join!(writer.talk_until_killed(last, kill_after, &server), member.listen_until_broken());
        assert!(writer.acked.len() as u64 >= kill_after);
        server.kill_and_restart().await;

        // The writer repeats what was not acked, under the same keys: what was stored nevertheless is found, not stored again.
        writer.client = server.connect_as("ada", "writer").await;
        writer.talk_to(last).await;
        // The member resumes where it stood.
        member.client = server.connect("bob").await;
        member.join().await;
        member.listen_to(last).await;
        assert_eq!(member.heard, writer.acked, "round {round}");
    }
}

/// Message n is said under the key `kn`, gets offset n, and its id is the n-th here.
struct Writer {
    client: Client,
    acked: Vec<String>,
}

impl Writer {
    /// Talks with a window of messages under way, and kills the server after so many acks.
    async fn talk_until_killed(&mut self, last: u64, kill_after: u64, server: &Server) {
        let mut next = self.acked.len() as u64 + 1;
        let mut killed = false;
        loop {
            let acked = self.acked.len() as u64;
            if !killed && acked >= kill_after {
                server.signal("KILL");
                killed = true;
            }
            if !killed && next <= last && next - acked <= WINDOW / 2 {
                let end = last.min(acked + WINDOW);
                self.client.send_all((next..=end).map(say)).await;
                next = end + 1;
            }
            match self.client.event().await {
                Event::Frame(ack) => self.on_ack(&ack),
                Event::Ping => {}
                Event::Closed(..) => return,
            }
        }
    }

    async fn talk_to(&mut self, last: u64) {
        let next = self.acked.len() as u64 + 1;
        self.client.send_all((next..=last).map(say)).await;
        for _ in next..=last {
            let ack = self.client.expect("ack").await;
            self.on_ack(&ack);
        }
    }

    fn on_ack(&mut self, ack: &Frame) {
        self.acked.push(ack.text("id"));
        let number = self.acked.len() as u64;
        assert_eq!((ack.number("ref"), ack.number("offset")), (number, number), "{}", ack.raw);
    }
}

fn say(number: u64) -> String {
    format!(r#"{{"type":"broadcast","room":"lobby","payload":{number},"ref":{number},"key":"k{number}"}}"#)
}

struct Member {
    client: Client,
    /// The ids of all messages, in order.
    heard: Vec<String>,
    epoch: String,
}

impl Member {
    /// Comes in where it stood.
    async fn join(&mut self) {
        let options = format!(r#""since":{},"epoch":"{}""#, self.heard.len(), self.epoch);
        let joined = self.client.join_with("lobby", &options).await;
        assert!(joined.flag("recovered"), "{}", joined.raw);
    }

    async fn listen_until_broken(&mut self) {
        loop {
            match self.client.event().await {
                Event::Frame(message) => self.on_message(&message),
                Event::Ping => {}
                Event::Closed(..) => return,
            }
        }
    }

    async fn listen_to(&mut self, last: u64) {
        while (self.heard.len() as u64) < last {
            let message = self.client.expect("message").await;
            self.on_message(&message);
        }
        self.client.heard_nothing_else().await;
    }

    fn on_message(&mut self, message: &Frame) {
        self.heard.push(message.text("id"));
        let number = self.heard.len() as u64;
        assert_eq!((message.number("offset"), message.number("payload")), (number, number), "{}", message.raw);
        if number == 1 {
            self.epoch = message.text("epoch");
        }
    }
}

/// A small generator (xorshift): which messages a crash finds under way is left to chance, and the seed replays it.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
