//! A disk that is a FUSE filesystem: one file, `pool.img`, and beside it one by which the disk is told what
//! to do and tells what it did. What stands behind them is a [`Medium`].

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use nix::fcntl::FallocateFlags;

const IMAGE: INodeNo = INodeNo(2);
const CONTROL: INodeNo = INodeNo(3);
/// Nothing is remembered by the kernel.
const TTL: Duration = Duration::ZERO;

/// What keeps the bytes. An error without a number is told as `EIO`, or `EINVAL` for invalid input.
pub trait Medium: Send + Sync + 'static {
    /// Name of the program.
    const NAME: &'static str;
    /// Name of the file by which it is controlled.
    const CONTROL: &'static str;
    /// Requests that it serves at once.
    const THREADS: usize;

    /// Bytes; `None` until the image is made.
    fn size(&self) -> io::Result<Option<u64>>;
    /// Makes the image, of no bytes.
    fn make(&self) -> io::Result<()>;
    /// Gives the image another size.
    fn resize(&self, size: u64) -> io::Result<()>;
    /// What stands there; less at the end, or where it does not do all of it.
    fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>>;
    /// Returns how much was written.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<usize>;
    /// Makes durable what was written.
    fn flush(&self) -> io::Result<()>;
    /// Takes room for what is written later.
    fn take_room(&self, range: Range<u64>) -> io::Result<()>;
    /// Leaves zeros in a range.
    fn discard(&self, range: Range<u64>) -> io::Result<()>;
    /// Does what is written to the file of control.
    fn control(&self, line: &str) -> io::Result<()>;
    /// What reading that file gives.
    fn told(&self) -> String;
}

/// Serves the disk until it is unmounted. The program's arguments are its mount point and the file that
/// `make` puts its bytes into.
pub fn serve<M: Medium>(make: impl FnOnce(&Path) -> io::Result<M>) -> io::Result<()> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [mount_point, backing] = &arguments[..] else {
        return Err(io::Error::other(format!("usage: {} MOUNT_POINT BACKING", M::NAME)));
    };
    let mut config = fuser::Config::default();
    config.n_threads = Some(M::THREADS);
    config.mount_options = vec![fuser::MountOption::FSName(M::NAME.to_owned())];
    fuser::mount(Disk(make(Path::new(backing))?), mount_point, &config)
}

struct Disk<M>(M);

impl<M: Medium> Disk<M> {
    fn attributes(&self, ino: INodeNo) -> Result<FileAttr, Errno> {
        let size = || self.0.size().map_err(|e| Self::errno(&e))?.ok_or(Errno::ENOENT);
        let (kind, perm, size) = match ino {
            INodeNo::ROOT => (FileType::Directory, 0o700, 0),
            IMAGE => (FileType::RegularFile, 0o600, size()?),
            CONTROL => (FileType::RegularFile, 0o600, self.0.told().len() as u64),
            _ => return Err(Errno::ENOENT),
        };
        let (at, blocks, nlink) = (UNIX_EPOCH, size.div_ceil(512), 1);
        let (uid, gid, rdev, flags, blksize) = (0, 0, 0, 0, 4096);
        Ok(FileAttr {
            ino,
            size,
            blocks,
            atime: at,
            mtime: at,
            ctime: at,
            crtime: at,
            kind,
            perm,
            nlink,
            uid,
            gid,
            rdev,
            blksize,
            flags,
        })
    }

    fn errno(error: &io::Error) -> Errno {
        match error.kind() {
            io::ErrorKind::InvalidInput => return Errno::EINVAL,
            io::ErrorKind::NotConnected => {}
            _ => eprintln!("{}: {error}", M::NAME),
        }
        error.raw_os_error().map_or(Errno::EIO, Errno::from_i32)
    }

    fn empty(done: io::Result<()>, reply: ReplyEmpty) {
        match done {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(Self::errno(&error)),
        }
    }
}

impl<M: Medium> Filesystem for Disk<M> {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let ino = match name.to_str() {
            Some("pool.img") => IMAGE,
            Some(name) if name == M::CONTROL => CONTROL,
            _ => return reply.error(Errno::ENOENT),
        };
        match self.attributes(ino) {
            Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(ino) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        if let Some(size) = size.filter(|_| ino == IMAGE)
            && let Err(error) = self.0.resize(size)
        {
            return reply.error(Self::errno(&error));
        }
        match self.attributes(ino) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn create(
        &self,
        _: &Request,
        _parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        if name != "pool.img" {
            return reply.error(Errno::EPERM);
        }
        if let Err(error) = self.0.make() {
            return reply.error(Self::errno(&error));
        }
        match self.attributes(IMAGE) {
            Ok(attr) => {
                let (file, direct) = (FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
                reply.created(&TTL, &attr, Generation(0), file, direct);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _: &Request, _ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if ino == CONTROL {
            let told = self.0.told();
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(told.len());
            return reply.data(&told.as_bytes()[start..]);
        }
        match self.0.read(offset, size as usize) {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(Self::errno(&error)),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let done = match ino {
            CONTROL => self.0.control(&String::from_utf8_lossy(data)).map(|()| data.len()),
            _ => self.0.write(offset, data),
        };
        match done {
            Ok(len) => reply.written(u32::try_from(len).unwrap_or(u32::MAX)),
            Err(error) => reply.error(Self::errno(&error)),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        _ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let range = offset..offset + length;
        let done = match mode & FallocateFlags::FALLOC_FL_PUNCH_HOLE.bits() {
            0 => self.0.take_room(range),
            _ => self.0.discard(range),
        };
        Self::empty(done, reply);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // What close(2) calls: it makes nothing durable.
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        Self::empty(self.0.flush(), reply);
    }
}

/// Opens a file for the bytes, with none in it.
pub fn emptied(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)
}

/// Leaves zeros in a range of a file, and gives its room back.
pub fn punch(file: &File, range: Range<u64>) -> io::Result<()> {
    let signed = |n: u64| i64::try_from(n).map_err(io::Error::other);
    let (offset, len) = (signed(range.start)?, signed(range.end - range.start)?);
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    Ok(nix::fcntl::fallocate(file, flags, offset, len)?)
}
