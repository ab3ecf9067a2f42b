//! A crew's cards from the stock image to two Pis that work together, by the real programs over loopback: `crew init`, `image
//! prepare`, `enrol` on each Pi (below a folder that it takes for /), `crew enrol`, a real mosquitto under TLS, two daemons.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg(feature = "workstation")]

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use beehive::image::boot::Boot;
use beehive::image::disk::{Place, Window, boot_partition};
use serde_json::Value;

const BEEHIVE: &str = env!("CARGO_BIN_EXE_beehive");
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const MIB: u64 = 1024 * 1024;

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn ended_by_pid(path: &Path) {
    let pid = fs::read_to_string(path).ok().and_then(|pid| pid.trim().parse().ok());
    if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        until("a process to end", || rustix::process::test_kill_process(pid).is_err().then_some(()));
    }
}

struct Ended {
    code: i32,
    out: String,
    err: String,
}

impl Ended {
    fn document(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {} {}", self.out, self.err))
    }
}

/// A crew's folder on its owner's machine.
struct Owner {
    work: tempfile::TempDir,
    broker_port: u16,
}

impl Owner {
    fn new() -> Self {
        let owner = Self { work: tempfile::tempdir().unwrap(), broker_port: free_port() };
        fs::create_dir(owner.crew()).unwrap();
        let crew = format!(
            "crew = \"bee\"\noperators = [\"ann\"]\njoin = \"at-once\"\nleds = \"off\"\n[broker]\nport = {}\n[engine]\nkind = \
             \"simulated\"\n[pins]\nbackend = \"none\"\n[poe_hat]\nbus = \"off\"\n[[node]]\nname = \"pi-1\"\naddress = \
             \"127.0.0.1\"\n[[node]]\nname = \"pi-2\"\naddress = \"127.0.0.1\"\n",
            owner.broker_port
        );
        fs::write(owner.crew().join("crew.toml"), crew).unwrap();
        owner.done(&["crew", "init", "bee", "--dir", &owner.crew_text()]);
        owner
    }

    fn crew(&self) -> PathBuf {
        self.work.path().join("crew")
    }

    fn crew_text(&self) -> String {
        self.crew().to_str().unwrap().to_owned()
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        let mut command = Command::new(BEEHIVE);
        for variable in ["BEEHIVE_BROKER", "BEEHIVE_CREW", "BEEHIVE_IDENTITY", "RUST_LOG"] {
            command.env_remove(variable);
        }
        let output = command.env("BEEHIVE_USER", "ann").args(arguments).stdin(Stdio::null()).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let ended = Ended { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) };
        assert!(!(ended.out.clone() + &ended.err).contains("PRIVATE KEY"));
        ended
    }

    fn done(&self, arguments: &[&str]) -> Ended {
        let ended = self.run(arguments);
        assert_eq!(ended.code, 0, "{arguments:?}: {} {}", ended.out, ended.err);
        ended
    }

    fn enrol(&self, more: &[&str]) -> Ended {
        let dir = self.crew_text();
        self.run(&[&["crew", "enrol", "--dir", &dir, "--json", "--timeout", "40"], more].concat())
    }

    /// A console's command.
    fn console(&self, more: &[&str]) -> Ended {
        let broker = format!("tls://127.0.0.1:{}", self.broker_port);
        let identity = self.crew().join("operators/ann");
        let identity = identity.to_str().unwrap();
        self.run(&[&["--crew", "bee", "--broker", &broker, "--identity", identity, "--json"], more].concat())
    }

    /// Prepares a node's card from a stock image.
    fn card(&self, node: &str, port: u16, more: &[&str]) -> Card {
        let (image, out) = (self.work.path().join("stock.img"), self.work.path().join(format!("{node}-{port}.img")));
        if !image.exists() {
            stock(&image);
        }
        let (dir, port) = (self.crew_text(), port.to_string());
        let words = ["image", "prepare", "--dir", &dir, "--node", node, "--enrol-port", &port, "--image"];
        let files = [image.to_str().unwrap(), "--out", out.to_str().unwrap()];
        self.done(&[&words[..], &files, more].concat());
        let mut disk = File::open(&out).unwrap();
        let place = boot_partition(&mut disk).unwrap();
        let mut window = Window::new(&mut disk, place);
        let boot = Boot::open(&mut window).unwrap();
        let text = |name: &str| String::from_utf8(boot.read(name).unwrap().unwrap()).unwrap();
        Card { secret: text("beehive-enrolment.toml"), config: text("beehive-node.toml") }
    }
}

/// What the first boot finds in the boot partition.
#[derive(Clone)]
struct Card {
    secret: String,
    config: String,
}

