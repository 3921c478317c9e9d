//! The clock: wall time for people and retention, monotonic time for deadlines.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::base::Timestamp;
#[cfg(debug_assertions)]
use crate::sys::simulation;

static START: OnceLock<Instant> = OnceLock::new();

/// Wall time now, in nanoseconds since 1970. It can jump; never compute a deadline from it.
#[must_use]
pub fn now() -> Timestamp {
    #[cfg(debug_assertions)]
    if let Some(now) = simulation::now() {
        return now;
    }
    let ns = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
    };
    Timestamp { ns }
}

/// Time since this process first asked. It never goes back.
#[must_use]
pub fn monotonic() -> Duration {
    #[cfg(debug_assertions)]
    if let Some(passed) = simulation::passed() {
        return passed;
    }
    START.get_or_init(Instant::now).elapsed()
}

/// Time since the machine started, what it slept included. It never goes back, whatever the wall
/// clock is set to.
#[must_use]
pub fn since_boot() -> Duration {
    #[cfg(debug_assertions)]
    if let Some(passed) = simulation::passed() {
        return passed;
    }
    read(libc::CLOCK_BOOTTIME)
}

/// Processor time that the calling thread has used: for measurements on a machine that is not
/// quiet.
#[must_use]
pub fn thread_cpu_time() -> Duration {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// One of the kernel's clocks that count from zero; zero where there is none.
fn read(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one `timespec` to the local one.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    if result != 0 {
        return Duration::ZERO;
    }
    let secs = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(secs, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Lets the calling thread wait.
pub fn sleep(duration: Duration) {
    #[cfg(debug_assertions)]
    if simulation::pass(duration) {
        return;
    }
    std::thread::sleep(duration);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_time_grows_and_wall_time_is_of_this_century() {
        let before = monotonic();
        sleep(Duration::from_millis(2));
        assert!(monotonic() >= before + Duration::from_millis(2));
        assert!(since_boot() > Duration::ZERO && since_boot() >= thread_cpu_time());
        assert!(now() > Timestamp::from_secs(1_700_000_000));
    }
}
