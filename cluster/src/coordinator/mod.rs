//! The coordinator's core: plans operations, drives their steps, keeps what it needs to resume after a power cut, and
//! mends what is left over (a node that it cordoned and that is back is uncordoned, also after its own crash).
//!
//! Rules that it keeps:
//! - one exclusive operation at a time; a second is refused with the name of the first. A local press is never refused;
//! - a step is stored as begun before its command goes out; a command goes out again under the same id until it is
//!   answered; a new attempt is a new id;
//! - at most `max_unavailable` nodes are drained or down by rolling work; a slot stays held when its holder dies;
//! - it uncordons exactly what it cordoned, at once when its operation fails; a node that went down, when it is back. A cordon
//!   of others it removes only where an operator forced that;
//! - a node whose button was pressed is worked on when it is back, and nothing else begins meanwhile;
//! - after a restart of a node the next one waits until it is ready *in a new boot*;
//! - nothing is decided from ignorance: without an answer of the API server nobody is cordoned or taken for gone, and just
//!   after its start the coordinator waits for the word of those that it knows before it plans;
//! - an id never begins anything twice, and what names another session of ours than the present one begins nothing;
//! - a node's state counts as evidence only if that node has heard of our present session: one that was recorded earlier
//!   proves nothing. If a node has heard of a later session than ours, this coordinator was restored from an old backup:
//!   what its record has under way is called off, because nobody knows what has come of it;
//! - on rebuild the master is reset last and initialised first; on shutdown the master goes last;
//! - nobody is sent what it cannot read: a node that was not heard yet counts as one that speaks the version before.

mod access;
mod begin;
mod drive;
mod end;
mod look;
mod mend;
mod record;
mod report;
mod requests;
mod versions;

pub use access::{CERTIFY_MS, CERTIFYING, SEALED};
pub use begin::SLOT_WAIT_MS;
pub use drive::{ATTEMPTS, RETRY_MS, SEND_AGAIN_ACCEPTED_MS, SEND_AGAIN_MS, SWITCH_AGAIN_MS, limit_ms};
pub use look::{LOOK_AGAIN_MS, LOOK_FRESH_MS, LOOK_MS};
pub use record::{
    ANSWERS, Answered, Cluster, CoordinatorRecord, Cordon, ENDED_OPERATIONS, Heeds, Operation, Release, Scope, Step,
    WISHES, Wish,
};

use crate::blockers::{Blockers, Facts};
use crate::kube::{JoinCredential, KubeDone, KubeError, KubeNode, KubeView, KubeWork, Ready, Scheduling};
use crate::plan::{Belongs, Clean, Ghost, PlanNode};
use crate::{Destruction, Instant};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use beehive_mqtt::command::{Command, VerbName};
use beehive_mqtt::console::{ConsoleRequest, ConsoleResponse, SealedAccess};
use beehive_mqtt::coordinator::{
    CoordinatorEvent, CoordinatorEventKind, CoordinatorState, OperationNode, OperationPhase, OperationSummary, Session,
    StepState,
};
use beehive_mqtt::node::{
    CommandResult, Connection, EngineRun, Lifecycle, NodeRequest, NodeState, PowerPhase, Presence,
};
use beehive_mqtt::{
    BootId, HEARTBEAT_MS, KeyId, MAX_NODES, NodeName, Nonce, OperationId, ProtocolVersion, SpokenVersion, Text, Topic,
    UserName,
};

/// How long a node may be silent before it is shown as lost and commands to it are given up: six heartbeats, so that a
/// restart of the broker or a short cut of the network does not end an operation.
pub const SILENT_MS: u64 = 6 * HEARTBEAT_MS;

/// How long after a store that failed it is tried again.
const STORE_AGAIN_MS: u64 = 1_000;

/// A state that arrives so long after its node was said to be gone was sent after that: the word of its return was lost.
/// A node repeats its state every ten seconds, and no message is that long under way.
const BACK_AFTER_MS: u64 = HEARTBEAT_MS;

/// How far ahead of ours a session may be that a node claims to have heard of. No coordinator starts a million times; a
/// node that lies cannot push the number to its end.
const MAX_LEAD: u64 = 1_000_000;

/// How many earlier boots of a node are known again. In one session of ours a node restarts a few times, not by the dozen;
/// what names an earlier session counts for nothing anyway.
const PAST_BOOTS: usize = 32;

/// So much later than it was due an event shows that the coordinator itself was away. A loaded Pi is late by a second.
const ASLEEP_MS: u64 = 5_000;

