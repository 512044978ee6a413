//! A simulated world around the rules: gateways, owners, log, bus and clients on one made-up clock, everything that may
//! go wrong going wrong by chance. One seed is one history: a failing one is printed, and
//! `SIM_SEED=<seed> cargo test -p carillon-core --test sim` plays it again. `SIM_SEEDS=<n>` plays more than CI does.

mod chance;
mod client;
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
        let result = catch_unwind(AssertUnwindSafe(|| World::new(seed, faults).play()));
        if let Err(panic) = result {
            eprintln!("{name}: seed {seed} fails; SIM_SEED={seed} plays it again");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn calm_world_loses_nothing() {
    play("calm", Faults::default());
}

#[test]
fn lossy_bus_loses_nothing() {
    play("lossy bus", Faults { lose: 3, double: 3, delay: 10, ..Faults::default() });
}

#[test]
fn reconnecting_clients_miss_nothing() {
    play("reconnects", Faults { drop_client: 8, ..Faults::default() });
}

#[test]
fn crashing_owners_lose_nothing() {
    play("owner crashes", Faults { crash_owner: 2, drop_client: 2, ..Faults::default() });
}

#[test]
fn crashing_gateways_lose_nothing() {
    play("gateway crashes", Faults { crash_gateway: 1, drop_client: 1, ..Faults::default() });
}

#[test]
fn everything_at_once_loses_nothing() {
    play("everything", Faults { lose: 2, double: 2, delay: 5, drop_client: 3, crash_owner: 1, crash_gateway: 1, cut: 1 });
}
