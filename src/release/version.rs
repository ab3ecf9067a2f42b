//! Versions: of a release, of the protocol, and which may be beside which in one crew. Pure.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A release's version: `MAJOR.MINOR.PATCH`, with `-PRE` behind it for what comes before that release. It begins with a digit
/// and has no `/`, so that it can be a folder's name and never one of ours (`current`, `state`, …).
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReleaseVersion {
    text: String,
    numbers: [u32; 3],
}

/// Why a text is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no version: MAJOR.MINOR.PATCH, or MAJOR.MINOR.PATCH-PRE with letters, digits, '.' and '-' in PRE; at most {max} \
     characters",
    max = ReleaseVersion::MAX_BYTES
)]
pub struct VersionError(String);

impl ReleaseVersion {
    /// The longest, in bytes: what fits a node's `info`.
    pub const MAX_BYTES: usize = 32;

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn pre(&self) -> Option<&str> {
        self.text.split_once('-').map(|(_, pre)| pre)
    }
}

impl FromStr for ReleaseVersion {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let wrong = || VersionError(text.chars().take(2 * Self::MAX_BYTES).collect());
        if text.len() > Self::MAX_BYTES {
            return Err(wrong());
        }
        let (core, pre) = match text.split_once('-') {
            Some((core, pre)) => (core, Some(pre)),
            None => (text, None),
        };
        let mut numbers = [0; 3];
        let mut words = core.split('.');
        for number in &mut numbers {
            let word = words.next().ok_or_else(wrong)?;
            // "01" and "1" would be two folders of one version
            let canonical = word == "0" || !word.starts_with('0');
            if !canonical || word.is_empty() || !word.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(wrong());
            }
            *number = word.parse().map_err(|_| wrong())?;
        }
        let valid =
            |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if words.next().is_some() || !pre.is_none_or(|pre| pre.split('.').all(valid)) {
            return Err(wrong());
        }
        Ok(Self { text: text.to_owned(), numbers })
    }
}

impl Ord for ReleaseVersion {
    /// By the numbers; what has a `-PRE` comes before what has none; words of PRE that are numbers by their value and before
    /// those that are not (as in semver 2.0, 11).
    fn cmp(&self, other: &Self) -> Ordering {
        let word = |a: &str, b: &str| match (a.parse::<u32>(), b.parse::<u32>()) {
            (Ok(x), Ok(y)) => x.cmp(&y).then_with(|| a.cmp(b)),
            (Ok(_), Err(_)) => Ordering::Less,
            (Err(_), Ok(_)) => Ordering::Greater,
            (Err(_), Err(_)) => a.cmp(b),
        };
        self.numbers.cmp(&other.numbers).then_with(|| match (self.pre(), other.pre()) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(a), Some(b)) => {
                let (mut a, mut b) = (a.split('.'), b.split('.'));
                loop {
                    match (a.next(), b.next()) {
                        (None, None) => return Ordering::Equal,
                        (None, Some(_)) => return Ordering::Less,
                        (Some(_), None) => return Ordering::Greater,
                        (Some(a), Some(b)) if word(a, b) == Ordering::Equal => {}
                        (Some(a), Some(b)) => return word(a, b),
                    }
                }
            }
        })
    }
}

impl PartialOrd for ReleaseVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for ReleaseVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for ReleaseVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for ReleaseVersion {
    type Error = VersionError;
    fn try_from(text: String) -> Result<Self, VersionError> {
        text.parse()
    }
}

impl From<ReleaseVersion> for String {
    fn from(version: ReleaseVersion) -> Self {
        version.text
    }
}

/// The versions of the protocol that a program speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawProtocols")]
pub struct Protocols {
    oldest: u8,
    newest: u8,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProtocols {
    oldest: u8,
    newest: u8,
}

impl TryFrom<RawProtocols> for Protocols {
    type Error = String;
    fn try_from(raw: RawProtocols) -> Result<Self, String> {
        Self::new(raw.oldest, raw.newest)
            .ok_or_else(|| format!("protocol versions from {} to {} are none", raw.oldest, raw.newest))
    }
}

impl Protocols {
    /// From `oldest` to `newest`; nothing if these are no versions.
    pub fn new(oldest: u8, newest: u8) -> Option<Self> {
        (1..=newest).contains(&oldest).then_some(Self { oldest, newest })
    }

    /// The oldest one.
    pub fn oldest(self) -> u8 {
        self.oldest
    }

    /// The newest one.
    pub fn newest(self) -> u8 {
        self.newest
    }

    fn speaks(self, version: u8) -> bool {
        (self.oldest..=self.newest).contains(&version)
    }
}

impl fmt::Display for Protocols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.oldest == self.newest {
            write!(f, "{}", self.newest)
        } else {
            write!(f, "{} to {}", self.oldest, self.newest)
        }
    }
}

/// What runs on one Pi.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// The version of beehive.
    pub version: ReleaseVersion,
    /// The versions of the protocol.
    pub protocol: Protocols,
}

