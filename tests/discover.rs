//! Pis that announce themselves with avahi, and `beehive discover` that finds them, as programs: on a network of the test's own,
//! in namespaces that end with it. Needs root, iproute2 and avahi-daemon; and mosquitto for what the broker knows.

#![cfg(feature = "workstation")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "common/keys.rs"]
mod keys;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use beehive::announce::State;
use beehive_mqtt::node::{Connection, Presence};
use beehive_mqtt::{Text, Topic};
use common::{Mosquitto, PATIENCE, Plain, Retain};
use keys::Keys;
use serde_json::Value;

const BEEHIVE: &str = env!("CARGO_BIN_EXE_beehive");
const INSIDE: &str = "BEEHIVE_ON_A_NETWORK_OF_ITS_OWN";

/// Where the test runs: it starts itself again on a network of its own.
fn inside(test: &str) -> Option<PathBuf> {
    if let Some(work) = std::env::var_os(INSIDE) {
        return Some(work.into());
    }
    assert!(rustix::process::geteuid().is_root(), "this test needs root: it makes network namespaces");
    let work = tempfile::tempdir().unwrap();
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/discover/network"))
        .arg(work.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, work.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}\n{complaint}");
    print!("{said}");
    None
}

/// One Pi: its files, and avahi in its network.
struct Pi {
    work: PathBuf,
    name: &'static str,
    root: PathBuf,
    avahi: Option<Child>,
}

