//! The life of a daemon, in the order in which things start and stop.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use crate::base::ProblemCode;
use crate::control::{Access, Problem, Server, ServerError, Stopper};
use crate::daemon::api::DaemonApi;
use crate::daemon::audit::Audit;
use crate::daemon::config::{Given, Settings};
use crate::daemon::ending::{End, Ender};
use crate::daemon::handshake::{Passphrase, Starter};
use crate::daemon::logging::{Destination, Logging};
use crate::daemon::mounter::FuseMounter;
use crate::daemon::places::{Places, is_directory_pool};
use crate::daemon::told;
use crate::daemon::workers::Workers;
use crate::device::{self, Mode};
use crate::keys::root_secret::read_secret_text;
use crate::keys::{AtHand, ConfigDir, KeysError, parse_recovery_key};
use crate::service::{OpenService, Service, ServiceError};
use crate::sys;
use crate::sys::own_directory::{NotOwn, Others, OwnDirectory};
use crate::sys::signals::{Signals, Told};
use crate::sys::threads::JoinHandle;

/// What to do where a pool stood and does not stand any more.
const POOL_GONE: &str = "mount the disk that holds it, or bring it back from a copy; only where it \
                         is given up: strongroom init";
/// Bytes of a recovery key's file.
const RECOVERY_FILE_BYTES_MAX: u64 = 4096;

/// What a daemon is started with.
#[derive(Debug)]
pub struct Options {
    /// Where the pool and its socket stand.
    pub places: Places,
    /// Whether recorded mounts are made again.
    pub remount: bool,
    /// A file with the recovery key, to open the pool with.
    pub recovery_key: Option<PathBuf>,
    /// Opens a pool that is older than what was last seen.
    pub accept_rollback: bool,
    /// Settings given as flags.
    pub flags: Given,
}

/// Who started the daemon, and is told of its start.
pub enum Front {
    /// Somebody who reads standard error; the passphrase is asked for in this way.
    Foreground(Box<dyn FnMut() -> Result<Passphrase, Problem>>),
    /// A process at the other end of the standard streams.
    Detached(Starter),
}

/// Serves a pool until it is told to end.
///
/// # Errors
/// Why it could not start, or what failed on its way out.
pub fn run(options: &Options, mut front: Front) -> Result<(), Problem> {
    let started = Daemon::start(options, &mut front);
    let outcome = started.as_ref().map(|_| ());
    if let Err(problem) = outcome {
        log::error!("the daemon did not start: {problem}");
        tell_systemd(&format!("STATUS={problem}"));
    }
    if let Front::Detached(starter) = front {
        starter.finish(outcome);
    }
    let daemon = started?;
    tell_systemd("READY=1\nSTATUS=serving");
    daemon.serve_until_told()
}

/// A daemon that serves.
struct Daemon {
    service: Arc<Service>,
    workers: Workers,
    stop_server: Stopper,
    server: JoinHandle<Result<(), ServerError>>,
    wishes: Receiver<End>,
}

impl Daemon {
    fn start(options: &Options, front: &mut Front) -> Result<Self, Problem> {
        // Signals first: threads inherit what is kept back.
        let signals = Signals::take().map_err(defect("signals"))?;
        let config = ConfigDir::from_environment().map_err(|e| told::problem(e.into()))?;
        let settings = options.flags.clone().or(Given::read(&config.settings())?).settle()?;
        let logging = Logging::begin(&settings.log, destination(front))?;
        let warnings = harden();
        options.places.check_socket()?;
        let mounter = Arc::new(FuseMounter::new(forbidden(&options.places, &config)));
        let service = open(options, &settings, config, &mounter, front)?;
        mounter.report_to(&service);
        if let Err(error) = logging.continue_in(&service.config().path().join("daemon.log")) {
            log::warn!("the log cannot be kept: {error}");
        }
        let bound = bind(&options.places, &settings).inspect_err(|_| {
            // Nothing was changed that a later daemon would miss.
            let _ = service.close(true, false);
        })?;
        let (ender, wishes) = Ender::new();
        listen_for_signals(signals, ender.clone());
        let audit = Arc::new(Audit::new(&service.config().audit_log()));
        let workers = Workers::start(&service, &audit);
        if options.remount {
            for (place, error) in service.remount() {
                log::error!("{} was not mounted again: {error}", place.display());
            }
            for mount in service.mounts() {
                let of =
                    mount.snapshot_id.map_or(mount.cluster_name.to_string(), |s| s.to_string());
                audit.by_itself("mount", &format!("{of} at {}", mount.mountpoint.display()));
            }
        }
        let api = Arc::new(DaemonApi { service: Arc::clone(&service), ender, audit, warnings });
        let stop_server = bound.stopper();
        let server = sys::threads::spawn("control", move || bound.serve(api));
        log::info!("serving {}", options.places.pool.display());
        Ok(Self { service, workers, stop_server, server, wishes })
    }

