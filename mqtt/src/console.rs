//! What an operator asks (`q/<user>/request`) and what the coordinator answers (`p/<user>/response`). Sent again with the
//! same id until the answer comes; the same id is the same request, however often it arrives.

use crate::codec::{Payload, Wrapping};
use crate::coordinator::{AuditHead, OperationKind, StepKind};
use crate::id::{NodeName, Nonce, OperationId, RequestId};
use crate::sign::Digest;
use crate::text::Text;
use crate::version::ProtocolVersion;
use serde::{Deserialize, Serialize};

/// Act, or only say what would be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Do it.
    Execute,
    /// Show the plan.
    DryRun,
}

/// Whether a rule that protects may be set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Force {
    /// No.
    No,
    /// Yes; the answer names what was overridden.
    Yes,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Ask {
    /// Start an operation.
    Operation {
        /// Which.
        kind: OperationKind,
        /// On which node, for those that are about one.
        node: Option<NodeName>,
        /// The engine version, for create, rebuild, join and upgrade; empty means the one that is installed.
        version: Text<32>,
        /// Whether a protecting rule may be set aside.
        force: Force,
    },
    /// Call the running operation off at the next safe point.
    Abort,
    /// Take up again what failed, was aborted or paused: failed and skipped steps are tried once more.
    Resume,
}

/// A request of an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleRequest {
    /// Its id.
    pub id: RequestId,
    /// The coordinator's session, as its state says. For another one an unknown request is refused (`stale-nonce`); a repeat
    /// of a known one is answered all the same.
    pub nonce: Nonce,
    /// Act, or only say what would be done.
    pub mode: Mode,
    /// What is asked.
    #[serde(flatten)]
    pub ask: Ask,
}

impl ConsoleRequest {
    /// What it asks: everything but the id and the session.
    pub fn digest(&self) -> Digest {
        Digest::of(&(self.mode, &self.ask))
    }
}

impl Payload for ConsoleRequest {
    const NAME: &'static str = "console request";
    const WRAPPING: Wrapping = Wrapping::Envelope;
    const MAX_BODY_BYTES: usize = 768;

    fn since(&self) -> ProtocolVersion {
        match &self.ask {
            Ask::Operation { kind, .. } => kind.since(),
            Ask::Abort | Ask::Resume => ProtocolVersion::V1,
        }
    }
}

/// The answer in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResponseStatus {
    /// The operation has begun; follow `c/operation/<id>`.
    Started,
    /// Done at once.
    Done,
    /// Nothing had to be done.
    Unchanged,
    /// Only the plan was asked for.
    Planned,
    /// Not done; `code` names the rule.
    Refused,
    /// There is no such node.
    UnknownNode,
    /// This user may not.
    NotAuthorised,
    /// The request cannot be read; `text` says why.
    Invalid,
    /// Not done, for a reason that is nobody's rule (the store failed).
    Failed,
}

/// One line of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanStep {
    /// What.
    pub step: StepKind,
    /// To which node.
    pub node: NodeName,
    /// The stage: a step begins when every step of lower stages has ended, and this node's earlier steps are done.
    pub stage: u16,
}

/// The most steps of a plan: the largest, a rolling reboot, has five for each of 64 nodes.
pub const MAX_PLAN_STEPS: usize = 330;

/// An answer to a [`ConsoleRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleResponse {
    /// The request.
    pub id: RequestId,
    /// The answer in one word.
    pub status: ResponseStatus,
    /// A stable word for the rule or fault: `one-operation-at-a-time`, `slot-held` …
    pub code: Text<48>,
    /// A sentence for people.
    pub text: Text<240>,
    /// The operation that was started, or that stands in the way.
    pub operation: Option<OperationId>,
    /// The plan, where it was asked for.
    pub plan: heapless::Vec<PlanStep, MAX_PLAN_STEPS>,
    /// The last record of the coordinator's audit log: this answer's, or a later one.
    pub audit: AuditHead,
}

impl Payload for ConsoleResponse {
    const NAME: &'static str = "console response";
    const WRAPPING: Wrapping = Wrapping::Envelope;
    const MAX_BODY_BYTES: usize = 56 * 1024;

    fn since(&self) -> ProtocolVersion {
        self.plan.iter().map(|step| step.step.since()).fold(ProtocolVersion::V1, ProtocolVersion::max)
    }
}

const _: () =
    assert!(ConsoleResponse::MAX_BYTES + crate::topic::MAX_TOPIC_BYTES + 16 <= crate::codec::MAX_PACKET_BYTES);
