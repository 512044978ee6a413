//! A client of the native wire, as plain as can be: it sends the text that a test writes and keeps the text that comes, so
//! that bytes can be compared. What was said is printed when a test fails.

use std::{collections::HashMap, fmt::Display, net::SocketAddr};

use futures_util::{SinkExt, StreamExt};
use serde_json::value::RawValue;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout, timeout_at},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        self, Bytes, Message, Utf8Bytes,
        client::IntoClientRequest,
        handshake::client::Response,
        http::{HeaderName, HeaderValue},
    },
};

use crate::server::PATIENCE;

/// A connection under way: where its token is, and what else it says in its handshake.
pub(crate) struct Dial {
    address: SocketAddr,
    query: Vec<String>,
    headers: Vec<(HeaderName, HeaderValue)>,
    receive_buffer: Option<u32>,
}

impl Dial {
    pub(crate) fn to(address: SocketAddr) -> Self {
        Self { address, query: Vec::new(), headers: Vec::new(), receive_buffer: None }
    }

    /// In `Authorization`.
    pub(crate) fn token(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    /// In the subprotocol offer.
    pub(crate) fn token_offered(self, token: &str) -> Self {
        self.header("sec-websocket-protocol", format!("carillon.v1, carillon.token.{token}"))
    }

    /// In the query.
    pub(crate) fn token_asked(self, token: &str) -> Self {
        self.query("token", token)
    }

    pub(crate) fn client(self, id: &str) -> Self {
        self.query("client", id)
    }

    pub(crate) fn origin(self, origin: &str) -> Self {
        self.header("origin", origin.to_owned())
    }

    pub(crate) fn query(mut self, name: &str, value: &str) -> Self {
        self.query.push(format!("{name}={value}"));
        self
    }

    fn header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((HeaderName::from_static(name), HeaderValue::from_str(&value).unwrap()));
        self
    }

    /// The kernel keeps little for this client, so that what it doesn't read stays with the server.
    pub(crate) fn small_receive_buffer(mut self) -> Self {
        self.receive_buffer = Some(4096);
        self
    }

    /// Completes the handshake, or is told the HTTP status that refused it.
    pub(crate) async fn open(self) -> Result<(Client, Response), u16> {
        match self.try_open().await {
            Ok(opened) => Ok(opened),
            Err(tungstenite::Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("handshake: {error}"),
        }
    }

    /// A client that was let in; `None` if nobody listens, or it is told to come back.
    pub(crate) async fn attempt(self) -> Option<Client> {
        let (mut client, _) = self.try_open().await.ok()?;
        match client.event().await {
            Event::Frame(frame) if frame.kind() == "connected" => Some(client),
            _ => None,
        }
    }

    async fn try_open(self) -> Result<(Client, Response), tungstenite::Error> {
        let socket = TcpSocket::new_v4().unwrap();
        if let Some(bytes) = self.receive_buffer {
            socket.set_recv_buffer_size(bytes).unwrap();
        }
        let stream = socket.connect(self.address).await?;
        stream.set_nodelay(true)?;
        let mut request = format!("ws://{}/ws?{}", self.address, self.query.join("&")).into_client_request().unwrap();
        request.headers_mut().extend(self.headers);
        let (socket, response) = timeout(PATIENCE, client_async(request, stream)).await.expect("a handshake in time")?;
        Ok((Client { socket, transcript: Vec::new(), refs: 0, patience: None }, response))
    }

    /// A client that the server let in.
    pub(crate) async fn connected(self) -> Client {
        self.greeted().await.0
    }

    /// And what it was told.
    pub(crate) async fn greeted(self) -> (Client, Frame) {
        let (mut client, _) = self.open().await.expect("a WebSocket");
        let connected = client.expect("connected").await;
        (client, connected)
    }

    /// How the server ends a connection that it does not want.
    pub(crate) async fn turned_away(self) -> (u16, String) {
        let (mut client, _) = self.open().await.expect("a WebSocket");
        client.closed().await
    }
}

/// One connection.
pub(crate) struct Client {
    socket: WebSocketStream<TcpStream>,
    transcript: Vec<String>,
    refs: u64,
    /// How long to wait for something other than pings; counted from the first wait.
    patience: Option<Instant>,
}

/// What came in.
#[derive(Debug)]
pub(crate) enum Event {
    Frame(Frame),
    Ping,
    /// Code and reason; 1006 if the connection just broke off.
    Closed(u16, String),
}

impl Client {
    /// Sends text as it is.
    pub(crate) async fn send(&mut self, text: impl Into<String>) {
        let text: String = text.into();
        self.note("→", &text);
        self.send_message(Message::Text(text.into())).await;
    }

    /// Sends text, unless the connection is broken.
    pub(crate) async fn try_send(&mut self, text: String) -> bool {
        self.note("→", &text);
        timeout(PATIENCE, self.socket.send(Message::Text(text.into()))).await.expect("the server reads in time").is_ok()
    }

    pub(crate) async fn send_message(&mut self, message: Message) {
        self.patience = None;
        let sent = timeout(PATIENCE, self.socket.send(message)).await.expect("the server reads in time");
        sent.unwrap_or_else(|error| panic!("can't send: {error}"));
    }