/// How many events wait for a store that fails; the newest ones.
const HELD_EVENTS: usize = 64;

/// What never changes while the program runs.
#[derive(Debug, Clone)]
pub struct CoordinatorConfig {
    /// The coordinator's own node.
    pub master: NodeName,
    /// The nodes that the configuration names.
    pub expected: Vec<NodeName>,
    /// How many nodes may be drained or down by rolling work.
    pub max_unavailable: u16,
    /// How many nodes are worked on at once where the order does not matter.
    pub max_parallel: u16,
    /// The control plane's address, for joins.
    pub server: Text<128>,
    /// How long a drain may take.
    pub drain_ms: u64,
    /// Whether destroying operations are begun.
    pub destruction: Destruction,
    /// What keeps rolling work from a node.
    pub blockers: Blockers,
    /// Whether something can switch a Pi on.
    pub switch: PowerSwitch,
    /// The highest version of the protocol that this program speaks: the current one, but where tests play the program
    /// before.
    pub speaks: ProtocolVersion,
}

/// Whether there is a switch that feeds the Pis and that [`Action::SwitchOn`] reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PowerSwitch {
    /// People do it.
    #[default]
    Absent,
    /// There is one.
    Present,
}

/// What a start of the coordinator begins with.
#[derive(Debug, Clone)]
pub struct FirstSession {
    /// The term that the crew's manifest grants.
    pub term: u64,
    /// Random, and never used before.
    pub nonce: Nonce,
}

/// Whether there is a connection to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerLink {
    /// Connected and subscribed: what is said from now on is heard.
    Up,
    /// Not connected: nobody can be heard, so nobody's silence says anything.
    Down,
}

/// What happens to the coordinator.
#[derive(Debug, Clone)]
pub enum Event {
    /// A node's presence.
    Presence {
        /// Whose.
        node: NodeName,
        /// What.
        presence: Presence,
    },
    /// A node's state.
    State {
        /// Whose.
        node: NodeName,
        /// What.
        state: Box<NodeState>,
    },
    /// A node wrote in a version of the protocol that is not spoken here. Nobody has checked who signed it: a hint.
    Unspoken {
        /// Whose topic it was.
        node: NodeName,
        /// Which version.
        version: SpokenVersion,
    },
    /// How far a command is.
    Result {
        /// From whom.
        node: NodeName,
        /// What.
        result: CommandResult,
    },
    /// A node asks.
    Request {
        /// Which node.
        node: NodeName,
        /// What.
        request: NodeRequest,
    },
    /// An operator asks.
    Console {
        /// Who.
        user: UserName,
        /// The key that signed it.
        key: KeyId,
        /// What.
        request: ConsoleRequest,
    },
    /// The connection to the broker. A coordinator starts without one, and hears nobody before this.
    Broker(BrokerLink),
    /// The crew's manifest grants this term to this node.
    Term(u64),
    /// A new session, as [`Action::NewSession`] wanted: random, and never used before.
    Session(Nonce),
    /// The API server as it is now.
    Kube(KubeView),
    /// Work of the API server ended.
    KubeEnded {
        /// The token of [`Action::Kube`].
        token: u64,
        /// How.
        outcome: Result<KubeDone, KubeError>,
    },
    /// How far the drain of a node is, in words. At most one a second is wanted; nothing is decided by it.
    Draining {
        /// Which node.
        node: NodeName,
        /// How far.
        progress: Text<160>,
    },
    /// A look has ended.
    Looked {
        /// The token of [`Action::Look`].
        token: u64,
        /// What was found out.
        facts: Box<Facts>,
    },
    /// The switch was told to feed a Pi.
    Switched {
        /// The token of [`Action::SwitchOn`].
        token: u64,
        /// Whether it has taken that, or why not.
        outcome: Result<(), Text<120>>,
    },
    /// A certificate was issued and sealed to who asked for it, or could not be.
    Certified {
        /// Who asked, as [`Action::Certify`] said.
        user: UserName,
        /// The key that signed the request.
        key: KeyId,
        /// The request.
        request: Box<ConsoleRequest>,
        /// What is sealed, or why there is nothing.
        outcome: Result<SealedAccess, KubeError>,
    },
    /// [`Action::Store`] failed; what came after it was not done. Answers with no actions: with the next event it is stored
    /// again, and what must not be lost follows then.
    StoreFailed,
    /// Time has passed.
    Tick,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Store this; if that fails, drop the actions after it and say [`Event::StoreFailed`].
    Store(Box<CoordinatorRecord>),
    /// Send a command.
    Command {
        /// To whom.
        node: NodeName,
        /// The version of the protocol to write it in.
        version: ProtocolVersion,
        /// What. The credential of a join is empty.
        command: Box<Command>,
        /// What is to be sealed into it.
        secret: Option<Secret>,
    },
    /// Answer an operator.
    Respond {
        /// Whom.
        user: UserName,
        /// What.
        response: Box<ConsoleResponse>,
    },
    /// Publish the cluster's state.
    State(Box<CoordinatorState>),
    /// Publish an operation.
    Operation(Box<OperationSummary>),
    /// Publish one node's steps.
    OperationNode(Box<OperationNode>),
    /// Remove a retained message.
    Clear(Topic),
    /// Publish that something happened.
    Tell(CoordinatorEvent),
    /// Find out whether a blocker keeps rolling work from this node; end with [`Event::Looked`].
    Look {
        /// Comes back with the facts.
        token: u64,
        /// Which.
        node: NodeName,
    },
    /// Let the switch feed this Pi; end with [`Event::Switched`]. It may be asked of one that is on, and then changes nothing.
    SwitchOn {
        /// Comes back with the outcome.
        token: u64,
        /// Which.
        node: NodeName,
    },
    /// Let the cluster's authority certify the key that is named in a request ([`Ask::Kubeconfig`]), and seal what opens the
    /// cluster to the key that is named there; end with [`Event::Certified`]. Done twice it costs a certificate.
    ///
    /// [`Ask::Kubeconfig`]: beehive_mqtt::console::Ask::Kubeconfig
    Certify {
        /// Who asks: for whom the certificate is.
        user: UserName,
        /// The key that signed the request.
        key: KeyId,
        /// The request.
        request: Box<ConsoleRequest>,
    },
    /// Make a new session and say so with [`Event::Session`].
    NewSession,
    /// Ask the API server; end with [`Event::KubeEnded`].
    Kube {
        /// Comes back with the outcome.
        token: u64,
        /// The work.
        work: KubeWork,
        /// How long it may take.
        deadline_ms: u64,
    },
}

