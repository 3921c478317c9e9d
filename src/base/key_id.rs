//! Encryption Key IDs: URIs that name a customer key, the provider in the scheme.

use std::fmt;
use std::str::FromStr;

use crate::base::limits;

/// The name of a customer key: `local://NAME`, `awskms:///arn:...` and so on. A bare `NAME` means
/// `local://NAME`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EncryptionKeyId(String);

impl EncryptionKeyId {
    /// The whole URI.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The provider: what stands before the first colon.
    #[must_use]
    pub fn scheme(&self) -> &str {
        self.0.split(':').next().unwrap_or_default()
    }
    /// Name of a key in the embedded keyring, where this is one.
    #[must_use]
    pub fn local_name(&self) -> Option<&str> {
        self.0.strip_prefix("local://")
    }
}

impl fmt::Display for EncryptionKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EncryptionKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Why a text is no Encryption Key ID.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyIdError {
    /// Empty, too long, or with bytes that no URI has.
    #[error(
        "'{0}' is not an Encryption Key ID: a URI such as local://NAME, at most 2048 printable ASCII characters"
    )]
    Malformed(String),
    /// A local name outside the rule.
    #[error("'{0}' is not a local key name: 1 to 64 of a-z 0-9 . _ -, the first a letter or digit")]
    LocalName(String),
}

impl FromStr for EncryptionKeyId {
    type Err = KeyIdError;
    fn from_str(text: &str) -> Result<Self, KeyIdError> {
        let malformed = || KeyIdError::Malformed(text.chars().take(80).collect());
        if text.is_empty()
            || text.len() > limits::KEY_ID_BYTES_MAX
            || !text.bytes().all(|b| b.is_ascii_graphic())
        {
            return Err(malformed());
        }
        let Some((scheme, rest)) = text.split_once(':') else {
            return local(text);
        };
        let scheme_ok = scheme.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
            && scheme
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
        if !scheme_ok || rest.is_empty() {
            return Err(malformed());
        }
        if scheme == "local" {
            return local(rest.strip_prefix("//").ok_or_else(malformed)?);
        }
        Ok(Self(text.to_owned()))
    }
}

fn local(name: &str) -> Result<EncryptionKeyId, KeyIdError> {
    let first_ok =
        name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let rest_ok = name
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'));
    if first_ok && rest_ok && name.len() <= limits::CLUSTER_NAME_BYTES_MAX {
        Ok(EncryptionKeyId(format!("local://{name}")))
    } else {
        Err(KeyIdError::LocalName(name.chars().take(80).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_a_local_key() {
        let id: EncryptionKeyId = "k1".parse().unwrap();
        assert_eq!(id.as_str(), "local://k1");
        assert_eq!(id.scheme(), "local");
        assert_eq!(id.local_name(), Some("k1"));
        assert_eq!("local://k1".parse::<EncryptionKeyId>().unwrap(), id);
    }

    #[test]
    fn bad_ids_are_refused() {
        for bad in ["", "local:k", "local://", "local://A", ":x", "a b", "K", "x:"] {
            assert!(bad.parse::<EncryptionKeyId>().is_err(), "{bad}");
        }
    }
}
