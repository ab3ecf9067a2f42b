//! The daemon as a user of its own, under the hardening that is shipped: what it may, what it may not, its keys, its LEDs, and its
//! ways to stop the Pi. All the other cases run so too; this one looks at the walls.

use beehive_mqtt::node::{NodeEventKind, PartStatus, PowerPhase};

use crate::daemon::short_press;
use crate::machine::{Card, Hat, Machine, Places, SHUTDOWN};
use crate::wire::Wire;

const ONE: &str = "bee42-crew-01-001";

/// A command of the guest's as a user with its groups, though without its unit's hardening: what is refused here is
/// refused by rights alone.
fn as_user(user: &str, command: &str) -> String {
    let group = if user == "nobody" { "nogroup" } else { user };
    format!("system /usr/bin/setpriv --reuid={user} --regid={group} --init-groups {command}")
}

/// What a field of the daemon's status in /proc says.
fn status(machine: &Machine, field: &str) -> String {
    machine.ctl(&format!("sed -n 's/^{field}:[^0-9a-f]*//p' /proc/$(pidof beehive)/status"))
}

fn owner(machine: &Machine, path: &str) -> String {
    machine.ctl(&format!("system /usr/bin/stat --format='%U:%G %a' {path}"))
}

/// What logind answers to "may I".
fn may(machine: &Machine, user: &str, what: &str) -> String {
    let call = "busctl call org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager";
    machine.ctl(&as_user(user, &format!("{call} {what}")))
}

fn refused(machine: &Machine, command: &str) {
    let command = as_user("beehive", command);
    if let Some(said) = machine.try_ctl(&command) {
        machine.fail(&format!("`{command}` was not refused: {said}"));
    }
}

/// A signed command of an operator's is obeyed, so the daemon has its keys.
fn obeys(wire: &Wire) {
    wire.must(&["node", "identify", ONE]);
}

#[test]
fn the_daemon_is_a_user_and_no_more() {
    let _place = Places::take(1);
    let wire = Wire::start();
    let rest = "[power]\ngrace_ms = 1000\n\n[poe_hat]\nbus = \"/dev/i2c-1\"\npoll_ms = 250\n\n[cluster]\nnodes = []\n";
    // a card on which the daemon was root once
    let card = Card::with_daemon(ONE, &wire.configuration(ONE, "master", rest)).file("var/lib/beehive/audit/old", "");
    let machine = Machine::boot(&card, Hat::Absent);
    machine.wait_up();
    wire.wait_phase(ONE, 0, PowerPhase::Running);
    let works = |from| {
        wire.wait_info(ONE, "its button and LEDs", from, |info| {
            info.button.status == PartStatus::Works && info.leds.status == PartStatus::Works
        })
    };
    works(0);
    obeys(&wire);

    // who it is
    let user = machine.ctl("system /usr/bin/id --user beehive");
    assert!(user != "0" && status(&machine, "Uid").starts_with(&user), "{}", status(&machine, "Uid"));
    for (field, value) in
        [("CapEff", "0000000000000000"), ("CapBnd", "0000000000000000"), ("NoNewPrivs", "1"), ("Seccomp", "2")]
    {
        assert_eq!(status(&machine, field), value, "{field}");
    }
    let groups = machine.ctl("system /usr/bin/id --name --groups beehive");
    let mut groups: Vec<&str> = groups.split(' ').collect();
    groups.sort_unstable();
    assert_eq!(groups, ["beehive", "gpio", "i2c"]);

    // whose what is
    for (path, expected) in [
        ("/run/beehive", "root:beehive 1775"),
        ("/run/beehive/feed", "beehive:beehive 600"),
        ("/var/lib/beehive", "beehive:beehive 700"),
        ("/var/lib/beehive/audit/old", "beehive:beehive 644"),
        ("/etc/beehive/identity", "root:root 700"),
        ("/etc/beehive/identity/identity.toml", "root:root 600"),
        ("/dev/gpiochip1", "root:gpio 660"),
        ("/dev/i2c-1", "root:i2c 660"),
        ("/sys/class/leds/ACT/trigger", "root:beehive 664"),
        ("/sys/class/leds/PWR/brightness", "root:beehive 664"),
    ] {
        assert_eq!(owner(&machine, path), expected, "{path}");
    }

    // what it may ask, and nobody else
    assert!(machine.ctl("system systemd-inhibit --list --no-pager").contains("beehive"));
    for what in ["CanPowerOff", "CanReboot"] {
        assert_eq!(may(&machine, "beehive", what), "s \"yes\"", "{what}");
        assert_ne!(may(&machine, "nobody", what), "s \"yes\"", "{what}");
    }
    assert_ne!(may(&machine, "beehive", "CanSuspend"), "s \"yes\"");
    for command in [
        "systemctl --no-ask-password start poweroff.target",
        "systemctl --no-ask-password restart beehive-drain.service",
        "systemd-run --no-ask-password --wait true",
        "cat /etc/beehive/identity/identity.toml",
        "touch /etc/beehive/x",
        "touch /usr/bin/beehive",
        "sh -c 'echo x >/sys/class/leds/ACT/uevent'",
    ] {
        refused(&machine, command);
    }
    // what root left in the folder is not its to move
    machine.ctl("touch /proc/1/root/run/beehive/roots");
    refused(&machine, "rm -f /run/beehive/roots");
    refused(&machine, "mv /run/beehive/roots /run/beehive/poweroff");

    // the way past logind takes nothing away from the one through it: a word of somebody else's there starts nothing
    let nobody = as_user("nobody", "touch /run/beehive/force-poweroff");
    assert_eq!(machine.try_ctl(&nobody), None);

    // without keys, with keys that systemd cannot take, and with them again: the button lives, and a restart makes them count
    let keys = "/proc/1/root/etc/beehive/identity";
    machine.ctl(&format!("mv {keys}/identity.toml {keys}/aside"));
    for (what, said) in [
        ("true", "there is no /etc/beehive/identity/identity.toml"),
        ("echo nonsense >identity.toml", "it is no identity"),
        ("rm identity.toml; mkdir identity.toml", "no keys of"),
        (
            "rmdir identity.toml; dd if=/dev/zero of=identity.toml bs=1M count=2",
            "cannot be read: starting without them",
        ),
    ] {
        machine.ctl(&format!("cd {keys} && {{ {what}; }}"));
        let from = wire.now();
        machine.try_ctl("system systemctl restart beehive");
        works(from);
        short_press(&wire, &machine, ONE, "0.2");
        let log = machine.ctl("system journalctl --no-pager --unit=beehive --boot");
        assert!(log.contains(said), "{what}: {said}\n{log}");
    }
    machine.ctl(&format!("cd {keys} && rm identity.toml && mv aside identity.toml"));
    let from = wire.now();
    machine.ctl("system systemctl restart beehive");
    works(from);
    obeys(&wire);

    // what lies in the flag's place keeps the power from no cut
    machine.ctl(&as_user("beehive", "mkdir /run/beehive/poweroff"));

    // a logind that does not answer: refused politely, the daemon goes past it
    machine.ctl("system systemctl mask --runtime --now systemd-logind.service");
    let from = wire.now();
    machine.ctl("press 4");
    let failed = wire.wait_event(ONE, from, NodeEventKind::Power, "hand-over failed: logind");
    wire.wait_offline(ONE, failed, "the Pi goes down");
    machine.wait_off(SHUTDOWN).was_cut();
}
