mod direct;

use super::*;
use alloc::borrow::ToOwned;
use alloc::vec;
use beehive_mqtt::OperationId;

/// The coordinator's.
const KEY: KeyId = KeyId([1; 8]);

fn now(ms: u64) -> Instant {
    Instant::from_ms(ms)
}

fn config(role: Role, boot: &str) -> NodeConfig {
    NodeConfig {
        role,
        destruction: Destruction::Allowed,
        boot: boot.parse().unwrap(),
        nonce: "s-1".parse().unwrap(),
        term: 1,
    }
}

fn engine(cluster: Option<&str>, run: EngineRun) -> EngineState {
    EngineState { cluster: cluster.map(|id| id.parse().unwrap()), run, version: Text::new() }
}

fn blank() -> EngineState {
    engine(None, EngineRun::Stopped)
}

fn member() -> EngineState {
    engine(Some("c1"), EngineRun::Running)
}

/// A node that has just looked at its engine.
fn node_as(role: Role, seen: EngineState) -> NodeCore {
    let (mut core, _) = NodeCore::start(now(0), config(role, "boot-a"), NodeRecord::default());
    core.step(now(0), Event::EngineSeen(seen));
    core
}

fn node(seen: EngineState) -> NodeCore {
    node_as(Role::Node, seen)
}

/// The same node after a restart of its agent, or of the Pi if `boot` is another one.
fn restarted(core: &NodeCore, boot: &str) -> (NodeCore, Vec<Action>) {
    NodeCore::start(now(0), config(core.config.role, boot), core.record().clone())
}

fn command(id: &str, verb: Verb) -> Event {
    command_of(id, 1, None, verb)
}

fn command_of(id: &str, term: u64, operation: Option<&str>, verb: Verb) -> Event {
    let command = Command {
        id: id.parse().unwrap(),
        nonce: "s-1".parse().unwrap(),
        term,
        session: 1,
        operation: operation.map(|id| id.parse::<OperationId>().unwrap()),
        expires_ms: 60_000,
        verb,
    };
    Event::Command { key: KEY, command: Box::new(command) }
}

fn join() -> Verb {
    Verb::Join {
        cluster: "c1".parse().unwrap(),
        server: Text::cut("https://m:6443"),
        version: Text::new(),
        credential: SealedCredential::new(b"secret"),
    }
}

fn done(core: &NodeCore, engine: EngineState) -> Event {
    let token = core.work.unwrap().0;
    Event::EngineEnded { token, outcome: EngineOutcome::Done { code: Text::cut("done"), detail: Text::new() }, engine }
}

fn failed(core: &NodeCore, engine: EngineState) -> Event {
    let token = core.work.unwrap().0;
    let outcome = EngineOutcome::Failed { code: Text::cut("disk"), reason: Text::cut("full") };
    Event::EngineEnded { token, outcome, engine }
}

/// What is due next, apart from looks at how long nobody was heard.
fn due(core: &NodeCore) -> Option<Instant> {
    let mut core = core.clone();
    for at in [1 << 40, 1 << 41] {
        core.silence.goes_on(now(at));
    }
    core.next_deadline()
}

fn results(actions: &[Action]) -> Vec<(CommandStatus, &str)> {
    let mut found = Vec::new();
    for action in actions {
        if let Action::Result(result) = action {
            found.push((result.status, result.code.as_str()));
        }
    }
    found
}

fn tasks(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::Engine { .. })).count()
}

fn requests(actions: &[Action]) -> Vec<&NodeRequest> {
    let mut found = Vec::new();
    for action in actions {
        if let Action::Request(request) = action {
            found.push(request);
        }
    }
    found
}

fn has_power(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::Power { .. }))
}

fn power(phase: PowerPhase) -> Event {
    Event::Power { phase, goal: Some(PowerGoal::PowerOff), reason: Text::cut("button") }
}

fn prepare() -> Event {
    Event::PrepareAsked { goal: PowerGoal::PowerOff, reason: Text::cut("button"), deadline_ms: 120_000 }
}

fn answer(request: &RequestId, answer: Answer, id: &str) -> Event {
    command(id, Verb::Answer { request: request.clone(), answer })
}

#[test]
fn a_command_is_stored_before_it_is_answered_and_begun() {
    let mut core = node(blank());
    let actions = core.step(now(1), command("c-1", join()));
    let [Action::Store(record), Action::Result(result), Action::Engine { .. }, ..] = actions.as_slice() else {
        panic!("{actions:?}");
    };
    assert_eq!(record.running.as_ref().unwrap().id.as_str(), "c-1");
    assert_eq!(result.status, CommandStatus::Accepted);
    assert_eq!(core.lifecycle(), Lifecycle::Joining);
}

#[test]
fn a_repeat_is_answered_and_not_run() {
    let mut core = node(blank());
    core.step(now(1), command("c-1", join()));
    let again = core.step(now(2), command("c-1", join()));
    assert_eq!((tasks(&again), results(&again)), (0, vec![(CommandStatus::Accepted, "accepted")]));
    let event = done(&core, member());
    let ended = core.step(now(3), event);
    assert_eq!(results(&ended), [(CommandStatus::Succeeded, "done")]);
    assert!(matches!(ended[0], Action::Store(_)), "stored before it is told");
    let again = core.step(now(4), command("c-1", join()));
    assert_eq!((tasks(&again), results(&again)), (0, vec![(CommandStatus::Succeeded, "done")]));
    assert_eq!(core.lifecycle(), Lifecycle::Member);
}

