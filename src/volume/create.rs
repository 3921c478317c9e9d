//! Making inodes: files, directories, symbolic links, device files, pipes and sockets.

use std::sync::Arc;

use crate::base::limits::SYMLINK_BYTES_MAX;
use crate::base::units::InodeNo;
use crate::volume::Volume;
use crate::volume::acl;
use crate::volume::attr::{Caller, Entry, FileKind, HandleId, OpenFlags, mode_bits};
use crate::volume::backing::{Edit, Purpose};
use crate::volume::edit::Locked;
use crate::volume::entries::check_name;
use crate::volume::error::{Result, VolumeError};
use crate::volume::inode::Inode;
use crate::volume::items::{CHUNK_BYTES, InodeItem, inode_flags, symlink_key};
use crate::volume::write::now;
use crate::volume::xattr;

/// What is to be made.
pub(in crate::volume) struct NewInode<'a> {
    pub kind: FileKind,
    pub mode: u32,
    pub rdev: u32,
    /// Target of a symbolic link.
    pub target: &'a [u8],
}

impl Volume {
    /// Makes a file, pipe, socket or device file. `mode` holds the type; the caller's umask is
    /// applied unless the directory has a default ACL. Counts a lookup.
    ///
    /// # Errors
    /// `Exists`, `NotFound` (the directory has been removed), `NotDirectory`, `NameTooLong`,
    /// `Invalid`, `NoSpace`, `ReadOnly`, `Locked`.
    pub fn mknod(
        &self,
        parent: InodeNo,
        name: &[u8],
        mode: u32,
        rdev: u32,
        caller: &Caller,
    ) -> Result<Entry> {
        let kind = match mode & mode_bits::TYPE {
            0 => FileKind::File,
            _ => FileKind::from_mode(mode).ok_or(VolumeError::Invalid)?,
        };
        let device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
        match kind {
            FileKind::Directory | FileKind::Symlink => Err(VolumeError::Invalid),
            _ => {
                let rdev = if device { rdev } else { 0 };
                let new = NewInode { kind, mode, rdev, target: b"" };
                self.make(parent, name, &new, caller).map(|made| made.1)
            }
        }
    }

    /// Makes a directory. Otherwise as [`Volume::mknod`].
    ///
    /// # Errors
    /// As [`Volume::mknod`].
    pub fn mkdir(&self, parent: InodeNo, name: &[u8], mode: u32, caller: &Caller) -> Result<Entry> {
        let new = NewInode { kind: FileKind::Directory, mode, rdev: 0, target: b"" };
        self.make(parent, name, &new, caller).map(|made| made.1)
    }

    /// Makes a symbolic link to `target`. Otherwise as [`Volume::mknod`].
    ///
    /// # Errors
    /// As [`Volume::mknod`]; `NameTooLong` for the target too.
    pub fn symlink(
        &self,
        parent: InodeNo,
        name: &[u8],
        target: &[u8],
        caller: &Caller,
    ) -> Result<Entry> {
        if target.len() > SYMLINK_BYTES_MAX {
            return Err(VolumeError::NameTooLong);
        }
        if target.is_empty() {
            return Err(VolumeError::NotFound);
        }
        let new = NewInode { kind: FileKind::Symlink, mode: 0o777, rdev: 0, target };
        self.make(parent, name, &new, caller).map(|made| made.1)
    }

    /// Makes a regular file and opens it. Otherwise as [`Volume::mknod`].
    ///
    /// # Errors
    /// As [`Volume::mknod`].
    pub fn create(
        &self,
        parent: InodeNo,
        name: &[u8],
        mode: u32,
        flags: OpenFlags,
        caller: &Caller,
    ) -> Result<(Entry, HandleId)> {
        let new = NewInode { kind: FileKind::File, mode, rdev: 0, target: b"" };
        let (inode, entry) = self.make(parent, name, &new, caller)?;
        // The lookup just counted keeps the inode, whatever happens to its name.
        let handle = self.handles.add(&inode, flags.write);
        if handle.is_err() {
            self.forget(inode.ino, 1);
        }
        Ok((entry, handle?))
    }

