//! The calls of the REST interface that are made here, typed. A session is one API server with what opens it and the cluster that
//! it serves.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, OnceLock};

use beehive_cluster::kube::KubeError;
use beehive_mqtt::{ClusterId, NodeName, Text};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::http::{Client, Head, HttpError, Lines, Request};
use super::invite::Invitation;
use super::objects::{ConfigMap, EventKind, EventObject, List, Node, Pod, Resources, Status};

/// The longest answer that is taken: a page of [`PAGE`] objects. A node with the list of its images has some 20 kB.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// The longest event of a watch: one object. etcd takes none beyond 1.5 MiB; JSON is somewhat longer than what is stored.
const MAX_EVENT: usize = 3 * 1024 * 1024;

/// How many objects are asked for at a time: what of them is in memory at once is small.
const PAGE: usize = 25;

/// How many pages a list may have; 64 nodes and the pods of one node (110 by default) have far fewer.
const MAX_PAGES: usize = 200;

/// Where the engine writes the cluster's id after it has made the cluster.
pub(super) const MARK: &str = "/api/v1/namespaces/kube-system/configmaps/beehive";

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";

/// Why a call did not come off.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CallError {
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The API server's own word.
    #[error("{}", said(.0))]
    Status(Status),
    /// It answers with something else.
    #[error("{0}")]
    Odd(String),
}

fn said(status: &Status) -> String {
    match (status.message.as_str(), status.code) {
        ("", 401) => "the API server does not know us (401)".to_owned(),
        ("", code) => format!("the API server answers {code}"),
        (message, code) => format!("{message} ({code})"),
    }
}

impl CallError {
    pub(super) fn status(&self) -> Option<&Status> {
        match self {
            Self::Status(status) => Some(status),
            Self::Http(_) | Self::Odd(_) => None,
        }
    }

    pub(super) fn is(&self, code: u16) -> bool {
        self.status().is_some_and(|status| status.code == code)
    }

    /// In the words of the trait.
    pub(super) fn kube(&self) -> KubeError {
        let code = match self {
            Self::Http(_) | Self::Odd(_) => "unreachable",
            Self::Status(status) => match status.code {
                404 => "not-found",
                // it is starting, overloaded, or wants other credentials: the keeper finds out which
                300..=399 | 401 | 429 | 500..=599 => "unreachable",
                403 => "forbidden",
                _ => "refused",
            },
        };
        error(code, &self.to_string())
    }
}

pub(super) fn error(code: &'static str, reason: &str) -> KubeError {
    KubeError { code, reason: Text::cut(reason) }
}

/// One API server, its cluster, and what was found out about it.
pub(super) struct Session {
    client: Client,
    pub(super) cluster: ClusterId,
    /// The version of `policy` whose evictions it takes.
    evictions: OnceLock<String>,
    pub(super) invitations: Mutex<BTreeMap<NodeName, Invitation>>,
    /// Told when somebody found that it is no longer what it was.
    pub(super) doubted: Notify,
}

impl Session {
    /// Asks whose cluster it is. None while the engine has not written that yet.
    pub(super) async fn open(client: Client) -> Result<Option<Self>, CallError> {
        let Some(cluster) = mark(&client).await? else { return Ok(None) };
        Ok(Some(Self {
            client,
            cluster,
            evictions: OnceLock::new(),
            invitations: Mutex::new(BTreeMap::new()),
            doubted: Notify::new(),
        }))
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Whether it still serves that cluster.
    pub(super) async fn is_the_same(&self) -> Result<bool, CallError> {
        Ok(self.checked(mark(&self.client).await)?.as_ref() == Some(&self.cluster))
    }

    /// What its credentials no longer open is looked at anew.
    fn checked<T>(&self, outcome: Result<T, CallError>) -> Result<T, CallError> {
        if let Err(error) = &outcome {
            if error.is(401) || matches!(error, CallError::Http(HttpError::Tls(_))) {
                self.doubted.notify_one();
            }
        }
        outcome
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        self.checked(ask(&self.client, Request::get(path)).await)
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: &'static str,
        path: &str,
        kind: &'static str,
        body: &Value,
    ) -> Result<T, CallError> {
        let body = body.to_string();
        self.checked(ask(&self.client, Request { method, path, kind: Some(kind), body: body.as_bytes() }).await)
    }

    /// Each object of a list in turn; answers with the version from which it can be watched.
    pub(super) async fn each<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &str,
        mut each: impl FnMut(T),
    ) -> Result<String, CallError> {
        let mut proceed = String::new();
        for _ in 0..MAX_PAGES {
            let mut page = format!("{path}?limit={PAGE}");
            if !query.is_empty() {
                page.push('&');
                page.push_str(query);
            }
            if !proceed.is_empty() {
                page.push_str("&continue=");
                page.push_str(&encoded(&proceed));
            }
            let list: List<T> = self.get(&page).await?;
            list.items.into_iter().for_each(&mut each);
            if list.metadata.proceed.is_empty() {
                return Ok(list.metadata.resource_version);
            }
            proceed = list.metadata.proceed;
        }
        Err(CallError::Odd(format!("the API server's list of {path} has more than {MAX_PAGES} pages")))
    }

