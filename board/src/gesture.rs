//! Button gestures: from time-stamped edges to what the person meant.
//!
//! A pure recogniser. It takes edges of the button's line with their time stamps ([`Recogniser::edge`]) and the passing
//! of time ([`Recogniser::poll`], due at [`Recogniser::next_deadline`]) and answers with events.
//!
//! # Classes
//!
//! | what the person does | gesture |
//! | --- | --- |
//! | press of at most `short_max_ms`, no second one within `double_gap_ms` | [`Gesture::Short`]: show the status |
//! | two such presses, the second begun at most `double_gap_ms` after the first was released | [`Gesture::Double`]: reboot |
//! | hold for `hold_ms` or more, release before `reset_from_ms` | [`Gesture::PowerOff`] |
//! | hold, release from `reset_from_ms` on and before `reset_until_ms` | [`Gesture::ResetArmed`] |
//! | after that, begun `confirm_after_ms` to `confirm_within_ms` after the release: one short press | [`Gesture::Reset`] |
//! | hold for `stuck_after_ms` | [`Gesture::Stuck`], and its release does nothing |
//! | anything else | [`Gesture::Cancelled`] |
//!
//! No class acts before the release. The thresholds that are passed during a hold are told as
//! [`GestureEvent::Passed`], so that LEDs and MQTT can show them while there is still time to decide.
//!
//! # What cannot make a gesture
//!
//! - *A line that is low at the start* is stuck, not pressed, until it was high once. A pin that is held low at boot
//!   would otherwise be a loop of shutdowns (and BCM17 reads low after a reset until its pull-up is set).
//! - *Bounce*: a level counts once it stood for `debounce_ms`; shorter pulses leave no trace. Edges that the kernel has
//!   debounced already pass through unchanged, `debounce_ms` later.
//! - *Edges that are told wrong*: the kernel takes an edge's time stamp in its interrupt and reads the level later, in a
//!   thread (`edge_irq_thread` in Linux' `gpiolib-cdev.c`), so the release at the head of a bounce may be told as a second
//!   press. If a release follows within `debounce_ms` it was that: the bounce ends the press.
//! - *Lost edges*: if none follows, a release was lost. How long anything was held is then unknown, so that press comes
//!   to nothing. A second rising edge is ignored: it is what a line gives that was our LED a moment ago.
//! - *A late program*: durations come from the edges' own time stamps, never from when they were handled. A daemon that
//!   slept for five seconds does not see a tap as a hold.
//! - *A clock that jumps back*: an edge older than the one before it voids the press under way; with the next release
//!   the button works again. (A jump forward cannot be told from waiting; use a monotonic clock, as for [`Instant`].)

use core::fmt;

use heapless::Vec;
use serde::{Deserialize, Serialize};

use crate::time::Instant;

/// What the button's line says, independent of its polarity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The button is held down (the line is low).
    Pressed,
    /// The button is up (the line is high).
    Released,
}

/// When a press is what, in milliseconds. Valid only as a whole: see [`Thresholds::validate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Thresholds {
    /// A level shorter than this is bounce.
    pub debounce_ms: u32,
    /// The longest press that is a short one.
    pub short_max_ms: u32,
    /// The longest gap, from release to press, between the two presses of a double.
    pub double_gap_ms: u32,
    /// From here a release means power off.
    pub hold_ms: u32,
    /// From here a release arms the reset.
    pub reset_from_ms: u32,
    /// From here a release means nothing any more.
    pub reset_until_ms: u32,
    /// A confirming press that begins sooner than this after the release is not a deliberate one.
    pub confirm_after_ms: u32,
    /// The confirming press must begin within this time after the release.
    pub confirm_within_ms: u32,
    /// From here the button counts as stuck.
    pub stuck_after_ms: u32,
}

impl Default for Thresholds {
    /// Times that a person can tell apart without a watch, with the LED as a guide.
    fn default() -> Self {
        Self {
            debounce_ms: 30,
            short_max_ms: 1_000,
            double_gap_ms: 400,
            hold_ms: 3_000,
            reset_from_ms: 10_000,
            reset_until_ms: 15_000,
            confirm_after_ms: 500,
            confirm_within_ms: 5_000,
            stuck_after_ms: 30_000,
        }
    }
}

