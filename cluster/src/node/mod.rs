//! The node's core: it alone decides what a node does next. Gestures, commands and what the power sequencer wants are its
//! events; what is to be done comes back as actions.
//!
//! A command goes *accepted → running → result*. It is stored as accepted before anything is done, a repeat is answered
//! from the ring, and an id never runs twice: a sender's id with other content is refused, one that is not in the ring runs
//! only in the session that it names, and what leaves the ring is of an ended session. After a restart in the middle the outcome is `succeeded` if the state shows
//! it, else `interrupted`.
//!
//! A node has no access to Kubernetes. Before it goes off, restarts or leaves, it asks the coordinator (`n/<node>/request`)
//! to be emptied, and goes on without an answer when its deadline has passed.
//!
//! An operator may tell it to blink, to restart or to go off without a coordinator (`q/<user>/direct/<node>`): only while none
//! has been heard for a while and no command is unfinished. What is taken up is a command in all else: stored before it is
//! done, run once, answered from the ring. It goes down as after a press.

mod direct;
mod record;

pub use record::{NodeRecord, RING, ROTATE_AT, Remembered, RingFull, Started, StoredShutdown};

use crate::{Destruction, Instant};
use alloc::boxed::Box;
use alloc::vec::Vec;
use beehive_mqtt::command::{Answer, Command, SealedCredential, Verb, VerbName};
use beehive_mqtt::coordinator::Session;
use beehive_mqtt::direct::{DIRECT_QUIET_MS, DirectRequest};
use beehive_mqtt::manifest::UserRole;
use beehive_mqtt::node::{
    CommandResult, CommandStatus, EngineRun, EngineState, LastShutdown, Lifecycle, NodeEventKind, NodeRequest,
    PowerGoal, PowerPhase, Role, Running, ShutdownOutcome, Want,
};
use beehive_mqtt::{
    BootId, ClusterId, CommandId, KeyId, Nonce, OperationId, ProtocolVersion, RequestId, Text, UserName,
};
use core::fmt::Write;
use direct::Silence;

/// How often a request is repeated until the coordinator has answered.
pub const ASK_AGAIN_MS: u64 = 1_000;

/// How often it is repeated after the coordinator said `wait`: seldom, in case the final answer was lost.
pub const ASK_AGAIN_HEARD_MS: u64 = 5_000;

/// How long a node waits for the coordinator when it wants to leave by its button; then it resets itself. The coordinator's
/// `wait` (another operation runs) begins it anew.
pub const LEAVE_DEADLINE_MS: u64 = 60_000;

/// How long after a store that failed it is tried again.
pub const STORE_AGAIN_MS: u64 = 1_000;

/// How long a start of the engine may take: as systemd gives k3s and kubelets that are slow to come.
const START_MS: u64 = 120_000;

/// How long after a start that failed it is tried again; a person who mends it waits no longer than that.
const START_AGAIN_MS: u64 = 30_000;

/// After this time the button's next press is a new one, even if nobody said what became of the one that cancelled a
/// shutdown. Longer than any gesture.
const SWALLOW_MS: u64 = 30_000;

/// Why nothing begins on a Pi that goes down.
const GOES_DOWN: &str = "this Pi is about to go down";

/// Why nothing begins beside the reset that a press asked for.
const RUNS_A_PRESS: &str = "runs what the button asked for";

/// What never changes while the program runs.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Master or node.
    pub role: Role,
    /// Whether destroying verbs that come over the wire are carried out.
    pub destruction: Destruction,
    /// This boot.
    pub boot: BootId,
    /// The first session: random, and never used before.
    pub nonce: Nonce,
    /// The term that the crew's manifest grants.
    pub term: u64,
}

/// A press of the button, once it is known what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Press {
    /// Show the status.
    Short,
    /// Restart.
    Double,
    /// Switch off.
    PowerOff,
    /// Leave the cluster and clean this Pi; it was confirmed.
    Reset,
    /// It came to nothing: cancelled, or held for so long that the button seems stuck.
    Nothing,
}

/// How work of the engine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineOutcome {
    /// Done or found to be so: a stable word (`done`, `unchanged`) and a sentence.
    Done {
        /// The word.
        code: Text<32>,
        /// The sentence.
        detail: Text<160>,
    },
    /// Not done.
    Failed {
        /// A stable word.
        code: Text<32>,
        /// A sentence.
        reason: Text<160>,
    },
}

/// What happens to a node.
#[derive(Debug, Clone)]
pub enum Event {
    /// A command arrived, and its signature is the coordinator's. Retained ones never get here.
    Command {
        /// The key that signed it.
        key: KeyId,
        /// What.
        command: Box<Command>,
    },
    /// An operator's request without a coordinator arrived, and its signature is that user's. Retained ones never get here.
    Direct {
        /// Who asks.
        user: UserName,
        /// The key that signed it.
        key: KeyId,
        /// What the user may do; nothing if the user has left the manifest meanwhile.
        role: Option<UserRole>,
        /// What.
        request: Box<DirectRequest>,
    },
    /// The coordinator's state arrived, signed: it is in this session.
    Coordinator(Session),
    /// The way to the broker is open, or open again: what was said before was not heard.
    Listening,
    /// The crew's manifest grants this term.
    Term(u64),
    /// A new session, as [`Action::NewSession`] wanted: random, and never used before.
    Session(Nonce),
    /// The button went down, whatever it will become.
    ButtonDown,
    /// The button's gesture is known.
    Press(Press),
    /// The power sequencer entered a phase.
    Power {
        /// Which.
        phase: PowerPhase,
        /// For what, unless it is `running`.
        goal: Option<PowerGoal>,
        /// Who or what asked.
        reason: Text<32>,
    },
    /// The system is going down or restarts because somebody else wants it, and waits for us. It may be said more than once.
    SystemStopping,
    /// The power sequencer wants the node emptied; [`Action::Prepared`] answers it.
    PrepareAsked {
        /// For what.
        goal: PowerGoal,
        /// Who or what asked.
        reason: Text<32>,
        /// How long it waits.
        deadline_ms: u64,
    },
    /// Work of the engine ended.
    EngineEnded {
        /// The token of [`Action::Engine`].
        token: u64,
        /// How.
        outcome: EngineOutcome,
        /// The engine after it.
        engine: EngineState,
    },
    /// The engine as it was found.
    EngineSeen(EngineState),
    /// Time has passed.
    Tick,
}

