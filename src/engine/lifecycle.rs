//! The life of a real engine on one Pi, the same for every distribution of Kubernetes: what is stored before and after each
//! step, what a repeated or interrupted step finds, and what it answers. *How* each step is done is the distribution's part
//! ([`Distribution`]); one more engine is one more file with that trait in it.
//!
//! ```text
//! blank ──initialise, join──► half-joined ──► member ──reset──► half-reset ──► blank
//!   ▲                             │ reset                                        │
//!   └─────────────────────────────┴──────────────────────────────────────────────┘
//! ```
//! The state is stored before anything is changed, so that after a power cut, or when the step's future was dropped, the next
//! step finds a half-joined node as such: the same step begins again, a reset removes everything, every other is refused with
//! `half-done`. A member has, where a step on it was cut short (`work`), what that was.
//!
//! After a boot systemd has started the engine of a member, unless it was stopped in this very boot; that is remembered with
//! the boot's id.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use beehive_cluster::kube::JoinCredential;
use beehive_mqtt::node::{EngineRun, EngineState, Role};
use beehive_mqtt::{ClusterId, Text};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::site::{Failure, Files, STATE_DIR, Site, TEXT_BYTES, lock, pause};
use super::token::BootstrapToken;
use super::tool::ToolCall;
use super::{Engine, EngineDone, EngineError, EngineWork, Half, KubeAccess};

/// The document in the engine's store.
const RECORD: &str = "engine";

/// The ConfigMap in `kube-system` that says which cluster this is, for whoever speaks to its API server.
pub const NAME_OF_CLUSTER: &str = "beehive";

/// The port of every API server here.
const API_PORT: u16 = 6443;

/// Between two looks whether something is ready: what is ours of a join may cost a second.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// One question to an API server on this machine; it answers within milliseconds or is not up.
pub(super) const ONE_QUESTION: Duration = Duration::from_secs(30);

/// An API server that has just begun to answer may refuse for a while: it fills its own tables first.
const NAME_WITHIN: Duration = Duration::from_secs(120);

/// A set of add-ons: their controllers' webhooks and kinds are there some time after they were applied. The command that waits
/// for it has five minutes.
const ADD_ONS_WITHIN: Duration = Duration::from_secs(270);
const ADD_ONS_AGAIN: Duration = Duration::from_secs(10);
/// More is no set of add-ons for a crew.
const MAX_ADD_ONS: usize = 64;

/// All images together: the command that waits for the join has five minutes. What is late is fetched when it is wanted.
const PRE_PULL_WITHIN: Duration = Duration::from_secs(120);

/// A Pi's part in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ClusterPart {
    ControlPlane,
    Worker,
}

/// A Pi's place in a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Membership {
    pub(super) cluster: ClusterId,
    pub(super) version: Text<32>,
    pub(super) part: ClusterPart,
}

impl Membership {
    /// The version as text.
    pub(super) fn version(&self) -> &str {
        self.version.as_str()
    }
}

/// What is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// Which distribution; an engine does not touch what another made.
    kind: String,
    state: Kept,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum Kept {
    /// Nothing there.
    Blank,
    /// A step towards this membership began and did not end.
    HalfJoined { member: Membership },
    /// In a cluster.
    Member {
        member: Membership,
        /// The boot in which the engine was stopped, if it was.
        stopped_in: Option<String>,
        /// A step that began and did not end.
        work: Option<Interrupted>,
    },
    /// A reset began and did not end.
    HalfReset,
}

/// A step on a member that began and did not end; the same step done again ends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Interrupted {
    Snapshot,
    Restore,
    Upgrade(Text<32>),
}

/// How a node gets in.
pub(super) struct Entry {
    /// Host and port of the API server.
    pub(super) server: String,
    pub(super) token: BootstrapToken,
}

/// Whether a step is done for the first time, or after one that was cut short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    First,
    Again,
}

type Step<'a, T> = BoxFuture<'a, Result<T, Failure>>;

/// A distribution of Kubernetes: how each step is done. Every step may be repeated, and cut short at any point.
pub(super) trait Distribution: Send + Sync {
    /// Its name in the configuration.
    fn kind(&self) -> &'static str;

    /// Folders and files of it that are there; none on a Pi that it never ran on.
    fn left_overs(&self, files: &Files) -> Vec<String>;

