//! A volume looked at where reading may fail.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use strongroom::base::InodeNo;
use strongroom::volume::{FileKind, ROOT_INODE, Volume, VolumeError};

use crate::model::files::{File, Seen, Tree};

/// What was found where reading succeeded, and what did not.
#[derive(Debug, Default)]
pub struct Looked {
    pub tree: BTreeMap<String, (InodeNo, Option<Seen>)>,
    /// Path, inode, why.
    pub failed: Vec<(String, InodeNo, VolumeError)>,
    /// Directories, as their entries say.
    pub directories: BTreeSet<String>,
}

/// Everything that can be seen in a volume.
pub fn look(volume: &Volume) -> Looked {
    let mut looked = Looked::default();
    let mut found = BTreeMap::new();
    list(volume, ROOT_INODE, "", &mut found, &mut looked);
    let mut firsts: BTreeMap<InodeNo, String> = BTreeMap::new();
    for (path, (ino, kind)) in found {
        let seen = match kind {
            FileKind::Directory => Ok(Seen::Dir),
            FileKind::Symlink => {
                volume.readlink(ino).map(|t| Seen::Link(String::from_utf8_lossy(&t).into_owned()))
            }
            _ => {
                let first = firsts.entry(ino).or_insert_with(|| path.clone()).clone();
                file(volume, ino).map(|file| Seen::File { first, file })
            }
        };
        match seen {
            Ok(seen) => drop(looked.tree.insert(path, (ino, Some(seen)))),
            Err(error) => {
                looked.failed.push((path.clone(), ino, error));
                looked.tree.insert(path, (ino, None));
            }
        }
    }
    looked
}

fn list(
    volume: &Volume,
    dir: InodeNo,
    prefix: &str,
    found: &mut BTreeMap<String, (InodeNo, FileKind)>,
    looked: &mut Looked,
) {
    let mut entries = Vec::new();
    let listed = volume.readdir(dir, 2, false, &mut |entry| {
        let name = String::from_utf8_lossy(entry.name).into_owned();
        entries.push((name, entry.ino, entry.kind));
        false
    });
    if let Err(error) = listed {
        looked.failed.push((prefix.to_owned(), dir, error));
    }
    for (name, ino, kind) in entries {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
        if kind == FileKind::Directory {
            looked.directories.insert(path.clone());
        }
        let looked_up = volume.lookup(dir, name.as_bytes()).and_then(|entry| {
            volume.forget(entry.attr.ino, 1);
            assert_eq!(entry.attr.kind, kind, "{path}: list and lookup differ");
            match entry.unreadable {
                Some(error) => Err(error),
                None => Ok(entry.attr.ino),
            }
        });
        match looked_up {
            Ok(found) => assert_eq!(found, ino, "{path}: list and lookup differ"),
            Err(error) => {
                looked.failed.push((path.clone(), ino, error));
                looked.tree.insert(path, (ino, None));
                continue;
            }
        }
        if kind == FileKind::Directory {
            list(volume, ino, &path, found, looked);
        }
        found.insert(path, (ino, kind));
    }
}

fn file(volume: &Volume, ino: InodeNo) -> Result<File, VolumeError> {
    let size = volume.getattr(ino)?.size as usize;
    let mut data = Vec::new();
    while data.len() < size {
        let (before, rest) = (data.len(), size - data.len());
        volume.read(ino, before as u64, rest, &mut |bytes| data.extend_from_slice(bytes))?;
        assert!(data.len() > before, "a read before the end gives nothing");
    }
    let names = volume.listxattr(ino)?;
    let mut xattrs = BTreeMap::new();
    for name in names.split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let value = volume.getxattr(ino, name)?;
        xattrs.insert(String::from_utf8_lossy(name).into_owned(), value);
    }
    Ok(File { data: Rc::new(data), xattrs })
}

impl Looked {
    /// The first thing that is not what it was; failures are none.
    pub fn wrong(&self, wanted: &Tree) -> Option<String> {
        let lost = |path: &str| {
            let above = |dir: &str| dir.is_empty() || path.starts_with(&format!("{dir}/"));
            self.failed.iter().any(|(failed, ..)| failed == path || above(failed))
        };
        for (path, seen) in wanted {
            match self.tree.get(path) {
                None if lost(path) => {}
                None => return Some(format!("{path} is gone")),
                Some((_, None)) => {}
                Some((_, Some(found))) if alike(found, seen, self) => {}
                Some(_) => return Some(format!("{path} has other content")),
            }
        }
        let new = self.tree.keys().find(|path| !wanted.contains_key(*path))?;
        Some(format!("{new} was never there"))
    }
}

/// A file's first name may be one that was lost.
fn alike(found: &Seen, wanted: &Seen, looked: &Looked) -> bool {
    match (found, wanted) {
        (Seen::File { first, file }, Seen::File { first: wanted_first, file: wanted }) => {
            file == wanted && (first == wanted_first || !looked.failed.is_empty())
        }
        _ => found == wanted,
    }
}
