//! An operator tells a node something without the coordinator: the real console and a real mosquitto, `beehive run` where
//! nothing but a blink is asked for, and an agent on a simulated machine where the Pi goes off.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "common/crew.rs"]
mod crew;
#[path = "common/keys.rs"]
mod keys;

use beehive::agent::{self, AgentParts, AgentSettings};
use beehive::crew::keys::{Change, KeyFolder};
use beehive::engine::simulated::{Settings, SimulatedEngine};
use beehive::hal::simulated::SimulatedBoard;
use beehive::host::simulated::{HandOver, SimulatedHost};
use beehive::host::{Doors, Host, Strength};
use beehive::keys::Identity;
use beehive::link::{Link, LinkConfig, OwnPresence};
use beehive::store::Store;
use beehive_board::gesture::Thresholds;
use beehive_board::power::{Deadlines, Goal};
use beehive_cluster::Destruction;
use beehive_mqtt::direct::DIRECT_QUIET_MS;
use beehive_mqtt::manifest::UserRole;
use beehive_mqtt::node::{BrokerTrust, Role};
use beehive_mqtt::{Audience, Topic};
use common::PATIENCE;
use crew::{BEEHIVE, Crew, Ended, MASTER, pi, until};
use serde_json::json;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const TWO: [&str; 2] = [MASTER, "pi-2"];

