//! The Pis of the demo: the real agent, coordinator and link, on a simulated board, machine and engine.
//!
//! Each Pi that is on has a thread with a runtime of its own. A power cut ends that runtime at its next wait, and with it
//! everything that the agent had begun, so that nothing of a dead Pi works on. Only its link lives in the demo's own
//! runtime: it is told to drop its connection, and the broker publishes the last will. What a Pi stored stays in its
//! folder, and the next boot (new boot id, next start number) finds it.
//!
//! What happens after a hand-over is what the real machine does: the services end in order, then the final hook's own
//! decision ([`beehive_board::cut::decide`]) cuts the power or leaves it on.

use super::play::USER;
use crate::agent::{self, AgentEnd, AgentParts, AgentSettings};
use crate::clock::Clock;
use crate::coordinator::{self, CoordinatorParts, Outside};
use crate::crew::keys::{CrewKeys, NewCrew};
use crate::engine::SimulatedEngine;
use crate::engine::simulated::Settings;
use crate::hal::simulated::{SimulatedBoard, SimulatedKnobs};
use crate::host::Doors;
use crate::host::simulated::HandOver;
use crate::host::{Host, SimulatedHost};
use crate::keys::Trust;
use crate::kube::{ControlPlane, SimulatedKubernetes};
use crate::link::{Link, LinkConfig, LinkEvent, Network, OwnPresence};
use crate::store::Store;
use anyhow::Context;
use beehive_board::cut::{self, Decision, Evidence};
use beehive_board::gesture::{Level, Thresholds};
use beehive_board::led::Light;
use beehive_board::power::{Deadlines, Goal};
use beehive_cluster::Destruction;
use beehive_cluster::blockers::Blockers;
use beehive_cluster::coordinator::{CoordinatorConfig, PowerSwitch};
use beehive_mqtt::UserName;
use beehive_mqtt::manifest::UserRole;
use beehive_mqtt::node::{BrokerTrust, Role};
use beehive_mqtt::{Audience, BootId, CrewName, NodeName, Text, Topic};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// The crew's name; a Pi's is this and its number.
pub(super) const CREW: &str = "bee42-crew-01";

/// How often the sensors are read, in milliseconds: the configuration's default.
const SENSORS_EVERY_MS: u64 = 10_000;

/// How many nodes rolling work takes down at once, and how many are worked on at once otherwise.
const MAX_UNAVAILABLE: u16 = 1;
const MAX_PARALLEL: u16 = 8;

/// The least time of a simulated boot, so that everybody sees the Pi go.
const BOOT_MS: u64 = 200;

/// How long a tap on the button takes.
const TAP_MS: u64 = 100;

/// A hold is longer than its threshold by this.
const HOLD_MORE_MS: u64 = 200;

/// How often the final hook looks whether the button was released.
const RELEASE_LOOK_MS: u64 = 20;

/// How long the Pis' threads may take to end with the demo. Each ends at its next wait.
const END_WITHIN: Duration = Duration::from_secs(5);

/// How fast the crew lives.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// The button's times.
    pub(super) thresholds: Thresholds,
    /// The power sequence's times.
    pub(super) deadlines: Deadlines,
    /// How long each step of the engine, and each drain, takes.
    pub(super) step_ms: u64,
}

impl Pace {
    /// The shortest times that the configuration allows, for scenarios.
    pub(super) fn quick(step_ms: u64) -> Self {
        Self {
            thresholds: Thresholds {
                debounce_ms: 5,
                short_max_ms: 500,
                double_gap_ms: 300,
                hold_ms: 1_000,
                reset_from_ms: 3_000,
                reset_until_ms: 4_000,
                confirm_after_ms: 200,
                confirm_within_ms: 5_000,
                stuck_after_ms: 6_000,
            },
            deadlines: Deadlines { grace_ms: 1_000, ..Deadlines::default() },
            step_ms,
        }
    }

    /// The times of a real Pi, for a person.
    pub(super) fn real(step_ms: u64) -> Self {
        Self { thresholds: Thresholds::default(), deadlines: Deadlines::default(), step_ms }
    }
}

