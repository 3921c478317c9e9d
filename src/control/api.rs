//! What a daemon does for its peers: one method per route.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::ids::SnapshotPrefix;
use crate::base::{ClusterName, EncryptionKeyId};
use crate::control::problem::Problem;
use crate::control::types::{
    AddRootSecret, Checked, Cluster, ClusterChanged, ClusterDeleted, CreateCluster, CreateKey,
    CreateSnapshots, DeleteKey, DeleteSnapshots, GrowPool, Key, KeyTest, KeyUsage, List, Mount,
    MountCluster, Pool, RemoveRootSecret, RestoreForm, Restored, Rewrap, RootSecret, ScrubRequest,
    SetKey, Shutdown, Snapshot, SnapshotsDeleted, SnapshotsRewrapped, Status, Umount, UmountAny,
};
use crate::sys::peer::PeerCredentials;

/// A typed reply, or why not.
pub type Reply<T> = Result<T, Problem>;

/// How far a request is: written by who does it, read by who waits.
#[derive(Debug, Default)]
pub struct Progress {
    done_steps: AtomicU64,
    total_steps: AtomicU64,
}

impl Progress {
    /// `done` of `total` steps; a total of 0 is unknown.
    pub fn set(&self, done: u64, total: u64) {
        self.total_steps.store(total, Ordering::Relaxed);
        self.done_steps.store(done, Ordering::Relaxed);
    }
    /// (done, total)
    #[must_use]
    pub fn get(&self) -> (u64, u64) {
        (self.done_steps.load(Ordering::Relaxed), self.total_steps.load(Ordering::Relaxed))
    }
}

/// Who asks, and where to say how far it is.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The process at the other end of the socket, as the kernel vouches.
    pub peer: &'a PeerCredentials,
    /// For long work.
    pub progress: &'a Progress,
}

/// One sample for `/metrics` beside the counters of [`crate::base::counters`].
#[derive(Clone, Debug, PartialEq)]
pub struct Gauge {
    /// Metric name, without the `strongroom_` prefix.
    pub name: &'static str,
    /// One line of help.
    pub help: &'static str,
    /// Labels, name and value.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: f64,
}

/// Every use of a daemon. Methods block; each is called on a thread of its own.
///
/// `refresh` asks key providers (3 s at most per distinct key) instead of showing the last answer.
#[allow(missing_docs)] // one line per route, in the table of routes.rs
pub trait Api: Send + Sync + 'static {
    fn check_pool(&self, named: &Path) -> Reply<()>;
    fn status(&self, call: &Call<'_>, refresh: bool) -> Reply<Status>;
    fn gauges(&self) -> Vec<Gauge>;

    fn clusters(&self, call: &Call<'_>, refresh: bool) -> Reply<List<Cluster>>;
    fn cluster(&self, call: &Call<'_>, name: &ClusterName, refresh: bool) -> Reply<Cluster>;
    fn create_cluster(&self, call: &Call<'_>, request: CreateCluster) -> Reply<Cluster>;
    fn delete_cluster(&self, call: &Call<'_>, name: &ClusterName) -> Reply<ClusterDeleted>;
    fn set_key(
        &self,
        call: &Call<'_>,
        name: &ClusterName,
        request: SetKey,
    ) -> Reply<ClusterChanged>;
    fn accept_log_loss(&self, call: &Call<'_>, name: &ClusterName) -> Reply<Cluster>;
    fn mount(&self, call: &Call<'_>, name: &ClusterName, request: MountCluster) -> Reply<Mount>;
    fn umount(&self, call: &Call<'_>, name: &ClusterName, request: Umount) -> Reply<List<Mount>>;
    fn umount_snapshot(
        &self,
        call: &Call<'_>,
        id: &SnapshotPrefix,
        request: Umount,
    ) -> Reply<List<Mount>>;
    fn umount_any(&self, call: &Call<'_>, request: UmountAny) -> Reply<List<Mount>>;

    fn snapshots(
        &self,
        call: &Call<'_>,
        cluster: Option<&ClusterName>,
        refresh: bool,
    ) -> Reply<List<Snapshot>>;
    fn snapshot(&self, call: &Call<'_>, id: &SnapshotPrefix, refresh: bool) -> Reply<Snapshot>;
    fn create_snapshots(&self, call: &Call<'_>, request: CreateSnapshots) -> Reply<List<Snapshot>>;
    fn delete_snapshots(
        &self,
        call: &Call<'_>,
        request: DeleteSnapshots,
    ) -> Reply<SnapshotsDeleted>;
    fn restore(&self, call: &Call<'_>, id: &SnapshotPrefix, form: RestoreForm) -> Reply<Restored>;
    fn rewrap(
        &self,
        call: &Call<'_>,
        ids: &[SnapshotPrefix],
        request: Rewrap,
    ) -> Reply<SnapshotsRewrapped>;
    fn hold(&self, call: &Call<'_>, id: &SnapshotPrefix, held: bool) -> Reply<Snapshot>;

    fn keys(&self, call: &Call<'_>, refresh: bool) -> Reply<List<Key>>;
    fn key(&self, call: &Call<'_>, id: &EncryptionKeyId, refresh: bool) -> Reply<Key>;
    fn create_key(&self, call: &Call<'_>, request: CreateKey) -> Reply<Key>;
    fn key_usage(&self, call: &Call<'_>, id: &EncryptionKeyId) -> Reply<KeyUsage>;
    fn test_key(&self, call: &Call<'_>, id: &EncryptionKeyId) -> Reply<KeyTest>;
    fn enable_key(&self, call: &Call<'_>, id: &EncryptionKeyId) -> Reply<Key>;
    fn disable_key(&self, call: &Call<'_>, id: &EncryptionKeyId) -> Reply<Key>;
    fn delete_key(&self, call: &Call<'_>, id: &EncryptionKeyId, request: DeleteKey) -> Reply<Key>;
    fn cancel_delete_key(&self, call: &Call<'_>, id: &EncryptionKeyId) -> Reply<Key>;

    fn grow_pool(&self, call: &Call<'_>, request: GrowPool) -> Reply<Pool>;
    fn scrub(&self, call: &Call<'_>, request: ScrubRequest) -> Reply<Checked>;
    fn resume_pool(&self, call: &Call<'_>) -> Reply<Pool>;
    fn root_secrets(&self, call: &Call<'_>) -> Reply<List<RootSecret>>;
    fn add_root_secret(&self, call: &Call<'_>, request: AddRootSecret) -> Reply<List<RootSecret>>;
    fn remove_root_secret(
        &self,
        call: &Call<'_>,
        request: RemoveRootSecret,
    ) -> Reply<List<RootSecret>>;
    fn shutdown(&self, call: &Call<'_>, request: Shutdown) -> Reply<()>;
}
