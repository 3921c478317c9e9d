//! One tree, copied: directory by directory from its root, then what no name leads to any more.
//!
//! Names and links come from the tree, and nobody vouches for them. One directory is open at a time,
//! everything in it is made by a single name and never replaced ([`crate::sys::new_tree`]); a
//! directory is entered once, so circles end; what cannot have its name goes to lost and found.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;

use crate::base::InodeNo;
use crate::sys::new_tree::{self, NewDirectory, Unkept, is_full};
use crate::verify::hits::printable;
use crate::verify::salvage::attributes::{self, of_item};
use crate::verify::salvage::content;
use crate::verify::salvage::inodes::{Inode, Inodes};
use crate::verify::salvage::report::{Copied, Of, Report};
use crate::verify::salvage::source::{Got, Met, Source};
use crate::volume::FileKind;
use crate::volume::items::{Dirent, InodeItem, ROOT_INODE, dirent_key, inode_key};

/// What lost and found is called beside the tree that it belongs to: no cluster has such a name.
const FOUND_SUFFIX: &str = ".lost+found";

/// What is lost where a part of a file cannot be read.
const CONTENT: &str = "content";

/// Copies one tree.
pub(super) struct Copier<'a> {
    source: &'a Source,
    inodes: Inodes,
    /// The destination itself.
    top: &'a NewDirectory,
    report: &'a mut Report,
    copied: &'a mut Copied,
    owner: String,
    /// Where each inode of several names stands, below the destination.
    placed: BTreeMap<InodeNo, Vec<u8>>,
    /// What the files among those lack of their content: it is told of each name.
    holed: BTreeMap<InodeNo, Vec<(u64, Option<u64>)>>,
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
    path: Vec<u8>,
}

/// Where a tree's paths stand below the destination.
#[derive(Clone, Copy)]
struct Base<'a>(&'a [u8]);

impl Base<'_> {
    fn place(self, path: &[u8]) -> Vec<u8> {
        [self.0, path].concat()
    }
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut joined = path.to_vec();
    if joined.last() != Some(&b'/') {
        joined.push(b'/');
    }
    joined.extend_from_slice(name);
    joined
}

impl<'a> Copier<'a> {
    pub fn new(
        source: &'a Source,
        inodes: Inodes,
        top: &'a NewDirectory,
        (report, copied): (&'a mut Report, &'a mut Copied),
        blocks_max: u64,
    ) -> Self {
        let owner = copied.owner.clone();
        let (placed, holed, full) = (BTreeMap::new(), BTreeMap::new(), false);
        let budget = blocks_max;
        Self { source, inodes, top, report, copied, owner, placed, holed, budget, full }
    }

    fn lose(&mut self, path: &[u8], inode: InodeNo, what: &str) {
        let of = Of { owner: &self.owner, path: Some(path), inode: Some(inode) };
        self.report.lose(&of, what);
    }

    fn cannot_write(&mut self, path: &[u8], inode: InodeNo, error: &io::Error) {
        self.full |= is_full(error);
        let of = Of { owner: &self.owner, path: Some(path), inode: Some(inode) };
        self.report.cannot_write(&of, error.to_string());
    }

    /// Copies the tree to `name` in `parent`, which stands at `place` below the destination.
    pub fn run(&mut self, parent: &NewDirectory, place: &str, name: &str) {
        self.say_gaps();
        let base = format!("{place}/{name}");
        match parent.make(name.as_bytes()) {
            Ok(directory) => {
                self.subtree(directory, ROOT_INODE, b"/".to_vec(), Base(base.as_bytes()))
            }
            Err(error) => return self.cannot_write(b"/", ROOT_INODE, &error),
        }
        let found = format!("{name}{FOUND_SUFFIX}");
        self.lost_and_found(parent, place, &found);
    }

    /// What stands in nodes that cannot be read: the files that are known are named, and others may
    /// have been there.
    fn say_gaps(&mut self) {
        for gap in &self.inodes.gaps {
            let upto = gap.upper.map_or("the last".to_owned(), |upper| upper.object.to_string());
            let what = format!(
                "a tree node cannot be read: it held items of inodes {} to {upto}",
                gap.lower.object
            );
            self.report.lose(&Of { owner: &self.owner, path: None, inode: None }, what);
        }
    }

