//! Passphrases: from a file, a systemd credential, or the terminal; never from an argument.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use zeroize::Zeroizing;

use crate::base::ProblemCode;
use crate::control::Problem;
use crate::daemon::Passphrase;

/// Bytes in a passphrase, and in the file that holds one.
const BYTES_MAX: u64 = 1024;
/// Where systemd puts credentials.
const CREDENTIALS_VARIABLE: &str = "CREDENTIALS_DIRECTORY";
const CREDENTIAL: &str = "strongroom.passphrase";

/// The passphrase that opens the pool.
pub(in crate::cli) fn existing(file: Option<&Path>) -> Result<Passphrase, Problem> {
    if let Some(file) = file {
        return read(file, Others::ReadNot);
    }
    if let Some(directory) = std::env::var_os(CREDENTIALS_VARIABLE) {
        let credential = Path::new(&directory).join(CREDENTIAL);
        if credential.exists() {
            return read(&credential, Others::AsSystemdHasIt);
        }
    }
    prompt("passphrase of the pool: ").map_err(|_| {
        let detail = "the pool needs its passphrase, and there is no terminal to ask on";
        Problem::new(ProblemCode::RootSecretMissing, detail).with_hint(format!(
            "name a file by --passphrase-file, or give the systemd credential {CREDENTIAL}"
        ))
    })
}

/// A passphrase to be set: from the file, or typed twice.
pub(in crate::cli) fn new(
    what: &str,
    file: Option<&Path>,
    flag: &str,
) -> Result<Passphrase, Problem> {
    let passphrase = match file {
        Some(file) => read(file, Others::ReadNot)?,
        None => {
            let missing = |_| {
                let detail = format!("there is no terminal to ask for the {what} on");
                Problem::new(ProblemCode::RootSecretMissing, detail)
                    .with_hint(format!("name a file by {flag}"))
            };
            let first = prompt(&format!("new {what}: ")).map_err(missing)?;
            let second = prompt(&format!("new {what}, again: ")).map_err(missing)?;
            if *first != *second {
                let detail = "the two passphrases differ";
                return Err(Problem::new(ProblemCode::Confirmation, detail));
            }
            first
        }
    };
    if passphrase.is_empty() {
        return Err(Problem::new(ProblemCode::Usage, format!("the {what} is empty")));
    }
    Ok(passphrase)
}

/// A passphrase that was set before: from the file, or typed.
pub(in crate::cli) fn of_backup(file: Option<&Path>) -> Result<Passphrase, Problem> {
    match file {
        Some(file) => read(file, Others::ReadNot),
        None => prompt("passphrase of the backup: ").map_err(|_| {
            let detail = "there is no terminal to ask for the backup's passphrase on";
            Problem::new(ProblemCode::RootSecretMissing, detail)
                .with_hint("name a file by --backup-passphrase-file")
        }),
    }
}

fn prompt(text: &str) -> std::io::Result<Passphrase> {
    rpassword::prompt_password(text).map(|typed| Zeroizing::new(typed.into_bytes()))
}

/// Whether it matters that others than a file's owner can read it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Others {
    /// They must not be able to, as with a key file.
    ReadNot,
    /// A credential: systemd chose the mode.
    AsSystemdHasIt,
}

/// What a file holds, without its last line end.
fn read(path: &Path, others: Others) -> Result<Passphrase, Problem> {
    let shown = path.display();
    let failed = |e: std::io::Error| {
        Problem::new(ProblemCode::RootSecretMissing, format!("the passphrase file {shown}: {e}"))
    };
    // Room enough that it does not move while it is read: a move would leave a copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(BYTES_MAX as usize + 8));
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let mode = metadata.mode() & 0o7777;
    // A pipe or a terminal is no place where a passphrase is kept.
    if others == Others::ReadNot && metadata.is_file() && mode & 0o077 != 0 {
        let detail = format!("the passphrase file {shown} can be read by others (mode {mode:04o})");
        return Err(
            Problem::new(ProblemCode::RootSecret, detail).with_hint(format!("chmod 600 {shown}"))
        );
    }
    file.take(BYTES_MAX + 3).read_to_end(&mut bytes).map_err(failed)?;
    for end in [b'\n', b'\r'] {
        if bytes.last() == Some(&end) {
            bytes.pop();
        }
    }
    if bytes.is_empty() || bytes.len() as u64 > BYTES_MAX {
        let detail =
            format!("the passphrase file {shown} holds none, or more than {BYTES_MAX} bytes");
        return Err(Problem::new(ProblemCode::RootSecretMissing, detail));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn one_line_end_is_no_part_of_a_passphrase() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p");
        let allow = |mode| {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let of = |text: &str| {
            std::fs::write(&file, text).unwrap();
            allow(0o600);
            existing(Some(&file)).map(|p| String::from_utf8(p.to_vec()).unwrap())
        };
        assert_eq!(of("secret\n"), Ok("secret".to_owned()));
        assert_eq!(of("secret\r\n"), Ok("secret".to_owned()));
        assert_eq!(of(" two words \n\n"), Ok(" two words \n".to_owned()));
        assert!(of("").is_err() && of("\n").is_err());
        assert!(of(&"x".repeat(1025)).is_err());
        assert!(of(&"x".repeat(1024)).is_ok());
        allow(0o640);
        let refused = existing(Some(&file)).unwrap_err();
        assert_eq!(refused.code, ProblemCode::RootSecret);
        assert!(read(&file, Others::AsSystemdHasIt).is_ok());
        assert!(new("passphrase", Some(&dir.path().join("none")), "--x").is_err());
    }
}
