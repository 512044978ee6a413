//! Which web pages may ask (the Fetch standard, section 3.2). The allow-list is exact; who is on it may send credentials.

use carillon_platform::settings::Origins;
use carillon_proto::codes::ErrorCode;
use http::{
    HeaderMap, StatusCode,
    header::{self, HeaderValue},
};

use super::{
    Reply,
    reply::{Problem, empty},
};

/// How long a browser may remember a preflight, seconds.
const REMEMBERED_S: &str = "600";
const REQUEST_HEADERS: &str = "authorization, carillon-client, content-type, idempotency-key, last-event-id";

/// The origin that the answer names, if the request came from a page of another one.
///
/// # Errors
/// 403 for a page that is not on the list. A page of this very server needs no entry.
pub(super) fn admit(headers: &HeaderMap, origins: &Origins) -> Result<Option<HeaderValue>, Problem> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(None) };
    if is_allowed(origin, origins) {
        return Ok(Some(origin.clone()));
    }
    if is_same_origin(headers) {
        return Ok(None);
    }
    Err(not_listed())
}

/// Why a page gets nothing.
pub(crate) fn not_listed() -> Problem {
    Problem::new(ErrorCode::Forbidden, "this origin is not on the allow-list (setting `origins`)")
}

/// Whether the browser itself says that the page is this server's (Fetch Metadata, section 2.3). No page can set the header.
pub(crate) fn is_same_origin(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-site").is_some_and(|site| site == "same-origin")
}

/// Whether an `Origin` is on the list.
pub(crate) fn is_allowed(origin: &HeaderValue, origins: &Origins) -> bool {
    origin.to_str().is_ok_and(|origin| origins.allows(origin))
}

/// Lets the page read the answer.
pub(super) fn mark(reply: &mut Reply, origin: Option<HeaderValue>) {
    let headers = reply.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Retry-After"));
    }
}

/// The answer to a preflight, before [`mark`].
pub(super) fn preflight(methods: &'static str) -> Reply {
    let mut reply = empty(StatusCode::NO_CONTENT);
    let headers = reply.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(REQUEST_HEADERS));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(REMEMBERED_S));
    reply
}
