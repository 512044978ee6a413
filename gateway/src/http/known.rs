//! Sockets over which a user asks by HTTP, once a token was shown there: a request is answered in a moment, but its socket may stay, and
//! over HTTP/2 for as long as pings are answered. A user may have so many on one gateway; beyond it, the one that has been quiet the
//! longest goes. Behind a proxy a socket may serve many users: it counts for the one that asked last.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
};

use carillon_proto::ids::UserId;
use tokio_util::sync::CancellationToken;

/// Those of all users. Shared by the shards of a gateway.
#[derive(Debug)]
pub(crate) struct KnownSockets {
    most: usize,
    here: Mutex<Here>,
}

#[derive(Debug, Default)]
struct Here {
    turns: u64,
    /// The lowest turn has been quiet the longest.
    by_user: HashMap<UserId, BTreeMap<u64, CancellationToken>>,
}

/// The place of one socket; left when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    sockets: Arc<KnownSockets>,
    user: UserId,
    turn: u64,
}

impl KnownSockets {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, here: Mutex::default() }
    }

    /// This user asks over a socket that has to go when `to_go` is cancelled.
    pub(super) fn ask(self: &Arc<Self>, user: UserId, to_go: CancellationToken) -> Place {
        let mut here = self.here();
        here.turns += 1;
        let turn = here.turns;
        let sockets = here.by_user.entry(user.clone()).or_default();
        sockets.insert(turn, to_go);
        if sockets.len() > self.most
            && let Some((_, quiet)) = sockets.pop_first()
        {
            quiet.cancel();
        }
        drop(here);
        Place { sockets: self.clone(), user, turn }
    }

    fn here(&self) -> MutexGuard<'_, Here> {
        self.here.lock().expect("nobody panics while it is held")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut here = self.sockets.here();
        if let Some(sockets) = here.by_user.get_mut(&self.user) {
            sockets.remove(&self.turn);
            if sockets.is_empty() {
                here.by_user.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quietest_of_a_user_goes() {
        let sockets = Arc::new(KnownSockets::new(2));
        let [ada, bob] = ["ada", "bob"].map(|name| UserId::parse(name).unwrap());
        let tokens = [(); 4].map(|()| CancellationToken::new());
        let ask = |user: &UserId, socket: usize| sockets.ask(user.clone(), tokens[socket].clone());
        let gone = || tokens.each_ref().map(CancellationToken::is_cancelled);
        let (first, second, _other) = (ask(&ada, 0), ask(&ada, 1), ask(&bob, 2));
        // It asks again, and so the other one is the quiet one.
        drop(first);
        let again = ask(&ada, 0);
        let third = ask(&ada, 3);
        assert_eq!(gone(), [false, true, false, false]);
        drop((second, again, third));
        assert_eq!(sockets.here().by_user.len(), 1);
    }
}
