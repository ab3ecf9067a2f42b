//! From a command of the command line to what is asked of the coordinator: the request, whether it destroys, and what
//! the operator must know before.

use beehive_mqtt::console::{Ask, Force, Mode};
use beehive_mqtt::coordinator::OperationKind;
use beehive_mqtt::{CrewName, NodeName, Text};

use super::exit::Wanted;
use super::model::{CrewView, Seen};
use crate::cli::{Acting, ClusterCommand, EngineVersion, JoinNode, MakeCluster, NodeCommand, OnNode, UpgradeCluster};

/// Something that is asked of the coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// What is asked.
    pub ask: Ask,
    /// Act, or show the plan.
    pub mode: Mode,
    /// What it is called in messages: `rebuild`, `drain of bee42-crew-01-002`.
    pub title: String,
    /// What is to become of the operation.
    pub wanted: Wanted,
    /// What must be confirmed, for what destroys.
    pub stake: Option<Stake>,
}

/// What is at stake, and the name to type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stake {
    /// What it does, as the end of a sentence that begins with "this".
    pub effect: String,
    /// The node's or the crew's name.
    pub name: String,
}

impl Order {
    /// What `command` asks; nothing for those that only show.
    pub fn on_node(command: &NodeCommand) -> Option<(Self, Acting)> {
        let none = &EngineVersion::default();
        let (kind, on, version): (_, &OnNode, _) = match command {
            NodeCommand::List | NodeCommand::Show { .. } => return None,
            NodeCommand::Identify(asked) => (OperationKind::NodeIdentify, &asked.on, none),
            NodeCommand::Drain(on) => (OperationKind::NodeDrain, on, none),
            NodeCommand::Uncordon(on) => (OperationKind::NodeUncordon, on, none),
            NodeCommand::Join(JoinNode { on, engine }) => (OperationKind::NodeJoin, on, engine),
            NodeCommand::Leave(on) => (OperationKind::NodeLeave, on, none),
            NodeCommand::Reset(on) => (OperationKind::NodeReset, on, none),
            NodeCommand::Reboot(asked) => (OperationKind::NodeReboot, &asked.on, none),
            NodeCommand::Shutdown(asked) => (OperationKind::NodeShutdown, &asked.on, none),
        };
        let verb = kind.as_str().trim_start_matches("node_");
        let title = format!("{verb} of {}", on.node);
        Some((Self::operation(kind, Some(&on.node), on.node.as_str(), version, on.acting, title), on.acting))
    }

    /// What `command` asks; nothing for what is asked with keys that are made for it.
    pub fn on_cluster(command: &ClusterCommand, crew: &CrewName) -> Option<(Self, Acting)> {
        let none = &EngineVersion::default();
        let wanted;
        let (kind, acting, version) = match command {
            ClusterCommand::Create(MakeCluster { acting, engine }) => (OperationKind::Create, acting, engine),
            ClusterCommand::Rebuild(MakeCluster { acting, engine }) => (OperationKind::Rebuild, acting, engine),
            ClusterCommand::Reset(acting) => (OperationKind::Reset, acting, none),
            ClusterCommand::Reboot(acting) => (OperationKind::Reboot, acting, none),
            ClusterCommand::Upgrade(UpgradeCluster { acting, version }) => {
                wanted = EngineVersion { version: Some(version.clone()) };
                (OperationKind::Upgrade, acting, &wanted)
            }
            ClusterCommand::Shutdown(acting) => (OperationKind::Shutdown, acting, none),
            ClusterCommand::Start(acting) => (OperationKind::Start, acting, none),
            ClusterCommand::Abort(acting) => {
                return Some((Self::other(Ask::Abort, "abort", Wanted::Abortion, *acting), *acting));
            }
            ClusterCommand::Resume(acting) => {
                return Some((Self::other(Ask::Resume, "resume", Wanted::Completion, *acting), *acting));
            }
            ClusterCommand::Kubeconfig { .. } => return None,
        };
        let title = format!("{kind} of crew {crew}");
        Some((Self::operation(kind, None, crew.as_str(), version, *acting, title), *acting))
    }

