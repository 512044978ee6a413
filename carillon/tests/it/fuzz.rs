//! What the fuzz targets do, without a fuzzer: over the committed corpora, and over seeded mutations of them.

#[path = "../../../fuzz/src/cursor.rs"]
mod cursor;
#[path = "../../../fuzz/src/engineio.rs"]
mod engineio;
#[path = "../../../fuzz/src/frames.rs"]
mod frames;
#[path = "../../../fuzz/src/posts.rs"]
mod posts;
#[path = "../../../fuzz/src/requests.rs"]
mod requests;
#[path = "../../../fuzz/src/tokens.rs"]
mod tokens;

use std::{panic::catch_unwind, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio_tungstenite::tungstenite::protocol::frame::{
    Frame as WireFrame,
    coding::{Data, OpCode},
};

/// `CARILLON_TEST_MUTATIONS` says otherwise.
const MUTATIONS: u64 = 4000;

/// What has a name, and then what runs of the fuzzer have found, by the number of its line.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let files = std::fs::read_dir(fuzz.join("corpus").join(target)).unwrap().map(|file| file.unwrap().path());
    let named = files.map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap()));
    let mut corpus: Vec<_> = named.collect();
    corpus.sort();
    // A target that no long run was made of has no such file; an empty one is a mistake.
    let Ok(found) = std::fs::read_to_string(fuzz.join("found").join(target)) else { return corpus };
    assert!(!found.is_empty(), "fuzz/found/{target} is empty");
    let lines = found.lines().enumerate();
    corpus.extend(lines.map(|(line, text)| (format!("found, line {}", line + 1), STANDARD.decode(text).unwrap())));
    corpus
}

/// Its name, which is that of its corpus, what it does, and what its inputs are made of.
type Target = (&'static str, fn(&[u8]), fn(&mut Chance, &mut Vec<u8>));

const TARGETS: [Target; 7] = [
    ("frames", frames::run, Chance::add_frame),
    ("cursor", cursor::run, Chance::add_frame),
    ("tokens", tokens::run, Chance::add_frame),
    ("keys", tokens::run_keys, Chance::add_frame),
    ("engineio", engineio::run, Chance::add_packet),
    ("requests", requests::run, Chance::add_frame),
    ("posts", posts::run, Chance::add_packet),
];

#[test]
fn corpora_do_no_harm() {
    for (target, run, _) in TARGETS {
        let corpus = corpus(target);
        let named = corpus.iter().filter(|(name, _)| !name.starts_with("found")).count();
        assert!(named >= 8, "{target}: {named} with a name");
        for (name, bytes) in corpus {
            assert!(catch_unwind(|| run(&bytes)).is_ok(), "{target}/{name}");
        }
    }
}

#[test]
fn mutations_do_no_harm() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |number| number.parse().unwrap());
    let (seed, count) = (number("CARILLON_TEST_SEED", 1), number("CARILLON_TEST_MUTATIONS", MUTATIONS));
    for (target, run, add) in TARGETS {
        let corpus: Vec<Vec<u8>> = corpus(target).into_iter().map(|(_, bytes)| bytes).collect();
        for round in 0..count {
            let seed = seed.wrapping_add(round);
            let bytes = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1).mutated(&corpus, add);
            assert!(catch_unwind(|| run(&bytes)).is_ok(), "{target}: CARILLON_TEST_SEED={seed} CARILLON_TEST_MUTATIONS=1");
        }
    }
}

#[test]
fn mutated_cursors_do_no_harm() {
    let corpus: Vec<Vec<u8>> = corpus("cursor").into_iter().map(|(_, bytes)| bytes).collect();
    for seed in 1..=MUTATIONS * 10 {
        let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut bytes = corpus[chance.below(corpus.len())].clone();
        for _ in 0..chance.below(4) {
            chance.damage(&mut bytes);
        }
        assert!(catch_unwind(|| cursor::run(&bytes)).is_ok(), "seed {seed}: {bytes:?}");
    }
}