    /// Waits for a wish to end that can be fulfilled, then stops in the reverse order.
    fn serve_until_told(self) -> Result<(), Problem> {
        let wish = loop {
            let Ok(wish) = self.wishes.recv() else { break End::told() };
            // Without force, what is busy keeps the daemon; nothing of it was stopped yet.
            match self.service.unmount_all(wish.force, wish.forget) {
                Err(error) if error.code == ProblemCode::Busy && !wish.force => {
                    wish.answer(Err(told::problem(error)));
                }
                Err(error) => {
                    log::error!("unmounting failed on the way out: {error}");
                    break wish;
                }
                Ok(_) => break wish,
            }
        };
        tell_systemd("STOPPING=1");
        self.workers.stop();
        let closed = self.service.close(true, wish.forget).map_err(told::problem);
        match &closed {
            Ok(()) => log::info!("ended"),
            Err(problem) => log::error!("no last checkpoint was made: {problem}"),
        }
        let resumes = wish.resume;
        wish.answer(if resumes { Ok(()) } else { closed.clone() });
        self.stop_server.stop();
        match self.server.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::error!("the control socket: {error}"),
            Err(_) => log::error!("the control socket ended in a defect"),
        }
        if resumes { Ok(()) } else { closed }
    }
}

fn destination(front: &Front) -> Destination {
    match front {
        Front::Foreground(_) => Destination::StandardError,
        Front::Detached(_) => Destination::File,
    }
}

fn defect(what: &'static str) -> impl FnOnce(std::io::Error) -> Problem {
    move |e| Problem::new(ProblemCode::Internal, format!("{what}: {e}"))
}

/// Keeps keys in memory as far as this process may; what it may not is a line for people.
fn harden() -> Vec<String> {
    std::panic::set_hook(Box::new(|info| log::error!("defect: {info}")));
    sys::process::private_umask();
    sys::process::bound_allocator();
    let mut refused = sys::process::keep_memory_private();
    if let Err(error) = sys::process::raise_nofile() {
        refused.push(("few files can be open at once", error));
    }
    let warning = |(what, error): (&str, std::io::Error)| {
        log::warn!("{what}: {error}");
        format!("{what}: {error}")
    };
    refused.into_iter().map(warning).collect()
}

/// Where nothing may be mounted: in the pool, and in what opens it.
fn forbidden(places: &Places, config: &ConfigDir) -> Vec<PathBuf> {
    let mut out = vec![config.path().to_owned()];
    if is_directory_pool(&places.pool) {
        out.push(places.pool.clone());
    }
    out
}

fn open(
    options: &Options,
    settings: &Settings,
    config: ConfigDir,
    mounter: &Arc<FuseMounter>,
    front: &mut Front,
) -> Result<Arc<Service>, Problem> {
    let opened = |e: ServiceError| told::problem(e.while_doing(options.places.pool.display()));
    let device = device::open(&options.places.pool, Mode::ReadWrite).map_err(|e| {
        let problem = opened(e.into());
        match (problem.code, config.pool_known_at(&options.places.pool)) {
            (ProblemCode::PoolNotFound, Some(id)) => {
                let detail = format!("{}, and the pool {id} stood there", problem.detail);
                Problem::new(problem.code, detail).with_hint(POOL_GONE)
            }
            (ProblemCode::PoolNotFound, None) => problem.with_hint("make one: strongroom init"),
            (ProblemCode::PoolBusy, _) => {
                problem.with_hint("strongroom status shows who serves it")
            }
            _ => problem,
        }
    })?;
    let mut request =
        OpenService::new(device, options.places.pool.clone(), config, Arc::clone(mounter) as _);
    request.cache_bytes = usize::try_from(settings.cache_bytes).unwrap_or(usize::MAX);
    request.checkpoint_interval = settings.checkpoint_interval;
    request.accept_rollback = options.accept_rollback;
    if let Some(path) = &options.recovery_key {
        request.at_hand = recovery_key(path)?;
    }
    // Why nobody could be asked says more than that there was no secret.
    let mut refused = None;
    let mut ask = || {
        let answer = match front {
            Front::Foreground(ask) => ask(),
            Front::Detached(starter) => starter.passphrase(),
        };
        answer.map_err(|problem| refused = Some(problem)).ok()
    };
    let service = Service::open(request, &mut ask);
    service.map_err(|error| refused.unwrap_or_else(|| opened(error)))
}

