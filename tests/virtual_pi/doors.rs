//! Every way down, from the word to the last instant: somebody's shutdown reaches the agent through logind's inhibitor or
//! through the stop of the drain unit, the node is emptied once, and the power goes when it may. One card is used again
//! and again, so each boot also shows that nothing of the last shutdown is left: the node is ready and not cordoned.
//!
//! The master of these crews runs on the machine of the tests, with a simulated Kubernetes. It is never asked to stop.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use beehive::host::Door;
use beehive_mqtt::Topic;
use beehive_mqtt::node::{NodeEventKind, PowerPhase};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::machine::{BOOT, Card, Hat, Machine, Off, Places, SHUTDOWN};
use crate::wire::{CREW, KEYS, Wire};

const MASTER: &str = "bee42-crew-01-001";
const NODE: &str = "bee42-crew-01-002";

/// Short enough for a test in which nobody answers, long enough for an answer over an emulated network.
const PREPARE_MS: u64 = 20_000;

/// Gives a word as root in the guest's own system. (The outside world reaches it by chroot, and these programs do nothing
/// in a chroot.)
fn by_root(machine: &Machine, word: &str) {
    machine.ctl(&format!("system systemd-run --quiet --collect --no-block {word}"));
}

/// Waits until logind knows the daemon's inhibitor. The daemon takes it beside the rest of its start, since the button waits
/// for no bus; a shutdown that is quicker comes through the drain unit.
///
/// An inhibitor is a file with a number as its name. Beside it, and a moment before it, is a pipe (`1.ref`), which must not be
/// read: that never ends.
fn inhibited(machine: &Machine) {
    let deadline = Instant::now() + BOOT;
    while machine.try_ctl("grep -q WHO=beehive /proc/1/root/run/systemd/inhibit/*[0-9]").is_none() {
        if Instant::now() > deadline {
            machine.fail("the daemon took no inhibitor in time");
        }
    }
}

/// A crew of a master here and one virtual Pi.
struct Crew {
    wire: Wire,
    master: Child,
    _folder: TempDir,
}

