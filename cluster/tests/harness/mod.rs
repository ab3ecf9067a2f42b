//! A small crew in one thread: the real cores and the real codec; broker, engines, power and Kubernetes are simulated, and
//! so is time. One seed decides everything, so a seed replays exactly.
//!
//! What is asserted reads the simulated world (power, engines, Kubernetes, who ran what) and the wire, never the cores.

mod broker;
mod kube;
mod pi;
mod sign;

use beehive_cluster::coordinator::{self, Coordinator, CoordinatorConfig, CoordinatorRecord, FirstSession};
use beehive_cluster::kube::Scheduling;
use beehive_cluster::node::Press;
use beehive_cluster::{Destruction, Instant};
use beehive_mqtt::command::{Command, SealContext, Verb};
use beehive_mqtt::console::{Ask, ConsoleRequest, ConsoleResponse, Force, Mode};
use beehive_mqtt::coordinator::{CoordinatorState, OperationKind, OperationPhase, OperationSummary, Session};
use beehive_mqtt::node::{CommandResult, NodeRequest, NodeState, PowerGoal, Presence};
use beehive_mqtt::{ClusterId, CommandId, NodeName, Nonce, RequestId, Text, Topic, UserName, decode};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sign::{Fnv, signed};

pub(crate) use kube::Kube;
pub(crate) use pi::{Kept, Pi};

/// What may go wrong, each in parts of a thousand.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    /// A message is lost.
    pub(crate) loss: u64,
    /// A message arrives twice.
    pub(crate) duplicate: u64,
    /// A message takes up to three seconds, so that others overtake it.
    pub(crate) delay: u64,
    /// A message that was sent once, however long ago, arrives again.
    pub(crate) replay: u64,
    /// A step of an engine fails.
    pub(crate) engine: u64,
    /// A piece of work of the API server fails.
    pub(crate) kube: u64,
    /// Storing fails.
    pub(crate) store: u64,
    /// A core dies between two of its actions.
    pub(crate) crash: u64,
    /// Every few seconds something dies: an agent, a Pi, the coordinator.
    pub(crate) disasters: bool,
}

/// Splitmix64: small, and the same everywhere.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }
    pub(crate) fn hits(&mut self, per_mille: u64) -> bool {
        per_mille > 0 && self.below(1000) < per_mille
    }
}

/// What happens next in the world.
#[derive(Debug, Clone)]
pub(crate) enum Happening {
    /// A message arrives at whoever subscribed to it.
    Arrives(Topic, Vec<u8>),
    /// The coordinator's state arrives at a node.
    Hears(usize, u32, Session),
    NodeTick(usize, u32),
    Heartbeat(usize, u32),
    EngineEnds(usize, u32, pi::Job),
    PowerTimer(usize, u32, u32),
    Boots(usize, u32),
    AgentStarts(usize, u32),
    /// The broker notices that a connection is dead.
    Will(usize, u32, u32),
    Reconnects(usize, u32),
    CoordinatorTick(u32),
    CoordinatorStarts(u32),
    KubeEnds(u32, u64, beehive_cluster::kube::KubeWork),
    KubeLook,
    ConsoleAsks(RequestId),
    Disaster,
}

/// The whole world.
pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) random: Random,
    pub(crate) faults: Faults,
    pub(crate) pis: Vec<Pi>,
    pub(crate) kube: Kube,
    pub(crate) coordinator: Option<Coordinator>,
    pub(crate) record: CoordinatorRecord,
    pub(crate) life: u32,
    coordinator_tick_at: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    sequence: u64,
    pub(crate) retained: BTreeMap<String, (Topic, Vec<u8>)>,
    pub(crate) archive: Vec<(Topic, Vec<u8>)>,
    /// Everything that was delivered and done, in order.
    pub(crate) trace: Fnv,
    /// How many actions were performed, on whatever end.
    pub(crate) performed: u64,
    /// The power of whoever performs that action goes before it.
    pub(crate) cut_at: Option<u64>,
    sessions: u64,
    pub(crate) responses: BTreeMap<RequestId, ConsoleResponse>,
    asking: BTreeMap<RequestId, ConsoleRequest>,
    asked: u32,
    /// How often each command's work began, for "no id runs twice".
    pub(crate) runs: BTreeMap<CommandId, u32>,
    /// The nodes that somebody cordoned by hand.
    pub(crate) by_hand: BTreeSet<NodeName>,
    /// Nodes that a command took down, until they are back and ready.
    pub(crate) rolling_down: BTreeSet<NodeName>,
    /// Checked after each event while set.
    pub(crate) max_down: Option<usize>,
    /// Nobody presses a button or gives orders in between.
    pub(crate) undisturbed: bool,
    pub(crate) log: VecDeque<String>,
    pub(crate) seed: u64,
    pub(crate) events: u64,
    pub(crate) faults_done: u64,
    /// How many sessions were renewed because the memory of ids filled up.
    pub(crate) renewed: u64,
    /// How many operations ended otherwise than done.
    pub(crate) partly: u64,
    /// In which order the Pis were told to go off.
    pub(crate) went_off: Vec<NodeName>,
    /// In which order engines were reset and initialised.
    pub(crate) engine_log: Vec<(NodeName, &'static str)>,
}

