//! Clusters and mounts on the wire.

use serde::{Deserialize, Serialize};

use crate::base::{ClusterId, ClusterName, EncryptionKeyId, SnapshotId, Timestamp};
use crate::control::types::key::UsageEntry;
use crate::control::wire::{text, text_list, text_option};

/// Whether a cluster is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ClusterState {
    /// Not mounted.
    Unmounted,
    /// Mounted and serving.
    Mounted,
    /// Mounted, but its key is not usable: every call answers `ENOKEY`.
    Locked,
}

impl ClusterState {
    /// As in JSON and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unmounted => "unmounted",
            Self::Mounted => "mounted",
            Self::Locked => "locked",
        }
    }
}

/// A cluster: live storage in the pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// Its name, unique in the pool among clusters that exist.
    #[serde(with = "text")]
    pub name: ClusterName,
    /// Its identity, never used again.
    #[serde(with = "text")]
    pub id: ClusterId,
    /// Whether it is in use.
    pub state: ClusterState,
    /// Where it is mounted.
    pub mountpoint: Option<String>,
    /// When it was created.
    #[serde(with = "text")]
    pub created_at: Timestamp,
    /// The customer key that is needed to mount it; absent: none.
    #[serde(default, with = "text_option", skip_serializing_if = "Option::is_none")]
    pub encryption_key_id: Option<EncryptionKeyId>,
    /// `Not enabled`, a state of the key, `denied` or `unreachable`.
    pub encryption_status: String,
    /// When the key's provider last answered.
    #[serde(default, with = "text_option")]
    pub encryption_status_at: Option<Timestamp>,
    /// Relatives of the same lineage under another key or none: they reach shared blocks.
    pub also_reachable_via: Vec<UsageEntry>,
    /// The snapshot of which it is a clone.
    #[serde(default, with = "text_option")]
    pub origin: Option<SnapshotId>,
    /// Bytes that its tree reaches.
    pub referenced_bytes: u64,
    /// Bytes that nothing else reaches.
    pub unique_bytes: u64,
    /// Snapshots of it that exist.
    pub snapshot_count: u64,
    /// Whether it can be changed.
    pub read_only: bool,
}

/// `POST /v1/clusters`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateCluster {
    /// The new cluster's name.
    #[serde(with = "text")]
    pub name: ClusterName,
    /// The customer key; absent or null: none.
    #[serde(default, with = "text_option")]
    pub encryption_key_id: Option<EncryptionKeyId>,
}

/// `POST /v1/clusters/{name}/set-key`, `PATCH /v1/clusters/{name}`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SetKey {
    /// The new customer key; null, which must be said, is none.
    #[serde(with = "text_option")]
    pub encryption_key_id: Option<EncryptionKeyId>,
    /// Whether the cluster's snapshots are rewrapped too.
    #[serde(default)]
    pub snapshots: bool,
}

/// A cluster after its key was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterChanged {
    /// The cluster as it is now.
    #[serde(flatten)]
    pub cluster: Cluster,
    /// Snapshots that were rewrapped with it.
    #[serde(with = "text_list")]
    pub rewrapped_snapshots: Vec<SnapshotId>,
    /// How far the old key's header is gone: `device-overwritten`, `logical-only` or `epoch`.
    pub shredded: Option<String>,
}

/// `DELETE /v1/clusters/{name}`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterDeleted {
    /// The name, free again.
    #[serde(with = "text")]
    pub name: ClusterName,
    /// Its identity, which its snapshots go on showing.
    #[serde(with = "text")]
    pub id: ClusterId,
    /// Snapshots of it that stay.
    pub snapshots_kept: u64,
    /// As in [`ClusterChanged`].
    pub shredded: Option<String>,
}

/// A mounted cluster or snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Where.
    pub mountpoint: String,
    /// Of which cluster.
    #[serde(with = "text")]
    pub cluster_name: ClusterName,
    /// The snapshot, where it is one.
    #[serde(default, with = "text_option")]
    pub snapshot_id: Option<SnapshotId>,
    /// Whether it refuses changes.
    pub read_only: bool,
    /// Options in effect.
    pub options: Vec<String>,
    /// How a snapshot gets at what the kernel holds: `handle` or `invalidate`.
    pub barrier: Option<String>,
    /// Kernel features in use beyond the oldest kernel's.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Requests that the kernel waits for, where the kernel tells.
    pub waiting_requests: Option<u64>,
    /// Age of the oldest request not yet answered, in milliseconds; 0 where there is none.
    pub oldest_request_ms: u64,
    /// Whether this very mount was there before the request.
    #[serde(default)]
    pub already_mounted: bool,
    /// Whether its key could not be had and it waits for it (`key_wait`): nothing in it is reached
    /// until then.
    #[serde(default)]
    pub locked: bool,
}

/// `POST /v1/clusters/{name}/mount`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MountCluster {
    /// An empty directory, as an absolute path.
    pub mountpoint: String,
    /// As after `-o`, one option each.
    #[serde(default)]
    pub options: Vec<String>,
}

/// `POST /v1/clusters/{name}/umount`, `POST /v1/snapshots/{id}/umount`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Umount {
    /// Even while files are open.
    #[serde(default)]
    pub force: bool,
}

/// `POST /v1/umount`: by place, or everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UmountAny {
    /// The place.
    #[serde(default)]
    pub mountpoint: Option<String>,
    /// Everything.
    #[serde(default)]
    pub all: bool,
    /// Even while files are open.
    #[serde(default)]
    pub force: bool,
}
