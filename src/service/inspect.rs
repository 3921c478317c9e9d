//! Looking at a pool that no daemon serves: checked, or shown for people who debug. Nothing is
//! written and nothing replayed.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::base::ids::SnapshotPrefix;
use crate::base::{BlockAddr, ClusterName, KeyState, ProblemCode};
use crate::catalog::{Catalog, Tombstone, tombstones_left};
use crate::crypto::HeaderKeys;
use crate::device::{self, Device, Mode};
use crate::keys::{
    AbsentKeyring, Anchor, AnchorKey, AtHand, ConfigDir, Deadline, Keyring, KeysError,
    LocalProvider, PoolConfig, Registry, envelope,
};
use crate::pool::{OpenOptions, Pool, PoolError};
use crate::service::error::ServiceError;
use crate::service::open::{AskPassphrase, engine_key, probe_known};
use crate::service::unlock::KEY_DEADLINE;
use crate::verify::{self, CheckOptions, Report, RolledBack, xray};

/// What to show.
pub enum Look<'a> {
    /// The superblock copies.
    Superblocks,
    /// The header of a cluster.
    ClusterHeader(&'a ClusterName),
    /// The header of a snapshot.
    SnapshotHeader(&'a SnapshotPrefix),
    /// Every node of the catalog, a line each.
    Nodes,
    /// One node of the catalog.
    Node(u64),
    /// Every log, or that of a cluster.
    Logs(Option<&'a ClusterName>),
    /// Every region, a line each.
    Regions,
    /// One region.
    Region(u64),
}

/// A pool that is open for looking.
pub struct Inspection {
    device: Arc<dyn Device>,
    pool: Arc<Pool>,
    registry: Registry,
    rolled_back: Option<RolledBack>,
    warnings: Vec<String>,
}

/// What is done with a keyring that is older than what was seen of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::service) enum OldKeyring {
    /// It opens what is only checked.
    IsUsed,
    /// It opens nothing: a key that was disabled or deleted since may be in it as it was.
    OpensNothing,
}

/// The keys that an offline command may ask for, and what the configuration remembers of the pool.
pub(in crate::service) struct KeysAtHand {
    pub registry: Registry,
    pub rolled_back: Option<RolledBack>,
    /// What somebody should know before believing what is shown.
    pub warnings: Vec<String>,
}

impl KeysAtHand {
    /// Nothing that is missing or wrong keeps a pool from being looked at; it is said.
    pub fn find(folder: &PoolConfig, pool: &Pool, anchor_key: &AnchorKey, old: OldKeyring) -> Self {
        let (mut registry, mut warnings) = (Registry::new(), Vec::new());
        let anchor = Anchor::load(&folder.anchor(), &pool.id(), anchor_key);
        let anchor = anchor.unwrap_or_else(|error| {
            let unknown = "whether the pool or its keyring was put back is not known";
            warnings.push(format!("{unknown}: {error}"));
            None
        });
        let keyring = Keyring::open(folder);
        let seen = anchor.map_or(0, |anchor| anchor.keyring_version);
        let version = keyring.as_ref().map_or(seen, Keyring::version);
        let (mut rolled_back, mut too_old) = (None, None);
        let found = pool.generation();
        match anchor.map(|anchor| (anchor, anchor.check(pool.incarnation(), found, version))) {
            Some((anchor, Err(KeysError::PoolRolledBack { .. }))) => {
                rolled_back = Some(RolledBack { found, seen: anchor.generation });
            }
            Some((_, Err(error))) => too_old = Some(error.to_string()),
            _ => {}
        }
        // The pool's own age is told first, and hides that of the keyring.
        if version < seen && too_old.is_none() {
            too_old = Some(KeysError::KeyringRolledBack { found: version, seen }.to_string());
        }
        warnings.extend(too_old.clone());
        match (keyring, too_old.filter(|_| old == OldKeyring::OpensNothing)) {
            (Ok(_), Some(why)) => registry.register(Arc::new(AbsentKeyring::new(why))),
            (Ok(keyring), None) => {
                registry.register(Arc::new(LocalProvider::new(Arc::new(keyring))));
            }
            (Err(error), _) => {
                registry.register(Arc::new(AbsentKeyring::new(error.to_string())));
                warnings.push(format!("clusters under embedded keys stay locked: {error}"));
            }
        }
        Self { registry, rolled_back, warnings }
    }
}

/// The keys of a header without the wraps of customer keys that the pool knows to be deleted: those
/// open nothing, whatever keyring was put there.
///
/// # Errors
/// [`KeysError::State`] where none is left.
pub(in crate::service) fn without_deleted(
    keys: &HeaderKeys,
    deleted: &[Tombstone],
) -> Result<HeaderKeys, KeysError> {
    let mut usable = keys.dup();
    usable.wraps.retain(|wrap| deleted.iter().all(|gone| gone.fingerprint != wrap.fingerprint));
    match keys.wraps.first() {
        Some(wrap) if usable.wraps.is_empty() => {
            Err(KeysError::State { id: wrap.key_id.clone(), state: KeyState::Deleted })
        }
        _ => Ok(usable),
    }
}

fn missing(what: String) -> ServiceError {
    ServiceError::new(ProblemCode::NotFound, what)
}

impl Inspection {
    /// Opens a pool for looking, under the lock that a daemon would hold.
    ///
    /// # Errors
    /// [`ProblemCode::PoolBusy`] while a daemon serves it; what else opening says.
    pub fn open(
        config: &ConfigDir,
        path: &Path,
        ask: AskPassphrase<'_>,
    ) -> Result<Self, ServiceError> {
        let placed = |e: ServiceError| e.while_doing(path.display()).beyond_check();
        let device = device::open(path, Mode::ReadWrite).map_err(|e| placed(e.into()))?;
        let sealed = probe_known(&device, config, path).map_err(placed)?;
        let folder = config.pool(&sealed.pool_id());
        let engine = engine_key(&sealed, &folder, AtHand::default(), ask)?;
        let anchor_key = AnchorKey::of(&engine);
        // What was put back is looked at all the same, and said to be.
        let options =
            OpenOptions { read_only: true, accept_rollback: true, ..OpenOptions::default() };
        let pool = sealed.unlock(engine, options).map_err(|e: PoolError| placed(e.into()))?;
        let at_hand = KeysAtHand::find(&folder, &pool, &anchor_key, OldKeyring::IsUsed);
        let KeysAtHand { registry, rolled_back, warnings } = at_hand;
        Ok(Self { device, pool, registry, rolled_back, warnings })
    }

    /// What somebody should know before believing what is shown.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether the configuration remembers a later state of this pool.
    #[must_use]
    pub const fn rolled_back(&self) -> Option<RolledBack> {
        self.rolled_back
    }

    /// Checks everything that the keys at hand reach, and the checksum of every block.
    #[must_use]
    pub fn check(&self) -> Report {
        let options = CheckOptions { items: &verify::volume_items, data: true };
        let id = self.pool.id();
        let (deleted, _) = tombstones_left(&self.pool.read_catalog());
        let mut report = verify::check(&self.pool, &options, &mut |cluster, keys| {
            let usable = without_deleted(keys, &deleted).ok()?;
            let deadline = Deadline::after(KEY_DEADLINE);
            envelope::open(&self.registry, id, cluster, &usable, deadline).ok()
        });
        report.rolled_back = self.rolled_back.or(report.rolled_back);
        report
    }

    /// Shows a part of the pool.
    ///
    /// # Errors
    /// Where there is no such part, or it cannot be read.
    pub fn look(&self, look: &Look<'_>) -> Result<Value, ServiceError> {
        let pool = &self.pool;
        match look {
            Look::Superblocks => shown(&xray::superblocks(&*self.device, Some(pool))?),
            Look::ClusterHeader(name) => {
                let header = xray::header(pool, xray::HeaderOf::Cluster(name))?;
                shown(&header.ok_or_else(|| ServiceError::cluster_not_found(name))?)
            }
            Look::SnapshotHeader(prefix) => {
                let catalog = Catalog::open(Arc::clone(pool))?;
                let ids = catalog.snapshot_ids();
                let mut found = ids.into_iter().filter(|id| prefix.matches(*id));
                let id = match (found.next(), found.next()) {
                    (Some(id), None) => id,
                    (None, _) => return Err(ServiceError::snapshot_not_found(prefix)),
                    (Some(_), Some(_)) => {
                        let what = format!("{prefix} names several snapshots");
                        return Err(ServiceError::new(ProblemCode::SnapshotAmbiguous, what));
                    }
                };
                let header = xray::header(pool, xray::HeaderOf::Snapshot(id))?;
                shown(&header.ok_or_else(|| ServiceError::snapshot_not_found(id))?)
            }
            Look::Nodes => shown(&xray::nodes(pool)),
            Look::Node(addr) => {
                let node = xray::node(pool, BlockAddr(*addr));
                let none = || missing(format!("the catalog has no node at block {addr}"));
                shown(&node.ok_or_else(none)?)
            }
            Look::Logs(name) => {
                let of = match name {
                    Some(name) => Some(Catalog::open(Arc::clone(pool))?.cluster(name)?.id),
                    None => None,
                };
                shown(&xray::logs(pool, of)?)
            }
            Look::Regions => shown(&xray::regions(pool)?),
            Look::Region(index) => {
                let none = || missing(format!("the pool has no region {index}"));
                let number = u32::try_from(*index).map_err(|_| none())?;
                shown(&xray::region(pool, number)?.ok_or_else(none)?)
            }
        }
    }
}

fn shown<T: serde::Serialize>(value: &T) -> Result<Value, ServiceError> {
    serde_json::to_value(value)
        .map_err(|e| ServiceError::new(ProblemCode::Internal, format!("cannot be shown: {e}")))
}
