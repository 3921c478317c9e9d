//! Restoring a snapshot: mounted read-only, to a new cluster, or in place. Each unwraps the
//! snapshot's key in that very call; where the key is not usable, nothing is changed.

use std::time::Duration;

use crate::base::ids::SnapshotPrefix;
use crate::base::{ClusterId, ClusterName, ProblemCode, SnapshotId};
use crate::catalog::{InPlace, NewCluster, NewSnapshot, SnapshotInfo, SnapshotKind, Target};
use crate::service::Service;
use crate::service::error::ServiceError;
use crate::service::expiry::checked_retention;
use crate::service::heads::Source;
use crate::service::mounts::{Entry, MountRequest, Stage, Subject};
use crate::service::types::{Cluster, Mount, RestoredInPlace};
use crate::service::unlock::{Opened, cannot_restore};
use crate::sys::random;
use crate::volume::{Volume, VolumeOptions};

/// How long the safety snapshot of a restore in place is kept, where nothing else is said.
pub const SAFETY_RETAIN: Duration = Duration::from_secs(7 * 86_400);

/// How often a clone is begun while somebody changes the snapshot's keys.
const CLONE_TRIES: u32 = 4;

impl Service {
    fn open_for_restore(&self, id: SnapshotId) -> Result<(SnapshotInfo, Opened), ServiceError> {
        let info = self.catalog.snapshot(id)?;
        let opened = self.open_header(Target::Snapshot(id), info.cluster, cannot_restore(id))?;
        Ok((info, opened))
    }

    /// Mounts a snapshot, read-only.
    ///
    /// # Errors
    /// What is wrong with the mount point or options; what the key's provider says (status 3,
    /// naming snapshot, Encryption Key ID, state and remedy); the pool's.
    pub fn restore_mount(
        &self,
        id: &SnapshotPrefix,
        mut request: MountRequest,
    ) -> Result<Mount, ServiceError> {
        let id = self.resolve(id)?;
        let info = self.catalog.snapshot(id)?;
        request.cluster_name = info.cluster_name.clone();
        request.snapshot = Some(id);
        let target = (Target::Snapshot(id), info.cluster);
        self.check_key_of_mounted(target, &request, cannot_restore(id))?;
        if let Some(there) = self.same_mount(Subject::Snapshot(id), &request) {
            return Ok(there);
        }
        let meaning = self.mounter.check(&request)?;
        let mount = self.reserve_mount(Subject::Snapshot(id), info.cluster, request, meaning)?;
        let opened = self.open_snapshot(id);
        self.finish_mount(mount, opened)
    }

    pub(in crate::service) fn open_snapshot(&self, id: SnapshotId) -> Result<Source, ServiceError> {
        let (_, opened) = self.open_for_restore(id)?;
        Source::snapshot(self.catalog.open_snapshot(id, &opened.key)?)
    }

    /// Makes a writable cluster of a snapshot, in constant time, under the snapshot's own key.
    ///
    /// # Errors
    /// [`ProblemCode::ClusterExists`]; what the key's provider says; the pool's.
    pub fn restore_to_cluster(
        &self,
        id: &SnapshotPrefix,
        name: &ClusterName,
    ) -> Result<Cluster, ServiceError> {
        let id = self.resolve(id)?;
        self.check_name_free(name)?;
        let mut tries = 1..CLONE_TRIES;
        self.with_room(|| {
            loop {
                match self.clone_to(id, name) {
                    // Its keys were changed after they were unwrapped. It is opened by the new ones.
                    Err(error) if error.code == ProblemCode::Busy && tries.next().is_some() => {}
                    done => return done,
                }
            }
        })?;
        self.cluster(name, false)
    }

