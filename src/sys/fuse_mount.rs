//! Mounting and unmounting a FUSE filesystem: `/dev/fuse` and mount(2) for root, `fusermount3`
//! for everybody else.
//!
//! Unmounting writes the kernel's dirty pages through the daemon that serves the mount. A thread
//! of that daemon inside umount(2) waits for its own process, and a SIGKILL then leaves it for
//! ever in state D: so [`unmount`] is called by a process of its own, without a copy of the
//! `/dev/fuse` descriptor, never by the daemon.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair,
};
use nix::sys::stat::Mode;

use crate::sys::mount_point::MountPoint;
use crate::sys::mount_table::{self, DeviceNumber, FS_TYPE};

const DEV_FUSE: &str = "/dev/fuse";

/// Why a filesystem could not be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
pub enum FuseMountError {
    /// `/dev/fuse` is not there: no FUSE in this kernel, or a container without the device.
    #[error("/dev/fuse is not there (load the module 'fuse', or give the container the device)")]
    NoDevice,
    /// `/dev/fuse` cannot be opened.
    #[error("/dev/fuse cannot be opened: {0}")]
    Device(#[source] io::Error),
    /// mount(2) refused.
    #[error("the system refuses to mount on {}: {source}", path.display())]
    Mount {
        /// The mount point.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The mount succeeded but is not in the mount table: it went into another mount namespace.
    #[error("{} does not show in the mount table after mounting", .0.display())]
    NotVisible(PathBuf),
    /// An ordinary user needs `fusermount3`, and it is not installed.
    #[error("fusermount3 is not installed (package fuse3); an ordinary user cannot mount without")]
    NoFusermount,
    /// `fusermount3` refused; what it said, on one line.
    #[error("fusermount3 refuses {}: {said}", path.display())]
    Fusermount {
        /// The mount point.
        path: PathBuf,
        /// Its message.
        said: String,
    },
    /// Files are open, or a process works in the directory.
    #[error("{} is busy", .0.display())]
    Busy(PathBuf),
    /// umount(2) refused.
    #[error("the system refuses to unmount {}: {source}", path.display())]
    Unmount {
        /// The mount point.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// What the kernel is told at mount time. Permissions are always checked by the kernel
/// (`default_permissions`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountRequest {
    /// First column of `/proc/mounts`.
    pub source: String,
    /// Users other than the one who mounts may use it.
    pub allow_other: bool,
    /// Writing is refused by the kernel.
    pub read_only: bool,
    /// Set-user-id bits and file capabilities have no effect.
    pub nosuid: bool,
    /// Device nodes cannot be opened.
    pub nodev: bool,
    /// Programs cannot be run.
    pub noexec: bool,
    /// No access times.
    pub noatime: bool,
}

/// A mounted filesystem that waits for its session: the kernel has queued its first request.
#[derive(Debug)]
pub struct Mounted {
    /// The descriptor over which requests come. Closed on exec.
    pub fd: OwnedFd,
    /// Names the filesystem in the mount table and below `/sys`.
    pub device: DeviceNumber,
}

/// Mounts on a directory that passed its checks.
///
/// # Errors
/// [`FuseMountError`]
pub fn mount_fuse(point: &MountPoint, request: &MountRequest) -> Result<Mounted, FuseMountError> {
    let not_visible = || FuseMountError::NotVisible(point.path().to_owned());
    // Whole entries: the number of a mount that goes meanwhile, anybody's, is given to ours.
    let before = mount_table::mounts().map_err(|_| not_visible())?;
    let fd = if nix::unistd::geteuid().is_root() {
        mount_as_root(point, request)?
    } else {
        mount_by_fusermount(point.path(), request)?
    };
    // Somebody may have renamed a directory above it by now.
    let path = std::fs::read_link(point.magic_path()).map_err(|_| not_visible())?;
    match mount_table::mount_at(&path) {
        Ok(Some(entry)) if entry.fs_type == FS_TYPE && !before.contains(&entry) => {
            Ok(Mounted { fd, device: entry.device })
        }
        _ => Err(not_visible()),
    }
}

fn mount_as_root(point: &MountPoint, request: &MountRequest) -> Result<OwnedFd, FuseMountError> {
    let fd = nix::fcntl::open(DEV_FUSE, OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).map_err(
        |e| match e {
            Errno::ENOENT | Errno::ENXIO | Errno::ENODEV => FuseMountError::NoDevice,
            other => FuseMountError::Device(other.into()),
        },
    )?;
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        fd.as_raw_fd(),
        nix::unistd::geteuid(),
        nix::unistd::getegid(),
    );
    if request.allow_other {
        data.push_str(",allow_other");
    }
    mount(
        Some(request.source.as_str()),
        &point.magic_path(),
        Some(FS_TYPE),
        kernel_flags(request),
        Some(data.as_str()),
    )
    .map_err(|e| FuseMountError::Mount { path: point.path().to_owned(), source: e.into() })?;
    Ok(fd)
}

fn kernel_flags(request: &MountRequest) -> MsFlags {
    let mut flags = MsFlags::empty();
    flags.set(MsFlags::MS_RDONLY, request.read_only);
    flags.set(MsFlags::MS_NOSUID, request.nosuid);
    flags.set(MsFlags::MS_NODEV, request.nodev);
    flags.set(MsFlags::MS_NOEXEC, request.noexec);
    flags.set(MsFlags::MS_NOATIME, request.noatime);
    flags
}

/// The same in the words of `fusermount3`, which separates options by commas.
fn fusermount_options(request: &MountRequest) -> String {
    let source = request.source.replace('\\', "\\\\").replace(',', "\\,");
    let mut options = format!("fsname={source},subtype=strongroom,default_permissions");
    for (wanted, option) in [
        (true, if request.read_only { "ro" } else { "rw" }),
        (request.allow_other, "allow_other"),
        (request.nosuid, "nosuid"),
        (request.nodev, "nodev"),
        (request.noexec, "noexec"),
        (request.noatime, "noatime"),
    ] {
        if wanted {
            options.push(',');
            options.push_str(option);
        }
    }
    options
}

fn mount_by_fusermount(path: &Path, request: &MountRequest) -> Result<OwnedFd, FuseMountError> {
    let failed = |source: io::Error| FuseMountError::Mount { path: path.to_owned(), source };
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
            .map_err(|e| failed(e.into()))?;
    let number: RawFd = theirs.as_raw_fd();
    let mut command = Command::new("fusermount3");
    command
        .args(["-o", &fusermount_options(request), "--"])
        .arg(path)
        .env("_FUSE_COMMFD", number.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    // SAFETY: between fork and exec the closure makes one fcntl(2) call on a plain number, which
    // is async-signal-safe and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            if libc::fcntl(number, libc::F_SETFD, 0) == -1 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let child = command.spawn().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => FuseMountError::NoFusermount,
        _ => failed(e),
    })?;
    drop(theirs);
    let received = receive_descriptor(&ours);
    let output = child.wait_with_output().map_err(failed)?;
    match received {
        Ok(Some(fd)) if output.status.success() => Ok(fd),
        Err(e) if output.status.success() => Err(failed(e)),
        _ => Err(FuseMountError::Fusermount {
            path: path.to_owned(),
            said: one_line(&output.stderr),
        }),
    }
}

/// The descriptor that `fusermount3` sends over its socket; none where it ended without one.
fn receive_descriptor(socket: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0u8; 1];
    let mut space = nix::cmsg_space!(RawFd);
    let mut iov = [io::IoSliceMut::new(&mut byte)];
    let message =
        recvmsg::<()>(socket.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control
            && let Some(raw) = fds.first()
        {
            // SAFETY: the kernel has just put this descriptor into our table for this message
            // alone; nobody else knows its number, and it is closed once, by its owner here.
            let fd = unsafe { OwnedFd::from_raw_fd(*raw) };
            fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
            return Ok(Some(fd));
        }
    }
    Ok(None)
}

