//! One tree, copied: directory by directory from its root, then what no name leads to any more.
//!
//! Names and links come from the tree, and nobody vouches for them. One directory is open at a time,
//! everything in it is made by a single name and never replaced ([`crate::sys::new_tree`]); a
//! directory is entered once, so circles end; what cannot have its name goes to lost and found.
//! However deep a tree is, one path is kept, and a name for each directory on the way.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;

use crate::base::InodeNo;
use crate::sys::new_tree::{self, NewDirectory, Unkept, is_full, is_of_the_place};
use crate::verify::salvage::attributes::{self, of_item};
use crate::verify::salvage::content::{self, Content};
use crate::verify::salvage::inodes::{Inode, Inodes};
use crate::verify::salvage::report::{Copied, Of, Report};
use crate::verify::salvage::source::{Got, Met, Source};
use crate::volume::FileKind;
use crate::volume::items::{Dirent, InodeItem, ROOT_INODE, dirent_key, inode_key};

/// What lost and found is called beside the tree that it belongs to: no cluster has such a name.
const FOUND_SUFFIX: &str = ".lost+found";

/// What is lost where a part of a file cannot be read.
const CONTENT: &str = "content";

/// What is not kept where a file could not get a further name.
const COPY_FOR_EACH: &str = "hard links: a copy for each name";

/// Bytes of the places that are remembered for further names; a file placed after those is copied
/// for each name.
const PLACES_BYTES_MAX: usize = 32 << 20;

/// Copies one tree.
pub(super) struct Copier<'a> {
    source: &'a Source,
    inodes: Inodes,
    /// The destination itself.
    top: &'a NewDirectory,
    report: &'a mut Report,
    copied: &'a mut Copied,
    owner: String,
    /// Where what is being copied stands in the tree. There is one, however deep the tree is.
    path: Vec<u8>,
    /// Where such paths stand below the destination.
    base: String,
    /// Where each inode of several names stands, below the destination.
    placed: BTreeMap<InodeNo, Vec<u8>>,
    placed_bytes: usize,
    /// What the files among those lack of their content: it is told of each name.
    holed: BTreeMap<InodeNo, Vec<(u64, Option<u64>)>>,
    blocks_max: u64,
    /// Blocks that may still be read: a tree reaches each of a pool's once.
    budget: u64,
    /// There is no room left: the rest is named.
    full: bool,
}

/// A directory on the way down.
struct Level {
    inode: InodeNo,
    identity: (u64, u64),
    /// Directories in it that are not done.
    below: Vec<Dirent>,
    /// Bytes of its path.
    path_bytes: usize,
}

impl<'a> Copier<'a> {
    pub fn new(
        source: &'a Source,
        inodes: Inodes,
        top: &'a NewDirectory,
        (report, copied): (&'a mut Report, &'a mut Copied),
        blocks_max: u64,
    ) -> Self {
        Self {
            source,
            inodes,
            top,
            report,
            owner: copied.owner.clone(),
            copied,
            path: Vec::new(),
            base: String::new(),
            placed: BTreeMap::new(),
            placed_bytes: 0,
            holed: BTreeMap::new(),
            blocks_max,
            budget: blocks_max,
            full: false,
        }
    }

    fn lose(&mut self, inode: InodeNo, what: &str) {
        let of = Of { owner: &self.owner, path: Some(&self.path), inode: Some(inode) };
        self.report.lose(&of, what);
    }

    fn cannot_write(&mut self, inode: InodeNo, why: &str) {
        let of = Of { owner: &self.owner, path: Some(&self.path), inode: Some(inode) };
        self.report.cannot_write(&of, why);
    }

    fn fails(&mut self, inode: InodeNo, error: &io::Error) {
        self.full |= is_full(error);
        self.cannot_write(inode, &error.to_string());
    }

