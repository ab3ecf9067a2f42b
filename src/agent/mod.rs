//! The agent: one task on each Pi. Pins and wire become events of the cores (gestures, the node's core, the power
//! sequencer), and their actions are performed here, in order, and nowhere else.
//!
//! ```text
//! edge ──► recogniser ──► node core ──► store, publish, engine
//! wire ──► decode ──────►   │  ▲
//!                           ▼  │
//!                     power sequencer ──► stop the engine, hand over to systemd
//! ```
//!
//! Everything that takes time (the engine, the hand-over) runs beside this task and comes back as an event, so the button
//! lives whatever hangs.

mod fan;
mod perform;
mod show;
mod supply;
mod watchdog;

use crate::clock::Clock;
use crate::config::EngineKind;
use crate::engine::{Engine, EngineWork};
use crate::hal::{Board, Button, Edge, Leds, OverCurrent, SensorReport, Sensors};
use crate::host::{Doors, Host, HostError, Knock, Notice};
use crate::keys::{Standing, new_nonce};
use crate::link::{Link, LinkEvent, Network, RefusedKind, Writes};
use crate::store::Store;
use beehive_board::cut::{Feed, FeedRecord};
use beehive_board::fan::{Curve, FanModel};
use beehive_board::feed::{HatReading, decide_feed};
use beehive_board::gesture::{Gesture, GestureEvent, Recogniser, Thresholds};
use beehive_board::led::{Light, Player};
use beehive_board::power::{self, Sequencer};
use beehive_board::shim::{ButtonLine, Shim};
use beehive_board::time::Instant;
use beehive_cluster::node::{EngineOutcome, Event, NodeConfig, NodeCore, NodeRecord, Press};
use beehive_cluster::{Destruction, Instant as ClusterInstant};
use beehive_mqtt::command::Command;
use beehive_mqtt::coordinator::CoordinatorState;
use beehive_mqtt::direct::DirectRequest;
use beehive_mqtt::node::{
    BrokerTrust, EngineRun, EngineState, NodeEvent, NodeEventKind, NodeInfo, NodeState, Part, PartStatus, PowerPhase,
    Role, Telemetry, Throttling,
};
use beehive_mqtt::{HEARTBEAT_MS, MachineMark, NodeName, ProtocolVersion, SpokenVersion, Text, Topic};
use show::PwrLed;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use watchdog::{Pet, Petting};

/// The name of the node's record in the store.
pub const RECORD: &str = "node";

/// The name of the number of starts in the store.
pub const START: &str = "start";

/// How many outcomes may wait; each comes from one thing that was begun.
const OUTCOMES: usize = 16;

/// How often the feed file is written anew even if nothing changed, so that it is not stale when the hook reads it.
const FEED_AGAIN_MS: u64 = 60_000;

/// How often the refusal of messages of one kind is told.
const REFUSED_AGAIN_MS: u64 = 60_000;

/// How often the sensors are read where there is no HAT and no firmware to ask: often enough to find one.
const SENSORS_SELDOM_MS: u64 = 10_000;

/// How often the firmware is asked for under-voltage where there is no HAT: as often as the kernel asks it.
const SUPPLY_EVERY_MS: u64 = 2_000;

/// What an agent is made of.
pub struct AgentParts {
    /// What never changes.
    pub settings: AgentSettings,
    /// Pins, LEDs, sensors.
    pub board: Board,
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// The machine.
    pub host: Arc<dyn Host>,
    /// Where records are kept.
    pub store: Store,
    /// The way to the broker.
    pub link: Link,
    /// What comes from there.
    pub inbound: mpsc::Receiver<LinkEvent>,
    /// Lets a shutdown of somebody else's go on.
    pub doors: Doors,
    /// Such shutdowns.
    pub knocks: mpsc::Receiver<Knock>,
}

