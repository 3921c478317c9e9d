//! A daemon of an ordinary user: mounted by fusermount3, without writeback cache, with the other
//! kind of barrier.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Mutex;

use crate::server::{Mount, Setup};

pub const USER: u32 = 65_534;

/// What the user does, in a shell of theirs: others, root too, may not enter their mount.
fn shell(mount: &Mount, script: &str) -> (bool, String) {
    let output = Command::new("setpriv")
        .args([format!("--reuid={USER}"), format!("--regid={USER}")])
        .args(["--clear-groups", "sh", "-c", script])
        .current_dir("/")
        .env("M", mount.dir())
        .output()
        .unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Where udev is not there, /dev/fuse is root's alone; with udev everybody may open it.
pub struct DeviceForAll {
    before: std::fs::Permissions,
    _one_at_a_time: std::sync::MutexGuard<'static, ()>,
}

impl DeviceForAll {
    pub fn begin() -> Self {
        static ONE: Mutex<()> = Mutex::new(());
        let guard = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let before = std::fs::metadata("/dev/fuse").unwrap().permissions();
        std::fs::set_permissions("/dev/fuse", PermissionsExt::from_mode(0o666)).unwrap();
        Self { before, _one_at_a_time: guard }
    }
}

impl Drop for DeviceForAll {
    fn drop(&mut self) {
        let _ = std::fs::set_permissions("/dev/fuse", self.before.clone());
    }
}

fn setup(options: &'static str) -> Setup {
    assert!(
        Command::new("fusermount3").arg("-V").output().is_ok(),
        "this test needs fusermount3 (package fuse3)"
    );
    Setup { options, user: Some(USER), ..Setup::default() }
}

#[test]
fn mounts_flushes_and_unmounts_without_any_privilege() {
    let _device = DeviceForAll::begin();
    let mut mount = Mount::new(&setup(""));
    assert_eq!(mount.refused(), None);
    assert_eq!(mount.ask("barrier"), "invalidate");
    let (done, inode) =
        shell(&mount, "printf hello > $M/f && cat $M/f >/dev/null && stat -c %i $M/f");
    assert!(done);
    // Without the writeback cache, what was written is with the daemon at once.
    assert_eq!(mount.content(inode.parse().unwrap()), b"hello");
    assert!(mount.settle().starts_with("ok"));
    assert_eq!(mount.ask("unmount plain"), "ok");
    assert_eq!(mount.ask("ended"), "true");
}

#[test]
fn fusermount_behind_our_back_is_noticed() {
    let _device = DeviceForAll::begin();
    let mut mount = Mount::new(&setup(""));
    assert!(shell(&mount, "fusermount3 -u $M").0);
    assert_eq!(mount.ask("wait-end"), "true");
}

#[test]
fn letting_others_in_needs_the_systems_consent_and_the_refusal_says_so() {
    if std::fs::read_to_string("/etc/fuse.conf")
        .is_ok_and(|conf| conf.lines().any(|line| line.trim() == "user_allow_other"))
    {
        return;
    }
    let _device = DeviceForAll::begin();
    let mount = Mount::new(&setup("allow_other"));
    let refused = mount.refused().expect("the mount must be refused");
    assert!(refused.contains("user_allow_other"), "{refused}");
}
