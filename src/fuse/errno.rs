//! The one place where an error of the volume becomes an errno, a log line and a counter.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fuser::Errno;

use crate::base::counters::{FUSE_ERRORS, FUSE_PANICS};
use crate::sys::clock;
use crate::volume::VolumeError;

/// Between two lines of the log about the same kind of failure.
const QUIET: Duration = Duration::from_secs(5);

/// How much an error is worth saying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weight {
    /// An answer like any other.
    Expected,
    /// Something an operator should see.
    Warning,
    /// Something that must not happen.
    Failure,
}

/// errno and weight of an error.
const fn judge(error: &VolumeError) -> (i32, Weight) {
    use Weight::{Expected, Failure, Warning};
    match error {
        VolumeError::NotFound => (libc::ENOENT, Expected),
        VolumeError::Exists => (libc::EEXIST, Expected),
        VolumeError::NotDirectory => (libc::ENOTDIR, Expected),
        VolumeError::IsDirectory => (libc::EISDIR, Expected),
        VolumeError::NotEmpty => (libc::ENOTEMPTY, Expected),
        VolumeError::NameTooLong => (libc::ENAMETOOLONG, Expected),
        VolumeError::TooManyLinks => (libc::EMLINK, Expected),
        VolumeError::NoSpace => (libc::ENOSPC, Warning),
        VolumeError::ReadOnly => (libc::EROFS, Expected),
        // Not EROFS: the kernel may have accepted long ago what is refused only now, and passes this
        // on to whoever asks for durability.
        VolumeError::PoolReadOnly(_) => (libc::EIO, Failure),
        VolumeError::Locked => (libc::ENOKEY, Expected),
        VolumeError::Corrupt { .. } => (libc::EIO, Failure),
        VolumeError::Io(_) => (libc::EIO, Failure),
        VolumeError::WriteLost(_) => (libc::EIO, Failure),
        VolumeError::NoData => (libc::ENODATA, Expected),
        VolumeError::Range => (libc::ERANGE, Expected),
        VolumeError::TooLarge => (libc::EFBIG, Expected),
        VolumeError::AttributeTooLarge => (libc::E2BIG, Expected),
        VolumeError::NotSupported => (libc::EOPNOTSUPP, Expected),
        VolumeError::Invalid => (libc::EINVAL, Expected),
        VolumeError::BadHandle => (libc::EBADF, Expected),
        VolumeError::Stale => (libc::ESTALE, Expected),
        VolumeError::Perm => (libc::EPERM, Expected),
        VolumeError::NoSuchOffset => (libc::ENXIO, Expected),
    }
}

/// One kind of line, said at most once in [`QUIET`]; what was left out is counted.
struct Line {
    said_at_ms: AtomicU64,
    unsaid: AtomicU64,
}

impl Line {
    const fn new() -> Self {
        Self { said_at_ms: AtomicU64::new(0), unsaid: AtomicU64::new(0) }
    }

    /// How many lines were left out since the last, where it is time for one.
    fn due(&self, now_ms: u64) -> Option<u64> {
        let last = self.said_at_ms.load(Ordering::Relaxed);
        let time = last == 0 || now_ms.saturating_sub(last) >= QUIET.as_millis() as u64;
        let ours = time
            && self
                .said_at_ms
                .compare_exchange(last, now_ms.max(1), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if ours {
            Some(self.unsaid.swap(0, Ordering::Relaxed))
        } else {
            self.unsaid.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

static FULL: Line = Line::new();
static FAILED: Line = Line::new();

fn say(line: &Line, level: log::Level, mount: &str, operation: &str, ino: u64, what: &str) {
    if let Some(unsaid) = line.due(clock::monotonic().as_millis() as u64) {
        let more = if unsaid > 0 { format!(" ({unsaid} more before)") } else { String::new() };
        log::log!(level, "{mount}: {operation} of inode {ino}: {what}{more}");
    }
}

/// The answer to a request that failed. `mount` names the mount in the log.
pub(super) fn answer(mount: &str, operation: &str, ino: u64, error: &VolumeError) -> Errno {
    let (errno, weight) = judge(error);
    match weight {
        Weight::Expected => {}
        Weight::Warning => {
            say(&FULL, log::Level::Warn, mount, operation, ino, &error.to_string());
        }
        Weight::Failure => {
            FUSE_ERRORS.increment();
            say(&FAILED, log::Level::Error, mount, operation, ino, &error.to_string());
        }
    }
    Errno::from_i32(errno)
}

/// The answer to a request whose handler panicked. Said every time: each is a defect.
pub(super) fn panicked(mount: &str, operation: &str, ino: u64, what: &str) -> Errno {
    FUSE_PANICS.increment();
    log::error!(
        "{mount}: {operation} of inode {ino} panicked: {what}; the cluster takes no more changes"
    );
    Errno::EIO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_pool_a_lost_key_and_corruption_have_errnos_of_their_own_and_a_failed_pool_is_no_snapshot()
     {
        let errno = |e: &VolumeError| answer("test", "write", 1, e).code();
        assert_eq!(errno(&VolumeError::NoSpace), libc::ENOSPC);
        assert_eq!(errno(&VolumeError::Locked), libc::ENOKEY);
        assert_eq!(errno(&VolumeError::ReadOnly), libc::EROFS);
        assert_eq!(errno(&VolumeError::PoolReadOnly("a flush failed".to_owned())), libc::EIO);
        let corrupt = VolumeError::Corrupt { what: "a block", ino: None, offset: None, addr: None };
        let before = FUSE_ERRORS.get();
        assert_eq!(errno(&corrupt), libc::EIO);
        assert!(FUSE_ERRORS.get() > before);
        assert_eq!(errno(&VolumeError::NotFound), libc::ENOENT);
    }

    #[test]
    fn lines_about_one_thing_are_said_once_in_a_while_and_counted_between() {
        let line = Line::new();
        assert_eq!(line.due(1000), Some(0));
        assert_eq!((line.due(1001), line.due(2000)), (None, None));
        assert_eq!(line.due(1000 + QUIET.as_millis() as u64), Some(2));
    }
}
