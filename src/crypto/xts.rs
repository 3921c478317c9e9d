//! XTS-AES-256 (IEEE 1619-2007) over whole cipher blocks, in batches.
//!
//! The tweaks of a batch are computed first, so that the block cipher sees many independent blocks
//! at once (VAES encrypts sixteen in a step). Ciphertext stealing is left out: every block here is
//! a multiple of 16 bytes.

use aes::Aes256;
use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit, consts::U16};
use zeroize::Zeroize;

type CipherBlock = Array<u8, U16>;

/// Cipher blocks in one batch: 4 KiB.
const BATCH: usize = 256;

/// The two keys of XTS with their schedules. `aes` erases them when dropped.
pub(in crate::crypto) struct Xts {
    data: Aes256,
    tweak: Aes256,
}

/// Multiplies by the primitive element of GF(2^128), as section 5.2 of the standard writes it.
const fn times_alpha(tweak: u128) -> u128 {
    (tweak << 1) ^ ((tweak >> 127) * 0x87)
}

/// XORs each cipher block with the next tweak; returns the tweak that follows.
fn xor_tweaks(blocks: &mut [CipherBlock], mut tweak: u128) -> u128 {
    for block in blocks {
        let value = u128::from_le_bytes(block.0) ^ tweak;
        block.0 = value.to_le_bytes();
        tweak = times_alpha(tweak);
    }
    tweak
}

impl Xts {
    /// With the two halves of an XTS key.
    pub(in crate::crypto) fn new(data: &[u8; 32], tweak: &[u8; 32]) -> Self {
        Self { data: Aes256::new(data.into()), tweak: Aes256::new(tweak.into()) }
    }

    /// Encrypts one data unit in place. `buf` is a whole number of cipher blocks.
    pub(in crate::crypto) fn encrypt(&self, data_unit: u128, buf: &mut [u8]) {
        self.run(data_unit, buf, |cipher, blocks| cipher.encrypt_blocks(blocks));
    }

    /// Decrypts one data unit in place. `buf` is a whole number of cipher blocks.
    pub(in crate::crypto) fn decrypt(&self, data_unit: u128, buf: &mut [u8]) {
        self.run(data_unit, buf, |cipher, blocks| cipher.decrypt_blocks(blocks));
    }

    fn run(&self, data_unit: u128, buf: &mut [u8], cipher: impl Fn(&Aes256, &mut [CipherBlock])) {
        let (blocks, rest) = CipherBlock::slice_as_chunks_mut(buf);
        assert!(rest.is_empty(), "a data unit is a whole number of cipher blocks");
        let mut first = CipherBlock::from(data_unit.to_le_bytes());
        self.tweak.encrypt_block(&mut first);
        let mut tweak = u128::from_le_bytes(first.0);
        for batch in blocks.chunks_mut(BATCH) {
            let next = xor_tweaks(batch, tweak);
            cipher(&self.data, batch);
            xor_tweaks(batch, tweak);
            tweak = next;
        }
        tweak.zeroize();
        first.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
