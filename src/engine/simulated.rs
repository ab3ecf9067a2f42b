//! An engine without Kubernetes: the same steps, answers, delays and half-done ends as a real one, and a file instead of
//! containers.
//!
//! What it knows lies in the store's file [`FILE`] and survives a power cut at any point: before a step that changes
//! something it stores that the step has begun, so that the next start finds a half-done join as a half-done join. After a
//! boot, an engine that is in a cluster runs, as systemd would have started a real one.
//!
//! On the master it starts and stops the [`ControlPlane`], which the simulated Kubernetes serves. The other Pis cannot
//! reach that file, as they could not reach a data store; so [`EngineWork::Join`] checks the credential's form and that it
//! names this cluster and this node, and whether it was minted at all is checked where a real API server would check it:
//! when the node registers ([`crate::kube::simulated`]).

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use beehive_mqtt::node::{EngineRun, EngineState};
use beehive_mqtt::{ClusterId, NodeName, Text};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::{Engine, EngineDone, EngineError, EngineVerb, EngineWork, Half};
use crate::kube::simulated::{ControlPlane, PlaneError, SimulatedCredential};
use crate::store::{Store, StoreError};

/// The file in the node's store.
pub const FILE: &str = "engine-simulated";

/// The version that is "installed" where the configuration names none.
pub const INSTALLED_VERSION: &str = "simulated-1";

/// How a step is made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails before it changes anything.
    Refuse,
    /// It fails in the middle and leaves something behind.
    HalfWay,
    /// It never ends, as a step on a broken network may; its caller's deadline ends it.
    Hang,
}

/// A Pi's place in a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Membership {
    cluster: ClusterId,
    version: Text<32>,
    part: ClusterPart,
}

/// A Pi's part in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ClusterPart {
    ControlPlane,
    Worker,
}

/// What is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum Kept {
    /// Nothing there.
    Blank,
    /// A step towards this membership began and did not end.
    HalfJoined(Membership),
    /// In a cluster.
    Member(Membership),
    /// A reset began and did not end.
    HalfReset,
}

/// The simulated engine of one Pi. Clones share it.
#[derive(Clone)]
pub struct SimulatedEngine {
    inner: Arc<Inner>,
}

struct Inner {
    node: NodeName,
    store: Store,
    control_plane: Option<ControlPlane>,
    settings: Settings,
    /// One step at a time, in the order in which they were asked for.
    turn: tokio::sync::Mutex<()>,
    known: Mutex<Known>,
    fault: Mutex<Option<(EngineVerb, Fault)>>,
}

struct Known {
    kept: Kept,
    run: EngineRun,
}

/// How the simulated engine behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long each step takes, in milliseconds.
    pub step_ms: u64,
    /// What each step runs, if anything: a program, without arguments, with an empty environment. While it runs the step
    /// is half done; if it fails, so does the step. It makes a step as heavy as one likes.
    pub program: Option<PathBuf>,
    /// The version that is installed; what an empty version in a command means.
    pub installed: Text<32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { step_ms: 0, program: None, installed: Text::cut(INSTALLED_VERSION) }
    }
}

impl SimulatedEngine {
    /// The engine of `node` with what `store` holds of it, as after a boot. A master hands in its `control_plane`.
    ///
    /// # Errors
    /// If the stored state cannot be read.
    pub fn new(
        node: NodeName,
        store: Store,
        control_plane: Option<ControlPlane>,
        settings: Settings,
    ) -> Result<Self, EngineError> {
        let kept = store.load::<Kept>(FILE).map_err(|error| disk(&error, Half::Clean))?.unwrap_or(Kept::Blank);
        let run = match &kept {
            Kept::Member(_) => EngineRun::Running,
            Kept::Blank | Kept::HalfJoined(_) | Kept::HalfReset => EngineRun::Stopped,
        };
        if let (Some(plane), Kept::Member(member)) = (&control_plane, &kept) {
            match member.part {
                ClusterPart::ControlPlane => {
                    plane
                        .start(&node, &member.cluster, &member.version)
                        .map_err(|error| from_plane(error, Half::Clean))?;
                }
                ClusterPart::Worker => {}
            }
        }
        Ok(Self {
            inner: Arc::new(Inner {
                node,
                store,
                control_plane,
                settings,
                turn: tokio::sync::Mutex::new(()),
                known: Mutex::new(Known { kept, run }),
                fault: Mutex::new(None),
            }),
        })
    }