    /// Which version a wish for `wanted` (empty: the one at hand) means here. Refuses what cannot work; changes nothing.
    fn resolve<'a>(&'a self, site: &'a Site, wanted: &'a str) -> Step<'a, Text<32>>;

    /// Starts a cluster with this Pi as its control plane, and waits until its API server answers.
    fn form<'a>(&'a self, site: &'a Site, member: &'a Membership, attempt: Attempt) -> Step<'a, ()>;

    /// Lets this Pi join.
    fn enter<'a>(&'a self, site: &'a Site, member: &'a Membership, entry: &'a Entry, attempt: Attempt) -> Step<'a, ()>;

    /// Whether the engine runs, by systemd's word.
    fn runs<'a>(&'a self, site: &'a Site, part: ClusterPart) -> Step<'a, EngineRun>;

    /// Starts it, and waits until it does its work.
    fn start<'a>(&'a self, site: &'a Site, part: ClusterPart) -> Step<'a, ()>;

    /// Stops it with all its containers, so that a power-off need not wait for them.
    fn stop<'a>(&'a self, site: &'a Site, part: ClusterPart) -> Step<'a, ()>;

    /// Removes everything that it left; says what it found.
    fn reset<'a>(&'a self, site: &'a Site) -> Step<'a, Vec<String>>;

    /// Copies the control plane's state into the folder `into`, which is there and empty.
    fn snapshot<'a>(&'a self, site: &'a Site, into: String) -> Step<'a, ()>;

    /// Puts back what [`Self::snapshot`] copied to `from`, and lets it run.
    fn restore<'a>(&'a self, site: &'a Site, from: String) -> Step<'a, ()>;

    /// Whether a member may go to that version, before anything is changed.
    fn may_upgrade(&self, member: &Membership, to: &str) -> Result<(), Failure>;

    /// Replaces what is installed, and lets it run.
    fn upgrade<'a>(&'a self, site: &'a Site, member: &'a Membership, to: &'a str) -> Step<'a, ()>;

    /// The certificate of the cluster's authority on its control plane.
    fn authority(&self) -> &'static str;

    /// The administrator's kubeconfig.
    fn kubeconfig(&self) -> &'static str;

    /// `kubectl` with these words, as the administrator.
    fn kubectl(&self, site: &Site, words: &[&str]) -> ToolCall;

    /// Fetches an image.
    fn pull(&self, image: &str) -> ToolCall;
}

/// A real engine. Clones share it.
#[derive(Clone)]
pub(super) struct RealEngine(Arc<Inner>);

struct Inner {
    site: Site,
    how: Box<dyn Distribution>,
    /// One step at a time, in the order in which they were asked for.
    turn: tokio::sync::Mutex<()>,
    known: Mutex<Kept>,
    /// This boot.
    boot: String,
}

impl RealEngine {
    pub(super) fn open(site: Site, how: Box<dyn Distribution>) -> Result<Self, EngineError> {
        let blank = |kind: &str| Record { kind: kind.to_owned(), state: Kept::Blank };
        let record = site
            .store
            .load::<Record>(RECORD)
            .map_err(|error| clean(Failure::from(error)))?
            .unwrap_or_else(|| blank(how.kind()));
        if record.state != Kept::Blank && record.kind != how.kind() {
            let (found, kind) = (&record.kind, how.kind());
            return Err(clean(Failure::new(
                "other-engine",
                format!(
                    "this Pi is in a cluster by the engine {found:?}, and kind in [engine] is {kind:?}; write kind = \
                     {found:?}, reset the node, then change it"
                ),
            )));
        }
        site.tidy().map_err(clean)?;
        let boot = site.boot_id().map_err(clean)?;
        Ok(Self(Arc::new(Inner {
            site,
            how,
            turn: tokio::sync::Mutex::new(()),
            known: Mutex::new(record.state),
            boot,
        })))
    }
}

