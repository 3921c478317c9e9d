//! The beginning and the end of a session, and what must not end it.

use std::fs::File;
use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use crate::server::{Mount, Setup};
use strongroom::sys::clock;

#[test]
fn a_busy_mount_is_not_unmounted_and_says_by_whom() {
    let mut mount = Mount::new(&Setup::default());
    let file = File::create(mount.path("f")).unwrap();
    let answer = mount.ask("unmount plain");
    let me = std::process::id().to_string();
    assert!(answer.contains("busy") && answer.contains(&me), "{answer}");
    assert_eq!(mount.ask("ended"), "false");
    drop(file);
    assert_eq!(mount.ask("unmount plain"), "ok");
    assert_eq!(mount.ask("ended"), "true");
}

#[test]
fn who_only_looks_at_a_mount_for_a_moment_does_not_keep_it() {
    let mut mount = Mount::new(&Setup::default());
    let (flags, mode) = (nix::fcntl::OFlag::O_PATH, nix::sys::stat::Mode::empty());
    let looked_at = nix::fcntl::open(&mount.dir(), flags, mode).unwrap();
    let looker = std::thread::spawn(move || {
        clock::sleep(Duration::from_millis(300));
        drop(looked_at);
    });
    assert_eq!(mount.ask("unmount plain"), "ok");
    looker.join().unwrap();
}

#[test]
fn the_end_is_noticed_however_it_comes() {
    for way in [&["umount"][..], &["umount", "-f", "-l"], &["umount", "-l"]] {
        let mut mount = Mount::new(&Setup::default());
        std::fs::write(mount.path("f"), b"x").unwrap();
        let (program, args) = way.split_first().unwrap();
        let done = Command::new(program).args(args).arg(mount.dir()).status().unwrap();
        assert!(done.success(), "{way:?}");
        assert_eq!(mount.ask("wait-end"), "true", "{way:?}");
    }
}

#[test]
fn an_aborted_connection_is_an_end_too() {
    let mut mount = Mount::new(&Setup::default());
    std::fs::write(mount.path("f"), b"x").unwrap();
    assert_eq!(mount.ask("abort"), "ok");
    assert_eq!(mount.ask("wait-end"), "true");
    let error = std::fs::read(mount.path("f")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
}

/// The kernel gives the number of a filesystem that is gone to the next: force used on the first
/// must not end the connection of the second, nor unmount it.
#[test]
fn force_on_what_is_gone_leaves_the_mount_alone_that_has_its_number_now() {
    for _ in 0..50 {
        let mut gone = Mount::new(&Setup::default());
        let number = gone.ask("device");
        let done = Command::new("umount").arg("-l").arg(gone.dir()).status().unwrap();
        assert!(done.success());
        let mut next = Mount::new(&Setup::default());
        if next.ask("device") != number {
            // Somebody else mounted something in between.
            continue;
        }
        let refused = gone.ask("abort");
        assert!(refused.starts_with("error"), "{refused}");
        assert_eq!(gone.ask("unmount forced"), "ok");
        std::fs::write(next.path("f"), b"x").unwrap();
        return;
    }
    panic!("no number was given again");
}

#[test]
fn force_ends_a_mount_in_use_and_flushes_first() {
    let mut mount = Mount::new(&Setup::default());
    let mut file = File::create(mount.path("f")).unwrap();
    let ino = std::os::unix::fs::MetadataExt::ino(&file.metadata().unwrap());
    file.write_all(b"kept").unwrap();
    assert_eq!(mount.ask("unmount forced"), "ok");
    assert_eq!(mount.content(ino), b"kept");
    assert!(file.write_all(b"more").and_then(|()| file.sync_all()).is_err());
}

#[test]
fn a_panic_in_a_handler_is_an_error_for_one_and_ends_changes_for_all() {
    let mut mount = Mount::new(&Setup::default());
    std::fs::write(mount.path("f"), b"before").unwrap();
    for _ in 0..40 {
        // More often than there are threads: none of them is lost.
        let error = File::open(mount.path("panic")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
    }
    assert_eq!(mount.ask("panics"), "40");
    assert_eq!(std::fs::read(mount.path("f")).unwrap(), b"before");
    let refused = std::fs::write(mount.path("g"), b"after").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
}

#[test]
fn what_the_kernel_looked_up_it_gives_back() {
    let mut mount = Mount::new(&Setup::default());
    for i in 0..300 {
        let name = format!("f{i}");
        std::fs::write(mount.path(&name), b"x").unwrap();
        std::fs::hard_link(mount.path(&name), mount.path(&format!("l{i}"))).unwrap();
        std::fs::create_dir(mount.path(&format!("d{i}"))).unwrap();
        std::os::unix::fs::symlink("f0", mount.path(&format!("s{i}"))).unwrap();
    }
    for _ in 0..3 {
        for entry in std::fs::read_dir(mount.dir()).unwrap() {
            let _ = entry.unwrap().metadata().unwrap();
        }
    }
    assert_ne!(mount.ask("looked-up"), "0");
    std::fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    let mut left = String::new();
    for _ in 0..100 {
        left = mount.ask("looked-up");
        if left == "0" {
            break;
        }
        clock::sleep(Duration::from_millis(50));
        let _ = std::fs::write("/proc/sys/vm/drop_caches", "2");
    }
    assert_eq!(left, "0");
}

#[test]
fn unknown_requests_do_not_end_it() {
    let mount = Mount::new(&Setup::default());
    let file = File::create(mount.path("f")).unwrap();
    // O_TMPFILE is an opcode that the transport does not know.
    let error = nix::fcntl::open(
        &mount.dir(),
        nix::fcntl::OFlag::O_TMPFILE | nix::fcntl::OFlag::O_RDWR,
        nix::sys::stat::Mode::S_IRUSR,
    )
    .unwrap_err();
    assert_eq!(error, nix::errno::Errno::EOPNOTSUPP);
    // An ioctl of other filesystems.
    let flags = Command::new("lsattr").arg(mount.path("f")).output();
    drop((file, flags));
    std::fs::write(mount.path("g"), b"still here").unwrap();
    assert_eq!(std::fs::read(mount.path("g")).unwrap(), b"still here");
}

#[test]
fn a_locked_mount_answers_so_and_opens_by_itself() {
    let mut mount = Mount::new(&Setup { locked: true, ..Setup::default() });
    for _ in 0..2 {
        let error = std::fs::read_dir(mount.dir()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOKEY));
        let error = std::fs::write(mount.path("f"), b"x").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOKEY));
    }
    assert_eq!(mount.settle(), "ok 0");
    assert_eq!(mount.ask("unlock"), "true");
    assert_eq!(mount.ask("unlock"), "false");
    std::fs::write(mount.path("f"), b"open").unwrap();
    assert_eq!(std::fs::read(mount.path("f")).unwrap(), b"open");
}