    /// Makes the next step of that kind fail, once.
    pub fn fail_next(&self, verb: EngineVerb, fault: Fault) {
        *lock(&self.inner.fault) = Some((verb, fault));
    }
}

impl Engine for SimulatedEngine {
    fn kind(&self) -> &'static str {
        "simulated"
    }

    fn perform(&self, work: EngineWork) -> BoxFuture<'static, Result<EngineDone, EngineError>> {
        let inner = Arc::clone(&self.inner);
        async move {
            let _turn = inner.turn.lock().await;
            inner.perform(work).await
        }
        .boxed()
    }

    fn state(&self) -> EngineState {
        let known = lock(&self.inner.known);
        match &known.kept {
            Kept::Blank | Kept::HalfReset => EngineState { cluster: None, run: known.run, version: Text::new() },
            Kept::HalfJoined(member) | Kept::Member(member) => {
                EngineState { cluster: Some(member.cluster.clone()), run: known.run, version: member.version.clone() }
            }
        }
    }
}

/// What a step does, decided from what is known before anything is changed.
enum Step {
    /// Nothing to do; the detail says what was found.
    Unchanged(String),
    /// Become this member; the detail says what was found.
    Become(Membership, String),
    /// Run what is there.
    Run(Membership),
    /// Stop what is there.
    Halt(Membership),
    /// Run what is there at this version instead.
    Replace(Membership),
    /// Remove all.
    Remove(String),
    /// Copy the control plane's state.
    Copy,
    /// Apply the add-ons.
    Apply,
}

impl Inner {
    async fn perform(self: &Arc<Self>, work: EngineWork) -> Result<EngineDone, EngineError> {
        let verb = work.verb();
        let step = self.decide(work)?;
        let fault = {
            let mut planned = lock(&self.fault);
            match *planned {
                Some((which, fault)) if which == verb => {
                    *planned = None;
                    Some(fault)
                }
                Some(_) | None => None,
            }
        };
        match fault {
            Some(Fault::Refuse) => {
                return Err(EngineError {
                    code: "injected",
                    reason: format!("the step {verb} was made to fail before it changed anything; ask again"),
                    half: Half::Clean,
                });
            }
            Some(Fault::Hang) => {
                self.begin(&step).await?;
                std::future::pending::<()>().await;
            }
            Some(Fault::HalfWay) => {
                self.begin(&step).await?;
                return Err(EngineError {
                    code: "injected",
                    reason: format!("the step {verb} was made to fail half-way; reset this node"),
                    half: Half::HalfDone,
                });
            }
            None => {}
        }
        if !matches!(step, Step::Unchanged(_)) {
            self.begin(&step).await?;
            if self.settings.step_ms > 0 {
                tokio::time::sleep(Duration::from_millis(self.settings.step_ms)).await;
            }
            if let Some(program) = &self.settings.program {
                run(program).await.map_err(|reason| EngineError { code: "program", reason, half: Half::HalfDone })?;
            }
        }
        self.finish(step).await
    }

