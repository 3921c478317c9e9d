//! What a provider of customer keys must do: say what state a key is in, wrap and unwrap.
//!
//! Providers are called synchronously, with a deadline, by threads that hold no lock. They never
//! guess: a state is reported only where the owner of the key answered with one, `Denied` where it
//! refused, `Unreachable` where no answer came. The suite in `conformance.rs` says the
//! same as tests, and every provider runs it.

use crate::base::{EncryptionKeyId, KeyState, Timestamp};
use crate::crypto::{ClusterSecret, Wrap, WrapContext};
use crate::keys::deadline::Deadline;
use crate::keys::error::KeysError;

/// Random bytes, or a digest of a provider's own, that tell two keys of one name apart.
pub type Fingerprint = [u8; 16];

/// What a provider says of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDescription {
    /// The key as it was asked for.
    pub id: EncryptionKeyId,
    /// Its state.
    pub state: KeyState,
    /// Key and version that new wraps would be made under.
    pub resolved: String,
    /// Number of that version, from 1; 0 where the provider has none.
    pub version: u32,
    /// Which key it is, whatever it is called.
    pub fingerprint: Fingerprint,
    /// When it was made, where the provider tells.
    pub created_at: Option<Timestamp>,
    /// When it will be deleted, while that is pending; or when it was.
    pub deletion_at: Option<Timestamp>,
}

/// A source of customer keys, named by the scheme of its Encryption Key IDs.
pub trait Provider: Send + Sync {
    /// What stands before the colon of its Encryption Key IDs.
    fn scheme(&self) -> &'static str;

    /// The key that `id` names now. A key that was deleted is described so, where the provider
    /// still knows of it.
    ///
    /// # Errors
    /// [`KeysError::NotFound`], [`KeysError::Denied`], [`KeysError::Unreachable`]; never
    /// [`KeysError::State`].
    fn describe(
        &self,
        id: &EncryptionKeyId,
        deadline: Deadline,
    ) -> Result<KeyDescription, KeysError>;

    /// The very key that made `wrap`, even where its name has been given to another since.
    ///
    /// # Errors
    /// As [`Provider::describe`]; [`KeysError::AnotherKey`] where the name stands for another key
    /// and this one is not known.
    fn describe_wrap(&self, wrap: &Wrap, deadline: Deadline) -> Result<KeyDescription, KeysError>;

    /// Wraps a cluster key's secret for one context.
    ///
    /// # Errors
    /// [`KeysError::State`] where the key is not enabled, and as [`Provider::describe`].
    fn wrap(
        &self,
        id: &EncryptionKeyId,
        context: &WrapContext,
        secret: &ClusterSecret,
        deadline: Deadline,
    ) -> Result<Wrap, KeysError>;

    /// Opens a wrap, by the key and version that made it.
    ///
    /// # Errors
    /// As [`Provider::describe_wrap`]; [`KeysError::State`] where the key is not enabled;
    /// [`KeysError::WrongKey`] for another context; [`KeysError::CorruptWrap`]
    fn unwrap(
        &self,
        wrap: &Wrap,
        context: &WrapContext,
        deadline: Deadline,
    ) -> Result<ClusterSecret, KeysError>;
}
