//! From the scheme of an Encryption Key ID to its provider, and what holds for every provider.

use std::sync::Arc;

use crate::base::counters::{KEY_CALLS, KEY_REFUSALS};
use crate::base::{ClusterId, EncryptionKeyId, KeyAnswer, PoolId};
use crate::crypto::{ClusterSecret, Wrap, WrapContext, constant_time_eq};
use crate::keys::deadline::Deadline;
use crate::keys::error::KeysError;
use crate::keys::provider::{KeyDescription, Provider};
use crate::sys::random;

/// Schemes that Encryption Key IDs are known to have and that this version has no provider for.
const OTHER_SCHEMES: [&str; 7] =
    ["awskms", "gcpkms", "azurekms", "hashivault", "kmip", "pkcs11", "exec"];

/// The providers of this process.
#[derive(Clone, Default)]
pub struct Registry {
    providers: Vec<Arc<dyn Provider>>,
}

impl Registry {
    /// A registry without providers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a provider; one of the same scheme is replaced.
    pub fn register(&mut self, provider: Arc<dyn Provider>) {
        self.providers.retain(|p| p.scheme() != provider.scheme());
        self.providers.push(provider);
    }

    /// The provider of `id`.
    ///
    /// # Errors
    /// [`KeysError::UnknownScheme`], [`KeysError::SchemeNotAvailable`]
    pub fn provider(&self, id: &EncryptionKeyId) -> Result<&dyn Provider, KeysError> {
        if let Some(found) = self.providers.iter().find(|p| p.scheme() == id.scheme()) {
            return Ok(&**found);
        }
        let mut schemes: Vec<&str> = self.providers.iter().map(|p| p.scheme()).collect();
        schemes.sort_unstable();
        let (id, scheme, available) = (id.clone(), id.scheme().to_owned(), schemes.join(", "));
        Err(if OTHER_SCHEMES.contains(&scheme.as_str()) {
            KeysError::SchemeNotAvailable { id, scheme, available }
        } else {
            KeysError::UnknownScheme { id, scheme, available }
        })
    }

    /// The key that `id` names now.
    ///
    /// # Errors
    /// As [`Provider::describe`], and [`Registry::provider`].
    pub fn describe(
        &self,
        id: &EncryptionKeyId,
        deadline: Deadline,
    ) -> Result<KeyDescription, KeysError> {
        call(|| self.provider(id)?.describe(id, deadline))
    }

    /// The key that made `wrap`.
    ///
    /// # Errors
    /// As [`Provider::describe_wrap`], and [`Registry::provider`].
    pub fn describe_wrap(
        &self,
        wrap: &Wrap,
        deadline: Deadline,
    ) -> Result<KeyDescription, KeysError> {
        call(|| self.provider(&wrap.key_id)?.describe_wrap(wrap, deadline))
    }

    /// Wraps `secret`, and proves that the wrap opens to the same secret again before it is handed
    /// out: a wrap that cannot be opened is never stored.
    ///
    /// # Errors
    /// As [`Provider::wrap`] and [`Provider::unwrap`]; [`KeysError::WrongKey`] where what came back
    /// differs.
    pub fn wrap_proved(
        &self,
        id: &EncryptionKeyId,
        context: &WrapContext,
        secret: &ClusterSecret,
        deadline: Deadline,
    ) -> Result<Wrap, KeysError> {
        call(|| {
            let provider = self.provider(id)?;
            let wrap = provider.wrap(id, context, secret, deadline)?;
            let back = provider.unwrap(&wrap, context, deadline)?;
            let same = constant_time_eq(back.bytes(), secret.bytes());
            if same && wrap.key_id == *id {
                Ok(wrap)
            } else {
                Err(KeysError::WrongKey { id: id.clone() })
            }
        })
    }

    /// Opens a wrap.
    ///
    /// # Errors
    /// As [`Provider::unwrap`], and [`Registry::provider`].
    pub fn unwrap(
        &self,
        wrap: &Wrap,
        context: &WrapContext,
        deadline: Deadline,
    ) -> Result<ClusterSecret, KeysError> {
        call(|| self.provider(&wrap.key_id)?.unwrap(wrap, context, deadline))
    }

    /// Whether the key can be used: wraps and unwraps a secret that protects nothing.
    ///
    /// # Errors
    /// As [`Registry::wrap_proved`].
    pub fn test(
        &self,
        id: &EncryptionKeyId,
        deadline: Deadline,
    ) -> Result<KeyDescription, KeysError> {
        let context = WrapContext {
            pool: PoolId(random::array()),
            cluster: ClusterId(random::array()),
            ck_id: 0,
        };
        self.wrap_proved(id, &context, &ClusterSecret::random(), deadline)?;
        self.describe(id, deadline)
    }

    /// What asking for the key behind `wrap` gives. Where the provider has no answer for this very
    /// key (its name unknown or another's), that is an outage, not a revocation.
    #[must_use]
    pub fn answer_for_wrap(&self, wrap: &Wrap, deadline: Deadline) -> KeyAnswer {
        match self.describe_wrap(wrap, deadline) {
            Ok(description) => KeyAnswer::State(description.state),
            Err(error) => error.answer().unwrap_or(KeyAnswer::Unreachable),
        }
    }
}

fn call<T>(run: impl FnOnce() -> Result<T, KeysError>) -> Result<T, KeysError> {
    KEY_CALLS.increment();
    let result = run();
    if result.as_ref().is_err_and(|e| e.problem().exit_status() == 3) {
        KEY_REFUSALS.increment();
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::fake::FakeProvider;
    use std::time::Duration;

    #[test]
    fn unknown_schemes_and_those_of_other_versions_are_told_apart() {
        let mut registry = Registry::new();
        registry.register(Arc::new(FakeProvider::new()));
        let deadline = Deadline::after(Duration::from_secs(1));
        let unknown = "what://is-this".parse().unwrap();
        let error = registry.describe(&unknown, deadline).unwrap_err();
        assert!(matches!(error, KeysError::UnknownScheme { .. }));
        let aws = "awskms:///arn:aws:kms:eu-west-1:1:key/1".parse().unwrap();
        let error = registry.describe(&aws, deadline).unwrap_err();
        assert!(matches!(error, KeysError::SchemeNotAvailable { .. }));
        assert_eq!(error.problem().exit_status(), 2);
        assert!(error.to_string().contains("not available in this version (available: fake)"));
    }

    #[test]
    fn a_provider_that_gives_back_another_secret_is_caught_before_the_wrap_is_used() {
        let fake = Arc::new(FakeProvider::new());
        let mut registry = Registry::new();
        registry.register(fake.clone());
        let id = fake.create("k");
        fake.lie_at_unwrap(true);
        let error = registry.test(&id, Deadline::after(Duration::from_secs(1))).unwrap_err();
        assert!(matches!(error, KeysError::WrongKey { .. }));
    }
}
