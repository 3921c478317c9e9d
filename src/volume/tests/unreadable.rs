//! Inodes that cannot be read: their names are seen, and can be taken away; everything else on them
//! is refused, and nothing else suffers.

use std::sync::atomic::Ordering;

use super::{Rig, USER, WRITE, options, pattern, read};
use crate::base::units::InodeNo;
use crate::volume::backing::Backing as _;
use crate::volume::items::{inode_key, kind};
use crate::volume::link::Target;
use crate::volume::{
    Entry, FileKind, OpenFlags, ROOT_INODE, RenameFlags, Result, SetAttr, Volume, VolumeError,
    XattrMode, is_stand_in,
};

const PLAIN: RenameFlags = RenameFlags { noreplace: false, exchange: false, whiteout: false };

/// Why an inode cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rot {
    /// The node of its items rots.
    Node,
    /// Its item is not one.
    Item,
    /// Its item is gone.
    Missing,
}
const WAYS: [Rot; 3] = [Rot::Node, Rot::Item, Rot::Missing];

/// Everything is in the tree; the inode is in memory no more, and cannot be read from now on.
fn rot(rig: &Rig, ino: InodeNo, way: Rot) {
    rig.check();
    rig.volume.inodes.clear_unused();
    let edit = |value: Option<&[u8]>| {
        let edited = rig.backing.transact(&mut |txn| match value {
            Some(value) => txn.put(inode_key(ino), value),
            None => txn.remove(inode_key(ino)),
        });
        edited.unwrap();
    };
    match way {
        Rot::Node => rig.backing.unreadable.store(ino.0, Ordering::Relaxed),
        Rot::Item => edit(Some(b"rot")),
        Rot::Missing => edit(None),
    }
}

fn is_corrupt<T>(result: Result<T>) -> bool {
    matches!(result, Err(VolumeError::Corrupt { .. }))
}

fn rename(volume: &Volume, from: &[u8], to: &[u8], flags: RenameFlags) -> Result<()> {
    volume.rename(ROOT_INODE, from, ROOT_INODE, to, flags, &USER)
}

/// What stands for an inode, and that it is known to.
fn stand_in(rig: &Rig, name: &[u8], ino: InodeNo) -> Entry {
    let entry = rig.volume.lookup(ROOT_INODE, name).unwrap();
    assert!(is_stand_in(entry.attr.ino) && entry.attr.ino != ino);
    let named =
        matches!(&entry.unreadable, Some(VolumeError::Corrupt { ino: Some(of), .. }) if *of == ino);
    assert!(named, "{:?}", entry.unreadable);
    entry
}

fn entries_of_root(rig: &Rig) -> u64 {
    rig.volume.inode(ROOT_INODE).unwrap().item().unwrap().entries
}

#[test]
fn a_file_whose_inode_cannot_be_read_is_seen_and_deleted_and_nothing_else_is_done_to_it() {
    for way in WAYS {
        let rig = Rig::new();
        let v = &rig.volume;
        let (ino, other) = (rig.file("a"), rig.file("b"));
        rig.write(ino, 0, &pattern(1, 100_000));
        rig.write(other, 0, &pattern(2, 5000));
        [ino, other].into_iter().for_each(|ino| v.forget(ino, 1));
        rot(&rig, ino, way);
        let extents = rig.backing.count_items(kind::EXTENT);

        let attr = stand_in(&rig, b"a", ino).attr;
        let seen = (attr.kind, attr.perm, attr.size, attr.blocks, attr.nlink, attr.uid, attr.gid);
        assert_eq!(seen, (FileKind::File, 0, 0, 0, 1, 0, 0), "{way:?}");
        assert_eq!(v.getattr(attr.ino), Ok(attr));
        assert!(v.getattr(ino).is_err());
        let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
        assert!(is_corrupt(v.open(attr.ino, OpenFlags::default())));
        assert!(is_corrupt(v.setattr(attr.ino, &set, &USER)));
        assert!(is_corrupt(read(v, attr.ino, 0, 10)));
        assert!(is_corrupt(v.write(attr.ino, 0, b"x", true)));
        assert!(is_corrupt(v.setxattr(attr.ino, b"user.a", b"", XattrMode::Set, &USER)));
        assert!(is_corrupt(v.getxattr(attr.ino, b"user.a")));
        assert!(is_corrupt(v.link(attr.ino, ROOT_INODE, b"c")));
        assert!(is_corrupt(rename(v, b"a", b"c", PLAIN)));
        assert_eq!(v.rmdir(ROOT_INODE, b"a"), Err(VolumeError::NotDirectory));
        let made = v.create(ROOT_INODE, b"a", 0o644, WRITE, &USER);
        assert_eq!(made.unwrap_err(), VolumeError::Exists);

        v.unlink(ROOT_INODE, b"a").unwrap();
        assert_eq!(v.lookup(ROOT_INODE, b"a").unwrap_err(), VolumeError::NotFound);
        assert_eq!(v.unlink(ROOT_INODE, b"a"), Err(VolumeError::NotFound));
        assert_eq!((rig.list(ROOT_INODE), entries_of_root(&rig)), (vec!["b".to_owned()], 1));
        v.forget(attr.ino, 1);
        assert_eq!((v.inodes_looked_up(), v.open_handles()), (0, 0));
        while v.background_step().unwrap() {}
        // Nobody knows whether it has other names.
        assert_eq!(rig.backing.count_items(kind::ORPHAN), 0);
        assert_eq!(rig.backing.count_items(kind::EXTENT), extents);
        assert_eq!(rig.read(other, 0, 5000), pattern(2, 5000));
        let again = rig.file("a");
        assert_ne!(again, ino);
        rig.check();
        assert_eq!(rig.crash().find(ROOT_INODE, "a"), Ok(again));
    }
}

