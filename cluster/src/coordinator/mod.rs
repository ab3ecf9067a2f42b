//! The coordinator's core: plans operations, drives their steps, keeps what it needs to resume after a power cut, and
//! mends what is left over (a node that it cordoned and that is back is uncordoned, also after its own crash).
//!
//! Rules that it keeps:
//! - one exclusive operation at a time; a second is refused with the name of the first. A local press is never refused;
//! - a step is stored as begun before its command goes out; a command goes out again under the same id until it is
//!   answered; a new attempt is a new id;
//! - at most `max_unavailable` nodes are drained or down by rolling work; a slot stays held when its holder dies;
//! - it uncordons exactly what it cordoned;
//! - after a restart of a node the next one waits until it is ready *in a new boot*;
//! - on rebuild the master is reset last and initialised first; on shutdown the master goes last.

mod drive;
mod mend;
mod record;
mod report;
mod requests;

pub use drive::{ATTEMPTS, RETRY_MS, SEND_AGAIN_ACCEPTED_MS, SEND_AGAIN_MS, limit_ms};
pub use record::{
    ANSWERS, Answered, Cluster, CoordinatorRecord, Cordon, ENDED_OPERATIONS, Operation, Release, Scope, Step,
};

use crate::kube::{KubeDone, KubeError, KubeView, KubeWork};
use crate::plan::{Belongs, Clean, Ghost, PlanNode};
use crate::{Destruction, Instant};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use beehive_mqtt::command::Command;
use beehive_mqtt::console::{ConsoleRequest, ConsoleResponse};
use beehive_mqtt::coordinator::{
    CoordinatorEvent, CoordinatorEventKind, CoordinatorState, OperationNode, OperationPhase, OperationSummary,
};
use beehive_mqtt::node::{CommandResult, Connection, Lifecycle, NodeRequest, NodeState, Presence};
use beehive_mqtt::{HEARTBEAT_MS, MAX_NODES, NodeName, OperationId, Text, Topic, UserName};

/// How long a node may be silent before it is shown as lost and commands to it are given up: six heartbeats, so that a
/// restart of the broker or a short cut of the network does not end an operation.
pub const SILENT_MS: u64 = 6 * HEARTBEAT_MS;

/// How often the core wants to be called while an operation runs.
const BUSY_TICK_MS: u64 = 250;

/// How often when nothing runs.
const IDLE_TICK_MS: u64 = 2_000;

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
        /// What.
        request: ConsoleRequest,
    },
    /// The API server as it is now.
    Kube(KubeView),
    /// Work of the API server ended.
    KubeEnded {
        /// The token of [`Action::Kube`].
        token: u64,
        /// How.
        outcome: Result<KubeDone, KubeError>,
    },
    /// [`Action::Store`] failed; what came after it was not done.
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
        /// What.
        command: Box<Command>,
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

/// A node as it was last heard.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    presence: Option<Presence>,
    state: Option<NodeState>,
    heard: Instant,
}

impl Seen {
    pub(crate) fn is_online(&self) -> bool {
        self.presence.as_ref().is_some_and(|presence| presence.status == Connection::Online)
    }
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
    seen: BTreeMap<NodeName, Seen>,
    kube: KubeView,
    live: BTreeMap<(OperationId, usize), drive::Live>,
    mending: BTreeMap<NodeName, mend::Mending>,
    kube_owners: BTreeMap<u64, KubeOwner>,
    next_token: u64,
    told: report::Told,
    out: Vec<Action>,
}

impl Coordinator {
    /// Starts from what was stored. The actions come first of all.
    pub fn start(now: Instant, config: CoordinatorConfig, record: CoordinatorRecord) -> (Self, Vec<Action>) {
        let mut core = Self {
            config,
            stored: record.clone(),
            record,
            started: now,
            seen: BTreeMap::new(),
            kube: KubeView::default(),
            live: BTreeMap::new(),
            mending: BTreeMap::new(),
            kube_owners: BTreeMap::new(),
            next_token: 1,
            told: report::Told::default(),
            out: Vec::new(),
        };
        if core.record.term == 0 {
            core.record.term = 1;
        }
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
        let actions = core.finish(now);
        (core, actions)
    }

    /// What is kept.
    pub fn record(&self) -> &CoordinatorRecord {
        &self.record
    }

