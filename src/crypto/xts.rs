//! XTS-AES-256 (IEEE 1619-2007) over whole cipher blocks, in batches.
//!
//! The tweaks of a batch are computed first, so that the block cipher sees many independent blocks
//! at once (VAES encrypts sixteen in a step). Ciphertext stealing is left out: every block here is
//! a multiple of 16 bytes.

use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit, consts::U16};
use aes::{Aes256Dec, Aes256Enc};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::base::erase::erase;

type CipherBlock = Array<u8, U16>;

/// Cipher blocks in one batch: 1 KiB, so that filling and erasing the tweaks costs little.
const BATCH: usize = 64;
/// Tweaks that are computed side by side, since each one alone waits for the one before.
const LANES: usize = 8;

/// The two keys of XTS. Each is used for one data unit, so no schedule is kept, and only the
/// direction that is asked for is computed. `aes` erases schedules when they are dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(in crate::crypto) struct Xts {
    data: [u8; 32],
    tweak: [u8; 32],
}

/// Multiplies by the primitive element of GF(2^128), as section 5.2 of the standard writes it.
const fn times_alpha(tweak: u128) -> u128 {
    (tweak << 1) ^ ((tweak >> 127) * 0x87)
}

/// Fills `tweaks` from `first` on; returns the one that follows them.
///
/// The lanes are eight apart, and each step multiplies all of them by the eighth power of the
/// primitive element: the byte shifted out returns times x^7 + x^2 + x + 1. In halves, since no
/// vector unit shifts 128 bits.
fn fill_tweaks(tweaks: &mut [u128], first: u128) -> u128 {
    let (mut low, mut high) = ([0; LANES], [0; LANES]);
    let mut next = first;
    for lane in 0..LANES {
        (low[lane], high[lane]) = (next as u64, (next >> 64) as u64);
        next = times_alpha(next);
    }
    let join = |low: u64, high: u64| u128::from(low) | u128::from(high) << 64;
    let mut chunks = tweaks.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for (lane, tweak) in chunk.iter_mut().enumerate() {
            *tweak = join(low[lane], high[lane]);
        }
        for lane in 0..LANES {
            let out = high[lane] >> 56;
            high[lane] = (high[lane] << 8) | (low[lane] >> 56);
            low[lane] = (low[lane] << 8) ^ out ^ (out << 1) ^ (out << 2) ^ (out << 7);
        }
    }
    let rest = chunks.into_remainder();
    for (lane, tweak) in rest.iter_mut().enumerate() {
        *tweak = join(low[lane], high[lane]);
    }
    join(low[rest.len()], high[rest.len()])
}

fn xor(blocks: &mut [CipherBlock], tweaks: &[u128]) {
    for (block, tweak) in blocks.iter_mut().zip(tweaks) {
        block.0 = (u128::from_le_bytes(block.0) ^ tweak).to_le_bytes();
    }
}

impl Xts {
    /// With the two halves of an XTS key.
    pub(in crate::crypto) const fn new(data: &[u8; 32], tweak: &[u8; 32]) -> Self {
        Self { data: *data, tweak: *tweak }
    }

    /// Encrypts one data unit in place. `buf` is a whole number of cipher blocks.
    pub(in crate::crypto) fn encrypt(&self, data_unit: u128, buf: &mut [u8]) {
        let cipher = Aes256Enc::new((&self.data).into());
        self.run(data_unit, buf, |blocks| cipher.encrypt_blocks(blocks));
    }

    /// Decrypts one data unit in place. `buf` is a whole number of cipher blocks.
    pub(in crate::crypto) fn decrypt(&self, data_unit: u128, buf: &mut [u8]) {
        let cipher = Aes256Dec::new((&self.data).into());
        self.run(data_unit, buf, |blocks| cipher.decrypt_blocks(blocks));
    }

    fn run(&self, data_unit: u128, buf: &mut [u8], cipher: impl Fn(&mut [CipherBlock])) {
        let (blocks, rest) = CipherBlock::slice_as_chunks_mut(buf);
        assert!(rest.is_empty(), "a data unit is a whole number of cipher blocks");
        let mut first = CipherBlock::from(data_unit.to_le_bytes());
        Aes256Enc::new((&self.tweak).into()).encrypt_block(&mut first);
        let mut next = u128::from_le_bytes(first.0);
        let mut tweaks = [0; BATCH];
        for batch in blocks.chunks_mut(BATCH) {
            let tweaks = &mut tweaks[..batch.len()];
            next = fill_tweaks(tweaks, next);
            xor(batch, tweaks);
            cipher(batch);
            xor(batch, tweaks);
        }
        erase(&mut tweaks);
        first.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aes::Aes256;
    use proptest::prelude::*;
    use xts_mode::{Xts128, get_tweak_default};

    proptest! {
        /// Against another implementation, over batch borders and any data unit.
        #[test]
        fn agrees_with_xts_mode(
            keys in any::<[[u8; 32]; 2]>(),
            unit in any::<u128>(),
            blocks in prop_oneof![1..20usize, 250..260usize, 510..515usize, Just(1024)],
            seed in any::<u8>(),
        ) {
            let plain: Vec<u8> =
                (0..blocks * 16).map(|i| (i % 253) as u8 ^ (i / 253) as u8 ^ seed).collect();
            let oracle = Xts128::new(Aes256::new(&keys[0].into()), Aes256::new(&keys[1].into()));
            let mut expected = plain.clone();
            oracle.encrypt_sector(&mut expected, get_tweak_default(unit));
            let ours = Xts::new(&keys[0], &keys[1]);
            let mut buf = plain.clone();
            ours.encrypt(unit, &mut buf);
            prop_assert_eq!(&buf, &expected);
            ours.decrypt(unit, &mut buf);
            prop_assert_eq!(&buf, &plain);
        }
    }
}
