//! The record of a wrapped key: which customer key wrapped it, and for what.

use crate::base::cursor::{DecodeError, Reader, Writer};
use crate::base::{ClusterId, EncryptionKeyId, PoolId, limits};

/// Bytes of a customer key's fingerprint.
pub const FINGERPRINT_BYTES: usize = 16;
/// Bytes a key provider may return as a wrapped key (AWS KMS: up to 6144).
pub const WRAPPED_BYTES_MAX: usize = 8192;
/// Bytes of one encoded wrap, at most.
const RECORD_BYTES_MAX: usize = 2 * limits::KEY_ID_BYTES_MAX + WRAPPED_BYTES_MAX + 1024;

/// A cluster secret wrapped by one customer key. `keys` makes and opens it, `catalog` stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrap {
    /// The Encryption Key ID as the customer gave it.
    pub key_id: EncryptionKeyId,
    /// What that resolved to: the key's own name and version, as its provider writes them.
    pub resolved: String,
    /// Version of the key, where the provider counts them; else 0.
    pub key_version: u32,
    /// Tells this key from another of the same name.
    pub fingerprint: [u8; FINGERPRINT_BYTES],
    /// What the provider returned.
    pub wrapped: Vec<u8>,
}

/// What a wrap is bound to, so that it opens for nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrapContext {
    /// The pool.
    pub pool: PoolId,
    /// The cluster whose header holds the wrap.
    pub cluster: ClusterId,
    /// The version of that cluster's key.
    pub ck_id: u32,
}

impl WrapContext {
    /// 36 bytes: pool, cluster, version (u32).
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 36] {
        let mut out = [0; 36];
        out[..16].copy_from_slice(self.pool.as_bytes());
        out[16..32].copy_from_slice(self.cluster.as_bytes());
        out[32..].copy_from_slice(&self.ck_id.to_le_bytes());
        out
    }
    /// Associated data of a wrap by a key of the embedded keyring: its fingerprint, then the
    /// context.
    #[must_use]
    pub fn local_ad(&self, fingerprint: &[u8; FINGERPRINT_BYTES]) -> [u8; 52] {
        let mut out = [0; 52];
        out[..16].copy_from_slice(fingerprint);
        out[16..].copy_from_slice(&self.to_bytes());
        out
    }
}

impl Wrap {
    /// Appends the record: its length (u32), then id and resolved name (each with its length),
    /// version (u32), fingerprint, wrapped bytes (with their length); extension fields may follow.
    pub fn encode(&self, out: &mut Writer) {
        let mut body = Writer::new();
        body.sized(self.key_id.as_str().as_bytes());
        body.sized(self.resolved.as_bytes());
        body.u32(self.key_version).bytes(&self.fingerprint).sized(&self.wrapped);
        out.sized(&body.into_bytes());
    }
    /// Reads one record.
    ///
    /// # Errors
    /// [`DecodeError`]
    pub fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut body = Reader::new(from.sized(RECORD_BYTES_MAX)?);
        let wrap = Self {
            key_id: body
                .text(limits::KEY_ID_BYTES_MAX)?
                .parse()
                .map_err(|_| DecodeError::Field("key id"))?,
            resolved: body.text(limits::KEY_ID_BYTES_MAX)?.to_owned(),
            key_version: body.u32()?,
            fingerprint: body.array()?,
            wrapped: body.sized(WRAPPED_BYTES_MAX)?.to_vec(),
        };
        body.extensions(|_, _| Ok(false))?;
        Ok(wrap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wrap() -> Wrap {
        Wrap {
            key_id: "local://k1".parse().unwrap(),
            resolved: "local://k1#1".to_owned(),
            key_version: 1,
            fingerprint: [3; 16],
            wrapped: vec![4; 112],
        }
    }

    fn encoded(wrap: &Wrap) -> Vec<u8> {
        let mut out = Writer::new();
        wrap.encode(&mut out);
        out.into_bytes()
    }

    #[test]
    fn a_wrap_reads_back_and_its_parts_do_not_run_together() {
        let bytes = encoded(&wrap());
        let mut reader = Reader::new(&bytes);
        assert_eq!(Wrap::decode(&mut reader), Ok(wrap()));
        assert_eq!(reader.finish(), Ok(()));
        for len in 0..bytes.len() {
            assert!(Wrap::decode(&mut Reader::new(&bytes[..len])).is_err(), "{len}");
        }
        let moved = Wrap {
            key_id: "local://k1x".parse().unwrap(),
            resolved: "local://k1#".into(),
            ..wrap()
        };
        assert_ne!(encoded(&moved), bytes);
    }

    #[test]
    fn contexts_that_differ_give_different_bytes() {
        let context = |pool, cluster, ck_id| WrapContext {
            pool: PoolId([pool; 16]),
            cluster: ClusterId([cluster; 16]),
            ck_id,
        };
        let all = [context(1, 2, 3), context(2, 1, 3), context(1, 2, 4), context(1, 1, 3)];
        for (i, a) in all.iter().enumerate() {
            for b in &all[i + 1..] {
                assert_ne!(a.to_bytes(), b.to_bytes());
                assert_ne!(a.local_ad(&[0; 16]), b.local_ad(&[0; 16]));
            }
            assert_ne!(a.local_ad(&[0; 16]), a.local_ad(&[1; 16]));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(wrap) = Wrap::decode(&mut Reader::new(&bytes)) {
                let again = encoded(&wrap);
                prop_assert_eq!(Wrap::decode(&mut Reader::new(&again)), Ok(wrap));
            }
        }
    }
}
