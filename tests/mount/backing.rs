//! A volume in memory that can be slow, counts its commits, and rots or panics when asked to.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use strongroom::sys::clock;
use strongroom::volume::backing::memory::MemoryBacking;
use strongroom::volume::backing::{Backing, Buffers, Edit, Purpose, Reservation, Snapshot, Staged};
use strongroom::volume::{Result, StatFs, Volume, VolumeOptions};

/// Blocks of the device that is simulated.
const CAPACITY_BLOCKS: u64 = 1 << 20;

/// The backing in memory, with what a test wants to see or to happen.
pub struct Hooked {
    inner: Arc<MemoryBacking>,
    /// How long each write takes.
    delay: Duration,
    /// Commits so far.
    pub commits: AtomicU64,
}

impl Hooked {
    pub fn volume(delay_ms: u64, cached_inodes: usize) -> (Arc<Volume>, Arc<Self>) {
        let hooked = Arc::new(Self {
            inner: MemoryBacking::new(CAPACITY_BLOCKS),
            delay: Duration::from_millis(delay_ms),
            commits: AtomicU64::new(0),
        });
        let backing = Arc::clone(&hooked) as Arc<dyn Backing>;
        let options = VolumeOptions {
            root_uid: nix::unistd::geteuid().as_raw(),
            root_gid: nix::unistd::getegid().as_raw(),
            cached_inodes,
            ..VolumeOptions::default()
        };
        (Volume::open_backing(backing, options).unwrap(), hooked)
    }

    /// From now on the items of this inode cannot be read; of none: 0.
    pub fn rot(&self, ino: u64) {
        self.inner.checkpoint().unwrap();
        self.inner.unreadable.store(ino, Ordering::SeqCst);
    }
}

impl Backing for Hooked {
    fn writable(&self) -> bool {
        self.inner.writable()
    }
    fn view(&self) -> Result<Box<dyn Snapshot>> {
        self.inner.view()
    }
    fn transact(&self, edit: &mut dyn FnMut(&mut dyn Edit) -> Result<()>) -> Result<()> {
        self.inner.transact(edit)
    }
    fn between_cuts(&self, accept: &mut dyn FnMut()) {
        self.inner.between_cuts(accept);
    }
    fn stage(&self, plain: &[u8]) -> Result<Vec<Staged>> {
        self.inner.stage(plain)
    }
    fn write_out(&self, staged: &mut [Staged]) -> Result<()> {
        self.inner.write_out(staged)
    }
    fn reserve(&self, data_blocks: u64, items: u64, purpose: Purpose) -> Result<Reservation> {
        if data_blocks > 0 && !self.delay.is_zero() {
            clock::sleep(self.delay);
        }
        self.inner.reserve(data_blocks, items, purpose)
    }
    fn commit(&self) -> Result<()> {
        self.commits.fetch_add(1, Ordering::SeqCst);
        self.inner.commit()
    }
    fn name_hash(&self, parent: u64, name: &[u8]) -> u64 {
        assert!(name != b"panic", "asked to");
        self.inner.name_hash(parent, name)
    }
    fn set_buffers(&self, buffers: Weak<dyn Buffers>) {
        self.inner.set_buffers(buffers);
    }
    fn space(&self) -> StatFs {
        self.inner.space()
    }
}
