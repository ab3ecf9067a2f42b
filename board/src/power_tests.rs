//! The sequencer in examples and in an exhaustive search over state × event × time class, which calls the shipped
//! [`Sequencer::step`] and no model of it.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::string::ToString as _;
use std::vec::Vec;
use std::{format, println};

use super::*;

/// Short, and all different, so that every remaining time is a state of its own.
const SHORT: Deadlines = Deadlines { grace_ms: 3, prepare_ms: 5, stop_ms: 4, hand_over_ms: 6 };

const LONGEST_MS: u64 = 6;

fn at(ms: u64) -> Instant {
    Instant::from_ms(ms)
}

fn request(goal: Goal, reason: Reason, grace: GraceTime, preparation: Preparation) -> Event {
    Event::Request { goal, reason, grace, preparation }
}

fn all_events() -> Vec<Event> {
    let mut events = [
        Event::Cancel,
        Event::Prepared,
        Event::EngineStopped,
        Event::HandOverFailed,
        Event::SystemStopping,
        Event::Tick,
    ]
    .to_vec();
    for goal in [Goal::Reboot, Goal::PowerOff] {
        for reason in [Reason::Button, Reason::Command, Reason::Operation, Reason::System, Reason::OverTemperature] {
            for grace in [GraceTime::None, GraceTime::Standard] {
                for preparation in [Preparation::Needed, Preparation::Done] {
                    events.push(request(goal, reason, grace, preparation));
                }
            }
        }
    }
    events
}

/// The state with what is left of its time instead of its end.
fn rebased(state: State, now: Instant) -> State {
    let left = |until: Instant| at(until.saturating_since(now));
    match state {
        State::Running => State::Running,
        State::Grace { goal, reason, preparation, until } => {
            State::Grace { goal, reason, preparation, until: left(until) }
        }
        State::Preparing { goal, reason, until } => State::Preparing { goal, reason, until: left(until) },
        State::Stopping { goal, reason, until } => State::Stopping { goal, reason, until: left(until) },
        State::HandingOver { goal, reason, attempt, until } => {
            State::HandingOver { goal, reason, attempt, until: left(until) }
        }
        State::Halted { reason } => State::Halted { reason },
    }
}

/// The state without any time.
fn timeless(state: State) -> State {
    match state {
        State::Running => State::Running,
        State::Grace { goal, reason, preparation, .. } => State::Grace { goal, reason, preparation, until: at(0) },
        State::Preparing { goal, reason, .. } => State::Preparing { goal, reason, until: at(0) },
        State::Stopping { goal, reason, .. } => State::Stopping { goal, reason, until: at(0) },
        State::HandingOver { goal, reason, attempt, .. } => State::HandingOver { goal, reason, attempt, until: at(0) },
        State::Halted { reason } => State::Halted { reason },
    }
}

/// What the world outside knows, kept beside the state: it follows from events and actions alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct World {
    /// The strictest goal that was asked for in this shutdown.
    asked: Option<Goal>,
    /// How the engine is.
    engine: Engine,
    /// What systemd was told last.
    told: Option<Goal>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Engine {
    Runs,
    /// The stop was asked for, with so much time left.
    Stops(u64),
    /// It answered, or its time is over.
    Over,
}

const START: World = World { asked: None, engine: Engine::Runs, told: None };

impl World {
    fn pass(self, ms: u64) -> Self {
        let engine = match self.engine {
            Engine::Stops(left) if ms >= left => Engine::Over,
            Engine::Stops(left) => Engine::Stops(left - ms),
            other @ (Engine::Runs | Engine::Over) => other,
        };
        Self { engine, ..self }
    }
}

