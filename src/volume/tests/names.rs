//! Names: lookup, create, link, unlink, rename, readdir, lookup counts.

use std::collections::{BTreeMap, BTreeSet};

use super::{ROOT, Rig, USER, WRITE, pattern};
use crate::base::units::InodeNo;
use crate::volume::backing::Backing as _;
use crate::volume::items::{inode_key, kind};
use crate::volume::{FileKind, ROOT_INODE, RenameFlags, VolumeError, is_stand_in};

const PLAIN: RenameFlags = RenameFlags { noreplace: false, exchange: false, whiteout: false };

fn rename(
    rig: &Rig,
    from: (InodeNo, &str),
    to: (InodeNo, &str),
    flags: RenameFlags,
) -> Result<(), VolumeError> {
    rig.volume.rename(from.0, from.1.as_bytes(), to.0, to.1.as_bytes(), flags, &USER)
}

#[test]
fn a_new_file_is_found_has_the_umask_applied_and_survives_a_crash_once_synced() {
    let rig = Rig::new();
    let (entry, handle) = rig.volume.create(ROOT_INODE, b"a", 0o666, WRITE, &USER).unwrap();
    assert_eq!((entry.attr.perm, entry.attr.uid, entry.attr.nlink), (0o644, 1000, 1));
    assert_eq!(rig.volume.write_handles(), vec![(entry.attr.ino, 1)]);
    rig.volume.release(handle).unwrap();
    assert!(rig.volume.write_handles().is_empty());
    assert_eq!(rig.find(ROOT_INODE, "a"), Ok(entry.attr.ino));
    assert_eq!(rig.crash().find(ROOT_INODE, "a"), Err(VolumeError::NotFound));
    rig.volume.fsyncdir(ROOT_INODE, false).unwrap();
    let after = rig.crash();
    assert_eq!(after.find(ROOT_INODE, "a"), Ok(entry.attr.ino));
    let next = after.file("b");
    assert!(next > entry.attr.ino, "an inode number came back");
}

#[test]
fn bad_names_are_refused() {
    let rig = Rig::new();
    let long = vec![b'x'; 256];
    for (name, error) in [
        (&b""[..], VolumeError::Invalid),
        (b"a/b", VolumeError::Invalid),
        (b".", VolumeError::Invalid),
        (b"..", VolumeError::Invalid),
        (b"a\0", VolumeError::Invalid),
        (&long, VolumeError::NameTooLong),
    ] {
        assert_eq!(rig.volume.mkdir(ROOT_INODE, name, 0o755, &USER).unwrap_err(), error);
    }
    let name = vec![0xff; 255];
    rig.volume.mkdir(ROOT_INODE, &name, 0o755, &USER).unwrap();
    assert!(rig.volume.lookup(ROOT_INODE, &name).is_ok());
}

#[test]
fn names_of_one_hash_live_side_by_side() {
    let rig = Rig::new();
    let names: Vec<String> = (0..40).map(|i| format!("collide{i}")).collect();
    let inos: Vec<InodeNo> = names.iter().map(|name| rig.file(name)).collect();
    rig.volume.unlink(ROOT_INODE, names[3].as_bytes()).unwrap();
    rig.volume.unlink(ROOT_INODE, names[0].as_bytes()).unwrap();
    for (i, (name, ino)) in names.iter().zip(&inos).enumerate() {
        let want = if i == 0 || i == 3 { Err(VolumeError::NotFound) } else { Ok(*ino) };
        assert_eq!(rig.find(ROOT_INODE, name), want);
    }
    let again = rig.file("collide0");
    assert_eq!(rig.find(ROOT_INODE, "collide0"), Ok(again));
    assert_eq!(rig.list(ROOT_INODE).len(), 39);
    assert_eq!(
        rig.volume.mknod(ROOT_INODE, b"collide7", 0o644, 0, &USER).unwrap_err(),
        VolumeError::Exists
    );
}

