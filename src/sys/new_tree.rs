//! Files and directories made anew below a directory, out of names that nobody vouches for.
//!
//! Every name is one component, looked up from a descriptor of the directory that holds it; what is
//! there is never followed, opened or replaced: a name that exists is an error. So nothing is made
//! outside of the directory that it began with, whatever the names and the links among it say. That
//! one is this user's, and nobody else may enter it: what stands in it was made here.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstat, futimens, mkdirat,
    mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat};

use crate::sys::process;

/// Longest name of a file.
const NAME_BYTES_MAX: usize = 255;
/// Who may write to a directory beside its owner.
const OTHERS_WRITE: u32 = 0o022;
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
#[derive(Debug, Default)]
pub struct Unkept {
    /// Owner and group; set-ID bits are left out then.
    pub owner: bool,
    /// Permissions.
    pub mode: bool,
    /// Times.
    pub times: bool,
    /// These extended attributes.
    pub xattrs: Vec<Vec<u8>>,
    /// Why the place could not take some of them ([`is_of_the_place`]): elsewhere they can be had.
    pub failed: Option<io::Error>,
}

impl Unkept {
    /// Whether the system refuses what was asked for; a failure of the place is kept apart.
    fn is_refused(&mut self, done: io::Result<()>) -> bool {
        match done {
            Ok(()) => false,
            Err(error) if is_of_the_place(&error) => {
                self.failed.get_or_insert(error);
                false
            }
            Err(_) => true,
        }
    }
}

/// Whether an error says that there is no room.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

/// Whether an error is the place's own, and not about what was asked for: no room, a disk that
/// fails, a filesystem that became read-only.
#[must_use]
pub fn is_of_the_place(error: &io::Error) -> bool {
    is_full(error) || matches!(error.raw_os_error(), Some(libc::EIO | libc::EROFS))
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
    /// Makes the directory at `path`, or takes one that is empty, and no link to one; `lost+found`,
    /// where the system made that, does not count. Only this user may enter it from then on.
    ///
    /// # Errors
    /// `DirectoryNotEmpty`; `PermissionDenied` without a number of the system's, where somebody else
    /// could put something there; or the system's.
    pub fn begin(path: &Path) -> io::Result<Self> {
        // Without a slash at the end, which would have a link followed.
        let path = path.components().as_path();
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let begun = Self { fd: openat(AT_FDCWD, path, flags, Mode::empty())? };
        begun.check_empty()?;
        begun.shut_others_out()?;
        // What came in between, if anything did.
        begun.check_empty()?;
        Ok(begun)
    }

    fn check_empty(&self) -> io::Result<()> {
        for entry in fs::read_dir(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))? {
            let entry = entry?;
            if entry.file_name() != OF_THE_FILESYSTEM || !entry.file_type()?.is_dir() {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
        }
        Ok(())
    }

    fn shut_others_out(&self) -> io::Result<()> {
        let refused = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        let owner = fstat(&self.fd)?.st_uid;
        if owner != process::euid() {
            return refused(format!("it belongs to user {owner}, who could put something there"));
        }
        // Some filesystems have no modes; what counts is what is so then.
        let done = fchmod(&self.fd, private());
        match (fstat(&self.fd)?.st_mode & OTHERS_WRITE, done) {
            (0, _) => Ok(()),
            (_, Err(error)) => Err(error.into()),
            _ => refused("others than its owner may write to it".to_owned()),
        }
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
        set(&self.fd, attributes)
    }

    /// Gives what stands under `name` its attributes, without opening it: a link's are the link's,
    /// and its permissions are left alone.
    #[must_use]
    pub fn set_of(&self, name: &[u8], is_link: bool, attributes: &Attributes<'_>) -> Unkept {
        let mut unkept = Unkept::default();
        let Ok(name) = checked(name) else { return unkept };
        let no_follow = AtFlags::AT_SYMLINK_NOFOLLOW;
        let owned = owner_of(attributes)
            .and_then(|(uid, gid)| Ok(fchownat(&self.fd, name, uid, gid, no_follow)?));
        let is_owned = owned.is_ok();
        unkept.owner = unkept.is_refused(owned);
        let mut path = format!("/proc/self/fd/{}/", self.fd.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        set_xattrs(&mut unkept, attributes, &mut |key, value| set_xattr_at(&path, key, value));
        if !is_link {
            let mode = mode_of(attributes, is_owned);
            // What was made here a moment ago is no link.
            let follow = FchmodatFlags::FollowSymlink;
            unkept.mode = unkept.is_refused(done(fchmodat(&self.fd, name, mode, follow)));
        }
        let (accessed, modified) = times_of(attributes);
        let flags = UtimensatFlags::NoFollowSymlink;
        let timed = utimensat(&self.fd, name, &accessed, &modified, flags);
        unkept.times = unkept.is_refused(done(timed));
        unkept
    }
}

fn done(result: nix::Result<()>) -> io::Result<()> {
    Ok(result?)
}

/// An error where one of them is the number that chown(2) takes for "as it is".
fn owner_of(attributes: &Attributes<'_>) -> io::Result<(Option<Uid>, Option<Gid>)> {
    let (uid, gid) = attributes.owner;
    if uid == u32::MAX || gid == u32::MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok((Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))))
}

