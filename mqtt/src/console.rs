//! What an operator asks (`q/<user>/request`) and what the coordinator answers (`p/<user>/response`). Sent again with the
//! same id until the answer comes; the same id is the same request, however often it arrives.

use crate::codec::{Payload, Wrapping};
use crate::command::{bytes_of, digits};
use crate::coordinator::{AuditHead, OperationKind, StepKind};
use crate::id::{CrewName, NodeName, Nonce, OperationId, RequestId, UserName};
use crate::sign::{ClientKey, ClientProof, Digest, SealKey, lengths_before};
use crate::text::Text;
use crate::version::ProtocolVersion;
use alloc::vec::Vec;
use core::fmt;
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
    /// Let the cluster's authority certify a key of the operator's own, with which its API server is opened. The private key
    /// stays with who asks. The certificate is for the user that the request is signed by: nothing here names one.
    Kubeconfig {
        /// A key made for this request alone: the answer is sealed to it.
        seal: SealKey,
        /// The key that is to be certified.
        client: ClientKey,
        /// That the asker has its other half: the signature of the certification request.
        proof: ClientProof,
    },
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
            Ask::Kubeconfig { .. } => ProtocolVersion::V2,
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

/// The most bytes of what is sealed into an answer: two certificates as PEM, of 2 KB each at most, and an address. kubeadm's
/// have some 1.1 KB, k3s' some 600 bytes.
pub const MAX_ACCESS_BYTES: usize = 4_000;

/// What opens the cluster, sealed to the asker's one-time key, as hexadecimal digits. `Debug` shows its length alone.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SealedAccess(Text<8192>);

impl SealedAccess {
    /// Of sealed bytes. What is too long is cut, and then opens for nobody; [`MAX_ACCESS_BYTES`] and what sealing adds fit.
    pub fn new(sealed: &[u8]) -> Self {
        Self(digits(sealed))
    }

    /// The sealed bytes; nothing if it is no hexadecimal.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        bytes_of(&self.0)
    }
}

impl fmt::Debug for SealedAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedAccess({} bytes)", self.0.as_str().len() / 2)
    }
}

/// What an answer is sealed for. Both ends build it from what they know themselves, so that one that was recorded opens for
/// no other crew, user, request or key.
#[derive(Debug, Clone, Copy)]
pub struct AccessContext<'a> {
    /// The crew.
    pub crew: &'a CrewName,
    /// Who asks.
    pub user: &'a UserName,
    /// The request.
    pub request: &'a RequestId,
    /// The key that is certified.
    pub client: &'a ClientKey,
}

impl AccessContext<'_> {
    /// Its bytes: a word for the purpose and each part, preceded by its length as 32 bits, big-endian.
    pub fn bytes(&self) -> Vec<u8> {
        lengths_before(&[
            b"kubeconfig",
            self.crew.as_str().as_bytes(),
            self.user.as_str().as_bytes(),
            self.request.as_str().as_bytes(),
            &self.client.0,
        ])
    }
}

/// An answer to a [`ConsoleRequest`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// What opens the cluster, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<SealedAccess>,
}

impl fmt::Debug for ConsoleResponse {
    /// As it stands on the wire: what is absent there is not shown. The simulator's hashes are made of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, status, code, text, operation, plan, audit, sealed } = self;
        let mut shown = f.debug_struct("ConsoleResponse");
        shown.field("id", id).field("status", status).field("code", code).field("text", text);
        shown.field("operation", operation).field("plan", plan).field("audit", audit);
        if let Some(sealed) = sealed {
            shown.field("sealed", sealed);
        }
        shown.finish()
    }
}

impl Payload for ConsoleResponse {
    const NAME: &'static str = "console response";
    const WRAPPING: Wrapping = Wrapping::Envelope;
    const MAX_BODY_BYTES: usize = 56 * 1024;

    fn since(&self) -> ProtocolVersion {
        let least = match self.sealed {
            Some(_) => ProtocolVersion::V2,
            None => ProtocolVersion::V1,
        };
        self.plan.iter().map(|step| step.step.since()).fold(least, ProtocolVersion::max)
    }
}

const _: () =
    assert!(ConsoleResponse::MAX_BYTES + crate::topic::MAX_TOPIC_BYTES + 16 <= crate::codec::MAX_PACKET_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_keeps_its_bytes_and_the_longest_fits() {
        // an encapsulated key and a tag come to what is sealed
        let longest: Vec<u8> = (0..MAX_ACCESS_BYTES + 48).map(|byte| (byte % 251) as u8).collect();
        let sealed = SealedAccess::new(&longest);
        assert_eq!(sealed.bytes().unwrap(), longest);
        assert_eq!(alloc::format!("{sealed:?}"), "SealedAccess(4048 bytes)");
        assert_eq!(SealedAccess(Text::cut("0g")).bytes(), None);
    }

    #[test]
    fn a_context_is_another_one_with_any_other_part() {
        let (crew, user, request, client) =
            ("bee".parse().unwrap(), "ann".parse().unwrap(), "r-1".parse().unwrap(), ClientKey([7; 65]));
        let context = AccessContext { crew: &crew, user: &user, request: &request, client: &client };
        let (other_crew, other_user, other_request, other_client) =
            ("bees".parse().unwrap(), "bob".parse().unwrap(), "r-2".parse().unwrap(), ClientKey([8; 65]));
        for other in [
            AccessContext { crew: &other_crew, ..context },
            AccessContext { user: &other_user, ..context },
            AccessContext { request: &other_request, ..context },
            AccessContext { client: &other_client, ..context },
        ] {
            assert_ne!(other.bytes(), context.bytes(), "{other:?}");
        }
    }
}
