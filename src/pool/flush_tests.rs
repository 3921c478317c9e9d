//! A flush that succeeds while one beside it fails, in the order that shows it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use crate::device::sim::SimDevice;
use crate::device::{Device, DeviceError, DeviceInfo, Operation};
use crate::pool::test_head::{create, open};
use crate::pool::{CutPlan, Pool, PoolError, PoolState};
use crate::sys::sync::{Mutex, Rank};
use crate::sys::threads;

/// How long nothing must be acknowledged.
const NOTHING_COMES: Duration = Duration::from_millis(200);

/// A device of which one flush waits, and then fails; each other one succeeds, and says so.
struct Waiting {
    inner: Arc<SimDevice>,
    /// Flushes until the one that waits; it is at 0.
    until: AtomicU64,
    waits: Sender<()>,
    go: Mutex<Receiver<()>>,
    passed: Sender<()>,
}

impl Device for Waiting {
    fn size_bytes(&self) -> u64 {
        self.inner.size_bytes()
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        self.inner.read(offset, buf)
    }
    fn write(&self, offset: u64, buf: &[u8]) -> Result<(), DeviceError> {
        self.inner.write(offset, buf)
    }
    fn flush(&self) -> Result<(), DeviceError> {
        if self.until.fetch_sub(1, Ordering::SeqCst) == 0 {
            self.waits.send(()).unwrap();
            self.go.lock().recv().unwrap();
            let source = io::Error::from_raw_os_error(libc::EIO);
            return Err(DeviceError::Io { op: Operation::Flush, offset: 0, source });
        }
        self.inner.flush()?;
        let _ = self.passed.send(());
        Ok(())
    }
    fn discard(&self, offset: u64, len: u64) -> Result<bool, DeviceError> {
        self.inner.discard(offset, len)
    }
    fn ensure(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        self.inner.ensure(offset, len)
    }
    fn grow(&self, new_size: u64) -> Result<(), DeviceError> {
        self.inner.grow(new_size)?;
        self.flush()
    }
    fn describe(&self) -> DeviceInfo {
        self.inner.describe()
    }
}

/// Runs `failing`, whose `nth` flush fails (from 0), and while that is under way a flush that succeeds.
fn beside(nth: u64, failing: fn(&Pool) -> Result<(), PoolError>) {
    let (waits, waiting) = channel();
    let (go, going) = channel();
    let (passed, passing) = channel();
    let device = Arc::new(Waiting {
        inner: SimDevice::new(256 << 20),
        until: AtomicU64::new(u64::MAX),
        waits,
        go: Mutex::new(Rank::AroundDevice, going),
        passed,
    });
    let dynamic: Arc<dyn Device> = device.clone();
    create(&dynamic).unwrap();
    let (pool, head) = open(&dynamic).unwrap();
    pool.checkpoint(CutPlan::default()).unwrap();
    head.write(1, 1, 1).unwrap();
    device.until.store(nth, Ordering::SeqCst);

    let first = {
        let pool = Arc::clone(&pool);
        threads::spawn("fails", move || failing(&pool))
    };
    waiting.recv().unwrap();
    while passing.try_recv().is_ok() {}
    let (told, answer) = channel();
    let second = {
        let pool = Arc::clone(&pool);
        threads::spawn("succeeds", move || told.send(pool.core.flush()).unwrap())
    };
    passing.recv().unwrap();
    let early = answer.recv_timeout(NOTHING_COMES);
    assert!(early.is_err(), "told before the other flush had ended: {early:?}");
    go.send(()).unwrap();
    assert!(first.join().unwrap().is_err());
    let late = answer.recv().unwrap();
    assert!(matches!(late, Err(PoolError::ReadOnly { .. })), "flush {nth}: {late:?}");
    second.join().unwrap();
    assert!(matches!(pool.state(), PoolState::ReadOnly(reason) if reason.contains("flush")));
    assert!(pool.core.flush().is_err(), "nor later");
}

#[test]
fn a_flush_does_not_count_while_another_may_fail() {
    beside(0, |pool| pool.core.flush());
}

#[test]
fn nor_beside_one_of_a_checkpoint_or_of_its_superblock() {
    for nth in [0, 1] {
        beside(nth, |pool| pool.checkpoint(CutPlan::default()).map(|_| ()));
    }
    beside(0, Pool::settle_slots);
}

#[test]
fn nor_beside_that_of_growth() {
    beside(0, |pool| pool.grow(512 << 20));
}
