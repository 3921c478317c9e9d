//! Content: read, write, truncate, allocate, seek, copy.

use super::{Rig, USER, pattern};
use crate::volume::items::kind;
use crate::volume::{AllocateMode, ROOT_INODE, Seek, SetAttr, VolumeError};

fn truncate(rig: &Rig, ino: crate::base::units::InodeNo, size: u64) {
    let set = SetAttr { size: Some(size), ..SetAttr::default() };
    assert_eq!(rig.volume.setattr(ino, &set, &USER).unwrap().size, size);
}

#[test]
fn what_is_written_is_read_back_at_odd_offsets_and_lengths() {
    let rig = Rig::new();
    let ino = rig.file("a");
    let mut plain = Vec::new();
    for (offset, len) in
        [(0, 10), (4095, 2), (4000, 9000), (100_000, 500_000), (1, 1), (131_072, 262_144)]
    {
        let data = pattern(offset as u64, len);
        plain.resize(plain.len().max(offset + len), 0);
        plain[offset..offset + len].copy_from_slice(&data);
        rig.write(ino, offset as u64, &data);
        assert_eq!(rig.stat(ino).size, plain.len() as u64);
        assert_eq!(rig.read(ino, 0, 1 << 20), plain);
    }
    rig.check();
    assert_eq!(rig.read(ino, 0, 1 << 20), plain);
    assert_eq!(rig.read(ino, 99_999, 7), plain[99_999..100_006]);
    assert!(rig.read(ino, plain.len() as u64, 7).is_empty());
    rig.volume.fsync(ino, true).unwrap();
    let after = rig.crash();
    let ino = after.find(ROOT_INODE, "a").unwrap();
    assert_eq!(after.read(ino, 0, 1 << 20), plain);
}

#[test]
fn small_writes_are_gathered_into_few_extents() {
    let rig = Rig::new();
    let ino = rig.file("a");
    for i in 0..64u64 {
        rig.write(ino, i * 1024, &pattern(i, 1024));
    }
    rig.check();
    assert!(rig.backing.count_items(kind::EXTENT) <= 4);
    assert_eq!(rig.stat(ino).blocks, 16 * 8);
}

#[test]
fn the_end_of_the_largest_file_can_be_written_and_no_byte_more() {
    let rig = Rig::new();
    let ino = rig.file("a");
    let last = i64::MAX as u64 - 1;
    rig.write(ino, last, b"x");
    assert_eq!(rig.stat(ino).size, i64::MAX as u64);
    assert_eq!(rig.volume.write(ino, last, b"xy", true), Err(VolumeError::TooLarge));
    assert_eq!(rig.volume.write(ino, u64::MAX, b"x", true), Err(VolumeError::TooLarge));
    rig.check();
    assert_eq!(rig.read(ino, last - 2, 100), [0, 0, b'x']);
    assert_eq!(rig.volume.lseek(ino, 0, Seek::Data), Ok(last & !4095));
    let set = SetAttr { size: Some(1 << 63), ..SetAttr::default() };
    assert_eq!(rig.volume.setattr(ino, &set, &USER), Err(VolumeError::TooLarge));
    truncate(&rig, ino, 0);
    rig.check();
    assert_eq!(rig.backing.count_items(kind::EXTENT), 0);
}

#[test]
fn bytes_beyond_a_truncation_read_as_zeros_when_the_file_grows_again() {
    let rig = Rig::new();
    let ino = rig.file("a");
    for drained in [false, true] {
        rig.write(ino, 0, &[9; 10_000]);
        if drained {
            rig.check();
        }
        truncate(&rig, ino, 5000);
        truncate(&rig, ino, 20_000);
        let mut want = vec![9; 5000];
        want.resize(20_000, 0);
        assert_eq!(rig.read(ino, 0, 30_000), want);
        rig.check();
        assert_eq!(rig.read(ino, 0, 30_000), want);
    }
}

