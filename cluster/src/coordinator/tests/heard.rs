//! What is heard of nodes, what is not, and what is told of it.

use super::*;

#[test]
fn a_will_of_an_earlier_connection_counts_for_nothing() {
    let mut desk = Desk::with_cluster(&["a"]);
    let a = name("a");
    let say = |desk: &mut Desk, status, start, connection| {
        let presence = Presence { status, start, connection, reason: Text::new() };
        desk.step(Event::Presence { node: name("a"), presence });
    };
    let online = |desk: &Desk| desk.core.is_online(Instant::from_ms(desk.now), &a);
    say(&mut desk, Connection::Online, 1, 4);
    say(&mut desk, Connection::Offline, 1, 3);
    assert!(online(&desk));
    say(&mut desk, Connection::Offline, 1, 4);
    assert!(!online(&desk));
    // the word of its return was lost: who speaks long after that is there
    desk.speak(&a);
    assert!(!online(&desk), "this may have been said before");
    desk.now += BACK_AFTER_MS;
    desk.speak(&a);
    assert!(online(&desk));
    // the will was lost: who says nothing is not
    desk.quiet(SILENT_MS);
    assert!(!online(&desk));
    assert_eq!(desk.membership("a"), Membership::Lost);
}

#[test]
fn a_coordinator_that_slept_takes_nobody_for_silent() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.now += 10 * SILENT_MS;
    desk.step(Event::Tick);
    assert!(desk.core.is_online(Instant::from_ms(desk.now), &name("a")), "nobody could be heard meanwhile");
    desk.quiet(SILENT_MS);
    assert_eq!(desk.membership("a"), Membership::Lost, "and now somebody could");
}

/// While the broker is away everybody says nothing, and nobody is gone for that.
#[test]
fn a_coordinator_without_a_broker_takes_nobody_for_silent() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.quiet(SILENT_MS / 2);
    desk.step(Event::Broker(BrokerLink::Down));
    desk.quiet(10 * SILENT_MS);
    assert_eq!(desk.membership("a"), Membership::Ready, "nobody could be heard");
    desk.step(Event::Broker(BrokerLink::Up));
    desk.quiet(SILENT_MS / 2 - 1);
    assert_eq!(desk.membership("a"), Membership::Ready, "what was heard before counts, and what is heard since");
    desk.quiet(1);
    assert_eq!(desk.membership("a"), Membership::Lost);
}

/// One that it has not heard since its own start, too: a rebuild does not give it up, and reset the master before it.
#[test]
fn a_coordinator_that_starts_without_a_broker_waits_for_its_nodes() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.dies("a");
    desk.run(OperationKind::Rebuild, None);
    while desk.log.last().unwrap() != "reset a" {
        let snapshot = desk.command(VerbName::Snapshot, "m");
        desk.obey(&name("m"), &snapshot);
    }
    desk.restart();
    desk.step(Event::Broker(BrokerLink::Down));
    desk.quiet(2 * SILENT_MS);
    desk.step(Event::Broker(BrokerLink::Up));
    desk.speak(&name("m"));
    desk.quiet(SILENT_MS - 1_000);
    let reset = |desk: &Desk| {
        desk.states().into_iter().find(|(kind, node, _)| *kind == StepKind::Reset && node == "a").unwrap().2
    };
    assert_eq!(reset(&desk), StepState::Running, "{:?}", desk.states());
    desk.speak(&name("m"));
    desk.quiet(1_000);
    assert_eq!(reset(&desk), StepState::Failed, "now it could have been heard");
}

/// A rolling reboot, while of `a` neither the coordinator has heard nor the API server knows.
fn rolling_over_one_that_nobody_knows() -> Desk {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.dies("a");
    desk.restart();
    desk.view.nodes.retain(|node| node.node.as_str() != "a");
    desk.look();
    desk.pass(6_000);
    desk.run(OperationKind::Reboot, None);
    desk
}

