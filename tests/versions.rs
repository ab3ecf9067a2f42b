//! Two versions of the protocol in one crew: real `beehive run` processes and consoles against a real mosquitto, some of which
//! play the program before (`BEEHIVE_TEST_PROTOCOL`; they read and write version 1 alone). A crew is upgraded Pi by Pi, the
//! master first, and set back, and works all the while.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "common/crew.rs"]
mod crew;
#[path = "common/keys.rs"]
mod keys;

use beehive_mqtt::coordinator::CoordinatorState;
use beehive_mqtt::node::{NodeInfo, NodeState};
use beehive_mqtt::{ProtocolVersion, SpokenVersion, Topic, decode};
use common::{PATIENCE, Plain, Retain};
use crew::{Crew, MASTER, pi, read, topic, until};
use rumqttc::Publish;
use serde_json::{Value, json};

const THREE: [&str; 3] = [MASTER, "pi-2", "pi-3"];

/// The version that a message is written in.
fn version(message: &Publish) -> u64 {
    let document: Value = serde_json::from_slice(&message.payload).unwrap();
    document["v"].as_u64().unwrap()
}

/// The versions of the commands to a node among these messages.
fn told(heard: &[Publish], node: &str) -> Vec<u64> {
    let command = Topic::Command(pi(node));
    let mut all: Vec<u64> =
        heard.iter().filter(|message| topic(message).as_ref() == Some(&command)).map(version).collect();
    all.dedup();
    all
}

/// What was heard until the broker gives back a message of our own.
async fn heard_until_now(listener: &mut Plain) -> Vec<Publish> {
    const MARK: &str = "beehive/v1/bee/mark";
    listener.publish(MARK, Retain::No, b"here").await;
    let mut heard = Vec::new();
    loop {
        let message = listener.next("our own mark").await;
        if message.topic == MARK {
            return heard;
        }
        heard.push(message);
    }
}

/// Waits until the coordinator's state is written in `version`.
async fn state_in(listener: &mut Plain, wanted: u64) -> CoordinatorState {
    let of_it = |message: &Publish| topic(message) == Some(Topic::CoordinatorState) && version(message) == wanted;
    let message = listener.find("the coordinator's state in that version", of_it).await;
    decode(&message.payload).unwrap()
}

/// Waits until a node's state is written in `version`.
async fn node_in(listener: &mut Plain, node: &str, wanted: u64) -> NodeState {
    let of_it = |message: &Publish| topic(message) == Some(Topic::State(pi(node))) && version(message) == wanted;
    let message = listener.find("the node's state in that version", of_it).await;
    decode(&message.payload).unwrap()
}

/// No program refused a message because of its version.
fn nobody_missed_a_word(crew: &Crew) {
    for name in THREE {
        let log = crew.log(name);
        assert!(!log.contains("unknown-version"), "{name}:\n{log}");
    }
}

