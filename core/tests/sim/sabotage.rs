//! Safeguards taken away, one at a time: each must be missed by some history, or the simulation proves nothing about it. The
//! rules themselves stay as they are; the world around them does what they guard against, or hides from them what they look at.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::world::{Faults, World};

/// What is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// A marker takes one sequence, and so the next append of another owner's pipeline fits again.
    Height,
    /// A new owner reads first and marks then.
    Marker,
    /// All owners have the same generation, and those that were replaced go on speaking.
    Generation,
    /// No owner looks how old its lease is.
    Silence,
    /// Batches are numbered anew on arrival: no gateway sees that one is missing.
    Repair,
    /// An owner does not see the key of a publish that is under way.
    KeysInFlight,
    /// Gateways know connections alone, not the app instance that comes back on another one.
    Exclusion,
}

/// So many histories at most; the first that fails is enough.
const HISTORIES: u64 = 400;

fn is_missed(sabotage: Sabotage, faults: Faults) {
    let fails = |seed: &u64| catch_unwind(AssertUnwindSafe(|| World::new(*seed, faults, Some(sabotage)).play())).is_err();
    match (0..HISTORIES).find(fails) {
        Some(seed) => {
            println!("without {sabotage:?}, seed {seed} fails");
            // And with it, the same history is well.
            World::new(seed, faults, None).play();
        }
        None => panic!("{HISTORIES} histories without {sabotage:?}, and all were well"),
    }
}

const ZOMBIES: Faults = Faults { pause_owner: 6, drop_client: 3, ..Faults::NONE };
const SLOW: Faults = Faults { log: 4, stall: 10, drop_client: 10, ..Faults::NONE };

#[test]
fn height_of_markers_is_missed() {
    is_missed(Sabotage::Height, SLOW);
}

#[test]
fn marker_before_reading_is_missed() {
    is_missed(Sabotage::Marker, SLOW);
}

#[test]
fn generations_are_missed() {
    is_missed(Sabotage::Generation, Faults { delay: 10, double: 3, crash_owner: 3, replace_owner: 6, ..ZOMBIES });
}

#[test]
fn silence_of_old_owners_is_missed() {
    is_missed(Sabotage::Silence, ZOMBIES);
}

#[test]
fn repair_of_links_is_missed() {
    is_missed(Sabotage::Repair, Faults { lose: 3, ..Faults::NONE });
}

#[test]
fn keys_in_flight_are_missed() {
    is_missed(Sabotage::KeysInFlight, SLOW);
}

#[test]
fn exclusion_over_resume_is_missed() {
    is_missed(Sabotage::Exclusion, Faults { drop_client: 8, ..Faults::NONE });
}
