//! Time as a parameter.
//!
//! Nothing in this crate reads a clock. The caller takes one monotonic clock (on Linux `CLOCK_BOOTTIME` or
//! `CLOCK_MONOTONIC`, the one that also stamps the GPIO edges) and passes what it says as an [`Instant`]. All
//! arithmetic saturates: a clock that jumps backwards makes a wait longer, it never makes a time-out or a gesture.

use serde::{Deserialize, Serialize};

/// Milliseconds since a fixed start that the caller chose; only differences mean anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Instant(u64);

impl Instant {
    /// The instant `ms` milliseconds after the caller's start.
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the caller's start.
    pub const fn as_ms(self) -> u64 {
        self.0
    }

    /// Milliseconds from `earlier` to here; 0 if `earlier` is later.
    pub const fn saturating_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The instant `ms` later, or the last one there is.
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

#[cfg(test)]
mod tests {
    use super::Instant;

    #[test]
    fn differences_saturate_at_both_ends() {
        let early = Instant::from_ms(10);
        let late = early.plus_ms(5);
        assert_eq!(late.as_ms(), 15);
        assert_eq!(late.saturating_since(early), 5);
        assert_eq!(early.saturating_since(late), 0);
        assert_eq!(late.plus_ms(u64::MAX).as_ms(), u64::MAX);
    }
}
