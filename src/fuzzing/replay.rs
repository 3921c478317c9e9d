//! The short run: the corpus, and mutations of it by a fixed seed, without a fuzzer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use crate::base::sequence::Sequence;
use crate::fuzzing::{TARGETS, Target};
use crate::sys::sync::{Mutex, Rank};
use crate::sys::threads;

/// What a reader may take for one input, in a build that is not optimized on a busy machine.
const LONGEST: Duration = Duration::from_secs(60);

/// The same numbers again for the same seed.
struct Dice(Sequence);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0.below(below as u64) as usize
    }
}

fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target.name);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

fn mutated(known: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = known[dice.roll(known.len())].clone();
    for _ in 0..=dice.roll(4) {
        let at = dice.roll(bytes.len());
        match dice.roll(8) {
            _ if bytes.is_empty() => bytes.push(dice.roll(256) as u8),
            0 | 1 => bytes[at] ^= 1 << dice.roll(8),
            2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][dice.roll(5)],
            3 => bytes[at] = dice.roll(256) as u8,
            4 => bytes.truncate(at),
            5 => bytes.insert(at, dice.roll(256) as u8),
            6 => {
                let number = [0, 1, u32::MAX, u32::MAX / 2, 1 << 31][dice.roll(5)];
                let end = (at + 4).min(bytes.len());
                bytes[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
            }
            _ => {
                let other = &known[dice.roll(known.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[at.min(other.len())..]);
            }
        }
    }
    bytes.truncate(4 * 16_384);
    bytes
}

/// Where a failing input is put, to be run again.
fn keep(target: &Target, bytes: &[u8]) -> PathBuf {
    let path = std::env::temp_dir().join(format!("strongroom-fuzz-{}", target.name));
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Runs the corpus, the seeds and `count` mutations of them, each within [`LONGEST`].
fn replay(name: &str, count: usize) {
    let target = Target::named(name).unwrap();
    let now: Arc<Mutex<Vec<u8>>> = Arc::new(Mutex::new(Rank::Test, Vec::new()));
    let (done, told) = mpsc::channel();
    let shown = Arc::clone(&now);
    threads::spawn("replay", move || {
        let mut known = corpus(target);
        assert!(!known.is_empty());
        known.extend(target.seeds());
        let mut dice = Dice(Sequence(8));
        for number in 0..known.len() + count {
            let bytes = match known.get(number) {
                Some(bytes) => bytes.clone(),
                None => mutated(&known, &mut dice),
            };
            shown.lock().clone_from(&bytes);
            let ran = catch_unwind(AssertUnwindSafe(|| target.run(&bytes)));
            if done.send(ran.is_ok()).is_err() || ran.is_err() {
                return;
            }
        }
    });
    let failed = loop {
        match told.recv_timeout(LONGEST) {
            Ok(true) => {}
            Ok(false) => break "panics",
            Err(RecvTimeoutError::Timeout) => break "does not end",
            Err(RecvTimeoutError::Disconnected) => return,
        }
    };
    let file = keep(target, &now.lock());
    let again = format!("scripts/fuzz.sh --target {name} --replay {}", file.display());
    panic!("{name} {failed} on the input {}: {again}", file.display());
}

macro_rules! replays {
    ($($test:ident, $target:literal, $count:literal;)*) => {
        $(#[test]
        fn $test() {
            replay($target, $count);
        })*

        #[test]
        fn every_target_is_replayed() {
            let replayed = [$($target),*];
            assert!(TARGETS.iter().map(|target| target.name).eq(replayed));
        }
    };
}

replays! {
    resealed_pools_are_refused_or_harmless, "resealed", 60;
    values_of_items_and_records, "values", 4000;
    nodes, "node", 3000;
    superblocks, "superblock", 2000;
    region_maps, "map", 1000;
    what_people_write, "text", 10_000;
    files_of_keys, "keys", 10_000;
    requests_and_answers, "socket", 5000;
    messages_of_helpers, "helper", 10_000;
    what_the_machine_hands_over, "machine", 2000;
}
