//! The backing that serves mounts: a head of the pool, or a snapshot's view.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::base::cursor::{Reader, Writer};
use crate::base::units::{BlockAddr, Generation};
use crate::block::{BlockRef, Run, SpaceReport, Urgency};
use crate::pool::{
    self, CutRunner, DataRun, Drain, Head, NameHashKey, PoolError, Txn, View, name_hash,
};
use crate::sys::sync::{Mutex, Rank};
use crate::volume::attr::StatFs;
use crate::volume::backing::{
    Backing, Buffers, Edit, Items, Key, Purpose, Reservation, Snapshot, Staged, Visit,
};
use crate::volume::error::{Result, VolumeError};
use crate::volume::items::REF_BYTES;
use crate::volume::{Volume, VolumeOptions};

const _: () = assert!(BlockRef::BYTES == REF_BYTES);

impl From<PoolError> for VolumeError {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Full => Self::NoSpace,
            PoolError::ReadOnly { reason } => Self::PoolReadOnly(reason),
            PoolError::Wiped => Self::Locked,
            PoolError::Corrupt { what, addr } => {
                let addr = (addr.0 != 0).then_some(addr);
                Self::Corrupt { what, ino: None, offset: None, addr }
            }
            other => Self::Io(other.to_string()),
        }
    }
}

fn statfs(space: &SpaceReport) -> StatFs {
    StatFs {
        blocks: space.capacity,
        blocks_free: space.capacity.saturating_sub(space.used),
        blocks_available: space.free,
    }
}

impl Volume {
    /// The writable volume of a cluster's head.
    ///
    /// # Errors
    /// As [`Volume::open_backing`].
    pub fn open_head(head: Arc<Head>, options: VolumeOptions) -> Result<Arc<Self>> {
        let backing = HeadBacking { head, bridge: Mutex::new(Rank::HeadBridge, None) };
        Self::open_backing(Arc::new(backing), options)
    }

    /// The read-only volume of a snapshot.
    ///
    /// # Errors
    /// As [`Volume::open_backing`].
    pub fn open_view(
        view: View,
        name_key: NameHashKey,
        options: VolumeOptions,
    ) -> Result<Arc<Self>> {
        let backing = ViewBacking { view: Arc::new(view), name_key };
        Self::open_backing(Arc::new(backing), options)
    }
}

struct HeadBacking {
    head: Arc<Head>,
    /// What the head holds weakly: it lives as long as this backing.
    bridge: Mutex<Option<Arc<Bridge>>>,
}

/// The volume's buffers, as the pool calls them.
struct Bridge {
    head: Weak<Head>,
    buffers: Weak<dyn Buffers>,
}

/// A volume's error as the pool passes it on: the cause is in the log and sticks to the volume.
fn pool_error(error: VolumeError) -> PoolError {
    log::error!("buffered data could not be stored: {error}");
    match error {
        VolumeError::NoSpace => PoolError::Full,
        VolumeError::Locked => PoolError::Wiped,
        VolumeError::PoolReadOnly(reason) => PoolError::ReadOnly { reason },
        other => PoolError::ReadOnly { reason: other.to_string() },
    }
}

impl pool::Buffers for Bridge {
    fn drain(&self, why: Drain) -> std::result::Result<(), PoolError> {
        let head = self.head.upgrade();
        let Some(buffers) = self.buffers.upgrade() else {
            // The volume is gone, and with it what it buffered; it had nothing when it was closed.
            if let (Drain::Commit, Some(head)) = (why, head) {
                head.mark();
            }
            return Ok(());
        };
        match (why, head) {
            (Drain::Commit, Some(head)) => buffers.drain_for_commit(&mut || head.mark()),
            _ => buffers.drain_ahead(),
        }
        .map_err(pool_error)
    }

    fn drain_at_cut(&self, run: &mut CutRunner<'_>) -> std::result::Result<(), PoolError> {
        let Some(buffers) = self.buffers.upgrade() else { return Ok(()) };
        buffers
            .drain_gated(&mut |edit| run.transact(|txn| edit(&mut HeadEdit { txn })))
            .map_err(pool_error)
    }
}

