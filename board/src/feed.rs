//! What feeds this Pi, decided from what can be known.
//!
//! The SHIM's switch cuts nothing on a Pi that a PoE HAT feeds (*inferred*: the HAT feeds the 5 V rail on the far side
//! of the switch), so the answer decides whether the final hook may cut. The rules, first match wins:
//!
//! 1. What the configuration says. Somebody knows the cabling.
//! 2. A PoE+ HAT that delivers at least [`POE_FEED_MIN_MA`]: `poe`.
//! 3. A PoE+ HAT with a usable reading below that: `shim`. It sits there with no cable in it, or a dead port.
//! 4. A HAT without a usable reading: `unknown`, never cut.
//! 5. No HAT: `shim`.
//!
//! Whatever made it `shim`: where somebody else uses one of the SHIM's lines it is `unknown`, and so never cut.

use core::fmt::Write as _;

use heapless::String;

use crate::cut::{EVIDENCE_LEN, Feed};

/// A HAT that delivers at least this much feeds the Pi.
///
/// The Pis that carry a HAT (3B+, 4) draw several hundred milliamperes when idle and still some when halted; a HAT
/// without power shows the noise of a converter whose step is 0.34 mA. 50 mA lies far from both (*inferred*: for the
/// board checklist).
pub const POE_FEED_MIN_MA: u32 = 50;

/// What is known of a PoE HAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HatReading {
    /// It is certain that there is none: an address that nobody acknowledged, on a bus that works.
    Absent,
    /// There is one, or there may be one, and it tells no current: the PoE HAT of 2018, a HAT that the firmware owns, a
    /// HAT that stopped answering, a broken bus.
    NoCurrent,
    /// The current that a PoE+ HAT delivers.
    Current {
        /// In milliamperes.
        current_ma: u32,
    },
}

impl HatReading {
    /// Reads the HAT's converter.
    ///
    /// 0 and 0xFFFF are no readings (*inferred*): 0 is what a register that a HAT lacks may read as, 0xFFFF is a bus
    /// that nobody drives. From the register alone a PoE HAT of 2018 cannot be told from an idle PoE+ HAT.
    pub fn from_adc(adc: u16) -> Self {
        match adc {
            0 | 0xFFFF => Self::NoCurrent,
            // 3300 / 9821 mA a step (rpi_poe_power.c, read).
            adc => Self::Current { current_ma: u32::from(adc) * 3_300 / 9_821 },
        }
    }

    /// Reads the kernel's `power_supply/rpi-poe/current_now`, which is in microamperes and comes from the same register.
    pub fn from_micro_amperes(current_ua: u32) -> Self {
        match current_ua {
            0 => Self::NoCurrent,
            current_ua => Self::Current { current_ma: current_ua / 1_000 },
        }
    }

    /// The current, in milliamperes, if there is a reading.
    pub const fn current_ma(self) -> Option<u32> {
        match self {
            Self::Current { current_ma } => Some(current_ma),
            Self::Absent | Self::NoCurrent => None,
        }
    }
}

/// The feed, and why. `other_user` tells who else uses one of the SHIM's lines.
pub fn decide_feed(
    configured: Option<Feed>,
    hat: &HatReading,
    other_user: Option<&str>,
) -> (Feed, String<EVIDENCE_LEN>) {
    let mut evidence = String::new();
    let feed = if let Some(feed) = configured {
        let _ = write!(evidence, "configured as {feed}");
        feed
    } else {
        match *hat {
            HatReading::Absent => {
                let _ = evidence.push_str("no HAT answers");
                Feed::Shim
            }
            HatReading::NoCurrent => {
                let _ = evidence.push_str("a HAT without a current reading; set the feed in the configuration");
                Feed::Unknown
            }
            HatReading::Current { current_ma } if current_ma >= POE_FEED_MIN_MA => {
                let _ = write!(evidence, "the PoE+ HAT delivers {current_ma} mA");
                Feed::Poe
            }
            HatReading::Current { current_ma } => {
                let _ = write!(evidence, "the PoE+ HAT delivers {current_ma} mA, less than {POE_FEED_MIN_MA} mA");
                Feed::Shim
            }
        }
    };
    match (feed, other_user) {
        (Feed::Shim, Some(user)) => {
            evidence.clear();
            // as much of it as there is room for
            let _ = user.chars().try_for_each(|character| evidence.push(character));
            (Feed::Unknown, evidence)
        }
        (Feed::Shim, None) | (Feed::Poe | Feed::Unknown, _) => (feed, evidence),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decided(configured: Option<Feed>, hat: HatReading) -> (Feed, std::string::String) {
        let (feed, evidence) = decide_feed(configured, &hat, None);
        (feed, evidence.as_str().into())
    }

    #[test]
    fn the_rules_in_their_order() {
        use HatReading::{Absent, Current, NoCurrent};
        for (configured, hat, feed, evidence) in [
            (None, Absent, Feed::Shim, "no HAT answers"),
            (None, NoCurrent, Feed::Unknown, "a HAT without a current reading; set the feed in the configuration"),
            (None, Current { current_ma: 50 }, Feed::Poe, "the PoE+ HAT delivers 50 mA"),
            (None, Current { current_ma: 49 }, Feed::Shim, "the PoE+ HAT delivers 49 mA, less than 50 mA"),
            (Some(Feed::Shim), Current { current_ma: 900 }, Feed::Shim, "configured as shim"),
            (Some(Feed::Poe), Absent, Feed::Poe, "configured as poe"),
            (Some(Feed::Unknown), Absent, Feed::Unknown, "configured as unknown"),
        ] {
            assert_eq!(decided(configured, hat), (feed, evidence.into()));
        }
    }

    #[test]
    fn beside_another_user_of_its_lines_the_shim_is_not_cut() {
        let user = Some("BCM4 has another user: 1-Wire");
        for configured in [None, Some(Feed::Shim)] {
            let (feed, evidence) = decide_feed(configured, &HatReading::Absent, user);
            assert_eq!((feed, evidence.as_str()), (Feed::Unknown, "BCM4 has another user: 1-Wire"));
        }
        // it is cut nowhere else, so nothing changes there
        let (feed, evidence) = decide_feed(Some(Feed::Poe), &HatReading::Absent, user);
        assert_eq!((feed, evidence.as_str()), (Feed::Poe, "configured as poe"));
        let long = "ü".repeat(EVIDENCE_LEN);
        let (feed, evidence) = decide_feed(None, &HatReading::Absent, Some(&long));
        assert_eq!((feed, evidence.len()), (Feed::Unknown, EVIDENCE_LEN));
    }

    #[test]
    fn registers_that_are_not_there_are_no_reading() {
        assert_eq!(HatReading::from_adc(0), HatReading::NoCurrent);
        assert_eq!(HatReading::from_adc(0xFFFF), HatReading::NoCurrent);
        assert_eq!(HatReading::from_adc(1), HatReading::Current { current_ma: 0 });
        assert_eq!(HatReading::from_adc(0xFFFE), HatReading::Current { current_ma: 22_020 });
        assert_eq!(HatReading::from_adc(2_000), HatReading::Current { current_ma: 672 });
        assert_eq!(HatReading::from_micro_amperes(0), HatReading::NoCurrent);
        assert_eq!(HatReading::from_micro_amperes(672_036), HatReading::Current { current_ma: 672 });
    }

    proptest! {
        #[test]
        fn the_evidence_is_never_empty(current_ma: u32) {
            let (_, evidence) = decide_feed(None, &HatReading::Current { current_ma }, None);
            prop_assert!(evidence.len() > 10);
            prop_assert!(evidence.ends_with("mA"));
        }
    }
}
