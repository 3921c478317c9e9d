//! What is done to a device.

use std::fmt;
use std::sync::Arc;

use strongroom::device::Device;
use strongroom::device::sim::SimDevice;
use strongroom::pool::superblock::{COPIES, SLOTS, copy_offset};

use crate::corrupt::sample::{Kind, Sample};
use crate::pools::Dice;

const BLOCK: u64 = 4096;

/// Ways to change something.
#[derive(Clone, Debug)]
enum Way {
    /// Some bits of one byte.
    Flip { at: usize, mask: u8 },
    /// From an offset on, so many bytes of this value.
    Fill { from: usize, len: usize, byte: u8 },
    /// Bytes that look like ciphertext.
    Noise(u64),
    /// What another place holds, which gets this one's content.
    Swap(u64),
    /// What another place holds.
    Copy(u64),
    /// What it held at an earlier moment.
    Older(usize),
}

/// One change of one place.
#[derive(Clone, Debug)]
pub struct Damage {
    pub kind: Kind,
    /// Blocks from here on.
    pub block: u64,
    pub blocks: u64,
    way: Way,
    /// Both copies of the newest superblock, and with them the whole pool's state.
    pub both_superblocks: bool,
}

fn read(device: &SimDevice, block: u64, count: u64) -> Vec<u8> {
    let mut buf = vec![0; (count * BLOCK) as usize];
    device.read(block * BLOCK, &mut buf).unwrap();
    buf
}

fn write(device: &SimDevice, block: u64, bytes: &[u8]) {
    device.write(block * BLOCK, bytes).unwrap();
}

impl Damage {
    /// One that changes something.
    pub fn choose(sample: &Sample, dice: &mut Dice) -> Self {
        loop {
            let damage = Self::roll(sample, dice);
            let before = read(&sample.sim, damage.block, damage.blocks);
            let sick = damage.done_to(sample);
            if damage.both_superblocks || read(&sick, damage.block, damage.blocks) != before {
                return damage;
            }
        }
    }

    fn roll(sample: &Sample, dice: &mut Dice) -> Self {
        let kinds: Vec<Kind> = sample.blocks.keys().copied().collect();
        let kind = dice.pick(&kinds);
        let block = dice.pick(&sample.blocks[&kind]);
        let both_superblocks = kind == Kind::Superblock && dice.roll(3) == 0;
        // Whole structures, and single blocks of them.
        let (block, blocks) = match kind {
            Kind::Superblock if dice.roll(2) == 0 => (block - block % 4, 4),
            Kind::Node | Kind::Catalog if dice.roll(2) == 0 => {
                (*sample.nodes.range(..=block).next_back().unwrap(), 4)
            }
            _ => (block, 1),
        };
        let len = (blocks * BLOCK) as usize;
        let other_kind = if dice.roll(3) == 0 { dice.pick(&kinds) } else { kind };
        let other = dice.pick(&sample.blocks[&other_kind]);
        let way = match dice.roll(10) {
            0..2 => Way::Flip { at: dice.roll(len), mask: 1 << dice.roll(8) },
            2 => Way::Fill { from: 0, len, byte: 0 },
            3 => {
                let from = dice.roll(len / 512) * 512;
                Way::Fill { from, len: 512, byte: dice.pick(&[0, 0xff]) }
            }
            4 => Way::Noise(dice.roll(1 << 40) as u64),
            5..7 => Way::Swap(other),
            7 => Way::Copy(other),
            _ => Way::Older(dice.roll(sample.older.len())),
        };
        Self { kind, block, blocks, way, both_superblocks }
    }

    /// Whether something of this kind is hit: a swap hits two places.
    pub fn hits(&self, sample: &Sample, kind: Kind) -> bool {
        let of_kind = |block: u64| sample.blocks.get(&kind).is_some_and(|b| b.contains(&block));
        let other = match self.way {
            Way::Swap(other) => other..other + self.blocks,
            _ => 0..0,
        };
        self.kind == kind || other.into_iter().any(of_kind)
    }

    /// Whether nothing is hit but what is of this kind: a swap hits two places.
    pub fn is_only(&self, sample: &Sample, kind: Kind) -> bool {
        let other = match self.way {
            Way::Swap(other) => other..other + self.blocks,
            _ => 0..0,
        };
        let of_kind = |block: u64| sample.blocks.get(&kind).is_some_and(|b| b.contains(&block));
        self.kind == kind && other.into_iter().all(of_kind)
    }

    /// The sort of place.
    pub const fn place(&self) -> &'static str {
        match self.kind {
            Kind::Superblock if self.both_superblocks => "superblocks",
            Kind::Superblock => "superblock",
            Kind::Ring => "space ring",
            Kind::Map => "region map",
            Kind::Catalog => "catalog",
            Kind::Node => "tree node",
            Kind::Data => "data",
            Kind::Log => "log",
        }
    }

    /// How it is changed.
    pub const fn way(&self) -> &'static str {
        match self.way {
            Way::Flip { .. } => "flipped",
            Way::Fill { byte: 0, .. } => "zeroed",
            Way::Fill { .. } | Way::Noise(_) => "overwritten",
            Way::Swap(_) => "swapped",
            Way::Copy(_) => "copied",
            Way::Older(_) => "older",
        }
    }

    /// A copy of the sample's device with this damage.
    pub fn done_to(&self, sample: &Sample) -> Arc<SimDevice> {
        let sick = sample.sim.copy();
        if self.both_superblocks {
            self.whole_slot(sample, &sick);
        } else {
            self.at(sample, &sick, self.block, self.blocks);
        }
        sick.flush().unwrap();
        sick
    }

    fn at(&self, sample: &Sample, sick: &SimDevice, block: u64, blocks: u64) {
        let mut bytes = read(sick, block, blocks);
        match &self.way {
            Way::Flip { at, mask } => bytes[*at] ^= mask,
            Way::Fill { from, len, byte } => bytes[*from..from + len].fill(*byte),
            Way::Noise(seed) => {
                let mut dice = Dice(*seed);
                bytes.iter_mut().for_each(|byte| *byte = dice.roll(256) as u8);
            }
            Way::Swap(other) => {
                let theirs = read(sick, *other, blocks);
                write(sick, *other, &bytes);
                bytes = theirs;
            }
            Way::Copy(other) => bytes = read(sick, *other, blocks),
            Way::Older(moment) => bytes = read(&sample.older[*moment], block, blocks),
        }
        write(sick, block, &bytes);
    }

    /// Both copies of the slot that holds the block: one of them may be the newest state.
    fn whole_slot(&self, sample: &Sample, sick: &SimDevice) {
        let places =
            (0..SLOTS).flat_map(|s| (0..COPIES).map(move |c| (s, copy_offset(s, c) / BLOCK)));
        let slot = places.clone().find(|(_, at)| (*at..at + 4).contains(&self.block)).unwrap().0;
        for (_, at) in places.filter(|(s, _)| *s == slot) {
            match &self.way {
                // Two copies cannot both be swapped with one place.
                Way::Swap(_) | Way::Copy(_) => write(sick, at, &[0; 4 * BLOCK as usize]),
                Way::Flip { .. } | Way::Fill { .. } => self.at(sample, sick, at, self.blocks),
                _ => self.at(sample, sick, at, 4),
            }
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at block {} ({}): {:?}", self.place(), self.block, self.blocks, self.way)
    }
}
