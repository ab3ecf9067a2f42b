//! An exhaustive search with the shipped cores: an old and a new master are alive at once, both restart the crew, and what
//! each says reaches the nodes in any order, any number of times, or never. Agents, Pis and coordinators die in between.
//!
//! In each state that can be reached:
//! - no command runs twice;
//! - no command of the old term begins on a node that knows of the new one;
//! - of each master's doing at most one node is down.
//!
//! Where an operator also tells nodes to restart without a coordinator, and for half a minute nobody hears anything:
//! - what the operator told runs once at most, too;
//! - it begins only on a node that has heard no master for that long, and on which no master's command is unfinished;
//! - nor does a master's command begin on a node that goes down for the operator.
//!
//! Bounds make it finite: how often somebody dies, how often an operator tells a node something, and how often time passes. Within them every order is looked at. The API
//! server answers at once and is the same for both.

use crate::sign::Fnv;
use beehive_cluster::blockers::Blockers;
use beehive_cluster::coordinator::{
    self, BrokerLink, Cluster, Coordinator, CoordinatorConfig, CoordinatorRecord, FirstSession, PowerSwitch, SILENT_MS,
};
use beehive_cluster::kube::{KubeDone, KubeNode, KubeView, KubeWork, Ready, Scheduling};
use beehive_cluster::node::{self, NodeConfig, NodeCore, NodeRecord};
use beehive_cluster::{Destruction, Instant};
use beehive_mqtt::command::Command;
use beehive_mqtt::console::{Ask, ConsoleRequest, Force, Mode};
use beehive_mqtt::coordinator::{OperationKind, Session};
use beehive_mqtt::direct::{DIRECT_ID_PREFIX, DIRECT_QUIET_MS, DirectRequest, DirectVerb};
use beehive_mqtt::manifest::UserRole;
use beehive_mqtt::node::{CommandResult, EngineRun, EngineState, Lifecycle, NodeState, PowerGoal, PowerPhase, Role};
use beehive_mqtt::{BootId, ClusterId, CommandId, KeyId, NodeName, ProtocolVersion, SpokenVersion, Text};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write as _;

/// How often each agent, each Pi and each coordinator may die, how often a second passes, which node an operator
/// tells to restart, once, and how often all hear nothing for as long as that takes.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    nodes: usize,
    agents: u8,
    coordinators: u8,
    seconds: u8,
    told: Option<usize>,
    silences: u8,
}

/// The nodes beside the master.
const NODES: [&str; 2] = ["a", "b"];

const OLD: usize = 0;
const NEW: usize = 1;

#[derive(Debug, Clone)]
struct Node {
    name: NodeName,
    core: Option<NodeCore>,
    record: NodeRecord,
    boots: u32,
    starts: u32,
    deaths_left: u8,
    /// Which master took it down.
    down_by: Option<usize>,
    /// It goes down, and is not down yet.
    goes_for: Option<CommandId>,
    /// A master's command of which it has said that it runs, and not yet what came of it.
    unfinished: Option<CommandId>,
    /// When it last heard a master, or could not have heard one.
    heard_at: u64,
    descent: Descent,
    scheduling: Scheduling,
}

#[derive(Debug, Clone)]
struct Master {
    core: Coordinator,
    record: CoordinatorRecord,
    starts: u32,
    deaths_left: u8,
}

#[derive(Debug, Clone)]
struct World {
    now: u64,
    seconds_left: u8,
    /// Which node an operator will tell to restart.
    to_tell: Option<usize>,
    silences_left: u8,
    time: Time,
    nodes: Vec<Node>,
    masters: Vec<Master>,
    /// What was sent to each node, by its text. It may arrive now, later, again, or never.
    commands: BTreeMap<String, (usize, usize, Command)>,
    results: BTreeMap<String, (usize, CommandResult)>,
    /// What an operator has told nodes; as with commands it may arrive now, later, again, or never.
    directs: BTreeMap<String, (usize, DirectRequest)>,
    runs: BTreeMap<CommandId, u8>,
    broken: Option<String>,
}

