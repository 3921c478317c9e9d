//! The states of a customer key, and the two answers that are no state.

use std::fmt;

/// What the owner of a key says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyState {
    /// Usable.
    Enabled,
    /// Not usable until it is enabled again.
    Disabled,
    /// Not usable; will be deleted at its time unless that is cancelled.
    PendingDeletion,
    /// Gone for ever; what only it opened is unrecoverable.
    Deleted,
}

/// What asking for a key gave: its state, or no state at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyAnswer {
    /// The provider answered.
    State(KeyState),
    /// The provider refuses us; the state is unknown.
    Denied,
    /// No answer came; an outage is not a revocation.
    Unreachable,
}

impl KeyState {
    /// As written in JSON and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
            Self::PendingDeletion => "pending-deletion",
            Self::Deleted => "deleted",
        }
    }
}

impl KeyAnswer {
    /// As written in JSON and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::State(state) => state.as_str(),
            Self::Denied => "denied",
            Self::Unreachable => "unreachable",
        }
    }
    /// Whether the key can be used now.
    #[must_use]
    pub const fn is_usable(self) -> bool {
        matches!(self, Self::State(KeyState::Enabled))
    }
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for KeyAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