    /// When [`Event::Tick`] is due at the latest.
    pub fn next_deadline(&self, now: Instant) -> Instant {
        let busy = self.record.operations.iter().any(Operation::is_active) || !self.mending.is_empty();
        now.plus_ms(if busy { BUSY_TICK_MS } else { IDLE_TICK_MS })
    }

    /// Takes one event and says what is to be done.
    pub fn step(&mut self, now: Instant, event: Event) -> Vec<Action> {
        match event {
            Event::Presence { node, presence } => self.on_presence(now, node, presence),
            Event::State { node, state } => self.on_state(now, node, *state),
            Event::Result { node, result } => self.on_result(now, &node, &result),
            Event::Request { node, request } => self.on_node_request(now, &node, &request),
            Event::Console { user, request } => self.on_console(now, &user, request),
            Event::Kube(view) => self.kube = view,
            Event::KubeEnded { token, outcome } => self.on_kube_ended(now, token, outcome),
            // what is kept differs from what is stored: stored again with the next actions
            Event::StoreFailed => self.stored = CoordinatorRecord::default(),
            Event::Tick => {}
        }
        self.finish(now)
    }

    /// Drives what can be driven and puts the storing first.
    fn finish(&mut self, now: Instant) -> Vec<Action> {
        self.advance(now);
        self.mend(now);
        self.report(now);
        let mut actions = core::mem::take(&mut self.out);
        if self.record != self.stored {
            self.stored = self.record.clone();
            actions.insert(0, Action::Store(Box::new(self.record.clone())));
        }
        actions
    }

    fn know(&mut self, node: &NodeName) -> bool {
        if self.record.known.contains(node) {
            return true;
        }
        if self.record.known.len() >= MAX_NODES {
            return false;
        }
        self.record.known.push(node.clone());
        true
    }

    fn on_presence(&mut self, now: Instant, node: NodeName, presence: Presence) {
        if !self.know(&node) {
            return;
        }
        let seen = self.seen.entry(node).or_insert(Seen { presence: None, state: None, heard: now });
        if seen.presence.as_ref().is_some_and(|last| presence.order() < last.order()) {
            return; // a will of an earlier connection
        }
        if presence.status == Connection::Online {
            seen.heard = now;
        }
        seen.presence = Some(presence);
    }

    fn on_state(&mut self, now: Instant, node: NodeName, state: NodeState) {
        if !self.know(&node) {
            return;
        }
        let seen = self.seen.entry(node).or_insert(Seen { presence: None, state: None, heard: now });
        // of two states of one boot the later counts; another boot has no order, the broker hands out the newest
        if let Some(last) = &seen.state {
            if last.boot == state.boot && (state.start, state.revision) < (last.start, last.revision) {
                return;
            }
        }
        seen.heard = now;
        seen.state = Some(state);
    }

    // ---- what is known of the nodes

    /// The workers, in the order of their names.
    fn workers(&self) -> Vec<NodeName> {
        let all: BTreeSet<_> = self.record.known.iter().filter(|node| **node != self.config.master).cloned().collect();
        all.into_iter().collect()
    }

    fn is_online(&self, node: &NodeName) -> bool {
        self.seen.get(node).is_some_and(Seen::is_online)
    }

    fn state_of(&self, node: &NodeName) -> Option<&NodeState> {
        self.seen.get(node).and_then(|seen| seen.state.as_ref())
    }

    fn is_silent(&self, now: Instant, node: &NodeName) -> bool {
        self.seen.get(node).is_none_or(|seen| !seen.is_online() && now.since_ms(seen.heard) >= SILENT_MS)
    }

    fn plan_node(&self, name: &NodeName) -> PlanNode {
        let cluster = self.record.cluster.as_ref().map(|cluster| &cluster.id);
        let state = self.state_of(name);
        let inside = match state {
            Some(state) => cluster.is_some() && state.engine.cluster.as_ref() == cluster,
            None => self.kube.node(name).is_some(),
        };
        let clean = match state.map(|state| state.lifecycle) {
            Some(Lifecycle::Blank) | None => Clean::Yes,
            Some(Lifecycle::Member) if inside => Clean::Yes,
            Some(Lifecycle::Joining | Lifecycle::Member | Lifecycle::Leaving | Lifecycle::Broken) => Clean::No,
        };
        let ghost = if !inside && self.kube.node(name).is_some() { Ghost::Present } else { Ghost::Absent };
        let belongs = if inside { Belongs::Inside } else { Belongs::Outside };
        PlanNode { name: name.clone(), belongs, clean, ghost }
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

#[cfg(test)]
mod tests;
