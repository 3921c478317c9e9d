//! Snapshots and their restoration on the wire.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::ids::SnapshotPrefix;
use crate::base::{ClusterId, ClusterName, EncryptionKeyId, SnapshotId, Timestamp};
use crate::control::types::cluster::{Cluster, Mount};
use crate::control::wire::{duration_option, text, text_list, text_option};

/// Who asked for a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SnapshotKind {
    /// Somebody.
    OnDemand,
    /// A policy.
    Scheduled,
    /// A restore in place, of what it replaced.
    Safety,
}

impl SnapshotKind {
    /// As in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OnDemand => "onDemand",
            Self::Scheduled => "scheduled",
            Self::Safety => "safety",
        }
    }
}

/// Whether a snapshot can be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SnapshotStatus {
    /// It is whole.
    Completed,
    /// It is going.
    Deleting,
    /// Its key is deleted: nothing opens it.
    Unrecoverable,
}

impl SnapshotStatus {
    /// As in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Deleting => "deleting",
            Self::Unrecoverable => "unrecoverable",
        }
    }
}

/// A snapshot: one immutable point in time of one cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Its identity.
    #[serde(with = "text")]
    pub id: SnapshotId,
    /// The cluster, as it was called.
    #[serde(with = "text")]
    pub cluster_name: ClusterName,
    /// The cluster's identity.
    #[serde(with = "text")]
    pub cluster_id: ClusterId,
    /// Whether that cluster is no more.
    pub cluster_deleted: bool,
    /// The point in time.
    #[serde(with = "text")]
    pub created_at: Timestamp,
    /// When it goes by itself; null: never.
    #[serde(default, with = "text_option")]
    pub expires_at: Option<Timestamp>,
    /// Who asked for it.
    pub snapshot_type: SnapshotKind,
    /// `hourly` to `yearly`, of a scheduled one.
    pub frequency_type: Option<String>,
    /// Whether it can be restored.
    pub status: SnapshotStatus,
    /// What its maker said of it.
    pub description: String,
    /// Whether it is kept past its time.
    pub held: bool,
    /// Where it is mounted.
    pub mountpoints: Vec<String>,
    /// Bytes that its tree reaches.
    pub referenced_bytes: u64,
    /// Bytes that deleting it alone would free.
    pub unique_bytes: u64,
    /// The customer key that is needed to restore it; absent: none.
    #[serde(default, with = "text_option", skip_serializing_if = "Option::is_none")]
    pub encryption_key_id: Option<EncryptionKeyId>,
    /// Version of that key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_version: Option<u32>,
    /// Fingerprint of that key, in hexadecimal digits: names come back, fingerprints do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_fingerprint: Option<String>,
    /// `Not enabled`, a state of the key, `denied` or `unreachable`.
    pub encryption_status: String,
    /// When the key's provider last answered.
    #[serde(default, with = "text_option")]
    pub encryption_status_at: Option<Timestamp>,
}

/// `POST /v1/snapshots`: of several clusters at one point in time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateSnapshots {
    /// Of which clusters.
    #[serde(default, with = "text_list")]
    pub clusters: Vec<ClusterName>,
    /// Of every cluster.
    #[serde(default)]
    pub all: bool,
    /// For how long; absent: until somebody deletes it.
    #[serde(default, with = "duration_option")]
    pub retain: Option<Duration>,
    /// What to say of it.
    #[serde(default)]
    pub description: String,
}

/// `POST /v1/snapshots/delete`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeleteSnapshots {
    /// Which; a unique prefix will do.
    #[serde(with = "text_list")]
    pub ids: Vec<SnapshotPrefix>,
    /// Only say what it would free.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a deletion did, or would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotsDeleted {
    /// The snapshots, as they were.
    pub results: Vec<Snapshot>,
    /// Whether they are still there.
    pub dry_run: bool,
    /// Bytes that deleting them together frees, in the background.
    pub frees_bytes: u64,
    /// `device-overwritten`, `logical-only` or `epoch`.
    pub shredded: Option<String>,
}

/// `POST /v1/snapshots/{id}/rewrap`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rewrap {
    /// The new customer key.
    #[serde(with = "text")]
    pub encryption_key_id: EncryptionKeyId,
}

/// Snapshots under their new key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotsRewrapped {
    /// The snapshots as they are now.
    pub results: Vec<Snapshot>,
    /// `device-overwritten`, `logical-only` or `epoch`.
    pub shredded: Option<String>,
}

/// `POST /v1/snapshots/{id}/restore`: exactly one of `mountpoint`, `toCluster`, `inPlace`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestoreRequest {
    /// Mount it here, read-only.
    #[serde(default)]
    pub mountpoint: Option<String>,
    /// Options of that mount.
    #[serde(default)]
    pub options: Vec<String>,
    /// Make a new cluster of it.
    #[serde(default, with = "text_option")]
    pub to_cluster: Option<ClusterName>,
    /// Make it the head of its own cluster.
    #[serde(default)]
    pub in_place: bool,
    /// How long the safety snapshot of what it replaces is kept; absent: 7 days.
    #[serde(default, with = "duration_option")]
    pub retain: Option<Duration>,
}

/// The one thing that a [`RestoreRequest`] asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoreForm {
    /// A read-only mount.
    Mount {
        /// Where.
        mountpoint: String,
        /// Options.
        options: Vec<String>,
    },
    /// A new cluster.
    ToCluster(ClusterName),
    /// The cluster's head.
    InPlace {
        /// How long the safety snapshot is kept.
        retain: Option<Duration>,
    },
}

impl RestoreRequest {
    /// The one form that was asked for; `None` where it is none or several.
    #[must_use]
    pub fn form(&self) -> Option<RestoreForm> {
        match (&self.mountpoint, &self.to_cluster, self.in_place) {
            (Some(mountpoint), None, false) if self.retain.is_none() => Some(RestoreForm::Mount {
                mountpoint: mountpoint.clone(),
                options: self.options.clone(),
            }),
            (None, Some(name), false) if self.options.is_empty() && self.retain.is_none() => {
                Some(RestoreForm::ToCluster(name.clone()))
            }
            (None, None, true) if self.options.is_empty() => {
                Some(RestoreForm::InPlace { retain: self.retain })
            }
            _ => None,
        }
    }
}

/// What a restore in place did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoredInPlace {
    /// The cluster as it is now.
    pub cluster: Cluster,
    /// What it was before.
    pub safety_snapshot: Snapshot,
}

/// What a restore made: each form its own object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Restored {
    /// In place.
    InPlace(Box<RestoredInPlace>),
    /// A read-only mount.
    Mount(Box<Mount>),
    /// A new cluster.
    Cluster(Box<Cluster>),
}
