//! What the coordinator says: the cluster, its operations, events.

use crate::MAX_NODES;
use crate::codec::{Payload, Wrapping};
use crate::id::{BootId, ClusterId, NodeName, Nonce, OperationId};
use crate::sign::RecordHash;
use crate::text::Text;
use crate::version::{ProtocolVersion, SpokenVersion};
use core::fmt;
use core::str::FromStr;
use serde::{Deserialize, Serialize};

/// A node in the eyes of the coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Membership {
    /// Named in the configuration, never heard of.
    Expected,
    /// In no cluster.
    Blank,
    /// On its way in.
    Joining,
    /// In the cluster and ready.
    Ready,
    /// In the cluster, not ready.
    NotReady,
    /// Being emptied by us.
    Draining,
    /// Cordoned by us.
    Cordoned,
    /// Cordoned by somebody else; we leave that alone.
    CordonedByOthers,
    /// On its way out.
    Leaving,
    /// A step failed half-way; a reset mends it.
    Broken,
    /// In the cluster, but silent.
    Lost,
}

impl Membership {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expected => "expected",
            Self::Blank => "blank",
            Self::Joining => "joining",
            Self::Ready => "ready",
            Self::NotReady => "not_ready",
            Self::Draining => "draining",
            Self::Cordoned => "cordoned",
            Self::CordonedByOthers => "cordoned_by_others",
            Self::Leaving => "leaving",
            Self::Broken => "broken",
            Self::Lost => "lost",
        }
    }
}

impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Whether a node counts against `max_unavailable`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Slot {
    /// It does not.
    Free,
    /// It holds one, until it is back or an operator frees it.
    Held,
}

/// One member of the crew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub node: NodeName,
    /// What it is to the cluster.
    pub membership: Membership,
    /// Whether it holds a slot.
    pub slot: Slot,
    /// The boot that it was last heard in.
    pub boot: Option<BootId>,
    /// The highest version of the protocol that it speaks, or the one that it writes in if the coordinator does not speak
    /// that; absent for 1 and for whoever was not heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaks: Option<SpokenVersion>,
}

/// The cluster as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClusterPhase {
    /// There is none.
    Absent,
    /// An operation creates, rebuilds or resets it.
    Changing,
    /// Every member is ready.
    Ready,
    /// Some member is not.
    Degraded,
}

/// A session of the coordinator. Its number is stored and grows with each, so two sessions of one number, or a number that
/// falls, show that the coordinator was restored from an old backup: nodes keep the highest that they have heard of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The term that the crew's manifest grants.
    pub term: u64,
    /// Grows within a term, and over terms of one node.
    pub number: u64,
    /// Requests name it.
    pub nonce: Nonce,
}

/// The last record of the coordinator's audit log. Whoever keeps it can tell later whether the log still has that record
/// and everything before it. As text it is `NUMBER:HASH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHead {
    /// The record's number, from 1; 0 of a log without a record.
    pub number: u64,
    /// The hash of its line.
    pub hash: RecordHash,
}

impl AuditHead {
    /// Of a log without a record.
    pub const NONE: Self = Self { number: 0, hash: RecordHash([0; 32]) };
}

impl fmt::Display for AuditHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.number, self.hash)
    }
}

/// A text is no head of an audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditHeadError;

impl fmt::Display for AuditHeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("is no head of an audit log: that is NUMBER:HASH with 64 lower-case hexadecimal digits")
    }
}

impl core::error::Error for AuditHeadError {}

impl FromStr for AuditHead {
    type Err = AuditHeadError;

    fn from_str(text: &str) -> Result<Self, AuditHeadError> {
        let (number, hash) = text.split_once(':').ok_or(AuditHeadError)?;
        let (number, hash) = (number.parse().map_err(|_| AuditHeadError)?, hash.parse().map_err(|_| AuditHeadError)?);
        Ok(Self { number, hash })
    }
}

/// `c/state`. The coordinator's heartbeat too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinatorState {
    /// The coordinator's term and session.
    pub session: Session,
    /// The coordinator's own node.
    pub master: NodeName,
    /// The cluster as a whole.
    pub phase: ClusterPhase,
    /// The cluster's id.
    pub cluster: Option<ClusterId>,
    /// The exclusive operation that runs.
    pub operation: Option<OperationId>,
    /// Every member, the master first, then by name.
    pub members: heapless::Vec<Member, MAX_NODES>,
    /// Milliseconds since the coordinator's start.
    pub uptime_ms: u64,
    /// Grows with each change within one start.
    pub revision: u32,
    /// The last record of the audit log.
    pub audit: AuditHead,
    /// The highest version of the protocol that the coordinator speaks, whatever version this is written in; absent where
    /// that is 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaks: Option<SpokenVersion>,
}

impl Payload for CoordinatorState {
    const NAME: &'static str = "coordinator state";
    const WRAPPING: Wrapping = Wrapping::Envelope;
    const MAX_BODY_BYTES: usize = 16 * 1024;
}

