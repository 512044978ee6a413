//! One client, as a shard keeps it: what all doors have in common. An idle connection owns no buffer and no timer.

use std::task::Waker;

use carillon_core::{outbox::Outbox, session::Session};

use crate::{door::Door, wheel::Slot};

pub(crate) struct Connection {
    pub(crate) life: u32,
    pub(crate) session: Session,
    /// What the token says of its user in presence, JSON text.
    pub(crate) info: Option<Box<str>>,
    pub(crate) outbox: Outbox,
    pub(crate) door: Door,
    /// Of the task that reads for it or writes for it.
    pub(crate) waker: Option<Waker>,
    /// Welcomed: until then nothing is read, so that frames sent early wait in the kernel.
    pub(crate) is_open: bool,
    pub(crate) is_dirty: bool,
    /// The socket took less than there was; its task waits until it takes more.
    pub(crate) is_blocked: bool,
    pub(crate) is_closing: bool,
    /// When the wheel looks at its token next; one such entry at most.
    pub(crate) look_slot: Option<Slot>,
}

/// What became of a write.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// The outbox is empty.
    All,
    /// The socket is full.
    Some,
    /// Nothing was written: what there is will be taken.
    Later,
    /// The socket is broken.
    Broken,
}

impl Connection {
    pub(crate) fn new(life: u32, session: Session, info: Option<Box<str>>, door: Door) -> Self {
        Self {
            life,
            session,
            info,
            outbox: Outbox::default(),
            door,
            waker: None,
            is_open: false,
            is_dirty: false,
            is_blocked: false,
            is_closing: false,
            look_slot: None,
        }
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Writes what is queued, as far as the door takes it now.
    pub(crate) fn write(&mut self) -> Written {
        match &mut self.door {
            Door::Native(socket) => socket.write(&mut self.outbox),
            // Its body takes what it has room for, once it is told that there is something.
            Door::Events(_) => {
                self.wake();
                Written::Later
            }
            // One is answered, the other has a transport that writes for it.
            Door::Request(_) | Door::SocketIo(_) => Written::All,
        }
    }

    /// Bytes that wait to be written.
    pub(crate) fn waiting_bytes(&self) -> usize {
        match &self.door {
            Door::SocketIo(seat) => seat.waiting_bytes(),
            Door::Native(_) | Door::Events(_) | Door::Request(_) => self.outbox.bytes(),
        }
    }

    /// Counts the bytes that the client has taken, wrapping.
    pub(crate) fn taken(&self) -> u32 {
        match &self.door {
            Door::SocketIo(seat) => seat.taken,
            Door::Native(_) | Door::Events(_) | Door::Request(_) => self.outbox.taken(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::websocket::socket::NativeSocket;

    #[test]
    fn other_doors_cost_the_native_one_nothing() {
        assert_eq!(size_of::<Door>(), size_of::<NativeSocket>());
        // Part of what an idle client costs, which is a promise.
        assert!(size_of::<Connection>() <= 248, "{}", size_of::<Connection>());
    }
}
