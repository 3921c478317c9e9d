//! Unmounting what this daemon serves: through a helper process, because umount(2) writes dirty
//! pages through the daemon and must not wait inside it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::daemon::barrier::settle;
use crate::daemon::helper::{HelperError, HelperProgram, ask};
use crate::daemon::helper_wire::{HelperAnswer, HelperRequest};
use crate::fuse::Session;
use crate::sys::clock;
use crate::sys::fuse_mount::Unmount;
use crate::sys::mount_table::{ConnectionAbort, MountUser, users_of};

/// Users of a busy mount that are named.
const USERS_NAMED: usize = 8;

/// Why something is still mounted.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    /// Files are open, or processes work in it.
    #[error("{} is busy{}", mount_point.display(), name_users(users))]
    Busy {
        /// The mount.
        mount_point: PathBuf,
        /// Some of the processes that use it, where they can be seen.
        users: Vec<MountUser>,
    },
    /// The system, or `fusermount3`, refuses.
    #[error("{} cannot be unmounted: {said}", mount_point.display())]
    Refused {
        /// The mount.
        mount_point: PathBuf,
        /// The reason.
        said: String,
    },
    /// It left the tree, but files are still open in it, or the time ran out before.
    #[error("{} is not free after {} ms", mount_point.display(), allowed.as_millis())]
    StillInUse {
        /// The mount.
        mount_point: PathBuf,
        /// The time that was allowed.
        allowed: Duration,
    },
    /// No helper process, or no answer from it.
    #[error("{0}")]
    Helper(#[from] HelperError),
}

fn name_users(users: &[MountUser]) -> String {
    if users.is_empty() {
        return String::new();
    }
    let names: Vec<_> = users.iter().map(|u| format!("{} ({})", u.command, u.pid)).collect();
    format!(": used by {}", names.join(", "))
}

/// Unmounts, and waits until the session is over and its owner has been told.
///
/// `Forced` flushes first what can be flushed in half of the time, then ends the connection:
/// requests of whoever still uses it fail.
///
/// # Errors
/// [`UnmountError`]
pub fn unmount(
    program: &HelperProgram,
    session: &Arc<Session>,
    how: Unmount,
    timeout: Duration,
) -> Result<(), UnmountError> {
    let deadline = clock::monotonic() + timeout;
    let mount_point = session.mount_point().to_owned();
    if session.has_ended() {
        return Ok(());
    }
    if how == Unmount::Forced
        && let Err(error) = settle(program, std::slice::from_ref(session), timeout / 2)
    {
        log::warn!("{}: unmounted by force with pages lost: {error}", mount_point.display());
    }
    if !session.is_connected() {
        // Unmounted by somebody else; the device number may be another mount's by now.
        return wait_for_end(session, deadline, timeout);
    }
    // For an ordinary user `fusermount3` knows no force; this ends the connection too.
    let abort = (how == Unmount::Forced).then(|| session.connection_abort());
    let left = deadline.saturating_sub(clock::monotonic());
    let request = HelperRequest::Unmount { device: session.device(), how };
    let known = std::slice::from_ref(session);
    let refused = |said: String| UnmountError::Refused { mount_point: mount_point.clone(), said };
    match ask(program, known, request, left) {
        Ok(HelperAnswer::Unmounted) => {}
        Ok(HelperAnswer::Busy(path)) => {
            let users = users_of(&path, USERS_NAMED);
            return Err(UnmountError::Busy { mount_point: path, users });
        }
        Ok(HelperAnswer::Refused(said)) => return Err(refused(said)),
        Ok(HelperAnswer::Failed { errno, .. }) => {
            return Err(refused(io::Error::from_raw_os_error(errno).to_string()));
        }
        Ok(_) => return Err(HelperError::Lost(io::ErrorKind::InvalidData.into()).into()),
        Err(HelperError::Timeout(_)) => {
            return Err(UnmountError::StillInUse { mount_point, allowed: timeout });
        }
        Err(error) => return Err(error.into()),
    }
    if let Some(Err(error)) = abort.map(|abort| abort.and_then(ConnectionAbort::abort)) {
        log::debug!("{}: not aborted: {error}", mount_point.display());
    }
    wait_for_end(session, deadline, timeout)
}

fn wait_for_end(
    session: &Session,
    deadline: Duration,
    allowed: Duration,
) -> Result<(), UnmountError> {
    if session.wait_for_end(deadline.saturating_sub(clock::monotonic())) {
        return Ok(());
    }
    Err(UnmountError::StillInUse { mount_point: session.mount_point().to_owned(), allowed })
}
