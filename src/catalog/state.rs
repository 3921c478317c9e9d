//! The room's memory: the table, and an index of clusters and snapshots; and how both change
//! together with the items, or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Weak;

use crate::base::{ClusterId, ClusterName, Generation, SegmentId, SnapshotId};
use crate::catalog::error::CatalogError;
use crate::catalog::header::{ClusterRecord, SnapshotRecord};
use crate::catalog::rewrap::Target;
use crate::catalog::segments::Table;
use crate::catalog::steps::Progress;
use crate::catalog::storage::{Items, Storage};
use crate::catalog::table_items::{self, Meta};
use crate::catalog::{keys, records};
use crate::pool::Head;

/// Names of the records in errors.
pub(in crate::catalog) const CLUSTER: &str = "cluster";
/// Likewise.
pub(in crate::catalog) const SNAPSHOT: &str = "snapshot";

/// What is remembered of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::catalog) struct SnapshotEntry {
    pub cluster: ClusterId,
    pub segment: SegmentId,
    pub held: bool,
}

/// Which clusters and snapshots there are.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::catalog) struct Index {
    pub clusters: BTreeMap<ClusterId, ClusterName>,
    pub names: BTreeMap<ClusterName, ClusterId>,
    pub snapshots: BTreeMap<SnapshotId, SnapshotEntry>,
}

impl Index {
    /// The cluster of that name.
    pub fn cluster(&self, name: &ClusterName) -> Result<ClusterId, CatalogError> {
        let found = self.names.get(name).copied();
        found.ok_or_else(|| CatalogError::ClusterNotFound(name.clone()))
    }
    /// The name of a cluster that exists.
    pub fn name(&self, id: ClusterId) -> Result<&ClusterName, CatalogError> {
        self.clusters.get(&id).ok_or(CatalogError::ClusterGone(id))
    }
    /// The snapshot of that id.
    pub fn snapshot(&self, id: SnapshotId) -> Result<SnapshotEntry, CatalogError> {
        self.snapshots.get(&id).copied().ok_or(CatalogError::SnapshotNotFound(id))
    }
    /// How many snapshots of a cluster there are.
    pub fn snapshot_count(&self, cluster: ClusterId) -> u64 {
        self.snapshots.values().filter(|s| s.cluster == cluster).count() as u64
    }
    fn add_cluster(&mut self, record: &ClusterRecord) {
        self.clusters.insert(record.id, record.name.clone());
        self.names.insert(record.name.clone(), record.id);
    }
}

/// What an edit changes in the index, applied once all its items are written.
#[derive(Debug)]
enum IndexChange {
    AddCluster(ClusterId, ClusterName),
    RemoveCluster(ClusterId, ClusterName),
    SetSnapshot(SnapshotId, SnapshotEntry),
    RemoveSnapshot(SnapshotId),
}

/// The room's memory.
pub(in crate::catalog) struct State {
    pub table: Table,
    pub index: Index,
    pub progress: Progress,
    pub next_ck_id: u32,
    stored: Option<Meta>,
    /// Heads that are open.
    pub open_heads: BTreeMap<ClusterId, Weak<Head>>,
    /// Snapshots that are open, with the number of their readers.
    pub readers: BTreeMap<SnapshotId, usize>,
    /// Snapshots that are being deleted: nobody reads them, and nobody begins to.
    pub deleting: BTreeSet<SnapshotId>,
    /// Headers that were staged, and not adopted, when the pool was last served.
    pub staged: Vec<Target>,
}

impl State {
    /// The memory of a pool in which nothing was ever made.
    pub fn new() -> Self {
        Self {
            table: Table::new(),
            index: Index::default(),
            progress: Progress::default(),
            next_ck_id: 1,
            stored: None,
            open_heads: BTreeMap::new(),
            readers: BTreeMap::new(),
            deleting: BTreeSet::new(),
            staged: Vec::new(),
        }
    }

    /// Reads everything, and checks that table and records agree.
    ///
    /// # Errors
    /// [`CatalogError::Item`], [`CatalogError::Table`], [`CatalogError::Inconsistent`]; the
    /// storage's errors.
    pub fn load(items: &impl Items) -> Result<Self, CatalogError> {
        let mut state = Self::new();
        let Some(meta) = items.get(keys::meta())? else {
            return if is_empty(items)? {
                Ok(state)
            } else {
                Err(CatalogError::Inconsistent("the catalog's counters are missing"))
            };
        };
        let meta = Meta::decode(&meta).map_err(CatalogError::item("counters"))?;
        state.table = table_items::load(items, meta.counters)?;
        state.next_ck_id = meta.next_ck_id;
        state.stored = Some(meta);
        let (index, staged) = (&mut state.index, &mut state.staged);
        records::for_each(items, CLUSTER, keys::clusters(), &mut |bytes| {
            let record = ClusterRecord::decode(bytes).map_err(CatalogError::item(CLUSTER))?;
            index.add_cluster(&record);
            staged.extend(record.staged.map(|_| Target::Cluster(record.id)));
            Ok(())
        })?;
        records::for_each(items, SNAPSHOT, keys::snapshots(), &mut |bytes| {
            let record = SnapshotRecord::decode(bytes).map_err(CatalogError::item(SNAPSHOT))?;
            index.snapshots.insert(record.id, entry(&record));
            staged.extend(record.staged.map(|_| Target::Snapshot(record.id)));
            Ok(())
        })?;
        state.check()?;
        Ok(state)
    }

