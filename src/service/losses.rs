//! What was taken away while the daemon serves, and is missed once it ends: the pool's file, what
//! opens the pool, the keyring. The daemon itself goes on without them, so somebody must be told.
//! So it is of clusters whose logs were found damaged.

use crate::base::{ClusterName, ProblemCode};
use crate::device::Standing;
use crate::keys::keyring::KEYRING_CREDENTIAL;
use crate::keys::{AtHand, KeysError, open_engine_key, root_secret};
use crate::service::Service;
use crate::service::error::{ServiceError, log_lost};

/// Something that is gone.
pub(in crate::service) struct Loss {
    /// What, and what it means.
    pub what: String,
    /// What to do about it.
    pub step: String,
    /// Whether the end of the daemon makes it final.
    is_final: bool,
}

impl Service {
    /// What is gone of the pool and of what opens it.
    pub(in crate::service) fn losses(&self) -> Vec<Loss> {
        let found =
            [self.loss_of_the_file(), self.loss_of_the_way_in(), self.loss_of_the_keyring()];
        found.into_iter().flatten().chain(self.losses_of_logs()).collect()
    }

    fn losses_of_logs(&self) -> Vec<Loss> {
        let lost = self.pool().damaged_logs().unwrap_or_else(|error| {
            log::warn!("which logs are damaged is not known: {error}");
            Vec::new()
        });
        if lost.is_empty() {
            return Vec::new();
        }
        let clusters = self.catalog.clusters().unwrap_or_default();
        let told = |name: ClusterName| Loss {
            what: format!(
                "the cluster '{name}' cannot be mounted: the log that holds its last acknowledged \
                 writes is damaged"
            ),
            step: log_lost(name.as_str()),
            is_final: false,
        };
        clusters.into_iter().filter(|c| lost.contains(&c.id)).map(|c| told(c.name)).collect()
    }

    /// That ending the daemon loses nothing which it alone still has.
    ///
    /// # Errors
    /// [`ProblemCode::Confirmation`]
    pub fn check_may_end(&self) -> Result<(), ServiceError> {
        match self.losses().into_iter().find(|loss| loss.is_final) {
            None => Ok(()),
            Some(loss) => Err(ServiceError::new(ProblemCode::Confirmation, loss.what)
                .with_hint(format!("{}; to end it all the same: --force", loss.step))),
        }
    }

    fn loss_of_the_file(&self) -> Option<Loss> {
        let device = self.pool().device();
        let path = device.describe().path;
        let path = path.display();
        match device.standing() {
            Standing::InPlace => None,
            Standing::Removed => Some(Loss {
                what: format!(
                    "the pool's file {path} was removed: it is there for as long as this daemon runs"
                ),
                step: "copy out what is mounted, and mount and copy what is not, before the \
                       daemon ends: a shutdown, a signal or a reboot takes the pool away"
                    .to_owned(),
                is_final: true,
            }),
            Standing::Moved => Some(Loss {
                what: format!("{path} does not lead to the pool that is served any more"),
                step: format!(
                    "the pool was moved, or something else was put in its place: shut down, and put \
                     it back, or name its new place by --pool; nothing else may stand at {path} then"
                ),
                is_final: false,
            }),
        }
    }

    /// Looked for as the next start will.
    fn loss_of_the_way_in(&self) -> Option<Loss> {
        let wraps = self.pool().wraps();
        if wraps.iter().any(|wrap| wrap.kdf.is_some()) {
            return None;
        }
        let none_at_hand = AtHand::default();
        let error = open_engine_key(&self.pool_id(), &wraps, &self.config, &none_at_hand).err()?;
        Some(Loss {
            what: format!("nothing at hand opens the pool again once this daemon ends: {error}"),
            step:
                "put it back where it was, or make another way in now: strongroom root-secret add \
                   file:PATH; then: strongroom config backup FILE"
                    .to_owned(),
            // Who opened it by the recovery key has that.
            is_final: !self.by_recovery_key,
        })
    }

    fn loss_of_the_keyring(&self) -> Option<Loss> {
        self.keyring.read().as_ref()?;
        let by_credential = || {
            let directory = root_secret::credentials_directory();
            directory.is_some_and(|d| d.join(KEYRING_CREDENTIAL).exists())
        };
        let (keyring, secret) = (self.config.keyring(), self.config.keyring_key());
        let path = if !keyring.exists() {
            keyring
        } else if !secret.exists() && !by_credential() {
            secret
        } else {
            return None;
        };
        let what = KeysError::KeyringMissing { what: "keyring", path };
        Some(Loss {
            what: format!("{what}: this daemon has its keys in memory, and the next one has none"),
            step: "put it back where it was; or shut down, then: strongroom config restore FILE"
                .to_owned(),
            is_final: self.keys_not_backed_up() > 0,
        })
    }
}