    /// Copies a directory, which was just made, with all that is below it.
    fn subtree(&mut self, mut here: NewDirectory, inode: InodeNo, path: Vec<u8>, base: Base<'_>) {
        let mut stack: Vec<Level> = Vec::new();
        match self.enter(&here, inode, path, base) {
            Ok(level) => stack.push(level),
            Err(error) => return self.cannot_write(b"/", inode, &error),
        }
        while let Some(level) = stack.last_mut() {
            let Some(entry) = level.below.pop() else {
                match self.leave(here, &mut stack) {
                    Ok(Some(above)) => here = above,
                    Ok(None) => return,
                    Err((path, inode, error)) => return self.cannot_write(&path, inode, &error),
                }
                continue;
            };
            let path = join(&level.path, &entry.name);
            if let Some(directory) = self.descend(&here, &entry, &path) {
                match self.enter(&directory, entry.ino, path.clone(), base) {
                    Ok(level) => stack.push(level),
                    Err(error) => {
                        self.cannot_write(&path, entry.ino, &error);
                        continue;
                    }
                }
                here = directory;
            }
        }
    }

    /// Makes the directory of an entry.
    fn descend(
        &mut self,
        here: &NewDirectory,
        entry: &Dirent,
        path: &[u8],
    ) -> Option<NewDirectory> {
        let reached = self.inodes.get(entry.ino).is_some_and(|inode| inode.reached);
        if reached {
            self.lose(path, entry.ino, "a directory of several names: this one leads in a circle");
            return None;
        }
        if self.full {
            let mut below = path.to_vec();
            below.push(b'/');
            let of = Of { owner: &self.owner, path: Some(&below), inode: Some(entry.ino) };
            self.report.cannot_write(&of, "no room, nor for what is in it");
            return None;
        }
        match here.make(&entry.name) {
            Ok(directory) => Some(directory),
            Err(error) => {
                self.cannot_name(path, entry.ino, &error);
                None
            }
        }
    }

    /// A name that the destination does not take; what it leads to is found without it.
    fn cannot_name(&mut self, path: &[u8], inode: InodeNo, error: &io::Error) {
        if is_full(error) {
            return self.cannot_write(path, inode, error);
        }
        let what = format!("the name cannot be made ({error}): see lost and found");
        let of = Of { owner: &self.owner, path: Some(path), inode: Some(inode) };
        self.report.cannot_write(&of, what);
    }

