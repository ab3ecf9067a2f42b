//! Kubernetes without Kubernetes: Node objects, cordons, drains and join credentials, kept as a real API server keeps them.
//!
//! Two handles share one [`ControlPlane`] on the master. The engine starts, stops and removes it; the coordinator asks it
//! through [`SimulatedKubernetes`]. While it is stopped, every call fails as `unreachable` and the view is empty, as a
//! client's would be.
//!
//! What it knows lies in the store's file [`FILE`] and survives a power cut: the cluster's id, the Node objects with their
//! cordons, and the hashes of the credentials that were minted. It has no network of its own. A kubelet's word is its
//! node's state on MQTT ([`SimulatedKubernetes::observe`]):
//!
//! - A Node appears when its state says that its engine runs in this cluster *and* a credential was minted for it that no
//!   registration has used up. (The joining Pi sees no API; it can check only the credential's form.) The master needs
//!   none.
//! - It is ready while its node is connected and its engine runs in this cluster. A real one is noticed after 40 s only.
//! - A Node that was deleted does not come back with the next word of its kubelet: Kubernetes 1.20 does the same (tried,
//!   see the reference). It needs a new credential, and a state that is newer than the one that was known when that was
//!   minted.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use beehive_cluster::blockers::{Label, Shown};
use beehive_cluster::coordinator::limit_ms;
use beehive_cluster::kube::JoinCredential;
use beehive_mqtt::command::MAX_SECRET_BYTES;
use beehive_mqtt::coordinator::StepKind;
use beehive_mqtt::node::{EngineRun, NodeState};
use beehive_mqtt::{BootId, ClusterId, MAX_NODES, NodeName, Text};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, TryFutureExt};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::{
    CertificateWanted, Certified, KubeDone, KubeError, KubeNode, KubeView, KubeWork, Kubernetes, Observed, Ready,
    Scheduling, sha256,
};
use crate::store::{Store, StoreError};

/// The file in the master's store.
pub const FILE: &str = "kubernetes-simulated";

/// The copy that [`ControlPlane::snapshot`] makes of it.
pub const SNAPSHOT_FILE: &str = "kubernetes-simulated-snapshot";

/// What a simulated credential begins with, so that one of another engine is named as such.
const CREDENTIAL_SCHEME: &str = "beehive-simulated-1";

/// How long a credential opens anything: as long as the coordinator waits for the join that it was minted for.
const LIFETIME: Duration = Duration::from_millis(limit_ms(StepKind::Join, 0));

/// The bytes of a credential's secret part: 128 random bits (122 of them, to be exact: a version-4 UUID) as hexadecimal.
const SECRET_BYTES: usize = 32;

/// What is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    cluster: ClusterId,
    version: Text<32>,
    master: NodeName,
    add_ons: AddOns,
    nodes: BTreeMap<NodeName, Object>,
    invitations: BTreeMap<NodeName, Invitation>,
}

/// Whether the add-ons are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AddOns {
    Missing,
    Applied,
}

/// A Node object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Object {
    cordoned: bool,
    boot: BootId,
}

/// A credential that was minted and not yet used up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Invitation {
    /// The SHA-256 of the credential. The credential itself is kept nowhere.
    sha256: String,
    /// The node's state when it was minted; only another one can be the joined node's.
    minted_at: Option<StateId>,
    /// Until when it counts. Not stored: after a restart its time begins anew, or a join under way would be for nothing.
    #[serde(skip, default = "lifetime_from_now")]
    until: Instant,
}

fn lifetime_from_now() -> Instant {
    Instant::now() + LIFETIME
}

impl Invitation {
    fn is_alive(&self) -> bool {
        Instant::now() < self.until
    }
}

/// Which state of a node: no two are alike in all three.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct StateId {
    boot: BootId,
    start: u32,
    revision: u32,
}

/// Why the control plane did not do as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct PlaneError {
    /// A stable word; see [`Kubernetes::perform`].
    pub code: &'static str,
    /// A sentence for people.
    pub reason: String,
}

impl From<PlaneError> for KubeError {
    fn from(error: PlaneError) -> Self {
        Self { code: error.code, reason: Text::cut(&error.reason) }
    }
}

/// What was last heard of a node; not stored, since its state is retained by the broker.
#[derive(Debug, Clone)]
struct Heard {
    id: StateId,
    cluster: Option<ClusterId>,
    run: EngineRun,
    version: Text<32>,
    connected: bool,
}

