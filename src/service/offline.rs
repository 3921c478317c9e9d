//! Uses of a pool without a daemon: making one, and keeping what opens it.
//!
//! Whatever makes or moves keys here proves from disk that the new way opens the pool before it
//! reports success, and takes back what it made when it fails half way.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::base::size::format_size;
use crate::base::{PoolId, ProblemCode};
use crate::catalog::Catalog;
use crate::crypto::{EngineKey, EngineWrap, EngineWrapKind, KdfParams, RootSecret};
use crate::device::{self, Device, DeviceError, Found, Mode};
use crate::keys::backup::{self, BackupReport};
use crate::keys::{self, ConfigDir, Keyring, KeysError, PoolConfig};
use crate::pool::{self, PoolError};
use crate::service::error::ServiceError;
use crate::service::open::probe_known;
use crate::sys;

/// What a secret that stood in no file yet was named.
const PASSPHRASE_NAME: &str = "";
/// Bytes at the front of a device that are cleared with `--wipe`: all superblock copies.
const WIPE_BYTES: usize = 4 << 20;

/// What to do where a pool stands already.
const USE_IT: &str = "use it as it is, or choose another place: --pool PATH";
/// Filesystems that a reboot empties.
const IN_MEMORY: &[&str] = &["tmpfs", "ramfs"];

/// Something of worth may stand there; a pool of ours does.
fn in_use(path: &Path, what: &str) -> ServiceError {
    let hint = match what {
        device::POOL_SIGNATURE => USE_IT.to_owned(),
        _ => format!("to overwrite it: --wipe {}", path.display()),
    };
    ServiceError::new(ProblemCode::PoolExists, format!("{} holds {what}", path.display()))
        .with_hint(hint)
}

/// An error of a pool, with its place.
fn at(path: &Path) -> impl Fn(PoolError) -> ServiceError + Copy {
    move |error| ServiceError::from(error).while_doing(path.display())
}

/// What shall open a new pool.
pub enum NewSecret {
    /// A key file; without a path: `root.key` in the pool's folder of the configuration. One that
    /// is there is used, one that is not is made.
    File(Option<PathBuf>),
    /// A passphrase.
    Passphrase(Zeroizing<Vec<u8>>),
    /// A systemd credential.
    Credential(String),
}

/// Where the recovery key of a new pool goes.
pub enum NewRecovery {
    /// To whoever asked, to be printed.
    Show,
    /// To a new file.
    File(PathBuf),
    /// There is none.
    None,
}

/// A pool to be made.
pub struct NewPool {
    /// A directory, a file ending in `.img`, or a block device.
    pub path: PathBuf,
    /// Its size in bytes; see [`device::create`] for what goes without.
    pub size_bytes: Option<u64>,
    /// What opens it.
    pub secret: NewSecret,
    /// What else opens it.
    pub recovery: NewRecovery,
    /// The device named again, to be overwritten.
    pub wipe: Option<PathBuf>,
}

/// A pool that was made.
pub struct MadePool {
    /// Its identity.
    pub id: PoolId,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Files without which, or without the recovery key, the pool is noise.
    pub back_up: Vec<PathBuf>,
    /// The recovery key in groups, to be shown once.
    pub recovery_key: Option<Zeroizing<String>>,
    /// What somebody who trusts this pool should know, a line each.
    pub warnings: Vec<String>,
    made: Made,
}

impl MadePool {
    /// Removes it again, with all that was made for it: nobody was told how to open it.
    pub fn take_back(self) {
        self.made.take_back();
    }
}

/// Makes a pool, its secret, its keyring and its recovery key, and opens it by each of them before
/// it says so. What was made is taken back where that fails.
///
/// # Errors
/// What is wrong with the place or a secret, by its code; nothing is left behind.
pub fn make_pool(config: &ConfigDir, new: NewPool) -> Result<MadePool, ServiceError> {
    let mut made = Made::default();
    match make(config, &new, &mut made) {
        Ok(pool) => Ok(MadePool { made, ..pool }),
        Err(error) => {
            made.take_back();
            Err(error)
        }
    }
}

