//! A provider that does what a test tells it: states, refusals, outages, lies.

use std::collections::BTreeMap;

use crate::base::{EncryptionKeyId, KeyAnswer, KeyState};
use crate::crypto::{self, ClusterSecret, OpenError, Wrap, WrapContext};
use crate::keys::deadline::Deadline;
use crate::keys::error::KeysError;
use crate::keys::provider::{Fingerprint, KeyDescription, Provider};
use crate::sys::random;
use crate::sys::sync::{Mutex, Rank};

/// The scripted provider, scheme `fake`.
pub struct FakeProvider {
    state: Mutex<State>,
    meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Default for FakeProvider {
    fn default() -> Self {
        Self {
            state: Mutex::new(Rank::StandIn, State::default()),
            meanwhile: Mutex::new(Rank::StandIn, None),
        }
    }
}

#[derive(Default)]
struct State {
    keys: BTreeMap<EncryptionKeyId, FakeKey>,
    gone: BTreeMap<Fingerprint, EncryptionKeyId>,
    calls: u64,
    lies: bool,
}

struct FakeKey {
    fingerprint: Fingerprint,
    versions: Vec<[u8; 32]>,
    answer: KeyAnswer,
}

impl FakeProvider {
    /// A provider without keys.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the key `fake://NAME`, enabled; one of that name is forgotten as if deleted.
    ///
    /// # Panics
    /// Where `name` makes no Encryption Key ID.
    pub fn create(&self, name: &str) -> EncryptionKeyId {
        let id: EncryptionKeyId = format!("fake://{name}").parse().expect("a test names it well");
        let mut state = self.state.lock();
        let key = FakeKey {
            fingerprint: random::array(),
            versions: vec![random::array()],
            answer: KeyAnswer::State(KeyState::Enabled),
        };
        if let Some(old) = state.keys.insert(id.clone(), key) {
            state.gone.insert(old.fingerprint, id.clone());
        }
        id
    }

    /// What asking for the key gives from now on. After `Deleted` it stays so.
    pub fn set(&self, id: &EncryptionKeyId, answer: KeyAnswer) {
        let mut state = self.state.lock();
        let Some(key) = state.keys.get_mut(id) else { return };
        if key.answer != KeyAnswer::State(KeyState::Deleted) {
            key.answer = answer;
        }
    }

    /// A new version of the key; wraps of older versions still open.
    pub fn rotate(&self, id: &EncryptionKeyId) {
        if let Some(key) = self.state.lock().keys.get_mut(id) {
            key.versions.push(random::array());
        }
    }

    /// Whether unwrapping gives something other than what was wrapped.
    pub fn lie_at_unwrap(&self, lies: bool) {
        self.state.lock().lies = lies;
    }

    /// What happens while the next wrap is being made, once.
    pub fn while_wrapping(&self, meanwhile: impl FnOnce() + Send + 'static) {
        *self.meanwhile.lock() = Some(Box::new(meanwhile));
    }

    /// How often the provider was called.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state.lock().calls
    }
}

fn description(id: &EncryptionKeyId, key: &FakeKey) -> Result<KeyDescription, KeysError> {
    let state = match key.answer {
        KeyAnswer::State(state) => state,
        KeyAnswer::Denied => return Err(KeysError::Denied { id: id.clone() }),
        KeyAnswer::Unreachable => return Err(unreachable_now(id)),
    };
    let version = key.versions.len() as u32;
    Ok(KeyDescription {
        id: id.clone(),
        state,
        resolved: format!("{id}#{version}"),
        version,
        fingerprint: key.fingerprint,
        created_at: None,
        deletion_at: None,
    })
}

fn unreachable_now(id: &EncryptionKeyId) -> KeysError {
    KeysError::Unreachable { id: id.clone(), reason: "no answer".to_owned() }
}

fn usable(description: &KeyDescription) -> Result<(), KeysError> {
    match description.state {
        KeyState::Enabled => Ok(()),
        state => Err(KeysError::State { id: description.id.clone(), state }),
    }
}

