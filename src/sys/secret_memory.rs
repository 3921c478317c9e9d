//! Memory for keys: locked against swapping, left out of core dumps and of forked children, with
//! guard pages at both ends, erased when given back.
//!
//! Keys are handed out by reference from here, never copied to the ordinary heap. The arena grows
//! by chunks of 16 KiB and never gives address space back; a slot is erased when its owner drops.

use std::alloc::{Layout, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::base::erase::erase;
use crate::sys::random;
use crate::sys::sync::{Mutex, Rank};

/// Bytes of secrets in one chunk, between its guard pages.
const CHUNK_BYTES: usize = 16 * 1024;
/// Bytes of a guard page. A multiple of the page size on every Linux this runs on.
const GUARD_BYTES: usize = 64 * 1024;
/// Smallest slot; larger ones are this times a power of two.
const SLOT_BYTES_MIN: usize = 32;

static ARENA: Mutex<Vec<Chunk>> = Mutex::new(Rank::SecretMemory, Vec::new());
static SWAPPABLE: AtomicBool = AtomicBool::new(false);

/// Whether some secret memory could not be locked (RLIMIT_MEMLOCK), so that it may be swapped out.
#[must_use]
pub fn is_swappable() -> bool {
    SWAPPABLE.load(Ordering::Relaxed)
}

/// Slots of one size, between two pages that no access survives.
struct Chunk {
    data: NonNull<u8>,
    slot_bytes: usize,
    free: Vec<u16>,
}

// SAFETY: the chunk's memory is reached only through slots, each handed out once at a time.
unsafe impl Send for Chunk {}

impl Chunk {
    fn map(slot_bytes: usize) -> Self {
        let whole = GUARD_BYTES + CHUNK_BYTES + GUARD_BYTES;
        // SAFETY: a new private anonymous mapping at an address of the kernel's choice, without
        // access; it overlaps nothing.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                whole,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        let layout = Layout::from_size_align(CHUNK_BYTES, 4096).expect("a constant layout");
        if start == libc::MAP_FAILED {
            handle_alloc_error(layout);
        }
        // SAFETY: within the mapping just made, between the guards.
        let data = unsafe { start.cast::<u8>().add(GUARD_BYTES) };
        // SAFETY: the range lies within our own mapping; only its protection changes.
        let opened =
            unsafe { libc::mprotect(data.cast(), CHUNK_BYTES, libc::PROT_READ | libc::PROT_WRITE) };
        if opened != 0 {
            handle_alloc_error(layout);
        }
        // SAFETY: the range lies within our own mapping. A child after fork has no key and, as the
        // batch of block keys lives here too, cannot draw the same key again.
        let advised = unsafe {
            libc::mlock(data.cast(), CHUNK_BYTES) == 0
                && libc::madvise(data.cast(), CHUNK_BYTES, libc::MADV_DONTDUMP) == 0
                && libc::madvise(data.cast(), CHUNK_BYTES, libc::MADV_DONTFORK) == 0
        };
        if !advised {
            SWAPPABLE.store(true, Ordering::Relaxed);
            // SAFETY: as above; mlock alone may have failed, the rest still holds.
            unsafe {
                libc::madvise(data.cast(), CHUNK_BYTES, libc::MADV_DONTDUMP);
                libc::madvise(data.cast(), CHUNK_BYTES, libc::MADV_DONTFORK);
            }
        }
        let slots = u16::try_from(CHUNK_BYTES / slot_bytes).expect("512 slots at most");
        let data = NonNull::new(data).expect("mmap gave an address and it is not null");
        Self { data, slot_bytes, free: (0..slots).rev().collect() }
    }

    fn slot(&self, index: u16) -> NonNull<u8> {
        // SAFETY: `index` is below the number of slots, so the result lies within the chunk.
        unsafe { self.data.add(usize::from(index) * self.slot_bytes) }
    }

    fn index_of(&self, slot: NonNull<u8>) -> Option<u16> {
        let offset = (slot.as_ptr() as usize).checked_sub(self.data.as_ptr() as usize)?;
        (offset < CHUNK_BYTES).then(|| u16::try_from(offset / self.slot_bytes).ok()).flatten()
    }
}

fn take_slot(len: usize) -> NonNull<u8> {
    let slot_bytes = len.next_power_of_two().max(SLOT_BYTES_MIN);
    assert!(slot_bytes <= CHUNK_BYTES, "a secret is at most {CHUNK_BYTES} bytes");
    let mut arena = ARENA.lock();
    let free = arena.iter_mut().find(|c| c.slot_bytes == slot_bytes && !c.free.is_empty());
    if let Some((chunk, index)) = free.and_then(|c| c.free.pop().map(|index| (c, index))) {
        return chunk.slot(index);
    }
    let mut chunk = Chunk::map(slot_bytes);
    let index = chunk.free.pop().expect("a new chunk has a free slot");
    let slot = chunk.slot(index);
    arena.push(chunk);
    slot
}

fn give_back(slot: NonNull<u8>) {
    let mut arena = ARENA.lock();
    for chunk in arena.iter_mut() {
        if let Some(index) = chunk.index_of(slot) {
            chunk.free.push(index);
            return;
        }
    }
}

/// `N` secret bytes in the arena. No `Clone`, no `Debug`: a second copy is made by [`Self::dup`],
/// where a reader can see it.
pub struct SecretBytes<const N: usize> {
    slot: NonNull<[u8; N]>,
}

// SAFETY: the slot belongs to this value alone, as a `Box<[u8; N]>` does.
unsafe impl<const N: usize> Send for SecretBytes<N> {}
// SAFETY: shared access only reads.
unsafe impl<const N: usize> Sync for SecretBytes<N> {}

impl<const N: usize> SecretBytes<N> {
    /// `N` zero bytes, to be filled in place.
    #[must_use]
    pub fn zeroed() -> Self {
        // A slot is zero: fresh from the kernel, or erased by its last owner.
        Self { slot: take_slot(N).cast() }
    }
    /// A copy of `bytes`, which the caller erases.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; N]) -> Self {
        let mut secret = Self::zeroed();
        secret.copy_from_slice(bytes);
        secret
    }
    /// Random bytes, drawn straight into the arena.
    #[must_use]
    pub fn random() -> Self {
        let mut secret = Self::zeroed();
        random::fill(&mut *secret);
        secret
    }
    /// A second copy in the arena.
    #[must_use]
    pub fn dup(&self) -> Self {
        Self::from_bytes(self)
    }
}