fn one_line(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
    lines.collect::<Vec<_>>().join("; ")
}

/// Whether the connection behind a `/dev/fuse` descriptor has ended: unmounted or aborted. Looks,
/// and does not wait.
#[must_use]
pub fn connection_ended(connection: BorrowedFd<'_>) -> bool {
    let mut wanted = [PollFd::new(connection, PollFlags::empty())];
    match poll(&mut wanted, PollTimeout::ZERO) {
        Ok(0) | Err(_) => false,
        Ok(_) => wanted[0]
            .revents()
            .is_some_and(|e| e.intersects(PollFlags::POLLERR | PollFlags::POLLHUP)),
    }
}

/// How to unmount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmount {
    /// Only if nobody uses it; dirty pages are written first.
    Plain,
    /// Out of the tree at once; the filesystem goes when its last user does.
    Lazy,
    /// Out of the tree at once, and every request fails: dirty pages that the kernel still has
    /// are lost. For an ordinary user the same as `Lazy`.
    Forced,
}

/// Unmounts what lies on `name` in the directory behind `parent`, whatever leads there now; `path`
/// is its name for people, and for `fusermount3`, which unmounts for an ordinary user what that
/// user mounted and nothing else. Blocks until dirty pages are written (see the module's page:
/// never from the process that serves the mount).
///
/// # Errors
/// [`FuseMountError::Busy`], [`FuseMountError::Unmount`], [`FuseMountError::Fusermount`].
pub(in crate::sys) fn unmount_in(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    path: &Path,
    how: Unmount,
) -> Result<(), FuseMountError> {
    if !nix::unistd::geteuid().is_root() {
        return unmount_by_fusermount(path, how);
    }
    // umount(2) knows no descriptors, and one of the mount itself would keep it busy.
    let place = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name);
    let flags = match how {
        Unmount::Plain => MntFlags::empty(),
        Unmount::Lazy => MntFlags::MNT_DETACH,
        Unmount::Forced => MntFlags::MNT_FORCE | MntFlags::MNT_DETACH,
    };
    umount2(&place, flags | MntFlags::UMOUNT_NOFOLLOW).map_err(|e| match e {
        Errno::EBUSY => FuseMountError::Busy(path.to_owned()),
        other => FuseMountError::Unmount { path: path.to_owned(), source: other.into() },
    })
}

