//! Buffers for direct I/O: aligned to 4096 bytes, zero at first, erased when dropped.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::base::BLOCK_SIZE;
use crate::sys::secret_memory::erase;

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

fn layout(len: usize) -> Layout {
    Layout::from_size_align(len, BLOCK_SIZE).expect("a buffer is shorter than the address space")
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
        let layout = layout(len);
        // SAFETY: the layout has a size other than zero.
        let start = unsafe { alloc_zeroed(layout) };
        match NonNull::new(start) {
            Some(start) => Self { start, len },
            None => handle_alloc_error(layout),
        }
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
            erase(self);
            // SAFETY: allocated in `new` with this very layout, and not yet freed.
            unsafe { dealloc(self.start.as_ptr(), layout(self.len)) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
