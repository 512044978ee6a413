//! Becoming a member, and catching up until live. A room answers the wishes of one connection in their order: what
//! can't be answered yet waits in the room.

use carillon_proto::{
    codes::ErrorCode,
    frame::{EpochClaim, JoinOptions, ServerFrame},
    ids::{Epoch, Offset, RoomName},
    link::{Message, Page, read, up},
};
use smallvec::SmallVec;

use super::{
    CatchUp, Conn, Doors, Joined, Member, NOT_YET, Owed, Reading, Reason, Room, RoomKey, Rooms, Waiting, Waits, Wish,
    identity_hash,
    receiving::{outgoing, own},
    retry_later,
};
use crate::Now;

impl Rooms {
    /// Notes what a connection wants of a room, and does it if it can be done now.
    pub(super) fn wish(&mut self, conn: Conn, name: &RoomName, wish: Wish, now: Now, doors: &mut impl Doors) {
        let key = match self.names.get(name) {
            Some(key) => *key,
            None => {
                let room = Room {
                    name: name.clone(),
                    is_attached: false,
                    is_known: false,
                    last: 0,
                    missed_until: 0,
                    answered: None,
                    epoch: Epoch::none(),
                    members: SmallVec::new(),
                    wishes: Vec::new(),
                    watchers: 0,
                    known: None,
                };
                let key = self.rooms.insert(room) as RoomKey;
                self.names.insert(name.clone(), key);
                self.ask_attach(key, now, doors);
                key
            }
        };
        let joined = &mut self.conns[conn.index as usize].joined;
        if !joined.iter().any(|joined| joined.room == key) {
            joined.push(Joined { room: key, place: NOT_YET });
        }
        self.rooms[key as usize].wishes.push((conn, wish));
        self.grant_wishes(key, now, doors);
        let owes = |catch_up: &CatchUp| catch_up.owed.as_ref().is_some_and(|owed| !owed.is_personal);
        let is_held = |room: &Room| room.wishes.iter().any(|(wisher, _)| *wisher == conn);
        if self.catch_ups.get(&(key, conn.index)).is_some_and(owes) || self.rooms.get(key as usize).is_some_and(is_held) {
            self.wait(self.deadline_ms(now), Waiting::Join(name.clone(), conn));
        }
    }

    /// Does what can be done of a room's wishes, in order per connection.
    pub(super) fn grant_wishes(&mut self, key: RoomKey, now: Now, doors: &mut impl Doors) {
        if !self.rooms[key as usize].is_attached || self.rooms[key as usize].wishes.is_empty() {
            return;
        }
        let mut held: Vec<(Conn, Wish)> = Vec::new();
        for (conn, wish) in std::mem::take(&mut self.rooms[key as usize].wishes) {
            let owed = self.catch_ups.get(&(key, conn.index)).is_some_and(|catch_up| catch_up.owed.is_some());
            if owed || held.iter().any(|(holder, _)| *holder == conn) {
                held.push((conn, wish));
                continue;
            }
            match wish {
                Wish::Join { options, reference, is_personal, deadline_ms } => {
                    self.start(key, conn, &options, (reference, is_personal, deadline_ms), now, doors);
                }
                Wish::Leave { reference, .. } => {
                    let name = self.rooms[key as usize].name.clone();
                    let joined = &mut self.conns[conn.index as usize].joined;
                    // A wish to leave behind a wish to leave finds nothing to do.
                    if let Some(index) = joined.iter().position(|joined| joined.room == key) {
                        let joined = joined.remove(index);
                        let user = self.conns[conn.index as usize].user.clone();
                        // The room must outlive the loop: it is dropped below.
                        self.unseat(conn, &user, joined, true, now);
                    }
                    doors.frame(conn, &ServerFrame::Left { room: &name, reference: reference.as_deref() });
                }
            }
        }
        self.rooms[key as usize].wishes.extend(held);
        self.drop_if_empty(key, now);
    }

