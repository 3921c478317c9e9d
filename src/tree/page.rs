//! The bytes of one node: sorted items in one flat buffer, in memory as on disk.
//!
//! The layout is in the room's documentation. The buffer is canonical at all times, not only when
//! it is written: values lie against the end without gaps, and what no item uses is zero. So
//! writing a node is handing out its bytes, a copy of a node is one copy of memory, and what was
//! removed is gone from memory as well.

use std::ops::Range;

use zeroize::Zeroizing;

use crate::tree::key::{KEY_BYTES, Key};

/// "SN", little-endian.
const MAGIC: u16 = 0x4e53;
/// Bytes before the first slot: magic, level, flags, count.
pub(in crate::tree) const HEADER_BYTES: usize = 8;
/// Bytes of a slot: the key, and the end of its value counted from the end of the node.
pub(in crate::tree) const SLOT_BYTES: usize = KEY_BYTES + 2;
/// Node sizes that the layout can hold: offsets are 16 bits wide.
pub(in crate::tree) const NODE_BYTES_MAX: usize = 65_536;
/// Smallest node size: room for four items of the largest value and for a few children.
pub(in crate::tree) const NODE_BYTES_MIN: usize = 512;
/// Levels of a tree; leaves are level 0.
pub(in crate::tree) const LEVELS_MAX: usize = 16;

/// A node's bytes cannot be a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeDefect {
    /// Not of the pool's node size.
    #[error("the length is not that of a node")]
    Length,
    /// Another magic number.
    #[error("the magic number is not that of a node")]
    Magic,
    /// Flags that this version does not know.
    #[error("flags are set that this version does not know")]
    Flags,
    /// A level above the highest, or not the one below the parent's.
    #[error("the level is not the one below its parent's")]
    Level,
    /// No item, or more than fit.
    #[error("the number of items is out of range")]
    Count,
    /// Keys are not in ascending order.
    #[error("the keys are not in order")]
    Order,
    /// A key outside the range that the parent gives to the node.
    #[error("a key lies outside the node's range")]
    Bounds,
    /// A value outside the buffer, or longer than a value may be.
    #[error("a value is out of range")]
    Value,
    /// Unused bytes are not zero.
    #[error("unused bytes are not zero")]
    Slack,
    /// A child's pointer cannot be one.
    #[error("a child's pointer cannot be read")]
    Pointer,
}

/// Longest value in a node of `node_bytes`.
pub(in crate::tree) const fn value_bytes_max(node_bytes: usize) -> usize {
    node_bytes / 4
}

/// A node's items.
///
/// Indices are of items, `0..count()`; an index outside that is a defect in this room and panics.
#[derive(Clone)]
pub(in crate::tree) struct Page {
    bytes: Zeroizing<Box<[u8]>>,
}

impl Page {
    /// A page without items.
    pub fn new(node_bytes: usize, level: u8) -> Self {
        debug_assert!((NODE_BYTES_MIN..=NODE_BYTES_MAX).contains(&node_bytes));
        let mut bytes = Zeroizing::new(vec![0; node_bytes].into_boxed_slice());
        bytes[..2].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[2] = level;
        Self { bytes }
    }

    /// The page that `bytes` hold. Any bytes may be given.
    ///
    /// # Errors
    /// [`NodeDefect`], where a writer would not have made them.
    pub fn decode(bytes: &[u8], node_bytes: usize) -> Result<Self, NodeDefect> {
        if bytes.len() != node_bytes || !(NODE_BYTES_MIN..=NODE_BYTES_MAX).contains(&node_bytes) {
            return Err(NodeDefect::Length);
        }
        if bytes[..2] != MAGIC.to_le_bytes() {
            return Err(NodeDefect::Magic);
        }
        if usize::from(bytes[2]) >= LEVELS_MAX {
            return Err(NodeDefect::Level);
        }
        if bytes[3] != 0 {
            return Err(NodeDefect::Flags);
        }
        let page = Self { bytes: Zeroizing::new(bytes.into()) };
        page.check_items()?;
        Ok(page)
    }

