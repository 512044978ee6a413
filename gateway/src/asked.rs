//! What requests say in ways of their own: the segments of a path, a cookie, the bodies by which a backend acts for others. Plain
//! functions of what a stranger sent, so that a fuzzer reaches them; knows nobody who asks.

use std::borrow::Cow;

use carillon_platform::{
    auth::{IssueRequest, RevokedTokens},
    settings::parse_duration,
};
use carillon_proto::frame::exceeds_depth;
use http::{HeaderMap, header};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

/// Times below are taken for Unix seconds: in milliseconds, they are of the year 1973.
const SECONDS_BELOW: u64 = 100_000_000_000;

/// The segments of a path, each decoded on its own, so that a room's name may hold a slash. `None` if one is not UTF-8.
pub fn segments(path: &str) -> Option<Vec<Cow<'_, str>>> {
    path.trim_start_matches('/').split('/').map(|segment| percent_decode_str(segment).decode_utf8().ok()).collect()
}

/// The value of a cookie (RFC 6265, section 4.2.1), without quotes around it; of the first one with this name.
pub fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let lines = headers.get_all(header::COOKIE).into_iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(its_name, _)| *its_name == name).map(|(_, value)| value.trim_matches('"'))
}

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

/// The body of `POST /tokens`, nested this deep at most.
///
/// # Errors
/// What is wrong with it, for whoever sent it.
pub fn to_issue(text: &str, depth: usize) -> Result<IssueRequest, String> {
    let ToIssue { sub, ttl, grants, info } = read(text, depth)?;
    let ttl_s = match ttl {
        Ttl::Seconds(seconds) => seconds,
        Ttl::Text(text) => parse_duration(&text).map_err(|error| format!("ttl: {error}"))?.as_secs(),
    };
    Ok(IssueRequest { sub, ttl_s, grants, info })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ToRevoke {
    jti: Option<String>,
    sub: Option<String>,
    issued_before: Option<u64>,
}

/// The body of `POST /revocations`, nested this deep at most.
///
/// # Errors
/// What is wrong with it, for whoever sent it.
pub fn to_revoke(text: &str, depth: usize) -> Result<RevokedTokens, String> {
    let ToRevoke { jti, sub, issued_before } = read(text, depth)?;
    match (jti, sub) {
        (Some(jti), None) if issued_before.is_none() => Ok(RevokedTokens::Jti(jti)),
        (None, Some(sub)) => Ok(RevokedTokens::Issued { sub, before_ms: issued_before.map(to_ms) }),
        _ => Err("name `jti`, or `sub` and maybe `issuedBefore`".to_owned()),
    }
}

fn to_ms(time: u64) -> u64 {
    if time < SECONDS_BELOW { time * 1000 } else { time }
}

/// What is wrong with it is told by place and kind; none of its text is repeated.
fn read<T: DeserializeOwned>(text: &str, depth: usize) -> Result<T, String> {
    if exceeds_depth(text.as_bytes(), depth) {
        return Err(format!("nested deeper than {depth} levels"));
    }
    serde_json::from_str(text).map_err(|error| format!("the body is not what is expected: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_decoded_apart() {
        assert_eq!(segments("/rooms/chat:1%2F%C3%A4/messages").unwrap(), ["rooms", "chat:1/ä", "messages"]);
        assert_eq!(segments("//a//").unwrap(), ["a", "", ""]);
        assert_eq!(segments("/%"), Some(vec!["%".into()]));
        assert_eq!(segments("/%ff"), None);
    }

    #[test]
    fn first_cookie_of_a_name_counts() {
        let headers =
            HeaderMap::from_iter(["a=1; token_=2", "x; token=\"3\";token=4"].map(|line| (header::COOKIE, line.parse().unwrap())));
        assert_eq!(cookie(&headers, "token"), Some("3"));
        assert_eq!(cookie(&headers, "x"), None);
    }

    #[test]
    fn times_are_seconds_or_milliseconds() {
        let before = |text: &str| match to_revoke(text, 4) {
            Ok(RevokedTokens::Issued { before_ms, .. }) => before_ms,
            other => panic!("{other:?}"),
        };
        assert_eq!(before(r#"{"sub":"a","issuedBefore":1700000000}"#), Some(1_700_000_000_000));
        assert_eq!(before(r#"{"sub":"a","issuedBefore":1700000000000}"#), Some(1_700_000_000_000));
        assert_eq!(before(r#"{"sub":"a"}"#), None);
        for text in ["{}", r#"{"jti":"a","sub":"b"}"#, r#"{"jti":"a","issuedBefore":1}"#, r#"{"sub":[[[[1]]]]}"#] {
            assert!(to_revoke(text, 4).is_err(), "{text}");
        }
    }
}
