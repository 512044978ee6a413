//! The keys that tokens are checked and signed with. Each is pinned to one algorithm, so that a token can't choose how
//! it is checked (RFC 8725, section 3.1).

use std::path::{Path, PathBuf};

use carillon_platform::settings::Jwt;
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, ThumbprintHash},
};

/// Why there are no usable keys. The text names the setting and is for whoever wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// None of the settings names a key.
    #[error("no key to check tokens with: set jwt.secret (32 bytes or more), jwt.public_keys or jwt.private_key")]
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
    /// A setting that this version knows and can't honour yet.
    #[error("{0} is not supported by this version: name PEM files in jwt.public_keys instead")]
    NotSupported(&'static str),
}

/// One key for checking.
pub(crate) struct VerifyingKey {
    /// The `kid`s that it answers to; the secret has none and is tried whatever the token says, since there is only one.
    ///
    /// A public key has two: its thumbprint (RFC 7638), which tokens issued here carry, and its file's name without the
    /// ending, so that a key whose issuer calls it otherwise is added by naming the file after it.
    names: Vec<String>,
    pub(crate) key: DecodingKey,
    /// Pins the algorithm; issuer and audience are the settings'. Times are the authority's business.
    pub(crate) validation: Validation,
}

/// The key for signing.
pub(crate) struct SigningKey {
    pub(crate) header: Header,
    pub(crate) key: EncodingKey,
}

/// All keys of a process.
pub(crate) struct Keys {
    verifying: Vec<VerifyingKey>,
    pub(crate) signing: Option<SigningKey>,
}

impl Keys {
    pub(crate) fn from_settings(jwt: &Jwt) -> Result<Self, KeyError> {
        if jwt.jwks_url.is_some() {
            return Err(KeyError::NotSupported("jwt.jwks_url"));
        }
        let mut keys = Self { verifying: Vec::new(), signing: None };
        if let Some(secret) = &jwt.secret {
            let secret = secret.expose().as_bytes();
            keys.verifying.push(VerifyingKey {
                names: Vec::new(),
                key: DecodingKey::from_secret(secret),
                validation: validation(jwt, Algorithm::HS256),
            });
            keys.signing = Some(SigningKey { header: Header::new(Algorithm::HS256), key: EncodingKey::from_secret(secret) });
        }
        for path in &jwt.public_keys {
            keys.add_public(jwt, path).map_err(|problem| in_file("jwt.public_keys", path, problem))?;
        }
        if let Some(path) = &jwt.private_key {
            keys.add_private(jwt, path).map_err(|problem| in_file("jwt.private_key", path, problem))?;
        }
        if keys.verifying.is_empty() { Err(KeyError::None) } else { Ok(keys) }
    }

    /// The keys that may have signed a token with this header; the error is for logs.
    pub(crate) fn candidates(&self, header: &Header) -> Result<Vec<&VerifyingKey>, String> {
        let pinned: Vec<_> = self.verifying.iter().filter(|key| key.validation.algorithms == [header.alg]).collect();
        if pinned.is_empty() {
            return Err(format!("no key is for the algorithm {:?}", header.alg));
        }
        let Some(kid) = &header.kid else { return Ok(pinned) };
        let named: Vec<_> = pinned.into_iter().filter(|key| key.names.is_empty() || key.names.contains(kid)).collect();
        if named.is_empty() { Err("no key has the token's kid".to_owned()) } else { Ok(named) }
    }

    fn add_public(&mut self, jwt: &Jwt, path: &Path) -> Result<(), String> {
        let (algorithm, key) = public_key(&read(path)?)?;
        let jwk = Jwk::from_decoding_key(&key, Some(algorithm)).map_err(|error| error.to_string())?;
        check_size(&jwk)?;
        let stem = path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned);
        let names = std::iter::once(thumbprint(&jwk)?).chain(stem).collect();
        self.verifying.push(VerifyingKey { names, key, validation: validation(jwt, algorithm) });
        Ok(())
    }

    /// The private key's public half checks, too: what is issued here is accepted here.
    fn add_private(&mut self, jwt: &Jwt, path: &Path) -> Result<(), String> {
        let (algorithm, key) = private_key(&read(path)?)?;
        let jwk = Jwk::from_encoding_key(&key, algorithm).map_err(|error| format!("can't be used: {error}"))?;
        check_size(&jwk)?;
        let kid = thumbprint(&jwk)?;
        if !self.verifying.iter().any(|known| known.names.contains(&kid)) {
            let key = DecodingKey::from_jwk(&jwk).map_err(|error| error.to_string())?;
            self.verifying.push(VerifyingKey { names: vec![kid.clone()], key, validation: validation(jwt, algorithm) });
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

fn validation(jwt: &Jwt, algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    // The library rounds and compares seconds of its own clock; the authority is told the time, to the millisecond.
    (validation.validate_exp, validation.validate_nbf) = (false, false);
    validation.required_spec_claims.clear();
    // Otherwise a token with an audience is refused where none is configured.
    validation.validate_aud = jwt.audience.is_some();
    if let Some(issuer) = &jwt.issuer {
        validation.set_issuer(&[issuer]);
        validation.required_spec_claims.insert("iss".to_owned());
    }
    if let Some(audience) = &jwt.audience {
        validation.set_audience(&[audience]);
        validation.required_spec_claims.insert("aud".to_owned());
    }
    validation
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

const KINDS: &str = "expected a key of RSA (2048 bits or more), P-256 or Ed25519";

fn label(pem: &str) -> &str {
    let begin = pem.lines().find_map(|line| line.trim().strip_prefix("-----BEGIN "));
    begin.and_then(|rest| rest.strip_suffix("-----")).unwrap_or_default()
}

fn found(label: &str) -> String {
    if label.is_empty() { "no PEM".to_owned() } else { format!("BEGIN {label}") }
}

/// A key of another size would load and then never match a signature.
fn check_size(jwk: &Jwk) -> Result<(), String> {
    // 2048 bits in base64url; RFC 7518, section 3.3, asks for as much.
    const MIN_MODULUS_CHARS: usize = 341;
    let fits = match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) => rsa.n.len() >= MIN_MODULUS_CHARS,
        AlgorithmParameters::EllipticCurve(ec) => ec.curve == EllipticCurve::P256,
        AlgorithmParameters::OctetKeyPair(pair) => pair.curve == EllipticCurve::Ed25519,
        _ => false,
    };
    if fits { Ok(()) } else { Err(KINDS.to_owned()) }
}

fn thumbprint(jwk: &Jwk) -> Result<String, String> {
    jwk.thumbprint(ThumbprintHash::SHA256).map_err(|error| error.to_string())
}
