//! Who is told of who comes and goes, and when: not before all gateways that know better could be back, and of nobody who may come
//! back within the grace. Who is there stands in `presence`.

use std::collections::BTreeMap;

use carillon_proto::{
    ids::RoomName,
    link::{Came, Code, Counted, Present, UserIn, UserOut, Watch, Went, Who, down, failed},
};

use super::{
    Asker, Effect, Partition, Room,
    presence::{self, Change, Question},
    ready,
};
use crate::Now;

/// What to look at again, by when.
pub(super) type Later = BTreeMap<u64, Vec<(RoomName, Option<Box<str>>)>>;

impl Partition {
    pub(super) fn on_came(&mut self, asker: Asker, name: &RoomName, came: &Came, now: Now) {
        if !self.links.stands(asker.gateway, asker.link) {
            return;
        }
        let settled_ms = self.settled_ms.unwrap_or(0);
        let room = ready(&mut self.rooms, name);
        if room.presence.on_came(asker.gateway, &came.user, &came.info) == Change::In
            && room.presence.quiet_until_ms <= now.mono_ms
        {
            let count = room.presence.count();
            for watcher in &room.presence.watchers {
                let (user, info) = (came.user.clone(), came.info.clone());
                self.links.send_to(*watcher, down::Item::UserIn(UserIn { room: came.room.clone(), user, info, count }));
            }
            if self.config.tells_presence {
                let (room, user) = (name.clone(), came.user.as_str().into());
                self.effects.push_back(Effect::Present { room, user, is_here: true, users: count });
            }
        }
        if came.ask > 0 {
            let known_ms = settled_ms.max(room.presence.quiet_until_ms);
            let early = known_ms > now.mono_ms && room.presence.asking.len() < presence::MAX_ASKING;
            if early {
                room.presence.asking.push(Question { asker, ask: came.ask, counted: Some(came.user.as_str().into()) });
                look_later(&mut self.later, known_ms, name, None);
            }
            let connections = room.presence.connections(&came.user);
            let counted = Counted { ask: came.ask, room: came.room.clone(), connections, early };
            self.links.send(asker, down::Item::Counted(counted));
        }
    }

    pub(super) fn on_went(&mut self, asker: Asker, name: &RoomName, went: &Went, now: Now) {
        if !self.links.stands(asker.gateway, asker.link) {
            return;
        }
        let room = ready(&mut self.rooms, name);
        match room.presence.on_went(asker.gateway, &went.user, went.left, now.mono_ms) {
            Change::Out => self.user_is_out(name, &went.user, now),
            Change::Grace(at_ms) => look_later(&mut self.later, at_ms, name, Some(went.user.as_str().into())),
            Change::In | Change::Nothing => {}
        }
    }

    fn user_is_out(&mut self, name: &RoomName, user: &str, now: Now) {
        let Some(room) = self.rooms.get_mut(name).and_then(Room::known) else { return };
        let info = room.presence.remove(user);
        if room.presence.quiet_until_ms <= now.mono_ms {
            let count = room.presence.count();
            for watcher in &room.presence.watchers {
                let (room, user, info) = (name.to_string(), user.to_owned(), info.to_string());
                self.links.send_to(*watcher, down::Item::UserOut(UserOut { room, user, info, count }));
            }
            if self.config.tells_presence {
                self.effects.push_back(Effect::Present { room: name.clone(), user: user.into(), is_here: false, users: count });
            }
        }
        if room.routes.is_empty() {
            self.idle.push_back((now.mono_ms, name.clone()));
        }
    }

    pub(super) fn on_watch(&mut self, asker: Asker, name: &RoomName, watch: &Watch) {
        if !self.links.stands(asker.gateway, asker.link) {
            return;
        }
        let watchers = &mut ready(&mut self.rooms, name).presence.watchers;
        watchers.retain(|watcher| *watcher != asker.gateway);
        if watch.on {
            watchers.push(asker.gateway);
        }
    }

    pub(super) fn on_who(&mut self, asker: Asker, name: &RoomName, who: &Who, now: Now) {
        let room = ready(&mut self.rooms, name);
        // Whoever asks is told the truth, once it is known: at the end of the quiet. Those that watch are told then anyhow.
        if room.presence.quiet_until_ms > now.mono_ms {
            if who.who == 0 {
                return;
            }
            if room.presence.asking.len() < presence::MAX_ASKING {
                return room.presence.asking.push(Question { asker, ask: who.who, counted: None });
            }
            return self.fail(asker, name, Code::Unavailable, failed::Of::Who(who.who));
        }
        let present = room.presence.present(who.who, name.as_str());
        self.links.send(asker, down::Item::Present(present));
    }

    /// A user's grace may be over, or a room's quiet.
    pub(super) fn look_again(&mut self, name: &RoomName, user: Option<&str>, now: Now) {
        let Some(room) = self.rooms.get_mut(name).and_then(Room::known) else { return };
        match user {
            Some(user) if room.presence.is_over(user, now.mono_ms) => self.user_is_out(name, user, now),
            Some(_) => {}
            None if room.presence.quiet_until_ms > now.mono_ms => {}
            None => {
                let present = room.presence.present(0, name.as_str());
                for watcher in &room.presence.watchers {
                    self.links.send_to(*watcher, down::Item::Present(present.clone()));
                }
                let asked = std::mem::take(&mut room.presence.asking);
                for Question { asker, ask, .. } in asked.iter().filter(|question| question.counted.is_none()) {
                    self.links.send(*asker, down::Item::Present(Present { who: *ask, ..present.clone() }));
                }
                for (asker, ask, connections) in room.presence.counted_again(&asked) {
                    let counted = Counted { ask, room: name.to_string(), connections, early: false };
                    self.links.send(asker, down::Item::Counted(counted));
                }
                if self.config.tells_presence {
                    self.effects.push_back(Effect::Settled { room: name.clone() });
                }
            }
        }
    }

    /// How many users a room has, and whether this one is among them; `None` while gateways that know better may be on their way.
    pub fn occupancy(&self, room: &RoomName, user: &str, now: Now) -> Option<(u64, bool)> {
        let presence = match self.rooms.get(room) {
            None => return Some((0, false)),
            Some(Room::Ready(ready)) => &ready.presence,
            Some(Room::Loading { kept, .. }) => &kept.as_ref()?.presence,
        };
        (presence.quiet_until_ms <= now.mono_ms).then(|| (presence.count(), presence.knows(user)))
    }
}

pub(super) fn look_later(later: &mut Later, at_ms: u64, room: &RoomName, user: Option<Box<str>>) {
    later.entry(at_ms).or_default().push((room.clone(), user));
}