    fn start(
        &mut self,
        key: RoomKey,
        conn: Conn,
        options: &JoinOptions,
        (reference, is_personal, deadline_ms): (Option<Box<str>>, bool, u64),
        now: Now,
        doors: &mut impl Doors,
    ) {
        let stood = self.stands(key, conn).filter(|_| options.since.is_none());
        self.set_catch_up(key, conn, None);
        let ask = if is_personal { self.next_ask() } else { 0 };
        self.seat(key, conn, options, ask, now, doors);
        let epoch = options.epoch.clone().filter(|epoch| !matches!(epoch, EpochClaim::Named(name) if name.is_empty()));
        // Nothing seen yet: any life of the room will do, if it is whole.
        let claim = options.since.map(|since| (since, epoch.filter(|_| since > 0)));
        let last = options.last.unwrap_or(0).min(self.limits.replay_messages);
        let owed = Owed { reference, claim, last, stood, is_personal, members: None, deadline_ms };
        if is_personal {
            let catch_up = CatchUp { position: 0, owed: Some(owed), waits: Waits::Counted(ask), lenient_until: 0 };
            self.catch_ups.insert((key, conn.index), catch_up);
            return;
        }
        if !options.presence {
            return self.begin(key, conn, owed, now, doors);
        }
        let name = self.rooms[key as usize].name.clone();
        let who = self.ask_who(&name, now);
        self.reads.insert(who, Reading::Join { conn });
        let catch_up = CatchUp { position: 0, owed: Some(owed), waits: Waits::Present(who), lenient_until: 0 };
        self.catch_ups.insert((key, conn.index), catch_up);
    }

    /// A member has its place, and who is there is known if it asked: it goes live, or reads on from where it stands.
    pub(super) fn begin(&mut self, key: RoomKey, conn: Conn, owed: Owed, now: Now, doors: &mut impl Doors) {
        let room = &self.rooms[key as usize];
        let stands_here = match &owed.claim {
            Some((since, epoch)) => *since == room.last && epoch.as_ref().is_none_or(|epoch| epoch.is(room.epoch.as_str())),
            None => (owed.last == 0 || room.last == 0) && owed.stood.is_none_or(|stood| stood >= room.last),
        };
        let newest = owed.newest(room.last);
        let position = owed.claim.as_ref().map_or(newest, |(since, _)| *since);
        let lenient_until = if owed.claim.is_none() { Offset::MAX } else { 0 };
        if stands_here {
            self.answer(key, conn, &owed, None, doors);
            return self.set_live(key, conn);
        }
        // A claim that does not fit what this gateway knows may still be right: another one may be ahead. The owner's page
        // comes in order with its deliveries, so that by then this gateway knows as much as the owner.
        self.set_catch_up(key, conn, Some(CatchUp { position, owed: Some(owed), waits: Waits::Drain, lenient_until }));
        self.read_on(key, conn, now);
    }

    /// What a member has been sent, if its join was answered.
    fn stands(&self, key: RoomKey, conn: Conn) -> Option<Offset> {
        let room = &self.rooms[key as usize];
        if let Some(catch_up) = self.catch_ups.get(&(key, conn.index)) {
            return catch_up.owed.as_ref().map_or(Some(catch_up.position), |owed| owed.stood);
        }
        let joined = self.conns[conn.index as usize].joined.iter().find(|joined| joined.room == key)?;
        room.members.get(joined.place as usize).filter(|member| member.is_live).map(|_| room.last)
    }

