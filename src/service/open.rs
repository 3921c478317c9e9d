//! From a device to a service, and the end of it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::base::size::format_size;
use crate::base::units::BLOCK_SIZE_U64;
use crate::base::{Generation, ProblemCode, Timestamp};
use crate::catalog::Catalog;
use crate::crypto::{EngineKey, EngineWrap};
use crate::device::{Device, DeviceError, Operation};
use crate::keys::{
    AbsentKeyring, Anchor, AnchorKey, AtHand, ConfigClaim, ConfigDir, Keyring, KeysError,
    LocalProvider, PoolConfig, Provider, Registry, open_engine_key,
};
use crate::pool::{self, OpenOptions, Pool, PoolError, Sealed};
use crate::service::Service;
use crate::service::answers::Answers;
use crate::service::error::{SUPERBLOCK_LOST, ServiceError};
use crate::service::expiry::{ExpiryClock, youngest};
use crate::service::keyring::with_remedy;
use crate::service::mounts::{Mounter, Table};
use crate::service::records::Recorded;
use crate::sys::clock;
use crate::sys::sync::{Condvar, Mutex, Rank, RwLock};
use crate::volume::VolumeOptions;

/// Where the time comes from.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What a service is opened with.
pub struct OpenService {
    /// The pool's device.
    pub device: Arc<dyn Device>,
    /// Where the pool stands, for people.
    pub pool_path: PathBuf,
    /// The configuration directory.
    pub config: ConfigDir,
    /// Secrets beside those in files and credentials.
    pub at_hand: AtHand,
    /// Makes mounts.
    pub mounter: Arc<dyn Mounter>,
    /// Key providers beside the embedded keyring.
    pub providers: Vec<Arc<dyn Provider>>,
    /// Bytes for cached tree nodes.
    pub cache_bytes: usize,
    /// Longest time from a change to the checkpoint that writes it.
    pub checkpoint_interval: Duration,
    /// Opens a pool or keyring that is older than what was last seen.
    pub accept_rollback: bool,
    /// Where the time comes from.
    pub clock: Clock,
    /// How the heads of mounted clusters are opened; owners and inode numbers are those of each.
    pub volumes: VolumeOptions,
}

impl OpenService {
    /// The usual choices.
    #[must_use]
    pub fn new(
        device: Arc<dyn Device>,
        pool_path: PathBuf,
        config: ConfigDir,
        mounter: Arc<dyn Mounter>,
    ) -> Self {
        Self {
            device,
            pool_path,
            config,
            at_hand: AtHand::default(),
            mounter,
            providers: Vec::new(),
            cache_bytes: 64 << 20,
            checkpoint_interval: Duration::from_secs(10),
            accept_rollback: false,
            clock: Arc::new(clock::now),
            volumes: VolumeOptions::default(),
        }
    }
}

/// Asks somebody for the passphrase; `None`: nobody can be asked.
pub type AskPassphrase<'a> = &'a mut dyn FnMut() -> Option<Zeroizing<Vec<u8>>>;

/// Looks for a pool. Where its superblocks were overwritten, the configuration may still know that
/// one stood there: that is damage, not a pool that never was.
pub(in crate::service) fn probe_known(
    device: &Arc<dyn Device>,
    config: &ConfigDir,
    place: &Path,
) -> Result<Sealed, ServiceError> {
    pool::probe(device).map_err(|error| not_found(error, config, place))
}

/// Why no pool was found: where one is known to have stood, its superblock is lost.
pub(in crate::service) fn not_found(
    error: PoolError,
    config: &ConfigDir,
    place: &Path,
) -> ServiceError {
    let known = match &error {
        PoolError::NotAPool => config.pool_known_at(place),
        _ => None,
    };
    let Some(id) = known else { return error.into() };
    let what = format!("the pool {id} stood here, and every copy of its superblock is gone");
    ServiceError::new(ProblemCode::Corrupt, what).with_hint(SUPERBLOCK_LOST)
}

/// The pool's folder, for this process alone.
fn claim(config: &PoolConfig, place: &Path) -> Result<ConfigClaim, KeysError> {
    config.ensure()?;
    let claim = config.claim()?;
    if let Err(error) = config.note_place(place) {
        log::debug!("where the pool stands was not written down: {error}");
    }
    Ok(claim)
}

/// Opens the engine key; the passphrase is asked for only where nothing else opens it.
pub(in crate::service) fn engine_key(
    sealed: &Sealed,
    config: &PoolConfig,
    mut at_hand: AtHand,
    ask: AskPassphrase<'_>,
) -> Result<EngineKey, KeysError> {
    let (id, wraps) = (sealed.pool_id(), sealed.wraps());
    let error = match open_engine_key(&id, wraps, config, &at_hand) {
        Ok((key, _)) => return Ok(key),
        Err(error) => error,
    };
    let by_passphrase = |w: &EngineWrap| w.kdf.is_some();
    let worth_asking = at_hand.passphrase.is_none() && wraps.iter().any(by_passphrase);
    match (worth_asking, worth_asking.then(ask).flatten()) {
        (true, Some(passphrase)) => {
            at_hand.passphrase = Some(passphrase);
            open_engine_key(&id, wraps, config, &at_hand).map(|(key, _)| key)
        }
        _ => Err(error),
    }
}

