//! The world: broker, engines, power and Kubernetes are simulated, and so is time. One seed decides everything, so a seed
//! replays exactly.
//!
//! What is asserted reads the simulated world (power, engines, Kubernetes, who ran what) and the wire, never the cores.

use crate::broker;
use crate::card::{Card, MemoryCard, Saved};
use crate::reached::Reached;
use crate::sign::{self, Fnv, Keys, Signing};
use beehive_cluster::blockers::{Blockers, Facts, Label, Pod, PodSelector, Said, Shown};
use beehive_cluster::coordinator::{
    self, Coordinator, CoordinatorConfig, CoordinatorRecord, FirstSession, PowerSwitch,
};
use beehive_cluster::kube::Scheduling;
use beehive_cluster::node::Press;
use beehive_cluster::{Destruction, Instant};
use beehive_mqtt::command::{Command, SealContext, Verb};
use beehive_mqtt::console::{Ask, ConsoleRequest, ConsoleResponse, Force, Mode, ResponseStatus};
use beehive_mqtt::coordinator::{
    AuditHead, CoordinatorState, OperationKind, OperationNode, OperationPhase, OperationSummary, Session, Slot,
    StepKind, StepState,
};
use beehive_mqtt::direct::DirectRequest;
use beehive_mqtt::node::{CommandResult, NodeRequest, NodeState, PowerGoal, Presence};
use beehive_mqtt::{
    ClusterId, CommandId, NodeName, Nonce, Payload as _, ProtocolVersion, RequestId, Text, Topic, UserName, decode,
};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) use crate::kube::Kube;
pub(crate) use crate::pi::{Kept, Pi};

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
    /// A step of an engine hangs until its deadline.
    pub(crate) hang: u64,
    /// Storing fails.
    pub(crate) store: u64,
    /// The power goes while something is stored: the card has it, has a torn file, or has lost it.
    pub(crate) torn: u64,
    /// A core dies between two of its actions.
    pub(crate) crash: u64,
    /// After any event an operator does something.
    pub(crate) acts: u64,
    /// Every few seconds something dies: an agent, a Pi, the coordinator.
    pub(crate) disasters: u64,
    /// The broker restarts, as one of the disasters.
    pub(crate) broker: u64,
    /// A machine's clock leaps ahead, as one of the disasters.
    pub(crate) clocks: u64,
    /// A drain of some node never ends, as one of the disasters.
    pub(crate) blocks: u64,
    /// Another program is put on a Pi, of the version before or of the current one, as one of the disasters.
    pub(crate) programs: u64,
}

/// The kinds of faults, in the order of a mask's bits.
pub(crate) const FAULTS: [&str; 15] = [
    "loss",
    "duplicate",
    "delay",
    "replay",
    "engine",
    "kube",
    "hang",
    "store",
    "torn",
    "crash",
    "acts",
    "broker",
    "clocks",
    "blocks",
    "programs",
];

impl Faults {
    /// Only those kinds whose bit is set; the last bit is that of the disasters.
    pub(crate) fn masked(mut self, mask: u32) -> Self {
        let fields = [
            &mut self.loss,
            &mut self.duplicate,
            &mut self.delay,
            &mut self.replay,
            &mut self.engine,
            &mut self.kube,
            &mut self.hang,
            &mut self.store,
            &mut self.torn,
            &mut self.crash,
            &mut self.acts,
            &mut self.broker,
            &mut self.clocks,
            &mut self.blocks,
            &mut self.programs,
            &mut self.disasters,
        ];
        for (bit, field) in fields.into_iter().enumerate() {
            if mask & (1 << bit) == 0 {
                *field = 0;
            }
        }
        self
    }
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
    Hears(usize, u32, Heard),
    NodeTick(usize, u32),
    Heartbeat(usize, u32),
    EngineEnds(usize, u32, crate::pi::Job),
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
    /// Somebody has looked whether a pod keeps work from this node.
    Looks(u32, u64, NodeName),
    /// The switch was told to feed this Pi.
    Switches(u32, u64, NodeName),
    /// The pod that kept work from these nodes has gone.
    Frees(Vec<NodeName>, u64),
    /// The broker is back.
    BrokerStarts,
    /// A drain that was blocked is no longer.
    Unblocks,
    /// This Pi was told by its button to go off, and has to be off.
    IsOff(usize, u32, u64),
    ConsoleAsks(RequestId),
    /// An operator tells a node something without the coordinator.
    Tells(usize),
    /// The same request again, until it is answered or given up.
    TellsAgain(CommandId),
    Disaster,
}

/// What a node takes from the coordinator's state, and the version in which it was written.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    pub(crate) session: Session,
    pub(crate) written: ProtocolVersion,
}

/// Who is told each line of the log.
pub(crate) type Watch = Box<dyn FnMut(&str)>;

/// How a world is made.
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) nodes: usize,
    pub(crate) signing: Signing,
    pub(crate) mask: u32,
    pub(crate) traced: Traced,
    pub(crate) cards: Vec<Box<dyn Card>>,
    pub(crate) watch: Option<Watch>,
    pub(crate) programs: Programs,
}

/// Which programs the Pis have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Programs {
    /// All the current one.
    Current,
    /// None, some or all the one before, and in a storm some are upgraded or set back.
    Mixed,
}

/// Whether a hash over everything is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traced {
    Yes,
    No,
}

impl Setup {
    /// Plain cards, signatures by hash, every fault allowed, no trace.
    pub(crate) fn plain(seed: u64, nodes: usize) -> Self {
        Self {
            seed,
            nodes,
            signing: Signing::Hashed,
            mask: u32::MAX,
            traced: Traced::No,
            cards: memory_cards(nodes),
            watch: None,
            programs: Programs::Current,
        }
    }
}

/// Cards that work.
pub(crate) fn memory_cards(nodes: usize) -> Vec<Box<dyn Card>> {
    (0..nodes).map(|_| Box::<MemoryCard>::default() as Box<dyn Card>).collect()
}

/// How many acts of people a storm has at most: a crew has a few people, not a crowd.
const ACTS: u32 = 40;