    fn decide(&self, work: EngineWork) -> Result<Step, EngineError> {
        let known = lock(&self.known);
        match work {
            EngineWork::Initialise { cluster, version } => {
                if self.control_plane.is_none() {
                    return Err(refuse("not-a-master", "this Pi is no master: only a master starts a cluster".into()));
                }
                let wanted = self.wanted(cluster, version, ClusterPart::ControlPlane);
                towards(&known, wanted)
            }
            EngineWork::Join { cluster, server, version, credential } => {
                if server.is_empty() {
                    return Err(refuse("bad-server", "the command to join names no server".into()));
                }
                let credential = SimulatedCredential::parse(&credential).map_err(|error| {
                    refuse("bad-credential", format!("the join credential {error}; ask for a new one"))
                })?;
                if credential.cluster != cluster || credential.node != self.node {
                    return Err(refuse(
                        "bad-credential",
                        format!(
                            "the join credential is for {} in the cluster {}, not for {} in {cluster}; ask for a new one",
                            credential.node, credential.cluster, self.node
                        ),
                    ));
                }
                let wanted = self.wanted(cluster, version, ClusterPart::Worker);
                towards(&known, wanted)
            }
            EngineWork::Stop => Ok(match (&known.kept, known.run) {
                (Kept::Member(member), EngineRun::Running) => Step::Halt(member.clone()),
                (Kept::Member(_), EngineRun::Stopped) => Step::Unchanged("the engine is stopped already".into()),
                (Kept::Blank | Kept::HalfJoined(_) | Kept::HalfReset, _) => {
                    Step::Unchanged("no engine runs: this Pi is in no cluster".into())
                }
            }),
            EngineWork::Start => match (&known.kept, known.run) {
                (Kept::Member(_), EngineRun::Running) => Ok(Step::Unchanged("the engine runs already".into())),
                (Kept::Member(member), EngineRun::Stopped) => Ok(Step::Run(member.clone())),
                (Kept::Blank, _) => Err(refuse("no-cluster", "this Pi is in no cluster; let it join one first".into())),
                (Kept::HalfJoined(_) | Kept::HalfReset, _) => Err(half_done(&known.kept)),
            },
            EngineWork::Reset => Ok(match &known.kept {
                Kept::Blank => Step::Unchanged("nothing is left of a cluster".into()),
                Kept::HalfJoined(member) => {
                    Step::Remove(format!("removed a half-done start in the cluster {}", member.cluster))
                }
                Kept::HalfReset => Step::Remove("finished a reset that was interrupted".into()),
                Kept::Member(member) => {
                    Step::Remove(format!("removed what was left of the cluster {}", member.cluster))
                }
            }),
            EngineWork::Snapshot => on_control_plane(&known).map(|()| Step::Copy),
            EngineWork::AddOns => on_control_plane(&known).map(|()| Step::Apply),
            EngineWork::Upgrade { version } => match (&known.kept, known.run) {
                (Kept::Member(member), EngineRun::Running) if member.version == version => {
                    Ok(Step::Unchanged(format!("the engine runs {version} already")))
                }
                (Kept::Member(member), _) => Ok(Step::Replace(Membership { version, ..member.clone() })),
                (Kept::Blank, _) => Err(refuse("no-cluster", "this Pi is in no cluster; let it join one first".into())),
                (Kept::HalfJoined(_) | Kept::HalfReset, _) => Err(half_done(&known.kept)),
            },
        }
    }

    fn wanted(&self, cluster: ClusterId, version: Text<32>, part: ClusterPart) -> Membership {
        let version = if version.is_empty() { self.settings.installed.clone() } else { version };
        Membership { cluster, version, part }
    }

    /// Stores that `step` has begun, where a cut in its middle must be seen afterwards.
    async fn begin(self: &Arc<Self>, step: &Step) -> Result<(), EngineError> {
        match step {
            Step::Become(member, _) => {
                self.keep(Kept::HalfJoined(member.clone()), EngineRun::Stopped, Half::Clean).await
            }
            Step::Remove(_) => {
                if let Some(plane) = &self.control_plane {
                    plane.stop();
                }
                self.keep(Kept::HalfReset, EngineRun::Stopped, Half::Clean).await
            }
            // stopped while it is replaced; what is kept names the version before until that is done
            Step::Replace(member) => {
                match (member.part, &self.control_plane) {
                    (ClusterPart::ControlPlane, Some(plane)) => plane.stop(),
                    (ClusterPart::ControlPlane | ClusterPart::Worker, _) => {}
                }
                lock(&self.known).run = EngineRun::Stopped;
                Ok(())
            }
            Step::Unchanged(_) | Step::Run(_) | Step::Halt(_) | Step::Copy | Step::Apply => Ok(()),
        }
    }

