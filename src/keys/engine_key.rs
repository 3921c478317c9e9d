//! The engine key's wraps: made under a root secret, opened by whichever of them is at hand.

use std::path::PathBuf;

use zeroize::Zeroizing;

use crate::base::PoolId;
use crate::crypto::{
    self, EngineKey, EngineWrap, EngineWrapKind, KdfParams, OpenError, RootSecret,
};
use crate::keys::config::PoolConfig;
use crate::keys::error::KeysError;
use crate::keys::root_secret;

/// Wraps the engine key under a root secret. `kdf` says how a passphrase gave that secret.
///
/// # Errors
/// [`KeysError::WrapName`] where the name is longer than a slot keeps.
pub fn wrap_engine_key(
    pool: &PoolId,
    kind: EngineWrapKind,
    name: &str,
    root: &RootSecret,
    kdf: Option<KdfParams>,
    engine: &EngineKey,
) -> Result<EngineWrap, KeysError> {
    if name.len() > EngineWrap::NAME_BYTES_MAX {
        return Err(KeysError::WrapName(EngineWrap::NAME_BYTES_MAX));
    }
    let ad = EngineWrap::associated_data(pool, kdf.as_ref());
    let sealed = crypto::seal(&crypto::kek(root, pool), "engine", &ad, engine.bytes());
    Ok(EngineWrap { kind, name: name.to_owned(), kdf, sealed })
}

/// Opens one wrap. `None`: this root secret is not the one that made it.
///
/// # Errors
/// [`KeysError::EngineWrapCorrupt`]
pub fn unwrap_engine_key(
    pool: &PoolId,
    wrap: &EngineWrap,
    root: &RootSecret,
) -> Result<Option<EngineKey>, KeysError> {
    let ad = EngineWrap::associated_data(pool, wrap.kdf.as_ref());
    let corrupt = || KeysError::EngineWrapCorrupt { name: label(wrap) };
    match crypto::open(&crypto::kek(root, pool), "engine", &ad, &wrap.sealed) {
        Ok(bytes) => {
            let bytes: &[u8; 32] = bytes.as_slice().try_into().map_err(|_| corrupt())?;
            Ok(Some(EngineKey::from_bytes(bytes)))
        }
        Err(OpenError::WrongKey) => Ok(None),
        Err(OpenError::Corrupt | OpenError::Short) => Err(corrupt()),
    }
}

/// A wrap as people name it: `file:/path`, `passphrase`, `credential:NAME`, `recovery`.
#[must_use]
pub fn label(wrap: &EngineWrap) -> String {
    match wrap.kind {
        EngineWrapKind::File if wrap.name.is_empty() => "file:root.key".to_owned(),
        EngineWrapKind::File | EngineWrapKind::Credential => {
            format!("{}:{}", wrap.kind, wrap.name)
        }
        EngineWrapKind::Passphrase | EngineWrapKind::Recovery => wrap.kind.to_string(),
    }
}

/// What is at hand to open a pool with, beside what its folder in the configuration directory and
/// systemd's credentials hold.
#[derive(Default)]
pub struct AtHand {
    /// A passphrase, without its line end.
    pub passphrase: Option<Zeroizing<Vec<u8>>>,
    /// A recovery key.
    pub recovery: Option<RootSecret>,
    /// A key file beside those that the wraps name.
    pub file: Option<PathBuf>,
    /// The folder of credentials, where not `$CREDENTIALS_DIRECTORY`.
    pub credentials: Option<PathBuf>,
}

