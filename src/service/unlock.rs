//! Keys in, keys out: the fresh unwrap that every mount, restore and change of keys makes, and the
//! resealing of roots.

use std::fmt;
use std::time::Duration;

use crate::base::{ClusterId, ClusterName, EncryptionKeyId, ProblemCode, SnapshotId};
use crate::catalog::{self, Header, Target, reseal_root};
use crate::crypto::{ClusterKey, HeaderKeys};
use crate::keys::{Deadline, KeysError, envelope};
use crate::pool::root::{RootContext, open_root};
use crate::service::Service;
use crate::service::error::ServiceError;
use crate::service::mounts::{MountRequest, Subject};
use crate::sys::sync::MutexGuard;

/// How long the providers of one operation may take.
pub const KEY_DEADLINE: Duration = Duration::from_secs(15);

/// A header whose key was just unwrapped.
pub(in crate::service) struct Opened {
    pub cluster: ClusterId,
    pub header: Header,
    pub key: ClusterKey,
}

impl Service {
    /// Reads a header and unwraps its key, now, whatever was unwrapped before.
    ///
    /// # Errors
    /// A line that says `doing`, the Encryption Key ID, its state, and the remedy.
    pub(in crate::service) fn open_header(
        &self,
        target: Target,
        cluster: ClusterId,
        doing: impl fmt::Display,
    ) -> Result<Opened, ServiceError> {
        self.seek_keyring();
        let header = self.catalog.header(target)?;
        let key = self.unwrap(cluster, &header.keys, doing)?;
        Ok(Opened { cluster, header, key })
    }

    /// Where the subject of a request is mounted already, that its key is usable now, or may be
    /// waited for. What is mounted goes on whatever becomes of its key; who asks for it again is
    /// told of the key as who asks first.
    ///
    /// # Errors
    /// As [`Service::open_header`].
    pub(in crate::service) fn check_key_of_mounted(
        &self,
        (target, cluster): (Target, ClusterId),
        request: &MountRequest,
        doing: impl fmt::Display,
    ) -> Result<(), ServiceError> {
        let subject = match target {
            Target::Cluster(id) => Subject::Cluster(id),
            Target::Snapshot(id) => Subject::Snapshot(id),
        };
        let (mounted, waits) = {
            let table = self.mounts.lock();
            let there = table.at(&request.mountpoint).map(|(_, entry)| entry);
            let same =
                there.filter(|e| e.subject == subject && e.request.options == request.options);
            let mounted = table.iter().any(|(_, e)| e.subject == subject);
            (mounted, same.is_some_and(|e| e.meaning.key_wait))
        };
        if !mounted {
            return Ok(());
        }
        match self.open_header(target, cluster, doing) {
            Err(error) if !(waits && waits_for_key(&error)) => Err(error),
            _ => Ok(()),
        }
    }

    fn unwrap(
        &self,
        cluster: ClusterId,
        keys: &HeaderKeys,
        doing: impl fmt::Display,
    ) -> Result<ClusterKey, ServiceError> {
        let deadline = Deadline::after(KEY_DEADLINE);
        let opened = envelope::open(&self.registry(), self.pool_id(), cluster, keys, deadline);
        self.answers.note_result(&keys.wraps, opened.as_ref().err(), self.now());
        opened.map_err(|error| not_usable(error).while_doing(doing))
    }

    /// New keys under `key`, proved to open. `None`: not enabled.
    ///
    /// # Errors
    /// The provider's; nothing was made then.
    pub(in crate::service) fn make_keys(
        &self,
        cluster: ClusterId,
        key: Option<&EncryptionKeyId>,
        doing: impl fmt::Display,
    ) -> Result<(HeaderKeys, ClusterKey), ServiceError> {
        let deadline = Deadline::after(KEY_DEADLINE);
        let ck_id = self.catalog.new_ck_id();
        let made = envelope::make(&self.registry(), self.pool_id(), cluster, ck_id, key, deadline);
        if let Ok((keys, _)) = &made {
            self.answers.note_result(&keys.wraps, None, self.now());
        }
        made.map_err(|error| ServiceError::from(error).while_doing(doing))
    }

