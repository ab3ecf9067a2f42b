//! The power sequencer: from a request to the hand-over to systemd.
//!
//! One function, [`Sequencer::step`], takes the time and an event and answers with actions. It performs nothing and
//! knows nothing of cordons, pods or brokers: "prepare" is the caller's word for all that comes before the engine's stop.
//! An action that ends or fails comes back as an event.
//!
//! ```text
//!            Request                      until              Prepared, until        EngineStopped, until
//!  Running ───────────► Grace{until} ───────────► Preparing{until} ────────► Stopping{until} ─────────┐
//!     ▲                    │                       (skipped where done)                               │
//!     └─────── Cancel ─────┘                                                                          ▼
//!                 Halted ◄── until, failed ── HandingOver{Second} ◄── until, failed ── HandingOver{First, until}
//! ```
//!
//! # The rules
//! - Every state but `Running` and `Halted` has a deadline, and passing deadlines alone leads to `Halted`: nothing that
//!   hangs can prevent a shutdown, it can only delay it.
//! - The hand-over comes only after the engine's stop ended or ran out of time.
//! - A cancel within the grace time always returns to `Running`; after it there is no way back.
//! - Two requests are one. While one runs, another can make it stricter (power off instead of reboot) or hurry it (no
//!   grace, preparation done), never longer or weaker.
//! - **Only [`Goal::PowerOff`] arms the cut**, because only a power-off transaction of systemd runs the unit that leaves
//!   the hook's flag. A shutdown that somebody else started ([`Event::SystemStopping`]) is let go on ([`Action::Yield`]):
//!   what it is, systemd knows and this sequencer need not.
//! - Before each step the performer stores the reason and the phase ([`Action::Store`] comes first), so that the next boot
//!   can tell how far this one came.
//!
//! The tests search every reachable state with the function that ships.

use core::fmt;

use heapless::Vec;
use serde::{Deserialize, Serialize};

use crate::time::Instant;

/// Where a shutdown shall end. Ordered: the later one is the stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// The system starts again.
    Reboot,
    /// The power goes, where it can be cut.
    PowerOff,
}

impl Goal {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reboot => "reboot",
            Self::PowerOff => "power_off",
        }
    }
}

/// Who or what wanted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A hand on this Pi.
    Button,
    /// A command for this node.
    Command,
    /// A step of an operation on the crew.
    Operation,
    /// Somebody's shutdown on this system, which systemd is already carrying out.
    System,
    /// Too hot to go on.
    OverTemperature,
}

impl Reason {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Button => "button",
            Self::Command => "command",
            Self::Operation => "operation",
            Self::System => "system",
            Self::OverTemperature => "over_temperature",
        }
    }
}

/// Whether a request can still be cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GraceTime {
    /// It begins at once.
    None,
    /// It waits for [`Deadlines::grace_ms`].
    Standard,
}

/// Whether the caller still has something to do before the engine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Preparation {
    /// [`Action::Prepare`] is needed (the drain).
    Needed,
    /// That is behind us.
    Done,
}

/// What happens to the sequencer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Somebody wants it.
    Request {
        /// Where it shall end.
        goal: Goal,
        /// Who wants it.
        reason: Reason,
        /// Whether it can be cancelled for a while.
        grace: GraceTime,
        /// Whether the drain is still to be done.
        preparation: Preparation,
    },
    /// Somebody changed their mind. Counts within the grace time only.
    Cancel,
    /// The caller is done with [`Action::Prepare`], well or badly.
    Prepared,
    /// The engine is stopped, or its stop failed for good.
    EngineStopped,
    /// systemd refused the hand-over. That a shutdown is in progress already is no refusal: it goes down, as was wanted.
    HandOverFailed,
    /// systemd has begun a shutdown that we hold back (logind's signal, or the stop of the drain unit).
    SystemStopping,
    /// Time passed.
    Tick,
}

