//! Random operations beside a plain model, compared as they go, with cuts, commits and crashes.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Rig, USER, pattern, read};
use crate::base::units::InodeNo;
use crate::volume::items::kind;
use crate::volume::{
    AllocateMode, FileKind, ROOT_INODE, RenameFlags, Seek, SetAttr, VolumeError, XattrMode,
};

/// What may be asked of a volume. Names are small numbers, so that they meet often.
#[derive(Clone, Debug)]
enum Op {
    Create { dir: u8, name: u8 },
    Mkdir { dir: u8, name: u8 },
    Symlink { dir: u8, name: u8, target: u8 },
    Link { from: (u8, u8), to: (u8, u8) },
    Unlink { dir: u8, name: u8 },
    Rmdir { dir: u8, name: u8 },
    Rename { from: (u8, u8), to: (u8, u8), how: u8 },
    Write { dir: u8, name: u8, offset: u32, len: u32, seed: u8 },
    Truncate { dir: u8, name: u8, size: u32 },
    Allocate { dir: u8, name: u8, offset: u32, len: u32, how: u8 },
    Copy { from: (u8, u8), to: (u8, u8), offset: u32, target: u32, len: u32 },
    Xattr { dir: u8, name: u8, attr: u8, len: u16 },
    Sync,
    Checkpoint,
    Crash,
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let place = || (0..3u8, 0..6u8);
    let offset = || prop_oneof![0..20_000u32, 0..600_000u32, (0..150u32).prop_map(|b| b * 4096)];
    let len = || prop_oneof![1..5000u32, 1..300_000u32, (1..60u32).prop_map(|b| b * 4096)];
    prop_oneof![
        4 => place().prop_map(|(dir, name)| Op::Create { dir, name }),
        1 => place().prop_map(|(dir, name)| Op::Mkdir { dir, name }),
        1 => (place(), any::<u8>())
            .prop_map(|((dir, name), target)| Op::Symlink { dir, name, target }),
        2 => (place(), place()).prop_map(|(from, to)| Op::Link { from, to }),
        2 => place().prop_map(|(dir, name)| Op::Unlink { dir, name }),
        1 => place().prop_map(|(dir, name)| Op::Rmdir { dir, name }),
        3 => (place(), place(), 0..4u8).prop_map(|(from, to, how)| Op::Rename { from, to, how }),
        9 => (place(), offset(), len(), any::<u8>())
            .prop_map(|((dir, name), offset, len, seed)| Op::Write { dir, name, offset, len, seed }),
        3 => (place(), offset()).prop_map(|((dir, name), size)| Op::Truncate { dir, name, size }),
        3 => (place(), offset(), len(), 0..5u8)
            .prop_map(|((dir, name), offset, len, how)| Op::Allocate { dir, name, offset, len, how }),
        2 => (place(), place(), offset(), offset(), len())
            .prop_map(|(from, to, offset, target, len)| Op::Copy { from, to, offset, target, len }),
        1 => (place(), 0..3u8, 0..9000u16)
            .prop_map(|((dir, name), attr, len)| Op::Xattr { dir, name, attr, len }),
        2 => Just(Op::Sync),
        1 => Just(Op::Checkpoint),
        1 => Just(Op::Crash),
        1 => Just(Op::Reopen),
    ]
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Node {
    kind: Option<FileKind>,
    content: Vec<u8>,
    names: BTreeMap<u8, InodeNo>,
    parent: u64,
    links: u32,
    xattrs: BTreeMap<u8, Vec<u8>>,
}

/// The plain model: nodes by inode number.
#[derive(Clone, Debug, PartialEq)]
struct Model {
    nodes: BTreeMap<InodeNo, Node>,
    /// Directories that operations name: the root and two below it.
    dirs: [InodeNo; 3],
}

type Answer<T> = Result<T, VolumeError>;

fn name_of(name: u8) -> Vec<u8> {
    // Half of the names share one hash.
    match name % 2 {
        0 => format!("collide-{name}").into_bytes(),
        _ => format!("n{name}").into_bytes(),
    }
}

impl Model {
    fn dir(&self, dir: u8) -> InodeNo {
        self.dirs[usize::from(dir) % 3]
    }
    fn find(&self, (dir, name): (u8, u8)) -> Answer<InodeNo> {
        self.nodes[&self.dir(dir)].names.get(&name).copied().ok_or(VolumeError::NotFound)
    }
    fn file(&self, place: (u8, u8)) -> Answer<InodeNo> {
        let ino = self.find(place)?;
        match self.nodes[&ino].kind {
            Some(FileKind::File) => Ok(ino),
            Some(FileKind::Directory) => Err(VolumeError::IsDirectory),
            _ => Err(VolumeError::Invalid),
        }
    }
    fn node(&mut self, ino: InodeNo) -> &mut Node {
        self.nodes.get_mut(&ino).unwrap()
    }
    fn is_dir(&self, ino: InodeNo) -> bool {
        self.nodes[&ino].kind == Some(FileKind::Directory)
    }
    fn add(&mut self, (dir, name): (u8, u8), ino: InodeNo, kind: FileKind, content: Vec<u8>) {
        let dir = self.dir(dir);
        let node = Node { kind: Some(kind), content, parent: dir.0, links: 1, ..Node::default() };
        self.nodes.insert(ino, node);
        self.node(dir).names.insert(name, ino);
    }
    fn drop_name(&mut self, (dir, name): (u8, u8)) {
        let dir = self.dir(dir);
        let Some(ino) = self.node(dir).names.remove(&name) else { return };
        self.node(ino).links -= 1;
        if self.nodes[&ino].links == 0 {
            self.nodes.remove(&ino);
        }
    }
    /// Whether `ino` is `dir` or above it.
    fn is_above(&self, ino: InodeNo, mut dir: InodeNo) -> bool {
        while dir != ino {
            if dir == ROOT_INODE {
                return false;
            }
            dir = InodeNo(self.nodes[&dir].parent);
        }
        true
    }

