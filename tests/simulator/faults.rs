//! A disk that fails.

use std::sync::Arc;

use strongroom::device::faulty::{self, Faulty};
use strongroom::device::{Device, Operation};

use crate::model::Dice;

/// One failure to come.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Of a read; else of a write or flush.
    read: bool,
    /// Requests of that sort before it.
    after: u64,
    how: faulty::Fault,
}

impl Fault {
    pub fn choose(dice: &mut Dice) -> Self {
        let read = dice.roll(4) == 0;
        let (bits, how) = (dice.roll(6), dice.roll(4));
        let how = match how {
            0 => faulty::Fault::Dead,
            1 if !read => faulty::Fault::Torn,
            _ => faulty::Fault::Error,
        };
        Self { read, after: dice.roll(1 << bits) as u64, how }
    }

    pub fn is_of_a_read(self) -> bool {
        self.read
    }
}

/// Two layers around a disk, each of which can fail.
pub struct Faults {
    reads: Arc<Faulty>,
    changes: Arc<Faulty>,
    armed: bool,
}

impl Faults {
    pub fn around(disk: Arc<dyn Device>) -> Self {
        let changes = Faulty::new(disk, |op| matches!(op, Operation::Write | Operation::Flush));
        let reads = Faulty::new(changes.clone(), |op| op == Operation::Read);
        Self { reads, changes, armed: false }
    }

    /// The disk as it is seen through them.
    pub fn device(&self) -> Arc<dyn Device> {
        self.reads.clone()
    }

    pub fn arm(&mut self, fault: Fault) {
        let layer = if fault.read { &self.reads } else { &self.changes };
        layer.fail_after(fault.after, fault.how);
        self.armed = true;
    }

    /// No failure is to come, and none was.
    pub fn disarm(&mut self) {
        for layer in [&self.reads, &self.changes] {
            layer.fail_after(u64::MAX, faulty::Fault::Error);
        }
        self.armed = false;
    }

    pub fn are_armed(&self) -> bool {
        self.armed
    }

    pub fn have_fired(&self) -> bool {
        self.reads.has_fired() || self.changes.has_fired()
    }

    /// The disk works again from here on.
    pub fn heal(&self) {
        self.reads.heal();
        self.changes.heal();
    }
}
