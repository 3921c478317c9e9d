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
