//! The door for tools that sign nothing, such as Home Assistant: plain words in, plain documents out, on both sides of
//! `beehive bridge`, which alone speaks to the coordinator.
//!
//! | topic below `beehive/v1/<crew>/` | writer | retain | content |
//! | --- | --- | --- | --- |
//! | `b/<tool>/node/<node>` | the tool | never | one word: a [`Wish`] for one node |
//! | `b/<tool>/crew` | the tool | never | one word: a [`Wish`] for the crew |
//! | `h/<bridge>/presence` | the bridge, last will | retained | `online` or `offline` |
//! | `h/<bridge>/node/<node>` | the bridge | retained | what the node has said, with its signature checked |
//! | `h/<bridge>/crew` | the bridge | retained | the same of the coordinator |
//! | `h/<bridge>/answer/<tool>` | the bridge | not | what came of a wish |
//! | `homeassistant/device/beehive-<crew>-<node>/config` | the bridge | retained | Home Assistant's discovery |
//!
//! The list of wishes is bounded and holds none that destroys; nothing can be forced.

use crate::console::{Ask, Force};
use crate::coordinator::OperationKind;
use crate::id::{CrewName, NodeName, UserName};
use crate::text::Text;
use crate::topic::TopicName;
use core::fmt::Write;

/// What a tool may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Let a Pi be found.
    Identify,
    /// Cordon and empty a node.
    Drain,
    /// Let work onto a node again.
    Uncordon,
    /// Restart: a node, or one after the other.
    Reboot,
    /// Switch off: a node, or all, the master last.
    Shutdown,
    /// Call off what runs at its next safe point.
    Abort,
}

/// Whom a wish is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// One node.
    Node(NodeName),
    /// All of them.
    Crew,
}

impl Wish {
    /// Every wish.
    pub const ALL: [Self; 6] = [Self::Identify, Self::Drain, Self::Uncordon, Self::Reboot, Self::Shutdown, Self::Abort];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Identify => "identify",
            Self::Drain => "drain",
            Self::Uncordon => "uncordon",
            Self::Reboot => "reboot",
            Self::Shutdown => "shutdown",
            Self::Abort => "abort",
        }
    }

    /// The wish of this word.
    pub fn parse(word: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|wish| wish.as_str().as_bytes() == word)
    }

    /// What the bridge asks the coordinator for; nothing where the wish makes no sense for the target. It never forces.
    pub fn ask(self, target: &Target) -> Option<Ask> {
        let (kind, node) = match (self, target) {
            (Self::Identify, Target::Node(node)) => (OperationKind::NodeIdentify, Some(node)),
            (Self::Drain, Target::Node(node)) => (OperationKind::NodeDrain, Some(node)),
            (Self::Uncordon, Target::Node(node)) => (OperationKind::NodeUncordon, Some(node)),
            (Self::Reboot, Target::Node(node)) => (OperationKind::NodeReboot, Some(node)),
            (Self::Shutdown, Target::Node(node)) => (OperationKind::NodeShutdown, Some(node)),
            (Self::Reboot, Target::Crew) => (OperationKind::Reboot, None),
            (Self::Shutdown, Target::Crew) => (OperationKind::Shutdown, None),
            (Self::Abort, Target::Crew) => return Some(Ask::Abort),
            (Self::Abort, Target::Node(_)) | (Self::Identify | Self::Drain | Self::Uncordon, Target::Crew) => {
                return None;
            }
        };
        Some(Ask::Operation { kind, node: node.cloned(), version: Text::new(), force: Force::No })
    }
}

/// Home Assistant's topic of birth and last will; the payload is `online` or `offline`.
pub const BIRTH_TOPIC: &str = "homeassistant/status";

/// A topic of the door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DoorTopic {
    /// A tool's wish.
    Wish(UserName, Target),
    /// Whether the bridge is there.
    Presence(UserName),
    /// What is shown of a node or the crew.
    Shown(UserName, Target),
    /// What came of a tool's wish: the bridge, the tool.
    Answer(UserName, UserName),
    /// A node's discovery for Home Assistant.
    Discovery(NodeName),
}

impl DoorTopic {
    /// The topic as it stands on the wire for `crew`.
    pub fn name(&self, crew: &CrewName) -> TopicName {
        let mut name = TopicName::new();
        // cannot overflow: see the test of the longest names
        let _ = match self {
            Self::Wish(tool, Target::Node(node)) => write!(name, "beehive/v1/{crew}/b/{tool}/node/{node}"),
            Self::Wish(tool, Target::Crew) => write!(name, "beehive/v1/{crew}/b/{tool}/crew"),
            Self::Presence(bridge) => write!(name, "beehive/v1/{crew}/h/{bridge}/presence"),
            Self::Shown(bridge, Target::Node(node)) => write!(name, "beehive/v1/{crew}/h/{bridge}/node/{node}"),
            Self::Shown(bridge, Target::Crew) => write!(name, "beehive/v1/{crew}/h/{bridge}/crew"),
            Self::Answer(bridge, tool) => write!(name, "beehive/v1/{crew}/h/{bridge}/answer/{tool}"),
            Self::Discovery(node) => write!(name, "homeassistant/device/beehive-{crew}-{node}/config"),
        };
        name
    }

