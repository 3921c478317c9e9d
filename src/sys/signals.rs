//! Signals as values that a thread waits for, instead of handlers that run anywhere.

use std::io;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};

/// What a process was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// SIGTERM or SIGINT: end in good order.
    End,
    /// SIGHUP: the terminal went, or somebody expects settings to be read again.
    HangUp,
}

/// Signals that are kept back from every thread and handed out by [`Signals::wait`].
#[derive(Debug)]
pub struct Signals {
    descriptor: SignalFd,
}

impl Signals {
    /// Keeps SIGTERM, SIGINT and SIGHUP back. To be called before any other thread is started:
    /// threads inherit what is kept back.
    ///
    /// # Errors
    /// The kernel's.
    pub fn take() -> io::Result<Self> {
        Self::of(&[Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP])
    }

    fn of(signals: &[Signal]) -> io::Result<Self> {
        let mut set = SigSet::empty();
        for signal in signals {
            set.add(*signal);
        }
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
        let descriptor = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { descriptor })
    }

    /// Waits for the next.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait(&self) -> io::Result<Told> {
        loop {
            let Some(info) = self.descriptor.read_signal()? else { continue };
            return Ok(match i32::try_from(info.ssi_signo) {
                Ok(libc::SIGHUP) => Told::HangUp,
                _ => Told::End,
            });
        }
    }
}

/// Ends this process with status 130 when it is interrupted from the terminal (SIGINT), with the
/// terminal as it was: a prompt for a passphrase may have switched its echo off. To be called
/// before any other thread is started.
///
/// # Errors
/// The kernel's.
pub fn exit_130_on_interrupt() -> io::Result<()> {
    let signals = Signals::of(&[Signal::SIGINT])?;
    let terminal: Option<Termios> = tcgetattr(io::stdin()).ok();
    crate::sys::threads::try_spawn("interrupt", move || {
        if signals.wait().is_ok() {
            if let Some(terminal) = &terminal {
                let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, terminal);
            }
            std::process::exit(130);
        }
    })?;
    Ok(())
}
