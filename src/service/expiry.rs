//! Expiry, and the clock that it goes by.
//!
//! A wall clock can be set to anything; what expires by a wrong one is gone. So the time is
//! believed as far as it was seen to pass: from one look to the next it may go on by what the
//! machine counted meanwhile, and by [`JUMP`] more. A clock that says something else, ahead or
//! behind, is believed once it has kept to that for [`HOLD`] with the pool being served; until
//! then, what expires goes by the time that surely passed (ahead), or nothing expires (behind).
//! What was seen stands in the configuration directory, so that a new start is no new beginning.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::size::check_retention;
use crate::base::{ProblemCode, SnapshotId, Timestamp, codec};
use crate::catalog::Catalog;
use crate::keys::{PoolConfig, keyring, read_private, write_private};
use crate::service::Service;
use crate::service::error::ServiceError;
use crate::service::mounts::Subject;
use crate::sys::clock;

/// A step of the clock that is believed at once: the one that keys wait for deletion by.
const JUMP: Duration = keyring::JUMP;
/// How long, with the pool being served, a clock that disagrees keeps to what it says before it is
/// believed.
const HOLD: Duration = Duration::from_secs(86_400);
/// How much may pass before it is written down.
const WRITTEN_EVERY: Duration = Duration::from_secs(3600);
const FILE_BYTES_MAX: u64 = 4096;
const VERSION: u32 = 1;

/// A clock that says something else than what was seen to pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Doubt {
    /// What it said first.
    claimed: Timestamp,
    /// How long it has kept to that.
    kept: Duration,
}

/// The time that is believed, and the clock that is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    time: Timestamp,
    doubt: Option<Doubt>,
}

impl Seen {
    /// The clock says `now`, and the machine counted `passed` since the last look. Returns up to
    /// when things expire; `None`: nothing does.
    fn look(&mut self, now: Timestamp, passed: Duration) -> Option<Timestamp> {
        let surely = self.time.plus(passed);
        let behind = now < self.time;
        if !behind && now <= surely.plus(JUMP) {
            *self = Self { time: now, doubt: None };
            return Some(now);
        }
        // A clock that was set again, below what it said first, begins anew.
        let before = self.doubt.filter(|doubt| doubt.claimed <= now);
        let doubt = match before {
            Some(Doubt { claimed, kept }) => Doubt { claimed, kept: kept + passed },
            None => Doubt { claimed: now, kept: Duration::ZERO },
        };
        if doubt.kept >= HOLD {
            // As far as it was kept to. Where the clock says more still, that is a new doubt.
            *self = Self { time: doubt.claimed.plus(doubt.kept).min(now), doubt: None };
            return self.look(now, Duration::ZERO);
        }
        self.doubt = Some(doubt);
        if behind {
            return None;
        }
        self.time = surely;
        Some(surely)
    }
}

/// What is written down of it.
#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    time_ns: i64,
    /// What the doubted clock said first (ns), and for how many seconds it has kept to it.
    doubt: Option<(i64, u64)>,
}

impl Written {
    fn of(seen: &Seen) -> Self {
        let doubt = seen.doubt.map(|d| (d.claimed.ns, d.kept.as_secs()));
        Self { version: VERSION, time_ns: seen.time.ns, doubt }
    }

    fn seen(&self) -> Option<Seen> {
        let doubt =
            |(ns, kept)| Doubt { claimed: Timestamp { ns }, kept: Duration::from_secs(kept) };
        let seen = || Seen { time: Timestamp { ns: self.time_ns }, doubt: self.doubt.map(doubt) };
        (self.version == VERSION).then(seen)
    }
}

/// The time by which one pool's snapshots expire.
pub(in crate::service) struct ExpiryClock {
    seen: Seen,
    /// When it was last looked at, by the machine's count.
    looked_at: Duration,
    written: Option<Seen>,
}

impl ExpiryClock {
    /// As an earlier run left it; without that, `newest` gives the time that was last seen.
    pub fn load(config: &PoolConfig, newest: impl FnOnce() -> Timestamp) -> Self {
        let read = read_private(&config.clock(), FILE_BYTES_MAX).map_err(|e| e.to_string());
        let seen = read.and_then(|bytes| match bytes {
            Some(bytes) => {
                codec::decode::<Written>(&bytes).map(|w| w.seen()).map_err(|e| e.to_string())
            }
            None => Ok(None),
        });
        let seen = seen.unwrap_or_else(|error| {
            log::warn!("the time that was last seen cannot be read: {error}");
            None
        });
        Self {
            seen: seen.unwrap_or_else(|| Seen { time: newest(), doubt: None }),
            looked_at: clock::since_boot(),
            written: seen,
        }
    }

