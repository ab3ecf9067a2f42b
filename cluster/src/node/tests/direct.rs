//! An operator's requests without a coordinator.

use super::*;
use alloc::format;
use beehive_mqtt::direct::DirectVerb;

/// The operator's.
const OPS: KeyId = KeyId([7; 8]);

const QUIET: u64 = DIRECT_QUIET_MS;

fn direct_of(id: &str, nonce: &str, role: Option<UserRole>, verb: DirectVerb) -> Event {
    let request = Box::new(DirectRequest { id: id.parse().unwrap(), nonce: nonce.parse().unwrap(), verb });
    Event::Direct { user: "ann".parse().unwrap(), key: OPS, role, request }
}

fn direct(id: &str, verb: DirectVerb) -> Event {
    direct_of(id, "s-1", Some(UserRole::Operator), verb)
}

const BLINK: DirectVerb = DirectVerb::Identify { seconds: 10 };

/// Lets time pass as a caller does: each time that is due is looked at.
fn pass(core: &mut NodeCore, from_ms: u64, to_ms: u64) {
    let mut at = now(from_ms);
    while let Some(due) = core.next_deadline().filter(|due| *due <= now(to_ms)) {
        at = at.max(due);
        core.step(at, Event::Tick);
    }
}

/// A node that has heard nobody since it started, for long enough.
fn alone(role: Role, seen: EngineState) -> NodeCore {
    let mut core = node_as(role, seen);
    pass(&mut core, 0, QUIET);
    core
}

fn heard(number: u64) -> Event {
    Event::Coordinator(Session { term: 1, number, nonce: "c-1".parse().unwrap() })
}

fn blinks(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::Identify { .. })).count()
}

fn refusals(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::Tell(NodeEventKind::Refused, _))).count()
}

#[test]
fn it_is_refused_while_a_coordinator_was_heard_or_could_have_been() {
    let mut core = node(member());
    let early = core.step(now(QUIET - 1), direct("direct-1", BLINK));
    assert_eq!((results(&early), refusals(&early)), (vec![(CommandStatus::Rejected, "coordinator-alive")], 1));
    // a refusal stays one: a copy of it that comes late does nothing
    pass(&mut core, QUIET - 1, QUIET);
    let late = core.step(now(2 * QUIET), direct("direct-1", BLINK));
    assert_eq!((results(&late), blinks(&late)), (vec![(CommandStatus::Rejected, "coordinator-alive")], 0));
    let other = core.step(now(2 * QUIET), direct("direct-2", BLINK));
    assert_eq!((results(&other), blinks(&other)), (vec![(CommandStatus::Succeeded, "done")], 1));

    let mut at = 2 * QUIET;
    for (number, sign) in
        [heard(1), heard(1), heard(0), Event::Listening, command("c-1", Verb::Identify { seconds: 1 })]
            .into_iter()
            .enumerate()
    {
        core.step(now(at), sign);
        pass(&mut core, at, at + QUIET - 1);
        let soon = core.step(now(at + QUIET - 1), direct(&format!("direct-soon-{number}"), BLINK));
        assert_eq!(results(&soon), [(CommandStatus::Rejected, "coordinator-alive")], "{number}");
        pass(&mut core, at + QUIET - 1, at + QUIET);
        let then = core.step(now(at + QUIET), direct(&format!("direct-then-{number}"), BLINK));
        assert_eq!(results(&then), [(CommandStatus::Succeeded, "done")], "{number}");
        at += 2 * QUIET;
    }
}

#[test]
fn who_coordinates_no_more_keeps_nobody_away() {
    let mut core = alone(Role::Node, member());
    core.step(now(QUIET), Event::Term(2));
    core.step(now(QUIET), heard(9));
    let done = core.step(now(QUIET), direct("direct-1", BLINK));
    assert_eq!(results(&done), [(CommandStatus::Succeeded, "done")]);
}

#[test]
fn a_clock_that_leaps_is_no_silence() {
    let mut core = node(member());
    core.step(now(1_000), heard(1));
    // a heartbeat is almost due, and the clock leaps by minutes
    let at = 1_000 + beehive_mqtt::HEARTBEAT_MS - 1 + 300_000;
    let refused = core.step(now(at), direct("direct-1", BLINK));
    assert_eq!(results(&refused), [(CommandStatus::Rejected, "coordinator-alive")]);
}

