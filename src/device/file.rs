//! Files, directories with an image in them, and block devices.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::counters;
use crate::base::units::{BLOCK_SIZE, BLOCK_SIZE_U64};
use crate::device::{
    Device, DeviceError, DeviceInfo, DeviceKind, Operation, Standing, check_range,
};
use crate::sys::own_directory::{NotOwn, Others, OwnDirectory};
use crate::sys::{AlignedBuf, file_io};

/// Name of the image in a directory pool.
pub const IMAGE_NAME: &str = "pool.img";

/// How a device is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// For looking only; beside a process that writes.
    ReadOnly,
    /// For reading only, while nobody writes: under the lock of who writes, as far as there are locks
    /// on something that cannot be written to.
    ReadAlone,
    /// For writing; one process at a time, held by a lock for as long as the device is open.
    ReadWrite,
}

/// Where the bytes of the pool at `path` stand, and what that is: the image in a directory, a
/// file, or a block device.
///
/// # Errors
/// [`DeviceError::NotFound`], [`DeviceError::Unsuitable`], [`DeviceError::Io`]
pub fn locate(path: &Path) -> Result<(PathBuf, DeviceKind), DeviceError> {
    let kind = fs::metadata(path).map_err(|e| open_error(path, e))?.file_type();
    if kind.is_dir() {
        let image = path.join(IMAGE_NAME);
        let meta = fs::metadata(&image).map_err(|e| open_error(&image, e))?;
        return match meta.is_file() {
            true => Ok((image, DeviceKind::Directory)),
            false => Err(DeviceError::Unsuitable { path: image }),
        };
    }
    if kind.is_file() {
        Ok((path.to_owned(), DeviceKind::File))
    } else if kind.is_block_device() {
        Ok((path.to_owned(), DeviceKind::BlockDevice))
    } else {
        Err(DeviceError::Unsuitable { path: path.to_owned() })
    }
}

/// Opens what [`locate`] finds. For writing: under an exclusive lock, and flushed before anything
/// of it is believed; a directory must be this user's or root's, and nobody else may write to it.
/// For reading alone: the same, but for the flush; what does not take the lock is read without.
///
/// # Errors
/// [`DeviceError`]; `Busy` where another process has it open for writing or reads it alone, `NotOwn`
/// where somebody else could exchange the image.
pub fn open(path: &Path, mode: Mode) -> Result<Arc<dyn Device>, DeviceError> {
    let (place, kind) = locate(path)?;
    Ok(Arc::new(FileDevice::open(place, kind, mode)?))
}