impl Crew {
    fn start() -> Self {
        let wire = Wire::start();
        let folder = tempfile::tempdir().unwrap();
        let (state, run) = (folder.path().join("state"), folder.path().join("run"));
        fs::create_dir(&run).unwrap();
        let keys = KEYS.node_dir(MASTER);
        let config = folder.path().join("beehive.toml");
        let text = format!(
            "crew = \"{CREW}\"\nnode = \"{MASTER}\"\nrole = \"master\"\nstate_dir = {state:?}\nrun_dir = {run:?}\n\
             leds = \"off\"\n[broker]\nport = {}\n[pins]\nbackend = \"none\"\n[cluster]\nnodes = [\"{NODE}\"]\n[keys]\ndir = {keys:?}\n",
            wire.port()
        );
        fs::write(&config, text).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let master = Command::new(env!("CARGO_BIN_EXE_beehive"))
            .args(["run", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { wire, master, _folder: folder }
    }

    fn card(&self) -> Card {
        let times = format!("[power]\ngrace_ms = 1000\nprepare_ms = {PREPARE_MS}\n");
        Card::with_daemon(NODE, &self.wire.configuration(NODE, "node", &times))
    }

    /// Boots and creates the cluster.
    fn first_boot(&self) -> Machine {
        let machine = Machine::boot(&self.card(), Hat::Absent);
        machine.wait_up();
        self.wire.wait_phase(NODE, 0, PowerPhase::Running);
        self.wire.must(&["cluster", "create", "--wait"]);
        self.all_ready();
        inhibited(&machine);
        machine
    }

    /// Boots the same card again and waits until the node is back, ready and open to work.
    fn next_boot(&self, off: Off) -> Machine {
        let from = self.wire.now();
        let machine = off.boot_again(Hat::Absent);
        machine.wait_up();
        self.wire.wait_event(NODE, from, NodeEventKind::Started, "boot");
        self.all_ready();
        inhibited(&machine);
        machine
    }

    fn all_ready(&self) {
        let deadline = Instant::now() + BOOT;
        loop {
            let status: serde_json::Value = serde_json::from_str(&self.wire.must(&["status", "--json"])).unwrap();
            let ready = |node: &serde_json::Value| node["membership"] == "ready";
            if status["nodes"].as_array().is_some_and(|nodes| nodes.len() == 2 && nodes.iter().all(ready)) {
                return;
            }
            assert!(Instant::now() < deadline, "not all ready in time: {status:#}");
        }
    }

    /// How often the coordinator emptied the node since message `from`.
    fn drains(&self, from: usize) -> usize {
        self.wire.count(from, |topic, payload| {
            matches!(topic, Topic::CoordinatorEvent)
                && String::from_utf8_lossy(payload).contains(&format!("drain {NODE}: done"))
        })
    }

    /// Gives a word in the guest, and waits until the node was emptied once and its engine stopped.
    fn goes_down(&self, machine: &Machine, word: &str, door: Door) -> usize {
        let from = self.wire.now();
        by_root(machine, word);
        let told = self.wire.wait_event(NODE, from, NodeEventKind::Power, "the system is stopping");
        let said = format!("the system is stopping ({})", door.as_str());
        if self.wire.count_events_since(told, NODE, NodeEventKind::Power, &said) != 1 {
            machine.fail(&format!("`{word}` came through another door than {door:?}"));
        }
        let draining = self.wire.wait_phase(NODE, told, PowerPhase::Draining);
        let stopping = self.wire.wait_phase(NODE, draining, PowerPhase::Stopping);
        self.wire.wait_phase(NODE, stopping, PowerPhase::HandingOver);
        from
    }

    /// The node was emptied just once since message `from`; asked when the machine is off.
    fn drained_once(&self, from: usize) {
        assert_eq!(self.drains(from), 1, "emptied more or less than once");
        let doors = self.wire.count_events_since(from, NODE, NodeEventKind::Power, "draining");
        assert_eq!(doors, 1, "the sequence began more or less than once");
    }

    fn signal_master(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.master), signal).unwrap();
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        let _ = self.master.kill();
        let _ = self.master.wait();
    }
}

/// Through logind and past it, power-off and reboot: emptied once each time, and cut at a power-off alone.
#[test]
fn whoever_stops_the_system_the_node_is_emptied_once() {
    let _place = Places::take(1);
    let crew = Crew::start();
    let machine = crew.first_boot();

    // a shutdown that is taken back within its minute leaves nothing
    let from = crew.wire.now();
    by_root(&machine, "shutdown +1");
    let scheduled = "test -e /proc/1/root/run/systemd/shutdown/scheduled";
    while machine.try_ctl(scheduled).is_none() {}
    by_root(&machine, "shutdown -c");
    while machine.try_ctl(scheduled).is_some() {}
    let heard = crew.wire.wait_telemetry(NODE, "a heartbeat after it", from, |_| true);
    crew.wire.wait_telemetry(NODE, "another heartbeat", heard + 1, |_| true);
    assert_eq!(crew.wire.count_events_since(from, NODE, NodeEventKind::Power, ""), 0, "it began to go down");
    crew.all_ready();

    // through logind
    let from = crew.goes_down(&machine, "systemctl poweroff", Door::Inhibitor);
    let off = machine.wait_off(SHUTDOWN);
    off.was_cut();
    crew.drained_once(from);

    // past logind, straight to systemd
    let machine = crew.next_boot(off);
    let word = "systemctl --no-block --job-mode=replace-irreversibly start poweroff.target";
    let from = crew.goes_down(&machine, word, Door::DrainUnit);
    let off = machine.wait_off(SHUTDOWN);
    off.was_cut();
    crew.drained_once(from);

    let machine = crew.next_boot(off);
    let from = crew.goes_down(&machine, "reboot", Door::Inhibitor);
    let off = machine.wait_off(SHUTDOWN);
    off.was_not_cut().said("this is not a power-off");
    crew.drained_once(from);
}

