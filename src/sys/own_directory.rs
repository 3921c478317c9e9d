//! Directories that nobody else can change, held open: what stands in them was put there by this
//! user or by root, and by nobody between a look and a use.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open, openat};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use nix::sys::stat::{Mode, SFlag, fchmod, fstat};

use crate::sys::process;

/// Who may write to a directory beside its owner and its group.
const OTHERS_WRITE: u32 = 0o022;
/// With the sticky bit, entries are renamed and removed by their owner alone.
const STICKY: u32 = 0o1000;

/// A directory that belongs to this user or to root, held open without access.
#[derive(Debug)]
pub struct OwnDirectory {
    fd: OwnedFd,
    path: PathBuf,
}

/// What others may do in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// Nothing.
    MayNotWrite,
    /// Add entries of their own, as in `/tmp`: the sticky bit keeps them from ours.
    MayAddTheirOwn,
}

/// Why a directory is not used.
#[derive(Debug, thiserror::Error)]
pub enum NotOwn {
    /// It belongs to somebody else.
    #[error("{} belongs to user {owner}, who could exchange what stands in it", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// Others may write to it.
    #[error(
        "others than its owner may write to {} (mode {mode:04o}) and exchange what stands in it",
        path.display()
    )]
    Writable {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The system refuses.
    #[error("{}: {source}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl NotOwn {
    /// What to do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Foreign { .. } => Some("use a directory of your own, or of root".to_owned()),
            Self::Writable { path, .. } => Some(format!("chmod go-w {}", path.display())),
            Self::Io { .. } => None,
        }
    }
}

impl OwnDirectory {
    /// Opens a directory and looks at who may change it.
    ///
    /// # Errors
    /// [`NotOwn`]
    pub fn open(path: &Path, others: Others) -> Result<Self, NotOwn> {
        Self::open_with(path, others, OFlag::empty())
    }

    /// As [`OwnDirectory::open`], of a directory that was just made: a link to one is not it.
    ///
    /// # Errors
    /// [`NotOwn`]
    pub fn open_made(path: &Path, others: Others) -> Result<Self, NotOwn> {
        Self::open_with(path.components().as_path(), others, OFlag::O_NOFOLLOW)
    }

    fn open_with(path: &Path, others: Others, extra: OFlag) -> Result<Self, NotOwn> {
        let failed = |e: nix::Error| NotOwn::Io { path: path.to_owned(), source: e.into() };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | extra;
        let fd = open(path, flags, Mode::empty()).map_err(failed)?;
        let stat = fstat(&fd).map_err(failed)?;
        if stat.st_uid != 0 && stat.st_uid != process::euid() {
            return Err(NotOwn::Foreign { path: path.to_owned(), owner: stat.st_uid });
        }
        let mode = stat.st_mode & 0o7777;
        let kept_apart = others == Others::MayAddTheirOwn && mode & STICKY != 0;
        if mode & OTHERS_WRITE != 0 && !kept_apart {
            return Err(NotOwn::Writable { path: path.to_owned(), mode });
        }
        Ok(Self { fd, path: path.to_owned() })
    }

    /// A path to an entry of this very directory, whatever its name leads to by now.
    #[must_use]
    pub fn entry(&self, name: impl AsRef<Path>) -> PathBuf {
        magic_path(&self.fd).join(name)
    }

    /// Gives it another mode and, where one is named, another group.
    ///
    /// # Errors
    /// The system's.
    pub fn share(&self, mode: u32, group: Option<u32>) -> io::Result<()> {
        share(&self.fd, mode, group)
    }

    /// Binds a socket in it that this user alone may connect to, and `group` where one is named. At
    /// no time may anybody else.
    ///
    /// # Errors
    /// The system's.
    pub fn bind_socket(&self, name: &OsStr, group: Option<u32>) -> io::Result<UnixListener> {
        let unbound = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        // The kernel gives the name the mode that the socket has by then.
        fchmod(&unbound, Mode::S_IRUSR | Mode::S_IWUSR)?;
        bind(unbound.as_raw_fd(), &UnixAddr::new(&self.path.join(name))?)?;
        // As it stands in the directory that was looked at.
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let bound = openat(&self.fd, name, flags, Mode::empty())?;
        if fstat(&bound)?.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFSOCK.bits() {
            return Err(io::Error::other("something else stands there now"));
        }
        if group.is_some() {
            share(&bound, 0o660, group)?;
        }
        listen(&unbound, Backlog::MAXCONN)?;
        Ok(UnixListener::from(unbound))
    }
}

