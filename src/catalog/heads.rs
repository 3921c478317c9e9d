//! Opening heads and snapshots, and replacing what opens them.

use std::sync::{Arc, Weak};

use crate::base::{ClusterId, ClusterName, SnapshotId};
use crate::catalog::error::CatalogError;
use crate::catalog::front::Catalog;
use crate::catalog::header::Header;
use crate::catalog::rewrap::{Target, headers_of};
use crate::catalog::state::{State, cluster_record, snapshot_record};
use crate::crypto::{ClusterKey, NameHashKey};
use crate::pool::root::{Root, RootContext, open_root, seal_root};
use crate::pool::{Head, OpenHead, PoolError, ShredScope, View};
use crate::sys::sync::Mutex;

/// A snapshot open for reading; while it is, it cannot be deleted.
pub struct OpenSnapshot {
    /// Its tree.
    pub view: View,
    /// Hashes its file names; `None`: nothing was ever written.
    pub name_key: NameHashKey,
    _reader: SnapshotReader,
}

impl OpenSnapshot {
    /// The tree, the key of its names, and what counts the reader: for owners that keep them apart.
    #[must_use]
    pub fn into_parts(self) -> (View, NameHashKey, SnapshotReader) {
        (self.view, self.name_key, self._reader)
    }
}

/// Counts a reader of a snapshot as long as it lives.
pub struct SnapshotReader {
    state: Arc<Mutex<State>>,
    id: SnapshotId,
}

impl Drop for SnapshotReader {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        if let Some(count) = state.readers.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                state.readers.remove(&self.id);
            }
        }
    }
}

/// A header to be put in place of another.
pub struct Replacement {
    /// Whose.
    pub target: Target,
    /// The new one; the root sealed anew under its cluster key. Of a head that is open only the
    /// keys count: the next root is sealed under them.
    pub header: Header,
    /// The new cluster key; needed where the head is open.
    pub cluster_key: Option<ClusterKey>,
}

/// The same header, with its root sealed under another cluster key, for another cluster or
/// version: `keys` of the result are the caller's to make.
///
/// # Errors
/// [`PoolError::ClusterKey`] where `old_key` does not open the root; corruption.
pub fn reseal_root(
    header: &Header,
    old_key: &ClusterKey,
    old: &RootContext,
    new_key: &ClusterKey,
    new: &RootContext,
) -> Result<Option<Vec<u8>>, PoolError> {
    let Some(sealed) = &header.sealed_root else {
        return Ok(None);
    };
    let Root { pointer, name_key } = open_root(old_key, old, sealed)?;
    Ok(Some(seal_root(new_key, new, &Root { pointer, name_key })))
}

impl Catalog {
    /// What a header's root is sealed for.
    #[must_use]
    pub fn root_context(&self, cluster: ClusterId, header: &Header) -> RootContext {
        RootContext {
            pool: self.pool.id(),
            cluster,
            ck_id: header.keys.ck_id,
            generation: header.root_generation,
        }
    }

    /// Opens a cluster for writing, after replaying what a crash left in its log.
    ///
    /// # Errors
    /// [`CatalogError::ClusterNotFound`], [`CatalogError::ClusterBusy`], [`CatalogError::LogLost`];
    /// the pool's errors, among them that of a wrong key.
    pub fn open_head(
        &self,
        name: &ClusterName,
        cluster_key: ClusterKey,
    ) -> Result<Arc<Head>, CatalogError> {
        let _changes = self.changes.lock();
        let (cluster, segment) = {
            let state = self.state.lock();
            let id = state.check_closed(name)?;
            (id, state.table.current(id)?)
        };
        let header = cluster_record(&self.items(), cluster)?.header;
        let opened = self.pool.open_head(OpenHead {
            cluster,
            ck_id: header.keys.ck_id,
            cluster_key,
            sealed_root: header.sealed_root,
            root_generation: header.root_generation,
            segment,
            referenced_blocks: header.referenced_blocks,
        });
        let head = opened.map_err(|error| match error {
            PoolError::LogLost => CatalogError::LogLost(name.clone()),
            error => error.into(),
        })?;
        self.state.lock().open_heads.insert(cluster, Arc::downgrade(&head));
        Ok(head)
    }

    /// Closes a head: what is buffered is written, a last checkpoint made. The head takes no
    /// operation any more, whatever comes of it.
    ///
    /// # Errors
    /// The pool's; what had been committed is safe then, in the log.
    pub fn close_head(&self, head: &Arc<Head>) -> Result<(), CatalogError> {
        let _changes = self.changes.lock();
        let closed = self.pool.close_head(head);
        self.state.lock().open_heads.remove(&head.cluster());
        Ok(closed?)
    }