#[test]
fn directories_count_their_links_and_must_be_empty_to_go() {
    let rig = Rig::new();
    let a = rig.dir(ROOT_INODE, "a");
    let b = rig.dir(a, "b");
    assert_eq!((rig.stat(ROOT_INODE).nlink, rig.stat(a).nlink, rig.stat(b).nlink), (3, 3, 2));
    assert_eq!(rig.volume.rmdir(ROOT_INODE, b"a"), Err(VolumeError::NotEmpty));
    assert_eq!(rig.volume.unlink(a, b"b"), Err(VolumeError::IsDirectory));
    rig.file("f");
    assert_eq!(rig.volume.rmdir(ROOT_INODE, b"f"), Err(VolumeError::NotDirectory));
    rig.volume.rmdir(a, b"b").unwrap();
    assert_eq!(rig.stat(a).nlink, 2);
    // Still held by a lookup, but dead: nothing can be made in it.
    assert_eq!(rig.volume.mkdir(b, b"x", 0o755, &USER).unwrap_err(), VolumeError::NotFound);
    rig.volume.forget(b, 1);
    assert_eq!(rig.volume.getattr(b), Err(VolumeError::Stale));
    assert_eq!(rig.volume.lookup(a, b"..").unwrap().attr.ino, ROOT_INODE);
}

#[test]
fn hard_links_share_one_inode_until_the_last_name_goes() {
    let rig = Rig::new();
    let ino = rig.file("a");
    rig.write(ino, 0, b"hello");
    rig.volume.link(ino, ROOT_INODE, b"b").unwrap();
    assert_eq!(rig.volume.link(ino, ROOT_INODE, b"b").unwrap_err(), VolumeError::Exists);
    let dir = rig.dir(ROOT_INODE, "d");
    assert_eq!(rig.volume.link(dir, ROOT_INODE, b"e").unwrap_err(), VolumeError::Perm);
    rig.volume.unlink(ROOT_INODE, b"a").unwrap();
    rig.volume.forget(ino, 2);
    assert_eq!(rig.stat(ino).nlink, 1);
    assert_eq!(rig.read(ino, 0, 10), b"hello");
    rig.volume.unlink(ROOT_INODE, b"b").unwrap();
    assert_eq!(rig.volume.getattr(ino), Err(VolumeError::Stale));
    rig.check();
}

#[test]
fn an_unlinked_file_lives_while_it_is_open_and_its_space_comes_back_after() {
    let rig = Rig::new();
    let (entry, handle) = rig.volume.create(ROOT_INODE, b"a", 0o644, WRITE, &USER).unwrap();
    let ino = entry.attr.ino;
    rig.write(ino, 0, &vec![7; 300_000]);
    rig.volume.unlink(ROOT_INODE, b"a").unwrap();
    rig.volume.forget(ino, 1);
    assert_eq!(rig.read(ino, 299_999, 5), [7]);
    rig.volume.sync().unwrap();
    assert_eq!(rig.backing.count_items(kind::ORPHAN), 1);
    // A crash now: the next opening frees it.
    let after = rig.crash();
    while after.volume.background_step().unwrap() {}
    assert_eq!(after.backing.count_items(kind::ORPHAN), 0);
    assert_eq!(after.backing.count_items(kind::EXTENT), 0);
    after.check();
    rig.volume.release(handle).unwrap();
    assert_eq!(rig.volume.getattr(ino), Err(VolumeError::Stale));
    assert_eq!(rig.backing.count_items(kind::EXTENT), 0);
    rig.check();
}

