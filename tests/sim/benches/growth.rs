//! How messages, bytes, memory and time of a coordinator grow with the number of nodes: `cargo bench -p beehive-sim --bench
//! growth`. It prints tables and never fails for a figure.
//!
//! The real cores of one coordinator and of N nodes create a cluster and rebuild it, without faults. Messages are encoded and
//! signed (with a signature of the right length) to be counted, and handed over as they are. Time is simulated: a message takes
//! 1 ms, a step of an engine 1 s, Kubernetes answers after 5 ms and is looked at every 100 ms while something changes there.
//! At most 10 nodes are worked on at a time (the default), so a crew that is ten times as large takes ten times as long, and what
//! everybody says every ten seconds meanwhile is counted for itself: it grows with both.
//!
//! Memory is the core's own on the heap: what a copy of it takes, looked at every so often, and what a single step needs
//! beside it. The time is the processor's inside the core.
//!
//! A crew on the wire has 64 nodes at most. The core takes as many as its configuration names; its state then shows the
//! first 64.

#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use beehive_cluster::blockers::Blockers;
use beehive_cluster::coordinator::{
    Action, BrokerLink, Coordinator, CoordinatorConfig, CoordinatorRecord, Event, FirstSession, PowerSwitch,
};
use beehive_cluster::kube::{JoinCredential, KubeDone, KubeNode, KubeView, KubeWork, Ready, Scheduling};
use beehive_cluster::node::{
    Action as NodeAction, EngineOutcome, EngineTask, Event as NodeEvent, NodeConfig, NodeCore, NodeRecord,
};
use beehive_cluster::{Destruction, Instant};
use beehive_mqtt::command::{Command, SealedCredential, Verb};
use beehive_mqtt::console::{Ask, ConsoleRequest, Force, Mode, ResponseStatus};
use beehive_mqtt::coordinator::{OperationKind, OperationPhase, OperationSummary, Session};
use beehive_mqtt::node::{CommandResult, Connection, EngineRun, EngineState, NodeState, PowerPhase, Presence, Role};
use beehive_mqtt::sign::Signature;
use beehive_mqtt::{
    BootId, CrewName, HEARTBEAT_MS, KeyId, MAX_NODES, NodeName, Payload, ProtocolVersion, Signer, SpokenVersion, Text,
    Topic, encode,
};
use peak_alloc::PeakAlloc;
use std::collections::BTreeMap;
use std::time::Duration;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Among them the largest crew of the wire.
const SIZES: [usize; 6] = [10, 30, MAX_NODES, 100, 300, 1_000];
const MESSAGE_MS: u64 = 1;
const ENGINE_MS: u64 = 1_000;
const KUBE_MS: u64 = 5;
const KUBE_LOOK_MS: u64 = 100;
const MAX_PARALLEL: u16 = 10;
/// How many looks at the core's memory there are, about: a look copies all of it.
const LOOKS: usize = 200;

/// A signature of the right length.
struct Pen;

impl Signer for Pen {
    fn key(&self) -> KeyId {
        KeyId([7; 8])
    }

    fn sign(&self, _: &[u8]) -> Signature {
        Signature([7; 64])
    }
}

/// Messages and their bytes, envelopes included.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    messages: u64,
    bytes: u64,
}

impl Tally {
    fn add(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes as u64;
    }
}

/// What one operation took.
#[derive(Debug, Clone, Default)]
struct Counts {
    /// By kind.
    coordinator: BTreeMap<&'static str, Tally>,
    nodes: BTreeMap<&'static str, Tally>,
    /// What a crew says while nothing happens.
    beats: Tally,
    /// What the broker hands out of the coordinator's state: each node hears it.
    handed_out: Tally,
    stored: Tally,
    largest_record: usize,
    events: u64,
    in_core: Duration,
    longest: Duration,
    core_bytes: usize,
    step_bytes: usize,
    steps: usize,
    took_ms: u64,
}

enum Happening {
    ToCoordinator(Box<Event>),
    ToNode(usize, Box<NodeEvent>),
    EngineEnds(usize, u64, EngineTask),
    KubeEnds(u64, KubeWork),
    KubeLook,
    Beat(usize),
}

struct Node {
    name: NodeName,
    core: NodeCore,
    boot: BootId,
    engine: EngineState,
    revision: u32,
    said: Option<NodeState>,
}

struct World {
    now: u64,
    order: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    core: Coordinator,
    nodes: Vec<Node>,
    places: BTreeMap<NodeName, usize>,
    kube: KubeView,
    looks: bool,
    session: Session,
    /// The newest summary, and what was answered last.
    summary: Option<OperationSummary>,
    answer: Option<(ResponseStatus, String)>,
    nonces: u64,
    since_look: usize,
    counts: Counts,
}

