//! Cordons and slots: whose they are, and when they are given back.

use super::*;

#[test]
fn a_cordon_of_others_is_left_alone() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.kube_node("a").scheduling = Scheduling::Cordoned;
    desk.look();
    assert_eq!(desk.membership("a"), Membership::CordonedByOthers);
    let refused = desk.run(OperationKind::NodeUncordon, Some("a"));
    assert_eq!(refused.code.as_str(), "cordoned-by-others");
    desk.run(OperationKind::Reboot, None);
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Done);
    assert!(!desk.log.contains(&"uncordon a".to_string()) && !desk.log.contains(&"cordon a".to_string()));
    assert!(desk.log.contains(&"reboot a".to_string()) && desk.is_cordoned("a"));
    assert!(desk.stored.slots.is_empty());
    desk.ask(Desk::want(OperationKind::NodeUncordon, Some("a"), Force::Yes), Mode::Execute);
    desk.settle();
    assert!(!desk.is_cordoned("a"));
}

/// The API server does not answer when the operator asks, so nobody can tell whose cordon it is.
#[test]
fn a_slot_is_freed_without_an_answer_and_a_cordon_of_others_stays() {
    let mut desk = slot_of_one_that_others_cordoned();
    let view = desk.api_server_goes();
    assert_eq!(desk.run(OperationKind::NodeUncordon, Some("a")).status, ResponseStatus::Started);
    assert_eq!(desk.phase(), OperationPhase::Done, "{:?}", desk.states());
    assert!(desk.stored.slots.is_empty());
    // asked again without a slot: nothing is ours, and nobody claims to know the rest
    let again = desk.run(OperationKind::NodeUncordon, Some("a"));
    assert_eq!(again.status, ResponseStatus::Unchanged);
    assert!(!again.text.as_str().contains("is not cordoned"), "{}", again.text);
    desk.view = view;
    desk.restart();
    desk.all_speak();
    desk.look();
    desk.pass(60_000);
    assert!(desk.log.is_empty() && desk.is_cordoned("a"), "{:?}", desk.log);
}

#[test]
fn a_slot_is_freed_under_a_cordon_of_others() {
    let mut desk = slot_of_one_that_others_cordoned();
    let reply = desk.run(OperationKind::NodeUncordon, Some("a"));
    assert_eq!(reply.status, ResponseStatus::Started);
    assert!(reply.text.as_str().contains("somebody else"), "{}", reply.text);
    assert_eq!(desk.phase(), OperationPhase::Done);
    assert!(desk.stored.slots.is_empty() && desk.log.is_empty(), "{:?}", desk.log);
    assert_eq!(desk.membership("a"), Membership::CordonedByOthers, "and it is told so");
    assert_eq!(desk.run(OperationKind::NodeUncordon, Some("a")).code.as_str(), "cordoned-by-others");
}

/// Whether it was forced is known after a restart too, and an operation of a record that does not say so was not.
#[test]
fn a_forced_uncordon_waits_for_the_api_server_and_opens_what_others_cordoned() {
    let mut desk = slot_of_one_that_others_cordoned();
    let view = desk.api_server_goes();
    desk.ask(Desk::want(OperationKind::NodeUncordon, Some("a"), Force::Yes), Mode::Execute);
    desk.kube_fails("unreachable");
    assert_eq!(desk.stored.operations.last().unwrap().heeds, Heeds::Nothing);
    let unforced = {
        let mut record = desk.stored.clone();
        record.operations.last_mut().unwrap().heeds = Heeds::default();
        record
    };
    let forced = core::mem::replace(&mut desk.stored, unforced);
    desk.log.clear();
    desk.restart();
    desk.all_speak();
    assert!(desk.log.is_empty() && desk.stored.slots.is_empty(), "{:?}", desk.log);
    desk.stored = forced;
    desk.restart();
    desk.all_speak();
    desk.view = view;
    desk.look();
    desk.settle();
    assert!(!desk.is_cordoned("a") && desk.stored.slots.is_empty());
    assert_eq!(desk.log, ["uncordon a"]);
}