    fn operation(
        kind: OperationKind,
        node: Option<&NodeName>,
        name: &str,
        engine: &EngineVersion,
        acting: Acting,
        title: String,
    ) -> Self {
        let version = engine.version.as_deref().map_or(Text::new(), Text::cut);
        let force = if acting.force { Force::Yes } else { Force::No };
        Self {
            ask: Ask::Operation { kind, node: node.cloned(), version, force },
            mode: mode(acting),
            title,
            wanted: Wanted::Completion,
            stake: kind.destroys().then(|| Stake { effect: effect(kind, name), name: name.to_owned() }),
        }
    }

    fn other(ask: Ask, title: &str, wanted: Wanted, acting: Acting) -> Self {
        Self { ask, mode: mode(acting), title: title.to_owned(), wanted, stake: None }
    }

    /// What the operation is, where one is asked for.
    pub fn kind(&self) -> Option<OperationKind> {
        match &self.ask {
            Ask::Operation { kind, .. } => Some(*kind),
            Ask::Abort | Ask::Resume | Ask::Kubeconfig { .. } => None,
        }
    }

    /// The command that asks the node itself, where there is one; shown when no coordinator answers.
    pub fn direct_command(&self) -> Option<String> {
        let Ask::Operation { kind, node: Some(node), .. } = &self.ask else { return None };
        let verb = match kind {
            OperationKind::NodeIdentify => "identify",
            OperationKind::NodeReboot => "reboot",
            OperationKind::NodeShutdown => "shutdown",
            OperationKind::Create
            | OperationKind::Rebuild
            | OperationKind::Reset
            | OperationKind::Reboot
            | OperationKind::Upgrade
            | OperationKind::Shutdown
            | OperationKind::Start
            | OperationKind::NodeDrain
            | OperationKind::NodeUncordon
            | OperationKind::NodeJoin
            | OperationKind::NodeLeave
            | OperationKind::NodeReset => return None,
        };
        Some(format!("beehive node {verb} {node} --direct"))
    }

    /// Whether it switches Pis off for good, which somebody has to know beforehand.
    pub fn switches_off(&self) -> bool {
        match self.kind() {
            Some(OperationKind::Shutdown | OperationKind::NodeShutdown) => true,
            Some(
                OperationKind::Create
                | OperationKind::Rebuild
                | OperationKind::Reset
                | OperationKind::Reboot
                | OperationKind::Upgrade
                | OperationKind::Start
                | OperationKind::NodeDrain
                | OperationKind::NodeUncordon
                | OperationKind::NodeJoin
                | OperationKind::NodeLeave
                | OperationKind::NodeReset
                | OperationKind::NodeReboot
                | OperationKind::NodeIdentify,
            )
            | None => false,
        }
    }

    /// The Pis that will need a hand to come back, as far as the crew is known at `now_ms`: those that are on and would
    /// be switched off. Nothing if the coordinator, who alone knows the crew, was not heard.
    pub fn need_a_hand(&self, view: &CrewView, now_ms: u64) -> Option<Vec<NodeName>> {
        if let Ask::Operation { node: Some(node), .. } = &self.ask {
            return Some(vec![node.clone()]);
        }
        view.coordinator()?;
        let on = |seen| match seen {
            Seen::Online | Seen::Silent => true,
            Seen::Offline | Seen::Unknown => false,
        };
        let nodes = view.nodes().into_iter();
        Some(nodes.filter(|of| of.member.is_some() && on(of.seen(now_ms))).map(|of| of.node.clone()).collect())
    }
}

fn mode(acting: Acting) -> Mode {
    if acting.dry_run { Mode::DryRun } else { Mode::Execute }
}

