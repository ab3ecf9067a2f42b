//! The topic tree. One subtree per writer, so that the broker's access rules are one line per role.
//!
//! ```text
//! beehive/v1/<crew>/n/<node>/…        written by the node
//!                   d/<node>/command  written by the coordinator, for the node
//!                   c/…               written by the coordinator, for everybody
//!                   q/<user>/request  written by an operator
//!                   q/<user>/direct/<node> written by an operator, for the node
//!                   p/<user>/response written by the coordinator, for that operator
//! ```

use crate::codec::Wrapping;
use crate::id::{CrewName, NodeName, OperationId, UserName};
use crate::version::LAYOUT;
use core::fmt::Write;

/// The longest topic of this protocol in bytes; [`Topic::name`] always fits (checked by a test with the longest names).
pub const MAX_TOPIC_BYTES: usize = 224;

/// A topic as a string.
pub type TopicName = heapless::String<MAX_TOPIC_BYTES>;

/// Whether the broker keeps the last message of a topic for those who subscribe later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// Kept.
    Retained,
    /// Passed on and forgotten. A message of such a topic that arrives with the retain flag is refused.
    Passing,
}

/// Delivery of one topic's messages between a client and the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Quality of service 0.
    AtMostOnce,
    /// Quality of service 1.
    AtLeastOnce,
}

/// A topic of this protocol, without its crew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topic {
    /// Whether a node is connected; also its last will. [`crate::node::Presence`]
    Presence(NodeName),
    /// What a node is and does. [`crate::node::NodeState`]
    State(NodeName),
    /// What a node is made of. [`crate::node::NodeInfo`]
    Info(NodeName),
    /// Measured values. [`crate::node::Telemetry`]
    Telemetry(NodeName),
    /// What happened on a node. [`crate::node::NodeEvent`]
    Event(NodeName),
    /// What a node asks of the coordinator. [`crate::node::NodeRequest`]
    Request(NodeName),
    /// How far a command is. [`crate::node::CommandResult`]
    Result(NodeName),
    /// What a node is told. [`crate::command::Command`]
    Command(NodeName),
    /// Whether the coordinator is connected; also its last will. [`crate::node::Presence`]
    CoordinatorPresence,
    /// The cluster as the coordinator sees it. [`crate::coordinator::CoordinatorState`]
    CoordinatorState,
    /// An operation in short. [`crate::coordinator::OperationSummary`]
    Operation(OperationId),
    /// One node's steps in an operation. [`crate::coordinator::OperationNode`]
    OperationNode(OperationId, NodeName),
    /// What happened in the crew. [`crate::coordinator::CoordinatorEvent`]
    CoordinatorEvent,
    /// Who is in the crew, with which keys. [`crate::manifest::Manifest`]
    Manifest,
    /// What an operator asks. [`crate::console::ConsoleRequest`]
    ConsoleRequest(UserName),
    /// The answer to that. [`crate::console::ConsoleResponse`]
    ConsoleResponse(UserName),
    /// What an operator tells a node while no coordinator is there. [`crate::direct::DirectRequest`]
    Direct(UserName, NodeName),
}

/// Why a topic is not one of this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicError {
    /// Not below `beehive/`.
    Foreign,
    /// Of another layout of the tree.
    Version,
    /// Of another crew.
    Crew,
    /// Below this crew, but no topic of this layout.
    Unknown,
}

impl core::fmt::Display for TopicError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Foreign => "not a topic of beehive",
            Self::Version => "a topic of another layout than v1",
            Self::Crew => "a topic of another crew",
            Self::Unknown => "not a topic of layout v1",
        })
    }
}

impl core::error::Error for TopicError {}

