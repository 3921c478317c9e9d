//! Files whose inodes rot, as programs meet them: listed, refused, deleted, and read whole again once
//! they are well.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use strongroom::sys::clock;

use crate::server::{Mount, Setup};

/// Neither the kernel nor the daemon remembers the file any more.
fn forgotten(mount: &mut Mount) {
    nix::unistd::syncfs(fs::File::open(mount.dir()).unwrap()).unwrap();
    let deadline = clock::monotonic() + Duration::from_secs(20);
    while mount.ask("looked-up") != "0" {
        assert!(clock::monotonic() < deadline, "the kernel holds on to inodes");
        fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        clock::sleep(Duration::from_millis(20));
    }
    // What the daemon has buffered goes into the tree.
    assert_eq!(mount.ask("rot 0"), "ok");
    for i in 0..500 {
        let other = mount.path(&format!("other{i}"));
        fs::write(&other, b"").unwrap();
        fs::remove_file(&other).unwrap();
    }
}

fn says(program: &str, path: &Path) -> (bool, String) {
    let output =
        Command::new(program).arg(path).stdin(std::process::Stdio::null()).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn is_io_error<T>(result: std::io::Result<T>) -> bool {
    result.err().and_then(|error| error.raw_os_error()) == Some(libc::EIO)
}

#[test]
fn a_file_whose_inode_rots_is_listed_and_deleted_and_read_whole_once_it_is_well() {
    for options in ["", "writethrough", "no_readdirplus"] {
        let mut mount = Mount::new(&Setup { options, cached_inodes: 64, ..Setup::default() });
        let dir = mount.path("d");
        fs::create_dir(&dir).unwrap();
        let (a, b) = (dir.join("a"), dir.join("b"));
        fs::write(&a, vec![7; 10_000]).unwrap();
        fs::write(&b, b"sound").unwrap();
        let ino = fs::metadata(&a).unwrap().ino();
        forgotten(&mut mount);
        assert_eq!(mount.ask(&format!("rot {ino}")), "ok");

        let mut names: Vec<_> =
            fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["a", "b"]);
        let meta = fs::symlink_metadata(&a).unwrap();
        assert!(meta.is_file() && meta.ino() != ino, "{meta:?}");
        let (perm, times) = (meta.permissions().mode() & 0o7777, (meta.mtime(), meta.uid()));
        assert_eq!((perm, meta.size(), meta.nlink(), times), (0, 0, 1, (0, 0)));
        assert_eq!(fs::read(&b).unwrap(), b"sound");
        assert!(is_io_error(fs::read(&a)));
        assert!(is_io_error(fs::set_permissions(&a, PermissionsExt::from_mode(0o644))));
        assert!(is_io_error(fs::hard_link(&a, dir.join("c"))));
        assert!(is_io_error(fs::rename(&a, dir.join("c"))));

        // The kernel has seen an empty file, and must not go on to believe that it is one.
        assert_eq!(mount.ask("rot 0"), "ok");
        assert_eq!(fs::read(&a).unwrap(), [7; 10_000]);
        assert_eq!(fs::metadata(&a).unwrap().ino(), ino);

        forgotten(&mut mount);
        assert_eq!(mount.ask(&format!("rot {ino}")), "ok");
        // It says that the attributes beyond those cannot be had, and goes on.
        let listed = Command::new("ls").arg("-l").arg(&dir).output().unwrap();
        let lines = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(listed.status.success() && lines.contains("---------- 1 root root 0 "), "{lines}");
        assert_eq!(says("rm", &a), (true, String::new()));
        assert!(!a.exists());
        fs::write(&a, b"new").unwrap();
        assert_eq!(fs::read(&a).unwrap(), b"new");
        assert!(!says("rmdir", &dir).0);
        fs::remove_dir_all(&dir).unwrap();
    }
}

#[test]
fn a_file_that_programs_know_is_deleted_or_replaced_though_its_inode_rots() {
    let mut mount = Mount::new(&Setup::default());
    let (a, b, new) = (mount.path("a"), mount.path("b"), mount.path("new"));
    for path in [&a, &b, &new] {
        fs::write(path, path.to_string_lossy().as_bytes()).unwrap();
    }
    assert_eq!(mount.ask(&format!("rot {}", fs::metadata(&a).unwrap().ino())), "ok");
    fs::remove_file(&a).unwrap();
    assert_eq!(mount.ask(&format!("rot {}", fs::metadata(&b).unwrap().ino())), "ok");
    fs::rename(&new, &b).unwrap();
    assert_eq!(fs::read(&b).unwrap(), new.to_string_lossy().as_bytes());
    assert_eq!(fs::read_dir(mount.dir()).unwrap().count(), 1);
}
