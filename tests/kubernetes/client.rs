//! The client alone.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use beehive::engine::token::BootstrapToken;
use beehive::engine::{Engine, EngineDone, EngineError, EngineWork, KubeAccess};
use beehive::keys::{OperatorKey, certification_request};
use beehive::kube::{
    ApiKubernetes, CertificateWanted, Certified, DrainSettings, KubeDone, KubeView, KubeWork, Kubernetes, Ready,
    Scheduling,
};
use beehive_mqtt::node::EngineState;
use beehive_mqtt::{NodeName, RequestId};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::json;
use zeroize::Zeroizing;

use crate::crew::certificate_for;
use crate::server::{CLUSTER, PATIENCE, Server, must, until};

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

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
    server.mark(CLUSTER);
    server.wait_ready("hollow-1");
    let boot = server.ready("hollow-1").unwrap().1;
    let kubernetes = client(&server, DrainSettings::default());
    let node = pi("hollow-1");
    let view =
        seen(&kubernetes, "hollow-1 ready", |view| view.node(&node).is_some_and(|node| node.ready == Ready::Yes)).await;
    assert_eq!(view.cluster.unwrap().as_str(), CLUSTER);
    let seen_node = view.nodes.iter().find(|seen| seen.node == node).unwrap();
    assert_eq!(seen_node.boot.as_ref().unwrap().as_str(), boot);
    assert_eq!(seen_node.version.as_str(), "v1.20.2");
    assert_eq!(seen_node.scheduling, Scheduling::Open);

    server.namespace("plain");
    server.pods("plain", "web", ("hollow-1", "hollow-2"), 3);
    let shown = kubernetes.look(&node).await.unwrap();
    assert!(shown.labels.iter().any(|label| label.key == "hollow" && label.value == "true"), "{shown:?}");
    assert_eq!(shown.pods.iter().filter(|pod| pod.namespace == "plain").count(), 3);
    assert!(shown.pods[0].labels.iter().any(|label| label.key == "app" && label.value == "web"), "{shown:?}");

    for _ in 0..2 {
        assert_eq!(kubernetes.perform(KubeWork::Cordon(node.clone())).await, Ok(KubeDone::Done));
        // the view shows it at once
        assert_eq!(kubernetes.watch().borrow().node(&node).unwrap().scheduling, Scheduling::Cordoned);
    }
    assert_eq!(server.node("hollow-1").unwrap()["metadata"]["annotations"]["beehive/cordoned-by"], "pi-1");
    let drained = kubernetes.perform(KubeWork::Drain { node: node.clone(), deadline_ms: 60_000 }).await;
    assert_eq!(drained, Ok(KubeDone::Done));
    assert!(kubernetes.look(&node).await.unwrap().pods.iter().all(|pod| pod.namespace != "plain"));
    server.running("plain", "web", 3);
    for _ in 0..2 {
        assert_eq!(kubernetes.perform(KubeWork::Uncordon(node.clone())).await, Ok(KubeDone::Done));
        assert_eq!(kubernetes.watch().borrow().node(&node).unwrap().scheduling, Scheduling::Open);
    }
    assert!(!server.is_cordoned("hollow-1"));
    assert!(server.node("hollow-1").unwrap()["metadata"]["annotations"]["beehive/cordoned-by"].is_null());

    let missing = kubernetes.perform(KubeWork::Cordon(pi("pi-99"))).await.unwrap_err();
    assert_eq!(missing.code, "not-found");
}

async fn minted(kubernetes: &ApiKubernetes, node: &str) -> BootstrapToken {
    let work = KubeWork::MintCredential { node: pi(node), cluster: CLUSTER.parse().unwrap() };
    match kubernetes.perform(work).await.unwrap() {
        KubeDone::Credential(credential) => BootstrapToken::parse(&credential).unwrap(),
        KubeDone::Done => panic!("no credential"),
    }
}

