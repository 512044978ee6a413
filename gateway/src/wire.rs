//! The bytes of one client: as they are, or under TLS. It can be asked like a socket of tokio (`try_*`, `poll_*_ready`), so that a
//! connection that waits needs no task and no buffer of its own, and be handed to hyper. Knows no protocol above TLS.

use std::{
    io::{self, ErrorKind, IoSlice, Read, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustls::ServerConnection;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

pub(crate) enum Wire {
    Plain(TcpStream),
    Tls(Box<Tls>),
}

/// A socket with TLS on it. What has been encrypted and not sent yet is at most what rustls takes at once (64 KiB): nothing is
/// encrypted before the earlier has left. A connection's outbox does not count it.
pub(crate) struct Tls {
    socket: TcpStream,
    tls: ServerConnection,
    /// Decrypted and not read yet: the socket will wake nobody for it.
    readable: usize,
}

impl From<TcpStream> for Wire {
    fn from(socket: TcpStream) -> Self {
        Self::Plain(socket)
    }
}

impl Wire {
    /// After the handshake.
    pub(crate) fn tls(socket: TcpStream, mut tls: ServerConnection) -> io::Result<Self> {
        // A client may have spoken right behind its handshake.
        let readable = tls.process_new_packets().map_err(broken)?.plaintext_bytes_to_read();
        Ok(Self::Tls(Box::new(Tls { socket, tls, readable })))
    }

    /// The protocol that both agreed on in the handshake, if there was one (ALPN, RFC 7301).
    pub(crate) fn agreed(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(wire) => wire.tls.alpn_protocol(),
        }
    }

    /// `WouldBlock` when there is nothing yet, 0 at the end.
    pub(crate) fn try_read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_read(into),
            Self::Tls(wire) => wire.try_read(into),
        }
    }

    /// `WouldBlock` when nothing is taken now.
    pub(crate) fn try_write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            // The kernel does a little less for one piece.
            Self::Plain(socket) => match pieces {
                [only] => socket.try_write(only),
                _ => socket.try_write_vectored(pieces),
            },
            Self::Tls(wire) => wire.try_write_vectored(pieces),
        }
    }

    /// Sends what was taken and is still here. `WouldBlock` when that is not all of it.
    pub(crate) fn try_flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(wire) => wire.try_flush(),
        }
    }

    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => socket.poll_read_ready(cx),
            Self::Tls(wire) if wire.readable > 0 => Poll::Ready(Ok(())),
            Self::Tls(wire) => wire.socket.poll_read_ready(cx),
        }
    }

    pub(crate) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => socket.poll_write_ready(cx),
            Self::Tls(wire) => wire.socket.poll_write_ready(cx),
        }
    }
}

impl Tls {
    fn try_read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.tls.reader().read(into) {
                Ok(count) => {
                    self.readable = self.readable.saturating_sub(count);
                    return Ok(count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.receive()?,
                // It went without a word of TLS. Nothing is lost by that: every protocol above knows its own end.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) => return Err(error),
            }
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        self.tls.read_tls(&mut Socket(&self.socket))?;
        let state = self.tls.process_new_packets();
        // An alert that says what is wrong, or an answer to new keys. What does not fit now leaves with what is written next.
        match self.try_flush() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
            _ => self.readable = state.map_err(broken)?.plaintext_bytes_to_read(),
        }
        Ok(())
    }

    fn try_write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.try_flush()?;
        let taken = self.tls.writer().write_vectored(pieces)?;
        match self.try_flush() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    fn try_flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            if self.tls.write_tls(&mut Socket(&self.socket))? == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }
}

fn broken(error: rustls::Error) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}

/// As rustls wants to be given a socket.
struct Socket<'a>(&'a TcpStream);

impl Read for Socket<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(into)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Tries until it works, or the socket has to be waited for.
macro_rules! when_ready {
    ($cx:ident, $socket:expr, $poll_ready:ident, $try:expr) => {
        loop {
            match $try {
                Err(error) if error.kind() == ErrorKind::WouldBlock => ready!($socket.$poll_ready($cx))?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                done => break Poll::Ready(done),
            }
        }
    };
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, into),
            Self::Tls(wire) => {
                let room = into.initialize_unfilled();
                let read: Poll<io::Result<usize>> = when_ready!(cx, wire.socket, poll_read_ready, wire.try_read(room));
                into.advance(ready!(read)?);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, pieces),
            Self::Tls(wire) => when_ready!(cx, wire.socket, poll_write_ready, wire.try_write_vectored(pieces)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(wire) => when_ready!(cx, wire.socket, poll_write_ready, wire.try_flush()),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(wire) => {
                // Said once, however often this is asked.
                wire.tls.send_close_notify();
                let flushed: Poll<io::Result<()>> = when_ready!(cx, wire.socket, poll_write_ready, wire.try_flush());
                ready!(flushed)?;
                Pin::new(&mut wire.socket).poll_shutdown(cx)
            }
        }
    }
}
