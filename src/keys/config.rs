//! Where everything of a pool stands that must not stand in it: the configuration directory.
//!
//! `$STRONGROOM_CONFIG` (else `/etc/strongroom` for root, `$XDG_CONFIG_HOME/strongroom` or
//! `~/.config/strongroom` for others) holds `strongroom.toml` and, for each pool, a folder
//! `pools/POOL_ID`. Folders are 0700, files 0600; a file is replaced by a temporary one that is
//! flushed, renamed, and whose folder is flushed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::base::PoolId;
use crate::keys::error::KeysError;
use crate::sys::file_io::is_leftover;
use crate::sys::{file_io, process};

/// The configuration directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigDir {
    root: PathBuf,
}

impl ConfigDir {
    /// That directory; it need not exist yet.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory that the environment and the effective user name.
    ///
    /// # Errors
    /// [`KeysError::NoConfigDirectory`]
    pub fn from_environment() -> Result<Self, KeysError> {
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let root = if let Some(given) = set("STRONGROOM_CONFIG") {
            given
        } else if process::euid() == 0 {
            PathBuf::from("/etc/strongroom")
        } else if let Some(xdg) = set("XDG_CONFIG_HOME") {
            xdg.join("strongroom")
        } else {
            set("HOME").ok_or(KeysError::NoConfigDirectory)?.join(".config/strongroom")
        };
        Ok(Self { root })
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root
    }
    /// The settings.
    #[must_use]
    pub fn settings(&self) -> PathBuf {
        self.root.join("strongroom.toml")
    }
    /// The pool that stood at a place when it was last opened; `None`: none is known to have.
    #[must_use]
    pub fn pool_known_at(&self, place: &Path) -> Option<PoolId> {
        let place = place.canonicalize().unwrap_or_else(|_| place.to_owned());
        let folders = fs::read_dir(self.root.join("pools")).ok()?;
        folders.flatten().find_map(|folder| {
            let id: PoolId = folder.file_name().to_str()?.parse().ok()?;
            let noted = read_private(&self.pool(&id).place(), PLACE_BYTES_MAX).ok()??;
            (noted == place.as_os_str().as_bytes()).then_some(id)
        })
    }
    /// The folder of a pool.
    #[must_use]
    pub fn pool(&self, id: &PoolId) -> PoolConfig {
        PoolConfig { dir: self.root.join("pools").join(id.to_string()) }
    }
}

/// Bytes of a path.
const PLACE_BYTES_MAX: u64 = 4096;
/// Bytes of a process number in a lock file.
const PID_BYTES_MAX: u64 = 20;

/// This process's claim on a pool's folder; see [`PoolConfig::claim`].
#[derive(Debug)]
pub struct ConfigClaim {
    _locked: OwnedFd,
}

/// A pool's folder in the configuration directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    dir: PathBuf,
}

impl PoolConfig {
    /// A folder by its path, wherever it stands.
    #[must_use]
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }
    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }
    /// The root secret, where it is a key file in its usual place.
    #[must_use]
    pub fn root_key(&self) -> PathBuf {
        self.dir.join("root.key")
    }
    /// The embedded keyring.
    #[must_use]
    pub fn keyring(&self) -> PathBuf {
        self.dir.join("keyring")
    }
    /// The keyring's own secret.
    #[must_use]
    pub fn keyring_key(&self) -> PathBuf {
        self.dir.join("keyring.key")
    }
    /// The anchor: what generation was last seen.
    #[must_use]
    pub fn anchor(&self) -> PathBuf {
        self.dir.join("generation")
    }
    /// The mounts to make again.
    #[must_use]
    pub fn mounts(&self) -> PathBuf {
        self.dir.join("mounts")
    }
    /// The time that was last seen: what expires goes by it.
    #[must_use]
    pub fn clock(&self) -> PathBuf {
        self.dir.join("clock")
    }
    /// Where the pool stood when it was last opened.
    fn place(&self) -> PathBuf {
        self.dir.join("place")
    }
    /// Writes down where the pool stands.
    ///
    /// # Errors
    /// [`KeysError::File`]
    pub fn note_place(&self, pool: &Path) -> Result<(), KeysError> {
        let pool = pool.canonicalize().map_err(|e| KeysError::file("find", pool, e))?;
        let bytes = pool.as_os_str().as_bytes();
        match read_private(&self.place(), PLACE_BYTES_MAX)? {
            Some(there) if there == bytes => Ok(()),
            _ => write_private(&self.place(), bytes),
        }
    }
    /// What was done with keys, and by whom.
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        self.dir.join("audit.log")
    }

    /// Claims the folder for this process, for as long as the result lives: keys are made, changed
    /// and brought back by one process at a time. The kernel lets go of it however a process ends.
    /// What one that ended in the middle of a change left there is overwritten and removed: a whole
    /// keyring, with keys that are deleted later.
    ///
    /// # Errors
    /// [`KeysError::ConfigBusy`] while another process has it; [`KeysError::File`]
    pub fn claim(&self) -> Result<ConfigClaim, KeysError> {
        let path = self.dir.join("lock");
        let fail = |e| KeysError::file("lock", &path, e);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(&path)
            .map_err(fail)?;
        let file = OwnedFd::from(file);
        if !file_io::lock_exclusive(&file).map_err(fail)? {
            let mut text = String::new();
            let read = File::from(file).take(PID_BYTES_MAX).read_to_string(&mut text);
            let holder = read.ok().and_then(|_| text.trim().parse().ok());
            return Err(KeysError::ConfigBusy { path: self.dir.clone(), holder });
        }
        // Who has it, for whoever is refused; the lock alone counts.
        let named = File::from(file);
        let pid = format!("{}\n", process::pid());
        named.set_len(0).and_then(|()| named.write_all_at(pid.as_bytes(), 0)).map_err(fail)?;
        self.remove_leftovers();
        Ok(ConfigClaim { _locked: named.into() })
    }

    /// Of the files that are written under the claim alone: nobody else is in the middle of one.
    fn remove_leftovers(&self) {
        let known = [
            self.root_key(),
            self.keyring(),
            self.keyring_key(),
            self.anchor(),
            self.mounts(),
            self.clock(),
            self.place(),
        ];
        let there = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for entry in there.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file())) {
            let (name, path) = (entry.file_name(), entry.path());
            let of = |file: &PathBuf| file.file_name().is_some_and(|f| is_leftover(&name, f));
            if !known.iter().any(of) {
                continue;
            }
            match file_io::overwrite_and_remove(&path) {
                Ok(()) => log::warn!("{} was left by a process that ended", path.display()),
                Err(e) => log::warn!("{} may hold keys and cannot be removed: {e}", path.display()),
            }
        }
    }

    /// Makes the folder and those above it, 0700, where they are missing.
    ///
    /// # Errors
    /// [`KeysError::File`]
    pub fn ensure(&self) -> Result<(), KeysError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(|e| KeysError::file("create", &self.dir, e))
    }
}

