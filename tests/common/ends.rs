//! The two ends of a link, and a sample of what they say, for the tests of the link.

#![allow(dead_code, unreachable_pub, missing_docs)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::common::soon;
use crate::keys::Keys;
use beehive::link::{Incoming, Link, LinkConfig, LinkEvent, OwnPresence, Refusal};
use beehive_mqtt::command::{Command, Verb, VerbName};
use beehive_mqtt::node::{
    CommandResult, CommandStatus, Connection, EngineRun, EngineState, Lifecycle, NodeEvent, NodeEventKind, NodeState,
    PowerPhase, Presence, Refused, Telemetry,
};
use beehive_mqtt::{Audience, BootId, CrewName, NodeName, Text, Topic, decode};
use std::sync::LazyLock;
use tokio::sync::mpsc::Receiver;

pub const START: u32 = 7;

/// The master coordinates; the others are the nodes of these tests.
pub static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let nodes: Vec<String> = (0..50).map(|number| format!("n{number}")).collect();
    let names: Vec<&str> = std::iter::once("master").chain(nodes.iter().map(String::as_str)).collect();
    Keys::new("c1", &names, &["u"])
});

pub fn crew() -> CrewName {
    "c1".parse().unwrap()
}

pub fn name(name: &str) -> NodeName {
    name.parse().unwrap()
}

pub fn n1(leaf: fn(NodeName) -> Topic) -> Topic {
    leaf(name("n1"))
}

pub fn wire(topic: &Topic) -> String {
    topic.name(&crew()).as_str().to_owned()
}

pub fn config(port: u16, id: &str, audience: Audience, presence: Option<Topic>) -> LinkConfig {
    let trust = match &audience {
        Audience::Node(node) => KEYS.node(node.as_str()),
        Audience::Coordinator => KEYS.coordinator(),
        Audience::Console(user) => KEYS.user(user.as_str()),
        Audience::Direct(_) => panic!("no end of these tests"),
    };
    LinkConfig {
        host: "127.0.0.1".to_owned(),
        port,
        tls: None,
        client_id: id.to_owned(),
        crew: crew(),
        audience,
        presence: presence.map(|topic| OwnPresence { topic, start: START }),
        trust,
    }
}

pub struct End {
    pub link: Link,
    pub events: Receiver<LinkEvent>,
}

impl End {
    pub fn node(port: u16, node: &str) -> Self {
        let presence = Some(Topic::Presence(name(node)));
        let (link, events) = Link::spawn(config(port, node, Audience::Node(name(node)), presence));
        Self { link, events }
    }

    pub fn coordinator(port: u16) -> Self {
        let presence = Some(Topic::CoordinatorPresence);
        let (link, events) = Link::spawn(config(port, "coordinator", Audience::Coordinator, presence));
        Self { link, events }
    }

    /// The first thing that `wanted` makes of an event; the time counts for all events together.
    pub async fn find<T>(&mut self, what: &str, mut wanted: impl FnMut(LinkEvent) -> Option<T>) -> T {
        soon(what, async {
            loop {
                let event = self.events.recv().await.expect("the link has ended");
                if let Some(found) = wanted(event) {
                    return found;
                }
            }
        })
        .await
    }

    pub async fn up(&mut self) -> u32 {
        self.find("the link to come up", |event| match event {
            LinkEvent::Up { connection } => Some(connection),
            LinkEvent::Down { .. } | LinkEvent::Message(_) | LinkEvent::Refused { .. } => None,
        })
        .await
    }

    pub async fn down(&mut self) -> String {
        self.find("the link to go down", |event| match event {
            LinkEvent::Down { reason } => Some(reason),
            LinkEvent::Up { .. } | LinkEvent::Message(_) | LinkEvent::Refused { .. } => None,
        })
        .await
    }

    pub async fn message(&mut self, topic: &Topic) -> Incoming {
        self.find("a message", |event| match event {
            LinkEvent::Message(message) if message.topic == *topic => Some(message),
            LinkEvent::Down { reason } => panic!("the link went down: {reason}"),
            LinkEvent::Up { .. } | LinkEvent::Message(_) | LinkEvent::Refused { .. } => None,
        })
        .await
    }

    pub async fn refused(&mut self) -> (String, Refusal) {
        self.find("a refusal", |event| match event {
            LinkEvent::Refused { topic, why } => Some((topic, why)),
            LinkEvent::Up { .. } | LinkEvent::Down { .. } | LinkEvent::Message(_) => None,
        })
        .await
    }

    /// Everything until the link's task has ended.
    pub async fn rest(mut self) -> Vec<LinkEvent> {
        drop(self.link);
        soon("the link's end", async {
            let mut all = Vec::new();
            while let Some(event) = self.events.recv().await {
                all.push(event);
            }
            all
        })
        .await
    }
}

pub fn command(id: &str) -> Command {
    Command {
        id: id.parse().unwrap(),
        nonce: "s1".parse().unwrap(),
        term: 1,
        session: 1,
        operation: None,
        expires_ms: 1000,
        verb: Verb::Stop,
    }
}

pub fn boot() -> BootId {
    "b1".parse().unwrap()
}

pub fn result(id: &str) -> CommandResult {
    CommandResult {
        id: id.parse().unwrap(),
        verb: VerbName::Stop,
        status: CommandStatus::Succeeded,
        code: "done".into(),
        reason: Text::new(),
        boot: boot(),
        nonce: "s1".parse().unwrap(),
    }
}

pub fn state(revision: u32) -> NodeState {
    NodeState {
        lifecycle: Lifecycle::Blank,
        power: PowerPhase::Running,
        goal: None,
        led: "off".into(),
        running: None,
        boot: boot(),
        start: START,
        revision,
        nonce: "s1".parse().unwrap(),
        heard: None,
        engine: EngineState { cluster: None, run: EngineRun::Stopped, version: Text::new() },
        last_shutdown: None,
        speaks: None,
        machine: None,
    }
}

pub fn event(sequence: u32) -> NodeEvent {
    NodeEvent { kind: NodeEventKind::Board, detail: Text::new(), uptime_ms: 1, sequence }
}

pub fn telemetry() -> Telemetry {
    Telemetry {
        uptime_ms: 1,
        feed: "shim".into(),
        feed_evidence: Text::new(),
        poe_current_ma: None,
        over_currents: 0,
        fan_duty: None,
        processor_millicelsius: None,
        throttling: None,
        refused: Refused::default(),
    }
}

pub fn presence(status: Connection, start: u32, connection: u32) -> Presence {
    Presence { status, start, connection, reason: "a stranger's".into() }
}

pub fn status(payload: &[u8]) -> (Connection, u32, u32) {
    let Presence { status, start, connection, .. } = decode(payload).unwrap();
    (status, start, connection)
}
