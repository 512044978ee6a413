//! The bare server on epoll: one thread, no runtime, one write per message and member.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read as _, Write as _},
    net::SocketAddr,
};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};

use super::{
    dialect::{self, READ_BYTES, Said},
    rooms::Rooms,
};

struct Connection {
    stream: TcpStream,
    partial: Vec<u8>,
    /// What the socket did not take.
    waiting: Vec<u8>,
    is_open: bool,
}

const LISTENER: Token = Token(usize::MAX);

pub(crate) fn serve(listen: SocketAddr) -> anyhow::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(listen)?;
    println!("ready listen={}", listener.local_addr()?);
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut server = Server { connections: HashMap::new(), rooms: Rooms::default(), scratch: vec![0; READ_BYTES * 2] };
    let mut events = Events::with_capacity(1024);
    let mut next = 0;
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    stream.set_nodelay(true)?;
                    poll.registry().register(&mut stream, Token(next), Interest::READABLE | Interest::WRITABLE)?;
                    let connection = Connection { stream, partial: Vec::new(), waiting: Vec::new(), is_open: false };
                    server.connections.insert(next, connection);
                    next += 1;
                }
                continue;
            }
            let place = event.token().0;
            if event.is_writable() {
                server.write(place, &[]);
            }
            if event.is_readable() {
                while server.read(place) {}
            }
        }
    }
}

struct Server {
    connections: HashMap<usize, Connection>,
    rooms: Rooms,
    scratch: Vec<u8>,
}

impl Server {
    /// False if there is nothing left to read.
    fn read(&mut self, place: usize) -> bool {
        let Some(connection) = self.connections.get_mut(&place) else { return false };
        let mut scratch = std::mem::take(&mut self.scratch);
        let kept = connection.partial.len();
        scratch[..kept].copy_from_slice(&connection.partial);
        let goes_on = match connection.stream.read(&mut scratch[kept..]) {
            Ok(count) if count > 0 => self.take(place, &mut scratch[..kept + count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            _ => self.drop_connection(place),
        };
        self.scratch = scratch;
        goes_on
    }

    fn take(&mut self, place: usize, mut bytes: &mut [u8]) -> bool {
        let Some(connection) = self.connections.get_mut(&place) else { return false };
        if !connection.is_open
            && let Some((answer, length)) = dialect::upgrade(bytes)
        {
            connection.is_open = true;
            bytes = &mut bytes[length..];
            self.write(place, &answer);
        }
        if self.connections.get(&place).is_some_and(|connection| connection.is_open) {
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
        if let Some(connection) = self.connections.get_mut(&place) {
            connection.partial = bytes.to_vec();
        }
        true
    }

    fn on_said(&mut self, place: usize, said: &Said<'_>) {
        if said.kind == "join" {
            self.rooms.join(said.room, place);
        } else {
            let message = dialect::message(said);
            for index in 0..self.rooms.members(said.room).len() {
                let member = self.rooms.members(said.room)[index];
                self.write(member, &message);
            }
        }
        self.write(place, &dialect::answer(said));
    }

    fn write(&mut self, place: usize, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(&place) else { return };
        let waited = !connection.waiting.is_empty();
        if waited {
            connection.waiting.extend_from_slice(bytes);
        }
        let mut rest = if waited { &connection.waiting[..] } else { bytes };
        while !rest.is_empty() {
            match connection.stream.write(rest) {
                Ok(count) if count > 0 => rest = &rest[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                _ => {
                    self.drop_connection(place);
                    return;
                }
            }
        }
        connection.waiting = rest.to_vec();
    }

    fn drop_connection(&mut self, place: usize) -> bool {
        self.connections.remove(&place);
        self.rooms.leave_all(place);
        false
    }
}