#[test]
fn a_repeat_after_a_restart_is_answered_and_not_run() {
    let mut core = node(blank());
    core.step(now(1), command("c-1", join()));
    let event = done(&core, member());
    core.step(now(2), event);
    let (mut core, _) = restarted(&core, "boot-a");
    let again = core.step(now(3), command("c-1", join()));
    assert_eq!((tasks(&again), results(&again)), (0, vec![(CommandStatus::Succeeded, "done")]));
}

#[test]
fn one_that_is_busy_rejects_and_remembers_that() {
    let mut core = node(blank());
    core.step(now(1), command("c-1", join()));
    let second = core.step(now(2), command("c-2", Verb::Reset));
    assert_eq!((tasks(&second), results(&second)), (0, vec![(CommandStatus::Rejected, "busy")]));
    let event = done(&core, member());
    core.step(now(3), event);
    // free now, but that id was answered
    let again = core.step(now(4), command("c-2", Verb::Reset));
    assert_eq!((tasks(&again), results(&again)), (0, vec![(CommandStatus::Rejected, "busy")]));
}

#[test]
fn an_old_term_is_refused_also_after_a_restart() {
    let mut core = node(blank());
    core.step(now(1), command_of("c-1", 7, None, Verb::Identify { seconds: 1 }));
    let (mut core, _) = restarted(&core, "boot-b");
    let old = core.step(now(2), command_of("c-2", 6, None, join()));
    assert_eq!((tasks(&old), results(&old)), (0, vec![(CommandStatus::Rejected, "old-term")]));
    let new = core.step(now(3), command_of("c-3", 7, None, join()));
    assert_eq!(tasks(&new), 1);
}

#[test]
fn an_insecure_wire_resets_nothing_unless_the_button_asked() {
    let mut core = node(member());
    core.config.destruction = Destruction::RefusedInsecureWire;
    let refused = core.step(now(1), command_of("c-1", 1, Some("r-1"), Verb::Reset));
    assert_eq!((tasks(&refused), results(&refused)), (0, vec![(CommandStatus::Rejected, "insecure-wire")]));
    let asked = core.step(now(2), Event::Press(Press::Reset));
    let wish = requests(&asked)[0].id.clone();
    core.step(now(3), answer(&wish, Answer::Go, "a-1"));
    let own = core.step(now(4), command_of("c-2", 1, Some(wish.as_str()), Verb::Reset));
    assert_eq!(tasks(&own), 1, "{own:?}");
    let event = done(&core, blank());
    core.step(now(5), event);
    let later = core.step(now(6), command_of("c-3", 1, Some(wish.as_str()), Verb::Reset));
    assert_eq!(results(&later), [(CommandStatus::Rejected, "insecure-wire")], "the wish was for one reset");
}

#[test]
fn after_a_restart_in_the_middle_the_engine_says_what_became_of_it() {
    let cases = [
        (join(), member(), CommandStatus::Succeeded, Lifecycle::Member),
        // half joined: it names the cluster, but nothing runs
        (join(), engine(Some("c1"), EngineRun::Stopped), CommandStatus::Interrupted, Lifecycle::Broken),
        (join(), engine(Some("other"), EngineRun::Running), CommandStatus::Interrupted, Lifecycle::Member),
        (join(), blank(), CommandStatus::Interrupted, Lifecycle::Broken),
        // a reset that was cut short shows no cluster either
        (Verb::Reset, blank(), CommandStatus::Interrupted, Lifecycle::Broken),
        (Verb::Snapshot, blank(), CommandStatus::Interrupted, Lifecycle::Blank),
    ];
    for (verb, seen, status, lifecycle) in cases {
        let mut core = node(blank());
        core.step(now(1), command("c-1", verb.clone()));
        let (mut core, first) = restarted(&core, "boot-b");
        assert!(results(&first).is_empty(), "nobody has looked yet");
        let actions = core.step(now(1), Event::EngineSeen(seen.clone()));
        assert_eq!(results(&actions)[0].0, status, "{verb:?} {seen:?}");
        assert_eq!(core.lifecycle(), lifecycle, "{verb:?} {seen:?}");
        assert!(core.running().is_none());
        let again = core.step(now(2), command("c-1", verb.clone()));
        assert_eq!((tasks(&again), results(&again)[0].0), (0, status));
    }
}

#[test]
fn a_step_that_failed_leaves_what_the_engine_shows() {
    for (verb, seen, lifecycle) in [
        (join(), engine(Some("c1"), EngineRun::Stopped), Lifecycle::Broken),
        (join(), blank(), Lifecycle::Broken),
        (join(), engine(Some("other"), EngineRun::Running), Lifecycle::Member),
        (Verb::Reset, blank(), Lifecycle::Broken),
        (Verb::Reset, member(), Lifecycle::Member),
    ] {
        let mut core = node(blank());
        core.step(now(1), command("c-1", verb.clone()));
        let event = failed(&core, seen.clone());
        let actions = core.step(now(2), event);
        assert_eq!(results(&actions), [(CommandStatus::Failed, "disk")]);
        assert_eq!(core.lifecycle(), lifecycle, "{verb:?} {seen:?}");
    }
}

