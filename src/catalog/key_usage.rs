//! Who needs which customer key: every header in the pool, those of snapshots whose cluster is
//! gone, of clones, and of versions long rotated away included.

use crate::base::{ClusterId, ClusterName, EncryptionKeyId, SnapshotId};
use crate::catalog::error::CatalogError;
use crate::catalog::header::{Header, Tombstone};
use crate::catalog::info::{self, KeyRef};
use crate::catalog::keys;
use crate::catalog::state::Edit;
use crate::catalog::storage::{Items, Storage};

/// One header and the keys that open it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyUse {
    /// The cluster, alive or deleted.
    pub cluster: ClusterId,
    /// Its name.
    pub cluster_name: ClusterName,
    /// The snapshot; `None`: the cluster's head.
    pub snapshot: Option<SnapshotId>,
    /// Family: those of one share blocks.
    pub lineage: ClusterId,
    /// Any one opens it; empty: "Not enabled".
    pub keys: Vec<KeyRef>,
}

impl KeyUse {
    /// Whether that key is among those that open it.
    #[must_use]
    pub fn names(&self, key: &EncryptionKeyId) -> bool {
        self.keys.iter().any(|k| k.key_id == *key)
    }
    /// Whether only that key opens it.
    #[must_use]
    pub fn needs(&self, key: &EncryptionKeyId) -> bool {
        !self.keys.is_empty() && self.keys.iter().all(|k| k.key_id == *key)
    }
}

/// Every header's keys: heads first, each by name, then snapshots by id.
///
/// # Errors
/// [`CatalogError::Item`]; the storage's errors.
pub(in crate::catalog) fn all(items: &impl Items) -> Result<Vec<KeyUse>, CatalogError> {
    let mut found = Vec::new();
    info::for_each_cluster(items, &mut |r| {
        found.push(used(r.id, r.name, None, r.lineage, &r.header, r.staged.as_ref()));
    })?;
    info::for_each_snapshot(items, &mut |r| {
        let id = Some(r.id);
        found.push(used(r.cluster, r.cluster_name, id, r.lineage, &r.header, r.staged.as_ref()));
    })?;
    found.sort_by(|a, b| {
        let key = |u: &KeyUse| (u.snapshot.is_some(), u.cluster_name.clone(), u.snapshot);
        key(a).cmp(&key(b))
    });
    Ok(found)
}

fn used(
    cluster: ClusterId,
    cluster_name: ClusterName,
    snapshot: Option<SnapshotId>,
    lineage: ClusterId,
    header: &Header,
    staged: Option<&Header>,
) -> KeyUse {
    // A staged header opens the same tree until it is adopted or taken away.
    let mut keys = info::key_refs(header);
    keys.extend(staged.map(info::key_refs).unwrap_or_default());
    keys.dedup();
    KeyUse { cluster, cluster_name, snapshot, lineage, keys }
}

/// The headers of one family that are opened by other keys than `keys`, or by none: they reach
/// blocks that are shared.
///
/// # Errors
/// [`CatalogError::Item`]; the storage's errors.
pub(in crate::catalog) fn relatives(
    items: &impl Items,
    lineage: ClusterId,
    keys: &[KeyRef],
) -> Result<Vec<KeyUse>, CatalogError> {
    let other = |u: &KeyUse| {
        let known = |k: &KeyRef| keys.iter().any(|own| own.fingerprint == k.fingerprint);
        u.keys.is_empty() != keys.is_empty() || !u.keys.iter().all(known)
    };
    Ok(all(items)?.into_iter().filter(|u| u.lineage == lineage && other(u)).collect())
}

/// All tombstones.
///
/// # Errors
/// [`CatalogError::Item`]; the storage's errors.
pub(in crate::catalog) fn tombstones(items: &impl Items) -> Result<Vec<Tombstone>, CatalogError> {
    let mut found = Ok(Vec::new());
    let (from, to) = keys::tombstones();
    items.range(from, to, &mut |_, value| {
        match (&mut found, Tombstone::decode(value)) {
            (Ok(list), Ok(some)) => list.extend(some),
            (found, Err(error)) => *found = Err(error),
            (Err(_), Ok(_)) => {}
        }
        std::ops::ControlFlow::Continue(())
    })?;
    found.map_err(CatalogError::item("tombstone"))
}

impl<S: Storage> Edit<'_, S> {
    /// Remembers that a customer key was deleted.
    ///
    /// # Errors
    /// [`CatalogError::Item`]; the storage's errors.
    pub fn bury(&mut self, tombstone: Tombstone) -> Result<(), CatalogError> {
        let key = keys::tombstone(&tombstone.fingerprint);
        let mut list = self.tombstones_at(key)?;
        if list.iter().all(|t| t.fingerprint != tombstone.fingerprint) {
            list.push(tombstone);
        }
        self.storage.put(key, &Tombstone::encode(&list))
    }

    /// Forgets it: the key was brought back from a backup.
    ///
    /// # Errors
    /// [`CatalogError::Item`]; the storage's errors.
    pub fn unbury(&mut self, fingerprint: &[u8; 16]) -> Result<(), CatalogError> {
        let key = keys::tombstone(fingerprint);
        let mut list = self.tombstones_at(key)?;
        list.retain(|t| t.fingerprint != *fingerprint);
        if list.is_empty() {
            self.storage.remove(key)
        } else {
            self.storage.put(key, &Tombstone::encode(&list))
        }
    }

    fn tombstones_at(&self, key: keys::Key) -> Result<Vec<Tombstone>, CatalogError> {
        let value = self.storage.get(key)?.unwrap_or_default();
        Tombstone::decode(&value).map_err(CatalogError::item("tombstone"))
    }
}
