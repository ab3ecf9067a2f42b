//! The daemon as a program: real `beehive run` processes and the console against a real mosquitto on loopback, with the
//! simulated engine. Whoever starts first, dies or loses the broker finds its way back; what cannot be read changes
//! nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "common/crew.rs"]
mod crew;
#[path = "common/keys.rs"]
mod keys;

use beehive::crew::keys::{Change, KeyFolder};
use beehive_mqtt::command::{Command, Verb, VerbName};
use beehive_mqtt::console::{ConsoleResponse, ResponseStatus};
use beehive_mqtt::coordinator::{CoordinatorState, OperationPhase, StepKind, StepState};
use beehive_mqtt::node::{
    BrokerTrust, CommandResult, CommandStatus, Connection, NodeInfo, PartStatus, Presence, Telemetry,
};
use beehive_mqtt::{Payload, Topic, UserName, decode};
use common::{PATIENCE, Retain};
use crew::{Crew, Ended, MASTER, beehive, phase, pi, read, reports, run_refused, state, topic, until, wire};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::process::{Child, Stdio};
use std::time::Duration;

const THREE: [&str; 3] = [MASTER, "pi-2", "pi-3"];
const TWO: [&str; 2] = [MASTER, "pi-2"];

/// Long enough for a kill to hit the middle of a step.
const SLOW_STEP_MS: u64 = 200;

fn ann() -> UserName {
    "ann".parse().unwrap()
}

/// mosquitto_sub, which writes what it hears to a file, one message a line.
struct MosquittoSub {
    child: Child,
    heard: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

impl MosquittoSub {
    fn start(port: u16, filter: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let heard = dir.path().join("heard");
        let child = std::process::Command::new("mosquitto_sub")
            .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-q", "1", "-t", filter, "-F", "%r %t %p"])
            .stdin(Stdio::null())
            .stdout(File::create(&heard).unwrap())
            .spawn()
            .expect("mosquitto_sub is not installed: apt-get install mosquitto-clients");
        Self { child, heard, _dir: dir }
    }

