//! Where a pool, its socket and its configuration stand: the same answer for a command and for the
//! daemon that it speaks to.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::base::{ProblemCode, limits};
use crate::control::Problem;
use crate::device::IMAGE_NAME;
use crate::sys;

/// Where a pool stands unless something else is said.
pub const DEFAULT_POOL: &str = "/var/lib/strongroom";
/// The control socket in a directory.
const SOCKET: &str = "control.sock";
/// Names the configuration directory.
pub const CONFIG_VARIABLE: &str = "STRONGROOM_CONFIG";

/// The places of one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The pool: a directory, a file or a block device; absolute, without symbolic links where it
    /// exists.
    pub pool: PathBuf,
    /// Its control socket.
    pub socket: PathBuf,
    /// Whether the socket was named by somebody, rather than derived.
    pub socket_chosen: bool,
}

impl Places {
    /// From what the command line and the environment say.
    ///
    /// # Errors
    /// [`ProblemCode::Config`] where a place cannot be made out.
    pub fn find(pool: &Path, socket: Option<&Path>) -> Result<Self, Problem> {
        let pool = whole(resolve(pool)?);
        let chosen = socket.map(absolute).transpose()?;
        let socket_chosen = chosen.is_some();
        let socket = match chosen {
            Some(socket) => socket,
            None if is_directory_pool(&pool) => pool.join(SOCKET),
            None => runtime_directory()?.join(format!("{}.sock", systemd_escape_path(&pool))),
        };
        Ok(Self { pool, socket, socket_chosen })
    }

    /// Whose the pool is, where nobody else can have put it there.
    #[must_use]
    pub fn pool_owner(&self) -> Option<u32> {
        sys::own_directory::sure_owner(&self.pool)
    }

    /// That the kernel takes the socket's path.
    ///
    /// # Errors
    /// [`ProblemCode::Config`]
    pub fn check_socket(&self) -> Result<(), Problem> {
        let max = limits::SOCKET_PATH_BYTES_MAX;
        let bytes = self.socket.as_os_str().len();
        if bytes <= max {
            return Ok(());
        }
        let shown = self.socket.display();
        let detail = format!("the socket's path {shown} has {bytes} bytes; {max} is the most");
        Err(Problem::new(ProblemCode::Config, detail)
            .with_hint("choose a shorter one by --socket or STRONGROOM_SOCKET"))
    }
}

fn absolute(path: &Path) -> Result<PathBuf, Problem> {
    std::path::absolute(path).map_err(|e| {
        Problem::new(ProblemCode::Config, format!("the path '{}': {e}", path.display()))
    })
}

/// Absolute and, as far as it exists, without symbolic links, so that one pool has one name.
fn resolve(path: &Path) -> Result<PathBuf, Problem> {
    let path = absolute(path)?;
    if let Ok(real) = path.canonicalize() {
        return Ok(real);
    }
    let resolved = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => parent.canonicalize().ok().map(|p| p.join(name)),
        _ => None,
    };
    Ok(resolved.unwrap_or(path))
}

/// A served directory, where its image was named.
fn whole(pool: PathBuf) -> PathBuf {
    match pool.parent() {
        Some(directory) if pool.ends_with(IMAGE_NAME) && directory.join(SOCKET).exists() => {
            directory.to_owned()
        }
        _ => pool,
    }
}

/// Whether a pool at `path` stands, or would be made, as a directory: what does not exist becomes
/// one, unless its name ends in `.img`.
#[must_use]
pub fn is_directory_pool(path: &Path) -> bool {
    match std::fs::metadata(path) {
        Ok(there) => there.is_dir(),
        Err(_) => path.extension().is_none_or(|e| e != "img"),
    }
}

fn runtime_directory() -> Result<PathBuf, Problem> {
    let uid = sys::process::euid();
    if uid == 0 {
        return Ok(PathBuf::from("/run/strongroom"));
    }
    let named = std::env::var_os("XDG_RUNTIME_DIR").filter(|d| !d.is_empty()).map(PathBuf::from);
    let usual = || Some(PathBuf::from(format!("/run/user/{uid}"))).filter(|d| d.is_dir());
    match named.or_else(usual) {
        Some(directory) => Ok(directory.join("strongroom")),
        None => {
            Err(Problem::new(ProblemCode::Config, "XDG_RUNTIME_DIR names no place for a socket")
                .with_hint("name one by --socket or STRONGROOM_SOCKET"))
        }
    }
}

/// A path as `systemd-escape --path` writes it.
#[must_use]
pub fn systemd_escape_path(path: &Path) -> String {
    let parts: Vec<&[u8]> = path
        .as_os_str()
        .as_bytes()
        .split(|b| *b == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .collect();
    if parts.is_empty() {
        return "-".to_owned();
    }
    let mut out = String::new();
    for (index, byte) in parts.join(&b'/').into_iter().enumerate() {
        match byte {
            b'/' => out.push('-'),
            b'.' if index == 0 => out.push_str("\\x2e"),
            _ if byte.is_ascii_alphanumeric() || b":_.".contains(&byte) => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_escaped_as_systemd_does() {
        let escaped = |path: &str| systemd_escape_path(Path::new(path));
        assert_eq!(escaped("/var/lib/strongroom"), "var-lib-strongroom");
        assert_eq!(escaped("/a-b//c d/"), "a\\x2db-c\\x20d");
        assert_eq!(escaped("/.x/.y"), "\\x2ex-.y");
        assert_eq!(escaped("/"), "-");
        assert_eq!(escaped("/dev/vg/\u{e4}"), "dev-vg-\\xc3\\xa4");
    }

    #[test]
    fn a_directory_pool_holds_its_socket_and_links_lead_to_one_place() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap().join("p");
        std::fs::create_dir(&real).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let places = Places::find(&link, None).unwrap();
        assert_eq!(places, Places::find(&real, None).unwrap());
        assert_eq!(places.socket, real.join("control.sock"));
        let image = real.join("pool.img");
        assert_eq!(Places::find(&image, None).unwrap().pool, image);
        std::fs::write(&places.socket, "").unwrap();
        assert_eq!(Places::find(&image, None).unwrap(), places);
        let named = Places::find(&real, Some(Path::new("/s"))).unwrap();
        assert_eq!(named.socket, Path::new("/s"));
    }

    #[test]
    fn what_is_not_there_yet_becomes_a_directory_unless_it_is_an_image() {
        assert!(is_directory_pool(Path::new("/nowhere/pool")));
        assert!(!is_directory_pool(Path::new("/nowhere/pool.img")));
        let long = Places::find(Path::new(&format!("/nowhere/{}", "x".repeat(120))), None).unwrap();
        assert_eq!(long.check_socket().unwrap_err().code, ProblemCode::Config);
    }
}
