//! Types for keys: in secret memory, without `Debug` and `Clone`, named for what they open.

use crate::sys::SecretBytes;

macro_rules! secrets {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        pub struct $name(SecretBytes<32>);

        impl $name {
            /// The key's bytes, by reference into secret memory.
            #[must_use]
            pub fn bytes(&self) -> &[u8; 32] {
                &self.0
            }
            /// From bytes that the caller erases.
            #[must_use]
            pub fn from_bytes(bytes: &[u8; 32]) -> Self {
                Self(SecretBytes::from_bytes(bytes))
            }
            /// A new one, from the kernel's randomness.
            #[must_use]
            pub fn random() -> Self {
                Self(SecretBytes::random())
            }
            /// A second copy in secret memory.
            #[must_use]
            pub fn dup(&self) -> Self {
                Self(self.0.dup())
            }
        }

        impl From<SecretBytes<32>> for $name {
            fn from(bytes: SecretBytes<32>) -> Self {
                Self(bytes)
            }
        }
    )*};
}

secrets! {
    /// RS: what unlocks the engine key on this machine; never in the pool.
    RootSecret;
    /// EK: the pool's own key; used for the slot key and the anchor's MAC only.
    EngineKey;
    /// SK: seals superblock payloads.
    SlotKey;
    /// W: what a customer key wraps, one per version of a cluster's key or per rewrapped header.
    ClusterSecret;
    /// CK: seals a cluster's roots and its log seed.
    ClusterKey;
    /// CL: random per mount; with LO it gives the key of a log's inner parts.
    LogSeed;
    /// LO: random per checkpoint; seals the outer parts of log records.
    LogOuterKey;
    /// LI: seals the inner parts of log records.
    LogInnerKey;
    /// RG: random per opening; seals space ring entries.
    RingKey;
    /// KRS: what opens the embedded keyring.
    KeyringSecret;
    /// KF: seals the keyring's files; new at each deletion.
    KeyringFileKey;
    /// LK: one version of a key in the embedded keyring.
    LocalKey;
    /// Keys the hashes of file names in one cluster's tree.
    NameHashKey;
}

/// Z: drawn with a cluster secret, kept in the header under the engine layer, never sent to a KMS,
/// so that a KMS that remembers W opens nothing. No key by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HeaderSalt(pub [u8; 32]);

impl HeaderSalt {
    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        Self(crate::sys::random::array())
    }
}

impl std::fmt::Debug for HeaderSalt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HeaderSalt(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_keep_their_bytes_and_differ_when_drawn() {
        let key = EngineKey::from_bytes(&[7; 32]);
        assert_eq!(key.dup().bytes(), &[7; 32]);
        assert_ne!(EngineKey::random().bytes(), EngineKey::random().bytes());
        assert_eq!(format!("{:?}", HeaderSalt([1; 32])), "HeaderSalt(..)");
    }
}
