//! Socket.IO packets as text (Socket.IO protocol, "Packet encoding"). Arguments stay the JSON text that they came as: who
//! acts on them reads them. Knows no connection.

use serde_json::value::RawValue;

/// Binary attachments per packet: the reference server's limit is none of the protocol's, so one is needed here.
pub const MAX_ATTACHMENTS: usize = 16;
/// Digits of an acknowledgment's id: clients count, and JavaScript counts to 2^53.
const MAX_ID_DIGITS: usize = 16;

/// What a client says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// `/` or `/<name>`.
    pub namespace: &'a str,
    /// What it is about.
    pub body: Body<'a>,
}

/// See [`Packet`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body<'a> {
    /// `0`: JSON text of an object; `{}` if there was none.
    Connect(&'a str),
    /// `1`
    Disconnect,
    /// `2` and `5`
    Event {
        /// Digits: the client wants an acknowledgment.
        id: Option<&'a str>,
        /// JSON text of an array that starts with the event's name.
        arguments: &'a str,
        /// So many binary messages follow.
        attachments: usize,
    },
    /// `3` and `6`: nobody here asked for one.
    Ack {
        /// So many binary messages follow.
        attachments: usize,
    },
}

/// Not a packet: the connection must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Names that the library uses for itself.
const RESERVED: [&str; 6] = ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"];

/// Reads a packet, as it stands in a text message.
///
/// # Errors
/// [`Malformed`], also for what only servers say.
pub fn parse(text: &str) -> Result<Packet<'_>, Malformed> {
    let kind = *text.as_bytes().first().ok_or(Malformed("an empty packet"))?;
    if !matches!(kind, b'0'..=b'3' | b'5' | b'6') {
        return Err(Malformed("not a packet that clients send"));
    }
    let mut rest = &text[1..];
    let mut attachments = 0;
    if matches!(kind, b'5' | b'6') {
        let (count, behind) = digits(rest);
        rest = behind.strip_prefix('-').ok_or(Malformed("no number of attachments"))?;
        attachments = count.parse().ok().filter(|count| *count <= MAX_ATTACHMENTS).ok_or(Malformed("too many attachments"))?;
    }
    let mut namespace = "/";
    if rest.starts_with('/') {
        (namespace, rest) = rest.split_once(',').unwrap_or((rest, ""));
    }
    let (id, rest) = digits(rest);
    if id.len() > MAX_ID_DIGITS {
        return Err(Malformed("an id that nobody counts to"));
    }
    let id = (!id.is_empty()).then_some(id);
    let body = match kind {
        b'0' if rest.is_empty() => Body::Connect("{}"),
        b'0' => Body::Connect(object(rest)?),
        b'1' if rest.is_empty() => Body::Disconnect,
        b'1' => return Err(Malformed("a DISCONNECT says nothing more")),
        b'2' | b'5' => Body::Event { id, arguments: event(rest)?, attachments },
        _ => {
            array(rest)?;
            id.ok_or(Malformed("an ACK without id"))?;
            Body::Ack { attachments }
        }
    };
    Ok(Packet { namespace, body })
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

fn object(text: &str) -> Result<&str, Malformed> {
    // Without the white space around it.
    let value = serde_json::from_str::<&RawValue>(text).map(RawValue::get);
    value.ok().filter(|value| value.starts_with('{')).ok_or(Malformed("a CONNECT carries an object"))
}

fn array(text: &str) -> Result<Vec<&RawValue>, Malformed> {
    serde_json::from_str(text).map_err(|_| Malformed("arguments are an array"))
}

/// "The payload is mandatory and MUST be a non-empty array."
fn event(text: &str) -> Result<&str, Malformed> {
    let arguments = array(text)?;
    let name = arguments.first().ok_or(Malformed("an event has a name"))?.get();
    let name: String = serde_json::from_str(name).map_err(|_| Malformed("an event's name is a string"))?;
    if RESERVED.contains(&&*name) {
        return Err(Malformed("a name that the library uses for itself"));
    }
    Ok(text)
}

/// The name and the arguments of an event that [`parse`] has let through.
pub fn arguments(text: &str) -> (String, Vec<&RawValue>) {
    let mut arguments = array(text).unwrap_or_default();
    let name = if arguments.is_empty() { None } else { serde_json::from_str(arguments.remove(0).get()).ok() };
    (name.unwrap_or_default(), arguments)
}

/// Starts a text message of the Engine.IO kind: `4`, the type, and the namespace unless it is the main one.
fn begin(kind: &str, namespace: &str) -> String {
    let mut text = format!("4{kind}");
    if namespace != "/" {
        text.push_str(namespace);
        text.push(',');
    }
    text
}

