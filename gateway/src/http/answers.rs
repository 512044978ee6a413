//! Answers over HTTP that were made and are not written yet: how many bytes of them there may be, for each who asks and in all.
//! An outbox has a limit for what its client does not read; a request has none, so its answers are counted here.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use carillon_proto::{codes::ErrorCode, ids::UserId};

use super::reply::Problem;
use crate::engineio::request::Sid;

/// When to ask again; who reads meanwhile has room then.
const RETRY_MS: u32 = 1000;

/// Who is answered. All of an account's answers at a gateway are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Account {
    /// All requests of a user.
    User(UserId),
    /// A Socket.IO client that polls: its requests show no token.
    Transport(Sid),
}

/// What all accounts hold. Shared by the shards of a gateway.
#[derive(Debug)]
pub(crate) struct Answers {
    account_bytes: usize,
    total_bytes: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    total: usize,
    by_account: HashMap<Account, usize>,
}

impl Held {
    fn of(&self, account: &Account) -> usize {
        self.by_account.get(account).copied().unwrap_or(0)
    }
}

/// The room of one answer; left when this is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    answers: Arc<Answers>,
    account: Account,
    bytes: usize,
}

impl Answers {
    pub(crate) fn new(account_bytes: usize, total_bytes: usize) -> Self {
        Self { account_bytes, total_bytes, held: Mutex::default() }
    }

    /// Whether an answer may be begun, whose length nobody knows yet.
    ///
    /// # Errors
    /// Where there is no room for a single byte more.
    pub(crate) fn admit(&self, account: &Account) -> Result<(), Problem> {
        self.check(&self.held(), account, 1)
    }

    /// Room for an answer of so many bytes. One that is larger than all that may be held has room where nothing else is.
    ///
    /// # Errors
    /// Where there is none. What was made is to be thrown away.
    pub(crate) fn hold(self: &Arc<Self>, account: Account, bytes: usize) -> Result<Room, Problem> {
        let mut held = self.held();
        self.check(&held, &account, bytes)?;
        Ok(self.take(&mut held, account, bytes))
    }

    /// The same for an answer that can't be thrown away, since it is told only once: room or not, it counts.
    pub(crate) fn hold_anyway(self: &Arc<Self>, account: Account, bytes: usize) -> Room {
        self.take(&mut self.held(), account, bytes)
    }

    fn check(&self, held: &Held, account: &Account, bytes: usize) -> Result<(), Problem> {
        let mine = held.of(account);
        if mine > 0 && mine.saturating_add(bytes) > self.account_bytes {
            let why = "too much of your earlier answers was not read yet (setting `limits.answers_user_bytes`)";
            return Err(Problem::new(ErrorCode::RateLimited, why).retry_after_ms(RETRY_MS));
        }
        if held.total > 0 && held.total.saturating_add(bytes) > self.total_bytes {
            let why = "too many answers were not read yet (setting `limits.answers_total_bytes`)";
            return Err(Problem::new(ErrorCode::Unavailable, why).retry_after_ms(RETRY_MS));
        }
        Ok(())
    }

    fn take(self: &Arc<Self>, held: &mut Held, account: Account, bytes: usize) -> Room {
        held.total += bytes;
        *held.by_account.entry(account.clone()).or_default() += bytes;
        Room { answers: self.clone(), account, bytes }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("nobody panics while counting")
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut held = self.answers.held();
        held.total -= self.bytes;
        if let Some(mine) = held.by_account.get_mut(&self.account) {
            *mine -= self.bytes;
            if *mine == 0 {
                held.by_account.remove(&self.account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> Account {
        Account::User(UserId::parse(name).unwrap())
    }

    fn status(refused: Result<impl Sized, Problem>) -> u16 {
        refused.err().expect("there is no room").status().as_u16()
    }

    #[test]
    fn users_and_all_have_their_room() {
        let answers = Arc::new(Answers::new(100, 150));
        let ada = answers.hold(user("ada"), 100).unwrap();
        assert_eq!(status(answers.hold(user("ada"), 1)), 429);
        assert_eq!(status(answers.admit(&user("ada"))), 429);
        let bob = answers.hold(user("bob"), 50).unwrap();
        assert_eq!(status(answers.hold(user("eve"), 1)), 503);
        drop(ada);
        answers.admit(&user("ada")).unwrap();
        assert_eq!(status(answers.hold(user("ada"), 101)), 503);
        drop(bob);
        assert!(answers.held().by_account.is_empty() && answers.held().total == 0);
    }

    #[test]
    fn larger_than_all_room_is_let_through_alone() {
        let answers = Arc::new(Answers::new(100, 150));
        let large = answers.hold(user("ada"), 1000).unwrap();
        assert_eq!(status(answers.hold(user("ada"), 1)), 429);
        drop(large);
        let _polled = answers.hold_anyway(user("ada"), 120);
        let _again = answers.hold_anyway(user("ada"), 120);
        assert_eq!(status(answers.admit(&user("bob"))), 503);
    }
}
