//! The control plane that `up` starts, and a client of the tests' own: what is checked here should not rest on what it checks.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

/// How long something may take that the control plane does: a kubelet is Ready after 11 to 45 s, a dead one Unknown after 40 s.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How often the server is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The cluster's id, as an engine writes it.
pub const CLUSTER: &str = "hollow-1";

pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubernetes").join(name)
}

/// Runs a script of the kit to its end; answers with what it printed.
pub fn run(name: &str, arguments: &[&str]) -> (bool, String) {
    let done = Command::new(script(name)).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    (done.status.success(), said)
}

/// The same, which has to succeed.
pub fn must(name: &str, arguments: &[&str]) -> String {
    let (succeeded, said) = run(name, arguments);
    assert!(succeeded, "{name} {arguments:?}: {said}");
    said
}

/// Looks again and again, but not for ever.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Who asks.
#[derive(Clone)]
enum Who {
    Admin,
    Bearer(String),
}

/// The API server.
#[derive(Clone)]
pub struct Server {
    pub kubeconfig: String,
    pub authority: Vec<u8>,
    tls: Arc<ClientConfig>,
    who: Who,
}

impl Server {
    /// The one of `KUBECONFIG`, which `exec` sets.
    pub fn here() -> Self {
        let path = std::env::var_os("KUBECONFIG").expect("no KUBECONFIG: run `./test kubernetes`");
        let kubeconfig = std::fs::read_to_string(path).unwrap();
        let data = |key: &str| {
            let line = kubeconfig.lines().find_map(|line| line.trim().strip_prefix(key)).unwrap();
            STANDARD.decode(line.trim()).unwrap()
        };
        let authority = data("certificate-authority-data:");
        let certificate = data("client-certificate-data:");
        let key = data("client-key-data:");
        let tls = config(&authority)
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(&certificate).unwrap()],
                PrivateKeyDer::from_pem_slice(&key).unwrap(),
            )
            .unwrap();
        Self { authority, tls: Arc::new(tls), who: Who::Admin, kubeconfig }
    }

    /// The same server, asked with a token.
    pub fn with_token(&self, token: &str) -> Self {
        let tls = Arc::new(config(&self.authority).with_no_client_auth());
        Self { tls, who: Who::Bearer(token.to_owned()), ..self.clone() }
    }

    /// One call; nothing if the server does not answer.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Option<(u16, Value)> {
        let stream = TcpStream::connect("127.0.0.1:16443").ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let connection =
            ClientConnection::new(Arc::clone(&self.tls), ServerName::try_from("127.0.0.1").unwrap()).unwrap();
        let mut stream = StreamOwned::new(connection, stream);
        let body = body.map(Value::to_string).unwrap_or_default();
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let bearer = match &self.who {
            Who::Admin => String::new(),
            Who::Bearer(token) => format!("Authorization: Bearer {token}\r\n"),
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept: application/json\r\n{bearer}\
             Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body.as_bytes()).ok()?;
        let mut answer = Vec::new();
        // Go ends without TLS' own goodbye
        let _ = stream.read_to_end(&mut answer);
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let mut body = answer[end + 4..].to_vec();
        if head.contains("transfer-encoding: chunked") {
            body = unchunked(&body);
        }
        Some((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    /// What is there; nothing if it is not.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.call("GET", path, None).filter(|(status, _)| *status == 200).map(|(_, body)| body)
    }

    /// Makes an object, or leaves the one of that name.
    pub fn make(&self, path: &str, object: &Value) {
        let (status, said) = self.call("POST", path, Some(object)).expect("the API server does not answer");
        assert!(matches!(status, 201 | 409), "{path}: {status} {said}");
    }

    pub fn patch(&self, path: &str, patch: &Value) {
        let (status, said) = self.call("PATCH", path, Some(patch)).expect("the API server does not answer");
        assert_eq!(status, 200, "{path}: {said}");
    }

    /// Deletes, whatever is there.
    pub fn delete(&self, path: &str) {
        let options = json!({ "gracePeriodSeconds": 0, "propagationPolicy": "Background" });
        let (status, said) = self.call("DELETE", path, Some(&options)).expect("the API server does not answer");
        assert!(matches!(status, 200 | 202 | 404), "{path}: {status} {said}");
    }

    /// Writes whose cluster it is, as an engine does.
    pub fn mark(&self, cluster: &str) {
        self.unmark();
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": "beehive" }, "data": { "cluster": cluster },
        });
        self.make("/api/v1/namespaces/kube-system/configmaps", &map);
    }

    /// As if no engine had made it.
    pub fn unmark(&self) {
        self.delete("/api/v1/namespaces/kube-system/configmaps/beehive");
    }

    /// A Secret with nothing in it.
    pub fn secret(&self, namespace: &str, name: &str) {
        let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name } });
        self.make(&format!("/api/v1/namespaces/{namespace}/secrets"), &secret);
    }

    /// A namespace of a test's own, with all that pods need in it.
    pub fn namespace(&self, name: &str) {
        self.make(
            "/api/v1/namespaces",
            &json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }),
        );
        let account = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
        until("the namespace's account", || {
            let held = self.get(&account)?;
            held["secrets"].as_array().is_some_and(|secrets| !secrets.is_empty()).then_some(())
        });
    }

    /// `count` pods of a ReplicaSet on `node`, running. There is no scheduler: what is made anew is made on `elsewhere`.
    pub fn pods(&self, namespace: &str, name: &str, (node, elsewhere): (&str, &str), count: usize) {
        let set = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": { "name": name },
            "spec": {
                "replicas": count,
                "selector": { "matchLabels": { "app": name } },
                "template": { "metadata": { "labels": { "app": name } }, "spec": pod_spec(node) },
            },
        });
        let path = format!("/apis/apps/v1/namespaces/{namespace}/replicasets");
        self.make(&path, &set);
        self.running(namespace, name, count);
        self.patch(
            &format!("{path}/{name}"),
            &json!({ "spec": { "template": { "spec": { "nodeName": elsewhere } } } }),
        );
    }

    /// Waits until so many pods of that label run.
    pub fn running(&self, namespace: &str, app: &str, count: usize) {
        until("the pods to run", || (self.pods_of(namespace, app, "Running").len() == count).then_some(()));
    }

    /// The names of the pods of that label in that phase which nobody has told to end.
    pub fn pods_of(&self, namespace: &str, app: &str, phase: &str) -> Vec<String> {
        let list = self.get(&format!("/api/v1/namespaces/{namespace}/pods?labelSelector=app%3D{app}"));
        let items = list.and_then(|list| list["items"].as_array().cloned()).unwrap_or_default();
        let wanted = |pod: &&Value| pod["status"]["phase"] == phase && pod["metadata"]["deletionTimestamp"].is_null();
        items.iter().filter(wanted).map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    }

    /// A pod that nobody makes anew.
    pub fn bare_pod(&self, namespace: &str, name: &str, node: &str) {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "app": name } },
            "spec": pod_spec(node),
        });
        self.make(&format!("/api/v1/namespaces/{namespace}/pods"), &pod);
        self.running(namespace, name, 1);
    }

    /// A disruption budget that allows nothing while `least` pods of that label run; waits until it is in force.
    pub fn budget(&self, namespace: &str, name: &str, app: &str, least: usize) {
        let budget = json!({
            "apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget", "metadata": { "name": name },
            "spec": { "minAvailable": least, "selector": { "matchLabels": { "app": app } } },
        });
        let path = format!("/apis/policy/v1beta1/namespaces/{namespace}/poddisruptionbudgets");
        self.make(&path, &budget);
        let path = format!("{path}/{name}");
        until("the budget to count its pods", || {
            let held = self.get(&path)?;
            (held["status"]["currentHealthy"].as_u64()? >= least as u64).then_some(())
        });
    }

    pub fn node(&self, name: &str) -> Option<Value> {
        self.get(&format!("/api/v1/nodes/{name}"))
    }

    pub fn is_cordoned(&self, name: &str) -> bool {
        self.node(name).is_some_and(|node| node["spec"]["unschedulable"] == true)
    }

    /// What the node's condition `Ready` says, and the boot that its kubelet told.
    pub fn ready(&self, name: &str) -> Option<(String, String)> {
        let node = self.node(name)?;
        let conditions = node["status"]["conditions"].as_array()?;
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready")?;
        Some((ready["status"].as_str()?.to_owned(), node["status"]["nodeInfo"]["bootID"].as_str()?.to_owned()))
    }

    pub fn wait_ready(&self, name: &str) {
        until(&format!("{name} to be Ready"), || (self.ready(name)?.0 == "True").then_some(()));
    }
}

fn pod_spec(node: &str) -> Value {
    json!({
        "nodeName": node, "terminationGracePeriodSeconds": 1,
        "containers": [{ "name": "one", "image": "none/at:all" }],
    })
}

fn config(authority: &[u8]) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority).unwrap()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = body.windows(2).position(|two| two == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap().trim(), 16).unwrap();
        if size == 0 {
            break;
        }
        whole.extend_from_slice(&body[end + 2..end + 2 + size]);
        body = &body[end + 4 + size..];
    }
    whole
}
