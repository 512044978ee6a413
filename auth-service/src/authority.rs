//! Verifies and issues tokens in this process. It is told the time, and goes to no network but for the key set of
//! `jwt.jwks_url`, which it looks at again when a token names a key that is not in it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use carillon_platform::{
    auth::{IssueError, IssueRequest, Issued, TokenIssuer, TokenVerifier, VerifyError},
    bus::Bus,
    settings::Settings,
    telemetry::{Figures, Reading, Unit},
};
use carillon_proto::{
    claims::{Claims, Grant, Operation},
    ids::UserId,
    notice::{self, Notice, notice::Notice as Told},
};
use futures_util::future::BoxFuture;
use jsonwebtoken::{Algorithm, errors::ErrorKind};
use prost::Message as _;
use serde::Serialize;
use serde_json::Value;

use crate::{
    keys::{KeyError, Keys},
    remote_keys::Looked,
};

/// Who may come in, by the settings `jwt.*` and `limits.token_bytes`.
pub struct Authority {
    keys: Keys,
    issuer: Option<String>,
    audience: Option<String>,
    leeway_s: u64,
    max_ttl_s: Option<u64>,
    token_bytes: usize,
    default_grants: Option<Vec<Grant>>,
}

impl Authority {
    /// How long a start waits for the key set of `jwt.jwks_url`. Then it goes on without, and tells those whose tokens need
    /// it to come back.
    pub const KEYS_PATIENCE: Duration = Duration::from_secs(3);

    /// Reads the key files. The error names the setting that has to change.
    pub fn from_settings(settings: &Settings) -> Result<Self, KeyError> {
        let jwt = &settings.jwt;
        Ok(Self {
            keys: Keys::from_settings(jwt)?,
            issuer: jwt.issuer.clone(),
            audience: jwt.audience.clone(),
            leeway_s: jwt.leeway_s,
            max_ttl_s: jwt.max_ttl_s,
            token_bytes: settings.limits.token_bytes,
            default_grants: jwt.default_grants.clone(),
        })
    }

    /// The longest token that is looked at.
    pub(crate) fn token_bytes(&self) -> usize {
        self.token_bytes
    }

    /// Keeps the key set of `jwt.jwks_url`; ends at once where there is none. Without it, that set stays empty.
    pub async fn keep_keys(self: Arc<Self>) {
        if let Some(remote) = &self.keys.remote {
            remote.keep().await;
        }
    }

    /// Tells all gateways when a key was taken out of that set, since they remember what it has signed; begins to watch when it is
    /// called. A notice that is lost makes it as late as the longest time that they go without asking.
    pub fn tell_withdrawals(&self, bus: Arc<dyn Bus>) -> impl Future<Output = ()> + Send + use<> {
        let withdrawals = self.keys.remote.as_ref().map(|remote| remote.withdrawals());
        async move {
            let Some(mut withdrawals) = withdrawals else { return };
            while withdrawals.changed().await.is_ok() {
                let notice = Notice { version: notice::VERSION, notice: Some(Told::KeysWithdrawn(true)) };
                bus.publish(notice::SUBJECT, notice.encode_to_vec().into());
            }
        }
    }

    /// Waits until that key set is at hand, for as long as this: so that the first client after the start is not told
    /// to come back.
    pub async fn wait_for_keys(&self, patience: Duration) {
        if let Some(remote) = &self.keys.remote {
            remote.wait_for_first(patience).await;
        }
    }

    /// The public keys that tokens are checked with, as a JSON Web Key Set (RFC 7517, section 5). The secret is no part of it.
    pub fn public_keys(&self) -> String {
        serde_json::to_string(&self.keys.published()).expect("a key set is JSON")
    }

    /// [`TokenVerifier::verify`] at a time, in Unix milliseconds, by the keys at hand. Tokens without grants get
    /// `jwt.default_grants` where it is set; else they stay without, which `carillon-core` reads as the built-in default.
    pub fn verify_at(&self, token: &str, now_ms: u64) -> Result<Claims, VerifyError> {
        self.check(token, now_ms).map_err(|problem| match problem {
            Problem::Refused(why) => VerifyError::Refused(why),
            Problem::NoKey { why, .. } => VerifyError::Refused(why),
        })
    }

    /// The same, but looks at the key set again before it says that there is no key.
    async fn verify_looking(&self, token: &str) -> Result<Claims, VerifyError> {
        let (name, why) = match self.check(token, now_ms()) {
            Ok(claims) => return Ok(claims),
            Err(Problem::Refused(why)) => return Err(VerifyError::Refused(why)),
            Err(Problem::NoKey { name, why }) => (name, why),
        };
        let Some(remote) = &self.keys.remote else { return Err(VerifyError::Refused(why)) };
        match remote.look_for(&name).await {
            Looked::Done => self.verify_at(token, now_ms()),
            Looked::NotNow(why) => Err(VerifyError::Unavailable(why.to_owned())),
        }
    }

