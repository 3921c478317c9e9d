//! The configuration backup: everything of a pool that is not in the pool, in one file sealed under
//! a passphrase.
//!
//! ```text
//! magic 16 | format u32 | zero u32 | pool id 16 | kdf (48) | sealed (length u32)
//! sealed = seal(Argon2id(passphrase), "config-backup", AD = all bytes before, files)
//! files  = count u32 | { name (length u32) | bytes (length u32) } each
//! ```

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use zeroize::Zeroizing;

use crate::base::cursor::{DecodeError, Reader, Writer};
use crate::base::{KeyState, PoolId};
use crate::crypto::{self, KdfParams, KeyringSecret, OpenError, RootSecret};
use crate::keys::config::{ConfigDir, PoolConfig, read_private, write_private};
use crate::keys::error::KeysError;
use crate::keys::keyring::{self, Keyring, LocalKeyInfo};
use crate::keys::root_secret;

const MAGIC: &[u8; 16] = b"\x89SRbackup\r\n\x1a\n\0\0\0";
const FORMAT: u32 = 1;
const FILE_BYTES_MAX: u64 = 8 << 20;
const BACKUP_BYTES_MAX: u64 = 64 << 20;
const NAME_BYTES_MAX: usize = 64;
const FILES_MAX: usize = 16;

/// What a backup holds, by the names of the files in the pool's folder. The anchor is left out: an
/// older one would hide a rollback, and a lost one is made again.
const FILES: [&str; 4] = [ROOT_KEY, KEYRING, KEYRING_KEY, MOUNTS];
const ROOT_KEY: &str = "root.key";
const KEYRING: &str = "keyring";
const KEYRING_KEY: &str = "keyring.key";
const MOUNTS: &str = "mounts";

/// Those of them that make up the keyring.
const KEYRING_FILES: [&str; 2] = [KEYRING, KEYRING_KEY];

/// Which keys the last backup holds, by fingerprint and version; no secret.
const BACKED_UP: &str = "backed-up";

/// What was backed up or brought back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupReport {
    /// The pool.
    pub pool: PoolId,
    /// The files, by name.
    pub files: Vec<String>,
    /// How many keys the keyring that was there took in; `None`: there was none, or the same.
    pub keys_added: Option<usize>,
}

/// Writes the backup of a pool's folder. `root` is the root secret that was proved to open the pool,
/// wherever it stands: it goes along as `root.key`, and no other does.
///
/// # Errors
/// [`KeysError::FileExists`] for a file that is there already, [`KeysError::Passphrase`],
/// [`KeysError::File`]
pub fn backup(
    config: &PoolConfig,
    pool: PoolId,
    root: Option<&RootSecret>,
    passphrase: &[u8],
    kdf: &KdfParams,
    to: &Path,
) -> Result<BackupReport, KeysError> {
    if to.exists() {
        return Err(KeysError::FileExists { path: to.to_owned() });
    }
    let mut files: Vec<(&str, Zeroizing<Vec<u8>>)> = Vec::new();
    for name in FILES {
        let there = read_private(&config.path().join(name), FILE_BYTES_MAX)?.map(Zeroizing::new);
        let kept = match (name, root) {
            (ROOT_KEY, None) => None,
            // As it is written there, where it is that very one.
            (ROOT_KEY, Some(root)) => {
                let same = |bytes: &[u8]| {
                    root_secret::parse_secret(bytes)
                        .is_some_and(|s| crypto::constant_time_eq(s.bytes(), root.bytes()))
                };
                let raw = || Zeroizing::new(root.bytes().to_vec());
                Some(there.filter(|bytes| same(bytes)).unwrap_or_else(raw))
            }
            _ => there,
        };
        files.extend(kept.map(|bytes| (name, bytes)));
    }
    let room = 4 + files.iter().map(|(n, b)| 8 + n.len() + b.len()).sum::<usize>();
    let mut body = Writer::with_capacity(room);
    body.u32(files.len() as u32);
    for (name, bytes) in &files {
        body.sized(name.as_bytes()).sized(bytes);
    }
    let body = body.into_secret();
    let key = root_secret::secret_of_passphrase(passphrase, kdf)?;
    let mut out = Writer::new();
    out.bytes(MAGIC).u32(FORMAT).u32(0).bytes(pool.as_bytes());
    kdf.encode(&mut out);
    let head = out.into_bytes();
    let sealed = crypto::seal(key.bytes(), "config-backup", &head, &body);
    let mut out = Writer::new();
    out.bytes(&head).sized(&sealed);
    write_private(to, &out.into_bytes())?;
    let files = files.iter().map(|(name, _)| (*name).to_owned()).collect();
    Ok(BackupReport { pool, files, keys_added: None })
}