/// The recovery key in a file, at hand.
fn recovery_key(path: &Path) -> Result<AtHand, Problem> {
    let failed = |e: KeysError| told::problem(e.into());
    let read = read_secret_text(path, RECOVERY_FILE_BYTES_MAX);
    let bytes = read.map_err(|error| match &error {
        KeysError::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            let detail = format!("there is no recovery key at {}", path.display());
            Problem::new(ProblemCode::RootSecretMissing, detail)
        }
        _ => failed(error),
    })?;
    let text = std::str::from_utf8(&bytes).map_err(|_| {
        let detail = format!("{} holds no recovery key", path.display());
        Problem::new(ProblemCode::RootSecret, detail)
    })?;
    let recovery = Some(parse_recovery_key(text).map_err(failed)?);
    Ok(AtHand { recovery, ..AtHand::default() })
}

fn bind(places: &Places, settings: &Settings) -> Result<Server, Problem> {
    let failed = |detail: String| Problem::new(ProblemCode::Io, detail);
    if let Some(parent) = places.socket.parent().filter(|p| !p.exists()) {
        let mode = if sys::process::euid() == 0 { 0o755 } else { 0o700 };
        let made = std::fs::DirBuilder::new().recursive(true).mode(mode).create(parent);
        let named = |e| failed(format!("{}: {e}", parent.display()));
        made.map_err(named)?;
        // The mode that was asked for, whatever the mask takes away.
        let own = OwnDirectory::open_made(parent, Others::MayNotWrite).map_err(not_own)?;
        own.share(mode, None).map_err(named)?;
    }
    if let Some(gid) = settings.admin_gid
        && is_directory_pool(&places.pool)
    {
        // Administrators must get through to the socket, and see nothing else.
        let own = OwnDirectory::open(&places.pool, Others::MayNotWrite).map_err(not_own)?;
        let through = own.share(0o710, Some(gid));
        through.map_err(|e| failed(format!("{}: {e}", places.pool.display())))?;
    }
    let access = Access { owner_uid: sys::process::euid(), admin_gid: settings.admin_gid };
    Server::bind(&places.socket, access).map_err(|error| {
        let code = match error {
            ServerError::InUse(_) => ProblemCode::PoolBusy,
            ServerError::PathTooLong(_) | ServerError::NotASocket(_) => ProblemCode::Config,
            ServerError::NotOwn(error) => return not_own(error),
            ServerError::Io { .. } => ProblemCode::Io,
        };
        let hint = match code {
            ProblemCode::Config => "choose another place for the socket: --socket PATH",
            _ => "",
        };
        Problem::new(code, error.to_string()).with_hint(hint)
    })
}

/// A directory in which others could exchange what the daemon put there.
fn not_own(error: NotOwn) -> Problem {
    let code = match error {
        NotOwn::Io { .. } => ProblemCode::Io,
        NotOwn::Foreign { .. } | NotOwn::Writable { .. } => ProblemCode::Forbidden,
    };
    Problem::new(code, error.to_string()).with_hint(error.hint().unwrap_or_default())
}

/// Turns signals into wishes.
fn listen_for_signals(signals: Signals, ender: Ender) {
    sys::threads::spawn("signals", move || {
        while let Ok(told) = signals.wait() {
            match told {
                // Terminals come and go.
                Told::HangUp => log::info!("SIGHUP is ignored; settings are read at the start"),
                Told::End => {
                    log::info!("told to end by a signal");
                    ender.end(End::told());
                }
            }
        }
    });
}

fn tell_systemd(state: &str) {
    if let Err(error) = sys::process::sd_notify(state) {
        log::warn!("systemd cannot be told: {error}");
    }
}
