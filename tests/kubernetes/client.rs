//! The client alone.

use std::sync::Arc;

use beehive::engine::{Engine, EngineDone, EngineError, EngineWork, KubeAccess};
use beehive::kube::{ApiKubernetes, DrainSettings, KubeDone, KubeView, KubeWork, Kubernetes, Ready, Scheduling};
use beehive_mqtt::NodeName;
use beehive_mqtt::node::EngineState;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use zeroize::Zeroizing;

use crate::server::{CLUSTER, PATIENCE, Server};

/// An engine that opens the API server and does nothing else.
pub struct Opens(pub String);

impl Engine for Opens {
    fn kind(&self) -> &'static str {
        "opens"
    }

    fn perform(&self, _work: EngineWork) -> BoxFuture<'static, Result<EngineDone, EngineError>> {
        unreachable!("nobody asks it to do anything")
    }

    fn state(&self) -> EngineState {
        unreachable!("nobody asks it how it is")
    }

    fn access(&self) -> BoxFuture<'static, Result<Option<KubeAccess>, EngineError>> {
        let access = KubeAccess::new(Zeroizing::new(self.0.clone()));
        async move { Ok(Some(access)) }.boxed()
    }
}

pub fn pi(name: &str) -> NodeName {
    name.parse().unwrap()
}

pub fn client(server: &Server, settings: DrainSettings) -> ApiKubernetes {
    ApiKubernetes::new(Arc::new(Opens(server.kubeconfig.clone())), settings, pi("pi-1"))
}

/// Waits until the view is as wanted.
pub async fn seen(kubernetes: &ApiKubernetes, what: &str, wanted: impl Fn(&KubeView) -> bool) -> KubeView {
    let mut view = kubernetes.watch();
    let view = tokio::time::timeout(PATIENCE, view.wait_for(wanted)).await;
    view.unwrap_or_else(|_| panic!("waited in vain to see {what}")).unwrap().clone()
}

#[tokio::test]
async fn nodes_are_seen_cordoned_looked_at_and_drained() {
    let server = Server::here();
    server.mark();
    server.wait_ready("pi-2");
    let boot = server.ready("pi-2").unwrap().1;
    let kubernetes = client(&server, DrainSettings::default());
    let node = pi("pi-2");
    let view =
        seen(&kubernetes, "pi-2 ready", |view| view.node(&node).is_some_and(|node| node.ready == Ready::Yes)).await;
    assert_eq!(view.cluster.unwrap().as_str(), CLUSTER);
    let seen_node = view.nodes.iter().find(|seen| seen.node == node).unwrap();
    assert_eq!(seen_node.boot.as_ref().unwrap().as_str(), boot);
    assert_eq!(seen_node.version.as_str(), "v1.20.2");
    assert_eq!(seen_node.scheduling, Scheduling::Open);

    server.namespace("plain");
    server.pods("plain", "web", ("pi-2", "pi-3"), 3);
    let shown = kubernetes.look(&node).await.unwrap();
    assert!(shown.labels.iter().any(|label| label.key == "hollow" && label.value == "true"), "{shown:?}");
    assert_eq!(shown.pods.iter().filter(|pod| pod.namespace == "plain").count(), 3);
    assert!(shown.pods[0].labels.iter().any(|label| label.key == "app" && label.value == "web"), "{shown:?}");

    for _ in 0..2 {
        assert_eq!(kubernetes.perform(KubeWork::Cordon(node.clone())).await, Ok(KubeDone::Done));
        // the view shows it at once
        assert_eq!(kubernetes.watch().borrow().node(&node).unwrap().scheduling, Scheduling::Cordoned);
    }
    assert_eq!(server.node("pi-2").unwrap()["metadata"]["annotations"]["beehive/cordoned-by"], "pi-1");
    let drained = kubernetes.perform(KubeWork::Drain { node: node.clone(), deadline_ms: 60_000 }).await;
    assert_eq!(drained, Ok(KubeDone::Done));
    assert!(kubernetes.look(&node).await.unwrap().pods.iter().all(|pod| pod.namespace != "plain"));
    server.running("plain", "web", 3);
    for _ in 0..2 {
        assert_eq!(kubernetes.perform(KubeWork::Uncordon(node.clone())).await, Ok(KubeDone::Done));
        assert_eq!(kubernetes.watch().borrow().node(&node).unwrap().scheduling, Scheduling::Open);
    }
    assert!(!server.is_cordoned("pi-2"));
    assert!(server.node("pi-2").unwrap()["metadata"]["annotations"]["beehive/cordoned-by"].is_null());

    let missing = kubernetes.perform(KubeWork::Cordon(pi("pi-99"))).await.unwrap_err();
    assert_eq!(missing.code, "not-found");
}