    /// Gives a connection its place among the members, or the place that it has other options.
    fn seat(&mut self, key: RoomKey, conn: Conn, options: &JoinOptions, ask: u64, now: Now, doors: &impl Doors) {
        let room = &mut self.rooms[key as usize];
        let entries = &mut self.conns[conn.index as usize].joined;
        let index = entries.iter().position(|joined| joined.room == key).unwrap_or_else(|| {
            // It left between two joins that waited together.
            entries.push(Joined { room: key, place: NOT_YET });
            entries.len() - 1
        });
        let joined = &mut entries[index];
        let (user, client) = doors.identity(conn);
        let (echo, presence) = (options.echo, options.presence);
        let member = Member { conn, identity: identity_hash(user, client), is_live: false, echo, presence };
        let mut watched = false;
        if joined.place == NOT_YET {
            joined.place = room.members.len() as u32;
            room.members.push(member);
            self.report_came(key, conn, ask, now, doors);
        } else {
            watched = std::mem::replace(&mut room.members[joined.place as usize], member).presence;
        }
        if watched != presence {
            self.count_watcher(key, presence, now);
        }
    }

    fn answer(&mut self, key: RoomKey, conn: Conn, owed: &Owed, reason: Reason, doors: &mut impl Doors) {
        if owed.claim.is_some() {
            match reason {
                None => self.counts.recovered += 1,
                Some("trimmed") => self.counts.trimmed += 1,
                Some(_) => self.counts.other_life += 1,
            }
        }
        let room = &self.rooms[key as usize];
        if owed.is_personal {
            return doors.welcome(conn, &room.name, room.last, &room.epoch);
        }
        let joined = ServerFrame::Joined {
            room: &room.name,
            reference: owed.reference.as_deref(),
            offset: room.last,
            epoch: &room.epoch,
            recovered: reason.is_none(),
            reason,
            members: owed.members.as_ref(),
        };
        doors.frame(conn, &joined);
    }

    pub(super) fn set_live(&mut self, key: RoomKey, conn: Conn) {
        let joined = self.conns[conn.index as usize].joined.iter().find(|joined| joined.room == key).copied();
        if let Some(joined) = joined.filter(|joined| joined.place != NOT_YET) {
            self.rooms[key as usize].members[joined.place as usize].is_live = true;
        }
    }

    /// Asks for the next page of a member that catches up.
    pub(super) fn read_on(&mut self, key: RoomKey, conn: Conn, now: Now) {
        let name = self.rooms[key as usize].name.clone();
        if !self.turns.may_read(name.partition(), &self.limits) {
            self.catch_ups.get_mut(&(key, conn.index)).expect("it catches up").waits = Waits::Turn;
            return self.turns.wait(name, conn);
        }
        let position = self.catch_ups[&(key, conn.index)].position;
        let read = self.new_read(&name, read::Span::After(position), self.limits.replay_messages);
        self.catch_ups.get_mut(&(key, conn.index)).expect("found above").waits = Waits::Page(read.read);
        let partition = name.partition();
        self.reads.insert(read.read, Reading::CatchUp { conn, partition });
        self.turns.on_asked(partition);
        // A room that is being attached anew asks once it is.
        if self.rooms[key as usize].is_attached {
            self.owner(&name).queue(up::Item::Read(read), now.mono_ms);
        }
    }