    /// That every head and every hold in the table belongs to a record, and the other way round.
    ///
    /// # Errors
    /// [`CatalogError::Inconsistent`]
    pub fn check(&self) -> Result<(), CatalogError> {
        let heads: BTreeSet<ClusterId> =
            self.table.lines().filter(|(_, l)| l.head).map(|(_, l)| l.cluster).collect();
        if !heads.iter().eq(self.index.clusters.keys()) {
            return Err(CatalogError::Inconsistent("clusters and lines of history disagree"));
        }
        let held: BTreeSet<SegmentId> =
            self.table.segments().filter(|(_, s)| s.held).map(|(id, _)| id).collect();
        let wanted: BTreeSet<SegmentId> =
            self.index.snapshots.values().map(|s| s.segment).collect();
        if held != wanted || wanted.len() != self.index.snapshots.len() {
            return Err(CatalogError::Inconsistent("snapshots and held cuts disagree"));
        }
        Ok(())
    }

    /// The cluster of that name, which is not open.
    ///
    /// # Errors
    /// [`CatalogError::ClusterNotFound`], [`CatalogError::ClusterBusy`]
    pub fn check_closed(&self, name: &ClusterName) -> Result<ClusterId, CatalogError> {
        let id = self.index.cluster(name)?;
        if self.open_heads.contains_key(&id) {
            return Err(CatalogError::ClusterBusy(name.clone()));
        }
        Ok(id)
    }

    /// The segment in which each of these clusters goes on after a cut. What no cut uses is lost
    /// without harm: numbers are not given out twice.
    ///
    /// # Errors
    /// [`CatalogError::Table`] where no numbers are left.
    pub fn take_segments(
        &mut self,
        clusters: impl Iterator<Item = ClusterId>,
    ) -> Result<Vec<(ClusterId, SegmentId)>, CatalogError> {
        let taken: Result<Vec<_>, _> =
            clusters.map(|cluster| Ok((cluster, self.table.take_segment_id()?))).collect();
        // Not a change that waits for its items: the next checkpoint saves the counters.
        self.table.commit();
        taken
    }

    /// Runs `edit`; its changes of items, table and index happen together, or none of the latter
    /// two does (the storage undoes the first).
    ///
    /// # Errors
    /// What `edit` returns; the storage's errors.
    pub fn edit<S: Storage, R>(
        &mut self,
        storage: &mut S,
        at: Generation,
        edit: impl FnOnce(&mut Edit<'_, S>) -> Result<R, CatalogError>,
    ) -> Result<R, CatalogError> {
        let mut scope = Edit {
            table: &mut self.table,
            index: &self.index,
            progress: &mut self.progress,
            storage,
            at,
            changes: Vec::new(),
        };
        let result = edit(&mut scope);
        let changes = scope.changes;
        let saved = match result {
            Ok(result) => self.save(storage).map(|()| result),
            Err(error) => Err(error),
        };
        if saved.is_ok() {
            self.table.commit();
            changes.into_iter().for_each(|change| self.index.apply(change));
        } else {
            self.table.roll_back();
            self.progress = Progress::default();
        }
        saved
    }

    fn save(&mut self, storage: &mut impl Storage) -> Result<(), CatalogError> {
        table_items::save(&self.table, storage)?;
        let meta = Meta { counters: self.table.counters(), next_ck_id: self.next_ck_id };
        if self.stored != Some(meta) {
            storage.put(keys::meta(), &meta.encode())?;
            self.stored = Some(meta);
        }
        Ok(())
    }
}

fn is_empty(items: &impl Items) -> Result<bool, CatalogError> {
    let mut empty = true;
    for (from, to) in [keys::clusters(), keys::snapshots(), keys::segments(), keys::lines()] {
        items.range(from, to, &mut |_, _| {
            empty = false;
            ControlFlow::Break(())
        })?;
    }
    Ok(empty)
}

impl Index {
    fn apply(&mut self, change: IndexChange) {
        match change {
            IndexChange::AddCluster(id, name) => {
                self.names.insert(name.clone(), id);
                self.clusters.insert(id, name);
            }
            IndexChange::RemoveCluster(id, name) => {
                self.names.remove(&name);
                self.clusters.remove(&id);
            }
            IndexChange::SetSnapshot(id, entry) => {
                self.snapshots.insert(id, entry);
            }
            IndexChange::RemoveSnapshot(id) => {
                self.snapshots.remove(&id);
            }
        }
    }
}

fn entry(record: &SnapshotRecord) -> SnapshotEntry {
    SnapshotEntry { cluster: record.cluster, segment: record.segment, held: record.held }
}

/// One change of the catalog, in the making.
pub(in crate::catalog) struct Edit<'a, S: Storage> {
    pub table: &'a mut Table,
    pub index: &'a Index,
    pub progress: &'a mut Progress,
    pub storage: &'a mut S,
    /// The checkpoint that it is part of.
    pub at: Generation,
    changes: Vec<IndexChange>,
}

