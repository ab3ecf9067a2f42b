//! Two versions of the protocol in one crew.

use super::*;

/// The version of the last command to a node.
fn told_in(desk: &Desk, node: &str) -> Option<ProtocolVersion> {
    desk.last.iter().rev().find_map(|action| match action {
        Action::Command { node: to, version, .. } if *to == name(node) => Some(*version),
        _ => None,
    })
}

fn speaks_in(desk: &mut Desk, node: &str, version: ProtocolVersion) {
    desk.nodes.get_mut(&name(node)).unwrap().revision += 1;
    let state = NodeState { speaks: SpokenVersion::said_by(version), ..desk.state_of(node) };
    desk.step(Event::State { node: name(node), state: Box::new(state) });
}

fn wants(desk: &mut Desk, kind: OperationKind, node: Option<&str>, force: Force) -> ConsoleResponse {
    desk.ask(Desk::want(kind, node, force), Mode::Execute)
}

fn says_state(desk: &Desk) -> bool {
    desk.last.iter().any(|action| matches!(action, Action::State(_)))
}

#[test]
fn everybody_is_told_in_its_own_version_and_all_in_what_all_read() {
    use ProtocolVersion::{V1, V2};
    let mut desk = Desk::with_cluster(&["a", "b"]);
    assert_eq!(desk.core.broadcast_version(), V2, "every member was heard in it");
    speaks_in(&mut desk, "a", V1);
    assert_eq!((desk.core.version_of(&name("a")), desk.core.version_of(&name("b"))), (V1, V2));
    assert_eq!(desk.core.broadcast_version(), V1);
    assert!(says_state(&desk), "whoever cannot read the last state waits for no heartbeat");
    for (node, version) in [("a", V1), ("b", V2)] {
        wants(&mut desk, OperationKind::NodeIdentify, Some(node), Force::No);
        assert_eq!(told_in(&desk, node), Some(version));
        desk.settle();
    }
    let shown = desk.core.state(Instant::from_ms(desk.now));
    assert_eq!(shown.speaks, Some(SpokenVersion(2)));
    let speaks = |node: &str| shown.members.iter().find(|member| member.node == name(node)).unwrap().speaks;
    assert_eq!((speaks("a"), speaks("b")), (None, Some(SpokenVersion(2))));
    speaks_in(&mut desk, "a", V2);
    assert_eq!(desk.core.broadcast_version(), V2);
}

#[test]
fn whoever_was_not_heard_yet_is_spoken_to_in_the_version_before() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.restart();
    assert_eq!(desk.core.broadcast_version(), ProtocolVersion::BEFORE, "nobody was heard by this coordinator");
    speaks_in(&mut desk, "a", ProtocolVersion::CURRENT);
    assert_eq!(desk.core.version_of(&name("a")), ProtocolVersion::CURRENT);
    assert_eq!(desk.core.broadcast_version(), ProtocolVersion::BEFORE, "the others may not read it");
}

#[test]
fn a_lower_version_is_believed_at_once_and_a_higher_one_only_with_evidence() {
    use ProtocolVersion::{V1, V2};
    let mut desk = Desk::with_cluster(&["a"]);
    // set back to the program before, on a card that has heard of nobody: it reads no state of ours, and so names none
    let unheard = |version| NodeState {
        heard: None,
        start: 0,
        revision: 0,
        speaks: SpokenVersion::said_by(version),
        ..desk.state_of("a")
    };
    let (low, high) = (unheard(V1), unheard(V2));
    desk.step(Event::State { node: name("a"), state: Box::new(low) });
    assert_eq!(desk.core.broadcast_version(), V1);
    assert!(says_state(&desk));
    // and one that is no evidence raises nothing
    desk.step(Event::State { node: name("a"), state: Box::new(high) });
    assert_eq!(desk.core.version_of(&name("a")), V1);
}

