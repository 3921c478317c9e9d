//! A device in memory that can lose power.
//!
//! It keeps what was flushed apart from what was only written. A crash keeps, sector by sector of
//! 512 bytes, any version that was written since the last flush, or the one before: writes torn
//! within a block, reordered, or lost whole, as [the room's assumptions](crate::device) allow and no
//! more. The same seed gives the same crash.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use crate::base::sequence::Sequence;
use crate::base::units::{BLOCK_SIZE, BLOCK_SIZE_U64};
use crate::device::{Device, DeviceError, DeviceInfo, DeviceKind, Operation, check_range};
use crate::sys::sync::{Mutex, Rank};

const SECTOR: usize = 512;

/// Shared between copies until one of them changes it: copies are cheap.
type Block = Arc<[u8; BLOCK_SIZE]>;
/// A block as one request wrote it, and the number of that request.
type Version = (u64, Block);

static ZEROS: LazyLock<Block> = LazyLock::new(|| Arc::new([0; BLOCK_SIZE]));

fn zeros() -> Block {
    ZEROS.clone()
}

fn block_of(bytes: &[u8; BLOCK_SIZE]) -> Block {
    if *bytes == *ZEROS.as_ref() { zeros() } else { Arc::new(*bytes) }
}

/// What passed through since the device was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimCounts {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Write requests.
    pub writes: u64,
    /// Flushes.
    pub flushes: u64,
}

/// A device in memory with a durable part, and writes on their way to it.
pub struct SimDevice {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    size: u64,
    /// Blocks as a read sees them. What is missing is zero.
    live: BTreeMap<u64, Block>,
    /// For each block written since the last flush: its durable bytes, as of request 0, then each
    /// version since.
    pending: BTreeMap<u64, Vec<Version>>,
    requests: u64,
    /// Blocks discarded since the last flush; it gives their memory back.
    discarded: Vec<u64>,
    capacity: Option<u64>,
    /// What is written is durable at once: nothing is pending.
    cacheless: bool,
    /// Blocks that the medium hands out no more.
    bad: BTreeSet<u64>,
    dead: bool,
    counts: SimCounts,
}

impl State {
    fn check(&self, op: Operation, offset: u64, len: u64) -> Result<(), DeviceError> {
        if self.dead {
            let source = io::Error::other("the simulated device has no power");
            return Err(DeviceError::Io { op, offset, source });
        }
        check_range(self.size, offset, len)
    }

    fn block(&self, number: u64) -> Block {
        self.live.get(&number).map_or_else(zeros, Arc::clone)
    }

    /// Has a full backing filesystem no block for one that holds nothing yet?
    fn is_full_for(&self, offset: u64, len: u64) -> bool {
        let Some(capacity) = self.capacity else { return false };
        let (first, last) = (offset / BLOCK_SIZE_U64, (offset + len) / BLOCK_SIZE_U64);
        let there = self.live.range(first..last).count() as u64;
        let used = (self.live.len() as u64 + (last - first) - there) * BLOCK_SIZE_U64;
        there < last - first && used > capacity
    }

    fn write(&mut self, offset: u64, buf: &[u8]) {
        let (first, last) = (offset / BLOCK_SIZE_U64, (offset + buf.len() as u64) / BLOCK_SIZE_U64);
        self.bad.retain(|number| !(first..last).contains(number));
        if self.cacheless {
            for (i, bytes) in buf.as_chunks::<BLOCK_SIZE>().0.iter().enumerate() {
                self.live.insert(offset / BLOCK_SIZE_U64 + i as u64, block_of(bytes));
            }
            return;
        }
        self.requests += 1;
        for (i, bytes) in buf.as_chunks::<BLOCK_SIZE>().0.iter().enumerate() {
            let number = offset / BLOCK_SIZE_U64 + i as u64;
            let (before, block) = (self.block(number), block_of(bytes));
            let versions = self.pending.entry(number).or_insert_with(|| vec![(0, before)]);
            versions.push((self.requests, block.clone()));
            self.live.insert(number, block);
        }
    }

