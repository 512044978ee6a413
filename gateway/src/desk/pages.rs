//! Pages of what shards hold: each shard gives its best lines, and what they give is put together. A page is bounded, whatever there is.

use std::{cmp::Ordering, collections::HashMap};

use carillon_core::rooms::View;

/// What was found.
#[derive(Debug)]
pub(crate) struct Found<L> {
    /// How many there are in all, on any page.
    pub(crate) count: usize,
    /// Of this page.
    pub(crate) lines: Vec<L>,
    /// There are further ones.
    pub(crate) more: bool,
}

/// Which connections.
#[derive(Debug)]
pub(crate) struct ConnectionsAsked {
    /// Of this user only.
    pub(crate) user: Option<String>,
    /// Behind this one.
    pub(crate) after: Option<ConnectionPlace>,
    pub(crate) limit: usize,
}

/// Where a connection is: the number of its shard, and its place there.
pub(crate) type ConnectionPlace = (usize, u32);

/// A connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConnectionLine {
    pub(crate) place: ConnectionPlace,
    pub(crate) id: String,
    pub(crate) user: String,
    pub(crate) client: String,
    /// Its place among the doors.
    pub(crate) door: usize,
    pub(crate) rooms: usize,
    pub(crate) outbox_bytes: usize,
    pub(crate) since_s: u32,
}

pub(super) fn join_connections(found: Vec<Found<ConnectionLine>>, limit: usize) -> Found<ConnectionLine> {
    let count = found.iter().map(|found| found.count).sum();
    let mut more = found.iter().any(|found| found.more);
    let mut lines: Vec<_> = found.into_iter().flat_map(|found| found.lines).collect();
    lines.sort_unstable_by_key(|line| line.place);
    more |= lines.len() > limit;
    lines.truncate(limit);
    Found { count, lines, more }
}

/// Which rooms.
#[derive(Debug)]
pub(crate) struct RoomsAsked {
    /// Whose names begin so.
    pub(crate) prefix: String,
    /// Whose names hold this, whatever the case of its ASCII letters.
    pub(crate) search: String,
    pub(crate) sort: Sort,
    /// Behind this one.
    pub(crate) after: Option<RoomPlace>,
    pub(crate) limit: usize,
    /// Each shard is to give all that match: where there are several, a room's members only count once they are added up.
    pub(crate) whole: bool,
}

/// In which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    Name,
    /// Most first.
    Members,
    /// Busiest first.
    Rate,
}

/// Where a room is in an order: what it is sorted by (0 for names), and its name.
pub(crate) type RoomPlace = (u64, String);

/// A room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RoomLine {
    pub(crate) room: String,
    pub(crate) members: usize,
    pub(crate) head: u64,
    pub(crate) epoch: String,
    /// Messages per 1,000 seconds.
    pub(crate) pace: u64,
}

impl RoomsAsked {
    fn matches(&self, name: &str) -> bool {
        let search = self.search.as_bytes();
        name.starts_with(&self.prefix)
            && (search.is_empty() || name.as_bytes().windows(search.len()).any(|part| part.eq_ignore_ascii_case(search)))
    }
}

impl RoomsAsked {
    /// Whether this place is on a page before.
    fn is_shown_already(&self, place: (u64, &str)) -> bool {
        self.after.as_ref().is_some_and(|after| order(place, (after.0, &after.1)).is_le())
    }
}

impl Sort {
    fn value(self, members: usize, pace: u64) -> u64 {
        match self {
            Self::Name => 0,
            Self::Members => members as u64,
            Self::Rate => pace,
        }
    }

    /// Where a line is.
    pub(crate) fn place(self, line: &RoomLine) -> RoomPlace {
        (self.value(line.members, line.pace), line.room.clone())
    }
}

/// More first, and among equals by name.
fn order(one: (u64, &str), other: (u64, &str)) -> Ordering {
    other.0.cmp(&one.0).then_with(|| one.1.cmp(other.1))
}

/// The best lines of one shard, gathered room by room.
pub(crate) struct Best<'q> {
    asked: &'q RoomsAsked,
    count: usize,
    lines: Vec<RoomLine>,
    /// What is not better than the last line is not on this page.
    is_full: bool,
    more: bool,
}

impl<'q> Best<'q> {
    pub(crate) fn new(asked: &'q RoomsAsked) -> Self {
        Self { asked, count: 0, lines: Vec::new(), is_full: false, more: false }
    }

    pub(crate) fn add(&mut self, view: View<'_>) {
        let (asked, name) = (self.asked, view.room.as_str());
        // One that was joined in vain, or is being left.
        if view.members == 0 || !asked.matches(name) {
            return;
        }
        self.count += 1;
        let pace = (view.per_second * 1000.0).round() as u64;
        let place = (asked.sort.value(view.members, pace), name);
        if !asked.whole && asked.is_shown_already(place) {
            return;
        }
        let worst =
            self.lines.last().filter(|_| self.is_full).map(|line| (asked.sort.value(line.members, line.pace), &*line.room));
        if worst.is_some_and(|worst| order(place, worst).is_gt()) {
            self.more = true;
            return;
        }
        let (room, epoch) = (name.to_owned(), view.epoch.as_str().to_owned());
        // Behind the worst of the sorted ones, so that this stays the one that is compared with.
        let at = if self.is_full { self.lines.len() - 1 } else { self.lines.len() };
        self.lines.insert(at, RoomLine { room, members: view.members, head: view.head, epoch, pace });
        if !asked.whole && self.lines.len() >= 2 * asked.limit {
            self.cut();
        }
    }

