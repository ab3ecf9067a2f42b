//! What operators ask for: once, in their session, and only what is known to be right.

use super::*;

#[test]
fn a_second_operation_is_refused_with_the_name_of_the_first() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.run(OperationKind::Rebuild, None);
    let refused = desk.run(OperationKind::Reset, None);
    assert_eq!(refused.status, ResponseStatus::Refused);
    assert_eq!(refused.code.as_str(), "one-operation-at-a-time");
    assert!(refused.text.as_str().contains("rebuild") && refused.text.as_str().contains("r-2"), "{}", refused.text);
    assert_eq!(refused.operation.unwrap().as_str(), "r-2");
}

#[test]
fn an_unknown_node_is_named() {
    let mut desk = Desk::with_cluster(&["a"]);
    let answer = desk.run(OperationKind::NodeDrain, Some("z"));
    assert_eq!(answer.status, ResponseStatus::UnknownNode);
    assert!(answer.text.as_str().contains('z'));
    assert_eq!(desk.run(OperationKind::NodeDrain, None).status, ResponseStatus::Invalid);
}

#[test]
fn the_same_request_begins_once_however_often_it_comes() {
    let mut desk = Desk::new(&["a"]);
    let id: RequestId = "r-x".parse().unwrap();
    let create = || Desk::want(OperationKind::Create, None, Force::No);
    let first = desk.ask_as(id.clone(), create(), Mode::Execute);
    let again = desk.ask_as(id.clone(), create(), Mode::Execute);
    assert_eq!(again, first);
    desk.settle();
    desk.restart();
    desk.all_speak();
    desk.look();
    let later = desk.ask_as(id.clone(), create(), Mode::Execute);
    assert_eq!(later, first, "also after a restart, and after its end");
    assert_eq!(desk.stored.operations.len(), 1);
    // and when its answer was forgotten
    for _ in 0..ANSWERS {
        desk.run(OperationKind::NodeUncordon, Some("a"));
    }
    let forgotten = desk.ask_as(id, create(), Mode::Execute);
    assert_eq!(forgotten.status, ResponseStatus::Unchanged);
    assert_eq!(desk.stored.answers.len(), ANSWERS);
}

#[test]
fn what_names_another_session_begins_nothing() {
    let mut desk = Desk::new(&["a"]);
    let ask = || Desk::want(OperationKind::Create, None, Force::No);
    let of = |nonce: &str| ConsoleRequest {
        id: "r-x".parse().unwrap(),
        nonce: nonce.parse().unwrap(),
        mode: Mode::Execute,
        ask: ask(),
    };
    let console = |desk: &mut Desk, request: ConsoleRequest| {
        desk.step(Event::Console { user: "ops".parse().unwrap(), key: KEY, request });
        desk.answers.pop().unwrap()
    };
    let stale = console(&mut desk, of("another"));
    assert_eq!((stale.status, stale.code.as_str()), (ResponseStatus::Refused, "stale-nonce"));
    assert!(desk.stored.operations.is_empty());
    // signed again for this session, the same id begins
    let session = desk.core.session().nonce;
    assert_eq!(console(&mut desk, of(session.as_str())).status, ResponseStatus::Started);
    // a repeat is answered whatever it names
    assert_eq!(console(&mut desk, of("another")).status, ResponseStatus::Started);
    // the same id with another wish is no repeat
    let other = ConsoleRequest { ask: Desk::want(OperationKind::Reset, None, Force::Yes), ..of(session.as_str()) };
    let reused = console(&mut desk, other.clone());
    assert_eq!((reused.status, reused.code.as_str()), (ResponseStatus::Refused, "id-reused"));
    // and another key's request of that id is another request, which this operation excludes
    desk.step(Event::Console { user: "eve".parse().unwrap(), key: KeyId([9; 8]), request: other });
    assert_eq!(desk.answers.pop().unwrap().status, ResponseStatus::Unchanged);
    assert_eq!(desk.stored.operations.len(), 1);
}