impl Engine for RealEngine {
    fn kind(&self) -> &'static str {
        self.0.how.kind()
    }

    fn perform(&self, work: EngineWork) -> BoxFuture<'static, Result<EngineDone, EngineError>> {
        let inner = Arc::clone(&self.0);
        async move {
            let _turn = inner.turn.lock().await;
            // those of a step that was dropped
            inner.site.forget_secrets();
            let done = inner.perform(work).await;
            inner.site.forget_secrets();
            done
        }
        .boxed()
    }

    fn state(&self) -> EngineState {
        let known = lock(&self.0.known);
        match &*known {
            Kept::Blank | Kept::HalfReset => {
                EngineState { cluster: None, run: EngineRun::Stopped, version: Text::new() }
            }
            Kept::HalfJoined { member } => EngineState {
                cluster: Some(member.cluster.clone()),
                run: EngineRun::Stopped,
                version: member.version.clone(),
            },
            Kept::Member { member, stopped_in, work: _ } => EngineState {
                cluster: Some(member.cluster.clone()),
                run: match stopped_in {
                    Some(boot) if *boot == self.0.boot => EngineRun::Stopped,
                    Some(_) | None => EngineRun::Running,
                },
                version: member.version.clone(),
            },
        }
    }

    fn access(&self) -> BoxFuture<'static, Result<Option<KubeAccess>, EngineError>> {
        let inner = Arc::clone(&self.0);
        async move {
            let path = inner.how.kubeconfig();
            match inner.known() {
                Kept::Member { member: Membership { part: ClusterPart::ControlPlane, .. }, .. } => {}
                Kept::Blank | Kept::HalfReset | Kept::HalfJoined { .. } | Kept::Member { .. } => return Ok(None),
            }
            let bytes = inner.site.disk(move |files| files.read(path, TEXT_BYTES)).await.map_err(clean)?;
            let text = bytes.and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
            text.map(|text| Some(KubeAccess::new(Zeroizing::new(text)))).ok_or_else(|| {
                let what = "is missing or no text, though this Pi has the control plane";
                clean(Failure::new("no-kubeconfig", format!("{path} {what}; reset it, or start its engine")))
            })
        }
        .boxed()
    }

    fn look(&self) -> BoxFuture<'static, Result<EngineState, EngineError>> {
        let engine = self.clone();
        async move {
            let _turn = engine.0.turn.lock().await;
            engine.0.look().await.map_err(clean)?;
            Ok(engine.state())
        }
        .boxed()
    }

    fn restore(&self, generation: Option<u32>) -> BoxFuture<'static, Result<EngineDone, EngineError>> {
        let inner = Arc::clone(&self.0);
        async move {
            let _turn = inner.turn.lock().await;
            inner.site.forget_secrets();
            inner.restore(generation).await
        }
        .boxed()
    }
}

fn clean(failure: Failure) -> EngineError {
    EngineError { code: failure.code, reason: failure.reason, half: Half::Clean }
}

fn half(failure: Failure) -> EngineError {
    EngineError { code: failure.code, reason: failure.reason, half: Half::HalfDone }
}

fn refuse(code: &'static str, reason: impl Into<String>) -> EngineError {
    clean(Failure::new(code, reason))
}

fn done(detail: impl Into<String>) -> Result<EngineDone, EngineError> {
    Ok(EngineDone { code: "done", detail: detail.into() })
}

fn unchanged(detail: impl Into<String>) -> Result<EngineDone, EngineError> {
    Ok(EngineDone { code: "unchanged", detail: detail.into() })
}

impl Inner {
    fn known(&self) -> Kept {
        lock(&self.known).clone()
    }

    /// Stores, then shows: what is known is never ahead of what is on the card.
    async fn keep(&self, state: Kept) -> Result<(), Failure> {
        let record = Record { kind: self.how.kind().to_owned(), state };
        let store = self.site.store.clone();
        let record = self
            .site
            .disk(move |_| {
                store.save(RECORD, &record)?;
                Ok(record)
            })
            .await?;
        *lock(&self.known) = record.state;
        Ok(())
    }

    /// A member without unfinished work, running or stopped in this boot.
    fn member(&self, member: Membership, run: EngineRun, work: Option<Interrupted>) -> Kept {
        let stopped_in = match run {
            EngineRun::Stopped => Some(self.boot.clone()),
            EngineRun::Running => None,
        };
        Kept::Member { member, stopped_in, work }
    }

