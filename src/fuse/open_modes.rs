//! Which open files go past the kernel's cache.
//!
//! A file opened with `O_DIRECT` may bypass the cache (`FOPEN_DIRECT_IO`), which lets direct writes
//! run side by side. Such a write drops the pages it covers before it is sent, not after: a page
//! that somebody reads through the cache in between would stay there, stale, for ever. So an inode
//! is open in one mode at a time. The first open decides, and who comes later follows: beside
//! cached files an `O_DIRECT` one goes through the cache's own direct path, which is coherent;
//! beside direct ones an ordinary open bypasses the cache too.

use std::array;
use std::collections::HashMap;

use fuser::FopenFlags;

use crate::fuse::negotiate::Agreed;
use crate::sys::sync::{Mutex, Rank};

const SHARDS: usize = 16;

/// Marks a handle, in what the kernel is given as its number, as one that bypasses the cache.
const DIRECT: u64 = 1 << 63;

#[derive(Clone, Copy, Debug, Default)]
struct Opens {
    cached: u32,
    direct: u32,
}

/// Open files by inode and mode. Bounded by the kernel's own open files.
#[derive(Debug)]
pub(super) struct OpenModes {
    shards: [Mutex<HashMap<u64, Opens>>; SHARDS],
}

impl Default for OpenModes {
    fn default() -> Self {
        Self { shards: array::from_fn(|_| Mutex::new(Rank::OpenModes, HashMap::new())) }
    }
}

impl OpenModes {
    fn shard(&self, ino: u64) -> &Mutex<HashMap<u64, Opens>> {
        &self.shards[(ino % SHARDS as u64) as usize]
    }

    /// Counts an open of `ino` with the caller's `flags`: the flags for the kernel, and the number
    /// by which it will name the handle.
    pub(super) fn open(
        &self,
        agreed: Agreed,
        ino: u64,
        flags: i32,
        handle: u64,
    ) -> (FopenFlags, u64) {
        let wants_direct = agreed.direct_io && flags & libc::O_DIRECT != 0;
        let mut shard = self.shard(ino).lock();
        let opens = shard.entry(ino).or_default();
        let direct = opens.direct > 0 || (wants_direct && opens.cached == 0);
        if direct {
            opens.direct += 1;
        } else {
            opens.cached += 1;
        }
        drop(shard);
        let mut reply = FopenFlags::empty();
        // Without this flag the open writes back and drops everything that is cached: also for a
        // direct file, whose inode may be mapped.
        reply.set(FopenFlags::FOPEN_KEEP_CACHE, agreed.keep_cache);
        reply.set(FopenFlags::FOPEN_DIRECT_IO, direct);
        reply
            .set(FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES, direct && agreed.parallel_direct_writes);
        (reply, if direct { handle | DIRECT } else { handle })
    }

    /// Counts a release; the handle's own number.
    pub(super) fn release(&self, ino: u64, number: u64) -> u64 {
        let mut shard = self.shard(ino).lock();
        if let Some(opens) = shard.get_mut(&ino) {
            let count = if number & DIRECT == 0 { &mut opens.cached } else { &mut opens.direct };
            *count = count.saturating_sub(1);
            if opens.cached == 0 && opens.direct == 0 {
                shard.remove(&ino);
            }
        }
        number & !DIRECT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGREED: Agreed = Agreed {
        writeback: true,
        direct_io: true,
        parallel_direct_writes: true,
        keep_cache: true,
        negative_entries: true,
        umask: true,
        flags: fuser::InitFlags::empty(),
    };

    fn direct(modes: &OpenModes, flags: i32) -> (bool, u64) {
        let (reply, number) = modes.open(AGREED, 7, flags, 3);
        (reply.contains(FopenFlags::FOPEN_DIRECT_IO), number)
    }

    #[test]
    fn the_first_open_decides_for_those_that_follow() {
        let modes = OpenModes::default();
        let (first, a) = direct(&modes, libc::O_DIRECT);
        let (follows, b) = direct(&modes, 0);
        assert!(first && follows);
        assert_eq!((modes.release(7, a), modes.release(7, b)), (3, 3));
        let (cached, c) = direct(&modes, 0);
        let (beside, d) = direct(&modes, libc::O_DIRECT);
        assert!(!cached && !beside);
        modes.release(7, c);
        // The other is still open through the cache.
        assert!(!direct(&modes, libc::O_DIRECT).0);
        modes.release(7, d);
    }

    #[test]
    fn nothing_is_kept_of_files_that_are_closed() {
        let modes = OpenModes::default();
        let (_, number) = direct(&modes, libc::O_DIRECT);
        modes.release(7, number);
        modes.release(8, 1);
        assert!(modes.shards.iter().all(|s| s.lock().is_empty()));
    }
}