#[test]
fn a_huge_truncation_goes_in_steps_and_is_finished_after_a_crash() {
    let rig = Rig::new();
    let ino = rig.file("a");
    // Every other block: one extent each.
    for i in 0..2500u64 {
        rig.write(ino, i * 8192, &[1; 4096]);
    }
    rig.check();
    assert_eq!(rig.backing.count_items(kind::EXTENT), 2500);
    truncate(&rig, ino, 4096);
    assert_eq!(rig.backing.count_items(kind::EXTENT), 1);
    assert_eq!(rig.backing.count_items(kind::TRUNCATE), 0);
    assert_eq!(rig.stat(ino).blocks, 8);
    rig.check();

    for i in 0..2500u64 {
        rig.write(ino, i * 8192, &[1; 4096]);
    }
    rig.check();
    // The first step alone reaches the disk: a crash in the middle.
    let inode = rig.volume.inode(ino).unwrap();
    rig.volume
        .edit(&[&inode], |txn, locked| {
            let item = locked.item(ino)?;
            item.size = 8192;
            crate::volume::extents::clear(txn, ino, item, 2, 1 << 40)?;
            txn.put(crate::volume::items::truncate_key(ino), &2u64.to_le_bytes())
        })
        .unwrap();
    rig.volume.sync().unwrap();
    let after = rig.crash();
    assert_eq!(after.backing.count_items(kind::TRUNCATE), 0);
    assert_eq!(after.backing.count_items(kind::EXTENT), 1);
    assert_eq!(after.stat(ino).blocks, 8);
    after.check();
}

#[test]
fn a_huge_deletion_goes_in_steps() {
    let rig = Rig::new();
    let ino = rig.file("a");
    for i in 0..2500u64 {
        rig.write(ino, i * 8192, &[1; 4096]);
    }
    rig.check();
    rig.volume.unlink(ROOT_INODE, b"a").unwrap();
    rig.volume.forget(ino, 1);
    assert_eq!(rig.backing.count_items(kind::EXTENT), 1500);
    let mut steps = 0;
    while rig.volume.background_step().unwrap() {
        steps += 1;
    }
    assert!(steps >= 1);
    assert_eq!(rig.backing.count_items(kind::EXTENT), 0);
    assert_eq!(rig.backing.count_items(kind::INODE), 1);
    assert_eq!(rig.volume.getattr(ino), Err(VolumeError::Stale));
    rig.check();
}

#[test]
fn punched_and_zeroed_ranges_read_as_zeros_and_give_their_space_back() {
    for drained in [false, true] {
        let rig = Rig::new();
        let ino = rig.file("a");
        let mut plain = pattern(3, 300_000);
        rig.write(ino, 0, &plain);
        if drained {
            rig.check();
        }
        let v = &rig.volume;
        v.fallocate(ino, 5000, 100_000, AllocateMode::PunchHole).unwrap();
        plain[5000..105_000].fill(0);
        v.fallocate(ino, 200_001, 5, AllocateMode::ZeroRangeKeepSize).unwrap();
        plain[200_001..200_006].fill(0);
        v.fallocate(ino, 299_000, 10_000, AllocateMode::ZeroRange).unwrap();
        plain.resize(309_000, 0);
        plain[299_000..].fill(0);
        v.fallocate(ino, 400_000, 10_000, AllocateMode::PunchHole).unwrap();
        v.fallocate(ino, 0, 500_000, AllocateMode::KeepSize).unwrap();
        assert_eq!(rig.read(ino, 0, 1 << 20), plain);
        v.fallocate(ino, 0, 310_000, AllocateMode::Plain).unwrap();
        plain.resize(310_000, 0);
        rig.check();
        assert_eq!(rig.read(ino, 0, 1 << 20), plain);
        assert!(rig.stat(ino).blocks * 512 < 220_000);
        assert_eq!(v.fallocate(ino, 0, 0, AllocateMode::Plain), Err(VolumeError::Invalid));
        let far = v.fallocate(ino, i64::MAX as u64, 2, AllocateMode::Plain);
        assert_eq!(far, Err(VolumeError::TooLarge));
        let much = v.fallocate(ino, 0, 1 << 40, AllocateMode::Plain);
        assert_eq!(much, Err(VolumeError::NoSpace));
    }
}