    async fn perform(&self, work: EngineWork) -> Result<EngineDone, EngineError> {
        match work {
            EngineWork::Initialise { cluster, version } => {
                if self.site.role != Role::Master {
                    return Err(refuse("not-a-master", "this Pi is no master: only a master starts a cluster"));
                }
                self.become_member(cluster, ClusterPart::ControlPlane, version.as_str(), None).await
            }
            EngineWork::Join { cluster, server, version, credential } => {
                let entry = entry(server.as_str(), &credential)?;
                self.site.hide(&entry.token.secret);
                self.become_member(cluster, ClusterPart::Worker, version.as_str(), Some(entry)).await
            }
            EngineWork::Stop => self.stop().await,
            EngineWork::Start => self.start().await,
            EngineWork::Reset => self.reset().await,
            EngineWork::Snapshot => self.snapshot().await,
            EngineWork::AddOns => self.add_ons().await,
            EngineWork::Upgrade { version } => self.upgrade(version).await,
        }
    }

    /// What a worker or a half-done node answers to work for a control plane.
    fn control_plane(&self) -> Result<(Membership, Option<Interrupted>), EngineError> {
        match self.known() {
            Kept::Member { member, work, .. } => match member.part {
                ClusterPart::ControlPlane => Ok((member, work)),
                ClusterPart::Worker => Err(refuse("not-a-master", "the control plane is not on this Pi")),
            },
            Kept::Blank => Err(no_cluster()),
            Kept::HalfJoined { .. } | Kept::HalfReset => Err(self.half_done()),
        }
    }

    fn half_done(&self) -> EngineError {
        let what = match self.known() {
            Kept::HalfJoined { member } => format!("a start in the cluster {} was cut short", member.cluster),
            Kept::HalfReset => "a reset was cut short".to_owned(),
            Kept::Blank | Kept::Member { .. } => "a step was cut short".to_owned(),
        };
        half(Failure::new("half-done", format!("{what}; reset this node")))
    }

    async fn become_member(
        &self,
        cluster: ClusterId,
        part: ClusterPart,
        wanted: &str,
        entry: Option<Entry>,
    ) -> Result<EngineDone, EngineError> {
        let attempt = match self.known() {
            Kept::Member { member, .. } if member.cluster == cluster && member.part == part => {
                return self.still_member(member).await;
            }
            Kept::Member { member, .. } => {
                return Err(refuse(
                    "other-cluster",
                    format!("this Pi is in the cluster {}; reset it first", member.cluster),
                ));
            }
            Kept::HalfJoined { member } if member.cluster == cluster && member.part == part => Attempt::Again,
            Kept::HalfJoined { .. } | Kept::HalfReset => return Err(self.half_done()),
            Kept::Blank => {
                let found = self.left_overs().await.map_err(clean)?;
                if let Some(first) = found.first() {
                    let (more, kind) = (found.len() - 1, self.how.kind());
                    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                    let reason = format!("reset this node: {first}{more} of an earlier cluster by {kind} is there");
                    return Err(refuse("left-overs", reason));
                }
                Attempt::First
            }
        };
        let wanted = if wanted.is_empty() { self.site.version.as_str() } else { wanted };
        // what is refused here has changed nothing in this attempt; a half-done start stays one
        let as_it_was = match attempt {
            Attempt::First => clean,
            Attempt::Again => half,
        };
        let version = self.version(wanted).await.map_err(as_it_was)?;
        let server = entry.as_ref().map(|entry| entry.server.as_str());
        let warnings = self.site.preflight(self.how.kind(), version.as_str(), server).await.map_err(as_it_was)?;
        let warnings = if warnings.is_empty() { warnings } else { format!("; {warnings}") };
        let member = Membership { cluster, version, part };
        self.keep(Kept::HalfJoined { member: member.clone() }).await.map_err(as_it_was)?;
        match &entry {
            None => {
                self.how.form(&self.site, &member, attempt).await.map_err(half)?;
                self.name_cluster(&member.cluster).await.map_err(half)?;
            }
            Some(entry) => self.how.enter(&self.site, &member, entry, attempt).await.map_err(half)?,
        }
        self.keep(self.member(member.clone(), EngineRun::Running, None)).await.map_err(half)?;
        let pulled = self.pre_pull().await;
        let what = match part {
            ClusterPart::ControlPlane => "started",
            ClusterPart::Worker => "joined",
        };
        let (cluster, version) = (&member.cluster, &member.version);
        done(match attempt {
            Attempt::First => format!("{what} the cluster {cluster} with {version}{pulled}{warnings}"),
            Attempt::Again => {
                format!(
                    "found a half-done start in the cluster {cluster} and did it again with {version}{pulled}{warnings}"
                )
            }
        })
    }

