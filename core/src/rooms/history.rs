//! What clients ask of the log: one question per connection after the other, each when its outbox has room for an answer, and
//! each answer whole, joined from as many pages as it takes.
//!
//! ```text
//!   history ─▶ waiting ─▶ asked ─▶ page ─▶ (asked ─▶ page ─▶ …) ─▶ answer
//!                                       ╰▶ paused, while all that is gathered together is too much
//! ```
//! What bounds the memory: an answer is about `answer_bytes` at most, a connection gathers one at a time, and all that gather
//! together stop at `history_bytes`, but for the oldest one, which always comes to its end.

use std::collections::{BTreeSet, HashMap, VecDeque};

use carillon_proto::{
    frame::{Outgoing, ServerFrame, Span},
    ids::{Epoch, PartitionId, RoomName},
    link::{Message, Page, Read, read, up},
};

use super::{Conn, Doors, Reading, Rooms, Waiting, receiving::outgoing, retry_later};
use crate::{Now, grants::MayRead, link::PAGE_BYTES};

/// Questions of one connection that may wait: more than come in at once within the default rate (a burst of 100). Each is a few
/// hundred bytes and a `ref`.
const MAX_WAITING: usize = 128;

#[derive(Debug, Default)]
pub(super) struct Histories {
    asks: HashMap<Conn, Asks>,
    /// Reads that have some of their answer, oldest first; and those of them that may not go on now.
    gathering: BTreeSet<u64>,
    paused: BTreeSet<u64>,
    /// What all of them have together.
    bytes: usize,
}

/// The questions of one connection.
#[derive(Debug, Default)]
struct Asks {
    waiting: VecDeque<Box<History>>,
    /// One is under way.
    is_asking: bool,
}

/// A question, and what there is of its answer.
#[derive(Debug)]
pub(super) struct History {
    pub(super) conn: Conn,
    pub(super) reference: Option<Box<str>>,
    room: RoomName,
    span: read::Span,
    limit: usize,
    /// Oldest first, without holes, all of one life of the room.
    found: VecDeque<Message>,
    bytes: usize,
    epoch: String,
}

impl History {
    pub(super) fn room(&self) -> &RoomName {
        &self.room
    }

    /// What is to be asked next: all of it, or what lies beyond that which was found.
    fn read(&self, read: u64) -> Read {
        let span = match (&self.span, self.found.front(), self.found.back()) {
            (read::Span::After(_), _, Some(newest)) => read::Span::After(newest.offset),
            (read::Span::Before(_), Some(oldest), _) => read::Span::Before(oldest.offset),
            _ => self.span,
        };
        let limit = (self.limit - self.found.len()) as u32;
        Read { read, room: self.room.as_str().to_owned(), span: Some(span), limit }
    }

    /// Takes a page in; whether the answer is whole now. One that another page might make too large is: the page says that there is
    /// more.
    fn on_page(&mut self, page: &Page, answer_bytes: usize) -> bool {
        let is_other_life = page.epoch != self.epoch && !self.found.is_empty();
        if is_other_life {
            // The room was emptied meanwhile: what was found is gone, and the question is asked anew.
            (self.found, self.bytes) = (VecDeque::new(), 0);
            return false;
        }
        self.epoch.clone_from(&page.epoch);
        if let (read::Span::After(_), Some(newest), Some(next)) = (&self.span, self.found.back(), page.messages.first())
            && next.offset != newest.offset + 1
        {
            // Retention has overtaken it, and so has taken all that was found.
            (self.found, self.bytes) = (VecDeque::new(), 0);
        }
        self.bytes += page.messages.iter().map(|message| message.payload.len() + PER_MESSAGE).sum::<usize>();
        match self.span {
            read::Span::After(_) => self.found.extend(page.messages.iter().cloned()),
            read::Span::Before(_) => page.messages.iter().rev().for_each(|message| self.found.push_front(message.clone())),
        }
        let is_full = self.found.len() >= self.limit || self.bytes + PAGE_BYTES > answer_bytes;
        is_full || !page.more || page.messages.is_empty()
    }
}

