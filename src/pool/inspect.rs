//! Looking at a pool without changing it: what check and the x-ray need beyond the trees.

use zeroize::Zeroizing;

use crate::base::{BlockAddr, ClusterId, Generation};
use crate::crypto::OpenError;
use crate::pool::handle::Serial;
use crate::pool::log::{LogItem, Scan, ScanRequest, scan};
use crate::pool::superblock::Copy;
use crate::pool::{Pool, PoolError};

/// A superblock's payload without its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadFacts {
    /// Where the catalog's root stands; `None` for an empty catalog.
    pub catalog_root: Option<BlockAddr>,
    /// Position behind the ring's last record, in blocks since the pool was made.
    pub ring_head: u64,
    /// Position of the ring's oldest record that is needed.
    pub ring_tail: u64,
    /// What was let go up to this checkpoint still has to be shredded; 0: nothing.
    pub shred_pending: Generation,
    /// Blocks of catalog nodes, both copies counted.
    pub catalog_blocks: u64,
}

/// A record of the space ring, as it stands on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingRecord {
    /// Blocks since the pool was made.
    pub position: u64,
    /// Blocks it takes.
    pub blocks: u64,
    /// The checkpoint that wrote it.
    pub generation: Generation,
    /// The region whose entries it carries on; `None`: it holds its checkpoint's own.
    pub carried_region: Option<u32>,
    /// Entries in it.
    pub entries: u32,
}

impl Pool {
    /// Opens a superblock copy's payload with the pool's key.
    ///
    /// # Errors
    /// [`OpenError`]: sealed under another key, or damaged.
    pub fn open_superblock(&self, copy: &Copy) -> Result<PayloadFacts, OpenError> {
        let payload = copy.open(&self.serial.lock().slot_key)?;
        Ok(PayloadFacts {
            catalog_root: payload.catalog_root.as_ref().map(|root| root.addr),
            ring_head: payload.ring.head,
            ring_tail: payload.ring.tail,
            shred_pending: payload.shred_pending,
            catalog_blocks: payload.catalog_blocks,
        })
    }

    /// Write sequence of the newest superblock.
    #[must_use]
    pub fn superblock_sequence(&self) -> u64 {
        self.serial.lock().clear.sequence
    }

    /// Blocks of catalog nodes, both copies counted, as the newest superblock states them.
    #[must_use]
    pub fn catalog_blocks(&self) -> u64 {
        self.serial.lock().payload.catalog_blocks
    }

    /// Reads the records of the space ring from the device, oldest first.
    ///
    /// # Errors
    /// [`PoolError::Corrupt`] where one is not what the superblock says; the device's.
    pub fn ring_records(&self) -> Result<Vec<RingRecord>, PoolError> {
        self.serial.lock().ring.records_on(&*self.core.device)
    }

    /// A checkpoint after the newest superblock that can be read, of which the space ring shows that
    /// it was durable.
    ///
    /// # Errors
    /// The device's.
    pub fn later_state(&self) -> Result<Option<Generation>, PoolError> {
        self.serial.lock().ring.shows_later_state(&*self.core.device)
    }

    /// What a crash left in a cluster's log: as an earlier opening decided, or, in a pool that was
    /// opened for reading, as the next opening will. `None` for the log of an open head.
    ///
    /// # Errors
    /// [`PoolError::Corrupt`] where records that had been flushed are missing; the device's.
    pub fn scan_log(&self, cluster: ClusterId, item: &LogItem) -> Result<Option<Scan>, PoolError> {
        if self.participants().iter().any(|p| p.cluster() == cluster) {
            return Ok(None);
        }
        self.with_log_request(&self.serial.lock(), cluster, item, |request| scan(request).map(Some))
    }

    /// Hands over what says where a crash left a cluster's log.
    pub(in crate::pool) fn with_log_request<R>(
        &self,
        serial: &Serial,
        cluster: ClusterId,
        item: &LogItem,
        f: impl FnOnce(&ScanRequest<'_>) -> R,
    ) -> R {
        let (lo, incarnation, generation, half, decided) = match &item.outstanding {
            Some(o) => (o.lo.clone(), o.incarnation, o.generation, o.half, Some(o.records)),
            None => {
                let lo = Zeroizing::new(*serial.payload.lo.bytes());
                (lo, self.core.incarnation, serial.clear.generation.next(), item.half, None)
            }
        };
        f(&ScanRequest {
            device: &*self.core.device,
            pool: self.core.pool_id,
            incarnation,
            cluster,
            area: item.area,
            half,
            generation,
            lo: &lo,
            decided,
        })
    }
}