#[test]
fn lookups_are_counted_where_the_kernel_counts_them_and_end_at_zero() {
    let rig = Rig::new();
    let v = &rig.volume;
    let (file, handle) = v.create(ROOT_INODE, b"file", 0o644, WRITE, &USER).unwrap();
    let node = v.mknod(ROOT_INODE, b"fifo", 0o010_644, 0, &USER).unwrap();
    let dir = v.mkdir(ROOT_INODE, b"dir", 0o755, &USER).unwrap();
    let link = v.symlink(ROOT_INODE, b"link", b"target", &USER).unwrap();
    v.link(file.attr.ino, dir.attr.ino, b"hard").unwrap();
    v.lookup(ROOT_INODE, b"dir").unwrap();
    let mut taken = Vec::new();
    v.readdir(ROOT_INODE, 0, true, &mut |entry| {
        assert!(entry.attr.is_some());
        let dots = entry.name == b"." || entry.name == b"..";
        if taken.len() == 3 {
            return true;
        }
        if !dots {
            taken.push(entry.ino);
        }
        false
    })
    .unwrap();
    v.readdir(ROOT_INODE, 0, false, &mut |_| false).unwrap();
    v.release(handle).unwrap();
    assert_eq!(v.inodes_looked_up(), 4);
    for ino in taken {
        v.forget(ino, 1);
    }
    v.forget(file.attr.ino, 2);
    v.forget(node.attr.ino, 1);
    v.forget(dir.attr.ino, 2);
    assert_eq!(v.inodes_looked_up(), 1);
    v.forget(link.attr.ino, 1);
    assert_eq!((v.inodes_looked_up(), v.open_handles()), (0, 0));
}

#[test]
fn symbolic_links_keep_long_targets() {
    let rig = Rig::new();
    let target = vec![b't'; 4095];
    let link = rig.volume.symlink(ROOT_INODE, b"l", &target, &USER).unwrap().attr;
    assert_eq!((link.kind, link.size, link.perm), (FileKind::Symlink, 4095, 0o777));
    assert_eq!(rig.volume.readlink(link.ino).unwrap(), target);
    let longer = vec![b't'; 4096];
    let error = rig.volume.symlink(ROOT_INODE, b"m", &longer, &USER).unwrap_err();
    assert_eq!(error, VolumeError::NameTooLong);
    assert_eq!(rig.volume.readlink(ROOT_INODE), Err(VolumeError::Invalid));
}

#[test]
fn device_files_keep_their_number() {
    let rig = Rig::new();
    let device = rig.volume.mknod(ROOT_INODE, b"null", 0o020_666, 0x0103, &ROOT).unwrap().attr;
    assert_eq!((device.kind, device.rdev, device.perm), (FileKind::CharDevice, 0x0103, 0o644));
}

#[test]
fn rename_replaces_in_one_step_and_frees_what_it_replaced() {
    let rig = Rig::new();
    let (a, b) = (rig.file("a"), rig.file("b"));
    rig.write(b, 0, &[1; 5000]);
    rename(&rig, (ROOT_INODE, "a"), (ROOT_INODE, "b"), PLAIN).unwrap();
    assert_eq!(rig.find(ROOT_INODE, "b"), Ok(a));
    assert_eq!(rig.find(ROOT_INODE, "a"), Err(VolumeError::NotFound));
    assert_eq!(rig.stat(b).nlink, 0);
    rig.volume.forget(b, 1);
    assert_eq!(rig.volume.getattr(b), Err(VolumeError::Stale));
    let no = RenameFlags { noreplace: true, ..PLAIN };
    let c = rig.file("c");
    assert_eq!(rename(&rig, (ROOT_INODE, "c"), (ROOT_INODE, "b"), no), Err(VolumeError::Exists));
    rename(&rig, (ROOT_INODE, "c"), (ROOT_INODE, "d"), no).unwrap();
    // Two names of one inode: nothing happens.
    rig.volume.link(c, ROOT_INODE, b"e").unwrap();
    rename(&rig, (ROOT_INODE, "d"), (ROOT_INODE, "e"), PLAIN).unwrap();
    assert_eq!(rig.list(ROOT_INODE), ["b", "d", "e"]);
    rig.check();
}