/// About what a message takes beside its payload.
const PER_MESSAGE: usize = 256;

impl Rooms {
    /// A client wants to read what is stored.
    #[allow(clippy::too_many_arguments)] // The frame's fields, and what every input has.
    pub fn history(
        &mut self,
        conn: Conn,
        permit: &MayRead,
        span: Span,
        limit: u32,
        reference: Option<&str>,
        now: Now,
        doors: &mut impl Doors,
    ) {
        let span = match span {
            Span::After(offset) => read::Span::After(offset),
            Span::Before(offset) => read::Span::Before(offset),
            Span::Newest => read::Span::Before(u64::MAX),
        };
        let room = permit.room();
        let asks = self.histories.asks.entry(conn).or_default();
        if asks.waiting.len() >= MAX_WAITING {
            return retry_later(doors, conn, "too many questions wait for their answers", reference, Some(room), 1000);
        }
        asks.waiting.push_back(Box::new(History {
            conn,
            reference: reference.map(Box::from),
            room: room.clone(),
            span,
            limit: limit.clamp(1, 1000) as usize,
            found: VecDeque::new(),
            bytes: 0,
            epoch: String::new(),
        }));
        self.ask_next(conn, doors.outbox_bytes(conn), now);
    }

    /// Asks what this connection wants to know next, if nothing is under way for it and its outbox takes an answer.
    pub(super) fn ask_next(&mut self, conn: Conn, outbox_bytes: usize, now: Now) {
        let Some(asks) = self.histories.asks.get_mut(&conn) else { return };
        if asks.is_asking || outbox_bytes >= self.limits.replay_outbox_bytes {
            return;
        }
        let Some(history) = asks.waiting.pop_front() else {
            self.histories.asks.remove(&conn);
            return;
        };
        asks.is_asking = true;
        let id = self.next_ask();
        self.wait(self.deadline_ms(now), Waiting::Read(id));
        self.ask(id, history, now);
    }

    fn ask(&mut self, id: u64, history: Box<History>, now: Now) {
        self.owner(&history.room).queue(up::Item::Read(history.read(id)), now.mono_ms);
        self.reads.insert(id, Reading::History(history));
    }

    /// A read of a connection's has ended, whatever came of it: those that wait for room, and its next question, go on.
    pub(super) fn on_history_ended(&mut self, id: u64, history: &History, now: Now, doors: &impl Doors) {
        self.histories.bytes -= history.bytes;
        self.histories.gathering.remove(&id);
        self.histories.paused.remove(&id);
        self.resume_paused(now);
        if let Some(asks) = self.histories.asks.get_mut(&history.conn) {
            asks.is_asking = false;
        }
        self.ask_next(history.conn, doors.outbox_bytes(history.conn), now);
    }

    /// A connection is gone, and what it wanted to know.
    pub(super) fn forget_histories(&mut self, conn: Conn) {
        self.histories.asks.remove(&conn);
    }

    /// A page of an answer came.
    pub(super) fn on_history_page(&mut self, mut history: Box<History>, page: &Page, now: Now, doors: &mut impl Doors) {
        let (id, before) = (page.read, history.bytes);
        let is_whole = history.on_page(page, self.limits.answer_bytes);
        self.histories.bytes = self.histories.bytes - before + history.bytes;
        if is_whole || !self.is_here(history.conn) {
            if self.is_here(history.conn) {
                answer(&history, page.more, doors);
            }
            return self.on_history_ended(id, &history, now, doors);
        }
        self.histories.gathering.insert(id);
        if self.may_go_on(id) {
            return self.ask(id, history, now);
        }
        self.histories.paused.insert(id);
        self.reads.insert(id, Reading::History(history));
    }

    /// Whether there is room for a page more.
    fn may_go_on(&self, id: u64) -> bool {
        let Histories { gathering, paused, bytes, .. } = &self.histories;
        let under_way = gathering.len() - paused.len();
        gathering.first() == Some(&id) || bytes + under_way * PAGE_BYTES < self.limits.history_bytes
    }

