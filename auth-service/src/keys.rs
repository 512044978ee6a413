//! The keys that tokens are checked and signed with. Each is pinned to one algorithm, so that a token can't choose how
//! it is checked (RFC 8725, section 3.1).

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use carillon_platform::settings::{Jwt, Url};
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation,
    jwk::{AlgorithmParameters, CommonParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse, ThumbprintHash},
};

use crate::remote_keys::RemoteKeys;

/// Why there are no usable keys. The text names the setting and is for whoever wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// None of the settings names a key.
    #[error("no key to check tokens with: set jwt.secret (32 bytes or more), jwt.public_keys, jwt.private_key or jwt.jwks_url")]
    None,
    /// A PEM file is not what its setting asks for.
    #[error("{setting}: {}: {problem}", path.display())]
    File {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What was expected, and what was found.
        problem: String,
    },
    /// The address of the key set can't be used.
    #[error("jwt.jwks_url: {url}: {problem}")]
    Address {
        /// The address.
        url: Url,
        /// What was expected, and what was found.
        problem: String,
    },
}

/// One key for checking.
pub(crate) struct VerifyingKey {
    /// The `kid`s that it answers to; the secret has none and is tried whatever the token says, since there is only one.
    ///
    /// A public key of a file has two: its thumbprint (RFC 7638), which tokens issued here carry, and its file's name
    /// without the ending, so that a key whose issuer calls it otherwise is added by naming the file after it. One of a
    /// key set has its `kid` there, and its thumbprint.
    names: Vec<String>,
    pub(crate) key: DecodingKey,
    /// Pins the algorithm; issuer and audience are the settings'. Times are the authority's business.
    pub(crate) validation: Validation,
    /// What may be told to everybody; the secret has nothing of the kind.
    pub(crate) public: Option<Jwk>,
}

impl VerifyingKey {
    /// From a public key that is already known to be of a kind that is supported.
    pub(crate) fn public(expected: &Expected, mut jwk: Jwk, algorithm: Algorithm) -> Result<Self, String> {
        check_size(&jwk)?;
        let key = DecodingKey::from_jwk(&jwk).map_err(|error| error.to_string())?;
        let thumbprint = thumbprint(&jwk)?;
        let kid = jwk.common.key_id.clone().unwrap_or_else(|| thumbprint.clone());
        jwk.common = CommonParameters {
            public_key_use: Some(PublicKeyUse::Signature),
            key_algorithm: Some(algorithm.into()),
            key_id: Some(kid.clone()),
            ..CommonParameters::default()
        };
        Ok(Self { names: vec![kid, thumbprint], key, validation: expected.by(algorithm), public: Some(jwk) })
    }

    fn fits(&self, kid: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|name| name == kid)
    }
}

/// The key for signing.
pub(crate) struct SigningKey {
    pub(crate) header: Header,
    pub(crate) key: EncodingKey,
}

/// What every token has to say, whoever signed it.
#[derive(Clone)]
pub(crate) struct Expected {
    issuer: Option<String>,
    audience: Option<String>,
}

impl Expected {
    pub(crate) fn of(jwt: &Jwt) -> Self {
        Self { issuer: jwt.issuer.clone(), audience: jwt.audience.clone() }
    }

    fn by(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        // The library rounds and compares seconds of its own clock; the authority is told the time, to the millisecond.
        (validation.validate_exp, validation.validate_nbf) = (false, false);
        validation.required_spec_claims.clear();
        // Otherwise a token with an audience is refused where none is configured.
        validation.validate_aud = self.audience.is_some();
        if let Some(issuer) = &self.issuer {
            validation.set_issuer(&[issuer]);
            validation.required_spec_claims.insert("iss".to_owned());
        }
        if let Some(audience) = &self.audience {
            validation.set_audience(&[audience]);
            validation.required_spec_claims.insert("aud".to_owned());
        }
        validation
    }
}

/// All keys of a process.
pub(crate) struct Keys {
    own: Vec<Arc<VerifyingKey>>,
    pub(crate) signing: Option<SigningKey>,
    pub(crate) remote: Option<Arc<RemoteKeys>>,
}

impl Keys {
    pub(crate) fn from_settings(jwt: &Jwt) -> Result<Self, KeyError> {
        let expected = Expected::of(jwt);
        let mut keys = Self { own: Vec::new(), signing: None, remote: None };
        if let Some(secret) = &jwt.secret {
            let secret = secret.expose().as_bytes();
            let key = DecodingKey::from_secret(secret);
            let validation = expected.by(Algorithm::HS256);
            keys.own.push(Arc::new(VerifyingKey { names: Vec::new(), key, validation, public: None }));
            keys.signing = Some(SigningKey { header: Header::new(Algorithm::HS256), key: EncodingKey::from_secret(secret) });
        }
        for path in &jwt.public_keys {
            keys.add_public(&expected, path).map_err(|problem| in_file("jwt.public_keys", path, problem))?;
        }
        if let Some(path) = &jwt.private_key {
            keys.add_private(&expected, path).map_err(|problem| in_file("jwt.private_key", path, problem))?;
        }
        if let Some(url) = &jwt.jwks_url {
            let remote = RemoteKeys::new(url, Duration::from_secs(jwt.jwks_refresh_s), expected);
            keys.remote = Some(Arc::new(remote.map_err(|problem| KeyError::Address { url: url.clone(), problem })?));
        }
        if keys.own.is_empty() && keys.remote.is_none() { Err(KeyError::None) } else { Ok(keys) }
    }