    fn check(&self, token: &str, now_ms: u64) -> Result<Claims, Problem> {
        if token.is_empty() {
            return Err(refused("no token"));
        }
        if token.len() > self.token_bytes {
            return Err(refused("longer than limits.token_bytes"));
        }
        let mut claims = match self.check_signature(token) {
            // Before anybody looks for a key: what it says against itself, no key will mend.
            Err(Problem::NoKey { name, why }) => {
                self.check_own_words(token, now_ms)?;
                return Err(Problem::NoKey { name, why });
            }
            checked => checked?,
        };
        self.check_claims(&claims, now_ms)?;
        claims.leeway_ms = Some(self.leeway_s * 1000);
        if claims.grants.is_none() {
            claims.grants.clone_from(&self.default_grants);
        }
        // Other issuers' tokens may use the name for something else. Presence shows objects only.
        claims.info = claims.info.filter(|info| info.get().starts_with('{'));
        Ok(claims)
    }

    /// Signature, issuer, audience, and the shape of the claims.
    fn check_signature(&self, token: &str) -> Result<Claims, Problem> {
        let header = jsonwebtoken::decode_header(token).map_err(|error| refused(format!("header: {}", told(&error))))?;
        // RFC 7515, section 4.1.11: what must be understood and isn't makes the token invalid. Nothing is.
        if header.crit.is_some() {
            return Err(refused("has critical header fields"));
        }
        let no_key = |name: String, why: String| {
            // The key set has no symmetric keys: looking again finds none.
            let may_come = header.alg != Algorithm::HS256 && ALGORITHMS.contains(&header.alg);
            if may_come { Problem::NoKey { name, why } } else { refused(why) }
        };
        let named = || header.kid.clone().unwrap_or_else(|| alone(token));
        let candidates = self.keys.candidates(&header).map_err(|why| no_key(named(), why))?;
        for candidate in candidates {
            match jsonwebtoken::decode::<Claims>(token, &candidate.key, &candidate.validation) {
                Ok(token) => return Ok(token.claims),
                Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {}
                Err(error) => return Err(refused(told(&error))),
            }
        }
        // Without a `kid` any key may have made it, so one that was published meanwhile may have, too. So may another key under
        // a `kid` that is known; and whoever makes signatures up under it must not be in that one's way.
        Err(no_key(alone(token), "no key made this signature".to_owned()))
    }

    /// What a token says that no key at hand has made. Nothing of it is believed, but where it has ended, that is the end.
    fn check_own_words(&self, token: &str, now_ms: u64) -> Result<(), Problem> {
        let claims: Claims = jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(|error| refused(told(&error)))?;
        if self.issuer.is_some() && claims.iss != self.issuer {
            return Err(refused("another issuer"));
        }
        self.check_claims(&claims, now_ms)
    }

    fn check_claims(&self, claims: &Claims, now_ms: u64) -> Result<(), Problem> {
        self.check_times(claims, now_ms)?;
        UserId::parse(&claims.sub).map_err(|error| refused(format!("sub {error}")))?;
        Ok(())
    }

    fn check_times(&self, claims: &Claims, now_ms: u64) -> Result<(), Problem> {
        let leeway_ms = self.leeway_s * 1000;
        // The same moment at which a live connection is closed: a token that comes in never ends at once.
        if now_ms >= claims.exp.saturating_mul(1000).saturating_add(leeway_ms) {
            return Err(refused("expired"));
        }
        if claims.nbf.is_some_and(|nbf| nbf.saturating_mul(1000) > now_ms + leeway_ms) {
            return Err(refused("not valid yet"));
        }
        // A revocation is forgotten after the longest life, so nothing may live longer: neither by its own account nor
        // from now on, for tokens that don't say when they began.
        let Some(max_ttl_s) = self.max_ttl_s else { return Ok(()) };
        let whole_life_s = claims.exp.saturating_sub(claims.iat.unwrap_or(claims.exp));
        let rest_ms = claims.exp.saturating_mul(1000).saturating_sub(now_ms);
        if whole_life_s > max_ttl_s || rest_ms > max_ttl_s.saturating_mul(1000).saturating_add(leeway_ms) {
            return Err(refused("lives longer than jwt.max_ttl_s"));
        }
        Ok(())
    }

    /// [`TokenIssuer::issue`] at a time, in Unix milliseconds.
    pub fn issue_at(&self, request: &IssueRequest, now_ms: u64) -> Result<Issued, IssueError> {
        let signing = self.keys.signing.as_ref();
        let signing = signing
            .ok_or_else(|| IssueError::Unavailable("no key to sign with: set jwt.private_key or jwt.secret".to_owned()))?;
        self.check_request(request)?;
        let iat = now_ms / 1000;
        let claims = NewClaims {
            sub: &request.sub,
            exp: iat + request.ttl_s,
            iat,
            iat_ms: now_ms,
            jti: uuid::Uuid::new_v4().to_string(),
            iss: self.issuer.as_deref(),
            aud: self.audience.as_deref(),
            grants: request.grants.as_ref(),
            info: request.info.as_ref(),
        };
        let token = jsonwebtoken::encode(&signing.header, &claims, &signing.key)
            .map_err(|error| IssueError::Unavailable(format!("signing failed: {error}")))?;
        if token.len() > self.token_bytes {
            return invalid("grants and info make the token longer than limits.token_bytes");
        }
        Ok(Issued { token, expires_at_ms: claims.exp * 1000 })
    }

