//! Checks of the directory that something is to be mounted on.
//!
//! The directory is opened once, component by component, with no symbolic link in any of them;
//! all checks and the mount itself go through that descriptor, so that nobody can exchange the
//! directory between check and mount.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstat};

use crate::sys::fuse_mount::{self, Unmount};
use crate::sys::mount_table::{self, DeviceNumber, FS_TYPE, MountEntry, mounts};
use crate::sys::mounted_place::MountedPlace;
use crate::sys::{clock, threads};

/// Why a directory cannot be mounted on.
#[derive(Debug, thiserror::Error)]
pub enum MountPointError {
    /// The path is relative or holds `.` or `..`.
    #[error("the mount point {} is not an absolute path without '.' and '..'", .0.display())]
    NotAbsolute(PathBuf),
    /// There is nothing of that name.
    #[error("the mount point {} does not exist", .0.display())]
    Missing(PathBuf),
    /// It, or a component above it, is something else.
    #[error("{} is not a directory", .0.display())]
    NotDirectory(PathBuf),
    /// It, or a component above it, is a symbolic link.
    #[error("{} is a symbolic link; name the directory that it leads to", .0.display())]
    SymbolicLink(PathBuf),
    /// The directory has entries, which the mount would hide.
    #[error("the mount point {} is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// The directory belongs to somebody else.
    #[error("the mount point {} belongs to user {owner}, not to user {caller}", path.display())]
    NotOwner {
        /// The mount point.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who asked.
        caller: u32,
    },
    /// Something is mounted there.
    #[error("{} is a mount point already ({what})", path.display())]
    AlreadyMounted {
        /// The mount point.
        path: PathBuf,
        /// Type of what is mounted, such as `ext4`.
        what: String,
    },
    /// The directory lies where nothing may be mounted: in the pool, or on one of its mounts.
    #[error("the mount point {} lies in {}", path.display(), within.display())]
    Forbidden {
        /// The mount point.
        path: PathBuf,
        /// The pool's directory, or the mount.
        within: PathBuf,
    },
    /// The system refuses.
    #[error("the mount point {} cannot be opened: {source}", path.display())]
    Io {
        /// The path that was tried.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl MountPointError {
    /// What to do about it, where there is one thing to do that the line does not say.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotAbsolute(_) => "write the whole path, from / on".to_owned(),
            Self::Missing(path) => format!("make it: mkdir -p {}", path.display()),
            Self::NotDirectory(_) | Self::NotOwner { .. } => {
                "name an empty directory of your own".to_owned()
            }
            Self::NotEmpty(_) => {
                "name an empty directory, or move what is in this one away: a mount would hide it"
                    .to_owned()
            }
            Self::AlreadyMounted { path, what } => {
                let ours = if what == "fuse.strongroom" { "strongroom " } else { "" };
                let path = path.display();
                format!(
                    "see what it is: findmnt {path}; name another directory, or: {ours}umount {path}"
                )
            }
            Self::Forbidden { .. } => {
                "name a directory outside of the pool and of its mounts".to_owned()
            }
            Self::SymbolicLink(_) | Self::Io { .. } => return None,
        })
    }
}

/// Who asks, and what is out of bounds.
#[derive(Clone, Debug)]
pub struct MountPointRules<'a> {
    /// The user who asks. The directory must be theirs, unless they are root (0).
    pub caller_uid: u32,
    /// Directories in which nothing may be mounted (the pool's).
    pub forbidden: &'a [PathBuf],
    /// Filesystems that this process serves. They are alive, and asking them would be asking
    /// oneself.
    pub own: &'a [DeviceNumber],
}

/// A directory that passed every check, held open without access (`O_PATH`).
#[derive(Debug)]
pub struct MountPoint {
    fd: OwnedFd,
    path: PathBuf,
}

impl MountPoint {
    /// Opens and checks `path`. A dead mount of this product that stands there is taken away
    /// first; nothing else is changed.
    ///
    /// Never looks into a living mount of this product: the daemon must not touch its own.
    ///
    /// # Errors
    /// [`MountPointError`], by what was found.
    pub fn open(path: &Path, rules: &MountPointRules<'_>) -> Result<Self, MountPointError> {
        check_absolute(path)?;
        check_bounds(path, rules)?;
        let fd = walk(path)?;
        let stat = fstat(&fd).map_err(|e| io_error(path, e))?;
        if rules.caller_uid != 0 && stat.st_uid != rules.caller_uid {
            return Err(MountPointError::NotOwner {
                path: path.to_owned(),
                owner: stat.st_uid,
                caller: rules.caller_uid,
            });
        }
        if let Some(mount) = mount_table::mount_at(path).map_err(|e| os_error(path, e))? {
            return Err(MountPointError::AlreadyMounted {
                path: path.to_owned(),
                what: mount.fs_type,
            });
        }
        let point = Self { fd, path: path.to_owned() };
        point.check_empty()?;
        Ok(point)
    }