    /// Sends bytes that are none of a well-behaved client's.
    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.note("→", &format!("{bytes:02x?}"));
        self.socket.get_mut().write_all(bytes).await.unwrap();
    }

    /// Sends many frames as one, so that they arrive together.
    pub(crate) async fn send_all(&mut self, texts: impl IntoIterator<Item = String>) {
        for text in texts {
            self.note("→", &text);
            self.socket.feed(Message::Text(text.into())).await.unwrap();
        }
        self.patience = None;
        timeout(PATIENCE, self.socket.flush()).await.expect("the server reads in time").unwrap();
    }

    /// The next thing that comes.
    pub(crate) async fn event(&mut self) -> Event {
        let event = self.next_event().await;
        // Pings alone keep nobody waiting: they come for as long as the connection lives.
        if !matches!(event, Event::Ping) {
            self.patience = None;
        }
        event
    }

    async fn next_event(&mut self) -> Event {
        let patience = *self.patience.get_or_insert_with(|| Instant::now() + PATIENCE);
        loop {
            let message = timeout_at(patience, self.socket.next()).await.expect("something in time");
            match message {
                Some(Ok(Message::Text(text))) => {
                    self.note("←", &text);
                    return Event::Frame(Frame::read(text));
                }
                Some(Ok(Message::Close(frame))) => {
                    let (code, reason) = frame.map_or((1005, String::new()), |it| (it.code.into(), it.reason.to_string()));
                    self.note("←", &format!("close {code} {reason}"));
                    return Event::Closed(code, reason);
                }
                Some(Ok(Message::Ping(_))) => {
                    self.note("←", "ping");
                    return Event::Ping;
                }
                Some(Ok(Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Binary(_))) => panic!("the server sent a binary frame"),
                Some(Err(error)) => {
                    self.note("←", &format!("broken off: {error}"));
                    return Event::Closed(1006, error.to_string());
                }
                None => return Event::Closed(1006, "ended".to_owned()),
            }
        }
    }

    /// The next frame, pings aside.
    pub(crate) async fn next(&mut self) -> Frame {
        loop {
            match self.event().await {
                Event::Frame(frame) => return frame,
                Event::Ping => {}
                Event::Closed(code, reason) => panic!("closed with {code} {reason}"),
            }
        }
    }

    /// The next frame, which is of this type.
    pub(crate) async fn expect(&mut self, kind: &str) -> Frame {
        let frame = self.next().await;
        assert_eq!(frame.kind(), kind, "{}", frame.raw);
        frame
    }

    /// The next frame, an error with this code.
    pub(crate) async fn expect_error(&mut self, code: &str) -> Frame {
        let frame = self.expect("error").await;
        assert_eq!(frame.text("code"), code, "{}", frame.raw);
        assert!(!frame.text("message").is_empty());
        frame
    }

    /// The close, which is the next thing that comes.
    pub(crate) async fn closed(&mut self) -> (u16, String) {
        loop {
            match self.event().await {
                Event::Frame(frame) => panic!("a frame instead of a close: {}", frame.raw),
                Event::Ping => {}
                Event::Closed(code, reason) => return (code, reason),
            }
        }
    }

    /// The frames until the close, and the close.
    pub(crate) async fn until_closed(&mut self) -> (Vec<Frame>, (u16, String)) {
        let mut frames = Vec::new();
        loop {
            match self.event().await {
                Event::Frame(frame) => frames.push(frame),
                Event::Ping => {}
                Event::Closed(code, reason) => return (frames, (code, reason)),
            }
        }
    }

