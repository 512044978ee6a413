//! A client's WebSocket with next to nothing around it: thousands of them share a thread with the checks. Frames are read into
//! one buffer per thread; a socket only keeps the start of a frame that has not come whole (RFC 6455, sections 5.2 and 5.5).

use std::{
    cell::RefCell,
    io,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::{
    target::Target,
    wire::{Door, Read},
};

/// An open connection.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    door: Door,
    token: Rc<str>,
    partial: Vec<u8>,
    out: Vec<u8>,
    /// So much of `out` is sent.
    sent: usize,
    /// What was read before there was a reader: the answer to Socket.IO's CONNECT.
    answer: Option<Vec<u8>>,
}

/// What a server sent, without the bytes of messages: those go to the reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Messages, pings, or a part of them.
    Something,
    /// A close frame: its code (1005 for none), its reason.
    Close(u16, String),
    /// The end, without one.
    Gone,
}

/// How long a connection may take to open.
const PATIENCE: Duration = Duration::from_secs(20);
const HEAD_BYTES: usize = 8 * 1024;
const SCRATCH_BYTES: usize = 256 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH_BYTES]);
}

impl Socket {
    /// Connects and upgrades. `from`: the local address, for more connections than one has ports.
    pub(crate) async fn open(target: &Target, token: &Rc<str>, client: &str, from: Option<Ipv4Addr>) -> io::Result<Self> {
        timeout(PATIENCE, Self::upgrade(target, token, client, from)).await.map_err(|_| io::ErrorKind::TimedOut)?
    }

    async fn upgrade(target: &Target, token: &Rc<str>, client: &str, from: Option<Ipv4Addr>) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        if let Some(from) = from {
            socket.bind(SocketAddr::from((from, 0)))?;
        }
        let mut stream = socket.connect(target.address).await?;
        stream.set_nodelay(true)?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: carillon.v1\r\nAuthorization: Bearer {token}\r\n\r\n",
            target.door.path(client),
            target.host
        );
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::with_capacity(512);
        let end = loop {
            if stream.read_buf(&mut head).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(end) = memchr::memmem::find(&head, b"\r\n\r\n") {
                break end + 4;
            }
            if head.len() > HEAD_BYTES {
                return Err(io::Error::other("an endless answer"));
            }
        };
        if !head.starts_with(b"HTTP/1.1 101") {
            let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
            return Err(io::Error::other(String::from_utf8_lossy(line).into_owned()));
        }
        let mut partial = Vec::new();
        partial.extend_from_slice(&head[end..]);
        let token = token.clone();
        let mut socket = Self { stream, door: target.door, token, partial, out: Vec::new(), sent: 0, answer: None };
        if target.door == Door::Socketio {
            // CONNECT follows the transport's handshake, and nothing may be said before it is answered.
            let mut answer = None;
            while answer.is_none() {
                if socket.read(|frame| answer = Some(frame.to_vec())).await != Heard::Something {
                    return Err(io::Error::other("no Socket.IO handshake"));
                }
            }
            socket.answer = answer;
        }
        Ok(socket)
    }

    /// Queues a text frame. A client must mask (section 5.3); the key is zero, which leaves the bytes as they are.
    pub(crate) fn queue(&mut self, text: &[u8]) {
        self.queue_frame(0x81, text);
    }

    fn queue_frame(&mut self, first: u8, payload: &[u8]) {
        self.out.push(first);
        match payload.len() {
            length @ 0..=125 => self.out.push(0x80 | length as u8),
            length @ 126..=0xffff => {
                self.out.push(0x80 | 126);
                self.out.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                self.out.push(0x80 | 127);
                self.out.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        self.out.extend_from_slice(&[0; 4]);
        self.out.extend_from_slice(payload);
    }

    /// Sends what is queued. Cancel-safe.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        while self.sent < self.out.len() {
            self.sent += self.stream.write(&self.out[self.sent..]).await?;
        }
        // An idle connection keeps no buffer.
        (self.out, self.sent) = (Vec::new(), 0);
        Ok(())
    }

    /// Waits for bytes, and gives each whole text frame among them to `reader`. Cancel-safe.
    pub(crate) async fn read(&mut self, mut reader: impl FnMut(&[u8])) -> Heard {
        if let Some(answer) = self.answer.take() {
            reader(&answer);
            return Heard::Something;
        }
        loop {
            if let Some(heard) = self.take_early(&mut reader) {
                return heard;
            }
            // Pongs of the last time: nothing is awaited between taking bytes and giving them on.
            if !self.out.is_empty() && self.flush().await.is_err() {
                return Heard::Gone;
            }
            if self.stream.readable().await.is_err() {
                return Heard::Gone;
            }
            let heard = SCRATCH.with_borrow_mut(|scratch| {
                let kept = self.partial.len();
                if scratch.len() < kept * 2 {
                    scratch.resize(kept * 2, 0);
                }
                scratch[..kept].copy_from_slice(&self.partial);
                match self.stream.try_read(&mut scratch[kept..]) {
                    Ok(0) => Some(Heard::Gone),
                    Ok(count) => Some(self.take(&scratch[..kept + count], &mut reader)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
                    Err(_) => Some(Heard::Gone),
                }
            });
            if let Some(heard) = heard {
                return heard;
            }
        }
    }

    /// Frames that came behind the handshake.
    fn take_early(&mut self, reader: &mut impl FnMut(&[u8])) -> Option<Heard> {
        frame(&self.partial)?;
        let early = std::mem::take(&mut self.partial);
        Some(self.take(&early, reader))
    }

    fn take(&mut self, mut bytes: &[u8], reader: &mut impl FnMut(&[u8])) -> Heard {
        let mut heard = Heard::Something;
        while let Some((first, payload, rest)) = frame(bytes) {
            match first & 0x0f {
                0x1 => match self.door.read(payload, &self.token) {
                    Read::Frame(frame) => reader(frame),
                    Read::Written(frame) => reader(&frame),
                    Read::Answer(text) => self.queue(text.as_bytes()),
                    Read::Nothing => {}
                },
                0x8 => {
                    let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                    heard = Heard::Close(code, String::from_utf8_lossy(payload.get(2..).unwrap_or_default()).into_owned());
                }
                0x9 => self.queue_frame(0x8a, payload),
                _ => {}
            }
            bytes = rest;
        }
        self.partial.clear();
        self.partial.extend_from_slice(bytes);
        if self.partial.is_empty() {
            self.partial = Vec::new();
        }
        heard
    }
}

/// The first whole frame: its first byte, its payload, what follows. Servers don't mask.
fn frame(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let (start, length) = match second & 0x7f {
        126 => (4, u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?) as usize),
        127 => (10, u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?) as usize),
        length => (2, length as usize),
    };
    let payload = bytes.get(start..start + length)?;
    Some((first, payload, &bytes[start + length..]))
}