    /// What the medium holds if the power goes now.
    fn survivors(&self, seed: u64) -> BTreeMap<u64, Block> {
        let mut sequence = Sequence(seed);
        let style = sequence.below(5);
        // In the style "prefix" requests arrive in order, the last of them torn.
        let last = sequence.below(self.requests + 1);
        // In the style "whole" any of them arrive, none of them torn.
        let lot = sequence.draw();
        let arrived = |request: u64| Sequence(lot ^ request).below(2) == 0;
        let newest_of = |versions: &[Version], there: &dyn Fn(u64) -> bool| {
            let newest = versions.iter().rposition(|(request, _)| *request == 0 || there(*request));
            newest.unwrap_or(0)
        };
        let mut choose = |versions: &[Version]| match style {
            0 => 0,
            1 => versions.len() - 1,
            2 => {
                let torn = sequence.below(2) == 0;
                newest_of(versions, &|request| request < last || (request == last && torn))
            }
            3 => newest_of(versions, &arrived),
            _ => usize::try_from(sequence.below(versions.len() as u64)).unwrap_or(0),
        };
        let mut after = self.live.clone();
        for (number, versions) in &self.pending {
            let mut block = [0; BLOCK_SIZE];
            for at in (0..BLOCK_SIZE).step_by(SECTOR) {
                if let Some((_, bytes)) = versions.get(choose(versions)) {
                    block[at..at + SECTOR].copy_from_slice(&bytes[at..at + SECTOR]);
                }
            }
            after.insert(*number, Arc::new(block));
        }
        after
    }

    fn after_power_loss(&self, seed: u64) -> Self {
        let live = self.survivors(seed);
        let bad = self.bad.clone();
        Self { size: self.size, live, capacity: self.capacity, bad, ..Self::default() }
    }
}

impl SimDevice {
    /// A device of `size_bytes`, all zeros, durable.
    #[must_use]
    pub fn new(size_bytes: u64) -> Arc<Self> {
        Self::with(State { size: size_bytes, ..State::default() })
    }

    fn with(state: State) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(Rank::Device, state) })
    }

    /// Cuts the power: this device fails from now on, and the one returned is what the medium held
    /// then. A fifth of the seeds loses everything unflushed, a fifth keeps it all, a fifth keeps
    /// requests in order with the last one torn, a fifth any requests whole, and a fifth any sectors.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Arc<Self> {
        // Under one lock: nobody may be told of a flush that the copy does not have.
        let mut state = self.state.lock();
        state.dead = true;
        Self::with(state.after_power_loss(seed))
    }

    /// What [`SimDevice::crash`] would leave, while this device lives on.
    #[must_use]
    pub fn fork_crashed(&self, seed: u64) -> Arc<Self> {
        let state = self.state.lock();
        Self::with(state.after_power_loss(seed))
    }

    /// A copy as a raw copy of the medium made now would be, with everything written so far.
    #[must_use]
    pub fn copy(&self) -> Arc<Self> {
        let state = self.state.lock();
        Self::with(State {
            size: state.size,
            live: state.live.clone(),
            capacity: state.capacity,
            ..State::default()
        })
    }

    /// A copy as [`SimDevice::copy`] makes it, of a device without a cache: what is written is durable
    /// at once. Quicker, where no power is lost any more.
    #[must_use]
    pub fn copy_without_cache(&self) -> Arc<Self> {
        let copy = self.copy();
        copy.state.lock().cacheless = true;
        copy
    }

    /// Lets the filesystem beneath hold `capacity_bytes` at most, as if it were otherwise full.
    pub fn limit_backing(&self, capacity_bytes: Option<u64>) {
        self.state.lock().capacity = capacity_bytes;
    }

    /// Damages the medium: XORs the byte at `offset` with `mask`, in what is durable too.
    pub fn corrupt(&self, offset: u64, mask: u8) {
        let mut state = self.state.lock();
        let number = offset / BLOCK_SIZE_U64;
        let at = usize::try_from(offset % BLOCK_SIZE_U64).unwrap_or(0);
        let mut block = state.block(number);
        Arc::make_mut(&mut block)[at] ^= mask;
        state.live.insert(number, block);
        if let Some(versions) = state.pending.get_mut(&number) {
            versions.iter_mut().for_each(|(_, bytes)| Arc::make_mut(bytes)[at] ^= mask);
        }
    }

    /// Each read of the block at `offset` fails until it is written, as of a bad sector.
    pub fn make_unreadable(&self, offset: u64) {
        self.state.lock().bad.insert(offset / BLOCK_SIZE_U64);
    }

    /// Every block can be read again.
    pub fn make_readable(&self) {
        self.state.lock().bad.clear();
    }

    /// Cuts the device short, or makes it longer with zeros.
    pub fn truncate(&self, size_bytes: u64) {
        let mut state = self.state.lock();
        state.size = size_bytes;
        state.live.retain(|block, _| (block + 1) * BLOCK_SIZE_U64 <= size_bytes);
        state.pending.retain(|block, _| (block + 1) * BLOCK_SIZE_U64 <= size_bytes);
    }

    /// Every byte that the medium holds somewhere: `needle` may stand across blocks that follow
    /// each other. For proofs that nothing readable reached it.
    #[must_use]
    pub fn contains(&self, needle: &[u8]) -> bool {
        let state = self.state.lock();
        let mut run: Vec<u8> = Vec::new();
        let mut next = 0;
        for (number, block) in &state.live {
            if *number != next {
                run.clear();
            }
            next = number + 1;
            run.extend_from_slice(&**block);
            if run.windows(needle.len().max(1)).any(|w| w == needle) {
                return true;
            }
            let keep = run.len().saturating_sub(needle.len());
            run.drain(..keep);
        }
        false
    }

    /// Bytes of memory blocks in use: what a sparse file would take.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().live.len() as u64 * BLOCK_SIZE_U64
    }

    /// Blocks that hold anything, by number.
    #[must_use]
    pub fn used_blocks(&self) -> Vec<u64> {
        self.state.lock().live.keys().copied().collect()
    }

    /// Sectors written since the last flush.
    #[must_use]
    pub fn unflushed_sectors(&self) -> usize {
        self.state.lock().pending.len() * (BLOCK_SIZE / SECTOR)
    }

    /// What passed through so far.
    #[must_use]
    pub fn counts(&self) -> SimCounts {
        self.state.lock().counts
    }
}