    fn check_items(&self) -> Result<(), NodeDefect> {
        let room = self.bytes.len() - HEADER_BYTES;
        let count = self.count();
        if count == 0 || count > room / SLOT_BYTES {
            return Err(NodeDefect::Count);
        }
        let room = room - count * SLOT_BYTES;
        let value_max = value_bytes_max(self.bytes.len());
        let mut end_before = 0;
        for i in 0..count {
            let end = self.end(i);
            if end < end_before || end - end_before > value_max || end > room {
                return Err(NodeDefect::Value);
            }
            end_before = end;
            if i > 0 && self.key(i - 1) >= self.key(i) {
                return Err(NodeDefect::Order);
            }
        }
        let slack = HEADER_BYTES + count * SLOT_BYTES..self.bytes.len() - end_before;
        if self.bytes[slack].iter().any(|b| *b != 0) {
            return Err(NodeDefect::Slack);
        }
        Ok(())
    }

    /// The canonical bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Height above the leaves.
    pub fn level(&self) -> u8 {
        self.bytes[2]
    }

    /// Number of items.
    pub fn count(&self) -> usize {
        let [_, _, _, _, a, b, c, d, ..] = **self.bytes else { return 0 };
        u32::from_le_bytes([a, b, c, d]) as usize
    }

    fn set_count(&mut self, count: usize) {
        debug_assert!(count <= NODE_BYTES_MAX / SLOT_BYTES);
        self.bytes[4..HEADER_BYTES].copy_from_slice(&(count as u32).to_le_bytes());
    }

    const fn slot(i: usize) -> usize {
        HEADER_BYTES + i * SLOT_BYTES
    }

    /// Key of item `i`.
    pub fn key(&self, i: usize) -> Key {
        let at = Self::slot(i);
        let bytes = self.bytes[at..].first_chunk().expect("a slot lies within its node");
        Key::from_bytes(bytes)
    }

