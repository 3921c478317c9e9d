//! Replacing what opens a cluster or a snapshot: the new header is staged beside the old one, read
//! back and proven, and only then the old one goes.

use std::fmt;

use crate::base::{ClusterId, SnapshotId};
use crate::catalog::error::CatalogError;
use crate::catalog::header::Header;
use crate::catalog::restore::check_same_tree;
use crate::catalog::state::{Edit, cluster_record, snapshot_record};
use crate::catalog::storage::{Items, Storage};

/// Whose header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// A cluster's head.
    Cluster(ClusterId),
    /// A snapshot.
    Snapshot(SnapshotId),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster(id) => write!(f, "cluster {id}"),
            Self::Snapshot(id) => write!(f, "snapshot {id}"),
        }
    }
}

/// The header in force, and the one that is staged.
///
/// # Errors
/// [`CatalogError::ClusterGone`], [`CatalogError::SnapshotNotFound`], [`CatalogError::Item`]; the
/// storage's errors.
pub(in crate::catalog) fn headers_of(
    items: &impl Items,
    target: Target,
) -> Result<(Header, Option<Header>), CatalogError> {
    match target {
        Target::Cluster(id) => cluster_record(items, id).map(|r| (r.header, r.staged)),
        Target::Snapshot(id) => snapshot_record(items, id).map(|r| (r.header, r.staged)),
    }
}

impl<S: Storage> Edit<'_, S> {
    /// Puts a header beside the one in force, or (`None`) takes it away again.
    ///
    /// # Errors
    /// [`CatalogError::RootChanged`] where it was made for another tree; the storage's errors.
    pub fn stage(&mut self, target: Target, header: Option<Header>) -> Result<(), CatalogError> {
        let (old, _) = headers_of(self.storage, target)?;
        if let Some(new) = &header {
            check_same_tree(&old, new)?;
        }
        self.with_headers(target, |_, staged| {
            *staged = header;
            Ok(())
        })
    }

    /// The staged header is in force from now on; the old one is gone.
    ///
    /// # Errors
    /// [`CatalogError::RootChanged`] where nothing is staged any more; the storage's errors.
    pub fn adopt(&mut self, target: Target) -> Result<(), CatalogError> {
        self.with_headers(target, |header, staged| {
            let new = staged.take().ok_or(CatalogError::RootChanged)?;
            check_same_tree(header, &new)?;
            *header = new;
            Ok(())
        })
    }

    fn with_headers(
        &mut self,
        target: Target,
        change: impl FnOnce(&mut Header, &mut Option<Header>) -> Result<(), CatalogError>,
    ) -> Result<(), CatalogError> {
        match target {
            Target::Cluster(id) => {
                let mut record = self.cluster(id)?;
                change(&mut record.header, &mut record.staged)?;
                self.put_cluster(&record)
            }
            Target::Snapshot(id) => {
                let mut record = self.snapshot(id)?;
                change(&mut record.header, &mut record.staged)?;
                self.put_snapshot(&record)
            }
        }
    }
}
