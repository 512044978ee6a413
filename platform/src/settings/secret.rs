//! A secret that can't be printed by accident.

use std::fmt;

/// Text that proves who one is.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// HS256 asks for a key of at least the size of its hash (RFC 7518, section 3.2).
    pub const MIN_BYTES: usize = 32;

    /// Takes the raw text, unless it is too short.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() >= Self::MIN_BYTES).then(|| Self(text.to_owned()))
    }

    /// The text. Whoever calls it keeps it out of logs.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(not shown)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_secrets_are_refused() {
        assert!(Secret::parse(&"x".repeat(31)).is_none());
        assert!(Secret::parse(&"ä".repeat(16)).is_some());
    }

    #[test]
    fn debug_hides_the_text() {
        let secret = Secret::parse("a-secret-that-must-never-be-printed").unwrap();
        assert_eq!(format!("{secret:?}"), "(not shown)");
    }
}