pub(crate) fn name(number: usize) -> NodeName {
    format!("crew-{number:03}").parse().unwrap()
}

pub(crate) fn user() -> UserName {
    "ops".parse().unwrap()
}

impl World {
    pub(crate) fn new(seed: u64, nodes: usize, faults: Faults) -> Self {
        let mut world = Self {
            now: 1_000,
            random: Random(seed),
            faults: Faults::default(),
            pis: (1..=nodes).map(|number| Pi::new(name(number), number == 1)).collect(),
            kube: Kube::default(),
            coordinator: None,
            record: CoordinatorRecord::default(),
            life: 0,
            coordinator_tick_at: u64::MAX,
            queue: BTreeMap::new(),
            sequence: 0,
            retained: BTreeMap::new(),
            archive: Vec::new(),
            trace: Fnv::new(),
            performed: 0,
            cut_at: None,
            sessions: 0,
            responses: BTreeMap::new(),
            asking: BTreeMap::new(),
            asked: 0,
            runs: BTreeMap::new(),
            by_hand: BTreeSet::new(),
            rolling_down: BTreeSet::new(),
            max_down: None,
            undisturbed: true,
            log: VecDeque::new(),
            seed,
            events: 0,
            faults_done: 0,
            renewed: 0,
            partly: 0,
            went_off: Vec::new(),
            engine_log: Vec::new(),
        };
        for index in 0..nodes {
            world.boot(index);
        }
        world.later(1_000, Happening::KubeLook);
        world.run_for(3_000);
        world.storm(faults);
        world
    }

    /// From now on things go wrong.
    pub(crate) fn storm(&mut self, faults: Faults) {
        self.faults = faults;
        if faults.disasters {
            self.later(500, Happening::Disaster);
        }
    }

    pub(crate) fn config(&self) -> CoordinatorConfig {
        CoordinatorConfig {
            master: name(1),
            expected: (2..=self.pis.len()).map(name).collect(),
            max_unavailable: 1,
            max_parallel: 8,
            server: Text::cut("https://10.0.0.1:6443"),
            drain_ms: 60_000,
            destruction: Destruction::Allowed,
        }
    }

    /// A session that was never used before.
    pub(crate) fn nonce(&mut self) -> Nonce {
        self.sessions += 1;
        format!("{:08x}", self.sessions).parse().unwrap()
    }

    pub(crate) fn instant(&self) -> Instant {
        Instant::from_ms(self.now)
    }

    pub(crate) fn later(&mut self, after_ms: u64, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((self.now + after_ms, self.sequence), happening);
    }

    pub(crate) fn note(&mut self, text: String) {
        if self.log.len() >= 400 {
            self.log.pop_front();
        }
        self.log.push_back(format!("{:>9} {text}", self.now));
    }

    /// Fails with the seed and the last of what happened.
    #[track_caller]
    pub(crate) fn fail(&self, why: &str) -> ! {
        for line in &self.log {
            println!("{line}");
        }
        for operation in &self.record.operations {
            println!("operation {} {} {}", operation.id, operation.kind, operation.phase);
            for step in operation.steps.iter() {
                println!("    {} {} {:?} {}", step.kind, step.node, step.state, step.reason);
            }
        }
        println!("cordons {:?} slots {:?}", self.record.cordons, self.record.slots);
        panic!("seed {}: at {} ms: {why}", self.seed, self.now);
    }