    async fn finish(self: &Arc<Self>, step: Step) -> Result<EngineDone, EngineError> {
        let done = |detail: String| Ok(EngineDone { code: "done", detail });
        match step {
            Step::Unchanged(detail) => Ok(EngineDone { code: "unchanged", detail }),
            Step::Become(member, detail) => {
                self.start_plane(&member).await?;
                self.keep(Kept::Member(member), EngineRun::Running, Half::HalfDone).await?;
                done(detail)
            }
            Step::Run(member) => {
                self.start_plane(&member).await?;
                lock(&self.known).run = EngineRun::Running;
                done("started the engine".into())
            }
            Step::Replace(member) => {
                let detail = format!("runs {} now", member.version);
                self.keep(Kept::Member(member.clone()), EngineRun::Stopped, Half::HalfDone).await?;
                self.start_plane(&member).await?;
                lock(&self.known).run = EngineRun::Running;
                done(detail)
            }
            Step::Halt(member) => {
                match (member.part, &self.control_plane) {
                    (ClusterPart::ControlPlane, Some(plane)) => plane.stop(),
                    (ClusterPart::ControlPlane | ClusterPart::Worker, _) => {}
                }
                lock(&self.known).run = EngineRun::Stopped;
                done("stopped the engine".into())
            }
            Step::Remove(detail) => {
                if let Some(plane) = self.control_plane.clone() {
                    off_the_executor(move || plane.remove())
                        .await?
                        .map_err(|error| from_plane(error, Half::HalfDone))?;
                }
                self.keep(Kept::Blank, EngineRun::Stopped, Half::HalfDone).await?;
                done(detail)
            }
            Step::Copy => {
                let nodes = self.with_plane(|plane| plane.snapshot()).await?;
                done(format!("kept a copy of the cluster's state with {nodes} nodes"))
            }
            Step::Apply => {
                if self.with_plane(|plane| plane.apply_add_ons()).await? {
                    done("applied the add-ons".into())
                } else {
                    Ok(EngineDone { code: "unchanged", detail: "the add-ons are applied already".into() })
                }
            }
        }
    }

    async fn start_plane(self: &Arc<Self>, member: &Membership) -> Result<(), EngineError> {
        match (member.part, self.control_plane.clone()) {
            (ClusterPart::ControlPlane, Some(plane)) => {
                let (node, member) = (self.node.clone(), member.clone());
                off_the_executor(move || plane.start(&node, &member.cluster, &member.version))
                    .await?
                    .map_err(|error| from_plane(error, Half::HalfDone))
            }
            (ClusterPart::ControlPlane | ClusterPart::Worker, _) => Ok(()),
        }
    }

    async fn with_plane<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&ControlPlane) -> Result<T, PlaneError> + Send + 'static,
    ) -> Result<T, EngineError> {
        match self.control_plane.clone() {
            Some(plane) => {
                off_the_executor(move || work(&plane)).await?.map_err(|error| from_plane(error, Half::Clean))
            }
            None => Err(refuse("not-a-master", "this Pi is no master".into())),
        }
    }

    /// Stores, then shows: what is known is never ahead of what is on the card.
    /// `half` is what a write that fails leaves.
    async fn keep(self: &Arc<Self>, kept: Kept, run: EngineRun, half: Half) -> Result<(), EngineError> {
        let inner = Arc::clone(self);
        off_the_executor(move || {
            inner.store.save(FILE, &kept).map_err(|error| disk(&error, half))?;
            *lock(&inner.known) = Known { kept, run };
            Ok(())
        })
        .await?
    }
}

/// Runs the program of a step. It ends with the future.
async fn run(program: &Path) -> Result<(), String> {
    let mut command = tokio::process::Command::new(program);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    match command.status().await {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("step_program {} failed ({status}); reset this node", program.display())),
        Err(error) => Err(format!(
            "step_program {} cannot be run: {error}; correct it in [engine], and reset this node",
            program.display()
        )),
    }
}

/// An SD card may take seconds for one write, and the button's task shares the executor.
async fn off_the_executor<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, EngineError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| EngineError {
        code: "internal",
        reason: format!("the simulated engine's step ended early: {error}"),
        half: Half::HalfDone,
    })
}

