//! What the coordinator asks of Kubernetes, and what it sees there. Whoever performs it (a real API server's client, the
//! simulated one) makes each piece of work idempotent.

use alloc::string::String;
use alloc::vec::Vec;
use beehive_mqtt::command::MAX_SECRET_BYTES;
use beehive_mqtt::{BootId, ClusterId, NodeName, Text};
use core::fmt;
use zeroize::Zeroizing;

/// What lets one node join one cluster. It is shown to nobody: `Debug` hides it, there is no `Display`, it travels only
/// sealed, is never stored, and is overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinCredential(Zeroizing<String>);

impl JoinCredential {
    /// Wraps a secret. One that is longer than [`MAX_SECRET_BYTES`] is none.
    pub fn new(secret: &str) -> Option<Self> {
        (secret.len() <= MAX_SECRET_BYTES).then(|| Self(Zeroizing::new(String::from(secret))))
    }

    /// The secret, for the engine and for what seals it.
    pub fn reveal(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Debug for JoinCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinCredential(…)")
    }
}

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
    /// The version of its kubelet (`status.nodeInfo.kubeletVersion`); empty where it was never told.
    pub version: Text<32>,
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