/// What never changes while an agent runs.
#[derive(Debug, Clone)]
pub struct AgentSettings {
    /// This node.
    pub node: NodeName,
    /// Master or node.
    pub role: Role,
    /// The number of this start.
    pub start: u32,
    /// The button's times.
    pub thresholds: Thresholds,
    /// The power sequence's times.
    pub deadlines: power::Deadlines,
    /// The feed, where the configuration decides it.
    pub feed: Option<Feed>,
    /// Whether destroying verbs from the wire are carried out.
    pub destruction: Destruction,
    /// How far the broker is trusted.
    pub broker: BrokerTrust,
    /// How often the sensors are read, in milliseconds.
    pub sensors_every_ms: u64,
}

/// The way to the broker, as far as the LEDs tell of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Broker {
    /// Not connected since then.
    down_since: Option<Instant>,
}

/// How an agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentEnd {
    /// It was told to stop.
    Stopped,
    /// The link to the broker ended for good, which only happens at an end that was ordered elsewhere.
    LinkEnded,
    /// A shutdown was announced and called off: the engine may be stopped and the node cordoned, which a new start mends.
    CalledOff,
}

/// What comes back from what runs beside the loop.
enum Outcome {
    Engine { token: u64, outcome: EngineOutcome },
    EngineStopped,
    HandedOver(Result<(), HostError>),
}

struct Agent {
    settings: AgentSettings,
    clock: Clock,
    engine: Arc<dyn Engine>,
    host: Arc<dyn Host>,
    store: Store,
    link: Link,
    doors: Doors,
    core: NodeCore,
    machine: Option<MachineMark>,
    sequencer: Sequencer,
    recogniser: Option<Recogniser>,
    shim: Option<Shim<Box<dyn Button>>>,
    shim_next: Option<Instant>,
    listening_since: Instant,
    leds: Option<Box<dyn Leds>>,
    led_shown: Option<Light>,
    pwr_shown: PwrLed,
    player: Player,
    status_until: Option<Instant>,
    sensors: Box<dyn Sensors>,
    info: NodeInfo,
    phase: PowerPhase,
    goal: Option<beehive_mqtt::node::PowerGoal>,
    outcomes: mpsc::Sender<Outcome>,
    published: Option<NodeState>,
    published_at: Option<Instant>,
    revision: u32,
    event_sequence: u32,
    /// The kinds of refused messages that were told of in the last minute, one entry a kind.
    refused_told: Vec<(RefusedKind, Instant)>,
    reading: HatReading,
    fan_duty: Option<u8>,
    fan_curve: Curve,
    throttling: Option<Throttling>,
    petting: Petting,
    broker: Broker,
    engine_seen_running: EngineRun,
    over_currents: u32,
    feed: (Feed, String),
    feed_written_at: Option<Instant>,
    other_user: Option<String>,
    sensors_at: Instant,
    telemetry_at: Instant,
    engine_seen: EngineState,
}