/// This thread's, so that a busy machine does not count.
fn processor_time() -> Duration {
    rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime).try_into().unwrap()
}

fn crew() -> CrewName {
    "bee42-crew-01".parse().unwrap()
}

fn size<P: Payload>(topic: &Topic, payload: &P) -> usize {
    encode(payload, &topic.name(&crew()), &Pen).unwrap().len()
}

impl World {
    fn new(size: usize) -> Self {
        let names: Vec<NodeName> =
            (1..=size).map(|number| format!("bee42-crew-01-{number:04}").parse().unwrap()).collect();
        let config = CoordinatorConfig {
            master: names[0].clone(),
            expected: names[1..].to_vec(),
            max_unavailable: 1,
            max_parallel: MAX_PARALLEL,
            server: Text::cut("bee42-crew-01-0001"),
            drain_ms: 120_000,
            destruction: Destruction::Allowed,
            blockers: Blockers::default(),
            switch: PowerSwitch::Absent,
            speaks: ProtocolVersion::CURRENT,
        };
        let first = FirstSession { term: 1, nonce: format!("{:032x}", 1).parse().unwrap() };
        let (core, actions) = Coordinator::start(Instant::from_ms(0), config, first, CoordinatorRecord::default());
        let nodes: Vec<Node> = names
            .iter()
            .enumerate()
            .map(|(index, name)| {
                let boot: BootId = format!("{index:08x}-1111-4111-8111-111111111111").parse().unwrap();
                let config = NodeConfig {
                    role: if index == 0 { Role::Master } else { Role::Node },
                    destruction: Destruction::Allowed,
                    boot: boot.clone(),
                    nonce: format!("{:032x}", 1_000_000 + index).parse().unwrap(),
                    term: 1,
                };
                let (core, _) = NodeCore::start(Instant::from_ms(0), config, NodeRecord::default());
                let engine = EngineState { cluster: None, run: EngineRun::Stopped, version: Text::new() };
                Node { name: name.clone(), core, boot, engine, revision: 0, said: None }
            })
            .collect();
        let mut world = Self {
            now: 0,
            order: 0,
            queue: BTreeMap::new(),
            session: core.session(),
            core,
            places: names.iter().cloned().zip(0..).collect(),
            nodes,
            kube: KubeView::default(),
            looks: false,
            summary: None,
            answer: None,
            nonces: 2,
            since_look: 0,
            counts: Counts::default(),
        };
        world.perform(actions);
        world.tell_coordinator(Event::Broker(BrokerLink::Up));
        for index in 0..size {
            let name = world.nodes[index].name.clone();
            let presence = Presence { status: Connection::Online, start: 1, connection: 1, reason: Text::new() };
            world.tell_coordinator(Event::Presence { node: name, presence });
            let seen = world.nodes[index].engine.clone();
            world.node(index, NodeEvent::EngineSeen(seen));
            // spread over the time between two beats
            let first = HEARTBEAT_MS * index as u64 / size as u64;
            world.later(first, Happening::Beat(index));
        }
        world
    }

    fn later(&mut self, ms: u64, what: Happening) {
        self.order += 1;
        self.queue.insert((self.now + ms, self.order), what);
    }

    fn tell_coordinator(&mut self, event: Event) {
        self.later(MESSAGE_MS, Happening::ToCoordinator(Box::new(event)));
    }

    /// The next thing that happens; a tick of the coordinator if that is due before.
    fn next(&mut self) {
        let at = self.queue.keys().next().map_or(u64::MAX, |(at, _)| *at);
        let due = self.core.next_deadline(Instant::from_ms(self.now)).as_ms().max(self.now + 1);
        if due < at {
            self.now = due;
            return self.coordinate(Event::Tick);
        }
        let (key, what) = self.queue.pop_first().unwrap();
        self.now = key.0;
        match what {
            Happening::ToCoordinator(event) => self.coordinate(*event),
            Happening::ToNode(index, event) => self.node(index, *event),
            Happening::EngineEnds(index, token, task) => self.engine_ends(index, token, &task),
            Happening::KubeEnds(token, work) => {
                let outcome = Ok(match work {
                    KubeWork::MintCredential { .. } => {
                        let credential = "c".repeat(120);
                        KubeDone::Credential(JoinCredential::new(&credential).unwrap())
                    }
                    KubeWork::DeleteNode(node) => {
                        self.kube.nodes.retain(|seen| seen.node != node);
                        self.look();
                        KubeDone::Done
                    }
                    KubeWork::Cordon(_) | KubeWork::Uncordon(_) | KubeWork::Drain { .. } => KubeDone::Done,
                });
                self.coordinate(Event::KubeEnded { token, outcome });
            }
            Happening::KubeLook => {
                self.looks = false;
                let view = self.kube.clone();
                self.coordinate(Event::Kube(view));
            }
            Happening::Beat(index) => {
                self.say(index, Why::Beat);
                self.later(HEARTBEAT_MS, Happening::Beat(index));
            }
        }
    }

