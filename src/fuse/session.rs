//! One mount, from mount(2) to the end of its connection.
//!
//! The connection ends when somebody unmounts, by whatever means, or aborts it; no request
//! announces that. A thread watches for it; then, with no request under way any more, it tells the
//! owner of the session, once.

use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::base::units::InodeNo;
use crate::fuse::adapter::Adapter;
use crate::fuse::dispatch::Dispatch;
use crate::fuse::invalidate::Invalidator;
use crate::fuse::options::MountOptions;
use crate::sys::file_handle::may_open_by_handle;
use crate::sys::fuse_mount::{FuseMountError, Unmount, connection_ended, mount_fuse};
use crate::sys::mount_point::MountPoint;
use crate::sys::mount_table::{self, ConnectionAbort, DeviceNumber};
use crate::sys::mounted_place;
use crate::sys::sync::{Condvar, Mutex, Rank};
use crate::sys::{clock, process, threads};
use crate::volume::Volume;

/// Threads that take requests from the kernel.
const THREADS: usize = 32;
/// How far the kernel reads ahead, in KiB: four requests, so that the device works on some while
/// others are decrypted.
const READ_AHEAD_KIB: u32 = 4096;
/// Share of the kernel's limit on dirty pages that one mount may use, in percent.
const DIRTY_SHARE_PERCENT: u32 = 20;
/// Between two looks at a connection whose threads have not noticed its end.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// How a snapshot gets at what the kernel holds of written pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarrierKind {
    /// A process of its own opens the files by handle and syncs them.
    Handle,
    /// The kernel is told to forget their pages, which it writes first. Without the writeback
    /// cache, so that only mappings have any.
    Invalidate,
}

impl fmt::Display for BarrierKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Handle => "handle",
            Self::Invalidate => "invalidate",
        })
    }
}

/// Why a session could not begin. Nothing stays mounted.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Mounting failed.
    #[error(transparent)]
    Mount(#[from] FuseMountError),
    /// The kernel and this program did not agree on a protocol, or it was unmounted at once.
    #[error("the FUSE session on {} did not begin: {source}", path.display())]
    Handshake {
        /// The mount point.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
}

/// How a session is set up.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Mount options, already judged ([`MountOptions::permit`]).
    pub options: MountOptions,
    /// First column of `/proc/mounts`, such as `strongroom:db`; names the mount in the log.
    pub source: String,
    /// How snapshots will flush; `None`: as this process may ([`barrier_kind`]).
    pub barrier: Option<BarrierKind>,
}

/// What is called, once, when the session is over and no request is under way. In a thread of the
/// session's own.
pub type OnEnd = Box<dyn FnOnce() + Send>;

/// The kind of barrier that this process may use.
#[must_use]
pub fn barrier_kind() -> BarrierKind {
    if may_open_by_handle() { BarrierKind::Handle } else { BarrierKind::Invalidate }
}

/// A mount that is being served.
pub struct Session {
    mount_point: PathBuf,
    device: DeviceNumber,
    options: MountOptions,
    barrier: BarrierKind,
    dispatch: Arc<Dispatch>,
    invalidator: Arc<Invalidator>,
    /// The last descriptor of the connection; none once its end was noticed.
    connection: Mutex<Option<OwnedFd>>,
    ended: Mutex<bool>,
    end: Condvar,
    threads_done: AtomicBool,
}

