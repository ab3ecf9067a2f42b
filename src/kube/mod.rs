//! Kubernetes, as the coordinator needs it: a handful of calls, and the nodes as the API server sees them. What is asked
//! and answered is defined in [`beehive_cluster::kube`]; here it is performed.
//!
//! | module | Kubernetes |
//! | --- | --- |
//! | [`api`] | a real API server's, through its REST interface |
//! | [`simulated`] | none at all: it learns of its kubelets from what the nodes say over MQTT |

pub mod api;
pub mod simulated;

use std::fmt::Write as _;

use beehive_cluster::blockers::Shown;
use beehive_mqtt::NodeName;
use beehive_mqtt::node::NodeState;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

pub use api::{ApiKubernetes, DrainSettings, OnDeadline, OnLoss};
pub use beehive_cluster::kube::{KubeDone, KubeError, KubeNode, KubeView, KubeWork, Ready, Scheduling};
pub use simulated::{ControlPlane, SimulatedKubernetes};

/// What the coordinator heard of a node over MQTT.
#[derive(Debug, Clone, Copy)]
pub enum Observed<'a> {
    /// Its state; it is connected.
    State(&'a NodeState),
    /// It is not connected.
    Offline,
}

/// SHA-256 in lower-case hexadecimal digits, from the TLS library that is linked anyway.
fn sha256(bytes: &[u8]) -> Option<String> {
    let suite = rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13()?;
    let digest = suite.common.hash_provider.hash(bytes);
    let mut text = String::new();
    for byte in digest.as_ref() {
        write!(text, "{byte:02x}").ok()?;
    }
    Some(text)
}

/// An API server.
pub trait Kubernetes: Send + Sync {
    /// Does `work`. Each piece is idempotent. The future may be dropped; a drain then just ends.
    ///
    /// # Errors
    /// The future's error has a stable code: `unreachable`, `not-found`, `not-ready`, `other-cluster`, `timed-out`,
    /// `disk`.
    fn perform(&self, work: KubeWork) -> BoxFuture<'static, Result<KubeDone, KubeError>>;

    /// The labels of a node and the pods that run on it.
    ///
    /// # Errors
    /// `unreachable` or `not-found`.
    fn look(&self, node: &NodeName) -> BoxFuture<'static, Result<Shown, KubeError>>;

    /// The cluster and its nodes, now and with each change.
    fn watch(&self) -> watch::Receiver<KubeView>;

    /// Tells a Kubernetes that has no network of its own what was heard of a node. A real one does nothing here.
    fn observe(&self, node: &NodeName, observed: Observed<'_>);
}