/// What an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// Make the cluster.
    Create,
    /// Tear it down and make it again.
    Rebuild,
    /// Tear it down.
    Reset,
    /// Restart each Pi, one after the other.
    Reboot,
    /// Bring the engine of each member to another version, one after the other, the master first.
    Upgrade,
    /// Switch every Pi off, the master last.
    Shutdown,
    /// Wait for those that are off: people or a switch turn them on.
    Start,
    /// Cordon and empty one node.
    NodeDrain,
    /// Let work onto one node again.
    NodeUncordon,
    /// Bring one node into the cluster.
    NodeJoin,
    /// Take one node out of the cluster.
    NodeLeave,
    /// Clean one node, whatever state it is in.
    NodeReset,
    /// Restart one Pi.
    NodeReboot,
    /// Switch one Pi off.
    NodeShutdown,
    /// Let one Pi be found.
    NodeIdentify,
}

impl OperationKind {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Rebuild => "rebuild",
            Self::Reset => "reset",
            Self::Reboot => "reboot",
            Self::Upgrade => "upgrade",
            Self::Shutdown => "shutdown",
            Self::Start => "start",
            Self::NodeDrain => "node_drain",
            Self::NodeUncordon => "node_uncordon",
            Self::NodeJoin => "node_join",
            Self::NodeLeave => "node_leave",
            Self::NodeReset => "node_reset",
            Self::NodeReboot => "node_reboot",
            Self::NodeShutdown => "node_shutdown",
            Self::NodeIdentify => "node_identify",
        }
    }

    /// The first version of the protocol that knows it.
    pub fn since(self) -> ProtocolVersion {
        match self {
            Self::Create
            | Self::Rebuild
            | Self::Reset
            | Self::Reboot
            | Self::Shutdown
            | Self::Start
            | Self::NodeDrain
            | Self::NodeUncordon
            | Self::NodeJoin
            | Self::NodeLeave
            | Self::NodeReset
            | Self::NodeReboot
            | Self::NodeShutdown
            | Self::NodeIdentify => ProtocolVersion::V1,
            Self::Upgrade => ProtocolVersion::V2,
        }
    }

    /// Whether it removes what cannot be brought back.
    pub fn destroys(self) -> bool {
        match self {
            Self::Rebuild | Self::Reset | Self::NodeLeave | Self::NodeReset => true,
            Self::Create
            | Self::Reboot
            | Self::Upgrade
            | Self::Shutdown
            | Self::Start
            | Self::NodeDrain
            | Self::NodeUncordon
            | Self::NodeJoin
            | Self::NodeReboot
            | Self::NodeShutdown
            | Self::NodeIdentify => false,
        }
    }
}

impl fmt::Display for OperationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How far an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationPhase {
    /// Steps run or wait for their turn.
    Running,
    /// Another operation goes first; it goes on after that, or after the next start.
    Paused,
    /// No new step begins; those that run come to their end.
    Aborting,
    /// Every step is done.
    Done,
    /// A step without which the operation has no sense failed.
    Failed,
    /// Called off.
    Aborted,
    /// Done for some nodes, failed for others.
    PartlyDone,
}

impl OperationPhase {
    /// Whether nothing more comes after it.
    pub fn is_final(self) -> bool {
        match self {
            Self::Running | Self::Paused | Self::Aborting => false,
            Self::Done | Self::Failed | Self::Aborted | Self::PartlyDone => true,
        }
    }

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Aborting => "aborting",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
            Self::PartlyDone => "partly_done",
        }
    }
}

impl fmt::Display for OperationPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What one step does to one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    /// Keep a copy of the cluster's state.
    Snapshot,
    /// Let no new work onto the node.
    Cordon,
    /// Evict the work that is on it.
    Drain,
    /// Let work onto it again.
    Uncordon,
    /// Stop its engine.
    Stop,
    /// Remove it from Kubernetes, and wait until it is gone there.
    DeleteNode,
    /// Remove what the engine left.
    Reset,
    /// Start a new cluster.
    Initialise,
    /// Mint a credential and join with it.
    Join,
    /// Wait until Kubernetes says that it is ready.
    WaitReady,
    /// Apply the add-ons.
    AddOns,
    /// Bring the engine to another version.
    Upgrade,
    /// Restart the Pi and wait for its next boot.
    Reboot,
    /// Switch the Pi off and wait until it is silent.
    PowerOff,
    /// Wait until somebody has switched the Pi on and it says so.
    WaitUp,
    /// Blink.
    Identify,
    /// Tell the node that it may go on with what it asked for.
    LetGo,
}

impl StepKind {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Cordon => "cordon",
            Self::Drain => "drain",
            Self::Uncordon => "uncordon",
            Self::Stop => "stop",
            Self::DeleteNode => "delete_node",
            Self::Reset => "reset",
            Self::Initialise => "initialise",
            Self::Join => "join",
            Self::WaitReady => "wait_ready",
            Self::AddOns => "add_ons",
            Self::Upgrade => "upgrade",
            Self::Reboot => "reboot",
            Self::PowerOff => "power_off",
            Self::WaitUp => "wait_up",
            Self::Identify => "identify",
            Self::LetGo => "let_go",
        }
    }
}