fn at_version(version: &str, run: EngineRun) -> EngineState {
    EngineState { version: Text::cut(version), ..engine(Some("c1"), run) }
}

#[test]
fn an_upgrade_that_failed_starts_the_engine_again() {
    let upgrade = || command("c-1", Verb::Upgrade { version: Text::cut("v2") });
    let starts = |actions: &[Action]| {
        actions.iter().any(|action| matches!(action, Action::Engine { task: EngineTask::Start, .. }))
    };
    let mut core = node(at_version("v1", EngineRun::Running));
    core.step(now(1), upgrade());
    let event = failed(&core, at_version("v1", EngineRun::Stopped));
    let actions = core.step(now(2), event);
    assert_eq!(results(&actions), [(CommandStatus::Failed, "disk")]);
    assert!(starts(&actions));
    let busy = core.step(now(3), command("c-2", Verb::Upgrade { version: Text::cut("v2") }));
    assert_eq!(results(&busy), [(CommandStatus::Rejected, "busy")]);
    let event = done(&core, at_version("v1", EngineRun::Running));
    core.step(now(4), event);
    assert!(core.busy().is_none());

    // and again, until it does
    let mut core = node(at_version("v1", EngineRun::Running));
    core.step(now(1), upgrade());
    let event = failed(&core, at_version("v1", EngineRun::Stopped));
    core.step(now(2), event);
    let event = failed(&core, at_version("v1", EngineRun::Stopped));
    assert!(!starts(&core.step(now(3), event)));
    assert!(core.next_deadline() <= Some(now(3 + START_AGAIN_MS)));
    assert!(!starts(&core.step(now(2 + START_AGAIN_MS), Event::Tick)));
    assert!(starts(&core.step(now(3 + START_AGAIN_MS), Event::Tick)));

    // given up at its deadline: it stands still when its end is seen
    let mut core = node(at_version("v1", EngineRun::Running));
    core.step(now(1), upgrade());
    let event = failed(&core, at_version("v1", EngineRun::Stopped));
    assert!(!starts(&core.step(now(60_001), Event::Tick)));
    assert!(starts(&core.step(now(60_002), event)));

    // one that did not touch it leaves it running
    let mut core = node(at_version("v1", EngineRun::Running));
    core.step(now(1), upgrade());
    let event = failed(&core, at_version("v1", EngineRun::Running));
    assert!(!starts(&core.step(now(2), event)));
}

/// A leave that gave it up goes no further, and a member does not stand still for ever.
#[test]
fn a_stop_that_came_off_too_late_is_followed_by_a_start() {
    let stop = |id: &str| command(id, Verb::Stop);
    let starts = |actions: &[Action]| {
        actions.iter().any(|action| matches!(action, Action::Engine { task: EngineTask::Start, .. }))
    };
    // given up at its deadline, and seen to stand still after that
    let mut core = node(member());
    core.step(now(1), stop("c-1"));
    let late = done(&core, engine(Some("c1"), EngineRun::Stopped));
    let actions = core.step(now(60_001), Event::Tick);
    assert_eq!(results(&actions), [(CommandStatus::TimedOut, "expired")]);
    assert!(!starts(&core.step(now(63_000), late.clone())), "whoever told it may tell it again");
    assert!(core.next_deadline() <= Some(now(60_001 + START_AGAIN_MS)));
    assert!(starts(&core.step(now(60_001 + START_AGAIN_MS), Event::Tick)));

    // told again, it stays stopped
    let mut core = node(member());
    core.step(now(1), stop("c-1"));
    core.step(now(60_001), Event::Tick);
    core.step(now(63_000), late);
    core.step(now(64_000), stop("c-2"));
    let event = done(&core, engine(Some("c1"), EngineRun::Stopped));
    let actions = core.step(now(65_000), event);
    assert_eq!(results(&actions), [(CommandStatus::Succeeded, "done")]);
    assert!(!starts(&core.step(now(65_000 + START_AGAIN_MS), Event::Tick)));
}

#[test]
fn after_a_restart_the_version_shows_whether_an_upgrade_was_done() {
    for (seen, status) in [
        (at_version("v2", EngineRun::Running), CommandStatus::Succeeded),
        (at_version("v2", EngineRun::Stopped), CommandStatus::Interrupted),
        (at_version("v1", EngineRun::Running), CommandStatus::Interrupted),
    ] {
        let mut core = node(at_version("v1", EngineRun::Running));
        core.step(now(1), command("c-1", Verb::Upgrade { version: Text::cut("v2") }));
        let (mut core, _) = restarted(&core, "boot-b");
        let actions = core.step(now(2), Event::EngineSeen(seen.clone()));
        assert_eq!(results(&actions)[0].0, status, "{seen:?}");
    }
}