/// A threshold that breaks a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThresholdError {
    /// The threshold's name in the configuration.
    pub name: &'static str,
    /// Its value, in milliseconds.
    pub value_ms: u32,
    /// The rule.
    pub rule: Rule,
    /// Why there is such a rule.
    pub why: &'static str,
}

/// The rule that a threshold breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// At least so many milliseconds.
    AtLeast(u32),
    /// At most so many milliseconds.
    AtMost(u32),
    /// At least `by_ms` more than another threshold.
    MoreThan {
        /// The other threshold's name.
        other: &'static str,
        /// The other threshold's value, in milliseconds.
        other_ms: u32,
        /// The distance, in milliseconds.
        by_ms: u32,
    },
}

impl fmt::Display for ThresholdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {} ms must be ", self.name, self.value_ms)?;
        match self.rule {
            Rule::AtLeast(ms) => write!(f, "at least {ms} ms")?,
            Rule::AtMost(ms) => write!(f, "at most {ms} ms")?,
            Rule::MoreThan { other, other_ms, by_ms } => {
                write!(f, "at least {by_ms} ms more than {other} = {other_ms} ms")?;
            }
        }
        write!(f, ": {}", self.why)
    }
}

impl core::error::Error for ThresholdError {}

impl Thresholds {
    /// Checks the thresholds against each other and against what a hand can do.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), ThresholdError> {
        let least = |name, value_ms: u32, ms: u32, why| {
            if value_ms >= ms { Ok(()) } else { Err(ThresholdError { name, value_ms, rule: Rule::AtLeast(ms), why }) }
        };
        let most = |name, value_ms: u32, ms: u32, why| {
            if value_ms <= ms { Ok(()) } else { Err(ThresholdError { name, value_ms, rule: Rule::AtMost(ms), why }) }
        };
        let after = |name, value_ms: u32, other, other_ms: u32, by_ms: u32, why| {
            if value_ms >= other_ms.saturating_add(by_ms) {
                Ok(())
            } else {
                Err(ThresholdError { name, value_ms, rule: Rule::MoreThan { other, other_ms, by_ms }, why })
            }
        };
        least("debounce_ms", self.debounce_ms, 5, "buttons of this kind bounce for a few milliseconds")?;
        most("debounce_ms", self.debounce_ms, 100, "a quick tap is hardly longer and would be lost")?;
        after(
            "short_max_ms",
            self.short_max_ms,
            "debounce_ms",
            self.debounce_ms,
            200,
            "a calm tap must fit between the two",
        )?;
        after(
            "double_gap_ms",
            self.double_gap_ms,
            "debounce_ms",
            self.debounce_ms,
            100,
            "nobody presses again as fast as the button bounces",
        )?;
        most("double_gap_ms", self.double_gap_ms, 2_000, "a short press answers only after this time")?;
        least("hold_ms", self.hold_ms, 1_000, "a hand that leans on the button must not power off")?;
        after("hold_ms", self.hold_ms, "short_max_ms", self.short_max_ms, 500, "a slow tap must not power off")?;
        after(
            "reset_from_ms",
            self.reset_from_ms,
            "hold_ms",
            self.hold_ms,
            2_000,
            "there must be time to release for power off",
        )?;
        after(
            "reset_until_ms",
            self.reset_until_ms,
            "reset_from_ms",
            self.reset_from_ms,
            1_000,
            "there must be time to release for reset",
        )?;
        after(
            "stuck_after_ms",
            self.stuck_after_ms,
            "reset_until_ms",
            self.reset_until_ms,
            1_000,
            "a hold past the reset window is cancelled before it counts as stuck",
        )?;
        most("stuck_after_ms", self.stuck_after_ms, 600_000, "a jammed button must be reported some day")?;
        after(
            "confirm_after_ms",
            self.confirm_after_ms,
            "debounce_ms",
            self.debounce_ms,
            100,
            "the finger's slip at the end of a long hold is not a confirmation",
        )?;
        after(
            "confirm_within_ms",
            self.confirm_within_ms,
            "confirm_after_ms",
            self.confirm_after_ms,
            1_000,
            "there must be time to confirm",
        )?;
        most("confirm_within_ms", self.confirm_within_ms, 60_000, "an armed reset must not wait for the next visitor")
    }
}

