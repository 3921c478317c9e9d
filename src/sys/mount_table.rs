//! What the kernel says about mounts: `/proc/self/mountinfo`, and the FUSE connections below
//! `/sys/fs/fuse/connections`.
//!
//! None of this touches a mounted filesystem, so the process that serves a mount may call it.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// Type under which every mount of this product stands in the mount table.
pub const FS_TYPE: &str = "fuse.strongroom";

/// The device number that names a mounted filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceNumber {
    /// Major number, 0 for filesystems without a block device.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl DeviceNumber {
    /// The FUSE connection's name below `/sys/fs/fuse/connections`: the number as the kernel
    /// holds it (twelve bits major, twenty bits minor).
    #[must_use]
    pub const fn connection(self) -> u64 {
        ((self.major as u64) << 20) | self.minor as u64
    }
}

impl std::fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// One line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// Number of this mount, used again only after it is gone.
    pub id: u64,
    /// The filesystem that is mounted.
    pub device: DeviceNumber,
    /// Which of its directories is: `/` unless it is a bind mount of a part.
    pub root: PathBuf,
    /// Where, as this process sees it.
    pub mount_point: PathBuf,
    /// Type with its subtype, such as `ext4` or `fuse.strongroom`.
    pub fs_type: String,
    /// What was mounted, as the mounting program named it.
    pub source: String,
}

/// The mount table of this process's mount namespace, in the order of mounting (of two mounts at
/// one place the later hides the earlier).
///
/// # Errors
/// Where `/proc` is not there.
pub fn mounts() -> io::Result<Vec<MountEntry>> {
    Ok(parse(&fs::read("/proc/self/mountinfo")?))
}

/// The text of `mountinfo` (proc(5)); lines that are none are left out.
pub(crate) fn parse(text: &[u8]) -> Vec<MountEntry> {
    text.split(|b| *b == b'\n').filter_map(parse_line).collect()
}

/// The uppermost mount at exactly `mount_point`.
///
/// # Errors
/// As [`mounts`].
pub fn mount_at(mount_point: &Path) -> io::Result<Option<MountEntry>> {
    Ok(mounts()?.into_iter().rev().find(|m| m.mount_point == mount_point))
}

/// The mount that an open descriptor leads into, from the kernel's memory: the filesystem is not
/// asked. `None` where it is not in this namespace (any more).
///
/// # Errors
/// As [`mounts`].
pub fn mount_of(file: BorrowedFd<'_>) -> io::Result<Option<MountEntry>> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse::<u64>().ok());
    Ok(mounts()?.into_iter().find(|m| Some(m.id) == id))
}

/// Whether the filesystem `device` is mounted anywhere in this mount namespace.
///
/// # Errors
/// As [`mounts`].
pub fn is_mounted(device: DeviceNumber) -> io::Result<bool> {
    Ok(mounts()?.iter().any(|m| m.device == device))
}

/// One line of `mountinfo` (proc(5)); `None` where it is not one.
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|b| *b == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let _parent_id = fields.next()?;
    let device = parse_device(fields.next()?)?;
    let root = unescape(fields.next()?);
    let mount_point = unescape(fields.next()?);
    let _options = fields.next()?;
    // Optional fields of any number end with a single hyphen.
    fields.by_ref().find(|f| *f == b"-")?;
    let fs_type = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = unescape(fields.next()?).to_string_lossy().into_owned();
    Some(MountEntry { id, device, root, mount_point, fs_type, source })
}

