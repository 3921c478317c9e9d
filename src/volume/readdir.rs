//! Listing directories, in the order of their cookies.

use std::ops::ControlFlow;

use crate::base::units::InodeNo;
use crate::volume::Volume;
use crate::volume::attr::{DirEntry, FileKind};
use crate::volume::backing::Snapshot;
use crate::volume::entries::{COOKIE_MAX, corrupt};
use crate::volume::error::{Result, VolumeError};
use crate::volume::items::{Dirent, dirent_key};

/// Entries taken from the tree at once.
const BATCH: usize = 256;
const COOKIE_DOT: u64 = 1;
const COOKIE_DOT_DOT: u64 = 2;

impl Volume {
    /// Hands the entries after `cookie` (0: from the start) to `sink`, until that answers true
    /// (full: the entry was not taken) or the directory ends. `.` and `..` come first. With `plus`
    /// each entry has its attributes, of a stand-in where the inode cannot be read, and a lookup is
    /// counted for each that the sink took, but for `.` and `..`.
    ///
    /// # Errors
    /// `NotDirectory`, `Stale`, `Locked`, `Corrupt`; only where the sink took nothing: what it took
    /// is counted, and must reach who asked.
    pub fn readdir(
        &self,
        ino: InodeNo,
        cookie: u64,
        plus: bool,
        sink: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<()> {
        let _visit = self.enter()?;
        let mut any_taken = false;
        let listed = self.list(ino, cookie, plus, &mut |entry| {
            let full = sink(entry);
            any_taken |= !full;
            full
        });
        // Who goes on from there meets the error again.
        if any_taken { Ok(()) } else { listed }
    }

    fn list(
        &self,
        ino: InodeNo,
        cookie: u64,
        plus: bool,
        sink: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<()> {
        let directory = self.directory(ino)?;
        let item = directory.item()?;
        let dots = [(COOKIE_DOT, ino, &b"."[..]), (COOKIE_DOT_DOT, InodeNo(item.parent), b"..")];
        for (at, dot, name) in dots {
            let wanted = plus && cookie < at;
            let attr =
                wanted.then(|| self.inode(dot).and_then(|inode| inode.attr()).ok()).flatten();
            let entry = DirEntry { ino: dot, cookie: at, kind: FileKind::Directory, name, attr };
            if cookie < at && sink(entry) {
                return Ok(());
            }
        }
        if item.nlink == 0 {
            return Ok(());
        }
        let view = self.backing.view()?;
        let mut after = cookie.max(COOKIE_DOT_DOT);
        while after < COOKIE_MAX {
            let batch = batch(&*view, ino, after)?;
            for (at, entry) in &batch {
                if self.hand_out(ino, *at, entry, plus, sink)? {
                    return Ok(());
                }
                after = *at;
            }
            if batch.len() < BATCH {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether the sink was full.
    fn hand_out(
        &self,
        directory: InodeNo,
        cookie: u64,
        entry: &Dirent,
        plus: bool,
        sink: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<bool> {
        let mut out =
            DirEntry { ino: entry.ino, cookie, kind: entry.kind, name: &entry.name, attr: None };
        if !plus {
            return Ok(sink(out));
        }
        // Counted first, so that the inode cannot go between attributes and count; taken back where
        // the entry did not fit.
        out.attr = match self.inode(entry.ino).and_then(|inode| self.count_lookup(&inode)) {
            Ok(found) => Some(found.attr),
            // Unlinked since the view was taken: as if it had been gone before.
            Err(VolumeError::Stale) if !self.leads(directory, entry)? => return Ok(false),
            // One inode that cannot be read must not hide the others, nor its own name.
            Err(VolumeError::Stale | VolumeError::Corrupt { .. } | VolumeError::Io(_)) => {
                Some(self.stand_in(entry.ino, entry.kind))
            }
            Err(error) => return Err(error),
        };
        let full = sink(out);
        if let Some(attr) = out.attr.filter(|_| full) {
            self.forget(attr.ino, 1);
        }
        Ok(full)
    }

    /// Whether the entry is there now.
    fn leads(&self, directory: InodeNo, entry: &Dirent) -> Result<bool> {
        let found = self.find_entry(&*self.backing.view()?, directory, &entry.name)?;
        Ok(found.is_some_and(|found| found.entry.ino == entry.ino))
    }
}

fn batch(view: &dyn Snapshot, ino: InodeNo, after: u64) -> Result<Vec<(u64, Dirent)>> {
    let mut entries = Vec::new();
    let mut bad = false;
    view.range(dirent_key(ino, after + 1), dirent_key(ino, COOKIE_MAX), &mut |key, value| {
        match Dirent::decode(value) {
            Ok(entry) => entries.push((key.offset, entry)),
            Err(_) => bad = true,
        }
        if bad || entries.len() == BATCH {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    if bad { Err(corrupt(ino)) } else { Ok(entries) }
}