    fn rename(&mut self, from: (u8, u8), to: (u8, u8), flags: RenameFlags) -> Answer<()> {
        let ino = self.find(from)?;
        let target = self.find(to).ok();
        let (old, new) = (self.dir(from.0), self.dir(to.0));
        if self.is_dir(ino) && self.is_above(ino, new) {
            return Err(VolumeError::Invalid);
        }
        if flags.exchange {
            let target = target.ok_or(VolumeError::NotFound)?;
            if self.is_dir(target) && self.is_above(target, old) {
                return Err(VolumeError::Invalid);
            }
            self.node(old).names.insert(from.1, target);
            self.node(new).names.insert(to.1, ino);
            for (moved, dir) in [(ino, new), (target, old)] {
                self.node(moved).parent = dir.0;
            }
            return Ok(());
        }
        match target {
            Some(_) if flags.noreplace => return Err(VolumeError::Exists),
            Some(target) if target == ino => return Ok(()),
            Some(target) => match (self.is_dir(ino), self.is_dir(target)) {
                (true, false) => return Err(VolumeError::NotDirectory),
                (false, true) => return Err(VolumeError::IsDirectory),
                _ if !self.nodes[&target].names.is_empty() => return Err(VolumeError::NotEmpty),
                _ => self.drop_name(to),
            },
            None => {}
        }
        self.node(old).names.remove(&from.1);
        self.node(new).names.insert(to.1, ino);
        self.node(ino).parent = new.0;
        Ok(())
    }
}

struct Pair {
    rig: Rig,
    model: Model,
    /// The model as the last commit or cut left it.
    durable: Model,
}

impl Pair {
    fn new() -> Self {
        let rig = Rig::new();
        let a = rig.dir(ROOT_INODE, "a");
        let b = rig.dir(a, "b");
        let mut nodes = BTreeMap::new();
        for (ino, parent) in [(ROOT_INODE, 1), (a, 1), (b, a.0)] {
            // Held from outside of the names that operations use.
            let kind = Some(FileKind::Directory);
            nodes.insert(ino, Node { kind, parent, links: 1, ..Node::default() });
        }
        let model = Model { nodes, dirs: [ROOT_INODE, a, b] };
        rig.volume.sync().unwrap();
        Self { rig, durable: model.clone(), model }
    }

    fn make(&mut self, (dir, name): (u8, u8), kind: FileKind, target: &[u8]) {
        let (parent, bytes) = (self.model.dir(dir), name_of(name));
        let v = &self.rig.volume;
        let made = match kind {
            FileKind::Directory => v.mkdir(parent, &bytes, 0o755, &USER),
            FileKind::Symlink => v.symlink(parent, &bytes, target, &USER),
            _ => v.mknod(parent, &bytes, 0o644, 0, &USER),
        };
        match self.model.find((dir, name)) {
            Ok(_) => assert_eq!(made, Err(VolumeError::Exists)),
            Err(_) => {
                let ino = made.unwrap().attr.ino;
                v.forget(ino, 1);
                assert!(!self.model.nodes.contains_key(&ino), "an inode number came back");
                self.model.add((dir, name), ino, kind, target.to_vec());
            }
        }
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Create { dir, name } => self.make((dir, name), FileKind::File, b""),
            Op::Mkdir { dir, name } => self.make((dir, name), FileKind::Directory, b""),
            Op::Symlink { dir, name, target } => {
                self.make(
                    (dir, name),
                    FileKind::Symlink,
                    &vec![b't'; usize::from(target) * 16 + 1],
                );
            }
            Op::Link { .. } | Op::Unlink { .. } | Op::Rmdir { .. } | Op::Rename { .. } => {
                self.run_names(op);
            }
            Op::Sync | Op::Checkpoint | Op::Crash | Op::Reopen => self.run_durability(op),
            Op::Xattr { .. } => self.run_xattr(op),
            _ => self.run_data(op),
        }
    }

