//! A disk with a write cache that loses power: a FUSE filesystem with one file, `pool.img`, for
//! `scripts/kills.sh --power`.
//!
//! Usage: `volatile-disk MOUNT_POINT BACKING`. What is written stays in memory until `fsync`, which puts
//! it into the file BACKING. A number written to the file `power` cuts the power: of what was not
//! flushed, that number decides what the medium kept. That is any subset, of whole writes or of their
//! sectors of 512 bytes, each sector as some write of it left it: what `device` assumes of a medium.
//! What is discarded is gone from the medium at once. Until `on` is written to `power`, every request
//! fails. Reading `power` tells what was cut so far.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use nix::fcntl::FallocateFlags;
use strongroom::base::sequence::Sequence;
use strongroom::sys::clock;

const SECTOR: usize = 512;
const IMAGE: INodeNo = INodeNo(2);
const POWER: INodeNo = INodeNo(3);
/// Nothing is remembered by the kernel.
const TTL: Duration = Duration::ZERO;
/// How long a flush takes: as on a disk, most power cuts come before the end of one.
const FLUSH: Duration = Duration::from_millis(2);
/// One for the flush, one for the write that cuts the power meanwhile, and some.
const THREADS: usize = 4;

type Sector = [u8; SECTOR];

/// One write that was not flushed.
struct Write {
    sector: u64,
    data: Vec<u8>,
}

impl Write {
    fn range(&self) -> Range<u64> {
        let start = self.sector * SECTOR as u64;
        start..start + self.data.len() as u64
    }

    fn sectors(&self) -> impl Iterator<Item = (u64, Sector)> + '_ {
        let whole = self.data.as_chunks::<SECTOR>().0;
        (self.sector..).zip(whole.iter().copied())
    }
}

/// What power cuts did.
#[derive(Default)]
struct Tally {
    cuts: u64,
    sectors: u64,
    lost: u64,
    /// Bytes.
    discarded: u64,
}

struct Disk {
    backing: File,
    powered: bool,
    /// `None` until the image is made.
    size: Option<u64>,
    /// In the order in which they came.
    unflushed: Vec<Write>,
    /// The newest of each sector, over what the backing has.
    newest: BTreeMap<u64, Sector>,
    tally: Tally,
}

impl Disk {
    fn needs_power(&self) -> io::Result<()> {
        if self.powered { Ok(()) } else { Err(io::ErrorKind::NotConnected.into()) }
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.needs_power()?;
        let end = self.size.unwrap_or(0).min(offset + len as u64);
        let len = usize::try_from(end.saturating_sub(offset)).map_err(io::Error::other)?;
        let first = offset / SECTOR as u64;
        let skipped = usize::try_from(offset - first * SECTOR as u64).map_err(io::Error::other)?;
        let mut sectors = vec![[0; SECTOR]; (skipped + len).div_ceil(SECTOR)];
        self.backing.read_exact_at(sectors.as_flattened_mut(), first * SECTOR as u64)?;
        for (at, newest) in self.newest.range(first..first + sectors.len() as u64) {
            let index = usize::try_from(at - first).map_err(io::Error::other)?;
            sectors[index] = *newest;
        }
        Ok(sectors.as_flattened()[skipped..skipped + len].to_vec())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.needs_power()?;
        let sector = SECTOR as u64;
        let whole = offset.is_multiple_of(sector) && data.len().is_multiple_of(SECTOR);
        if !whole || offset + data.len() as u64 > self.size.unwrap_or(0) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let write = Write { sector: offset / sector, data: data.to_vec() };
        self.newest.extend(write.sectors());
        self.unflushed.push(write);
        Ok(())
    }

    fn resize(&mut self, size: u64) -> io::Result<()> {
        let size = size.next_multiple_of(SECTOR as u64);
        if size < self.size.unwrap_or(0) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.size = Some(size);
        self.backing.set_len(size)
    }

    fn put(&self, sector: u64, data: &Sector) -> io::Result<()> {
        self.backing.write_all_at(data, sector * SECTOR as u64)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.needs_power()?;
        // In order, so that the newest stays.
        for write in std::mem::take(&mut self.unflushed) {
            self.backing.write_all_at(&write.data, write.sector * SECTOR as u64)?;
        }
        self.newest.clear();
        Ok(())
    }