    /// Lets the next thing happen.
    pub(crate) fn turn(&mut self) {
        let Some(((at, _), happening)) = self.queue.pop_first() else { self.fail("nothing will ever happen again") };
        self.now = self.now.max(at);
        self.events += 1;
        match happening {
            Happening::Arrives(topic, bytes) => self.arrives(topic, &bytes),
            Happening::Hears(index, life, session) => {
                if self.pis[index].life == life && self.pis[index].cut_until <= self.now {
                    self.node(index, beehive_cluster::node::Event::Coordinator(session));
                }
            }
            Happening::NodeTick(index, life) => self.node_tick(index, life),
            Happening::Heartbeat(index, life) => self.heartbeat(index, life),
            Happening::EngineEnds(index, life, job) => self.engine_ends(index, life, job),
            Happening::PowerTimer(index, life, timer) => self.power_timer(index, life, timer),
            Happening::Boots(index, count) => {
                if self.pis[index].boots == count && !self.pis[index].on {
                    self.boot(index);
                }
            }
            Happening::AgentStarts(index, life) => {
                if self.pis[index].life == life && self.pis[index].on {
                    self.start_agent(index);
                }
            }
            Happening::Will(index, start, connection) => self.will(index, start, connection),
            Happening::Reconnects(index, life) => self.reconnects(index, life),
            Happening::CoordinatorTick(life) => {
                if life == self.life && self.coordinator.is_some() {
                    self.coordinator_tick_at = u64::MAX;
                    self.coordinate(coordinator::Event::Tick);
                }
            }
            Happening::CoordinatorStarts(life) => {
                if life == self.life && self.coordinator.is_none() && self.pis[0].on {
                    self.start_coordinator();
                }
            }
            Happening::KubeEnds(life, token, work) => self.kube_ends(life, token, work),
            Happening::KubeLook => {
                self.kube_look();
                self.later(1_000, Happening::KubeLook);
            }
            Happening::ConsoleAsks(id) => self.console_asks(&id),
            Happening::Disaster => {
                self.disaster();
                if self.faults.disasters {
                    let after = self.random.between(2_000, 30_000);
                    self.later(after, Happening::Disaster);
                }
            }
        }
        self.check();
    }

    fn check(&mut self) {
        if let Some((id, runs)) = self.runs.iter().find(|(_, runs)| **runs > 1) {
            self.fail(&format!("the command {id} ran {runs} times"));
        }
        let back: Vec<NodeName> = self.rolling_down.iter().filter(|node| self.is_back(node)).cloned().collect();
        for node in back {
            self.rolling_down.remove(&node);
        }
        if let Some(max) = self.max_down {
            let mut down = self.rolling_down.clone();
            down.extend(self.kube.cordoned().into_iter().filter(|node| !self.by_hand.contains(node)));
            if down.len() > max {
                self.fail(&format!("down or cordoned at once by rolling work: {down:?}"));
            }
        }
    }

    /// On, its kubelet running, and Kubernetes says ready of this very boot.
    pub(crate) fn is_back(&self, node: &NodeName) -> bool {
        let Some(pi) = self.pis.iter().find(|pi| pi.name == *node) else { return false };
        let master = &self.pis[0];
        pi.on && (pi.kept == Kept::Blank || (pi.running && self.kube.is_ready(self.now, master, pi)))
    }

    pub(crate) fn run_for(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.queue.first_key_value().is_some_and(|((at, _), _)| *at <= end) {
            self.turn();
        }
        self.now = end;
    }

    /// Runs until `done`, at most `limit_ms`.
    #[track_caller]
    pub(crate) fn run_until(&mut self, what: &str, limit_ms: u64, mut done: impl FnMut(&mut Self) -> bool) {
        let end = self.now + limit_ms;
        while !done(self) {
            if self.now > end {
                self.fail(&format!("after {limit_ms} ms still not: {what}"));
            }
            self.turn();
        }
    }

    /// No more faults; what is dead comes back.
    pub(crate) fn calm(&mut self) {
        self.faults = Faults::default();
        self.note("calm".into());
        for index in 0..self.pis.len() {
            let life = self.pis[index].life;
            if self.pis[index].cut_until > self.now {
                self.pis[index].cut_until = 0;
                self.reconnects(index, life);
            }
            let pi = &self.pis[index];
            if !pi.on && pi.returns {
                self.boot(index);
            }
        }
    }