/// What was made so far.
#[derive(Default)]
struct Made {
    /// A block device that a pool was written to.
    device: Option<PathBuf>,
    /// The file of a pool: sparse, and far too long to be overwritten.
    image: Option<PathBuf>,
    /// The pool's folder in the configuration, of an identity that nothing else has.
    folder: Option<PathBuf>,
    files: Vec<PathBuf>,
    directories: Vec<PathBuf>,
}

impl Made {
    fn take_back(&self) {
        if let Some(Ok(device)) = self.device.as_ref().map(|p| device::open(p, Mode::ReadWrite)) {
            let _ = clear(&*device);
        }
        if let Some(image) = &self.image {
            let _ = std::fs::remove_file(image);
        }
        let kept = self.folder.as_ref().and_then(|folder| std::fs::read_dir(folder).ok());
        let kept = kept.into_iter().flatten().flatten().map(|entry| entry.path());
        for file in self.files.iter().cloned().chain(kept) {
            let _ = sys::file_io::overwrite_and_remove(&file);
        }
        // Only where nothing else stands in them.
        for directory in self.directories.iter().rev() {
            let _ = std::fs::remove_dir(directory);
        }
    }
}

/// Overwrites all superblock copies.
fn clear(device: &dyn Device) -> Result<(), DeviceError> {
    device.write(0, &sys::AlignedBuf::new(WIPE_BYTES))?;
    device.flush()
}

fn make(config: &ConfigDir, new: &NewPool, made: &mut Made) -> Result<MadePool, ServiceError> {
    check_wipe(new)?;
    let id = PoolId(sys::random::array());
    let folder = config.pool(&id);
    let engine = EngineKey::random();
    let device = make_device(new, made)?;
    folder.ensure()?;
    made.directories.push(folder.path().to_owned());
    made.folder = Some(folder.path().to_owned());
    let mut warnings = warnings(new, &folder);
    let mut wraps = vec![secret_wrap(&id, &folder, &new.secret, &engine, made)?];
    let recovery = match &new.recovery {
        NewRecovery::None => {
            warnings.push("there is no recovery key: the root secret alone opens the pool".into());
            None
        }
        NewRecovery::Show | NewRecovery::File(_) => {
            let secret = RootSecret::random();
            let kind = EngineWrapKind::Recovery;
            wraps.push(keys::wrap_engine_key(&id, kind, "", &secret, None, &engine)?);
            Some(keys::format_recovery_key(&secret))
        }
    };
    if let (NewRecovery::File(path), Some(text)) = (&new.recovery, &recovery) {
        write_recovery(path, &id, text)?;
        made.files.push(path.clone());
    }
    let now = sys::clock::now();
    drop(Keyring::create(&folder, now)?);
    made.files.extend([folder.keyring(), folder.keyring_key()]);
    let options = pool::CreateOptions {
        pool_id: id,
        node_bytes: pool::NODE_BYTES,
        engine_key: engine.dup(),
        wraps,
        now,
    };
    pool::create(&device, options).map_err(at(&new.path))?;
    prove(&device, new, &folder, recovery.as_deref().map(String::as_str))?;
    let mut back_up = vec![folder.root_key(), folder.keyring(), folder.keyring_key()];
    if let NewSecret::File(Some(path)) = &new.secret {
        back_up.push(path.clone());
    }
    back_up.retain(|path| path.exists());
    let recovery_key = recovery.filter(|_| matches!(new.recovery, NewRecovery::Show));
    let size_bytes = device.size_bytes();
    Ok(MadePool { id, size_bytes, back_up, recovery_key, warnings, made: Made::default() })
}

fn check_wipe(new: &NewPool) -> Result<(), ServiceError> {
    let Some(named) = &new.wipe else { return Ok(()) };
    let same = match (named.canonicalize(), new.path.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => named == &new.path,
    };
    if same {
        Ok(())
    } else {
        let what =
            format!("--wipe names {}, and the pool is {}", named.display(), new.path.display());
        Err(ServiceError::new(ProblemCode::Usage, what))
    }
}

