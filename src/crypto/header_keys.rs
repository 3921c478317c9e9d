//! The keys of a header: what a cluster's head, and each snapshot, keeps to open its root.
//!
//! ```text
//! ck id u32 | salt 32 | wraps u8 | plain u8 (0 or 1) | zero u16 | [W 32] | wraps
//! ```
//! Either there are wraps of W, any one of which opens it, or W itself stands here ("Not enabled"),
//! protected by the engine layer alone. Never both, never neither.

use zeroize::{Zeroize, Zeroizing};

use crate::base::EncryptionKeyId;
use crate::base::cursor::{DecodeError, Reader, Writer};
use crate::base::limits::HEADER_WRAPS_MAX;
use crate::crypto::{ClusterSecret, HeaderSalt, Wrap};

/// The key part of a header. `keys` makes and opens it, `catalog` stores it.
pub struct HeaderKeys {
    /// Wraps of W under customer keys; empty: no customer key.
    pub wraps: Vec<Wrap>,
    /// W itself, where there is no customer key.
    pub plain: Option<ClusterSecret>,
    /// Z, the salt that no provider ever sees.
    pub salt: HeaderSalt,
    /// Version of the cluster key, counted within the cluster or header.
    pub ck_id: u32,
}

impl HeaderKeys {
    /// The first wrap's Encryption Key ID; `None`: not enabled.
    #[must_use]
    pub fn encryption_key_id(&self) -> Option<&EncryptionKeyId> {
        self.wraps.first().map(|w| &w.key_id)
    }

    /// A copy: a snapshot's header holds its own.
    #[must_use]
    pub fn dup(&self) -> Self {
        Self {
            wraps: self.wraps.clone(),
            plain: self.plain.as_ref().map(ClusterSecret::dup),
            salt: self.salt,
            ck_id: self.ck_id,
        }
    }

    /// Appends the keys.
    pub fn encode(&self, out: &mut Writer) {
        debug_assert!(self.wraps.is_empty() == self.plain.is_some());
        debug_assert!(self.wraps.len() <= HEADER_WRAPS_MAX);
        out.u32(self.ck_id).bytes(&self.salt.0);
        out.u8(self.wraps.len() as u8).u8(u8::from(self.plain.is_some())).u16(0);
        if let Some(plain) = &self.plain {
            out.bytes(plain.bytes());
        }
        for wrap in &self.wraps {
            wrap.encode(out);
        }
    }

    /// Reads the keys of one header.
    ///
    /// # Errors
    /// [`DecodeError`]; also where there are both wraps and a plain key, or neither.
    pub fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let ck_id = from.u32()?;
        let salt = HeaderSalt(from.array()?);
        let count = usize::from(from.u8()?);
        let plain = from.u8()?;
        if count > HEADER_WRAPS_MAX {
            return Err(DecodeError::Field("wraps"));
        }
        if plain > 1 || (plain == 1) != (count == 0) {
            return Err(DecodeError::Field("plain key"));
        }
        if from.u16()? != 0 {
            return Err(DecodeError::Reserved);
        }
        let plain = if plain == 1 { Some(read_plain(from)?) } else { None };
        let wraps = (0..count).map(|_| Wrap::decode(from)).collect::<Result<_, _>>()?;
        Ok(Self { wraps, plain, salt, ck_id })
    }
}

fn read_plain(from: &mut Reader<'_>) -> Result<ClusterSecret, DecodeError> {
    let mut bytes = Zeroizing::new(from.array::<32>()?);
    let secret = ClusterSecret::from_bytes(&bytes);
    bytes.zeroize();
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::str::FromStr;

    fn wrap() -> Wrap {
        Wrap {
            key_id: EncryptionKeyId::from_str("k1").unwrap(),
            resolved: "local://k1#1".to_owned(),
            key_version: 1,
            fingerprint: [3; 16],
            wrapped: vec![4; 112],
        }
    }

    fn bytes_of(keys: &HeaderKeys) -> Vec<u8> {
        let mut out = Writer::new();
        keys.encode(&mut out);
        out.into_bytes()
    }

    #[test]
    fn keys_of_a_header_round_trip_and_every_prefix_is_refused() {
        let wrapped = HeaderKeys {
            wraps: vec![wrap(), wrap()],
            plain: None,
            salt: HeaderSalt([5; 32]),
            ck_id: 7,
        };
        let plain = HeaderKeys {
            wraps: Vec::new(),
            plain: Some(ClusterSecret::from_bytes(&[6; 32])),
            salt: HeaderSalt([5; 32]),
            ck_id: 8,
        };
        for keys in [wrapped, plain] {
            let bytes = bytes_of(&keys);
            let back = HeaderKeys::decode(&mut Reader::new(&bytes)).unwrap();
            assert_eq!(bytes_of(&back), bytes);
            assert_eq!(bytes_of(&keys.dup()), bytes);
            for cut in 0..bytes.len() {
                assert!(HeaderKeys::decode(&mut Reader::new(&bytes[..cut])).is_err());
            }
        }
    }

    #[test]
    fn wraps_and_a_plain_key_exclude_each_other() {
        let plain = HeaderKeys {
            wraps: Vec::new(),
            plain: Some(ClusterSecret::random()),
            salt: HeaderSalt([5; 32]),
            ck_id: 8,
        };
        let mut neither = bytes_of(&plain);
        neither[37] = 0;
        assert!(HeaderKeys::decode(&mut Reader::new(&neither)).is_err());
        let mut both = bytes_of(&plain);
        both[36] = 1;
        assert!(HeaderKeys::decode(&mut Reader::new(&both)).is_err());
    }
}
