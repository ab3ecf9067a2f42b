//! What each operation does, in which order.

use super::*;

#[test]
fn create_initialises_the_master_and_then_joins_the_nodes() {
    let mut desk = Desk::new(&["a", "b"]);
    let answer = desk.run(OperationKind::Create, None);
    assert_eq!(answer.status, ResponseStatus::Started);
    assert_eq!(desk.log, ["initialise m"], "one thing at first");
    desk.settle();
    assert_eq!(
        desk.log,
        ["initialise m", "mint a", "mint b", "join a", "join b", "add_ons m"],
        "credentials are minted when there is a cluster"
    );
    assert_eq!(desk.phase(), OperationPhase::Done);
    assert_eq!(desk.stored.cluster.as_ref().unwrap().id.as_str(), "r-1");
    assert_eq!(desk.membership("a"), Membership::Ready);
    let again = desk.run(OperationKind::Create, None);
    assert_eq!(again.status, ResponseStatus::Unchanged);
}

/// What a look finds: nothing, or a pod that is not to be disturbed.
fn facts(pod: Option<&str>) -> Box<Facts> {
    let label = Label { key: "app".into(), value: "db".into() };
    let pod = pod.map(|name| Pod { namespace: "data".into(), name: name.into(), labels: vec![label] });
    let shown = Ok(Shown { labels: Vec::new(), pods: pod.into_iter().collect() });
    Box::new(Facts { shown, minute: None, command: Said::Go })
}

fn with_blockers(workers: &[&str]) -> Desk {
    let mut desk = Desk::with_cluster(workers);
    let selector = PodSelector { namespace: None, selector: "app=db".parse().unwrap() };
    desk.core.config.blockers = Blockers { pods: vec![selector], ..Blockers::default() };
    desk
}

/// Asks, and lets somebody look at each node; those named in `busy` run a pod that blocks.
fn ask_and_look(desk: &mut Desk, ask: &Ask, mode: Mode, busy: &[&str]) -> ConsoleResponse {
    desk.asked += 1;
    let id: RequestId = format!("r-{}", desk.asked).parse().unwrap();
    for _ in 0..3 {
        let request = ConsoleRequest { id: id.clone(), nonce: desk.core.session().nonce, mode, ask: ask.clone() };
        desk.step(Event::Console { user: "ops".parse().unwrap(), key: KEY, request });
        if let Some(answer) = desk.answers.pop() {
            return answer;
        }
        looks(desk, busy);
    }
    panic!("no answer: {:?}", desk.log);
}

fn looks(desk: &mut Desk, busy: &[&str]) {
    for (token, node) in core::mem::take(&mut desk.looks) {
        let pod = busy.contains(&node.as_str()).then_some("db-0");
        desk.step(Event::Looked { token, facts: facts(pod) });
    }
}

#[test]
fn what_is_blocked_is_refused_and_force_names_what_it_sets_aside() {
    let mut desk = with_blockers(&["a", "b"]);
    let reboot = |force| Desk::want(OperationKind::NodeReboot, Some("a"), force);
    let answer = ask_and_look(&mut desk, &reboot(Force::No), Mode::Execute, &["a"]);
    assert_eq!((answer.status, answer.code.as_str()), (ResponseStatus::Refused, "blocked"));
    assert!(answer.text.as_str().contains("a is to be left alone: pod data/db-0 (app=db)"), "{}", answer.text);
    desk.now += LOOK_FRESH_MS;
    let answer = ask_and_look(&mut desk, &reboot(Force::Yes), Mode::DryRun, &["a"]);
    assert_eq!(answer.status, ResponseStatus::Planned);
    assert!(answer.text.as_str().contains("it would set aside: a: pod data/db-0"), "{}", answer.text);
    let answer = ask_and_look(&mut desk, &reboot(Force::Yes), Mode::Execute, &["a"]);
    assert_eq!(answer.status, ResponseStatus::Started);
    assert!(answer.text.as_str().contains("set aside: a: pod data/db-0"), "{}", answer.text);
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Done);
    assert!(!desk.log.iter().any(|line| line.starts_with("mint")), "{:?}", desk.log);
    // where nothing is in the way nothing is said to have been
    desk.log.clear();
    desk.now += LOOK_FRESH_MS;
    let answer = ask_and_look(&mut desk, &reboot(Force::Yes), Mode::DryRun, &[]);
    assert!(!answer.text.as_str().contains("set aside"), "{}", answer.text);
    // another node is none of its business, and what is no rolling work is not looked at
    desk.log.clear();
    let other = Desk::want(OperationKind::NodeReboot, Some("b"), Force::No);
    assert_eq!(ask_and_look(&mut desk, &other, Mode::Execute, &["a"]).status, ResponseStatus::Started);
    desk.settle();
    assert_eq!(desk.run(OperationKind::Rebuild, None).status, ResponseStatus::Started);
}

