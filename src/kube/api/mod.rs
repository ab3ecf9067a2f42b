//! A real API server, spoken to through its REST interface: k3s' or kubeadm's, which here are one. It needs about fifteen calls,
//! over a client of its own ([`http`]) that is small enough for a Pi.
//!
//! One task, the keeper, holds the view: it asks the engine for a kubeconfig, asks the server whose cluster it is, lists the nodes
//! and watches them. Whenever that breaks it begins again, with a pause, and asks for the kubeconfig anew: after a rebuild it is
//! another one. While it has no server the view is empty and every piece of work fails as `unreachable`, as the simulated one's do.
//!
//! **Whose cluster.** The engine writes the cluster's id into the ConfigMap `kube-system/beehive` under `cluster` once it has made
//! the cluster. A server without it serves nobody we know, and the view stays empty. Every [`keeper::LOOK`] it is asked again.
//!
//! **A Ready that is stale.** It is the server's word: a kubelet that died shows Ready for 39 to 41 s more (tried; 50 s in newer
//! versions). Its age could be told only by comparing clocks, and a Pi's clock jumps; so no clock is asked here. The core compares
//! boot ids instead, and a drain that waits for pods on a node that is dead ends at its deadline and names them.
//!
//! **What we leave on others' objects**: the annotation `beehive/cordoned-by` on a Node that we cordoned, for whoever wonders. A
//! cordon of somebody else's is left as it is and not marked.
//!
//! Sources: kubernetes.io, "API Concepts" (lists in pages, watches, bookmarks, 410), "API-initiated Eviction"; kubectl's drain
//! (`k8s.io/kubectl/pkg/drain`) for what is skipped; docs.k3s.io, "k3s agent" for the node password's Secret.

mod access;
mod calls;
mod certify;
mod drain;
mod http;
mod invite;
mod keeper;
mod objects;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use beehive_cluster::blockers::{Pod, Shown};
use beehive_mqtt::NodeName;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::json;
use tokio::sync::watch;

use super::{
    CertificateWanted, Certified, KubeDone, KubeError, KubeNode, KubeView, KubeWork, Kubernetes, Observed, Scheduling,
};
use crate::engine::Engine;
pub use access::{Access, AccessError};
use calls::{CallError, PODS, Session, error, of_node};
pub use drain::{DrainProgress, DrainSettings, OnDeadline, OnLoss};

/// Tells an operator who looks who cordoned a node.
const CORDONED_BY: &str = "beehive/cordoned-by";

/// How often a change of a Node is tried again that somebody else was faster with; kubelets write it every few seconds at most.
const CONFLICTS: u32 = 5;

/// Kubernetes through an API server. When it is dropped, its task ends.
pub struct ApiKubernetes {
    inner: Arc<Inner>,
    keeper: tokio::task::JoinHandle<()>,
}

impl Drop for ApiKubernetes {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl ApiKubernetes {
    /// Finds its API server through `engine`, for the coordinator on `master`. It has to be made inside a tokio runtime: its task
    /// begins at once.
    pub fn new(engine: Arc<dyn Engine>, settings: DrainSettings, master: NodeName) -> Self {
        let inner = Arc::new(Inner {
            engine,
            settings,
            master,
            state: Mutex::new(State {
                session: Err("the API server was not asked yet".to_owned()),
                nodes: BTreeMap::new(),
            }),
            view: watch::Sender::new(KubeView::default()),
            drains: watch::Sender::new(BTreeMap::new()),
        });
        let keeper = tokio::spawn(keeper::keep(Arc::clone(&inner)));
        Self { inner, keeper }
    }
}

struct Inner {
    engine: Arc<dyn Engine>,
    settings: DrainSettings,
    master: NodeName,
    state: Mutex<State>,
    view: watch::Sender<KubeView>,
    drains: watch::Sender<BTreeMap<NodeName, DrainProgress>>,
}

struct State {
    /// The API server, or why there is none.
    session: Result<Arc<Session>, String>,
    nodes: BTreeMap<NodeName, Known>,
}

/// A Node as last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    uid: String,
    version: String,
    node: KubeNode,
}

