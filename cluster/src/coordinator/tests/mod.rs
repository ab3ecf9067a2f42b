//! A coordinator and a desk from which nodes and Kubernetes are played by hand.

mod access;
mod button;
mod crashes;
mod failures;
mod heard;
mod operations;
mod requests;
mod slots;
mod versions;

use super::*;
use crate::blockers::{Label, Pod, PodSelector, Said, Shown};
use crate::kube::{JoinCredential, KubeNode};
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use beehive_mqtt::command::{Answer, Verb, VerbName};
use beehive_mqtt::console::{Ask, Force, Mode, ResponseStatus};
use beehive_mqtt::coordinator::{ClusterPhase, Membership, OperationKind, StepKind, StepState};
use beehive_mqtt::node::{CommandStatus, EngineRun, EngineState, LastShutdown, ShutdownOutcome, Want};
use beehive_mqtt::{BootId, ClusterId, RequestId};

/// A node as the desk plays it.
#[derive(Clone)]
struct Played {
    boots: u32,
    start: u32,
    revision: u32,
    cluster: Option<ClusterId>,
    lifecycle: Lifecycle,
    version: Text<32>,
    power: PowerPhase,
    orderly: bool,
    online: bool,
    machine: Option<&'static str>,
}

/// The coordinator, and a desk from which nodes and Kubernetes are played by hand.
struct Desk {
    core: Coordinator,
    stored: CoordinatorRecord,
    now: u64,
    nodes: alloc::collections::BTreeMap<NodeName, Played>,
    view: KubeView,
    commands: Vec<(NodeName, Command)>,
    works: Vec<(u64, KubeWork)>,
    answers: Vec<ConsoleResponse>,
    looks: Vec<(u64, NodeName)>,
    switches: Vec<u64>,
    certifies: Vec<(beehive_mqtt::UserName, KeyId, alloc::boxed::Box<ConsoleRequest>)>,
    last: Vec<Action>,
    /// What was begun, in order.
    log: Vec<String>,
    asked: u32,
    sessions: u32,
    /// Whether a new session is made when one is asked for.
    renews: bool,
    /// Nodes that answer nothing.
    deaf: BTreeSet<NodeName>,
    max_unavailable: u16,
    destruction: Destruction,
}

/// The user's.
const KEY: KeyId = KeyId([2; 8]);

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn boot(node: &NodeName, boots: u32) -> BootId {
    format!("{node}-boot-{boots}").parse().unwrap()
}

fn session(node: &NodeName, start: u32) -> Nonce {
    format!("{}-{start}", &node.as_str()[..1]).parse().unwrap()
}

impl Desk {
    /// A crew of `m` and `a`, `b` …, blank and connected.
    fn new(workers: &[&str]) -> Self {
        let all = core::iter::once("m").chain(workers.iter().copied());
        let played = Played {
            boots: 1,
            start: 1,
            revision: 1,
            cluster: None,
            lifecycle: Lifecycle::Blank,
            version: Text::new(),
            power: PowerPhase::Running,
            orderly: true,
            online: true,
            machine: None,
        };
        let nodes = all.map(|node| (name(node), played.clone())).collect();
        let (core, _) = Coordinator::start(
            Instant::from_ms(0),
            Self::config(workers, 1, Destruction::Allowed),
            FirstSession { term: 1, nonce: "c-0".parse().unwrap() },
            CoordinatorRecord::default(),
        );
        let mut desk = Self {
            core,
            stored: CoordinatorRecord::default(),
            now: 0,
            nodes,
            view: KubeView::default(),
            commands: Vec::new(),
            works: Vec::new(),
            answers: Vec::new(),
            looks: Vec::new(),
            switches: Vec::new(),
            certifies: Vec::new(),
            last: Vec::new(),
            log: Vec::new(),
            asked: 0,
            sessions: 0,
            renews: true,
            deaf: BTreeSet::new(),
            max_unavailable: 1,
            destruction: Destruction::Allowed,
        };
        desk.step(Event::Broker(BrokerLink::Up));
        desk.all_speak();
        desk
    }

