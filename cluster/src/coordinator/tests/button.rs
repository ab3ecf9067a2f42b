//! What a node asks for itself, by its button.

use super::*;

#[test]
fn a_press_is_never_refused_and_rolling_work_waits_for_it() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::Reboot, None);
    let id = desk.press("b", Want::PowerOff);
    assert_eq!(desk.answered("b"), [Answer::Wait]);
    assert_eq!(desk.stored.slots, [name("a"), name("b")], "over the limit, and counted");
    desk.press_as("b", Want::PowerOff, &id);
    assert_eq!(desk.stored.operations.len(), 2, "asked again: the same");
    desk.settle();
    assert!(desk.answered("b").is_empty());
    assert!(desk.log.contains(&"drain b".to_string()));
    desk.hands_over("b");
    desk.dies("b");
    desk.settle();
    // a is done; nothing new begins while b is away
    assert_eq!(desk.stored.slots, [name("b")]);
    assert!(!desk.log.contains(&"cordon m".to_string()));
    desk.pass(30_000);
    desk.boots("b");
    desk.ready("b");
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Done, "{:?}", desk.states());
    assert!(desk.stored.cordons.is_empty() && desk.stored.slots.is_empty());
}

#[test]
fn rolling_work_begins_no_other_node_while_one_is_away_by_a_press() {
    let mut desk = Desk::with_cluster(&["a", "b", "c"]);
    desk.run(OperationKind::Reboot, None);
    desk.press("c", Want::PowerOff);
    desk.settle();
    desk.hands_over("c");
    desk.dies("c");
    desk.pass(60_000);
    assert!(desk.log.contains(&"uncordon a".to_string()), "what had begun comes to its end");
    assert!(!desk.log.contains(&"cordon b".to_string()), "{:?}", desk.log);
    desk.boots("c");
    desk.ready("c");
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Done);
    assert!(desk.log.contains(&"reboot c".to_string()) && desk.stored.slots.is_empty());
}

#[test]
fn a_node_that_cannot_be_emptied_is_let_go_undrained() {
    let mut desk = Desk::with_cluster(&["a"]);
    let id = desk.press("a", Want::Reboot);
    let (token, work) = desk.work();
    desk.kube_does(token, &work);
    desk.kube_fails("blocked-by-budget");
    assert!(desk.answered("a").contains(&Answer::GoUndrained));
    desk.settle();
    desk.press_as("a", Want::Reboot, &id);
    assert_eq!(desk.answered("a"), [Answer::Go], "asked again after the end");
    assert!(desk.is_cordoned("a"), "until it is back");
    desk.boots("a");
    desk.ready("a");
    desk.settle();
    assert!(!desk.is_cordoned("a") && desk.stored.slots.is_empty());
}

#[test]
fn a_node_whose_agent_forgot_that_it_was_to_go_is_uncordoned() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.press("a", Want::Reboot);
    let (token, work) = desk.work();
    desk.kube_does(token, &work);
    desk.nodes.get_mut(&name("a")).unwrap().start += 1;
    desk.presence(&name("a"), Connection::Online);
    desk.speak(&name("a"));
    desk.settle();
    assert!(!desk.is_cordoned("a"), "{:?}", desk.stored.cordons);
}

#[test]
fn the_masters_button_pauses_what_runs_and_switches_the_crew_off() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.run(OperationKind::Rebuild, None);
    desk.command(VerbName::Snapshot, "m");
    desk.press("m", Want::PowerOff);
    let phases: Vec<_> = desk.stored.operations.iter().map(|held| (held.kind, held.phase)).collect();
    assert_eq!(
        phases,
        [(OperationKind::Rebuild, OperationPhase::Paused), (OperationKind::Shutdown, OperationPhase::Running)]
    );
    desk.settle();
    assert!(desk.log.contains(&"power_off a".to_string()));
    assert_eq!(desk.log.last().unwrap(), "answer m", "the master is let go last");
    let refused = desk.run(OperationKind::Reset, None);
    assert_eq!(refused.code.as_str(), "one-operation-at-a-time");
    assert!(refused.text.as_str().contains("paused"), "{}", refused.text);
    assert!(!desk.log.iter().any(|line| line.starts_with("reset")));
    // after the next start it goes on
    desk.dies("m");
    desk.restart();
    desk.boots("m");
    desk.boots("a");
    desk.ready("m");
    desk.settle();
    let rebuild = desk.stored.operations.iter().find(|held| held.kind == OperationKind::Rebuild).unwrap();
    assert_eq!(rebuild.phase, OperationPhase::Done);
}

