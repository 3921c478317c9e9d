//! The simulated disk under the service, with an eye on every request: it takes what the medium
//! would hold if the power went there, and sums up what was written, by which two runs of a seed are
//! compared.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use strongroom::base::crc::crc32c;
use strongroom::base::sequence::Sequence;
use strongroom::base::units::BLOCK_SIZE;
use strongroom::base::{BlockAddr, Timestamp};
use strongroom::device::sim::SimDevice;
use strongroom::device::{Device, DeviceError, DeviceInfo};
use strongroom::sys::clock;
use strongroom::sys::sync::{Mutex, Rank};

use crate::meanwhile::Stop;
use crate::model::Dice;
use crate::superblocks::Superblocks;

/// The files of a configuration directory: they are not on the disk, and lose nothing.
pub type Files = Vec<(PathBuf, Vec<u8>)>;

/// What is left if the power goes at one moment.
pub struct CrashPoint {
    /// In words: before which request of which step.
    pub place: String,
    /// Before which request to the disk, since it was opened.
    pub request: u64,
    pub device: Arc<SimDevice>,
    pub config: Files,
    pub time: Timestamp,
    /// Further randomness of whoever judges it.
    pub seed: u64,
}

/// Before which requests the power is imagined to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    Nothing,
    /// Before every write, flush and discard.
    Every,
    /// Before one in so many.
    OneIn(u64),
}

struct State {
    watch: Watch,
    sequence: Sequence,
    requests: u64,
    digest: u32,
    points: Vec<CrashPoint>,
    superblocks: Superblocks,
}

pub struct Disk {
    sim: Arc<SimDevice>,
    config: PathBuf,
    stop: Arc<Stop>,
    state: Mutex<State>,
}

impl Disk {
    /// `config` is the directory that stands beside the disk.
    pub fn new(sim: Arc<SimDevice>, config: &Path, seed: u64) -> Arc<Self> {
        let sequence = Sequence(seed);
        let state = State {
            watch: Watch::Nothing,
            sequence,
            requests: 0,
            digest: 0,
            points: Vec::new(),
            superblocks: Superblocks::on(&*sim),
        };
        let state = Mutex::new(Rank::AroundDevice, state);
        Arc::new(Self { sim, config: config.to_owned(), stop: Arc::default(), state })
    }

    pub fn watch(&self, watch: Watch) {
        self.state.lock().watch = watch;
    }

    /// What is beneath, without an eye on it.
    pub fn sim(&self) -> &SimDevice {
        &self.sim
    }

    /// Where a thread beside stops.
    pub fn stop(&self) -> &Arc<Stop> {
        &self.stop
    }

    /// How many moments were watched since they were last taken.
    pub fn points(&self) -> usize {
        self.state.lock().points.len()
    }

    /// The moments that were watched since they were last taken.
    pub fn take_points(&self) -> Vec<CrashPoint> {
        std::mem::take(&mut self.state.lock().points)
    }

    /// The power goes now, between two steps.
    pub fn point(&self, place: &str) -> CrashPoint {
        self.point_in(&mut self.state.lock(), place.to_owned())
    }

    /// The process ends, and everything that it wrote is there; what it did not flush may be lost
    /// still, when the power goes.
    pub fn killed(&self, place: &str) -> CrashPoint {
        let point = self.point(place);
        CrashPoint { device: self.sim.clone(), ..point }
    }

    /// The disk as it is, but for one bit of a block.
    pub fn damaged(&self, block: BlockAddr, dice: &mut Dice) -> CrashPoint {
        // What is used of a block that is not full stands at its ends.
        let (near, bit) = (dice.roll(128), dice.roll(8));
        let byte = dice.pick(&[near, BLOCK_SIZE - 1 - near, near * BLOCK_SIZE / 128]);
        let point = self.point(&format!("with bit {bit} of byte {byte} of block {block} damaged"));
        let point = CrashPoint { device: self.sim.copy(), ..point };
        point.device.corrupt(block.offset_bytes() + byte as u64, 1 << bit);
        point
    }

    /// Requests that change the medium, so far, and a sum of them.
    pub fn digest(&self) -> (u64, u32) {
        let state = self.state.lock();
        (state.requests, state.digest)
    }

    fn point_in(&self, state: &mut State, place: String) -> CrashPoint {
        CrashPoint {
            place,
            request: state.requests,
            device: self.sim.fork_crashed(state.sequence.draw()),
            config: files_below(&self.config),
            time: clock::now(),
            seed: state.sequence.draw(),
        }
    }

    fn before(&self, what: &str, offset: u64, bytes: &[u8]) {
        self.stop.before_request();
        let mut state = self.state.lock();
        state.requests += 1;
        let mut summed = state.digest.to_le_bytes().to_vec();
        summed.extend_from_slice(&offset.to_le_bytes());
        summed.extend_from_slice(&crc32c(bytes).to_le_bytes());
        state.digest = crc32c(&summed);
        let watched = match state.watch {
            Watch::Nothing => false,
            Watch::Every => true,
            Watch::OneIn(n) => state.sequence.below(n) == 0,
        };
        if watched {
            let place = format!("before request {}, a {what} at {offset}", state.requests);
            let point = self.point_in(&mut state, place);
            state.points.push(point);
        }
    }
}

/// Every file below a directory, by its path from there.
fn files_below(root: &Path) -> Files {
    let mut found = Vec::new();
    let mut rest = vec![root.to_owned()];
    while let Some(dir) = rest.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                rest.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_owned();
                found.push((name, std::fs::read(&path).unwrap()));
            }
        }
    }
    found
}

/// Puts files where they were, below another directory.
pub fn put_files(root: &Path, files: &Files) {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    for (name, bytes) in files {
        let path = root.join(name);
        let dir = path.parent().unwrap();
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).unwrap();
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(path).unwrap();
        std::io::Write::write_all(&mut file, bytes).unwrap();
    }
}

impl Device for Disk {
    fn size_bytes(&self) -> u64 {
        self.sim.size_bytes()
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        self.sim.read(offset, buf)
    }
    fn write(&self, offset: u64, buf: &[u8]) -> Result<(), DeviceError> {
        self.before("write", offset, buf);
        self.state.lock().superblocks.before_write(offset, buf);
        self.sim.write(offset, buf)
    }
    fn flush(&self) -> Result<(), DeviceError> {
        self.before("flush", 0, &[]);
        self.sim.flush()
    }
    fn discard(&self, offset: u64, len: u64) -> Result<bool, DeviceError> {
        self.before("discard", offset, &len.to_le_bytes());
        self.sim.discard(offset, len)
    }
    fn ensure(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        self.sim.ensure(offset, len)
    }
    fn grow(&self, new_size: u64) -> Result<(), DeviceError> {
        self.before("growth", new_size, &[]);
        self.sim.grow(new_size)
    }
    fn describe(&self) -> DeviceInfo {
        self.sim.describe()
    }
}
