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

// ---- operations

#[test]
fn create_initialises_the_master_and_then_joins_the_nodes() {
    let mut desk = Desk::new(&["a", "b"]);
    let answer = desk.run(OperationKind::Create, None);
    assert_eq!(answer.status, ResponseStatus::Started);
    assert_eq!(desk.log, ["initialise m"], "one thing at first");
    desk.settle();
    assert_eq!(
        desk.log,
        ["initialise m", "mint a", "mint b", "join a", "join b", "add_ons m"],
        "credentials are minted when there is a cluster"
    );
    assert_eq!(desk.phase(), OperationPhase::Done);
    assert_eq!(desk.stored.cluster.as_ref().unwrap().id.as_str(), "r-1");
    assert_eq!(desk.membership("a"), Membership::Ready);
    let again = desk.run(OperationKind::Create, None);
    assert_eq!(again.status, ResponseStatus::Unchanged);
}

/// What a look finds: nothing, or a pod that is not to be disturbed.
fn facts(pod: Option<&str>) -> Box<Facts> {
    let label = Label { key: "app".into(), value: "db".into() };
    let pod = pod.map(|name| Pod { namespace: "data".into(), name: name.into(), labels: vec![label] });
    let shown = Ok(Shown { labels: Vec::new(), pods: pod.into_iter().collect() });
    Box::new(Facts { shown, minute: None, command: Said::Go })
}

fn with_blockers(workers: &[&str]) -> Desk {
    let mut desk = Desk::with_cluster(workers);
    let selector = PodSelector { namespace: None, selector: "app=db".parse().unwrap() };
    desk.core.config.blockers = Blockers { pods: vec![selector], ..Blockers::default() };
    desk
}

/// Asks, and lets somebody look at each node; those named in `busy` run a pod that blocks.
fn ask_and_look(desk: &mut Desk, ask: &Ask, mode: Mode, busy: &[&str]) -> ConsoleResponse {
    desk.asked += 1;
    let id: RequestId = format!("r-{}", desk.asked).parse().unwrap();
    for _ in 0..3 {
        let request = ConsoleRequest { id: id.clone(), nonce: desk.core.session().nonce, mode, ask: ask.clone() };
        desk.step(Event::Console { user: "ops".parse().unwrap(), key: KEY, request });
        if let Some(answer) = desk.answers.pop() {
            return answer;
        }
        looks(desk, busy);
    }
    panic!("no answer: {:?}", desk.log);
}

fn looks(desk: &mut Desk, busy: &[&str]) {
    for (token, node) in core::mem::take(&mut desk.looks) {
        let pod = busy.contains(&node.as_str()).then_some("db-0");
        desk.step(Event::Looked { token, facts: facts(pod) });
    }
}

#[test]
fn what_is_blocked_is_refused_and_force_names_what_it_sets_aside() {
    let mut desk = with_blockers(&["a", "b"]);
    let reboot = |force| Desk::want(OperationKind::NodeReboot, Some("a"), force);
    let answer = ask_and_look(&mut desk, &reboot(Force::No), Mode::Execute, &["a"]);
    assert_eq!((answer.status, answer.code.as_str()), (ResponseStatus::Refused, "blocked"));
    assert!(answer.text.as_str().contains("a is to be left alone: pod data/db-0 (app=db)"), "{}", answer.text);
    desk.now += LOOK_FRESH_MS;
    let answer = ask_and_look(&mut desk, &reboot(Force::Yes), Mode::DryRun, &["a"]);
    assert_eq!(answer.status, ResponseStatus::Planned);
    assert!(answer.text.as_str().contains("it would set aside: a: pod data/db-0"), "{}", answer.text);
    let answer = ask_and_look(&mut desk, &reboot(Force::Yes), Mode::Execute, &["a"]);
    assert_eq!(answer.status, ResponseStatus::Started);
    assert!(answer.text.as_str().contains("set aside: a: pod data/db-0"), "{}", answer.text);
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Done);
    assert!(!desk.log.iter().any(|line| line.starts_with("mint")), "{:?}", desk.log);
    // another node is none of its business, and what is no rolling work is not looked at
    desk.log.clear();
    let other = Desk::want(OperationKind::NodeReboot, Some("b"), Force::No);
    assert_eq!(ask_and_look(&mut desk, &other, Mode::Execute, &["a"]).status, ResponseStatus::Started);
    desk.settle();
    assert_eq!(desk.run(OperationKind::Rebuild, None).status, ResponseStatus::Started);
}

#[test]
fn what_is_blocked_in_its_turn_is_waited_for_and_given_up_at_last() {
    for gives_in in [true, false] {
        let mut desk = with_blockers(&["a", "b"]);
        let reboot = Desk::want(OperationKind::Reboot, None, Force::No);
        assert_eq!(ask_and_look(&mut desk, &reboot, Mode::Execute, &[]).status, ResponseStatus::Started);
        desk.now += LOOK_FRESH_MS;
        desk.settle();
        assert!(desk.log.contains(&"uncordon a".to_string()));
        // its turn comes, and by then a pod runs there
        for _ in 0..4 {
            desk.now += LOOK_AGAIN_MS;
            desk.all_speak();
            desk.step(Event::Tick);
            looks(&mut desk, &["b"]);
            desk.settle();
        }
        assert!(!desk.log.contains(&"cordon b".to_string()), "{:?}", desk.log);
        if gives_in {
            desk.now += LOOK_AGAIN_MS;
            desk.all_speak();
            desk.step(Event::Tick);
            looks(&mut desk, &[]);
            desk.settle();
            assert!(desk.log.contains(&"uncordon b".to_string()), "{:?}", desk.log);
            continue;
        }
        for _ in 0..2 * SLOT_WAIT_MS / LOOK_AGAIN_MS {
            desk.now += LOOK_AGAIN_MS;
            desk.all_speak();
            desk.step(Event::Tick);
            looks(&mut desk, &["b"]);
        }
        assert_eq!(desk.phase(), OperationPhase::Failed);
        let steps = &desk.stored.operations.last().unwrap().steps;
        let failed = steps.iter().find(|step| step.state == StepState::Failed).unwrap();
        assert!(failed.reason.as_str().contains("timed out: blocked: pod data/db-0"), "{}", failed.reason);
    }
}

#[test]
fn without_an_answer_to_a_look_nothing_begins() {
    let mut desk = with_blockers(&["a"]);
    let request = ConsoleRequest {
        id: "r-9".parse().unwrap(),
        nonce: desk.core.session().nonce,
        mode: Mode::Execute,
        ask: Desk::want(OperationKind::NodeReboot, Some("a"), Force::No),
    };
    let ask = |desk: &mut Desk| {
        desk.step(Event::Console { user: "ops".parse().unwrap(), key: KEY, request: request.clone() });
        desk.answers.pop()
    };
    assert!(ask(&mut desk).is_none());
    desk.now += LOOK_MS - 1;
    assert!(ask(&mut desk).is_none());
    desk.now += 1;
    assert_eq!(
        ask(&mut desk).unwrap().status,
        ResponseStatus::Started,
        "it waits, as for whatever Kubernetes has to say"
    );
    let waits = desk.core.told.slot_waits.values().next().unwrap().0.clone();
    assert_eq!(waits.as_str(), "blocked: its labels and pods cannot be read: no answer within 15 s");
    // a late one counts for nothing
    let (token, _) = desk.looks.pop().unwrap();
    desk.step(Event::Looked { token, facts: facts(None) });
    assert!(!desk.log.contains(&"cordon a".to_string()));
    desk.now += LOOK_AGAIN_MS;
    desk.all_speak();
    desk.step(Event::Tick);
    looks(&mut desk, &[]);
    assert!(desk.log.contains(&"cordon a".to_string()));
}

#[test]
fn a_start_lets_the_switch_feed_who_is_off_and_says_if_it_cannot() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.core.config.switch = PowerSwitch::Present;
    desk.dies("a");
    desk.not_ready("a");
    desk.quiet(SILENT_MS);
    desk.all_speak();
    desk.run(OperationKind::Start, None);
    assert_eq!(desk.log, ["switch on a"]);
    let token = desk.switches.pop().unwrap();
    desk.step(Event::Switched { token, outcome: Err(Text::cut("no route to the switch")) });
    let (id, _) = (desk.stored.operations.last().unwrap().id.clone(), ());
    assert!(desk.core.waits(&id, 0).unwrap().as_str().contains("no route to the switch"));
    desk.now += SWITCH_AGAIN_MS;
    desk.step(Event::Tick);
    let token = desk.switches.pop().unwrap();
    desk.step(Event::Switched { token, outcome: Ok(()) });
    desk.now += 2 * SWITCH_AGAIN_MS;
    desk.step(Event::Tick);
    assert!(desk.switches.is_empty(), "it has taken that");
    desk.boots("a");
    desk.ready("a");
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Done);
}

/// It was not heard since the coordinator's start, and what was last seen of Kubernetes is of the cluster before.
#[test]
fn a_node_that_nobody_has_heard_is_no_member_of_a_cluster_that_is_gone() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    let old = desk.view.clone();
    desk.run(OperationKind::Reset, None);
    desk.settle();
    desk.restart();
    desk.core.kube = old;
    desk.core.seen.remove(&name("b"));
    desk.now += 10_000;
    let plan = desk.ask(Desk::want(OperationKind::Create, None, Force::No), Mode::DryRun).plan;
    assert!(plan.iter().any(|step| step.step == StepKind::Join && step.node == name("b")), "{plan:?}");
}

/// Nobody can tell whether it is a member: rolling work treats it as one, and waits for the API server's word.
#[test]
fn a_node_that_nobody_has_heard_may_be_a_member_while_the_api_server_is_silent() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.restart();
    let view = desk.api_server_goes();
    desk.core.seen.remove(&name("b"));
    let reset = desk.run(OperationKind::NodeReset, Some("b"));
    assert_eq!(reset.code.as_str(), "node-is-member", "what may be a member is not reset");
    desk.run(OperationKind::NodeShutdown, Some("b"));
    desk.all_speak();
    desk.step(Event::Tick);
    assert!(desk.log.is_empty(), "{:?}", desk.log);
    assert_eq!(desk.stored.slots, [name("b")]);
    desk.view = view;
    desk.look();
    desk.quiet(2_500);
    desk.settle();
    assert_eq!(desk.log, ["cordon b", "drain b", "power_off b"]);

    // it was none, says so, and is restarted as what it is, though the API server never answers again
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::NodeLeave, Some("b"));
    desk.settle();
    desk.restart();
    desk.api_server_goes();
    desk.core.seen.remove(&name("b"));
    desk.log.clear();
    desk.run(OperationKind::NodeReboot, Some("b"));
    desk.all_speak();
    desk.quiet(2_500);
    let reboot = desk.command(VerbName::Reboot, "b");
    desk.result(&name("b"), &reboot, CommandStatus::InProgress, "stopping");
    desk.dies("b");
    desk.boots("b");
    assert_eq!(desk.log, ["reboot b"]);
    assert_eq!(desk.phase(), OperationPhase::Done);
    assert!(desk.stored.slots.is_empty());
}

/// The stop came off after the leave had given it up: no kubelet is left to confirm a second drain.
#[test]
fn a_leave_taken_up_again_does_not_empty_what_it_has_stopped() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.run(OperationKind::NodeLeave, Some("a"));
    while desk.log.last().unwrap() != "stop a" {
        let (token, work) = desk.work();
        desk.kube_does(token, &work);
    }
    let stop = desk.command(VerbName::Stop, "a");
    desk.result(&name("a"), &stop, CommandStatus::Accepted, "accepted");
    desk.pass(drive::limit_ms(StepKind::Stop, 0) + 1_000);
    desk.commands.clear();
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Failed);
    assert!(!desk.is_cordoned("a"));
    desk.nodes.get_mut(&name("a")).unwrap().revision += 1;
    let mut state = desk.state_of("a");
    state.engine.run = EngineRun::Stopped;
    desk.step(Event::State { node: name("a"), state: Box::new(state) });
    desk.log.clear();
    desk.ask(Ask::Resume, Mode::Execute);
    desk.settle();
    assert_eq!(desk.log, ["cordon a", "stop a", "delete a", "reset a"]);
    assert_eq!(desk.phase(), OperationPhase::Done);
}

