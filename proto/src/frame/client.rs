//! Client → server. A frame is read in two steps: the outer object into raw fields, then each field by its own
//! rule, so that an error can name the field and still carry the client's `ref`.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::{
    codes::ErrorCode,
    ids::{MAX_OFFSET, Offset, RoomName, fnv1a32},
};

/// What a client asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum ClientFrame<'a> {
    /// Become a member of a room.
    Join {
        /// Which one.
        room: RoomName,
        /// From where, and how.
        options: JoinOptions,
    },
    /// Stop being one.
    Leave {
        /// Which one.
        room: RoomName,
    },
    /// Send a message to a room.
    Broadcast {
        /// Which one.
        room: RoomName,
        /// JSON text, byte for byte as it was sent.
        payload: &'a str,
        /// Idempotency key.
        key: Option<Cow<'a, str>>,
        /// Send it to the sender too.
        echo: bool,
        /// Do not store it.
        ephemeral: bool,
    },
    /// Read what is stored.
    History {
        /// Which room.
        room: RoomName,
        /// Which part of it.
        span: Span,
        /// At most so many messages, 1–1000.
        limit: u32,
    },
    /// See who is there.
    Presence {
        /// Where.
        room: RoomName,
    },
    /// Delete what is stored. The wire has no such frame: it comes by HTTP only.
    Erase {
        /// Which room's.
        room: RoomName,
    },
    /// Go on with a newer token.
    Refresh {
        /// The new one.
        token: Cow<'a, str>,
    },
    /// Are you there?
    Ping,
}

/// Where a member starts in a room, and what it wants to be told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JoinOptions {
    /// The newest offset that the client has seen: go on after it.
    pub since: Option<Offset>,
    /// The room's life that `since` belongs to; absent: not checked.
    pub epoch: Option<EpochClaim>,
    /// So many of the newest messages first; `since` wins over it.
    pub last: Option<u32>,
    /// Tell who comes and goes.
    pub presence: bool,
    /// Send the member its own messages too.
    pub echo: bool,
}

/// Which life of a room a position belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EpochClaim {
    /// By its name.
    Named(Box<str>),
    /// By [`fnv1a32`] of its name, as a cursor says it.
    Hashed(u32),
}

impl EpochClaim {
    /// Whether it is this one.
    pub fn is(&self, epoch: &str) -> bool {
        match self {
            Self::Named(name) => **name == *epoch,
            Self::Hashed(hash) => *hash == fnv1a32(epoch.as_bytes()),
        }
    }
}

/// A part of a room's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// The oldest ones above this offset.
    After(Offset),
    /// The newest ones below this offset.
    Before(Offset),
    /// The newest ones.
    Newest,
}

/// A frame with the client's own mark for the answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Incoming<'a> {
    /// `ref` as JSON text, a string or a number, byte for byte.
    pub reference: Option<&'a str>,
    /// The frame.
    pub frame: ClientFrame<'a>,
}

/// Why a frame was refused, ready for an `error` frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadFrame {
    /// What kind of mistake.
    pub code: ErrorCode,
    /// For the client's developer.
    pub message: Cow<'static, str>,
    /// `ref` as JSON text, where it could be read.
    pub reference: Option<Box<str>>,
}

/// The most messages that `history` and `last` may ask for.
const MAX_LIMIT: u32 = 1000;
const DEFAULT_LIMIT: u32 = 50;
/// The longest idempotency key, in bytes.
pub const MAX_KEY_BYTES: usize = 64;
/// No epoch is as long: a name of ten characters, how often its log lost its tail, and a sequence.
const MAX_EPOCH_BYTES: usize = 64;

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<&'a RawValue>,
    #[serde(rename = "ref", borrow)]
    reference: Option<&'a RawValue>,
    #[serde(borrow)]
    room: Option<&'a RawValue>,
    // `null` is a payload like any other, so a plain Option would lose it.
    #[serde(borrow, default, deserialize_with = "present")]
    payload: Option<&'a RawValue>,
    #[serde(borrow)]
    key: Option<&'a RawValue>,
    #[serde(borrow)]
    echo: Option<&'a RawValue>,
    #[serde(borrow)]
    ephemeral: Option<&'a RawValue>,
    #[serde(borrow)]
    since: Option<&'a RawValue>,
    #[serde(borrow)]
    epoch: Option<&'a RawValue>,
    #[serde(borrow)]
    last: Option<&'a RawValue>,
    #[serde(borrow)]
    presence: Option<&'a RawValue>,
    #[serde(borrow)]
    before: Option<&'a RawValue>,
    #[serde(borrow)]
    after: Option<&'a RawValue>,
    #[serde(borrow)]
    limit: Option<&'a RawValue>,
    #[serde(borrow)]
    token: Option<&'a RawValue>,
}

