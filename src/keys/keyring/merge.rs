//! Two keyrings made one: what a backup holds is taken into the keyring that is there, so that
//! neither side's keys are lost.

use std::collections::BTreeSet;

use crate::base::{EncryptionKeyId, KeyState, Timestamp};
use crate::crypto::{KeyringFileKey, KeyringSecret, constant_time_eq};
use crate::keys::error::KeysError;
use crate::keys::keyring::{Body, Entry, KEYS_MAX, Keyring, State, VERSIONS_MAX, file};

impl Keyring {
    /// Takes in the keys of another keyring, given as the bytes of its file and its own secret.
    /// Keys are told apart by their fingerprints; of a key that both hold, what the later version
    /// of one keyring says counts, else what this one says; a deletion counts always. A key that
    /// waits for its deletion waits its whole period again. Returns the living keys that came.
    ///
    /// # Errors
    /// [`KeysError::KeyringSecret`], [`KeysError::KeyringCorrupt`] of the other;
    /// [`KeysError::SameName`], [`KeysError::KeyringFull`], [`KeysError::File`]: nothing changed.
    pub fn take_in(
        &self,
        bytes: &[u8],
        secret: &KeyringSecret,
    ) -> Result<Vec<EncryptionKeyId>, KeysError> {
        let other = file::open(&self.path, &self.path, secret, bytes)?;
        let _one_writer = self.writer.lock();
        let old = self.state();
        let later = other.keyring_id == old.keyring_id && other.version > old.version;
        let mut body = old.body.dup();
        let came = body.take_in(&other.body, later)?;
        // Above both, so that neither passes for one that was put back.
        let version = old.version.max(other.version) + 1;
        let file_key = KeyringFileKey::random();
        let new = State { keyring_id: old.keyring_id, version, file_key, body };
        file::write(&self.path, &self.secret, &new)?;
        *self.state.write() = std::sync::Arc::new(new);
        Ok(came)
    }
}

impl Body {
    fn take_in(&mut self, other: &Self, later: bool) -> Result<Vec<EncryptionKeyId>, KeysError> {
        let mut came = Vec::new();
        for theirs in &other.entries {
            let mut new = theirs.dup();
            new.wait_again(self.time_seen);
            match self.entries.iter_mut().find(|ours| ours.fingerprint == theirs.fingerprint) {
                Some(ours) => ours.take_in(new, later)?,
                None => {
                    came.extend((new.state != KeyState::Deleted).then(|| new.id()));
                    self.entries.push(new);
                }
            }
        }
        let mut names = BTreeSet::new();
        for living in self.entries.iter().filter(|e| e.state != KeyState::Deleted) {
            if !names.insert(living.name.as_str()) {
                return Err(KeysError::SameName { id: living.id() });
            }
        }
        if self.living() > KEYS_MAX {
            return Err(KeysError::KeyringFull(KEYS_MAX));
        }
        self.forget_oldest_tombstones();
        Ok(came)
    }
}

impl Entry {
    /// What the other keyring says of the same key.
    fn take_in(&mut self, theirs: Self, later: bool) -> Result<(), KeysError> {
        if self.state == KeyState::Deleted || theirs.state == KeyState::Deleted {
            self.shred(self.deletion_at.max(theirs.deletion_at).unwrap_or(self.created_at));
            return Ok(());
        }
        for version in theirs.versions {
            match self.versions.iter().find(|ours| ours.number == version.number) {
                Some(ours) if constant_time_eq(ours.key.bytes(), version.key.bytes()) => {}
                Some(_) => return Err(KeysError::SameName { id: self.id() }),
                None => self.versions.push(version),
            }
        }
        self.versions.sort_by_key(|version| version.number);
        if self.versions.len() > VERSIONS_MAX {
            return Err(KeysError::NotSupported { id: self.id(), what: "hold more versions" });
        }
        if later {
            (self.state, self.wait) = (theirs.state, theirs.wait);
            self.deletion_at = theirs.deletion_at;
        }
        Ok(())
    }