/// A threshold that is passed while the button is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Threshold {
    /// `hold_ms`: a release now powers off.
    Hold,
    /// `reset_from_ms`: a release now arms the reset.
    ResetFrom,
    /// `reset_until_ms`: a release now does nothing.
    ResetUntil,
    /// `stuck_after_ms`: the button counts as stuck.
    Stuck,
}

impl Threshold {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::ResetFrom => "reset_from",
            Self::ResetUntil => "reset_until",
            Self::Stuck => "stuck",
        }
    }
}

/// What the person meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gesture {
    /// Show the status.
    Short,
    /// Reboot.
    Double,
    /// Power off.
    PowerOff,
    /// The first half of a reset: waits for its confirmation. Nothing is to be done but to show it.
    ResetArmed,
    /// Leave the cluster and reset this Pi.
    Reset,
    /// A press, or an armed reset, that came to nothing.
    Cancelled,
    /// The button is held for longer than anybody would, or was low from the start. Told once.
    Stuck,
}

impl Gesture {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Double => "double",
            Self::PowerOff => "power_off",
            Self::ResetArmed => "reset_armed",
            Self::Reset => "reset",
            Self::Cancelled => "cancelled",
            Self::Stuck => "stuck",
        }
    }
}

/// What the recogniser tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GestureEvent {
    /// The button went down (debounced).
    Pressed,
    /// It is still down and this threshold is behind it.
    Passed(Threshold),
    /// The button went up (debounced). The gesture of this press, if it is known by now, follows.
    Released,
    /// What was meant.
    Gesture(Gesture),
}

/// Most events of one call: what a late `edge` can find due at once (a timeout, a press, all four thresholds with the
/// stuck gesture, a release with its gesture, and the loss that the edge itself shows), rounded up.
pub const MAX_EVENTS: usize = 12;

/// The events of one call, oldest first.
pub type Events = Vec<GestureEvent, MAX_EVENTS>;

/// A call that is older than the last edge by more than this is a clock that jumped back. Less than that is a caller
/// who took the time and then found an edge that is a little newer.
const CLOCK_SLACK_MS: u64 = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Role {
    /// The first press after rest.
    First,
    /// Begun soon enough after a short press.
    Second,
    /// Begun in the time for the confirmation of a reset.
    Confirm,
    /// Comes to nothing, whatever it lasts.
    Void,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    /// Up, nothing under way.
    Idle,
    /// Up; one short press so far.
    Pending { released: Instant },
    /// Up; waits for the confirmation of a reset.
    Armed { released: Instant },
    /// Down since the start; `told` once the gesture was.
    LowFromStart { told: Told },
    /// Down.
    Held {
        since: Instant,
        role: Role,
        passed: Option<Threshold>,
        /// When a second press was told, which must have been a release: until another follows, or `debounce_ms` are over.
        unseen_release: Option<Instant>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Told {
    No,
    Yes,
}

/// The recogniser. See the module's text.
///
/// ```
/// use beehive_board::gesture::{Gesture, GestureEvent, Level, Recogniser, Thresholds};
/// use beehive_board::time::Instant;
///
/// let mut button = Recogniser::new(Thresholds::default(), Level::Released, Instant::from_ms(0));
/// button.edge(Instant::from_ms(1_000), Level::Pressed);
/// button.edge(Instant::from_ms(5_000), Level::Released);
/// let events = button.poll(Instant::from_ms(5_030));
/// assert_eq!(events.last(), Some(&GestureEvent::Gesture(Gesture::PowerOff)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recogniser {
    thresholds: Times,
    /// The line's level after the last edge, and when that was.
    raw: Level,
    raw_since: Instant,
    state: State,
}

/// [`Thresholds`] in the width of an [`Instant`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Times {
    debounce_ms: u64,
    short_max_ms: u64,
    double_gap_ms: u64,
    hold_ms: u64,
    reset_from_ms: u64,
    reset_until_ms: u64,
    confirm_after_ms: u64,
    confirm_within_ms: u64,
    stuck_after_ms: u64,
}