/// How a shutdown looks from outside, in the order in which it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing under way.
    Running,
    /// Requested, can be cancelled.
    Grace,
    /// The caller prepares: cordon and drain.
    Draining,
    /// The engine stops.
    Stopping,
    /// systemd has it.
    HandingOver,
    /// Everything was tried; the machine lives until systemd ends it.
    Halted,
}

impl Phase {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Grace => "grace",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
            Self::HandingOver => "handing_over",
            Self::Halted => "halted",
        }
    }
}

/// What the caller is to do, in the order of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Store this, durably, before anything that follows. A store that fails is logged and does not stop the rest.
    Store {
        /// The phase that begins.
        phase: Phase,
        /// Why; `None` when all is back to normal.
        reason: Option<Reason>,
    },
    /// Tell the world.
    Announce(Phase),
    /// Cordon and drain. Answer with [`Event::Prepared`].
    Prepare {
        /// When it is over, done or not.
        deadline: Instant,
    },
    /// Stop the engine. Answer with [`Event::EngineStopped`].
    StopEngine {
        /// When it is over, done or not.
        deadline: Instant,
    },
    /// Ask systemd (logind) for this, and let go of every inhibitor of ours. Answer with [`Event::HandOverFailed`] if it
    /// refuses. `HandOver(Goal::PowerOff)` is the only action that leads to a cut.
    HandOver(Goal),
    /// Ask again, past inhibitors and logind (`systemctl --force`, once: file systems are still unmounted).
    ForceHandOver(Goal),
    /// systemd is shutting down already: let go of every inhibitor and let it go on.
    Yield,
}

/// Most actions of one step: a deadline that is over and an event after it make three each, and a hand-over can be asked
/// for anew.
pub const MAX_ACTIONS: usize = 8;

/// The actions of one step, in the order in which to perform them.
pub type Actions = Vec<Action, MAX_ACTIONS>;

/// How long each state may last, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Deadlines {
    /// Time to change one's mind.
    pub grace_ms: u32,
    /// For cordon and drain.
    pub prepare_ms: u32,
    /// For the engine's stop.
    pub stop_ms: u32,
    /// For systemd, until the second attempt and once more until we give up.
    pub hand_over_ms: u32,
}

impl Default for Deadlines {
    /// - 5 s to change one's mind: long enough to reach for the button, short enough not to pull the plug in doubt.
    /// - 120 s to drain: most pods end within Kubernetes' own default of 30 s, some need a second round.
    /// - 60 s for the engine: k3s stops its containers one after the other.
    /// - 180 s for systemd: it gives each service 90 s, and ours is not the last.
    fn default() -> Self {
        Self { grace_ms: 5_000, prepare_ms: 120_000, stop_ms: 60_000, hand_over_ms: 180_000 }
    }
}

/// Spare time in [`Deadlines::inhibit_ms`] for the steps between the deadlines.
const INHIBIT_MARGIN_MS: u32 = 10_000;

/// A deadline that is out of its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadlineError {
    /// Its name in the configuration.
    pub name: &'static str,
    /// Its value, in milliseconds.
    pub value_ms: u32,
    /// The least that it may be.
    pub least_ms: u32,
    /// The most that it may be.
    pub most_ms: u32,
    /// Why.
    pub why: &'static str,
}

impl fmt::Display for DeadlineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, value_ms, least_ms, most_ms, why } = self;
        write!(f, "{name} = {value_ms} ms must be from {least_ms} to {most_ms} ms: {why}")
    }
}

impl core::error::Error for DeadlineError {}

impl Deadlines {
    /// Checks each deadline's range.
    ///
    /// # Errors
    /// The first one that is out of it.
    pub fn validate(&self) -> Result<(), DeadlineError> {
        let rules = [
            ("grace_ms", self.grace_ms, 1_000, 60_000, "a person must be able to cancel, and must not think it hangs"),
            ("prepare_ms", self.prepare_ms, 1_000, 1_800_000, "pods need time to leave, and a shutdown must end"),
            ("stop_ms", self.stop_ms, 1_000, 600_000, "containers need time to stop, and a shutdown must end"),
            (
                "hand_over_ms",
                self.hand_over_ms,
                100_000,
                1_800_000,
                "systemd gives each service 90 s, and forcing it sooner would cut that short",
            ),
        ];
        for (name, value_ms, least_ms, most_ms, why) in rules {
            if value_ms < least_ms || value_ms > most_ms {
                return Err(DeadlineError { name, value_ms, least_ms, most_ms, why });
            }
        }
        Ok(())
    }