    // ---- the coordinator

    fn coordinate(&mut self, event: Event) {
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        let begun = processor_time();
        let actions = self.core.step(Instant::from_ms(self.now), event);
        let took = processor_time().saturating_sub(begun);
        let counts = &mut self.counts;
        counts.step_bytes = counts.step_bytes.max(MEMORY.peak_usage().saturating_sub(before));
        counts.in_core += took;
        counts.longest = counts.longest.max(took);
        counts.events += 1;
        self.since_look += 1;
        if self.since_look >= (self.nodes.len() * 60 / LOOKS).max(1) {
            self.look_at_memory();
        }
        self.perform(actions);
    }

    fn look_at_memory(&mut self) {
        self.since_look = 0;
        let before = MEMORY.current_usage();
        let copy = self.core.clone();
        self.counts.core_bytes = self.counts.core_bytes.max(MEMORY.current_usage() - before);
        drop(copy);
    }

    fn publish<P: Payload>(&mut self, kind: &'static str, topic: &Topic, payload: &P) -> usize {
        let bytes = size(topic, payload);
        self.counts.coordinator.entry(kind).or_default().add(bytes);
        bytes
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                // no blockers are configured, nothing is switched on, and nobody asks for a certificate
                Action::Look { .. } | Action::SwitchOn { .. } | Action::Certify { .. } => {}
                Action::Store(record) => {
                    let bytes = serde_json::to_vec(record.as_ref()).unwrap().len();
                    self.counts.stored.add(bytes);
                    self.counts.largest_record = self.counts.largest_record.max(bytes);
                }
                Action::Command { node, mut command, secret, version: _ } => {
                    if let (Verb::Join { credential, .. }, Some(secret)) = (&mut command.verb, &secret) {
                        // as long as what sealing makes of it
                        let sealed = vec![7; secret.credential.reveal().len() + 48];
                        *credential = SealedCredential::new(&sealed);
                    }
                    self.publish::<Command>("command", &Topic::Command(node.clone()), command.as_ref());
                    let to = self.places[&node];
                    let key = KeyId([7; 8]);
                    self.later(MESSAGE_MS, Happening::ToNode(to, Box::new(NodeEvent::Command { key, command })));
                }
                Action::Respond { user, response } => {
                    self.publish("answer", &Topic::ConsoleResponse(user), response.as_ref());
                    self.answer = Some((response.status, format!("{}: {}", response.code, response.text)));
                }
                Action::State(state) => {
                    let bytes = size(&Topic::CoordinatorState, state.as_ref());
                    self.counts.coordinator.entry("crew's state").or_default().add(bytes);
                    self.counts.handed_out.messages += self.nodes.len() as u64;
                    self.counts.handed_out.bytes += (self.nodes.len() * bytes) as u64;
                    self.session = state.session;
                    for index in 0..self.nodes.len() {
                        // one that it has heard already changes nothing
                        if self.nodes[index].core.heard() != Some(&self.session) {
                            let event = NodeEvent::Coordinator(self.session.clone());
                            self.later(MESSAGE_MS, Happening::ToNode(index, Box::new(event)));
                        }
                    }
                }
                Action::Operation(summary) => {
                    self.publish("operation", &Topic::Operation(summary.id.clone()), summary.as_ref());
                    self.summary = Some(*summary);
                }
                Action::OperationNode(report) => {
                    let topic = Topic::OperationNode(report.id.clone(), report.node.clone());
                    self.publish("node's steps", &topic, report.as_ref());
                }
                Action::Clear(_) => self.counts.coordinator.entry("cleared").or_default().add(0),
                Action::Tell(event) => {
                    self.publish("event", &Topic::CoordinatorEvent, &event);
                }
                Action::NewSession => {
                    self.nonces += 1;
                    let nonce = format!("{:032x}", self.nonces).parse().unwrap();
                    self.later(0, Happening::ToCoordinator(Box::new(Event::Session(nonce))));
                }
                Action::Kube { token, work, .. } => self.later(KUBE_MS, Happening::KubeEnds(token, work)),
            }
        }
    }

    fn look(&mut self) {
        if !self.looks {
            self.looks = true;
            self.later(KUBE_LOOK_MS, Happening::KubeLook);
        }
    }

    // ---- the nodes

    fn node(&mut self, index: usize, event: NodeEvent) {
        let actions = self.nodes[index].core.step(Instant::from_ms(self.now), event);
        for action in actions {
            match action {
                NodeAction::Store(_) => {}
                NodeAction::Result(result) => {
                    let node = self.nodes[index].name.clone();
                    let bytes = size::<CommandResult>(&Topic::Result(node.clone()), &result);
                    self.counts.nodes.entry("result").or_default().add(bytes);
                    self.tell_coordinator(Event::Result { node, result });
                }
                NodeAction::Tell(..) => {}
                NodeAction::Engine { token, task, .. } => {
                    self.later(ENGINE_MS, Happening::EngineEnds(index, token, task));
                }
                NodeAction::NewSession => {
                    self.nonces += 1;
                    let nonce = format!("{:032x}", self.nonces).parse().unwrap();
                    self.later(0, Happening::ToNode(index, Box::new(NodeEvent::Session(nonce))));
                }
                NodeAction::Request(_)
                | NodeAction::Power { .. }
                | NodeAction::CancelPower
                | NodeAction::FollowSystem
                | NodeAction::Prepared
                | NodeAction::Identify { .. }
                | NodeAction::ShowStatus => panic!("nobody asked for {action:?}"),
            }
        }
        self.say(index, Why::Change);
    }

    fn engine_ends(&mut self, index: usize, token: u64, task: &EngineTask) {
        let node = &mut self.nodes[index];
        match task {
            EngineTask::Initialise { cluster, .. } | EngineTask::Join { cluster, .. } => {
                node.engine = EngineState {
                    cluster: Some(cluster.clone()),
                    run: EngineRun::Running,
                    version: Text::cut("v1.31.5+k3s1"),
                };
                self.kube.cluster = Some(cluster.clone());
                let seen = KubeNode {
                    node: node.name.clone(),
                    ready: Ready::Yes,
                    scheduling: Scheduling::Open,
                    boot: Some(node.boot.clone()),
                    version: Text::new(),
                };
                self.kube.nodes.push(seen);
                self.look();
            }
            EngineTask::Reset => {
                node.engine = EngineState { cluster: None, run: EngineRun::Stopped, version: Text::new() };
                if index == 0 {
                    self.kube = KubeView::default();
                    self.look();
                }
            }
            // the last two are no part of a create or a rebuild
            EngineTask::Stop
            | EngineTask::Snapshot
            | EngineTask::AddOns
            | EngineTask::Start
            | EngineTask::Upgrade { .. } => {}
        }
        let engine = self.nodes[index].engine.clone();
        let detail = Text::cut("did what a step of an engine does, and says so in a line");
        let outcome = EngineOutcome::Done { code: Text::cut("done"), detail };
        self.node(index, NodeEvent::EngineEnded { token, outcome, engine });
    }

    fn say(&mut self, index: usize, why: Why) {
        let node = &mut self.nodes[index];
        let mut state = NodeState {
            lifecycle: node.core.lifecycle(),
            power: PowerPhase::Running,
            goal: None,
            led: Text::cut("running"),
            running: node.core.running(),
            boot: node.boot.clone(),
            start: 1,
            revision: node.revision,
            nonce: node.core.nonce().clone(),
            heard: node.core.heard().cloned(),
            engine: node.engine.clone(),
            last_shutdown: None,
            speaks: SpokenVersion::said_by(ProtocolVersion::CURRENT),
            machine: None,
        };
        let same = node.said.as_ref() == Some(&state);
        if !same {
            node.revision += 1;
            state.revision = node.revision;
            node.said = Some(state.clone());
        }
        let name = node.name.clone();
        let tally = match why {
            Why::Change if same => return,
            Why::Change => self.counts.nodes.entry("state").or_default(),
            Why::Beat => &mut self.counts.beats,
        };
        tally.add(size(&Topic::State(name.clone()), &state));
        self.tell_coordinator(Event::State { node: name, state: Box::new(state) });
    }

    // ---- the operator

    fn run(&mut self, kind: OperationKind, number: u32) -> Counts {
        self.counts = Counts::default();
        let begun = self.now;
        self.answer = None;
        let request = ConsoleRequest {
            id: format!("{number:08x}-2222-4222-8222-222222222222").parse().unwrap(),
            nonce: self.session.nonce.clone(),
            mode: Mode::Execute,
            ask: Ask::Operation { kind, node: None, version: Text::new(), force: Force::No },
        };
        let (user, key) = ("ann".parse().unwrap(), KeyId([8; 8]));
        self.tell_coordinator(Event::Console { user, key, request });
        self.summary = None;
        loop {
            self.next();
            if let Some((status, text)) = &self.answer {
                assert_eq!(*status, ResponseStatus::Started, "{text}");
            }
            if self.summary.as_ref().is_some_and(|summary| summary.phase.is_final()) {
                break;
            }
        }
        self.look_at_memory();
        let summary = self.summary.clone().unwrap();
        assert_eq!((summary.kind, summary.phase), (kind, OperationPhase::Done), "{summary:?}");
        self.counts.steps = usize::from(summary.counts.done);
        self.counts.took_ms = self.now - begun;
        self.counts.clone()
    }
}

