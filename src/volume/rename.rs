//! Renaming: one atomic set of edits over up to two directories and two inodes.

use std::sync::Arc;

use crate::base::units::InodeNo;
use crate::volume::Volume;
use crate::volume::attr::{Caller, FileKind, RenameFlags};
use crate::volume::backing::{Edit, Purpose};
use crate::volume::edit::Locked;
use crate::volume::entries::{Found, check_name, retarget_entry};
use crate::volume::error::{Result, VolumeError};
use crate::volume::inode::Inode;
use crate::volume::items::{InodeItem, ROOT_INODE, inode_key};
use crate::volume::link::{Target, name_added, name_removed};
use crate::volume::write::now;

/// One rename, its inodes found and held.
struct Rename<'a> {
    parent: InodeNo,
    name: &'a [u8],
    new_parent: InodeNo,
    new_name: &'a [u8],
    flags: RenameFlags,
    source: Arc<Inode>,
    /// A fresh inode that takes the old name.
    whiteout: Option<Arc<Inode>>,
    caller: Caller,
}

impl Volume {
    /// Renames. Two names of one inode: nothing happens. A target that exists is replaced, in the
    /// same instant, unless the flags say otherwise; also one that cannot be read and is no
    /// directory.
    ///
    /// # Errors
    /// `NotFound`, `Exists` (noreplace), `NotEmpty`, `IsDirectory`, `NotDirectory`, `Invalid` (into
    /// its own subtree, or flags that exclude each other), `NameTooLong`, `NoSpace`, `ReadOnly`,
    /// `Locked`, `Corrupt` (what is moved cannot be read, or a directory that is in the way).
    pub fn rename(
        &self,
        parent: InodeNo,
        name: &[u8],
        new_parent: InodeNo,
        new_name: &[u8],
        flags: RenameFlags,
        caller: &Caller,
    ) -> Result<()> {
        check_name(name)?;
        check_name(new_name)?;
        if flags.exchange && (flags.noreplace || flags.whiteout) {
            return Err(VolumeError::Invalid);
        }
        let _visit = self.enter_to_change()?;
        let old_dir = self.directory(parent)?;
        let new_dir = self.directory(new_parent)?;
        let _promise = self.backing.reserve(0, 10, Purpose::Grow)?;
        // Who moves directories waits here, so that a subtree cannot be moved below itself by two
        // moves at once; renames within one directory need no such care.
        let _moves = (parent != new_parent).then(|| self.renames.lock());
        loop {
            let source = self.inode_of_name(parent, name)?.ok_or(VolumeError::NotFound)?;
            self.check_subtree(&source, new_parent)?;
            let target = if flags.exchange {
                let inode = self.inode_of_name(new_parent, new_name)?;
                let inode = inode.ok_or(VolumeError::NotFound)?;
                self.check_subtree(&inode, parent)?;
                Some(Target { ino: inode.ino, inode: Some(inode) })
            } else {
                self.target(new_parent, new_name)?
            };
            let whiteout = match flags.whiteout {
                true => Some(self.inodes.get_or_insert(self.new_number()?)),
                false => None,
            };
            let caller = *caller;
            let rename =
                Rename { parent, name, new_parent, new_name, flags, source, whiteout, caller };
            let change = |target: Option<&Target>| {
                let mut inodes = vec![&old_dir, &new_dir, &rename.source];
                inodes.extend(target.and_then(|target| target.inode.as_ref()));
                inodes.extend(&rename.whiteout);
                self.edit(&inodes, |txn, locked| self.rename_once(txn, locked, &rename, target))
            };
            let ino = target.as_ref().map(|target| target.ino);
            let done = match target {
                Some(target) if !flags.exchange => target.taken_by(|target| change(Some(target))),
                other => change(other.as_ref()),
            };
            if done? {
                ino.into_iter().for_each(|ino| self.free_if_unused(ino));
                return Ok(());
            }
        }
    }