    /// How long we may hold back a shutdown that somebody else started: what logind's `InhibitDelayMaxSec` and the drain
    /// unit's `TimeoutStopSec` must allow.
    pub const fn inhibit_ms(&self) -> u32 {
        self.prepare_ms.saturating_add(self.stop_ms).saturating_add(INHIBIT_MARGIN_MS)
    }
}

/// Which attempt at the hand-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Attempt {
    /// Asked.
    First,
    /// Forced.
    Second,
}

/// Where the sequencer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Nothing under way.
    Running,
    /// Requested, can be cancelled.
    Grace {
        /// Where it shall end.
        goal: Goal,
        /// Who wants it.
        reason: Reason,
        /// Whether the drain is still to be done afterwards.
        preparation: Preparation,
        /// End of the grace time.
        until: Instant,
    },
    /// The caller prepares.
    Preparing {
        /// Where it shall end.
        goal: Goal,
        /// Who wants it.
        reason: Reason,
        /// Latest end.
        until: Instant,
    },
    /// The engine stops.
    Stopping {
        /// Where it shall end.
        goal: Goal,
        /// Who wants it.
        reason: Reason,
        /// Latest end.
        until: Instant,
    },
    /// systemd has it.
    HandingOver {
        /// Where it shall end.
        goal: Goal,
        /// Who wants it.
        reason: Reason,
        /// Asked or forced.
        attempt: Attempt,
        /// When the next attempt comes, or the end.
        until: Instant,
    },
    /// Everything was tried. The engine is stopped and the machine lives on; a new request is handed over at once.
    Halted {
        /// Who wanted it.
        reason: Reason,
    },
}

impl State {
    /// How it looks from outside.
    pub const fn phase(&self) -> Phase {
        match self {
            Self::Running => Phase::Running,
            Self::Grace { .. } => Phase::Grace,
            Self::Preparing { .. } => Phase::Draining,
            Self::Stopping { .. } => Phase::Stopping,
            Self::HandingOver { .. } => Phase::HandingOver,
            Self::Halted { .. } => Phase::Halted,
        }
    }

    /// When it ends by itself.
    pub const fn until(&self) -> Option<Instant> {
        match self {
            Self::Running | Self::Halted { .. } => None,
            Self::Grace { until, .. }
            | Self::Preparing { until, .. }
            | Self::Stopping { until, .. }
            | Self::HandingOver { until, .. } => Some(*until),
        }
    }

    /// Who wants it.
    pub const fn reason(&self) -> Option<Reason> {
        match self {
            Self::Running => None,
            Self::Grace { reason, .. }
            | Self::Preparing { reason, .. }
            | Self::Stopping { reason, .. }
            | Self::HandingOver { reason, .. }
            | Self::Halted { reason } => Some(*reason),
        }
    }

    /// Where it shall end. `None` where nothing is under way.
    pub const fn goal(&self) -> Option<Goal> {
        match self {
            Self::Running | Self::Halted { .. } => None,
            Self::Grace { goal, .. }
            | Self::Preparing { goal, .. }
            | Self::Stopping { goal, .. }
            | Self::HandingOver { goal, .. } => Some(*goal),
        }
    }
}