    fn resume_paused(&mut self, now: Now) {
        while let Some(id) = self.histories.paused.first().copied()
            && self.may_go_on(id)
        {
            self.histories.paused.remove(&id);
            if let Some(Reading::History(history)) = self.reads.remove(&id) {
                self.ask(id, history, now);
            }
        }
    }

    /// What is to be said again on the next link, of a read that was under way.
    pub(super) fn read_again(&self, id: u64, history: &History) -> Option<up::Item> {
        (!self.histories.paused.contains(&id)).then(|| up::Item::Read(history.read(id)))
    }

    /// A question was not answered in time. Those behind it that concern the same owner would wait as long for nothing.
    pub(super) fn on_history_late(&mut self, id: u64, history: &History, now: Now, doors: &mut impl Doors) {
        let partition: PartitionId = history.room.partition();
        let mut others = Vec::new();
        if let Some(asks) = self.histories.asks.get_mut(&history.conn) {
            let all = std::mem::take(&mut asks.waiting).into_iter();
            let (late, rest): (Vec<_>, Vec<_>) = all.partition(|it| it.room.partition() == partition);
            (others, asks.waiting) = (late, rest.into());
        }
        if self.is_here(history.conn) {
            let others = others.iter().map(AsRef::as_ref);
            for History { conn, reference, room, .. } in std::iter::once(history).chain(others) {
                retry_later(doors, *conn, "no answer in time", reference.as_deref(), Some(room), 1000);
            }
        }
        self.on_history_ended(id, history, now, doors);
    }

    /// What all answers that are not whole hold together.
    #[cfg(test)]
    pub(super) fn gathered_bytes(&self) -> usize {
        self.histories.bytes
    }
}

fn answer(history: &History, more: bool, doors: &mut impl Doors) {
    let (user, client) = doors.identity(history.conn);
    // What was said in nobody's name has no client, and is nobody's own.
    let is_own = |message: &Message| !client.is_empty() && message.client == client && message.sender == user;
    let shown = |message| {
        let out = outgoing(message)?;
        Some(if is_own(message) { Outgoing { key: &message.key, ..out } } else { out })
    };
    let messages: Vec<Outgoing<'_>> = history.found.iter().filter_map(shown).collect();
    let epoch = Epoch::from_wire(&history.epoch);
    let frame = ServerFrame::History {
        room: &history.room,
        reference: history.reference.as_deref(),
        messages: &messages,
        more,
        epoch: &epoch,
    };
    doors.frame(history.conn, &frame);
}

#[cfg(test)]
mod tests {
    use carillon_proto::{
        codes::Close,
        ids::{GatewayId, Offset, UserId},
    };

    use super::*;
    use crate::{grants::Grants, rooms::RoomLimits};

    #[derive(Default)]
    struct Told {
        frames: Vec<String>,
        outbox_bytes: usize,
    }

    impl Doors for Told {
        type Shared = ();

        fn message(&mut self, _: Conn, _: &Outgoing<'_>, _: &mut ()) {}
        fn frame(&mut self, to: Conn, frame: &ServerFrame<'_>) {
            let what = match frame {
                ServerFrame::History { messages, more, .. } => {
                    let offsets: Vec<Offset> = messages.iter().map(|message| message.offset).collect();
                    format!("{offsets:?} {more}")
                }
                ServerFrame::Error { code, reference, .. } => format!("{} {}", code.as_str(), reference.unwrap_or_default()),
                other => panic!("{other:?}"),
            };
            self.frames.push(format!("{}: {what}", to.life));
        }
        fn welcome(&mut self, _: Conn, _: &RoomName, _: Offset, _: &Epoch) {}
        fn close(&mut self, _: Conn, _: Close) {}
        fn identity(&self, _: Conn) -> (&str, &str) {
            ("", "")
        }
        fn info(&self, _: Conn) -> &str {
            ""
        }
        fn outbox_bytes(&self, _: Conn) -> usize {
            self.outbox_bytes
        }
        fn outbox_taken(&self, _: Conn) -> u32 {
            0
        }
    }

