//! The content of a file: what can be read is written to its place, what cannot stays a hole.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

use crate::base::InodeNo;
use crate::base::limits::{EXTENT_BLOCKS_MAX, FILE_BYTES_MAX};
use crate::base::units::{BLOCK_SIZE, BLOCK_SIZE_U64};
use crate::sys::AlignedBuf;
use crate::tree::Key;
use crate::verify::salvage::source::{Gap, Met, Source};
use crate::volume::items::{ExtentItem, InodeItem, kind};

/// Lost ranges of one file that are told apart; those beyond are told as one.
const RANGES_MAX: usize = 1000;

/// What was read of a file, and what not.
#[derive(Default)]
pub(super) struct Content {
    /// Bytes that were written.
    pub bytes: u64,
    /// Offset and length of what is lost; no length: to an end that nobody knows.
    pub lost: Vec<(u64, Option<u64>)>,
    /// Blocks that the inode states beyond those that were found, where none is known to be lost.
    pub unaccounted: u64,
    /// The destination takes no file of that length: what is missing at its end is a hole.
    pub cut: bool,
    /// More blocks than a pool can hold: what is behind them was left out.
    pub too_many: bool,
}

/// A file that is being read.
struct Reading<'a> {
    source: &'a Source,
    ino: InodeNo,
    file: &'a File,
    /// Its length; `None`: not known.
    size: Option<u64>,
    /// Blocks that may still be read of this tree.
    budget: &'a mut u64,
    content: Content,
    gaps: Vec<Gap>,
    blocks: u64,
    /// The first block behind the last extent.
    end: u64,
}

/// Copies the content of an inode to `file`. Without its item the length is not known: the file ends
/// where the last block does that was found.
///
/// # Errors
/// Those of writing.
pub(super) fn copy(
    source: &Source,
    (ino, item): (InodeNo, Option<&InodeItem>),
    file: &File,
    budget: &mut u64,
) -> io::Result<Content> {
    let size = item.map(|item| item.size);
    let (content, gaps) = (Content::default(), Vec::new());
    let mut reading = Reading { source, ino, file, size, budget, content, gaps, blocks: 0, end: 0 };
    let mut failed = None;
    let (from, to) = (Key::new(ino.0, kind::EXTENT, 0), Key::new(ino.0, kind::EXTENT, u64::MAX));
    source.range(from, to, &mut |met| {
        let done = match met {
            Met::Item(key, value) => reading.extent(key, value),
            Met::Gap(gap) => {
                reading.gaps.push(gap);
                Ok(())
            }
        };
        match done {
            Ok(()) if reading.content.too_many => ControlFlow::Break(()),
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    });
    match failed {
        Some(error) => Err(error),
        None => reading.finish(item),
    }
}

/// Adds a range to those that are lost. One that begins where the last one ends makes it longer; where
/// there are too many, the last one is made to hold it.
fn add(lost: &mut Vec<(u64, Option<u64>)>, from: u64, to: u64) {
    let many = lost.len() >= RANGES_MAX;
    match lost.last_mut() {
        Some((first, Some(len))) if many || *first + *len == from => {
            let end = to.max(*first + *len);
            *first = from.min(*first);
            *len = end - *first;
        }
        _ => lost.push((from, Some(to - from))),
    }
}

/// Whether a length is more than the place, or any place, takes.
fn is_too_long(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::FileTooLarge | io::ErrorKind::InvalidInput)
}