/// What is done to a button.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Press {
    /// A tap.
    Short,
    /// Held until a release means power off.
    Hold,
    /// Two taps.
    Double,
    /// Held until a release arms the reset, then the tap that confirms it.
    Reset,
}

/// Whether there is mains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mains {
    On,
    Off,
}

/// How a Pi is, for those who stand before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Machine {
    /// It has 5 V and starts.
    Booting,
    /// It runs.
    On,
    /// It has no 5 V.
    Off,
    /// Its system has ended, and the 5 V are still there; says why.
    Halted(String),
}

impl Machine {
    /// The word in scripts.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Booting => "booting",
            Self::On => "on",
            Self::Off => "off",
            Self::Halted(_) => "halted",
        }
    }
}

/// Something that was seen at a Pi, not heard of over MQTT.
#[derive(Debug, Clone)]
pub(super) struct Note {
    pub(super) node: NodeName,
    pub(super) text: String,
}

/// A crew.
pub(super) struct World {
    pis: Vec<Arc<Pi>>,
    lives: JoinSet<()>,
    _folder: Folder,
}

/// One Pi and what feeds it.
pub(super) struct Pi {
    pub(super) node: NodeName,
    pub(super) role: Role,
    crew: Arc<Crew>,
    dir: PathBuf,
    state: Mutex<State>,
    /// Rings when it was given 5 V, or when the demo ends.
    wake: Notify,
}

/// What all Pis have in common.
struct Crew {
    name: CrewName,
    keys: CrewKeys,
    nodes: Vec<NodeName>,
    broker: SocketAddr,
    pace: Pace,
    runtime: Handle,
    notes: mpsc::UnboundedSender<Note>,
}

struct State {
    machine: Machine,
    mains: Mains,
    network: Network,
    button: Level,
    knobs: Option<SimulatedKnobs>,
    links: Vec<Link>,
    /// Dropped when the power goes.
    power: Option<watch::Sender<()>>,
    ending: bool,
}

/// How a Pi's system ended.
enum End {
    /// The power went.
    Cut,
    /// It was handed over and its services have ended; what the final hook would find.
    HandedOver { goal: Goal, boot: BootId, host: SimulatedHost },
}

impl World {
    /// Makes a crew of `count` Pis and switches them on. It has to be called within a tokio runtime.
    ///
    /// # Errors
    /// If there is no folder for what they store.
    pub(super) fn new(
        count: u8,
        broker: SocketAddr,
        pace: Pace,
    ) -> anyhow::Result<(Self, mpsc::UnboundedReceiver<Note>)> {
        let folder = Folder::make()?;
        let (notes_out, notes) = mpsc::unbounded_channel();
        let names = (1..=count).map(node_name).collect::<anyhow::Result<Vec<_>>>()?;
        let name: CrewName = CREW.parse().map_err(|error| anyhow::anyhow!("{CREW}: {error}"))?;
        let user = USER.parse().map_err(|error| anyhow::anyhow!("{USER}: {error}"))?;
        // keys of its own each time; what they sign is worth nothing elsewhere
        let users = vec![(user, UserRole::Operator)];
        let keys = CrewKeys::generate(&NewCrew { crew: name.clone(), nodes: names.clone(), users })?;
        let crew = Arc::new(Crew {
            name,
            keys,
            nodes: names.clone(),
            broker,
            pace,
            runtime: Handle::current(),
            notes: notes_out,
        });
        let mut lives = JoinSet::new();
        let mut pis = Vec::new();
        for (index, node) in names.into_iter().enumerate() {
            let pi = Arc::new(Pi {
                dir: folder.0.join(node.as_str()),
                role: if index == 0 { Role::Master } else { Role::Node },
                node,
                crew: Arc::clone(&crew),
                state: Mutex::new(State {
                    machine: Machine::Booting,
                    mains: Mains::On,
                    network: Network::Up,
                    button: Level::Released,
                    knobs: None,
                    links: Vec::new(),
                    power: None,
                    ending: false,
                }),
                wake: Notify::new(),
            });
            lives.spawn(Arc::clone(&pi).live());
            pis.push(pi);
        }
        Ok((Self { pis, lives, _folder: folder }, notes))
    }

