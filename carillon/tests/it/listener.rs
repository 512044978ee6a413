//! A client of Server-Sent Events, as plain as can be: it reads blocks as they are sent, over HTTP/1.1 or HTTP/2, and comes back
//! only when a test says so.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{HeaderMap, Request, body::Incoming, client::conn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpSocket, time::timeout};

use crate::server::{PATIENCE, Server};

/// A request for events under way.
pub(crate) struct Listen {
    address: SocketAddr,
    path: String,
    headers: Vec<(&'static str, String)>,
    is_http2: bool,
    receive_buffer: Option<u32>,
}

impl Listen {
    pub(crate) fn to(server: &Server, path: &str) -> Self {
        let (address, path) = (server.listen, path.to_owned());
        Self { address, path, headers: Vec::new(), is_http2: false, receive_buffer: None }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub(crate) fn token(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn after(self, id: &str) -> Self {
        self.header("last-event-id", id)
    }

    pub(crate) fn http2(mut self) -> Self {
        self.is_http2 = true;
        self
    }

    pub(crate) fn small_receive_buffer(mut self) -> Self {
        self.receive_buffer = Some(4096);
        self
    }

    pub(crate) async fn open(self) -> Listener {
        timeout(PATIENCE, self.answered()).await.expect("an answer in time")
    }

    async fn answered(self) -> Listener {
        let socket = TcpSocket::new_v4().unwrap();
        if let Some(bytes) = self.receive_buffer {
            socket.set_recv_buffer_size(bytes).unwrap();
        }
        let io = TokioIo::new(socket.connect(self.address).await.unwrap());
        let authority = if self.is_http2 { format!("http://{}", self.address) } else { String::new() };
        let mut request = Request::get(format!("{authority}{}", self.path)).header("host", self.address.to_string());
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let response = if self.is_http2 {
            let (mut sender, connection) = conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        } else {
            let (mut sender, connection) = conn::http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        };
        let (head, body) = response.into_parts();
        Listener { status: head.status.as_u16(), headers: head.headers, body, unread: Vec::new(), id: String::new() }
    }

    /// The status, and the `code` of the problem that it is answered with.
    pub(crate) async fn refused(self) -> (u16, String) {
        let listener = self.open().await;
        assert_eq!(listener.headers["content-type"], "application/problem+json");
        let body = listener.body.collect().await.unwrap().to_bytes();
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
        (listener.status, problem["code"].as_str().unwrap().to_owned())
    }

    /// When to come back, from an answer that ends at once.
    pub(crate) async fn sent_away(self) -> u64 {
        let mut listener = self.open().await;
        assert_eq!(listener.status, 200);
        let block = listener.next().await.expect("when to come back");
        let retry = block.lines.iter().find_map(|line| line.strip_prefix("retry: ")).expect("`retry:`").parse().unwrap();
        assert!(listener.next().await.is_none(), "it ends");
        retry
    }
}

/// An answer that goes on.
pub(crate) struct Listener {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    body: Incoming,
    unread: Vec<u8>,
    /// What the client would say in `Last-Event-ID`.
    pub(crate) id: String,
}

/// What stands between two empty lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) lines: Vec<String>,
}

impl Block {
    /// The event's type and data, as a browser would see them.
    pub(crate) fn event(&self) -> Option<(&str, String)> {
        let data: Vec<&str> = self.lines.iter().filter_map(|line| line.strip_prefix("data: ")).collect();
        let kind = self.lines.iter().find_map(|line| line.strip_prefix("event: ")).unwrap_or("message");
        (!data.is_empty()).then(|| (kind, data.join("\n")))
    }

    /// The event's data, which must be of this type.
    pub(crate) fn data(&self, kind: &str) -> serde_json::Value {
        let event = self.event().unwrap_or_else(|| panic!("no event: {self:?}"));
        assert_eq!(event.0, kind, "{self:?}");
        serde_json::from_str(&event.1).unwrap()
    }

    pub(crate) fn id(&self) -> Option<&str> {
        self.lines.iter().find_map(|line| line.strip_prefix("id: "))
    }
}

impl Listener {
    /// The next block; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Block> {
        timeout(PATIENCE, self.read()).await.expect("a block in time")
    }

    async fn read(&mut self) -> Option<Block> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.unread.drain(..end + 2).collect();
                let text = String::from_utf8(block).expect("UTF-8");
                let block = Block { lines: text.trim_end_matches('\n').split('\n').map(str::to_owned).collect() };
                if let Some(id) = block.id() {
                    self.id = id.to_owned();
                }
                return Some(block);
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.unread.extend_from_slice(frame.data_ref().expect("no trailers")),
                Some(Err(_)) => return None,
                None => {
                    assert!(self.unread.is_empty(), "half a block: {:?}", String::from_utf8_lossy(&self.unread));
                    return None;
                }
            }
        }
    }

    /// The next event, whatever blocks without one come before it.
    pub(crate) async fn event(&mut self) -> Block {
        loop {
            let block = self.next().await.expect("an event, not the end");
            if block.event().is_some() {
                return block;
            }
        }
    }

    /// The next events: these messages of a room, each with a cursor.
    pub(crate) async fn hears(&mut self, room: &str, offsets: std::ops::RangeInclusive<u64>) {
        for offset in offsets {
            let block = self.event().await;
            let frame = block.data("message");
            assert_eq!((&frame["room"], &frame["offset"]), (&room.into(), &offset.into()), "{block:?}");
            assert!(block.id().is_some_and(|id| id.len() <= 1024), "{block:?}");
        }
    }

    /// Until the client has been told where it stands before it saw anything.
    pub(crate) async fn begun(mut self) -> Self {
        assert_eq!(self.status, 200);
        loop {
            let block = self.next().await.expect("where it stands, not the end");
            if block.id().is_some() && block.event().is_none() {
                return self;
            }
        }
    }

    /// When to come back, at the end; whatever comes before it.
    pub(crate) async fn ended(mut self) -> (Vec<Block>, u64) {
        let mut blocks = Vec::new();
        while let Some(block) = self.next().await {
            blocks.push(block);
        }
        let last = blocks.pop().expect("at least when to come back");
        let retry = last.lines.first().and_then(|line| line.strip_prefix("retry: ")).unwrap_or_else(|| panic!("{last:?}"));
        (blocks, retry.parse().unwrap())
    }
}
