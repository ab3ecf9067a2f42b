//! A hostile broker: everything that passes is heard by somebody who may publish anything, in anybody's name, and keeps
//! what was ever said to play it again. It has no key of the crew, but a crew of its own with the same names, so its
//! forgeries are whole and signed. At worst work stops: no node does what it says, none joins its cluster, no credential
//! opens for it, and nobody believes what it tells.
//!
//! What it can hold back is in `tests/link_faults.rs`, and what held-back and repeated messages do to the cores in
//! `tests/sim`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "common/crew.rs"]
mod crew;
#[path = "common/keys.rs"]
mod keys;

use beehive::engine::simulated::FILE as ENGINE;
use beehive::keys::seal;
use beehive::store::Store;
use beehive_mqtt::command::{Command, SealContext, SealedCredential, Verb, VerbName};
use beehive_mqtt::console::{Ask, ConsoleRequest, ConsoleResponse, Force, Mode, ResponseStatus};
use beehive_mqtt::coordinator::{
    ClusterPhase, CoordinatorState, OperationKind, OperationPhase, OperationSummary, Session,
};
use beehive_mqtt::node::{
    CommandResult, CommandStatus, Connection, Lifecycle, NodeRequest, NodeState, Presence, Telemetry, Want,
};
use beehive_mqtt::topic::Retention;
use beehive_mqtt::{Payload, Text, Topic, decode};
use common::{PATIENCE, Plain, Retain};
use crew::{Crew, MASTER, pi, read, state, topic, until, wire};
use keys::Keys;
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use tokio::sync::watch;

const THREE: [&str; 3] = [MASTER, "pi-2", "pi-3"];

/// The cluster into which it would have the nodes.
const TRAP: &str = "trap";

/// How many of the crew's messages it keeps.
const KEPT: usize = 500;

/// After so many of the crew's messages it plays everything again that it has kept.
const REPLAY_EVERY: usize = 30;

/// How many presences it forges.
const PRESENCES: u32 = 6;

struct Hostile {
    broker: Plain,
    /// Its own crew, of the same names.
    mine: Keys,
    /// The crew's, as far as everybody may know them.
    victims: Arc<Keys>,
    kept: Vec<(Topic, Vec<u8>)>,
    /// What it has heard and said.
    known: HashSet<Vec<u8>>,
    forged: u32,
    presences: u32,
    replayed: u32,
}

/// What it has gathered when it is stopped.
struct Loot {
    kept: Vec<(Topic, Vec<u8>)>,
    forged: u32,
    replayed: u32,
}

impl Hostile {
    async fn start(crew: &Crew) -> Self {
        Self {
            broker: Plain::connect(crew.broker.port, "hostile", &["beehive/v1/bee/#"]).await,
            mine: Keys::new("bee", &THREE, &["ann"]),
            victims: Arc::clone(&crew.keys),
            kept: Vec::new(),
            known: HashSet::new(),
            forged: 0,
            presences: 0,
            replayed: 0,
        }
    }