#[test]
fn a_restart_is_settled_by_the_next_boot() {
    let mut core = node(member());
    let actions = core.step(now(1), command("c-1", Verb::Reboot));
    assert_eq!(results(&actions), [(CommandStatus::InProgress, "stopping")]);
    assert!(has_power(&actions));
    let again = core.step(now(2), command("c-1", Verb::Reboot));
    assert!(!has_power(&again));
    let second = core.step(now(2), command("c-2", Verb::PowerOff));
    assert_eq!(results(&second), [(CommandStatus::Rejected, "busy")]);

    let (same, actions) = restarted(&core, "boot-a");
    assert_eq!(results(&actions), [(CommandStatus::Interrupted, "same-boot")]);
    assert!(same.running().is_none());
    let (mut next, actions) = restarted(&core, "boot-b");
    assert_eq!(results(&actions), [(CommandStatus::Succeeded, "done")]);
    let again = next.step(now(3), command("c-1", Verb::Reboot));
    assert!(!has_power(&again));
    assert_eq!(results(&again), [(CommandStatus::Succeeded, "done")]);
}

#[test]
fn a_power_off_that_the_mains_cut_short_has_not_succeeded() {
    for (phase, status) in
        [(PowerPhase::Stopping, CommandStatus::Interrupted), (PowerPhase::HandingOver, CommandStatus::Succeeded)]
    {
        let mut core = node(member());
        core.step(now(1), command("c-1", Verb::PowerOff));
        core.step(now(2), power(phase));
        let (_, actions) = restarted(&core, "boot-b");
        assert_eq!(results(&actions)[0].0, status, "{phase:?}");
    }
}

#[test]
fn a_restart_ends_what_runs() {
    let mut core = node(blank());
    core.step(now(1), command("c-1", join()));
    let actions = core.step(now(2), command("c-2", Verb::Reboot));
    assert_eq!(results(&actions), [(CommandStatus::Interrupted, "power"), (CommandStatus::InProgress, "stopping")]);
}

#[test]
fn a_command_that_takes_too_long_is_given_up_and_its_late_end_counts_for_nothing() {
    let mut core = node(blank());
    core.step(now(1), command("c-1", join()));
    let event = done(&core, member());
    assert_eq!(due(&core), Some(now(60_001)));
    assert!(core.step(now(60_000), Event::Tick).is_empty());
    let actions = core.step(now(60_001), Event::Tick);
    assert_eq!(results(&actions), [(CommandStatus::TimedOut, "expired")]);
    let late = core.step(now(60_002), event);
    assert!(results(&late).is_empty());
    assert_eq!(core.lifecycle(), Lifecycle::Member, "but the engine is where it is");
}

fn named(id: &str, nonce: &str, verb: Verb) -> Event {
    let Event::Command { key, mut command } = command(id, verb) else { unreachable!() };
    command.nonce = nonce.parse().unwrap();
    Event::Command { key, command }
}

fn blink(id: usize, nonce: &str) -> Event {
    named(&alloc::format!("c-{id}"), nonce, Verb::Identify { seconds: 1 })
}

fn renews(actions: &[Action]) -> bool {
    actions.contains(&Action::NewSession)
}

#[test]
fn the_ring_makes_room_only_with_what_ended_sessions_left() {
    let mut core = node(blank());
    core.step(now(1), command("running", join()));
    let asks: Vec<usize> = (1..RING).filter(|number| renews(&core.step(now(2), blink(*number, "s-1")))).collect();
    assert_eq!(asks, [ROTATE_AT - 1], "once, with the running one");
    // full of the present session: nothing more is taken, and nothing is forgotten
    let refused = core.step(now(3), blink(RING, "s-1"));
    assert_eq!(results(&refused), [(CommandStatus::Rejected, "busy")]);
    assert_eq!(results(&core.step(now(3), blink(1, "s-1"))), [(CommandStatus::Succeeded, "done")]);
    core.step(now(4), Event::Session("s-2".parse().unwrap()));
    for number in RING..RING + ROTATE_AT - 1 {
        assert!(!renews(&core.step(now(5), blink(number, "s-2"))));
    }
    assert_eq!(core.record().ring.len(), RING);
    assert!(core.record().remembered(KEY, &"running".parse().unwrap()).is_some());
    assert!(core.record().remembered(KEY, &"c-1".parse().unwrap()).is_none());
    // what was forgotten names a session that is over, so it does not run again
    assert_eq!(results(&core.step(now(6), blink(1, "s-1"))), [(CommandStatus::Rejected, "stale-nonce")]);
    assert!(renews(&core.step(now(7), blink(99, "s-2"))));
}

#[test]
fn a_new_session_is_asked_for_again_when_the_store_failed() {
    let mut core = node(blank());
    for number in 1..ROTATE_AT {
        assert!(!renews(&core.step(now(1), blink(number, "s-1"))));
    }
    assert!(renews(&core.step(now(2), blink(ROTATE_AT, "s-1"))));
    core.store_failed(now(2));
    assert!(renews(&core.step(now(STORE_AGAIN_MS + 3), Event::Tick)));
}

