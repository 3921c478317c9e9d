//! A place where something is mounted, held by the directory that it lies in.
//!
//! A path can be made to lead elsewhere between a look at it and umount(2), by whoever owns a
//! directory above. So the directory that holds the mount point is opened once, with no symbolic
//! link in any component; from then on only a name in it counts, and the kernel lets nobody rename
//! or remove a name that something is mounted on.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, openat};
use nix::libc;
use nix::sys::stat::{Mode, fstatat};

use crate::sys::fuse_mount::{FuseMountError, Unmount, unmount_in};
use crate::sys::mount_point::{MountPointError, walk};
use crate::sys::mount_table::{self, MountEntry};

/// OPEN_TREE_CLONE of `linux/mount.h`.
const OPEN_TREE_CLONE: libc::c_uint = 1;

/// A directory, held open without access, and a name in it.
#[derive(Debug)]
pub struct MountedPlace {
    parent: OwnedFd,
    name: OsString,
    path: PathBuf,
}

/// Why a mount of the mount table was not unmounted.
#[derive(Debug, thiserror::Error)]
pub enum NotUnmounted {
    /// Its place cannot be found.
    #[error("{0}")]
    Place(#[from] MountPointError),
    /// Its path leads to something else now.
    #[error("something else lies at {} now", .0.display())]
    Elsewhere(PathBuf),
    /// The system refuses.
    #[error("{0}")]
    Refused(#[from] FuseMountError),
}

impl MountedPlace {
    /// Finds the directory that holds `path`, an absolute one. The last component is not looked at.
    ///
    /// # Errors
    /// [`MountPointError`]: something is missing or no directory, or a symbolic link is in the way.
    pub fn find(path: &Path) -> Result<Self, MountPointError> {
        let not_absolute = || MountPointError::NotAbsolute(path.to_owned());
        let name = path.file_name().ok_or_else(not_absolute)?.to_owned();
        let parent = walk(path.parent().ok_or_else(not_absolute)?)?;
        Ok(Self { parent, name, path: path.to_owned() })
    }

    /// The root of what lies uppermost there, or the plain directory; opened without access, and
    /// without a request to whoever serves it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(&self) -> io::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(openat(&self.parent, self.name.as_os_str(), flags, Mode::empty())?)
    }

    /// Who owns the directory beneath everything that is mounted there. Needs `CAP_SYS_ADMIN`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn covered_owner(&self) -> io::Result<u32> {
        let flags = OPEN_TREE_CLONE | (libc::O_CLOEXEC | libc::AT_EMPTY_PATH).unsigned_abs();
        // A copy of the directory's own mount, without what is mounted below it.
        // SAFETY: an empty path with AT_EMPTY_PATH means the descriptor itself, which is open; the
        // call takes no other pointer.
        let tree = unsafe {
            libc::syscall(libc::SYS_open_tree, self.parent.as_raw_fd(), c"".as_ptr(), flags)
        };
        let Ok(tree) = i32::try_from(tree).map(|fd| (fd >= 0).then_some(fd)) else {
            return Err(io::Error::other("open_tree(2) answered with no descriptor"));
        };
        let Some(tree) = tree else { return Err(io::Error::last_os_error()) };
        // SAFETY: the call has just returned this descriptor, which nobody else owns.
        let tree = unsafe { OwnedFd::from_raw_fd(tree) };
        Ok(fstatat(&tree, self.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?.st_uid)
    }

    /// Unmounts what lies uppermost there.
    ///
    /// # Errors
    /// [`FuseMountError`]
    pub fn unmount(&self, how: Unmount) -> Result<(), FuseMountError> {
        unmount_in(self.parent.as_fd(), &self.name, &self.path, how)
    }
}

/// Unmounts that very mount, if it still is what lies at its path. Blocks until dirty pages are
/// written: never from the process that serves the mount.
///
/// # Errors
/// [`NotUnmounted`]
pub fn unmount(entry: &MountEntry, how: Unmount) -> Result<(), NotUnmounted> {
    let place = MountedPlace::find(&entry.mount_point)?;
    let there = place.open().and_then(|root| mount_table::mount_of(root.as_fd()));
    match there {
        Ok(Some(there)) if there.id == entry.id && there.device == entry.device => {
            Ok(place.unmount(how)?)
        }
        _ => Err(NotUnmounted::Elsewhere(entry.mount_point.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::mount_table::mount_at;
    use nix::mount::{MntFlags, MsFlags, mount, umount2};

    fn mount_at_place(path: &Path) -> MountEntry {
        std::fs::create_dir_all(path).unwrap();
        mount(Some("x"), path, Some("tmpfs"), MsFlags::empty(), None::<&str>)
            .expect("tests run as root");
        mount_at(path).unwrap().unwrap()
    }

    #[test]
    fn a_mount_is_unmounted_by_its_number_and_not_by_what_its_path_leads_to() {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let at = |path: &str| dir.path().join(path);
        let ours = mount_at_place(&at("a/m"));
        let victim = mount_at_place(&at("victim/m"));
        // Between the look at the table and the call, somebody exchanges a directory above.
        std::fs::rename(at("a"), at("b")).unwrap();
        std::os::unix::fs::symlink(at("victim"), at("a")).unwrap();
        let refused = unmount(&ours, Unmount::Lazy).unwrap_err();
        assert!(
            matches!(&refused, NotUnmounted::Place(MountPointError::SymbolicLink(_))),
            "{refused}"
        );
        std::fs::remove_file(at("a")).unwrap();
        std::fs::rename(at("victim"), at("a")).unwrap();
        let refused = unmount(&ours, Unmount::Lazy).unwrap_err();
        assert!(matches!(&refused, NotUnmounted::Elsewhere(_)), "{refused}");
        let still_there = mount_at(&at("a/m")).unwrap().unwrap();
        assert_eq!((still_there.id, still_there.device), (victim.id, victim.device));
        for path in ["a/m", "b/m"] {
            unmount(&mount_at(&at(path)).unwrap().unwrap(), Unmount::Plain).unwrap();
            assert_eq!(mount_at(&at(path)).unwrap(), None);
        }
    }

    #[test]
    fn a_directory_that_is_held_is_found_whatever_its_name_is_by_now() {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let at = |path: &str| dir.path().join(path);
        std::fs::create_dir_all(at("a/m")).unwrap();
        std::os::unix::fs::chown(at("a/m"), Some(4711), None).unwrap();
        mount_at_place(&at("a/m"));
        let place = MountedPlace::find(&at("a/m")).unwrap();
        assert_eq!(place.covered_owner().unwrap(), 4711, "beneath the mount, which is root's");
        std::fs::rename(at("a"), at("b")).unwrap();
        mount_at_place(&at("a/m"));
        place.unmount(Unmount::Plain).unwrap();
        assert_eq!(mount_at(&at("b/m")).unwrap(), None);
        assert!(mount_at(&at("a/m")).unwrap().is_some(), "that of the old path was left alone");
        umount2(&at("a/m"), MntFlags::empty()).unwrap();
    }
}