/// A credential on its way into a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// The credential.
    pub credential: JoinCredential,
    /// The boot of the node for which it is sealed.
    pub boot: BootId,
}

/// Whether a new session was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Renewal {
    No,
    Asked,
}

/// A node as it was last heard.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    presence: Option<Presence>,
    state: Option<NodeState>,
    heard: Instant,
    /// When the presence arrived.
    presence_at: Instant,
    /// The version of the protocol that it says to speak, of those that we do.
    speaks: Option<ProtocolVersion>,
    /// The boots before that of the state, as far as they were heard of in this session; the newest last.
    past: Vec<BootId>,
}

impl Seen {
    fn new(now: Instant) -> Self {
        Self { presence: None, state: None, heard: now, presence_at: now, speaks: None, past: Vec::new() }
    }

    /// Connected, as far as is known: a will may get lost with its broker, so silence counts too.
    pub(crate) fn is_online(&self, now: Instant) -> bool {
        let connected = self.presence.as_ref().is_some_and(|presence| presence.status == Connection::Online);
        connected && !self.is_silent(now)
    }

    fn is_silent(&self, now: Instant) -> bool {
        now.since_ms(self.heard) >= SILENT_MS
    }
}

/// Whether anybody can be heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hearing {
    Yes,
    /// There is no connection to the broker, since then.
    NotSince(Instant),
}

/// Who asked the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
enum KubeOwner {
    Step(OperationId, usize),
    Mend(NodeName),
}

/// The coordinator's core.
#[derive(Debug, Clone)]
pub struct Coordinator {
    config: CoordinatorConfig,
    record: CoordinatorRecord,
    stored: CoordinatorRecord,
    started: Instant,
    hearing: Hearing,
    /// Since when it has been listening; what it could not hear in between is left out.
    listens_since: Instant,
    seen: BTreeMap<NodeName, Seen>,
    /// Who writes in a version that is not spoken here, and has said nothing else.
    unspoken: BTreeMap<NodeName, SpokenVersion>,
    /// Which version knows which verb.
    since: fn(VerbName) -> ProtocolVersion,
    kube: KubeView,
    live: BTreeMap<(OperationId, usize), drive::Live>,
    mending: BTreeMap<NodeName, mend::Mending>,
    kube_owners: BTreeMap<u64, KubeOwner>,
    looks: BTreeMap<NodeName, look::Look>,
    accesses: access::Accesses,
    next_token: u64,
    nonce: Nonce,
    renewal: Renewal,
    told: report::Told,
    /// When the next event was due at the latest.
    due: Option<Instant>,
    out: Vec<Action>,
    saved: Saved,
    /// What came after the last [`Action::Store`] and must not be lost with it.
    behind: Vec<Action>,
}

