//! Opening a pool: probe its superblocks, unlock them with the engine key, take in what the space
//! ring and the logs hold, make a recovery checkpoint (engine.md, "Recovery").

use std::sync::Arc;
use std::time::Duration;

use crate::base::units::BLOCK_SIZE_U64;
use crate::base::{Generation, PoolId};
use crate::block::{Book, DataStore, PoolNodes, Readers, Space};
use crate::crypto::{EngineKey, EngineWrap, LogOuterKey, SlotKey, slot_key};
use crate::device::Device;
use crate::pool::checkpoint::new_book;
use crate::pool::core::{Core, CoreParts, Interval};
use crate::pool::due::Due;
use crate::pool::ring::Ring;
use crate::pool::slots::{self, Chosen, Slots};
use crate::pool::superblock::{Clear, RO_COMPAT};
use crate::pool::{Pool, PoolError, Serial, items, recover};
use crate::tree::{Nodes, Tree};

/// Generations skipped at every opening: above anything that a log can hold (rule 1).
const OPEN_SKIP: u64 = 16;
/// The dirty limit of a pool with the smallest cache, in nodes.
const DIRTY_NODES_MIN: usize = 64;

/// How a pool is opened.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Bytes for cached tree nodes.
    pub cache_bytes: usize,
    /// The generation last seen of this pool: an older one is refused.
    pub remembered: Option<Generation>,
    /// The incarnation that was remembered with it; 0 where nothing is.
    pub remembered_incarnation: u64,
    /// Opens a pool that is older than remembered, as a new incarnation of it.
    pub accept_rollback: bool,
    /// Writes nothing at all: the state of the last checkpoint, for looking. A damaged space ring
    /// does not keep it from opening.
    pub read_only: bool,
    /// Longest time from a change to the checkpoint that writes it.
    pub checkpoint_interval: Duration,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 64 << 20,
            remembered: None,
            remembered_incarnation: 0,
            accept_rollback: false,
            read_only: false,
            checkpoint_interval: Duration::from_secs(10),
        }
    }
}

/// A pool that was found and not yet unlocked.
pub struct Sealed {
    device: Arc<dyn Device>,
    slots: Slots,
}

/// What is left of a pool.
pub struct Remains {
    /// Every state that a superblock still leads to, the newest first, for reading only.
    pub states: Vec<Arc<Pool>>,
    /// Superblock slots of which no copy leads to a state: a later one may have stood there.
    pub lost_slots: Vec<u8>,
    /// A checkpoint behind the newest state, of which the space ring says that it was durable.
    pub later: Option<Generation>,
}

/// Looks for a pool on a device.
///
/// # Errors
/// [`PoolError::NotAPool`], [`PoolError::TooNew`], [`PoolError::Truncated`],
/// [`PoolError::Corrupt`]; the device's.
pub fn probe(device: &Arc<dyn Device>) -> Result<Sealed, PoolError> {
    let slots = Slots::read(&**device)?;
    let expected = slots.newest().geometry.total_blocks * BLOCK_SIZE_U64;
    let found = device.size_bytes();
    if found < expected {
        return Err(PoolError::Truncated { expected, found });
    }
    Ok(Sealed { device: device.clone(), slots })
}

/// Looks for what is left of a pool, for [`Sealed::remains`]: copies of the superblock that cannot be
/// used, and a device that ends too early, hide nothing that can be read.
///
/// # Errors
/// As [`probe`], where no copy is left.
pub fn probe_remains(device: &Arc<dyn Device>) -> Result<Sealed, PoolError> {
    let slots = Slots::read_remains(&**device)?;
    Ok(Sealed { device: device.clone(), slots })
}