    /// The path that was checked.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path that leads to the checked directory whatever its name leads to now.
    #[must_use]
    pub fn magic_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }

    fn check_empty(&self) -> Result<(), MountPointError> {
        let mut entries =
            std::fs::read_dir(self.magic_path()).map_err(|e| os_error(&self.path, e))?;
        if entries.next().is_some() {
            return Err(MountPointError::NotEmpty(self.path.clone()));
        }
        Ok(())
    }
}

impl AsFd for MountPoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn check_absolute(path: &Path) -> Result<(), MountPointError> {
    let mut components = path.components();
    let rooted = components.next() == Some(Component::RootDir);
    // `components` drops a '.' inside a path by itself: look at the bytes too.
    let dots = path.as_os_str().as_encoded_bytes().split(|b| *b == b'/').any(|c| c == b".");
    if rooted && !dots && components.all(|c| matches!(c, Component::Normal(_))) {
        Ok(())
    } else {
        Err(MountPointError::NotAbsolute(path.to_owned()))
    }
}

/// Purely by name, before anything is opened: a walk into a mount that this process serves would
/// wait for itself. Names suffice, because the walk follows no symbolic link.
fn check_bounds(path: &Path, rules: &MountPointRules<'_>) -> Result<(), MountPointError> {
    let table = mounts().map_err(|e| os_error(path, e))?;
    let mut mounted = table.iter().filter(|m| m.fs_type == FS_TYPE).map(|m| &m.mount_point);
    let within = rules
        .forbidden
        .iter()
        .find(|dir| path.starts_with(dir))
        .or_else(|| mounted.find(|point| *point != path && path.starts_with(point)));
    match within {
        Some(dir) => Err(MountPointError::Forbidden { path: path.to_owned(), within: dir.clone() }),
        None => match clear_dead(path, rules)? {
            Cleared::Alive => Err(MountPointError::AlreadyMounted {
                path: path.to_owned(),
                what: FS_TYPE.to_owned(),
            }),
            Cleared::Nothing | Cleared::Dead => Ok(()),
        },
    }
}

/// What [`clear_dead`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleared {
    /// No mount of this product.
    Nothing,
    /// Dead ones, which are gone now.
    Dead,
    /// A living one, which stays.
    Alive,
}

/// Takes away mounts of this product at exactly `path` whose daemon is gone, where whoever asks may
/// mount there. Those that this process serves are never asked.
///
/// # Errors
/// [`MountPointError::Io`] where the mount table cannot be read, or the system refuses to unmount;
/// [`MountPointError::NotOwner`] where the directory beneath is somebody else's.
pub fn clear_dead(path: &Path, rules: &MountPointRules<'_>) -> Result<Cleared, MountPointError> {
    let mut cleared = Cleared::Nothing;
    // Dead mounts can lie on one another; each pass takes one.
    for _ in 0..64 {
        match mount_table::mount_at(path).map_err(|e| os_error(path, e))? {
            Some(mount) if mount.fs_type == FS_TYPE && !rules.own.contains(&mount.device) => {}
            Some(mount) if mount.fs_type == FS_TYPE => break,
            _ => return Ok(cleared),
        }
        let place = MountedPlace::find(path)?;
        let root = place.open().map_err(|e| os_error(path, e))?;
        // What was opened, not what the name led to a moment ago.
        let entry = mount_table::mount_of(root.as_fd()).map_err(|e| os_error(path, e))?;
        if entry.is_none_or(|e| e.fs_type != FS_TYPE || rules.own.contains(&e.device))
            || !fuse_mount::is_dead(root.as_fd())
        {
            break;
        }
        drop(root);
        check_owner(path, &place, rules.caller_uid)?;
        place.unmount(Unmount::Lazy).map_err(|e| os_error(path, io::Error::other(e)))?;
        cleared = Cleared::Dead;
    }
    Ok(Cleared::Alive)
}

/// Mounts of this product whose daemon is gone, as far as this user may see it. It asks whoever
/// serves each of them, so it is never to be called where this process serves one; who does not
/// answer within `patience` is taken for alive, and still asked when this returns.
///
/// # Errors
/// Where the mount table cannot be read.
pub fn dead_mounts(patience: Duration) -> io::Result<Vec<MountEntry>> {
    let asked: Vec<_> = mounts()?
        .into_iter()
        .filter(|m| m.fs_type == FS_TYPE)
        .filter_map(|entry| {
            let (tell, told) = mpsc::channel();
            let of = entry.clone();
            let ask = move || tell.send(is_dead_mount(&of));
            threads::try_spawn("asks-mount", ask).ok().map(|_| (entry, told))
        })
        .collect();
    let end = clock::monotonic() + patience;
    let is_dead = |told: &mpsc::Receiver<bool>| {
        told.recv_timeout(end.saturating_sub(clock::monotonic())).unwrap_or(false)
    };
    Ok(asked.into_iter().filter(|(_, told)| is_dead(told)).map(|(entry, _)| entry).collect())
}

/// Whether that mount is what lies uppermost at its place, and dead.
fn is_dead_mount(entry: &MountEntry) -> bool {
    let Ok(place) = MountedPlace::find(&entry.mount_point) else { return false };
    let Ok(root) = place.open() else { return false };
    let there = mount_table::mount_of(root.as_fd());
    there.is_ok_and(|there| there.as_ref() == Some(entry)) && fuse_mount::is_dead(root.as_fd())
}

