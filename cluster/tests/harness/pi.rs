//! A Pi: power, a power sequence in short, an engine that keeps half-done work, and the real core.

use super::{Happening, World, broker::crew, kube::Object, sign};
use beehive_cluster::Destruction;
use beehive_cluster::node::{
    Action, EngineOutcome, EngineTask, Event, Grace, NodeConfig, NodeCore, NodeRecord, Preparation,
};
use beehive_mqtt::command::SealContext;
use beehive_mqtt::node::{Connection, EngineRun, EngineState, NodeState, PowerGoal, PowerPhase, Role};
use beehive_mqtt::{BootId, ClusterId, CommandId, HEARTBEAT_MS, NodeName, Text, Topic};

const GRACE_MS: u64 = 5_000;
const PREPARE_MS: u64 = 120_000;

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
    pub(crate) stored: NodeRecord,
    pub(crate) kept: Kept,
    pub(crate) running: bool,
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
    /// What somebody else's shutdown, which waits for this Pi, is for.
    pub(crate) system_stops: Option<PowerGoal>,
    /// systemd was asked to shut down.
    handed_over: bool,
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
            kept: Kept::Blank,
            running: false,
            registers: false,
            registers_at: 0,
            job: 0,
            phase: PowerPhase::Running,
            goal: None,
            reason: Text::new(),
            timer: 0,
            cut_until: 0,
            system_stops: None,
            handed_over: false,
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
        EngineState { cluster, run, version: Text::new() }
    }
}

impl World {
    pub(crate) fn boot(&mut self, index: usize) {
        let registers_at = self.now + self.random.between(500, 25_000);
        let pi = &mut self.pis[index];
        pi.on = true;
        pi.registers_at = registers_at;
        pi.returns = false;
        pi.boots += 1;
        pi.running = matches!(pi.kept, Kept::Member(_));
        pi.registers = pi.running;
        pi.phase = PowerPhase::Running;
        pi.goal = None;
        pi.handed_over = false;
        pi.system_stops = None;
        let name = pi.name.clone();
        self.note(format!("{name} boots"));
        self.start_agent(index);
        if index == 0 && self.pis[0].on {
            self.start_coordinator();
        }
    }