/// The sequencer. See the module's text.
///
/// ```
/// use beehive_board::power::{Action, Deadlines, Event, Goal, GraceTime, Phase, Preparation, Reason, Sequencer};
/// use beehive_board::time::Instant;
///
/// let mut power = Sequencer::new(Deadlines::default());
/// let request = Event::Request {
///     goal: Goal::PowerOff,
///     reason: Reason::Button,
///     grace: GraceTime::None,
///     preparation: Preparation::Done,
/// };
/// let actions = power.step(Instant::from_ms(0), request);
/// assert_eq!(actions.last(), Some(&Action::StopEngine { deadline: Instant::from_ms(60_000) }));
/// let actions = power.step(Instant::from_ms(2_000), Event::EngineStopped);
/// assert_eq!(
///     actions,
///     [
///         Action::Store { phase: Phase::HandingOver, reason: Some(Reason::Button) },
///         Action::Announce(Phase::HandingOver),
///         Action::HandOver(Goal::PowerOff),
///     ]
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequencer {
    deadlines: Deadlines,
    state: State,
}

/// Goal and reason of what is under way.
#[derive(Clone, Copy)]
struct Aim {
    goal: Goal,
    reason: Reason,
}

impl Aim {
    /// The stricter of the two; of equals the first stays. So a wish to reboot joins a shutdown of systemd's own, whatever
    /// that is, and a wish to power off replaces it.
    fn merged(self, other: Self) -> Self {
        if other.goal > self.goal { other } else { self }
    }

    fn store(self, goal: &mut Goal, reason: &mut Reason) {
        *goal = self.goal;
        *reason = self.reason;
    }
}

impl Sequencer {
    /// A sequencer with nothing under way. Takes deadlines that were [validated](Deadlines::validate).
    pub const fn new(deadlines: Deadlines) -> Self {
        Self { deadlines, state: State::Running }
    }

    /// Where it is.
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// How it looks from outside.
    pub const fn phase(&self) -> Phase {
        self.state.phase()
    }

    /// When [`step`](Self::step) is due with [`Event::Tick`]; `None` while nothing is under way.
    pub const fn next_deadline(&self) -> Option<Instant> {
        self.state.until()
    }

    /// Takes an event at its time.
    ///
    /// A deadline that is over at `now` counts before the event, also if nobody ticked: a cancel at the end of the grace
    /// time is too late. Only a request's goal is heard first, so that no weaker one is handed over beside it. An outcome ([`Event::Prepared`], [`Event::EngineStopped`], [`Event::HandOverFailed`]) that
    /// arrives with such a deadline belongs to the state that just ended and is dropped.
    pub fn step(&mut self, now: Instant, event: Event) -> Actions {
        let mut actions = Actions::new();
        let expired = self.state.until().is_some_and(|until| now >= until);
        if expired {
            // What is handed over must be the strictest that was asked for until this instant.
            if let Event::Request { goal, reason, preparation, .. } = event {
                self.merge(Aim { goal, reason }, preparation);
            }
            self.expire(now, &mut actions);
        }
        match event {
            Event::Tick => {}
            Event::Request { goal, reason, grace, preparation } => {
                self.request(now, Aim { goal, reason }, grace, preparation, &mut actions);
            }
            Event::Cancel => self.cancel(&mut actions),
            Event::SystemStopping => self.system_stopping(now, &mut actions),
            Event::Prepared | Event::EngineStopped | Event::HandOverFailed if expired => {}
            Event::Prepared => self.prepared(now, &mut actions),
            Event::EngineStopped => self.engine_stopped(now, &mut actions),
            Event::HandOverFailed => self.hand_over_failed(now, &mut actions),
        }
        actions
    }

    fn expire(&mut self, now: Instant, actions: &mut Actions) {
        match self.state {
            State::Running | State::Halted { .. } => {}
            State::Grace { goal, reason, preparation, .. } => {
                self.begin(now, Aim { goal, reason }, preparation, actions);
            }
            State::Preparing { goal, reason, .. } => self.stop(now, Aim { goal, reason }, actions),
            State::Stopping { goal, reason, .. } => self.hand_over(now, Aim { goal, reason }, actions),
            State::HandingOver { goal, reason, attempt, .. } => {
                self.hand_over_again(now, Aim { goal, reason }, attempt, actions);
            }
        }
    }

