//! The door of Server-Sent Events: `/events/{userId}` and `/events?room=…`, read by a browser's `EventSource`. A client that can
//! only listen, and that comes back by itself unless it is told a status other than 200: so overload and drain are told inside.

pub(crate) mod body;
mod request;
pub(crate) mod stream;

use std::{rc::Rc, time::Instant};

use carillon_core::grants::Grants;
use carillon_proto::{
    codes::{Close, ErrorCode},
    ids::UserId,
    sse,
};
use http::{
    Request, StatusCode,
    header::{self, HeaderValue},
};

use crate::{
    http::{
        Front, Reply, Socket,
        reply::{Body, Problem, with_body},
        token_refused,
    },
    shard::Opening,
    upload::Upload,
};
use body::EventBody;
use request::{Asked, Wanted};
use stream::EventStream;

/// Answers a request for `/events`, or for `/events/{path_user}`.
pub(crate) async fn open(front: &Rc<Front>, request: Request<Upload>, path_user: Option<&str>) -> Result<Reply, Problem> {
    let came = Instant::now();
    let Asked { token, wanted, client, cursor } = request::read(&request, path_user, &front.config)?;
    let claims = match front.verify(token.as_deref(), request.extensions()).await {
        Ok(claims) => claims,
        Err(Close::Unavailable) => return Ok(come_back(front, Close::Unavailable)),
        Err(why) => return Err(token_refused(why)),
    };
    if request.extensions().get::<Socket>().is_none() {
        // Over HTTP/2 the socket outlives its streams.
        front.count_socket(&claims, request.extensions());
    }
    let user = UserId::parse(&claims.sub).map_err(|_| token_refused(Close::Unauthorized))?;
    let grants = Grants::new(user.clone(), claims.grants.clone());
    let rooms = match wanted {
        Wanted::Personal(name) if name != user.as_str() => {
            return Err(Problem::new(ErrorCode::Forbidden, "a user's own events are for that user alone"));
        }
        Wanted::Personal(_) => None,
        Wanted::Rooms(rooms) => match rooms.iter().find(|room| grants.join((*room).clone()).is_none()) {
            Some(room) => return Err(Problem::new(ErrorCode::Forbidden, format!("the token does not allow the room {room}"))),
            None => Some(rooms),
        },
    };
    let abort = request.extensions().get::<Socket>().map(|socket| socket.abort.clone());
    let (stream, rest) = EventStream::new(&user, rooms, cursor, abort);
    let opened = front.shard.borrow_mut().on_events(stream, Opening { claims, client, asked: came, pace: None });
    match opened {
        Ok(conn) => Ok(events(Body::Events(EventBody::new(front.shard.clone(), conn, rest)))),
        Err(Close::Unauthorized) => Err(token_refused(Close::Unauthorized)),
        Err(why) => Ok(come_back(front, why)),
    }
}

/// Nothing now: a status other than 200 would stop a browser for good.
fn come_back(front: &Front, why: Close) -> Reply {
    let retry_ms = retry_ms(why, front.config.sse_retry_ms);
    events(Body::whole(sse::retry(retry_ms)))
}

/// When a client that is let go should come back: by chance, so that not all come at once.
pub(crate) fn retry_ms(why: Close, usual_ms: u64) -> u64 {
    match why {
        Close::Draining { retry_ms } => u64::from(retry_ms),
        _ => usual_ms + fastrand::u64(0..=usual_ms),
    }
}

fn events(body: Body) -> Reply {
    let mut reply = with_body(StatusCode::OK, body);
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store"));
    // For nginx: an event is passed on when it comes.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    reply
}