#[test]
fn an_unknown_command_runs_only_in_the_session_that_it_names() {
    let mut core = node(blank());
    let stale = core.step(now(1), named("c-1", "s-0", join()));
    assert_eq!((tasks(&stale), results(&stale)), (0, vec![(CommandStatus::Rejected, "stale-nonce")]));
    assert!(core.record().ring.is_empty(), "it was never this node's");
    let Some(Action::Result(result)) = stale.iter().find(|action| matches!(action, Action::Result(_))) else {
        panic!("{stale:?}")
    };
    assert_eq!(result.nonce.as_str(), "s-1", "the answer names the present one");
    assert_eq!(tasks(&core.step(now(2), named("c-1", "s-1", join()))), 1);
    // and in another one it is a repeat
    core.step(now(3), Event::Session("s-2".parse().unwrap()));
    let again = core.step(now(4), named("c-1", "s-1", join()));
    assert_eq!((tasks(&again), results(&again)), (0, vec![(CommandStatus::Accepted, "accepted")]));
}

#[test]
fn an_id_with_another_content_is_no_repeat() {
    let mut core = node(blank());
    core.step(now(1), command("c-1", join()));
    let event = done(&core, member());
    core.step(now(2), event);
    let before = core.record().clone();
    let reused = core.step(now(3), command("c-1", Verb::Reset));
    assert_eq!((tasks(&reused), results(&reused)), (0, vec![(CommandStatus::Rejected, "id-reused")]));
    assert!(reused.iter().any(|action| matches!(action, Action::Tell(NodeEventKind::Refused, _))));
    assert_eq!(*core.record(), before);
    // another sender's id is another id
    let Event::Command { command, .. } = command("c-1", Verb::Stop) else { unreachable!() };
    let other = core.step(now(4), Event::Command { key: KeyId([9; 8]), command });
    assert_eq!(tasks(&other), 1);
}

#[test]
fn of_the_coordinators_sessions_the_newest_counts() {
    let heard = |core: &NodeCore| core.heard().map(|heard| (heard.number, heard.nonce.as_str().to_owned()));
    let session =
        |term, number, nonce: &str| Event::Coordinator(Session { term, number, nonce: nonce.parse().unwrap() });
    let mut core = node(blank());
    assert_eq!(heard(&core), None);
    assert!(matches!(core.step(now(1), session(1, 5, "a"))[0], Action::Store(_)), "kept, or a backup could come back");
    for older in [session(1, 4, "b"), session(1, 5, "b"), session(0, 9, "b")] {
        assert!(core.step(now(2), older).is_empty());
        assert_eq!(heard(&core), Some((5, "a".into())));
    }
    // a command from before that session
    let old = |session| {
        let Event::Command { key, mut command } = command("c-9", Verb::Identify { seconds: 1 }) else { unreachable!() };
        command.session = session;
        Event::Command { key, command }
    };
    assert_eq!(results(&core.step(now(3), old(4))), [(CommandStatus::Rejected, "old-session")]);
    assert_eq!(results(&core.step(now(3), old(5))), [(CommandStatus::Succeeded, "done")]);
    core.step(now(4), session(2, 1, "c"));
    assert_eq!((heard(&core), core.record().term), (Some((1, "c".into())), 2));
    // the manifest grants another term: the old coordinator is heard no more
    core.step(now(5), Event::Term(3));
    assert!(core.step(now(6), session(2, 7, "d")).is_empty());
    let (again, _) = restarted(&core, "boot-b");
    assert_eq!(heard(&again), Some((1, "c".into())));
}

#[test]
fn a_press_in_the_grace_time_cancels_and_is_nothing_else() {
    let mut core = node(member());
    let actions = core.step(now(1), Event::Press(Press::PowerOff));
    assert!(matches!(
        actions.as_slice(),
        [Action::Power { grace: Grace::Standard, preparation: Preparation::Needed, .. }]
    ));
    core.step(now(2), power(PowerPhase::Grace));
    assert_eq!(core.step(now(3), Event::ButtonDown), [Action::CancelPower]);
    core.step(now(3), power(PowerPhase::Running));
    // its second press belongs to the same gesture
    assert!(core.step(now(4), Event::ButtonDown).is_empty());
    assert!(core.step(now(5), Event::Press(Press::Double)).is_empty());
    core.step(now(6), Event::ButtonDown);
    assert!(has_power(&core.step(now(7), Event::Press(Press::Double))));
}

#[test]
fn a_cancelling_press_that_came_to_nothing_does_not_swallow_the_next() {
    for nothing in [Some(Press::Nothing), None] {
        let mut core = node(member());
        core.step(now(2), power(PowerPhase::Grace));
        core.step(now(3), Event::ButtonDown);
        core.step(now(3), power(PowerPhase::Running));
        if let Some(press) = nothing {
            assert!(core.step(now(4), Event::Press(press)).is_empty());
        }
        let at = if nothing.is_some() { 10 } else { 3 + SWALLOW_MS };
        core.step(now(at), Event::ButtonDown);
        assert_eq!(core.step(now(at), Event::Press(Press::Short)), [Action::ShowStatus]);
    }
}

