//! What a helper process does about the process that started it.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Closes every descriptor but the three standard streams, whoever left it open. To be called
/// before this process has opened any.
pub fn close_inherited() {
    // SAFETY: no code of this process owns a descriptor above 2 yet (the caller's promise), so
    // none is closed under its owner. A kernel without the call (before 5.9) closes none, and
    // descriptors closed on exec are closed already.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32);
    }
}

/// Notices when the thread that started this process dies.
#[derive(Debug)]
pub struct ParentWatch {
    signals: SignalFd,
    parent: u32,
}

impl ParentWatch {
    /// From now on. `parent`: the process that started this one.
    ///
    /// # Errors
    /// The kernel's.
    pub fn begin(parent: u32) -> io::Result<Self> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGTERM);
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None)?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC)?;
        let zero: libc::c_ulong = 0;
        let signal = libc::SIGTERM as libc::c_ulong;
        // SAFETY: this option takes one number and no pointer.
        let result = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal, zero, zero, zero) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { signals, parent })
    }

    /// Waits for `input` to have something to read (or its end): `true`. `false`: the thread that
    /// started this process is dead.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait_for_input(&self, input: BorrowedFd<'_>) -> io::Result<bool> {
        // It may have died before we asked to be told.
        if nix::unistd::getppid().as_raw() as u32 != self.parent {
            return Ok(false);
        }
        let mut wanted = [
            PollFd::new(input, PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        loop {
            match poll(&mut wanted, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            let [input, signals] = &wanted;
            if signals.any() == Some(true) {
                return Ok(false);
            }
            if input.any() == Some(true) {
                return Ok(true);
            }
        }
    }
}
