//! What goes on by itself, as steps that somebody's threads call.

use std::time::Duration;

use crate::base::{EncryptionKeyId, ProblemCode, SnapshotId};
use crate::catalog::Budget;
use crate::pool::CutPlan;
use crate::service::Service;
use crate::service::error::ServiceError;
use crate::sys::clock;

/// Steps of freeing that one addition to a full pool waits for.
const GAINS_MAX: u32 = 8;

/// What the work of one minute did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MinuteReport {
    /// Snapshots that expired and were deleted.
    pub expired: Vec<SnapshotId>,
    /// Keys whose waiting period ended.
    pub deleted_keys: Vec<EncryptionKeyId>,
}

/// Somebody frees what deletions leave.
pub struct Attended<'a>(&'a Service);

impl Drop for Attended<'_> {
    fn drop(&mut self) {
        self.0.pool().set_freeing_attended(false);
    }
}

impl Service {
    /// Waits up to `timeout` for a checkpoint to be due and makes it. Whether one was made.
    ///
    /// # Errors
    /// The pool's: it is read-only then.
    pub fn tick_checkpoint(&self, timeout: Duration) -> Result<bool, ServiceError> {
        if !self.pool().wait_for_checkpoint_due(timeout) {
            return Ok(false);
        }
        self.pool().checkpoint(CutPlan::default())?;
        Ok(true)
    }

    /// Once a minute: expiry, keys whose waiting period is over, the anchor, both superblock slots
    /// on one state where the pool is idle. Each is done whatever becomes of the others; what fails
    /// is logged.
    pub fn tick_minute(&self) -> MinuteReport {
        let logged = |what: &str, error: &ServiceError| log::error!("{what}: {error}");
        let expired = self.expire(self.now(), clock::since_boot()).unwrap_or_else(|error| {
            logged("expired snapshots were not deleted", &error);
            Vec::new()
        });
        let deleted_keys = self.delete_due_keys().unwrap_or_else(|error| {
            logged("keys whose waiting period is over were not deleted", &error);
            Vec::new()
        });
        if let Err(error) = self.pool().settle_slots() {
            logged("the superblocks were not settled", &error.into());
        }
        if let Err(error) = self.store_anchor() {
            logged("the last generation was not written down", &error);
        }
        MinuteReport { expired, deleted_keys }
    }

    /// Every few seconds: a keyring that was not there is looked for, mounts that wait for their keys are tried again.
    pub fn tick_keys(&self) {
        self.seek_keyring();
        self.try_locked_mounts();
    }

    /// Does what adds to the pool. Where the pool is full and something is just being freed, that is
    /// waited for, as writing to a file does, before it is refused.
    ///
    /// # Errors
    /// Those of `add`.
    pub(in crate::service) fn with_room<R>(
        &self,
        mut add: impl FnMut() -> Result<R, ServiceError>,
    ) -> Result<R, ServiceError> {
        let mut tries = 0;
        loop {
            let error = match add() {
                Err(error) if error.code == ProblemCode::PoolFull && tries < GAINS_MAX => error,
                done => return done,
            };
            match self.gain_room() {
                Ok(true) => tries += 1,
                Ok(false) => return Err(error),
                Err(second) => {
                    log::warn!("nothing could be freed: {second}");
                    return Err(error);
                }
            }
        }
    }

    /// Takes a step towards room, where there is some to be had.
    fn gain_room(&self) -> Result<bool, ServiceError> {
        let left = !self.catalog.work_left().is_done();
        if !left && self.pool().space().pending_free == 0 {
            return Ok(false);
        }
        self.catalog.background_step(Budget::default())?;
        self.pool().checkpoint(CutPlan::default())?;
        Ok(true)
    }

    /// Says that somebody goes on calling [`Service::tick_background`], for as long as what is
    /// returned lives: writes that lack room wait for that while something is being freed.
    #[must_use]
    pub fn attend_background(&self) -> Attended<'_> {
        self.pool().set_freeing_attended(true);
        Attended(self)
    }

    /// One bounded step of what deletions left to do. Whether there is more.
    ///
    /// # Errors
    /// The pool's; corruption.
    pub fn tick_background(&self) -> Result<bool, ServiceError> {
        Ok(!self.catalog.background_step(Budget::default())?.is_done())
    }
}