/// The room for the pool; a block device only where it holds nothing, or was named again.
fn make_device(new: &NewPool, made: &mut Made) -> Result<Arc<dyn Device>, ServiceError> {
    let there = std::fs::metadata(&new.path).ok();
    let on_block_device = there.as_ref().is_some_and(|m| m.file_type().is_block_device());
    if there.is_none() && is_for_devices(&new.path) {
        return Err(no_such_device(&new.path));
    }
    if !on_block_device {
        let device = device::create(&new.path, new.size_bytes).map_err(|error| {
            if there.is_none() {
                // Only where nothing stands in it.
                let _ = std::fs::remove_dir(&new.path);
            }
            not_made(new, error)
        })?;
        if there.is_none() && new.path.is_dir() {
            made.directories.push(new.path.clone());
        }
        made.image = Some(device.describe().path);
        return Ok(device);
    }
    let device = device::create(&new.path, new.size_bytes)?;
    match device::find_signature(&*device)? {
        Found::Nothing => {}
        _ if new.wipe.is_some() => clear(&*device)?,
        Found::Known(name) => return Err(in_use(&new.path, name)),
        Found::Unknown => return Err(in_use(&new.path, "something")),
    }
    made.device = Some(new.path.clone());
    Ok(device)
}

/// Whether what stands there are devices: a file in its place is a mistyped name, and goes with the
/// next reboot.
fn is_for_devices(path: &Path) -> bool {
    path.starts_with("/dev") && !path.starts_with("/dev/shm")
}

fn no_such_device(path: &Path) -> ServiceError {
    let place = path.display();
    let what = format!("{place} does not exist, and below /dev only a device holds a pool");
    ServiceError::new(ProblemCode::PoolNotFound, what)
        .with_hint("name a device that is there, or a place outside of /dev: --pool PATH")
}

/// Why there is no room for the pool, with its place and what to do.
fn not_made(new: &NewPool, error: DeviceError) -> ServiceError {
    let place = new.path.display();
    let (what, hint) = match &error {
        DeviceError::Exists { .. } => {
            return ServiceError::from(error).with_hint(USE_IT);
        }
        DeviceError::Io { source, .. } => match source.kind() {
            ErrorKind::FileTooLarge | ErrorKind::InvalidInput => {
                let size = new.size_bytes.map(format_size).unwrap_or_default();
                (format!("{size}: file too large for this filesystem"), "choose a smaller --size")
            }
            _ => (source.to_string(), "choose a place that you can write to: --pool PATH"),
        },
        _ => return ServiceError::from(error).while_doing(place),
    };
    let code = ServiceError::from(error).code;
    ServiceError::new(code, format!("the pool {place} cannot be made: {what}")).with_hint(hint)
}

fn secret_wrap(
    id: &PoolId,
    folder: &PoolConfig,
    secret: &NewSecret,
    engine: &EngineKey,
    made: &mut Made,
) -> Result<EngineWrap, ServiceError> {
    let wrap = match secret {
        NewSecret::File(path) => {
            let place = path.clone().unwrap_or_else(|| folder.root_key());
            let root = if place.exists() {
                keys::root_secret::read_secret_file(&place)?
            } else {
                let root = keys::root_secret::create_secret_file(&place)?;
                made.files.push(place);
                root
            };
            let name = path.as_ref().map(|p| p.display().to_string()).unwrap_or_default();
            keys::wrap_engine_key(id, EngineWrapKind::File, &name, &root, None, engine)
        }
        NewSecret::Passphrase(passphrase) => {
            let kdf = KdfParams::new();
            let root = keys::root_secret::secret_of_passphrase(passphrase, &kdf)?;
            let kind = EngineWrapKind::Passphrase;
            keys::wrap_engine_key(id, kind, PASSPHRASE_NAME, &root, Some(kdf), engine)
        }
        NewSecret::Credential(name) => {
            let missing = || {
                let what = format!("there is no credential '{name}': systemd hands none over");
                ServiceError::new(ProblemCode::RootSecretMissing, what)
                    .with_hint(format!("LoadCredentialEncrypted={name}:PATH"))
            };
            let directory = keys::root_secret::credentials_directory().ok_or_else(missing)?;
            let root = keys::root_secret::read_credential(&directory, name)?;
            keys::wrap_engine_key(id, EngineWrapKind::Credential, name, &root, None, engine)
        }
    };
    Ok(wrap?)
}