/// Runs an agent until `stop` resolves.
///
/// # Errors
/// If its record cannot be read or written at the start: without it a command could run twice.
pub async fn run(parts: AgentParts, stop: impl Future<Output = ()>) -> anyhow::Result<AgentEnd> {
    let AgentParts { settings, mut board, engine, host, store, link, mut inbound, doors, mut knocks } = parts;
    let clock = Clock;
    let now = clock.now();
    let record: NodeRecord = store.load(RECORD)?.unwrap_or_default();
    let config = NodeConfig {
        role: settings.role,
        destruction: settings.destruction,
        boot: host.boot_id(),
        nonce: new_nonce()?,
        term: link.trust().keyring.term().0,
    };
    let (core, first) = NodeCore::start(cluster(now), config, record);
    store.save(RECORD, core.record())?;

    let (outcomes, mut outcomes_in) = mpsc::channel(OUTCOMES);
    let mut shim = board.button.take().map(Shim::new);
    let first_level = shim.as_mut().and_then(|shim| shim.line_mut().level().ok());
    let recogniser = first_level.map(|level| Recogniser::new(settings.thresholds, level, now));
    let info = NodeInfo {
        role: settings.role,
        model: Text::cut(&host.model()),
        version: Text::cut(crate::release::mark::own().version.as_str()),
        architecture: Text::cut(host.architecture()),
        engine: Text::cut(engine.kind()),
        pins: board.info.pins.clone(),
        button: board.info.button.clone(),
        poe_hat: board.info.poe_hat.clone(),
        leds: board.info.leds.clone(),
        broker: settings.broker,
        speaks: SpokenVersion::said_by(link.speaks()),
    };
    let engine_seen = engine.state();
    let petting = Petting::new(host.watchdog_ms());
    let mut agent = Agent {
        sequencer: Sequencer::new(settings.deadlines),
        settings,
        clock,
        // one machine may play many Pis only without a real engine
        machine: host.machine().filter(|_| engine.kind() != EngineKind::Simulated.as_str()),
        engine,
        host,
        store,
        link,
        doors,
        core,
        recogniser,
        shim,
        shim_next: Some(now),
        listening_since: now,
        leds: board.leds.take(),
        led_shown: None,
        pwr_shown: PwrLed::Given,
        player: Player::new(),
        status_until: None,
        sensors: board.sensors,
        info,
        phase: PowerPhase::Running,
        goal: None,
        outcomes,
        published: None,
        published_at: None,
        revision: 0,
        event_sequence: 0,
        refused_told: Vec::new(),
        reading: HatReading::Absent,
        fan_duty: None,
        // more air than the older HAT's own levels, on either
        fan_curve: Curve::new(FanModel::PoePlus),
        throttling: None,
        petting,
        broker: Broker { down_since: Some(now) },
        engine_seen_running: EngineRun::Stopped,
        over_currents: 0,
        feed: (Feed::Unknown, String::new()),
        feed_written_at: None,
        other_user: None,
        sensors_at: now,
        telemetry_at: now,
        engine_seen: engine_seen.clone(),
    };
    agent.start_engine_again();
    agent.publish_info();
    agent.node_actions(now, first);
    agent.node(now, Event::EngineSeen(engine_seen));
    agent.read_sensors(now);
    agent.settle(now);
    agent.host.notify(Notice::Ready);

    let mut stop = std::pin::pin!(stop);
    loop {
        let pause = agent.pause();
        tokio::select! {
            () = &mut stop => break,
            edge = board.edges.recv(), if agent.shim.is_some() => match edge {
                Some(edge) => agent.edge(edge),
                None => agent.button_lost(),
            },
            event = inbound.recv() => match event {
                Some(event) => agent.link_event(event),
                None => return Ok(AgentEnd::LinkEnded),
            },
            Some(outcome) = outcomes_in.recv() => agent.outcome(outcome),
            Some(knock) = knocks.recv() => {
                if let Some(end) = agent.knock(knock) {
                    agent.link.close("the shutdown was called off").await;
                    return Ok(end);
                }
            }
            () = tokio::time::sleep(pause) => {}
        }
        let now = agent.clock.now();
        agent.due(now);
        agent.settle(now);
        match agent.petting.came_round(now) {
            Pet::Due => agent.host.notify(Notice::Watchdog),
            Pet::Early => {}
        }
    }
    agent.host.notify(Notice::Stopping);
    agent.leave_leds();
    let reason = match agent.phase {
        PowerPhase::HandingOver | PowerPhase::Halted => "the Pi goes down",
        PowerPhase::Running | PowerPhase::Grace | PowerPhase::Draining | PowerPhase::Stopping => "the agent stops",
    };
    agent.link.close(reason).await;
    Ok(AgentEnd::Stopped)
}

/// What a card that was replaced says of itself.
pub(crate) fn replaced(node: &NodeName) -> String {
    format!(
        "the crew's manifest names another key for {node} than the one on this card: it was replaced, and says nothing more \
         to the crew; the button works. If this is the card that {node} is to have, copy nodes/{node} of the crew's folder \
         here and start again"
    )
}

fn cluster(now: Instant) -> ClusterInstant {
    ClusterInstant::from_ms(now.as_ms())
}

