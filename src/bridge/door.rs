//! The bridge's connection for tools: plain documents, at topics of `beehive_mqtt::bridge`. The rules of [`crate::link`]
//! hold here, too: client and event loop are made anew after every error, and what is kept is published again on each
//! connection. What is not kept (answers) is lost with a connection; the tool sees the state anyway.

use super::core::{Heard, Keep};
use crate::link::Tls;
use beehive_mqtt::CrewName;
use beehive_mqtt::bridge::DoorTopic;
use beehive_mqtt::codec::MAX_PACKET_BYTES;
use rumqttc::{AsyncClient, Event, LastWill, MqttOptions, NetworkOptions, Packet, QoS, SubscribeFilter};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// As the link's.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long the broker may take to accept a connection, in seconds.
const CONNECT_S: u64 = 5;
/// Between two attempts.
const AGAIN: Duration = Duration::from_millis(500);
/// Discovery, state and answers of the largest crew at once.
const REQUESTS: usize = 256;
/// Tools press buttons; more than this at once is left with the broker.
const EVENTS: usize = 64;

/// Where and as whom.
pub(super) struct DoorConfig {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<Tls>,
    pub(super) client_id: String,
    pub(super) crew: CrewName,
    /// Where the bridge says whether it is there.
    pub(super) presence: DoorTopic,
}

/// What the door tells.
#[derive(Debug)]
pub(super) enum DoorEvent {
    /// Connected and subscribed: everything that is kept has to be published.
    Up,
    /// Not connected.
    Down(String),
    /// A tool, or what was kept.
    Heard(Heard),
}

/// The handle. The task ends when it is dropped.
pub(super) struct Door {
    client: watch::Receiver<Option<AsyncClient>>,
    crew: CrewName,
}

impl Door {
    pub(super) fn spawn(config: DoorConfig) -> (Self, mpsc::Receiver<DoorEvent>) {
        let (client_out, client) = watch::channel(None);
        let (events_out, events) = mpsc::channel(EVENTS);
        let crew = config.crew.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = client_out.closed() => {}
                () = run(&config, &client_out, &events_out) => {}
            }
        });
        (Self { client, crew }, events)
    }

    /// Publishes, if there is a connection with room.
    pub(super) fn tell(&self, topic: &DoorTopic, keep: Keep, payload: Vec<u8>) {
        let name = topic.name(&self.crew);
        let Some(client) = self.client.borrow().clone() else { return };
        if client.try_publish(name.as_str(), QoS::AtLeastOnce, keep == Keep::Yes, payload).is_err() {
            tracing::warn!(topic = name.as_str(), "the door has no room: not published");
        }
    }
}

async fn run(config: &DoorConfig, client_out: &watch::Sender<Option<AsyncClient>>, events: &mpsc::Sender<DoorEvent>) {
    let mut told = None;
    loop {
        let reason = connection(config, client_out, events).await;
        // nobody looks at the old one: it is replaced below before it could be used
        let _ = client_out.send(None);
        // each reason is told once
        if told.as_ref() != Some(&reason) && events.send(DoorEvent::Down(reason.clone())).await.is_err() {
            return;
        }
        told = Some(reason);
        tokio::time::sleep(AGAIN).await;
    }
}

/// One connection; why it ended.
async fn connection(
    config: &DoorConfig,
    client_out: &watch::Sender<Option<AsyncClient>>,
    events: &mpsc::Sender<DoorEvent>,
) -> String {
    let mut options = MqttOptions::new(&config.client_id, &config.host, config.port);
    if let Some(tls) = &config.tls {
        options.set_transport(tls.transport());
    }
    let presence = config.presence.name(&config.crew);
    options.set_keep_alive(KEEP_ALIVE);
    options.set_clean_session(true);
    options.set_max_packet_size(MAX_PACKET_BYTES, MAX_PACKET_BYTES);
    options.set_last_will(LastWill::new(presence.as_str(), "offline", QoS::AtLeastOnce, true));
    let (client, mut event_loop) = AsyncClient::new(options, REQUESTS);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(CONNECT_S);
    event_loop.set_network_options(network);
    loop {
        let event = match event_loop.poll().await {
            Ok(event) => event,
            Err(error) => return error.to_string(),
        };
        let sent = match event {
            Event::Incoming(Packet::ConnAck(_)) => {
                let filters = DoorTopic::subscriptions(&config.crew)
                    .map(|filter| SubscribeFilter::new(filter.as_str().to_owned(), QoS::AtLeastOnce));
                // the queue is empty: it has just been made
                let asked = client
                    .try_subscribe_many(filters)
                    .and_then(|()| client.try_publish(presence.as_str(), QoS::AtLeastOnce, true, "online"));
                if asked.is_err() {
                    return "the client's queue is full at its start".to_owned();
                }
                let _ = client_out.send(Some(client.clone()));
                Ok(())
            }
            Event::Incoming(Packet::SubAck(_)) => events.send(DoorEvent::Up).await,
            Event::Incoming(Packet::Publish(publish)) => {
                let kept = if publish.retain { Keep::Yes } else { Keep::No };
                let heard = Heard { topic: publish.topic, payload: publish.payload.to_vec(), kept };
                events.send(DoorEvent::Heard(heard)).await
            }
            Event::Incoming(_) | Event::Outgoing(_) => Ok(()),
        };
        if sent.is_err() {
            return "the bridge has ended".to_owned();
        }
    }
}