/// A stock image of Raspberry Pi OS bookworm, as far as its boot partition goes.
fn stock(path: &Path) {
    let (from, bytes) = (4 * MIB, 40 * MIB);
    let mut disk = OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap();
    disk.set_len(from + bytes + MIB).unwrap();
    let mut table = [0_u8; 512];
    for (at, kind, from, bytes) in [(446, 0x0c, from, bytes), (462, 0x83, from + bytes, MIB)] {
        table[at + 4] = kind;
        table[at + 8..at + 12].copy_from_slice(&u32::try_from(from / 512).unwrap().to_le_bytes());
        table[at + 12..at + 16].copy_from_slice(&u32::try_from(bytes / 512).unwrap().to_le_bytes());
    }
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    disk.seek(SeekFrom::Start(0)).unwrap();
    disk.write_all(&table).unwrap();
    let mut window = Window::new(&mut disk, Place { from, bytes });
    let options = fatfs::FormatVolumeOptions::new().fat_type(fatfs::FatType::Fat32).bytes_per_cluster(512);
    fatfs::format_volume(&mut window, options).unwrap();
    let boot = Boot::open(&mut window).unwrap();
    for (name, text) in [
        ("config.txt", "auto_initramfs=1\n[all]\n"),
        ("cmdline.txt", "console=tty1 root=PARTUUID=6c586e13-02 rootwait\n"),
        ("issue.txt", "Raspberry Pi reference\nGenerated using pi-gen, https://github.com/RPi-Distro/pi-gen\n"),
    ] {
        boot.write(name, text.as_bytes()).unwrap();
    }
    boot.close().unwrap();
    window.commit(&mut OpenOptions::new().write(true).open(path).unwrap()).unwrap();
}

/// A Pi: a folder that is / to it. Its systemctl is a script that starts the daemon and mosquitto, and ends them by their pids.
struct Pi {
    root: tempfile::TempDir,
    port: u16,
    enrol: Option<Child>,
}

impl Pi {
    fn new(card: &Card, port: u16, serial: &str) -> Self {
        let pi = Self { root: tempfile::tempdir().unwrap(), port, enrol: None };
        for folder in ["etc/beehive", "etc/mosquitto/conf.d", "proc/device-tree", "run", "store"] {
            fs::create_dir_all(pi.path(folder)).unwrap();
        }
        fs::write(pi.path("proc/device-tree/serial-number"), format!("{serial}\0")).unwrap();
        let mut options = OpenOptions::new();
        let mut secret =
            options.write(true).create_new(true).mode(0o600).open(pi.path("etc/beehive/enrolment.toml")).unwrap();
        let mine = card.secret.lines().map(|line| match line.starts_with("port = ") {
            true => format!("port = {port}\n"),
            false => format!("{line}\n"),
        });
        secret.write_all(mine.collect::<String>().as_bytes()).unwrap();
        let here = pi.root.path().display();
        let config = format!(
            "state_dir = \"{here}/state\"\nrun_dir = \"{here}/run/beehive\"\n{}\n[keys]\ndir = \"{here}/etc/beehive/identity\"\n",
            card.config
        );
        fs::write(pi.path("etc/beehive/beehive.toml"), config).unwrap();
        fs::write(
            pi.path("mosquitto.conf"),
            format!(
                "user root\nlog_dest file {here}/mosquitto.log\npid_file {here}/mosquitto.pid\npersistence_location \
                 {here}/store/\ninclude_dir {here}/etc/mosquitto/conf.d\n"
            ),
        )
        .unwrap();
        let script = format!(
            "#!/bin/sh\nend() {{ if [ -f \"$1\" ]; then old=$(cat \"$1\"); kill \"$old\"; while kill -0 \"$old\" 2>/dev/null; do \
             :; done; fi; rm -f \"$1\"; }}\ncase \"$*\" in\n'--no-block restart beehive.service')\n  end {here}/daemon.pid\n  \
             {BEEHIVE} run --config {here}/etc/beehive/beehive.toml </dev/null >>{here}/daemon.log 2>&1 &\n  echo $! \
             >{here}/daemon.pid ;;\n'restart mosquitto.service')\n  end {here}/mosquitto.pid\n  {} -d -c {here}/mosquitto.conf \
             </dev/null >/dev/null 2>&1 ;;\n*) exit 9 ;;\nesac\n",
            common::mosquitto().display()
        );
        fs::write(pi.path("systemctl"), script).unwrap();
        fs::set_permissions(pi.path("systemctl"), fs::Permissions::from_mode(0o755)).unwrap();
        pi
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn log(&self) -> String {
        ["enrol.log", "daemon.log", "mosquitto.log"]
            .map(|name| format!("== {name}\n{}", fs::read_to_string(self.path(name)).unwrap_or_default()))
            .concat()
    }

    /// `beehive enrol`, as its service.
    fn wait_for_enrolment(&mut self) {
        let log = File::create(self.path("enrol.log")).unwrap();
        let (root, systemctl) = (self.path(""), self.path("systemctl"));
        let child = Command::new(BEEHIVE)
            .args(["enrol", "--bind", "127.0.0.1", "--root", root.to_str().unwrap()])
            .args(["--systemctl", systemctl.to_str().unwrap()])
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.enrol = Some(child);
        until("the Pi to listen", || TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok());
    }

    fn enrolled(&mut self) {
        let mut child = self.enrol.take().unwrap();
        let ended = until("the end of beehive enrol", || child.try_wait().unwrap());
        assert!(ended.success(), "{}", self.log());
        assert!(!self.path("etc/beehive/enrolment.toml").exists() && !self.path("etc/beehive/enrolment").exists());
        assert!(!self.path("run/beehive/enrolment.toml").exists(), "it waits no more");
    }
}

impl Drop for Pi {
    fn drop(&mut self) {
        if let Some(mut child) = self.enrol.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for name in ["daemon.pid", "mosquitto.pid"] {
            ended_by_pid(&self.path(name));
        }
    }
}

fn node<'a>(document: &'a Value, name: &str) -> &'a Value {
    document["nodes"].as_array().unwrap().iter().find(|node| node["node"] == name).unwrap_or(&Value::Null)
}

