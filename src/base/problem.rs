//! Problem codes: the stable names of what can go wrong, with the exit status each ends in.
//!
//! One table; a retired code keeps its line. HTTP status is chosen in `control`, errno in `fuse`.

use std::fmt;

macro_rules! problems {
    ($($variant:ident, $code:literal, $exit:literal, $title:literal;)*) => {
        /// What went wrong, by a name that programs can rely on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ProblemCode { $(#[doc = $title] $variant,)* }
        impl ProblemCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];
            /// The stable name, as in the `code` of a problem document.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }
            /// What it means, in a few words.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
            /// The exit status of a command that ends in it (docs/operating.md).
            #[must_use]
            pub const fn exit_status(self) -> u8 {
                match self { $(Self::$variant => $exit,)* }
            }
            /// The code of that name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($code => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

problems! {
    Usage, "usage", 2, "wrong usage";
    BadRequest, "bad-request", 2, "malformed request";
    RequestTooLarge, "request-too-large", 2, "the request is too large";
    RequestTimeout, "request-timeout", 1, "the request did not arrive in time";
    TooManyConnections, "too-many-connections", 1, "too many connections";
    Forbidden, "forbidden", 1, "not allowed";
    NotFound, "not-found", 1, "there is no such thing";
    MethodNotAllowed, "method-not-allowed", 2, "the route does not take that method";
    ClusterNotFound, "cluster-not-found", 1, "no such cluster";
    SnapshotNotFound, "snapshot-not-found", 1, "no such snapshot";
    SnapshotAmbiguous, "snapshot-ambiguous", 1, "the prefix names several snapshots";
    KeyNotFound, "key-not-found", 1, "no such key";
    ClusterExists, "cluster-exists", 1, "a cluster of that name exists";
    KeyExists, "key-exists", 1, "a key of that name exists";
    FileExists, "file-exists", 1, "a file or directory is there already";
    AlreadyMounted, "already-mounted", 1, "already mounted";
    NotMounted, "not-mounted", 1, "not mounted";
    Busy, "busy", 1, "in use";
    Held, "held", 1, "held";
    MountPoint, "mount-point", 1, "unsuitable mount point";
    MountFailed, "mount-failed", 1, "the mount failed";
    BarrierFailed, "barrier-failed", 1, "the snapshot barrier failed";
    PoolExists, "pool-exists", 1, "a pool is there already";
    PoolNotFound, "pool-not-found", 1, "no pool there";
    NotAPool, "not-a-pool", 1, "not a pool";
    FormatTooNew, "format-too-new", 1, "the pool needs a newer version";
    PoolBusy, "pool-busy", 1, "another daemon serves the pool";
    PoolFull, "pool-full", 1, "the pool is full";
    PoolReadOnly, "pool-read-only", 1, "the pool is read-only";
    PoolTruncated, "pool-truncated", 4, "the pool's device is shorter than it was";
    PoolRolledBack, "pool-rolled-back", 1, "the pool is older than what was last seen";
    RootSecret, "root-secret", 1, "the root secret does not open the pool";
    RootSecretMissing, "root-secret-missing", 1, "no root secret";
    RootSecretExists, "root-secret-exists", 1, "the pool has that root secret already";
    Keyring, "keyring", 1, "the keyring cannot be opened";
    KeyNotUsable, "key-not-usable", 3, "the customer key is not usable";
    KeyDisabled, "key-disabled", 3, "the customer key is disabled";
    KeyPendingDeletion, "key-pending-deletion", 3, "the customer key is pending deletion";
    KeyDeleted, "key-deleted", 3, "the customer key is deleted";
    KeyDenied, "key-denied", 3, "the customer key's provider refuses access";
    KeyUnreachable, "key-unreachable", 3, "the customer key's provider cannot be reached";
    KeyMismatch, "key-mismatch", 3, "another key of that name";
    KeyInUse, "key-in-use", 1, "the customer key is still needed";
    KeyState, "key-state", 1, "the customer key's state does not allow that";
    KeyProvider, "key-provider", 2, "no such key provider";
    LogOutstanding, "log-outstanding", 1, "acknowledged writes await the cluster's key";
    NothingLost, "nothing-lost", 1, "nothing was lost";
    NoDaemon, "no-daemon", 1, "no daemon serves the pool";
    Confirmation, "confirmation", 1, "not confirmed";
    Config, "config", 1, "the configuration cannot be used";
    Io, "io", 1, "the device or a file failed";
    Corrupt, "corrupt", 4, "corruption found";
    Interrupted, "interrupted", 130, "interrupted";
    Unsupported, "unsupported", 1, "not supported here";
    Internal, "internal", 1, "a defect in strongroom";
}

impl fmt::Display for ProblemCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found_again() {
        for code in ProblemCode::ALL {
            assert_eq!(ProblemCode::from_name(code.as_str()), Some(*code));
        }
    }
}
