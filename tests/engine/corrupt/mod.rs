//! Corruption, everywhere: pools with clusters, snapshots, clones, a cluster under a customer key
//! and logs that a crash left; in each round one place of one pool is changed (flipped, zeroed,
//! overwritten, swapped with another, put back to what it once held), and the pool is checked,
//! opened, read whole, written to and opened again. It must never give wrong data and never panic;
//! what cannot be read must have been found and named by the check; what is not hit must be
//! readable; every damaged file can be deleted.
//!
//! A failing mutation is printed. `STRONGROOM_SEED=n` runs the pool and mutation of that number,
//! `STRONGROOM_MUTATIONS=n` so many from there on (from 0 without); `scripts/corrupt.sh` runs many.

pub mod damage;
mod judge;
mod look;
pub mod sample;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use strongroom::sys::sync::{Mutex, Rank};
use strongroom::sys::threads;

use crate::pools::Dice;
use damage::Damage;
use judge::{Verdict, judge};
use sample::Sample;

/// Mutations of one pool before the next pool is made.
const PER_SAMPLE: u64 = 1000;
/// Where nothing else is asked for.
const MUTATIONS: u64 = 2000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What became of mutations: by the sort of place, the way it was changed, and the verdict.
type Tally = BTreeMap<(&'static str, &'static str, Verdict), u64>;

/// The pool of mutation `n`: each second one was left by a crash.
fn sample_of(n: u64) -> Sample {
    let seed = n / PER_SAMPLE;
    Sample::new(seed, seed % 2 == 1)
}

fn one(sample: &Sample, n: u64) -> Result<(Damage, Verdict), String> {
    let mut dice = Dice(n.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 7);
    let damage = Damage::choose(sample, &mut dice);
    let told = damage.to_string();
    let judged = std::panic::catch_unwind(|| judge(sample, &damage));
    match judged {
        Ok(Ok(verdict)) => Ok((damage, verdict)),
        Ok(Err(wrong)) => Err(format!("{told}: {wrong}")),
        Err(_) => Err(format!("{told}: it panicked; the message is above")),
    }
}

#[test]
fn no_corruption_gives_wrong_data_or_goes_unnoticed() {
    let (first, count) = match (number("STRONGROOM_SEED"), number("STRONGROOM_MUTATIONS")) {
        (Some(seed), count) => (seed, count.unwrap_or(1)),
        (None, count) => (0, count.unwrap_or(MUTATIONS)),
    };
    let end = first + count;
    let (tally, failures) =
        (Mutex::new(Rank::Test, Tally::new()), Mutex::new(Rank::Test, Vec::new()));
    let shared = Arc::new((tally, failures, AtomicU64::new(first / PER_SAMPLE)));
    let workers: Vec<_> = (0..2)
        .map(|_| {
            let shared = Arc::clone(&shared);
            threads::spawn("mutations", move || {
                let (tally, failures, next) = &*shared;
                loop {
                    let group = next.fetch_add(1, Ordering::Relaxed) * PER_SAMPLE;
                    if group >= end {
                        return;
                    }
                    let sample = sample_of(group);
                    for n in group.max(first)..(group + PER_SAMPLE).min(end) {
                        match one(&sample, n) {
                            Ok((damage, verdict)) => {
                                let key = (damage.place(), damage.way(), verdict);
                                *tally.lock().entry(key).or_default() += 1;
                            }
                            Err(wrong) => {
                                eprintln!("STRONGROOM_SEED={n}: {wrong}");
                                failures.lock().push(n);
                            }
                        }
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
    for ((place, way, verdict), count) in &*shared.0.lock() {
        println!("{place:12} {way:10} {verdict:?}: {count}");
    }
    let failures = shared.1.lock();
    assert!(failures.is_empty(), "{} of {count} mutations failed: {failures:?}", failures.len());
}