    /// The operator's keys, and whom the operator believes.
    ///
    /// # Errors
    /// If there is no such operator.
    pub(super) fn trust_of(&self, user: &UserName) -> anyhow::Result<Trust> {
        let first = self.pis.first().ok_or_else(|| anyhow::anyhow!("a crew without a Pi"))?;
        Ok(first.crew.keys.user(user)?.trust(None)?)
    }

    /// The Pis in the order of their numbers.
    pub(super) fn pis(&self) -> &[Arc<Pi>] {
        &self.pis
    }

    /// One of them.
    pub(super) fn pi(&self, node: &NodeName) -> Option<&Arc<Pi>> {
        self.pis.iter().find(|pi| pi.node == *node)
    }

    /// Cuts every Pi's power, and removes what they stored.
    pub(super) async fn end(mut self) {
        for pi in &self.pis {
            pi.state().ending = true;
            pi.mains(Mains::Off);
            pi.wake.notify_one();
        }
        let all = async { while self.lives.join_next().await.is_some() {} };
        // whoever takes longer has its folder removed all the same
        let _ = tokio::time::timeout(END_WITHIN, all).await;
    }
}

/// The name of Pi `number`.
pub(super) fn node_name(number: u8) -> anyhow::Result<NodeName> {
    let name = format!("{CREW}-{number:03}");
    name.parse().map_err(|error| anyhow::anyhow!("{name}: {error}"))
}

/// The last part of a Pi's name, as scripts call it.
pub(super) fn short(node: &NodeName) -> &str {
    node.as_str().rsplit('-').next().unwrap_or_default()
}

impl Pi {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it is.
    pub(super) fn machine(&self) -> Machine {
        self.state().machine.clone()
    }

    /// Whether its plug is in.
    pub(super) fn has_mains(&self) -> Mains {
        self.state().mains
    }

    /// Whether its network cable is in.
    pub(super) fn has_network(&self) -> Network {
        self.state().network
    }

    /// What its ACT LED shows.
    pub(super) fn act_led(&self) -> Light {
        use crate::hal::Led;
        use crate::hal::simulated::PiLed;
        match self.state().knobs.as_ref().map(|knobs| knobs.pi_led(Led::Act)) {
            Some(PiLed::Agent(light)) => light,
            Some(PiLed::System) | None => Light::Dark,
        }
    }

    fn note(&self, text: impl Into<String>) {
        // fails only when the demo ends
        let _ = self.crew.notes.send(Note { node: self.node.clone(), text: text.into() });
    }

    /// Pulls the plug, or puts it back; the SHIM then waits for its button.
    pub(super) fn mains(&self, mains: Mains) {
        let mut state = self.state();
        if state.mains == mains {
            return;
        }
        state.mains = mains;
        match mains {
            Mains::Off => {
                state.machine = Machine::Off;
                for link in state.links.drain(..) {
                    link.abandon();
                }
                state.knobs = None;
                state.power = None;
                drop(state);
                self.note("mains cut");
            }
            // the SHIM's switch stays open until its button is pressed
            Mains::On => {
                drop(state);
                self.note("mains back: it stays off until its button is pressed");
            }
        }
    }

    /// Pulls its network cable, or puts it back.
    pub(super) fn network(&self, network: Network) {
        let mut state = self.state();
        if state.network == network {
            return;
        }
        state.network = network;
        for link in &state.links {
            link.set_network(network);
        }
        drop(state);
        self.note(match network {
            Network::Cut => "network cut",
            Network::Up => "network back",
        });
    }

    /// Handles its button, in real time, beside whatever else goes on.
    pub(super) fn press(self: &Arc<Self>, press: Press) {
        let times = self.crew.pace.thresholds;
        // between bounce and too late
        let gap_ms = u64::from(times.debounce_ms + (times.double_gap_ms - times.debounce_ms) / 3);
        let stretches: Vec<(Level, u64)> = match press {
            Press::Short => vec![(Level::Pressed, TAP_MS)],
            Press::Hold => vec![(Level::Pressed, u64::from(times.hold_ms) + HOLD_MORE_MS)],
            Press::Double => vec![(Level::Pressed, TAP_MS), (Level::Released, gap_ms), (Level::Pressed, TAP_MS)],
            Press::Reset => vec![
                (Level::Pressed, u64::from(times.reset_from_ms) + HOLD_MORE_MS),
                (Level::Released, u64::from(times.confirm_after_ms) + HOLD_MORE_MS),
                (Level::Pressed, TAP_MS),
            ],
        };
        let pi = Arc::clone(self);
        self.crew.runtime.spawn(async move {
            for (level, ms) in stretches {
                pi.button(level);
                tokio::time::sleep(Duration::from_millis(ms)).await;
            }
            pi.button(Level::Released);
        });
    }

