//! Files and directories made anew below a directory, out of names that nobody vouches for.
//!
//! Every name is one component, looked up from a descriptor of the directory that holds it; what is
//! there is never followed, opened or replaced: a name that exists is an error. So nothing is made
//! outside of the directory that it began with, whatever the names and the links among it say.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstat, futimens, mkdirat,
    mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat};

/// Longest name of a file.
const NAME_BYTES_MAX: usize = 255;
/// What a filesystem that was just made may hold.
const OF_THE_FILESYSTEM: &str = "lost+found";

/// A directory that things are made in.
pub struct NewDirectory {
    fd: OwnedFd,
}

/// What is set of a file once its content is there.
pub struct Attributes<'a> {
    /// Permissions, with set-ID and sticky bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Last access: seconds since 1970, nanoseconds.
    pub accessed: (i64, u32),
    /// Last change of content.
    pub modified: (i64, u32),
    /// Extended attributes, names and values; ACLs among them.
    pub xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

/// What the system did not take of [`Attributes`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unkept {
    /// Owner and group; set-ID bits are left out then.
    pub owner: bool,
    /// Permissions.
    pub mode: bool,
    /// Times.
    pub times: bool,
    /// These extended attributes.
    pub xattrs: Vec<Vec<u8>>,
}

/// Whether an error says that there is no room.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

/// One component of a path, and none of those that lead elsewhere.
fn checked(name: &[u8]) -> io::Result<&[u8]> {
    let elsewhere = name.is_empty() || name == b"." || name == b"..";
    if elsewhere || name.len() > NAME_BYTES_MAX || name.iter().any(|b| matches!(b, b'/' | 0)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no name of a file"));
    }
    Ok(name)
}

const fn private() -> Mode {
    Mode::S_IRWXU
}

impl NewDirectory {
    /// Makes the directory at `path`, which only this user may enter, or takes one that is empty.
    /// `lost+found`, where the system made that, does not count.
    ///
    /// # Errors
    /// `DirectoryNotEmpty`, or the system's.
    pub fn begin(path: &Path) -> io::Result<Self> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = openat(AT_FDCWD, path, flags, Mode::empty())?;
        for entry in fs::read_dir(format!("/proc/self/fd/{}", fd.as_raw_fd()))? {
            let entry = entry?;
            if entry.file_name() != OF_THE_FILESYSTEM || !entry.file_type()?.is_dir() {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
        }
        Ok(Self { fd })
    }

