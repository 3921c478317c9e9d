//! The embedded keyring of a pool: opened with the pool, or later, when the disk that holds it is there.

use std::sync::Arc;

use crate::keys::{AbsentKeyring, Keyring, KeysError, LocalProvider};
use crate::service::Service;
use crate::service::error::ServiceError;

impl Service {
    /// The embedded keyring.
    ///
    /// # Errors
    /// What keeps it from being opened.
    pub(in crate::service) fn keyring(&self) -> Result<Arc<Keyring>, ServiceError> {
        if let Some(keyring) = self.keyring.read().clone() {
            return Ok(keyring);
        }
        self.adopt(Keyring::open(&self.config)?)
    }

    /// Looks again for a keyring that could not be opened before; what is still wrong with it is what
    /// `status` says.
    pub(in crate::service) fn seek_keyring(&self) {
        if self.keyring.read().is_some() {
            return;
        }
        let found = Keyring::open(&self.config).map_err(ServiceError::from);
        let found = found.and_then(|keyring| self.adopt(keyring));
        match found {
            Ok(_) => log::info!("the embedded keyring is there: its keys can be had"),
            Err(error) => self.register_absent(&error),
        }
    }

    /// Keys of the keyring are unreachable, and why.
    pub(in crate::service) fn register_absent(&self, error: &ServiceError) {
        let problem = Some(with_remedy(error));
        let mut known = self.keyring_problem.write();
        if *known == problem || self.keyring.read().is_some() {
            return;
        }
        log::error!("keys of the embedded keyring are unreachable: {error}");
        self.registry.write().register(Arc::new(AbsentKeyring::new(error.to_string())));
        *known = problem;
    }

    /// A keyring that is no older than the one that was last seen serves from now on. None does where
    /// the pool cannot say which keys are deleted, as no service begins then.
    fn adopt(&self, keyring: Keyring) -> Result<Arc<Keyring>, ServiceError> {
        let (found, seen) = (keyring.version(), self.keyring_seen);
        if found < seen {
            return Err(KeysError::KeyringRolledBack { found, seen }.into());
        }
        let deleted = self.catalog.tombstones().map_err(|error| {
            ServiceError::from(error).while_doing("which keys were deleted is not known")
        })?;
        let deleted: Vec<_> = deleted.into_iter().map(|t| t.fingerprint).collect();
        keyring.bury(&deleted, self.now())?;
        let keyring = self.install(Arc::new(keyring));
        if let Err(error) = self.bury_deleted_keys() {
            log::error!("keys that were deleted before are not kept so: {error}");
        }
        Ok(keyring)
    }

    fn install(&self, keyring: Arc<Keyring>) -> Arc<Keyring> {
        // First, as where the problem is noted: the two never overtake each other.
        let mut known = self.keyring_problem.write();
        // Somebody may have been faster; there is one keyring, so that its writers are serialized.
        let keyring = self.keyring.write().get_or_insert(keyring).clone();
        self.registry.write().register(Arc::new(LocalProvider::new(keyring.clone())));
        *known = None;
        keyring
    }
}

/// Why the keyring is not there, and what to do.
pub(in crate::service) fn with_remedy(error: &ServiceError) -> String {
    match &error.hint {
        Some(hint) => format!("{error}; {hint}"),
        None => error.to_string(),
    }
}
