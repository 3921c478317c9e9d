//! The simulator: the real service over a simulated disk and a simulated clock, in one thread. One
//! seed decides everything, operations, time, randomness and where the power goes, and replays it.
//!
//! A history is a row of steps (files on several clusters, fsync, snapshots, clones, restores in
//! place, deletions, changes of keys, growth, checkpoints, work in the background, the pool closed
//! and opened). Within each step the power is imagined to go before its writes and flushes: what the
//! disk may hold then is opened by a service of its own and compared with a plain model
//! ([`judge::judge`]). Sometimes it does go, and the history goes on from there.
//!
//! `STRONGROOM_SEEDS=n` runs so many, from `STRONGROOM_FROM` on; `scripts/simulate.sh` sets them.

mod at_once;
mod disk;
mod expected;
mod faults;
mod judge;
mod meanwhile;
#[path = "../model/mod.rs"]
mod model;
mod mounter;
mod outcome;
mod scarce;
mod steps;
mod superblocks;
mod world;

use strongroom::sys::threads;

use disk::Watch;
use model::Dice;
use world::{Plan, Summary, World};

/// Seeds that are run where nothing else is asked for.
const SEEDS: u64 = 12;

/// So many seeds to a line that says how far it is.
const TOLD_EVERY: u64 = 500;

/// One history in four is short, and looked at before every request; of the others samples are. In
/// one of 96 there is little room beneath the pool.
fn plan(seed: u64) -> Plan {
    let mut dice = Dice(seed ^ 0x5eed);
    let (short, long) = (5 + dice.roll(4), 20 + dice.roll(30));
    match (seed % 4, seed % 96) {
        (0, _) => Plan { steps: short, watch: Watch::Every, scarce: false },
        (_, 31) => Plan { steps: long, watch: Watch::OneIn(150), scarce: true },
        _ => Plan { steps: long, watch: Watch::OneIn(40), scarce: false },
    }
}

/// The history of a seed, in a thread of its own: what threads keep for themselves, as fresh keys,
/// begins with it.
fn run(seed: u64) -> Summary {
    let history = threads::spawn("history", move || history(seed)).join();
    history
        .unwrap_or_else(|_| panic!("seed {seed} failed; its message is above, its steps as well"))
}

/// The same; where it fails, what was done is printed.
fn history(seed: u64) -> Summary {
    let world = World::new(seed, plan(seed));
    let told = world.told_to();
    let history = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.history()));
    history.unwrap_or_else(|failure| {
        told.lock().iter().for_each(|line| println!("{line}"));
        std::panic::resume_unwind(failure)
    })
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

#[test]
fn whatever_the_seed_nothing_acknowledged_is_lost() {
    let (from, count) = (number("STRONGROOM_FROM", 0), number("STRONGROOM_SEEDS", SEEDS));
    let mut all = Summary::default();
    for seed in from..from + count {
        all.add(&run(seed));
        if (seed + 1 - from).is_multiple_of(TOLD_EVERY) || seed + 1 == from + count {
            println!("seeds {from} to {seed}: {all}");
        }
    }
}

#[test]
fn a_seed_replays_to_the_byte() {
    for seed in [2, 3] {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}
