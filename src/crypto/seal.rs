//! Sealing: misuse-resistant encryption of a record under a key derived for it alone, with a
//! commitment that tells a wrong key from corrupt bytes.
//!
//! ```text
//! N = 32 random bytes, drawn now
//! Ks(32) | C(32) = HKDF-SHA-256(ikm key, salt N, info L(label) | SHA-256(AD))
//! out = N | C | AES-256-GCM-SIV(Ks, nonce 0, aad "", plain)
//! ```

use aes_gcm_siv::aead::AeadInOut;
use aes_gcm_siv::{Aes256GcmSiv, KeyInit, Nonce, Tag};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::crypto::derive::{expand, sha256};
use crate::crypto::label_bytes;
use crate::sys::random;

const NONCE_BYTES: usize = 32;
const COMMITMENT_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
/// Bytes that sealing adds.
pub const SEAL_OVERHEAD: usize = NONCE_BYTES + COMMITMENT_BYTES + TAG_BYTES;

const _: () = assert!(SEAL_OVERHEAD == 80);

/// Why sealed bytes do not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Sealed under another key, label or context, or the first 64 bytes are damaged.
    #[error("sealed under another key or for another place")]
    WrongKey,
    /// The right key; the bytes are damaged.
    #[error("the sealed bytes are damaged")]
    Corrupt,
    /// Too few bytes to be sealed.
    #[error("the sealed bytes end early")]
    Short,
}

struct Derived {
    cipher: Aes256GcmSiv,
    commitment: [u8; COMMITMENT_BYTES],
}

fn derived(key: &[u8; 32], label: &str, ad: &[u8], nonce: &[u8]) -> Derived {
    let mut out = [0; 64];
    expand(key, nonce, &[&label_bytes(label), &sha256(ad)], &mut out);
    let (mut sealing, mut commitment) = ([0; 32], [0; COMMITMENT_BYTES]);
    sealing.copy_from_slice(&out[..32]);
    commitment.copy_from_slice(&out[32..]);
    let cipher = Aes256GcmSiv::new((&sealing).into());
    out.zeroize();
    sealing.zeroize();
    Derived { cipher, commitment }
}

/// Seals `plain` under `key` for the place that `label` and `ad` name. The result is
/// [`SEAL_OVERHEAD`] bytes longer than `plain`. The bytes of `ad` must be injective: fixed widths,
/// or lengths before what varies.
#[must_use]
pub fn seal(key: &[u8; 32], label: &str, ad: &[u8], plain: &[u8]) -> Vec<u8> {
    seal_with(&random::array(), key, label, ad, plain)
}

/// [`seal`] with a given N, for the golden vectors.
pub(in crate::crypto) fn seal_with(
    nonce: &[u8; NONCE_BYTES],
    key: &[u8; 32],
    label: &str,
    ad: &[u8],
    plain: &[u8],
) -> Vec<u8> {
    Seal {
        nonce: *nonce,
        derived: derived(key, label, ad, nonce),
        #[cfg(any(test, fuzzing))]
        label: label.to_owned(),
    }
    .finish(plain)
}

/// A seal that is begun before its plaintext is known: its commitment depends on key, label,
/// context and N alone, so another record can bind itself to it, and it to that one.
pub struct Seal {
    nonce: [u8; NONCE_BYTES],
    derived: Derived,
    #[cfg(any(test, fuzzing))]
    label: String,
}

impl Seal {
    /// Draws N and derives the sealing key.
    #[must_use]
    pub fn begin(key: &[u8; 32], label: &str, ad: &[u8]) -> Self {
        let nonce = random::array();
        Self {
            nonce,
            derived: derived(key, label, ad, &nonce),
            #[cfg(any(test, fuzzing))]
            label: label.to_owned(),
        }
    }

    /// C, as [`seal_id`] reads it from the finished seal.
    #[must_use]
    pub const fn commitment(&self) -> [u8; COMMITMENT_BYTES] {
        self.derived.commitment
    }

    /// Seals `plain`, as [`seal`] does.
    #[must_use]
    pub fn finish(self, plain: &[u8]) -> Vec<u8> {
        #[cfg(any(test, fuzzing))]
        let plain = &*crate::crypto::liar::record(&self.label, plain);
        let mut out = Vec::with_capacity(plain.len() + SEAL_OVERHEAD);
        out.extend_from_slice(&self.nonce);
        out.extend_from_slice(&self.derived.commitment);
        out.extend_from_slice(plain);
        let body = &mut out[NONCE_BYTES + COMMITMENT_BYTES..];
        let tag = self
            .derived
            .cipher
            .encrypt_inout_detached(&Nonce::default(), b"", body.into())
            .expect("a record is shorter than 64 GiB");
        out.extend_from_slice(&tag);
        out
    }
}

