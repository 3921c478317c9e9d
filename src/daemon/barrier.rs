//! The barrier before a snapshot: what applications wrote, or stored through mappings, before it
//! was asked for reaches the daemon before it returns, though it was dirty in the kernel only.
//!
//! The set of files is exact: those with a handle open for writing, which a mapping keeps open.
//! While the barrier waits it holds no lock that a request wants. It is bounded in time; an error
//! or the end of that time fails the snapshot, which then would not be what it promises.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use crate::base::units::InodeNo;
use crate::daemon::helper::{Guard, HelperError, HelperProgram, ask};
use crate::daemon::helper_wire::{HelperAnswer, HelperRequest, MountFiles, Stage};
use crate::fuse::{BarrierKind, Session};
use crate::sys::{clock, mount_table, threads};

/// Between two looks at a file that the kernel has dropped and whose release has not come yet.
const RELEASE_INTERVAL: Duration = Duration::from_millis(5);

/// Why the barrier did not hold. The snapshot must not be taken.
#[derive(Debug, thiserror::Error)]
pub enum BarrierError {
    /// No helper process, or no answer from it.
    #[error("{0}")]
    Helper(#[from] HelperError),
    /// The time allowed is over.
    #[error(
        "{} still has pages in the kernel after {} ms; its writers are faster than the pool",
        mount_point.display(), allowed.as_millis()
    )]
    Timeout {
        /// The mount.
        mount_point: PathBuf,
        /// The time that was allowed.
        allowed: Duration,
    },
    /// The kernel could not write a file's pages, or not reach the file.
    #[error("inode {inode} on {} cannot be flushed ({what}): {source}", mount_point.display())]
    File {
        /// The mount.
        mount_point: PathBuf,
        /// The inode; 0 for the mount itself.
        inode: u64,
        /// What was tried.
        what: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

/// What a barrier did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Files that were open for writing.
    pub files: usize,
    /// How long it took.
    pub took: Duration,
}

/// Flushes what the kernel holds of these mounts, all at once.
///
/// # Errors
/// [`BarrierError`]; then nothing is known about any of them.
pub fn settle(
    program: &HelperProgram,
    sessions: &[Arc<Session>],
    timeout: Duration,
) -> Result<Settled, BarrierError> {
    let began = clock::monotonic();
    let time = Allowance { deadline: began + timeout, allowed: timeout };
    // A mount whose connection has ended has nothing in the kernel any more.
    let open: Vec<_> = sessions.iter().filter(|s| !s.has_ended()).map(Work::of).collect();
    let open: Vec<_> = open.into_iter().filter(|work| !work.files.is_empty()).collect();
    let files = open.iter().map(|work| work.files.len()).sum();
    let (by_handle, mut to_forget): (Vec<_>, Vec<_>) =
        open.into_iter().partition(|work| work.session.barrier() == BarrierKind::Handle);
    let running: Vec<_> = to_forget.drain(..).map(|w| Forgetting::start(program, w)).collect();
    let unreachable = flush_by_handle(program, by_handle, time)?;
    let late: Vec<_> = unreachable.into_iter().map(|w| Forgetting::start(program, w)).collect();
    for forgetting in running.into_iter().chain(late) {
        forgetting.finish(time)?;
    }
    Ok(Settled { files, took: clock::monotonic().saturating_sub(began) })
}

#[derive(Clone, Copy, Debug)]
struct Allowance {
    deadline: Duration,
    allowed: Duration,
}

impl Allowance {
    fn left(self) -> Duration {
        self.deadline.saturating_sub(clock::monotonic())
    }

    fn over(self, session: &Session) -> BarrierError {
        BarrierError::Timeout {
            mount_point: session.mount_point().to_owned(),
            allowed: self.allowed,
        }
    }
}

/// One mount's files.
#[derive(Clone, Debug)]
struct Work {
    session: Arc<Session>,
    files: Vec<(InodeNo, u64)>,
}

impl Work {
    fn of(session: &Arc<Session>) -> Self {
        Self { session: Arc::clone(session), files: session.write_handles() }
    }

    fn wire(&self) -> MountFiles {
        // A handle holds the low half of a generation, and so does the kernel's inode.
        let files = self.files.iter().map(|(ino, generation)| (ino.get(), *generation as u32));
        MountFiles { device: self.session.device(), files: files.collect() }
    }
}