    fn button(&self, level: Level) {
        let mut state = self.state();
        state.button = level;
        if let Some(knobs) = &state.knobs {
            knobs.button(level);
            return;
        }
        match (level, &state.machine, state.mains) {
            // the button closes the SHIM's switch
            (Level::Pressed, Machine::Off, Mains::On) => {
                state.machine = Machine::Booting;
                drop(state);
                self.note("the button switches it on: boots");
                self.wake.notify_one();
            }
            (Level::Pressed, Machine::Off, Mains::Off) => {
                drop(state);
                self.note("nothing happens: it has no mains");
            }
            (Level::Pressed, Machine::Halted(_), _) => {
                drop(state);
                self.note("nothing happens: it is halted with its 5 V present; cut its mains and give them back");
            }
            (Level::Pressed, Machine::Booting | Machine::On, _) | (Level::Released, _, _) => {}
        }
    }

    /// Boots whenever there is power, until the demo ends.
    async fn live(self: Arc<Self>) {
        loop {
            loop {
                {
                    let state = self.state();
                    if state.ending {
                        return;
                    }
                    if state.machine == Machine::Booting {
                        break;
                    }
                }
                self.wake.notified().await;
            }
            let slowly = BOOT_MS + 4 * self.crew.pace.step_ms;
            if self.crew.pace.step_ms > 0 || self.has_booted() {
                tokio::time::sleep(Duration::from_millis(slowly)).await;
            }
            let (power_out, power) = watch::channel(());
            {
                let mut state = self.state();
                if state.machine != Machine::Booting {
                    continue;
                }
                state.machine = Machine::On;
                state.power = Some(power_out);
            }
            let end = self.run_in_a_thread(power).await;
            self.ended(end).await;
        }
    }

    fn has_booted(&self) -> bool {
        self.dir.exists()
    }

    async fn run_in_a_thread(self: &Arc<Self>, power: watch::Receiver<()>) -> anyhow::Result<End> {
        let (end_out, end) = oneshot::channel();
        let pi = Arc::clone(self);
        std::thread::Builder::new()
            .name(self.node.as_str().to_owned())
            .spawn(move || {
                let end = pi.run(power);
                // fails only when the demo ends
                let _ = end_out.send(end);
            })
            .context("no thread for the Pi")?;
        end.await.map_err(|_| anyhow::anyhow!("its program panicked"))?
    }

    /// What follows the end of its system.
    async fn ended(&self, end: anyhow::Result<End>) {
        let (next, text) = match end {
            // whoever cut it has said so
            Ok(End::Cut) => return,
            Ok(End::HandedOver { goal: Goal::Reboot, .. }) => (Machine::Booting, "reboots".to_owned()),
            Ok(End::HandedOver { goal: Goal::PowerOff, boot, host }) => self.final_hook(&boot, &host).await,
            Err(error) => {
                let reason = format!("its program failed: {error:#}");
                (Machine::Halted(reason.clone()), reason)
            }
        };
        let mut state = self.state();
        // the mains may have been cut meanwhile
        if state.machine == Machine::On {
            state.machine = next;
            state.knobs = None;
            state.links.clear();
            state.power = None;
            drop(state);
            self.note(text);
        }
    }

