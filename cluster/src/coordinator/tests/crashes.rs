//! Crashes at any step, and a card that does not store.

use super::*;

#[test]
fn a_crash_at_any_step_goes_on_under_the_same_ids() {
    for kind in [OperationKind::Rebuild, OperationKind::Reboot, OperationKind::Reset] {
        let mut done = false;
        let mut crash_at = 0;
        while !done {
            let mut desk = Desk::with_cluster(&["a", "b"]);
            desk.run(kind, None);
            let mut count = 0;
            done = true;
            for _ in 0..400 {
                if count == crash_at {
                    let ids: BTreeSet<_> = desk.commands.iter().map(|held| held.1.id.clone()).collect();
                    desk.restart();
                    desk.all_speak();
                    desk.look();
                    for (_, command) in &desk.commands {
                        // a join's credential is not kept, so that one is another attempt
                        let kept = ids.contains(&command.id) || command.verb.name() == VerbName::Join;
                        assert!(kept, "{kind} {}", command.id);
                    }
                    done = false;
                }
                count += 1;
                if let Some((token, work)) = desk.works.pop() {
                    desk.kube_does(token, &work);
                } else if !desk.commands.is_empty() {
                    let (node, command) = desk.commands.remove(0);
                    desk.obey(&node, &command);
                } else if desk.phase().is_final() {
                    break;
                } else {
                    desk.pass(1_000);
                }
            }
            assert_eq!(desk.phase(), OperationPhase::Done, "{kind}, crash after {crash_at}");
            assert!(desk.stored.cordons.is_empty() && desk.stored.slots.is_empty());
            done |= count <= crash_at;
            crash_at += 1;
        }
        assert!(crash_at > 3);
    }
}

#[test]
fn what_could_not_be_stored_is_stored_before_anything_else() {
    let mut desk = Desk::with_cluster(&["a"]);
    let id: RequestId = "r-x".parse().unwrap();
    let ask = Desk::want(OperationKind::NodeDrain, Some("a"), Force::No);
    let now = Instant::from_ms(desk.now);
    let request = ConsoleRequest { id, nonce: desk.core.session().nonce, mode: Mode::Execute, ask };
    let actions = desk.core.step(now, Event::Console { user: "ops".parse().unwrap(), key: KEY, request });
    assert!(matches!(actions[0], Action::Store(_)));
    let asked = |actions: &[Action]| actions.iter().filter(|action| matches!(action, Action::Kube { .. })).count();
    assert_eq!(asked(&actions), 1);
    for _ in 0..3 {
        assert!(desk.core.step(now, Event::StoreFailed).is_empty());
        assert_eq!(desk.core.next_deadline(now), now.plus_ms(1_000));
        let actions = desk.core.step(now, Event::Tick);
        assert!(
            matches!(&actions[0], Action::Store(record) if record.operations.iter().any(|held| held.id.as_str() == "r-x"))
        );
        assert_eq!(asked(&actions), 1, "held until it is stored, and not doubled");
        let told = actions.iter().filter(|action| matches!(action, Action::Operation(_))).count();
        assert_eq!(told, 1);
    }
    // stored at last
    let actions = desk.core.step(now, Event::Tick);
    assert_eq!((asked(&actions), actions.iter().any(|action| matches!(action, Action::Store(_)))), (0, false));
}

/// Its end was held until it was stored; with it the next one began, and then the coordinator died.
#[test]
fn an_end_that_could_not_be_stored_at_once_is_told_after_a_crash() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    let drain = desk.run(OperationKind::NodeDrain, Some("a")).operation.unwrap();
    let (token, work) = desk.work();
    desk.kube_does(token, &work);
    let (token, _) = desk.work();
    let now = Instant::from_ms(desk.now);
    let actions = desk.core.step(now, Event::KubeEnded { token, outcome: Ok(KubeDone::Done) });
    assert!(matches!(actions[0], Action::Store(_)));
    assert!(desk.core.step(now, Event::StoreFailed).is_empty());
    desk.press("b", Want::Leave);
    assert_eq!(desk.stored.operations.last().unwrap().kind, OperationKind::NodeLeave);
    desk.restart();
    let told = desk.last.iter().filter_map(|action| match action {
        Action::Operation(summary) => Some((summary.id.clone(), summary.phase)),
        _ => None,
    });
    let told: Vec<_> = told.collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[0], (drain, OperationPhase::Done));
    // and it is forgotten when the next one ends
    desk.all_speak();
    desk.look();
    desk.pass(60_000);
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Done, "{:?}", desk.states());
    assert_eq!(desk.stored.operations.len(), 1);
}
