//! The ways to the pins on a real kernel: the contract of `tests/contract.rs`, built for armv7, and what happens to BCM4
//! while the daemon comes, goes, is killed and replaced. The kit counts each fall of line 4, and a request of it as input
//! or with a bias as one too.
//!
//! rppal writes registers, where that count sees nothing. So on QEMU's `raspi2b` the test reads the GPIO block itself,
//! from outside of the guest: the three bits that say what line 4 is, and line 17 as it changes.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use beehive_mqtt::node::{PartStatus, PowerPhase};

use crate::daemon::short_press;
use crate::machine::{Card, Hat, Machine, Places};
use crate::wire::Wire;

const NODE: &str = "bee42-crew-01-002";

/// The backends that are served by the kernel's own GPIO layer.
const BACKENDS: [&str; 2] = ["character-device", "linux-embedded-hal"];

/// The armv7 contract, from the variable that `./test` sets.
fn contract() -> PathBuf {
    let path = std::env::var_os("BEEHIVE_VPI_CONTRACT").map(PathBuf::from).unwrap_or_else(|| {
        panic!(
            "BEEHIVE_VPI_CONTRACT is not set: build tests/contract.rs for armv7, as ./test does (`cargo test --no-run --test \
             contract --target armv7-unknown-linux-gnueabihf --no-default-features`), and name the program"
        )
    });
    assert!(path.is_file(), "{} is not there: build it first", path.display());
    path
}

/// Every backend that the kernel's own GPIO layer serves, through the daemon's whole life.
#[test]
fn no_backend_lets_the_power_line_fall() {
    let _place = Places::take(1);
    let wire = Wire::start();
    let configuration = |backend| wire.configuration(NODE, "node", &format!("[pins]\nbackend = \"{backend}\"\n"));
    let mut card = Card::with_daemon(NODE, &configuration(BACKENDS[0])).program(&contract(), "usr/bin/contract");
    for backend in BACKENDS {
        card = card.file(&format!("etc/beehive/{backend}.toml"), &configuration(backend));
    }
    let machine = Machine::boot(&card, Hat::Absent);
    machine.wait_up();
    wire.wait_phase(NODE, 0, PowerPhase::Running);
    let untouched = |what: &str| {
        assert_eq!((machine.lows(), machine.ctl("level 4").as_str()), (0, "1"), "BCM4 moved: {what}");
    };
    untouched("start");
    for backend in BACKENDS {
        let mut from = wire.now();
        machine.ctl(&format!("system cp /etc/beehive/{backend}.toml /etc/beehive/beehive.toml"));
        // a restart is what a reload of the configuration is here
        machine.ctl("system systemctl restart beehive");
        let works = |from, what: &str| {
            wire.wait_info(NODE, what, from, |info| {
                info.pins.as_str() == backend && info.button.status == PartStatus::Works
            })
        };
        works(from, "the backend");
        untouched(&format!("{backend}: restart"));
        short_press(&wire, &machine, NODE, "0.3");

        // killed while it blinks after a press, so that the line is driven in many of the instants that follow
        from = short_press(&wire, &machine, NODE, "0.3");
        machine.ctl("system systemctl kill --signal=KILL beehive");
        from = works(from + 1, "the next daemon");
        untouched(&format!("{backend}: kill -9"));

        // an upgrade: another file of that name, then a restart
        machine.ctl("system cp /usr/bin/beehive /usr/bin/beehive.new");
        machine.ctl("system mv /usr/bin/beehive.new /usr/bin/beehive");
        machine.ctl("system systemctl restart beehive");
        works(from + 1, "the upgraded daemon");
        untouched(&format!("{backend}: upgrade"));

        machine.ctl("system systemctl stop beehive");
        untouched(&format!("{backend}: exit"));

        let said = machine.ctl(&format!("system env BEEHIVE_CONTRACT={backend} contract --nocapture 2>&1 || true"));
        assert!(said.contains(&format!("contract kept: {backend}")), "{said}");
        untouched(&format!("{backend}: contract"));
    }
}

/// Where the GPIO block of the BCM2836 lies, and its first two function registers (BCM2835 ARM Peripherals, 6.1; the
/// BCM2836 has them at 0x3f00_0000 instead of 0x2000_0000).
const GPFSEL0: u64 = 0x3f20_0000;
const GPFSEL1: u64 = 0x3f20_0004;

