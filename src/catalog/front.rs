//! The room's front: every change is one checkpoint, one at a time; reading needs no lock but the
//! memory's.

use std::sync::Arc;

use crate::base::{ClusterId, ClusterName, SegmentId, SnapshotId, Timestamp};
use crate::catalog::cluster::{self, NewCluster};
use crate::catalog::error::CatalogError;
use crate::catalog::header::{SnapshotKind, SnapshotRecord, Tombstone};
use crate::catalog::info::{ClusterInfo, SnapshotInfo};
use crate::catalog::keeper::Settler;
use crate::catalog::look::WorkLeft;
use crate::catalog::pool_storage::{TxnStorage, ViewItems};
use crate::catalog::restore::InPlace;
use crate::catalog::rewrap::Target;
use crate::catalog::snapshot::{self, NewSnapshot};
use crate::catalog::state::{Edit, State};
use crate::catalog::steps::{self, Budget};
use crate::pool::{CheckpointDone, CutPlan, Pool, PoolError, Reservation, ShredScope};
use crate::sys::sync::{Mutex, Rank};

/// Clusters, snapshots and who holds what, of one open pool.
pub struct Catalog {
    pub(in crate::catalog) pool: Arc<Pool>,
    pub(in crate::catalog) state: Arc<Mutex<State>>,
    /// Held by whatever changes the catalog, and by the opening and closing of heads: no cluster
    /// is mounted between the plan of a snapshot and its cut.
    pub(in crate::catalog) changes: Mutex<()>,
}

/// Nodes of the catalog that a new cluster or snapshot may take: paths to its items, kept twice.
const NODES_OF_AN_ADDITION: u64 = 16;

/// A deleted cluster.
#[derive(Debug)]
pub struct ClusterDeleted {
    /// Its identity.
    pub id: ClusterId,
    /// Snapshots of it that stay.
    pub snapshots_kept: u64,
    /// How far its header is gone.
    pub shredded: Option<ShredScope>,
}

impl Catalog {
    /// The catalog of a pool, which it joins as keeper. A header that was staged when the pool was
    /// last served, and not yet proven, is dropped.
    ///
    /// # Errors
    /// [`CatalogError::is_corruption`] where items cannot be read or contradict each other; the
    /// pool's errors.
    pub fn open(pool: Arc<Pool>) -> Result<Arc<Self>, CatalogError> {
        let state = State::load(&ViewItems(pool.read_catalog()))?;
        let staged = state.staged.clone();
        let state = Arc::new(Mutex::new(Rank::CatalogState, state));
        pool.set_keeper(Arc::new(Settler { state: Arc::clone(&state) }));
        let catalog = Arc::new(Self { pool, state, changes: Mutex::new(Rank::CatalogChanges, ()) });
        if !staged.is_empty() {
            let _changes = catalog.changes.lock();
            catalog.change(Vec::new(), true, |edit| {
                staged.into_iter().try_for_each(|target| edit.unstage(target))
            })?;
        }
        Ok(catalog)
    }

    /// The pool.
    #[must_use]
    pub const fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    pub(in crate::catalog) fn items(&self) -> ViewItems {
        ViewItems(self.pool.read_catalog())
    }