    /// Opens a snapshot for reading.
    ///
    /// # Errors
    /// [`CatalogError::SnapshotNotFound`], [`CatalogError::SnapshotBusy`] while it is being deleted,
    /// [`CatalogError::NothingWritten`]; the pool's errors, among them that of a wrong key.
    pub fn open_snapshot(
        &self,
        id: SnapshotId,
        cluster_key: &ClusterKey,
    ) -> Result<OpenSnapshot, CatalogError> {
        let reader = self.enter_snapshot(id)?;
        let record = snapshot_record(&self.items(), id)?;
        let context = self.root_context(record.cluster, &record.header);
        let sealed = record.header.sealed_root.ok_or(CatalogError::NothingWritten(id))?;
        let (view, name_key) = self.pool.open_view(cluster_key, &context, &sealed)?;
        if view.tree().is_empty() {
            return Err(CatalogError::NothingWritten(id));
        }
        Ok(OpenSnapshot { view, name_key, _reader: reader })
    }

    fn enter_snapshot(&self, id: SnapshotId) -> Result<SnapshotReader, CatalogError> {
        let mut state = self.state.lock();
        state.index.snapshot(id)?;
        if state.deleting.contains(&id) {
            return Err(CatalogError::SnapshotBusy(id));
        }
        *state.readers.entry(id).or_default() += 1;
        Ok(SnapshotReader { state: Arc::clone(&self.state), id })
    }

    /// Replaces headers, all or none: each is written beside the old one, read back from the
    /// device and given to `prove`, which unwraps it with the new key and opens its root; then all
    /// are put in force in one checkpoint, and what opened the old ones is shredded.
    ///
    /// # Errors
    /// What `prove` returns: nothing changed then. [`CatalogError::RootChanged`],
    /// [`CatalogError::ClusterGone`], [`CatalogError::SnapshotNotFound`],
    /// [`CatalogError::Twice`], [`CatalogError::LogOutstanding`]; the pool's errors.
    pub fn replace_headers<E: From<CatalogError>>(
        &self,
        replacements: Vec<Replacement>,
        mut prove: impl FnMut(Target, &Header) -> Result<(), E>,
    ) -> Result<Option<ShredScope>, E> {
        let _changes = self.changes.lock();
        let targets: Vec<Target> = replacements.iter().map(|r| r.target).collect();
        let mut open = Vec::new();
        let mut staged = Vec::new();
        for Replacement { target, mut header, cluster_key } in replacements {
            if staged.iter().any(|(known, _)| *known == target) {
                return Err(CatalogError::Twice(target.to_string()).into());
            }
            if let Target::Cluster(id) = target {
                // The log's seed opens under the key that is to go: it must have been replayed.
                self.check_replayed(&self.state.lock(), id)?;
            }
            if let Some(head) = self.head_of(target) {
                let key = cluster_key.ok_or(CatalogError::KeyMissing)?;
                open.push((target, head, key, header.keys.ck_id));
                header.sealed_root = None;
            }
            staged.push((target, header));
        }
        self.change(Vec::new(), false, |edit| {
            for (target, header) in &staged {
                let open = header.sealed_root.is_none();
                edit.stage(*target, header.dup(), open)?;
            }
            Ok(())
        })?;
        let proven = staged.iter().try_for_each(|(target, written)| {
            let header = self.read_back(*target, written)?;
            prove(*target, &header)
        });
        if let Err(error) = proven {
            self.change(Vec::new(), true, |edit| {
                targets.iter().try_for_each(|target| edit.unstage(*target))
            })?;
            return Err(error);
        }
        // An open head seals its next root under the new key; the cut that brings it says so by
        // its version, and the staged keys go into force with that very root.
        for (_, head, key, ck_id) in open {
            head.change_key(key, ck_id);
        }
        let ((), done) = self.change(Vec::new(), true, |edit| {
            staged.iter().try_for_each(|(target, header)| edit.adopt(*target, header.keys.ck_id))
        })?;
        Ok(done.shredded)
    }

    fn head_of(&self, target: Target) -> Option<Arc<Head>> {
        match target {
            Target::Cluster(id) => self.state.lock().open_heads.get(&id).and_then(Weak::upgrade),
            Target::Snapshot(_) => None,
        }
    }

    /// The staged header as the device has it, not as memory remembers it.
    fn read_back(&self, target: Target, written: &Header) -> Result<Header, CatalogError> {
        self.pool.nodes().wipe();
        let (_, staged) = headers_of(&self.items(), target)?;
        let found = staged.ok_or_else(|| CatalogError::ReadBack(target.to_string()))?;
        if found.same_as(written) {
            Ok(found)
        } else {
            Err(CatalogError::ReadBack(target.to_string()))
        }
    }
}