    /// The same, in a cluster already.
    fn with_cluster(workers: &[&str]) -> Self {
        let mut desk = Self::new(workers);
        desk.run(OperationKind::Create, None);
        desk.settle();
        assert_eq!(desk.phase(), OperationPhase::Done);
        desk.log.clear();
        desk
    }

    fn config(workers: &[&str], max_unavailable: u16, destruction: Destruction) -> CoordinatorConfig {
        CoordinatorConfig {
            master: name("m"),
            expected: workers.iter().map(|node| name(node)).collect(),
            max_unavailable,
            max_parallel: 8,
            server: Text::cut("https://m:6443"),
            drain_ms: 60_000,
            speaks: ProtocolVersion::CURRENT,
            destruction,
            blockers: Blockers::default(),
            switch: PowerSwitch::Absent,
        }
    }

    /// The coordinator dies and starts again with what was stored.
    fn restart(&mut self) {
        let workers: Vec<String> =
            self.nodes.keys().filter(|node| **node != name("m")).map(|node| node.to_string()).collect();
        let workers: Vec<&str> = workers.iter().map(String::as_str).collect();
        let config = Self::config(&workers, self.max_unavailable, self.destruction);
        self.sessions += 1;
        let first = FirstSession { term: 1, nonce: format!("c-{}", self.sessions).parse().unwrap() };
        self.commands.clear();
        self.works.clear();
        let (core, actions) = Coordinator::start(Instant::from_ms(self.now), config, first, self.stored.clone());
        self.core = core;
        self.take(actions);
        let mut first = core::mem::take(&mut self.last);
        self.step(Event::Broker(BrokerLink::Up));
        first.append(&mut self.last);
        self.last = first;
    }

    fn step(&mut self, event: Event) {
        let actions = self.core.step(Instant::from_ms(self.now), event);
        self.take(actions);
    }

    fn take(&mut self, actions: Vec<Action>) {
        self.last = actions.clone();
        let renews = actions.contains(&Action::NewSession);
        for (index, action) in actions.into_iter().enumerate() {
            match action {
                Action::Store(record) => {
                    assert_eq!(index, 0, "storing comes first");
                    self.stored = *record;
                }
                Action::Command { node, command, .. } => {
                    let sent = (node, *command);
                    if !self.commands.iter().any(|held| held.1.id == sent.1.id) {
                        self.log.push(format!("{} {}", sent.1.verb.name(), sent.0));
                    }
                    self.commands.retain(|held| held.1.id != sent.1.id);
                    self.commands.push(sent);
                }
                Action::Kube { token, work, .. } => {
                    self.log.push(match &work {
                        KubeWork::Cordon(node) => format!("cordon {node}"),
                        KubeWork::Uncordon(node) => format!("uncordon {node}"),
                        KubeWork::Drain { node, .. } => format!("drain {node}"),
                        KubeWork::DeleteNode(node) => format!("delete {node}"),
                        KubeWork::MintCredential { node, .. } => format!("mint {node}"),
                    });
                    self.works.push((token, work));
                }
                Action::Respond { response, .. } => self.answers.push(*response),
                Action::Look { token, node } => {
                    self.log.push(format!("look {node}"));
                    self.looks.push((token, node));
                }
                Action::SwitchOn { token, node } => {
                    self.log.push(format!("switch on {node}"));
                    self.switches.push(token);
                }
                Action::Certify { user, key, request } => {
                    self.log.push(format!("certify {}", request.id));
                    self.certifies.push((user, key, request));
                }
                Action::State(_)
                | Action::Operation(_)
                | Action::OperationNode(_)
                | Action::Clear(_)
                | Action::Tell(_)
                | Action::NewSession => {}
            }
        }
        if renews && self.renews {
            self.sessions += 1;
            let nonce = format!("c-{}", self.sessions).parse().unwrap();
            self.step(Event::Session(nonce));
        }
    }