impl Agent {
    /// An agent that died between the engine's stop and the hand-over left a member with its engine stopped.
    fn start_engine_again(&self) {
        let stopped = self.engine_seen.cluster.is_some() && self.engine_seen.run == EngineRun::Stopped;
        if !stopped {
            return;
        }
        let future = self.engine.perform(EngineWork::Start);
        tokio::spawn(async move {
            match future.await {
                Ok(done) => tracing::info!("the engine was found stopped: {}", done.detail),
                Err(error) => tracing::error!("the engine was found stopped and does not start: {error}"),
            }
        });
    }

    /// How long nothing is due.
    fn pause(&self) -> Duration {
        let now = self.clock.now();
        let mut until = now.plus_ms(self.petting.longest_sleep_ms()).min(self.sensors_at).min(self.telemetry_at);
        let mut soonest = |due: Option<Instant>| {
            if let Some(due) = due {
                until = until.min(due);
            }
        };
        soonest(self.core.next_deadline().map(|due| Instant::from_ms(due.as_ms())));
        soonest(self.sequencer.next_deadline());
        soonest(self.recogniser.as_ref().and_then(Recogniser::next_deadline));
        soonest(self.shim.as_ref().and(self.shim_next));
        soonest(self.next_light(now));
        soonest(self.published_at.map(|at| at.plus_ms(HEARTBEAT_MS)));
        Duration::from_millis(until.saturating_since(now))
    }

    /// Does what is due.
    fn due(&mut self, now: Instant) {
        if self.core.next_deadline().is_some_and(|due| due.as_ms() <= now.as_ms()) {
            self.node(now, Event::Tick);
        }
        if self.sequencer.next_deadline().is_some_and(|due| due <= now) {
            self.power(now, power::Event::Tick);
        }
        if let Some(recogniser) = &mut self.recogniser {
            let events = recogniser.poll(now);
            self.gestures(now, events);
        }
        if self.sensors_at <= now {
            self.read_sensors(now);
        }
        let engine = self.engine.state();
        self.note_engine(&engine);
        if engine != self.engine_seen {
            self.engine_seen = engine.clone();
            self.node(now, Event::EngineSeen(engine));
        }
    }

    /// Remembers that the engine has run since the agent's start.
    fn note_engine(&mut self, engine: &EngineState) {
        match engine.run {
            EngineRun::Running => self.engine_seen_running = EngineRun::Running,
            EngineRun::Stopped => {}
        }
    }

    /// Shows and publishes what has changed.
    fn settle(&mut self, now: Instant) {
        self.show(now);
        self.publish_state(now);
        if self.telemetry_at <= now {
            self.telemetry_at = now.plus_ms(HEARTBEAT_MS);
            self.publish_telemetry(now);
        }
    }

    // ---- the button

    fn edge(&mut self, edge: Edge) {
        // while the line is ours as an LED, its edges are our own
        let listening = self.shim.as_ref().is_some_and(Shim::is_listening);
        if !listening || edge.at < self.listening_since {
            return;
        }
        if let Some(recogniser) = &mut self.recogniser {
            let events = recogniser.edge(edge.at, edge.level);
            self.gestures(edge.at, events);
        }
        self.shim_next = Some(self.clock.now());
    }

    /// The pins' backend has ended.
    fn button_lost(&mut self) {
        self.shim = None;
        self.recogniser = None;
        self.info.button = Part {
            status: PartStatus::Failed,
            detail: Text::cut("the line's edges ended; the agent works without the button"),
        };
        self.publish_info();
        self.tell(NodeEventKind::Board, "button lost: its line gives no more edges");
    }

