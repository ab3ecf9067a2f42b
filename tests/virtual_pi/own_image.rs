//! An image of our own (`hardware/image/build`), from Debian's packages to two nodes that are up: prepared by `beehive image prepare`,
//! booted on the virtual Pi, where cloud-init runs our first-boot script; what has to differ between two cards differs; off by the
//! button, and on again.
//!
//! Minutes under emulation: `./test own_image`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use beehive_mqtt::node::PowerPhase;

use crate::daemon::power_off_by_button;
use crate::machine::{BOOT, Hat, Machine, Places, SHUTDOWN, place, program};
use crate::wire::{KEYS, Wire};

const ONE: &str = "bee42-crew-01-001";
const TWO: &str = "bee42-crew-01-002";

/// From power-on to the end of cloud-init: two machines on two busy cores, each module of it a minute of Python.
pub const FIRST_BOOT: Duration = Duration::from_secs(1_200);

/// Runs it, and it has to succeed.
fn must(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (said, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{said}\n{complaint}", output.status);
    eprint!("{complaint}");
    said.into_owned()
}

/// A package with what lands on a card, as far as this test needs one.
fn package(dir: &Path) -> PathBuf {
    let root = dir.join("package");
    let rootfs = Path::new(env!("CARGO_MANIFEST_DIR")).join("hardware/rootfs/.");
    fs::create_dir_all(root.join("DEBIAN")).unwrap();
    must(Command::new("cp").args(["-a", "--no-preserve=ownership"]).arg(rootfs).arg(&root));
    // the example would be a configuration that somebody has to take away
    fs::remove_file(root.join("etc/beehive/beehive.toml")).unwrap();
    place(&program("beehive"), &root.join("usr/bin/beehive"));
    place(&program("beehive-cut"), &root.join("usr/lib/systemd/system-shutdown/beehive-cut"));
    // the image drops man pages, and has no folder for them
    let pages = root.join("usr/share/man/man1");
    fs::create_dir_all(&pages).unwrap();
    fs::write(pages.join("beehive.1"), ".TH beehive 1\n").unwrap();
    // what the package's scripts do; the links of hardware/rootfs are the bare virtual Pi's
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    for wants in ["multi-user", "sysinit", "poweroff"] {
        fs::remove_dir_all(root.join(format!("etc/systemd/system/{wants}.target.wants"))).unwrap();
    }
    let units = fs::read_to_string(repository.join("hardware/package/units")).unwrap();
    let units = units.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_whitespace().next());
    must(Command::new("systemctl").arg("--root").arg(&root).arg("enable").args(units));
    let control = "Package: beehive\nVersion: 0.1.0\nArchitecture: armhf\nMaintainer: a test <test@localhost>\nDescription: beehive\n";
    fs::write(root.join("DEBIAN/control"), control).unwrap();
    let deb = dir.join("beehive_armhf.deb");
    must(Command::new("dpkg-deb").args(["--root-owner-group", "-Zgzip", "--build"]).arg(&root).arg(&deb));
    deb
}

/// The image.
pub fn image(dir: &Path) -> PathBuf {
    let deb = package(dir);
    let image = dir.join("own.img");
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("hardware/image/build");
    must(Command::new(build).args(["--arch", "armhf", "--no-initramfs", "--package"]).arg(deb).arg(&image));
    image
}

/// Where the second partition begins, by the partition table.
pub fn root_from(image: &Path) -> u64 {
    let table = must(Command::new("/sbin/sfdisk").arg("--json").arg(image));
    let table: serde_json::Value = serde_json::from_str(&table).unwrap();
    table["partitiontable"]["partitions"][1]["start"].as_u64().unwrap() * 512
}

/// The card of a node.
fn prepared(image: &Path, wire: &Wire, node: &str, role: &str, dir: &Path) -> PathBuf {
    let (config, key, card) = (dir.join("node.toml"), dir.join("id.pub"), dir.join("card.img"));
    let rest = if role == "master" { "[power]\ngrace_ms = 1000\n[cluster]\nnodes = []\n" } else { "" };
    fs::write(&config, wire.configuration(node, role, rest)).unwrap();
    fs::write(&key, "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBpXqkOZbJpb6C5HlqNtz4b7C4DxZ6Wm8Qb3QbVJvQ2u test\n").unwrap();
    let said = must(
        Command::new(env!("CARGO_BIN_EXE_beehive"))
            .args(["image", "prepare", "--node", node, "--login", "ann", "--image"])
            .arg(image)
            .arg("--out")
            .arg(&card)
            .arg("--ssh-key")
            .arg(&key)
            .arg("--config")
            .arg(&config)
            .arg("--keys")
            .arg(KEYS.node_dir(node)),
    );
    assert!(said.contains("an image of beehive's own"), "{said}");
    card
}