/// Whether the record in memory is the one on the card.
#[derive(Debug, Clone)]
enum Saved {
    Yes,
    /// It is not; these actions wait for it, and it is tried again then.
    No {
        held: Vec<Action>,
        again_at: Instant,
    },
}

impl Coordinator {
    /// Starts from what was stored. The actions come first of all.
    pub fn start(
        now: Instant,
        config: CoordinatorConfig,
        first: FirstSession,
        record: CoordinatorRecord,
    ) -> (Self, Vec<Action>) {
        let mut core = Self {
            nonce: first.nonce,
            renewal: Renewal::No,
            config,
            stored: record.clone(),
            record,
            started: now,
            hearing: Hearing::NotSince(now),
            listens_since: now,
            seen: BTreeMap::new(),
            unspoken: BTreeMap::new(),
            since: VerbName::since,
            kube: KubeView::default(),
            live: BTreeMap::new(),
            mending: BTreeMap::new(),
            kube_owners: BTreeMap::new(),
            looks: BTreeMap::new(),
            accesses: access::Accesses::default(),
            next_token: 1,
            told: report::Told::default(),
            due: None,
            out: Vec::new(),
            saved: Saved::Yes,
            behind: Vec::new(),
        };
        core.record.term = first.term;
        core.record.session = core.record.session.saturating_add(1);
        let named: Vec<_> = core::iter::once(core.config.master.clone()).chain(core.config.expected.clone()).collect();
        for node in named {
            core.know(&node);
        }
        let resumed = core.record.active_exclusive().map(|operation| operation.id.clone());
        let detail = match &resumed {
            Some(id) => Text::format(format_args!("the coordinator started and goes on with operation {id}")),
            None => Text::cut("the coordinator started"),
        };
        core.tell(now, CoordinatorEventKind::Started, resumed.as_ref(), None, detail);
        core.unpause();
        core.clear_what_is_over();
        let actions = core.finish(now);
        core.due = Some(core.next_deadline(now));
        (core, actions)
    }

    /// What is kept.
    pub fn record(&self) -> &CoordinatorRecord {
        &self.record
    }

    /// When [`Event::Tick`] is due at the latest.
    pub fn next_deadline(&self, now: Instant) -> Instant {
        match &self.saved {
            Saved::Yes => {}
            // nothing can be done before
            Saved::No { again_at, .. } => return (*again_at).max(now),
        }
        let heartbeat = self.told.state_at().map_or(now, |at| at.plus_ms(HEARTBEAT_MS));
        // somebody falls silent
        let silent = self.seen.values().map(|seen| seen.heard.plus_ms(SILENT_MS)).filter(|at| *at > now);
        let due = silent.chain(self.step_deadlines()).chain(self.mend_deadlines()).chain(self.look_deadlines());
        due.fold(heartbeat, Instant::min).max(now)
    }

    /// Takes one event and says what is to be done.
    pub fn step(&mut self, now: Instant, event: Event) -> Vec<Action> {
        self.notice_sleep(now);
        let actions = self.take(now, event);
        self.due = Some(self.next_deadline(now));
        actions
    }

    /// Whoever calls was to come by a certain time and comes much later: it was the coordinator that was away (its machine
    /// was suspended, its process stopped, its clock leapt), and nobody's silence meanwhile says anything.
    fn notice_sleep(&mut self, now: Instant) {
        let Some(due) = self.due else { return };
        let slept_ms = now.since_ms(due);
        if slept_ms < ASLEEP_MS {
            return;
        }
        match self.hearing {
            Hearing::Yes => self.heard_nobody(now, slept_ms),
            // left out as a whole when the connection is back
            Hearing::NotSince(_) => {}
        }
        for live in self.live.values_mut() {
            live.slept(slept_ms);
        }
    }

    /// For so long, until now, nobody could be heard.
    fn heard_nobody(&mut self, now: Instant, for_ms: u64) {
        self.listens_since = self.listens_since.plus_ms(for_ms).min(now);
        for seen in self.seen.values_mut() {
            seen.heard = seen.heard.plus_ms(for_ms).min(now);
            seen.presence_at = seen.presence_at.plus_ms(for_ms).min(now);
        }
        for (_, since) in self.told.slot_waits.values_mut() {
            *since = since.plus_ms(for_ms).min(now);
        }
    }