#[test]
fn a_request_is_sent_again_until_it_is_answered() {
    let mut core = node(member());
    core.step(now(0), power(PowerPhase::Draining));
    let actions = core.step(now(0), prepare());
    assert!(matches!(actions[0], Action::Store(_)), "its number is stored, so that no id is used twice");
    let request = requests(&actions)[0].clone();
    assert_eq!((request.want, request.deadline_ms), (Want::PowerOff, 120_000));
    let again = core.step(now(1_000), Event::Tick);
    assert_eq!((requests(&again)[0].id.clone(), requests(&again)[0].deadline_ms), (request.id.clone(), 119_000));
    // heard: seldom now
    core.step(now(1_100), answer(&request.id, Answer::Wait, "a-1"));
    let again = core.step(now(2_000), Event::Tick);
    assert_eq!(requests(&again).len(), 1);
    assert_eq!(due(&core), Some(now(7_000)));
    let other = "n-boot-z-9".parse().unwrap();
    let actions = core.step(now(2_100), answer(&other, Answer::Go, "a-2"));
    assert!(!actions.contains(&Action::Prepared), "not its request");
    let actions = core.step(now(2_200), answer(&request.id, Answer::Go, "a-3"));
    assert!(actions.contains(&Action::Prepared));
    assert_eq!(due(&core), None);
    // each later request has an id of its own, also after a restart
    let (mut core, _) = restarted(&core, "boot-a");
    core.step(now(0), Event::EngineSeen(member()));
    core.step(now(0), power(PowerPhase::Draining));
    assert_ne!(requests(&core.step(now(0), prepare()))[0].id, request.id);
}

#[test]
fn without_an_answer_the_node_goes_on_at_its_deadline() {
    let mut core = node(member());
    core.step(now(0), power(PowerPhase::Draining));
    core.step(now(0), prepare());
    assert!(!core.step(now(119_999), Event::Tick).contains(&Action::Prepared));
    assert_eq!(core.step(now(120_000), Event::Tick), [Action::Prepared]);
    assert_eq!(due(&core), None);
}

#[test]
fn a_node_outside_asks_nobody_but_the_master_asks_for_the_crew() {
    let mut core = node(blank());
    core.step(now(0), power(PowerPhase::Draining));
    assert_eq!(core.step(now(0), prepare()), [Action::Prepared]);
    let mut core = node_as(Role::Master, blank());
    core.step(now(0), power(PowerPhase::Draining));
    assert_eq!(requests(&core.step(now(0), prepare())).len(), 1);
}

#[test]
fn a_member_asks_to_leave_and_waits_as_long_as_the_coordinator_says_so() {
    let mut core = node(member());
    let actions = core.step(now(0), Event::Press(Press::Reset));
    let request = requests(&actions)[0].clone();
    assert_eq!(request.want, Want::Leave);
    assert!(core.step(now(10), Event::Press(Press::Reset)).is_empty(), "asked already");
    core.step(now(1_000), answer(&request.id, Answer::Wait, "a-wait"));
    // the same answer, said again: still there
    core.step(now(50_000), answer(&request.id, Answer::Wait, "a-wait"));
    assert_eq!(tasks(&core.step(now(100_000), Event::Tick)), 0);
    core.step(now(100_001), answer(&request.id, Answer::Go, "a-go"));
    assert_eq!(due(&core), None, "the coordinator sends commands now");
}

/// The button was held once more while the coordinator worked on the first wish. Once that is done nothing is left to wish for:
/// the node may be brought in again, and is not to leave then.
#[test]
fn a_second_wish_to_leave_goes_with_the_first_ones_reset() {
    let mut core = node(member());
    core.config.destruction = Destruction::RefusedInsecureWire;
    let first = requests(&core.step(now(0), Event::Press(Press::Reset)))[0].id.clone();
    core.step(now(1), answer(&first, Answer::Go, "a-go"));
    let second = requests(&core.step(now(2), Event::Press(Press::Reset)))[0].id.clone();
    core.step(now(3), answer(&second, Answer::Wait, "a-wait"));
    let reset = core.step(now(4), command_of("c-1", 1, Some(first.as_str()), Verb::Reset));
    assert_eq!(tasks(&reset), 1, "it is still what the button asked for: {reset:?}");
    let event = done(&core, blank());
    core.step(now(5), event);
    assert_eq!((core.lifecycle(), due(&core)), (Lifecycle::Blank, None));
}

/// What an operator does to the node is not what was wished for: a rebuild brings it in again, and then it leaves.
#[test]
fn a_wish_to_leave_outlives_a_reset_for_something_else() {
    let mut core = node(member());
    let wish = requests(&core.step(now(0), Event::Press(Press::Reset)))[0].id.clone();
    core.step(now(1), answer(&wish, Answer::Wait, "a-wait"));
    core.step(now(2), command_of("c-1", 1, Some("r-1"), Verb::Reset));
    let event = done(&core, blank());
    core.step(now(3), event);
    core.step(now(4), command_of("c-2", 1, Some("r-1"), join()));
    let event = done(&core, member());
    core.step(now(5), event);
    let again = core.step(now(6_000), Event::Tick);
    assert_eq!(requests(&again)[0].id, wish);
}