/// The keyring of the pool. One is made where neither it nor its secret is there, unless one is
/// expected: an empty one in place of one that is missing would hide the loss.
fn open_keyring(config: &PoolConfig, expected: bool, now: Timestamp) -> Result<Keyring, KeysError> {
    if expected || config.keyring().exists() || config.keyring_key().exists() {
        Keyring::open(config)
    } else {
        Keyring::create(config, now)
    }
}

/// Puts the provider of the embedded keys there: of one that cannot be opened all keys are
/// unreachable. Returns the keyring, or why there is none.
fn register_keyring(
    registry: &mut Registry,
    keyring: Result<Keyring, KeysError>,
) -> (Option<Arc<Keyring>>, Option<String>) {
    match keyring {
        Ok(keyring) => {
            let keyring = Arc::new(keyring);
            registry.register(Arc::new(LocalProvider::new(keyring.clone())));
            (Some(keyring), None)
        }
        Err(error) => {
            let problem = error.to_string();
            log::error!("keys of the embedded keyring are unreachable: {problem}");
            registry.register(Arc::new(AbsentKeyring::new(problem)));
            (None, Some(with_remedy(&error.into())))
        }
    }
}

/// A damaged anchor is made again where a rollback is accepted.
fn unless_accepted(error: KeysError, accepted: bool) -> Result<Option<Anchor>, KeysError> {
    if accepted {
        log::warn!("{error}; it is made again");
        return Ok(None);
    }
    Err(error)
}

/// Why a pool cannot have that size.
fn not_grown(size_bytes: u64, error: PoolError) -> ServiceError {
    let too_large = [ErrorKind::FileTooLarge, ErrorKind::InvalidInput];
    let (code, why, hint) = match &error {
        PoolError::Io(DeviceError::Io { op: Operation::Grow, source, .. })
            if too_large.contains(&source.kind()) =>
        {
            (ProblemCode::Io, "file too large for this filesystem", "choose a smaller --size")
        }
        PoolError::Io(DeviceError::OutOfRange { .. }) => {
            (ProblemCode::Io, "the device is not that large", "enlarge the device first")
        }
        PoolError::Invalid(_) => {
            (ProblemCode::Usage, "no pool can be that large", "choose a smaller --size")
        }
        _ => return error.into(),
    };
    ServiceError::new(code, format!("{}: {why}", format_size(size_bytes))).with_hint(hint)
}

impl Service {
    /// Opens a pool: its engine key, its recovery, its catalog, its keyring. Mounts that were
    /// recorded are made by [`Service::remount`].
    ///
    /// # Errors
    /// [`ProblemCode::NotAPool`], [`ProblemCode::RootSecretMissing`], [`ProblemCode::RootSecret`],
    /// [`ProblemCode::PoolRolledBack`], [`ProblemCode::PoolBusy`] and what else the pool says. A
    /// keyring that cannot be opened is none: the pool opens, keys of the keyring are unreachable, and `status` says why.
    pub fn open(options: OpenService, ask: AskPassphrase<'_>) -> Result<Arc<Self>, ServiceError> {
        let sealed = probe_known(&options.device, &options.config, &options.pool_path)?;
        let id = sealed.pool_id();
        let config = options.config.pool(&id);
        let claim = claim(&config, &options.pool_path)?;
        let by_recovery_key = options.at_hand.recovery.is_some();
        let engine_key = engine_key(&sealed, &config, options.at_hand, ask)?;
        let anchor_key = AnchorKey::of(&engine_key);
        let loaded = Anchor::load(&config.anchor(), &id, &anchor_key);
        let anchor = loaded.or_else(|error| unless_accepted(error, options.accept_rollback))?;
        let keyring_seen = anchor.map_or(0, |a| a.keyring_version);
        let expected = keyring_seen > 0 && !options.accept_rollback;
        let keyring = open_keyring(&config, expected, (options.clock)());
        if let (Some(anchor), false) = (&anchor, options.accept_rollback) {
            let version = keyring.as_ref().map_or(anchor.keyring_version, Keyring::version);
            anchor.check(sealed.incarnation(), sealed.generation(), version)?;
        }
        let pool = sealed.unlock(
            engine_key.dup(),
            OpenOptions {
                cache_bytes: options.cache_bytes,
                // Judged by the superblock that the key opens: what was read so far may be forged.
                remembered: anchor.map(|a| a.generation),
                remembered_incarnation: anchor.map_or(0, |a| a.incarnation),
                accept_rollback: options.accept_rollback,
                checkpoint_interval: options.checkpoint_interval,
                ..OpenOptions::default()
            },
        )?;
        let catalog = Catalog::open(pool)?;
        let expiry = ExpiryClock::load(&config, || youngest(&catalog, (options.clock)()));
        let mut registry = Registry::new();
        options.providers.into_iter().for_each(|p| registry.register(p));
        let (keyring, keyring_problem) = register_keyring(&mut registry, keyring);
        let service = Arc::new(Self {
            catalog,
            registry: RwLock::new(Rank::KeyRegistry, registry),
            keyring: RwLock::new(Rank::KeyringPlace, keyring),
            keyring_problem: RwLock::new(Rank::KeyringProblem, keyring_problem),
            keyring_seen,
            config,
            _claim: claim,
            pool_path: options.pool_path,
            by_recovery_key,
            engine_key,
            anchor_key,
            mounter: options.mounter,
            clock: options.clock,
            volumes: options.volumes,
            answers: Answers::default(),
            mounts: Mutex::new(Rank::Mounts, Table::default()),
            records: Mutex::new(Rank::MountRecords, Recorded::default()),
            mounts_changed: Condvar::new(),
            root_secrets: Mutex::new(Rank::RootSecrets, ()),
            scrubbing: Default::default(),
            expiry: Mutex::new(Rank::Expiry, expiry),
            key_deletions: Mutex::new(Rank::KeyDeletions, ()),
            anchor: Mutex::new(Rank::Anchor, ()),
        });
        service.load_records();
        service.bury_deleted_keys()?;
        service.store_anchor()?;
        Ok(service)
    }