fn upgrade(desk: &mut Desk, version: &str, force: Force) -> ConsoleResponse {
    let (kind, version) = (OperationKind::Upgrade, Text::cut(version));
    desk.ask(Ask::Operation { kind, node: None, version, force }, Mode::Execute)
}

#[test]
fn an_upgrade_takes_the_master_first_and_then_one_after_the_other() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    assert_eq!(upgrade(&mut desk, "", Force::No).code.as_str(), "no-version");
    assert_eq!(upgrade(&mut desk, "v2", Force::No).status, ResponseStatus::Started);
    desk.settle();
    let each = |node: &str| ["cordon", "drain", "upgrade", "uncordon"].map(|word| format!("{word} {node}"));
    let expected: Vec<String> =
        core::iter::once("snapshot m".to_string()).chain(["m", "a", "b"].into_iter().flat_map(each)).collect();
    assert_eq!(desk.log, expected);
    assert_eq!(desk.phase(), OperationPhase::Done);
    assert_eq!(desk.stored.cluster.as_ref().unwrap().version.as_str(), "v2", "who joins now joins at that version");
    assert_eq!(upgrade(&mut desk, "v2", Force::No).status, ResponseStatus::Unchanged);
}

#[test]
fn the_next_is_upgraded_only_when_the_one_before_is_ready_at_that_version() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    upgrade(&mut desk, "v2", Force::No);
    while !desk.log.contains(&"upgrade m".to_string()) {
        let (token, work) = if desk.works.is_empty() {
            (0, None)
        } else {
            let (t, w) = desk.work();
            (t, Some(w))
        };
        match work {
            Some(work) => desk.kube_does(token, &work),
            None => {
                let snapshot = desk.command(VerbName::Snapshot, "m");
                desk.obey(&name("m"), &snapshot);
            }
        }
    }
    let command = desk.command(VerbName::Upgrade, "m");
    desk.nodes.get_mut(&name("m")).unwrap().version = Text::cut("v2");
    desk.result(&name("m"), &command, CommandStatus::Succeeded, "done");
    desk.speak(&name("m"));
    desk.quiet(60_000);
    assert!(!desk.log.contains(&"uncordon m".to_string()), "its kubelet is the old one yet: {:?}", desk.log);
    desk.all_speak();
    desk.kube_node("m").version = Text::cut("v2");
    desk.look();
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Done, "{:?} {:?}", desk.log, desk.core.state(Instant::from_ms(desk.now)));
}

#[test]
fn an_upgrade_that_fails_ends_there_and_uncordons_and_goes_on_when_it_is_resumed() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    upgrade(&mut desk, "v2", Force::No);
    desk.deaf.insert(name("a"));
    desk.settle();
    for _ in 0..ATTEMPTS {
        let command = desk.command(VerbName::Upgrade, "a");
        desk.result(&name("a"), &command, CommandStatus::Failed, "no-space");
        desk.quiet(20_000);
    }
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Failed);
    assert!(!desk.is_cordoned("a"), "{:?}", desk.log);
    assert!(!desk.log.contains(&"cordon b".to_string()), "nothing more begins");
    assert_eq!(desk.stored.cluster.as_ref().unwrap().version.as_str(), "v2");
    desk.deaf.clear();
    desk.log.clear();
    desk.ask(Ask::Resume, Mode::Execute);
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Done);
    assert_eq!(desk.log[0], "cordon a", "the master has it already");
}

#[test]
fn what_is_stored_and_reported_never_holds_a_credential() {
    let mut desk = Desk::new(&["a"]);
    desk.run(OperationKind::Create, None);
    while !desk.log.contains(&"join a".to_string()) {
        assert!(!format!("{:?}", desk.stored).contains("hunter2"));
        if let Some((token, work)) = desk.works.pop() {
            desk.kube_does(token, &work);
        } else {
            let (node, command) = desk.commands.remove(0);
            desk.obey(&node, &command);
        }
    }
    assert!(!format!("{:?} {:?}", desk.last, desk.core).contains("hunter2"));
}

#[test]
fn rebuild_resets_the_master_last_and_initialises_it_first() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::Rebuild, None);
    desk.settle();
    assert_eq!(
        desk.log,
        [
            "snapshot m",
            "reset a",
            "reset b",
            "reset m",
            "initialise m",
            "mint a",
            "mint b",
            "join a",
            "join b",
            "add_ons m"
        ]
    );
    assert_eq!(desk.phase(), OperationPhase::Done);
    assert_eq!(desk.stored.cluster.as_ref().unwrap().id.as_str(), "r-2");
}

#[test]
fn a_rebuild_needs_its_snapshot_unless_forced() {
    for (force, phase) in [(Force::No, OperationPhase::Failed), (Force::Yes, OperationPhase::Running)] {
        let mut desk = Desk::with_cluster(&["a"]);
        desk.ask(Desk::want(OperationKind::Rebuild, None, force), Mode::Execute);
        for _ in 0..ATTEMPTS {
            let snapshot = desk.command(VerbName::Snapshot, "m");
            desk.result(&name("m"), &snapshot, CommandStatus::Failed, "disk");
            desk.pass(10_000);
        }
        assert_eq!(desk.phase(), phase);
        assert_eq!(desk.log.contains(&"reset a".to_string()), force == Force::Yes);
    }
}

#[test]
fn reset_leaves_no_cluster() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::Reset, None);
    desk.settle();
    assert_eq!(desk.log, ["reset a", "reset b", "reset m"]);
    assert_eq!((desk.phase(), &desk.stored.cluster), (OperationPhase::Done, &None));
    assert_eq!(desk.membership("a"), Membership::Blank);
}

#[test]
fn a_rolling_reboot_waits_for_ready_in_a_new_boot_before_the_next() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::Reboot, None);
    let (token, work) = desk.work();
    assert_eq!(work, KubeWork::Cordon(name("a")));
    assert_eq!(desk.stored.cordons[0].node, name("a"), "it is stored first that we cordon");
    assert_eq!(desk.stored.slots, [name("a")]);
    desk.kube_does(token, &work);
    let (token, work) = desk.work();
    assert!(matches!(&work, KubeWork::Drain { node, .. } if *node == name("a")));
    desk.kube_does(token, &work);
    let reboot = desk.command(VerbName::Reboot, "a");
    desk.result(&name("a"), &reboot, CommandStatus::InProgress, "stopping");
    desk.dies("a");
    desk.boots("a");
    // Kubernetes still believes in the boot before
    desk.look();
    desk.pass(20_000);
    assert!(!desk.log.contains(&"cordon b".to_string()) && !desk.log.contains(&"uncordon a".to_string()));
    desk.ready("a");
    let (token, work) = desk.work();
    assert_eq!(work, KubeWork::Uncordon(name("a")));
    assert!(!desk.log.contains(&"cordon b".to_string()));
    desk.kube_does(token, &work);
    assert_eq!(desk.log.last().unwrap(), "cordon b");
    assert_eq!(desk.stored.slots, [name("b")]);
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Done);
    let order: Vec<_> = desk.log.iter().filter(|line| line.starts_with("reboot")).collect();
    assert_eq!(order, ["reboot a", "reboot b", "reboot m"]);
    assert!(desk.stored.cordons.is_empty() && desk.stored.slots.is_empty());
}

#[test]
fn a_restart_of_which_only_the_end_is_heard_counts_too() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.run(OperationKind::NodeReboot, Some("a"));
    for _ in 0..2 {
        let (token, work) = desk.work();
        desk.kube_does(token, &work);
    }
    let reboot = desk.command(VerbName::Reboot, "a");
    // its new boot answers before its new state arrives: the old Ready must not pass for the new
    desk.nodes.get_mut(&name("a")).unwrap().boots += 1;
    desk.result(&name("a"), &reboot, CommandStatus::Succeeded, "done");
    assert!(!desk.log.contains(&"uncordon a".to_string()));
    desk.nodes.get_mut(&name("a")).unwrap().boots -= 1;
    desk.boots("a");
    desk.result(&name("a"), &reboot, CommandStatus::Succeeded, "done");
    assert!(!desk.log.contains(&"uncordon a".to_string()), "ready, but of the boot before");
    desk.ready("a");
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Done);
}

#[test]
fn a_boot_before_the_command_was_taken_is_not_the_restart() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.run(OperationKind::NodeReboot, Some("a"));
    for _ in 0..2 {
        let (token, work) = desk.work();
        desk.kube_does(token, &work);
    }
    let reboot = desk.command(VerbName::Reboot, "a");
    // it restarted by itself; the command reaches the new boot, whose state is still under way
    desk.nodes.get_mut(&name("a")).unwrap().boots += 1;
    desk.result(&name("a"), &reboot, CommandStatus::InProgress, "stopping");
    desk.nodes.get_mut(&name("a")).unwrap().boots -= 1;
    desk.boots("a");
    assert_eq!(desk.states()[2].2, StepState::Running);
    desk.result(&name("a"), &reboot, CommandStatus::InProgress, "stopping");
    desk.boots("a");
    assert_eq!(desk.states()[2].2, StepState::Done);
}

#[test]
fn shutdown_cordons_stops_the_workers_and_then_the_master() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::Shutdown, None);
    desk.settle();
    assert!(!desk.log.iter().any(|line| line.starts_with("drain")), "nothing is evicted");
    assert_eq!(desk.log.last().unwrap(), "power_off m");
    let before: Vec<_> = desk.states();
    assert!(before.iter().filter(|step| step.1 != "m").all(|step| step.2 == StepState::Done), "{before:?}");
    // the master was off too; its coordinator is back and uncordons who is back
    desk.restart();
    desk.boots("m");
    desk.ready("m");
    assert_eq!(desk.phase(), OperationPhase::Done);
    assert_eq!(desk.stored.cordons.len(), 2);
    desk.log.clear();
    desk.boots("a");
    desk.look();
    assert!(desk.log.is_empty(), "its kubelet has said nothing in this boot");
    desk.ready("a");
    desk.settle();
    assert_eq!(desk.log, ["uncordon a"]);
    assert_eq!(desk.stored.cordons.len(), 1, "b is still off");
}

#[test]
fn a_start_waits_for_those_that_are_off_and_names_who_never_came() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    assert_eq!(desk.run(OperationKind::Start, None).status, ResponseStatus::Unchanged);
    for node in ["a", "b"] {
        desk.dies(node);
        desk.not_ready(node);
    }
    assert_eq!(desk.run(OperationKind::Start, None).status, ResponseStatus::Started);
    desk.pass(600_000);
    assert_eq!(desk.phase(), OperationPhase::Running);
    desk.boots("a");
    desk.ready("a");
    desk.settle();
    let states = desk.states();
    assert_eq!(states[0], (StepKind::WaitUp, "a".to_string(), StepState::Done));
    assert_eq!(states[1], (StepKind::WaitReady, "a".to_string(), StepState::Done));
    desk.pass(1_300_000);
    assert_eq!(desk.phase(), OperationPhase::PartlyDone);
    let failed = desk.stored.operations.last().unwrap().steps.iter().find(|step| step.state == StepState::Failed);
    assert_eq!(failed.map(|step| step.node.as_str()), Some("b"));
}

#[test]
fn a_shutdown_waits_for_a_worker_that_is_slow_and_gives_up_one_that_is_silent() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.deaf.insert(name("a"));
    desk.run(OperationKind::Shutdown, None);
    desk.settle();
    assert!(!desk.log.contains(&"power_off m".to_string()));
    desk.dies("a");
    desk.pass(SILENT_MS + 10_000);
    assert_eq!(desk.log.last().unwrap(), "power_off m");
    desk.settle();
    desk.restart();
    desk.boots("m");
    assert_eq!(desk.phase(), OperationPhase::PartlyDone);
}

#[test]
fn one_who_took_the_command_and_fell_silent_is_off() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.run(OperationKind::NodeShutdown, Some("a"));
    for _ in 0..2 {
        let (token, work) = desk.work();
        desk.kube_does(token, &work);
    }
    let off = desk.command(VerbName::PowerOff, "a");
    desk.result(&name("a"), &off, CommandStatus::InProgress, "stopping");
    desk.dies("a");
    desk.pass(5_000);
    assert_eq!(desk.phase(), OperationPhase::Running, "presence alone permits nothing");
    desk.pass(SILENT_MS);
    assert_eq!(desk.phase(), OperationPhase::Done);
    assert_eq!(desk.stored.slots, [name("a")], "and it is missing until it is back");
}