impl Pi {
    fn new(work: &Path, name: &'static str, serial: &str, crew: &str, node: &str) -> Self {
        let pi = Self { work: work.to_owned(), name, root: work.join(name), avahi: None };
        fs::create_dir_all(pi.root.join("etc/avahi/services")).unwrap();
        pi.put("proc/device-tree/serial-number", &format!("{serial}\0"));
        pi.put("proc/device-tree/model", "Raspberry Pi 3 Model B Plus Rev 1.3\0");
        pi.put("etc/beehive/beehive.toml", &format!("crew = \"{crew}\"\nnode = \"{node}\"\nrole = \"node\"\n"));
        pi
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// As `beehive-announce.service` does it.
    fn announce(&self) {
        let config = self.root.join("etc/beehive/beehive.toml");
        let output = Command::new(BEEHIVE)
            .args(["announce", "--config"])
            .arg(config)
            .arg("--root")
            .arg(&self.root)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    fn boot(&mut self) {
        let log = fs::File::create(self.work.join(format!("{}.log", self.name))).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", self.name, "unshare", "--mount", "--uts"])
            .arg(self.work.join("avahi"))
            .arg(self.name)
            .arg(&self.work)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.avahi = Some(child);
    }
}

impl Drop for Pi {
    fn drop(&mut self) {
        if let Some(avahi) = &mut self.avahi {
            let _ = avahi.kill();
            let _ = avahi.wait();
        }
    }
}

/// `beehive discover` on the operator's machine, whose crews lie in `config`.
fn discover(config: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(BEEHIVE);
    for variable in ["BEEHIVE_BROKER", "BEEHIVE_CREW", "BEEHIVE_USER", "BEEHIVE_IDENTITY", "RUST_LOG"] {
        command.env_remove(variable);
    }
    command.env("XDG_CONFIG_HOME", config).env("USER", "ann").arg("discover").args(words).output().unwrap()
}

fn document(output: &Output) -> Value {
    let stdout = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Looks again until the Pis are as wanted: what was written a moment ago is announced a moment later.
fn until(config: &Path, words: &[&str], what: &str, wanted: impl Fn(&Value) -> bool) -> (Output, Value) {
    let end = Instant::now() + PATIENCE;
    loop {
        let output = discover(config, words);
        let document = document(&output);
        if wanted(&document) {
            return (output, document);
        }
        assert!(Instant::now() < end, "{what}: {document:#}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}

fn pi<'a>(document: &'a Value, serial: &str) -> &'a Value {
    let pis = document["pis"].as_array().unwrap();
    pis.iter().find(|pi| pi["serial"] == serial).unwrap_or(&Value::Null)
}

fn codes(pi: &Value) -> Vec<&str> {
    pi["remarks"].as_array().map(|all| all.iter().filter_map(|one| one["code"].as_str()).collect()).unwrap_or_default()
}

const JSON: [&str; 3] = ["--json", "--seconds", "2"];

#[test]
fn pis_are_found_by_what_avahi_announces() {
    let Some(work) = inside("pis_are_found_by_what_avahi_announces") else { return };
    let config = work.join("config");
    fs::create_dir_all(config.join("beehive/crews")).unwrap();
    let mut pis = [
        Pi::new(&work, "p1", "0000000000000001", "bee", "pi-1"),
        Pi::new(&work, "p2", "0000000000000002", "bee", "pi-2"),
        Pi::new(&work, "p3", "0000000000000003", "wasp", "pi-2"),
    ];
    pis[0].put("etc/beehive/identity/identity.toml", "");
    pis[1].put("etc/beehive/enrolment.toml", "");
    for pi in &mut pis {
        pi.announce();
        pi.boot();
    }
    // avahi announces each address when it has probed it, so the first look may know a Pi by its link-local one alone
    let (output, all) = until(&config, &[&JSON[..], &["--crew", "bee"]].concat(), "three Pis", |found| {
        [1, 2, 3].iter().all(|n| {
            let addresses = pi(found, &format!("{n:016}"))["addresses"].as_array();
            addresses.is_some_and(|all| all.iter().any(|one| *one == format!("10.77.0.1{n}")))
        })
    });
    assert_eq!(output.status.code(), Some(0), "{all:#}");
    // without a crew's folder there are no keys for a broker, and that is said
    assert!(String::from_utf8_lossy(&output.stderr).contains("the broker was not asked"), "{output:?}");
    let one = pi(&all, "0000000000000001");
    assert_eq!((one["node"].as_str(), one["crew"].as_str()), (Some("pi-1"), Some("bee")));
    assert_eq!((one["state"].as_str(), one["found"].as_str()), (Some("member"), Some("mdns")));
    assert_eq!(one["model"], "Raspberry Pi 3 Model B Plus Rev 1.3");
    assert_eq!((one["version"].as_str(), one["port"].as_u64()), (Some(env!("CARGO_PKG_VERSION")), Some(7884)));
    let addresses = one["addresses"].as_array().unwrap();
    assert_eq!(addresses[0], "10.77.0.11");
    assert!(codes(one).is_empty(), "{one}");
    assert_eq!(codes(pi(&all, "0000000000000002")), ["waits"]);
    assert_eq!(codes(pi(&all, "0000000000000003")), ["other-crew"]);

    // for people
    let table = discover(&config, &["--seconds", "2", "--crew", "bee"]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    print!("{table}");
    assert!(table.contains("NODE") && table.contains("10.77.0.12"), "{table}");
    assert!(table.contains("pi-2 (0000000000000002) waits for its enrolment"), "{table}");

    // where `crew enrol --discover` tries
    let heard = beehive::discover::everybody(Duration::from_secs(2), &mut |note| panic!("{note}")).unwrap();
    let one = "pi-1".parse().unwrap();
    let [found] = &heard.iter().filter(|pi| pi.node.as_ref() == Some(&one)).collect::<Vec<_>>()[..] else {
        panic!("{heard:?}")
    };
    assert_eq!(found.state, Some(State::Member));
    assert_eq!(found.addresses[0], "10.77.0.11:7884".parse().unwrap());

    // it is enrolled: the path unit runs the program again, and avahi takes the file up
    pis[1].put("etc/beehive/identity/identity.toml", "");
    pis[1].announce();
    until(&config, &JSON, "a member", |found| pi(found, "0000000000000002")["state"] == "member");

    // a second Pi with that name, and somebody who announces what beehive never does
    pis[2].put("etc/beehive/beehive.toml", "crew = \"bee\"\nnode = \"pi-2\"\nrole = \"node\"\n");
    pis[2].announce();
    let hostile = "<service-group><name>&#xa9; evil</name><service><type>_beehive._tcp</type><port>1</port>\
                   <txt-record>crew=../../etc</txt-record><txt-record>node=</txt-record>\
                   <txt-record value-format=\"binary-hex\">model=1b5b324a07ff</txt-record><txt-record>state=root</txt-record>\
                   </service></service-group>";
    pis[2].put("etc/avahi/services/evil.service", hostile);
    let (_, all) = until(&config, &[&JSON[..], &["--crew", "bee"]].concat(), "two of one name", |found| {
        codes(pi(found, "0000000000000003")) == ["same-name"]
            && found["pis"].as_array().unwrap().iter().any(|pi| codes(pi) == ["unreadable"])
    });
    assert_eq!(codes(pi(&all, "0000000000000002")), ["same-name"]);
    let table = discover(&config, &["--seconds", "2"]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains("another program") && !table.contains('\u{1b}'), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_and_the_folder_know_is_put_beside_it() {
    let Some(work) = inside("what_the_broker_and_the_folder_know_is_put_beside_it") else { return };
    let keys = Keys::new("bee", &["pi-1", "pi-2", "pi-3"], &["ann"]);
    let config = work.join("config");
    let folder = config.join("beehive/crews/bee");
    fs::create_dir_all(&folder).unwrap();
    let copied = Command::new("cp").arg("-a").arg(keys.folder.path().join(".")).arg(&folder).status().unwrap();
    assert!(copied.success());
    let mut pis = [
        Pi::new(&work, "p1", "0000000000000001", "bee", "pi-1"),
        Pi::new(&work, "p2", "0000000000000002", "bee", "pi-2"),
    ];
    pis[0].put("etc/beehive/identity/identity.toml", "");
    // a card that waits, for a node that is enrolled with it already
    fs::create_dir_all(folder.join("enrolments")).unwrap();
    let entry = format!(
        "card = \"{}\"\nport = 7884\n[used]\nat = \"2026-11-01T00:00:00Z\"\naddress = \"10.77.0.12\"\n[used.keys]\nsign = \
         \"{}\"\nseal = \"{}\"\ntls = \"04{}\"\n",
        "07".repeat(32),
        "01".repeat(32),
        "02".repeat(32),
        "03".repeat(64)
    );
    fs::write(folder.join("enrolments/pi-2.toml"), entry).unwrap();
    pis[1].put("etc/beehive/enrolment.toml", "");
    for pi in &mut pis {
        pi.announce();
        pi.boot();
    }
    let broker = Mosquitto::start();
    let mut node = Plain::connect(broker.port, "pi-1", &[]).await;
    for (name, status) in [("pi-1", Connection::Online), ("pi-3", Connection::Offline)] {
        let topic = Topic::Presence(name.parse().unwrap());
        let presence = Presence { status, start: 1, connection: 1, reason: Text::new() };
        node.publish(&topic.name(&"bee".parse().unwrap()), Retain::Yes, &keys.signed(&topic, &presence)).await;
    }
    let at = format!("127.0.0.1:{}", broker.port);
    let all = tokio::task::spawn_blocking(move || {
        let words = [&JSON[..], &["--broker", &at]].concat();
        let (output, all) = until(&config, &words, "all of it", |found| {
            pi(found, "0000000000000001")["found"] == "mdns+mqtt" && !pi(found, "0000000000000002").is_null()
        });
        // an alarm is no success
        assert_eq!(output.status.code(), Some(9), "{output:?}");
        all
    })
    .await
    .unwrap();
    assert_eq!(all["crew"], "bee", "the only crew that has a folder");
    assert_eq!(pi(&all, "0000000000000001")["presence"], "online");
    assert_eq!(codes(pi(&all, "0000000000000002")), ["enrolled-already"]);
    assert_eq!(all["alarms"], 1);
    let gone = all["pis"].as_array().unwrap().iter().find(|pi| pi["node"] == "pi-3").unwrap();
    assert_eq!((gone["found"].as_str(), gone["presence"].as_str()), (Some("mqtt"), Some("offline")));
}

/// Nothing on the network and no broker: it says so, and how to go on.
#[test]
fn nobody_there_is_said() {
    let Some(work) = inside("nobody_there_is_said") else { return };
    let output = discover(&work, &["--seconds", "1"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no Pi was found") && said.contains("which crew?"), "{said}");
    assert!(output.stdout.is_empty(), "{output:?}");
}