struct Shared {
    kept: Option<Kept>,
    run: EngineRun,
    heard: BTreeMap<NodeName, Heard>,
}

struct Inner {
    store: Store,
    shared: Mutex<Shared>,
    view: watch::Sender<KubeView>,
}

/// The simulated control plane: API server and data store. Clones share it.
#[derive(Clone)]
pub struct ControlPlane {
    inner: Arc<Inner>,
}

impl ControlPlane {
    /// The control plane that `store` holds, stopped.
    ///
    /// # Errors
    /// If the stored state cannot be read.
    pub fn open(store: Store) -> Result<Self, PlaneError> {
        let kept = store.load::<Option<Kept>>(FILE).map_err(|error| disk(&error))?.flatten();
        let shared = Shared { kept, run: EngineRun::Stopped, heard: BTreeMap::new() };
        let (view, _) = watch::channel(KubeView::default());
        Ok(Self { inner: Arc::new(Inner { store, shared: Mutex::new(shared), view }) })
    }

    /// Serves `cluster` from now on: what is stored of it, else a new one with `master` as its control plane.
    ///
    /// # Errors
    /// If a new one cannot be stored.
    pub fn start(&self, master: &NodeName, cluster: &ClusterId, version: &Text<32>) -> Result<(), PlaneError> {
        self.change(|shared| {
            let known = matches!(&shared.kept, Some(kept) if kept.cluster == *cluster);
            if !known {
                shared.kept = Some(Kept {
                    cluster: cluster.clone(),
                    version: version.clone(),
                    master: master.clone(),
                    add_ons: AddOns::Missing,
                    nodes: BTreeMap::new(),
                    invitations: BTreeMap::new(),
                });
            }
            if let Some(kept) = &mut shared.kept {
                kept.version = version.clone();
            }
            shared.run = EngineRun::Running;
            Ok(())
        })
    }

    /// Serves nothing any more; what is stored stays.
    pub fn stop(&self) {
        let mut shared = self.lock();
        shared.run = EngineRun::Stopped;
        self.show(&shared);
    }

    /// Removes the cluster and all that is stored of it.
    ///
    /// # Errors
    /// If that cannot be stored.
    pub fn remove(&self) -> Result<(), PlaneError> {
        self.change(|shared| {
            shared.run = EngineRun::Stopped;
            shared.kept = None;
            Ok(())
        })
    }

    /// Copies the state beside itself; answers with the number of its Node objects.
    ///
    /// # Errors
    /// If there is no cluster, or the copy cannot be stored.
    pub fn snapshot(&self) -> Result<usize, PlaneError> {
        let kept = serving(&mut self.lock())?.clone();
        self.inner.store.save(SNAPSHOT_FILE, &kept).map_err(|error| disk(&error))?;
        Ok(kept.nodes.len())
    }

    /// Applies the add-ons; answers whether there was anything to do.
    ///
    /// # Errors
    /// If there is no cluster, or it cannot be stored.
    pub fn apply_add_ons(&self) -> Result<bool, PlaneError> {
        let mut changed = false;
        self.change(|shared| {
            let kept = serving(shared)?;
            changed = kept.add_ons == AddOns::Missing;
            kept.add_ons = AddOns::Applied;
            Ok(())
        })?;
        Ok(changed)
    }

    /// Whether the credential is the one that was last minted for its node and has not been used.
    pub fn knows(&self, credential: &JoinCredential) -> bool {
        let Ok(parsed) = SimulatedCredential::parse(credential) else { return false };
        let Some(hash) = sha256(credential.reveal().as_bytes()) else { return false };
        match serving(&mut self.lock()) {
            Ok(kept) => {
                kept.cluster == parsed.cluster
                    && matches!(
                        kept.invitations.get(&parsed.node),
                        Some(invitation) if invitation.sha256 == hash && invitation.is_alive()
                    )
            }
            Err(_) => false,
        }
    }

    /// Changes what is known; stores it if that changed what is stored, and only then takes it over and shows it.
    fn change(&self, change: impl FnOnce(&mut Shared) -> Result<(), PlaneError>) -> Result<(), PlaneError> {
        let mut shared = self.lock();
        let before = shared.kept.clone();
        let run = shared.run;
        let outcome = change(&mut shared).and_then(|()| {
            register(&mut shared);
            if shared.kept == before {
                return Ok(());
            }
            self.inner.store.save(FILE, &shared.kept).map_err(|error| disk(&error))
        });
        if outcome.is_err() {
            shared.kept = before;
            shared.run = run;
        }
        self.show(&shared);
        outcome
    }

