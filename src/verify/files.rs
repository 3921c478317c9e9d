//! What the items of one cluster's tree say together: every file whole, every name leading to a
//! file, every file counted by its names.
//!
//! Items come in the order of their keys, so those of one inode come together; what names say of
//! inodes is kept (a few words for each) until all are known. Where nodes are missing, only what
//! can still be judged is.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::InodeNo;
use crate::base::limits::{NAME_BYTES_MAX, XATTR_LIST_BYTES_MAX};
use crate::base::units::BLOCK_SIZE_U64;
use crate::pool::{NameHashKey, name_hash};
use crate::tree::Key;
use crate::verify::xattrs::Xattrs;
use crate::volume::FileKind;
use crate::volume::items::{
    Dirent, ExtentItem, InodeItem, NEXT_INODE_KEY, ROOT_INODE, VOLUME_KEY, VOLUME_VERSION,
    first_cookie, kind,
};

/// Hands over what is wrong with an inode.
pub(in crate::verify) type Wrong<'a> = dyn FnMut(InodeNo, String) + 'a;

/// An inode, as it says of itself.
struct Inode {
    number: u64,
    links: u32,
    kind: FileKind,
    parent: u64,
}

/// A directory's entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    child: u64,
    parent: u64,
    kind: u8,
}

/// The inode whose items are being read.
#[derive(Default)]
struct Current {
    number: u64,
    item: Option<InodeItem>,
    /// Some of its items are missing.
    partial: bool,
    extents_end: u64,
    blocks: u64,
    target_bytes: u64,
    entries: u64,
    xattrs: Xattrs,
}

/// The items of a tree, taken in one by one.
pub(in crate::verify) struct Files<'a> {
    name_key: &'a NameHashKey,
    is_volume: bool,
    gaps: bool,
    in_gap: bool,
    inodes: Vec<Inode>,
    entries: Vec<Entry>,
    orphans: BTreeSet<u64>,
    truncating: BTreeMap<u64, u64>,
    next_inode: Option<u64>,
    current: Current,
}

impl<'a> Files<'a> {
    pub fn new(name_key: &'a NameHashKey) -> Self {
        Self {
            name_key,
            is_volume: false,
            gaps: false,
            in_gap: false,
            inodes: Vec::new(),
            entries: Vec::new(),
            orphans: BTreeSet::new(),
            truncating: BTreeMap::new(),
            next_inode: None,
            current: Current::default(),
        }
    }

    /// Whether the tree is one of files: its first item says so.
    pub const fn is_volume(&self) -> bool {
        self.is_volume
    }

    /// Items are missing here.
    pub fn gap(&mut self) {
        self.gaps = true;
        self.in_gap = true;
        self.current.partial = true;
    }

    /// Takes in an item; one that cannot be decoded is reported elsewhere.
    pub fn take(&mut self, key: Key, value: &[u8], wrong: &mut Wrong<'_>) {
        if key == VOLUME_KEY {
            self.is_volume = value == VOLUME_VERSION.to_le_bytes();
        }
        if !self.is_volume {
            return;
        }
        if key.kind < kind::INODE {
            self.take_mark(key, value);
            return;
        }
        if key.object != self.current.number {
            self.end_inode(wrong);
            let partial = self.in_gap;
            self.current = Current { number: key.object, partial, ..Current::default() };
        }
        self.in_gap = false;
        let ino = InodeNo(key.object);
        match (key.kind, &self.current.item) {
            (kind::INODE, _) => self.current.item = InodeItem::decode(value).ok(),
            (_, None) if !self.current.partial => {
                wrong(ino, "it has content or attributes, and is not there itself".to_owned());
                self.current.partial = true;
            }
            _ => {}
        }
        match key.kind {
            kind::XATTR => self.current.xattrs.take(self.name_key, key, value, wrong),
            kind::SYMLINK => self.current.target_bytes += value.len() as u64,
            kind::DIRENT => self.take_entry(key, value, wrong),
            kind::EXTENT => self.take_extent(key, value, wrong),
            _ => {}
        }
    }

