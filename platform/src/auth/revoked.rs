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

#[derive(Debug, Clone, Copy)]
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
                let known = self.subs.entry(issued.sub.as_str().into()).or_insert(Issued { before_ms: 0, until_ms: 0 });
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

    /// How many are known.
    pub fn len(&self) -> usize {
        self.jtis.len() + self.subs.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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

    #[test]
    fn other_formats_are_no_news() {
        let mut revoked = Revoked::default();
        assert!(!revoked.add(&Revocation { version: 2, ..jti("a", 100) }));
        assert!(!revoked.add(&Revocation { tokens: None, ..jti("a", 100) }));
        assert!(revoked.is_empty());
    }
}
