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
    /// Puts a header beside the one in force. Of an open head's (`keys_only`) the root does not
    /// count: it changes with every checkpoint.
    ///
    /// # Errors
    /// [`CatalogError::RootChanged`] where it was made for another tree; the storage's errors.
    pub fn stage(
        &mut self,
        target: Target,
        header: Header,
        keys_only: bool,
    ) -> Result<(), CatalogError> {
        self.with_headers(target, |old, staged| {
            if !keys_only {
                check_same_tree(old, &header)?;
            }
            *staged = Some(header);
            Ok(())
        })
    }

    /// Takes the staged header away again.
    ///
    /// # Errors
    /// The storage's.
    pub fn unstage(&mut self, target: Target) -> Result<(), CatalogError> {
        self.with_headers(target, |_, staged| {
            *staged = None;
            Ok(())
        })
    }

    /// The staged header, whose key has version `ck_id`, is in force from now on; the old one is
    /// gone. Nothing to do where a cut has brought that about.
    ///
    /// # Errors
    /// [`CatalogError::RootChanged`] where nothing is staged any more; the storage's errors.
    pub fn adopt(&mut self, target: Target, ck_id: u32) -> Result<(), CatalogError> {
        self.with_headers(target, |header, staged| {
            let Some(new) = staged.take() else {
                let adopted = header.keys.ck_id == ck_id;
                return if adopted { Ok(()) } else { Err(CatalogError::RootChanged) };
            };
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
