//! What the coordinator asks of Kubernetes, and what it sees there. Whoever performs it (a real API server's client, the
//! simulated one) makes each piece of work idempotent.

use alloc::vec::Vec;
use beehive_mqtt::command::JoinCredential;
use beehive_mqtt::{BootId, ClusterId, NodeName, Text};

/// Whether the kubelet of a node reports Ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// It does.
    Yes,
    /// It does not, or nobody has heard of it for too long.
    No,
}

/// Whether new pods may be placed on a node (`spec.unschedulable`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheduling {
    /// They may.
    Open,
    /// They may not.
    Cordoned,
}

/// A Node object, as far as we care.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubeNode {
    /// Its name.
    pub node: NodeName,
    /// Whether it is ready.
    pub ready: Ready,
    /// Whether it takes new pods.
    pub scheduling: Scheduling,
    /// The boot that its kubelet reported (`status.nodeInfo.bootID`).
    pub boot: Option<BootId>,
}

/// The API server, as last seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KubeView {
    /// The cluster that it serves; none while there is no cluster or no answer.
    pub cluster: Option<ClusterId>,
    /// Its nodes, by name.
    pub nodes: Vec<KubeNode>,
}

impl KubeView {
    /// The Node object of that name.
    pub fn node(&self, name: &NodeName) -> Option<&KubeNode> {
        self.nodes.iter().find(|node| node.node == *name)
    }
}

/// A piece of work for the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KubeWork {
    /// Let no new pods onto the node.
    Cordon(NodeName),
    /// Let pods onto it again.
    Uncordon(NodeName),
    /// Evict its pods.
    Drain {
        /// The node.
        node: NodeName,
        /// How long that may take.
        deadline_ms: u64,
    },
    /// Delete the Node object and what belongs to it.
    DeleteNode(NodeName),
    /// Mint a credential with which this node alone joins this cluster once.
    MintCredential {
        /// The node.
        node: NodeName,
        /// The cluster.
        cluster: ClusterId,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KubeDone {
    /// Done, or found to be so.
    Done,
    /// The credential that was minted.
    Credential(JoinCredential),
}

/// Why it did not come off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubeError {
    /// A stable word, such as `unreachable`, `blocked-by-budget`, `not-found`.
    pub code: &'static str,
    /// A sentence for people.
    pub reason: Text<160>,
}
