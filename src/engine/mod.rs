//! The engine: what makes this Pi a member of a Kubernetes cluster. It is told *what* is to be done and knows *how*.
//!
//! Each piece of work is idempotent and says what it found: done again, it answers `unchanged`. Whoever asks may drop
//! the future at its deadline; what the step had begun by then is found, and named, by the next one.
//!
//! | module | engine |
//! | --- | --- |
//! | `k3s` | k3s, one binary for small machines; the one for Pis |
//! | `kubeadm` | kubeadm, with containerd |
//! | [`root`] | none of its own: a real one in a process that is root, for a daemon that is not |
//! | [`simulated`] | no Kubernetes at all, the same answers; for the demo, the tests and the virtual Pi |
//!
//! The real ones share `lifecycle`, which knows what a step finds and leaves, and [`site`], what they stand on. [`tool`] is how
//! they run programs, [`run`] what runs them, [`token`] the credential with which a Pi joins a real cluster. They run as root,
//! in a unit of their own.

mod artefacts;
mod k3s;
mod kubeadm;
mod lifecycle;
pub mod root;
pub mod run;
pub mod simulated;
pub mod site;
mod snapshot;
pub(crate) mod sweep;
#[cfg(test)]
mod tests;
pub mod token;
pub mod tool;

use std::fmt;
use std::sync::Arc;

use beehive_cluster::kube::JoinCredential;
use beehive_mqtt::node::EngineState;
use beehive_mqtt::{ClusterId, Text};
use futures_util::future::BoxFuture;
use zeroize::Zeroizing;

use crate::config::{Config, EngineKind};
pub use lifecycle::NAME_OF_CLUSTER;
pub use root::RootEngine;
pub use simulated::SimulatedEngine;
pub use site::Ground;
pub use tool::Tools;

/// A piece of work for the engine of this Pi.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineWork {
    /// Start a new cluster with this Pi as its control plane.
    Initialise {
        /// The cluster's id.
        cluster: ClusterId,
        /// The wanted version; empty means the one that is installed.
        version: Text<32>,
    },
    /// Join a cluster.
    Join {
        /// Which.
        cluster: ClusterId,
        /// The control plane's address.
        server: Text<128>,
        /// The wanted version; empty means the one that is installed.
        version: Text<32>,
        /// What lets this Pi in, once.
        credential: JoinCredential,
    },
    /// Stop the engine and keep what it has.
    Stop,
    /// Start the engine again after a stop.
    Start,
    /// Remove everything that the engine left, whatever state it is in.
    Reset,
    /// Keep a copy of the cluster's state. On the control plane only.
    Snapshot,
    /// Apply the add-ons. On the control plane only.
    AddOns,
    /// Bring this member's engine to another version, and let it run again. What is installed is replaced while it is
    /// stopped: cut short, it is stopped with either version, and the same work done again ends it.
    Upgrade {
        /// Which.
        version: Text<32>,
    },
}

impl EngineWork {
    /// The work without its arguments.
    pub fn verb(&self) -> EngineVerb {
        match self {
            Self::Initialise { .. } => EngineVerb::Initialise,
            Self::Join { .. } => EngineVerb::Join,
            Self::Stop => EngineVerb::Stop,
            Self::Start => EngineVerb::Start,
            Self::Reset => EngineVerb::Reset,
            Self::Snapshot => EngineVerb::Snapshot,
            Self::AddOns => EngineVerb::AddOns,
            Self::Upgrade { .. } => EngineVerb::Upgrade,
        }
    }
}

/// [`EngineWork`] without its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineVerb {
    /// [`EngineWork::Initialise`]
    Initialise,
    /// [`EngineWork::Join`]
    Join,
    /// [`EngineWork::Stop`]
    Stop,
    /// [`EngineWork::Start`]
    Start,
    /// [`EngineWork::Reset`]
    Reset,
    /// [`EngineWork::Snapshot`]
    Snapshot,
    /// [`EngineWork::AddOns`]
    AddOns,
    /// [`EngineWork::Upgrade`]
    Upgrade,
}

impl EngineVerb {
    /// The word for logs and for the demo's scripts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initialise => "initialise",
            Self::Join => "join",
            Self::Stop => "stop",
            Self::Start => "start",
            Self::Reset => "reset",
            Self::Snapshot => "snapshot",
            Self::AddOns => "add-ons",
            Self::Upgrade => "upgrade",
        }
    }
}