impl Sealed {
    /// The pool's identity.
    #[must_use]
    pub fn pool_id(&self) -> PoolId {
        self.slots.newest().pool_id
    }
    /// Its incarnation, as the newest superblock states it, not yet authenticated.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.slots.newest().incarnation
    }
    /// Its last checkpoint, as the newest superblock states it, not yet authenticated.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.slots.newest().generation
    }
    /// Wraps of its engine key.
    #[must_use]
    pub fn wraps(&self) -> &[EngineWrap] {
        &self.slots.newest().wraps
    }
    /// Superblock copies that are there and cannot be read: slot and copy.
    #[must_use]
    pub fn damaged_copies(&self) -> &[(u8, u8)] {
        self.slots.damaged()
    }

    /// Opens what is left of the pool. Nothing but the superblock and, for signs of a later one, the
    /// space ring is read yet: no damage behind them keeps a state from opening.
    ///
    /// # Errors
    /// [`PoolError::WrongKey`], [`PoolError::SuperblockLost`]
    pub fn remains(self, key: EngineKey, cache_bytes: usize) -> Result<Remains, PoolError> {
        let slot_key = slot_key(&key, None);
        let options = OpenOptions { read_only: true, cache_bytes, ..OpenOptions::default() };
        let lost_slots = self.slots.lost(&slot_key);
        let mut remains = Remains { states: Vec::new(), lost_slots, later: None };
        for chosen in self.slots.choose_each(&slot_key)? {
            let (device, key) = (self.device.clone(), slot_key.dup());
            let opening = Opening::read(device, chosen, key, &options, Books::LeftAlone)?;
            if remains.states.is_empty() {
                // A ring that cannot be read shows nothing.
                let shown = opening.serial.ring.shows_later_state(&*self.device);
                remains.later = shown.unwrap_or_default();
            }
            let pool = opening.into_pool();
            pool.core.close();
            // Keys were taken away by the newest state that the one before it still has.
            let shredding = pool.serial.lock().payload.shred_pending != Generation(0);
            remains.states.push(pool);
            if shredding {
                break;
            }
        }
        Ok(remains)
    }

    /// Opens the pool.
    ///
    /// # Errors
    /// [`PoolError::WrongKey`], [`PoolError::RolledBack`], [`PoolError::Corrupt`],
    /// [`PoolError::Full`] where the recovery checkpoint finds no room; the device's.
    pub fn unlock(self, key: EngineKey, options: OpenOptions) -> Result<Arc<Pool>, PoolError> {
        let slot_key = slot_key(&key, None);
        drop(key);
        let chosen = self.slots.choose(&slot_key)?;
        let lost_slots = self.slots.lost(&slot_key);
        let read_only = options.read_only || chosen.clear.ro_compat & !RO_COMPAT != 0;
        if !options.accept_rollback {
            slots::check_rollback(&chosen.clear, &options)?;
        }
        if !read_only {
            let other = self.slots.other(&chosen, &slot_key);
            repair(&*self.device, &[Some(&chosen), other.as_ref()], &slot_key)?;
        }
        let mut opening = Opening::read(self.device, chosen, slot_key, &options, Books::Needed)?;
        opening.check_later_state(&options, &lost_slots)?;
        // The logs were written under the incarnation that the superblock states.
        let logs_incarnation = opening.serial.clear.incarnation;
        let clear = &mut opening.serial.clear;
        if options.accept_rollback && slots::check_rollback(clear, &options).is_err() {
            // Above every incarnation seen, so that no two branches of the pool share one.
            clear.incarnation = clear.incarnation.max(options.remembered_incarnation) + 1;
        }
        let pool = opening.into_pool();
        if read_only {
            pool.core.fail("it was opened for reading only");
        } else {
            recover::recover(&pool, logs_incarnation)?;
            pool.core.space.secure()?;
        }
        Ok(pool)
    }
}

/// What says which space is in use: the catalog's items of regions, and the space ring.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Books {
    /// They are read.
    Needed,
    /// Trees are read without them.
    LeftAlone,
}

/// One good copy of a slot repairs the other, also of the slot that was not chosen: what the device
/// does not hand out there may be a state that was never acknowledged, and be readable again once its
/// blocks are somebody else's.
fn repair(device: &dyn Device, slots: &[Option<&Chosen>], key: &SlotKey) -> Result<(), PoolError> {
    let bad = || slots.iter().flatten().filter(|slot| !slot.bad_copies.is_empty());
    for slot in bad() {
        for copy in &slot.bad_copies {
            log::warn!("superblock slot {} copy {copy} is bad and is repaired", slot.clear.index);
            slots::write_copy(device, &slot.clear, *copy, &slot.payload, key)?;
        }
    }
    if bad().next().is_some() {
        device.flush()?;
    }
    bad().try_for_each(|slot| slots::verify_slot(device, &slot.clear, key))
}

