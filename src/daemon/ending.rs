//! How a daemon is told to end: by a signal, or by a command that waits for the outcome.

use std::sync::mpsc::{Receiver, Sender, channel};

use crate::base::ProblemCode;
use crate::control::{Problem, Reply};

/// A wish to end.
pub(in crate::daemon) struct End {
    /// Even while mounts are busy.
    pub force: bool,
    /// Whether the mounts are not made again at the next start.
    pub forget: bool,
    /// Whether the next daemon shall decide what the pool holds: a last checkpoint that fails is
    /// then no failure of the wish.
    pub resume: bool,
    answer: Option<Sender<Reply<()>>>,
}

impl End {
    /// By the command `shutdown`: refused while a mount is busy, unless `force`; mounts are
    /// forgotten.
    pub const fn asked(force: bool) -> Self {
        Self { force, forget: true, resume: false, answer: None }
    }

    /// By a signal: it is not refused, and mounts come back with the next daemon.
    pub const fn told() -> Self {
        Self { force: true, forget: false, resume: false, answer: None }
    }

    /// By the command `pool resume`: refused while a mount is busy; mounts come back.
    pub const fn resuming() -> Self {
        Self { force: false, forget: false, resume: true, answer: None }
    }

    /// Says what became of the wish.
    pub fn answer(self, outcome: Reply<()>) {
        if let Some(answer) = self.answer {
            let _ = answer.send(outcome);
        }
    }
}

/// Hands wishes to the thread that ends the daemon.
#[derive(Clone)]
pub(in crate::daemon) struct Ender {
    wishes: Sender<End>,
}

impl Ender {
    /// An ender, and where its wishes arrive.
    pub fn new() -> (Self, Receiver<End>) {
        let (wishes, arriving) = channel();
        (Self { wishes }, arriving)
    }

    /// Wishes, and goes on.
    pub fn end(&self, end: End) {
        let _ = self.wishes.send(end);
    }

    /// Wishes, and waits until everything is unmounted and checkpointed.
    ///
    /// # Errors
    /// Why the daemon goes on, or what failed on its way out.
    pub fn end_and_wait(&self, end: End) -> Reply<()> {
        let gone = || Problem::new(ProblemCode::Busy, "the daemon is ending already");
        let (answer, answered) = channel();
        let end = End { answer: Some(answer), ..end };
        self.wishes.send(end).map_err(|_| gone())?;
        answered.recv().map_err(|_| gone())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys;

    #[test]
    fn a_wish_is_answered_and_one_after_the_end_is_told_so() {
        let (ender, wishes) = Ender::new();
        let other = ender.clone();
        let asking = sys::threads::spawn("ask", move || other.end_and_wait(End::asked(false)));
        let wish = wishes.recv().unwrap();
        assert!(wish.forget && !wish.force);
        wish.answer(Err(Problem::new(ProblemCode::Busy, "x")));
        assert_eq!(asking.join().unwrap().unwrap_err().detail, "x");
        ender.end(End::told());
        assert!(!wishes.recv().unwrap().forget);
        drop(wishes);
        assert!(ender.end_and_wait(End::asked(true)).is_err());
    }
}
