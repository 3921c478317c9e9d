//! What is told of clusters and snapshots. It holds no key, and never asks for one.

use crate::base::{ClusterId, ClusterName, EncryptionKeyId, Generation, SnapshotId, Timestamp};
use crate::catalog::error::CatalogError;
use crate::catalog::header::{ClusterRecord, Header, Origin, SnapshotKind, SnapshotRecord};
use crate::catalog::state::{CLUSTER, SNAPSHOT, State};
use crate::catalog::storage::Items;
use crate::catalog::{keys, records};

/// A customer key, as a header names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyRef {
    /// As the customer gave it.
    pub key_id: EncryptionKeyId,
    /// What that resolved to.
    pub resolved: String,
    /// Version of the key, 0 where its provider counts none.
    pub key_version: u32,
    /// Tells this key from another of the same name.
    pub fingerprint: [u8; 16],
}

/// The keys that open a header, any one of them; empty: "Not enabled".
pub(in crate::catalog) fn key_refs(header: &Header) -> Vec<KeyRef> {
    let wraps = header.keys.wraps.iter();
    wraps
        .map(|wrap| KeyRef {
            key_id: wrap.key_id.clone(),
            resolved: wrap.resolved.clone(),
            key_version: wrap.key_version,
            fingerprint: wrap.fingerprint,
        })
        .collect()
}

/// A cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterInfo {
    /// Identity.
    pub id: ClusterId,
    /// Name.
    pub name: ClusterName,
    /// The first cluster of its family.
    pub lineage: ClusterId,
    /// When it was created.
    pub created_at: Timestamp,
    /// The snapshot that it is a clone of.
    pub origin: Option<Origin>,
    /// Inode numbers below this one are not to be given out.
    pub next_inode_floor: u64,
    /// The customer keys, any one of which opens it; empty: "Not enabled".
    pub keys: Vec<KeyRef>,
    /// Version of its cluster key.
    pub ck_id: u32,
    /// Blocks that its tree references, as of the last checkpoint.
    pub referenced_blocks: u64,
    /// How many snapshots of it there are.
    pub snapshot_count: u64,
    /// Whether its head is open.
    pub open: bool,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Identity.
    pub id: SnapshotId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// That cluster's name.
    pub cluster_name: ClusterName,
    /// Whether that cluster was deleted.
    pub cluster_deleted: bool,
    /// The first cluster of its family.
    pub lineage: ClusterId,
    /// The checkpoint at which it was cut.
    pub generation: Generation,
    /// When it was taken.
    pub created_at: Timestamp,
    /// When retention may delete it.
    pub expires_at: Option<Timestamp>,
    /// Who asked for it.
    pub kind: SnapshotKind,
    /// Kept past its retention.
    pub held: bool,
    /// For people.
    pub description: String,
    /// The customer keys, any one of which opens it; empty: "Not enabled".
    pub keys: Vec<KeyRef>,
    /// Version of its cluster key.
    pub ck_id: u32,
    /// Blocks that its tree references.
    pub referenced_blocks: u64,
    /// How many readers have it open.
    pub readers: usize,
}

impl State {
    /// What is told of a cluster.
    pub fn cluster_info(&self, record: ClusterRecord) -> ClusterInfo {
        ClusterInfo {
            id: record.id,
            lineage: record.lineage,
            created_at: record.created_at,
            origin: record.origin,
            next_inode_floor: record.next_inode_floor,
            keys: key_refs(&record.header),
            ck_id: record.header.keys.ck_id,
            referenced_blocks: record.header.referenced_blocks,
            snapshot_count: self.index.snapshot_count(record.id),
            open: self.open_heads.contains_key(&record.id),
            name: record.name,
        }
    }

    /// What is told of a snapshot.
    pub fn snapshot_info(&self, record: SnapshotRecord) -> SnapshotInfo {
        SnapshotInfo {
            id: record.id,
            cluster: record.cluster,
            cluster_name: record.cluster_name,
            cluster_deleted: !self.index.clusters.contains_key(&record.cluster),
            lineage: record.lineage,
            generation: record.generation,
            created_at: record.created_at,
            expires_at: record.expires_at,
            kind: record.kind,
            held: record.held,
            description: record.description,
            keys: key_refs(&record.header),
            ck_id: record.header.keys.ck_id,
            referenced_blocks: record.header.referenced_blocks,
            readers: self.readers.get(&record.id).copied().unwrap_or(0),
        }
    }
}

/// Calls `visit` with every cluster's record.
///
/// # Errors
/// [`CatalogError::Item`]; the storage's errors.
pub(in crate::catalog) fn for_each_cluster(
    items: &impl Items,
    visit: &mut dyn FnMut(ClusterRecord),
) -> Result<(), CatalogError> {
    records::for_each(items, CLUSTER, keys::clusters(), &mut |bytes| {
        visit(ClusterRecord::decode(bytes).map_err(CatalogError::item(CLUSTER))?);
        Ok(())
    })
}

/// Calls `visit` with every snapshot's record.
///
/// # Errors
/// [`CatalogError::Item`]; the storage's errors.
pub(in crate::catalog) fn for_each_snapshot(
    items: &impl Items,
    visit: &mut dyn FnMut(SnapshotRecord),
) -> Result<(), CatalogError> {
    records::for_each(items, SNAPSHOT, keys::snapshots(), &mut |bytes| {
        visit(SnapshotRecord::decode(bytes).map_err(CatalogError::item(SNAPSHOT))?);
        Ok(())
    })
}