    fn show(&self, shared: &Shared) {
        let view = view(shared);
        self.inner.view.send_if_modified(|shown| {
            let changed = *shown != view;
            *shown = view;
            changed
        });
    }

    /// A panic elsewhere must not take the control plane with it: each change is whole before the lock is given back.
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.inner.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets the kubelets register that may, and notes the boots of those that have.
fn register(shared: &mut Shared) {
    if shared.run == EngineRun::Stopped {
        return;
    }
    let Some(kept) = &mut shared.kept else { return };
    for (node, heard) in &shared.heard {
        if !speaks_for(heard, &kept.cluster) {
            continue;
        }
        if let Some(object) = kept.nodes.get_mut(node) {
            object.boot.clone_from(&heard.id.boot);
            continue;
        }
        let invited = match kept.invitations.get(node) {
            Some(invitation) => invitation.is_alive() && invitation.minted_at.as_ref() != Some(&heard.id),
            None => *node == kept.master,
        };
        if invited {
            kept.invitations.remove(node);
            kept.nodes.insert(node.clone(), Object { cordoned: false, boot: heard.id.boot.clone() });
        }
    }
}

/// Whether a node's word is that of a running kubelet of `cluster`.
fn speaks_for(heard: &Heard, cluster: &ClusterId) -> bool {
    heard.connected && heard.run == EngineRun::Running && heard.cluster.as_ref() == Some(cluster)
}

fn view(shared: &Shared) -> KubeView {
    match (&shared.kept, shared.run) {
        (Some(kept), EngineRun::Running) => KubeView {
            cluster: Some(kept.cluster.clone()),
            nodes: kept
                .nodes
                .iter()
                .map(|(node, object)| KubeNode {
                    node: node.clone(),
                    ready: match shared.heard.get(node) {
                        Some(heard) if speaks_for(heard, &kept.cluster) => Ready::Yes,
                        Some(_) | None => Ready::No,
                    },
                    scheduling: if object.cordoned { Scheduling::Cordoned } else { Scheduling::Open },
                    boot: Some(object.boot.clone()),
                    version: shared.heard.get(node).map(|heard| heard.version.clone()).unwrap_or_default(),
                })
                .collect(),
        },
        (Some(_) | None, _) => KubeView::default(),
    }
}

fn serving(shared: &mut Shared) -> Result<&mut Kept, PlaneError> {
    match (&mut shared.kept, shared.run) {
        (Some(kept), EngineRun::Running) => Ok(kept),
        (Some(_), EngineRun::Stopped) => {
            Err(error("unreachable", "the API server is stopped; start the master's engine"))
        }
        (None, _) => Err(error("unreachable", "there is no API server: the cluster is not created yet")),
    }
}

/// The simulated Kubernetes as the coordinator sees it. Clones share it.
#[derive(Clone)]
pub struct SimulatedKubernetes {
    plane: ControlPlane,
    drain_ms: u64,
    blocked: Arc<Mutex<Option<NodeName>>>,
}

impl SimulatedKubernetes {
    /// Serves `plane`. A drain takes `drain_ms` milliseconds.
    pub fn new(plane: ControlPlane, drain_ms: u64) -> Self {
        Self { plane, drain_ms, blocked: Arc::new(Mutex::new(None)) }
    }

    /// Makes each drain of `node` run into its deadline, as a disruption budget would; `None` ends that.
    pub fn block_drains(&self, node: Option<NodeName>) {
        *self.blocked.lock().unwrap_or_else(PoisonError::into_inner) = node;
    }

    fn set_cordon(&self, node: NodeName, cordoned: bool) -> BoxFuture<'static, Result<KubeDone, PlaneError>> {
        self.off_the_executor(move |plane| {
            plane.change(|shared| {
                object(serving(shared)?, &node)?.cordoned = cordoned;
                Ok(())
            })?;
            Ok(KubeDone::Done)
        })
    }

