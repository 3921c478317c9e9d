//! The customer layer: keys of a header made, proved, opened and moved to other customer keys.
//!
//! Everything here calls the provider in this very call; nothing is answered from memory.

use crate::base::{ClusterId, EncryptionKeyId, PoolId};
use crate::crypto::{self, ClusterKey, ClusterSecret, HeaderKeys, HeaderSalt, WrapContext};
use crate::keys::deadline::Deadline;
use crate::keys::error::KeysError;
use crate::keys::registry::Registry;

/// Draws a new W and Z for version `ck_id` of a cluster's key, wraps W under `key` and proves that
/// the wrap opens; without `key`, W itself stands in the result ("Not enabled").
///
/// # Errors
/// As [`Registry::wrap_proved`]; nothing was made then.
pub fn make(
    registry: &Registry,
    pool: PoolId,
    cluster: ClusterId,
    ck_id: u32,
    key: Option<&EncryptionKeyId>,
    deadline: Deadline,
) -> Result<(HeaderKeys, ClusterKey), KeysError> {
    let secret = ClusterSecret::random();
    let salt = HeaderSalt::random();
    let cluster_key = crypto::cluster_key(&secret, &salt, &pool, &cluster, ck_id);
    let keys = match key {
        Some(id) => {
            let context = WrapContext { pool, cluster, ck_id };
            let wrap = registry.wrap_proved(id, &context, &secret, deadline)?;
            HeaderKeys { wraps: vec![wrap], plain: None, salt, ck_id }
        }
        None => HeaderKeys { wraps: Vec::new(), plain: Some(secret), salt, ck_id },
    };
    Ok((keys, cluster_key))
}

/// Opens the keys of a header, by the first of its wraps that opens.
///
/// # Errors
/// As [`Registry::unwrap`]: of several wraps, the first one's; [`KeysError::CorruptHeader`]
pub fn open(
    registry: &Registry,
    pool: PoolId,
    cluster: ClusterId,
    keys: &HeaderKeys,
    deadline: Deadline,
) -> Result<ClusterKey, KeysError> {
    let context = WrapContext { pool, cluster, ck_id: keys.ck_id };
    let derive = |secret: &ClusterSecret| {
        crypto::cluster_key(secret, &keys.salt, &pool, &cluster, keys.ck_id)
    };
    if let Some(secret) = &keys.plain {
        return Ok(derive(secret));
    }
    let mut first = None;
    for wrap in &keys.wraps {
        match registry.unwrap(wrap, &context, deadline) {
            Ok(secret) => return Ok(derive(&secret)),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.unwrap_or(KeysError::CorruptHeader("neither a wrap nor a key")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{KeyAnswer, KeyState};
    use crate::keys::fake::FakeProvider;
    use std::sync::Arc;
    use std::time::Duration;

    const POOL: PoolId = PoolId([1; 16]);
    const CLUSTER: ClusterId = ClusterId([2; 16]);

    fn setup() -> (Arc<FakeProvider>, Registry, EncryptionKeyId) {
        let fake = Arc::new(FakeProvider::new());
        let mut registry = Registry::new();
        registry.register(fake.clone());
        let id = fake.create("k");
        (fake, registry, id)
    }

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(10))
    }

    #[test]
    fn what_was_made_opens_to_the_same_cluster_key_with_and_without_a_customer_key() {
        let (_fake, registry, id) = setup();
        for key in [None, Some(&id)] {
            let (keys, made) = make(&registry, POOL, CLUSTER, 3, key, soon()).unwrap();
            assert_eq!(keys.encryption_key_id(), key);
            assert_eq!(keys.plain.is_some(), key.is_none());
            let opened = open(&registry, POOL, CLUSTER, &keys, soon()).unwrap();
            assert_eq!(opened.bytes(), made.bytes());
            let again = make(&registry, POOL, CLUSTER, 3, key, soon()).unwrap();
            assert_ne!(again.1.bytes(), made.bytes());
        }
    }

    #[test]
    fn a_key_that_is_not_usable_opens_nothing_each_time_it_is_asked() {
        let (fake, registry, id) = setup();
        let (keys, _) = make(&registry, POOL, CLUSTER, 1, Some(&id), soon()).unwrap();
        fake.set(&id, KeyAnswer::State(KeyState::Disabled));
        let error = open(&registry, POOL, CLUSTER, &keys, soon()).map(|_| ()).unwrap_err();
        assert!(matches!(error, KeysError::State { state: KeyState::Disabled, .. }));
        assert!(make(&registry, POOL, CLUSTER, 1, Some(&id), soon()).is_err());
        fake.set(&id, KeyAnswer::State(KeyState::Enabled));
        assert!(open(&registry, POOL, CLUSTER, &keys, soon()).is_ok());
        fake.set(&id, KeyAnswer::Denied);
        let error = open(&registry, POOL, CLUSTER, &keys, soon()).map(|_| ()).unwrap_err();
        assert_eq!(error.answer(), Some(KeyAnswer::Denied));
    }

    #[test]
    fn any_one_of_several_wraps_opens() {
        let (fake, registry, id) = setup();
        let (mut keys, made) = make(&registry, POOL, CLUSTER, 1, Some(&id), soon()).unwrap();
        let gone = fake.create("gone");
        let (other, _) = make(&registry, POOL, CLUSTER, 1, Some(&gone), soon()).unwrap();
        keys.wraps.insert(0, other.wraps[0].clone());
        fake.set(&gone, KeyAnswer::State(KeyState::Deleted));
        let opened = open(&registry, POOL, CLUSTER, &keys, soon()).unwrap();
        assert_eq!(opened.bytes(), made.bytes());
    }

    #[test]
    fn keys_of_another_cluster_or_version_do_not_open() {
        let (_fake, registry, id) = setup();
        let (mut keys, _) = make(&registry, POOL, CLUSTER, 1, Some(&id), soon()).unwrap();
        assert!(open(&registry, POOL, ClusterId([3; 16]), &keys, soon()).is_err());
        keys.ck_id = 2;
        assert!(open(&registry, POOL, CLUSTER, &keys, soon()).is_err());
    }
}
