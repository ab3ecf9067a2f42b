//! The package on a Pi that has nothing of ours: installed, upgraded in the middle of an operation, removed, purged; and in an
//! image, from which the button leads to the cut. The two packages, of the same program, are what `./test packages` builds.

use std::path::PathBuf;
use std::thread;

use beehive_mqtt::coordinator::{CoordinatorEvent, CoordinatorEventKind};
use beehive_mqtt::node::{Connection, NodeEventKind, PowerPhase, Presence};
use beehive_mqtt::{Topic, decode};

use crate::machine::{Card, Hat, Machine, Places, SHUTDOWN};
use crate::wire::Wire;

const ONE: &str = "bee42-crew-01-001";

/// A step that takes longer than an upgrade of the package does, however busy the machine that emulates it.
const SLOW: &str = "[power]\ngrace_ms = 1000\n\n[engine]\nstep_ms = 600000\n\n[cluster]\nnodes = []\n";

/// The package with that revision, from the folder that `BEEHIVE_VPI_PACKAGES` names.
fn package(revision: u32) -> PathBuf {
    let folder = std::env::var_os("BEEHIVE_VPI_PACKAGES").map(PathBuf::from).unwrap_or_else(|| {
        panic!(
            "BEEHIVE_VPI_PACKAGES is not set: build the package twice and name the folder, as ./test does:\n  \
             hardware/package/build --arch armhf FOLDER\n  hardware/package/build --arch armhf --revision 2 FOLDER"
        )
    });
    let path = folder.join(format!("beehive_{}-{revision}_armhf.deb", env!("CARGO_PKG_VERSION")));
    assert!(path.is_file(), "{} is not there: build it first", path.display());
    path
}

/// Runs a command in the guest and answers what it said, errors too.
fn run(machine: &Machine, command: &str) -> String {
    machine.ctl(&format!("system sh -c '{command} 2>&1'"))
}

/// The same for a command whose exit code says nothing.
fn look(machine: &Machine, command: &str) -> String {
    machine.ctl(&format!("system sh -c '{command} 2>&1 || true'"))
}

fn is_active(machine: &Machine, unit: &str) -> String {
    look(machine, &format!("systemctl is-active {unit}"))
}

