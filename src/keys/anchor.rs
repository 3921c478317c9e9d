//! The anchor: what was last seen of a pool and its keyring, kept where neither of them is.
//!
//! ```text
//! magic 16 | pool id 16 | incarnation u64 | generation u64 | keyring version u64 | HMAC-SHA-256
//! ```
//! under a key that the engine key gives. A side that is older than the anchor was put back. Both
//! put back together are not found out, nor is root.

use std::path::Path;

use crate::base::cursor::{DecodeError, Reader, Writer};
use crate::base::{Generation, PoolId};
use crate::crypto::EngineKey;
use crate::crypto::{anchor_key, constant_time_eq, hmac_sha256};
use crate::keys::config::{read_private, write_private};
use crate::keys::error::KeysError;
use crate::sys::SecretBytes;

const MAGIC: &[u8; 16] = b"\x89SRanchor\r\n\x1a\n\0\0\0";
const BYTES: usize = 16 + 16 + 24 + 32;

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The pool.
    pub pool: PoolId,
    /// Its incarnation: counts accepted rollbacks.
    pub incarnation: u64,
    /// Its last generation.
    pub generation: Generation,
    /// The keyring's version; 0 without a keyring.
    pub keyring_version: u64,
}

/// The key that an anchor is authenticated with; derived once, so that the engine key need not be
/// kept for it.
pub struct AnchorKey(SecretBytes<32>);

impl AnchorKey {
    /// The key of a pool's anchor.
    #[must_use]
    pub fn of(engine: &EngineKey) -> Self {
        Self(anchor_key(engine))
    }
}

impl Anchor {
    /// The anchor in `path`; `None` where there is none (a lost configuration directory).
    ///
    /// # Errors
    /// [`KeysError::AnchorCorrupt`], [`KeysError::File`]
    pub fn load(path: &Path, pool: &PoolId, key: &AnchorKey) -> Result<Option<Self>, KeysError> {
        let Some(bytes) = read_private(path, BYTES as u64)? else { return Ok(None) };
        let corrupt = || KeysError::AnchorCorrupt { path: path.to_owned() };
        let (body, mac) = bytes.split_last_chunk::<32>().ok_or_else(corrupt)?;
        if !constant_time_eq(&hmac_sha256(&key.0, body), mac) {
            return Err(corrupt());
        }
        let anchor = Self::decode(body).map_err(|_| corrupt())?;
        if anchor.pool == *pool { Ok(Some(anchor)) } else { Err(corrupt()) }
    }

    /// Replaces the anchor in `path`.
    ///
    /// # Errors
    /// [`KeysError::File`]
    pub fn store(&self, path: &Path, key: &AnchorKey) -> Result<(), KeysError> {
        let mut out = Writer::new();
        out.bytes(MAGIC).bytes(self.pool.as_bytes()).u64(self.incarnation);
        out.u64(self.generation.get()).u64(self.keyring_version);
        let mut bytes = out.into_bytes();
        let mac = hmac_sha256(&key.0, &bytes);
        bytes.extend_from_slice(&mac);
        write_private(path, &bytes)
    }

    pub(in crate::keys) fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Reader::new(body);
        if from.array()? != *MAGIC {
            return Err(DecodeError::Field("magic"));
        }
        let anchor = Self {
            pool: PoolId(from.array()?),
            incarnation: from.u64()?,
            generation: from.generation()?,
            keyring_version: from.u64()?,
        };
        from.finish()?;
        Ok(anchor)
    }

    /// That neither the pool nor the keyring is older than this.
    ///
    /// # Errors
    /// [`KeysError::PoolRolledBack`], [`KeysError::KeyringRolledBack`]
    pub fn check(
        &self,
        incarnation: u64,
        generation: Generation,
        keyring_version: u64,
    ) -> Result<(), KeysError> {
        if (incarnation, generation) < (self.incarnation, self.generation) {
            let (found, seen) = (generation.get(), self.generation.get());
            return Err(KeysError::PoolRolledBack { found, seen });
        }
        if keyring_version < self.keyring_version {
            let (found, seen) = (keyring_version, self.keyring_version);
            return Err(KeysError::KeyringRolledBack { found, seen });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: PoolId = PoolId([1; 16]);

    fn anchor() -> Anchor {
        Anchor { pool: POOL, incarnation: 1, generation: Generation(10), keyring_version: 5 }
    }

    #[test]
    fn reads_back_and_refuses_what_was_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("generation");
        let key = AnchorKey::of(&EngineKey::from_bytes(&[7; 32]));
        assert_eq!(Anchor::load(&path, &POOL, &key).unwrap(), None);
        anchor().store(&path, &key).unwrap();
        assert_eq!(Anchor::load(&path, &POOL, &key).unwrap(), Some(anchor()));
        assert!(Anchor::load(&path, &PoolId([2; 16]), &key).is_err());
        let other = AnchorKey::of(&EngineKey::from_bytes(&[8; 32]));
        assert!(Anchor::load(&path, &POOL, &other).is_err());
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, bad).unwrap();
            assert!(Anchor::load(&path, &POOL, &key).is_err(), "byte {at}");
        }
    }

    #[test]
    fn an_older_side_is_found_and_a_newer_one_is_not_minded() {
        let check = |i, g, k| anchor().check(i, Generation(g), k);
        assert!(check(1, 10, 5).is_ok() && check(1, 99, 9).is_ok() && check(2, 1, 5).is_ok());
        assert!(matches!(check(1, 9, 5), Err(KeysError::PoolRolledBack { found: 9, seen: 10 })));
        assert!(matches!(check(0, 99, 5), Err(KeysError::PoolRolledBack { .. })));
        assert!(matches!(check(1, 10, 4), Err(KeysError::KeyringRolledBack { found: 4, seen: 5 })));
    }
}
