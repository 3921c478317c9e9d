//! What every request goes through on its way to the volume: counting, the end of the session,
//! panics, the choice of errno; and what a session keeps beside the volume.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use fuser::{Errno, FopenFlags, InitFlags, Request};

use crate::base::units::InodeNo;
use crate::fuse::errno;
use crate::fuse::invalidate::Invalidator;
use crate::fuse::negotiate::Agreed;
use crate::fuse::open_modes::OpenModes;
use crate::fuse::options::Disabled;
use crate::fuse::requests::Requests;
use crate::volume::{Caller, HandleId, Volume, VolumeError};

/// What is assumed until the kernel's first request has been answered.
const NOTHING_AGREED: Agreed = Agreed {
    writeback: false,
    direct_io: false,
    parallel_direct_writes: false,
    keep_cache: false,
    negative_entries: false,
    umask: false,
    flags: InitFlags::empty(),
};

/// One mount's state behind its requests.
pub(super) struct Dispatch {
    /// Names the mount in log lines: its source.
    name: String,
    /// Not there yet: the cluster's customer key could not be had.
    volume: OnceLock<Arc<Volume>>,
    disabled: Disabled,
    writeback_wanted: bool,
    agreed: OnceLock<Agreed>,
    requests: Requests,
    modes: OpenModes,
    invalidator: Arc<Invalidator>,
}

impl Dispatch {
    pub(super) fn new(
        name: String,
        volume: Option<Arc<Volume>>,
        disabled: Disabled,
        writeback_wanted: bool,
        invalidator: Arc<Invalidator>,
    ) -> Self {
        Self {
            name,
            volume: volume.map_or_else(OnceLock::new, OnceLock::from),
            disabled,
            writeback_wanted,
            agreed: OnceLock::new(),
            requests: Requests::new(),
            modes: OpenModes::default(),
            invalidator,
        }
    }

    /// Names the mount in log lines.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) const fn disabled(&self) -> Disabled {
        self.disabled
    }

    pub(super) const fn writeback_wanted(&self) -> bool {
        self.writeback_wanted
    }

    pub(super) fn set_agreed(&self, agreed: Agreed) {
        // Asked once per connection; a second answer could not change the first.
        let _ = self.agreed.set(agreed);
    }

    pub(super) fn agreed(&self) -> Agreed {
        self.agreed.get().copied().unwrap_or(NOTHING_AGREED)
    }

    pub(super) const fn requests(&self) -> &Requests {
        &self.requests
    }

    /// What is served, once it is there.
    pub(super) fn volume(&self) -> Option<&Arc<Volume>> {
        self.volume.get()
    }

    /// From now on this is served; `false` where something is already.
    pub(super) fn unlock(&self, volume: Arc<Volume>) -> bool {
        self.volume.set(volume).is_ok()
    }

    pub(super) fn is_helper(&self, pid: u32) -> bool {
        self.requests.is_helper(pid)
    }

    /// Who asks. `umask` is theirs, where the kernel has left it to us.
    pub(super) fn caller(&self, request: &Request, umask: u32) -> Caller {
        let umask = if self.agreed().umask { umask } else { 0 };
        Caller { uid: request.uid(), gid: request.gid(), umask, pid: request.pid() }
    }

    /// The name of an extended attribute. Where the kernel enforces no ACLs, none is handed out or
    /// changed: it would not ask whether the caller may.
    pub(super) fn attribute<'a>(&self, name: &'a OsStr) -> Result<&'a [u8], VolumeError> {
        let name = name.as_bytes();
        let enforced = self.agreed().flags.contains(InitFlags::FUSE_POSIX_ACL);
        if name.starts_with(b"system.posix_acl_") && !enforced {
            return Err(VolumeError::NotSupported);
        }
        Ok(name)
    }

    /// Carries out one request. A panic is answered like a failed device, said, counted, and ends
    /// all changes to the volume: what the handler left half done is not known.
    pub(super) fn run<T>(
        &self,
        operation: &'static str,
        ino: u64,
        work: impl FnOnce(&Volume) -> Result<T, VolumeError>,
    ) -> Result<T, Errno> {
        let Some(_under_way) = self.requests.begin() else { return Err(Errno::ENOTCONN) };
        let Some(volume) = self.volume.get() else {
            return Err(errno::answer(&self.name, operation, ino, &VolumeError::Locked));
        };
        match catch_unwind(AssertUnwindSafe(|| work(volume))) {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(errno::answer(&self.name, operation, ino, &error)),
            Err(payload) => {
                volume.stop_writes("a request failed inside the daemon");
                Err(errno::panicked(&self.name, operation, ino, panic_text(&payload)))
            }
        }
    }

    /// Says and counts an error that the answer to a request does not show.
    pub(super) fn tell(&self, operation: &'static str, ino: u64, error: &VolumeError) {
        errno::answer(&self.name, operation, ino, error);
    }

    /// As [`Dispatch::run`], for what takes a file's set-user-id bits away without the kernel
    /// knowing whether there were any.
    pub(super) fn changing<T>(
        &self,
        operation: &'static str,
        ino: u64,
        work: impl FnOnce(&Volume) -> Result<T, VolumeError>,
    ) -> Result<T, Errno> {
        let mut privileged = false;
        let done = self.run(operation, ino, |v| {
            privileged = v.is_privileged(InodeNo(ino))?;
            work(v)
        });
        if privileged {
            // The kernel would go on to believe its own copy of the mode, and run the file with
            // privileges that it has lost.
            self.invalidator.attributes(ino);
        }
        done
    }

    pub(super) fn write(
        &self,
        ino: u64,
        offset: u64,
        data: &[u8],
        keep_privileges: bool,
    ) -> Result<usize, Errno> {
        let work = |v: &Volume| v.write(InodeNo(ino), offset, data, keep_privileges);
        if keep_privileges {
            self.run("write", ino, work)
        } else {
            self.changing("write", ino, work)
        }
    }

    /// A file was opened: flags and number for the kernel.
    pub(super) fn opened(&self, ino: u64, flags: i32, handle: HandleId) -> (FopenFlags, u64) {
        self.modes.open(self.agreed(), ino, flags, handle.0)
    }

    /// A file was closed for good: the volume's name of its handle.
    pub(super) fn released(&self, ino: u64, number: u64) -> HandleId {
        HandleId(self.modes.release(ino, number))
    }
}

fn panic_text(payload: &Box<dyn std::any::Any + Send>) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_control_lists_are_given_and_taken_only_where_the_kernel_enforces_them() {
        let attribute = |flags, name: &str| {
            let invalidator = Arc::new(Invalidator::default());
            let none = Disabled::default();
            let dispatch = Dispatch::new("t".to_owned(), None, none, true, invalidator);
            dispatch.set_agreed(Agreed { flags, ..NOTHING_AGREED });
            dispatch.attribute(name.as_ref()).map(<[u8]>::to_vec)
        };
        let (with, without) = (InitFlags::FUSE_POSIX_ACL, InitFlags::FUSE_ASYNC_DIO);
        for name in ["system.posix_acl_access", "system.posix_acl_default"] {
            assert_eq!(attribute(with, name), Ok(name.as_bytes().to_vec()));
            assert_eq!(attribute(without, name), Err(VolumeError::NotSupported));
        }
        assert_eq!(attribute(without, "user.x"), Ok(b"user.x".to_vec()));
    }
}