    fn on_broker(&mut self, now: Instant, link: BrokerLink) {
        match (link, self.hearing) {
            (BrokerLink::Up, Hearing::NotSince(since)) => {
                let deaf_ms = now.since_ms(since);
                self.hearing = Hearing::Yes;
                self.heard_nobody(now, deaf_ms);
                for live in self.live.values_mut() {
                    live.was_alone(now, deaf_ms);
                }
            }
            (BrokerLink::Down, Hearing::Yes) => self.hearing = Hearing::NotSince(now),
            (BrokerLink::Up, Hearing::Yes) | (BrokerLink::Down, Hearing::NotSince(_)) => {}
        }
    }

    /// Until when everybody could be heard: nothing is concluded from what was not said after that.
    fn listened_until(&self, now: Instant) -> Instant {
        match self.hearing {
            Hearing::Yes => now,
            Hearing::NotSince(since) => since.min(now),
        }
    }

    fn take(&mut self, now: Instant, event: Event) -> Vec<Action> {
        match event {
            Event::Presence { node, presence } => self.on_presence(now, node, presence),
            Event::State { node, state } => self.on_state(now, node, *state),
            Event::Unspoken { node, version } => self.on_unspoken(now, &node, version),
            Event::Result { node, result } => self.on_result(now, &node, &result),
            Event::Request { node, request } => self.on_node_request(now, &node, &request),
            Event::Console { user, key, request } => self.on_console(now, &user, key, request),
            Event::Broker(link) => self.on_broker(now, link),
            Event::Term(term) => self.record.term = term,
            Event::Session(nonce) => {
                self.nonce = nonce;
                self.record.session = self.record.session.saturating_add(1);
                self.renewal = Renewal::No;
                self.told.forget_state();
            }
            Event::Kube(view) => self.kube = view,
            Event::KubeEnded { token, outcome } => self.on_kube_ended(now, token, outcome),
            Event::Draining { node, progress } => self.on_draining(&node, progress),
            Event::Looked { token, facts } => self.looked(now, token, &facts),
            Event::Switched { token, outcome } => self.switched(now, token, outcome),
            Event::Certified { user, key, request, outcome } => self.certified(now, &user, key, &request, outcome),
            Event::StoreFailed => {
                // stored with the next step, before anything else; nothing is done until then
                let held = core::mem::take(&mut self.behind);
                self.saved = Saved::No { held, again_at: now.plus_ms(STORE_AGAIN_MS) };
                self.told.forget_state();
                // it may have been among what was dropped
                self.renewal = Renewal::No;
                self.looks.clear();
                self.accesses.forget_asked();
                return Vec::new();
            }
            Event::Tick => {}
        }
        self.finish(now)
    }

    /// Drives what can be driven and puts the storing first.
    fn finish(&mut self, now: Instant) -> Vec<Action> {
        loop {
            let held = self.record.slots.len();
            self.advance(now);
            self.mend(now);
            // a slot that has just become free lets the next node begin
            if self.record.slots.len() >= held {
                break;
            }
        }
        self.report(now);
        if self.record.wants_renewal() {
            self.renew();
        }
        let mut actions = core::mem::take(&mut self.out);
        match core::mem::replace(&mut self.saved, Saved::Yes) {
            Saved::Yes if self.record == self.stored => {
                self.behind.clear();
                return actions;
            }
            Saved::Yes => {}
            Saved::No { mut held, .. } => {
                held.append(&mut actions);
                actions = held;
            }
        }
        self.stored = self.record.clone();
        self.behind = worth_holding(&actions);
        actions.insert(0, Action::Store(Box::new(self.record.clone())));
        actions
    }

    fn renew(&mut self) {
        match self.renewal {
            Renewal::Asked => {}
            Renewal::No => {
                self.renewal = Renewal::Asked;
                self.out.push(Action::NewSession);
            }
        }
    }

    /// Our present session.
    pub fn session(&self) -> Session {
        Session { term: self.record.term, number: self.record.session, nonce: self.nonce.clone() }
    }

