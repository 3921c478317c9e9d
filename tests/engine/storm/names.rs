//! A tree in which several threads move everything everywhere.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use strongroom::base::InodeNo;
use strongroom::volume::{DirEntry, FileKind, ROOT_INODE, RenameFlags, Volume, VolumeError};

use super::{ROOT, WRITE};
use crate::pools::Dice;

const DIRECTORIES: usize = 8;
const FILES: usize = 24;

/// Directories and files that are never made or removed, only moved; each of their names too.
pub struct Names {
    on: Arc<Volume>,
    /// The tree's root, then its directories.
    directories: Vec<InodeNo>,
    inos: Vec<InodeNo>,
    names: Vec<String>,
    /// In which of the directories each name was last seen.
    places: Vec<AtomicUsize>,
}

impl Names {
    pub fn new(volume: &Arc<Volume>) -> Self {
        let root = volume.mkdir(ROOT_INODE, b"names", 0o755, &ROOT).unwrap().attr.ino;
        let names: Vec<String> = (0..DIRECTORIES + FILES).map(|n| format!("name-{n}")).collect();
        let (directories, files) = names.split_at(DIRECTORIES);
        let directory = |name: &String| volume.mkdir(root, name.as_bytes(), 0o755, &ROOT);
        let file = |name: &String| volume.mknod(root, name.as_bytes(), 0o100_644, 0, &ROOT);
        let made = directories.iter().map(directory).chain(files.iter().map(file));
        let inos: Vec<InodeNo> = made.map(|made| made.unwrap().attr.ino).collect();
        let directories = [&[root], &inos[..DIRECTORIES]].concat();
        let places = names.iter().map(|_| AtomicUsize::new(0)).collect();
        Self { on: Arc::clone(volume), directories, inos, names, places }
    }

    /// One name to another directory, or two against each other.
    pub fn rename(&self, dice: &mut Dice) {
        let (name, other) = (dice.roll(self.names.len()), dice.roll(self.names.len()));
        let from = self.places[name].load(Ordering::Relaxed);
        let exchange = dice.roll(4) == 0 && name != other;
        let (to, new_name) = match exchange {
            true => (self.places[other].load(Ordering::Relaxed), other),
            false => (dice.roll(self.directories.len()), name),
        };
        let flags = RenameFlags { exchange, noreplace: !exchange, whiteout: false };
        let (from_ino, to_ino) = (self.directories[from], self.directories[to]);
        let (old, new) = (self.names[name].as_bytes(), self.names[new_name].as_bytes());
        match self.on.rename(from_ino, old, to_ino, new, flags, &ROOT) {
            Ok(()) if exchange => {}
            Ok(()) => self.places[name].store(to, Ordering::Relaxed),
            // Somebody was faster, or it would be below itself.
            Err(VolumeError::NotFound) => self.seek(name),
            Err(VolumeError::Exists | VolumeError::Invalid) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn seek(&self, name: usize) {
        for (place, directory) in self.directories.iter().enumerate() {
            if let Ok(entry) = self.on.lookup(*directory, self.names[name].as_bytes()) {
                self.on.forget(entry.attr.ino, 1);
                self.places[name].store(place, Ordering::Relaxed);
            }
        }
    }

    /// A file that loses its name while it is open, written to, and gone.
    pub fn short_life(&self, n: u64, dice: &mut Dice) {
        let (directory, name) = (self.directories[dice.roll(DIRECTORIES)], format!("short-{n}"));
        let made = self.on.create(directory, name.as_bytes(), 0o600, WRITE, &ROOT);
        let (entry, handle) = made.unwrap();
        let ino = entry.attr.ino;
        let bytes = vec![n as u8; 1 + dice.roll(300_000)];
        self.on.write(ino, 0, &bytes, true).unwrap();
        self.on.unlink(directory, name.as_bytes()).unwrap();
        self.on.write(ino, bytes.len() as u64, b"more", true).unwrap();
        self.on.release(handle).unwrap();
        self.on.forget(ino, 1);
    }

    /// That every name and every inode is there once, below the root.
    pub fn assert_all_there(&self) {
        let mut found = BTreeMap::new();
        self.collect(self.directories[0], &mut found);
        let names: Vec<&String> = found.keys().collect();
        let mut wanted: Vec<&String> = self.names.iter().collect();
        wanted.sort();
        assert_eq!(names, wanted);
        let mut inos: Vec<InodeNo> = found.into_values().collect();
        inos.sort();
        let mut wanted = self.inos.clone();
        wanted.sort();
        assert_eq!(inos, wanted);
    }

    fn collect(&self, directory: InodeNo, found: &mut BTreeMap<String, InodeNo>) {
        let mut entries = Vec::new();
        let sink = &mut |entry: DirEntry<'_>| {
            entries.push((String::from_utf8(entry.name.to_vec()).unwrap(), entry.ino, entry.kind));
            false
        };
        self.on.readdir(directory, 2, false, sink).unwrap();
        for (name, ino, kind) in entries {
            if kind == FileKind::Directory {
                self.collect(ino, found);
            }
            assert!(found.insert(name, ino).is_none(), "a name in two places");
        }
    }
}