/// Opens the new pool by each of its secrets, as they stand on disk.
fn prove(
    device: &Arc<dyn Device>,
    new: &NewPool,
    folder: &PoolConfig,
    recovery: Option<&str>,
) -> Result<(), ServiceError> {
    let mut at_hand = keys::AtHand::default();
    if let NewSecret::Passphrase(passphrase) = &new.secret {
        at_hand.passphrase = Some(passphrase.clone());
    }
    let sealed = pool::probe(device).map_err(at(&new.path))?;
    let (engine, _) = keys::open_engine_key(&sealed.pool_id(), sealed.wraps(), folder, &at_hand)?;
    if let Some(text) = recovery {
        let secret = keys::parse_recovery_key(text)?;
        let opened =
            sealed.wraps().iter().filter(|w| w.kind == EngineWrapKind::Recovery).any(|w| {
                matches!(keys::unwrap_engine_key(&sealed.pool_id(), w, &secret), Ok(Some(_)))
            });
        if !opened {
            let tried = "the recovery key just made".to_owned();
            return Err(KeysError::RootSecretWrong { tried }.into());
        }
    }
    let pool = sealed.unlock(engine, pool::OpenOptions::default()).map_err(at(&new.path))?;
    drop(Catalog::open(Arc::clone(&pool))?);
    pool.close().map_err(at(&new.path))?;
    Ok(folder.note_place(&new.path)?)
}

fn write_recovery(path: &Path, id: &PoolId, text: &str) -> Result<(), ServiceError> {
    let failed = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AlreadyExists => KeysError::FileExists { path: path.to_owned() },
        _ => KeysError::File { op: "write", path: path.to_owned(), source },
    };
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let body = Zeroizing::new(format!(
        "# Recovery key of the Strongroom pool {id}. Keep it away from the pool.\n{text}\n"
    ));
    file.write_all(body.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        sys::file_io::sync_directory(parent).map_err(failed)?;
    }
    Ok(())
}

fn warnings(new: &NewPool, folder: &PoolConfig) -> Vec<String> {
    let mut out = Vec::new();
    if shares_device(&new.path, folder.path()) {
        out.push(format!(
            "the pool and what opens it ({}) stand on one device: who takes it has both",
            folder.path().display()
        ));
    }
    if let Some(name) = in_memory(&new.path) {
        let place = new.path.display();
        out.push(format!("{place} stands in memory ({name}): the next reboot takes the pool away"));
    }
    if matches!(new.secret, NewSecret::Passphrase(_)) {
        out.push("a thief of the pool can guess at the passphrase offline: make it long".into());
    }
    if sys::process::swap_is_on() {
        out.push("this machine swaps: what is not locked in memory may reach the disk".into());
    }
    out
}

/// The filesystem that holds a pool's file, where it stands in memory.
fn in_memory(pool: &Path) -> Option<&'static str> {
    let is_device = std::fs::metadata(pool).ok()?.file_type().is_block_device();
    let name = sys::file_io::filesystem_name(pool).ok()?;
    (!is_device && IN_MEMORY.contains(&name)).then_some(name)
}

/// Whether two places are on one filesystem, or one is the device that holds the other.
pub(in crate::service) fn shares_device(pool: &Path, folder: &Path) -> bool {
    let (Ok(pool), Ok(folder)) = (std::fs::metadata(pool), std::fs::metadata(folder)) else {
        return false;
    };
    if pool.file_type().is_block_device() {
        pool.rdev() == folder.dev()
    } else {
        pool.dev() == folder.dev()
    }
}

/// The identity of the pool at `path`, whether or not a daemon serves it.
///
/// # Errors
/// The pool's, by its code; a file's.
pub fn pool_id(config: &ConfigDir, path: &Path) -> Result<(PoolId, Vec<EngineWrap>), ServiceError> {
    let device = device::open(path, Mode::ReadOnly)?;
    let sealed = probe_known(&device, config, path).map_err(|e| e.while_doing(path.display()))?;
    Ok((sealed.pool_id(), sealed.wraps().to_vec()))
}

/// A backup of the configuration that was made.
pub struct BackedUp {
    /// Of which pool, and what it holds.
    pub report: BackupReport,
    /// What whoever relies on it should know, a line each.
    pub warnings: Vec<String>,
}