fn present<'de: 'a, 'a, D: Deserializer<'de>>(from: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

type Problem = (ErrorCode, Cow<'static, str>);

fn bad(message: impl Into<Cow<'static, str>>) -> Problem {
    (ErrorCode::BadRequest, message.into())
}

/// Reads one text frame. `max_depth` bounds how deep a payload may nest; the frame around it is one level more.
///
/// # Errors
/// [`BadFrame`] with `bad_request`, `unknown_type` or `room_invalid`, and the client's `ref` where it could be read.
pub fn parse(text: &str, max_depth: usize) -> Result<Incoming<'_>, BadFrame> {
    let raw = outer(text).map_err(|problem| refused(problem, None))?;
    let reference = match raw.reference.map(RawValue::get) {
        Some(text) if !text.starts_with(['"', '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']) => {
            return Err(refused(bad("`ref` is a string or a number"), None));
        }
        other => other,
    };
    // Until here nothing was descended into, so that even a frame that is too deep is answered with its `ref`.
    if exceeds_depth(text.as_bytes(), max_depth + 1) {
        return Err(refused(bad(format!("nested deeper than {max_depth} levels")), reference));
    }
    let kind = text_of("type", raw.kind).and_then(|kind| kind.ok_or_else(|| bad("`type` is missing")));
    let frame = kind.and_then(|kind| read(&kind, None, &raw)).map_err(|problem| refused(problem, reference))?;
    Ok(Incoming { reference, frame })
}

/// Reads the fields of a frame whose `type` the door has said already, and its room too where `room` is given: what the text
/// says about those, and `ref`, is ignored. Otherwise as [`parse`].
///
/// # Errors
/// As [`parse`], never with a `ref`.
pub fn parse_fields<'a>(
    kind: &str,
    room: Option<&RoomName>,
    text: &'a str,
    max_depth: usize,
) -> Result<ClientFrame<'a>, BadFrame> {
    let raw = outer(text).map_err(|problem| refused(problem, None))?;
    if exceeds_depth(text.as_bytes(), max_depth + 1) {
        return Err(refused(bad(format!("nested deeper than {max_depth} levels")), None));
    }
    read(kind, room, &raw).map_err(|problem| refused(problem, None))
}

fn refused((code, message): Problem, reference: Option<&str>) -> BadFrame {
    BadFrame { code, message, reference: reference.map(Box::from) }
}

/// The outer object; nothing inside is descended into.
fn outer(text: &str) -> Result<Raw<'_>, Problem> {
    // A derived struct would take an array as well, field by field.
    if !text.trim_start_matches([' ', '\t', '\r', '\n']).starts_with('{') {
        return Err(bad("a frame is a JSON object"));
    }
    serde_json::from_str(text).map_err(|error| bad(format!("not a JSON frame: {error}")))
}

