//! Which tokens were found good, and for how long that may be relied on. Knows no verifier and no clock: the time comes
//! in, in Unix milliseconds.
//!
//! ```text
//!   verified ──── fresh ────▶ FRESH_MS ──── aged ────▶ USABLE_MS    but never past `exp`
//!               opens doors              opens them while nobody can be asked
//! ```

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use carillon_proto::claims::{Claims, Grant};
use sha2::{Digest, Sha256};

/// How long a verified token is taken as verified. What changes meanwhile at the auth service (other default grants, a key that
/// is missing after a restart) is not seen for so long. Revocations, and keys that are withdrawn from a key set, don't depend on it.
pub(super) const FRESH_MS: u64 = 60_000;

/// How long a verified token still opens doors while the auth service is away: long enough for a failed roll-out to be
/// noticed and mended.
pub(super) const USABLE_MS: u64 = 600_000;

/// What all entries may take. At the usual 0.5 KiB of claims that is some 65,000 tokens, at the 8 KiB of the largest
/// ones 8,000; more than one gateway holds connections for in any ten minutes but the worst.
pub(super) const CACHE_BYTES: usize = 64 << 20;

/// The share of one entry beside the texts of its claims: both maps, the claims themselves, the allocator's rounding.
const ENTRY_BYTES: usize = 512;

/// A token's stand-in, so that no memory dump of a gateway holds a token for longer than its handshake. A token is as
/// good as random to whoever doesn't have it, so the hash needs no key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TokenKey([u8; 32]);

impl TokenKey {
    pub(super) fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }
}

/// A token that was found good earlier.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) claims: Arc<Claims>,
    /// Whether it may be used without asking.
    pub(super) is_fresh: bool,
}

struct Entry {
    claims: Arc<Claims>,
    verified_ms: u64,
    /// Its place in `by_turn`.
    turn: u64,
    bytes: usize,
}

impl Entry {
    fn is_usable(&self, now_ms: u64) -> bool {
        // Without leeway: in the last seconds of a token, the auth service decides.
        now_ms < self.claims.exp.saturating_mul(1000) && self.age_ms(now_ms).is_some_and(|age| age < USABLE_MS)
    }

    /// None if the clock was set back since: then nobody knows.
    fn age_ms(&self, now_ms: u64) -> Option<u64> {
        now_ms.checked_sub(self.verified_ms)
    }
}

/// The tokens that were found good. Full, it forgets those first whose verification is the longest ago; one that is in
/// use is verified anew every [`FRESH_MS`], so these are the ones least used.
pub(super) struct KnownTokens {
    entries: HashMap<TokenKey, Entry>,
    by_turn: BTreeMap<u64, TokenKey>,
    turns: u64,
    bytes: usize,
    capacity: usize,
}

impl KnownTokens {
    pub(super) fn new(capacity: usize) -> Self {
        Self { entries: HashMap::new(), by_turn: BTreeMap::new(), turns: 0, bytes: 0, capacity }
    }

    pub(super) fn find(&mut self, key: &TokenKey, now_ms: u64) -> Option<Known> {
        let entry = self.entries.get(key)?;
        if !entry.is_usable(now_ms) {
            self.forget(key);
            return None;
        }
        let is_fresh = entry.age_ms(now_ms).is_some_and(|age| age < FRESH_MS);
        Some(Known { claims: entry.claims.clone(), is_fresh })
    }

    /// The token was found good; the age counts from `asked_ms`, when that was asked.
    pub(super) fn remember(&mut self, key: TokenKey, claims: Arc<Claims>, asked_ms: u64) {
        self.forget(&key);
        self.turns += 1;
        let entry = Entry { bytes: bytes_of(&claims), claims, verified_ms: asked_ms, turn: self.turns };
        self.bytes += entry.bytes;
        self.by_turn.insert(entry.turn, key);
        self.entries.insert(key, entry);
        while self.bytes > self.capacity {
            let Some((_, oldest)) = self.by_turn.first_key_value() else { break };
            let oldest = *oldest;
            self.forget(&oldest);
        }
    }

