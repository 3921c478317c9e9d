//! The control socket's server: HTTP/1.1 over a Unix socket, every wait and every size bounded.
//!
//! One thread runs the edges (accepting, reading, writing); each request's work runs on a blocking
//! thread, since [`Api`] is synchronous. One connection carries one request.
//!
//! | bound | what happens beyond it |
//! | --- | --- |
//! | 64 connections | 503, at once; the client tries again for a while |
//! | 16 KiB or 64 headers | 431, and 400 where they are none |
//! | headers not complete within 10 s | closed |
//! | body 1 MiB | 413 |
//! | body stalls 10 s, or takes 60 s | 408 |
//! | answer not taken within 30 s | closed |
//! | long work, after 2 s | 202 and a job |

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore, watch};

use crate::base::{ProblemCode, limits};
use crate::control::api::Api;
use crate::control::exchange::{self, Shared};
use crate::control::jobs::Jobs;
use crate::control::problem::{Problem, http_status};
use crate::control::unparsed::{Watched, refusal};
use crate::sys;
use crate::sys::own_directory::{NotOwn, Others, OwnDirectory};
use crate::sys::peer::PeerCredentials;
use crate::sys::sync::{Mutex, Rank};

const HEADER_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 64;
/// How long requests in flight may still take once the server is to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a peer may take for each part of a request.
#[derive(Clone, Copy, Debug)]
pub(in crate::control) struct Patience {
    /// Headers, from the connection on.
    pub header: Duration,
    /// A body that stands still.
    pub stall: Duration,
    /// A body in all.
    pub body: Duration,
    /// Reading the answer.
    pub answer: Duration,
    /// Long work, before it becomes a job.
    pub job: Duration,
}

const PATIENCE: Patience = Patience {
    header: Duration::from_secs(10),
    stall: Duration::from_secs(10),
    body: Duration::from_secs(60),
    answer: Duration::from_secs(30),
    job: Duration::from_secs(2),
};

/// Why a socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Longer than the kernel takes.
    #[error("the socket's path {0} is longer than {max} bytes", max = limits::SOCKET_PATH_BYTES_MAX)]
    PathTooLong(PathBuf),
    /// Somebody serves it.
    #[error("another daemon serves {0}")]
    InUse(PathBuf),
    /// Something that is no socket stands there.
    #[error("{0} is there and is no socket")]
    NotASocket(PathBuf),
    /// Others could put theirs in its place.
    #[error("the socket's directory {0}")]
    NotOwn(#[from] NotOwn),
    /// The kernel's answer.
    #[error("the socket {path}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Who may use the daemon: root, the daemon's own user, and an administrators' group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The daemon's user.
    pub owner_uid: u32,
    /// Members of this group may do all, too.
    pub admin_gid: Option<u32>,
}

impl Access {
    /// Whether `peer` may do all; nobody may do some.
    #[must_use]
    pub fn allows(&self, peer: &PeerCredentials) -> bool {
        peer.uid == 0
            || peer.uid == self.owner_uid
            || self.admin_gid.is_some_and(|gid| peer.gid == gid || peer.groups.contains(&gid))
    }
}

/// A socket that is bound, not yet served.
#[derive(Debug)]
pub struct Server {
    listener: StdListener,
    path: PathBuf,
    access: Access,
    patience: Patience,
    stop: Stopper,
}

/// Ends a server, from any thread.
#[derive(Clone, Debug)]
pub struct Stopper {
    stop: Arc<watch::Sender<bool>>,
}

impl Stopper {
    /// No connection is accepted any more; requests in flight are answered.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }
}

impl Server {
    /// Binds the socket: mode 0600, or 0660 and of the administrators' group where there is one; a
    /// stale one is removed first. Its directory must be this user's or root's.
    ///
    /// # Errors
    /// As [`ServerError`].
    pub fn bind(path: &Path, access: Access) -> Result<Self, ServerError> {
        let failed = |source| ServerError::Io { path: path.to_owned(), source };
        if path.as_os_str().len() > limits::SOCKET_PATH_BYTES_MAX {
            return Err(ServerError::PathTooLong(path.to_owned()));
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(failed(io::ErrorKind::InvalidFilename.into()));
        };
        let directory = OwnDirectory::open(parent, Others::MayAddTheirOwn)?;
        remove_stale(path)?;
        let listener = directory.bind_socket(name, access.admin_gid).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let stop = Stopper { stop: Arc::new(watch::Sender::new(false)) };
        Ok(Self { listener, path: path.to_owned(), access, patience: PATIENCE, stop })
    }

    /// The same with other waits, so that tests need not wait that long.
    #[cfg(test)]
    pub(in crate::control) fn with_patience(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// What ends [`Server::serve`].
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stop.clone()
    }

