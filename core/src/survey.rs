//! How pages of rooms come about: each partition gives its best lines, and the pages of all partitions are put together. A room lies in one
//! partition, so the best of all are among the best of each.

use std::cmp::Ordering;

use carillon_proto::survey::{Room, RoomPlace, RoomsAsked, RoomsFound, Sort};

/// A page of all partitions that answered.
#[derive(Debug, Default, PartialEq)]
pub struct Page {
    /// How many there are in all, on any page.
    pub count: u64,
    /// Of this page.
    pub rooms: Vec<Room>,
    /// There are further ones.
    pub more: bool,
}

/// Puts the answers of partitions together.
pub fn join(found: Vec<RoomsFound>, asked: &RoomsAsked) -> Page {
    let count = found.iter().map(|found| found.count).sum();
    let mut more = found.iter().any(|found| found.more);
    let mut rooms: Vec<Room> = found.into_iter().flat_map(|found| found.rooms).collect();
    let value = |room: &Room| value(asked.sort(), room.members, room.pace);
    rooms.sort_unstable_by(|one, other| order((value(one), &one.room), (value(other), &other.room)));
    more |= rooms.len() > asked.limit as usize;
    rooms.truncate(asked.limit as usize);
    Page { count, rooms, more }
}

/// Where a room is in an order.
pub fn place(sort: Sort, room: &Room) -> RoomPlace {
    RoomPlace { value: value(sort, room.members, room.pace), room: room.room.clone() }
}

/// What a room is sorted by.
pub(crate) fn value(sort: Sort, members: u64, pace: u64) -> u64 {
    match sort {
        Sort::Name => 0,
        Sort::Members => members,
        Sort::Rate => pace,
    }
}

/// More first, and among equals by name.
pub(crate) fn order(one: (u64, &str), other: (u64, &str)) -> Ordering {
    other.0.cmp(&one.0).then_with(|| one.1.cmp(other.1))
}

pub(crate) fn matches(asked: &RoomsAsked, name: &str) -> bool {
    let search = asked.search.as_bytes();
    name.starts_with(&asked.prefix)
        && (search.is_empty() || name.as_bytes().windows(search.len()).any(|part| part.eq_ignore_ascii_case(search)))
}

/// Whether a place is on a page before.
pub(crate) fn is_shown_already(asked: &RoomsAsked, place: (u64, &str)) -> bool {
    asked.after.as_ref().is_some_and(|after| order(place, (after.value, &after.room)).is_le())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(more: bool, rooms: &[(&str, u64)]) -> RoomsFound {
        let rooms = rooms.iter().map(|(room, members)| Room { room: (*room).into(), members: *members, ..Room::default() });
        RoomsFound { count: 10, more, rooms: rooms.collect(), ..RoomsFound::default() }
    }

    #[test]
    fn best_of_all_are_among_the_best_of_each() {
        let asked = RoomsAsked { sort: Sort::Members.into(), limit: 3, ..RoomsAsked::default() };
        let parts = || vec![found(false, &[("b", 5), ("z", 1)]), found(false, &[("a", 5), ("c", 4)])];
        let page = join(parts(), &asked);
        let names: Vec<_> = page.rooms.iter().map(|room| room.room.as_str()).collect();
        assert_eq!((names, page.count, page.more), (vec!["a", "b", "c"], 20, true));
        let page = join(parts(), &RoomsAsked { limit: 4, ..asked.clone() });
        assert!(!page.more);
        let page = join(vec![found(true, &[("b", 5)])], &asked);
        assert!(page.more, "a partition has further ones");
    }
}