impl Known {
    fn of(object: &objects::Node) -> Option<Self> {
        let node = object.as_seen()?;
        let (uid, version) = (object.metadata.uid.clone(), object.metadata.resource_version.clone());
        Some(Self { uid, version, node })
    }

    /// Whether `other` is an older look at the same object. Versions are numbers wherever Kubernetes keeps its objects in etcd, or k3s
    /// in what stands for it; where they are not, what comes later counts.
    fn is_newer_than(&self, other: &Self) -> bool {
        let number = |known: &Self| known.version.parse::<u64>().ok();
        self.uid == other.uid && number(self).zip(number(other)).is_some_and(|(ours, theirs)| ours > theirs)
    }
}

impl Inner {
    /// A panic elsewhere must not take the view with it: each change is whole before the lock is given back.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn session(&self) -> Result<Arc<Session>, CallError> {
        self.lock().session.clone().map_err(CallError::Odd)
    }

    /// Changes what is known, and shows it if that changed.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let view = match &state.session {
            Ok(session) => KubeView {
                cluster: Some(session.cluster.clone()),
                nodes: state.nodes.values().map(|known| known.node.clone()).collect(),
            },
            Err(_) => KubeView::default(),
        };
        self.view.send_if_modified(|shown| {
            let changed = *shown != view;
            *shown = view;
            changed
        });
    }

    /// Notes a Node as `session` has just shown it, so that nobody sees an older one after the work that changed it is done.
    fn note(&self, session: &Arc<Session>, object: &objects::Node) {
        let Some(known) = Known::of(object) else { return };
        self.change(|state| {
            let current = state.session.as_ref().is_ok_and(|current| Arc::ptr_eq(current, session));
            let held = state.nodes.get(&known.node.node);
            if current && !held.is_some_and(|held| held.is_newer_than(&known)) {
                state.nodes.insert(known.node.node.clone(), known);
            }
        });
    }

    fn uid(&self, node: &NodeName) -> Option<String> {
        self.lock().nodes.get(node).map(|known| known.uid.clone())
    }

    /// Cordons a node or opens it.
    async fn set_cordon(&self, session: &Arc<Session>, node: &NodeName, to: Scheduling) -> Result<(), CallError> {
        let mut conflicts = 0;
        loop {
            let present = session.node(node).await?;
            let ours = present.metadata.annotations.contains_key(CORDONED_BY);
            let patch = match (to, present.scheduling(), ours) {
                // it is somebody else's, or ours already
                (Scheduling::Cordoned, Scheduling::Cordoned, _) | (Scheduling::Open, Scheduling::Open, false) => {
                    self.note(session, &present);
                    return Ok(());
                }
                (Scheduling::Cordoned, Scheduling::Open, _) => json!({
                    "metadata": {
                        "resourceVersion": present.metadata.resource_version,
                        "annotations": { CORDONED_BY: self.master.as_str() },
                    },
                    "spec": { "unschedulable": true },
                }),
                (Scheduling::Open, Scheduling::Cordoned | Scheduling::Open, _) => json!({
                    "metadata": {
                        "resourceVersion": present.metadata.resource_version,
                        "annotations": { CORDONED_BY: null },
                    },
                    "spec": { "unschedulable": null },
                }),
            };
            match session.patch_node(node, &patch).await {
                Ok(patched) => {
                    self.note(session, &patched);
                    return Ok(());
                }
                Err(error) if error.is(409) && conflicts < CONFLICTS => conflicts += 1,
                Err(error) => return Err(error),
            }
        }
    }

    async fn delete_node(&self, node: &NodeName) -> Result<(), CallError> {
        let session = self.session()?;
        invite::revoke(&session, node).await?;
        invite::gone(session.delete_node(node).await)?;
        // k3s keeps what the node proved itself by; a Pi with a new card is refused while it is there
        invite::gone(session.delete_secret(&format!("{node}.node-password.k3s")).await)
    }

    async fn mint(&self, node: &NodeName, cluster: &beehive_mqtt::ClusterId) -> Result<KubeDone, KubeError> {
        let session = self.session().map_err(|error| error.kube())?;
        if session.cluster != *cluster {
            return Err(error("other-cluster", &format!("the API server serves {}, not {cluster}", session.cluster)));
        }
        if !session.is_the_same().await.map_err(|error| error.kube())? {
            session.doubted.notify_one();
            return Err(error("unreachable", "the API server has just begun to serve another cluster"));
        }
        invite::mint(&session, node, self.uid(node)).await.map(KubeDone::Credential)
    }

    async fn perform(&self, work: KubeWork) -> Result<KubeDone, KubeError> {
        let cordon = async |node: &NodeName, to| {
            let session = self.session().map_err(|error| error.kube())?;
            self.set_cordon(&session, node, to).await.map_err(|failed| match failed.is(404) {
                true => error("not-found", &format!("the cluster has no node {node}")),
                false => failed.kube(),
            })
        };
        match work {
            KubeWork::Cordon(node) => cordon(&node, Scheduling::Cordoned).await.map(|()| KubeDone::Done),
            KubeWork::Uncordon(node) => cordon(&node, Scheduling::Open).await.map(|()| KubeDone::Done),
            KubeWork::Drain { node, deadline_ms } => drain::drain(self, node, deadline_ms).await,
            KubeWork::DeleteNode(node) => {
                self.delete_node(&node).await.map(|()| KubeDone::Done).map_err(|error| error.kube())
            }
            KubeWork::MintCredential { node, cluster } => self.mint(&node, &cluster).await,
        }
    }

    async fn look(&self, node: &NodeName) -> Result<Shown, KubeError> {
        let session = self.session().map_err(|error| error.kube())?;
        let present = session.node(node).await.map_err(|error| error.kube())?;
        let mut pods = Vec::new();
        let query = of_node(node);
        let list = session.each(PODS, &query, |pod: objects::Pod| {
            if !pod.has_finished() {
                let (namespace, name) = (pod.metadata.namespace.clone(), pod.metadata.name.clone());
                pods.push(Pod { namespace, name, labels: pod.metadata.labels() });
            }
        });
        list.await.map_err(|error| error.kube())?;
        Ok(Shown { labels: present.metadata.labels(), pods })
    }
}

