//! The token port: who is this, and what may they do? In one process the auth service's own authority answers; from
//! another, it is asked over gRPC, behind a cache.

mod cached;
mod grpc;
mod kept_keys;
mod known;
mod revocations;
mod revoked;

pub use cached::CachedVerifier;
pub use grpc::{BadAuthUrl, GrpcVerifier};
pub use kept_keys::KeptKeys;
pub use revocations::{News, REVOCATIONS, Revocations, Unrevoked};
pub use revoked::{Revoked, TokenMark};

use std::sync::Arc;

use carillon_proto::claims::Claims;
use futures_util::future::BoxFuture;

/// Verifies tokens.
pub trait TokenVerifier: Send + Sync + 'static {
    /// The claims of a token that holds now: signature, times, issuer and audience checked, `sub` legal, `grants` filled
    /// in with the configured default where the token has none.
    fn verify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Claims, VerifyError>>;
}

impl<V: TokenVerifier + ?Sized> TokenVerifier for Arc<V> {
    fn verify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Claims, VerifyError>> {
        (**self).verify(token)
    }
}

/// Issues tokens, and tells which keys they can be checked with.
pub trait TokenIssuer: Send + Sync + 'static {
    /// A signed token for `sub`, valid for `ttl_s` seconds.
    fn issue<'a>(&'a self, request: IssueRequest) -> BoxFuture<'a, Result<Issued, IssueError>>;

    /// The public keys that tokens are checked with: the text of a JSON Web Key Set (RFC 7517). Symmetric keys are never in
    /// it.
    fn public_keys(&self) -> BoxFuture<'_, Result<String, IssueError>>;
}

/// What a token should say.
#[derive(Debug, Clone)]
pub struct IssueRequest {
    /// The user.
    pub sub: String,
    /// How long it is valid, seconds.
    pub ttl_s: u64,
    /// The `grants` claim as JSON; `None` leaves it out.
    pub grants: Option<serde_json::Value>,
    /// The `info` claim as JSON; `None` leaves it out.
    pub info: Option<serde_json::Value>,
}

/// A new token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The token.
    pub token: String,
    /// Unix milliseconds.
    pub expires_at_ms: u64,
}

/// Takes tokens back.
pub trait TokenRevoker: Send + Sync + 'static {
    /// Resolves when the revocation is stored and the gateways are being told.
    fn revoke(&self, tokens: RevokedTokens) -> BoxFuture<'_, Result<(), RevokeError>>;
}

/// Which tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevokedTokens {
    /// The one with this id.
    Jti(String),
    /// Those of a user, issued before a time or without saying when.
    Issued {
        /// The user.
        sub: String,
        /// Unix milliseconds; now, without it.
        before_ms: Option<u64>,
    },
}

/// Why nothing was taken back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RevokeError {
    /// No token can be like that.
    #[error("{0}")]
    Invalid(String),
    /// Nobody could be asked, or store it: try again later.
    #[error("can't revoke now: {0}")]
    Unavailable(String),
}

/// Why a token was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The token does not hold. The text is for logs; clients are told `unauthorized`.
    #[error("refused: {0}")]
    Refused(String),
    /// Nobody could tell: try again later.
    #[error("can't verify now: {0}")]
    Unavailable(String),
}

/// Why no token was issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The request asks for what a token can't say.
    #[error("{0}")]
    Invalid(String),
    /// There is no key to sign with, or nobody could be asked.
    #[error("can't issue now: {0}")]
    Unavailable(String),
}
