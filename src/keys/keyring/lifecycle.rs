//! The life of a key, as pure changes to the keyring's contents: made, disabled, enabled, pending
//! deletion, deleted.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::base::{EncryptionKeyId, KeyState, Timestamp};
use crate::crypto::LocalKey;
use crate::keys::error::KeysError;
use crate::keys::keyring::{
    Body, Entry, KEYS_MAX, KeyVersion, LocalKeyInfo, TOMBSTONES_MAX, VERSIONS_MAX,
};
use crate::keys::provider::Fingerprint;
use crate::sys::random;

/// The waiting period of a key that was made without naming one.
pub const DEFAULT_WAIT: Duration = Duration::from_secs(7 * 86_400);
/// The longest waiting period.
pub const MAX_WAIT: Duration = Duration::from_secs(30 * 86_400);
/// A step of the clock that is not believed while a deletion is pending.
pub const JUMP: Duration = Duration::from_secs(86_400);

impl Entry {
    /// What is shown of it.
    pub(in crate::keys) fn info(&self) -> LocalKeyInfo {
        LocalKeyInfo {
            id: self.id(),
            fingerprint: self.fingerprint,
            state: self.state,
            version: self.versions.last().map_or(0, |v| v.number),
            wait: self.wait,
            created_at: self.created_at,
            deletion_at: self.deletion_at,
        }
    }

    /// Its Encryption Key ID.
    ///
    /// # Panics
    /// Never: names are checked when a key is made, and again when the file is read.
    pub(in crate::keys) fn id(&self) -> EncryptionKeyId {
        format!("local://{}", self.name).parse().expect("names in the keyring are checked")
    }

    pub(in crate::keys::keyring) fn dup(&self) -> Self {
        let version = |v: &KeyVersion| KeyVersion {
            number: v.number,
            created_at: v.created_at,
            key: v.key.dup(),
        };
        Self {
            name: self.name.clone(),
            fingerprint: self.fingerprint,
            state: self.state,
            wait: self.wait,
            created_at: self.created_at,
            deletion_at: self.deletion_at,
            versions: self.versions.iter().map(version).collect(),
        }
    }

    pub(in crate::keys::keyring) fn shred(&mut self, now: Timestamp) {
        self.state = KeyState::Deleted;
        self.deletion_at = Some(now);
        self.versions.clear();
    }

    fn transition(&self, verb: &'static str) -> KeysError {
        match self.state {
            KeyState::Deleted => KeysError::State { id: self.id(), state: self.state },
            state => KeysError::Transition { id: self.id(), state, verb },
        }
    }
}

impl Body {
    pub(in crate::keys::keyring) fn dup(&self) -> Self {
        Self { time_seen: self.time_seen, entries: self.entries.iter().map(Entry::dup).collect() }
    }

    /// The key that a name means: the living one, else the one deleted last.
    ///
    /// # Errors
    /// [`KeysError::NotFound`]
    pub(in crate::keys) fn named(&self, id: &EncryptionKeyId) -> Result<&Entry, KeysError> {
        let name = id.local_name();
        let of_name = || self.entries.iter().filter(|e| Some(e.name.as_str()) == name);
        of_name()
            .find(|e| e.state != KeyState::Deleted)
            .or_else(|| of_name().max_by_key(|e| (e.deletion_at, e.created_at)))
            .ok_or_else(|| KeysError::NotFound { id: id.clone() })
    }

    /// The key of that fingerprint.
    pub(in crate::keys) fn of_fingerprint(&self, fingerprint: &Fingerprint) -> Option<&Entry> {
        self.entries.iter().find(|e| e.fingerprint == *fingerprint)
    }

    fn named_mut(&mut self, id: &EncryptionKeyId) -> Result<&mut Entry, KeysError> {
        let fingerprint = self.named(id)?.fingerprint;
        let found = self.entries.iter_mut().find(|e| e.fingerprint == fingerprint);
        found.ok_or_else(|| KeysError::NotFound { id: id.clone() })
    }

    pub(in crate::keys::keyring) fn create(
        &mut self,
        id: &EncryptionKeyId,
        wait: Duration,
        now: Timestamp,
    ) -> Result<(), KeysError> {
        let Some(name) = id.local_name() else {
            return Err(KeysError::NotSupported { id: id.clone(), what: "make keys from here" });
        };
        if wait > MAX_WAIT {
            return Err(KeysError::WaitingPeriod { id: id.clone(), least_days: 0 });
        }
        let alive = || self.entries.iter().filter(|e| e.state != KeyState::Deleted);
        if alive().any(|e| e.name == name) {
            return Err(KeysError::Exists { id: id.clone() });
        }
        if alive().count() >= KEYS_MAX {
            return Err(KeysError::KeyringFull(KEYS_MAX));
        }
        self.entries.push(Entry {
            name: name.to_owned(),
            fingerprint: random::array(),
            state: KeyState::Enabled,
            wait,
            created_at: now,
            deletion_at: None,
            versions: vec![KeyVersion { number: 1, created_at: now, key: LocalKey::random() }],
        });
        Ok(())
    }

    pub(in crate::keys::keyring) fn disable(
        &mut self,
        id: &EncryptionKeyId,
    ) -> Result<(), KeysError> {
        let entry = self.named_mut(id)?;
        match entry.state {
            KeyState::Enabled | KeyState::Disabled => entry.state = KeyState::Disabled,
            _ => return Err(entry.transition("disabled")),
        }
        Ok(())
    }

    pub(in crate::keys::keyring) fn enable(
        &mut self,
        id: &EncryptionKeyId,
    ) -> Result<(), KeysError> {
        let entry = self.named_mut(id)?;
        match entry.state {
            KeyState::Enabled | KeyState::Disabled => entry.state = KeyState::Enabled,
            _ => return Err(entry.transition("enabled")),
        }
        Ok(())
    }

