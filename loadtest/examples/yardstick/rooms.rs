//! Who is in which room.

use std::collections::HashMap;

/// Rooms by name, members by the place of their connection.
#[derive(Default)]
pub(crate) struct Rooms(HashMap<String, Vec<usize>>);

impl Rooms {
    pub(crate) fn join(&mut self, room: &str, member: usize) {
        match self.0.get_mut(room) {
            Some(members) => members.push(member),
            None => {
                self.0.insert(room.to_owned(), vec![member]);
            }
        }
    }

    pub(crate) fn members(&self, room: &str) -> &[usize] {
        self.0.get(room).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn leave_all(&mut self, member: usize) {
        for members in self.0.values_mut() {
            members.retain(|other| *other != member);
        }
    }
}
