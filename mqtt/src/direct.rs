//! What an operator tells a node while no coordinator is there: `q/<user>/direct/<node>`. The node's answer is a
//! [`CommandResult`](crate::node::CommandResult) on `n/<node>/result`.
//!
//! A node refuses it while it has heard of a coordinator within [`DIRECT_QUIET_MS`], and while a command is unfinished: with
//! two who give orders nobody keeps count of who is down.

use crate::codec::{Payload, Wrapping};
use crate::command::{Verb, VerbName};
use crate::id::{CommandId, Nonce};
use crate::manifest::UserRole;
use crate::sign::Digest;
use crate::{HEARTBEAT_MS, ProtocolVersion};
use serde::{Deserialize, Serialize};

/// For so long a node must have listened without hearing a coordinator. It repeats its state every [`HEARTBEAT_MS`], at
/// quality of service 0: three of them in a row are not lost by chance, and nobody who waits for a Pi waits longer gladly.
pub const DIRECT_QUIET_MS: u64 = 3 * HEARTBEAT_MS;

/// How each id begins. Results of commands and of these go to one topic, and the coordinator knows its own by their id.
pub const DIRECT_ID_PREFIX: &str = "direct-";

/// What can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum DirectVerb {
    /// Blink.
    Identify {
        /// For how long.
        seconds: u16,
    },
    /// Restart this Pi.
    Reboot,
    /// Switch this Pi off, and no other: also on a master.
    PowerOff,
}

impl DirectVerb {
    /// The verb's name, as in results.
    pub fn name(self) -> VerbName {
        Verb::from(self).name()
    }
}

impl From<DirectVerb> for Verb {
    fn from(verb: DirectVerb) -> Self {
        match verb {
            DirectVerb::Identify { seconds } => Self::Identify { seconds },
            DirectVerb::Reboot => Self::Reboot,
            DirectVerb::PowerOff => Self::PowerOff,
        }
    }
}

/// A request to a node. Sent again under the same id until a result comes; the node runs an id once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectRequest {
    /// Its id; it begins with [`DIRECT_ID_PREFIX`].
    pub id: CommandId,
    /// The node's session, as its state says. It belongs to the id: a request is not sent again for another session.
    pub nonce: Nonce,
    /// What to do.
    pub verb: DirectVerb,
}

impl DirectRequest {
    /// What it asks: everything but the id and the session.
    pub fn digest(&self) -> Digest {
        Digest::of(&("direct", &self.verb))
    }
}

impl Payload for DirectRequest {
    const NAME: &'static str = "direct request";
    const WRAPPING: Wrapping = Wrapping::Envelope;
    const MAX_BODY_BYTES: usize = 256;

    fn since(&self) -> ProtocolVersion {
        ProtocolVersion::V2
    }
}

/// Whether a role may tell a node anything directly. A bridge may not: its list has no such wish, and tools get no way
/// around the coordinator's rules.
pub fn may_direct(role: UserRole) -> May {
    match role {
        UserRole::Operator => May::Tell,
        UserRole::Bridge | UserRole::ReadOnly => May::Not,
    }
}

/// What [`may_direct`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum May {
    /// Yes.
    Tell,
    /// No.
    Not,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeat_has_the_same_digest_and_another_wish_another() {
        let of =
            |nonce: &str, verb| DirectRequest { id: "direct-1".parse().unwrap(), nonce: nonce.parse().unwrap(), verb };
        assert_eq!(of("a", DirectVerb::Reboot).digest(), of("b", DirectVerb::Reboot).digest());
        assert_ne!(of("a", DirectVerb::Reboot).digest(), of("a", DirectVerb::PowerOff).digest());
        let blink = |seconds| of("a", DirectVerb::Identify { seconds }).digest();
        assert_ne!(blink(1), blink(2));
    }

    #[test]
    fn only_an_operator_tells_a_node_anything() {
        assert_eq!(may_direct(UserRole::Operator), May::Tell);
        assert_eq!(may_direct(UserRole::Bridge), May::Not);
        assert_eq!(may_direct(UserRole::ReadOnly), May::Not);
    }
}
