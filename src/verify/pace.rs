//! How fast a pool is read.

/// Told of everything that is read. It may wait, and it may end the work.
pub trait Pace {
    /// So many bytes were read. Whether to go on.
    fn read(&self, bytes: u64) -> bool;

    /// Whether the tree that is being read is to be let go of, though the work goes on.
    fn lets_go(&self) -> bool {
        false
    }
}

/// As fast as it goes, to the end.
pub(in crate::verify) struct Unhurried;

impl Pace for Unhurried {
    fn read(&self, _: u64) -> bool {
        true
    }
}