fn read<'a>(kind: &str, room: Option<&RoomName>, raw: &Raw<'a>) -> Result<ClientFrame<'a>, Problem> {
    let room = || -> Result<RoomName, Problem> {
        if let Some(room) = room {
            return Ok(room.clone());
        }
        let name = text_of("room", raw.room)?.ok_or_else(|| bad("`room` is missing"))?;
        RoomName::parse(&name).map_err(|error| (ErrorCode::RoomInvalid, format!("the room name {error}").into()))
    };
    Ok(match kind {
        "join" => ClientFrame::Join {
            room: room()?,
            options: JoinOptions {
                since: number("since", raw.since, 0, MAX_OFFSET)?,
                epoch: text_of("epoch", raw.epoch)?
                    .filter(|epoch| !epoch.is_empty())
                    // One that can be none is another one's, and not worth keeping.
                    .map(|epoch| if epoch.len() > MAX_EPOCH_BYTES { "too long".into() } else { epoch })
                    .map(|epoch| EpochClaim::Named(epoch.into_owned().into())),
                last: number("last", raw.last, 0, u64::from(MAX_LIMIT))?.map(|last| last as u32),
                presence: flag("presence", raw.presence)?,
                echo: flag("echo", raw.echo)?,
            },
        },
        "leave" => ClientFrame::Leave { room: room()? },
        "broadcast" => ClientFrame::Broadcast {
            room: room()?,
            payload: raw.payload.ok_or_else(|| bad("`payload` is missing"))?.get(),
            key: match text_of("key", raw.key)? {
                Some(key) if !(1..=MAX_KEY_BYTES).contains(&key.len()) => return Err(bad("`key` has 1 to 64 bytes")),
                other => other,
            },
            echo: flag("echo", raw.echo)?,
            ephemeral: flag("ephemeral", raw.ephemeral)?,
        },
        "history" => ClientFrame::History {
            room: room()?,
            span: span(number("before", raw.before, 1, MAX_OFFSET + 1)?, number("after", raw.after, 0, MAX_OFFSET)?)?,
            limit: number("limit", raw.limit, 1, u64::from(MAX_LIMIT))?.map_or(DEFAULT_LIMIT, |limit| limit as u32),
        },
        "presence" => ClientFrame::Presence { room: room()? },
        "refresh" => ClientFrame::Refresh { token: text_of("token", raw.token)?.ok_or_else(|| bad("`token` is missing"))? },
        "ping" => ClientFrame::Ping,
        _ => return Err((ErrorCode::UnknownType, "a frame type that this server does not know".into())),
    })
}

fn span(before: Option<u64>, after: Option<u64>) -> Result<Span, Problem> {
    match (before, after) {
        (Some(_), Some(_)) => Err(bad("`before` and `after` exclude each other")),
        (Some(before), None) => Ok(Span::Before(before)),
        (None, Some(after)) => Ok(Span::After(after)),
        (None, None) => Ok(Span::Newest),
    }
}

/// Reads a `history` whose fields stand in a query, as plain digits; an empty one is absent.
///
/// # Errors
/// `bad_request`, as in a frame.
pub fn parse_history(
    room: RoomName,
    before: Option<&str>,
    after: Option<&str>,
    limit: Option<&str>,
) -> Result<ClientFrame<'static>, BadFrame> {
    let read = || {
        let span = span(digits("before", before, 1, MAX_OFFSET + 1)?, digits("after", after, 0, MAX_OFFSET)?)?;
        let limit = digits("limit", limit, 1, u64::from(MAX_LIMIT))?.map_or(DEFAULT_LIMIT, |limit| limit as u32);
        Ok(ClientFrame::History { room, span, limit })
    };
    read().map_err(|problem| refused(problem, None))
}

fn text_of<'a>(name: &str, raw: Option<&'a RawValue>) -> Result<Option<Cow<'a, str>>, Problem> {
    let Some(raw) = raw else { return Ok(None) };
    if let Some(plain) = raw.get().strip_prefix('"').and_then(|rest| rest.strip_suffix('"'))
        && !plain.contains('\\')
    {
        return Ok(Some(plain.into()));
    }
    serde_json::from_str::<String>(raw.get()).map(|text| Some(text.into())).map_err(|_| bad(format!("`{name}` is a string")))
}

fn number(name: &str, raw: Option<&RawValue>, min: u64, max: u64) -> Result<Option<u64>, Problem> {
    digits(name, raw.map(RawValue::get), min, max)
}

fn digits(name: &str, text: Option<&str>, min: u64, max: u64) -> Result<Option<u64>, Problem> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    // `parse` would take a sign as well.
    match text.parse::<u64>() {
        Ok(_) if text.starts_with('+') => Err(bad(format!("`{name}` is a whole number from {min} to {max}"))),
        Ok(number) if (min..=max).contains(&number) => Ok(Some(number)),
        _ => Err(bad(format!("`{name}` is a whole number from {min} to {max}"))),
    }
}

fn flag(name: &str, raw: Option<&RawValue>) -> Result<bool, Problem> {
    match raw.map(RawValue::get) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(bad(format!("`{name}` is true or false"))),
    }
}