/// Without its owner a file has no set-ID bits: they would be those of whoever made it.
fn mode_of(attributes: &Attributes<'_>, is_owned: bool) -> Mode {
    let set_id = if is_owned { 0 } else { libc::S_ISUID | libc::S_ISGID };
    Mode::from_bits_truncate(attributes.mode & 0o7777 & !set_id)
}

fn times_of(attributes: &Attributes<'_>) -> (TimeSpec, TimeSpec) {
    let spec = |(seconds, nanoseconds): (i64, u32)| TimeSpec::new(seconds, nanoseconds.into());
    (spec(attributes.accessed), spec(attributes.modified))
}

/// Gives a file or directory that was made its attributes. The owner first, which takes set-ID bits
/// and capabilities away; then the ACL, then the mode that goes with it; the times last.
#[must_use]
pub fn set(file: &impl AsFd, attributes: &Attributes<'_>) -> Unkept {
    let (fd, mut unkept) = (file.as_fd(), Unkept::default());
    let owned = owner_of(attributes).and_then(|(uid, gid)| Ok(fchown(fd, uid, gid)?));
    let is_owned = owned.is_ok();
    unkept.owner = unkept.is_refused(owned);
    set_xattrs(&mut unkept, attributes, &mut |key, value| set_xattr(fd.as_raw_fd(), key, value));
    unkept.mode = unkept.is_refused(done(fchmod(fd, mode_of(attributes, is_owned))));
    let (accessed, modified) = times_of(attributes);
    unkept.times = unkept.is_refused(done(futimens(fd, &accessed, &modified)));
    unkept
}

type SetXattr<'a> = dyn FnMut(&[u8], &[u8]) -> io::Result<()> + 'a;

fn set_xattrs(unkept: &mut Unkept, attributes: &Attributes<'_>, set: &mut SetXattr<'_>) {
    for (name, value) in attributes.xattrs {
        if unkept.is_refused(set(name, value)) {
            unkept.xattrs.push(name.clone());
        }
    }
}

/// With the zero that ends it; an error where one stands in it.
fn c_string(bytes: &[u8]) -> io::Result<std::ffi::CString> {
    Ok(std::ffi::CString::new(bytes)?)
}