    /// The program in systemd's last phase: the same decision from the same evidence.
    async fn final_hook(&self, boot: &BootId, host: &SimulatedHost) -> (Machine, String) {
        let evidence = Evidence {
            verb: cut::Verb::PowerOff,
            flag: Some(boot.as_str()),
            boot_id: boot.as_str(),
            // nothing is mounted on a simulated Pi
            writable: None,
            feed: host.feed(),
            now_boottime_ms: Clock.now().as_ms(),
        };
        if let Decision::Refuse(refusal) = cut::decide(&evidence) {
            return (Machine::Halted(refusal.to_string()), refusal.to_string());
        }
        let from = Clock.now();
        while self.state().button == Level::Pressed {
            if Clock.now().saturating_since(from) > cut::RELEASE_WAIT_MS {
                let held = cut::Refusal::ButtonHeld.to_string();
                return (Machine::Halted(held.clone()), held);
            }
            tokio::time::sleep(Duration::from_millis(RELEASE_LOOK_MS)).await;
        }
        (Machine::Off, "the final hook cuts its power: off".to_owned())
    }

    /// One boot, until the power goes or the system has ended. It blocks.
    fn run(&self, mut power: watch::Receiver<()>) -> anyhow::Result<End> {
        let pace = &self.crew.pace;
        let store = Store::open(&self.dir)?;
        let start = store.counter("start")?;
        let boot: BootId = uuid::Uuid::new_v4().to_string().parse().map_err(|error| anyhow::anyhow!("{error}"))?;
        let (host, mut hand_overs) = SimulatedHost::new(boot.clone());
        let plane = match self.role {
            Role::Master => {
                Some(ControlPlane::open(store.clone()).map_err(|error| anyhow::anyhow!("{}", error.reason))?)
            }
            Role::Node => None,
        };
        let settings = Settings { step_ms: pace.step_ms, ..Settings::default() };
        let engine = SimulatedEngine::new(self.node.clone(), store.clone(), plane.clone(), settings)?;
        let (board, knobs) = SimulatedBoard::build();
        // this machine has no systemd that others could ask
        let (doors, _nobody, knocks) = Doors::unattended();
        let trust = self.crew.keys.node(&self.node)?.trust(Some(store.clone()))?;
        let presence = OwnPresence { topic: Topic::Presence(self.node.clone()), start };
        let (link, inbound) = self.link(self.node.as_str(), Audience::Node(self.node.clone()), presence, &trust);
        let mut links = vec![link.clone()];
        let agent = AgentParts {
            settings: AgentSettings {
                node: self.node.clone(),
                role: self.role,
                start,
                thresholds: pace.thresholds,
                deadlines: pace.deadlines,
                feed: None,
                destruction: Destruction::Allowed,
                broker: BrokerTrust::Loopback,
                sensors_every_ms: SENSORS_EVERY_MS,
            },
            board,
            engine: Arc::new(engine),
            host: Arc::new(host.clone()) as Arc<dyn Host>,
            store: store.clone(),
            link,
            inbound,
            doors,
            knocks,
        };
        let coordinator = plane.map(|plane| {
            let presence = OwnPresence { topic: Topic::CoordinatorPresence, start };
            let client = format!("{}-coordinator", self.node);
            let (link, inbound) = self.link(&client, Audience::Coordinator, presence, &trust);
            links.push(link.clone());
            CoordinatorParts {
                config: CoordinatorConfig {
                    master: self.node.clone(),
                    expected: self.crew.nodes.clone(),
                    max_unavailable: MAX_UNAVAILABLE,
                    max_parallel: MAX_PARALLEL,
                    server: Text::cut(self.node.as_str()),
                    drain_ms: u64::from(pace.deadlines.prepare_ms),
                    destruction: Destruction::Allowed,
                    blockers: Blockers::default(),
                    switch: PowerSwitch::Absent,
                    speaks: beehive_mqtt::ProtocolVersion::CURRENT,
                },
                outside: Outside::default(),
                kubernetes: Arc::new(SimulatedKubernetes::new(plane, pace.step_ms)),
                store,
                audit: self.dir.join(crate::audit::FOLDER),
                link,
                inbound,
            }
        });
        {
            let mut state = self.state();
            if state.machine != Machine::On {
                // cut before it came so far
                links.iter().for_each(Link::abandon);
                return Ok(End::Cut);
            }
            links.iter().for_each(|link| link.set_network(state.network));
            knobs.button(state.button);
            state.knobs = Some(knobs);
            state.links = links;
        }

        let own = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let end = own.block_on(async {
            tokio::select! {
                biased;
                () = async { while power.changed().await.is_ok() {} } => Ok(None),
                goal = work(agent, coordinator, &mut hand_overs) => goal.map(Some),
            }
        });
        Ok(match end? {
            None => End::Cut,
            Some(goal) => End::HandedOver { goal, boot, host },
        })
    }