/// The word that the coordinator has taken a leave over was lost; its commands say so too.
#[test]
fn a_leave_whose_answer_was_lost_is_known_by_its_first_command() {
    let mut core = node(member());
    core.config.destruction = Destruction::RefusedInsecureWire;
    let failed_before = requests(&core.step(now(0), Event::Press(Press::Reset)))[0].id.clone();
    core.step(now(1), answer(&failed_before, Answer::Go, "a-go"));
    let wish = requests(&core.step(now(2), Event::Press(Press::Reset)))[0].id.clone();
    let stop = core.step(now(3), command_of("c-1", 1, Some(wish.as_str()), Verb::Stop));
    assert_eq!((tasks(&stop), due(&core)), (1, Some(now(60_003))), "it asks no more");
    let event = done(&core, engine(Some("c1"), EngineRun::Stopped));
    core.step(now(4), event);
    let reset = core.step(now(5), command_of("c-2", 1, Some(wish.as_str()), Verb::Reset));
    assert_eq!(tasks(&reset), 1, "{reset:?}");
}

#[test]
fn a_leave_that_nobody_answers_is_done_alone() {
    let mut core = node(member());
    core.step(now(0), Event::Press(Press::Reset));
    let actions = core.step(now(LEAVE_DEADLINE_MS), Event::Tick);
    assert!(matches!(actions[0], Action::Store(_)));
    assert_eq!((tasks(&actions), core.lifecycle()), (1, Lifecycle::Leaving));
    let busy = core.step(now(LEAVE_DEADLINE_MS), command("c-1", join()));
    assert_eq!(results(&busy), [(CommandStatus::Rejected, "busy")]);
    // cut in the middle: what is left is not clean, whatever it shows
    let (mut cut, _) = restarted(&core, "boot-b");
    cut.step(now(0), Event::EngineSeen(blank()));
    assert_eq!(cut.lifecycle(), Lifecycle::Broken);
    let event = done(&core, blank());
    core.step(now(LEAVE_DEADLINE_MS + 1), event);
    assert_eq!(core.lifecycle(), Lifecycle::Blank);
}

#[test]
fn a_blank_node_resets_itself_and_a_master_with_a_cluster_does_not() {
    let mut core = node(blank());
    assert_eq!(tasks(&core.step(now(0), Event::Press(Press::Reset))), 1);
    let mut core = node_as(Role::Master, member());
    let actions = core.step(now(0), Event::Press(Press::Reset));
    assert!(matches!(actions.as_slice(), [Action::Tell(NodeEventKind::Refused, text)]
        if text.as_str().contains("master-has-cluster")));
}

#[test]
fn a_node_that_goes_down_begins_nothing() {
    let mut core = node(member());
    core.step(now(0), power(PowerPhase::Grace));
    let actions = core.step(now(0), command("c-1", Verb::Snapshot));
    assert_eq!(results(&actions), [(CommandStatus::Rejected, "busy")]);
    let actions = core.step(now(0), Event::Press(Press::Reset));
    assert!(matches!(actions.as_slice(), [Action::Tell(NodeEventKind::Refused, _)]));
}

#[test]
fn the_last_shutdown_is_told_at_the_next_boot() {
    let mut core = node(member());
    core.step(now(0), power(PowerPhase::Stopping));
    core.step(now(0), power(PowerPhase::HandingOver));
    let (next, _) = restarted(&core, "boot-b");
    let last = next.last_shutdown().unwrap();
    assert_eq!((last.reason.as_str(), last.outcome), ("button", ShutdownOutcome::Orderly));
    let (cut, _) = restarted(&next, "boot-c");
    let last = cut.last_shutdown().unwrap();
    assert_eq!((last.reason.as_str(), last.outcome), ("power lost", ShutdownOutcome::Interrupted));
    let (same, _) = restarted(&cut, "boot-c");
    assert!(same.last_shutdown().is_none());
}

#[test]
fn what_a_failed_store_held_up_follows_once_it_is_stored() {
    let mut core = node(blank());
    let actions = core.step(now(0), command("c-1", join()));
    assert_eq!(tasks(&actions), 1);
    core.store_failed(now(0));
    assert_eq!(due(&core), Some(now(STORE_AGAIN_MS)));
    // the button works although nothing can be stored
    let press = core.step(now(10), Event::Press(Press::Short));
    assert!(matches!(press[0], Action::ShowStatus));
    core.store_failed(now(10));
    // a repeat is not answered with what the card does not know
    let again = core.step(now(20), command("c-1", join()));
    assert!(matches!(again.as_slice(), [Action::Store(_), Action::Engine { .. }, Action::Result(_)]), "{again:?}");
    // stored now, and begun once
    let again = core.step(now(30), command("c-1", join()));
    assert_eq!((tasks(&again), again.len()), (0, 1));
}

#[test]
fn work_that_expired_while_nothing_could_be_stored_is_not_begun() {
    let mut core = node(blank());
    core.step(now(0), command("c-1", join()));
    core.store_failed(now(0));
    let actions = core.step(now(60_000), Event::Tick);
    assert_eq!((tasks(&actions), results(&actions)), (0, vec![(CommandStatus::TimedOut, "expired")]));
}