impl Recogniser {
    /// A recogniser for a line that now has `first_level`. Takes thresholds that were
    /// [validated](Thresholds::validate).
    pub fn new(thresholds: Thresholds, first_level: Level, now: Instant) -> Self {
        let state = match first_level {
            Level::Pressed => State::LowFromStart { told: Told::No },
            Level::Released => State::Idle,
        };
        Self { thresholds: Times::from(thresholds), raw: first_level, raw_since: now, state }
    }

    /// Takes an edge: the line changed to `level` at `now`. Call it in the order of the time stamps, and before a
    /// [`poll`](Self::poll) with a later time, so that no edge waits while time passes.
    ///
    /// Only for changes: who polls a line calls [`sample`](Self::sample).
    pub fn edge(&mut self, now: Instant, level: Level) -> Events {
        let mut events = Events::new();
        if now < self.raw_since {
            self.clock_went_back(now, level, &mut events);
            return events;
        }
        self.advance(now, &mut events);
        if level == self.raw {
            match (level, self.level()) {
                // There was a release that nobody saw: the head of the bounce that ends this press, or one that was lost.
                (Level::Pressed, Level::Pressed) => self.release_unseen(now),
                // The same, before the press counted at all: the debounce time starts again.
                (Level::Pressed, Level::Released) => self.raw_since = now,
                (Level::Released, _) => {}
            }
            return events;
        }
        self.raw = level;
        self.raw_since = now;
        // `advance` has voided the press already if this comes too late to be the end of a bounce
        self.forget_unseen_release();
        events
    }

    /// Takes a sample of the line: an edge if it differs from the level so far, and the passing of time.
    pub fn sample(&mut self, now: Instant, level: Level) -> Events {
        let mut events = if level == self.raw { Events::new() } else { self.edge(now, level) };
        for event in self.poll(now) {
            push(&mut events, event);
        }
        events
    }

    /// Lets time pass.
    pub fn poll(&mut self, now: Instant) -> Events {
        let mut events = Events::new();
        if self.raw_since.saturating_since(now) > CLOCK_SLACK_MS {
            self.clock_went_back(now, self.raw, &mut events);
            return events;
        }
        self.advance(now, &mut events);
        events
    }

    /// When [`poll`](Self::poll) has something to do; `None` if only an edge can change anything.
    pub fn next_deadline(&self) -> Option<Instant> {
        let t = &self.thresholds;
        if self.raw != self.level() {
            return Some(self.raw_since.plus_ms(t.debounce_ms));
        }
        match self.state {
            State::Held { unseen_release: Some(at), .. } => Some(at.plus_ms(t.debounce_ms)),
            State::Idle => None,
            State::Pending { released } => Some(released.plus_ms(t.double_gap_ms.saturating_add(1))),
            State::Armed { released } => Some(released.plus_ms(t.confirm_within_ms.saturating_add(1))),
            State::LowFromStart { told: Told::No } => Some(self.raw_since),
            State::LowFromStart { told: Told::Yes } => None,
            State::Held { since, passed, unseen_release: None, .. } => {
                t.next_after(passed).map(|(_, threshold_ms)| since.plus_ms(threshold_ms))
            }
        }
    }

    /// Makes the press under way come to nothing: its release will tell [`Gesture::Cancelled`]. A short press that
    /// waits for a second one, and an armed reset, are forgotten without a word.
    ///
    /// For a press that had its effect already, as one that cancels a power-off in its grace time; and for a caller who
    /// knows that edges were lost, from a gap in the kernel's sequence numbers.
    pub fn void(&mut self) {
        match &mut self.state {
            State::Held { role, .. } => *role = Role::Void,
            State::Pending { .. } | State::Armed { .. } => self.state = State::Idle,
            State::Idle | State::LowFromStart { .. } => {}
        }
    }

    /// A press was told while the button is down.
    fn release_unseen(&mut self, now: Instant) {
        if let State::Held { unseen_release, .. } = &mut self.state {
            // of several the first one counts: a bounce is over soon
            unseen_release.get_or_insert(now);
        }
    }

    fn forget_unseen_release(&mut self) {
        if let State::Held { unseen_release, .. } = &mut self.state {
            *unseen_release = None;
        }
    }

