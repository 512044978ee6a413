//! Tokens for members of a load: HS256, for a day.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;

/// Signs tokens.
#[derive(Clone)]
pub(crate) struct Signer(EncodingKey);

const DAY_S: u64 = 86_400;

impl Signer {
    pub(crate) fn new(secret: &str) -> Self {
        Self(EncodingKey::from_secret(secret.as_bytes()))
    }

    /// A token of `user` that allows everything but to administer.
    pub(crate) fn token(&self, user: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let grants = json!([{"rooms": ["*"], "can": ["join", "publish", "history", "presence"]}]);
        let claims = json!({"sub": user, "iat": now, "exp": now + DAY_S, "grants": grants});
        jsonwebtoken::encode(&Header::default(), &claims, &self.0).expect("claims of ours can be signed")
    }
}
