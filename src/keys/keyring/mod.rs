//! The embedded keyring: customer keys that live beside the pool, in a file of their own.
//!
//! One file, sealed under a file key that is itself sealed under the keyring's own secret
//! (`keyring.key`), so that neither a copy of the pool nor one of the keyring alone opens anything.
//! It gives states, waiting periods, versions and shredding; it gives no separation of duties from
//! whoever owns the machine. Every change replaces the file as a whole, and the bytes of the file
//! before it are overwritten as far as the filesystem lets them be; the file key is new after each
//! deletion.
//!
//! Readers take the current state and hold no lock; writers are serialized, also over the write of
//! the file.

pub(in crate::keys) mod file;
mod lifecycle;
mod merge;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::base::{EncryptionKeyId, KeyState, Timestamp};
use crate::crypto::{KeyringSecret, LocalKey};
use crate::keys::config::PoolConfig;
use crate::keys::error::KeysError;
use crate::keys::provider::Fingerprint;
use crate::keys::root_secret;
use crate::sys::sync::{Mutex, Rank, RwLock};

pub use lifecycle::{DEFAULT_WAIT, JUMP, MAX_WAIT};

/// Keys in a keyring, those that were deleted not counted.
pub const KEYS_MAX: usize = 1024;
/// Deleted keys that are remembered; the oldest are forgotten beyond that.
pub const TOMBSTONES_MAX: usize = 4096;
/// Versions of one key.
pub const VERSIONS_MAX: usize = 64;
/// Name of the systemd credential that may hold the keyring's secret instead of `keyring.key`.
pub const KEYRING_CREDENTIAL: &str = "strongroom.keyring";

/// One key of the keyring, or what is remembered of a deleted one.
pub(in crate::keys) struct Entry {
    pub(in crate::keys) name: String,
    pub(in crate::keys) fingerprint: Fingerprint,
    pub(in crate::keys) state: KeyState,
    pub(in crate::keys) wait: Duration,
    pub(in crate::keys) created_at: Timestamp,
    /// When deletion is due, or was done.
    pub(in crate::keys) deletion_at: Option<Timestamp>,
    /// Oldest first; empty once deleted.
    pub(in crate::keys) versions: Vec<KeyVersion>,
}

/// One version of a key.
pub(in crate::keys) struct KeyVersion {
    pub(in crate::keys) number: u32,
    pub(in crate::keys) created_at: Timestamp,
    pub(in crate::keys) key: LocalKey,
}

/// What the file holds, in memory.
pub(in crate::keys) struct Body {
    /// Largest time ever seen: deletion waits against this, so that setting the clock back or
    /// forward does not shorten it.
    pub(in crate::keys) time_seen: Timestamp,
    pub(in crate::keys) entries: Vec<Entry>,
}

/// What is shown of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalKeyInfo {
    /// `local://NAME`
    pub id: EncryptionKeyId,
    /// Which key of that name.
    pub fingerprint: Fingerprint,
    /// Its state.
    pub state: KeyState,
    /// Newest version; 0 once deleted.
    pub version: u32,
    /// Its waiting period, fixed when it was made.
    pub wait: Duration,
    /// When it was made.
    pub created_at: Timestamp,
    /// When deletion is due, or was done.
    pub deletion_at: Option<Timestamp>,
}

/// The keyring, open.
pub struct Keyring {
    path: PathBuf,
    secret: KeyringSecret,
    writer: Mutex<()>,
    state: RwLock<Arc<State>>,
}

struct State {
    keyring_id: [u8; 16],
    version: u64,
    file_key: crate::crypto::KeyringFileKey,
    body: Body,
}

impl Keyring {
    /// Makes an empty keyring and its secret in the pool's folder.
    ///
    /// # Errors
    /// [`KeysError::FileExists`] where there is one; [`KeysError::File`]
    pub fn create(config: &PoolConfig, now: Timestamp) -> Result<Self, KeysError> {
        let path = config.keyring();
        if path.exists() {
            return Err(KeysError::FileExists { path });
        }
        let secret = match credential_secret()? {
            Some(secret) => secret,
            None => as_keyring_secret(root_secret::create_secret_file(&config.keyring_key())?),
        };
        let state = State {
            keyring_id: crate::sys::random::array(),
            version: 1,
            file_key: crate::crypto::KeyringFileKey::random(),
            body: Body { time_seen: now, entries: Vec::new() },
        };
        file::write(&path, &secret, &state)?;
        Ok(Self {
            path,
            secret,
            writer: Mutex::new(Rank::KeyringWriter, ()),
            state: RwLock::new(Rank::KeyringState, Arc::new(state)),
        })
    }

