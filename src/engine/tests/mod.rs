//! The real engines on a Pi of doubles: each step done, repeated, cut short at every call of a program and every change of a
//! file, failed and hung; and what a reset leaves. Both engines go through the same tests: nothing here but [`Case`] knows
//! which it is.

mod pi;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use beehive_cluster::kube::JoinCredential;
use beehive_mqtt::Text;
use beehive_mqtt::node::{EngineRun, EngineState};
use futures_util::future::BoxFuture;

use self::pi::{Fault, Pi, SERVER, TOKEN_ID, TOKEN_SECRET};
use super::site::Arch;
use super::tool::{Ran, ToolCall, ToolError, Tools};
use super::{Engine, EngineDone, EngineError, EngineWork, Half};
use crate::config::Config;
use crate::doctor::{Finding, Id, Minor, Severity};

/// One of the engines, in one of the parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Case {
    kind: &'static str,
    role: &'static str,
}

const MASTERS: [Case; 2] = [Case { kind: "k3s", role: "master" }, Case { kind: "kubeadm", role: "master" }];
const WORKERS: [Case; 2] = [Case { kind: "k3s", role: "node" }, Case { kind: "kubeadm", role: "node" }];
const ALL: [Case; 4] = [MASTERS[0], MASTERS[1], WORKERS[0], WORKERS[1]];

impl Case {
    fn old(self) -> &'static str {
        if self.kind == "k3s" { "v1.30.2+k3s1" } else { "v1.26.15" }
    }

    fn next(self) -> &'static str {
        if self.kind == "k3s" { "v1.31.1+k3s1" } else { "v1.27.1" }
    }

    fn config(self, engine: &str) -> Config {
        let cluster = if self.role == "master" { "[cluster]\nnodes = []\n" } else { "" };
        let (kind, role) = (self.kind, self.role);
        let text = format!(
            "crew = \"c\"\nnode = \"c-007\"\nrole = \"{role}\"\n[engine]\nkind = \"{kind}\"\n{engine}\n{cluster}"
        );
        Config::parse_on(&text, "b.toml", "c-007").unwrap()
    }

    /// How this Pi becomes a member.
    fn enter(self, pi: &Pi) -> EngineWork {
        self.enter_with("c1", self.old(), pi.credential())
    }

    fn enter_with(self, cluster: &str, version: &str, credential: JoinCredential) -> EngineWork {
        let (cluster, version) = (cluster.parse().unwrap(), Text::cut(version));
        match self.role {
            "master" => EngineWork::Initialise { cluster, version },
            _ => EngineWork::Join { cluster, server: Text::cut(SERVER), version, credential },
        }
    }

    fn unit(self) -> &'static str {
        match (self.kind, self.role) {
            ("k3s", "master") => "k3s.service",
            ("k3s", _) => "k3s-agent.service",
            _ => "kubelet.service",
        }
    }
}

/// No programs at all.
pub(super) struct Nothing;

impl Tools for Nothing {
    fn run(&self, call: ToolCall) -> BoxFuture<'static, Result<Ran, ToolError>> {
        Box::pin(std::future::ready(Err(ToolError::Missing { program: call.program })))
    }

    fn has(&self, _: &'static str) -> bool {
        false
    }
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

thread_local! {
    /// Where this thread's log goes, while somebody follows it.
    static FOLLOWED: RefCell<Option<Log>> = const { RefCell::new(None) };
}

/// Writes to the log of the thread that it is used in.
struct ThisThread;

