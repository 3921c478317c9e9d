//! The ways to open the pool: listed, added, removed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::base::{ProblemCode, limits};
use crate::crypto::{EngineWrap, EngineWrapKind, KdfParams, constant_time_eq};
use crate::keys::{label, root_secret, unwrap_engine_key, wrap_engine_key};
use crate::service::Service;
use crate::service::error::ServiceError;
use crate::service::types::RootSecretInfo;

/// Where a root secret is kept, as people write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootSecretSpec {
    /// `file:PATH`: a key file; made where it does not exist.
    File(PathBuf),
    /// `passphrase`
    Passphrase,
    /// `credential:NAME`: a systemd credential.
    Credential(String),
    /// `recovery`: the recovery key (only to be removed).
    Recovery,
}

impl FromStr for RootSecretSpec {
    type Err = ServiceError;
    fn from_str(text: &str) -> Result<Self, ServiceError> {
        match text.split_once(':') {
            Some(("file", path)) if Path::new(path).is_absolute() || path == "root.key" => {
                Ok(Self::File(PathBuf::from(path)))
            }
            Some(("credential", name)) if !name.is_empty() && !name.contains('/') => {
                Ok(Self::Credential(name.to_owned()))
            }
            None if text == "passphrase" => Ok(Self::Passphrase),
            None if text == "recovery" => Ok(Self::Recovery),
            _ => {
                Err(ServiceError::new(ProblemCode::Usage, format!("'{text}' names no root secret"))
                    .with_hint("file:/ABSOLUTE/PATH, passphrase or credential:NAME"))
            }
        }
    }
}

impl fmt::Display for RootSecretSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Passphrase => f.write_str("passphrase"),
            Self::Credential(name) => write!(f, "credential:{name}"),
            Self::Recovery => f.write_str("recovery"),
        }
    }
}

fn told(wrap: &EngineWrap) -> RootSecretInfo {
    RootSecretInfo { kind: wrap.kind.as_str(), name: wrap.name.clone(), spec: label(wrap) }
}

impl Service {
    /// The ways to open the pool.
    #[must_use]
    pub fn root_secrets(&self) -> Vec<RootSecretInfo> {
        self.pool().wraps().iter().map(told).collect()
    }

    /// Adds a way to open the pool: any one of them opens it. It is proved to open before it is
    /// written.
    ///
    /// # Errors
    /// [`ProblemCode::RootSecretExists`], [`ProblemCode::Usage`] for a missing passphrase,
    /// [`ProblemCode::RootSecret`] for a secret that cannot be used; the pool's.
    pub fn add_root_secret(
        &self,
        spec: &RootSecretSpec,
        passphrase: Option<&[u8]>,
    ) -> Result<Vec<RootSecretInfo>, ServiceError> {
        let _one_change = self.root_secrets.lock();
        let mut wraps = self.pool().wraps();
        if wraps.len() >= limits::ENGINE_WRAPS_MAX {
            let what = format!("the pool has {} root secrets, as many as it may", wraps.len());
            return Err(ServiceError::new(ProblemCode::Usage, what)
                .with_hint("remove one first: strongroom root-secret remove SPEC"));
        }
        if wraps.iter().any(|w| label(w) == spec.to_string()) {
            let what = format!("the pool has the root secret {spec} already");
            return Err(ServiceError::new(ProblemCode::RootSecretExists, what)
                .with_hint("list them: strongroom root-secret show"));
        }
        let pool = self.pool_id();
        let (kind, name, secret, kdf) = match spec {
            RootSecretSpec::File(path) if !path.is_absolute() => {
                let what = format!("'{spec}' is no absolute path: a new key file needs one");
                return Err(
                    ServiceError::new(ProblemCode::Usage, what).with_hint("file:/ABSOLUTE/PATH")
                );
            }
            RootSecretSpec::File(path) => {
                let secret = if path.exists() {
                    root_secret::read_secret_file(path)?
                } else {
                    root_secret::create_secret_file(path)?
                };
                (EngineWrapKind::File, path.display().to_string(), secret, None)
            }
            RootSecretSpec::Credential(name) => {
                let missing = || {
                    ServiceError::new(
                        ProblemCode::RootSecretMissing,
                        format!("there is no credential {name}"),
                    )
                    .with_hint("LoadCredentialEncrypted= in the unit hands it to the daemon")
                };
                let directory = root_secret::credentials_directory().ok_or_else(missing)?;
                let secret = root_secret::read_credential(&directory, name)?;
                (EngineWrapKind::Credential, name.clone(), secret, None)
            }
            RootSecretSpec::Passphrase => {
                let none = || ServiceError::new(ProblemCode::Usage, "no passphrase was given");
                let kdf = KdfParams::new();
                let passphrase = passphrase.ok_or_else(none)?;
                let secret = root_secret::secret_of_passphrase(passphrase, &kdf)?;
                (EngineWrapKind::Passphrase, String::new(), secret, Some(kdf))
            }
            RootSecretSpec::Recovery => {
                let what = "a recovery key is made by init, and only removed later";
                return Err(ServiceError::new(ProblemCode::Usage, what));
            }
        };
        let wrap = wrap_engine_key(&pool, kind, &name, &secret, kdf, &self.engine_key)?;
        let opened = unwrap_engine_key(&pool, &wrap, &secret)?;
        let same = opened.is_some_and(|k| constant_time_eq(k.bytes(), self.engine_key.bytes()));
        if !same {
            let what = format!("the root secret {spec} did not open what it had sealed");
            return Err(ServiceError::new(ProblemCode::Internal, what));
        }
        wraps.push(wrap);
        self.pool().set_wraps(wraps)?;
        log::info!("added the root secret {spec}");
        Ok(self.root_secrets())
    }

    /// Removes a way to open the pool; what it sealed is shredded. The last one stays.
    ///
    /// # Errors
    /// [`ProblemCode::RootSecretMissing`] for one that is not there, [`ProblemCode::RootSecret`] for the last;
    /// the pool's.
    pub fn remove_root_secret(
        &self,
        spec: &RootSecretSpec,
    ) -> Result<Vec<RootSecretInfo>, ServiceError> {
        let _one_change = self.root_secrets.lock();
        let wraps = self.pool().wraps();
        let named = spec.to_string();
        let kept: Vec<EngineWrap> = wraps.iter().filter(|w| label(w) != named).cloned().collect();
        if kept.len() == wraps.len() {
            let what = format!("the pool has no root secret {spec}");
            return Err(ServiceError::new(ProblemCode::RootSecretMissing, what)
                .with_hint("list them: strongroom root-secret show"));
        }
        if kept.is_empty() {
            let what = format!("{spec} is the last root secret: nothing would open the pool");
            return Err(ServiceError::new(ProblemCode::RootSecret, what)
                .with_hint("add another first: strongroom root-secret add SPEC"));
        }
        self.pool().set_wraps(kept)?;
        self.anchor_narrowed();
        log::info!("removed the root secret {spec}");
        Ok(self.root_secrets())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_read_as_they_are_written() {
        for good in ["file:/a/b:c", "file:root.key", "passphrase", "credential:x", "recovery"] {
            assert_eq!(good.parse::<RootSecretSpec>().unwrap().to_string(), good);
        }
        for bad in ["", "file:", "file:relative", "credential:", "credential:a/b", "tpm"] {
            let error = bad.parse::<RootSecretSpec>().unwrap_err();
            assert_eq!(error.code, ProblemCode::Usage, "{bad}");
        }
    }
}