/// Asks until nobody says any more that a coordinator was or could have been heard. Each time is another request.
fn once_it_is_quiet(mut ask: impl FnMut() -> Ended) -> (Ended, Duration) {
    let begun = Instant::now();
    let mut asked_at: Option<Instant> = None;
    let quiet = Duration::from_millis(DIRECT_QUIET_MS);
    let ended = until("the silence", quiet + PATIENCE, || {
        // seldom: what is refused is remembered, and a node's memory of one session is small
        if asked_at.is_some_and(|at| at.elapsed() < Duration::from_secs(4)) {
            return None;
        }
        asked_at = Some(Instant::now());
        let ended = ask();
        if ended.code == 5 {
            assert_eq!(ended.document()["code"], "coordinator-alive", "{ended:?}");
            return None;
        }
        Some(ended)
    });
    (ended, begun.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_blinks_without_a_coordinator_and_refuses_beside_one() {
    let mut crew = Crew::started(&TWO, 0);
    crew.create();
    let identify = ["node", "identify", "pi-2", "--direct"];
    let refused = crew.console(&identify);
    let document = refused.with(5);
    assert_eq!(
        (&document["status"], &document["code"]),
        (&json!("rejected"), &json!("coordinator-alive")),
        "{document:#}"
    );
    assert!(refused.stderr.contains("without --direct"), "{}", refused.stderr);
    // neither is the other way round a node that the crew has not got
    crew.console(&["node", "identify", "pi-9", "--direct"]).with(3);

    crew.kill(MASTER);
    let asked = crew.console(&["node", "identify", "pi-2", "--timeout", "2"]);
    assert_ne!(asked.code, 0, "{asked:?}");
    assert!(asked.stderr.contains("beehive node identify pi-2 --direct"), "{}", asked.stderr);
    let (done, took) = once_it_is_quiet(|| crew.console(&identify));
    let document = done.with(0);
    assert_eq!((&document["status"], &document["verb"]), (&json!("succeeded"), &json!("identify")), "{document:#}");
    assert!(took > Duration::from_millis(DIRECT_QUIET_MS / 2), "{took:?}");
    crew.logged("pi-2", "ann: identify without a coordinator");

    // it is back, and speaks for itself again
    crew.start(MASTER);
    crew.console(&["node", "identify", "pi-2", "--wait"]).with(0);
    assert_eq!(crew.console(&identify).with(5)["code"], "coordinator-alive");
}

/// The console as a user of a crew without a master; nothing of it runs but one agent.
fn console(port: u16, folder: &std::path::Path, user: &str, args: &[&str]) -> Ended {
    let mut command = Command::new(BEEHIVE);
    for variable in ["BEEHIVE_BROKER", "BEEHIVE_CREW", "BEEHIVE_USER", "BEEHIVE_IDENTITY", "RUST_LOG"] {
        command.env_remove(variable);
    }
    let broker = format!("127.0.0.1:{port}");
    command.args(["--broker", &broker, "--crew", "bee", "--user", user, "--json", "--identity"]);
    command.arg(folder.join("operators").join(user)).args(args).stdin(Stdio::null());
    let output = command.output().unwrap();
    Ended {
        code: output.status.code().expect("ended by a signal"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_switched_off_without_a_coordinator_once_and_by_an_operator_alone() {
    let broker = common::Mosquitto::start();
    let keys = keys::Keys::new("bee", &TWO, &["ann"]);
    let folder = keys.folder.path().to_owned();
    KeyFolder::new(&folder).change(&Change::User("door".parse().unwrap(), UserRole::Bridge)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let node = pi("pi-2");
    let settings = Settings { step_ms: 0, ..Settings::default() };
    let engine = SimulatedEngine::new(node.clone(), store.clone(), None, settings).unwrap();
    let (host, mut hand_overs) = SimulatedHost::new("boot-pi-2".parse().unwrap());
    let (board, _hands) = SimulatedBoard::build();
    let (doors, _nobody, knocks) = Doors::unattended();
    let identity = Identity::load(&folder.join("nodes/pi-2")).unwrap();
    let (link, inbound) = Link::spawn(LinkConfig {
        host: "127.0.0.1".to_owned(),
        port: broker.port,
        tls: None,
        client_id: "pi-2".to_owned(),
        crew: "bee".parse().unwrap(),
        audience: Audience::Node(node.clone()),
        presence: Some(OwnPresence { topic: Topic::Presence(node.clone()), start: 1 }),
        trust: identity.trust(Some(store.clone())).unwrap(),
    });
    let parts = AgentParts {
        settings: AgentSettings {
            node,
            role: Role::Node,
            start: 1,
            thresholds: Thresholds::default(),
            deadlines: Deadlines::default(),
            feed: None,
            destruction: Destruction::Allowed,
            broker: BrokerTrust::Loopback,
            sensors_every_ms: 1_000,
        },
        board,
        engine: Arc::new(engine),
        host: Arc::new(host) as Arc<dyn Host>,
        store,
        link,
        inbound,
        doors,
        knocks,
    };
    let agent = tokio::spawn(agent::run(parts, std::future::pending()));

    let port = broker.port;
    let ask = move |user: &'static str, args: &'static [&'static str]| {
        let folder = folder.clone();
        tokio::task::spawn_blocking(move || console(port, &folder, user, args))
    };
    let bridge = ask("door", &["node", "shutdown", "pi-2", "--direct"]).await.unwrap().with(4);
    assert_eq!(bridge["code"], "not-authorised", "{bridge:#}");
    let asking = ask.clone();
    let handle = tokio::runtime::Handle::current();
    let (done, _) = tokio::task::spawn_blocking(move || {
        once_it_is_quiet(|| {
            handle.block_on(asking("ann", &["node", "shutdown", "pi-2", "--direct", "--wait"])).unwrap()
        })
    })
    .await
    .unwrap();
    let document = done.with(0);
    assert_eq!((&document["status"], &document["verb"]), (&json!("in_progress"), &json!("power_off")), "{document:#}");
    assert!(done.stderr.contains("pi-2"), "it will need a hand: {}", done.stderr);
    let handed = tokio::time::timeout(PATIENCE, hand_overs.recv()).await.expect("never handed over");
    assert_eq!(handed, Some(HandOver { goal: Goal::PowerOff, strength: Strength::Polite }));
    // who asks once more, under another id, is told that it is under way
    let again = ask("ann", &["node", "reboot", "pi-2", "--direct"]).await.unwrap().with(5);
    assert_eq!(again["code"], "command-unfinished", "{again:#}");
    assert!(hand_overs.try_recv().is_err(), "handed over twice");
    agent.abort();
}
