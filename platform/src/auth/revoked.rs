//! Which tokens were taken back, as rules: what a revocation covers, when it may be forgotten. Knows no store and no clock:
//! the time comes in, in Unix milliseconds.

use std::collections::HashMap;

use carillon_proto::{
    claims::Claims,
    notice::{self, Revocation, revocation::Tokens},
};
use sha2::{Digest, Sha256};

/// What a revocation goes by, beside the user: kept for every connection, so it is small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenMark {
    jti: JtiHash,
    /// Unix milliseconds, or [`NEVER_SAID`].
    issued_ms: u64,
}

/// Part of a SHA-256, 0 for none: of half a million revoked ids, one in 10^13 others looks like one of them.
type JtiHash = u64;

const NEVER_SAID: u64 = u64::MAX;

impl TokenMark {
    /// Of a verified token.
    pub fn of(claims: &Claims) -> Self {
        Self { jti: claims.jti.as_deref().map_or(0, hash), issued_ms: claims.issued_ms().unwrap_or(NEVER_SAID) }
    }
}

fn hash(jti: &str) -> JtiHash {
    let whole: [u8; 32] = Sha256::digest(jti.as_bytes()).into();
    u64::from_le_bytes(std::array::from_fn(|index| whole[index])).max(1)
}

/// The revocations that are known.
#[derive(Debug, Default)]
pub struct Revoked {
    /// Until when each counts.
    jtis: HashMap<JtiHash, u64>,
    /// The latest of each user; an earlier one says nothing that it does not say.
    subs: HashMap<Box<str>, Issued>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Issued {
    before_ms: u64,
    until_ms: u64,
}

impl Revoked {
    /// Takes one in; whether that is news.
    pub fn add(&mut self, revocation: &Revocation) -> bool {
        if revocation.version != notice::VERSION {
            return false;
        }
        let until_ms = if revocation.until_ms == 0 { u64::MAX } else { revocation.until_ms };
        match &revocation.tokens {
            Some(Tokens::Jti(jti)) => {
                let known = self.jtis.insert(hash(jti), until_ms);
                let longest = known.unwrap_or(0).max(until_ms);
                self.jtis.insert(hash(jti), longest);
                known.is_none()
            }
            Some(Tokens::Issued(issued)) => {
                let known = self.subs.entry(issued.sub.as_str().into()).or_default();
                let is_news = issued.before_ms > known.before_ms;
                known.before_ms = known.before_ms.max(issued.before_ms);
                known.until_ms = known.until_ms.max(until_ms);
                is_news
            }
            None => false,
        }
    }

    /// Whether a token of this user was taken back.
    pub fn covers(&self, sub: &str, mark: TokenMark) -> bool {
        if mark.jti != 0 && self.jtis.contains_key(&mark.jti) {
            return true;
        }
        // A token that does not say when it was issued may have been issued at any time.
        let is_before = |before_ms| mark.issued_ms == NEVER_SAID || mark.issued_ms < before_ms;
        self.subs.get(sub).is_some_and(|issued| is_before(issued.before_ms))
    }

    /// Forgets those whose tokens have all ended.
    pub fn forget(&mut self, now_ms: u64) {
        self.jtis.retain(|_, until_ms| *until_ms > now_ms);
        self.subs.retain(|_, issued| issued.until_ms > now_ms);
    }

    /// Takes all of the other's in.
    fn absorb(&mut self, other: Self) {
        if self.is_empty() {
            *self = other;
            return;
        }
        for (jti, until_ms) in other.jtis {
            let known = self.jtis.entry(jti).or_default();
            *known = until_ms.max(*known);
        }
        for (sub, issued) in other.subs {
            let known = self.subs.entry(sub).or_default();
            known.before_ms = known.before_ms.max(issued.before_ms);
            known.until_ms = known.until_ms.max(issued.until_ms);
        }
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.jtis.len() + self.subs.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// All that a process knows of revocations, and where from: what only a notice has told, anybody may have made up who can
/// speak to the bus, so that it counts until the bucket was read and does not have it.
///
/// ```text
///   whole reads     begin ── end      begin ── end      begin ── end
///   notice             ╰───────────────────────▶ gone, unless the bucket has it
///                               ╰───────────────────────────────▶
/// ```
///
/// A revocation is in the bucket before anybody is told of it, so that a read which began later has it. Mostly there are two of
/// them: who answers one may lag behind.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// What was read out of the bucket.
    stored: Revoked,
    /// Told since the newest whole read.
    told: Revoked,
    /// Told between that one and the one before.
    told_before: Revoked,
    /// How far the bucket was ever read.
    upto: u64,
}

/// Revocations that notices may tell between two whole reads; whoever makes up more than that delays those that are true
/// until the bucket is read. As many as are kept in all.
const MOST_TOLD: usize = 500_000;

impl Known {
    /// A notice tells this; whether that is news.
    pub(super) fn on_notice(&mut self, revocation: &Revocation) -> bool {
        if self.told.len() >= MOST_TOLD {
            return false;
        }
        let mut alone = Revoked::default();
        alone.add(revocation);
        let is_news = self.lacks(&alone);
        self.told.add(revocation);
        is_news
    }

