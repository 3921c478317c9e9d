//! Two things at once, where one must not come between the steps of the other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use strongroom::base::{ClusterId, SnapshotId};
use strongroom::catalog::{Catalog, CatalogError, SnapshotKind, Target};
use strongroom::pool::{Buffers, CutPlan, CutRunner, Drain, Head, PoolError};
use strongroom::tree::Key;

use crate::pools::{cluster_name, key_of, new_cluster, new_device, new_snapshot, open};

/// The head of a new cluster, with something in it.
fn new_head(catalog: &Catalog, n: u64) -> Arc<Head> {
    let new = new_cluster(catalog, n);
    let (name, key) = (new.name.clone(), key_of(catalog, new.id, &new.header.keys));
    catalog.create_cluster(new).unwrap();
    let head = catalog.open_head(&name, key).unwrap();
    head.transact(|txn| {
        txn.put(Key::new(1, 1, 0), vec![n as u8; 100]);
        Ok::<_, PoolError>(())
    })
    .unwrap();
    head
}

#[test]
fn a_checkpoint_right_after_a_head_was_closed_does_not_give_it_its_log_back() {
    let catalog = open(&new_device());
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                catalog.pool().checkpoint(CutPlan::default()).unwrap();
            }
        });
        for n in 1..=60 {
            let head = new_head(&catalog, n);
            catalog.close_head(&head).unwrap();
            let deleted = catalog.delete_cluster(&cluster_name(n));
            if let Err(error) = deleted {
                done.store(true, Ordering::Relaxed);
                panic!("cluster {n}: {error}");
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// Opens a snapshot whenever a checkpoint asks for what is buffered.
struct Opener {
    catalog: Arc<Catalog>,
    snapshot: SnapshotId,
    cluster: ClusterId,
    refused: Mutex<Vec<CatalogError>>,
}

impl Buffers for Opener {
    fn drain(&self, _: Drain) -> Result<(), PoolError> {
        let header = self.catalog.header(Target::Snapshot(self.snapshot)).unwrap();
        let key = key_of(&self.catalog, self.cluster, &header.keys);
        let opened = self.catalog.open_snapshot(self.snapshot, &key);
        self.refused.lock().unwrap().extend(opened.err());
        Ok(())
    }
    fn drain_at_cut(&self, _: &mut CutRunner<'_>) -> Result<(), PoolError> {
        Ok(())
    }
}

#[test]
fn a_snapshot_that_is_being_deleted_is_not_opened_meanwhile() {
    let catalog = open(&new_device());
    let head = new_head(&catalog, 1);
    let (cluster, snapshot) = (head.cluster(), SnapshotId(7));
    catalog.take_snapshots(&[new_snapshot(7, cluster, SnapshotKind::OnDemand)]).unwrap();
    let header = catalog.header(Target::Snapshot(snapshot)).unwrap();
    let open_it = || catalog.open_snapshot(snapshot, &key_of(&catalog, cluster, &header.keys));
    let reader = open_it().unwrap();
    let refused = catalog.delete_snapshots(&[snapshot]);
    assert!(matches!(refused, Err(CatalogError::SnapshotBusy(id)) if id == snapshot));
    drop(reader);
    drop(open_it().expect("a deletion that was refused leaves it as it was"));

    let opener =
        Arc::new(Opener { catalog: catalog.clone(), snapshot, cluster, refused: Mutex::default() });
    let weak: Weak<Opener> = Arc::downgrade(&opener);
    head.set_buffers(weak);
    catalog.delete_snapshots(&[snapshot]).unwrap();
    let refused = std::mem::take(&mut *opener.refused.lock().unwrap());
    assert!(!refused.is_empty(), "it was opened while it was being deleted");
    assert!(matches!(refused[0], CatalogError::SnapshotBusy(id) if id == snapshot));
    assert!(matches!(open_it(), Err(CatalogError::SnapshotNotFound(_))));
}