    /// Keeps keys of the embedded keyring from being deleted as long as the result lives. Those of a
    /// header that is not in force yet are asked once more: they may have gone since they were made,
    /// needed by nothing.
    ///
    /// # Errors
    /// The provider's.
    pub(in crate::service) fn keep_keys(
        &self,
        cluster: ClusterId,
        keys: &HeaderKeys,
        doing: impl fmt::Display,
    ) -> Result<MutexGuard<'_, ()>, ServiceError> {
        let kept = self.key_deletions.lock();
        // Others are deleted by others, who do not ask.
        if keys.encryption_key_id().is_some_and(|id| id.local_name().is_some()) {
            self.unwrap(cluster, keys, doing)?;
        }
        Ok(kept)
    }

    /// The header of the same tree under other keys, for another cluster where it is a clone.
    ///
    /// # Errors
    /// Corruption of the sealed root.
    pub(in crate::service) fn reseal(
        &self,
        old: &Opened,
        cluster: ClusterId,
        keys: HeaderKeys,
        key: &ClusterKey,
    ) -> Result<Header, ServiceError> {
        let was = self.catalog.root_context(old.cluster, &old.header);
        let becomes = RootContext { cluster, ck_id: keys.ck_id, ..was };
        let sealed_root = reseal_root(&old.header, &old.key, &was, key, &becomes)?;
        Ok(Header {
            keys,
            sealed_root,
            root_generation: old.header.root_generation,
            referenced_blocks: old.header.referenced_blocks,
        })
    }

    /// Replaces headers: written beside the old ones, read back, opened with the new keys by a
    /// fresh unwrap, and only then adopted.
    ///
    /// # Errors
    /// What the proof or the pool says; the old headers stand then.
    pub(in crate::service) fn replace(
        &self,
        headers: Vec<Replacement>,
        doing: impl fmt::Display,
    ) -> Result<Option<crate::pool::ShredScope>, ServiceError> {
        let clusters: Vec<(Target, ClusterId)> =
            headers.iter().map(|r| (r.target, r.cluster)).collect();
        let new = headers
            .into_iter()
            .map(|r| catalog::Replacement {
                target: r.target,
                header: r.header,
                cluster_key: Some(r.key),
            })
            .collect();
        let kept = self.key_deletions.lock();
        let replaced: Result<_, ServiceError> =
            self.catalog.replace_headers(new, |target, header| {
                let cluster = clusters.iter().find(|(t, _)| *t == target).map(|(_, c)| *c);
                let unknown = || ServiceError::new(ProblemCode::Internal, "an unknown header");
                self.prove(cluster.ok_or_else(unknown)?, header)
            });
        drop(kept);
        let shredded = replaced.map_err(|error| error.while_doing(doing))?;
        self.anchor_narrowed();
        Ok(shredded)
    }

    fn prove(&self, cluster: ClusterId, header: &Header) -> Result<(), ServiceError> {
        let key = self.unwrap(cluster, &header.keys, "the new header does not open")?;
        let context = self.catalog.root_context(cluster, header);
        match &header.sealed_root {
            Some(sealed) => Ok(open_root(&key, &context, sealed).map(|_| ())?),
            None => Ok(()),
        }
    }
}

/// A header that is to take another's place.
pub(in crate::service) struct Replacement {
    pub target: Target,
    pub cluster: ClusterId,
    pub header: Header,
    pub key: ClusterKey,
}

/// Whatever keeps a key from opening a header is "not usable" to who needs it (status 3), also
/// where the provider never heard of it.
pub(in crate::service) fn not_usable(error: KeysError) -> ServiceError {
    let unknown = matches!(error, KeysError::NotFound { .. });
    let told = ServiceError::from(error);
    if unknown {
        return ServiceError { code: ProblemCode::KeyNotUsable, ..told }
            .with_hint("bring back the keyring that holds it: strongroom config restore FILE");
    }
    told
}

/// For messages: `cluster '...' cannot be mounted`.
pub(in crate::service) fn cannot_mount(name: &ClusterName) -> String {
    format!("cluster '{name}' cannot be mounted")
}

/// For messages: `snapshot snap-... cannot be restored`.
pub(in crate::service) fn cannot_restore(id: SnapshotId) -> String {
    format!("snapshot {id} cannot be restored")
}

/// Whether an error says that a key cannot be had now, so that `key_wait` waits for it.
pub(in crate::service) fn waits_for_key(error: &ServiceError) -> bool {
    error.code.exit_status() == 3
}
