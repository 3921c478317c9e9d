//! What can go wrong in this room.

use crate::base::cursor::DecodeError;
use crate::base::{ClusterId, ClusterName, SnapshotId};
use crate::catalog::segments::TableError;
use crate::pool::PoolError;

/// Why an operation on clusters or snapshots failed. Nothing was changed, unless it is an error of
/// the pool, which then says so in its state.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// No cluster of that name.
    #[error("no cluster is named '{0}'")]
    ClusterNotFound(ClusterName),
    /// No cluster of that id.
    #[error("no cluster has the id {0}")]
    ClusterGone(ClusterId),
    /// The name, or the id, is taken.
    #[error("a cluster named '{0}' exists")]
    ClusterExists(ClusterName),
    /// No such snapshot.
    #[error("there is no snapshot {0}")]
    SnapshotNotFound(SnapshotId),
    /// The id is taken.
    #[error("a snapshot {0} exists")]
    SnapshotExists(SnapshotId),
    /// Held snapshots are not deleted.
    #[error("snapshot {0} is held")]
    Held(SnapshotId),
    /// The snapshot is open for reading.
    #[error("snapshot {0} is in use")]
    SnapshotBusy(SnapshotId),
    /// The cluster's head is open.
    #[error("cluster '{0}' is in use")]
    ClusterBusy(ClusterName),
    /// Acknowledged writes in the cluster's log await its key.
    #[error("cluster '{0}' has acknowledged writes in its log that await its key; mount it once")]
    LogOutstanding(ClusterName),
    /// The cluster's log was found damaged.
    #[error("the log that holds the last acknowledged writes of cluster '{0}' is damaged")]
    LogLost(ClusterName),
    /// One request names a cluster or snapshot twice.
    #[error("the request names {0} twice")]
    Twice(String),
    /// A text or list longer than the format holds.
    #[error("the {0} is too long")]
    TooLong(&'static str),
    /// The tree moved on, or was put under other keys, since the new header was made for it.
    #[error("the tree or its keys changed while a header was being made for it; try again")]
    RootChanged,
    /// The snapshot was taken before its cluster was ever mounted: there is no tree.
    #[error("snapshot {0} holds nothing: its cluster was never mounted before it was taken")]
    NothingWritten(SnapshotId),
    /// The head is open, and its new cluster key was not given.
    #[error("the new cluster key is needed to change the keys of an open cluster")]
    KeyMissing,
    /// The header read back does not say what was written.
    #[error("the header of {0} does not read back as it was written")]
    ReadBack(String),
    /// An item that cannot be read.
    #[error("the catalog's {what} item cannot be read: {source}")]
    Item {
        /// Kind of item.
        what: &'static str,
        /// Why.
        source: DecodeError,
    },
    /// Items that contradict each other.
    #[error("the catalog is inconsistent: {0}")]
    Table(#[from] TableError),
    /// The pool's.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// Items that contradict each other, named.
    #[error("the catalog is inconsistent: {0}")]
    Inconsistent(&'static str),
}

impl CatalogError {
    /// For `map_err` on decoders of `what`.
    pub(in crate::catalog) fn item(what: &'static str) -> impl FnOnce(DecodeError) -> Self {
        move |source| Self::Item { what, source }
    }
    /// Whether what is stored is damaged or contradicts itself.
    #[must_use]
    pub const fn is_corruption(&self) -> bool {
        matches!(
            self,
            Self::Item { .. }
                | Self::Table(_)
                | Self::Inconsistent(_)
                | Self::ReadBack(_)
                | Self::Pool(PoolError::Corrupt { .. })
        )
    }
}