    fn speak(&mut self, node: &NodeName) {
        self.nodes.get_mut(node).unwrap().revision += 1;
        let state = self.state_of(node.as_str());
        self.step(Event::State { node: node.clone(), state: Box::new(state) });
    }

    /// What a node would say now.
    fn state_of(&self, node: &str) -> NodeState {
        let node = &name(node);
        let played = self.nodes[node].clone();
        let running = played.cluster.is_some() && played.online;
        NodeState {
            lifecycle: played.lifecycle,
            power: played.power,
            goal: None,
            led: Text::new(),
            running: None,
            boot: boot(node, played.boots),
            start: played.start,
            revision: played.revision,
            nonce: session(node, played.start),
            heard: Some(self.core.session()),
            engine: EngineState {
                cluster: played.cluster,
                run: if running { EngineRun::Running } else { EngineRun::Stopped },
                version: played.version,
            },
            last_shutdown: Some(LastShutdown {
                phase: PowerPhase::HandingOver,
                reason: Text::cut("command"),
                outcome: if played.orderly { ShutdownOutcome::Orderly } else { ShutdownOutcome::Interrupted },
            }),
            speaks: SpokenVersion::said_by(ProtocolVersion::CURRENT),
            machine: played.machine.map(|mark| mark.parse().unwrap()),
        }
    }

    fn presence(&mut self, node: &NodeName, status: Connection) {
        let start = self.nodes[node].start;
        let presence = Presence { status, start, connection: 1, reason: Text::new() };
        self.step(Event::Presence { node: node.clone(), presence });
    }

    fn all_speak(&mut self) {
        let names: Vec<NodeName> = self.nodes.keys().cloned().collect();
        for node in names {
            if self.nodes[&node].online {
                self.presence(&node, Connection::Online);
                self.speak(&node);
            }
        }
    }

    /// The power is gone: the broker says so, Kubernetes not yet.
    fn dies(&mut self, node: &str) {
        self.nodes.get_mut(&name(node)).unwrap().online = false;
        self.presence(&name(node), Connection::Offline);
    }

    /// Kubernetes has noticed.
    fn not_ready(&mut self, node: &str) {
        self.kube_node(node).ready = Ready::No;
        self.look();
    }

    /// Up again in another boot; its kubelet not yet.
    fn boots(&mut self, node: &str) {
        let played = self.nodes.get_mut(&name(node)).unwrap();
        played.boots += 1;
        played.start += 1;
        played.online = true;
        played.power = PowerPhase::Running;
        self.presence(&name(node), Connection::Online);
        self.speak(&name(node));
    }

    fn kube_node(&mut self, node: &str) -> &mut KubeNode {
        self.view.nodes.iter_mut().find(|held| held.node.as_str() == node).unwrap()
    }

    fn is_cordoned(&self, node: &str) -> bool {
        self.view.node(&name(node)).is_some_and(|held| held.scheduling == Scheduling::Cordoned)
    }

    /// Its kubelet says that it is ready in the boot in which it is.
    fn ready(&mut self, node: &str) {
        let now = boot(&name(node), self.nodes[&name(node)].boots);
        let held = self.kube_node(node);
        held.ready = Ready::Yes;
        held.boot = Some(now);
        self.look();
    }

    fn look(&mut self) {
        let view = self.view.clone();
        self.step(Event::Kube(view));
    }

    /// The API server does not answer, long after the coordinator's start; what it would say is handed back.
    fn api_server_goes(&mut self) -> KubeView {
        self.pass(6_000);
        let view = core::mem::take(&mut self.view);
        self.look();
        view
    }

    /// Time passes, and no node says anything.
    fn quiet(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.now < end {
            let due = self.core.next_deadline(Instant::from_ms(self.now)).as_ms();
            self.now = due.max(self.now + 1).min(end);
            self.step(Event::Tick);
        }
    }