    pub(crate) fn start_agent(&mut self, index: usize) {
        let now = self.instant();
        let nonce = self.nonce();
        let pi = &mut self.pis[index];
        pi.life += 1;
        pi.start += 1;
        pi.connection = 1;
        pi.revision = 0;
        pi.tick_at = None;
        pi.published = None;
        pi.job += 1;
        // what systemd has it ends; anything else the agent forgets, and starts the engine that it had stopped
        if !pi.handed_over {
            pi.phase = PowerPhase::Running;
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
    }

    pub(crate) fn agent_dies(&mut self, index: usize) {
        let after = self.random.between(500, 4_000);
        let finishes = self.random.below(2) == 0;
        let pi = &mut self.pis[index];
        if !pi.on || pi.core.is_none() {
            return;
        }
        pi.core = None;
        pi.life += 1;
        // what the engine was doing dies with it, or goes on unseen
        if !finishes {
            pi.job += 1;
        }
        let (life, start, connection) = (pi.life, pi.start, pi.connection);
        self.later(after, Happening::AgentStarts(index, life));
        self.later(200, Happening::Will(index, start, connection));
    }

    pub(crate) fn power_cut(&mut self, index: usize) {
        if !self.pis[index].on {
            return;
        }
        let after = self.random.between(5_000, 60_000);
        let pi = &self.pis[index];
        let goes_anyway = pi.handed_over && pi.goal == Some(PowerGoal::PowerOff);
        self.goes_dark(index, 15_000);
        if goes_anyway {
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
        pi.running = false;
        pi.registers = false;
        pi.core = None;
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
        let now = self.instant();
        let Some(core) = &mut self.pis[index].core else { return };
        let actions = core.step(now, event);
        self.node_performs(index, actions);
        self.publish_state(index, false);
        self.schedule_tick(index);
    }

    fn schedule_tick(&mut self, index: usize) {
        let now = self.now;
        let pi = &mut self.pis[index];
        let Some(at) = pi.core.as_ref().and_then(NodeCore::next_deadline).map(|at| at.as_ms().max(now + 1)) else {
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

    fn node_performs(&mut self, index: usize, actions: Vec<Action>) {
        let mut renewal = None;
        let life = self.pis[index].life;
        for action in actions {
            if self.pis[index].life != life {
                return;
            }
            self.trace.add(format!("{action:?}").as_bytes());
            if self.cuts_here() {
                self.faults_done += 1;
                let name = self.pis[index].name.clone();
                self.note(format!("the power of {name} goes before {action:?}"));
                self.power_cut(index);
                return;
            }
            if self.random.hits(self.faults.crash) {
                self.faults_done += 1;
                let name = self.pis[index].name.clone();
                if self.random.below(2) == 0 {
                    self.note(format!("the agent of {name} dies between two actions"));
                    self.agent_dies(index);
                } else {
                    self.note(format!("the power of {name} goes between two actions"));
                    self.power_cut(index);
                }
                return;
            }
            let name = self.pis[index].name.clone();
            match action {
                Action::Store(record) => {
                    if self.random.hits(self.faults.store) {
                        self.faults_done += 1;
                        self.note(format!("the store of {name} fails"));
                        let now = self.instant();
                        if let Some(core) = &mut self.pis[index].core {
                            core.store_failed(now);
                        }
                        self.schedule_tick(index);
                        return;
                    }
                    self.pis[index].stored = *record;
                }
                Action::Result(result) => {
                    self.note(format!("<- {name} {:?} {} {} {}", result.status, result.id, result.code, result.reason));
                    self.say(Topic::Result(name), &result);
                }
                Action::Request(request) => {
                    self.note(format!("<- {name} asks {:?} {}", request.want, request.id));
                    self.say(Topic::Request(name), &request);
                }
                Action::Tell(kind, detail) => self.note(format!("{name} {kind:?} {detail}")),
                Action::Engine { token, task, .. } => self.engine_begins(index, token, task),
                Action::Power { goal, reason, grace, preparation } => {
                    if reason.as_str() == "command" {
                        self.ran(index);
                        self.rolling_down.insert(name);
                    }
                    self.power_request(index, goal, reason, grace, preparation);
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
            Some(id) => *self.runs.entry(id).or_default() += 1,
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
        let pi = &mut self.pis[index];
        pi.phase = phase;
        pi.timer += 1;
        let (life, timer, goal, reason, name) = (pi.life, pi.timer, pi.goal, pi.reason.clone(), pi.name.clone());
        self.note(format!("{name} {phase:?} {goal:?}"));
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
                self.note(format!("{name} goes down"));
                if !reboot {
                    self.went_off.push(name);
                }
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

    fn engine_begins(&mut self, index: usize, token: u64, task: EngineTask) {
        if self.pis[index].core.as_ref().is_some_and(|core| core.running().is_some()) {
            self.ran(index);
        }
        let fails = self.random.hits(self.faults.engine);
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
                _ => {}
            }
        }
        let name = pi.name.clone();
        let word = match &task {
            EngineTask::Initialise { .. } => "initialise",
            EngineTask::Join { .. } => "join",
            EngineTask::Stop => "stop",
            EngineTask::Reset => "reset",
            EngineTask::Snapshot => "snapshot",
            EngineTask::AddOns => "add-ons",
        };
        self.engine_log.push((name, word));
        if fails {
            self.faults_done += 1;
        }
        self.later(takes, Happening::EngineEnds(index, life, Job { token, task, fails, number }));
    }

    pub(crate) fn engine_ends(&mut self, index: usize, life: u32, job: Job) {
        if self.pis[index].job != job.number || !self.pis[index].on {
            return;
        }
        let outcome = if job.fails {
            EngineOutcome::Failed { code: Text::cut("injected"), reason: Text::cut("made to fail") }
        } else {
            self.engine_does(index, &job.task)
        };
        let name = self.pis[index].name.clone();
        self.note(format!("{name} engine: {outcome:?}"));
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
            EngineTask::Initialise { cluster, .. } | EngineTask::Join { cluster, .. } => {
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
                    if fresh {
                        self.kube.minted.remove(&name);
                    }
                }
                let pi = &mut self.pis[index];
                pi.kept = Kept::Member(cluster.clone());
                if !pi.running {
                    pi.registers = true;
                }
                pi.running = true;
                if let EngineTask::Initialise { .. } = task {
                    if fresh {
                        self.kube.cluster = Some(cluster.clone());
                        self.kube.nodes.clear();
                        // cordons go with their cluster
                        self.by_hand.clear();
                        let (name, boot) = (self.pis[index].name.clone(), self.pis[index].boot());
                        self.kube.nodes.insert(name, Object { cordoned: false, boot, heard: now });
                    }
                }
                done(if fresh { "done" } else { "unchanged" })
            }
            EngineTask::Stop => {
                self.pis[index].running = false;
                done("done")
            }
            EngineTask::Reset => {
                self.pis[index].kept = Kept::Blank;
                self.pis[index].running = false;
                if index == 0 {
                    self.kube.cluster = None;
                    self.kube.nodes.clear();
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