    /// The keys that may have signed a token with this header; the error is for logs.
    pub(crate) fn candidates(&self, header: &Header) -> Result<Vec<Arc<VerifyingKey>>, String> {
        let mut pinned: Vec<_> = self.all().into_iter().filter(|key| key.validation.algorithms == [header.alg]).collect();
        if pinned.is_empty() {
            return Err(format!("no key is for the algorithm {:?}", header.alg));
        }
        if let Some(kid) = &header.kid {
            pinned.retain(|key| key.fits(kid));
        }
        if pinned.is_empty() { Err("no key has the token's kid".to_owned()) } else { Ok(pinned) }
    }

    /// The public keys, as RFC 7517, section 5, has them. The secret is none, and what is not there can't leak.
    pub(crate) fn published(&self) -> JwkSet {
        let mut published = JwkSet::default();
        for key in self.all() {
            let known = |jwk: &Jwk| published.keys.iter().any(|known| known.common.key_id == jwk.common.key_id);
            published.keys.extend(key.public.clone().filter(|jwk| !known(jwk)));
        }
        published
    }

    fn all(&self) -> Vec<Arc<VerifyingKey>> {
        let remote = self.remote.iter().flat_map(|remote| remote.keys().iter().cloned().collect::<Vec<_>>());
        self.own.iter().cloned().chain(remote).collect()
    }

    fn add_public(&mut self, expected: &Expected, path: &Path) -> Result<(), String> {
        let (algorithm, key) = public_key(&read(path)?)?;
        let jwk = Jwk::from_decoding_key(&key, Some(algorithm)).map_err(|error| error.to_string())?;
        let mut key = VerifyingKey::public(expected, jwk, algorithm)?;
        key.names.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
        self.own.push(Arc::new(key));
        Ok(())
    }

    /// The private key's public half checks, too: what is issued here is accepted here.
    fn add_private(&mut self, expected: &Expected, path: &Path) -> Result<(), String> {
        let (algorithm, key) = private_key(&read(path)?)?;
        let jwk = Jwk::from_encoding_key(&key, algorithm).map_err(|error| format!("can't be used: {error}"))?;
        let public = VerifyingKey::public(expected, jwk, algorithm)?;
        let kid = public.names[0].clone();
        if !self.own.iter().any(|known| known.names.contains(&kid)) {
            self.own.push(Arc::new(public));
        }
        self.signing = Some(SigningKey { header: Header { kid: Some(kid), ..Header::new(algorithm) }, key });
        Ok(())
    }
}

fn in_file(setting: &'static str, path: &Path, problem: String) -> KeyError {
    KeyError::File { setting, path: path.to_owned(), problem }
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("can't be read: {error}"))
}

/// The label is checked first: the library also takes a private key for a public one, and a certificate for its key.
fn public_key(pem: &str) -> Result<(Algorithm, DecodingKey), String> {
    let label = label(pem);
    if !matches!(label, "PUBLIC KEY" | "RSA PUBLIC KEY") {
        return Err(format!("expected a PEM file with BEGIN PUBLIC KEY, found {}", found(label)));
    }
    let pem = pem.as_bytes();
    DecodingKey::from_rsa_pem(pem)
        .map(|key| (Algorithm::RS256, key))
        .or_else(|_| DecodingKey::from_ec_pem(pem).map(|key| (Algorithm::ES256, key)))
        .or_else(|_| DecodingKey::from_ed_pem(pem).map(|key| (Algorithm::EdDSA, key)))
        .map_err(|_| KINDS.to_owned())
}

fn private_key(pem: &str) -> Result<(Algorithm, EncodingKey), String> {
    let label = label(pem);
    if label == "EC PRIVATE KEY" {
        return Err(
            "expected BEGIN PRIVATE KEY, found BEGIN EC PRIVATE KEY: convert it with openssl pkcs8 -topk8 -nocrypt".to_owned()
        );
    }
    if !matches!(label, "PRIVATE KEY" | "RSA PRIVATE KEY") {
        return Err(format!("expected a PEM file with BEGIN PRIVATE KEY, found {}", found(label)));
    }
    let pem = pem.as_bytes();
    EncodingKey::from_rsa_pem(pem)
        .map(|key| (Algorithm::RS256, key))
        .or_else(|_| EncodingKey::from_ec_pem(pem).map(|key| (Algorithm::ES256, key)))
        .or_else(|_| EncodingKey::from_ed_pem(pem).map(|key| (Algorithm::EdDSA, key)))
        .map_err(|_| KINDS.to_owned())
}

const KINDS: &str = "expected a key of RSA (2048 to 8192 bits), P-256 or Ed25519";

fn label(pem: &str) -> &str {
    let begin = pem.lines().find_map(|line| line.trim().strip_prefix("-----BEGIN "));
    begin.and_then(|rest| rest.strip_suffix("-----")).unwrap_or_default()
}

fn found(label: &str) -> String {
    if label.is_empty() { "no PEM".to_owned() } else { format!("BEGIN {label}") }
}

/// A key of another size would load and then never match a signature.
fn check_size(jwk: &Jwk) -> Result<(), String> {
    // 2048 to 8192 bits in base64url: RFC 7518, section 3.3, asks for the first, and the library takes no more.
    const MODULUS_CHARS: std::ops::RangeInclusive<usize> = 341..=1367;
    let fits = match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) => MODULUS_CHARS.contains(&rsa.n.len()),
        AlgorithmParameters::EllipticCurve(ec) => ec.curve == EllipticCurve::P256,
        AlgorithmParameters::OctetKeyPair(pair) => pair.curve == EllipticCurve::Ed25519,
        _ => false,
    };
    if fits { Ok(()) } else { Err(KINDS.to_owned()) }
}

fn thumbprint(jwk: &Jwk) -> Result<String, String> {
    jwk.thumbprint(ThumbprintHash::SHA256).map_err(|error| error.to_string())
}