    fn gestures(&mut self, now: Instant, events: beehive_board::gesture::Events) {
        for event in events {
            self.show_press(now, event);
            match event {
                GestureEvent::Pressed => {
                    self.tell(NodeEventKind::ButtonPressed, "pressed");
                    self.node(now, Event::ButtonDown);
                }
                GestureEvent::Passed(threshold) => self.tell(NodeEventKind::ButtonThreshold, threshold.as_str()),
                GestureEvent::Released => self.tell(NodeEventKind::ButtonReleased, "released"),
                GestureEvent::Gesture(gesture) => {
                    self.tell(NodeEventKind::Gesture, gesture.as_str());
                    let press = match gesture {
                        Gesture::Short => Some(Press::Short),
                        Gesture::Double => Some(Press::Double),
                        Gesture::PowerOff => Some(Press::PowerOff),
                        Gesture::Reset => Some(Press::Reset),
                        Gesture::Cancelled | Gesture::Stuck => Some(Press::Nothing),
                        Gesture::ResetArmed => None,
                    };
                    if let Some(press) = press {
                        self.node(now, Event::Press(press));
                    }
                }
            }
        }
    }

    // ---- somebody else's shutdown

    fn knock(&mut self, knock: Knock) -> Option<AgentEnd> {
        let now = self.clock.now();
        match knock {
            Knock::Stopping(door) => {
                match self.phase {
                    PowerPhase::Running | PowerPhase::Grace => {
                        self.tell(NodeEventKind::Power, &format!("the system is stopping ({})", door.as_str()));
                    }
                    // our own hand-over comes back to us, or the other door
                    PowerPhase::Draining | PowerPhase::Stopping | PowerPhase::HandingOver | PowerPhase::Halted => {}
                }
                self.node(now, Event::SystemStopping);
                None
            }
            Knock::CalledOff => match self.phase {
                PowerPhase::Running => None,
                PowerPhase::Grace
                | PowerPhase::Draining
                | PowerPhase::Stopping
                | PowerPhase::HandingOver
                | PowerPhase::Halted => Some(AgentEnd::CalledOff),
            },
        }
    }

    // ---- the wire

    /// A card that was replaced is silent from the moment that it hears so: nobody believes it, and the broker would throw
    /// out the new card for it. The button goes on. It comes back with its new keys, at its next start.
    fn leave_the_name_to_another_card(&self) {
        let trust = self.link.trust();
        match trust.keyring.standing(&Topic::Presence(self.settings.node.clone()), &trust.signer.public()) {
            Standing::Writer | Standing::Vacant => {}
            Standing::Replaced => {
                tracing::error!("{}", replaced(&self.settings.node));
                self.link.set_network(Network::Cut);
            }
        }
    }

    fn link_event(&mut self, event: LinkEvent) {
        let now = self.clock.now();
        match event {
            LinkEvent::Up { connection } => {
                self.broker.down_since = None;
                tracing::info!(connection, "connected to the broker");
                self.node(now, Event::Listening);
            }
            LinkEvent::Down { reason } => {
                self.broker.down_since = self.broker.down_since.or(Some(now));
                tracing::warn!("no connection to the broker: {reason}");
            }
            LinkEvent::Refused { topic, why } => self.tell_refused(now, why.kind(), &format!("{topic}: {why}")),
            LinkEvent::Message(message) => match &message.topic {
                Topic::Command(node) if *node == self.settings.node => {
                    // what cannot be read is counted and logged by the link; without an id nobody can be answered
                    match self.link.decode::<Command>(&message) {
                        Ok(command) => match message.key {
                            Some(key) => self.node(now, Event::Command { key, command: Box::new(command) }),
                            // cannot be: the link lets no command pass that nobody signed
                            None => tracing::error!("a command without a signature passed the link; it is not run"),
                        },
                        Err(error) => self.tell_refused(now, (&error).into(), &format!("command: {error}")),
                    }
                }
                Topic::Direct(user, node) if *node == self.settings.node => {
                    match (self.link.decode::<DirectRequest>(&message), message.key) {
                        (Ok(request), Some(key)) => {
                            let (user, role) = (user.clone(), self.link.trust().keyring.role(user));
                            self.node(now, Event::Direct { user, key, role, request: Box::new(request) });
                        }
                        // cannot be: the link lets no request pass that nobody signed
                        (Ok(_), None) => {
                            tracing::error!("a request without a signature passed the link; it is not run")
                        }
                        (Err(error), _) => self.tell_refused(now, (&error).into(), &format!("direct request: {error}")),
                    }
                }
                Topic::CoordinatorState => {
                    if let (false, Ok(state)) = (message.is_cleared(), self.link.decode::<CoordinatorState>(&message)) {
                        self.node(now, Event::Coordinator(state.session.clone()));
                        // the link lets no state of the coordinator pass that nobody signed
                        self.core.follow(&state.session, message.version.unwrap_or(ProtocolVersion::BEFORE));
                        self.write_what_is_read();
                    }
                }
                // the link has taken it or not
                Topic::Manifest => {
                    let (term, _) = self.link.trust().keyring.term();
                    self.node(now, Event::Term(term));
                    self.leave_the_name_to_another_card();
                }
                // our own presence is watched by the link
                Topic::Command(_)
                | Topic::Presence(_)
                | Topic::State(_)
                | Topic::Info(_)
                | Topic::Telemetry(_)
                | Topic::Event(_)
                | Topic::Request(_)
                | Topic::Result(_)
                | Topic::CoordinatorPresence
                | Topic::Operation(_)
                | Topic::OperationNode(..)
                | Topic::CoordinatorEvent
                | Topic::ConsoleRequest(_)
                | Topic::ConsoleResponse(_)
                | Topic::Direct(..) => {}
            },
        }
    }

