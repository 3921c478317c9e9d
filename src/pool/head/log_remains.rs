//! What can be had of a head's log where nothing may be written: its edits, over the tree of the
//! last checkpoint, in memory.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::open::{open_edits, open_seed};
use crate::base::ids::ClusterId;
use crate::base::units::{BLOCK_SIZE, BlockAddr};
use crate::crypto::ClusterKey;
use crate::pool::log::{self, LogItem, ScanRequest, ScannedRecord};
use crate::pool::{Pool, PoolError};
use crate::tree::Key;

/// What a log holds, as far as it can be read.
#[derive(Default)]
pub struct LogRemains {
    /// The latest value of each item that it changes; `None`: the item is gone.
    pub edits: BTreeMap<Key, Option<Zeroizing<Vec<u8>>>>,
    /// Ciphertext of blocks that may not have reached their place.
    pub images: BTreeMap<BlockAddr, Vec<u8>>,
    /// Records that were taken.
    pub records: u64,
    /// Why those behind them were not, where it is not the log's end.
    pub damage: Option<PoolError>,
}

impl LogRemains {
    fn take(&mut self, record: &ScannedRecord, edits: Vec<crate::pool::log::record::Edit>) {
        for edit in edits {
            self.edits.insert(edit.key, edit.value.map(Zeroizing::new));
        }
        for image in &record.outer.images {
            let blocks = image.ciphertext.chunks_exact(BLOCK_SIZE);
            for (block, at) in blocks.zip(0..u64::from(image.run.blocks)) {
                self.images.insert(image.run.addr.plus(at), block.to_vec());
            }
        }
        self.records += u64::from(record.outer.switch.is_none());
    }
}

impl Pool {
    /// Whether a crash may have left a log of this cluster: so too where the catalog cannot say.
    #[must_use]
    pub fn may_have_log(&self, cluster: ClusterId) -> bool {
        !matches!(self.log_item(cluster), Ok(None))
    }

    /// Reads what a crash left in a cluster's log, from its first record to the first that is
    /// missing or damaged: the state at some moment since the last checkpoint, the latest that can
    /// be shown to have been. Empty for a cluster without a log.
    ///
    /// # Errors
    /// [`PoolError::ClusterKey`] for another key; [`PoolError::Corrupt`] where the catalog does not
    /// say where the log stands; the tree's.
    pub fn log_remains(
        &self,
        cluster: ClusterId,
        ck_id: u32,
        key: &ClusterKey,
    ) -> Result<LogRemains, PoolError> {
        let mut remains = LogRemains::default();
        let Some(item) = self.log_item(cluster)? else { return Ok(remains) };
        let seed = open_seed(self.core(), cluster, ck_id, key, &item)?;
        let (records, damage) = self.records_left(cluster, &item)?;
        remains.damage = damage;
        for record in &records {
            match open_edits(&seed, cluster, record) {
                Ok(edits) => remains.take(record, edits),
                Err(error) => {
                    remains.damage = Some(error);
                    break;
                }
            }
        }
        Ok(remains)
    }

    /// The records that count, and why there are no more where that is not the log's end.
    fn records_left(
        &self,
        cluster: ClusterId,
        item: &LogItem,
    ) -> Result<(Vec<ScannedRecord>, Option<PoolError>), PoolError> {
        self.with_log_request(&self.serial.lock(), cluster, item, |request| {
            // Of a damaged log of which nothing could be booked, none count.
            let decided = request.decided.filter(|records| *records > 0 || !item.is_damaged());
            let request = ScanRequest { decided, ..*request };
            match log::scan(&request) {
                Ok(scan) => Ok((scan.records, item.is_damaged().then_some(PoolError::LogLost))),
                Err(error) => Ok((log::scan_prefix(&request)?.records, Some(error))),
            }
        })
    }
}