#[test]
fn mains_that_come_back_do_not_make_a_power_off() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.run(OperationKind::NodeShutdown, Some("a"));
    for _ in 0..2 {
        let (token, work) = desk.work();
        desk.kube_does(token, &work);
    }
    let off = desk.command(VerbName::PowerOff, "a");
    desk.result(&name("a"), &off, CommandStatus::InProgress, "stopping");
    desk.dies("a");
    desk.nodes.get_mut(&name("a")).unwrap().orderly = false;
    desk.boots("a");
    assert_eq!(desk.phase(), OperationPhase::Running);
    desk.result(&name("a"), &off, CommandStatus::Interrupted, "power");
    desk.pass(RETRY_MS);
    let again = desk.command(VerbName::PowerOff, "a");
    assert_ne!(again.id, off.id, "a new attempt is a new id");
}

#[test]
fn a_drained_node_stays_drained_and_an_operator_uncordons_it() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::NodeDrain, Some("a"));
    desk.settle();
    assert_eq!(desk.log, ["cordon a", "drain a"]);
    desk.pass(120_000);
    desk.restart();
    desk.all_speak();
    desk.look();
    desk.settle();
    assert!(desk.is_cordoned("a"));
    assert_eq!(desk.membership("a"), Membership::Cordoned);
    // it counts
    let refused = desk.run(OperationKind::NodeReboot, Some("b"));
    assert_eq!((refused.status, refused.code.as_str()), (ResponseStatus::Refused, "slot-held"));
    // a restart of itself does not open it
    desk.run(OperationKind::NodeReboot, Some("a"));
    desk.settle();
    assert_eq!((desk.phase(), desk.is_cordoned("a")), (OperationPhase::Done, true));
    desk.run(OperationKind::NodeUncordon, Some("a"));
    desk.settle();
    assert!(!desk.is_cordoned("a") && desk.stored.slots.is_empty());
    assert_eq!(desk.run(OperationKind::NodeUncordon, Some("a")).status, ResponseStatus::Unchanged);
}

#[test]
fn join_and_leave_of_one_node() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::NodeLeave, Some("a"));
    desk.settle();
    assert_eq!(desk.log, ["cordon a", "drain a", "stop a", "delete a", "reset a"]);
    assert_eq!(desk.phase(), OperationPhase::Done);
    assert!(desk.stored.slots.is_empty() && desk.stored.cordons.is_empty());
    assert_eq!(desk.run(OperationKind::NodeLeave, Some("a")).status, ResponseStatus::Unchanged);
    desk.log.clear();
    desk.run(OperationKind::NodeJoin, Some("a"));
    desk.settle();
    assert_eq!(desk.log, ["mint a", "join a"]);
    assert_eq!(desk.run(OperationKind::NodeJoin, Some("a")).status, ResponseStatus::Unchanged);
}

#[test]
fn a_node_that_registered_again_while_it_left_is_deleted_once_more() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.run(OperationKind::NodeLeave, Some("a"));
    while desk.log.last().unwrap() != "reset a" {
        if let Some((token, work)) = desk.works.pop() {
            desk.kube_does(token, &work);
        } else {
            let stop = desk.command(VerbName::Stop, "a");
            desk.obey(&name("a"), &stop);
        }
    }
    desk.view.nodes.push(KubeNode {
        node: name("a"),
        ready: Ready::Yes,
        scheduling: Scheduling::Open,
        boot: Some(boot(&name("a"), 2)),
        version: Text::new(),
    });
    desk.look();
    desk.settle();
    assert_eq!(desk.log.last().unwrap(), "delete a");
    assert!(desk.view.node(&name("a")).is_none());
}

#[test]
fn a_node_is_not_taken_for_gone_while_the_api_server_is_silent() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.run(OperationKind::NodeLeave, Some("a"));
    for _ in 0..2 {
        let (token, work) = desk.work();
        desk.kube_does(token, &work);
    }
    let stop = desk.command(VerbName::Stop, "a");
    desk.obey(&name("a"), &stop);
    desk.step(Event::Kube(KubeView::default()));
    desk.kube_fails("unreachable");
    desk.pass(10_000);
    assert!(!desk.log.contains(&"reset a".to_string()));
    desk.look();
    desk.works.drain(..).for_each(drop);
    desk.pass(120_000);
    assert!(!desk.log.contains(&"reset a".to_string()), "and it is still there");
}

#[test]
fn a_reset_of_a_member_needs_force_and_removes_its_node() {
    let mut desk = Desk::with_cluster(&["a"]);
    let refused = desk.run(OperationKind::NodeReset, Some("a"));
    assert_eq!((refused.status, refused.code.as_str()), (ResponseStatus::Refused, "node-is-member"));
    let refused = desk.run(OperationKind::NodeReset, Some("m"));
    assert_eq!(refused.code.as_str(), "master-has-cluster");
    desk.ask(Desk::want(OperationKind::NodeReset, Some("a"), Force::Yes), Mode::Execute);
    desk.settle();
    assert_eq!(desk.log, ["stop a", "delete a", "reset a"]);
    assert_eq!(desk.phase(), OperationPhase::Done);
}

#[test]
fn identify_runs_beside_anything() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.run(OperationKind::Rebuild, None);
    let answer = desk.run(OperationKind::NodeIdentify, Some("a"));
    assert_eq!(answer.status, ResponseStatus::Started);
    assert_eq!(desk.run(OperationKind::NodeIdentify, Some("a")).status, ResponseStatus::Unchanged);
    let identify = desk.command(VerbName::Identify, "a");
    desk.obey(&name("a"), &identify);
    assert_eq!(desk.stored.operations.len(), 1, "a local one is forgotten when it has ended");
}

// ---- requests

#[test]
fn a_second_operation_is_refused_with_the_name_of_the_first() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.run(OperationKind::Rebuild, None);
    let refused = desk.run(OperationKind::Reset, None);
    assert_eq!(refused.status, ResponseStatus::Refused);
    assert_eq!(refused.code.as_str(), "one-operation-at-a-time");
    assert!(refused.text.as_str().contains("rebuild") && refused.text.as_str().contains("r-2"), "{}", refused.text);
    assert_eq!(refused.operation.unwrap().as_str(), "r-2");
}

#[test]
fn an_unknown_node_is_named() {
    let mut desk = Desk::with_cluster(&["a"]);
    let answer = desk.run(OperationKind::NodeDrain, Some("z"));
    assert_eq!(answer.status, ResponseStatus::UnknownNode);
    assert!(answer.text.as_str().contains('z'));
    assert_eq!(desk.run(OperationKind::NodeDrain, None).status, ResponseStatus::Invalid);
}

#[test]
fn the_same_request_begins_once_however_often_it_comes() {
    let mut desk = Desk::new(&["a"]);
    let id: RequestId = "r-x".parse().unwrap();
    let create = || Desk::want(OperationKind::Create, None, Force::No);
    let first = desk.ask_as(id.clone(), create(), Mode::Execute);
    let again = desk.ask_as(id.clone(), create(), Mode::Execute);
    assert_eq!(again, first);
    desk.settle();
    desk.restart();
    desk.all_speak();
    desk.look();
    let later = desk.ask_as(id.clone(), create(), Mode::Execute);
    assert_eq!(later, first, "also after a restart, and after its end");
    assert_eq!(desk.stored.operations.len(), 1);
    // and when its answer was forgotten
    for _ in 0..ANSWERS {
        desk.run(OperationKind::NodeUncordon, Some("a"));
    }
    let forgotten = desk.ask_as(id, create(), Mode::Execute);
    assert_eq!(forgotten.status, ResponseStatus::Unchanged);
    assert_eq!(desk.stored.answers.len(), ANSWERS);
}

#[test]
fn what_names_another_session_begins_nothing() {
    let mut desk = Desk::new(&["a"]);
    let ask = || Desk::want(OperationKind::Create, None, Force::No);
    let of = |nonce: &str| ConsoleRequest {
        id: "r-x".parse().unwrap(),
        nonce: nonce.parse().unwrap(),
        mode: Mode::Execute,
        ask: ask(),
    };
    let console = |desk: &mut Desk, request: ConsoleRequest| {
        desk.step(Event::Console { user: "ops".parse().unwrap(), key: KEY, request });
        desk.answers.pop().unwrap()
    };
    let stale = console(&mut desk, of("another"));
    assert_eq!((stale.status, stale.code.as_str()), (ResponseStatus::Refused, "stale-nonce"));
    assert!(desk.stored.operations.is_empty());
    // signed again for this session, the same id begins
    let session = desk.core.session().nonce;
    assert_eq!(console(&mut desk, of(session.as_str())).status, ResponseStatus::Started);
    // a repeat is answered whatever it names
    assert_eq!(console(&mut desk, of("another")).status, ResponseStatus::Started);
    // the same id with another wish is no repeat
    let other = ConsoleRequest { ask: Desk::want(OperationKind::Reset, None, Force::Yes), ..of(session.as_str()) };
    let reused = console(&mut desk, other.clone());
    assert_eq!((reused.status, reused.code.as_str()), (ResponseStatus::Refused, "id-reused"));
    // and another key's request of that id is another request, which this operation excludes
    desk.step(Event::Console { user: "eve".parse().unwrap(), key: KeyId([9; 8]), request: other });
    assert_eq!(desk.answers.pop().unwrap().status, ResponseStatus::Unchanged);
    assert_eq!(desk.stored.operations.len(), 1);
}

#[test]
fn a_session_is_renewed_before_its_memory_is_full_and_never_forgets() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.renews = false;
    let first = desk.core.session();
    let mut ids = Vec::new();
    while desk.run(OperationKind::NodeUncordon, Some("a")).code.as_str() != "busy" {
        ids.push(format!("r-{}", desk.asked));
        assert!(ids.len() <= ANSWERS);
    }
    // nothing of this session makes room, so nothing new is taken; what was taken is still known
    assert_eq!(desk.stored.answers.len(), ANSWERS);
    let wish = Desk::want(OperationKind::NodeUncordon, Some("a"), Force::No);
    let again = desk.ask_as(ids[0].parse().unwrap(), wish.clone(), Mode::Execute);
    assert_eq!(again.status, ResponseStatus::Unchanged);
    desk.step(Event::Session("c-next".parse().unwrap()));
    assert_eq!(desk.core.session().number, first.number + 1);
    assert_eq!(desk.run(OperationKind::NodeUncordon, Some("a")).status, ResponseStatus::Unchanged);
    // what has left the memory names a session that is over
    let request = ConsoleRequest { id: "r-1".parse().unwrap(), nonce: first.nonce, mode: Mode::Execute, ask: wish };
    desk.step(Event::Console { user: "ops".parse().unwrap(), key: KEY, request });
    assert_eq!(desk.answers.pop().unwrap().code.as_str(), "stale-nonce");
}

#[test]
fn a_state_of_another_time_proves_nothing() {
    let mut desk = Desk::with_cluster(&["a"]);
    let blank = Played { cluster: None, lifecycle: Lifecycle::Blank, ..desk.nodes[&name("a")].clone() };
    desk.nodes.insert(name("a"), blank);
    let ours = desk.core.session();
    for heard in [
        None,
        Some(Session { number: ours.number - 1, ..ours.clone() }),
        Some(Session { term: ours.term + 1, ..ours.clone() }),
    ] {
        let before = desk.membership("a");
        let state = NodeState { heard, revision: 99, ..desk.state_of("a") };
        desk.step(Event::State { node: name("a"), state: Box::new(state) });
        assert_eq!((desk.membership("a"), before), (Membership::Ready, Membership::Ready));
    }
    desk.speak(&name("a"));
    assert_eq!(desk.membership("a"), Membership::Blank, "of this session it counts");
}

