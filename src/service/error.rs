//! Why a use-case was refused or failed: by a stable code, with what, why and what to do.

use std::fmt;

use crate::base::{ClusterName, ProblemCode, SnapshotId};
use crate::catalog::CatalogError;
use crate::device::DeviceError;
use crate::keys::{self, KeysError};
use crate::pool::PoolError;
use crate::volume::VolumeError;

/// What to do about a pool whose device is shorter than it was.
const CUT_SHORT: &str = "bring the device back to its size before anything is written to it";

/// What to do where there is no pool.
const NO_POOL: &str = "name the pool by --pool; only where there never was one: strongroom init";

/// What to do where the pool is full.
pub const POOL_FULL: &str =
    "delete files, or: strongroom snapshot delete ID, or: strongroom pool grow --size SIZE";
/// What to do where something is damaged.
const DAMAGED: &str = "see what is hit: strongroom check; where the pool no longer opens, copy out \
                       what is readable: strongroom salvage DEST";
/// What to do about a cluster whose log is damaged.
pub(in crate::service) fn log_lost(cluster: &str) -> String {
    format!(
        "go on with what comes before the damage: strongroom cluster accept-log-loss {cluster}; or \
         restore a snapshot of it: strongroom restore ID --to-cluster NAME"
    )
}
/// The same, for whoever looks with `check` already.
const UNREADABLE: &str = "copy out what is readable: strongroom salvage DEST";
/// What to do where no superblock is left.
pub(in crate::service) const SUPERBLOCK_LOST: &str = "write nothing to it and bring it back from a copy of the pool: what opens it stood there alone";

/// A refusal or failure, as people and programs are told of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct ServiceError {
    /// The stable code; it also says the exit status.
    pub code: ProblemCode,
    /// What and why, in a line, the object named.
    pub detail: String,
    /// What to do, where there is one thing to do.
    pub hint: Option<String>,
}

impl ServiceError {
    /// An error of that code.
    #[must_use]
    pub fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), hint: None }
    }
    /// The same with what to do.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
    /// The same, saying first what could not be done, or what it is about, where it does not say so.
    #[must_use]
    pub fn while_doing(mut self, what: impl fmt::Display) -> Self {
        let what = what.to_string();
        if !self.detail.starts_with(&what) {
            self.detail = format!("{what}: {}", self.detail);
        }
        self
    }

    /// The same for a command that `check` is no way out of.
    #[must_use]
    pub(in crate::service) fn beyond_check(self) -> Self {
        if self.hint.as_deref() == Some(DAMAGED) { self.with_hint(UNREADABLE) } else { self }
    }
    /// The same for `salvage`, which is the last way out.
    #[must_use]
    pub(in crate::service) fn beyond_salvage(self) -> Self {
        if self.hint.as_deref() == Some(DAMAGED) { self.with_hint(SUPERBLOCK_LOST) } else { self }
    }

    pub(in crate::service) fn cluster_not_found(name: &ClusterName) -> Self {
        Self::new(ProblemCode::ClusterNotFound, format!("no cluster is named '{name}'"))
            .with_hint("list the clusters that are there: strongroom cluster list")
    }
    pub(in crate::service) fn snapshot_not_found(id: impl fmt::Display) -> Self {
        Self::new(ProblemCode::SnapshotNotFound, format!("there is no snapshot {id}"))
            .with_hint("list the snapshots that are there: strongroom snapshot list")
    }
    pub(in crate::service) fn snapshot_mounted(id: SnapshotId) -> Self {
        Self::new(ProblemCode::Busy, format!("snapshot {id} is mounted"))
            .with_hint(format!("strongroom umount {id}"))
    }
}

impl From<KeysError> for ServiceError {
    fn from(error: KeysError) -> Self {
        Self { code: error.problem(), detail: error.to_string(), hint: error.hint() }
    }
}

impl From<CatalogError> for ServiceError {
    fn from(error: CatalogError) -> Self {
        let detail = error.to_string();
        let code = match error {
            CatalogError::Pool(error) => return error.into(),
            CatalogError::ClusterNotFound(name) => return Self::cluster_not_found(&name),
            CatalogError::SnapshotNotFound(id) => return Self::snapshot_not_found(id),
            CatalogError::SnapshotBusy(id) => return Self::snapshot_mounted(id),
            CatalogError::ClusterGone(_) => ProblemCode::ClusterNotFound,
            CatalogError::ClusterExists(_) => ProblemCode::ClusterExists,
            CatalogError::Held(id) => {
                return Self::new(ProblemCode::Held, detail)
                    .with_hint(format!("strongroom snapshot release {id}"));
            }
            CatalogError::ClusterBusy(name) => {
                return Self::new(ProblemCode::Busy, format!("cluster '{name}' is mounted"))
                    .with_hint(format!("strongroom umount {name}"));
            }
            CatalogError::NothingWritten(id) => {
                return Self::new(ProblemCode::MountFailed, detail)
                    .with_hint(format!("strongroom restore {id} --to-cluster NAME"));
            }
            CatalogError::LogLost(name) => {
                return Self::new(ProblemCode::Corrupt, detail).with_hint(log_lost(name.as_str()));
            }
            CatalogError::LogOutstanding(_) => ProblemCode::LogOutstanding,
            CatalogError::Twice(_) | CatalogError::TooLong(_) => ProblemCode::BadRequest,
            CatalogError::RootChanged | CatalogError::SnapshotExists(_) => ProblemCode::Busy,
            _ => return Self::new(ProblemCode::Corrupt, detail).with_hint(DAMAGED),
        };
        Self::new(code, detail)
    }
}