    /// A page for a member that catches up.
    pub(super) fn on_replay(&mut self, conn: Conn, page: &Page, now: Now, doors: &mut impl Doors) {
        let Some(key) = self.names.get(page.room.as_str()).copied().filter(|_| self.is_here(conn)) else { return };
        let Some(mut catch_up) = self.catch_ups.remove(&(key, conn.index)) else { return };
        if catch_up.waits != Waits::Page(page.read) {
            // Another join took its place.
            self.catch_ups.insert((key, conn.index), catch_up);
            return;
        }
        let room = &self.rooms[key as usize];
        let head = room.last;
        let owed = catch_up.owed.take();
        let is_elsewhere = owed
            .as_ref()
            .and_then(|owed| owed.claim.as_ref())
            .is_some_and(|(since, epoch)| *since > head || epoch.as_ref().is_some_and(|epoch| !epoch.is(room.epoch.as_str())));
        let gone = page.first.saturating_sub(1);
        let is_trimmed = gone > catch_up.position.max(catch_up.lenient_until) && catch_up.position < head;
        let reason = match (is_elsewhere, is_trimmed) {
            (true, _) => Some("epoch"),
            (false, true) => Some("trimmed"),
            (false, false) => None,
        };
        // The newest few are counted from the head that it is told.
        let wants_newest = owed.as_ref().is_some_and(|owed| owed.claim.is_none());
        if reason.is_some() || wants_newest {
            catch_up.position = owed.as_ref().map_or(head, |owed| owed.newest(head));
            catch_up.lenient_until = head;
        }
        // A member that retention overtook in the middle is told as well, unasked.
        let overtaken =
            Owed { reference: None, claim: None, last: 0, stood: None, is_personal: false, members: None, deadline_ms: 0 };
        if let Some(owed) = owed.or(reason.map(|_| overtaken)) {
            self.answer(key, conn, &owed, reason, doors);
        }
        // The page of a claim that belongs elsewhere says nothing about the newest few.
        if catch_up.lenient_until > 0 && !is_elsewhere {
            catch_up.position = catch_up.position.max(gone.min(head));
        }
        let fitted = self.replay(key, conn, &mut catch_up, &page.messages, doors);
        if catch_up.position >= head {
            self.set_live(key, conn);
        } else {
            catch_up.waits = Waits::Drain;
            self.catch_ups.insert((key, conn.index), catch_up);
            if fitted && doors.outbox_bytes(conn) < self.limits.replay_outbox_bytes {
                self.read_on(key, conn, now);
            }
        }
        self.grant_wishes(key, now, doors);
    }

    /// Sends as much of a page as the outbox has room for; false if that was not all of it. The pages of many rooms, asked for
    /// while the outbox was empty, may come at once: what does not fit is asked for again when it has drained.
    fn replay<D: Doors>(
        &mut self,
        key: RoomKey,
        conn: Conn,
        catch_up: &mut CatchUp,
        messages: &[Message],
        doors: &mut D,
    ) -> bool {
        let mut shared = D::Shared::default();
        let room = &self.rooms[key as usize];
        let place = self.conns[conn.index as usize].joined.iter().find(|joined| joined.room == key).map(|joined| joined.place);
        let Some(member) = place.and_then(|place| room.members.get(place as usize)).copied() else { return true };
        for message in messages {
            // A page that starts above the position (the newest few of a trimmed room) is asked for anew.
            if message.offset.checked_sub(1) != Some(catch_up.position) {
                continue;
            }
            let Some(out) = outgoing(message) else { continue };
            let waiting = doors.outbox_bytes(conn);
            if waiting > 0 && waiting + message.payload.len() > self.limits.replay_outbox_bytes {
                return false;
            }
            catch_up.position = message.offset;
            // From here on it counts: what retention takes now is a loss.
            catch_up.lenient_until = 0;
            self.turns.on_replayed(message.payload.len());
            if member.is_own(message, doors) {
                doors.frame(conn, &own(message, &out));
            } else {
                self.counts.deliveries_out += 1;
                D::next_message(&mut shared);
                doors.message(conn, &out, &mut shared);
            }
        }
        true
    }

    /// The room has another life than the one that these members know: they are told, and go on from its head. One whose join
    /// is not answered yet is judged by its page, as always.
    pub(super) fn restart_members(&mut self, key: RoomKey, live_ones_too: bool, doors: &mut impl Doors) {
        let room = &self.rooms[key as usize];
        let (name, last, epoch): (RoomName, Offset, Epoch) = (room.name.clone(), room.last, room.epoch.clone());
        let concerned = room.members.iter().filter(|member| live_ones_too || !member.is_live);
        let members: Vec<Conn> = concerned.map(|member| member.conn).collect();
        for conn in members {
            if self.catch_ups.get(&(key, conn.index)).is_some_and(|catch_up| catch_up.owed.is_some()) {
                continue;
            }
            self.set_catch_up(key, conn, None);
            let joined = ServerFrame::Joined {
                room: &name,
                reference: None,
                offset: last,
                epoch: &epoch,
                recovered: false,
                reason: Some("epoch"),
                members: None,
            };
            doors.frame(conn, &joined);
            self.set_live(key, conn);
        }
    }

