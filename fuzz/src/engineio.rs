//! A client of Engine.IO that sends any bytes at all: payloads, packets, and the Socket.IO packets in them, with their attachments. Nothing
//! may panic, what is understood must be understood again when it is written out, and what is queued must be counted.

use std::collections::VecDeque;

use bytes::Bytes;
use carillon_gateway::{
    engineio::{
        packet::{self, Outgoing, Packet, Part, parse_payload, split_payload, take_payload},
        peer::{Peer, Polled, Times},
    },
    socketio::{
        client::{Arrived, Client},
        packet as events, position,
    },
};

const TIMES: Times = Times { ping_interval_ms: 300, ping_timeout_ms: 200, upgrade_ms: 1000, goodbye_ms: 500 };

pub(crate) fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    payload(text);
    life(text);
    cursor(text);
}

/// What was understood is written out again, and understood as the same.
fn payload(text: &str) {
    let Ok(parts) = parse_payload(text) else { return };
    let mut queue: VecDeque<Outgoing> = parts.iter().map(outgoing).collect();
    let payload: Bytes = take_payload(&mut queue, usize::MAX).into();
    assert!(queue.is_empty());
    let again = parse_payload(std::str::from_utf8(&payload).expect("it came from text")).expect("it was written here");
    assert_eq!(again, parts);
    let frames: Vec<Outgoing> = parts.iter().map(outgoing).filter(|packet| !packet.is_empty()).collect();
    assert!(split_payload(&payload).iter().filter(|packet| !packet.is_empty()).eq(&frames));
}

fn outgoing(part: &Part<'_>) -> Outgoing {
    match part {
        Part::Binary(bytes) => Outgoing::Binary(Bytes::copy_from_slice(bytes)),
        Part::Packet(packet) => {
            let (kind, rest) = match packet {
                Packet::Open => ("0", ""),
                Packet::Close => ("1", ""),
                Packet::Ping(rest) => ("2", *rest),
                Packet::Pong(rest) => ("3", *rest),
                Packet::Message(rest) => ("4", *rest),
                Packet::Upgrade => ("5", ""),
                Packet::Noop => ("6", ""),
            };
            Outgoing::Text(format!("{kind}{rest}").into(), Bytes::new())
        }
    }
}

/// Every line is a step of a client's: requests, packets, time.
fn life(text: &str) {
    let mut peer = Peer::new(TIMES, false, 0);
    let mut client = Client::default();
    let mut now_ms = 0;
    for line in text.split('\n') {
        now_ms += 7;
        match line {
            "GET" => {
                let polled = peer.on_poll(now_ms);
                assert!(polled == Polled::Refused || peer.over().is_none() || peer.take_answer().is_some());
            }
            "GET gone" => peer.on_poll_gone(now_ms),
            "POST" => drop(peer.on_post(now_ms)),
            "POSTED" => peer.on_posted(),
            "WS" => drop(peer.on_probe(now_ms)),
            "WS gone" => peer.on_probe_gone(),
            "wait" => now_ms += 250,
            _ => on_packets(&mut peer, &mut client, line, now_ms),
        }
        peer.on_time(now_ms);
        drop(peer.take_answer());
        while peer.poll_packet().is_some() {}
        let is_waiting = !peer.is_on_websocket() && peer.over().is_none();
        assert!(is_waiting || peer.queued_bytes() == 0, "{}", peer.queued_bytes());
        assert!(peer.over().is_some() || peer.next_ms() > now_ms, "what is due has happened");
    }
}

fn on_packets(peer: &mut Peer, client: &mut Client, line: &str, now_ms: u64) {
    let Ok(parts) = parse_payload(line) else { return };
    for part in &parts {
        match part {
            Part::Binary(bytes) => drop(client.on_binary(bytes, |_| ())),
            Part::Packet(packet) if peer.is_probed() => drop(peer.on_probe_packet(*packet)),
            Part::Packet(packet) => {
                let Some(text) = peer.on_packet(*packet, now_ms) else { continue };
                let connect = client.on_text(text, |arrived| match arrived {
                    Arrived::Connect { namespace, auth } => {
                        assert!(auth.starts_with('{') && auth.ends_with('}'));
                        Some(namespace.to_owned())
                    }
                    Arrived::Event(event) => {
                        let (name, arguments) = events::arguments(event.arguments);
                        assert!(event.id.is_none_or(|id| id.bytes().all(|byte| byte.is_ascii_digit())));
                        let written = events::event_of(event.namespace, event.arguments, event.attachments.len());
                        let Ok(Packet::Message(again)) = packet::parse(&written) else { panic!("{written}") };
                        events::parse(again).expect("it was understood before");
                        let _ = (name, arguments);
                        None
                    }
                    Arrived::Disconnect { .. } | Arrived::Nothing => None,
                });
                if let Ok(Some(namespace)) = connect {
                    client.accept(&namespace);
                    peer.push(Outgoing::Text(events::connect(&namespace, "sid", None).into(), Bytes::new()));
                }
            }
        }
    }
}

fn cursor(text: &str) {
    if let Some(positions) = position::read(text) {
        assert_eq!(position::read(&position::write(positions.iter().copied())), Some(positions));
    }
}
