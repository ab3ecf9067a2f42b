//! A Pi: power, a power sequence in short, an engine that keeps half-done work, and the real core.

use crate::broker::crew;
use crate::card::Saved;
use crate::kube::Object;
use crate::sign;
use crate::world::{Happening, World};
use beehive_cluster::Destruction;
use beehive_cluster::node::{
    Action, EngineOutcome, EngineTask, Event, Grace, NodeConfig, NodeCore, NodeRecord, Preparation,
};
use beehive_mqtt::command::SealContext;
use beehive_mqtt::coordinator::OperationKind;
use beehive_mqtt::node::{CommandStatus, Connection, EngineRun, EngineState, NodeState, PowerGoal, PowerPhase, Role};
use beehive_mqtt::{BootId, ClusterId, CommandId, HEARTBEAT_MS, NodeName, ProtocolVersion, SpokenVersion, Text, Topic};

const GRACE_MS: u64 = 5_000;
const PREPARE_MS: u64 = 120_000;

/// How long a Pi may take from its button to its end: the deadlines of the sequence, and some seconds.
pub(crate) const DOWN_WITHIN_MS: u64 = GRACE_MS + PREPARE_MS + 1_500 + 3_000 + 5_000;

/// The longest that a boot takes: later than that a machine's clock has begun elsewhere.
const LONG_UP_MS: u64 = 1_000_000_000;

/// What the engine has on its card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kept {
    Blank,
    HalfJoined(ClusterId),
    Member(ClusterId),
    HalfReset,
}

/// Work of an engine that is under way.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) token: u64,
    pub(crate) task: EngineTask,
    pub(crate) fails: bool,
    pub(crate) number: u64,
}

pub(crate) struct Pi {
    pub(crate) name: NodeName,
    pub(crate) master: bool,
    pub(crate) on: bool,
    /// Whether it comes back by itself once the world is calm: its power was cut, nobody asked for that.
    pub(crate) returns: bool,
    pub(crate) boots: u32,
    pub(crate) start: u32,
    pub(crate) connection: u32,
    pub(crate) life: u32,
    pub(crate) core: Option<NodeCore>,
    /// What the node's core stored last, to be shown and for "stored before it ran".
    pub(crate) stored: NodeRecord,
    /// The highest version of the protocol that its program speaks.
    pub(crate) speaks: ProtocolVersion,
    /// How far its clock is ahead of the world's.
    pub(crate) ahead: u64,
    /// Its power was cut and does not come back by itself.
    pub(crate) stays_dark: bool,
    /// Its agent has started since its engine was stopped, and with it the engine.
    pub(crate) restarted: bool,
    /// Since when it has been going down.
    pub(crate) down_since: Option<u64>,
    pub(crate) kept: Kept,
    pub(crate) running: bool,
    /// The engine's version.
    pub(crate) version: Text<32>,
    /// Its kubelet has started and not yet told the API server.
    pub(crate) registers: bool,
    /// When it does: after a boot that takes a while, in which Kubernetes still believes in the boot before.
    pub(crate) registers_at: u64,
    pub(crate) job: u64,
    pub(crate) phase: PowerPhase,
    pub(crate) goal: Option<PowerGoal>,
    pub(crate) reason: Text<32>,
    pub(crate) timer: u32,
    /// Until then nothing of it gets through to the broker and nothing from there to it.
    pub(crate) cut_until: u64,
    /// Since when what it says gets through to the broker, unless its network is cut.
    pub(crate) connected_at: u64,
    /// What somebody else's shutdown, which waits for this Pi, is for.
    pub(crate) system_stops: Option<PowerGoal>,
    /// What an oracle of direct requests knows of it.
    pub(crate) hears: crate::direct::Hears,
    /// Its button was held for a reset, and none has begun for that since. The wish goes with the agent that has it.
    pub(crate) wants_reset: bool,
    /// systemd was asked to shut down.
    handed_over: bool,
    /// Its agent has started since, and knows nothing of that.
    pub(crate) unaware: bool,
    revision: u32,
    tick_at: Option<u64>,
    published: Option<NodeState>,
}

