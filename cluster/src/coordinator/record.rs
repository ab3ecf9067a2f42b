//! What the coordinator keeps across restarts and power cuts. It is stored before anything is done that rests on it.

use crate::plan::{PlannedStep, Weight};
use alloc::vec::Vec;
use beehive_mqtt::console::ResponseStatus;
use beehive_mqtt::coordinator::{OperationKind, OperationPhase, StepKind, StepState};
use beehive_mqtt::{BootId, ClusterId, CommandId, Digest, KeyId, NodeName, Nonce, OperationId, RequestId, Text};
use core::fmt::Write;
use serde::{Deserialize, Serialize};

/// How many answered requests are remembered, so that a repeat is answered and not run again. A console repeats for
/// minutes at most. Only what an ended session left makes room.
pub const ANSWERS: usize = 64;

/// How many wishes of nodes are remembered: two of each node of the largest crew.
pub const WISHES: usize = 128;

/// How many ended operations stay readable on the broker.
pub const ENDED_OPERATIONS: usize = 5;

/// A step of a running or ended operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What.
    pub kind: StepKind,
    /// To which node.
    pub node: NodeName,
    /// Its stage.
    pub stage: u16,
    /// What its failure means.
    pub weight: Weight,
    /// How far it is.
    pub state: StepState,
    /// How often it was begun; part of the command's id, so that a new attempt is a new command.
    pub attempt: u32,
    /// Why it failed, or what was found.
    pub reason: Text<160>,
    /// The boot before a restart: in which the node took the command, or asked to go down; for a wait, that of the restart
    /// before it.
    pub boot_before: Option<BootId>,
    /// The node's session for which the present attempt's command was made. It stays with the command's id: sent again for
    /// another session, a command that the node has run and forgotten would run twice.
    #[serde(default)]
    pub nonce: Option<Nonce>,
}

impl From<PlannedStep> for Step {
    fn from(planned: PlannedStep) -> Self {
        Self {
            kind: planned.kind,
            node: planned.node,
            stage: planned.stage,
            weight: planned.weight,
            state: StepState::Pending,
            attempt: 0,
            reason: Text::new(),
            boot_before: None,
            nonce: None,
        }
    }
}

impl Step {
    /// Whether nothing more happens with it.
    pub fn has_ended(&self) -> bool {
        match self.state {
            StepState::Pending | StepState::Running => false,
            StepState::Done | StepState::Failed | StepState::Skipped => true,
        }
    }
}

/// Whether an operation excludes others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// One at a time.
    Exclusive,
    /// Somebody stands at the Pi, or only a light blinks: always begins.
    Local,
}

/// Whether an operation heeds what protects a node: what keeps rolling work from it, and somebody else's cordon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Heeds {
    /// It does.
    #[default]
    Blockers,
    /// It was forced.
    Nothing,
}

/// An operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Its id: the request's.
    pub id: OperationId,
    /// What it is.
    pub kind: OperationKind,
    /// The node that it is about, if it is about one.
    pub node: Option<NodeName>,
    /// Whether it excludes others.
    pub scope: Scope,
    /// How far it is.
    pub phase: OperationPhase,
    /// Grows with each change.
    pub revision: u32,
    /// Who asked.
    pub requested_by: Text<72>,
    /// The engine version that is wanted.
    pub version: Text<32>,
    /// Whether it was forced. A record that does not say so is one of an operation that was not.
    #[serde(default)]
    pub heeds: Heeds,
    /// The node's request that [`StepKind::LetGo`] answers.
    pub request: Option<RequestId>,
    /// Its steps.
    pub steps: Vec<Step>,
}

impl Operation {
    /// Whether this node asked for it itself, to go down: its button was pressed, or its system is stopped by somebody.
    pub(super) fn is_local_wish_of(&self, node: &NodeName) -> bool {
        self.scope == Scope::Local && self.request.is_some() && self.node.as_ref() == Some(node)
    }

    /// Whether it has not ended and is not paused.
    pub fn is_active(&self) -> bool {
        match self.phase {
            OperationPhase::Running | OperationPhase::Aborting => true,
            OperationPhase::Paused
            | OperationPhase::Done
            | OperationPhase::Failed
            | OperationPhase::Aborted
            | OperationPhase::PartlyDone => false,
        }
    }

    /// Whether a step failed without which the rest has no sense: nothing more begins.
    pub fn has_lost_its_sense(&self) -> bool {
        self.steps.iter().any(|step| step.weight == Weight::Essential && step.state == StepState::Failed)
    }

    /// Whether this step has to be taken although the operation was called off: its node's engine was stopped for what
    /// follows, and nothing would start it again. Between such steps is no safe point.
    pub fn is_committed(&self, index: usize) -> bool {
        let Some(step) = self.steps.get(index) else { return false };
        let stops = |earlier: &&Step| earlier.node == step.node && earlier.kind == StepKind::Stop;
        let stopped = self.steps.iter().take(index).filter(stops);
        stopped.into_iter().any(|stop| matches!(stop.state, StepState::Running | StepState::Done))
    }

    /// The id of the command of a step's present attempt; none if it would be longer than an id may be (the limits rule
    /// that out).
    pub fn command_id(&self, index: usize) -> Option<CommandId> {
        let step = self.steps.get(index)?;
        let mut text = heapless::String::<{ CommandId::MAX_BYTES }>::new();
        write!(text, "{}-{}-{}", self.id, index + 1, step.attempt).ok()?;
        text.parse().ok()
    }

