//! Customer keys: made, listed, tried, disabled, deleted; and who needs them.

use std::collections::HashSet;
use std::time::Duration;

use crate::base::{EncryptionKeyId, KeyAnswer, KeyState, ProblemCode};
use crate::catalog::{KeyRef, KeyUse, Tombstone};
use crate::keys::keyring::DEFAULT_WAIT;
use crate::keys::{Deadline, Fingerprint, Keyring, KeysError, LocalKeyInfo};
use crate::service::Service;
use crate::service::answers::REFRESH;
use crate::service::clusters::usage_entry;
use crate::service::error::ServiceError;
use crate::service::types::{Key, KeyTest, KeyUsage};
use crate::service::unlock::KEY_DEADLINE;
use crate::sys::{clock, random};

/// What stands for no key on the command line (`cluster set-key db none`): no key is named so.
const NO_KEY: &str = "none";

/// Which key of a name is meant.
#[derive(Clone, Copy)]
enum Meant {
    /// The one that lives under it.
    This(Fingerprint),
    /// Whatever bears it: none lives, or its provider does not tell.
    Any,
}

impl Service {
    /// Keys of the embedded keyring, and every key that a header of the pool names.
    ///
    /// # Errors
    /// The pool's; corruption.
    pub fn keys(&self, refresh: bool) -> Result<Vec<Key>, ServiceError> {
        let usage = self.catalog.key_usage()?;
        let mut ids: Vec<EncryptionKeyId> =
            usage.iter().flat_map(|u| u.keys.iter().map(|k| k.key_id.clone())).collect();
        if let Some(keyring) = self.keyring.read().as_ref() {
            let alive = |k: &LocalKeyInfo| k.state != KeyState::Deleted;
            ids.extend(keyring.list().into_iter().filter(alive).map(|k| k.id));
        }
        ids.sort();
        ids.dedup();
        let mut told = Vec::with_capacity(ids.len());
        for id in ids {
            let former = self.former_key(&id, &usage);
            told.push(self.told_key(&id, &usage, refresh));
            told.extend(former);
        }
        Ok(told)
    }

    /// The keys that bore the name of a living one before, as far as something needs them still.
    /// Looked for in the embedded keyring alone: others are not asked for a list.
    fn former_key(&self, id: &EncryptionKeyId, usage: &[KeyUse]) -> Option<Key> {
        let meant = self.meant(id, false);
        if !matches!(meant, Meant::This(_)) {
            return None;
        }
        let needs = |u: &&KeyUse| u.needs(id) && !self.is_meant(u, id, meant);
        let found: Vec<&KeyUse> = usage.iter().filter(needs).collect();
        let key = found.first()?.keys.first()?;
        let (state, at) = self.answers.of_key(&self.registry(), key, false, self.now())?;
        Some(Key {
            encryption_key_id: id.clone(),
            state: Some(state),
            state_at: Some(at),
            deletion_at: None,
            created_at: None,
            used_by: found.len() as u64,
        })
    }

