//! What a connection still has to be sent: chunks of encoded frames, shared with every other member's outbox, bounded
//! in bytes. An empty one owns no memory.

use std::collections::VecDeque;

use bytes::Bytes;

/// The send queue of one connection.
#[derive(Debug, Default)]
pub struct Outbox {
    chunks: VecDeque<Bytes>,
    /// How much of the first chunk is on the socket already.
    written: u32,
    /// Counts, wrapping.
    taken: u32,
    bytes: usize,
}

/// The outbox is over its limit: the client reads more slowly than its rooms speak.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

impl Outbox {
    /// Queues whole frames. A chunk that finds the outbox empty is always taken, so that no limit can make a single frame
    /// unsendable.
    pub fn push(&mut self, chunk: Bytes, limit: usize) -> Result<(), Full> {
        if !self.chunks.is_empty() && self.bytes + chunk.len() > limit {
            return Err(Full);
        }
        self.bytes += chunk.len();
        self.chunks.push_back(chunk);
        Ok(())
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Counts the bytes that were taken out, wrapping.
    pub fn taken(&self) -> u32 {
        self.taken
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// What to write next, in order.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.chunks.iter().enumerate().map(|(index, chunk)| if index == 0 { &chunk[self.written as usize..] } else { &chunk[..] })
    }

    /// The socket took so many bytes.
    pub fn on_written(&mut self, mut count: usize) {
        self.bytes -= count;
        self.taken = self.taken.wrapping_add(count as u32);
        while let Some(first) = self.chunks.front() {
            let rest = first.len() - self.written as usize;
            if count < rest {
                // No chunk is as long as 4 GiB: it is a frame.
                self.written += count as u32;
                return;
            }
            count -= rest;
            self.written = 0;
            self.chunks.pop_front();
        }
        self.chunks = VecDeque::new();
    }

    /// Takes the next chunk, for a door that is asked for chunks and is written none.
    pub fn pop(&mut self) -> Option<Bytes> {
        debug_assert_eq!(self.written, 0, "a chunk is written or taken");
        let chunk = self.chunks.pop_front()?;
        self.bytes -= chunk.len();
        self.taken = self.taken.wrapping_add(chunk.len() as u32);
        if self.chunks.is_empty() {
            self.chunks = VecDeque::new();
        }
        Some(chunk)
    }

    /// Gives up what no byte of was sent yet. A chunk under way stays: a peer must not see half a frame before a close.
    pub fn drop_unsent(&mut self) {
        let under_way = (self.written > 0).then(|| self.chunks.pop_front()).flatten();
        self.chunks = VecDeque::new();
        self.bytes = 0;
        match under_way {
            Some(chunk) => {
                self.bytes = chunk.len() - self.written as usize;
                self.chunks.push_back(chunk);
            }
            None => self.written = 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(outbox: &Outbox) -> Vec<u8> {
        outbox.pieces().collect::<Vec<_>>().concat()
    }

    #[test]
    fn partial_writes_keep_order() {
        let mut outbox = Outbox::default();
        for chunk in ["abc", "def", "g"] {
            outbox.push(chunk.into(), 100).unwrap();
        }
        outbox.on_written(4);
        assert_eq!(content(&outbox), b"efg");
        assert_eq!((outbox.bytes(), outbox.taken()), (3, 4));
        outbox.on_written(3);
        assert!(outbox.is_empty());
        assert_eq!(outbox.chunks.capacity(), 0);
    }

    #[test]
    fn limit_counts_bytes() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.push("too long alone".into(), 5), Ok(()));
        assert_eq!(outbox.push("x".into(), 5), Err(Full));
        outbox.on_written(14);
        assert_eq!(outbox.push("12345".into(), 5), Ok(()));
    }

    #[test]
    fn chunks_are_taken_whole() {
        let mut outbox = Outbox::default();
        outbox.push("abc".into(), 100).unwrap();
        outbox.push("d".into(), 100).unwrap();
        assert_eq!((outbox.pop(), outbox.bytes(), outbox.taken()), (Some("abc".into()), 1, 3));
        assert_eq!((outbox.pop(), outbox.pop()), (Some("d".into()), None));
        assert_eq!(outbox.chunks.capacity(), 0);
    }

    #[test]
    fn frame_under_way_is_finished() {
        let mut outbox = Outbox::default();
        outbox.push("abc".into(), 100).unwrap();
        outbox.push("def".into(), 100).unwrap();
        outbox.on_written(1);
        outbox.drop_unsent();
        assert_eq!(content(&outbox), b"bc");
        outbox.on_written(2);
        outbox.push("x".into(), 100).unwrap();
        outbox.drop_unsent();
        assert!(outbox.is_empty());
        assert_eq!(outbox.bytes(), 0);
    }
}