/// That the directory beneath a mount is the caller's.
fn check_owner(path: &Path, place: &MountedPlace, caller: u32) -> Result<(), MountPointError> {
    let own = nix::unistd::geteuid().as_raw();
    // An ordinary user's process cannot look beneath, and unmounts only what that user mounted.
    let owner = match own {
        _ if caller == 0 || (own != 0 && caller == own) => return Ok(()),
        0 => place.covered_owner().map_err(|e| os_error(path, e))?,
        user => user,
    };
    if owner == caller {
        Ok(())
    } else {
        Err(MountPointError::NotOwner { path: path.to_owned(), owner, caller })
    }
}

/// Opens `path` without access, and with no symbolic link in any of its components.
pub(in crate::sys) fn walk(path: &Path) -> Result<OwnedFd, MountPointError> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut so_far = PathBuf::from("/");
    let mut fd = nix::fcntl::open("/", flags | OFlag::O_DIRECTORY, Mode::empty())
        .map_err(|e| io_error(&so_far, e))?;
    for component in path.components() {
        let Component::Normal(name) = component else { continue };
        so_far.push(name);
        fd = step(&fd, name, flags, &so_far)?;
    }
    Ok(fd)
}

fn step(
    parent: &OwnedFd,
    name: &OsStr,
    flags: OFlag,
    so_far: &Path,
) -> Result<OwnedFd, MountPointError> {
    let fd = openat(parent, name, flags, Mode::empty()).map_err(|e| match e {
        Errno::ENOENT => MountPointError::Missing(so_far.to_owned()),
        Errno::ENOTDIR => MountPointError::NotDirectory(so_far.to_owned()),
        other => io_error(so_far, other),
    })?;
    let kind = fstat(&fd).map_err(|e| io_error(so_far, e))?.st_mode & SFlag::S_IFMT.bits();
    if kind == SFlag::S_IFLNK.bits() {
        Err(MountPointError::SymbolicLink(so_far.to_owned()))
    } else if kind == SFlag::S_IFDIR.bits() {
        Ok(fd)
    } else {
        Err(MountPointError::NotDirectory(so_far.to_owned()))
    }
}

fn io_error(path: &Path, errno: Errno) -> MountPointError {
    os_error(path, errno.into())
}

fn os_error(path: &Path, source: io::Error) -> MountPointError {
    MountPointError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(forbidden: &[PathBuf]) -> MountPointRules<'_> {
        MountPointRules { caller_uid: nix::unistd::geteuid().as_raw(), forbidden, own: &[] }
    }

    fn refuse(path: &Path) -> MountPointError {
        MountPoint::open(path, &rules(&[])).unwrap_err()
    }

    #[test]
    fn an_empty_directory_passes_and_everything_else_is_named() {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("empty")).unwrap();
        std::fs::create_dir_all(at("full/child")).unwrap();
        std::fs::write(at("file"), b"").unwrap();
        std::os::unix::fs::symlink(at("empty"), at("link")).unwrap();
        std::os::unix::fs::symlink(at("full"), at("way")).unwrap();

        assert_eq!(MountPoint::open(&at("empty"), &rules(&[])).unwrap().path(), at("empty"));
        assert!(
            matches!(refuse(&at("missing")), MountPointError::Missing(p) if p == at("missing"))
        );
        assert!(matches!(refuse(&at("file")), MountPointError::NotDirectory(p) if p == at("file")));
        assert!(matches!(refuse(&at("file/x")), MountPointError::NotDirectory(_)));
        assert!(matches!(refuse(&at("full")), MountPointError::NotEmpty(_)));
        assert!(matches!(refuse(&at("link")), MountPointError::SymbolicLink(p) if p == at("link")));
        assert!(
            matches!(refuse(&at("way/child")), MountPointError::SymbolicLink(p) if p == at("way"))
        );
        for odd in ["relative", "", "/tmp/../tmp", "/tmp/./x", "."] {
            assert!(matches!(refuse(Path::new(odd)), MountPointError::NotAbsolute(_)), "{odd}");
        }
        assert!(matches!(refuse(Path::new("/proc")), MountPointError::AlreadyMounted { .. }));
    }

    #[test]
    fn somebody_elses_directory_and_the_pools_own_are_refused() {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let point = dir.path().join("m");
        std::fs::create_dir(&point).unwrap();
        let owner = nix::unistd::geteuid().as_raw();
        let other = MountPointRules { caller_uid: owner + 1, forbidden: &[], own: &[] };
        assert!(matches!(
            MountPoint::open(&point, &other),
            Err(MountPointError::NotOwner { owner: o, caller: c, .. }) if o == owner && c == owner + 1
        ));
        let pool = [dir.path().to_owned()];
        assert!(matches!(
            MountPoint::open(&point, &rules(&pool)),
            Err(MountPointError::Forbidden { within, .. }) if within == dir.path()
        ));
    }
}
