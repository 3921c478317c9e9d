//! Tests of the room, over the backing in memory.

mod attributes;
mod data;
mod engine;
mod failures;
mod model;
mod names;
mod threads;
mod unreadable;

use std::sync::Arc;

use crate::base::units::InodeNo;
use crate::volume::backing::Backing;
use crate::volume::backing::memory::MemoryBacking;
use crate::volume::{Attr, Caller, OpenFlags, ROOT_INODE, Result, Volume, VolumeOptions};

/// The caller of most tests: an ordinary user.
pub const USER: Caller = Caller { uid: 1000, gid: 1000, umask: 0o022, pid: 1 };
/// Root.
pub const ROOT: Caller = Caller { uid: 0, gid: 0, umask: 0o022, pid: 1 };
/// Opened for writing.
pub const WRITE: OpenFlags = OpenFlags { write: true, truncate: false };

/// A volume and what it stands on.
pub struct Rig {
    pub backing: Arc<MemoryBacking>,
    pub volume: Arc<Volume>,
}

pub fn options() -> VolumeOptions {
    VolumeOptions {
        cached_inodes: 64,
        buffer_bytes: 64 << 10,
        background: false,
        ..VolumeOptions::default()
    }
}

impl Rig {
    pub fn new() -> Self {
        Self::over(MemoryBacking::new(1 << 20))
    }
    pub fn over(backing: Arc<MemoryBacking>) -> Self {
        let volume =
            Volume::open_backing(Arc::clone(&backing) as Arc<dyn Backing>, options()).unwrap();
        Self { backing, volume }
    }
    /// What a crash leaves, opened again.
    pub fn crash(&self) -> Self {
        Self::over(self.backing.crashed())
    }
    /// A regular file in the root directory; looked up, not open.
    pub fn file(&self, name: &str) -> InodeNo {
        let (entry, handle) =
            self.volume.create(ROOT_INODE, name.as_bytes(), 0o644, WRITE, &USER).unwrap();
        self.volume.release(handle).unwrap();
        entry.attr.ino
    }
    pub fn dir(&self, parent: InodeNo, name: &str) -> InodeNo {
        self.volume.mkdir(parent, name.as_bytes(), 0o755, &USER).unwrap().attr.ino
    }
    pub fn write(&self, ino: InodeNo, offset: u64, data: &[u8]) {
        assert_eq!(self.volume.write(ino, offset, data, true), Ok(data.len()));
    }
    pub fn read(&self, ino: InodeNo, offset: u64, len: usize) -> Vec<u8> {
        read(&self.volume, ino, offset, len).unwrap()
    }
    pub fn stat(&self, ino: InodeNo) -> Attr {
        self.volume.getattr(ino).unwrap()
    }
    /// The inode of a name, without a lookup counted.
    pub fn find(&self, parent: InodeNo, name: &str) -> Result<InodeNo> {
        let entry = self.volume.lookup(parent, name.as_bytes())?;
        self.volume.forget(entry.attr.ino, 1);
        Ok(entry.attr.ino)
    }
    pub fn list(&self, ino: InodeNo) -> Vec<String> {
        let mut names = Vec::new();
        self.volume
            .readdir(ino, 2, false, &mut |entry| {
                names.push(String::from_utf8_lossy(entry.name).into_owned());
                false
            })
            .unwrap();
        names.sort();
        names
    }
    /// Writes out buffers, and checks that allocated is reachable.
    pub fn check(&self) {
        self.backing.checkpoint().unwrap();
        self.backing.check_space().unwrap();
    }
}

pub fn read(volume: &Volume, ino: InodeNo, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut calls = 0;
    let mut out = Vec::new();
    let count = volume.read(ino, offset, len, &mut |bytes| {
        calls += 1;
        out.extend_from_slice(bytes);
    })?;
    assert_eq!((calls, out.len()), (1, count));
    Ok(out)
}

/// Bytes that differ from place to place.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (seed.wrapping_mul(31).wrapping_add(i * 7 + i / 251)) as u8).collect()
}