impl Session {
    /// Mounts `volume` on `point` and serves it until it is unmounted. Without a volume every
    /// request is answered with `ENOKEY` until [`Session::unlock`].
    ///
    /// # Errors
    /// [`SessionError`]; then nothing is mounted and `on_end` is not called.
    ///
    /// # Panics
    /// Where the system has no threads to give.
    pub fn start(
        point: &MountPoint,
        volume: Option<Arc<Volume>>,
        config: SessionConfig,
        on_end: OnEnd,
    ) -> Result<Arc<Self>, SessionError> {
        let SessionConfig { options, source, barrier } = config;
        let barrier = barrier.unwrap_or_else(barrier_kind);
        let writeback = barrier == BarrierKind::Handle && !options.writes_through();
        let mounted = mount_fuse(point, &options.request(&source, process::euid()))?;
        let invalidator = Arc::new(Invalidator::default());
        let dispatch = Arc::new(Dispatch::new(
            source,
            volume,
            options.disabled,
            writeback,
            Arc::clone(&invalidator),
        ));
        let device = mounted.device;
        let begun = mounted
            .fd
            .try_clone()
            .and_then(|watched| Ok((begin(Arc::clone(&dispatch), mounted.fd)?, watched)));
        let (connection, watched) = match begun {
            Ok(begun) => begun,
            Err(source) => {
                // Every descriptor of the connection is closed: unmounting waits for nobody.
                let entry = mount_table::mount_at(point.path()).ok().flatten();
                if let Some(entry) = entry.filter(|entry| entry.device == device) {
                    let _ = mounted_place::unmount(&entry, Unmount::Lazy);
                }
                return Err(SessionError::Handshake { path: point.path().to_owned(), source });
            }
        };
        tune(dispatch.name(), mounted.device);
        invalidator.connect(connection.notifier());
        let session = Arc::new(Self {
            mount_point: point.path().to_owned(),
            device,
            options,
            barrier,
            dispatch,
            invalidator,
            connection: Mutex::new(Rank::SessionConnection, Some(watched)),
            ended: Mutex::new(Rank::SessionEnd, false),
            end: Condvar::new(),
            threads_done: AtomicBool::new(false),
        });
        session.spawn_threads(connection, on_end);
        Ok(session)
    }

    fn spawn_threads(self: &Arc<Self>, connection: fuser::Session<Adapter>, on_end: OnEnd) {
        let invalidator = Arc::clone(&self.invalidator);
        threads::spawn("fuse-forget", move || invalidator.serve());
        let session = Arc::clone(self);
        threads::spawn("fuse-serve", move || session.serve(connection));
        let session = Arc::clone(self);
        threads::spawn("fuse-watch", move || {
            session.watch();
            // From here on the kernel holds nothing of this connection.
            *session.connection.lock() = None;
            on_end();
            *session.ended.lock() = true;
            session.end.notify_all();
        });
    }

    /// Takes requests until the connection ends. The threads that do are started from here, and
    /// inherit what this one says about itself.
    fn serve(&self, connection: fuser::Session<Adapter>) {
        if let Err(error) = process::io_flusher() {
            log::debug!("memory reclaim may wait for this mount (PR_SET_IO_FLUSHER): {error}");
        }
        if let Err(error) = connection.run() {
            log::error!("{}: a thread of the session ended: {error}", self.mount_point.display());
        }
        self.threads_done.store(true, Ordering::SeqCst);
        let _ended = self.ended.lock();
        self.end.notify_all();
    }

    /// Returns when the connection has ended and no request is under way.
    fn watch(&self) {
        // No waiting on the descriptor: the kernel would wake this thread at every request.
        while self.is_connected() {
            let ended = self.ended.lock();
            if self.threads_done.load(Ordering::SeqCst) {
                drop(ended);
                clock::sleep(WATCH_INTERVAL);
            } else {
                let _ = self.end.wait_timeout(ended, WATCH_INTERVAL);
            }
        }
        self.invalidator.close();
        let requests = self.dispatch.requests();
        requests.close();
        let mut waited = Duration::ZERO;
        while requests.count() > 0 {
            let step = Duration::from_millis(2);
            clock::sleep(step);
            waited += step;
            if waited.as_millis().is_multiple_of(10_000) {
                let count = requests.count();
                log::warn!(
                    "{}: unmounted, but {count} requests are still under way",
                    self.mount_point.display()
                );
            }
        }
    }

    /// Where it is mounted, as it was asked for.
    #[must_use]
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// Names the mount in the mount table.
    #[must_use]
    pub const fn device(&self) -> DeviceNumber {
        self.device
    }