    fn heard(&self) -> String {
        fs::read_to_string(&self.heard).unwrap()
    }
}

impl Drop for MosquittoSub {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn step_count(document: &Value) -> usize {
    document["plan"].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crew_is_created_and_rebuilt_and_a_plain_client_sees_everything() {
    let crew = Crew::started(&THREE, 0);
    let everything = MosquittoSub::start(crew.broker.port, "beehive/v1/bee/#");
    until("mosquitto_sub to hear the nodes", PATIENCE, || {
        THREE.iter().all(|name| everything.heard().contains(&format!("n/{name}/telemetry"))).then_some(())
    });

    let plan = crew.console(&["cluster", "create", "--dry-run"]).with(0);
    assert_eq!(plan["status"], "planned");
    assert!(step_count(&plan) > 3, "{plan:#}");
    assert_eq!(crew.status()["cluster"]["phase"], "absent");

    let first = crew.create();
    let again = crew.console(&["cluster", "create", "--wait"]).with(0);
    assert_eq!((&again["status"], &again["operation"]), (&json!("unchanged"), &Value::Null), "{again:#}");

    let rebuilt = crew.console(&["cluster", "rebuild", "--yes", "--wait"]).with(0);
    assert_eq!(rebuilt["outcome"]["phase"], "done", "{rebuilt:#}");
    let steps = rebuilt["outcome"]["counts"].clone();
    assert_eq!((&steps["failed"], &steps["skipped"], &steps["pending"]), (&json!(0), &json!(0), &json!(0)));
    let reported = rebuilt["outcome"]["steps"].as_array().unwrap();
    assert!(reported.iter().all(|step| step["state"] == "done"), "{rebuilt:#}");
    let second = crew.is_ready();
    assert_ne!(first, second, "a rebuilt cluster is a new one");

    // a node leaves and comes back
    let left = crew.console(&["node", "leave", "pi-3", "--yes", "--wait"]).with(0);
    assert_eq!(left["outcome"]["phase"], "done", "{left:#}");
    let shown = crew.console(&["node", "show", "pi-3"]).with(0);
    assert_eq!((&shown["lifecycle"], &shown["engine"]["cluster"]), (&json!("blank"), &Value::Null), "{shown:#}");
    crew.console(&["node", "join", "pi-3", "--wait"]).with(0);
    assert_eq!(crew.is_ready(), second);

    crew.console(&["node", "show", "pi-9"]).with(3);
    crew.console(&["node", "drain", "pi-9"]).with(3);

    // no Pi's pins are here: the agents say so, and have done all of the above
    let shown = crew.console(&["node", "show", "pi-2"]).with(0);
    for part in ["button", "poe_hat", "leds"] {
        assert_ne!(shown["info"][part]["status"], "works", "{shown:#}");
        assert_ne!(shown["info"][part]["detail"], "", "{shown:#}");
    }
    assert_eq!(shown["info"]["broker"], "loopback");

    // every kind of message, as plain JSON; the secret that lets a node in is in the command to that node and nowhere else
    let mut kinds = BTreeSet::new();
    let mut secrets = BTreeSet::new();
    let heard = everything.heard();
    let lines: Vec<&str> = heard.lines().collect();
    for line in &lines {
        let mut parts = line.splitn(3, ' ');
        let (_, name, payload) = (parts.next(), parts.next().unwrap(), parts.next().unwrap());
        let known = Topic::parse(&crew::bee(), name).unwrap();
        let kind = format!("{known:?}");
        kinds.insert(kind.split('(').next().unwrap().to_owned());
        if payload.is_empty() {
            continue;
        }
        let document: Value = serde_json::from_str(payload).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!([json!(1), json!(2)].contains(&document["v"]), "{line}");
        if let Some(body) = document["body"].as_str() {
            let body: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {line}"));
            assert!(body.is_object(), "{line}");
            if let Some(secret) = body["verb"]["credential"].as_str() {
                secrets.insert(secret.to_owned());
            }
        }
    }
    let all = [
        "Command",
        "ConsoleRequest",
        "ConsoleResponse",
        "CoordinatorEvent",
        "CoordinatorPresence",
        "CoordinatorState",
        "Event",
        "Info",
        "Manifest",
        "Operation",
        "OperationNode",
        "Presence",
        "Result",
        "State",
        "Telemetry",
    ];
    // a node asks (Request) when its button is pressed, and there is none here
    assert_eq!(kinds.iter().map(String::as_str).collect::<Vec<_>>(), all);
    assert!(secrets.len() >= 5, "each join has a credential of its own: {}", secrets.len());
    for secret in secrets {
        for name in THREE {
            assert!(!crew.log(name).contains(&secret), "a credential is in the log of {name}");
        }
        for line in lines.iter().filter(|line| line.contains(&secret)) {
            assert!(line.starts_with("0 beehive/v1/bee/d/"), "a credential outside its command: {line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_start_before_the_broker_and_the_master_find_their_way() {
    let mut crew = Crew::new(&THREE, 0);
    crew.broker.kill();
    for name in ["pi-2", "pi-3"] {
        crew.start(name);
    }
    for name in ["pi-2", "pi-3"] {
        crew.logged(name, "no connection to the broker");
    }
    crew.start(MASTER);
    crew.logged(MASTER, "the coordinator has no connection to the broker");
    crew.broker.restart();
    // the console asks until somebody is there to answer
    crew.create();
}

/// The coordinator waits for the word of those that it expects, from its connection on and not for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_never_comes_keeps_nobody_from_being_answered() {
    let mut crew = Crew::new(&TWO, 0);
    crew.broker.kill();
    crew.start(MASTER);
    crew.logged(MASTER, "the coordinator has no connection to the broker");
    crew.broker.restart();
    let plan = crew.console(&["cluster", "create", "--dry-run"]).with(0);
    assert_eq!(plan["status"], "planned");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_survives_the_death_of_the_broker() {
    let mut crew = Crew::started(&THREE, SLOW_STEP_MS);
    let first = crew.create();
    for (kind, node) in [(StepKind::Reset, None), (StepKind::Join, Some("pi-3"))] {
        let mut listener = crew.listener().await;
        let rebuild = crew.console_beside(&["cluster", "rebuild", "--yes", "--wait"]);
        listener.find("the step", |message| reports(message, node, kind, StepState::Running)).await;
        // it forgets everything
        crew.broker.restart();
        let rebuilt = rebuild.await.unwrap();
        assert!(rebuilt.stderr.contains("connection to the broker lost"), "{}", rebuilt.stderr);
        assert_eq!(rebuilt.with(0)["outcome"]["phase"], "done", "{kind}");
    }
    assert_ne!(crew.is_ready(), first);
}

/// Kills the master, coordinator and agent, while each of these steps of a rebuild runs, and starts it again.
async fn killed_while(moments: &[(StepKind, &str)]) {
    let mut crew = Crew::started(&THREE, SLOW_STEP_MS);
    let mut cluster = crew.create();
    for (kind, node) in moments {
        let mut listener = crew.listener().await;
        let rebuild = crew.console_beside(&["cluster", "rebuild", "--yes", "--wait"]);
        listener.find("the step", |message| reports(message, Some(node), *kind, StepState::Running)).await;
        crew.kill(MASTER);
        crew.start(MASTER);
        let rebuilt = rebuild.await.unwrap();
        assert_eq!(rebuilt.with(0)["outcome"]["phase"], "done", "killed while {kind} on {node}");
        let rebuilt = crew.is_ready();
        assert_ne!(rebuilt, cluster, "killed while {kind} on {node}");
        cluster = rebuilt;
    }
    assert!(crew.log(MASTER).contains("goes on with operation"), "{}", crew.log(MASTER));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_survives_the_death_of_its_coordinator_while_the_old_cluster_goes() {
    killed_while(&[(StepKind::Snapshot, MASTER), (StepKind::Reset, "pi-3"), (StepKind::Reset, MASTER)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_survives_the_death_of_its_coordinator_while_the_new_cluster_comes() {
    killed_while(&[
        (StepKind::Initialise, MASTER),
        (StepKind::WaitReady, MASTER),
        (StepKind::Join, "pi-3"),
        (StepKind::AddOns, MASTER),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dies_in_the_middle_of_its_join_is_brought_in() {
    let mut crew = Crew::started(&THREE, SLOW_STEP_MS);
    let mut listener = crew.listener().await;
    let create = crew.console_beside(&["cluster", "create", "--wait"]);
    let result = Topic::Result(pi("pi-3"));
    let joining = |status: CommandStatus| {
        let result = result.clone();
        move |message: &rumqttc::Publish| {
            read::<CommandResult>(message, &result)
                .is_some_and(|result| result.verb == VerbName::Join && result.status == status)
        }
    };
    listener.find("the join to begin", joining(CommandStatus::Accepted)).await;
    crew.kill("pi-3");
    crew.start("pi-3");
    // it cannot tell how far the first attempt came; it says so, is cleaned, and joins anew
    listener.find("the word on the first attempt", joining(CommandStatus::Interrupted)).await;
    listener.find("the second attempt", joining(CommandStatus::Succeeded)).await;
    assert_eq!(create.await.unwrap().with(0)["outcome"]["phase"], "done");
    crew.is_ready();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_cannot_store_does_nothing_until_it_can() {
    let crew = Crew::started(&TWO, 0);
    crew.logged("pi-2", "connected to the broker");
    // a folder in the place of the file that each new record is written to first
    let fresh = crew.state_file("pi-2", "node.new");
    until("a moment without a store", PATIENCE, || fs::create_dir(&fresh).ok());
    let create = crew.console_beside(&["cluster", "create", "--wait"]);
    crew.logged("pi-2", "cannot be stored");
    let shown = crew.console(&["node", "show", "pi-2"]).with(0);
    assert_eq!(shown["engine"]["cluster"], Value::Null, "begun although it would be forgotten: {shown:#}");
    fs::remove_dir(&fresh).unwrap();
    assert_eq!(create.await.unwrap().with(0)["outcome"]["phase"], "done");
    crew.is_ready();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_goes_from_member_to_member_and_survives_the_death_of_its_coordinator() {
    let mut crew = Crew::started(&THREE, SLOW_STEP_MS);
    let cluster = crew.create();
    assert_eq!(crew.console(&["cluster", "upgrade", "--wait"]).code, 2, "which version?");
    for (number, node) in [(2, MASTER), (3, "pi-3")] {
        let mut listener = crew.listener().await;
        let version = format!("simulated-{number}");
        let upgrade = ["cluster", "upgrade", "--engine-version", &version, "--wait"];
        let upgraded = crew.console_beside(&upgrade);
        let begun = |message: &rumqttc::Publish| reports(message, Some(node), StepKind::Upgrade, StepState::Running);
        listener.find("the upgrade of a member", begun).await;
        crew.kill(MASTER);
        crew.start(MASTER);
        let upgraded = upgraded.await.unwrap().with(0);
        assert_eq!(upgraded["outcome"]["phase"], "done", "{upgraded:#}");
        assert_eq!(crew.is_ready(), cluster, "it is the same cluster");
        let status = crew.status();
        for node in status["nodes"].as_array().unwrap() {
            assert_eq!(node["engine"]["version"], json!(version), "{status:#}");
        }
        assert_eq!(crew.console(&upgrade).with(0)["status"], "unchanged");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_to_be_left_alone_is_and_a_switch_feeds_who_is_off() {
    let dir = tempfile::tempdir().unwrap();
    let program = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        path.display().to_string()
    };
    let fed = dir.path().join("fed");
    let busy = dir.path().join("busy");
    let on = program("on", &format!("echo \"$@\" > {0}.new && mv {0}.new {0}", fed.display()));
    let may = program("may", &format!("[ ! -e {} ] || {{ echo a backup runs on $1; exit 1; }}", busy.display()));
    let mut crew = Crew::new(&THREE, 0);
    crew.cluster_extra = format!(
        "switch_on = [{on:?}, \"port\"]\n[cluster.blockers]\nlabels = [\"node-role.kubernetes.io/control-plane\"]\n\
         command = [{may:?}]\n"
    );
    for name in THREE {
        crew.start(name);
    }
    crew.create();

    let refused = crew.console(&["node", "drain", MASTER, "--wait"]).with(5);
    assert_eq!(refused["code"], "blocked", "{refused:#}");
    let text = refused["text"].as_str().unwrap();
    assert!(
        text.contains(&format!("{MASTER} is to be left alone: label node-role.kubernetes.io/control-plane")),
        "{text}"
    );
    fs::write(&busy, "").unwrap();
    let refused = crew.console(&["node", "drain", "pi-2", "--wait"]).with(5);
    assert!(refused["text"].as_str().unwrap().contains("a backup runs on pi-2"), "{refused:#}");
    let forced = crew.console(&["node", "drain", "pi-2", "--force", "--wait"]).with(0);
    assert!(
        forced["text"].as_str().unwrap().contains("set aside: pi-2: the operator's command: a backup"),
        "{forced:#}"
    );
    fs::remove_file(&busy).unwrap();
    crew.console(&["node", "uncordon", "pi-2", "--wait"]).with(0);

    crew.kill("pi-3");
    until("the broker to notice", PATIENCE, || {
        let status = crew.status();
        (status["nodes"][2]["presence"] == "offline").then_some(())
    });
    let start = crew.console_beside(&["cluster", "start", "--wait"]);
    until("the switch to be told", PATIENCE, || fs::read_to_string(&fed).ok().filter(|told| told == "port pi-3\n"));
    crew.start("pi-3");
    assert_eq!(start.await.unwrap().with(0)["outcome"]["phase"], "done");
    crew.is_ready();
}

/// A minute long: only after that a silent node is given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stays_dead_leaves_the_rebuild_partly_done_until_it_is_back() {
    let mut crew = Crew::started(&THREE, 0);
    crew.create();
    crew.kill("pi-3");
    let partly = crew.console(&["cluster", "rebuild", "--yes", "--wait"]).with(7);
    assert_eq!(partly["outcome"]["phase"], "partly_done", "{partly:#}");
    let failures = partly["outcome"]["failures"].as_array().unwrap();
    assert!(!failures.is_empty() && failures.iter().all(|failure| failure["node"] == "pi-3"), "{partly:#}");
    let status = crew.status();
    assert_eq!(status["cluster"]["phase"], "degraded", "{status:#}");
    let members: Vec<_> = status["nodes"].as_array().unwrap().iter().map(|node| &node["membership"]).collect();
    assert_eq!((members[0], members[1]), (&json!("ready"), &json!("ready")), "{status:#}");
    assert_ne!(members[2], "ready");

    crew.start("pi-3");
    crew.console(&["cluster", "resume", "--wait"]).with(0);
    crew.is_ready();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_operation_at_a_time_which_can_be_called_off_and_taken_up_again() {
    // slow enough for two more commands of the console while it runs
    let crew = Crew::started(&THREE, 5 * SLOW_STEP_MS);
    crew.create();
    let mut listener = crew.listener().await;
    let rebuild = crew.console_beside(&["cluster", "rebuild", "--yes", "--wait"]);
    listener.find("the first reset", |message| reports(message, None, StepKind::Reset, StepState::Running)).await;

    let refused = crew.console(&["cluster", "reset", "--yes", "--wait"]).with(5);
    assert_eq!(refused["code"], "one-operation-at-a-time", "{refused:#}");
    let running = refused["operation"].as_str().unwrap().to_owned();
    let leave = crew.console(&["node", "leave", "pi-3", "--yes"]).with(5);
    assert_eq!(leave["operation"], json!(running), "{leave:#}");

    crew.console(&["cluster", "abort", "--wait"]).with(0);
    let aborted = rebuild.await.unwrap().with(1);
    assert_eq!(aborted["outcome"]["phase"], "aborted", "{aborted:#}");
    assert_eq!(aborted["operation"], json!(running));
    listener.find("the abort", |message| phase(message) == Some(OperationPhase::Aborted)).await;
    assert_ne!(crew.status()["cluster"]["phase"], "ready");

    let resumed = crew.console(&["cluster", "resume", "--wait"]).with(0);
    assert_eq!((&resumed["operation"], &resumed["outcome"]["phase"]), (&json!(running), &json!("done")));
    crew.is_ready();
    // there is nothing left to call off
    let nothing = crew.console(&["cluster", "abort"]);
    assert!(matches!(nothing.code, 0 | 5), "{nothing:?}");
    assert_ne!(nothing.document()["status"], "started");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_runs_once_however_often_it_comes() {
    let mut crew = Crew::started(&TWO, 0);
    let mut listener = crew.listener().await;
    let create = crew.console_beside(&["cluster", "create", "--wait"]);
    let command = Topic::Command(pi("pi-2"));
    let joins = |message: &rumqttc::Publish| {
        read::<Command>(message, &command).filter(|command| command.verb.name() == VerbName::Join)
    };
    let recorded = listener.find("the command to join", |message| joins(message).is_some()).await;
    let join = joins(&recorded).unwrap();
    create.await.unwrap().with(0);
    crew.console(&["node", "leave", "pi-2", "--yes", "--wait"]).with(0);

    let result = Topic::Result(pi("pi-2"));
    let is_answer = |message: &rumqttc::Publish| {
        read::<CommandResult>(message, &result).filter(|result| result.id == join.id && result.status.is_final())
    };
    for start in ["the same start", "the next start"] {
        let mut replayer = crew.listener().await;
        let now = replayer.find("the node's session", |message| state(message, "pi-2").is_some()).await;
        let nonce = state(&now, "pi-2").unwrap().nonce;
        for _ in 0..3 {
            replayer.publish(&wire(&command), Retain::No, &recorded.payload).await;
            let answer = replayer.find("the old answer", |message| is_answer(message).is_some()).await;
            let answer = is_answer(&answer).unwrap();
            assert_eq!((answer.verb, answer.status), (VerbName::Join, CommandStatus::Succeeded), "{start}");
        }
        // a command that is new comes after them, and its answer after whatever they would have done
        let blink = Command {
            id: format!("blink-{}", start.replace(' ', "-")).parse().unwrap(),
            nonce,
            term: join.term,
            session: join.session,
            operation: None,
            expires_ms: 10_000,
            verb: Verb::Identify { seconds: 1 },
        };
        replayer.publish(&wire(&command), Retain::No, &crew.keys.signed(&Topic::Command(pi("pi-2")), &blink)).await;
        replayer
            .find("the answer to the new one", |message| {
                read::<CommandResult>(message, &result).is_some_and(|result| result.id == blink.id)
            })
            .await;
        let shown = crew.console(&["node", "show", "pi-2"]).with(0);
        assert_eq!((&shown["lifecycle"], &shown["engine"]["cluster"]), (&json!("blank"), &Value::Null), "{start}");

        // an older term is no longer obeyed
        let old = Command { id: format!("old-{}", start.replace(' ', "-")).parse().unwrap(), term: 0, ..blink };
        replayer.publish(&wire(&command), Retain::No, &crew.keys.signed(&Topic::Command(pi("pi-2")), &old)).await;
        let answer = replayer
            .find("the refusal", |message| {
                read::<CommandResult>(message, &result).is_some_and(|result| result.id == old.id)
            })
            .await;
        let answer: CommandResult = decode(&answer.payload).unwrap();
        assert_eq!((answer.status, answer.code.as_str()), (CommandStatus::Rejected, "old-term"), "{start}");
        drop(replayer);
        if start == "the same start" {
            crew.kill("pi-2");
            let mut waiting = crew.listener().await;
            crew.start("pi-2");
            waiting
                .find("the next start", |message| state(message, "pi-2").is_some_and(|state| state.start == 2))
                .await;
        }
    }
}

/// What must not change, whatever a stranger sends.
async fn picture(crew: &Crew) -> Value {
    let mut status = crew.status();
    for node in status["nodes"].as_array_mut().unwrap() {
        let node = node.as_object_mut().unwrap();
        node.remove("led");
    }
    status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_counted_answered_and_changes_nothing() {
    let mut crew = Crew::new(&TWO, 0);
    let keys = std::sync::Arc::clone(&crew.keys);
    let command = wire(&Topic::Command(pi("pi-2")));
    let reset = |id: &str| {
        let id = id.parse().unwrap();
        let nonce = "another".parse().unwrap();
        let reset =
            Command { id, nonce, term: 99, session: 99, operation: None, expires_ms: 60_000, verb: Verb::Reset };
        keys.signed(&Topic::Command(pi("pi-2")), &reset)
    };
    let mut stranger = crew.listener().await;
    // kept by the broker since before the node was there
    stranger.publish(&command, Retain::Yes, &reset("kept")).await;
    for name in TWO {
        crew.start(name);
    }
    crew.create();
    let before = picture(&crew).await;

    let version: Vec<u8> = String::from_utf8(reset("version")).unwrap().replace("\"v\":2", "\"v\":3").into_bytes();
    assert_ne!(version, reset("version"));
    let deep = format!("{{\"v\":1,\"body\":{}", "[".repeat(2_000));
    let oversized = vec![b'x'; Command::MAX_BYTES + 1];
    for payload in [&b"garbage"[..], b"", b"{}", b"\xff\xfe", b"{\"v\":1,\"body\":\"{}\"}", deep.as_bytes()] {
        stranger.publish(&command, Retain::No, payload).await;
    }
    stranger.publish(&command, Retain::No, &version).await;
    stranger.publish(&command, Retain::No, &oversized).await;
    stranger.publish("beehive/v1/wasp/d/pi-2/command", Retain::No, &reset("foreign")).await;
    stranger.publish("beehive/v2/bee/d/pi-2/command", Retain::No, &reset("future")).await;
    // what the node sees of this is counted, in its next telemetry
    let telemetry = Topic::Telemetry(pi("pi-2"));
    let counted =
        |message: &rumqttc::Publish| read::<Telemetry>(message, &telemetry).map(|telemetry| telemetry.refused);
    let counts =
        stranger.find("the counts", |message| counted(message).is_some_and(|refused| refused.malformed > 0)).await;
    let counts = counted(&counts).unwrap();
    assert_eq!((counts.malformed, counts.oversized, counts.unknown_version), (5, 1, 1), "{counts:?}");
    assert_eq!(counts.untrusted, 1, "{counts:?}");
    assert!(counts.retained >= 1, "{counts:?}");
    let log = crew.log("pi-2");
    for kind in ["malformed", "oversized", "unknown-version", "retained", "untrusted"] {
        let lines = log.lines().filter(|line| line.contains(&format!("kind=\"{kind}\""))).count();
        assert_eq!(lines, 1, "one line a kind and minute, {kind}:\n{log}");
    }
    assert!(log.lines().filter(|line| line.contains("kind=Refused")).count() <= 5, "a flood fills the log:\n{log}");

    // garbage in a node's name, to the coordinator
    for leaf in ["state", "presence", "result", "request"] {
        stranger.publish(&format!("beehive/v1/bee/n/pi-2/{leaf}"), Retain::No, b"garbage").await;
        stranger.publish(&format!("beehive/v1/bee/n/pi-2/{leaf}"), Retain::No, &oversized).await;
        stranger.publish(&format!("beehive/v1/bee/n/Pi_2/{leaf}"), Retain::No, b"{}").await;
    }
    // somebody who asks gets an answer
    let request = wire(&Topic::ConsoleRequest(ann()));
    let response = Topic::ConsoleResponse(ann());
    for (payload, code) in [
        (&b"garbage"[..], "malformed"),
        (b"{\"v\":7,\"body\":\"{}\"}", "unknown-version"),
        (b"{\"v\":1,\"body\":\"{\\\"id\\\":\\\"x\\\"}\"}", "unsigned"),
        (&oversized, "oversized"),
    ] {
        stranger.publish(&request, Retain::No, payload).await;
        let answer = stranger
            .find("the answer to what cannot be read", |message| {
                read::<ConsoleResponse>(message, &response).is_some_and(|answer| answer.code.as_str() == code)
            })
            .await;
        let answer: ConsoleResponse = decode(&answer.payload).unwrap();
        let status = if code == "unsigned" { ResponseStatus::NotAuthorised } else { ResponseStatus::Invalid };
        assert_eq!((answer.status, answer.id.as_str()), (status, "unreadable"));
        assert!(!answer.text.is_empty());
    }

    assert_eq!(picture(&crew).await, before);
    // and all of it still works
    let ready = crew.is_ready();
    crew.console(&["cluster", "rebuild", "--yes", "--wait"]).with(0);
    assert_ne!(crew.is_ready(), ready);
    assert!(!crew.log("pi-2").contains("panicked") && !crew.log(MASTER).contains("panicked"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orderly_end_says_offline_and_takes_no_time() {
    let mut crew = Crew::started(&TWO, 0);
    crew.create();
    for (name, topics) in [
        ("pi-2", vec![Topic::Presence(pi("pi-2"))]),
        (MASTER, vec![Topic::Presence(pi(MASTER)), Topic::CoordinatorPresence]),
    ] {
        let (status, took) = crew.terminate(name);
        assert_eq!(status.code(), Some(0), "{}", crew.log(name));
        assert!(took < Duration::from_secs(3), "{name} took {took:?}");
        // what the broker keeps, as somebody sees it who comes later
        let mut later = crew.listener().await;
        for wanted in topics {
            // the listener hears what is kept in any order
            drop(std::mem::replace(&mut later, crew.listener().await));
            let kept = later.find("the presence", |message| topic(message).as_ref() == Some(&wanted)).await;
            let presence: Presence = decode(&kept.payload).unwrap();
            assert!(kept.retain);
            assert_eq!(presence.status, Connection::Offline, "{wanted:?}");
            assert!(presence.reason.as_str().ends_with(" stops"), "in order, not by the last will: {presence:?}");
        }
    }
    // without a broker there is nobody to say it to, and no reason to wait
    crew.start("pi-2");
    crew.broker.kill();
    crew.logged("pi-2", "no connection to the broker");
    let (status, took) = crew.terminate("pi-2");
    assert_eq!(status.code(), Some(0), "{}", crew.log("pi-2"));
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_elsewhere_is_refused_unless_the_configuration_insists() {
    let mut crew = Crew::new(&TWO, 0);
    crew.host = "192.0.2.1";
    let config = crew.configure(MASTER);
    let Ended { code, stdout, stderr } = run_refused(&config);
    assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
    let place = format!("{}:7:", config.display());
    assert!(stderr.contains(&place) && stderr.contains("insecure_test_broker = true"), "{stderr}");
    assert!(stderr.contains("tls = \"on\""), "{stderr}");

    // a name of loopback that does not look like one, so that nothing leaves this machine
    crew.host = "127.1";
    assert_eq!(run_refused(&crew.configure(MASTER)).code, 2);
    crew.broker_extra = "insecure_test_broker = true";
    let mut listener = crew.listener().await;
    for name in TWO {
        crew.start(name);
    }
    for name in TWO {
        let wanted = Topic::Info(pi(name));
        let info = listener.find("the info", |message| topic(message).as_ref() == Some(&wanted)).await;
        let info: NodeInfo = decode(&info.payload).unwrap();
        assert_eq!(info.broker, BrokerTrust::InsecureTest);
        assert_ne!(info.button.status, PartStatus::Works);
        drop(std::mem::replace(&mut listener, crew.listener().await));
        crew.logged(name, "insecure_test_broker");
    }
    // the engine is the simulated one, so what destroys is done
    crew.create();
    crew.console(&["cluster", "reset", "--yes", "--wait"]).with(0);
    assert_eq!(crew.status()["cluster"]["phase"], "absent");
}

#[test]
fn a_pi_without_its_certificates_speaks_to_nobody_and_goes_on() {
    let mut crew = Crew::new(&TWO, 0);
    crew.broker_extra = "tls = \"on\"";
    crew.start("pi-2");
    crew.logged("pi-2", "connects to no broker");
    // it is up and attends to its Pi: its node's core has said so
    crew.logged("pi-2", "kind=Started");
    assert!(!crew.broker.log().contains("pi-2"), "it went to the broker without TLS: {}", crew.broker.log());
    let (status, _) = crew.terminate("pi-2");
    assert_eq!(status.code(), Some(0), "{}", crew.log("pi-2"));
    assert!(!crew.broker.log().contains("pi-2"), "{}", crew.broker.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_whose_term_was_given_to_another_stops_until_it_is_granted_again() {
    let crew = Crew::started(&TWO, 0);
    let cluster = crew.create();
    let mut listener = crew.listener().await;
    let state = |message: &rumqttc::Publish| read::<CoordinatorState>(message, &Topic::CoordinatorState);
    let presence = |message: &rumqttc::Publish| read::<Presence>(message, &Topic::CoordinatorPresence);
    listener.find("the coordinator", |message| state(message).is_some_and(|state| state.session.term == 1)).await;
    let folder = KeyFolder::new(crew.keys.folder.path());
    let grant = |to: &str| {
        let manifest = folder.change(&Change::Grant(pi(to))).unwrap();
        (manifest.term, fs::read(crew.keys.folder.path().join("manifest.json")).unwrap())
    };
    let (term, other) = grant("pi-2");
    assert_eq!(term, 2);
    listener.publish(&wire(&Topic::Manifest), Retain::Yes, &other).await;
    let gone =
        |message: &rumqttc::Publish| presence(message).is_some_and(|presence| presence.status == Connection::Offline);
    listener.find("its last will", gone).await;
    crew.logged(MASTER, "names pi-2 as coordinator now; this one stops");
    // it says nothing more: what it signs counts for nobody any more, so nobody is told of it either
    let refused = crew.console(&["node", "identify", "pi-2", "--timeout", "2"]);
    assert_ne!(refused.code, 0, "{refused:?}");
    // its agent goes on, and hears that it is granted again
    let (term, back) = grant(MASTER);
    assert_eq!(term, 3);
    listener.publish(&wire(&Topic::Manifest), Retain::Yes, &back).await;
    let again = listener
        .find("the coordinator in its new term", |message| state(message).is_some_and(|state| state.session.term == 3))
        .await;
    assert_eq!(state(&again).unwrap().cluster.unwrap().as_str(), cluster);
    crew.console(&["node", "identify", "pi-2"]).with(0);
    assert_eq!(crew.is_ready(), cluster);
}

#[test]
fn one_command_makes_a_crew_with_its_keys_certificates_and_broker() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("bee");
    let args = ["crew", "init", "bee", "--node", "pi-1", "--node", "pi-2", "--operator", "ann", "--dir"];
    let made = beehive(&[&args[..], &[root.to_str().unwrap()]].concat());
    assert_eq!(made.code, 0, "{made:?}");
    assert!(made.stdout.contains("beehive broker apply") && made.stdout.contains("crew.key"), "{made:?}");
    for who in ["nodes/pi-1", "nodes/pi-2", "operators/ann"] {
        for file in ["identity.toml", "crew.pub", "manifest.json", "ca.crt", "tls.crt", "tls.key"] {
            assert!(root.join(who).join(file).is_file(), "{who}/{file}");
        }
    }
    assert!(fs::read_dir(root.join("broker")).unwrap().count() >= 4);
    for secret in ["crew.key", "nodes/pi-1/identity.toml", "nodes/pi-1/tls.key", "operators/ann/tls.key"] {
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(root.join(secret)).unwrap().permissions());
        assert_eq!(mode & 0o077, 0, "{secret} may be read by others");
    }
    // and does not do so twice
    let again = beehive(&[&args[..], &[root.to_str().unwrap()]].concat());
    assert_eq!(again.code, 1, "{again:?}");
}

#[test]
fn a_wrong_configuration_is_refused_with_line_and_column() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("b.toml");
    for (text, place) in [
        (
            "crew = \"bee\"\nnode = \"pi-1\"\nrole = \"node\"\n[broker]\nhots = \"127.0.0.1\"\n",
            ":5:1: unknown key `hots`",
        ),
        ("crew = \"bee\"\nnode = \"pi-1\"\nrole = \"queen\"\n", ":3:8: role"),
        ("crew = \"bee\"\nnode = \n", ":2:"),
    ] {
        fs::write(&path, text).unwrap();
        for arguments in [["run", "--config"], ["config", "check"]] {
            let Ended { code, stdout, stderr } = beehive(&[arguments[0], arguments[1], path.to_str().unwrap()]);
            assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
            assert!(stderr.contains(&format!("{}{place}", path.display())), "{stderr}");
        }
    }
}