impl Device for SimDevice {
    fn size_bytes(&self) -> u64 {
        self.state.lock().size
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        let mut state = self.state.lock();
        state.check(Operation::Read, offset, buf.len() as u64)?;
        let (first, last) = (offset / BLOCK_SIZE_U64, (offset + buf.len() as u64) / BLOCK_SIZE_U64);
        if state.bad.range(first..last).next().is_some() {
            let source = io::Error::from_raw_os_error(libc::EIO);
            return Err(DeviceError::Io { op: Operation::Read, offset, source });
        }
        state.counts.read_bytes += buf.len() as u64;
        for (i, out) in buf.chunks_mut(BLOCK_SIZE).enumerate() {
            match state.live.get(&(offset / BLOCK_SIZE_U64 + i as u64)) {
                Some(block) => out.copy_from_slice(&**block),
                None => out.fill(0),
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, buf: &[u8]) -> Result<(), DeviceError> {
        let mut state = self.state.lock();
        state.check(Operation::Write, offset, buf.len() as u64)?;
        if state.is_full_for(offset, buf.len() as u64) {
            return Err(DeviceError::NoSpace);
        }
        state.counts.writes += 1;
        state.counts.write_bytes += buf.len() as u64;
        state.write(offset, buf);
        Ok(())
    }

    fn flush(&self) -> Result<(), DeviceError> {
        let mut state = self.state.lock();
        state.check(Operation::Flush, 0, 0)?;
        state.counts.flushes += 1;
        state.pending.clear();
        state.requests = 0;
        for number in std::mem::take(&mut state.discarded) {
            if state.live.get(&number).is_some_and(|block| block.iter().all(|b| *b == 0)) {
                state.live.remove(&number);
            }
        }
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> Result<bool, DeviceError> {
        let mut state = self.state.lock();
        state.check(Operation::Discard, offset, len)?;
        let (first, last) = (offset / BLOCK_SIZE_U64, (offset + len) / BLOCK_SIZE_U64);
        let there: Vec<u64> = state.live.range(first..last).map(|(number, _)| *number).collect();
        for number in there {
            // As a write of zeros that may not arrive.
            state.write(number * BLOCK_SIZE_U64, &[0; BLOCK_SIZE]);
            state.discarded.push(number);
        }
        Ok(true)
    }

    fn ensure(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        let mut state = self.state.lock();
        state.check(Operation::Ensure, offset, len)?;
        if state.is_full_for(offset, len) {
            return Err(DeviceError::NoSpace);
        }
        if state.capacity.is_some() {
            let blocks = offset / BLOCK_SIZE_U64..(offset + len) / BLOCK_SIZE_U64;
            // What was discarded before is there again.
            state.discarded.retain(|number| !blocks.contains(number));
            for number in blocks {
                state.live.entry(number).or_insert_with(zeros);
            }
        }
        Ok(())
    }

    fn grow(&self, new_size: u64) -> Result<(), DeviceError> {
        let mut state = self.state.lock();
        state.check(Operation::Grow, 0, 0)?;
        if new_size < state.size || !new_size.is_multiple_of(BLOCK_SIZE_U64) {
            return Err(DeviceError::OutOfRange { offset: 0, len: new_size, size: state.size });
        }
        state.size = new_size;
        Ok(())
    }

    fn describe(&self) -> DeviceInfo {
        let (path, kind) = (PathBuf::from("simulated"), DeviceKind::Simulated);
        DeviceInfo { path, direct: true, locked: true, kind }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::conformance;

    const SEEDS: u64 = 400;

    fn block(device: &SimDevice, number: u64) -> [u8; BLOCK_SIZE] {
        let mut out = [0; BLOCK_SIZE];
        device.read(number * BLOCK_SIZE_U64, &mut out).unwrap();
        out
    }

    fn put(device: &SimDevice, number: u64, byte: u8) {
        device.write(number * BLOCK_SIZE_U64, &[byte; BLOCK_SIZE]).unwrap();
    }

    #[test]
    fn keeps_the_promises_of_a_device() {
        let device = SimDevice::new(16 << 20);
        conformance::run(&*device);
        conformance::remembers(&*device.crash(1));
    }

    #[test]
    fn what_was_flushed_survives_every_crash() {
        for seed in 0..SEEDS {
            let device = SimDevice::new(1 << 20);
            put(&device, 3, 7);
            device.flush().unwrap();
            put(&device, 4, 8);
            let after = device.crash(seed);
            assert_eq!(block(&after, 3), [7; BLOCK_SIZE], "seed {seed}");
            assert!(device.read(0, &mut [0; BLOCK_SIZE]).is_err(), "the old one has no power");
            assert!(device.flush().is_err());
        }
    }

    #[test]
    fn without_a_cache_every_write_survives() {
        let device = SimDevice::new(16 << 20);
        put(&device, 1, 6);
        let copy = device.copy_without_cache();
        assert_eq!(block(&copy, 1), [6; BLOCK_SIZE]);
        put(&copy, 3, 7);
        for seed in 0..SEEDS {
            assert_eq!(block(&copy.fork_crashed(seed), 3), [7; BLOCK_SIZE], "seed {seed}");
        }
    }

    /// The simulator must break what is not assumed, or it proves nothing.
    #[test]
    fn unflushed_writes_are_lost_torn_and_reordered_by_some_seed() {
        let (mut lost, mut kept, mut torn, mut reordered, mut old_version) = (0, 0, 0, 0, 0);
        let mut later_alone = 0;
        for seed in 0..SEEDS {
            let device = SimDevice::new(1 << 20);
            put(&device, 0, 1);
            put(&device, 0, 2);
            put(&device, 1, 3);
            let after = device.crash(seed);
            let (first, second) = (block(&after, 0), block(&after, 1));
            for sector in first.as_chunks::<SECTOR>().0 {
                assert!(sector.iter().all(|b| *b == sector[0]), "a sector is never torn");
            }
            lost += u32::from(first == [0; BLOCK_SIZE] && second == [0; BLOCK_SIZE]);
            kept += u32::from(first == [2; BLOCK_SIZE] && second == [3; BLOCK_SIZE]);
            torn += u32::from(first.iter().any(|b| *b != first[0]));
            reordered += u32::from(first.contains(&0) && second.contains(&3));
            let earlier = [[0; BLOCK_SIZE], [1; BLOCK_SIZE]].contains(&first);
            later_alone += u32::from(earlier && second == [3; BLOCK_SIZE]);
            old_version += u32::from(first.contains(&1));
        }
        for (what, count) in [
            ("lost", lost),
            ("kept", kept),
            ("torn", torn),
            ("reordered", reordered),
            ("old version", old_version),
            ("a later one whole, one before it not", later_alone),
        ] {
            assert!(count > 10, "{what}: {count} of {SEEDS}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_crash() {
        let device = SimDevice::new(1 << 20);
        (0..200).for_each(|i| put(&device, i, (i % 251) as u8));
        for seed in 0..20 {
            let (a, b) = (device.fork_crashed(seed), device.fork_crashed(seed));
            (0..200).for_each(|i| assert_eq!(block(&a, i), block(&b, i)));
        }
    }

    #[test]
    fn a_full_backing_says_so_where_a_block_is_new_only() {
        let device = SimDevice::new(1 << 20);
        device.ensure(0, 8192).unwrap();
        put(&device, 0, 1);
        device.limit_backing(Some(8192));
        device.ensure(0, 8192).unwrap();
        assert!(matches!(device.ensure(8192, 4096), Err(DeviceError::NoSpace)));
        assert!(matches!(device.write(8192, &[1; 4096]), Err(DeviceError::NoSpace)));
        put(&device, 1, 2);
        assert!(device.discard(0, 4096).unwrap());
        device.flush().unwrap();
        device.ensure(8192, 4096).unwrap();
        // Asked for again before the discard is durable, it stays.
        assert!(device.discard(4096, 4096).unwrap());
        device.ensure(4096, 4096).unwrap();
        device.flush().unwrap();
        assert!(matches!(device.ensure(0, 4096), Err(DeviceError::NoSpace)));
        put(&device, 1, 3);
    }

    #[test]
    fn finds_bytes_across_blocks_and_damages_what_it_is_told() {
        let device = SimDevice::new(1 << 20);
        let mut two = [0; 2 * BLOCK_SIZE];
        two[BLOCK_SIZE - 3..BLOCK_SIZE + 3].copy_from_slice(b"secret");
        device.write(0, &two).unwrap();
        assert!(device.contains(b"secret") && !device.contains(b"secrets"));
        device.corrupt(4095, 0x20);
        assert!(!device.contains(b"secret") && device.contains(b"seCret"));
    }
}
