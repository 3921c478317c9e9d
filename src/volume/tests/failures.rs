//! Failures: full, failing, locked, read-only, stopped.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Rig, USER, WRITE, options, pattern, read};
use crate::base::units::InodeNo;
use crate::volume::backing::memory::MemoryBacking;
use crate::volume::{ROOT_INODE, SetAttr, Volume, VolumeError, XattrMode};

#[test]
fn a_full_pool_says_so_when_it_accepts_and_deleting_helps() {
    let rig = Rig::over(MemoryBacking::new(200));
    let ino = rig.file("a");
    let mut written = 0u64;
    let error = loop {
        match rig.volume.write(ino, written, &pattern(written, 4096), true) {
            Ok(n) => written += n as u64,
            Err(error) => break error,
        }
    };
    assert_eq!(error, VolumeError::NoSpace);
    assert!(written > 150 * 4096);
    // All that was accepted can be kept.
    rig.volume.fsync(ino, false).unwrap();
    assert_eq!(rig.stat(ino).size, written);
    assert_eq!(rig.volume.statfs().unwrap().blocks_available, 0);
    let large = rig.volume.write(ino, 0, &vec![1; 200_000], true);
    assert_eq!(large, Err(VolumeError::NoSpace));
    assert_eq!(rig.read(ino, 0, 4096), pattern(0, 4096));
    // Shrinking by an odd size changes a block, and works all the same.
    let set = SetAttr { size: Some(written - 1), ..SetAttr::default() };
    rig.volume.setattr(ino, &set, &USER).unwrap();
    rig.volume.unlink(ROOT_INODE, b"a").unwrap();
    rig.volume.forget(ino, 1);
    let b = rig.file("b");
    rig.write(b, 0, &[1; 4096]);
    rig.check();
}

#[test]
fn after_a_lost_write_no_fsync_succeeds_again() {
    let rig = Rig::new();
    let ino = rig.file("a");
    rig.write(ino, 0, &[1; 32_768]);
    rig.volume.fsync(ino, false).unwrap();
    rig.write(ino, 0, &[2; 32_768]);
    rig.backing.io_budget.store(1, Ordering::Relaxed);
    assert!(rig.volume.fsync(ino, false).is_err());
    rig.backing.io_budget.store(u64::MAX, Ordering::Relaxed);
    for _ in 0..2 {
        assert!(matches!(rig.volume.fsync(ino, true), Err(VolumeError::WriteLost(_))));
        assert!(matches!(rig.volume.flush(ino), Err(VolumeError::WriteLost(_))));
        assert!(rig.volume.write(ino, 0, b"x", true).is_err());
    }
    assert!(rig.backing.checkpoint().is_err(), "a cut without accepted data came through");
    assert!(rig.volume.stopped().is_some());
    // What was durable before is still there.
    assert_eq!(rig.crash().read(ino, 0, 32_768), [1; 32_768]);
}

#[test]
fn a_large_write_that_fails_changes_nothing() {
    let rig = Rig::new();
    let ino = rig.file("a");
    rig.write(ino, 0, &[1; 300_000]);
    rig.check();
    for budget in 0..2 {
        rig.backing.io_budget.store(budget, Ordering::Relaxed);
        assert!(rig.volume.write(ino, 100, &vec![2; 290_000], true).is_err());
        rig.backing.io_budget.store(u64::MAX, Ordering::Relaxed);
        assert_eq!(rig.read(ino, 0, 300_000), [1; 300_000]);
    }
    rig.check();
}

#[test]
fn a_locked_volume_answers_nothing_and_drops_what_it_is_told_to() {
    let rig = Rig::new();
    let ino = rig.file("a");
    rig.write(ino, 0, b"hello");
    rig.volume.set_locked();
    let v = &rig.volume;
    assert!(v.is_locked());
    assert_eq!(v.getattr(ino), Err(VolumeError::Locked));
    assert_eq!(v.lookup(ROOT_INODE, b"a").unwrap_err(), VolumeError::Locked);
    assert_eq!(read(v, ino, 0, 5), Err(VolumeError::Locked));
    assert_eq!(v.write(ino, 0, b"x", true), Err(VolumeError::Locked));
    assert_eq!(v.fsync(ino, true), Err(VolumeError::Locked));
    assert_eq!(v.statfs(), Err(VolumeError::Locked));
    assert_eq!(v.unlink(ROOT_INODE, b"a"), Err(VolumeError::Locked));
    assert_eq!(v.readdir(ROOT_INODE, 0, true, &mut |_| false), Err(VolumeError::Locked));
    // The checkpoint of the lock still takes what was buffered.
    rig.backing.checkpoint().unwrap();
    assert_eq!(rig.crash().read(ino, 0, 9), b"hello");
    assert_eq!(v.discard(), 0);
}