    async fn version(&self, wanted: &str) -> Result<Text<32>, Failure> {
        if !wanted.is_empty() && !crate::config::engine::is_version(wanted) {
            let hint = "write it as its releases are named, such as v1.30.2+k3s1";
            return Err(Failure::new("bad-version", format!("{wanted:?} is no version; {hint}")));
        }
        self.how.resolve(&self.site, wanted).await
    }

    async fn left_overs(&self) -> Result<Vec<String>, Failure> {
        // the list is short and only asks for names
        let found = self.site.left_overs(&*self.how);
        Ok(found)
    }

    /// The same start or join once more.
    async fn still_member(&self, member: Membership) -> Result<EngineDone, EngineError> {
        let cluster = member.cluster.clone();
        let part = member.part;
        let run = self.look().await.map_err(clean)?;
        if run == EngineRun::Stopped {
            self.start().await?;
        }
        let named = match part {
            ClusterPart::ControlPlane => self.name_cluster(&cluster).await.map_err(clean)?,
            ClusterPart::Worker => Named::Already,
        };
        match (run, named) {
            (EngineRun::Running, Named::Already) => unchanged(format!("this Pi is in the cluster {cluster} already")),
            (EngineRun::Stopped, _) => done(format!("this Pi is in the cluster {cluster} already; started its engine")),
            (EngineRun::Running, Named::Now) => {
                done(format!("this Pi is in the cluster {cluster} already; named it there"))
            }
        }
    }

    /// Asks systemd, and remembers.
    async fn look(&self) -> Result<EngineRun, Failure> {
        let Kept::Member { member, stopped_in, work } = self.known() else { return Ok(EngineRun::Stopped) };
        let run = self.how.runs(&self.site, member.part).await?;
        let believed = if stopped_in.as_ref() == Some(&self.boot) { EngineRun::Stopped } else { EngineRun::Running };
        if run != believed {
            self.keep(self.member(member, run, work)).await?;
        }
        Ok(run)
    }

    async fn stop(&self) -> Result<EngineDone, EngineError> {
        let (member, stopped_in, work) = match self.known() {
            Kept::Member { member, stopped_in, work } => (member, stopped_in, work),
            Kept::HalfJoined { member } => {
                // it may run all the same, and a power-off would wait for its containers
                self.how.stop(&self.site, member.part).await.map_err(half)?;
                return done(format!("stopped what a half-done start in the cluster {} left", member.cluster));
            }
            Kept::Blank | Kept::HalfReset => return unchanged("no engine runs: this Pi is in no cluster"),
        };
        let run = self.how.runs(&self.site, member.part).await.map_err(clean)?;
        if run == EngineRun::Stopped && stopped_in.as_ref() == Some(&self.boot) {
            return unchanged("the engine is stopped already");
        }
        // containers may be left of one that is stopped, so this is done in any case
        self.how.stop(&self.site, member.part).await.map_err(clean)?;
        self.keep(self.member(member, EngineRun::Stopped, work)).await.map_err(clean)?;
        done("stopped the engine")
    }

    async fn start(&self) -> Result<EngineDone, EngineError> {
        let (member, stopped_in, work) = match self.known() {
            Kept::Member { member, stopped_in, work } => (member, stopped_in, work),
            Kept::Blank => return Err(no_cluster()),
            Kept::HalfJoined { .. } | Kept::HalfReset => return Err(self.half_done()),
        };
        let run = self.how.runs(&self.site, member.part).await.map_err(clean)?;
        if run == EngineRun::Running && stopped_in.as_ref() != Some(&self.boot) {
            return unchanged("the engine runs already");
        }
        self.how.start(&self.site, member.part).await.map_err(clean)?;
        let unfinished = match &work {
            None => "",
            Some(Interrupted::Snapshot) => "; a snapshot was cut short",
            Some(Interrupted::Restore) => "; a restore was cut short: do it again",
            Some(Interrupted::Upgrade(_)) => "; an upgrade was cut short: do it again",
        };
        self.keep(self.member(member, EngineRun::Running, work)).await.map_err(clean)?;
        done(format!("started the engine{unfinished}"))
    }