    // ---- the console

    pub(crate) fn ask(&mut self, ask: Ask, mode: Mode) -> RequestId {
        self.asked += 1;
        let id: RequestId = format!("r-{}-{}", self.seed, self.asked).parse().unwrap();
        let nonce = "unheard".parse().unwrap();
        self.asking.insert(id.clone(), ConsoleRequest { id: id.clone(), nonce, mode, ask });
        self.later(0, Happening::ConsoleAsks(id.clone()));
        id
    }

    pub(crate) fn operation(&mut self, kind: OperationKind, node: Option<NodeName>) -> RequestId {
        self.ask(Ask::Operation { kind, node, version: Text::new(), force: Force::No }, Mode::Execute)
    }

    fn console_asks(&mut self, id: &RequestId) {
        let Some(request) = self.asking.get(id) else { return };
        let mut request = request.clone();
        if let Some((_, bytes)) = self.retained.get(Topic::CoordinatorState.name(&broker::crew()).as_str()) {
            request.nonce = decode::<CoordinatorState>(bytes).unwrap().session.nonce;
            self.say(Topic::ConsoleRequest(user()), &request);
        }
        self.later(1_000, Happening::ConsoleAsks(id.clone()));
    }

    /// The answer, once it is there.
    pub(crate) fn answer(&mut self, id: &RequestId) -> ConsoleResponse {
        self.run_until("answered", 300_000, |world| world.responses.contains_key(id));
        self.responses[id].clone()
    }

    pub(crate) fn phase(&self, id: &RequestId) -> Option<OperationPhase> {
        let topic = Topic::Operation(id.clone().into());
        let (_, bytes) = self.retained.get(topic.name(&broker::crew()).as_str())?;
        Some(decode::<OperationSummary>(bytes).unwrap().phase)
    }

    /// Waits until an operation has ended; says how.
    #[track_caller]
    pub(crate) fn ended(&mut self, id: &RequestId, limit_ms: u64) -> OperationPhase {
        self.run_until("the operation's end", limit_ms, |world| world.phase(id).is_some_and(OperationPhase::is_final));
        self.phase(id).unwrap()
    }

    // ---- the coordinator

    pub(crate) fn start_coordinator(&mut self) {
        self.life += 1;
        let first = FirstSession { term: 1, nonce: self.nonce() };
        let (core, actions) = Coordinator::start(self.instant(), self.config(), first, self.record.clone());
        self.note(format!("coordinator starts (life {})", self.life));
        self.coordinator = Some(core);
        self.perform(actions);
        // its subscriptions bring what the broker keeps
        let kept: Vec<_> = self.retained.values().cloned().collect();
        for (topic, bytes) in kept {
            if matches!(topic, Topic::Presence(_) | Topic::State(_)) {
                let after = self.random.between(1, 60);
                self.later(after, Happening::Arrives(topic, bytes));
            }
        }
        self.kube.shown = None;
        self.tick_coordinator();
    }

    pub(crate) fn stop_coordinator(&mut self) {
        self.coordinator = None;
        self.life += 1;
        self.coordinator_tick_at = u64::MAX;
    }

    pub(crate) fn coordinate(&mut self, event: coordinator::Event) {
        let now = self.instant();
        let Some(core) = &mut self.coordinator else { return };
        let actions = core.step(now, event);
        self.perform(actions);
        self.tick_coordinator();
    }

    fn tick_coordinator(&mut self) {
        let now = self.instant();
        let Some(core) = &self.coordinator else { return };
        let at = core.next_deadline(now).as_ms().max(self.now + 1);
        if at < self.coordinator_tick_at {
            self.coordinator_tick_at = at;
            let life = self.life;
            self.later(at - self.now, Happening::CoordinatorTick(life));
        }
    }

    /// Counts an action, and says whether the power goes before it.
    pub(crate) fn cuts_here(&mut self) -> bool {
        self.performed += 1;
        self.cut_at == Some(self.performed)
    }

