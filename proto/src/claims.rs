//! What a token says (RFC 7519), as JSON. Whether to believe it is for the auth service; what it allows is for
//! `carillon-core`.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

/// The claims of a verified token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Claims {
    /// The user, see [`crate::ids::UserId`].
    pub sub: String,
    /// When it ends, Unix seconds.
    #[serde(deserialize_with = "numeric_date")]
    pub exp: u64,
    /// When it was issued, Unix seconds.
    #[serde(default, deserialize_with = "optional_numeric_date", skip_serializing_if = "Option::is_none")]
    pub iat: Option<u64>,
    /// When it was issued, Unix milliseconds: tokens of our own say it, so that one that is issued right after a user's tokens
    /// were taken back is none of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iat_ms: Option<u64>,
    /// Not valid before, Unix seconds.
    #[serde(default, deserialize_with = "optional_numeric_date", skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// The token's own id, for revocation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// Who issued it; checked where the settings name one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// A small object shown in presence, passed through as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info: Option<Box<RawValue>>,
    /// What the token allows; absent: the configured default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grants: Option<Vec<Grant>>,
    /// No claim, but the word of whoever verified the token: how long after `exp` it still holds, milliseconds.
    #[serde(skip)]
    pub leeway_ms: Option<u64>,
}

impl Claims {
    /// When the token was issued, Unix milliseconds, as exactly as it says so.
    pub fn issued_ms(&self) -> Option<u64> {
        let iat = self.iat?;
        Some(self.iat_ms.filter(|ms| ms / 1000 == iat).unwrap_or(iat.saturating_mul(1000)))
    }
}

/// Rooms, by pattern, and what may be done in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Patterns over room names; `*` matches any run of characters, the empty one included.
    pub rooms: Vec<String>,
    /// What is allowed there.
    pub can: Vec<Operation>,
}

/// What can be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Become a member.
    Join,
    /// Send messages.
    Publish,
    /// Read what is stored.
    History,
    /// See who is there.
    Presence,
    /// Act for others: issue tokens, revoke, disconnect.
    Admin,
    /// One that a newer issuer knows; it allows nothing here.
    #[serde(other)]
    Unknown,
}

/// RFC 7519, section 2: a NumericDate may have a fraction; whole seconds are enough here.
fn numeric_date<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let seconds = f64::deserialize(from)?;
    if !(0.0..9.0e15).contains(&seconds) {
        return Err(serde::de::Error::custom("expected a date as Unix seconds"));
    }
    Ok(seconds as u64)
}

fn optional_numeric_date<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    struct Date(u64);
    impl<'de> Deserialize<'de> for Date {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            numeric_date(from).map(Date)
        }
    }
    Ok(Option::<Date>::deserialize(from)?.map(|date| date.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_operations_and_claims_are_ignored() {
        let claims: Claims =
            serde_json::from_str(r#"{"sub":"a","exp":1.5,"x":1,"grants":[{"rooms":["*"],"can":["join","fly"]}]}"#).unwrap();
        assert_eq!(claims.exp, 1);
        assert_eq!(claims.grants.unwrap()[0].can, [Operation::Join, Operation::Unknown]);
    }

    #[test]
    fn no_token_makes_its_own_leeway() {
        let claims: Claims = serde_json::from_str(r#"{"sub":"a","exp":1,"leeway_ms":5000}"#).unwrap();
        assert_eq!(claims.leeway_ms, None);
        assert!(!serde_json::to_string(&Claims { leeway_ms: Some(5000), ..claims }).unwrap().contains("leeway"));
    }

    #[test]
    fn milliseconds_refine_the_time_of_issue() {
        let issued = |iat: &str| {
            let claims: Claims = serde_json::from_str(&format!(r#"{{"sub":"a","exp":9{iat}}}"#)).unwrap();
            claims.issued_ms()
        };
        assert_eq!(issued(r#","iat":5,"iat_ms":5678"#), Some(5678));
        assert_eq!(issued(r#","iat":5"#), Some(5000));
        assert_eq!(issued(r#","iat":5,"iat_ms":6000"#), Some(5000), "they contradict each other");
        assert_eq!(issued(r#","iat_ms":5678"#), None);
    }

    #[test]
    fn dates_must_be_numbers() {
        assert!(serde_json::from_str::<Claims>(r#"{"sub":"a","exp":"tomorrow"}"#).is_err());
        assert!(serde_json::from_str::<Claims>(r#"{"sub":"a","exp":-1}"#).is_err());
        assert!(serde_json::from_str::<Claims>(r#"{"sub":"a"}"#).is_err());
    }
}