#[test]
fn an_operation_that_a_node_does_not_understand_is_refused_by_name() {
    use ProtocolVersion::{V1, V2};
    let mut desk = Desk::with_cluster(&["a", "b"]);
    // as if a reboot were new
    desk.core.since = |verb| if verb == VerbName::Reboot { V2 } else { V1 };
    speaks_in(&mut desk, "b", V1);
    let refused = wants(&mut desk, OperationKind::Reboot, None, Force::Yes);
    assert_eq!((refused.status, refused.code.as_str()), (ResponseStatus::Refused, "protocol-version"));
    let text = refused.text.as_str();
    assert_eq!(text, "b speaks protocol version 1, and reboot needs 2; upgrade beehive there first");
    assert!(desk.stored.operations.iter().all(|held| held.kind != OperationKind::Reboot));
    assert_eq!(
        wants(&mut desk, OperationKind::NodeReboot, Some("a"), Force::No).status,
        ResponseStatus::Started,
        "it does"
    );
    desk.settle();
}

#[test]
fn a_verb_that_a_node_understands_no_more_is_not_sent_and_its_step_says_why() {
    use ProtocolVersion::{V1, V2};
    let mut desk = Desk::with_cluster(&["a"]);
    desk.core.since = |verb| if verb == VerbName::Identify { V2 } else { V1 };
    wants(&mut desk, OperationKind::NodeIdentify, Some("a"), Force::No);
    assert_eq!(told_in(&desk, "a"), Some(V2));
    speaks_in(&mut desk, "a", V1);
    let reason = desk.last.iter().find_map(|action| match action {
        Action::OperationNode(report) => Some(report.reason.to_string()),
        _ => None,
    });
    assert_eq!(
        reason.as_deref(),
        Some("a speaks protocol version 1, and identify needs 2; upgrade beehive there first"),
        "people see why"
    );
    desk.now += SEND_AGAIN_MS;
    desk.step(Event::Tick);
    assert_eq!(told_in(&desk, "a"), None);
}

#[test]
fn a_version_that_nobody_here_speaks_is_shown_and_refused_but_only_of_whoever_is_not_heard() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    let unspoken = |desk: &mut Desk| desk.step(Event::Unspoken { node: name("a"), version: SpokenVersion(3) });
    let speaks = |desk: &Desk| {
        let shown = desk.core.state(Instant::from_ms(desk.now));
        shown.members.iter().find(|member| member.node == name("a")).unwrap().speaks
    };
    // somebody makes that up: a is heard
    unspoken(&mut desk);
    assert_eq!(speaks(&desk), Some(SpokenVersion(2)));
    desk.quiet(SILENT_MS);
    unspoken(&mut desk);
    assert_eq!(speaks(&desk), Some(SpokenVersion(3)));
    let told = |desk: &Desk| desk.last.iter().filter(|action| matches!(action, Action::Tell(_))).count();
    assert_eq!(told(&desk), 1);
    unspoken(&mut desk);
    assert_eq!(told(&desk), 0, "told once");
    for node in ["b", "m"] {
        desk.speak(&name(node));
    }
    let refused = wants(&mut desk, OperationKind::NodeIdentify, Some("a"), Force::No);
    assert_eq!(refused.code.as_str(), "protocol-version");
    assert!(refused.text.as_str().contains("a writes in protocol version 3"), "{}", refused.text);
    desk.speak(&name("a"));
    assert_eq!(speaks(&desk), Some(SpokenVersion(2)));
    // strangers are not kept
    desk.step(Event::Unspoken { node: name("zz"), version: SpokenVersion(3) });
    assert!(desk.core.unspoken.is_empty());
}

#[test]
fn a_coordinator_of_the_version_before_says_and_sends_nothing_newer() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.core.config.speaks = ProtocolVersion::V1;
    speaks_in(&mut desk, "a", ProtocolVersion::V1);
    assert_eq!(desk.core.broadcast_version(), ProtocolVersion::V1);
    let shown = desk.core.state(Instant::from_ms(desk.now));
    assert!(shown.speaks.is_none() && shown.members.iter().all(|member| member.speaks.is_none()));
}
