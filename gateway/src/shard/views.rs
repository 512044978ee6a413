//! What a shard shows an admin: its connections and rooms, looked at a piece at a time, so that messages pass in between.

use std::{cell::RefCell, rc::Rc};

use tokio::{sync::mpsc, task::yield_now};

use super::Shard;
use crate::{
    desk::{Ask, Best, ConnectionLine, ConnectionsAsked, Found, RoomLine, RoomsAsked},
    door::Door,
};

/// Places that are looked at in one go: some tens of microseconds.
const PIECE: usize = 512;

/// Answers what is asked of this shard, one question after the other, for as long as it lives.
pub(super) async fn answer(shard: Rc<RefCell<Shard>>, (number, mut asked): (usize, mpsc::Receiver<Ask>)) {
    while let Some(ask) = asked.recv().await {
        // Whoever has gone meanwhile wants no answer.
        match ask {
            Ask::Connections(asked, answer) => drop(answer.send(connections(&shard, number, &asked).await)),
            Ask::Rooms(asked, answer) => drop(answer.send(rooms(&shard, &asked).await)),
            Ask::Owners(answer) => drop(answer.send(shard.borrow().rooms.generations().collect())),
        }
    }
}

async fn connections(shard: &RefCell<Shard>, number: usize, asked: &ConnectionsAsked) -> Found<ConnectionLine> {
    let mut found = Found { count: 0, lines: Vec::new(), more: false };
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
                if asked.after.is_some_and(|after| (number, conn.index) <= after) {
                    return;
                }
                if found.lines.len() >= asked.limit {
                    found.more = true;
                    return;
                }
                found.lines.push(ConnectionLine {
                    place: (number, conn.index),
                    id: hub.id(conn),
                    user: user.to_owned(),
                    client: connection.session.client().as_str().to_owned(),
                    door: connection.door.index(),
                    rooms: rooms.rooms_of(conn).count(),
                    outbox_bytes: connection.waiting_bytes(),
                    since_s,
                });
            });
        }
        yield_now().await;
    }
    found
}

async fn rooms(shard: &RefCell<Shard>, asked: &RoomsAsked) -> Found<RoomLine> {
    let mut best = Best::new(asked);
    let mut place = Some(0);
    while let Some(from) = place {
        {
            let shard = shard.borrow();
            place = shard.rooms.survey(from, PIECE, shard.now(), |view| best.add(view));
        }
        yield_now().await;
    }
    best.found()
}