impl Pi {
    pub(crate) fn new(name: NodeName, master: bool) -> Self {
        Self {
            name,
            master,
            on: false,
            returns: false,
            boots: 0,
            start: 0,
            connection: 0,
            life: 0,
            core: None,
            stored: NodeRecord::default(),
            speaks: ProtocolVersion::CURRENT,
            ahead: 0,
            stays_dark: false,
            restarted: true,
            down_since: None,
            kept: Kept::Blank,
            running: false,
            version: Text::new(),
            registers: false,
            registers_at: 0,
            job: 0,
            phase: PowerPhase::Running,
            goal: None,
            reason: Text::new(),
            timer: 0,
            cut_until: 0,
            connected_at: 0,
            system_stops: None,
            hears: crate::direct::Hears::default(),
            wants_reset: false,
            handed_over: false,
            unaware: false,
            revision: 0,
            tick_at: None,
            published: None,
        }
    }

    pub(crate) fn boot(&self) -> BootId {
        format!("boot-{}-{}", self.name, self.boots).parse().unwrap()
    }

    fn engine(&self) -> EngineState {
        let cluster = match &self.kept {
            Kept::Blank | Kept::HalfReset => None,
            Kept::HalfJoined(cluster) | Kept::Member(cluster) => Some(cluster.clone()),
        };
        let run = if self.running { EngineRun::Running } else { EngineRun::Stopped };
        EngineState { cluster, run, version: self.version.clone() }
    }
}

impl World {
    pub(crate) fn boot(&mut self, index: usize) {
        let registers_at = self.now + self.random.between(500, 25_000);
        // its clock counts from wherever this boot began
        let ahead = self.random.between(0, LONG_UP_MS);
        self.event();
        let pi = &mut self.pis[index];
        pi.ahead = ahead;
        pi.stays_dark = false;
        pi.on = true;
        pi.registers_at = registers_at;
        pi.returns = false;
        pi.boots += 1;
        pi.running = matches!(pi.kept, Kept::Member(_));
        pi.registers = pi.running;
        pi.phase = PowerPhase::Running;
        pi.down_since = None;
        pi.goal = None;
        pi.handed_over = false;
        pi.system_stops = None;
        let name = pi.name.clone();
        self.note(|| format!("{name} boots"));
        self.start_agent(index);
        if index == 0 && self.pis[0].on {
            self.start_coordinator();
        }
    }

    pub(crate) fn start_agent(&mut self, index: usize) {
        let now = self.clock(index);
        let nonce = self.nonce();
        let stored = self.cards[index].load_node();
        if !self.pis[index].handed_over {
            // whatever was to take it down, in this boot it does not
            let (node, boots) = (self.pis[index].name.clone(), self.pis[index].boots);
            if self.rolling_down.get(&node) == Some(&boots) {
                self.rolling_down.remove(&node);
            }
        }
        let pi = &mut self.pis[index];
        pi.stored = stored;
        pi.restarted = true;
        pi.unaware = pi.handed_over;
        pi.life += 1;
        pi.start += 1;
        pi.connection = 1;
        pi.connected_at = self.now;
        pi.revision = 0;
        pi.tick_at = None;
        pi.published = None;
        pi.job += 1;
        // what systemd has it ends; anything else the agent forgets, and starts the engine that it had stopped
        if !pi.handed_over {
            pi.phase = PowerPhase::Running;
            pi.down_since = None;
            pi.goal = None;
            pi.timer += 1;
            if matches!(pi.kept, Kept::Member(_)) && !pi.running {
                pi.running = true;
                pi.registers = true;
            }
        }
        let config = NodeConfig {
            role: if pi.master { Role::Master } else { Role::Node },
            destruction: Destruction::Allowed,
            boot: pi.boot(),
            nonce,
            term: 1,
        };
        let (core, actions) = NodeCore::start(now, config, pi.stored.clone());
        pi.core = Some(core);
        let (start, life) = (pi.start, pi.life);
        self.agent_hears_anew(index);
        self.node_performs(index, actions);
        if self.pis[index].core.is_none() {
            return;
        }
        let engine = self.pis[index].engine();
        self.node(index, Event::EngineSeen(engine));
        self.presence(index, Connection::Online, start, 1);
        self.publish_state(index, true);
        self.tell(index);
        self.later(HEARTBEAT_MS, Happening::Heartbeat(index, life));
        // its network was cut before it started
        let cut_ms = self.pis[index].cut_until.saturating_sub(self.now);
        if cut_ms > 0 {
            self.later(cut_ms, Happening::Reconnects(index, life));
        }
    }

