//! Time and randomness that one seed decides, for the thread that asks for them: what the simulator
//! runs in. Not there in what is shipped, which is built without assertions.
//!
//! While a [`Simulation`] lives, its thread's clocks stand still but for [`pass`] and `sleep`, and
//! its random numbers follow the seed. Other threads go by the kernel's.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::time::Duration;

use crate::base::Timestamp;
use crate::base::sequence::Sequence;

/// The machine has run for so long when a simulation begins: no count begins with nothing.
const UPTIME: Duration = Duration::from_secs(3600);

struct Run {
    begun: Timestamp,
    passed: Duration,
    random: Sequence,
}

thread_local! {
    static RUN: RefCell<Option<Run>> = const { RefCell::new(None) };
}

/// Holds the calling thread's simulation; when it is dropped, what was before goes on.
pub struct Simulation {
    before: Option<Run>,
    /// Bound to its thread.
    _thread: PhantomData<*const ()>,
}

impl Simulation {
    /// Begins at `start`, with the random numbers of `seed`.
    #[must_use]
    pub fn begin(seed: u64, start: Timestamp) -> Self {
        let run = Run { begun: start, passed: Duration::ZERO, random: Sequence(seed) };
        Self { before: RUN.replace(Some(run)), _thread: PhantomData }
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        RUN.set(self.before.take());
    }
}

/// The simulated wall time.
#[must_use]
pub fn now() -> Option<Timestamp> {
    RUN.with_borrow(|run| run.as_ref().map(|run| run.begun.plus(run.passed)))
}

/// The simulated time since the machine started.
pub(in crate::sys) fn passed() -> Option<Duration> {
    RUN.with_borrow(|run| run.as_ref().map(|run| UPTIME + run.passed))
}

/// Lets time go on. Whether this thread's time is simulated.
pub fn pass(duration: Duration) -> bool {
    RUN.with_borrow_mut(|run| run.as_mut().map(|run| run.passed += duration).is_some())
}

/// Fills `out` with the seed's next numbers. Whether this thread's randomness is simulated.
pub(in crate::sys) fn fill(out: &mut [u8]) -> bool {
    RUN.with_borrow_mut(|run| {
        let Some(run) = run else { return false };
        for chunk in out.chunks_mut(8) {
            let bytes = run.random.draw().to_le_bytes();
            chunk.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        }
        true
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{clock, random};

    const START: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn draws(seed: u64) -> ([u8; 20], u64) {
        let _run = Simulation::begin(seed, START);
        (random::array(), random::u64())
    }

    #[test]
    fn a_seed_decides_time_and_randomness_of_its_thread_until_it_ends() {
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
        {
            let _run = Simulation::begin(1, START);
            let (boot, monotonic) = (clock::since_boot(), clock::monotonic());
            clock::sleep(Duration::from_secs(7200));
            assert_eq!(clock::now(), START.plus_secs(7200));
            assert_eq!(clock::since_boot() - boot, Duration::from_secs(7200));
            assert_eq!(clock::monotonic() - monotonic, Duration::from_secs(7200));
            {
                let _inner = Simulation::begin(2, START.plus_secs(1));
                assert_eq!(clock::now(), START.plus_secs(1));
            }
            assert_eq!(clock::now(), START.plus_secs(7200), "what was before goes on");
            let elsewhere = crate::sys::threads::spawn("elsewhere", clock::now).join();
            assert_ne!(elsewhere.unwrap(), START.plus_secs(7200));
        }
        assert!(now().is_none());
        assert_ne!(random::array::<20>(), draws(1).0);
    }
}
