//! What the use-cases tell: plain values, with the words of the interface.

use std::path::PathBuf;
use std::time::Duration;

use crate::base::{
    ClusterId, ClusterName, EncryptionKeyId, KeyAnswer, PoolId, SnapshotId, Timestamp,
};
pub use crate::catalog::{Frequency, SnapshotKind};
pub use crate::pool::{PoolState, ShredScope};
use crate::service::mounts::MountFacts;

/// What a check or a scrub found.
pub mod check {
    pub use crate::verify::{
        Coverage, Finding, Hit, LogCoverage, LogState, Owner, Report, Severity, TreeCoverage,
        TreeState, printable,
    };
}

/// How the customer key of a header does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncryptionStatus {
    /// There is none.
    NotEnabled,
    /// What asking for it gave last; `None`: not asked yet.
    Answer(Option<KeyAnswer>),
}

impl EncryptionStatus {
    /// As written in JSON and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotEnabled => "Not enabled",
            Self::Answer(Some(answer)) => answer.as_str(),
            Self::Answer(None) => "unknown",
        }
    }
}

/// Whether a cluster is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// Not mounted.
    Unmounted,
    /// Mounted and serving.
    Mounted,
    /// Mounted, but its key is not usable.
    Locked,
}

/// A cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its name.
    pub name: ClusterName,
    /// Its identity.
    pub id: ClusterId,
    /// Whether it is in use.
    pub state: ClusterState,
    /// Where it is mounted.
    pub mountpoint: Option<PathBuf>,
    /// When it was created.
    pub created_at: Timestamp,
    /// The customer key; `None`: not enabled.
    pub encryption_key_id: Option<EncryptionKeyId>,
    /// How that key does.
    pub encryption_status: EncryptionStatus,
    /// When its provider answered so.
    pub encryption_status_at: Option<Timestamp>,
    /// Relatives under another key or none that reach shared blocks.
    pub also_reachable_via: Vec<UsageEntry>,
    /// The snapshot that it is a clone of.
    pub origin: Option<SnapshotId>,
    /// Bytes that its tree reaches.
    pub referenced_bytes: u64,
    /// Bytes that nothing else reaches.
    pub unique_bytes: u64,
    /// Snapshots of it.
    pub snapshot_count: u64,
    /// Whether it is mounted read-only.
    pub read_only: bool,
}

/// Whether a snapshot can be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotStatus {
    /// It is whole.
    Completed,
    /// Its key is deleted: nothing opens it.
    Unrecoverable,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its identity.
    pub id: SnapshotId,
    /// Its cluster's name.
    pub cluster_name: ClusterName,
    /// Its cluster.
    pub cluster_id: ClusterId,
    /// Whether that cluster was deleted.
    pub cluster_deleted: bool,
    /// The point in time.
    pub created_at: Timestamp,
    /// When it goes by itself.
    pub expires_at: Option<Timestamp>,
    /// Who asked for it, and how often.
    pub kind: SnapshotKind,
    /// Whether it can be restored.
    pub status: SnapshotStatus,
    /// For people.
    pub description: String,
    /// Kept past its retention.
    pub held: bool,
    /// Where it is mounted.
    pub mountpoints: Vec<PathBuf>,
    /// Bytes that its tree reaches.
    pub referenced_bytes: u64,
    /// Bytes that deleting it alone frees.
    pub unique_bytes: u64,
    /// The customer key; `None`: not enabled.
    pub encryption_key_id: Option<EncryptionKeyId>,
    /// Version of that key.
    pub key_version: Option<u32>,
    /// Which key of that name.
    pub key_fingerprint: Option<[u8; 16]>,
    /// How that key does.
    pub encryption_status: EncryptionStatus,
    /// When its provider answered so.
    pub encryption_status_at: Option<Timestamp>,
}

/// One header that a key opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageEntry {
    /// The snapshot; `None`: the cluster's head.
    pub snapshot: Option<SnapshotId>,
    /// The cluster to which it belongs or belonged.
    pub cluster_name: ClusterName,
    /// The key that opens it; `None`: none is needed.
    pub encryption_key_id: Option<EncryptionKeyId>,
}

/// What needs a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyUsage {
    /// Every cluster and snapshot.
    pub results: Vec<UsageEntry>,
    /// Whether nothing would be lost.
    pub safe_to_delete: bool,
    /// The pool that was looked at.
    pub pool: PoolId,
    /// Where it stands.
    pub pool_path: PathBuf,
    /// Clusters looked at.
    pub clusters: u64,
    /// Snapshots looked at, of deleted clusters too.
    pub snapshots: u64,
    /// Relatives of the results that another key, or none, opens.
    pub also_reachable_via: Vec<UsageEntry>,
    /// What needs another key that bore the name before: the living one does not open it.
    pub needing_former_key: Vec<UsageEntry>,
}

