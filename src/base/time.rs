//! Points in time: nanoseconds since 1970 in UTC, printed as RFC 3339.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A point in time, in nanoseconds since 1970-01-01T00:00:00Z; before that negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Nanoseconds since the epoch.
    pub ns: i64,
}

impl Timestamp {
    /// From whole seconds since the epoch.
    #[must_use]
    pub const fn from_secs(secs: i64) -> Self {
        Self { ns: secs.saturating_mul(1_000_000_000) }
    }
    /// Whole seconds since the epoch, rounded down.
    #[must_use]
    pub const fn secs(self) -> i64 {
        self.ns.div_euclid(1_000_000_000)
    }
    /// This time and `seconds` more, at the ends of the range held.
    #[must_use]
    pub const fn plus_secs(self, seconds: u64) -> Self {
        let add = if seconds > i64::MAX as u64 { i64::MAX } else { seconds as i64 };
        Self { ns: self.ns.saturating_add(add.saturating_mul(1_000_000_000)) }
    }
    /// This time and `duration` more, at the ends of the range held.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let ns = i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
        Self { ns: self.ns.saturating_add(ns) }
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC, to the second: `2026-11-24T10:00:00Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_second(self.secs()) {
            Ok(t) => fmt::Display::fmt(&t, f),
            Err(_) => write!(f, "@{}", self.secs()),
        }
    }
}

/// A text that is no RFC 3339 time.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not a time as RFC 3339 writes it")]
pub struct TimeError(String);

impl FromStr for Timestamp {
    type Err = TimeError;
    fn from_str(text: &str) -> Result<Self, TimeError> {
        let t: jiff::Timestamp = text.parse().map_err(|_| TimeError(text.to_owned()))?;
        i64::try_from(t.as_nanosecond())
            .map(|ns| Self { ns })
            .map_err(|_| TimeError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_parses_rfc_3339() {
        let t = Timestamp::from_secs(1_795_514_400);
        assert_eq!(t.to_string().parse::<Timestamp>().unwrap(), t);
        assert_eq!(Timestamp::from_secs(0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(Timestamp { ns: -1 }.secs(), -1);
    }
}