    /// An SD card may take seconds for one write, and other tasks share the executor.
    fn off_the_executor(
        &self,
        work: impl FnOnce(&ControlPlane) -> Result<KubeDone, PlaneError> + Send + 'static,
    ) -> BoxFuture<'static, Result<KubeDone, PlaneError>> {
        let plane = self.plane.clone();
        async move {
            tokio::task::spawn_blocking(move || work(&plane)).await.unwrap_or_else(|join| {
                Err(PlaneError {
                    code: "internal",
                    reason: format!("the simulated API server's call ended early: {join}"),
                })
            })
        }
        .boxed()
    }

    async fn drain(self, node: NodeName, deadline_ms: u64) -> Result<KubeDone, PlaneError> {
        let ready = {
            let mut shared = self.plane.lock();
            object(serving(&mut shared)?, &node)?;
            view(&shared).node(&node).is_some_and(|node| node.ready == Ready::Yes)
        };
        if !ready {
            return Err(PlaneError {
                code: "not-ready",
                reason: format!("{node} is not ready: nobody there confirms that its pods have ended"),
            });
        }
        self.set_cordon(node.clone(), true).await?;
        let blocked = self.blocked.lock().unwrap_or_else(PoisonError::into_inner).as_ref() == Some(&node);
        if blocked || self.drain_ms > deadline_ms {
            tokio::time::sleep(Duration::from_millis(deadline_ms)).await;
            let (code, why) = if blocked {
                ("blocked-by-budget", "a disruption budget holds its pods")
            } else {
                ("timed-out", "its pods take longer")
            };
            return Err(PlaneError {
                code,
                reason: format!("{node} was not empty after {deadline_ms} ms: {why}; it stays cordoned"),
            });
        }
        if self.drain_ms > 0 {
            tokio::time::sleep(Duration::from_millis(self.drain_ms)).await;
        }
        // the master may have gone meanwhile
        serving(&mut self.plane.lock())?;
        Ok(KubeDone::Done)
    }
}

impl Kubernetes for SimulatedKubernetes {
    fn certify(&self, _: CertificateWanted) -> BoxFuture<'static, Result<Certified, KubeError>> {
        let why = error("no-api", "the simulated engine has no API; there is nothing that a kubeconfig would open");
        futures_util::future::ready(Err(KubeError::from(why))).boxed()
    }

    /// The labels that every node has; nothing runs on a simulated one.
    fn look(&self, node: &NodeName) -> BoxFuture<'static, Result<Shown, KubeError>> {
        let mut shared = self.plane.lock();
        let shown = serving(&mut shared).and_then(|kept| {
            object(kept, node)?;
            let label = |key: &str, value: &str| Label { key: key.to_owned(), value: value.to_owned() };
            let mut labels = vec![label("kubernetes.io/hostname", node.as_str())];
            if kept.master == *node {
                labels.push(label("node-role.kubernetes.io/control-plane", ""));
            }
            Ok(Shown { labels, pods: Vec::new() })
        });
        futures_util::future::ready(shown.map_err(KubeError::from)).boxed()
    }

    fn perform(&self, work: KubeWork) -> BoxFuture<'static, Result<KubeDone, KubeError>> {
        let outcome = match work {
            KubeWork::Cordon(node) => self.set_cordon(node, true),
            KubeWork::Uncordon(node) => self.set_cordon(node, false),
            KubeWork::Drain { node, deadline_ms } => self.clone().drain(node, deadline_ms).boxed(),
            KubeWork::DeleteNode(node) => self.off_the_executor(move |plane| {
                plane.change(|shared| {
                    let kept = serving(shared)?;
                    kept.nodes.remove(&node);
                    kept.invitations.remove(&node);
                    Ok(())
                })?;
                Ok(KubeDone::Done)
            }),
            KubeWork::MintCredential { node, cluster } => self.off_the_executor(move |plane| {
                let secret = Zeroizing::new(uuid::Uuid::new_v4().simple().to_string());
                let credential = SimulatedCredential { cluster, node, secret };
                let (cluster, node) = (&credential.cluster, &credential.node);
                let minted = credential.whole().ok_or_else(|| error("internal", "the credential is too long"))?;
                let sha256 =
                    sha256(minted.reveal().as_bytes()).ok_or_else(|| error("internal", "this build has no SHA-256"))?;
                plane.change(|shared| {
                    let minted_at = shared.heard.get(node).map(|heard| heard.id.clone());
                    let kept = serving(shared)?;
                    if kept.cluster != *cluster {
                        return Err(PlaneError {
                            code: "other-cluster",
                            reason: format!("the API server serves {}, not {cluster}", kept.cluster),
                        });
                    }
                    kept.invitations.insert(node.clone(), Invitation { sha256, minted_at, until: lifetime_from_now() });
                    Ok(())
                })?;
                Ok(KubeDone::Credential(minted))
            }),
        };
        outcome.map_err(KubeError::from).boxed()
    }

    fn watch(&self) -> watch::Receiver<KubeView> {
        self.plane.inner.view.subscribe()
    }

    /// Writes to the disk when a node registers or has rebooted, which is rare.
    fn observe(&self, node: &NodeName, observed: Observed<'_>) {
        let outcome = self.plane.change(|shared| {
            match observed {
                Observed::State(state) => {
                    if shared.heard.len() >= MAX_NODES && !shared.heard.contains_key(node) {
                        return Err(error("too-many-nodes", "a crew has 64 nodes at most; this one is ignored"));
                    }
                    shared.heard.insert(node.clone(), heard(state));
                }
                Observed::Offline => {
                    if let Some(heard) = shared.heard.get_mut(node) {
                        heard.connected = false;
                    }
                }
            }
            Ok(())
        });
        if let Err(error) = outcome {
            tracing::warn!(%node, reason = %error.reason, "the simulated Kubernetes did not take in a node's state");
        }
    }
}

