//! What is known of every room's log, from acks and from all members: the same offset must hold the same message for
//! everyone, what was acked must be there, each message once, and a publisher's messages in the order it sent them.

use std::{collections::HashMap, sync::Mutex};

use crate::payload::Said;

/// The logs of all rooms, by room number.
#[derive(Debug)]
pub(crate) struct Book {
    rooms: Vec<Mutex<Pages>>,
}

#[derive(Debug, Default)]
struct Pages {
    /// By offset - 1.
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    /// Publisher and number; `None` while only a gap shows that there is something.
    said: Option<(u32, u32)>,
    is_acked: bool,
    is_seen: bool,
    /// See [`crate::unanswered::Sent`].
    is_repeated: bool,
}

impl Book {
    pub(crate) fn new(rooms: usize) -> Self {
        Self { rooms: (0..rooms).map(|_| Mutex::default()).collect() }
    }

    /// A member was given a message. The text tells what is wrong with it.
    pub(crate) fn on_seen(&self, room: u32, offset: u64, said: Said) -> Result<(), String> {
        self.note(room, offset, said, |entry| entry.is_seen = true)
    }

    /// A publisher was told that its message is stored.
    pub(crate) fn on_acked(&self, room: u32, offset: u64, said: Said, is_repeated: bool) -> Result<(), String> {
        self.note(room, offset, said, |entry| {
            entry.is_acked = true;
            entry.is_repeated |= is_repeated;
        })
    }

    fn note(&self, room: u32, offset: u64, said: Said, mark: impl FnOnce(&mut Entry)) -> Result<(), String> {
        let mut pages = self.rooms[room as usize].lock().expect("nobody panics here");
        let index = (offset - 1) as usize;
        if pages.entries.len() <= index {
            pages.entries.resize(index + 1, Entry::default());
        }
        let entry = &mut pages.entries[index];
        let known = (said.publisher, said.number);
        let before = *entry.said.get_or_insert(known);
        mark(entry);
        if before == known {
            return Ok(());
        }
        Err(format!("room {room}, offset {offset}: {known:?} for one, {before:?} for another"))
    }

    /// The newest offset that is known of.
    pub(crate) fn head(&self, room: u32) -> u64 {
        self.rooms[room as usize].lock().expect("nobody panics here").entries.len() as u64
    }

    /// What is wrong, now that everyone has seen everything: at most so many lines.
    pub(crate) fn audit(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (room, pages) in self.rooms.iter().enumerate() {
            let pages = pages.lock().expect("nobody panics here");
            let mut last: HashMap<u32, u32> = HashMap::new();
            let mut at: HashMap<(u32, u32), usize> = HashMap::new();
            for (index, entry) in pages.entries.iter().enumerate() {
                let offset = index + 1;
                if entry.is_acked && !entry.is_seen {
                    wrong.push(format!("room {room}, offset {offset}: acked, and nobody ever saw it"));
                }
                let Some((publisher, number)) = entry.said else {
                    wrong.push(format!("room {room}, offset {offset}: nobody knows what it holds"));
                    continue;
                };
                if let Some(first) = at.insert((publisher, number), offset) {
                    wrong.push(format!("room {room}: number {number} of {publisher} is stored at {first} and at {offset}"));
                }
                let newest = last.entry(publisher).or_default();
                if number < *newest && !entry.is_repeated {
                    wrong.push(format!("room {room}, offset {offset}: number {number} of {publisher} after {newest}"));
                }
                *newest = number.max(*newest);
            }
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(publisher: u32, number: u32) -> Said {
        Said { publisher, number, time_ns: 0 }
    }

    #[test]
    fn honest_rooms_pass() {
        let book = Book::new(1);
        for offset in 1..=3 {
            book.on_acked(0, offset, said(1, offset as u32), false).unwrap();
            book.on_seen(0, offset, said(1, offset as u32)).unwrap();
        }
        assert_eq!((book.audit(), book.head(0)), (vec![], 3));
    }

    #[test]
    fn divergence_is_found_at_once() {
        let book = Book::new(1);
        book.on_seen(0, 1, said(1, 1)).unwrap();
        assert!(book.on_seen(0, 1, said(1, 2)).is_err());
    }

    #[test]
    fn loss_doubles_and_disorder_are_found() {
        let book = Book::new(3);
        book.on_acked(0, 1, said(1, 1), false).unwrap();
        assert_eq!(book.audit().len(), 1, "acked and unseen");
        book.on_seen(0, 1, said(1, 1)).unwrap();
        book.on_seen(0, 2, said(1, 1)).unwrap();
        book.on_seen(1, 1, said(1, 2)).unwrap();
        book.on_seen(1, 2, said(1, 1)).unwrap();
        book.on_seen(2, 2, said(1, 1)).unwrap();
        let wrong = book.audit().join("\n");
        assert!(wrong.contains("is stored at 1 and at 2"), "{wrong}");
        assert!(wrong.contains("number 1 of 1 after 2"), "{wrong}");
        assert!(wrong.contains("nobody knows what it holds"), "{wrong}");
    }
}
