//! Files and block devices by descriptor: direct I/O, flush, allocation, holes, locks, and the
//! replacement of a small file in one step.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::sys::random;

/// BLKDISCARD of `linux/fs.h`: `_IO(0x12, 119)`.
const BLKDISCARD: libc::Ioctl = 0x1277;
/// BLKSSZGET of `linux/fs.h`: `_IO(0x12, 104)`.
const BLKSSZGET: libc::Ioctl = 0x1268;

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn to_off(value: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(value).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))
}

/// Opens a file to be read, where it is a plain file: no link is followed at its end, and a pipe
/// without a writer does not block.
///
/// # Errors
/// The kernel's; `InvalidInput` for what is no plain file.
pub fn open_plain(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain file"))
    }
}

/// Opens an existing file or block device past the page cache. The second value: whether the
/// filesystem took O_DIRECT; where it did not, the descriptor goes through the cache.
///
/// # Errors
/// The kernel's, such as "not found", "permission denied".
pub fn open_direct(path: &Path, write: bool) -> io::Result<(OwnedFd, bool)> {
    open_with(path, write, 0)
}

/// As [`open_direct`], for a block device: refused with `EBUSY` while it is mounted or otherwise
/// claimed by the kernel (O_EXCL without O_CREAT).
///
/// # Errors
/// The kernel's.
pub fn open_direct_exclusive(path: &Path, write: bool) -> io::Result<(OwnedFd, bool)> {
    open_with(path, write, libc::O_EXCL)
}

fn open_with(path: &Path, write: bool, extra: libc::c_int) -> io::Result<(OwnedFd, bool)> {
    let open = |flags: libc::c_int| {
        OpenOptions::new()
            .read(true)
            .write(write)
            .custom_flags(flags | extra | libc::O_CLOEXEC)
            .open(path)
    };
    match open(libc::O_DIRECT) {
        Ok(file) => Ok((file.into(), true)),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok((open(0)?.into(), false)),
        Err(error) => Err(error),
    }
}

/// Creates a file that was not there, readable and writable by its owner only, of `size_bytes`
/// without any block allocated.
///
/// # Errors
/// `AlreadyExists`, or the kernel's.
pub fn create_sparse(path: &Path, size_bytes: u64) -> io::Result<OwnedFd> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_CLOEXEC)
        .open(path)?;
    file.set_len(size_bytes).inspect_err(|_| {
        // It was made just now, and holds nothing.
        let _ = std::fs::remove_file(path);
    })?;
    Ok(file.into())
}

/// Reads exactly `buf.len()` bytes at `offset`.
///
/// # Errors
/// The kernel's; `UnexpectedEof` where the file ends before.
pub fn pread(fd: &OwnedFd, buf: &mut [u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < buf.len() {
        let rest = &mut buf[done..];
        let at = to_off(offset + done as u64)?;
        // SAFETY: the pointer and length are those of a slice that is exclusively borrowed.
        let n = unsafe { libc::pread(fd.as_raw_fd(), rest.as_mut_ptr().cast(), rest.len(), at) };
        match usize::try_from(n) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => done += n,
            Err(_) => retry_if_interrupted()?,
        }
    }
    Ok(())
}

/// Writes all of `buf` at `offset`.
///
/// # Errors
/// The kernel's; part of the bytes may be written then.
pub fn pwrite(fd: &OwnedFd, buf: &[u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < buf.len() {
        let rest = &buf[done..];
        let at = to_off(offset + done as u64)?;
        // SAFETY: the pointer and length are those of a borrowed slice.
        let n = unsafe { libc::pwrite(fd.as_raw_fd(), rest.as_ptr().cast(), rest.len(), at) };
        match usize::try_from(n) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => done += n,
            Err(_) => retry_if_interrupted()?,
        }
    }
    Ok(())
}

fn retry_if_interrupted() -> io::Result<()> {
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) }
}

/// Makes what was written durable, with the file's size, and flushes the device's own cache.
/// Never retried: after a failure the kernel has dropped what it could not write.
///
/// # Errors
/// The kernel's.
pub fn fdatasync(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: the descriptor is open; no memory is passed.
    check(unsafe { libc::fdatasync(fd.as_raw_fd()) })
}