fn parse_device(field: &[u8]) -> Option<DeviceNumber> {
    let text = std::str::from_utf8(field).ok()?;
    let (major, minor) = text.split_once(':')?;
    Some(DeviceNumber { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

/// The kernel writes space, tab, newline and backslash as a backslash and three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|d| d.iter().all(|b| (b'0'..=b'7').contains(b)));
        match (first, digits) {
            (b'\\', Some(digits)) => {
                let value = digits.iter().fold(0u32, |v, d| v * 8 + u32::from(d - b'0'));
                out.push((value & 0xff) as u8);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

fn connection_file(device: DeviceNumber, file: &str) -> PathBuf {
    PathBuf::from(format!("/sys/fs/fuse/connections/{}/{file}", device.connection()))
}

/// Requests that the kernel has sent and that are not answered yet; `None` where the FUSE control
/// filesystem is not mounted.
#[must_use]
pub fn waiting_requests(device: DeviceNumber) -> Option<u64> {
    fs::read_to_string(connection_file(device, "waiting")).ok()?.trim().parse().ok()
}

/// The means to end one connection by force, taken while it is known to be that one: numbers of
/// connections are used again, and what is open here belongs to the old one for ever.
pub struct ConnectionAbort(fs::File);

impl ConnectionAbort {
    /// Of the connection that has this device number now. Whoever wants a certain one makes sure
    /// afterwards that it is still mounted.
    ///
    /// # Errors
    /// Where the FUSE control filesystem is not mounted, or the caller is neither root nor the
    /// user who mounted.
    pub fn of(device: DeviceNumber) -> io::Result<Self> {
        fs::OpenOptions::new().write(true).open(connection_file(device, "abort")).map(Self)
    }

    /// Ends the connection: every request, waiting or to come, fails with `ENOTCONN`, and pages
    /// that the kernel has not written are lost. The way out when nothing else helps.
    ///
    /// # Errors
    /// The kernel's.
    pub fn abort(mut self) -> io::Result<()> {
        self.0.write_all(b"1")
    }
}

/// Sets how far the kernel reads ahead on this filesystem, in KiB.
///
/// # Errors
/// Where sysfs refuses (an ordinary user, most containers).
pub fn set_read_ahead(device: DeviceNumber, kib: u32) -> io::Result<()> {
    fs::write(format!("/sys/class/bdi/{device}/read_ahead_kb"), kib.to_string())
}

/// Sets the share of the dirty page limit that this filesystem may use, in percent (the kernel
/// gives a FUSE filesystem 1).
///
/// # Errors
/// As [`set_read_ahead`].
pub fn set_dirty_share(device: DeviceNumber, percent: u32) -> io::Result<()> {
    fs::write(format!("/sys/class/bdi/{device}/max_ratio"), percent.to_string())
}

/// A process that keeps a mount busy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountUser {
    /// Its process id.
    pub pid: u32,
    /// Its name, as `ps` shows it; empty where it cannot be read.
    pub command: String,
}

/// Processes with an open file, a mapping, a working or a root directory below `mount_point`, at
/// most `limit`. Reads `/proc` alone, never the mount; sees what this user may see.
#[must_use]
pub fn users_of(mount_point: &Path, limit: usize) -> Vec<MountUser> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| uses(*pid, mount_point))
        .take(limit)
        .map(|pid| {
            let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            MountUser { pid, command: command.trim_end().to_owned() }
        })
        .collect()
}

fn uses(pid: u32, mount_point: &Path) -> bool {
    let below = |link: PathBuf| fs::read_link(link).is_ok_and(|to| to.starts_with(mount_point));
    let process = PathBuf::from(format!("/proc/{pid}"));
    if below(process.join("cwd")) || below(process.join("root")) {
        return true;
    }
    if let Ok(descriptors) = fs::read_dir(process.join("fd"))
        && descriptors.flatten().any(|d| below(d.path()))
    {
        return true;
    }
    fs::read(process.join("maps")).is_ok_and(|maps| {
        maps.split(|b| *b == b'\n').any(|line| {
            let path = line.iter().position(|b| *b == b'/').and_then(|at| line.get(at..));
            path.is_some_and(|path| unescape(path).starts_with(mount_point))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_with_and_without_optional_fields_and_with_escapes() {
        let line = b"36 35 0:42 / /mnt/two\\040words rw,noatime shared:1 master:2 - fuse.strongroom strongroom:db rw,fd=9";
        let entry = parse_line(line).unwrap();
        assert_eq!((entry.id, entry.device), (36, DeviceNumber { major: 0, minor: 42 }));
        assert_eq!(entry.mount_point, Path::new("/mnt/two words"));
        assert_eq!(
            (entry.fs_type.as_str(), entry.source.as_str()),
            ("fuse.strongroom", "strongroom:db")
        );
        let plain = parse_line(b"21 1 8:1 / / rw - ext4 /dev/sda1 rw").unwrap();
        assert_eq!(plain.mount_point, Path::new("/"));
        for bad in [
            &b""[..],
            b"1 2 3",
            b"x 2 8:1 / / rw - a b c",
            b"1 2 x:y / / rw - a b c",
            b"36 35 0:42 / /mnt rw shared:1",
        ] {
            assert_eq!(parse_line(bad), None);
        }
    }

    #[test]
    fn escapes_that_are_none_stay() {
        assert_eq!(unescape(b"a\\04"), Path::new("a\\04"));
        assert_eq!(unescape(b"a\\134b"), Path::new("a\\b"));
        assert_eq!(unescape(b"\\"), Path::new("\\"));
    }

    #[test]
    fn a_connection_is_named_by_the_kernels_device_number() {
        assert_eq!(DeviceNumber { major: 0, minor: 42 }.connection(), 42);
        assert_eq!(DeviceNumber { major: 8, minor: 1 }.connection(), (8 << 20) + 1);
    }

    #[test]
    fn the_root_is_a_mount_and_this_process_uses_it() {
        assert!(mount_at(Path::new("/")).unwrap().is_some());
        let here = std::env::current_exe().unwrap();
        let me = std::process::id();
        assert!(uses(me, here.parent().unwrap()));
        assert!(!uses(me, Path::new("/nowhere/at/all")));
    }
}