    /// Changes of a list from `version` on, with bookmarks.
    pub(super) async fn watch(&self, path: &str, query: &str, version: &str) -> Result<Lines, CallError> {
        let mut path = format!(
            "{path}?watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={}",
            encoded(version)
        );
        if !query.is_empty() {
            path.push('&');
            path.push_str(query);
        }
        let (head, mut body) = self.checked(self.client.stream(&path).await.map_err(CallError::from))?;
        if head.status == 200 {
            return Ok(Lines::new(body, MAX_EVENT));
        }
        let mut text = Vec::new();
        // it may say why; what is cut off says less
        while text.len() < MAX_STATUS && matches!(body.read(&mut text).await, Ok(super::http::More::Yes)) {}
        self.checked(Err(refused(head, &text)))
    }

    pub(super) async fn node(&self, node: &NodeName) -> Result<Node, CallError> {
        self.get(&node_path(node)).await
    }

    pub(super) async fn patch_node(&self, node: &NodeName, patch: &Value) -> Result<Node, CallError> {
        self.send("PATCH", &node_path(node), MERGE, patch).await
    }

    pub(super) async fn delete_node(&self, node: &NodeName) -> Result<(), CallError> {
        self.delete(&node_path(node), &json!({})).await
    }

    pub(super) async fn pod(&self, namespace: &str, name: &str) -> Result<Pod, CallError> {
        self.get(&pod_path(namespace, name)).await
    }

    /// Deletes a pod whatever budget holds it.
    pub(super) async fn delete_pod(&self, namespace: &str, name: &str, options: Value) -> Result<(), CallError> {
        self.delete(&pod_path(namespace, name), &options).await
    }

    /// Deletes a Secret of the cluster's own namespace.
    pub(super) async fn delete_secret(&self, name: &str) -> Result<(), CallError> {
        self.delete(&format!("{SECRETS}/{}", encoded(name)), &json!({})).await
    }

    pub(super) async fn create_secret(&self, secret: &str) -> Result<(), CallError> {
        let request = Request { method: "POST", path: SECRETS, kind: Some(JSON), body: secret.as_bytes() };
        self.checked(ask::<serde::de::IgnoredAny>(&self.client, request).await).map(drop)
    }

    /// Makes an object.
    pub(super) async fn post(&self, path: &str, object: &Value) -> Result<Value, CallError> {
        self.send("POST", path, JSON, object).await
    }

    /// Replaces an object or a part of it.
    pub(super) async fn put(&self, path: &str, object: &Value) -> Result<Value, CallError> {
        self.send("PUT", path, JSON, object).await
    }

    /// Deletes an object.
    pub(super) async fn remove(&self, path: &str) -> Result<(), CallError> {
        self.delete(path, &json!({})).await
    }

    async fn delete(&self, path: &str, options: &Value) -> Result<(), CallError> {
        self.send::<serde::de::IgnoredAny>("DELETE", path, JSON, options).await.map(drop)
    }

    /// Asks for a pod's eviction.
    pub(super) async fn evict(&self, namespace: &str, name: &str, options: Value) -> Result<(), CallError> {
        let version = match self.evictions.get() {
            Some(version) => version.clone(),
            None => {
                let version = self.eviction_version().await?;
                self.evictions.get_or_init(|| version).clone()
            }
        };
        let body = json!({
            "apiVersion": format!("policy/{version}"),
            "kind": "Eviction",
            "metadata": { "namespace": namespace, "name": name },
            "deleteOptions": options,
        });
        let path = format!("{}/eviction", pod_path(namespace, name));
        self.send::<serde::de::IgnoredAny>("POST", &path, JSON, &body).await.map(drop)
    }

