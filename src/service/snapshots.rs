//! Snapshots: taken behind the barrier, listed, deleted, rewrapped.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::base::ids::SnapshotPrefix;
use crate::base::units::BLOCK_SIZE_U64;
use crate::base::{ClusterId, ClusterName, EncryptionKeyId, ProblemCode, SnapshotId};
use crate::catalog::{CatalogError, ClusterInfo, NewSnapshot, SnapshotInfo, SnapshotKind, Target};
use crate::keys::Deadline;
use crate::pool::CutPlan;
use crate::service::Service;
use crate::service::error::ServiceError;
use crate::service::expiry::checked_retention;
use crate::service::mounts::{MountId, Stage};
use crate::service::types::{Snapshot, SnapshotStatus, SnapshotsDeleted, SnapshotsRewrapped};
use crate::sys::{clock, random};
use crate::volume::Volume;

/// How long the barrier before a snapshot may take.
pub const BARRIER_DEADLINE: Duration = Duration::from_secs(120);
/// How long a deletion waits for removed files to be let go, so that its figures are right.
const SETTLE_DEADLINE: Duration = Duration::from_secs(10);

/// Of which clusters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those.
    Named(Vec<ClusterName>),
    /// Every one.
    All,
}

impl Service {
    /// Snapshots, oldest first: all, or those of one cluster by its name, deleted or not.
    ///
    /// # Errors
    /// [`ProblemCode::ClusterNotFound`] where neither a cluster nor a snapshot bears the name.
    pub fn snapshots(
        &self,
        of: Option<&ClusterName>,
        refresh: bool,
    ) -> Result<Vec<Snapshot>, ServiceError> {
        let mut all = self.catalog.snapshots(None)?;
        if let Some(name) = of {
            all.retain(|s| s.cluster_name == *name);
            if all.is_empty() {
                self.catalog.cluster(name)?;
            }
        }
        self.told_snapshots(all, refresh)
    }

    /// One snapshot, by a unique prefix of its id.
    ///
    /// # Errors
    /// [`ProblemCode::SnapshotNotFound`], [`ProblemCode::SnapshotAmbiguous`]
    pub fn snapshot(&self, id: &SnapshotPrefix, refresh: bool) -> Result<Snapshot, ServiceError> {
        self.told_snapshot(self.resolve(id)?, refresh)
    }

    pub(in crate::service) fn told_snapshot(
        &self,
        id: SnapshotId,
        refresh: bool,
    ) -> Result<Snapshot, ServiceError> {
        let told = self.told_snapshots(vec![self.catalog.snapshot(id)?], refresh)?;
        told.into_iter().next().ok_or_else(|| ServiceError::snapshot_not_found(id))
    }

    fn told_snapshots(
        &self,
        infos: Vec<SnapshotInfo>,
        refresh: bool,
    ) -> Result<Vec<Snapshot>, ServiceError> {
        let ids: Vec<SnapshotId> = infos.iter().map(|s| s.id).collect();
        let unique = self.catalog.unique_blocks(&ids)?;
        let told = infos.into_iter().zip(unique);
        Ok(told.map(|(info, unique)| self.tell(info, unique, refresh)).collect())
    }

    fn tell(&self, info: SnapshotInfo, unique_blocks: u64, refresh: bool) -> Snapshot {
        let shown = self.answers.of_header(&self.registry(), &info.keys, refresh, self.now());
        let status = if self.answers.is_unrecoverable(&info.keys) {
            SnapshotStatus::Unrecoverable
        } else {
            SnapshotStatus::Completed
        };
        let key = info.keys.into_iter().next();
        Snapshot {
            id: info.id,
            cluster_name: info.cluster_name,
            cluster_id: info.cluster,
            cluster_deleted: info.cluster_deleted,
            created_at: info.created_at,
            expires_at: info.expires_at,
            kind: info.kind,
            status,
            description: info.description,
            held: info.held,
            mountpoints: self.mounts.lock().places_of(info.id),
            referenced_bytes: info.referenced_blocks * BLOCK_SIZE_U64,
            unique_bytes: unique_blocks * BLOCK_SIZE_U64,
            key_version: key.as_ref().map(|k| k.key_version),
            key_fingerprint: key.as_ref().map(|k| k.fingerprint),
            encryption_key_id: key.map(|k| k.key_id),
            encryption_status: shown.status,
            encryption_status_at: shown.at,
        }
    }

