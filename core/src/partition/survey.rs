//! What an admin sees of a partition's rooms: the best of those with members, a page of them, in one walk over all.

use carillon_proto::survey::{Room, RoomsAsked, RoomsFound};

use super::{Partition, ReadyRoom};
use crate::{
    Now,
    survey::{is_shown_already, matches, order, value},
};

/// Lines of a page at most, whatever is asked for.
const MAX_LIMIT: u32 = 1000;
/// Lines that are looked at together beyond those of a page, at least: so that small pages are not cut too often.
const SLACK: usize = 256;

impl Partition {
    /// A page of the rooms with members; `None` while another owner may speak.
    pub fn survey(&self, asked: &RoomsAsked, now: Now) -> Option<RoomsFound> {
        if self.is_silent(now) {
            return None;
        }
        let limit = asked.limit.min(MAX_LIMIT) as usize;
        let mut count = 0;
        // Never much more than a page, whatever there is.
        let mut best: Vec<Line<'_>> = Vec::new();
        let mut more = false;
        for (name, room) in &self.rooms {
            let Some(room) = room.seen().filter(|room| room.presence.members() > 0) else { continue };
            if !matches(asked, name.as_str()) {
                continue;
            }
            count += 1;
            let pace = (room.pace.per_second(now.mono_ms) * 1000.0).round() as u64;
            let line = Line { value: value(asked.sort(), room.presence.members(), pace), name: name.as_str(), room, pace };
            if is_shown_already(asked, line.place()) {
                continue;
            }
            best.push(line);
            if best.len() >= 2 * limit + SLACK {
                more |= cut(&mut best, limit);
            }
        }
        more |= cut(&mut best, limit);
        let rooms = best.iter().map(Line::told).collect();
        let Self { start, .. } = self;
        Some(RoomsFound { partition: start.partition.index() as u32, generation: start.generation, count, rooms, more })
    }
}

struct Line<'a> {
    value: u64,
    name: &'a str,
    room: &'a ReadyRoom,
    pace: u64,
}

impl Line<'_> {
    fn place(&self) -> (u64, &str) {
        (self.value, self.name)
    }

    fn told(&self) -> Room {
        let presence = &self.room.presence;
        Room {
            room: self.name.to_owned(),
            members: presence.members(),
            users: presence.count(),
            head: self.room.head,
            epoch: self.room.told_epoch(),
            pace: self.pace,
        }
    }
}

/// Keeps the best ones, in order; true if there were others.
fn cut(lines: &mut Vec<Line<'_>>, limit: usize) -> bool {
    lines.sort_unstable_by(|one, other| order(one.place(), other.place()));
    let more = lines.len() > limit;
    lines.truncate(limit);
    more
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use carillon_proto::{
        ids::{GatewayId, PartitionId, RoomName},
        link::{self, Attach, Came, Up, UpBatch, up},
        survey::{RoomPlace, Sort},
    };

    use super::*;
    use crate::{
        partition::{Config, Start},
        survey::place,
    };

    const NOW: Now = Now { mono_ms: 1_000, unix_ms: 1_000_000 };
    const PARTITION: PartitionId = PartitionId(3);

    /// Room names of one partition.
    fn names() -> impl Iterator<Item = String> {
        let names = (0..).map(|number| format!("Room:{number:05}"));
        names.filter(|name| RoomName::parse(name).unwrap().partition() == PARTITION)
    }

    /// A partition with so many rooms; the nth one has 1 + n % 7 members, one of two at another gateway.
    fn partition(rooms: usize) -> Partition {
        let start = Start { partition: PARTITION, generation: 9, incarnation: "i".into(), last_sequence: 0, seed: 5 };
        let mut partition = Partition::new(Config::default(), start, []);
        for gateway in [1, 2_u8] {
            let mut items = Vec::new();
            for (n, room) in names().take(rooms).enumerate() {
                items.push(up::Item::Attach(Attach { room: room.clone(), ..Attach::default() }));
                for member in (0..1 + n % 7).filter(|member| member % 2 == usize::from(gateway - 1)) {
                    let user = format!("user{}", member / 4);
                    items.push(up::Item::Came(Came { room: room.clone(), user, ..Came::default() }));
                }
            }
            let batch = UpBatch {
                version: link::VERSION,
                gateway: Bytes::copy_from_slice(&GatewayId([gateway; 16]).0),
                link: 1,
                number: 1,
                generation: 0,
                items: items.into_iter().map(|item| Up { item: Some(item) }).collect(),
                settled: 0,
            };
            partition.on_batch(batch, NOW);
            for room in names().take(rooms) {
                partition.on_head(RoomName::parse(&room).unwrap(), None, NOW);
            }
        }
        partition
    }

    fn asked(sort: Sort, limit: u32) -> RoomsAsked {
        RoomsAsked { sort: sort.into(), limit, ..RoomsAsked::default() }
    }

    /// Pages one after the other show each room once, in order, with the members of all gateways.
    #[test]
    fn pages_show_every_room_once() {
        let partition = partition(700);
        for sort in [Sort::Name, Sort::Members, Sort::Rate] {
            let mut asked = asked(sort, 90);
            let mut shown: Vec<RoomPlace> = Vec::new();
            loop {
                let page = partition.survey(&asked, NOW).unwrap();
                assert_eq!((page.count, page.generation, page.partition), (700, 9, 3));
                shown.extend(page.rooms.iter().map(|room| place(sort, room)));
                assert_eq!(page.more, shown.len() < 700);
                match page.rooms.last() {
                    Some(last) if page.more => asked.after = Some(place(sort, last)),
                    _ => break,
                }
            }
            assert_eq!(shown.len(), 700, "{sort:?}");
            let is_before =
                |one: &RoomPlace, other: &RoomPlace| order((one.value, &one.room), (other.value, &other.room)).is_lt();
            assert!(shown.is_sorted_by(is_before), "{sort:?}");
        }
        let most = partition.survey(&asked(Sort::Members, 1), NOW).unwrap();
        assert_eq!((most.rooms[0].members, most.rooms[0].users), (7, 2));
    }

    #[test]
    fn names_are_found_by_their_parts() {
        let partition = partition(50);
        let tenth = names().nth(10).unwrap();
        let search = RoomsAsked { search: tenth.to_ascii_lowercase(), ..asked(Sort::Name, 10) };
        let found = partition.survey(&search, NOW).unwrap();
        assert_eq!((found.count, found.rooms[0].room.as_str(), found.more), (1, tenth.as_str(), false));
        let prefix = RoomsAsked { prefix: "room:".into(), ..asked(Sort::Name, 10) };
        assert_eq!(partition.survey(&prefix, NOW).unwrap().count, 0, "a prefix is exact");
    }

    #[test]
    fn owners_whose_lease_is_old_show_nothing() {
        let mut partition = partition(1);
        partition.on_lease(NOW.mono_ms);
        assert_eq!(partition.survey(&asked(Sort::Name, 10), NOW), None);
    }
}
