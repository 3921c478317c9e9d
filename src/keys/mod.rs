//! Keys: the root secret and the engine key, customer keys and their providers, the keys of
//! headers, and the files in the configuration directory.
//!
//! It promises that a key's state is only ever what its owner said; that no wrap is handed out
//! which was not opened again first; that a wrong key, another key of the same name, a refusal, an
//! outage and damage are told apart; and that nothing of the pool's secrets stands in a log, an
//! error or a `Debug`. It must not know what a pool, a tree or a file is: it makes and opens wraps,
//! `pool` and `catalog` store them.

mod anchor;
pub mod backup;
mod config;
#[cfg(test)]
mod conformance;
mod deadline;
mod engine_key;
pub mod envelope;
mod error;
pub mod fake;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod keyring;
mod local;
mod provider;
mod recovery;
mod registry;
pub mod root_secret;

pub use anchor::{Anchor, AnchorKey};
pub use config::{ConfigClaim, ConfigDir, PoolConfig, read_private, write_private};
pub use deadline::Deadline;
pub use engine_key::{AtHand, label, open_engine_key, unwrap_engine_key, wrap_engine_key};
pub use error::{KeysError, ROLLED_BACK};
pub use keyring::{Keyring, LocalKeyInfo};
pub use local::{AbsentKeyring, LocalProvider};
pub use provider::{Fingerprint, KeyDescription, Provider};
pub use recovery::{RECOVERY_CHARS, format_recovery_key, parse_recovery_key};
pub use registry::Registry;