/// What a first boot leaves, and what it takes away.
fn looks_right(machine: &Machine, node: &str) {
    let log = machine.ctl("system cat /var/log/beehive-first-boot.log");
    assert!(log.ends_with("beehive: done"), "{log}");
    assert_eq!(machine.ctl("system hostname"), node);
    assert_eq!(machine.ctl("system cat /usr/share/man/man1/beehive.1"), ".TH beehive 1");
    assert_eq!(machine.ctl("system systemctl is-active beehive avahi-daemon ssh"), "active\nactive\nactive");
    assert_eq!(machine.ctl("system systemctl is-enabled mosquitto || true"), "disabled");
    assert_eq!(
        machine.ctl("system sh -c 'ls /boot/firmware/beehive-key-* 2>/dev/null || true'"),
        "",
        "keys are left there"
    );
    assert_eq!(machine.ctl("system stat -c %a /etc/beehive/identity/identity.toml"), "600");
    // the path unit sees the keys come, a moment later
    let end = Instant::now() + BOOT;
    loop {
        let announced = machine.ctl("system cat /etc/avahi/services/beehive.service");
        if announced.contains(&format!(">node={node}<")) && announced.contains(">state=member<") {
            break;
        }
        assert!(Instant::now() < end, "not announced as a member: {announced}");
    }
    assert!(machine.ctl("system cat /home/ann/.ssh/authorized_keys").starts_with("ssh-ed25519 "));
    // the lines that the next kernel's config.txt is made of
    assert!(machine.ctl("system cat /etc/default/raspi-firmware-custom").contains("gpio=4=op,dh"));
}

/// What must not be the same on two cards.
fn own(machine: &Machine) -> [String; 2] {
    [
        machine.ctl("system cat /etc/machine-id"),
        machine.ctl("system sh -c 'cut -d\" \" -f2 /etc/ssh/ssh_host_ed25519_key.pub'"),
    ]
}

#[test]
#[ignore = "minutes under emulation: ./test own_image"]
fn own_image_becomes_two_nodes() {
    let _places = Places::take(2);
    let wire = Wire::start();
    let work = tempfile::tempdir().unwrap();
    let image = image(work.path());
    let from = root_from(&image);
    let boot =
        |node: &str, role: &str| Machine::boot_partitioned(node, from, |dir| prepared(&image, &wire, node, role, dir));
    let began = Instant::now();
    let (one, two) = (boot(ONE, "master"), boot(TWO, "node"));
    for machine in [&one, &two] {
        machine.wait_up_within(FIRST_BOOT);
    }
    println!("two first boots beside each other, cloud-init to its end: {} s", began.elapsed().as_secs());
    println!("{}", one.ctl("system systemd-analyze blame --no-pager | head -n 8"));
    for (machine, node) in [(&one, ONE), (&two, TWO)] {
        looks_right(machine, node);
        wire.wait_phase(node, 0, PowerPhase::Running);
    }
    let (first, second) = (own(&one), own(&two));
    for (a, b) in first.iter().zip(&second) {
        assert!(a.len() >= 32 && a != b, "two cards of one image are alike: {a}");
    }

    power_off_by_button(&wire, &one, ONE);
    let off = one.wait_off(SHUTDOWN);
    off.was_cut();
    // the same Pi again, and without cloud-init
    let again = wire.now();
    let began = Instant::now();
    let one = off.boot_again(Hat::Absent);
    one.wait_up_within(FIRST_BOOT);
    println!("the next boot: {} s", began.elapsed().as_secs());
    wire.wait_phase(ONE, again, PowerPhase::Running);
    assert_eq!(own(&one), first, "what was made once stays");
    assert_eq!(one.ctl("system systemctl is-active cloud-init || true"), "inactive");
}