    /// The version of `policy` in which this server takes evictions, by what it says of the resource `pods/eviction` (as kubectl's
    /// drain asks). A server knew the group's `v1` one release before evictions in it.
    async fn eviction_version(&self) -> Result<String, CallError> {
        let known: Resources = self.get("/api/v1").await?;
        let eviction = known.resources.into_iter().find(|resource| resource.name == "pods/eviction");
        let version = eviction
            .map(|resource| resource.version)
            .filter(|version| !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        version.ok_or_else(|| {
            CallError::Odd("the API server knows no evictions; Kubernetes has them since 1.7".to_owned())
        })
    }
}

/// A watch ends by itself after so long and is asked for again: what hangs unseen between us and the server is not for ever.
const WATCH_SECONDS: u32 = 600;

/// How much of a refusal is read.
const MAX_STATUS: usize = 64 * 1024;

pub(super) const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";
pub(super) const NODES: &str = "/api/v1/nodes";
pub(super) const PODS: &str = "/api/v1/pods";

/// What asks for the pods of one node.
pub(super) fn of_node(node: &NodeName) -> String {
    format!("fieldSelector=spec.nodeName%3D{}", encoded(node.as_str()))
}

fn node_path(node: &NodeName) -> String {
    format!("{NODES}/{}", encoded(node.as_str()))
}

fn pod_path(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{}/pods/{}", encoded(namespace), encoded(name))
}

/// As a part of a path or of a query: what a server calls its objects is no path of ours.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'_' | b'~')
            || (byte == b'.' && text != "." && text != "..")
        {
            out.push(char::from(byte));
        } else {
            // writing to a string does not fail
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

async fn mark(client: &Client) -> Result<Option<ClusterId>, CallError> {
    // from the server's memory: this is asked every few seconds, and its disk is an SD card
    let path = format!("{MARK}?resourceVersion=0");
    let map: ConfigMap = match ask(client, Request::get(&path)).await {
        Err(error) if error.is(404) => return Ok(None),
        outcome => outcome?,
    };
    let id = map.data.get("cluster").map(|id| id.trim());
    match id.map(str::parse) {
        Some(Ok(id)) => Ok(Some(id)),
        Some(Err(_)) | None => Err(CallError::Odd(
            "the ConfigMap kube-system/beehive holds no cluster id under `cluster`; the engine writes it".to_owned(),
        )),
    }
}

async fn ask<T: DeserializeOwned>(client: &Client, request: Request<'_>) -> Result<T, CallError> {
    let (head, body) = client.ask(request, MAX_ANSWER).await?;
    if !(200..300).contains(&head.status) {
        return Err(refused(head, &body));
    }
    // the error names the place, and could repeat a value: of a Secret's answer nothing is deserialised
    serde_json::from_slice(&body).map_err(|error| {
        CallError::Odd(format!(
            "the API server's answer to {} {} cannot be read: {error}",
            request.method, request.path
        ))
    })
}

fn refused(head: Head, body: &[u8]) -> CallError {
    if (300..400).contains(&head.status) {
        return CallError::Odd(format!("the API server sends us elsewhere ({}), and we do not follow", head.status));
    }
    let mut status: Status = serde_json::from_slice(body).unwrap_or_default();
    status.code = head.status;
    status.retry_after = head.retry_after;
    CallError::Status(status)
}

/// An event of a watch.
pub(super) enum Change<T> {
    /// It is there, now like this.
    Is(T),
    /// It is gone.
    Gone(T),
    /// Nothing changed up to this version.
    Bookmark(String),
    /// The watch cannot go on from where it is.
    Lost(Status),
}

/// Reads an event.
pub(super) fn change<T: DeserializeOwned>(line: &[u8]) -> Result<Change<T>, CallError> {
    let odd = |error: serde_json::Error| CallError::Odd(format!("an event of a watch cannot be read: {error}"));
    let EventKind { kind } = serde_json::from_slice(line).map_err(odd)?;
    fn object<T: DeserializeOwned>(line: &[u8]) -> Result<T, serde_json::Error> {
        serde_json::from_slice::<EventObject<T>>(line).map(|event| event.object)
    }
    match kind.as_str() {
        "ADDED" | "MODIFIED" => object(line).map(Change::Is).map_err(odd),
        "DELETED" => object(line).map(Change::Gone).map_err(odd),
        "BOOKMARK" => {
            let bare: super::objects::Bare = object(line).map_err(odd)?;
            Ok(Change::Bookmark(bare.metadata.resource_version))
        }
        "ERROR" => object(line).map(Change::Lost).map_err(odd),
        other => Err(CallError::Odd(format!("a watch sends the unknown event {other:?}"))),
    }
}
