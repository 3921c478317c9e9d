//! A volume, done to and looked at by paths.

use std::collections::BTreeMap;
use std::rc::Rc;

use strongroom::base::InodeNo;
use strongroom::volume::{
    AllocateMode, Caller, FileKind, OpenFlags, ROOT_INODE, RenameFlags, Result, SetAttr, Volume,
    XattrMode,
};

use super::files::{File, Op, Seen, Tree, pattern};

const ROOT: Caller = Caller { uid: 0, gid: 0, umask: 0o022, pid: 1 };
const WRITE: OpenFlags = OpenFlags { write: true, truncate: false };

fn split(path: &str) -> (&str, &[u8]) {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    (parent, name.as_bytes())
}

/// The inode of a path, without a lookup counted.
fn find(volume: &Volume, path: &str) -> Result<InodeNo> {
    let mut at = ROOT_INODE;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let entry = volume.lookup(at, name.as_bytes())?;
        volume.forget(entry.attr.ino, 1);
        at = entry.attr.ino;
    }
    Ok(at)
}

/// Does what the model did.
pub fn apply(volume: &Volume, op: &Op) -> Result<()> {
    let place = |path: &'_ str| {
        let (parent, name) = split(path);
        Ok::<_, strongroom::volume::VolumeError>((find(volume, parent)?, name.to_vec()))
    };
    match op {
        Op::Create(path) => {
            let (parent, name) = place(path)?;
            let (entry, handle) = volume.create(parent, &name, 0o644, WRITE, &ROOT)?;
            volume.release(handle)?;
            volume.forget(entry.attr.ino, 1);
        }
        Op::Mkdir(path) => {
            let (parent, name) = place(path)?;
            let entry = volume.mkdir(parent, &name, 0o755, &ROOT)?;
            volume.forget(entry.attr.ino, 1);
        }
        Op::Symlink(path, target) => {
            let (parent, name) = place(path)?;
            let entry = volume.symlink(parent, &name, target.as_bytes(), &ROOT)?;
            volume.forget(entry.attr.ino, 1);
        }
        Op::Link(from, to) => {
            let (parent, name) = place(to)?;
            let entry = volume.link(find(volume, from)?, parent, &name)?;
            volume.forget(entry.attr.ino, 1);
        }
        Op::Unlink(path) => {
            let (parent, name) = place(path)?;
            volume.unlink(parent, &name)?;
        }
        Op::Rmdir(path) => {
            let (parent, name) = place(path)?;
            volume.rmdir(parent, &name)?;
        }
        Op::Rename(from, to) => {
            let ((a, from), (b, to)) = (place(from)?, place(to)?);
            volume.rename(a, &from, b, &to, RenameFlags::default(), &ROOT)?;
        }
        Op::Write(path, at, len, seed) => {
            let ino = find(volume, path)?;
            volume.write(ino, *at as u64, &pattern(*seed, *len), true)?;
        }
        Op::Truncate(path, size) => {
            let set = SetAttr { size: Some(*size as u64), ..SetAttr::default() };
            volume.setattr(find(volume, path)?, &set, &ROOT)?;
        }
        Op::Punch(path, at, len) => {
            let ino = find(volume, path)?;
            volume.fallocate(ino, *at as u64, *len as u64, AllocateMode::PunchHole)?;
        }
        Op::Zero(path, at, len) => {
            let ino = find(volume, path)?;
            volume.fallocate(ino, *at as u64, *len as u64, AllocateMode::ZeroRange)?;
        }
        Op::Copy(from, from_at, to, at, len) => {
            let (a, b) = (find(volume, from)?, find(volume, to)?);
            let count = volume.copy_file_range(a, *from_at as u64, b, *at as u64, *len as u64)?;
            // All of it, where there is room.
            if count < *len as u64 {
                return Err(strongroom::volume::VolumeError::NoSpace);
            }
        }
        Op::SetXattr(path, name, len, seed) => {
            let (ino, value) = (find(volume, path)?, pattern(*seed, *len));
            volume.setxattr(ino, name.as_bytes(), &value, XattrMode::Set, &ROOT)?;
        }
        Op::RemoveXattr(path, name) => {
            volume.removexattr(find(volume, path)?, name.as_bytes())?;
        }
    }
    Ok(())
}

/// Everything that can be seen in a volume.
pub fn look(volume: &Volume) -> Tree {
    try_look(volume).unwrap()
}

/// The same, where something of it may be damaged.
pub fn try_look(volume: &Volume) -> Result<Tree> {
    let mut found = BTreeMap::new();
    list(volume, ROOT_INODE, "", &mut found)?;
    let mut firsts: BTreeMap<InodeNo, String> = BTreeMap::new();
    let mut tree = Tree::new();
    for (path, (ino, kind)) in &found {
        let seen = match kind {
            FileKind::Directory => Seen::Dir,
            FileKind::Symlink => Seen::Link(String::from_utf8(volume.readlink(*ino)?).unwrap()),
            FileKind::File => {
                let first = firsts.entry(*ino).or_insert_with(|| path.clone()).clone();
                Seen::File { first, file: file(volume, *ino)? }
            }
            other => panic!("{path} is a {other:?}"),
        };
        tree.insert(path.clone(), seen);
    }
    for (ino, first) in firsts {
        let names = found.values().filter(|(other, _)| *other == ino).count();
        assert_eq!(volume.getattr(ino)?.nlink as usize, names, "links of {first}");
    }
    Ok(tree)
}

fn list(
    volume: &Volume,
    dir: InodeNo,
    prefix: &str,
    found: &mut BTreeMap<String, (InodeNo, FileKind)>,
) -> Result<()> {
    let mut entries = Vec::new();
    volume.readdir(dir, 2, false, &mut |entry| {
        let name = String::from_utf8(entry.name.to_vec()).unwrap();
        entries.push((name, entry.ino, entry.kind));
        false
    })?;
    for (name, ino, kind) in entries {
        let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        if kind == FileKind::Directory {
            list(volume, ino, &path, found)?;
        }
        assert!(found.insert(path, (ino, kind)).is_none(), "a name twice");
    }
    Ok(())
}

fn file(volume: &Volume, ino: InodeNo) -> Result<File> {
    let size = volume.getattr(ino)?.size as usize;
    let mut data = Vec::new();
    while data.len() < size {
        let before = data.len();
        let rest = size - before;
        volume.read(ino, before as u64, rest, &mut |bytes| data.extend_from_slice(bytes))?;
        assert!(data.len() > before, "a read before the end gives nothing");
    }
    let names = volume.listxattr(ino)?;
    let names = names.split(|b| *b == 0).filter(|name| !name.is_empty());
    let xattrs = names
        .map(|name| {
            let value = volume.getxattr(ino, name)?;
            Ok((String::from_utf8(name.to_vec()).unwrap(), value))
        })
        .collect::<Result<_>>()?;
    Ok(File { data: Rc::new(data), xattrs })
}
