//! What can go wrong with keys, told apart by what a caller does about it.

use std::io;
use std::path::{Path, PathBuf};

use crate::base::cursor::DecodeError;
use crate::base::units::put_back;
use crate::base::{EncryptionKeyId, KeyAnswer, KeyState, ProblemCode, Timestamp};
use crate::crypto::KdfError;

/// What to do where what opens is older than what was last seen.
pub const ROLLED_BACK: &str =
    "bring the newest copy back, or accept this one: strongroom daemon --accept-rollback";

/// What to do where the keyring is not there, or is damaged.
const KEYRING_LOST: &str = "bring the keyring back from a backup: strongroom config restore FILE";

/// An error of this room. No variant carries key material.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// No provider of that scheme exists.
    #[error("'{id}': there is no key provider '{scheme}' (available: {available})")]
    UnknownScheme {
        /// The Encryption Key ID.
        id: EncryptionKeyId,
        /// Its scheme.
        scheme: String,
        /// The schemes that are there.
        available: String,
    },
    /// A provider that is known by name and not part of this version.
    #[error(
        "'{id}': the key provider '{scheme}' is not available in this version (available: {available})"
    )]
    SchemeNotAvailable {
        /// The Encryption Key ID.
        id: EncryptionKeyId,
        /// Its scheme.
        scheme: String,
        /// The schemes that are there.
        available: String,
    },
    /// The provider knows no such key, and never did as far as it can tell.
    #[error("no key '{id}'")]
    NotFound {
        /// The Encryption Key ID.
        id: EncryptionKeyId,
    },
    /// The provider answered with a state in which the key cannot be used.
    #[error("the key '{id}' is {state}")]
    State {
        /// The Encryption Key ID.
        id: EncryptionKeyId,
        /// Its state.
        state: KeyState,
    },
    /// The provider refuses us.
    #[error("the provider of '{id}' refuses access")]
    Denied {
        /// The Encryption Key ID.
        id: EncryptionKeyId,
    },
    /// No answer came within the deadline.
    #[error("the provider of '{id}' cannot be reached: {reason}")]
    Unreachable {
        /// The Encryption Key ID.
        id: EncryptionKeyId,
        /// What the connection said.
        reason: String,
    },
    /// A key is there under that name, and it is not the one that made the wrap.
    #[error(
        "'{id}' now names another key: {found} is there, {expected} is needed",
        expected = hex(.expected), found = hex(.found)
    )]
    AnotherKey {
        /// The Encryption Key ID.
        id: EncryptionKeyId,
        /// Fingerprint of the key that is needed.
        expected: [u8; 16],
        /// Fingerprint of the key that is there.
        found: [u8; 16],
    },
    /// The provider opened what it was given, and the answer is not what was wrapped; or the wrap
    /// itself is for another pool, cluster or version.
    #[error("the key '{id}' does not open what it is recorded to open (wrong key or context)")]
    WrongKey {
        /// The Encryption Key ID.
        id: EncryptionKeyId,
    },
    /// The stored wrap is damaged.
    #[error("a wrap under '{id}' is damaged")]
    CorruptWrap {
        /// The Encryption Key ID.
        id: EncryptionKeyId,
    },
    /// The stored key material of a header holds neither a wrap nor a plain key.
    #[error("a header's keys are damaged: {0}")]
    CorruptHeader(&'static str),
    /// A key of that name exists.
    #[error("a key '{id}' exists")]
    Exists {
        /// The Encryption Key ID.
        id: EncryptionKeyId,
    },
    /// The key's state does not allow what was asked.
    #[error("the key '{id}' is {state} and cannot be {verb}")]
    Transition {
        /// The Encryption Key ID.
        id: EncryptionKeyId,
        /// Its state now.
        state: KeyState,
        /// What was asked, as a past participle.
        verb: &'static str,
    },
    /// A waiting period outside what is allowed.
    #[error("the waiting period of '{id}' must be {least_days} to 30 days")]
    WaitingPeriod {
        /// The Encryption Key ID.
        id: EncryptionKeyId,
        /// Fewest days allowed for this key.
        least_days: u64,
    },
    /// The provider cannot do that.
    #[error("the provider of '{id}' cannot {what}")]
    NotSupported {
        /// The Encryption Key ID.
        id: EncryptionKeyId,
        /// What was asked.
        what: &'static str,
    },
    /// The keyring holds as many keys as it may.
    #[error("the keyring is full ({0} keys)")]
    KeyringFull(usize),
    /// The keyring file, or its secret, is not there.
    #[error("no {what} at {}", path.display())]
    KeyringMissing {
        /// Which of the two.
        what: &'static str,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The keyring does not open with the secret beside it.
    #[error("the keyring {} does not belong to its secret {}", path.display(), secret.display())]
    KeyringSecret {
        /// The keyring.
        path: PathBuf,
        /// The secret.
        secret: PathBuf,
    },
    /// The keyring is damaged.
    #[error("the keyring {} is damaged: {why}", path.display())]
    KeyringCorrupt {
        /// The keyring.
        path: PathBuf,
        /// How.
        why: &'static str,
    },
    /// Two keyrings that were to become one hold different keys under one name.
    #[error("the keyring that is there and the backup hold two different keys named '{id}'")]
    SameName {
        /// Their Encryption Key ID.
        id: EncryptionKeyId,
    },
    /// What was to be written of the keyring does not read back.
    #[error("the keyring's new contents do not read back: {} stays as it is", path.display())]
    KeyringUnwritable {
        /// The keyring.
        path: PathBuf,
    },
    /// The keyring is older than the one that was last used with this pool.
    #[error("the keyring is of version {found}; version {seen} was seen before")]
    KeyringRolledBack {
        /// Version of the file.
        found: u64,
        /// Version in the anchor.
        seen: u64,
    },
    /// Deletions that are due wait, because the clock jumped.
    #[error("the clock jumped from {seen} to {now}: due deletions wait until that is confirmed")]
    ClockJumped {
        /// Largest time seen before.
        seen: Timestamp,
        /// The time now.
        now: Timestamp,
    },
    /// The pool is older than what was last seen of it.
    #[error("the pool is at generation {}", put_back(*found, *seen))]
    PoolRolledBack {
        /// Generation of the pool.
        found: u64,
        /// Generation in the anchor.
        seen: u64,
    },
    /// The anchor file is damaged or belongs to something else.
    #[error("the record of the last generation, {}, is damaged or of another pool", path.display())]
    AnchorCorrupt {
        /// The file.
        path: PathBuf,
    },
    /// None of the ways to the engine key was there to try.
    #[error("no root secret: {tried}")]
    RootSecretMissing {
        /// What was looked for.
        tried: String,
    },
    /// What was tried opens none of the pool's wraps.
    #[error("the root secret does not open the pool: {tried}")]
    RootSecretWrong {
        /// What was tried.
        tried: String,
    },
    /// The engine key opens with a damaged wrap only.
    #[error("the wrapped engine key '{name}' is damaged")]
    EngineWrapCorrupt {
        /// Which wrap.
        name: String,
    },
    /// The name of a root secret (path of a file, name of a credential) is too long to be kept.
    #[error("the name of a root secret may have {0} bytes")]
    WrapName(usize),
    /// A file that should hold a secret does not.
    #[error("{} is not a secret file: 32 bytes, or 64 hexadecimal digits, are expected", path.display())]
    SecretShape {
        /// The file.
        path: PathBuf,
    },
    /// A secret that others than its owner can read.
    #[error("{} can be read by others (mode {mode:04o})", path.display())]
    SecretMode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A secret that belongs to somebody else.
    #[error("{} belongs to user {owner}: neither to this one nor to root", path.display())]
    SecretOwner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// A passphrase that cannot be used.
    #[error("the passphrase is {0}")]
    Passphrase(&'static str),
    /// A passphrase's parameters are out of bounds, or its memory cannot be had.
    #[error("{0}")]
    Kdf(KdfError),
    /// A recovery key with a typing error in one group. What was typed is not told: errors are
    /// logged.
    #[error("the recovery key has a typing error in group {group}")]
    RecoveryTypo {
        /// The group, counted from 1.
        group: usize,
    },
    /// A text that is no recovery key.
    #[error("a recovery key has {expected} letters and digits; there are {found}")]
    RecoveryLength {
        /// Characters expected.
        expected: usize,
        /// Characters found.
        found: usize,
    },
    /// A character that no recovery key has.
    #[error("'{0}' stands in no recovery key")]
    RecoveryCharacter(char),
    /// A configuration backup that is none.
    #[error("{} is not a configuration backup: {why}", path.display())]
    Backup {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: &'static str,
    },
    /// A backup does not open with the passphrase that was given.
    #[error("the passphrase does not open the backup {}", path.display())]
    BackupPassphrase {
        /// The file.
        path: PathBuf,
    },
    /// A file that would be overwritten.
    #[error("{} exists", path.display())]
    FileExists {
        /// The file.
        path: PathBuf,
    },
    /// Another process works with the pool's folder of the configuration directory.
    #[error(
        "{} is in use by {}: a daemon serves that pool, or a copy of it",
        path.display(),
        process_text(*holder)
    )]
    ConfigBusy {
        /// The folder.
        path: PathBuf,
        /// The process, where it said who it is.
        holder: Option<u32>,
    },
    /// A file of the configuration directory failed.
    #[error("cannot {op} {}: {source}", path.display())]
    File {
        /// What was done.
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Neither the environment nor the user database names a configuration directory.
    #[error(
        "no configuration directory: neither STRONGROOM_CONFIG, XDG_CONFIG_HOME nor HOME is set"
    )]
    NoConfigDirectory,
    /// Bytes that are not what was expected.
    #[error("stored bytes cannot be read: {0}")]
    Decode(#[from] DecodeError),
}