fn outcome(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn set_xattr(fd: RawFd, name: &[u8], value: &[u8]) -> io::Result<()> {
    let name = c_string(name)?;
    // SAFETY: the name ends in a zero, the value's length is its own, and both outlive the call.
    outcome(unsafe { libc::fsetxattr(fd, name.as_ptr(), value.as_ptr().cast(), value.len(), 0) })
}

fn set_xattr_at(path: &[u8], name: &[u8], value: &[u8]) -> io::Result<()> {
    let (path, name) = (c_string(path)?, c_string(name)?);
    // SAFETY: both strings end in a zero, the value's length is its own, and all outlive the call.
    outcome(unsafe {
        libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    })
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
    fn a_link_to_a_directory_is_no_place() {
        let outside = tempfile::tempdir().unwrap();
        let (there, place) = (outside.path().join("there"), outside.path().join("link"));
        fs::create_dir(&there).unwrap();
        fs::set_permissions(&there, fs::Permissions::from_mode(0o755)).unwrap();
        symlink(&there, &place).unwrap();
        for name in [place.clone(), place.join("")] {
            let error = NewDirectory::begin(&name).err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
        }
        assert_eq!(fs::metadata(&there).unwrap().permissions().mode() & 0o777, 0o755);
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
        let unkept = set(&file, &attributes(0o4751));
        assert!(!unkept.owner && !unkept.mode && !unkept.times && unkept.failed.is_none());
        let meta = fs::metadata(place.join("f")).unwrap();
        assert_eq!(
            (meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec()),
            (0o4751, 1_000_000_000, 7)
        );
        assert_eq!(mode_of(&attributes(0o6755), false).bits(), 0o755);
    }

    #[test]
    fn a_place_that_fails_is_told_from_a_system_that_refuses() {
        let names = [(b"user.a".to_vec(), Vec::new()), (b"user.b".to_vec(), Vec::new())];
        let attributes = Attributes { xattrs: &names, ..attributes(0o600) };
        let set_with = |errno: i32| {
            let mut unkept = Unkept::default();
            let mut refuse = |_: &[u8], _: &[u8]| Err(io::Error::from_raw_os_error(errno));
            set_xattrs(&mut unkept, &attributes, &mut refuse);
            (unkept.xattrs.len(), unkept.failed.and_then(|error| error.raw_os_error()))
        };
        for errno in [libc::ENOSPC, libc::EDQUOT, libc::EIO, libc::EROFS] {
            assert_eq!(set_with(errno), (0, Some(errno)));
        }
        for errno in [libc::EPERM, libc::EOPNOTSUPP, libc::E2BIG] {
            assert_eq!(set_with(errno), (2, None));
        }
    }

    #[test]
    fn an_owner_that_chown_takes_for_none_is_not_kept_and_gets_no_set_id_bits() {
        let outside = tempfile::tempdir().unwrap();
        let dest = NewDirectory::begin(&outside.path().join("dest")).unwrap();
        for owner in [(u32::MAX, 0), (0, u32::MAX)] {
            let attributes = Attributes { owner, ..attributes(0o6755) };
            let name = format!("f{}", owner.0);
            let file = dest.create(name.as_bytes()).unwrap();
            assert!(set(&file, &attributes).owner);
            assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o755);
            dest.special(b"pipe", libc::S_IFIFO, 0).unwrap();
            assert!(dest.set_of(b"pipe", false, &attributes).owner);
            dest.remove(b"pipe").unwrap();
        }
    }

    #[test]
    fn nobody_else_may_put_anything_into_a_place() {
        let outside = tempfile::tempdir().unwrap();
        let place = outside.path().join("shared");
        fs::create_dir(&place).unwrap();
        let mode = |mode| fs::set_permissions(&place, fs::Permissions::from_mode(mode)).unwrap();
        let now = || fs::metadata(&place).unwrap().permissions().mode() & 0o7777;
        mode(0o1777);
        drop(NewDirectory::begin(&place).unwrap());
        assert_eq!(now(), 0o700);
        // What is refused is left as it is.
        mode(0o775);
        fs::write(place.join("there"), "").unwrap();
        assert!(NewDirectory::begin(&place).is_err());
        assert_eq!(now(), 0o775);
        fs::remove_file(place.join("there")).unwrap();
        std::os::unix::fs::chown(&place, Some(4711), None).expect("tests run as root");
        let error = NewDirectory::begin(&place).err().unwrap();
        assert_eq!((error.kind(), error.raw_os_error()), (io::ErrorKind::PermissionDenied, None));
    }
}