    /// What stays on the broker is said again in the version of the protocol that the crew reads now.
    fn write_what_is_read(&mut self) {
        match self.link.write_in(self.core.writes()) {
            Writes::AsBefore => {}
            Writes::Otherwise => {
                tracing::info!(version = %self.core.writes(), "writes in another version of the protocol from now on");
                self.publish_info();
                self.published = None;
            }
        }
    }

    /// Tells of a refused message, as seldom as the link logs it: a flood of them must not become one of ours.
    fn tell_refused(&mut self, now: Instant, kind: RefusedKind, detail: &str) {
        self.refused_told.retain(|(_, at)| now.saturating_since(*at) < REFUSED_AGAIN_MS);
        if self.refused_told.iter().all(|(told, _)| *told != kind) {
            self.refused_told.push((kind, now));
            self.tell(NodeEventKind::Refused, &format!("{} message: {detail}", kind.as_str()));
        }
    }

    fn tell(&mut self, kind: NodeEventKind, detail: &str) {
        self.event_sequence = self.event_sequence.wrapping_add(1);
        tracing::info!(?kind, "{detail}");
        let event = NodeEvent {
            kind,
            detail: Text::cut(detail),
            uptime_ms: self.clock.now().as_ms(),
            sequence: self.event_sequence,
        };
        self.publish(&Topic::Event(self.settings.node.clone()), &event);
    }

    fn publish<P: beehive_mqtt::Payload>(&self, topic: &Topic, payload: &P) {
        if let Err(error) = self.link.publish(topic, payload) {
            tracing::error!("{error}");
        }
    }

    fn publish_info(&self) {
        self.publish(&Topic::Info(self.settings.node.clone()), &self.info);
    }

    fn publish_state(&mut self, now: Instant) {
        let mut state = NodeState {
            lifecycle: self.core.lifecycle(),
            power: self.phase,
            goal: self.goal,
            led: Text::cut(self.player.pattern(now).map_or("dark", |pattern| pattern.as_str())),
            running: self.core.running(),
            boot: self.host.boot_id(),
            start: self.settings.start,
            revision: self.revision,
            nonce: self.core.nonce().clone(),
            heard: self.core.heard().cloned(),
            engine: self.engine.state(),
            last_shutdown: self.core.last_shutdown().cloned(),
            speaks: SpokenVersion::said_by(self.link.speaks()),
            machine: self.machine.clone(),
        };
        let same = self.published.as_ref() == Some(&state);
        let beat = self.published_at.is_none_or(|at| now.saturating_since(at) >= HEARTBEAT_MS);
        if same && !beat {
            return;
        }
        if !same {
            self.revision += 1;
            state.revision = self.revision;
        }
        self.publish(&Topic::State(self.settings.node.clone()), &state);
        self.published = Some(state);
        self.published_at = Some(now);
    }