    /// Reads what arrives at a bridge: wishes, and its own discovery topics; nothing for anything else.
    pub fn parse(crew: &CrewName, name: &str) -> Option<Self> {
        if let Some(rest) = name.strip_prefix("homeassistant/device/beehive-") {
            let node = rest.strip_prefix(crew.as_str())?.strip_prefix('-')?.strip_suffix("/config")?;
            return Some(Self::Discovery(node.parse().ok()?));
        }
        let rest = name.strip_prefix("beehive/v1/")?.strip_prefix(crew.as_str())?.strip_prefix("/b/")?;
        let mut parts = rest.split('/');
        let tool = parts.next()?.parse().ok()?;
        let target = match (parts.next(), parts.next(), parts.next()) {
            (Some("crew"), None, None) => Target::Crew,
            (Some("node"), Some(node), None) => Target::Node(node.parse().ok()?),
            _ => return None,
        };
        Some(Self::Wish(tool, target))
    }

    /// What a bridge subscribes to.
    pub fn subscriptions(crew: &CrewName) -> [TopicName; 4] {
        let mut all = core::array::from_fn(|_| TopicName::new());
        let [nodes, whole, birth, discovery] = &mut all;
        let _ = write!(nodes, "beehive/v1/{crew}/b/+/node/+");
        let _ = write!(whole, "beehive/v1/{crew}/b/+/crew");
        let _ = write!(birth, "{BIRTH_TOPIC}");
        let _ = write!(discovery, "homeassistant/device/+/config");
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_wish_destroys_or_forces() {
        for wish in Wish::ALL {
            assert_eq!(Wish::parse(wish.as_str().as_bytes()), Some(wish));
            for target in [Target::Crew, Target::Node("n1".parse().unwrap())] {
                match wish.ask(&target) {
                    Some(Ask::Operation { kind, force, node, .. }) => {
                        assert!(!kind.destroys(), "{kind}");
                        assert_eq!(force, Force::No);
                        assert_eq!(node.map_or(Target::Crew, Target::Node), target);
                    }
                    Some(Ask::Abort) | None => {}
                    Some(Ask::Resume | Ask::Kubeconfig { .. }) => panic!("a tool resumes nothing and is handed no key"),
                }
            }
        }
        for word in ["rebuild", "reset", "leave", "join", "create", "resume", "", "Reboot", "reboot\n"] {
            assert_eq!(Wish::parse(word.as_bytes()), None, "{word:?}");
        }
    }

    #[test]
    fn topics_are_read_back_even_with_the_longest_names() {
        let crew: CrewName = "c".repeat(CrewName::MAX_BYTES).parse().unwrap();
        let node: NodeName = "n".repeat(NodeName::MAX_BYTES).parse().unwrap();
        let user: UserName = "u".repeat(UserName::MAX_BYTES).parse().unwrap();
        for target in [Target::Crew, Target::Node(node.clone())] {
            let topic = DoorTopic::Wish(user.clone(), target.clone());
            assert_eq!(DoorTopic::parse(&crew, &topic.name(&crew)), Some(topic));
            let shown = DoorTopic::Shown(user.clone(), target).name(&crew);
            assert!(shown.contains(user.as_str()) && DoorTopic::parse(&crew, &shown).is_none(), "{shown}");
        }
        let topic = DoorTopic::Discovery(node);
        assert_eq!(DoorTopic::parse(&crew, &topic.name(&crew)), Some(topic));
        let answer = DoorTopic::Answer(user.clone(), user).name(&crew);
        assert_eq!(answer.len(), "beehive/v1//h//answer/".len() + CrewName::MAX_BYTES + 2 * UserName::MAX_BYTES);
        assert_eq!(DoorTopic::subscriptions(&crew)[3].as_str(), "homeassistant/device/+/config");
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let crew: CrewName = "c1".parse().unwrap();
        for name in [
            "beehive/v1/c2/b/ha/crew",
            "beehive/v1/c1/b/ha",
            "beehive/v1/c1/b/ha/node",
            "beehive/v1/c1/b/ha/node/n1/more",
            "beehive/v1/c1/b/HA/crew",
            "beehive/v1/c1/n/n1/state",
            "homeassistant/device/beehive-c2-n1/config",
            "homeassistant/device/other/config",
        ] {
            assert_eq!(DoorTopic::parse(&crew, name), None, "{name}");
        }
    }
}
