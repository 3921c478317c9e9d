//! A device that counts what passes through it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::device::{Device, DeviceError, DeviceInfo, Standing};

/// What passed through a [`Counted`] device so far; failed requests count too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Read requests.
    pub reads: u64,
    /// Bytes of them.
    pub read_bytes: u64,
    /// Write requests.
    pub writes: u64,
    /// Bytes of them.
    pub write_bytes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Discarded bytes.
    pub discard_bytes: u64,
}

impl Counts {
    /// What was added since `earlier`.
    #[must_use]
    pub const fn since(&self, earlier: &Self) -> Self {
        Self {
            reads: self.reads - earlier.reads,
            read_bytes: self.read_bytes - earlier.read_bytes,
            writes: self.writes - earlier.writes,
            write_bytes: self.write_bytes - earlier.write_bytes,
            flushes: self.flushes - earlier.flushes,
            discard_bytes: self.discard_bytes - earlier.discard_bytes,
        }
    }
}

/// Counts requests, bytes and flushes on their way to another device.
pub struct Counted {
    inner: Arc<dyn Device>,
    reads: AtomicU64,
    read_bytes: AtomicU64,
    writes: AtomicU64,
    write_bytes: AtomicU64,
    flushes: AtomicU64,
    discard_bytes: AtomicU64,
}

impl Counted {
    /// Around `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Device>) -> Arc<Self> {
        let zero = || AtomicU64::new(0);
        Arc::new(Self {
            inner,
            reads: zero(),
            read_bytes: zero(),
            writes: zero(),
            write_bytes: zero(),
            flushes: zero(),
            discard_bytes: zero(),
        })
    }
    /// The counts so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            reads: get(&self.reads),
            read_bytes: get(&self.read_bytes),
            writes: get(&self.writes),
            write_bytes: get(&self.write_bytes),
            flushes: get(&self.flushes),
            discard_bytes: get(&self.discard_bytes),
        }
    }
}

impl Device for Counted {
    fn size_bytes(&self) -> u64 {
        self.inner.size_bytes()
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.read_bytes.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.inner.read(offset, buf)
    }
    fn write(&self, offset: u64, buf: &[u8]) -> Result<(), DeviceError> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.write_bytes.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.inner.write(offset, buf)
    }
    fn flush(&self) -> Result<(), DeviceError> {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        self.inner.flush()
    }
    fn discard(&self, offset: u64, len: u64) -> Result<bool, DeviceError> {
        self.discard_bytes.fetch_add(len, Ordering::Relaxed);
        self.inner.discard(offset, len)
    }
    fn ensure(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        self.inner.ensure(offset, len)
    }
    fn grow(&self, new_size: u64) -> Result<(), DeviceError> {
        self.inner.grow(new_size)
    }
    fn standing(&self) -> Standing {
        self.inner.standing()
    }
    fn describe(&self) -> DeviceInfo {
        self.inner.describe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::conformance;
    use crate::device::sim::SimDevice;

    #[test]
    fn counts_and_keeps_the_promises_of_a_device() {
        let device = Counted::new(SimDevice::new(16 << 20));
        conformance::run(&*device);
        conformance::remembers(&*device);
        let before = device.counts();
        device.write(0, &[1; 8192]).unwrap();
        device.flush().unwrap();
        let _ = device.read(0, &mut [0; 4096]);
        let after = device.counts().since(&before);
        let expected = Counts {
            reads: 1,
            read_bytes: 4096,
            writes: 1,
            write_bytes: 8192,
            flushes: 1,
            discard_bytes: 0,
        };
        assert_eq!(after, expected);
    }
}
