//! What a filesystem is: names, and files with contents and attributes. Plain maps.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::Dice;

/// Largest file that operations make.
const FILE_BYTES_MAX: usize = 400 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    Dir,
    File(u64),
    Link(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    pub data: Rc<Vec<u8>>,
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, Debug, Default)]
pub struct Model {
    pub names: BTreeMap<String, Node>,
    pub files: BTreeMap<u64, File>,
    next: u64,
}

/// A name as it is seen from outside; a file is known by the first of its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Dir,
    Link(String),
    File { first: String, file: File },
}

pub type Tree = BTreeMap<String, Seen>;

#[derive(Clone, Debug)]
pub enum Op {
    Create(String),
    Mkdir(String),
    Symlink(String, String),
    Link(String, String),
    Unlink(String),
    Rmdir(String),
    Rename(String, String),
    Write(String, usize, usize, u64),
    Truncate(String, usize),
    Punch(String, usize, usize),
    Zero(String, usize, usize),
    Copy(String, usize, String, usize, usize),
    SetXattr(String, String, usize, u64),
    RemoveXattr(String, String),
}

/// Bytes that differ from place to place.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (seed.wrapping_mul(31) + i * 7 + i / 251) as u8).collect()
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

impl Model {
    pub fn seen(&self) -> Tree {
        let mut firsts: BTreeMap<u64, &String> = BTreeMap::new();
        for (path, node) in &self.names {
            if let Node::File(id) = node {
                firsts.entry(*id).or_insert(path);
            }
        }
        let seen = |node: &Node| match node {
            Node::Dir => Seen::Dir,
            Node::Link(target) => Seen::Link(target.clone()),
            Node::File(id) => {
                Seen::File { first: firsts[id].clone(), file: self.files[id].clone() }
            }
        };
        self.names.iter().map(|(path, node)| (path.clone(), seen(node))).collect()
    }

    /// The model that looks like this.
    pub fn of(tree: &Tree) -> Self {
        let mut model = Self::default();
        let mut ids: BTreeMap<&String, u64> = BTreeMap::new();
        for (path, seen) in tree {
            let node = match seen {
                Seen::Dir => Node::Dir,
                Seen::Link(target) => Node::Link(target.clone()),
                Seen::File { first, file } => {
                    let id = *ids.entry(first).or_insert_with(|| {
                        model.next += 1;
                        model.files.insert(model.next, file.clone());
                        model.next
                    });
                    Node::File(id)
                }
            };
            model.names.insert(path.clone(), node);
        }
        model
    }

    fn paths(&self, want: impl Fn(&Node) -> bool) -> Vec<String> {
        self.names.iter().filter(|(_, n)| want(n)).map(|(p, _)| p.clone()).collect()
    }

    fn children(&self, dir: &str) -> usize {
        self.names.keys().filter(|path| parent(path) == dir).count()
    }

    fn file(&mut self, path: &str) -> &mut File {
        let Some(Node::File(id)) = self.names.get(path) else { panic!("{path} is no file") };
        self.files.get_mut(id).unwrap()
    }

    pub fn data(&self, path: &str) -> &[u8] {
        let Some(Node::File(id)) = self.names.get(path) else { panic!("{path} is no file") };
        &self.files[id].data
    }

    /// An operation that succeeds.
    pub fn choose(&self, dice: &mut Dice) -> Op {
        for _ in 0..100 {
            if let Some(op) = self.try_choose(dice) {
                return op;
            }
        }
        panic!("nothing can be done");
    }

