//! The use-cases: what the commands mean. Clusters, snapshots, restores, keys, mounts, and the work
//! that goes on by itself.
//!
//! It brings `catalog` and `keys` together: whatever opens a header unwraps its key in that very
//! call; whatever changes a key proves the new one from disk before the old one goes; snapshots
//! are taken without any key. It promises that a refusal names the object, the Encryption Key ID,
//! the state and the remedy, and that nothing was changed then.
//!
//! It must not know sockets, signals or FUSE: mounting goes through [`Mounter`], time through a
//! clock that it is given, and whoever owns threads calls the `tick_*` functions.
//!
//! Locks: `mounts`, `answers`, `expiry` are held for moments only, one at a time, never over a
//! call to the catalog, a provider or the mounter. `root_secrets` is held over a change of the root
//! secrets, with none of the others. A mount that is being made has its place in the
//! table already ([`mounts::Stage::Changing`]).

mod answers;
mod background;
mod clusters;
mod error;
mod expiry;
mod heads;
mod key_ops;
mod keyring;
mod losses;
mod mount_ops;
pub mod mounts;
pub mod inspect;
pub mod offline;
mod open;
mod records;
mod restore;
mod root_secrets;
pub mod salvage;
mod scrub;
mod snapshots;
mod status;
pub mod types;
mod unlock;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use crate::base::{PoolId, Timestamp};
use crate::catalog::Catalog;
use crate::crypto::EngineKey;
use crate::keys::{AnchorKey, ConfigClaim, Keyring, PoolConfig, Registry};
use crate::service::answers::Answers;
use crate::service::mounts::Table;
use crate::sys::sync::{Condvar, Mutex, RwLock};
use crate::volume::VolumeOptions;

pub use background::MinuteReport;
pub use error::{POOL_FULL, ServiceError};
pub use mount_ops::UmountWhat;
pub use mounts::{MountFacts, MountId, MountMeaning, MountOwner, MountRequest, Mounter, Subject};
pub use open::{AskPassphrase, Clock, OpenService};
#[cfg(any(test, fuzzing))]
pub use records::{fuzz as fuzz_records, fuzz_seed as fuzz_records_seed};
pub use restore::SAFETY_RETAIN;
pub use root_secrets::RootSecretSpec;
pub use scrub::ScrubWhat;
pub use snapshots::Which;

/// One open pool, and everything that can be done with it.
pub struct Service {
    catalog: Arc<Catalog>,
    registry: RwLock<Registry>,
    keyring: RwLock<Option<Arc<Keyring>>>,
    keyring_problem: RwLock<Option<String>>,
    /// The keyring's version as the anchor had it at the start; 0: none was seen.
    keyring_seen: u64,
    config: PoolConfig,
    /// No other process changes what stands in `config`.
    _claim: ConfigClaim,
    pool_path: PathBuf,
    /// The recovery key was at hand when the pool was opened.
    by_recovery_key: bool,
    engine_key: EngineKey,
    anchor_key: AnchorKey,
    mounter: Arc<dyn Mounter>,
    clock: Clock,
    volumes: VolumeOptions,
    answers: Answers,
    mounts: Mutex<Table>,
    /// Told whenever a line of `mounts` leaves [`mounts::Stage::Changing`].
    mounts_changed: Condvar,
    /// Mounts that are recorded and not there: held over changes of the file of mount records.
    records: Mutex<records::Recorded>,
    /// Held from reading the list of root secrets to writing it: of two changes at once, neither
    /// undoes the other.
    root_secrets: Mutex<()>,
    scrubbing: scrub::Scrubbing,
    /// The time that snapshots expire by. Held over the write of its file.
    expiry: Mutex<expiry::ExpiryClock>,
    /// Held over the deletion of a key, from the look at who needs it, and over what puts a header
    /// under keys, from the proof that they open it until it is in force.
    key_deletions: Mutex<()>,
    /// Held over the write of the anchor: an older generation never comes over a later one.
    anchor: Mutex<()>,
}

impl Service {
    /// The catalog, for what only looks: `verify`, offline commands.
    #[must_use]
    pub const fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// The pool's folder in the configuration directory.
    #[must_use]
    pub const fn config(&self) -> &PoolConfig {
        &self.config
    }

    /// The pool's identity.
    #[must_use]
    pub fn pool_id(&self) -> PoolId {
        self.catalog.pool().id()
    }

    fn now(&self) -> Timestamp {
        (self.clock)()
    }

    fn registry(&self) -> Registry {
        self.registry.read().clone()
    }
}
