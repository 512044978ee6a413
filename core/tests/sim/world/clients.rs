//! What clients do: connect, join, speak, look back, go away.

use std::sync::Arc;

use carillon_core::{
    Now,
    grants::Grants,
    rooms::{Conn, Publishing},
};
use carillon_proto::{
    frame::{EpochClaim, JoinOptions, Span},
    ids::{RoomName, UserId},
};

use super::{GATEWAYS, Gateway, HANDSHAKE_MS, World};
use crate::{
    client::{Line, Outcome, Said},
    sabotage::Sabotage,
};

impl World {
    pub(super) fn step_client(&mut self, index: usize, busy: bool) {
        let now = self.now();
        match self.clients[index].line {
            Line::Down { until_ms } if self.now_ms >= until_ms => {
                let at = self.chance.below(GATEWAYS as u64) as usize;
                let is_forgetful = self.is_without(Sabotage::Exclusion);
                let gateway = &mut self.gateways[at];
                self.lives += 1;
                let life = self.lives as u32;
                let client = &mut self.clients[index];
                let conn = Conn { index: gateway.rooms.next_index(), life };
                let mut name = client.name.clone();
                if is_forgetful {
                    name += &format!("-{life}");
                }
                gateway.doors.people.insert(conn, (client.user.clone(), name));
                let user = UserId::parse(&client.user).unwrap();
                let grants = Grants::new(user.clone(), None);
                client.connections += 1;
                client.line = Line::Up { gateway: at, conn, welcomed: false, since_ms: self.now_ms };
                gateway.rooms.connect(life, user, grants.personal(), now, &mut gateway.doors);
            }
            Line::Up { gateway, conn, .. } if busy && self.chance.permille(self.faults.drop_client) => {
                self.gateways[gateway].rooms.disconnect(conn, now);
                self.gateways[gateway].doors.people.remove(&conn);
                let until_ms = self.now_ms + self.chance.below(3000);
                self.clients[index].on_down(until_ms);
            }
            // The gateway's own rule: who is not welcomed in time is sent away.
            Line::Up { gateway, conn, welcomed: false, since_ms } if self.now_ms > since_ms + HANDSHAKE_MS => {
                self.gateways[gateway].rooms.disconnect(conn, now);
                self.clients[index].on_down(self.now_ms + 100);
            }
            Line::Up { gateway, conn, welcomed: true, .. } => self.act(index, gateway, conn, busy),
            _ => {}
        }
    }

    fn act(&mut self, index: usize, gateway: usize, conn: Conn, busy: bool) {
        let now = self.now();
        let gateway = &mut self.gateways[gateway];
        let client = &mut self.clients[index];
        let grants = Arc::new(Grants::new(UserId::parse(&client.user).unwrap(), None));
        for room in &self.rooms {
            let known = client.rooms.entry(room.as_str().to_owned()).or_default();
            if !known.wants && busy && self.chance.percent(2) {
                known.wants = true;
            }
            if known.wants && !known.asked {
                known.asked = true;
                let options = JoinOptions {
                    since: known.position,
                    epoch: known.position.map(|_| EpochClaim::Named(known.epoch.as_str().into())),
                    echo: client.echo,
                    presence: client.presence,
                    ..JoinOptions::default()
                };
                let reference = format!("\"join {room}\"");
                let permit = grants.join(room.clone()).unwrap();
                gateway.rooms.join(conn, &permit, options, Some(&reference), now, &mut gateway.doors);
            }
        }
        // What has no outcome since its connection broke is said again under its key, as the clients of the product do.
        for number in 0..client.said.len() {
            let said = &mut client.said[number];
            if said.outcome == Outcome::Unknown && said.key.is_some() && said.connection < client.connections {
                (said.outcome, said.is_repeated, said.connection) = (Outcome::Open, true, client.connections);
                say(conn, gateway, &grants, said, number, now);
            }
        }
        if busy && self.chance.percent(20) {
            let room = self.rooms[self.chance.below(self.rooms.len() as u64) as usize].as_str();
            for _ in 0..=self.chance.below(3) {
                let number = client.said.len();
                let key = self.chance.percent(50).then(|| format!("{}-{number}", client.name));
                let said = Said::new(room, format!("\"{}:{number}\"", client.name), key, client.connections);
                say(conn, gateway, &grants, &said, number, now);
                client.said.push(said);
            }
        }
        if busy && self.chance.percent(3) {
            let room = self.rooms[self.chance.below(self.rooms.len() as u64) as usize].clone();
            let span = match self.chance.below(3) {
                0 => Span::Newest,
                1 => Span::After(self.chance.below(40)),
                _ => Span::Before(1 + self.chance.below(40)),
            };
            let limit = 1 + self.chance.below(20) as u32;
            let permit = grants.read(room).unwrap();
            gateway.rooms.history(conn, &permit, span, limit, Some("\"history\""), now, &mut gateway.doors);
        }
    }

    pub(super) fn write_everywhere(&mut self, index: usize, gateway: usize, conn: Conn) {
        let now = self.now();
        let (client, gateway) = (&mut self.clients[index], &mut self.gateways[gateway]);
        let grants = Grants::new(UserId::parse(&client.user).unwrap(), None);
        for room in &self.rooms {
            let number = client.said.len();
            let said = Said::new(room.as_str(), format!("\"{}:{number}\"", client.name), None, client.connections);
            say(conn, gateway, &grants, &said, number, now);
            client.said.push(said);
        }
    }
}

fn say(conn: Conn, gateway: &mut Gateway, grants: &Grants, said: &Said, number: usize, now: Now) {
    let permit = grants.publish(RoomName::parse(&said.room).unwrap()).unwrap();
    let publishing = Publishing {
        payload: &said.payload,
        key: said.key.as_deref(),
        echo: false,
        ephemeral: false,
        reference: Some(&number.to_string()),
        traceparent: "",
    };
    gateway.rooms.publish(conn, &permit, &publishing, now, &mut gateway.doors);
}