#[test]
fn each_name_of_an_inode_that_cannot_be_read_can_be_taken_away() {
    for way in WAYS {
        let rig = Rig::new();
        let ino = rig.file("a");
        let dir = rig.dir(ROOT_INODE, "d");
        rig.volume.link(ino, dir, b"b").unwrap();
        rig.volume.forget(ino, 2);
        rot(&rig, ino, way);
        rig.volume.unlink(dir, b"b").unwrap();
        stand_in(&rig, b"a", ino);
        rig.volume.unlink(ROOT_INODE, b"a").unwrap();
        rig.volume.rmdir(ROOT_INODE, b"d").unwrap();
        assert_eq!((rig.list(ROOT_INODE).len(), entries_of_root(&rig)), (0, 0));
        rig.check();
    }
}

#[test]
fn a_file_that_is_known_from_before_is_deleted_though_its_node_rots() {
    let rig = Rig::new();
    let v = &rig.volume;
    let (ino, target) = (rig.file("a"), rig.file("target"));
    rig.write(ino, 0, &pattern(1, 9000));
    rig.check();
    let handle = v.open(ino, WRITE).unwrap();
    rig.write(ino, 0, b"never stored");
    rig.backing.unreadable.store(ino.0, Ordering::Relaxed);
    assert_eq!(v.lookup(ROOT_INODE, b"a").unwrap().attr.ino, ino);
    v.unlink(ROOT_INODE, b"a").unwrap();
    assert_eq!(v.lookup(ROOT_INODE, b"a").unwrap_err(), VolumeError::NotFound);
    v.release(handle).unwrap();
    v.forget(ino, 2);
    rig.backing.checkpoint().unwrap();

    let source = rig.file("source");
    rig.backing.unreadable.store(target.0, Ordering::Relaxed);
    rename(v, b"source", b"target", PLAIN).unwrap();
    assert_eq!(v.lookup(ROOT_INODE, b"target").unwrap().attr.ino, source);
    assert_eq!((rig.list(ROOT_INODE), entries_of_root(&rig)), (vec!["target".to_owned()], 1));
    rig.backing.checkpoint().unwrap();
}

#[test]
fn a_rename_over_a_file_that_cannot_be_read_replaces_it() {
    for way in WAYS {
        let rig = Rig::new();
        let v = &rig.volume;
        let (source, target, dir) = (rig.file("a"), rig.file("b"), rig.dir(ROOT_INODE, "d"));
        v.forget(target, 1);
        rot(&rig, target, way);
        let noreplace = RenameFlags { noreplace: true, ..PLAIN };
        assert_eq!(rename(v, b"a", b"b", noreplace), Err(VolumeError::Exists));
        assert!(is_corrupt(rename(v, b"a", b"b", RenameFlags { exchange: true, ..PLAIN })));
        assert_eq!(rename(v, b"d", b"b", PLAIN), Err(VolumeError::NotDirectory));
        rename(v, b"a", b"b", PLAIN).unwrap();
        assert_eq!(rig.find(ROOT_INODE, "b"), Ok(source));
        assert_eq!(rig.find(ROOT_INODE, "a"), Err(VolumeError::NotFound));
        assert_eq!((rig.stat(source).nlink, rig.stat(dir).nlink), (1, 2));
        assert_eq!(entries_of_root(&rig), 2);
        rig.check();
    }
}

