//! A plain model of files beside real volumes, and the dice that both are driven by: for every test
//! that runs histories.

pub mod files;
pub mod volume;

use strongroom::base::sequence::Sequence;

use files::{Seen, Tree};

/// The same numbers again for the same seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, below: usize) -> usize {
        let mut sequence = Sequence(self.0);
        let rolled = sequence.below(below as u64) as usize;
        self.0 = sequence.0;
        rolled
    }
    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.roll(from.len())].clone()
    }
}

/// Which names differ, and how.
pub fn differences(found: &Tree, wanted: &Tree) -> String {
    let paths = found.keys().chain(wanted.keys());
    let mut lines: Vec<String> = paths
        .filter(|path| found.get(*path) != wanted.get(*path))
        .map(|path| format!("{path}: {}, not {}", shape(found.get(path)), shape(wanted.get(path))))
        .collect();
    lines.sort();
    lines.dedup();
    lines.join("; ")
}

fn shape(seen: Option<&Seen>) -> String {
    match seen {
        None => "nothing".to_owned(),
        Some(Seen::Dir) => "a directory".to_owned(),
        Some(Seen::Link(target)) => format!("a link of {} bytes", target.len()),
        Some(Seen::File { first, file }) => {
            let sum = strongroom::base::crc::crc32c(&file.data);
            let xattrs: Vec<String> =
                file.xattrs.iter().map(|(name, value)| format!("{name}={}", value.len())).collect();
            format!("file {first} of {} bytes ({sum:08x}) {xattrs:?}", file.data.len())
        }
    }
}