/// A customer key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name.
    pub encryption_key_id: EncryptionKeyId,
    /// What asking for it gave last; `None`: not asked yet.
    pub state: Option<KeyAnswer>,
    /// When that was.
    pub state_at: Option<Timestamp>,
    /// When its deletion is due.
    pub deletion_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// Clusters and snapshots that need it.
    pub used_by: u64,
}

/// A key that was just tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyTest {
    /// The key.
    pub encryption_key_id: EncryptionKeyId,
    /// Its state.
    pub state: KeyAnswer,
    /// How long wrapping and unwrapping took.
    pub elapsed: Duration,
}

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub mountpoint: PathBuf,
    /// Of which cluster.
    pub cluster_name: ClusterName,
    /// Its identity.
    pub cluster_id: ClusterId,
    /// The snapshot, where it is one.
    pub snapshot_id: Option<SnapshotId>,
    /// Whether it takes no changes.
    pub read_only: bool,
    /// Whether it waits for its key.
    pub locked: bool,
    /// Options as they were asked for.
    pub options: Vec<String>,
    /// What the mounter tells.
    pub facts: MountFacts,
    /// Whether this very mount was there before it was asked for.
    pub already_mounted: bool,
}

/// A cluster whose key was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterChanged {
    /// As it is now.
    pub cluster: Cluster,
    /// Snapshots that were rewrapped with it.
    pub rewrapped: Vec<SnapshotId>,
    /// How far the old header is gone.
    pub shredded: Option<ShredScope>,
}

/// A cluster that is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterDeleted {
    /// Its name, free again.
    pub name: ClusterName,
    /// Its identity.
    pub id: ClusterId,
    /// Snapshots of it that stay.
    pub snapshots_kept: u64,
    /// How far its header is gone.
    pub shredded: Option<ShredScope>,
}

/// Snapshots that were deleted, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotsDeleted {
    /// As they were.
    pub results: Vec<Snapshot>,
    /// Whether they are still there.
    pub dry_run: bool,
    /// Bytes that deleting them together frees.
    pub frees_bytes: u64,
    /// How far their headers are gone.
    pub shredded: Option<ShredScope>,
}

/// Snapshots under another key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotsRewrapped {
    /// As they are now.
    pub results: Vec<Snapshot>,
    /// How far the old headers are gone.
    pub shredded: Option<ShredScope>,
}

/// A restore in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredInPlace {
    /// The cluster as it is now.
    pub cluster: Cluster,
    /// What it was before.
    pub safety_snapshot: Snapshot,
}

/// A way to open the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootSecretInfo {
    /// `file`, `passphrase`, `credential`, `recovery`.
    pub kind: &'static str,
    /// Path or credential name.
    pub name: String,
    /// As `root-secret remove` takes it.
    pub spec: String,
}

/// The pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    /// Where it stands.
    pub path: PathBuf,
    /// Its identity.
    pub id: PoolId,
    /// The last durable checkpoint.
    pub generation: u64,
    /// Whether it takes changes.
    pub state: PoolState,
    /// Its size.
    pub size_bytes: u64,
    /// In use.
    pub used_bytes: u64,
    /// Free.
    pub free_bytes: u64,
    /// Freed, not yet usable again; and what deletions left to be freed.
    pub pending_free_bytes: u64,
}

/// Work that goes on by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackgroundWork {
    /// In a word.
    pub kind: &'static str,
    /// In a line.
    pub detail: String,
}

/// Everything at a glance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The pool.
    pub pool: PoolStatus,
    /// Every cluster.
    pub clusters: Vec<Cluster>,
    /// Every mount.
    pub mounts: Vec<Mount>,
    /// Every key that is known here.
    pub keys: Vec<Key>,
    /// Work that goes on by itself.
    pub background: Vec<BackgroundWork>,
    /// When the last checkpoint became durable.
    pub last_checkpoint_at: Timestamp,
    /// Keys of the embedded keyring that stand in no backup.
    pub keys_not_backed_up: u64,
    /// What somebody who trusts this pool should know.
    pub warnings: Vec<String>,
    /// What to do about what was taken away, or is not as it was.
    pub next_steps: Vec<String>,
}