    /// Leaves zeros in a range of whole sectors, on the medium too.
    fn discard(&mut self, range: Range<u64>) -> io::Result<()> {
        self.needs_power()?;
        let sector = SECTOR as u64;
        let meets =
            |write: &Write| write.range().start < range.end && range.start < write.range().end;
        let lies_within =
            |write: &Write| range.start <= write.range().start && write.range().end <= range.end;
        let whole = range.start.is_multiple_of(sector) && range.end.is_multiple_of(sector);
        if !whole || self.unflushed.iter().any(|write| meets(write) && !lies_within(write)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.unflushed.retain(|write| !lies_within(write));
        self.newest.retain(|at, _| !range.contains(&(at * sector)));
        let signed = |n: u64| i64::try_from(n).map_err(io::Error::other);
        let (offset, len) = (signed(range.start)?, signed(range.end - range.start)?);
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        nix::fcntl::fallocate(&self.backing, flags, offset, len)?;
        self.tally.discarded += range.end - range.start;
        Ok(())
    }

    /// The medium keeps what the seed says of what was not flushed.
    fn cut(&mut self, seed: u64) -> io::Result<()> {
        let mut dice = Sequence(seed);
        let writes = std::mem::take(&mut self.unflushed);
        self.newest.clear();
        // From nothing at all to everything.
        let kept_of_8 = dice.below(9);
        let torn = dice.below(2) == 0;
        let mut of_each: BTreeMap<u64, Vec<Sector>> = BTreeMap::new();
        for write in &writes {
            let all = dice.below(8) < kept_of_8;
            for (at, data) in write.sectors() {
                let kept = if torn { dice.below(8) < kept_of_8 } else { all };
                let versions = of_each.entry(at).or_default();
                self.tally.sectors += 1;
                if kept {
                    versions.push(data);
                } else {
                    self.tally.lost += 1;
                }
            }
        }
        for (at, versions) in of_each {
            // Reordered as well: of two writes of a sector either may have come last.
            let count = versions.len() as u64;
            if count > 0 {
                let chosen = usize::try_from(dice.below(count)).map_err(io::Error::other)?;
                self.put(at, &versions[chosen])?;
            }
        }
        self.tally.cuts += 1;
        self.powered = false;
        Ok(())
    }

    /// What is written to the file `power`.
    fn switch(&mut self, word: &[u8]) -> io::Result<()> {
        let word = std::str::from_utf8(word).unwrap_or_default().trim();
        if word == "on" {
            self.powered = true;
            return Ok(());
        }
        self.cut(word.parse().map_err(|_| io::ErrorKind::InvalidInput)?)
    }

    fn told(&self) -> String {
        let Tally { cuts, sectors, lost, discarded } = self.tally;
        format!(
            "{{\"cuts\":{cuts},\"sectors\":{sectors},\"lost\":{lost},\"discarded\":{discarded}}}\n"
        )
    }

    fn attributes(&self, ino: INodeNo) -> Option<FileAttr> {
        let (kind, perm, size) = match ino {
            INodeNo::ROOT => (FileType::Directory, 0o700, 0),
            IMAGE => (FileType::RegularFile, 0o600, self.size?),
            POWER => (FileType::RegularFile, 0o600, self.told().len() as u64),
            _ => return None,
        };
        let (at, blocks, nlink) = (UNIX_EPOCH, size.div_ceil(SECTOR as u64), 1);
        let (uid, gid, rdev, flags, blksize) = (0, 0, 0, 0, 4096);
        Some(FileAttr {
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
}

struct Served(Mutex<Disk>);

impl Served {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn errno(error: &io::Error) -> Errno {
    match error.kind() {
        io::ErrorKind::InvalidInput => return Errno::EINVAL,
        io::ErrorKind::NotConnected => {}
        _ => eprintln!("volatile-disk: {error}"),
    }
    Errno::EIO
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let ino = match name.to_str() {
            Some("pool.img") => IMAGE,
            Some("power") => POWER,
            _ => return reply.error(Errno::ENOENT),
        };
        match self.disk().attributes(ino) {
            Some(attr) => reply.entry(&TTL, &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.disk().attributes(ino) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(Errno::ENOENT),
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
        let mut disk = self.disk();
        if let Some(size) = size.filter(|_| ino == IMAGE)
            && let Err(error) = disk.resize(size)
        {
            return reply.error(errno(&error));
        }
        match disk.attributes(ino) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(Errno::ENOENT),
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
        let mut disk = self.disk();
        if name != "pool.img" || disk.size.is_some() {
            return reply.error(Errno::EPERM);
        }
        disk.size = Some(0);
        match disk.attributes(IMAGE) {
            Some(attr) => {
                reply.created(
                    &TTL,
                    &attr,
                    Generation(0),
                    FileHandle(0),
                    FopenFlags::FOPEN_DIRECT_IO,
                );
            }
            None => reply.error(Errno::EIO),
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
        let disk = self.disk();
        if ino == POWER {
            let told = disk.told();
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(told.len());
            return reply.data(&told.as_bytes()[start..]);
        }
        match disk.read(offset, size as usize) {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(errno(&error)),
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
        let mut disk = self.disk();
        let done = if ino == POWER { disk.switch(data) } else { disk.write(offset, data) };
        match done {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(error) => reply.error(errno(&error)),
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
        let punches = FallocateFlags::FALLOC_FL_PUNCH_HOLE.bits();
        let done = match mode & punches {
            // There is room beneath.
            0 => Ok(()),
            _ => self.disk().discard(offset..offset + length),
        };
        match done {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // What close(2) calls: it makes nothing durable.
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        clock::sleep(FLUSH);
        match self.disk().flush() {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }
}

fn main() -> io::Result<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [mount_point, backing] = &arguments[..] else {
        return Err(io::Error::other("usage: volatile-disk MOUNT_POINT BACKING"));
    };
    let backing =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(backing)?;
    let disk = Disk {
        backing,
        powered: true,
        size: None,
        unflushed: Vec::new(),
        newest: BTreeMap::new(),
        tally: Tally::default(),
    };
    let mut config = fuser::Config::default();
    config.n_threads = Some(THREADS);
    config.mount_options = vec![fuser::MountOption::FSName("volatile-disk".to_owned())];
    fuser::mount(Served(Mutex::new(disk)), mount_point, &config)
}
