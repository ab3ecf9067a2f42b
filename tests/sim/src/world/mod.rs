//! The world: broker, engines, power and Kubernetes are simulated, and so is time. One seed decides everything, so a seed
//! replays exactly.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`faults`] | what goes wrong, how often, and the chance that decides |
//! | [`master`] | the coordinator's life: its starts and deaths, and what it does |
//! | [`people`] | who presses, asks and upgrades, what keeps work from a node, and disasters |
//! | [`order`] | asserted too: what has to be done before what |
//! | [`oracle`] | what is asserted: it reads the simulated world (power, engines, Kubernetes, who ran what) and the wire, never the cores |

mod faults;
mod master;
mod oracle;
mod order;
mod people;

pub(crate) use faults::{FAULTS, Faults, Random};

use crate::broker;
use crate::campaign::Cuts;
use crate::card::{Card, Cut, Left, MemoryCard, Saved};
use crate::reached::Reached;
use crate::sign::{self, Fnv, Keys, Signing};
use beehive_cluster::blockers::{Blockers, Facts, Label, Pod, PodSelector, Said, Shown};
use beehive_cluster::coordinator::{
    self, BrokerLink, Coordinator, CoordinatorConfig, CoordinatorRecord, FirstSession, PowerSwitch,
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
use beehive_mqtt::node::{CommandResult, NodeRequest, NodeState, PowerGoal, PowerPhase, Presence};
use beehive_mqtt::{
    ClusterId, CommandId, NodeName, Nonce, Payload as _, ProtocolVersion, RequestId, Text, Topic, UserName, decode,
};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) use crate::kube::Kube;
pub(crate) use crate::pi::{Kept, Pi};

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
    pub(crate) cuts: Cuts,
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
            cuts: Cuts::BySeed,
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
    cuts: Cuts,
    acts_left: u32,
    programs: Programs,
    /// The version in which the console asked last.
    asked_in: ProtocolVersion,
    /// The version in which the coordinator's state is kept.
    pub(crate) shown_in: ProtocolVersion,
    pub(crate) broker_down: bool,
    /// How often in a row the coordinator has died soon after its start.
    died_early: u32,
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
    /// Which operation asked for which cordon first in which turn.
    cordons_begun: BTreeMap<(String, NodeName), u64>,
    /// Of which operation the wire has shown that its turn on a node has come.
    turns_come: BTreeSet<(String, NodeName)>,
    /// What has to be done before what.
    pub(crate) orders: order::Orders,
    /// How many nodes rolling work may take down at once.
    pub(crate) max_unavailable: usize,
    turns: u64,
    /// Nodes that a shutdown of all has cordoned.
    pub(crate) of_shutdown: BTreeSet<NodeName>,
    /// To which nodes a reset was sent, for which operation.
    pub(crate) resets: BTreeSet<(String, NodeName)>,
    /// Where the wire says that a step has failed, by operation and node.
    pub(crate) steps_failed: BTreeSet<(String, NodeName)>,
    /// Where it says that a node's turn waits for a slot.
    pub(crate) waits_for_slot: BTreeSet<(String, NodeName)>,
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
    /// When the world has to be what was asked for: ten minutes after the faults stopped, or after an operator took it up again.
    pub(crate) due: Option<u64>,
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

/// Most crews let one node be down at a time, as the default is; some two or three.
fn max_unavailable(seed: u64) -> usize {
    match seed % 8 {
        5 => 2,
        7 => 3,
        _ => 1,
    }
}

pub(crate) fn user() -> UserName {
    "ops".parse().unwrap()
}

impl World {
    /// A crew whose Pis are on and in no cluster.
    pub(crate) fn new(setup: Setup) -> Self {
        let Setup { seed, nodes, signing, mask, cuts, traced, cards, watch, programs } = setup;
        let mut world = Self {
            now: 1_000,
            random: Random::new(seed),
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
            cuts,
            acts_left: 0,
            programs,
            asked_in: ProtocolVersion::BEFORE,
            shown_in: ProtocolVersion::BEFORE,
            broker_down: false,
            died_early: 0,
            hung: Vec::new(),
            attempts: BTreeMap::new(),
            sent_anew: Vec::new(),
            ended_badly: BTreeSet::new(),
            reopened: BTreeSet::new(),
            pressed: BTreeMap::new(),
            asked_to_cordon: Vec::new(),
            cordons_begun: BTreeMap::new(),
            turns_come: BTreeSet::new(),
            orders: order::Orders::default(),
            max_unavailable: max_unavailable(seed),
            turns: 0,
            of_shutdown: BTreeSet::new(),
            resets: BTreeSet::new(),
            steps_failed: BTreeSet::new(),
            waits_for_slot: BTreeSet::new(),
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
            due: None,
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
        if self.cuts == Cuts::Often {
            self.faults.torn = 50;
        }
        if self.programs == Programs::Current {
            self.faults.programs = 0;
        }
        self.acts_left = ACTS;
        if self.faults.disasters > 0 {
            self.later(500, Happening::Disaster);
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

    /// Runs until `done`, at most until the world is due.
    #[track_caller]
    pub(crate) fn run_until_due(&mut self, what: &str, limit_ms: u64, done: impl FnMut(&mut Self) -> bool) {
        let left_ms = self.due.map_or(limit_ms, |due| due.saturating_sub(self.now));
        self.run_until(what, limit_ms.min(left_ms), done);
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
