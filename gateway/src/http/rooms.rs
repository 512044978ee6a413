//! `/rooms/{room}/…`: publish, history, presence, and the end of a room's history. Each but the last becomes the frame of the native wire that asks for the same.

use std::rc::Rc;

use carillon_platform::telemetry::{Parent, SpanKind, within_some};
use carillon_proto::{
    claims::Claims,
    codes::ErrorCode,
    frame::{BadFrame, ClientFrame, MAX_KEY_BYTES, parse_fields, parse_history},
    ids::{ClientId, RoomName},
};
use http::{Extensions, HeaderMap, Request};

use super::{Front, Reply, body, reply::Problem, request};
use crate::upload::Upload;

/// `POST /rooms/{room}/messages`. Goes on with the trace of whoever asks, if there is one (W3C `traceparent`).
pub(super) async fn publish(front: &Rc<Front>, request: Request<Upload>, room: &str) -> Result<Reply, Problem> {
    let traceparent = request.headers().get("traceparent").and_then(|value| value.to_str().ok());
    let asked = traceparent.map_or(Parent::None, Parent::of);
    let mut span = front.tracer.begin("POST /rooms/{room}/messages", SpanKind::Server, asked);
    let parent = span.as_ref().map_or(Parent::Unsampled, |span| Parent::Sampled(span.context()));
    let replied = within_some(span.as_ref(), publish_within(front, request, room, parent)).await;
    if let Some(span) = &mut span {
        span.set("http.request.method", "POST");
        span.set("http.route", "/rooms/{room}/messages");
        let status = replied.as_ref().map_or_else(Problem::status, Reply::status);
        span.set("http.response.status_code", u64::from(status.as_u16()));
        if status.is_server_error() {
            span.fail(status);
        }
    }
    replied
}

async fn publish_within(front: &Rc<Front>, request: Request<Upload>, room: &str, parent: Parent) -> Result<Reply, Problem> {
    let (head, body) = request.into_parts();
    let claims = who(front, &head.headers, &head.extensions).await?;
    let room = named(room)?;
    let client = client(&head.headers)?;
    let named_key = key(&head.headers)?;
    let text = body::read(front, &head.headers, body).await?;
    let mut frame = parse_fields("broadcast", Some(&room), &text, front.config.session.json_depth).map_err(bad)?;
    if let (ClientFrame::Broadcast { key, .. }, Some(named)) = (&mut frame, named_key) {
        if key.as_ref().is_some_and(|key| *key != named) {
            return Err(Problem::new(ErrorCode::BadRequest, "`key` and `Idempotency-Key` are not the same"));
        }
        *key = Some(named.into());
    }
    request::ask(front, claims, client, parent, frame).await
}

/// `GET /rooms/{room}/messages`.
pub(super) async fn history(front: &Rc<Front>, request: &Request<Upload>, room: &str) -> Result<Reply, Problem> {
    let (mut before, mut after, mut limit) = (None, None, None);
    for (name, value) in form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()) {
        match &*name {
            "before" => before = before.or(Some(value)),
            "after" => after = after.or(Some(value)),
            "limit" => limit = limit.or(Some(value)),
            _ => {}
        }
    }
    let frame = |room| parse_history(room, before.as_deref(), after.as_deref(), limit.as_deref());
    // One's own messages are shown with their keys.
    let client = client(request.headers())?;
    read(front, request, room, client, frame).await
}

/// `GET /rooms/{room}/presence`.
pub(super) async fn presence(front: &Rc<Front>, request: &Request<Upload>, room: &str) -> Result<Reply, Problem> {
    read(front, request, room, None, |room| Ok(ClientFrame::Presence { room })).await
}

/// `DELETE /rooms/{room}`: what is stored there is gone for good, with the grant `admin` for this room.
pub(super) async fn erase(front: &Rc<Front>, request: &Request<Upload>, room: &str) -> Result<Reply, Problem> {
    read(front, request, room, None, |room| Ok(ClientFrame::Erase { room })).await
}

async fn read(
    front: &Rc<Front>,
    request: &Request<Upload>,
    room: &str,
    client: Option<ClientId>,
    frame: impl FnOnce(RoomName) -> Result<ClientFrame<'static>, BadFrame>,
) -> Result<Reply, Problem> {
    let claims = who(front, request.headers(), request.extensions()).await?;
    let frame = frame(named(room)?).map_err(bad)?;
    request::ask(front, claims, client, Parent::Unsampled, frame).await
}

/// Who asks, if they may ask now.
async fn who(front: &Front, headers: &HeaderMap, asked: &Extensions) -> Result<Claims, Problem> {
    let claims = front.bearer(headers, asked).await?;
    request::admit(front, &claims)?;
    Ok(claims)
}

pub(super) fn named(room: &str) -> Result<RoomName, Problem> {
    RoomName::parse(room).map_err(|error| Problem::new(ErrorCode::RoomInvalid, format!("the room name {error}")))
}

fn bad(frame: BadFrame) -> Problem {
    Problem::new(frame.code, frame.message)
}

/// `Carillon-Client`: in whose name it is said, so that the sender's own connections are not told; or who reads.
fn client(headers: &HeaderMap) -> Result<Option<ClientId>, Problem> {
    let Some(value) = headers.get("carillon-client") else { return Ok(None) };
    let client = value.to_str().ok().and_then(|value| ClientId::parse(value).ok());
    let why = "`Carillon-Client` is 1 to 64 of A-Z a-z 0-9 _ -";
    client.map(Some).ok_or_else(|| Problem::new(ErrorCode::BadRequest, why))
}

/// `Idempotency-Key`, which the body's `key` may say as well.
fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key = std::str::from_utf8(value.as_bytes()).ok().filter(|key| (1..=MAX_KEY_BYTES).contains(&key.len()));
    let why = "`Idempotency-Key` has 1 to 64 bytes";
    key.map(|key| Some(key.to_owned())).ok_or_else(|| Problem::new(ErrorCode::BadRequest, why))
}