impl fmt::Display for EngineVerb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What came of a piece of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineDone {
    /// A stable word: `done`, or `unchanged` where nothing had to be done.
    pub code: &'static str,
    /// What was found and done, for people.
    pub detail: String,
}

/// Whether a step that failed left something behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// Nothing was changed.
    Clean,
    /// Something was; a reset mends it.
    HalfDone,
}

/// Why a piece of work did not come off.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct EngineError {
    /// A stable word, such as `no-cluster`, `other-cluster`, `half-done`, `bad-credential`, `disk`.
    pub code: &'static str,
    /// A sentence: what happened, why, what to do.
    pub reason: String,
    /// What it left.
    pub half: Half,
}

/// What opens the API server of the cluster whose control plane runs on this Pi: a kubeconfig of an administrator. `Debug`
/// hides it; it is overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct KubeAccess(Zeroizing<String>);

impl KubeAccess {
    /// Wraps a kubeconfig.
    pub fn new(kubeconfig: Zeroizing<String>) -> Self {
        Self(kubeconfig)
    }

    /// The kubeconfig, for the client.
    pub fn reveal(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Debug for KubeAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KubeAccess(…)")
    }
}

/// An engine.
pub trait Engine: Send + Sync {
    /// Its name in the configuration: `simulated`.
    fn kind(&self) -> &'static str;

    /// Does `work`, after whatever was asked for before it. The future may be dropped; see the module's text.
    ///
    /// # Errors
    /// The future's error names the step, the reason and whether something was left half-done.
    fn perform(&self, work: EngineWork) -> BoxFuture<'static, Result<EngineDone, EngineError>>;

    /// The state as last known. Cheap: it never waits for a step or for the disk.
    fn state(&self) -> EngineState;

    /// What opens the API server, on the Pi whose control plane it is; none where this Pi has no control plane, or where
    /// there is no API server at all.
    ///
    /// # Errors
    /// If there should be one and it cannot be read.
    fn access(&self) -> BoxFuture<'static, Result<Option<KubeAccess>, EngineError>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// The state as it is now: a real engine asks systemd, after whatever was asked for before it.
    ///
    /// # Errors
    /// If it cannot be asked.
    fn look(&self) -> BoxFuture<'static, Result<EngineState, EngineError>> {
        Box::pin(std::future::ready(Ok(self.state())))
    }

    /// Puts a kept copy of the cluster's state back, that of number `generation` or the newest, and lets the cluster run with
    /// it. On the control plane only, and only a copy of this very cluster. Whatever was made after the copy is gone.
    ///
    /// # Errors
    /// The future's error, as of [`Self::perform`]; `no-restore` where the engine keeps no copies.
    fn restore(&self, generation: Option<u32>) -> BoxFuture<'static, Result<EngineDone, EngineError>> {
        let number = generation.map_or_else(|| "the newest copy".to_owned(), |number| format!("copy {number}"));
        let reason = format!("{number} cannot be put back: the engine {} keeps none", self.kind());
        Box::pin(std::future::ready(Err(EngineError { code: "no-restore", reason, half: Half::Clean })))
    }
}

/// Opens the real engine of the configuration on this Pi, with what it has stored.
///
/// # Errors
/// `no-real-engine` where the configuration names the simulated one, which needs no root; `disk`; `other-engine` where this Pi is
/// in a cluster by another one.
pub fn open(config: &Config, tools: Arc<dyn Tools>) -> Result<Arc<dyn Engine>, EngineError> {
    open_on(config, Ground::this_pi(tools))
}

/// As [`open`], on this ground.
///
/// # Errors
/// As [`open`].
pub fn open_on(config: &Config, ground: Ground) -> Result<Arc<dyn Engine>, EngineError> {
    let how: Box<dyn lifecycle::Distribution> = match config.engine.kind {
        EngineKind::K3s => Box::new(k3s::K3s),
        EngineKind::Kubeadm => Box::new(kubeadm::Kubeadm),
        EngineKind::Simulated => {
            let reason =
                "kind in [engine] is \"simulated\", which needs no root; write \"k3s\" or \"kubeadm\"".to_owned();
            return Err(EngineError { code: "no-real-engine", reason, half: Half::Clean });
        }
    };
    let site = site::Site::new(config, ground).map_err(|failure| EngineError {
        code: failure.code,
        reason: failure.reason,
        half: Half::Clean,
    })?;
    Ok(Arc::new(lifecycle::RealEngine::open(site, how)?))
}