/// The cordon is the button's then; when the node is back it is needed by what was in the middle of it.
#[test]
fn a_button_in_the_middle_of_a_turn_does_not_open_the_node_for_it() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.run(OperationKind::NodeReboot, Some("a"));
    for _ in 0..2 {
        let (token, work) = desk.work();
        desk.kube_does(token, &work);
    }
    // it has not taken the command
    let reboot = desk.command(VerbName::Reboot, "a");
    desk.press("a", Want::Reboot);
    desk.settle();
    desk.hands_over("a");
    desk.dies("a");
    desk.boots("a");
    desk.result(&name("a"), &reboot, CommandStatus::Rejected, "busy");
    desk.ready("a");
    assert!(desk.works.is_empty() && desk.is_cordoned("a"), "{:?}", desk.log);
    desk.pass(5_000);
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Done, "{:?}", desk.states());
    let last: Vec<_> = desk.log.iter().skip(desk.log.len() - 2).map(String::as_str).collect();
    assert_eq!(last, ["reboot a", "uncordon a"]);
    assert!(desk.stored.cordons.is_empty() && desk.stored.slots.is_empty());
}

/// The shutdown that paused it is called off, so it stays paused; its node is back, and still empty.
#[test]
fn what_is_paused_finds_its_node_as_it_left_it() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::NodeReboot, Some("a"));
    for _ in 0..2 {
        let (token, work) = desk.work();
        desk.kube_does(token, &work);
    }
    desk.commands.clear();
    desk.deaf.insert(name("b"));
    desk.press("m", Want::PowerOff);
    desk.settle();
    assert!(!desk.nodes[&name("a")].online, "{:?}", desk.log);
    desk.ask(Ask::Abort, Mode::Execute);
    desk.deaf.clear();
    desk.pass(5_000);
    desk.settle();
    let phases: Vec<_> = desk.stored.operations.iter().map(|held| (held.kind, held.phase)).collect();
    assert!(phases.contains(&(OperationKind::NodeReboot, OperationPhase::Paused)), "{phases:?}");
    desk.boots("a");
    desk.ready("a");
    desk.settle();
    assert!(desk.is_cordoned("a") && !desk.log.contains(&"uncordon a".to_string()), "{:?}", desk.log);
    // called off too, it opens the node
    desk.ask(Ask::Abort, Mode::Execute);
    desk.pass(5_000);
    desk.settle();
    assert!(!desk.is_cordoned("a"), "{:?}", desk.log);
}

#[test]
fn a_shutdown_that_runs_is_not_paused_by_the_masters_button() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.run(OperationKind::Shutdown, None);
    desk.press("m", Want::PowerOff);
    assert_eq!(desk.answered("m"), [Answer::Wait]);
    assert_eq!(desk.stored.operations.len(), 1);
    desk.settle();
    assert_eq!(desk.log.last().unwrap(), "power_off m");
}

#[test]
fn a_leave_by_button_waits_for_what_runs_and_then_begins() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::NodeReboot, Some("b"));
    let id = desk.press("a", Want::Leave);
    assert_eq!(desk.answered("a"), [Answer::Wait]);
    desk.settle();
    desk.press_as("a", Want::Leave, &id);
    assert_eq!(desk.answered("a"), [Answer::Go]);
    desk.settle();
    assert_eq!(desk.log.last().unwrap(), "reset a");
    let operation = desk.stored.operations.last().unwrap();
    assert_eq!((operation.kind, operation.phase), (OperationKind::NodeLeave, OperationPhase::Done));
}

/// Somebody stands there: it proceeds at once, over the limit.
#[test]
fn a_leave_by_button_waits_for_no_slot() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::NodeDrain, Some("b"));
    desk.settle();
    assert_eq!(desk.stored.slots, [name("b")]);
    desk.press("a", Want::Leave);
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Done, "{:?}", desk.states());
}

/// Nobody answered its wish to leave, so it reset itself; its Node stays behind, cordoned.
#[test]
fn a_node_that_left_by_itself_holds_no_slot() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.press("a", Want::Reboot);
    desk.settle();
    desk.hands_over("a");
    desk.dies("a");
    assert_eq!(desk.stored.slots, [name("a")]);
    let played = desk.nodes.get_mut(&name("a")).unwrap();
    (played.cluster, played.lifecycle) = (None, Lifecycle::Blank);
    desk.boots("a");
    assert!(desk.stored.slots.is_empty() && desk.stored.cordons.is_empty());
}

