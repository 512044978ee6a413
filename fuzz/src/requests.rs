//! A request of HTTP as it may come to any door: its query, its headers, its body. The text is a query, lines of headers up to an
//! empty one, and a body. Nothing may panic; what is understood means what it says, and nothing larger.

use carillon_gateway::{
    asked,
    engineio::request::{self, Sid},
    websocket::handshake,
};
use carillon_platform::auth::RevokedTokens;
use carillon_proto::{
    frame::{ClientFrame, exceeds_depth, parse, parse_fields, parse_history},
    ids::{ClientId, RoomName},
};
use http::Request;

/// Small, so that short inputs reach it.
const DEPTH: usize = 4;

pub(crate) fn run(bytes: &[u8]) {
    let end = bytes.windows(2).position(|two| two == b"\n\n");
    let (head, body) = end.map_or((bytes, &b""[..]), |end| (&bytes[..end], &bytes[end + 2..]));
    if let Some(request) = read(head) {
        asked(&request);
    }
    if let Ok(text) = std::str::from_utf8(body) {
        fields(text);
        for_others(text);
        path(text);
    }
}

fn read(head: &[u8]) -> Option<Request<()>> {
    let mut lines = head.split(|byte| *byte == b'\n');
    let query = lines.next().unwrap_or_default();
    let mut request = Request::get([b"/x?", query].concat().as_slice());
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        request = request.header(&line[..colon], &line[colon + 1..]);
    }
    request.body(()).ok()
}

fn asked(request: &Request<()>) {
    let bytes = |name: &str| request.headers().get_all(name).iter().map(|value| value.len()).sum::<usize>();
    let query = request.uri().query().unwrap_or_default();
    if let Ok(asked) = handshake::read(request) {
        assert_eq!(asked.accept.len(), 28, "20 bytes in base64");
        assert!(asked.client.is_none_or(|client| ClientId::parse(client.as_str()).is_ok()));
        let most = 3 * query.len() + bytes("authorization") + bytes("sec-websocket-protocol");
        assert!(asked.token.is_none_or(|token| token.len() <= most));
    }
    if let Some(cookie) = asked::cookie(request.headers(), "carillon_token") {
        assert!(cookie.len() < bytes("cookie") && !cookie.contains(';') && !cookie.starts_with('"'));
    }
    if let Ok(request::Asked { sid: Some(sid), .. }) = request::read(request) {
        assert_eq!(Sid::parse(&sid.to_string()), Some(sid));
    }
    let mut numbers = query.split('&').map(Some).chain([None, None, None]);
    let room = RoomName::parse("a").expect("legal");
    let (before, after, limit) = (numbers.next().flatten(), numbers.next().flatten(), numbers.next().flatten());
    for (before, after) in [(before, after), (before, None), (None, after)] {
        if let Ok(frame) = parse_history(room.clone(), before, after, limit) {
            let ClientFrame::History { limit, .. } = frame else { panic!("another frame") };
            assert!((1..=1000).contains(&limit));
        }
    }
}

/// What a backend asks for others.
fn for_others(text: &str) {
    if let Ok(issue) = asked::to_issue(text, DEPTH) {
        assert!(issue.sub.len() <= text.len() && !exceeds_depth(text.as_bytes(), DEPTH));
    }
    if let Ok(RevokedTokens::Issued { before_ms: Some(before_ms), .. }) = asked::to_revoke(text, DEPTH) {
        assert!(before_ms == 0 || text.contains(|c: char| c.is_ascii_digit()));
    }
}

/// A path: as many segments as there are slashes between them, and what is decoded is never longer than what it was.
fn path(text: &str) {
    let Some(segments) = asked::segments(text) else { return };
    assert_eq!(segments.len(), text.trim_start_matches('/').split('/').count());
    assert!(segments.iter().map(|segment| segment.len()).sum::<usize>() <= text.len());
    for segment in &segments {
        if let Ok(room) = RoomName::parse(segment) {
            assert_eq!(room.as_str(), segment);
        }
    }
}

/// A body, and the arguments of an event.
fn fields(text: &str) {
    let room = RoomName::parse("a").expect("legal");
    for kind in ["join", "leave", "broadcast", "history", "presence", "refresh", "ping", text] {
        for room in [Some(&room), None] {
            let Ok(frame) = parse_fields(kind, room, text, DEPTH) else { continue };
            assert!(!exceeds_depth(text.as_bytes(), DEPTH + 1));
            if let ClientFrame::Broadcast { payload, .. } = frame {
                assert!(text.contains(payload) && !exceeds_depth(payload.as_bytes(), DEPTH));
                serde_json::from_str::<&serde_json::value::RawValue>(payload).expect("it is JSON");
            }
        }
    }
    let _ = parse(text, DEPTH);
}
