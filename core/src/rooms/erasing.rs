//! The deletion of a room's history, as the gateway asks for it: a question like any other, which is asked again on the next link
//! until it is answered. Members learn of it as of a room that retention has emptied.

use carillon_proto::{
    frame::ServerFrame,
    link::{Erase, Erased, up},
};

use super::{Conn, Doors, Reading, Rooms, Waiting};
use crate::{Now, grants::MayErase};

impl Rooms {
    /// Somebody wants a room's history to be gone for good.
    pub fn erase(&mut self, conn: Conn, permit: &MayErase, reference: Option<&str>, now: Now) {
        let erase = self.next_ask();
        self.wait(self.deadline_ms(now), Waiting::Read(erase));
        let room = permit.room().clone();
        self.owner(&room).queue(up::Item::Erase(Erase { erase, room: room.as_str().to_owned() }), now.mono_ms);
        self.reads.insert(erase, Reading::Erase { conn, reference: reference.map(Box::from), room });
    }

    pub(super) fn on_erased(&mut self, erased: &Erased, doors: &mut impl Doors) {
        if let Some(Reading::Erase { conn, reference, room }) = self.reads.remove(&erased.erase)
            && self.is_here(conn)
        {
            doors.frame(conn, &ServerFrame::Erased { room: &room, reference: reference.as_deref() });
        }
    }
}