    /// The cluster that this operation makes.
    pub fn new_cluster(&self) -> Option<ClusterId> {
        self.id.as_str().parse().ok()
    }
}

/// The cluster that there is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Its id.
    pub id: ClusterId,
    /// The engine version that it was made with.
    pub version: Text<32>,
}

/// When a node that we cordoned is uncordoned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Release {
    /// By its operation, and at once when that has ended.
    WithOperation,
    /// When the node is ready in another boot, or its agent has started again without going down.
    OnReturn {
        /// The boot in which it went.
        boot: Option<BootId>,
        /// The agent's start number then.
        start: u32,
    },
    /// When an operator says so: the node was drained to stay so.
    ByOperator,
}

/// A node that we cordoned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cordon {
    /// The node.
    pub node: NodeName,
    /// For which operation.
    pub operation: OperationId,
    /// The agent's start number when it was cordoned.
    pub start: u32,
    /// Until when.
    pub release: Release,
}

/// A request that was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// The request.
    pub id: RequestId,
    /// Who asked.
    pub key: KeyId,
    /// The number of our session in which it was asked.
    pub session: u64,
    /// What was asked.
    pub digest: Digest,
    /// The answer.
    pub status: ResponseStatus,
    /// Its stable word.
    pub code: Text<48>,
    /// Its sentence.
    pub text: Text<240>,
    /// The operation that it named.
    pub operation: Option<OperationId>,
}

/// Whether something more can be remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// It can.
    Made,
    /// It cannot.
    Full,
}

/// A node's wish that was taken up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// The request.
    pub id: RequestId,
    /// The node.
    pub node: NodeName,
    /// The number of our session in which it was asked.
    pub session: u64,
    /// What was asked.
    pub digest: Digest,
}

/// Everything that the coordinator keeps.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CoordinatorRecord {
    /// Its term.
    pub term: u64,
    /// The number of its session; grows with each start and each renewal, and is stored before it is told.
    #[serde(default)]
    pub session: u64,
    /// The cluster that there is.
    pub cluster: Option<Cluster>,
    /// The nodes that were ever heard of.
    pub known: Vec<NodeName>,
    /// Operations that run or are paused, and the last exclusive one that ended (for `resume`).
    pub operations: Vec<Operation>,
    /// Ended operations that are still on the broker, oldest first; at most [`ENDED_OPERATIONS`].
    pub ended: Vec<OperationId>,
    /// The nodes that we cordoned.
    pub cordons: Vec<Cordon>,
    /// The nodes that count against `max_unavailable`.
    pub slots: Vec<NodeName>,
    /// Requests that were answered, oldest first; at most [`ANSWERS`].
    pub answers: Vec<Answered>,
    /// Wishes of nodes that were taken up, oldest first; at most [`WISHES`].
    #[serde(default)]
    pub wishes: Vec<Wish>,
}

impl CoordinatorRecord {
    /// The exclusive operation that runs.
    pub fn active_exclusive(&self) -> Option<&Operation> {
        self.operations.iter().find(|operation| operation.scope == Scope::Exclusive && operation.is_active())
    }

    /// Whether that operation is still to be worked on, now or later.
    pub fn is_alive(&self, id: &OperationId) -> bool {
        self.operations.iter().any(|operation| operation.id == *id && !operation.phase.is_final())
    }

    /// Calls off whatever has not ended, because this record is a copy that was put back: what has come of it since is not
    /// known. The core does the same for a session that is behind, but not for a new term, in which no session is.
    pub fn call_off(&mut self, reason: &Text<160>) {
        for operation in self.operations.iter_mut().filter(|held| !held.phase.is_final()) {
            operation.phase = OperationPhase::Aborting;
            operation.revision = operation.revision.saturating_add(1);
            for step in operation.steps.iter_mut().filter(|step| step.state == StepState::Running) {
                step.state = StepState::Failed;
                step.reason = reason.clone();
            }
        }
    }

    /// Makes room for one more answer and one more wish; there is none if all that is remembered is of the present session.
    pub(super) fn make_room(&mut self) -> Room {
        let present = self.session;
        if self.answers.len() >= ANSWERS {
            let Some(old) = self.answers.iter().position(|held| held.session != present) else { return Room::Full };
            self.answers.remove(old);
        }
        if self.wishes.len() >= WISHES {
            let Some(old) = self.wishes.iter().position(|held| held.session != present) else { return Room::Full };
            self.wishes.remove(old);
        }
        Room::Made
    }

    /// Whether so much of what is remembered is of the present session that another one should begin.
    pub(super) fn wants_renewal(&self) -> bool {
        let answers = self.answers.iter().filter(|held| held.session == self.session).count();
        let wishes = self.wishes.iter().filter(|held| held.session == self.session).count();
        answers >= ANSWERS * 3 / 4 || wishes >= WISHES * 3 / 4
    }

    pub(super) fn hold_slot(&mut self, node: &NodeName) {
        if !self.slots.contains(node) {
            self.slots.push(node.clone());
        }
    }

    pub(super) fn cordon_of(&self, node: &NodeName) -> Option<&Cordon> {
        self.cordons.iter().find(|cordon| cordon.node == *node)
    }

    /// Forgets that we cordoned a node.
    pub(super) fn forget_cordon(&mut self, node: &NodeName) {
        self.cordons.retain(|cordon| cordon.node != *node);
    }

    /// Forgets that we cordoned a node, and frees its slot.
    pub(super) fn release(&mut self, node: &NodeName) {
        self.forget_cordon(node);
        self.slots.retain(|held| held != node);
    }
}