#[test]
fn it_is_refused_beside_an_unfinished_command_and_beside_what_the_button_began() {
    let mut core = alone(Role::Node, blank());
    core.step(now(QUIET), command("c-1", join()));
    pass(&mut core, QUIET, 2 * QUIET - 1);
    // it runs, and its coordinator has fallen silent
    let at = now(2 * QUIET);
    let refused = core.step(at, direct("direct-1", DirectVerb::PowerOff));
    assert_eq!(results(&refused), [(CommandStatus::Rejected, "command-unfinished")]);
    assert!(!has_power(&refused));
    // a restart of the agent does not end it before it has looked at its engine
    let (mut again, _) = restarted(&core, "boot-a");
    pass(&mut again, 0, QUIET);
    let refused = again.step(now(QUIET), direct("direct-2", DirectVerb::Reboot));
    assert_eq!(results(&refused), [(CommandStatus::Rejected, "command-unfinished")]);

    let mut core = alone(Role::Node, engine(Some("c1"), EngineRun::Stopped));
    core.step(now(QUIET), Event::Press(Press::Reset));
    let refused = core.step(now(QUIET), direct("direct-1", DirectVerb::Reboot));
    assert_eq!(results(&refused), [(CommandStatus::Rejected, "busy")]);
    let mut core = alone(Role::Node, member());
    core.step(now(QUIET), power(PowerPhase::Grace));
    let refused = core.step(now(QUIET), direct("direct-1", DirectVerb::Reboot));
    assert_eq!(results(&refused), [(CommandStatus::Rejected, "going-down")]);
}

#[test]
fn it_is_stored_before_it_is_done_and_goes_down_as_after_a_press() {
    let mut core = alone(Role::Node, member());
    let actions = core.step(now(QUIET), direct("direct-1", DirectVerb::PowerOff));
    let [
        Action::Store(record),
        Action::Tell(NodeEventKind::Direct, told),
        Action::Result(result),
        Action::Power { .. },
    ] = actions.as_slice()
    else {
        panic!("{actions:?}");
    };
    assert_eq!(record.running.as_ref().unwrap().id.as_str(), "direct-1");
    assert!(told.as_str().contains("ann") && told.as_str().contains("power_off"), "{told}");
    assert_eq!((result.status, result.code.as_str()), (CommandStatus::InProgress, "stopping"));
    let last = Action::Power {
        goal: PowerGoal::PowerOff,
        reason: Text::cut("direct"),
        grace: Grace::None,
        preparation: Preparation::Needed,
    };
    assert_eq!(actions[3], last);
    // emptied if somebody does it, and on without an answer
    core.step(now(QUIET), power(PowerPhase::Draining));
    let asked = core.step(now(QUIET), prepare());
    assert_eq!(requests(&asked).len(), 1);
    let end = core.step(now(QUIET + 120_000), Event::Tick);
    assert!(end.contains(&Action::Prepared), "{end:?}");
    // nobody who comes back meanwhile gets a command through
    let command = core.step(now(QUIET + 120_000), command("c-1", Verb::Reset));
    assert_eq!(results(&command), [(CommandStatus::Rejected, "busy")]);
}

#[test]
fn a_coordinator_that_comes_back_empties_the_node_that_goes() {
    let mut core = alone(Role::Node, member());
    core.step(now(QUIET), direct("direct-1", DirectVerb::Reboot));
    core.step(now(QUIET), power(PowerPhase::Draining));
    let asked = core.step(now(QUIET), prepare());
    let id = requests(&asked)[0].id.clone();
    core.step(now(QUIET + 1), heard(1));
    core.step(now(QUIET + 2), answer(&id, Answer::Wait, "w-1"));
    let go = core.step(now(QUIET + 9), answer(&id, Answer::Go, "g-1"));
    assert!(go.contains(&Action::Prepared), "{go:?}");
}