    fn request(&mut self, now: Instant, asked: Aim, grace: GraceTime, preparation: Preparation, actions: &mut Actions) {
        match self.state {
            State::Running => match grace {
                GraceTime::Standard => {
                    let until = now.plus_ms(self.deadlines.grace_ms.into());
                    let Aim { goal, reason } = asked;
                    self.enter(State::Grace { goal, reason, preparation, until }, actions);
                }
                GraceTime::None => self.begin(now, asked, preparation, actions),
            },
            State::Grace { .. } | State::Preparing { .. } | State::Stopping { .. } | State::HandingOver { .. } => {
                self.join(asked, grace, preparation, now, actions);
            }
            // What was tried is over, so the new request stands alone; the engine is stopped already.
            State::Halted { .. } => self.hand_over(now, asked, actions),
        }
    }

    /// A request during another: the stricter goal, and what hurries it.
    fn join(&mut self, asked: Aim, grace: GraceTime, preparation: Preparation, now: Instant, actions: &mut Actions) {
        let before = self.state;
        self.merge(asked, preparation);
        if self.state.reason() != before.reason() {
            push(actions, Action::Store { phase: self.phase(), reason: self.state.reason() });
        }
        match self.state {
            State::Grace { goal, reason, preparation, .. } => match grace {
                GraceTime::None => self.begin(now, Aim { goal, reason }, preparation, actions),
                GraceTime::Standard => {}
            },
            State::Preparing { goal, reason, .. } => match preparation {
                Preparation::Done => self.stop(now, Aim { goal, reason }, actions),
                Preparation::Needed => {}
            },
            State::HandingOver { goal, reason, attempt, .. } => {
                // What systemd was told is no longer what is wanted.
                if before.goal() != Some(goal) {
                    push(actions, hand_over_action(Aim { goal, reason }, attempt));
                }
            }
            State::Stopping { .. } | State::Running | State::Halted { .. } => {}
        }
    }

    /// Puts a request into the state without leaving it.
    fn merge(&mut self, asked: Aim, asked_preparation: Preparation) {
        match &mut self.state {
            State::Running | State::Halted { .. } => {}
            State::Grace { goal, reason, preparation, .. } => {
                Aim { goal: *goal, reason: *reason }.merged(asked).store(goal, reason);
                match asked_preparation {
                    // That it was done is a fact; one who did not know it does not undo it.
                    Preparation::Done => *preparation = Preparation::Done,
                    Preparation::Needed => {}
                }
            }
            State::Preparing { goal, reason, .. }
            | State::Stopping { goal, reason, .. }
            | State::HandingOver { goal, reason, .. } => {
                Aim { goal: *goal, reason: *reason }.merged(asked).store(goal, reason);
            }
        }
    }

    fn cancel(&mut self, actions: &mut Actions) {
        match self.state {
            State::Grace { .. } => self.enter(State::Running, actions),
            State::Running
            | State::Preparing { .. }
            | State::Stopping { .. }
            | State::HandingOver { .. }
            | State::Halted { .. } => {}
        }
    }

    fn system_stopping(&mut self, now: Instant, actions: &mut Actions) {
        match self.state {
            // Reboot is the goal that arms nothing; systemd's own goal stays systemd's.
            State::Running => {
                let aim = Aim { goal: Goal::Reboot, reason: Reason::System };
                self.begin(now, aim, Preparation::Needed, actions);
            }
            // It goes down anyway: nothing is left to cancel.
            State::Grace { goal, reason, preparation, .. } => {
                self.begin(now, Aim { goal, reason }, preparation, actions);
            }
            // On the way already; the drain happens once.
            State::Preparing { .. } | State::Stopping { .. } => {}
            // Ours, or somebody else's after ours: hold it back no longer.
            State::HandingOver { .. } | State::Halted { .. } => push(actions, Action::Yield),
        }
    }

    fn prepared(&mut self, now: Instant, actions: &mut Actions) {
        match self.state {
            State::Preparing { goal, reason, .. } => self.stop(now, Aim { goal, reason }, actions),
            State::Running
            | State::Grace { .. }
            | State::Stopping { .. }
            | State::HandingOver { .. }
            | State::Halted { .. } => {}
        }
    }