    fn check_request(&self, request: &IssueRequest) -> Result<(), IssueError> {
        // A century; beyond it a date is a slip of units, and `exp` in milliseconds would leave what JSON readers hold.
        const LONGEST_S: u64 = 100 * 31_536_000;
        UserId::parse(&request.sub).map_err(|error| IssueError::Invalid(format!("sub {error}")))?;
        let longest_s = self.max_ttl_s.unwrap_or(LONGEST_S);
        if !(1..=longest_s).contains(&request.ttl_s) {
            return invalid(format!("ttl is not between 1 and {longest_s} seconds"));
        }
        if request.info.as_ref().is_some_and(|info| !info.is_object()) {
            return invalid("info is no JSON object");
        }
        if request.grants.as_ref().is_some_and(|grants| !are_grants(grants)) {
            return invalid(r#"grants are not like [{"rooms": ["chat:*"], "can": ["join", "publish", "history", "presence"]}]"#);
        }
        Ok(())
    }
}

/// Operations that this version doesn't know are refused here, where whoever asks can still mend them.
fn are_grants(json: &Value) -> bool {
    let grants = serde_json::from_value::<Vec<Grant>>(json.clone());
    grants.is_ok_and(|grants| grants.iter().all(|grant| !grant.can.contains(&Operation::Unknown)))
}

/// What keys can be for.
const ALGORITHMS: [Algorithm; 4] = [Algorithm::HS256, Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

/// Why a token does not hold by the keys at hand.
enum Problem {
    Refused(String),
    /// None of them has made it; one that was published meanwhile may have. `name`: what is looked for.
    NoKey {
        name: String,
        why: String,
    },
}

/// What a token is remembered by where the keys that it may be by did not make it: the end of its signature, and nothing that
/// could be a `kid`. So what is made up stands in nobody's way.
fn alone(token: &str) -> String {
    const BYTES: usize = 128;
    let bytes = token.as_bytes();
    format!("\0{}", String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(BYTES)..]))
}

/// What the library says of a token, without the token's own words: these are nobody's business, not even a log's.
fn told(error: &jsonwebtoken::errors::Error) -> String {
    match error.kind() {
        ErrorKind::Json(error) => {
            let text = error.to_string();
            // These two name a claim that was looked for; all others may repeat what they found.
            match ["missing field", "duplicate field"].iter().any(|kind| text.starts_with(kind)) {
                true => text,
                false => "claims or header are not what they must be".to_owned(),
            }
        }
        ErrorKind::Base64(_) | ErrorKind::Utf8(_) => "not base64url of UTF-8".to_owned(),
        _ => error.to_string(),
    }
}

fn refused(why: impl Into<String>) -> Problem {
    Problem::Refused(why.into())
}

fn invalid<T>(why: impl Into<String>) -> Result<T, IssueError> {
    Err(IssueError::Invalid(why.into()))
}

/// What a new token says; `Claims` reads it back.
#[derive(Serialize)]
struct NewClaims<'a> {
    sub: &'a str,
    exp: u64,
    iat: u64,
    iat_ms: u64,
    jti: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grants: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<&'a Value>,
}

pub(crate) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    u64::try_from(now.as_millis()).expect("the clock is before the year 584 million")
}

impl Figures for Authority {
    fn read(&self, to: &mut Reading) {
        let remote = self.keys.remote.as_ref();
        let (fetched, failed, keys) = remote.map_or((0, 0, 0), |remote| remote.counts());
        let outcomes = [("good", fetched), ("failed", failed)];
        to.counters("carillon.jwks.fetches", "Looks at jwt.jwks_url, by outcome.", "outcome", outcomes);
        to.gauge("carillon.jwks.keys", "Usable keys of the last good set.", Unit::Count, keys as f64);
    }
}

impl TokenVerifier for Authority {
    fn verify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Claims, VerifyError>> {
        Box::pin(self.verify_looking(token))
    }
}

impl TokenIssuer for Authority {
    fn issue<'a>(&'a self, request: IssueRequest) -> BoxFuture<'a, Result<Issued, IssueError>> {
        Box::pin(async move { self.issue_at(&request, now_ms()) })
    }

    fn public_keys(&self) -> BoxFuture<'_, Result<String, IssueError>> {
        Box::pin(async { Ok(Self::public_keys(self)) })
    }
}
