//! The client against a scripted server on loopback: what a real one cannot be made to do. What a real one does is in
//! `tests/kubernetes`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use beehive_mqtt::node::EngineState;
use futures_util::FutureExt;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use super::*;
use crate::engine::token::BootstrapToken;
use crate::engine::{EngineDone, EngineError, EngineWork, KubeAccess};
use crate::kube::Ready;

/// How long anything may take on loopback.
const PATIENCE: Duration = Duration::from_secs(20);

/// What was asked.
#[derive(Debug, Clone)]
struct Asked {
    method: String,
    path: String,
    body: Value,
    head: String,
}

/// What is answered.
enum Reply {
    Json(u16, Value),
    /// With these fields more.
    With(u16, &'static str, Value),
    /// As it stands, and the connection is closed.
    Raw(Vec<u8>),
    /// Lines of a watch, as they are sent; it ends when the sender is dropped.
    Watch(mpsc::UnboundedReceiver<Value>),
    /// Nothing, for ever.
    Silence,
}

type Script = Arc<Mutex<dyn FnMut(&Asked) -> Reply + Send>>;

struct Scripted {
    port: u16,
    authority: Pki,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An authority, with a certificate of the server and one of the client.
struct Pki {
    authority: String,
    server: (String, String),
    client: (String, String),
}

impl Pki {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap().pem();
        let issuer = rcgen::Issuer::new(params, key);
        let pair = |names: &[&str]| {
            let key = rcgen::KeyPair::generate().unwrap();
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            let certificate = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
            (certificate.pem(), key.serialize_pem())
        };
        Self { authority, server: pair(&["127.0.0.1"]), client: pair(&["client"]) }
    }

    fn kubeconfig(&self, port: u16) -> String {
        let [authority, certificate, key] =
            [&self.authority, &self.client.0, &self.client.1].map(|pem| STANDARD.encode(pem));
        json!({
            "current-context": "x",
            "contexts": [{ "name": "x", "context": { "cluster": "c", "user": "u" } }],
            "clusters": [{ "name": "c", "cluster": { "server": format!("https://127.0.0.1:{port}"),
                "certificate-authority-data": authority } }],
            "users": [{ "name": "u", "user": { "client-certificate-data": certificate, "client-key-data": key } }],
        })
        .to_string()
    }
}

impl Scripted {
    async fn start(script: impl FnMut(&Asked) -> Reply + Send + 'static) -> Self {
        let authority = Pki::new();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(authority.server.0.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(authority.server.1.as_bytes()).unwrap(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let script: Script = Arc::new(Mutex::new(script));
        let heard = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, script, heard) = (acceptor.clone(), Arc::clone(&script), Arc::clone(&heard));
                connections.spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let _ = converse(stream, &script, &heard).await;
                    }
                });
            }
        });
        Self { port, authority, asked, task }
    }

    fn kubeconfig(&self) -> String {
        self.authority.kubeconfig(self.port)
    }

    fn kubernetes(&self, settings: DrainSettings) -> ApiKubernetes {
        ApiKubernetes::new(Opens::with([self.kubeconfig()]), settings, node("pi-1"))
    }

    fn asked(&self, method: &str, part: &str) -> Vec<Asked> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|asked| asked.method == method && asked.path.contains(part)).cloned().collect()
    }
}

async fn converse(
    mut stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>,
    script: &Script,
    heard: &Mutex<Vec<Asked>>,
) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8(buffer.drain(..end).collect()).unwrap();
        let length =
            head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).map_or(0, |text| text.parse().unwrap());
        while buffer.len() < length {
            stream.read_buf(&mut buffer).await?;
        }
        let body: Vec<u8> = buffer.drain(..length).collect();
        let mut words = head.split(' ');
        let asked = Asked {
            method: words.next().unwrap().to_owned(),
            path: words.next().unwrap().to_owned(),
            body: serde_json::from_slice(&body).unwrap_or_default(),
            head: head.clone(),
        };
        heard.lock().unwrap().push(asked.clone());
        let reply = script.lock().unwrap()(&asked);
        match reply {
            Reply::Json(status, body) => stream.write_all(&answer(status, "", &body)).await?,
            Reply::With(status, fields, body) => stream.write_all(&answer(status, fields, &body)).await?,
            Reply::Raw(bytes) => {
                stream.write_all(&bytes).await?;
                return stream.shutdown().await;
            }
            Reply::Watch(mut lines) => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
                while let Some(line) = lines.recv().await {
                    // in two chunks, as lines and chunks have nothing to do with each other
                    let text = format!("{line}\n");
                    let (one, two) = text.split_at(text.len() / 2);
                    for part in [one, two] {
                        stream.write_all(format!("{:x}\r\n{part}\r\n", part.len()).as_bytes()).await?;
                        stream.flush().await?;
                    }
                }
                stream.write_all(b"0\r\n\r\n").await?;
            }
            Reply::Silence => std::future::pending::<()>().await,
        }
        stream.flush().await?;
    }
}

fn answer(status: u16, fields: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    format!("HTTP/1.1 {status} X\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// An engine with a kubeconfig for each time that it is asked; the last one for ever.
struct Opens(Mutex<VecDeque<String>>);

impl Opens {
    fn with(kubeconfigs: impl IntoIterator<Item = String>) -> Arc<dyn Engine> {
        Arc::new(Self(Mutex::new(kubeconfigs.into_iter().collect())))
    }
}

impl Engine for Opens {
    fn kind(&self) -> &'static str {
        "opens"
    }

    fn perform(&self, _work: EngineWork) -> BoxFuture<'static, Result<EngineDone, EngineError>> {
        panic!("nobody asks it to do anything")
    }

    fn state(&self) -> EngineState {
        panic!("nobody asks it how it is")
    }

    fn access(&self) -> BoxFuture<'static, Result<Option<KubeAccess>, EngineError>> {
        let mut left = self.0.lock().unwrap();
        let next = if left.len() > 1 { left.pop_front() } else { left.front().cloned() };
        let access = next.map(|text| KubeAccess::new(Zeroizing::new(text)));
        async move { Ok(access) }.boxed()
    }
}

