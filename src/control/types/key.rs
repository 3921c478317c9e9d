//! Customer keys on the wire.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::{ClusterName, EncryptionKeyId, PoolId, SnapshotId, Timestamp};
use crate::control::wire::{duration_option, text, text_option};

/// A customer key: of the embedded keyring, or one that the pool needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Key {
    /// Its name.
    #[serde(with = "text")]
    pub encryption_key_id: EncryptionKeyId,
    /// The last answer: `enabled`, `disabled`, `pending-deletion`, `deleted`, `denied`,
    /// `unreachable`.
    pub state: String,
    /// When it will be deleted, where that is pending.
    #[serde(default, with = "text_option")]
    pub deletion_at: Option<Timestamp>,
    /// When it was made, where its provider tells.
    #[serde(default, with = "text_option")]
    pub created_at: Option<Timestamp>,
    /// Clusters and snapshots that need it.
    pub used_by: u64,
    /// Keys of the embedded keyring, this one included, that stand in no backup (`key create`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys_not_backed_up: Option<u64>,
}

/// `POST /v1/keys`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateKey {
    /// Name in the embedded keyring; absent: one is made up.
    #[serde(default)]
    pub name: Option<String>,
    /// Waiting period before a deletion, fixed for the key's life; absent: 7 days.
    #[serde(default, with = "duration_option")]
    pub deletion_wait: Option<Duration>,
}

/// `POST /v1/keys/{id}/delete`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeleteKey {
    /// A longer waiting period than the key's own.
    #[serde(default, with = "duration_option")]
    pub after: Option<Duration>,
    /// The key named again, where something still needs it or no waiting period protects it.
    #[serde(default, with = "text_option")]
    pub force: Option<EncryptionKeyId>,
}

/// What a header belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum UsageKind {
    /// The head of a cluster.
    Cluster,
    /// A snapshot.
    Snapshot,
}

/// One header that a key opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UsageEntry {
    /// Cluster or snapshot.
    pub kind: UsageKind,
    /// The cluster's name, of a cluster.
    #[serde(default, with = "text_option", skip_serializing_if = "Option::is_none")]
    pub name: Option<ClusterName>,
    /// The snapshot's id, of a snapshot.
    #[serde(default, with = "text_option", skip_serializing_if = "Option::is_none")]
    pub id: Option<SnapshotId>,
    /// The cluster to which it belongs or belonged.
    #[serde(with = "text")]
    pub cluster_name: ClusterName,
    /// The key that opens it; absent: none is needed.
    #[serde(default, with = "text_option", skip_serializing_if = "Option::is_none")]
    pub encryption_key_id: Option<EncryptionKeyId>,
}

/// What was looked at to answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UsageScope {
    /// The pool.
    #[serde(with = "text")]
    pub pool_id: PoolId,
    /// Where it stands.
    pub pool_path: String,
    /// Clusters looked at.
    pub clusters: u64,
    /// Snapshots looked at, those of deleted clusters included.
    pub snapshots: u64,
}

/// `GET /v1/keys/{id}/usage`: every cluster and snapshot of the pool that needs the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyUsage {
    /// What needs it.
    pub results: Vec<UsageEntry>,
    /// Whether nothing would be lost.
    pub safe_to_delete: bool,
    /// What was looked at.
    pub scope: UsageScope,
    /// Relatives of what is listed that another key, or none, opens.
    #[serde(default)]
    pub also_reachable_via: Vec<UsageEntry>,
    /// What needs another key that bore the name before: the living one does not open it.
    #[serde(default)]
    pub needing_former_key: Vec<UsageEntry>,
}

/// `POST /v1/keys/{id}/test`: the provider wrapped and unwrapped with the key just now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyTest {
    /// The key.
    #[serde(with = "text")]
    pub encryption_key_id: EncryptionKeyId,
    /// Its state.
    pub state: String,
    /// How long the two calls took, in milliseconds.
    pub elapsed_ms: u64,
}