    async fn reset(&self) -> Result<EngineDone, EngineError> {
        let found = match self.known() {
            Kept::Blank => {
                let found = self.left_overs().await.map_err(clean)?;
                if found.is_empty() {
                    return unchanged("nothing is left of a cluster");
                }
                format!("found {} of an earlier cluster", found.join(", "))
            }
            Kept::HalfJoined { member } => format!("found a half-done start in the cluster {}", member.cluster),
            Kept::HalfReset => "found a reset that was cut short".to_owned(),
            Kept::Member { member, .. } => format!("left the cluster {}", member.cluster),
        };
        self.keep(Kept::HalfReset).await.map_err(clean)?;
        let removed = self.how.reset(&self.site).await.map_err(half)?;
        let left = self.left_overs().await.map_err(half)?;
        if let Some(first) = left.first() {
            return Err(half(Failure::new(
                "left-overs",
                format!("{first} is still there; see the log, then reset again"),
            )));
        }
        self.keep(Kept::Blank).await.map_err(half)?;
        let removed = if removed.is_empty() { "nothing".to_owned() } else { removed.join(", ") };
        done(format!("{found}; removed {removed}"))
    }

    /// The images that the configuration lists. What cannot be fetched now is fetched when it is wanted: no reason to fail.
    async fn pre_pull(&self) -> String {
        let (mut fetched, mut missing) = (0, 0);
        let until = Instant::now() + PRE_PULL_WITHIN;
        for image in &self.site.settings.pre_pull {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                missing += 1;
                continue;
            }
            match self.site.must("fetching an image", self.how.pull(image).within(left)).await {
                Ok(_) => fetched += 1,
                Err(_) => missing += 1,
            }
        }
        match (fetched, missing) {
            (0, 0) => String::new(),
            (fetched, 0) => format!("; fetched {fetched} images"),
            (fetched, missing) => format!("; fetched {fetched} images, {missing} could not be: see the log"),
        }
    }

    /// Writes the cluster's id into it, so that whoever speaks to the API server knows which it is.
    async fn name_cluster(&self, cluster: &ClusterId) -> Result<Named, Failure> {
        let until = Instant::now() + NAME_WITHIN;
        let question = [
            "get",
            "configmap",
            NAME_OF_CLUSTER,
            "--namespace",
            "kube-system",
            "--ignore-not-found",
            "--output",
            "jsonpath={.data.cluster}",
        ];
        loop {
            let asked = self.site.run(self.how.kubectl(&self.site, &question).within(ONE_QUESTION)).await?;
            let mut last = asked.clone();
            if asked.succeeded() {
                match asked.stdout.trim() {
                    "" => {
                        let manifest = serde_json::json!({
                            "apiVersion": "v1", "kind": "ConfigMap",
                            "metadata": {"name": NAME_OF_CLUSTER, "namespace": "kube-system"},
                            "data": {"cluster": cluster.as_str()},
                        });
                        let input = Zeroizing::new(manifest.to_string().into_bytes());
                        let apply = self.how.kubectl(&self.site, &["apply", "--filename", "-"]).within(ONE_QUESTION);
                        last = self.site.run(apply.reading(input)).await?;
                        if last.succeeded() {
                            return Ok(Named::Now);
                        }
                    }
                    found if found == cluster.as_str() => return Ok(Named::Already),
                    found => {
                        let reason = format!(
                            "the API server here says that its cluster is {found}, not {cluster}; reset this node"
                        );
                        return Err(Failure::new("other-cluster", reason));
                    }
                }
            }
            if Instant::now() >= until {
                return Err(self.site.failed("naming the cluster", "kubectl", &last));
            }
            pause(LOOK_EVERY).await;
        }
    }

    /// Applies every manifest of the folder, in the order of the names. A kind or webhook that an earlier one brings is there
    /// only after a while, so what fails for that is tried again.
    async fn add_ons(&self) -> Result<EngineDone, EngineError> {
        let (member, _) = self.control_plane()?;
        if self.look().await.map_err(clean)? == EngineRun::Stopped {
            return Err(not_running(&member));
        }
        let folder = self.site.settings.add_ons.display().to_string();
        let place = folder.clone();
        let names = self.site.disk(move |files| files.list(&place)).await.map_err(clean)?;
        let names: Vec<String> =
            names.into_iter().filter(|name| [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end))).collect();
        if names.is_empty() {
            return unchanged(format!("there are no add-ons in {folder}"));
        }
        if names.len() > MAX_ADD_ONS {
            let reason =
                format!("{folder} has {} manifests, more than {MAX_ADD_ONS}; put some into one file", names.len());
            return Err(refuse("add-ons", reason));
        }
        let until = Instant::now() + ADD_ONS_WITHIN;
        let mut changed = 0;
        for name in &names {
            changed += usize::from(self.add_on(&folder, name, until).await.map_err(half)?);
        }
        match changed {
            0 => unchanged(format!("the add-ons are applied already: {}", names.join(", "))),
            _ => done(format!("applied the add-ons {}", names.join(", "))),
        }
    }

    /// Whether it changed something.
    async fn add_on(&self, folder: &str, name: &str, until: Instant) -> Result<bool, Failure> {
        let path = format!("{folder}/{name}");
        let manifest = self.site.disk(move |files| files.read(path, TEXT_BYTES)).await?.unwrap_or_default();
        loop {
            // a manifest may hold secrets: it goes in by standard input
            let left = until.saturating_duration_since(Instant::now()).max(ONE_QUESTION);
            let apply = self.how.kubectl(&self.site, &["apply", "--filename", "-"]).within(left);
            let ran = self.site.run(apply.reading(manifest.clone())).await?;
            if ran.succeeded() {
                return Ok(ran.stdout.lines().any(|line| !line.trim_end().ends_with(" unchanged")));
            }
            let early = ["no matches for kind", "failed calling webhook", "connection refused"];
            if Instant::now() >= until || !early.iter().any(|words| ran.stderr.contains(words)) {
                let mut failure = self.site.failed(&format!("applying the add-on {name}"), "kubectl", &ran);
                failure.code = "add-ons";
                return Err(failure);
            }
            pause(ADD_ONS_AGAIN).await;
        }
    }

    async fn snapshot(&self) -> Result<EngineDone, EngineError> {
        let (member, work) = self.control_plane()?;
        if let Some(Interrupted::Restore | Interrupted::Upgrade(_)) = work {
            return Err(refuse("unfinished", "a restore or an upgrade was cut short; do it again before a snapshot"));
        }
        let run = self.look().await.map_err(clean)?;
        if run == EngineRun::Stopped && work.is_none() {
            return Err(not_running(&member));
        }
        self.keep(self.member(member.clone(), run, Some(Interrupted::Snapshot))).await.map_err(clean)?;
        let taken = super::snapshot::take(&self.site, &*self.how, &member).await;
        // whatever came of it, the control plane runs again
        if self.how.runs(&self.site, member.part).await.map_err(half)? == EngineRun::Stopped {
            self.how.start(&self.site, member.part).await.map_err(half)?;
        }
        self.keep(self.member(member, EngineRun::Running, None)).await.map_err(half)?;
        let (generation, bytes) = taken.map_err(clean)?;
        done(format!("kept a copy of the cluster's state as number {generation}, {} kB", bytes / 1000))
    }

    async fn restore(&self, generation: Option<u32>) -> Result<EngineDone, EngineError> {
        let (member, _) = self.control_plane()?;
        let folder = super::snapshot::find(&self.site, &*self.how, &member, generation).await.map_err(clean)?;
        let run = self.look().await.map_err(clean)?;
        self.keep(self.member(member.clone(), run, Some(Interrupted::Restore))).await.map_err(clean)?;
        self.how.restore(&self.site, folder.clone()).await.map_err(half)?;
        self.keep(self.member(member, EngineRun::Running, None)).await.map_err(half)?;
        done(format!("put back the cluster's state from {folder}"))
    }

    async fn upgrade(&self, to: Text<32>) -> Result<EngineDone, EngineError> {
        let (member, work) = match self.known() {
            Kept::Member { member, work, .. } => (member, work),
            Kept::Blank => return Err(no_cluster()),
            Kept::HalfJoined { .. } | Kept::HalfReset => return Err(self.half_done()),
        };
        if to.is_empty() {
            return Err(refuse("bad-version", "an upgrade names no version"));
        }
        let to = self.version(to.as_str()).await.map_err(clean)?;
        let run = self.look().await.map_err(clean)?;
        if member.version == to && work.is_none() && run == EngineRun::Running {
            return unchanged(format!("the engine runs {to} already"));
        }
        self.how.may_upgrade(&member, to.as_str()).map_err(clean)?;
        self.keep(self.member(member.clone(), run, Some(Interrupted::Upgrade(to.clone())))).await.map_err(clean)?;
        self.how.upgrade(&self.site, &member, to.as_str()).await.map_err(half)?;
        let from = member.version.clone();
        self.keep(self.member(Membership { version: to.clone(), ..member }, EngineRun::Running, None))
            .await
            .map_err(half)?;
        done(format!("runs {to} now, after {from}"))
    }
}