/// Nobody answered its wish to leave, and its own reset failed: it is in no cluster, and its Node is there and cordoned.
#[test]
fn an_operator_frees_the_slot_of_one_whose_reset_failed() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.press("a", Want::Reboot);
    desk.settle();
    desk.hands_over("a");
    desk.dies("a");
    let played = desk.nodes.get_mut(&name("a")).unwrap();
    (played.cluster, played.lifecycle) = (None, Lifecycle::Broken);
    desk.boots("a");
    assert_eq!(desk.stored.slots, [name("a")]);
    assert_eq!(desk.run(OperationKind::NodeUncordon, Some("a")).status, ResponseStatus::Started);
    desk.settle();
    assert!(desk.stored.slots.is_empty() && desk.stored.cordons.is_empty());
    assert_eq!(desk.run(OperationKind::NodeUncordon, Some("a")).code.as_str(), "not-a-member");
}

/// Kept by somebody, or long under way: it arrives when the node has been silent for so long that a new card could be in it.
#[test]
fn a_state_of_a_boot_that_has_ended_is_not_heard_again() {
    let mut desk = Desk::with_cluster(&["a"]);
    let kept = NodeState { lifecycle: Lifecycle::Blank, ..desk.state_of("a") };
    desk.dies("a");
    desk.boots("a");
    desk.dies("a");
    desk.quiet(2 * SILENT_MS);
    desk.step(Event::State { node: name("a"), state: Box::new(kept.clone()) });
    assert_eq!(desk.core.state_of(&name("a")).unwrap().boot, boot(&name("a"), 2));
    // another card's
    let fresh = NodeState { boot: boot(&name("a"), 9), ..kept };
    desk.step(Event::State { node: name("a"), state: Box::new(fresh) });
    assert_eq!(desk.core.state_of(&name("a")).unwrap().boot, boot(&name("a"), 9));
}

/// Its agent restarted, and forgot its wish, before the node was cordoned for it: the answer finds nobody who waits.
#[test]
fn a_node_that_no_longer_wants_to_go_is_opened_again() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.nodes.get_mut(&name("a")).unwrap().start = 2;
    desk.speak(&name("a"));
    desk.press("a", Want::Reboot);
    desk.commands.clear();
    for _ in 0..2 {
        let (token, work) = desk.work();
        desk.kube_does(token, &work);
    }
    let go = desk.command(VerbName::Answer, "a");
    assert!(desk.is_cordoned("a"));
    desk.result(&name("a"), &go, CommandStatus::Succeeded, "unchanged");
    desk.settle();
    assert!(!desk.is_cordoned("a"));
}

/// Its cordon may just be under way, and would come after the uncordon.
#[test]
fn a_node_that_is_being_emptied_is_not_opened() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.press("a", Want::Reboot);
    assert_eq!(desk.run(OperationKind::NodeUncordon, Some("a")).code.as_str(), "going-down");
    desk.settle();
    assert!(desk.is_cordoned("a"));
}

/// An operator's uncordon was under way when the button was pressed: its end does not free the slot of who goes down.
#[test]
fn an_uncordon_that_ends_leaves_the_slot_to_a_button_pressed_meanwhile() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::NodeDrain, Some("a"));
    desk.settle();
    assert_eq!(desk.run(OperationKind::NodeUncordon, Some("a")).status, ResponseStatus::Started);
    desk.press("a", Want::Reboot);
    desk.settle();
    // its cordon waits until the uncordon cannot undo it
    desk.pass(2_000);
    desk.settle();
    assert!(desk.is_cordoned("a"));
    assert_eq!(desk.stored.slots, [name("a")]);
    desk.hands_over("a");
    desk.dies("a");
    assert_eq!(desk.run(OperationKind::NodeReboot, Some("b")).code.as_str(), "slot-held");
    desk.boots("a");
    desk.ready("a");
    desk.settle();
    assert!(!desk.is_cordoned("a") && desk.stored.slots.is_empty());
}

/// The same where what runs waits for the slot: the uncordon beside it is nobody's press, and neither is a blink of its LED.
#[test]
fn a_dead_holders_slot_is_freed_beside_what_waits_for_it() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::NodeDrain, Some("b"));
    desk.settle();
    desk.dies("b");
    desk.not_ready("b");
    desk.ask(Desk::want(OperationKind::NodeReboot, Some("a"), Force::Yes), Mode::Execute);
    desk.settle();
    assert_eq!((desk.phase(), desk.stored.slots.clone()), (OperationPhase::Running, vec![name("b")]));
    assert_eq!(desk.run(OperationKind::NodeUncordon, Some("b")).status, ResponseStatus::Started);
    assert_eq!(desk.run(OperationKind::NodeIdentify, Some("b")).status, ResponseStatus::Started);
    desk.settle();
    assert!(!desk.stored.slots.contains(&name("b")), "{:?}", desk.states());
    let reboot = desk.stored.operations.iter().find(|held| held.kind == OperationKind::NodeReboot).unwrap();
    assert_eq!(reboot.phase, OperationPhase::Done, "{:?}", reboot.steps);
}