#[test]
fn a_command_keeps_the_session_of_its_first_sending() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.deaf.insert(name("a"));
    desk.ask(Desk::want(OperationKind::NodeIdentify, Some("a"), Force::No), Mode::Execute);
    let first = desk.command(VerbName::Identify, "a");
    // its agent starts again: another session
    desk.nodes.get_mut(&name("a")).unwrap().start += 1;
    desk.speak(&name("a"));
    desk.pass(SEND_AGAIN_MS + 1);
    let again = desk.command(VerbName::Identify, "a");
    assert_eq!((&again.id, &again.nonce), (&first.id, &first.nonce));
    // also after a restart of the coordinator
    desk.restart();
    desk.all_speak();
    desk.look();
    desk.pass(SEND_AGAIN_MS + 1);
    let again = desk.command(VerbName::Identify, "a");
    assert_eq!((&again.id, &again.nonce), (&first.id, &first.nonce));
    assert!(again.session > first.session);
    // the node says that it never ran and never will: another attempt for the session that it is in
    desk.result(&name("a"), &again, CommandStatus::Rejected, "stale-nonce");
    desk.pass(RETRY_MS + 1);
    let next = desk.command(VerbName::Identify, "a");
    assert_ne!(next.id, first.id);
    assert_eq!(next.nonce, session(&name("a"), desk.nodes[&name("a")].start));
}

#[test]
fn a_coordinator_from_an_old_backup_calls_off_what_it_had_under_way() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::Rebuild, None);
    let backup = desk.stored.clone();
    assert!(backup.active_exclusive().is_some());
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Done);
    desk.restart();
    let lived = desk.core.session();
    // months later somebody copies the old file back
    desk.stored = backup;
    desk.restart();
    let (number, before) = (desk.core.session().number, desk.log.len());
    assert!(number <= lived.number);
    let state = NodeState { heard: Some(lived.clone()), revision: 999, ..desk.state_of("a") };
    desk.step(Event::State { node: name("a"), state: Box::new(state) });
    assert!(desk.core.session().number > lived.number, "a session that nobody has heard of yet");
    assert!(desk.stored.active_exclusive().is_none(), "{:?}", desk.stored.operations);
    assert!(matches!(desk.phase(), OperationPhase::Failed | OperationPhase::Aborted | OperationPhase::PartlyDone));
    desk.all_speak();
    desk.look();
    desk.settle();
    let begun: Vec<_> = desk.log[before..].iter().filter(|what| what.contains("reset")).collect();
    assert!(begun.is_empty(), "{begun:?}");
    // a node that lies cannot push the number to its end
    let lie = Session { number: u64::MAX, ..desk.core.session() };
    let state = NodeState { heard: Some(lie), revision: 1_000, ..desk.state_of("a") };
    let ours = desk.core.session();
    desk.step(Event::State { node: name("a"), state: Box::new(state) });
    assert_eq!(desk.core.session(), ours);
}

#[test]
fn a_record_that_was_put_back_under_a_new_term_goes_on_with_nothing() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::Rebuild, None);
    let mut backup = desk.stored.clone();
    assert!(backup.active_exclusive().is_some());
    desk.settle();
    let before = desk.log.len();
    // its session is not behind anybody's: nodes compare sessions of one term alone
    backup.call_off(&Text::cut("put back"));
    backup.session += 100;
    desk.stored = backup;
    desk.restart();
    desk.all_speak();
    desk.look();
    desk.settle();
    assert!(desk.stored.active_exclusive().is_none(), "{:?}", desk.stored.operations);
    assert!(matches!(desk.phase(), OperationPhase::Failed | OperationPhase::Aborted | OperationPhase::PartlyDone));
    let begun: Vec<_> = desk.log[before..].iter().filter(|what| what.contains("reset")).collect();
    assert!(begun.is_empty(), "{begun:?}");
}

#[test]
fn a_wish_of_another_session_is_not_taken_up() {
    let mut desk = Desk::with_cluster(&["a"]);
    let wish = |desk: &Desk, id: &str, nonce: Option<Nonce>, session: Nonce| NodeRequest {
        id: id.parse().unwrap(),
        want: Want::PowerOff,
        deadline_ms: 1_000,
        reason: Text::cut("button"),
        boot: boot(&name("a"), desk.nodes[&name("a")].boots),
        session,
        nonce,
    };
    let now = session(&name("a"), desk.nodes[&name("a")].start);
    let ours = desk.core.session().nonce;
    let count = desk.stored.operations.len();
    for request in [
        wish(&desk, "n-1", None, now.clone()),
        wish(&desk, "n-1", Some("old".parse().unwrap()), now.clone()),
        wish(&desk, "n-1", Some(ours.clone()), "another".parse().unwrap()),
    ] {
        desk.step(Event::Request { node: name("a"), request });
        assert_eq!(desk.stored.operations.len(), count);
        assert!(desk.answered("a").is_empty());
    }
    let request = wish(&desk, "n-1", Some(ours.clone()), now.clone());
    desk.step(Event::Request { node: name("a"), request: request.clone() });
    assert_eq!(desk.stored.operations.len(), count + 1);
    let answers = desk.answered("a").len();
    // the same id with another wish
    desk.step(Event::Request { node: name("a"), request: NodeRequest { want: Want::Leave, ..request } });
    assert_eq!((desk.stored.operations.len(), desk.answered("a").len()), (count + 1, answers));
}

#[test]
fn a_dry_run_changes_nothing() {
    let mut desk = Desk::with_cluster(&["a"]);
    let before = desk.stored.clone();
    for (kind, steps) in [(OperationKind::Rebuild, 8), (OperationKind::Reboot, 10), (OperationKind::Shutdown, 3)] {
        let plan = desk.ask(Desk::want(kind, None, Force::No), Mode::DryRun);
        assert_eq!((plan.status, plan.plan.len()), (ResponseStatus::Planned, steps), "{kind}");
    }
    assert!(desk.log.is_empty());
    assert_eq!(desk.stored, before);
    assert!(!desk.last.iter().any(|action| matches!(action, Action::Store(_))));
    desk.run(OperationKind::Reboot, None);
    assert_eq!(desk.ask(Ask::Abort, Mode::DryRun).status, ResponseStatus::Planned);
    assert_eq!(desk.phase(), OperationPhase::Running);
}

#[test]
fn an_insecure_wire_destroys_nothing() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.destruction = Destruction::RefusedInsecureWire;
    desk.restart();
    desk.all_speak();
    desk.look();
    for (kind, node) in
        [(OperationKind::Rebuild, None), (OperationKind::Reset, None), (OperationKind::NodeLeave, Some("a"))]
    {
        let refused = desk.run(kind, node);
        assert_eq!((refused.status, refused.code.as_str()), (ResponseStatus::Refused, "insecure-wire"));
    }
    assert!(desk.log.is_empty());
    assert_eq!(desk.run(OperationKind::Reboot, None).status, ResponseStatus::Started);
}

#[test]
fn nothing_is_planned_from_ignorance() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.restart();
    desk.speak(&name("m"));
    let request = ConsoleRequest {
        id: "r-x".parse().unwrap(),
        nonce: desk.core.session().nonce,
        mode: Mode::Execute,
        ask: Desk::want(OperationKind::NodeDrain, Some("a"), Force::No),
    };
    let ask = |desk: &mut Desk| {
        desk.step(Event::Console { user: "ops".parse().unwrap(), key: KEY, request: request.clone() });
        desk.answers.pop().map(|answer| answer.status)
    };
    assert_eq!(ask(&mut desk), None);
    desk.press("a", Want::Reboot);
    assert!(desk.answered("a").is_empty());
    desk.all_speak();
    assert_eq!(ask(&mut desk), None, "Kubernetes has not answered");
    desk.look();
    assert_eq!(ask(&mut desk), Some(ResponseStatus::Started));
    // but nobody waits for ever for one who is not there
    desk.restart();
    desk.now += 5_000;
    desk.press("a", Want::Reboot);
    assert!(desk.answered("a").contains(&Answer::Wait));
}

#[test]
fn two_that_are_one_machine_do_not_both_join() {
    let marked = |marks: [Option<&'static str>; 3]| {
        let mut desk = Desk::new(&["a", "b"]);
        for (node, mark) in ["m", "a", "b"].into_iter().zip(marks) {
            desk.nodes.get_mut(&name(node)).unwrap().machine = mark;
        }
        desk.all_speak();
        desk
    };
    // one copied card anywhere, also the master's
    for marks in [[Some("1"), Some("2"), Some("2")], [Some("1"), Some("1"), None]] {
        let mut desk = marked(marks);
        let refused = desk.run(OperationKind::Create, None);
        assert_eq!((refused.status, refused.code.as_str()), (ResponseStatus::Refused, "duplicate-machine"));
        let text = refused.text.as_str();
        assert!(text.contains(" have one machine-id") && text.contains("systemd-machine-id-setup"), "{text}");
        desk.ask(Desk::want(OperationKind::Create, None, Force::Yes), Mode::Execute);
        desk.settle();
        assert_eq!(desk.phase(), OperationPhase::Done, "whoever insists gets it");
    }
    // who says nothing of it is nobody's twin
    for marks in [[None, None, None], [Some("1"), Some("2"), Some("3")], [Some("1"), None, None]] {
        let mut desk = marked(marks);
        desk.run(OperationKind::Create, None);
        desk.settle();
        assert_eq!(desk.phase(), OperationPhase::Done);
    }
    // it left, and came back with a copy of the other's card
    let mut desk = marked([Some("1"), Some("2"), Some("3")]);
    desk.run(OperationKind::Create, None);
    desk.settle();
    desk.run(OperationKind::NodeLeave, Some("b"));
    desk.settle();
    desk.nodes.get_mut(&name("b")).unwrap().machine = Some("2");
    desk.all_speak();
    assert_eq!(desk.run(OperationKind::NodeJoin, Some("b")).code.as_str(), "duplicate-machine");
    assert_eq!(desk.run(OperationKind::Rebuild, None).code.as_str(), "duplicate-machine");
}

// ---- cordons and slots

#[test]
fn a_cordon_of_others_is_left_alone() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.kube_node("a").scheduling = Scheduling::Cordoned;
    desk.look();
    assert_eq!(desk.membership("a"), Membership::CordonedByOthers);
    let refused = desk.run(OperationKind::NodeUncordon, Some("a"));
    assert_eq!(refused.code.as_str(), "cordoned-by-others");
    desk.run(OperationKind::Reboot, None);
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Done);
    assert!(!desk.log.contains(&"uncordon a".to_string()) && !desk.log.contains(&"cordon a".to_string()));
    assert!(desk.log.contains(&"reboot a".to_string()) && desk.is_cordoned("a"));
    assert!(desk.stored.slots.is_empty());
    desk.ask(Desk::want(OperationKind::NodeUncordon, Some("a"), Force::Yes), Mode::Execute);
    desk.settle();
    assert!(!desk.is_cordoned("a"));
}

/// The API server does not answer when the operator asks, so nobody can tell whose cordon it is.
#[test]
fn a_slot_is_freed_without_an_answer_and_a_cordon_of_others_stays() {
    let mut desk = slot_of_one_that_others_cordoned();
    let view = desk.api_server_goes();
    assert_eq!(desk.run(OperationKind::NodeUncordon, Some("a")).status, ResponseStatus::Started);
    assert_eq!(desk.phase(), OperationPhase::Done, "{:?}", desk.states());
    assert!(desk.stored.slots.is_empty());
    // asked again without a slot: nothing is ours, and nobody claims to know the rest
    let again = desk.run(OperationKind::NodeUncordon, Some("a"));
    assert_eq!(again.status, ResponseStatus::Unchanged);
    assert!(!again.text.as_str().contains("is not cordoned"), "{}", again.text);
    desk.view = view;
    desk.restart();
    desk.all_speak();
    desk.look();
    desk.pass(60_000);
    assert!(desk.log.is_empty() && desk.is_cordoned("a"), "{:?}", desk.log);
}

#[test]
fn a_slot_is_freed_under_a_cordon_of_others() {
    let mut desk = slot_of_one_that_others_cordoned();
    let reply = desk.run(OperationKind::NodeUncordon, Some("a"));
    assert_eq!(reply.status, ResponseStatus::Started);
    assert!(reply.text.as_str().contains("somebody else"), "{}", reply.text);
    assert_eq!(desk.phase(), OperationPhase::Done);
    assert!(desk.stored.slots.is_empty() && desk.log.is_empty(), "{:?}", desk.log);
    assert_eq!(desk.membership("a"), Membership::CordonedByOthers, "and it is told so");
    assert_eq!(desk.run(OperationKind::NodeUncordon, Some("a")).code.as_str(), "cordoned-by-others");
}

