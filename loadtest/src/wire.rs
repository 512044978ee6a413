//! How a door says what a load says: the native frames as they are, or the same in Socket.IO's events. What comes in is given to
//! the checks as native frames, whatever it came as.

use clap::ValueEnum;

/// Which door connections use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Door {
    /// WebSocket with native frames.
    #[default]
    Native,
    /// Socket.IO over WebSocket alone, as `transports: ["websocket"]`.
    Socketio,
}

impl Door {
    /// What the upgrade asks for.
    pub(crate) fn path(self, client: &str) -> String {
        match self {
            Self::Native => format!("/ws?client={client}"),
            Self::Socketio => "/socket.io/?EIO=4&transport=websocket".into(),
        }
    }

    /// A join, or a broadcast whose `payload` is JSON text. `rest`: further fields, each behind a comma; the native door's alone.
    pub(crate) fn join(self, reference: u64, room: &str, rest: &str) -> String {
        match self {
            Self::Native => format!(r#"{{"type":"join","room":"{room}","ref":{reference}{rest}}}"#),
            Self::Socketio => format!(r#"42{reference}["join","{room}"]"#),
        }
    }

    /// Begins a broadcast; the payload's JSON text follows, and then [`Self::end_broadcast`].
    pub(crate) fn begin_broadcast(self, reference: u64, room: &str, out: &mut Vec<u8>) {
        let begun = match self {
            Self::Native => format!(r#"{{"type":"broadcast","room":"{room}","ref":{reference},"payload":"#),
            Self::Socketio => format!(r#"42{reference}["broadcast",{{"room":"{room}","payload":"#),
        };
        out.extend_from_slice(begun.as_bytes());
    }

    /// See [`Self::begin_broadcast`]. `rest`: further fields, each behind a comma.
    pub(crate) fn end_broadcast(self, rest: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(rest.as_bytes());
        out.extend_from_slice(match self {
            Self::Native => b"}".as_slice(),
            Self::Socketio => b"}]",
        });
    }

    /// Reads one text message. `token`: of whom it came to.
    pub(crate) fn read<'a>(self, text: &'a [u8], token: &str) -> Read<'a> {
        match self {
            Self::Native => Read::Frame(text),
            Self::Socketio => read_packet(text, token),
        }
    }
}

/// What a text message holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read<'a> {
    /// A native frame; behind a message more may follow, which is no part of it.
    Frame(&'a [u8]),
    /// The same, written anew.
    Written(Vec<u8>),
    /// To be answered with this text.
    Answer(String),
    Nothing,
}

/// An Engine.IO message with a Socket.IO packet in it, or a packet of Engine.IO itself.
fn read_packet<'a>(text: &'a [u8], token: &str) -> Read<'a> {
    const MESSAGE: &[u8] = br#"42["message","#;
    if let Some(frame) = text.strip_prefix(MESSAGE) {
        return Read::Frame(frame);
    }
    match text {
        [b'0', ..] => Read::Answer(format!(r#"40{{"token":"{token}"}}"#)),
        [b'2', ..] => Read::Answer("3".into()),
        [b'4', b'0', ..] => Read::Written(br#"{"type":"connected"}"#.to_vec()),
        [b'4', b'3', rest @ ..] => {
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let fields = rest[digits..].strip_prefix(b"[{").and_then(|fields| fields.strip_suffix(b"]"));
            let (Some(fields), Ok(id)) = (fields, std::str::from_utf8(&rest[..digits])) else { return Read::Nothing };
            Read::Written(answer(id, fields))
        }
        _ => Read::Nothing,
    }
}

/// The native frame with an ack's fields. An ack does not say what it answers, but only a join tells whether it recovered; bare
/// servers give the whole frame.
fn answer(id: &str, fields: &[u8]) -> Vec<u8> {
    let has = |name: &[u8]| memchr::memmem::find(fields, name).is_some();
    let (kind, fields) = match fields.strip_prefix(br#""error":{"#).and_then(|error| error.strip_suffix(b"}")) {
        Some(error) => (r#""type":"error","#, error),
        None if has(br#""type":""#) => ("", fields),
        None if has(br#""recovered":"#) => (r#""type":"joined","#, fields),
        None => (r#""type":"ack","#, fields),
    };
    [format!(r#"{{"ref":{id},{kind}"#).as_bytes(), fields].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_become_frames() {
        let read = |text: &'static str| Door::Socketio.read(text.as_bytes(), "t");
        assert_eq!(read(r#"42["message",{"type":"message"},"x"]"#), Read::Frame(br#"{"type":"message"},"x"]"#));
        let written = |frame: &str| Read::Written(frame.as_bytes().to_vec());
        assert_eq!(read(r#"4312[{"type":"ack","offset":3}]"#), written(r#"{"ref":12,"type":"ack","offset":3}"#));
        assert_eq!(read(r#"432[{"room":"a","offset":3}]"#), written(r#"{"ref":2,"type":"ack","room":"a","offset":3}"#));
        let joined = r#"{"ref":0,"type":"joined","room":"a","recovered":true}"#;
        assert_eq!(read(r#"430[{"room":"a","recovered":true}]"#), written(joined));
        let error = r#"{"ref":1,"type":"error","code":"forbidden"}"#;
        assert_eq!(read(r#"431[{"error":{"code":"forbidden"}}]"#), written(error));
        assert_eq!(read(r#"0{"sid":"x"}"#), Read::Answer(r#"40{"token":"t"}"#.into()));
        assert_eq!(read("2"), Read::Answer("3".into()));
        assert_eq!(read("41"), Read::Nothing);
    }

    #[test]
    fn a_broadcast_is_put_together() {
        let mut out = Vec::new();
        Door::Socketio.begin_broadcast(7, "a", &mut out);
        out.extend_from_slice(b"1");
        Door::Socketio.end_broadcast(r#","ephemeral":true"#, &mut out);
        assert_eq!(out, br#"427["broadcast",{"room":"a","payload":1,"ephemeral":true}]"#);
    }
}