    /// One key.
    ///
    /// # Errors
    /// [`ProblemCode::KeyNotFound`], [`ProblemCode::KeyProvider`]; the pool's.
    pub fn key(&self, id: &EncryptionKeyId, refresh: bool) -> Result<Key, ServiceError> {
        let usage = self.catalog.key_usage()?;
        let named = usage.iter().any(|u| u.names(id));
        let local = id.local_name().is_some();
        if !named || local {
            match self.registry().describe(id, Deadline::after(REFRESH)) {
                Ok(_) => {}
                Err(error) if error.answer().is_some() => {}
                // What headers name is shown, also where its provider has lost it.
                Err(KeysError::NotFound { .. }) if named => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.told_key(id, &usage, refresh))
    }

    fn told_key(&self, id: &EncryptionKeyId, usage: &[KeyUse], refresh: bool) -> Key {
        let meant = self.meant(id, refresh);
        let needs = usage.iter().filter(|u| self.is_meant(u, id, meant));
        let used_by = needs.count() as u64;
        let asked = refresh || id.local_name().is_some();
        let description = asked.then(|| self.registry().describe(id, Deadline::after(REFRESH)));
        let now = self.now();
        match description {
            Some(Ok(described)) => {
                let state = KeyAnswer::State(described.state);
                self.answers.note(id, &described.fingerprint, state, now);
                Key {
                    encryption_key_id: id.clone(),
                    state: Some(state),
                    state_at: Some(now),
                    deletion_at: described.deletion_at,
                    created_at: described.created_at,
                    used_by,
                }
            }
            other => {
                let failed = other.and_then(Result::err);
                let answer = failed.map(|e| (e.answer().unwrap_or(KeyAnswer::Unreachable), now));
                let known = usage.iter().flat_map(|u| &u.keys).find(|k| k.key_id == *id);
                let last = || {
                    let key: &KeyRef = known?;
                    self.answers.of_key(&self.registry(), key, false, now)
                };
                let shown = answer.or_else(last);
                Key {
                    encryption_key_id: id.clone(),
                    state: shown.map(|(answer, _)| answer),
                    state_at: shown.map(|(_, at)| at),
                    deletion_at: None,
                    created_at: None,
                    used_by,
                }
            }
        }
    }

    /// Which key a name means now. Asked only where that is cheap or wanted.
    fn meant(&self, id: &EncryptionKeyId, ask: bool) -> Meant {
        if !ask && id.local_name().is_none() {
            return Meant::Any;
        }
        match self.registry().describe(id, Deadline::after(REFRESH)) {
            Ok(key) if key.state != KeyState::Deleted => Meant::This(key.fingerprint),
            _ => Meant::Any,
        }
    }

    fn is_meant(&self, usage: &KeyUse, id: &EncryptionKeyId, meant: Meant) -> bool {
        usage.keys.iter().any(|k| {
            k.key_id == *id
                && match meant {
                    Meant::This(fingerprint) => k.fingerprint == fingerprint,
                    Meant::Any => true,
                }
        })
    }

    /// Every cluster and snapshot that needs a key: heads, snapshots, clones, and snapshots of
    /// clusters that are gone. Of two keys that bore one name in turn, the living one is meant.
    ///
    /// # Errors
    /// [`ProblemCode::KeyNotFound`] for a key that is neither known nor named; the pool's.
    pub fn key_usage(&self, id: &EncryptionKeyId) -> Result<KeyUsage, ServiceError> {
        let all = self.catalog.key_usage()?;
        if !all.iter().any(|u| u.names(id)) {
            match self.registry().describe(id, Deadline::after(REFRESH)) {
                Err(error) if error.answer().is_none() => return Err(error.into()),
                _ => {}
            }
        }
        let meant = self.meant(id, true);
        let (used, other): (Vec<KeyUse>, Vec<KeyUse>) =
            all.into_iter().partition(|u| self.is_meant(u, id, meant));
        let clusters = used.iter().chain(&other).filter(|u| u.snapshot.is_none()).count() as u64;
        let snapshots = (used.len() + other.len()) as u64 - clusters;
        let related = |u: &KeyUse| used.iter().any(|o| o.lineage == u.lineage);
        let needing_former_key =
            other.iter().filter(|u| u.needs(id)).cloned().map(usage_entry).collect();
        let also: Vec<_> = other.into_iter().filter(|u| related(u)).map(usage_entry).collect();
        Ok(KeyUsage {
            safe_to_delete: used.is_empty(),
            results: used
                .into_iter()
                .map(|u| {
                    let mut entry = usage_entry(u);
                    entry.encryption_key_id = Some(id.clone());
                    entry
                })
                .collect(),
            pool: self.pool_id(),
            pool_path: self.pool_path.clone(),
            clusters,
            snapshots,
            also_reachable_via: also,
            needing_former_key,
        })
    }

    /// Wraps and unwraps with a key, now.
    ///
    /// # Errors
    /// What its provider says (status 3 where it is not usable).
    pub fn test_key(&self, id: &EncryptionKeyId) -> Result<KeyTest, ServiceError> {
        let begun = clock::monotonic();
        let tested = self.registry().test(id, Deadline::after(KEY_DEADLINE));
        let elapsed = clock::monotonic().saturating_sub(begun);
        let described = tested.map_err(ServiceError::from)?;
        let state = KeyAnswer::State(described.state);
        self.answers.note(id, &described.fingerprint, state, self.now());
        Ok(KeyTest { encryption_key_id: id.clone(), state, elapsed })
    }

    /// Makes a key in the embedded keyring; without a name, one is made up.
    ///
    /// # Errors
    /// [`ProblemCode::KeyExists`], [`ProblemCode::Usage`] for a waiting period over 30 days,
    /// [`ProblemCode::Keyring`]
    pub fn create_key(
        &self,
        name: Option<&str>,
        wait: Option<Duration>,
    ) -> Result<Key, ServiceError> {
        let name = name.map_or_else(|| format!("key-{:016x}", random::u64()), str::to_owned);
        let id: EncryptionKeyId =
            name.parse().map_err(|e| ServiceError::new(ProblemCode::Usage, format!("{e}")))?;
        if id.local_name() == Some(NO_KEY) {
            let what = "the name 'none' is reserved: where a key is named, it means no key at all";
            return Err(ServiceError::new(ProblemCode::Usage, what).with_hint("choose another"));
        }
        self.check_local(&id, "be made here")?;
        self.keyring()?.create_key(&id, wait.unwrap_or(DEFAULT_WAIT), self.now())?;
        self.key_changed(&id)
    }

    /// Makes a key unusable. Clusters that are mounted go on until they are unmounted.
    ///
    /// # Errors
    /// [`ProblemCode::KeyNotFound`], [`ProblemCode::KeyState`], [`ProblemCode::Keyring`]
    pub fn disable_key(&self, id: &EncryptionKeyId) -> Result<Key, ServiceError> {
        self.check_local(id, "be disabled here")?;
        self.keyring()?.disable(id, self.now())?;
        self.key_changed(id)
    }

    /// Makes a disabled key usable.
    ///
    /// # Errors
    /// As [`Service::disable_key`].
    pub fn enable_key(&self, id: &EncryptionKeyId) -> Result<Key, ServiceError> {
        self.check_local(id, "be enabled here")?;
        self.keyring()?.enable(id, self.now())?;
        self.key_changed(id)
    }

    /// Begins a key's waiting period. A key that something needs, or that no waiting period
    /// protects, is deleted only where `force` names it again. Where due deletions wait because the
    /// clock jumped, naming the key again confirms the time.
    ///
    /// # Errors
    /// [`ProblemCode::KeyInUse`], [`ProblemCode::Confirmation`], and as [`Service::disable_key`].
    pub fn delete_key(
        &self,
        id: &EncryptionKeyId,
        after: Option<Duration>,
        force: Option<&EncryptionKeyId>,
    ) -> Result<Key, ServiceError> {
        self.check_local(id, "be deleted here")?;
        let keyring = self.keyring()?;
        let key = keyring.show(id)?;
        let forced = force == Some(id);
        if let Some(other) = force.filter(|_| !forced) {
            let what = format!("{id} is not deleted: --force names {other}, which is another key");
            return Err(ServiceError::new(ProblemCode::Confirmation, what).with_hint(format!(
                "name the same one twice: strongroom key delete {id} --force {id}"
            )));
        }
        let now = self.now();
        if key.state == KeyState::PendingDeletion && forced && keyring.is_time_held(now) {
            keyring.confirm_time(now)?;
            self.delete_due_keys()?;
            return self.key_changed(id);
        }
        // What comes under the key from here on finds it gone.
        let alone = self.key_deletions.lock();
        if !forced && !matches!(key.state, KeyState::Deleted | KeyState::PendingDeletion) {
            self.check_may_go(id, after.unwrap_or(key.wait))?;
        }
        let deleted = keyring.delete(id, after, now)?;
        drop(alone);
        if deleted.state == KeyState::Deleted {
            self.remember_deleted(&deleted)?;
        }
        self.key_changed(id)
    }

    fn check_may_go(&self, id: &EncryptionKeyId, wait: Duration) -> Result<(), ServiceError> {
        let usage = self.key_usage(id)?;
        let hint = format!("to do it all the same: strongroom key delete {id} --force {id}");
        if let Some(first) = usage.results.first() {
            let needed = match first.snapshot {
                Some(snapshot) => format!("snapshot {snapshot}"),
                None => format!("cluster '{}'", first.cluster_name),
            };
            let others = match usage.results.len() {
                1 => String::new(),
                n => format!(" and {} more", n - 1),
            };
            let what = format!("the key '{id}' is needed by {needed}{others}");
            return Err(ServiceError::new(ProblemCode::KeyInUse, what).with_hint(hint));
        }
        if wait.is_zero() {
            let what = format!("the key '{id}' has no waiting period: this cannot be undone");
            return Err(ServiceError::new(ProblemCode::Confirmation, what).with_hint(hint));
        }
        Ok(())
    }

    /// Ends a key's waiting period; it is disabled then.
    ///
    /// # Errors
    /// As [`Service::disable_key`].
    pub fn cancel_delete_key(&self, id: &EncryptionKeyId) -> Result<Key, ServiceError> {
        self.check_local(id, "be kept from deletion here")?;
        self.keyring()?.cancel_delete(id, self.now())?;
        self.key_changed(id)
    }

    /// Deletes the keys whose waiting period is over.
    ///
    /// # Errors
    /// [`ProblemCode::KeyState`] where the clock jumped; [`ProblemCode::Io`]; the pool's.
    pub(in crate::service) fn delete_due_keys(&self) -> Result<Vec<EncryptionKeyId>, ServiceError> {
        let Some(keyring) = self.keyring.read().clone() else { return Ok(Vec::new()) };
        let deleted = keyring.tick(self.now())?;
        if deleted.is_empty() {
            return Ok(Vec::new());
        }
        for key in &deleted {
            log::warn!("the key '{}' was deleted: its waiting period is over", key.id);
        }
        let remembered = self.remember_all_deleted(&deleted);
        self.store_anchor()?;
        remembered?;
        Ok(deleted.into_iter().map(|key| key.id).collect())
    }

    /// Remembers each, whatever becomes of the others; the first error is told.
    fn remember_all_deleted(&self, keys: &[LocalKeyInfo]) -> Result<(), ServiceError> {
        let mut first = Ok(());
        for key in keys {
            first = first.and(self.remember_deleted(key));
        }
        first
    }

    /// Remembers those keys that the keyring deleted and the pool does not remember: the process
    /// ended, or the pool failed, in between.
    ///
    /// # Errors
    /// The pool's; corruption.
    pub(in crate::service) fn remember_missed(
        &self,
        keyring: &Keyring,
    ) -> Result<(), ServiceError> {
        let known: HashSet<_> =
            self.catalog.tombstones()?.into_iter().map(|t| t.fingerprint).collect();
        let missed =
            |k: &LocalKeyInfo| k.state == KeyState::Deleted && !known.contains(&k.fingerprint);
        let missed: Vec<_> = keyring.list().into_iter().filter(missed).collect();
        self.remember_all_deleted(&missed)
    }

    /// The pool remembers a deleted key, so that an older keyring does not bring it back.
    /// Never one that lives: the next start would shred it.
    pub(in crate::service) fn remember_deleted(
        &self,
        key: &LocalKeyInfo,
    ) -> Result<(), ServiceError> {
        if key.state != KeyState::Deleted {
            let what = format!("the key '{}' is {}, not deleted", key.id, key.state.as_str());
            return Err(ServiceError::new(ProblemCode::Internal, what));
        }
        let deleted_at = key.deletion_at.unwrap_or_else(|| self.now());
        let tombstone = Tombstone { fingerprint: key.fingerprint, deleted_at };
        Ok(self.catalog.set_tombstone(tombstone, true)?)
    }

    fn check_local(&self, id: &EncryptionKeyId, what: &'static str) -> Result<(), ServiceError> {
        if id.local_name().is_some() {
            return Ok(());
        }
        self.registry().provider(id)?;
        Err(KeysError::NotSupported { id: id.clone(), what }.into())
    }

    /// After a change of the keyring: the anchor moves along at once.
    fn key_changed(&self, id: &EncryptionKeyId) -> Result<Key, ServiceError> {
        self.store_anchor()?;
        let key = self.key(id, false)?;
        log::info!("the key '{id}' is {}", key.state.map_or("unknown", KeyAnswer::as_str));
        Ok(key)
    }
}