/// The whole world.
pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) random: Random,
    pub(crate) faults: Faults,
    pub(crate) pis: Vec<Pi>,
    pub(crate) kube: Kube,
    pub(crate) keys: Keys,
    pub(crate) cards: Vec<Box<dyn Card>>,
    pub(crate) coordinator: Option<Coordinator>,
    /// When it began, and when the one before it ended.
    coordinator_began: u64,
    coordinator_ended: u64,
    /// What the coordinator stored last, to be shown when something is wrong.
    pub(crate) record: CoordinatorRecord,
    pub(crate) life: u32,
    coordinator_tick_at: u64,
    pub(crate) queue: BTreeMap<(u64, u64), Happening>,
    sequence: u64,
    pub(crate) retained: BTreeMap<String, (Topic, Vec<u8>)>,
    pub(crate) archive: Vec<(Topic, Vec<u8>)>,
    /// Everything that was delivered and done, in order, if somebody wants to know.
    pub(crate) trace: Option<Fnv>,
    /// The kinds of faults that are allowed.
    pub(crate) mask: u32,
    acts_left: u32,
    programs: Programs,
    /// The version in which the console asked last.
    asked_in: ProtocolVersion,
    /// The version in which the coordinator's state is kept.
    pub(crate) shown_in: ProtocolVersion,
    pub(crate) broker_down: bool,
    /// Steps of engines that hang.
    pub(crate) hung: Vec<(usize, u32, crate::pi::Job)>,
    /// The last attempt of each step that was sent.
    attempts: BTreeMap<String, String>,
    /// Steps that were sent under another id since the last event: of which operation, and the attempt before.
    sent_anew: Vec<(String, String)>,
    /// Commands that nodes have said to have come to nothing.
    pub(crate) ended_badly: BTreeSet<String>,
    /// Operations that were taken up again: steps that failed are tried once more, whatever came of their commands.
    reopened: BTreeSet<String>,
    /// Nodes that go down because their own button was pressed, by operation.
    pub(crate) pressed: BTreeMap<String, NodeName>,
    /// Nodes that are to be cordoned since the last event.
    pub(crate) asked_to_cordon: Vec<NodeName>,
    /// Which operation began which cordon in which turn.
    cordons_begun: BTreeMap<(String, NodeName), u64>,
    turns: u64,
    /// Nodes that a shutdown of all has cordoned.
    pub(crate) of_shutdown: BTreeSet<NodeName>,
    /// To which nodes a reset was sent, for which operation.
    pub(crate) resets: BTreeSet<(String, NodeName)>,
    /// Exclusive operations that the wire shows as running.
    pub(crate) exclusive: BTreeSet<String>,
    /// What each operation is, as the wire says.
    pub(crate) kinds: BTreeMap<String, OperationKind>,
    /// What is kept of the coordinator's state, read once.
    pub(crate) shown: Option<CoordinatorState>,
    /// What is kept of its operations, read once.
    summaries: BTreeMap<String, OperationSummary>,
    /// Operations that have ended.
    finished: BTreeSet<String>,
    /// Nodes that were drained to stay so.
    drained: BTreeSet<NodeName>,
    pub(crate) reached: Reached,
    /// Called with each line of the log.
    pub(crate) watch: Option<Watch>,
    /// How many actions were performed, on whatever end.
    pub(crate) performed: u64,
    /// The power of whoever performs that action goes before it.
    pub(crate) cut_at: Option<u64>,
    sessions: u64,
    pub(crate) responses: BTreeMap<RequestId, ConsoleResponse>,
    asking: BTreeMap<RequestId, ConsoleRequest>,
    pub(crate) asked: u32,
    /// What operators tell nodes without the coordinator.
    pub(crate) directs: crate::direct::Directs,
    /// How often each command's work began, for "no id runs twice".
    pub(crate) runs: BTreeMap<CommandId, u32>,
    /// The nodes that somebody cordoned by hand.
    pub(crate) by_hand: BTreeSet<NodeName>,
    /// Nodes that a command takes down, and in which boot, until they are back and ready.
    pub(crate) rolling_down: BTreeMap<NodeName, u32>,
    /// Checked after each event while set.
    pub(crate) max_down: Option<usize>,
    /// Nodes on which a pod runs that is not to be disturbed, and since when.
    pub(crate) busy: BTreeMap<NodeName, u64>,
    /// Operations that were forced.
    pub(crate) forced: BTreeSet<String>,
    /// Whether something can switch a Pi on.
    switch: PowerSwitch,
    /// Nobody presses a button or gives orders in between.
    pub(crate) undisturbed: bool,
    pub(crate) seed: u64,
    /// Delivered messages, completed actions, faults and operators' acts; no ticks.
    pub(crate) events: u64,
    pub(crate) operations_done: u64,
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

/// What keeps rolling work from a node here.
fn keeps() -> PodSelector {
    PodSelector { namespace: Some("data".into()), selector: "keep=yes".parse().unwrap() }
}

/// A look may be ten seconds old when its node's turn begins, and a coordinator may die before it says that it has begun.
const BLOCKED_FOR_SURE_MS: u64 = 60_000;

pub(crate) fn user() -> UserName {
    "ops".parse().unwrap()
}

impl World {
    /// A crew whose Pis are on and in no cluster.
    pub(crate) fn new(setup: Setup) -> Self {
        let Setup { seed, nodes, signing, mask, traced, cards, watch, programs } = setup;
        let mut world = Self {
            now: 1_000,
            random: Random(seed),
            faults: Faults::default(),
            pis: (1..=nodes).map(|number| Pi::new(name(number), number == 1)).collect(),
            kube: Kube::default(),
            keys: Keys::new(signing),
            cards,
            coordinator: None,
            coordinator_began: 0,
            coordinator_ended: 0,
            record: CoordinatorRecord::default(),
            life: 0,
            coordinator_tick_at: u64::MAX,
            queue: BTreeMap::new(),
            sequence: 0,
            retained: BTreeMap::new(),
            archive: Vec::new(),
            trace: (traced == Traced::Yes).then(Fnv::new),
            mask,
            acts_left: 0,
            programs,
            asked_in: ProtocolVersion::BEFORE,
            shown_in: ProtocolVersion::BEFORE,
            broker_down: false,
            hung: Vec::new(),
            attempts: BTreeMap::new(),
            sent_anew: Vec::new(),
            ended_badly: BTreeSet::new(),
            reopened: BTreeSet::new(),
            pressed: BTreeMap::new(),
            asked_to_cordon: Vec::new(),
            cordons_begun: BTreeMap::new(),
            turns: 0,
            of_shutdown: BTreeSet::new(),
            resets: BTreeSet::new(),
            exclusive: BTreeSet::new(),
            kinds: BTreeMap::new(),
            shown: None,
            summaries: BTreeMap::new(),
            finished: BTreeSet::new(),
            drained: BTreeSet::new(),
            reached: Reached::default(),
            watch,
            performed: 0,
            cut_at: None,
            sessions: 0,
            responses: BTreeMap::new(),
            asking: BTreeMap::new(),
            asked: 0,
            directs: crate::direct::Directs::default(),
            runs: BTreeMap::new(),
            by_hand: BTreeSet::new(),
            rolling_down: BTreeMap::new(),
            max_down: None,
            busy: BTreeMap::new(),
            forced: BTreeSet::new(),
            switch: if seed % 2 == 0 { PowerSwitch::Present } else { PowerSwitch::Absent },
            undisturbed: true,
            seed,
            events: 0,
            operations_done: 0,
            faults_done: 0,
            renewed: 0,
            partly: 0,
            went_off: Vec::new(),
            engine_log: Vec::new(),
        };
        // none, half, or all of them begin with the program before
        let before = match programs {
            Programs::Current => 0,
            Programs::Mixed => 500 * world.random.below(3),
        };
        for index in 0..nodes {
            if world.random.hits(before) {
                world.pis[index].speaks = ProtocolVersion::BEFORE;
            }
        }
        for index in 0..nodes {
            world.boot(index);
        }
        world.later(1_000, Happening::KubeLook);
        world.run_for(3_000);
        world
    }