/// Lets the paused clock run, so many times as fast as the world's. By itself it would jump over every answer that is still in a
/// socket: tokio does not see those coming.
struct Fast {
    _end: std::sync::mpsc::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Fast {
    fn forward(times: u32) -> Self {
        const TICK: Duration = Duration::from_millis(5);
        let (end, ended) = std::sync::mpsc::channel::<()>();
        // while a blocking task runs the clock does not jump
        tokio::task::spawn_blocking(move || {
            let _ = ended.recv();
        });
        let task = tokio::spawn(async move {
            loop {
                tokio::task::spawn_blocking(|| std::thread::sleep(TICK)).await.unwrap();
                tokio::time::advance(TICK * times).await;
            }
        });
        Self { _end: end, task }
    }
}

impl Drop for Fast {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

fn node_object(name: &str, version: u64, ready: &str) -> Value {
    json!({
        "metadata": { "name": name, "uid": format!("uid-{name}"), "resourceVersion": version.to_string(), "labels": null,
            "managedFields": [{ "manager": "kubelet", "operation": "Update" }] },
        "spec": { "podCIDR": "10.0.0.0/24", "taints": null },
        "status": { "conditions": [{ "type": "DiskPressure", "status": "False" }, { "type": "Ready", "status": ready }],
            "nodeInfo": { "bootID": "b-1", "kubeletVersion": "v1.30.4+k3s1" }, "images": [{ "names": null }] },
    })
}

fn pod_object(name: &str, spec: &Value) -> Value {
    json!({
        "metadata": { "name": name, "namespace": "web", "uid": format!("uid-{name}"), "resourceVersion": "5",
            "ownerReferences": [{ "kind": "ReplicaSet", "controller": true, "name": "x", "uid": "y", "apiVersion": "apps/v1" }] },
        "spec": spec, "status": { "phase": "Running" },
    })
}

fn list(version: u64, items: &[Value]) -> Reply {
    Reply::Json(200, json!({ "metadata": { "resourceVersion": version.to_string() }, "items": items }))
}

fn mark(id: &str) -> Reply {
    Reply::Json(200, json!({ "data": { "cluster": id } }))
}

fn status(code: u16, message: &str) -> Reply {
    Reply::Json(code, json!({ "kind": "Status", "message": message, "code": code }))
}

/// A watch that says nothing until it is told.
fn watch_channel() -> (mpsc::UnboundedSender<Value>, Reply) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (sender, Reply::Watch(receiver))
}

/// Answers what every script has to, with one node; none where the script has to say it.
fn usual(asked: &Asked) -> Option<Reply> {
    if asked.path.starts_with("/api/v1/namespaces/kube-system/configmaps/beehive") {
        return Some(mark("c-1"));
    }
    if asked.path.contains("/secrets?") {
        return Some(list(1, &[]));
    }
    if asked.path.starts_with("/api/v1/nodes?limit") {
        return Some(list(10, &[node_object("pi-2", 3, "True")]));
    }
    if asked.path.starts_with("/api/v1/nodes?watch") {
        return Some(Reply::Silence);
    }
    if asked.path == "/api/v1/nodes/pi-2" {
        return Some(Reply::Json(200, node_object("pi-2", 11, "True")));
    }
    if asked.path == "/api/v1" {
        return Some(Reply::Json(
            200,
            json!({ "resources": [{ "name": "pods" }, { "name": "pods/eviction", "group": "policy", "version": "v1" }] }),
        ));
    }
    None
}

async fn seen(kubernetes: &ApiKubernetes, what: &str, wanted: impl Fn(&KubeView) -> bool) -> KubeView {
    let mut view = kubernetes.watch();
    let view = tokio::time::timeout(PATIENCE, view.wait_for(wanted)).await;
    view.unwrap_or_else(|_| panic!("waited in vain to see {what}")).unwrap().clone()
}

async fn shown(kubernetes: &ApiKubernetes) -> KubeView {
    seen(kubernetes, "the cluster", |view| view.cluster.is_some()).await
}

async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

#[tokio::test]
async fn nodes_come_in_pages_and_change_with_the_watch_and_stay_when_it_ends() {
    let (first, watching) = watch_channel();
    let (second, again) = watch_channel();
    let mut watches = VecDeque::from([watching, again]);
    let server = Scripted::start(move |asked| {
        if asked.path == "/api/v1/nodes?limit=25" {
            return Reply::Json(
                200,
                json!({ "metadata": { "resourceVersion": "10", "continue": "a/b=" }, "items": [node_object("pi-2", 3, "True")] }),
            );
        }
        if asked.path == "/api/v1/nodes?limit=25&continue=a%2Fb%3D" {
            return list(10, &[node_object("pi-3", 4, "Unknown"), node_object("not_a_pi", 5, "True")]);
        }
        if asked.path.starts_with("/api/v1/nodes?watch") {
            return watches.pop_front().unwrap_or(Reply::Silence);
        }
        usual(asked).unwrap_or_else(|| panic!("{asked:?}"))
    })
    .await;
    let kubernetes = server.kubernetes(DrainSettings::default());
    let view = shown(&kubernetes).await;
    assert_eq!(view.cluster.unwrap().as_str(), "c-1");
    let names: Vec<_> = view.nodes.iter().map(|node| (node.node.as_str(), node.ready)).collect();
    assert_eq!(names, [("pi-2", Ready::Yes), ("pi-3", Ready::No)]);
    assert_eq!(
        (view.nodes[0].boot.as_ref().unwrap().as_str(), view.nodes[0].version.as_str()),
        ("b-1", "v1.30.4+k3s1")
    );

    first.send(json!({ "type": "MODIFIED", "object": node_object("pi-3", 12, "True") })).unwrap();
    seen(&kubernetes, "pi-3 ready", |view| view.nodes[1].ready == Ready::Yes).await;
    // an older one that was under way is no news
    first.send(json!({ "type": "MODIFIED", "object": node_object("pi-3", 11, "Unknown") })).unwrap();
    first.send(json!({ "type": "ADDED", "object": node_object("pi-4", 13, "True") })).unwrap();
    let view = seen(&kubernetes, "pi-4", |view| view.nodes.len() == 3).await;
    assert_eq!(view.nodes[1].ready, Ready::Yes);
    first.send(json!({ "type": "BOOKMARK", "object": { "metadata": { "resourceVersion": "77" } } })).unwrap();
    drop(first);
    second.send(json!({ "type": "DELETED", "object": node_object("pi-4", 78, "True") })).unwrap();
    let mut every = kubernetes.watch();
    every.mark_unchanged();
    in_time("a change", every.changed()).await.unwrap();
    // the first change after the watch's end is this one: the view was never empty between
    assert_eq!(every.borrow().nodes.len(), 2);
    let asked = server.asked("GET", "nodes?watch");
    assert!(asked[0].path.contains("resourceVersion=10") && asked[0].path.contains("allowWatchBookmarks=true"));
    assert!(asked[1].path.contains("resourceVersion=77"), "{asked:?}");
}

#[tokio::test]
async fn a_version_that_is_too_old_is_listed_anew() {
    let (lost, watching) = watch_channel();
    let mut watches = VecDeque::from([status(410, "too old"), watching]);
    let mut lists = 0;
    let server = Scripted::start(move |asked| {
        if asked.path.starts_with("/api/v1/nodes?limit") {
            lists += 1;
            return list(10 + lists, &[node_object(&format!("pi-{lists}"), lists, "True")]);
        }
        if asked.path.starts_with("/api/v1/nodes?watch") {
            return watches.pop_front().unwrap_or(Reply::Silence);
        }
        usual(asked).unwrap_or_else(|| panic!("{asked:?}"))
    })
    .await;
    let kubernetes = server.kubernetes(DrainSettings::default());
    seen(&kubernetes, "the second list", |view| view.node(&node("pi-2")).is_some()).await;
    lost.send(json!({ "type": "ERROR", "object": { "code": 410, "reason": "Expired", "message": "too old" } }))
        .unwrap();
    let view = seen(&kubernetes, "the third list", |view| view.node(&node("pi-3")).is_some()).await;
    assert_eq!(view.nodes.len(), 1);
}

#[tokio::test]
async fn a_server_that_goes_leaves_no_view_and_one_that_comes_back_is_seen_again() {
    let (gone, watching) = watch_channel();
    let mut watches = VecDeque::from([watching]);
    let there = Arc::new(Mutex::new(true));
    let answers = Arc::clone(&there);
    let server = Scripted::start(move |asked| {
        if !*answers.lock().unwrap() {
            return status(503, "apiserver not ready");
        }
        if asked.path.starts_with("/api/v1/nodes?watch") {
            return watches.pop_front().unwrap_or(Reply::Silence);
        }
        usual(asked).unwrap_or_else(|| panic!("{asked:?}"))
    })
    .await;
    let kubernetes = server.kubernetes(DrainSettings::default());
    shown(&kubernetes).await;
    *there.lock().unwrap() = false;
    drop(gone);
    let view = seen(&kubernetes, "nothing", |view| view.cluster.is_none()).await;
    assert!(view.nodes.is_empty());
    let error = kubernetes.perform(KubeWork::Cordon(node("pi-2"))).await.unwrap_err();
    assert_eq!(error.code, "unreachable");
    assert!(error.reason.as_str().contains("apiserver not ready"), "{}", error.reason);
    *there.lock().unwrap() = true;
    shown(&kubernetes).await;
}

#[tokio::test]
async fn whose_cluster_it_is_is_asked_and_nobody_elses_passes() {
    let id = Arc::new(Mutex::new(None));
    let answered = Arc::clone(&id);
    let (gone, watching) = watch_channel();
    let mut watches = VecDeque::from([watching]);
    let server = Scripted::start(move |asked| {
        if asked.path.contains("configmaps/beehive") {
            return answered.lock().unwrap().map_or_else(|| status(404, "not found"), mark);
        }
        if asked.path.starts_with("/api/v1/nodes?watch") {
            return watches.pop_front().unwrap_or(Reply::Silence);
        }
        usual(asked).unwrap_or_else(|| panic!("{asked:?}"))
    })
    .await;
    let kubernetes = server.kubernetes(DrainSettings::default());
    let mint = |cluster: &str| {
        kubernetes.perform(KubeWork::MintCredential { node: node("pi-2"), cluster: cluster.parse().unwrap() })
    };
    in_time("the first question", async {
        while server.asked("GET", "configmaps").is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(kubernetes.watch().borrow().cluster, None, "nobody has said whose it is");
    *id.lock().unwrap() = Some("c-1");
    shown(&kubernetes).await;
    let error = mint("c-9").await.unwrap_err();
    assert_eq!(error.code, "other-cluster");
    assert!(server.asked("POST", "secrets").is_empty());

    // the same server, restored from another cluster's copy
    *id.lock().unwrap() = Some("c-2");
    let error = mint("c-1").await.unwrap_err();
    assert_eq!(error.code, "unreachable", "{}", error.reason);
    let view =
        seen(&kubernetes, "the other cluster", |view| view.cluster.as_ref().is_some_and(|id| id.as_str() != "c-1"))
            .await;
    assert_eq!(view.cluster.unwrap().as_str(), "c-2");
    drop(gone);
}

#[tokio::test]
async fn a_server_of_another_authority_and_credentials_that_no_longer_count_are_asked_for_anew() {
    let refused = Arc::new(Mutex::new(0));
    let counts = Arc::clone(&refused);
    let server = Scripted::start(move |asked| {
        let mut refused = counts.lock().unwrap();
        if *refused < 1 {
            *refused += 1;
            return status(401, "Unauthorized");
        }
        usual(asked).unwrap_or_else(|| panic!("{asked:?}"))
    })
    .await;
    // first no control plane at all, then one of an authority that is not this server's
    let stranger = Pki::new().kubeconfig(server.port);
    let engine = Opens::with([String::new(), stranger, server.kubeconfig()]);
    let kubernetes = ApiKubernetes::new(engine, DrainSettings::default(), node("pi-1"));
    shown(&kubernetes).await;
    assert_eq!(*refused.lock().unwrap(), 1);
}

#[tokio::test]
async fn without_a_control_plane_there_is_no_view_and_no_work() {
    let kubernetes = ApiKubernetes::new(Opens::with([]), DrainSettings::default(), node("pi-1"));
    let why = in_time("the keeper to look", async {
        loop {
            let error = kubernetes.look(&node("pi-2")).await.unwrap_err();
            assert_eq!(error.code, "unreachable");
            if error.reason.as_str().contains("no control plane") {
                return error.reason;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(why.as_str(), "no control plane runs on this Pi");
}

/// What a look at a node meets when the server answers it with this.
async fn met(mut reply: impl FnMut() -> Reply + Send + 'static) -> KubeError {
    let server = Scripted::start(move |asked| {
        if asked.path == "/api/v1/nodes/pi-2" {
            return reply();
        }
        usual(asked).unwrap_or_else(|| panic!("{asked:?}"))
    })
    .await;
    let kubernetes = server.kubernetes(DrainSettings::default());
    shown(&kubernetes).await;
    in_time("an answer", kubernetes.look(&node("pi-2"))).await.unwrap_err()
}

#[tokio::test]
async fn answers_that_are_none_are_named_and_change_nothing() {
    let raw = |bytes: &[u8]| {
        let bytes = bytes.to_vec();
        move || Reply::Raw(bytes.clone())
    };
    let huge = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let endless = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}", "f".repeat(100_000));
    for (error, word) in [
        (met(raw(b"")).await, "cut off"),
        (met(raw(b"HTTP/1.1 200 OK\r\nContent-Le")).await, "cut off"),
        (met(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"metadata\"")).await, "cut off"),
        (met(raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"a\"")).await, "cut off"),
        (met(raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}xx")).await, "longer than it says"),
        (met(raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")).await, "no size"),
        (met(raw(endless.as_bytes())).await, "no size"),
        (met(raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n")).await, "coded in a way"),
        (met(raw(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n")).await, "no number"),
        (met(raw(b"SSH-2.0-OpenSSH_9.2\r\n")).await, "no HTTP"),
        (met(raw(huge.as_bytes())).await, "no HTTP"),
        (met(raw(b"HTTP/1.1 200 OK\r\n\r\n{\"metadata\": [")).await, "cannot be read"),
        (
            met(raw(b"HTTP/1.1 301 Moved\r\nLocation: https://elsewhere/\r\nContent-Length: 0\r\n\r\n")).await,
            "do not follow",
        ),
        (met(|| Reply::Json(200, json!([1, 2]))).await, "cannot be read"),
        (met(|| status(500, "etcdserver: request timed out")).await, "etcdserver"),
    ] {
        assert_eq!(error.code, "unreachable", "{}", error.reason);
        assert!(error.reason.as_str().contains(word), "{word}: {}", error.reason);
    }
    let error = met(|| status(403, "nodes is forbidden")).await;
    assert_eq!((error.code, error.reason.as_str()), ("forbidden", "nodes is forbidden (403)"));
    assert_eq!(met(|| status(404, "nodes not found")).await.code, "not-found");
}

#[tokio::test]
async fn an_answer_without_an_end_is_not_read_to_the_end() {
    let error = met(|| {
        let mut bytes = b"HTTP/1.1 200 OK\r\n\r\n{\"metadata\":{\"name\":\"".to_vec();
        bytes.resize(6 << 20, b'x');
        Reply::Raw(bytes)
    })
    .await;
    assert_eq!(error.code, "unreachable");
    assert!(error.reason.as_str().contains("longer than 4194304 bytes"), "{}", error.reason);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_is_given_up() {
    let _fast = Fast::forward(20);
    let (count, mut counted) = tokio::sync::watch::channel(0);
    let server = Scripted::start(move |asked| {
        if asked.path.contains("configmaps") {
            count.send_modify(|count| *count += 1);
        }
        Reply::Silence
    })
    .await;
    let kubernetes = server.kubernetes(DrainSettings::default());
    tokio::time::timeout(Duration::from_secs(120), counted.wait_for(|count| *count >= 2))
        .await
        .expect("it waits for ever")
        .unwrap();
    let error = kubernetes.perform(KubeWork::Uncordon(node("pi-2"))).await.unwrap_err();
    assert_eq!(error.code, "unreachable");
    assert!(error.reason.as_str().contains("not all of it came within 30 s"), "{}", error.reason);
}

/// A cluster with one node and some pods that end at once when they are evicted.
struct Pods {
    objects: Mutex<Vec<Value>>,
    watches: Mutex<Vec<mpsc::UnboundedSender<Value>>>,
}

impl Pods {
    fn new(objects: Vec<Value>) -> Arc<Self> {
        Arc::new(Self { objects: Mutex::new(objects), watches: Mutex::new(Vec::new()) })
    }

    fn reply(&self, asked: &Asked) -> Option<Reply> {
        if asked.path.starts_with("/api/v1/pods?limit") {
            return Some(list(5, &self.objects.lock().unwrap()));
        }
        if asked.path.starts_with("/api/v1/pods?watch") {
            let (sender, reply) = watch_channel();
            self.watches.lock().unwrap().push(sender);
            return Some(reply);
        }
        if asked.method == "PATCH" && asked.path == "/api/v1/nodes/pi-2" {
            let mut object = node_object("pi-2", 12, "True");
            object["spec"]["unschedulable"] = asked.body["spec"]["unschedulable"].clone();
            return Some(Reply::Json(200, object));
        }
        usual(asked)
    }

    fn end(&self, name: &str) {
        let mut objects = self.objects.lock().unwrap();
        let Some(at) = objects.iter().position(|pod| pod["metadata"]["name"] == name) else { return };
        let object = objects.remove(at);
        let event = json!({ "type": "DELETED", "object": object });
        self.watches.lock().unwrap().retain(|watch| watch.send(event.clone()).is_ok());
    }

    /// Does as an eviction or a deletion asks.
    fn evicted(&self, asked: &Asked) -> Reply {
        let name = asked.path.split('/').nth(6).unwrap().to_owned();
        self.end(&name);
        Reply::Json(201, json!({ "kind": "Status", "status": "Success" }))
    }
}

fn drain(deadline_ms: u64) -> KubeWork {
    KubeWork::Drain { node: node("pi-2"), deadline_ms }
}

#[tokio::test]
async fn evictions_speak_the_version_that_the_server_knows() {
    for version in ["v1", "v1beta1"] {
        let pods = Pods::new(vec![pod_object("a", &json!({}))]);
        let held = Arc::clone(&pods);
        let server = Scripted::start(move |asked| {
            if asked.path == "/api/v1" {
                let known =
                    json!([{ "name": "pods/eviction", "group": "policy", "version": version, "kind": "Eviction" }]);
                return Reply::Json(200, json!({ "resources": known }));
            }
            if asked.path.ends_with("/eviction") {
                return held.evicted(asked);
            }
            held.reply(asked).unwrap_or_else(|| panic!("{asked:?}"))
        })
        .await;
        let kubernetes = server.kubernetes(DrainSettings { grace_period_s: Some(7), ..DrainSettings::default() });
        shown(&kubernetes).await;
        assert_eq!(in_time("the drain", kubernetes.perform(drain(10_000))).await, Ok(KubeDone::Done));
        let evictions = server.asked("POST", "/eviction");
        assert_eq!(evictions.len(), 1);
        assert_eq!(evictions[0].path, "/api/v1/namespaces/web/pods/a/eviction");
        assert_eq!(evictions[0].body["apiVersion"], format!("policy/{version}"));
        let options = &evictions[0].body["deleteOptions"];
        assert_eq!((&options["preconditions"]["uid"], &options["gracePeriodSeconds"]), (&json!("uid-a"), &json!(7)));
        assert!(kubernetes.drains().unwrap().borrow().is_empty(), "a drain that has ended is shown no more");
    }
    let pods = Pods::new(vec![pod_object("a", &json!({}))]);
    let server = Scripted::start(move |asked| {
        if asked.path == "/api/v1" {
            return Reply::Json(200, json!({ "resources": null }));
        }
        pods.reply(asked).unwrap_or_else(|| panic!("{asked:?}"))
    })
    .await;
    let kubernetes = server.kubernetes(DrainSettings::default());
    shown(&kubernetes).await;
    let error = in_time("the drain", kubernetes.perform(drain(10_000))).await.unwrap_err();
    assert!(error.reason.as_str().contains("knows no evictions"), "{}", error.reason);
}

#[tokio::test]
async fn what_would_be_lost_is_named_and_nothing_is_touched() {
    let bare = |name: &str| {
        let mut pod = pod_object(name, &json!({}));
        pod["metadata"]["ownerReferences"] = Value::Null;
        pod
    };
    let data = pod_object("data", &json!({ "volumes": [{ "name": "v", "emptyDir": {} }] }));
    let mut daemon = pod_object("daemon", &json!({ "volumes": [{ "name": "v", "emptyDir": {} }] }));
    daemon["metadata"]["ownerReferences"][0]["kind"] = "DaemonSet".into();
    let mut mirror = bare("mirror");
    mirror["metadata"]["annotations"] = json!({ "kubernetes.io/config.mirror": "x" });
    let mut finished = bare("finished");
    finished["status"]["phase"] = "Succeeded".into();
    let harmless = vec![daemon, mirror, finished];

    let with = |more: Vec<Value>| [harmless.clone(), more].concat();
    for (objects, settings, expected) in [
        (with(vec![]), DrainSettings::default(), None),
        (
            with(vec![bare("a"), pod_object("b", &json!({}))]),
            DrainSettings::default(),
            Some("pods without a controller (bare_pods in [cluster.drain]): web/a"),
        ),
        (
            with((1..6).map(|number| bare(&format!("n{number}"))).collect()),
            DrainSettings::default(),
            Some("pods without a controller (bare_pods in [cluster.drain]): web/n1, web/n2, web/n3 and 2 more"),
        ),
        (
            with(vec![bare("a"), data.clone()]),
            DrainSettings { bare_pods: OnLoss::Delete, ..DrainSettings::default() },
            Some("pods with an emptyDir (empty_dir in [cluster.drain]): web/data"),
        ),
        (
            with(vec![bare("a"), data.clone()]),
            DrainSettings { bare_pods: OnLoss::Delete, empty_dir: OnLoss::Delete, ..DrainSettings::default() },
            None,
        ),
    ] {
        let evictable = objects.len() - harmless.len();
        let pods = Pods::new(objects);
        let held = Arc::clone(&pods);
        let server = Scripted::start(move |asked| {
            if asked.path.ends_with("/eviction") {
                return held.evicted(asked);
            }
            held.reply(asked).unwrap_or_else(|| panic!("{asked:?}"))
        })
        .await;
        let kubernetes = server.kubernetes(settings);
        shown(&kubernetes).await;
        let outcome = in_time("the drain", kubernetes.perform(drain(10_000))).await;
        let left = pods.objects.lock().unwrap().len();
        match expected {
            None => {
                assert_eq!(outcome, Ok(KubeDone::Done));
                assert_eq!((left, server.asked("POST", "/eviction").len()), (harmless.len(), evictable));
            }
            Some(reason) => {
                let error = outcome.unwrap_err();
                assert_eq!((error.code, error.reason.as_str()), ("refused", reason));
                assert!(server.asked("POST", "").is_empty() && server.asked("PATCH", "").is_empty());
            }
        }
    }
}

fn held_by_budget() -> Value {
    json!({
        "kind": "Status", "code": 429, "reason": "TooManyRequests",
        "message": "Cannot evict pod as it would violate the pod's disruption budget.",
        "details": { "causes": [{ "reason": "DisruptionBudget",
            "message": "The disruption budget web-pdb needs 1 healthy pods and has 1 currently" }] },
    })
}

#[tokio::test(start_paused = true)]
async fn a_budget_is_asked_again_and_named_at_the_deadline() {
    let _fast = Fast::forward(20);
    let pods = Pods::new(vec![pod_object("a", &json!({})), pod_object("b", &json!({}))]);
    let held = Arc::clone(&pods);
    let server = Scripted::start(move |asked| {
        if asked.path.ends_with("/a/eviction") {
            return Reply::With(429, "Retry-After: 7\r\n", held_by_budget());
        }
        if asked.path.ends_with("/b/eviction") {
            return held.evicted(asked);
        }
        held.reply(asked).unwrap_or_else(|| panic!("{asked:?}"))
    })
    .await;
    let kubernetes = server.kubernetes(DrainSettings::default());
    shown(&kubernetes).await;
    let mut drains = kubernetes.drains().unwrap();
    let ends = tokio::spawn(kubernetes.perform(drain(30_000)));
    let progress = drains.wait_for(|drains| drains.get(&node("pi-2")).is_some_and(|drain| drain.gone == 1)).await;
    let progress = progress.unwrap().get(&node("pi-2")).unwrap().to_string();
    assert_eq!(progress, "1 of 2 pods gone, 0 ending; web/a is held by the disruption budget web-pdb");
    let error = ends.await.unwrap().unwrap_err();
    assert_eq!(
        (error.code, error.reason.as_str()),
        ("blocked-by-budget", "web/a is held by the disruption budget web-pdb")
    );
    // at once, and after 7, 14, 21 and 28 s; where the processor is emulated, each answer takes a second of this clock
    let evictions = server.asked("POST", "/a/eviction").len();
    assert!((4..=5).contains(&evictions), "{evictions}");
    assert!(server.asked("DELETE", "").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_budget_is_bypassed_only_when_that_is_wanted_and_then_in_time() {
    let _fast = Fast::forward(20);
    for settings in [
        DrainSettings { bypass_budget_after_ms: Some(12_000), ..DrainSettings::default() },
        DrainSettings { on_deadline: OnDeadline::Delete, ..DrainSettings::default() },
    ] {
        let pods = Pods::new(vec![pod_object("a", &json!({}))]);
        let held = Arc::clone(&pods);
        let server = Scripted::start(move |asked| {
            if asked.path.ends_with("/eviction") {
                return Reply::Json(429, held_by_budget());
            }
            if asked.method == "DELETE" {
                return held.evicted(asked);
            }
            held.reply(asked).unwrap_or_else(|| panic!("{asked:?}"))
        })
        .await;
        let kubernetes = server.kubernetes(settings);
        shown(&kubernetes).await;
        let begun = tokio::time::Instant::now();
        assert_eq!(kubernetes.perform(drain(40_000)).await, Ok(KubeDone::Done));
        let took = begun.elapsed().as_secs();
        let deleted = server.asked("DELETE", "/api/v1/namespaces/web/pods/a");
        assert_eq!(deleted.len(), 1);
        assert_eq!(deleted[0].body["preconditions"]["uid"], "uid-a");
        match settings.on_deadline {
            OnDeadline::GiveUp => assert!((12..17).contains(&took), "{took}"),
            OnDeadline::Delete => {
                assert!((30..33).contains(&took), "{took}");
                // what is left of the last quarter, without the margin
                assert!(deleted[0].body["gracePeriodSeconds"].as_u64().unwrap() <= 8);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn pods_that_changed_came_went_or_do_not_end_are_all_told_apart() {
    let _fast = Fast::forward(20);
    let mut ending = pod_object("ending", &json!({}));
    ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    let names = ["gone", "renamed", "changed", "busy", "namespace"];
    let mut objects: Vec<Value> = names.iter().map(|name| pod_object(name, &json!({}))).collect();
    objects.push(ending);
    let pods = Pods::new(objects);
    let held = Arc::clone(&pods);
    let mut tries = BTreeMap::<String, u32>::new();
    let server = Scripted::start(move |asked| {
        if asked.path == "/api/v1/namespaces/web/pods/renamed" {
            let mut other = pod_object("renamed", &json!({}));
            other["metadata"]["uid"] = "another".into();
            return Reply::Json(200, other);
        }
        if asked.path == "/api/v1/namespaces/web/pods/changed" {
            return Reply::Json(200, pod_object("changed", &json!({})));
        }
        if asked.path.ends_with("/eviction") {
            let name = asked.path.split('/').nth(6).unwrap().to_owned();
            let tried = tries.entry(name.clone()).or_default();
            *tried += 1;
            return match (name.as_str(), *tried) {
                ("gone", _) => {
                    held.end("gone");
                    status(404, "not found")
                }
                ("renamed", _) => status(409, "the UID in the precondition does not match"),
                ("changed", 1) => status(409, "the object has been modified"),
                ("busy", 1) => status(429, "too many requests"),
                ("busy", 2) => status(500, "etcdserver: leader changed"),
                ("namespace", _) => Reply::Json(
                    403,
                    json!({ "message": "forbidden", "details": { "causes": [{ "reason": "NamespaceTerminating" }] } }),
                ),
                ("ending", _) => panic!("it was told already"),
                _ => held.evicted(asked),
            };
        }
        held.reply(asked).unwrap_or_else(|| panic!("{asked:?}"))
    })
    .await;
    let kubernetes = server.kubernetes(DrainSettings::default());
    shown(&kubernetes).await;
    let mut drains = kubernetes.drains().unwrap();
    let ends = tokio::spawn(kubernetes.perform(drain(60_000)));
    // only what is told to end is left
    let left = drains.wait_for(|drains| drains.get(&node("pi-2")).is_some_and(|drain| drain.gone == 4)).await;
    let left = left.unwrap().get(&node("pi-2")).unwrap().clone();
    assert_eq!((left.pods, left.ending), (6, 2));
    pods.end("namespace");
    let error = ends.await.unwrap().unwrap_err();
    assert_eq!((error.code, error.reason.as_str()), ("timed-out", "not ended within 60 s: web/ending"));
    assert_eq!(server.asked("POST", "/busy/eviction").len(), 3);
    assert_eq!(server.asked("POST", "/renamed/eviction").len(), 1);
}

#[tokio::test]
async fn a_watch_that_breaks_in_a_drain_is_begun_anew_from_a_list() {
    let pods = Pods::new(vec![pod_object("a", &json!({}))]);
    let held = Arc::clone(&pods);
    let mut broken = 0;
    let server = Scripted::start(move |asked| {
        if asked.path.ends_with("/eviction") {
            // it ends while nobody watches
            held.objects.lock().unwrap().clear();
            held.watches.lock().unwrap().clear();
            return Reply::Json(201, json!({}));
        }
        if asked.path.starts_with("/api/v1/pods?watch") && broken < 2 {
            broken += 1;
            return match broken {
                1 => status(410, "too old"),
                _ => Reply::Raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{\"type\"".to_vec()),
            };
        }
        held.reply(asked).unwrap_or_else(|| panic!("{asked:?}"))
    })
    .await;
    let kubernetes = server.kubernetes(DrainSettings::default());
    shown(&kubernetes).await;
    assert_eq!(in_time("the drain", kubernetes.perform(drain(15_000))).await, Ok(KubeDone::Done));
}

#[tokio::test]
async fn a_node_that_nobody_hears_of_is_not_drained_and_one_that_is_not_there_not_either() {
    for (reply, code) in [
        (Reply::Json(200, node_object("pi-2", 11, "Unknown")), "not-ready"),
        (status(404, "no such node"), "not-found"),
    ] {
        let mut reply = Some(reply);
        let server = Scripted::start(move |asked| {
            if asked.path == "/api/v1/nodes/pi-2" {
                return reply.take().unwrap();
            }
            usual(asked).unwrap_or_else(|| panic!("{asked:?}"))
        })
        .await;
        let kubernetes = server.kubernetes(DrainSettings::default());
        shown(&kubernetes).await;
        let error = in_time("the drain", kubernetes.perform(drain(10_000))).await.unwrap_err();
        assert_eq!(error.code, code);
        assert!(server.asked("PATCH", "").is_empty(), "it is not cordoned either");
    }
}

#[tokio::test]
async fn a_cordon_of_somebody_elses_is_left_and_ours_is_marked_whoever_else_writes() {
    let object = |unschedulable: bool, ours: bool| {
        let mut object = node_object("pi-2", 20, "True");
        object["spec"]["unschedulable"] = unschedulable.into();
        if ours {
            object["metadata"]["annotations"] = json!({ "beehive/cordoned-by": "pi-1", "other": "stays" });
        }
        object
    };
    let now = Arc::new(Mutex::new((true, false)));
    let state = Arc::clone(&now);
    let mut conflicts = 0;
    let server = Scripted::start(move |asked| {
        let mut state = state.lock().unwrap();
        if asked.method == "PATCH" {
            conflicts += 1;
            if conflicts <= 2 {
                return status(409, "the object has been modified");
            }
            state.0 = asked.body["spec"]["unschedulable"] == true;
            state.1 = !asked.body["metadata"]["annotations"]["beehive/cordoned-by"].is_null();
        }
        if asked.path == "/api/v1/nodes/pi-2" {
            return Reply::Json(200, object(state.0, state.1));
        }
        usual(asked).unwrap_or_else(|| panic!("{asked:?}"))
    })
    .await;
    let kubernetes = server.kubernetes(DrainSettings::default());
    shown(&kubernetes).await;
    let cordon = || kubernetes.perform(KubeWork::Cordon(node("pi-2")));
    assert_eq!(cordon().await, Ok(KubeDone::Done));
    assert!(server.asked("PATCH", "").is_empty(), "it was cordoned already, and not by us");
    *now.lock().unwrap() = (false, false);
    assert_eq!(cordon().await, Ok(KubeDone::Done));
    assert_eq!(*now.lock().unwrap(), (true, true));
    let patches = server.asked("PATCH", "/api/v1/nodes/pi-2");
    assert_eq!(patches.len(), 3);
    assert!(patches[0].head.contains("Content-Type: application/merge-patch+json"));
    assert_eq!(patches[2].body["metadata"]["resourceVersion"], "20");
    assert_eq!(patches[2].body["metadata"]["annotations"], json!({ "beehive/cordoned-by": "pi-1" }));
    let uncordon = kubernetes.perform(KubeWork::Uncordon(node("pi-2"))).await;
    assert_eq!((uncordon, *now.lock().unwrap()), (Ok(KubeDone::Done), (false, false)));
    let patch = &server.asked("PATCH", "")[3].body;
    assert_eq!(
        *patch,
        json!({
            "metadata": { "resourceVersion": "20", "annotations": { "beehive/cordoned-by": null } },
            "spec": { "unschedulable": null },
        })
    );
}

#[tokio::test]
async fn a_node_is_deleted_with_its_password_and_its_credentials_and_again() {
    let mut there = true;
    let server = Scripted::start(move |asked| {
        if asked.method == "DELETE" {
            let answer = if there { Reply::Json(200, json!({ "kind": "Status" })) } else { status(404, "not found") };
            there &= !asked.path.ends_with("password.k3s");
            return answer;
        }
        if asked.path.contains("labelSelector=beehive%2Fjoins%3Dpi-2") {
            return list(1, &[json!({ "metadata": { "name": "bootstrap-token-abcdef" } })]);
        }
        usual(asked).unwrap_or_else(|| panic!("{asked:?}"))
    })
    .await;
    let kubernetes = server.kubernetes(DrainSettings::default());
    shown(&kubernetes).await;
    for _ in 0..2 {
        assert_eq!(kubernetes.perform(KubeWork::DeleteNode(node("pi-2"))).await, Ok(KubeDone::Done));
    }
    let deleted: Vec<String> = server.asked("DELETE", "").into_iter().map(|asked| asked.path).take(3).collect();
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    assert_eq!(
        deleted,
        [
            format!("{secrets}/bootstrap-token-abcdef"),
            "/api/v1/nodes/pi-2".to_owned(),
            format!("{secrets}/pi-2.node-password.k3s"),
        ]
    );
}

/// A server that keeps Secrets, and nodes by name and uid.
struct Keeps {
    secrets: tokio::sync::watch::Sender<BTreeMap<String, Value>>,
    nodes: mpsc::UnboundedSender<Value>,
}

impl Keeps {
    async fn start(secrets: Vec<Value>) -> (Scripted, Arc<Self>) {
        let (nodes, watching) = watch_channel();
        let mut watches = VecDeque::from([watching]);
        let secrets =
            secrets.into_iter().map(|secret| (secret["metadata"]["name"].as_str().unwrap().to_owned(), secret));
        let keeps = Arc::new(Self { secrets: tokio::sync::watch::Sender::new(secrets.collect()), nodes });
        let held = Arc::clone(&keeps);
        let server = Scripted::start(move |asked| {
            if asked.path.contains("/secrets?") {
                let node = asked.path.split("joins%3D").nth(1);
                let of =
                    |secret: &&Value| node.is_none_or(|node| secret["metadata"]["labels"]["beehive/joins"] == node);
                return list(1, &held.secrets.borrow().values().filter(of).cloned().collect::<Vec<_>>());
            }
            if asked.method == "POST" && asked.path.ends_with("/secrets") {
                let name = asked.body["metadata"]["name"].as_str().unwrap().to_owned();
                held.secrets.send_modify(|secrets| drop(secrets.insert(name, asked.body.clone())));
                return Reply::Json(201, asked.body.clone());
            }
            if asked.method == "DELETE" {
                let name = asked.path.rsplit('/').next().unwrap();
                return match held.secrets.send_if_modified(|secrets| secrets.remove(name).is_some()) {
                    true => Reply::Json(200, json!({})),
                    false => status(404, "not found"),
                };
            }
            if asked.path.starts_with("/api/v1/nodes?watch") {
                return watches.pop_front().unwrap_or(Reply::Silence);
            }
            if asked.path == "/api/v1/nodes/pi-9" {
                return status(404, "not found");
            }
            usual(asked).unwrap_or_else(|| panic!("{asked:?}"))
        })
        .await;
        (server, keeps)
    }

    fn names(&self) -> Vec<String> {
        self.secrets.borrow().keys().cloned().collect()
    }

    async fn until_there_are(&self, count: usize) {
        let mut secrets = self.secrets.subscribe();
        in_time("the credentials", async {
            secrets.wait_for(|secrets| secrets.len() == count).await.unwrap();
        })
        .await;
    }
}

async fn minted(kubernetes: &ApiKubernetes, name: &str) -> BootstrapToken {
    let work = KubeWork::MintCredential { node: node(name), cluster: "c-1".parse().unwrap() };
    match in_time("a credential", kubernetes.perform(work)).await.unwrap() {
        KubeDone::Credential(credential) => BootstrapToken::parse(&credential).unwrap(),
        KubeDone::Done => panic!("no credential"),
    }
}

#[tokio::test]
async fn a_credential_is_minted_once_for_a_node_and_revoked_when_its_node_is_there() {
    let (server, keeps) = Keeps::start(Vec::new()).await;
    let kubernetes = server.kubernetes(DrainSettings::default());
    shown(&kubernetes).await;
    let first = minted(&kubernetes, "pi-9").await;
    let second = minted(&kubernetes, "pi-9").await;
    assert_ne!((&first.id, &first.secret), (&second.id, &second.secret));
    assert_eq!(keeps.names(), [format!("bootstrap-token-{}", second.id)], "the one before is revoked");
    assert_eq!(second.authority_pem_sha256, crate::kube::sha256(server.authority.authority.as_bytes()).unwrap());
    let secret = keeps.secrets.borrow().values().next().unwrap().clone();
    assert_eq!(secret["type"], "bootstrap.kubernetes.io/token");
    assert_eq!(secret["metadata"]["labels"]["beehive/joins"], "pi-9");
    let data = &secret["stringData"];
    assert_eq!(
        (data["token-id"].as_str(), data["token-secret"].as_str()),
        (Some(&*second.id), Some(second.secret.as_str()))
    );
    assert_eq!(
        (&data["usage-bootstrap-authentication"], &data["usage-bootstrap-signing"]),
        (&json!("true"), &json!("true"))
    );
    let groups = "system:bootstrappers:kubeadm:default-node-token,system:bootstrappers:k3s:default-node-token";
    assert_eq!(data["auth-extra-groups"], groups);
    let ends: jiff::Timestamp = data["expiration"].as_str().unwrap().parse().unwrap();
    let left = ends.as_second() - jiff::Timestamp::now().as_second();
    assert!((290..=300).contains(&left), "{left}");

    // another node says nothing of this one's
    keeps.nodes.send(json!({ "type": "ADDED", "object": node_object("pi-8", 30, "True") })).unwrap();
    seen(&kubernetes, "pi-8", |view| view.node(&node("pi-8")).is_some()).await;
    assert_eq!(keeps.names().len(), 1);
    keeps.nodes.send(json!({ "type": "ADDED", "object": node_object("pi-9", 31, "False") })).unwrap();
    keeps.until_there_are(0).await;
}

#[tokio::test]
async fn a_node_that_was_there_before_has_not_used_the_credential() {
    let (server, keeps) = Keeps::start(Vec::new()).await;
    let kubernetes = server.kubernetes(DrainSettings::default());
    shown(&kubernetes).await;
    minted(&kubernetes, "pi-2").await;
    keeps.nodes.send(json!({ "type": "MODIFIED", "object": node_object("pi-2", 40, "Unknown") })).unwrap();
    seen(&kubernetes, "the old one's end", |view| view.nodes[0].ready == Ready::No).await;
    assert_eq!(keeps.names().len(), 1);
    let mut anew = node_object("pi-2", 41, "True");
    anew["metadata"]["uid"] = "anew".into();
    keeps.nodes.send(json!({ "type": "DELETED", "object": node_object("pi-2", 40, "Unknown") })).unwrap();
    keeps.nodes.send(json!({ "type": "ADDED", "object": anew })).unwrap();
    keeps.until_there_are(0).await;
}

#[tokio::test]
async fn what_an_earlier_run_left_is_revoked_if_it_was_used_and_kept_for_a_join_under_way() {
    let left = |name: &str, node: &str, before: &str| json!({ "metadata": { "name": name, "labels": { "beehive/joins": node }, "annotations": { "beehive/node-before": before } } });
    let (server, keeps) = Keeps::start(vec![
        left("bootstrap-token-used00", "pi-2", "an-older-uid"),
        left("bootstrap-token-unused", "pi-9", ""),
        left("bootstrap-token-nobody", "No Pi", ""),
    ])
    .await;
    let kubernetes = server.kubernetes(DrainSettings::default());
    shown(&kubernetes).await;
    keeps.until_there_are(1).await;
    assert_eq!(keeps.names(), ["bootstrap-token-unused"]);
}

#[tokio::test(start_paused = true)]
async fn a_credential_that_nobody_uses_is_revoked_whatever_the_clock_says() {
    let _fast = Fast::forward(40);
    let (server, keeps) = Keeps::start(Vec::new()).await;
    let kubernetes = server.kubernetes(DrainSettings::default());
    shown(&kubernetes).await;
    let begun = tokio::time::Instant::now();
    minted(&kubernetes, "pi-9").await;
    while !keeps.names().is_empty() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(begun.elapsed() < Duration::from_secs(400), "it is still there");
    }
    assert!(begun.elapsed() >= Duration::from_secs(300), "{:?}", begun.elapsed());
}

/// What is asked when a certificate is: the request comes with the script's conditions, and the certificate at the second look.
fn certifying(asked: &Asked, existing: &Option<Value>, looks: &mut u32, end: &str) -> Option<Reply> {
    const REQUEST: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let name = format!("{REQUEST}/beehive-r-1");
    if asked.path.ends_with("/clusterrolebindings") {
        return Some(Reply::Json(201, json!({})));
    }
    if asked.path == REQUEST {
        return Some(match existing {
            Some(_) => status(409, "it exists"),
            None => Reply::Json(201, asked.body.clone()),
        });
    }
    if asked.path == format!("{name}/approval") {
        return Some(Reply::Json(200, asked.body.clone()));
    }
    if asked.path == name && asked.method == "DELETE" {
        return Some(Reply::Json(200, json!({})));
    }
    if asked.path == name {
        *looks += 1;
        let mut object = existing.clone().unwrap_or_else(|| json!({}));
        object["status"] = match (*looks, end) {
            (1, _) => object["status"].clone(),
            (_, "") => json!({ "certificate": STANDARD.encode("a certificate") }),
            (_, end) => json!({ "conditions": [{ "type": end }] }),
        };
        return Some(Reply::Json(200, object));
    }
    None
}

async fn certified(existing: Option<Value>, end: &'static str) -> (Scripted, Result<Certified, KubeError>) {
    let mut looks = 0;
    let server = Scripted::start(move |asked| {
        let reply = certifying(asked, &existing, &mut looks, end).or_else(|| usual(asked));
        reply.unwrap_or_else(|| panic!("{asked:?}"))
    })
    .await;
    let kubernetes = server.kubernetes(DrainSettings::default());
    shown(&kubernetes).await;
    let wanted = CertificateWanted { user: "ann".parse().unwrap(), request: "r-1".parse().unwrap(), der: vec![7; 9] };
    let certified = in_time("a certificate", kubernetes.certify(wanted)).await;
    (server, certified)
}

#[tokio::test]
async fn an_operators_key_is_certified_by_the_signer_for_api_clients() {
    let (server, certified) = certified(None, "").await;
    let certified = certified.unwrap();
    assert_eq!(certified.certificate, "a certificate");
    assert_eq!(certified.authority, server.authority.authority);
    // the one that we reach on loopback is the master for others
    assert_eq!(certified.server, format!("https://pi-1:{}", server.port));
    let asked = server.asked("POST", "certificatesigningrequests");
    let spec = &asked[0].body["spec"];
    assert_eq!(spec["signerName"], "kubernetes.io/kube-apiserver-client");
    assert_eq!(
        (&spec["usages"], &spec["expirationSeconds"]),
        (&json!(["digital signature", "client auth"]), &json!(43_200))
    );
    let binding = &server.asked("POST", "clusterrolebindings")[0].body;
    assert_eq!(binding["subjects"][0]["name"], "beehive:operators");
    let approved = &server.asked("PUT", "approval")[0].body["status"]["conditions"];
    assert_eq!((&approved[0]["type"], approved.as_array().unwrap().len()), (&json!("Approved"), 1));
    assert_eq!(server.asked("DELETE", "beehive-r-1").len(), 1);
}

#[tokio::test]
async fn what_was_asked_for_before_a_crash_goes_on_and_what_is_another_ones_is_refused() {
    let (server, _) = certified(None, "").await;
    let ours = server.asked("POST", "certificatesigningrequests")[0].body.clone();
    let (server, again) = certified(Some(ours.clone()), "").await;
    assert_eq!(again.unwrap().certificate, "a certificate");
    assert_eq!(server.asked("PUT", "approval").len(), 1);
    let mut approved = ours.clone();
    approved["status"] = json!({ "conditions": [{ "type": "Approved" }] });
    let (server, again) = certified(Some(approved), "").await;
    assert!(again.is_ok() && server.asked("PUT", "approval").is_empty());
    let mut other = ours;
    other["spec"]["request"] = json!("b3RoZXI=");
    let (server, refused) = certified(Some(other), "").await;
    assert_eq!(refused.unwrap_err().code, "refused");
    assert!(server.asked("PUT", "approval").is_empty());
    for end in ["Denied", "Failed"] {
        let (_, refused) = certified(None, end).await;
        assert_eq!(refused.unwrap_err().code, "refused", "{end}");
    }
}