    /// Live members missed more than the owner has at hand: each reads on from where it stands.
    pub(super) fn members_fell_behind(&mut self, key: RoomKey, position: Offset, now: Now) {
        let room = &mut self.rooms[key as usize];
        let mut behind = Vec::new();
        for member in room.members.iter_mut().filter(|member| member.is_live) {
            member.is_live = false;
            behind.push(member.conn);
        }
        for conn in behind {
            self.set_catch_up(key, conn, Some(CatchUp { position, owed: None, waits: Waits::Drain, lenient_until: 0 }));
            self.read_on(key, conn, now);
        }
    }

    /// The link that carried these members' reads has broken: they are asked on the new one.
    pub(super) fn reread(&mut self, key: RoomKey, now: Now) {
        let room = &self.rooms[key as usize];
        let reading = room.members.iter().filter(|member| !member.is_live).map(|member| member.conn);
        for conn in reading.collect::<Vec<_>>() {
            match self.catch_ups.get(&(key, conn.index)).map(|catch_up| catch_up.waits) {
                Some(Waits::Page(read)) => {
                    self.take_reading(read);
                    self.read_on(key, conn, now);
                }
                Some(Waits::Present(who)) => {
                    self.reads.remove(&who);
                    let name = self.rooms[key as usize].name.clone();
                    let who = self.ask_who(&name, now);
                    self.reads.insert(who, Reading::Join { conn });
                    self.catch_ups.get_mut(&(key, conn.index)).expect("found above").waits = Waits::Present(who);
                }
                // Said again with the attach.
                Some(Waits::Counted(_)) => {}
                Some(Waits::Drain | Waits::Turn) | None => {}
            }
        }
    }

    /// A join or a read waited too long.
    pub(super) fn on_deadline(&mut self, waiting: Waiting, now: Now, doors: &mut impl Doors) {
        match waiting {
            Waiting::Read(read) => match self.reads.remove(&read) {
                Some(Reading::History(history)) => self.on_history_late(read, &history, now, doors),
                Some(Reading::Presence { conn, reference, room } | Reading::Erase { conn, reference, room })
                    if self.is_here(conn) =>
                {
                    retry_later(doors, conn, "no answer in time", reference.as_deref(), Some(&room), 1000);
                }
                _ => {}
            },
            Waiting::Join(name, conn) => {
                let Some(joined) = self.joined(conn, &name).filter(|_| self.is_here(conn)) else { return };
                let key = joined.room;
                let owed = self.catch_ups.get(&(key, conn.index)).and_then(|catch_up| catch_up.owed.as_ref());
                let owes = owed.is_some_and(|owed| owed.deadline_ms <= now.mono_ms);
                let is_late = |(wisher, wish): &(Conn, Wish)| *wisher == conn && wish.deadline_ms() <= now.mono_ms;
                let wishes = self.rooms[key as usize].wishes.iter().any(is_late);
                if !owes && !wishes {
                    return;
                }
                self.give_up_joins(key, conn, now, doors);
            }
        }
    }