    /// Time passes in small steps; who is there keeps saying so.
    fn pass(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.now < end {
            let due = self.core.next_deadline(Instant::from_ms(self.now)).as_ms();
            self.now = due.max(self.now + 1).min(end).min(self.now - self.now % 5_000 + 5_000);
            if self.now % 5_000 == 0 {
                self.all_speak();
            }
            self.step(Event::Tick);
        }
    }

    fn ask(&mut self, ask: Ask, mode: Mode) -> ConsoleResponse {
        self.asked += 1;
        let id: RequestId = format!("r-{}", self.asked).parse().unwrap();
        self.ask_as(id, ask, mode)
    }

    fn ask_as(&mut self, id: RequestId, ask: Ask, mode: Mode) -> ConsoleResponse {
        let request = ConsoleRequest { id, nonce: self.core.session().nonce, mode, ask };
        self.step(Event::Console { user: "ops".parse().unwrap(), key: KEY, request });
        self.answers.pop().unwrap()
    }

    fn want(kind: OperationKind, node: Option<&str>, force: Force) -> Ask {
        Ask::Operation { kind, node: node.map(name), version: Text::new(), force }
    }

    fn run(&mut self, kind: OperationKind, node: Option<&str>) -> ConsoleResponse {
        self.ask(Self::want(kind, node, Force::No), Mode::Execute)
    }

    fn press(&mut self, node: &str, want: Want) -> RequestId {
        self.asked += 1;
        let id: RequestId = format!("n-{node}-{}", self.asked).parse().unwrap();
        self.press_as(node, want, &id);
        id
    }

    fn press_as(&mut self, node: &str, want: Want, id: &RequestId) {
        let request = NodeRequest {
            id: id.clone(),
            want,
            deadline_ms: 120_000,
            reason: Text::cut("button"),
            boot: boot(&name(node), self.nodes[&name(node)].boots),
            session: session(&name(node), self.nodes[&name(node)].start),
            nonce: Some(self.core.session().nonce),
        };
        self.step(Event::Request { node: name(node), request });
    }

    /// The answers that a node was sent, by verb.
    fn answered(&mut self, node: &str) -> Vec<Answer> {
        let answers =
            self.commands.iter().filter(|(to, _)| to.as_str() == node).filter_map(|(_, command)| match command.verb {
                Verb::Answer { answer, .. } => Some(answer),
                _ => None,
            });
        answers.collect()
    }

    fn result(&mut self, node: &NodeName, command: &Command, status: CommandStatus, code: &str) {
        let result = CommandResult {
            id: command.id.clone(),
            verb: command.verb.name(),
            status,
            code: Text::cut(code),
            reason: Text::new(),
            boot: boot(node, self.nodes[node].boots),
            nonce: session(node, self.nodes[node].start),
        };
        self.step(Event::Result { node: node.clone(), result });
    }

    /// Takes the command of that verb off the desk.
    #[track_caller]
    fn command(&mut self, verb: VerbName, node: &str) -> Command {
        let found = self.commands.iter().position(|(to, command)| to.as_str() == node && command.verb.name() == verb);
        let found = found.unwrap_or_else(|| panic!("no {verb} for {node} on the desk: {:?}", self.log));
        self.commands.remove(found).1
    }

    #[track_caller]
    fn work(&mut self) -> (u64, KubeWork) {
        assert!(!self.works.is_empty(), "nothing asked of Kubernetes: {:?}", self.log);
        self.works.remove(0)
    }

    fn kube_does(&mut self, token: u64, work: &KubeWork) {
        let mut outcome = Ok(KubeDone::Done);
        match work {
            KubeWork::Cordon(node) | KubeWork::Uncordon(node) => {
                let scheduling =
                    if matches!(work, KubeWork::Cordon(_)) { Scheduling::Cordoned } else { Scheduling::Open };
                self.kube_node(node.as_str()).scheduling = scheduling;
            }
            KubeWork::Drain { .. } => {}
            KubeWork::DeleteNode(node) => self.view.nodes.retain(|held| held.node != *node),
            KubeWork::MintCredential { .. } => {
                outcome = Ok(KubeDone::Credential(JoinCredential::new("hunter2").unwrap()))
            }
        }
        self.look();
        self.step(Event::KubeEnded { token, outcome });
    }