    /// Opens the keyring of a pool.
    ///
    /// # Errors
    /// [`KeysError::KeyringMissing`], [`KeysError::KeyringSecret`], [`KeysError::KeyringCorrupt`],
    /// [`KeysError::File`]
    pub fn open(config: &PoolConfig) -> Result<Self, KeysError> {
        match own_secret(config)? {
            Some(secret) => Self::open_with(config, secret),
            None => {
                // What is missing is said of both, the keyring first.
                file::read(&config.keyring())?;
                let (what, path) = ("secret of the keyring", config.keyring_key());
                Err(KeysError::KeyringMissing { what, path })
            }
        }
    }

    /// Opens the keyring of a pool by a secret that stands elsewhere.
    ///
    /// # Errors
    /// As [`Keyring::open`].
    pub fn open_with(config: &PoolConfig, secret: KeyringSecret) -> Result<Self, KeysError> {
        let path = config.keyring();
        let bytes = file::read(&path)?;
        let state = file::open(&path, &config.keyring_key(), &secret, &bytes)?;
        Ok(Self {
            path,
            secret,
            writer: Mutex::new(Rank::KeyringWriter, ()),
            state: RwLock::new(Rank::KeyringState, Arc::new(state)),
        })
    }

    /// Version of the file: one more with each change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.state().version
    }

    /// Every key, and every deleted one that is remembered, by name and then by age.
    #[must_use]
    pub fn list(&self) -> Vec<LocalKeyInfo> {
        let state = self.state();
        let mut all: Vec<LocalKeyInfo> = state.body.entries.iter().map(Entry::info).collect();
        all.sort_by(|a, b| (a.id.as_str(), a.created_at).cmp(&(b.id.as_str(), b.created_at)));
        all
    }

    /// The key that the name means now; where none lives, the last deleted one of that name.
    ///
    /// # Errors
    /// [`KeysError::NotFound`]
    pub fn show(&self, id: &EncryptionKeyId) -> Result<LocalKeyInfo, KeysError> {
        self.with(|body| body.named(id).map(Entry::info))
    }

    /// Makes a key, enabled.
    ///
    /// # Errors
    /// [`KeysError::Exists`], [`KeysError::WaitingPeriod`] beyond 30 days,
    /// [`KeysError::KeyringFull`], [`KeysError::File`]
    pub fn create_key(
        &self,
        id: &EncryptionKeyId,
        wait: Duration,
        now: Timestamp,
    ) -> Result<LocalKeyInfo, KeysError> {
        self.change(now, |body| body.create(id, wait, now))?;
        self.show(id)
    }

    /// Makes an enabled key unusable.
    ///
    /// # Errors
    /// [`KeysError::NotFound`], [`KeysError::State`] (deleted), [`KeysError::Transition`]
    pub fn disable(&self, id: &EncryptionKeyId, now: Timestamp) -> Result<LocalKeyInfo, KeysError> {
        self.change(now, |body| body.disable(id))?;
        self.show(id)
    }

    /// Makes a disabled key usable.
    ///
    /// # Errors
    /// As [`Keyring::disable`].
    pub fn enable(&self, id: &EncryptionKeyId, now: Timestamp) -> Result<LocalKeyInfo, KeysError> {
        self.change(now, |body| body.enable(id))?;
        self.show(id)
    }

    /// Begins the waiting period of a deletion, `after` or the key's own; with a period of zero the
    /// key is gone when this returns. Returns that very key, also where another bears its name by
    /// then.
    ///
    /// # Errors
    /// As [`Keyring::disable`]; [`KeysError::WaitingPeriod`] where `after` is shorter than the
    /// key's own period.
    pub fn delete(
        &self,
        id: &EncryptionKeyId,
        after: Option<Duration>,
        now: Timestamp,
    ) -> Result<LocalKeyInfo, KeysError> {
        self.change(now, |body| body.delete(id, after, now))
    }

    /// Ends the waiting period of a deletion; the key is disabled then.
    ///
    /// # Errors
    /// [`KeysError::NotFound`], [`KeysError::State`] (deleted), [`KeysError::Transition`]
    pub fn cancel_delete(
        &self,
        id: &EncryptionKeyId,
        now: Timestamp,
    ) -> Result<LocalKeyInfo, KeysError> {
        self.change(now, |body| body.cancel_delete(id))?;
        self.show(id)
    }

    /// Makes a new version of a key. New wraps are made under it; older ones still open.
    ///
    /// # Errors
    /// As [`Keyring::disable`].
    pub fn rotate(&self, id: &EncryptionKeyId, now: Timestamp) -> Result<LocalKeyInfo, KeysError> {
        self.change(now, |body| body.rotate(id, now))?;
        self.show(id)
    }

    /// Once a minute: notes the time, and deletes what is due. Returns what was deleted, as it was
    /// when it was: a name may mean another key by now.
    ///
    /// # Errors
    /// [`KeysError::ClockJumped`] where something is pending and the clock went forward by more
    /// than a day since it was last seen: nothing is deleted until [`Keyring::confirm_time`].
    pub fn tick(&self, now: Timestamp) -> Result<Vec<LocalKeyInfo>, KeysError> {
        let due = self.with(|body| {
            body.check_time(now)?;
            let hourly = now.secs() - body.time_seen.secs() >= 3600;
            Ok((hourly, body.any_due(now)))
        })?;
        match due {
            (_, true) => self.change(now, |body| Ok(body.purge_due(now))),
            (true, false) => self.change(now, |_| Ok(Vec::new())),
            (false, false) => Ok(Vec::new()),
        }
    }

    /// That the clock is right although it jumped. What is due is deleted at the next
    /// [`Keyring::tick`].
    ///
    /// # Errors
    /// [`KeysError::File`]
    pub fn confirm_time(&self, now: Timestamp) -> Result<(), KeysError> {
        self.change(now, |body| {
            body.time_seen = body.time_seen.max(now);
            Ok(())
        })
    }

    /// Whether due deletions wait for a confirmation of the time.
    #[must_use]
    pub fn is_time_held(&self, now: Timestamp) -> bool {
        self.state().body.check_time(now).is_err()
    }

    /// Forgets keys that the pool remembers as deleted: an older keyring brought back does not
    /// bring them back. Returns those that were dropped.
    ///
    /// # Errors
    /// [`KeysError::File`]
    pub fn bury(
        &self,
        deleted: &[Fingerprint],
        now: Timestamp,
    ) -> Result<Vec<EncryptionKeyId>, KeysError> {
        let any = self.with(|body| Ok(body.alive(deleted)))?;
        if any { self.change(now, |body| Ok(body.bury(deleted, now))) } else { Ok(Vec::new()) }
    }

    /// Reads the current state; no lock is held meanwhile.
    pub(in crate::keys) fn with<T>(
        &self,
        read: impl FnOnce(&Body) -> Result<T, KeysError>,
    ) -> Result<T, KeysError> {
        read(&self.state().body)
    }

    fn state(&self) -> Arc<State> {
        self.state.read().clone()
    }

    /// One change: made to a copy, written, and only then seen by anybody. One that ends the life
    /// of a key gets a new file key.
    fn change<T>(
        &self,
        now: Timestamp,
        edit: impl FnOnce(&mut Body) -> Result<T, KeysError>,
    ) -> Result<T, KeysError> {
        let _one_writer = self.writer.lock();
        let old = self.state();
        let mut body = old.body.dup();
        let result = edit(&mut body)?;
        body.note_time(now);
        let ends = body.living() < old.body.living();
        let file_key =
            if ends { crate::crypto::KeyringFileKey::random() } else { old.file_key.dup() };
        let new = State { keyring_id: old.keyring_id, version: old.version + 1, file_key, body };
        file::write(&self.path, &self.secret, &new)?;
        *self.state.write() = Arc::new(new);
        Ok(result)
    }
}

/// The secret of the keyring in a pool's folder: systemd's credential, else its file; `None` where
/// there is neither.
///
/// # Errors
/// As [`root_secret::read_secret_file`].
pub fn own_secret(config: &PoolConfig) -> Result<Option<KeyringSecret>, KeysError> {
    let path = config.keyring_key();
    match credential_secret()? {
        Some(secret) => Ok(Some(secret)),
        None if path.exists() => {
            root_secret::read_secret_file(&path).map(as_keyring_secret).map(Some)
        }
        None => Ok(None),
    }
}

/// The secret of a keyring from what its file held.
#[must_use]
pub fn parse_keyring_secret(bytes: &[u8]) -> Option<KeyringSecret> {
    root_secret::parse_secret(bytes).map(as_keyring_secret)
}

fn as_keyring_secret(secret: crate::crypto::RootSecret) -> KeyringSecret {
    KeyringSecret::from_bytes(secret.bytes())
}

fn credential_secret() -> Result<Option<KeyringSecret>, KeysError> {
    match root_secret::credentials_directory() {
        Some(dir) if dir.join(KEYRING_CREDENTIAL).exists() => {
            root_secret::read_credential(&dir, KEYRING_CREDENTIAL).map(as_keyring_secret).map(Some)
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests;
