//! The pool's catalog transaction and catalog view, as what the rules of this room stand on.

use std::collections::HashSet;

use crate::base::SegmentId;
use crate::block::Run;
use crate::catalog::error::CatalogError;
use crate::catalog::keys::Key;
use crate::catalog::storage::{Items, Storage, Visit};
use crate::pool::{CatalogTxn, CatalogView};

/// The catalog inside a checkpoint.
pub(in crate::catalog) struct TxnStorage<'a, 'p> {
    txn: &'a mut CatalogTxn<'p>,
}

impl<'a, 'p> TxnStorage<'a, 'p> {
    pub const fn new(txn: &'a mut CatalogTxn<'p>) -> Self {
        Self { txn }
    }
    /// Takes away what is left of a cluster's log that nobody will replay.
    pub fn drop_log(&mut self, cluster: crate::base::ClusterId) -> Result<bool, CatalogError> {
        Ok(self.txn.drop_log(cluster)?)
    }
    /// Goes on with what is left of a cluster's damaged log.
    pub fn accept_log_loss(
        &mut self,
        cluster: crate::base::ClusterId,
    ) -> Result<bool, CatalogError> {
        Ok(self.txn.accept_log_loss(cluster)?)
    }
}

impl Items for TxnStorage<'_, '_> {
    fn get(&self, key: Key) -> Result<Option<Vec<u8>>, CatalogError> {
        Ok(self.txn.get(key)?)
    }
    fn range(&self, from: Key, to: Key, visit: &mut Visit<'_>) -> Result<(), CatalogError> {
        Ok(self.txn.range(from, to, visit)?)
    }
}

impl Storage for TxnStorage<'_, '_> {
    fn put(&mut self, key: Key, value: &[u8]) -> Result<(), CatalogError> {
        self.txn.put(key, value)?;
        Ok(())
    }
    fn remove(&mut self, key: Key) -> Result<(), CatalogError> {
        self.txn.remove(key)?;
        Ok(())
    }
    fn free(&mut self, run: Run, segment: SegmentId) -> Result<(), CatalogError> {
        Ok(self.txn.free(run, segment)?)
    }
    fn regions(&self) -> Vec<u32> {
        self.txn.regions()
    }
    fn runs_of(
        &mut self,
        region: u32,
        segments: &HashSet<SegmentId>,
    ) -> Result<Vec<(Run, SegmentId)>, CatalogError> {
        Ok(self.txn.sweep_region(region, segments)?)
    }
}

/// The catalog at one moment.
pub(in crate::catalog) struct ViewItems(pub CatalogView);

impl Items for ViewItems {
    fn get(&self, key: Key) -> Result<Option<Vec<u8>>, CatalogError> {
        Ok(self.0.get(key)?)
    }
    fn range(&self, from: Key, to: Key, visit: &mut Visit<'_>) -> Result<(), CatalogError> {
        Ok(self.0.range(from, to, visit)?)
    }
}