    /// A deletion that is pending was asked for in another time than this one.
    fn wait_again(&mut self, now: Timestamp) {
        if self.state == KeyState::PendingDeletion {
            self.deletion_at = self.deletion_at.max(Some(now.plus(self.wait)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::keys::config::PoolConfig;
    use crate::keys::keyring::DEFAULT_WAIT;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
    const DAY: u64 = 86_400;

    struct Ring {
        _dir: tempfile::TempDir,
        config: PoolConfig,
        keyring: Keyring,
    }

    impl Ring {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let config = PoolConfig::at(dir.path());
            let keyring = Keyring::create(&config, NOW).unwrap();
            Self { _dir: dir, config, keyring }
        }

        /// Its file and its secret, as a backup has them.
        fn kept(&self) -> (Vec<u8>, KeyringSecret) {
            let secret = std::fs::read(self.config.keyring_key()).unwrap();
            let secret = KeyringSecret::from_bytes(secret.as_slice().try_into().unwrap());
            (std::fs::read(self.config.keyring()).unwrap(), secret)
        }

        fn make(&self, name: &str) {
            self.keyring.create_key(&id(name), DEFAULT_WAIT, NOW).unwrap();
        }

        fn take_in(&self, (bytes, secret): &(Vec<u8>, KeyringSecret)) -> Vec<EncryptionKeyId> {
            self.keyring.take_in(bytes, secret).unwrap()
        }

        /// As the next start finds it.
        fn states(&self) -> Vec<(String, KeyState)> {
            let all = Keyring::open(&self.config).unwrap().list();
            all.into_iter().map(|k| (k.id.local_name().unwrap().to_owned(), k.state)).collect()
        }
    }

    fn id(name: &str) -> EncryptionKeyId {
        name.parse().unwrap()
    }

    fn living(names: &[&str]) -> Vec<(String, KeyState)> {
        names.iter().map(|n| ((*n).to_owned(), KeyState::Enabled)).collect()
    }

    #[test]
    fn keys_of_both_are_there_afterwards_and_neither_is_older_than_what_was_seen() {
        let (lost, new) = (Ring::new(), Ring::new());
        lost.make("a");
        let backup = lost.kept();
        new.make("b");
        for _ in 0..9 {
            new.keyring.disable(&id("b"), NOW).unwrap();
        }
        new.keyring.enable(&id("b"), NOW).unwrap();
        let seen = new.keyring.version();
        assert_eq!(new.take_in(&backup), [id("a")]);
        assert_eq!(new.states(), living(&["a", "b"]));
        assert!(Keyring::open(&new.config).unwrap().version() > seen);
        assert!(new.take_in(&backup).is_empty(), "a second time brings nothing");
        assert_eq!(new.states(), living(&["a", "b"]));
    }

    #[test]
    fn an_older_version_of_the_same_keyring_undoes_nothing_and_a_later_one_counts() {
        let ring = Ring::new();
        for name in ["a", "b", "c"] {
            ring.make(name);
        }
        let older = ring.kept();
        ring.keyring.disable(&id("a"), NOW).unwrap();
        ring.keyring.create_key(&id("now"), Duration::ZERO, NOW).unwrap();
        let between = ring.kept();
        ring.keyring.delete(&id("now"), None, NOW).unwrap();
        assert!(ring.take_in(&older).is_empty());
        assert!(ring.take_in(&between).is_empty(), "a deletion counts, whichever is later");
        let state = |name: &str| {
            ring.states().into_iter().find(|(of, _)| of == name).map(|(_, state)| state)
        };
        assert_eq!(state("a"), Some(KeyState::Disabled));
        assert_eq!(state("now"), Some(KeyState::Deleted));
        let later = ring.kept();
        std::fs::write(ring.config.keyring(), &older.0).unwrap();
        let keyring = Keyring::open(&ring.config).unwrap();
        assert!(keyring.take_in(&later.0, &later.1).unwrap().is_empty());
        assert_eq!(keyring.show(&id("a")).unwrap().state, KeyState::Disabled);
        assert_eq!(keyring.show(&id("now")).unwrap().state, KeyState::Deleted);
    }

    #[test]
    fn a_rotation_on_either_side_is_kept() {
        let ring = Ring::new();
        ring.make("a");
        let one = ring.kept();
        ring.keyring.rotate(&id("a"), NOW).unwrap();
        let two = ring.kept();
        ring.take_in(&one);
        assert_eq!(ring.keyring.show(&id("a")).unwrap().version, 2);
        std::fs::write(ring.config.keyring(), &one.0).unwrap();
        let keyring = Keyring::open(&ring.config).unwrap();
        keyring.take_in(&two.0, &two.1).unwrap();
        assert_eq!(keyring.show(&id("a")).unwrap().version, 2);
    }

    #[test]
    fn two_keys_of_one_name_are_refused_and_nothing_changes() {
        let (lost, new) = (Ring::new(), Ring::new());
        lost.make("a");
        lost.make("b");
        new.make("b");
        let (backup, before) = (lost.kept(), new.kept().0);
        let refused = new.keyring.take_in(&backup.0, &backup.1).unwrap_err();
        assert!(matches!(&refused, KeysError::SameName { id: of } if *of == id("b")), "{refused}");
        assert_eq!((new.kept().0, new.states()), (before, living(&["b"])));
        let wrong = new.keyring.take_in(&backup.0, &KeyringSecret::random()).unwrap_err();
        assert!(matches!(wrong, KeysError::KeyringSecret { .. }));
    }

    #[test]
    fn a_deletion_that_was_pending_in_the_backup_waits_its_whole_period_again() {
        let (lost, new) = (Ring::new(), Ring::new());
        lost.make("a");
        lost.keyring.delete(&id("a"), None, NOW).unwrap();
        let later = NOW.plus_secs(20 * DAY);
        new.keyring.confirm_time(later).unwrap();
        new.take_in(&lost.kept());
        assert!(new.keyring.tick(later.plus_secs(60)).unwrap().is_empty());
        let pending = new.keyring.show(&id("a")).unwrap();
        assert_eq!(pending.deletion_at, Some(later.plus(DEFAULT_WAIT)));
    }
}