    /// One checkpoint with `edit`. To be called with `changes` held and `state` not.
    pub(in crate::catalog) fn change<R>(
        &self,
        new_segments: Vec<(ClusterId, SegmentId)>,
        narrowing: bool,
        edit: impl FnOnce(&mut Edit<'_, TxnStorage<'_, '_>>) -> Result<R, CatalogError>,
    ) -> Result<(R, CheckpointDone), CatalogError> {
        let mut outcome = None;
        let place = &mut outcome;
        let plan = CutPlan {
            closing: None,
            new_segments,
            narrowing,
            edit: Some(Box::new(move |txn, cut| {
                let mut storage = TxnStorage::new(txn);
                let result = self.state.lock().edit(&mut storage, cut.generation, edit);
                let ok = result.is_ok();
                *place = Some(result);
                // The error itself is in its place; the pool only needs to undo the edits.
                if ok { Ok(()) } else { Err(PoolError::Refused) }
            })),
        };
        let done = self.pool.checkpoint(plan);
        self.tell_what_is_left();
        match (outcome, done) {
            (Some(Ok(result)), Ok(done)) => Ok((result, done)),
            (Some(Err(error)), _) => Err(error),
            (_, Err(error)) => Err(error.into()),
            (None, Ok(_)) => Err(CatalogError::Inconsistent("a checkpoint left its edit out")),
        }
    }

    /// Whoever lacks room waits while something is left to be freed.
    fn tell_what_is_left(&self) {
        let state = self.state.lock();
        self.pool.set_freeing_left(state.progress.is_due(&state.table));
    }

    /// Room for `count` new things in the catalog, asked for before anything is done: what adds must
    /// not use up what deleting needs.
    pub(in crate::catalog) fn room_for(&self, count: usize) -> Result<Reservation, CatalogError> {
        Ok(self.pool.reserve_nodes(NODES_OF_AN_ADDITION * count as u64)?)
    }

    /// A version for a cluster key, never used before in this pool.
    #[must_use]
    pub fn new_ck_id(&self) -> u32 {
        let mut state = self.state.lock();
        let id = state.next_ck_id;
        state.next_ck_id = id.saturating_add(1);
        id
    }

    /// Makes a cluster. Its root directory is made by whoever opens it first.
    ///
    /// # Errors
    /// [`CatalogError::ClusterExists`]; the pool's errors.
    pub fn create_cluster(&self, new: NewCluster) -> Result<ClusterInfo, CatalogError> {
        let _changes = self.changes.lock();
        cluster::check_new(&self.state.lock().index, &new)?;
        let _room = self.room_for(1)?;
        let name = new.name.clone();
        self.change(Vec::new(), false, move |edit| edit.create_cluster(new, None))?;
        self.cluster(&name)
    }

    /// Deletes a cluster that is not open; its snapshots stay.
    ///
    /// # Errors
    /// [`CatalogError::ClusterNotFound`], [`CatalogError::ClusterBusy`]; the pool's errors.
    pub fn delete_cluster(&self, name: &ClusterName) -> Result<ClusterDeleted, CatalogError> {
        let _changes = self.changes.lock();
        let (id, snapshots_kept) = {
            let state = self.state.lock();
            let id = state.check_closed(name)?;
            (id, state.index.snapshot_count(id))
        };
        let ((), done) = self.change(Vec::new(), true, move |edit| {
            let uncounted = edit.storage.drop_log(id)?;
            edit.delete_cluster(id, uncounted)
        })?;
        Ok(ClusterDeleted { id, snapshots_kept, shredded: done.shredded })
    }

    /// Takes snapshots of several clusters, open or not, at one point in time. No key is needed.
    ///
    /// # Errors
    /// [`CatalogError::ClusterGone`], [`CatalogError::SnapshotExists`], [`CatalogError::Twice`],
    /// [`CatalogError::TooLong`], [`CatalogError::LogOutstanding`]; the pool's errors.
    pub fn take_snapshots(&self, new: &[NewSnapshot]) -> Result<Vec<SnapshotInfo>, CatalogError> {
        let _changes = self.changes.lock();
        let _room = self.room_for(new.len())?;
        let new_segments = {
            let mut state = self.state.lock();
            snapshot::check_new(&state.index, new)?;
            for snapshot in new {
                self.check_replayed(&state, snapshot.cluster)?;
            }
            state.take_segments(new.iter().map(|s| s.cluster))?
        };
        self.change(new_segments, false, |edit| {
            new.iter().try_for_each(|snapshot| {
                let closed = edit.table.closed_at(snapshot.cluster, edit.at)?;
                edit.take_snapshot(snapshot, closed)
            })
        })?;
        crate::base::counters::SNAPSHOTS_TAKEN.add(new.len() as u64);
        new.iter().map(|s| self.snapshot(s.id)).collect()
    }

    pub(in crate::catalog) fn check_replayed(
        &self,
        state: &State,
        id: ClusterId,
    ) -> Result<(), CatalogError> {
        if state.open_heads.contains_key(&id) || !self.pool.is_outstanding(id)? {
            return Ok(());
        }
        let name = state.index.name(id)?.clone();
        Err(match self.pool.is_log_damaged(id)? {
            true => CatalogError::LogLost(name),
            false => CatalogError::LogOutstanding(name),
        })
    }

    /// Goes on with what is left of the damaged log of a cluster, up to the damage. Whether there was
    /// one.
    ///
    /// # Errors
    /// [`CatalogError::ClusterNotFound`], [`CatalogError::ClusterBusy`]; the pool's errors.
    pub fn accept_log_loss(&self, name: &ClusterName) -> Result<bool, CatalogError> {
        let _changes = self.changes.lock();
        let id = self.state.lock().check_closed(name)?;
        if !self.pool.is_log_damaged(id)? {
            return Ok(false);
        }
        let accept = self.change(Vec::new(), false, move |edit| edit.storage.accept_log_loss(id));
        Ok(accept?.0)
    }

    /// Deletes snapshots, all or none: names and keys at once, their space in the background.
    ///
    /// # Errors
    /// [`CatalogError::SnapshotNotFound`], [`CatalogError::Held`], [`CatalogError::SnapshotBusy`],
    /// [`CatalogError::Twice`]; the pool's errors.
    pub fn delete_snapshots(&self, ids: &[SnapshotId]) -> Result<Option<ShredScope>, CatalogError> {
        let _changes = self.changes.lock();
        {
            let mut state = self.state.lock();
            snapshot::check_delete(&state.index, ids)?;
            if let Some(busy) = ids.iter().find(|id| state.readers.contains_key(id)) {
                return Err(CatalogError::SnapshotBusy(*busy));
            }
            // The checkpoint takes its time until it comes to the edit.
            state.deleting.extend(ids);
        }
        let deleted = self.change(Vec::new(), true, |edit| edit.delete_snapshots(ids));
        self.state.lock().deleting.clear();
        let ((), done) = deleted?;
        crate::base::counters::SNAPSHOTS_DELETED.add(ids.len() as u64);
        Ok(done.shredded)
    }

    /// Makes a cluster from a snapshot, in constant time. The header of `new` holds the snapshot's
    /// root, sealed anew for the new cluster; the snapshot's keys were of version `opened` when it
    /// was made: where they were changed since, what opened them opens no new cluster.
    ///
    /// # Errors
    /// [`CatalogError::SnapshotNotFound`], [`CatalogError::ClusterExists`],
    /// [`CatalogError::RootChanged`]; the pool's errors.
    pub fn clone_snapshot(
        &self,
        id: SnapshotId,
        opened: u32,
        new: NewCluster,
    ) -> Result<ClusterInfo, CatalogError> {
        let _changes = self.changes.lock();
        if self.header(Target::Snapshot(id))?.keys.ck_id != opened {
            return Err(CatalogError::RootChanged);
        }
        {
            let state = self.state.lock();
            cluster::check_new(&state.index, &new)?;
        }
        let _room = self.room_for(1)?;
        let name = new.name.clone();
        self.change(Vec::new(), false, move |edit| edit.clone_snapshot(id, new))?;
        self.cluster(&name)
    }

    /// The snapshot's cluster, which must not be open, becomes the snapshot; newer snapshots stay.
    ///
    /// # Errors
    /// [`CatalogError::SnapshotNotFound`], [`CatalogError::ClusterGone`],
    /// [`CatalogError::ClusterBusy`], [`CatalogError::LogOutstanding`],
    /// [`CatalogError::RootChanged`], [`CatalogError::SnapshotExists`]; the pool's errors.
    pub fn restore_in_place(&self, restore: InPlace) -> Result<SnapshotInfo, CatalogError> {
        let _changes = self.changes.lock();
        {
            let state = self.state.lock();
            let cluster = state.index.snapshot(restore.snapshot)?.cluster;
            let name = state.index.name(cluster)?.clone();
            state.check_closed(&name)?;
            if restore.safety.cluster != cluster || restore.safety.kind != SnapshotKind::Safety {
                return Err(CatalogError::RootChanged);
            }
            snapshot::check_new(&state.index, std::slice::from_ref(&restore.safety))?;
            self.check_replayed(&state, cluster)?;
        }
        let _room = self.room_for(1)?;
        let safety = restore.safety.id;
        self.change(Vec::new(), false, move |edit| edit.restore_in_place(restore))?;
        self.snapshot(safety)
    }

    /// Keeps a snapshot past its retention, or no longer.
    ///
    /// # Errors
    /// [`CatalogError::SnapshotNotFound`]; the pool's errors.
    pub fn set_held(&self, id: SnapshotId, held: bool) -> Result<SnapshotInfo, CatalogError> {
        self.change_snapshot(id, move |record| record.held = held)
    }

    /// Changes when retention may delete a snapshot.
    ///
    /// # Errors
    /// [`CatalogError::SnapshotNotFound`]; the pool's errors.
    pub fn set_expiry(
        &self,
        id: SnapshotId,
        expires_at: Option<Timestamp>,
    ) -> Result<SnapshotInfo, CatalogError> {
        self.change_snapshot(id, move |record| record.expires_at = expires_at)
    }

    fn change_snapshot(
        &self,
        id: SnapshotId,
        change: impl FnOnce(&mut SnapshotRecord),
    ) -> Result<SnapshotInfo, CatalogError> {
        let _changes = self.changes.lock();
        self.state.lock().index.snapshot(id)?;
        self.change(Vec::new(), false, move |edit| edit.change_snapshot(id, change))?;
        self.snapshot(id)
    }

    /// Remembers that a customer key was deleted, or forgets it again.
    ///
    /// # Errors
    /// Corruption; the pool's errors.
    pub fn set_tombstone(&self, key: Tombstone, deleted: bool) -> Result<(), CatalogError> {
        let _changes = self.changes.lock();
        let edit = move |edit: &mut Edit<'_, TxnStorage<'_, '_>>| {
            if deleted { edit.bury(key) } else { edit.unbury(&key.fingerprint) }
        };
        self.change(Vec::new(), false, edit).map(|_| ())
    }

    /// Does some of the work that deletions left, in one checkpoint; none where there is nothing.
    ///
    /// # Errors
    /// Corruption; the pool's errors.
    pub fn background_step(&self, budget: Budget) -> Result<WorkLeft, CatalogError> {
        let due = {
            let state = self.state.lock();
            state.progress.is_due(&state.table)
        };
        if due {
            let _changes = self.changes.lock();
            self.change(Vec::new(), false, move |edit| {
                steps::step(edit.table, edit.storage, edit.progress, budget)
            })
            .inspect_err(|_| self.pool.set_freeing_left(false))?;
        } else {
            self.pool.set_freeing_left(false);
        }
        Ok(self.work_left())
    }
}