    fn take_mark(&mut self, key: Key, value: &[u8]) {
        let number = value.try_into().ok().map(u64::from_le_bytes);
        match key.kind {
            kind::ORPHAN => drop(self.orphans.insert(key.offset)),
            kind::TRUNCATE => drop(self.truncating.insert(key.offset, number.unwrap_or(0))),
            kind::NEXT_INODE if key == NEXT_INODE_KEY => self.next_inode = number,
            _ => {}
        }
    }

    fn take_entry(&mut self, key: Key, value: &[u8], wrong: &mut Wrong<'_>) {
        self.current.entries += 1;
        let Ok(entry) = Dirent::decode(value) else { return };
        let hash = name_hash(self.name_key, key.object, &entry.name);
        let dots = entry.name == b"." || entry.name == b"..";
        if first_cookie(hash) != key.offset & !0xff || dots || entry.name.contains(&0) {
            let name = String::from_utf8_lossy(&entry.name).into_owned();
            let why = format!("its entry '{}' cannot be looked up", name.escape_debug());
            wrong(InodeNo(key.object), why);
        }
        debug_assert!(entry.name.len() <= NAME_BYTES_MAX);
        self.entries.push(Entry {
            child: entry.ino.0,
            parent: key.object,
            kind: entry.kind.dirent_type(),
        });
    }

    fn take_extent(&mut self, key: Key, value: &[u8], wrong: &mut Wrong<'_>) {
        let Ok(extent) = ExtentItem::decode(value) else { return };
        let ino = InodeNo(key.object);
        let blocks = u64::from(extent.blocks());
        let first = key.offset / BLOCK_SIZE_U64;
        if first < self.current.extents_end {
            wrong(ino, format!("two extents overlap at offset {}", key.offset));
        }
        let end = first + blocks;
        self.current.extents_end = self.current.extents_end.max(end);
        self.current.blocks += blocks;
        let Some(item) = &self.current.item else { return };
        let size_blocks = item.size.div_ceil(BLOCK_SIZE_U64);
        if end > size_blocks && item.nlink > 0 && !self.truncating.contains_key(&key.object) {
            wrong(ino, format!("its size is {}, and an extent goes on behind it", item.size));
        }
    }

    /// All items of an inode were seen.
    fn end_inode(&mut self, wrong: &mut Wrong<'_>) {
        let current = std::mem::take(&mut self.current);
        let Some(item) = current.item else { return };
        let (ino, kind) = (InodeNo(current.number), item.kind());
        self.inodes.push(Inode {
            number: current.number,
            links: item.nlink,
            kind,
            parent: item.parent,
        });
        let mut wrong = |why: String| wrong(ino, why);
        let of_file = kind == FileKind::File;
        if !of_file && current.blocks > 0 {
            wrong("it has extents, and is no file".to_owned());
        }
        if kind != FileKind::Directory && current.entries > 0 {
            wrong("it has entries, and is no directory".to_owned());
        }
        // Of an inode that is being freed, anything may be gone already.
        if current.partial || item.nlink == 0 {
            return;
        }
        if of_file && current.blocks != item.blocks {
            let (stated, counted) = (item.blocks, current.blocks);
            wrong(format!("{stated} blocks are stated, {counted} were counted"));
        }
        if kind == FileKind::Symlink && current.target_bytes != item.size {
            let (stated, counted) = (item.size, current.target_bytes);
            wrong(format!("its target has {counted} bytes in place of {stated}"));
        }
        if kind == FileKind::Directory && current.entries != item.entries {
            let (stated, counted) = (item.entries, current.entries);
            wrong(format!("{stated} entries are stated, {counted} were counted"));
        }
        if let Some(next) = self.next_inode.filter(|next| *next <= current.number)
            && ino != ROOT_INODE
        {
            wrong(format!("inode numbers go on at {next}, and it would be given out again"));
        }
        if current.xattrs.list_bytes > XATTR_LIST_BYTES_MAX {
            wrong(format!("the names of its attributes take {} bytes", current.xattrs.list_bytes));
        }
        current.xattrs.end(item.flags, &mut wrong);
    }

