//! Any history of joins, drops, slow readers, lost batches, a slow log, trimmed and emptied rooms: whoever was told that it was
//! recovered has missed nothing, whoever was told that it was not has been told the truth, and in the end all are live.

use std::time::Duration;

use carillon_core::rooms::RoomLimits;
use carillon_proto::frame::Span;
use proptest::prelude::*;

use crate::{
    client::{Join, Place, REPLAY},
    world::{FRAME, PAGE, World},
};

const ROOMS: [&str; 2] = ["lobby", "attic"];
const CLIENTS: usize = 4;

#[derive(Debug, Clone)]
enum Step {
    Say { room: usize, count: u64 },
    Join { client: usize, room: usize, how: How, last: Option<u32> },
    Leave { client: usize, room: usize },
    Drop { client: usize },
    Take { client: usize, frames: usize },
    History { client: usize, room: usize, span: Span, limit: u32 },
    Lose { room: usize, batches: u32 },
    HoldAppends,
    HoldReads,
    Release,
    Wait { ms: u64 },
}

#[derive(Debug, Clone)]
enum How {
    Anew,
    /// Where it stands, or so far behind that.
    Behind {
        by: u64,
        names_epoch: bool,
    },
    FromTheStart,
    Ahead,
    OfAnotherLife,
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![
        Just(How::Anew),
        (0..15u64, any::<bool>()).prop_map(|(by, names_epoch)| How::Behind { by, names_epoch }),
        Just(How::FromTheStart),
        Just(How::Ahead),
        Just(How::OfAnotherLife),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let (client, room) = (0..CLIENTS, 0..ROOMS.len());
    let span = prop_oneof![Just(Span::Newest), (0..40u64).prop_map(Span::After), (1..40u64).prop_map(Span::Before)];
    let last = proptest::option::of(0..8u32);
    prop_oneof![
        8 => (room.clone(), 1..6u64).prop_map(|(room, count)| Step::Say { room, count }),
        6 => (client.clone(), room.clone(), how(), last).prop_map(|(client, room, how, last)| Step::Join { client, room, how, last }),
        1 => (client.clone(), room.clone()).prop_map(|(client, room)| Step::Leave { client, room }),
        2 => client.clone().prop_map(|client| Step::Drop { client }),
        8 => (client.clone(), 1..10usize).prop_map(|(client, frames)| Step::Take { client, frames }),
        3 => (client, room.clone(), span, 1..12u32).prop_map(|(client, room, span, limit)| Step::History { client, room, span, limit }),
        1 => (room, 1..4u32).prop_map(|(room, batches)| Step::Lose { room, batches }),
        1 => Just(Step::HoldAppends),
        1 => Just(Step::HoldReads),
        3 => Just(Step::Release),
        4 => (1..6_000u64).prop_map(|ms| Step::Wait { ms }),
    ]
}

fn play(steps: &[Step]) {
    let limits = RoomLimits {
        replay_messages: REPLAY,
        replay_outbox_bytes: 3 * FRAME,
        replay_total_bytes: 2 * PAGE + 6 * FRAME,
        replay_pages: 2,
        ..RoomLimits::default()
    };
    let mut world = World::new(limits);
    for client in 0..CLIENTS {
        world.connect(&format!("client{client}"));
    }
    for step in steps {
        take(&mut world, step);
        for client in 0..CLIENTS {
            if world.is_closed(client) {
                world.disconnect(client);
                world.come(client);
            }
        }
    }
    world.calm_down();
    world.check();
}

fn take(world: &mut World, step: &Step) {
    match *step {
        Step::Say { room, count } => world.say(ROOMS[room], count),
        Step::Join { client, room, ref how, last } if world.clients[client].is_welcome => {
            let known = &world.clients[client];
            let position = match known.places.get(ROOMS[room]) {
                Some(Place::After(position) | Place::Newest { head: position, .. }) => *position,
                None => 0,
            };
            let epoch = known.epochs.get(ROOMS[room]).cloned();
            let join = Join { last, ..Join::default() };
            let join = match *how {
                How::Anew => join,
                How::Behind { by, names_epoch } => {
                    Join { since: Some(position.saturating_sub(by)), epoch: epoch.filter(|_| names_epoch), ..join }
                }
                How::FromTheStart => Join { since: Some(0), epoch: Some("another.1".into()), ..join },
                How::Ahead => Join { since: Some(position + 50), epoch, ..join },
                How::OfAnotherLife => Join { since: Some(position.max(1)), epoch: Some("another.1".into()), ..join },
            };
            world.join(client, ROOMS[room], join);
        }
        Step::Leave { client, room } if world.clients[client].is_welcome => world.leave(client, ROOMS[room]),
        Step::Drop { client } => {
            world.disconnect(client);
            world.come(client);
        }
        Step::Take { client, frames } => world.take(client, frames),
        Step::History { client, room, span, limit } if world.clients[client].is_welcome => {
            world.history(client, ROOMS[room], span, limit);
        }
        Step::Lose { room, batches } => world.lose(ROOMS[room], batches),
        Step::HoldAppends => world.hold_appends(),
        Step::HoldReads => world.hold_reads(),
        Step::Release => world.release(),
        Step::Wait { ms } => world.wait(Duration::from_millis(ms)),
        Step::Join { .. } | Step::Leave { .. } | Step::History { .. } => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn members_that_come_back_are_told_the_truth(steps in proptest::collection::vec(step(), 1..80)) {
        play(&steps);
    }
}