/// Makes the room for a new pool and opens it for writing. A directory (also one that is not
/// there yet) gets an image; a path that ends in `.img` is a sparse file; a block device is taken
/// as it is, whatever it holds: see [`crate::device::find_signature`]. `size`: bytes, rounded down
/// to blocks; without it 90 % of the filesystem's free space, or all of a block device.
///
/// # Errors
/// [`DeviceError`]; `Exists` where an image or a file with bytes in it is there, `NoSpace` where
/// a block device is smaller than `size`, `NotOwn` as in [`open`].
pub fn create(path: &Path, size: Option<u64>) -> Result<Arc<dyn Device>, DeviceError> {
    let kind = match fs::metadata(path) {
        Ok(meta) => Some(meta.file_type()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(open_error(path, error)),
    };
    let as_file = path.extension().is_some_and(|e| e == "img");
    let (place, device_kind) = match kind {
        Some(kind) if kind.is_block_device() => return open_whole_device(path, size),
        Some(kind) if kind.is_dir() => (path.join(IMAGE_NAME), DeviceKind::Directory),
        Some(kind) if kind.is_file() => return Err(DeviceError::Exists { path: path.to_owned() }),
        Some(_) => return Err(DeviceError::Unsuitable { path: path.to_owned() }),
        None if as_file => (path.to_owned(), DeviceKind::File),
        None => {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(|e| open_error(path, e))?;
            (path.join(IMAGE_NAME), DeviceKind::Directory)
        }
    };
    let parent = match place.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let bytes = match size {
        Some(size) => size,
        None => file_io::filesystem_free_bytes(parent).map_err(|e| open_error(parent, e))? / 10 * 9,
    };
    let bytes = bytes / BLOCK_SIZE_U64 * BLOCK_SIZE_U64;
    let own = own_directory(&place, device_kind)?;
    let way = own.as_ref().map_or_else(|| place.clone(), |own| own.entry(IMAGE_NAME));
    drop(file_io::create_sparse(&way, bytes).map_err(|e| open_error(&place, e))?);
    file_io::sync_directory(parent).map_err(|e| open_error(parent, e))?;
    Ok(Arc::new(FileDevice::open(place, device_kind, Mode::ReadWrite)?))
}

fn open_whole_device(path: &Path, size: Option<u64>) -> Result<Arc<dyn Device>, DeviceError> {
    let device = FileDevice::open(path.to_owned(), DeviceKind::BlockDevice, Mode::ReadWrite)?;
    if size.is_some_and(|size| size > device.size_bytes()) {
        return Err(DeviceError::NoSpace);
    }
    Ok(Arc::new(device))
}

/// The directory of a pool that has one.
fn own_directory(image: &Path, kind: DeviceKind) -> Result<Option<OwnDirectory>, DeviceError> {
    let parent = image.parent().filter(|_| kind == DeviceKind::Directory);
    match parent.map(|parent| OwnDirectory::open(parent, Others::MayNotWrite)).transpose() {
        Err(NotOwn::Io { path, source }) => Err(open_error(&path, source)),
        found => Ok(found?),
    }
}

fn open_error(path: &Path, error: io::Error) -> DeviceError {
    let path = path.to_owned();
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => DeviceError::NotFound { path },
        Some(libc::EEXIST) => DeviceError::Exists { path },
        Some(libc::EBUSY) => DeviceError::Busy { path },
        _ => failed(Operation::Open, 0, error),
    }
}

fn failed(op: Operation, offset: u64, source: io::Error) -> DeviceError {
    counters::DEVICE_ERRORS.increment();
    match source.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => DeviceError::NoSpace,
        _ => DeviceError::Io { op, offset, source },
    }
}

/// A flush that failed. Also where the filesystem beneath is full: nobody knows what it lost.
fn not_flushed(source: io::Error) -> DeviceError {
    counters::DEVICE_ERRORS.increment();
    DeviceError::Io { op: Operation::Flush, offset: 0, source }
}

/// A device over one descriptor.
struct FileDevice {
    fd: OwnedFd,
    size: AtomicU64,
    info: DeviceInfo,
}

impl FileDevice {
    fn open(path: PathBuf, kind: DeviceKind, mode: Mode) -> Result<Self, DeviceError> {
        let (write, alone) = (mode == Mode::ReadWrite, mode != Mode::ReadOnly);
        let own = if alone { own_directory(&path, kind)? } else { None };
        let opened = match (kind, own) {
            (DeviceKind::BlockDevice, _) if alone => file_io::open_direct_exclusive(&path, write),
            (_, Some(own)) => file_io::open_direct(&own.entry(IMAGE_NAME), write),
            (_, None) => file_io::open_direct(&path, write),
        };
        let (fd, direct) = opened.map_err(|e| open_error(&path, e))?;
        let device = |e| failed(Operation::Open, 0, e);
        let locked = match alone.then(|| file_io::lock_exclusive(&fd)).transpose() {
            Ok(Some(false)) => return Err(DeviceError::Busy { path }),
            Ok(locked) => locked.is_some(),
            // Some network filesystems lock only what is open for writing.
            Err(_) if !write => false,
            Err(error) => return Err(device(error)),
        };
        if write {
            file_io::fdatasync(&fd).map_err(device)?;
        }
        if !direct {
            // Otherwise the cache could show what the disk does not have.
            file_io::drop_cache(&fd).map_err(device)?;
        }
        let size = file_io::size(&fd).map_err(device)? / BLOCK_SIZE_U64 * BLOCK_SIZE_U64;
        Ok(Self { fd, size: AtomicU64::new(size), info: DeviceInfo { path, direct, locked, kind } })
    }