    /// Serves until stopped, on the calling thread; then removes the socket.
    ///
    /// # Errors
    /// Where no runtime can be had.
    pub fn serve(self, api: Arc<dyn Api>) -> Result<(), ServerError> {
        sys::heap::erase_what_this_thread_frees();
        let failed = |source| ServerError::Io { path: self.path.clone(), source };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(limits::CONNECTIONS_MAX)
            .thread_name("control-work")
            // Requests bring passphrases, and the libraries that read them know nothing of that.
            .on_thread_start(sys::heap::erase_what_this_thread_frees)
            .build()
            .map_err(failed)?;
        let shared = Arc::new(Shared {
            api,
            access: self.access,
            patience: self.patience,
            jobs: Arc::new(Jobs::default()),
            active: AtomicUsize::new(0),
            idle: Notify::new(),
        });
        let stop = self.stop.stop.subscribe();
        let served = runtime.block_on(run(self.listener, Arc::clone(&shared), stop));
        let _ = std::fs::remove_file(&self.path);
        runtime.shutdown_timeout(Duration::from_secs(1));
        served.map_err(|source| ServerError::Io { path: self.path, source })
    }
}

/// Removes a socket that nobody serves.
fn remove_stale(path: &Path) -> Result<(), ServerError> {
    let failed = |source| ServerError::Io { path: path.to_owned(), source };
    let there = match std::fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(e)),
    };
    if !there.file_type().is_socket() {
        return Err(ServerError::NotASocket(path.to_owned()));
    }
    match StdStream::connect(path) {
        Ok(_) => Err(ServerError::InUse(path.to_owned())),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed)
        }
        Err(e) => Err(failed(e)),
    }
}

async fn run(
    listener: StdListener,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(limits::CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                    refuse(&stream);
                    continue;
                };
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    if let Err(error) = connection(stream, shared).await {
                        log::debug!("a control connection ended: {error}");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: wait for some to come back.
                log::warn!("a control connection cannot be accepted: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(STOP_TIMEOUT, shared.wait_idle()).await;
    Ok(())
}

/// One connection too many is told so, in one piece that every socket takes, and closed: who waits
/// unheard cannot tell a busy daemon from a dead one.
fn refuse(stream: &UnixStream) {
    let detail = format!("{} connections are open already", limits::CONNECTIONS_MAX);
    let problem = Problem::new(ProblemCode::TooManyConnections, detail).with_hint("try again");
    log::warn!("a control connection is refused: {problem}");
    let _ = stream.try_write(&refusal(http_status(problem.code), &problem));
}

async fn connection(stream: UnixStream, shared: Arc<Shared>) -> io::Result<()> {
    let stream = stream.into_std()?;
    let peer = Arc::new(sys::peer::of(&stream)?);
    let stream = UnixStream::from_std(stream)?;
    let answered = Arc::new(Notify::new());
    // A request is in flight until its answer is written, not only until it is known.
    let active = Mutex::new(Rank::ControlRequest, None);
    let understood = Arc::new(AtomicBool::new(false));
    let watched = Watched::new(TokioIo::new(stream), Arc::clone(&understood));
    let service = service_fn(|request| {
        understood.store(true, Ordering::Relaxed);
        *active.lock() = Some(shared.enter());
        let (shared, peer, answered) =
            (Arc::clone(&shared), Arc::clone(&peer), Arc::clone(&answered));
        async move {
            let response = exchange::answer(&shared, peer, request).await;
            answered.notify_one();
            Ok::<_, Infallible>(response)
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.patience.header)
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        // A peer that has said all may close its side and still read the answer.
        .half_close(true)
        .keep_alive(false)
        .serve_connection(watched, service);
    let too_slow = async {
        answered.notified().await;
        tokio::time::sleep(shared.patience.answer).await;
    };
    tokio::select! {
        served = serving => served.map_err(io::Error::other),
        () = too_slow => Err(io::Error::from(io::ErrorKind::TimedOut)),
    }
}

impl Shared {
    /// Counts a request until it is dropped.
    pub(in crate::control) fn enter(self: &Arc<Self>) -> Active {
        self.active.fetch_add(1, Ordering::SeqCst);
        Active { shared: Arc::clone(self) }
    }

    async fn wait_idle(&self) {
        while self.active.load(Ordering::SeqCst) > 0 {
            let _ = tokio::time::timeout(Duration::from_millis(50), self.idle.notified()).await;
        }
    }
}

/// A request in flight.
pub(in crate::control) struct Active {
    shared: Arc<Shared>,
}

impl Drop for Active {
    fn drop(&mut self) {
        self.shared.active.fetch_sub(1, Ordering::SeqCst);
        self.shared.idle.notify_one();
    }
}
