//! A writer that lies: what it seals is not what it was given. For tests alone: everything that the
//! engine writes carries valid tags then, and its readers meet contents that no writer makes.
//!
//! A lie is told once, at the `nth` sealing of its sort on the thread that [`tell`] runs on.

use std::borrow::Cow;
use std::cell::RefCell;

use crate::crypto::BlockKind;

/// What is sealed, by its label or kind.
pub const SORTS: [&str; 9] =
    ["node", "map", "data", "crc", "slot", "ring", "root", "log-outer", "log-inner"];

/// What becomes of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Some bits of one byte turn.
    Flip(u8),
    /// A number of this width (1, 2, 4 or 8 bytes, little-endian) becomes this one.
    Set(u8, u64),
    /// The same, moved by this much.
    Add(u8, i8),
    /// This many bytes are taken from as far behind as this, in units of 8 bytes.
    Copy(u8, u8),
    /// The bytes end here, those of a block as zeros.
    Cut,
    /// Sixteen more bytes of this value; those of a block push the last ones out.
    Grow(u8),
}

/// One lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lie {
    /// Index into [`SORTS`].
    pub sort: u8,
    /// At which sealing of this sort, counted from 0.
    pub nth: u16,
    /// Where, counted over the bytes that are not zero: most of a node or map is room.
    pub at: u16,
    /// What is done there.
    pub how: How,
}

#[derive(Default)]
struct Telling {
    lies: Vec<Lie>,
    sealed: [u16; SORTS.len()],
    /// What was sealed, where somebody listens.
    heard: Option<Vec<(&'static str, Vec<u8>)>>,
}

thread_local! {
    static TELLING: RefCell<Telling> = RefCell::new(Telling::default());
}

/// Runs `work` while the calling thread seals these lies.
pub fn tell<T>(lies: &[Lie], work: impl FnOnce() -> T) -> T {
    TELLING.set(Telling { lies: lies.to_vec(), ..Telling::default() });
    let done = work();
    TELLING.take();
    done
}

/// What the calling thread seals while it does `work`: its sort and its bytes.
pub fn overhear(work: impl FnOnce()) -> Vec<(&'static str, Vec<u8>)> {
    TELLING.set(Telling { heard: Some(Vec::new()), ..Telling::default() });
    work();
    TELLING.take().heard.unwrap_or_default()
}

fn lies_about(sort: &str, bytes: &[u8]) -> Vec<Lie> {
    TELLING.with_borrow_mut(|telling| {
        let Some(sort) = SORTS.iter().position(|s| *s == sort) else { return Vec::new() };
        if let Some(heard) = &mut telling.heard {
            heard.push((SORTS[sort], bytes.to_vec()));
        }
        if telling.lies.is_empty() {
            return Vec::new();
        }
        let nth = telling.sealed[sort];
        telling.sealed[sort] = nth.saturating_add(1);
        let due = |lie: &&Lie| usize::from(lie.sort) == sort && lie.nth == nth;
        telling.lies.iter().filter(due).copied().collect()
    })
}

pub(in crate::crypto) fn record<'a>(label: &str, plain: &'a [u8]) -> Cow<'a, [u8]> {
    let lies = lies_about(label, plain);
    if lies.is_empty() {
        return Cow::Borrowed(plain);
    }
    let mut bytes = plain.to_vec();
    lies.iter().for_each(|lie| lie.apply(&mut bytes));
    Cow::Owned(bytes)
}

pub(in crate::crypto) fn block(kind: BlockKind, buf: &mut [u8]) {
    let sort = match kind {
        BlockKind::Node => "node",
        BlockKind::Map => "map",
        BlockKind::Data => "data",
        BlockKind::Crc => "crc",
    };
    for lie in lies_about(sort, buf) {
        let mut bytes = buf.to_vec();
        lie.apply(&mut bytes);
        bytes.resize(buf.len(), 0);
        buf.copy_from_slice(&bytes);
    }
}

impl Lie {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let live: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        let Some(at) = live.get(usize::from(self.at) % live.len().max(1)).copied() else { return };
        match self.how {
            How::Flip(mask) => bytes[at] ^= mask,
            How::Set(width, value) => put(bytes, at, width, |_| value),
            How::Add(width, by) => put(bytes, at, width, |v| v.wrapping_add_signed(by.into())),
            How::Copy(len, back) => {
                let from = at.saturating_sub(usize::from(back) * 8);
                let end = (from + usize::from(len)).min(bytes.len());
                let taken = bytes[from..end].to_vec();
                let room = taken.len().min(bytes.len() - at);
                bytes[at..at + room].copy_from_slice(&taken[..room]);
            }
            How::Cut => bytes.truncate(at),
            How::Grow(byte) => drop(bytes.splice(at..at, [byte; 16])),
        }
    }
}

fn put(bytes: &mut [u8], at: usize, width: u8, new: impl FnOnce(u64) -> u64) {
    let end = (at + usize::from(width).min(8)).min(bytes.len());
    let mut number = [0; 8];
    number[..end - at].copy_from_slice(&bytes[at..end]);
    let number = new(u64::from_le_bytes(number)).to_le_bytes();
    bytes[at..end].copy_from_slice(&number[..end - at]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{decrypt_block, encrypt_block, new_block_key, open, seal};

    #[test]
    fn a_lie_is_told_once_at_its_turn_and_opens() {
        let lie = |sort, nth| Lie { sort, nth, at: 1, how: How::Set(1, 9) };
        let key = new_block_key();
        tell(&[lie(0, 1), lie(4, 0)], || {
            for wanted in [[1, 1], [1, 9], [1, 1]] {
                let mut buf = [1; 16];
                let tag = encrypt_block(&key, BlockKind::Node, &mut buf);
                decrypt_block(&key, BlockKind::Node, &mut buf, &tag).unwrap();
                assert_eq!(buf[..2], wanted);
            }
            let sealed = seal(&[7; 32], "slot", b"", &[0, 3, 3]);
            assert_eq!(**open(&[7; 32], "slot", b"", &sealed).unwrap(), [0, 3, 9]);
        });
        let sealed = seal(&[7; 32], "slot", b"", &[1, 1]);
        assert_eq!(**open(&[7; 32], "slot", b"", &sealed).unwrap(), [1, 1], "and no longer");
    }
}
