//! Root secrets: 32 bytes that stand outside the pool, in a key file, a systemd credential, or
//! derived from a passphrase.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::crypto::{self, KdfParams, RootSecret};
use crate::keys::error::KeysError;
use crate::sys::{file_io, process};

/// Most bytes read from a secret file: 64 digits and a line end.
const SECRET_FILE_BYTES_MAX: u64 = 66;
/// Bytes in a passphrase.
pub const PASSPHRASE_BYTES_MAX: usize = 1024;

/// The secret in `path`: 32 bytes, or 64 hexadecimal digits with or without a line end.
///
/// # Errors
/// [`KeysError::File`], also for what is no plain file; [`KeysError::SecretOwner`] where it is
/// neither this user's nor root's; [`KeysError::SecretMode`] where others can read it;
/// [`KeysError::SecretShape`]
pub fn read_secret_file(path: &Path) -> Result<RootSecret, KeysError> {
    read_secret(&mut open_secret_file(path)?, path)
}

/// What a file holds that nobody else may read, up to `max` bytes of it.
///
/// # Errors
/// As [`read_secret_file`], but for [`KeysError::SecretShape`].
pub fn read_secret_text(path: &Path, max: u64) -> Result<Zeroizing<Vec<u8>>, KeysError> {
    let file = open_secret_file(path)?;
    // Room enough that it does not move while it is read: a move would leave a copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(max as usize + 1));
    file.take(max).read_to_end(&mut bytes).map_err(|e| KeysError::file("read", path, e))?;
    Ok(bytes)
}

/// A plain file, this user's or root's, that nobody else can read.
fn open_secret_file(path: &Path) -> Result<fs::File, KeysError> {
    let fail = |e| KeysError::file("read", path, e);
    let file = file_io::open_plain(path).map_err(fail)?;
    let metadata = file.metadata().map_err(fail)?;
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    if owner != 0 && owner != process::euid() {
        return Err(KeysError::SecretOwner { path: path.to_owned(), owner });
    }
    if mode & 0o077 != 0 {
        return Err(KeysError::SecretMode { path: path.to_owned(), mode });
    }
    Ok(file)
}

/// The secret in the systemd credential `name` of `directory` (`$CREDENTIALS_DIRECTORY`).
///
/// # Errors
/// As [`read_secret_file`], but systemd chose the mode.
pub fn read_credential(directory: &Path, name: &str) -> Result<RootSecret, KeysError> {
    let path = credential_path(directory, name)?;
    let mut file = fs::File::open(&path).map_err(|e| KeysError::file("read", &path, e))?;
    read_secret(&mut file, &path)
}

/// Where a credential stands. Its name must be a plain file name.
fn credential_path(directory: &Path, name: &str) -> Result<PathBuf, KeysError> {
    let path = directory.join(name);
    if name.is_empty() || name.contains('/') || name == ".." || name == "." {
        let why = io::Error::new(io::ErrorKind::InvalidInput, "not a credential's name");
        return Err(KeysError::file("read", &path, why));
    }
    Ok(path)
}

/// The folder that systemd put this service's credentials in.
#[must_use]
pub fn credentials_directory() -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").filter(|v| !v.is_empty()).map(PathBuf::from)
}

fn read_secret(file: &mut fs::File, path: &Path) -> Result<RootSecret, KeysError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_FILE_BYTES_MAX as usize + 1));
    file.take(SECRET_FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| KeysError::file("read", path, e))?;
    parse_secret(&bytes).ok_or_else(|| KeysError::SecretShape { path: path.to_owned() })
}

pub(in crate::keys) fn parse_secret(bytes: &[u8]) -> Option<RootSecret> {
    let mut raw = Zeroizing::new([0u8; 32]);
    if bytes.len() == 32 {
        raw.copy_from_slice(bytes);
        return Some(RootSecret::from_bytes(&raw));
    }
    let digits = bytes.trim_ascii_end();
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in raw.iter_mut().zip(digits.chunks_exact(2)) {
        let &[high, low] = pair else { return None };
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = (digit(high)? << 4 | digit(low)?) as u8;
    }
    Some(RootSecret::from_bytes(&raw))
}