/// Opens the engine key by the first wrap that one of the secrets at hand opens. Cheap ways are
/// tried first, a passphrase last. Returns the key and which wrap it was.
///
/// # Errors
/// [`KeysError::RootSecretMissing`] where there was nothing to try,
/// [`KeysError::RootSecretWrong`] where nothing opened; the error of a secret that was named and
/// cannot be read.
pub fn open_engine_key(
    pool: &PoolId,
    wraps: &[EngineWrap],
    config: &PoolConfig,
    at_hand: &AtHand,
) -> Result<(EngineKey, usize), KeysError> {
    let mut trial = Trial { pool, wraps, tried: Vec::new(), missed: Vec::new() };
    if let Some(path) = &at_hand.file {
        let secret = root_secret::read_secret_file(path)?;
        if let Some(found) = trial.any(&secret, format!("file:{}", path.display()))? {
            return Ok(found);
        }
    }
    if let Some(secret) = &at_hand.recovery
        && let Some(found) = trial.any(secret, "the recovery key".to_owned())?
    {
        return Ok(found);
    }
    if let Some(found) = trial.files(config)? {
        return Ok(found);
    }
    let credentials = at_hand.credentials.clone().or_else(root_secret::credentials_directory);
    if let Some(found) = trial.credentials(credentials)? {
        return Ok(found);
    }
    if let Some(found) = trial.passphrase(at_hand.passphrase.as_deref())? {
        return Ok(found);
    }
    Err(if trial.tried.is_empty() {
        KeysError::RootSecretMissing { tried: trial.missed.join(", ") }
    } else {
        KeysError::RootSecretWrong { tried: trial.tried.join(", ") }
    })
}

/// Wraps, and what was tried on them so far.
struct Trial<'a> {
    pool: &'a PoolId,
    wraps: &'a [EngineWrap],
    tried: Vec<String>,
    missed: Vec<String>,
}

type Found = Option<(EngineKey, usize)>;