impl std::io::Write for ThisThread {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        FOLLOWED.with_borrow(|log| {
            if let Some(Log(text)) = log {
                text.lock().unwrap().extend_from_slice(bytes);
            }
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Ends the following.
struct Following;

impl Drop for Following {
    fn drop(&mut self) {
        FOLLOWED.set(None);
    }
}

impl Log {
    /// Everything that this thread logs while the guard lives. One subscriber serves all tests of the process: those of single
    /// threads, coming and going, make `tracing` forget who wants to hear what.
    fn follow(&self) -> Following {
        static FOLLOW: Once = Once::new();
        FOLLOW.call_once(|| {
            let subscriber = tracing_subscriber::fmt()
                .with_max_level(tracing::Level::TRACE)
                .with_ansi(false)
                .with_writer(|| ThisThread)
                .finish();
            tracing::subscriber::set_global_default(subscriber).unwrap();
        });
        FOLLOWED.set(Some(self.clone()));
        Following
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

fn open(pi: &Arc<Pi>, case: Case) -> Arc<dyn Engine> {
    pi.open(&case.config("")).unwrap()
}

async fn member(case: Case) -> (Arc<Pi>, Arc<dyn Engine>) {
    let pi = Pi::new();
    let engine = open(&pi, case);
    engine.perform(case.enter(&pi)).await.unwrap();
    (pi, engine)
}

#[track_caller]
fn shown(engine: &dyn Engine) -> (Option<String>, EngineRun, String) {
    let EngineState { cluster, run, version } = engine.state();
    (cluster.map(|cluster| cluster.as_str().to_owned()), run, version.as_str().to_owned())
}

fn running(case: Case) -> (Option<String>, EngineRun, String) {
    (Some("c1".to_owned()), EngineRun::Running, case.old().to_owned())
}

fn blank() -> (Option<String>, EngineRun, String) {
    (None, EngineRun::Stopped, String::new())
}

/// What stays on purpose: installed programs are no trace of a cluster.
fn residue(pi: &Pi) -> BTreeSet<String> {
    pi.residue()
}

/// Nothing secret in what everybody can read.
#[track_caller]
fn nothing_leaks(pi: &Pi, said: &[String]) {
    let token = pi.get("/etc/rancher/k3s/beehive-token").unwrap_or_default();
    let mut secrets = vec![TOKEN_SECRET.to_owned(), "c2VjcmV0".to_owned()];
    secrets.extend(Some(token).filter(|token| !token.is_empty()));
    for secret in &secrets {
        for call in pi.calls() {
            assert!(!call.arguments.iter().any(|word| word.contains(secret)), "{call:?}");
            assert!(!call.environment.iter().any(|(_, value)| value.contains(secret)), "{call:?}");
        }
        for text in said {
            assert!(!text.contains(secret.as_str()), "{text}");
        }
    }
}

/// Does `work` until it ends, or is cut short or hangs.
async fn until_cut(pi: &Pi, engine: &Arc<dyn Engine>, work: EngineWork) -> Option<Result<EngineDone, EngineError>> {
    tokio::select! {
        biased;
        done = engine.perform(work) => Some(done),
        () = pi.interrupted() => None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_pi_becomes_a_member_and_says_so_once() {
    for case in ALL {
        let pi = Pi::new();
        let engine = open(&pi, case);
        assert_eq!((shown(&*engine), engine.kind()), (blank(), case.kind));
        let done = engine.perform(case.enter(&pi)).await.unwrap();
        assert_eq!(done.code, "done", "{case:?}");
        assert_eq!(shown(&*engine), running(case));
        assert!(pi.world.lock().unwrap().active.contains(case.unit()), "{case:?}");
        assert!(pi.world.lock().unwrap().enabled.contains(case.unit()), "it starts again after a boot: {case:?}");

        pi.forget_calls();
        let again = engine.perform(case.enter(&pi)).await.unwrap();
        assert_eq!(again.code, "unchanged", "{case:?}: {}", again.detail);
        for line in pi.lines() {
            let looks = ["is-active", "get configmap"].iter().any(|word| line.contains(word));
            assert!(looks, "nothing was done again: {line}");
        }
        let other = engine.perform(case.enter_with("c2", "", pi.credential())).await.unwrap_err();
        assert_eq!((other.code, other.half), ("other-cluster", Half::Clean));
        // the next process knows it too
        assert_eq!(shown(&*open(&pi, case)), running(case));
        nothing_leaks(&pi, &[done.detail, again.detail, other.reason]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_is_named_and_gives_access_and_a_worker_has_none() {
    for case in ALL {
        let (pi, engine) = member(case).await;
        let access = engine.access().await.unwrap();
        if case.role == "node" {
            assert!(access.is_none() && pi.world.lock().unwrap().named.is_none());
            assert_eq!(engine.perform(EngineWork::Snapshot).await.unwrap_err().code, "not-a-master");
            assert_eq!(engine.perform(EngineWork::AddOns).await.unwrap_err().code, "not-a-master");
            let initialise = EngineWork::Initialise { cluster: "c1".parse().unwrap(), version: Text::new() };
            assert_eq!(engine.perform(initialise).await.unwrap_err().code, "not-a-master");
            continue;
        }
        let access = access.unwrap();
        assert!(access.reveal().contains("kind: Config") && !format!("{access:?}").contains("Config"));
        assert_eq!(pi.world.lock().unwrap().named.as_deref(), Some("c1"));
        // the ConfigMap is put back where it is missing, and never taken over
        pi.world.lock().unwrap().named = None;
        assert_eq!(engine.perform(case.enter(&pi)).await.unwrap().code, "done");
        assert_eq!(pi.world.lock().unwrap().named.as_deref(), Some("c1"));
        pi.world.lock().unwrap().named = Some("c9".to_owned());
        assert_eq!(engine.perform(case.enter(&pi)).await.unwrap_err().code, "other-cluster");
        assert_eq!(pi.world.lock().unwrap().named.as_deref(), Some("c9"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_leaves_nothing_and_a_second_one_changes_nothing() {
    for case in ALL {
        let pi = Pi::new();
        let before = residue(&pi);
        let engine = open(&pi, case);
        assert_eq!(engine.perform(EngineWork::Reset).await.unwrap().code, "unchanged");
        engine.perform(case.enter(&pi)).await.unwrap();
        let joined: Vec<String> = residue(&pi).difference(&before).cloned().collect();
        assert!(joined.len() > 20, "the double leaves much: {joined:?}");

        let done = engine.perform(EngineWork::Reset).await.unwrap();
        assert_eq!(done.code, "done");
        assert_eq!(residue(&pi), before, "{case:?}");
        assert_eq!(shown(&*engine), blank());
        assert_eq!(engine.perform(EngineWork::Reset).await.unwrap().code, "unchanged", "{case:?}");
        // and it can join again
        pi.world.lock().unwrap().members.clear();
        pi.world.lock().unwrap().named = None;
        assert_eq!(engine.perform(case.enter_with("c2", "", pi.credential())).await.unwrap().code, "done");
        engine.perform(EngineWork::Reset).await.unwrap();
        assert_eq!(residue(&pi), before, "{case:?}");
        nothing_leaks(&pi, &[done.detail]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_removes_what_another_hand_left_and_no_volume() {
    for case in ALL {
        let (pi, engine) = member(case).await;
        // our own store is lost: what is there is somebody's
        std::fs::remove_dir_all(pi.at("/var/lib/beehive-engine")).unwrap();
        drop(engine);
        let engine = open(&pi, case);
        assert_eq!(shown(&*engine), blank());
        let error = engine.perform(case.enter_with("c2", "", pi.credential())).await.unwrap_err();
        assert_eq!((error.code, error.half), ("left-overs", Half::Clean), "{case:?}: {error}");

        // a volume that cannot be unmounted is not emptied
        let volume = "/var/lib/kubelet/pods/1/volumes/token";
        pi.put(&format!("{volume}/precious"), "data");
        pi.world.lock().unwrap().busy.insert(volume.to_owned());
        let stuck = engine.perform(EngineWork::Reset).await.unwrap_err();
        assert_eq!((stuck.code, stuck.half), ("mounted", Half::HalfDone), "{case:?}: {stuck}");
        assert!(pi.has_file(&format!("{volume}/precious")));
        assert_eq!(engine.perform(case.enter(&pi)).await.unwrap_err().code, "half-done");
        pi.world.lock().unwrap().busy.clear();
        assert_eq!(engine.perform(EngineWork::Reset).await.unwrap().code, "done");
        assert!(!pi.has_file(volume));
        assert_eq!(pi.get("/srv/data/film").as_deref(), Some("not ours\n"));
    }
}

/// A disk of its own for the engine's data is emptied and stays mounted.
#[tokio::test(start_paused = true)]
async fn a_disk_of_its_own_is_emptied_not_removed() {
    for (case, place) in
        [(MASTERS[0], "/var/lib/rancher/k3s"), (MASTERS[1], "/var/lib/etcd"), (WORKERS[1], "/var/lib/kubelet")]
    {
        let (pi, engine) = member(case).await;
        pi.world.lock().unwrap().mounts.push(place.to_owned());
        engine.perform(EngineWork::Reset).await.unwrap();
        assert!(pi.at(place).is_dir());
        assert_eq!(std::fs::read_dir(pi.at(place)).unwrap().count(), 0);
        assert_eq!(pi.world.lock().unwrap().mounts, [place]);
    }
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_the_containers_and_a_start_brings_them_back() {
    for case in ALL {
        let (pi, engine) = member(case).await;
        pi.forget_calls();
        assert_eq!(engine.perform(EngineWork::Stop).await.unwrap().code, "done");
        assert_eq!(shown(&*engine), (Some("c1".to_owned()), EngineRun::Stopped, case.old().to_owned()));
        {
            let world = pi.world.lock().unwrap();
            assert!(world.processes.is_empty(), "systemd would wait for them: {:?}", world.processes);
            assert!(!world.mounts.iter().any(|mount| mount.contains("/pods/")), "{:?}", world.mounts);
            assert!(world.active.contains("ssh.service") && !world.active.contains(case.unit()));
            assert!(world.enabled.contains(case.unit()), "it starts with the next boot");
        }
        assert!(pi.has_file("/var/lib/kubelet/pods"), "what it has is kept");
        assert_eq!(engine.perform(EngineWork::Stop).await.unwrap().code, "unchanged");
        // another process of this boot knows that it was stopped
        assert_eq!(shown(&*open(&pi, case)).1, EngineRun::Stopped);
        if case.role == "master" {
            assert_eq!(engine.perform(EngineWork::Snapshot).await.unwrap_err().code, "not-running");
            assert_eq!(engine.perform(EngineWork::AddOns).await.unwrap_err().code, "not-running");
        }
        assert_eq!(engine.perform(EngineWork::Start).await.unwrap().code, "done");
        assert_eq!(shown(&*engine), running(case));
        assert_eq!(engine.perform(EngineWork::Start).await.unwrap().code, "unchanged");

        // after a boot systemd has started it
        engine.perform(EngineWork::Stop).await.unwrap();
        pi.boot();
        let engine = open(&pi, case);
        assert_eq!(shown(&*engine), running(case));
        assert_eq!(engine.perform(EngineWork::Start).await.unwrap().code, "unchanged");
        // and one that died by another hand is seen when it is looked for
        pi.world.lock().unwrap().active.remove(case.unit());
        assert_eq!(engine.look().await.unwrap().run, EngineRun::Stopped);
        assert_eq!(engine.perform(case.enter(&pi)).await.unwrap().code, "done");
        assert_eq!(shown(&*engine), running(case));
    }
}

#[tokio::test(start_paused = true)]
async fn a_blank_pi_has_nothing_to_stop_start_or_upgrade() {
    for case in ALL {
        let pi = Pi::new();
        let engine = open(&pi, case);
        assert_eq!(engine.perform(EngineWork::Stop).await.unwrap().code, "unchanged");
        for work in [
            EngineWork::Start,
            EngineWork::Snapshot,
            EngineWork::AddOns,
            EngineWork::Upgrade { version: Text::cut(case.next()) },
        ] {
            let error = engine.perform(work).await.unwrap_err();
            assert_eq!((error.code, error.half), ("no-cluster", Half::Clean), "{case:?}");
        }
        assert_eq!(engine.restore(None).await.unwrap_err().code, "no-cluster");
        assert!(pi.calls().is_empty(), "{:?}", pi.lines());
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_credential_or_server_is_named_and_not_shown() {
    let log = Log::default();
    let _following = log.follow();
    for case in WORKERS {
        let pi = Pi::new();
        let before = residue(&pi);
        let (pem, key) = ("a".repeat(64), "b".repeat(64));
        let join = |server: &str, credential: JoinCredential| EngineWork::Join {
            cluster: "c1".parse().unwrap(),
            server: Text::cut(server),
            version: Text::cut(case.old()),
            credential,
        };
        let engine = open(&pi, case);
        let good = || pi.credential();
        let refused = [
            (join(SERVER, JoinCredential::new("K10abc::server:secretsecret").unwrap()), "bad-credential"),
            (join(SERVER, JoinCredential::new("").unwrap()), "bad-credential"),
            (join("", good()), "bad-server"),
            (join("a b", good()), "bad-server"),
            (join("10.0.0.1:6443;reboot", good()), "bad-server"),
            (join("--config=/etc/shadow", good()), "bad-server"),
            (join("10.0.0.1:0", good()), "bad-server"),
        ];
        for (work, code) in refused {
            let error = engine.perform(work).await.unwrap_err();
            assert_eq!((error.code, error.half), (code, Half::Clean), "{error}");
        }
        assert_eq!((residue(&pi), pi.calls().len()), (before.clone(), 0));

        let mut said = Vec::new();
        let later = [
            (join(SERVER, pi.credential_of("abc123", "fedcba9876543210", &pem, &key)), "bad-credential"),
            (
                join(SERVER, pi.credential_of(TOKEN_ID, TOKEN_SECRET, &"c".repeat(64), &"c".repeat(64))),
                "wrong-authority",
            ),
            (join("10.0.0.99", good()), "unreachable"),
        ];
        for (work, code) in later {
            let error = engine.perform(work).await.unwrap_err();
            assert_eq!((error.code, error.half), (code, Half::HalfDone), "{error}");
            assert!(error.reason.len() < 2000 && !error.reason.contains("fedcba9876543210"), "{error}");
            said.push(error.reason);
            let half = engine.perform(EngineWork::Start).await.unwrap_err();
            assert_eq!((half.code, half.half), ("half-done", Half::HalfDone));
            assert_eq!(engine.perform(case.enter_with("c2", "", good())).await.unwrap_err().code, "half-done");
            engine.perform(EngineWork::Reset).await.unwrap();
            assert_eq!(residue(&pi), before, "{case:?}");
        }
        // after a bad one, a good one ends the join
        let bad = join(SERVER, pi.credential_of("abc123", "fedcba9876543210", &pem, &key));
        engine.perform(bad).await.unwrap_err();
        assert_eq!(engine.perform(join(SERVER, good())).await.unwrap().code, "done");
        nothing_leaks(&pi, &said);
    }
    let log = log.text();
    assert!(
        log.contains("could not find a JWS signature") && log.contains("401 Unauthorized"),
        "it is for the report: {log}"
    );
    assert!(!log.contains("fedcba9876543210") && !log.contains(TOKEN_SECRET), "{log}");
}

/// The look before a join: an error refuses before anything is changed, a warning is told.
#[tokio::test]
async fn a_pi_that_is_not_fit_is_named_before_anything_is_changed() {
    for case in ALL {
        let pi = Pi::new();
        let engine = open(&pi, case);
        let before = residue(&pi);
        let swap = Finding::new(Severity::Error, Id::Swap, "swap is on: /var/swap", "turn it off");
        let slow = Finding::new(Severity::Warning, Id::WriteLatency, "a write took 3 s", "take another card");
        *pi.findings.lock().unwrap() = vec![swap, slow.clone()];
        let refused = engine.perform(case.enter(&pi)).await.unwrap_err();
        assert_eq!((refused.code, refused.half), ("preflight", Half::Clean), "{case:?}");
        assert!(refused.reason.contains("/var/swap") && refused.reason.contains("turn it off"), "{}", refused.reason);
        assert_eq!((shown(&*engine), residue(&pi)), (blank(), before), "{case:?}");
        *pi.findings.lock().unwrap() = vec![slow];
        let done = engine.perform(case.enter(&pi)).await.unwrap();
        assert!(done.detail.contains("a write took 3 s"), "{}", done.detail);
        let looks = pi.looks.lock().unwrap();
        let subject = looks.last().unwrap();
        assert_eq!((looks.len(), subject.engine.as_str(), subject.node.as_deref()), (2, case.kind, Some("c-007")));
        assert_eq!(subject.version, Minor::parse(case.old()));
        assert_eq!(subject.server.is_some(), case.role == "node", "only a node has somebody to reach");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_of_that_name_in_the_cluster_is_named() {
    let pi = Pi::new();
    let engine = open(&pi, WORKERS[1]);
    pi.world.lock().unwrap().members.insert("c-007".to_owned());
    let error = engine.perform(WORKERS[1].enter(&pi)).await.unwrap_err();
    assert_eq!((error.code, error.half), ("node-exists", Half::HalfDone), "{error}");
}

/// The step that makes a member, cut at each of its actions: the next process finds what happened, the same step ends it, and
/// a reset of it leaves nothing.
#[tokio::test(start_paused = true)]
async fn a_start_that_is_cut_anywhere_is_found_and_ends_or_is_removed() {
    for case in ALL {
        for (fault, after) in [
            (Fault::CutBefore, "boot"),
            (Fault::CutAfter, "boot"),
            (Fault::CutBefore, "kill"),
            (Fault::CutAfter, "kill"),
            (Fault::Hangs, "drop"),
        ] {
            let mut at = 0;
            loop {
                let pi = Pi::new();
                let before = residue(&pi);
                let engine = open(&pi, case);
                pi.fault(at, fault);
                let cut = until_cut(&pi, &engine, case.enter(&pi)).await;
                if !pi.struck() {
                    assert_eq!(cut.unwrap().unwrap().code, "done");
                    break;
                }
                let (_, what) = pi.calm();
                let what = what.last().cloned().unwrap_or_default();
                let told = format!("{case:?} {fault:?} at {at}, {what}, then {after}");
                let engine = match after {
                    "boot" => {
                        pi.boot();
                        open(&pi, case)
                    }
                    "kill" => open(&pi, case),
                    _ => engine,
                };
                if after != "kill" {
                    assert!(!pi.has_file("/run/beehive-engine/kubeadm.conf"), "{told}");
                }
                let stopped = engine.perform(EngineWork::Stop).await;
                assert!(stopped.is_ok() && pi.world.lock().unwrap().processes.is_empty(), "{told}: {stopped:?}");
                // the cluster's side forgets the node, as the coordinator would make it
                pi.world.lock().unwrap().members.clear();
                let (cluster, run, _) = shown(&*engine);
                assert!(cluster.is_none() || run == EngineRun::Stopped || run == EngineRun::Running, "{told}");
                if at % 2 == 0 {
                    let done = engine.perform(case.enter(&pi)).await;
                    assert!(done.is_ok(), "{told}: {done:?}");
                    assert_eq!(shown(&*engine), running(case), "{told}");
                    assert!(pi.world.lock().unwrap().active.contains(case.unit()), "{told}");
                    assert!(case.role == "node" || pi.world.lock().unwrap().named.is_some(), "{told}");
                }
                engine.perform(EngineWork::Reset).await.unwrap_or_else(|error| panic!("{told}: {error}"));
                assert_eq!(residue(&pi), before, "{told}");
                assert_eq!(shown(&*engine), blank(), "{told}");
                assert!(!pi.has_file("/run/beehive-engine/kubeadm.conf"), "{told}");
                nothing_leaks(&pi, &[]);
                at += 1;
            }
            assert!(at > 25, "{case:?}: {at} actions");
        }
    }
}

/// A reset cut at each of its actions goes on where it was.
#[tokio::test(start_paused = true)]
async fn a_reset_that_is_cut_anywhere_is_found_and_ends() {
    for case in ALL {
        for (fault, after) in [(Fault::CutBefore, "boot"), (Fault::CutAfter, "kill"), (Fault::Hangs, "drop")] {
            let mut at = 0;
            loop {
                let pi = Pi::new();
                let before = residue(&pi);
                let engine = open(&pi, case);
                engine.perform(case.enter(&pi)).await.unwrap();
                pi.fault(at, fault);
                let cut = until_cut(&pi, &engine, EngineWork::Reset).await;
                if !pi.struck() {
                    assert_eq!(cut.unwrap().unwrap().code, "done");
                    break;
                }
                let (_, what) = pi.calm();
                let told = format!("{case:?} {fault:?} at {at}, {:?}, then {after}", what.last());
                let engine = match after {
                    "boot" => {
                        pi.boot();
                        open(&pi, case)
                    }
                    "kill" => open(&pi, case),
                    _ => engine,
                };
                // cut after its last change, it is over
                let over = shown(&*engine) == blank() && residue(&pi) == before;
                if !over {
                    let error = engine.perform(case.enter_with("c2", "", pi.credential())).await.unwrap_err();
                    assert!(["half-done", "other-cluster", "left-overs"].contains(&error.code), "{told}: {error}");
                }
                engine.perform(EngineWork::Reset).await.unwrap_or_else(|error| panic!("{told}: {error}"));
                assert_eq!(residue(&pi), before, "{told}");
                assert_eq!(engine.perform(EngineWork::Reset).await.unwrap().code, "unchanged", "{told}");
                at += 1;
            }
            assert!(at > 20, "{case:?}: {at} actions");
        }
    }
}

/// A reset in which a program fails, is late, or the card refuses a change, says so unless nothing is left all the same; done
/// again it ends.
#[tokio::test(start_paused = true)]
async fn a_reset_that_fails_anywhere_is_done_again() {
    for case in ALL {
        for fault in [Fault::Fails, Fault::Late] {
            let (mut at, mut failures) = (0, 0);
            loop {
                let pi = Pi::new();
                let before = residue(&pi);
                let engine = open(&pi, case);
                engine.perform(case.enter(&pi)).await.unwrap();
                pi.fault(at, fault);
                let done = engine.perform(EngineWork::Reset).await;
                let struck = pi.struck();
                let (_, what) = pi.calm();
                let told = format!("{case:?} {fault:?} at {at}, {:?}: {done:?}", what.get(at as usize));
                if !struck {
                    break;
                }
                match done {
                    Ok(_) => assert_eq!(residue(&pi), before, "{told}"),
                    Err(error) => {
                        failures += 1;
                        assert!(!error.code.is_empty() && error.reason.len() < 2000, "{told}");
                    }
                }
                engine.perform(EngineWork::Reset).await.unwrap_or_else(|error| panic!("{told}: {error}"));
                assert_eq!(residue(&pi), before, "{told}");
                at += 1;
            }
            assert!(failures > 5, "{case:?} {fault:?}: {failures} of {at}");
        }
    }
}

/// A program that fails, or a change that the card refuses, is told with a stable code and whether something was left; the
/// same step then ends, or a reset removes all.
#[tokio::test(start_paused = true)]
async fn a_step_that_fails_anywhere_says_so_and_can_be_done_again() {
    for case in ALL {
        let mut at = 0;
        let mut failures = 0;
        loop {
            let pi = Pi::new();
            let before = residue(&pi);
            let engine = open(&pi, case);
            pi.fault(at, Fault::Fails);
            let done = engine.perform(case.enter(&pi)).await;
            let struck = pi.struck();
            let (_, what) = pi.calm();
            let told = format!("{case:?} at {at}, {:?}: {done:?}", what.get(at as usize));
            if !struck {
                assert_eq!(done.unwrap().code, "done");
                break;
            }
            if let Err(error) = done {
                failures += 1;
                assert!(!error.code.is_empty() && error.reason.len() > 20 && error.reason.len() < 2000, "{told}");
                let changed = residue(&pi) != before;
                assert!(!changed || error.half == Half::HalfDone, "{told}");
                pi.world.lock().unwrap().members.clear();
                if at % 2 == 0 {
                    engine.perform(case.enter(&pi)).await.unwrap_or_else(|error| panic!("{told}: {error}"));
                }
            }
            engine.perform(EngineWork::Reset).await.unwrap_or_else(|error| panic!("{told}: {error}"));
            assert_eq!(residue(&pi), before, "{told}");
            at += 1;
        }
        assert!(failures > 15, "{case:?}: {failures} of {at}");
    }
}

/// Stop and start of a member cut anywhere: it stays a member, and the same step ends.
#[tokio::test(start_paused = true)]
async fn a_stop_or_start_that_is_cut_anywhere_is_done_again() {
    for case in ALL {
        for (work, fault) in [
            (EngineWork::Stop, Fault::CutAfter),
            (EngineWork::Stop, Fault::Fails),
            (EngineWork::Start, Fault::CutBefore),
            (EngineWork::Start, Fault::Hangs),
        ] {
            let mut at = 0;
            loop {
                let (pi, engine) = member(case).await;
                if work == EngineWork::Start {
                    engine.perform(EngineWork::Stop).await.unwrap();
                }
                pi.fault(at, fault);
                let cut = until_cut(&pi, &engine, work.clone()).await;
                if !pi.struck() {
                    assert_eq!(cut.unwrap().unwrap().code, "done");
                    break;
                }
                pi.calm();
                let engine = open(&pi, case);
                engine.perform(work.clone()).await.unwrap();
                let (cluster, run, _) = shown(&*engine);
                assert_eq!(cluster.as_deref(), Some("c1"));
                let active = pi.world.lock().unwrap().active.contains(case.unit());
                let wanted = work == EngineWork::Start;
                assert_eq!(
                    (active, run == EngineRun::Running),
                    (wanted, wanted),
                    "{case:?} {work:?} {fault:?} at {at}"
                );
                if work == EngineWork::Stop {
                    assert!(pi.world.lock().unwrap().processes.is_empty());
                }
                at += 1;
            }
            assert!(at > 3, "{case:?} {work:?}: {at}");
        }
    }
}

/// A unit that does not stop is killed, and a stop ends within the minute that a shutdown gives it.
#[tokio::test(start_paused = true)]
async fn every_tool_has_a_deadline() {
    for case in ALL {
        let (pi, engine) = member(case).await;
        let stop = Duration::from_millis(
            crate::config::Config::parse_on("crew = \"c\"\nrole = \"node\"", "b", "c-1").unwrap().power.stop_ms.into(),
        );
        pi.forget_calls();
        engine.perform(EngineWork::Stop).await.unwrap();
        let total: Duration =
            pi.calls().iter().map(|call| call.deadline).filter(|deadline| *deadline < Duration::from_secs(20)).sum();
        assert!(total < stop, "{case:?}: {total:?}");
        for call in pi.calls() {
            assert!(
                call.deadline >= Duration::from_secs(10) && call.deadline <= Duration::from_secs(30),
                "{call:?} {:?}",
                call.deadline
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn copies_are_kept_checked_and_put_back() {
    for case in MASTERS {
        let pi = Pi::new();
        let engine = pi.open(&case.config("snapshots = 2")).unwrap();
        engine.perform(case.enter(&pi)).await.unwrap();
        let database =
            if case.kind == "k3s" { "/var/lib/rancher/k3s/server/db/state.db" } else { "/var/lib/etcd/member/snap/db" };
        for text in ["one", "two", "three"] {
            pi.put(database, text);
            let done = engine.perform(EngineWork::Snapshot).await.unwrap();
            assert_eq!(done.code, "done");
            assert_eq!(shown(&*engine), running(case));
            assert!(pi.world.lock().unwrap().active.contains(case.unit()), "it runs again");
        }
        let kept: Vec<_> = std::fs::read_dir(pi.at("/var/lib/beehive-engine/snapshots"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(
            kept.iter().collect::<BTreeSet<_>>(),
            BTreeSet::from([&"2".to_owned(), &"3".to_owned()]),
            "{case:?}"
        );
        assert_eq!(pi.mode("/var/lib/beehive-engine/snapshots/3") & 0o077, 0, "for root alone");
        let secret = if case.kind == "k3s" { "token" } else { "pki/ca.key" };
        assert_eq!(pi.mode(&format!("/var/lib/beehive-engine/snapshots/3/{secret}")), 0o600, "with what belongs to it");

        pi.put(database, "made later");
        engine.restore(Some(2)).await.unwrap();
        assert_eq!(pi.get(database).as_deref(), Some("two"), "{case:?}");
        engine.restore(None).await.unwrap();
        assert_eq!((pi.get(database).as_deref(), shown(&*engine)), (Some("three"), running(case)), "{case:?}");
        assert_eq!(engine.restore(Some(1)).await.unwrap_err().code, "no-snapshot");

        // a damaged one is refused before anything is touched
        let file = if case.kind == "k3s" { "db/state.db" } else { "etcd.db" };
        pi.put(&format!("/var/lib/beehive-engine/snapshots/3/{file}"), "thref");
        let error = engine.restore(None).await.unwrap_err();
        assert_eq!((error.code, error.half), ("damaged", Half::Clean), "{error}");
        assert_eq!(pi.get(database).as_deref(), Some("three"));

        // copies outlive a reset, but are not put back into another cluster
        engine.perform(EngineWork::Reset).await.unwrap();
        pi.world.lock().unwrap().named = None;
        engine.perform(case.enter(&pi)).await.unwrap();
        assert_eq!(engine.restore(Some(2)).await.unwrap_err().code, "other-cluster");
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_or_its_return_cut_anywhere_leaves_a_running_control_plane() {
    for case in MASTERS {
        for restore in [false, true] {
            for (fault, after) in
                [(Fault::CutBefore, "boot"), (Fault::CutAfter, "kill"), (Fault::Hangs, "drop"), (Fault::Fails, "drop")]
            {
                let mut at = 0;
                loop {
                    let (pi, engine) = member(case).await;
                    let database = if case.kind == "k3s" {
                        "/var/lib/rancher/k3s/server/db/state.db"
                    } else {
                        "/var/lib/etcd/member/snap/db"
                    };
                    pi.put(database, "one");
                    engine.perform(EngineWork::Snapshot).await.unwrap();
                    if restore {
                        pi.put(database, "two");
                    }
                    pi.fault(at, fault);
                    let work = async {
                        if restore { engine.restore(None).await } else { engine.perform(EngineWork::Snapshot).await }
                    };
                    let cut = tokio::select! {
                        biased;
                        done = work => Some(done),
                        () = pi.interrupted() => None,
                    };
                    if !pi.struck() {
                        assert_eq!(cut.unwrap().unwrap().code, "done");
                        break;
                    }
                    let (_, what) = pi.calm();
                    let told = format!(
                        "{case:?} restore {restore} {fault:?} at {at}, {:?}, then {after}: {cut:?}",
                        what.get(at as usize)
                    );
                    let engine = match after {
                        "boot" => {
                            pi.boot();
                            open(&pi, case)
                        }
                        "kill" => open(&pi, case),
                        _ => engine,
                    };
                    // the same step again
                    let again =
                        if restore { engine.restore(None).await } else { engine.perform(EngineWork::Snapshot).await };
                    assert!(again.is_ok(), "{told}: {again:?}");
                    assert_eq!(pi.get(database).as_deref(), Some("one"), "{told}");
                    assert!(pi.world.lock().unwrap().active.contains(case.unit()), "{told}");
                    assert_eq!(shown(&*engine), running(case), "{told}");
                    at += 1;
                }
                assert!(at > 10, "{case:?}: {at}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_replaces_what_is_installed_and_ends_when_it_is_cut() {
    for case in ALL {
        let upgrade = || EngineWork::Upgrade { version: Text::cut(case.next()) };
        let (pi, engine) = member(case).await;
        let done = engine.perform(upgrade()).await.unwrap();
        assert_eq!(done.code, "done");
        assert_eq!(shown(&*engine), (Some("c1".to_owned()), EngineRun::Running, case.next().to_owned()));
        assert_eq!(engine.perform(upgrade()).await.unwrap().code, "unchanged");
        match case.kind {
            "k3s" => {
                assert_eq!(pi.get("/usr/local/bin/k3s").unwrap(), "k3s v1.31.1+k3s1");
                assert_eq!(pi.get("/usr/local/bin/k3s.previous").unwrap(), "k3s v1.30.2+k3s1");
                assert_eq!(
                    pi.get("/var/lib/rancher/k3s/agent/images/k3s-airgap-images-arm64.tar.zst").unwrap(),
                    "images 1.31"
                );
            }
            _ => {
                let world = pi.world.lock().unwrap();
                assert!(
                    world
                        .packages
                        .iter()
                        .filter(|(name, _)| name.starts_with("kube"))
                        .all(|(_, version)| version == "v1.27.1")
                );
                assert!(world.imported.contains(&"images v1.27.1".to_owned()));
            }
        }
        let missing = engine.perform(EngineWork::Upgrade { version: Text::cut("v1.99.0") }).await.unwrap_err();
        assert_eq!((missing.code, missing.half), ("no-artefact", Half::Clean));
        let none = engine.perform(EngineWork::Upgrade { version: Text::new() }).await.unwrap_err();
        assert_eq!(none.code, "bad-version");

        for (fault, after) in
            [(Fault::CutBefore, "boot"), (Fault::CutAfter, "kill"), (Fault::Hangs, "drop"), (Fault::Fails, "drop")]
        {
            let mut at = 0;
            loop {
                let (pi, engine) = member(case).await;
                pi.fault(at, fault);
                let cut = until_cut(&pi, &engine, upgrade()).await;
                if !pi.struck() {
                    assert_eq!(cut.unwrap().unwrap().code, "done");
                    break;
                }
                let (_, what) = pi.calm();
                let told = format!("{case:?} {fault:?} at {at}, {:?}, then {after}", what.get(at as usize));
                let engine = match after {
                    "boot" => {
                        pi.boot();
                        open(&pi, case)
                    }
                    "kill" => open(&pi, case),
                    _ => engine,
                };
                assert_eq!(shown(&*engine).0.as_deref(), Some("c1"), "{told}");
                engine.perform(upgrade()).await.unwrap_or_else(|error| panic!("{told}: {error}"));
                assert_eq!(
                    shown(&*engine),
                    (Some("c1".to_owned()), EngineRun::Running, case.next().to_owned()),
                    "{told}"
                );
                assert!(pi.world.lock().unwrap().active.contains(case.unit()), "{told}");
                at += 1;
            }
            assert!(at > 10, "{case:?}: {at}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_skips_no_minor_version() {
    for case in MASTERS {
        let pi = Pi::new();
        let far = if case.kind == "k3s" { "v1.32.0+k3s1" } else { "v1.28.0" };
        let (folder, name, text, list) = match case.kind {
            "k3s" => ("k3s", "k3s-arm64", "k3s v1.32.0+k3s1", "sha256sum-arm64.txt"),
            _ => ("kubeadm", "kubeadm_v1.28.0_arm64.deb", "kubeadm v1.28.0 arm64", "SHA256SUMS"),
        };
        let place = format!("/usr/share/beehive/engine/{folder}/{far}");
        pi.put(&format!("{place}/{name}"), text);
        pi.put(&format!("{place}/{list}"), &format!("{}  {name}\n", pi::text_of(text.as_bytes())));
        let engine = open(&pi, case);
        engine.perform(case.enter(&pi)).await.unwrap();
        let error = engine.perform(EngineWork::Upgrade { version: Text::cut(far) }).await.unwrap_err();
        assert_eq!((error.code, error.half), ("version-skew", Half::Clean), "{error}");
        assert_eq!(engine.perform(EngineWork::Snapshot).await.unwrap().code, "done", "nothing hangs on it");
        assert!(pi.world.lock().unwrap().active.contains(case.unit()));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_installed_is_checked_against_its_list() {
    for case in ALL {
        let pi = Pi::new();
        let before = residue(&pi);
        let (name, list) = if case.kind == "k3s" {
            ("k3s-arm64", "sha256sum-arm64.txt")
        } else {
            ("kubeadm_v1.26.15_arm64.deb", "SHA256SUMS")
        };
        let place = format!("/usr/share/beehive/engine/{}/{}", case.kind, case.old());
        let good = pi.get(&format!("{place}/{name}")).unwrap();
        pi.put(&format!("{place}/{name}"), "a virus");
        let engine = open(&pi, case);
        let error = engine.perform(case.enter(&pi)).await.unwrap_err();
        assert_eq!(error.code, "bad-artefact", "{error}");
        assert!(!pi.has_file("/usr/local/bin/k3s") && !pi.has("/usr/bin/kubeadm"), "nothing was installed");
        engine.perform(EngineWork::Reset).await.unwrap();
        assert_eq!(residue(&pi), before);

        pi.put(&format!("{place}/{name}"), &good);
        pi.put(&format!("{place}/{list}"), "");
        let error = engine.perform(case.enter(&pi)).await.unwrap_err();
        assert_eq!(error.code, "bad-artefact", "what no list names is not taken: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn versions_and_processors_that_do_not_go_together_are_refused_at_once() {
    let pi = Pi::new();
    let refused = |case: Case, version: &str, arch: Arch| {
        *pi.arch.lock().unwrap() = arch;
        let (engine, work) = (open(&pi, case), case.enter_with("c1", version, pi.credential()));
        async move { engine.perform(work).await.unwrap_err() }
    };
    for case in [MASTERS[1], WORKERS[1]] {
        let error = refused(case, "v1.27.1", Arch::Arm).await;
        assert_eq!((error.code, error.half), ("architecture", Half::Clean));
        assert!(error.reason.contains("1.26 was the last"), "{error}");
    }
    assert_eq!(refused(WORKERS[0], "v1.31.1+k3s1", Arch::Other).await.code, "architecture");
    for case in ALL {
        assert_eq!(refused(case, "v1.29.0", Arch::Arm64).await.code, "no-artefact");
        // by its whole name: the coordinator compares what it asked for with what the engine says of itself
        assert_eq!(refused(case, &case.old()[1..], Arch::Arm64).await.code, "no-artefact");
        assert_eq!(refused(case, "../../etc", Arch::Arm64).await.code, "bad-version");
        assert_eq!(refused(case, "v1;reboot", Arch::Arm64).await.code, "bad-version");
        // two on the card, none installed: which?
        let error = refused(case, "", Arch::Arm64).await;
        assert_eq!((error.code, error.half), ("no-version", Half::Clean), "{error}");
    }
    // nothing here takes a Pi for granted
    *pi.arch.lock().unwrap() = Arch::Amd64;
    open(&pi, WORKERS[0]).perform(WORKERS[0].enter(&pi)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_settings_reach_the_engine() {
    let settings = r#"
labels = ["disk=ssd"]
taints = ["dedicated=db:NoSchedule"]
interface = "eth0"
tls_sans = ["crew.local"]
kubelet_args = ["max-pods=40"]
pod_cidr = "10.50.0.0/16"
service_cidr = "10.51.0.0/16"
pre_pull = ["docker.io/library/nginx:1.27.0", "docker.io/library/missing:1"]
[engine.mirrors]
"docker.io" = ["https://mirror.local:5000"]
"#;
    for case in ALL {
        let pi = Pi::new();
        let engine = pi.open(&case.config(settings)).unwrap();
        let done = engine.perform(case.enter(&pi)).await.unwrap();
        assert!(done.detail.contains("fetched 1 images, 1 could not be"), "{}", done.detail);
        assert_eq!(pi.world.lock().unwrap().pulled, ["docker.io/library/nginx:1.27.0"]);
        if case.kind == "kubeadm" {
            let hosts = pi.get("/etc/containerd/certs.d/docker.io/hosts.toml").unwrap();
            assert!(
                hosts.contains("[host.\"https://mirror.local:5000\"]") && hosts.contains("registry-1.docker.io"),
                "{hosts}"
            );
            assert!(toml::from_str::<toml::Table>(&hosts).is_ok());
            continue;
        }
        let config: serde_json::Value = serde_json::from_str(&pi.get("/etc/rancher/k3s/config.yaml").unwrap()).unwrap();
        assert_eq!(
            (&config["node-label"][0], &config["node-taint"][0]),
            (&"disk=ssd".into(), &"dedicated=db:NoSchedule".into())
        );
        assert_eq!((&config["node-ip"], &config["kubelet-arg"][0]), (&"10.0.0.7".into(), &"max-pods=40".into()));
        let of_server = ["tls-san", "cluster-cidr", "service-cidr", "advertise-address"]
            .iter()
            .all(|key| config.get(key).is_some());
        assert_eq!(of_server, case.role == "master", "{config}");
        let registries = pi.get("/etc/rancher/k3s/registries.yaml").unwrap();
        assert_eq!(registries, r#"{"mirrors":{"docker.io":{"endpoint":["https://mirror.local:5000"]}}}"#);
        for file in ["config.yaml", "registries.yaml", "beehive-token"] {
            assert_eq!(pi.mode(&format!("/etc/rancher/k3s/{file}")), 0o600, "{file}");
        }
        assert_eq!(pi.mode(&format!("/etc/systemd/system/{}.env", case.unit())), 0o600);
    }
}

#[tokio::test(start_paused = true)]
async fn mirrors_without_a_containerd_that_looks_for_them_are_named() {
    let pi = Pi::new();
    pi.put("/etc/containerd/config.toml", "version = 2\n");
    let engine = pi.open(&WORKERS[1].config("[engine.mirrors]\n\"docker.io\" = [\"https://m:5000\"]")).unwrap();
    let error = engine.perform(WORKERS[1].enter(&pi)).await.unwrap_err();
    assert_eq!(error.code, "runtime");
    assert!(error.reason.contains("config_path"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn add_ons_are_applied_in_order_and_again_where_they_came_too_early() {
    for case in MASTERS {
        let (pi, engine) = member(case).await;
        assert_eq!(engine.perform(EngineWork::AddOns).await.unwrap().code, "unchanged", "there are none");
        pi.put("/etc/beehive/add-ons/10-needs.yaml", "kind: Pool # needs-crd");
        pi.put("/etc/beehive/add-ons/05-first.yaml", "kind: Deployment # brings-crd, secret: c2VjcmV0");
        pi.put("/etc/beehive/add-ons/README.md", "not a manifest");
        let done = engine.perform(EngineWork::AddOns).await.unwrap();
        assert_eq!((done.code, done.detail.as_str()), ("done", "applied the add-ons 05-first.yaml, 10-needs.yaml"));
        let again = engine.perform(EngineWork::AddOns).await.unwrap();
        assert_eq!(again.code, "unchanged");
        assert_eq!(pi.world.lock().unwrap().applied.len(), 2);

        pi.world.lock().unwrap().applied.clear();
        std::fs::remove_file(pi.at("/etc/beehive/add-ons/05-first.yaml")).unwrap();
        let early = engine.perform(EngineWork::AddOns).await.unwrap_err();
        assert_eq!(early.code, "add-ons", "it is not tried for ever: {early}");
        pi.put("/etc/beehive/add-ons/10-needs.yaml", "is-wrong");
        let wrong = engine.perform(EngineWork::AddOns).await.unwrap_err();
        assert!(wrong.code == "add-ons" && wrong.reason.contains("10-needs.yaml"), "{wrong}");
        nothing_leaks(&pi, &[done.detail, early.reason, wrong.reason]);
    }
}

#[tokio::test(start_paused = true)]
async fn another_engine_than_the_one_that_made_it_touches_nothing() {
    let (pi, engine) = member(WORKERS[0]).await;
    drop(engine);
    let before = residue(&pi);
    let error = pi.open(&WORKERS[1].config("")).err().unwrap();
    assert_eq!((error.code, error.half), ("other-engine", Half::Clean));
    assert!(error.reason.contains("kind = \"k3s\""), "{error}");
    let simulated = Config::parse_on("crew = \"c\"\nrole = \"node\"", "b", "c-007").unwrap();
    assert_eq!(pi.open(&simulated).err().unwrap().code, "no-real-engine");
    assert_eq!(residue(&pi), before);
}

#[tokio::test(start_paused = true)]
async fn a_half_done_reset_tool_does_not_keep_a_node_from_its_reset() {
    // kubeadm itself is gone, as after the removal of its package
    let (pi, engine) = member(WORKERS[1]).await;
    let before = residue(&Pi::new());
    pi.world.lock().unwrap().packages.retain(|name, _| name == "containerd");
    engine.perform(EngineWork::Reset).await.unwrap();
    let left: Vec<String> = residue(&pi).difference(&before).cloned().collect();
    assert_eq!(left, Vec::<String>::new());
}

/// Each program in turn is ended at its deadline: the step says which and after how long, or goes on without it; and a unit
/// that does not stop is killed.
#[tokio::test(start_paused = true)]
async fn a_program_that_takes_too_long_is_named_and_a_unit_that_does_not_stop_is_killed() {
    for case in ALL {
        let mut at = 0;
        let mut late = 0;
        loop {
            let pi = Pi::new();
            let before = residue(&pi);
            let engine = open(&pi, case);
            pi.fault(at, Fault::Late);
            let done = engine.perform(case.enter(&pi)).await;
            let struck = pi.struck();
            pi.calm();
            if !struck {
                break;
            }
            if let Err(error) = done {
                late += usize::from(error.reason.contains(" took more than ") && error.code == "tool-deadline");
                pi.world.lock().unwrap().members.clear();
            }
            engine.perform(EngineWork::Reset).await.unwrap();
            assert_eq!(residue(&pi), before, "{case:?} at {at}");
            at += 1;
        }
        assert!(late > 3, "{case:?}: {late}");

        let (pi, engine) = member(case).await;
        pi.forget_calls();
        // is-active, then stop
        pi.fault(1, Fault::Late);
        engine.perform(EngineWork::Stop).await.unwrap();
        let unit = case.unit();
        let lines = pi.lines();
        assert_eq!(
            lines[1..4],
            [
                format!("/usr/bin/systemctl stop {unit}"),
                format!("/usr/bin/systemctl kill --signal=SIGKILL {unit}"),
                format!("/usr/bin/systemctl stop {unit}")
            ]
        );
        assert!(pi.world.lock().unwrap().processes.is_empty());
    }
}

/// The token is dead after its use; an agent of k3s shows its own certificate then.
#[tokio::test(start_paused = true)]
async fn a_member_starts_again_when_its_token_is_long_dead() {
    for case in WORKERS {
        let (pi, engine) = member(case).await;
        pi.world.lock().unwrap().tokens.clear();
        engine.perform(EngineWork::Stop).await.unwrap();
        engine.perform(EngineWork::Start).await.unwrap();
        pi.boot();
        assert!(pi.world.lock().unwrap().active.contains(case.unit()), "{case:?}");
        // but whoever left needs a new one
        engine.perform(EngineWork::Reset).await.unwrap();
        pi.world.lock().unwrap().members.clear();
        let error = engine.perform(case.enter(&pi)).await.unwrap_err();
        assert_eq!(error.code, "bad-credential", "{error}");
    }
}

/// What is ours in a join and a leave is bounded in calls of programs: each costs some ten milliseconds on a Pi.
#[tokio::test(start_paused = true)]
async fn a_join_and_a_leave_make_few_calls() {
    for case in ALL {
        let pi = Pi::new();
        let engine = open(&pi, case);
        let begin = tokio::time::Instant::now();
        engine.perform(case.enter(&pi)).await.unwrap();
        let join = pi.calls().len();
        pi.forget_calls();
        engine.perform(EngineWork::Reset).await.unwrap();
        let leave = pi.calls().len();
        let waited = begin.elapsed();
        println!("{case:?}: {join} calls to join, {leave} to leave, {waited:?} waited");
        assert!(join <= 30 && leave <= 45 && waited < Duration::from_secs(1), "{case:?}: {join} {leave} {waited:?}");
    }
}

/// What waiting does not mend is said at once, not after the ten minutes that a first start may take.
#[tokio::test(start_paused = true)]
async fn a_start_in_vain_is_told_early() {
    let pi = Pi::new();
    pi.world.lock().unwrap().no_memory_cgroup = true;
    let engine = open(&pi, MASTERS[0]);
    let begin = tokio::time::Instant::now();
    let error = engine.perform(MASTERS[0].enter(&pi)).await.unwrap_err();
    assert_eq!((error.code, error.half), ("cgroup", Half::HalfDone), "{error}");
    assert!(error.reason.contains("cgroup_memory=1 cgroup_enable=memory") && begin.elapsed() < Duration::from_secs(15));
    // mended, the same step ends, and the complaints of the attempt before are not heard again
    pi.world.lock().unwrap().no_memory_cgroup = false;
    assert_eq!(engine.perform(MASTERS[0].enter(&pi)).await.unwrap().code, "done");

    // with another token than that of its database it never starts
    pi.put("/etc/rancher/k3s/beehive-token", "another");
    engine.perform(EngineWork::Stop).await.unwrap();
    let error = engine.perform(EngineWork::Start).await.unwrap_err();
    assert_eq!(error.code, "other-token", "{error}");
    // and where nothing is known, its time is over some day
    std::fs::remove_file(pi.at("/etc/rancher/k3s/config.yaml")).unwrap();
    let begin = tokio::time::Instant::now();
    let error = engine.perform(EngineWork::Start).await.unwrap_err();
    assert_eq!(error.code, "not-ready", "{error}");
    assert!(begin.elapsed() >= Duration::from_secs(600) && begin.elapsed() < Duration::from_secs(700));
}

#[tokio::test(start_paused = true)]
async fn what_a_killed_process_left_in_memory_is_gone_at_the_next_start() {
    let pi = Pi::new();
    pi.put("/run/beehive-engine/kubeadm.conf", "a token");
    pi.put("/run/beehive-engine/.kubeadm.conf.beehive-new", "half a token");
    let engine = open(&pi, WORKERS[1]);
    assert_eq!(std::fs::read_dir(pi.at("/run/beehive-engine")).unwrap().count(), 0);
    assert_eq!(shown(&*engine), blank());
}
