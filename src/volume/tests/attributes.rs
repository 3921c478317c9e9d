//! Attributes: times, owners, set-ID bits, extended attributes, ACLs.

use super::{ROOT, Rig, USER};
use crate::base::units::InodeNo;
use crate::volume::items::kind;
use crate::volume::{
    AllocateMode, Caller, FileTime, ROOT_INODE, SetAttr, TimeSet, VolumeError, XattrMode,
};

const SET: SetAttr =
    SetAttr { mode: None, uid: None, gid: None, size: None, atime: None, mtime: None, ctime: None };

fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&perm.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

const NONE: u32 = u32::MAX;

fn set(rig: &Rig, ino: InodeNo, name: &str, value: &[u8]) -> Result<(), VolumeError> {
    rig.volume.setxattr(ino, name.as_bytes(), value, XattrMode::Set, &ROOT)
}

#[test]
fn times_before_1970_and_far_ahead_are_kept_to_the_nanosecond() {
    let rig = Rig::new();
    let ino = rig.file("a");
    let (old, far) = (FileTime { secs: -5, nanos: 1 }, FileTime { secs: 1 << 40, nanos: 999 });
    let times = SetAttr { atime: Some(TimeSet::At(old)), mtime: Some(TimeSet::At(far)), ..SET };
    let attr = rig.volume.setattr(ino, &times, &USER).unwrap();
    assert_eq!((attr.atime, attr.mtime), (old, far));
    assert!(attr.ctime >= attr.btime);
    rig.volume.fsync(ino, false).unwrap();
    let after = rig.crash();
    assert_eq!((after.stat(ino).atime, after.stat(ino).mtime), (old, far));
    let ctime = SetAttr { ctime: Some(old), ..SET };
    assert_eq!(rig.volume.setattr(ino, &ctime, &USER).unwrap().ctime, old);
}

#[test]
fn what_is_set_to_the_time_of_one_call_is_one_time() {
    let rig = Rig::new();
    let ino = rig.file("a");
    let now = Some(TimeSet::Now);
    let touched = SetAttr { atime: now, mtime: now, ..SET };
    let attr = rig.volume.setattr(ino, &touched, &USER).unwrap();
    assert!(attr.atime == attr.mtime && attr.mtime == attr.ctime);
    // A kernel that keeps times of its own says which.
    let kernel = FileTime { secs: 7, nanos: 4_000_000 };
    let touched = SetAttr { atime: now, ctime: Some(kernel), ..SET };
    let attr = rig.volume.setattr(ino, &touched, &USER).unwrap();
    assert_eq!((attr.atime, attr.ctime), (kernel, kernel));
    let cut = SetAttr { size: Some(1), ..SET };
    let attr = rig.volume.setattr(ino, &cut, &USER).unwrap();
    assert_eq!(attr.mtime, attr.ctime);
}

#[test]
fn whatever_changes_content_or_owner_takes_set_id_bits_and_capabilities_away() {
    let rig = Rig::new();
    let ino = rig.file("a");
    rig.write(ino, 0, b"hello");
    let v = &rig.volume;
    let arm = || {
        v.setattr(ino, &SetAttr { mode: Some(0o6755), ..SET }, &ROOT).unwrap();
        set(&rig, ino, "security.capability", b"caps").unwrap();
        assert_eq!(v.is_privileged(ino), Ok(true));
    };
    let disarmed = |what: &str| {
        assert_eq!(rig.stat(ino).perm, 0o755, "{what}");
        assert_eq!(v.getxattr(ino, b"security.capability"), Err(VolumeError::NoData), "{what}");
        assert_eq!(v.is_privileged(ino), Ok(false));
    };
    arm();
    v.write(ino, 0, b"x", true).unwrap();
    assert_eq!(rig.stat(ino).perm, 0o6755);
    v.write(ino, 0, b"x", false).unwrap();
    disarmed("write");
    arm();
    v.setattr(ino, &SetAttr { size: Some(1), ..SET }, &USER).unwrap();
    disarmed("truncate");
    arm();
    v.setattr(ino, &SetAttr { gid: Some(7), ..SET }, &ROOT).unwrap();
    disarmed("chown");
    arm();
    v.fallocate(ino, 0, 10, AllocateMode::PunchHole).unwrap();
    disarmed("fallocate");
    arm();
    let source = rig.file("b");
    rig.write(source, 0, b"data");
    v.copy_file_range(source, 0, ino, 0, 4).unwrap();
    disarmed("copy");
    // Mandatory locking, not privilege: set-group-ID without group execute stays.
    v.setattr(ino, &SetAttr { mode: Some(0o2644), ..SET }, &ROOT).unwrap();
    v.write(ino, 0, b"x", false).unwrap();
    assert_eq!(rig.stat(ino).perm, 0o2644);
}

