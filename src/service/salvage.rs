//! Copying what is readable out of a pool that no daemon serves, also where it no longer opens.
//! Nothing is written to it, and whatever needs a customer key asks for it as a restore does.

use std::path::{Path, PathBuf};

use crate::base::ids::SnapshotPrefix;
use crate::base::units::put_back;
use crate::base::{ClusterId, ClusterName, PoolId, ProblemCode, SnapshotId};
use crate::crypto::{ClusterKey, HeaderKeys};
use crate::device::{self, Mode};
use crate::keys::{AnchorKey, AtHand, ConfigDir, Deadline, KeysError, Registry, envelope};
use crate::pool;
use crate::service::error::ServiceError;
use crate::service::inspect::{KeysAtHand, OldKeyring, without_deleted};
use crate::service::open::{AskPassphrase, engine_key, not_found};
use crate::service::unlock::{KEY_DEADLINE, not_usable};
use crate::sys::new_tree::NewDirectory;
use crate::verify::RolledBack;
use crate::verify::salvage::{NoKey, Report, Survey, Wanted};

/// Bytes for cached tree nodes, of each state.
const CACHE_BYTES: usize = 64 << 20;

/// What to copy, as people name it; nothing named: the head of every cluster.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Clusters.
    pub clusters: Vec<ClusterName>,
    /// Snapshots.
    pub snapshots: Vec<SnapshotPrefix>,
}

/// A pool out of which something is copied.
pub struct Salvage {
    id: PoolId,
    path: PathBuf,
    survey: Survey,
    registry: Registry,
    /// What somebody should know before believing what is copied.
    notes: Vec<String>,
    /// The checkpoint that was seen before, where that is a later one.
    put_back: Option<RolledBack>,
}

impl Salvage {
    /// Opens what is left of a pool, under the lock that a daemon would hold.
    ///
    /// # Errors
    /// [`ProblemCode::PoolBusy`] while a daemon serves it; [`ProblemCode::Corrupt`] where no
    /// superblock copy is left; what opening its root secret says.
    pub fn open(
        config: &ConfigDir,
        path: &Path,
        ask: AskPassphrase<'_>,
    ) -> Result<Self, ServiceError> {
        let placed = |e: ServiceError| e.while_doing(path.display()).beyond_salvage();
        let device = device::open(path, Mode::ReadAlone).map_err(|e| placed(e.into()))?;
        let sealed =
            pool::probe_remains(&device).map_err(|error| placed(not_found(error, config, path)))?;
        let id = sealed.pool_id();
        let folder = config.pool(&id);
        let engine = engine_key(&sealed, &folder, AtHand::default(), ask)?;
        let anchor_key = AnchorKey::of(&engine);
        let remains = sealed.remains(engine, CACHE_BYTES).map_err(|e| placed(e.into()))?;
        let survey = Survey::of(remains);
        let Some(newest) = survey.newest() else {
            return Err(placed(pool::PoolError::SuperblockLost.into()));
        };
        let at_hand = KeysAtHand::find(&folder, newest, &anchor_key, OldKeyring::OpensNothing);
        let KeysAtHand { registry, rolled_back: put_back, warnings: mut notes } = at_hand;
        if !device.describe().locked {
            let place = path.display();
            notes.push(format!("{place} cannot be locked: no daemon may serve it meanwhile"));
        }
        let path = path.to_owned();
        Ok(Self { id, path, survey, registry, notes, put_back })
    }

    /// Copies what is asked for to a directory that is new or empty; without one, says what could
    /// be copied. What is not in the copy stands in the report.
    ///
    /// # Errors
    /// Where a cluster or snapshot that is named is not there, or the directory is not fit; nothing
    /// was copied then.
    pub fn copy(&self, asked: &Asked, to: Option<&Path>) -> Result<Report, ServiceError> {
        let wanted = self.wanted(asked)?;
        let destination = to.map(|to| self.begin(to)).transpose()?;
        let mut keys = |owner: &str, cluster, keys: &HeaderKeys| self.key(owner, cluster, keys);
        let mut report = self.survey.copy(&wanted, destination.as_ref(), &mut keys);
        report.notes.splice(0..0, self.notes.iter().cloned());
        if let Some(RolledBack { found, seen }) = self.put_back {
            let stands = put_back(found.get(), seen.get());
            report.lose_of_pool(format!(
                "what was written since: the pool was put back, and stands at checkpoint {stands}"
            ));
        }
        if let Some(destination) = &destination {
            report.store(destination);
        }
        Ok(report)
    }

