//! The wrapped engine key as it stands in the clear part of a superblock slot.
//!
//! ```text
//! kind u8 | with kdf u8 (0 or 1) | zero u16 | [kdf id u32 | memory KiB u32 | passes u32 | lanes u32
//! | salt 32] | name (length u32, UTF-8) | sealed (length u32, bytes)
//! ```
//! `sealed` is `seal(KEK, "engine", AD, EK)` with `AD = pool id 16 | suite u32 | kdf id u32 |
//! memory KiB u32 | passes u32 | lanes u32 | salt 32`, the last five zero without a passphrase. Kind and name are labels that help to choose: what they say is not needed to open.

use std::fmt;

use crate::base::PoolId;
use crate::base::cursor::{DecodeError, Reader, Writer};
use crate::crypto::passphrase::KdfParams;
use crate::crypto::{SEAL_OVERHEAD, SUITE};

/// Where the root secret that opens a wrap is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EngineWrapKind {
    /// In a key file.
    File,
    /// In somebody's memory: derived from a passphrase.
    Passphrase,
    /// In a systemd credential.
    Credential,
    /// On paper: the recovery key.
    Recovery,
}

impl EngineWrapKind {
    /// As written in tables and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Passphrase => "passphrase",
            Self::Credential => "credential",
            Self::Recovery => "recovery",
        }
    }
    const fn code(self) -> u8 {
        match self {
            Self::File => 1,
            Self::Passphrase => 2,
            Self::Credential => 3,
            Self::Recovery => 4,
        }
    }
    const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::File,
            2 => Self::Passphrase,
            3 => Self::Credential,
            4 => Self::Recovery,
            _ => return None,
        })
    }
}

impl fmt::Display for EngineWrapKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One wrap of the engine key; any one of a slot's wraps opens the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineWrap {
    /// Where its root secret is kept.
    pub kind: EngineWrapKind,
    /// Path of the key file (empty: its usual place in the configuration directory), name of the
    /// credential; empty for a passphrase or recovery key. At most 128 bytes.
    pub name: String,
    /// Parameters of the passphrase function, where the root secret is derived from one.
    pub kdf: Option<KdfParams>,
    /// The sealed engine key, 112 bytes.
    pub sealed: Vec<u8>,
}

impl EngineWrap {
    /// Most bytes in a wrap's name.
    pub const NAME_BYTES_MAX: usize = 128;
    /// Bytes of the sealed engine key.
    pub const SEALED_BYTES: usize = 32 + SEAL_OVERHEAD;
    /// Most bytes that [`EngineWrap::encode`] writes.
    pub const BYTES_MAX: usize =
        4 + KdfParams::ENCODED_BYTES + 4 + Self::NAME_BYTES_MAX + 4 + Self::SEALED_BYTES;

    /// Appends the wrap.
    pub fn encode(&self, out: &mut Writer) {
        debug_assert!(self.name.len() <= Self::NAME_BYTES_MAX);
        out.u8(self.kind.code()).u8(u8::from(self.kdf.is_some())).u16(0);
        if let Some(kdf) = &self.kdf {
            kdf.encode(out);
        }
        out.sized(self.name.as_bytes()).sized(&self.sealed);
    }

    /// Reads one wrap.
    ///
    /// # Errors
    /// [`DecodeError`] where a field holds what no writer puts there.
    pub fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let kind =
            EngineWrapKind::from_code(from.u8()?).ok_or(DecodeError::Field("root secret kind"))?;
        let with_kdf = match from.u8()? {
            0 => false,
            1 => true,
            _ => return Err(DecodeError::Field("kdf")),
        };
        if from.u16()? != 0 {
            return Err(DecodeError::Reserved);
        }
        let kdf = if with_kdf { Some(KdfParams::decode(from)?) } else { None };
        let name = from.text(Self::NAME_BYTES_MAX)?.to_owned();
        let sealed = from.sized(Self::SEALED_BYTES)?.to_vec();
        if sealed.len() != Self::SEALED_BYTES {
            return Err(DecodeError::Field("sealed engine key"));
        }
        Ok(Self { kind, name, kdf, sealed })
    }

    /// The associated data that the engine key is sealed with: fixed width, so injective.
    #[must_use]
    pub fn associated_data(pool: &PoolId, kdf: Option<&KdfParams>) -> Vec<u8> {
        let mut ad = Writer::new();
        ad.bytes(pool.as_bytes()).u32(SUITE);
        match kdf {
            Some(kdf) => kdf.encode(&mut ad),
            None => {
                ad.bytes(&[0; KdfParams::ENCODED_BYTES]);
            }
        }
        ad.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrap(kdf: Option<KdfParams>) -> EngineWrap {
        EngineWrap {
            kind: EngineWrapKind::Passphrase,
            name: "n".repeat(EngineWrap::NAME_BYTES_MAX),
            kdf,
            sealed: vec![7; EngineWrap::SEALED_BYTES],
        }
    }

    #[test]
    fn wraps_round_trip_within_their_bound_and_every_prefix_is_refused() {
        let kdf = KdfParams { memory_kib: 1, passes: 2, lanes: 3, salt: [4; 32] };
        for wrap in [wrap(None), wrap(Some(kdf))] {
            let mut out = Writer::new();
            wrap.encode(&mut out);
            let bytes = out.into_bytes();
            assert!(bytes.len() <= EngineWrap::BYTES_MAX);
            assert_eq!(EngineWrap::decode(&mut Reader::new(&bytes)).unwrap(), wrap);
            for cut in 0..bytes.len() {
                assert!(EngineWrap::decode(&mut Reader::new(&bytes[..cut])).is_err());
            }
        }
    }

    #[test]
    fn associated_data_tells_pools_and_parameters_apart() {
        let kdf = KdfParams { memory_kib: 1, passes: 2, lanes: 3, salt: [4; 32] };
        let (a, b) = (PoolId([1; 16]), PoolId([2; 16]));
        let all = [
            EngineWrap::associated_data(&a, None),
            EngineWrap::associated_data(&b, None),
            EngineWrap::associated_data(&a, Some(&kdf)),
        ];
        assert!(all.iter().all(|x| x.len() == all[0].len()));
        assert!(all[0] != all[1] && all[0] != all[2]);
    }
}