#[test]
fn a_set_group_id_directory_hands_its_group_down() {
    let rig = Rig::new();
    let dir = rig.dir(ROOT_INODE, "d");
    rig.volume.setattr(dir, &SetAttr { gid: Some(50), mode: Some(0o2775), ..SET }, &ROOT).unwrap();
    let file = rig.volume.mknod(dir, b"f", 0o644, 0, &USER).unwrap().attr;
    let sub = rig.volume.mkdir(dir, b"s", 0o755, &USER).unwrap().attr;
    assert_eq!((file.gid, sub.gid, sub.perm), (50, 50, 0o2755));
}

#[test]
fn extended_attributes_are_set_listed_replaced_and_removed() {
    let rig = Rig::new();
    let ino = rig.file("a");
    let v = &rig.volume;
    let big = vec![7u8; 65_536];
    set(&rig, ino, "user.empty", b"").unwrap();
    set(&rig, ino, "user.big", &big).unwrap();
    set(&rig, ino, "trusted.x", b"1").unwrap();
    assert_eq!(v.getxattr(ino, b"user.big").unwrap(), big);
    assert_eq!(v.getxattr(ino, b"user.empty").unwrap(), b"");
    let mut names: Vec<Vec<u8>> =
        v.listxattr(ino).unwrap().split(|b| *b == 0).map(<[u8]>::to_vec).collect();
    names.sort();
    assert_eq!(names, [&b""[..], b"trusted.x", b"user.big", b"user.empty"]);
    set(&rig, ino, "user.big", b"small").unwrap();
    assert_eq!(v.getxattr(ino, b"user.big").unwrap(), b"small");
    assert_eq!(rig.backing.count_items(kind::XATTR), 3);
    let mode = |name: &[u8], mode| v.setxattr(ino, name, b"v", mode, &USER);
    assert_eq!(mode(b"user.big", XattrMode::Create), Err(VolumeError::Exists));
    assert_eq!(mode(b"user.new", XattrMode::Replace), Err(VolumeError::NoData));
    assert_eq!(v.getxattr(ino, b"user.none"), Err(VolumeError::NoData));
    assert_eq!(set(&rig, ino, "user.", b""), Err(VolumeError::NotSupported));
    assert_eq!(set(&rig, ino, "system.other", b""), Err(VolumeError::NotSupported));
    let long = vec![0; 65_537];
    assert_eq!(set(&rig, ino, "user.long", &long), Err(VolumeError::AttributeTooLarge));
    for name in [&b"user.big"[..], b"user.empty", b"trusted.x"] {
        v.removexattr(ino, name).unwrap();
        assert_eq!(v.removexattr(ino, name), Err(VolumeError::NoData));
    }
    assert_eq!(v.listxattr(ino).unwrap(), b"");
    assert_eq!(rig.backing.count_items(kind::XATTR), 0);
    set(&rig, ino, "user.a", &big).unwrap();
    v.unlink(ROOT_INODE, b"a").unwrap();
    v.forget(ino, 1);
    assert_eq!(rig.backing.count_items(kind::XATTR), 0);
}