    /// What a request failed with. A device that was cut short answers in ways of its own: by an end
    /// of file, an error, or that there is no room.
    fn failed(&self, op: Operation, offset: u64, source: io::Error) -> DeviceError {
        let failed = failed(op, offset, source);
        self.check_size(op).err().unwrap_or(failed)
    }

    /// That the device is not shorter than it was.
    fn check_size(&self, op: Operation) -> Result<(), DeviceError> {
        let size = self.size_bytes();
        let found = file_io::size(&self.fd).map_err(|e| failed(op, 0, e))?;
        if found < size { Err(DeviceError::CutShort { size, found }) } else { Ok(()) }
    }

    fn is_aligned(&self, start: *const u8) -> bool {
        !self.info.direct || start.addr().is_multiple_of(BLOCK_SIZE)
    }
}

impl Device for FileDevice {
    fn size_bytes(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        check_range(self.size_bytes(), offset, buf.len() as u64)?;
        let result = if self.is_aligned(buf.as_ptr()) {
            file_io::pread(&self.fd, buf, offset)
        } else {
            let mut aligned = AlignedBuf::new(buf.len());
            file_io::pread(&self.fd, &mut aligned, offset).map(|()| buf.copy_from_slice(&aligned))
        };
        result.map_err(|e| self.failed(Operation::Read, offset, e))?;
        counters::DEVICE_READ_BYTES.add(buf.len() as u64);
        Ok(())
    }

    fn write(&self, offset: u64, buf: &[u8]) -> Result<(), DeviceError> {
        check_range(self.size_bytes(), offset, buf.len() as u64)?;
        if offset + buf.len() as u64 == self.size_bytes() {
            // Of a file that was cut short it would make one of the old size, with a hole in it.
            self.check_size(Operation::Write)?;
        }
        let result = if self.is_aligned(buf.as_ptr()) {
            file_io::pwrite(&self.fd, buf, offset)
        } else {
            file_io::pwrite(&self.fd, &AlignedBuf::from_slice(buf), offset)
        };
        result.map_err(|e| self.failed(Operation::Write, offset, e))?;
        counters::DEVICE_WRITE_BYTES.add(buf.len() as u64);
        Ok(())
    }

