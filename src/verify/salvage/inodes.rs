//! Which inodes a tree holds, so that those to which no name leads any more are found, too. A few
//! words are kept for each.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use crate::base::InodeNo;
use crate::tree::Key;
use crate::verify::salvage::source::{Gap, Met, Source};
use crate::volume::FileKind;
use crate::volume::items::{InodeItem, ROOT_INODE, VOLUME_KEY, VOLUME_VERSION, inode_key, kind};

/// What is known of an inode.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inode {
    pub number: InodeNo,
    /// Its kind, where its own item can be read.
    pub kind: Option<FileKind>,
    /// A directory's parent.
    pub parent: u64,
    /// It has entries.
    pub entries: bool,
    /// It has extents.
    pub extents: bool,
    /// It was deleted; its content waits to be freed.
    pub deleted: bool,
    /// It is in the copy.
    pub reached: bool,
}

impl Inode {
    const fn new(number: InodeNo) -> Self {
        Self {
            number,
            kind: None,
            parent: 0,
            entries: false,
            extents: false,
            deleted: false,
            reached: false,
        }
    }

    /// Whether it is a directory, as far as can be told.
    pub fn is_directory(&self) -> bool {
        self.kind.map_or(self.entries, |kind| kind == FileKind::Directory)
    }

    /// Whether something of it can be copied.
    pub fn is_worth_finding(&self) -> bool {
        let known = self.kind.is_some() || self.entries || self.extents;
        known && !self.deleted && !self.reached
    }
}

/// The inodes of a tree, by number.
pub(super) struct Inodes {
    all: Vec<Inode>,
    /// Where items are missing.
    pub gaps: Vec<Gap>,
    /// The tree is one of files, as this version writes them; where that cannot be read, it is
    /// taken to be.
    pub is_volume: bool,
}

impl Inodes {
    pub fn of(source: &Source) -> Self {
        let mut found = Self { all: Vec::new(), gaps: Vec::new(), is_volume: true };
        let mut orphans = BTreeSet::new();
        source.range(Key::MIN, Key::MAX, &mut |met| {
            match met {
                Met::Gap(gap) => found.gaps.push(gap),
                Met::Item(VOLUME_KEY, value) => {
                    found.is_volume = value == VOLUME_VERSION.to_le_bytes();
                }
                Met::Item(key, _) if key.kind == kind::ORPHAN => {
                    orphans.insert(key.offset);
                }
                Met::Item(key, value) if key.kind >= kind::INODE => found.take(key, value),
                Met::Item(..) => {}
            }
            ControlFlow::Continue(())
        });
        for inode in &mut found.all {
            inode.deleted |= orphans.contains(&inode.number.0);
        }
        found
    }

    fn take(&mut self, key: Key, value: &[u8]) {
        let number = InodeNo(key.object);
        if self.all.last().is_none_or(|last| last.number != number) {
            self.all.push(Inode::new(number));
        }
        let Some(inode) = self.all.last_mut() else { return };
        match key.kind {
            kind::INODE => {
                if let Ok(item) = InodeItem::decode(value) {
                    inode.kind = Some(item.kind());
                    inode.parent = item.parent;
                    inode.deleted = item.nlink == 0 && number != ROOT_INODE;
                }
            }
            kind::DIRENT => inode.entries = true,
            kind::EXTENT => inode.extents = true,
            _ => {}
        }
    }

    fn at(&self, number: InodeNo) -> Option<usize> {
        self.all.binary_search_by_key(&number, |inode| inode.number).ok()
    }

    pub fn get(&self, number: InodeNo) -> Option<&Inode> {
        self.all.get(self.at(number)?)
    }

    /// It is in the copy. Whether it was not before; true for one of which there is nothing.
    pub fn reach(&mut self, number: InodeNo) -> bool {
        let Some(inode) = self.at(number).and_then(|at| self.all.get_mut(at)) else { return true };
        !std::mem::replace(&mut inode.reached, true)
    }

    /// Whether the inode's own item may be among what is missing.
    pub fn may_be_lost(&self, number: InodeNo) -> bool {
        self.gaps.iter().any(|gap| gap.contains(inode_key(number)))
    }

    /// Directories to which no name leads, those first that lie in none such; `all`: also those
    /// that lie in one another.
    pub fn lost_directories(&self, all: bool) -> Vec<InodeNo> {
        let lost = |inode: &&Inode| inode.is_worth_finding() && inode.is_directory();
        let is_lost = |number| self.get(InodeNo(number)).filter(lost).is_some();
        let tops = self
            .all
            .iter()
            .filter(lost)
            .filter(|inode| all || inode.parent == inode.number.0 || !is_lost(inode.parent));
        tops.map(|inode| inode.number).collect()
    }

    /// What else no name leads to.
    pub fn lost_others(&self) -> Vec<Inode> {
        let lost = self.all.iter().filter(|i| i.is_worth_finding() && !i.is_directory());
        lost.copied().collect()
    }
}