/// How time passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Time {
    /// Nobody becomes silent to a master.
    Creeps,
    /// For so long that whoever says nothing is silent, and is given up.
    Leaps,
}

impl Time {
    fn of(bounds: Bounds) -> Self {
        let passes = u64::from(bounds.seconds) * 1_000 + u64::from(bounds.silences) * DIRECT_QUIET_MS;
        if passes < SILENT_MS { Self::Creeps } else { Self::Leaps }
    }
}

/// How a node goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Descent {
    /// At once: nothing comes in between.
    AtOnce,
    /// After a while, in which anything may.
    Slowly,
}

/// One thing that may happen next.
#[derive(Debug, Clone)]
enum Happening {
    Command(String),
    /// As before, and the agent dies as soon as the card has what it stored.
    CommandThenDeath(String),
    /// An operator tells a node to restart, in its present session.
    Tells(usize),
    Direct(String),
    DirectThenDeath(String),
    /// A node that goes down is down.
    GoneDown(usize),
    /// Nobody hears anything for so long that an operator may step in.
    Silence,
    Result(String, usize),
    State(usize, usize),
    Hears(usize, usize),
    AgentDies(usize),
    Boots(usize),
    MasterDies(usize),
    Second,
}

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn cluster() -> ClusterId {
    "cluster-1".parse().unwrap()
}

fn config(nodes: usize) -> CoordinatorConfig {
    CoordinatorConfig {
        master: name("m"),
        expected: NODES[..nodes].iter().copied().map(name).collect(),
        max_unavailable: 1,
        max_parallel: 8,
        server: Text::cut("https://10.0.0.1:6443"),
        drain_ms: 60_000,
        speaks: ProtocolVersion::CURRENT,
        destruction: Destruction::Allowed,
        blockers: Blockers::default(),
        switch: PowerSwitch::Absent,
    }
}

fn key(master: usize) -> KeyId {
    KeyId([u8::try_from(master).unwrap() + 1; 8])
}

impl Node {
    fn boot(&self) -> BootId {
        format!("boot-{}-{}", self.name, self.boots).parse().unwrap()
    }

    fn state(&self) -> Option<NodeState> {
        let core = self.core.as_ref()?;
        Some(NodeState {
            lifecycle: core.lifecycle(),
            power: PowerPhase::Running,
            goal: None,
            led: Text::new(),
            running: core.running(),
            boot: self.boot(),
            start: self.starts,
            revision: 0,
            nonce: core.nonce().clone(),
            heard: core.heard().cloned(),
            engine: engine(),
            last_shutdown: core.last_shutdown().cloned(),
            speaks: SpokenVersion::said_by(ProtocolVersion::CURRENT),
            machine: None,
        })
    }
}

fn engine() -> EngineState {
    EngineState { cluster: Some(cluster()), run: EngineRun::Running, version: Text::new() }
}