    fn perform(&mut self, actions: Vec<coordinator::Action>) {
        let mut renewal = None;
        for action in actions {
            self.trace.add(format!("{action:?}").as_bytes());
            if self.cuts_here() {
                self.faults_done += 1;
                self.note(format!("the master's power goes before {action:?}"));
                self.power_cut(0);
                return;
            }
            if self.random.hits(self.faults.crash) {
                self.faults_done += 1;
                self.note("the coordinator dies between two actions".into());
                self.stop_coordinator();
                let after = self.random.between(200, 5_000);
                let life = self.life;
                self.later(after, Happening::CoordinatorStarts(life));
                return;
            }
            match action {
                coordinator::Action::Store(record) => {
                    if self.random.hits(self.faults.store) {
                        self.faults_done += 1;
                        self.note("the coordinator's store fails".into());
                        let now = self.instant();
                        if let Some(core) = &mut self.coordinator {
                            // as the task does: what it answers now is dropped too
                            let _ = core.step(now, coordinator::Event::StoreFailed);
                        }
                        return;
                    }
                    self.record = *record;
                }
                coordinator::Action::Command { node, mut command, secret } => {
                    self.note(format!("-> {node} {:?} {}", command.verb.name(), command.id));
                    let (id, operation) = (command.id.clone(), command.operation.clone());
                    if let (Verb::Join { credential, cluster, .. }, Some(secret)) = (&mut command.verb, secret) {
                        let context = SealContext {
                            crew: &broker::crew(),
                            node: &node,
                            boot: &secret.boot,
                            cluster: &*cluster,
                            operation: operation.as_ref(),
                            command: &id,
                        };
                        *credential = sign::seal(secret.credential.reveal(), &context);
                    }
                    self.say(Topic::Command(node), &*command);
                }
                coordinator::Action::Respond { user, response } => {
                    self.note(format!("answer {:?} {} {}", response.status, response.code, response.text));
                    self.say(Topic::ConsoleResponse(user), &*response);
                }
                coordinator::Action::State(state) => {
                    let bytes = signed(&Topic::CoordinatorState, &*state);
                    assert_eq!(decode::<CoordinatorState>(&bytes).unwrap(), *state);
                    self.publish(Topic::CoordinatorState, bytes);
                    for index in 0..self.pis.len() {
                        self.tell(index);
                    }
                }
                coordinator::Action::NewSession => {
                    self.note("the coordinator's session is renewed".into());
                    self.renewed += 1;
                    let nonce = self.nonce();
                    renewal = Some(coordinator::Event::Session(nonce));
                }
                coordinator::Action::Operation(summary) => {
                    self.say(Topic::Operation(summary.id.clone()), &*summary);
                }
                coordinator::Action::OperationNode(report) => {
                    let topic = Topic::OperationNode(report.id.clone(), report.node.clone());
                    self.say(topic, &*report);
                }
                coordinator::Action::Clear(topic) => {
                    self.retained.remove(topic.name(&broker::crew()).as_str());
                }
                coordinator::Action::Tell(event) => {
                    self.note(format!("event {:?} {}", event.kind, event.detail));
                    signed(&Topic::CoordinatorEvent, &event);
                }
                coordinator::Action::Kube { token, work, deadline_ms } => {
                    assert!(deadline_ms > 0, "seed {}: no time for {work:?}", self.seed);
                    self.kube_begins(token, work);
                }
            }
        }
        if let Some(event) = renewal {
            self.coordinate(event);
        }
    }

    // ---- people and disasters

    pub(crate) fn press(&mut self, index: usize, press: Press) {
        self.note(format!("{} pressed: {press:?}", self.pis[index].name));
        self.node(index, beehive_cluster::node::Event::ButtonDown);
        self.node(index, beehive_cluster::node::Event::Press(press));
    }

    /// Somebody stops or restarts the system of a Pi; both doors say so.
    pub(crate) fn system_stops(&mut self, index: usize, goal: PowerGoal) {
        self.note(format!("the system of {} is stopped by somebody: {goal:?}", self.pis[index].name));
        self.pis[index].system_stops = Some(goal);
        self.node(index, beehive_cluster::node::Event::SystemStopping);
        self.node(index, beehive_cluster::node::Event::SystemStopping);
    }