#[test]
fn what_is_blocked_in_its_turn_is_waited_for_and_given_up_at_last() {
    for gives_in in [true, false] {
        let mut desk = with_blockers(&["a", "b"]);
        let reboot = Desk::want(OperationKind::Reboot, None, Force::No);
        assert_eq!(ask_and_look(&mut desk, &reboot, Mode::Execute, &[]).status, ResponseStatus::Started);
        desk.now += LOOK_FRESH_MS;
        desk.settle();
        assert!(desk.log.contains(&"uncordon a".to_string()));
        // its turn comes, and by then a pod runs there
        for _ in 0..4 {
            desk.now += LOOK_AGAIN_MS;
            desk.all_speak();
            desk.step(Event::Tick);
            looks(&mut desk, &["b"]);
            desk.settle();
        }
        assert!(!desk.log.contains(&"cordon b".to_string()), "{:?}", desk.log);
        if gives_in {
            desk.now += LOOK_AGAIN_MS;
            desk.all_speak();
            desk.step(Event::Tick);
            looks(&mut desk, &[]);
            desk.settle();
            assert!(desk.log.contains(&"uncordon b".to_string()), "{:?}", desk.log);
            continue;
        }
        for _ in 0..2 * SLOT_WAIT_MS / LOOK_AGAIN_MS {
            desk.pass(LOOK_AGAIN_MS);
            looks(&mut desk, &["b"]);
        }
        assert_eq!(desk.phase(), OperationPhase::Failed);
        let steps = &desk.stored.operations.last().unwrap().steps;
        let failed = steps.iter().find(|step| step.state == StepState::Failed).unwrap();
        assert!(failed.reason.as_str().contains("timed out: blocked: pod data/db-0"), "{}", failed.reason);
    }
}

#[test]
fn without_an_answer_to_a_look_nothing_begins() {
    let mut desk = with_blockers(&["a"]);
    let request = ConsoleRequest {
        id: "r-9".parse().unwrap(),
        nonce: desk.core.session().nonce,
        mode: Mode::Execute,
        ask: Desk::want(OperationKind::NodeReboot, Some("a"), Force::No),
    };
    let ask = |desk: &mut Desk| {
        desk.step(Event::Console { user: "ops".parse().unwrap(), key: KEY, request: request.clone() });
        desk.answers.pop()
    };
    assert!(ask(&mut desk).is_none());
    desk.now += LOOK_MS - 1;
    assert!(ask(&mut desk).is_none());
    desk.now += 1;
    assert_eq!(
        ask(&mut desk).unwrap().status,
        ResponseStatus::Started,
        "it waits, as for whatever Kubernetes has to say"
    );
    let waits = desk.core.told.slot_waits.values().next().unwrap().0.clone();
    assert_eq!(waits.as_str(), "blocked: its labels and pods cannot be read: no answer within 15 s");
    // a late one counts for nothing
    let (token, _) = desk.looks.pop().unwrap();
    desk.step(Event::Looked { token, facts: facts(None) });
    assert!(!desk.log.contains(&"cordon a".to_string()));
    desk.now += LOOK_AGAIN_MS;
    desk.all_speak();
    desk.step(Event::Tick);
    looks(&mut desk, &[]);
    assert!(desk.log.contains(&"cordon a".to_string()));
}