    // ---- sensors and feed

    fn read_sensors(&mut self, now: Instant) {
        let SensorReport { hat, over_current, fan_duty, part } = self.sensors.poll(now);
        self.reading = hat;
        self.fan_duty = fan_duty;
        self.follow_fan();
        self.follow_supply();
        let every_ms = self.settings.sensors_every_ms;
        self.sensors_at = now.plus_ms(match (part.status, self.throttling) {
            (PartStatus::Missing | PartStatus::Off, None) => every_ms.max(SENSORS_SELDOM_MS),
            (PartStatus::Missing | PartStatus::Off, Some(_)) => every_ms.max(SUPPLY_EVERY_MS),
            (PartStatus::Works | PartStatus::Busy | PartStatus::Failed, _) => every_ms,
        });
        if part != self.info.poe_hat {
            let changed = part.status != self.info.poe_hat.status;
            self.info.poe_hat = part.clone();
            self.publish_info();
            if changed {
                self.tell(NodeEventKind::Board, &format!("PoE HAT: {}", part.detail));
            }
        }
        self.show_over_current(now, over_current);
        match over_current {
            OverCurrent::New => {
                self.over_currents = self.over_currents.saturating_add(1);
                self.tell(NodeEventKind::OverCurrent, "the PoE HAT reported an over-current");
            }
            OverCurrent::None => {}
        }
        self.follow_feed(now);
    }

    /// Keeps the file that the final hook reads.
    fn follow_feed(&mut self, now: Instant) {
        let before = self.feed.0;
        self.decide_feed();
        let old = self.feed_written_at.is_none_or(|at| now.saturating_since(at) >= FEED_AGAIN_MS);
        if old {
            self.look_for_another_user();
        }
        if self.feed.0 != before || old {
            self.write_feed(now);
        }
    }

    fn decide_feed(&mut self) {
        let (feed, evidence) = decide_feed(self.settings.feed, &self.reading, self.other_user.as_deref());
        self.feed = (feed, evidence.as_str().to_owned());
    }

    /// Beside another user of the SHIM's lines nothing is cut. That is some files to read, so it is done as seldom as the record
    /// is written, and before the last time that it is.
    fn look_for_another_user(&mut self) {
        let user = self.host.other_user_of_the_shim();
        if user != self.other_user {
            match &user {
                Some(user) => {
                    tracing::warn!("{user}: the power is not cut beside it; `beehive doctor --shim-lines` has more")
                }
                None => tracing::info!("nobody else uses the SHIM's lines any more"),
            }
            self.other_user = user;
        }
        self.decide_feed();
    }

    fn write_feed(&mut self, now: Instant) {
        let mut evidence = heapless::String::new();
        for character in self.feed.1.chars() {
            if evidence.push(character).is_err() {
                break;
            }
        }
        let record = FeedRecord { feed: self.feed.0, evidence, written_boottime_ms: now.as_ms() };
        match self.host.write_feed(&record) {
            Ok(()) => self.feed_written_at = Some(now),
            // the hook then finds no fresh file and does not cut, which is the safe side
            Err(error) => tracing::error!("{error}"),
        }
    }

    fn publish_telemetry(&self, now: Instant) {
        let telemetry = Telemetry {
            uptime_ms: now.as_ms(),
            feed: Text::cut(self.feed.0.as_str()),
            feed_evidence: Text::cut(&self.feed.1),
            poe_current_ma: match self.reading {
                HatReading::Current { current_ma } => Some(current_ma),
                HatReading::Absent | HatReading::NoCurrent => None,
            },
            over_currents: self.over_currents,
            fan_duty: self.fan_duty,
            processor_millicelsius: self.host.processor_millicelsius(),
            throttling: self.host.throttling(),
            refused: self.link.refused(),
        };
        self.publish(&Topic::Telemetry(self.settings.node.clone()), &telemetry);
    }
}

/// The presence topic of a node, for its link.
pub fn presence_topic(node: &NodeName) -> Topic {
    Topic::Presence(node.clone())
}