    fn flush(&self) -> Result<(), DeviceError> {
        file_io::fdatasync(&self.fd).map_err(|e| self.failed(Operation::Flush, 0, e))?;
        self.check_size(Operation::Flush)?;
        counters::DEVICE_FLUSHES.increment();
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> Result<bool, DeviceError> {
        check_range(self.size_bytes(), offset, len)?;
        let result = match self.info.kind {
            _ if len == 0 => return Ok(true),
            DeviceKind::BlockDevice => file_io::discard_block_device(&self.fd, offset, len),
            _ => file_io::punch_hole(&self.fd, offset, len),
        };
        match result {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
            Err(e) => Err(failed(Operation::Discard, offset, e)),
        }
    }

    fn ensure(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        check_range(self.size_bytes(), offset, len)?;
        if len == 0 || self.info.kind == DeviceKind::BlockDevice {
            return Ok(());
        }
        match file_io::fallocate_keep(&self.fd, offset, len) {
            Ok(()) => Ok(()),
            // A filesystem that cannot promise space (docs/operating.md): writes find out.
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
            Err(e) => Err(failed(Operation::Ensure, offset, e)),
        }
    }

    fn grow(&self, new_size: u64) -> Result<(), DeviceError> {
        let grow = |e| failed(Operation::Grow, 0, e);
        let size = self.size_bytes();
        let out_of_range = DeviceError::OutOfRange { offset: 0, len: new_size, size };
        if new_size < size || !new_size.is_multiple_of(BLOCK_SIZE_U64) {
            return Err(out_of_range);
        }
        // Of a file that was cut short it would make a longer one, with a hole in it.
        self.check_size(Operation::Grow)?;
        // Never cut off what another growth, cut short by a crash, may have added.
        if file_io::size(&self.fd).map_err(grow)? < new_size {
            if self.info.kind == DeviceKind::BlockDevice {
                return Err(out_of_range);
            }
            file_io::set_size(&self.fd, new_size).map_err(grow)?;
        }
        file_io::fdatasync(&self.fd).map_err(not_flushed)?;
        self.size.fetch_max(new_size, Ordering::AcqRel);
        Ok(())
    }

    fn standing(&self) -> Standing {
        match file_io::is_at(&self.fd, &self.info.path) {
            Ok((true, _)) | Err(_) => Standing::InPlace,
            // A device outlives its node.
            Ok((false, 0)) if self.info.kind != DeviceKind::BlockDevice => Standing::Removed,
            Ok((false, _)) => Standing::Moved,
        }
    }

    fn describe(&self) -> DeviceInfo {
        self.info.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::conformance;

    #[test]
    fn a_directory_and_a_file_keep_the_promises_of_a_device() {
        let dir = tempfile::tempdir().unwrap();
        for (name, kind) in [("pool", DeviceKind::Directory), ("a.img", DeviceKind::File)] {
            let path = dir.path().join(name);
            let device = create(&path, Some(16 << 20)).unwrap();
            assert_eq!(device.describe().kind, kind);
            conformance::run(&*device);
            drop(device);
            assert_eq!(locate(&path).unwrap().1, kind);
            conformance::remembers(&*open(&path, Mode::ReadWrite).unwrap());
        }
    }

    #[test]
    fn one_writer_at_a_time_and_readers_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.img");
        let writer = create(&path, Some(1 << 20)).unwrap();
        assert!(matches!(open(&path, Mode::ReadWrite), Err(DeviceError::Busy { .. })));
        assert!(open(&path, Mode::ReadOnly).is_ok());
        drop(writer);
        assert!(open(&path, Mode::ReadWrite).is_ok());
    }

    #[test]
    fn a_file_that_is_moved_replaced_or_removed_under_the_device_is_found_out() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["pool", "a.img"] {
            let device = create(&dir.path().join(name), Some(1 << 20)).unwrap();
            let path = device.describe().path;
            let away = dir.path().join("away");
            assert_eq!(device.standing(), Standing::InPlace);
            fs::rename(&path, &away).unwrap();
            assert_eq!(device.standing(), Standing::Moved);
            fs::write(&path, b"another").unwrap();
            assert_eq!(device.standing(), Standing::Moved);
            fs::rename(&away, &path).unwrap();
            assert_eq!(device.standing(), Standing::InPlace);
            fs::remove_file(&path).unwrap();
            assert_eq!(device.standing(), Standing::Removed);
        }
    }