impl Trial<'_> {
    /// Tries a secret on each wrap that is not derived from a passphrase: a file may have been made
    /// for one wrap and named for another.
    fn any(&mut self, secret: &RootSecret, what: String) -> Result<Found, KeysError> {
        let mut damaged = None;
        for (at, wrap) in self.wraps.iter().enumerate().filter(|(_, w)| w.kdf.is_none()) {
            match unwrap_engine_key(self.pool, wrap, secret) {
                Ok(Some(key)) => return Ok(Some((key, at))),
                Ok(None) => {}
                Err(e) => damaged = Some(e),
            }
        }
        self.tried.push(what);
        damaged.map_or(Ok(None), Err)
    }

    fn files(&mut self, config: &PoolConfig) -> Result<Found, KeysError> {
        let mut paths = vec![config.root_key()];
        let named = self.wraps.iter().filter(|w| w.kind == EngineWrapKind::File);
        paths.extend(named.filter(|w| !w.name.is_empty()).map(|w| PathBuf::from(&w.name)));
        for path in paths {
            if !path.exists() {
                self.missed.push(format!("{} is not there", path.display()));
                continue;
            }
            let secret = root_secret::read_secret_file(&path)?;
            if let Some(found) = self.any(&secret, format!("file:{}", path.display()))? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn credentials(&mut self, directory: Option<PathBuf>) -> Result<Found, KeysError> {
        let wraps = self.wraps;
        for wrap in wraps.iter().filter(|w| w.kind == EngineWrapKind::Credential) {
            match &directory {
                Some(dir) if dir.join(&wrap.name).exists() => {
                    let secret = root_secret::read_credential(dir, &wrap.name)?;
                    if let Some(found) = self.any(&secret, label(wrap))? {
                        return Ok(Some(found));
                    }
                }
                _ => self.missed.push(format!("no credential {}", wrap.name)),
            }
        }
        Ok(None)
    }

    fn passphrase(&mut self, passphrase: Option<&Vec<u8>>) -> Result<Found, KeysError> {
        let wraps = self.wraps;
        for (at, wrap) in wraps.iter().enumerate() {
            let Some(kdf) = &wrap.kdf else { continue };
            let Some(passphrase) = passphrase else {
                self.missed.push("no passphrase was given".to_owned());
                break;
            };
            let secret = root_secret::secret_of_passphrase(passphrase, kdf)?;
            if let Some(key) = unwrap_engine_key(self.pool, wrap, &secret)? {
                return Ok(Some((key, at)));
            }
            self.tried.push("the passphrase".to_owned());
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{format_recovery_key, parse_recovery_key};

    const POOL: PoolId = PoolId([5; 16]);

    struct Made {
        dir: tempfile::TempDir,
        engine: EngineKey,
        wraps: Vec<EngineWrap>,
        recovery: RootSecret,
    }

    fn wrap_of(
        kind: EngineWrapKind,
        name: &str,
        root: &RootSecret,
        engine: &EngineKey,
    ) -> EngineWrap {
        wrap_engine_key(&POOL, kind, name, root, None, engine).unwrap()
    }

    fn made() -> Made {
        let dir = tempfile::tempdir().unwrap();
        let engine = EngineKey::random();
        let config = PoolConfig::at(dir.path());
        let file = root_secret::create_secret_file(&config.root_key()).unwrap();
        let recovery = RootSecret::random();
        let kdf = KdfParams::minimal();
        let phrase = root_secret::secret_of_passphrase(b"correct horse", &kdf).unwrap();
        let kind = EngineWrapKind::Passphrase;
        let wraps = vec![
            wrap_of(EngineWrapKind::File, "", &file, &engine),
            wrap_of(EngineWrapKind::Recovery, "", &recovery, &engine),
            wrap_engine_key(&POOL, kind, "", &phrase, Some(kdf), &engine).unwrap(),
            wrap_of(EngineWrapKind::Credential, "cred", &RootSecret::from_bytes(&[9; 32]), &engine),
        ];
        Made { dir, engine, wraps, recovery }
    }

    fn open(made: &Made, at_hand: &AtHand) -> Result<usize, KeysError> {
        let config = PoolConfig::at(made.dir.path());
        let (key, at) = open_engine_key(&POOL, &made.wraps, &config, at_hand)?;
        assert_eq!(key.bytes(), made.engine.bytes());
        Ok(at)
    }

    #[test]
    fn any_one_wrap_opens_and_the_others_do_not_matter() {
        let made = made();
        assert_eq!(open(&made, &AtHand::default()).unwrap(), 0);
        std::fs::remove_file(made.dir.path().join("root.key")).unwrap();
        let missing = open(&made, &AtHand::default()).unwrap_err();
        assert!(matches!(missing, KeysError::RootSecretMissing { .. }));

        let typed = parse_recovery_key(&format_recovery_key(&made.recovery)).unwrap();
        let by_recovery = AtHand { recovery: Some(typed), ..AtHand::default() };
        assert_eq!(open(&made, &by_recovery).unwrap(), 1);

        let phrase =
            |p: &[u8]| AtHand { passphrase: Some(Zeroizing::new(p.to_vec())), ..AtHand::default() };
        assert_eq!(open(&made, &phrase(b"correct horse")).unwrap(), 2);
        let wrong = open(&made, &phrase(b"wrong horse")).unwrap_err();
        assert!(matches!(wrong, KeysError::RootSecretWrong { .. }));

        std::fs::write(made.dir.path().join("cred"), [9; 32]).unwrap();
        let by_credential =
            AtHand { credentials: Some(made.dir.path().to_owned()), ..AtHand::default() };
        assert_eq!(open(&made, &by_credential).unwrap(), 3);
    }

    #[test]
    fn a_wrap_is_of_one_pool_and_damage_is_told_from_a_wrong_secret() {
        let (root, engine) = (RootSecret::random(), EngineKey::random());
        let mut wrap = wrap_of(EngineWrapKind::File, "", &root, &engine);
        assert!(unwrap_engine_key(&PoolId([6; 16]), &wrap, &root).unwrap().is_none());
        assert!(unwrap_engine_key(&POOL, &wrap, &RootSecret::random()).unwrap().is_none());
        *wrap.sealed.last_mut().unwrap() ^= 1;
        let damaged = unwrap_engine_key(&POOL, &wrap, &root).map(|_| ()).unwrap_err();
        assert!(matches!(damaged, KeysError::EngineWrapCorrupt { .. }));
    }

    #[test]
    fn made_up_parameters_are_refused_before_memory_is_taken() {
        let mut made = made();
        std::fs::remove_file(made.dir.path().join("root.key")).unwrap();
        let greedy = KdfParams { memory_kib: u32::MAX, ..KdfParams::minimal() };
        made.wraps[2].kdf = Some(greedy);
        let at_hand =
            AtHand { passphrase: Some(Zeroizing::new(b"x".to_vec())), ..AtHand::default() };
        assert!(matches!(open(&made, &at_hand).unwrap_err(), KeysError::Kdf(_)));
    }
}