/// The pieces that frames are made of: what no flipping of bits would find.
const WORDS: &[&str] = &[
    r#""type":"join""#,
    r#""type":"leave""#,
    r#""type":"broadcast""#,
    r#""type":"history""#,
    r#""type":"presence""#,
    r#""type":"refresh""#,
    r#""type":"ping""#,
    r#""room":"lobby""#,
    r#""room":"user:ada""#,
    r#""room":"user:bob""#,
    r#""room":"a""#,
    r#""room":"b""#,
    r#""room":"c""#,
    r#""room":"d""#,
    r#""room":"e""#,
    r#""room":"""#,
    r#""payload":1e400"#,
    r#""payload":{"a":[1,2]}"#,
    r#""payload":null"#,
    r#""ref":1"#,
    r#""ref":"x""#,
    r#""ref":null"#,
    r#""key":"k""#,
    r#""key":"l""#,
    r#""echo":true"#,
    r#""ephemeral":true"#,
    r#""since":0"#,
    r#""since":2"#,
    r#""since":9007199254740991"#,
    r#""epoch":"i.1""#,
    r#""epoch":"""#,
    r#""last":3"#,
    r#""before":3"#,
    r#""after":2"#,
    r#""limit":2"#,
    // And some that are wrong.
    r#""type":"nope""#,
    r#""type":7"#,
    r#""room":"\ud800""#,
    r#""room":7"#,
    r#""ref":[1]"#,
    r#""key":7"#,
    r#""key":"\ud800""#,
    r#""echo":1"#,
    r#""since":-1"#,
    r#""epoch":1"#,
    r#""last":1001"#,
    r#""limit":0"#,
    r#""before":0"#,
    r#""token":"all""#,
    r#""token":"some""#,
    r#""token":"none""#,
];

/// Requests and packets, for clients of Engine.IO.
const STEPS: &[&str] = &[
    "GET",
    "GET gone",
    "POST",
    "POSTED",
    "WS",
    "WS gone",
    "wait",
    "1",
    "2",
    "2probe",
    "3",
    "5",
    "6",
    "40",
    r#"40/a,{"t":1}"#,
    "41",
    "41/a",
    r#"42["e",1]"#,
    r#"42/a,7["e"]"#,
    "437[]",
    r#"451-["e",{"_placeholder":true,"num":0}]"#,
    "461-7[1]",
    "bAQIDBA==",
    "b",
];

/// A small generator (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    fn mutated(&mut self, corpus: &[Vec<u8>], add: fn(&mut Self, &mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..=self.below(4) {
            if self.below(2) == 0 {
                bytes.extend_from_slice(&corpus[self.below(corpus.len())]);
            } else {
                for _ in 0..self.below(12) {
                    add(self, &mut bytes);
                }
            }
        }
        for _ in 0..self.below(4) {
            self.damage(&mut bytes);
        }
        bytes
    }

    /// A step of an Engine.IO client.
    fn add_packet(&mut self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(STEPS[self.below(STEPS.len())].as_bytes());
        bytes.push([b'\n', b'\n', b'\n', 0x1e][self.below(4)]);
    }

    /// A whole frame of words that mostly fit together.
    fn add_frame(&mut self, bytes: &mut Vec<u8>) {
        let fields: Vec<_> = (0..2 + self.below(5)).map(|_| WORDS[self.below(WORDS.len())]).collect();
        let text = format!("{{{}}}", fields.join(","));
        let mut frame = WireFrame::message(text, OpCode::Data(Data::Text), true);
        frame.header_mut().mask = Some([self.below(256) as u8, 0, 0, self.below(256) as u8]);
        frame.format(bytes).unwrap();
    }

    fn damage(&mut self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let at = self.below(bytes.len());
        match self.below(5) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'{', b'\\'][self.below(8)],
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..(at + 1 + self.below(8)).min(bytes.len()))),
            _ => {
                let piece = bytes[at..(at + 1 + self.below(64)).min(bytes.len())].to_vec();
                let to = self.below(bytes.len() + 1);
                bytes.splice(to..to, piece);
            }
        }
    }
}
