//! Opening files of a FUSE mount by inode number, and writing out what the kernel holds of them.
//!
//! These calls touch a mounted filesystem: they belong to the barrier's helper process, never to
//! the process that serves the mount ([`may_open_by_handle`] alone touches none).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::stat::Mode;

use crate::sys::mount_table::DeviceNumber;

/// `FILEID_INO64_GEN`: inode number in 64 bits and a generation in 32, as FUSE writes handles.
const HANDLE_TYPE: i32 = 0x81;
/// Three native words of 32 bits: inode number high, inode number low, generation.
const HANDLE_BYTES: u32 = 12;

/// `struct file_handle` of open_by_handle_at(2) with room for a FUSE handle.
#[repr(C)]
struct FileHandle {
    handle_bytes: u32,
    handle_type: i32,
    words: [u32; 3],
}

/// An open file of the mount behind `mount`, read-only, closed on exec. The file may have no name
/// any more.
///
/// # Errors
/// `ESTALE` where the kernel knows no such inode now (nobody has it open); `EPERM` without
/// `CAP_DAC_READ_SEARCH`; whatever opening it answers.
pub fn open_by_handle(mount: BorrowedFd<'_>, inode: u64, generation: u32) -> io::Result<OwnedFd> {
    let handle = FileHandle {
        handle_bytes: HANDLE_BYTES,
        handle_type: HANDLE_TYPE,
        words: [(inode >> 32) as u32, inode as u32, generation],
    };
    open_handle(mount, handle)
}

fn open_handle(mount: BorrowedFd<'_>, mut handle: FileHandle) -> io::Result<OwnedFd> {
    let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOFOLLOW;
    // SAFETY: the structure is laid out as the kernel's `file_handle` followed by the twelve bytes
    // that `handle_bytes` announces, and outlives the call, which only reads it.
    let fd = unsafe {
        libc::open_by_handle_at(
            mount.as_raw_fd(),
            std::ptr::from_mut(&mut handle).cast::<libc::file_handle>(),
            flags,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just returned this descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether this process may open files by handle at all: tried with a handle that names nothing,
/// on `/`. Capabilities, user namespaces and seccomp filters all show here.
#[must_use]
pub fn may_open_by_handle() -> bool {
    // Not O_PATH: the kernel takes no such descriptor for this call.
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let Ok(root) = nix::fcntl::open("/", flags, Mode::empty()) else { return false };
    let nothing = FileHandle { handle_bytes: HANDLE_BYTES, handle_type: 0x7f, words: [0; 3] };
    match open_handle(std::os::fd::AsFd::as_fd(&root), nothing) {
        Ok(_) => true,
        // The answer to a handle that names nothing, from whoever was let through to ask.
        Err(e) => matches!(e.raw_os_error(), Some(libc::ESTALE | libc::EINVAL | libc::EOPNOTSUPP)),
    }
}

/// The directory at `path`, opened for reading (handles cannot be opened through less), if it is
/// the root of the filesystem `device`.
///
/// # Errors
/// `ENODEV` where another filesystem stands there; whatever opening it answers.
pub fn open_mount(path: &Path, device: DeviceNumber) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = nix::fcntl::open(path, flags, Mode::empty())?;
    if device_of(&fd)? == device { Ok(fd) } else { Err(io::Error::from_raw_os_error(libc::ENODEV)) }
}

/// The device number of an open file, from the kernel's memory.
fn device_of(fd: &OwnedFd) -> io::Result<DeviceNumber> {
    let mut status = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: an empty path with AT_EMPTY_PATH means the descriptor itself, which is open; the
    // buffer is a whole `statx`.
    let result = unsafe {
        libc::statx(
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC,
            libc::STATX_INO,
            status.as_mut_ptr(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the buffer began as zeros, a valid `statx`, and the call succeeded.
    let status = unsafe { status.assume_init() };
    Ok(DeviceNumber { major: status.stx_dev_major, minor: status.stx_dev_minor })
}

/// Starts writing a file's dirty pages and does not wait for them.
///
/// # Errors
/// As sync_file_range(2).
pub fn start_writeback(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open for the whole call, which takes no pointers. Length 0 means
    // to the end of the file.
    let result =
        unsafe { libc::sync_file_range(fd.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Writes a file's dirty pages and its pending time stamps, and waits until the filesystem has
/// answered for all of them.
///
/// # Errors
/// As fdatasync(2): also an error of an earlier write that nobody was told of.
pub fn wait_for_writeback(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(nix::unistd::fdatasync(fd)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    #[test]
    fn handles_are_laid_out_as_the_kernel_reads_them() {
        assert_eq!(std::mem::size_of::<FileHandle>(), 8 + HANDLE_BYTES as usize);
        assert_eq!(std::mem::offset_of!(FileHandle, words), 8);
        assert_eq!(std::mem::size_of::<libc::file_handle>(), 8);
    }

    #[test]
    fn root_may_open_by_handle() {
        if nix::unistd::geteuid().is_root() {
            assert!(may_open_by_handle());
        }
    }

    #[test]
    fn a_mount_is_opened_only_if_it_is_the_expected_one() {
        let root = crate::sys::mount_table::mount_at(Path::new("/")).unwrap().unwrap();
        open_mount(Path::new("/"), root.device).unwrap();
        let other = DeviceNumber { major: 0, minor: 0xf_fff0 };
        let error = open_mount(Path::new("/"), other).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn writeback_of_an_ordinary_file() {
        let file = tempfile::tempfile_in("/tmp").unwrap();
        start_writeback(file.as_fd()).unwrap();
        wait_for_writeback(file.as_fd()).unwrap();
    }
}