fn effect(kind: OperationKind, name: &str) -> String {
    match kind {
        OperationKind::Rebuild => {
            format!("tears the cluster of crew {name} down and makes a new one; everything in it is lost")
        }
        OperationKind::Reset => format!("tears the cluster of crew {name} down; everything in it is lost"),
        OperationKind::NodeLeave => {
            format!("takes {name} out of the cluster and removes everything that the engine keeps on it")
        }
        OperationKind::NodeReset => {
            format!("removes everything that the engine keeps on {name}, whatever state it is in")
        }
        OperationKind::Create
        | OperationKind::Reboot
        | OperationKind::Upgrade
        | OperationKind::Shutdown
        | OperationKind::Start
        | OperationKind::NodeDrain
        | OperationKind::NodeUncordon
        | OperationKind::NodeJoin
        | OperationKind::NodeReboot
        | OperationKind::NodeShutdown
        | OperationKind::NodeIdentify => format!("changes {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::{coordinator_state, incoming, name, presence};
    use super::*;
    use crate::cli::{Cli, Command, ConsoleCommand};
    use crate::link::Retained;
    use beehive_mqtt::Topic;
    use beehive_mqtt::coordinator::Membership;
    use beehive_mqtt::node::Connection;
    use clap::Parser;

    fn order(line: &str) -> Order {
        let cli = Cli::try_parse_from(std::iter::once("beehive").chain(line.split(' '))).unwrap();
        let crew: CrewName = "bee".parse().unwrap();
        match cli.command {
            Command::Console(ConsoleCommand::Node(command)) => Order::on_node(&command).unwrap().0,
            Command::Console(ConsoleCommand::Cluster(command)) => Order::on_cluster(&command, &crew).unwrap().0,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_command_asks_for_its_operation_and_only_what_destroys_has_a_stake() {
        use OperationKind::*;
        for (line, kind, node, stake) in [
            ("node identify pi-2", NodeIdentify, Some("pi-2"), None),
            ("node drain pi-2", NodeDrain, Some("pi-2"), None),
            ("node uncordon pi-2", NodeUncordon, Some("pi-2"), None),
            ("node join pi-2", NodeJoin, Some("pi-2"), None),
            ("node leave pi-2", NodeLeave, Some("pi-2"), Some("pi-2")),
            ("node reset pi-2", NodeReset, Some("pi-2"), Some("pi-2")),
            ("node reboot pi-2", NodeReboot, Some("pi-2"), None),
            ("node shutdown pi-2", NodeShutdown, Some("pi-2"), None),
            ("cluster create", Create, None, None),
            ("cluster rebuild", Rebuild, None, Some("bee")),
            ("cluster reset", Reset, None, Some("bee")),
            ("cluster reboot", Reboot, None, None),
            ("cluster shutdown", Shutdown, None, None),
            ("cluster start", Start, None, None),
        ] {
            let order = order(line);
            let node = node.map(name);
            let ask = Ask::Operation { kind, node, version: Text::new(), force: Force::No };
            assert_eq!((order.ask.clone(), order.mode), (ask, Mode::Execute), "{line}");
            assert_eq!(order.stake.as_ref().map(|stake| stake.name.as_str()), stake, "{line}");
            assert_eq!(order.switches_off(), line.contains("shutdown"), "{line}");
        }
        assert_eq!((order("cluster abort").ask, order("cluster abort").wanted), (Ask::Abort, Wanted::Abortion));
        assert_eq!((order("cluster resume").ask, order("cluster resume").wanted), (Ask::Resume, Wanted::Completion));
    }

    #[test]
    fn the_options_travel_with_the_request() {
        let order = order("cluster rebuild --dry-run --force --engine-version v1.31.4+k3s1");
        let version = Text::cut("v1.31.4+k3s1");
        let ask = Ask::Operation { kind: OperationKind::Rebuild, node: None, version, force: Force::Yes };
        assert_eq!((order.ask, order.mode), (ask, Mode::DryRun));
        let (order, version) = (self::order("cluster upgrade --engine-version v2"), Text::cut("v2"));
        let ask = Ask::Operation { kind: OperationKind::Upgrade, node: None, version, force: Force::No };
        assert_eq!((order.ask, order.stake.is_some()), (ask, false));
    }

    #[test]
    fn those_that_are_on_will_need_a_hand() {
        let mut view = CrewView::new();
        assert_eq!(order("cluster shutdown").need_a_hand(&view, 0), None);
        assert_eq!(order("node shutdown pi-2").need_a_hand(&view, 0), Some(vec![name("pi-2")]));
        let crew = coordinator_state(&[
            ("pi-1", Membership::Ready),
            ("pi-2", Membership::Ready),
            ("pi-3", Membership::Lost),
            ("pi-4", Membership::Expected),
        ]);
        view.apply(0, &incoming(Topic::CoordinatorState, &crew, Retained::Yes));
        view.apply(0, &presence("pi-1", Connection::Online, (1, 1), Retained::Yes));
        view.apply(0, &presence("pi-2", Connection::Online, (1, 1), Retained::Yes));
        view.apply(0, &presence("pi-3", Connection::Offline, (1, 1), Retained::Yes));
        view.apply(0, &presence("a-stranger", Connection::Online, (1, 1), Retained::Yes));
        assert_eq!(order("cluster shutdown").need_a_hand(&view, 0), Some(vec![name("pi-1"), name("pi-2")]));
    }
}