    /// False: the names lead elsewhere by now, look again.
    fn rename_once(
        &self,
        txn: &mut dyn Edit,
        locked: &mut Locked<'_>,
        rename: &Rename<'_>,
        target: Option<&Target>,
    ) -> Result<bool> {
        let Some(old) = self.find_entry(txn, rename.parent, rename.name)? else {
            return Err(VolumeError::NotFound);
        };
        let new = self.find_entry(txn, rename.new_parent, rename.new_name)?;
        let as_found = match (&new, target) {
            (Some(new), Some(target)) => target.is_at(txn, new)?,
            (None, None) => true,
            _ => false,
        };
        if old.entry.ino != rename.source.ino || !as_found {
            return Ok(false);
        }
        if locked.item(rename.new_parent)?.nlink == 0 {
            return Err(VolumeError::NotFound);
        }
        if rename.flags.noreplace && new.is_some() {
            return Err(VolumeError::Exists);
        }
        match new {
            Some(new) if rename.flags.exchange => exchange(txn, locked, rename, &old, &new)?,
            Some(new) if new.entry.ino == old.entry.ino => {}
            new => self.move_name(txn, locked, rename, &old, new.as_ref().zip(target))?,
        }
        Ok(true)
    }

    fn move_name(
        &self,
        txn: &mut dyn Edit,
        locked: &mut Locked<'_>,
        rename: &Rename<'_>,
        old: &Found,
        new: Option<(&Found, &Target)>,
    ) -> Result<()> {
        let time = now();
        let (ino, kind) = (rename.source.ino, old.entry.kind);
        let is_dir = locked.item(ino)?.is_dir();
        match new {
            Some((new, target)) => {
                let target_is_dir = target.is_dir(locked, new)?;
                match (is_dir, target_is_dir) {
                    (true, false) => return Err(VolumeError::NotDirectory),
                    (false, true) => return Err(VolumeError::IsDirectory),
                    _ => {}
                }
                target.name_lost(txn, locked, time)?;
                name_removed(locked.item(rename.new_parent)?, target_is_dir, time);
                retarget_entry(txn, new, ino, kind)?;
            }
            None => self.insert_entry(txn, rename.new_parent, rename.new_name, ino, kind)?,
        }
        name_added(locked.item(rename.new_parent)?, is_dir, time);
        name_removed(locked.item(rename.parent)?, is_dir, time);
        let item = locked.item(ino)?;
        item.ctime = time;
        if is_dir {
            item.parent = rename.new_parent.0;
        }
        match &rename.whiteout {
            None => txn.remove(old.key)?,
            Some(whiteout) => {
                let parent = *locked.item(rename.parent)?;
                let item = whiteout_item(&parent, &rename.caller);
                locked.state(whiteout.ino)?.item = Some(item);
                retarget_entry(txn, old, whiteout.ino, FileKind::CharDevice)?;
                name_added(locked.item(rename.parent)?, false, time);
            }
        }
        Ok(())
    }

    /// That a directory is not moved below itself: walks up from the new parent.
    fn check_subtree(&self, moved: &Inode, new_parent: InodeNo) -> Result<()> {
        if !moved.item()?.is_dir() {
            return Ok(());
        }
        let view = self.backing.view()?;
        let mut at = new_parent;
        // Bounded, should the parents on disk form a circle.
        for _ in 0..1_000_000 {
            if at == moved.ino {
                return Err(VolumeError::Invalid);
            }
            if at == ROOT_INODE {
                return Ok(());
            }
            let bytes = view.get(inode_key(at))?.ok_or(VolumeError::NotFound)?;
            at = InodeNo(InodeItem::decode(&bytes)?.parent);
        }
        Err(VolumeError::corrupt_item("the parents of a directory form a circle", new_parent))
    }
}

fn whiteout_item(parent: &InodeItem, caller: &Caller) -> InodeItem {
    let gid = match parent.mode & crate::volume::attr::mode_bits::SGID {
        0 => caller.gid,
        _ => parent.gid,
    };
    InodeItem::new(FileKind::CharDevice.mode_type(), caller.uid, gid, now())
}

fn exchange(
    txn: &mut dyn Edit,
    locked: &mut Locked<'_>,
    rename: &Rename<'_>,
    old: &Found,
    new: &Found,
) -> Result<()> {
    if old.entry.ino == new.entry.ino {
        return Ok(());
    }
    let time = now();
    retarget_entry(txn, old, new.entry.ino, new.entry.kind)?;
    retarget_entry(txn, new, old.entry.ino, old.entry.kind)?;
    let sides = [(old, rename.parent, rename.new_parent), (new, rename.new_parent, rename.parent)];
    for (found, from, to) in sides {
        let item = locked.item(found.entry.ino)?;
        item.ctime = time;
        let is_dir = item.is_dir();
        if is_dir {
            item.parent = to.0;
        }
        name_removed(locked.item(from)?, is_dir, time);
        name_added(locked.item(to)?, is_dir, time);
    }
    Ok(())
}