/// What we cordoned is in the record, whatever Kubernetes says, and is opened as soon as it can be.
#[test]
fn our_own_cordon_is_opened_as_soon_as_the_api_server_answers() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::NodeDrain, Some("a"));
    desk.settle();
    let view = desk.api_server_goes();
    assert_eq!(desk.run(OperationKind::NodeUncordon, Some("a")).status, ResponseStatus::Started);
    desk.kube_fails("unreachable");
    assert_eq!((&desk.stored.slots, desk.stored.cordons.len()), (&vec![name("a")], 1), "it is cordoned, and counts");
    desk.view = view;
    desk.look();
    desk.pass(RETRY_MS);
    desk.settle();
    assert_eq!((desk.phase(), desk.is_cordoned("a")), (OperationPhase::Done, false));
    assert!(desk.stored.slots.is_empty() && desk.stored.cordons.is_empty());
}

/// Our cordon without a slot, that of a shutdown, is not taken for none because nobody answers.
#[test]
fn our_own_cordon_is_not_taken_for_none_while_the_api_server_is_silent() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::Shutdown, None);
    let (token, work) = desk.work();
    assert_eq!(work, KubeWork::Cordon(name("a")));
    desk.kube_does(token, &work);
    desk.settle();
    assert!(desk.stored.slots.is_empty() && desk.stored.cordons.iter().any(|cordon| cordon.node == name("a")));
    desk.restart();
    desk.boots("m");
    desk.boots("a");
    desk.pass(6_000);
    assert_eq!(desk.run(OperationKind::NodeUncordon, Some("a")).status, ResponseStatus::Started);
}

/// A crew in which `a` is away with a slot, and somebody else has cordoned it.
fn slot_of_one_that_others_cordoned() -> Desk {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.kube_node("a").scheduling = Scheduling::Cordoned;
    desk.look();
    desk.run(OperationKind::NodeShutdown, Some("a"));
    desk.settle();
    desk.not_ready("a");
    assert_eq!((&desk.stored.slots, desk.stored.cordons.len()), (&vec![name("a")], 0));
    desk.log.clear();
    desk
}

#[test]
fn a_failed_drain_is_undone_at_once() {
    for code in ["blocked-by-budget", "refused", "forbidden", "timed-out", "other-cluster"] {
        a_drain_that_fails_is_undone(code);
    }
}

fn a_drain_that_fails_is_undone(code: &'static str) {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::Reboot, None);
    let (token, work) = desk.work();
    desk.kube_does(token, &work);
    // what would be refused again is not tried again
    desk.kube_fails(code);
    assert_eq!(desk.phase(), OperationPhase::Failed, "{code}");
    assert_eq!(desk.log.last().unwrap(), "uncordon a");
    // also after a crash, and again until it comes off
    desk.restart();
    desk.all_speak();
    desk.look();
    desk.kube_fails("unreachable");
    desk.pass(6_000);
    desk.settle();
    assert!(!desk.is_cordoned("a") && desk.stored.cordons.is_empty() && desk.stored.slots.is_empty());
    assert!(!desk.log.contains(&"cordon b".to_string()), "nothing begins after an essential step has failed");
}

#[test]
fn no_drain_and_no_cordon_while_nobody_knows_who_is_cordoned() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.restart();
    desk.pass(6_000);
    desk.run(OperationKind::NodeReboot, Some("a"));
    desk.pass(10_000);
    assert!(desk.log.is_empty(), "{:?}", desk.log);
    desk.look();
    desk.pass(3_000);
    assert_eq!(desk.log, ["cordon a"]);
}

