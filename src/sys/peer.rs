//! Who is at the other end of a Unix socket, as the kernel recorded it at connect time.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

/// SO_PEERGROUPS of `asm-generic/socket.h`.
const SO_PEERGROUPS: libc::c_int = 59;
/// Linux allows a process 65,536 supplementary groups (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 65_536;

/// A peer's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Process id in our namespace; it may have ended since.
    pub pid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// The credentials of the process that made the connection (SO_PEERCRED, SO_PEERGROUPS).
///
/// # Errors
/// The kernel's.
pub fn of(stream: &UnixStream) -> io::Result<PeerCredentials> {
    let mut cred = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut len = libc::socklen_t::try_from(size_of::<libc::ucred>()).unwrap_or(0);
    // SAFETY: the kernel writes at most `len` bytes to `cred`, which is that long.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut cred).cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let pid = u32::try_from(cred.pid).unwrap_or(0);
    Ok(PeerCredentials { uid: cred.uid, gid: cred.gid, pid, groups: groups(stream)? })
}

fn groups(stream: &UnixStream) -> io::Result<Vec<u32>> {
    let mut room = 64;
    loop {
        let mut groups = vec![0u32; room];
        let bytes = room * size_of::<u32>();
        let mut len = libc::socklen_t::try_from(bytes).unwrap_or(libc::socklen_t::MAX);
        // SAFETY: the kernel writes at most `len` bytes to the vector, which is that long.
        let result = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        if result == 0 {
            groups.truncate(len as usize / size_of::<u32>());
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // ERANGE: the length that is needed stands in `len`.
        if error.raw_os_error() != Some(libc::ERANGE) || room >= GROUPS_MAX {
            return Err(error);
        }
        room = (len as usize / size_of::<u32>()).clamp(room * 2, GROUPS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_of_a_pair_is_ourselves() {
        let (a, _b) = UnixStream::pair().unwrap();
        let peer = of(&a).unwrap();
        assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
        assert_eq!(peer.gid, nix::unistd::getegid().as_raw());
        assert_eq!(peer.pid, std::process::id());
        let mut ours: Vec<u32> =
            nix::unistd::getgroups().unwrap().iter().map(|g| g.as_raw()).collect();
        let mut theirs = peer.groups;
        ours.sort_unstable();
        theirs.sort_unstable();
        assert_eq!(ours, theirs);
    }
}