    /// A node has heard of another session than ours. If that is a later one, our record is an old one.
    fn compare(&mut self, now: Instant, node: &NodeName, heard: &Session) {
        let ours = self.record.session;
        let later = heard.term == self.record.term && heard.number >= ours && heard.number - ours <= MAX_LEAD;
        if !later || self.renewal == Renewal::Asked {
            return;
        }
        self.record.session = heard.number;
        self.renew();
        let detail = Text::format(format_args!(
            "{node} has heard of our session {}, and ours is {ours}: this coordinator's record is an old one, restored from \
             a backup; what it had under way is called off",
            heard.number
        ));
        self.tell(now, CoordinatorEventKind::Started, None, Some(node), detail);
        let reason: Text<160> =
            Text::cut("the coordinator was restored from an old backup: what has come of it is not known");
        let mut running = Vec::new();
        for operation in self.record.operations.iter_mut().filter(|held| !held.phase.is_final()) {
            operation.phase = OperationPhase::Aborting;
            operation.revision += 1;
            let steps = operation.steps.iter().enumerate();
            let begun = steps.filter(|(_, step)| step.state == StepState::Running).map(|(index, _)| index);
            running.extend(begun.map(|index| (operation.id.clone(), index)));
        }
        for (id, index) in running {
            self.end(now, &id, index, StepState::Failed, reason.clone());
        }
    }

    /// A crash between the end of an operation and the clearing of its topics leaves them on the broker.
    fn clear_what_is_over(&mut self) {
        for operation in self.record.operations.iter().filter(|operation| operation.phase.is_final()) {
            let nodes: BTreeSet<_> = operation.steps.iter().map(|step| step.node.clone()).collect();
            for node in nodes {
                self.out.push(Action::Clear(Topic::OperationNode(operation.id.clone(), node)));
            }
        }
    }

    fn know(&mut self, node: &NodeName) -> bool {
        if self.record.known.contains(node) {
            return true;
        }
        // a crew on the wire has no more; one that the configuration makes larger is known as a whole
        if self.record.known.len() >= MAX_NODES.max(self.config.expected.len() + 1) {
            return false;
        }
        self.record.known.push(node.clone());
        true
    }

    fn on_presence(&mut self, now: Instant, node: NodeName, presence: Presence) {
        if !self.know(&node) {
            return;
        }
        let seen = self.seen.entry(node).or_insert_with(|| Seen::new(now));
        if seen.presence.as_ref().is_some_and(|last| presence.order() < last.order()) {
            return; // a will of an earlier connection
        }
        match presence.status {
            Connection::Online => seen.heard = now,
            Connection::Offline => {}
        }
        seen.presence = Some(presence);
        seen.presence_at = now;
    }

    fn on_state(&mut self, now: Instant, node: NodeName, state: NodeState) {
        if !self.know(&node) {
            return;
        }
        let version = state.speaks.map_or(ProtocolVersion::V1, SpokenVersion::common);
        self.speaks_less(&node, version);
        match &state.heard {
            Some(heard) if *heard == self.session() => {}
            Some(heard) => return self.compare(now, &node, heard),
            None => return,
        }
        self.unspoken.remove(&node);
        let listened = self.listened_until(now);
        let seen = self.seen.entry(node).or_insert_with(|| Seen::new(now));
        // the later one counts. A card that was replaced counts from one again; nobody swaps it without being silent
        if let Some(last) = &seen.state {
            let older = (state.start, state.revision) < (last.start, last.revision);
            if older && (last.boot == state.boot || !seen.is_silent(listened)) {
                return;
            }
            // a boot that has ended does not come back: that is a message that was kept
            if seen.past.contains(&state.boot) {
                return;
            }
            if last.boot != state.boot {
                if seen.past.len() >= PAST_BOOTS {
                    seen.past.remove(0);
                }
                seen.past.push(last.boot.clone());
            }
        }
        seen.heard = now;
        let speaks = Presence { status: Connection::Online, start: state.start, connection: 0, reason: Text::new() };
        // presence is a hint and may have got lost: one who speaks is there
        match &seen.presence {
            None => (seen.presence, seen.presence_at) = (Some(speaks), now),
            Some(presence) if presence.start != state.start => {
                (seen.presence, seen.presence_at) = (Some(speaks), now);
            }
            Some(presence) => match presence.status {
                Connection::Online => {}
                Connection::Offline if now.since_ms(seen.presence_at) < BACK_AFTER_MS => {}
                Connection::Offline => {
                    let connection = presence.connection;
                    (seen.presence, seen.presence_at) = (Some(Presence { connection, ..speaks }), now);
                }
            },
        }
        seen.state = Some(state);
        seen.speaks = Some(version);
    }

    // ---- what is known of the nodes

    /// The workers, in the order of their names.
    fn workers(&self) -> Vec<NodeName> {
        let all: BTreeSet<_> = self.record.known.iter().filter(|node| **node != self.config.master).cloned().collect();
        all.into_iter().collect()
    }