/// Work for the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineTask {
    /// Start a new cluster.
    Initialise {
        /// Its id.
        cluster: ClusterId,
        /// The version; empty means the one that is installed.
        version: Text<32>,
    },
    /// Join one.
    Join {
        /// Which.
        cluster: ClusterId,
        /// The control plane's address.
        server: Text<128>,
        /// The version; empty means the one that is installed.
        version: Text<32>,
        /// What lets it in, sealed to this node.
        credential: SealedCredential,
        /// The command, to which the credential is bound.
        command: CommandId,
        /// Its operation.
        operation: Option<OperationId>,
    },
    /// Stop.
    Stop,
    /// Remove everything.
    Reset,
    /// Keep a copy.
    Snapshot,
    /// Apply the add-ons.
    AddOns,
    /// Start what was stopped.
    Start,
    /// Bring the engine to another version and let it run again.
    Upgrade {
        /// Which.
        version: Text<32>,
    },
}

/// Whether a press may still cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grace {
    /// At once.
    None,
    /// After the time in which any press cancels.
    Standard,
}

/// Whether the node has still to be emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preparation {
    /// It has.
    Needed,
    /// That is done.
    Done,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Store this; if that fails, drop the actions after it and call [`NodeCore::store_failed`].
    Store(Box<NodeRecord>),
    /// Publish how far a command is.
    Result(CommandResult),
    /// Ask the coordinator.
    Request(NodeRequest),
    /// Publish that something happened.
    Tell(NodeEventKind, Text<160>),
    /// Let the engine work; end with [`Event::EngineEnded`].
    Engine {
        /// Comes back with the outcome.
        token: u64,
        /// The work.
        task: EngineTask,
        /// How long it may take.
        deadline_ms: u64,
    },
    /// Ask the power sequencer.
    Power {
        /// For what.
        goal: PowerGoal,
        /// Who or what asks.
        reason: Text<32>,
        /// Whether a press may cancel.
        grace: Grace,
        /// Whether the node has to be emptied.
        preparation: Preparation,
    },
    /// Call the sequence off; it is in its grace time.
    CancelPower,
    /// Tell the power sequencer that the system is stopping by itself: the node is emptied and the engine stopped once, and
    /// then systemd goes on.
    FollowSystem,
    /// Tell the sequencer that the node is empty, or that nobody will empty it.
    Prepared,
    /// Blink so that somebody finds this Pi.
    Identify {
        /// For how long.
        seconds: u16,
    },
    /// Show the status on the LED.
    ShowStatus,
    /// Make a new session and say so with [`Event::Session`].
    NewSession,
}

/// A command for the engine that is new and may run.
struct Taken {
    id: CommandId,
    verb: VerbName,
    operation: Option<OperationId>,
    expires_ms: u64,
}

/// A press that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attention {
    /// Its gesture counts.
    Open,
    /// It cancelled a shutdown then, and is nothing else.
    Swallow(Instant),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Power,
    Leave,
}

#[derive(Debug, Clone)]
struct Pending {
    request: NodeRequest,
    purpose: Purpose,
    until: Instant,
    ask_at: Instant,
    every_ms: u64,
}

/// The event changed what is kept.
struct Changed;

/// What the event asks for rests on what is kept.
struct Rests;

/// How a step of the engine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Well,
    Badly,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// A command's.
    Command,
    /// Of the button's own.
    Local,
    /// A start of the engine after a stop or an upgrade that failed.
    Start,
}

/// The node's core.
#[derive(Debug, Clone)]
pub struct NodeCore {
    config: NodeConfig,
    record: NodeRecord,
    last_shutdown: Option<LastShutdown>,
    phase: PowerPhase,
    attention: Attention,
    pending: Option<Pending>,
    work: Option<(u64, Work)>,
    /// Where the node was before the present work, and whether its engine was to be started, in case that work never begins.
    before_work: (Lifecycle, StartAgain),
    expires: Option<Instant>,
    next_token: u64,
    engine_cluster: Option<ClusterId>,
    engine_run: EngineRun,
    engine_version: Text<32>,
    start_again: StartAgain,
    nonce: Nonce,
    renewal: Renewal,
    silence: Silence,
    unsaved: Unsaved,
    /// What came after the last [`Action::Store`] and must not be lost with it.
    behind: Vec<Action>,
    /// The version of the protocol that the whole crew reads, as far as we have heard.
    writes: ProtocolVersion,
}

/// Whether a stop or an upgrade that failed may have left the engine stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StartAgain {
    No,
    /// It has; it is started at that time.
    At(Instant),
}

/// Whether a new session was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Renewal {
    No,
    Asked,
}

/// Whether the record in memory is ahead of the one on the card.
#[derive(Debug, Clone)]
enum Unsaved {
    No,
    /// It is; these actions wait for it, and it is tried again then.
    Yes {
        held: Vec<Action>,
        again_at: Instant,
    },
}

impl NodeCore {
    /// Starts from what was stored. The actions come first of all.
    pub fn start(now: Instant, config: NodeConfig, record: NodeRecord) -> (Self, Vec<Action>) {
        let mut core = Self {
            nonce: config.nonce.clone(),
            renewal: Renewal::No,
            silence: Silence::begin(now),
            before_work: (record.lifecycle, StartAgain::No),
            config,
            record,
            last_shutdown: None,
            phase: PowerPhase::Running,
            attention: Attention::Open,
            pending: None,
            work: None,
            expires: None,
            next_token: 1,
            engine_cluster: None,
            engine_run: EngineRun::Stopped,
            engine_version: Text::new(),
            start_again: StartAgain::No,
            unsaved: Unsaved::No,
            behind: Vec::new(),
            writes: ProtocolVersion::BEFORE,
        };
        let mut actions = Vec::new();
        core.report_last_shutdown(&mut actions);
        core.settle_power_command(&mut actions);
        core.record.boot = Some(core.config.boot.clone());
        core.record.term = core.record.term.max(core.config.term);
        actions.insert(0, Action::Store(Box::new(core.record.clone())));
        (core, actions)
    }

