//! What is read of the API's objects, and how its errors are told apart. A server of another version may say more or less: unknown
//! fields are passed over, and an empty list may be written as `null`.
//!
//! Sources: kubernetes.io, "API Conventions" (`Status`, lists, watch events) and the reference of `core/v1` and `policy`.

use std::collections::BTreeMap;
use std::time::Duration;

use beehive_cluster::blockers::Label;
use beehive_mqtt::{NodeName, Text};
use serde::{Deserialize, Deserializer};

use crate::kube::{KubeNode, Ready, Scheduling};

/// `null` for what is empty.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// `metadata` of any object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Meta {
    #[serde(deserialize_with = "or_default")]
    pub(super) name: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) namespace: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) uid: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) resource_version: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) annotations: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) owner_references: Vec<Owner>,
    pub(super) deletion_timestamp: Option<String>,
}

impl Meta {
    pub(super) fn labels(self) -> Vec<Label> {
        self.labels.into_iter().map(|(key, value)| Label { key, value }).collect()
    }

    /// Who makes it anew when it is gone.
    pub(super) fn controller(&self) -> Option<&Owner> {
        self.owner_references.iter().find(|owner| owner.controller)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Owner {
    #[serde(deserialize_with = "or_default")]
    pub(super) kind: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) controller: bool,
}

/// `metadata` of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ListMeta {
    #[serde(deserialize_with = "or_default")]
    pub(super) resource_version: String,
    #[serde(rename = "continue", deserialize_with = "or_default")]
    pub(super) proceed: String,
}

/// One page of a list.
#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
pub(super) struct List<T> {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) metadata: ListMeta,
    #[serde(default = "Vec::new", deserialize_with = "or_default")]
    pub(super) items: Vec<T>,
}

/// A ConfigMap.
#[derive(Debug, Deserialize)]
pub(super) struct ConfigMap {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) data: BTreeMap<String, String>,
}

