//! What stands on the wire: one struct per JSON object, field names in camelCase.
//!
//! Replies may gain fields; requests refuse what they do not know. The page of the command line in
//! `docs/operating.md` lists them for people.

mod check;
mod cluster;
mod key;
mod pool;
mod snapshot;

pub use check::{
    CheckFinding, CheckHit, CheckOwner, Checked, CheckedLog, CheckedTree, RolledBack, ScrubRequest,
};
pub use cluster::{
    Cluster, ClusterChanged, ClusterDeleted, ClusterState, CreateCluster, Mount, MountCluster,
    SetKey, Umount, UmountAny,
};
pub use key::{CreateKey, DeleteKey, Key, KeyTest, KeyUsage, UsageEntry, UsageKind, UsageScope};
pub use pool::{
    AddRootSecret, BackgroundWork, DeadMount, GrowPool, Job, JobState, Pool, PoolState,
    RemoveRootSecret, RootSecret, Shutdown, Status,
};
pub use snapshot::{
    CreateSnapshots, DeleteSnapshots, RestoreForm, RestoreRequest, Restored, RestoredInPlace,
    Rewrap, Snapshot, SnapshotKind, SnapshotStatus, SnapshotsDeleted, SnapshotsRewrapped,
};

use serde::{Deserialize, Serialize};

/// What a command lists, or makes several of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct List<T> {
    /// The things, in the order in which they are shown.
    pub results: Vec<T>,
}

/// A request without any field, and a reply that says no more than "done".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Empty {}

/// What an Encryption Key ID shows where there is none.
pub const NOT_ENABLED: &str = "Not enabled";
