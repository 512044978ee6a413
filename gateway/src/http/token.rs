//! Who asks: the token of a request, and what the verifier says of it.

use std::{sync::Arc, time::Duration};

use carillon_platform::auth::VerifyError;
use carillon_proto::{
    claims::Claims,
    codes::{Close, ErrorCode},
    ids::UserId,
};
use http::{Extensions, HeaderMap};

use super::{Front, reply::Problem, strangers::Stranger};
use crate::websocket::handshake::bearer;

/// When to ask again, where nobody could tell what a token is worth.
pub(super) const UNVERIFIED_RETRY_MS: u32 = 1000;

impl Front {
    /// What a token says, within the time of a handshake; whoever asked is no stranger from then on. `Err` is how a connection
    /// would be closed.
    pub(crate) async fn verify(&self, token: Option<&str>, asked: &Extensions) -> Result<Claims, Close> {
        let token = token.filter(|token| token.len() <= self.config.token_bytes).ok_or(Close::Unauthorized)?;
        let patience = Duration::from_millis(self.config.handshake_ms);
        let verified = tokio::time::timeout(patience, self.verifier.verify(token)).await;
        let claims = verified.map_err(|_| Close::Unavailable)?.map_err(|error| {
            tracing::debug!(%error, "a token was not accepted");
            match error {
                VerifyError::Refused(_) => Close::Unauthorized,
                VerifyError::Unavailable(_) => Close::Unavailable,
            }
        })?;
        if let Some(stranger) = asked.get::<Arc<Stranger>>() {
            stranger.is_known();
        }
        Ok(claims)
    }

    /// The claims of a request's bearer token (RFC 6750, section 2.1).
    pub(crate) async fn bearer(&self, headers: &HeaderMap, asked: &Extensions) -> Result<Claims, Problem> {
        let claims = self.verify(bearer(headers).as_deref(), asked).await.map_err(refused)?;
        self.count_socket(&claims, asked);
        Ok(claims)
    }

    /// The socket is one of this user's. Not for those that become a connection, which is counted as such.
    pub(crate) fn count_socket(&self, claims: &Claims, asked: &Extensions) {
        if let (Some(stranger), Ok(user)) = (asked.get::<Arc<Stranger>>(), UserId::parse(&claims.sub)) {
            stranger.is_known_as(user, &self.known);
        }
    }
}

/// Why a token gets nothing.
pub(crate) fn refused(why: Close) -> Problem {
    match why {
        Close::Unavailable => {
            Problem::new(ErrorCode::Unavailable, "the token can't be checked now").retry_after_ms(UNVERIFIED_RETRY_MS)
        }
        _ => Problem::new(ErrorCode::Unauthorized, "no token, or not a good one"),
    }
}