#[test]
fn the_master_goes_alone_and_asks_nobody() {
    for verb in [DirectVerb::Reboot, DirectVerb::PowerOff] {
        let mut core = alone(Role::Master, member());
        let actions = core.step(now(QUIET), direct("direct-1", verb));
        let done = |action: &Action| matches!(action, Action::Power { preparation: Preparation::Done, .. });
        assert!(actions.iter().any(done), "a wish of the master's is one to switch the crew off: {actions:?}");
    }
}

#[test]
fn it_runs_once_however_often_it_comes() {
    let mut core = alone(Role::Node, member());
    assert!(has_power(&core.step(now(QUIET), direct("direct-1", DirectVerb::Reboot))));
    let again = core.step(now(QUIET + 1), direct("direct-1", DirectVerb::Reboot));
    assert_eq!((results(&again), has_power(&again)), (vec![(CommandStatus::InProgress, "stopping")], false));
    let other = core.step(now(QUIET + 1), direct("direct-1", DirectVerb::PowerOff));
    assert_eq!(
        (results(&other), refusals(&other), has_power(&other)),
        (vec![(CommandStatus::Rejected, "id-reused")], 1, false)
    );
    let second = core.step(now(QUIET + 1), direct("direct-2", DirectVerb::PowerOff));
    assert_eq!(results(&second), [(CommandStatus::Rejected, "command-unfinished")]);

    // the agent died before the Pi went, or the Pi is back: it is not done again
    for (boot, outcome) in
        [("boot-a", (CommandStatus::Interrupted, "same-boot")), ("boot-b", (CommandStatus::Succeeded, "done"))]
    {
        let (mut next, first) = restarted(&core, boot);
        assert_eq!(results(&first), [outcome]);
        pass(&mut next, 0, QUIET);
        // in whatever session: the id is known
        let again = next.step(now(QUIET), direct_of("direct-1", "s-2", Some(UserRole::Operator), DirectVerb::Reboot));
        assert_eq!((results(&again), has_power(&again)), (vec![outcome], false), "{boot}");
    }
}

#[test]
fn what_names_another_session_another_kind_of_id_or_no_operator_does_nothing() {
    let mut core = alone(Role::Node, member());
    let before = core.record().clone();
    let operator = Some(UserRole::Operator);
    for (event, code) in [
        (direct_of("direct-1", "s-0", operator, DirectVerb::Reboot), "stale-nonce"),
        (direct_of("op-1-1", "s-1", operator, DirectVerb::Reboot), "bad-id"),
        (direct_of("direct-1", "s-1", Some(UserRole::Bridge), DirectVerb::Reboot), "not-authorised"),
        (direct_of("direct-1", "s-1", Some(UserRole::ReadOnly), BLINK), "not-authorised"),
        (direct_of("direct-1", "s-1", None, BLINK), "not-authorised"),
    ] {
        let actions = core.step(now(QUIET), event);
        assert_eq!(results(&actions), [(CommandStatus::Rejected, code)]);
        assert!(!has_power(&actions) && blinks(&actions) == 0, "{actions:?}");
        assert_eq!(*core.record(), before, "{code}");
    }
}

#[test]
fn of_a_power_cut_in_the_middle_it_does_not_say_that_it_went_well() {
    let mut core = alone(Role::Node, member());
    core.step(now(QUIET), direct("direct-1", DirectVerb::PowerOff));
    core.step(now(QUIET), power(PowerPhase::Draining));
    let (_, first) = restarted(&core, "boot-b");
    assert_eq!(results(&first), [(CommandStatus::Interrupted, "power")]);
}

#[test]
fn what_could_not_be_stored_is_done_once_it_can_be() {
    let mut core = alone(Role::Node, member());
    core.step(now(QUIET), direct("direct-1", DirectVerb::Reboot));
    core.store_failed(now(QUIET));
    let later = core.step(now(QUIET + STORE_AGAIN_MS), Event::Tick);
    assert!(matches!(later[0], Action::Store(_)) && has_power(&later), "{later:?}");
    let again = core.step(now(QUIET + 5_000), direct("direct-1", DirectVerb::Reboot));
    assert!(!has_power(&again), "{again:?}");
}