impl StepKind {
    /// The first version of the protocol that knows it.
    pub fn since(self) -> ProtocolVersion {
        match self {
            Self::Snapshot
            | Self::Cordon
            | Self::Drain
            | Self::Uncordon
            | Self::Stop
            | Self::DeleteNode
            | Self::Reset
            | Self::Initialise
            | Self::Join
            | Self::WaitReady
            | Self::AddOns
            | Self::Reboot
            | Self::PowerOff
            | Self::WaitUp
            | Self::Identify
            | Self::LetGo => ProtocolVersion::V1,
            Self::Upgrade => ProtocolVersion::V2,
        }
    }
}

impl fmt::Display for StepKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Waits for its turn.
    Pending,
    /// Runs.
    Running,
    /// Done, or found to be so already.
    Done,
    /// Failed.
    Failed,
    /// Not run, because something before it failed or the operation was aborted.
    Skipped,
}

impl StepState {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// The steps of an operation by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StepCounts {
    /// Wait for their turn.
    pub pending: u16,
    /// Run.
    pub running: u16,
    /// Done.
    pub done: u16,
    /// Failed.
    pub failed: u16,
    /// Not run.
    pub skipped: u16,
}

/// A step that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Where.
    pub node: NodeName,
    /// Which step.
    pub step: StepKind,
    /// Why.
    pub reason: Text<160>,
}

/// The failures that a summary names; the others are in the nodes' own topics.
pub const MAX_FAILURES: usize = 4;

/// `c/operation/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationSummary {
    /// The operation's id.
    pub id: OperationId,
    /// What it is.
    pub kind: OperationKind,
    /// The one node that it is about, if so.
    pub node: Option<NodeName>,
    /// How far it is.
    pub phase: OperationPhase,
    /// Grows with each change.
    pub revision: u32,
    /// Who asked: `user:NAME`, or `node:NAME` for a button.
    pub requested_by: Text<72>,
    /// The steps by state.
    pub counts: StepCounts,
    /// The first failures.
    pub failures: heapless::Vec<Failure, MAX_FAILURES>,
}

impl Payload for OperationSummary {
    const NAME: &'static str = "operation summary";
    const WRAPPING: Wrapping = Wrapping::Envelope;
    const MAX_BODY_BYTES: usize = 6 * 1024;

    fn since(&self) -> ProtocolVersion {
        self.failures.iter().map(|failure| failure.step.since()).fold(self.kind.since(), ProtocolVersion::max)
    }
}

/// The most steps that one node has in one operation.
pub const MAX_STEPS_PER_NODE: usize = 12;

/// One step as it is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepReport {
    /// Its number in the plan, from 1.
    pub number: u16,
    /// What it does.
    pub step: StepKind,
    /// How far it is.
    pub state: StepState,
}

/// `c/operation/<id>/<node>`: retained while the operation is active.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationNode {
    /// The operation.
    pub id: OperationId,
    /// The node.
    pub node: NodeName,
    /// Grows with each change of the operation.
    pub revision: u32,
    /// This node's steps in their order.
    pub steps: heapless::Vec<StepReport, MAX_STEPS_PER_NODE>,
    /// Why a step failed, or what the running one waits for.
    pub reason: Text<160>,
}

impl Payload for OperationNode {
    const NAME: &'static str = "operation's node";
    const WRAPPING: Wrapping = Wrapping::Envelope;
    const MAX_BODY_BYTES: usize = 2560;

    fn since(&self) -> ProtocolVersion {
        self.steps.iter().map(|step| step.step.since()).fold(ProtocolVersion::V1, ProtocolVersion::max)
    }
}

/// What happened in the crew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CoordinatorEventKind {
    /// The coordinator started or came back to a running operation.
    Started,
    /// An operation began.
    OperationStarted,
    /// A step ended.
    Step,
    /// An operation ended.
    OperationEnded,
    /// A member's state changed.
    Membership,
    /// A request was refused.
    Refused,
    /// A node was let go, or uncordoned after its return.
    Slot,
    /// Something of a newer version.
    #[serde(other)]
    Other,
}

/// `c/event`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinatorEvent {
    /// What happened.
    pub kind: CoordinatorEventKind,
    /// In which operation.
    pub operation: Option<OperationId>,
    /// To which node.
    pub node: Option<NodeName>,
    /// More, for people.
    pub detail: Text<200>,
    /// Milliseconds since the coordinator's start.
    pub uptime_ms: u64,
}

impl Payload for CoordinatorEvent {
    const NAME: &'static str = "coordinator event";
    const WRAPPING: Wrapping = Wrapping::Envelope;
    const MAX_BODY_BYTES: usize = 1792;
}