    /// Up to when things expire at a look now, `None` where nothing does; written down where that
    /// is worth it.
    fn look(&mut self, config: &PoolConfig, now: Timestamp, count: Duration) -> Option<Timestamp> {
        let passed = count.saturating_sub(self.looked_at);
        self.looked_at = count;
        let doubted = self.seen.doubt.is_some();
        let until = self.seen.look(now, passed);
        match self.seen.doubt {
            Some(_) if !doubted => log::warn!("{}", told(&self.seen, now)),
            None if doubted => log::info!("the clock is believed: it is {now}"),
            _ => {}
        }
        if self.is_news() {
            self.write(config);
        }
        until
    }

    fn is_news(&self) -> bool {
        let Some(written) = self.written else { return true };
        let later = |a: Timestamp, b: Timestamp| b >= a.plus(WRITTEN_EVERY) || b < a;
        match (written.doubt, self.seen.doubt) {
            (None, None) => later(written.time, self.seen.time),
            (Some(a), Some(b)) => a.claimed != b.claimed || b.kept >= a.kept + WRITTEN_EVERY,
            _ => true,
        }
    }

    /// A failure is logged: what was written before is older, and holds more back.
    fn write(&mut self, config: &PoolConfig) {
        let written = codec::encode(&Written::of(&self.seen)).map_err(|e| e.to_string());
        let written = written
            .and_then(|bytes| write_private(&config.clock(), &bytes).map_err(|e| e.to_string()));
        match written {
            Ok(()) => self.written = Some(self.seen),
            Err(error) => log::warn!("the time that was seen is not written down: {error}"),
        }
    }
}

/// What is told of a clock that is not believed.
fn told(seen: &Seen, now: Timestamp) -> String {
    let kept = seen.doubt.map_or(Duration::ZERO, |d| d.kept);
    let hours = HOLD.saturating_sub(kept).as_secs().div_ceil(3600);
    let (what, meanwhile) = if now < seen.time {
        ("behind", "no snapshot expires")
    } else {
        ("more than a day ahead of", "snapshots expire by the latter")
    };
    format!(
        "the clock ({now}) is {what} the time that was seen to pass ({}): {meanwhile} until the \
         clock is set right, or has been served with for {hours} more hours; delete what is to go \
         now with strongroom snapshot delete ID",
        seen.time
    )
}

/// A retention that dates can hold.
///
/// # Errors
/// [`ProblemCode::Usage`]
pub(in crate::service) fn checked_retention(retain: Duration) -> Result<Duration, ServiceError> {
    check_retention(retain).map_err(|e| ServiceError::new(ProblemCode::Usage, e.to_string()))
}

/// When the youngest snapshot was taken; now, where there is none.
pub(in crate::service) fn youngest(catalog: &Catalog, now: Timestamp) -> Timestamp {
    let youngest = catalog.snapshots(None).map(|all| all.iter().map(|s| s.created_at).max());
    let known = youngest.unwrap_or_else(|error| {
        // Nothing expires either, as long as they cannot be listed.
        log::error!("snapshots cannot be listed: {error}");
        None
    });
    known.unwrap_or(now)
}

impl Service {
    /// Deletes what has expired: never what is held or mounted, and no more than the time that is
    /// believed tells. `count` is the machine's own ([`clock::since_boot`]). Returns what was
    /// deleted.
    ///
    /// # Errors
    /// The pool's.
    pub(in crate::service) fn expire(
        &self,
        now: Timestamp,
        count: Duration,
    ) -> Result<Vec<SnapshotId>, ServiceError> {
        let Some(until) = self.expiry.lock().look(&self.config, now, count) else {
            return Ok(Vec::new());
        };
        let mounted = |id: SnapshotId| {
            self.mounts.lock().iter().any(|(_, e)| e.subject == Subject::Snapshot(id))
        };
        let due: Vec<SnapshotId> = self
            .catalog
            .snapshots(None)?
            .iter()
            .filter(|s| s.expires_at.is_some_and(|at| at <= until) && !s.held && s.readers == 0)
            .map(|s| s.id)
            .filter(|id| !mounted(*id))
            .collect();
        if !due.is_empty() {
            self.catalog.delete_snapshots(&due)?;
            self.anchor_narrowed();
            due.iter().for_each(|id| log::info!("snapshot {id} expired and was deleted"));
        }
        Ok(due)
    }

    /// When something expires that is kept for `retain` from now on. A clock that is behind does not
    /// shorten that.
    pub(in crate::service) fn expiry_after(&self, retain: Duration) -> Timestamp {
        self.now().max(self.expiry.lock().seen.time).plus(retain)
    }