/// CONNECT: the client is in. `pid` is set where its state can be recovered.
pub fn connect(namespace: &str, sid: &str, pid: Option<&str>) -> String {
    let mut text = begin("0", namespace);
    text.push_str(r#"{"sid":""#);
    text.push_str(sid);
    if let Some(pid) = pid {
        text.push_str(r#"","pid":""#);
        text.push_str(pid);
    }
    text.push_str("\"}");
    text
}

/// CONNECT_ERROR; the message needs no escapes.
pub fn connect_error(namespace: &str, message: &str) -> String {
    begin("4", namespace) + r#"{"message":""# + message + "\"}"
}

/// DISCONNECT
pub fn disconnect(namespace: &str) -> String {
    begin("1", namespace)
}

/// EVENT, or BINARY_EVENT if attachments follow. `arguments` is JSON text of an array that starts with the name.
pub fn event_of(namespace: &str, arguments: &str, attachments: usize) -> String {
    match attachments {
        0 => begin("2", namespace) + arguments,
        count => begin(&format!("5{count}-"), namespace) + arguments,
    }
}

/// ACK, or BINARY_ACK if attachments follow. `arguments` is JSON text of an array.
pub fn ack(namespace: &str, id: &str, arguments: &str, attachments: usize) -> String {
    match attachments {
        0 => begin("3", namespace) + id + arguments,
        count => begin(&format!("6{count}-"), namespace) + id + arguments,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Packet<'_>> {
        parse(text).ok()
    }

    #[test]
    fn examples_of_the_protocol_document_are_read() {
        let packet = |namespace, body| Some(Packet { namespace, body });
        let event = |id, arguments, attachments| Body::Event { id, arguments, attachments };
        assert_eq!(read("0"), packet("/", Body::Connect("{}")));
        assert_eq!(read("0/admin,"), packet("/admin", Body::Connect("{}")));
        assert_eq!(read("0/admin"), packet("/admin", Body::Connect("{}")));
        assert_eq!(read(r#"0/admin,{"token":"123"}"#), packet("/admin", Body::Connect(r#"{"token":"123"}"#)));
        assert_eq!(read(r#"2["foo"]"#), packet("/", event(None, r#"["foo"]"#, 0)));
        assert_eq!(read(r#"2/admin,["bar"]"#), packet("/admin", event(None, r#"["bar"]"#, 0)));
        assert_eq!(read(r#"212["foo"]"#), packet("/", event(Some("12"), r#"["foo"]"#, 0)));
        assert_eq!(read(r#"3/admin,13["bar"]"#), packet("/admin", Body::Ack { attachments: 0 }));
        let binary = r#"["baz",{"_placeholder":true,"num":0}]"#;
        assert_eq!(read(&format!("51-{binary}")), packet("/", event(None, binary, 1)));
        assert_eq!(read(&format!("52-/admin,14{binary}")), packet("/admin", event(Some("14"), binary, 2)));
        assert_eq!(read(r#"61-15["bar",{"_placeholder":true,"num":0}]"#), packet("/", Body::Ack { attachments: 1 }));
        assert_eq!(read("1"), packet("/", Body::Disconnect));
        assert_eq!(read("1/admin,"), packet("/admin", Body::Disconnect));
    }

    #[test]
    fn what_is_no_packet_is_told_apart() {
        let cases = [
            "",
            "abc",
            "7",
            "4",
            r#"4{"message":"x"}"#,
            r#"0"text""#,
            "0[]",
            "0{",
            "0{}x",
            "1[]",
            "2",
            "2[]",
            "2{}",
            "2[1]",
            r#"2["a""#,
            r#"2["connect"]"#,
            r#"2["a"]x"#,
            r#"3["a"]"#,
            "312",
            r#"312{"a":1}"#,
            r#"5["a"]"#,
            r#"5-["a"]"#,
            r#"517-["a"]"#,
            r#"599999999999999999999-["a"]"#,
            r#"212345678901234567["a"]"#,
            "é",
        ];
        for text in cases {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn names_may_be_escaped() {
        let (name, arguments) = arguments(r#"["chat\u003ajoin", 1 ,{"a":1.0}]"#);
        assert_eq!(name, "chat:join");
        assert_eq!(arguments.iter().map(|it| it.get()).collect::<Vec<_>>(), ["1", r#"{"a":1.0}"#]);
        assert_eq!(read(r#"2["\u0063onnect"]"#), None);
    }

    #[test]
    fn server_packets_are_written_as_documented() {
        assert_eq!(connect("/", "a", None), r#"40{"sid":"a"}"#);
        assert_eq!(connect("/admin", "a", Some("p")), r#"40/admin,{"sid":"a","pid":"p"}"#);
        assert_eq!(connect_error("/random", "Invalid namespace"), r#"44/random,{"message":"Invalid namespace"}"#);
        assert_eq!(disconnect("/"), "41");
        assert_eq!(disconnect("/admin"), "41/admin,");
        assert_eq!(event_of("/", r#"["a"]"#, 0), r#"42["a"]"#);
        assert_eq!(event_of("/admin", r#"["a"]"#, 2), r#"452-/admin,["a"]"#);
        assert_eq!(ack("/admin", "13", "[]", 0), "43/admin,13[]");
        assert_eq!(ack("/", "15", r#"["bar"]"#, 1), r#"461-15["bar"]"#);
    }
}