    fn kube_fails(&mut self, code: &'static str) {
        let (token, _) = self.work();
        let outcome = Err(KubeError { code, reason: Text::cut("no") });
        self.step(Event::KubeEnded { token, outcome });
    }

    /// A node does what it is told, and does it well.
    fn obey(&mut self, node: &NodeName, command: &Command) {
        if self.deaf.contains(node) || !self.nodes[node].online {
            return;
        }
        let text = node.as_str().to_string();
        match &command.verb {
            Verb::Initialise { cluster, .. } | Verb::Join { cluster, .. } => {
                self.result(node, command, CommandStatus::Accepted, "accepted");
                let played = self.nodes.get_mut(node).unwrap();
                played.cluster = Some(cluster.clone());
                played.lifecycle = Lifecycle::Member;
                let boots = played.boots;
                if *node == name("m") {
                    self.view = KubeView { cluster: Some(cluster.clone()), nodes: Vec::new() };
                }
                self.view.nodes.push(KubeNode {
                    node: node.clone(),
                    ready: Ready::Yes,
                    scheduling: Scheduling::Open,
                    boot: Some(boot(node, boots)),
                    version: Text::new(),
                });
                self.result(node, command, CommandStatus::Succeeded, "done");
                self.speak(node);
                self.look();
            }
            Verb::Reset => {
                let played = self.nodes.get_mut(node).unwrap();
                played.cluster = None;
                played.lifecycle = Lifecycle::Blank;
                if *node == name("m") {
                    self.view = KubeView::default();
                }
                self.result(node, command, CommandStatus::Succeeded, "done");
                self.speak(node);
                self.look();
            }
            Verb::Stop | Verb::Snapshot | Verb::AddOns | Verb::Identify { .. } | Verb::Answer { .. } => {
                self.result(node, command, CommandStatus::Succeeded, "done");
            }
            Verb::Upgrade { version } => {
                self.result(node, command, CommandStatus::Accepted, "accepted");
                self.nodes.get_mut(node).unwrap().version = version.clone();
                self.result(node, command, CommandStatus::Succeeded, "done");
                self.speak(node);
                self.kube_node(&text).version = version.clone();
                self.look();
            }
            Verb::Reboot => {
                self.result(node, command, CommandStatus::InProgress, "stopping");
                self.dies(&text);
                self.boots(&text);
                self.ready(&text);
            }
            Verb::PowerOff => {
                self.result(node, command, CommandStatus::InProgress, "stopping");
                self.hands_over(&text);
                self.dies(&text);
            }
        }
    }

    fn hands_over(&mut self, node: &str) {
        self.nodes.get_mut(&name(node)).unwrap().power = PowerPhase::HandingOver;
        self.speak(&name(node));
    }

    /// Everybody does what is on the desk until nothing is left.
    fn settle(&mut self) {
        for _ in 0..500 {
            if !self.works.is_empty() {
                let (token, work) = self.work();
                self.kube_does(token, &work);
            } else if let Some(found) =
                self.commands.iter().position(|(node, _)| !self.deaf.contains(node) && self.nodes[node].online)
            {
                let (node, command) = self.commands.remove(found);
                self.obey(&node, &command);
            } else {
                return;
            }
        }
        panic!("it never settles: {:?}", self.log);
    }

    fn phase(&self) -> OperationPhase {
        self.stored.operations.last().unwrap().phase
    }

    fn states(&self) -> Vec<(StepKind, String, StepState)> {
        let steps = &self.stored.operations.last().unwrap().steps;
        steps.iter().map(|step| (step.kind, step.node.to_string(), step.state)).collect()
    }

    fn membership(&self, node: &str) -> Membership {
        let state = self.core.state(Instant::from_ms(self.now));
        state.members.iter().find(|member| member.node.as_str() == node).unwrap().membership
    }
}
