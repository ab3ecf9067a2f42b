//! Kubernetes, as the coordinator needs it: a handful of calls, and the nodes as the API server sees them. What is asked
//! and answered is defined in [`beehive_cluster::kube`]; here it is performed.
//!
//! | module | Kubernetes |
//! | --- | --- |
//! | [`api`] | a real API server's, through its REST interface |
//! | [`simulated`] | none at all: it learns of its kubelets from what the nodes say over MQTT |

pub mod api;
pub mod simulated;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use beehive_cluster::blockers::Shown;
use beehive_mqtt::node::NodeState;
use beehive_mqtt::{NodeName, RequestId, UserName};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::fmt;
use tokio::sync::watch;
use zeroize::Zeroize as _;

pub use api::{ApiKubernetes, DrainProgress, DrainSettings, OnDeadline, OnLoss};
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

/// A request for a certificate with which an operator opens the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateWanted {
    /// For whom.
    pub user: UserName,
    /// The request that it is asked by, from which the object's name comes.
    pub request: RequestId,
    /// The certification request (PKCS #10) in DER. Its subject is the user, in the group [`crate::keys::OPERATORS`].
    pub der: Vec<u8>,
}

/// What opens the API server together with the key that was certified. `Debug` shows the server alone; it is overwritten when it
/// is dropped.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certified {
    /// The server's address: `https://HOST:PORT`.
    pub server: String,
    /// The certificate of its authority, as PEM.
    pub authority: String,
    /// The operator's certificate, as PEM.
    pub certificate: String,
}

impl fmt::Debug for Certified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certified({})", self.server)
    }
}

impl Drop for Certified {
    fn drop(&mut self) {
        self.authority.zeroize();
        self.certificate.zeroize();
    }
}

/// SHA-256 in lower-case hexadecimal digits, from the TLS library that is linked anyway.
pub(crate) fn sha256(bytes: &[u8]) -> Option<String> {
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
    /// `blocked-by-budget`, `refused` (something would be lost that is not ours to lose), `forbidden`, `disk`.
    fn perform(&self, work: KubeWork) -> BoxFuture<'static, Result<KubeDone, KubeError>>;

    /// The labels of a node and the pods that run on it.
    ///
    /// # Errors
    /// `unreachable` or `not-found`.
    fn look(&self, node: &NodeName) -> BoxFuture<'static, Result<Shown, KubeError>>;

    /// Has the cluster's authority issue a certificate for API clients (signer `kubernetes.io/kube-apiserver-client`), short-lived
    /// where the server can be asked for that, and lets the group [`crate::keys::OPERATORS`] administer the cluster.
    ///
    /// # Errors
    /// `unreachable`, `forbidden`, `refused`, `timed-out`; `no-api` where there is no API server at all.
    fn certify(&self, wanted: CertificateWanted) -> BoxFuture<'static, Result<Certified, KubeError>>;

    /// The cluster and its nodes, now and with each change.
    fn watch(&self) -> watch::Receiver<KubeView>;

    /// How far the drains are that run now; nothing where drains have nothing to tell.
    fn drains(&self) -> Option<watch::Receiver<BTreeMap<NodeName, DrainProgress>>> {
        None
    }

    /// Tells a Kubernetes that has no network of its own what was heard of a node. A real one does nothing here.
    fn observe(&self, node: &NodeName, observed: Observed<'_>);
}