/// Flushes through the helper. Returns mounts that it cannot reach: unmounted lazily with files
/// still open, or hidden below another mount.
fn flush_by_handle(
    program: &HelperProgram,
    mut work: Vec<Work>,
    time: Allowance,
) -> Result<Vec<Work>, BarrierError> {
    let mut unreachable = Vec::new();
    while !work.is_empty() {
        let request = HelperRequest::Settle(work.iter().map(Work::wire).collect());
        let sessions: Vec<_> = work.iter().map(|w| Arc::clone(&w.session)).collect();
        let answer = match ask(program, &sessions, request, time.left()) {
            Err(HelperError::Timeout(_)) => return Err(time.over(&sessions[0])),
            other => other?,
        };
        match answer {
            HelperAnswer::Settled { gone } => work = still_open(work, &gone, time)?,
            HelperAnswer::Failed { stage: Stage::Mount, mount, .. }
                if (mount as usize) < work.len() =>
            {
                unreachable.push(work.remove(mount as usize));
            }
            HelperAnswer::Failed { stage, mount, inode, errno } => {
                let session = work.get(mount as usize).map_or(&sessions[0], |w| &w.session);
                if session.has_ended() {
                    work.retain(|w| !w.session.has_ended());
                    continue;
                }
                return Err(BarrierError::File {
                    mount_point: session.mount_point().to_owned(),
                    inode,
                    what: name_of(stage),
                    source: io::Error::from_raw_os_error(errno),
                });
            }
            _ => return Err(HelperError::Lost(io::ErrorKind::InvalidData.into()).into()),
        }
    }
    Ok(unreachable)
}

const fn name_of(stage: Stage) -> &'static str {
    match stage {
        Stage::Mount => "reaching the mount",
        Stage::Open => "opening it by handle",
        Stage::Start => "starting writeback",
        Stage::Wait => "waiting for writeback",
        Stage::Unmount => "unmounting",
    }
}

/// Files that the kernel knew no more had been closed by everybody, and a file's last close writes
/// its pages. Makes sure of that: its release must arrive. What was opened again meanwhile is
/// work again.
fn still_open(
    work: Vec<Work>,
    gone: &[(u32, u64)],
    time: Allowance,
) -> Result<Vec<Work>, BarrierError> {
    let mut again = Vec::new();
    for (place, Work { session, mut files }) in work.into_iter().enumerate() {
        let gone: HashSet<u64> = gone
            .iter()
            .filter(|(mount, _)| *mount as usize == place)
            .map(|(_, inode)| *inode)
            .collect();
        if gone.is_empty() {
            continue;
        }
        let wait_until = (clock::monotonic() + 20 * RELEASE_INTERVAL).min(time.deadline);
        files.retain(|(ino, _)| gone.contains(&ino.get()));
        loop {
            let open: HashSet<InodeNo> =
                session.write_handles().into_iter().map(|(ino, _)| ino).collect();
            files.retain(|(ino, _)| open.contains(ino));
            if files.is_empty() || clock::monotonic() >= wait_until {
                break;
            }
            clock::sleep(RELEASE_INTERVAL);
        }
        if !files.is_empty() {
            if time.left().is_zero() {
                return Err(time.over(&session));
            }
            again.push(Work { session, files });
        }
    }
    Ok(again)
}

/// Pages being forgotten by the kernel, in threads of their own: the second waits inside the
/// kernel, the first started the guard and lives as long as the second.
struct Forgetting {
    session: Arc<Session>,
    done: mpsc::Receiver<Result<(), BarrierError>>,
}

impl Forgetting {
    fn start(program: &HelperProgram, work: Work) -> Self {
        let (tell, done) = mpsc::sync_channel(1);
        let session = Arc::clone(&work.session);
        let program = program.clone();
        let failed = tell.clone();
        let spawned = threads::try_spawn("barrier-forget", move || {
            // Nobody listens after a timeout.
            let _ = tell.send(forget(&program, work));
        });
        if let Err(error) = spawned {
            let _ = failed.send(Err(HelperError::Start(error).into()));
        }
        Self { session, done }
    }

    fn finish(self, time: Allowance) -> Result<(), BarrierError> {
        match self.done.recv_timeout(time.left()) {
            Ok(result) => result,
            Err(mpsc::RecvTimeoutError::Timeout) => Err(time.over(&self.session)),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Err(HelperError::Lost(io::ErrorKind::BrokenPipe.into()).into())
            }
        }
    }
}

fn forget(program: &HelperProgram, work: Work) -> Result<(), BarrierError> {
    let Work { session, files } = work;
    // Without the control filesystem nobody can abort a connection, and a guard is of no use.
    let guard = match mount_table::waiting_requests(session.device()) {
        Some(_) => Some(Guard::start(program, session.device())?),
        None => {
            log::debug!("no guard: /sys/fs/fuse/connections is not mounted");
            None
        }
    };
    if !session.is_connected() {
        // Nothing is in the kernel any more, and the guard may stand before another mount.
        return Ok(());
    }
    let theirs = Arc::clone(&session);
    let inside = threads::try_spawn("barrier-kernel", move || {
        for (ino, _) in files {
            theirs.forget_pages(ino).map_err(|error| (ino, error))?;
        }
        Ok(())
    })
    .map_err(HelperError::Start)?;
    let result = inside.join();
    drop(guard);
    match result {
        Ok(Ok(())) => Ok(()),
        // An ended connection has nothing in the kernel.
        Ok(Err(_)) if session.has_ended() => Ok(()),
        Ok(Err((ino, source))) => Err(BarrierError::File {
            mount_point: session.mount_point().to_owned(),
            inode: ino.get(),
            what: "having its pages forgotten",
            source,
        }),
        Err(_) => Err(HelperError::Lost(io::ErrorKind::Other.into()).into()),
    }
}