    /// Goes on until it is stopped, and at least until it has done some harm.
    async fn rage(mut self, mut stop: watch::Receiver<bool>) -> Loot {
        let mut heard = 0;
        loop {
            let message = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                message = self.broker.next_or_end() => message,
            };
            let Some(topic) = topic(&message) else { continue };
            // what it said itself, or has heard already
            if message.payload.is_empty() || !self.known.insert(message.payload.to_vec()) {
                continue;
            }
            heard += 1;
            self.forge(&topic, &message.payload).await;
            if self.kept.len() < KEPT {
                self.kept.push((topic, message.payload.to_vec()));
            }
            if heard % REPLAY_EVERY == 0 {
                self.replay().await;
            }
        }
        Loot { kept: self.kept, forged: self.forged, replayed: self.replayed }
    }

    async fn publish(&mut self, topic: &Topic, payload: Vec<u8>) {
        let retain = match topic.retention() {
            Retention::Retained => Retain::Yes,
            Retention::Passing => Retain::No,
        };
        self.broker.publish_carelessly(&wire(topic), retain, &payload).await;
        self.known.insert(payload);
    }

    /// Signs with its own keys.
    async fn say<P: Payload>(&mut self, topic: &Topic, payload: &P) {
        self.forged += 1;
        self.publish(topic, self.mine.signed(topic, payload)).await;
    }

    async fn replay(&mut self) {
        for (topic, payload) in self.kept.clone() {
            self.replayed += 1;
            let retain = match topic.retention() {
                Retention::Retained => Retain::Yes,
                Retention::Passing => Retain::No,
            };
            self.broker.publish_carelessly(&wire(&topic), retain, &payload).await;
        }
    }

    /// What it makes of a message of the crew's.
    async fn forge(&mut self, topic: &Topic, payload: &[u8]) {
        match topic {
            Topic::Command(node) => {
                let Ok(command) = decode::<Command>(payload) else { return };
                for (status, code) in [(CommandStatus::Failed, "disk"), (CommandStatus::Succeeded, "done")] {
                    let result = CommandResult {
                        id: command.id.clone(),
                        verb: command.verb.name(),
                        status,
                        code: Text::cut(code),
                        reason: Text::new(),
                        boot: "boot-of-nobody".parse().unwrap(),
                        nonce: command.nonce.clone(),
                    };
                    self.say(&Topic::Result(node.clone()), &result).await;
                }
                // under the id of the real one, and under one of its own
                let reset = Command { verb: Verb::Reset, ..command.clone() };
                self.say(topic, &reset).await;
                let join = self.trap(node.as_str(), &command);
                self.say(topic, &join).await;
            }
            Topic::State(node) => {
                let Ok(state) = decode::<NodeState>(payload) else { return };
                let mut lie = NodeState { lifecycle: Lifecycle::Blank, revision: state.revision + 100, ..state };
                lie.engine.cluster = None;
                self.say(topic, &lie).await;
                let request = NodeRequest {
                    id: "n-forged-1".parse().unwrap(),
                    want: Want::Leave,
                    deadline_ms: 60_000,
                    reason: Text::cut("button"),
                    boot: lie.boot.clone(),
                    session: lie.nonce.clone(),
                    nonce: lie.heard.map(|heard| heard.nonce),
                };
                self.say(&Topic::Request(node.clone()), &request).await;
            }
            Topic::Presence(_) | Topic::CoordinatorPresence => {
                let Ok(presence) = decode::<Presence>(payload) else { return };
                // nobody signs presence, so this one is believed until its owner has put it right; who goes on with that for
                // ever stops all work
                self.presences += 1;
                if self.presences > PRESENCES {
                    return;
                }
                self.say(topic, &Presence { status: Connection::Offline, ..presence }).await;
            }
            Topic::CoordinatorState => {
                let Ok(state) = decode::<CoordinatorState>(payload) else { return };
                let session =
                    Session { number: state.session.number + 7, nonce: "mine".parse().unwrap(), ..state.session };
                let lie = CoordinatorState { session, phase: ClusterPhase::Absent, cluster: None, ..state };
                self.say(topic, &lie).await;
            }
            Topic::Operation(_) => {
                let Ok(summary) = decode::<OperationSummary>(payload) else { return };
                let lie = OperationSummary { phase: OperationPhase::Failed, revision: summary.revision + 1, ..summary };
                self.say(topic, &lie).await;
            }
            Topic::ConsoleRequest(user) => {
                let Ok(request) = decode::<ConsoleRequest>(payload) else { return };
                let response = ConsoleResponse {
                    id: request.id.clone(),
                    status: ResponseStatus::Refused,
                    code: Text::cut("forged"),
                    text: Text::cut("no"),
                    operation: None,
                    plan: Default::default(),
                    audit: beehive_mqtt::coordinator::AuditHead::NONE,
                    sealed: None,
                };
                self.say(&Topic::ConsoleResponse(user.clone()), &response).await;
                for id in [request.id.clone(), "forged-1".parse().unwrap()] {
                    let (version, node) = (Text::new(), None);
                    let ask = Ask::Operation { kind: OperationKind::Reset, node, version, force: Force::Yes };
                    self.say(topic, &ConsoleRequest { id, mode: Mode::Execute, ask, ..request.clone() }).await;
                }
            }
            Topic::Manifest => {
                self.forged += 1;
                let mine = self.mine.coordinator().keyring.signed_manifest();
                self.publish(topic, mine).await;
            }
            Topic::Info(_)
            | Topic::Telemetry(_)
            | Topic::Event(_)
            | Topic::Request(_)
            | Topic::Result(_)
            | Topic::OperationNode(..)
            | Topic::CoordinatorEvent
            | Topic::ConsoleResponse(_)
            | Topic::Direct(..) => {}
        }
    }

    /// A command that would have a node join its cluster, with a credential that the node can open: anybody may seal to it.
    fn trap(&self, node: &str, real: &Command) -> Command {
        let (id, cluster) = (format!("trap-{}", self.forged).parse().unwrap(), TRAP.parse().unwrap());
        let (node, crew) = (pi(node), crew::bee());
        let seal_key = self.victims.coordinator().keyring.manifest().node(&node).unwrap().seal;
        let context = SealContext {
            crew: &crew,
            node: &node,
            boot: &"boot-of-nobody".parse().unwrap(),
            cluster: &cluster,
            operation: None,
            command: &id,
        };
        let secret = format!("beehive-simulated:{TRAP}:{node}:{}", "0".repeat(32));
        let credential = SealedCredential::new(&seal(&seal_key, secret.as_bytes(), &context.bytes()).unwrap());
        let verb = Verb::Join { cluster, server: Text::cut("https://trap:6443"), version: Text::new(), credential };
        Command { id, operation: None, verb, ..real.clone() }
    }
}

