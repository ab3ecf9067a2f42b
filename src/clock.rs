//! The one clock of the program: milliseconds of `CLOCK_BOOTTIME`, which starts at boot, counts through a suspend and is
//! never set (clock_gettime(2)). A Pi has no other that can be trusted before NTP.
//!
//! The kernel stamps the edges of a GPIO line with `CLOCK_MONOTONIC` (GPIO uAPI v2, `line_event`), which differs from it
//! by the time spent suspended; [`Clock::from_monotonic_ns`] takes such a stamp over by its age.

use beehive_board::time::Instant;
use rustix::time::{ClockId, Timespec, clock_gettime};

const NS_PER_MS: u64 = 1_000_000;

/// The boot clock. It has no state; copies agree.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock;

impl Clock {
    /// The time since boot.
    pub fn now(self) -> Instant {
        Instant::from_ms(nanoseconds(ClockId::Boottime) / NS_PER_MS)
    }

    /// The instant of an event that the kernel stamped with `CLOCK_MONOTONIC`, in nanoseconds. A stamp from the future is
    /// now.
    ///
    /// The two clocks cannot be read at once. On a busy Pi this thread may be put aside between the two readings, and the
    /// instant would be later by that: so the readings are repeated until nothing came between them.
    pub fn from_monotonic_ns(self, stamp_ns: u64) -> Instant {
        let mut best: Option<(u64, u64, u64)> = None;
        for _ in 0..READINGS {
            let before = nanoseconds(ClockId::Monotonic);
            let boot = nanoseconds(ClockId::Boottime);
            let width = nanoseconds(ClockId::Monotonic).saturating_sub(before);
            if best.is_none_or(|(_, _, least)| width < least) {
                best = Some((before, boot, width));
            }
            if width < CLOSE_NS {
                break;
            }
        }
        // there was at least one reading
        let (monotonic, boot, _) = best.unwrap_or_default();
        Instant::from_ms(boot.saturating_sub(monotonic.saturating_sub(stamp_ns)) / NS_PER_MS)
    }
}

/// Readings of the two clocks that are this close are one: a tenth of the unit of time here.
const CLOSE_NS: u64 = NS_PER_MS / 10;

/// So often it is tried to read them that close; on a machine where that never happens the closest one counts.
const READINGS: u32 = 8;

fn nanoseconds(clock: ClockId) -> u64 {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(clock);
    // neither of the two clocks is ever negative
    let seconds = u64::try_from(tv_sec).unwrap_or(0);
    let rest = u64::try_from(tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_lands_between_the_readings_around_it() {
        let clock = Clock;
        let before = clock.now();
        let stamp = nanoseconds(ClockId::Monotonic);
        let after = clock.now();
        let taken_over = clock.from_monotonic_ns(stamp);
        // the two kernel clocks are read one after the other, which costs a millisecond's rounding at worst
        assert!(
            taken_over.plus_ms(1) >= before && taken_over <= after.plus_ms(1),
            "{before:?} {taken_over:?} {after:?}"
        );
    }

    #[test]
    fn an_old_stamp_keeps_its_age_and_a_future_one_is_now() {
        let clock = Clock;
        let stamp = nanoseconds(ClockId::Monotonic);
        let aged = clock.from_monotonic_ns(stamp.saturating_sub(5_000 * NS_PER_MS));
        let age = clock.now().saturating_since(aged);
        assert!((4_999..6_000).contains(&age) || clock.now().as_ms() < 5_000, "{age}");
        assert!(clock.from_monotonic_ns(u64::MAX) <= clock.now());
    }
}