impl World {
    fn new(bounds: Bounds) -> Self {
        let node = |text: &str| Node {
            name: name(text),
            core: None,
            record: NodeRecord { lifecycle: Lifecycle::Member, ..NodeRecord::default() },
            boots: 1,
            starts: 0,
            deaths_left: bounds.agents,
            down_by: None,
            goes_for: None,
            unfinished: None,
            heard_at: 0,
            descent: Descent::AtOnce,
            scheduling: Scheduling::Open,
        };
        let mut world = Self {
            now: 1_000,
            seconds_left: bounds.seconds,
            to_tell: bounds.told,
            silences_left: bounds.silences,
            time: Time::of(bounds),
            nodes: NODES[..bounds.nodes].iter().copied().map(node).collect(),
            masters: Vec::new(),
            commands: BTreeMap::new(),
            results: BTreeMap::new(),
            directs: BTreeMap::new(),
            runs: BTreeMap::new(),
            broken: None,
        };
        if let Some(told) = bounds.told {
            world.nodes[told].descent = Descent::Slowly;
        }
        for index in 0..world.nodes.len() {
            world.start_agent(index);
        }
        for master in [OLD, NEW] {
            let record = CoordinatorRecord {
                cluster: Some(Cluster { id: cluster(), version: Text::new() }),
                ..CoordinatorRecord::default()
            };
            let (core, actions) =
                Coordinator::start(world.instant(), config(bounds.nodes), world.first(master, 1), record.clone());
            world.masters.push(Master { core, record, starts: 1, deaths_left: bounds.coordinators });
            world.perform(master, actions);
            world.coordinate(master, coordinator::Event::Broker(BrokerLink::Up));
            world.look(master);
        }
        // both have waited for the word of those that they know
        world.now += 10_000;
        for master in [OLD, NEW] {
            let request = ConsoleRequest {
                id: ["old", "new"][master].parse().unwrap(),
                nonce: world.masters[master].core.session().nonce,
                mode: Mode::Execute,
                ask: Ask::Operation { kind: OperationKind::Reboot, node: None, version: Text::new(), force: Force::No },
            };
            let user = "ops".parse().unwrap();
            world.coordinate(master, coordinator::Event::Console { user, key: key(9), request });
        }
        world
    }

    fn instant(&self) -> Instant {
        Instant::from_ms(self.now)
    }

    fn first(&self, master: usize, starts: u32) -> FirstSession {
        let term = u64::try_from(master).unwrap() + 1;
        FirstSession { term, nonce: format!("{term:04x}{starts:04x}").parse().unwrap() }
    }

    fn view(&self) -> KubeView {
        let nodes = self.nodes.iter().map(|node| KubeNode {
            node: node.name.clone(),
            ready: if node.core.is_some() { Ready::Yes } else { Ready::No },
            scheduling: node.scheduling,
            boot: Some(node.boot()),
            version: Text::new(),
        });
        KubeView { cluster: Some(cluster()), nodes: nodes.collect() }
    }

    fn look(&mut self, master: usize) {
        let view = self.view();
        self.coordinate(master, coordinator::Event::Kube(view));
    }

    fn coordinate(&mut self, master: usize, event: coordinator::Event) {
        let now = self.instant();
        let actions = self.masters[master].core.step(now, event);
        self.perform(master, actions);
    }

    fn perform(&mut self, master: usize, actions: Vec<coordinator::Action>) {
        for action in actions {
            match action {
                coordinator::Action::Store(record) => self.masters[master].record = *record,
                coordinator::Action::Command { node, mut command, .. } => {
                    // the time that is left changes nothing here
                    command.expires_ms = 60_000;
                    let Some(index) = self.nodes.iter().position(|held| held.name == node) else { continue };
                    self.commands.insert(format!("{node} {command:?}"), (master, index, *command));
                }
                coordinator::Action::Kube { token, work, .. } => {
                    let scheduling = match &work {
                        KubeWork::Cordon(node) | KubeWork::Drain { node, .. } => Some((node, Scheduling::Cordoned)),
                        KubeWork::Uncordon(node) => Some((node, Scheduling::Open)),
                        KubeWork::DeleteNode(_) | KubeWork::MintCredential { .. } => None,
                    };
                    if let Some((name, scheduling)) = scheduling {
                        for node in self.nodes.iter_mut().filter(|node| node.name == *name) {
                            node.scheduling = scheduling;
                        }
                    }
                    self.coordinate(master, coordinator::Event::KubeEnded { token, outcome: Ok(KubeDone::Done) });
                    self.look(master);
                }
                coordinator::Action::Respond { .. }
                | coordinator::Action::State(_)
                | coordinator::Action::Operation(_)
                | coordinator::Action::OperationNode(_)
                | coordinator::Action::Clear(_)
                | coordinator::Action::Tell(_)
                | coordinator::Action::Look { .. }
                | coordinator::Action::SwitchOn { .. }
                | coordinator::Action::Certify { .. }
                | coordinator::Action::NewSession => {}
            }
        }
    }