#[test]
fn a_start_lets_the_switch_feed_who_is_off_and_says_if_it_cannot() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.core.config.switch = PowerSwitch::Present;
    desk.dies("a");
    desk.not_ready("a");
    desk.quiet(SILENT_MS);
    desk.all_speak();
    desk.run(OperationKind::Start, None);
    assert_eq!(desk.log, ["switch on a"]);
    let token = desk.switches.pop().unwrap();
    desk.step(Event::Switched { token, outcome: Err(Text::cut("no route to the switch")) });
    let (id, _) = (desk.stored.operations.last().unwrap().id.clone(), ());
    assert!(desk.core.waits(&id, 0).unwrap().as_str().contains("no route to the switch"));
    desk.now += SWITCH_AGAIN_MS;
    desk.step(Event::Tick);
    let token = desk.switches.pop().unwrap();
    desk.step(Event::Switched { token, outcome: Ok(()) });
    desk.now += 2 * SWITCH_AGAIN_MS;
    desk.step(Event::Tick);
    assert!(desk.switches.is_empty(), "it has taken that");
    desk.boots("a");
    desk.ready("a");
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Done);
}

/// It was not heard since the coordinator's start, and what was last seen of Kubernetes is of the cluster before.
#[test]
fn a_node_that_nobody_has_heard_is_no_member_of_a_cluster_that_is_gone() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    let old = desk.view.clone();
    desk.run(OperationKind::Reset, None);
    desk.settle();
    desk.restart();
    desk.core.kube = old;
    desk.core.seen.remove(&name("b"));
    desk.now += 10_000;
    let plan = desk.ask(Desk::want(OperationKind::Create, None, Force::No), Mode::DryRun).plan;
    assert!(plan.iter().any(|step| step.step == StepKind::Join && step.node == name("b")), "{plan:?}");
}

/// Nobody can tell whether it is a member: rolling work treats it as one, and waits for the API server's word.
#[test]
fn a_node_that_nobody_has_heard_may_be_a_member_while_the_api_server_is_silent() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.restart();
    let view = desk.api_server_goes();
    desk.core.seen.remove(&name("b"));
    let reset = desk.run(OperationKind::NodeReset, Some("b"));
    assert_eq!(reset.code.as_str(), "node-is-member", "what may be a member is not reset");
    desk.run(OperationKind::NodeShutdown, Some("b"));
    desk.all_speak();
    desk.step(Event::Tick);
    assert!(desk.log.is_empty(), "{:?}", desk.log);
    assert_eq!(desk.stored.slots, [name("b")]);
    desk.view = view;
    desk.look();
    desk.quiet(2_500);
    desk.settle();
    assert_eq!(desk.log, ["cordon b", "drain b", "power_off b"]);

    // it was none, says so, and is restarted as what it is, though the API server never answers again
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::NodeLeave, Some("b"));
    desk.settle();
    desk.restart();
    desk.api_server_goes();
    desk.core.seen.remove(&name("b"));
    desk.log.clear();
    desk.run(OperationKind::NodeReboot, Some("b"));
    desk.all_speak();
    desk.quiet(2_500);
    let reboot = desk.command(VerbName::Reboot, "b");
    desk.result(&name("b"), &reboot, CommandStatus::InProgress, "stopping");
    desk.dies("b");
    desk.boots("b");
    assert_eq!(desk.log, ["reboot b"]);
    assert_eq!(desk.phase(), OperationPhase::Done);
    assert!(desk.stored.slots.is_empty());
}

/// The stop came off after the leave had given it up: no kubelet is left to confirm a second drain.
#[test]
fn a_leave_taken_up_again_does_not_empty_what_it_has_stopped() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.run(OperationKind::NodeLeave, Some("a"));
    while desk.log.last().unwrap() != "stop a" {
        let (token, work) = desk.work();
        desk.kube_does(token, &work);
    }
    let stop = desk.command(VerbName::Stop, "a");
    desk.result(&name("a"), &stop, CommandStatus::Accepted, "accepted");
    desk.pass(drive::limit_ms(StepKind::Stop, 0) + 1_000);
    desk.commands.clear();
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Failed);
    assert!(!desk.is_cordoned("a"));
    desk.nodes.get_mut(&name("a")).unwrap().revision += 1;
    let mut state = desk.state_of("a");
    state.engine.run = EngineRun::Stopped;
    desk.step(Event::State { node: name("a"), state: Box::new(state) });
    desk.log.clear();
    desk.ask(Ask::Resume, Mode::Execute);
    desk.settle();
    assert_eq!(desk.log, ["cordon a", "stop a", "delete a", "reset a"]);
    assert_eq!(desk.phase(), OperationPhase::Done);
}