    /// Lists a directory and copies everything in it but directories.
    fn enter(
        &mut self,
        here: &NewDirectory,
        inode: InodeNo,
        path: Vec<u8>,
        base: Base<'_>,
    ) -> io::Result<Level> {
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
            self.lose(&path, inode, "names in this directory cannot be read: see lost and found");
        }
        if bad {
            self.lose(&path, inode, "a name in this directory is none: see lost and found");
        }
        for entry in others {
            let path = join(&path, &entry.name);
            self.leaf(here, &entry, &path, base);
        }
        Ok(Level { inode, identity: here.identity()?, below, path })
    }

    /// Whether a directory holds more names than were found.
    fn lacks_names(&self, inode: InodeNo, found: usize) -> bool {
        self.item(inode).is_none_or(|item| item.entries != found as u64)
    }

    /// Ends a directory: it gets its attributes, and the one above is open again. `None` behind the
    /// last.
    #[allow(clippy::type_complexity)] // what failed, where
    fn leave(
        &mut self,
        here: NewDirectory,
        stack: &mut Vec<Level>,
    ) -> Result<Option<NewDirectory>, (Vec<u8>, InodeNo, io::Error)> {
        let Some(level) = stack.pop() else { return Ok(None) };
        let above = match stack.last() {
            // First: once it has its permissions, there may be no way out of it.
            Some(above) => Some(
                here.parent(above.identity)
                    .map_err(|error| (level.path.clone(), level.inode, error))?,
            ),
            None => None,
        };
        match self.item(level.inode) {
            Some(item) => {
                let xattrs = self.xattrs(level.inode, &level.path);
                let unkept = here.set(&of_item(&item, &xattrs));
                self.tell(&unkept, &item, &level.path);
            }
            None => self.lose(&level.path, level.inode, "the directory's own attributes"),
        }
        Ok(above)
    }

    fn item(&self, inode: InodeNo) -> Option<InodeItem> {
        match self.source.get(inode_key(inode)) {
            Got::Item(value) => InodeItem::decode(&value).ok(),
            Got::Absent | Got::Lost => None,
        }
    }

    fn xattrs(&mut self, inode: InodeNo, path: &[u8]) -> attributes::Xattrs {
        let (xattrs, whole) = attributes::xattrs(self.source, inode);
        if !whole {
            self.lose(path, inode, "extended attributes");
        }
        xattrs
    }

    /// Copies what an entry leads to, which is no directory.
    fn leaf(&mut self, here: &NewDirectory, entry: &Dirent, path: &[u8], base: Base<'_>) {
        let (ino, name) = (entry.ino, entry.name.as_slice());
        if self.full {
            let of = Of { owner: &self.owner, path: Some(path), inode: Some(ino) };
            self.report.cannot_write(&of, "no room");
            return;
        }
        if let Some(first) = self.placed.get(&ino)
            && self.link(here, &first.clone(), name)
        {
            self.copied.links += 1;
            let of = Of { owner: &self.owner, path: Some(path), inode: Some(ino) };
            for range in self.holed.get(&ino).into_iter().flatten() {
                self.report.lose_range(&of, CONTENT, Some(*range));
            }
            return;
        }
        let Some(item) = self.item(ino) else {
            self.leaf_without_item(here, entry, path);
            return;
        };
        let made = match item.kind() {
            FileKind::File => self.file(here, name, (ino, Some(&item)), path),
            FileKind::Symlink => self.symlink(here, name, (ino, &item), path),
            FileKind::Directory => return,
            _ => self.special(here, name, (ino, &item), path),
        };
        match made {
            Ok(is_there) => {
                self.inodes.reach(ino);
                if is_there && item.nlink > 1 {
                    self.placed.entry(ino).or_insert_with(|| base.place(path));
                }
            }
            Err(error) => self.cannot_name(path, ino, &error),
        }
    }

    /// What can be had of a file whose own item cannot be read.
    fn leaf_without_item(&mut self, here: &NewDirectory, entry: &Dirent, path: &[u8]) {
        let has_content = self.inodes.get(entry.ino).is_some_and(|inode| inode.extents);
        if entry.kind == FileKind::File && has_content {
            if let Err(error) = self.file(here, &entry.name, (entry.ino, None), path) {
                return self.cannot_name(path, entry.ino, &error);
            }
            self.inodes.reach(entry.ino);
            return;
        }
        let what = if self.inodes.may_be_lost(entry.ino) {
            "all of it"
        } else {
            "the name leads to an inode that is not there"
        };
        self.lose(path, entry.ino, what);
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
        self.report.not_kept("hard links: a copy for each name", &of);
        false
    }

    /// Makes a file with what can be read of it; whether it could be written.
    fn file(
        &mut self,
        here: &NewDirectory,
        name: &[u8],
        (ino, item): (InodeNo, Option<&InodeItem>),
        path: &[u8],
    ) -> io::Result<bool> {
        let file = here.create(name)?;
        let content = match content::copy(self.source, (ino, item), &file, &mut self.budget) {
            Ok(content) => content,
            Err(error) => {
                // Half of a file that looks like all of it is worse than none.
                let _ = here.remove(name);
                self.cannot_write(path, ino, &error);
                return Ok(false);
            }
        };
        self.copied.files += 1;
        self.copied.bytes += content.bytes;
        if !content.lost.is_empty() && item.is_some_and(|item| item.nlink > 1) {
            self.holed.insert(ino, content.lost.clone());
        }
        let of = Of { owner: &self.owner, path: Some(path), inode: Some(ino) };
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
        let Some(item) = item else {
            self.lose(path, ino, "attributes and length: it ends with the last block found");
            return Ok(true);
        };
        let xattrs = self.xattrs(ino, path);
        let unkept = new_tree::set(&file, &of_item(item, &xattrs));
        self.tell(&unkept, item, path);
        Ok(true)
    }

    /// Makes a symbolic link; whether its target could be read.
    fn symlink(
        &mut self,
        here: &NewDirectory,
        name: &[u8],
        (ino, item): (InodeNo, &InodeItem),
        path: &[u8],
    ) -> io::Result<bool> {
        let Some(target) = attributes::target(self.source, ino, item) else {
            self.lose(path, ino, "the link's target");
            return Ok(false);
        };
        here.symlink(name, &target)?;
        self.copied.symlinks += 1;
        self.attributes_of(here, name, (ino, item), path);
        Ok(true)
    }

    /// Makes a pipe, a socket or a device node; whether this user may.
    fn special(
        &mut self,
        here: &NewDirectory,
        name: &[u8],
        (ino, item): (InodeNo, &InodeItem),
        path: &[u8],
    ) -> io::Result<bool> {
        match here.special(name, item.mode, item.rdev) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let of = Of { owner: &self.owner, path: Some(path), inode: Some(ino) };
                self.report.not_kept("device nodes: not made", &of);
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        self.copied.special_files += 1;
        self.attributes_of(here, name, (ino, item), path);
        Ok(true)
    }

    /// Says which attributes of what was made could not be kept.
    fn tell(&mut self, unkept: &Unkept, item: &InodeItem, path: &[u8]) {
        let of = Of { owner: &self.owner, path: Some(path), inode: None };
        attributes::tell(unkept, item, &of, self.report);
    }

    fn attributes_of(
        &mut self,
        here: &NewDirectory,
        name: &[u8],
        (ino, item): (InodeNo, &InodeItem),
        path: &[u8],
    ) {
        let xattrs = self.xattrs(ino, path);
        let is_link = item.kind() == FileKind::Symlink;
        let unkept = here.set_of(name, is_link, &of_item(item, &xattrs));
        self.tell(&unkept, item, path);
    }

    /// Copies what no name leads to, by its number.
    fn lost_and_found(&mut self, parent: &NewDirectory, place: &str, name: &str) {
        let base = format!("{place}/{name}");
        self.owner.push_str(", lost and found");
        let mut found: Option<NewDirectory> = None;
        for circles in [false, true] {
            for ino in self.inodes.lost_directories(circles) {
                if self.inodes.get(ino).is_some_and(|inode| inode.reached) {
                    continue;
                }
                let Some(here) = self.open_found(&mut found, parent, name) else { return };
                let number = ino.0.to_string();
                match here.make(number.as_bytes()) {
                    Ok(directory) => {
                        let path = found_path(ino);
                        self.lose(&path, ino, "its name: it is in lost and found");
                        self.copied.found += 1;
                        self.subtree(directory, ino, path, Base(base.as_bytes()));
                    }
                    Err(error) => self.cannot_write(&found_path(ino), ino, &error),
                }
            }
        }
        for inode in self.inodes.lost_others() {
            let Some(here) = self.open_found(&mut found, parent, name) else { return };
            self.found_leaf(here, &inode, Base(base.as_bytes()));
        }
        if found.is_some() {
            self.copied.lost_and_found = Some(base);
        }
    }

    fn found_leaf(&mut self, here: &NewDirectory, inode: &Inode, base: Base<'_>) {
        let path = found_path(inode.number);
        self.lose(&path, inode.number, "its name: it is in lost and found");
        self.copied.found += 1;
        let kind = inode.kind.unwrap_or(FileKind::File);
        let name = inode.number.0.to_string().into_bytes();
        let entry = Dirent { ino: inode.number, kind, name };
        self.leaf(here, &entry, &path, base);
    }

    /// Lost and found, made when something is first put there. `None` where there is no room.
    fn open_found<'f>(
        &mut self,
        found: &'f mut Option<NewDirectory>,
        parent: &NewDirectory,
        name: &str,
    ) -> Option<&'f NewDirectory> {
        if self.full {
            let of = Of { owner: &self.owner, path: None, inode: None };
            self.report.cannot_write(&of, "no room for what no name leads to");
            return None;
        }
        if found.is_none() {
            match parent.make(name.as_bytes()) {
                Ok(made) => *found = Some(made),
                Err(error) => {
                    self.cannot_write(printable(name.as_bytes()).as_bytes(), ROOT_INODE, &error);
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
