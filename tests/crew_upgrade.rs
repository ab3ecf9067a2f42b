//! A whole crew is brought to another version of beehive and back: real daemons, a real mosquitto, folders that stand for the
//! Pis' cards, a script that stands for ssh, and a thread for each Pi that does what its unit does
//! (`hardware/releases/`): the guard before each start, `current` as the daemon, always again.
//!
//! "Another version" is the same program with another version in its mark, so that its file and all that it says of itself
//! are another's. One that dies at its start has no entry point.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "common/crew.rs"]
mod crew;
#[path = "common/keys.rs"]
mod keys;

use beehive::release::package::Architecture;
use crew::{BEEHIVE, Crew, Ended, MASTER, beehive, ended, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

const THREE: [&str; 3] = [MASTER, "pi-2", "pi-3"];
const OWN: &str = env!("CARGO_PKG_VERSION");
const HOOK: &str = env!("CARGO_BIN_EXE_beehive-cut");

/// The whole of an upgrade may take this long: a release needs ten seconds on each Pi until it may be confirmed.
const LONG: Duration = Duration::from_secs(180);

fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// What a Pi's unit does. Changed under its lock, so that nothing starts once it was stopped.
#[derive(Clone, Copy, PartialEq)]
enum Unit {
    Between,
    Runs(Pid),
    Stopped,
}

/// One Pi and its systemd, which starts its daemon again at once.
struct Pi {
    folder: PathBuf,
    state: Arc<Mutex<Unit>>,
    unit: Option<JoinHandle<()>>,
}

impl Pi {
    fn start(folder: &Path) -> Self {
        let (state, folder) = (Arc::new(Mutex::new(Unit::Between)), folder.to_owned());
        script(&folder.join("restart"), &format!("kill -TERM $(cat {})", folder.join("pid").display()));
        let (shared, of) = (Arc::clone(&state), folder.clone());
        let unit = std::thread::spawn(move || {
            let log = || File::options().create(true).append(true).open(of.join("log")).unwrap();
            let program = |link: &str| {
                let mut command = Command::new(of.join("releases").join(link).join("beehive"));
                command.stdin(Stdio::null()).stdout(log()).stderr(log()).env_remove("RUST_LOG");
                command
            };
            let releases = of.join("releases");
            let config = of.join("beehive.toml");
            while *shared.lock().unwrap() != Unit::Stopped {
                let mut guard = program("previous");
                guard
                    .args(["release", "guard", "--at", "starting", "--releases"])
                    .arg(&releases)
                    .arg("--config")
                    .arg(&config);
                guard.status().unwrap();
                let mut daemon = {
                    let mut state = shared.lock().unwrap();
                    if *state == Unit::Stopped {
                        break;
                    }
                    let daemon = program("current").args(["run", "--config"]).arg(&config).spawn().unwrap();
                    fs::write(of.join("pid"), daemon.id().to_string()).unwrap();
                    *state = Unit::Runs(Pid::from_child(&daemon));
                    daemon
                };
                daemon.wait().unwrap();
                let mut state = shared.lock().unwrap();
                if *state != Unit::Stopped {
                    *state = Unit::Between;
                }
            }
        });
        Self { folder, state, unit: Some(unit) }
    }

    /// Without power from now on.
    fn stop(&mut self) {
        if let Unit::Runs(pid) = std::mem::replace(&mut *self.state.lock().unwrap(), Unit::Stopped) {
            let _ = kill_process(pid, Signal::KILL);
        }
        if let Some(unit) = self.unit.take() {
            let _ = unit.join();
        }
    }
}

impl Drop for Pi {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Programs of a version for this machine, unsigned.
fn build(version: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join(Architecture::own().unwrap().as_str());
    fs::create_dir(&place).unwrap();
    // without what a debugger needs: 30 MB instead of 200
    for (from, name) in [(BEEHIVE, "beehive"), (HOOK, "beehive-cut")] {
        let stripped = Command::new("strip").args(["-o"]).arg(place.join(name)).arg(from).status();
        assert!(stripped.unwrap().success());
    }
    let path = place.join("beehive");
    let mut bytes = fs::read(&path).unwrap();
    let mark = |version: &str| format!("beehive-release-mark 1 version {version:<32} protocol ").into_bytes();
    let (own, new) = (mark(OWN), mark(version));
    let found: Vec<usize> =
        (0..bytes.len() - own.len()).filter(|at| bytes[*at] == b'b' && bytes[*at..].starts_with(&own)).collect();
    assert!(!found.is_empty(), "the program has no mark");
    for at in found {
        bytes[at..at + new.len()].copy_from_slice(&new);
    }
    fs::write(&path, bytes).unwrap();
    dir
}

fn programs(release: &Path) -> PathBuf {
    release.join(Architecture::own().unwrap().as_str())
}

fn sign(release: &Path, crew_folder: &Path) -> Ended {
    beehive(&["crew", "sign-release", release.to_str().unwrap(), "--dir", crew_folder.to_str().unwrap()])
}

struct World {
    /// Before the crew, whose folder they are ended by.
    pis: Vec<(&'static str, Pi)>,
    crew: Crew,
    via: PathBuf,
    dir: tempfile::TempDir,
}

impl World {
    /// Three Pis whose first release is the program as it is; the cluster is made.
    fn new(step_ms: u64) -> Self {
        let (crew, dir) = (Crew::new(&THREE, step_ms), tempfile::tempdir().unwrap());
        let first = build(OWN);
        let signed = sign(first.path(), crew.keys.folder.path());
        assert!(signed.code == 0 && signed.stdout.contains(OWN), "{signed:?}");
        let mut pis = Vec::new();
        for name in THREE {
            let config = crew.configure(name);
            let folder = config.parent().unwrap();
            let places =
                ["--releases", folder.join("releases").to_str().unwrap(), "--config", config.to_str().unwrap()]
                    .map(str::to_owned);
            let places: Vec<&str> = places.iter().map(String::as_str).collect();
            let install =
                beehive(&[&["release", "install", programs(first.path()).to_str().unwrap()], &places[..]].concat());
            assert_eq!(install.code, 0, "{install:?}");
            let used = beehive(&[&["release", "use", OWN, "--json"], &places[..]].concat());
            assert_eq!(used.with(0)["result"], "first", "{used:?}");
            pis.push((name, Pi::start(folder)));
        }
        let nodes = crew.configure(MASTER).parent().unwrap().parent().unwrap().to_owned();
        let via = dir.path().join("via");
        // what it was asked is written down; a Pi that is not reached has a file of that name
        script(
            &via,
            &format!(
                "case $1 in *.local) ;; *) echo \"nobody is called $1 on this network\" >&2; exit 255 ;; esac\n\
                 name=${{1%.local}}; pi={nodes}/$name; echo \"$name $5 $6\" >>{log}; shift 3\n\
                 [ -e $pi/unreached ] && {{ echo 'no route to host' >&2; exit 255; }}\n\
                 case $2 in use|rollback) restart=\"--restart $pi/restart\" ;; *) restart= ;; esac\n\
                 exec {BEEHIVE} \"$@\" --releases $pi/releases --config $pi/beehive.toml $restart",
                nodes = nodes.display(),
                log = dir.path().join("asked").display(),
            ),
        );
        // the crew's file says where its Pis are
        let file = dir.path().join("beehive/crews/bee/crew.toml");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let nodes: String = THREE.iter().map(|name| format!("[[node]]\nname = \"{name}\"\n")).collect();
        fs::write(&file, format!("crew = \"bee\"\n[network]\ndomain = \"local\"\n{nodes}")).unwrap();
        let world = Self { crew, pis, via, dir };
        until("the three to be there", LONG, || {
            let status = world.crew.console(&["status"]);
            let status: Value = serde_json::from_str(&status.stdout).ok()?;
            let nodes = status["nodes"].as_array()?;
            (nodes.len() == 3 && nodes.iter().all(|node| node["presence"] == "online")).then_some(())
        });
        world.crew.create();
        world
    }

    fn pi(&self, name: &str) -> &Pi {
        &self.pis.iter().find(|(of, _)| *of == name).unwrap().1
    }

    fn args(&self, args: &[&str]) -> Vec<String> {
        let via = format!("{} {{host}} --", self.via.display());
        ["crew", "upgrade", "--via", &via].iter().chain(args).map(|arg| (*arg).to_owned()).collect()
    }

    /// The command, which is not started yet.
    fn command(&self, args: &[&str]) -> Command {
        let args = self.args(args);
        let mut command = self.crew.command(&args.iter().map(String::as_str).collect::<Vec<_>>());
        command.env("XDG_CONFIG_HOME", self.dir.path());
        command
    }

    fn upgrade(&self, args: &[&str]) -> Ended {
        ended(&mut self.command(args))
    }

    /// What the Pis were asked to do, in order.
    fn asked(&self, what: &str) -> Vec<String> {
        let asked = fs::read_to_string(self.dir.path().join("asked")).unwrap_or_default();
        let of = |line: &str| {
            let mut words = line.split(' ');
            let (host, verb) = (words.next()?, words.next()?);
            (verb == what).then(|| host.to_owned())
        };
        asked.lines().filter_map(of).collect()
    }

    fn forget_asked(&self) {
        let _ = fs::remove_file(self.dir.path().join("asked"));
    }

    /// What each node signed of its version.
    fn versions(&self) -> Vec<String> {
        let shown = |name: &&str| {
            self.crew.console(&["node", "show", name]).with(0)["info"]["version"].as_str().unwrap().to_owned()
        };
        THREE.iter().map(shown).collect()
    }

    fn link(&self, name: &str, link: &str) -> String {
        fs::read_link(self.pi(name).folder.join("releases").join(link)).unwrap().to_str().unwrap().to_owned()
    }
}

/// What came of each node, in the report's order.
fn results(report: &Value) -> Vec<(&str, &str)> {
    let nodes = report["nodes"].as_array().unwrap();
    nodes.iter().map(|node| (node["node"].as_str().unwrap(), node["result"].as_str().unwrap())).collect()
}

#[test]
fn a_crew_is_upgraded_one_pi_after_the_other_and_brought_back() {
    let world = World::new(0);
    let cluster = world.crew.is_ready();
    let new = build("0.2.0");
    let signed = sign(new.path(), world.crew.keys.folder.path());
    assert!(signed.code == 0 && signed.stdout.contains("version 0.2.0"), "{signed:?}");
    let release = new.path().to_str().unwrap();

    let plan = world.upgrade(&["--release", release, "--dry-run"]).with(0);
    assert_eq!(results(&plan), THREE.map(|name| (name, "planned")));
    assert_eq!((world.asked("install"), world.asked("use")), (vec![], vec![]));

    let upgraded = world.upgrade(&["--release", release]);
    assert_eq!(results(&upgraded.with(0)), THREE.map(|name| (name, "done")));
    assert_eq!(world.asked("use"), THREE);
    assert_eq!(world.versions(), ["0.2.0"; 3]);
    assert_eq!(world.crew.is_ready(), cluster, "the cluster did not notice");
    for name in THREE {
        assert_eq!((world.link(name, "current").as_str(), world.link(name, "previous").as_str()), ("0.2.0", OWN));
        assert!(!world.pi(name).folder.join("releases/trial").exists());
        assert!(world.crew.log(name).contains("release 0.2.0 is confirmed"), "{}", world.crew.log(name));
    }

    let again = world.upgrade(&["--release", release]).with(0);
    assert_eq!(results(&again), THREE.map(|name| (name, "skipped")));
    assert_eq!(world.asked("use"), THREE, "nobody was asked again");

    let back = world.upgrade(&["--rollback"]).with(0);
    assert_eq!(results(&back), ["pi-2", "pi-3", MASTER].map(|name| (name, "done")));
    assert_eq!(world.asked("rollback"), ["pi-2", "pi-3", MASTER]);
    assert_eq!(world.versions(), [OWN; 3]);
    assert_eq!(world.crew.is_ready(), cluster);
}

#[test]
fn what_dies_at_its_start_is_left_by_itself_and_a_killed_console_is_run_again() {
    let world = World::new(0);
    let bad = build("0.3.0");
    // e_entry: where the kernel begins to run it (elf(5)); nothing can be run there
    let path = programs(bad.path()).join("beehive");
    let mut bytes = fs::read(&path).unwrap();
    let width = if bytes[4] == 2 { 8 } else { 4 };
    bytes[24..24 + width].fill(0);
    fs::write(&path, bytes).unwrap();
    assert_eq!(sign(bad.path(), world.crew.keys.folder.path()).code, 0);

    let failed = world.upgrade(&["--release", bad.path().to_str().unwrap()]);
    let report = failed.with(1);
    assert_eq!(results(&report), [(MASTER, "failed"), ("pi-2", "not_begun"), ("pi-3", "not_begun")]);
    let why = report["error"]["why"].as_str().unwrap();
    assert!(why.contains("went back to") && why.contains("3 times"), "{why}");
    assert_eq!(world.asked("use"), [MASTER]);
    assert_eq!((world.link(MASTER, "current").as_str(), world.link(MASTER, "previous").as_str()), (OWN, OWN));
    let at_home = |name| {
        until("the crew to be whole", LONG, || {
            let status = world.crew.status();
            let nodes = status["nodes"].as_array().unwrap();
            nodes.iter().all(|node| node["membership"] == "ready" && node["presence"] == name).then_some(())
        })
    };
    at_home("online");
    assert_eq!(world.versions(), [OWN; 3]);
    assert!(world.crew.log(MASTER).contains("is in use and not 0.3.0"), "{}", world.crew.log(MASTER));

    // the console dies while the second Pi is on trial
    world.forget_asked();
    let good = build("0.2.0");
    assert_eq!(sign(good.path(), world.crew.keys.folder.path()).code, 0);
    let release = good.path().to_str().unwrap();
    let mut console =
        world.command(&["--release", release]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("the second Pi's turn", LONG, || (world.asked("use").len() == 2).then_some(()));
    console.kill().unwrap();
    console.wait().unwrap();
    let resumed = world.upgrade(&["--release", release]).with(0);
    assert_eq!(results(&resumed), [(MASTER, "skipped"), ("pi-2", "done"), ("pi-3", "done")]);
    assert_eq!(world.versions(), ["0.2.0"; 3]);
    world.crew.is_ready();
}

#[test]
fn nothing_begins_where_a_rule_forbids_it() {
    let mut world = World::new(0);
    let (new, keys) = (build("0.2.0"), world.crew.keys.folder.path().to_owned());
    let release = new.path().to_str().unwrap().to_owned();
    let refused = |world: &World, args: &[&str], code: i32, word: &str| {
        let ended = world.upgrade(&[&["--dry-run"], args].concat());
        let report = ended.with(code);
        let said = report["error"].to_string();
        assert!(said.contains(word), "{word}: {said}");
        assert_eq!((world.asked("install"), world.asked("use"), world.asked("rollback")), (vec![], vec![], vec![]));
    };

    // nobody signed it
    refused(&world, &["--release", &release], 1, "manifest");
    // somebody else did
    let others = keys::Keys::new("bee", &THREE, &["ann"]);
    assert_eq!(sign(new.path(), others.folder.path()).code, 0);
    refused(&world, &["--release", &release], 5, "did not sign");
    // and the Pi, asked by hand, thinks so too
    let (folder, config) = (world.pi("pi-2").folder.join("releases"), world.pi("pi-2").folder.join("beehive.toml"));
    let places = ["--releases", folder.to_str().unwrap(), "--config", config.to_str().unwrap()];
    let programs = programs(new.path());
    let by_hand = || beehive(&[&["release", "install", programs.to_str().unwrap()], &places[..]].concat());
    let found = by_hand();
    assert!(found.code == 5 && found.stderr.contains("did not sign"), "{found:?}");
    // the owner signed it, and a bit was changed since
    assert_eq!(sign(new.path(), &keys).code, 0);
    let path = programs.join("beehive");
    let whole = fs::read(&path).unwrap();
    let mut altered = whole.clone();
    *altered.last_mut().unwrap() ^= 1;
    fs::write(&path, altered).unwrap();
    refused(&world, &["--release", &release], 5, "SHA-256");
    assert_eq!(by_hand().code, 1);
    // it is a link to what was signed
    let aside = new.path().join("aside");
    fs::write(&aside, &whole).unwrap();
    fs::remove_file(&path).unwrap();
    symlink(&aside, &path).unwrap();
    refused(&world, &["--release", &release], 5, "symbolic link");
    assert_eq!(by_hand().code, 1);
    assert_eq!(sign(new.path(), &keys).code, 1, "nor is a link signed");
    fs::remove_file(&path).unwrap();
    fs::write(&path, &whole).unwrap();
    // nothing of all that came onto the card
    let on_card: Vec<String> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(on_card.iter().all(|name| !name.contains("0.2.0")), "{on_card:?}");

    refused(&world, &["--release", &release, "--node", "pi-9"], 3, "pi-9");
    // the node alone would be ahead of its coordinator
    refused(&world, &["--release", &release, "--node", "pi-2"], 5, "skew");
    let older = build("0.0.9");
    assert_eq!(sign(older.path(), &keys).code, 0);
    refused(&world, &["--release", older.path().to_str().unwrap()], 5, "downgrade");
    refused(&world, &["--rollback", "--node", "pi-2"], 0, "null");
    // a Pi that is not reached
    fs::write(world.pi("pi-3").folder.join("unreached"), "").unwrap();
    refused(&world, &["--release", &release], 5, "no route to host");
    fs::remove_file(world.pi("pi-3").folder.join("unreached")).unwrap();
    // a Pi that is off: only if somebody says so
    world.pis[2].1.stop();
    until("the crew to miss it", LONG, || {
        let status = world.crew.status();
        let nodes = status["nodes"].as_array().unwrap();
        nodes.iter().any(|node| node["presence"] == "offline").then_some(())
    });
    refused(&world, &["--release", &release], 5, "not-ready");
    let forced = world.upgrade(&["--release", &release, "--dry-run", "--force"]).with(0);
    assert!(forced["overridden"].to_string().contains("pi-3 is not ready"), "{forced:#}");
    // an operation that waits for it
    let reboot = world.crew.console(&["node", "drain", "pi-3"]);
    let operation = reboot.document()["operation"].as_str().map(str::to_owned);
    if let (0, Some(operation)) = (reboot.code, operation) {
        refused(&world, &["--release", &release, "--force"], 5, &operation);
    } else {
        panic!("{reboot:?}");
    }
}