/// What counts, whatever is said: the cluster that each node's engine has on its card.
fn clusters(crew: &Crew) -> [Option<String>; 3] {
    THREE.map(|name| {
        let store = Store::open(&crew.state_file(name, "")).unwrap();
        let kept: Value = store.load(ENGINE).unwrap().unwrap_or_default();
        assert_ne!(kept["cluster"], TRAP, "{name} is in the foreign cluster");
        kept["cluster"].as_str().filter(|_| kept["state"] == "member").map(str::to_owned)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_broker_can_stop_work_and_do_nothing_else() {
    let mut crew = Crew::new(&THREE, 0);
    let hostile = Hostile::start(&crew).await;
    let (stop, stopped) = watch::channel(false);
    let rage = tokio::spawn(hostile.rage(stopped));
    for name in THREE {
        crew.start(name);
    }
    // everything below happens while it rages
    let created = crew.console_beside(&["cluster", "create", "--wait"]).await.unwrap().with(0);
    assert_eq!(created["outcome"]["phase"], "done", "{created:#}");
    let first = created["operation"].as_str().expect("the operation's id").to_owned();
    assert_eq!(clusters(&crew), [Some(first.clone()), Some(first.clone()), Some(first.clone())]);
    let left = crew.console_beside(&["node", "leave", "pi-3", "--yes", "--wait"]).await.unwrap();
    left.with(0);
    assert_eq!(clusters(&crew), [Some(first.clone()), Some(first), None]);
    let rebuilt = crew.console_beside(&["cluster", "rebuild", "--yes", "--wait"]).await.unwrap().with(0);
    let second = rebuilt["operation"].as_str().expect("the operation's id").to_owned();
    stop.send(true).unwrap();
    let Loot { kept, forged, replayed } = rage.await.unwrap();
    println!("{forged} forgeries, {replayed} replays of {} messages", kept.len());
    assert!(forged > 100 && replayed > 100, "it did little: {forged} forgeries, {replayed} replays");

    // what was recorded, once more, now that nothing is under way: no credential opens a second time, no id runs again
    let joins: Vec<(&Topic, Command)> = kept
        .iter()
        .filter(|(topic, _)| matches!(topic, Topic::Command(_)))
        .map(|(topic, payload)| (topic, decode::<Command>(payload).unwrap()))
        .filter(|(_, command)| command.verb.name() == VerbName::Join)
        .collect();
    assert!(!joins.is_empty());
    let mut again = crew.listener().await;
    // of whatever time, but all of this boot
    let mut boots = BTreeMap::new();
    while boots.len() < 2 {
        let message = again.next("the states that the broker keeps").await;
        for name in ["pi-2", "pi-3"] {
            if let Some(state) = state(&message, name) {
                boots.insert(pi(name), state.boot);
            }
        }
    }
    for _ in 0..2 {
        for (topic, payload) in &kept {
            if topic.retention() == Retention::Passing {
                again.publish(&wire(topic), Retain::No, payload).await;
            }
        }
    }
    // the nodes answer in order: when this one is answered, so are those before it
    for (topic, join) in &joins {
        let Topic::Command(node) = topic else { unreachable!() };
        let result = Topic::Result(node.clone());
        again
            .find("the answer to a repeat", |message| {
                read::<CommandResult>(message, &result).is_some_and(|result| result.id == join.id)
            })
            .await;
    }
    let all_in = [Some(second.clone()), Some(second.clone()), Some(second.clone())];
    assert_eq!(clusters(&crew), all_in);

    // nobody else can open what was sealed to a node: not the attacker, not another node, not the operator
    let wrong = Keys::new("bee", &THREE, &["ann"]);
    for (topic, join) in &joins {
        let Topic::Command(node) = topic else { unreachable!() };
        let Verb::Join { cluster, credential, .. } = &join.verb else { unreachable!() };
        let crew_name = crew::bee();
        let context = SealContext {
            crew: &crew_name,
            node,
            boot: &boots[node],
            cluster,
            operation: join.operation.as_ref(),
            command: &join.id,
        };
        let sealed = credential.bytes().unwrap();
        for other in [wrong.node(node.as_str()), crew.keys.node(if node.as_str() == "pi-2" { "pi-3" } else { "pi-2" })]
        {
            assert!(other.opener.unwrap().open(&sealed, &context.bytes()).is_err());
        }
        let own = crew.keys.node(node.as_str()).opener.unwrap();
        assert!(own.open(&sealed, &context.bytes()).is_ok(), "the test's own context is wrong");
        let elsewhere = SealContext { cluster: &TRAP.parse().unwrap(), ..context };
        assert!(own.open(&sealed, &elsewhere.bytes()).is_err());
    }

    // and it says so itself: what the broker keeps may be of another time, but each repeats its state every ten seconds
    // (an operation that has ended is not repeated: there a hostile broker can show for ever what was true once)
    until("the crew's own word", PATIENCE, || {
        let status = crew.status();
        let nodes = status["nodes"].as_array().unwrap();
        let ready = nodes.iter().all(|node| node["membership"] == "ready" && node["engine"]["cluster"] == *second);
        (status["cluster"]["phase"] == "ready" && ready).then_some(())
    });

    // it was noticed and counted
    let telemetry = Topic::Telemetry(pi("pi-2"));
    let counted = again
        .find("telemetry", |message| {
            read::<Telemetry>(message, &telemetry).is_some_and(|telemetry| telemetry.refused.untrusted > 0)
        })
        .await;
    let counted = read::<Telemetry>(&counted, &telemetry).unwrap().refused;
    println!("pi-2 refused {} untrusted messages", counted.untrusted);
    for name in THREE {
        let log = crew.log(name);
        assert!(log.contains("kind=\"untrusted\""), "{name} did not notice");
        assert!(!log.contains("panicked"), "{name} panicked");
        assert!(!log.contains(TRAP), "{name} speaks of the foreign cluster");
    }
}
