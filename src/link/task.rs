//! The task that polls. It alone touches rumqttc's event loop; see the module above for the facts.

use super::refused::{self, Refusal, RefusedKind, Retained};
use super::{CLOSE_MS, Control, Incoming, LinkConfig, LinkEvent, Mode, OwnPresence, Shared, is_loopback, locked};
use crate::keys::Changed;
use beehive_mqtt::codec::MAX_PACKET_BYTES;
use beehive_mqtt::codec::Wrapping;
use beehive_mqtt::node::{Connection, Presence};
use beehive_mqtt::topic::{Delivery, Retention};
use beehive_mqtt::{DecodeError, EncodeError, ProtocolVersion, Text, Topic, Verified, decode, encode_in, verify};
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, LastWill, MqttOptions, NetworkOptions, Outgoing,
    Packet, Publish, QoS, StateError, SubAck, SubscribeFilter, SubscribeReasonCode,
};
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;

/// The keep-alive. Mosquitto 2.0 looks every six seconds for clients that have been silent for more than one and a half
/// keep-alives in whole seconds: with three seconds a frozen node's last will comes after 5 to 11 s; with four it could
/// be 13, with the ten seconds that are usual 22. Here a half-open connection is noticed after 3 to 6 s. A ping is four
/// bytes, and a broker that stands still for so long costs a reconnection and nothing else.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// How long the broker may take to accept a connection, in seconds.
const CONNECT_S: u64 = 5;

/// How long the broker may take to confirm the subscriptions. It answers in order and at once; one that does not is not
/// worth staying with.
const SUBSCRIBE: Duration = Duration::from_secs(5);

/// How many requests rumqttc holds for us. Small: what waits belongs into our outbox, where it can be replaced.
const REQUESTS: usize = 32;

/// A connection that held this long was a good one: after it the delays begin anew.
const GOOD: Duration = Duration::from_secs(5);

/// As many connections in a row that end early are more than a restart of the broker.
const THROWN_OUT: u32 = 3;

pub(super) fn quality(delivery: Delivery) -> QoS {
    match delivery {
        Delivery::AtMostOnce => QoS::AtMostOnce,
        Delivery::AtLeastOnce => QoS::AtLeastOnce,
    }
}

/// The delays between attempts: doubling, with jitter, so that a crew does not fall upon a broker that has just started
/// all at once.
#[derive(Debug)]
struct Backoff {
    first_ms: u64,
    /// The bound for the first attempts; on loopback only this host's own programs come, so they may come often.
    early_bound_ms: u64,
    failures: u32,
}

impl Backoff {
    const EARLY: u32 = 10;
    const BOUND_MS: u64 = 5_000;

    fn new(host: &str) -> Self {
        if is_loopback(host) {
            Self { first_ms: 100, early_bound_ms: 1_000, failures: 0 }
        } else {
            Self { first_ms: 250, early_bound_ms: Self::BOUND_MS, failures: 0 }
        }
    }

    /// The delay after an attempt, or a connection, that lasted this long. `chance` is between 0 and 1.
    fn after(&mut self, lasted: Duration, chance: f64) -> Duration {
        if lasted >= GOOD + Duration::from_secs(CONNECT_S) {
            self.failures = 0;
        }
        let bound = if self.failures < Self::EARLY { self.early_bound_ms } else { Self::BOUND_MS };
        let full = self.first_ms.saturating_mul(1 << self.failures.min(16)).min(bound);
        self.failures = self.failures.saturating_add(1);
        Duration::from_millis(full).mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0))
    }
}

/// A number between 0 and 1, from the kernel's randomness.
fn chance() -> f64 {
    f64::from(uuid::Uuid::new_v4().as_fields().0) / f64::from(u32::MAX)
}

/// How a connection ended.
enum End {
    /// Against our will.
    Lost(String),
    /// As we were told.
    Stopped,
}