    /// Bytes of the values of items `0..=i`.
    fn end(&self, i: usize) -> usize {
        let at = Self::slot(i) + KEY_BYTES;
        usize::from(u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]))
    }

    fn start(&self, i: usize) -> usize {
        if i == 0 { 0 } else { self.end(i - 1) }
    }

    fn set_end(&mut self, i: usize, end: usize) {
        debug_assert!(end < NODE_BYTES_MAX);
        let at = Self::slot(i) + KEY_BYTES;
        self.bytes[at..at + 2].copy_from_slice(&(end as u16).to_le_bytes());
    }

    fn value_range(&self, i: usize) -> Range<usize> {
        self.bytes.len() - self.end(i)..self.bytes.len() - self.start(i)
    }

    /// Value of item `i`.
    pub fn value(&self, i: usize) -> &[u8] {
        &self.bytes[self.value_range(i)]
    }

    /// Value of item `i`, to be changed without changing its length.
    pub fn value_mut(&mut self, i: usize) -> &mut [u8] {
        let range = self.value_range(i);
        &mut self.bytes[range]
    }

    /// Bytes that item `i` takes.
    pub fn item_bytes(&self, i: usize) -> usize {
        SLOT_BYTES + self.end(i) - self.start(i)
    }

    /// Bytes that all items take.
    pub fn used(&self) -> usize {
        let count = self.count();
        count * SLOT_BYTES + self.start(count)
    }

    /// Bytes that items can take.
    pub fn capacity(&self) -> usize {
        self.bytes.len() - HEADER_BYTES
    }

    /// Where `key` stands, or (as the error) where it belongs.
    pub fn find(&self, key: Key) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let mid = low + (high - low) / 2;
            match self.key(mid).cmp(&key) {
                std::cmp::Ordering::Less => low = mid + 1,
                std::cmp::Ordering::Equal => return Ok(mid),
                std::cmp::Ordering::Greater => high = mid,
            }
        }
        Err(low)
    }

    /// Whether one more value of `value_bytes` fits.
    pub fn fits(&self, value_bytes: usize) -> bool {
        self.used() + SLOT_BYTES + value_bytes <= self.capacity()
    }

    /// Puts an item before the one at `i`. It must fit.
    pub fn insert(&mut self, i: usize, key: Key, value: &[u8]) {
        debug_assert!(self.fits(value.len()));
        let count = self.count();
        let start = self.start(i);
        self.shift_values(i, start, value.len() as isize);
        self.bytes.copy_within(Self::slot(i)..Self::slot(count), Self::slot(i + 1));
        self.set_count(count + 1);
        self.set_key(i, key);
        self.set_end(i, start);
        for j in i..=count {
            self.set_end(j, self.end(j) + value.len());
        }
        self.value_mut(i).copy_from_slice(value);
    }

    /// Gives item `i` another value. It must fit in place of the old one.
    pub fn replace(&mut self, i: usize, value: &[u8]) {
        let (start, end) = (self.start(i), self.end(i));
        let grow = value.len() as isize - (end - start) as isize;
        if grow != 0 {
            debug_assert!(self.used().saturating_add_signed(grow) <= self.capacity());
            self.shift_values(i + 1, end, grow);
            for j in i..self.count() {
                self.set_end(j, self.end(j).saturating_add_signed(grow));
            }
        }
        self.value_mut(i).copy_from_slice(value);
    }

    /// Takes item `i` out.
    pub fn remove(&mut self, i: usize) {
        let count = self.count();
        let (start, end) = (self.start(i), self.end(i));
        self.shift_values(i + 1, end, -((end - start) as isize));
        for j in i + 1..count {
            self.set_end(j, self.end(j) - (end - start));
        }
        self.bytes.copy_within(Self::slot(i + 1)..Self::slot(count), Self::slot(i));
        self.bytes[Self::slot(count - 1)..Self::slot(count)].fill(0);
        self.set_count(count - 1);
    }

    /// Gives item `i` another key, which must keep the order.
    pub fn set_key(&mut self, i: usize, key: Key) {
        let at = Self::slot(i);
        self.bytes[at..at + KEY_BYTES].copy_from_slice(&key.to_bytes());
    }

    /// Moves the values of the items from `i` on, which begin at `from`, by `by` bytes towards
    /// the front (or back, where negative), and zeroes what they leave. The slots are not told.
    fn shift_values(&mut self, i: usize, from: usize, by: isize) {
        let size = self.bytes.len();
        let count = self.count();
        let total = self.start(count);
        debug_assert!(i <= count && from <= total);
        let target = (size - total).saturating_add_signed(-by);
        self.bytes.copy_within(size - total..size - from, target);
        if by < 0 {
            self.bytes[size - total..target].fill(0);
        }
    }

    /// Cuts the items from `i` on off into a page of their own.
    pub fn split_off(&mut self, i: usize) -> Self {
        let mut right = Self::new(self.bytes.len(), self.level());
        right.extend(self, i..self.count());
        self.truncate(i);
        right
    }

    /// Drops the items from `i` on.
    pub fn truncate(&mut self, i: usize) {
        let count = self.count();
        let size = self.bytes.len();
        let (start, total) = (self.start(i), self.start(count));
        self.bytes[size - total..size - start].fill(0);
        self.bytes[Self::slot(i)..Self::slot(count)].fill(0);
        self.set_count(i);
    }

    /// Appends items of another page, which must fit and be above all that are here.
    pub fn extend(&mut self, other: &Self, range: Range<usize>) {
        let (count, size) = (self.count(), self.bytes.len());
        let total = self.start(count);
        let (start, end) = (other.start(range.start), other.start(range.end));
        debug_assert!(
            self.used() + range.len() * SLOT_BYTES + end - start <= self.capacity(),
            "the items fit"
        );
        self.bytes[Self::slot(count)..Self::slot(count + range.len())]
            .copy_from_slice(&other.bytes[Self::slot(range.start)..Self::slot(range.end)]);
        let other_size = other.bytes.len();
        self.bytes[size - total - (end - start)..size - total]
            .copy_from_slice(&other.bytes[other_size - end..other_size - start]);
        self.set_count(count + range.len());
        for j in count..count + range.len() {
            self.set_end(j, self.end(j) - start + total);
        }
    }
}

const _: () = assert!(HEADER_BYTES == 2 + 1 + 1 + 4);
const _: () = assert!(NODE_BYTES_MAX - HEADER_BYTES - SLOT_BYTES <= u16::MAX as usize);
// A node that overflows splits into two that fit: an item is at most this part of it.
const _: () =
    assert!((SLOT_BYTES + value_bytes_max(NODE_BYTES_MIN)) * 3 < NODE_BYTES_MIN - HEADER_BYTES);