#[test]
fn an_access_acl_and_the_mode_follow_each_other() {
    let rig = Rig::new();
    let ino = rig.file("a");
    let v = &rig.volume;
    let full = acl(&[(1, 6, NONE), (2, 7, 33), (4, 4, NONE), (0x10, 5, NONE), (0x20, 0, NONE)]);
    set(&rig, ino, "system.posix_acl_access", &full).unwrap();
    assert_eq!(rig.stat(ino).perm, 0o650);
    v.setattr(ino, &SetAttr { mode: Some(0o604), ..SET }, &USER).unwrap();
    let masked = acl(&[(1, 6, NONE), (2, 7, 33), (4, 4, NONE), (0x10, 0, NONE), (0x20, 4, NONE)]);
    assert_eq!(v.getxattr(ino, b"system.posix_acl_access").unwrap(), masked);
    // One that a mode can say is not stored.
    let minimal = acl(&[(1, 7, NONE), (4, 5, NONE), (0x20, 1, NONE)]);
    set(&rig, ino, "system.posix_acl_access", &minimal).unwrap();
    assert_eq!(rig.stat(ino).perm, 0o751);
    assert_eq!(v.getxattr(ino, b"system.posix_acl_access"), Err(VolumeError::NoData));
    for bad in [
        acl(&[(1, 7, NONE), (4, 5, NONE)]),
        acl(&[(1, 7, NONE), (2, 7, 5), (4, 5, NONE), (0x20, 1, NONE)]),
        acl(&[(4, 7, NONE), (1, 5, NONE), (0x20, 1, NONE)]),
        acl(&[(1, 8, NONE), (4, 5, NONE), (0x20, 1, NONE)]),
        acl(&[(1, 7, NONE), (2, 1, 5), (2, 7, 5), (4, 5, NONE), (0x10, 5, NONE), (0x20, 1, NONE)]),
        vec![1, 0, 0, 0],
        vec![2, 0, 0, 0, 1],
    ] {
        assert_eq!(set(&rig, ino, "system.posix_acl_access", &bad), Err(VolumeError::Invalid));
    }
    assert_eq!(set(&rig, ino, "system.posix_acl_default", &full), Err(VolumeError::Perm));
}

#[test]
fn an_outsiders_acl_takes_the_set_group_id_bit_away() {
    let rig = Rig::new();
    let ino = rig.file("a");
    rig.volume.setattr(ino, &SetAttr { gid: Some(7), mode: Some(0o2710), ..SET }, &ROOT).unwrap();
    let minimal = acl(&[(1, 7, NONE), (4, 1, NONE), (0x20, 0, NONE)]);
    rig.volume.setxattr(ino, b"system.posix_acl_access", &minimal, XattrMode::Set, &USER).unwrap();
    assert_eq!(rig.stat(ino).perm, 0o710);
}

#[test]
fn a_default_acl_beats_the_umask_and_is_handed_down() {
    let rig = Rig::new();
    let dir = rig.dir(ROOT_INODE, "d");
    let default = acl(&[(1, 7, NONE), (2, 7, 33), (4, 7, NONE), (0x10, 7, NONE), (0x20, 5, NONE)]);
    set(&rig, dir, "system.posix_acl_default", &default).unwrap();
    let caller = Caller { umask: 0o077, ..USER };
    let v = &rig.volume;
    let file = v.mknod(dir, b"f", 0o664, 0, &caller).unwrap().attr;
    assert_eq!(file.perm, 0o664);
    let want = acl(&[(1, 6, NONE), (2, 7, 33), (4, 7, NONE), (0x10, 6, NONE), (0x20, 4, NONE)]);
    assert_eq!(v.getxattr(file.ino, b"system.posix_acl_access").unwrap(), want);
    let sub = v.mkdir(dir, b"s", 0o755, &caller).unwrap().attr;
    assert_eq!(sub.perm, 0o755);
    assert_eq!(v.getxattr(sub.ino, b"system.posix_acl_default").unwrap(), default);
    let link = v.symlink(dir, b"l", b"t", &caller).unwrap().attr;
    assert_eq!(v.getxattr(link.ino, b"system.posix_acl_access"), Err(VolumeError::NoData));
    // Without a default ACL the umask holds.
    v.removexattr(dir, b"system.posix_acl_default").unwrap();
    assert_eq!(v.mknod(dir, b"g", 0o664, 0, &caller).unwrap().attr.perm, 0o600);
}