    /// From now on things go wrong.
    pub(crate) fn storm(&mut self, faults: Faults) {
        self.faults = faults.masked(self.mask);
        if self.programs == Programs::Current {
            self.faults.programs = 0;
        }
        self.acts_left = ACTS;
        if self.faults.disasters > 0 {
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
            blockers: Blockers { pods: vec![keeps()], ..Blockers::default() },
            switch: self.switch,
            speaks: self.pis[0].speaks,
        }
    }

    /// A session that was never used before.
    pub(crate) fn nonce(&mut self) -> Nonce {
        self.sessions += 1;
        format!("{:08x}", self.sessions).parse().unwrap()
    }

    /// What the clock of a Pi shows: it counts from its boot, and may have leapt ahead.
    pub(crate) fn clock(&self, index: usize) -> Instant {
        Instant::from_ms(self.now + self.pis[index].ahead)
    }

    /// Something that counts has happened.
    pub(crate) fn event(&mut self) {
        self.events += 1;
    }

    /// A fault has happened.
    pub(crate) fn fault(&mut self, kind: &'static str) {
        self.events += 1;
        self.faults_done += 1;
        self.reached.note("fault", kind);
    }

    /// Adds to the hash over everything.
    pub(crate) fn trace(&mut self, bytes: impl FnOnce() -> Vec<u8>) {
        if let Some(trace) = &mut self.trace {
            trace.add(&bytes());
        }
    }

    pub(crate) fn later(&mut self, after_ms: u64, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((self.now + after_ms, self.sequence), happening);
    }

    /// One line of the log. It is made only where somebody reads it: in bulk that would be the longest part of all.
    pub(crate) fn note(&mut self, text: impl FnOnce() -> String) {
        let Some(watch) = &mut self.watch else { return };
        watch(&format!("{:>9} {}", self.now, text()));
    }

    /// Ends the run with a violation.
    #[track_caller]
    pub(crate) fn fail(&mut self, why: &str) -> ! {
        let operations = self.record.operations.clone();
        for operation in &operations {
            self.note(|| format!("stored: operation {} {} {}", operation.id, operation.kind, operation.phase));
            for step in operation.steps.iter().filter(|step| step.state != StepState::Skipped) {
                self.note(|| format!("stored:     {} {} {:?} {}", step.kind, step.node, step.state, step.reason));
            }
        }
        let (cordons, slots) = (self.record.cordons.clone(), self.record.slots.clone());
        self.note(|| format!("stored: cordons {cordons:?} slots {slots:?}"));
        panic!("at {} ms: {why}", self.now);
    }