/// Whether it was forced is known after a restart too, and an operation of a record that does not say so was not.
#[test]
fn a_forced_uncordon_waits_for_the_api_server_and_opens_what_others_cordoned() {
    let mut desk = slot_of_one_that_others_cordoned();
    let view = desk.api_server_goes();
    desk.ask(Desk::want(OperationKind::NodeUncordon, Some("a"), Force::Yes), Mode::Execute);
    desk.kube_fails("unreachable");
    assert_eq!(desk.stored.operations.last().unwrap().heeds, Heeds::Nothing);
    let unforced = {
        let mut record = desk.stored.clone();
        record.operations.last_mut().unwrap().heeds = Heeds::default();
        record
    };
    let forced = core::mem::replace(&mut desk.stored, unforced);
    desk.log.clear();
    desk.restart();
    desk.all_speak();
    assert!(desk.log.is_empty() && desk.stored.slots.is_empty(), "{:?}", desk.log);
    desk.stored = forced;
    desk.restart();
    desk.all_speak();
    desk.view = view;
    desk.look();
    desk.settle();
    assert!(!desk.is_cordoned("a") && desk.stored.slots.is_empty());
    assert_eq!(desk.log, ["uncordon a"]);
}

/// What we cordoned is in the record, whatever Kubernetes says, and is opened as soon as it can be.
#[test]
fn our_own_cordon_is_opened_as_soon_as_the_api_server_answers() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::NodeDrain, Some("a"));
    desk.settle();
    let view = desk.api_server_goes();
    assert_eq!(desk.run(OperationKind::NodeUncordon, Some("a")).status, ResponseStatus::Started);
    desk.kube_fails("unreachable");
    assert_eq!((&desk.stored.slots, desk.stored.cordons.len()), (&vec![name("a")], 1), "it is cordoned, and counts");
    desk.view = view;
    desk.look();
    desk.pass(RETRY_MS);
    desk.settle();
    assert_eq!((desk.phase(), desk.is_cordoned("a")), (OperationPhase::Done, false));
    assert!(desk.stored.slots.is_empty() && desk.stored.cordons.is_empty());
}

/// Our cordon without a slot, that of a shutdown, is not taken for none because nobody answers.
#[test]
fn our_own_cordon_is_not_taken_for_none_while_the_api_server_is_silent() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::Shutdown, None);
    let (token, work) = desk.work();
    assert_eq!(work, KubeWork::Cordon(name("a")));
    desk.kube_does(token, &work);
    desk.settle();
    assert!(desk.stored.slots.is_empty() && desk.stored.cordons.iter().any(|cordon| cordon.node == name("a")));
    desk.restart();
    desk.boots("m");
    desk.boots("a");
    desk.pass(6_000);
    assert_eq!(desk.run(OperationKind::NodeUncordon, Some("a")).status, ResponseStatus::Started);
}

/// A crew in which `a` is away with a slot, and somebody else has cordoned it.
fn slot_of_one_that_others_cordoned() -> Desk {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.kube_node("a").scheduling = Scheduling::Cordoned;
    desk.look();
    desk.run(OperationKind::NodeShutdown, Some("a"));
    desk.settle();
    desk.not_ready("a");
    assert_eq!((&desk.stored.slots, desk.stored.cordons.len()), (&vec![name("a")], 0));
    desk.log.clear();
    desk
}

#[test]
fn a_failed_drain_is_undone_at_once() {
    for code in ["blocked-by-budget", "refused", "forbidden", "timed-out", "other-cluster"] {
        a_drain_that_fails_is_undone(code);
    }
}

fn a_drain_that_fails_is_undone(code: &'static str) {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::Reboot, None);
    let (token, work) = desk.work();
    desk.kube_does(token, &work);
    // what would be refused again is not tried again
    desk.kube_fails(code);
    assert_eq!(desk.phase(), OperationPhase::Failed, "{code}");
    assert_eq!(desk.log.last().unwrap(), "uncordon a");
    // also after a crash, and again until it comes off
    desk.restart();
    desk.all_speak();
    desk.look();
    desk.kube_fails("unreachable");
    desk.pass(6_000);
    desk.settle();
    assert!(!desk.is_cordoned("a") && desk.stored.cordons.is_empty() && desk.stored.slots.is_empty());
    assert!(!desk.log.contains(&"cordon b".to_string()), "nothing begins after an essential step has failed");
}

#[test]
fn no_drain_and_no_cordon_while_nobody_knows_who_is_cordoned() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.restart();
    desk.pass(6_000);
    desk.run(OperationKind::NodeReboot, Some("a"));
    desk.pass(10_000);
    assert!(desk.log.is_empty(), "{:?}", desk.log);
    desk.look();
    desk.pass(3_000);
    assert_eq!(desk.log, ["cordon a"]);
}

#[test]
fn a_dead_holder_keeps_its_slot_until_it_is_back() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::NodeReboot, Some("a"));
    for _ in 0..2 {
        let (token, work) = desk.work();
        desk.kube_does(token, &work);
    }
    let reboot = desk.command(VerbName::Reboot, "a");
    desk.result(&name("a"), &reboot, CommandStatus::InProgress, "stopping");
    desk.dies("a");
    desk.not_ready("a");
    desk.pass(limit_ms(StepKind::Reboot, 0) + 1_000);
    assert_eq!(desk.phase(), OperationPhase::Failed);
    desk.settle();
    assert_eq!((desk.is_cordoned("a"), &desk.stored.slots), (false, &vec![name("a")]));
    let refused = desk.run(OperationKind::Reboot, None);
    assert_eq!((refused.status, refused.code.as_str()), (ResponseStatus::Refused, "slot-held"));
    desk.restart();
    desk.all_speak();
    desk.look();
    assert_eq!(desk.stored.slots, [name("a")]);
    desk.boots("a");
    assert_eq!(desk.stored.slots, [name("a")], "Kubernetes has not seen it");
    desk.ready("a");
    assert!(desk.stored.slots.is_empty());
}

#[test]
fn an_operator_frees_the_slot_of_one_that_never_returns() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::NodeShutdown, Some("a"));
    desk.settle();
    assert_eq!((desk.phase(), desk.stored.slots.len()), (OperationPhase::Done, 1));
    desk.not_ready("a");
    desk.run(OperationKind::NodeUncordon, Some("a"));
    desk.settle();
    assert!(desk.stored.slots.is_empty() && desk.stored.cordons.is_empty());
}

// ---- the button

#[test]
fn a_press_is_never_refused_and_rolling_work_waits_for_it() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::Reboot, None);
    let id = desk.press("b", Want::PowerOff);
    assert_eq!(desk.answered("b"), [Answer::Wait]);
    assert_eq!(desk.stored.slots, [name("a"), name("b")], "over the limit, and counted");
    desk.press_as("b", Want::PowerOff, &id);
    assert_eq!(desk.stored.operations.len(), 2, "asked again: the same");
    desk.settle();
    assert!(desk.answered("b").is_empty());
    assert!(desk.log.contains(&"drain b".to_string()));
    desk.hands_over("b");
    desk.dies("b");
    desk.settle();
    // a is done; nothing new begins while b is away
    assert_eq!(desk.stored.slots, [name("b")]);
    assert!(!desk.log.contains(&"cordon m".to_string()));
    desk.pass(30_000);
    desk.boots("b");
    desk.ready("b");
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Done, "{:?}", desk.states());
    assert!(desk.stored.cordons.is_empty() && desk.stored.slots.is_empty());
}

#[test]
fn rolling_work_begins_no_other_node_while_one_is_away_by_a_press() {
    let mut desk = Desk::with_cluster(&["a", "b", "c"]);
    desk.run(OperationKind::Reboot, None);
    desk.press("c", Want::PowerOff);
    desk.settle();
    desk.hands_over("c");
    desk.dies("c");
    desk.pass(60_000);
    assert!(desk.log.contains(&"uncordon a".to_string()), "what had begun comes to its end");
    assert!(!desk.log.contains(&"cordon b".to_string()), "{:?}", desk.log);
    desk.boots("c");
    desk.ready("c");
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Done);
    assert!(desk.log.contains(&"reboot c".to_string()) && desk.stored.slots.is_empty());
}

#[test]
fn a_node_that_cannot_be_emptied_is_let_go_undrained() {
    let mut desk = Desk::with_cluster(&["a"]);
    let id = desk.press("a", Want::Reboot);
    let (token, work) = desk.work();
    desk.kube_does(token, &work);
    desk.kube_fails("blocked-by-budget");
    assert!(desk.answered("a").contains(&Answer::GoUndrained));
    desk.settle();
    desk.press_as("a", Want::Reboot, &id);
    assert_eq!(desk.answered("a"), [Answer::Go], "asked again after the end");
    assert!(desk.is_cordoned("a"), "until it is back");
    desk.boots("a");
    desk.ready("a");
    desk.settle();
    assert!(!desk.is_cordoned("a") && desk.stored.slots.is_empty());
}

#[test]
fn a_node_whose_agent_forgot_that_it_was_to_go_is_uncordoned() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.press("a", Want::Reboot);
    let (token, work) = desk.work();
    desk.kube_does(token, &work);
    desk.nodes.get_mut(&name("a")).unwrap().start += 1;
    desk.presence(&name("a"), Connection::Online);
    desk.speak(&name("a"));
    desk.settle();
    assert!(!desk.is_cordoned("a"), "{:?}", desk.stored.cordons);
}

#[test]
fn the_masters_button_pauses_what_runs_and_switches_the_crew_off() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.run(OperationKind::Rebuild, None);
    desk.command(VerbName::Snapshot, "m");
    desk.press("m", Want::PowerOff);
    let phases: Vec<_> = desk.stored.operations.iter().map(|held| (held.kind, held.phase)).collect();
    assert_eq!(
        phases,
        [(OperationKind::Rebuild, OperationPhase::Paused), (OperationKind::Shutdown, OperationPhase::Running)]
    );
    desk.settle();
    assert!(desk.log.contains(&"power_off a".to_string()));
    assert_eq!(desk.log.last().unwrap(), "answer m", "the master is let go last");
    let refused = desk.run(OperationKind::Reset, None);
    assert_eq!(refused.code.as_str(), "one-operation-at-a-time");
    assert!(refused.text.as_str().contains("paused"), "{}", refused.text);
    assert!(!desk.log.iter().any(|line| line.starts_with("reset")));
    // after the next start it goes on
    desk.dies("m");
    desk.restart();
    desk.boots("m");
    desk.boots("a");
    desk.ready("m");
    desk.settle();
    let rebuild = desk.stored.operations.iter().find(|held| held.kind == OperationKind::Rebuild).unwrap();
    assert_eq!(rebuild.phase, OperationPhase::Done);
}

#[test]
fn a_shutdown_that_runs_is_not_paused_by_the_masters_button() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.run(OperationKind::Shutdown, None);
    desk.press("m", Want::PowerOff);
    assert_eq!(desk.answered("m"), [Answer::Wait]);
    assert_eq!(desk.stored.operations.len(), 1);
    desk.settle();
    assert_eq!(desk.log.last().unwrap(), "power_off m");
}

#[test]
fn a_leave_by_button_waits_for_what_runs_and_then_begins() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::NodeReboot, Some("b"));
    let id = desk.press("a", Want::Leave);
    assert_eq!(desk.answered("a"), [Answer::Wait]);
    desk.settle();
    desk.press_as("a", Want::Leave, &id);
    assert_eq!(desk.answered("a"), [Answer::Go]);
    desk.settle();
    assert_eq!(desk.log.last().unwrap(), "reset a");
    let operation = desk.stored.operations.last().unwrap();
    assert_eq!((operation.kind, operation.phase), (OperationKind::NodeLeave, OperationPhase::Done));
}