/// Why two programs may not be in one crew.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Skew {
    /// The node would be ahead of the coordinator.
    #[error("a node would run {node} while the coordinator runs {coordinator}: the coordinator is never behind a node")]
    Ahead {
        /// The node's version.
        node: ReleaseVersion,
        /// The coordinator's.
        coordinator: ReleaseVersion,
    },
    /// The same, of the protocol.
    #[error(
        "a node would speak protocol {node} while the coordinator speaks {coordinator}: the coordinator is never behind a node"
    )]
    AheadInProtocol {
        /// The node's newest.
        node: u8,
        /// The coordinator's newest.
        coordinator: u8,
    },
    /// The coordinator would be too far ahead.
    #[error(
        "the coordinator would speak protocol {coordinator} while a node speaks {node}: it may be one version ahead and no \
         more; take the releases in between first"
    )]
    TooFar {
        /// The node's newest.
        node: u8,
        /// The coordinator's newest.
        coordinator: u8,
    },
    /// They have no version in common.
    #[error(
        "the coordinator would speak protocol {coordinator} and a node {node}: they would not understand each other"
    )]
    NothingInCommon {
        /// The node's.
        node: Protocols,
        /// The coordinator's.
        coordinator: Protocols,
    },
}

/// Whether a coordinator and a node may run side by side: the coordinator is as new as the node or one version of the
/// protocol ahead, never behind, and speaks what the node speaks.
///
/// # Errors
/// Why not.
pub fn side_by_side(coordinator: &Running, node: &Running) -> Result<(), Skew> {
    let (c, n) = (coordinator.protocol, node.protocol);
    if n.newest() > c.newest() {
        return Err(Skew::AheadInProtocol { node: n.newest(), coordinator: c.newest() });
    }
    if node.version > coordinator.version {
        return Err(Skew::Ahead { node: node.version.clone(), coordinator: coordinator.version.clone() });
    }
    if c.newest() - n.newest() > 1 {
        return Err(Skew::TooFar { node: n.newest(), coordinator: c.newest() });
    }
    if !c.speaks(n.newest()) {
        return Err(Skew::NothingInCommon { node: n, coordinator: c });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> ReleaseVersion {
        text.parse().unwrap()
    }

    #[test]
    fn versions_are_ordered_as_people_mean_them() {
        let ordered = [
            "0.1.0",
            "0.2.0-alpha",
            "0.2.0-alpha.1",
            "0.2.0-alpha.2",
            "0.2.0-alpha.10",
            "0.2.0-alpha.x",
            "0.2.0-beta",
            "0.2.0",
            "0.2.9",
            "0.2.10",
            "0.10.0",
            "1.0.0-1",
            "1.0.0-a-b",
            "1.0.0",
            "10.0.0",
        ];
        for (i, a) in ordered.iter().enumerate() {
            for (j, b) in ordered.iter().enumerate() {
                assert_eq!(version(a).cmp(&version(b)), i.cmp(&j), "{a} {b}");
                assert_eq!(version(a) == version(b), i == j);
            }
        }
    }

    #[test]
    fn what_could_be_a_path_or_two_names_of_one_version_is_no_version() {
        for text in [
            "",
            ".",
            "..",
            "1",
            "1.2",
            "1.2.3.4",
            "v1.2.3",
            "1.2.3/",
            "../1.2.3",
            "1.2.3-/x",
            "1.2.3-..",
            "1.2.3-",
            "1.2.3-a..b",
            "01.2.3",
            "1.2.03",
            "1.2.3+b",
            "1.2.3 ",
            "1.2.x",
            "-1.2.3",
            "1.2.4294967296",
            "current",
            "1.2.3-\n",
            "1.2.3-ä",
            "1.2.3-aaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        ] {
            assert!(text.parse::<ReleaseVersion>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_coordinator_may_be_one_protocol_ahead_and_never_behind() {
        let run = |text: &str, oldest, newest| Running {
            version: version(text),
            protocol: Protocols::new(oldest, newest).unwrap(),
        };
        // every pair of programs that speak versions 1 to 4, by the rule in other words
        for (c_old, c_new) in (1..=4).flat_map(|new| (1..=new).map(move |old| (old, new))) {
            for (n_old, n_new) in (1..=4).flat_map(|new| (1..=new).map(move |old| (old, new))) {
                let fine = (n_new == c_new || n_new + 1 == c_new) && c_old <= n_new;
                let found = side_by_side(&run("1.0.0", c_old, c_new), &run("1.0.0", n_old, n_new));
                assert_eq!(found.is_ok(), fine, "{c_old}-{c_new} {n_old}-{n_new}: {found:?}");
            }
        }
        assert!(side_by_side(&run("1.1.0", 1, 1), &run("1.0.0", 1, 1)).is_ok());
        let skew = side_by_side(&run("1.0.0", 1, 1), &run("1.1.0", 1, 1)).unwrap_err();
        assert!(matches!(skew, Skew::Ahead { .. }), "{skew}");
        for (oldest, newest) in [(0, 1), (2, 1), (0, 0)] {
            assert_eq!(Protocols::new(oldest, newest), None);
        }
    }
}