#[test]
fn every_reachable_state_keeps_the_rules() {
    let events = all_events();
    let start = (State::Running, START);
    let mut seen: HashSet<(State, World)> = HashSet::from([start]);
    let mut queue = VecDeque::from([start]);
    let mut steps = 0_u64;
    let mut most_actions = 0;
    let mut actions_seen: HashMap<std::string::String, u64> = HashMap::new();
    while let Some((state, world)) = queue.pop_front() {
        let left = state.until().map(Instant::as_ms);
        // Time classes: no time, some, the last instant before the deadline, the deadline, past it.
        let mut waits = BTreeSet::from([0, 1]);
        if let Some(left) = left {
            waits.extend([left.saturating_sub(1), left, left + 1]);
        }
        for &event in &events {
            for &wait in &waits {
                let mut sequencer = Sequencer { deadlines: SHORT, state };
                let now = at(wait);
                let actions = sequencer.step(now, event);
                let after = *sequencer.state();
                let context = format!("{state:?} {world:?} --{event:?} after {wait} ms--> {after:?} {actions:?}");
                let world = check(state, world, event, now, &actions, after, &context);
                steps += 1;
                most_actions = most_actions.max(actions.len());
                for action in &actions {
                    *actions_seen.entry(format!("{action:?}")).or_default() += 1;
                }
                let node = (rebased(after, now), world);
                if seen.insert(node) {
                    queue.push_back(node);
                }
            }
        }
    }
    assert!(most_actions < MAX_ACTIONS, "{most_actions} actions in one step");
    for wanted in [
        Action::HandOver(Goal::Reboot),
        Action::HandOver(Goal::PowerOff),
        Action::ForceHandOver(Goal::Reboot),
        Action::ForceHandOver(Goal::PowerOff),
        Action::Yield,
    ] {
        assert!(actions_seen.contains_key(&format!("{wanted:?}")), "a search that never meets {wanted:?} shows little");
    }
    let states: HashSet<State> = seen.iter().map(|(state, _)| *state).collect();
    let without_time: HashSet<State> = states.iter().map(|state| timeless(*state)).collect();
    println!("{steps} steps, {} nodes, {} states, {} without time", seen.len(), states.len(), without_time.len());
    // If a number changes, the sequencer changed: make sure that it was meant, and say so in the change log.
    assert_eq!((states.len(), without_time.len()), PINNED);
}

/// Reachable states: with the time that is left in the search's short deadlines, and without.
const PINNED: (usize, usize) = (276, 66);

/// Checks one step and answers with the world after it.
fn check(
    before: State,
    world: World,
    event: Event,
    now: Instant,
    actions: &Actions,
    after: State,
    context: &str,
) -> World {
    let in_time = before.until().is_none_or(|until| now < until);
    let mut world = world.pass(now.as_ms());
    if event == Event::EngineStopped && in_time && matches!(world.engine, Engine::Stops(_)) {
        world.engine = Engine::Over;
    }
    // A shutdown that begins, and one that begins again after everything was tried, is asked for anew.
    if matches!(before, State::Running | State::Halted { .. }) {
        world.asked = None;
        world.told = None;
    }
    // So it is if the last attempt ended in this very step.
    let ended = actions.contains(&Action::Announce(Phase::Halted));
    if let Event::Request { goal, .. } = event {
        world.asked = if ended { Some(goal) } else { world.asked.max(Some(goal)) };
    }

    // Each phase is stored first, then told, then acted on; nothing else changes the phase.
    let announced: Vec<Phase> = actions
        .iter()
        .filter_map(|action| if let Action::Announce(phase) = action { Some(*phase) } else { None })
        .collect();
    assert_eq!(announced.last().copied().unwrap_or(before.phase()), after.phase(), "{context}");
    for (index, action) in actions.iter().enumerate() {
        if let Action::Announce(phase) = action {
            assert!(
                index > 0 && matches!(actions[index - 1], Action::Store { phase: stored, .. } if stored == *phase),
                "{context}"
            );
        }
    }

    for action in actions {
        match *action {
            Action::Store { .. } | Action::Announce(_) => {}
            Action::Prepare { deadline } => {
                assert_eq!(Some(deadline), after.until(), "{context}");
                assert_eq!(world.engine, Engine::Runs, "prepared after the engine stopped: {context}");
            }
            Action::StopEngine { deadline } => {
                assert_eq!(world.engine, Engine::Runs, "stopped twice: {context}");
                assert!(deadline > now, "{context}");
                world.engine = Engine::Stops(deadline.saturating_since(now));
            }
            Action::HandOver(goal) | Action::ForceHandOver(goal) => {
                assert_eq!(world.engine, Engine::Over, "handed over before the engine's stop ended: {context}");
                assert_eq!(Some(goal), world.asked, "not what was asked for: {context}");
                // The cut hangs on this: nothing but a request to power off hands over a power-off.
                if world.asked == Some(Goal::Reboot) {
                    assert_ne!(goal, Goal::PowerOff, "{context}");
                }
                world.told = Some(goal);
            }
            Action::Yield => {
                assert_eq!(world.engine, Engine::Over, "let go before the engine's stop ended: {context}");
            }
        }
    }

    // Every state but the first and the last has a deadline, in the future and not far.
    match after {
        State::Running | State::Halted { .. } => assert_eq!(after.until(), None, "{context}"),
        State::Grace { until, .. }
        | State::Preparing { until, .. }
        | State::Stopping { until, .. }
        | State::HandingOver { until, .. } => {
            assert!(until > now && until.saturating_since(now) <= LONGEST_MS, "{context}");
        }
    }
    // From here, deadlines alone lead to the end, and over at most five states.
    if after != State::Running {
        let mut alone = Sequencer { deadlines: SHORT, state: after };
        let mut states = 0;
        while let Some(deadline) = alone.next_deadline() {
            alone.step(deadline, Event::Tick);
            states += 1;
            assert!(states <= 5, "{context}");
        }
        assert_eq!(alone.phase(), Phase::Halted, "{context}");
    }
    // A tick before the deadline does nothing.
    if event == Event::Tick && in_time {
        assert!(actions.is_empty() && after == before, "{context}");
    }
    // A cancel within the grace time always returns, and no other does anything.
    if event == Event::Cancel && in_time {
        if before.phase() == Phase::Grace {
            assert_eq!(after, State::Running, "{context}");
            assert_eq!(
                actions.as_slice(),
                [Action::Store { phase: Phase::Running, reason: None }, Action::Announce(Phase::Running)],
                "{context}"
            );
        } else {
            assert!(actions.is_empty() && after == before, "{context}");
        }
    }
    // A request that repeats what is under way, at the same time: two are one.
    if let Event::Request { .. } = event {
        let mut again = Sequencer { deadlines: SHORT, state: after };
        let more = again.step(now, event);
        assert!(more.is_empty() && *again.state() == after, "{context} then {more:?} {:?}", again.state());
    }
    // What is under way never gets weaker, and never ends later than it would have.
    if let (Some(was), Some(is)) = (before.goal(), after.goal()) {
        assert!(is >= was || ended, "{context}");
        if before.phase() == after.phase() && in_time && event != Event::HandOverFailed {
            assert_eq!(before.until(), after.until(), "{context}");
        }
    }
    // There is no way back but by a cancel, nor around the order of the phases.
    if after == State::Running {
        assert!(before == State::Running || event == Event::Cancel, "{context}");
        world = START;
    } else if before.phase() != Phase::Halted {
        assert!(after.phase() >= before.phase(), "{context}");
    }
    // The end of a goal that is known: systemd was told just that.
    if after.phase() == Phase::HandingOver && after.reason() != Some(Reason::System) {
        assert_eq!(world.told, after.goal(), "{context}");
    }
    world
}

