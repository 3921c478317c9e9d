//! Names: links, renames, listings while names come and go.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::server::{Mount, Setup};

#[test]
fn renames_of_every_kind() {
    let mount = Mount::new(&Setup::default());
    let (a, b, c) = (mount.path("a"), mount.path("b"), mount.path("c"));
    fs::write(&a, b"a").unwrap();
    fs::write(&b, b"b").unwrap();
    let rename = |from: &std::path::Path, to: &std::path::Path, flags| {
        renameat2(AT_FDCWD, from, AT_FDCWD, to, flags)
    };
    let noreplace = rename(&a, &b, RenameFlags::RENAME_NOREPLACE);
    assert_eq!(noreplace, Err(nix::errno::Errno::EEXIST));
    rename(&a, &b, RenameFlags::RENAME_EXCHANGE).unwrap();
    assert_eq!((fs::read(&a).unwrap(), fs::read(&b).unwrap()), (b"b".to_vec(), b"a".to_vec()));
    rename(&a, &b, RenameFlags::empty()).unwrap();
    assert_eq!(fs::read(&b).unwrap(), b"b");
    assert!(!a.exists());
    fs::hard_link(&b, &c).unwrap();
    assert_eq!(fs::metadata(&c).unwrap().nlink(), 2);
    assert_eq!(fs::metadata(&c).unwrap().ino(), fs::metadata(&b).unwrap().ino());
}

#[test]
fn a_name_that_was_missing_is_seen_once_it_is_made() {
    let mount = Mount::new(&Setup::default());
    for i in 0..50 {
        let path = mount.path(&format!("f{i}"));
        assert!(!path.exists() && !path.exists());
        fs::write(&path, b"x").unwrap();
        assert!(path.exists());
        fs::remove_file(&path).unwrap();
        assert!(!path.exists());
    }
}

#[test]
fn names_of_255_bytes_and_odd_ones() {
    use std::os::unix::ffi::OsStrExt as _;
    let mount = Mount::new(&Setup::default());
    let long = "n".repeat(255);
    fs::write(mount.path(&long), b"x").unwrap();
    let error = fs::write(mount.path(&"n".repeat(256)), b"x").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENAMETOOLONG));
    let odd = std::ffi::OsStr::from_bytes(b"\xff\xfe\n ");
    fs::write(mount.dir().join(odd), b"x").unwrap();
    let names: HashSet<_> =
        fs::read_dir(mount.dir()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(names.contains(odd) && names.contains(std::ffi::OsStr::new(&long)));
}

/// 100,000 names, each seen exactly once although names already seen are deleted under way.
#[test]
fn a_large_directory_is_listed_while_it_is_emptied() {
    for options in ["", "no_readdirplus"] {
        let mount = Mount::new(&Setup { options, ..Setup::default() });
        let dir = mount.path("d");
        fs::create_dir(&dir).unwrap();
        let target = dir.join("target");
        fs::write(&target, b"x").unwrap();
        let count = 100_000;
        for i in 0..count {
            // Links are the fastest names to make.
            if i % 50_000 == 0 {
                fs::write(dir.join(format!("base{i}")), b"").unwrap();
            }
            fs::hard_link(
                dir.join(format!("base{}", i / 50_000 * 50_000)),
                dir.join(i.to_string()),
            )
            .unwrap();
        }
        let mut seen = HashSet::new();
        for entry in fs::read_dir(&dir).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(seen.insert(name.clone()), "{name} twice");
            fs::remove_file(dir.join(name)).unwrap();
        }
        assert_eq!(seen.len(), count + 3);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        fs::remove_dir(&dir).unwrap();
    }
}