    pub(crate) fn agent_dies(&mut self, index: usize) {
        let after = self.random.between(500, 4_000);
        let finishes = self.random.below(2) == 0;
        let pi = &mut self.pis[index];
        if !pi.on || pi.core.is_none() {
            return;
        }
        pi.core = None;
        pi.wants_reset = false;
        pi.life += 1;
        // what the engine was doing dies with it, or goes on unseen
        if !finishes {
            pi.job += 1;
        }
        let (life, start, connection) = (pi.life, pi.start, pi.connection);
        if let (Some(goal), false) = (pi.system_stops, pi.handed_over) {
            // nobody holds the system back any more
            pi.goal = Some(goal);
            pi.phase = PowerPhase::HandingOver;
            pi.handed_over = true;
            pi.timer += 1;
            let timer = pi.timer;
            self.later(3_000, Happening::PowerTimer(index, life, timer));
        }
        self.later(after, Happening::AgentStarts(index, life));
        self.later(200, Happening::Will(index, start, connection));
    }

    pub(crate) fn power_cut(&mut self, index: usize) {
        if !self.pis[index].on {
            return;
        }
        let after = self.random.between(5_000, 60_000);
        let for_long = self.random.below(8) == 0;
        let pi = &self.pis[index];
        let goes_anyway = pi.handed_over && pi.goal == Some(PowerGoal::PowerOff);
        self.goes_dark(index, 15_000);
        if goes_anyway {
            return;
        }
        // the master's power does come back: without it nothing goes on anyway
        if for_long && index > 0 && self.cut_at.is_none() && self.faults.disasters > 0 {
            self.pis[index].stays_dark = true;
            return;
        }
        self.pis[index].returns = true;
        let boots = self.pis[index].boots;
        self.later(after, Happening::Boots(index, boots));
    }

    /// No power from this instant on.
    pub(crate) fn goes_dark(&mut self, index: usize, will_ms: u64) {
        let pi = &mut self.pis[index];
        let (start, connection, had_agent) = (pi.start, pi.connection, pi.core.is_some());
        pi.on = false;
        self.cards[index].power_goes();
        let pi = &mut self.pis[index];
        pi.running = false;
        pi.registers = false;
        pi.core = None;
        pi.wants_reset = false;
        pi.life += 1;
        pi.job += 1;
        pi.timer += 1;
        if had_agent {
            self.later(will_ms, Happening::Will(index, start, connection));
        }
        if index == 0 {
            self.stop_coordinator();
        }
    }

    // ---- the core

    pub(crate) fn node(&mut self, index: usize, event: Event) {
        let now = self.clock(index);
        let Some(core) = &mut self.pis[index].core else { return };
        let actions = core.step(now, event);
        self.node_performs(index, actions);
        self.publish_state(index, false);
        self.schedule_tick(index);
    }