#[test]
fn discarded_writes_are_counted_and_leave_no_promise_behind() {
    let rig = Rig::new();
    let before = rig.volume.statfs().unwrap();
    let ino = rig.file("a");
    rig.write(ino, 0, &[1; 10_000]);
    rig.volume.set_locked();
    assert_eq!(rig.volume.discard(), 3 * 4096);
    assert_eq!(rig.volume.buffer.bytes(), 0);
    assert_eq!(crate::volume::backing::Backing::space(&*rig.backing), before);
}

#[test]
fn a_snapshot_is_read_only_and_shows_what_was() {
    let rig = Rig::new();
    let ino = rig.file("a");
    rig.write(ino, 0, b"hello");
    rig.check();
    let snapshot = Volume::open_backing(rig.backing.snapshot(), options()).unwrap();
    rig.write(ino, 0, b"later");
    rig.check();
    assert_eq!(read(&snapshot, ino, 0, 9).unwrap(), b"hello");
    assert_eq!(snapshot.lookup(ROOT_INODE, b"a").unwrap().attr.ino, ino);
    let refused = VolumeError::ReadOnly;
    assert_eq!(snapshot.write(ino, 0, b"x", true).unwrap_err(), refused);
    assert_eq!(snapshot.mkdir(ROOT_INODE, b"d", 0o755, &USER).unwrap_err(), refused);
    assert_eq!(snapshot.unlink(ROOT_INODE, b"a").unwrap_err(), refused);
    assert_eq!(snapshot.open(ino, WRITE).unwrap_err(), refused);
    assert_eq!(snapshot.setattr(ino, &SetAttr::default(), &USER).unwrap_err(), refused);
    let set = snapshot.setxattr(ino, b"user.a", b"", XattrMode::Set, &USER);
    assert_eq!(set.unwrap_err(), refused);
    assert_eq!(snapshot.fsync(ino, false), Ok(()));
    assert_eq!(snapshot.statfs().unwrap().blocks_available, 0);
}

#[test]
fn a_stopped_volume_reads_and_keeps_what_it_accepted() {
    let rig = Rig::new();
    let ino = rig.file("a");
    rig.write(ino, 0, b"hello");
    rig.volume.stop_writes("a test");
    assert_eq!(rig.volume.write(ino, 0, b"x", true), Err(VolumeError::ReadOnly));
    assert_eq!(
        rig.volume.mkdir(ROOT_INODE, b"d", 0o755, &USER).unwrap_err(),
        VolumeError::ReadOnly
    );
    rig.volume.fsync(ino, false).unwrap();
    assert_eq!(rig.crash().read(ino, 0, 9), b"hello");
}

#[test]
fn a_tree_of_a_newer_version_is_refused() {
    let rig = Rig::new();
    rig.volume
        .edit(&[], |txn, _| txn.put(crate::volume::items::VOLUME_KEY, &2u16.to_le_bytes()))
        .unwrap();
    let opened = Volume::open_backing(Arc::clone(&rig.backing) as _, options());
    assert_eq!(opened.err(), Some(VolumeError::NotSupported));
}

/// A file of 1,200 extents, one block each with a hole before each.
fn of_many_extents(rig: &Rig, name: &str) -> InodeNo {
    let ino = rig.file(name);
    for n in 0..1200 {
        rig.write(ino, (2 * n + 1) * 4096, &[7; 4096]);
    }
    rig.check();
    ino
}

#[test]
fn a_truncation_that_failed_half_way_lets_nothing_old_show_and_takes_nothing_new() {
    let rig = Rig::new();
    let ino = of_many_extents(&rig, "a");
    let set = SetAttr { size: Some(0), ..SetAttr::default() };
    rig.backing.shrink_budget.store(1, Ordering::Relaxed);
    assert!(rig.volume.setattr(ino, &set, &USER).is_err());
    assert_eq!(rig.stat(ino).size, 0);
    // Nothing grows the file while the rest of its extents is there.
    assert!(rig.volume.write(ino, 2400 * 4096, &[1], true).is_err());
    rig.backing.shrink_budget.store(u64::MAX, Ordering::Relaxed);
    rig.write(ino, 2400 * 4096, &[1; 4096]);
    rig.volume.fsync(ino, false).unwrap();
    assert!(rig.read(ino, 0, 2400 * 4096).iter().all(|b| *b == 0));
    rig.check();
    let after = rig.crash();
    assert_eq!(after.read(ino, 2400 * 4096, 4096), [1; 4096]);
}

#[test]
fn an_orphan_whose_freeing_failed_is_freed_later() {
    let rig = Rig::new();
    let ino = of_many_extents(&rig, "a");
    rig.volume.unlink(ROOT_INODE, b"a").unwrap();
    rig.volume.forget(ino, 1);
    rig.backing.shrink_budget.store(0, Ordering::Relaxed);
    assert!(rig.volume.background_step().is_err());
    rig.backing.shrink_budget.store(u64::MAX, Ordering::Relaxed);
    while rig.volume.background_step().unwrap() {}
    rig.check();
    assert_eq!(rig.backing.count_items(crate::volume::items::kind::EXTENT), 0);
}
