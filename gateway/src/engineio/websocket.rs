//! The WebSocket transport: packets are frames, one each. A task per socket that reads and writes as both sides allow; for one
//! that probes, the peer stays with polling until it says `5`.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use carillon_proto::codes::Close;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::timeout,
};

use super::{
    packet::{self, Outgoing},
    peer::{Over, Probed},
    request::Sid,
    server::{Application, Server, Socket},
};
use crate::websocket::codec::{self, Decoder, Event, Violation};

/// Bytes of frames that are ready to be written at once; what is more stays with the peer.
const WRITE_BYTES: usize = 64 * 1024;
/// What is read at once.
const READ_BYTES: usize = 16 * 1024;
/// How long a client may take to read what is left for it and to close its end, and how much it may still say meanwhile.
const GOODBYE: Duration = Duration::from_secs(5);
const GOODBYE_BYTES: usize = 1 << 20;

thread_local! {
    /// What any socket of this thread reads into: one that is idle owns no buffer.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Serves a socket until it ends. With an id, it is one that probes.
pub(super) async fn serve<A: Application>(server: Rc<Server<A>>, sid: Option<Sid>, upgraded: Upgraded) {
    let (socket, is_probing) = match sid {
        None => (server.open(true), false),
        Some(sid) => {
            // A peer has one WebSocket at most: another one is closed, and the peer does not mind.
            let socket = server.find(sid).ok().filter(|socket| socket.peer().borrow_mut().on_probe(socket.now_ms()));
            let Some(socket) = socket else {
                let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
                return Box::pin(say_goodbye(&mut reader, &mut writer, &[], &broken_protocol())).await;
            };
            server.settle(&socket);
            (socket, true)
        }
    };
    let (stream, decoder, partial) = (TokioIo::new(upgraded), Decoder::default(), Vec::new());
    let mut line = Line { server, socket, is_probing, stream, decoder, partial, frames: Vec::new(), written: 0, close: None };
    let is_heard = std::future::poll_fn(|cx| line.poll(cx)).await;
    line.end();
    if is_heard {
        let close = line.close.take().unwrap_or_else(|| codec::close_frame(None, ""));
        let (mut reader, mut writer) = tokio::io::split(line.stream);
        // On the heap, since it would take its memory from the start otherwise.
        Box::pin(say_goodbye(&mut reader, &mut writer, &line.frames[line.written..], &close)).await;
    }
}

struct Line<A: Application> {
    server: Rc<Server<A>>,
    socket: Socket,
    is_probing: bool,
    stream: TokioIo<Upgraded>,
    decoder: Decoder,
    /// The start of a frame whose rest has not come yet.
    partial: Vec<u8>,
    /// Frames for the client, and how much of them is on the socket already.
    frames: Vec<u8>,
    written: usize,
    /// The last frame, once it is decided.
    close: Option<Bytes>,
}

impl<A: Application> Line<A> {
    /// Writes and reads as the socket allows, until it is decided that it ends; false if it broke. Woken by the socket, and by whatever
    /// changes the peer.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.socket.wake_on_change(cx);
        loop {
            self.fill();
            if self.close.is_some() {
                return Poll::Ready(true);
            }
            if self.unwritten() > 0 {
                match Pin::new(&mut self.stream).poll_write(cx, &self.frames[self.written..]) {
                    Poll::Ready(Ok(count)) if count > 0 => {
                        self.on_written(count);
                        continue;
                    }
                    Poll::Ready(_) => return Poll::Ready(false),
                    Poll::Pending => {}
                }
            }
            if !ready!(self.poll_read(cx)) {
                return Poll::Ready(false);
            }
        }
    }

    /// Reads once; false if there is nothing more to come.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut scratch = SCRATCH.take();
        scratch.resize(READ_BYTES, 0);
        let mut read = ReadBuf::new(&mut scratch);
        let is_open = Pin::new(&mut self.stream).poll_read(cx, &mut read).map(|result| {
            let is_open = result.is_ok() && !read.filled().is_empty();
            if is_open {
                self.on_read(read.filled_mut());
            }
            is_open
        });
        SCRATCH.set(scratch);
        is_open
    }

    fn on_read(&mut self, read: &mut [u8]) {
        let (max, mut decoder) = (self.server.config().max_payload, std::mem::take(&mut self.decoder));
        let mut partial = std::mem::take(&mut self.partial);
        let bytes = if partial.is_empty() {
            read
        } else {
            partial.extend_from_slice(read);
            &mut partial[..]
        };
        match decoder.feed(bytes, max, |event| self.on_event(event)) {
            Ok(used) => self.partial = bytes[used..].to_vec(),
            Err(violation) => self.close = Some(broken_frame(violation)),
        }
        self.decoder = decoder;
    }

    /// Bytes that the socket has not taken yet.
    fn unwritten(&self) -> usize {
        self.frames.len() - self.written
    }

    /// Takes from the peer what may be written now, and learns whether it is over.
    fn fill(&mut self) {
        while !self.is_probing && self.unwritten() < WRITE_BYTES {
            let packet = self.socket.peer().borrow_mut().poll_packet();
            match packet {
                Some(packet) => push(&mut self.frames, &packet),
                None => break,
            }
        }
        self.tell_unwritten();
        if self.close.is_some() {
            return;
        }
        let over = self.socket.peer().borrow().over();
        let is_left = self.is_probing && !self.socket.peer().borrow().is_probed();
        if is_left {
            self.close = Some(codec::close_frame(None, ""));
        } else if over.is_some() && self.unwritten() < WRITE_BYTES {
            let farewell = self.socket.farewell();
            self.close = Some(match farewell {
                Some((code, reason)) => codec::close_frame(Some(code), &reason),
                None => codec::close_frame(None, ""),
            });
        }
    }

    fn on_written(&mut self, count: usize) {
        self.written += count;
        if self.unwritten() == 0 {
            (self.frames, self.written) = (Vec::new(), 0);
        }
        self.tell_unwritten();
        if !self.is_probing && self.socket.waiting_bytes() == 0 && !self.socket.is_over() {
            self.server.app().on_drained(&self.socket);
        }
    }

    fn tell_unwritten(&self) {
        if !self.is_probing {
            self.socket.set_unwritten(self.unwritten());
        }
    }

    /// False when nothing more is taken.
    fn on_event(&mut self, event: Event<'_>) -> bool {
        if !self.is_probing {
            self.server.count(&self.socket);
        }
        match event {
            Event::Text(text) => match packet::parse(text) {
                Ok(packet) if self.is_probing => self.on_probe_packet(packet),
                Ok(packet) => {
                    let text = self.socket.peer().borrow_mut().on_packet(packet, self.socket.now_ms());
                    if let Some(text) = text {
                        self.server.app().on_text(&self.socket, text);
                    }
                    self.server.settle(&self.socket);
                }
                Err(packet::Malformed) => self.violate(),
            },
            Event::Binary(bytes) if !self.is_probing => {
                self.server.app().on_binary(&self.socket, bytes);
                self.server.settle(&self.socket);
            }
            Event::Binary(_) => self.violate(),
            Event::Ping(payload) => {
                // Beyond that a client asks for more pongs than it reads.
                if self.unwritten() < WRITE_BYTES {
                    self.frames.extend_from_slice(&codec::pong_frame(payload));
                } else {
                    self.violate();
                }
            }
            Event::Pong => {}
            Event::Close(code) => self.close = Some(codec::close_frame(code, "")),
        }
        self.close.is_none() && (self.is_probing || !self.socket.is_over())
    }

    fn on_probe_packet(&mut self, packet: packet::Packet<'_>) {
        let probed = self.socket.peer().borrow_mut().on_probe_packet(packet);
        match probed {
            Probed::Answer => push(&mut self.frames, &Outgoing::fixed("3probe")),
            Probed::Upgraded => self.is_probing = false,
            Probed::Refused => self.violate(),
        }
        self.server.settle(&self.socket);
    }

    fn violate(&mut self) {
        self.close = Some(broken_protocol());
    }

    /// The socket is of no use any more.
    fn end(&mut self) {
        self.socket.wake_no_more();
        if self.is_probing {
            self.socket.peer().borrow_mut().on_probe_gone();
        } else {
            self.socket.set_unwritten(0);
            self.socket.peer().borrow_mut().end(Over::Lost, self.socket.now_ms());
        }
        self.server.settle(&self.socket);
    }
}