/// The pool that a backup is of; needs no passphrase.
///
/// # Errors
/// [`KeysError::Backup`], [`KeysError::File`]
pub fn backed_up_pool(from: &Path) -> Result<PoolId, KeysError> {
    let bytes = read(from)?;
    split(&bytes).map(|parts| parts.pool).map_err(|why| not_a_backup(from, why))
}

/// Brings back what a backup holds. A keyring that is there stays, and takes in the keys of the
/// backup's; records of mounts that are there stay as they are. Other files that are there with other
/// contents are an error, before anything is written.
///
/// # Errors
/// [`KeysError::Backup`], [`KeysError::BackupPassphrase`],
/// [`KeysError::FileExists`], [`KeysError::SameName`], [`KeysError::File`];
/// [`KeysError::ConfigBusy`] while a daemon serves the pool.
pub fn restore(
    config: &ConfigDir,
    from: &Path,
    passphrase: &[u8],
) -> Result<BackupReport, KeysError> {
    let bytes = read(from)?;
    let parts = split(&bytes).map_err(|why| not_a_backup(from, why))?;
    let body = open_body(from, &parts, passphrase)?;
    let mut files = decode_files(&body).map_err(|_| not_a_backup(from, "it is damaged"))?;
    let pool = config.pool(&parts.pool);
    pool.ensure()?;
    // A daemon has the keyring in memory, and would put it over what is brought back.
    let _claim = pool.claim()?;
    let there = keyring_there(&pool, &files)?;
    files.retain(|(name, _)| {
        let path = pool.path().join(name);
        // What is mounted now says more than what was mounted when the backup was made; and one
        // keyring goes on, under its own secret.
        let stays = *name == MOUNTS || (there.is_some() && KEYRING_FILES.contains(name));
        !stays || !path.exists()
    });
    for (name, bytes) in &files {
        let path = pool.path().join(name);
        if read_private(&path, FILE_BYTES_MAX)?.is_some_and(|there| there != *bytes) {
            return Err(KeysError::FileExists { path });
        }
    }
    let keys_added = match &there {
        Some((keyring, Backed { bytes, secret })) => Some(keyring.take_in(bytes, secret)?.len()),
        None => None,
    };
    for (name, bytes) in &files {
        write_private(&pool.path().join(name), bytes)?;
    }
    let files = files.iter().map(|(name, _)| (*name).to_owned()).collect();
    Ok(BackupReport { pool: parts.pool, files, keys_added })
}

/// The keyring in a backup.
struct Backed<'a> {
    bytes: &'a [u8],
    secret: KeyringSecret,
}