    fn disaster(&mut self) {
        if !self.faults.disasters {
            return;
        }
        self.faults_done += 1;
        let index = usize::try_from(self.random.below(self.pis.len() as u64)).unwrap();
        match self.random.below(12) {
            10 | 11 => {
                self.note(format!("the network of {} is cut", self.pis[index].name));
                self.partition(index);
            }
            0..=2 => {
                self.note(format!("the agent of {} dies", self.pis[index].name));
                self.agent_dies(index);
            }
            3..=5 => {
                self.note(format!("the power of {} goes", self.pis[index].name));
                self.power_cut(index);
            }
            _ => {
                self.note("the coordinator dies".into());
                self.stop_coordinator();
                let after = self.random.between(200, 5_000);
                let life = self.life;
                self.later(after, Happening::CoordinatorStarts(life));
            }
        }
    }

    /// The cluster that every Pi is in, if they all are in the same one and it is served.
    pub(crate) fn common_cluster(&self) -> Option<ClusterId> {
        let Kept::Member(cluster) = &self.pis[0].kept else { return None };
        let all = self.pis.iter().all(|pi| pi.on && pi.running && pi.kept == Kept::Member(cluster.clone()));
        let ready = self.pis.iter().all(|pi| self.kube.is_ready(self.now, &self.pis[0], pi));
        (all && ready).then(|| cluster.clone())
    }

    /// Whether the last operation says of a node that it did not come off there.
    pub(crate) fn reported_lost(&self, node: &NodeName) -> bool {
        let summaries = self.retained.values().filter(|(topic, _)| matches!(topic, Topic::Operation(_)));
        let mut summaries = summaries.map(|(_, bytes)| decode::<OperationSummary>(bytes).unwrap());
        summaries.any(|summary| summary.failures.iter().any(|failure| failure.node == *node))
    }

    /// Whether the coordinator was shown that a node is cordoned.
    pub(crate) fn sees_cordon(&self, node: &NodeName) -> bool {
        let shown = self.kube.shown.as_ref().and_then(|view| view.node(node));
        self.coordinator.is_some() && shown.is_some_and(|seen| seen.scheduling == Scheduling::Cordoned)
    }

    /// Nobody but `by_hand` is cordoned.
    pub(crate) fn cordons_left(&self) -> Vec<NodeName> {
        self.kube.cordoned().into_iter().filter(|node| !self.by_hand.contains(node)).collect()
    }

    fn arrives(&mut self, topic: Topic, bytes: &[u8]) {
        use coordinator::Event;
        sign::check(&topic, bytes);
        self.trace.add(topic.name(&broker::crew()).as_bytes());
        self.trace.add(bytes);
        match topic {
            Topic::Command(node) => {
                let command: Command = decode(bytes).unwrap();
                let index = self.pis.iter().position(|pi| pi.name == node).unwrap();
                let key = sign::key(&Topic::Command(node));
                self.node(index, beehive_cluster::node::Event::Command { key, command: Box::new(command) });
            }
            Topic::Presence(node) => {
                let presence: Presence = decode(bytes).unwrap();
                self.coordinate(Event::Presence { node, presence });
            }
            Topic::State(node) => {
                let state: NodeState = decode(bytes).unwrap();
                self.coordinate(Event::State { node, state: Box::new(state) });
            }
            Topic::Result(node) => {
                let result: CommandResult = decode(bytes).unwrap();
                self.coordinate(Event::Result { node, result });
            }
            Topic::Request(node) => {
                let request: NodeRequest = decode(bytes).unwrap();
                self.coordinate(Event::Request { node, request });
            }
            Topic::ConsoleRequest(user) => {
                let request: ConsoleRequest = decode(bytes).unwrap();
                let key = sign::key(&Topic::ConsoleRequest(user.clone()));
                self.coordinate(Event::Console { user, key, request });
            }
            Topic::ConsoleResponse(_) => {
                let response: ConsoleResponse = decode(bytes).unwrap();
                if response.code.as_str() == "stale-nonce" {
                    return; // it asks again, with the session that it has heard of by then
                }
                self.asking.remove(&response.id);
                self.responses.insert(response.id.clone(), response);
            }
            // kept, and played again
            Topic::CoordinatorState => {
                let session = decode::<CoordinatorState>(bytes).unwrap().session;
                for index in 0..self.pis.len() {
                    self.node(index, beehive_cluster::node::Event::Coordinator(session.clone()));
                }
            }
            Topic::Info(_)
            | Topic::Telemetry(_)
            | Topic::Event(_)
            | Topic::CoordinatorPresence
            | Topic::Operation(_)
            | Topic::OperationNode(..)
            | Topic::Manifest
            | Topic::CoordinatorEvent => {}
        }
    }
}