    pub(super) fn forget(&mut self, key: &TokenKey) {
        if let Some(entry) = self.entries.remove(key) {
            self.by_turn.remove(&entry.turn);
            self.bytes -= entry.bytes;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

fn bytes_of(claims: &Claims) -> usize {
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let grant = |grant: &Grant| {
        let rooms = grant.rooms.iter().map(|room| size_of::<String>() + room.len()).sum::<usize>();
        size_of::<Grant>() + rooms + grant.can.len()
    };
    let grants = claims.grants.iter().flatten().map(grant).sum::<usize>();
    let info = claims.info.as_ref().map_or(0, |info| info.get().len());
    ENTRY_BYTES + claims.sub.len() + text(&claims.jti) + text(&claims.iss) + info + grants
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_700_000_000_000;

    fn claims(sub: &str, exp_ms: u64) -> Arc<Claims> {
        let claims = format!(r#"{{"sub":"{sub}","exp":{}}}"#, exp_ms / 1000);
        Arc::new(serde_json::from_str(&claims).unwrap())
    }

    fn knowing(token: &str, exp_ms: u64) -> (KnownTokens, TokenKey) {
        let mut known = KnownTokens::new(CACHE_BYTES);
        let key = TokenKey::of(token);
        known.remember(key, claims("ada", exp_ms), NOW_MS);
        (known, key)
    }

    #[test]
    fn freshness_ends_then_use() {
        let (mut known, key) = knowing("t", NOW_MS + 10 * USABLE_MS);
        let mut is_fresh = |at| known.find(&key, at).map(|known| known.is_fresh);
        assert_eq!(is_fresh(NOW_MS + FRESH_MS - 1), Some(true));
        assert_eq!(is_fresh(NOW_MS + FRESH_MS), Some(false));
        assert_eq!(is_fresh(NOW_MS + USABLE_MS - 1), Some(false));
        assert_eq!(is_fresh(NOW_MS + USABLE_MS), None);
        assert_eq!((known.len(), known.bytes), (0, 0));
    }

    #[test]
    fn nothing_outlives_its_exp() {
        let (mut known, key) = knowing("t", NOW_MS + 2000);
        assert!(known.find(&key, NOW_MS + 1999).is_some());
        assert!(known.find(&key, NOW_MS + 2000).is_none());
    }

    #[test]
    fn clock_set_back_forgets() {
        let (mut known, key) = knowing("t", NOW_MS + USABLE_MS);
        assert!(known.find(&key, NOW_MS - 1).is_none());
    }

    #[test]
    fn longest_unverified_goes_first() {
        let one = bytes_of(&claims("ada", 0));
        let mut known = KnownTokens::new(3 * one);
        let keys = ["a", "b", "c", "d"].map(TokenKey::of);
        for key in &keys[..3] {
            known.remember(*key, claims("ada", NOW_MS + 1000), NOW_MS);
        }
        known.remember(keys[0], claims("ada", NOW_MS + 1000), NOW_MS);
        known.remember(keys[3], claims("ada", NOW_MS + 1000), NOW_MS);
        assert_eq!(keys.map(|key| known.find(&key, NOW_MS).is_some()), [true, false, true, true]);
        assert_eq!((known.len(), known.by_turn.len(), known.bytes), (3, 3, 3 * one));
    }

    #[test]
    fn large_claims_weigh_more() {
        let info: String = "x".repeat(5000);
        let large = format!(r#"{{"sub":"a","exp":1,"info":{{"n":"{info}"}},"grants":[{{"rooms":["{info}"],"can":["join"]}}]}}"#);
        assert!(bytes_of(&serde_json::from_str(&large).unwrap()) > ENTRY_BYTES + 10_000);
        let mut known = KnownTokens::new(1000);
        known.remember(TokenKey::of("t"), Arc::new(serde_json::from_str(&large).unwrap()), NOW_MS);
        assert_eq!((known.len(), known.bytes), (0, 0));
    }
}