#[test]
fn a_directory_that_cannot_be_read_is_seen_and_stays() {
    for way in WAYS {
        let rig = Rig::new();
        let v = &rig.volume;
        let (dir, other) = (rig.dir(ROOT_INODE, "d"), rig.dir(ROOT_INODE, "e"));
        v.forget(dir, 1);
        rot(&rig, dir, way);
        let attr = stand_in(&rig, b"d", dir).attr;
        assert_eq!((attr.kind, attr.perm), (FileKind::Directory, 0));
        assert!(is_corrupt(v.opendir(attr.ino)));
        assert!(is_corrupt(v.readdir(attr.ino, 0, false, &mut |_| false)));
        assert!(is_corrupt(v.lookup(attr.ino, b"x")));
        assert!(is_corrupt(v.rmdir(ROOT_INODE, b"d")));
        assert!(is_corrupt(v.unlink(ROOT_INODE, b"d")));
        assert!(is_corrupt(rename(v, b"e", b"d", PLAIN)));
        assert!(is_corrupt(rename(v, b"d", b"f", PLAIN)));
        assert_eq!(
            (rig.list(ROOT_INODE), rig.stat(other).nlink),
            (vec!["d".into(), "e".into()], 2)
        );
        assert_eq!(rig.stat(ROOT_INODE).nlink, 4);
    }
}

#[test]
fn an_inode_that_can_be_read_again_is_never_taken_for_what_stood_for_it() {
    let rig = Rig::new();
    let ino = rig.file("a");
    rig.write(ino, 0, b"hello");
    rig.volume.forget(ino, 1);
    rot(&rig, ino, Rot::Node);
    let before = stand_in(&rig, b"a", ino).attr;
    rig.backing.unreadable.store(0, Ordering::Relaxed);
    let after = rig.volume.lookup(ROOT_INODE, b"a").unwrap();
    assert_eq!((after.attr.ino, after.attr.size, after.unreadable), (ino, 5, None));
    assert!(is_corrupt(rig.volume.open(before.ino, OpenFlags::default())));
    rig.volume.forget(before.ino, 1);
    rig.volume.unlink(ROOT_INODE, b"a").unwrap();
    rig.volume.forget(ino, 1);
    assert!(rig.backing.view().unwrap().get(inode_key(ino)).unwrap().is_none());
    rig.check();
}

#[test]
fn no_name_is_taken_from_an_inode_that_can_be_read_again_as_if_it_could_not() {
    let rig = Rig::new();
    let ino = rig.file("a");
    let at = |way: Option<Rot>| {
        way.into_iter().for_each(|way| rot(&rig, ino, way));
        let target = Target { ino, inode: None };
        let found = rig.volume.edit(&[], |txn, _| {
            let found = rig.volume.find_entry(txn, ROOT_INODE, b"a")?.unwrap();
            target.is_at(txn, &found)
        });
        rig.backing.unreadable.store(0, Ordering::Relaxed);
        found.unwrap()
    };
    assert!(!at(None), "its names would not be counted");
    assert!(at(Some(Rot::Node)) && !at(None));
    assert!(at(Some(Rot::Item)) && at(Some(Rot::Missing)));
}

#[test]
fn a_device_that_fails_is_no_corruption() {
    let rig = Rig::new();
    let (ino, source) = (rig.file("a"), rig.file("b"));
    rig.volume.forget(ino, 1);
    rig.backing.device_fails.store(true, Ordering::Relaxed);
    rot(&rig, ino, Rot::Node);
    let is_io = |result: Result<()>| matches!(result, Err(VolumeError::Io(_)));
    assert!(is_io(rig.volume.lookup(ROOT_INODE, b"a").map(drop)));
    assert!(is_io(rig.volume.unlink(ROOT_INODE, b"a")));
    assert!(is_io(rename(&rig.volume, b"b", b"a", PLAIN)));
    rig.backing.unreadable.store(0, Ordering::Relaxed);
    assert_eq!(rig.find(ROOT_INODE, "a"), Ok(ino));
    assert_eq!(rig.find(ROOT_INODE, "b"), Ok(source));
}

#[test]
fn a_snapshot_shows_what_stands_for_an_inode_and_takes_no_name_away() {
    let rig = Rig::new();
    let ino = rig.file("a");
    rig.volume.forget(ino, 1);
    rot(&rig, ino, Rot::Item);
    let snapshot = Volume::open_backing(rig.backing.snapshot(), options()).unwrap();
    let entry = snapshot.lookup(ROOT_INODE, b"a").unwrap();
    assert!(is_stand_in(entry.attr.ino) && entry.unreadable.is_some());
    assert_eq!(snapshot.unlink(ROOT_INODE, b"a"), Err(VolumeError::ReadOnly));
    assert_eq!(snapshot.lookup(ROOT_INODE, b"a"), Ok(entry));
}
