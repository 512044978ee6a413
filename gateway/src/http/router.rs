//! Which request goes where. Paths are matched by their segments, each decoded on its own, so that a room's name may
//! hold a slash.

use std::rc::Rc;

use carillon_proto::codes::ErrorCode;
use http::{
    Method, Request, StatusCode,
    header::{self, HeaderValue},
};

use super::{
    Front, HEAD_BYTES, Reply, admin,
    answers::Account,
    cors, others, pages,
    reply::{Body, Problem, json, show},
    rooms,
    strangers::Stranger,
};
use crate::{asked, engineio, events, upload::Upload, websocket};

/// All of this, for programs (OpenAPI 3.1).
const OPENAPI: &str = include_str!("../../openapi.json");

/// Answers any request.
pub(super) async fn answer(front: &Rc<Front>, request: Request<Upload>, stranger: &Stranger) -> Reply {
    // hyper bounds what it buffers, which may be a little more.
    let lines = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
    if lines.sum::<usize>() > HEAD_BYTES {
        let why = "the header lines are too long, or too many";
        return Problem::bad(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, why).into_reply();
    }
    if request.uri().path() == "/ws" {
        return websocket::upgrade::open(front, request).await;
    }
    // Clients of either language leave out the slash at the end now and then.
    let socketio = &front.config.socketio_path;
    if request.uri().path() == socketio || Some(request.uri().path()) == socketio.strip_suffix('/') {
        let sid = engineio::request::read(&request).ok().and_then(|asked| asked.sid);
        // One that polls may wait long for its answer. What it is answered has left its outbox, and is not read yet.
        let reply = front.socketio.answer(request, &|| stranger.is_known()).await.map(Body::whole);
        return match sid {
            Some(sid) => reply.map(|body| body.counted(|bytes| front.answers.hold_anyway(Account::Transport(sid), bytes))),
            None => reply,
        };
    }
    if let Some(page) = front.pages.iter().chain(pages::ADMIN).find(|page| page.path == request.uri().path()) {
        return match *request.method() {
            Method::GET | Method::HEAD => show(page),
            _ => not_allowed("GET, HEAD"),
        };
    }
    // From here on a browser's page may ask across origins, if it is on the list.
    let origin = match cors::admit(request.headers(), &front.config.origins) {
        Ok(origin) => origin,
        Err(refused) => {
            let mut reply = refused.into_reply();
            cors::mark(&mut reply, None);
            return reply;
        }
    };
    let mut reply = route(front, request).await.unwrap_or_else(Problem::into_reply);
    cors::mark(&mut reply, origin);
    reply
}

async fn route(front: &Rc<Front>, request: Request<Upload>) -> Result<Reply, Problem> {
    let path = request.uri().path().to_owned();
    let Some(segments) = asked::segments(&path) else {
        return Err(Problem::new(ErrorCode::BadRequest, "the path is not UTF-8"));
    };
    let segments: Vec<&str> = segments.iter().map(|segment| &**segment).collect();
    match (segments.as_slice(), request.method()) {
        (["rooms", _, "messages"], &Method::OPTIONS) => Ok(cors::preflight("GET, POST")),
        (["rooms", room, "messages"], &Method::POST) => rooms::publish(front, request, room).await,
        (["rooms", room, "messages"], &Method::GET) => rooms::history(front, &request, room).await,
        (["rooms", _, "messages"], _) => Ok(not_allowed("GET, POST, OPTIONS")),
        (["rooms", _], &Method::OPTIONS) => Ok(cors::preflight("DELETE")),
        (["rooms", room], &Method::DELETE) => rooms::erase(front, &request, room).await,
        (["rooms", _], _) => Ok(not_allowed("DELETE, OPTIONS")),
        (["rooms", _, "presence"], &Method::OPTIONS) => Ok(cors::preflight("GET")),
        (["rooms", room, "presence"], &Method::GET) => rooms::presence(front, &request, room).await,
        (["rooms", _, "presence"], _) => Ok(not_allowed("GET, OPTIONS")),
        (["tokens"], &Method::POST) => others::issue(front, request).await,
        (["revocations"], &Method::POST) => others::revoke(front, request).await,
        (["users", user, "disconnect"], &Method::POST) => others::disconnect(front, request, user).await,
        (["tokens" | "revocations"] | ["users", _, "disconnect"], &Method::OPTIONS) => Ok(cors::preflight("POST")),
        (["tokens" | "revocations"] | ["users", _, "disconnect"], _) => Ok(not_allowed("POST, OPTIONS")),
        ([".well-known", "jwks.json"], &Method::GET | &Method::HEAD) => others::public_keys(front).await,
        ([".well-known", "jwks.json"], _) => Ok(not_allowed("GET, HEAD")),
        (["events"] | ["events", _], &Method::OPTIONS) => Ok(cors::preflight("GET")),
        (["events"], &Method::GET) => events::open(front, request, None).await,
        (["events", user], &Method::GET) => events::open(front, request, Some(user)).await,
        (["events"] | ["events", _], _) => Ok(not_allowed("GET, OPTIONS")),
        (["admin", "api", "overview" | "connections" | "rooms"], &Method::OPTIONS) => Ok(cors::preflight("GET")),
        (["admin", "api", "overview"], &Method::GET) => admin::overview(front, &request).await,
        (["admin", "api", "connections"], &Method::GET) => admin::connections(front, &request).await,
        (["admin", "api", "rooms"], &Method::GET) => admin::rooms(front, &request).await,
        (["admin", "api", "overview" | "connections" | "rooms"], _) => Ok(not_allowed("GET, OPTIONS")),
        (["openapi.json"], &Method::GET | &Method::HEAD) => Ok(json(StatusCode::OK, OPENAPI)),
        (["openapi.json"], _) => Ok(not_allowed("GET, HEAD")),
        _ => Err(Problem::bad(StatusCode::NOT_FOUND, "there is nothing here")),
    }
}

fn not_allowed(allowed: &'static str) -> Reply {
    let mut reply = Problem::bad(StatusCode::METHOD_NOT_ALLOWED, "this can't be done here").into_reply();
    reply.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    reply
}