#[test]
fn seek_finds_data_and_holes_buffered_or_not() {
    let rig = Rig::new();
    let ino = rig.file("a");
    rig.write(ino, 8192, &[1; 4096]);
    rig.check();
    rig.write(ino, 12_288, &[1; 100]);
    rig.write(ino, 40_960, &[1; 100]);
    truncate(&rig, ino, 100_000);
    for _ in 0..2 {
        let seek = |offset, what| rig.volume.lseek(ino, offset, what);
        assert_eq!(seek(0, Seek::Data), Ok(8192));
        assert_eq!(seek(0, Seek::Hole), Ok(0));
        assert_eq!(seek(9000, Seek::Data), Ok(9000));
        assert_eq!(seek(9000, Seek::Hole), Ok(16_384));
        assert_eq!(seek(16_384, Seek::Data), Ok(40_960));
        assert_eq!(seek(40_961, Seek::Hole), Ok(45_056));
        assert_eq!(seek(45_056, Seek::Data), Err(VolumeError::NoSuchOffset));
        assert_eq!(seek(99_999, Seek::Hole), Ok(99_999));
        assert_eq!(seek(100_000, Seek::Hole), Err(VolumeError::NoSuchOffset));
        rig.check();
    }
}

#[test]
fn the_last_block_of_a_file_ends_its_data_at_its_size() {
    let rig = Rig::new();
    let ino = rig.file("a");
    rig.write(ino, 0, &[1; 5000]);
    assert_eq!(rig.volume.lseek(ino, 0, Seek::Hole), Ok(5000));
}

#[test]
fn copies_within_and_between_files_keep_bytes_and_holes() {
    let rig = Rig::new();
    let (a, b) = (rig.file("a"), rig.file("b"));
    let data = pattern(1, 50_000);
    rig.write(a, 1_000_000, &data);
    rig.write(b, 0, &vec![5; 1_100_000]);
    rig.check();
    let v = &rig.volume;
    assert_eq!(v.copy_file_range(a, 0, b, 3, u64::MAX), Ok(1_050_000));
    assert_eq!(rig.read(b, 0, 4), [5, 5, 5, 0]);
    assert_eq!(rig.read(b, 1_000_003, 50_000), data);
    assert_eq!(rig.read(b, 1_050_003, 2), [5, 5]);
    assert_eq!(v.lseek(b, 8192, Seek::Data), Ok(1_000_003 & !4095));
    assert_eq!(v.copy_file_range(a, 2_000_000, b, 0, 5), Ok(0));
    assert_eq!(v.copy_file_range(a, 1_000_000, a, 1_000_100, 200), Err(VolumeError::Invalid));
    assert_eq!(v.copy_file_range(a, 1_000_000, a, 0, 200), Ok(200));
    assert_eq!(rig.read(a, 0, 200), data[..200]);
    rig.check();
}

#[test]
fn what_is_not_a_regular_file_has_no_content() {
    let rig = Rig::new();
    let fifo = rig.volume.mknod(ROOT_INODE, b"p", 0o010_644, 0, &USER).unwrap().attr.ino;
    assert_eq!(rig.volume.write(fifo, 0, b"x", true), Err(VolumeError::Invalid));
    assert_eq!(rig.volume.write(ROOT_INODE, 0, b"x", true), Err(VolumeError::IsDirectory));
    let set = SetAttr { size: Some(0), ..SetAttr::default() };
    assert_eq!(rig.volume.setattr(ROOT_INODE, &set, &USER), Err(VolumeError::IsDirectory));
}