    fn start_agent(&mut self, index: usize) {
        let now = self.instant();
        let node = &mut self.nodes[index];
        node.starts += 1;
        node.goes_for = None;
        node.down_by = None;
        node.heard_at = self.now;
        let config = NodeConfig {
            role: Role::Node,
            destruction: Destruction::Allowed,
            boot: node.boot(),
            nonce: format!("aaaa{index:02x}{:02x}", node.starts).parse().unwrap(),
            // this node's manifest is still that of the old term
            term: 1,
        };
        let (core, actions) = NodeCore::start(now, config, node.record.clone());
        node.core = Some(core);
        self.node_performs(index, actions, Dies::No);
        self.node(index, node::Event::EngineSeen(engine()), Dies::No);
    }

    fn node(&mut self, index: usize, event: node::Event, dies: Dies) {
        let now = self.instant();
        let Some(core) = &mut self.nodes[index].core else { return };
        let actions = core.step(now, event);
        self.node_performs(index, actions, dies);
    }

    fn node_performs(&mut self, index: usize, actions: Vec<node::Action>, dies: Dies) {
        for action in actions {
            match action {
                node::Action::Store(record) => {
                    self.nodes[index].record = *record;
                    if dies == Dies::OnceStored {
                        return self.start_agent(index);
                    }
                }
                node::Action::Result(result) => {
                    self.node_says(index, &result);
                    self.results.insert(format!("{index} {result:?}"), (index, result));
                }
                node::Action::Power { .. } => self.goes_down(index),
                node::Action::Request(_)
                | node::Action::Tell(..)
                | node::Action::Engine { .. }
                | node::Action::CancelPower
                | node::Action::FollowSystem
                | node::Action::Prepared
                | node::Action::Identify { .. }
                | node::Action::ShowStatus
                | node::Action::NewSession => {}
            }
        }
    }

    /// A command takes the node down.
    fn goes_down(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let running = node.core.as_ref().and_then(NodeCore::running).map(|running| running.id);
        let Some(id) = running else {
            self.broken = Some("a node goes down for no command".into());
            return;
        };
        if node.goes_for.is_some() {
            self.broken = Some(format!("{id} begins on a node that goes down already"));
        }
        let told = id.as_str().starts_with(DIRECT_ID_PREFIX);
        if told && self.now - node.heard_at < DIRECT_QUIET_MS {
            self.broken = Some(format!("{id} begins on a node that has heard a master lately"));
        }
        if let (true, Some(command)) = (told, &node.unfinished) {
            self.broken = Some(format!("{id} begins beside {command}"));
        }
        let master = if id.as_str().starts_with("old") { OLD } else { NEW };
        if !told && master == OLD && node.record.term > 1 {
            self.broken = Some(format!("{id} of the old term runs on a node that knows of the new one"));
        }
        if !told {
            node.down_by = Some(master);
        }
        let runs = self.runs.entry(id.clone()).or_default();
        *runs += 1;
        if *runs > 1 {
            self.broken = Some(format!("{id} ran twice"));
        }
        if self.nodes.iter().filter(|node| node.down_by == Some(master)).count() > 1 {
            self.broken = Some("one master has taken two nodes down".into());
        }
        match self.nodes[index].descent {
            Descent::AtOnce => self.nodes[index].core = None,
            Descent::Slowly => {
                self.nodes[index].goes_for = Some(id);
                let (phase, goal) = (PowerPhase::Stopping, Some(PowerGoal::Reboot));
                self.node(index, node::Event::Power { phase, goal, reason: Text::new() }, Dies::No);
            }
        }
    }

