//! What a stranger may hand in as a token, and what an issuer that is not to be trusted with more may sign or publish.
//! Nothing may panic; no token opens a door that the key has not made; what is accepted can be passed on and read again.

use carillon_auth::{Authority, usable_keys};
use carillon_core::grants::Grants;
use carillon_platform::{
    auth::TokenMark,
    settings::{Program, Secret, Settings},
};
use carillon_proto::{
    claims::Claims,
    ids::{RoomName, UserId},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

const SECRET: &str = "a secret of the fuzzer, of 32 bytes and more";
const NOW_MS: u64 = 1_700_000_000_000;

/// A token's text; then a header and claims, apart at the first zero byte, each signed with the right key.
pub(crate) fn run(bytes: &[u8]) {
    let mut settings = Settings::defaults(Program::Auth);
    settings.jwt.secret = Secret::parse(SECRET);
    let authority = Authority::from_settings(&settings).expect("a secret is a key");
    if let Ok(token) = std::str::from_utf8(bytes) {
        assert!(authority.verify_at(token, NOW_MS).is_err(), "nobody but the key's holder makes a token");
    }
    let (header, claims) = match bytes.iter().position(|byte| *byte == 0) {
        Some(zero) => (&bytes[..zero], &bytes[zero + 1..]),
        None => (&br#"{"alg":"HS256"}"#[..], bytes),
    };
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, jsonwebtoken::Algorithm::HS256).expect("a secret signs");
    let Ok(claims) = authority.verify_at(&format!("{message}.{signature}"), NOW_MS) else { return };
    let user = UserId::parse(&claims.sub).expect("a verified user is legal");
    assert!(claims.exp.saturating_mul(1000) + 5000 > NOW_MS, "ended");
    let passed_on = serde_json::to_string(&claims).expect("claims are JSON");
    let read: Claims = serde_json::from_str(&passed_on).expect("the gateway reads what the auth service says");
    assert_eq!(TokenMark::of(&read), TokenMark::of(&claims));
    let grants = Grants::new(user, read.grants);
    for room in ["lobby", "user:someone else"] {
        let room = RoomName::parse(room).expect("a legal name");
        let _ = (grants.join(room.clone()), grants.publish(room));
    }
}

/// A JSON Web Key Set.
pub(crate) fn run_keys(bytes: &[u8]) {
    if let Ok(count) = usable_keys(bytes) {
        assert!(count <= 64);
    }
}