    /// The destination: nowhere in the pool, which takes no file of anybody's.
    fn begin(&self, to: &Path) -> Result<NewDirectory, ServiceError> {
        let shown = to.display();
        let refused = |code, why: String| {
            ServiceError::new(code, format!("{shown}: {why}"))
                .with_hint("name a directory that is new, or empty and yours, outside of the pool")
        };
        let (usage, exists) = (ProblemCode::Usage, ProblemCode::FileExists);
        let absolute = std::path::absolute(to).map_err(|e| refused(usage, e.to_string()))?;
        let pool = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        // Of a directory that is yet to be made, the one it is made in.
        let there = absolute.ancestors().find_map(|above| above.canonicalize().ok());
        if pool.is_dir() && there.is_some_and(|there| there.starts_with(&pool)) {
            return Err(refused(usage, "it lies in the pool".to_owned()));
        }
        NewDirectory::begin(&absolute).map_err(|error| match error.kind() {
            std::io::ErrorKind::DirectoryNotEmpty => {
                refused(exists, "it is there and not empty".to_owned())
            }
            std::io::ErrorKind::NotADirectory => refused(exists, "it is no directory".to_owned()),
            std::io::ErrorKind::PermissionDenied if error.raw_os_error().is_none() => {
                refused(usage, error.to_string())
            }
            _ => ServiceError::new(ProblemCode::Io, format!("{shown}: {error}")),
        })
    }

    fn wanted(&self, asked: &Asked) -> Result<Wanted, ServiceError> {
        let mut wanted = Wanted { clusters: asked.clusters.clone(), snapshots: Vec::new() };
        let missing = |error: ServiceError| match self.survey.is_whole() {
            true => error.with_hint("see what is there: strongroom salvage --list"),
            false => ServiceError {
                code: ProblemCode::Corrupt,
                detail: format!("{}, in what is left of the catalog", error.detail),
                hint: Some("see what is there: strongroom salvage --list".to_owned()),
            },
        };
        for name in &asked.clusters {
            if !self.survey.has_cluster(name) {
                return Err(missing(ServiceError::cluster_not_found(name)));
            }
        }
        for prefix in &asked.snapshots {
            wanted.snapshots.push(self.snapshot(prefix).map_err(missing)?);
        }
        Ok(wanted)
    }

    fn snapshot(&self, prefix: &SnapshotPrefix) -> Result<SnapshotId, ServiceError> {
        match self.survey.matching(prefix)[..] {
            [id] => Ok(id),
            [] => Err(ServiceError::snapshot_not_found(prefix)),
            _ => {
                let what = format!("{prefix} names several snapshots");
                Err(ServiceError::new(ProblemCode::SnapshotAmbiguous, what))
            }
        }
    }

    /// The key of a header, from its owner in this very call. What the pool knows to be deleted
    /// stays so, whatever keyring was put there.
    fn key(&self, owner: &str, cluster: ClusterId, keys: &HeaderKeys) -> Result<ClusterKey, NoKey> {
        let refused = |error: KeysError| {
            let told = not_usable(error).while_doing(format!("{owner} cannot be copied"));
            let line = match &told.hint {
                Some(hint) => format!("{} ({hint})", told.detail),
                None => told.detail,
            };
            match told.code {
                ProblemCode::Corrupt => NoKey::Damaged(line),
                _ => NoKey::Refused(line),
            }
        };
        let usable = without_deleted(keys, self.survey.tombstones()).map_err(refused)?;
        let deadline = Deadline::after(KEY_DEADLINE);
        envelope::open(&self.registry, self.id, cluster, &usable, deadline).map_err(refused)
    }
}
