//! `beehive bridge` against a real mosquitto with TLS and rules: plain words in, signed requests out, and Home Assistant's
//! discovery.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "common/keys.rs"]
mod keys;
#[path = "common/secure.rs"]
mod secure;

use beehive::crew::files::{self, Access};
use beehive::link::{Incoming, Link, LinkConfig, LinkEvent, OwnPresence};
use beehive_mqtt::console::{Ask, ConsoleRequest, ConsoleResponse, Force, ResponseStatus};
use beehive_mqtt::coordinator::{ClusterPhase, CoordinatorState, Member, Membership, OperationKind, Slot};
use beehive_mqtt::{Audience, Text, Topic};
use common::soon;
use keys::Keys;
use rumqttc::Publish;
use secure::{Broker, Client, Kept, crew, up};
use serde_json::{Value, json};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use tokio::sync::mpsc::Receiver;

static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys::new("c1", &["n0", "n1", "n2"], &["ann", "bob", "eve", "door"]));

/// `beehive bridge`, ended with the value.
struct Bridge(Child);

impl Bridge {
    fn start(broker: &Broker, dir: &std::path::Path) -> Self {
        let pair = broker.pair("user:door");
        for name in ["identity.toml", "crew.pub", "manifest.json"] {
            std::fs::copy(KEYS.user_dir("door").join(name), dir.join(name)).unwrap();
        }
        files::write(&dir.join("ca.crt"), Access::Public, broker.authority.certificate.as_bytes()).unwrap();
        files::write(&dir.join("tls.crt"), Access::Public, pair.certificate.as_bytes()).unwrap();
        files::write(&dir.join("tls.key"), Access::Private, pair.key.expose().as_bytes()).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_beehive"))
            .args(["bridge", "--assistant", "ha", "--crew", "c1", "--user", "door", "--broker"])
            .arg(format!("tls://localhost:{}", broker.plan.port))
            .arg("--identity")
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn state(nodes: &[&str], revision: u32) -> CoordinatorState {
    let member = |node: &&str| Member {
        node: node.parse().unwrap(),
        membership: Membership::Expected,
        slot: Slot::Free,
        boot: None,
        speaks: None,
    };
    CoordinatorState {
        session: beehive_mqtt::coordinator::Session { term: 1, number: 1, nonce: "c1".parse().unwrap() },
        audit: beehive_mqtt::coordinator::AuditHead::NONE,
        speaks: None,
        master: "n0".parse().unwrap(),
        phase: ClusterPhase::Absent,
        cluster: None,
        operation: None,
        members: nodes.iter().map(member).collect(),
        uptime_ms: 1,
        revision,
    }
}

/// The coordinator's end, played by the test.
struct Coordinator {
    link: Link,
    events: Receiver<LinkEvent>,
}

impl Coordinator {
    async fn start(broker: &Broker) -> Self {
        let (link, mut events) = Link::spawn(LinkConfig {
            host: "127.0.0.1".to_owned(),
            port: broker.plan.port,
            tls: Some(broker.tls(broker.pair("n0"))),
            client_id: "n0-coordinator".to_owned(),
            crew: crew(),
            trust: KEYS.coordinator(),
            audience: Audience::Coordinator,
            presence: Some(OwnPresence { topic: Topic::CoordinatorPresence, start: 1 }),
        });
        up(&mut events).await;
        Self { link, events }
    }

    async fn request(&mut self) -> ConsoleRequest {
        let message: Incoming = soon("a request", async {
            loop {
                match self.events.recv().await.expect("the link has ended") {
                    LinkEvent::Message(message) if message.topic == Topic::ConsoleRequest("door".parse().unwrap()) => {
                        return message;
                    }
                    LinkEvent::Message(_)
                    | LinkEvent::Up { .. }
                    | LinkEvent::Down { .. }
                    | LinkEvent::Refused { .. } => {}
                }
            }
        })
        .await;
        self.link.decode(&message).unwrap()
    }

    fn answer(&self, request: &ConsoleRequest) {
        let response = ConsoleResponse {
            id: request.id.clone(),
            status: ResponseStatus::Started,
            code: Text::cut("started"),
            text: Text::new(),
            operation: None,
            plan: heapless::Vec::new(),
            audit: beehive_mqtt::coordinator::AuditHead::NONE,
            sealed: None,
        };
        self.link.publish(&Topic::ConsoleResponse("door".parse().unwrap()), &response).unwrap();
    }
}

async fn find(tool: &mut Client, what: &str, wanted: impl Fn(&Publish) -> bool) -> Publish {
    soon(what, async {
        loop {
            let publish = tool.messages.recv().await.expect("the tool's connection is lost");
            if wanted(&publish) {
                return publish;
            }
        }
    })
    .await
}

async fn answer(tool: &mut Client) -> Value {
    let publish = find(tool, "an answer", |publish| publish.topic == "beehive/v1/c1/h/door/answer/ha").await;
    serde_json::from_slice(&publish.payload).unwrap()
}

const N1: &str = "beehive/v1/c1/b/ha/node/n1";
const DISCOVERY: &str = "homeassistant/device/beehive-c1-n1/config";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_asks_in_plain_words_and_the_bridge_asks_the_coordinator() {
    let broker = Broker::start();
    let mut coordinator = Coordinator::start(&broker).await;
    coordinator.link.publish(&Topic::CoordinatorState, &state(&["n0", "n1"], 1)).unwrap();
    let mut tool = broker.client("tool:ha", &["homeassistant/#", "beehive/v1/c1/h/#"]).await;
    // a wish that is kept from before must never be carried out
    tool.publish_as(N1, "shutdown", Kept::Yes).await;
    let dir = tempfile::tempdir().unwrap();
    let _bridge = Bridge::start(&broker, dir.path());
    let found = find(&mut tool, "the discovery of n1", |publish| publish.topic == DISCOVERY).await;
    let found: Value = serde_json::from_slice(&found.payload).unwrap();
    assert_eq!(found["cmps"]["reboot"]["command_topic"], N1);

    tool.publish(N1, "reboot").await;
    let request = coordinator.request().await;
    let Ask::Operation { kind, node, force, .. } = &request.ask else { panic!("{request:?}") };
    assert_eq!((*kind, node.as_ref().unwrap().as_str(), *force), (OperationKind::NodeReboot, "n1", Force::No));
    coordinator.answer(&request);
    let said = loop {
        let said = answer(&mut tool).await;
        // the wish that was kept: refused, whether the bridge knew the crew by then or not
        if said["wish"] != "shutdown" {
            break said;
        }
        assert_eq!((&said["status"], &said["code"]), (&json!("refused"), &json!("retained")));
    };
    assert_eq!((&said["target"], &said["wish"], &said["status"]), (&json!("n1"), &json!("reboot"), &json!("started")));

    for word in ["rebuild", "reset", "leave"] {
        tool.publish("beehive/v1/c1/b/ha/crew", word).await;
        assert_eq!(answer(&mut tool).await["code"], "unknown-word", "{word}");
    }
    tool.publish("beehive/v1/c1/b/ha/crew", "abort").await;
    assert_eq!(coordinator.request().await.ask, Ask::Abort, "and nothing of what was refused came before it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_birth_brings_discovery_again_and_who_leaves_is_removed() {
    let broker = Broker::start();
    let coordinator = Coordinator::start(&broker).await;
    coordinator.link.publish(&Topic::CoordinatorState, &state(&["n0", "n1"], 1)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let _bridge = Bridge::start(&broker, dir.path());
    let mut tool = broker.client("tool:ha", &["homeassistant/#", "beehive/v1/c1/h/#"]).await;
    let discovery = |publish: &Publish| publish.topic == DISCOVERY;
    find(&mut tool, "the discovery of n1", |publish| discovery(publish) && !publish.payload.is_empty()).await;
    tool.publish("homeassistant/status", "online").await;
    find(&mut tool, "the discovery again", |publish| discovery(publish) && !publish.retain).await;

    // what the node says is shown in the plain
    let node = broker.tls(broker.pair("n1"));
    let (link, mut events) = Link::spawn(LinkConfig {
        host: "127.0.0.1".to_owned(),
        port: broker.plan.port,
        tls: Some(node),
        client_id: "n1".to_owned(),
        crew: crew(),
        trust: KEYS.node("n1"),
        audience: Audience::Node("n1".parse().unwrap()),
        presence: Some(OwnPresence { topic: Topic::Presence("n1".parse().unwrap()), start: 1 }),
    });
    up(&mut events).await;
    let shown = |presence: &'static str| {
        move |publish: &Publish| {
            publish.topic == "beehive/v1/c1/h/door/node/n1"
                && serde_json::from_slice::<Value>(&publish.payload).is_ok_and(|found| found["presence"] == presence)
        }
    };
    find(&mut tool, "n1 online", shown("online")).await;
    link.close("done").await;
    find(&mut tool, "n1 offline", shown("offline")).await;

    coordinator.link.publish(&Topic::CoordinatorState, &state(&["n0"], 2)).unwrap();
    find(&mut tool, "the removal of n1", |publish| discovery(publish) && publish.payload.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bridge_says_when_it_is_gone_and_comes_back_after_the_broker() {
    let mut broker = Broker::start();
    let coordinator = Coordinator::start(&broker).await;
    coordinator.link.publish(&Topic::CoordinatorState, &state(&["n0", "n1"], 1)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let bridge = Bridge::start(&broker, dir.path());
    let presence = |word: &'static str| {
        move |publish: &Publish| publish.topic == "beehive/v1/c1/h/door/presence" && publish.payload == word
    };
    let mut tool = broker.client("tool:ha", &["beehive/v1/c1/h/#", "homeassistant/#"]).await;
    find(&mut tool, "the bridge", presence("online")).await;
    broker.restart();
    let mut tool = broker.client("tool:ha", &["beehive/v1/c1/h/#", "homeassistant/#"]).await;
    find(&mut tool, "the bridge again", presence("online")).await;
    drop(bridge);
    find(&mut tool, "its last will", presence("offline")).await;
}