#[test]
fn a_session_is_renewed_before_its_memory_is_full_and_never_forgets() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.renews = false;
    let first = desk.core.session();
    let mut ids = Vec::new();
    while desk.run(OperationKind::NodeUncordon, Some("a")).code.as_str() != "busy" {
        ids.push(format!("r-{}", desk.asked));
        assert!(ids.len() <= ANSWERS);
    }
    // nothing of this session makes room, so nothing new is taken; what was taken is still known
    assert_eq!(desk.stored.answers.len(), ANSWERS);
    let wish = Desk::want(OperationKind::NodeUncordon, Some("a"), Force::No);
    let again = desk.ask_as(ids[0].parse().unwrap(), wish.clone(), Mode::Execute);
    assert_eq!(again.status, ResponseStatus::Unchanged);
    desk.step(Event::Session("c-next".parse().unwrap()));
    assert_eq!(desk.core.session().number, first.number + 1);
    assert_eq!(desk.run(OperationKind::NodeUncordon, Some("a")).status, ResponseStatus::Unchanged);
    // what has left the memory names a session that is over
    let request = ConsoleRequest { id: "r-1".parse().unwrap(), nonce: first.nonce, mode: Mode::Execute, ask: wish };
    desk.step(Event::Console { user: "ops".parse().unwrap(), key: KEY, request });
    assert_eq!(desk.answers.pop().unwrap().code.as_str(), "stale-nonce");
}

#[test]
fn a_state_of_another_time_proves_nothing() {
    let mut desk = Desk::with_cluster(&["a"]);
    let blank = Played { cluster: None, lifecycle: Lifecycle::Blank, ..desk.nodes[&name("a")].clone() };
    desk.nodes.insert(name("a"), blank);
    let ours = desk.core.session();
    for heard in [
        None,
        Some(Session { number: ours.number - 1, ..ours.clone() }),
        Some(Session { term: ours.term + 1, ..ours.clone() }),
    ] {
        let before = desk.membership("a");
        let state = NodeState { heard, revision: 99, ..desk.state_of("a") };
        desk.step(Event::State { node: name("a"), state: Box::new(state) });
        assert_eq!((desk.membership("a"), before), (Membership::Ready, Membership::Ready));
    }
    desk.speak(&name("a"));
    assert_eq!(desk.membership("a"), Membership::Blank, "of this session it counts");
}

#[test]
fn a_command_keeps_the_session_of_its_first_sending() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.deaf.insert(name("a"));
    desk.ask(Desk::want(OperationKind::NodeIdentify, Some("a"), Force::No), Mode::Execute);
    let first = desk.command(VerbName::Identify, "a");
    // its agent starts again: another session
    desk.nodes.get_mut(&name("a")).unwrap().start += 1;
    desk.speak(&name("a"));
    desk.pass(SEND_AGAIN_MS + 1);
    let again = desk.command(VerbName::Identify, "a");
    assert_eq!((&again.id, &again.nonce), (&first.id, &first.nonce));
    // also after a restart of the coordinator
    desk.restart();
    desk.all_speak();
    desk.look();
    desk.pass(SEND_AGAIN_MS + 1);
    let again = desk.command(VerbName::Identify, "a");
    assert_eq!((&again.id, &again.nonce), (&first.id, &first.nonce));
    assert!(again.session > first.session);
    // the node says that it never ran and never will: another attempt for the session that it is in
    desk.result(&name("a"), &again, CommandStatus::Rejected, "stale-nonce");
    desk.pass(RETRY_MS + 1);
    let next = desk.command(VerbName::Identify, "a");
    assert_ne!(next.id, first.id);
    assert_eq!(next.nonce, session(&name("a"), desk.nodes[&name("a")].start));
}

