//! Releases side by side under a real systemd, put onto the card by the steps of docs/upgrade.md: the guard before each start,
//! the link that it changes looked up after it, the unit that looks at a trial.
//!
//! Another version is the same program with another version in its mark; one that dies at its start has no entry point.

use std::fs;
use std::path::Path;

use crate::machine::{Card, Hat, Machine, Places, program};
use crate::wire::{KEYS, Wire};
use tempfile::TempDir;

const ONE: &str = "bee42-crew-01-001";
const DROP_IN: &str = include_str!("../../hardware/releases/etc/systemd/system/beehive.service.d/release.conf");
const SERVICE: &str = include_str!("../../hardware/releases/etc/systemd/system/beehive-release.service");
const TIMER: &str = include_str!("../../hardware/releases/etc/systemd/system/beehive-release.timer");

/// Whether a release can be started.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Starts {
    Yes,
    No,
}

fn release(version: &str, starts: Starts) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("armv7");
    fs::create_dir(&place).unwrap();
    fs::copy(program("beehive-cut"), place.join("beehive-cut")).unwrap();
    let mut bytes = fs::read(program("beehive")).unwrap();
    let mark = |version: &str| format!("beehive-release-mark 1 version {version:<32} protocol ").into_bytes();
    let (own, new) = (mark(env!("CARGO_PKG_VERSION")), mark(version));
    let mut marks = 0;
    for at in 0..bytes.len() - own.len() {
        if bytes[at] == b'b' && bytes[at..].starts_with(&own) {
            bytes[at..at + new.len()].copy_from_slice(&new);
            marks += 1;
        }
    }
    assert!(marks > 0, "the program has no mark");
    if starts == Starts::No {
        // e_entry of a 32-bit file (elf(5))
        bytes[24..28].fill(0);
    }
    fs::write(place.join("beehive"), bytes).unwrap();
    beehive::release::command::sign(dir.path(), KEYS.folder.path()).unwrap();
    dir
}

fn with_release(card: Card, release: &Path, places: [&'static str; 3]) -> Card {
    ["beehive", "beehive-cut", "manifest"]
        .into_iter()
        .zip(places)
        .fold(card, |card, (name, place)| card.program(&release.join("armv7").join(name), place))
}

#[test]
#[ignore = "minutes under emulation: ./test pi_long"]
fn a_release_that_dies_at_its_start_is_left_for_the_one_before_it() {
    let _place = Places::take(1);
    let wire = Wire::start();
    let (first, good, bad) =
        (release(env!("CARGO_PKG_VERSION"), Starts::Yes), release("0.2.0", Starts::Yes), release("0.3.0", Starts::No));
    let card = Card::with_daemon(ONE, &wire.configuration(ONE, "master", "[cluster]\nnodes = []\n"))
        .file("root/units/beehive.service.d/release.conf", DROP_IN)
        .file("root/units/beehive-release.service", SERVICE)
        .file("root/units/beehive-release.timer", TIMER);
    let card = with_release(card, first.path(), ["root/a/beehive", "root/a/beehive-cut", "root/a/manifest"]);
    let card = with_release(card, good.path(), ["root/b/beehive", "root/b/beehive-cut", "root/b/manifest"]);
    let card = with_release(card, bad.path(), ["root/c/beehive", "root/c/beehive-cut", "root/c/manifest"]);
    let machine = Machine::boot(&card, Hat::Absent);
    machine.wait_up();
    let run = |command: &str| machine.ctl(&format!("system {command}"));
    let says = |from, version: &str| {
        wire.wait_info(ONE, &format!("version {version}"), from, |info| info.version.as_str() == version)
    };

    // once: put it on a card
    run("beehive release install /root/a");
    let used = run(&format!("beehive release use {}", env!("CARGO_PKG_VERSION")));
    assert!(used.contains("the first release here"), "{used}");
    let from = wire.now();
    run("cp -a /root/units/. /etc/systemd/system/");
    run("systemctl daemon-reload");
    run("systemctl enable --now beehive-release.timer");
    run("systemctl restart beehive");
    says(from, env!("CARGO_PKG_VERSION"));
    let runs_from = || machine.ctl("readlink /proc/$(pidof beehive)/exe");
    assert!(
        runs_from().ends_with(&format!("/beehive-releases/{}/beehive", env!("CARGO_PKG_VERSION"))),
        "{}",
        runs_from()
    );
    // nothing is on trial: the unit that looks at it is not run
    let looked = || {
        run("systemctl start beehive-release.service");
        run("systemctl show -p ConditionResult -p Result beehive-release.service")
    };
    assert!(looked().contains("ConditionResult=no"), "{}", looked());

    // a good one
    run("beehive release install /root/b");
    let from = wire.now();
    let used = run("beehive release use 0.2.0");
    assert!(used.contains("on trial"), "{used}");
    let trial = looked();
    assert!(trial.contains("ConditionResult=yes") && trial.contains("Result=success"), "{trial}");
    says(from, "0.2.0");
    let mut list = String::new();
    // each question takes the guest a while; so many are more than a minute
    for _ in 0..100 {
        list = run("beehive release list");
        if list.contains("no longer on trial") {
            break;
        }
    }
    assert!(list.contains("0.2.0 is in use and no longer on trial"), "{list}");
    assert!(looked().contains("ConditionResult=no"), "{}", looked());

    // one that dies
    run("beehive release install /root/c");
    let from = wire.now();
    run("beehive release use 0.3.0");
    says(from, "0.2.0");
    let list = run("beehive release list");
    assert!(list.contains("0.3.0 was left") && list.contains("3 times"), "{list}");
    assert!(runs_from().ends_with("/beehive-releases/0.2.0/beehive"), "{}", runs_from());
    assert_eq!(run("systemctl is-active beehive"), "active");
}
