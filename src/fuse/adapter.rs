//! Requests as `fuser` hands them over: decode, one call of the volume, encode.
//!
//! Which replies count a lookup (the volume counts, FORGET takes back): LOOKUP, MKNOD, MKDIR,
//! SYMLINK, LINK, CREATE, and each name of READDIRPLUS but `.` and `..`; READDIR counts none.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, Generation,
    INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::base::BLOCK_SIZE;
use crate::base::limits::NAME_BYTES_MAX;
use crate::fuse::convert::from_system;
use crate::fuse::convert::{
    LIFETIME, allocate_mode, file_attr, file_type, ino, lifetime, no_file, open_flags,
    rename_flags, time_set, unknown_attr, xattr_mode,
};
use crate::fuse::dispatch::Dispatch;
use crate::fuse::negotiate::{Agreed, negotiate};
use crate::volume::{Entry, HandleId, Seek, SetAttr, VolumeError};

/// One mount's filesystem, as `fuser` calls it from many threads.
pub(super) struct Adapter {
    dispatch: Arc<Dispatch>,
}

impl Adapter {
    pub(super) const fn new(dispatch: Arc<Dispatch>) -> Self {
        Self { dispatch }
    }

    fn agreed(&self) -> Agreed {
        self.dispatch.agreed()
    }