    fn engine_stopped(&mut self, now: Instant, actions: &mut Actions) {
        match self.state {
            State::Stopping { goal, reason, .. } => self.hand_over(now, Aim { goal, reason }, actions),
            State::Running
            | State::Grace { .. }
            | State::Preparing { .. }
            | State::HandingOver { .. }
            | State::Halted { .. } => {}
        }
    }

    fn hand_over_failed(&mut self, now: Instant, actions: &mut Actions) {
        match self.state {
            State::HandingOver { goal, reason, attempt, .. } => {
                self.hand_over_again(now, Aim { goal, reason }, attempt, actions);
            }
            State::Running
            | State::Grace { .. }
            | State::Preparing { .. }
            | State::Stopping { .. }
            | State::Halted { .. } => {}
        }
    }

    /// The grace time is over, or there was none.
    fn begin(&mut self, now: Instant, aim: Aim, preparation: Preparation, actions: &mut Actions) {
        match preparation {
            Preparation::Needed => {
                let until = now.plus_ms(self.deadlines.prepare_ms.into());
                self.enter(State::Preparing { goal: aim.goal, reason: aim.reason, until }, actions);
                push(actions, Action::Prepare { deadline: until });
            }
            Preparation::Done => self.stop(now, aim, actions),
        }
    }

    fn stop(&mut self, now: Instant, aim: Aim, actions: &mut Actions) {
        let until = now.plus_ms(self.deadlines.stop_ms.into());
        self.enter(State::Stopping { goal: aim.goal, reason: aim.reason, until }, actions);
        push(actions, Action::StopEngine { deadline: until });
    }

    fn hand_over(&mut self, now: Instant, aim: Aim, actions: &mut Actions) {
        let attempt = Attempt::First;
        let until = now.plus_ms(self.deadlines.hand_over_ms.into());
        self.enter(State::HandingOver { goal: aim.goal, reason: aim.reason, attempt, until }, actions);
        push(actions, hand_over_action(aim, attempt));
    }

    fn hand_over_again(&mut self, now: Instant, aim: Aim, attempt: Attempt, actions: &mut Actions) {
        match attempt {
            Attempt::First => {
                let attempt = Attempt::Second;
                let until = now.plus_ms(self.deadlines.hand_over_ms.into());
                self.state = State::HandingOver { goal: aim.goal, reason: aim.reason, attempt, until };
                // Stored again for the reason, which a request at this very instant may have changed.
                push(actions, Action::Store { phase: Phase::HandingOver, reason: Some(aim.reason) });
                push(actions, hand_over_action(aim, attempt));
            }
            Attempt::Second => self.enter(State::Halted { reason: aim.reason }, actions),
        }
    }

    /// Enters another phase.
    fn enter(&mut self, state: State, actions: &mut Actions) {
        let phase = state.phase();
        push(actions, Action::Store { phase, reason: state.reason() });
        push(actions, Action::Announce(phase));
        self.state = state;
    }
}

/// What to ask of systemd. A shutdown of its own is never forced: we do not know what it is.
fn hand_over_action(aim: Aim, attempt: Attempt) -> Action {
    match (aim.reason, attempt) {
        (Reason::System, _) => Action::Yield,
        (Reason::Button | Reason::Command | Reason::Operation | Reason::OverTemperature, Attempt::First) => {
            Action::HandOver(aim.goal)
        }
        (Reason::Button | Reason::Command | Reason::Operation | Reason::OverTemperature, Attempt::Second) => {
            Action::ForceHandOver(aim.goal)
        }
    }
}

fn push(actions: &mut Actions, action: Action) {
    // MAX_ACTIONS is more than a step can make; the exhaustive search checks it.
    let room = actions.push(action);
    debug_assert!(room.is_ok(), "more actions than MAX_ACTIONS");
}

#[cfg(test)]
#[path = "power_tests.rs"]
mod tests;
