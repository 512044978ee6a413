//! The golden grants of `proto/vectors/`: which rooms a pattern reaches, and what a token allows there.

use std::{fs, path::Path};

use carillon_core::grants::{Grants, matches};
use carillon_proto::ids::{RoomName, UserId};
use serde_json::{Value, json};

#[test]
fn patterns_match_as_told() {
    for row in vectors("grants.json")["patterns"].as_array().expect("a list") {
        let text = |name: &str| row[name].as_str().expect("text");
        assert_eq!(json!(matches(text("pattern"), text("room"))), row["matches"], "{row}");
    }
}

#[test]
fn grants_allow_what_is_told() {
    for row in vectors("grants.json")["grants"].as_array().expect("a list") {
        let user = UserId::parse(row["user"].as_str().expect("text")).expect("a user id");
        let room = RoomName::parse(row["room"].as_str().expect("text")).expect("a room name");
        let grants = Grants::new(user, serde_json::from_value(row["grants"].clone()).expect("a grants claim"));
        let can = [
            ("join", grants.join(room.clone()).is_some()),
            ("publish", grants.publish(room.clone()).is_some()),
            ("history", grants.read(room.clone()).is_some()),
            ("presence", grants.watch(room).is_some()),
        ];
        let can: Vec<_> = can.into_iter().filter(|(_, allowed)| *allowed).map(|(operation, _)| operation).collect();
        assert_eq!(json!(can), row["can"], "{row}");
        assert_eq!(json!(grants.is_admin()), row["admin"], "{row}");
    }
}

fn vectors(name: &str) -> Value {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../proto/vectors")).join(name);
    let json = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&json).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
