//! How an answer leaves: in pieces, each of which tells when the socket has taken it. So a client that takes nothing for too long
//! is found, whether its kernel is full (HTTP/1.1) or its window is shut (HTTP/2), and its socket ended.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::answers::Room;

/// What is handed over at once; every client that is still there takes so much within `limits.answer_stall_ms`.
const PIECE_BYTES: usize = 16 * 1024;

/// The answers under way on one socket.
#[derive(Debug, Default)]
pub(crate) struct Writings {
    here: Mutex<Here>,
    begun: Notify,
}

#[derive(Debug, Default)]
struct Here {
    numbers: u64,
    /// By number, when something of each was taken last.
    taken: Vec<(u64, Instant)>,
}

/// What is left of an answer.
#[derive(Debug)]
pub(crate) struct Unwritten {
    rest: Bytes,
    writing: Arc<Writing>,
}

#[derive(Debug)]
struct Writing {
    writings: Arc<Writings>,
    number: u64,
    /// Left when the last piece is.
    _room: Option<Room>,
}

/// Dropped by hyper when it has been written.
struct Piece {
    bytes: Bytes,
    writing: Arc<Writing>,
}

impl Writings {
    /// An answer begins to be written.
    pub(super) fn begin(self: &Arc<Self>, answer: Bytes, room: Option<Room>) -> Unwritten {
        let mut here = self.here();
        here.numbers += 1;
        let number = here.numbers;
        here.taken.push((number, Instant::now()));
        drop(here);
        self.begun.notify_one();
        Unwritten { rest: answer, writing: Arc::new(Writing { writings: self.clone(), number, _room: room }) }
    }

    /// Resolves when nothing of one of its answers was taken for so long.
    pub(super) async fn stalled(&self, patience: Duration) {
        loop {
            let slowest = self.here().taken.iter().map(|(_, at)| *at).min();
            match slowest.map(|at| at + patience) {
                None => self.begun.notified().await,
                Some(end) if end <= Instant::now() => return,
                Some(end) => sleep_until(end).await,
            }
        }
    }

    fn here(&self) -> MutexGuard<'_, Here> {
        self.here.lock().expect("nobody panics while it is held")
    }
}

impl Unwritten {
    /// The next piece; `None` at the end.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        let bytes = self.rest.split_to(self.rest.len().min(PIECE_BYTES));
        (!bytes.is_empty()).then(|| Bytes::from_owner(Piece { bytes, writing: self.writing.clone() }))
    }

    pub(super) fn len(&self) -> usize {
        self.rest.len()
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let Writing { writings, number, .. } = &*self.writing;
        let mut here = writings.here();
        if let Some((_, at)) = here.taken.iter_mut().find(|(other, _)| other == number) {
            *at = Instant::now();
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.writings.here().taken.retain(|(number, _)| *number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use carillon_proto::ids::UserId;

    use super::*;
    use crate::http::answers::{Account, Answers};

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn only_who_takes_nothing_stalls() {
        let writings = Arc::new(Writings::default());
        let is_stalled = async |secs| tokio::time::timeout(Duration::from_secs(secs), writings.stalled(PATIENCE)).await.is_ok();
        assert!(!is_stalled(1000).await, "there is no answer");
        let mut answer = writings.begin(Bytes::from(vec![0; 3 * PIECE_BYTES]), None);
        for _ in 0..3 {
            assert!(!is_stalled(29).await);
            drop(answer.next());
        }
        let kept = writings.begin(Bytes::from_static(b"x"), None).next();
        assert!(answer.next().is_none());
        drop(answer);
        let began = Instant::now();
        assert!(is_stalled(31).await && began.elapsed() == PATIENCE, "it waits in some buffer");
        drop(kept);
        assert!(!is_stalled(1000).await, "all was taken");
    }

    #[test]
    fn room_is_left_with_the_last_piece() {
        let answers = Arc::new(Answers::new(10, 10));
        let account = Account::User(UserId::parse("ada").unwrap());
        let room = answers.hold(account.clone(), 10).unwrap();
        let mut answer = Arc::new(Writings::default()).begin(Bytes::from_static(b"0123456789"), Some(room));
        let piece = answer.next();
        drop(answer);
        answers.admit(&account).unwrap_err();
        drop(piece);
        answers.admit(&account).unwrap();
    }
}