/// The keyring that is there beside another one in the backup. Its own secret opens it, or the
/// backup's where its own was lost.
fn keyring_there<'a>(
    pool: &PoolConfig,
    files: &[(&str, &'a [u8])],
) -> Result<Option<(Keyring, Backed<'a>)>, KeysError> {
    let of = |name: &str| files.iter().find(|(of, _)| *of == name).map(|(_, bytes)| *bytes);
    let path = pool.keyring();
    let there = read_private(&path, FILE_BYTES_MAX)?;
    let (Some(bytes), Some(there)) = (of(KEYRING), there) else { return Ok(None) };
    if there == bytes {
        return Ok(None);
    }
    // One that cannot be opened may hold keys all the same: it is not written over.
    let stays = || KeysError::FileExists { path: path.clone() };
    let secret = match of(KEYRING_KEY) {
        Some(bytes) => keyring::parse_keyring_secret(bytes),
        None => keyring::own_secret(pool)?,
    };
    let secret = secret.ok_or_else(stays)?;
    let keyring = match keyring::own_secret(pool)? {
        Some(_) => Keyring::open(pool),
        None => Keyring::open_with(pool, secret.dup()),
    };
    Ok(Some((keyring.map_err(|_| stays())?, Backed { bytes, secret })))
}

/// That a backup opens under its passphrase, and what it holds; nothing is written.
///
/// # Errors
/// As [`restore`].
pub fn verify(from: &Path, passphrase: &[u8]) -> Result<BackupReport, KeysError> {
    let bytes = read(from)?;
    let parts = split(&bytes).map_err(|why| not_a_backup(from, why))?;
    let body = open_body(from, &parts, passphrase)?;
    let files = decode_files(&body).map_err(|_| not_a_backup(from, "it is damaged"))?;
    let files = files.iter().map(|(name, _)| (*name).to_owned()).collect();
    Ok(BackupReport { pool: parts.pool, files, keys_added: None })
}

/// Remembers which keys a backup just made holds.
///
/// # Errors
/// [`KeysError::File`]
pub fn remember(config: &PoolConfig, keyring: &Keyring) -> Result<(), KeysError> {
    let lines: Vec<String> = keyring.list().iter().map(line_of).collect();
    write_private(&config.path().join(BACKED_UP), lines.concat().as_bytes())
}

/// Keys that stand in no backup: made, or given a new version, since the last one.
///
/// # Errors
/// [`KeysError::File`]
pub fn not_backed_up(config: &PoolConfig, keyring: &Keyring) -> Result<u64, KeysError> {
    let seen = read_private(&config.path().join(BACKED_UP), FILE_BYTES_MAX)?.unwrap_or_default();
    let seen = String::from_utf8_lossy(&seen);
    let seen: HashSet<&str> = seen.split_inclusive('\n').collect();
    let alive = keyring.list().into_iter().filter(|key| key.state != KeyState::Deleted);
    Ok(alive.filter(|key| !seen.contains(line_of(key).as_str())).count() as u64)
}

/// A key and its version, as [`BACKED_UP`] has them: one line each.
fn line_of(key: &LocalKeyInfo) -> String {
    let digits: String = key.fingerprint.iter().map(|b| format!("{b:02x}")).collect();
    format!("{digits} {}\n", key.version)
}

fn open_body(
    from: &Path,
    parts: &Parts<'_>,
    passphrase: &[u8],
) -> Result<Zeroizing<Vec<u8>>, KeysError> {
    let key = root_secret::secret_of_passphrase(passphrase, &parts.kdf)?;
    let body = crypto::open(key.bytes(), "config-backup", parts.head, parts.sealed);
    body.map_err(|e| match e {
        OpenError::WrongKey => KeysError::BackupPassphrase { path: from.to_owned() },
        _ => not_a_backup(from, "it is damaged"),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, KeysError> {
    let missing = || {
        let why = fs::metadata(path).err().unwrap_or_else(|| std::io::ErrorKind::NotFound.into());
        KeysError::file("read", path, why)
    };
    read_private(path, BACKUP_BYTES_MAX)?.ok_or_else(missing)
}

fn not_a_backup(path: &Path, why: &'static str) -> KeysError {
    KeysError::Backup { path: path.to_owned(), why }
}

pub(in crate::keys) struct Parts<'a> {
    pub(in crate::keys) head: &'a [u8],
    pool: PoolId,
    kdf: KdfParams,
    pub(in crate::keys) sealed: &'a [u8],
}

pub(in crate::keys) fn split(bytes: &[u8]) -> Result<Parts<'_>, &'static str> {
    let strange = |_: DecodeError| "its bytes are of something else";
    let mut from = Reader::new(bytes);
    if from.array().map_err(strange)? != *MAGIC {
        return Err("its bytes are of something else");
    }
    if from.u32().map_err(strange)? != FORMAT || from.u32().map_err(strange)? != 0 {
        return Err("it was made by a newer version");
    }
    let pool = PoolId(from.array().map_err(strange)?);
    let kdf = KdfParams::decode(&mut from).map_err(strange)?;
    let head = bytes.get(..bytes.len() - from.remaining()).unwrap_or_default();
    let sealed = from.sized(BACKUP_BYTES_MAX as usize).map_err(strange)?;
    from.finish().map_err(strange)?;
    Ok(Parts { head, pool, kdf, sealed })
}

pub(in crate::keys) fn decode_files(body: &[u8]) -> Result<Vec<(&str, &[u8])>, DecodeError> {
    let mut from = Reader::new(body);
    let count = from.u32()? as usize;
    if count > FILES_MAX {
        return Err(DecodeError::Field("files"));
    }
    let mut files = Vec::new();
    for _ in 0..count {
        let name = from.text(NAME_BYTES_MAX)?;
        // Only names that a backup writes are ever joined to a path.
        if !FILES.contains(&name) {
            return Err(DecodeError::Field("name"));
        }
        files.push((name, from.sized(FILE_BYTES_MAX as usize)?));
    }
    from.finish()?;
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_made_since_the_last_backup_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let config = ConfigDir::new(dir.path()).pool(&POOL);
        config.ensure().unwrap();
        let keyring = Keyring::create(&config, NOW).unwrap();
        assert_eq!(not_backed_up(&config, &keyring).unwrap(), 0);
        let make = |name: &str| {
            keyring.create_key(&name.parse().unwrap(), Duration::from_secs(86_400), NOW).unwrap()
        };
        make("k1");
        assert_eq!(not_backed_up(&config, &keyring).unwrap(), 1);
        let file = dir.path().join("backup");
        backup(&config, POOL, None, b"pass", &KdfParams::minimal(), &file).unwrap();
        assert_eq!(verify(&file, b"pass").unwrap().pool, POOL);
        assert!(verify(&file, b"other").is_err());
        remember(&config, &keyring).unwrap();
        assert_eq!(not_backed_up(&config, &keyring).unwrap(), 0);
        make("k2");
        assert_eq!(not_backed_up(&config, &keyring).unwrap(), 1);
    }
    use crate::base::Timestamp;
    use std::time::Duration;

    const POOL: PoolId = PoolId([4; 16]);
    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    #[test]
    fn a_lost_configuration_directory_comes_back_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) =
            (ConfigDir::new(dir.path().join("a")), ConfigDir::new(dir.path().join("b")));
        old.pool(&POOL).ensure().unwrap();
        let keyring = Keyring::create(&old.pool(&POOL), NOW).unwrap();
        keyring.create_key(&"k".parse().unwrap(), Duration::ZERO, NOW).unwrap();
        let root = RootSecret::random();
        let (file, kdf) = (dir.path().join("backup"), KdfParams::minimal());
        let made = backup(&old.pool(&POOL), POOL, Some(&root), b"pass", &kdf, &file).unwrap();
        assert_eq!(made.files, ["root.key", "keyring", "keyring.key"]);
        assert!(matches!(
            backup(&old.pool(&POOL), POOL, None, b"pass", &kdf, &file),
            Err(KeysError::FileExists { .. })
        ));
        assert_eq!(backed_up_pool(&file).unwrap(), POOL);

        let wrong = restore(&new, &file, b"other").unwrap_err();
        assert!(matches!(wrong, KeysError::BackupPassphrase { .. }));
        assert!(!new.path().exists());
        assert_eq!(restore(&new, &file, b"pass").unwrap().files, made.files);
        let back = new.pool(&POOL);
        assert_eq!(Keyring::open(&back).unwrap().list(), keyring.list());
        let secret = root_secret::read_secret_file(&back.root_key()).unwrap();
        assert_eq!(secret.bytes(), root.bytes());
        restore(&new, &file, b"pass").unwrap();
    }

    #[test]
    fn a_keyring_without_a_key_gives_way_to_the_backup() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) =
            (ConfigDir::new(dir.path().join("a")), ConfigDir::new(dir.path().join("b")));
        old.pool(&POOL).ensure().unwrap();
        new.pool(&POOL).ensure().unwrap();
        let keyring = Keyring::create(&old.pool(&POOL), NOW).unwrap();
        keyring.create_key(&"k".parse().unwrap(), Duration::ZERO, NOW).unwrap();
        let (file, kdf) = (dir.path().join("backup"), KdfParams::minimal());
        backup(&old.pool(&POOL), POOL, None, b"pass", &kdf, &file).unwrap();
        Keyring::create(&new.pool(&POOL), NOW).unwrap();
        restore(&new, &file, b"pass").unwrap();
        assert_eq!(Keyring::open(&new.pool(&POOL)).unwrap().list(), keyring.list());
    }

    #[test]
    fn what_is_there_is_not_overwritten_and_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let config = ConfigDir::new(dir.path().join("c"));
        let pool = config.pool(&POOL);
        pool.ensure().unwrap();
        let keyring = Keyring::create(&pool, NOW).unwrap();
        let make = |of: &Keyring, name: &str| {
            of.create_key(&name.parse().unwrap(), Duration::from_secs(86_400), NOW).unwrap()
        };
        make(&keyring, "a");
        let root = root_secret::create_secret_file(&pool.root_key()).unwrap();
        let (file, kdf) = (dir.path().join("backup"), KdfParams::minimal());
        backup(&pool, POOL, Some(&root), b"pass", &kdf, &file).unwrap();
        make(&keyring, "b");
        let names = || {
            let all = Keyring::open(&pool).unwrap().list();
            all.iter().map(|k| k.id.local_name().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let later = restore(&config, &file, b"pass").unwrap();
        assert_eq!((later.keys_added, names()), (Some(0), vec!["a".to_owned(), "b".to_owned()]));

        // The configuration was lost, and keys were made before the backup was found.
        for path in [pool.keyring(), pool.keyring_key()] {
            fs::remove_file(path).unwrap();
        }
        let new = Keyring::create(&pool, NOW).unwrap();
        make(&new, "c");
        let merged = restore(&config, &file, b"pass").unwrap();
        assert_eq!((merged.keys_added, names()), (Some(1), vec!["a".to_owned(), "c".to_owned()]));
        assert_eq!(merged.files, ["root.key"]);
        // Of the new one the secret was lost, too: who has only the backup's does not open it.
        fs::remove_file(pool.keyring_key()).unwrap();
        let before = fs::read(pool.keyring()).unwrap();
        assert!(matches!(restore(&config, &file, b"pass"), Err(KeysError::FileExists { .. })));
        assert!(fs::read(pool.keyring()).unwrap() == before && !pool.keyring_key().exists());
        // What is no keyring is left alone, and so is another root secret.
        fs::remove_file(pool.keyring()).unwrap();
        restore(&config, &file, b"pass").unwrap();
        assert_eq!(names(), ["a"]);
        fs::write(pool.root_key(), [7; 32]).unwrap();
        let refused = restore(&config, &file, b"pass").unwrap_err();
        assert!(matches!(&refused, KeysError::FileExists { path } if *path == pool.root_key()));

        let mut bytes = fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&file, &bytes).unwrap();
        let damaged = restore(&config, &file, b"pass").unwrap_err();
        assert!(matches!(damaged, KeysError::Backup { .. }));
        fs::write(&file, b"hello").unwrap();
        assert!(matches!(backed_up_pool(&file), Err(KeysError::Backup { .. })));
    }

    #[test]
    fn a_lost_secret_of_the_keyring_comes_back_and_what_was_made_since_stays() {
        let dir = tempfile::tempdir().unwrap();
        let config = ConfigDir::new(dir.path().join("c"));
        let pool = config.pool(&POOL);
        pool.ensure().unwrap();
        let keyring = Keyring::create(&pool, NOW).unwrap();
        let (file, kdf) = (dir.path().join("backup"), KdfParams::minimal());
        backup(&pool, POOL, None, b"pass", &kdf, &file).unwrap();
        keyring.create_key(&"k".parse().unwrap(), Duration::ZERO, NOW).unwrap();
        fs::remove_file(pool.keyring_key()).unwrap();
        let back = restore(&config, &file, b"pass").unwrap();
        assert_eq!((back.keys_added, back.files), (Some(0), vec!["keyring.key".to_owned()]));
        assert_eq!(Keyring::open(&pool).unwrap().list(), keyring.list());
    }

    #[test]
    fn no_other_root_secret_goes_along_than_the_one_that_was_proved() {
        let dir = tempfile::tempdir().unwrap();
        let pool = ConfigDir::new(dir.path()).pool(&POOL);
        pool.ensure().unwrap();
        root_secret::create_secret_file(&pool.root_key()).unwrap();
        let (proved, kdf) = (RootSecret::random(), KdfParams::minimal());
        let kept = |root: Option<&RootSecret>, name: &str| {
            let (file, to) =
                (dir.path().join(name), ConfigDir::new(dir.path().join("to").join(name)));
            backup(&pool, POOL, root, b"pass", &kdf, &file).unwrap();
            restore(&to, &file, b"pass").unwrap();
            root_secret::read_secret_file(&to.pool(&POOL).root_key()).map(|s| *s.bytes()).ok()
        };
        assert_eq!(kept(None, "none"), None);
        assert_eq!(kept(Some(&proved), "other"), Some(*proved.bytes()));
    }
}