    /// Whether the kernel still has the filesystem, so that [`Session::device`] names this one: the
    /// number of one that is gone is given to the next. Known sooner than [`Session::has_ended`].
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connection.lock().as_ref().is_some_and(|fd| !connection_ended(fd.as_fd()))
    }

    /// The means to end the connection by force; to be taken before the filesystem is unmounted.
    ///
    /// # Errors
    /// `NotConnected` where it is gone; else as [`ConnectionAbort::of`].
    pub fn connection_abort(&self) -> io::Result<ConnectionAbort> {
        let abort = ConnectionAbort::of(self.device)?;
        // Still there after the opening: what was opened is of this connection.
        if self.is_connected() { Ok(abort) } else { Err(io::ErrorKind::NotConnected.into()) }
    }

    /// With which options.
    #[must_use]
    pub const fn options(&self) -> &MountOptions {
        &self.options
    }

    /// Names of the kernel features in use: offered by it, and not switched off. None before the
    /// kernel's first request.
    #[must_use]
    pub fn capabilities(&self) -> Vec<String> {
        self.dispatch.agreed().names().into_iter().map(str::to_owned).collect()
    }

    /// How a snapshot flushes what the kernel holds.
    #[must_use]
    pub const fn barrier(&self) -> BarrierKind {
        self.barrier
    }

    /// The volume that is served, once it is there.
    #[must_use]
    pub fn volume(&self) -> Option<&Arc<Volume>> {
        self.dispatch.volume()
    }

    /// Serves `volume` from now on, in a session that was started without one. `false` where one
    /// is served already.
    #[must_use]
    pub fn unlock(&self, volume: Arc<Volume>) -> bool {
        self.dispatch.unlock(volume)
    }

    /// Inodes that are open for writing, or mapped so, with their generations: all that can have
    /// dirty pages in the kernel.
    #[must_use]
    pub fn write_handles(&self) -> Vec<(InodeNo, u64)> {
        self.dispatch.volume().map(|volume| volume.write_handles()).unwrap_or_default()
    }

    /// Makes the kernel write all dirty pages of an inode and forget its pages. Blocks; never to be
    /// called with a lock held that a request could want.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn forget_pages(&self, ino: InodeNo) -> io::Result<()> {
        self.invalidator.pages(ino)
    }

    /// From now until [`Session::helper_gone`], an fsync by process `pid` costs no commit. `false`:
    /// too many helpers at once.
    #[must_use]
    pub fn helper_begins(&self, pid: u32) -> bool {
        self.dispatch.requests().helper_begins(pid)
    }

    /// The helper is about to be waited for: its id means nothing any more.
    pub fn helper_gone(&self, pid: u32) {
        self.dispatch.requests().helper_gone(pid);
    }

    /// Requests that the kernel waits for: by its own count, where it shows one.
    #[must_use]
    pub fn waiting_requests(&self) -> u64 {
        let ours = self.dispatch.requests().count() as u64;
        mount_table::waiting_requests(self.device).unwrap_or(ours)
    }

    /// For how long the oldest request has been under way.
    #[must_use]
    pub fn oldest_request(&self) -> Option<Duration> {
        self.dispatch.requests().oldest()
    }

    /// Whether the session is over.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        *self.ended.lock()
    }

    /// Waits until the session is over and its owner has been told; `false` after `timeout`.
    pub fn wait_for_end(&self, timeout: Duration) -> bool {
        let deadline = clock::monotonic() + timeout;
        let mut ended = self.ended.lock();
        loop {
            let left = deadline.saturating_sub(clock::monotonic());
            if *ended || left.is_zero() {
                return *ended;
            }
            ended = self.end.wait_timeout(ended, left).0;
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("mount_point", &self.mount_point)
            .field("device", &self.device)
            .field("barrier", &self.barrier)
            .finish_non_exhaustive()
    }
}

/// The first exchange with the kernel.
/// The first exchange with the kernel; what serves the rest.
pub(super) fn begin(dispatch: Arc<Dispatch>, fd: OwnedFd) -> io::Result<fuser::Session<Adapter>> {
    let mut config = fuser::Config::default();
    config.n_threads = Some(THREADS);
    // The kernel checks who may enter; here, everybody who has come so far may.
    let everybody = fuser::SessionACL::All;
    config.acl = everybody;
    fuser::Session::from_fd(Adapter::new(dispatch), fd, everybody, config)
}

/// Settings beside the protocol. Refused in most containers and to ordinary users; then the mount
/// is slower, not wrong. After the first exchange, which lowers the read-ahead to what it was when
/// the kernel asked.
fn tune(source: &str, device: DeviceNumber) {
    if let Err(error) = mount_table::set_read_ahead(device, READ_AHEAD_KIB) {
        log::debug!("{source}: read-ahead stays as it is: {error}");
    }
    if let Err(error) = mount_table::set_dirty_share(device, DIRTY_SHARE_PERCENT) {
        log::debug!("{source}: the share of dirty pages stays as it is: {error}");
    }
}