    fn clone_to(&self, id: SnapshotId, name: &ClusterName) -> Result<(), ServiceError> {
        let (_, old) = self.open_for_restore(id)?;
        let opened = old.header.keys.ck_id;
        let cluster = ClusterId(random::array());
        let key_id = old.header.keys.encryption_key_id().cloned();
        let (keys, new_key) = self.make_keys(cluster, key_id.as_ref(), cannot_restore(id))?;
        let header = self.reseal(&old, cluster, keys, &new_key)?;
        let new = NewCluster { id: cluster, name: name.clone(), created_at: self.now(), header };
        // As long as the snapshot has the keys that were opened, it needs theirs: no key goes meanwhile.
        self.catalog.clone_snapshot(id, opened, new)?;
        log::info!("restored snapshot {id} to cluster '{name}' ({cluster})");
        Ok(())
    }

    /// Makes a snapshot the head of its own cluster, which must exist and not be mounted. A safety
    /// snapshot keeps what it replaces.
    ///
    /// # Errors
    /// [`ProblemCode::ClusterNotFound`] where the cluster was deleted, [`ProblemCode::Busy`]; what
    /// the providers of the snapshot's and the cluster's keys say; the pool's.
    pub fn restore_in_place(
        &self,
        id: &SnapshotPrefix,
        retain: Option<Duration>,
    ) -> Result<RestoredInPlace, ServiceError> {
        let keep = checked_retention(retain.unwrap_or(SAFETY_RETAIN))?;
        let id = self.resolve(id)?;
        let info = self.catalog.snapshot(id)?;
        if info.cluster_deleted {
            let what = format!("cluster '{}' of snapshot {id} was deleted", info.cluster_name);
            return Err(ServiceError::new(ProblemCode::ClusterNotFound, what)
                .with_hint(format!("strongroom restore {id} --to-cluster NAME")));
        }
        let cluster = self.catalog.cluster(&info.cluster_name)?;
        let (_, old) = self.open_for_restore(id)?;
        let head = self.open_header(Target::Cluster(cluster.id), cluster.id, cannot_restore(id))?;
        self.check_unmounted(&cluster, "restored in place")?;
        let floor = self.inode_floor(&head)?.max(cluster.next_inode_floor);
        let header = self.reseal(&old, cluster.id, head.header.keys.dup(), &head.key)?;
        let safety = NewSnapshot {
            id: self.new_snapshot_id(),
            cluster: cluster.id,
            created_at: self.now(),
            expires_at: Some(self.expiry_after(keep)),
            kind: SnapshotKind::Safety,
            description: format!("before the restore of {id} in place"),
        };
        let replaced = head.header.root_generation;
        let restore = InPlace { snapshot: id, safety, header, replaced, next_inode_floor: floor };
        let safety = self.catalog.restore_in_place(restore)?;
        log::info!("restored snapshot {id} in place; {} keeps what was there", safety.id);
        Ok(RestoredInPlace {
            cluster: self.cluster(&info.cluster_name, false)?,
            safety_snapshot: self.told_snapshot(safety.id, false)?,
        })
    }

    /// Above every inode number that this head ever gave out.
    fn inode_floor(&self, head: &Opened) -> Result<u64, ServiceError> {
        let Some(sealed) = &head.header.sealed_root else { return Ok(0) };
        let context = self.catalog.root_context(head.cluster, &head.header);
        let (view, name_key) = self.catalog.pool().open_view(&head.key, &context, sealed)?;
        // Nothing was made in it yet, or what was is in its log.
        if view.tree().is_empty() {
            return Ok(0);
        }
        Ok(Volume::open_view(view, name_key, VolumeOptions::default())?.next_inode()?)
    }

    /// Where that very mount is there already.
    pub(in crate::service) fn same_mount(
        &self,
        subject: Subject,
        request: &MountRequest,
    ) -> Option<Mount> {
        let is_same = |entry: &Entry| {
            entry.subject == subject
                && entry.request.options == request.options
                && !matches!(entry.stage, Stage::Changing)
        };
        let id = {
            let table = self.mounts.lock();
            table.at(&request.mountpoint).filter(|(_, entry)| is_same(entry))?.0
        };
        // The mounter is asked without the table, which a session that ends wants too.
        let facts = self.mounter.facts(id);
        let mut table = self.mounts.lock();
        table.get_mut(id).filter(|entry| is_same(entry)).map(|entry| entry.told(facts, true))
    }
}