    /// Lets the next thing happen.
    pub(crate) fn turn(&mut self) {
        let Some(((at, _), happening)) = self.queue.pop_first() else { self.fail("nothing will ever happen again") };
        self.now = self.now.max(at);
        self.turns += 1;
        match happening {
            Happening::Arrives(topic, bytes) => self.arrives(topic, &bytes),
            Happening::Hears(index, life, heard) => {
                if self.pis[index].life == life && self.pis[index].cut_until <= self.now {
                    self.event();
                    self.hears(index, heard);
                }
            }
            Happening::NodeTick(index, life) => self.node_tick(index, life),
            Happening::Heartbeat(index, life) => self.heartbeat(index, life),
            Happening::EngineEnds(index, life, job) => self.engine_ends(index, life, job),
            Happening::PowerTimer(index, life, timer) => self.power_timer(index, life, timer),
            Happening::Boots(index, count) => {
                if self.pis[index].boots == count && !self.pis[index].on && !self.pis[index].stays_dark {
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
            Happening::Looks(life, token, node) => {
                if life == self.life && self.coordinator.is_some() {
                    self.event();
                    self.looks(token, &node);
                }
            }
            Happening::Switches(life, token, node) => {
                if life == self.life && self.coordinator.is_some() {
                    self.event();
                    self.switches(token, &node);
                }
            }
            // another may have come meanwhile
            Happening::Frees(nodes, since) => self.busy.retain(|node, at| *at != since || !nodes.contains(node)),
            Happening::ConsoleAsks(id) => self.console_asks(&id),
            Happening::Tells(index) => self.tells(index),
            Happening::TellsAgain(id) => self.tells_again(&id),
            Happening::BrokerStarts => self.broker_starts(),
            Happening::Unblocks => self.kube.blocked = None,
            Happening::IsOff(index, boots, since) => {
                let pi = &self.pis[index];
                if pi.on
                    && pi.boots == boots
                    && pi.down_since == Some(since)
                    && pi.core.is_some()
                    && pi.goal == Some(PowerGoal::PowerOff)
                {
                    let name = pi.name.clone();
                    self.fail(&format!("{name} was told by its button to go off, and has not gone"));
                }
            }
            Happening::Disaster => {
                self.disaster();
                if self.faults.disasters > 0 {
                    let after = self.random.between(2_000, 30_000);
                    self.later(after, Happening::Disaster);
                }
            }
        }
        self.check();
        if self.acts_left > 0 && self.random.hits(self.faults.acts) {
            self.acts_left -= 1;
            self.act();
            self.check();
        }
    }

    fn check(&mut self) {
        let back = self.rolling_down.iter().filter(|(node, boots)| self.is_back(node, **boots));
        let back: Vec<NodeName> = back.map(|(node, _)| node.clone()).collect();
        for node in back {
            self.rolling_down.remove(&node);
        }
        // asked only now: what the wire says of the operation comes after what it asks for
        for node in core::mem::take(&mut self.asked_to_cordon) {
            // one that died in between has not said it
            if self.coordinator.is_some() {
                self.cordons(&node);
            }
        }
        for (operation, before) in core::mem::take(&mut self.sent_anew) {
            if self.coordinator.is_some() && !self.reopened.contains(&operation) {
                self.fail(&format!("another attempt is sent, and nobody knows what came of {before}"));
            }
        }
        if let Some((id, runs)) = self.runs.iter().find(|(_, runs)| **runs > 1) {
            self.fail(&format!("the command {id} ran {runs} times"));
        }
        if self.exclusive.len() > 1 {
            let all = self.exclusive.clone();
            self.fail(&format!("two exclusive operations at once: {all:?}"));
        }
        if let Some(max) = self.max_down {
            let mut down: BTreeSet<NodeName> = self.rolling_down.keys().cloned().collect();
            down.extend(self.kube.cordoned().into_iter().filter(|node| !self.by_hand.contains(node)));
            if down.len() > max {
                self.fail(&format!("down or cordoned at once by rolling work: {down:?}"));
            }
        }
    }

    /// On in a boot after that one, its kubelet running, and Kubernetes says ready of this very boot.
    pub(crate) fn is_back(&self, node: &NodeName, boots: u32) -> bool {
        let Some(pi) = self.pis.iter().find(|pi| pi.name == *node) else { return false };
        let master = &self.pis[0];
        pi.kept == Kept::Blank || (pi.on && pi.boots > boots && pi.running && self.kube.is_ready(self.now, master, pi))
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
        self.note(|| "calm".into());
        if self.needs_programs() {
            self.everybody_current();
        }
        self.kube.blocked = None;
        self.busy.clear();
        for (index, life, job) in core::mem::take(&mut self.hung) {
            self.later(0, Happening::EngineEnds(index, life, job));
        }
        for index in 0..self.pis.len() {
            let life = self.pis[index].life;
            if self.pis[index].cut_until > self.now {
                self.pis[index].cut_until = 0;
                self.reconnects(index, life);
            }
            let pi = &self.pis[index];
            if !pi.on && pi.returns {
                self.boot(index);
            } else if !pi.on && pi.stays_dark {
                // somebody plugs it in again
                self.boot(index);
            }
        }
    }

    // ---- what keeps work from a node

    /// A pod that is not to be disturbed runs on these nodes for a while.
    pub(crate) fn keeps_busy(&mut self, nodes: Vec<NodeName>, for_ms: u64) {
        self.note(|| format!("kept busy for {for_ms} ms: {nodes:?}"));
        for node in &nodes {
            self.busy.insert(node.clone(), self.now);
        }
        self.later(for_ms, Happening::Frees(nodes, self.now));
    }

    fn looks(&mut self, token: u64, node: &NodeName) {
        let shown = if self.kube.serves(&self.pis[0]) {
            let label = Label { key: "keep".into(), value: "yes".into() };
            let pod = Pod { namespace: "data".into(), name: "db-0".into(), labels: vec![label] };
            let pods = self.busy.contains_key(node).then_some(pod);
            Ok(Shown { labels: Vec::new(), pods: pods.into_iter().collect() })
        } else {
            Err(Text::cut("no answer"))
        };
        self.reached.note("look", if shown.is_err() { "in vain" } else { "found" });
        let facts = Box::new(Facts { shown, minute: None, command: Said::Go });
        self.coordinate(coordinator::Event::Looked { token, facts });
    }

    fn switches(&mut self, token: u64, node: &NodeName) {
        let fails = self.random.below(4) == 0;
        self.reached.note("switch", if fails { "fails" } else { "feeds" });
        let index = self.pis.iter().position(|pi| pi.name == *node).unwrap();
        if !fails && !self.pis[index].on && !self.pis[index].returns {
            self.boot(index);
        }
        let outcome = if fails { Err(Text::cut("no route")) } else { Ok(()) };
        self.coordinate(coordinator::Event::Switched { token, outcome });
    }

    /// Rolling work that nobody forced has begun on a node: nothing may have kept it from there for long.
    fn keeps_away(&mut self, report: &OperationNode) {
        let Some(since) = self.busy.get(&report.node).copied() else { return };
        let Some(summary) = self.summaries.get(report.id.as_str()) else { return };
        let rolling = matches!(
            summary.kind,
            OperationKind::Reboot
                | OperationKind::Upgrade
                | OperationKind::NodeReboot
                | OperationKind::NodeDrain
                | OperationKind::NodeLeave
                | OperationKind::NodeShutdown
        );
        let ordered = rolling && summary.requested_by.as_str().starts_with("user:");
        // what a coordinator says first of all, the one before it may have begun, who died before it could say so
        let decided = if self.now == self.coordinator_began { self.coordinator_ended } else { self.now };
        let for_long = decided.saturating_sub(since) > BLOCKED_FOR_SURE_MS;
        if ordered && !self.forced.contains(report.id.as_str()) && for_long {
            self.fail(&format!("{} is emptied, and a pod was to be left alone there", report.node));
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
        let version = self.version_for(kind);
        self.ask(Ask::Operation { kind, node, version, force: Force::No }, Mode::Execute)
    }

    fn console_asks(&mut self, id: &RequestId) {
        let Some(request) = self.asking.get(id) else { return };
        let mut request = request.clone();
        if let Some(shown) = &self.shown {
            request.nonce = shown.session.nonce.clone();
            self.event();
            self.say(Topic::ConsoleRequest(user()), &request);
        }
        self.later(1_000, Happening::ConsoleAsks(id.clone()));
    }

    /// The answer, once it is there.
    pub(crate) fn answer(&mut self, id: &RequestId) -> ConsoleResponse {
        // a coordinator of forty Pis that dies every other second takes its time
        let limit_ms = if self.faults.disasters == 0 { 300_000 } else { 900_000 };
        self.run_until("answered", limit_ms, |world| {
            // an ordered shutdown that ran on took it down again, and people see that nobody answers
            if !world.undisturbed && world.faults.disasters == 0 {
                world.switch_on();
            } else if !world.undisturbed && !world.pis[0].on && !world.pis[0].returns {
                world.boot(0);
            }
            world.responses.contains_key(id)
        });
        self.responses[id].clone()
    }

    /// People switch on what is off and does not come back by itself.
    pub(crate) fn switch_on(&mut self) {
        for index in 0..self.pis.len() {
            if !self.pis[index].on && !self.pis[index].returns {
                self.boot(index);
            }
        }
    }

    pub(crate) fn phase(&self, id: &RequestId) -> Option<OperationPhase> {
        self.summaries.get(id.as_str()).map(|summary| summary.phase)
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
        self.record = self.cards[0].load_coordinator();
        self.sees_what_is_resumed();
        let (core, actions) = Coordinator::start(self.clock(0), self.config(), first, self.record.clone());
        let life = self.life;
        self.note(|| format!("coordinator starts (life {life})"));
        self.coordinator = Some(core);
        self.coordinator_began = self.now;
        self.perform(actions);
        self.coordinator_subscribes();
        self.kube.shown = None;
        self.tick_coordinator();
    }

    /// Its subscriptions bring what the broker keeps.
    pub(crate) fn coordinator_subscribes(&mut self) {
        let kept: Vec<_> = self.retained.values().cloned().collect();
        for (topic, bytes) in kept {
            if matches!(topic, Topic::Presence(_) | Topic::State(_)) {
                let after = self.random.between(1, 60);
                self.later(after, Happening::Arrives(topic, bytes));
            }
        }
    }

    pub(crate) fn stop_coordinator(&mut self) {
        if self.coordinator.take().is_some() {
            self.coordinator_ended = self.now;
        }
        self.life += 1;
        self.coordinator_tick_at = u64::MAX;
    }

    pub(crate) fn coordinate(&mut self, event: coordinator::Event) {
        let now = self.clock(0);
        let Some(core) = &mut self.coordinator else { return };
        let actions = core.step(now, event);
        self.perform(actions);
        self.tick_coordinator();
    }

    fn tick_coordinator(&mut self) {
        let now = self.clock(0);
        let Some(core) = &self.coordinator else { return };
        let at = (core.next_deadline(now).as_ms() - self.pis[0].ahead).max(self.now + 1);
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
            self.trace(|| format!("{action:?}").into_bytes());
            if self.cuts_here() {
                self.fault("power cut");
                self.note(|| format!("the master's power goes before {action:?}"));
                self.power_cut(0);
                return;
            }
            if self.random.hits(self.faults.crash) {
                self.fault("coordinator crash");
                self.note(|| "the coordinator dies between two actions".into());
                self.stop_coordinator();
                let after = self.random.between(200, 5_000);
                let life = self.life;
                self.later(after, Happening::CoordinatorStarts(life));
                return;
            }
            match action {
                coordinator::Action::Store(record) => {
                    match self.writes(|world| world.cards[0].save_coordinator(&record)) {
                        Saved::Yes => {
                            self.record = *record;
                            self.sees_what_is_resumed();
                        }
                        Saved::No => {
                            self.note(|| "the coordinator's store fails".into());
                            let now = self.clock(0);
                            if let Some(core) = &mut self.coordinator {
                                // as the task does: what it answers now is dropped too
                                let _ = core.step(now, coordinator::Event::StoreFailed);
                            }
                            return;
                        }
                        Saved::PowerGone => {
                            self.note(|| "the master's power goes while the coordinator stores".into());
                            self.power_cut(0);
                            return;
                        }
                    }
                }
                coordinator::Action::Command { node, version, mut command, secret } => {
                    self.note(|| format!("-> {node} {:?} {} in version {version}", command.verb.name(), command.id));
                    self.reached.note("command in version", crate::reached::version_word(version));
                    self.sends(&node, &command);
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
                    self.say_in(version, Topic::Command(node), &*command);
                }
                coordinator::Action::Respond { user, response } => {
                    self.note(|| format!("answer {:?} {} {}", response.status, response.code, response.text));
                    self.say_in(self.asked_in.max(response.since()), Topic::ConsoleResponse(user), &*response);
                }
                coordinator::Action::State(state) => {
                    for member in &state.members {
                        self.reached.note("membership", member.membership.as_str());
                    }
                    self.shown_in = self.core_version();
                    self.reached.note("broadcast in version", crate::reached::version_word(self.shown_in));
                    self.say(Topic::CoordinatorState, &*state);
                    let kept = self.retained.get(Topic::CoordinatorState.name(&broker::crew()).as_str());
                    self.shown = kept.map(|(_, bytes)| decode(bytes).unwrap());
                    for index in 0..self.pis.len() {
                        self.tell(index);
                    }
                }
                coordinator::Action::Look { token, node } => {
                    let after = self.random.between(10, 3_000);
                    self.later(after, Happening::Looks(self.life, token, node));
                }
                coordinator::Action::SwitchOn { token, node } => {
                    let after = self.random.between(10, 3_000);
                    self.later(after, Happening::Switches(self.life, token, node));
                }
                coordinator::Action::Certify { .. } => unreachable!("nobody here asks for a certificate"),
                coordinator::Action::NewSession => {
                    self.note(|| "the coordinator's session is renewed".into());
                    self.renewed += 1;
                    let nonce = self.nonce();
                    renewal = Some(coordinator::Event::Session(nonce));
                }
                coordinator::Action::Operation(summary) => {
                    self.sees_operation(&summary);
                    self.say(Topic::Operation(summary.id.clone()), &*summary);
                }
                coordinator::Action::OperationNode(report) => {
                    for step in &report.steps {
                        self.reached.note("step", step.step.as_str());
                        self.reached.note("step state", step.state.as_str());
                        if step.step == StepKind::Cordon && step.state == StepState::Running {
                            let key = (report.id.as_str().to_owned(), report.node.clone());
                            let first = !self.cordons_begun.contains_key(&key);
                            self.cordons_begun.entry(key).or_insert(self.turns);
                            if first {
                                self.keeps_away(&report);
                            }
                        }
                        // given up, and said so: it may come back before the master is reset
                        if step.step == StepKind::Reset && step.state == StepState::Failed {
                            self.resets.insert((report.id.as_str().to_owned(), report.node.clone()));
                        }
                    }
                    let topic = Topic::OperationNode(report.id.clone(), report.node.clone());
                    self.say(topic, &*report);
                }
                coordinator::Action::Clear(topic) => {
                    if let Topic::Operation(id) = &topic {
                        self.summaries.remove(id.as_str());
                    }
                    self.retained.remove(topic.name(&broker::crew()).as_str());
                }
                coordinator::Action::Tell(event) => {
                    self.note(|| format!("event {:?} {}", event.kind, event.detail));
                }
                coordinator::Action::Kube { token, work, deadline_ms } => {
                    assert!(deadline_ms > 0, "no time for {work:?}");
                    self.kube_begins(token, work);
                }
            }
        }
        if let Some(event) = renewal {
            self.coordinate(event);
        }
    }

    /// A command goes out.
    fn sends(&mut self, node: &NodeName, command: &Command) {
        let Some(operation) = &command.operation else { return };
        let operation = operation.as_str().to_owned();
        // another attempt is another id, and there is one only where the attempt before has come to nothing. What a join needs
        // is not stored, so that one is made anew by a coordinator that has started again
        let (step, attempt) = command.id.as_str().rsplit_once('-').unwrap();
        let before = self.attempts.insert(step.to_owned(), attempt.to_owned()).filter(|before| before != attempt);
        let before = before.map(|before| format!("{step}-{before}"));
        if let Some(before) = before.filter(|before| !self.ended_badly.contains(before)) {
            if !matches!(command.verb, Verb::Join { .. }) {
                self.sent_anew.push((operation.clone(), before));
            }
        }
        if !matches!(command.verb, Verb::Reset) {
            return;
        }
        let master = self.pis[0].name.clone();
        if *node == master {
            // the master is reset last: every other member was told before
            let cluster = self.pis[0].kept.clone();
            let left = self.pis.iter().skip(1).find(|pi| {
                let told = self.resets.contains(&(operation.clone(), pi.name.clone()));
                pi.on && pi.cut_until <= self.now && pi.running && pi.kept == cluster && !told
            });
            if let Some(left) = left.map(|pi| pi.name.clone()) {
                self.fail(&format!("the master is reset before {left}"));
            }
        }
        self.resets.insert((operation, node.clone()));
    }

    /// An operator has had an operation taken up again. One that was paused had not ended on the wire, so it is the answer that
    /// tells; it is stored before anything of it is done, and a coordinator may die before it says it.
    fn sees_what_is_resumed(&mut self) {
        let resumed = self.record.answers.iter().filter(|answered| answered.code.as_str() == "resumed");
        let operations = resumed.filter_map(|answered| answered.operation.as_ref());
        self.reopened.extend(operations.map(|id| id.as_str().to_owned()));
    }

    /// What the wire says of an operation.
    fn sees_operation(&mut self, summary: &OperationSummary) {
        self.reached.note("operation", summary.kind.as_str());
        self.reached.note("phase", summary.phase.as_str());
        let id = summary.id.as_str().to_owned();
        self.summaries.insert(id.clone(), summary.clone());
        self.kinds.insert(id.clone(), summary.kind);
        match &summary.node {
            Some(node) if summary.requested_by.as_str().starts_with("node:") && !summary.phase.is_final() => {
                self.pressed.insert(id.clone(), node.clone());
            }
            Some(_) | None => {
                self.pressed.remove(&id);
            }
        }
        if !summary.phase.is_final() && self.finished.contains(&id) {
            self.reopened.insert(id.clone());
        }
        if summary.phase.is_final() && self.finished.insert(id.clone()) {
            self.operations_done += 1;
        }
        if let (OperationKind::NodeUncordon, OperationPhase::Done, Some(node)) =
            (summary.kind, summary.phase, &summary.node)
        {
            // an operator has freed its slot
            self.rolling_down.remove(node);
        }
        if let (OperationKind::NodeDrain, OperationPhase::Done, Some(node)) =
            (summary.kind, summary.phase, &summary.node)
        {
            self.drained.insert(node.clone());
        }
        let local = summary.requested_by.as_str().starts_with("node:")
            && matches!(summary.kind, OperationKind::NodeShutdown | OperationKind::NodeReboot)
            // a slot is freed beside what runs
            || matches!(summary.kind, OperationKind::NodeIdentify | OperationKind::NodeUncordon);
        let runs = matches!(summary.phase, OperationPhase::Running | OperationPhase::Aborting);
        if runs && !local {
            self.exclusive.insert(id);
        } else {
            self.exclusive.remove(&id);
        }
    }

    /// Rolling work cordons a node: nobody else may be down or drained by it. Who goes down by a button, or was cordoned for a
    /// shutdown of all, is not its work.
    fn cordons(&mut self, node: &NodeName) {
        let kinds: Vec<OperationKind> = self.exclusive.iter().filter_map(|id| self.kinds.get(id)).copied().collect();
        if kinds.contains(&OperationKind::Shutdown) {
            self.of_shutdown.insert(node.clone());
        }
        let pressed = self.pressed.values().any(|held| held == node);
        // what began in an earlier turn goes on, and is asked for again
        let turn = self.turns;
        let mut begins = false;
        for id in self.exclusive.clone() {
            begins |= *self.cordons_begun.entry((id, node.clone())).or_insert(turn) == turn;
        }
        let rolls = kinds.iter().any(|kind| {
            matches!(
                kind,
                OperationKind::Reboot
                    | OperationKind::NodeReboot
                    | OperationKind::NodeDrain
                    | OperationKind::NodeLeave
                    | OperationKind::NodeShutdown
            )
        });
        if pressed || !rolls || !begins {
            return;
        }
        // the Node of one that was reset is nobody's work any more
        let member = |held: &NodeName| {
            let kept = self.kube.cluster.clone().map(Kept::Member);
            self.pis.iter().any(|pi| pi.name == *held && Some(&pi.kept) == kept.as_ref())
        };
        let counts = |held: &NodeName| held != node && !self.of_shutdown.contains(held) && member(held);
        let down = self.rolling_down.keys().find(|held| *held != node && !self.of_shutdown.contains(*held)).cloned();
        let other = self.cordons_left().into_iter().find(counts).or(down);
        if let Some(other) = other {
            self.fail(&format!("{node} is cordoned by rolling work while {other} is"));
        }
    }

    /// A write to a card, which may fail, or be cut off by the power's end.
    pub(crate) fn writes(&mut self, save: impl FnOnce(&mut Self) -> Saved) -> Saved {
        if self.random.hits(self.faults.store) {
            self.fault("store fails");
            return Saved::No;
        }
        if self.random.hits(self.faults.torn) {
            match self.random.below(3) {
                0 => {
                    self.fault("power cut after a write");
                    let _ = save(self);
                }
                1 => self.fault("torn write"),
                _ => self.fault("lost write"),
            }
            return Saved::PowerGone;
        }
        save(self)
    }

    // ---- people and disasters

    pub(crate) fn press(&mut self, index: usize, press: Press) {
        self.event();
        let name = self.pis[index].name.clone();
        self.reached.note(
            "act",
            match press {
                Press::Short => "short press",
                Press::Double => "double press",
                Press::PowerOff => "hold",
                Press::Reset => "long hold",
                Press::Nothing => "nothing",
            },
        );
        self.note(|| format!("{name} pressed: {press:?}"));
        self.node(index, beehive_cluster::node::Event::ButtonDown);
        self.node(index, beehive_cluster::node::Event::Press(press));
        if let (Some(PowerGoal::PowerOff), Some(since)) = (self.pis[index].goal, self.pis[index].down_since) {
            let boots = self.pis[index].boots;
            self.later(crate::pi::DOWN_WITHIN_MS, Happening::IsOff(index, boots, since));
        }
    }

    /// Somebody stops or restarts the system of a Pi; both doors say so.
    pub(crate) fn system_stops(&mut self, index: usize, goal: PowerGoal) {
        self.event();
        self.reached.note("act", "system stops");
        let name = self.pis[index].name.clone();
        self.note(|| format!("the system of {name} is stopped by somebody: {goal:?}"));
        if self.pis[index].core.is_none() {
            return; // nobody there who could wait for it
        }
        self.pis[index].system_stops = Some(goal);
        self.node(index, beehive_cluster::node::Event::SystemStopping);
        self.node(index, beehive_cluster::node::Event::SystemStopping);
    }

    /// An operator does something in the middle of what runs.
    pub(crate) fn act(&mut self) {
        let whom = self.any_pi();
        match self.random.below(17) {
            14 | 15 => self.tells(whom),
            16 => self.coordinator_is_stopped(),
            0 => self.press(whom, Press::Double),
            1 => self.press(whom, Press::PowerOff),
            2 => self.press(whom, Press::Reset),
            3 => self.press(whom, Press::Short),
            4 => {
                let goal = if self.random.below(2) == 0 { PowerGoal::Reboot } else { PowerGoal::PowerOff };
                self.system_stops(whom, goal);
            }
            5 => {
                self.ask(Ask::Abort, Mode::Execute);
            }
            6 => {
                self.ask(Ask::Resume, Mode::Execute);
            }
            7 => {
                self.operation(OperationKind::NodeIdentify, Some(name(whom + 1)));
            }
            _ => self.asks_for_anything(whom),
        }
    }

    /// An order that makes sense, or none: what is refused must do nothing.
    pub(crate) fn asks_for_anything(&mut self, whom: usize) {
        const KINDS: [OperationKind; 15] = [
            OperationKind::Create,
            OperationKind::Rebuild,
            OperationKind::Reset,
            OperationKind::Reboot,
            OperationKind::Upgrade,
            OperationKind::Shutdown,
            OperationKind::Start,
            OperationKind::NodeDrain,
            OperationKind::NodeUncordon,
            OperationKind::NodeJoin,
            OperationKind::NodeLeave,
            OperationKind::NodeReset,
            OperationKind::NodeReboot,
            OperationKind::NodeShutdown,
            OperationKind::NodeIdentify,
        ];
        let kind = KINDS[usize::try_from(self.random.below(KINDS.len() as u64)).unwrap()];
        let node = match self.random.below(20) {
            0 => None,
            1 => Some(name(999)),
            _ => Some(name(whom + 1)),
        };
        let mode = if self.random.below(3) == 0 { Mode::DryRun } else { Mode::Execute };
        let version = self.version_for(kind);
        self.ask(Ask::Operation { kind, node, version, force: Force::No }, mode);
    }

    /// Another one each time.
    fn version_for(&self, kind: OperationKind) -> Text<32> {
        if kind == OperationKind::Upgrade { Text::format(format_args!("v{}", self.asked)) } else { Text::new() }
    }

    pub(crate) fn any_pi(&mut self) -> usize {
        usize::try_from(self.random.below(self.pis.len() as u64)).unwrap()
    }

    /// A machine stood still, or its clock leaps ahead.
    pub(crate) fn leaps(&mut self, index: usize) {
        self.fault("clock jump");
        let by = self.random.between(1_000, 120_000);
        let name = self.pis[index].name.clone();
        self.note(|| format!("the clock of {name} leaps ahead by {by} ms"));
        self.pis[index].ahead += by;
        self.leaps_of_hearing(index, by);
        self.node(index, beehive_cluster::node::Event::Tick);
        if index == 0 {
            self.coordinate(coordinator::Event::Tick);
        }
    }

    fn disaster(&mut self) {
        if self.faults.disasters == 0 {
            return;
        }
        let index = self.any_pi();
        let name = self.pis[index].name.clone();
        match self.random.below(18) {
            16..=17 if self.faults.programs > 0 => self.another_program(index),
            15 if self.faults.broker > 0 => self.broker_stops(),
            14 if self.faults.clocks > 0 => {
                self.leaps(index);
            }
            13 if self.faults.blocks > 0 => {
                self.fault("drain blocks");
                self.note(|| format!("drains of {name} are blocked"));
                self.kube.blocked = Some(name);
                let after = self.random.between(5_000, 200_000);
                self.later(after, Happening::Unblocks);
            }
            10..=12 => {
                self.fault("partition");
                self.note(|| format!("the network of {name} is cut"));
                self.partition(index);
            }
            0..=2 => {
                self.fault("agent crash");
                self.note(|| format!("the agent of {name} dies"));
                self.agent_dies(index);
            }
            3..=5 => {
                self.fault("power cut");
                self.note(|| format!("the power of {name} goes"));
                self.power_cut(index);
            }
            _ => {
                self.fault("coordinator crash");
                self.note(|| "the coordinator dies".into());
                self.stop_coordinator();
                let after = self.random.between(200, 5_000);
                let life = self.life;
                self.later(after, Happening::CoordinatorStarts(life));
            }
        }
    }

    /// A Pi is upgraded, or set back to the program before.
    fn another_program(&mut self, index: usize) {
        match self.pis[index].speaks {
            ProtocolVersion::V1 => self.put_program(index, ProtocolVersion::V2),
            // the program before cannot read a record of what it does not know, so nobody sets back what has one
            ProtocolVersion::V2 if self.keeps_what_is_new(index) => {}
            ProtocolVersion::V2 => self.put_program(index, ProtocolVersion::V1),
        }
    }

    fn keeps_what_is_new(&self, index: usize) -> bool {
        let node = format!("{:?}", self.pis[index].stored).contains("Upgrade");
        node || (index == 0 && self.record.operations.iter().any(|held| held.kind == OperationKind::Upgrade))
    }

    /// Its daemon starts anew with this program; its engine runs on.
    fn put_program(&mut self, index: usize, version: ProtocolVersion) {
        if self.pis[index].speaks == version {
            return;
        }
        self.pis[index].speaks = version;
        let name = self.pis[index].name.clone();
        self.fault(match version {
            ProtocolVersion::V1 => "set back",
            ProtocolVersion::V2 => "upgrade",
        });
        self.note(|| format!("{name} gets the program of version {version}"));
        self.agent_dies(index);
        if index == 0 {
            self.stop_coordinator();
            let after = self.random.between(200, 5_000);
            let life = self.life;
            self.later(after, Happening::CoordinatorStarts(life));
        }
    }

    /// Whether some Pi has the program before.
    pub(crate) fn is_mixed(&self) -> bool {
        self.pis.iter().any(|pi| pi.speaks < ProtocolVersion::CURRENT)
    }

    /// People upgrade beehive on every Pi, the master first.
    pub(crate) fn everybody_current(&mut self) {
        for index in 0..self.pis.len() {
            self.put_program(index, ProtocolVersion::CURRENT);
        }
    }

    /// An upgrade of the engines that is not done waits for programs that know how.
    fn needs_programs(&self) -> bool {
        self.summaries.values().any(|held| held.kind == OperationKind::Upgrade && held.phase != OperationPhase::Done)
    }

    /// The coordinator's state arrives at a node.
    pub(crate) fn hears(&mut self, index: usize, heard: Heard) {
        let Heard { session, written } = heard;
        if written > self.pis[index].speaks {
            self.reached.refusal("node", "unknown-version");
            return;
        }
        self.hears_a_coordinator(index);
        self.node(index, beehive_cluster::node::Event::Coordinator(session.clone()));
        let pi = &mut self.pis[index];
        let Some(core) = &mut pi.core else { return };
        let before = core.writes();
        core.follow(&session, written);
        if core.writes() != before {
            self.publish_anew(index);
        }
    }

    /// What the coordinator writes to everybody in.
    pub(crate) fn core_version(&self) -> ProtocolVersion {
        self.coordinator.as_ref().map_or(ProtocolVersion::BEFORE, Coordinator::broadcast_version)
    }

    /// The coordinator answers that it cannot read a request, and whoever asked for what it does not know gives up.
    fn cannot_be_read(&mut self, request: &ConsoleRequest) {
        // what it would understand is asked again, in the version in which it speaks by then
        let understood = request.since() <= self.pis[0].speaks;
        if understood || self.coordinator.is_none() || self.asking.remove(&request.id).is_none() {
            return;
        }
        let response = ConsoleResponse {
            id: request.id.clone(),
            status: ResponseStatus::Invalid,
            code: Text::cut("unknown-version"),
            text: Text::new(),
            operation: None,
            plan: Default::default(),
            audit: AuditHead::NONE,
            sealed: None,
        };
        self.responses.insert(request.id.clone(), response);
    }

    /// Whether whoever listens to this topic reads that version.
    fn is_read(&mut self, topic: &Topic, version: ProtocolVersion) -> bool {
        let (by, speaks) = match topic {
            Topic::Command(node) | Topic::Direct(_, node) => {
                let speaks = self.pis.iter().find(|pi| pi.name == *node).map(|pi| pi.speaks);
                ("node", speaks.unwrap_or(ProtocolVersion::BEFORE))
            }
            Topic::Presence(_) | Topic::State(_) | Topic::Result(_) | Topic::Request(_) | Topic::ConsoleRequest(_) => {
                ("coordinator", self.pis[0].speaks)
            }
            // each node looks for itself; the console is of today
            Topic::CoordinatorState
            | Topic::ConsoleResponse(_)
            | Topic::Info(_)
            | Topic::Telemetry(_)
            | Topic::Event(_)
            | Topic::CoordinatorPresence
            | Topic::Operation(_)
            | Topic::OperationNode(..)
            | Topic::Manifest
            | Topic::CoordinatorEvent => return true,
        };
        if version > speaks {
            self.reached.refusal(by, "unknown-version");
        }
        version <= speaks
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
        self.summaries.values().any(|summary| summary.failures.iter().any(|failure| failure.node == *node))
    }

    /// Whether the coordinator was shown that a node is cordoned.
    pub(crate) fn sees_cordon(&self, node: &NodeName) -> bool {
        let shown = self.kube.shown.as_ref().and_then(|view| view.node(node));
        self.coordinator.is_some() && shown.is_some_and(|seen| seen.scheduling == Scheduling::Cordoned)
    }

    /// Whether the wire shows an operation that is paused.
    pub(crate) fn is_paused(&self) -> bool {
        self.summaries.values().any(|summary| summary.phase == OperationPhase::Paused)
    }

    /// Whether a drain that is done has left this node cordoned, to stay so.
    pub(crate) fn drained_to_stay(&self, index: usize) -> bool {
        let node = &self.pis[index].name;
        self.drained.contains(node) && self.cordons_left().contains(node)
    }

    /// Whether a node is cordoned whose reset failed: it keeps its slot until somebody frees it.
    pub(crate) fn half_reset(&self, index: usize) -> bool {
        let pi = &self.pis[index];
        pi.kept == Kept::HalfReset && self.cordons_left().contains(&pi.name)
    }

    /// Nobody but `by_hand` is cordoned.
    pub(crate) fn cordons_left(&self) -> Vec<NodeName> {
        self.kube.cordoned().into_iter().filter(|node| !self.by_hand.contains(node)).collect()
    }

    /// Whether the coordinator says of any node that it holds a slot.
    pub(crate) fn slots_held(&self) -> bool {
        self.shown.as_ref().is_none_or(|state| state.members.iter().any(|member| member.slot == Slot::Held))
    }

    fn arrives(&mut self, topic: Topic, bytes: &[u8]) {
        use coordinator::Event;
        self.event();
        let version = self.keys.check(&topic, bytes);
        self.trace(|| topic.name(&broker::crew()).as_bytes().to_vec());
        self.trace(|| bytes.to_vec());
        if !self.is_read(&topic, version) {
            if let Topic::ConsoleRequest(_) = topic {
                self.cannot_be_read(&decode(bytes).unwrap());
            }
            return;
        }
        match topic {
            Topic::Command(node) => {
                let command: Command = decode(bytes).unwrap();
                let index = self.pis.iter().position(|pi| pi.name == node).unwrap();
                let key = self.keys.key(&Topic::Command(node));
                self.node(index, beehive_cluster::node::Event::Command { key, command: Box::new(command) });
            }
            Topic::Presence(node) => {
                let presence: Presence = decode(bytes).unwrap();
                self.coordinate(Event::Presence { node, presence });
            }
            Topic::State(node) => {
                let state: NodeState = decode(bytes).unwrap();
                self.reached.note("lifecycle", beehive_cluster::node::lifecycle_word(state.lifecycle));
                self.reached.note("power", crate::reached::power_word(state.power));
                self.coordinate(Event::State { node, state: Box::new(state) });
            }
            Topic::Result(node) => {
                let result: CommandResult = decode(bytes).unwrap();
                self.reached.note("command", crate::reached::status_word(result.status));
                self.answers_direct(&result);
                if result.status == beehive_mqtt::node::CommandStatus::Rejected {
                    self.reached.refusal("node", result.code.as_str());
                }
                self.coordinate(Event::Result { node, result });
            }
            Topic::Request(node) => {
                let request: NodeRequest = decode(bytes).unwrap();
                self.coordinate(Event::Request { node, request });
            }
            Topic::Direct(user, node) => {
                let request: DirectRequest = decode(bytes).unwrap();
                self.direct_arrives(&user, &node, request);
            }
            Topic::ConsoleRequest(user) => {
                let request: ConsoleRequest = decode(bytes).unwrap();
                let key = self.keys.key(&Topic::ConsoleRequest(user.clone()));
                self.asked_in = version;
                self.coordinate(Event::Console { user, key, request });
            }
            Topic::ConsoleResponse(_) => {
                let response: ConsoleResponse = decode(bytes).unwrap();
                if response.status == ResponseStatus::Refused {
                    self.reached.refusal("coordinator", response.code.as_str());
                }
                if response.code.as_str() == "stale-nonce" {
                    return; // it asks again, with the session that it has heard of by then
                }
                self.asking.remove(&response.id);
                self.responses.insert(response.id.clone(), response);
            }
            // kept, and played again
            Topic::CoordinatorState => {
                let session = decode::<CoordinatorState>(bytes).unwrap().session;
                let heard = Heard { session, written: version };
                for index in 0..self.pis.len() {
                    self.hears(index, heard.clone());
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