    /// All items were taken in.
    pub fn end(mut self, wrong: &mut Wrong<'_>) {
        self.end_inode(wrong);
        // Names and inodes may be among what is missing.
        if !self.is_volume || self.gaps {
            return;
        }
        self.entries.sort_unstable();
        self.entries_without_inode(wrong);
        let mut directories = BTreeMap::new();
        for inode in &self.inodes {
            if inode.kind == FileKind::Directory {
                directories.insert(inode.number, (inode.parent, 0_u32));
            }
        }
        for entry in &self.entries {
            if entry.kind == FileKind::Directory.dirent_type()
                && let Some((_, below)) = directories.get_mut(&entry.parent)
            {
                *below += 1;
            }
        }
        self.links(&directories, wrong);
        loops(&directories, wrong);
        for orphan in &self.orphans {
            if self.inode(*orphan).is_none() {
                wrong(InodeNo(*orphan), "it is marked to be freed, and is not there".to_owned());
            }
        }
        if self.inode(ROOT_INODE.0).is_none_or(|root| root.kind != FileKind::Directory) {
            wrong(ROOT_INODE, "there is no root directory".to_owned());
        }
    }

    fn inode(&self, number: u64) -> Option<&Inode> {
        let at = self.inodes.binary_search_by_key(&number, |inode| inode.number).ok()?;
        self.inodes.get(at)
    }

    fn entries_without_inode(&self, wrong: &mut Wrong<'_>) {
        for entry in &self.entries {
            let parent = InodeNo(entry.parent);
            match self.inode(entry.child) {
                None => {
                    let why = format!(
                        "an entry of it leads to inode {}, which is not there",
                        entry.child
                    );
                    wrong(parent, why);
                }
                Some(child) if child.kind.dirent_type() != entry.kind => {
                    let why =
                        format!("an entry of it takes inode {} for another kind", entry.child);
                    wrong(parent, why);
                }
                Some(child)
                    if child.kind == FileKind::Directory && child.parent != entry.parent =>
                {
                    let why = format!(
                        "it takes inode {} for its parent, which has no entry for it",
                        child.parent
                    );
                    wrong(InodeNo(entry.child), why);
                }
                Some(_) => {}
            }
        }
    }

    /// Every inode has as many names as it says, and none only where it is to be freed.
    fn links(&self, directories: &BTreeMap<u64, (u64, u32)>, wrong: &mut Wrong<'_>) {
        let mut entries = self.entries.as_slice();
        for inode in &self.inodes {
            let skip = entries.partition_point(|entry| entry.child < inode.number);
            entries = entries.get(skip..).unwrap_or_default();
            let names = entries.partition_point(|entry| entry.child == inode.number);
            let ino = InodeNo(inode.number);
            let marked = self.orphans.contains(&inode.number);
            let root = ino == ROOT_INODE;
            match (names, root) {
                (0, false) if inode.links == 0 && marked => continue,
                (0, false) if marked => {
                    wrong(
                        ino,
                        format!("it has no name, is to be freed, and states {} links", inode.links),
                    );
                    continue;
                }
                (0, false) => {
                    wrong(ino, "it has no name, and is not marked to be freed".to_owned());
                    continue;
                }
                (1.., true) => wrong(ino, "an entry leads to the root directory".to_owned()),
                (2.., false) if inode.kind == FileKind::Directory => {
                    wrong(ino, format!("it is a directory and has {names} names"));
                }
                (1.., false) if marked => {
                    wrong(ino, "it has a name, and is marked to be freed".to_owned());
                }
                _ => {}
            }
            let counted = match directories.get(&inode.number) {
                Some((_, below)) => 2 + u64::from(*below),
                None => names as u64,
            };
            if u64::from(inode.links) != counted {
                wrong(ino, format!("{} links are stated, {counted} were counted", inode.links));
            }
        }
    }
}

/// Directories that no way from the root leads to.
fn loops(directories: &BTreeMap<u64, (u64, u32)>, wrong: &mut Wrong<'_>) {
    let mut good: BTreeSet<u64> = BTreeSet::from([ROOT_INODE.0]);
    for start in directories.keys() {
        let (mut at, mut path) = (*start, BTreeSet::new());
        while !good.contains(&at) {
            if !path.insert(at) {
                wrong(InodeNo(*start), "it lies in a circle of directories".to_owned());
                break;
            }
            match directories.get(&at) {
                Some((parent, _)) => at = *parent,
                // Reported as an inode that is not there, or as one without a name.
                None => break,
            }
        }
        good.extend(path);
    }
}