    fn schedule_tick(&mut self, index: usize) {
        let now = self.now;
        let pi = &mut self.pis[index];
        let ahead = pi.ahead;
        let due = pi.core.as_ref().and_then(NodeCore::next_deadline);
        let Some(at) = due.map(|at| at.as_ms().saturating_sub(ahead).max(now + 1)) else {
            return;
        };
        if pi.tick_at.is_none_or(|set| at < set || set <= now) {
            pi.tick_at = Some(at);
            let life = pi.life;
            self.later(at - now, Happening::NodeTick(index, life));
        }
    }

    pub(crate) fn node_tick(&mut self, index: usize, life: u32) {
        if self.pis[index].life == life {
            self.pis[index].tick_at = None;
            self.node(index, Event::Tick);
        }
    }

    pub(crate) fn heartbeat(&mut self, index: usize, life: u32) {
        if self.pis[index].life == life && self.pis[index].core.is_some() {
            self.publish_state(index, true);
            self.later(HEARTBEAT_MS, Happening::Heartbeat(index, life));
        }
    }

    pub(crate) fn publish_state(&mut self, index: usize, always: bool) {
        let pi = &mut self.pis[index];
        let Some(core) = &pi.core else { return };
        let mut state = NodeState {
            lifecycle: core.lifecycle(),
            power: pi.phase,
            goal: pi.goal,
            led: Text::new(),
            running: core.running(),
            boot: pi.boot(),
            start: pi.start,
            revision: pi.revision,
            nonce: core.nonce().clone(),
            heard: core.heard().cloned(),
            engine: pi.engine(),
            last_shutdown: core.last_shutdown().cloned(),
            speaks: SpokenVersion::said_by(pi.speaks),
            machine: None,
        };
        let same = pi.published.as_ref() == Some(&state);
        if same && !always {
            return;
        }
        if !same {
            pi.revision += 1;
            state.revision = pi.revision;
        }
        pi.published = Some(state.clone());
        let name = pi.name.clone();
        self.say(Topic::State(name), &state);
    }

    /// What stays on the broker is said again, because it is written in another version from now on.
    pub(crate) fn publish_anew(&mut self, index: usize) {
        self.pis[index].published = None;
        self.publish_state(index, true);
    }