    /// What a node says of a master's command.
    fn node_says(&mut self, index: usize, result: &CommandResult) {
        if result.id.as_str().starts_with(DIRECT_ID_PREFIX) {
            return;
        }
        let unfinished = &mut self.nodes[index].unfinished;
        if !result.status.is_final() {
            *unfinished = Some(result.id.clone());
        } else if unfinished.as_ref() == Some(&result.id) {
            *unfinished = None;
        }
    }

    /// A request of the operator's arrives.
    fn direct(&mut self, text: &str, dies: Dies) {
        let (index, request) = self.directs[text].clone();
        let (user, key, role) = ("ops".parse().unwrap(), key(9), Some(UserRole::Operator));
        self.node(index, node::Event::Direct { user, key, role, request: Box::new(request) }, dies);
    }

    fn passes(&mut self, ms: u64) {
        self.now += ms;
        for master in [OLD, NEW] {
            self.coordinate(master, coordinator::Event::Tick);
        }
        for index in 0..self.nodes.len() {
            self.node(index, node::Event::Tick, Dies::No);
        }
    }

    fn next(&self) -> Vec<Happening> {
        let mut all = Vec::new();
        for (text, (_, index, _)) in &self.commands {
            if self.nodes[*index].core.is_some() {
                all.push(Happening::Command(text.clone()));
                if self.nodes[*index].deaths_left > 0 {
                    all.push(Happening::CommandThenDeath(text.clone()));
                }
            }
        }
        for master in [OLD, NEW] {
            all.extend(self.results.keys().map(|text| Happening::Result(text.clone(), master)));
            for index in 0..self.nodes.len() {
                if self.nodes[index].core.is_some() {
                    all.push(Happening::State(index, master));
                    all.push(Happening::Hears(index, master));
                }
            }
            if self.masters[master].deaths_left > 0 {
                all.push(Happening::MasterDies(master));
            }
        }
        for (index, node) in self.nodes.iter().enumerate() {
            if node.core.is_some() && self.to_tell == Some(index) {
                all.push(Happening::Tells(index));
            }
            if node.goes_for.is_some() {
                all.push(Happening::GoneDown(index));
            }
            match node.core {
                None => all.push(Happening::Boots(index)),
                Some(_) if node.deaths_left > 0 => all.push(Happening::AgentDies(index)),
                Some(_) => {}
            }
        }
        for (text, (index, _)) in &self.directs {
            if self.nodes[*index].core.is_some() {
                all.push(Happening::Direct(text.clone()));
                if self.nodes[*index].deaths_left > 0 {
                    all.push(Happening::DirectThenDeath(text.clone()));
                }
            }
        }
        if self.silences_left > 0 {
            all.push(Happening::Silence);
        }
        if self.seconds_left > 0 {
            all.push(Happening::Second);
        }
        all
    }