/// Whether the cluster had its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    Already,
    Now,
}

fn no_cluster() -> EngineError {
    refuse("no-cluster", "this Pi is in no cluster; let it join one first")
}

fn not_running(member: &Membership) -> EngineError {
    refuse("not-running", format!("the engine of the cluster {} does not run; start it first", member.cluster))
}

/// What a command to join says, if it is of the right form.
fn entry(server: &str, credential: &JoinCredential) -> Result<Entry, EngineError> {
    let server = api_server(server).ok_or_else(|| {
        refuse(
            "bad-server",
            format!("{server:?} is no address of an API server; correct server in [cluster] of the master"),
        )
    })?;
    let token = BootstrapToken::parse(credential).ok_or_else(|| {
        refuse("bad-credential", "the join credential is none of a real cluster, or is damaged; ask for a new one")
    })?;
    Ok(Entry { server, token })
}

/// Host and port; without a port it is that of every API server.
fn api_server(server: &str) -> Option<String> {
    if server.parse::<std::net::Ipv6Addr>().is_ok() {
        return Some(format!("[{server}]:{API_PORT}"));
    }
    let (host, port) = match server.rsplit_once(':') {
        Some((host, port)) => (host, port.parse::<u16>().ok().filter(|port| *port > 0)?),
        None => (server, API_PORT),
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let good = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => crate::config::engine::is_host(host),
    };
    good.then(|| format!("{host}:{port}"))
}

