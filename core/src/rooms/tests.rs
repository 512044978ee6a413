//! The gateway's end of a link by hand; the whole of it is played in `tests/sim`.

use carillon_proto::link::{self, Down, DownBatch, up};

use super::owner::{Heard, Owner};

fn batch(generation: u64, link: u64, number: u64) -> DownBatch {
    DownBatch { version: link::VERSION, generation, link, number, items: vec![Down { item: None }] }
}

#[test]
fn replaced_owners_are_not_heard() {
    let mut owner = Owner::default();
    owner.queue(up::Item::Detach(link::Detach::default()), 0);
    assert_eq!(owner.on_batch(&batch(5, 1, 1), 0), Heard::Take);
    assert_eq!(owner.on_batch(&batch(4, 1, 2), 0), Heard::Ignore);
    assert_eq!(owner.on_batch(&batch(6, 1, 2), 0), Heard::Broken);
}

#[test]
fn impossible_generation_locks_out_nobody_for_long() {
    let mut owner = Owner::default();
    owner.queue(up::Item::Detach(link::Detach::default()), 0);
    assert_eq!(owner.on_batch(&batch(u64::MAX, 1, 0), 0), Heard::Broken);
    for number in 2..6 {
        owner.close();
        owner.queue(up::Item::Detach(link::Detach::default()), 0);
        if owner.on_batch(&batch(7, number, 1), 0) == Heard::Take {
            return;
        }
    }
    panic!("the real owner is never heard again");
}
