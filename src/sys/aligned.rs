//! Buffers for direct I/O: aligned to 4096 bytes, zero at first, erased when dropped.
//!
//! A dropped buffer is kept, erased, for the next one of its size. The allocator would either keep
//! far more of them, in an arena for each thread, or give each back to the kernel and take a page
//! fault for every page of the next; both were measured (docs/decisions/004). What is kept is
//! bounded.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::base::BLOCK_SIZE;
use crate::base::erase::erase;
use crate::sys::sync::{Mutex, Rank};

/// Sizes kept: a block, and its doublings up to 2 MiB.
const SIZES: usize = 10;
/// Sizes from this one on are what requests are read into; of each, [`KEPT_LARGE_BYTES`] are kept.
const LARGE_BYTES: usize = 128 << 10;
const KEPT_LARGE_BYTES: usize = 8 << 20;
/// Kept of each smaller size.
const KEPT_SMALL_BYTES: usize = 1 << 20;

/// Erased memory of one size.
struct Kept(Vec<NonNull<u8>>);

// SAFETY: what is in the list is owned by it alone.
unsafe impl Send for Kept {}

static KEPT: [Mutex<Kept>; SIZES] =
    [const { Mutex::new(Rank::KeptMemory, Kept(Vec::new())) }; SIZES];

/// Which list memory of that layout is kept in.
const fn size_class(layout: Layout) -> Option<usize> {
    let blocks = layout.size() / BLOCK_SIZE;
    if blocks.is_power_of_two() && blocks < 1 << SIZES {
        Some(blocks.trailing_zeros() as usize)
    } else {
        None
    }
}

const fn kept_max(size: usize) -> usize {
    if size < LARGE_BYTES { KEPT_SMALL_BYTES / size } else { KEPT_LARGE_BYTES / size }
}

/// Zeroed memory.
fn take(layout: Layout) -> NonNull<u8> {
    let kept = size_class(layout).and_then(|class| KEPT[class].lock().0.pop());
    kept.unwrap_or_else(|| {
        // SAFETY: the layout has a size other than zero.
        let start = unsafe { alloc_zeroed(layout) };
        NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout))
    })
}

/// Gives back memory that [`take`] gave for this layout, and that has been erased.
fn give_back(start: NonNull<u8>, layout: Layout) {
    if let Some(class) = size_class(layout) {
        let mut kept = KEPT[class].lock();
        if kept.0.len() < kept_max(layout.size()) {
            kept.0.push(start);
            return;
        }
    }
    // SAFETY: allocated in `take` with this very layout, and not yet freed.
    unsafe { dealloc(start.as_ptr(), layout) };
}

/// Bytes whose start is aligned to 4096, as O_DIRECT wants it. Erased when dropped, since most of
/// them held plaintext.
pub struct AlignedBuf {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the buffer owns its memory alone, as a `Vec<u8>` does.
unsafe impl Send for AlignedBuf {}
// SAFETY: shared access only reads.
unsafe impl Sync for AlignedBuf {}

/// The memory behind `len` bytes: up to 2 MiB one of the sizes that are kept.
fn layout(len: usize) -> Layout {
    let size = if len <= BLOCK_SIZE << (SIZES - 1) {
        len.next_power_of_two().max(BLOCK_SIZE)
    } else {
        len
    };
    Layout::from_size_align(size, BLOCK_SIZE).expect("a buffer is shorter than the address space")
}

impl AlignedBuf {
    /// `len` zero bytes.
    ///
    /// # Panics
    /// Where `len` is more than half the address space.
    #[must_use]
    pub fn new(len: usize) -> Self {
        if len == 0 {
            return Self { start: NonNull::dangling(), len };
        }
        Self { start: take(layout(len)), len }
    }
    /// A copy of `bytes`.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Self {
        let mut buf = Self::new(bytes.len());
        buf.copy_from_slice(bytes);
        buf
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `start` is valid for `len` initialized bytes (or dangling with `len` 0), and
        // nothing writes to them while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Clone for AlignedBuf {
    fn clone(&self) -> Self {
        Self::from_slice(self)
    }
}

impl Default for AlignedBuf {
    fn default() -> Self {
        Self::new(0)
    }
}

impl fmt::Debug for AlignedBuf {
    /// The length only: the bytes may be plaintext.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.len)
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if self.len > 0 {
            // Behind `len` nobody wrote.
            erase(self);
            give_back(self.start, layout(self.len));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_buffer_comes_back_as_zeros_and_no_more_are_kept_than_allowed() {
        let len = 200 << 10; // a size that no other test here takes
        let most = kept_max(layout(len).size());
        let buffers: Vec<_> =
            (0..most + 5).map(|_| AlignedBuf::from_slice(&vec![7; len])).collect();
        drop(buffers);
        let class = size_class(layout(len)).unwrap();
        assert_eq!(KEPT[class].lock().0.len(), most);
        let mut again = AlignedBuf::new(256 << 10);
        assert!(again.iter().all(|b| *b == 0));
        assert_eq!(KEPT[class].lock().0.len(), most - 1);
        again.fill(7);
        drop(again);
        assert!(AlignedBuf::new(len).iter().all(|b| *b == 0));
    }

    #[test]
    fn sizes_that_are_no_power_of_two_are_kept_with_none_other() {
        assert_eq!(size_class(layout(3 << 20)), None);
        assert_eq!(size_class(layout(4 << 20)), None);
        assert_eq!(size_class(layout(2 << 20)), Some(SIZES - 1));
        assert_eq!(size_class(layout(1)), Some(0));
    }

    #[test]
    fn buffers_are_aligned_zero_and_of_their_length() {
        for len in [0, 1, 4096, 131_072 + 512] {
            let mut buf = AlignedBuf::new(len);
            assert_eq!(buf.len(), len);
            assert!(buf.iter().all(|b| *b == 0));
            assert!(len == 0 || buf.as_ptr().addr().is_multiple_of(BLOCK_SIZE));
            buf.fill(7);
            assert_eq!(&*buf.clone(), &*buf);
            assert_eq!(format!("{buf:?}"), format!("AlignedBuf({len} bytes)"));
        }
    }
}