    fn cut(&mut self) {
        let sort = self.asked.sort;
        let place = |line: &RoomLine| sort.value(line.members, line.pace);
        self.lines.sort_unstable_by(|one, other| order((place(one), &one.room), (place(other), &other.room)));
        if self.lines.len() >= self.asked.limit {
            self.more |= self.lines.len() > self.asked.limit;
            self.lines.truncate(self.asked.limit);
            self.is_full = true;
        }
    }

    pub(crate) fn found(mut self) -> Found<RoomLine> {
        if !self.asked.whole {
            self.cut();
        }
        Found { count: self.count, lines: self.lines, more: self.more }
    }
}

/// A room with members on several shards is one.
pub(super) fn join_rooms(found: Vec<Found<RoomLine>>, asked: &RoomsAsked) -> Found<RoomLine> {
    let given = found.iter().map(|found| found.lines.len()).sum::<usize>();
    let counted = found.iter().map(|found| found.count).sum::<usize>();
    let mut more = found.iter().any(|found| found.more);
    let mut rooms = HashMap::<String, RoomLine>::new();
    for line in found.into_iter().flat_map(|found| found.lines) {
        match rooms.get_mut(&line.room) {
            None => drop(rooms.insert(line.room.clone(), line)),
            Some(known) => {
                known.members += line.members;
                // Each shard hears all of the room.
                known.pace = known.pace.max(line.pace);
                if line.head >= known.head {
                    (known.head, known.epoch) = (line.head, line.epoch);
                }
            }
        }
    }
    // What was given more than once was counted more than once.
    let count = counted - (given - rooms.len());
    let value = |line: &RoomLine| asked.sort.value(line.members, line.pace);
    let mut lines: Vec<_> = rooms.into_values().collect();
    lines.retain(|line| !asked.is_shown_already((value(line), &line.room)));
    let worst = asked.limit;
    if lines.len() > worst {
        lines.select_nth_unstable_by(worst, |one, other| order((value(one), &one.room), (value(other), &other.room)));
        lines.truncate(worst);
        more = true;
    }
    lines.sort_unstable_by(|one, other| order((value(one), &one.room), (value(other), &other.room)));
    Found { count, lines, more }
}

#[cfg(test)]
mod tests {
    use carillon_proto::ids::{Epoch, RoomName};

    use super::*;

    fn asked(sort: Sort, after: Option<RoomPlace>) -> RoomsAsked {
        RoomsAsked { prefix: String::new(), search: String::new(), sort, after, limit: 3, whole: false }
    }

    fn found(asked: &RoomsAsked, rooms: impl IntoIterator<Item = (String, usize)>) -> Found<RoomLine> {
        let mut best = Best::new(asked);
        for (name, members) in rooms {
            let (room, epoch) = (RoomName::parse(&name).unwrap(), Epoch::none());
            best.add(View { room: &room, members, head: 1, epoch: &epoch, per_second: 0.5 });
        }
        best.found()
    }

    fn names(found: &Found<RoomLine>) -> Vec<&str> {
        found.lines.iter().map(|line| line.room.as_str()).collect()
    }

    /// Pages one after the other show each room once, in order.
    #[test]
    fn pages_show_every_room_once() {
        for sort in [Sort::Name, Sort::Members, Sort::Rate] {
            // An order of coming that is none of those asked for.
            let rooms = || (0..100_usize).map(|n| (n * 37) % 100).map(|n| (format!("r{n:02}"), 1 + n % 7));
            let (mut shown, mut after) = (Vec::new(), None);
            loop {
                let asked = asked(sort, after.take());
                let page = join_rooms(vec![found(&asked, rooms())], &asked);
                assert_eq!(page.count, 100);
                shown.extend(page.lines.iter().map(|line| (sort.value(line.members, line.pace), line.room.clone())));
                match page.lines.last() {
                    Some(last) if page.more => after = Some(sort.place(last)),
                    _ => break,
                }
            }
            assert_eq!(shown.len(), 100, "{sort:?}");
            assert!(shown.is_sorted_by(|one, other| order((one.0, &one.1), (other.0, &other.1)).is_lt()), "{sort:?}: {shown:?}");
        }
    }

    #[test]
    fn members_of_all_shards_are_told_together() {
        // None of the two would show `z` among its first three.
        let asked = RoomsAsked { whole: true, ..asked(Sort::Members, None) };
        let shards = [vec![("b", 3), ("c", 3), ("d", 3), ("z", 2)], vec![("e", 3), ("f", 3), ("g", 3), ("z", 2)]];
        let each = shards.map(|rooms| found(&asked, rooms.into_iter().map(|(name, members)| (name.to_owned(), members))));
        let page = join_rooms(each.into(), &asked);
        assert_eq!(names(&page), ["z", "b", "c"]);
        assert_eq!((page.lines[0].members, page.count, page.more), (4, 7, true));
    }

    #[test]
    fn names_are_found_by_their_parts() {
        let mut asked = asked(Sort::Name, None);
        let rooms = || ["chat:One", "chat:two", "game:one"].map(|name| (name.to_owned(), 1));
        asked.prefix = "chat:".into();
        assert_eq!(names(&found(&asked, rooms())), ["chat:One", "chat:two"]);
        asked.search = "oNE".into();
        assert_eq!(names(&found(&asked, rooms())), ["chat:One"]);
        asked.prefix = String::new();
        assert_eq!(names(&found(&asked, rooms())), ["chat:One", "game:one"]);
    }
}
