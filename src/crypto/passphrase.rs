//! Secrets from passphrases: Argon2id (RFC 9106), with bounds on what a stored record may ask for.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use zeroize::Zeroize;

use crate::base::cursor::{DecodeError, Reader, Writer};
use crate::sys::{SecretBytes, random};

/// Argon2id, version 0x13.
const KDF_ARGON2ID: u32 = 1;
const MEMORY_KIB_MIN: u32 = 64 * 1024;
const MEMORY_KIB_MAX: u32 = 1024 * 1024;
const PASSES_MIN: u32 = 3;
const PASSES_MAX: u32 = 16;

/// How a passphrase becomes a secret. Stands beside what the secret seals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KdfParams {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
    /// Random, new at each change of the passphrase.
    pub salt: [u8; 32],
}

/// Why a passphrase gives no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KdfError {
    /// Below what any writer stores: 64 MiB, 3 passes, 1 lane.
    #[error("the passphrase parameters are weaker than any that are written")]
    TooWeak,
    /// Above what is tried on anybody's word: 1 GiB, 16 passes.
    #[error("the passphrase parameters ask for more than 1 GiB of memory or 16 passes")]
    TooCostly,
    /// The memory cannot be had.
    #[error("{0} MiB of memory for the passphrase cannot be had")]
    Memory(u32),
    /// Longer than 4 GiB.
    #[error("the passphrase is too long")]
    Passphrase,
}

impl KdfParams {
    /// Bytes of the encoded form.
    pub const ENCODED_BYTES: usize = 48;

    /// What is written today: 256 MiB, 3 passes, 1 lane, a new salt.
    #[must_use]
    pub fn new() -> Self {
        Self { memory_kib: 256 * 1024, passes: 3, lanes: 1, salt: random::array() }
    }
    /// The least that is accepted, with a new salt: for machines with little memory, and tests.
    #[must_use]
    pub fn minimal() -> Self {
        Self { memory_kib: MEMORY_KIB_MIN, passes: PASSES_MIN, ..Self::new() }
    }
    /// 48 bytes: kind, memory, passes, lanes (u32 each), salt.
    pub fn encode(&self, out: &mut Writer) {
        out.u32(KDF_ARGON2ID).u32(self.memory_kib).u32(self.passes).u32(self.lanes);
        out.bytes(&self.salt);
    }
    /// From bytes that [`KdfParams::encode`] wrote. Bounds are checked when they are used.
    ///
    /// # Errors
    /// [`DecodeError`]; `Field` for a kind that is not known.
    pub fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if from.u32()? != KDF_ARGON2ID {
            return Err(DecodeError::Field("kdf"));
        }
        Ok(Self {
            memory_kib: from.u32()?,
            passes: from.u32()?,
            lanes: from.u32()?,
            salt: from.array()?,
        })
    }
    fn check(&self) -> Result<(), KdfError> {
        if self.memory_kib > MEMORY_KIB_MAX || self.passes > PASSES_MAX || self.lanes > 1 {
            return Err(KdfError::TooCostly);
        }
        if self.memory_kib < MEMORY_KIB_MIN || self.passes < PASSES_MIN || self.lanes < 1 {
            return Err(KdfError::TooWeak);
        }
        Ok(())
    }
}

impl Default for KdfParams {
    fn default() -> Self {
        Self::new()
    }
}

/// The secret that `passphrase` gives under `params`. Takes most of a second and the memory that
/// `params` name.
///
/// # Errors
/// [`KdfError`]: the bounds are checked before anything is allocated.
pub fn passphrase_secret(
    passphrase: &[u8],
    params: &KdfParams,
) -> Result<SecretBytes<32>, KdfError> {
    params.check()?;
    let costs = Params::new(params.memory_kib, params.passes, params.lanes, Some(32))
        .map_err(|_| KdfError::TooWeak)?;
    let count = costs.block_count();
    let mut memory: Vec<Block> = Vec::new();
    memory.try_reserve_exact(count).map_err(|_| KdfError::Memory(params.memory_kib / 1024))?;
    memory.resize(count, Block::default());
    let mut out = SecretBytes::zeroed();
    let result = Argon2::new(Algorithm::Argon2id, Version::V0x13, costs)
        .hash_password_into_with_memory(passphrase, &params.salt, &mut *out, &mut memory[..]);
    memory.iter_mut().for_each(Zeroize::zeroize);
    result.map_err(|_| KdfError::Passphrase)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_checked_before_any_memory_is_taken() {
        let good = KdfParams::minimal();
        let weak = [
            KdfParams { memory_kib: MEMORY_KIB_MIN - 1, ..good },
            KdfParams { passes: 2, ..good },
            KdfParams { lanes: 0, ..good },
        ];
        for params in weak {
            assert!(matches!(passphrase_secret(b"p", &params), Err(KdfError::TooWeak)));
        }
        let costly = [
            KdfParams { memory_kib: u32::MAX, ..good },
            KdfParams { passes: 17, ..good },
            KdfParams { lanes: 2, ..good },
        ];
        for params in costly {
            assert!(matches!(passphrase_secret(b"p", &params), Err(KdfError::TooCostly)));
        }
    }

    #[test]
    fn parameters_read_back_and_an_unknown_kind_is_refused() {
        let params = KdfParams::new();
        let mut out = Writer::new();
        params.encode(&mut out);
        let mut bytes = out.into_bytes();
        assert_eq!(bytes.len(), KdfParams::ENCODED_BYTES);
        assert_eq!(KdfParams::decode(&mut Reader::new(&bytes)), Ok(params));
        assert_eq!(KdfParams::decode(&mut Reader::new(&bytes[..47])), Err(DecodeError::Short));
        bytes[0] = 2;
        assert_eq!(KdfParams::decode(&mut Reader::new(&bytes)), Err(DecodeError::Field("kdf")));
    }
}
