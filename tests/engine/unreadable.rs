//! A leaf of a cluster's tree rots, with it the inodes in it: their names are seen and can be taken
//! away, and nothing gets worse by it.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use strongroom::base::InodeNo;
use strongroom::base::units::BLOCK_SIZE_U64;
use strongroom::catalog::{Catalog, Header, NewCluster, SnapshotKind, Target};
use strongroom::device::sim::SimDevice;
use strongroom::pool::{Head, Pool};
use strongroom::tree::Step;
use strongroom::verify::{self, CheckOptions, Defect, Report};
use strongroom::volume::items::kind;
use strongroom::volume::{
    OpenFlags, ROOT_INODE, RenameFlags, Volume, VolumeError, VolumeOptions, is_stand_in,
};

use crate::pools::{
    CLUSTER, ROOT, header_keys, key_of, mounted, new_device, new_snapshot, open, open_for_reading,
};

const FILES: u64 = 400;

fn name(n: u64) -> String {
    format!("f{n}")
}

fn content(n: u64) -> Vec<u8> {
    vec![n as u8 | 1; 5000]
}

/// A pool with a cluster of many files and a snapshot of it, closed.
fn filled() -> Arc<SimDevice> {
    let sim = new_device();
    let catalog = open(&sim);
    let header = Header::empty(header_keys(&catalog));
    let (name_of_it, created_at) = ("db".parse().unwrap(), Default::default());
    let new = NewCluster { id: CLUSTER, name: name_of_it, created_at, header };
    catalog.create_cluster(new).unwrap();
    let (head, volume) = mounted(&catalog);
    let flags = OpenFlags { write: true, truncate: false };
    for n in 0..FILES {
        let made = volume.create(ROOT_INODE, name(n).as_bytes(), 0o644, flags, &ROOT);
        let (entry, handle) = made.unwrap();
        volume.write(entry.attr.ino, 0, &content(n), true).unwrap();
        volume.release(handle).unwrap();
        volume.forget(entry.attr.ino, 1);
    }
    catalog.take_snapshots(&[new_snapshot(7, CLUSTER, SnapshotKind::OnDemand)]).unwrap();
    close(&catalog, &head, volume);
    sim
}

fn close(catalog: &Catalog, head: &Arc<Head>, volume: Arc<Volume>) {
    catalog.close_head(head).unwrap();
    drop(volume);
    catalog.pool().close().unwrap();
}

/// A place in a leaf that holds inodes and what is theirs, of the head as of the snapshot, and
/// these inodes: one in the middle of the tree.
fn leaf(sim: &Arc<SimDevice>) -> (u64, BTreeSet<InodeNo>) {
    let pool = open_for_reading(sim);
    let catalog = Catalog::open(Arc::clone(&pool)).unwrap();
    let header = catalog.header(Target::Cluster(CLUSTER)).unwrap();
    let key = key_of(&catalog, CLUSTER, &header.keys);
    let context = catalog.root_context(CLUSTER, &header);
    let sealed = header.sealed_root.as_ref().unwrap();
    let (view, _) = pool.open_view(&key, &context, sealed).unwrap();
    let mut found = Vec::new();
    view.tree().walk(pool.nodes(), &mut |step| {
        let Step::Node { pointer: Some(pointer), node } = step else { panic!("it is sound") };
        if node.level() == 0 {
            let keys = (0..node.count()).map(|i| node.key(i));
            let inodes: BTreeSet<InodeNo> =
                keys.filter(|key| key.kind == kind::INODE).map(|key| InodeNo(key.object)).collect();
            if !inodes.is_empty() && !inodes.contains(&ROOT_INODE) {
                found.push((pointer.addr.get() * BLOCK_SIZE_U64 + 99, inodes));
            }
        }
        ControlFlow::Continue(())
    });
    assert!(found.len() > 3, "{} leaves of inodes", found.len());
    found.swap_remove(found.len() / 2)
}

fn check(pool: &Arc<Pool>) -> Report {
    let options = CheckOptions { items: &verify::volume_items, data: true };
    verify::check(pool, &options, &mut |_, _| None)
}

fn names_in_root(volume: &Volume) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    volume
        .readdir(ROOT_INODE, 2, true, &mut |entry| {
            names.insert(String::from_utf8_lossy(entry.name).into_owned());
            volume.forget(entry.attr.unwrap().ino, 1);
            false
        })
        .unwrap();
    names
}

/// Names of which only a stand-in is found; the others are read.
fn unreadable(volume: &Volume) -> BTreeSet<String> {
    let mut unreadable = BTreeSet::new();
    for n in 0..FILES {
        let entry = volume.lookup(ROOT_INODE, name(n).as_bytes()).unwrap();
        let ino = entry.attr.ino;
        let mut data = Vec::new();
        let read = volume.read(ino, 0, 8192, &mut |bytes| data.extend_from_slice(bytes));
        match &entry.unreadable {
            None => assert!(read.is_err() || data == content(n), "{}", name(n)),
            Some(error) => {
                assert!(
                    is_stand_in(ino) && matches!(error, VolumeError::Corrupt { .. }),
                    "{error}"
                );
                assert!(matches!(read, Err(VolumeError::Corrupt { .. })));
                unreadable.insert(name(n));
            }
        }
        volume.forget(ino, 1);
    }
    unreadable
}

