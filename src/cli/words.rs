//! Words of the command line that are more than a text: targets, keys or none, secrets.

use std::path::PathBuf;
use std::str::FromStr;

use crate::base::ids::IdError;
pub use crate::base::ids::SnapshotPrefix;
use crate::base::key_id::KeyIdError;
use crate::base::{ClusterName, EncryptionKeyId};

/// A cluster, a place or a snapshot: an argument with a slash is a path, one beginning `snap-` a
/// snapshot, anything else a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A cluster.
    Cluster(ClusterName),
    /// A place.
    Path(PathBuf),
    /// A snapshot.
    Snapshot(SnapshotPrefix),
}

impl FromStr for Target {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.contains('/') {
            Ok(Self::Path(PathBuf::from(text)))
        } else if text.starts_with("snap-") {
            text.parse().map(Self::Snapshot)
        } else {
            text.parse().map(Self::Cluster)
        }
    }
}

/// A customer key, or the word `none`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyOrNone(pub Option<EncryptionKeyId>);

impl FromStr for KeyOrNone {
    type Err = KeyIdError;
    fn from_str(text: &str) -> Result<Self, KeyIdError> {
        if text == "none" { Ok(Self(None)) } else { text.parse().map(|id| Self(Some(id))) }
    }
}

/// Where a root secret stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSpec {
    /// A key file.
    File(PathBuf),
    /// In somebody's head.
    Passphrase,
    /// A systemd credential.
    Credential(String),
    /// The recovery key; it is made by `init` alone.
    Recovery,
}

/// Not one of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is none of file:PATH, passphrase, credential:NAME")]
pub struct SecretSpecError(String);

impl FromStr for SecretSpec {
    type Err = SecretSpecError;
    fn from_str(text: &str) -> Result<Self, SecretSpecError> {
        let bad = || SecretSpecError(text.to_owned());
        match text.split_once(':') {
            None if text == "passphrase" => Ok(Self::Passphrase),
            None if text == "recovery" => Ok(Self::Recovery),
            Some(("file", path)) if !path.is_empty() => {
                std::path::absolute(path).map(Self::File).map_err(|_| bad())
            }
            Some(("credential", name))
                if !name.is_empty() && !name.contains('/') && name != "." && name != ".." =>
            {
                Ok(Self::Credential(name.to_owned()))
            }
            _ => Err(bad()),
        }
    }
}

impl std::fmt::Display for SecretSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Passphrase => f.write_str("passphrase"),
            Self::Credential(name) => write!(f, "credential:{name}"),
            Self::Recovery => f.write_str("recovery"),
        }
    }
}

/// A root secret of the pool as `root-secret show` names it, or as a path from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretName {
    /// As it was typed.
    pub typed: String,
    /// The same with an absolute path.
    pub spec: SecretSpec,
}

impl FromStr for SecretName {
    type Err = SecretSpecError;
    fn from_str(text: &str) -> Result<Self, SecretSpecError> {
        Ok(Self { typed: text.to_owned(), spec: text.parse()? })
    }
}

/// Where `init` puts the recovery key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoveryTarget {
    /// Nowhere: there is none.
    None,
    /// In a new file.
    File(PathBuf),
}

impl FromStr for RecoveryTarget {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text == "none" { Self::None } else { Self::File(PathBuf::from(text)) })
    }
}

/// Mount options as typed behind `-o`; their meaning is checked before anything is asked for.
///
/// # Errors
/// What the option list has wrong.
pub fn parse_mount_options(list: &str) -> Result<String, String> {
    crate::daemon::mount_words::check(list).map(|()| list.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_makes_a_path_and_snap_a_snapshot() {
        assert_eq!("./db".parse(), Ok(Target::Path(PathBuf::from("./db"))));
        assert!(matches!("snap-0a1b".parse(), Ok(Target::Snapshot(_))));
        assert!(matches!("db".parse(), Ok(Target::Cluster(_))));
        assert!("snap-x".parse::<Target>().is_err());
        assert!("Db".parse::<Target>().is_err());
    }

    #[test]
    fn secrets_are_named_by_kind() {
        assert_eq!("file:/k".parse(), Ok(SecretSpec::File(PathBuf::from("/k"))));
        assert_eq!("credential:a.b".parse(), Ok(SecretSpec::Credential("a.b".to_owned())));
        for bad in ["", "file:", "credential:", "credential:a/b", "credential:..", "x", "pass:x"] {
            assert!(bad.parse::<SecretSpec>().is_err(), "{bad}");
        }
        for good in ["file:/k", "passphrase", "credential:n", "recovery"] {
            assert_eq!(good.parse::<SecretSpec>().unwrap().to_string(), good);
        }
    }
}
