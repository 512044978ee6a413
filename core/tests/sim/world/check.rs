//! What must hold when everything has come to rest.

use std::collections::{HashMap, HashSet};

use carillon_proto::{ids::RoomName, log::Record};

use super::World;
use crate::client::{Line, OWN, Outcome};

impl World {
    /// At rest: everyone has everything, and the log has each message once.
    pub(super) fn check(&self) {
        let log = |room: &str| -> Vec<&Record> {
            let partition = RoomName::parse(room).unwrap().partition();
            self.logs[&partition].room(room)
        };
        for room in &self.rooms {
            let records = log(room.as_str());
            for (index, record) in records.iter().enumerate() {
                assert_eq!(record.offset, index as u64 + 1, "a hole in the log of {room}");
            }
            let mut first: HashMap<&[u8], &Record> = HashMap::new();
            for record in &records {
                if let Some(before) = first.insert(&record.payload, record) {
                    panic!("a message of {room} is stored twice: {before:?} and {record:?}");
                }
            }
        }
        for partition in &self.partitions {
            let revision = self.leases[partition].revision;
            let held = self.replicas.iter().filter_map(|replica| replica.held.get(partition));
            let owners: Vec<_> = held.filter(|held| held.revision == revision).filter_map(|held| held.rules.as_ref()).collect();
            assert_eq!(owners.len(), 1, "owners of {partition}");
            assert_eq!(owners[0].in_flight(), 0, "an append of {partition} waits for ever");
            // Each user has a room too.
            assert!(owners[0].rooms() <= self.rooms.len() + self.clients.len(), "the owner of {partition} forgets nothing");
        }
        for client in &self.clients {
            let who = &client.name;
            assert!(matches!(client.line, Line::Up { welcomed: true, .. }), "{who} is not back: {:?}", client.line);
            for (room, known) in client.rooms.iter().filter(|(_, known)| known.wants) {
                let records = log(room);
                assert!(known.joined, "{who} waits for {room} for ever");
                assert_eq!(known.position, Some(records.len() as u64), "{who} is not at the head of {room}");
                for (offset, payload) in &known.seen {
                    let stored = std::str::from_utf8(&records[*offset as usize - 1].payload).unwrap();
                    assert!(payload == stored || payload == OWN, "{who}: {offset} of {room} is {stored}, seen as {payload}");
                }
                for offset in known.first + 1..=records.len() as u64 {
                    assert!(known.seen.contains_key(&offset), "{who} never saw {offset} of {room}");
                }
            }
            for (room, known) in client.rooms.iter().filter(|(_, known)| known.wants && client.presence) {
                let there = self.clients.iter().filter(|other| other.rooms.get(room).is_some_and(|known| known.wants));
                let users: HashSet<String> = there.map(|other| other.user.clone()).collect();
                assert_eq!(known.count, users.len() as u64, "{who} counts wrong in {room}");
                let others: HashSet<String> = users.into_iter().filter(|user| *user != client.user).collect();
                assert_eq!(known.others, others, "{who} sees the wrong people in {room}");
            }
            let mut last: HashMap<(&str, u64), u64> = HashMap::new();
            for said in &client.said {
                assert_ne!(said.outcome, Outcome::Open, "{who} waits for the outcome of {} for ever", said.payload);
                let stored = log(&said.room).into_iter().find(|record| record.payload == said.payload.as_bytes());
                match said.outcome {
                    Outcome::Acked(_) if self.lost.contains(said.payload.as_bytes()) => {}
                    Outcome::Acked(offset) => {
                        assert_eq!(stored.map(|record| record.offset), Some(offset), "{who}: {} was acked", said.payload)
                    }
                    Outcome::Refused if !said.is_repeated => {
                        assert_eq!(stored, None, "{who}: {} was refused, yet stored", said.payload)
                    }
                    _ => {}
                }
                if let Some(record) = stored.filter(|_| !said.is_repeated) {
                    let before = last.insert((&said.room, said.connection), record.offset).unwrap_or(0);
                    assert!(before < record.offset, "{who}: {} is stored before what was said before it", said.payload);
                }
            }
        }
    }
}