/// Allocates the range on the filesystem beneath, so that writing to it cannot run out of space.
///
/// # Errors
/// The kernel's; `ENOSPC` where the filesystem is full, `EOPNOTSUPP` where it cannot.
pub fn fallocate_keep(fd: &OwnedFd, offset: u64, len: u64) -> io::Result<()> {
    fallocate(fd, libc::FALLOC_FL_KEEP_SIZE, offset, len)
}

/// Gives the range's blocks back to the filesystem beneath; it reads as zeros afterwards.
///
/// # Errors
/// The kernel's; `EOPNOTSUPP` where the filesystem cannot.
pub fn punch_hole(fd: &OwnedFd, offset: u64, len: u64) -> io::Result<()> {
    fallocate(fd, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, offset, len)
}

fn fallocate(fd: &OwnedFd, mode: libc::c_int, offset: u64, len: u64) -> io::Result<()> {
    let (offset, len) = (to_off(offset)?, to_off(len)?);
    loop {
        // SAFETY: the descriptor is open; no memory is passed.
        let result = check(unsafe { libc::fallocate(fd.as_raw_fd(), mode, offset, len) });
        match result {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Sets a regular file's size.
///
/// # Errors
/// The kernel's.
pub fn set_size(fd: &OwnedFd, size_bytes: u64) -> io::Result<()> {
    // SAFETY: the descriptor is open; no memory is passed.
    check(unsafe { libc::ftruncate(fd.as_raw_fd(), to_off(size_bytes)?) })
}

/// Size in bytes of a file or block device.
///
/// It is not asked for by `statx`: on filesystems with fine-grained times that has the next write
/// take one, and all other files of the system with it, so that a mount whose pages are written
/// back tells the daemon of a new time at each `fsync`: a fifth of their speed.
///
/// # Errors
/// The kernel's.
pub fn size(fd: &OwnedFd) -> io::Result<u64> {
    // SAFETY: moves the descriptor's position and nothing else; nobody reads or writes by it.
    let end = unsafe { libc::lseek(fd.as_raw_fd(), 0, libc::SEEK_END) };
    u64::try_from(end).map_err(|_| io::Error::last_os_error())
}

/// Whether `path` leads to what is open, and how many names that has. A block device is the same by
/// any node of its number.
///
/// # Errors
/// The kernel's, but for that nothing is there.
pub fn is_at(fd: &OwnedFd, path: &Path) -> io::Result<(bool, u64)> {
    let held = File::from(fd.try_clone()?).metadata()?;
    let there = match std::fs::metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((false, held.nlink())),
        Err(error) => return Err(error),
    };
    let same = if held.file_type().is_block_device() {
        there.file_type().is_block_device() && there.rdev() == held.rdev()
    } else {
        (there.dev(), there.ino()) == (held.dev(), held.ino())
    };
    Ok((same, held.nlink()))
}

/// Bytes of a block device's logical sector, the unit of its direct I/O.
///
/// # Errors
/// The kernel's; `ENOTTY` where it is no block device.
pub fn logical_sector_bytes(fd: &OwnedFd) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: BLKSSZGET writes one int to the pointer, which is to a local int.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), BLKSSZGET, &raw mut bytes) })?;
    u32::try_from(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Tells a block device that the range holds nothing of worth.
///
/// # Errors
/// The kernel's; `EOPNOTSUPP` where the device cannot.
pub fn discard_block_device(fd: &OwnedFd, offset: u64, len: u64) -> io::Result<()> {
    let range = [offset, len];
    // SAFETY: BLKDISCARD reads two u64 from the pointer, which is to a local array of two.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), BLKDISCARD, range.as_ptr()) })
}

/// Drops the kernel's clean cached pages of the file, so that the next read asks the device.
///
/// # Errors
/// The kernel's.
pub fn drop_cache(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: the descriptor is open; no memory is passed.
    let code = unsafe { libc::posix_fadvise(fd.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}

/// Takes the file's exclusive lock (flock(2)) for as long as the descriptor stays open, without
/// waiting. `false`: somebody else has it.
///
/// # Errors
/// The kernel's.
pub fn lock_exclusive(fd: &OwnedFd) -> io::Result<bool> {
    // SAFETY: the descriptor is open; no memory is passed.
    match check(unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EWOULDBLOCK) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes a directory's entries durable.
///
/// # Errors
/// The kernel's.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC)
        .open(path)?
        .sync_all()
}

/// Replaces a small file in one durable step: a new file beside it, fsync, rename, fsync of the
/// directory. After a crash the old bytes or the new ones are there, never a mixture.
///
/// # Errors
/// The kernel's; the old file stands then, and nothing is left beside it.
pub fn write_file_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let beside = name_beside(path)?;
    or_discard(&beside, write_new(&beside, bytes, mode))?;
    or_discard(&beside, std::fs::rename(&beside, path))?;
    sync_directory(parent_of(path))
}

/// As [`write_file_atomic`], and what stood there before is overwritten: the two change places, so
/// that a crash leaves it under a name that tells what it is ([`is_leftover`]), and no old bytes in
/// blocks that are free. The inner result: whether they could be overwritten.
///
/// # Errors
/// The kernel's; the old file stands then.
pub fn write_file_shredding(path: &Path, bytes: &[u8], mode: u32) -> io::Result<io::Result<()>> {
    let beside = name_beside(path)?;
    or_discard(&beside, write_new(&beside, bytes, mode))?;
    match exchange(&beside, path) {
        Ok(()) => {
            // The old bytes go once the new ones are found under the name, whatever happens.
            sync_directory(parent_of(path))?;
            Ok(overwrite_and_remove(&beside))
        }
        // None stands there, or the filesystem cannot: it is held by its descriptor instead.
        Err(_) => {
            let old = open_to_overwrite(path);
            or_discard(&beside, std::fs::rename(&beside, path))?;
            sync_directory(parent_of(path))?;
            Ok(match old {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                old => old.and_then(|file| overwrite(&file)),
            })
        }
    }
}

/// Whether a file's name is that of a new or an old file beside `of`, left there by a process that
/// ended while it replaced it.
#[must_use]
pub fn is_leftover(name: &OsStr, of: &OsStr) -> bool {
    let rest = name.as_bytes().strip_prefix(b".").and_then(|n| n.strip_prefix(of.as_bytes()));
    let digits = rest.and_then(|rest| rest.strip_prefix(b"."));
    let is_digit = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    digits.is_some_and(|digits| digits.len() == 16 && digits.iter().all(is_digit))
}

/// A name beside `path` that nothing has yet.
fn name_beside(path: &Path) -> io::Result<PathBuf> {
    let mut beside = OsString::from(".");
    beside.push(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
    beside.push(format!(".{:016x}", random::u64()));
    Ok(parent_of(path).join(beside))
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// After a failure the new file goes again, overwritten: it may hold keys.
fn or_discard(beside: &Path, result: io::Result<()>) -> io::Result<()> {
    result.inspect_err(|_| {
        if overwrite_and_remove(beside).is_err() {
            let _ = std::fs::remove_file(beside);
        }
    })
}

/// Two files take each other's name in one step.
fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    let name = |path: &Path| CString::new(path.as_os_str().as_bytes());
    let (a, b) = (name(a)?, name(b)?);
    let (here, flags) = (libc::AT_FDCWD, libc::RENAME_EXCHANGE);
    // SAFETY: both names end in a zero and outlive the call.
    let result =
        unsafe { libc::syscall(libc::SYS_renameat2, here, a.as_ptr(), here, b.as_ptr(), flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Overwrites a file's bytes with zeros, makes that durable and removes it. Best effort: what the
/// medium or a copy-on-write filesystem keeps of the old bytes is out of reach.
///
/// # Errors
/// The kernel's.
pub fn overwrite_and_remove(path: &Path) -> io::Result<()> {
    overwrite(&open_to_overwrite(path)?)?;
    std::fs::remove_file(path)?;
    sync_directory(parent_of(path))
}

fn open_to_overwrite(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW).open(path)
}

fn overwrite(file: &File) -> io::Result<()> {
    let zeros = [0u8; 4096];
    let len = file.metadata()?.len();
    let mut at = 0;
    while at < len {
        let n = (len - at).min(zeros.len() as u64);
        file.write_all_at(&zeros[..usize::try_from(n).unwrap_or(zeros.len())], at)?;
        at += n;
    }
    file.sync_all()
}

/// Bytes free for an ordinary user on the filesystem that holds `path`.
///
/// # Errors
/// The kernel's.
pub fn filesystem_free_bytes(path: &Path) -> io::Result<u64> {
    let stat = nix::sys::statvfs::statvfs(path)?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

/// The name of the filesystem that holds `path`, for what it promises of overwriting, by its
/// number in statfs(2): `ext4`, `xfs`, `btrfs`, `zfs`, `overlay`, `nfs`, `tmpfs`, `ramfs`, or `other`.
///
/// # Errors
/// The kernel's.
pub fn filesystem_name(path: &Path) -> io::Result<&'static str> {
    let text =
        CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: `statfs` is plain integers, for which zero is a value.
    let mut out: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path is NUL-terminated, and the kernel writes one `statfs` to the local one.
    check(unsafe { libc::statfs(text.as_ptr(), &raw mut out) })?;
    Ok(match u32::try_from(out.f_type & 0xffff_ffff).unwrap_or(0) {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x2fc1_2fc1 => "zfs",
        0x794c_7630 => "overlay",
        0x6969 => "nfs",
        0x0102_1994 => "tmpfs",
        0x8584_58f6 => "ramfs",
        0xf2f5_2010 => "f2fs",
        0xff53_4d42 | 0xfe53_4d42 => "smb",
        0x6573_5546 => "fuse",
        _ => "other",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::AlignedBuf;

    #[test]
    fn direct_reads_see_direct_writes_and_holes_read_as_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        drop(create_sparse(&path, 1 << 20).unwrap());
        assert_eq!(create_sparse(&path, 1).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let (fd, _direct) = open_direct(&path, true).unwrap();
        assert_eq!(size(&fd).unwrap(), 1 << 20);
        fallocate_keep(&fd, 0, 65_536).unwrap();
        pwrite(&fd, &AlignedBuf::from_slice(&[7; 8192]), 4096).unwrap();
        fdatasync(&fd).unwrap();
        let mut back = AlignedBuf::new(8192);
        pread(&fd, &mut back, 4096).unwrap();
        assert!(back.iter().all(|b| *b == 7));
        punch_hole(&fd, 4096, 4096).unwrap();
        pread(&fd, &mut back, 4096).unwrap();
        assert!(back[..4096].iter().all(|b| *b == 0) && back[4096..].iter().all(|b| *b == 7));
        let past = pread(&fd, &mut back, (1 << 20) - 4096).unwrap_err();
        assert_eq!(past.kind(), io::ErrorKind::UnexpectedEof);
        set_size(&fd, 2 << 20).unwrap();
        assert_eq!(size(&fd).unwrap(), 2 << 20);
    }

    #[test]
    fn a_lock_is_had_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let first = create_sparse(&path, 0).unwrap();
        let (second, _) = open_direct(&path, true).unwrap();
        assert!(lock_exclusive(&first).unwrap());
        assert!(!lock_exclusive(&second).unwrap());
        drop(first);
        assert!(lock_exclusive(&second).unwrap());
    }

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left_beside_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_file_atomic(&path, b"one", 0o600).unwrap();
        write_file_atomic(&path, b"two", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(write_file_atomic(&dir.path().join("missing/f"), b"", 0o600).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        overwrite_and_remove(&path).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_shredding_replacement_leaves_zeros_of_the_file_before_and_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let (path, kept) = (dir.path().join("f"), dir.path().join("kept"));
        write_file_shredding(&path, b"one", 0o600).unwrap().unwrap();
        std::fs::hard_link(&path, &kept).unwrap();
        write_file_shredding(&path, b"two", 0o600).unwrap().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read(&kept).unwrap(), [0; 3]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_could_not_be_put_in_place_is_overwritten_before_it_goes() {
        let dir = tempfile::tempdir().unwrap();
        let (beside, kept) = (dir.path().join("new"), dir.path().join("kept"));
        write_new(&beside, b"secret", 0o600).unwrap();
        std::fs::hard_link(&beside, &kept).unwrap();
        let failed = or_discard(&beside, Err(io::ErrorKind::StorageFull.into()));
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(!beside.exists());
        assert_eq!(std::fs::read(kept).unwrap(), [0; 6]);
    }

    #[test]
    fn leftovers_are_told_by_their_whole_name() {
        let of = |name: &str| is_leftover(name.as_ref(), "keyring".as_ref());
        assert!(of(".keyring.0123456789abcdef"));
        for other in
            [".keyring.0123456789abcde", ".keyring.0123456789ABCDEF", "keyring", ".keyring.key"]
        {
            assert!(!of(other), "{other}");
        }
        assert!(!of(".keyring.key.0123456789abcdef"));
        assert!(is_leftover(
            name_beside(Path::new("a/f")).unwrap().file_name().unwrap(),
            "f".as_ref()
        ));
    }
}