/// Where a connection is.
enum Phase {
    Subscribing { until: tokio::time::Instant },
    Running,
    Closing { until: tokio::time::Instant, farewell: Farewell },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Farewell {
    /// Something still waits to be sent or acknowledged.
    Pending,
    /// The disconnect has been asked for.
    Asked,
}

pub(super) struct Task {
    config: LinkConfig,
    shared: Arc<Shared>,
    control: watch::Receiver<Control>,
    events: mpsc::Sender<LinkEvent>,
    backoff: Backoff,
    connection: u32,
    /// The last reason that was told, so that each is told once.
    told: Option<String>,
    /// How many connections in a row were lost soon after they had come up.
    thrown_out: u32,
    /// Somebody has spoken for us with a later connection number of this start, and is gone.
    outbid: Outbid,
}

/// Whether this connection's number still counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outbid {
    No,
    Yes,
}

/// Returns when the connection is to be given up: closed, abandoned, or cut since `cuts`.
async fn stop(control: &mut watch::Receiver<Control>, cuts: u32) {
    // an error: no handle is left, which counts as abandoned
    let _ = control.wait_for(|control| control.mode != Mode::Run || control.cuts != cuts).await;
}

/// Returns when the link is to end.
async fn end(control: &mut watch::Receiver<Control>) {
    let _ = control.wait_for(|control| matches!(control.mode, Mode::Close { .. } | Mode::Abandon)).await;
}

/// Returns when the link is to end without a farewell.
async fn abandoned(control: &mut watch::Receiver<Control>) {
    let _ = control.wait_for(|control| control.mode == Mode::Abandon).await;
}

impl Task {
    pub(super) fn new(
        config: LinkConfig,
        shared: Arc<Shared>,
        control: watch::Receiver<Control>,
        events: mpsc::Sender<LinkEvent>,
    ) -> Self {
        let backoff = Backoff::new(&config.host);
        Self { config, shared, control, events, backoff, connection: 0, told: None, thrown_out: 0, outbid: Outbid::No }
    }

    pub(super) async fn run(mut self) {
        loop {
            let Control { mode, cuts } = self.now();
            match mode {
                Mode::Close { .. } | Mode::Abandon => break,
                Mode::Cut => {
                    self.down("the network is cut".to_owned()).await;
                    let _ = self.control.wait_for(|control| control.mode != Mode::Cut).await;
                    continue;
                }
                Mode::Run => {}
            }
            self.connection = self.connection.saturating_add(1);
            let started = Instant::now();
            let end = self.connect(cuts).await;
            {
                let mut lane = locked(&self.shared.lane);
                lane.client = None;
                lane.outbox.disconnected();
            }
            match end {
                End::Stopped => {}
                End::Lost(reason) => {
                    self.down(reason).await;
                    let delay = self.backoff.after(started.elapsed(), chance());
                    tokio::select! {
                        biased;
                        () = stop(&mut self.control, cuts) => {}
                        () = tokio::time::sleep(delay) => {}
                    }
                }
            }
        }
        tracing::debug!(broker = %self.address(), "the link has ended");
    }

    /// What is asked of the task; with no handle left, that it ends.
    fn now(&self) -> Control {
        let control = self.control.borrow().clone();
        if self.control.has_changed().is_err() { Control { mode: Mode::Abandon, ..control } } else { control }
    }