    fn entry(result: Result<Entry, Errno>, reply: ReplyEntry) {
        match result {
            Ok(entry) => {
                let generation = Generation(entry.generation);
                reply.entry(&lifetime(entry.attr.ino), &file_attr(&entry.attr), generation);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn empty(result: Result<(), Errno>, reply: ReplyEmpty) {
        match result {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn xattr(result: Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
        match result {
            Ok(value) if size == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
            Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
            Ok(value) => reply.data(&value),
            Err(errno) => reply.error(errno),
        }
    }

    fn written(result: Result<usize, Errno>, reply: ReplyWrite) {
        match result {
            Ok(bytes) => reply.written(u32::try_from(bytes).unwrap_or(u32::MAX)),
            Err(errno) => reply.error(errno),
        }
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let agreed = negotiate(config, self.dispatch.disabled(), self.dispatch.writeback_wanted());
        self.dispatch.set_agreed(agreed);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found =
            self.dispatch.run("lookup", parent.0, |v| v.lookup(ino(parent), name.as_bytes()));
        if let Ok(Entry { unreadable: Some(error), .. }) = &found {
            self.dispatch.tell("lookup", parent.0, error);
        }
        match found {
            Err(errno) if errno == Errno::ENOENT && self.agreed().negative_entries => {
                reply.entry(&LIFETIME, &no_file(), Generation(0));
            }
            other => Self::entry(other, reply),
        }
    }

    fn forget(&self, _req: &Request, node: INodeNo, nlookup: u64) {
        // No answer is expected, and none can be given.
        let _ = self.dispatch.run("forget", node.0, |v| {
            v.forget(ino(node), nlookup);
            Ok(())
        });
    }

    fn getattr(&self, _req: &Request, node: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.dispatch.run("getattr", node.0, |v| v.getattr(ino(node))) {
            Ok(attr) => reply.attr(&lifetime(attr.ino), &file_attr(&attr)),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        req: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = SetAttr {
            mode,
            uid,
            gid,
            size,
            atime: atime.map(time_set),
            mtime: mtime.map(time_set),
            ctime: ctime.map(from_system),
        };
        let caller = self.dispatch.caller(req, 0);
        match self.dispatch.run("setattr", node.0, |v| v.setattr(ino(node), &change, &caller)) {
            Ok(attr) => reply.attr(&LIFETIME, &file_attr(&attr)),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, _req: &Request, node: INodeNo, reply: ReplyData) {
        match self.dispatch.run("readlink", node.0, |v| v.readlink(ino(node))) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let caller = self.dispatch.caller(req, umask);
        let made = self
            .dispatch
            .run("mknod", parent.0, |v| v.mknod(ino(parent), name.as_bytes(), mode, rdev, &caller));
        Self::entry(made, reply);
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let caller = self.dispatch.caller(req, umask);
        let made = self
            .dispatch
            .run("mkdir", parent.0, |v| v.mkdir(ino(parent), name.as_bytes(), mode, &caller));
        Self::entry(made, reply);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done =
            self.dispatch.run("unlink", parent.0, |v| v.unlink(ino(parent), name.as_bytes()));
        Self::empty(done, reply);
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = self.dispatch.run("rmdir", parent.0, |v| v.rmdir(ino(parent), name.as_bytes()));
        Self::empty(done, reply);
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let caller = self.dispatch.caller(req, 0);
        let target = target.as_os_str().as_bytes();
        let made = self.dispatch.run("symlink", parent.0, |v| {
            v.symlink(ino(parent), link_name.as_bytes(), target, &caller)
        });
        Self::entry(made, reply);
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let caller = self.dispatch.caller(req, 0);
        let done = self.dispatch.run("rename", parent.0, |v| {
            let flags = rename_flags(flags).ok_or(VolumeError::Invalid)?;
            let (from, to) = (ino(parent), ino(newparent));
            v.rename(from, name.as_bytes(), to, newname.as_bytes(), flags, &caller)
        });
        Self::empty(done, reply);
    }

    fn link(
        &self,
        _req: &Request,
        node: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let made = self
            .dispatch
            .run("link", node.0, |v| v.link(ino(node), ino(newparent), newname.as_bytes()));
        Self::entry(made, reply);
    }

    fn open(&self, _req: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let opened = self.dispatch.run("open", node.0, |v| v.open(ino(node), open_flags(flags.0)));
        match opened {
            Ok(handle) => {
                let (flags, number) = self.dispatch.opened(node.0, flags.0, handle);
                reply.opened(FileHandle(number), flags);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _req: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        // The volume hands over all bytes in one piece, which go to the kernel from where they
        // are.
        let mut waiting = Some(reply);
        let done = self.dispatch.run("read", node.0, |v| {
            v.read(ino(node), offset, size as usize, &mut |bytes| {
                if let Some(reply) = waiting.take() {
                    reply.data(bytes);
                }
            })
        });
        if let (Err(errno), Some(reply)) = (done, waiting) {
            reply.error(errno);
        }
    }

    fn write(
        &self,
        _req: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let keep = !write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        Self::written(self.dispatch.write(node.0, offset, data, keep), reply);
    }

    /// Promises nothing: what a write failed with is told by the kernel's own bookkeeping and by
    /// fsync. Answered so that the kernel does not ask again at each close(2); it writes out dirty
    /// pages there all the same.
    fn flush(
        &self,
        _req: &Request,
        _node: INodeNo,
        _fh: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _req: &Request,
        node: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let handle = self.dispatch.released(node.0, fh.0);
        let done = self.dispatch.run("release", node.0, |v| v.release(handle));
        Self::empty(done, reply);
    }

    fn fsync(
        &self,
        req: &Request,
        node: INodeNo,
        _fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        if self.dispatch.is_helper(req.pid()) {
            // The pages are with us when this request comes; the snapshot makes them durable.
            reply.ok();
            return;
        }
        let done = self.dispatch.run("fsync", node.0, |v| v.fsync(ino(node), datasync));
        Self::empty(done, reply);
    }

    fn opendir(&self, _req: &Request, node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.dispatch.run("opendir", node.0, |v| v.opendir(ino(node))) {
            Ok(HandleId(number)) => {
                reply.opened(FileHandle(number), fuser::FopenFlags::empty());
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(
        &self,
        _req: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let done = self.dispatch.run("readdir", node.0, |v| {
            v.readdir(ino(node), offset, false, &mut |entry| {
                let name = OsStr::from_bytes(entry.name);
                reply.add(INodeNo(entry.ino.get()), entry.cookie, file_type(entry.kind), name)
            })
        });
        match done {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdirplus(
        &self,
        _req: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let done = self.dispatch.run("readdirplus", node.0, |v| {
            v.readdir(ino(node), offset, true, &mut |entry| {
                let (attr, lifetime) = match entry.attr {
                    Some(attr) => (file_attr(&attr), lifetime(attr.ino)),
                    None => (unknown_attr(&entry), Duration::ZERO),
                };
                let name = OsStr::from_bytes(entry.name);
                let generation = Generation(crate::volume::INODE_GENERATION);
                reply.add(attr.ino, entry.cookie, name, &lifetime, &attr, generation)
            })
        });
        match done {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn releasedir(
        &self,
        _req: &Request,
        node: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let done = self.dispatch.run("releasedir", node.0, |v| v.release(HandleId(fh.0)));
        Self::empty(done, reply);
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        node: INodeNo,
        _fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        let done = self.dispatch.run("fsyncdir", node.0, |v| v.fsyncdir(ino(node), datasync));
        Self::empty(done, reply);
    }

    fn statfs(&self, _req: &Request, node: INodeNo, reply: ReplyStatfs) {
        match self.dispatch.run("statfs", node.0, |v| v.statfs()) {
            Ok(s) => {
                let block = BLOCK_SIZE as u32;
                let name = NAME_BYTES_MAX as u32;
                // Inodes are bounded by space alone, which zero says.
                reply.statfs(s.blocks, s.blocks_free, s.blocks_available, 0, 0, block, name, block);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn setxattr(
        &self,
        req: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let caller = self.dispatch.caller(req, 0);
        let done = self.dispatch.run("setxattr", node.0, |v| {
            let mode = xattr_mode(flags).ok_or(VolumeError::Invalid)?;
            v.setxattr(ino(node), self.dispatch.attribute(name)?, value, mode, &caller)
        });
        Self::empty(done, reply);
    }

    fn getxattr(&self, _req: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = || self.dispatch.attribute(name);
        let value = self.dispatch.run("getxattr", node.0, |v| v.getxattr(ino(node), name()?));
        Self::xattr(value, size, reply);
    }

    fn listxattr(&self, _req: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.dispatch.run("listxattr", node.0, |v| v.listxattr(ino(node)));
        Self::xattr(names, size, reply);
    }

    fn removexattr(&self, _req: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = || self.dispatch.attribute(name);
        let done = self.dispatch.run("removexattr", node.0, |v| v.removexattr(ino(node), name()?));
        Self::empty(done, reply);
    }

    /// Never asked where the kernel checks permissions, which every mount demands.
    fn access(&self, _req: &Request, _node: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.ok();
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let caller = self.dispatch.caller(req, umask);
        let made = self.dispatch.run("create", parent.0, |v| {
            v.create(ino(parent), name.as_bytes(), mode, open_flags(flags), &caller)
        });
        match made {
            Ok((entry, handle)) => {
                let (flags, number) = self.dispatch.opened(entry.attr.ino.get(), flags, handle);
                let attr = file_attr(&entry.attr);
                let generation = Generation(entry.generation);
                reply.created(&LIFETIME, &attr, generation, FileHandle(number), flags);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn bmap(&self, _req: &Request, _node: INodeNo, _size: u32, _index: u64, reply: ReplyBmap) {
        reply.error(Errno::EINVAL);
    }

    fn ioctl(
        &self,
        _req: &Request,
        _node: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    /// "Not implemented" is the answer that makes the kernel treat files as always ready, as it
    /// does on a disk.
    fn poll(
        &self,
        _req: &Request,
        _node: INodeNo,
        _fh: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        _req: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let done = self.dispatch.changing("fallocate", node.0, |v| {
            let mode = allocate_mode(mode).ok_or(VolumeError::NotSupported)?;
            v.fallocate(ino(node), offset, length, mode)
        });
        Self::empty(done, reply);
    }

    fn lseek(
        &self,
        _req: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let found = self.dispatch.run("lseek", node.0, |v| {
            let from = u64::try_from(offset).map_err(|_| VolumeError::NoSuchOffset)?;
            let what = match whence {
                libc::SEEK_DATA => Seek::Data,
                libc::SEEK_HOLE => Seek::Hole,
                _ => return Err(VolumeError::Invalid),
            };
            v.lseek(ino(node), from, what)
        });
        match found {
            Ok(at) => reply.offset(i64::try_from(at).unwrap_or(i64::MAX)),
            Err(errno) => reply.error(errno),
        }
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        from: INodeNo,
        _fh_in: FileHandle,
        offset_in: u64,
        to: INodeNo,
        _fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The reply has 32 bits for the length.
        let len = len.min(1 << 30);
        let done = self.dispatch.changing("copy_file_range", to.0, |v| {
            v.copy_file_range(ino(from), offset_in, ino(to), offset_out, len)
        });
        Self::written(done.map(|bytes| bytes as usize), reply);
    }
}