/// Replaces a file of the configuration directory, 0600, whole or not at all.
///
/// # Errors
/// [`KeysError::File`]
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), KeysError> {
    file_io::write_file_atomic(path, bytes, 0o600).map_err(|e| KeysError::file("write", path, e))
}

/// As [`write_private`]; the bytes of the file before it are overwritten. The inner result: whether
/// they could be.
///
/// # Errors
/// [`KeysError::File`]
pub(in crate::keys) fn replace_private(
    path: &Path,
    bytes: &[u8],
) -> Result<io::Result<()>, KeysError> {
    file_io::write_file_shredding(path, bytes, 0o600).map_err(|e| KeysError::file("write", path, e))
}

/// A file's bytes; `None` where there is none.
///
/// # Errors
/// [`KeysError::File`]; also for a file above `max` bytes, which no writer made.
pub fn read_private(path: &Path, max: u64) -> Result<Option<Vec<u8>>, KeysError> {
    let fail = |e| KeysError::file("read", path, e);
    match fs::metadata(path) {
        Ok(meta) if meta.len() > max => {
            Err(fail(io::Error::new(io::ErrorKind::InvalidData, "the file is too large")))
        }
        Ok(_) => fs::read(path).map(Some).map_err(fail),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(fail(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_pool_has_a_folder_of_its_own_that_only_its_owner_reads() {
        let dir = tempfile::tempdir().unwrap();
        let config = ConfigDir::new(dir.path().join("c"));
        let pool = config.pool(&PoolId([0xab; 16]));
        assert!(pool.path().ends_with(format!("pools/{}", "ab".repeat(16))));
        pool.ensure().unwrap();
        pool.ensure().unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(pool.path()), 0o700);
        assert_eq!(mode(config.path()), 0o700);
        assert_eq!(read_private(&pool.anchor(), 10).unwrap(), None);
        write_private(&pool.anchor(), b"0123456789").unwrap();
        write_private(&pool.anchor(), b"9876543210").unwrap();
        assert_eq!(mode(&pool.anchor()), 0o600);
        assert_eq!(read_private(&pool.anchor(), 10).unwrap().unwrap(), b"9876543210");
        assert!(read_private(&pool.anchor(), 9).is_err());
    }

    #[test]
    fn one_process_at_a_time_has_a_pools_folder() {
        let dir = tempfile::tempdir().unwrap();
        let pool = ConfigDir::new(dir.path()).pool(&PoolId([1; 16]));
        pool.ensure().unwrap();
        let claim = pool.claim().unwrap();
        let refused = pool.claim().unwrap_err();
        assert!(
            matches!(&refused, KeysError::ConfigBusy { holder, .. } if *holder == Some(process::pid())),
            "{refused}"
        );
        assert!(ConfigDir::new(dir.path()).pool(&PoolId([2; 16])).ensure().is_ok());
        drop(claim);
        pool.claim().unwrap();
    }

    #[test]
    fn who_claims_a_folder_shreds_what_a_process_left_that_ended_in_the_middle() {
        let dir = tempfile::tempdir().unwrap();
        let pool = PoolConfig::at(dir.path().join("pool"));
        pool.ensure().unwrap();
        let digits = "0123456789abcdef";
        let kept = |n: usize| dir.path().join(n.to_string());
        let left = ["keyring", "keyring.key", "generation"].map(|of| format!(".{of}.{digits}"));
        for (n, name) in left.iter().enumerate() {
            fs::write(pool.path().join(name), b"keys").unwrap();
            fs::hard_link(pool.path().join(name), kept(n)).unwrap();
        }
        let stays = ["keyring", ".keyring.old", ".other.0123456789abcdef"];
        stays.iter().for_each(|name| fs::write(pool.path().join(name), b"stays").unwrap());
        let _claim = pool.claim().unwrap();
        for (n, name) in left.iter().enumerate() {
            assert!(!pool.path().join(name).exists(), "{name}");
            assert_eq!(fs::read(kept(n)).unwrap(), [0; 4], "{name}");
        }
        for name in stays {
            assert_eq!(fs::read(pool.path().join(name)).unwrap(), b"stays", "{name}");
        }
    }
}