fn heard(state: &NodeState) -> Heard {
    Heard {
        id: StateId { boot: state.boot.clone(), start: state.start, revision: state.revision },
        cluster: state.engine.cluster.clone(),
        run: state.engine.run,
        version: state.engine.version.clone(),
        connected: true,
    }
}

fn object<'a>(kept: &'a mut Kept, node: &NodeName) -> Result<&'a mut Object, PlaneError> {
    kept.nodes
        .get_mut(node)
        .ok_or_else(|| PlaneError { code: "not-found", reason: format!("the cluster has no node {node}") })
}

fn error(code: &'static str, reason: &str) -> PlaneError {
    PlaneError { code, reason: reason.to_owned() }
}

fn disk(error: &StoreError) -> PlaneError {
    PlaneError { code: "disk", reason: error.to_string() }
}

/// A join credential of the simulated engine, taken apart: for one node, for one cluster.
#[derive(Clone, PartialEq, Eq)]
pub struct SimulatedCredential {
    /// The cluster that it lets into.
    pub cluster: ClusterId,
    /// The node that it lets in.
    pub node: NodeName,
    secret: Zeroizing<String>,
}

/// Why a text is no join credential of the simulated engine. It never shows the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// Of another engine, or no credential at all.
    #[error("is not one of the simulated engine")]
    Scheme,
    /// Cut short, or with parts that are no names.
    #[error("is damaged")]
    Damaged,
}

impl SimulatedCredential {
    /// Takes a credential apart.
    ///
    /// # Errors
    /// Says whether it is foreign or damaged.
    pub fn parse(credential: &JoinCredential) -> Result<Self, CredentialError> {
        let mut parts = credential.reveal().split(':');
        if parts.next() != Some(CREDENTIAL_SCHEME) {
            return Err(CredentialError::Scheme);
        }
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(cluster), Some(node), Some(secret), None) => {
                let hexadecimal = secret.bytes().all(|byte| byte.is_ascii_hexdigit());
                if secret.len() != SECRET_BYTES || !hexadecimal {
                    return Err(CredentialError::Damaged);
                }
                Ok(Self {
                    cluster: cluster.parse().map_err(|_| CredentialError::Damaged)?,
                    node: node.parse().map_err(|_| CredentialError::Damaged)?,
                    secret: Zeroizing::new(secret.to_owned()),
                })
            }
            _ => Err(CredentialError::Damaged),
        }
    }

    fn whole(&self) -> Option<JoinCredential> {
        let (cluster, node, secret) = (&self.cluster, &self.node, self.secret.as_str());
        // as long as it can become: a string that grows leaves copies behind
        let mut text = Zeroizing::new(String::with_capacity(2 * MAX_SECRET_BYTES));
        write!(text, "{CREDENTIAL_SCHEME}:{cluster}:{node}:{secret}").ok()?;
        JoinCredential::new(&text)
    }
}

