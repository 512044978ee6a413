//! Reads a JSON Web Key Set (RFC 7517) that somebody else publishes: which of its keys check tokens, and by which
//! algorithm each. What it is fetched from and when is not its business.

use std::sync::Arc;

use carillon_platform::settings::Jwt;
use jsonwebtoken::{
    Algorithm,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;

use crate::keys::{Expected, VerifyingKey};

/// Keys of one set. Publishers have two to four; a token without `kid` is tried against each.
const MOST_KEYS: usize = 64;

/// The usable keys of a set.
pub(crate) struct KeySet {
    pub(crate) keys: Vec<Arc<VerifyingKey>>,
    /// Why others were left out, for logs.
    pub(crate) left_out: Vec<String>,
}

#[derive(Deserialize)]
struct Written {
    keys: Vec<Value>,
}

/// Reads a set. Keys that are for something else, or of a kind that this version doesn't know, are left out: they must
/// not keep the others from being used (RFC 7517, section 5).
pub(crate) fn read(json: &[u8], expected: &Expected) -> Result<KeySet, String> {
    let written: Written = serde_json::from_slice(json).map_err(|error| {
        // Told by place: what is there may be anything.
        format!("expected a JSON Web Key Set, found something else at line {} column {}", error.line(), error.column())
    })?;
    if written.keys.len() > MOST_KEYS {
        return Err(format!("expected at most {MOST_KEYS} keys, found {}", written.keys.len()));
    }
    let mut set = KeySet { keys: Vec::new(), left_out: Vec::new() };
    for (place, key) in written.keys.into_iter().enumerate() {
        match read_key(key, expected) {
            Ok(key) => set.keys.push(Arc::new(key)),
            Err(why) => set.left_out.push(format!("key {place}: {why}")),
        }
    }
    Ok(set)
}

/// How many keys of a JSON Web Key Set check tokens; what is no set says why.
///
/// # Errors
/// If the text is no such set, or one that is too large.
pub fn usable_keys(json: &[u8]) -> Result<usize, String> {
    read(json, &Expected::of(&Jwt::default())).map(|set| set.keys.len())
}

fn read_key(key: Value, expected: &Expected) -> Result<VerifyingKey, String> {
    // RFC 8037's algorithm has got a name of its own for this curve in RFC 9864, which the library does not know yet.
    let is_named_after_curve = key.get("alg").and_then(Value::as_str) == Some("Ed25519");
    // What serde says repeats what is there, which may be half of a private key.
    let mut jwk: Jwk = serde_json::from_value(key).map_err(|_| "it is no JSON Web Key of a kind that is known".to_owned())?;
    if is_named_after_curve {
        jwk.common.key_algorithm = Some(KeyAlgorithm::EdDSA);
    }
    if jwk.common.public_key_use.as_ref().is_some_and(|usage| *usage != PublicKeyUse::Signature) {
        return Err("its `use` is not `sig`".to_owned());
    }
    if jwk.common.key_operations.as_ref().is_some_and(|operations| !operations.contains(&KeyOperations::Verify)) {
        return Err("its `key_ops` don't have `verify`".to_owned());
    }
    // The key says which algorithm it is for, never the token; and its kind leaves one.
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        AlgorithmParameters::OctetKey(_) => return Err("it is symmetric, and published: nobody may believe it".to_owned()),
        _ => return Err("its kind is not supported: expected RSA, P-256 or Ed25519".to_owned()),
    };
    if jwk.common.key_algorithm.is_some_and(|named| named != algorithm.into()) {
        return Err(format!("its `alg` is not {algorithm:?}"));
    }
    VerifyingKey::public(expected, jwk, algorithm)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    // RFC 8037, appendix A.2; RFC 7515, appendix A.3.1; a modulus of the right length.
    fn ed25519() -> Value {
        json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" })
    }

    fn p256() -> Value {
        json!({ "kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0" })
    }

    fn rsa(chars: usize) -> Value {
        json!({ "kty": "RSA", "n": format!("{}Q", "s".repeat(chars - 1)), "e": "AQAB" })
    }

    fn with(mut key: Value, changed: Value) -> Value {
        key.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
        key
    }

    fn read_one(key: Value) -> Result<Arc<VerifyingKey>, String> {
        let set = read(json!({ "keys": [key] }).to_string().as_bytes(), &Expected::of(&Jwt::default())).unwrap();
        set.keys.into_iter().next().ok_or_else(|| set.left_out[0].clone())
    }

    #[test]
    fn kind_pins_the_algorithm() {
        for (key, algorithm) in [(ed25519(), Algorithm::EdDSA), (p256(), Algorithm::ES256), (rsa(342), Algorithm::RS256)] {
            let named = |changed| read_one(with(key.clone(), changed));
            assert_eq!(named(json!({})).unwrap().validation.algorithms, [algorithm]);
            assert!(named(json!({ "use": "sig", "alg": format!("{algorithm:?}"), "kid": "a" })).is_ok());
            assert!(named(json!({ "alg": "HS256" })).is_err());
            assert!(named(json!({ "alg": "RS512" })).is_err());
            assert!(named(json!({ "use": "enc" })).is_err());
            assert!(named(json!({ "key_ops": ["encrypt"] })).is_err());
        }
        assert!(read_one(with(ed25519(), json!({ "alg": "Ed25519" }))).is_ok());
    }

    #[test]
    fn odd_keys_are_left_out() {
        let odd = [
            json!({ "kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA" }),
            json!({ "kty": "AKP", "alg": "ML-DSA-44", "pub": "x" }),
            with(p256(), json!({ "crv": "P-384" })),
            rsa(200),
            rsa(5000),
            json!({ "kty": "RSA", "n": "!".repeat(342), "e": "AQAB" }),
            json!("key"),
            Value::Null,
        ];
        for key in &odd {
            assert!(read_one(key.clone()).is_err(), "{key}");
        }
        let mut keys = odd.to_vec();
        keys.push(ed25519());
        let set = read(json!({ "keys": keys }).to_string().as_bytes(), &Expected::of(&Jwt::default())).unwrap();
        assert_eq!((set.keys.len(), set.left_out.len()), (1, odd.len()));
    }

    #[test]
    fn other_json_is_no_set() {
        let many = json!({ "keys": vec![ed25519(); MOST_KEYS + 1] }).to_string();
        for text in ["", "{}", "[]", "{\"keys\":1}", "<html>", many.as_str()] {
            assert!(read(text.as_bytes(), &Expected::of(&Jwt::default())).is_err(), "{text}");
        }
        assert!(read(b"{\"keys\":[]}", &Expected::of(&Jwt::default())).unwrap().keys.is_empty());
    }
}