fn upgrade(desk: &mut Desk, version: &str, force: Force) -> ConsoleResponse {
    let (kind, version) = (OperationKind::Upgrade, Text::cut(version));
    desk.ask(Ask::Operation { kind, node: None, version, force }, Mode::Execute)
}

#[test]
fn an_upgrade_takes_the_master_first_and_then_one_after_the_other() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    assert_eq!(upgrade(&mut desk, "", Force::No).code.as_str(), "no-version");
    assert_eq!(upgrade(&mut desk, "v2", Force::No).status, ResponseStatus::Started);
    desk.settle();
    let each = |node: &str| ["cordon", "drain", "upgrade", "uncordon"].map(|word| format!("{word} {node}"));
    let expected: Vec<String> =
        core::iter::once("snapshot m".to_string()).chain(["m", "a", "b"].into_iter().flat_map(each)).collect();
    assert_eq!(desk.log, expected);
    assert_eq!(desk.phase(), OperationPhase::Done);
    assert_eq!(desk.stored.cluster.as_ref().unwrap().version.as_str(), "v2", "who joins now joins at that version");
    assert_eq!(upgrade(&mut desk, "v2", Force::No).status, ResponseStatus::Unchanged);
}

#[test]
fn the_next_is_upgraded_only_when_the_one_before_is_ready_at_that_version() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    upgrade(&mut desk, "v2", Force::No);
    while !desk.log.contains(&"upgrade m".to_string()) {
        let (token, work) = if desk.works.is_empty() {
            (0, None)
        } else {
            let (t, w) = desk.work();
            (t, Some(w))
        };
        match work {
            Some(work) => desk.kube_does(token, &work),
            None => {
                let snapshot = desk.command(VerbName::Snapshot, "m");
                desk.obey(&name("m"), &snapshot);
            }
        }
    }
    let command = desk.command(VerbName::Upgrade, "m");
    desk.nodes.get_mut(&name("m")).unwrap().version = Text::cut("v2");
    desk.result(&name("m"), &command, CommandStatus::Succeeded, "done");
    desk.speak(&name("m"));
    desk.quiet(60_000);
    assert!(!desk.log.contains(&"uncordon m".to_string()), "its kubelet is the old one yet: {:?}", desk.log);
    desk.all_speak();
    desk.kube_node("m").version = Text::cut("v2");
    desk.look();
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Done, "{:?} {:?}", desk.log, desk.core.state(Instant::from_ms(desk.now)));
}

#[test]
fn an_upgrade_that_fails_ends_there_and_uncordons_and_goes_on_when_it_is_resumed() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    upgrade(&mut desk, "v2", Force::No);
    desk.deaf.insert(name("a"));
    desk.settle();
    for _ in 0..ATTEMPTS {
        let command = desk.command(VerbName::Upgrade, "a");
        desk.result(&name("a"), &command, CommandStatus::Failed, "no-space");
        desk.quiet(20_000);
    }
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Failed);
    assert!(!desk.is_cordoned("a"), "{:?}", desk.log);
    assert!(!desk.log.contains(&"cordon b".to_string()), "nothing more begins");
    assert_eq!(desk.stored.cluster.as_ref().unwrap().version.as_str(), "v2");
    desk.deaf.clear();
    desk.log.clear();
    desk.ask(Ask::Resume, Mode::Execute);
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Done);
    assert_eq!(desk.log[0], "cordon a", "the master has it already");
}

#[test]
fn what_is_stored_and_reported_never_holds_a_credential() {
    let mut desk = Desk::new(&["a"]);
    desk.run(OperationKind::Create, None);
    while !desk.log.contains(&"join a".to_string()) {
        assert!(!format!("{:?}", desk.stored).contains("hunter2"));
        if let Some((token, work)) = desk.works.pop() {
            desk.kube_does(token, &work);
        } else {
            let (node, command) = desk.commands.remove(0);
            desk.obey(&node, &command);
        }
    }
    assert!(!format!("{:?} {:?}", desk.last, desk.core).contains("hunter2"));
}