impl From<DeviceError> for ServiceError {
    fn from(error: DeviceError) -> Self {
        let detail = error.to_string();
        let code = match error {
            DeviceError::NotOwn(why) => {
                let hint = why.hint();
                return Self { code: ProblemCode::Forbidden, detail, hint };
            }
            DeviceError::NoSpace => ProblemCode::PoolFull,
            DeviceError::CutShort { .. } => {
                return Self::new(ProblemCode::PoolTruncated, detail).with_hint(CUT_SHORT);
            }
            DeviceError::NotFound { .. } => {
                return Self::new(ProblemCode::PoolNotFound, detail).with_hint(NO_POOL);
            }
            DeviceError::Exists { .. } => ProblemCode::PoolExists,
            DeviceError::Busy { .. } => ProblemCode::PoolBusy,
            _ => ProblemCode::Io,
        };
        Self::new(code, detail)
    }
}

impl From<PoolError> for ServiceError {
    fn from(error: PoolError) -> Self {
        let detail = error.to_string();
        let (code, hint) = match error {
            PoolError::Io(error) => return error.into(),
            PoolError::Full => (ProblemCode::PoolFull, Some(POOL_FULL)),
            PoolError::ReadOnly { .. } => (
                ProblemCode::PoolReadOnly,
                Some("mend what is named, then: strongroom pool resume"),
            ),
            PoolError::Corrupt { .. } => (ProblemCode::Corrupt, Some(DAMAGED)),
            PoolError::LogLost => {
                return Self::new(ProblemCode::Corrupt, detail).with_hint(log_lost("NAME"));
            }
            PoolError::SuperblockLost => (ProblemCode::Corrupt, Some(SUPERBLOCK_LOST)),
            PoolError::WrongKey => (ProblemCode::RootSecret, None),
            PoolError::NotAPool => (ProblemCode::NotAPool, Some(NO_POOL)),
            PoolError::Exists => (ProblemCode::PoolExists, None),
            PoolError::TooNew { .. } => {
                (ProblemCode::FormatTooNew, Some("install the version that it was last used with"))
            }
            PoolError::Truncated { .. } => (ProblemCode::PoolTruncated, Some(CUT_SHORT)),
            PoolError::RolledBack { .. } => (ProblemCode::PoolRolledBack, Some(keys::ROLLED_BACK)),
            PoolError::TooSmall { .. } => (ProblemCode::Usage, Some("choose a larger --size")),
            PoolError::Outstanding => {
                (ProblemCode::LogOutstanding, Some("mount the cluster once, with its key enabled"))
            }
            PoolError::Wiped => (ProblemCode::KeyNotUsable, None),
            PoolError::ClusterKey(_) => (ProblemCode::KeyMismatch, None),
            PoolError::Invalid(_) | PoolError::Refused => (ProblemCode::Internal, None),
        };
        Self { code, detail, hint: hint.map(str::to_owned) }
    }
}

impl From<VolumeError> for ServiceError {
    fn from(error: VolumeError) -> Self {
        let detail = error.to_string();
        let code = match error {
            VolumeError::NoSpace => ProblemCode::PoolFull,
            VolumeError::PoolReadOnly(reason) => return PoolError::ReadOnly { reason }.into(),
            VolumeError::ReadOnly => ProblemCode::PoolReadOnly,
            VolumeError::Corrupt { .. } => ProblemCode::Corrupt,
            VolumeError::NotSupported => ProblemCode::FormatTooNew,
            VolumeError::Locked => ProblemCode::KeyNotUsable,
            _ => ProblemCode::Io,
        };
        let told = Self::new(code, detail);
        if code == ProblemCode::PoolFull { told.with_hint(POOL_FULL) } else { told }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::KeyState;

    #[test]
    fn a_key_that_is_not_usable_ends_in_status_3_and_says_what_to_do() {
        let id = "local://k1".parse().unwrap();
        let error: ServiceError = KeysError::State { id, state: KeyState::Disabled }.into();
        let error = error.while_doing("snapshot snap-0123456789abcdef cannot be restored");
        assert_eq!(error.code.exit_status(), 3);
        assert_eq!(
            error.to_string(),
            "snapshot snap-0123456789abcdef cannot be restored: the key 'local://k1' is disabled"
        );
        assert_eq!(error.hint.as_deref(), Some("enable it: strongroom key enable local://k1"));
    }

    #[test]
    fn a_snapshot_of_what_was_never_mounted_is_no_corruption() {
        let error: ServiceError = CatalogError::NothingWritten(SnapshotId(1)).into();
        assert_eq!(error.code, ProblemCode::MountFailed);
    }
}