    fn try_choose(&self, dice: &mut Dice) -> Option<Op> {
        let files = self.paths(|n| matches!(n, Node::File(_)));
        let dirs = self.paths(|n| *n == Node::Dir);
        let shallow: Vec<String> =
            dirs.iter().filter(|d| d.matches('/').count() < 2).cloned().collect();
        let name = format!("n{}", dice.roll(9));
        let fresh = match dice.roll(shallow.len() + 1) {
            0 => name,
            at => format!("{}/{name}", shallow[at - 1]),
        };
        let is_new = !self.names.contains_key(&fresh);
        let kind = dice.roll(100);
        if is_new && kind < 30 {
            return Some(match kind {
                0..14 if files.len() < 24 => Op::Create(fresh),
                14..20 if dirs.len() < 8 => Op::Mkdir(fresh),
                20..23 => Op::Symlink(fresh, "t".repeat(1 + dice.roll(3500))),
                23..28 if !files.is_empty() => Op::Link(dice.pick(&files), fresh),
                _ => return None,
            });
        }
        if files.is_empty() {
            return None;
        }
        let file = dice.pick(&files);
        let len = self.data(&file).len();
        let (at, bits) = (dice.roll(len + 9000), dice_bits(dice));
        let run = 1 + dice.roll(1 << bits);
        Some(match kind {
            30..62 if at + run <= FILE_BYTES_MAX => Op::Write(file, at, run, dice.roll(250) as u64),
            62..66 => Op::Truncate(file, dice.roll(len * 2 + 5000).min(FILE_BYTES_MAX)),
            66..70 => Op::Punch(file, at, run),
            70..72 if at + run <= FILE_BYTES_MAX => Op::Zero(file, at, run),
            72..75 => {
                let to = dice.pick(&files);
                let from_at = dice.roll(len + 1);
                let count = run.min(len - from_at);
                let same = self.names[&to] == self.names[&file];
                if same || count == 0 || at + count > FILE_BYTES_MAX {
                    return None;
                }
                Op::Copy(file, from_at, to, at, count)
            }
            75..80 => {
                let bits = dice_bits(dice).min(13);
                let len = dice.roll(1 << bits);
                Op::SetXattr(file, format!("user.x{}", dice.roll(3)), len, dice.roll(250) as u64)
            }
            80..82 => {
                let Node::File(id) = &self.names[&file] else { return None };
                let name = self.files[id].xattrs.keys().next()?.clone();
                Op::RemoveXattr(file, name)
            }
            82..90 => Op::Unlink(dice.pick(&self.paths(|n| *n != Node::Dir))),
            90..93 => {
                let empty: Vec<String> =
                    dirs.into_iter().filter(|dir| self.children(dir) == 0).collect();
                if empty.is_empty() {
                    return None;
                }
                Op::Rmdir(dice.pick(&empty))
            }
            93..100 => {
                let from = dice.pick(&self.paths(|_| true));
                let below = fresh.starts_with(&format!("{from}/"));
                let deep = self.names[&from] == Node::Dir && fresh.matches('/').count() > 0;
                let over = self.names.get(&fresh);
                let fits = over.is_none_or(|n| *n != Node::Dir && self.names[&from] != Node::Dir);
                if below || deep || !fits || from == fresh {
                    return None;
                }
                Op::Rename(from, fresh)
            }
            _ => return None,
        })
    }

    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Create(path) => {
                self.next += 1;
                self.files.insert(self.next, File::default());
                self.names.insert(path.clone(), Node::File(self.next));
            }
            Op::Mkdir(path) => drop(self.names.insert(path.clone(), Node::Dir)),
            Op::Symlink(path, target) => {
                self.names.insert(path.clone(), Node::Link(target.clone()));
            }
            Op::Link(from, to) => drop(self.names.insert(to.clone(), self.names[from].clone())),
            Op::Unlink(path) | Op::Rmdir(path) => drop(self.names.remove(path)),
            Op::Rename(from, to) => self.rename(from, to),
            Op::Write(path, at, len, seed) => self.write(path, *at, &pattern(*seed, *len)),
            Op::Truncate(path, size) => Rc::make_mut(&mut self.file(path).data).resize(*size, 0),
            Op::Punch(path, at, len) => {
                let data = Rc::make_mut(&mut self.file(path).data);
                let end = (at + len).min(data.len());
                data[(*at).min(end)..end].fill(0);
            }
            Op::Zero(path, at, len) => self.write(path, *at, &vec![0; *len]),
            Op::Copy(from, from_at, to, at, len) => {
                let bytes = self.data(from)[*from_at..from_at + len].to_vec();
                self.write(to, *at, &bytes);
            }
            Op::SetXattr(path, name, len, seed) => {
                self.file(path).xattrs.insert(name.clone(), pattern(*seed, *len));
            }
            Op::RemoveXattr(path, name) => drop(self.file(path).xattrs.remove(name)),
        }
        let used: Vec<u64> = self
            .names
            .values()
            .filter_map(|n| if let Node::File(id) = n { Some(*id) } else { None })
            .collect();
        self.files.retain(|id, _| used.contains(id));
    }

    fn write(&mut self, path: &str, at: usize, bytes: &[u8]) {
        let data = Rc::make_mut(&mut self.file(path).data);
        let end = at + bytes.len();
        if data.len() < end {
            data.resize(end, 0);
        }
        data[at..end].copy_from_slice(bytes);
    }

    fn rename(&mut self, from: &str, to: &str) {
        let same_file = matches!(self.names[from], Node::File(_));
        if same_file && self.names.get(to) == self.names.get(from) {
            return;
        }
        let below = format!("{from}/");
        let moved: Vec<String> =
            self.names.keys().filter(|p| *p == from || p.starts_with(&below)).cloned().collect();
        for path in moved {
            let node = self.names.remove(&path).unwrap();
            self.names.insert(format!("{to}{}", &path[from.len()..]), node);
        }
    }
}

fn dice_bits(dice: &mut Dice) -> usize {
    4 + dice.roll(14)
}