    struct Desk {
        rooms: Rooms,
        doors: Told,
        now: Now,
    }

    impl Desk {
        fn new(history_bytes: usize) -> Self {
            let limits = RoomLimits { history_bytes, ..RoomLimits::default() };
            let now = Now { mono_ms: 1_000, unix_ms: 1_000_000 };
            Self { rooms: Rooms::new(GatewayId([1; 16]), limits), doors: Told::default(), now }
        }

        fn client(&mut self, life: u32) -> Conn {
            self.rooms.request(life, UserId::parse("ada").unwrap())
        }

        fn ask(&mut self, conn: Conn, span: Span, limit: u32) {
            let grants = Grants::new(UserId::parse("ada").unwrap(), None);
            let permit = grants.read(RoomName::parse("r").unwrap()).unwrap();
            self.rooms.history(conn, &permit, span, limit, Some("1"), self.now, &mut self.doors);
        }

        /// What owners are asked: number, span, limit.
        fn asked(&mut self) -> Vec<(u64, read::Span, u32)> {
            let mut asked = Vec::new();
            while let Some((_, batch)) = self.rooms.poll_batch(self.now) {
                asked.extend(batch.items.into_iter().filter_map(|item| match item.item {
                    Some(up::Item::Read(read)) => Some((read.read, read.span.unwrap(), read.limit)),
                    _ => None,
                }));
            }
            asked
        }

        fn answer(&mut self, read: u64, epoch: &str, offsets: std::ops::RangeInclusive<Offset>, more: bool) {
            let message = |offset| Message {
                room: "r".into(),
                offset,
                payload: vec![b'1'; 1_000].into(),
                id: vec![0; 16].into(),
                ..Message::default()
            };
            let messages = offsets.map(message).collect();
            let page = Page { read, room: "r".into(), messages, epoch: epoch.into(), more, first: 1, head: 100 };
            match self.rooms.take_reading(read) {
                Some(Reading::History(history)) => self.rooms.on_history_page(history, &page, self.now, &mut self.doors),
                other => panic!("{other:?}"),
            }
        }

        fn told(&mut self) -> Vec<String> {
            std::mem::take(&mut self.doors.frames)
        }
    }

    #[test]
    fn pages_are_joined() {
        let mut desk = Desk::new(usize::MAX);
        let ada = desk.client(1);
        desk.ask(ada, Span::Newest, 5);
        assert_eq!(desk.asked(), [(1, read::Span::Before(u64::MAX), 5)]);
        desk.answer(1, "e", 99..=100, true);
        assert_eq!(desk.asked(), [(1, read::Span::Before(99), 3)]);
        desk.answer(1, "e", 96..=98, true);
        assert_eq!(desk.told(), ["1: [96, 97, 98, 99, 100] true"]);

        desk.ask(ada, Span::After(10), 5);
        desk.answer(2, "e", 11..=12, true);
        assert_eq!(desk.asked()[1], (2, read::Span::After(12), 3));
        desk.answer(2, "e", 13..=14, false);
        assert_eq!(desk.told(), ["1: [11, 12, 13, 14] false"]);
        assert_eq!(desk.rooms.gathered_bytes(), 0);
    }

    #[test]
    fn answers_are_bounded_in_bytes() {
        let mut desk = Desk::new(usize::MAX);
        // Four messages, and room for another page.
        desk.rooms.limits.answer_bytes = PAGE_BYTES + 5_000;
        let ada = desk.client(1);
        desk.ask(ada, Span::Newest, 50);
        desk.answer(1, "e", 98..=100, true);
        assert_eq!(desk.asked()[1], (1, read::Span::Before(98), 47));
        desk.answer(1, "e", 97..=97, true);
        assert_eq!(desk.told(), ["1: [97, 98, 99, 100] true"]);

        // Whoever asks on gets on, however little fits.
        desk.rooms.limits.answer_bytes = 1;
        desk.ask(ada, Span::After(10), 50);
        desk.answer(2, "e", 11..=11, true);
        assert_eq!(desk.told(), ["1: [11] true"]);
        assert_eq!(desk.rooms.gathered_bytes(), 0);
    }

