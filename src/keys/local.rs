//! The provider `local://`: keys of the embedded keyring.

use std::sync::Arc;

use crate::base::{EncryptionKeyId, KeyState};
use crate::crypto::{self, ClusterSecret, OpenError, Wrap, WrapContext};
use crate::keys::deadline::Deadline;
use crate::keys::error::KeysError;
use crate::keys::keyring::{Body, Entry, Keyring};
use crate::keys::provider::{KeyDescription, Provider};

/// Wraps and unwraps with the keyring's keys.
pub struct LocalProvider {
    keyring: Arc<Keyring>,
}

impl LocalProvider {
    /// A provider over an open keyring.
    #[must_use]
    pub const fn new(keyring: Arc<Keyring>) -> Self {
        Self { keyring }
    }
}

fn describe(entry: &Entry) -> KeyDescription {
    let info = entry.info();
    KeyDescription {
        resolved: format!("{}#{}", info.id, info.version),
        id: info.id,
        state: info.state,
        version: info.version,
        fingerprint: info.fingerprint,
        created_at: Some(info.created_at),
        deletion_at: info.deletion_at,
    }
}

/// The very key that made a wrap.
fn maker<'a>(body: &'a Body, wrap: &Wrap) -> Result<&'a Entry, KeysError> {
    let id = &wrap.key_id;
    match body.of_fingerprint(&wrap.fingerprint) {
        Some(entry) if Some(entry.name.as_str()) == id.local_name() => Ok(entry),
        _ => Err(KeysError::AnotherKey {
            id: id.clone(),
            expected: wrap.fingerprint,
            found: body.named(id)?.fingerprint,
        }),
    }
}

fn usable(entry: &Entry) -> Result<(), KeysError> {
    match entry.state {
        KeyState::Enabled => Ok(()),
        state => Err(KeysError::State { id: entry.id(), state }),
    }
}

impl Provider for LocalProvider {
    fn scheme(&self) -> &'static str {
        "local"
    }

    fn describe(&self, id: &EncryptionKeyId, _: Deadline) -> Result<KeyDescription, KeysError> {
        self.keyring.with(|body| body.named(id).map(describe))
    }

    fn describe_wrap(&self, wrap: &Wrap, _: Deadline) -> Result<KeyDescription, KeysError> {
        self.keyring.with(|body| maker(body, wrap).map(describe))
    }

    fn wrap(
        &self,
        id: &EncryptionKeyId,
        context: &WrapContext,
        secret: &ClusterSecret,
        _: Deadline,
    ) -> Result<Wrap, KeysError> {
        self.keyring.with(|body| {
            let entry = body.named(id)?;
            usable(entry)?;
            let newest = entry.versions.last();
            let version = newest.ok_or_else(|| KeysError::NotFound { id: id.clone() })?;
            let ad = context.local_ad(&entry.fingerprint);
            Ok(Wrap {
                key_id: id.clone(),
                resolved: format!("{id}#{}", version.number),
                key_version: version.number,
                fingerprint: entry.fingerprint,
                wrapped: crypto::seal(version.key.bytes(), "wrap", &ad, secret.bytes()),
            })
        })
    }

    fn unwrap(
        &self,
        wrap: &Wrap,
        context: &WrapContext,
        _: Deadline,
    ) -> Result<ClusterSecret, KeysError> {
        self.keyring.with(|body| {
            let entry = maker(body, wrap)?;
            usable(entry)?;
            let id = || wrap.key_id.clone();
            let version = entry.versions.iter().find(|v| v.number == wrap.key_version);
            let version = version.ok_or_else(|| KeysError::WrongKey { id: id() })?;
            let ad = context.local_ad(&entry.fingerprint);
            let opened = crypto::open(version.key.bytes(), "wrap", &ad, &wrap.wrapped);
            let opened = opened.map_err(|e| match e {
                OpenError::WrongKey => KeysError::WrongKey { id: id() },
                OpenError::Corrupt | OpenError::Short => KeysError::CorruptWrap { id: id() },
            })?;
            let bytes: &[u8; 32] =
                opened.as_slice().try_into().map_err(|_| KeysError::CorruptWrap { id: id() })?;
            Ok(ClusterSecret::from_bytes(bytes))
        })
    }
}

/// What stands in for the keyring where it cannot be opened: its keys are unreachable, so nothing is
/// taken for revoked or deleted.
pub struct AbsentKeyring {
    reason: String,
}

impl AbsentKeyring {
    /// A stand-in that says why.
    #[must_use]
    pub const fn new(reason: String) -> Self {
        Self { reason }
    }
    fn unreachable<T>(&self, id: &EncryptionKeyId) -> Result<T, KeysError> {
        Err(KeysError::Unreachable { id: id.clone(), reason: self.reason.clone() })
    }
}

impl Provider for AbsentKeyring {
    fn scheme(&self) -> &'static str {
        "local"
    }
    fn describe(&self, id: &EncryptionKeyId, _: Deadline) -> Result<KeyDescription, KeysError> {
        self.unreachable(id)
    }
    fn describe_wrap(&self, wrap: &Wrap, _: Deadline) -> Result<KeyDescription, KeysError> {
        self.unreachable(&wrap.key_id)
    }
    fn wrap(
        &self,
        id: &EncryptionKeyId,
        _: &WrapContext,
        _: &ClusterSecret,
        _: Deadline,
    ) -> Result<Wrap, KeysError> {
        self.unreachable(id)
    }
    fn unwrap(
        &self,
        wrap: &Wrap,
        _: &WrapContext,
        _: Deadline,
    ) -> Result<ClusterSecret, KeysError> {
        self.unreachable(&wrap.key_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Timestamp;
    use crate::keys::config::PoolConfig;
    use crate::keys::conformance::{Subject, run};
    use std::time::Duration;

    struct Local {
        keyring: Arc<Keyring>,
        _dir: tempfile::TempDir,
    }

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    impl Subject for Local {
        fn provider(&self) -> Arc<dyn Provider> {
            Arc::new(LocalProvider::new(self.keyring.clone()))
        }
        fn create(&self, name: &str) -> EncryptionKeyId {
            let id = name.parse().unwrap();
            self.keyring.create_key(&id, Duration::from_secs(3600), NOW).unwrap();
            id
        }
        fn set_state(&self, id: &EncryptionKeyId, state: KeyState) {
            let keyring = &self.keyring;
            match state {
                KeyState::Enabled => keyring.enable(id, NOW).map(|_| ()).unwrap(),
                KeyState::Disabled => keyring.disable(id, NOW).map(|_| ()).unwrap(),
                KeyState::PendingDeletion => keyring.delete(id, None, NOW).map(|_| ()).unwrap(),
                KeyState::Deleted => {
                    if keyring.show(id).unwrap().state != KeyState::PendingDeletion {
                        keyring.delete(id, None, NOW).unwrap();
                    }
                    let due = keyring.show(id).unwrap().deletion_at.unwrap();
                    assert_eq!(keyring.tick(due).unwrap()[0].id, *id);
                }
            }
        }
        fn rotate(&self, id: &EncryptionKeyId) {
            self.keyring.rotate(id, NOW).unwrap();
        }
    }

    #[test]
    fn does_what_every_provider_does() {
        let dir = tempfile::tempdir().unwrap();
        let keyring = Arc::new(Keyring::create(&PoolConfig::at(dir.path()), NOW).unwrap());
        run(&Local { keyring, _dir: dir });
    }
}