impl fmt::Debug for SimulatedCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimulatedCredential({} into {})", self.node, self.cluster)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use beehive_mqtt::node::{EngineState, Lifecycle, PowerPhase};
    use tempfile::TempDir;

    const MASTER: &str = "crew-001";
    const WORKER: &str = "crew-002";

    fn node(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    fn cluster(id: &str) -> ClusterId {
        id.parse().unwrap()
    }

    fn state(id: Option<&str>, run: EngineRun, revision: u32) -> NodeState {
        NodeState {
            lifecycle: if id.is_some() { Lifecycle::Member } else { Lifecycle::Blank },
            power: PowerPhase::Running,
            goal: None,
            led: Text::new(),
            running: None,
            boot: "b1".parse().unwrap(),
            start: 1,
            revision,
            nonce: "s1".parse().unwrap(),
            heard: None,
            engine: EngineState { cluster: id.map(cluster), run, version: Text::new() },
            last_shutdown: None,
            speaks: None,
            machine: None,
        }
    }

    struct Fixture {
        dir: TempDir,
        plane: ControlPlane,
        kube: SimulatedKubernetes,
    }

    impl Fixture {
        /// A cluster `c1` that runs, its master's node included.
        fn new() -> Self {
            let dir = TempDir::new().unwrap();
            let plane = ControlPlane::open(Store::open(dir.path()).unwrap()).unwrap();
            plane.start(&node(MASTER), &cluster("c1"), &Text::new()).unwrap();
            let kube = SimulatedKubernetes::new(plane.clone(), 0);
            let fixture = Self { dir, plane, kube };
            fixture.says(MASTER, &state(Some("c1"), EngineRun::Running, 1));
            fixture
        }

        /// The same after the master's power was cut and came back.
        fn restarted(self) -> Self {
            let plane = ControlPlane::open(Store::open(self.dir.path()).unwrap()).unwrap();
            plane.start(&node(MASTER), &cluster("c1"), &Text::new()).unwrap();
            Self { kube: SimulatedKubernetes::new(plane.clone(), 0), plane, dir: self.dir }
        }

        fn says(&self, name: &str, state: &NodeState) {
            self.kube.observe(&node(name), Observed::State(state));
        }

        fn see(&self, name: &str) -> Option<KubeNode> {
            self.kube.watch().borrow().node(&node(name)).cloned()
        }

        async fn mint(&self, name: &str) -> JoinCredential {
            let mint = KubeWork::MintCredential { node: node(name), cluster: cluster("c1") };
            match self.kube.perform(mint).await.unwrap() {
                KubeDone::Credential(credential) => credential,
                KubeDone::Done => unreachable!("a mint answers with a credential"),
            }
        }

        async fn joined() -> Self {
            let fixture = Self::new();
            fixture.mint(WORKER).await;
            fixture.says(WORKER, &state(Some("c1"), EngineRun::Running, 2));
            fixture
        }

        async fn code(&self, work: KubeWork) -> &'static str {
            match self.kube.perform(work).await {
                Ok(_) => "done",
                Err(error) => error.code,
            }
        }
    }

    #[tokio::test]
    async fn a_node_appears_once_it_was_invited_and_its_kubelet_runs_in_this_cluster() {
        let fixture = Fixture::new();
        assert_eq!(fixture.see(MASTER).unwrap().ready, Ready::Yes, "the master needs no invitation");
        fixture.says(WORKER, &state(Some("c1"), EngineRun::Running, 1));
        assert_eq!(fixture.see(WORKER), None, "nobody invited it");
        fixture.mint(WORKER).await;
        fixture.says(WORKER, &state(Some("c1"), EngineRun::Running, 1));
        assert_eq!(fixture.see(WORKER), None, "the state of before the invitation, repeated");
        fixture.says(WORKER, &state(None, EngineRun::Stopped, 2));
        fixture.says(WORKER, &state(Some("c2"), EngineRun::Running, 3));
        fixture.says(WORKER, &state(Some("c1"), EngineRun::Stopped, 4));
        assert_eq!(fixture.see(WORKER), None);
        fixture.says(WORKER, &state(Some("c1"), EngineRun::Running, 5));
        let seen = fixture.see(WORKER).unwrap();
        assert_eq!((seen.ready, seen.scheduling), (Ready::Yes, Scheduling::Open));
        assert_eq!(seen.boot, Some("b1".parse().unwrap()));
    }

    #[tokio::test]
    async fn readiness_follows_the_connection_and_the_engine_and_the_boot_is_told() {
        let fixture = Fixture::joined().await;
        fixture.kube.observe(&node(WORKER), Observed::Offline);
        assert_eq!(fixture.see(WORKER).unwrap().ready, Ready::No);
        let mut rebooted = state(Some("c1"), EngineRun::Running, 1);
        rebooted.boot = "b2".parse().unwrap();
        fixture.says(WORKER, &rebooted);
        let seen = fixture.see(WORKER).unwrap();
        assert_eq!((seen.ready, seen.boot), (Ready::Yes, Some("b2".parse().unwrap())));
        fixture.says(WORKER, &state(Some("c1"), EngineRun::Stopped, 3));
        assert_eq!(fixture.see(WORKER).unwrap().ready, Ready::No);
        fixture.says(WORKER, &state(None, EngineRun::Stopped, 4));
        assert_eq!(fixture.see(WORKER).unwrap().ready, Ready::No, "the object stays until it is deleted");
    }

    #[tokio::test]
    async fn a_cordon_survives_the_masters_restart() {
        let fixture = Fixture::joined().await;
        assert_eq!(fixture.code(KubeWork::Cordon(node(WORKER))).await, "done");
        assert_eq!(fixture.code(KubeWork::Cordon(node(WORKER))).await, "done");
        let fixture = fixture.restarted();
        let seen = fixture.see(WORKER).unwrap();
        assert_eq!((seen.ready, seen.scheduling), (Ready::No, Scheduling::Cordoned), "not heard of yet");
        fixture.says(WORKER, &state(Some("c1"), EngineRun::Running, 2));
        assert_eq!(fixture.see(WORKER).unwrap().ready, Ready::Yes);
        assert_eq!(fixture.code(KubeWork::Uncordon(node(WORKER))).await, "done");
        assert_eq!(fixture.see(WORKER).unwrap().scheduling, Scheduling::Open);
        assert_eq!(fixture.restarted().see(WORKER).unwrap().scheduling, Scheduling::Open);
    }

    #[tokio::test]
    async fn a_deleted_node_comes_back_only_by_joining_anew() {
        let fixture = Fixture::joined().await;
        assert_eq!(fixture.code(KubeWork::DeleteNode(node(WORKER))).await, "done");
        assert_eq!(fixture.code(KubeWork::DeleteNode(node(WORKER))).await, "done");
        fixture.says(WORKER, &state(Some("c1"), EngineRun::Running, 3));
        assert_eq!(fixture.see(WORKER), None);
        let fixture = fixture.restarted();
        fixture.says(WORKER, &state(Some("c1"), EngineRun::Running, 4));
        assert_eq!(fixture.see(WORKER), None, "nor after a restart");
        assert_eq!(fixture.code(KubeWork::Cordon(node(WORKER))).await, "not-found");
        fixture.mint(WORKER).await;
        assert_eq!(fixture.see(WORKER), None);
        // the master restarts between the invitation and the join
        let fixture = fixture.restarted();
        fixture.says(WORKER, &state(Some("c1"), EngineRun::Running, 4));
        assert_eq!(fixture.see(WORKER), None, "the state of before the invitation");
        fixture.says(WORKER, &state(None, EngineRun::Stopped, 5));
        fixture.says(WORKER, &state(Some("c1"), EngineRun::Running, 6));
        assert_eq!(fixture.see(WORKER).unwrap().scheduling, Scheduling::Open, "and with no cordon of its earlier life");
    }

    #[tokio::test]
    async fn a_credential_is_stored_as_a_hash_only_and_used_up_by_the_join() {
        let fixture = Fixture::new();
        let first = fixture.mint(WORKER).await;
        let credential = fixture.mint(WORKER).await;
        assert!(!fixture.plane.knows(&first), "a newer one replaces it");
        let fixture = fixture.restarted();
        assert!(fixture.plane.knows(&credential));
        let mut forged = credential.reveal().to_owned();
        let last = if forged.pop() == Some('0') { '1' } else { '0' };
        forged.push(last);
        assert!(!fixture.plane.knows(&JoinCredential::new(&forged).unwrap()));

        let secret = credential.reveal().rsplit(':').next().unwrap().to_owned();
        assert_eq!(secret.len(), SECRET_BYTES);
        for file in std::fs::read_dir(fixture.dir.path()).unwrap() {
            let text = String::from_utf8_lossy(&std::fs::read(file.unwrap().path()).unwrap()).into_owned();
            assert!(!text.contains(&secret), "the secret is on the disk");
        }
        assert!(!format!("{:?}", SimulatedCredential::parse(&credential).unwrap()).contains(&secret));

        fixture.says(WORKER, &state(Some("c1"), EngineRun::Running, 9));
        assert!(fixture.see(WORKER).is_some());
        assert!(!fixture.plane.knows(&credential), "it is used up");
    }

    #[tokio::test]
    async fn a_credential_lives_as_long_as_a_join_may_take() {
        let fixture = Fixture::new();
        let before = Instant::now();
        let credential = fixture.mint(WORKER).await;
        assert!(fixture.plane.knows(&credential));
        {
            let mut shared = fixture.plane.lock();
            let invitation = serving(&mut shared).unwrap().invitations.get_mut(&node(WORKER)).unwrap();
            let lifetime = invitation.until - before;
            assert!(lifetime >= LIFETIME && lifetime < LIFETIME + before.elapsed(), "{lifetime:?}");
            // and that time is over
            invitation.until = Instant::now();
        }
        assert!(!fixture.plane.knows(&credential));
        fixture.says(WORKER, &state(None, EngineRun::Stopped, 1));
        fixture.says(WORKER, &state(Some("c1"), EngineRun::Running, 2));
        assert_eq!(fixture.see(WORKER), None, "who comes too late is not let in");
    }

    #[test]
    fn the_hash_is_sha_256() {
        // FIPS 180-2, appendix B.1
        assert_eq!(sha256(b"abc").unwrap(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[tokio::test]
    async fn a_stopped_control_plane_answers_nobody_and_forgets_nothing() {
        let fixture = Fixture::joined().await;
        let mut view = fixture.kube.watch();
        view.borrow_and_update();
        fixture.plane.stop();
        assert!(view.has_changed().unwrap());
        assert_eq!(*view.borrow_and_update(), KubeView::default());
        for work in [
            KubeWork::Cordon(node(WORKER)),
            KubeWork::Uncordon(node(WORKER)),
            KubeWork::Drain { node: node(WORKER), deadline_ms: 0 },
            KubeWork::DeleteNode(node(WORKER)),
            KubeWork::MintCredential { node: node(WORKER), cluster: cluster("c1") },
        ] {
            assert_eq!(fixture.code(work.clone()).await, "unreachable", "{work:?}");
        }
        fixture.plane.start(&node(MASTER), &cluster("c1"), &Text::new()).unwrap();
        assert_eq!(fixture.see(WORKER).unwrap().ready, Ready::Yes);
        fixture.plane.remove().unwrap();
        assert_eq!(*fixture.kube.watch().borrow(), KubeView::default());
        let reopened = ControlPlane::open(Store::open(fixture.dir.path()).unwrap()).unwrap();
        assert_eq!(reopened.lock().kept, None, "nothing of it is left on the disk");
        fixture.plane.start(&node(MASTER), &cluster("c2"), &Text::new()).unwrap();
        let mint = KubeWork::MintCredential { node: node(WORKER), cluster: cluster("c1") };
        assert_eq!(fixture.code(mint).await, "other-cluster");
        assert_eq!(fixture.see(WORKER), None, "a new cluster has no nodes yet");
    }

    #[tokio::test]
    async fn a_drain_cordons_and_says_why_it_did_not_empty() {
        let fixture = Fixture::joined().await;
        let drain = |deadline_ms| KubeWork::Drain { node: node(WORKER), deadline_ms };
        assert_eq!(fixture.code(drain(0)).await, "done");
        assert_eq!(fixture.see(WORKER).unwrap().scheduling, Scheduling::Cordoned);
        fixture.kube.block_drains(Some(node(WORKER)));
        assert_eq!(fixture.code(drain(1)).await, "blocked-by-budget");
        fixture.kube.block_drains(None);
        assert_eq!(
            SimulatedKubernetes::new(fixture.plane.clone(), 2).perform(drain(1)).await.unwrap_err().code,
            "timed-out"
        );
        fixture.kube.observe(&node(WORKER), Observed::Offline);
        assert_eq!(fixture.code(drain(0)).await, "not-ready");
        assert_eq!(fixture.code(KubeWork::Drain { node: node("crew-009"), deadline_ms: 0 }).await, "not-found");
    }

    #[tokio::test]
    async fn an_unchanged_view_wakes_nobody() {
        let fixture = Fixture::joined().await;
        let mut view = fixture.kube.watch();
        view.borrow_and_update();
        fixture.says(WORKER, &state(Some("c1"), EngineRun::Running, 3));
        assert!(!view.has_changed().unwrap());
    }
}