#[test]
fn rebuild_resets_the_master_last_and_initialises_it_first() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::Rebuild, None);
    desk.settle();
    assert_eq!(
        desk.log,
        [
            "snapshot m",
            "reset a",
            "reset b",
            "reset m",
            "initialise m",
            "mint a",
            "mint b",
            "join a",
            "join b",
            "add_ons m"
        ]
    );
    assert_eq!(desk.phase(), OperationPhase::Done);
    assert_eq!(desk.stored.cluster.as_ref().unwrap().id.as_str(), "r-2");
}

#[test]
fn a_rebuild_needs_its_snapshot_unless_forced() {
    for (force, phase) in [(Force::No, OperationPhase::Failed), (Force::Yes, OperationPhase::Running)] {
        let mut desk = Desk::with_cluster(&["a"]);
        desk.ask(Desk::want(OperationKind::Rebuild, None, force), Mode::Execute);
        for _ in 0..ATTEMPTS {
            let snapshot = desk.command(VerbName::Snapshot, "m");
            desk.result(&name("m"), &snapshot, CommandStatus::Failed, "disk");
            desk.pass(10_000);
        }
        assert_eq!(desk.phase(), phase);
        assert_eq!(desk.log.contains(&"reset a".to_string()), force == Force::Yes);
    }
}

#[test]
fn reset_leaves_no_cluster() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::Reset, None);
    desk.settle();
    assert_eq!(desk.log, ["reset a", "reset b", "reset m"]);
    assert_eq!((desk.phase(), &desk.stored.cluster), (OperationPhase::Done, &None));
    assert_eq!(desk.membership("a"), Membership::Blank);
}

#[test]
fn a_rolling_reboot_waits_for_ready_in_a_new_boot_before_the_next() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::Reboot, None);
    let (token, work) = desk.work();
    assert_eq!(work, KubeWork::Cordon(name("a")));
    assert_eq!(desk.stored.cordons[0].node, name("a"), "it is stored first that we cordon");
    assert_eq!(desk.stored.slots, [name("a")]);
    desk.kube_does(token, &work);
    let (token, work) = desk.work();
    assert!(matches!(&work, KubeWork::Drain { node, .. } if *node == name("a")));
    desk.kube_does(token, &work);
    let reboot = desk.command(VerbName::Reboot, "a");
    desk.result(&name("a"), &reboot, CommandStatus::InProgress, "stopping");
    desk.dies("a");
    desk.boots("a");
    // Kubernetes still believes in the boot before
    desk.look();
    desk.pass(20_000);
    assert!(!desk.log.contains(&"cordon b".to_string()) && !desk.log.contains(&"uncordon a".to_string()));
    desk.ready("a");
    let (token, work) = desk.work();
    assert_eq!(work, KubeWork::Uncordon(name("a")));
    assert!(!desk.log.contains(&"cordon b".to_string()));
    desk.kube_does(token, &work);
    assert_eq!(desk.log.last().unwrap(), "cordon b");
    assert_eq!(desk.stored.slots, [name("b")]);
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Done);
    let order: Vec<_> = desk.log.iter().filter(|line| line.starts_with("reboot")).collect();
    assert_eq!(order, ["reboot a", "reboot b", "reboot m"]);
    assert!(desk.stored.cordons.is_empty() && desk.stored.slots.is_empty());
}

#[test]
fn a_restart_of_which_only_the_end_is_heard_counts_too() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.run(OperationKind::NodeReboot, Some("a"));
    for _ in 0..2 {
        let (token, work) = desk.work();
        desk.kube_does(token, &work);
    }
    let reboot = desk.command(VerbName::Reboot, "a");
    // its new boot answers before its new state arrives: the old Ready must not pass for the new
    desk.nodes.get_mut(&name("a")).unwrap().boots += 1;
    desk.result(&name("a"), &reboot, CommandStatus::Succeeded, "done");
    assert!(!desk.log.contains(&"uncordon a".to_string()));
    desk.nodes.get_mut(&name("a")).unwrap().boots -= 1;
    desk.boots("a");
    desk.result(&name("a"), &reboot, CommandStatus::Succeeded, "done");
    assert!(!desk.log.contains(&"uncordon a".to_string()), "ready, but of the boot before");
    desk.ready("a");
    desk.settle();
    assert_eq!(desk.phase(), OperationPhase::Done);
}

