//! The header of a cluster's head or of a snapshot.

use serde::Serialize;

use crate::base::{ClusterId, ClusterName, SnapshotId};
use crate::catalog::{Header, Item, visit_items};
use crate::pool::{Pool, PoolError};

/// Whose header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderOf<'a> {
    /// The head of the cluster of that name.
    Cluster(&'a ClusterName),
    /// A snapshot.
    Snapshot(SnapshotId),
}

/// A wrap of the cluster secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WrapShape {
    /// The Encryption Key ID as given.
    pub encryption_key_id: String,
    /// What it resolved to.
    pub resolved: String,
    /// Version of the key, 0 where its provider counts none.
    pub key_version: u32,
    /// Fingerprint of the key, in hexadecimal.
    pub fingerprint: String,
    /// Bytes of the wrapped secret.
    pub wrapped_bytes: usize,
}

/// A header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderShape {
    /// The cluster.
    pub cluster: String,
    /// Its name.
    pub name: String,
    /// The first cluster of its family.
    pub lineage: String,
    /// The snapshot, where it is one's.
    pub snapshot: Option<String>,
    /// Segment whose end a snapshot holds.
    pub segment: Option<u32>,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// Version of the cluster key.
    pub ck_id: u32,
    /// The checkpoint that wrote the root; `None`: nothing was ever written.
    pub root_generation: Option<u64>,
    /// Bytes of the sealed root.
    pub sealed_root_bytes: usize,
    /// Blocks that the tree references.
    pub referenced_blocks: u64,
    /// Wraps of the cluster secret; empty: not enabled.
    pub wraps: Vec<WrapShape>,
    /// Whether another header waits to replace this one.
    pub staged: bool,
}

/// A header as the catalog has it; `None` where there is no such cluster or snapshot.
///
/// # Errors
/// The tree's.
pub fn header(pool: &Pool, of: HeaderOf<'_>) -> Result<Option<HeaderShape>, PoolError> {
    let mut found = None;
    let whole = visit_items(pool.read_catalog(), &mut |item| match (item, of) {
        (Ok(Item::Cluster(record)), HeaderOf::Cluster(name)) if record.name == *name => {
            let mut shape = shape(record.id, &record.name, record.lineage, &record.header);
            shape.created_at = record.created_at.to_string();
            shape.staged = record.staged.is_some();
            found = Some(shape);
        }
        (Ok(Item::Snapshot(record)), HeaderOf::Snapshot(id)) if record.id == id => {
            let mut shape =
                shape(record.cluster, &record.cluster_name, record.lineage, &record.header);
            shape.created_at = record.created_at.to_string();
            shape.staged = record.staged.is_some();
            shape.snapshot = Some(record.id.to_string());
            shape.segment = Some(record.segment.get());
            found = Some(shape);
        }
        _ => {}
    });
    if found.is_none() && !whole {
        return Err(PoolError::undecodable("catalog"));
    }
    Ok(found)
}

fn shape(
    cluster: ClusterId,
    name: &ClusterName,
    lineage: ClusterId,
    header: &Header,
) -> HeaderShape {
    let wraps = header.keys.wraps.iter().map(|wrap| WrapShape {
        encryption_key_id: wrap.key_id.to_string(),
        resolved: wrap.resolved.clone(),
        key_version: wrap.key_version,
        fingerprint: wrap.fingerprint.iter().map(|byte| format!("{byte:02x}")).collect(),
        wrapped_bytes: wrap.wrapped.len(),
    });
    HeaderShape {
        cluster: cluster.to_string(),
        name: name.to_string(),
        lineage: lineage.to_string(),
        snapshot: None,
        segment: None,
        created_at: String::new(),
        ck_id: header.keys.ck_id,
        root_generation: header.sealed_root.as_ref().map(|_| header.root_generation.get()),
        sealed_root_bytes: header.sealed_root.as_ref().map_or(0, Vec::len),
        referenced_blocks: header.referenced_blocks,
        wraps: wraps.collect(),
        staged: false,
    }
}