    fn address(&self) -> String {
        match self.config.host.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]:{}", self.config.port),
            Err(_) => format!("{}:{}", self.config.host, self.config.port),
        }
    }

    fn presence(&self, status: Connection, reason: Text<64>) -> Option<(&OwnPresence, Presence)> {
        let own = self.config.presence.as_ref()?;
        Some((own, Presence { status, start: own.start, connection: self.connection, reason }))
    }

    fn online(&self) -> Option<(&OwnPresence, Presence)> {
        self.presence(Connection::Online, Text::cut("connected"))
    }

    fn options(&self) -> MqttOptions {
        // rumqttc joins host and port with a colon
        let host = match self.config.host.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => self.config.host.clone(),
        };
        let mut options = MqttOptions::new(&self.config.client_id, host, self.config.port);
        if let Some(tls) = &self.config.tls {
            options.set_transport(tls.transport());
        }
        options.set_keep_alive(KEEP_ALIVE);
        options.set_clean_session(true);
        options.set_max_packet_size(MAX_PACKET_BYTES, MAX_PACKET_BYTES);
        if let Some((own, presence)) = self.presence(Connection::Offline, Text::cut("connection lost")) {
            match self.encode(own, &presence) {
                Ok(payload) => {
                    let name = own.topic.name(&self.config.crew);
                    options.set_last_will(LastWill::new(name.as_str(), payload, QoS::AtLeastOnce, true));
                }
                Err(error) => tracing::error!(%error, "there will be no last will"),
            }
        }
        options
    }

    /// One connection, from the first packet to the end.
    async fn connect(&mut self, cuts: u32) -> End {
        let (client, mut event_loop) = AsyncClient::new(self.options(), REQUESTS);
        let mut network = NetworkOptions::new();
        // small messages that are answered: to wait for more to send would cost 40 ms each time
        network.set_tcp_nodelay(true);
        network.set_connection_timeout(CONNECT_S);
        event_loop.set_network_options(network);
        let mut connecting = Box::pin(async move {
            let first = event_loop.poll().await;
            (event_loop, first)
        });
        let (event_loop, first) = tokio::select! {
            biased;
            () = stop(&mut self.control, cuts) => {
                // A client that vanishes while it connects can stop rumqttd for good (rumqtt issue 1062): let it arrive
                // first. It has a time-out of its own.
                tokio::spawn(connecting);
                return End::Stopped;
            }
            done = &mut connecting => done,
        };
        match first {
            Err(error) => {
                return End::Lost(format!(
                    "cannot connect to the broker at {}: {}",
                    self.address(),
                    self.explain(&error)
                ));
            }
            Ok(Event::Incoming(Packet::ConnAck(_))) => {}
            Ok(other) => {
                return End::Lost(format!("the broker at {} begins with {other:?}", self.address()));
            }
        }
        let filters = self.config.audience.subscriptions(&self.config.crew);
        let filters = filters
            .into_iter()
            .map(|wanted| SubscribeFilter::new(wanted.filter.as_str().to_owned(), quality(wanted.delivery)));
        if client.try_subscribe_many(filters).is_err() {
            return End::Lost("cannot subscribe: the client's queue is full at its start".to_owned());
        }
        {
            let presence = self.online().and_then(|(own, presence)| Some((own, self.encode(own, &presence).ok()?)));
            let name = presence.as_ref().map(|(own, _)| own.topic.name(&self.config.crew));
            let mut lane = locked(&self.shared.lane);
            lane.client = Some(client.clone());
            lane.outbox.connected(match (presence, &name) {
                (Some((own, payload)), Some(name)) => Some((&own.topic, name, payload)),
                (Some(_) | None, _) => None,
            });
            lane.pump();
        }
        self.serve(cuts, &client, event_loop).await
    }

    /// Polls until the connection ends.
    async fn serve(&mut self, cuts: u32, client: &AsyncClient, mut event_loop: EventLoop) -> End {
        let mut phase = Phase::Subscribing { until: tokio::time::Instant::now() + SUBSCRIBE };
        let started = Instant::now();
        loop {
            let event = {
                // held until it is done: a poll that is dropped while it writes loses the packet
                let poll = event_loop.poll();
                tokio::pin!(poll);
                loop {
                    match phase {
                        Phase::Subscribing { until } => tokio::select! {
                            biased;
                            () = stop(&mut self.control, cuts) => {}
                            () = sleep_until(until) => {
                                return End::Lost(format!("the broker at {} does not confirm the subscriptions", self.address()));
                            }
                            event = &mut poll => break event,
                        },
                        Phase::Running => tokio::select! {
                            biased;
                            () = stop(&mut self.control, cuts) => {}
                            event = &mut poll => break event,
                        },
                        Phase::Closing { until, .. } => tokio::select! {
                            biased;
                            () = abandoned(&mut self.control) => return End::Stopped,
                            () = sleep_until(until) => {
                                tracing::warn!(broker = %self.address(), "the broker did not take everything in time");
                                return End::Stopped;
                            }
                            event = &mut poll => break event,
                        },
                    }
                    match self.now().mode {
                        Mode::Close { reason } => {
                            if let Some((own, presence)) = self.presence(Connection::Offline, reason) {
                                self.say(own, &presence);
                            }
                            let until = tokio::time::Instant::now() + Duration::from_millis(CLOSE_MS);
                            phase = Phase::Closing { until, farewell: farewell(&self.shared, client) };
                        }
                        Mode::Run | Mode::Cut | Mode::Abandon => return End::Stopped,
                    }
                }
            };
            match event {
                Err(error) => {
                    return match phase {
                        Phase::Closing { .. } => End::Stopped,
                        Phase::Subscribing { .. } | Phase::Running => {
                            let reason = format!("lost the broker at {}: {}", self.address(), self.explain(&error));
                            End::Lost(reason + &self.suspicion(started.elapsed()))
                        }
                    };
                }
                Ok(Event::Incoming(Packet::SubAck(SubAck { return_codes, .. }))) => {
                    if return_codes.contains(&SubscribeReasonCode::Failure) {
                        return End::Lost(format!(
                            "the broker at {} refuses a subscription; its access rules have to let {:?} read its topics",
                            self.address(),
                            self.config.client_id
                        ));
                    }
                    self.running(&mut phase).await;
                }
                Ok(Event::Incoming(Packet::Publish(publish))) => {
                    self.running(&mut phase).await;
                    match phase {
                        Phase::Running => self.receive(cuts, publish).await,
                        Phase::Subscribing { .. } | Phase::Closing { .. } => {}
                    }
                    match std::mem::replace(&mut self.outbid, Outbid::No) {
                        Outbid::No => {}
                        Outbid::Yes => {
                            return End::Lost(format!(
                                "another program was connected as {:?}, with the same start number and a later \
                                 connection; connecting anew with a number after its own",
                                self.config.client_id
                            ));
                        }
                    }
                }
                Ok(Event::Incoming(Packet::PubAck(acknowledgement))) => {
                    locked(&self.shared.lane).outbox.acknowledged(acknowledgement.pkid);
                }
                Ok(Event::Outgoing(Outgoing::Publish(packet_id))) => {
                    locked(&self.shared.lane).outbox.on_the_wire(packet_id);
                }
                Ok(Event::Outgoing(Outgoing::Disconnect)) => return End::Stopped,
                Ok(Event::Incoming(_) | Event::Outgoing(_)) => {}
            }
            match &mut phase {
                Phase::Subscribing { .. } | Phase::Running => locked(&self.shared.lane).pump(),
                Phase::Closing { farewell: said, .. } => match said {
                    Farewell::Pending => *said = farewell(&self.shared, client),
                    Farewell::Asked => {}
                },
            }
        }
    }

    /// The subscriptions are confirmed (or their first message is here, which says as much).
    async fn running(&mut self, phase: &mut Phase) {
        match phase {
            Phase::Subscribing { .. } => {
                *phase = Phase::Running;
                tracing::info!(broker = %self.address(), connection = self.connection, "connected");
                self.told = None;
                self.tell(LinkEvent::Up { connection: self.connection }).await;
            }
            Phase::Running | Phase::Closing { .. } => {}
        }
    }

    async fn down(&mut self, reason: String) {
        if self.told.as_ref() == Some(&reason) {
            return;
        }
        tracing::warn!(reason, "not connected");
        self.told = Some(reason.clone());
        self.tell(LinkEvent::Down { reason }).await;
    }

    /// Tells the user, waiting for room if need be.
    async fn tell(&mut self, event: LinkEvent) {
        tokio::select! {
            biased;
            permit = self.events.reserve() => if let Ok(permit) = permit { permit.send(event) },
            () = end(&mut self.control) => {}
        }
    }

    async fn receive(&mut self, cuts: u32, publish: Publish) {
        let retained = if publish.retain { Retained::Yes } else { Retained::No };
        let screened = refused::screen(&self.config.crew, &publish.topic, publish.payload.len(), retained)
            .and_then(|topic| Ok((self.believe(&topic, &publish)?, topic)));
        match screened {
            Err(why) => {
                self.shared.refuse(why.kind(), &publish.topic, &why);
                // a flood of refused messages must not hold up the others
                let _ = self.events.try_send(LinkEvent::Refused { topic: refused::shown(&publish.topic), why });
            }
            Ok((verified, topic)) => {
                if self.config.presence.as_ref().is_some_and(|own| own.topic == topic) {
                    self.see_own_presence(&publish.payload);
                }
                if topic == Topic::Manifest {
                    self.see_manifest(&publish.payload);
                }
                let (key, version) = verified.map(|Verified { key, version }| (key, version)).unzip();
                let payload = publish.payload.into();
                let message = LinkEvent::Message(Incoming { topic, payload, retained, key, version });
                tokio::select! {
                    biased;
                    permit = self.events.reserve() => if let Ok(permit) = permit { permit.send(message) },
                    () = stop(&mut self.control, cuts) => {}
                }
            }
        }
    }

    /// Who signed a message, where its kind is signed. That a retained one was cleared is said by an empty message, which
    /// nobody can sign: it is no evidence of anything, and passes.
    fn believe(&self, topic: &Topic, publish: &Publish) -> Result<Option<Verified>, Refusal> {
        match topic.wrapping() {
            Wrapping::Plain => Ok(None),
            Wrapping::Envelope if publish.payload.is_empty() && topic.retention() == Retention::Retained => Ok(None),
            Wrapping::Envelope => {
                let keyring = &self.config.trust.keyring;
                let verified = verify(&publish.payload, &publish.topic, |key, message, signature| {
                    keyring.believe(topic, key, message, signature)
                })
                .map_err(Refusal::Envelope)?;
                if verified.version > self.shared.speaks {
                    let version = verified.version.number().into();
                    return Err(Refusal::Envelope(DecodeError::Version { name: "message", version }));
                }
                Ok(Some(verified))
            }
        }
    }

    /// A newer manifest counts from now on. One that may not follow ours changes nothing, and somebody should know.
    fn see_manifest(&self, payload: &[u8]) {
        if payload.is_empty() {
            return;
        }
        match self.config.trust.keyring.offer(payload) {
            Ok(Changed::Nothing) => {}
            Ok(Changed::Manifest) => {
                let manifest = self.config.trust.keyring.manifest();
                tracing::info!(revision = manifest.revision, term = manifest.term, "the crew's manifest has changed");
            }
            Err(error) => tracing::warn!("the manifest on the broker is not taken: {error}"),
        }
    }

    /// Says online again when something else stands where our presence should: the last will of an earlier connection,
    /// or what somebody else wrote.
    ///
    /// A copy of this program (of this card) leaves a last will with our start number and perhaps a later connection than
    /// ours: that one would be believed and ours not, so this connection is given up for one with a later number. While
    /// the copy says online, nothing is said against it: two that outbid each other would never end.
    fn see_own_presence(&mut self, payload: &[u8]) {
        let Some((own, online)) = self.online() else { return };
        match decode::<Presence>(payload) {
            Ok(Presence { status: Connection::Offline, start, connection, .. })
                if start == online.start && connection > online.connection =>
            {
                self.connection = connection;
                self.outbid = Outbid::Yes;
            }
            Ok(seen) if seen.order() > online.order() => tracing::warn!(
                seen_start = seen.start,
                start = online.start,
                "the broker knows a later start of this program than this one, so nobody will believe this one's \
                 presence: another program runs under this name, or the stored start number is lost"
            ),
            Ok(Presence { status: Connection::Online, start, connection, .. })
                if (start, connection) == online.order() => {}
            Ok(_) | Err(_) => self.say(own, &online),
        }
    }

    fn encode(&self, own: &OwnPresence, presence: &Presence) -> Result<Vec<u8>, EncodeError> {
        let name = own.topic.name(&self.config.crew);
        encode_in(ProtocolVersion::BEFORE, presence, &name, self.config.trust.signer.as_ref())
    }

    fn say(&self, own: &OwnPresence, presence: &Presence) {
        match self.encode(own, presence) {
            Ok(payload) => self.shared.put(&own.topic, payload),
            Err(error) => tracing::error!(%error, "cannot say how it is with the connection"),
        }
    }

    /// What a connection that ended after so short a time is a sign of, if others before it did as well.
    fn suspicion(&mut self, lasted: Duration) -> String {
        self.thrown_out = if lasted < GOOD { self.thrown_out.saturating_add(1) } else { 0 };
        if self.thrown_out < THROWN_OUT {
            return String::new();
        }
        format!(
            "; this happens again and again: perhaps another program connects as {:?} (a second Pi with a copy of this \
             card?), and the broker lets only the newer one stay",
            self.config.client_id
        )
    }

    /// What rumqttc means, for people.
    fn explain(&self, error: &ConnectionError) -> String {
        match error {
            ConnectionError::Io(error) => error.to_string(),
            ConnectionError::NetworkTimeout => format!("no answer within {CONNECT_S} s"),
            ConnectionError::ConnectionRefused(code) => match code {
                ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized => {
                    format!("it does not let {:?} in", self.config.client_id)
                }
                other => format!("it refuses {:?}: {other:?}", self.config.client_id),
            },
            ConnectionError::MqttState(StateError::ConnectionAborted) => "it closed the connection".to_owned(),
            ConnectionError::MqttState(StateError::AwaitPingResp) => "it stopped answering".to_owned(),
            ConnectionError::MqttState(StateError::Deserialization(rumqttc::Error::Io(error))) => error.to_string(),
            ConnectionError::MqttState(StateError::Deserialization(rumqttc::Error::PayloadSizeLimitExceeded(
                bytes,
            ))) => {
                let why = format!(
                    "a packet of {bytes} bytes, more than the {MAX_PACKET_BYTES} of this protocol; set the broker's \
                     message size limit below that, and clear the topic if the message is retained"
                );
                self.shared.refuse(RefusedKind::Oversized, "", &why);
                why
            }
            other => other.to_string(),
        }
    }
}

