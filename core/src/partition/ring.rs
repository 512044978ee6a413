//! The newest messages of a room, at hand for members that come back.

use std::collections::VecDeque;

use carillon_proto::{ids::Offset, link::Message};

#[derive(Debug, Default)]
pub(super) struct Ring {
    messages: VecDeque<Message>,
    bytes: usize,
}

impl Ring {
    /// About what it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Takes the room's next message and lets the oldest go.
    pub(super) fn push(&mut self, message: Message, max_messages: usize, max_bytes: usize) {
        self.bytes += weight(&message);
        self.messages.push_back(message);
        while self.messages.len() > max_messages.max(1) || (self.bytes > max_bytes && self.messages.len() > 1) {
            self.bytes -= self.messages.pop_front().map_or(0, |oldest| weight(&oldest));
        }
    }

    /// Lets go what is too old.
    pub(super) fn forget_older(&mut self, oldest_ts: u64) {
        while self.messages.front().is_some_and(|oldest| oldest.ts < oldest_ts) {
            self.bytes -= self.messages.pop_front().map_or(0, |oldest| weight(&oldest));
        }
    }

    /// The oldest offset here.
    pub(super) fn first(&self) -> Option<Offset> {
        self.messages.front().map(|message| message.offset)
    }

    /// Everything above `since`, if all of it is here.
    pub(super) fn after(&self, since: Offset, head: Offset) -> Option<impl Iterator<Item = &Message>> {
        let first = self.first().unwrap_or(head + 1);
        // Whatever number a peer may send.
        let next = since.saturating_add(1);
        (next >= first).then(|| self.messages.range(((next - first) as usize).min(self.messages.len())..))
    }

    /// The newest `limit` below `before`, if all of them are here and what is here also tells whether there are older ones;
    /// oldest first, bounded in bytes.
    pub(super) fn before(&self, before: Offset, limit: usize, bytes: usize) -> Option<Vec<Message>> {
        if before <= 1 {
            return Some(Vec::new());
        }
        let first = self.first()?;
        let oldest_wanted = before.saturating_sub(limit as u64).max(1);
        // At the edge only the log knows whether something older is left.
        if before < first || (oldest_wanted <= first && first > 1) {
            return None;
        }
        let end = ((before - first) as usize).min(self.messages.len());
        let newest_first = self.messages.range(..end).rev().take(limit);
        let mut found = bounded(newest_first, bytes);
        found.reverse();
        Some(found)
    }
}

/// The first `limit` of `messages`, bounded in bytes; at least one.
pub(super) fn oldest<'m>(messages: impl Iterator<Item = &'m Message>, limit: usize, bytes: usize) -> Vec<Message> {
    bounded(messages.take(limit), bytes)
}

fn bounded<'m>(messages: impl Iterator<Item = &'m Message>, bytes: usize) -> Vec<Message> {
    let mut total = 0;
    let mut found = Vec::new();
    for message in messages {
        total += weight(message);
        if total > bytes && !found.is_empty() {
            break;
        }
        found.push(message.clone());
    }
    found
}

/// About what a message takes in memory and on the wire.
fn weight(message: &Message) -> usize {
    message.payload.len() + message.sender.len() + message.client.len() + message.key.len() + message.room.len() + 128
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(offsets: std::ops::RangeInclusive<u64>, keep: usize) -> Ring {
        let mut ring = Ring::default();
        for offset in offsets {
            ring.push(Message { offset, ..Message::default() }, keep, usize::MAX);
        }
        ring
    }

    fn offsets<'m>(messages: impl IntoIterator<Item = &'m Message>) -> Vec<u64> {
        messages.into_iter().map(|message| message.offset).collect()
    }

    #[test]
    fn after_is_all_or_nothing() {
        let ring = ring(1..=10, 4);
        assert_eq!(offsets(ring.after(6, 10).unwrap()), [7, 8, 9, 10]);
        assert_eq!(offsets(ring.after(9, 10).unwrap()), [10]);
        assert!(offsets(ring.after(10, 10).unwrap()).is_empty());
        assert!(ring.after(5, 10).is_none());
        assert!(Ring::default().after(3, 4).is_none());
        assert!(offsets(Ring::default().after(4, 4).unwrap()).is_empty());
    }

    #[test]
    fn before_is_all_or_nothing() {
        let ring = ring(1..=10, 4);
        assert_eq!(offsets(&ring.before(11, 2, usize::MAX).unwrap()), [9, 10]);
        assert_eq!(offsets(&ring.before(10, 2, usize::MAX).unwrap()), [8, 9]);
        assert!(ring.before(9, 2, usize::MAX).is_none());
        assert!(ring.before(9, 3, usize::MAX).is_none());
        assert!(ring.before(1, 3, usize::MAX).unwrap().is_empty());
        assert_eq!(offsets(&self::ring(1..=3, 4).before(4, 50, usize::MAX).unwrap()), [1, 2, 3]);
    }

    #[test]
    fn bytes_bound_what_is_kept_and_found() {
        let mut ring = Ring::default();
        for offset in 1..=10 {
            ring.push(Message { offset, payload: vec![b'1'; 1000].into(), ..Message::default() }, 100, 3 * 1128);
        }
        assert_eq!(ring.first(), Some(8));
        assert_eq!(offsets(&ring.before(11, 2, 1128).unwrap()), [10]);
        assert_eq!(offsets(&oldest(ring.after(7, 10).unwrap(), 9, 1)), [8]);
    }
}
