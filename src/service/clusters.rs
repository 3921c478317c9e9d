//! Clusters: made, listed, put under another key, deleted.

use std::fmt;

use crate::base::units::BLOCK_SIZE_U64;
use crate::base::{ClusterId, ClusterName, EncryptionKeyId, ProblemCode, SnapshotId};
use crate::catalog::{CatalogError, ClusterInfo, Header, KeyUse, NewCluster, Target};
use crate::service::Service;
use crate::service::error::ServiceError;
use crate::service::heads::Source;
use crate::service::mounts::{MountOwner, Stage};
use crate::service::types::{Cluster, ClusterChanged, ClusterDeleted, ClusterState, UsageEntry};
use crate::service::unlock::Replacement;
use crate::sys::random;
use crate::volume::VolumeOptions;

impl Service {
    /// Every cluster, by name. `refresh` asks key providers.
    ///
    /// # Errors
    /// The pool's; corruption.
    pub fn clusters(&self, refresh: bool) -> Result<Vec<Cluster>, ServiceError> {
        let all = self.catalog.clusters()?;
        all.into_iter().map(|info| self.told_cluster(info, refresh)).collect()
    }

    /// One cluster.
    ///
    /// # Errors
    /// [`ProblemCode::ClusterNotFound`]; the pool's.
    pub fn cluster(&self, name: &ClusterName, refresh: bool) -> Result<Cluster, ServiceError> {
        self.told_cluster(self.catalog.cluster(name)?, refresh)
    }

    fn told_cluster(&self, info: ClusterInfo, refresh: bool) -> Result<Cluster, ServiceError> {
        let shown = self.answers.of_header(&self.registry(), &info.keys, refresh, self.now());
        let relatives = self.catalog.relatives(info.lineage, &info.keys)?;
        let unique = self.catalog.cluster_unique_blocks(info.id)?;
        let (state, mountpoint, read_only) = {
            let table = self.mounts.lock();
            match table.of_cluster(info.id).map(|(_, entry)| entry) {
                Some(entry) => {
                    let state = match entry.stage {
                        Stage::Locked => ClusterState::Locked,
                        _ => ClusterState::Mounted,
                    };
                    (state, Some(entry.request.mountpoint.clone()), entry.meaning.read_only)
                }
                None => (ClusterState::Unmounted, None, false),
            }
        };
        Ok(Cluster {
            name: info.name,
            id: info.id,
            state,
            mountpoint,
            created_at: info.created_at,
            encryption_key_id: info.keys.first().map(|k| k.key_id.clone()),
            encryption_status: shown.status,
            encryption_status_at: shown.at,
            also_reachable_via: relatives.into_iter().map(usage_entry).collect(),
            origin: info.origin.map(|o| o.snapshot),
            referenced_bytes: info.referenced_blocks * BLOCK_SIZE_U64,
            unique_bytes: unique * BLOCK_SIZE_U64,
            snapshot_count: info.snapshot_count,
            read_only,
        })
    }

    /// Makes a cluster; its root directory belongs to `owner`. With a key, nothing is written
    /// before that key has wrapped and unwrapped.
    ///
    /// # Errors
    /// [`ProblemCode::ClusterExists`]; what the key's provider says; the pool's.
    pub fn create_cluster(
        &self,
        name: &ClusterName,
        key: Option<&EncryptionKeyId>,
        owner: MountOwner,
    ) -> Result<Cluster, ServiceError> {
        self.check_name_free(name)?;
        self.with_room(|| self.make_cluster(name, key, owner))?;
        self.cluster(name, false)
    }

    fn make_cluster(
        &self,
        name: &ClusterName,
        key: Option<&EncryptionKeyId>,
        owner: MountOwner,
    ) -> Result<(), ServiceError> {
        let id = ClusterId(random::array());
        let doing = format!("cluster '{name}' was not created");
        let (keys, cluster_key) = self.make_keys(id, key, &doing)?;
        let new = NewCluster {
            id,
            name: name.clone(),
            created_at: self.now(),
            header: Header::empty(keys),
        };
        let kept = self.keep_keys(id, &new.header.keys, &doing)?;
        self.catalog.create_cluster(new)?;
        drop(kept);
        // The root directory is made now, so that it is its creator's whoever mounts it first, and
        // a snapshot has something to show.
        let options = VolumeOptions {
            root_uid: owner.uid,
            root_gid: owner.gid,
            background: false,
            ..VolumeOptions::default()
        };
        let made = Source::head(&self.catalog, name, cluster_key, options)
            .and_then(|source| source.close(&self.catalog));
        if let Err(error) = made {
            if let Err(second) = self.catalog.delete_cluster(name) {
                log::warn!("cluster '{name}' was made only in part and stays so: {second}");
            }
            return Err(error.while_doing(doing));
        }
        log::info!("created cluster '{name}' ({id})");
        Ok(())
    }