fn unmount_by_fusermount(path: &Path, how: Unmount) -> Result<(), FuseMountError> {
    let mut command = Command::new("fusermount3");
    command.arg("-u");
    if how != Unmount::Plain {
        command.arg("-z");
    }
    command.arg("--").arg(path).env("LC_ALL", "C").stdin(Stdio::null());
    let output = command.output().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => FuseMountError::NoFusermount,
        _ => FuseMountError::Unmount { path: path.to_owned(), source: e },
    })?;
    let said = one_line(&output.stderr);
    if output.status.success() {
        Ok(())
    } else if said.contains("busy") {
        Err(FuseMountError::Busy(path.to_owned()))
    } else {
        Err(FuseMountError::Fusermount { path: path.to_owned(), said })
    }
}

/// Whether the daemon behind the mount whose root `root` is (opened without access) is gone. Asks
/// that daemon, so never to be called for a mount that this process serves.
#[must_use]
pub fn is_dead(root: BorrowedFd<'_>) -> bool {
    forced_status(root).is_err_and(|e| e.raw_os_error() == Some(libc::ENOTCONN))
}

fn forced_status(root: BorrowedFd<'_>) -> io::Result<()> {
    let mut status = std::mem::MaybeUninit::<libc::statx>::uninit();
    // SAFETY: an empty path with AT_EMPTY_PATH means the descriptor itself, which is open for the
    // whole call; the buffer is a whole `statx`, which the kernel fills or leaves alone; it is not
    // read here.
    let result = unsafe {
        libc::statx(
            root.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_STATX_FORCE_SYNC,
            libc::STATX_BASIC_STATS,
            status.as_mut_ptr(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    use crate::sys::mount_point::{Cleared, MountPointError, MountPointRules, clear_dead};
    use crate::sys::mounted_place::MountedPlace;

    fn request() -> MountRequest {
        MountRequest {
            source: "strongroom:a,b".to_owned(),
            allow_other: true,
            read_only: true,
            nosuid: true,
            nodev: true,
            noexec: false,
            noatime: false,
        }
    }

    #[test]
    fn both_ways_of_mounting_say_the_same() {
        assert_eq!(
            fusermount_options(&request()),
            "fsname=strongroom:a\\,b,subtype=strongroom,default_permissions,ro,allow_other,nosuid,nodev"
        );
        assert_eq!(
            kernel_flags(&request()),
            MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV
        );
    }

    #[test]
    fn messages_become_one_line() {
        assert_eq!(one_line(b"fusermount3: a\n\n  b \n"), "fusermount3: a; b");
    }

    /// A mount whose descriptor is closed is dead: it is seen as such, and taken away by the
    /// checks of the next mount there.
    #[test]
    fn a_dead_mount_is_found_and_cleaned() {
        assert!(Path::new(DEV_FUSE).exists(), "this test needs /dev/fuse");
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let path = dir.path().join("m");
        std::fs::create_dir(&path).unwrap();
        let rules = MountPointRules { caller_uid: 0, forbidden: &[], own: &[] };
        let point = MountPoint::open(&path, &rules).unwrap();
        let mounted = mount_fuse(&point, &request()).unwrap();
        assert!(mount_table::is_mounted(mounted.device).unwrap());
        drop(mounted);
        let place = MountedPlace::find(&path).unwrap();
        assert!(is_dead(place.open().unwrap().as_fd()));
        // Not for whoever has no right to the directory beneath.
        let (somebody, other) = (4711, 4712);
        let refused =
            MountPoint::open(&path, &MountPointRules { caller_uid: other, ..rules.clone() });
        assert!(
            matches!(refused, Err(MountPointError::NotOwner { owner: 0, caller, .. }) if caller == other)
        );
        assert!(mount_table::mount_at(&path).unwrap().is_some(), "it was left alone");
        let again = MountPoint::open(&path, &rules).unwrap();
        assert!(mount_table::mount_at(&path).unwrap().is_none());
        assert_eq!(clear_dead(&path, &rules).unwrap(), Cleared::Nothing);
        let alive = mount_fuse(&again, &request()).unwrap();
        let own = MountPointRules { own: &[alive.device], ..rules.clone() };
        assert_eq!(clear_dead(&path, &own).unwrap(), Cleared::Alive);
        drop((alive, again));
        assert_eq!(clear_dead(&path, &rules).unwrap(), Cleared::Dead);
        assert!(!is_dead(place.open().unwrap().as_fd()));
        // Its owner may.
        std::os::unix::fs::chown(&path, Some(somebody), None).unwrap();
        let owner = MountPointRules { caller_uid: somebody, ..rules };
        drop(mount_fuse(&MountPoint::open(&path, &owner).unwrap(), &request()).unwrap());
        drop(MountPoint::open(&path, &owner).unwrap());
        assert!(mount_table::mount_at(&path).unwrap().is_none());
    }
}
