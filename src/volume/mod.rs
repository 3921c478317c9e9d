//! POSIX semantics of one cluster: of its head, writable, or of a snapshot, read-only.
//!
//! A [`Volume`] is what a mount serves. Its operations are synchronous, take `&self`, and may be
//! called from any thread; input is borrowed, what is read goes to a sink that the caller passes.
//! It knows items, names, extents and buffers, and neither FUSE nor keys.
//!
//! Promises:
//! - An operation that changes names or attributes is one atomic set of edits. A write is accepted
//!   only when space for it is promised; it may wait in the write buffer, which is drained before
//!   every commit and every cut, so that what survives a crash is a prefix of what was done.
//! - `fsync` answers when everything acknowledged before it is durable. After a write was lost, no
//!   later `fsync` of that file succeeds.
//! - Inode numbers are never used again; a directory's cookies are persistent.
//!
//! Locks, in the order in which they are taken:
//! 1. `Inode::op`, by what changes a file's content (held over I/O; the inode's own);
//!    `renames`, by what moves a directory; `numbers`, by what takes an inode number.
//! 2. the interval gate, inside [`backing::Backing::transact`];
//! 3. the buffer gate (shared by what changes buffers, exclusive at the cut);
//! 4. `Inode::state`, several in ascending order of inode number, until the edits are in
//!    the tree;
//! 5. leaves: lookup counts, handles, the list of dirty inodes, the inode cache's shards.
//!
//! Readers take 4 for a moment, to copy buffered pages and take a view, and no lock over I/O.

pub mod attr;
pub mod backing;
pub mod error;
pub mod items;

mod acl;
mod allocate;
mod buffer;
mod cache;
mod copy_range;
mod create;
mod edit;
mod entries;
mod extents;
mod handles;
mod inode;
mod link;
mod locked;
mod lookup;
mod open;
mod orphans;
mod read;
mod readdir;
mod rename;
mod seek;
mod setattr;
mod stand_in;
mod statfs;
mod sync;
mod truncate;
mod write;
mod xattr;

#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use crate::sys::sync::Mutex;

#[cfg(any(test, fuzzing))]
pub use acl::fuzz as fuzz_acl;
pub use attr::{
    AllocateMode, Attr, Caller, DirEntry, Entry, FileKind, FileTime, HandleId, INODE_GENERATION,
    OpenFlags, RenameFlags, Seek, SetAttr, StatFs, TimeSet, XattrMode,
};
pub use error::{Result, VolumeError};
pub use items::ROOT_INODE;
pub use stand_in::is_stand_in;

use backing::Backing;
use buffer::WriteBuffer;
use cache::{InodeCache, LookupCounts};
use handles::Handles;
use locked::Presence;
use open::InodeNumbers;
use orphans::Reaper;

/// How a volume is opened.
#[derive(Clone, Copy, Debug)]
pub struct VolumeOptions {
    /// Owner of the root directory, when it is made.
    pub root_uid: u32,
    /// Group of the root directory, when it is made.
    pub root_gid: u32,
    /// Inode numbers below this are never handed out: an earlier state of the cluster used them.
    pub inode_floor: u64,
    /// Inodes held in memory beyond those in use.
    pub cached_inodes: usize,
    /// Bytes buffered before they are encrypted and written.
    pub buffer_bytes: usize,
    /// Whether a thread of the volume's own frees what was deleted. Without it, the caller calls
    /// [`Volume::background_step`].
    pub background: bool,
}

impl Default for VolumeOptions {
    fn default() -> Self {
        Self {
            root_uid: 0,
            root_gid: 0,
            inode_floor: 0,
            cached_inodes: 32_768,
            buffer_bytes: 2 << 20,
            background: true,
        }
    }
}

/// One cluster's filesystem tree.
pub struct Volume {
    backing: Arc<dyn Backing>,
    options: VolumeOptions,
    inodes: InodeCache,
    lookups: LookupCounts,
    handles: Handles,
    buffer: WriteBuffer,
    numbers: Mutex<InodeNumbers>,
    renames: Mutex<()>,
    presence: Presence,
    reaper: Arc<Reaper>,
    /// Why accepted data was lost; then the volume takes no more.
    failed: OnceLock<&'static str>,
    /// Why the volume was told to take no more changes.
    stopped: OnceLock<&'static str>,
}
