//! What a connection still has to be sent: chunks of encoded frames, shared with every other member's outbox, bounded
//! in bytes. An empty one owns no memory.

use std::{
    cell::{Ref, RefCell},
    collections::VecDeque,
    io::IoSlice,
    rc::Rc,
};

use bytes::Bytes;

/// The send queue of one connection.
#[derive(Debug, Default)]
pub struct Outbox {
    chunks: VecDeque<Piece>,
    /// How much of the first chunk is on the socket already.
    written: u32,
    /// Counts, wrapping.
    taken: u32,
    bytes: usize,
}

/// Frames that go to the same members, one behind the other: what a member is sent in a row leaves as one piece, however many
/// frames that are.
#[derive(Debug, Default)]
pub struct Run(Rc<RefCell<Vec<u8>>>);

impl Run {
    /// A run that is longer should be followed by another one: a client that reads slowly keeps all of it in memory.
    pub const ENOUGH_BYTES: usize = 64 * 1024;

    /// Appends whole frames, as `write` does it.
    pub fn append(&self, write: impl FnOnce(&mut Vec<u8>)) -> Piece {
        let mut buffer = self.0.borrow_mut();
        let from = buffer.len() as u32;
        write(&mut buffer);
        let until = buffer.len() as u32;
        drop(buffer);
        Piece::Part { run: self.0.clone(), from, until }
    }

    /// Bytes in it.
    pub fn bytes(&self) -> usize {
        self.0.borrow().len()
    }
}

/// What an outbox holds: whole frames that are no other one's, or lie in a [`Run`].
#[derive(Debug, Clone)]
pub enum Piece {
    /// All of these bytes.
    Own(Bytes),
    /// Some of a run's bytes.
    Part {
        /// A run's buffer.
        run: Rc<RefCell<Vec<u8>>>,
        /// The first byte.
        from: u32,
        /// Behind the last one.
        until: u32,
    },
}

impl From<Bytes> for Piece {
    fn from(bytes: Bytes) -> Self {
        Self::Own(bytes)
    }
}

impl From<Piece> for Bytes {
    fn from(piece: Piece) -> Self {
        match piece {
            Piece::Own(bytes) => bytes,
            Piece::Part { .. } => piece.bytes_in(piece.run().as_ref()).to_vec().into(),
        }
    }
}

impl Piece {
    /// Its length, bytes; shorter than 4 GiB.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Own(bytes) => bytes.len(),
            Self::Part { from, until, .. } => (until - from) as usize,
        }
    }

    /// Takes the next chunk in, if both lie in one buffer, one behind the other.
    fn extend(&mut self, next: &Self) -> bool {
        match (self, next) {
            (Self::Part { run, until, .. }, Self::Part { run: next_run, from, until: next_until })
                if *until == *from && Rc::ptr_eq(run, next_run) =>
            {
                *until = *next_until;
                true
            }
            _ => false,
        }
    }

    fn bytes_in<'a>(&'a self, run: Option<&'a Ref<'_, Vec<u8>>>) -> &'a [u8] {
        match (self, run) {
            (Self::Part { from, until, .. }, Some(run)) => &run[*from as usize..*until as usize],
            (Self::Own(bytes), _) => bytes,
            (Self::Part { .. }, None) => &[],
        }
    }

    fn run(&self) -> Option<Ref<'_, Vec<u8>>> {
        match self {
            Self::Part { run, .. } => Some(run.borrow()),
            Self::Own(_) => None,
        }
    }
}

/// The outbox is over its limit: the client reads more slowly than its rooms speak.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

