//! A card's whole life: two cards of one crew, prepared from the crew's folder, in two Pis that boot with systemd and cloud-init. Each
//! makes its own keys and has them certified; the master is its own broker; the node joins at once, is switched off by its button,
//! comes back, and leaves, which resets it. The image is our own, of Debian's packages for armhf.
//!
//! Minutes under emulation: `./test own_image`.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use crate::machine::{Hat, Machine, Places, SHUTDOWN};
use crate::own_image::{FIRST_BOOT, image, root_from};

const CREW: &str = "bee42-crew-01";
const ONE: &str = "bee42-crew-01-001";
const TWO: &str = "bee42-crew-01-002";

/// A port of a Pi's own: where it waits for its enrolment.
const ENROL: u16 = 7884;

/// From power-on to the announcement, beyond systemd's network target.
const ANNOUNCED_WITHIN_MS: u64 = 5_000;

/// How the console ends when some nodes are done and others are not (`beehive --help`).
const PARTLY_DONE: i32 = 7;

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// The crew's owner, on this machine.
struct Owner<'a> {
    work: &'a Path,
    broker_port: u16,
}

impl Owner<'_> {
    fn crew(&self) -> PathBuf {
        self.work.join("crew")
    }

    /// The Pis reach the master's broker at the host's loopback, which leads there; the master at its own.
    fn init(&self) {
        fs::create_dir(self.crew()).unwrap();
        let text = format!(
            "crew = \"{CREW}\"\noperators = [\"ann\"]\njoin = \"at-once\"\n\n[broker]\nhost = \"10.0.2.2\"\nport = {}\n\n[engine]\n\
             kind = \"simulated\"\n\n[power]\ngrace_ms = 1000\n\n[[node]]\nname = \"{ONE}\"\nrole = \"master\"\naddress = \
             \"10.0.2.2\"\n\n[[node]]\nname = \"{TWO}\"\n",
            self.broker_port
        );
        fs::write(self.crew().join("crew.toml"), text).unwrap();
        self.must(&["crew", "init", CREW, "--dir", self.crew().to_str().unwrap()]);
    }

    fn run(&self, words: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_beehive"));
        for variable in ["BEEHIVE_BROKER", "BEEHIVE_CREW", "BEEHIVE_IDENTITY", "RUST_LOG"] {
            command.env_remove(variable);
        }
        let output = command.env("BEEHIVE_USER", "ann").args(words).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }

    fn must(&self, words: &[&str]) -> String {
        let (code, out, err) = self.run(words);
        assert_eq!(code, 0, "{words:?}: {out}\n{err}");
        out
    }

    /// A command to the crew.
    fn asks(&self, words: &[&str]) -> Vec<String> {
        let identity = self.crew().join("operators/ann");
        let broker = format!("tls://127.0.0.1:{}", self.broker_port);
        let options =
            ["--crew", CREW, "--broker", &broker, "--identity", identity.to_str().unwrap(), "--timeout", "1200"];
        options.iter().chain(words).map(|word| (*word).to_owned()).collect()
    }

    fn console(&self, words: &[&str]) -> String {
        let words = self.asks(words);
        self.must(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn enrols(&self, node: &str, port: u16) -> Value {
        let (dir, port) = (self.crew(), port.to_string());
        let words =
            ["crew", "enrol", node, "--dir", dir.to_str().unwrap(), "--host", "127.0.0.1", "--port", &port, "--json"];
        serde_json::from_str(&self.console(&words)).unwrap()
    }

    /// Waits until the crew shows this membership of a node.
    fn shows(&self, node: &str, membership: &str) {
        let deadline = Instant::now() + FIRST_BOOT;
        loop {
            let words = self.asks(&["status", "--json"]);
            let (_, out, err) = self.run(&words.iter().map(String::as_str).collect::<Vec<_>>());
            let status: Value = serde_json::from_str(&out).unwrap_or_default();
            let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
            if nodes.iter().any(|shown| shown["node"] == node && shown["membership"] == membership) {
                return;
            }
            assert!(Instant::now() < deadline, "{node} was never {membership}: {out}\n{err}");
        }
    }

    fn card(&self, image: &Path, node: &str, dir: &Path) -> PathBuf {
        let (crew, key, card) = (self.crew(), dir.join("id.pub"), dir.join("card.img"));
        fs::write(&key, "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBpXqkOZbJpb6C5HlqNtz4b7C4DxZ6Wm8Qb3QbVJvQ2u test\n")
            .unwrap();
        let words = ["image", "prepare", "--dir", crew.to_str().unwrap(), "--node", node, "--login", "ann", "--image"];
        let files = [image.to_str().unwrap(), "--out", card.to_str().unwrap(), "--ssh-key", key.to_str().unwrap()];
        self.must(&[&words[..], &files].concat());
        card
    }
}

/// When a unit was last what its property says, in milliseconds of the machine's own clock.
fn since_ms(machine: &Machine, unit: &str, property: &str) -> u64 {
    let text = machine.ctl(&format!("system systemctl show --value -p {property} {unit}"));
    text.trim().parse::<u64>().unwrap() / 1_000
}

#[test]
#[ignore = "minutes under emulation: ./test own_image"]
fn own_image_lives_as_a_card_of_a_crew() {
    let _places = Places::take(2);
    let work = tempfile::tempdir().unwrap();
    let image = image(work.path());
    let from = root_from(&image);
    let owner = Owner { work: work.path(), broker_port: free_port() };
    owner.init();
    let (first, second) = (free_port(), free_port());
    let boot = |node: &str, ports: &[(u16, u16)]| {
        Machine::boot_reachable(node, from, ports, |dir| owner.card(&image, node, dir))
    };
    let began = Instant::now();
    let one = boot(ONE, &[(first, ENROL), (owner.broker_port, owner.broker_port)]);
    let two = boot(TWO, &[(second, ENROL)]);

    // nothing but a secret that counts once is on a card: the Pi makes its keys, and its owner certifies them
    let said = owner.enrols(ONE, first);
    println!("two first boots beside each other, the master enrolled: {} s; {said}", began.elapsed().as_secs());
    assert_eq!(one.ctl("system sh -c 'ls /etc/beehive/enrolment.toml 2>/dev/null || true'"), "");
    owner.shows(ONE, "blank");
    // the crew's file names both, and nobody has enrolled the second one yet: the cluster is made of the master, and that is told
    let words = owner.asks(&["cluster", "create", "--wait"]);
    let (code, out, err) = owner.run(&words.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(code, PARTLY_DONE, "{out}\n{err}");
    assert!(format!("{out}{err}").contains(&format!("join on {TWO}: the node is silent")), "{out}\n{err}");
    owner.shows(ONE, "ready");

    // the second one joins at once, as the crew's file says
    let said = owner.enrols(TWO, second);
    println!("the node enrolled: {} s; {said}", began.elapsed().as_secs());
    owner.shows(TWO, "ready");

    // off by its button, on again: the same member
    two.wait_up_within(FIRST_BOOT);
    two.ctl("press 4");
    let off = two.wait_off(SHUTDOWN * 2);
    off.was_cut();
    let two = off.boot_again(Hat::Absent);
    owner.shows(TWO, "ready");
    two.wait_up_within(FIRST_BOOT);
    let network = since_ms(&two, "network.target", "ActiveEnterTimestampMonotonic");
    let announced = since_ms(&two, "beehive-announce.service", "ExecMainExitTimestampMonotonic");
    println!("the network's target {network} ms after the kernel, the announcement {announced} ms after it");
    assert!(two.ctl("system cat /etc/avahi/services/beehive.service").contains(">state=member<"));

    // and out of the cluster
    owner.console(&["node", "leave", TWO, "--wait", "--yes"]);
    owner.shows(TWO, "blank");
    println!("all of it: {} s", began.elapsed().as_secs());
    assert!(announced <= network + ANNOUNCED_WITHIN_MS, "announced {announced} ms, the network's target {network} ms");
}