/// Somebody stands there: it proceeds at once, over the limit.
#[test]
fn a_leave_by_button_waits_for_no_slot() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::NodeDrain, Some("b"));
    desk.settle();
    assert_eq!(desk.stored.slots, [name("b")]);
    desk.press("a", Want::Leave);
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Done, "{:?}", desk.states());
}

/// Nobody answered its wish to leave, so it reset itself; its Node stays behind, cordoned.
#[test]
fn a_node_that_left_by_itself_holds_no_slot() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.press("a", Want::Reboot);
    desk.settle();
    desk.hands_over("a");
    desk.dies("a");
    assert_eq!(desk.stored.slots, [name("a")]);
    let played = desk.nodes.get_mut(&name("a")).unwrap();
    (played.cluster, played.lifecycle) = (None, Lifecycle::Blank);
    desk.boots("a");
    assert!(desk.stored.slots.is_empty() && desk.stored.cordons.is_empty());
}

/// Nobody answered its wish to leave, and its own reset failed: it is in no cluster, and its Node is there and cordoned.
#[test]
fn an_operator_frees_the_slot_of_one_whose_reset_failed() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.press("a", Want::Reboot);
    desk.settle();
    desk.hands_over("a");
    desk.dies("a");
    let played = desk.nodes.get_mut(&name("a")).unwrap();
    (played.cluster, played.lifecycle) = (None, Lifecycle::Broken);
    desk.boots("a");
    assert_eq!(desk.stored.slots, [name("a")]);
    assert_eq!(desk.run(OperationKind::NodeUncordon, Some("a")).status, ResponseStatus::Started);
    desk.settle();
    assert!(desk.stored.slots.is_empty() && desk.stored.cordons.is_empty());
    assert_eq!(desk.run(OperationKind::NodeUncordon, Some("a")).code.as_str(), "not-a-member");
}

/// Kept by somebody, or long under way: it arrives when the node has been silent for so long that a new card could be in it.
#[test]
fn a_state_of_a_boot_that_has_ended_is_not_heard_again() {
    let mut desk = Desk::with_cluster(&["a"]);
    let kept = NodeState { lifecycle: Lifecycle::Blank, ..desk.state_of("a") };
    desk.dies("a");
    desk.boots("a");
    desk.dies("a");
    desk.quiet(2 * SILENT_MS);
    desk.step(Event::State { node: name("a"), state: Box::new(kept.clone()) });
    assert_eq!(desk.core.state_of(&name("a")).unwrap().boot, boot(&name("a"), 2));
    // another card's
    let fresh = NodeState { boot: boot(&name("a"), 9), ..kept };
    desk.step(Event::State { node: name("a"), state: Box::new(fresh) });
    assert_eq!(desk.core.state_of(&name("a")).unwrap().boot, boot(&name("a"), 9));
}

/// Its agent restarted, and forgot its wish, before the node was cordoned for it: the answer finds nobody who waits.
#[test]
fn a_node_that_no_longer_wants_to_go_is_opened_again() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.nodes.get_mut(&name("a")).unwrap().start = 2;
    desk.speak(&name("a"));
    desk.press("a", Want::Reboot);
    desk.commands.clear();
    for _ in 0..2 {
        let (token, work) = desk.work();
        desk.kube_does(token, &work);
    }
    let go = desk.command(VerbName::Answer, "a");
    assert!(desk.is_cordoned("a"));
    desk.result(&name("a"), &go, CommandStatus::Succeeded, "unchanged");
    desk.settle();
    assert!(!desk.is_cordoned("a"));
}

/// Its cordon may just be under way, and would come after the uncordon.
#[test]
fn a_node_that_is_being_emptied_is_not_opened() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.press("a", Want::Reboot);
    assert_eq!(desk.run(OperationKind::NodeUncordon, Some("a")).code.as_str(), "going-down");
    desk.settle();
    assert!(desk.is_cordoned("a"));
}

/// What waits for a slot must not keep an operator from freeing it.
#[test]
fn a_slot_is_freed_beside_what_waits_for_it() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::NodeDrain, Some("b"));
    desk.settle();
    let forced = Desk::want(OperationKind::NodeReboot, Some("a"), Force::Yes);
    desk.ask(forced, Mode::Execute);
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Running, "it waits for the slot of b");
    assert_eq!(desk.run(OperationKind::NodeUncordon, Some("a")).code.as_str(), "one-operation-at-a-time");
    assert_eq!(desk.run(OperationKind::NodeUncordon, Some("b")).status, ResponseStatus::Started);
    desk.settle();
    let reboot = desk.stored.operations.iter().find(|held| held.kind == OperationKind::NodeReboot).unwrap();
    assert_eq!(reboot.phase, OperationPhase::Done, "{:?}", reboot.steps);
    assert!(!desk.is_cordoned("b"));
}

#[test]
fn a_slot_is_not_waited_for_for_ever() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::NodeDrain, Some("b"));
    desk.settle();
    desk.ask(Desk::want(OperationKind::NodeReboot, Some("a"), Force::Yes), Mode::Execute);
    desk.pass(SLOT_WAIT_MS - 10_000);
    assert_eq!(desk.phase(), OperationPhase::Running);
    desk.pass(20_000);
    assert_eq!(desk.phase(), OperationPhase::Failed);
    assert!(desk.stored.operations.last().unwrap().steps[0].reason.as_str().contains("slot, held by b"));
}

/// Between the stop of an engine and the reset is no safe point: nothing would start it again.
#[test]
fn a_leave_that_is_called_off_after_its_stop_goes_on_to_its_end() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.run(OperationKind::NodeLeave, Some("a"));
    for _ in 0..2 {
        let (token, work) = desk.work();
        desk.kube_does(token, &work);
    }
    desk.ask(Ask::Abort, Mode::Execute);
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Done, "{:?}", desk.states());
    assert_eq!(desk.log.last().unwrap(), "reset a");
}

/// A leave that came no further than its stop, or a join that came half-way.
#[test]
fn create_brings_in_who_is_half_out_or_half_in() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    let mut stopped = desk.state_of("a");
    stopped.engine.run = EngineRun::Stopped;
    stopped.revision += 1;
    let mut half = desk.state_of("b");
    half.lifecycle = Lifecycle::Broken;
    half.revision += 1;
    desk.step(Event::State { node: name("a"), state: Box::new(stopped) });
    desk.step(Event::State { node: name("b"), state: Box::new(half) });
    desk.run(OperationKind::Create, None);
    let plan: Vec<String> = desk.states().iter().map(|(kind, node, _)| format!("{kind} {node}")).collect();
    let wanted = ["join a", "wait_ready a", "delete_node b", "reset b", "join b", "wait_ready b", "add_ons m"];
    assert_eq!(plan, wanted);
}

// ---- failure, abort, resume

#[test]
fn a_silent_node_fails_its_steps_and_the_rest_goes_on() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::Rebuild, None);
    desk.dies("b");
    desk.settle();
    assert!(!desk.log.contains(&"reset m".to_string()), "the master is reset last");
    desk.pass(SILENT_MS + 10_000);
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::PartlyDone);
    let lost: Vec<_> = desk.states().into_iter().filter(|step| step.2 != StepState::Done).collect();
    assert_eq!(
        lost,
        [
            (StepKind::Reset, "b".to_string(), StepState::Failed),
            (StepKind::Join, "b".to_string(), StepState::Skipped),
            (StepKind::WaitReady, "b".to_string(), StepState::Skipped)
        ]
    );
    // it comes back and is taken in by a resume
    desk.boots("b");
    assert_eq!(desk.membership("b"), Membership::Broken, "a member of a cluster that is no more");
    desk.log.clear();
    let resumed = desk.ask(Ask::Resume, Mode::Execute);
    assert_eq!(resumed.status, ResponseStatus::Started);
    desk.settle();
    assert_eq!(desk.log, ["reset b", "mint b", "join b"]);
    assert_eq!(desk.phase(), OperationPhase::Done);
}

#[test]
fn a_failed_step_is_tried_again_under_a_new_id_and_then_given_up() {
    let mut desk = Desk::new(&["a"]);
    desk.run(OperationKind::Create, None);
    let mut ids = BTreeSet::new();
    for attempt in 1..=ATTEMPTS {
        let command = desk.command(VerbName::Initialise, "m");
        assert!(ids.insert(command.id.clone()));
        desk.result(&name("m"), &command, CommandStatus::Failed, "disk");
        assert!(desk.commands.is_empty(), "not at once");
        desk.pass(RETRY_MS << attempt);
    }
    assert_eq!(desk.phase(), OperationPhase::Failed);
    assert!(!desk.log.contains(&"mint a".to_string()));
    let resumed = desk.ask(Ask::Resume, Mode::DryRun);
    assert_eq!((resumed.status, desk.phase()), (ResponseStatus::Planned, OperationPhase::Failed));
    desk.ask(Ask::Resume, Mode::Execute);
    let command = desk.command(VerbName::Initialise, "m");
    assert!(ids.insert(command.id.clone()), "no id is used twice");
    desk.obey(&name("m"), &command);
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Done);
}

#[test]
fn one_that_is_busy_is_asked_again_for_as_long_as_the_step_may_take() {
    let mut desk = Desk::new(&["a"]);
    desk.run(OperationKind::Create, None);
    for _ in 0..10 {
        let command = desk.command(VerbName::Initialise, "m");
        desk.result(&name("m"), &command, CommandStatus::Rejected, "busy");
        desk.pass(RETRY_MS);
    }
    assert_eq!(desk.phase(), OperationPhase::Running);
    let command = desk.command(VerbName::Initialise, "m");
    desk.result(&name("m"), &command, CommandStatus::Rejected, "insecure-wire");
    assert_eq!(desk.phase(), OperationPhase::Failed, "any other refusal is final");
}

#[test]
fn a_command_goes_out_again_under_its_id_until_it_is_answered() {
    let mut desk = Desk::new(&["a"]);
    desk.run(OperationKind::Create, None);
    let sent = |desk: &Desk| desk.last.iter().filter(|action| matches!(action, Action::Command { .. })).count();
    let first = desk.commands[0].1.clone();
    desk.now += SEND_AGAIN_MS;
    desk.step(Event::Tick);
    assert_eq!(sent(&desk), 1);
    assert_eq!(desk.commands[0].1.id, first.id);
    assert_eq!(desk.commands[0].1.expires_ms + SEND_AGAIN_MS, first.expires_ms);
    desk.result(&name("m"), &first, CommandStatus::Accepted, "accepted");
    desk.now += SEND_AGAIN_MS;
    desk.step(Event::Tick);
    assert_eq!(sent(&desk), 0, "seldom now");
    desk.now += SEND_AGAIN_ACCEPTED_MS;
    desk.step(Event::Tick);
    assert_eq!(sent(&desk), 1);
}

#[test]
fn an_abort_lets_what_runs_come_to_its_end_and_begins_nothing() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    assert_eq!(desk.ask(Ask::Abort, Mode::Execute).status, ResponseStatus::Unchanged);
    desk.run(OperationKind::Reboot, None);
    for _ in 0..2 {
        let (token, work) = desk.work();
        desk.kube_does(token, &work);
    }
    let reboot = desk.command(VerbName::Reboot, "a");
    assert_eq!(desk.ask(Ask::Abort, Mode::Execute).status, ResponseStatus::Started);
    assert_eq!(desk.phase(), OperationPhase::Aborting);
    desk.obey(&name("a"), &reboot);
    assert_eq!(desk.phase(), OperationPhase::Aborted);
    desk.settle();
    assert!(!desk.is_cordoned("a") && desk.stored.slots.is_empty());
    assert!(!desk.log.contains(&"cordon b".to_string()));
    // taken up again, what was restarted is not restarted again
    desk.log.clear();
    desk.ask(Ask::Resume, Mode::Execute);
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Done);
    assert!(!desk.log.contains(&"reboot a".to_string()) && desk.log.contains(&"reboot b".to_string()));
}

// ---- crash and store

