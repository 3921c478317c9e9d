//! Every reader of bytes from outside, as a function of bytes that must come back: without a panic,
//! soon, within bounded memory, and with what its target asserts beyond that. Compiled for tests
//! and for `scripts/fuzz.sh` only; no other room knows of it.
//!
//! What lies behind a seal is reached by [`resealed`]: a writer that lies, and the pool that it
//! wrote, opened and used.

mod disk;
mod machine;
mod resealed;
mod text;

#[cfg(test)]
mod replay;

use crate::control::fuzz as fuzz_control;
use crate::daemon::fuzz as fuzz_daemon;
use crate::keys::fuzz as fuzz_keys;
use crate::sys::heap::meter;

/// A reader.
pub struct Target {
    /// Its name, and that of its folder in `tests/fuzz/corpus`.
    pub name: &'static str,
    /// Longest input that is worth trying, in bytes.
    pub longest: usize,
    /// Bytes of memory that it may hold whatever the input; 64 for each byte of input come on top.
    pub memory: usize,
    run: fn(&[u8]),
    seeds: fn() -> Vec<Vec<u8>>,
}

const MIB: usize = 1 << 20;

const fn target(name: &'static str, run: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>) -> Target {
    Target { name, longest: 4096, memory: MIB, run, seeds }
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { longest: 61, memory: 512 * MIB, ..target("resealed", resealed::run, resealed::seeds) },
    Target { longest: 8 << 10, ..target("values", disk::values, disk::value_seeds) },
    Target { longest: 16 << 10, ..target("node", disk::node, disk::node_seeds) },
    Target { longest: 16 << 10, ..target("superblock", disk::superblock, disk::superblock_seeds) },
    Target { longest: 16 << 10, memory: 4 * MIB, ..target("map", disk::map, disk::map_seeds) },
    target("text", text::run, text::seeds),
    target("keys", fuzz_keys::files, fuzz_keys::file_seeds),
    target("socket", text::socket, fuzz_control::seeds),
    target("helper", fuzz_daemon::helper, fuzz_daemon::helper_seeds),
    Target { memory: 4 * MIB, ..target("machine", machine::run, machine::seeds) },
];

impl Target {
    /// The target of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// Inputs that real writers make.
    #[must_use]
    pub fn seeds(&self) -> Vec<Vec<u8>> {
        (self.seeds)()
    }

    /// Reads `bytes`.
    ///
    /// # Panics
    /// Where the reader does not keep its promises.
    pub fn run(&self, bytes: &[u8]) {
        let bytes = bytes.get(..self.longest).unwrap_or(bytes);
        let held = meter::peak_of(|| (self.run)(bytes));
        let most = self.memory + 64 * bytes.len();
        assert!(held <= most, "{}: {held} bytes held for {} of input", self.name, bytes.len());
    }
}

/// What was read, written and read again is the same; and written once more it is the same bytes.
fn comes_back<T>(
    bytes: &[u8],
    read: impl Fn(&[u8]) -> Option<T>,
    write: impl Fn(&T) -> Vec<u8>,
) -> bool {
    let Some(first) = read(bytes) else { return false };
    let written = write(&first);
    let again = read(&written).expect("what was written reads");
    assert!(write(&again) == written, "what was read again is written otherwise");
    true
}