/// Backs the configuration of the pool at `path` up to a new file, sealed under a passphrase.
///
/// # Errors
/// The pool's, by its code; a file's.
pub fn back_up(
    config: &ConfigDir,
    path: &Path,
    passphrase: &[u8],
    to: &Path,
) -> Result<BackedUp, ServiceError> {
    let (id, wraps) = pool_id(config, path)?;
    let folder = config.pool(&id);
    // As it is before it is read for the backup: what is made meanwhile counts as not backed up.
    let keyring = Keyring::open(&folder);
    let (root, mut warnings) = proven_root(&id, &wraps, &folder);
    if root.is_none() {
        let ways: Vec<String> = wraps.iter().map(keys::label).collect();
        warnings.push(format!(
            "the backup holds no root secret: no key file that can be read here opens the pool; it \
             takes one of these beside the backup: {}",
            ways.join(", ")
        ));
    }
    if let Err(error) = &keyring {
        warnings.push(format!(
            "the backup holds no keyring that opens: {error}; what is under keys of the embedded \
             keyring (local://NAME) takes that, or a backup which holds it"
        ));
    }
    let report = backup::backup(&folder, id, root.as_ref(), passphrase, &KdfParams::new(), to)?;
    // Proven before it is relied upon: it opens, and names this pool.
    backup::verify(to, passphrase)?;
    if let Ok(keyring) = keyring {
        keys::backup::remember(&folder, &keyring)?;
    }
    Ok(BackedUp { report, warnings })
}

/// The first key file that opens the pool, and what is wrong with those before it.
fn proven_root(
    id: &PoolId,
    wraps: &[EngineWrap],
    folder: &PoolConfig,
) -> (Option<RootSecret>, Vec<String>) {
    let named = wraps.iter().filter(|w| w.kind == EngineWrapKind::File && !w.name.is_empty());
    let mut warnings = Vec::new();
    for path in std::iter::once(folder.root_key()).chain(named.map(|w| PathBuf::from(&w.name))) {
        if !path.exists() {
            continue;
        }
        let opens = |root: &RootSecret| {
            let mut plain = wraps.iter().filter(|w| w.kdf.is_none());
            plain.any(|w| matches!(keys::unwrap_engine_key(id, w, root), Ok(Some(_))))
        };
        match keys::root_secret::read_secret_file(&path) {
            Ok(root) if opens(&root) => return (Some(root), warnings),
            Ok(_) => warnings.push(format!("{} does not open the pool", path.display())),
            Err(error) => warnings.push(error.to_string()),
        }
    }
    (None, warnings)
}

/// The pool that a backup is of; needs no passphrase.
///
/// # Errors
/// A file that is no backup.
pub fn backed_up_pool(from: &Path) -> Result<PoolId, ServiceError> {
    Ok(backup::backed_up_pool(from)?)
}

/// Brings a backed-up configuration back; a keyring that is there takes in the keys of the backup's.
///
/// # Errors
/// A wrong passphrase, a damaged file, two keys of one name, [`ProblemCode::PoolBusy`] while a daemon
/// serves the pool; nothing was changed.
pub fn bring_back(
    config: &ConfigDir,
    passphrase: &[u8],
    from: &Path,
) -> Result<BackupReport, ServiceError> {
    Ok(backup::restore(config, from, passphrase)?)
}

/// The version of the format that this program writes.
pub const FORMAT_VERSION: u32 = pool::superblock::VERSION;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_that_is_there_is_used_and_something_else_named_again() {
        let hint = |what| in_use(Path::new("/dev/x"), what).hint.unwrap();
        assert!(hint(device::POOL_SIGNATURE).contains("use it as it is"));
        assert!(hint("ext2/3/4").contains("--wipe /dev/x"));
    }

    #[test]
    fn below_dev_nothing_is_made_but_in_the_memory_that_is_there_for_files() {
        let for_devices = |path: &str| is_for_devices(Path::new(path));
        assert!(for_devices("/dev/mapper/typo") && for_devices("/dev/typo.img"));
        assert!(!for_devices("/dev/shm/a/pool") && !for_devices("/device"));
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        assert_eq!(in_memory(dir.path()), Some("tmpfs"));
        assert_eq!(in_memory(Path::new("/proc")), None);
    }
}