    fn node_performs(&mut self, index: usize, actions: Vec<Action>) {
        let mut renewal = None;
        let life = self.pis[index].life;
        for action in actions {
            if self.pis[index].life != life {
                return;
            }
            self.trace(|| format!("{action:?}").into_bytes());
            if self.cuts_here() {
                self.fault("power cut");
                let name = self.pis[index].name.clone();
                self.note(|| format!("the power of {name} goes before {action:?}"));
                self.power_cut(index);
                return;
            }
            if self.random.hits(self.faults.crash) {
                let name = self.pis[index].name.clone();
                if self.random.below(2) == 0 {
                    self.fault("agent crash");
                    self.note(|| format!("the agent of {name} dies between two actions"));
                    self.agent_dies(index);
                } else {
                    self.fault("power cut");
                    self.note(|| format!("the power of {name} goes between two actions"));
                    self.power_cut(index);
                }
                return;
            }
            let name = self.pis[index].name.clone();
            match action {
                Action::Store(record) => match self.writes(index, |card| card.save_node(&record)) {
                    Saved::Yes => {
                        self.pis[index].stored = *record;
                        self.card_has_it(index);
                    }
                    Saved::No => {
                        self.pis[index].hears.unsaved = true;
                        self.note(|| format!("the store of {name} fails"));
                        let now = self.clock(index);
                        if let Some(core) = &mut self.pis[index].core {
                            core.store_failed(now);
                        }
                        self.schedule_tick(index);
                        return;
                    }
                    Saved::PowerGone => {
                        self.note(|| format!("the power of {name} goes while it stores"));
                        self.power_cut(index);
                        return;
                    }
                },
                Action::Result(result) => {
                    let well = matches!(result.status, CommandStatus::Succeeded);
                    if result.status.is_final() {
                        self.command_ended(result.id.as_str());
                    }
                    if result.status.is_final() && !well {
                        self.ended_badly.insert(result.id.as_str().to_owned());
                    }
                    self.note(|| {
                        format!("<- {name} {:?} {} {} {}", result.status, result.id, result.code, result.reason)
                    });
                    self.says_of_direct(index, &result);
                    self.say(Topic::Result(name), &result);
                }
                Action::Request(request) => {
                    self.note(|| format!("<- {name} asks {:?} {}", request.want, request.id));
                    self.say(Topic::Request(name), &request);
                }
                Action::Tell(kind, detail) => self.note(|| format!("{name} {kind:?} {detail}")),
                Action::Engine { token, task, deadline_ms } => self.engine_begins(index, token, task, deadline_ms),
                Action::Power { goal, reason, grace, preparation } => {
                    if reason.as_str() == "command" {
                        self.ran(index);
                        let boots = self.pis[index].boots;
                        // a shutdown of all is no rolling work, and one that is broken was not available before either
                        let available = self.kube.is_ready(self.now, &self.pis[0], &self.pis[index]);
                        if available && self.kind_of_running(index) != Some(OperationKind::Shutdown) {
                            self.rolling_down.insert(name, boots);
                        }
                    }
                    if reason.as_str() == "direct" {
                        self.ran(index);
                        self.goes_down_directly(index);
                    }
                    let direct = reason.as_str() == "direct" && goal == PowerGoal::PowerOff;
                    self.power_request(index, goal, reason, grace, preparation);
                    if let (true, Some(since)) = (direct, self.pis[index].down_since) {
                        let boots = self.pis[index].boots;
                        self.later(DOWN_WITHIN_MS, Happening::IsOff(index, boots, since));
                    }
                }
                Action::CancelPower => {
                    if self.pis[index].phase == PowerPhase::Grace {
                        self.pis[index].goal = None;
                        self.enter(index, PowerPhase::Running);
                    }
                }
                // as the sequencer has it: emptied and stopped once, whatever the door, and no way back
                Action::FollowSystem => {
                    let reason = Text::cut("system");
                    self.power_request(index, PowerGoal::Reboot, reason, Grace::None, Preparation::Needed);
                }
                Action::Prepared => {
                    if self.pis[index].phase == PowerPhase::Draining {
                        self.enter(index, PowerPhase::Stopping);
                    }
                }
                Action::Identify { .. } | Action::ShowStatus => {}
                Action::NewSession => {
                    self.renewed += 1;
                    renewal = Some(Event::Session(self.nonce()));
                }
            }
        }
        if let Some(event) = renewal {
            self.node(index, event);
        }
    }

    fn ran(&mut self, index: usize) {
        // what runs was stored before it began
        let id: Option<CommandId> = self.pis[index].stored.running.as_ref().map(|started| started.id.clone());
        match id {
            Some(id) => {
                self.not_beside_direct(index, &id);
                *self.runs.entry(id).or_default() += 1;
            }
            None => self.fail("work of a command began before the command was stored"),
        }
    }

    // ---- power

    fn power_request(&mut self, index: usize, goal: PowerGoal, reason: Text<32>, grace: Grace, prepare: Preparation) {
        let pi = &mut self.pis[index];
        let stricter = pi.goal == Some(PowerGoal::PowerOff);
        if !stricter {
            pi.goal = Some(goal);
        }
        let next = match (pi.phase, grace, prepare) {
            (PowerPhase::Running, Grace::Standard, _) => PowerPhase::Grace,
            (PowerPhase::Running | PowerPhase::Grace, Grace::None, Preparation::Needed) => PowerPhase::Draining,
            (PowerPhase::Running | PowerPhase::Grace | PowerPhase::Draining, Grace::None, Preparation::Done) => {
                PowerPhase::Stopping
            }
            (PowerPhase::Draining, Grace::None, Preparation::Needed)
            | (PowerPhase::Grace | PowerPhase::Draining, Grace::Standard, _)
            | (PowerPhase::Stopping | PowerPhase::HandingOver | PowerPhase::Halted, _, _) => return,
        };
        pi.reason = reason;
        self.enter(index, next);
    }