#[test]
fn cards_become_a_crew_and_a_copied_card_an_alarm() {
    let owner = Owner::new();
    let ports = [free_port(), free_port()];
    let cards = [owner.card("pi-1", ports[0], &[]), owner.card("pi-2", ports[1], &[])];
    let mut master = Pi::new(&cards[0], ports[0], "a1");
    let (place, port) = (master.path("etc/mosquitto/beehive"), owner.broker_port.to_string());
    owner.done(&["broker", "config", &owner.crew_text(), "--dir", place.to_str().unwrap(), "--port", &port]);

    // the Pi is not up: the owner waits until the time is over, and nothing has happened
    let dir = owner.crew_text();
    let ended = owner.run(&["crew", "enrol", "--dir", &dir, "--json", "--timeout", "1"]);
    assert_eq!((ended.code, &node(&ended.document(), "pi-1")["state"]), (6, &Value::from("waiting")), "{}", ended.err);

    // hostile peers: garbage, too large, one who says nothing, and more of them than there are places
    master.wait_for_enrolment();
    let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, ports[0])).unwrap();
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64], &[0, 0, 0, 2, b'{', b'}'], b"\0\0\0\x08{\"who\":1"] {
        let mut stream = connect();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap_or(0), 0, "nothing is answered to {bytes:?}");
    }
    let silent: Vec<TcpStream> = (0..3).map(|_| connect()).collect();
    let waiting = fs::read_to_string(master.path("run/beehive/enrolment.toml")).unwrap();
    assert!(waiting.contains("serial = \"a1\"") && !waiting.contains("secret"), "{waiting}");

    let ended = owner.enrol(&["pi-1"]);
    let document = ended.document();
    assert_eq!(ended.code, 0, "{} {} {}", ended.out, ended.err, master.log());
    assert_eq!(
        (&node(&document, "pi-1")["state"], &node(&document, "pi-1")["serial"]),
        (&"enrolled".into(), &"a1".into())
    );
    assert_eq!(document["crew"]["heard"], true, "{}", ended.err);
    assert!(document["crew"]["joins"]["pi-1"].as_str().unwrap().contains("no cluster"), "{document}");
    drop(silent);
    master.enrolled();
    let identity = beehive::keys::Identity::load(&master.path("etc/beehive/identity")).unwrap();
    assert_eq!(identity.name, "pi-1");

    // the master coordinates, and makes a cluster of itself
    let status = |wanted: &str, nodes: &[&str]| {
        until(wanted, || {
            let ended = owner.console(&["status"]);
            if ended.code != 0 {
                return None;
            }
            let document = ended.document();
            nodes.iter().all(|name| node_is(&document, name, wanted)).then_some(document)
        })
    };
    status("online", &["pi-1"]);

    // the second Pi: the running crew hears its keys by the broker, and it joins at once if there is a cluster
    let mut second = Pi::new(&cards[1], ports[1], "b2");
    second.wait_for_enrolment();
    let ended = owner.enrol(&[]);
    assert_eq!(ended.code, 0, "{} {} {}", ended.out, ended.err, second.log());
    second.enrolled();
    status("online", &["pi-1", "pi-2"]);
    let revision = beehive::crew::keys::KeyFolder::new(&owner.crew()).manifest().unwrap().revision;
    assert_eq!(revision, 3, "one revision for each");
    let made = owner.console(&["cluster", "create", "--yes", "--wait", "--timeout", "60"]);
    assert_eq!(made.code, 0, "{} {} {} {}", made.out, made.err, master.log(), second.log());

    let left = owner.console(&["node", "leave", "pi-2", "--yes", "--wait", "--timeout", "60"]);
    assert_eq!(left.code, 0, "{} {}", left.out, left.err);

    // everybody is enrolled: nothing to do, and nothing is changed
    let ended = owner.enrol(&[]);
    assert_eq!((ended.code, ended.document()["nodes"].as_array().unwrap().len()), (0, 0), "{}", ended.err);

    // a copy of the second card in a third Pi, found at an address of its own
    let third = free_port();
    let mut copy = Pi::new(&cards[1], third, "c3");
    copy.wait_for_enrolment();
    let at = third.to_string();
    let ended = owner.enrol(&["pi-2", "--host", "127.0.0.1", "--port", &at]);
    assert_eq!((ended.code, &node(&ended.document(), "pi-2")["state"]), (9, &Value::from("alarm")), "{}", ended.out);
    assert!(
        ["ALARM", "c3", "127.0.0.1", "crew add-node pi-2", "--renew-node pi-2", "--renew --node pi-2"]
            .iter()
            .all(|word| ended.err.contains(word)),
        "{}",
        ended.err
    );
    assert!(copy.path("etc/beehive/enrolment.toml").exists() && !copy.path("etc/beehive/identity").exists());
    let ended = owner.enrol(&[]);
    assert!(ended.code == 9 && ended.err.contains("ALARM"), "until somebody takes note of it: {}", ended.err);
    owner.done(&["crew", "enrol", "pi-2", "--acknowledge", "--dir", &dir]);
    let ended = owner.enrol(&[]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(beehive::crew::keys::KeyFolder::new(&owner.crew()).manifest().unwrap().revision, revision);

    // a card of its own for that Pi, as another node's successor: the second one's keys count no more, and it joins at once
    drop(copy);
    drop(second);
    let error = owner.run(&["image", "prepare", "--dir", &dir, "--node", "pi-2", "--dry-run", "--image", "stock.img"]);
    assert!(error.code == 5 && error.err.contains("--renew"), "{}", error.err);
    // as the alarm says where the Pi in the crew is the stranger's: other keys, another anchor at the broker, another card
    let list = || fs::read_to_string(place.join("clients.crt")).unwrap();
    let anchor = || fs::read_to_string(owner.crew().join("anchors/pi-2/ca.crt")).unwrap();
    let before = anchor();
    assert!(list().contains(&before));
    owner.done(&["crew", "add-node", "pi-2", "--dir", &dir]);
    let site = ["--dir", place.to_str().unwrap(), "--port", &port];
    owner.done(&[&["broker", "config", &dir, "--renew-node", "pi-2"][..], &site].concat());
    let (files, conf_d, restart) =
        (owner.crew().join("broker"), master.path("etc/mosquitto/conf.d"), master.path("restart-mosquitto"));
    fs::write(&restart, format!("#!/bin/sh\nexec {} restart mosquitto.service\n", master.path("systemctl").display()))
        .unwrap();
    fs::set_permissions(&restart, fs::Permissions::from_mode(0o755)).unwrap();
    let words = ["broker", "apply", files.to_str().unwrap(), "--dir", place.to_str().unwrap(), "--conf-d"];
    owner.done(&[&words[..], &[conf_d.to_str().unwrap(), "--restart", restart.to_str().unwrap()]].concat());
    assert!(!list().contains(&before) && list().contains(&anchor()), "he is put out");
    let card = owner.card("pi-2", third, &["--renew"]);
    let mut renewed = Pi::new(&card, third, "c3");
    renewed.wait_for_enrolment();
    let ended = owner.enrol(&[]);
    assert_eq!(ended.code, 0, "{} {} {}", ended.out, ended.err, renewed.log());
    renewed.enrolled();
    let document = ended.document();
    assert_eq!(document["crew"]["joins"]["pi-2"], "joins the cluster", "{document} {}", ended.err);
    // that it becomes ready is not waited for: here all Pis have one boot id, and this one's presence counts from 1 again, so that
    // it cannot be told from the one before; a real one has another boot id
    let begun = Instant::now();
    loop {
        let document = owner.console(&["status"]).document();
        if node(&document, "pi-2")["lifecycle"] == "member" {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{document:#} {} {}", master.log(), renewed.log());
        std::thread::sleep(LOOK_AGAIN);
    }
    status("online", &["pi-1", "pi-2"]);
}

/// It is there, and what it signs is believed.
fn node_is(status: &Value, name: &str, word: &str) -> bool {
    let found = node(status, name);
    found["presence"] == word && found["lifecycle"].is_string()
}