    fn run_names(&mut self, op: &Op) {
        let v = &self.rig.volume;
        let m = &mut self.model;
        match *op {
            Op::Link { from, to } => {
                let Ok(ino) = m.find(from) else { return };
                let got = v.link(ino, m.dir(to.0), &name_of(to.1)).map(|e| v.forget(e.attr.ino, 1));
                let want = match (m.is_dir(ino), m.find(to)) {
                    (true, _) => Err(VolumeError::Perm),
                    (_, Ok(_)) => Err(VolumeError::Exists),
                    _ => {
                        let dir = m.dir(to.0);
                        m.node(dir).names.insert(to.1, ino);
                        m.node(ino).links += 1;
                        Ok(())
                    }
                };
                assert_eq!(got, want);
            }
            Op::Unlink { dir, name } | Op::Rmdir { dir, name } => {
                let want_dir = matches!(op, Op::Rmdir { .. });
                let want = m.find((dir, name)).and_then(|ino| match (want_dir, m.is_dir(ino)) {
                    (true, false) => Err(VolumeError::NotDirectory),
                    (false, true) => Err(VolumeError::IsDirectory),
                    _ if !m.nodes[&ino].names.is_empty() => Err(VolumeError::NotEmpty),
                    _ => Ok(()),
                });
                let (parent, bytes) = (m.dir(dir), name_of(name));
                let got = if want_dir { v.rmdir(parent, &bytes) } else { v.unlink(parent, &bytes) };
                assert_eq!(got, want);
                if want.is_ok() {
                    m.drop_name((dir, name));
                }
            }
            Op::Rename { from, to, how } => {
                let flags =
                    RenameFlags { noreplace: how == 1, exchange: how == 2, whiteout: false };
                let (old, new) = (m.dir(from.0), m.dir(to.0));
                let got = v.rename(old, &name_of(from.1), new, &name_of(to.1), flags, &USER);
                assert_eq!(got, m.rename(from, to, flags));
            }
            _ => {}
        }
    }

    fn run_data(&mut self, op: &Op) {
        let v = &self.rig.volume;
        let m = &mut self.model;
        match *op {
            Op::Write { dir, name, offset, len, seed } => {
                let Ok(ino) = m.file((dir, name)) else { return };
                let data = pattern(u64::from(seed), len as usize);
                assert_eq!(v.write(ino, u64::from(offset), &data, true), Ok(data.len()));
                put(&mut m.node(ino).content, offset as usize, &data);
            }
            Op::Truncate { dir, name, size } => {
                let Ok(ino) = m.file((dir, name)) else { return };
                let set = SetAttr { size: Some(u64::from(size)), ..SetAttr::default() };
                v.setattr(ino, &set, &USER).unwrap();
                m.node(ino).content.resize(size as usize, 0);
            }
            Op::Allocate { dir, name, offset, len, how } => {
                let Ok(ino) = m.file((dir, name)) else { return };
                let modes = [
                    (AllocateMode::Plain, true, false),
                    (AllocateMode::KeepSize, false, false),
                    (AllocateMode::PunchHole, false, true),
                    (AllocateMode::ZeroRange, true, true),
                    (AllocateMode::ZeroRangeKeepSize, false, true),
                ];
                let (mode, grows, zeroes) = modes[usize::from(how)];
                v.fallocate(ino, u64::from(offset), u64::from(len), mode).unwrap();
                let content = &mut m.node(ino).content;
                let end = (offset + len) as usize;
                if grows && content.len() < end {
                    content.resize(end, 0);
                }
                let (from, to) = ((offset as usize).min(content.len()), end.min(content.len()));
                if zeroes {
                    content[from..to].fill(0);
                }
            }
            Op::Copy { from, to, offset, target, len } => {
                let (Ok(source), Ok(dest)) = (m.file(from), m.file(to)) else { return };
                let content = &m.nodes[&source].content;
                let start = (offset as usize).min(content.len());
                let data = content[start..(start + len as usize).min(content.len())].to_vec();
                let got = v.copy_file_range(
                    source,
                    u64::from(offset),
                    dest,
                    u64::from(target),
                    u64::from(len),
                );
                if source == dest && (offset.abs_diff(target) as usize) < data.len() {
                    assert_eq!(got, Err(VolumeError::Invalid));
                    return;
                }
                assert_eq!(got, Ok(data.len() as u64));
                if !data.is_empty() {
                    put(&mut m.node(dest).content, target as usize, &data);
                }
            }
            _ => {}
        }
    }