    fn report_last_shutdown(&mut self, actions: &mut Vec<Action>) {
        let another_boot = self.record.boot.as_ref().is_some_and(|boot| *boot != self.config.boot);
        let stored = self.record.shutdown.take();
        let detail = if another_boot {
            let last = match stored {
                Some(stored) => LastShutdown {
                    phase: stored.phase,
                    reason: stored.reason,
                    outcome: match stored.phase {
                        PowerPhase::HandingOver | PowerPhase::Halted => ShutdownOutcome::Orderly,
                        PowerPhase::Running | PowerPhase::Grace | PowerPhase::Draining | PowerPhase::Stopping => {
                            ShutdownOutcome::Interrupted
                        }
                    },
                },
                None => LastShutdown {
                    phase: PowerPhase::Running,
                    reason: Text::cut("power lost"),
                    outcome: ShutdownOutcome::Interrupted,
                },
            };
            let detail = match last.outcome {
                ShutdownOutcome::Orderly => {
                    Text::format(format_args!("boot; the last shutdown ({}) was orderly", last.reason))
                }
                ShutdownOutcome::Interrupted => {
                    Text::format(format_args!("boot; the last shutdown ({}) was interrupted", last.reason))
                }
            };
            self.last_shutdown = Some(last);
            detail
        } else if self.record.boot.is_none() {
            Text::cut("boot; the first one with this card")
        } else {
            Text::cut("restart of the agent in the same boot")
        };
        actions.push(Action::Tell(NodeEventKind::Started, detail));
    }

    /// A reboot or power-off that was under way is done if this is another boot.
    fn settle_power_command(&mut self, actions: &mut Vec<Action>) {
        let Some(started) = self.record.running.clone() else { return };
        match started.verb {
            VerbName::Reboot | VerbName::PowerOff => {
                let cut_short =
                    self.last_shutdown.as_ref().is_some_and(|last| last.outcome == ShutdownOutcome::Interrupted);
                let (status, code, reason) = if started.boot == self.config.boot {
                    (CommandStatus::Interrupted, "same-boot", "the agent restarted before the Pi went down")
                } else if started.verb == VerbName::PowerOff && cut_short {
                    // it is on, and that is not what was asked for
                    (CommandStatus::Interrupted, "power", "the power went and came back before the Pi had shut down")
                } else {
                    (CommandStatus::Succeeded, "done", "the Pi came back in a new boot")
                };
                self.record.running = None;
                self.settle(&started.id, started.verb, status, &Text::cut(code), &Text::cut(reason), actions);
            }
            // settled by the first look at the engine
            VerbName::Initialise
            | VerbName::Join
            | VerbName::Stop
            | VerbName::Reset
            | VerbName::Snapshot
            | VerbName::AddOns
            | VerbName::Upgrade => {}
            VerbName::Identify | VerbName::Answer => self.record.running = None,
        }
    }

    /// Where the node is in its life with the cluster.
    pub fn lifecycle(&self) -> Lifecycle {
        self.record.lifecycle
    }

    /// The command that runs.
    pub fn running(&self) -> Option<Running> {
        self.record.running.as_ref().map(|started| Running { id: started.id.clone(), verb: started.verb })
    }

    /// The present session; commands name it.
    pub fn nonce(&self) -> &Nonce {
        &self.nonce
    }

    /// The coordinator's newest session that was heard of.
    pub fn heard(&self) -> Option<&Session> {
        self.record.heard.as_ref()
    }

    /// The version of the protocol in which this node writes: that of the coordinator's state, which is what the whole crew
    /// reads, and until one is heard the version before.
    pub fn writes(&self) -> ProtocolVersion {
        self.writes
    }

    /// The coordinator's state of this session is written in this version. A lower one is followed at once: everybody reads
    /// it. A higher one only if no later session was heard of: a coordinator may have been set back to the program before.
    pub fn follow(&mut self, session: &Session, version: ProtocolVersion) {
        if version < self.writes || self.record.heard.as_ref() == Some(session) {
            self.writes = version;
        }
    }

    /// How the last shutdown went.
    pub fn last_shutdown(&self) -> Option<&LastShutdown> {
        self.last_shutdown.as_ref()
    }

    /// What is kept.
    pub fn record(&self) -> &NodeRecord {
        &self.record
    }

