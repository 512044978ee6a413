//! What a publisher has said and nobody has answered yet, and which of it may come after younger ones without a promise being
//! broken. Knows no socket.

use std::collections::BTreeMap;

use crate::payload::Said;

/// A message that was sent.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) said: Said,
    pub(crate) room: u32,
    /// It was refused once, or may have been: its order among its publisher's messages is the publisher's own doing.
    pub(crate) is_repeated: bool,
}

/// By serial number, which is the `ref` and the key.
#[derive(Debug, Default)]
pub(crate) struct Unanswered {
    sent: BTreeMap<u64, Sent>,
    /// Refused for now: when to say it again.
    again: BTreeMap<u64, u64>,
    /// This connection has refused something.
    has_refused: bool,
}

impl Unanswered {
    pub(crate) fn on_said(&mut self, serial: u64, said: Said, room: u32) {
        self.sent.insert(serial, Sent { said, room, is_repeated: false });
    }

    /// Refused for now, if it still waits.
    pub(crate) fn on_refused(&mut self, serial: u64, again_ns: u64) {
        if let Some(sent) = self.sent.get_mut(&serial) {
            sent.is_repeated = true;
            self.again.insert(serial, again_ns);
            self.has_refused = true;
        }
    }

    /// Answered for good.
    pub(crate) fn take(&mut self, serial: u64) -> Option<Sent> {
        self.again.remove(&serial);
        self.sent.remove(&serial)
    }

    /// The connection is gone. All of it is said again on the next one, in its order; but a connection that refused something may
    /// have refused more, and nobody has read that, while it took what was said behind.
    pub(crate) fn on_lost(&mut self) {
        self.again.clear();
        if std::mem::take(&mut self.has_refused) {
            self.sent.values_mut().for_each(|sent| sent.is_repeated = true);
        }
    }

    /// The next one to say again by this time.
    pub(crate) fn poll_again(&mut self, now_ns: u64) -> Option<u64> {
        let first = self.again.first_entry().filter(|entry| *entry.get() <= now_ns)?;
        Some(first.remove_entry().0)
    }

    /// When there is something to say again.
    pub(crate) fn again_ns(&self) -> Option<u64> {
        self.again.values().min().copied()
    }

    pub(crate) fn get(&self, serial: u64) -> Option<&Sent> {
        self.sent.get(&serial)
    }

    /// In the order in which they were said.
    pub(crate) fn serials(&self) -> Vec<u64> {
        self.sent.keys().copied().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.sent.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Unanswered {
        let mut unanswered = Unanswered::default();
        (1..=3).for_each(|serial| unanswered.on_said(serial, Said { publisher: 0, number: serial as u32, time_ns: 0 }, 0));
        unanswered
    }

    fn repeated(unanswered: &mut Unanswered) -> Vec<u64> {
        unanswered.serials().into_iter().filter(|serial| unanswered.get(*serial).is_some_and(|sent| sent.is_repeated)).collect()
    }

    #[test]
    fn what_is_refused_is_said_again() {
        let mut unanswered = three();
        unanswered.on_refused(2, 500);
        unanswered.on_refused(4, 100);
        assert_eq!((unanswered.again_ns(), unanswered.poll_again(499), unanswered.poll_again(500)), (Some(500), None, Some(2)));
        assert_eq!((unanswered.poll_again(u64::MAX), unanswered.len()), (None, 3));
        assert_eq!(repeated(&mut unanswered), [2]);
        assert!(unanswered.take(2).is_some() && unanswered.take(2).is_none());
    }

    /// The judge called it disorder when a message that was refused, without anybody having read that, came after those behind it.
    #[test]
    fn refusals_that_nobody_read_are_reckoned_with() {
        let mut unanswered = three();
        unanswered.on_lost();
        assert_eq!(repeated(&mut unanswered), [0; 0], "where nothing was refused, the order holds over all connections");
        unanswered.on_refused(1, 100);
        unanswered.on_lost();
        assert_eq!((repeated(&mut unanswered), unanswered.again_ns()), (vec![1, 2, 3], None));
        unanswered.on_said(4, Said { publisher: 0, number: 4, time_ns: 0 }, 0);
        unanswered.on_lost();
        assert_eq!(repeated(&mut unanswered), [1, 2, 3], "the next connection has refused nothing");
    }
}