    /// The debounced level.
    pub fn level(&self) -> Level {
        match self.state {
            State::Idle | State::Pending { .. } | State::Armed { .. } => Level::Released,
            State::LowFromStart { .. } | State::Held { .. } => Level::Pressed,
        }
    }

    /// Whether the button is stuck: low since the start, or held past `stuck_after_ms`.
    pub fn is_stuck(&self) -> bool {
        match self.state {
            State::LowFromStart { .. } | State::Held { passed: Some(Threshold::Stuck), .. } => true,
            State::Held { .. } | State::Idle | State::Pending { .. } | State::Armed { .. } => false,
        }
    }

    /// Takes a level that stood long enough, and everything that is due at `now`.
    fn advance(&mut self, now: Instant, events: &mut Events) {
        if let State::Held { unseen_release: Some(at), .. } = self.state {
            // Time goes no further than to there until it is known what that was.
            self.expire(at, events);
            if now.saturating_since(at) < self.thresholds.debounce_ms {
                return;
            }
            // No release has followed: one was lost, and with it what this press was.
            self.forget_unseen_release();
            self.void();
        }
        if self.raw != self.level() {
            // The line has left the debounced level, perhaps for a bounce only: until that is known, time goes no
            // further than to this edge.
            self.expire(self.raw_since, events);
            if now.saturating_since(self.raw_since) < self.thresholds.debounce_ms {
                return;
            }
            self.commit(events);
        }
        self.expire(now, events);
    }

    /// What time alone does.
    fn expire(&mut self, now: Instant, events: &mut Events) {
        let t = self.thresholds;
        match self.state {
            State::Idle | State::LowFromStart { told: Told::Yes } => {}
            State::Pending { released } => {
                if now.saturating_since(released) > t.double_gap_ms {
                    self.state = State::Idle;
                    push(events, GestureEvent::Gesture(Gesture::Short));
                }
            }
            State::Armed { released } => {
                if now.saturating_since(released) > t.confirm_within_ms {
                    self.state = State::Idle;
                    push(events, GestureEvent::Gesture(Gesture::Cancelled));
                }
            }
            State::LowFromStart { told: Told::No } => {
                self.state = State::LowFromStart { told: Told::Yes };
                push(events, GestureEvent::Gesture(Gesture::Stuck));
            }
            State::Held { since, role, mut passed, unseen_release } => {
                let held_ms = now.saturating_since(since);
                while let Some((threshold, threshold_ms)) = t.next_after(passed) {
                    if held_ms < threshold_ms {
                        break;
                    }
                    passed = Some(threshold);
                    match (threshold, role) {
                        (Threshold::Stuck, _) => {
                            push(events, GestureEvent::Passed(Threshold::Stuck));
                            push(events, GestureEvent::Gesture(Gesture::Stuck));
                        }
                        // These thresholds mean something for a press that can become a hold, and for no other.
                        (
                            Threshold::Hold | Threshold::ResetFrom | Threshold::ResetUntil,
                            Role::First | Role::Second,
                        ) => {
                            push(events, GestureEvent::Passed(threshold));
                        }
                        (
                            Threshold::Hold | Threshold::ResetFrom | Threshold::ResetUntil,
                            Role::Confirm | Role::Void,
                        ) => {}
                    }
                }
                self.state = State::Held { since, role, passed, unseen_release };
            }
        }
    }

    /// The line has the other level, since `raw_since` and for long enough.
    fn commit(&mut self, events: &mut Events) {
        let t = self.thresholds;
        let at = self.raw_since;
        match self.state {
            State::Idle => self.press(Role::First, events),
            // expire() ran before: the gap and the time to confirm are not over.
            State::Pending { .. } => self.press(Role::Second, events),
            State::Armed { released } => {
                let too_soon = at.saturating_since(released) < t.confirm_after_ms;
                self.press(if too_soon { Role::Void } else { Role::Confirm }, events);
            }
            State::LowFromStart { .. } => {
                self.state = State::Idle;
                push(events, GestureEvent::Released);
            }
            State::Held { since, role, passed, .. } => {
                push(events, GestureEvent::Released);
                let held_ms = at.saturating_since(since);
                self.state = match t.classify(role, held_ms, passed) {
                    Class::Nothing => State::Idle,
                    Class::Done(gesture) => {
                        push(events, GestureEvent::Gesture(gesture));
                        State::Idle
                    }
                    Class::FirstShort => State::Pending { released: at },
                    Class::Armed => {
                        push(events, GestureEvent::Gesture(Gesture::ResetArmed));
                        State::Armed { released: at }
                    }
                };
            }
        }
    }

