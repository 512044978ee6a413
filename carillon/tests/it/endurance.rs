//! What only time and numbers show: members that come and go at random, resumes of a length that no queue could hold.
//! Short here; `CARILLON_TEST_SECONDS`, `CARILLON_TEST_MEMBERS` and `CARILLON_TEST_MISSED` make them as long as wanted.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::{
    sync::watch,
    time::{interval, sleep_until},
};

use crate::{
    client::{Client, Event},
    server::Server,
};

const KEEPS_ALL: (&str, &str) = ("retention", r#"[{"rooms":"*","messages":10000000}]"#);

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

/// Says a number every few milliseconds until told to stop; what was acked, by offset.
async fn talk(mut client: Client, every: Duration, mut stop: watch::Receiver<bool>) -> BTreeMap<u64, String> {
    let mut said = BTreeMap::new();
    let mut pace = interval(every);
    let name = client.next_ref();
    for count in 0.. {
        tokio::select! {
            _ = pace.tick() => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
        let payload = format!(r#""{name}:{count}""#);
        let ack = client.say("lobby", &payload).await;
        said.insert(ack.number("offset"), payload);
    }
    said
}

/// A member that drops its connection at random moments until `end`, resumes each time, and stays for the last time until
/// it has heard `last`, once that is known.
async fn come_and_go(server: &Server, name: String, end: Instant, mut last: watch::Receiver<u64>) -> Vec<String> {
    let mut heard: Vec<String> = Vec::new();
    let mut epoch = String::new();
    loop {
        let mut client = server.connect(&name).await;
        let joined = client.join_with("lobby", &format!(r#""since":{},"epoch":"{epoch}""#, heard.len())).await;
        assert!(joined.flag("recovered"), "{}", joined.raw);
        epoch = joined.text("epoch");
        let stays = Duration::from_millis(u64::from(joined.raw.len() as u32) * 7 % 400 + heard.len() as u64 % 211);
        let leaves = (Instant::now() + stays < end).then(|| Instant::now() + stays);
        loop {
            let frame = tokio::select! {
                event = client.event() => match event {
                    Event::Frame(frame) => frame,
                    Event::Ping => continue,
                    Event::Closed(code, reason) => panic!("closed with {code} {reason}"),
                },
                () = sleep_until(leaves.unwrap_or(end + Duration::from_secs(3600)).into()) => break,
                _ = last.wait_for(|last| leaves.is_none() && *last == heard.len() as u64 && *last > 0) => return heard,
            };
            if frame.kind() == "message" {
                assert_eq!(frame.number("offset"), heard.len() as u64 + 1, "{name} heard a gap or an echo: {}", frame.raw);
                if frame.has("epoch") {
                    epoch = frame.text("epoch");
                }
                heard.push(frame.json("payload").to_owned());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coming_and_going_misses_nothing() {
    let (members, seconds) = (number("CARILLON_TEST_MEMBERS", 20), number("CARILLON_TEST_SECONDS", 5));
    let server = Server::with(&[KEEPS_ALL]).await;
    let end = Instant::now() + Duration::from_secs(seconds);
    let (stop, stopped) = watch::channel(false);
    let (last, known) = watch::channel(0);
    let writers = join_all((0..4).map(|writer| {
        let stopped = stopped.clone();
        let server = &server;
        async move { talk(server.connect_as("writer", &format!("w{writer}")).await, Duration::from_millis(20), stopped).await }
    }));
    let writers = async {
        let stopping = async {
            sleep_until(end.into()).await;
            stop.send(true).unwrap();
        };
        let (said, ()) = tokio::join!(writers, stopping);
        let log: BTreeMap<u64, String> = said.into_iter().flatten().collect();
        last.send(*log.keys().last().unwrap()).unwrap();
        log
    };
    let members = join_all((0..members).map(|member| come_and_go(&server, format!("member{member}"), end, known.clone())));
    let (log, lists) = tokio::join!(writers, members);
    let log: Vec<String> = log.into_values().collect();
    eprintln!("{} messages, {} members", log.len(), lists.len());
    for list in lists {
        assert_eq!(list, log);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_resume_is_whole() {
    let missed = number("CARILLON_TEST_MISSED", 10_000);
    let server = Server::with(&[KEEPS_ALL]).await;
    let mut writer = server.connect_as("writer", "w").await;
    for first in (1..=missed).step_by(1000) {
        writer.count("lobby", first..=(first + 999).min(missed)).await;
    }
    // Others go on talking meanwhile: the member turns live without a seam.
    let (stop, stopped) = watch::channel(false);
    let talking = talk(server.connect_as("writer", "w2").await, Duration::from_millis(1), stopped);
    let resuming = async {
        let mut member = server.connect("member").await;
        let started = Instant::now();
        let joined = member.join_with("lobby", r#""since":0"#).await;
        assert!(joined.flag("recovered"));
        member.hears(1..=missed + 100).await;
        eprintln!("{missed} missed messages in {:?}", started.elapsed());
        stop.send(true).unwrap();
    };
    tokio::join!(talking, resuming);
}