impl Outbox {
    /// Queues whole frames. A chunk that finds the outbox empty is always taken, so that no limit can make a single frame
    /// unsendable.
    pub fn push(&mut self, chunk: Piece, limit: usize) -> Result<(), Full> {
        if !self.chunks.is_empty() && self.bytes + chunk.bytes() > limit {
            return Err(Full);
        }
        self.bytes += chunk.bytes();
        if !self.chunks.back_mut().is_some_and(|last| last.extend(&chunk)) {
            self.chunks.push_back(chunk);
        }
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

    /// The socket took so many bytes.
    pub fn on_written(&mut self, mut count: usize) {
        self.bytes -= count;
        self.taken = self.taken.wrapping_add(count as u32);
        while let Some(first) = self.chunks.front() {
            let rest = first.bytes() - self.written as usize;
            if count < rest {
                // No chunk is as long as 4 GiB: it is a frame, or a few.
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
    pub fn pop(&mut self) -> Option<Piece> {
        debug_assert_eq!(self.written, 0, "a chunk is written or taken");
        let chunk = self.chunks.pop_front()?;
        self.bytes -= chunk.bytes();
        self.taken = self.taken.wrapping_add(chunk.bytes() as u32);
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
                self.bytes = chunk.bytes() - self.written as usize;
                self.chunks.push_back(chunk);
            }
            None => self.written = 0,
        }
    }
}

/// Pieces that are written at once.
const PIECES: usize = 64;

impl Outbox {
    /// Gives `write` what comes next, as many pieces as fit into one call of the kernel.
    pub fn write_with<R>(&self, write: impl FnOnce(&[IoSlice<'_>]) -> R) -> R {
        if let [only] = self.chunks.as_slices().0 {
            let run = only.run();
            return write(&[IoSlice::new(&only.bytes_in(run.as_ref())[self.written as usize..])]);
        }
        let mut runs = [const { None }; PIECES];
        for (slot, chunk) in runs.iter_mut().zip(&self.chunks) {
            *slot = chunk.run();
        }
        let mut pieces = [IoSlice::new(&[]); PIECES];
        let mut count = 0;
        for ((slot, chunk), run) in pieces.iter_mut().zip(&self.chunks).zip(&runs) {
            let skipped = if count == 0 { self.written as usize } else { 0 };
            *slot = IoSlice::new(&chunk.bytes_in(run.as_ref())[skipped..]);
            count += 1;
        }
        write(&pieces[..count])
    }

    /// All that waits, in one copy.
    pub fn unsent(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.bytes);
        for (index, chunk) in self.chunks.iter().enumerate() {
            let run = chunk.run();
            all.extend_from_slice(&chunk.bytes_in(run.as_ref())[if index == 0 { self.written as usize } else { 0 }..]);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written next is what waits, unless it is too much for one call.
    fn content(outbox: &Outbox) -> Vec<u8> {
        let next: Vec<u8> = outbox.write_with(|pieces| pieces.iter().flat_map(|piece| piece.to_vec()).collect());
        assert_eq!(outbox.unsent(), next);
        next
    }

    fn own(text: &'static str) -> Piece {
        Piece::Own(text.into())
    }

    #[test]
    fn partial_writes_keep_order() {
        let mut outbox = Outbox::default();
        for chunk in ["abc", "def", "g"] {
            outbox.push(own(chunk), 100).unwrap();
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
        assert_eq!(outbox.push(own("too long alone"), 5), Ok(()));
        assert_eq!(outbox.push(own("x"), 5), Err(Full));
        outbox.on_written(14);
        assert_eq!(outbox.push(own("12345"), 5), Ok(()));
    }

    #[test]
    fn chunks_are_taken_whole() {
        let mut outbox = Outbox::default();
        let pop = |outbox: &mut Outbox| outbox.pop().map(Bytes::from);
        outbox.push(own("abc"), 100).unwrap();
        outbox.push(own("d"), 100).unwrap();
        assert_eq!((pop(&mut outbox), outbox.bytes(), outbox.taken()), (Some("abc".into()), 1, 3));
        assert_eq!((pop(&mut outbox), pop(&mut outbox)), (Some("d".into()), None));
        assert_eq!(outbox.chunks.capacity(), 0);
    }

    #[test]
    fn frame_under_way_is_finished() {
        let mut outbox = Outbox::default();
        outbox.push(own("abc"), 100).unwrap();
        outbox.push(own("def"), 100).unwrap();
        outbox.on_written(1);
        outbox.drop_unsent();
        assert_eq!(content(&outbox), b"bc");
        outbox.on_written(2);
        outbox.push(own("x"), 100).unwrap();
        outbox.drop_unsent();
        assert!(outbox.is_empty());
        assert_eq!(outbox.bytes(), 0);
    }

    #[test]
    fn frames_in_a_row_are_one_piece() {
        let (run, mut all, mut some) = (Run::default(), Outbox::default(), Outbox::default());
        for (number, text) in ["ab", "cd", "ef"].into_iter().enumerate() {
            let piece = run.append(|out| out.extend_from_slice(text.as_bytes()));
            all.push(piece.clone(), 100).unwrap();
            if number != 1 {
                some.push(piece, 100).unwrap();
            }
        }
        assert_eq!((all.chunks.len(), content(&all), all.bytes()), (1, b"abcdef".to_vec(), 6));
        assert_eq!((some.chunks.len(), content(&some), some.bytes()), (2, b"abef".to_vec(), 4));
        // Half of it is out when more of the run comes.
        all.on_written(3);
        all.push(run.append(|out| out.push(b'g')), 100).unwrap();
        assert_eq!(content(&all), b"defg");
        all.push(own("h"), 100).unwrap();
        all.push(Run::default().append(|out| out.push(b'i')), 100).unwrap();
        assert_eq!(content(&all), b"defghi");
        all.on_written(6);
        assert!(all.is_empty());
    }

    #[test]
    fn more_pieces_than_one_call_takes() {
        let mut outbox = Outbox::default();
        for _ in 0..PIECES + 3 {
            outbox.push(own("x"), 100).unwrap();
        }
        assert_eq!(outbox.write_with(|pieces| pieces.len()), PIECES);
        outbox.on_written(PIECES);
        assert_eq!(content(&outbox), b"xxx");
    }
}