/// Makes a new secret and its file, 0600. An existing file is never touched.
///
/// # Errors
/// [`KeysError::FileExists`], [`KeysError::File`]
pub fn create_secret_file(path: &Path) -> Result<RootSecret, KeysError> {
    let secret = RootSecret::random();
    write_secret_file(path, &secret)?;
    Ok(secret)
}

/// Writes `secret` to a new file, 0600, flushed with its folder. An existing file is never touched.
///
/// # Errors
/// [`KeysError::FileExists`], [`KeysError::File`]
pub fn write_secret_file(path: &Path, secret: &RootSecret) -> Result<(), KeysError> {
    let fail = |e: io::Error| match e.kind() {
        io::ErrorKind::AlreadyExists => KeysError::FileExists { path: path.to_owned() },
        _ => KeysError::file("create", path, e),
    };
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(fail)?;
    let written = file.write_all(secret.bytes()).and_then(|()| file.sync_all());
    if let Err(e) = written {
        // A short file would pass for a damaged secret; the removal is a courtesy.
        let _ = fs::remove_file(path);
        return Err(fail(e));
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(folder).and_then(|d| d.sync_all()).map_err(fail)
}

/// The secret that a passphrase gives under `params`. Their caps are checked before memory is
/// taken, so that a made-up superblock cannot exhaust it.
///
/// # Errors
/// [`KeysError::Passphrase`] where it is empty or too long; [`KeysError::Kdf`]
pub fn secret_of_passphrase(
    passphrase: &[u8],
    params: &KdfParams,
) -> Result<RootSecret, KeysError> {
    if passphrase.is_empty() {
        return Err(KeysError::Passphrase("empty"));
    }
    if passphrase.len() > PASSPHRASE_BYTES_MAX {
        return Err(KeysError::Passphrase("longer than 1024 bytes"));
    }
    let derived = crypto::passphrase_secret(passphrase, params).map_err(KeysError::Kdf)?;
    Ok(RootSecret::from(derived))
}

/// A passphrase from what a file or credential held: without its last line end.
#[must_use]
pub fn trim_passphrase(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_file_is_private_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root.key");
        let secret = create_secret_file(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(read_secret_file(&path).unwrap().bytes(), secret.bytes());
        assert!(matches!(create_secret_file(&path), Err(KeysError::FileExists { .. })));
        assert_eq!(read_secret_file(&path).unwrap().bytes(), secret.bytes());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(read_secret_file(&path), Err(KeysError::SecretMode { mode: 0o640, .. })));
        let text = read_secret_text(&path, 99);
        assert!(matches!(text, Err(KeysError::SecretMode { mode: 0o640, .. })));
    }

    #[test]
    fn a_key_file_is_a_plain_file_of_its_user_or_of_root() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root.key");
        create_secret_file(&path).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(read_secret_file(&link), Err(KeysError::File { .. })));
        assert!(matches!(read_secret_file(dir.path()), Err(KeysError::File { .. })));
        if process::euid() == 0 {
            std::os::unix::fs::chown(&path, Some(1000), None).unwrap();
            let refused = read_secret_file(&path);
            assert!(matches!(refused, Err(KeysError::SecretOwner { owner: 1000, .. })));
        }
    }

    #[test]
    fn hexadecimal_secrets_are_read_and_other_shapes_refused() {
        let hex = "0123456789abcdefABCDEF".repeat(3);
        let secret = parse_secret(format!("{}\n", &hex[..64]).as_bytes()).unwrap();
        assert_eq!(secret.bytes()[..4], [0x01, 0x23, 0x45, 0x67]);
        for bad in [&b""[..], &[0; 31], &[0; 33], &[b'x'; 64], &[b'0'; 65], &[b'0'; 200]] {
            assert!(parse_secret(bad).is_none(), "{} bytes", bad.len());
        }
    }

    #[test]
    fn credentials_are_plain_names_in_their_folder() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("strongroom.root"), [7; 32]).unwrap();
        assert_eq!(read_credential(dir.path(), "strongroom.root").unwrap().bytes(), &[7; 32]);
        for bad in ["", "..", "a/b", "../x"] {
            assert!(read_credential(dir.path(), bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_line_end_is_no_part_of_a_passphrase() {
        assert_eq!(trim_passphrase(b"pass word \r\n"), b"pass word ");
        assert_eq!(trim_passphrase(b"x"), b"x");
    }
}
