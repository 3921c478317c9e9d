//! A disk that fails when it is told to: a FUSE filesystem with one file, `pool.img`, for
//! `tests/shell/device_faults.bats`.
//!
//! Usage: `faulty-disk MOUNT_POINT BACKING`. What is read and written stands in the file BACKING. A line
//! in the file `control` says what is to happen from then on, beside what was said before; reading it
//! tells how many requests met a fault so far.
//!
//! - `ok`: nothing any more; what was held goes on, and the disk has its size again.
//! - `OPERATION eio [once]`, `enospc`, `eintr`: `read`, `write`, `flush`, or `room` (taking room for what
//!   is written later) is answered by that error.
//! - `OPERATION hold`: waits until `ok`, and is served then.
//! - `OPERATION short BYTES`: of a read or write no more than that is done at a time; 0 is none.
//! - `end BYTES`: the disk ends there. What is behind is not lost: it is there again after `ok`.

mod fuse;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Read,
    Write,
    Flush,
    Room,
}

#[derive(Clone, Copy)]
enum Fault {
    Error { errno: i32, once: bool },
    Hold,
    Short(usize),
}

#[derive(Default)]
struct Plan {
    /// One of an operation at most.
    faults: Vec<(Operation, Fault)>,
    /// Where the disk ends, if before its end.
    end: Option<u64>,
    /// How often all was well again.
    mended: u64,
    /// How many requests met a fault.
    met: u64,
}

impl Plan {
    /// Does what a line says; `None` where it says nothing.
    fn follow(&mut self, line: &str) -> Option<()> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let operation = match words[..] {
            ["ok"] => {
                *self = Self { met: self.met, mended: self.mended + 1, ..Self::default() };
                return Some(());
            }
            ["end", bytes] => {
                self.end = Some(bytes.parse().ok()?);
                return Some(());
            }
            ["read", ..] => Operation::Read,
            ["write", ..] => Operation::Write,
            ["flush", ..] => Operation::Flush,
            ["room", ..] => Operation::Room,
            _ => return None,
        };
        let fault = match words[1..] {
            ["hold"] => Fault::Hold,
            ["short", bytes] => Fault::Short(bytes.parse().ok()?),
            [name] => Fault::Error { errno: errno(name)?, once: false },
            [name, "once"] => Fault::Error { errno: errno(name)?, once: true },
            _ => return None,
        };
        self.faults.retain(|(of, _)| *of != operation);
        self.faults.push((operation, fault));
        Some(())
    }

    fn meet(&mut self, operation: Operation) -> Option<Fault> {
        let at = self.faults.iter().position(|(of, _)| *of == operation)?;
        let fault = self.faults[at].1;
        self.met += 1;
        if matches!(fault, Fault::Error { once: true, .. }) {
            self.faults.remove(at);
        }
        Some(fault)
    }
}

fn errno(name: &str) -> Option<i32> {
    match name {
        "eio" => Some(libc::EIO),
        "enospc" => Some(libc::ENOSPC),
        "eintr" => Some(libc::EINTR),
        _ => None,
    }
}

struct Disk {
    backing: File,
    plan: Mutex<Plan>,
    mended: Condvar,
}

impl Disk {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Meets what is planned for such a request: how many bytes of `len` are to be served.
    fn meet(&self, operation: Operation, len: usize) -> io::Result<usize> {
        let mut plan = self.plan();
        match plan.meet(operation) {
            None => Ok(len),
            Some(Fault::Error { errno, .. }) => Err(io::Error::from_raw_os_error(errno)),
            Some(Fault::Short(bytes)) => Ok(len.min(bytes)),
            Some(Fault::Hold) => {
                let since = plan.mended;
                let held = self.mended.wait_while(plan, |plan| plan.mended == since);
                drop(held);
                Ok(len)
            }
        }
    }

    fn bytes(&self) -> io::Result<u64> {
        let size = self.backing.metadata()?.len();
        Ok(self.plan().end.map_or(size, |end| end.min(size)))
    }
}

impl fuse::Medium for Disk {
    const NAME: &'static str = "faulty-disk";
    const CONTROL: &'static str = "control";
    /// More than the threads of two mounts can ask at once: one is left to let go of what is held.
    const THREADS: usize = 128;

    fn size(&self) -> io::Result<Option<u64>> {
        Ok(Some(self.bytes()?).filter(|bytes| *bytes > 0))
    }
    fn make(&self) -> io::Result<()> {
        // For `init` to give it its size.
        self.backing.set_len(1)
    }
    fn resize(&self, size: u64) -> io::Result<()> {
        self.backing.set_len(size)
    }
    fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let len = self.meet(Operation::Read, len)?;
        let left = usize::try_from(self.bytes()?.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut data = vec![0; len.min(left)];
        self.backing.read_exact_at(&mut data, offset)?;
        Ok(data)
    }
    /// As on a block device, there is no room behind the end.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<usize> {
        let len = self.meet(Operation::Write, data.len())?;
        if offset + data.len() as u64 > self.bytes()? {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        self.backing.write_all_at(&data[..len], offset)?;
        Ok(len)
    }
    fn flush(&self) -> io::Result<()> {
        self.meet(Operation::Flush, 0).map(drop)
    }
    fn take_room(&self, _: Range<u64>) -> io::Result<()> {
        self.meet(Operation::Room, 0).map(drop)
    }
    fn discard(&self, range: Range<u64>) -> io::Result<()> {
        fuse::punch(&self.backing, range)
    }
    fn control(&self, line: &str) -> io::Result<()> {
        let read = self.plan().follow(line);
        self.mended.notify_all();
        read.ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
    fn told(&self) -> String {
        format!("{}\n", self.plan().met)
    }
}

fn main() -> io::Result<()> {
    fuse::serve(|backing| {
        let (plan, mended) = (Mutex::new(Plan::default()), Condvar::new());
        Ok(Disk { backing: fuse::emptied(backing)?, plan, mended })
    })
}