    /// This was written since the last read, which goes up to `upto` now.
    pub(super) fn on_read(&mut self, listed: Revoked, upto: u64) {
        self.stored.absorb(listed);
        self.upto = self.upto.max(upto);
    }

    /// This is the whole bucket; what it does not have is forgotten.
    pub(super) fn on_whole(&mut self, listed: Revoked, upto: u64) {
        // Less than was there before: who answers lags behind, or NATS has lost the bucket. What was taken back stays so.
        if upto < self.upto {
            return self.on_read(listed, upto);
        }
        (self.stored, self.told_before, self.upto) = (listed, std::mem::take(&mut self.told), upto);
    }

    /// Whether any of this is not known yet.
    pub(super) fn lacks(&self, listed: &Revoked) -> bool {
        let known = [&self.stored, &self.told, &self.told_before];
        listed.jtis.keys().any(|jti| !known.iter().any(|known| known.jtis.contains_key(jti)))
            || listed.subs.iter().any(|(sub, issued)| {
                !known.iter().any(|known| known.subs.get(sub).is_some_and(|known| known.before_ms >= issued.before_ms))
            })
    }

    /// [`Revoked::covers`], by all of them.
    pub(super) fn covers(&self, sub: &str, mark: TokenMark) -> bool {
        let known = [&self.stored, &self.told, &self.told_before];
        known.into_iter().any(|known| !known.is_empty() && known.covers(sub, mark))
    }

    /// [`Revoked::forget`], in all of them.
    pub(super) fn forget(&mut self, now_ms: u64) {
        for known in [&mut self.stored, &mut self.told, &mut self.told_before] {
            known.forget(now_ms);
        }
    }

