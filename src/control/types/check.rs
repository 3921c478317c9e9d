//! What a check or a scrub found, on the wire.

use serde::{Deserialize, Serialize};

/// `POST /v1/scrub`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScrubRequest {
    /// A cluster with its snapshots, or one snapshot; everything without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
    /// Bytes read in a second, at most; as fast as it goes without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_bytes: Option<u64>,
}

/// What was found, and what was covered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // counts, named as in `Coverage`
pub struct Checked {
    pub pool_id: String,
    pub generation: u64,
    /// Nothing at all was found.
    pub clean: bool,
    /// Every tree was read whole, and every map.
    pub complete: bool,
    /// `waste`, `repairable` or `damage`; absent where nothing was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worst: Option<String>,
    pub results: Vec<CheckFinding>,
    pub findings_left_out: u64,
    /// The pool is older than what was seen of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back: Option<RolledBack>,
    pub warnings: Vec<String>,
    /// What to do next, a sentence each.
    pub next_steps: Vec<String>,
    pub superblock_copies: u64,
    pub ring_records: u64,
    pub regions: u64,
    pub regions_unreadable: u64,
    pub blocks_allocated: u64,
    /// Absent, as are the two behind it, where it was not looked at: a scrub does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks_reached: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks_awaiting_free: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks_uncovered: Option<u64>,
    pub blocks_checked: u64,
    pub blocks_authenticated: u64,
    pub trees: Vec<CheckedTree>,
    pub logs: Vec<CheckedLog>,
}

/// A pool that was put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RolledBack {
    /// Its checkpoint.
    pub generation: u64,
    /// A later one that was seen.
    pub seen_generation: u64,
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckFinding {
    /// `waste`, `repairable` or `damage`.
    pub severity: String,
    /// A stable name of its sort.
    pub kind: String,
    /// A line for people.
    pub detail: String,
    /// The first block concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<u64>,
    /// What it hits.
    pub hits: Vec<CheckHit>,
    /// Hits beyond those.
    pub hits_left_out: u64,
}

/// What a finding hits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckHit {
    /// Whose tree.
    #[serde(flatten)]
    pub owner: CheckOwner,
    /// Its key is not at hand: it may be hit.
    pub locked: bool,
    /// The file: the first of its names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Its inode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
    /// How many names lead to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<u64>,
    /// Where in its content, in bytes; absent where its content is not concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// How many bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// All of it, for people.
    pub text: String,
}

/// Whose something is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckOwner {
    /// For people.
    pub owner: String,
    /// The cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_name: Option<String>,
    /// Its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// The snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_id: Option<String>,
}

/// One tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // counts
pub struct CheckedTree {
    #[serde(flatten)]
    pub owner: CheckOwner,
    /// `walked`, `empty`, `locked` or `damaged`.
    pub state: String,
    /// Of a locked one: any of these keys opens it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub encryption_key_ids: Vec<String>,
    pub nodes: u64,
    pub items: u64,
    pub blocks: u64,
}

/// One log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // counts
pub struct CheckedLog {
    pub cluster_id: String,
    /// `open`, `outstanding`, `undecided` or `damaged`.
    pub state: String,
    pub records: u64,
    pub claimed_blocks: u64,
}