/// The node restarts with the program of this version.
fn restarts(crew: &mut Crew, name: &'static str, version: ProtocolVersion) {
    crew.terminate(name);
    match version {
        ProtocolVersion::V1 => crew.before.insert(name),
        ProtocolVersion::V2 => crew.before.remove(name),
    };
    crew.start(name);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_the_version_before_works_under_a_coordinator_of_this_one() {
    let mut crew = Crew::new(&THREE, 0);
    crew.before.insert("pi-2");
    let mut listener = crew.listener().await;
    for name in THREE {
        crew.start(name);
    }
    let first = crew.create();
    // it is told what is new of nothing, leaves, comes back, and is reset and joined once more in a rebuild
    crew.console(&["node", "identify", "pi-2", "--wait"]).with(0);
    crew.console(&["node", "leave", "pi-2", "--yes", "--wait"]).with(0);
    crew.console(&["node", "join", "pi-2", "--wait"]).with(0);
    let rebuilt = crew.console(&["cluster", "rebuild", "--yes", "--wait"]).with(0);
    assert_eq!(rebuilt["outcome"]["phase"], "done", "{rebuilt:#}");
    assert_ne!(crew.is_ready(), first);

    // what it does not know is refused before anything of it begins, and by its name
    let refused = crew.console(&["cluster", "upgrade", "--engine-version", "v1.32.0"]).with(5);
    assert_eq!((&refused["status"], &refused["code"]), (&json!("refused"), &json!("protocol-version")), "{refused:#}");
    let text = refused["text"].as_str().unwrap();
    assert_eq!(text, "pi-2 speaks protocol version 1, and upgrade needs 2; upgrade beehive there first");

    let heard = heard_until_now(&mut listener).await;
    assert_eq!(told(&heard, "pi-2"), [1], "each in its own");
    assert_eq!(told(&heard, "pi-3"), [2]);
    // what everybody reads is in what everybody reads
    for message in heard.iter().filter(|message| !message.payload.is_empty()) {
        match topic(message).unwrap() {
            Topic::Command(_) => {}
            Topic::Info(node) => {
                let info: NodeInfo = read(message, &Topic::Info(node.clone())).unwrap();
                assert_eq!(info.speaks, (node != pi("pi-2")).then_some(SpokenVersion(2)), "{node}");
                assert_eq!(version(message), 1);
            }
            // that request itself is of the version that knows it
            Topic::ConsoleRequest(_) | Topic::ConsoleResponse(_) => {}
            of => assert_eq!(version(message), 1, "{of:?}"),
        }
    }
    nobody_missed_a_word(&crew);

    // a console of the version before reads all of it, and is answered
    let status = crew.console_before(&["status"]).with(0);
    assert_eq!(status["cluster"]["phase"], "ready", "{status:#}");
    assert!(status["nodes"].as_array().unwrap().iter().all(|node| node["lifecycle"] == "member"), "{status:#}");
    let unchanged = crew.console_before(&["cluster", "create", "--wait"]).with(0);
    assert_eq!(unchanged["status"], "unchanged", "{unchanged:#}");
    let shown = crew.console(&["node", "show", "pi-3"]).with(0);
    assert_eq!((&shown["protocol"], &shown["info"]["speaks"]), (&json!(2), &json!(2)), "{shown:#}");
    let shown = crew.console(&["node", "show", "pi-2"]).with(0);
    assert_eq!((&shown["protocol"], &shown["info"]["speaks"]), (&Value::Null, &Value::Null), "{shown:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crew_is_upgraded_the_master_first_and_set_back_and_works_all_the_while() {
    let mut crew = Crew::new(&THREE, 0);
    crew.before.extend(THREE);
    let mut listener = crew.listener().await;
    for name in THREE {
        crew.start(name);
    }
    let cluster = crew.create();
    let heard = heard_until_now(&mut listener).await;
    assert!(heard.iter().filter(|message| !message.payload.is_empty()).all(|message| version(message) == 1));
    assert_eq!(state_in(&mut listener, 1).await.speaks, None, "the version before has no word for it");

    // the master first: a coordinator of today over nodes of the version before
    restarts(&mut crew, MASTER, ProtocolVersion::V2);
    let speaks = Some(SpokenVersion(2));
    listener
        .find("the new coordinator", |message| {
            read::<CoordinatorState>(message, &Topic::CoordinatorState).is_some_and(|state| state.speaks == speaks)
        })
        .await;
    crew.console(&["node", "leave", "pi-2", "--yes", "--wait"]).with(0);
    restarts(&mut crew, "pi-2", ProtocolVersion::V2);
    crew.console(&["node", "join", "pi-2", "--wait"]).with(0);
    // nobody is of the version before any more, and the crew goes over
    restarts(&mut crew, "pi-3", ProtocolVersion::V2);
    let state = state_in(&mut listener, 2).await;
    assert!(state.members.iter().all(|member| member.speaks == speaks), "{state:?}");
    for name in THREE {
        node_in(&mut listener, name, 2).await;
    }
    until("the crew to be ready", PATIENCE, || (crew.status()["cluster"]["phase"] == "ready").then_some(()));
    assert_eq!(crew.is_ready(), cluster);
    let of_before = crew.console_before(&["status", "--timeout", "2"]);
    assert_ne!(of_before.document()["cluster"]["phase"], "ready", "it is too old to read any of it: {of_before:?}");

    // one is set back, and hears what is said although the crew had gone over
    restarts(&mut crew, "pi-3", ProtocolVersion::V1);
    state_in(&mut listener, 1).await;
    node_in(&mut listener, "pi-2", 1).await;
    crew.console(&["node", "identify", "pi-3", "--wait"]).with(0);
    let heard = heard_until_now(&mut listener).await;
    assert_eq!(told(&heard, "pi-3"), [1]);

    // and the master too: nodes of today under a coordinator of the version before
    restarts(&mut crew, MASTER, ProtocolVersion::V1);
    listener
        .find("the coordinator of the version before", |message| {
            read::<CoordinatorState>(message, &Topic::CoordinatorState).is_some_and(|state| state.speaks.is_none())
        })
        .await;
    until("the crew to be ready", PATIENCE, || (crew.status()["cluster"]["phase"] == "ready").then_some(()));
    crew.console(&["node", "leave", "pi-2", "--yes", "--wait"]).with(0);
    crew.console(&["node", "join", "pi-2", "--wait"]).with(0);
    assert_eq!(crew.is_ready(), cluster);
}