impl State {
    fn describe_wrap(&self, wrap: &Wrap) -> Result<KeyDescription, KeysError> {
        let id = &wrap.key_id;
        let key = self.keys.get(id).ok_or_else(|| KeysError::NotFound { id: id.clone() })?;
        let mut found = description(id, key)?;
        if key.fingerprint != wrap.fingerprint {
            if !self.gone.contains_key(&wrap.fingerprint) {
                return Err(KeysError::AnotherKey {
                    id: id.clone(),
                    expected: wrap.fingerprint,
                    found: key.fingerprint,
                });
            }
            found.state = KeyState::Deleted;
            found.fingerprint = wrap.fingerprint;
        }
        Ok(found)
    }
}

impl Provider for FakeProvider {
    fn scheme(&self) -> &'static str {
        "fake"
    }

    fn describe(&self, id: &EncryptionKeyId, _: Deadline) -> Result<KeyDescription, KeysError> {
        let mut state = self.state.lock();
        state.calls += 1;
        match state.keys.get(id) {
            Some(key) => description(id, key),
            None => Err(KeysError::NotFound { id: id.clone() }),
        }
    }

    fn describe_wrap(&self, wrap: &Wrap, _: Deadline) -> Result<KeyDescription, KeysError> {
        let mut state = self.state.lock();
        state.calls += 1;
        state.describe_wrap(wrap)
    }

    fn wrap(
        &self,
        id: &EncryptionKeyId,
        context: &WrapContext,
        secret: &ClusterSecret,
        deadline: Deadline,
    ) -> Result<Wrap, KeysError> {
        let meanwhile = self.meanwhile.lock().take();
        meanwhile.into_iter().for_each(|happens| happens());
        let description = self.describe(id, deadline)?;
        usable(&description)?;
        let state = self.state.lock();
        let newest = state.keys.get(id).and_then(|k| k.versions.last());
        let key = newest.ok_or_else(|| KeysError::NotFound { id: id.clone() })?;
        let ad = context.local_ad(&description.fingerprint);
        Ok(Wrap {
            key_id: id.clone(),
            resolved: description.resolved,
            key_version: description.version,
            fingerprint: description.fingerprint,
            wrapped: crypto::seal(key, "wrap", &ad, secret.bytes()),
        })
    }

    fn unwrap(
        &self,
        wrap: &Wrap,
        context: &WrapContext,
        _: Deadline,
    ) -> Result<ClusterSecret, KeysError> {
        let mut state = self.state.lock();
        state.calls += 1;
        usable(&state.describe_wrap(wrap)?)?;
        let id = wrap.key_id.clone();
        if state.lies {
            return Ok(ClusterSecret::random());
        }
        let at = (wrap.key_version as usize).checked_sub(1);
        let key = state.keys.get(&id).and_then(|k| k.versions.get(at?));
        let key = key.ok_or_else(|| KeysError::WrongKey { id: id.clone() })?;
        let ad = context.local_ad(&wrap.fingerprint);
        let opened = crypto::open(key, "wrap", &ad, &wrap.wrapped).map_err(|e| match e {
            OpenError::WrongKey => KeysError::WrongKey { id: id.clone() },
            _ => KeysError::CorruptWrap { id: id.clone() },
        })?;
        let bytes = opened.as_slice().try_into().map_err(|_| KeysError::CorruptWrap { id })?;
        Ok(ClusterSecret::from_bytes(&bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::conformance::{Subject, run};
    use std::sync::Arc;

    struct Fake(Arc<FakeProvider>);

    impl Subject for Fake {
        fn provider(&self) -> Arc<dyn Provider> {
            self.0.clone()
        }
        fn create(&self, name: &str) -> EncryptionKeyId {
            self.0.create(name)
        }
        fn set_state(&self, id: &EncryptionKeyId, state: KeyState) {
            self.0.set(id, KeyAnswer::State(state));
        }
        fn rotate(&self, id: &EncryptionKeyId) {
            self.0.rotate(id);
        }
    }

    #[test]
    fn does_what_every_provider_does() {
        run(&Fake(Arc::new(FakeProvider::new())));
    }

    #[test]
    fn refusals_and_outages_are_no_states() {
        let fake = FakeProvider::new();
        let id = fake.create("k");
        let deadline = Deadline::after(std::time::Duration::from_secs(1));
        fake.set(&id, KeyAnswer::Denied);
        assert!(matches!(fake.describe(&id, deadline), Err(KeysError::Denied { .. })));
        fake.set(&id, KeyAnswer::Unreachable);
        assert!(matches!(fake.describe(&id, deadline), Err(KeysError::Unreachable { .. })));
    }
}