    /// Goes down to an entry of what is being copied.
    fn push(&mut self, name: &[u8]) {
        if self.path.last() != Some(&b'/') {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
    }

    /// Copies the tree to `name` in `parent`, which stands at `place` below the destination.
    pub fn run(&mut self, parent: &NewDirectory, place: &str, name: &str) {
        self.path = b"/".to_vec();
        self.base = format!("{place}/{name}");
        match parent.make(name.as_bytes()) {
            Ok(directory) => self.subtree(directory, ROOT_INODE),
            Err(error) => return self.fails(ROOT_INODE, &error),
        }
        let found = format!("{name}{FOUND_SUFFIX}");
        self.base = format!("{place}/{found}");
        self.lost_and_found(parent, &found);
    }

    /// Copies a directory, which was just made, with all that is below it.
    fn subtree(&mut self, mut here: NewDirectory, inode: InodeNo) {
        let mut stack: Vec<Level> = Vec::new();
        match self.enter(&here, inode) {
            Ok(level) => stack.push(level),
            Err(error) => return self.fails(inode, &error),
        }
        while let Some(level) = stack.last_mut() {
            self.path.truncate(level.path_bytes);
            let Some(entry) = level.below.pop() else {
                match self.leave(here, &mut stack) {
                    Ok(Some(above)) => here = above,
                    Ok(None) => return,
                    Err((inode, error)) => return self.fails(inode, &error),
                }
                continue;
            };
            self.push(&entry.name);
            let Some(directory) = self.descend(&here, &entry) else { continue };
            match self.enter(&directory, entry.ino) {
                Ok(level) => stack.push(level),
                Err(error) => {
                    self.fails(entry.ino, &error);
                    continue;
                }
            }
            here = directory;
        }
    }

    /// Makes the directory of an entry.
    fn descend(&mut self, here: &NewDirectory, entry: &Dirent) -> Option<NewDirectory> {
        let reached = self.inodes.get(entry.ino).is_some_and(|inode| inode.reached);
        if reached {
            self.lose(entry.ino, "a directory of several names: this one leads in a circle");
            return None;
        }
        if self.full {
            self.cannot_write(entry.ino, "no room, nor for what is in it");
            return None;
        }
        match here.make(&entry.name) {
            Ok(directory) => Some(directory),
            Err(error) => {
                self.cannot_name(entry.ino, &error);
                None
            }
        }
    }

    /// A name that the destination does not take; what it leads to is found without it.
    fn cannot_name(&mut self, inode: InodeNo, error: &io::Error) {
        if is_of_the_place(error) {
            return self.fails(inode, error);
        }
        self.cannot_write(inode, &format!("the name cannot be made ({error}): see lost and found"));
    }

    /// Lists a directory and copies everything in it but directories.
    fn enter(&mut self, here: &NewDirectory, inode: InodeNo) -> io::Result<Level> {
        self.inodes.reach(inode);
        self.copied.directories += 1;
        let (mut below, mut others) = (Vec::new(), Vec::new());
        let (mut gap, mut bad) = (false, false);
        let (from, to) = (dirent_key(inode, 0), dirent_key(inode, u64::MAX));
        let inodes = &self.inodes;
        self.source.range(from, to, &mut |met| {
            match met {
                Met::Gap(_) => gap = true,
                Met::Item(_, value) => match Dirent::decode(value) {
                    Ok(entry) => {
                        let known = inodes.get(entry.ino).and_then(|inode| inode.kind);
                        let kind = known.unwrap_or(entry.kind);
                        if kind == FileKind::Directory { &mut below } else { &mut others }
                            .push(Dirent { kind, ..entry });
                    }
                    Err(_) => bad = true,
                },
            }
            ControlFlow::Continue(())
        });
        if gap && self.lacks_names(inode, below.len() + others.len()) {
            self.lose(inode, "names in this directory cannot be read: see lost and found");
        }
        if bad {
            self.lose(inode, "a name in this directory is none: see lost and found");
        }
        let path_bytes = self.path.len();
        for entry in others {
            self.push(&entry.name);
            self.leaf(here, &entry);
            self.path.truncate(path_bytes);
        }
        Ok(Level { inode, identity: here.identity()?, below, path_bytes })
    }

    /// Whether a directory holds more names than were found.
    fn lacks_names(&self, inode: InodeNo, found: usize) -> bool {
        self.item(inode).is_none_or(|item| item.entries != found as u64)
    }

    /// Ends a directory: it gets its attributes, and the one above is open again. `None` behind the
    /// last.
    fn leave(
        &mut self,
        here: NewDirectory,
        stack: &mut Vec<Level>,
    ) -> Result<Option<NewDirectory>, (InodeNo, io::Error)> {
        let Some(Level { inode, .. }) = stack.pop() else { return Ok(None) };
        // First: once it has its permissions, there may be no way out of it.
        let above = stack.last().map(|above| here.parent(above.identity)).transpose();
        let above = above.map_err(|error| (inode, error))?;
        match self.item(inode) {
            Some(item) => {
                let xattrs = self.xattrs(inode);
                let unkept = here.set(&of_item(&item, &xattrs));
                self.tell(&unkept, inode, &item);
            }
            None => self.lose(inode, "the directory's own attributes"),
        }
        Ok(above)
    }

    fn item(&self, inode: InodeNo) -> Option<InodeItem> {
        match self.source.get(inode_key(inode)) {
            Got::Item(value) => InodeItem::decode(&value).ok(),
            Got::Absent | Got::Lost => None,
        }
    }

    fn xattrs(&mut self, inode: InodeNo) -> attributes::Xattrs {
        let (xattrs, whole) = attributes::xattrs(self.source, inode);
        if !whole {
            self.lose(inode, "extended attributes");
        }
        xattrs
    }

    /// Copies what an entry leads to, which is no directory.
    fn leaf(&mut self, here: &NewDirectory, entry: &Dirent) {
        let (ino, name) = (entry.ino, entry.name.as_slice());
        if self.full {
            return self.cannot_write(ino, "no room");
        }
        if let Some(first) = self.placed.get(&ino)
            && self.link(here, &first.clone(), name)
        {
            self.copied.links += 1;
            let of = Of { owner: &self.owner, path: Some(&self.path), inode: Some(ino) };
            for range in self.holed.get(&ino).into_iter().flatten() {
                self.report.lose_range(&of, CONTENT, Some(*range));
            }
            return;
        }
        let Some(item) = self.item(ino) else {
            return self.leaf_without_item(here, entry);
        };
        let made = match item.kind() {
            FileKind::File => self.file(here, name, (ino, Some(&item))),
            FileKind::Symlink => self.symlink(here, name, (ino, &item)),
            FileKind::Directory => return,
            _ => self.special(here, name, (ino, &item)),
        };
        match made {
            Ok(is_there) => {
                self.inodes.reach(ino);
                if is_there && item.nlink > 1 {
                    self.place(ino);
                }
            }
            Err(error) => self.cannot_name(ino, &error),
        }
    }

    /// What can be had of a file whose own item cannot be read.
    fn leaf_without_item(&mut self, here: &NewDirectory, entry: &Dirent) {
        let has_content = self.inodes.get(entry.ino).is_some_and(|inode| inode.extents);
        if entry.kind == FileKind::File && has_content {
            if let Err(error) = self.file(here, &entry.name, (entry.ino, None)) {
                return self.cannot_name(entry.ino, &error);
            }
            self.inodes.reach(entry.ino);
            return;
        }
        let what = if self.inodes.may_be_lost(entry.ino) {
            "all of it"
        } else {
            "the name leads to an inode that is not there"
        };
        self.lose(entry.ino, what);
    }

    /// Remembers where an inode of several names was made last.
    fn place(&mut self, inode: InodeNo) {
        let place = [self.base.as_bytes(), &self.path].concat();
        if self.placed_bytes + place.len() <= PLACES_BYTES_MAX {
            self.placed_bytes += place.len();
            let before = self.placed.insert(inode, place);
            self.placed_bytes -= before.map_or(0, |before| before.len());
        } else {
            let of = Of { owner: &self.owner, path: Some(&self.path), inode: Some(inode) };
            self.report.not_kept(COPY_FOR_EACH, &of);
        }
    }

    /// Another name for what was copied before. Whether it could be made: where not, it is copied
    /// again.
    fn link(&mut self, here: &NewDirectory, first: &[u8], name: &[u8]) -> bool {
        let mut parts: Vec<&[u8]> = first.split(|b| *b == b'/').filter(|p| !p.is_empty()).collect();
        let Some(old) = parts.pop() else { return false };
        let mut from: Option<NewDirectory> = None;
        for part in parts {
            match from.as_ref().unwrap_or(self.top).enter(part) {
                Ok(next) => from = Some(next),
                Err(_) => return self.unlinked(first),
            }
        }
        match here.link(from.as_ref().unwrap_or(self.top), old, name) {
            Ok(()) => true,
            // The name itself is refused, as it will be again.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(_) => self.unlinked(first),
        }
    }

    fn unlinked(&mut self, first: &[u8]) -> bool {
        let of = Of { owner: &self.owner, path: Some(first), inode: None };
        self.report.not_kept(COPY_FOR_EACH, &of);
        false
    }

    /// Reads a file's content into `file`. One of several names that could not be linked is read for
    /// each: it has its blocks once, and was charged for them.
    fn content(
        &mut self,
        (ino, item): (InodeNo, Option<&InodeItem>),
        file: &File,
    ) -> io::Result<Content> {
        let is_charged = self.inodes.get(ino).is_some_and(|inode| inode.reached)
            && item.is_some_and(|item| item.nlink > 1);
        let mut again = self.blocks_max;
        let budget = if is_charged { &mut again } else { &mut self.budget };
        content::copy(self.source, (ino, item), file, budget)
    }

    /// Makes a file with what can be read of it; whether it could be written.
    fn file(
        &mut self,
        here: &NewDirectory,
        name: &[u8],
        (ino, item): (InodeNo, Option<&InodeItem>),
    ) -> io::Result<bool> {
        let file = here.create(name)?;
        let content = match self.content((ino, item), &file) {
            Ok(content) => content,
            Err(error) => {
                // Half of a file that looks like all of it is worse than none.
                let _ = here.remove(name);
                self.fails(ino, &error);
                return Ok(false);
            }
        };
        self.copied.files += 1;
        self.copied.bytes += content.bytes;
        if !content.lost.is_empty() && item.is_some_and(|item| item.nlink > 1) {
            self.holed.insert(ino, content.lost.clone());
        }
        self.tell_of_content(ino, content);
        let Some(item) = item else {
            self.lose(ino, "attributes and length: it ends with the last block found");
            return Ok(true);
        };
        let xattrs = self.xattrs(ino);
        let unkept = new_tree::set(&file, &of_item(item, &xattrs));
        self.tell(&unkept, ino, item);
        Ok(true)
    }

    fn tell_of_content(&mut self, ino: InodeNo, content: Content) {
        let of = Of { owner: &self.owner, path: Some(&self.path), inode: Some(ino) };
        for range in content.lost {
            self.report.lose_range(&of, CONTENT, Some(range));
        }
        if content.unaccounted > 0 {
            let what = format!("{} blocks of it are nowhere to be found", content.unaccounted);
            self.report.lose(&of, what);
        }
        if content.cut {
            let why = "the destination takes no file so long: the hole at its end is missing";
            self.report.cannot_write(&of, why);
        }
        if content.too_many {
            self.report.lose(&of, "its tree has more blocks than the pool: the rest is left out");
        }
    }

    /// Makes a symbolic link; whether its target could be read.
    fn symlink(
        &mut self,
        here: &NewDirectory,
        name: &[u8],
        (ino, item): (InodeNo, &InodeItem),
    ) -> io::Result<bool> {
        let Some(target) = attributes::target(self.source, ino, item) else {
            self.lose(ino, "the link's target");
            return Ok(false);
        };
        here.symlink(name, &target)?;
        self.copied.symlinks += 1;
        self.attributes_of(here, name, (ino, item));
        Ok(true)
    }

    /// Makes a pipe, a socket or a device node; whether this user may.
    fn special(
        &mut self,
        here: &NewDirectory,
        name: &[u8],
        (ino, item): (InodeNo, &InodeItem),
    ) -> io::Result<bool> {
        match here.special(name, item.mode, item.rdev) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let of = Of { owner: &self.owner, path: Some(&self.path), inode: Some(ino) };
                self.report.not_kept("device nodes: not made", &of);
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        self.copied.special_files += 1;
        self.attributes_of(here, name, (ino, item));
        Ok(true)
    }

    /// Says which attributes of what was made could not be kept.
    fn tell(&mut self, unkept: &Unkept, ino: InodeNo, item: &InodeItem) {
        let of = Of { owner: &self.owner, path: Some(&self.path), inode: Some(ino) };
        attributes::tell(unkept, item.mode, &of, self.report);
    }

    fn attributes_of(
        &mut self,
        here: &NewDirectory,
        name: &[u8],
        (ino, item): (InodeNo, &InodeItem),
    ) {
        let xattrs = self.xattrs(ino);
        let is_link = item.kind() == FileKind::Symlink;
        let unkept = here.set_of(name, is_link, &of_item(item, &xattrs));
        self.tell(&unkept, ino, item);
    }

    /// Copies what no name leads to, by its number.
    fn lost_and_found(&mut self, parent: &NewDirectory, name: &str) {
        self.owner.push_str(", lost and found");
        let mut found: Option<NewDirectory> = None;
        for circles in [false, true] {
            for ino in self.inodes.lost_directories(circles) {
                if self.inodes.get(ino).is_some_and(|inode| inode.reached) {
                    continue;
                }
                let Some(here) = self.open_found(&mut found, parent, name) else { return };
                self.path = found_path(ino);
                match here.make(ino.0.to_string().as_bytes()) {
                    Ok(directory) => {
                        self.lose(ino, "its name: it is in lost and found");
                        self.copied.found += 1;
                        self.subtree(directory, ino);
                    }
                    Err(error) => self.fails(ino, &error),
                }
            }
        }
        for inode in self.inodes.lost_others() {
            let Some(here) = self.open_found(&mut found, parent, name) else { return };
            self.found_leaf(here, &inode);
        }
    }

    fn found_leaf(&mut self, here: &NewDirectory, inode: &Inode) {
        self.path = found_path(inode.number);
        self.lose(inode.number, "its name: it is in lost and found");
        self.copied.found += 1;
        let kind = inode.kind.unwrap_or(FileKind::File);
        let name = inode.number.0.to_string().into_bytes();
        self.leaf(here, &Dirent { ino: inode.number, kind, name });
    }

    /// Lost and found, made when something is first put there. `None` where there is no room.
    fn open_found<'f>(
        &mut self,
        found: &'f mut Option<NewDirectory>,
        parent: &NewDirectory,
        name: &str,
    ) -> Option<&'f NewDirectory> {
        let of = Of { owner: &self.owner, path: None, inode: None };
        if self.full {
            self.report.cannot_write(&of, "no room for what no name leads to");
            return None;
        }
        if found.is_none() {
            match parent.make(name.as_bytes()) {
                Ok(made) => {
                    self.copied.lost_and_found = Some(self.base.clone());
                    *found = Some(made);
                }
                Err(error) => {
                    self.report.cannot_write(&of, error.to_string());
                    return None;
                }
            }
        }
        found.as_ref()
    }
}

/// How what has no name any more is called in reports.
fn found_path(inode: InodeNo) -> Vec<u8> {
    format!("/{}", inode.0).into_bytes()
}
