//! What lands on a card beside the programs, as far as it can be held without a systemd that runs: how exposed the units are
//! by systemd's own account, that the daemon waits for no engine, that both formats of polkit's rules grant the same, and that
//! the drain unit is left alone by hands and packages. `tests/virtual_pi/own_user.rs` runs them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What `systemd-analyze security` says of each (systemd 252), in tenths; 0 is shut off, 100 lies open. Less is better, and what
/// makes it more has to say why here.
const EXPOSED: [(&str, u32); 8] = [
    // what is left is the network, which it is there for, the devices, and what all services share (processes, users)
    ("beehive.service", 15),
    // it has no mount namespace of its own, and why stands in the unit
    ("beehive-engine.service", 34),
    // it listens on the network, as root: it writes keys that are root's
    ("beehive-enrol.service", 24),
    // root that writes into /etc, and nothing else
    ("beehive-card.service", 13),
    ("beehive-announce.service", 9),
    // it runs while the system stops, so it has no mount namespace that could fail to be made then
    ("beehive-drain.service", 59),
    // one command each, of root's own and without anybody's words in it: the last way down, and what arms the cut. What a sandbox could
    // not set up would take that away
    ("beehive-force.service", 96),
    ("beehive-poweroff-flag.service", 95),
];

fn card(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("hardware/rootfs").join(path)
}

fn text(path: &str) -> String {
    fs::read_to_string(card(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn unit(name: &str) -> String {
    text(&format!("usr/lib/systemd/system/{name}"))
}

/// The values of a directive, in their order.
fn values<'a>(unit: &'a str, directive: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(directive)?.strip_prefix('=')).collect()
}

#[test]
fn the_units_are_no_more_exposed_than_they_were() {
    let units = fs::read_dir(card("usr/lib/systemd/system")).unwrap();
    let mut shipped: Vec<_> = units.map(|unit| unit.unwrap().file_name().into_string().unwrap()).collect();
    shipped.retain(|name| name.ends_with(".service"));
    let mut held = EXPOSED.map(|(name, _)| name);
    shipped.sort();
    held.sort_unstable();
    assert_eq!(shipped, held, "each service that lands on a card has its figure");
    for (name, most) in EXPOSED {
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=yes", "--no-pager", &format!("--threshold={most}")])
            .arg(card(&format!("usr/lib/systemd/system/{name}")))
            .output()
            .expect("systemd-analyze: ./test installs systemd");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let level = said.lines().find(|line| line.contains("Overall exposure level")).map_or("", str::trim);
        println!("{level}");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(!level.is_empty(), "{name}: {said}{complaint}");
        assert!(output.status.success(), "{name}: more exposed than {most} tenths: {level}\n{said}{complaint}");
    }
}

#[test]
fn the_button_waits_for_no_engine() {
    let daemon = unit("beehive.service");
    for directive in ["After", "Requires", "Requisite", "BindsTo", "PartOf", "Wants"] {
        for value in values(&daemon, directive) {
            for engine in
                ["k3s", "kubelet", "containerd", "docker", "beehive-engine.service", "network-online", "time-sync"]
            {
                assert!(!value.contains(engine), "{directive}={value}");
            }
        }
    }
    // and nothing that it wants is missing on the card
    for wanted in values(&daemon, "Wants") {
        assert!(card(&format!("usr/lib/systemd/system/{wanted}")).is_file(), "{wanted}");
    }
    assert_eq!(values(&daemon, "User"), ["beehive"]);
    assert_eq!(values(&daemon, "Type"), ["notify"]);
}

#[test]
fn what_goes_wrong_before_the_daemon_keeps_it_from_no_start() {
    let release =
        concat!(env!("CARGO_MANIFEST_DIR"), "/hardware/releases/etc/systemd/system/beehive.service.d/release.conf");
    for unit in [unit("beehive.service"), fs::read_to_string(release).unwrap()] {
        for command in values(&unit, "ExecStartPre").into_iter().chain(values(&unit, "ExecStopPost")) {
            assert!(command.is_empty() || command.starts_with('-'), "{command}");
        }
        // the stop of a release on trial is followed by the same as that of the card's own
        assert!(values(&unit, "ExecStopPost").contains(&"-+/usr/lib/beehive/without-keys"), "{unit}");
    }
    use std::os::unix::fs::PermissionsExt as _;
    let mode = fs::metadata(card("usr/lib/beehive/without-keys")).unwrap().permissions().mode();
    assert_eq!(mode & 0o111, 0o111, "{mode:o}");
}

#[test]
fn the_drain_unit_is_for_the_end_of_the_system_alone() {
    let drain = unit("beehive-drain.service");
    assert_eq!(values(&drain, "RefuseManualStop"), ["yes"]);
    assert_eq!(values(&drain, "RemainAfterExit"), ["yes"]);
    for before in [
        "beehive.service",
        "mosquitto.service",
        "containerd.service",
        "k3s.service",
        "kubelet.service",
        "network.target",
    ] {
        assert!(
            values(&drain, "After")[0].split(' ').any(|unit| unit == before),
            "{before} is stopped before the drain"
        );
    }
}

/// polkit before 0.106 reads the one, later ones the other.
#[test]
fn both_formats_of_the_rule_grant_the_same_to_the_same_user() {
    let (rule, older) = (
        text("usr/share/polkit-1/rules.d/50-beehive.rules"),
        text("var/lib/polkit-1/localauthority/10-vendor.d/beehive.pkla"),
    );
    let named = |text: &str| -> Vec<String> {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-')));
        words.filter(|word| word.starts_with("org.")).map(str::to_owned).collect()
    };
    let granted = named(&rule);
    assert_eq!(granted, named(&older));
    // to stop this Pi and to be waited for, and no other thing of anybody's
    let end = |action: &String| action.strip_prefix("org.freedesktop.login1.").unwrap_or("").to_owned();
    for action in granted.iter().map(end) {
        let stops = ["power-off", "reboot"].iter().any(|goal| {
            action.strip_prefix(goal).is_some_and(|rest| ["", "-multiple-sessions", "-ignore-inhibit"].contains(&rest))
        });
        assert!(stops || action == "inhibit-delay-shutdown", "{action}");
    }
    assert_eq!(granted.len(), 7);
    assert!(rule.contains("subject.user == \"beehive\" &&") && older.contains("\nIdentity=unix-user:beehive\n"));
    assert_eq!(older.matches("Identity=").count(), 1);
}
