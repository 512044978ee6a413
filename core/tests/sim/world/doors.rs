//! The clients' end of a gateway: frames become what a client saw.

use std::collections::HashMap;

use carillon_core::rooms::{Conn, Doors};
use carillon_proto::{
    codes::Close,
    frame::{Outgoing, ServerFrame},
    ids::{Epoch, Offset, RoomName},
};

use crate::client::Seen;

#[derive(Default)]
pub(crate) struct SimDoors {
    pub(super) people: HashMap<Conn, (String, String)>,
    pub(super) seen: Vec<(Conn, Seen)>,
}

impl Doors for SimDoors {
    type Shared = ();

    fn message(&mut self, to: Conn, message: &Outgoing<'_>, _: &mut ()) {
        let seen = Seen::Message {
            room: message.room.to_owned(),
            offset: message.offset,
            payload: String::from_utf8(message.payload.to_vec()).unwrap(),
            sender: (message.sender.to_owned(), self.client_of(message)),
            epoch: message.epoch.to_owned(),
        };
        self.seen.push((to, seen));
    }

    fn frame(&mut self, to: Conn, frame: &ServerFrame<'_>) {
        let seen = match *frame {
            ServerFrame::Joined { room, offset, epoch, recovered, members, .. } => {
                let members = members.map(|it| it.members.iter().map(|member| member.user.to_string()).collect());
                Seen::Joined { room: room.to_string(), offset, epoch: epoch.to_string(), recovered, members }
            }
            ServerFrame::UserJoined { room, user, count, .. } => {
                Seen::UserJoined { room: room.to_string(), user: user.to_owned(), count }
            }
            ServerFrame::UserLeft { room, user, count, .. } => {
                Seen::UserLeft { room: room.to_string(), user: user.to_owned(), count }
            }
            ServerFrame::Own { room, offset, .. } => Seen::Own { room: room.to_owned(), offset },
            ServerFrame::Ack { reference, room, stored, .. } => {
                Seen::Ack { reference: reference.to_owned(), room: room.to_string(), offset: stored.expect("stored").0 }
            }
            ServerFrame::Error { code, reference, outcome_unknown, .. } => {
                Seen::Error { reference: reference.map(str::to_owned), code: code.as_str(), outcome_unknown }
            }
            ServerFrame::History { room, messages, .. } => {
                Seen::History { room: room.to_string(), offsets: messages.iter().map(|message| message.offset).collect() }
            }
            ServerFrame::Left { .. } => Seen::Left,
            ref other => panic!("no client expects {other:?}"),
        };
        self.seen.push((to, seen));
    }

    fn welcome(&mut self, to: Conn, _: &RoomName, _: Offset, _: &Epoch) {
        self.seen.push((to, Seen::Welcome));
    }

    fn close(&mut self, _: Conn, why: Close) {
        panic!("nobody here has so many connections, and yet: {why:?}");
    }

    fn identity(&self, of: Conn) -> (&str, &str) {
        self.people.get(&of).map_or(("", ""), |(user, client)| (user, client))
    }

    fn info(&self, _: Conn) -> &str {
        ""
    }

    fn outbox_bytes(&self, _: Conn) -> usize {
        0
    }

    fn outbox_taken(&self, _: Conn) -> u32 {
        0
    }
}

impl SimDoors {
    /// Payloads name the client that said them.
    fn client_of(&self, message: &Outgoing<'_>) -> String {
        let payload = std::str::from_utf8(message.payload).unwrap();
        payload.trim_matches('"').split(':').next().unwrap().to_owned()
    }
}
