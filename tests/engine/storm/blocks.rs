//! Files whose blocks tell which write they are of.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use strongroom::base::units::BLOCK_SIZE_U64;
use strongroom::base::{BLOCK_SIZE, InodeNo};
use strongroom::volume::{SetAttr, Volume};

use super::{ROOT, find, new_file};
use crate::pools::Dice;

/// Blocks of a file.
const BLOCKS: usize = 96;
/// Blocks of the largest write: beyond what a volume buffers.
const RUN_BLOCKS: usize = 48;

/// A block's content: where it belongs and its number, again and again.
fn content(file: u64, block: u64, n: u64) -> Vec<u8> {
    let one: Vec<u8> = [file, block, n, !n].iter().flat_map(|word| word.to_le_bytes()).collect();
    one.repeat(BLOCK_SIZE / one.len())
}

/// The number of a block, whole; 0: nothing was written, or what was is cut off.
fn number_of(volume: &Volume, ino: InodeNo, file: u64, block: u64) -> u64 {
    let mut found = Vec::new();
    let sink = &mut |bytes: &[u8]| found = bytes.to_vec();
    volume.read(ino, block * BLOCK_SIZE_U64, BLOCK_SIZE, sink).unwrap();
    if found.iter().all(|byte| *byte == 0) {
        return 0;
    }
    let n = u64::from_le_bytes(found[16..24].try_into().unwrap());
    assert!(found == content(file, block, n), "file {file}, block {block}: {n}, and not whole");
    n
}

/// What one block went through.
#[derive(Default)]
struct Register {
    begun: AtomicU64,
    acknowledged: AtomicU64,
    synced: AtomicU64,
}

/// A file that one thread writes, with rising numbers.
pub struct Written {
    pub volume: usize,
    on: Arc<Volume>,
    name: String,
    tag: u64,
    ino: InodeNo,
    registers: Vec<Register>,
}

impl Written {
    pub fn new(volumes: &[Arc<Volume>; 2], n: usize) -> Self {
        let volume = n % 2;
        let (name, on) = (format!("written-{n}"), Arc::clone(&volumes[volume]));
        let ino = new_file(&on, &name);
        // Its name has to be there after any crash.
        on.sync().unwrap();
        let registers = (0..BLOCKS).map(|_| Register::default()).collect();
        Self { volume, on, name, tag: n as u64, ino, registers }
    }

    fn each(&self, of: impl Fn(&Register) -> &AtomicU64) -> Vec<u64> {
        self.registers.iter().map(|r| of(r).load(Ordering::SeqCst)).collect()
    }
    pub fn begun(&self) -> Vec<u64> {
        self.each(|r| &r.begun)
    }
    pub fn acknowledged(&self) -> Vec<u64> {
        self.each(|r| &r.acknowledged)
    }
    pub fn synced(&self) -> Vec<u64> {
        self.each(|r| &r.synced)
    }

    /// One write of some blocks, or one sync.
    pub fn write(&self, dice: &mut Dice) {
        let count = match dice.roll(12) {
            0 => return self.sync(),
            1 => 1 + dice.roll(RUN_BLOCKS),
            _ => 1 + dice.roll(2),
        };
        let first = dice.roll(BLOCKS - count + 1);
        let mut bytes = Vec::with_capacity(count * BLOCK_SIZE);
        let run = &self.registers[first..first + count];
        for (block, register) in (first as u64..).zip(run) {
            let n = 1 + register.begun.fetch_add(1, Ordering::SeqCst);
            bytes.extend(content(self.tag, block, n));
        }
        self.on.write(self.ino, first as u64 * BLOCK_SIZE_U64, &bytes, true).unwrap();
        for register in run {
            register.acknowledged.store(register.begun.load(Ordering::SeqCst), Ordering::SeqCst);
        }
    }