    fn is_online(&self, now: Instant, node: &NodeName) -> bool {
        self.seen.get(node).is_some_and(|seen| seen.is_online(self.listened_until(now)))
    }

    /// Whether a node may be on: connected, or gone for so short a time that its agent may only have restarted. After its
    /// own start the coordinator knows little, and rather names a node that is off than leaves one on.
    fn may_be_on(&self, now: Instant, node: &NodeName) -> bool {
        !self.is_silent(now, node)
    }

    /// The newest presence of a node.
    pub fn presence_of(&self, node: &NodeName) -> Option<&Presence> {
        self.seen.get(node).and_then(|seen| seen.presence.as_ref())
    }

    /// What it knows of Kubernetes.
    pub fn kube_view(&self) -> &KubeView {
        &self.kube
    }

    /// All that it knows beside its record: of the nodes and when it heard them, of Kubernetes, of the steps that run, but not
    /// when their commands are sent again, and of the uncordons that are under way. For whoever compares two coordinators, as an
    /// exhaustive search does.
    pub fn knowledge(&self) -> impl core::fmt::Debug + '_ {
        let steps: Vec<_> = self.live.iter().map(|(step, live)| (step, live.decides())).collect();
        (&self.seen, &self.kube, steps, &self.mending, &self.told.slot_waits, self.hearing)
    }

    /// The newest state of a node that counts as evidence.
    pub fn state_of(&self, node: &NodeName) -> Option<&NodeState> {
        self.seen.get(node).and_then(|seen| seen.state.as_ref())
    }

    /// Whether nothing was heard of a node for so long that nobody is there. Time in which nobody could be heard does not count.
    fn is_silent(&self, now: Instant, node: &NodeName) -> bool {
        let now = self.listened_until(now);
        self.seen.get(node).map_or(now.since_ms(self.listens_since) >= SILENT_MS, |seen| seen.is_silent(now))
    }

    fn plan_node(&self, name: &NodeName) -> PlanNode {
        let cluster = self.record.cluster.as_ref().map(|cluster| &cluster.id);
        let state = self.state_of(name);
        let inside = match state {
            // what a join left half-way has the cluster's id, and is no member
            Some(state) => {
                let half_way = state.lifecycle == Lifecycle::Broken;
                cluster.is_some() && state.engine.cluster.as_ref() == cluster && !half_way
            }
            // what the API server of an earlier cluster said makes nobody a member
            None => cluster.is_some() && self.kube.cluster.as_ref() == cluster && self.kube.node(name).is_some(),
        };
        let clean = match state.map(|state| state.lifecycle) {
            Some(Lifecycle::Blank) | None => Clean::Yes,
            Some(Lifecycle::Member) if inside => Clean::Yes,
            Some(Lifecycle::Joining | Lifecycle::Member | Lifecycle::Leaving | Lifecycle::Broken) => Clean::No,
        };
        let ghost = if !inside && self.kube.node(name).is_some() { Ghost::Present } else { Ghost::Absent };
        let belongs = if inside { Belongs::Inside } else { Belongs::Outside };
        let engine = state.map_or(EngineRun::Running, |state| state.engine.run);
        PlanNode { name: name.clone(), belongs, clean, ghost, engine }
    }

    /// As [`Self::plan_node`], for work that makes a node go down: one that was not heard counts as a member of the cluster that is
    /// there, whatever the API server says. It may have joined a moment before it fell silent, and its kubelet has told nobody
    /// yet; what is planned for it now is done when it is back, with the care that a member needs.
    fn plan_node_that_may_have_joined(&self, name: &NodeName) -> PlanNode {
        let node = self.plan_node(name);
        let untold = self.state_of(name).is_none() && self.record.cluster.is_some();
        if untold { node.passing_for_member() } else { node }
    }

    /// As [`Self::plan_node`], for work that takes a slot or destroys: one that was not heard counts as a member while the API
    /// server does not say otherwise. Its steps wait for that word or for the
    /// node's own, and find nothing to do if it is none.
    fn plan_node_that_may_be_inside(&self, name: &NodeName) -> PlanNode {
        let node = self.plan_node(name);
        let untold = self.state_of(name).is_none() && self.kube_node(name).is_err();
        if untold { node.passing_for_member() } else { node }
    }

    /// The Node object, while the API server that answers is that of our cluster; `Err` while it does not answer.
    fn kube_node(&self, node: &NodeName) -> Result<Option<&KubeNode>, ()> {
        match (&self.record.cluster, &self.kube.cluster) {
            (Some(cluster), Some(seen)) if cluster.id == *seen => Ok(self.kube.node(node)),
            (None, _) => Ok(None),
            (Some(_), Some(_) | None) => Err(()),
        }
    }

    /// Whether a node is there and ready in the boot that it says it is in: a kubelet's word outlives it by 40 s.
    fn is_ready_again(&self, now: Instant, node: &NodeName) -> bool {
        let Ok(Some(seen)) = self.kube_node(node) else { return false };
        let Some(state) = self.state_of(node) else { return false };
        let up = self.is_online(now, node) && state.power == PowerPhase::Running;
        up && seen.ready == Ready::Yes && seen.boot.as_ref().is_none_or(|boot| *boot == state.boot)
    }

    /// What is known to be done shows at once, before the next look.
    fn note_scheduling(&mut self, node: &NodeName, scheduling: Scheduling) {
        if let Some(seen) = self.kube.nodes.iter_mut().find(|seen| seen.node == *node) {
            seen.scheduling = scheduling;
        }
    }

    /// The node said that it has joined or was reset, and its next state will show that.
    fn note_cluster(&mut self, node: &NodeName, lifecycle: Lifecycle) {
        let cluster = match lifecycle {
            Lifecycle::Member => self.record.cluster.as_ref().map(|cluster| cluster.id.clone()),
            Lifecycle::Blank | Lifecycle::Joining | Lifecycle::Leaving | Lifecycle::Broken => None,
        };
        if let Some(state) = self.seen.get_mut(node).and_then(|seen| seen.state.as_mut()) {
            state.lifecycle = lifecycle;
            state.engine.run = if cluster.is_some() { EngineRun::Running } else { EngineRun::Stopped };
            state.engine.cluster = cluster;
        }
    }

    /// An operation that a node's button interrupted goes on.
    fn unpause(&mut self) {
        if self.record.active_exclusive().is_some() {
            return;
        }
        if let Some(paused) = self.record.operations.iter_mut().find(|held| held.phase == OperationPhase::Paused) {
            paused.phase = OperationPhase::Running;
            paused.revision += 1;
        }
    }

    fn take_token(&mut self, owner: KubeOwner) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        self.kube_owners.insert(token, owner);
        token
    }

    fn on_kube_ended(&mut self, now: Instant, token: u64, outcome: Result<KubeDone, KubeError>) {
        match self.kube_owners.remove(&token) {
            Some(KubeOwner::Step(id, index)) => self.step_kube_ended(now, &id, index, token, outcome),
            Some(KubeOwner::Mend(node)) => self.mend_ended(now, &node, outcome),
            None => {}
        }
    }

    fn tell(
        &mut self,
        now: Instant,
        kind: CoordinatorEventKind,
        operation: Option<&OperationId>,
        node: Option<&NodeName>,
        detail: Text<200>,
    ) {
        self.out.push(Action::Tell(CoordinatorEvent {
            kind,
            operation: operation.cloned(),
            node: node.cloned(),
            detail,
            uptime_ms: now.since_ms(self.started),
        }));
    }
}