    fn after(&self, happening: &Happening) -> Self {
        let mut world = self.clone();
        match happening {
            Happening::Command(text) | Happening::CommandThenDeath(text) => {
                let (master, index, command) = world.commands[text].clone();
                let dies = match happening {
                    Happening::CommandThenDeath(_) => {
                        world.nodes[index].deaths_left -= 1;
                        Dies::OnceStored
                    }
                    _ => Dies::No,
                };
                let command = Box::new(command);
                world.node(index, node::Event::Command { key: key(master), command }, dies);
            }
            Happening::Tells(index) => {
                world.to_tell = None;
                let node = &world.nodes[*index];
                let Some(core) = &node.core else { return world };
                let id = format!("{DIRECT_ID_PREFIX}{}", node.name).parse().unwrap();
                let request = DirectRequest { id, nonce: core.nonce().clone(), verb: DirectVerb::Reboot };
                world.directs.insert(format!("{} {request:?}", node.name), (*index, request));
            }
            Happening::Direct(text) => world.direct(text, Dies::No),
            Happening::DirectThenDeath(text) => {
                let (index, _) = world.directs[text];
                world.nodes[index].deaths_left -= 1;
                world.direct(text, Dies::OnceStored);
            }
            Happening::GoneDown(index) => {
                world.nodes[*index].goes_for = None;
                world.nodes[*index].core = None;
            }
            // looked at as often as nodes want to look
            Happening::Silence => {
                world.silences_left -= 1;
                world.passes(DIRECT_QUIET_MS / 2);
                world.passes(DIRECT_QUIET_MS / 2);
            }
            Happening::Result(text, master) => {
                let (index, result) = world.results[text].clone();
                let node = world.nodes[index].name.clone();
                world.coordinate(*master, coordinator::Event::Result { node, result });
            }
            Happening::State(index, master) => {
                let node = world.nodes[*index].name.clone();
                if let Some(state) = world.nodes[*index].state() {
                    world.coordinate(*master, coordinator::Event::State { node, state: Box::new(state) });
                    world.look(*master);
                }
            }
            Happening::Hears(index, master) => {
                let session: Session = world.masters[*master].core.session();
                let node = &mut world.nodes[*index];
                // whose term is over keeps nobody away
                if session.term >= node.record.term {
                    node.heard_at = world.now;
                }
                world.node(*index, node::Event::Coordinator(session), Dies::No);
            }
            Happening::AgentDies(index) => {
                world.nodes[*index].deaths_left -= 1;
                world.start_agent(*index);
            }
            Happening::Boots(index) => {
                world.nodes[*index].boots += 1;
                world.start_agent(*index);
            }
            Happening::MasterDies(master) => {
                world.masters[*master].deaths_left -= 1;
                world.masters[*master].starts += 1;
                let (starts, record) = (world.masters[*master].starts, world.masters[*master].record.clone());
                let first = world.first(*master, starts);
                let (core, actions) = Coordinator::start(world.instant(), config(world.nodes.len()), first, record);
                world.masters[*master].core = core;
                world.perform(*master, actions);
                world.coordinate(*master, coordinator::Event::Broker(BrokerLink::Up));
                world.look(*master);
            }
            Happening::Second => {
                world.seconds_left -= 1;
                world.passes(1_000);
            }
        }
        world
    }

    /// What tells two states apart: all of the nodes, all that the masters keep and know, and what is under way. Where no more
    /// than seconds pass, left out is what only decides when something is said again, or when somebody is silent.
    fn hash(&self) -> u64 {
        let mut hash = Fnv::new();
        let mut words = String::new();
        let mut add = |part: &dyn std::fmt::Debug| {
            words.clear();
            write!(words, "{part:?}").unwrap();
            hash.add(words.as_bytes());
        };
        add(&(self.now, self.seconds_left, self.to_tell, self.silences_left, &self.runs));
        for node in &self.nodes {
            match node.descent {
                Descent::Slowly => add(node),
                // where no operator steps in, it changes nothing when somebody was heard
                Descent::AtOnce => add(&without_silence(node)),
            }
        }
        for master in &self.masters {
            add(&(master.core.record(), master.core.session(), master.deaths_left));
            match self.time {
                Time::Leaps => add(&master.core.knowledge()),
                // nobody becomes silent, and what is sent again is looked at in every order anyway
                Time::Creeps => {
                    add(&master.core.kube_view());
                    for node in &self.nodes {
                        add(&master.core.state_of(&node.name));
                    }
                }
            }
        }
        for text in self.commands.keys().chain(self.results.keys()).chain(self.directs.keys()) {
            add(text);
        }
        hash.value()
    }
}

