//! A request's JSON body: how large, how slow and what it may be.

use std::time::Duration;

use carillon_proto::codes::ErrorCode;
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::{Front, reply::Problem};
use crate::upload::Upload;

/// Reads the body as text; what is in it is for the caller to judge.
///
/// # Errors
/// 415 for another media type, 413 for more than `limits.frame_bytes`, 400 for one that is not UTF-8, or that has not come
/// within `limits.handshake_ms`.
pub(super) async fn read(front: &Front, headers: &HeaderMap, body: Upload) -> Result<String, Problem> {
    if !is_json(headers) {
        let why = "send `Content-Type: application/json`";
        return Err(Problem::bad(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
    }
    let bad = |why: &'static str| Problem::new(ErrorCode::BadRequest, why);
    let limited = Limited::new(body, front.config.frame_bytes);
    let patience = Duration::from_millis(front.config.handshake_ms);
    let bytes = match tokio::time::timeout(patience, limited.collect()).await {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let why = format!("the body is larger than {} bytes (setting `limits.frame_bytes`)", front.config.frame_bytes);
            return Err(Problem::new(ErrorCode::PayloadTooLarge, why));
        }
        Ok(Err(_)) => return Err(bad("the body broke off")),
        Err(_) => return Err(bad("the body did not come in time")),
    };
    String::from_utf8(bytes.into()).map_err(|_| bad("the body is not UTF-8"))
}

/// JSON, in its only charset (RFC 8259, section 8.1).
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let (kind, parameters) = value.split_once(';').unwrap_or((value, ""));
    let charset = parameters.split(';').filter_map(|parameter| parameter.split_once('=')).find_map(|(name, value)| {
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"').to_ascii_lowercase())
    });
    kind.trim().eq_ignore_ascii_case("application/json") && charset.is_none_or(|charset| charset == "utf-8" || charset == "utf8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_json_is_json() {
        let is_json = |value: &str| is_json(&HeaderMap::from_iter([(header::CONTENT_TYPE, value.parse().unwrap())]));
        for value in ["application/json", "Application/JSON; charset=UTF-8", "application/json;charset=\"utf-8\"; x=1"] {
            assert!(is_json(value), "{value}");
        }
        for value in
            ["", "text/plain", "application/json5", "application/json; charset=latin1", "application/x-www-form-urlencoded"]
        {
            assert!(!is_json(value), "{value}");
        }
    }
}
