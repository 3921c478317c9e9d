//! An application that never syncs: it writes, stores through mappings, appends, makes and unlinks
//! files, and knows what each must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::mapping::Mapping;

const LEN: usize = 192 * 1024 + 77;
/// The most that is written at once; now and then as much as the kernel must write in parts.
const PIECE: usize = 24 * 1024;
const MUCH: usize = 3 << 20;
/// Files that are made in each round.
const MANY: usize = 5;

/// Numbers that look random, the same again for the same seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    fn roll(&mut self, below: usize) -> usize {
        self.next() as usize % below
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 3);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// How a file is written to.
enum Way {
    /// By write(2); the descriptor stays open.
    Write(File),
    /// Through a mapping; the descriptor was closed.
    Map(Mapping),
    /// By both.
    Both(File, Mapping),
    /// Opened, written, closed.
    Reopen,
}

struct Written {
    ino: u64,
    linked: bool,
    way: Way,
    holds: Vec<u8>,
}

/// What a snapshot must hold.
#[derive(Clone, Default)]
pub struct Expected {
    /// Files by path.
    pub named: BTreeMap<String, Vec<u8>>,
    /// Files without a name, by their number.
    pub nameless: BTreeMap<u64, Vec<u8>>,
    /// Those with a name too.
    pub all: BTreeMap<u64, Vec<u8>>,
}

/// The application.
pub struct Writer {
    root: PathBuf,
    dice: Dice,
    files: BTreeMap<String, Written>,
    round: usize,
}

impl Writer {
    /// Makes its files below `root`.
    pub fn new(root: &Path, seed: u64) -> Self {
        let (root, files) = (root.to_owned(), BTreeMap::new());
        let mut writer = Self { root, dice: Dice(seed), files, round: 0 };
        for linked in [true, false] {
            let suffix = if linked { "" } else { "-unlinked" };
            for kind in ["written", "mapped", "both"] {
                writer.make(&format!("{kind}{suffix}"), linked, kind);
            }
        }
        writer.make("reopened", true, "reopened");
        writer
    }

    fn make(&mut self, name: &str, linked: bool, kind: &str) {
        let path = self.root.join(name);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(LEN as u64).unwrap();
        if !linked {
            std::fs::remove_file(&path).unwrap();
        }
        let ino = file.metadata().unwrap().ino();
        let map = |file: &File| Mapping::new(file, LEN).unwrap();
        let way = match kind {
            "mapped" => Way::Map(map(&file)),
            "both" => {
                let mapping = map(&file);
                Way::Both(file, mapping)
            }
            "written" => Way::Write(file),
            _ => Way::Reopen,
        };
        let written = Written { ino, linked, way, holds: vec![0; LEN] };
        self.files.insert(name.to_owned(), written);
    }

    /// One round of work. Nothing is synced.
    pub fn work(&mut self) {
        self.round += 1;
        let names: Vec<String> = self.files.keys().cloned().collect();
        for name in names {
            for _ in 0..4 {
                self.change(&name);
            }
        }
        self.make_many();
        if self.round % 8 == 3 {
            self.write_much();
        }
    }

    fn change(&mut self, name: &str) {
        let Some(file) = self.files.get_mut(name) else { return };
        let len = 1 + self.dice.roll(PIECE);
        let bytes = self.dice.bytes(len);
        // A mapping does not grow; the others append now and then.
        let grows = matches!(file.way, Way::Write(_) | Way::Reopen) && self.dice.roll(4) == 0;
        let at = if grows { file.holds.len() } else { self.dice.roll(LEN - len) };
        match &mut file.way {
            Way::Write(open) => open.write_all_at(&bytes, at as u64).unwrap(),
            Way::Map(mapping) => mapping.store(at, &bytes),
            Way::Both(_, mapping) if self.dice.roll(2) == 0 => mapping.store(at, &bytes),
            Way::Both(open, _) => open.write_all_at(&bytes, at as u64).unwrap(),
            Way::Reopen => {
                let open = OpenOptions::new().write(true).open(self.root.join(name)).unwrap();
                open.write_all_at(&bytes, at as u64).unwrap();
            }
        }
        file.holds.resize(file.holds.len().max(at + len), 0);
        file.holds[at..at + len].copy_from_slice(&bytes);
    }

    /// Several small files in a directory of their own, all left open; the last ones go.
    fn make_many(&mut self) {
        let dir = |round: usize| format!("round{round}");
        let old = dir(self.round - 1);
        let gone: BTreeSet<String> = self
            .files
            .keys()
            .filter(|name| name.starts_with(&format!("{old}/")))
            .cloned()
            .collect();
        for name in &gone {
            std::fs::remove_file(self.root.join(name)).unwrap();
            self.files.remove(name);
        }
        if !gone.is_empty() {
            std::fs::remove_dir(self.root.join(old)).unwrap();
        }
        std::fs::create_dir(self.root.join(dir(self.round))).unwrap();
        for number in 0..MANY {
            let name = format!("{}/{number}", dir(self.round));
            let len = self.dice.roll(12_000);
            let holds = self.dice.bytes(len);
            self.fill(name, holds);
        }
    }

    fn write_much(&mut self) {
        let block = self.dice.bytes(PIECE);
        let holds = block.iter().copied().cycle().take(MUCH).collect();
        let name = format!("round{}/much", self.round);
        self.fill(name, holds);
    }

    fn fill(&mut self, name: String, holds: Vec<u8>) {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        let file = options.open(self.root.join(&name)).unwrap();
        file.write_all_at(&holds, 0).unwrap();
        let ino = file.metadata().unwrap().ino();
        self.files.insert(name, Written { ino, linked: true, way: Way::Write(file), holds });
    }

    /// What there is now.
    pub fn expected(&self) -> Expected {
        let mut out = Expected::default();
        for (name, file) in &self.files {
            if file.linked {
                out.named.insert(name.clone(), file.holds.clone());
            } else {
                out.nameless.insert(file.ino, file.holds.clone());
            }
            out.all.insert(file.ino, file.holds.clone());
        }
        out
    }
}

/// Every file below a directory, and what it holds.
pub fn read_tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut out = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                left.push(entry.path());
                continue;
            }
            let name = entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            out.insert(name, std::fs::read(entry.path()).unwrap());
        }
    }
    out
}

/// Where two trees differ, in words short enough to be read.
pub fn difference(
    found: &BTreeMap<String, Vec<u8>>,
    wanted: &BTreeMap<String, Vec<u8>>,
) -> Vec<String> {
    let names: BTreeSet<&String> = found.keys().chain(wanted.keys()).collect();
    names
        .into_iter()
        .filter_map(|name| match (found.get(name), wanted.get(name)) {
            (Some(a), Some(b)) if a == b => None,
            (Some(a), Some(b)) => {
                let at = a.iter().zip(b).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()));
                let pair = (a.len(), b.len());
                Some(format!("{name} differs from byte {at} on; lengths (found, wanted) {pair:?}"))
            }
            (None, _) => Some(format!("{name} is missing")),
            (_, None) => Some(format!("{name} should not be there")),
        })
        .collect()
}
