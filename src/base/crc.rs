//! CRC-32C (Castagnoli, RFC 3720 appendix B.4): against rot and torn writes, never against an
//! adversary.

/// Checksum of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    ::crc32c::crc32c(bytes)
}

/// Checksum of each 4 KiB block of `bytes`, whose length is a multiple of that.
#[must_use]
pub fn crc32c_blocks(bytes: &[u8]) -> Vec<u32> {
    debug_assert_eq!(bytes.len() % crate::base::BLOCK_SIZE, 0);
    bytes.chunks_exact(crate::base::BLOCK_SIZE).map(crc32c).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_check_value_of_the_standard() {
        assert_eq!(super::crc32c(b"123456789"), 0xe306_9283);
    }
}