/// Asks for the disconnect once everything is with the broker.
fn farewell(shared: &Shared, client: &AsyncClient) -> Farewell {
    let mut lane = locked(&shared.lane);
    lane.pump();
    if lane.outbox.is_idle() && client.try_disconnect().is_ok() { Farewell::Asked } else { Farewell::Pending }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE: Duration = Duration::ZERO;

    fn delays(host: &str, chance: f64) -> Vec<u64> {
        let mut backoff = Backoff::new(host);
        (0..14).map(|_| u64::try_from(backoff.after(AT_ONCE, chance).as_millis()).unwrap()).collect()
    }

    #[test]
    fn delays_double_up_to_a_bound_and_are_spread_over_half_of_themselves() {
        let longest = [250, 500, 1000, 2000, 4000, 5000, 5000, 5000, 5000, 5000, 5000, 5000, 5000, 5000];
        assert_eq!(delays("broker.example", 1.0), longest);
        assert_eq!(delays("broker.example", 0.0), longest.map(|ms| ms / 2));
        assert_eq!(
            delays("127.0.0.1", 1.0),
            [100, 200, 400, 800, 1000, 1000, 1000, 1000, 1000, 1000, 5000, 5000, 5000, 5000]
        );
        // a chance that is no chance harms nobody
        assert_eq!(delays("broker.example", 7.0), longest);
    }

    #[test]
    fn only_a_connection_that_held_begins_anew() {
        let mut backoff = Backoff::new("broker.example");
        for _ in 0..4 {
            backoff.after(AT_ONCE, 1.0);
        }
        // a broker that accepts and throws out is met with longer and longer delays
        assert_eq!(backoff.after(GOOD, 1.0), Duration::from_millis(4000));
        assert_eq!(backoff.after(GOOD + Duration::from_secs(CONNECT_S), 1.0), Duration::from_millis(250));
    }

    #[test]
    fn a_thousand_links_do_not_come_at_once() {
        let mut firsts: Vec<Duration> =
            (0..1000).map(|_| Backoff::new("broker.example").after(AT_ONCE, chance())).collect();
        firsts.sort();
        // 250 in each quarter, if they are evenly spread; beyond 150 and 350 no run of ours will ever see them
        for quarter in 0..4u32 {
            let begin = Duration::from_micros(125_000 + u64::from(quarter) * 31_250);
            let end = begin + Duration::from_micros(31_250);
            let inside = firsts.iter().filter(|delay| (begin..=end).contains(*delay)).count();
            assert!((150..=350).contains(&inside), "{inside} of 1000 in quarter {quarter}");
        }
    }

    #[test]
    fn the_last_attempt_of_a_long_night_is_no_overflow() {
        let mut backoff = Backoff { first_ms: 250, early_bound_ms: 5000, failures: u32::MAX };
        assert_eq!(backoff.after(AT_ONCE, 1.0), Duration::from_millis(Backoff::BOUND_MS));
        assert_eq!(backoff.failures, u32::MAX);
    }
}