    #[test]
    fn what_is_read_alone_cannot_be_written_and_is_locked_as_by_a_writer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.img");
        let writer = create(&path, Some(1 << 20)).unwrap();
        writer.write(4096, &[7; 4096]).unwrap();
        let busy = |mode| matches!(open(&path, mode), Err(DeviceError::Busy { .. }));
        assert!(busy(Mode::ReadAlone));
        drop(writer);
        let reader = open(&path, Mode::ReadAlone).unwrap();
        assert!(reader.describe().locked);
        assert!(busy(Mode::ReadWrite) && busy(Mode::ReadAlone));
        let before = fs::read(&path).unwrap();
        assert!(reader.write(0, &[1; 4096]).is_err());
        assert!(reader.grow(2 << 20).is_err());
        assert!(reader.ensure(0, 1 << 20).is_err());
        assert!(reader.discard(4096, 4096).is_err());
        assert!(fs::read(&path).unwrap() == before, "nothing is written");
        let mut block = [0; 4096];
        reader.read(4096, &mut block).unwrap();
        assert_eq!(block, [7; 4096]);
    }

    #[test]
    fn what_is_not_there_or_no_device_is_said_so() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("none");
        assert!(matches!(open(&missing, Mode::ReadOnly), Err(DeviceError::NotFound { .. })));
        assert!(matches!(open(dir.path(), Mode::ReadOnly), Err(DeviceError::NotFound { .. })));
        let null = Path::new("/dev/null");
        assert!(matches!(open(null, Mode::ReadOnly), Err(DeviceError::Unsuitable { .. })));
        let file = dir.path().join("f.img");
        fs::write(&file, b"somebody's").unwrap();
        assert!(matches!(create(&file, Some(1 << 20)), Err(DeviceError::Exists { .. })));
        drop(create(dir.path(), Some(1 << 20)).unwrap());
        assert!(matches!(create(dir.path(), None), Err(DeviceError::Exists { .. })));
    }

    #[test]
    fn a_directory_that_others_can_change_holds_no_pool() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let mode = |mode| fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode));
        let refused =
            |made: Result<Arc<dyn Device>, _>| matches!(made, Err(DeviceError::NotOwn(_)));
        mode(0o777).unwrap();
        assert!(refused(create(dir.path(), Some(1 << 20))));
        assert!(!dir.path().join(IMAGE_NAME).exists(), "nothing was made");
        mode(0o755).unwrap();
        drop(create(dir.path(), Some(1 << 20)).unwrap());
        std::os::unix::fs::chown(dir.path(), Some(4711), None).expect("tests run as root");
        assert!(refused(open(dir.path(), Mode::ReadWrite)));
        assert!(refused(open(dir.path(), Mode::ReadAlone)));
        assert!(open(dir.path(), Mode::ReadOnly).is_ok(), "looking is fine");
    }

    #[test]
    fn a_file_that_was_cut_short_is_told_so_and_not_made_longer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.img");
        let device = create(&path, Some(16 << 20)).unwrap();
        let mut block = AlignedBuf::from_slice(&[7; BLOCK_SIZE]);
        device.write(8 << 20, &block).unwrap();
        device.flush().unwrap();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        let short = (4 << 20) + 100;
        file.set_len(short).unwrap();
        let is_told = |done: Result<(), DeviceError>| match done {
            Err(DeviceError::CutShort { size, found }) => (size, found) == (16 << 20, short),
            _ => false,
        };
        assert!(is_told(device.read(8 << 20, &mut block)), "no zeros in place of what was there");
        assert!(is_told(device.read(4 << 20, &mut block)), "nor of a part of it");
        assert!(is_told(device.write((16 << 20) - BLOCK_SIZE_U64, &block)));
        assert!(is_told(device.flush()));
        assert_eq!(file.metadata().unwrap().len(), short);
        device.write(0, &block).unwrap();
        assert!(is_told(device.flush()), "nothing is durable there");
        file.set_len(16 << 20).unwrap();
        device.flush().unwrap();
    }

    #[test]
    fn a_file_that_was_cut_short_is_not_made_longer_by_growth() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.img");
        let device = create(&path, Some(16 << 20)).unwrap();
        let block = AlignedBuf::from_slice(&[7; BLOCK_SIZE]);
        device.write(8 << 20, &block).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(4 << 20).unwrap();
        let grown = device.grow(32 << 20);
        assert!(matches!(grown, Err(DeviceError::CutShort { .. })), "{grown:?}");
        assert_eq!(file.metadata().unwrap().len(), 4 << 20);
        assert_eq!(device.size_bytes(), 16 << 20);
        assert!(device.flush().is_err(), "what was written is lost");
    }

    #[test]
    fn growth_that_cannot_be_made_durable_is_a_failed_flush_whatever_failed_it() {
        for errno in [libc::EIO, libc::ENOSPC, libc::EDQUOT] {
            let error = not_flushed(io::Error::from_raw_os_error(errno));
            let is_flush = matches!(error, DeviceError::Io { op: Operation::Flush, .. });
            assert!(is_flush, "{error}");
        }
    }

    #[test]
    fn a_sparse_device_takes_space_only_where_it_is_used() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.img");
        let device = create(&path, Some(1 << 40)).unwrap();
        device.ensure(64 << 20, 1 << 20).unwrap();
        let blocks = fs::metadata(&path).unwrap().blocks();
        assert!((2048..8192).contains(&blocks), "{blocks} sectors for 1 MiB");
    }

    /// A loop device over a file; taken down when dropped.
    struct Loop {
        node: PathBuf,
    }

    fn losetup(args: &[&std::ffi::OsStr]) -> Option<String> {
        let out = std::process::Command::new("losetup").args(args).output().ok()?;
        let text = String::from_utf8_lossy(&out.stdout).trim().to_owned();
        out.status.success().then_some(text)
    }

    impl Loop {
        /// The kernel keeps this of a loop device, whatever is attached to it next. Whether it is done.
        fn set_writable(&self, writable: bool) -> bool {
            let how = if writable { "--setrw" } else { "--setro" };
            let mut set = std::process::Command::new("blockdev");
            set.arg(how).arg(&self.node).status().is_ok_and(|status| status.success())
        }
    }

    impl Drop for Loop {
        fn drop(&mut self) {
            self.set_writable(true);
            losetup(&["-d".as_ref(), self.node.as_os_str()]);
        }
    }

    /// Needs root and loop devices; says so where it has not run.
    #[test]
    fn a_block_device_keeps_the_promises_of_a_device() {
        let dir = tempfile::tempdir().unwrap();
        let backing = dir.path().join("disk");
        let file = fs::File::create_new(&backing).unwrap();
        file.set_len(16 << 20).unwrap();
        let args = ["--find".as_ref(), "--show".as_ref(), backing.as_os_str()];
        let Some(node) = losetup(&args) else {
            eprintln!("no loop device to be had: the block device was not tested");
            return;
        };
        let disk = Loop { node: node.into() };
        assert!(disk.set_writable(true));
        let device = create(&disk.node, None).unwrap();
        assert_eq!(device.describe().kind, DeviceKind::BlockDevice);
        for mode in [Mode::ReadWrite, Mode::ReadAlone] {
            assert!(matches!(open(&disk.node, mode), Err(DeviceError::Busy { .. })));
        }
        assert!(create(&disk.node, Some(1 << 30)).is_err(), "it is taken");
        conformance::run_with_growth(&*device, || {
            let size = device.size_bytes();
            assert!(matches!(device.grow(size + 4096), Err(DeviceError::OutOfRange { .. })));
            file.set_len(24 << 20).unwrap();
            losetup(&["-c".as_ref(), disk.node.as_os_str()]).unwrap();
        });
        drop(device);
        let device = open(&disk.node, Mode::ReadWrite).unwrap();
        conformance::remembers(&*device);
        drop(device);
        let reader = open(&disk.node, Mode::ReadAlone).unwrap();
        assert!(matches!(open(&disk.node, Mode::ReadWrite), Err(DeviceError::Busy { .. })));
        assert!(reader.write(0, &[1; 4096]).is_err());
        drop(reader);
        // One that cannot be written to at all.
        assert!(disk.set_writable(false));
        conformance::remembers(&*open(&disk.node, Mode::ReadAlone).unwrap());
        assert!(disk.set_writable(true));
        let device = open(&disk.node, Mode::ReadWrite).unwrap();
        says_that_it_was_cut_short(&*device, || {
            file.set_len(16 << 20).unwrap();
            losetup(&["-c".as_ref(), disk.node.as_os_str()]).unwrap();
        });
    }

    /// Of a device of 24 MiB, of which `cut` leaves 16.
    fn says_that_it_was_cut_short(device: &dyn Device, cut: impl FnOnce()) {
        let is_told = |done| {
            matches!(done, Err(DeviceError::CutShort { size: 0x180_0000, found: 0x100_0000 }))
        };
        let mut blocks = AlignedBuf::new(2 * BLOCK_SIZE);
        let across = (16 << 20) - BLOCK_SIZE_U64;
        device.write(across, &blocks).unwrap();
        cut();
        assert!(is_told(device.read(across, &mut blocks)));
        assert!(is_told(device.write(across, &blocks)));
        assert!(is_told(device.write(20 << 20, &blocks)));
        assert!(is_told(device.flush()));
    }
}