    /// When [`Event::Tick`] is due at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        let pending = self.pending.as_ref().map(|pending| pending.ask_at.min(pending.until));
        let again = match &self.unsaved {
            Unsaved::No => None,
            Unsaved::Yes { again_at, .. } => Some(*again_at),
        };
        let start = match self.start_again {
            StartAgain::At(at) if self.work.is_none() && self.engine_run == EngineRun::Stopped => Some(at),
            StartAgain::At(_) | StartAgain::No => None,
        };
        [pending, self.expires, again, start, self.silence.next_look()].into_iter().flatten().min()
    }

    /// [`Action::Store`] failed; what came after it was not done. It is stored with the next step, and what must not be
    /// lost (the engine's work, a restart) follows then. A press works meanwhile: it rests on nothing that is stored.
    pub fn store_failed(&mut self, now: Instant) {
        let held = core::mem::take(&mut self.behind);
        // it may have been among what was dropped
        self.renewal = Renewal::No;
        self.unsaved = Unsaved::Yes { held, again_at: now.plus_ms(STORE_AGAIN_MS) };
    }

    /// Takes one event and says what is to be done.
    pub fn step(&mut self, now: Instant, event: Event) -> Vec<Action> {
        let before = self.record.clone();
        let mut actions = Vec::new();
        self.silence.goes_on(now);
        // even a repeat's answer tells what the card should know
        let mut rests = matches!(event, Event::Command { .. } | Event::Direct { .. });
        match event {
            Event::Command { key, command } => self.command(now, key, *command, &mut actions),
            Event::Direct { user, key, role, request } => self.direct(&user, key, role, &request, &mut actions),
            Event::Coordinator(session) => self.hear(now, session),
            Event::Listening => self.silence = Silence::begin(now),
            Event::Term(term) => self.record.term = self.record.term.max(term),
            Event::Session(nonce) => {
                self.nonce = nonce;
                self.renewal = Renewal::No;
            }
            Event::ButtonDown => self.button_down(now, &mut actions),
            Event::Press(press) => self.press(now, press, &mut actions),
            Event::Power { phase, goal, reason } => self.power(phase, goal, reason),
            // never refused: it happens anyway, and what runs is settled by the next boot
            Event::SystemStopping => actions.push(Action::FollowSystem),
            Event::PrepareAsked { goal, reason, deadline_ms } => {
                self.prepare(now, goal, reason, deadline_ms, &mut actions);
            }
            Event::EngineEnded { token, outcome, engine } => {
                self.engine_ended(now, token, outcome, engine, &mut actions)
            }
            Event::EngineSeen(engine) => self.engine_seen(now, engine, &mut actions),
            Event::Tick => self.tick(now, &mut actions),
        }
        rests |= self.record != before;
        let asks_to_go = |action: &Action| matches!(action, Action::Power { .. } | Action::FollowSystem);
        if self.goes_down().is_some() || actions.iter().any(asks_to_go) {
            self.give_up_what_is_held(now);
        }
        if self.record.lifecycle != before.lifecycle {
            actions.push(Action::Tell(NodeEventKind::Lifecycle, Text::cut(lifecycle_word(self.record.lifecycle))));
        }
        if self.record.of_session(&self.nonce) >= ROTATE_AT && self.renewal == Renewal::No {
            self.renewal = Renewal::Asked;
            actions.push(Action::NewSession);
        }
        let changed = self.record != before;
        self.behind_the_store(changed.then_some(Changed), rests.then_some(Rests), actions)
    }

    /// A Pi that goes down begins nothing, and that includes what a failed store has held up until now: it would be cut short.
    /// It has not begun, so the node is where it was before. What became of it is said once that is stored; the going down
    /// does not wait for this, since a press works on a card that stores nothing.
    fn give_up_what_is_held(&mut self, now: Instant) {
        let (Some((token, work)), Unsaved::Yes { held, .. }) = (self.work, &mut self.unsaved) else { return };
        let all = held.len();
        held.retain(|action| !matches!(action, Action::Engine { token: mine, .. } if *mine == token));
        if held.len() == all {
            return; // it has begun
        }
        self.work = None;
        let reason = Text::cut(GOES_DOWN);
        let mut said = Vec::new();
        match work {
            Work::Command => {
                (self.record.lifecycle, self.start_again) = self.before_work;
                self.end_running(CommandStatus::Rejected, &Text::cut("busy"), &reason, &mut said);
            }
            Work::Local => {
                (self.record.lifecycle, self.start_again) = self.before_work;
                said.push(refused_press(&reason));
            }
            // in case the Pi does not go down after all
            Work::Start => self.start_again = StartAgain::At(now.plus_ms(START_AGAIN_MS)),
        }
        self.follow_engine();
        if let Unsaved::Yes { held, .. } = &mut self.unsaved {
            held.append(&mut said);
        }
    }

    /// Puts the storing before what rests on it, and what an earlier store held up between them.
    fn behind_the_store(
        &mut self,
        changed: Option<Changed>,
        rests: Option<Rests>,
        actions: Vec<Action>,
    ) -> Vec<Action> {
        let held = match core::mem::replace(&mut self.unsaved, Unsaved::No) {
            Unsaved::No if changed.is_none() => {
                self.behind.clear();
                return actions;
            }
            Unsaved::No => Vec::new(),
            Unsaved::Yes { held, .. } => held,
        };
        let work = self.work;
        let is_due = |action: &Action| match action {
            // its command may have expired meanwhile
            Action::Engine { token, .. } => work.is_some_and(|(mine, _)| mine == *token),
            Action::Power { .. } | Action::Prepared | Action::FollowSystem => true,
            Action::Store(_)
            | Action::Result(_)
            | Action::Request(_)
            | Action::Tell(..)
            | Action::CancelPower
            | Action::Identify { .. }
            | Action::ShowStatus
            | Action::NewSession => false,
        };
        let store = Action::Store(Box::new(self.record.clone()));
        let (first, last) = match rests {
            Some(Rests) => (Vec::new(), held.into_iter().chain(actions).collect::<Vec<_>>()),
            None => (actions, held),
        };
        self.behind = last.iter().filter(|action| is_due(action)).cloned().collect();
        let last = last.into_iter().filter(|action| !matches!(action, Action::Engine { .. }) || is_due(action));
        first.into_iter().chain([store]).chain(last).collect()
    }

    // ---- commands

    /// The coordinator's session: the highest counts. One of the same number with another nonce, or of a lower one, is that
    /// of a coordinator that was restored from an old backup, or a message that somebody kept; what this node says of the
    /// session that it has heard shows the coordinator so.
    fn hear(&mut self, now: Instant, session: Session) {
        // whichever session it is in, of whichever age: somebody coordinates, unless its term is over
        if session.term >= self.record.term {
            self.silence = Silence::begin(now);
        }
        let order = |session: &Session| (session.term, session.number);
        let newer = self.record.heard.as_ref().is_none_or(|heard| order(&session) > order(heard));
        if newer && session.term >= self.record.term {
            self.record.term = session.term;
            self.record.heard = Some(session);
        }
    }

    fn command(&mut self, now: Instant, key: KeyId, command: Command, actions: &mut Vec<Action>) {
        let name = command.verb.name();
        let digest = command.digest();
        if let Some(entry) = self.record.remembered(key, &command.id) {
            let entry = entry.clone();
            if entry.digest != digest {
                let reason = Text::cut("this id was another command's");
                self.refuse(&command, "id-reused", reason, actions);
                return;
            }
            match command.verb {
                // says each time that the coordinator is alive; hearing it twice does nothing twice
                Verb::Answer { request, answer: Answer::Wait } => {
                    let _ = self.answer(now, &request, Answer::Wait, actions);
                }
                Verb::Answer { .. }
                | Verb::Initialise { .. }
                | Verb::Join { .. }
                | Verb::Stop
                | Verb::Reset
                | Verb::Snapshot
                | Verb::AddOns
                | Verb::Upgrade { .. }
                | Verb::Reboot
                | Verb::PowerOff
                | Verb::Identify { .. } => {}
            }
            actions.push(self.result(&entry.id, entry.verb, entry.status, &entry.code, &entry.reason));
            return;
        }
        if command.nonce != self.nonce {
            // recorded and played again, or long under way: whoever sent it in earnest sends another
            let reason = Text::cut("it was meant for another session of this node");
            actions.push(self.result(&command.id, name, CommandStatus::Rejected, &Text::cut("stale-nonce"), &reason));
            return;
        }
        let heard = self.record.heard.as_ref().filter(|heard| heard.term == command.term).map(|heard| heard.number);
        if heard.is_some_and(|heard| command.session < heard) {
            let reason = Text::cut("the coordinator has begun another session since");
            actions.push(self.result(&command.id, name, CommandStatus::Rejected, &Text::cut("old-session"), &reason));
            return;
        }
        if command.term < self.record.term {
            let reason =
                Text::format(format_args!("term {} is older than {}, seen before", command.term, self.record.term));
            self.refuse(&command, "old-term", reason, actions);
            return;
        }
        self.record.term = command.term;
        // nobody else could name this session
        self.silence = Silence::begin(now);
        self.sees_its_own_leave(command.operation.as_ref());
        // what this Pi's own button asked for is no stranger's wish
        let own_wish = command.operation.is_some() && command.operation == self.record.leaving;
        let entry = Remembered {
            id: command.id.clone(),
            key,
            nonce: self.nonce.clone(),
            digest,
            verb: name,
            status: CommandStatus::Accepted,
            code: Text::new(),
            reason: Text::new(),
        };
        if let Err(RingFull) = self.record.remember(entry, &self.nonce) {
            let reason = Text::cut("too many commands of one session; another one begins");
            actions.push(self.result(&command.id, name, CommandStatus::Rejected, &Text::cut("busy"), &reason));
            return;
        }
        if name.destroys() && !own_wish && self.config.destruction == Destruction::RefusedInsecureWire {
            self.record.settle(
                &command.id,
                CommandStatus::Rejected,
                &Text::cut("insecure-wire"),
                &Text::cut("the wire is neither signed nor encrypted"),
            );
            self.refuse(&command, "insecure-wire", Text::cut("the wire is neither signed nor encrypted"), actions);
            return;
        }
        let taken =
            Taken { id: command.id.clone(), verb: name, operation: command.operation, expires_ms: command.expires_ms };
        match command.verb {
            Verb::Answer { request, answer } => {
                let (code, reason) = self.answer(now, &request, answer, actions);
                self.settle(&taken.id, name, CommandStatus::Succeeded, &code, &reason, actions);
            }
            Verb::Identify { seconds } => {
                actions.push(Action::Identify { seconds });
                self.settle(&taken.id, name, CommandStatus::Succeeded, &Text::cut("done"), &Text::new(), actions);
            }
            Verb::Reboot => self.power_command(now, &taken.id, name, PowerGoal::Reboot, actions),
            Verb::PowerOff => self.power_command(now, &taken.id, name, PowerGoal::PowerOff, actions),
            Verb::Initialise { cluster, version } => {
                let wanted = Some(cluster.clone());
                let task = EngineTask::Initialise { cluster, version };
                self.engine_command(now, &taken, wanted, task, actions);
            }
            Verb::Join { cluster, server, version, credential } => {
                let wanted = Some(cluster.clone());
                let (command, operation) = (taken.id.clone(), taken.operation.clone());
                let task = EngineTask::Join { cluster, server, version, credential, command, operation };
                self.engine_command(now, &taken, wanted, task, actions);
            }
            Verb::Stop => {
                self.engine_command(now, &taken, None, EngineTask::Stop, actions);
            }
            Verb::Reset => {
                self.engine_command(now, &taken, None, EngineTask::Reset, actions);
            }
            Verb::Snapshot => {
                self.engine_command(now, &taken, None, EngineTask::Snapshot, actions);
            }
            Verb::AddOns => {
                self.engine_command(now, &taken, None, EngineTask::AddOns, actions);
            }
            Verb::Upgrade { version } => {
                let task = EngineTask::Upgrade { version };
                self.engine_command(now, &taken, None, task, actions);
            }
        }
    }

    /// What to say to whoever wants something of a Pi that goes down; nothing if it does not.
    fn goes_down(&self) -> Option<Text<160>> {
        match self.phase {
            PowerPhase::Running => None,
            PowerPhase::Grace
            | PowerPhase::Draining
            | PowerPhase::Stopping
            | PowerPhase::HandingOver
            | PowerPhase::Halted => Some(Text::cut(GOES_DOWN)),
        }
    }

    /// Why no engine command can begin now.
    fn busy(&self) -> Option<Text<160>> {
        if let Some(reason) = self.goes_down() {
            return Some(reason);
        }
        if let Some(started) = &self.record.running {
            return Some(Text::format(format_args!("runs {} ({})", started.verb, started.id)));
        }
        self.work.map(|(_, work)| match work {
            Work::Command | Work::Local => Text::cut(RUNS_A_PRESS),
            Work::Start => Text::cut("starts its engine again"),
        })
    }

    fn engine_command(
        &mut self,
        now: Instant,
        command: &Taken,
        cluster: Option<ClusterId>,
        task: EngineTask,
        actions: &mut Vec<Action>,
    ) {
        let (id, verb, expires_ms) = (&command.id, command.verb, command.expires_ms);
        if let Some(reason) = self.busy() {
            self.settle(id, verb, CommandStatus::Rejected, &Text::cut("busy"), &reason, actions);
            return;
        }
        self.before_work = (self.record.lifecycle, self.start_again);
        match verb {
            VerbName::Initialise | VerbName::Join => self.record.lifecycle = Lifecycle::Joining,
            VerbName::Reset => self.record.lifecycle = Lifecycle::Leaving,
            VerbName::Stop
            | VerbName::Snapshot
            | VerbName::AddOns
            | VerbName::Upgrade
            | VerbName::Reboot
            | VerbName::PowerOff
            | VerbName::Identify
            | VerbName::Answer => {}
        }
        let version = match &task {
            EngineTask::Upgrade { version } => Some(version.clone()),
            EngineTask::Initialise { .. }
            | EngineTask::Join { .. }
            | EngineTask::Stop
            | EngineTask::Reset
            | EngineTask::Start
            | EngineTask::Snapshot
            | EngineTask::AddOns => None,
        };
        let (boot, operation) = (self.config.boot.clone(), command.operation.clone());
        self.record.running = Some(Started { id: id.clone(), verb, boot, cluster, version, operation });
        self.expires = Some(now.plus_ms(expires_ms));
        self.settle(id, verb, CommandStatus::Accepted, &Text::cut("accepted"), &Text::new(), actions);
        self.start_work(Work::Command, task, expires_ms, actions);
    }

    fn start_work(&mut self, work: Work, task: EngineTask, deadline_ms: u64, actions: &mut Vec<Action>) {
        let token = self.next_token;
        self.next_token += 1;
        self.work = Some((token, work));
        self.start_again = StartAgain::No;
        actions.push(Action::Engine { token, task, deadline_ms });
    }

    fn power_command(
        &mut self,
        now: Instant,
        id: &CommandId,
        verb: VerbName,
        goal: PowerGoal,
        actions: &mut Vec<Action>,
    ) {
        match self.work {
            // Nobody would begin that reset again, so the Pi does not go down under it; whoever sends the command asks again,
            // and the reset ends within its deadline. It may also wait for a store that failed: then it would begin just
            // when the Pi goes down.
            Some((_, Work::Local)) => {
                self.settle(id, verb, CommandStatus::Rejected, &Text::cut("busy"), &Text::cut(RUNS_A_PRESS), actions);
                return;
            }
            None | Some((_, Work::Command | Work::Start)) => {}
        }
        if let Some(started) = self.record.running.clone() {
            // the Pi goes down under it; what came of it is found out at the next boot, except for another power command
            match started.verb {
                VerbName::Reboot | VerbName::PowerOff => {
                    let reason = Text::format(format_args!("runs {} ({})", started.verb, started.id));
                    self.settle(id, verb, CommandStatus::Rejected, &Text::cut("busy"), &reason, actions);
                    return;
                }
                VerbName::Initialise
                | VerbName::Join
                | VerbName::Stop
                | VerbName::Reset
                | VerbName::Snapshot
                | VerbName::AddOns
                | VerbName::Upgrade
                | VerbName::Identify
                | VerbName::Answer => {
                    let reason = Text::format(format_args!("{verb} ({id}) came in between"));
                    self.end_running(CommandStatus::Interrupted, &Text::cut("power"), &reason, actions);
                    self.after_work(now, started.verb, Ended::Badly);
                }
            }
        }
        self.record.running = Some(Started {
            id: id.clone(),
            verb,
            boot: self.config.boot.clone(),
            cluster: None,
            version: None,
            operation: None,
        });
        self.expires = None;
        self.settle(id, verb, CommandStatus::InProgress, &Text::cut("stopping"), &Text::new(), actions);
        actions.push(Action::Power {
            goal,
            reason: Text::cut("command"),
            grace: Grace::None,
            preparation: Preparation::Done,
        });
    }

    fn refuse(&mut self, command: &Command, code: &str, reason: Text<160>, actions: &mut Vec<Action>) {
        let name = command.verb.name();
        actions.push(Action::Tell(
            NodeEventKind::Refused,
            Text::format(format_args!("{name} refused ({code}): {reason}")),
        ));
        actions.push(self.result(&command.id, name, CommandStatus::Rejected, &Text::cut(code), &reason));
    }

    /// Remembers how far a command is and publishes it.
    fn settle(
        &mut self,
        id: &CommandId,
        verb: VerbName,
        status: CommandStatus,
        code: &Text<32>,
        reason: &Text<160>,
        actions: &mut Vec<Action>,
    ) {
        actions.push(self.result(id, verb, status, code, reason));
        self.record.settle(id, status, code, reason);
    }

    fn result(
        &self,
        id: &CommandId,
        verb: VerbName,
        status: CommandStatus,
        code: &Text<32>,
        reason: &Text<160>,
    ) -> Action {
        Action::Result(CommandResult {
            id: id.clone(),
            verb,
            status,
            code: code.clone(),
            reason: reason.clone(),
            boot: self.config.boot.clone(),
            nonce: self.nonce.clone(),
        })
    }

    fn end_running(&mut self, status: CommandStatus, code: &Text<32>, reason: &Text<160>, actions: &mut Vec<Action>) {
        self.expires = None;
        self.work = None;
        if let Some(started) = self.record.running.take() {
            self.settle(&started.id, started.verb, status, code, reason, actions);
        }
    }

    // ---- the engine

    fn engine_ended(
        &mut self,
        now: Instant,
        token: u64,
        outcome: EngineOutcome,
        engine: EngineState,
        actions: &mut Vec<Action>,
    ) {
        self.look_at(engine);
        let Some((_, work)) = self.work.filter(|(mine, _)| *mine == token) else {
            self.follow_engine();
            self.start_again(now, actions);
            return;
        };
        self.work = None;
        let verb = match work {
            Work::Command => self.record.running.as_ref().map_or(VerbName::Identify, |started| started.verb),
            Work::Local => VerbName::Reset,
            Work::Start => VerbName::Answer,
        };
        let ended = match &outcome {
            EngineOutcome::Done { .. } => Ended::Well,
            EngineOutcome::Failed { .. } => Ended::Badly,
        };
        let of = self.record.running.as_ref().and_then(|started| started.operation.as_ref());
        let own_leave = work == Work::Command && of.is_some() && of == self.record.leaving.as_ref();
        match (work, outcome) {
            (Work::Command, EngineOutcome::Done { code, detail }) => {
                self.end_running(CommandStatus::Succeeded, &code, &detail, actions);
            }
            (Work::Command, EngineOutcome::Failed { code, reason }) => {
                self.end_running(CommandStatus::Failed, &code, &reason, actions);
            }
            (Work::Local, EngineOutcome::Done { detail, .. }) => {
                actions.push(Action::Tell(NodeEventKind::Gesture, Text::format(format_args!("reset done {detail}"))));
            }
            (Work::Start, EngineOutcome::Done { .. }) => {}
            (Work::Start, EngineOutcome::Failed { reason, .. }) => {
                let text = Text::format(format_args!("the engine does not start again: {reason}"));
                actions.push(Action::Tell(NodeEventKind::Refused, text));
                self.start_again = StartAgain::At(now.plus_ms(START_AGAIN_MS));
            }
            (Work::Local, EngineOutcome::Failed { reason, .. }) => {
                actions
                    .push(Action::Tell(NodeEventKind::Refused, Text::format(format_args!("reset failed: {reason}"))));
            }
        }
        self.after_work(now, verb, ended);
        // a button held once more meanwhile asked for no more than this; what is brought in later is not to leave for that
        if own_leave && self.record.lifecycle == Lifecycle::Blank {
            self.pending = self.pending.take().filter(|pending| pending.purpose != Purpose::Leave);
        }
        self.start_again(now, actions);
    }

    /// An upgrade that failed leaves the engine stopped, with either version; a stop may have come off after it was given up.
    /// Nobody else would start it: on the master it is the API server.
    fn start_again(&mut self, now: Instant, actions: &mut Vec<Action>) {
        match self.start_again {
            StartAgain::At(at) if now >= at => {}
            StartAgain::No | StartAgain::At(_) => return,
        }
        // its end may not have been seen yet
        if self.engine_run == EngineRun::Running {
            return;
        }
        if self.engine_cluster.is_none() || self.record.lifecycle != Lifecycle::Member {
            self.start_again = StartAgain::No;
        } else if self.busy().is_some() {
            self.start_again = StartAgain::At(now.plus_ms(START_AGAIN_MS));
        } else {
            self.start_work(Work::Start, EngineTask::Start, START_MS, actions);
        }
    }

    fn engine_seen(&mut self, now: Instant, engine: EngineState, actions: &mut Vec<Action>) {
        self.look_at(engine);
        // a command from before this start of the agent: does the state show that it has happened?
        if self.work.is_none() {
            if let Some(started) = self.record.running.clone() {
                let shown = match started.verb {
                    VerbName::Initialise | VerbName::Join => {
                        started.cluster.is_some()
                            && started.cluster == self.engine_cluster
                            && self.engine_run == EngineRun::Running
                    }
                    // a reset that was cut short shows no cluster either
                    VerbName::Reset | VerbName::Stop | VerbName::Snapshot | VerbName::AddOns => false,
                    VerbName::Upgrade => {
                        started.version.as_ref() == Some(&self.engine_version)
                            && self.engine_cluster.is_some()
                            && self.engine_run == EngineRun::Running
                    }
                    // goes on: settled by the next boot
                    VerbName::Reboot | VerbName::PowerOff | VerbName::Identify | VerbName::Answer => {
                        return self.follow_engine();
                    }
                };
                if shown {
                    let reason = Text::cut("found done after a restart");
                    self.end_running(CommandStatus::Succeeded, &Text::cut("done"), &reason, actions);
                    self.after_work(now, started.verb, Ended::Well);
                } else {
                    let reason = Text::cut("the agent restarted in the middle of it");
                    self.end_running(CommandStatus::Interrupted, &Text::cut("restart"), &reason, actions);
                    self.after_work(now, started.verb, Ended::Badly);
                }
            }
        }
        self.follow_engine();
    }

    fn look_at(&mut self, engine: EngineState) {
        self.engine_cluster = engine.cluster;
        self.engine_run = engine.run;
        self.engine_version = engine.version;
    }

    /// Where the node is after a step that was to change it.
    fn after_work(&mut self, now: Instant, verb: VerbName, ended: Ended) {
        let running = self.engine_cluster.is_some() && self.engine_run == EngineRun::Running;
        match verb {
            VerbName::Initialise | VerbName::Join => {
                self.record.lifecycle = if running { Lifecycle::Member } else { Lifecycle::Broken };
            }
            VerbName::Reset => {
                self.record.lifecycle = match ended {
                    Ended::Well if self.engine_cluster.is_none() => {
                        self.record.leaving = None;
                        Lifecycle::Blank
                    }
                    Ended::Well | Ended::Badly if running => Lifecycle::Member,
                    Ended::Well | Ended::Badly => Lifecycle::Broken,
                };
            }
            VerbName::Snapshot
            | VerbName::AddOns
            | VerbName::Reboot
            | VerbName::PowerOff
            | VerbName::Identify
            | VerbName::Answer => self.follow_engine(),
            // whoever told it tells it again within seconds; where nobody does, a member does not stand still for ever
            VerbName::Stop => {
                self.start_again = match ended {
                    Ended::Well => StartAgain::No,
                    Ended::Badly => StartAgain::At(now.plus_ms(START_AGAIN_MS)),
                };
                self.follow_engine();
            }
            VerbName::Upgrade => {
                self.start_again = match ended {
                    Ended::Well => StartAgain::No,
                    Ended::Badly => StartAgain::At(now),
                };
                self.follow_engine();
            }
        }
    }

    /// While no work is under way, what the engine shows is the truth. An engine that runs in a cluster is a member's; one
    /// that has a cluster and does not run is a member's that was stopped, or what a step left half-way.
    fn follow_engine(&mut self) {
        if self.work.is_some() {
            return;
        }
        self.record.lifecycle = match (&self.engine_cluster, self.engine_run, self.record.lifecycle) {
            (Some(_), EngineRun::Running, _) | (Some(_), EngineRun::Stopped, Lifecycle::Member) => Lifecycle::Member,
            (
                Some(_),
                EngineRun::Stopped,
                Lifecycle::Blank | Lifecycle::Joining | Lifecycle::Leaving | Lifecycle::Broken,
            )
            | (None, _, Lifecycle::Joining | Lifecycle::Leaving | Lifecycle::Broken) => Lifecycle::Broken,
            (None, _, Lifecycle::Blank | Lifecycle::Member) => Lifecycle::Blank,
        };
    }

    // ---- the button

    fn button_down(&mut self, now: Instant, actions: &mut Vec<Action>) {
        match (self.phase, self.attention) {
            (PowerPhase::Grace, _) => {
                self.attention = Attention::Swallow(now);
                actions.push(Action::CancelPower);
            }
            (_, Attention::Swallow(since)) if now.since_ms(since) >= SWALLOW_MS => self.attention = Attention::Open,
            (
                PowerPhase::Running
                | PowerPhase::Draining
                | PowerPhase::Stopping
                | PowerPhase::HandingOver
                | PowerPhase::Halted,
                Attention::Open | Attention::Swallow(_),
            ) => {}
        }
    }

    fn press(&mut self, now: Instant, press: Press, actions: &mut Vec<Action>) {
        match self.attention {
            Attention::Swallow(_) => {
                self.attention = Attention::Open;
                return;
            }
            Attention::Open => {}
        }
        match press {
            Press::Short => actions.push(Action::ShowStatus),
            Press::Double => actions.push(button_power(PowerGoal::Reboot)),
            Press::PowerOff => actions.push(button_power(PowerGoal::PowerOff)),
            Press::Reset => self.leave(now, actions),
            Press::Nothing => {}
        }
    }

    fn leave(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.config.role == Role::Master && self.engine_cluster.is_some() {
            let why = "reset by button refused (master-has-cluster): use `beehive cluster reset`";
            actions.push(Action::Tell(NodeEventKind::Refused, Text::cut(why)));
            return;
        }
        if let Some(reason) = self.busy() {
            actions.push(refused_press(&reason));
            return;
        }
        if self.pending.as_ref().is_some_and(|pending| pending.purpose == Purpose::Leave) {
            return; // asked already, and still asking
        }
        match self.record.lifecycle {
            Lifecycle::Member => {
                self.ask(now, Purpose::Leave, Want::Leave, Text::cut("button"), LEAVE_DEADLINE_MS, actions);
            }
            Lifecycle::Blank | Lifecycle::Joining | Lifecycle::Leaving | Lifecycle::Broken => {
                self.reset_here(actions);
            }
        }
    }

    /// Resets this Pi without the coordinator.
    fn reset_here(&mut self, actions: &mut Vec<Action>) {
        self.before_work = (self.record.lifecycle, self.start_again);
        self.record.lifecycle = Lifecycle::Leaving;
        self.start_work(Work::Local, EngineTask::Reset, LEAVE_DEADLINE_MS, actions);
    }

    // ---- going down

    fn power(&mut self, phase: PowerPhase, goal: Option<PowerGoal>, reason: Text<32>) {
        self.phase = phase;
        self.record.shutdown = match (phase, goal) {
            (PowerPhase::Running | PowerPhase::Grace, _) | (_, None) => None,
            (
                PowerPhase::Draining | PowerPhase::Stopping | PowerPhase::HandingOver | PowerPhase::Halted,
                Some(goal),
            ) => Some(StoredShutdown { phase, goal, reason }),
        };
        match phase {
            PowerPhase::Draining => {}
            PowerPhase::Running
            | PowerPhase::Grace
            | PowerPhase::Stopping
            | PowerPhase::HandingOver
            | PowerPhase::Halted => {
                if self.pending.as_ref().is_some_and(|pending| pending.purpose == Purpose::Power) {
                    self.pending = None;
                }
            }
        }
    }

    fn prepare(
        &mut self,
        now: Instant,
        goal: PowerGoal,
        reason: Text<32>,
        deadline_ms: u64,
        actions: &mut Vec<Action>,
    ) {
        // a node outside the cluster has nothing to drain; the master is asked for by the whole crew
        let alone = self.record.lifecycle == Lifecycle::Blank && self.config.role == Role::Node;
        if alone {
            actions.push(Action::Prepared);
            return;
        }
        let want = match goal {
            PowerGoal::Reboot => Want::Reboot,
            PowerGoal::PowerOff => Want::PowerOff,
        };
        self.ask(now, Purpose::Power, want, reason, deadline_ms, actions);
    }

    fn ask(
        &mut self,
        now: Instant,
        purpose: Purpose,
        want: Want,
        reason: Text<32>,
        deadline_ms: u64,
        actions: &mut Vec<Action>,
    ) {
        self.record.requests = self.record.requests.wrapping_add(1);
        let Some(id) = request_id(&self.config.boot, self.record.requests) else {
            // cannot be: the text is made of a boot id and a number. Without an id nobody can answer: go on.
            match purpose {
                Purpose::Power => actions.push(Action::Prepared),
                Purpose::Leave => {}
            }
            return;
        };
        match purpose {
            Purpose::Power => {}
            // a second press while the first one's leave may be under way asks for the next one
            Purpose::Leave => _ = self.record.leaving.get_or_insert_with(|| id.clone().into()),
        }
        let request = NodeRequest {
            id,
            want,
            deadline_ms,
            reason,
            boot: self.config.boot.clone(),
            session: self.nonce.clone(),
            nonce: self.heard().map(|heard| heard.nonce.clone()),
        };
        actions.push(Action::Request(request.clone()));
        self.pending = Some(Pending {
            request,
            purpose,
            until: now.plus_ms(deadline_ms),
            ask_at: now.plus_ms(ASK_AGAIN_MS),
            every_ms: ASK_AGAIN_MS,
        });
    }

    /// A command of the leave that this node waits for: the coordinator has taken it over, though the word of that was lost.
    fn sees_its_own_leave(&mut self, operation: Option<&OperationId>) {
        let waits = |pending: &Pending| {
            pending.purpose == Purpose::Leave && operation.is_some_and(|id| *id == pending.request.id.clone().into())
        };
        if self.pending.as_ref().is_some_and(waits) {
            self.record.leaving = operation.cloned();
            self.pending = None;
        }
    }

    fn answer(
        &mut self,
        now: Instant,
        request: &RequestId,
        answer: Answer,
        actions: &mut Vec<Action>,
    ) -> (Text<32>, Text<160>) {
        let Some(pending) = self.pending.as_mut().filter(|pending| pending.request.id == *request) else {
            return (Text::cut("unchanged"), Text::cut("nothing waits for this answer"));
        };
        match (answer, pending.purpose) {
            (Answer::Wait, Purpose::Power) => pending.every_ms = ASK_AGAIN_HEARD_MS,
            // another operation runs: the coordinator is there, so nothing is done without it
            (Answer::Wait, Purpose::Leave) => {
                pending.every_ms = ASK_AGAIN_HEARD_MS;
                pending.until = now.plus_ms(LEAVE_DEADLINE_MS);
            }
            // the coordinator has taken the leave over and sends commands
            (Answer::Go | Answer::GoUndrained, Purpose::Leave) => {
                self.record.leaving = Some(request.clone().into());
                self.pending = None;
            }
            (Answer::Go | Answer::GoUndrained, Purpose::Power) => {
                self.pending = None;
                actions.push(Action::Prepared);
            }
        }
        (Text::cut("done"), Text::new())
    }

    fn tick(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.expires.is_some_and(|expires| now >= expires) {
            let reason = Text::cut("it took longer than the command allows");
            let verb = self.record.running.as_ref().map(|started| started.verb);
            self.end_running(CommandStatus::TimedOut, &Text::cut("expired"), &reason, actions);
            if let Some(verb) = verb {
                self.after_work(now, verb, Ended::Badly);
                self.start_again(now, actions);
            }
        }
        self.start_again(now, actions);
        let heard = self.heard().map(|heard| heard.nonce.clone());
        let Some(pending) = self.pending.as_mut() else { return };
        if now >= pending.until {
            let purpose = pending.purpose;
            self.pending = None;
            match purpose {
                // the sequencer has the same deadline; saying so twice does no harm
                Purpose::Power => actions.push(Action::Prepared),
                Purpose::Leave => {
                    let why = "nobody answered the wish to leave: resetting without the coordinator";
                    actions.push(Action::Tell(NodeEventKind::Gesture, Text::cut(why)));
                    if self.busy().is_none() {
                        self.reset_here(actions);
                    }
                }
            }
        } else if now >= pending.ask_at {
            pending.ask_at = now.plus_ms(pending.every_ms);
            pending.request.deadline_ms = pending.until.since_ms(now);
            pending.request.session = self.nonce.clone();
            pending.request.nonce = heard;
            actions.push(Action::Request(pending.request.clone()));
        }
    }
}

fn button_power(goal: PowerGoal) -> Action {
    Action::Power { goal, reason: Text::cut("button"), grace: Grace::Standard, preparation: Preparation::Needed }
}

fn refused_press(reason: &Text<160>) -> Action {
    let text = Text::format(format_args!("reset by button refused (busy): {reason}"));
    Action::Tell(NodeEventKind::Refused, text)
}

fn request_id(boot: &BootId, number: u32) -> Option<RequestId> {
    let mut text = heapless::String::<64>::new();
    // the whole of it, so that no two Pis and no two boots ask under one id
    write!(text, "n-{boot}-{number}").ok()?;
    text.parse().ok()
}

/// The word for a lifecycle in events.
pub fn lifecycle_word(lifecycle: Lifecycle) -> &'static str {
    match lifecycle {
        Lifecycle::Blank => "blank",
        Lifecycle::Joining => "joining",
        Lifecycle::Member => "member",
        Lifecycle::Leaving => "leaving",
        Lifecycle::Broken => "broken",
    }
}

#[cfg(test)]
mod tests;
