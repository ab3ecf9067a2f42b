//! Steps that fail, and operations that are called off or taken up again.

use super::*;

#[test]
fn a_silent_node_fails_its_steps_and_the_rest_goes_on() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::Rebuild, None);
    desk.dies("b");
    desk.settle();
    assert!(!desk.log.contains(&"reset m".to_string()), "the master is reset last");
    desk.pass(SILENT_MS + 10_000);
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::PartlyDone);
    let lost: Vec<_> = desk.states().into_iter().filter(|step| step.2 != StepState::Done).collect();
    assert_eq!(
        lost,
        [
            (StepKind::Reset, "b".to_string(), StepState::Failed),
            (StepKind::Join, "b".to_string(), StepState::Skipped),
            (StepKind::WaitReady, "b".to_string(), StepState::Skipped)
        ]
    );
    // it comes back and is taken in by a resume
    desk.boots("b");
    assert_eq!(desk.membership("b"), Membership::Broken, "a member of a cluster that is no more");
    desk.log.clear();
    let resumed = desk.ask(Ask::Resume, Mode::Execute);
    assert_eq!(resumed.status, ResponseStatus::Started);
    desk.settle();
    assert_eq!(desk.log, ["reset b", "mint b", "join b"]);
    assert_eq!(desk.phase(), OperationPhase::Done);
}

#[test]
fn a_failed_step_is_tried_again_under_a_new_id_and_then_given_up() {
    let mut desk = Desk::new(&["a"]);
    desk.run(OperationKind::Create, None);
    let mut ids = BTreeSet::new();
    for attempt in 1..=ATTEMPTS {
        let command = desk.command(VerbName::Initialise, "m");
        assert!(ids.insert(command.id.clone()));
        desk.result(&name("m"), &command, CommandStatus::Failed, "disk");
        assert!(desk.commands.is_empty(), "not at once");
        desk.pass(RETRY_MS << attempt);
    }
    assert_eq!(desk.phase(), OperationPhase::Failed);
    assert!(!desk.log.contains(&"mint a".to_string()));
    let resumed = desk.ask(Ask::Resume, Mode::DryRun);
    assert_eq!((resumed.status, desk.phase()), (ResponseStatus::Planned, OperationPhase::Failed));
    desk.ask(Ask::Resume, Mode::Execute);
    let command = desk.command(VerbName::Initialise, "m");
    assert!(ids.insert(command.id.clone()), "no id is used twice");
    desk.obey(&name("m"), &command);
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Done);
}

#[test]
fn one_that_is_busy_is_asked_again_for_as_long_as_the_step_may_take() {
    let mut desk = Desk::new(&["a"]);
    desk.run(OperationKind::Create, None);
    for _ in 0..10 {
        let command = desk.command(VerbName::Initialise, "m");
        desk.result(&name("m"), &command, CommandStatus::Rejected, "busy");
        desk.pass(RETRY_MS);
    }
    assert_eq!(desk.phase(), OperationPhase::Running);
    let command = desk.command(VerbName::Initialise, "m");
    desk.result(&name("m"), &command, CommandStatus::Rejected, "insecure-wire");
    assert_eq!(desk.phase(), OperationPhase::Failed, "any other refusal is final");
}

#[test]
fn a_command_goes_out_again_under_its_id_until_it_is_answered() {
    let mut desk = Desk::new(&["a"]);
    desk.run(OperationKind::Create, None);
    let sent = |desk: &Desk| desk.last.iter().filter(|action| matches!(action, Action::Command { .. })).count();
    let first = desk.commands[0].1.clone();
    desk.now += SEND_AGAIN_MS;
    desk.step(Event::Tick);
    assert_eq!(sent(&desk), 1);
    assert_eq!(desk.commands[0].1.id, first.id);
    assert_eq!(desk.commands[0].1.expires_ms + SEND_AGAIN_MS, first.expires_ms);
    desk.result(&name("m"), &first, CommandStatus::Accepted, "accepted");
    desk.now += SEND_AGAIN_MS;
    desk.step(Event::Tick);
    assert_eq!(sent(&desk), 0, "seldom now");
    desk.now += SEND_AGAIN_ACCEPTED_MS;
    desk.step(Event::Tick);
    assert_eq!(sent(&desk), 1);
}

#[test]
fn an_abort_lets_what_runs_come_to_its_end_and_begins_nothing() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    assert_eq!(desk.ask(Ask::Abort, Mode::Execute).status, ResponseStatus::Unchanged);
    desk.run(OperationKind::Reboot, None);
    for _ in 0..2 {
        let (token, work) = desk.work();
        desk.kube_does(token, &work);
    }
    let reboot = desk.command(VerbName::Reboot, "a");
    assert_eq!(desk.ask(Ask::Abort, Mode::Execute).status, ResponseStatus::Started);
    assert_eq!(desk.phase(), OperationPhase::Aborting);
    desk.obey(&name("a"), &reboot);
    assert_eq!(desk.phase(), OperationPhase::Aborted);
    desk.settle();
    assert!(!desk.is_cordoned("a") && desk.stored.slots.is_empty());
    assert!(!desk.log.contains(&"cordon b".to_string()));
    // taken up again, what was restarted is not restarted again
    desk.log.clear();
    desk.ask(Ask::Resume, Mode::Execute);
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Done);
    assert!(!desk.log.contains(&"reboot a".to_string()) && desk.log.contains(&"reboot b".to_string()));
}