fn towards(known: &Known, wanted: Membership) -> Result<Step, EngineError> {
    match &known.kept {
        Kept::Blank => {
            let detail = match wanted.part {
                ClusterPart::ControlPlane => format!("started the cluster {}", wanted.cluster),
                ClusterPart::Worker => format!("joined the cluster {}", wanted.cluster),
            };
            Ok(Step::Become(wanted, detail))
        }
        Kept::HalfJoined(member) if member.cluster == wanted.cluster && member.part == wanted.part => {
            let detail = format!("found a half-done start in the cluster {} and finished it", wanted.cluster);
            Ok(Step::Become(wanted, detail))
        }
        Kept::HalfJoined(_) | Kept::HalfReset => Err(half_done(&known.kept)),
        Kept::Member(member) if member.cluster == wanted.cluster && member.part == wanted.part => match known.run {
            EngineRun::Running => Ok(Step::Unchanged(format!("this Pi is in the cluster {} already", member.cluster))),
            EngineRun::Stopped => Ok(Step::Run(member.clone())),
        },
        Kept::Member(member) => {
            Err(refuse("other-cluster", format!("this Pi is in the cluster {}; reset it first", member.cluster)))
        }
    }
}

fn on_control_plane(known: &Known) -> Result<(), EngineError> {
    match &known.kept {
        Kept::Member(member) => match (member.part, known.run) {
            (ClusterPart::ControlPlane, EngineRun::Running) => Ok(()),
            (ClusterPart::ControlPlane, EngineRun::Stopped) => {
                Err(refuse("stopped", "the control plane is stopped; start it first".into()))
            }
            (ClusterPart::Worker, _) => {
                Err(refuse("not-a-master", "this Pi is a worker; ask the cluster's master".into()))
            }
        },
        Kept::Blank => Err(refuse("no-cluster", "there is no cluster on this Pi".into())),
        Kept::HalfJoined(_) | Kept::HalfReset => Err(half_done(&known.kept)),
    }
}

fn half_done(kept: &Kept) -> EngineError {
    let what = match kept {
        Kept::HalfJoined(member) => format!("a start in the cluster {} was not finished", member.cluster),
        Kept::HalfReset => "a reset was not finished".to_string(),
        Kept::Blank | Kept::Member(_) => "a step was not finished".to_string(),
    };
    EngineError { code: "half-done", reason: format!("{what}; reset this node"), half: Half::HalfDone }
}

fn refuse(code: &'static str, reason: String) -> EngineError {
    EngineError { code, reason, half: Half::Clean }
}

fn disk(error: &StoreError, half: Half) -> EngineError {
    EngineError { code: "disk", reason: error.to_string(), half }
}

fn from_plane(error: PlaneError, half: Half) -> EngineError {
    EngineError { code: error.code, reason: error.reason, half }
}