/// Opens what [`seal`] sealed under the same key, label and context.
///
/// # Errors
/// [`OpenError`]: a wrong key is told from damage.
pub fn open(
    key: &[u8; 32],
    label: &str,
    ad: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    let (nonce, rest) = sealed.split_at_checked(NONCE_BYTES).ok_or(OpenError::Short)?;
    let (commitment, rest) = rest.split_at_checked(COMMITMENT_BYTES).ok_or(OpenError::Short)?;
    let (body, tag) = rest.split_last_chunk::<TAG_BYTES>().ok_or(OpenError::Short)?;
    let derived = derived(key, label, ad, nonce);
    if !bool::from(derived.commitment.ct_eq(commitment)) {
        return Err(OpenError::WrongKey);
    }
    let mut plain = Zeroizing::new(body.to_vec());
    derived
        .cipher
        .decrypt_inout_detached(
            &Nonce::default(),
            b"",
            plain.as_mut_slice().into(),
            &Tag::from(*tag),
        )
        .map_err(|_| OpenError::Corrupt)?;
    Ok(plain)
}

/// C of sealed bytes: names this very seal, so that a later record can bind itself to it.
#[must_use]
pub fn seal_id(sealed: &[u8]) -> Option<[u8; COMMITMENT_BYTES]> {
    sealed.get(NONCE_BYTES..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: [u8; 32] = [7; 32];

    #[test]
    fn opens_what_was_sealed_and_never_seals_the_same_twice() {
        for plain in [&b""[..], b"x", &[1; 1000]] {
            let (a, b) = (seal(&KEY, "t", b"ad", plain), seal(&KEY, "t", b"ad", plain));
            assert_eq!(a.len(), plain.len() + SEAL_OVERHEAD);
            assert_ne!(a, b);
            assert_eq!(open(&KEY, "t", b"ad", &a).unwrap()[..], *plain);
        }
    }

    #[test]
    fn another_key_label_or_context_is_a_wrong_key() {
        let sealed = seal(&KEY, "root", b"ad", b"plain");
        let mut other = KEY;
        other[31] ^= 1;
        for (key, label, ad) in [
            (&other, "root", &b"ad"[..]),
            (&KEY, "roo", b"ad"),
            (&KEY, "roota", b"d"),
            (&KEY, "root", b"a"),
            (&KEY, "root", b"ad\0"),
            (&KEY, "root", b""),
        ] {
            assert_eq!(open(key, label, ad, &sealed).unwrap_err(), OpenError::WrongKey);
        }
    }

    /// A flipped bit in N or C cannot be told from a wrong key; behind them it is damage.
    #[test]
    fn every_flipped_bit_and_every_missing_byte_is_refused() {
        let sealed = seal(&KEY, "t", b"ad", b"a plaintext");
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let expected = if bit < 64 * 8 { OpenError::WrongKey } else { OpenError::Corrupt };
            assert_eq!(open(&KEY, "t", b"ad", &bad).unwrap_err(), expected, "bit {bit}");
        }
        for len in 0..sealed.len() {
            let error = open(&KEY, "t", b"ad", &sealed[..len]).unwrap_err();
            let short = len < SEAL_OVERHEAD;
            assert_eq!(error, if short { OpenError::Short } else { OpenError::Corrupt }, "{len}");
        }
        let mut longer = sealed;
        longer.push(0);
        assert_eq!(open(&KEY, "t", b"ad", &longer).unwrap_err(), OpenError::Corrupt);
    }

    #[test]
    fn a_commitment_is_known_before_the_plaintext() {
        let begun = Seal::begin(&KEY, "t", b"ad");
        let commitment = begun.commitment();
        let sealed = begun.finish(b"later");
        assert_eq!(seal_id(&sealed), Some(commitment));
        assert_eq!(open(&KEY, "t", b"ad", &sealed).unwrap()[..], *b"later");
        assert_eq!(seal_id(&sealed[..63]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(open(&KEY, "t", b"", &bytes).is_err());
        }
    }
}