impl Backing for HeadBacking {
    fn writable(&self) -> bool {
        true
    }
    fn view(&self) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(ViewSnapshot(Arc::new(self.head.view()))))
    }
    fn transact(&self, edit: &mut dyn FnMut(&mut dyn Edit) -> Result<()>) -> Result<()> {
        self.head.transact(|txn| edit(&mut HeadEdit { txn }))
    }
    fn between_cuts(&self, accept: &mut dyn FnMut()) {
        self.head.between_cuts(accept);
    }
    fn stage(&self, plain: &[u8]) -> Result<Vec<Staged>> {
        Ok(self.head.prepare(plain)?.into_iter().map(staged).collect())
    }
    fn write_out(&self, staged: &mut [Staged]) -> Result<()> {
        for one in staged {
            if let Some(run) = one.token.downcast_mut::<DataRun>() {
                self.head.write_out(std::slice::from_mut(run))?;
            }
        }
        Ok(())
    }
    fn wait_for_room(&self, end: Duration) -> bool {
        self.head.wait_for_room(end)
    }
    fn reserve(&self, data_blocks: u64, items: u64, purpose: Purpose) -> Result<Reservation> {
        let urgency = match purpose {
            Purpose::Grow => Urgency::Ordinary,
            Purpose::Shrink => Urgency::Delete,
        };
        let promise = self.head.reserve(data_blocks, items, urgency)?;
        Ok(Reservation { data_blocks, promise: Some(Box::new(promise)) })
    }
    fn commit(&self) -> Result<()> {
        Ok(self.head.commit()?)
    }
    fn name_hash(&self, parent: u64, name: &[u8]) -> u64 {
        self.head.name_hash(parent, name)
    }
    fn set_buffers(&self, buffers: Weak<dyn Buffers>) {
        let bridge = Arc::new(Bridge { head: Arc::downgrade(&self.head), buffers });
        let weak: Weak<Bridge> = Arc::downgrade(&bridge);
        *self.bridge.lock() = Some(bridge);
        self.head.set_buffers(weak);
    }
    fn space(&self) -> StatFs {
        statfs(&self.head.space())
    }
}

fn staged(run: DataRun) -> Staged {
    let mut refs = Writer::new();
    run.refs().iter().for_each(|r| r.encode(&mut refs));
    Staged { addr: run.run().addr, refs: refs.into_bytes(), token: Box::new(run) }
}

struct HeadEdit<'t, 'h> {
    txn: &'t mut Txn<'h>,
}

impl Items for HeadEdit<'_, '_> {
    fn get(&self, key: Key) -> Result<Option<Vec<u8>>> {
        Ok(self.txn.get(key)?)
    }
    fn range(&self, from: Key, to: Key, visit: &mut Visit<'_>) -> Result<()> {
        Ok(self.txn.range(from, to, visit)?)
    }
}

impl Edit for HeadEdit<'_, '_> {
    fn generation(&self) -> Generation {
        self.txn.generation()
    }
    fn refresh(&mut self) {
        self.txn.refresh();
    }
    fn put(&mut self, key: Key, value: &[u8]) -> Result<()> {
        self.txn.put(key, value.to_vec());
        Ok(())
    }
    fn remove(&mut self, key: Key) -> Result<()> {
        self.txn.remove(key);
        Ok(())
    }
    fn claim(&mut self, staged: Staged) {
        if let Ok(run) = staged.token.downcast::<DataRun>() {
            self.txn.claim(*run);
        }
    }
    fn kill(&mut self, addr: BlockAddr, blocks: u32, birth: Generation) {
        self.txn.kill(Run { addr, blocks }, birth);
    }
}

struct ViewBacking {
    view: Arc<View>,
    name_key: NameHashKey,
}

struct ViewSnapshot(Arc<View>);

impl Items for ViewSnapshot {
    fn get(&self, key: Key) -> Result<Option<Vec<u8>>> {
        Ok(self.0.get(key)?)
    }
    fn range(&self, from: Key, to: Key, visit: &mut Visit<'_>) -> Result<()> {
        Ok(self.0.range(from, to, visit)?)
    }
}

impl Snapshot for ViewSnapshot {
    fn read_blocks(&self, addr: BlockAddr, refs: &[u8], out: &mut [u8]) -> Result<()> {
        let mut reader = Reader::new(refs);
        let mut decoded = Vec::with_capacity(refs.len() / REF_BYTES);
        while reader.remaining() > 0 {
            decoded.push(BlockRef::decode(&mut reader)?);
        }
        Ok(self.0.read_blocks(addr, &decoded, out)?)
    }
}

impl Backing for ViewBacking {
    fn writable(&self) -> bool {
        false
    }
    fn view(&self) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(ViewSnapshot(Arc::clone(&self.view))))
    }
    fn transact(&self, _: &mut dyn FnMut(&mut dyn Edit) -> Result<()>) -> Result<()> {
        Err(VolumeError::ReadOnly)
    }
    fn between_cuts(&self, accept: &mut dyn FnMut()) {
        accept();
    }
    fn stage(&self, _: &[u8]) -> Result<Vec<Staged>> {
        Err(VolumeError::ReadOnly)
    }
    fn write_out(&self, _: &mut [Staged]) -> Result<()> {
        Err(VolumeError::ReadOnly)
    }
    fn reserve(&self, _: u64, _: u64, _: Purpose) -> Result<Reservation> {
        Err(VolumeError::ReadOnly)
    }
    fn commit(&self) -> Result<()> {
        Ok(())
    }
    fn name_hash(&self, parent: u64, name: &[u8]) -> u64 {
        name_hash(&self.name_key, parent, name)
    }
    fn set_buffers(&self, _: Weak<dyn Buffers>) {}
    fn space(&self) -> StatFs {
        statfs(&self.view.space())
    }
}