/// Asks the API server on this Pi until it says that it is ready.
pub(super) async fn wait_ready(site: &Site, how: &dyn Distribution, within: Duration) -> Result<(), Failure> {
    let until = Instant::now() + within;
    loop {
        let asked = site.run(how.kubectl(site, &["get", "--raw", "/readyz"]).within(ONE_QUESTION)).await;
        match asked {
            Ok(ran) if ran.succeeded() => return Ok(()),
            Ok(ran) if Instant::now() >= until => {
                let said = site.failed("waiting for the API server", "kubectl", &ran);
                let reason =
                    format!("the API server did not become ready within {} s; {}", within.as_secs(), said.reason);
                return Err(Failure::new("not-ready", reason));
            }
            Err(error) if error.code == "no-tool" || Instant::now() >= until => return Err(error),
            Ok(_) | Err(_) => pause(LOOK_EVERY).await,
        }
    }
}

impl Site {
    /// What is left of the engine `how`.
    fn left_overs(&self, how: &dyn Distribution) -> Vec<String> {
        self.look_at(|files| how.left_overs(files))
    }

    /// This boot, by the kernel's word.
    fn boot_id(&self) -> Result<String, Failure> {
        let id = self.look_at(|files| files.text("/proc/sys/kernel/random/boot_id"))?.trim().to_owned();
        if id.is_empty() {
            return Err(Failure::new("no-boot-id", "the kernel names no boot; is /proc mounted?"));
        }
        Ok(id)
    }
}

/// Where the copies of the cluster's state lie.
pub(super) fn snapshots_dir() -> String {
    format!("{STATE_DIR}/snapshots")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_server_is_a_host_or_an_address_with_or_without_its_port() {
        for (given, server) in [
            ("10.0.0.1", "10.0.0.1:6443"),
            ("10.0.0.1:16443", "10.0.0.1:16443"),
            ("c-001.local", "c-001.local:6443"),
            ("fd00::1", "[fd00::1]:6443"),
            ("[fd00::1]:7", "[fd00::1]:7"),
        ] {
            assert_eq!(api_server(given).as_deref(), Some(server));
        }
        for bad in ["", ":6443", "a b", "a:0", "a:70000", "a:b", "https://a", "[a]:1", "a/b", "-a", "a\n", "a@b", "a,b"]
        {
            assert_eq!(api_server(bad), None, "{bad:?}");
        }
    }
}
