//! The WebSocket transport: packets are frames, one each. A task per socket that reads and writes as both sides allow; for one
//! that probes, the peer stays with polling until it says `5`.

use std::{io::IoSlice, rc::Rc, time::Duration};

use bytes::Bytes;
use carillon_core::outbox::Outbox;
use carillon_proto::codes::Close;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
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
/// Pieces per write.
const PIECES: usize = 64;
/// What is read at once, beside the rest of a frame.
const READ_BYTES: usize = 4 * 1024;
/// How long a client may take to read what is left for it and to close its end, and how much it may still say meanwhile.
const GOODBYE: Duration = Duration::from_secs(5);
const GOODBYE_BYTES: usize = 1 << 20;

/// Serves a socket until it ends. With an id, it is one that probes.
pub(super) async fn serve<A: Application>(server: Rc<Server<A>>, sid: Option<Sid>, upgraded: Upgraded) {
    let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
    let (socket, is_probing) = match sid {
        None => (server.open(true), false),
        Some(sid) => {
            // A peer has one WebSocket at most: another one is closed, and the peer does not mind.
            let socket = server.find(sid).ok().filter(|socket| socket.peer().borrow_mut().on_probe(socket.now_ms()));
            let Some(socket) = socket else {
                return say_goodbye(&mut reader, &mut writer, &Outbox::default(), &broken_protocol()).await;
            };
            server.settle(&socket);
            (socket, true)
        }
    };
    let mut line = Line { server, socket, is_probing, outbox: Outbox::default(), close: None };
    let is_heard = line.run(&mut reader, &mut writer).await;
    line.end();
    if is_heard {
        let close = line.close.take().unwrap_or_else(|| codec::close_frame(None, ""));
        say_goodbye(&mut reader, &mut writer, &line.outbox, &close).await;
    }
}

struct Line<A: Application> {
    server: Rc<Server<A>>,
    socket: Socket,
    is_probing: bool,
    outbox: Outbox<Bytes>,
    /// The last frame, once it is decided.
    close: Option<Bytes>,
}

impl<A: Application> Line<A> {
    /// False if the socket broke.
    async fn run(&mut self, reader: &mut (impl AsyncRead + Unpin), writer: &mut (impl AsyncWrite + Unpin)) -> bool {
        let (mut decoder, mut waiting) = (Decoder::default(), Vec::new());
        let max = self.server.config().max_payload;
        loop {
            self.fill();
            if self.close.is_some() {
                return true;
            }
            waiting.reserve(READ_BYTES);
            tokio::select! {
                written = write(writer, &self.outbox), if !self.outbox.is_empty() => match written {
                    Ok(count) if count > 0 => self.on_written(count),
                    _ => return false,
                },
                read = reader.read_buf(&mut waiting) => {
                    if !matches!(read, Ok(1..)) {
                        return false;
                    }
                    match decoder.feed(&mut waiting, max, |event| self.on_event(event)) {
                        Ok(used) => drop(waiting.drain(..used)),
                        Err(violation) => self.close = Some(broken_frame(violation)),
                    }
                    if waiting.is_empty() {
                        waiting = Vec::new();
                    }
                }
                () = self.socket.carried() => {}
            }
        }
    }

    /// Takes from the peer what may be written now, and learns whether it is over.
    fn fill(&mut self) {
        while !self.is_probing && self.outbox.bytes() < WRITE_BYTES {
            let packet = self.socket.peer().borrow_mut().poll_packet();
            match packet {
                Some(packet) => push(&mut self.outbox, packet),
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
        } else if over.is_some() && self.outbox.bytes() < WRITE_BYTES {
            let farewell = self.socket.farewell();
            self.close = Some(match farewell {
                Some((code, reason)) => codec::close_frame(Some(code), &reason),
                None => codec::close_frame(None, ""),
            });
        }
    }

    fn on_written(&mut self, count: usize) {
        self.outbox.on_written(count);
        self.tell_unwritten();
        if !self.is_probing && self.socket.waiting_bytes() == 0 && !self.socket.is_over() {
            self.server.app().on_drained(&self.socket);
        }
    }

    fn tell_unwritten(&self) {
        if !self.is_probing {
            self.socket.set_unwritten(self.outbox.bytes());
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
                if self.outbox.push(codec::pong_frame(payload), WRITE_BYTES).is_err() {
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
            Probed::Answer => push(&mut self.outbox, Outgoing::fixed("3probe")),
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

/// A frame whose payload is what everyone is told and what only this client is: the header is its own, the rest is not
/// copied.
pub(super) fn push(outbox: &mut Outbox<Bytes>, packet: Outgoing) {
    let mut push = |chunk: Bytes| {
        if !chunk.is_empty() {
            outbox.push(chunk, usize::MAX).expect("nothing is over no limit");
        }
    };
    match packet {
        Outgoing::Text(body, tail) => {
            push(codec::text_header(body.len() + tail.len()));
            push(body);
            push(tail);
        }
        Outgoing::Binary(bytes) => {
            push(codec::binary_header(bytes.len()));
            push(bytes);
        }
    }
}

async fn write(writer: &mut (impl AsyncWrite + Unpin), outbox: &Outbox<Bytes>) -> std::io::Result<usize> {
    let mut pieces = [IoSlice::new(&[]); PIECES];
    let mut count = 0;
    for (slot, piece) in pieces.iter_mut().zip(outbox.pieces()) {
        *slot = IoSlice::new(piece);
        count += 1;
    }
    writer.write_vectored(&pieces[..count]).await
}

/// Writes what is left and the close frame, then waits for the client to go (RFC 6455, section 7.1.1).
pub(super) async fn say_goodbye(
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
    outbox: &Outbox<Bytes>,
    close: &Bytes,
) {
    let goodbye = async {
        for piece in outbox.pieces() {
            writer.write_all(piece).await?;
        }
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