#[test]
fn a_boot_before_the_command_was_taken_is_not_the_restart() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.run(OperationKind::NodeReboot, Some("a"));
    for _ in 0..2 {
        let (token, work) = desk.work();
        desk.kube_does(token, &work);
    }
    let reboot = desk.command(VerbName::Reboot, "a");
    // it restarted by itself; the command reaches the new boot, whose state is still under way
    desk.nodes.get_mut(&name("a")).unwrap().boots += 1;
    desk.result(&name("a"), &reboot, CommandStatus::InProgress, "stopping");
    desk.nodes.get_mut(&name("a")).unwrap().boots -= 1;
    desk.boots("a");
    assert_eq!(desk.states()[2].2, StepState::Running);
    desk.result(&name("a"), &reboot, CommandStatus::InProgress, "stopping");
    desk.boots("a");
    assert_eq!(desk.states()[2].2, StepState::Done);
}

#[test]
fn shutdown_cordons_stops_the_workers_and_then_the_master() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::Shutdown, None);
    desk.settle();
    assert!(!desk.log.iter().any(|line| line.starts_with("drain")), "nothing is evicted");
    assert_eq!(desk.log.last().unwrap(), "power_off m");
    let before: Vec<_> = desk.states();
    assert!(before.iter().filter(|step| step.1 != "m").all(|step| step.2 == StepState::Done), "{before:?}");
    // the master was off too; its coordinator is back and uncordons who is back
    desk.restart();
    desk.boots("m");
    desk.ready("m");
    assert_eq!(desk.phase(), OperationPhase::Done);
    assert_eq!(desk.stored.cordons.len(), 2);
    desk.log.clear();
    desk.boots("a");
    desk.look();
    assert!(desk.log.is_empty(), "its kubelet has said nothing in this boot");
    desk.ready("a");
    desk.settle();
    assert_eq!(desk.log, ["uncordon a"]);
    assert_eq!(desk.stored.cordons.len(), 1, "b is still off");
}

#[test]
fn who_comes_back_during_a_shutdown_goes_before_the_master() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.dies("a");
    desk.not_ready("a");
    desk.pass(SILENT_MS + 1_000);
    desk.deaf.insert(name("b"));
    desk.run(OperationKind::Shutdown, None);
    desk.settle();
    assert!(!desk.log.contains(&"power_off a".to_string()), "nobody has heard it");
    // only its agent was away
    desk.boots("a");
    desk.ready("a");
    desk.settle();
    assert!(!desk.log.contains(&"power_off m".to_string()), "it waits for b");
    desk.deaf.clear();
    desk.pass(5_000);
    desk.settle();
    let off: Vec<_> = desk.log.iter().filter(|line| line.starts_with("power_off")).map(String::as_str).collect();
    assert!(off.contains(&"power_off a"), "{off:?}");
    assert_eq!(off.last(), Some(&"power_off m"), "{off:?}");
}

/// Its own restart was under way when the shutdown came to it: it will be back, and is told then.
#[test]
fn one_who_restarts_by_itself_is_not_taken_for_switched_off() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.deaf.insert(name("a"));
    desk.run(OperationKind::Shutdown, None);
    desk.settle();
    desk.nodes.get_mut(&name("a")).unwrap().revision += 1;
    let goes = NodeState {
        power: PowerPhase::HandingOver,
        goal: Some(beehive_mqtt::node::PowerGoal::Reboot),
        ..desk.state_of("a")
    };
    desk.step(Event::State { node: name("a"), state: Box::new(goes) });
    desk.dies("a");
    desk.pass(20_000);
    assert!(!desk.log.contains(&"power_off m".to_string()), "{:?}", desk.states());
    desk.boots("a");
    desk.deaf.clear();
    desk.pass(5_000);
    desk.settle();
    let off: Vec<_> = desk.log.iter().filter(|line| line.starts_with("power_off")).map(String::as_str).collect();
    assert_eq!(off, ["power_off a", "power_off m"]);
    assert!(!desk.nodes[&name("a")].online);
}