#[test]
fn a_command_to_go_down_survives_a_failed_store() {
    let mut core = node(member());
    assert!(has_power(&core.step(now(0), command("c-1", Verb::Reboot))));
    core.store_failed(now(0));
    let actions = core.step(now(STORE_AGAIN_MS), Event::Tick);
    assert!(matches!(actions.as_slice(), [Action::Store(_), Action::Power { .. }]), "{actions:?}");
    assert!(core.step(now(STORE_AGAIN_MS + 1), Event::Tick).is_empty());
}

#[test]
fn a_reset_by_button_is_not_cut_short_by_a_command_to_go_down() {
    for verb in [Verb::PowerOff, Verb::Reboot] {
        let mut core = node(blank());
        assert_eq!(tasks(&core.step(now(0), Event::Press(Press::Reset))), 1);
        let actions = core.step(now(1), command("c-1", verb.clone()));
        assert_eq!(results(&actions), [(CommandStatus::Rejected, "busy")]);
        assert!(!has_power(&actions) && core.running().is_none());
        let end = done(&core, blank());
        core.step(now(2), end);
        assert_eq!(core.lifecycle(), Lifecycle::Blank);
        assert!(has_power(&core.step(now(3), command("c-2", verb))), "whoever asks again finds it ready");
    }
}

#[test]
fn a_reset_by_button_that_waits_for_its_store_does_not_begin_beside_a_power_off() {
    let mut core = node(blank());
    core.step(now(0), Event::Press(Press::Reset));
    core.store_failed(now(0));
    let actions = core.step(now(10), command("c-1", Verb::PowerOff));
    assert_eq!((tasks(&actions), has_power(&actions)), (1, false), "{actions:?}");
    assert_eq!(results(&actions), [(CommandStatus::Rejected, "busy")]);
}

#[test]
fn what_waits_for_its_store_does_not_begin_on_a_pi_that_goes_down() {
    let ways = [
        (Event::Press(Press::PowerOff), 0),
        (Event::Press(Press::Double), 0),
        (Event::SystemStopping, 0),
        // by the sequencer's word alone, and this one is stored
        (power(PowerPhase::Draining), 1),
    ];
    for (way, stored_at) in ways {
        let mut core = node(blank());
        core.step(now(0), Event::Press(Press::Reset));
        core.store_failed(now(0));
        let actions = core.step(now(10), way.clone());
        assert_eq!(tasks(&actions), 0, "{way:?}");
        // the going down waits for no store
        assert_eq!(matches!(actions[0], Action::Power { .. } | Action::FollowSystem), stored_at == 0, "{actions:?}");
        let told = |action: &Action| matches!(action, Action::Tell(NodeEventKind::Refused, _));
        assert!(actions.iter().any(told), "{actions:?}");
        assert_eq!(core.lifecycle(), Lifecycle::Blank, "nothing has begun");

        let mut core = node(blank());
        core.step(now(0), command("c-1", join()));
        core.store_failed(now(0));
        let actions = core.step(now(10), way.clone());
        assert_eq!((tasks(&actions), results(&actions)), (0, vec![(CommandStatus::Rejected, "busy")]), "{way:?}");
        assert_eq!((core.lifecycle(), core.running()), (Lifecycle::Blank, None));
        // the card fails again: it is stored later, and nothing begins then either
        core.store_failed(now(10));
        assert_eq!(tasks(&core.step(now(10 + STORE_AGAIN_MS), Event::Tick)), 0);
        let again = core.step(now(2_000), command("c-1", join()));
        assert_eq!((tasks(&again), results(&again)), (0, vec![(CommandStatus::Rejected, "busy")]));
    }
}

#[test]
fn what_has_begun_is_not_given_up_because_a_later_store_failed() {
    let mut core = node(blank());
    core.step(now(0), Event::Press(Press::Reset));
    core.step(now(1), command("c-1", Verb::Identify { seconds: 1 }));
    core.store_failed(now(1));
    core.step(now(2), Event::Press(Press::PowerOff));
    assert_eq!(core.lifecycle(), Lifecycle::Leaving);
    let end = done(&core, blank());
    core.step(now(3), end);
    assert_eq!(core.lifecycle(), Lifecycle::Blank);
}

#[test]
fn a_node_writes_in_the_version_of_the_coordinators_state() {
    use beehive_mqtt::ProtocolVersion::{V1, V2};
    let session = |number: u64| Session { term: 1, number, nonce: "s".parse().unwrap() };
    let (mut core, _) = NodeCore::start(now(0), config(Role::Node, "b1"), NodeRecord::default());
    assert_eq!(core.writes(), V1, "nobody was heard");
    core.step(now(1), Event::Coordinator(session(2)));
    core.follow(&session(2), V2);
    assert_eq!(core.writes(), V2);
    // set back to the program before: its next session is heard at once, and what the one before had said no more
    core.step(now(2), Event::Coordinator(session(3)));
    core.follow(&session(3), V1);
    assert_eq!(core.writes(), V1);
    core.follow(&session(2), V2);
    assert_eq!(core.writes(), V1);
    // restored from an old backup, and set back: its session is an old one, and it has to read us to learn that
    core.follow(&session(3), V2);
    core.follow(&session(1), V1);
    assert_eq!(core.writes(), V1);
}
