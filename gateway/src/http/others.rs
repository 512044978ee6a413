//! What a backend may do for others, with the grant `admin`: issue tokens, take them back, disconnect a user. And what
//! everybody may know: the public keys.

use carillon_core::grants::{Grants, MayActForOthers};
use carillon_platform::auth::{IssueError, RevokeError};
use carillon_proto::{
    codes::ErrorCode,
    ids::UserId,
    notice::{self, Notice, notice::Notice as Told},
};
use http::{
    Extensions, HeaderMap, Request, StatusCode,
    header::{self, HeaderValue},
};
use prost::Message as _;

use super::{
    Front, Reply, body,
    reply::{Problem, empty, json},
    request,
};
use crate::{asked, upload::Upload};

/// When to try again what the auth service could not do now.
const RETRY_MS: u32 = 1000;

/// `POST /tokens`.
pub(super) async fn issue(front: &Front, request: Request<Upload>) -> Result<Reply, Problem> {
    let (_permit, text) = permitted(front, request).await?;
    let request = asked::to_issue(&text, front.config.session.json_depth).map_err(bad)?;
    let issued = front.issuer.issue(request).await.map_err(|error| match error {
        IssueError::Invalid(why) => Problem::new(ErrorCode::BadRequest, why),
        IssueError::Unavailable(why) => not_now("a token could not be issued", &why),
    })?;
    let body = serde_json::json!({ "token": issued.token, "expiresAt": issued.expires_at_ms });
    Ok(json(StatusCode::CREATED, body.to_string()))
}

/// `POST /revocations`.
pub(super) async fn revoke(front: &Front, request: Request<Upload>) -> Result<Reply, Problem> {
    let (_permit, text) = permitted(front, request).await?;
    let tokens = asked::to_revoke(&text, front.config.session.json_depth).map_err(bad)?;
    front.revoker.revoke(tokens).await.map_err(|error| match error {
        RevokeError::Invalid(why) => Problem::new(ErrorCode::BadRequest, why),
        RevokeError::Unavailable(why) => not_now("the revocation could not be stored", &why),
    })?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `POST /users/{id}/disconnect`. Who is there now is told to go; a token that still holds opens the door again.
pub(super) async fn disconnect(front: &Front, request: Request<Upload>, user: &str) -> Result<Reply, Problem> {
    let _permit = who(front, request.headers(), request.extensions()).await?;
    let user = UserId::parse(user).map_err(|error| Problem::new(ErrorCode::BadRequest, format!("the user's name {error}")))?;
    if front.revocations.is_cut_off() {
        return Err(not_now("the other gateways can't be told", "cut off"));
    }
    let told = Some(Told::Disconnect(user.as_str().to_owned()));
    let notice = Notice { version: notice::VERSION, notice: told };
    front.bus.publish(notice::SUBJECT, notice.encode_to_vec().into());
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `GET /.well-known/jwks.json`.
pub(super) async fn public_keys(front: &Front) -> Result<Reply, Problem> {
    let jwks = front.keys.jwks().await.map_err(|error| not_now("the public keys are not known yet", &error.to_string()))?;
    let mut reply = json(StatusCode::OK, jwks);
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
    Ok(reply)
}

/// Who asks, if that is one who may; and what for.
async fn permitted(front: &Front, request: Request<Upload>) -> Result<(MayActForOthers, String), Problem> {
    let (head, incoming) = request.into_parts();
    let permit = who(front, &head.headers, &head.extensions).await?;
    Ok((permit, body::read(front, &head.headers, incoming).await?))
}

fn bad(why: String) -> Problem {
    Problem::new(ErrorCode::BadRequest, why)
}

/// Who asks, if that is one who may.
pub(super) async fn who(front: &Front, headers: &HeaderMap, asked: &Extensions) -> Result<MayActForOthers, Problem> {
    let claims = front.bearer(headers, asked).await?;
    request::admit(front, &claims)?;
    let user = UserId::parse(&claims.sub).map_err(|_| Problem::new(ErrorCode::Unauthorized, "no legal user"))?;
    let permit = Grants::new(user, claims.grants).act_for_others();
    permit.ok_or_else(|| Problem::new(ErrorCode::Forbidden, "this needs the grant `admin`"))
}

fn not_now(told: &'static str, why: &str) -> Problem {
    tracing::warn!(why, told);
    Problem::new(ErrorCode::Unavailable, told).retry_after_ms(RETRY_MS)
}
