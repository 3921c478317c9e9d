//! The shred step: what narrows who can read ends with both superblock slots rewritten, so that no
//! copy of the payload from before is left (crypto.md, "Rules").

use crate::device::{Device, DeviceKind};
use crate::pool::slots;
use crate::pool::superblock::Clear;
use crate::pool::{Pool, PoolError, Serial};

/// How far what was let go is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShredScope {
    /// The old bytes were overwritten on the medium itself.
    DeviceOverwritten,
    /// They were overwritten as far as the layer beneath lets one: a filesystem, a flash
    /// translation layer or a thin volume may keep old versions.
    LogicalOnly,
}

impl ShredScope {
    /// What can be claimed of a device. Nothing is claimed that is not known.
    #[must_use]
    pub fn of(device: &dyn Device) -> Self {
        match device.describe().kind {
            DeviceKind::Simulated => Self::DeviceOverwritten,
            DeviceKind::Directory | DeviceKind::File | DeviceKind::BlockDevice => Self::LogicalOnly,
        }
    }

    /// As written in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DeviceOverwritten => "device-overwritten",
            Self::LogicalOnly => "logical-only",
        }
    }
}

impl Pool {
    /// Writes the durable payload to the other slot too, and reads both back.
    ///
    /// # Errors
    /// The device's; the pool is read-only then. The next opening takes the step up again.
    pub(in crate::pool) fn shred(&self, serial: &mut Serial) -> Result<ShredScope, PoolError> {
        let result = self.rewrite_other_slot(serial);
        if let Err(error) = result {
            self.core.fail(&error);
            return Err(error);
        }
        serial.payload.shred_pending = crate::base::Generation(0);
        Ok(ShredScope::of(&*self.core.device))
    }

    /// Makes both slots hold the durable payload, so that an idle pool keeps no older one.
    pub(in crate::pool) fn rewrite_other_slot(&self, serial: &mut Serial) -> Result<(), PoolError> {
        let device = &*self.core.device;
        let first = serial.clear.clone();
        let other = Clear { index: 1 - first.index, sequence: first.sequence + 1, ..first.clone() };
        slots::write_slot(device, &other, &serial.payload, &serial.slot_key)?;
        self.core.flush()?;
        slots::verify_slot(device, &first, &serial.slot_key)?;
        slots::verify_slot(device, &other, &serial.slot_key)?;
        serial.clear = other;
        serial.idle = true;
        Ok(())
    }
}
