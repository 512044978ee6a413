//! The body of a stream of events: hyper asks for the next block when it has room for it, and finds it in the connection's
//! outbox. A block is taken whole, its own first line and what it shares with others, so that no client sees half of one.

use std::{
    cell::RefCell,
    convert::Infallible,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes, buf::Chain};
use carillon_core::{outbox::Outbox, rooms::Conn};
use hyper::body::Frame;
use tokio::sync::oneshot;

use super::stream::{Listener, Rest};
use crate::shard::Shard;

/// A block: its own line, and what is shared.
pub(crate) type Block = Chain<Bytes, Bytes>;

pub(crate) struct EventBody {
    shard: Rc<RefCell<Shard>>,
    conn: Conn,
    rest: Rest,
    /// Tells by its end that the body is gone.
    _here: oneshot::Sender<()>,
}

/// What there is to send.
pub(crate) enum Pulled {
    /// This.
    Block(Block),
    /// Nothing yet; the task is woken when there is.
    Later,
    /// Nothing more than what the connection left.
    Over,
}

impl EventBody {
    pub(super) fn new(shard: Rc<RefCell<Shard>>, conn: Conn, Listener { rest, here }: Listener) -> Self {
        Self { shard, conn, rest, _here: here }
    }

    pub(crate) fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Block>, Infallible>>> {
        let pulled = self.shard.borrow_mut().pull(self.conn, cx);
        match pulled {
            Pulled::Block(block) => Poll::Ready(Some(Ok(Frame::data(block)))),
            Pulled::Later => Poll::Pending,
            Pulled::Over => Poll::Ready(take_block(&mut self.rest.borrow_mut()).map(|block| Ok(Frame::data(block)))),
        }
    }
}

impl Drop for EventBody {
    fn drop(&mut self) {
        // The client is gone, or the stream has ended.
        self.shard.borrow_mut().drop_connection(self.conn);
    }
}

/// The next block. It ends with an empty line; a line without one belongs to what follows it.
pub(crate) fn take_block(outbox: &mut Outbox) -> Option<Block> {
    let mut pop = || outbox.pop().map(Bytes::from);
    let first = pop()?;
    let second = if first.ends_with(b"\n\n") { Bytes::new() } else { pop().unwrap_or_default() };
    Some(first.chain(second))
}