/// A member that joined a moment before it went off: its kubelet has told nobody yet, and the coordinator has started since.
#[test]
fn a_node_that_may_just_have_joined_is_restarted_as_a_member() {
    let mut desk = rolling_over_one_that_nobody_knows();
    desk.quiet(2_000);
    assert!(desk.log.is_empty() && desk.stored.slots.is_empty(), "nobody knows anything of it: {:?}", desk.log);
    desk.boots("a");
    let reboot = desk.command(VerbName::Reboot, "a");
    desk.result(&name("a"), &reboot, CommandStatus::InProgress, "stopping");
    desk.dies("a");
    desk.boots("a");
    assert_eq!(desk.log, ["reboot a"], "it is not ready yet, so it is nobody else's turn");
    assert_eq!(desk.stored.slots, [name("a")]);
}

/// One that stays away ends the work with its name, and holds no slot: it was off before.
#[test]
fn a_node_of_which_nobody_knows_anything_ends_rolling_work_and_holds_no_slot() {
    let mut desk = rolling_over_one_that_nobody_knows();
    desk.pass(SILENT_MS + 10_000);
    assert_eq!(desk.phase(), OperationPhase::Failed);
    assert!(desk.log.is_empty() && desk.stored.slots.is_empty(), "{:?}", desk.log);
    let reason = &desk.stored.operations.last().unwrap().steps[0].reason;
    assert_eq!(reason.as_str(), "the node is silent");
}

/// It has its minute again after a time in which the coordinator was away, or had no broker.
#[test]
fn a_node_of_which_nobody_knows_anything_is_waited_for_while_somebody_listens() {
    let mut desk = rolling_over_one_that_nobody_knows();
    desk.now += 10 * SILENT_MS;
    desk.step(Event::Tick);
    desk.step(Event::Broker(BrokerLink::Down));
    desk.quiet(2 * SILENT_MS);
    desk.step(Event::Broker(BrokerLink::Up));
    desk.pass(SILENT_MS / 2);
    assert_eq!(desk.phase(), OperationPhase::Running);
    desk.pass(SILENT_MS);
    assert_eq!(desk.phase(), OperationPhase::Failed);
}

#[test]
fn an_older_state_does_not_replace_a_newer_one() {
    let mut desk = Desk::with_cluster(&["a"]);
    let old = desk.core.state_of(&name("a")).unwrap().clone();
    desk.boots("a");
    desk.step(Event::State { node: name("a"), state: Box::new(old.clone()) });
    assert_eq!(desk.core.state_of(&name("a")).unwrap().boot, boot(&name("a"), 2));
    // a new card counts from one again
    desk.quiet(SILENT_MS);
    let another = NodeState { boot: boot(&name("a"), 9), ..old };
    desk.step(Event::State { node: name("a"), state: Box::new(another) });
    assert_eq!(desk.core.state_of(&name("a")).unwrap().boot, boot(&name("a"), 9));
}

#[test]
fn strangers_cannot_grow_the_crew_without_bound() {
    let mut desk = Desk::new(&["a"]);
    for number in 0..(2 * MAX_NODES) {
        let presence = Presence { status: Connection::Online, start: 1, connection: 1, reason: Text::new() };
        desk.step(Event::Presence { node: name(&format!("s{number}")), presence });
    }
    assert_eq!(desk.stored.known.len(), MAX_NODES);
    assert_eq!(desk.core.seen.len(), MAX_NODES);
}

