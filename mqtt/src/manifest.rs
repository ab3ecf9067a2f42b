//! The crew's manifest: who is in the crew, with which keys, and who coordinates. `c/manifest`, retained; it is signed
//! with the crew's own key, which is kept offline, and believed by nothing else. Whoever publishes it, a coordinator or a
//! hostile broker, can only hold it back.
//!
//! - A receiver pins the crew's public key, keeps the highest revision that it has seen before it acts on it, and refuses a
//!   lower one, another document of the same revision, and a term that falls.
//! - **The term is granted here**: `term` and `coordinator` name the one node whose key speaks for the coordinator. A grant is
//!   a new revision with a higher term.
//! - A name that is left out is revoked; another key for a name is a rotation. Neither needs a card to be flashed.

use crate::MAX_NODES;
use crate::codec::{Payload, Wrapping};
use crate::id::{CrewName, NodeName, UserName};
use crate::sign::{PublicKey, SealKey};
use core::fmt;
use serde::{Deserialize, Serialize};

/// The most users: operators, bridges and those who only read.
pub const MAX_USERS: usize = 32;

/// What a user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserRole {
    /// Everything.
    Operator,
    /// What destroys nothing: for Home Assistant and simple tools.
    Bridge,
    /// Nothing but to watch.
    ReadOnly,
}

/// A node of the crew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEntry {
    /// Its name.
    pub name: NodeName,
    /// The key with which it signs.
    pub sign: PublicKey,
    /// The key to which its secrets are sealed.
    pub seal: SealKey,
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserEntry {
    /// The name.
    pub name: UserName,
    /// What the user may do.
    pub role: UserRole,
    /// The key with which the user signs.
    pub sign: PublicKey,
}

/// The manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The crew.
    pub crew: CrewName,
    /// Grows by one with each change.
    pub revision: u64,
    /// The coordinator's term; grows with each grant.
    pub term: u64,
    /// The node that coordinates.
    pub coordinator: NodeName,
    /// Every node, the coordinator's included.
    pub nodes: heapless::Vec<NodeEntry, MAX_NODES>,
    /// Every user.
    pub users: heapless::Vec<UserEntry, MAX_USERS>,
}

impl Payload for Manifest {
    const NAME: &'static str = "manifest";
    const WRAPPING: Wrapping = Wrapping::Envelope;
    const MAX_BODY_BYTES: usize = 24 * 1024;
}

/// Why a manifest does not follow another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestError {
    /// Of another crew.
    Crew,
    /// Older than the one that is known.
    Older,
    /// Another document with the same revision: somebody signed two.
    Fork,
    /// Its term is lower.
    TermFalls,
    /// The same term for another node.
    TermOfAnother,
    /// It names a coordinator that is no node of it, or a name twice.
    Incoherent,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Crew => "the manifest is another crew's",
            Self::Older => "the manifest is older than the one that is known",
            Self::Fork => {
                "there are two manifests of this revision; the crew's key was used twice: make a new revision"
            }
            Self::TermFalls => "the manifest's term is lower than the one that is known",
            Self::TermOfAnother => "the manifest names another coordinator for the same term",
            Self::Incoherent => "the manifest names a coordinator that is none of its nodes, or a name twice",
        })
    }
}

impl core::error::Error for ManifestError {}

/// What a manifest is to the one that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Succession {
    /// The same.
    Same,
    /// A newer one.
    Newer,
}

impl Manifest {
    /// The node of this name.
    pub fn node(&self, name: &NodeName) -> Option<&NodeEntry> {
        self.nodes.iter().find(|node| node.name == *name)
    }

    /// The user of this name.
    pub fn user(&self, name: &UserName) -> Option<&UserEntry> {
        self.users.iter().find(|user| user.name == *name)
    }

    /// Whether it holds together.
    ///
    /// # Errors
    /// If not.
    pub fn check(&self) -> Result<(), ManifestError> {
        let twice = |index: usize, name: &NodeName| self.nodes[..index].iter().any(|node| node.name == *name);
        let node_twice = self.nodes.iter().enumerate().any(|(index, node)| twice(index, &node.name));
        let user_twice =
            self.users.iter().enumerate().any(|(index, user)| self.users[..index].iter().any(|u| u.name == user.name));
        if node_twice || user_twice || self.node(&self.coordinator).is_none() {
            return Err(ManifestError::Incoherent);
        }
        Ok(())
    }

