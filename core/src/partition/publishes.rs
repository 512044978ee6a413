//! Publishes become appends, and what the log has acked goes out: first the answer, then the message to every gateway with members.

use bytes::Bytes;
use carillon_proto::{
    ids::{Epoch, GatewayId, MessageId, RoomName},
    link::{Code, Message, Publish, Published, down, failed},
    log::{self, Record},
};
use prost::Message as _;

use super::{
    Asker, Effect, InFlight, Partition, ready,
    repeats::{Known, Outcome},
};
use crate::Now;

impl Partition {
    pub(super) fn on_publish(&mut self, asker: Asker, name: RoomName, publish: Publish, now: Now) {
        if !is_json_sized(&publish) {
            return;
        }
        let room = ready(&mut self.rooms, &name);
        if publish.ephemeral {
            room.pace.add(now.mono_ms);
            let message = Message {
                room: publish.room,
                ts: now.unix_ms,
                sender: publish.user,
                client: publish.client,
                echo: publish.echo,
                payload: publish.payload,
                traceparent: publish.traceparent,
                ..Message::default()
            };
            for gateway in &room.routes {
                self.links.send_to(*gateway, down::Item::Message(message.clone()));
            }
            let told = Published { publish: publish.publish, room: message.room, ts: now.unix_ms, ..Published::default() };
            return self.links.send(asker, down::Item::Published(told));
        }
        if self.repeats.is_settled(asker.gateway, publish.publish) {
            return;
        }
        match self.repeats.find(asker.gateway, &publish) {
            Some(Known { outcome: Outcome::Stored { offset, id, ts }, by_key }) => {
                let told = Published {
                    publish: publish.publish,
                    room: publish.room,
                    offset,
                    id: Bytes::copy_from_slice(&id.0),
                    ts,
                    duplicate: by_key,
                };
                return self.links.send(asker, down::Item::Published(told));
            }
            Some(Known { outcome: Outcome::InFlight { sequence }, by_key }) => {
                let index = self.in_flight.len() as u64 - 1 - (self.start.last_sequence - sequence);
                self.in_flight[index as usize].waiting.push((asker, publish.publish, by_key));
                return;
            }
            None => {}
        }
        let bytes = self.in_flight_bytes + publish.payload.len();
        if self.in_flight.len() >= self.config.window || (bytes > self.config.window_bytes && self.in_flight_bytes > 0) {
            return self.fail(asker, &name, Code::Unavailable, failed::Of::Publish(publish.publish));
        }
        self.append(asker, name, publish, now);
    }

    fn append(&mut self, asker: Asker, name: RoomName, publish: Publish, now: Now) {
        let room = ready(&mut self.rooms, &name);
        self.start.last_sequence += 1;
        let sequence = self.start.last_sequence;
        room.assigned += 1;
        if room.assigned == 1 {
            room.epoch = Epoch::new(&self.start.incarnation, sequence);
        }
        room.ts = room.ts.max(now.unix_ms);
        self.ids = self.ids.wrapping_add(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        let id = MessageId::new(room.ts, self.start.seed ^ self.ids);
        self.repeats.on_assigned(asker.gateway, &publish, sequence, now.mono_ms);
        self.in_flight_bytes += publish.payload.len();
        let message = Message {
            room: publish.room,
            offset: room.assigned,
            epoch: room.epoch.as_str().to_owned(),
            id: Bytes::copy_from_slice(&id.0),
            ts: room.ts,
            sender: publish.user,
            client: publish.client,
            echo: publish.echo,
            key: publish.key,
            payload: publish.payload,
            traceparent: publish.traceparent,
        };
        let record = to_record(&message, asker.gateway, publish.publish);
        self.effects.push_back(Effect::Append {
            room: name.clone(),
            offset: message.offset,
            sequence,
            record: record.encode_to_vec().into(),
            traceparent: record.traceparent,
        });
        self.in_flight.push_back(InFlight {
            room: name,
            message,
            publisher: asker.gateway,
            publish: publish.publish,
            waiting: vec![(asker, publish.publish, false)],
        });
    }

    /// The log acked the oldest append under way.
    pub fn on_appended(&mut self, now: Now) {
        let Some(done) = self.in_flight.pop_front() else { return };
        let InFlight { room: name, message, publisher, publish, waiting } = done;
        self.in_flight_bytes -= message.payload.len();
        let id = MessageId::from_wire(&message.id).expect("made by append");
        self.repeats.on_stored(publisher, publish, &message, id, now.mono_ms);
        let through = self.acked();
        let room = ready(&mut self.rooms, &name);
        room.head = message.offset;
        room.pace.add(now.mono_ms);
        // The answer first: were it lost with the message still told, the sender would see a later message before it.
        for (asker, publish, duplicate) in waiting {
            let told = Published {
                publish,
                room: message.room.clone(),
                offset: message.offset,
                id: message.id.clone(),
                ts: message.ts,
                duplicate,
            };
            self.links.send(asker, down::Item::Published(told));
        }
        for gateway in &room.routes {
            self.links.send_to(*gateway, down::Item::Message(message.clone()));
        }
        if room.keep.purges_at(room.head) {
            self.effects.push_back(Effect::Trim { room: name.clone(), below: room.keep.floor(room.head), through });
        }
        if room.routes.is_empty() {
            self.idle.push_back((now.mono_ms, name.clone()));
        }
        self.keep_at_hand(&name, message);
        self.erase_if_still(&name);
    }
}

/// Strangers on the subject may send anything; nothing of it may grow what is stored beyond what a gateway would send.
fn is_json_sized(publish: &Publish) -> bool {
    !publish.payload.is_empty() && publish.user.len() <= 128 && publish.client.len() <= 64 && publish.key.len() <= 64
}

fn to_record(message: &Message, gateway: GatewayId, publish: u64) -> Record {
    Record {
        version: log::VERSION,
        room: message.room.clone(),
        offset: message.offset,
        epoch: message.epoch.clone(),
        id: message.id.clone(),
        ts: message.ts,
        sender: message.sender.clone(),
        client: message.client.clone(),
        echo: message.echo,
        key: message.key.clone(),
        payload: message.payload.clone(),
        gateway: Bytes::copy_from_slice(&gateway.0),
        publish,
        traceparent: message.traceparent.clone(),
    }
}
