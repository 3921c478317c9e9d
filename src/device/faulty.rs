//! A device that fails the Nth request, so that a test can fail each in turn until none is left.

use std::io;
use std::sync::Arc;

use crate::device::{Device, DeviceError, DeviceInfo, Operation, Standing};
use crate::sys::sync::{Mutex, Rank};

/// How a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An I/O error, once; the request does nothing.
    Error,
    /// The filesystem beneath is full, once.
    NoSpace,
    /// The lease is lost, from there on.
    LeaseLost,
    /// A write of its first half, then an I/O error, once; other requests do nothing.
    Torn,
    /// I/O errors from there on, as when a disk drops off the bus.
    Dead,
}

#[derive(Default)]
struct Plan {
    seen: u64,
    fail: Option<(u64, Fault)>,
    fired: bool,
}

/// Passes requests on, but for the one that is to fail. Which operations count is set by
/// [`Faulty::new`]; reads and writes and flushes and the rest are numbered together, from 0.
pub struct Faulty {
    inner: Arc<dyn Device>,
    counts: fn(Operation) -> bool,
    plan: Mutex<Plan>,
}

impl Faulty {
    /// Around `inner`, counting the operations for which `counts` is true. Nothing fails yet.
    #[must_use]
    pub fn new(inner: Arc<dyn Device>, counts: fn(Operation) -> bool) -> Arc<Self> {
        Arc::new(Self { inner, counts, plan: Mutex::new(Rank::AroundDevice, Plan::default()) })
    }
    /// From now on: the request after `nth` others fails with `fault`.
    pub fn fail_after(&self, nth: u64, fault: Fault) {
        *self.plan.lock() = Plan { seen: 0, fail: Some((nth, fault)), fired: false };
    }
    /// Nothing fails any more.
    pub fn heal(&self) {
        self.plan.lock().fail = None;
    }
    /// Whether the planned failure has happened: the loop over `nth` ends when it has not.
    #[must_use]
    pub fn has_fired(&self) -> bool {
        self.plan.lock().fired
    }
    /// Requests counted since the last plan.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.plan.lock().seen
    }

    fn next(&self, op: Operation) -> Option<Fault> {
        if !(self.counts)(op) {
            return None;
        }
        let mut plan = self.plan.lock();
        let number = plan.seen;
        plan.seen += 1;
        let (nth, fault) = plan.fail?;
        let lasting = matches!(fault, Fault::Dead | Fault::LeaseLost);
        let hit = number == nth || (lasting && number > nth);
        plan.fired |= hit;
        hit.then_some(fault)
    }

    fn gate(&self, op: Operation, offset: u64) -> Result<(), DeviceError> {
        match self.next(op) {
            None => Ok(()),
            Some(fault) => Err(error(fault, op, offset)),
        }
    }
}

fn error(fault: Fault, op: Operation, offset: u64) -> DeviceError {
    match fault {
        Fault::NoSpace => DeviceError::NoSpace,
        Fault::LeaseLost => DeviceError::LeaseLost,
        Fault::Error | Fault::Torn | Fault::Dead => {
            DeviceError::Io { op, offset, source: io::Error::from_raw_os_error(libc::EIO) }
        }
    }
}

impl Device for Faulty {
    fn size_bytes(&self) -> u64 {
        self.inner.size_bytes()
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        self.gate(Operation::Read, offset)?;
        self.inner.read(offset, buf)
    }
    fn write(&self, offset: u64, buf: &[u8]) -> Result<(), DeviceError> {
        match self.next(Operation::Write) {
            None => self.inner.write(offset, buf),
            Some(fault) => {
                if fault == Fault::Torn {
                    let half = buf.len() / 8192 * 4096;
                    self.inner.write(offset, &buf[..half])?;
                }
                Err(error(fault, Operation::Write, offset))
            }
        }
    }
    fn flush(&self) -> Result<(), DeviceError> {
        self.gate(Operation::Flush, 0)?;
        self.inner.flush()
    }
    fn discard(&self, offset: u64, len: u64) -> Result<bool, DeviceError> {
        self.gate(Operation::Discard, offset)?;
        self.inner.discard(offset, len)
    }
    fn ensure(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        self.gate(Operation::Ensure, offset)?;
        self.inner.ensure(offset, len)
    }
    fn grow(&self, new_size: u64) -> Result<(), DeviceError> {
        self.gate(Operation::Grow, 0)?;
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
    fn without_a_plan_it_keeps_the_promises_of_a_device() {
        let device = Faulty::new(SimDevice::new(16 << 20), |_| true);
        conformance::run(&*device);
        conformance::remembers(&*device);
    }

    #[test]
    fn fails_the_nth_request_once_or_from_there_on() {
        let device = Faulty::new(SimDevice::new(1 << 20), |op| op == Operation::Write);
        let block = [1; 4096];
        device.fail_after(1, Fault::Error);
        device.read(0, &mut [0; 4096]).unwrap();
        device.write(0, &block).unwrap();
        assert!(matches!(device.write(0, &block), Err(DeviceError::Io { .. })));
        assert!(device.has_fired());
        device.write(0, &block).unwrap();
        assert_eq!(device.seen(), 3);
        device.fail_after(0, Fault::LeaseLost);
        for _ in 0..3 {
            assert!(matches!(device.write(0, &block), Err(DeviceError::LeaseLost)));
        }
        device.heal();
        device.fail_after(0, Fault::Torn);
        assert!(device.write(8192, &[2; 8192]).is_err());
        let mut back = [0; 8192];
        device.read(8192, &mut back).unwrap();
        assert!(back[..4096].iter().all(|b| *b == 2) && back[4096..].iter().all(|b| *b == 0));
    }
}
