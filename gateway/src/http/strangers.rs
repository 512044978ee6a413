//! Sockets whose client has not shown a good token yet. There may be so many; beyond it, the one that has taken the longest
//! has to go, so that many that are slow on purpose don't keep out those that are not.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use tokio_util::sync::CancellationToken;

/// Those of one shard, by when they came.
pub(crate) struct Strangers {
    most: usize,
    here: RefCell<Here>,
}

#[derive(Default)]
struct Here {
    came: u64,
    by_turn: BTreeMap<u64, CancellationToken>,
}

/// One of them. It is none any more when this is dropped, or told that it is known.
pub(crate) struct Stranger {
    strangers: Rc<Strangers>,
    turn: u64,
    evicted: CancellationToken,
}

impl Strangers {
    pub(crate) fn new(most: usize) -> Rc<Self> {
        Rc::new(Self { most, here: RefCell::default() })
    }

    /// One more; and whether another one had to go for it.
    pub(crate) fn come(self: &Rc<Self>) -> (Stranger, bool) {
        let mut here = self.here.borrow_mut();
        let oldest = (here.by_turn.len() >= self.most).then(|| here.by_turn.pop_first()).flatten();
        if let Some((_, oldest)) = &oldest {
            oldest.cancel();
        }
        here.came += 1;
        let (turn, evicted) = (here.came, CancellationToken::new());
        here.by_turn.insert(turn, evicted.clone());
        (Stranger { strangers: self.clone(), turn, evicted }, oldest.is_some())
    }
}

impl Stranger {
    /// Its client has shown a good token.
    pub(crate) fn is_known(&self) {
        self.strangers.here.borrow_mut().by_turn.remove(&self.turn);
    }

    /// Resolves when it has to go.
    pub(crate) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.is_known();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slowest_goes_first() {
        let strangers = Strangers::new(2);
        let is_gone = |stranger: &Stranger| stranger.evicted.is_cancelled();
        let (first, second) = (strangers.come().0, strangers.come().0);
        let (third, someone_went) = strangers.come();
        assert!(someone_went && is_gone(&first) && !is_gone(&second));
        second.is_known();
        let (fourth, someone_went) = strangers.come();
        assert!(!someone_went);
        drop((third, fourth));
        assert!(strangers.here.borrow().by_turn.is_empty());
        assert!(!is_gone(&second));
    }
}