    fn enter(&mut self, index: usize, phase: PowerPhase) {
        let now = self.now;
        let pi = &mut self.pis[index];
        pi.phase = phase;
        pi.down_since = if phase == PowerPhase::Running { None } else { pi.down_since.or(Some(now)) };
        pi.timer += 1;
        let (life, timer, goal, reason, name) = (pi.life, pi.timer, pi.goal, pi.reason.clone(), pi.name.clone());
        self.note(|| format!("{name} {phase:?} {goal:?}"));
        self.node(index, Event::Power { phase, goal, reason: reason.clone() });
        if self.pis[index].life != life {
            return;
        }
        let after = match phase {
            PowerPhase::Running => return,
            PowerPhase::Grace => GRACE_MS,
            PowerPhase::Draining => {
                self.later(PREPARE_MS, Happening::PowerTimer(index, life, timer));
                let goal = goal.unwrap();
                self.node(index, Event::PrepareAsked { goal, reason, deadline_ms: PREPARE_MS });
                return;
            }
            PowerPhase::Stopping => 1_500,
            PowerPhase::HandingOver => {
                self.pis[index].handed_over = true;
                3_000
            }
            PowerPhase::Halted => return,
        };
        self.later(after, Happening::PowerTimer(index, life, timer));
    }

    pub(crate) fn power_timer(&mut self, index: usize, life: u32, timer: u32) {
        let pi = &mut self.pis[index];
        if pi.timer != timer || (pi.life != life && !pi.handed_over) {
            return;
        }
        match pi.phase {
            PowerPhase::Grace => self.enter(index, PowerPhase::Draining),
            PowerPhase::Draining => self.enter(index, PowerPhase::Stopping),
            PowerPhase::Stopping => {
                pi.running = false;
                let engine = pi.engine();
                self.node(index, Event::EngineSeen(engine));
                if self.pis[index].timer == timer {
                    self.enter(index, PowerPhase::HandingOver);
                }
            }
            PowerPhase::HandingOver => {
                let name = pi.name.clone();
                // the stricter of ours and of systemd's own
                let off = [pi.goal, pi.system_stops].contains(&Some(PowerGoal::PowerOff));
                let reboot = !off;
                self.note(|| format!("{name} goes down"));
                self.goes_dark(index, 5);
                if reboot {
                    let after = self.random.between(8_000, 25_000);
                    let boots = self.pis[index].boots;
                    self.later(after, Happening::Boots(index, boots));
                    self.pis[index].returns = true;
                }
            }
            PowerPhase::Running | PowerPhase::Halted => {}
        }
    }

    // ---- the engine

