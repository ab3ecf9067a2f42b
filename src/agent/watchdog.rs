//! Systemd's watchdog, petted by progress of the agent's loop and by nothing else: there is no timer behind it. A loop
//! that is stuck in a step, or waits for what never comes, does not come round again and is restarted
//! (`WatchdogSec` in `beehive.service`; sd_watchdog_enabled(3) asks for a sign of life at half of that time).

use beehive_board::time::Instant;

/// The longest sleep of the loop where no watchdog asks for less.
pub(super) const LONGEST_SLEEP_MS: u64 = 10_000;

/// When the watchdog is petted next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Petting {
    every_ms: u64,
    last: Option<Instant>,
}

/// Whether systemd is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pet {
    /// Yes, now.
    Due,
    /// It was told a moment ago.
    Early,
}

impl Petting {
    /// For a watchdog that bites after `timeout_ms` without a sign of life; `None` where there is no watchdog.
    pub(super) fn new(timeout_ms: Option<u64>) -> Self {
        let every_ms = timeout_ms.map_or(LONGEST_SLEEP_MS, |timeout_ms| (timeout_ms / 4).clamp(1, LONGEST_SLEEP_MS));
        Self { every_ms, last: None }
    }

    /// The longest that the loop may sleep, in milliseconds: a sleep and the time between two signs of life are half of
    /// the watchdog's patience together.
    pub(super) fn longest_sleep_ms(&self) -> u64 {
        self.every_ms
    }

    /// The loop has come round once more. The only way to a sign of life.
    pub(super) fn came_round(&mut self, now: Instant) -> Pet {
        match self.last {
            // a clock that went back must not silence it
            Some(last) if now >= last && now.saturating_since(last) < self.every_ms => Pet::Early,
            Some(_) | None => {
                self.last = Some(now);
                Pet::Due
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> Instant {
        Instant::from_ms(ms)
    }

    #[test]
    fn the_shipped_unit_is_petted_often_enough() {
        let unit = include_str!("../../hardware/rootfs/usr/lib/systemd/system/beehive.service");
        let seconds = unit.lines().find_map(|line| line.strip_prefix("WatchdogSec=")).unwrap();
        let timeout_ms = seconds.parse::<u64>().unwrap() * 1_000;
        let petting = Petting::new(Some(timeout_ms));
        assert!(petting.longest_sleep_ms() + petting.every_ms <= timeout_ms / 2);
        assert_eq!(Petting::new(None).longest_sleep_ms(), LONGEST_SLEEP_MS);
        assert_eq!(Petting::new(Some(0)).longest_sleep_ms(), 1);
    }

    #[test]
    fn a_loop_that_does_not_come_round_is_silent() {
        let mut petting = Petting::new(Some(8_000));
        assert_eq!(petting.came_round(at(0)), Pet::Due, "the first sign of life comes at once");
        assert_eq!(petting.came_round(at(1_999)), Pet::Early);
        // stuck for a minute: no call, so no sign; it comes when the loop does
        assert_eq!(petting.came_round(at(61_999)), Pet::Due);
        assert_eq!(petting.came_round(at(5)), Pet::Due, "a clock that went back");
    }

    proptest! {
        /// A loop that comes round as often as it must is never silent for half of the watchdog's patience, and one that
        /// spins does not flood systemd.
        #[test]
        fn signs_of_life_come_in_time_and_seldom(
            timeout_ms in 4_u64..120_000,
            steps in prop::collection::vec(0.0_f64..=1.0, 1..200),
        ) {
            let mut petting = Petting::new(Some(timeout_ms));
            let (mut now, mut last) = (0, 0);
            petting.came_round(at(0));
            for part in steps {
                now += (petting.longest_sleep_ms() as f64 * part) as u64;
                match petting.came_round(at(now)) {
                    Pet::Due => {
                        prop_assert!(now - last >= petting.every_ms && now - last <= timeout_ms / 2);
                        last = now;
                    }
                    Pet::Early => prop_assert!(now - last <= timeout_ms / 2),
                }
            }
        }
    }
}