#[test]
fn a_start_waits_for_those_that_are_off_and_names_who_never_came() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    assert_eq!(desk.run(OperationKind::Start, None).status, ResponseStatus::Unchanged);
    for node in ["a", "b"] {
        desk.dies(node);
        desk.not_ready(node);
    }
    assert_eq!(desk.run(OperationKind::Start, None).status, ResponseStatus::Started);
    desk.pass(600_000);
    assert_eq!(desk.phase(), OperationPhase::Running);
    desk.boots("a");
    desk.ready("a");
    desk.settle();
    let states = desk.states();
    assert_eq!(states[0], (StepKind::WaitUp, "a".to_string(), StepState::Done));
    assert_eq!(states[1], (StepKind::WaitReady, "a".to_string(), StepState::Done));
    desk.pass(1_300_000);
    assert_eq!(desk.phase(), OperationPhase::PartlyDone);
    let failed = desk.stored.operations.last().unwrap().steps.iter().find(|step| step.state == StepState::Failed);
    assert_eq!(failed.map(|step| step.node.as_str()), Some("b"));
}

#[test]
fn a_shutdown_waits_for_a_worker_that_is_slow_and_gives_up_one_that_is_silent() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.deaf.insert(name("a"));
    desk.run(OperationKind::Shutdown, None);
    desk.settle();
    assert!(!desk.log.contains(&"power_off m".to_string()));
    desk.dies("a");
    desk.pass(SILENT_MS + 10_000);
    assert_eq!(desk.log.last().unwrap(), "power_off m");
    desk.settle();
    desk.restart();
    desk.boots("m");
    assert_eq!(desk.phase(), OperationPhase::PartlyDone);
}

#[test]
fn one_who_took_the_command_and_fell_silent_is_off() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.run(OperationKind::NodeShutdown, Some("a"));
    for _ in 0..2 {
        let (token, work) = desk.work();
        desk.kube_does(token, &work);
    }
    let off = desk.command(VerbName::PowerOff, "a");
    desk.result(&name("a"), &off, CommandStatus::InProgress, "stopping");
    desk.dies("a");
    desk.pass(5_000);
    assert_eq!(desk.phase(), OperationPhase::Running, "presence alone permits nothing");
    desk.pass(SILENT_MS);
    assert_eq!(desk.phase(), OperationPhase::Done);
    assert_eq!(desk.stored.slots, [name("a")], "and it is missing until it is back");
}

#[test]
fn mains_that_come_back_do_not_make_a_power_off() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.run(OperationKind::NodeShutdown, Some("a"));
    for _ in 0..2 {
        let (token, work) = desk.work();
        desk.kube_does(token, &work);
    }
    let off = desk.command(VerbName::PowerOff, "a");
    desk.result(&name("a"), &off, CommandStatus::InProgress, "stopping");
    desk.dies("a");
    desk.nodes.get_mut(&name("a")).unwrap().orderly = false;
    desk.boots("a");
    assert_eq!(desk.phase(), OperationPhase::Running);
    desk.result(&name("a"), &off, CommandStatus::Interrupted, "power");
    desk.pass(RETRY_MS);
    let again = desk.command(VerbName::PowerOff, "a");
    assert_ne!(again.id, off.id, "a new attempt is a new id");
}

#[test]
fn a_drained_node_stays_drained_and_an_operator_uncordons_it() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::NodeDrain, Some("a"));
    desk.settle();
    assert_eq!(desk.log, ["cordon a", "drain a"]);
    desk.pass(120_000);
    desk.restart();
    desk.all_speak();
    desk.look();
    desk.settle();
    assert!(desk.is_cordoned("a"));
    assert_eq!(desk.membership("a"), Membership::Cordoned);
    // it counts
    let refused = desk.run(OperationKind::NodeReboot, Some("b"));
    assert_eq!((refused.status, refused.code.as_str()), (ResponseStatus::Refused, "slot-held"));
    // a restart of itself does not open it
    desk.run(OperationKind::NodeReboot, Some("a"));
    desk.settle();
    assert_eq!((desk.phase(), desk.is_cordoned("a")), (OperationPhase::Done, true));
    desk.run(OperationKind::NodeUncordon, Some("a"));
    desk.settle();
    assert!(!desk.is_cordoned("a") && desk.stored.slots.is_empty());
    assert_eq!(desk.run(OperationKind::NodeUncordon, Some("a")).status, ResponseStatus::Unchanged);
}

