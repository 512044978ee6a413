//! A room whose history is to be gone for good: what is under way in it is waited for, then the log forgets all of it, and the
//! next message begins another life. Whoever asks for anything of the room meanwhile waits in line, so that a deletion has its
//! place among the publishes: what was said before it is gone, what is said after it has offset 1 and the following.

use carillon_proto::{
    ids::RoomName,
    link::{Erase, Erased, down, up},
};

use super::{Asker, Partition, Room, ready};

impl Partition {
    /// Whoever asks has leave to. Asked again, or for a room without history, it does nothing.
    pub(super) fn on_erase(&mut self, asker: Asker, name: RoomName, erase: Erase) {
        let room = ready(&mut self.rooms, &name);
        if room.assigned == 0 {
            return self.links.send(asker, down::Item::Erased(Erased { erase: erase.erase, room: erase.room }));
        }
        // It comes first when the room is empty, and finds that nothing is left to do.
        let waiting = vec![(asker, up::Item::Erase(erase))];
        if room.assigned == room.head {
            self.empty(name, waiting);
        } else {
            room.erasing = Some(waiting);
        }
    }

    /// The log has acked an append: it may be the last one that a deletion waits for.
    pub(super) fn erase_if_still(&mut self, name: &RoomName) {
        if let Some(Room::Ready(room)) = self.rooms.get_mut(name)
            && room.assigned == room.head
            && let Some(waiting) = room.erasing.take()
        {
            self.empty(name.clone(), waiting);
        }
    }
}