#[test]
fn a_crash_at_any_step_goes_on_under_the_same_ids() {
    for kind in [OperationKind::Rebuild, OperationKind::Reboot, OperationKind::Reset] {
        let mut done = false;
        let mut crash_at = 0;
        while !done {
            let mut desk = Desk::with_cluster(&["a", "b"]);
            desk.run(kind, None);
            let mut count = 0;
            done = true;
            for _ in 0..400 {
                if count == crash_at {
                    let ids: BTreeSet<_> = desk.commands.iter().map(|held| held.1.id.clone()).collect();
                    desk.restart();
                    desk.all_speak();
                    desk.look();
                    for (_, command) in &desk.commands {
                        // a join's credential is not kept, so that one is another attempt
                        let kept = ids.contains(&command.id) || command.verb.name() == VerbName::Join;
                        assert!(kept, "{kind} {}", command.id);
                    }
                    done = false;
                }
                count += 1;
                if let Some((token, work)) = desk.works.pop() {
                    desk.kube_does(token, &work);
                } else if !desk.commands.is_empty() {
                    let (node, command) = desk.commands.remove(0);
                    desk.obey(&node, &command);
                } else if desk.phase().is_final() {
                    break;
                } else {
                    desk.pass(1_000);
                }
            }
            assert_eq!(desk.phase(), OperationPhase::Done, "{kind}, crash after {crash_at}");
            assert!(desk.stored.cordons.is_empty() && desk.stored.slots.is_empty());
            done |= count <= crash_at;
            crash_at += 1;
        }
        assert!(crash_at > 3);
    }
}

#[test]
fn what_could_not_be_stored_is_stored_before_anything_else() {
    let mut desk = Desk::with_cluster(&["a"]);
    let id: RequestId = "r-x".parse().unwrap();
    let ask = Desk::want(OperationKind::NodeDrain, Some("a"), Force::No);
    let now = Instant::from_ms(desk.now);
    let request = ConsoleRequest { id, nonce: desk.core.session().nonce, mode: Mode::Execute, ask };
    let actions = desk.core.step(now, Event::Console { user: "ops".parse().unwrap(), key: KEY, request });
    assert!(matches!(actions[0], Action::Store(_)));
    let asked = |actions: &[Action]| actions.iter().filter(|action| matches!(action, Action::Kube { .. })).count();
    assert_eq!(asked(&actions), 1);
    for _ in 0..3 {
        assert!(desk.core.step(now, Event::StoreFailed).is_empty());
        assert_eq!(desk.core.next_deadline(now), now.plus_ms(1_000));
        let actions = desk.core.step(now, Event::Tick);
        assert!(
            matches!(&actions[0], Action::Store(record) if record.operations.iter().any(|held| held.id.as_str() == "r-x"))
        );
        assert_eq!(asked(&actions), 1, "held until it is stored, and not doubled");
        let told = actions.iter().filter(|action| matches!(action, Action::Operation(_))).count();
        assert_eq!(told, 1);
    }
    // stored at last
    let actions = desk.core.step(now, Event::Tick);
    assert_eq!((asked(&actions), actions.iter().any(|action| matches!(action, Action::Store(_)))), (0, false));
}

/// Its end was held until it was stored; with it the next one began, and then the coordinator died.
#[test]
fn an_end_that_could_not_be_stored_at_once_is_told_after_a_crash() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    let drain = desk.run(OperationKind::NodeDrain, Some("a")).operation.unwrap();
    let (token, work) = desk.work();
    desk.kube_does(token, &work);
    let (token, _) = desk.work();
    let now = Instant::from_ms(desk.now);
    let actions = desk.core.step(now, Event::KubeEnded { token, outcome: Ok(KubeDone::Done) });
    assert!(matches!(actions[0], Action::Store(_)));
    assert!(desk.core.step(now, Event::StoreFailed).is_empty());
    desk.press("b", Want::Leave);
    assert_eq!(desk.stored.operations.last().unwrap().kind, OperationKind::NodeLeave);
    desk.restart();
    let told = desk.last.iter().filter_map(|action| match action {
        Action::Operation(summary) => Some((summary.id.clone(), summary.phase)),
        _ => None,
    });
    let told: Vec<_> = told.collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[0], (drain, OperationPhase::Done));
    // and it is forgotten when the next one ends
    desk.all_speak();
    desk.look();
    desk.pass(60_000);
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Done, "{:?}", desk.states());
    assert_eq!(desk.stored.operations.len(), 1);
}

// ---- what is heard

#[test]
fn a_will_of_an_earlier_connection_counts_for_nothing() {
    let mut desk = Desk::with_cluster(&["a"]);
    let a = name("a");
    let say = |desk: &mut Desk, status, start, connection| {
        let presence = Presence { status, start, connection, reason: Text::new() };
        desk.step(Event::Presence { node: name("a"), presence });
    };
    let online = |desk: &Desk| desk.core.is_online(Instant::from_ms(desk.now), &a);
    say(&mut desk, Connection::Online, 1, 4);
    say(&mut desk, Connection::Offline, 1, 3);
    assert!(online(&desk));
    say(&mut desk, Connection::Offline, 1, 4);
    assert!(!online(&desk));
    // the word of its return was lost: who speaks long after that is there
    desk.speak(&a);
    assert!(!online(&desk), "this may have been said before");
    desk.now += BACK_AFTER_MS;
    desk.speak(&a);
    assert!(online(&desk));
    // the will was lost: who says nothing is not
    desk.quiet(SILENT_MS);
    assert!(!online(&desk));
    assert_eq!(desk.membership("a"), Membership::Lost);
}

#[test]
fn a_coordinator_that_slept_takes_nobody_for_silent() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.now += 10 * SILENT_MS;
    desk.step(Event::Tick);
    assert!(desk.core.is_online(Instant::from_ms(desk.now), &name("a")), "nobody could be heard meanwhile");
    desk.quiet(SILENT_MS);
    assert_eq!(desk.membership("a"), Membership::Lost, "and now somebody could");
}

#[test]
fn an_older_state_does_not_replace_a_newer_one() {
    let mut desk = Desk::with_cluster(&["a"]);
    let old = desk.core.state_of(&name("a")).unwrap().clone();
    desk.boots("a");
    desk.step(Event::State { node: name("a"), state: Box::new(old.clone()) });
    assert_eq!(desk.core.state_of(&name("a")).unwrap().boot, boot(&name("a"), 2));
    // a new card counts from one again
    desk.quiet(SILENT_MS);
    let another = NodeState { boot: boot(&name("a"), 9), ..old };
    desk.step(Event::State { node: name("a"), state: Box::new(another) });
    assert_eq!(desk.core.state_of(&name("a")).unwrap().boot, boot(&name("a"), 9));
}

#[test]
fn strangers_cannot_grow_the_crew_without_bound() {
    let mut desk = Desk::new(&["a"]);
    for number in 0..(2 * MAX_NODES) {
        let presence = Presence { status: Connection::Online, start: 1, connection: 1, reason: Text::new() };
        desk.step(Event::Presence { node: name(&format!("s{number}")), presence });
    }
    assert_eq!(desk.stored.known.len(), MAX_NODES);
    assert_eq!(desk.core.seen.len(), MAX_NODES);
}

#[test]
fn a_crew_larger_than_the_wire_shows_is_worked_on_as_a_whole() {
    let workers: Vec<String> = (0..2 * MAX_NODES).map(|number| format!("w{number:03}")).collect();
    let workers: Vec<&str> = workers.iter().map(String::as_str).collect();
    let mut desk = Desk::with_cluster(&workers);
    assert_eq!(desk.view.nodes.len(), workers.len() + 1);
    let state = |desk: &Desk| desk.core.state(Instant::from_ms(desk.now));
    assert_eq!((state(&desk).phase, state(&desk).members.len()), (ClusterPhase::Ready, MAX_NODES));
    // one that is not shown counts all the same
    let last = *workers.last().unwrap();
    assert!(state(&desk).members.iter().all(|member| member.node.as_str() != last));
    desk.not_ready(last);
    assert_eq!(state(&desk).phase, ClusterPhase::Degraded);
    // and a stranger has no place
    let presence = Presence { status: Connection::Online, start: 1, connection: 1, reason: Text::new() };
    desk.step(Event::Presence { node: name("stranger"), presence });
    assert_eq!(desk.stored.known.len(), workers.len() + 1);
}

#[test]
fn what_a_node_waits_for_is_told_while_no_step_changes() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.deaf.insert(name("a"));
    assert_eq!(desk.run(OperationKind::NodeIdentify, Some("a")).status, ResponseStatus::Started);
    let revision = |desk: &Desk| desk.core.record().operations.last().unwrap().revision;
    let before = revision(&desk);
    desk.dies("a");
    assert_eq!(revision(&desk), before, "no step has changed");
    let reports: Vec<_> = desk
        .last
        .iter()
        .filter_map(|action| match action {
            Action::OperationNode(report) => Some((report.node.as_str(), report.reason.as_str())),
            _ => None,
        })
        .collect();
    assert_eq!(reports, [("a", "waits for the node, which is not connected")]);
}

#[test]
fn how_far_a_drain_is_is_told_in_its_step_and_only_while_it_runs() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::Reboot, None);
    let (token, work) = desk.work();
    desk.kube_does(token, &work);
    let told = |desk: &mut Desk, node: &str, text: &str| {
        desk.step(Event::Draining { node: name(node), progress: Text::cut(text) });
        desk.last.iter().find_map(|action| match action {
            Action::OperationNode(report) => Some((report.node.to_string(), report.reason.to_string())),
            _ => None,
        })
    };
    let wanted = Some(("a".to_string(), "1 of 3 pods gone, 2 ending".to_string()));
    assert_eq!(told(&mut desk, "a", "1 of 3 pods gone, 2 ending"), wanted);
    assert_eq!(told(&mut desk, "a", "1 of 3 pods gone, 2 ending"), None, "it was told already");
    assert_eq!(told(&mut desk, "b", "0 of 1 pods gone, 0 ending"), None, "nothing drains b for us");
    // what failed says it itself, and the next attempt begins with nothing
    desk.kube_fails("unreachable");
    assert_eq!(told(&mut desk, "a", "2 of 3 pods gone, 1 ending"), None);
}

#[test]
fn nothing_grows_with_the_number_of_operations() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    for _ in 0..20 {
        desk.run(OperationKind::Reboot, None);
        desk.settle();
        desk.run(OperationKind::NodeIdentify, Some("a"));
        desk.settle();
        desk.press("a", Want::Reboot);
        desk.settle();
        desk.boots("a");
        desk.ready("a");
        desk.settle();
    }
    assert!(desk.stored.ended.len() <= ENDED_OPERATIONS);
    assert_eq!(desk.stored.operations.len(), 1);
    assert!(desk.core.live.is_empty() && desk.core.kube_owners.is_empty() && desk.core.mending.is_empty());
    assert!(desk.core.told.sizes().iter().all(|size| *size <= ENDED_OPERATIONS + 1), "{:?}", desk.core.told.sizes());
}

#[test]
fn it_wakes_for_its_heartbeat_and_no_more_often_when_nothing_happens() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.all_speak();
    let now = Instant::from_ms(desk.now);
    let actions = desk.core.step(now.plus_ms(HEARTBEAT_MS), Event::Tick);
    assert!(matches!(actions.as_slice(), [Action::State(_)]), "{actions:?}");
    let next = desk.core.next_deadline(now.plus_ms(HEARTBEAT_MS));
    assert_eq!(next, now.plus_ms(2 * HEARTBEAT_MS));
}

// ---- versions of the protocol

/// The version of the last command to a node.
fn told_in(desk: &Desk, node: &str) -> Option<ProtocolVersion> {
    desk.last.iter().rev().find_map(|action| match action {
        Action::Command { node: to, version, .. } if *to == name(node) => Some(*version),
        _ => None,
    })
}

fn speaks_in(desk: &mut Desk, node: &str, version: ProtocolVersion) {
    desk.nodes.get_mut(&name(node)).unwrap().revision += 1;
    let state = NodeState { speaks: SpokenVersion::said_by(version), ..desk.state_of(node) };
    desk.step(Event::State { node: name(node), state: Box::new(state) });
}

fn wants(desk: &mut Desk, kind: OperationKind, node: Option<&str>, force: Force) -> ConsoleResponse {
    desk.ask(Desk::want(kind, node, force), Mode::Execute)
}

fn says_state(desk: &Desk) -> bool {
    desk.last.iter().any(|action| matches!(action, Action::State(_)))
}

