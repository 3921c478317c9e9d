//! What this process says of itself to the kernel and to systemd.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// PR_SET_IO_FLUSHER of `linux/prctl.h`.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

fn prctl(option: libc::c_int, value: libc::c_ulong) -> io::Result<()> {
    let zero: libc::c_ulong = 0;
    // SAFETY: the options used here take one number and no pointer.
    let result = unsafe { libc::prctl(option, value, zero, zero, zero) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Forbids core dumps and reading of this process's memory by others of the same user.
///
/// # Errors
/// The kernel's.
pub fn not_dumpable() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0)
}

/// Sets the core size limit to zero, for this process and its children.
///
/// # Errors
/// The kernel's.
pub fn no_core() -> io::Result<()> {
    Ok(setrlimit(Resource::RLIMIT_CORE, 0, 0)?)
}

/// Keeps what the allocator holds back small: few arenas, whatever the number of threads, and large
/// pieces in mappings of their own, which go back to the kernel when they are freed. Without it
/// the daemon grew to three times its cache (docs/decisions/004). To be called before threads are
/// started.
pub fn bound_allocator() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (libc::M_ARENA_MAX, 4),
        (libc::M_MMAP_THRESHOLD, 256 << 10),
        (libc::M_TRIM_THRESHOLD, 4 << 20),
    ] {
        // SAFETY: sets a number within the allocator, which locks it.
        let taken = unsafe { libc::mallopt(parameter, value) };
        debug_assert_eq!(taken, 1, "a parameter of malloc.h");
    }
}

/// Keeps the memory of a process that may hold keys or passphrases to itself: nobody of the same
/// user reads it, no core is made of it, and what its first thread gives back is erased. What is
/// refused is said, with the kernel's reason.
pub fn keep_memory_private() -> Vec<(&'static str, io::Error)> {
    crate::sys::heap::erase_what_this_thread_frees();
    let steps = [
        ("memory of this process can be read by its user's debuggers", not_dumpable()),
        ("a crash may leave a core with keys in it", no_core()),
        ("little memory can be locked", raise_memlock().map(|_| ())),
    ];
    steps.into_iter().filter_map(|(what, done)| Some((what, done.err()?))).collect()
}

/// Raises the limit on open descriptors to the hard limit; returns it.
///
/// # Errors
/// The kernel's.
pub fn raise_nofile() -> io::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// Raises the limit on locked memory to the hard limit; returns it in bytes.
///
/// # Errors
/// The kernel's.
pub fn raise_memlock() -> io::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard)?;
    Ok(hard)
}

/// Marks the calling thread and those it starts as part of the I/O path: under memory pressure the
/// kernel must not wait, within their allocations, for filesystems that they themselves serve.
///
/// # Errors
/// The kernel's; `EPERM` without CAP_SYS_RESOURCE.
pub fn io_flusher() -> io::Result<()> {
    prctl(PR_SET_IO_FLUSHER, 1)
}

/// Lets this process die with its parent.
///
/// # Errors
/// The kernel's.
pub fn die_with_parent() -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)
}

/// Effective user id.
#[must_use]
pub fn euid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Effective group id.
#[must_use]
pub fn egid() -> u32 {
    nix::unistd::getegid().as_raw()
}

/// Number of the group of that name, or of that number written out.
#[must_use]
pub fn group_id(name: &str) -> Option<u32> {
    let named = nix::unistd::Group::from_name(name).ok().flatten();
    named.map(|group| group.gid.as_raw()).or_else(|| name.parse().ok())
}

/// Own process id.
#[must_use]
pub fn pid() -> u32 {
    std::process::id()
}

/// Whether a process of that id exists.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    let Ok(pid) = i32::try_from(pid) else { return false };
    let asked = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None);
    pid > 0 && matches!(asked, Ok(()) | Err(nix::errno::Errno::EPERM))
}

/// Whether the machine has swap space in use, so that what is not locked may be written to it.
#[must_use]
pub fn swap_is_on() -> bool {
    std::fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1)
}

/// Leaves the terminal's session and directory, and points the three standard streams at
/// `/dev/null` (standard error stays where `keep_stderr` says so). To be called in a process that
/// was started for it and has one thread.
///
/// # Errors
/// The kernel's.
pub fn detach(keep_stderr: bool) -> io::Result<()> {
    // A session leader already (as under systemd) is as good as detached.
    if let Err(error) = nix::unistd::setsid()
        && error != nix::errno::Errno::EPERM
    {
        return Err(error.into());
    }
    std::env::set_current_dir("/")?;
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    if !keep_stderr {
        nix::unistd::dup2_stderr(&null)?;
    }
    Ok(())
}

/// Files that this process makes are nobody else's, unless it says so.
pub fn private_umask() {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
}

/// Closes every descriptor but the three standard streams: those that a careless parent let through.
/// To be called before anything in this process holds one.
///
/// # Errors
/// Where `/proc` cannot be read.
pub fn close_inherited() -> io::Result<()> {
    let mut open = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        open.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    for descriptor in open.into_iter().filter(|d| *d > 2) {
        // The one that read the directory is closed already.
        let _ = nix::unistd::close(descriptor);
    }
    Ok(())
}

/// Tells systemd the daemon's state (`READY=1`, `STATUS=...`, `STOPPING=1`), where it asked by
/// NOTIFY_SOCKET. `false`: nobody asked.
///
/// # Errors
/// The socket's.
pub fn sd_notify(state: &str) -> io::Result<bool> {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(false) };
    let socket = UnixDatagram::unbound()?;
    match name.as_bytes().strip_prefix(b"@") {
        Some(name) => {
            socket.send_to_addr(state.as_bytes(), &SocketAddr::from_abstract_name(name)?)?;
        }
        None => {
            socket.send_to(state.as_bytes(), &name)?;
        }
    }
    Ok(true)
}

/// Bytes of memory this process has resident (`VmRSS`).
#[must_use]
pub fn resident_bytes() -> u64 {
    let Ok(text) = std::fs::read_to_string("/proc/self/status") else { return 0 };
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_has_memory() {
        assert!(is_alive(pid()));
        assert!(!is_alive(0) && !is_alive(u32::MAX));
        assert!(resident_bytes() > 100_000);
        assert!(raise_nofile().unwrap() > 0);
    }
}