#[test]
fn a_coordinator_from_an_old_backup_calls_off_what_it_had_under_way() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::Rebuild, None);
    let backup = desk.stored.clone();
    assert!(backup.active_exclusive().is_some());
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Done);
    desk.restart();
    let lived = desk.core.session();
    // months later somebody copies the old file back
    desk.stored = backup;
    desk.restart();
    let (number, before) = (desk.core.session().number, desk.log.len());
    assert!(number <= lived.number);
    let state = NodeState { heard: Some(lived.clone()), revision: 999, ..desk.state_of("a") };
    desk.step(Event::State { node: name("a"), state: Box::new(state) });
    assert!(desk.core.session().number > lived.number, "a session that nobody has heard of yet");
    assert!(desk.stored.active_exclusive().is_none(), "{:?}", desk.stored.operations);
    assert!(matches!(desk.phase(), OperationPhase::Failed | OperationPhase::Aborted | OperationPhase::PartlyDone));
    desk.all_speak();
    desk.look();
    desk.settle();
    let begun: Vec<_> = desk.log[before..].iter().filter(|what| what.contains("reset")).collect();
    assert!(begun.is_empty(), "{begun:?}");
    // a node that lies cannot push the number to its end
    let lie = Session { number: u64::MAX, ..desk.core.session() };
    let state = NodeState { heard: Some(lie), revision: 1_000, ..desk.state_of("a") };
    let ours = desk.core.session();
    desk.step(Event::State { node: name("a"), state: Box::new(state) });
    assert_eq!(desk.core.session(), ours);
}

#[test]
fn a_record_that_was_put_back_under_a_new_term_goes_on_with_nothing() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::Rebuild, None);
    let mut backup = desk.stored.clone();
    assert!(backup.active_exclusive().is_some());
    desk.settle();
    let before = desk.log.len();
    // its session is not behind anybody's: nodes compare sessions of one term alone
    backup.call_off(&Text::cut("put back"));
    backup.session += 100;
    desk.stored = backup;
    desk.restart();
    desk.all_speak();
    desk.look();
    desk.settle();
    assert!(desk.stored.active_exclusive().is_none(), "{:?}", desk.stored.operations);
    assert!(matches!(desk.phase(), OperationPhase::Failed | OperationPhase::Aborted | OperationPhase::PartlyDone));
    let begun: Vec<_> = desk.log[before..].iter().filter(|what| what.contains("reset")).collect();
    assert!(begun.is_empty(), "{begun:?}");
}

#[test]
fn a_wish_of_another_session_is_not_taken_up() {
    let mut desk = Desk::with_cluster(&["a"]);
    let wish = |desk: &Desk, id: &str, nonce: Option<Nonce>, session: Nonce| NodeRequest {
        id: id.parse().unwrap(),
        want: Want::PowerOff,
        deadline_ms: 1_000,
        reason: Text::cut("button"),
        boot: boot(&name("a"), desk.nodes[&name("a")].boots),
        session,
        nonce,
    };
    let now = session(&name("a"), desk.nodes[&name("a")].start);
    let ours = desk.core.session().nonce;
    let count = desk.stored.operations.len();
    for request in [
        wish(&desk, "n-1", None, now.clone()),
        wish(&desk, "n-1", Some("old".parse().unwrap()), now.clone()),
        wish(&desk, "n-1", Some(ours.clone()), "another".parse().unwrap()),
    ] {
        desk.step(Event::Request { node: name("a"), request });
        assert_eq!(desk.stored.operations.len(), count);
        assert!(desk.answered("a").is_empty());
    }
    let request = wish(&desk, "n-1", Some(ours.clone()), now.clone());
    desk.step(Event::Request { node: name("a"), request: request.clone() });
    assert_eq!(desk.stored.operations.len(), count + 1);
    let answers = desk.answered("a").len();
    // the same id with another wish
    desk.step(Event::Request { node: name("a"), request: NodeRequest { want: Want::Leave, ..request } });
    assert_eq!((desk.stored.operations.len(), desk.answered("a").len()), (count + 1, answers));
}

#[test]
fn a_dry_run_changes_nothing() {
    let mut desk = Desk::with_cluster(&["a"]);
    let before = desk.stored.clone();
    for (kind, steps) in [(OperationKind::Rebuild, 8), (OperationKind::Reboot, 10), (OperationKind::Shutdown, 3)] {
        let plan = desk.ask(Desk::want(kind, None, Force::No), Mode::DryRun);
        assert_eq!((plan.status, plan.plan.len()), (ResponseStatus::Planned, steps), "{kind}");
    }
    assert!(desk.log.is_empty());
    assert_eq!(desk.stored, before);
    assert!(!desk.last.iter().any(|action| matches!(action, Action::Store(_))));
    desk.run(OperationKind::Reboot, None);
    assert_eq!(desk.ask(Ask::Abort, Mode::DryRun).status, ResponseStatus::Planned);
    assert_eq!(desk.phase(), OperationPhase::Running);
}