fn process_text(holder: Option<u32>) -> String {
    holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl KeysError {
    /// A failed operation on a file.
    pub(in crate::keys) fn file(op: &'static str, path: &Path, source: io::Error) -> Self {
        Self::File { op, path: path.to_owned(), source }
    }

    /// What this says of the key, where it is an answer of its provider.
    #[must_use]
    pub const fn answer(&self) -> Option<KeyAnswer> {
        match self {
            Self::State { state, .. } => Some(KeyAnswer::State(*state)),
            Self::Denied { .. } => Some(KeyAnswer::Denied),
            Self::Unreachable { .. } => Some(KeyAnswer::Unreachable),
            _ => None,
        }
    }

    /// The stable name of the problem.
    #[must_use]
    pub const fn problem(&self) -> ProblemCode {
        match self {
            Self::UnknownScheme { .. } | Self::SchemeNotAvailable { .. } => {
                ProblemCode::KeyProvider
            }
            Self::NotFound { .. } => ProblemCode::KeyNotFound,
            Self::State { state, .. } => match state {
                KeyState::Enabled => ProblemCode::KeyNotUsable,
                KeyState::Disabled => ProblemCode::KeyDisabled,
                KeyState::PendingDeletion => ProblemCode::KeyPendingDeletion,
                KeyState::Deleted => ProblemCode::KeyDeleted,
            },
            Self::Denied { .. } => ProblemCode::KeyDenied,
            Self::Unreachable { .. } => ProblemCode::KeyUnreachable,
            Self::AnotherKey { .. } | Self::WrongKey { .. } => ProblemCode::KeyMismatch,
            Self::CorruptWrap { .. } | Self::CorruptHeader(_) | Self::Decode(_) => {
                ProblemCode::Corrupt
            }
            Self::EngineWrapCorrupt { .. } => ProblemCode::Corrupt,
            Self::Kdf(KdfError::TooWeak | KdfError::TooCostly) => ProblemCode::Corrupt,
            Self::Kdf(KdfError::Memory(_) | KdfError::Passphrase) => ProblemCode::RootSecret,
            Self::Exists { .. } | Self::SameName { .. } => ProblemCode::KeyExists,
            Self::Transition { .. } | Self::ClockJumped { .. } => ProblemCode::KeyState,
            Self::WaitingPeriod { .. } | Self::WrapName(_) => ProblemCode::Usage,
            Self::NotSupported { .. } => ProblemCode::Unsupported,
            Self::KeyringUnwritable { .. } => ProblemCode::Internal,
            Self::KeyringFull(_)
            | Self::KeyringMissing { .. }
            | Self::KeyringSecret { .. }
            | Self::KeyringCorrupt { .. } => ProblemCode::Keyring,
            Self::KeyringRolledBack { .. } | Self::PoolRolledBack { .. } => {
                ProblemCode::PoolRolledBack
            }
            Self::RootSecretMissing { .. } => ProblemCode::RootSecretMissing,
            Self::RootSecretWrong { .. }
            | Self::BackupPassphrase { .. }
            | Self::SecretShape { .. }
            | Self::SecretMode { .. }
            | Self::SecretOwner { .. }
            | Self::Passphrase(_)
            | Self::RecoveryTypo { .. }
            | Self::RecoveryLength { .. }
            | Self::RecoveryCharacter(_) => ProblemCode::RootSecret,
            Self::FileExists { .. } => ProblemCode::FileExists,
            Self::AnchorCorrupt { .. } | Self::Backup { .. } | Self::NoConfigDirectory => {
                ProblemCode::Config
            }
            Self::ConfigBusy { .. } => ProblemCode::PoolBusy,
            Self::File { .. } => ProblemCode::Io,
        }
    }

    /// What to do about it, where there is one thing to do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::State { id, state: KeyState::Disabled } => {
                format!("enable it: strongroom key enable {id}")
            }
            Self::State { id, state: KeyState::PendingDeletion } => format!(
                "keep it: strongroom key cancel-delete {id}, then strongroom key enable {id}"
            ),
            Self::State { state: KeyState::Deleted, .. } => {
                "a deleted key does not come back; what only it opened is unrecoverable".to_owned()
            }
            Self::Denied { .. } => "ask the key's owner to grant access, then try again".to_owned(),
            Self::Unreachable { id, .. } if id.local_name().is_some() => {
                format!("{KEYRING_LOST}, the daemon shut down")
            }
            Self::Unreachable { .. } => {
                "try again when the provider can be reached; nothing is lost".to_owned()
            }
            Self::AnotherKey { .. } => {
                "a key keeps its name after deletion but not its contents; restore the keyring that \
                 held the needed key (strongroom config restore)"
                    .to_owned()
            }
            Self::NotFound { .. } => {
                "list the keys that are there: strongroom key list".to_owned()
            }
            Self::Transition { id, state: KeyState::PendingDeletion, .. } => {
                format!("cancel the deletion first: strongroom key cancel-delete {id}")
            }
            Self::ClockJumped { .. } => {
                "check the clock, then confirm by repeating: strongroom key delete KEY_ID --force \
                 KEY_ID"
                    .to_owned()
            }
            Self::SameName { .. } => {
                "nothing was changed; restore into another STRONGROOM_CONFIG, serve the pool with \
                 that, and move what needs the older key to one of another name (cluster set-key \
                 NAME KEY --snapshots)"
                    .to_owned()
            }
            Self::KeyringMissing { .. }
            | Self::KeyringSecret { .. }
            | Self::KeyringCorrupt { .. } => {
                KEYRING_LOST.to_owned()
            }
            Self::KeyringRolledBack { .. } | Self::PoolRolledBack { .. } => {
                ROLLED_BACK.to_owned()
            }
            Self::RootSecretMissing { .. } => {
"bring it back: strongroom config restore FILE; or open with the recovery key: \
                 strongroom daemon --recovery-key FILE"
                    .to_owned()
            }
            Self::RootSecretWrong { .. } => {
                "use the secret that this pool was made with, or its recovery key".to_owned()
            }
            Self::BackupPassphrase { .. } => {
                "give the passphrase that it was made with; nothing was changed".to_owned()
            }
            _ => return self.hint_of_configuration(),
        })
    }

    /// The same where files, or what somebody typed, are to be mended.
    fn hint_of_configuration(&self) -> Option<String> {
        Some(match self {
            Self::AnchorCorrupt { .. } => {
                "see to it that the pool is the newest there is of it, then, once: strongroom daemon \
                 --accept-rollback; it is made again"
                    .to_owned()
            }
            Self::SecretShape { path } => format!(
                "where it is damaged: move {} away, then strongroom config restore FILE, or open \
                 with the recovery key: strongroom daemon --recovery-key FILE",
                path.display()
            ),
            Self::WaitingPeriod { .. } => {
                "a key's own waiting period is fixed when it is made, and can only be lengthened"
                    .to_owned()
            }
            Self::SecretMode { path, .. } => format!("chmod 600 {}", path.display()),
            Self::RecoveryTypo { .. } => "compare that group with the printed key".to_owned(),
            Self::ConfigBusy { .. } => {
                "end it first: strongroom shutdown; a copy of a pool that shall be served beside \
                 it needs a STRONGROOM_CONFIG of its own"
                    .to_owned()
            }
            Self::FileExists { .. } => "name another file, or move that one away".to_owned(),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_end_in_status_3_and_schemes_in_status_2() {
        let id: EncryptionKeyId = "k1".parse().unwrap();
        for state in [KeyState::Disabled, KeyState::PendingDeletion, KeyState::Deleted] {
            let error = KeysError::State { id: id.clone(), state };
            assert_eq!(error.problem().exit_status(), 3);
            assert_eq!(error.answer(), Some(KeyAnswer::State(state)));
            assert!(error.hint().is_some());
        }
        let error = KeysError::AnotherKey { id: id.clone(), expected: [1; 16], found: [2; 16] };
        assert_eq!(error.problem().exit_status(), 3);
        assert!(error.to_string().contains(&"01".repeat(16)));
        let unreachable = |id: &str| {
            KeysError::Unreachable { id: id.parse().unwrap(), reason: "x".into() }.hint()
        };
        assert!(unreachable("local://k1").unwrap().contains("strongroom config restore FILE"));
        assert!(unreachable("aws-kms://k1").unwrap().contains("try again"));
        let put_back = |found, seen| KeysError::PoolRolledBack { found, seen }.to_string();
        assert_eq!(put_back(76, 77), "the pool is at generation 76, and 77 was seen before");
        assert!(put_back(77, 76).contains("another history"), "{}", put_back(77, 76));
        let error = KeysError::UnknownScheme { id, scheme: "x".into(), available: "local".into() };
        assert_eq!(error.problem().exit_status(), 2);
    }
}
