//! The heap, for threads through which secrets pass inside other people's types: buffers of the
//! HTTP and JSON libraries, texts typed at a terminal. What such a thread gives back is erased.
//!
//! Keys proper never come here, they live in [`crate::sys::secret_memory`]. Threads of the data
//! path do not ask for it and pay one look at a thread's own flag for each block given back.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{Ordering, compiler_fence};

/// Blocks beyond this are mappings of their own, which the kernel takes back: the largest value
/// that the C library's threshold grows to.
const OWN_MAPPING_BYTES: usize = 32 << 20;

thread_local! {
    static ERASES: Cell<bool> = const { Cell::new(false) };
}

/// From now on, what the calling thread gives back to the heap is erased first.
pub fn erase_what_this_thread_frees() {
    ERASES.set(true);
}

/// How much the calling thread holds, for tests of what a reader of strange bytes may take.
#[cfg(any(test, fuzzing))]
pub mod meter {
    use std::cell::Cell;

    thread_local! {
        static HELD: Cell<isize> = const { Cell::new(0) };
        static PEAK: Cell<isize> = const { Cell::new(0) };
    }

    pub(super) fn changed(by: isize) {
        HELD.set(HELD.get().saturating_add(by));
        PEAK.set(PEAK.get().max(HELD.get()));
    }

    /// The most bytes that `work` held at once, beyond those that were held before.
    pub fn peak_of(work: impl FnOnce()) -> usize {
        let before = HELD.get();
        PEAK.set(before);
        work();
        usize::try_from(PEAK.get() - before).unwrap_or(0)
    }
}

struct Heap;

#[global_allocator]
static HEAP: Heap = Heap;

// SAFETY: every block comes from and goes back to `System` with the layout it was asked for; a
// block is overwritten only within that layout's size, while it is still ours.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        #[cfg(any(test, fuzzing))]
        meter::changed(layout.size() as isize);
        // SAFETY: the caller's promises are the ones that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        #[cfg(any(test, fuzzing))]
        meter::changed(layout.size() as isize);
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if ERASES.get() && layout.size() < OWN_MAPPING_BYTES {
            // SAFETY: the block is the caller's last use of it, and `layout.size()` bytes long.
            unsafe { ptr::write_bytes(block, 0, layout.size()) };
            std::hint::black_box(block);
            compiler_fence(Ordering::SeqCst);
        }
        #[cfg(any(test, fuzzing))]
        meter::changed(-(layout.size() as isize));
        // SAFETY: as in `alloc`.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if !ERASES.get() {
            #[cfg(any(test, fuzzing))]
            meter::changed(new_size as isize - layout.size() as isize);
            // SAFETY: as in `alloc`.
            return unsafe { System.realloc(block, layout, new_size) };
        }
        // A block that moves leaves its old place as it was: so it is moved here.
        // SAFETY: the caller promises that `new_size`, rounded up, does not overflow; the align is
        // that of a valid layout.
        let grown = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        // SAFETY: `new_size` is not zero, by the caller's promise.
        let moved = unsafe { self.alloc(grown) };
        if !moved.is_null() {
            // SAFETY: both blocks have at least that many bytes and are different ones.
            unsafe { ptr::copy_nonoverlapping(block, moved, layout.size().min(new_size)) };
            // SAFETY: the old block is not used any more.
            unsafe { self.dealloc(block, layout) };
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::memory_scan::{Hit, Needle};
    use crate::sys::{random, threads};

    /// A buffer with a secret in it that grows and is dropped; where the secret is found then.
    fn used_up(secret: [u8; 32]) -> Vec<Hit> {
        let mut needle = Needle::new(&secret);
        let mut text = Vec::with_capacity(200);
        text.extend_from_slice(&[7; 100]);
        text.extend(needle.bytes());
        // Something behind it, so that it cannot grow in place.
        let behind = Box::new([1u8; 200]);
        text.reserve(5000);
        assert!(!needle.hits().is_empty(), "a secret in use is found");
        drop(text);
        drop(behind);
        needle.hits()
    }

    #[test]
    fn a_thread_that_erases_leaves_nothing_on_the_heap() {
        let erased = threads::spawn("erases", || {
            erase_what_this_thread_frees();
            used_up(random::array())
        });
        assert_eq!(erased.join().unwrap(), []);
    }
}
