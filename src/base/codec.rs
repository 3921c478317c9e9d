//! The one way in and out of `bincode`: little-endian, fixed integers, a limit, no trailing bytes.
//!
//! For private state of background jobs and stored policies only (docs/decisions). On-disk
//! structures are fixed layouts over [`crate::base::cursor`].

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest record that is decoded, in bytes.
pub const RECORD_BYTES_MAX: usize = 64 * 1024;

/// A record that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Not a record of this type.
    #[error("a stored record cannot be read: {0}")]
    Decode(#[from] bincode::error::DecodeError),
    /// Too large, or of a shape that the codec refuses.
    #[error("a record cannot be stored: {0}")]
    Encode(#[from] bincode::error::EncodeError),
    /// Bytes follow the record.
    #[error("a stored record has bytes behind its end")]
    Trailing,
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard()
        .with_little_endian()
        .with_fixed_int_encoding()
        .with_limit::<RECORD_BYTES_MAX>()
}

/// The record's bytes.
///
/// # Errors
/// [`CodecError::Encode`]
pub fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, CodecError> {
    Ok(bincode::serde::encode_to_vec(record, config())?)
}

/// The record that `bytes` hold, and nothing else.
///
/// # Errors
/// [`CodecError::Decode`], [`CodecError::Trailing`]
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let (record, used) = bincode::serde::decode_from_slice(bytes, config())?;
    if used == bytes.len() { Ok(record) } else { Err(CodecError::Trailing) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_and_trailing_bytes_refused() {
        let bytes = encode(&(7u32, "ab".to_owned())).unwrap();
        assert_eq!(bytes, [7, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, b'a', b'b']);
        assert_eq!(decode::<(u32, String)>(&bytes).unwrap(), (7, "ab".to_owned()));
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(matches!(decode::<(u32, String)>(&longer), Err(CodecError::Trailing)));
        assert!(
            decode::<(u32, String)>(&[7, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255]).is_err()
        );
    }
}