/// A pool being opened: read, nothing written.
struct Opening {
    device: Arc<dyn Device>,
    space: Arc<Space>,
    node_store: Arc<PoolNodes>,
    nodes: Arc<Nodes>,
    dirty_nodes_max: usize,
    readers: Readers,
    catalog: Tree,
    serial: Serial,
    due: Due,
}

impl Opening {
    fn read(
        device: Arc<dyn Device>,
        chosen: Chosen,
        slot_key: SlotKey,
        options: &OpenOptions,
        books: Books,
    ) -> Result<Self, PoolError> {
        let Chosen { clear, payload, .. } = chosen;
        let durable = clear.generation;
        let readers = Readers::new(Generation(durable.get() + OPEN_SKIP));
        let root = payload.catalog_root.clone();
        let catalog = root.map_or_else(Tree::empty, Tree::open);
        let region_items = if books == Books::LeftAlone {
            Vec::new()
        } else {
            // Only to read the catalog, which says what regions there are.
            let space = Arc::new(Space::new(
                device.clone(),
                clear.geometry,
                readers.clone(),
                durable,
                Vec::new(),
            ));
            let store = PoolNodes::new(device.clone(), space, clear.node_bytes as usize);
            let nodes = Nodes::new(Arc::new(store), options.cache_bytes)?;
            items::regions(&catalog, &nodes, &clear.geometry)?
        };
        let geometry = clear.geometry;
        let space = Space::new(device.clone(), geometry, readers.clone(), durable, region_items);
        let space = Arc::new(space);
        let mut ring = Ring::new(clear.pool_id, &geometry, payload.ring.clone());
        if books == Books::Needed {
            match ring.replay(&*device, &space) {
                // Trees and data are read without it; who looks reads the ring again and says so.
                Err(error @ PoolError::Corrupt { .. }) if options.read_only => {
                    log::warn!("{error}: which blocks are in use is not known");
                }
                replayed => replayed?,
            }
        }
        let node_bytes = clear.node_bytes as usize;
        let node_store = Arc::new(PoolNodes::new(device.clone(), space.clone(), node_bytes));
        let nodes = Arc::new(Nodes::new(node_store.clone(), options.cache_bytes / 2)?);
        let dirty_nodes_max = (options.cache_bytes / 4 / node_bytes).max(DIRTY_NODES_MIN);
        let serial = Serial { clear, payload, ring, slot_key, idle: false };
        let due = Due::new(options.checkpoint_interval);
        Ok(Self {
            device,
            space,
            node_store,
            nodes,
            dirty_nodes_max,
            readers,
            catalog,
            serial,
            due,
        })
    }

    /// The ring may show that a superblock after the newest readable one was durable. Where it cannot
    /// be read behind its head it shows nothing, which is enough as long as no slot is lost in which
    /// such a superblock could have stood.
    fn check_later_state(&self, options: &OpenOptions, lost_slots: &[u8]) -> Result<(), PoolError> {
        let shown = match self.serial.ring.shows_later_state(&*self.device) {
            Err(PoolError::Io(error))
                if error.is_failed_read() && (lost_slots.is_empty() || options.accept_rollback) =>
            {
                log::warn!("the space ring shows nothing of a later state: {error}");
                None
            }
            shown => shown?,
        };
        match shown {
            Some(remembered) if !options.accept_rollback => {
                Err(PoolError::RolledBack { found: self.serial.clear.generation, remembered })
            }
            _ => Ok(()),
        }
    }

    fn into_pool(self) -> Arc<Pool> {
        let Clear { pool_id, incarnation, generation: durable, .. } = self.serial.clear;
        let data = Arc::new(DataStore::new(self.device.clone(), self.space.clone()));
        let open = Generation(durable.get() + OPEN_SKIP);
        let limit = self.serial.ring.limit_bytes();
        // Replaced below by one that can ask for a checkpoint.
        let book = Book::new(self.space.clone(), open, limit, Box::new(|| {}));
        let interval = Interval { generation: open, lo: Arc::new(LogOuterKey::random()), book };
        let core = Arc::new(Core::new(CoreParts {
            pool_id,
            incarnation,
            device: self.device,
            space: self.space,
            data,
            node_store: self.node_store,
            nodes: self.nodes,
            dirty_nodes_max: self.dirty_nodes_max,
            interval,
            readers: self.readers,
            due: self.due,
            durable,
        }));
        core.gate.write().book = new_book(&core, open, limit);
        Pool::new(core, self.serial, self.catalog)
    }
}