/// A cluster that is gone takes its cordons and slots with it at once, those of an operation that still runs too.
#[test]
fn cordons_and_slots_go_with_their_cluster() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.deaf.extend([name("a"), name("m")]);
    assert_eq!(desk.run(OperationKind::Reset, None).status, ResponseStatus::Started);
    desk.settle();
    // its reset is given up, and the master's turn comes
    desk.pass(200_000);
    desk.press("a", Want::PowerOff);
    desk.settle();
    assert_eq!((desk.stored.cordons.len(), desk.stored.slots.len()), (1, 1), "{:?}", desk.states());
    desk.deaf.remove(&name("m"));
    desk.pass(2_000);
    desk.settle();
    assert!(desk.stored.cluster.is_none(), "{:?}", desk.states());
    assert!(desk.stored.operations.iter().any(|held| held.scope == Scope::Local && held.is_active()));
    assert_eq!((desk.stored.cordons.len(), desk.stored.slots.len()), (0, 0));
}

/// What waits for a slot must not keep an operator from freeing it.
#[test]
fn a_slot_is_freed_beside_what_waits_for_it() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::NodeDrain, Some("b"));
    desk.settle();
    let forced = Desk::want(OperationKind::NodeReboot, Some("a"), Force::Yes);
    for mode in [Mode::DryRun, Mode::Execute] {
        let answer = desk.ask(forced.clone(), mode);
        assert!(
            answer.text.as_str().contains("slot-held (it waits for the slot of b all the same)"),
            "{}",
            answer.text
        );
    }
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Running, "it waits for the slot of b");
    assert_eq!(desk.run(OperationKind::NodeUncordon, Some("a")).code.as_str(), "one-operation-at-a-time");
    assert_eq!(desk.run(OperationKind::NodeUncordon, Some("b")).status, ResponseStatus::Started);
    desk.settle();
    let reboot = desk.stored.operations.iter().find(|held| held.kind == OperationKind::NodeReboot).unwrap();
    assert_eq!(reboot.phase, OperationPhase::Done, "{:?}", reboot.steps);
    assert!(!desk.is_cordoned("b"));
}

#[test]
fn a_slot_is_not_waited_for_for_ever() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::NodeDrain, Some("b"));
    desk.settle();
    desk.ask(Desk::want(OperationKind::NodeReboot, Some("a"), Force::Yes), Mode::Execute);
    desk.pass(SLOT_WAIT_MS - 10_000);
    assert_eq!(desk.phase(), OperationPhase::Running);
    desk.pass(20_000);
    assert_eq!(desk.phase(), OperationPhase::Failed);
    assert!(desk.stored.operations.last().unwrap().steps[0].reason.as_str().contains("slot, held by b"));
}

/// Between the stop of an engine and the reset is no safe point: nothing would start it again.
#[test]
fn a_leave_that_is_called_off_after_its_stop_goes_on_to_its_end() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.run(OperationKind::NodeLeave, Some("a"));
    for _ in 0..2 {
        let (token, work) = desk.work();
        desk.kube_does(token, &work);
    }
    desk.ask(Ask::Abort, Mode::Execute);
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Done, "{:?}", desk.states());
    assert_eq!(desk.log.last().unwrap(), "reset a");
}

/// A leave that came no further than its stop, or a join that came half-way.
#[test]
fn create_brings_in_who_is_half_out_or_half_in() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    let mut stopped = desk.state_of("a");
    stopped.engine.run = EngineRun::Stopped;
    stopped.revision += 1;
    let mut half = desk.state_of("b");
    half.lifecycle = Lifecycle::Broken;
    half.revision += 1;
    desk.step(Event::State { node: name("a"), state: Box::new(stopped) });
    desk.step(Event::State { node: name("b"), state: Box::new(half) });
    desk.run(OperationKind::Create, None);
    let plan: Vec<String> = desk.states().iter().map(|(kind, node, _)| format!("{kind} {node}")).collect();
    let wanted = ["join a", "wait_ready a", "delete_node b", "reset b", "join b", "wait_ready b", "add_ons m"];
    assert_eq!(plan, wanted);
}