    fn press(&mut self, role: Role, events: &mut Events) {
        self.state = State::Held { since: self.raw_since, role, passed: None, unseen_release: None };
        push(events, GestureEvent::Pressed);
    }

    /// Nothing that was measured can be believed: starts again from `level`.
    fn clock_went_back(&mut self, now: Instant, level: Level, events: &mut Events) {
        match self.state {
            State::Idle | State::LowFromStart { .. } => {}
            State::Pending { .. } | State::Armed { .. } => {
                self.state = State::Idle;
                push(events, GestureEvent::Gesture(Gesture::Cancelled));
            }
            State::Held { .. } => {
                self.state = State::Held { since: now, role: Role::Void, passed: None, unseen_release: None }
            }
        }
        self.raw = level;
        self.raw_since = now;
    }
}

enum Class {
    /// Told before, or too short to have been a press.
    Nothing,
    Done(Gesture),
    FirstShort,
    Armed,
}

impl Times {
    /// What a press was, at its release.
    fn classify(&self, role: Role, held_ms: u64, passed: Option<Threshold>) -> Class {
        if passed == Some(Threshold::Stuck) || held_ms >= self.stuck_after_ms {
            return Class::Nothing;
        }
        // Only a late caller sees this: the edges were closer than the debounce time.
        if held_ms < self.debounce_ms {
            return Class::Done(Gesture::Cancelled);
        }
        let short = held_ms <= self.short_max_ms;
        match role {
            Role::Void => Class::Done(Gesture::Cancelled),
            Role::Confirm if short => Class::Done(Gesture::Reset),
            Role::Confirm => Class::Done(Gesture::Cancelled),
            Role::First if short => Class::FirstShort,
            Role::Second if short => Class::Done(Gesture::Double),
            // A tap and then a hold is a hold.
            Role::First | Role::Second => {
                if held_ms < self.hold_ms {
                    Class::Done(Gesture::Cancelled)
                } else if held_ms < self.reset_from_ms {
                    Class::Done(Gesture::PowerOff)
                } else if held_ms < self.reset_until_ms {
                    Class::Armed
                } else {
                    Class::Done(Gesture::Cancelled)
                }
            }
        }
    }

    /// The threshold that a hold passes next.
    fn next_after(&self, passed: Option<Threshold>) -> Option<(Threshold, u64)> {
        match passed {
            None => Some((Threshold::Hold, self.hold_ms)),
            Some(Threshold::Hold) => Some((Threshold::ResetFrom, self.reset_from_ms)),
            Some(Threshold::ResetFrom) => Some((Threshold::ResetUntil, self.reset_until_ms)),
            Some(Threshold::ResetUntil) => Some((Threshold::Stuck, self.stuck_after_ms)),
            Some(Threshold::Stuck) => None,
        }
    }
}

impl From<Thresholds> for Times {
    fn from(t: Thresholds) -> Self {
        Self {
            debounce_ms: t.debounce_ms.into(),
            short_max_ms: t.short_max_ms.into(),
            double_gap_ms: t.double_gap_ms.into(),
            hold_ms: t.hold_ms.into(),
            reset_from_ms: t.reset_from_ms.into(),
            reset_until_ms: t.reset_until_ms.into(),
            confirm_after_ms: t.confirm_after_ms.into(),
            confirm_within_ms: t.confirm_within_ms.into(),
            stuck_after_ms: t.stuck_after_ms.into(),
        }
    }
}

fn push(events: &mut Events, event: GestureEvent) {
    // MAX_EVENTS is more than a call can make; the exhaustive search checks it.
    let room = events.push(event);
    debug_assert!(room.is_ok(), "more events than MAX_EVENTS");
}

#[cfg(test)]
#[path = "gesture_tests.rs"]
mod tests;
