//! The daemon's half of a helper process: started by exec of our own program, asked one thing
//! within a bounded time, killed when it takes longer, and waited for in any case.

use std::io;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use crate::daemon::helper_wire::{HELPER_ARGUMENT, HelperAnswer, HelperRequest};
use crate::fuse::Session;
use crate::sys::{clock, threads};

/// How long a guard may take to leave.
const GUARD_PATIENCE: Duration = Duration::from_secs(1);

/// The program that is run as a helper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelperProgram(PathBuf);

impl Default for HelperProgram {
    /// The program that is running now, even where its file has been replaced since.
    fn default() -> Self {
        Self(PathBuf::from("/proc/self/exe"))
    }
}

impl HelperProgram {
    /// Another program, whose first act is [`crate::daemon::barrier_child::run_if_asked`].
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self(path)
    }

    fn start(&self) -> io::Result<(Child, ChildStdin, ChildStdout)> {
        let mut child = Command::new(&self.0)
            .arg(HELPER_ARGUMENT)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => Ok((child, input, output)),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

/// Why a helper gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// It could not be started.
    #[error("the helper process cannot be started: {0}")]
    Start(#[source] io::Error),
    /// It took too long, and was killed.
    #[error("the helper process did not answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// It ended without an answer.
    #[error("the helper process ended without an answer: {0}")]
    Lost(#[source] io::Error),
    /// More of them at once than a mount knows.
    #[error("too many helper processes at once")]
    TooMany,
}

/// Starts a helper, asks it, and returns its answer. While it lives, its fsyncs cost no commit in
/// `sessions`. The caller holds no lock that a request could want.
///
/// # Errors
/// [`HelperError`]
pub(super) fn ask(
    program: &HelperProgram,
    sessions: &[Arc<Session>],
    request: HelperRequest,
    timeout: Duration,
) -> Result<HelperAnswer, HelperError> {
    let (mut child, mut input, mut output) = program.start().map_err(HelperError::Start)?;
    let pid = child.id();
    let sessions = sessions.to_vec();
    let known = sessions.iter().all(|session| session.helper_begins(pid));
    if !known {
        // It has been asked nothing yet, and ends when its input does.
        drop(input);
        reap(child, sessions);
        return Err(HelperError::TooMany);
    }
    let (tell, told) = mpsc::sync_channel(1);
    let exchange = threads::try_spawn("helper-talk", move || {
        let answer = request.send(&mut input).and_then(|()| HelperAnswer::receive(&mut output));
        // Nobody listens after a timeout.
        let _ = tell.send(answer);
    });
    let answer = match exchange {
        Err(error) => Err(HelperError::Start(error)),
        Ok(_) => match told.recv_timeout(timeout) {
            Ok(answer) => answer.map_err(HelperError::Lost),
            Err(_) => {
                // It may be deep in the kernel, waiting for us: killed, it goes when it can.
                let _ = child.kill();
                Err(HelperError::Timeout(timeout))
            }
        },
    };
    reap(child, sessions);
    answer
}

/// Waits for the helper's end, in a thread of its own: closing its files takes requests. Its id is
/// forgotten first, because once it is waited for it can become somebody else's.
fn reap(mut child: Child, sessions: Vec<Arc<Session>>) {
    let pid = child.id();
    let wait = threads::try_spawn("helper-reap", move || {
        for session in &sessions {
            session.helper_gone(pid);
        }
        if let Err(error) = child.wait() {
            log::warn!("helper process {pid} cannot be waited for: {error}");
        }
    });
    if let Err(error) = wait {
        // The zombie keeps its id, so nobody else can have it; it stays until the daemon ends.
        log::warn!("helper process {pid} is not waited for: {error}");
    }
}

/// A helper that stands guard; see [`HelperRequest::Guard`].
#[derive(Debug)]
pub(super) struct Guard {
    child: Child,
    input: ChildStdin,
}

impl Guard {
    /// Starts the guard and waits until it stands. The calling thread must outlive what it guards.
    ///
    /// # Errors
    /// [`HelperError`]
    pub(super) fn start(
        program: &HelperProgram,
        device: crate::sys::mount_table::DeviceNumber,
    ) -> Result<Self, HelperError> {
        let (child, input, mut output) = program.start().map_err(HelperError::Start)?;
        let mut guard = Self { child, input };
        let request = HelperRequest::Guard { device, parent: crate::sys::process::pid() };
        let answer =
            request.send(&mut guard.input).and_then(|()| HelperAnswer::receive(&mut output));
        match answer {
            Ok(HelperAnswer::Armed) => Ok(guard),
            Ok(_) => Err(HelperError::Lost(io::ErrorKind::InvalidData.into())),
            Err(error) => Err(HelperError::Lost(error)),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        use std::io::Write as _;
        // One byte: all is well. It must not act on our silence, nor keep us waiting.
        let told = self.input.write_all(&[1]).and_then(|()| self.input.flush()).is_ok();
        let deadline = clock::monotonic() + GUARD_PATIENCE;
        while told && clock::monotonic() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            clock::sleep(Duration::from_millis(1));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
