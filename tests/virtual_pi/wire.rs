//! The wire as any MQTT tool sees it: a mosquitto on the host's loopback (the guests reach it as 10.0.2.2) and a watcher
//! that keeps everything that was said, in its order.

use std::process::{Command, Output};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use beehive_mqtt::node::{Connection, NodeEvent, NodeEventKind, NodeInfo, NodeState, PowerPhase, Presence, Telemetry};
use beehive_mqtt::{CrewName, Payload, Topic, decode};
use rumqttc::{Client, Event, MqttOptions, Packet, QoS};

use crate::common::Mosquitto;
use crate::keys::Keys;

/// The crew of these tests.
pub const CREW: &str = "bee42-crew-01";

/// The keys of that crew: three nodes, the first coordinates, and an operator.
pub static KEYS: LazyLock<Keys> =
    LazyLock::new(|| Keys::new(CREW, &["bee42-crew-01-001", "bee42-crew-01-002", "bee42-crew-01-003"], &["test"]));

/// How long the wire may take to show what has to happen on a machine that is emulated beside two others, on a host that may be
/// half as fast as usual. It only says when a test gives up.
pub const LIMIT: Duration = Duration::from_secs(240);

#[derive(Default)]
struct Heard {
    messages: Mutex<Vec<(Topic, Vec<u8>)>>,
    more: Condvar,
}

impl Heard {
    fn messages(&self) -> MutexGuard<'_, Vec<(Topic, Vec<u8>)>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A broker and everything that was said over it.
pub struct Wire {
    broker: Mutex<Mosquitto>,
    port: u16,
    heard: Arc<Heard>,
}

impl Wire {
    /// Starts a broker and listens to all of the crew's topics.
    pub fn start() -> Self {
        let broker = Mosquitto::start();
        let port = broker.port;
        let mut options = MqttOptions::new("watcher", "127.0.0.1", broker.port);
        options.set_max_packet_size(256 * 1024, 256 * 1024);
        let (client, mut connection) = Client::new(options, 16);
        client.subscribe(format!("beehive/v1/{CREW}/#"), QoS::AtLeastOnce).unwrap();
        let heard = Arc::new(Heard::default());
        let writer = Arc::clone(&heard);
        thread::spawn(move || {
            let _client = client; // its end would end the connection
            let crew: CrewName = CREW.parse().unwrap();
            for event in connection.iter() {
                let Ok(event) = event else { return }; // the broker has ended with the test
                if let Event::Incoming(Packet::Publish(publish)) = event {
                    if let Ok(topic) = Topic::parse(&crew, &publish.topic) {
                        writer.messages().push((topic, publish.payload.to_vec()));
                        writer.more.notify_all();
                    }
                }
            }
        });
        Self { broker: Mutex::new(broker), port, heard }
    }

    /// The configuration of a node that speaks over this broker.
    pub fn configuration(&self, node: &str, role: &str, rest: &str) -> String {
        format!(
            "crew = \"{CREW}\"\nnode = \"{node}\"\nrole = \"{role}\"\n\n[broker]\nhost = \"10.0.2.2\"\nport = {}\n\
             insecure_test_broker = true\n\n{rest}",
            self.port
        )
    }

    /// The broker's port on this machine's loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends the broker.
    pub fn end_broker(&self) {
        self.broker.lock().unwrap_or_else(PoisonError::into_inner).kill();
    }

    /// How many messages from `from` on `wanted` holds for.
    pub fn count(&self, from: usize, wanted: impl Fn(&Topic, &[u8]) -> bool) -> usize {
        self.heard.messages().iter().skip(from).filter(|(topic, payload)| wanted(topic, payload)).count()
    }