    fn run_xattr(&mut self, op: &Op) {
        let v = &self.rig.volume;
        let m = &mut self.model;
        let Op::Xattr { dir, name, attr, len } = *op else { return };
        let Ok(ino) = m.find((dir, name)) else { return };
        let key = format!("user.{attr}").into_bytes();
        let value = pattern(u64::from(attr), usize::from(len));
        if len % 3 == 0 {
            let was = m.node(ino).xattrs.remove(&attr);
            let want = if was.is_some() { Ok(()) } else { Err(VolumeError::NoData) };
            assert_eq!(v.removexattr(ino, &key), want);
        } else {
            v.setxattr(ino, &key, &value, XattrMode::Set, &USER).unwrap();
            m.node(ino).xattrs.insert(attr, value);
        }
    }

    fn run_durability(&mut self, op: &Op) {
        match op {
            Op::Sync => {
                self.rig.volume.sync().unwrap();
                self.durable = self.model.clone();
            }
            Op::Checkpoint => {
                self.rig.check();
                self.durable = self.model.clone();
            }
            Op::Crash => {
                self.rig = self.rig.crash();
                self.model = self.durable.clone();
                self.settle();
                self.compare();
            }
            _ => {
                self.rig.volume.sync().unwrap();
                self.durable = self.model.clone();
                self.rig = Rig::over(self.rig.backing.clone());
            }
        }
    }

    /// Frees what is to be freed, with the kernel's holds gone.
    fn settle(&self) {
        self.rig.volume.end_session();
        while self.rig.volume.background_step().unwrap() {}
    }

    fn compare(&self) {
        let v = &self.rig.volume;
        for (ino, node) in &self.model.nodes {
            let attr = v.getattr(*ino).unwrap();
            assert_eq!(Some(attr.kind), node.kind);
            match attr.kind {
                FileKind::Directory => self.compare_directory(*ino, node),
                FileKind::Symlink => assert_eq!(v.readlink(*ino).unwrap(), node.content),
                _ => {
                    assert_eq!(attr.size, node.content.len() as u64);
                    assert_eq!(attr.nlink, node.links);
                    let got = read(v, *ino, 0, 4 << 20).unwrap();
                    if let Some(at) = got.iter().zip(&node.content).position(|(a, b)| a != b) {
                        panic!("inode {ino} differs at {at}");
                    }
                    self.compare_holes(*ino, &node.content);
                }
            }
            for (attr, value) in &node.xattrs {
                let got = v.getxattr(*ino, format!("user.{attr}").as_bytes());
                assert_eq!(got.as_ref(), Ok(value));
            }
        }
    }

    fn compare_directory(&self, ino: InodeNo, node: &Node) {
        let mut want: Vec<(Vec<u8>, InodeNo)> =
            node.names.iter().map(|(name, ino)| (name_of(*name), *ino)).collect();
        let mut got = Vec::new();
        self.rig
            .volume
            .readdir(ino, 2, false, &mut |entry| {
                if entry.name != b"a" && entry.name != b"b" {
                    got.push((entry.name.to_vec(), entry.ino));
                }
                false
            })
            .unwrap();
        want.sort();
        got.sort();
        assert_eq!(got, want);
    }

    /// What SEEK_DATA passes over reads as zeros.
    fn compare_holes(&self, ino: InodeNo, content: &[u8]) {
        let mut at = 0;
        while at < content.len() as u64 {
            let data = match self.rig.volume.lseek(ino, at, Seek::Data) {
                Ok(data) => data,
                Err(error) => {
                    assert_eq!(error, VolumeError::NoSuchOffset);
                    content.len() as u64
                }
            };
            assert!(content[at as usize..data as usize].iter().all(|b| *b == 0));
            if data == content.len() as u64 {
                return;
            }
            let hole = self.rig.volume.lseek(ino, data, Seek::Hole).unwrap();
            assert!(hole > data);
            at = hole;
        }
    }
}

fn put(content: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(data);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn a_volume_does_what_a_plain_model_does(
        ops in prop::collection::vec(op(), 1..70)
    ) {
        let mut pair = Pair::new();
        for (i, op) in ops.iter().enumerate() {
            pair.run(op);
            if i % 5 == 4 {
                pair.compare();
            }
        }
        pair.compare();
        pair.settle();
        pair.rig.check();
        pair.compare();
        prop_assert_eq!(pair.rig.backing.count_items(kind::INODE), pair.model.nodes.len());
        prop_assert_eq!(pair.rig.backing.count_items(kind::ORPHAN), 0);
    }
}
