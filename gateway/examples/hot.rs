//! What every message passes through, again and again, without a socket or a clock: for `cargo xtask instructions`, which counts
//! what one turn takes. `hot NAME TURNS`; without arguments it tells the names.

use std::hint::black_box;

use bytes::Bytes;
use carillon_core::{
    Now,
    outbox::{Outbox, Run},
    partition::{Config, Effect, Partition, Start},
};
use carillon_gateway::websocket::codec::{self, Decoder, Event};
use carillon_proto::{
    frame::{self, Outgoing, ServerFrame},
    ids::{MessageId, RoomName},
    link::{self, Attach, Publish, Up, UpBatch, up},
};

/// Members of the room that a message is delivered to.
const MEMBERS: usize = 10;
const ROOM: &str = "chat:lobby";
const PUBLISH: &str = r#"{"type":"publish","ref":"17","room":"chat:lobby","payload":{"text":"It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a wife."},"key":"k-17"}"#;

type Turns = fn(usize);

const TURNS: [(&str, Turns); 4] = [
    ("frame in: a masked text frame is read", read_frame),
    ("publish in: its JSON is understood", understand),
    ("message out: encoded once, queued and taken by ten members", deliver),
    ("publish stored: from a gateway's batch to the append and the answer", store),
];

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    match numbers[..] {
        [which, turns] if which < TURNS.len() => TURNS[which].1(turns),
        _ => TURNS.iter().for_each(|(name, _)| println!("{name}")),
    }
}

fn read_frame(turns: usize) {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let payload: Vec<u8> = PUBLISH.bytes().zip(mask.into_iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    let length = u16::try_from(payload.len()).expect("it is short").to_be_bytes();
    let frame = [&[0x81, 0x80 | 126][..], &length, &mask, &payload].concat();
    let (mut decoder, mut bytes) = (Decoder::default(), frame.clone());
    for _ in 0..turns {
        bytes.copy_from_slice(&frame);
        let used = decoder.feed(black_box(&mut bytes), 65_536, |event| {
            black_box(matches!(event, Event::Text(_)));
            true
        });
        assert_eq!(used, Ok(frame.len()));
    }
}

fn understand(turns: usize) {
    for _ in 0..turns {
        black_box(frame::parse(black_box(PUBLISH), 64).is_ok());
    }
}

fn deliver(turns: usize) {
    let mut members: Vec<Outbox> = std::iter::repeat_with(Outbox::default).take(MEMBERS).collect();
    let message = Outgoing {
        room: ROOM,
        payload: br#"{"text":"It is a truth universally acknowledged"}"#,
        sender: "jane",
        offset: 17,
        id: MessageId([7; 16]),
        ts: 1_780_000_000_000,
        epoch: "",
        key: "",
    };
    for _ in 0..turns {
        let piece = Run::default().append(|out| codec::append_text_frame(out, |out| ServerFrame::Message(message).write(out)));
        for outbox in &mut members {
            outbox.push(piece.clone(), usize::MAX).expect("nothing is over no limit");
            let taken = outbox.write_with(|pieces| pieces.iter().map(|piece| piece.len()).sum());
            outbox.on_written(black_box(taken));
        }
    }
}

fn store(turns: usize) {
    let room = RoomName::parse(ROOM).expect("a name");
    let start = Start { partition: room.partition(), generation: 1, incarnation: "hot".into(), last_sequence: 0, seed: 5 };
    let now = Now { mono_ms: 1_000, unix_ms: 1_780_000_000_000 };
    let mut partition = Partition::new(Config::default(), start, []);
    partition.on_lease(u64::MAX);
    let mut number = 0;
    let mut say = |partition: &mut Partition, item: up::Item| {
        number += 1;
        let batch = UpBatch {
            version: link::VERSION,
            gateway: Bytes::from_static(&[7; 16]),
            link: 1,
            number,
            generation: 0,
            items: vec![Up { item: Some(item) }],
            settled: 0,
        };
        partition.on_batch(batch, now);
        while let Some(effect) = partition.poll_effect(now) {
            match effect {
                Effect::Head { room } => partition.on_head(room, None, now),
                Effect::Append { record, .. } => {
                    black_box(record);
                    partition.on_appended(now);
                }
                effect => drop(black_box(effect)),
            }
        }
    };
    say(&mut partition, up::Item::Attach(Attach { room: ROOM.into(), ..Attach::default() }));
    for publish in 1..=turns as u64 {
        let payload = Bytes::from_static(br#"{"text":"It is a truth universally acknowledged"}"#);
        let publish =
            Publish { publish, room: ROOM.into(), payload, user: "jane".into(), client: "c".into(), ..Publish::default() };
        say(&mut partition, up::Item::Publish(publish));
    }
    assert_eq!(partition.in_flight(), 0);
}