    /// A link in the demo's own runtime, where it survives the power cut for long enough to drop its connection in order:
    /// the embedded broker does not like one that goes in the middle of its first message.
    fn link(
        &self,
        client_id: &str,
        audience: Audience,
        presence: OwnPresence,
        trust: &Trust,
    ) -> (Link, mpsc::Receiver<LinkEvent>) {
        let _demo = self.crew.runtime.enter();
        Link::spawn(LinkConfig {
            host: self.crew.broker.ip().to_string(),
            port: self.crew.broker.port(),
            tls: None,
            client_id: client_id.to_owned(),
            crew: self.crew.name.clone(),
            audience,
            presence: Some(presence),
            trust: trust.clone(),
        })
    }
}

/// Agent and coordinator, until the system hands over and ends them.
async fn work(
    agent: AgentParts,
    coordinator: Option<CoordinatorParts>,
    hand_overs: &mut mpsc::Receiver<HandOver>,
) -> anyhow::Result<Goal> {
    let (stop_out, stop) = watch::channel(());
    let ended = |mut stop: watch::Receiver<()>| async move { while stop.changed().await.is_ok() {} };
    let agent = agent::run(agent, ended(stop.clone()));
    let services = async {
        match coordinator {
            None => agent.await,
            Some(parts) => {
                let coordinator = coordinator::run(parts, ended(stop));
                let (agent, coordinator) = tokio::join!(biased; agent, coordinator);
                coordinator?;
                agent
            }
        }
    };
    let mut services = std::pin::pin!(services);
    tokio::select! {
        end = &mut services => match end? {
            AgentEnd::Stopped => anyhow::bail!("it stopped without being told to"),
            AgentEnd::LinkEnded => anyhow::bail!("its link ended"),
            AgentEnd::CalledOff => anyhow::bail!("a shutdown was called off that nobody here can call off"),
        },
        Some(HandOver { goal, .. }) = hand_overs.recv() => {
            // as systemd's SIGTERM
            drop(stop_out);
            services.await?;
            Ok(goal)
        }
    }
}

/// A folder that is removed with everything in it.
struct Folder(PathBuf);

impl Folder {
    fn make() -> anyhow::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let path = std::env::temp_dir().join(format!("beehive-demo-{}", uuid::Uuid::new_v4().simple()));
        std::fs::DirBuilder::new().mode(0o700).create(&path).with_context(|| {
            format!("cannot make the folder {}; set TMPDIR to one that can be written", show(&path))
        })?;
        Ok(Self(path))
    }
}

fn show(path: &Path) -> std::path::Display<'_> {
    path.display()
}

impl Drop for Folder {
    fn drop(&mut self) {
        // nothing can be done about what cannot be removed
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quick_times_are_times_that_a_configuration_may_have() {
        let Pace { thresholds, deadlines, .. } = Pace::quick(0);
        thresholds.validate().unwrap();
        deadlines.validate().unwrap();
        let real = Pace::real(0);
        real.thresholds.validate().unwrap();
        for times in [thresholds, real.thresholds] {
            assert!(TAP_MS < u64::from(times.short_max_ms) && TAP_MS > u64::from(times.debounce_ms));
            assert!(u64::from(times.hold_ms) + HOLD_MORE_MS < u64::from(times.reset_from_ms));
            assert!(u64::from(times.reset_from_ms) + HOLD_MORE_MS < u64::from(times.reset_until_ms));
            assert!(u64::from(times.confirm_after_ms) + HOLD_MORE_MS < u64::from(times.confirm_within_ms));
        }
    }

    #[test]
    fn names_have_three_digits() {
        assert_eq!(node_name(7).unwrap().as_str(), "bee42-crew-01-007");
        assert_eq!(short(&node_name(50).unwrap()), "050");
    }

    #[test]
    fn a_folder_goes_with_its_owner() {
        let folder = Folder::make().unwrap();
        let path = folder.0.clone();
        std::fs::write(path.join("file"), "x").unwrap();
        drop(folder);
        assert!(!path.exists());
    }
}