/// A panic elsewhere must not take the engine with it: what the lock guards is whole after each statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::{KubeDone, KubeWork, Kubernetes, SimulatedKubernetes};
    use beehive_cluster::kube::JoinCredential;
    use tempfile::TempDir;

    const MASTER: &str = "crew-001";
    const WORKER: &str = "crew-002";

    fn node(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    fn cluster(id: &str) -> ClusterId {
        id.parse().unwrap()
    }

    fn store(dir: &TempDir) -> Store {
        Store::open(dir.path()).unwrap()
    }

    /// A worker's engine, as after a boot.
    fn worker(dir: &TempDir) -> SimulatedEngine {
        SimulatedEngine::new(node(WORKER), store(dir), None, Settings::default()).unwrap()
    }

    /// A master's engine and its control plane, as after a boot.
    fn master(dir: &TempDir) -> (SimulatedEngine, ControlPlane) {
        let store = store(dir);
        let plane = ControlPlane::open(store.clone()).unwrap();
        let engine = SimulatedEngine::new(node(MASTER), store, Some(plane.clone()), Settings::default()).unwrap();
        (engine, plane)
    }

    fn initialise(id: &str) -> EngineWork {
        EngineWork::Initialise { cluster: cluster(id), version: Text::new() }
    }

    /// A command to join with a credential minted by a control plane of its own.
    async fn join(id: &str, invited: &str) -> EngineWork {
        let dir = TempDir::new().unwrap();
        let (engine, plane) = master(&dir);
        engine.perform(initialise(id)).await.unwrap();
        let mint = KubeWork::MintCredential { node: node(invited), cluster: cluster(id) };
        match SimulatedKubernetes::new(plane, 0).perform(mint).await.unwrap() {
            KubeDone::Credential(credential) => join_with(id, credential),
            KubeDone::Done => unreachable!("a mint answers with a credential"),
        }
    }

    fn join_with(id: &str, credential: JoinCredential) -> EngineWork {
        EngineWork::Join { cluster: cluster(id), server: Text::cut("10.0.0.1:6443"), version: Text::new(), credential }
    }

    async fn code(engine: &SimulatedEngine, work: EngineWork) -> &'static str {
        match engine.perform(work).await {
            Ok(done) => done.code,
            Err(error) => error.code,
        }
    }

    fn running_in(id: &str) -> EngineState {
        EngineState { cluster: Some(cluster(id)), run: EngineRun::Running, version: Text::cut(INSTALLED_VERSION) }
    }

    fn blank() -> EngineState {
        EngineState { cluster: None, run: EngineRun::Stopped, version: Text::new() }
    }

    #[tokio::test]
    async fn each_step_done_again_is_unchanged() {
        let dir = TempDir::new().unwrap();
        let engine = worker(&dir);
        assert_eq!(engine.state(), blank());
        for (work, first, again, after) in [
            (join("c1", WORKER).await, "done", "unchanged", running_in("c1")),
            (EngineWork::Stop, "done", "unchanged", EngineState { run: EngineRun::Stopped, ..running_in("c1") }),
            (EngineWork::Start, "done", "unchanged", running_in("c1")),
            (EngineWork::Reset, "done", "unchanged", blank()),
        ] {
            assert_eq!(code(&engine, work.clone()).await, first, "{work:?}");
            assert_eq!(engine.state(), after, "{work:?}");
            assert_eq!(code(&engine, work.clone()).await, again, "{work:?}");
            assert_eq!(engine.state(), after, "{work:?}");
        }
        assert_eq!(code(&engine, EngineWork::Stop).await, "unchanged");
        assert_eq!(code(&engine, EngineWork::Start).await, "no-cluster");
    }

    #[tokio::test]
    async fn the_masters_steps_done_again_are_unchanged() {
        let dir = TempDir::new().unwrap();
        let (engine, plane) = master(&dir);
        assert_eq!(code(&engine, EngineWork::Snapshot).await, "no-cluster");
        assert_eq!(code(&engine, initialise("c1")).await, "done");
        assert_eq!(code(&engine, initialise("c1")).await, "unchanged");
        assert_eq!(code(&engine, initialise("c2")).await, "other-cluster");
        assert_eq!(code(&engine, EngineWork::AddOns).await, "done");
        assert_eq!(code(&engine, EngineWork::AddOns).await, "unchanged");
        assert_eq!(code(&engine, EngineWork::Snapshot).await, "done");
        assert_eq!(code(&engine, EngineWork::Stop).await, "done");
        assert_eq!(code(&engine, EngineWork::Snapshot).await, "stopped");
        assert_eq!(plane.snapshot().unwrap_err().code, "unreachable");
        // to be told to start the cluster that is stopped starts it
        assert_eq!(code(&engine, initialise("c1")).await, "done");
        assert_eq!(engine.state(), running_in("c1"));
        assert_eq!(code(&engine, EngineWork::Reset).await, "done");
        assert_eq!(code(&engine, initialise("c2")).await, "done");
        assert_eq!(code(&engine, EngineWork::AddOns).await, "done", "a new cluster has none yet");
    }

    #[tokio::test]
    async fn an_upgrade_changes_the_version_and_what_was_cut_short_is_done_again() {
        let dir = TempDir::new().unwrap();
        let upgrade = || EngineWork::Upgrade { version: Text::cut("simulated-2") };
        let (engine, plane) = master(&dir);
        assert_eq!(code(&engine, upgrade()).await, "no-cluster");
        engine.perform(initialise("c1")).await.unwrap();
        let after = EngineState { version: Text::cut("simulated-2"), ..running_in("c1") };
        engine.fail_next(EngineVerb::Upgrade, Fault::HalfWay);
        assert_eq!(code(&engine, upgrade()).await, "injected");
        assert_eq!(engine.state(), EngineState { run: EngineRun::Stopped, ..running_in("c1") });
        assert!(plane.snapshot().is_err(), "the API server is stopped while it is replaced");
        assert_eq!(code(&engine, upgrade()).await, "done");
        assert_eq!(engine.state(), after);
        assert!(plane.snapshot().is_ok());
        assert_eq!(code(&engine, upgrade()).await, "unchanged");
        drop((engine, plane));
        assert_eq!(master(&dir).0.state(), after, "it is on the card");
    }

    #[tokio::test]
    async fn after_a_boot_a_member_runs_again_even_if_it_was_stopped() {
        let dir = TempDir::new().unwrap();
        let engine = worker(&dir);
        engine.perform(join("c1", WORKER).await).await.unwrap();
        engine.perform(EngineWork::Stop).await.unwrap();
        assert_eq!(worker(&dir).state(), running_in("c1"));

        let dir = TempDir::new().unwrap();
        let (engine, plane) = master(&dir);
        engine.perform(initialise("c1")).await.unwrap();
        engine.perform(EngineWork::Stop).await.unwrap();
        drop((engine, plane));
        let (engine, plane) = master(&dir);
        assert_eq!(engine.state(), running_in("c1"));
        assert!(plane.snapshot().is_ok(), "the control plane serves again");
    }

    #[tokio::test]
    async fn a_step_that_was_cut_in_its_middle_is_found_half_done() {
        let dir = TempDir::new().unwrap();
        let slow = Settings { step_ms: 3_600_000, ..Settings::default() };
        let engine = SimulatedEngine::new(node(WORKER), store(&dir), None, slow).unwrap();
        let work = join("c1", WORKER).await;
        let step = tokio::spawn(engine.perform(work.clone()));
        // begun: the store says so before the step goes on
        while engine.state() == blank() {
            tokio::task::yield_now().await;
        }
        step.abort();
        assert!(step.await.unwrap_err().is_cancelled());
        drop(engine);

        let engine = worker(&dir);
        assert_eq!(engine.state(), EngineState { run: EngineRun::Stopped, ..running_in("c1") });
        let error = engine.perform(join("c2", WORKER).await).await.unwrap_err();
        assert_eq!((error.code, error.half), ("half-done", Half::HalfDone));
        assert!(error.reason.contains("c1") && error.reason.contains("reset"), "{error}");
        assert_eq!(code(&engine, EngineWork::Start).await, "half-done");
        // the same join finishes it, and a reset would have mended it too
        let done = engine.perform(work).await.unwrap();
        assert!(done.detail.contains("half-done"), "{done:?}");
        assert_eq!(engine.state(), running_in("c1"));
    }

    #[tokio::test]
    async fn a_step_runs_its_program_and_is_half_done_if_that_fails() {
        let with = |dir: &TempDir, program: &str| {
            let settings = Settings { program: Some(program.into()), ..Settings::default() };
            SimulatedEngine::new(node(WORKER), store(dir), None, settings).unwrap()
        };
        let dir = TempDir::new().unwrap();
        let work = join("c1", WORKER).await;
        for (program, said) in [("/bin/false", "exit status: 1"), ("/nowhere/step", "cannot be run")] {
            let error = with(&dir, program).perform(work.clone()).await.unwrap_err();
            assert_eq!((error.code, error.half), ("program", Half::HalfDone));
            // an emulator's fork does not tell its parent that there is no such program; its exit status does
            let told = error.reason.contains(said) || error.reason.contains("exit status: 127");
            assert!(error.reason.contains(program) && told, "{error}");
            assert_eq!(worker(&dir).state().run, EngineRun::Stopped, "{program}");
        }
        assert_eq!(code(&with(&dir, "/bin/true"), work.clone()).await, "done");
        assert_eq!(code(&with(&dir, "/bin/false"), work).await, "unchanged", "nothing to do, nothing to run");
    }

    #[tokio::test]
    async fn a_fault_strikes_once_and_where_it_was_asked_for() {
        let dir = TempDir::new().unwrap();
        let engine = worker(&dir);
        let work = join("c1", WORKER).await;

        engine.fail_next(EngineVerb::Join, Fault::Refuse);
        assert_eq!(code(&engine, EngineWork::Reset).await, "unchanged", "another verb is left alone");
        assert_eq!(engine.perform(work.clone()).await.unwrap_err().half, Half::Clean);
        assert_eq!(engine.state(), blank());

        engine.fail_next(EngineVerb::Join, Fault::HalfWay);
        assert_eq!(engine.perform(work.clone()).await.unwrap_err().half, Half::HalfDone);
        assert_eq!(engine.state(), EngineState { run: EngineRun::Stopped, ..running_in("c1") });
        assert_eq!(worker(&dir).state(), engine.state(), "a reboot does not hide it");
        assert_eq!(code(&engine, EngineWork::Reset).await, "done");
        assert_eq!(engine.state(), blank());

        engine.fail_next(EngineVerb::Reset, Fault::HalfWay);
        engine.perform(work.clone()).await.unwrap();
        assert_eq!(code(&engine, EngineWork::Reset).await, "injected");
        assert_eq!(code(&engine, work.clone()).await, "half-done");
        assert_eq!(code(&engine, EngineWork::Reset).await, "done");
        assert_eq!(code(&engine, work).await, "done");
    }

    #[tokio::test]
    async fn a_step_that_hangs_is_ended_by_dropping_it_and_holds_up_nothing_afterwards() {
        let dir = TempDir::new().unwrap();
        let engine = worker(&dir);
        engine.perform(join("c1", WORKER).await).await.unwrap();
        engine.fail_next(EngineVerb::Stop, Fault::Hang);
        let mut hanging = engine.perform(EngineWork::Stop);
        assert!((&mut hanging).now_or_never().is_none());
        let mut waiting = engine.perform(EngineWork::Stop);
        assert!((&mut waiting).now_or_never().is_none(), "one step at a time");
        drop(hanging);
        assert_eq!(waiting.await.unwrap().code, "done");
    }

    #[tokio::test]
    async fn a_credential_of_another_cluster_node_or_engine_is_refused_and_not_shown() {
        let dir = TempDir::new().unwrap();
        let engine = worker(&dir);
        let EngineWork::Join { credential: other_cluster, .. } = join("c2", WORKER).await else { unreachable!() };
        let EngineWork::Join { credential: other_node, .. } = join("c1", "crew-003").await else { unreachable!() };
        let EngineWork::Join { credential: good, .. } = join("c1", WORKER).await else { unreachable!() };
        let cut = JoinCredential::new(&good.reveal()[..good.reveal().len() - 1]).unwrap();
        let foreign = JoinCredential::new("K10abc::server:secret").unwrap();
        for credential in [other_cluster, other_node, cut, foreign, JoinCredential::new("").unwrap()] {
            let secret = credential.reveal().rsplit(':').next().unwrap_or_default().to_owned();
            let error = engine.perform(join_with("c1", credential)).await.unwrap_err();
            assert_eq!((error.code, error.half), ("bad-credential", Half::Clean));
            assert!(secret.is_empty() || !error.to_string().contains(&secret), "{error}");
            assert_eq!(engine.state(), blank());
        }
        assert_eq!(code(&engine, join_with("c1", good)).await, "done");
    }

    #[tokio::test]
    async fn a_worker_does_no_masters_work() {
        let dir = TempDir::new().unwrap();
        let engine = worker(&dir);
        assert_eq!(code(&engine, initialise("c1")).await, "not-a-master");
        engine.perform(join("c1", WORKER).await).await.unwrap();
        assert_eq!(code(&engine, EngineWork::Snapshot).await, "not-a-master");
        assert_eq!(code(&engine, EngineWork::AddOns).await, "not-a-master");
        assert_eq!(code(&engine, join("c2", WORKER).await).await, "other-cluster");
        assert_eq!(engine.state(), running_in("c1"));
    }
}