    /// How many are known; those that the bucket does not have may be counted twice.
    pub(super) fn len(&self) -> usize {
        let beyond = |told: &Revoked| {
            told.jtis.keys().filter(|jti| !self.stored.jtis.contains_key(jti)).count()
                + told.subs.keys().filter(|sub| !self.stored.subs.contains_key(*sub)).count()
        };
        self.stored.len() + beyond(&self.told) + beyond(&self.told_before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jti(jti: &str, until_ms: u64) -> Revocation {
        Revocation { version: notice::VERSION, tokens: Some(Tokens::Jti(jti.to_owned())), until_ms }
    }

    fn issued(sub: &str, before_ms: u64, until_ms: u64) -> Revocation {
        let tokens = Some(Tokens::Issued(notice::Issued { sub: sub.to_owned(), before_ms }));
        Revocation { version: notice::VERSION, tokens, until_ms }
    }

    fn mark(claims: &str) -> TokenMark {
        TokenMark::of(&serde_json::from_str(&format!(r#"{{"sub":"ada","exp":9,{claims}}}"#)).unwrap())
    }

    #[test]
    fn token_is_known_by_its_id() {
        let mut revoked = Revoked::default();
        assert!(revoked.add(&jti("a", 100)));
        assert!(!revoked.add(&jti("a", 50)), "the same again");
        assert!(revoked.covers("ada", mark(r#""jti":"a""#)) && revoked.covers("bob", mark(r#""jti":"a","iat":1"#)));
        assert!(!revoked.covers("ada", mark(r#""jti":"b""#)) && !revoked.covers("ada", mark(r#""iat":0"#)));
    }

    #[test]
    fn users_older_tokens_are_covered() {
        let mut revoked = Revoked::default();
        assert!(revoked.add(&issued("ada", 5_500, 100_000)));
        assert!(revoked.covers("ada", mark(r#""iat":4"#)) && revoked.covers("ada", mark(r#""iat":5"#)));
        assert!(!revoked.covers("ada", mark(r#""iat":6"#)) && !revoked.covers("bob", mark(r#""iat":4"#)));
        assert!(
            !revoked.covers("ada", mark(r#""iat":5,"iat_ms":5500"#)) && revoked.covers("ada", mark(r#""iat":5,"iat_ms":5499"#))
        );
        assert!(revoked.covers("ada", mark(r#""nbf":6"#)), "it does not say when it was issued");
        assert!(!revoked.add(&issued("ada", 4_000, 200_000)), "an earlier time is no news");
        assert!(revoked.covers("ada", mark(r#""iat":5"#)));
    }

    #[test]
    fn revocations_end_with_their_tokens() {
        let mut revoked = Revoked::default();
        for revocation in [jti("a", 100), jti("b", 0), issued("ada", 50, 100), issued("bob", 50, 300)] {
            revoked.add(&revocation);
        }
        revoked.forget(99);
        assert_eq!(revoked.len(), 4);
        revoked.forget(100);
        assert_eq!(revoked.len(), 2, "one for ever, one until later");
        assert!(revoked.covers("x", mark(r#""jti":"b""#)) && revoked.covers("bob", mark(r#""iat":0"#)));
    }

    fn set(revocations: &[Revocation]) -> Revoked {
        let mut set = Revoked::default();
        for revocation in revocations {
            set.add(revocation);
        }
        set
    }

    #[test]
    fn what_the_bucket_lacks_is_forgotten_after_two_whole_reads() {
        let (forged, stored) = ([jti("forged", 0), issued("ada", u64::MAX, 0)], jti("stored", 0));
        let mut known = Known::default();
        assert!(forged.iter().all(|forged| known.on_notice(forged)) && !known.on_notice(&forged[0]));
        let is_shut = |known: &Known| {
            let by_forged = [known.covers("x", mark(r#""jti":"forged""#)), known.covers("ada", mark(r#""iat":4"#))];
            assert_eq!(by_forged[0], by_forged[1]);
            by_forged[0]
        };
        // One read may lag behind, and one in part shows nothing.
        known.on_whole(set(&[]), 7);
        known.on_read(set(&[]), 7);
        assert!(is_shut(&known));
        known.on_whole(set(std::slice::from_ref(&stored)), 7);
        assert!(!is_shut(&known) && known.covers("x", mark(r#""jti":"stored""#)) && known.len() == 1);
        // So is what the bucket had, and has no more.
        known.on_whole(set(&[]), 9);
        assert!(!known.covers("x", mark(r#""jti":"stored""#)) && known.len() == 0);
    }

    #[test]
    fn bucket_that_has_shrunk_takes_nothing_back() {
        let mut known = Known::default();
        known.on_whole(set(&[jti("a", 0), issued("ada", 5_000, 0)]), 9);
        for _ in 0..3 {
            known.on_whole(set(&[jti("b", 0)]), 8);
        }
        assert!(known.covers("x", mark(r#""jti":"a""#)) && known.covers("x", mark(r#""jti":"b""#)));
        assert!(known.covers("ada", mark(r#""iat":4"#)));
        known.forget(1);
        assert_eq!(known.len(), 3);
    }

    #[test]
    fn true_notice_is_known_all_the_time() {
        let mut known = Known::default();
        let is_shut = |known: &Known| known.covers("x", mark(r#""jti":"a""#));
        assert!(known.on_notice(&jti("a", 0)));
        // Asked before the notice and answered after it; then again by who has it.
        known.on_whole(set(&[]), 1);
        assert!(is_shut(&known));
        for _ in 0..3 {
            known.on_whole(set(&[jti("a", 0)]), 2);
            assert!(is_shut(&known));
        }
    }

    #[test]
    fn other_formats_are_no_news() {
        let mut revoked = Revoked::default();
        assert!(!revoked.add(&Revocation { version: 2, ..jti("a", 100) }));
        assert!(!revoked.add(&Revocation { tokens: None, ..jti("a", 100) }));
        assert!(revoked.is_empty());
    }
}