impl Kubernetes for ApiKubernetes {
    /// Beside the trait's codes there are `blocked-by-budget` (the reason names a pod and its budget), `refused` (a drain that would
    /// lose something that the configuration keeps, or work that the server refuses) and `forbidden`.
    fn perform(&self, work: KubeWork) -> BoxFuture<'static, Result<KubeDone, KubeError>> {
        let inner = Arc::clone(&self.inner);
        async move { inner.perform(work).await }.boxed()
    }

    fn certify(&self, wanted: CertificateWanted) -> BoxFuture<'static, Result<Certified, KubeError>> {
        let inner = Arc::clone(&self.inner);
        async move {
            let session = inner.session().map_err(|error| error.kube())?;
            certify::certify(&session, &inner.master, &wanted).await
        }
        .boxed()
    }

    fn look(&self, node: &NodeName) -> BoxFuture<'static, Result<Shown, KubeError>> {
        let (inner, node) = (Arc::clone(&self.inner), node.clone());
        async move { inner.look(&node).await }.boxed()
    }

    fn watch(&self) -> watch::Receiver<KubeView> {
        self.inner.view.subscribe()
    }

    /// A real one hears of its kubelets by itself.
    fn drains(&self) -> Option<watch::Receiver<BTreeMap<NodeName, DrainProgress>>> {
        Some(self.inner.drains.subscribe())
    }

    fn observe(&self, _node: &NodeName, _observed: Observed<'_>) {}
}