#[test]
fn a_crew_larger_than_the_wire_shows_is_worked_on_as_a_whole() {
    let workers: Vec<String> = (0..2 * MAX_NODES).map(|number| format!("w{number:03}")).collect();
    let workers: Vec<&str> = workers.iter().map(String::as_str).collect();
    let mut desk = Desk::with_cluster(&workers);
    assert_eq!(desk.view.nodes.len(), workers.len() + 1);
    let state = |desk: &Desk| desk.core.state(Instant::from_ms(desk.now));
    assert_eq!((state(&desk).phase, state(&desk).members.len()), (ClusterPhase::Ready, MAX_NODES));
    // one that is not shown counts all the same
    let last = *workers.last().unwrap();
    assert!(state(&desk).members.iter().all(|member| member.node.as_str() != last));
    desk.not_ready(last);
    assert_eq!(state(&desk).phase, ClusterPhase::Degraded);
    // and a stranger has no place
    let presence = Presence { status: Connection::Online, start: 1, connection: 1, reason: Text::new() };
    desk.step(Event::Presence { node: name("stranger"), presence });
    assert_eq!(desk.stored.known.len(), workers.len() + 1);
}

#[test]
fn what_a_node_waits_for_is_told_while_no_step_changes() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.deaf.insert(name("a"));
    assert_eq!(desk.run(OperationKind::NodeIdentify, Some("a")).status, ResponseStatus::Started);
    let revision = |desk: &Desk| desk.core.record().operations.last().unwrap().revision;
    let before = revision(&desk);
    desk.dies("a");
    assert_eq!(revision(&desk), before, "no step has changed");
    let reports: Vec<_> = desk
        .last
        .iter()
        .filter_map(|action| match action {
            Action::OperationNode(report) => Some((report.node.as_str(), report.reason.as_str())),
            _ => None,
        })
        .collect();
    assert_eq!(reports, [("a", "waits for the node, which is not connected")]);
}

#[test]
fn how_far_a_drain_is_is_told_in_its_step_and_only_while_it_runs() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::Reboot, None);
    let (token, work) = desk.work();
    desk.kube_does(token, &work);
    let told = |desk: &mut Desk, node: &str, text: &str| {
        desk.step(Event::Draining { node: name(node), progress: Text::cut(text) });
        desk.last.iter().find_map(|action| match action {
            Action::OperationNode(report) => Some((report.node.to_string(), report.reason.to_string())),
            _ => None,
        })
    };
    let wanted = Some(("a".to_string(), "1 of 3 pods gone, 2 ending".to_string()));
    assert_eq!(told(&mut desk, "a", "1 of 3 pods gone, 2 ending"), wanted);
    assert_eq!(told(&mut desk, "a", "1 of 3 pods gone, 2 ending"), None, "it was told already");
    assert_eq!(told(&mut desk, "b", "0 of 1 pods gone, 0 ending"), None, "nothing drains b for us");
    // what failed says it itself, and the next attempt begins with nothing
    desk.kube_fails("unreachable");
    assert_eq!(told(&mut desk, "a", "2 of 3 pods gone, 1 ending"), None);
}

#[test]
fn nothing_grows_with_the_number_of_operations() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    for _ in 0..20 {
        desk.run(OperationKind::Reboot, None);
        desk.settle();
        desk.run(OperationKind::NodeIdentify, Some("a"));
        desk.settle();
        desk.press("a", Want::Reboot);
        desk.settle();
        desk.boots("a");
        desk.ready("a");
        desk.settle();
    }
    assert!(desk.stored.ended.len() <= ENDED_OPERATIONS);
    assert_eq!(desk.stored.operations.len(), 1);
    assert!(desk.core.live.is_empty() && desk.core.kube_owners.is_empty() && desk.core.mending.is_empty());
    assert!(desk.core.told.sizes().iter().all(|size| *size <= ENDED_OPERATIONS + 1), "{:?}", desk.core.told.sizes());
}

#[test]
fn it_wakes_for_its_heartbeat_and_no_more_often_when_nothing_happens() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.all_speak();
    let now = Instant::from_ms(desk.now);
    let actions = desk.core.step(now.plus_ms(HEARTBEAT_MS), Event::Tick);
    assert!(matches!(actions.as_slice(), [Action::State(_)]), "{actions:?}");
    let next = desk.core.next_deadline(now.plus_ms(HEARTBEAT_MS));
    assert_eq!(next, now.plus_ms(2 * HEARTBEAT_MS));
}