/// A path that leads to what is open.
fn magic_path(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// The group first: never is it open to another one.
fn share(fd: &OwnedFd, mode: u32, group: Option<u32>) -> io::Result<()> {
    let path = magic_path(fd);
    if group.is_some() {
        chown(&path, None, group)?;
    }
    fs::set_permissions(&path, Permissions::from_mode(mode))
}

/// Whose it is that stands at `path` (absolute, without symbolic links), where nobody but root, this
/// user and that owner can have put it there: `None` where anybody else could, as in `/tmp`.
#[must_use]
pub fn sure_owner(path: &Path) -> Option<u32> {
    let owner = fs::symlink_metadata(path).ok()?.uid();
    let trusted = [0, process::euid(), owner];
    let guarded = |above: &Path| {
        fs::symlink_metadata(above)
            .is_ok_and(|m| m.is_dir() && trusted.contains(&m.uid()) && m.mode() & OTHERS_WRITE == 0)
    };
    path.ancestors().skip(1).all(guarded).then_some(owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(mode: u32) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
        dir
    }

    #[test]
    fn a_directory_that_others_can_change_is_not_used() {
        let strict = |dir: &tempfile::TempDir| OwnDirectory::open(dir.path(), Others::MayNotWrite);
        assert!(strict(&directory(0o755)).is_ok());
        for mode in [0o775, 0o757, 0o1777] {
            let refused = strict(&directory(mode)).unwrap_err();
            assert!(matches!(refused, NotOwn::Writable { .. }), "{mode:o}: {refused}");
            assert!(refused.hint().unwrap().starts_with("chmod go-w "));
        }
        let shared = |mode| OwnDirectory::open(directory(mode).path(), Others::MayAddTheirOwn);
        assert!(shared(0o1777).is_ok());
        assert!(shared(0o777).is_err());
        let foreign = directory(0o700);
        chown(foreign.path(), Some(4711), None).expect("tests run as root");
        for others in [Others::MayNotWrite, Others::MayAddTheirOwn] {
            let refused = OwnDirectory::open(foreign.path(), others).unwrap_err();
            assert!(matches!(refused, NotOwn::Foreign { owner: 4711, .. }), "{refused}");
        }
    }

    #[test]
    fn a_link_in_place_of_what_was_made_is_not_followed() {
        let (dir, above) = (directory(0o755), directory(0o755));
        let link = above.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(OwnDirectory::open(&link, Others::MayNotWrite).is_ok());
        for name in [link.clone(), link.join("")] {
            let refused = OwnDirectory::open_made(&name, Others::MayNotWrite).unwrap_err();
            assert!(matches!(refused, NotOwn::Io { .. }), "{refused}");
        }
        assert!(OwnDirectory::open_made(dir.path(), Others::MayNotWrite).is_ok());
    }

    #[test]
    fn a_socket_is_never_open_to_others_and_stands_where_was_looked() {
        let dir = directory(0o700);
        let own = OwnDirectory::open(dir.path(), Others::MayNotWrite).unwrap();
        let mode = |name: &str| {
            let there = fs::symlink_metadata(dir.path().join(name)).unwrap();
            (there.mode() & 0o777, there.gid())
        };
        let before = fs::metadata(dir.path()).unwrap().gid();
        drop(own.bind_socket("alone".as_ref(), None).unwrap());
        assert_eq!(mode("alone"), (0o600, before));
        drop(own.bind_socket("shared".as_ref(), Some(4711)).unwrap());
        assert_eq!(mode("shared"), (0o660, 4711));
        // Somebody who owns a directory above exchanges it after the look.
        let (moved, victim) = (dir.path().with_extension("moved"), directory(0o700));
        fs::rename(dir.path(), &moved).unwrap();
        std::os::unix::fs::symlink(victim.path(), dir.path()).unwrap();
        assert!(own.bind_socket("stray".as_ref(), Some(4711)).is_err());
        let stray = fs::symlink_metadata(victim.path().join("stray")).unwrap();
        assert_eq!((stray.mode() & 0o777, stray.gid()), (0o600, before), "it is given to nobody");
        fs::remove_file(dir.path()).unwrap();
        fs::rename(&moved, dir.path()).unwrap();
    }

    #[test]
    fn an_owner_is_sure_where_nobody_else_could_have_put_it_there() {
        // Where tests may write and others may not.
        let home = tempfile::tempdir_in("/root").expect("tests run as root");
        let pool = home.path().join("pool");
        fs::create_dir(&pool).unwrap();
        assert_eq!(sure_owner(&pool), Some(0));
        chown(&pool, Some(4711), None).unwrap();
        assert_eq!(sure_owner(&pool), Some(4711));
        fs::set_permissions(home.path(), Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(sure_owner(&pool), None);
        fs::set_permissions(home.path(), Permissions::from_mode(0o755)).unwrap();
        chown(home.path(), Some(4712), None).unwrap();
        assert_eq!(sure_owner(&pool), None);
        assert_eq!(sure_owner(&pool.join("none")), None);
    }
}