    /// Tells a connection that what it wants of a room can't be had now, and takes it out: a member that is not shown the
    /// room's messages must not believe that it is one.
    pub(super) fn give_up_joins(&mut self, key: RoomKey, conn: Conn, now: Now, doors: &mut impl Doors) {
        let name = self.rooms[key as usize].name.clone();
        let catch_up = self.set_catch_up(key, conn, None);
        let mut references = Vec::new();
        let owed = catch_up.and_then(|catch_up| catch_up.owed);
        let since = owed.as_ref().and_then(|owed| owed.claim.as_ref()).map(|(since, _)| *since);
        references.extend(owed.filter(|owed| !owed.is_personal).map(|owed| owed.reference));
        let wishes = &mut self.rooms[key as usize].wishes;
        for (_, wish) in wishes.extract_if(.., |(wisher, _)| *wisher == conn) {
            match wish {
                Wish::Join { reference, is_personal: false, .. } | Wish::Leave { reference, .. } => references.push(reference),
                // The gateway closes a connection that could not begin.
                Wish::Join { .. } => {}
            }
        }
        for reference in references {
            retry_later(doors, conn, "the room can't be reached now", reference.as_deref(), Some(&name), 1000);
        }
        let is_member = self.joined(conn, &name).is_some_and(|joined| joined.place != NOT_YET);
        if is_member && name.owner() == Some(self.conns[conn.index as usize].user.as_str()) {
            // Every connection is in its personal room for life: it goes on from where it says it stands.
            let position = since.unwrap_or(self.rooms[key as usize].last);
            let catch_up = CatchUp { position, owed: None, waits: Waits::Drain, lenient_until: Offset::MAX };
            self.set_catch_up(key, conn, Some(catch_up));
            return self.retries.push((name, Some(conn)));
        }
        let joined = &mut self.conns[conn.index as usize].joined;
        if let Some(index) = joined.iter().position(|joined| joined.room == key) {
            let joined = joined.remove(index);
            if joined.place != NOT_YET {
                doors.frame(conn, &ServerFrame::Left { room: &name, reference: None });
            }
            let user = self.conns[conn.index as usize].user.clone();
            self.remove_member(conn, &user, joined, true, now);
        }
    }

    /// The token does not allow a room any more.
    pub fn expel(&mut self, conn: Conn, room: &RoomName, now: Now, doors: &mut impl Doors) {
        let Some(joined) = self.joined(conn, room).filter(|_| self.is_here(conn)) else { return };
        let memberships = &mut self.conns[conn.index as usize];
        memberships.joined.retain(|entry| entry.room != joined.room);
        let user = memberships.user.clone();
        let why = "the token does not allow this room any more";
        let owed = self.catch_ups.get(&(joined.room, conn.index)).and_then(|catch_up| catch_up.owed.as_ref());
        let mut asked: Vec<Option<Box<str>>> = owed.map(|owed| owed.reference.clone()).into_iter().collect();
        for (_, wish) in self.rooms[joined.room as usize].wishes.iter().filter(|(wisher, _)| *wisher == conn) {
            let (Wish::Join { reference, .. } | Wish::Leave { reference, .. }) = wish;
            asked.push(reference.clone());
        }
        for reference in asked.into_iter().flatten() {
            super::error(doors, conn, ErrorCode::Forbidden, why, Some(&reference), Some(room));
        }
        self.remove_member(conn, &user, joined, true, now);
        doors.frame(conn, &ServerFrame::Left { room, reference: None });
        super::error(doors, conn, ErrorCode::Forbidden, why, None, Some(room));
    }
}

impl Owed {
    /// Before the newest few that were asked for, and before what a member that joins again has not been sent.
    fn newest(&self, head: Offset) -> Offset {
        let newest = head.saturating_sub(u64::from(self.last));
        self.stood.map_or(newest, |stood| stood.min(newest))
    }
}

impl Wish {
    fn deadline_ms(&self) -> u64 {
        match self {
            Self::Join { deadline_ms, .. } | Self::Leave { deadline_ms, .. } => *deadline_ms,
        }
    }
}

impl Member {
    /// Whether the member is not sent this message because it said it.
    pub(super) fn is_own(&self, message: &Message, doors: &impl Doors) -> bool {
        !self.echo
            && !message.echo
            && !message.client.is_empty()
            && self.identity == identity_hash(&message.sender, &message.client)
            && doors.identity(self.conn) == (message.sender.as_str(), message.client.as_str())
    }
}