    #[test]
    fn joined_pages_have_no_hole_and_one_life() {
        let mut desk = Desk::new(usize::MAX);
        let ada = desk.client(1);
        desk.ask(ada, Span::After(0), 5);
        desk.answer(1, "e", 1..=2, true);
        // Retention took 3 to 7 meanwhile, and so what was found.
        desk.answer(1, "e", 8..=9, true);
        desk.answer(1, "e", 10..=12, true);
        assert_eq!(desk.told(), ["1: [8, 9, 10, 11, 12] true"]);

        desk.ask(ada, Span::After(10), 5);
        desk.answer(2, "e", 11..=12, true);
        desk.asked();
        // The room was emptied, and lives anew.
        desk.answer(2, "f", 1..=1, false);
        assert_eq!(desk.asked(), [(2, read::Span::After(10), 5)]);
        desk.answer(2, "f", 11..=11, false);
        assert_eq!(desk.told(), ["1: [11] false"]);
    }

    #[test]
    fn questions_wait_for_room_in_the_outbox() {
        let mut desk = Desk::new(usize::MAX);
        let ada = desk.client(1);
        for _ in 0..3 {
            desk.ask(ada, Span::Newest, 1);
        }
        assert_eq!(desk.asked().len(), 1, "one at a time");
        desk.answer(1, "e", 100..=100, true);
        assert_eq!(desk.asked().len(), 1);
        desk.doors.outbox_bytes = 1 << 20;
        desk.answer(2, "e", 100..=100, true);
        assert_eq!(desk.asked(), []);
        desk.doors.outbox_bytes = 0;
        desk.rooms.on_drained(ada, desk.now);
        assert_eq!(desk.asked().len(), 1);

        for _ in 0..=MAX_WAITING {
            desk.ask(ada, Span::Newest, 1);
        }
        desk.told();
        desk.ask(ada, Span::Newest, 1);
        assert_eq!(desk.told(), ["1: unavailable 1"]);
        // An owner that does not answer keeps all of them waiting once, not each.
        desk.now.mono_ms += 10_000;
        desk.rooms.on_tick(desk.now, &mut desk.doors);
        assert_eq!(desk.told().len(), 1 + MAX_WAITING);
        desk.ask(ada, Span::Newest, 1);
        assert_eq!(desk.told(), [""; 0]);
    }

    #[test]
    fn gathering_is_bounded_and_comes_to_an_end() {
        let mut desk = Desk::new(3_000);
        let clients: Vec<Conn> = (1..=3).map(|life| desk.client(life)).collect();
        for conn in &clients {
            desk.ask(*conn, Span::After(0), 4);
        }
        desk.asked();
        for read in 1..=3 {
            desk.answer(read, "e", 1..=2, true);
        }
        // The oldest goes on, the others wait for it.
        assert_eq!(desk.asked(), [(1, read::Span::After(2), 2)]);
        // One that waits and leaves frees what it has at its deadline.
        desk.rooms.disconnect(clients[2], desk.now);
        desk.answer(1, "e", 3..=4, true);
        assert_eq!(desk.asked(), [(2, read::Span::After(2), 2)]);
        desk.answer(2, "e", 3..=4, true);
        assert_eq!(desk.told(), ["1: [1, 2, 3, 4] true", "2: [1, 2, 3, 4] true"]);
        desk.now.mono_ms += 10_000;
        desk.rooms.on_tick(desk.now, &mut desk.doors);
        assert_eq!((desk.rooms.gathered_bytes(), desk.told().len()), (0, 0));
    }
}