    /// Keys that the pool remembers as deleted stay so, whatever keyring was put there; and it
    /// remembers all that the keyring deleted.
    pub(in crate::service) fn bury_deleted_keys(&self) -> Result<(), ServiceError> {
        let Some(keyring) = self.keyring.read().clone() else { return Ok(()) };
        let deleted: Vec<_> =
            self.catalog.tombstones()?.into_iter().map(|t| t.fingerprint).collect();
        for id in keyring.bury(&deleted, self.now())? {
            log::warn!("the key '{id}' came back with an older keyring and was deleted again");
        }
        // A pool without room for this opens all the same: room is made through it.
        if let Err(error) = self.remember_missed(&keyring) {
            log::error!("deleted keys that the pool does not remember: {error}");
        }
        Ok(())
    }

    /// Writes down what the pool and the keyring are now, so that an older one is found out.
    ///
    /// # Errors
    /// [`ProblemCode::Io`]
    pub fn store_anchor(&self) -> Result<(), ServiceError> {
        let _in_turn = self.anchor.lock();
        let pool = self.pool();
        // Without a keyring, what was seen of it stays: it may come back, and not an older one.
        let keyring = self.keyring.read().clone();
        let keyring_version = keyring.map_or(self.keyring_seen, |k| k.version());
        let anchor = Anchor {
            pool: pool.id(),
            incarnation: pool.incarnation(),
            generation: pool.generation(),
            keyring_version,
        };
        Ok(anchor.store(&self.config.anchor(), &self.anchor_key)?)
    }

    /// After a change that lets fewer read than before: the pool of before it is found out from now
    /// on. What was done is done, whatever becomes of that.
    pub(in crate::service) fn anchor_narrowed(&self) {
        if let Err(error) = self.store_anchor() {
            log::error!("the generation of a change of keys was not written down: {error}");
        }
    }

    /// The pool.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        self.catalog.pool()
    }

    /// The generation of the last durable checkpoint.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.pool().generation()
    }

    /// Ends the service: everything is unmounted, the last checkpoint made. With `forget` (the
    /// command `shutdown`) the mounts are not made again at the next start; without it (a signal,
    /// a reboot) they are.
    ///
    /// # Errors
    /// [`ProblemCode::Busy`] while files are open, unless `force`: the service goes on then.
    /// The pool's: what had been committed is safe then, in the logs.
    pub fn close(&self, force: bool, forget: bool) -> Result<(), ServiceError> {
        self.scrubbing.end();
        self.unmount_all(force, forget)?;
        if forget {
            self.forget_all_records();
        }
        self.pool().close()?;
        self.write_expiry_clock();
        if let Err(error) = self.store_anchor() {
            log::warn!("the last generation could not be written down: {error}");
        }
        Ok(())
    }

    /// Where the pool stands, as it was named.
    #[must_use]
    pub fn pool_path(&self) -> &Path {
        &self.pool_path
    }

    /// Grows the pool.
    ///
    /// # Errors
    /// [`ProblemCode::Usage`] for a size below the present one; the pool's.
    pub fn grow_pool(&self, size_bytes: u64) -> Result<(), ServiceError> {
        let present = self.pool().geometry().total_blocks * BLOCK_SIZE_U64;
        if size_bytes < present {
            let what = format!("the pool has {present} bytes and cannot shrink");
            return Err(ServiceError::new(ProblemCode::Usage, what)
                .with_hint(format!("name a --size above {present}")));
        }
        self.pool().grow(size_bytes).map_err(|error| not_grown(size_bytes, error))
    }
}
