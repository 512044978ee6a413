//! One Socket.IO client as far as the protocol goes: which namespaces it is in, and packets whose attachments have not all
//! come yet. Whether it may connect, and what its events mean, is for the door.

use super::packet::{self, Body, Malformed, Packet};

/// Namespaces of one client that are asked for or open.
const MAX_NAMESPACES: usize = 8;

/// What a message amounts to.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrived<'a> {
    /// More is to come, or nothing is to be done.
    Nothing,
    /// It wants to be in a namespace: to be answered by [`Client::accept`] or [`Client::refuse`].
    Connect {
        /// Which one.
        namespace: &'a str,
        /// JSON text of an object.
        auth: &'a str,
    },
    /// It left.
    Disconnect {
        /// Which one.
        namespace: &'a str,
    },
    /// It says something in a namespace that it is in.
    Event(Event<'a>),
}

/// See [`Arrived::Event`].
#[derive(Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Where.
    pub namespace: &'a str,
    /// Digits, if it wants an acknowledgment.
    pub id: Option<&'a str>,
    /// JSON text of an array that starts with the name.
    pub arguments: &'a str,
    /// As many as its placeholders say.
    pub attachments: &'a [Vec<u8>],
}

/// See the top.
#[derive(Debug, Default)]
pub struct Client {
    namespaces: Vec<Namespace>,
    pending: Option<Pending>,
}

#[derive(Debug)]
struct Namespace {
    name: String,
    is_open: bool,
}

/// A packet that waits for its attachments.
#[derive(Debug)]
struct Pending {
    text: String,
    attachments: Vec<Vec<u8>>,
    expected: usize,
}

