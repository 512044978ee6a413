//! Which gateways a room's messages go to: those that attached it, for as long as their links stand.

use carillon_proto::{
    ids::{GatewayId, RoomName},
    link::{Attach, Attached, Message, down},
};

use super::{Asker, Effect, Partition, Room, presence, ready, telling::look_later};
use crate::Now;

impl Partition {
    pub(super) fn on_attach(&mut self, asker: Asker, name: RoomName, attach: &Attach, now: Now) {
        if !self.links.attach(asker.gateway, asker.link, &name) {
            return;
        }
        let room = ready(&mut self.rooms, &name);
        // Nobody is shown what the log has not acked, and the head comes from the log.
        if attach.since.is_some_and(|since| since > room.head) && attach.epoch == room.epoch.as_str() && !room.epoch.is_none() {
            return self.effects.push_back(Effect::TailLost);
        }
        // The gateway knew the room before this owner knew the gateway: others that did may not be back yet.
        if attach.since.is_some() && !self.links.is_return(asker.gateway) && room.presence.quiet_until_ms <= now.mono_ms {
            room.presence.quiet_until_ms = now.mono_ms + presence::QUIET_MS;
            look_later(&mut self.later, room.presence.quiet_until_ms, &name, None);
        }
        if !room.routes.contains(&asker.gateway) {
            room.routes.push(asker.gateway);
        }
        // A gateway that has seen more than there is knows another life of the room: it is told where this one stands.
        let known = attach.since.filter(|since| *since == 0 || (*since <= room.head && attach.epoch == room.epoch.as_str()));
        let missed = known.and_then(|since| room.ring.after(since, room.head));
        let attached = Attached {
            room: attach.room.clone(),
            head: if missed.is_some() { known.unwrap_or(room.head) } else { room.head },
            epoch: room.told_epoch(),
            gap: missed.is_none() && known.is_some(),
            newest: room.head,
        };
        let missed: Vec<Message> = missed.into_iter().flatten().cloned().collect();
        self.on_ring_used(&name);
        self.links.send(asker, down::Item::Attached(attached));
        for message in missed {
            self.links.send(asker, down::Item::Message(message));
        }
    }

    pub(super) fn drop_routes(&mut self, gateway: GatewayId, left: Vec<RoomName>, now: Now) {
        for room in left {
            self.drop_route(gateway, &room, now);
        }
    }

    pub(super) fn drop_route(&mut self, gateway: GatewayId, name: &RoomName, now: Now) {
        if let Some(room) = self.rooms.get_mut(name).and_then(Room::known) {
            room.routes.retain(|route| *route != gateway);
            for user in room.presence.on_gateway_gone(gateway, now.mono_ms) {
                look_later(&mut self.later, now.mono_ms + presence::GRACE_MS, name, Some(user));
            }
            if room.routes.is_empty() {
                self.idle.push_back((now.mono_ms, name.clone()));
            }
        }
    }
}