#[test]
fn a_dead_holder_keeps_its_slot_until_it_is_back() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::NodeReboot, Some("a"));
    for _ in 0..2 {
        let (token, work) = desk.work();
        desk.kube_does(token, &work);
    }
    let reboot = desk.command(VerbName::Reboot, "a");
    desk.result(&name("a"), &reboot, CommandStatus::InProgress, "stopping");
    desk.dies("a");
    desk.not_ready("a");
    desk.pass(limit_ms(StepKind::Reboot, 0) + 1_000);
    assert_eq!(desk.phase(), OperationPhase::Failed);
    desk.settle();
    assert_eq!((desk.is_cordoned("a"), &desk.stored.slots), (false, &vec![name("a")]));
    let refused = desk.run(OperationKind::Reboot, None);
    assert_eq!((refused.status, refused.code.as_str()), (ResponseStatus::Refused, "slot-held"));
    desk.restart();
    desk.all_speak();
    desk.look();
    assert_eq!(desk.stored.slots, [name("a")]);
    desk.boots("a");
    assert_eq!(desk.stored.slots, [name("a")], "Kubernetes has not seen it");
    desk.ready("a");
    assert!(desk.stored.slots.is_empty());
}

#[test]
fn an_operator_frees_the_slot_of_one_that_never_returns() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::NodeShutdown, Some("a"));
    desk.settle();
    assert_eq!((desk.phase(), desk.stored.slots.len()), (OperationPhase::Done, 1));
    desk.not_ready("a");
    desk.run(OperationKind::NodeUncordon, Some("a"));
    desk.settle();
    assert!(desk.stored.slots.is_empty() && desk.stored.cordons.is_empty());
}

/// Of three, two may be away: what an operator starts takes the two slots, and a button is over the limit all the same.
#[test]
fn as_many_are_away_as_may_be_and_no_more() {
    let mut desk = Desk::with_cluster(&["a", "b", "c", "d"]);
    desk.max_unavailable = 2;
    desk.restart();
    desk.all_speak();
    desk.look();
    for (node, away) in [("a", 1), ("b", 2)] {
        assert_eq!(desk.run(OperationKind::NodeDrain, Some(node)).status, ResponseStatus::Started);
        desk.settle();
        assert_eq!(desk.stored.slots.len(), away);
    }
    assert_eq!(desk.run(OperationKind::NodeDrain, Some("c")).code.as_str(), "slot-held");
    assert_eq!(desk.run(OperationKind::Reboot, None).code.as_str(), "slot-held");
    desk.press("c", Want::PowerOff);
    assert_eq!(desk.stored.slots, [name("a"), name("b"), name("c")]);
    desk.settle();
    desk.hands_over("c");
    desk.dies("c");
    // one slot is not enough while a third is away
    desk.run(OperationKind::NodeUncordon, Some("a"));
    desk.settle();
    assert_eq!(desk.run(OperationKind::NodeDrain, Some("d")).code.as_str(), "slot-held");
    desk.run(OperationKind::NodeUncordon, Some("b"));
    desk.settle();
    assert_eq!(desk.run(OperationKind::NodeDrain, Some("d")).status, ResponseStatus::Started);
}

/// The coordinator cannot tell whose its cordon would be, and then its turn has gone.
#[test]
fn buttons_that_are_pressed_before_its_cordon_come_first() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    let view = desk.api_server_goes();
    assert_eq!(desk.run(OperationKind::NodeReboot, Some("a")).status, ResponseStatus::Started);
    assert_eq!(desk.stored.slots, [name("a")]);
    desk.press("b", Want::PowerOff);
    desk.view = view;
    desk.look();
    desk.pass(5_000);
    desk.settle();
    assert!(!desk.log.contains(&"cordon a".to_string()), "{:?}", desk.log);
    desk.hands_over("b");
    desk.dies("b");
    desk.pass(30_000);
    assert!(!desk.log.contains(&"cordon a".to_string()), "{:?}", desk.log);
    desk.boots("b");
    desk.ready("b");
    desk.settle();
    desk.pass(5_000);
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Done, "{:?}", desk.states());
    assert!(desk.stored.slots.is_empty() && desk.stored.cordons.is_empty());
}