impl<S: Storage> Edit<'_, S> {
    /// A cluster's record.
    ///
    /// # Errors
    /// [`CatalogError::ClusterGone`], [`CatalogError::Item`]; the storage's errors.
    pub fn cluster(&self, id: ClusterId) -> Result<ClusterRecord, CatalogError> {
        cluster_record(self.storage, id)
    }
    /// A snapshot's record.
    ///
    /// # Errors
    /// [`CatalogError::SnapshotNotFound`], [`CatalogError::Item`]; the storage's errors.
    pub fn snapshot(&self, id: SnapshotId) -> Result<SnapshotRecord, CatalogError> {
        snapshot_record(self.storage, id)
    }
    /// Writes a cluster's record.
    ///
    /// # Errors
    /// The storage's.
    pub fn put_cluster(&mut self, record: &ClusterRecord) -> Result<(), CatalogError> {
        if !self.index.clusters.contains_key(&record.id) {
            self.changes.push(IndexChange::AddCluster(record.id, record.name.clone()));
        }
        records::put(self.storage, CLUSTER, keys::cluster(record.id), record.encode())
    }
    /// Takes a cluster's record out.
    ///
    /// # Errors
    /// The storage's.
    pub fn remove_cluster(&mut self, record: &ClusterRecord) -> Result<(), CatalogError> {
        self.changes.push(IndexChange::RemoveCluster(record.id, record.name.clone()));
        records::remove(self.storage, CLUSTER, keys::cluster(record.id))
    }
    /// Writes a snapshot's record.
    ///
    /// # Errors
    /// The storage's.
    pub fn put_snapshot(&mut self, record: &SnapshotRecord) -> Result<(), CatalogError> {
        self.changes.push(IndexChange::SetSnapshot(record.id, entry(record)));
        records::put(self.storage, SNAPSHOT, keys::snapshot(record.id), record.encode())
    }
    /// Takes a snapshot's record out.
    ///
    /// # Errors
    /// The storage's.
    pub fn remove_snapshot(&mut self, id: SnapshotId) -> Result<(), CatalogError> {
        self.changes.push(IndexChange::RemoveSnapshot(id));
        records::remove(self.storage, SNAPSHOT, keys::snapshot(id))
    }
}

/// A cluster's record.
///
/// # Errors
/// [`CatalogError::ClusterGone`], [`CatalogError::Item`]; the storage's errors.
pub(in crate::catalog) fn cluster_record(
    items: &impl Items,
    id: ClusterId,
) -> Result<ClusterRecord, CatalogError> {
    let bytes = records::get(items, CLUSTER, keys::cluster(id))?;
    let bytes = bytes.ok_or(CatalogError::ClusterGone(id))?;
    let record = ClusterRecord::decode(&bytes).map_err(CatalogError::item(CLUSTER))?;
    if record.id == id { Ok(record) } else { Err(CatalogError::ClusterGone(id)) }
}

/// A snapshot's record.
///
/// # Errors
/// [`CatalogError::SnapshotNotFound`], [`CatalogError::Item`]; the storage's errors.
pub(in crate::catalog) fn snapshot_record(
    items: &impl Items,
    id: SnapshotId,
) -> Result<SnapshotRecord, CatalogError> {
    let bytes = records::get(items, SNAPSHOT, keys::snapshot(id))?;
    let bytes = bytes.ok_or(CatalogError::SnapshotNotFound(id))?;
    let record = SnapshotRecord::decode(&bytes).map_err(CatalogError::item(SNAPSHOT))?;
    if record.id == id {
        Ok(record)
    } else {
        Err(CatalogError::Inconsistent("a snapshot's record names another snapshot"))
    }
}