/// A node in words, but not since when it has heard nobody.
fn without_silence(node: &Node) -> String {
    let text = format!("{:?}", Node { heard_at: 0, ..node.clone() });
    let Some((before, rest)) = text.split_once("silence: Silence {") else { return text };
    let (_, after) = rest.split_once('}').unwrap();
    format!("{before}{after}")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dies {
    No,
    OnceStored,
}

/// Every state that can be reached; how many there are, and which commands ran in some of them.
fn search(bounds: Bounds) -> (usize, BTreeSet<String>) {
    let first = World::new(bounds);
    let mut seen = HashSet::from([first.hash()]);
    let mut ran = BTreeSet::new();
    let mut open = vec![first];
    while let Some(world) = open.pop() {
        for happening in world.next() {
            let after = world.after(&happening);
            if let Some(broken) = &after.broken {
                panic!("{broken}; at last {happening:?}");
            }
            if seen.insert(after.hash()) {
                ran.extend(after.runs.keys().map(|id| id.as_str().to_owned()));
                open.push(after);
            }
        }
    }
    (seen.len(), ran)
}

/// What was reached, so that a change of the cores that makes the search smaller than it was is seen.
fn searched(bounds: Bounds, states: usize) {
    let (found, ran) = search(bounds);
    // each master restarts the one node and then the other
    let all = [("direct-a", 1, 1), ("new-3-1", 1, 0), ("new-8-1", 2, 0), ("old-3-1", 1, 0), ("old-8-1", 2, 0)];
    let told = usize::from(bounds.told.is_some());
    let expected = all.into_iter().filter(|(_, nodes, tells)| bounds.nodes >= *nodes && told >= *tells);
    let mut expected: Vec<&str> = expected.map(|(id, ..)| id).collect();
    if bounds.silences > 1 {
        // what nobody was heard of for so long is tried once more
        expected.extend(["new-3-2", "old-3-2"]);
        expected.sort_unstable();
    }
    assert_eq!(ran.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    assert_eq!(found, states);
}

/// Under an emulated processor it takes twenty times as long.
#[test]
fn two_masters_at_once_do_no_harm_in_any_order() {
    if cfg!(target_arch = "arm") {
        searched(Bounds { nodes: 1, agents: 0, coordinators: 0, seconds: 1, told: None, silences: 0 }, 213);
    } else {
        searched(Bounds { nodes: 2, agents: 0, coordinators: 0, seconds: 1, told: None, silences: 0 }, 7_705);
    }
}

#[test]
#[ignore = "minutes: `./test models` runs it"]
fn two_masters_at_once_do_no_harm_within_two_seconds() {
    searched(Bounds { nodes: 2, agents: 0, coordinators: 0, seconds: 2, told: None, silences: 0 }, 62_504);
}

#[test]
#[ignore = "minutes: `./test models` runs it"]
fn two_masters_at_once_while_agents_die() {
    searched(Bounds { nodes: 2, agents: 1, coordinators: 0, seconds: 1, told: None, silences: 0 }, 362_719);
}

#[test]
#[ignore = "minutes: `./test models` runs it"]
fn two_masters_at_once_that_both_restart() {
    searched(Bounds { nodes: 2, agents: 0, coordinators: 1, seconds: 1, told: None, silences: 0 }, 284_785);
}

#[test]
fn an_operator_steps_in_beside_two_masters_and_does_no_harm_in_any_order() {
    searched(Bounds { nodes: 1, agents: 0, coordinators: 0, seconds: 0, told: Some(0), silences: 1 }, 4_662);
}

/// The masters begin after the first silence, and the operator may step in after either: also in the middle of a command.
#[test]
#[ignore = "minutes: `./test models` runs it"]
fn an_operator_steps_in_beside_commands_of_two_masters() {
    searched(Bounds { nodes: 1, agents: 0, coordinators: 0, seconds: 0, told: Some(0), silences: 2 }, 385_356);
}

#[test]
#[ignore = "minutes: `./test models` runs it"]
fn an_operator_steps_in_while_two_masters_restart_two_nodes() {
    searched(Bounds { nodes: 2, agents: 0, coordinators: 0, seconds: 0, told: Some(0), silences: 1 }, 137_941);
}

#[test]
#[ignore = "minutes: `./test models` runs it"]
fn an_operator_steps_in_while_agents_die() {
    searched(Bounds { nodes: 1, agents: 1, coordinators: 0, seconds: 0, told: Some(0), silences: 1 }, 75_236);
}
