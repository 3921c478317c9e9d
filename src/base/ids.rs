//! Identities: pools and clusters (128 bits, random), snapshots (64 bits, random), cluster names.

use std::fmt;
use std::str::FromStr;

use crate::base::limits;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    let mut out = [0u8; N];
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(out)
}

macro_rules! id128 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);
        impl $name {
            /// The bytes as they stand on disk.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), hex(&self.0))
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                unhex(text).map(Self).ok_or_else(|| IdError::Malformed(text.to_owned()))
            }
        }
    };
}

id128!(
    /// Identity of a pool; also the name of its folder in the configuration directory.
    PoolId
);
id128!(
    /// Identity of a cluster; names can be used again, identities cannot.
    ClusterId
);

/// Identity of a snapshot, shown as `snap-` and 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(pub u64);

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "snap-{:016x}", self.0)
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SnapshotId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let digits = text
            .strip_prefix("snap-")
            .filter(|d| d.len() == 16 && d.bytes().all(|b| b.is_ascii_hexdigit()))
            .ok_or_else(|| IdError::Malformed(text.to_owned()))?;
        u64::from_str_radix(digits, 16).map(Self).map_err(|_| IdError::Malformed(text.to_owned()))
    }
}

/// A prefix of a snapshot id, of 4 digits or more, as people type them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotPrefix(String);

impl SnapshotPrefix {
    /// Whether `id` begins with this prefix.
    #[must_use]
    pub fn matches(&self, id: SnapshotId) -> bool {
        id.to_string().starts_with(&self.0)
    }
}

impl fmt::Display for SnapshotPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SnapshotPrefix {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let lower = text.to_ascii_lowercase();
        match lower.strip_prefix("snap-") {
            Some(d) if (4..=16).contains(&d.len()) && d.bytes().all(|b| b.is_ascii_hexdigit()) => {
                Ok(Self(lower))
            }
            _ => Err(IdError::SnapshotPrefix(text.to_owned())),
        }
    }
}

/// A cluster's name: 1 to 64 of `[a-z0-9._-]`, the first a letter or digit, not beginning `snap-`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName(String);

impl ClusterName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for ClusterName {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let first_ok =
            text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let rest_ok = text.bytes().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-')
        });
        if !first_ok || !rest_ok || text.len() > limits::CLUSTER_NAME_BYTES_MAX {
            return Err(IdError::ClusterName(text.to_owned()));
        }
        if text.starts_with("snap-") {
            return Err(IdError::LooksLikeSnapshot(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Why a text is no id or name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdError {
    /// Not the right number of hexadecimal digits.
    #[error("'{0}' is not an id")]
    Malformed(String),
    /// Not a snapshot id or a prefix of one.
    #[error("'{0}' is not a snapshot id: snap- and 4 to 16 hexadecimal digits")]
    SnapshotPrefix(String),
    /// Not a cluster name.
    #[error("'{0}' is not a cluster name: 1 to 64 of a-z 0-9 . _ -, the first a letter or digit")]
    ClusterName(String),
    /// A cluster name that would be taken for a snapshot.
    #[error("'{0}' is not a cluster name: names beginning snap- are taken for snapshots")]
    LooksLikeSnapshot(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshot_ids_round_trip_and_prefixes_match() {
        let id = SnapshotId(0x00ab_cdef_0123_4567);
        assert_eq!(id.to_string(), "snap-00abcdef01234567");
        assert_eq!(id.to_string().parse::<SnapshotId>().unwrap(), id);
        assert!("snap-00AB".parse::<SnapshotPrefix>().unwrap().matches(id));
        assert!("snap-00a".parse::<SnapshotPrefix>().is_err());
        assert!("snap-+0abcdef01234567".parse::<SnapshotId>().is_err());
    }

    #[test]
    fn cluster_names_follow_the_rule() {
        for good in ["db", "a.b_c-1", "0"] {
            assert!(good.parse::<ClusterName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "A", "a/b", "snap-1234", "\u{e4}", &"a".repeat(65)] {
            assert!(bad.parse::<ClusterName>().is_err(), "{bad}");
        }
    }
}