    /// What is told of the clock where it is not believed.
    pub(in crate::service) fn doubted_clock(&self) -> Option<String> {
        let seen = self.expiry.lock().seen;
        seen.doubt.map(|_| told(&seen, self.now()))
    }

    /// Before the end: what was seen so far.
    pub(in crate::service) fn write_expiry_clock(&self) {
        self.expiry.lock().write(&self.config);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Timestamp = Timestamp::from_secs(1_800_000_000);
    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: u64 = 86_400;

    fn seen() -> Seen {
        Seen { time: T0, doubt: None }
    }

    #[test]
    fn a_clock_that_goes_on_as_the_machine_counts_is_believed_and_so_is_a_day_more() {
        let mut seen = seen();
        let later = T0.plus_secs(3600);
        assert_eq!(seen.look(later, HOUR), Some(later));
        let jumped = later.plus_secs(3600 + DAY);
        assert_eq!(seen.look(jumped, HOUR), Some(jumped));
        assert_eq!(seen.doubt, None);
    }

    #[test]
    fn a_clock_set_far_ahead_expires_nothing_before_its_time() {
        let mut seen = seen();
        let far = T0.plus_secs(10_000 * DAY);
        for hours in 1..=24 {
            let surely = T0.plus_secs(hours * 3600);
            assert_eq!(seen.look(far.plus_secs(hours * 3600), HOUR), Some(surely), "{hours}");
        }
        // Set right again: as if nothing had been.
        let right = T0.plus_secs(25 * 3600);
        assert_eq!(seen.look(right, HOUR), Some(right));
        assert_eq!(seen, Seen { time: right, doubt: None });
    }

    #[test]
    fn a_pool_that_was_not_served_for_weeks_believes_the_clock_after_a_day() {
        let mut seen = seen();
        let weeks = T0.plus_secs(40 * DAY);
        assert_eq!(seen.look(weeks, Duration::ZERO), Some(T0));
        for hours in 1..24 {
            let surely = T0.plus_secs(hours * 3600);
            assert_eq!(seen.look(weeks.plus_secs(hours * 3600), HOUR), Some(surely));
        }
        let now = weeks.plus_secs(DAY);
        assert_eq!(seen.look(now, HOUR), Some(now));
    }

    #[test]
    fn a_second_jump_is_not_believed_by_what_the_first_has_waited() {
        let mut seen = seen();
        let first = T0.plus_secs(10 * DAY);
        seen.look(first, Duration::ZERO);
        seen.look(first.plus_secs(23 * 3600), 23 * HOUR);
        let second = T0.plus_secs(10_000 * DAY);
        let until = seen.look(second, HOUR).unwrap();
        assert_eq!(until, first.plus_secs(DAY), "what the first said, and no more");
        assert_eq!(seen.doubt.unwrap(), Doubt { claimed: second, kept: Duration::ZERO });
    }

    #[test]
    fn behind_nothing_expires_until_the_clock_catches_up_or_has_kept_to_it() {
        let mut seen = seen();
        let back = Timestamp::from_secs(T0.secs() - 3600);
        assert_eq!(seen.look(back, HOUR), None);
        assert_eq!(seen.look(T0, HOUR), Some(T0));
        // A clock that had been years ahead, was believed, and is right now.
        let mut seen = Seen { time: T0.plus_secs(10_000 * DAY), doubt: None };
        for hours in 0..24 {
            assert_eq!(seen.look(T0.plus_secs(hours * 3600), HOUR), None, "{hours}");
        }
        let now = T0.plus_secs(DAY);
        assert_eq!(seen.look(now, HOUR), Some(now));
    }

    #[test]
    fn what_was_seen_outlives_the_process_with_its_doubt() {
        let dir = tempfile::tempdir().unwrap();
        let config = PoolConfig::at(dir.path());
        let start = clock::since_boot();
        let mut first = ExpiryClock::load(&config, || T0);
        assert_eq!(first.look(&config, T0, start), Some(T0));
        let far = T0.plus_secs(40 * DAY);
        first.look(&config, far, start);
        first.look(&config, far.plus_secs(20 * 3600), start + 20 * HOUR);
        let mut second = ExpiryClock::load(&config, || far);
        assert_eq!(second.seen, first.seen);
        let count = second.looked_at + 4 * HOUR;
        let now = far.plus_secs(24 * 3600);
        assert_eq!(second.look(&config, now, count), Some(now), "20 hours and 4");
        std::fs::write(config.clock(), b"rubbish").unwrap();
        assert_eq!(ExpiryClock::load(&config, || T0).seen, seen());
    }
}