/// The three bits of a line in its function register: 0 is an input, 1 an output.
fn function(register: u32, line: u32) -> u32 {
    register >> (3 * (line % 10)) & 7
}

/// QEMU's monitor.
struct Monitor {
    write: UnixStream,
    read: BufReader<UnixStream>,
}

impl Monitor {
    fn connect(path: &Path) -> Self {
        let deadline = Instant::now() + Duration::from_secs(30);
        let write = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "QEMU has no monitor: {error}"),
            }
        };
        write.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let read = BufReader::new(write.try_clone().unwrap());
        let mut monitor = Self { write, read };
        monitor.line().unwrap();
        monitor.ask(r#"{"execute":"qmp_capabilities"}"#).unwrap();
        monitor
    }

    fn line(&mut self) -> Option<serde_json::Value> {
        let mut line = String::new();
        match self.read.read_line(&mut line) {
            Ok(0) | Err(_) => None,
            Ok(_) => serde_json::from_str(&line).ok(),
        }
    }

    /// `None` when the machine has ended.
    fn ask(&mut self, command: &str) -> Option<serde_json::Value> {
        writeln!(self.write, "{command}").ok()?;
        loop {
            let answer = self.line()?;
            if answer.get("return").is_some() || answer.get("error").is_some() {
                return Some(answer);
            }
        }
    }

    fn register(&mut self, address: u64) -> Option<u32> {
        let command =
            format!(r#"{{"execute":"human-monitor-command","arguments":{{"command-line":"xp /1wx {address:#x}"}}}}"#);
        let answer = self.ask(&command)?;
        let text = answer["return"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
        let (_, value) = text.trim().rsplit_once("0x").unwrap_or_else(|| panic!("{text}"));
        Some(u32::from_str_radix(value, 16).unwrap())
    }
}

struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// rppal on a board with registers: line 17 is driven and let go, line 4 is never anything but what it was.
#[test]
fn rppal_never_touches_the_power_line() {
    let _place = Places::take(1);
    let dir = tempfile::Builder::new().prefix("vpi-").tempdir().unwrap();
    let scenario = dir.path().join("scenario");
    fs::write(
        &scenario,
        "BEEHIVE_CONTRACT=rppal RUST_BACKTRACE=0 contract --nocapture; echo scenario done; reboot -f\n",
    )
    .unwrap();
    let program = dir.path().join("contract");
    fs::copy(contract(), &program).unwrap();
    let kit = Path::new(env!("CARGO_MANIFEST_DIR")).join("hardware/virtual-pi");
    let initramfs = dir.path().join("initramfs");
    let packed = Command::new(kit.join("initramfs")).args([&initramfs, &scenario, &program]).status().unwrap();
    assert!(packed.success(), "hardware/virtual-pi/initramfs failed");
    let socket = dir.path().join("monitor");
    let mut qemu = Qemu(
        Command::new(kit.join("boot"))
            .args(["-raspi2b", "-t", "300"])
            .arg(&initramfs)
            .args(["--", "-qmp", &format!("unix:{},server=on,wait=off", socket.display())])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let console = BufReader::new(qemu.0.stdout.take().unwrap());
    let mut monitor = Monitor::connect(&socket);
    let reader = std::thread::spawn(move || console.lines().map_while(Result::ok).collect::<Vec<_>>());

    let (mut looks, mut driven, mut let_go) = (0_u32, 0_u32, 0_u32);
    let mut before = None;
    while let (Some(first), Some(second)) = (monitor.register(GPFSEL0), monitor.register(GPFSEL1)) {
        let (power, button) = (function(first, 4), function(second, 17));
        looks += 1;
        // the kernel makes a clock's output of line 4 while it starts (ALT0, as this device tree says); nobody an output
        assert_ne!(power, 1, "line 4 became an output (GPFSEL0 {first:#010x}, look {looks})");
        match button {
            1 => {
                driven += 1;
                let was = *before.get_or_insert(power);
                assert_eq!(power, was, "line 4 changed while the backend had its line (GPFSEL0 {first:#010x})");
            }
            _ => let_go += u32::from(before.is_some()),
        }
    }
    let status = qemu.0.wait().unwrap();
    let said = reader.join().unwrap().join("\n");
    assert!(said.contains("contract kept: rppal"), "{status}: {said}");
    println!("{looks} looks at the registers: line 17 driven in {driven}, an input in {let_go}");
    assert!(driven > 20 && let_go > 20, "the looks missed one of the two: {driven} driven, {let_go} let go");
}