impl Client {
    /// A text message came in; `act` is told what it amounts to.
    ///
    /// # Errors
    /// [`Malformed`]: the connection must be closed.
    pub fn on_text<R>(&mut self, text: &str, act: impl FnOnce(Arrived<'_>) -> R) -> Result<R, Malformed> {
        if self.pending.is_some() {
            return Err(Malformed("text where attachments are due"));
        }
        let packet = packet::parse(text)?;
        let attachments = match packet.body {
            Body::Event { attachments, .. } | Body::Ack { attachments } => attachments,
            Body::Connect(_) | Body::Disconnect => 0,
        };
        if attachments > 0 {
            self.is_in(packet.namespace)?;
            self.pending = Some(Pending { text: text.to_owned(), attachments: Vec::new(), expected: attachments });
            return Ok(act(Arrived::Nothing));
        }
        Ok(act(self.on_packet(packet, &[])?))
    }

    /// A binary message came in.
    ///
    /// # Errors
    /// As [`Self::on_text`].
    pub fn on_binary<R>(&mut self, bytes: &[u8], act: impl FnOnce(Arrived<'_>) -> R) -> Result<R, Malformed> {
        let pending = self.pending.as_mut().ok_or(Malformed("an attachment of nothing"))?;
        pending.attachments.push(bytes.to_vec());
        if pending.attachments.len() < pending.expected {
            return Ok(act(Arrived::Nothing));
        }
        let whole = self.pending.take().expect("it is there");
        let packet = packet::parse(&whole.text)?;
        Ok(act(self.on_packet(packet, &whole.attachments)?))
    }

    fn on_packet<'a>(&mut self, packet: Packet<'a>, attachments: &'a [Vec<u8>]) -> Result<Arrived<'a>, Malformed> {
        let Packet { namespace, body } = packet;
        match body {
            Body::Connect(auth) => {
                if self.namespaces.iter().any(|known| known.name == namespace) {
                    return Err(Malformed("a second CONNECT"));
                }
                if self.namespaces.len() >= MAX_NAMESPACES {
                    return Err(Malformed("too many namespaces"));
                }
                self.namespaces.push(Namespace { name: namespace.to_owned(), is_open: false });
                Ok(Arrived::Connect { namespace, auth })
            }
            Body::Disconnect => {
                self.is_in(namespace)?;
                self.namespaces.retain(|known| known.name != namespace);
                Ok(Arrived::Disconnect { namespace })
            }
            Body::Event { id, arguments, .. } => {
                self.is_in(namespace)?;
                Ok(Arrived::Event(Event { namespace, id, arguments, attachments }))
            }
            Body::Ack { .. } => {
                self.is_in(namespace)?;
                Ok(Arrived::Nothing)
            }
        }
    }

    /// "If the server does not receive a CONNECT packet first, then it MUST close the connection immediately."
    fn is_in(&self, namespace: &str) -> Result<(), Malformed> {
        let is_in = self.namespaces.iter().any(|known| known.is_open && known.name == namespace);
        if is_in { Ok(()) } else { Err(Malformed("not connected to this namespace")) }
    }

    /// The namespace is open.
    pub fn accept(&mut self, namespace: &str) {
        if let Some(known) = self.namespaces.iter_mut().find(|known| known.name == namespace) {
            known.is_open = true;
        }
    }

    /// The namespace is not to be had, or not any more.
    pub fn refuse(&mut self, namespace: &str) {
        self.namespaces.retain(|known| known.name != namespace);
    }

    /// Whether it is in no namespace, and asks for none.
    pub fn is_idle(&self) -> bool {
        self.namespaces.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrived(client: &mut Client, text: &str) -> String {
        match client.on_text(text, |arrived| format!("{arrived:?}")) {
            Ok(arrived) => arrived,
            Err(Malformed(why)) => why.to_owned(),
        }
    }

    fn connected() -> Client {
        let mut client = Client::default();
        assert_eq!(arrived(&mut client, "0"), r#"Connect { namespace: "/", auth: "{}" }"#);
        client.accept("/");
        client
    }

    #[test]
    fn connect_comes_first() {
        for text in [r#"2["a"]"#, "1", "31[]", r#"51-["a"]"#] {
            assert_eq!(arrived(&mut Client::default(), text), "not connected to this namespace", "{text}");
        }
        let mut client = Client::default();
        arrived(&mut client, "0");
        assert_eq!(arrived(&mut client, r#"2["a"]"#), "not connected to this namespace", "no answer yet");
    }

    #[test]
    fn second_connect_is_refused() {
        assert_eq!(arrived(&mut connected(), "0"), "a second CONNECT");
        let mut client = connected();
        assert_eq!(arrived(&mut client, "1"), r#"Disconnect { namespace: "/" }"#);
        assert!(client.is_idle());
        assert_eq!(arrived(&mut client, "0"), r#"Connect { namespace: "/", auth: "{}" }"#);
    }

    #[test]
    fn namespaces_are_apart() {
        let mut client = connected();
        arrived(&mut client, "0/b,");
        client.refuse("/b");
        assert_eq!(arrived(&mut client, r#"2/b,["a"]"#), "not connected to this namespace");
        assert!(arrived(&mut client, r#"2["a"]"#).starts_with("Event"));
        for name in 0..7 {
            arrived(&mut client, &format!("0/{name},"));
        }
        assert_eq!(arrived(&mut client, "0/one-more,"), "too many namespaces");
    }

    #[test]
    fn attachments_follow_their_packet() {
        let mut client = connected();
        assert_eq!(arrived(&mut client, r#"52-7["a"]"#), "Nothing");
        assert_eq!(client.on_binary(&[1], |arrived| arrived == Arrived::Nothing), Ok(true));
        let event = client.on_binary(&[2], |arrived| format!("{arrived:?}")).unwrap();
        assert_eq!(event, r#"Event(Event { namespace: "/", id: Some("7"), arguments: "[\"a\"]", attachments: [[1], [2]] })"#);
        assert!(client.on_binary(&[3], |_| ()).is_err());
        let mut client = connected();
        arrived(&mut client, r#"51-["a"]"#);
        assert_eq!(arrived(&mut client, r#"2["a"]"#), "text where attachments are due");
    }
}
