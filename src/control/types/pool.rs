//! The pool, the daemon and its jobs on the wire.

use serde::{Deserialize, Serialize};

use crate::base::{PoolId, Timestamp};
use crate::control::types::cluster::{Cluster, Mount};
use crate::control::types::key::Key;
use crate::control::wire::{text, text_option};

/// Whether the pool takes changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PoolState {
    /// All is well.
    Ok,
    /// Nothing can be changed; the reason says why.
    ReadOnly,
    /// It serves, but a part of it is frozen; the reason says which.
    Degraded,
}

/// The pool as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pool {
    /// Where it stands.
    pub path: String,
    /// Its identity.
    #[serde(with = "text")]
    pub id: PoolId,
    /// The last durable checkpoint.
    pub generation: u64,
    /// Whether it takes changes.
    pub state: PoolState,
    /// Why not, where it does not.
    pub reason: Option<String>,
    /// Size, in bytes.
    pub size_bytes: u64,
    /// Bytes in use.
    pub used_bytes: u64,
    /// Bytes free for data.
    pub free_bytes: u64,
    /// Bytes freed, not yet usable again.
    pub pending_free_bytes: u64,
}

/// Work that goes on by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackgroundWork {
    /// What it does, in a word.
    pub kind: String,
    /// How far it is and what is left, in a line.
    pub detail: String,
}

/// `GET /v1/status`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The daemon's process.
    pub pid: u32,
    /// Version of the binary that asks.
    pub version: String,
    /// Version of the binary that serves.
    pub daemon_version: String,
    /// Version of the pool's format.
    pub format_version: u32,
    /// The pool.
    pub pool: Pool,
    /// Every cluster.
    pub clusters: Vec<Cluster>,
    /// Every mount.
    pub mounts: Vec<Mount>,
    /// Mount points on this machine whose daemon is gone; filled in by whoever asks.
    #[serde(default)]
    pub dead_mounts: Vec<DeadMount>,
    /// Every customer key known here.
    pub keys: Vec<Key>,
    /// Work that goes on by itself.
    pub background: Vec<BackgroundWork>,
    /// When the last checkpoint became durable.
    #[serde(default, with = "text_option")]
    pub last_checkpoint_at: Option<Timestamp>,
    /// Keys of the embedded keyring that stand in no backup.
    #[serde(default)]
    pub keys_not_backed_up: u64,
    /// What somebody who trusts this pool should know, a line each.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What to do about what is not as it should be, a line each.
    #[serde(default)]
    pub next_steps: Vec<String>,
}

/// A mount that nobody serves any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadMount {
    /// Where it stands.
    pub mountpoint: String,
    /// What it was, as the mount table has it: `strongroom:` and a cluster or snapshot.
    pub source: String,
}

/// `POST /v1/shutdown`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Shutdown {
    /// Even while mounts are busy.
    #[serde(default)]
    pub force: bool,
}

/// `POST /v1/pool/grow`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrowPool {
    /// The new size, in bytes; not below the present one.
    pub size_bytes: u64,
}

/// One way to open the pool: a wrap of the engine key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RootSecret {
    /// `file`, `passphrase`, `credential` or `recovery`.
    pub kind: String,
    /// The credential's name, or where the key file stood when it was made.
    pub name: String,
    /// As `root-secret remove` takes it: `file:PATH`, `passphrase`, `credential:NAME`, `recovery`.
    pub spec: String,
}

/// `POST /v1/root-secrets`
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AddRootSecret {
    /// `file:PATH`, `passphrase` or `credential:NAME`.
    pub spec: String,
    /// The new passphrase, of `passphrase`.
    #[serde(default)]
    pub passphrase: Option<String>,
}

/// `POST /v1/root-secrets/remove`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RemoveRootSecret {
    /// As [`RootSecret::spec`].
    pub spec: String,
}

impl std::fmt::Debug for AddRootSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AddRootSecret").field("spec", &self.spec).finish_non_exhaustive()
    }
}

impl Drop for AddRootSecret {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.passphrase);
    }
}

/// How far long work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum JobState {
    /// It goes on.
    Running,
    /// `result` holds its reply.
    Done,
    /// `problem` says why.
    Failed,
}

/// `GET /v1/jobs/{id}`: a request whose answer took longer than a connection should wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// Its number, in this run of the daemon.
    pub id: u64,
    /// The request, as `POST /v1/snapshots/delete`.
    pub kind: String,
    /// How far it is.
    pub state: JobState,
    /// When it began.
    #[serde(with = "text")]
    pub started_at: Timestamp,
    /// Steps done.
    pub done_steps: u64,
    /// Steps in all, as far as known; 0: unknown.
    pub total_steps: u64,
    /// The reply, once done.
    pub result: Option<serde_json::Value>,
    /// The problem document, once failed.
    pub problem: Option<serde_json::Value>,
}