    /// The snapshot that a prefix means.
    ///
    /// # Errors
    /// [`ProblemCode::SnapshotNotFound`], [`ProblemCode::SnapshotAmbiguous`]
    pub fn resolve(&self, prefix: &SnapshotPrefix) -> Result<SnapshotId, ServiceError> {
        let ids = self.catalog.snapshot_ids();
        let found: Vec<SnapshotId> = ids.into_iter().filter(|id| prefix.matches(*id)).collect();
        match found.as_slice() {
            [one] => Ok(*one),
            [] => Err(ServiceError::snapshot_not_found(prefix)),
            several => Err(ServiceError::new(
                ProblemCode::SnapshotAmbiguous,
                format!("{prefix} names {} snapshots", several.len()),
            )
            .with_hint("write more digits of the id")),
        }
    }

    /// The snapshots that a list means, each once.
    ///
    /// # Errors
    /// Of the first that is unknown or ambiguous; [`ProblemCode::BadRequest`] where two name one.
    fn resolve_all(&self, prefixes: &[SnapshotPrefix]) -> Result<Vec<SnapshotId>, ServiceError> {
        let mut ids = Vec::with_capacity(prefixes.len());
        for prefix in prefixes {
            let id = self.resolve(prefix)?;
            if ids.contains(&id) {
                return Err(CatalogError::Twice(id.to_string()).into());
            }
            ids.push(id);
        }
        Ok(ids)
    }

    /// Takes snapshots of several clusters at one point in time. What applications wrote before
    /// the call is in them: mounts are settled first, then one checkpoint cuts all of them.
    ///
    /// # Errors
    /// [`ProblemCode::ClusterNotFound`], [`ProblemCode::BarrierFailed`],
    /// [`ProblemCode::LogOutstanding`], [`ProblemCode::Usage`] for a retention beyond what dates
    /// hold; the pool's. None is taken then.
    pub fn create_snapshots(
        &self,
        which: &Which,
        retain: Option<Duration>,
        description: &str,
    ) -> Result<Vec<Snapshot>, ServiceError> {
        let retain = retain.map(checked_retention).transpose()?;
        let clusters: Vec<ClusterInfo> = match which {
            Which::All => self.catalog.clusters()?,
            Which::Named(names) => {
                names.iter().map(|n| self.catalog.cluster(n)).collect::<Result<_, _>>()?
            }
        };
        if clusters.is_empty() {
            return Err(ServiceError::new(ProblemCode::ClusterNotFound, "there is no cluster")
                .with_hint("make one: strongroom cluster create NAME"));
        }
        let mounted = self.writable_mounts(&clusters);
        if !mounted.is_empty() {
            self.mounter.settle(&mounted, Deadline::after(BARRIER_DEADLINE))?;
        }
        let now = self.now();
        let new: Vec<NewSnapshot> = clusters
            .iter()
            .map(|cluster| NewSnapshot {
                id: self.new_snapshot_id(),
                cluster: cluster.id,
                created_at: now,
                expires_at: retain.map(|r| self.expiry_after(r)),
                kind: SnapshotKind::OnDemand,
                description: description.to_owned(),
            })
            .collect();
        let taken = self.with_room(|| Ok(self.catalog.take_snapshots(&new)?))?;
        for snapshot in &taken {
            log::info!("took snapshot {} of cluster '{}'", snapshot.id, snapshot.cluster_name);
        }
        self.told_snapshots(taken, false)
    }

    /// In whatever stage: one that is being made or unlocked may be written to before its line in
    /// the table says so. The mounter passes over those that have no session.
    fn writable_mounts(&self, clusters: &[ClusterInfo]) -> Vec<MountId> {
        let table = self.mounts.lock();
        let mounts = clusters.iter().filter_map(|c| table.of_cluster(c.id));
        mounts.filter(|(_, e)| !e.meaning.read_only).map(|(id, _)| id).collect()
    }

    pub(in crate::service) fn new_snapshot_id(&self) -> SnapshotId {
        let taken = self.catalog.snapshot_ids();
        loop {
            let id = SnapshotId(random::u64());
            if !taken.contains(&id) {
                return id;
            }
        }
    }

