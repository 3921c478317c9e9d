//! Key derivation: HKDF-SHA-256 (RFC 5869) with labels, and each derivation of the construction by
//! its name.

use hkdf::Hkdf;
use sha2::{Digest, Sha256};

use crate::base::{ClusterId, PoolId};
use crate::crypto::label_bytes;
use crate::crypto::secret::{
    ClusterKey, ClusterSecret, EngineKey, HeaderSalt, KeyringSecret, LogInnerKey, LogOuterKey,
    LogSeed, RootSecret, SlotKey,
};
use crate::sys::SecretBytes;

/// SHA-256 of `bytes`.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Fills `out` by HKDF-SHA-256 with the parts of `info` in a row.
pub(in crate::crypto) fn expand(ikm: &[u8], salt: &[u8], info: &[&[u8]], out: &mut [u8]) {
    let hkdf = Hkdf::<Sha256>::new(Some(salt), ikm);
    hkdf.expand_multi_info(info, out).expect("HKDF-SHA-256 gives up to 8160 bytes");
}

/// HKDF-SHA-256 with info `L(label) | suffix`. An empty salt is the one of zeros (RFC 5869).
#[must_use]
pub fn derive(ikm: &[u8], salt: &[u8], label: &str, suffix: &[u8]) -> SecretBytes<32> {
    let mut out = SecretBytes::zeroed();
    expand(ikm, salt, &[&label_bytes(label), suffix], &mut *out);
    out
}

/// KEK: seals the engine key in a superblock slot's clear part.
#[must_use]
pub fn kek(root: &RootSecret, pool: &PoolId) -> SecretBytes<32> {
    derive(root.bytes(), pool.as_bytes(), "root", b"")
}

/// SK: seals superblock payloads; with the epoch key, where the pool has one.
#[must_use]
pub fn slot_key(engine: &EngineKey, epoch: Option<&[u8; 32]>) -> SlotKey {
    derive(engine.bytes(), epoch.unwrap_or(&[0; 32]), "slot", b"").into()
}

/// CK: seals the roots of one version of a cluster's key.
#[must_use]
pub fn cluster_key(
    secret: &ClusterSecret,
    salt: &HeaderSalt,
    pool: &PoolId,
    cluster: &ClusterId,
    ck_id: u32,
) -> ClusterKey {
    let mut suffix = [0; 36];
    suffix[..16].copy_from_slice(pool.as_bytes());
    suffix[16..32].copy_from_slice(cluster.as_bytes());
    suffix[32..].copy_from_slice(&ck_id.to_le_bytes());
    derive(secret.bytes(), &salt.0, "cluster", &suffix).into()
}

/// LI: seals the inner parts of a cluster's log records in one interval.
#[must_use]
pub fn log_inner_key(seed: &LogSeed, outer: &LogOuterKey, cluster: &ClusterId) -> LogInnerKey {
    derive(seed.bytes(), outer.bytes(), "log-inner", cluster.as_bytes()).into()
}

/// The key of the anchor's HMAC.
#[must_use]
pub fn anchor_key(engine: &EngineKey) -> SecretBytes<32> {
    derive(engine.bytes(), b"", "anchor", b"")
}

/// What seals the keyring's file key.
#[must_use]
pub fn keyring_kek(secret: &KeyringSecret) -> SecretBytes<32> {
    derive(secret.bytes(), b"", "keyring", b"")
}