/// The last frame for a client whose frames break RFC 6455, or are too large.
pub(super) fn broken_frame(violation: Violation) -> Bytes {
    let why = match violation {
        Violation::Protocol => Close::WebSocketProtocol,
        Violation::NotUtf8 => Close::NotUtf8,
        Violation::TooBig => Close::TooBig,
    };
    codec::close_frame(Some(why.code()), &why.reason())
}

/// The last frame for a client that does what Engine.IO forbids.
pub(super) fn broken_protocol() -> Bytes {
    codec::close_frame(Some(Close::WebSocketProtocol.code()), "engine.io protocol error")
}

/// Appends a frame whose payload is what everyone is told and what only this client is.
pub(super) fn push(frames: &mut Vec<u8>, packet: &Outgoing) {
    match packet {
        Outgoing::Text(body, tail) => codec::append_text_frame(frames, |frames| {
            frames.extend_from_slice(body);
            frames.extend_from_slice(tail);
        }),
        Outgoing::Binary(bytes) => {
            frames.extend_from_slice(&codec::binary_header(bytes.len()));
            frames.extend_from_slice(bytes);
        }
    }
}

/// Writes what is left and the close frame, then waits for the client to go (RFC 6455, section 7.1.1).
pub(super) async fn say_goodbye(
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
    left: &[u8],
    close: &Bytes,
) {
    let goodbye = async {
        writer.write_all(left).await?;
        writer.write_all(close).await?;
        writer.flush().await?;
        writer.shutdown().await?;
        let mut scratch = [0; 512];
        let mut left = GOODBYE_BYTES;
        loop {
            match reader.read(&mut scratch).await? {
                0 => return Ok(()),
                count if count > left => return Ok(()),
                count => left -= count,
            }
        }
    };
    // Either way the socket closes now.
    let _: Result<std::io::Result<()>, _> = timeout(GOODBYE, goodbye).await;
}
