//! The bare server on tokio: one thread; what is queued while tasks run is written after them, one `writev` per connection.

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::poll_fn,
    io::{ErrorKind, IoSlice},
    net::SocketAddr,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use tokio::{
    net::{TcpListener, TcpStream},
    task::LocalSet,
};

use super::{
    dialect::{self, READ_BYTES, Said},
    rooms::Rooms,
};

struct Connection {
    stream: TcpStream,
    partial: Vec<u8>,
    outbox: VecDeque<Bytes>,
    /// So much of the first one is sent.
    written: usize,
    is_open: bool,
    is_dirty: bool,
    is_blocked: bool,
    waker: Option<Waker>,
}

#[derive(Default)]
struct Server {
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    rooms: Rooms,
    dirty: Vec<usize>,
    flusher: Option<Waker>,
    is_due: bool,
    scratch: Vec<u8>,
}

pub(crate) fn serve(listen: SocketAddr) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind(listen).await?;
        println!("ready listen={}", listener.local_addr()?);
        let server = Rc::new(RefCell::new(Server { scratch: vec![0; READ_BYTES * 2], ..Server::default() }));
        tokio::task::spawn_local(flush_when_due(server.clone()));
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let place = server.borrow_mut().place(stream);
            let server = server.clone();
            tokio::task::spawn_local(poll_fn(move |cx| server.borrow_mut().poll(place, cx)));
        }
    })
}

async fn flush_when_due(server: Rc<RefCell<Server>>) {
    poll_fn(|cx| {
        let mut server = server.borrow_mut();
        server.flusher = Some(cx.waker().clone());
        if std::mem::take(&mut server.is_due) {
            server.flush();
        }
        Poll::<()>::Pending
    })
    .await;
}

impl Server {
    fn place(&mut self, stream: TcpStream) -> usize {
        let connection = Connection {
            stream,
            partial: Vec::new(),
            outbox: VecDeque::new(),
            written: 0,
            is_open: false,
            is_dirty: false,
            is_blocked: false,
            waker: None,
        };
        match self.free.pop() {
            Some(place) => {
                self.connections[place] = Some(connection);
                place
            }
            None => {
                self.connections.push(Some(connection));
                self.connections.len() - 1
            }
        }
    }

    fn poll(&mut self, place: usize, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(connection) = &mut self.connections[place] else { return Poll::Ready(()) };
            match &mut connection.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            if connection.is_blocked && connection.stream.poll_write_ready(cx).is_ready() {
                self.write(place);
            }
            let Some(connection) = &mut self.connections[place] else { return Poll::Ready(()) };
            if connection.stream.poll_read_ready(cx).is_pending() {
                return Poll::Pending;
            }
            self.read(place);
        }
    }

    fn read(&mut self, place: usize) {
        let mut scratch = std::mem::take(&mut self.scratch);
        if let Some(connection) = &mut self.connections[place] {
            let kept = connection.partial.len();
            scratch[..kept].copy_from_slice(&connection.partial);
            match connection.stream.try_read(&mut scratch[kept..]) {
                Ok(count) if count > 0 => self.take(place, &mut scratch[..kept + count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                _ => self.drop_connection(place),
            }
        }
        self.scratch = scratch;
    }

    fn take(&mut self, place: usize, mut bytes: &mut [u8]) {
        let Some(connection) = &mut self.connections[place] else { return };
        if !connection.is_open
            && let Some((answer, length)) = dialect::upgrade(bytes)
        {
            connection.is_open = true;
            bytes = &mut bytes[length..];
            self.push(place, answer.into());
        }
        if self.connections[place].as_ref().is_some_and(|connection| connection.is_open) {
            while let Some((opcode, payload, length)) = dialect::take_frame(bytes) {
                match opcode {
                    0x1 => {
                        if let Ok(said) = serde_json::from_slice::<Said<'_>>(payload) {
                            self.on_said(place, &said);
                        }
                    }
                    0x8 => return self.drop_connection(place),
                    _ => {}
                }
                bytes = &mut bytes[length..];
            }
        }
        if let Some(connection) = &mut self.connections[place] {
            connection.partial = bytes.to_vec();
        }
    }

    fn on_said(&mut self, place: usize, said: &Said<'_>) {
        if said.kind == "join" {
            self.rooms.join(said.room, place);
        } else {
            let message = dialect::message(said);
            for index in 0..self.rooms.members(said.room).len() {
                let member = self.rooms.members(said.room)[index];
                self.push(member, message.clone());
            }
        }
        self.push(place, dialect::answer(said));
    }

    fn push(&mut self, place: usize, frame: Bytes) {
        let Some(connection) = &mut self.connections[place] else { return };
        connection.outbox.push_back(frame);
        if !std::mem::replace(&mut connection.is_dirty, true) {
            self.dirty.push(place);
        }
        if !std::mem::replace(&mut self.is_due, true)
            && let Some(flusher) = &self.flusher
        {
            flusher.wake_by_ref();
        }
    }

    fn flush(&mut self) {
        for place in std::mem::take(&mut self.dirty) {
            if let Some(connection) = &mut self.connections[place] {
                connection.is_dirty = false;
                if !connection.is_blocked {
                    self.write(place);
                }
            }
        }
    }

    fn write(&mut self, place: usize) {
        let Some(connection) = &mut self.connections[place] else { return };
        connection.is_blocked = false;
        while !connection.outbox.is_empty() {
            let mut pieces = [IoSlice::new(&[]); 64];
            let mut count = 0;
            for (slot, piece) in pieces.iter_mut().zip(&connection.outbox) {
                *slot = IoSlice::new(if count == 0 { &piece[connection.written..] } else { piece });
                count += 1;
            }
            match connection.stream.try_write_vectored(&pieces[..count]) {
                Ok(mut written) => {
                    written += connection.written;
                    while let Some(first) = connection.outbox.front()
                        && first.len() <= written
                    {
                        written -= first.len();
                        connection.outbox.pop_front();
                    }
                    connection.written = written;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    connection.is_blocked = true;
                    if let Some(waker) = &connection.waker {
                        waker.wake_by_ref();
                    }
                    return;
                }
                Err(_) => return self.drop_connection(place),
            }
        }
        connection.outbox = VecDeque::new();
    }

    fn drop_connection(&mut self, place: usize) {
        if let Some(connection) = self.connections[place].take() {
            self.rooms.leave_all(place);
            self.free.push(place);
            if let Some(waker) = connection.waker {
                waker.wake();
            }
        }
    }
}