impl<const N: usize> Deref for SecretBytes<N> {
    type Target = [u8; N];
    fn deref(&self) -> &[u8; N] {
        // SAFETY: the slot is ours, has at least `N` initialized bytes, and `u8` has no alignment.
        unsafe { self.slot.as_ref() }
    }
}

impl<const N: usize> DerefMut for SecretBytes<N> {
    fn deref_mut(&mut self) -> &mut [u8; N] {
        // SAFETY: as in `deref`, and `self` is borrowed exclusively.
        unsafe { self.slot.as_mut() }
    }
}

impl<const N: usize> Drop for SecretBytes<N> {
    fn drop(&mut self) {
        erase(&mut **self);
        give_back(self.slot.cast());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_erased_when_it_is_given_back() {
        // An odd size class of its own, so that no other test takes the slot in between.
        let secret = SecretBytes::<3000>::from_bytes(&[0xa5; 3000]);
        let slot = secret.slot;
        drop(secret);
        let again = SecretBytes::<3000>::zeroed();
        assert_eq!(again.slot, slot, "the freed slot is the next one handed out");
        assert!(again.iter().all(|b| *b == 0));
    }

    #[test]
    fn slots_do_not_overlap() {
        let all: Vec<SecretBytes<48>> =
            (0..1000u32).map(|i| SecretBytes::from_bytes(&[(i % 251) as u8; 48])).collect();
        for (i, secret) in all.iter().enumerate() {
            assert!(secret.iter().all(|b| usize::from(*b) == i % 251), "slot {i}");
        }
        assert_eq!(*all[7].dup(), *all[7]);
        assert_ne!(*SecretBytes::<32>::random(), *SecretBytes::<32>::random());
    }

    /// The lines of `/proc/self/smaps` for the mapping that holds `address`, and for the mappings
    /// beside it: (protection, text).
    fn mapping_of(address: usize) -> [(String, String); 3] {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut maps: Vec<(usize, usize, String, String)> = Vec::new();
        for line in smaps.lines() {
            let mut words = line.split_whitespace();
            let first = words.next().unwrap_or_default();
            let range = first.split_once('-').and_then(|(a, b)| {
                Some((usize::from_str_radix(a, 16).ok()?, usize::from_str_radix(b, 16).ok()?))
            });
            match (range, maps.last_mut()) {
                (Some((from, to)), _) => {
                    maps.push((
                        from,
                        to,
                        words.next().unwrap_or_default().to_owned(),
                        String::new(),
                    ));
                }
                (None, Some(map)) => {
                    map.3.push_str(line);
                    map.3.push('\n');
                }
                (None, None) => {}
            }
        }
        let at = maps.iter().position(|m| m.0 <= address && address < m.1).unwrap();
        assert_eq!(maps[at - 1].1, maps[at].0, "a guard stands right before");
        assert_eq!(maps[at + 1].0, maps[at].1, "a guard stands right behind");
        [at - 1, at, at + 1].map(|i| (maps[i].2.clone(), maps[i].3.clone()))
    }

    #[test]
    fn secrets_are_locked_guarded_and_left_out_of_dumps_and_children() {
        let secret = SecretBytes::<32>::random();
        let [before, own, behind] = mapping_of(secret.as_ptr() as usize);
        assert_eq!((before.0.as_str(), behind.0.as_str()), ("---p", "---p"), "guard pages");
        assert_eq!(own.0, "rw-p");
        let flags = own.1.lines().find(|l| l.starts_with("VmFlags:")).unwrap();
        for flag in [" dd", " dc"] {
            assert!(flags.contains(flag), "{flag} missing in {flags}");
        }
        assert!(flags.contains(" lo") || is_swappable(), "locked, or said not to be: {flags}");
    }
}