    fn make(
        &self,
        parent: InodeNo,
        name: &[u8],
        new: &NewInode<'_>,
        caller: &Caller,
    ) -> Result<(Arc<Inode>, Entry)> {
        check_name(name)?;
        let _visit = self.enter_to_change()?;
        let directory = self.directory(parent)?;
        // Before the gate: an existing name is the common failure, and this loads the leaf.
        if self.find_entry(&*self.backing.view()?, parent, name)?.is_some() {
            return Err(VolumeError::Exists);
        }
        let _promise = self.backing.reserve(0, 8, Purpose::Grow)?;
        let inode = self.inodes.get_or_insert(self.new_number()?);
        let ino = inode.ino;
        let change = |txn: &mut dyn Edit, locked: &mut Locked<'_>| {
            let parent_item = *locked.item(parent)?;
            if parent_item.nlink == 0 {
                return Err(VolumeError::NotFound);
            }
            self.insert_entry(txn, parent, name, ino, new.kind)?;
            let item = self.new_item(txn, parent, &parent_item, ino, new, caller)?;
            locked.state(ino)?.item = Some(item);
            let parent_item = locked.item(parent)?;
            parent_item.entries += 1;
            parent_item.nlink += u32::from(item.is_dir());
            parent_item.mtime = item.btime;
            parent_item.ctime = item.btime;
            Ok(Entry::of(item.attr(ino, 0)))
        };
        // The lookup is counted while the name cannot be taken away again.
        match self.edit_then(&[&directory, &inode], change, |_, _| self.lookups.raise(ino)) {
            Ok(entry) => Ok((inode, entry)),
            Err(error) => {
                self.inodes.remove_unused(inode);
                Err(error)
            }
        }
    }

    /// The item of a new inode; its ACLs and its target go into the tree.
    fn new_item(
        &self,
        txn: &mut dyn Edit,
        parent: InodeNo,
        parent_item: &InodeItem,
        ino: InodeNo,
        new: &NewInode<'_>,
        caller: &Caller,
    ) -> Result<InodeItem> {
        let is_dir = new.kind == FileKind::Directory;
        let mut perm = new.mode & mode_bits::PERM;
        let mut gid = caller.gid;
        if parent_item.mode & mode_bits::SGID != 0 {
            gid = parent_item.gid;
            if is_dir {
                perm |= mode_bits::SGID;
            }
        }
        let mut item = InodeItem {
            nlink: if is_dir { 2 } else { 1 },
            rdev: new.rdev,
            size: new.target.len() as u64,
            parent: if is_dir { parent.0 } else { 0 },
            ..InodeItem::new(new.kind.mode_type() | perm, caller.uid, gid, now())
        };
        for (chunk, part) in (0..).zip(new.target.chunks(CHUNK_BYTES)) {
            txn.put(symlink_key(ino, chunk), part)?;
        }
        if new.kind == FileKind::Symlink {
            return Ok(item);
        }
        let default = match parent_item.flags & inode_flags::ACL_DEFAULT {
            0 => None,
            _ => xattr::load(self, txn, parent, xattr::ACL_DEFAULT)?,
        };
        match default {
            None => item.mode &= !(caller.umask & 0o777),
            Some(default) => acl::inherit(self, txn, ino, &mut item, &default)?,
        }
        Ok(item)
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// `Invalid` for anything else; `Stale`, `Locked`, `Corrupt`.
    pub fn readlink(&self, ino: InodeNo) -> Result<Vec<u8>> {
        let _visit = self.enter()?;
        let item = self.inode(ino)?.item()?;
        if item.kind() != FileKind::Symlink {
            return Err(VolumeError::Invalid);
        }
        let view = self.backing.view()?;
        let mut target = Vec::new();
        let chunks = (SYMLINK_BYTES_MAX / CHUNK_BYTES) as u64;
        view.range(symlink_key(ino, 0), symlink_key(ino, chunks), &mut |_, part| {
            target.extend_from_slice(part);
            std::ops::ControlFlow::Continue(())
        })?;
        match target.len() as u64 == item.size {
            true => Ok(target),
            false => Err(VolumeError::corrupt_item("a symbolic link has lost its target", ino)),
        }
    }
}