/// `kubeadm join`'s look at the cluster that it shall join: it finds the authority, checks it by the hash, and reads the cluster's
/// configuration as who bears the token.
fn kubeadm_looks(token: &BootstrapToken, hash: &str) -> (bool, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("join.yaml");
    let secret = format!("{}.{}", token.id, token.secret.as_str());
    let config = json!({
        "apiVersion": "kubeadm.k8s.io/v1beta2", "kind": "JoinConfiguration",
        "nodeRegistration": { "name": "hollow-9" },
        "discovery": {
            "bootstrapToken": { "token": secret, "apiServerEndpoint": "127.0.0.1:16443", "caCertHashes": [format!("sha256:{hash}")] },
            // it asks again and again, whatever the answer is
            "timeout": "8s",
        },
    });
    std::fs::write(&file, config.to_string()).unwrap();
    let kubeadm = std::env::var("HOME").unwrap() + "/.cache/beehive-kubernetes/bin/kubeadm";
    let kubeadm = std::env::var("BEEHIVE_KUBE").map_or(kubeadm, |home| home + "/bin/kubeadm");
    let done = std::process::Command::new(kubeadm)
        .args(["join", "phase", "preflight", "--v", "1", "--ignore-preflight-errors", "all", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    (done.status.success(), said)
}

#[tokio::test]
async fn a_token_is_minted_and_used_and_revoked_and_a_wrong_authority_is_refused() {
    let server = Server::here();
    server.mark(CLUSTER);
    let kubernetes = client(&server, DrainSettings::default());
    seen(&kubernetes, "the cluster", |view| view.cluster.is_some()).await;
    let token = minted(&kubernetes, "hollow-9").await;

    // kubeadm's own discovery takes the hash that we made, and no other
    let (joins, said) = kubeadm_looks(&token, &token.authority_key_sha256);
    assert!(joins, "{said}");
    let wrong: String = token.authority_key_sha256.chars().rev().collect();
    let (joins, said) = kubeadm_looks(&token, &wrong);
    assert!(!joins && said.contains("none of the public keys"), "{said}");
    // k3s' hash is of the authority's file as it is
    assert_eq!(token.authority_pem_sha256, sha256(&server.authority));

    // it lets its bearer ask for a kubelet's certificate, and for nothing else
    let bearer = server.with_token(&format!("{}.{}", token.id, token.secret.as_str()));
    let (certificate, _) = certificate_for(&bearer, &server, "hollow-9").unwrap();
    assert!(certificate.starts_with("-----BEGIN CERTIFICATE-----"));
    assert_eq!(bearer.call("GET", "/api/v1/namespaces/kube-system/secrets", None).unwrap().0, 403);

    // the next one takes its place
    let next = minted(&kubernetes, "hollow-9").await;
    let old = bearer;
    until("the first to be worth nothing", || (old.call("GET", "/api/v1/nodes", None)?.0 == 401).then_some(()));
    let bearer = server.with_token(&format!("{}.{}", next.id, next.secret.as_str()));
    assert!(certificate_for(&bearer, &server, "hollow-9").is_ok());

    // and goes when its Node is there
    must("node", &["hollow-9", "20100", "boot-9"]);
    seen(&kubernetes, "hollow-9", |view| view.node(&pi("hollow-9")).is_some()).await;
    tokio::task::spawn_blocking(move || {
        until("the second to be worth nothing", || (bearer.call("GET", "/api/v1/nodes", None)?.0 == 401).then_some(()));
    })
    .await
    .unwrap();
    must("down", &["node-hollow-9"]);
    kubernetes.perform(KubeWork::DeleteNode(pi("hollow-9"))).await.unwrap();
}

#[tokio::test]
async fn a_node_that_died_is_not_taken_for_drained_and_can_be_removed_for_good() {
    let server = Server::here();
    server.mark(CLUSTER);
    server.wait_ready("hollow-3");
    server.namespace("dead");
    server.pods("dead", "web", ("hollow-3", "hollow-1"), 2);
    server.secret("kube-system", "hollow-3.node-password.k3s");
    let kubernetes = client(&server, DrainSettings::default());
    let node = pi("hollow-3");
    seen(&kubernetes, "hollow-3", |view| view.node(&node).is_some()).await;
    must("down", &["node-hollow-3"]);
    // it still shows Ready, and nobody there ends a pod
    assert_eq!(server.ready("hollow-3").unwrap().0, "True");
    let error = kubernetes.perform(KubeWork::Drain { node: node.clone(), deadline_ms: 8_000 }).await.unwrap_err();
    assert_eq!(error.code, "timed-out");
    assert!(error.reason.as_str().starts_with("not ended within 8 s: dead/web-"), "{}", error.reason);
    seen(&kubernetes, "its end", |view| view.node(&node).is_some_and(|node| node.ready == Ready::No)).await;
    let error = kubernetes.perform(KubeWork::Drain { node: node.clone(), deadline_ms: 8_000 }).await.unwrap_err();
    assert_eq!(error.code, "not-ready", "{}", error.reason);

    for _ in 0..2 {
        assert_eq!(kubernetes.perform(KubeWork::DeleteNode(node.clone())).await, Ok(KubeDone::Done));
    }
    assert!(server.node("hollow-3").is_none());
    assert!(server.get("/api/v1/namespaces/kube-system/secrets/hollow-3.node-password.k3s").is_none());
    seen(&kubernetes, "hollow-3 gone", |view| view.node(&node).is_none()).await;
    server.delete("/apis/apps/v1/namespaces/dead/replicasets/web");
}

#[tokio::test]
async fn a_budget_is_bypassed_when_that_is_wanted() {
    let server = Server::here();
    server.mark(CLUSTER);
    server.wait_ready("hollow-2");
    server.namespace("bypass");
    server.pods("bypass", "web", ("hollow-2", "hollow-1"), 2);
    server.budget("bypass", "web-budget", "web", 2);
    let kubernetes = client(&server, DrainSettings { bypass_budget_after_ms: Some(6_000), ..DrainSettings::default() });
    let node = pi("hollow-2");
    seen(&kubernetes, "hollow-2", |view| view.node(&node).is_some()).await;
    let drained = kubernetes.perform(KubeWork::Drain { node: node.clone(), deadline_ms: 60_000 }).await;
    assert_eq!(drained, Ok(KubeDone::Done));
    kubernetes.perform(KubeWork::Uncordon(node)).await.unwrap();
    server.delete("/apis/policy/v1beta1/namespaces/bypass/poddisruptionbudgets/web-budget");
    server.delete("/apis/apps/v1/namespaces/bypass/replicasets/web");
}

/// What an operator's certificate opens, asked with a client of its own.
fn operator(server: &Server, certified: &Certified, key: &OperatorKey) -> String {
    let data = |pem: &str| STANDARD.encode(pem);
    let address = server.kubeconfig.lines().find_map(|line| line.trim().strip_prefix("server: ")).unwrap().to_owned();
    serde_json::json!({
        "current-context": "x",
        "contexts": [{ "name": "x", "context": { "cluster": "c", "user": "u" } }],
        "clusters": [{ "name": "c", "cluster": {
            "server": address, "certificate-authority-data": data(&certified.authority) } }],
        "users": [{ "name": "u", "user": {
            "client-certificate-data": data(&certified.certificate), "client-key-data": data(&key.pem()) } }],
    })
    .to_string()
}

#[tokio::test]
async fn an_operators_key_is_certified_and_opens_the_cluster_until_the_binding_goes() {
    let server = Server::here();
    server.mark(CLUSTER);
    let kubernetes = client(&server, DrainSettings::default());
    seen(&kubernetes, "the cluster", |view| view.cluster.is_some()).await;
    let (user, key) = ("ann".parse().unwrap(), OperatorKey::generate().unwrap());
    let der = certification_request(&user, key.public(), &key.proof(&user).unwrap()).unwrap();
    let request: RequestId = uuid::Uuid::new_v4().simple().to_string().parse().unwrap();
    let wanted = CertificateWanted { user, request: request.clone(), der };
    let certified = kubernetes.certify(wanted).await.unwrap();
    assert_eq!(certified.server, "https://pi-1:16443");
    assert!(
        server.get(&format!("/apis/certificates.k8s.io/v1/certificatesigningrequests/beehive-{request}")).is_none()
    );

    // an administrator, by the group alone
    let config = operator(&server, &certified, &key);
    let opened = ApiKubernetes::new(Arc::new(Opens(config.clone())), DrainSettings::default(), pi("pi-1"));
    seen(&opened, "the cluster as an operator", |view| view.cluster.is_some()).await;
    let missing = opened.perform(KubeWork::Cordon(pi("nobody"))).await.unwrap_err();
    assert_eq!(missing.code, "not-found");

    // and nobody once the group is bound to nothing
    server.delete("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/beehive-operators");
    let refused = async {
        loop {
            let error = opened.perform(KubeWork::Cordon(pi("nobody"))).await.unwrap_err();
            if error.code == "forbidden" {
                break error;
            }
            tokio::task::yield_now().await;
        }
    };
    let refused = tokio::time::timeout(PATIENCE, refused).await.expect("the certificate opens nothing any more");
    assert!(refused.reason.as_str().contains("beehive:ann"), "{}", refused.reason);

    // a key of another user's certificate is not taken for ours
    let other = OperatorKey::generate().unwrap();
    assert!(
        certification_request(&"bob".parse().unwrap(), other.public(), &key.proof(&"bob".parse().unwrap()).unwrap())
            .is_err()
    );
}