impl Topic {
    /// The topic as it stands on the wire for `crew`.
    pub fn name(&self, crew: &CrewName) -> TopicName {
        let mut name = TopicName::new();
        // cannot overflow: see the test of the longest names
        let _ = match self {
            Self::Presence(node) => write!(name, "beehive/{LAYOUT}/{crew}/n/{node}/presence"),
            Self::State(node) => write!(name, "beehive/{LAYOUT}/{crew}/n/{node}/state"),
            Self::Info(node) => write!(name, "beehive/{LAYOUT}/{crew}/n/{node}/info"),
            Self::Telemetry(node) => write!(name, "beehive/{LAYOUT}/{crew}/n/{node}/telemetry"),
            Self::Event(node) => write!(name, "beehive/{LAYOUT}/{crew}/n/{node}/event"),
            Self::Request(node) => write!(name, "beehive/{LAYOUT}/{crew}/n/{node}/request"),
            Self::Result(node) => write!(name, "beehive/{LAYOUT}/{crew}/n/{node}/result"),
            Self::Command(node) => write!(name, "beehive/{LAYOUT}/{crew}/d/{node}/command"),
            Self::CoordinatorPresence => write!(name, "beehive/{LAYOUT}/{crew}/c/presence"),
            Self::CoordinatorState => write!(name, "beehive/{LAYOUT}/{crew}/c/state"),
            Self::Operation(id) => write!(name, "beehive/{LAYOUT}/{crew}/c/operation/{id}"),
            Self::OperationNode(id, node) => write!(name, "beehive/{LAYOUT}/{crew}/c/operation/{id}/{node}"),
            Self::CoordinatorEvent => write!(name, "beehive/{LAYOUT}/{crew}/c/event"),
            Self::Manifest => write!(name, "beehive/{LAYOUT}/{crew}/c/manifest"),
            Self::ConsoleRequest(user) => write!(name, "beehive/{LAYOUT}/{crew}/q/{user}/request"),
            Self::ConsoleResponse(user) => write!(name, "beehive/{LAYOUT}/{crew}/p/{user}/response"),
            Self::Direct(user, node) => write!(name, "beehive/{LAYOUT}/{crew}/q/{user}/direct/{node}"),
        };
        name
    }

    /// Reads a topic that arrived at a member of `crew`.
    ///
    /// # Errors
    /// Says whether it is foreign, of another version, of another crew, or unknown.
    pub fn parse(crew: &CrewName, name: &str) -> Result<Self, TopicError> {
        let rest = name.strip_prefix("beehive/").ok_or(TopicError::Foreign)?;
        let rest = rest.strip_prefix(LAYOUT).and_then(|rest| rest.strip_prefix('/')).ok_or(TopicError::Version)?;
        let rest = rest.strip_prefix(crew.as_str()).and_then(|rest| rest.strip_prefix('/')).ok_or(TopicError::Crew)?;
        let unknown = TopicError::Unknown;
        let mut parts = rest.split('/');
        let topic = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("n"), Some(node), Some(leaf), None) => {
                let node: NodeName = node.parse().map_err(|_| unknown)?;
                match leaf {
                    "presence" => Self::Presence(node),
                    "state" => Self::State(node),
                    "info" => Self::Info(node),
                    "telemetry" => Self::Telemetry(node),
                    "event" => Self::Event(node),
                    "request" => Self::Request(node),
                    "result" => Self::Result(node),
                    _ => return Err(unknown),
                }
            }
            (Some("d"), Some(node), Some("command"), None) => Self::Command(node.parse().map_err(|_| unknown)?),
            (Some("c"), Some("presence"), None, None) => Self::CoordinatorPresence,
            (Some("c"), Some("state"), None, None) => Self::CoordinatorState,
            (Some("c"), Some("event"), None, None) => Self::CoordinatorEvent,
            (Some("c"), Some("manifest"), None, None) => Self::Manifest,
            (Some("c"), Some("operation"), Some(id), None) => Self::Operation(id.parse().map_err(|_| unknown)?),
            (Some("c"), Some("operation"), Some(id), Some(node)) => {
                Self::OperationNode(id.parse().map_err(|_| unknown)?, node.parse().map_err(|_| unknown)?)
            }
            (Some("q"), Some(user), Some("request"), None) => Self::ConsoleRequest(user.parse().map_err(|_| unknown)?),
            (Some("q"), Some(user), Some("direct"), Some(node)) => {
                Self::Direct(user.parse().map_err(|_| unknown)?, node.parse().map_err(|_| unknown)?)
            }
            (Some("p"), Some(user), Some("response"), None) => {
                Self::ConsoleResponse(user.parse().map_err(|_| unknown)?)
            }
            _ => return Err(unknown),
        };
        if parts.next().is_some() {
            return Err(unknown);
        }
        Ok(topic)
    }

    /// Whether the broker keeps this topic's last message.
    pub fn retention(&self) -> Retention {
        match self {
            Self::Presence(_)
            | Self::State(_)
            | Self::Info(_)
            | Self::CoordinatorPresence
            | Self::CoordinatorState
            | Self::Operation(_)
            | Self::OperationNode(..)
            | Self::Manifest => Retention::Retained,
            Self::Telemetry(_)
            | Self::Event(_)
            | Self::Request(_)
            | Self::Result(_)
            | Self::Command(_)
            | Self::CoordinatorEvent
            | Self::ConsoleRequest(_)
            | Self::ConsoleResponse(_)
            | Self::Direct(..) => Retention::Passing,
        }
    }

    /// Whether this topic's messages are signed.
    pub fn wrapping(&self) -> Wrapping {
        match self {
            Self::Presence(_) | Self::Telemetry(_) | Self::CoordinatorPresence => Wrapping::Plain,
            Self::State(_)
            | Self::Info(_)
            | Self::Event(_)
            | Self::Request(_)
            | Self::Result(_)
            | Self::Command(_)
            | Self::CoordinatorState
            | Self::Operation(_)
            | Self::OperationNode(..)
            | Self::CoordinatorEvent
            | Self::Manifest
            | Self::ConsoleRequest(_)
            | Self::ConsoleResponse(_)
            | Self::Direct(..) => Wrapping::Envelope,
        }
    }

    /// How this topic's messages are delivered.
    pub fn delivery(&self) -> Delivery {
        match self {
            Self::Telemetry(_) => Delivery::AtMostOnce,
            Self::Presence(_)
            | Self::State(_)
            | Self::Info(_)
            | Self::Event(_)
            | Self::Request(_)
            | Self::Result(_)
            | Self::Command(_)
            | Self::CoordinatorPresence
            | Self::CoordinatorState
            | Self::Operation(_)
            | Self::OperationNode(..)
            | Self::CoordinatorEvent
            | Self::Manifest
            | Self::ConsoleRequest(_)
            | Self::ConsoleResponse(_)
            | Self::Direct(..) => Delivery::AtLeastOnce,
        }
    }
}

