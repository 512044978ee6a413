//! What a shard shows an admin: its connections, looked at a piece at a time, so that messages pass in between.

use std::{cell::RefCell, rc::Rc};

use carillon_proto::survey::{Connection, ConnectionPlace};
use tokio::{sync::mpsc, task::yield_now};

use super::Shard;
use crate::{
    desk::{Ask, Found, is_shown_already},
    door::Door,
};

/// Places that are looked at in one go: some tens of microseconds.
const PIECE: usize = 512;

/// Answers what is asked of this shard, one question after the other, for as long as it lives.
pub(super) async fn answer(shard: Rc<RefCell<Shard>>, (number, mut asked): (usize, mpsc::Receiver<Ask>)) {
    while let Some(ask) = asked.recv().await {
        let found = connections(&shard, number as u32, &ask).await;
        // Whoever has gone meanwhile wants no answer.
        let _ = ask.answer.send(found);
    }
}

async fn connections(shard: &RefCell<Shard>, number: u32, Ask { gateway, asked, .. }: &Ask) -> Found {
    let mut found = Found::default();
    let mut place = Some(0);
    while let Some(from) = place {
        {
            let Shard { hub, rooms, .. } = &*shard.borrow();
            place = hub.survey(from, PIECE, |conn, connection, since_s| {
                let user = connection.session.user().as_str();
                let is_other = asked.user.as_ref().is_some_and(|asked| asked != user);
                if is_other || matches!(connection.door, Door::Request(_)) {
                    return;
                }
                found.count += 1;
                if is_shown_already(asked, gateway, number, conn.index) {
                    return;
                }
                if found.lines.len() >= asked.limit as usize {
                    found.more = true;
                    return;
                }
                found.lines.push(Connection {
                    place: Some(ConnectionPlace { gateway: gateway.clone(), shard: number, index: conn.index }),
                    id: hub.id(conn),
                    user: user.to_owned(),
                    client: connection.session.client().as_str().to_owned(),
                    door: connection.door.index() as u32,
                    rooms: rooms.rooms_of(conn).count() as u32,
                    outbox_bytes: connection.waiting_bytes() as u64,
                    since_s: since_s.into(),
                });
            });
        }
        yield_now().await;
    }
    found
}
