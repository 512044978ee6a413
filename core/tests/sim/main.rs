//! A simulated world around the rules: gateways, owners, log, bus and clients on one made-up clock, everything that may
//! go wrong going wrong by chance. One seed is one history: a failing one is printed, and
//! `SIM_SEED=<seed> cargo test -p carillon-core --test sim` plays it again. `SIM_SEEDS=<n>` plays more than CI does.

mod chance;
mod client;
mod log;
mod replica;
mod sabotage;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use world::{Faults, World};

/// Seeds per kind of world in an ordinary test run: about ten seconds of a debug build.
const SEEDS: u64 = 50;

fn play(name: &str, faults: Faults) {
    let one = std::env::var("SIM_SEED").ok().map(|seed| seed.parse::<u64>().expect("SIM_SEED is a number"));
    let count = std::env::var("SIM_SEEDS").ok().map_or(SEEDS, |count| count.parse().expect("SIM_SEEDS is a number"));
    let seeds = one.map_or(0..count, |seed| seed..seed + 1);
    for seed in seeds {
        let result = catch_unwind(AssertUnwindSafe(|| World::new(seed, faults, None).play()));
        if let Err(panic) = result {
            eprintln!("{name}: seed {seed} fails; SIM_SEED={seed} plays it again");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn calm_world_loses_nothing() {
    play("calm", Faults::NONE);
}

#[test]
fn lossy_bus_loses_nothing() {
    play("lossy bus", Faults { lose: 3, double: 3, delay: 10, ..Faults::NONE });
}

#[test]
fn reconnecting_clients_miss_nothing() {
    play("reconnects", Faults { drop_client: 8, ..Faults::NONE });
}

#[test]
fn crashing_owners_lose_nothing() {
    play("owner crashes", Faults { crash_owner: 2, drop_client: 2, ..Faults::NONE });
}

#[test]
fn crashing_gateways_lose_nothing() {
    play("gateway crashes", Faults { crash_gateway: 1, drop_client: 1, ..Faults::NONE });
}

#[test]
fn everything_at_once_loses_nothing() {
    let bus = Faults { lose: 2, double: 2, delay: 5, cut: 1, ..Faults::NONE };
    let ends = Faults { drop_client: 3, crash_owner: 1, crash_gateway: 1, pause_owner: 1, replace_owner: 2, ..bus };
    play("everything", Faults { skew: 2, log: 1, stall: 1, ..ends });
}

#[test]
fn zombie_owners_lose_nothing() {
    play("zombies", Faults { pause_owner: 4, drop_client: 2, ..Faults::NONE });
}

#[test]
fn moving_owners_lose_nothing() {
    play("hand-overs", Faults { replace_owner: 8, drop_client: 2, lose: 1, ..Faults::NONE });
}

#[test]
fn forgetful_log_loses_nothing() {
    play("lost acks", Faults { log: 3, skew: 5, crash_owner: 1, drop_client: 2, ..Faults::NONE });
}

#[test]
fn retention_takes_the_oldest_alone() {
    play("retention", Faults { keep: 25, drop_client: 6, crash_owner: 1, pause_owner: 1, ..Faults::NONE });
}

const LOST_TAILS: Faults = Faults { lose_tail: 3, drop_client: 4, ..Faults::NONE };

#[test]
fn lost_tails_are_told() {
    play("lost tails", LOST_TAILS);
}

/// Histories that failed once. 2620: a log that was shorter than what it had acked looked longer, since its marker was counted as one
/// message. 2640: a client that was told of its own first message by an ack, which names no epoch, came back after a loss, and was
/// not told that the room lives anew; which is at its own risk.
#[test]
fn lost_tails_that_were_missed_are_told() {
    for seed in [2620, 2640] {
        World::new(seed, LOST_TAILS, None).play();
    }
}

#[test]
fn slow_log_loses_nothing() {
    play("slow log", Faults { stall: 5, log: 1, drop_client: 6, crash_owner: 1, pause_owner: 1, ..Faults::NONE });
}