#[test]
fn directories_move_with_their_parent_and_never_below_themselves() {
    let rig = Rig::new();
    let a = rig.dir(ROOT_INODE, "a");
    let b = rig.dir(a, "b");
    let c = rig.dir(b, "c");
    let below = rename(&rig, (ROOT_INODE, "a"), (c, "x"), PLAIN);
    assert_eq!(below, Err(VolumeError::Invalid));
    rename(&rig, (b, "c"), (ROOT_INODE, "c"), PLAIN).unwrap();
    assert_eq!(rig.volume.lookup(c, b"..").unwrap().attr.ino, ROOT_INODE);
    assert_eq!((rig.stat(ROOT_INODE).nlink, rig.stat(b).nlink), (4, 2));
    rig.file("f");
    let into_file = rename(&rig, (ROOT_INODE, "c"), (ROOT_INODE, "f"), PLAIN);
    assert_eq!(into_file, Err(VolumeError::NotDirectory));
    let over_dir = rename(&rig, (ROOT_INODE, "f"), (ROOT_INODE, "c"), PLAIN);
    assert_eq!(over_dir, Err(VolumeError::IsDirectory));
    let full = rename(&rig, (ROOT_INODE, "c"), (ROOT_INODE, "a"), PLAIN);
    assert_eq!(full, Err(VolumeError::NotEmpty));
    rename(&rig, (ROOT_INODE, "c"), (a, "b"), PLAIN).unwrap();
    assert_eq!((rig.stat(ROOT_INODE).nlink, rig.stat(a).nlink), (3, 3));
    assert_eq!(rig.find(a, "b"), Ok(c));
}

#[test]
fn exchange_swaps_a_file_and_a_directory() {
    let rig = Rig::new();
    let exchange = RenameFlags { exchange: true, ..PLAIN };
    let (a, d) = (rig.dir(ROOT_INODE, "a"), rig.dir(ROOT_INODE, "d"));
    let f = rig.volume.mknod(a, b"f", 0o644, 0, &USER).unwrap().attr.ino;
    rename(&rig, (a, "f"), (ROOT_INODE, "d"), exchange).unwrap();
    assert_eq!((rig.find(a, "f"), rig.find(ROOT_INODE, "d")), (Ok(d), Ok(f)));
    assert_eq!((rig.stat(a).nlink, rig.stat(ROOT_INODE).nlink), (3, 3));
    assert_eq!(rig.volume.lookup(d, b"..").unwrap().attr.ino, a);
    let missing = rename(&rig, (a, "f"), (ROOT_INODE, "none"), exchange);
    assert_eq!(missing, Err(VolumeError::NotFound));
    let below = rename(&rig, (ROOT_INODE, "a"), (a, "f"), exchange);
    assert_eq!(below, Err(VolumeError::Invalid));
}

#[test]
fn a_whiteout_takes_the_old_name() {
    let rig = Rig::new();
    let a = rig.file("a");
    let whiteout = RenameFlags { whiteout: true, ..PLAIN };
    rename(&rig, (ROOT_INODE, "a"), (ROOT_INODE, "b"), whiteout).unwrap();
    let left = rig.volume.lookup(ROOT_INODE, b"a").unwrap().attr;
    assert_eq!((left.kind, left.rdev, left.perm), (FileKind::CharDevice, 0, 0));
    assert_eq!(rig.find(ROOT_INODE, "b"), Ok(a));
    let d = rig.dir(ROOT_INODE, "d");
    rename(&rig, (ROOT_INODE, "b"), (d, "b"), whiteout).unwrap();
    assert_eq!(rig.volume.lookup(ROOT_INODE, b"b").unwrap().attr.kind, FileKind::CharDevice);
    assert_eq!(rig.find(d, "b"), Ok(a));
}

#[test]
fn cookies_go_on_where_they_were_while_names_come_and_go() {
    let rig = Rig::new();
    let names: BTreeSet<String> = (0..1000).map(|i| format!("n{i}")).collect();
    for name in &names {
        rig.file(name);
    }
    let mut seen = BTreeSet::new();
    let mut cookie = 0;
    loop {
        let mut batch = Vec::new();
        rig.volume
            .readdir(ROOT_INODE, cookie, false, &mut |entry| {
                if batch.len() == 7 {
                    return true;
                }
                assert!(entry.cookie > cookie && entry.cookie < 1 << 63);
                batch.push((String::from_utf8_lossy(entry.name).into_owned(), entry.cookie));
                false
            })
            .unwrap();
        let Some(last) = batch.last() else { break };
        cookie = last.1;
        for (name, _) in batch {
            if name.starts_with('n') {
                rig.volume.unlink(ROOT_INODE, name.as_bytes()).unwrap();
                rig.file(&format!("later-{name}"));
            }
            if !name.starts_with("later") {
                assert!(seen.insert(name), "a name came twice");
            }
        }
    }
    assert!(names.is_subset(&seen), "names were skipped");
    assert!(seen.contains(".") && seen.contains(".."));
}