/// An object of which only its metadata matters.
#[derive(Debug, Deserialize)]
pub(super) struct Bare {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) metadata: Meta,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Node {
    #[serde(deserialize_with = "or_default")]
    pub(super) metadata: Meta,
    #[serde(deserialize_with = "or_default")]
    spec: NodeSpec,
    #[serde(deserialize_with = "or_default")]
    status: NodeStatus,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct NodeSpec {
    #[serde(deserialize_with = "or_default")]
    unschedulable: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeStatus {
    #[serde(deserialize_with = "or_default")]
    conditions: Vec<Condition>,
    #[serde(deserialize_with = "or_default")]
    node_info: NodeInfo,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type", deserialize_with = "or_default")]
    kind: String,
    #[serde(deserialize_with = "or_default")]
    status: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeInfo {
    #[serde(rename = "bootID", deserialize_with = "or_default")]
    boot_id: String,
    #[serde(deserialize_with = "or_default")]
    kubelet_version: String,
}

/// What the condition `Ready` of a node says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// Its kubelet says that it is ready.
    Ready,
    /// Its kubelet says that it is not.
    NotReady,
    /// Nobody has heard of its kubelet, for about 40 s or ever.
    Silent,
}

impl Node {
    pub(super) fn heard(&self) -> Heard {
        let ready = self.status.conditions.iter().find(|condition| condition.kind == "Ready");
        match ready.map(|condition| condition.status.as_str()) {
            Some("True") => Heard::Ready,
            Some("False") => Heard::NotReady,
            Some(_) | None => Heard::Silent,
        }
    }

    pub(super) fn scheduling(&self) -> Scheduling {
        if self.spec.unschedulable { Scheduling::Cordoned } else { Scheduling::Open }
    }

    /// As the core knows it; none if its name is no Pi's.
    pub(super) fn as_seen(&self) -> Option<KubeNode> {
        let node: NodeName = self.metadata.name.parse().ok()?;
        let version = &self.status.node_info.kubelet_version;
        Some(KubeNode {
            node,
            ready: match self.heard() {
                Heard::Ready => Ready::Yes,
                Heard::NotReady | Heard::Silent => Ready::No,
            },
            scheduling: self.scheduling(),
            boot: self.status.node_info.boot_id.trim().parse().ok(),
            version: Text::cut(version),
        })
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pod {
    #[serde(deserialize_with = "or_default")]
    pub(super) metadata: Meta,
    #[serde(deserialize_with = "or_default")]
    spec: PodSpec,
    #[serde(deserialize_with = "or_default")]
    status: PodStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct PodSpec {
    #[serde(deserialize_with = "or_default")]
    volumes: Vec<Volume>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Volume {
    empty_dir: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct PodStatus {
    #[serde(deserialize_with = "or_default")]
    phase: String,
}

impl Pod {
    /// It runs no more and is kept for its log.
    pub(super) fn has_finished(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// It is the API's picture of a pod that the kubelet reads from a file; to delete it changes nothing.
    pub(super) fn is_mirror(&self) -> bool {
        self.metadata.annotations.contains_key("kubernetes.io/config.mirror")
    }

    pub(super) fn is_of_daemon_set(&self) -> bool {
        self.metadata.controller().is_some_and(|owner| owner.kind == "DaemonSet")
    }

    pub(super) fn has_empty_dir(&self) -> bool {
        self.spec.volumes.iter().any(|volume| volume.empty_dir.is_some())
    }

    pub(super) fn is_terminating(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }
}

/// What kind of event of a watch it is.
#[derive(Debug, Deserialize)]
pub(super) struct EventKind {
    #[serde(rename = "type")]
    pub(super) kind: String,
}

/// An event of a watch, once its kind is known.
#[derive(Debug, Deserialize)]
pub(super) struct EventObject<T> {
    pub(super) object: T,
}

/// The resources of an API group's version.
#[derive(Debug, Deserialize)]
pub(super) struct Resources {
    #[serde(default = "Vec::new", deserialize_with = "or_default")]
    pub(super) resources: Vec<Resource>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Resource {
    #[serde(deserialize_with = "or_default")]
    pub(super) name: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) version: String,
}

/// `Status`: why the API server did not do as asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    #[serde(deserialize_with = "or_default")]
    pub(super) code: u16,
    #[serde(deserialize_with = "or_default")]
    pub(super) reason: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) message: String,
    #[serde(deserialize_with = "or_default")]
    details: Details,
    /// Of the answer's head.
    #[serde(skip)]
    pub(super) retry_after: Option<Duration>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Details {
    #[serde(deserialize_with = "or_default")]
    causes: Vec<Cause>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Cause {
    #[serde(deserialize_with = "or_default")]
    reason: String,
    #[serde(deserialize_with = "or_default")]
    message: String,
}

impl Status {
    fn cause(&self, reason: &str) -> Option<&str> {
        let mut causes = self.details.causes.iter();
        causes.find(|cause| cause.reason == reason).map(|cause| cause.message.as_str())
    }

    /// The name of the disruption budget that holds a pod, empty where it is not told; none where no budget is the cause.
    ///
    /// Source: `pkg/registry/core/pod/storage/eviction.go`: cause `DisruptionBudget`, "The disruption budget NAME needs …", and with
    /// several budgets an internal error that names none.
    pub(super) fn budget(&self) -> Option<&str> {
        if let Some(message) = self.cause("DisruptionBudget") {
            let rest = message.strip_prefix("The disruption budget ");
            return Some(rest.and_then(|rest| rest.split(' ').next()).unwrap_or(""));
        }
        (self.message.contains("disruption budget") || self.message.contains("PodDisruptionBudget")).then_some("")
    }

    /// The pod's namespace is being deleted, and the pod with it.
    pub(super) fn namespace_goes(&self) -> bool {
        self.cause("NamespaceTerminating").is_some()
    }
}