#[test]
fn everybody_is_told_in_its_own_version_and_all_in_what_all_read() {
    use ProtocolVersion::{V1, V2};
    let mut desk = Desk::with_cluster(&["a", "b"]);
    assert_eq!(desk.core.broadcast_version(), V2, "every member was heard in it");
    speaks_in(&mut desk, "a", V1);
    assert_eq!((desk.core.version_of(&name("a")), desk.core.version_of(&name("b"))), (V1, V2));
    assert_eq!(desk.core.broadcast_version(), V1);
    assert!(says_state(&desk), "whoever cannot read the last state waits for no heartbeat");
    for (node, version) in [("a", V1), ("b", V2)] {
        wants(&mut desk, OperationKind::NodeIdentify, Some(node), Force::No);
        assert_eq!(told_in(&desk, node), Some(version));
        desk.settle();
    }
    let shown = desk.core.state(Instant::from_ms(desk.now));
    assert_eq!(shown.speaks, Some(SpokenVersion(2)));
    let speaks = |node: &str| shown.members.iter().find(|member| member.node == name(node)).unwrap().speaks;
    assert_eq!((speaks("a"), speaks("b")), (None, Some(SpokenVersion(2))));
    speaks_in(&mut desk, "a", V2);
    assert_eq!(desk.core.broadcast_version(), V2);
}

#[test]
fn whoever_was_not_heard_yet_is_spoken_to_in_the_version_before() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.restart();
    assert_eq!(desk.core.broadcast_version(), ProtocolVersion::BEFORE, "nobody was heard by this coordinator");
    speaks_in(&mut desk, "a", ProtocolVersion::CURRENT);
    assert_eq!(desk.core.version_of(&name("a")), ProtocolVersion::CURRENT);
    assert_eq!(desk.core.broadcast_version(), ProtocolVersion::BEFORE, "the others may not read it");
}

#[test]
fn a_lower_version_is_believed_at_once_and_a_higher_one_only_with_evidence() {
    use ProtocolVersion::{V1, V2};
    let mut desk = Desk::with_cluster(&["a"]);
    // set back to the program before, on a card that has heard of nobody: it reads no state of ours, and so names none
    let unheard = |version| NodeState {
        heard: None,
        start: 0,
        revision: 0,
        speaks: SpokenVersion::said_by(version),
        ..desk.state_of("a")
    };
    let (low, high) = (unheard(V1), unheard(V2));
    desk.step(Event::State { node: name("a"), state: Box::new(low) });
    assert_eq!(desk.core.broadcast_version(), V1);
    assert!(says_state(&desk));
    // and one that is no evidence raises nothing
    desk.step(Event::State { node: name("a"), state: Box::new(high) });
    assert_eq!(desk.core.version_of(&name("a")), V1);
}

#[test]
fn an_operation_that_a_node_does_not_understand_is_refused_by_name() {
    use ProtocolVersion::{V1, V2};
    let mut desk = Desk::with_cluster(&["a", "b"]);
    // as if a reboot were new
    desk.core.since = |verb| if verb == VerbName::Reboot { V2 } else { V1 };
    speaks_in(&mut desk, "b", V1);
    let refused = wants(&mut desk, OperationKind::Reboot, None, Force::Yes);
    assert_eq!((refused.status, refused.code.as_str()), (ResponseStatus::Refused, "protocol-version"));
    let text = refused.text.as_str();
    assert_eq!(text, "b speaks protocol version 1, and reboot needs 2; upgrade beehive there first");
    assert!(desk.stored.operations.iter().all(|held| held.kind != OperationKind::Reboot));
    assert_eq!(
        wants(&mut desk, OperationKind::NodeReboot, Some("a"), Force::No).status,
        ResponseStatus::Started,
        "it does"
    );
    desk.settle();
}

#[test]
fn a_verb_that_a_node_understands_no_more_is_not_sent_and_its_step_says_why() {
    use ProtocolVersion::{V1, V2};
    let mut desk = Desk::with_cluster(&["a"]);
    desk.core.since = |verb| if verb == VerbName::Identify { V2 } else { V1 };
    wants(&mut desk, OperationKind::NodeIdentify, Some("a"), Force::No);
    assert_eq!(told_in(&desk, "a"), Some(V2));
    speaks_in(&mut desk, "a", V1);
    let reason = desk.last.iter().find_map(|action| match action {
        Action::OperationNode(report) => Some(report.reason.to_string()),
        _ => None,
    });
    assert_eq!(
        reason.as_deref(),
        Some("a speaks protocol version 1, and identify needs 2; upgrade beehive there first"),
        "people see why"
    );
    desk.now += SEND_AGAIN_MS;
    desk.step(Event::Tick);
    assert_eq!(told_in(&desk, "a"), None);
}

#[test]
fn a_version_that_nobody_here_speaks_is_shown_and_refused_but_only_of_whoever_is_not_heard() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    let unspoken = |desk: &mut Desk| desk.step(Event::Unspoken { node: name("a"), version: SpokenVersion(3) });
    let speaks = |desk: &Desk| {
        let shown = desk.core.state(Instant::from_ms(desk.now));
        shown.members.iter().find(|member| member.node == name("a")).unwrap().speaks
    };
    // somebody makes that up: a is heard
    unspoken(&mut desk);
    assert_eq!(speaks(&desk), Some(SpokenVersion(2)));
    desk.quiet(SILENT_MS);
    unspoken(&mut desk);
    assert_eq!(speaks(&desk), Some(SpokenVersion(3)));
    let told = |desk: &Desk| desk.last.iter().filter(|action| matches!(action, Action::Tell(_))).count();
    assert_eq!(told(&desk), 1);
    unspoken(&mut desk);
    assert_eq!(told(&desk), 0, "told once");
    for node in ["b", "m"] {
        desk.speak(&name(node));
    }
    let refused = wants(&mut desk, OperationKind::NodeIdentify, Some("a"), Force::No);
    assert_eq!(refused.code.as_str(), "protocol-version");
    assert!(refused.text.as_str().contains("a writes in protocol version 3"), "{}", refused.text);
    desk.speak(&name("a"));
    assert_eq!(speaks(&desk), Some(SpokenVersion(2)));
    // strangers are not kept
    desk.step(Event::Unspoken { node: name("zz"), version: SpokenVersion(3) });
    assert!(desk.core.unspoken.is_empty());
}

#[test]
fn a_coordinator_of_the_version_before_says_and_sends_nothing_newer() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.core.config.speaks = ProtocolVersion::V1;
    speaks_in(&mut desk, "a", ProtocolVersion::V1);
    assert_eq!(desk.core.broadcast_version(), ProtocolVersion::V1);
    let shown = desk.core.state(Instant::from_ms(desk.now));
    assert!(shown.speaks.is_none() && shown.members.iter().all(|member| member.speaks.is_none()));
}

// ---- a way into the cluster

fn kubeconfig() -> Ask {
    use beehive_mqtt::sign::{ClientKey, ClientProof, SealKey};
    Ask::Kubeconfig { seal: SealKey([1; 32]), client: ClientKey([2; 65]), proof: ClientProof([3; 64]) }
}

/// Asks, and is not answered at once unless something is wrong.
fn asks_for_access(desk: &mut Desk, id: &str, mode: Mode) -> Option<ConsoleResponse> {
    let request = ConsoleRequest { id: id.parse().unwrap(), nonce: desk.core.session().nonce, mode, ask: kubeconfig() };
    desk.step(Event::Console { user: "ops".parse().unwrap(), key: KEY, request });
    desk.answers.pop()
}

fn certified(desk: &mut Desk, outcome: Result<SealedAccess, KubeError>) -> Option<ConsoleResponse> {
    let (user, key, request) = desk.certifies.pop().unwrap();
    desk.step(Event::Certified { user, key, request, outcome });
    desk.answers.pop()
}

#[test]
fn a_certificate_is_issued_once_and_its_answer_given_as_often_as_it_is_asked_for() {
    let mut desk = Desk::with_cluster(&["a"]);
    for _ in 0..3 {
        assert_eq!(asks_for_access(&mut desk, "k-1", Mode::Execute), None);
    }
    assert_eq!(desk.certifies.len(), 1, "it is under way");
    let sealed = SealedAccess::new(b"sealed");
    let answer = certified(&mut desk, Ok(sealed.clone())).unwrap();
    assert_eq!((answer.status, answer.code.as_str()), (ResponseStatus::Done, "certified"));
    assert_eq!(answer.sealed.as_ref(), Some(&sealed));
    assert_eq!(asks_for_access(&mut desk, "k-1", Mode::Execute).as_ref(), Some(&answer));
    assert_eq!(desk.certifies.len(), 0);
    // it is not on the card
    desk.restart();
    let again = asks_for_access(&mut desk, "k-1", Mode::Execute).unwrap();
    assert_eq!((again.status, again.sealed), (ResponseStatus::Done, None));
    assert_eq!(desk.certifies.len(), 0);
}

#[test]
fn only_the_last_few_sealed_answers_are_kept() {
    let mut desk = Desk::with_cluster(&["a"]);
    for number in 0..=SEALED {
        asks_for_access(&mut desk, &format!("k-{number}"), Mode::Execute);
        certified(&mut desk, Ok(SealedAccess::new(&[7]))).unwrap();
    }
    assert_eq!(asks_for_access(&mut desk, "k-0", Mode::Execute).unwrap().sealed, None);
    for number in 1..=SEALED {
        assert!(asks_for_access(&mut desk, &format!("k-{number}"), Mode::Execute).unwrap().sealed.is_some());
    }
}

#[test]
fn a_certificate_is_refused_where_there_is_no_cluster_and_beyond_a_few_at_a_time() {
    let mut desk = Desk::new(&["a"]);
    let refused = asks_for_access(&mut desk, "k-1", Mode::Execute).unwrap();
    assert_eq!((refused.status, refused.code.as_str()), (ResponseStatus::Refused, "no-cluster"));
    let mut desk = Desk::with_cluster(&["a"]);
    let planned = asks_for_access(&mut desk, "k-1", Mode::DryRun).unwrap();
    assert_eq!(planned.status, ResponseStatus::Planned);
    for number in 0..CERTIFYING {
        assert_eq!(asks_for_access(&mut desk, &format!("k-{number}"), Mode::Execute), None);
    }
    assert_eq!(desk.certifies.len(), CERTIFYING);
    let refused = asks_for_access(&mut desk, "k-more", Mode::Execute).unwrap();
    assert_eq!((refused.status, refused.code.as_str()), (ResponseStatus::Refused, "busy"));
}

#[test]
fn a_certificate_that_was_not_issued_is_answered_with_the_reason() {
    let mut desk = Desk::with_cluster(&["a"]);
    asks_for_access(&mut desk, "k-1", Mode::Execute);
    let error = KubeError { code: "no-api", reason: Text::cut("the simulated engine has no API") };
    let answer = certified(&mut desk, Err(error)).unwrap();
    assert_eq!((answer.status, answer.code.as_str(), answer.sealed), (ResponseStatus::Failed, "no-api", None));
    assert_eq!(answer.text.as_str(), "the simulated engine has no API");
}

#[test]
fn an_answer_that_does_not_come_is_asked_for_anew_and_one_that_comes_late_counts_once() {
    let mut desk = Desk::with_cluster(&["a"]);
    asks_for_access(&mut desk, "k-1", Mode::Execute);
    desk.pass(CERTIFY_MS);
    assert_eq!(asks_for_access(&mut desk, "k-1", Mode::Execute), None);
    assert_eq!(desk.certifies.len(), 2);
    let first = certified(&mut desk, Ok(SealedAccess::new(&[1]))).unwrap();
    assert_eq!(certified(&mut desk, Ok(SealedAccess::new(&[2]))), None, "it was answered");
    assert_eq!(asks_for_access(&mut desk, "k-1", Mode::Execute), Some(first));
}

#[test]
fn what_was_dropped_with_a_store_that_failed_is_asked_for_again() {
    let mut desk = Desk::with_cluster(&["a"]);
    asks_for_access(&mut desk, "k-1", Mode::Execute);
    desk.step(Event::StoreFailed);
    desk.pass(2_000);
    assert_eq!(asks_for_access(&mut desk, "k-1", Mode::Execute), None);
    assert_eq!(desk.certifies.len(), 2);
}
