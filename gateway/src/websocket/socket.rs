//! The socket of a native client: the task that waits for it, and how it is let go. An idle one owns no buffer and no
//! timer; its task is woken by the socket, or by the shard when there is something to write that did not fit.

use std::{
    cell::RefCell,
    future::Future,
    io::ErrorKind,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use carillon_core::{outbox::Outbox, rooms::Conn};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::codec::Decoder;
use crate::{connection::Written, door::Door, shard::Shard, wire::Wire};

pub(crate) struct NativeSocket {
    pub(crate) wire: Wire,
    pub(crate) decoder: Decoder,
    /// The start of a frame whose rest has not come yet; at first, all that came behind the handshake.
    pub(crate) partial: Vec<u8>,
    /// What came behind the handshake has not been read yet: the socket will not wake anyone for it.
    has_early: bool,
    /// Milliseconds of the shard's clock, wrapping: when anything last came in, and when the last ping went out.
    pub(crate) heard_ms: u32,
    pub(crate) pinged_ms: Option<u32>,
}

impl NativeSocket {
    /// `early`: bytes that came behind the handshake.
    pub(crate) fn new(wire: Wire, early: Vec<u8>, now_ms: u64) -> Self {
        Self {
            wire,
            decoder: Decoder::default(),
            has_early: !early.is_empty(),
            partial: early,
            heard_ms: now_ms as u32,
            pinged_ms: None,
        }
    }

    /// Writes what is queued, as many frames per call as fit.
    pub(crate) fn write(&mut self, outbox: &mut Outbox) -> Written {
        while !outbox.is_empty() {
            match outbox.write_with(|pieces| self.wire.try_write_vectored(pieces)) {
                Ok(0) => return Written::Broken,
                Ok(written) => outbox.on_written(written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Written::Some,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Written::Broken,
            }
        }
        // Under TLS, what the outbox has given away may still be here.
        match self.wire.try_flush() {
            Ok(()) => Written::All,
            Err(error) if error.kind() == ErrorKind::WouldBlock => Written::Some,
            Err(_) => Written::Broken,
        }
    }
}

/// The task of a native connection. Sixteen bytes of state: everything else lives in the shard.
pub(crate) struct Serving {
    pub(crate) shard: Rc<RefCell<Shard>>,
    pub(crate) conn: Conn,
}

/// Reads in a row before others get their turn.
const READS_PER_TURN: usize = 4;

impl Future for Serving {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut shard = self.shard.borrow_mut();
        let conn = self.conn;
        for _ in 0..READS_PER_TURN {
            // Whoever closes a connection takes it out of the shard and wakes its task.
            let Some(connection) = shard.connection(conn) else { return Poll::Ready(()) };
            match &mut connection.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            write_on(&mut shard, conn, cx);
            let Some(connection) = shard.connection(conn) else { return Poll::Ready(()) };
            if !connection.is_open || connection.is_closing {
                return Poll::Pending;
            }
            let Door::Native(socket) = &mut connection.door else { return Poll::Ready(()) };
            if std::mem::take(&mut socket.has_early) {
                shard.read_early(conn);
                continue;
            }
            match socket.wire.poll_read_ready(cx) {
                Poll::Ready(Ok(())) => shard.read(conn),
                Poll::Ready(Err(_)) => shard.drop_connection(conn),
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Writes to a blocked connection whatever its socket takes. What was only taken in part has to be asked for again, since the
/// socket wakes only a task that was told to wait.
fn write_on(shard: &mut Shard, conn: Conn, cx: &mut Context<'_>) {
    while let Some(connection) = shard.connection(conn)
        && connection.is_blocked
        && let Door::Native(socket) = &mut connection.door
    {
        match socket.wire.poll_write_ready(cx) {
            Poll::Ready(Ok(())) => shard.write(conn),
            Poll::Ready(Err(_)) => shard.drop_connection(conn),
            Poll::Pending => return,
        }
    }
}

/// How long a connection that is being closed may take to read what is left for it and to close its end.
pub(crate) const GOODBYE: Duration = Duration::from_secs(5);
/// What a closing client may still send before it is cut off, bytes; all of it is thrown away.
const GOODBYE_BYTES: usize = 1 << 20;

/// Writes what is left and the close frame, then waits for the client to go (RFC 6455, section 7.1.1): closing at once could
/// reset the connection under the close frame.
pub(crate) async fn say_goodbye(mut wire: Wire, outbox: Outbox, close: Bytes) {
    let goodbye = async {
        wire.write_all(&outbox.unsent()).await?;
        wire.write_all(&close).await?;
        wire.shutdown().await?;
        let mut scratch = [0; 512];
        let mut left = GOODBYE_BYTES;
        loop {
            match wire.read(&mut scratch).await? {
                0 => return Ok(()),
                count if count > left => return Ok(()),
                count => left -= count,
            }
        }
    };
    // Either way the socket closes now; a client that broke off has nothing to be told.
    let _: Result<std::io::Result<()>, _> = timeout(GOODBYE, goodbye).await;
}