/// Who listens. Each audience subscribes by kind, never to `#`: a stranger's big retained message on another topic must
/// not reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    /// The agent of one node.
    Node(NodeName),
    /// The coordinator.
    Coordinator,
    /// A console that asks and watches.
    Console(UserName),
    /// A console that tells this one node something without a coordinator.
    Direct(NodeName),
}

/// One subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The filter, with MQTT's wildcards.
    pub filter: TopicName,
    /// The delivery that is asked for.
    pub delivery: Delivery,
}

impl Audience {
    /// What this audience subscribes to on each connection.
    pub fn subscriptions(&self, crew: &CrewName) -> heapless::Vec<Subscription, 12> {
        let mut all = heapless::Vec::new();
        let mut add = |delivery, tail: core::fmt::Arguments<'_>| {
            let mut filter = TopicName::new();
            let _ = write!(filter, "beehive/{LAYOUT}/{crew}/{tail}");
            let _ = all.push(Subscription { filter, delivery });
        };
        match self {
            Self::Node(node) => {
                add(Delivery::AtLeastOnce, format_args!("d/{node}/command"));
                add(Delivery::AtLeastOnce, format_args!("q/+/direct/{node}"));
                add(Delivery::AtLeastOnce, format_args!("n/{node}/presence"));
                add(Delivery::AtMostOnce, format_args!("c/state"));
                add(Delivery::AtLeastOnce, format_args!("c/manifest"));
            }
            Self::Coordinator => {
                add(Delivery::AtLeastOnce, format_args!("c/manifest"));
                add(Delivery::AtLeastOnce, format_args!("n/+/result"));
                add(Delivery::AtLeastOnce, format_args!("n/+/request"));
                add(Delivery::AtLeastOnce, format_args!("q/+/request"));
                add(Delivery::AtLeastOnce, format_args!("c/presence"));
                // rumqttd hands a subscriber 200 retained messages at quality of service 0, half of that at 1
                add(Delivery::AtMostOnce, format_args!("n/+/presence"));
                add(Delivery::AtMostOnce, format_args!("n/+/state"));
            }
            Self::Console(user) => {
                add(Delivery::AtLeastOnce, format_args!("p/{user}/response"));
                add(Delivery::AtLeastOnce, format_args!("c/manifest"));
                add(Delivery::AtMostOnce, format_args!("c/presence"));
                add(Delivery::AtMostOnce, format_args!("c/state"));
                add(Delivery::AtMostOnce, format_args!("n/+/presence"));
                add(Delivery::AtMostOnce, format_args!("n/+/state"));
                add(Delivery::AtMostOnce, format_args!("c/operation/+"));
                add(Delivery::AtMostOnce, format_args!("c/operation/+/+"));
                add(Delivery::AtMostOnce, format_args!("n/+/event"));
                add(Delivery::AtMostOnce, format_args!("c/event"));
                add(Delivery::AtMostOnce, format_args!("n/+/telemetry"));
                add(Delivery::AtMostOnce, format_args!("n/+/info"));
            }
            Self::Direct(node) => {
                add(Delivery::AtLeastOnce, format_args!("n/{node}/result"));
                add(Delivery::AtLeastOnce, format_args!("c/manifest"));
                add(Delivery::AtMostOnce, format_args!("n/{node}/presence"));
                add(Delivery::AtMostOnce, format_args!("n/{node}/state"));
                add(Delivery::AtMostOnce, format_args!("c/presence"));
                add(Delivery::AtMostOnce, format_args!("c/state"));
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::vec::Vec;

    fn every(node: &str, user: &str, id: &str) -> Vec<Topic> {
        let node = || node.parse().unwrap();
        let user = || user.parse().unwrap();
        let id = || id.parse().unwrap();
        std::vec![
            Topic::Presence(node()),
            Topic::State(node()),
            Topic::Info(node()),
            Topic::Telemetry(node()),
            Topic::Event(node()),
            Topic::Request(node()),
            Topic::Result(node()),
            Topic::Command(node()),
            Topic::CoordinatorPresence,
            Topic::CoordinatorState,
            Topic::Operation(id()),
            Topic::OperationNode(id(), node()),
            Topic::CoordinatorEvent,
            Topic::ConsoleRequest(user()),
            Topic::ConsoleResponse(user()),
            Topic::Direct(user(), node()),
        ]
    }

    #[test]
    fn each_topic_is_read_back_even_with_the_longest_names() {
        for length in [1, 2, CrewName::MAX_BYTES] {
            let crew: CrewName = "c".repeat(length).parse().unwrap();
            let node = "n".repeat(if length == 1 { 1 } else { NodeName::MAX_BYTES });
            let user = "u".repeat(if length == 1 { 1 } else { UserName::MAX_BYTES });
            let id = "i".repeat(if length == 1 { 1 } else { OperationId::MAX_BYTES });
            for topic in every(&node, &user, &id) {
                let name = topic.name(&crew);
                assert_eq!(Topic::parse(&crew, &name), Ok(topic), "{name}");
            }
        }
    }

    #[test]
    fn what_is_not_ours_is_named() {
        let crew: CrewName = "c1".parse().unwrap();
        for (name, error) in [
            ("zigbee2mqtt/x", TopicError::Foreign),
            ("beehive/v2/c1/c/state", TopicError::Version),
            ("beehive/v1/c2/c/state", TopicError::Crew),
            ("beehive/v1/c12/c/state", TopicError::Crew),
            ("beehive/v1/c1", TopicError::Crew),
            ("beehive/v1/c1/c/state/more", TopicError::Unknown),
            ("beehive/v1/c1/n/A/state", TopicError::Unknown),
            ("beehive/v1/c1/n/a/else", TopicError::Unknown),
            ("beehive/v1/c1/c/operation/a/b/c", TopicError::Unknown),
            ("beehive/v1/c1/", TopicError::Unknown),
        ] {
            assert_eq!(Topic::parse(&crew, name), Err(error), "{name}");
        }
    }

    #[test]
    fn commands_and_requests_are_never_retained() {
        for topic in every("n", "u", "i") {
            if matches!(topic, Topic::Command(_) | Topic::Request(_) | Topic::ConsoleRequest(_) | Topic::Direct(..)) {
                assert_eq!(topic.retention(), Retention::Passing);
            }
        }
    }

    #[test]
    fn subscriptions_fit() {
        let crew: CrewName = "c".repeat(CrewName::MAX_BYTES).parse().unwrap();
        let node: NodeName = "n".repeat(NodeName::MAX_BYTES).parse().unwrap();
        assert_eq!(Audience::Node(node.clone()).subscriptions(&crew).len(), 5);
        assert_eq!(Audience::Direct(node).subscriptions(&crew).len(), 6);
        assert_eq!(Audience::Coordinator.subscriptions(&crew).len(), 7);
        assert_eq!(Audience::Console("u".parse().unwrap()).subscriptions(&crew).len(), 12);
    }
}