    /// What `next` is to this one.
    ///
    /// # Errors
    /// Why it may not follow.
    pub fn followed_by(&self, next: &Self) -> Result<Succession, ManifestError> {
        next.check()?;
        if next.crew != self.crew {
            return Err(ManifestError::Crew);
        }
        if next == self {
            return Ok(Succession::Same);
        }
        if next.revision < self.revision {
            return Err(ManifestError::Older);
        }
        if next.revision == self.revision {
            return Err(ManifestError::Fork);
        }
        if next.term < self.term {
            return Err(ManifestError::TermFalls);
        }
        if next.term == self.term && next.coordinator != self.coordinator {
            return Err(ManifestError::TermOfAnother);
        }
        Ok(Succession::Newer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> NodeName {
        let mut text = heapless::String::<63>::new();
        core::fmt::Write::write_fmt(&mut text, format_args!("n{number}{}", "x".repeat(63 - 1 - 3))).unwrap();
        text.parse().unwrap()
    }
    extern crate std;

    fn manifest(revision: u64, term: u64, coordinator: &str) -> Manifest {
        let entry =
            |name: &str| NodeEntry { name: name.parse().unwrap(), sign: PublicKey([1; 32]), seal: SealKey([2; 32]) };
        Manifest {
            crew: "bee".parse().unwrap(),
            revision,
            term,
            coordinator: coordinator.parse().unwrap(),
            nodes: [entry("pi-1"), entry("pi-2")].into_iter().collect(),
            users: heapless::Vec::new(),
        }
    }

    #[test]
    fn only_a_newer_one_follows_and_a_term_has_one_node() {
        let now = manifest(5, 3, "pi-1");
        assert_eq!(now.followed_by(&now), Ok(Succession::Same));
        assert_eq!(now.followed_by(&manifest(6, 3, "pi-1")), Ok(Succession::Newer));
        assert_eq!(now.followed_by(&manifest(6, 4, "pi-2")), Ok(Succession::Newer));
        assert_eq!(now.followed_by(&manifest(4, 9, "pi-1")), Err(ManifestError::Older));
        assert_eq!(now.followed_by(&manifest(5, 4, "pi-1")), Err(ManifestError::Fork));
        assert_eq!(now.followed_by(&manifest(6, 2, "pi-1")), Err(ManifestError::TermFalls));
        assert_eq!(now.followed_by(&manifest(6, 3, "pi-2")), Err(ManifestError::TermOfAnother));
        assert_eq!(now.followed_by(&manifest(6, 4, "pi-3")), Err(ManifestError::Incoherent));
        let mut other = manifest(6, 4, "pi-1");
        other.crew = "wasp".parse().unwrap();
        assert_eq!(now.followed_by(&other), Err(ManifestError::Crew));
        let mut twice = manifest(6, 4, "pi-1");
        let again = twice.nodes[0].clone();
        twice.nodes.push(again).unwrap();
        assert_eq!(now.followed_by(&twice), Err(ManifestError::Incoherent));
    }

    #[test]
    fn the_largest_one_fits() {
        let mut all = manifest(u64::MAX, u64::MAX, "pi-1");
        all.nodes.clear();
        for number in 100..100 + MAX_NODES {
            all.nodes
                .push(NodeEntry { name: name(number), sign: PublicKey([255; 32]), seal: SealKey([255; 32]) })
                .unwrap();
        }
        for number in 0..MAX_USERS {
            let user = UserEntry {
                name: std::format!("u{number:02}{}", "x".repeat(UserName::MAX_BYTES - 3)).parse().unwrap(),
                role: UserRole::Operator,
                sign: PublicKey([255; 32]),
            };
            all.users.push(user).unwrap();
        }
        let body = serde_json::to_string(&all).unwrap();
        assert!(body.len() <= Manifest::MAX_BODY_BYTES, "{}", body.len());
    }
}