    /// The directory of that name in this one.
    ///
    /// # Errors
    /// The system's; that of a name that is a link, too.
    pub fn enter(&self, name: &[u8]) -> io::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&self.fd, checked(name)?, flags, Mode::empty())?;
        Ok(Self { fd })
    }

    /// Makes a directory in this one, for this user alone until it gets its [`Attributes`].
    ///
    /// # Errors
    /// `AlreadyExists`, or the system's.
    pub fn make(&self, name: &[u8]) -> io::Result<Self> {
        mkdirat(&self.fd, checked(name)?, private())?;
        self.enter(name)
    }

    /// The directory that holds this one, if that is the one whose [`NewDirectory::identity`] is
    /// given.
    ///
    /// # Errors
    /// The system's; also where it was moved.
    pub fn parent(&self, identity: (u64, u64)) -> io::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let parent = Self { fd: openat(&self.fd, "..", flags, Mode::empty())? };
        if parent.identity()? == identity {
            Ok(parent)
        } else {
            Err(io::Error::other("a directory was moved while things were made in it"))
        }
    }

    /// What tells it from every other directory of this machine.
    ///
    /// # Errors
    /// The system's.
    pub fn identity(&self) -> io::Result<(u64, u64)> {
        let stat = fstat(&self.fd)?;
        Ok((stat.st_dev, stat.st_ino))
    }

    /// Makes a file, for this user alone until it gets its [`Attributes`].
    ///
    /// # Errors
    /// `AlreadyExists`, or the system's.
    pub fn create(&self, name: &[u8]) -> io::Result<File> {
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&self.fd, checked(name)?, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
        Ok(File::from(fd))
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// `AlreadyExists`, or the system's.
    pub fn symlink(&self, name: &[u8], target: &[u8]) -> io::Result<()> {
        Ok(symlinkat(target, &self.fd, checked(name)?)?)
    }

    /// Makes a pipe, a socket or a device node: `mode` holds the kind, `device` the number as
    /// [`Attributes`] of the kernel encode it in 32 bits.
    ///
    /// # Errors
    /// `AlreadyExists`, or the system's: device nodes are for root.
    pub fn special(&self, name: &[u8], mode: u32, device: u32) -> io::Result<()> {
        let kind = SFlag::from_bits_truncate(mode & libc::S_IFMT);
        let (major, minor) =
            ((device & 0xf_ff00) >> 8, (device & 0xff) | (device >> 12 & 0xf_ff00));
        let device = nix::sys::stat::makedev(u64::from(major), u64::from(minor));
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        Ok(mknodat(&self.fd, checked(name)?, kind, mode, device)?)
    }

    /// Gives what stands in `from` under `old` a name in this directory, too.
    ///
    /// # Errors
    /// `AlreadyExists`, or the system's, such as `EMLINK`.
    pub fn link(&self, from: &Self, old: &[u8], name: &[u8]) -> io::Result<()> {
        Ok(linkat(&from.fd, checked(old)?, &self.fd, checked(name)?, AtFlags::empty())?)
    }

    /// Makes everything durable that was written to the filesystem that it lies on.
    ///
    /// # Errors
    /// The system's.
    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: the descriptor is open for as long as `self` is.
        match unsafe { libc::syncfs(self.fd.as_raw_fd()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Takes away a file that was made.
    ///
    /// # Errors
    /// The system's.
    pub fn remove(&self, name: &[u8]) -> io::Result<()> {
        Ok(unlinkat(&self.fd, checked(name)?, UnlinkatFlags::NoRemoveDir)?)
    }

    /// Gives the directory itself its attributes.
    #[must_use]
    pub fn set(&self, attributes: &Attributes<'_>) -> Unkept {
        set_open(&self.fd, attributes)
    }

    /// Gives what stands under `name` its attributes, without opening it: a link's are the link's,
    /// and its permissions are left alone.
    #[must_use]
    pub fn set_of(&self, name: &[u8], is_link: bool, attributes: &Attributes<'_>) -> Unkept {
        let mut unkept = Unkept::default();
        let Ok(name) = checked(name) else { return unkept };
        let no_follow = AtFlags::AT_SYMLINK_NOFOLLOW;
        unkept.owner = owner_of(attributes)
            .is_none_or(|(uid, gid)| fchownat(&self.fd, name, uid, gid, no_follow).is_err());
        let mut path = format!("/proc/self/fd/{}/", self.fd.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        unkept.xattrs = set_xattrs(&mut |key, value| set_xattr_at(&path, key, value), attributes);
        if !is_link {
            let mode = mode_of(attributes, unkept.owner);
            // What was made here a moment ago is no link.
            unkept.mode = fchmodat(&self.fd, name, mode, FchmodatFlags::FollowSymlink).is_err();
        }
        let (accessed, modified) = times_of(attributes);
        let flags = UtimensatFlags::NoFollowSymlink;
        unkept.times = utimensat(&self.fd, name, &accessed, &modified, flags).is_err();
        unkept
    }
}

/// Gives a file that was made its attributes.
#[must_use]
pub fn set(file: &File, attributes: &Attributes<'_>) -> Unkept {
    match file.try_clone() {
        Ok(file) => set_open(&OwnedFd::from(file), attributes),
        Err(_) => Unkept { owner: true, mode: true, times: true, xattrs: Vec::new() },
    }
}

/// `None` where one of them is the number that chown(2) takes for "as it is".
fn owner_of(attributes: &Attributes<'_>) -> Option<(Option<Uid>, Option<Gid>)> {
    let (uid, gid) = attributes.owner;
    let named = uid != u32::MAX && gid != u32::MAX;
    named.then(|| (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))))
}

/// Without its owner a file has no set-ID bits: they would be those of whoever made it.
fn mode_of(attributes: &Attributes<'_>, owner_unkept: bool) -> Mode {
    let set_id = if owner_unkept { libc::S_ISUID | libc::S_ISGID } else { 0 };
    Mode::from_bits_truncate(attributes.mode & 0o7777 & !set_id)
}

fn times_of(attributes: &Attributes<'_>) -> (TimeSpec, TimeSpec) {
    let spec = |(seconds, nanoseconds): (i64, u32)| TimeSpec::new(seconds, nanoseconds.into());
    (spec(attributes.accessed), spec(attributes.modified))
}

/// The owner first, which takes set-ID bits and capabilities away; then the ACL, then the mode that
/// goes with it; the times last.
fn set_open(fd: &OwnedFd, attributes: &Attributes<'_>) -> Unkept {
    let owner = owner_of(attributes).is_none_or(|(uid, gid)| fchown(fd, uid, gid).is_err());
    let xattrs = set_xattrs(&mut |key, value| set_xattr(fd, key, value), attributes);
    let mode = fchmod(fd, mode_of(attributes, owner)).is_err();
    let (accessed, modified) = times_of(attributes);
    let times = futimens(fd, &accessed, &modified).is_err();
    Unkept { owner, mode, times, xattrs }
}

type SetXattr<'a> = dyn FnMut(&[u8], &[u8]) -> bool + 'a;

/// The names of those that could not be set.
fn set_xattrs(set: &mut SetXattr<'_>, attributes: &Attributes<'_>) -> Vec<Vec<u8>> {
    let failed = attributes.xattrs.iter().filter(|(key, value)| !set(key, value));
    failed.map(|(key, _)| key.clone()).collect()
}

/// With the zero that ends it; `None` where one stands in it.
fn c_string(bytes: &[u8]) -> Option<std::ffi::CString> {
    std::ffi::CString::new(bytes).ok()
}

fn set_xattr(fd: &OwnedFd, name: &[u8], value: &[u8]) -> bool {
    let Some(name) = c_string(name) else { return false };
    // SAFETY: the name ends in a zero, the value's length is its own, and both outlive the call.
    let done = unsafe {
        libc::fsetxattr(fd.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    done == 0
}

fn set_xattr_at(path: &[u8], name: &[u8], value: &[u8]) -> bool {
    let (Some(path), Some(name)) = (c_string(path), c_string(name)) else { return false };
    // SAFETY: both strings end in a zero, the value's length is its own, and all outlive the call.
    let done = unsafe {
        libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    done == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn attributes(mode: u32) -> Attributes<'static> {
        let owner = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        Attributes { mode, owner, accessed: (1, 2), modified: (1_000_000_000, 7), xattrs: &[] }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let outside = tempfile::tempdir().unwrap();
        let place = outside.path().join("dest");
        let dest = NewDirectory::begin(&place).unwrap();
        let long = [b'x'; 256];
        let names: [&[u8]; 9] =
            [b"", b".", b"..", b"../x", b"a/b", b"/x", b"a\0b", b"../../x", &long];
        for name in names {
            assert!(dest.create(name).is_err(), "{name:?}");
            assert!(dest.make(name).is_err(), "{name:?}");
            assert!(dest.symlink(name, b"t").is_err(), "{name:?}");
            assert!(dest.special(name, libc::S_IFIFO, 0).is_err(), "{name:?}");
            assert!(dest.enter(name).is_err(), "{name:?}");
            assert!(dest.link(&dest, b"x", name).is_err(), "{name:?}");
        }
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
    }

    #[test]
    fn nothing_that_is_there_is_followed_or_replaced() {
        let outside = tempfile::tempdir().unwrap();
        let victim = outside.path().join("victim");
        fs::write(&victim, "mine").unwrap();
        fs::create_dir(outside.path().join("folder")).unwrap();
        let place = outside.path().join("dest");
        let dest = NewDirectory::begin(&place).unwrap();
        dest.symlink(b"file", b"../victim").unwrap();
        dest.symlink(b"dir", b"../folder").unwrap();
        assert!(dest.create(b"file").is_err());
        assert!(dest.make(b"dir").is_err());
        assert!(dest.enter(b"dir").is_err());
        let _ = dest.set_of(b"file", true, &attributes(0o777));
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
        assert_ne!(fs::metadata(&victim).unwrap().mtime(), 1_000_000_000);
        assert_eq!(fs::symlink_metadata(place.join("file")).unwrap().mtime(), 1_000_000_000);
    }

    #[test]
    fn a_place_that_holds_something_is_refused_and_a_new_one_is_private() {
        let outside = tempfile::tempdir().unwrap();
        let place = outside.path().join("dest");
        drop(NewDirectory::begin(&place).unwrap());
        assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o700);
        fs::create_dir(place.join("lost+found")).unwrap();
        drop(NewDirectory::begin(&place).unwrap());
        symlink("x", place.join("y")).unwrap();
        let error = NewDirectory::begin(&place).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::DirectoryNotEmpty);
    }

    #[test]
    fn a_directory_that_was_moved_is_not_left_for_its_new_parent() {
        let outside = tempfile::tempdir().unwrap();
        let place = outside.path().join("dest");
        let dest = NewDirectory::begin(&place).unwrap();
        let identity = dest.identity().unwrap();
        let inner = dest.make(b"inner").unwrap();
        assert!(inner.parent(identity).is_ok());
        fs::rename(place.join("inner"), outside.path().join("inner")).unwrap();
        assert!(inner.parent(identity).is_err());
    }

    #[test]
    fn attributes_come_last_and_set_id_bits_only_with_the_owner() {
        let outside = tempfile::tempdir().unwrap();
        let place = outside.path().join("dest");
        let dest = NewDirectory::begin(&place).unwrap();
        let mut file = dest.create(b"f").unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
        file.write_all(b"x").unwrap();
        assert_eq!(set(&file, &attributes(0o4751)), Unkept::default());
        let meta = fs::metadata(place.join("f")).unwrap();
        assert_eq!(
            (meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec()),
            (0o4751, 1_000_000_000, 7)
        );
        assert_eq!(mode_of(&attributes(0o6755), true).bits(), 0o755);
    }
}
