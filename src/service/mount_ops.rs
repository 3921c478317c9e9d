//! Mounting and unmounting, and mounts that wait for their keys.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use crate::base::ids::SnapshotPrefix;
use crate::base::{ClusterId, ClusterName, ProblemCode};
use crate::catalog::Target;
use crate::service::Service;
use crate::service::error::ServiceError;
use crate::service::heads::Source;
use crate::service::mounts::{
    Entry, MountFacts, MountId, MountMeaning, MountOwner, MountRequest, Stage, Subject, Table,
};
use crate::service::types::Mount;
use crate::service::unlock::{cannot_mount, waits_for_key};
use crate::volume::VolumeOptions;

/// How long the end of a mount may take that somebody else is closing.
const END_DEADLINE: Duration = Duration::from_secs(120);

/// What is to be unmounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UmountWhat<'a> {
    /// A cluster's head.
    Cluster(&'a ClusterName),
    /// Every mount of a snapshot.
    Snapshot(&'a SnapshotPrefix),
    /// What is mounted there.
    Place(&'a Path),
}

impl Service {
    /// Every mount.
    #[must_use]
    pub fn mounts(&self) -> Vec<Mount> {
        let ids: Vec<MountId> = self.mounts.lock().iter().map(|(id, _)| id).collect();
        let facts: Vec<_> = ids.into_iter().map(|id| (id, self.mounter.facts(id))).collect();
        let mut table = self.mounts.lock();
        let told = |(id, facts)| table.get_mut(id).map(|entry| entry.told(facts, false));
        facts.into_iter().filter_map(told).collect()
    }

    /// Mounts a cluster's head. That very mount being there already is fine, while its key is
    /// usable.
    ///
    /// # Errors
    /// [`ProblemCode::ClusterNotFound`], [`ProblemCode::AlreadyMounted`]; what is wrong with the
    /// mount point or the options; what the key's provider says (status 3), unless `key_wait`; the
    /// pool's. Nothing is mounted then.
    pub fn mount(
        &self,
        name: &ClusterName,
        mut request: MountRequest,
    ) -> Result<Mount, ServiceError> {
        let cluster = self.catalog.cluster(name)?;
        let subject = Subject::Cluster(cluster.id);
        request.cluster_name = name.clone();
        request.snapshot = None;
        let target = (Target::Cluster(cluster.id), cluster.id);
        self.check_key_of_mounted(target, &request, cannot_mount(name))?;
        if let Some(there) = self.same_mount(subject, &request) {
            return Ok(there);
        }
        let meaning = self.mounter.check(&request)?;
        let mount = self.reserve_mount(subject, cluster.id, request, meaning)?;
        let opened = self.open_cluster(name, cluster.id, cluster.next_inode_floor);
        let told = self.finish_mount(mount, opened)?;
        log::info!("mounted cluster '{name}' on '{}'", told.mountpoint.display());
        Ok(told)
    }

    fn open_cluster(
        &self,
        name: &ClusterName,
        cluster: ClusterId,
        inode_floor: u64,
    ) -> Result<Source, ServiceError> {
        let opened = self.open_header(Target::Cluster(cluster), cluster, cannot_mount(name))?;
        let options = VolumeOptions { inode_floor, ..self.volumes };
        Source::head(&self.catalog, name, opened.key, options)
    }

    pub(in crate::service) fn reserve_mount(
        &self,
        subject: Subject,
        cluster_id: ClusterId,
        request: MountRequest,
        meaning: MountMeaning,
    ) -> Result<MountId, ServiceError> {
        let entry = Entry { subject, cluster_id, request, meaning, stage: Stage::Changing };
        self.mounts.lock().reserve(entry)
    }

    /// Hands an open tree to the mounter. Where that fails, or nothing could be opened, the place
    /// in the table is given up; with `key_wait`, a key that cannot be had is waited for.
    pub(in crate::service) fn finish_mount(
        &self,
        id: MountId,
        opened: Result<Source, ServiceError>,
    ) -> Result<Mount, ServiceError> {
        let Some((request, meaning)) = self.request_of(id) else {
            return Err(ServiceError::new(ProblemCode::Interrupted, "the mount was given up"));
        };
        let stage = match opened {
            Ok(source) => {
                let volume = Some(source.volume().clone());
                match self.mounter.mount(id, volume, &request) {
                    Ok(()) => Ok(Stage::Serving(source)),
                    Err(error) => {
                        if let Err(second) = source.close(&self.catalog) {
                            log::warn!("closing what could not be mounted: {second}");
                        }
                        Err(error)
                    }
                }
            }
            Err(error) if meaning.key_wait && waits_for_key(&error) => {
                log::warn!("{error}; the mount waits for the key");
                self.mounter.mount(id, None, &request).map(|()| Stage::Locked)
            }
            Err(error) => Err(error),
        };
        match stage {
            Ok(stage) => {
                let facts = self.mounter.facts(id);
                let told = self.set_stage(id, stage, facts)?;
                self.write_records();
                Ok(told)
            }
            Err(error) => {
                self.mounts.lock().remove(id);
                self.mounts_changed.notify_all();
                Err(error)
            }
        }
    }

    fn request_of(&self, id: MountId) -> Option<(MountRequest, MountMeaning)> {
        let mut table = self.mounts.lock();
        table.get_mut(id).map(|entry| (entry.request.clone(), entry.meaning))
    }

    fn set_stage(
        &self,
        id: MountId,
        stage: Stage,
        facts: MountFacts,
    ) -> Result<Mount, ServiceError> {
        let mut table = self.mounts.lock();
        let gone = || ServiceError::new(ProblemCode::MountFailed, "the mount ended at once");
        let entry = table.get_mut(id).ok_or_else(gone)?;
        entry.stage = stage;
        let told = entry.told(facts, false);
        self.mounts_changed.notify_all();
        Ok(told)
    }

    /// Unmounts. Returns what was mounted.
    ///
    /// # Errors
    /// [`ProblemCode::NotMounted`], [`ProblemCode::Busy`]; the pool's: the mount has ended then,
    /// and what had been committed is safe in the log.
    pub fn umount(&self, what: &UmountWhat<'_>, force: bool) -> Result<Vec<Mount>, ServiceError> {
        let (ids, subject, named) = self.mounts_meant(what)?;
        if ids.is_empty() {
            let place = match what {
                UmountWhat::Place(place) => Some(place.as_os_str().as_bytes()),
                _ => None,
            };
            self.forget_absent(|of, at| Some(of) == subject || Some(at) == place);
            let detail = format!("{named} is not mounted");
            return Err(ServiceError::new(ProblemCode::NotMounted, detail)
                .with_hint("strongroom status lists the mounts"));
        }
        ids.into_iter().map(|id| self.unmount(id, force, true)).collect()
    }

    /// Takes away what a daemon that is gone left mounted at a place; nobody serves it, so nothing
    /// is written. Whether there was such.
    ///
    /// # Errors
    /// [`ProblemCode::MountPoint`]: it is not the caller's, or the system refuses.
    pub fn clear_dead_mount(&self, place: &Path, owner: MountOwner) -> Result<bool, ServiceError> {
        let served = self.mounts.lock().at(place).is_some();
        if served || !self.mounter.clear_dead(place, owner)? {
            return Ok(false);
        }
        log::info!("took away a dead mount at '{}'", place.display());
        Ok(true)
    }

    fn mounts_meant(
        &self,
        what: &UmountWhat<'_>,
    ) -> Result<(Vec<MountId>, Option<Subject>, String), ServiceError> {
        let subject = match what {
            UmountWhat::Place(place) => {
                let found = self.mounts.lock().at(place).map(|(id, _)| id);
                let named = format!("'{}'", place.display());
                return Ok((found.into_iter().collect(), None, named));
            }
            UmountWhat::Cluster(name) => Subject::Cluster(self.catalog.cluster(name)?.id),
            UmountWhat::Snapshot(prefix) => Subject::Snapshot(self.resolve(prefix)?),
        };
        let named = match (subject, what) {
            (Subject::Snapshot(id), _) => format!("snapshot {id}"),
            (_, UmountWhat::Cluster(name)) => format!("cluster '{name}'"),
            (Subject::Cluster(id), _) => format!("cluster {id}"),
        };
        let table = self.mounts.lock();
        let ids = table.iter().filter(|(_, e)| e.subject == subject).map(|(id, _)| id).collect();
        Ok((ids, Some(subject), named))
    }

    /// Unmounts everything; what is busy is told after all others are gone.
    ///
    /// # Errors
    /// Of the first that could not be unmounted.
    pub fn unmount_all(&self, force: bool, forget: bool) -> Result<Vec<Mount>, ServiceError> {
        let ids: Vec<MountId> = self.mounts.lock().iter().map(|(id, _)| id).collect();
        let mut done = Vec::new();
        let mut first = None;
        for id in ids {
            match self.unmount(id, force, forget) {
                Ok(mount) => done.push(mount),
                Err(error) => first = first.or(Some(error)),
            }
        }
        first.map_or(Ok(done), Err)
    }

    fn unmount(&self, id: MountId, force: bool, forget: bool) -> Result<Mount, ServiceError> {
        let facts = self.mounter.facts(id);
        let told = {
            let mut table = self.mounts.lock();
            let gone = || ServiceError::new(ProblemCode::NotMounted, "the mount has ended");
            let entry = table.get_mut(id).ok_or_else(gone)?;
            if matches!(entry.stage, Stage::Changing) {
                let what = format!("{} is just being mounted or unmounted", entry.shown());
                return Err(ServiceError::new(ProblemCode::Busy, what));
            }
            entry.told(facts, false)
        };
        self.mounter.umount(id, force)?;
        self.end_mount(id, forget)?;
        log::info!("unmounted '{}'", told.mountpoint.display());
        Ok(told)
    }

    /// A session ended by itself: somebody unmounted it behind our back, or its connection was
    /// aborted. With `forget` it is not made again at the next start.
    pub fn mount_ended(&self, id: MountId, forget: bool) {
        if let Err(error) = self.end_mount(id, forget) {
            log::error!("a mount that ended could not be closed: {error}");
        }
    }

    /// Closes what a mount was served from. Where somebody else is just doing that (a session that
    /// ends because it is being unmounted tells so itself), it waits for the end: who asked for an
    /// unmount is answered when the last checkpoint is made.
    fn end_mount(&self, id: MountId, forget: bool) -> Result<(), ServiceError> {
        let stage = {
            let table = self.mounts.lock();
            let changing =
                |t: &mut Table| t.get_mut(id).is_some_and(|e| matches!(e.stage, Stage::Changing));
            let (mut table, _) =
                self.mounts_changed.wait_timeout_while(table, END_DEADLINE, changing);
            let Some(entry) = table.get_mut(id) else { return Ok(()) };
            if matches!(entry.stage, Stage::Changing) {
                let what = format!("{} takes long to be closed", entry.shown());
                return Err(ServiceError::new(ProblemCode::Busy, what));
            }
            std::mem::replace(&mut entry.stage, Stage::Changing)
        };
        let closed = match stage {
            Stage::Serving(source) => source.close(&self.catalog),
            Stage::Changing | Stage::Locked => Ok(()),
        };
        let entry = self.mounts.lock().remove(id);
        self.mounts_changed.notify_all();
        if let Some(entry) = entry {
            self.record_ended(&entry, forget);
        }
        closed
    }

    /// Tries the mounts that wait for their keys again.
    pub(in crate::service) fn try_locked_mounts(&self) {
        let waiting: Vec<(MountId, Subject, ClusterName)> = {
            let table = self.mounts.lock();
            let locked = table.iter().filter(|(_, e)| matches!(e.stage, Stage::Locked));
            locked.map(|(id, e)| (id, e.subject, e.request.cluster_name.clone())).collect()
        };
        for (id, subject, name) in waiting {
            match self.try_unlock(id, subject, &name) {
                Ok(()) => log::info!("cluster '{name}' is unlocked: its key is usable"),
                Err(error) => log::debug!("still locked: {error}"),
            }
        }
    }

    fn try_unlock(
        &self,
        id: MountId,
        subject: Subject,
        name: &ClusterName,
    ) -> Result<(), ServiceError> {
        let source = match subject {
            Subject::Cluster(cluster) => {
                let floor = self.catalog.cluster(name)?.next_inode_floor;
                self.open_cluster(name, cluster, floor)?
            }
            Subject::Snapshot(snapshot) => self.open_snapshot(snapshot)?,
        };
        if let Err(error) = self.mounter.unlock(id, source.volume().clone()) {
            source.close(&self.catalog)?;
            return Err(error);
        }
        let unwanted = {
            let mut table = self.mounts.lock();
            match table.get_mut(id) {
                Some(entry) if matches!(entry.stage, Stage::Locked) => {
                    entry.stage = Stage::Serving(source);
                    None
                }
                // It is being unmounted, or is by now: nobody else would close this.
                _ => Some(source),
            }
        };
        unwanted.map_or(Ok(()), |source| source.close(&self.catalog))
    }
}
