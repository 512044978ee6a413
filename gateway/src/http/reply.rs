//! What requests are answered: JSON, problems (RFC 9457), and the pages of the binary.

use std::{
    borrow::Cow,
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use carillon_proto::codes::ErrorCode;
use http::{
    Response, StatusCode,
    header::{self, HeaderValue},
};
use hyper::body::{Frame, SizeHint};

use super::{
    Reply,
    answers::Room,
    writing::{Unwritten, Writings},
};
use crate::{
    Page,
    events::body::{Block, EventBody},
};

/// What an answer carries.
pub(crate) enum Body {
    /// All of it, and the room that it takes, where that is counted.
    Whole(Bytes, Option<Room>),
    /// What is left of it, once it is on its way.
    Unwritten(Unwritten),
    /// A stream of events.
    Events(EventBody),
}

impl Body {
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::Whole(bytes.into(), None)
    }

    /// On its way over this socket.
    pub(super) fn over(self, writings: &Arc<Writings>) -> Self {
        match self {
            Self::Whole(bytes, room) if !bytes.is_empty() => Self::Unwritten(writings.begin(bytes, room)),
            other => other,
        }
    }

    /// Whatever its length, it counts.
    pub(super) fn counted(self, count: impl FnOnce(usize) -> Room) -> Self {
        match self {
            Self::Whole(bytes, None) if !bytes.is_empty() => {
                let room = count(bytes.len());
                Self::Whole(bytes, Some(room))
            }
            other => other,
        }
    }
}

impl hyper::body::Body for Body {
    type Data = Block;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Block>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes, _) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes, _) => Poll::Ready(Some(Ok(block(std::mem::take(bytes))))),
            Self::Unwritten(unwritten) => Poll::Ready(unwritten.next().map(|piece| Ok(block(piece)))),
            Self::Events(events) => Pin::new(events).poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes, _) => bytes.is_empty(),
            Self::Unwritten(unwritten) => unwritten.len() == 0,
            Self::Events(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes, _) => SizeHint::with_exact(bytes.len() as u64),
            Self::Unwritten(unwritten) => SizeHint::with_exact(unwritten.len() as u64),
            Self::Events(_) => SizeHint::default(),
        }
    }
}

fn block(bytes: Bytes) -> Frame<Block> {
    Frame::data(bytes.chain(Bytes::new()))
}

/// An answer with this status and this body, and nothing said of it yet.
pub(crate) fn with_body(status: StatusCode, body: Body) -> Reply {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

/// Nothing but a status.
pub(crate) fn empty(status: StatusCode) -> Reply {
    with_body(status, Body::whole(Bytes::new()))
}

/// A JSON text.
pub(crate) fn json(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    let mut response = with_body(status, Body::whole(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What went wrong, and what to do next (RFC 9457, section 3).
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    code: ErrorCode,
    /// For the client's developer.
    detail: Cow<'static, str>,
    retry_after_ms: Option<u32>,
    is_outcome_unknown: bool,
}

impl Problem {
    /// With the status that the contract's table gives for the code.
    pub(crate) fn new(code: ErrorCode, detail: impl Into<Cow<'static, str>>) -> Self {
        let status = match code {
            ErrorCode::BadRequest
            | ErrorCode::UnknownType
            | ErrorCode::RoomInvalid
            | ErrorCode::NotJoined
            | ErrorCode::TooManyRooms => StatusCode::BAD_REQUEST,
            ErrorCode::Forbidden => StatusCode::FORBIDDEN,
            ErrorCode::Unauthorized => StatusCode::UNAUTHORIZED,
            ErrorCode::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorCode::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            ErrorCode::Unavailable | ErrorCode::Internal => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self { status, code, detail: detail.into(), retry_after_ms: None, is_outcome_unknown: false }
    }

    /// Its HTTP status.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// A bad request with a status of its own.
    pub(crate) fn bad(status: StatusCode, detail: &'static str) -> Self {
        Self { status, ..Self::new(ErrorCode::BadRequest, detail) }
    }

    /// It may work after so long.
    pub(crate) fn retry_after_ms(self, ms: impl Into<Option<u32>>) -> Self {
        Self { retry_after_ms: ms.into(), ..self }
    }

    /// Whether what was published may be stored all the same.
    pub(crate) fn outcome_unknown(self, is_outcome_unknown: bool) -> Self {
        Self { is_outcome_unknown, ..self }
    }

    /// The answer that tells it.
    pub(crate) fn into_reply(self) -> Reply {
        let mut body = serde_json::json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or_default(),
            "status": self.status.as_u16(),
            "code": self.code.as_str(),
            "detail": self.detail,
        });
        if let Some(ms) = self.retry_after_ms {
            body["retryAfterMs"] = ms.into();
        }
        if self.is_outcome_unknown {
            body["outcome"] = "unknown".into();
        }
        let mut response = json(self.status, body.to_string());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(ms) = self.retry_after_ms {
            // Whole seconds (RFC 9110, section 10.2.3), and never "at once".
            headers.insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000).max(1)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// A page of the binary.
pub(super) fn show(page: &Page) -> Reply {
    let mut response = with_body(StatusCode::OK, Body::whole(Bytes::from_static(page.body)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(page.content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    let policy = "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; frame-ancestors 'none'";
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}
