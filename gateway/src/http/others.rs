//! What a backend may do for others, with the grant `admin`: issue tokens, take them back, disconnect a user. And what
//! everybody may know: the public keys.

use carillon_core::grants::{Grants, MayActForOthers};
use carillon_platform::{
    auth::{IssueError, IssueRequest, RevokeError, RevokedTokens},
    settings::parse_duration,
};
use carillon_proto::{
    codes::ErrorCode,
    frame::exceeds_depth,
    ids::UserId,
    notice::{self, Notice, notice::Notice as Told},
};
use http::{
    Extensions, HeaderMap, Request, StatusCode,
    header::{self, HeaderValue},
};
use prost::Message as _;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    Front, Reply, body,
    reply::{Problem, empty, json},
    request,
};
use crate::upload::Upload;

/// When to try again what the auth service could not do now.
const RETRY_MS: u32 = 1000;

/// Times below are taken for Unix seconds: in milliseconds, they are of the year 1973.
const SECONDS_BELOW: u64 = 100_000_000_000;

#[derive(Deserialize)]
struct ToIssue {
    sub: String,
    ttl: Ttl,
    grants: Option<Value>,
    info: Option<Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Ttl {
    Seconds(u64),
    Text(String),
}

/// `POST /tokens`.
pub(super) async fn issue(front: &Front, request: Request<Upload>) -> Result<Reply, Problem> {
    let (_, ToIssue { sub, ttl, grants, info }) = asked(front, request).await?;
    let ttl_s = match ttl {
        Ttl::Seconds(seconds) => seconds,
        Ttl::Text(text) => {
            let ttl = parse_duration(&text).map_err(|error| Problem::new(ErrorCode::BadRequest, format!("ttl: {error}")))?;
            ttl.as_secs()
        }
    };
    let issued = front.issuer.issue(IssueRequest { sub, ttl_s, grants, info }).await.map_err(|error| match error {
        IssueError::Invalid(why) => Problem::new(ErrorCode::BadRequest, why),
        IssueError::Unavailable(why) => not_now("a token could not be issued", &why),
    })?;
    let body = serde_json::json!({ "token": issued.token, "expiresAt": issued.expires_at_ms });
    Ok(json(StatusCode::CREATED, body.to_string()))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ToRevoke {
    jti: Option<String>,
    sub: Option<String>,
    issued_before: Option<u64>,
}

/// `POST /revocations`.
pub(super) async fn revoke(front: &Front, request: Request<Upload>) -> Result<Reply, Problem> {
    let (_, ToRevoke { jti, sub, issued_before }) = asked(front, request).await?;
    let tokens = match (jti, sub) {
        (Some(jti), None) if issued_before.is_none() => RevokedTokens::Jti(jti),
        (None, Some(sub)) => RevokedTokens::Issued { sub, before_ms: issued_before.map(to_ms) },
        _ => return Err(Problem::new(ErrorCode::BadRequest, "name `jti`, or `sub` and maybe `issuedBefore`")),
    };
    front.revoker.revoke(tokens).await.map_err(|error| match error {
        RevokeError::Invalid(why) => Problem::new(ErrorCode::BadRequest, why),
        RevokeError::Unavailable(why) => not_now("the revocation could not be stored", &why),
    })?;
    Ok(empty(StatusCode::NO_CONTENT))
}

fn to_ms(time: u64) -> u64 {
    if time < SECONDS_BELOW { time * 1000 } else { time }
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
async fn asked<T: DeserializeOwned>(front: &Front, request: Request<Upload>) -> Result<(MayActForOthers, T), Problem> {
    let (head, incoming) = request.into_parts();
    let permit = who(front, &head.headers, &head.extensions).await?;
    let text = body::read(front, &head.headers, incoming).await?;
    let bad = |why: String| Problem::new(ErrorCode::BadRequest, why);
    let depth = front.config.session.json_depth;
    if exceeds_depth(text.as_bytes(), depth) {
        return Err(bad(format!("nested deeper than {depth} levels")));
    }
    // What is wrong with it is told by place and kind; none of its text is repeated.
    serde_json::from_str(&text)
        .map(|asked| (permit, asked))
        .map_err(|error| bad(format!("the body is not what is expected: {error}")))
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