#[test]
fn a_long_press_powers_off_step_by_step() {
    let mut power = Sequencer::new(Deadlines::default());
    let button = Some(Reason::Button);
    assert_eq!(power.next_deadline(), None);
    assert_eq!(
        power.step(at(0), request(Goal::PowerOff, Reason::Button, GraceTime::Standard, Preparation::Needed)),
        [Action::Store { phase: Phase::Grace, reason: button }, Action::Announce(Phase::Grace)]
    );
    assert_eq!(power.next_deadline(), Some(at(5_000)));
    assert!(power.step(at(4_999), Event::Tick).is_empty());
    assert_eq!(
        power.step(at(5_000), Event::Tick),
        [
            Action::Store { phase: Phase::Draining, reason: button },
            Action::Announce(Phase::Draining),
            Action::Prepare { deadline: at(125_000) }
        ]
    );
    assert_eq!(
        power.step(at(20_000), Event::Prepared),
        [
            Action::Store { phase: Phase::Stopping, reason: button },
            Action::Announce(Phase::Stopping),
            Action::StopEngine { deadline: at(80_000) }
        ]
    );
    assert_eq!(
        power.step(at(80_000), Event::Tick),
        [
            Action::Store { phase: Phase::HandingOver, reason: button },
            Action::Announce(Phase::HandingOver),
            Action::HandOver(Goal::PowerOff)
        ]
    );
    assert_eq!(power.step(at(80_100), Event::HandOverFailed).last(), Some(&Action::ForceHandOver(Goal::PowerOff)));
    assert_eq!(
        power.step(at(260_100), Event::Tick),
        [Action::Store { phase: Phase::Halted, reason: button }, Action::Announce(Phase::Halted)]
    );
    assert_eq!(power.next_deadline(), None);
}