#[test]
fn files_whose_inodes_rot_are_deleted_and_the_check_says_no_more_than_before() {
    let sim = filled();
    let (rotten, inodes) = leaf(&sim);
    sim.corrupt(rotten, 0x10);
    let before = check(&open_for_reading(&sim));
    let is_node = |defect: &Defect| matches!(defect, Defect::Node { .. } | Defect::Rot { .. });
    assert!(before.findings.iter().all(|f| is_node(&f.defect)), "{:#?}", before.findings);

    let catalog = open(&sim);
    let (head, volume) = mounted(&catalog);
    let lost = unreadable(&volume);
    assert_eq!(lost.len(), inodes.len());
    assert_eq!(names_in_root(&volume).len() as u64, FILES);
    let (replaced, rest) = (lost.first().unwrap(), lost.iter().skip(1));
    let new = volume.mknod(ROOT_INODE, b"new", 0o644, 0, &ROOT).unwrap().attr.ino;
    let flags = RenameFlags::default();
    let new_name = replaced.as_bytes();
    volume.rename(ROOT_INODE, b"new", ROOT_INODE, new_name, flags, &ROOT).unwrap();
    assert_eq!(volume.lookup(ROOT_INODE, new_name).unwrap().attr.ino, new);
    rest.for_each(|name| volume.unlink(ROOT_INODE, name.as_bytes()).unwrap());
    while volume.background_step().unwrap() {}
    assert_eq!(names_in_root(&volume).len() as u64, FILES - lost.len() as u64 + 1);
    volume.sync().unwrap();
    close(&catalog, &head, volume);
    drop((head, catalog));

    let after = check(&open_for_reading(&sim));
    assert_eq!(after.findings.len(), before.findings.len(), "{:#?}", after.findings);
    assert!(after.findings.iter().all(|f| is_node(&f.defect)), "{:#?}", after.findings);
    // The snapshot shows them yet, and is not changed.
    let catalog = open(&sim);
    let header = catalog.header(Target::Cluster(CLUSTER)).unwrap();
    let key = key_of(&catalog, CLUSTER, &header.keys);
    let snapshot = catalog.open_snapshot(strongroom::base::SnapshotId(7), &key).unwrap();
    let options = VolumeOptions { background: false, ..VolumeOptions::default() };
    let snapshot = Volume::open_view(snapshot.view, snapshot.name_key, options).unwrap();
    assert_eq!(unreadable(&snapshot), lost);
    assert_eq!(snapshot.unlink(ROOT_INODE, new_name), Err(VolumeError::ReadOnly));
    drop((snapshot, catalog));

    // Were the leaf well again, the inodes would be there without names, which the check says.
    sim.corrupt(rotten, 0x10);
    let report = check(&open_for_reading(&sim));
    let nameless = |defect: &Defect| {
        matches!(defect, Defect::File { inode, why, .. }
            if inodes.contains(inode) && why.contains("has no name"))
    };
    assert_eq!(report.findings.len(), inodes.len(), "{:#?}", report.findings);
    assert!(report.findings.iter().all(|f| nameless(&f.defect)), "{:#?}", report.findings);
}

#[test]
fn a_file_that_was_known_before_its_inode_rotted_is_deleted() {
    let sim = filled();
    let (rotten, inodes) = leaf(&sim);
    let catalog = open(&sim);
    let (head, volume) = mounted(&catalog);
    assert!(unreadable(&volume).is_empty());
    let of_leaf: Vec<String> = (0..FILES)
        .map(name)
        .filter(|name| {
            let ino = volume.lookup(ROOT_INODE, name.as_bytes()).unwrap().attr.ino;
            volume.forget(ino, 1);
            inodes.contains(&ino)
        })
        .collect();
    sim.corrupt(rotten, 0x10);
    catalog.pool().nodes().wipe();
    for name in &of_leaf {
        volume.unlink(ROOT_INODE, name.as_bytes()).unwrap();
    }
    assert_eq!(names_in_root(&volume).len() as u64, FILES - of_leaf.len() as u64);
    volume.sync().unwrap();
    close(&catalog, &head, volume);
    drop((head, catalog));
    let (catalog, after) = (open(&sim), check(&open_for_reading(&sim)));
    let (_head, volume) = mounted(&catalog);
    assert_eq!(names_in_root(&volume).len() as u64, FILES - of_leaf.len() as u64);
    assert!(after.findings.iter().all(|f| !matches!(f.defect, Defect::File { .. })));
}