    pub(in crate::service) fn check_name_free(
        &self,
        name: &ClusterName,
    ) -> Result<(), ServiceError> {
        match self.catalog.cluster(name) {
            Ok(_) => Err(CatalogError::ClusterExists(name.clone()).into()),
            Err(CatalogError::ClusterNotFound(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes a cluster that is not mounted. Its snapshots stay.
    ///
    /// # Errors
    /// [`ProblemCode::ClusterNotFound`], [`ProblemCode::Busy`]; the pool's.
    pub fn delete_cluster(&self, name: &ClusterName) -> Result<ClusterDeleted, ServiceError> {
        let info = self.catalog.cluster(name)?;
        self.check_unmounted(&info, "deleted")?;
        let done = self.catalog.delete_cluster(name)?;
        self.anchor_narrowed();
        self.forget_records_of(info.id);
        log::info!("deleted cluster '{name}' ({})", done.id);
        Ok(ClusterDeleted {
            name: name.clone(),
            id: done.id,
            snapshots_kept: done.snapshots_kept,
            shredded: done.shredded,
        })
    }

    /// Goes on with what the damaged log of a cluster holds before the damage: from then on it can be
    /// mounted.
    ///
    /// # Errors
    /// [`ProblemCode::ClusterNotFound`], [`ProblemCode::Busy`]; [`ProblemCode::NothingLost`] where
    /// its log is whole; the pool's.
    pub fn accept_log_loss(&self, name: &ClusterName) -> Result<Cluster, ServiceError> {
        let info = self.catalog.cluster(name)?;
        self.check_unmounted(&info, "given up in part")?;
        if !self.catalog.accept_log_loss(name)? {
            let what =
                format!("no log of cluster '{name}' was found damaged when the pool was opened");
            return Err(ServiceError::new(ProblemCode::NothingLost, what).with_hint(format!(
                "mount it: strongroom mount {name} MOUNTPOINT; if that is refused again and again as \
                 corrupt, its log rotted since: copy it out by strongroom salvage DEST"
            )));
        }
        log::warn!(
            "cluster '{name}' ({}) goes on without what is damaged in its log, as was asked for",
            info.id
        );
        self.forget_why_absent(info.id);
        self.cluster(name, false)
    }

    pub(in crate::service) fn check_unmounted(
        &self,
        info: &ClusterInfo,
        verb: &str,
    ) -> Result<(), ServiceError> {
        let table = self.mounts.lock();
        let Some((_, entry)) = table.of_cluster(info.id) else { return Ok(()) };
        let (name, place) = (&info.name, entry.request.mountpoint.display());
        let what = format!("cluster '{name}' is mounted on '{place}' and cannot be {verb}");
        Err(ServiceError::new(ProblemCode::Busy, what)
            .with_hint(format!("strongroom umount {name}")))
    }

    /// Puts a cluster under another customer key, or (`None`) under none; with `snapshots`, all its
    /// snapshots too. The old keys must be usable, and the new one; where anything is amiss,
    /// nothing is changed.
    ///
    /// # Errors
    /// [`ProblemCode::ClusterNotFound`]; what providers say (status 3); the pool's.
    pub fn set_key(
        &self,
        name: &ClusterName,
        key: Option<&EncryptionKeyId>,
        snapshots: bool,
    ) -> Result<ClusterChanged, ServiceError> {
        let info = self.catalog.cluster(name)?;
        let doing = format!("the key of cluster '{name}' was not changed");
        let head = self.rewrapped(Target::Cluster(info.id), info.id, key, &doing)?;
        let new_ck_id = head.header.keys.ck_id;
        let older =
            || if snapshots { self.under_older_keys(info.id, new_ck_id) } else { Ok(Vec::new()) };
        let mut rewrapped = older()?;
        let mut headers = vec![head];
        for id in &rewrapped {
            headers.push(self.rewrapped(Target::Snapshot(*id), info.id, key, &doing)?);
        }
        let shredded = self.replace(headers, doing)?;
        log::info!("cluster '{name}' is now under {}", key.map_or("no key", |k| k.as_str()));
        // What was taken while keys were being made has the head's of before. Nothing more comes
        // under those: whatever is taken from now on has the new ones.
        let missed = older()?;
        let doing = format!(
            "the key of cluster '{name}' was changed, but not that of {} snapshots taken meanwhile; \
             repeat the command for them",
            missed.len()
        );
        let headers = missed
            .iter()
            .map(|id| self.rewrapped(Target::Snapshot(*id), info.id, key, &doing))
            .collect::<Result<Vec<_>, _>>()?;
        let shredded = if missed.is_empty() { shredded } else { self.replace(headers, doing)? };
        rewrapped.extend(missed);
        Ok(ClusterChanged { cluster: self.cluster(name, false)?, rewrapped, shredded })
    }

    /// Snapshots of a cluster whose keys were made before those of version `ck_id`.
    fn under_older_keys(
        &self,
        cluster: ClusterId,
        ck_id: u32,
    ) -> Result<Vec<SnapshotId>, ServiceError> {
        let all = self.catalog.snapshots(Some(cluster))?;
        Ok(all.iter().filter(|s| s.ck_id < ck_id).map(|s| s.id).collect())
    }

    /// The header of a target under new keys of its own.
    pub(in crate::service) fn rewrapped(
        &self,
        target: Target,
        cluster: ClusterId,
        key: Option<&EncryptionKeyId>,
        doing: &dyn fmt::Display,
    ) -> Result<Replacement, ServiceError> {
        let old = self.open_header(target, cluster, doing)?;
        let (keys, new_key) = self.make_keys(cluster, key, doing)?;
        let header = self.reseal(&old, cluster, keys, &new_key)?;
        Ok(Replacement { target, cluster, header, key: new_key })
    }
}

/// A use of a key as it is told.
pub(in crate::service) fn usage_entry(usage: KeyUse) -> UsageEntry {
    UsageEntry {
        snapshot: usage.snapshot,
        cluster_name: usage.cluster_name,
        encryption_key_id: usage.keys.into_iter().next().map(|k| k.key_id),
    }
}