#[test]
fn the_inode_cache_stays_bounded_while_a_large_directory_is_listed() {
    let rig = Rig::new();
    for i in 0..3000 {
        let ino = rig.file(&format!("n{i}"));
        rig.volume.forget(ino, 1);
    }
    let mut inos = Vec::new();
    rig.volume
        .readdir(ROOT_INODE, 2, true, &mut |entry| {
            inos.push(entry.ino);
            false
        })
        .unwrap();
    assert_eq!(inos.len(), 3000);
    assert!(rig.volume.inodes.len() < 200, "{} inodes cached", rig.volume.inodes.len());
    for ino in inos {
        assert_eq!(rig.stat(ino).nlink, 1);
        rig.volume.forget(ino, 1);
    }
    assert_eq!(rig.volume.inodes_looked_up(), 0);
}

/// Makes an inode's item one that cannot be read.
fn rot(rig: &Rig, ino: InodeNo) {
    rig.volume.inodes.clear_unused();
    rig.backing.transact(&mut |txn| txn.put(inode_key(ino), b"rot")).unwrap();
}

#[test]
fn one_rotten_inode_hides_no_name_and_leaks_no_lookup() {
    let rig = Rig::new();
    let inos: Vec<InodeNo> = (0..5).map(|i| rig.file(&format!("n{i}"))).collect();
    inos.iter().for_each(|ino| rig.volume.forget(*ino, 1));
    rig.backing.checkpoint().unwrap();
    rot(&rig, inos[2]);
    rig.backing.transact(&mut |txn| txn.remove(inode_key(inos[3]))).unwrap();
    // Listed whole, and by a reader that takes one name at a time.
    for at_once in [5, 1] {
        let mut seen = BTreeMap::new();
        let mut cookie = 2;
        while seen.len() < 5 {
            let mut taken = 0;
            rig.volume
                .readdir(ROOT_INODE, cookie, true, &mut |entry| {
                    if taken < at_once {
                        seen.insert(entry.ino, entry.attr.unwrap());
                        cookie = entry.cookie;
                    }
                    taken += 1;
                    taken > at_once
                })
                .unwrap();
            assert!(taken > 0, "names are hidden");
        }
        for ino in &inos {
            let attr = seen[ino];
            assert_eq!(is_stand_in(attr.ino), *ino == inos[2] || *ino == inos[3]);
            assert_eq!((attr.kind, attr.nlink), (FileKind::File, 1));
            rig.volume.forget(attr.ino, 1);
        }
        assert_eq!(rig.volume.inodes_looked_up(), 0);
    }
}

#[test]
fn the_last_forget_of_an_inode_with_a_name_loads_nothing_and_of_one_without_frees_it() {
    let rig = Rig::new();
    let (named, nameless) = (rig.file("named"), rig.file("nameless"));
    rig.write(nameless, 0, &pattern(1, 100_000));
    rig.volume.unlink(ROOT_INODE, b"nameless").unwrap();
    rig.backing.checkpoint().unwrap();
    for i in 0..3000 {
        let ino = rig.file(&format!("n{i}"));
        rig.volume.forget(ino, 1);
    }
    rig.backing.checkpoint().unwrap();
    (0..3000).for_each(|i| drop(rig.find(ROOT_INODE, &format!("n{i}"))));
    assert!(rig.volume.inodes.peek(named).is_none(), "out of the cache");
    rig.volume.forget(named, 1);
    assert!(rig.volume.inodes.peek(named).is_none(), "loaded for nothing");
    rig.volume.forget(nameless, 1);
    assert_eq!(rig.volume.getattr(nameless), Err(VolumeError::Stale));
    rig.check();
}
