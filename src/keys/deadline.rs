//! A point in monotonic time by which a provider must have answered.

use std::time::Duration;

use crate::sys::clock;

/// Until when a call may take. Copies share the same end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline {
    at: Duration,
}

impl Deadline {
    /// `span` from now.
    #[must_use]
    pub fn after(span: Duration) -> Self {
        Self { at: clock::monotonic().saturating_add(span) }
    }
    /// What is left; zero where it has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.at.saturating_sub(clock::monotonic())
    }
    /// Whether it has passed.
    #[must_use]
    pub fn has_passed(self) -> bool {
        self.remaining().is_zero()
    }
    /// The earlier of this one and `span` from now: a part of a longer call.
    #[must_use]
    pub fn within(self, span: Duration) -> Self {
        self.min(Self::after(span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_end_wins_and_zero_has_passed() {
        let long = Deadline::after(Duration::from_secs(3600));
        assert!(!long.has_passed());
        assert!(long.within(Duration::ZERO).has_passed());
        assert!(long.within(Duration::from_secs(7200)) <= long);
    }
}
