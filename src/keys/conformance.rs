//! What every provider must do, as one suite that each provider's tests run.

use std::sync::Arc;
use std::time::Duration;

use crate::base::{ClusterId, EncryptionKeyId, KeyState, PoolId};
use crate::crypto::{ClusterSecret, WrapContext};
use crate::keys::deadline::Deadline;
use crate::keys::error::KeysError;
use crate::keys::provider::Provider;

/// A provider under test, and the hands of its owner.
pub trait Subject {
    /// The provider.
    fn provider(&self) -> Arc<dyn Provider>;
    /// Makes an enabled key; a deleted one of that name may exist.
    fn create(&self, name: &str) -> EncryptionKeyId;
    /// Brings a key into a state. `Deleted` is for ever.
    fn set_state(&self, id: &EncryptionKeyId, state: KeyState);
    /// Makes a new version of a key.
    fn rotate(&self, id: &EncryptionKeyId);
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

fn context(ck_id: u32) -> WrapContext {
    WrapContext { pool: PoolId([1; 16]), cluster: ClusterId([2; 16]), ck_id }
}

/// Runs the suite.
///
/// # Panics
/// Where the provider does not do what it must.
pub fn run(subject: &dyn Subject) {
    wraps_open_only_in_their_own_context(subject);
    only_an_enabled_key_wraps_and_unwraps(subject);
    older_versions_still_open_after_a_rotation(subject);
    damage_is_told_from_a_wrong_key(subject);
    a_deleted_key_stays_deleted_whatever_takes_its_name(subject);
    unknown_keys_are_not_found(subject);
}

fn wraps_open_only_in_their_own_context(subject: &dyn Subject) {
    let provider = subject.provider();
    let id = subject.create("context");
    let secret = ClusterSecret::random();
    let wrap = provider.wrap(&id, &context(1), &secret, soon()).unwrap();
    assert_eq!(wrap.key_id, id);
    assert!(!wrap.resolved.is_empty());
    assert_eq!(provider.unwrap(&wrap, &context(1), soon()).unwrap().bytes(), secret.bytes());
    let others = [
        context(2),
        WrapContext { pool: PoolId([9; 16]), ..context(1) },
        WrapContext { cluster: ClusterId([9; 16]), ..context(1) },
    ];
    for other in others {
        let error = provider.unwrap(&wrap, &other, soon()).map(|_| ()).unwrap_err();
        assert!(matches!(error, KeysError::WrongKey { .. }), "{error}");
    }
    let again = provider.wrap(&id, &context(1), &secret, soon()).unwrap();
    assert_ne!(again.wrapped, wrap.wrapped, "wrapping is randomized");
}

fn only_an_enabled_key_wraps_and_unwraps(subject: &dyn Subject) {
    let provider = subject.provider();
    let id = subject.create("states");
    let secret = ClusterSecret::random();
    let wrap = provider.wrap(&id, &context(1), &secret, soon()).unwrap();
    for state in [KeyState::Disabled, KeyState::PendingDeletion, KeyState::Deleted] {
        subject.set_state(&id, state);
        assert_eq!(provider.describe(&id, soon()).unwrap().state, state);
        assert_eq!(provider.describe_wrap(&wrap, soon()).unwrap().state, state);
        for error in [
            provider.wrap(&id, &context(1), &secret, soon()).map(|_| ()).unwrap_err(),
            provider.unwrap(&wrap, &context(1), soon()).map(|_| ()).unwrap_err(),
        ] {
            assert!(matches!(&error, KeysError::State { state: s, .. } if *s == state), "{error}");
        }
        if state == KeyState::Disabled {
            subject.set_state(&id, KeyState::Enabled);
            assert!(provider.unwrap(&wrap, &context(1), soon()).is_ok());
        }
    }
}

fn older_versions_still_open_after_a_rotation(subject: &dyn Subject) {
    let provider = subject.provider();
    let id = subject.create("rotation");
    let secret = ClusterSecret::random();
    let old = provider.wrap(&id, &context(1), &secret, soon()).unwrap();
    subject.rotate(&id);
    let new = provider.wrap(&id, &context(1), &secret, soon()).unwrap();
    assert_eq!(new.fingerprint, old.fingerprint, "a version is no other key");
    assert_ne!((new.key_version, &new.resolved), (old.key_version, &old.resolved));
    for wrap in [&old, &new] {
        assert_eq!(provider.unwrap(wrap, &context(1), soon()).unwrap().bytes(), secret.bytes());
    }
    let mut mixed = old;
    mixed.key_version = new.key_version;
    assert!(provider.unwrap(&mixed, &context(1), soon()).is_err());
    mixed.key_version = u32::MAX;
    assert!(provider.unwrap(&mixed, &context(1), soon()).is_err());
}

fn damage_is_told_from_a_wrong_key(subject: &dyn Subject) {
    let provider = subject.provider();
    let id = subject.create("damage");
    let wrap = provider.wrap(&id, &context(1), &ClusterSecret::random(), soon()).unwrap();
    let mut flipped = wrap.clone();
    *flipped.wrapped.last_mut().unwrap() ^= 1;
    let mut short = wrap.clone();
    short.wrapped.truncate(10);
    for damaged in [flipped, short] {
        let error = provider.unwrap(&damaged, &context(1), soon()).map(|_| ()).unwrap_err();
        assert!(matches!(error, KeysError::CorruptWrap { .. }), "{error}");
    }
    let mut stranger = wrap;
    stranger.fingerprint = [0xee; 16];
    let error = provider.unwrap(&stranger, &context(1), soon()).map(|_| ()).unwrap_err();
    assert!(matches!(error, KeysError::AnotherKey { .. }), "{error}");
}

fn a_deleted_key_stays_deleted_whatever_takes_its_name(subject: &dyn Subject) {
    let provider = subject.provider();
    let id = subject.create("reborn");
    let secret = ClusterSecret::random();
    let old = provider.wrap(&id, &context(1), &secret, soon()).unwrap();
    subject.set_state(&id, KeyState::Deleted);
    assert_eq!(subject.create("reborn"), id);
    assert_eq!(provider.describe(&id, soon()).unwrap().state, KeyState::Enabled);
    assert_eq!(provider.describe_wrap(&old, soon()).unwrap().state, KeyState::Deleted);
    let error = provider.unwrap(&old, &context(1), soon()).map(|_| ()).unwrap_err();
    assert!(matches!(error, KeysError::State { state: KeyState::Deleted, .. }), "{error}");
    let new = provider.wrap(&id, &context(1), &secret, soon()).unwrap();
    assert_ne!(new.fingerprint, old.fingerprint, "another key, though of the same name");
}

fn unknown_keys_are_not_found(subject: &dyn Subject) {
    let provider = subject.provider();
    let id: EncryptionKeyId = format!("{}://nobody-made-this", provider.scheme()).parse().unwrap();
    assert!(matches!(provider.describe(&id, soon()), Err(KeysError::NotFound { .. })));
}