#[derive(Clone, Copy)]
enum Why {
    Change,
    Beat,
}

fn total(tallies: &BTreeMap<&'static str, Tally>) -> Tally {
    tallies.values().fold(Tally::default(), |sum, tally| Tally {
        messages: sum.messages + tally.messages,
        bytes: sum.bytes + tally.bytes,
    })
}

#[allow(clippy::cast_precision_loss)] // figures for people
fn per(value: u64, size: usize) -> f64 {
    value as f64 / size as f64
}

fn main() {
    // `cargo test --benches` builds and calls it too; a benchmark is asked for
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let sizes: Vec<usize> = match std::env::var("SIZES") {
        Ok(words) => words.split(',').map(|word| word.parse().expect("SIZES is numbers with commas")).collect(),
        Err(_) => SIZES.to_vec(),
    };
    let mut runs = Vec::new();
    for size in sizes {
        let mut world = World::new(size);
        // everybody has been heard of once, and the coordinator knows that it has
        while world.now < 2 * HEARTBEAT_MS {
            world.next();
        }
        let create = world.run(OperationKind::Create, 1);
        let until = world.now + HEARTBEAT_MS;
        while world.now < until {
            world.next();
        }
        let rebuild = world.run(OperationKind::Rebuild, 2);
        eprintln!("{size} nodes: done");
        runs.push((size, [("create", create), ("rebuild", rebuild)]));
    }
    println!(
        "| nodes | operation | steps | messages of the coordinator, of the nodes | messages per node | bytes per node | core's \
         memory at most | per node | and in one step | processor time of the core | per event, longest |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    );
    for (size, operations) in &runs {
        for (name, counts) in operations {
            let (coordinator, nodes) = (total(&counts.coordinator), total(&counts.nodes));
            let micros = u64::try_from(counts.in_core.as_micros()).unwrap();
            println!(
                "| {size} | {name} | {} | {}, {} | {:.1} | {:.0} | {} KiB | {:.1} KiB | {} KiB | {:.2} s | {:.0} µs, {:.1} ms |",
                counts.steps,
                coordinator.messages,
                nodes.messages,
                per(coordinator.messages + nodes.messages, *size),
                per(coordinator.bytes + nodes.bytes, *size),
                counts.core_bytes / 1024,
                per(counts.core_bytes as u64, *size) / 1024.0,
                counts.step_bytes / 1024,
                counts.in_core.as_secs_f64(),
                per(micros, usize::try_from(counts.events).unwrap()),
                counts.longest.as_secs_f64() * 1e3,
            );
        }
    }
    println!("\nOf the rebuild: each kind of message, messages per node (bytes per node)\n");
    let kinds: Vec<&str> =
        ["command", "crew's state", "operation", "node's steps", "cleared", "event", "answer"].into();
    println!(
        "| nodes | {} | result | state | meanwhile every 10 s | crew's state as the broker hands it out | record stored | record, largest | events | simulated time |",
        kinds.join(" | ")
    );
    println!("|{}", " --- |".repeat(kinds.len() + 9));
    for (size, operations) in &runs {
        let (_, counts) = &operations[1];
        let cell = |tally: Option<&Tally>| {
            let tally = tally.copied().unwrap_or_default();
            format!("{:.1} ({:.0})", per(tally.messages, *size), per(tally.bytes, *size))
        };
        let mut cells: Vec<String> = kinds.iter().map(|kind| cell(counts.coordinator.get(kind))).collect();
        cells.extend(["result", "state"].map(|kind| cell(counts.nodes.get(kind))));
        cells.extend([&counts.beats, &counts.handed_out, &counts.stored].map(|tally| cell(Some(tally))));
        cells.push(format!("{} KiB", counts.largest_record / 1024));
        cells.push(format!("{:.1}", per(counts.events, *size)));
        cells.push(format!("{} s", counts.took_ms / 1_000));
        println!("| {size} | {} |", cells.join(" | "));
    }
}