#[test]
fn join_and_leave_of_one_node() {
    let mut desk = Desk::with_cluster(&["a", "b"]);
    desk.run(OperationKind::NodeLeave, Some("a"));
    desk.settle();
    assert_eq!(desk.log, ["cordon a", "drain a", "stop a", "delete a", "reset a"]);
    assert_eq!(desk.phase(), OperationPhase::Done);
    assert!(desk.stored.slots.is_empty() && desk.stored.cordons.is_empty());
    assert_eq!(desk.run(OperationKind::NodeLeave, Some("a")).status, ResponseStatus::Unchanged);
    desk.log.clear();
    desk.run(OperationKind::NodeJoin, Some("a"));
    desk.settle();
    assert_eq!(desk.log, ["mint a", "join a"]);
    assert_eq!(desk.run(OperationKind::NodeJoin, Some("a")).status, ResponseStatus::Unchanged);
}

#[test]
fn a_node_that_registered_again_while_it_left_is_deleted_once_more() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.run(OperationKind::NodeLeave, Some("a"));
    while desk.log.last().unwrap() != "reset a" {
        if let Some((token, work)) = desk.works.pop() {
            desk.kube_does(token, &work);
        } else {
            let stop = desk.command(VerbName::Stop, "a");
            desk.obey(&name("a"), &stop);
        }
    }
    desk.view.nodes.push(KubeNode {
        node: name("a"),
        ready: Ready::Yes,
        scheduling: Scheduling::Open,
        boot: Some(boot(&name("a"), 2)),
        version: Text::new(),
    });
    desk.look();
    desk.settle();
    assert_eq!(desk.log.last().unwrap(), "delete a");
    assert!(desk.view.node(&name("a")).is_none());
}

#[test]
fn a_node_is_not_taken_for_gone_while_the_api_server_is_silent() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.run(OperationKind::NodeLeave, Some("a"));
    for _ in 0..2 {
        let (token, work) = desk.work();
        desk.kube_does(token, &work);
    }
    let stop = desk.command(VerbName::Stop, "a");
    desk.obey(&name("a"), &stop);
    desk.step(Event::Kube(KubeView::default()));
    desk.kube_fails("unreachable");
    desk.pass(10_000);
    assert!(!desk.log.contains(&"reset a".to_string()));
    desk.look();
    desk.works.drain(..).for_each(drop);
    desk.pass(120_000);
    assert!(!desk.log.contains(&"reset a".to_string()), "and it is still there");
}

#[test]
fn a_reset_of_a_member_needs_force_and_removes_its_node() {
    let mut desk = Desk::with_cluster(&["a"]);
    let refused = desk.run(OperationKind::NodeReset, Some("a"));
    assert_eq!((refused.status, refused.code.as_str()), (ResponseStatus::Refused, "node-is-member"));
    let refused = desk.run(OperationKind::NodeReset, Some("m"));
    assert_eq!(refused.code.as_str(), "master-has-cluster");
    desk.ask(Desk::want(OperationKind::NodeReset, Some("a"), Force::Yes), Mode::Execute);
    desk.settle();
    assert_eq!(desk.log, ["stop a", "delete a", "reset a"]);
    assert_eq!(desk.phase(), OperationPhase::Done);
}

#[test]
fn identify_runs_beside_anything() {
    let mut desk = Desk::with_cluster(&["a"]);
    desk.run(OperationKind::Rebuild, None);
    let answer = desk.run(OperationKind::NodeIdentify, Some("a"));
    assert_eq!(answer.status, ResponseStatus::Started);
    assert_eq!(desk.run(OperationKind::NodeIdentify, Some("a")).status, ResponseStatus::Unchanged);
    let identify = desk.command(VerbName::Identify, "a");
    desk.obey(&name("a"), &identify);
    assert_eq!(desk.stored.operations.len(), 1, "a local one is forgotten when it has ended");
}
