//! Attributes: mode, owner, times, size; and what a change of content takes away.

use std::sync::Arc;

use crate::base::units::InodeNo;
use crate::volume::Volume;
use crate::volume::acl;
use crate::volume::attr::{Attr, Caller, FileTime, SetAttr, TimeSet, mode_bits};
use crate::volume::backing::Purpose;
use crate::volume::error::{Result, VolumeError};
use crate::volume::inode::Inode;
use crate::volume::items::{InodeItem, inode_flags};
use crate::volume::write::now;
use crate::volume::xattr;

/// Whether the mode makes its file run as somebody else.
const fn has_set_id(mode: u32) -> bool {
    mode & mode_bits::SUID != 0
        || mode & (mode_bits::SGID | mode_bits::GROUP_EXEC)
            == mode_bits::SGID | mode_bits::GROUP_EXEC
}

/// The mode without what makes its file run as somebody else.
const fn without_set_id(mode: u32) -> u32 {
    let mode = mode & !mode_bits::SUID;
    if mode & mode_bits::GROUP_EXEC != 0 { mode & !mode_bits::SGID } else { mode }
}

fn is_privileged(item: &InodeItem) -> bool {
    item.is_file() && (has_set_id(item.mode) || item.flags & inode_flags::CAPABILITY != 0)
}

impl Volume {
    /// Changes attributes, all or none (a size with its times; then the others). A new owner or
    /// size takes set-ID bits and `security.capability` away; a new mode changes the ACL's mask.
    ///
    /// # Errors
    /// `TooLarge`, `IsDirectory` or `Invalid` (size of something that has none), `NoSpace`,
    /// `ReadOnly`, `Stale`, `Locked`, `WriteLost`.
    pub fn setattr(&self, ino: InodeNo, set: &SetAttr, _caller: &Caller) -> Result<Attr> {
        let _visit = self.enter_to_change()?;
        let inode = self.inode(ino)?;
        if let Some(size) = set.size {
            let file = self.file(ino)?;
            self.truncate_inode(&file, size, &|item| set_times(item, set, item.ctime))?;
        }
        let owner = set.uid.is_some() || set.gid.is_some();
        let times = set.atime.is_some() || set.mtime.is_some() || set.ctime.is_some();
        if set.mode.is_some() || owner || (times && set.size.is_none()) {
            let _promise = self.backing.reserve(0, 4, Purpose::Grow)?;
            self.edit(&[&inode], |txn, locked| {
                let mut item = *locked.item(ino)?;
                item.uid = set.uid.unwrap_or(item.uid);
                item.gid = set.gid.unwrap_or(item.gid);
                if owner && item.is_file() {
                    item.mode = without_set_id(item.mode);
                    xattr::remove_capability(self, txn, ino, &mut item)?;
                }
                if let Some(mode) = set.mode {
                    item.mode = (item.mode & mode_bits::TYPE) | (mode & mode_bits::PERM);
                    acl::follow_mode(self, txn, ino, &item)?;
                }
                set_times(&mut item, set, now());
                *locked.item(ino)? = item;
                Ok(())
            })?;
        }
        inode.attr()
    }

    /// Takes set-ID bits and `security.capability` away from a file whose content changes.
    pub(in crate::volume) fn drop_privileges(&self, inode: &Arc<Inode>) -> Result<()> {
        if !is_privileged(&inode.item()?) {
            return Ok(());
        }
        let _promise = self.backing.reserve(0, 3, Purpose::Shrink)?;
        self.edit(&[inode], |txn, locked| {
            let mut item = *locked.item(inode.ino)?;
            item.mode = without_set_id(item.mode);
            item.ctime = now();
            xattr::remove_capability(self, txn, inode.ino, &mut item)?;
            *locked.item(inode.ino)? = item;
            Ok(())
        })
    }

    /// Whether a change of the file's content takes set-ID bits or a capability away. Answered from
    /// memory.
    ///
    /// # Errors
    /// `Stale`, `Locked`.
    pub fn is_privileged(&self, ino: InodeNo) -> Result<bool> {
        let _visit = self.enter()?;
        Ok(is_privileged(&self.inode(ino)?.item()?))
    }

    /// Takes no more changes, for a reason that is kept: a defect was met while serving one. Reads
    /// go on; what was accepted before may still be committed.
    pub fn stop_writes(&self, reason: &'static str) {
        log::error!("a volume takes no more changes: {reason}");
        let _ = self.stopped.set(reason);
    }

    /// Why the volume takes no more changes, if so.
    #[must_use]
    pub fn stopped(&self) -> Option<&'static str> {
        self.stopped.get().or(self.failed.get()).copied()
    }

    /// That changes are still taken.
    pub(in crate::volume) fn check_stopped(&self) -> Result<()> {
        self.stopped.get().map_or(Ok(()), |_| Err(VolumeError::ReadOnly))
    }
}

/// All that is set to the time of the call gets the same one: the kernel's where it names it, whose
/// clock is coarser.
fn set_times(item: &mut InodeItem, set: &SetAttr, here: FileTime) {
    let called = set.ctime.unwrap_or(here);
    let at = |t: TimeSet| match t {
        TimeSet::Now => called,
        TimeSet::At(time) => time,
    };
    if let Some(time) = set.atime {
        item.atime = at(time);
    }
    if let Some(time) = set.mtime {
        item.mtime = at(time);
    }
    item.ctime = called;
}