#[test]
fn a_package_is_installed_upgraded_removed_and_purged_and_the_power_line_never_moves() {
    let _place = Places::take(1);
    let wire = Wire::start();
    let card = Card::without_beehive(ONE, &wire.configuration(ONE, "master", SLOW))
        .program(&package(1), "root/1.deb")
        .program(&package(2), "root/2.deb");
    let machine = Machine::boot(&card, Hat::Absent);
    machine.wait_up();

    // installed, and not configured: it is enabled, and does nothing
    let said = run(&machine, "dpkg -i /root/1.deb");
    assert!(!said.contains("WARNING") && said.contains("not configured"), "{said}");
    let units = ["beehive.service", "beehive-drain.service", "beehive-engine.socket", "beehive-poweroff-flag.service"];
    for unit in units {
        assert_eq!(look(&machine, &format!("systemctl is-enabled {unit}")), "enabled", "{unit}");
    }
    assert_eq!(is_active(&machine, "beehive.service"), "inactive");
    assert_eq!(is_active(&machine, "beehive-drain.service"), "active");
    assert_eq!(is_active(&machine, "beehive-engine.socket"), "active");
    assert!(look(&machine, "ls /etc/beehive/beehive.toml").contains("No such file"));

    // configured
    run(&machine, "mkdir -p /etc/beehive && cp -a /root/etc/. /etc/beehive/ && systemctl start beehive");
    let running = wire.wait_phase(ONE, 0, PowerPhase::Running);
    wire.wait_telemetry(ONE, "the feed shim", running, |telemetry| telemetry.feed.as_str() == "shim");

    // upgraded in the middle of an operation, which is resumed; and beside somebody who has taken the power line since
    let drain_since = || look(&machine, "systemctl show -p ActiveEnterTimestampMonotonic beehive-drain.service");
    let (drain, pid) = (drain_since(), machine.ctl("pidof beehive"));
    let from = wire.now();
    thread::scope(|scope| {
        let create = scope.spawn(|| wire.must(&["cluster", "create", "--wait"]));
        // as the step begins: the coordinator tells of its end alone
        wire.wait_event(ONE, from, NodeEventKind::Lifecycle, "joining");
        run(&machine, "mkdir -p /boot && echo dtoverlay=w1-gpio >/boot/config.txt");
        // the daemon that takes the step up again reads this, and the step ends at once
        run(&machine, "sed -i s/600000/0/ /etc/beehive/beehive.toml");
        let before = wire.now();
        let said = run(&machine, "dpkg -i /root/2.deb");
        assert!(said.contains("WARNING: BCM4 has another user: /boot/config.txt, line 1"), "{said}");
        assert!(!said.contains("not configured"), "{said}");
        wire.wait_telemetry(ONE, "the feed unknown", before, |telemetry| {
            telemetry.feed.as_str() == "unknown" && telemetry.feed_evidence.as_str().contains("BCM4 has another user")
        });
        create.join().unwrap();
        let restarted = wire.wait_event(ONE, before, NodeEventKind::Started, "");
        let ended = |topic: &Topic, payload: &[u8]| {
            matches!(topic, Topic::CoordinatorEvent)
                && decode::<CoordinatorEvent>(payload)
                    .is_ok_and(|event| event.kind == CoordinatorEventKind::OperationEnded)
        };
        assert!(wire.wait("the operation's end", from, ended) > restarted, "the operation was over before the upgrade");
    });
    assert_ne!(machine.ctl("pidof beehive"), pid, "the daemon was not restarted");
    assert_eq!(drain_since(), drain, "the drain unit was restarted");
    assert_eq!(run(&machine, "dpkg-query -W -f \"\\${Version}\" beehive"), format!("{}-2", env!("CARGO_PKG_VERSION")));
    let status = wire.must(&["status", "--json"]);
    assert!(status.contains("\"membership\":\"ready\"") || status.contains("\"membership\": \"ready\""), "{status}");
    let drained = wire.count(from, |topic, payload| {
        matches!(topic, Topic::CoordinatorEvent) && String::from_utf8_lossy(payload).contains("drain ")
    });
    assert_eq!(drained, 0, "the upgrade drained the node");

    // who has disabled a unit is not overruled
    run(&machine, "systemctl disable beehive-engine.socket && dpkg -i /root/2.deb");
    assert_eq!(look(&machine, "systemctl is-enabled beehive-engine.socket"), "disabled");
    run(&machine, "systemctl enable beehive-engine.socket");

    // removed: stopped, disabled, not drained; what it knows is left. There is no avahi here, so its file is put there by hand
    let announced = "/etc/avahi/services/beehive.service";
    run(&machine, &format!("mkdir -p /etc/avahi/services && touch {announced}"));
    assert_eq!(is_active(&machine, "beehive-force.path"), "active");
    let from = wire.now();
    let said = run(&machine, "dpkg -r beehive");
    assert!(said.contains("not drained") && said.contains("does not cut the power"), "{said}");
    wire.wait("the farewell", from, |topic, payload| {
        matches!(topic, Topic::Presence(_))
            && decode::<Presence>(payload).is_ok_and(|said| said.status == Connection::Offline)
    });
    for unit in units {
        assert_eq!(is_active(&machine, unit), "inactive", "{unit}");
    }
    let active = look(&machine, "systemctl list-units --plain --no-legend --state=active,activating \"beehive*\"");
    assert_eq!(active, "", "units are left active");
    assert_eq!(look(&machine, &format!("test -e {announced} && echo left")), "", "the Pi is still announced");
    let links = look(&machine, "find /etc/systemd/system -name \"beehive*\"");
    assert_eq!(links, "", "links are left");
    // with the folder, where nothing else is in it
    assert_eq!(look(&machine, "test -e /usr/lib/systemd/system-shutdown/beehive-cut && echo left"), "");
    let left = look(&machine, "ls -1d /etc/beehive/beehive.toml /var/lib/beehive");
    assert_eq!(left, "/etc/beehive/beehive.toml\n/var/lib/beehive");

    // installed again it goes on, by itself
    run(&machine, "rm /boot/config.txt");
    let from = wire.now();
    run(&machine, "dpkg -i /root/2.deb");
    wire.wait_telemetry(ONE, "the feed shim again", from, |telemetry| telemetry.feed.as_str() == "shim");
    assert_eq!(look(&machine, "systemctl is-enabled beehive.service"), "enabled");

    // purged: state and keys are gone, and it is not announced; releases that a drop-in uses are not gone
    run(&machine, &format!("touch {announced}"));
    run(&machine, "mkdir -p /var/lib/beehive-releases/1 /etc/systemd/system/beehive.service.d");
    run(&machine, "touch /etc/systemd/system/beehive.service.d/release.conf");
    let said = run(&machine, "dpkg -P beehive");
    assert!(said.contains("/var/lib/beehive-releases is left"), "{said}");
    let left = look(&machine, "ls -1d /etc/beehive /var/lib/beehive /var/lib/beehive-engine /var/lib/beehive-releases");
    assert!(left.lines().filter(|line| line.starts_with('/')).eq(["/var/lib/beehive-releases"]), "{left}");
    assert_eq!(look(&machine, &format!("test -e {announced} && echo left")), "", "the Pi is still announced");
    assert_eq!(look(&machine, "find /var/lib/systemd/deb-systemd-helper-enabled -name \"beehive*\""), "");

    assert_eq!(machine.lows(), 0);
    machine.ctl("system systemctl poweroff");
    machine.wait_off(SHUTDOWN).was_not_cut();
}

#[test]
fn an_image_with_the_package_goes_from_the_button_to_the_cut() {
    let _place = Places::take(1);
    let wire = Wire::start();
    let card = Card::without_beehive(
        ONE,
        &wire.configuration(ONE, "master", "[power]\ngrace_ms = 1000\n\n[cluster]\nnodes = []\n"),
    )
    .package(&package(1))
    .configured();
    let machine = Machine::boot(&card, Hat::Absent);
    machine.wait_up();
    let from = wire.wait_phase(ONE, 0, PowerPhase::Running);
    machine.ctl("press 4");
    wire.wait_phase(ONE, from, PowerPhase::HandingOver);
    machine.wait_off(SHUTDOWN).was_cut().said("beehive-cut: cutting the power");
}