#[test]
fn a_shutdown_of_somebody_else_is_drained_and_let_go() {
    let mut power = Sequencer::new(SHORT);
    let actions = power.step(at(0), Event::SystemStopping);
    assert_eq!(actions.last(), Some(&Action::Prepare { deadline: at(5) }));
    power.step(at(1), Event::Prepared);
    assert_eq!(power.step(at(2), Event::EngineStopped).last(), Some(&Action::Yield));
    assert_eq!(power.step(at(8), Event::Tick).last(), Some(&Action::Yield));
    assert_eq!(power.step(at(14), Event::Tick).last(), Some(&Action::Announce(Phase::Halted)));
}

#[test]
fn a_power_off_wins_over_a_reboot_that_is_under_way_and_not_the_other_way_round() {
    let reboot = request(Goal::Reboot, Reason::Command, GraceTime::None, Preparation::Done);
    let power_off = request(Goal::PowerOff, Reason::Button, GraceTime::Standard, Preparation::Needed);
    let mut power = Sequencer::new(SHORT);
    power.step(at(0), reboot);
    assert_eq!(power.step(at(1), power_off), [Action::Store { phase: Phase::Stopping, reason: Some(Reason::Button) }]);
    assert_eq!(power.step(at(2), Event::EngineStopped).last(), Some(&Action::HandOver(Goal::PowerOff)));
    assert!(power.step(at(3), reboot).is_empty());

    let mut power = Sequencer::new(SHORT);
    power.step(at(0), reboot);
    power.step(at(1), Event::EngineStopped);
    assert_eq!(power.step(at(2), power_off).last(), Some(&Action::HandOver(Goal::PowerOff)));
}

#[test]
fn a_cancel_at_the_end_of_the_grace_time_is_too_late() {
    let mut power = Sequencer::new(SHORT);
    power.step(at(0), request(Goal::Reboot, Reason::Button, GraceTime::Standard, Preparation::Done));
    power.step(at(3), Event::Cancel);
    assert_eq!(power.phase(), Phase::Stopping);
}

#[test]
fn an_outcome_that_comes_with_its_deadline_does_not_count_for_the_next_state() {
    let mut power = Sequencer::new(SHORT);
    power.step(at(0), request(Goal::Reboot, Reason::Button, GraceTime::None, Preparation::Done));
    assert_eq!(power.step(at(4), Event::EngineStopped).last(), Some(&Action::HandOver(Goal::Reboot)));
    assert_eq!(power.step(at(10), Event::HandOverFailed).last(), Some(&Action::ForceHandOver(Goal::Reboot)));
    assert_eq!(power.phase(), Phase::HandingOver);
}

#[test]
fn a_halted_pi_takes_a_new_request_and_does_not_stop_its_engine_twice() {
    let mut power = Sequencer::new(SHORT);
    power.step(at(0), request(Goal::PowerOff, Reason::Button, GraceTime::None, Preparation::Done));
    for ms in [4, 10, 16] {
        power.step(at(ms), Event::Tick);
    }
    assert_eq!(power.phase(), Phase::Halted);
    assert_eq!(
        power.step(at(99), request(Goal::Reboot, Reason::Command, GraceTime::Standard, Preparation::Needed)),
        [
            Action::Store { phase: Phase::HandingOver, reason: Some(Reason::Command) },
            Action::Announce(Phase::HandingOver),
            Action::HandOver(Goal::Reboot)
        ]
    );
}

#[test]
fn deadlines_are_checked_and_add_up() {
    assert_eq!(Deadlines::default().validate(), Ok(()));
    assert_eq!(Deadlines::default().inhibit_ms(), 190_000);
    for (deadlines, name) in [
        (Deadlines { grace_ms: 999, ..Deadlines::default() }, "grace_ms"),
        (Deadlines { grace_ms: 60_001, ..Deadlines::default() }, "grace_ms"),
        (Deadlines { prepare_ms: 0, ..Deadlines::default() }, "prepare_ms"),
        (Deadlines { stop_ms: u32::MAX, ..Deadlines::default() }, "stop_ms"),
        (Deadlines { hand_over_ms: 99_999, ..Deadlines::default() }, "hand_over_ms"),
    ] {
        assert_eq!(deadlines.validate().unwrap_err().name, name);
    }
    assert_eq!(
        Deadlines { hand_over_ms: 1, ..Deadlines::default() }.validate().unwrap_err().to_string(),
        "hand_over_ms = 1 ms must be from 100000 to 1800000 ms: systemd gives each service 90 s, and forcing it sooner \
         would cut that short"
    );
}