    fn sync(&self) {
        let acknowledged = self.acknowledged();
        self.on.fsync(self.ino, false).unwrap();
        for (register, n) in self.registers.iter().zip(acknowledged) {
            register.synced.store(n, Ordering::SeqCst);
        }
    }

    /// A look while it is written.
    pub fn read(&self, dice: &mut Dice) {
        let block = dice.roll(BLOCKS);
        let register = &self.registers[block];
        let oldest = register.acknowledged.load(Ordering::SeqCst);
        let n = number_of(&self.on, self.ino, self.tag, block as u64);
        let newest = register.begun.load(Ordering::SeqCst);
        assert!((oldest..=newest).contains(&n), "{n} of {oldest} to {newest}: {}", self.name);
    }

    /// Of another tree: that each of its blocks is of a moment between the two.
    pub fn assert_between(&self, volume: &Volume, oldest: &[u64], newest: &[u64]) {
        let ino = find(volume, &self.name);
        for (block, (oldest, newest)) in oldest.iter().zip(newest).enumerate() {
            let n = number_of(volume, ino, self.tag, block as u64);
            assert!(
                (*oldest..=*newest).contains(&n),
                "{}, block {block}: {n}, not of {oldest} to {newest}",
                self.name
            );
        }
    }

    /// When nobody writes any more.
    pub fn assert_last(&self, volume: &Volume) {
        let last = self.acknowledged();
        self.assert_between(volume, &last, &last);
    }
}

/// A file that several threads write and cut, so that a block is of any write, or cut off.
pub struct Contested {
    on: Arc<Volume>,
    ino: InodeNo,
}

impl Contested {
    const TAG: u64 = 100;

    pub fn new(volume: &Arc<Volume>) -> Self {
        Self { on: Arc::clone(volume), ino: new_file(volume, "contested") }
    }

    pub fn truncate(&self, dice: &mut Dice) {
        let size = Some(dice.roll(BLOCKS) as u64 * BLOCK_SIZE_U64);
        self.on.setattr(self.ino, &SetAttr { size, ..SetAttr::default() }, &ROOT).unwrap();
    }

    pub fn write(&self, dice: &mut Dice) {
        let (first, count) = (dice.roll(BLOCKS) as u64, 1 + dice.roll(RUN_BLOCKS) as u64);
        let n = 1 + dice.roll(1000) as u64;
        let bytes: Vec<u8> =
            (first..first + count).flat_map(|block| content(Self::TAG, block, n)).collect();
        self.on.write(self.ino, first * BLOCK_SIZE_U64, &bytes, true).unwrap();
    }

    pub fn read(&self, dice: &mut Dice) {
        let block = dice.roll(BLOCKS + RUN_BLOCKS) as u64;
        number_of(&self.on, self.ino, Self::TAG, block);
    }
}

/// Two files, on two clusters, that one thread writes in turn.
pub struct Pair {
    on: [Arc<Volume>; 2],
    inos: [InodeNo; 2],
    next: AtomicU64,
}

impl Pair {
    const NAME: &str = "pair";
    const TAG: u64 = 200;

    pub fn new(volumes: &[Arc<Volume>; 2]) -> Self {
        let inos = [0, 1].map(|n| new_file(&volumes[n], Self::NAME));
        Self { on: volumes.clone(), inos, next: AtomicU64::new(1) }
    }

    pub fn write(&self) {
        let n = self.next.fetch_add(1, Ordering::SeqCst);
        for (volume, ino) in self.on.iter().zip(self.inos) {
            volume.write(ino, 0, &content(Self::TAG, 0, n), true).unwrap();
        }
    }

    /// That both are of one moment.
    pub fn assert_at_one_moment(&self, volumes: &[Arc<Volume>; 2]) {
        let [one, two] = [0, 1].map(|n| {
            let ino = find(&volumes[n], Self::NAME);
            number_of(&volumes[n], ino, Self::TAG, 0)
        });
        assert!(one == two || one == two + 1, "{one} on one cluster, {two} on the other");
    }
}
