//! The master's card dies: its coordinator is put back from a backup onto a new card and takes over in a new term, the crew
//! works, and then the old card comes back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "common/crew.rs"]
mod crew;
#[path = "common/keys.rs"]
mod keys;

use beehive_mqtt::command::{Command, Verb};
use beehive_mqtt::coordinator::CoordinatorState;
use beehive_mqtt::manifest::Manifest;
use beehive_mqtt::node::{Connection, Presence, Telemetry};
use beehive_mqtt::{Payload, Topic};
use common::{PATIENCE, Retain};
use crew::{Crew, Ended, MASTER, beehive, pi, read, until, wire};
use rumqttc::Publish;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const THREE: [&str; 3] = [MASTER, "pi-2", "pi-3"];

/// What stands for the master's card that was lost.
const OLD: &str = "pi-1-old-card";

fn replace(crew: &Crew) -> Ended {
    let folder = crew.keys.folder.path().to_str().unwrap();
    beehive(&["crew", "master", "replace", MASTER, "--term", "2", "--dir", folder])
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        // with its mode
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Waits until what the broker hands to somebody who comes now is as `wanted`.
async fn kept<P: Payload>(crew: &Crew, topic: &Topic, wanted: impl Fn(&P) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut late = crew.listener().await;
        let of_topic = |message: &Publish| message.retain && read::<P>(message, topic).is_some();
        let found: P = read(&late.find("what the broker keeps", of_topic).await, topic).unwrap();
        if wanted(&found) {
            return;
        }
        assert!(Instant::now() < deadline, "the broker keeps another {topic:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// How often the node `MASTER` and its coordinator have connected since the broker's start.
fn connections(crew: &Crew) -> usize {
    let log = crew.broker.log();
    let of_master = |line: &&str| line.contains(" as pi-1 ") || line.contains(" as pi-1-coordinator ");
    log.lines().filter(|line| line.contains("New client connected")).filter(of_master).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_card_takes_over_in_a_new_term_and_the_old_one_does_no_harm() {
    let mut crew = Crew::started(&THREE, 0);
    let cluster = crew.create();
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("backup");
    let config = crew.configure(MASTER);
    let (config, file) = (config.to_str().unwrap(), file.to_str().unwrap());

    // beside the daemon
    let saved = beehive(&["crew", "backup", "--config", config, "--to", file]);
    assert_eq!(saved.code, 0, "{saved:?}");
    let again = beehive(&["crew", "backup", "--config", config, "--to", file]);
    assert!(again.code == 1 && again.stderr.contains("is there already"), "{again:?}");
    // what the backup does not know of
    crew.console(&["node", "drain", "pi-3", "--wait"]).with(0);
    crew.console(&["node", "uncordon", "pi-3", "--wait"]).with(0);
    let early = beehive(&["crew", "restore", file, "--config", config]);
    assert!(early.code == 1 && early.stderr.contains("in use"), "{early:?}");

    // the card dies, and lies in a drawer with all that is on it
    let old_keys = scratch.path().join("old-keys");
    copy(&crew.keys.node_dir(MASTER), &old_keys);
    crew.kill(MASTER);
    crew.set_aside(MASTER, OLD);

    let replaced = replace(&crew);
    assert_eq!(replaced.code, 0, "{replaced:?}");
    assert!(replaced.stdout.contains("term 2") && replaced.stdout.contains("--renew-node pi-1"), "{replaced:?}");
    let again = replace(&crew);
    assert!(again.code == 0 && again.stdout.contains("nothing was changed"), "{again:?}");
    let restored = beehive(&["crew", "restore", file, "--config", config]);
    assert_eq!(restored.code, 0, "{restored:?}");

    // the new card
    crew.start(MASTER);
    let state = |message: &Publish| read::<CoordinatorState>(message, &Topic::CoordinatorState);
    let mut listener = crew.listener().await;
    listener.find("the new term", |message| state(message).is_some_and(|state| state.session.term == 2)).await;
    let identified = crew.console(&["node", "identify", "pi-2"]);
    identified.with(0);
    // the log is shorter than what this console has seen, and it says so
    assert!(identified.stderr.contains("ALARM"), "{identified:?}");
    let whole = || {
        let status = crew.status();
        let nodes = status["nodes"].as_array().unwrap();
        let ready = nodes.iter().all(|node| node["membership"] == "ready" && node["presence"] == "online");
        (ready && status["operations"] == serde_json::json!([])).then_some(())
    };
    until("the crew to be whole", PATIENCE, whole);
    assert_eq!(crew.is_ready(), cluster, "the same cluster");
    crew.console(&["node", "drain", "pi-3", "--wait"]).with(0);
    crew.console(&["node", "uncordon", "pi-3", "--wait"]).with(0);
    let rebuilt = crew.console(&["cluster", "rebuild", "--yes", "--wait"]).with(0);
    assert_eq!(rebuilt["outcome"]["phase"], "done", "{rebuilt:#}");
    let cluster = crew.is_ready();
    // one log, of both cards
    let key = replaced.stdout.lines().map(str::trim).find(|line| line.len() == 64).unwrap();
    let verified = beehive(&["audit", "verify", "--config", config, "--key", key]);
    assert_eq!(verified.code, 0, "{verified:?}");
    assert_eq!(beehive(&["audit", "verify", "--config", config]).code, 1, "the old key is not the new card's");

    // somebody puts the old card into a Pi
    crew.start_card(OLD, MASTER, &old_keys);
    crew.logged(OLD, "it was replaced, and says nothing more");
    crew.logged(OLD, "this coordinator does nothing");
    until("the crew to be whole again", PATIENCE, || {
        let status = crew.status();
        let nodes = status["nodes"].as_array().unwrap();
        nodes.iter().all(|node| node["membership"] == "ready" && node["presence"] == "online").then_some(())
    });
    // the new card has said again what the old one had said otherwise
    kept::<CoordinatorState>(&crew, &Topic::CoordinatorState, |state| state.session.term == 2).await;
    kept::<Manifest>(&crew, &Topic::Manifest, |manifest| manifest.term == 2).await;
    for topic in [Topic::Presence(pi(MASTER)), Topic::CoordinatorPresence] {
        let new = |presence: &Presence| presence.status == Connection::Online && presence.start > 100_000;
        kept::<Presence>(&crew, &topic, new).await;
    }
    assert_eq!(crew.is_ready(), cluster);
    let mut late = crew.listener().await;

    // what the old key signs is refused, whatever it says (the keys in memory are those of the start)
    let telemetry = Topic::Telemetry(pi("pi-2"));
    let untrusted =
        |message: &Publish| read::<Telemetry>(message, &telemetry).map(|telemetry| telemetry.refused.untrusted);
    let before = untrusted(&late.find("the count", |message| untrusted(message).is_some()).await).unwrap();
    let command = Topic::Command(pi("pi-2"));
    let now = late.find("the node's session", |message| crew::state(message, "pi-2").is_some()).await;
    let nonce = crew::state(&now, "pi-2").unwrap().nonce;
    let (id, term) = ("old-reset".parse().unwrap(), 99);
    let reset = Command { id, nonce, term, session: 99, operation: None, expires_ms: 60_000, verb: Verb::Reset };
    late.publish(&wire(&command), Retain::No, &crew.keys.signed(&command, &reset)).await;
    late.find("the refusal", |message| untrusted(message).is_some_and(|count| count > before)).await;
    assert_eq!(crew.is_ready(), cluster);

    // somebody puts the manifest of the term before in the place of ours: those who come later find ours all the same
    let early = fs::read(old_keys.join("manifest.json")).unwrap();
    late.publish(&wire(&Topic::Manifest), Retain::Yes, &early).await;
    kept::<Manifest>(&crew, &Topic::Manifest, |manifest| manifest.term == 2).await;

    // it is silent from now on, also when it starts again, while the crew works
    let quiet = connections(&crew);
    let (ended, _) = crew.terminate(OLD);
    assert_eq!(ended.code(), Some(0), "{}", crew.log(OLD));
    crew.start_card(OLD, MASTER, &old_keys);
    until("the second start to know it", PATIENCE, || {
        (crew.log(OLD).matches("it was replaced, and says nothing more").count() >= 2).then_some(())
    });
    let rebuilt = crew.console(&["cluster", "rebuild", "--yes", "--wait"]).with(0);
    assert_eq!(rebuilt["outcome"]["phase"], "done", "{rebuilt:#}");
    assert_ne!(crew.is_ready(), cluster);
    assert_eq!(connections(&crew), quiet, "{}", crew.broker.log());
}