    fn engine_begins(&mut self, index: usize, token: u64, task: EngineTask, deadline_ms: u64) {
        let pi = &self.pis[index];
        // an agent that starts while systemd shuts down knows nothing of that
        if pi.phase != PowerPhase::Running && !pi.unaware {
            let (name, phase) = (pi.name.clone(), pi.phase);
            self.fail(&format!("{task:?} begins on {name}, which goes down ({phase:?})"));
        }
        let by_itself = match &task {
            // what the power sequence had stopped runs again
            EngineTask::Start => true,
            // somebody stood at its button, and no coordinator answered
            EngineTask::Reset => {
                // one for an operation is not what was wished for, unless it is the wish's own and comes off
                let pi = &mut self.pis[index];
                let wanted = pi.wants_reset;
                pi.wants_reset &= pi.stored.running.is_some();
                wanted
            }
            EngineTask::Initialise { .. }
            | EngineTask::Join { .. }
            | EngineTask::Stop
            | EngineTask::Snapshot
            | EngineTask::AddOns
            | EngineTask::Upgrade { .. } => false,
        };
        if self.pis[index].stored.running.is_some() || !by_itself {
            self.ran(index);
        }
        let fails = self.random.hits(self.faults.engine);
        let hangs = !fails && self.random.hits(self.faults.hang);
        let half = self.random.below(2) == 0;
        let takes = self.random.between(50, 6_000);
        let life = self.pis[index].life;
        let pi = &mut self.pis[index];
        pi.job += 1;
        let number = pi.job;
        if !fails || half {
            match (&task, &pi.kept) {
                (EngineTask::Initialise { cluster, .. } | EngineTask::Join { cluster, .. }, Kept::Blank) => {
                    pi.kept = Kept::HalfJoined(cluster.clone());
                }
                (EngineTask::Reset, Kept::HalfJoined(_) | Kept::Member(_) | Kept::HalfReset) => {
                    pi.kept = Kept::HalfReset;
                    pi.running = false;
                }
                // stopped while it is replaced
                (EngineTask::Upgrade { .. }, Kept::Member(_)) => pi.running = false,
                _ => {}
            }
        }
        let name = pi.name.clone();
        self.order_of(index, &task);
        let word = match &task {
            EngineTask::Initialise { .. } => "initialise",
            EngineTask::Join { .. } => "join",
            EngineTask::Stop => "stop",
            EngineTask::Reset => "reset",
            EngineTask::Snapshot => "snapshot",
            EngineTask::AddOns => "add-ons",
            EngineTask::Start => "start",
            EngineTask::Upgrade { .. } => "upgrade",
        };
        self.engine_log.push((name, word));
        let job = Job { token, task, fails: fails || hangs, number };
        if hangs {
            self.fault("engine hangs");
            self.hung.push((index, life, job.clone()));
            // whoever waits for it gives it up a moment before it is killed
            self.later(deadline_ms + 500, Happening::EngineEnds(index, life, job));
            return;
        }
        if fails {
            self.fault(if half { "engine fails half-way" } else { "engine fails" });
        }
        self.later(takes, Happening::EngineEnds(index, life, job));
    }

    /// What the operation is that the running command belongs to. It is stored before its first command goes out; a coordinator
    /// may die in between and not have said it yet.
    fn kind_of_running(&self, index: usize) -> Option<OperationKind> {
        let running = self.pis[index].stored.running.as_ref();
        let id = running.and_then(|started| started.id.as_str().rsplitn(3, '-').nth(2))?;
        let stored = || self.record.operations.iter().find(|held| held.id.as_str() == id).map(|held| held.kind);
        self.kinds.get(id).copied().or_else(stored)
    }

    /// Leaving: cordon, drain, stop, delete the Node, and only then reset. Joining: only once the old Node is gone.
    fn order_of(&mut self, index: usize, task: &EngineTask) {
        let pi = &self.pis[index];
        let name = pi.name.clone();
        let known = self.kube.serves(&self.pis[0]) && self.kube.nodes.contains_key(&name);
        let kind = self.kind_of_running(index);
        match task {
            // one that restarted in between has registered again; its Node is deleted once more at the end
            EngineTask::Reset if kind == Some(OperationKind::NodeLeave) && known && !pi.restarted => {
                self.fail(&format!("{name} is reset, and its Node is still there"));
            }
            _ => {}
        }
    }

    pub(crate) fn engine_ends(&mut self, index: usize, life: u32, job: Job) {
        if self.pis[index].job != job.number || !self.pis[index].on {
            return;
        }
        self.event();
        let outcome = if job.fails {
            EngineOutcome::Failed { code: Text::cut("injected"), reason: Text::cut("made to fail") }
        } else {
            self.engine_does(index, &job.task)
        };
        let name = self.pis[index].name.clone();
        self.note(|| format!("{name} engine: {outcome:?}"));
        if self.pis[index].life == life {
            let engine = self.pis[index].engine();
            self.node(index, Event::EngineEnded { token: job.token, outcome, engine });
        }
    }