/// The words that come to the same doors.
#[test]
#[ignore = "minutes under emulation: ./test pi_long"]
fn every_other_word_that_stops_the_system_empties_the_node_once() {
    let _place = Places::take(1);
    let crew = Crew::start();
    let machine = crew.first_boot();

    // root's own commands: systemd 252 asks logind first for them too; older ones went straight to systemd
    let from = crew.goes_down(&machine, "poweroff", Door::Inhibitor);
    let off = machine.wait_off(SHUTDOWN);
    off.was_cut();
    crew.drained_once(from);

    let machine = crew.next_boot(off);
    let from = crew.goes_down(&machine, "shutdown -h now", Door::Inhibitor);
    let off = machine.wait_off(SHUTDOWN);
    off.was_cut();
    crew.drained_once(from);

    // over MQTT, from the operator's console
    let machine = crew.next_boot(off);
    let from = crew.wire.now();
    crew.wire.must(&["node", "shutdown", NODE, "--yes"]);
    machine.wait_off(SHUTDOWN).was_cut();
    assert_eq!(crew.drains(from), 1, "emptied more or less than once");
}

/// What ends without a drain: nobody is there to ask for it, or nobody answers.
#[test]
fn what_hangs_delays_and_prevents_nothing() {
    let _place = Places::take(1);
    let crew = Crew::start();
    let machine = crew.first_boot();

    // a coordinator that hangs: the deadline passes, and the node goes on
    crew.signal_master(Signal::STOP);
    crew.goes_down(&machine, "systemctl poweroff", Door::Inhibitor);
    let off = machine.wait_off(SHUTDOWN);
    off.was_cut();
    crew.signal_master(Signal::CONT);

    // an agent that is dead holds nothing up; the feed that it left is fresh enough for the cut
    let machine = crew.next_boot(off);
    machine.ctl("system systemctl stop beehive");
    let from = crew.wire.now();
    by_root(&machine, "poweroff");
    let off = machine.wait_off(SHUTDOWN);
    off.was_cut();
    assert_eq!(crew.drains(from), 0);
}

/// What ends without a cut, and what else ends without a drain.
#[test]
#[ignore = "minutes under emulation: ./test pi_long"]
fn what_is_no_power_off_is_not_cut_and_nothing_holds_a_power_off_up() {
    let _place = Places::take(1);
    let crew = Crew::start();
    let machine = crew.first_boot();

    let from = crew.goes_down(&machine, "halt", Door::Inhibitor);
    let off = machine.wait_halted(SHUTDOWN);
    off.halted_clean().said("this is not a power-off");
    crew.drained_once(from);

    // no kernel is loaded for it, so the machine restarts; the hook is called with this verb all the same
    let machine = crew.next_boot(off);
    let from = crew.goes_down(&machine, "systemctl --no-block start kexec.target", Door::DrainUnit);
    let off = machine.wait_off(SHUTDOWN);
    off.was_not_cut().said("kexec");
    crew.drained_once(from);

    // by force: no unit is stopped, so nothing is drained and nothing armed
    let machine = crew.next_boot(off);
    let from = crew.wire.now();
    by_root(&machine, "systemctl poweroff -f");
    let off = machine.wait_off(SHUTDOWN);
    off.was_not_cut();
    assert_eq!(crew.drains(from), 0);

    // the agent dies while it waits for a coordinator that hangs: systemd goes on without it
    let machine = crew.next_boot(off);
    crew.signal_master(Signal::STOP);
    let from = crew.wire.now();
    machine.ctl("system systemctl poweroff");
    crew.wire.wait_phase(NODE, from, PowerPhase::Draining);
    machine.ctl("system systemctl kill --signal=KILL beehive");
    let off = machine.wait_off(SHUTDOWN);
    off.was_cut();
    crew.signal_master(Signal::CONT);

    // and without a broker
    let machine = crew.next_boot(off);
    crew.wire.end_broker();
    machine.ctl("system systemctl poweroff");
    machine.wait_off(SHUTDOWN + Duration::from_millis(PREPARE_MS)).was_cut();
}