    /// Deletes snapshots, all or none, or (`dry_run`) says what that would free. Needs no key.
    ///
    /// # Errors
    /// Of the first that is unknown, held or mounted; the pool's.
    pub fn delete_snapshots(
        &self,
        ids: &[SnapshotPrefix],
        dry_run: bool,
    ) -> Result<SnapshotsDeleted, ServiceError> {
        let ids = self.resolve_all(ids)?;
        let infos =
            ids.iter().map(|id| self.catalog.snapshot(*id)).collect::<Result<Vec<_>, _>>()?;
        for info in &infos {
            self.check_deletable(info)?;
        }
        self.settle_heads(&infos);
        let results = self.told_snapshots(infos, false)?;
        let frees_bytes = self.catalog.blocks_freed_by_deleting(&ids)? * BLOCK_SIZE_U64;
        let shredded = if dry_run { None } else { self.catalog.delete_snapshots(&ids)? };
        if !dry_run {
            self.anchor_narrowed();
            ids.iter().for_each(|id| log::info!("deleted snapshot {id}"));
        }
        Ok(SnapshotsDeleted { results, dry_run, frees_bytes, shredded })
    }

    /// What was removed from the heads of these snapshots before the call counts as theirs alone:
    /// what removed files hold is let go, then a checkpoint takes the changes into the counts. Where
    /// that fails, what was known before is told.
    fn settle_heads(&self, infos: &[SnapshotInfo]) {
        let clusters: BTreeSet<ClusterId> = infos.iter().map(|s| s.cluster).collect();
        let volumes: Vec<Arc<Volume>> = {
            let table = self.mounts.lock();
            let heads = clusters.into_iter().filter_map(|id| table.of_cluster(id));
            let serving = heads.filter_map(|(_, entry)| match &entry.stage {
                Stage::Serving(source) => Some(Arc::clone(source.volume())),
                Stage::Changing | Stage::Locked => None,
            });
            serving.collect()
        };
        let end = clock::monotonic() + SETTLE_DEADLINE;
        for volume in volumes {
            while clock::monotonic() < end && matches!(volume.background_step(), Ok(true)) {}
        }
        if let Err(error) = self.pool().checkpoint(CutPlan::default()) {
            log::warn!("sizes are those of the last checkpoint: {error}");
        }
    }

    fn check_deletable(&self, info: &SnapshotInfo) -> Result<(), ServiceError> {
        let places = self.mounts.lock().places_of(info.id);
        if let Some(place) = places.first() {
            let what = format!("snapshot {} is mounted on '{}'", info.id, place.display());
            return Err(ServiceError::new(ProblemCode::Busy, what)
                .with_hint(format!("strongroom umount {}", info.id)));
        }
        if info.held {
            return Err(CatalogError::Held(info.id).into());
        }
        Ok(())
    }

    /// Moves snapshots to another key, without touching data. Each gets keys of its own.
    ///
    /// # Errors
    /// What the old and new keys' providers say (status 3); the pool's. None is moved then.
    pub fn rewrap(
        &self,
        ids: &[SnapshotPrefix],
        key: &EncryptionKeyId,
    ) -> Result<SnapshotsRewrapped, ServiceError> {
        let ids = self.resolve_all(ids)?;
        let mut headers = Vec::new();
        for id in &ids {
            let cluster = self.catalog.snapshot(*id)?.cluster;
            let doing = format!("snapshot {id} was not rewrapped");
            headers.push(self.rewrapped(Target::Snapshot(*id), cluster, Some(key), &doing)?);
        }
        let shredded = self.replace(headers, "nothing was rewrapped")?;
        let results =
            ids.iter().map(|id| self.told_snapshot(*id, false)).collect::<Result<_, _>>()?;
        Ok(SnapshotsRewrapped { results, shredded })
    }

    /// Keeps a snapshot past its retention, or no longer.
    ///
    /// # Errors
    /// [`ProblemCode::SnapshotNotFound`]; the pool's.
    pub fn hold(&self, id: &SnapshotPrefix, held: bool) -> Result<Snapshot, ServiceError> {
        let id = self.resolve(id)?;
        self.catalog.set_held(id, held)?;
        self.told_snapshot(id, false)
    }
}