    pub(in crate::keys::keyring) fn delete(
        &mut self,
        id: &EncryptionKeyId,
        after: Option<Duration>,
        now: Timestamp,
    ) -> Result<LocalKeyInfo, KeysError> {
        let from = self.time_seen.max(now);
        let entry = self.named_mut(id)?;
        if !matches!(entry.state, KeyState::Enabled | KeyState::Disabled) {
            return Err(entry.transition("deleted"));
        }
        let wait = after.unwrap_or(entry.wait);
        if wait < entry.wait || wait > MAX_WAIT {
            let least_days = entry.wait.as_secs().div_ceil(86_400);
            return Err(KeysError::WaitingPeriod { id: id.clone(), least_days });
        }
        if wait.is_zero() {
            entry.shred(from);
        } else {
            entry.state = KeyState::PendingDeletion;
            entry.deletion_at = Some(from.plus_secs(wait.as_secs()));
        }
        let info = entry.info();
        self.forget_oldest_tombstones();
        Ok(info)
    }

    pub(in crate::keys::keyring) fn cancel_delete(
        &mut self,
        id: &EncryptionKeyId,
    ) -> Result<(), KeysError> {
        let entry = self.named_mut(id)?;
        if entry.state != KeyState::PendingDeletion {
            return Err(entry.transition("kept from deletion: none is pending"));
        }
        entry.state = KeyState::Disabled;
        entry.deletion_at = None;
        Ok(())
    }

    pub(in crate::keys::keyring) fn rotate(
        &mut self,
        id: &EncryptionKeyId,
        now: Timestamp,
    ) -> Result<(), KeysError> {
        let entry = self.named_mut(id)?;
        let newest = entry.versions.last().map_or(0, |v| v.number);
        if entry.state != KeyState::Enabled {
            return Err(entry.transition("rotated"));
        }
        if entry.versions.len() >= VERSIONS_MAX {
            return Err(KeysError::NotSupported { id: id.clone(), what: "hold more versions" });
        }
        let version = KeyVersion { number: newest + 1, created_at: now, key: LocalKey::random() };
        entry.versions.push(version);
        Ok(())
    }

    /// That the clock can be believed as far as pending deletions go.
    ///
    /// # Errors
    /// [`KeysError::ClockJumped`]
    pub(in crate::keys::keyring) fn check_time(&self, now: Timestamp) -> Result<(), KeysError> {
        let pending = self.entries.iter().any(|e| e.state == KeyState::PendingDeletion);
        if pending && now > self.time_seen.plus_secs(JUMP.as_secs()) {
            return Err(KeysError::ClockJumped { seen: self.time_seen, now });
        }
        Ok(())
    }

    /// Notes the largest time seen, unless it is in doubt.
    pub(in crate::keys::keyring) fn note_time(&mut self, now: Timestamp) {
        if self.check_time(now).is_ok() {
            self.time_seen = self.time_seen.max(now);
        }
    }

    /// Whether the waiting period of a key has ended.
    pub(in crate::keys::keyring) fn any_due(&self, now: Timestamp) -> bool {
        let now = self.time_seen.max(now);
        self.entries.iter().any(|e| e.is_due(now))
    }

    /// Deletes the keys whose waiting period has ended; returns those very keys.
    pub(in crate::keys::keyring) fn purge_due(&mut self, now: Timestamp) -> Vec<LocalKeyInfo> {
        let now = self.time_seen.max(now);
        let mut purged = Vec::new();
        for entry in self.entries.iter_mut().filter(|e| e.is_due(now)) {
            entry.shred(now);
            purged.push(entry.info());
        }
        self.forget_oldest_tombstones();
        purged
    }

    /// How many keys are not deleted.
    pub(in crate::keys::keyring) fn living(&self) -> usize {
        self.entries.iter().filter(|e| e.state != KeyState::Deleted).count()
    }

    /// Whether a key of those fingerprints still lives.
    pub(in crate::keys::keyring) fn alive(&self, deleted: &[Fingerprint]) -> bool {
        self.entries
            .iter()
            .any(|e| e.state != KeyState::Deleted && deleted.contains(&e.fingerprint))
    }

    pub(in crate::keys::keyring) fn bury(
        &mut self,
        deleted: &[Fingerprint],
        now: Timestamp,
    ) -> Vec<EncryptionKeyId> {
        let mut buried = Vec::new();
        for entry in &mut self.entries {
            if entry.state != KeyState::Deleted && deleted.contains(&entry.fingerprint) {
                entry.shred(now);
                buried.push(entry.id());
            }
        }
        self.forget_oldest_tombstones();
        buried
    }

    /// No more than [`TOMBSTONES_MAX`] are remembered, also of those deleted at one time.
    pub(in crate::keys::keyring) fn forget_oldest_tombstones(&mut self) {
        let gone = |e: &Entry| e.state == KeyState::Deleted;
        let dated = self.entries.iter().enumerate().filter(|(_, e)| gone(e));
        let mut dates: Vec<_> = dated.map(|(at, e)| (e.deletion_at, at)).collect();
        let surplus = dates.len().saturating_sub(TOMBSTONES_MAX);
        dates.sort_unstable();
        let forgotten: BTreeSet<usize> = dates.into_iter().take(surplus).map(|d| d.1).collect();
        let mut at = 0..;
        self.entries.retain(|_| at.next().is_none_or(|at| !forgotten.contains(&at)));
    }
}

impl Entry {
    fn is_due(&self, now: Timestamp) -> bool {
        self.state == KeyState::PendingDeletion && self.deletion_at.is_some_and(|at| at <= now)
    }
}