    /// Nothing came but what was read: the answer to a ping is the next frame.
    pub(crate) async fn heard_nothing_else(&mut self) {
        let reference = self.next_ref();
        self.send(format!(r#"{{"type":"ping","ref":{reference}}}"#)).await;
        assert_eq!(self.expect("pong").await.number("ref"), reference);
    }

    /// Becomes a member.
    pub(crate) async fn join(&mut self, room: &str) -> Frame {
        self.join_with(room, "").await
    }

    /// Becomes a member with these options, as JSON fields.
    pub(crate) async fn join_with(&mut self, room: &str, options: &str) -> Frame {
        let reference = self.ask("join", room, options).await;
        let joined = self.expect("joined").await;
        assert_eq!((joined.number("ref"), joined.text("room").as_str()), (reference, room), "{}", joined.raw);
        joined
    }

    pub(crate) async fn leave(&mut self, room: &str) -> Frame {
        self.ask("leave", room, "").await;
        self.expect("left").await
    }

    /// Says something and waits for the ack, the next frame.
    pub(crate) async fn say(&mut self, room: &str, payload: impl Display) -> Frame {
        self.say_with(room, payload, "").await
    }

    /// Says something with these options.
    pub(crate) async fn say_with(&mut self, room: &str, payload: impl Display, options: &str) -> Frame {
        let options = if options.is_empty() { String::new() } else { format!(",{options}") };
        let reference = self.ask("broadcast", room, &format!(r#""payload":{payload}{options}"#)).await;
        let ack = self.expect("ack").await;
        assert_eq!((ack.number("ref"), ack.text("room").as_str()), (reference, room), "{}", ack.raw);
        ack
    }

    /// Says these numbers, all under way at once; their acks come in order.
    pub(crate) async fn count(&mut self, room: &str, numbers: std::ops::RangeInclusive<u64>) {
        self.say_all(room, numbers.map(|number| number.to_string()).collect()).await;
    }

    /// Says all of it, all under way at once; the acks come in order.
    pub(crate) async fn say_all(&mut self, room: &str, payloads: Vec<String>) {
        let first = self.refs + 1;
        let text = |(index, payload): (usize, &String)| {
            let reference = first + index as u64;
            format!(r#"{{"type":"broadcast","ref":{reference},"room":"{room}","payload":{payload}}}"#)
        };
        self.refs += payloads.len() as u64;
        self.send_all(payloads.iter().enumerate().map(text).collect::<Vec<_>>()).await;
        for reference in first..first + payloads.len() as u64 {
            assert_eq!(self.expect("ack").await.number("ref"), reference);
        }
    }

    /// The next frames: these messages of a room.
    pub(crate) async fn hears(&mut self, offsets: std::ops::RangeInclusive<u64>) {
        for offset in offsets {
            assert_eq!(self.expect("message").await.number("offset"), offset);
        }
    }

    /// What is stored, by `history` with these fields.
    pub(crate) async fn history(&mut self, room: &str, options: &str) -> Frame {
        let reference = self.ask("history", room, options).await;
        let history = self.expect("history").await;
        assert_eq!((history.number("ref"), history.text("room").as_str()), (reference, room), "{}", history.raw);
        history
    }

    /// Sends a frame with a `ref` of its own, and tells which.
    pub(crate) async fn ask(&mut self, kind: &str, room: &str, fields: &str) -> u64 {
        let reference = self.next_ref();
        let fields = if fields.is_empty() { String::new() } else { format!(",{fields}") };
        self.send(format!(r#"{{"type":"{kind}","ref":{reference},"room":"{room}"{fields}}}"#)).await;
        reference
    }

    /// Says goodbye and waits until the server has, too.
    pub(crate) async fn close(mut self) {
        self.send_message(Message::Close(None)).await;
        self.until_closed().await;
    }

    pub(crate) fn next_ref(&mut self) -> u64 {
        self.refs += 1;
        self.refs
    }

    fn note(&mut self, direction: &str, text: &str) {
        const ENOUGH: usize = 300;
        let end = text.char_indices().nth(ENOUGH).map_or(text.len(), |(end, _)| end);
        self.transcript.push(format!("{direction} {}", &text[..end]));
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        const LATEST: usize = 40;
        if std::thread::panicking() {
            let from = self.transcript.len().saturating_sub(LATEST);
            eprintln!("--- what a client said and heard\n{}\n---", self.transcript[from..].join("\n"));
        }
    }
}

/// A frame from the server: its text, and its fields as text.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) raw: Utf8Bytes,
    fields: HashMap<String, Box<RawValue>>,
}

impl Frame {
    fn read(raw: Utf8Bytes) -> Self {
        let fields = serde_json::from_str(&raw).unwrap_or_else(|error| panic!("not a frame: {error}: {raw}"));
        Self { raw, fields }
    }

    /// An object inside of a frame, read like one.
    fn inner(text: &str) -> Self {
        Self::read(Utf8Bytes::try_from(Bytes::copy_from_slice(text.as_bytes())).unwrap())
    }

    pub(crate) fn kind(&self) -> String {
        self.text("type")
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.fields.contains_key(name)
    }

    /// A field's bytes.
    pub(crate) fn json(&self, name: &str) -> &str {
        self.fields.get(name).unwrap_or_else(|| panic!("no {name} in {}", self.raw)).get()
    }

    pub(crate) fn text(&self, name: &str) -> String {
        serde_json::from_str(self.json(name)).unwrap_or_else(|_| panic!("{name} is no text in {}", self.raw))
    }

    pub(crate) fn number(&self, name: &str) -> u64 {
        serde_json::from_str(self.json(name)).unwrap_or_else(|_| panic!("{name} is no number in {}", self.raw))
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        serde_json::from_str(self.json(name)).unwrap_or_else(|_| panic!("{name} is no flag in {}", self.raw))
    }

    pub(crate) fn object(&self, name: &str) -> Frame {
        Self::inner(self.json(name))
    }

    pub(crate) fn objects(&self, name: &str) -> Vec<Frame> {
        let all: Vec<Box<RawValue>> = serde_json::from_str(self.json(name)).unwrap();
        all.iter().map(|one| Self::inner(one.get())).collect()
    }

    /// The names of its fields, sorted: a frame has no others.
    pub(crate) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.fields.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// The offsets of a `history` frame.
    pub(crate) fn offsets(&self) -> Vec<u64> {
        self.objects("messages").iter().map(|message| message.number("offset")).collect()
    }
}
