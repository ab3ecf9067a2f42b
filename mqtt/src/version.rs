//! Versions. Two numbers, which have nothing to do with each other:
//!
//! - the **layout** stands in the topic root ([`LAYOUT`]): who writes which topic. The broker's access rules, retained
//!   messages and every subscription rest on it, so it changes only with a new root;
//! - the **protocol version** stands in each message (`v`), and its digits are among the signed bytes: what the message may
//!   say. A program speaks the [current](ProtocolVersion::CURRENT) one and the [one before](ProtocolVersion::BEFORE), so that
//!   a crew can be upgraded Pi by Pi.
//!
//! What a version adds is said where it is added: `since` of a verb, an operation, a step and of each payload
//! ([`crate::Payload::since`]). [`crate::encode_in`] writes nothing in a version that does not know it.

use core::fmt;
use serde::{Deserialize, Serialize};

/// The layout of the topic tree, as it stands in the topic root.
pub const LAYOUT: &str = "v1";

/// A version of the protocol that this crate speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProtocolVersion {
    /// The first one.
    V1,
    /// Knows everything of the first, and says which versions a program speaks.
    V2,
}

impl ProtocolVersion {
    /// The newest version that this crate speaks.
    pub const CURRENT: Self = Self::V2;

    /// The oldest: what is written to whoever has not been heard yet.
    pub const BEFORE: Self = Self::V1;

    /// The number, as it stands in `v`.
    pub const fn number(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }

    /// The version of that number; none if it is not spoken here.
    pub fn of(number: u64) -> Option<Self> {
        [Self::V1, Self::V2].into_iter().find(|version| u64::from(version.number()) == number)
    }
}

impl fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number())
    }
}

/// The number of a version that somebody else's program speaks or wrote in; it may be one that is not known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SpokenVersion(pub u8);

impl SpokenVersion {
    /// What a program says of itself that speaks up to `highest`. Version 1 had no such word.
    pub fn said_by(highest: ProtocolVersion) -> Option<Self> {
        match highest {
            ProtocolVersion::V1 => None,
            ProtocolVersion::V2 => Some(highest.into()),
        }
    }

    /// Whether it is a version that is not spoken here.
    pub fn is_unknown(self) -> bool {
        ProtocolVersion::of(self.0.into()).is_none()
    }

    /// The newest version that this program and that one both speak, if that one speaks every version up to this.
    pub fn common(self) -> ProtocolVersion {
        ProtocolVersion::of(self.0.into()).unwrap_or(if self.0 > ProtocolVersion::CURRENT.number() {
            ProtocolVersion::CURRENT
        } else {
            ProtocolVersion::BEFORE
        })
    }
}

impl From<ProtocolVersion> for SpokenVersion {
    fn from(version: ProtocolVersion) -> Self {
        Self(version.number())
    }
}

impl fmt::Display for SpokenVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_versions_are_spoken_and_no_others() {
        assert_eq!(ProtocolVersion::of(1), Some(ProtocolVersion::BEFORE));
        assert_eq!(ProtocolVersion::of(2), Some(ProtocolVersion::CURRENT));
        for number in [0, 3, 257, u64::MAX] {
            assert_eq!(ProtocolVersion::of(number), None, "{number}");
        }
        assert!(ProtocolVersion::BEFORE < ProtocolVersion::CURRENT);
    }

    #[test]
    fn what_both_speak_is_never_more_than_either_speaks() {
        for (number, common) in [(0, 1), (1, 1), (2, 2), (3, 2), (255, 2)] {
            assert_eq!(SpokenVersion(number).common().number(), common, "{number}");
        }
    }
}
