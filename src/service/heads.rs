//! A tree that is open for a mount, with all that must be closed again.

use std::sync::Arc;

use crate::base::ClusterName;
use crate::catalog::{Catalog, OpenSnapshot, SnapshotReader};
use crate::crypto::ClusterKey;
use crate::pool::Head;
use crate::service::error::ServiceError;
use crate::volume::{Volume, VolumeOptions};

/// What a mount is served from.
pub(in crate::service) enum Source {
    /// The head of a cluster.
    Head { head: Arc<Head>, volume: Arc<Volume> },
    /// A snapshot; its reader is counted until this is dropped.
    Snapshot { volume: Arc<Volume>, _reader: SnapshotReader },
}

impl Source {
    /// Opens a cluster's head: what a crash left in its log is replayed.
    ///
    /// # Errors
    /// The catalog's, the volume's.
    pub fn head(
        catalog: &Catalog,
        cluster: &ClusterName,
        key: ClusterKey,
        options: VolumeOptions,
    ) -> Result<Self, ServiceError> {
        let head = catalog.open_head(cluster, key)?;
        match Volume::open_head(Arc::clone(&head), options) {
            Ok(volume) => Ok(Self::Head { head, volume }),
            Err(error) => {
                // The first error is the one to be told.
                if let Err(second) = catalog.close_head(&head) {
                    log::warn!("closing a head that did not open: {second}");
                }
                Err(error.into())
            }
        }
    }

    /// Takes over a snapshot that is open.
    ///
    /// # Errors
    /// The volume's.
    pub fn snapshot(open: OpenSnapshot) -> Result<Self, ServiceError> {
        let (view, name_key, reader) = open.into_parts();
        let volume = Volume::open_view(view, name_key, VolumeOptions::default())?;
        Ok(Self::Snapshot { volume, _reader: reader })
    }

    /// What serves the mount.
    pub fn volume(&self) -> &Arc<Volume> {
        match self {
            Self::Head { volume, .. } | Self::Snapshot { volume, .. } => volume,
        }
    }

    /// Ends it: what is buffered is written, a checkpoint made, keys are wiped.
    ///
    /// # Errors
    /// The pool's; what had been committed is safe then.
    pub fn close(self, catalog: &Catalog) -> Result<(), ServiceError> {
        match self {
            Self::Head { head, volume } => {
                volume.end_session();
                volume.set_locked();
                // The volume lives until its buffers have been drained into the last checkpoint.
                let closed = catalog.close_head(&head);
                let lost = volume.discard();
                if lost > 0 {
                    log::error!("{lost} bytes that were not yet durable were lost at unmounting");
                }
                Ok(closed?)
            }
            Self::Snapshot { .. } => Ok(()),
        }
    }
}
