//! Three virtual Pis as one crew: what an operator in another room asks of it, and mains that fail in the middle.
//!
//! Eight boots, three Pis at once: `./test pi_crew`.

use std::thread;
use std::time::{Duration, Instant};

use beehive_mqtt::Topic;
use beehive_mqtt::coordinator::{CoordinatorEvent, StepKind};
use beehive_mqtt::decode;
use beehive_mqtt::node::PowerPhase;

use crate::machine::{BOOT, Card, Hat, Machine, Places, SHUTDOWN};
use crate::wire::Wire;

const ONE: &str = "bee42-crew-01-001";
const TWO: &str = "bee42-crew-01-002";
const THREE: &str = "bee42-crew-01-003";

/// The grace time is the shortest allowed; the steps of the engine take long enough to be cut in the middle.
const REST: &str = "[power]\ngrace_ms = 1000\n\n[engine]\nstep_ms = 2000\n";

/// From a node's turn in a rolling reboot to its end; it is cordoned and drained before.
const GOES: Duration = SHUTDOWN;

fn status(wire: &Wire) -> serde_json::Value {
    serde_json::from_str(&wire.must(&["status", "--json"])).unwrap()
}

fn all_ready(wire: &Wire) -> serde_json::Value {
    let status = status(wire);
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    let memberships: Vec<_> = nodes.iter().map(|node| node["membership"].as_str().unwrap_or("-")).collect();
    assert_eq!(memberships, ["ready", "ready", "ready"], "{status}");
    status
}

/// Waits until a node says that it runs.
fn back(wire: &Wire, node: &str, from: usize) -> usize {
    wire.wait_phase(node, from, PowerPhase::Running)
}

/// Waits until the coordinator says that a step has ended.
fn wait_step(wire: &Wire, from: usize, kind: StepKind, node: &str) -> usize {
    let text = format!("{kind} {node}");
    wire.wait(&format!("the step {text}"), from, |topic, payload| {
        matches!(topic, Topic::CoordinatorEvent)
            && decode::<CoordinatorEvent>(payload).is_ok_and(|event| event.detail.as_str().contains(&text))
    })
}

#[test]
#[ignore = "minutes under emulation: ./test pi_crew"]
fn a_crew_of_three_is_made_rebooted_rebuilt_and_switched_off_while_mains_fail() {
    let _place = Places::take(3);
    let wire = Wire::start();
    let cluster = format!("{REST}\n[cluster]\nnodes = [\"{TWO}\", \"{THREE}\"]\n");
    let began = Instant::now();
    let one = Machine::boot(&Card::with_daemon(ONE, &wire.configuration(ONE, "master", &cluster)), Hat::Absent);
    let two = Machine::boot(&Card::with_daemon(TWO, &wire.configuration(TWO, "node", REST)), Hat::Absent);
    let three = Machine::boot(&Card::with_daemon(THREE, &wire.configuration(THREE, "node", REST)), Hat::Absent);
    for machine in [&one, &two, &three] {
        machine.wait_up();
    }
    let up = began.elapsed().as_secs();
    for node in [ONE, TWO, THREE] {
        back(&wire, node, 0);
    }
    let running = began.elapsed().as_secs();
    println!(
        "three Pis at once, from the making of their cards: up after {up} s, all of them said that they run after {running} s"
    );
    wire.must(&["cluster", "create", "--wait"]);
    let created = all_ready(&wire);

    // one after the other, the master last; the emulator ends where a Pi would boot again, so the test is its firmware
    let (one, two, three) = thread::scope(|scope| {
        let reboot = scope.spawn(|| wire.must(&["cluster", "reboot", "--wait"]));
        let two = two.wait_off(GOES);
        two.was_not_cut();
        let from = wire.now();
        let two = two.boot_again(Hat::Absent);
        back(&wire, TWO, from);
        // the mains of the next one fail while it comes back, before its agent was heard
        let three = three.wait_off(GOES + BOOT);
        three.was_not_cut();
        let three = three.boot_again(Hat::Absent);
        three.wait_console("Reached target", BOOT);
        let three = three.mains_fail().boot_again(Hat::Absent);
        let one = one.wait_off(GOES + BOOT);
        one.was_not_cut();
        let one = one.boot_again(Hat::Absent);
        reboot.join().unwrap();
        (one, two, three)
    });
    let rebooted = all_ready(&wire);
    assert_eq!(created["cluster"]["id"], rebooted["cluster"]["id"], "it is the same cluster");

    // the master's mains fail in the middle of a rebuild: its coordinator takes it up again
    let from = wire.now();
    let one = thread::scope(|scope| {
        let rebuild = scope.spawn(|| wire.must(&["cluster", "rebuild", "--wait", "--yes"]));
        wait_step(&wire, from, StepKind::Reset, TWO);
        let one = one.mains_fail().boot_again(Hat::Absent);
        rebuild.join().unwrap();
        one
    });
    let rebuilt = all_ready(&wire);
    assert_ne!(created["cluster"]["id"], rebuilt["cluster"]["id"], "a rebuild makes a new cluster");

    // the master goes last: not before the others have said goodbye
    let from = wire.now();
    wire.must(&["cluster", "shutdown", "--yes"]);
    let master = wire.wait_phase(ONE, from, PowerPhase::Stopping);
    for node in [TWO, THREE] {
        let left = wire.wait_offline(node, from, "the Pi goes down");
        assert!(left < master, "{node} was still there when the master went");
    }
    two.wait_off(SHUTDOWN).was_cut();
    three.wait_off(SHUTDOWN).was_cut();
    one.wait_off(SHUTDOWN).was_cut();
}
