//! Inodes in memory, bounded, and the lookups that the kernel holds.
//!
//! An inode leaves the cache only when nobody else holds it: open handles, buffered data and
//! running operations all do; a truncation that is not finished keeps it too, and the loss of its last name
//! until it is freed. So there is never a second one of the same number.

use std::array;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::base::units::InodeNo;
use crate::sys::sync::{Mutex, Rank};
use crate::volume::inode::Inode;

const SHARDS: usize = 16;
/// Candidates looked at when one inode too many came in.
const TRIES: usize = 8;

fn shard(ino: InodeNo) -> usize {
    // Neighbours in number go to different shards.
    (ino.0 % SHARDS as u64) as usize
}

/// Inodes by number.
pub(in crate::volume) struct InodeCache {
    shards: [Mutex<Shard>; SHARDS],
    per_shard: usize,
}

#[derive(Default)]
struct Shard {
    map: HashMap<InodeNo, Arc<Inode>>,
    /// Numbers in order of coming in; one that is still in use goes to the back again.
    queue: VecDeque<InodeNo>,
}

impl InodeCache {
    pub fn new(capacity: usize) -> Self {
        let shards = array::from_fn(|_| Mutex::new(Rank::InodeShard, Shard::default()));
        Self { shards, per_shard: (capacity / SHARDS).max(4) }
    }

    /// The inode of that number, as yet unloaded where it was not there.
    pub fn get_or_insert(&self, ino: InodeNo) -> Arc<Inode> {
        let mut shard = self.shards[shard(ino)].lock();
        if let Some(inode) = shard.map.get(&ino) {
            return Arc::clone(inode);
        }
        let inode = Arc::new(Inode::new(ino));
        shard.map.insert(ino, Arc::clone(&inode));
        shard.queue.push_back(ino);
        if shard.map.len() > self.per_shard {
            shard.evict();
        }
        inode
    }

    /// The inode of that number, if it is here.
    pub fn peek(&self, ino: InodeNo) -> Option<Arc<Inode>> {
        self.shards[shard(ino)].lock().map.get(&ino).map(Arc::clone)
    }

    /// Drops an inode that nobody else holds: a number that names nothing.
    pub fn remove_unused(&self, inode: Arc<Inode>) {
        let mut shard = self.shards[shard(inode.ino)].lock();
        if Arc::strong_count(&inode) == 2 {
            shard.map.remove(&inode.ino);
            let ino = inode.ino;
            shard.queue.retain(|other| *other != ino);
        }
    }

    /// Forgets all that nobody holds.
    pub fn clear_unused(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.map.retain(|_, inode| !may_go(inode));
            let Shard { map, queue } = &mut *shard;
            queue.retain(|ino| map.contains_key(ino));
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock().map.len()).sum()
    }
}

/// Whether nobody holds the inode, nor anything that the tree would not tell its next user. The
/// caller holds the shard: who is alone there finds the state's lock free.
fn may_go(inode: &Arc<Inode>) -> bool {
    Arc::strong_count(inode) == 1 && inode.state.lock().truncating.is_none()
}

/// Whether the inode has lost its last name and waits for the last that holds it: who lets go of it
/// need not load it to know. The caller holds the shard, and nobody the inode.
fn is_nameless(inode: &Arc<Inode>) -> bool {
    let state = inode.state.lock();
    !state.dying && state.item.is_some_and(|item| item.nlink == 0)
}

impl Shard {
    fn evict(&mut self) {
        for _ in 0..TRIES {
            let Some(ino) = self.queue.pop_front() else { return };
            match self.map.get(&ino) {
                Some(inode) if !may_go(inode) || is_nameless(inode) => self.queue.push_back(ino),
                Some(_) => {
                    self.map.remove(&ino);
                    return;
                }
                None => {}
            }
        }
    }
}

/// Lookups that the kernel has not yet taken back: raised by lookup, create, mknod, mkdir,
/// symlink, link and readdirplus, lowered by forget. Kept apart from the inodes, in 16 bytes each,
/// since the kernel makes us keep them as long as it likes.
pub(in crate::volume) struct LookupCounts {
    shards: [Mutex<HashMap<InodeNo, u64>>; SHARDS],
}

impl LookupCounts {
    pub fn new() -> Self {
        Self { shards: array::from_fn(|_| Mutex::new(Rank::Lookups, HashMap::new())) }
    }
    /// One more.
    pub fn raise(&self, ino: InodeNo) {
        *self.shards[shard(ino)].lock().entry(ino).or_insert(0) += 1;
    }
    /// `n` less; whether none is left.
    pub fn lower(&self, ino: InodeNo, n: u64) -> bool {
        let mut map = self.shards[shard(ino)].lock();
        let Some(count) = map.get_mut(&ino) else { return true };
        debug_assert!(*count >= n, "inode {ino}: {n} forgotten of {count}");
        *count = count.saturating_sub(n);
        let none = *count == 0;
        if none {
            map.remove(&ino);
        }
        none
    }
    /// Whether the kernel holds the inode.
    pub fn holds(&self, ino: InodeNo) -> bool {
        self.shards[shard(ino)].lock().contains_key(&ino)
    }
    /// Inodes held.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock().len()).sum()
    }
    /// Forgets all: the session has ended. What was held.
    pub fn clear(&self) -> Vec<InodeNo> {
        self.shards.iter().flat_map(|s| std::mem::take(&mut *s.lock()).into_keys()).collect()
    }
}