    fn engine_does(&mut self, index: usize, task: &EngineTask) -> EngineOutcome {
        let now = self.now;
        let done = |code: &str| EngineOutcome::Done { code: Text::cut(code), detail: Text::new() };
        let failed = |code: &str| EngineOutcome::Failed { code: Text::cut(code), reason: Text::cut("reset this node") };
        let serves = self.kube.serves(&self.pis[0]);
        match task {
            EngineTask::Initialise { cluster, version } | EngineTask::Join { cluster, version, .. } => {
                let fresh = match &self.pis[index].kept {
                    Kept::Blank => true,
                    Kept::HalfJoined(mine) if mine == cluster => true,
                    Kept::Member(mine) if mine == cluster => false,
                    Kept::HalfJoined(_) | Kept::HalfReset => return failed("half-done"),
                    Kept::Member(_) => return failed("other-cluster"),
                };
                if let EngineTask::Join { credential, command, operation, .. } = task {
                    let name = self.pis[index].name.clone();
                    let context = SealContext {
                        crew: &crew(),
                        node: &name,
                        boot: &self.pis[index].boot(),
                        cluster,
                        operation: operation.as_ref(),
                        command,
                    };
                    let secret = sign::open(credential, &context);
                    if fresh && (!serves || self.kube.minted.get(&name) != Some(&secret)) {
                        return failed("bad-credential");
                    }
                    if fresh && self.kube.nodes.contains_key(&name) {
                        // k3s refuses the node's new password, kubeadm the name
                        return failed("node-exists");
                    }
                    if fresh {
                        self.kube.minted.remove(&name);
                    }
                }
                let pi = &mut self.pis[index];
                pi.kept = Kept::Member(cluster.clone());
                if fresh {
                    pi.version = version.clone();
                }
                if !pi.running {
                    pi.registers = true;
                }
                pi.running = true;
                if let EngineTask::Initialise { .. } = task {
                    if fresh {
                        self.kube.cluster = Some(cluster.clone());
                        self.kube.nodes.clear();
                        self.orders.pods.clear();
                        // cordons go with their cluster
                        self.by_hand.clear();
                        let (name, boot) = (self.pis[index].name.clone(), self.pis[index].boot());
                        let version = version.clone();
                        self.kube.nodes.insert(name, Object { cordoned: false, boot, heard: now, version });
                    }
                }
                done(if fresh { "done" } else { "unchanged" })
            }
            EngineTask::Start => {
                if !matches!(self.pis[index].kept, Kept::Member(_)) {
                    return failed("no-cluster");
                }
                self.pis[index].running = true;
                self.pis[index].registers = true;
                done("done")
            }
            EngineTask::Upgrade { version } => {
                if !matches!(self.pis[index].kept, Kept::Member(_)) {
                    return failed("no-cluster");
                }
                if index > 0 && self.pis[0].version != *version {
                    let name = self.pis[index].name.clone();
                    self.fail(&format!("the kubelet of {name} becomes newer than its API server"));
                }
                let pi = &mut self.pis[index];
                if pi.version == *version && pi.running {
                    return done("unchanged");
                }
                pi.version = version.clone();
                pi.running = true;
                pi.registers = true;
                done("done")
            }
            EngineTask::Stop => {
                self.pis[index].running = false;
                self.pis[index].restarted = false;
                done("done")
            }
            EngineTask::Reset => {
                let pi = &mut self.pis[index];
                pi.kept = Kept::Blank;
                pi.running = false;
                let of = pi.stored.running.as_ref().map(|started| started.id.as_str());
                pi.wants_reset &= !of.is_some_and(|id| id.starts_with("n-"));
                if index == 0 {
                    self.kube.cluster = None;
                    self.kube.nodes.clear();
                    self.orders.pods.clear();
                }
                done("done")
            }
            EngineTask::Snapshot | EngineTask::AddOns => {
                if serves {
                    done("done")
                } else {
                    failed("stopped")
                }
            }
        }
    }
}