impl Reading<'_> {
    fn extent(&mut self, key: Key, value: &[u8]) -> io::Result<()> {
        let bytes_max = u64::from(EXTENT_BLOCKS_MAX) * BLOCK_SIZE_U64;
        let first = key.offset / BLOCK_SIZE_U64;
        let extent = ExtentItem::decode(value).ok();
        let is_in_place = key.offset.is_multiple_of(BLOCK_SIZE_U64)
            && key.offset <= FILE_BYTES_MAX - bytes_max
            && first >= self.end;
        let Some(extent) = extent.filter(|_| is_in_place) else {
            self.lose(key.offset, bytes_max);
            return Ok(());
        };
        let blocks = u64::from(extent.blocks());
        self.end = first + blocks;
        self.blocks += blocks;
        match self.budget.checked_sub(blocks) {
            Some(left) => *self.budget = left,
            None => {
                self.content.too_many = true;
                return Ok(());
            }
        }
        if self.size.is_some_and(|size| key.offset >= size) {
            return Ok(());
        }
        let mut plain = AlignedBuf::new(extent.blocks() as usize * BLOCK_SIZE);
        let good = self.source.read(&extent, &mut plain);
        let mut at = 0;
        while let Some(first) = good.get(at) {
            let run = good[at..].iter().take_while(|block| *block == first).count();
            let offset = key.offset + (at * BLOCK_SIZE) as u64;
            let part = &plain[at * BLOCK_SIZE..(at + run) * BLOCK_SIZE];
            match *first {
                true => self.write(offset, part)?,
                false => self.lose(offset, part.len() as u64),
            }
            at += run;
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, part: &[u8]) -> io::Result<()> {
        let rest = self.size.map_or(u64::MAX, |size| size.saturating_sub(offset));
        let len = part.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
        self.file.write_all_at(&part[..len], offset)?;
        self.content.bytes += len as u64;
        Ok(())
    }

    /// Notes a range as lost, as far as it lies in the file.
    fn lose(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len).min(self.size.unwrap_or(u64::MAX));
        if offset < end {
            add(&mut self.content.lost, offset, end);
        }
    }

    fn finish(mut self, item: Option<&InodeItem>) -> io::Result<Content> {
        // Every block that the inode states was found: the gaps hold none of it.
        let whole = item.is_some_and(|item| item.blocks == self.blocks);
        if !whole {
            for gap in std::mem::take(&mut self.gaps) {
                self.gap(&gap);
            }
        }
        if let Some(item) = item.filter(|_| self.content.lost.is_empty()) {
            self.content.unaccounted = item.blocks.saturating_sub(self.blocks);
        }
        self.content.lost.sort_unstable();
        if let Some(size) = self.size {
            match self.file.set_len(size) {
                Err(error) if is_too_long(&error) => self.content.cut = true,
                done => done?,
            }
        }
        Ok(self.content)
    }

    /// What a gap holds of the file, nobody knows: it may be all, and it may be a hole.
    fn gap(&mut self, gap: &Gap) {
        let of_it = |key: Key| (key.object, key.kind) == (self.ino.0, kind::EXTENT);
        let from = if of_it(gap.lower) { gap.lower.offset } else { 0 };
        match (gap.upper.filter(|upper| of_it(*upper)), self.size) {
            (Some(upper), _) => self.lose(from, upper.offset.saturating_sub(from)),
            (None, Some(size)) => self.lose(from, size.saturating_sub(from)),
            (None, None) => self.content.lost.push((from, None)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_ranges_that_touch_are_one() {
        let mut lost = Vec::new();
        add(&mut lost, 0, 4096);
        add(&mut lost, 4096, 8192);
        add(&mut lost, 12_288, 16_384);
        assert_eq!(lost, [(0, Some(8192)), (12_288, Some(4096))]);
    }

    /// Whatever is lost lies in a range that is told, also where not all of them are told apart.
    #[test]
    fn too_many_lost_ranges_are_told_as_fewer_that_hold_them() {
        let mut lost = Vec::new();
        let ranges = |n: u64| (n * 8192, n * 8192 + 4096);
        let count = RANGES_MAX as u64 + 50;
        (0..count).map(ranges).for_each(|(from, to)| add(&mut lost, from, to));
        let last = lost.last().copied();
        assert_eq!(lost.len(), RANGES_MAX);
        let holds =
            |at: u64| lost.iter().any(|(from, len)| *from <= at && at < *from + len.unwrap());
        for (from, to) in (0..count).map(ranges) {
            assert!(holds(from) && holds(to - 1), "{from}");
        }
        let first = (RANGES_MAX as u64 - 1) * 8192;
        assert_eq!(last, Some((first, Some((count - 1) * 8192 + 4096 - first))));
        add(&mut lost, first - 4096, first);
        assert_eq!(lost.last().unwrap().0, first - 4096, "one before it too");
    }
}