/// Whether brackets nest deeper than `max`, strings left aside. Right for every valid JSON text; what is not valid
/// is found later.
pub fn exceeds_depth(text: &[u8], max: usize) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > max {
                    return true;
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(text: &str) -> ClientFrame<'_> {
        parse(text, 64).unwrap().frame
    }

    fn refusal(text: &str) -> (ErrorCode, Option<Box<str>>) {
        let refused = parse(text, 64).unwrap_err();
        (refused.code, refused.reference)
    }

    #[test]
    fn payload_bytes_are_kept() {
        for payload in
            ["1.0", "1e400", r#""\u00e9""#, "1152921504606846976", r#"{"a":1,"a":2}"#, "null", "[ 1,\n2 ]", r#""\ud800""#]
        {
            let text = format!(r#"{{"type":"broadcast","room":"r","payload": {payload} ,"ref":1}}"#);
            let ClientFrame::Broadcast { payload: kept, .. } = frame(&text) else { panic!("not a broadcast") };
            assert_eq!(kept, payload);
        }
    }

    #[test]
    fn refs_are_echoed_as_they_came() {
        assert_eq!(parse(r#"{"type":"ping","ref":1.50}"#, 64).unwrap().reference, Some("1.50"));
        assert_eq!(parse(r#"{"type":"ping","ref":"\u0061"}"#, 64).unwrap().reference, Some(r#""\u0061""#));
        assert_eq!(parse(r#"{"type":"ping","ref":null}"#, 64).unwrap().reference, None);
        assert_eq!(refusal(r#"{"type":"ping","ref":true}"#), (ErrorCode::BadRequest, None));
        assert_eq!(refusal(r#"{"type":"nope","ref":"x"}"#), (ErrorCode::UnknownType, Some(r#""x""#.into())));
        // A frame's length is all that bounds it.
        let ping = format!(r#"{{"type":"ping","ref":"{}"}}"#, "x".repeat(60_000));
        assert_eq!(parse(&ping, 64).unwrap().reference.map(str::len), Some(60_002));
    }

    #[test]
    fn bad_frames_name_their_code() {
        for text in
            ["", "nonsense", "[]", r#"["join"]"#, "1", "{}", r#"{"type":1}"#, r#"{"type":"join"}"#, r#"{"type":"join","room":1}"#]
        {
            assert_eq!(refusal(text).0, ErrorCode::BadRequest, "{text}");
        }
        for text in [r#""since":-1"#, r#""since":1.5"#, r#""since":9007199254740992"#, r#""last":1001"#, r#""echo":1"#] {
            assert_eq!(refusal(&format!(r#"{{"type":"join","room":"r",{text}}}"#)).0, ErrorCode::BadRequest, "{text}");
        }
        for text in [r#""limit":0"#, r#""limit":1001"#, r#""before":1,"after":1"#, r#""before":0"#] {
            assert_eq!(refusal(&format!(r#"{{"type":"history","room":"r",{text}}}"#)).0, ErrorCode::BadRequest, "{text}");
        }
        assert_eq!(refusal(r#"{"type":"join","room":""}"#).0, ErrorCode::RoomInvalid);
        assert_eq!(refusal(r#"{"type":"broadcast","room":"r"}"#).0, ErrorCode::BadRequest);
        assert_eq!(refusal(r#"{"type":"broadcast","room":"r","payload":1,"key":""}"#).0, ErrorCode::BadRequest);
    }

    #[test]
    fn depth_counts_the_payload() {
        let nested =
            |depth: usize| format!(r#"{{"type":"broadcast","room":"r","payload":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
        assert!(parse(&nested(64), 64).is_ok());
        assert!(parse(&nested(65), 64).is_err());
        assert!(parse(r#"{"type":"broadcast","room":"r","payload":"[[[["}"#, 1).is_ok());
    }

    #[test]
    fn join_reads_its_options() {
        let ClientFrame::Join { room, options } =
            frame(r#"{"type":"join","room":"\u0061","since":3,"epoch":"e","last":0,"echo":true,"extra":[1]}"#)
        else {
            panic!("not a join")
        };
        assert_eq!(room.as_str(), "a");
        assert_eq!(
            options,
            JoinOptions {
                since: Some(3),
                epoch: Some(EpochClaim::Named("e".into())),
                last: Some(0),
                presence: false,
                echo: true
            }
        );
    }

    #[test]
    fn endless_epoch_is_another_one() {
        let ClientFrame::Join { options, .. } =
            frame(&format!(r#"{{"type":"join","room":"r","epoch":"{}"}}"#, "e".repeat(60_000)))
        else {
            panic!("a join");
        };
        assert_eq!(options.epoch, Some(EpochClaim::Named("too long".into())));
    }
}