    /// The place of the first message from `from` on that `wanted` holds for; waits for it.
    pub fn wait(&self, what: &str, from: usize, wanted: impl Fn(&Topic, &[u8]) -> bool) -> usize {
        let deadline = Instant::now() + LIMIT;
        let mut messages = self.heard.messages();
        loop {
            let found = messages.iter().skip(from).position(|(topic, payload)| wanted(topic, payload));
            if let Some(at) = found {
                return from + at;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(messages);
                panic!("the wire never showed {what}; it showed:\n{}", self.told());
            }
            messages = self.heard.more.wait_timeout(messages, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for an event of a node.
    pub fn wait_event(&self, node: &str, from: usize, kind: NodeEventKind, detail: &str) -> usize {
        self.wait(&format!("the event {kind:?} `{detail}` of {node}"), from, |topic, payload| {
            is_of(topic, node)
                && matches!(topic, Topic::Event(_))
                && read::<NodeEvent>(payload)
                    .is_some_and(|event| event.kind == kind && event.detail.as_str().contains(detail))
        })
    }

    /// What a node tells of a press that it has seen from `from` on: the place of the short gesture, or nothing if two
    /// heartbeats come before one.
    pub fn short_gesture(&self, node: &str, from: usize) -> Option<usize> {
        let mut from = self.wait_event(node, from, NodeEventKind::ButtonReleased, "") + 1;
        for _ in 0..2 {
            let gesture = |topic: &Topic, payload: &[u8]| {
                matches!(topic, Topic::Event(_))
                    && read::<NodeEvent>(payload).is_some_and(|event| {
                        event.kind == NodeEventKind::Gesture && event.detail.as_str().contains("short")
                    })
            };
            let told = self.wait(&format!("a gesture or a heartbeat of {node}"), from, |topic, payload| {
                is_of(topic, node) && (matches!(topic, Topic::Telemetry(_)) || gesture(topic, payload))
            });
            if self.heard.messages().get(told).is_some_and(|(topic, payload)| gesture(topic, payload)) {
                return Some(told);
            }
            from = told + 1;
        }
        None
    }

    /// Waits for a power phase in a node's state.
    pub fn wait_phase(&self, node: &str, from: usize, phase: PowerPhase) -> usize {
        self.wait(&format!("{phase:?} in the state of {node}"), from, |topic, payload| {
            is_of(topic, node)
                && matches!(topic, Topic::State(_))
                && read::<NodeState>(payload).is_some_and(|state| state.power == phase)
        })
    }

    /// Waits for an LED pattern in a node's state. One that is there already counts, as a state is told only once.
    pub fn wait_led(&self, node: &str, from: usize, led: &str) -> usize {
        self.wait(&format!("the LED pattern {led} in the state of {node}"), from, |topic, payload| {
            is_of(topic, node)
                && matches!(topic, Topic::State(_))
                && read::<NodeState>(payload).is_some_and(|state| state.led.as_str() == led)
        })
    }

    /// Waits until a node has said goodbye in an orderly way.
    pub fn wait_offline(&self, node: &str, from: usize, reason: &str) -> usize {
        self.wait(&format!("the farewell of {node}"), from, |topic, payload| {
            is_of(topic, node)
                && matches!(topic, Topic::Presence(_))
                && read::<Presence>(payload)
                    .is_some_and(|said| said.status == Connection::Offline && said.reason.as_str() == reason)
        })
    }

    /// The place of the next message.
    pub fn now(&self) -> usize {
        self.heard.messages().len()
    }

    /// Waits for a node's description of itself that `wanted` holds for.
    pub fn wait_info(&self, node: &str, what: &str, from: usize, wanted: impl Fn(&NodeInfo) -> bool) -> usize {
        self.wait(&format!("{what} in the info of {node}"), from, |topic, payload| {
            is_of(topic, node)
                && matches!(topic, Topic::Info(_))
                && read::<NodeInfo>(payload).is_some_and(|info| wanted(&info))
        })
    }

    /// Waits for telemetry of a node that `wanted` holds for.
    pub fn wait_telemetry(&self, node: &str, what: &str, from: usize, wanted: impl Fn(&Telemetry) -> bool) -> usize {
        self.wait(&format!("{what} in the telemetry of {node}"), from, |topic, payload| {
            is_of(topic, node)
                && matches!(topic, Topic::Telemetry(_))
                && read::<Telemetry>(payload).is_some_and(|telemetry| wanted(&telemetry))
        })
    }

    /// How many events of a kind a node told.
    pub fn count_events(&self, node: &str, kind: NodeEventKind) -> usize {
        self.count_events_since(0, node, kind, "")
    }

    /// The same from message `from` on, for events whose detail contains `detail`.
    pub fn count_events_since(&self, from: usize, node: &str, kind: NodeEventKind, detail: &str) -> usize {
        self.count(from, |topic, payload| {
            is_of(topic, node)
                && matches!(topic, Topic::Event(_))
                && read::<NodeEvent>(payload)
                    .is_some_and(|event| event.kind == kind && event.detail.as_str().contains(detail))
        })
    }

    /// Runs the ops console.
    pub fn console(&self, words: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_beehive"))
            .args(["--broker", &format!("127.0.0.1:{}", self.port), "--crew", CREW, "--user", "test"])
            .args(["--timeout", "900"])
            .arg("--identity")
            .arg(KEYS.user_dir("test"))
            .args(words)
            .output()
            .unwrap()
    }

    /// The same, and it has to succeed.
    pub fn must(&self, words: &[&str]) -> String {
        let output = self.console(words);
        assert!(
            output.status.success(),
            "beehive {words:?}: {}\n{}\n{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            self.told()
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The last messages, for a failure.
    fn told(&self) -> String {
        let messages = self.heard.messages();
        let from = messages.len().saturating_sub(60);
        let line = |(topic, payload): &(Topic, Vec<u8>)| format!("{topic:?} {}", String::from_utf8_lossy(payload));
        messages.iter().skip(from).map(line).collect::<Vec<_>>().join("\n")
    }
}

fn read<P: Payload>(payload: &[u8]) -> Option<P> {
    decode(payload).ok()
}

fn is_of(topic: &Topic, node: &str) -> bool {
    match topic {
        Topic::Event(name)
        | Topic::State(name)
        | Topic::Telemetry(name)
        | Topic::Presence(name)
        | Topic::Info(name) => name.as_str() == node,
        _ => false,
    }
}
