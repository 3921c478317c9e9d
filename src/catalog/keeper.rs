//! What the room does at every checkpoint: takes over what heads bring, and closes the segments of
//! the clusters that are snapshotted.

use std::sync::Arc;

use crate::base::BlockAddr;
use crate::catalog::cluster::HeadChange;
use crate::catalog::error::CatalogError;
use crate::catalog::pool_storage::TxnStorage;
use crate::catalog::state::State;
use crate::pool::{CatalogTxn, CutReport, Keeper, PoolError};
use crate::sys::sync::Mutex;

/// The catalog, as the pool calls it.
pub(in crate::catalog) struct Settler {
    pub state: Arc<Mutex<State>>,
}

impl Keeper for Settler {
    fn settle(&self, txn: &mut CatalogTxn<'_>, cut: &CutReport) -> Result<(), PoolError> {
        let mut storage = TxnStorage::new(txn);
        let settled = self.state.lock().edit(&mut storage, cut.generation, |edit| {
            for head in &cut.heads {
                edit.settle_head(HeadChange {
                    cluster: head.cluster,
                    ck_id: head.ck_id,
                    root: head.root.as_deref(),
                    root_generation: head.root_generation,
                    referenced_blocks: head.referenced_blocks,
                    allocated: &head.allocated,
                    kills: head.kills.iter().map(|kill| (kill.run, kill.birth)),
                })?;
            }
            for (cluster, next) in &cut.new_segments {
                edit.table.cut(*cluster, *next, cut.generation)?;
            }
            Ok(())
        });
        settled.map_err(into_pool_error)
    }
}

/// The pool knows no items of this room: what contradicts itself there is corruption to it.
pub(in crate::catalog) fn into_pool_error(error: CatalogError) -> PoolError {
    match error {
        CatalogError::Pool(error) => error,
        other => {
            log::error!("the catalog cannot settle a checkpoint: {other}");
            PoolError::Corrupt { what: "catalog item", addr: BlockAddr(0) }
        }
    }
}