#[test]
fn an_insecure_wire_destroys_nothing() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.destruction = Destruction::RefusedInsecureWire;
    desk.restart();
    desk.all_speak();
    desk.look();
    for (kind, node) in
        [(OperationKind::Rebuild, None), (OperationKind::Reset, None), (OperationKind::NodeLeave, Some("a"))]
    {
        let refused = desk.run(kind, node);
        assert_eq!((refused.status, refused.code.as_str()), (ResponseStatus::Refused, "insecure-wire"));
    }
    assert!(desk.log.is_empty());
    assert_eq!(desk.run(OperationKind::Reboot, None).status, ResponseStatus::Started);
}

#[test]
fn nothing_is_planned_from_ignorance() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.restart();
    desk.speak(&name("m"));
    let request = ConsoleRequest {
        id: "r-x".parse().unwrap(),
        nonce: desk.core.session().nonce,
        mode: Mode::Execute,
        ask: Desk::want(OperationKind::NodeDrain, Some("a"), Force::No),
    };
    let ask = |desk: &mut Desk| {
        desk.step(Event::Console { user: "ops".parse().unwrap(), key: KEY, request: request.clone() });
        desk.answers.pop().map(|answer| answer.status)
    };
    assert_eq!(ask(&mut desk), None);
    desk.press("a", Want::Reboot);
    assert!(desk.answered("a").is_empty());
    desk.all_speak();
    assert_eq!(ask(&mut desk), None, "Kubernetes has not answered");
    desk.look();
    assert_eq!(ask(&mut desk), Some(ResponseStatus::Started));
    // but nobody waits for ever for one who is not there
    desk.restart();
    desk.now += 5_000;
    desk.press("a", Want::Reboot);
    assert!(desk.answered("a").contains(&Answer::Wait));
}

#[test]
fn two_that_are_one_machine_do_not_both_join() {
    let marked = |marks: [Option<&'static str>; 3]| {
        let mut desk = Desk::new(&["a", "b"]);
        for (node, mark) in ["m", "a", "b"].into_iter().zip(marks) {
            desk.nodes.get_mut(&name(node)).unwrap().machine = mark;
        }
        desk.all_speak();
        desk
    };
    // one copied card anywhere, also the master's
    for marks in [[Some("1"), Some("2"), Some("2")], [Some("1"), Some("1"), None]] {
        let mut desk = marked(marks);
        let refused = desk.run(OperationKind::Create, None);
        assert_eq!((refused.status, refused.code.as_str()), (ResponseStatus::Refused, "duplicate-machine"));
        let text = refused.text.as_str();
        assert!(text.contains(" have one machine-id") && text.contains("systemd-machine-id-setup"), "{text}");
        desk.ask(Desk::want(OperationKind::Create, None, Force::Yes), Mode::Execute);
        desk.settle();
        assert_eq!(desk.phase(), OperationPhase::Done, "whoever insists gets it");
    }
    // who says nothing of it is nobody's twin
    for marks in [[None, None, None], [Some("1"), Some("2"), Some("3")], [Some("1"), None, None]] {
        let mut desk = marked(marks);
        desk.run(OperationKind::Create, None);
        desk.settle();
        assert_eq!(desk.phase(), OperationPhase::Done);
    }
    // it left, and came back with a copy of the other's card
    let mut desk = marked([Some("1"), Some("2"), Some("3")]);
    desk.run(OperationKind::Create, None);
    desk.settle();
    desk.run(OperationKind::NodeLeave, Some("b"));
    desk.settle();
    desk.nodes.get_mut(&name("b")).unwrap().machine = Some("2");
    desk.all_speak();
    assert_eq!(desk.run(OperationKind::NodeJoin, Some("b")).code.as_str(), "duplicate-machine");
    assert_eq!(desk.run(OperationKind::Rebuild, None).code.as_str(), "duplicate-machine");
}
