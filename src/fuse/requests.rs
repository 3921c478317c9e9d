//! Requests under way: counted, timed, and refused once the session is over.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::base::counters::FUSE_REQUESTS;
use crate::sys::clock;

/// Requests that are timed at once; threads beyond that work untimed.
const TIMED_MAX: usize = 64;

/// Ids of helper processes at once: one barrier each, and barriers are few.
const HELPERS_MAX: usize = 16;

/// What is under way in one session.
#[derive(Debug)]
pub(super) struct Requests {
    under_way: AtomicUsize,
    over: AtomicBool,
    /// When each began, in nanoseconds of the monotonic clock; 0: free.
    began_ns: [AtomicU64; TIMED_MAX],
    helpers: [AtomicU64; HELPERS_MAX],
}

thread_local! {
    /// Where this thread looks first for a free place, so that threads do not meet at one.
    static PLACE: Cell<Option<usize>> = const { Cell::new(None) };
}

fn my_place() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    PLACE.with(|place| {
        place.get().unwrap_or_else(|| {
            let mine = NEXT.fetch_add(1, Ordering::Relaxed);
            place.set(Some(mine));
            mine
        })
    })
}

impl Requests {
    pub(super) fn new() -> Self {
        Self {
            under_way: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            began_ns: [const { AtomicU64::new(0) }; TIMED_MAX],
            helpers: [const { AtomicU64::new(0) }; HELPERS_MAX],
        }
    }

    /// A request begins. `None`: the session is over, and the volume is no longer ours to call.
    pub(super) fn begin(&self) -> Option<UnderWay<'_>> {
        FUSE_REQUESTS.increment();
        // Counted before `over` is looked at, and `close` looks at the count after it has set
        // `over`: one of the two sees the other.
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let mut guard = UnderWay { requests: self, place: None };
        if self.over.load(Ordering::SeqCst) {
            return None;
        }
        let now = (clock::monotonic().as_nanos() as u64).max(1);
        let first = my_place();
        guard.place = (0..TIMED_MAX).map(|i| (first + i) % TIMED_MAX).find(|place| {
            self.began_ns[*place]
                .compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        });
        Some(guard)
    }

    /// No request that begins from now on reaches the volume.
    pub(super) fn close(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    /// Requests under way.
    pub(super) fn count(&self) -> usize {
        self.under_way.load(Ordering::SeqCst)
    }

    /// For how long the oldest request has been under way.
    pub(super) fn oldest(&self) -> Option<Duration> {
        let began = self.began_ns.iter().map(|b| b.load(Ordering::Relaxed)).filter(|b| *b != 0);
        let now = clock::monotonic();
        began.min().map(|began| now.saturating_sub(Duration::from_nanos(began)))
    }

    /// From now until [`Requests::helper_gone`], an fsync by process `pid` is the barrier's own.
    /// `false`: too many helpers at once.
    pub(super) fn helper_begins(&self, pid: u32) -> bool {
        self.helpers.iter().any(|place| {
            place.compare_exchange(0, pid.into(), Ordering::SeqCst, Ordering::SeqCst).is_ok()
        })
    }

    /// To be called before the process is waited for: from then on its id can be somebody else's.
    pub(super) fn helper_gone(&self, pid: u32) {
        for place in &self.helpers {
            let _ = place.compare_exchange(pid.into(), 0, Ordering::SeqCst, Ordering::SeqCst);
        }
    }

    /// Whether `pid` is a barrier's helper.
    pub(super) fn is_helper(&self, pid: u32) -> bool {
        pid != 0 && self.helpers.iter().any(|h| h.load(Ordering::SeqCst) == u64::from(pid))
    }
}

/// One request under way; over when dropped.
#[derive(Debug)]
pub(super) struct UnderWay<'a> {
    requests: &'a Requests,
    place: Option<usize>,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some(began) = self.place.and_then(|place| self.requests.began_ns.get(place)) {
            began.store(0, Ordering::Relaxed);
        }
        self.requests.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_timed_and_refused_at_the_end() {
        let requests = Requests::new();
        assert_eq!(requests.oldest(), None);
        let first = requests.begin().unwrap();
        clock::sleep(Duration::from_millis(3));
        let second = requests.begin().unwrap();
        assert_eq!(requests.count(), 2);
        assert!(requests.oldest().unwrap() >= Duration::from_millis(3));
        drop(first);
        requests.close();
        assert!(requests.begin().is_none());
        assert_eq!(requests.count(), 1);
        drop(second);
        assert_eq!((requests.count(), requests.oldest()), (0, None));
    }

    #[test]
    fn more_requests_than_places_are_still_served() {
        let requests = Requests::new();
        let all: Vec<_> = (0..TIMED_MAX + 5).map(|_| requests.begin().unwrap()).collect();
        assert_eq!(requests.count(), TIMED_MAX + 5);
        drop(all);
        assert_eq!((requests.count(), requests.oldest()), (0, None));
    }

    #[test]
    fn a_helper_is_known_while_it_lives_and_no_longer() {
        let requests = Requests::new();
        assert!(!requests.is_helper(0));
        assert!(requests.helper_begins(41));
        assert!(requests.is_helper(41) && !requests.is_helper(42));
        requests.helper_gone(41);
        assert!(!requests.is_helper(41));
        assert!((1..=HELPERS_MAX as u32).all(|pid| requests.helper_begins(pid)));
        assert!(!requests.helper_begins(99));
    }
}