/// What of these actions would be missed if the store before them failed. Commands are sent again and answers asked for
/// again anyway.
fn worth_holding(actions: &[Action]) -> Vec<Action> {
    let mut events = actions.iter().filter(|action| matches!(action, Action::Tell(_))).count();
    let replaced = |index: usize, action: &Action| {
        actions.iter().skip(index + 1).any(|later| match (action, later) {
            (Action::Operation(a), Action::Operation(b)) => a.id == b.id,
            (Action::OperationNode(a), Action::OperationNode(b)) => (&a.id, &a.node) == (&b.id, &b.node),
            (Action::OperationNode(a), Action::Clear(b)) => *b == Topic::OperationNode(a.id.clone(), a.node.clone()),
            _ => false,
        })
    };
    let keep = |(index, action): (usize, &Action)| {
        let kept = match action {
            Action::Kube { .. } | Action::Clear(_) => true,
            // asked for again by whoever needs it
            Action::NewSession | Action::Look { .. } | Action::SwitchOn { .. } | Action::Certify { .. } => false,
            Action::Operation(_) | Action::OperationNode(_) => !replaced(index, action),
            Action::Tell(_) => {
                events -= 1;
                events < HELD_EVENTS
            }
            Action::Store(_) | Action::Command { .. } | Action::Respond { .. } | Action::State(_) => false,
        };
        kept.then(|| action.clone())
    };
    actions.iter().enumerate().filter_map(keep).collect()
}

#[cfg(test)]
mod tests;
