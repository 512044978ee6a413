//! What a member that comes back may rely on, against one gateway, its owners and a log that retention trims and empties:
//! first by hand, then by chance (`properties`), judged by what the log has ever held.

mod client;
mod properties;
mod world;

use std::time::Duration;

use carillon_core::rooms::RoomLimits;
use client::{Join, REPLAY};
use world::{PAGE, World};

const LOBBY: &str = "lobby";

fn limits() -> RoomLimits {
    // Three frames fill an outbox.
    RoomLimits { replay_messages: REPLAY, replay_outbox_bytes: 3 * world::FRAME, ..RoomLimits::default() }
}

fn since(since: u64) -> Join {
    Join { since: Some(since), ..Join::default() }
}

#[test]
fn join_without_answer_ends_in_time() {
    for (waits_for, presence) in [("the attach", false), ("who is there", true), ("a page", false)] {
        let mut world = World::new(limits());
        world.say(LOBBY, 3);
        let ada = world.connect("ada");
        if waits_for != "the attach" {
            // A room of the gateway already: what is asked now is the second question of its link.
            world.join_now(ada, LOBBY, Join::default());
        }
        world.lose(LOBBY, u32::MAX);
        let reference = world.join(ada, LOBBY, Join { presence, ..since(1) });
        world.wait(Duration::from_millis(9_750));
        assert!(!world.is_refused(ada, &reference), "too early, waiting for {waits_for}");
        world.wait(Duration::from_millis(250));
        assert!(world.is_refused(ada, &reference), "too late, waiting for {waits_for}");
    }
}

#[test]
fn replaced_join_leaves_no_page_behind() {
    let mut world = World::new(RoomLimits { replay_pages: 1, ..limits() });
    world.say(LOBBY, 12);
    let (ada, bob) = (world.connect("ada"), world.connect("bob"));
    world.join_now(ada, LOBBY, since(0));
    // Its first page is on its way to it, and the next one to the gateway, when it joins anew and the link breaks.
    world.lose(LOBBY, u32::MAX);
    world.take(ada, usize::MAX);
    world.join(ada, LOBBY, Join::default());
    world.lose(LOBBY, 0);
    world.wait(Duration::from_secs(4));
    world.join_now(bob, LOBBY, since(0));
    world.calm_down();
    assert_eq!(world.position(bob, LOBBY), 12);
}

#[test]
fn pages_under_way_are_bounded() {
    let mut world = World::new(RoomLimits { replay_pages: 3, ..limits() });
    let elsewhere = world.another_partition_than(LOBBY);
    world.say(LOBBY, 12);
    world.say(&elsewhere, 12);
    let members: Vec<_> = (0..20).map(|number| world.connect(&format!("member{number}"))).collect();
    world.hold_reads();
    for member in &members {
        world.join(*member, LOBBY, since(0));
    }
    assert_eq!(world.reads_under_way(LOBBY), 3);
    world.join(members[0], &elsewhere, since(0));
    assert_eq!(world.reads_under_way(&elsewhere), 1, "a partition that does not answer keeps no other one waiting");
    world.calm_down();
    for member in members {
        assert_eq!(world.position(member, LOBBY), 12);
    }
}

/// Outboxes are full with what `slow` and `stuck` have not taken, and `ada` waits for her turn.
fn full_world() -> (World, [usize; 3]) {
    let mut world = World::new(RoomLimits { replay_total_bytes: PAGE + 4 * world::FRAME, ..limits() });
    world.say(LOBBY, 12);
    let [slow, stuck, ada] = ["slow", "stuck", "ada"].map(|name| world.connect(name));
    for member in [slow, stuck] {
        world.join(member, LOBBY, since(0));
    }
    world.fill(slow, PAGE);
    world.fill(stuck, PAGE);
    world.join(ada, LOBBY, since(0));
    assert!(!world.is_joined(ada, LOBBY), "there is no room");
    (world, [slow, stuck, ada])
}

#[test]
fn stalled_make_room_for_those_that_wait() {
    let (mut world, [slow, stuck, ada]) = full_world();
    for _ in 0..12 {
        world.wait(Duration::from_millis(500));
        world.take_bytes(slow, 10);
    }
    assert!(world.is_closed(stuck), "it has taken nothing for five seconds");
    assert!(!world.is_closed(slow), "it takes what it can");
    world.take(slow, usize::MAX);
    world.calm_down();
    assert_eq!(world.position(ada, LOBBY), 12);
}

#[test]
fn stalled_are_left_alone_while_nobody_waits() {
    let (mut world, [slow, stuck, ada]) = full_world();
    world.disconnect(ada);
    world.wait(Duration::from_secs(20));
    assert!(!world.is_closed(slow) && !world.is_closed(stuck));
}
