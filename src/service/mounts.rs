//! Mounting, as the service sees it: the trait that somebody above implements, and the table of
//! what is mounted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::base::{ClusterId, ClusterName, ProblemCode, SnapshotId};
use crate::keys::Deadline;
use crate::service::error::ServiceError;
use crate::service::heads::Source;
use crate::service::types::Mount;
use crate::volume::Volume;

/// One mount, in this run of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MountId(pub u64);

/// Who asks for a mount: what may be mounted where depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MountOwner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A mount to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountRequest {
    /// An empty directory, absolute.
    pub mountpoint: PathBuf,
    /// As after `-o`, one each.
    pub options: Vec<String>,
    /// Who asks.
    pub owner: MountOwner,
    /// Of which cluster.
    pub cluster_name: ClusterName,
    /// A snapshot: read-only, no set-user-id programs, no devices.
    pub snapshot: Option<SnapshotId>,
}

/// What options mean to the service, once they have been checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountMeaning {
    /// No changes.
    pub read_only: bool,
    /// Mount locked where the key cannot be had yet.
    pub key_wait: bool,
}

/// What the mounter tells of a mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountFacts {
    /// How a snapshot gets at what the kernel holds.
    pub barrier: Option<&'static str>,
    /// Kernel features in use.
    pub capabilities: Vec<String>,
    /// Requests that the kernel waits for.
    pub waiting_requests: Option<u64>,
    /// Age of the oldest request without an answer.
    pub oldest_request: Duration,
}

/// Makes and ends mounts. Called with no lock held. Its errors are lines for people already:
/// [`ProblemCode::MountPoint`], [`ProblemCode::MountFailed`], [`ProblemCode::Busy`],
/// [`ProblemCode::BarrierFailed`], [`ProblemCode::Usage`].
pub trait Mounter: Send + Sync {
    /// That the options can be honoured and the mount point is fit, before any key is asked for.
    ///
    /// # Errors
    /// What is wrong with either.
    fn check(&self, request: &MountRequest) -> Result<MountMeaning, ServiceError>;

    /// Mounts a volume; without one, a mount that answers `ENOKEY` until [`Mounter::unlock`].
    ///
    /// # Errors
    /// Why it cannot be mounted; nothing is then.
    fn mount(
        &self,
        id: MountId,
        volume: Option<Arc<Volume>>,
        request: &MountRequest,
    ) -> Result<(), ServiceError>;

    /// Gives a locked mount its volume.
    ///
    /// # Errors
    /// Why it cannot.
    fn unlock(&self, id: MountId, volume: Arc<Volume>) -> Result<(), ServiceError>;

    /// Unmounts; when it returns the session has ended and what the kernel held has arrived. With
    /// `force` also while files are open.
    ///
    /// # Errors
    /// [`ProblemCode::Busy`]; it is still mounted then.
    fn umount(&self, id: MountId, force: bool) -> Result<(), ServiceError>;

    /// Takes away what a process that is gone left mounted at a place. Whether there was such; never
    /// where mounts end with their process.
    ///
    /// # Errors
    /// [`ProblemCode::MountPoint`]: it is not the caller's, or the system refuses.
    fn clear_dead(&self, _place: &Path, _owner: MountOwner) -> Result<bool, ServiceError> {
        Ok(false)
    }

    /// Returns when everything that applications wrote to these mounts before the call has reached
    /// their volumes.
    ///
    /// # Errors
    /// [`ProblemCode::BarrierFailed`]; also when the deadline passed.
    fn settle(&self, mounts: &[MountId], deadline: Deadline) -> Result<(), ServiceError>;

    /// What is known of a mount.
    fn facts(&self, id: MountId) -> MountFacts;
}

/// What a mount is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// The head of a cluster.
    Cluster(ClusterId),
    /// A snapshot.
    Snapshot(SnapshotId),
}

/// How far a mount is.
pub(in crate::service) enum Stage {
    /// Its place is taken; it is being made or ended.
    Changing,
    /// It serves.
    Serving(Source),
    /// It waits for its key.
    Locked,
}

/// One line of the table.
pub(in crate::service) struct Entry {
    pub subject: Subject,
    pub cluster_id: ClusterId,
    pub request: MountRequest,
    pub meaning: MountMeaning,
    pub stage: Stage,
}

/// What is mounted, and what is just being mounted.
#[derive(Default)]
pub(in crate::service) struct Table {
    next: u64,
    entries: BTreeMap<MountId, Entry>,
}

impl Table {
    /// Takes the place of a mount before anything is done for it, so that a second one is refused
    /// without a lock being held over the first.
    ///
    /// # Errors
    /// [`ProblemCode::AlreadyMounted`], [`ProblemCode::MountPoint`]
    pub fn reserve(&mut self, entry: Entry) -> Result<MountId, ServiceError> {
        for other in self.entries.values() {
            let place = &other.request.mountpoint;
            if *place == entry.request.mountpoint {
                let what = format!("'{}' is in use by {}", place.display(), other.shown());
                let hint =
                    format!("name another directory, or: strongroom umount {}", place.display());
                return Err(ServiceError::new(ProblemCode::MountPoint, what).with_hint(hint));
            }
            let twice = matches!(entry.subject, Subject::Cluster(_));
            if twice && other.subject == entry.subject {
                let what = format!("{} is mounted on '{}'", other.shown(), place.display());
                return Err(ServiceError::new(ProblemCode::AlreadyMounted, what)
                    .with_hint(format!("strongroom umount {}", other.request.cluster_name)));
            }
        }
        self.next += 1;
        let id = MountId(self.next);
        self.entries.insert(id, entry);
        Ok(id)
    }

    /// The line of a mount.
    pub fn get_mut(&mut self, id: MountId) -> Option<&mut Entry> {
        self.entries.get_mut(&id)
    }

    /// Takes the line away.
    pub fn remove(&mut self, id: MountId) -> Option<Entry> {
        self.entries.remove(&id)
    }

    /// Every line.
    pub fn iter(&self) -> impl Iterator<Item = (MountId, &Entry)> {
        self.entries.iter().map(|(id, entry)| (*id, entry))
    }

    /// The mount of a cluster's head.
    pub fn of_cluster(&self, id: ClusterId) -> Option<(MountId, &Entry)> {
        self.iter().find(|(_, e)| e.subject == Subject::Cluster(id))
    }

    /// Where a snapshot is mounted.
    pub fn places_of(&self, id: SnapshotId) -> Vec<PathBuf> {
        let of = |e: &&Entry| e.subject == Subject::Snapshot(id);
        self.entries.values().filter(of).map(|e| e.request.mountpoint.clone()).collect()
    }

    /// The mount at a place.
    pub fn at(&self, place: &Path) -> Option<(MountId, &Entry)> {
        self.iter().find(|(_, e)| e.request.mountpoint == place)
    }
}

impl Entry {
    /// What it is of, for people.
    pub fn shown(&self) -> String {
        match self.request.snapshot {
            Some(id) => format!("snapshot {id}"),
            None => format!("cluster '{}'", self.request.cluster_name),
        }
    }

    /// What is told of it.
    pub fn told(&self, facts: MountFacts, already_mounted: bool) -> Mount {
        Mount {
            mountpoint: self.request.mountpoint.clone(),
            cluster_name: self.request.cluster_name.clone(),
            cluster_id: self.cluster_id,
            snapshot_id: self.request.snapshot,
            read_only: self.meaning.read_only || self.request.snapshot.is_some(),
            locked: matches!(self.stage, Stage::Locked),
            options: self.request.options.clone(),
            facts,
            already_mounted,
        }
    }
}
