//! `beehive bridge`: lets tools that sign nothing, such as Home Assistant, ask for a bounded list of verbs, none of which
//! destroys, and shows them what the crew says. What it asks is signed with a key whose role in the manifest is bridge.
//!
//! Two connections: the link (the signed conversation with the coordinator, as a console has it) and the `door` (plain).
//! What to do is decided in `core`.

mod core;
mod door;

use crate::cli::{BridgeArgs, ConsoleOptions};
use crate::config::TlsSwitch;
use crate::link::{Link, LinkConfig, LinkEvent, Tls};
use anyhow::Context;
use beehive_mqtt::bridge::DoorTopic;
use beehive_mqtt::console::ConsoleResponse;
use beehive_mqtt::coordinator::CoordinatorState;
use beehive_mqtt::node::{NodeState, Presence};
use beehive_mqtt::{Audience, ProtocolVersion, RequestId, Topic, UserName};
use core::{Action, Core};
use door::{Door, DoorConfig, DoorEvent};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// If it cannot begin. A broker that is not there is waited for.
pub async fn run(options: &ConsoleOptions, arguments: &BridgeArgs) -> anyhow::Result<()> {
    let crew = options.crew.clone().context("which crew? add --crew NAME, or set BEEHIVE_CREW")?;
    let broker = &options.broker();
    let tls = match broker.tls {
        TlsSwitch::On => Some(Tls::load(&options.identity_dir(&crew), &crew)?),
        TlsSwitch::Off if broker.is_loopback() || options.insecure_test_broker => None,
        TlsSwitch::Off => anyhow::bail!(
            "the broker at {broker} is not on this machine, and without TLS anybody on the way reads what is sent there; \
             write --broker tls://HOST"
        ),
    };
    let trust = crate::console::trust(options, &crew).map_err(|trouble| anyhow::anyhow!("{trouble}"))?;
    let user = options.user();
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let (link, mut inbound) = Link::spawn(LinkConfig {
        host: broker.host.clone(),
        port: broker.port,
        tls: tls.clone(),
        // one bridge of a name: the broker throws the older one out
        client_id: format!("bridge-{user}"),
        crew: crew.clone(),
        audience: Audience::Console(user.clone()),
        presence: None,
        trust,
    });
    let (door, mut outside) = Door::spawn(DoorConfig {
        host: broker.host.clone(),
        port: broker.port,
        tls,
        client_id: format!("bridge-{user}-door"),
        crew: crew.clone(),
        presence: DoorTopic::Presence(user.clone()),
    });
    let mut bridge = Bridge { core: Core::new(crew, user.clone(), arguments.assistant.clone()), link, door, user };
    let begun = Instant::now();
    let now = || u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    loop {
        let due = bridge.core.due_ms();
        let until = begun + Duration::from_millis(due.unwrap_or(0));
        let actions = tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            Some(event) = inbound.recv() => bridge.inside(event),
            Some(event) = outside.recv() => bridge.outside(now(), event)?,
            () = sleep_until(until), if due.is_some() => bridge.core.tick(now()),
            else => break,
        };
        for action in actions {
            bridge.perform(action);
        }
    }
    bridge.link.close("the bridge ends").await;
    Ok(())
}

struct Bridge {
    core: Core,
    link: Link,
    door: Door,
    user: UserName,
}

impl Bridge {
    /// From the crew. What cannot be read or believed is counted and logged by the link.
    fn inside(&mut self, event: LinkEvent) -> Vec<Action> {
        let message = match event {
            LinkEvent::Message(message) => message,
            LinkEvent::Down { reason } => {
                tracing::warn!(reason, "the crew is not reached");
                return Vec::new();
            }
            LinkEvent::Up { .. } => {
                tracing::info!("connected to the crew's broker");
                return Vec::new();
            }
            LinkEvent::Refused { .. } => return Vec::new(),
        };
        if message.is_cleared() {
            return Vec::new();
        }
        match message.topic.clone() {
            Topic::ConsoleResponse(_) => self
                .link
                .decode::<ConsoleResponse>(&message)
                .map_or_else(|_| Vec::new(), |said| self.core.answered(&said)),
            Topic::CoordinatorState => self
                .link
                .decode::<CoordinatorState>(&message)
                .inspect(|_| {
                    self.link.write_in(message.version.unwrap_or(ProtocolVersion::BEFORE));
                })
                .map_or_else(|_| Vec::new(), |said| self.core.coordinator(said)),
            Topic::State(node) => {
                self.link.decode::<NodeState>(&message).map_or_else(|_| Vec::new(), |said| self.core.state(node, said))
            }
            Topic::Presence(node) => self
                .link
                .decode::<Presence>(&message)
                .map_or_else(|_| Vec::new(), |said| self.core.presence(node, said)),
            Topic::Info(_)
            | Topic::Manifest
            | Topic::Telemetry(_)
            | Topic::Event(_)
            | Topic::Request(_)
            | Topic::Result(_)
            | Topic::Command(_)
            | Topic::CoordinatorPresence
            | Topic::Operation(_)
            | Topic::OperationNode(..)
            | Topic::CoordinatorEvent
            | Topic::ConsoleRequest(_)
            | Topic::Direct(..) => Vec::new(),
        }
    }

    fn outside(&mut self, now_ms: u64, event: DoorEvent) -> anyhow::Result<Vec<Action>> {
        Ok(match event {
            DoorEvent::Up => self.core.everything(),
            DoorEvent::Down(reason) => {
                tracing::warn!(reason, "no tool can be served");
                Vec::new()
            }
            DoorEvent::Heard(heard) => {
                let id: RequestId = uuid::Uuid::new_v4().simple().to_string().parse().context("no id can be made")?;
                self.core.heard(now_ms, &heard, id)
            }
        })
    }

    fn perform(&self, action: Action) {
        match action {
            Action::Ask(request) => {
                tracing::info!(id = request.id.as_str(), ask = ?request.ask, "asked for a tool");
                if let Err(error) = self.link.publish(&Topic::ConsoleRequest(self.user.clone()), &request) {
                    tracing::error!(%error, "the request cannot be sent");
                }
            }
            Action::Tell { topic, keep, payload } => self.door.tell(&topic, keep, payload),
        }
    }
}

/// The tool that Home Assistant is, where nothing else is said.
pub(crate) const DEFAULT_ASSISTANT: &str = "homeassistant";
