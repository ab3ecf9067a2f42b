//! How programs are run: one contract, held by children of this process and by transient units of a real systemd; and the root
//! unit as it lands on a card, started by its socket, under its own hardening.
//!
//! Where systemd is wanted, this program runs the test again under a systemd of the test's own, process 1 of namespaces that end
//! with it (`tests/engine_units/systemd`). Needs root and Debian's systemd and dbus.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use beehive::engine::run::{ChildTools, UnitTools};
use beehive::engine::tool::{OUTPUT_BYTES, Ran, ToolCall, ToolError, Tools};
use beehive::engine::{Engine, EngineWork, Half, RootEngine};
use beehive::store::Store;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use zeroize::Zeroizing;

/// Where this program runs.
enum Place {
    Outside,
    UnderSystemd,
}

fn place() -> Place {
    if std::env::var_os("BEEHIVE_UNDER_SYSTEMD").is_some() { Place::UnderSystemd } else { Place::Outside }
}

/// Runs that test of this program again under a systemd of its own.
fn under_systemd(test: &str) {
    assert!(rustix::process::geteuid().is_root(), "this test needs root: it starts a systemd in namespaces of its own");
    let work = tempfile::tempdir().unwrap();
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/engine_units/systemd"))
        .arg(work.path())
        .arg(env!("CARGO_BIN_EXE_beehive"))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    let console = fs::read_to_string(work.path().join("console")).unwrap_or_default();
    assert!(output.status.success() && said.contains("1 passed"), "{said}\n{complaint}\nsystemd: {console}");
}

/// Nothing here takes this long; what hangs is a failure.
const PATIENCE: Duration = Duration::from_secs(20);

fn sh(script: &str) -> ToolCall {
    ToolCall::new("/bin/sh", ["-c", script]).within(PATIENCE)
}

/// Waits until `file` has a line, which a program writes when it is under way.
async fn line_in(file: &Path) -> String {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        match std::fs::read_to_string(file) {
            Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
            Ok(_) | Err(_) => {}
        }
        assert!(tokio::time::Instant::now() < until, "{} stays empty", file.display());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until no process has that id, or only one that waits to be buried.
async fn gone(process: &str) {
    let until = tokio::time::Instant::now() + PATIENCE;
    let alive = || match std::fs::read_to_string(format!("/proc/{process}/stat")) {
        Ok(stat) => !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with(['Z', 'X']),
        Err(_) => false,
    };
    while alive() {
        assert!(tokio::time::Instant::now() < until, "the process {process} lives on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A program that starts another one, tells the file who that is, and waits with it for ever.
fn family(file: &Path) -> ToolCall {
    sh(&format!("echo begun; /bin/sleep 1000 & echo $! > {}; wait", file.display()))
}

/// What both ways hold.
async fn contract(tools: &dyn Tools) {
    // how it ended, and what it said where
    let ran = tools.run(sh("echo out; echo err >&2; exit 3")).await.unwrap();
    assert_eq!(ran, Ran { code: Some(3), stdout: "out\n".into(), stderr: "err\n".into() });
    let ran = tools.run(sh("exit 0")).await.unwrap();
    assert!(ran.succeeded(), "{ran:?}");
    let ran = tools.run(sh("kill -9 $$")).await.unwrap();
    assert_eq!(ran.code, None, "a signal is no status");

    // its words are its words
    let words = ["$HOME ${HOME} $$", "%n %%", "a b", "'\"", "*", "", "; touch /x", "`id`", "\\n\n", "--", "-x"];
    let mut arguments = vec!["<%s>"];
    arguments.extend(words);
    let ran = tools.run(ToolCall::new("/usr/bin/printf", arguments).within(PATIENCE)).await.unwrap();
    let expected: String = words.iter().map(|word| format!("<{word}>")).collect();
    assert_eq!(ran.stdout, expected);

    // its environment is the call's
    let ran = tools.run(ToolCall::new("/usr/bin/env", [""; 0]).within(PATIENCE)).await.unwrap();
    assert_eq!(ran.stdout, "");
    let call = ToolCall::new("/usr/bin/env", [""; 0]).within(PATIENCE).with("PATH", "/sbin").with("A", "$b c\"'");
    let mut given: Vec<String> = tools.run(call).await.unwrap().stdout.lines().map(str::to_owned).collect();
    given.sort();
    assert_eq!(given, ["A=$b c\"'", "PATH=/sbin"]);

    // what it reads, to its end
    let secret = Zeroizing::new(b"s3cret".to_vec());
    let ran = tools.run(ToolCall::new("/bin/cat", [""; 0]).within(PATIENCE).reading(secret)).await.unwrap();
    assert_eq!(ran.stdout, "s3cret");
    let ran = tools.run(ToolCall::new("/bin/cat", [""; 0]).within(PATIENCE)).await.unwrap();
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""));
    let more_than_a_pipe = Zeroizing::new(vec![b'x'; 1024 * 1024]);
    let ran = tools.run(sh("exit 4").reading(more_than_a_pipe)).await.unwrap();
    assert_eq!(ran.code, Some(4), "who does not read is not waited for");

    // the end of what it says
    let ran = tools.run(sh("yes no | head -c 1000000; echo; echo last; printf '\\033[1m\\377' >&2")).await.unwrap();
    assert!(ran.stdout.len() <= OUTPUT_BYTES && ran.stdout.len() > OUTPUT_BYTES / 2, "{}", ran.stdout.len());
    assert!(ran.stdout.ends_with("\nlast\n"), "{:?}", ran.stdout);
    assert_eq!(ran.stderr, "[1m\u{fffd}");

    // what is not there
    let missing = ToolError::Missing { program: "/usr/bin/beehive-no-such-program" };
    assert_eq!(tools.run(ToolCall::new("/usr/bin/beehive-no-such-program", [""; 0])).await, Err(missing));
    assert!(!tools.has("/usr/bin/beehive-no-such-program") && !tools.has("/etc/passwd") && !tools.has("/usr/bin"));
    assert!(tools.has("/bin/sh"));

    // whoever started it, its end is that of all
    let dir = tempfile::tempdir().unwrap();
    let left = dir.path().join("left");
    let ran = tools.run(sh(&format!("/bin/sleep 1000 & echo $! > {}; exit 5", left.display()))).await.unwrap();
    assert_eq!(ran.code, Some(5));
    gone(&line_in(&left).await).await;

    let late = dir.path().join("late");
    let deadline = Duration::from_millis(500);
    match tools.run(family(&late).within(deadline)).await {
        Err(ToolError::Deadline { program: "/bin/sh", deadline: said, last }) => {
            assert_eq!((said, last.as_str()), (deadline, "begun"));
        }
        other => panic!("{other:?}"),
    }
    gone(&line_in(&late).await).await;

    let dropped = dir.path().join("dropped");
    let work = tools.run(family(&dropped));
    let child = tokio::select! {
        ended = work => panic!("{ended:?}"),
        child = line_in(&dropped) => child,
    };
    gone(&child).await;
}

#[tokio::test]
async fn children_hold_the_contract() {
    contract(&ChildTools::below(Path::new("/"))).await;
}

#[tokio::test]
async fn transient_units_hold_the_contract() {
    match place() {
        Place::Outside => under_systemd("transient_units_hold_the_contract"),
        Place::UnderSystemd => {
            contract(&UnitTools::open().await.unwrap()).await;
            no_units().await;
        }
    }
}

/// Nothing is left with systemd, a failure neither. A unit whose caller went is let go a moment later.
async fn no_units() {
    until("the last unit to go", || tool_units().is_empty().then_some(())).await;
}

/// The transient units that there are, in whatever state.
fn tool_units() -> Vec<String> {
    let listed = systemctl(&["list-units", "--all", "--plain", "--no-legend", "beehive-tool-*"]);
    listed.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

fn systemctl(words: &[&str]) -> String {
    let output = Command::new("/usr/bin/systemctl").args(words).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(tokio::time::Instant::now() < end, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A machine on which a reset has something to do and takes as long as the file `hold` is there.
struct Bench {
    hold: PathBuf,
    process: PathBuf,
}

impl Bench {
    /// `/usr/bin` of the namespace gets a kubeadm that plays; the rest of it stays.
    fn make() -> Self {
        let work = PathBuf::from(std::env::var_os("WORK").unwrap());
        let (hold, process) = (work.join("hold"), work.join("process"));
        let double = work.join("bin/kubeadm");
        let script = format!(
            "#!/bin/sh\n[ \"$1\" = reset ] || exit 1\necho $$ > {1}.new; mv {1}.new {1}\n\
             while [ -e {0} ]; do sleep 0.02; done\nrm -rf /etc/kubernetes\n",
            hold.display(),
            process.display()
        );
        fs::write(&double, script).unwrap();
        fs::set_permissions(&double, fs::Permissions::from_mode(0o755)).unwrap();
        let layers = format!("lowerdir=/usr/bin,upperdir={0}/bin,workdir={0}/bin-work", work.display());
        // in the namespace of process 1, where the root unit and its programs live
        let mounted = Command::new("/usr/bin/nsenter")
            .args(["--target", "1", "--mount", "mount", "-t", "overlay", "overlay", "-o", &layers, "/usr/bin"])
            .status()
            .unwrap();
        assert!(mounted.success(), "no overlay over /usr/bin");
        Self { hold, process }
    }

    /// What a cluster left, and a reset that takes its time.
    fn hold(&self) {
        fs::create_dir_all("/etc/kubernetes/pki").unwrap();
        fs::write("/etc/kubernetes/pki/ca.crt", "old").unwrap();
        fs::write(&self.hold, "").unwrap();
        let _ = fs::remove_file(&self.process);
    }

    fn let_go(&self) {
        fs::remove_file(&self.hold).unwrap();
    }

    /// The tool's process, when it is there.
    async fn process(&self) -> String {
        let read = || fs::read_to_string(&self.process).ok();
        until("the tool", read).await.trim().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_units_do_the_steps() {
    match place() {
        Place::Outside => under_systemd("the_shipped_units_do_the_steps"),
        Place::UnderSystemd => shipped_units().await,
    }
}

async fn shipped_units() {
    let socket = Path::new("/run/beehive/engine.sock");
    let found = fs::metadata(socket).unwrap();
    assert_eq!((found.permissions().mode() & 0o777, found.uid()), (0o660, 0));
    let groups = fs::read_to_string("/etc/group").unwrap();
    let group = groups.lines().find_map(|line| line.strip_prefix("beehive:x:")).unwrap();
    assert_eq!(group.split(':').next(), Some(found.gid().to_string().as_str()), "the daemon's group");
    assert_eq!(systemctl(&["is-active", "beehive-engine.service"]).trim(), "inactive", "nobody has asked yet");
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let engine = RootEngine::open("kubeadm", socket, store).await.unwrap();
    assert_eq!(systemctl(&["is-active", "beehive-engine.service"]).trim(), "active", "the first question starts it");
    let bench = Bench::make();

    // a whole step: files, programs, the store, under the unit's own hardening
    bench.hold();
    bench.let_go();
    let done = engine.perform(EngineWork::Reset).await.unwrap();
    assert!(done.code == "done" && done.detail.contains("/etc/kubernetes/pki/ca.crt"), "{done:?}");
    assert!(!Path::new("/etc/kubernetes").exists());
    assert_eq!(engine.perform(EngineWork::Reset).await.unwrap().code, "unchanged");
    // each of its programs was a unit; none is left
    no_units().await;

    // at work, it is a unit of its own and no child of the root unit
    bench.hold();
    let work = tokio::spawn(engine.perform(EngineWork::Reset));
    let process = bench.process().await;
    let cgroup = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap();
    assert!(cgroup.contains("/beehive-tool-kubeadm-"), "{cgroup}");
    let unit = tool_units().pop().unwrap();
    let shown = systemctl(&["show", &unit, "--property", "MemoryMax,TasksMax,KillMode,TimeoutStartUSec,PartOf"]);
    for wanted in ["MemoryMax=536870912", "TasksMax=512", "KillMode=control-group", "PartOf=beehive-engine.service"] {
        assert!(shown.contains(wanted), "{wanted}: {shown}");
    }
    // killed, the root unit leaves it; the next one ends it before it begins anything
    systemctl(&["kill", "--signal=SIGKILL", "--kill-whom=main", "beehive-engine.service"]);
    let error = work.await.unwrap().unwrap_err();
    assert_eq!((error.code, error.half), ("engine-unit", Half::HalfDone));
    assert!(Path::new(&format!("/proc/{process}")).exists(), "it was ended with the root unit, which was killed");
    let state = engine.look().await.unwrap();
    assert_eq!(state.cluster, None);
    gone(&process).await;
    no_units().await;

    // its stop is that of its programs
    bench.hold();
    let work = tokio::spawn(engine.perform(EngineWork::Reset));
    let process = bench.process().await;
    systemctl(&["stop", "beehive-engine.service"]);
    gone(&process).await;
    assert!(work.await.unwrap().is_err());

    // and the step that was cut short is ended by the next one
    bench.let_go();
    let done = engine.perform(EngineWork::Reset).await.unwrap();
    assert!(done.code == "done" && done.detail.contains("cut short"), "{done:?}");

    // while the system stops, beehive-drain.service asks for the engine's stop: the root unit is there still, and systemd takes
    // its programs, though it takes nothing any more that shutdown.target excludes
    let stopping = PathBuf::from(std::env::var_os("WORK").unwrap()).join("stopping");
    systemctl(&["start", "beehive-drain.service"]);
    systemctl(&["start", "--no-block", "--job-mode=replace-irreversibly", "shutdown.target"]);
    until("the system to stop", || stopping.exists().then_some(())).await;
    assert!(systemctl(&["list-jobs"]).contains("beehive-engine.service"), "its stop waits for that of the drain");
    let refused = Command::new("/usr/bin/systemd-run").args(["--wait", "/usr/bin/true"]).output().unwrap();
    assert!(!refused.status.success(), "an ordinary unit is still started: the system does not stop");
    fs::create_dir_all("/etc/kubernetes/pki").unwrap();
    fs::write("/etc/kubernetes/pki/ca.crt", "old").unwrap();
    let done = engine.perform(EngineWork::Reset).await.unwrap();
    assert!(done.code == "done" && !Path::new("/etc/kubernetes").exists(), "{done:?}");
    fs::remove_file(&stopping).unwrap();
    until("the root unit to end", || {
        (systemctl(&["is-active", "beehive-engine.service"]).trim() == "inactive").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_daemon_runs_as_its_own_user() {
    match place() {
        Place::Outside => under_systemd("the_daemon_runs_as_its_own_user"),
        Place::UnderSystemd => own_user().await,
    }
}

/// Where the daemon's words go here: no journal is in this system.
const LOG: &str = "/run/daemon-log";
const IDENTITY: &str = "/etc/beehive/identity";

/// Does something to the keys, starts the daemon again and waits until it is ready; answers what it said. (The start job may fail
/// where the first attempt does.)
async fn restarted(what: impl FnOnce()) -> String {
    what();
    fs::write(LOG, "").unwrap();
    systemctl(&["restart", "beehive.service"]);
    let active = || (systemctl(&["is-active", "beehive.service"]).trim() == "active").then_some(());
    let end = tokio::time::Instant::now() + PATIENCE;
    while active().is_none() {
        let (said, status) = (fs::read_to_string(LOG), systemctl(&["status", "--no-pager", "beehive.service"]));
        assert!(tokio::time::Instant::now() < end, "the daemon does not start: {said:?}\n{status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    fs::read_to_string(LOG).unwrap()
}

fn daemon_status(field: &str) -> String {
    let process = systemctl(&["show", "--value", "--property=MainPID", "beehive.service"]);
    let status = fs::read_to_string(format!("/proc/{}/status", process.trim())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.trim().to_owned()
}

/// The shipped `beehive.service` under its own hardening: who it is, whose its files are, its keys, its question to the root unit,
/// and its way to stop the system past logind.
async fn own_user() {
    let text = fs::read_to_string("/etc/passwd").unwrap();
    let user: u32 =
        text.lines().find_map(|line| line.strip_prefix("beehive:x:")?.split(':').next()).unwrap().parse().unwrap();
    let toml = fs::read_to_string("/etc/beehive/beehive.toml").unwrap();
    fs::write("/etc/beehive/beehive.toml", format!("leds = \"off\"\n{toml}[pins]\nbackend = \"none\"\n")).unwrap();
    fs::create_dir_all("/etc/systemd/system/beehive.service.d").unwrap();
    let drop_in = format!("[Service]\nStandardOutput=append:{LOG}\nStandardError=append:{LOG}\n");
    fs::write("/etc/systemd/system/beehive.service.d/log.conf", drop_in).unwrap();
    systemctl(&["daemon-reload"]);
    // a daemon that was root has left this
    fs::create_dir_all("/var/lib/beehive/audit").unwrap();
    fs::write("/var/lib/beehive/audit/old", "").unwrap();
    let node: beehive_mqtt::NodeName = "pi-1".parse().unwrap();
    let crew =
        beehive::crew::keys::NewCrew { crew: "bee".parse().unwrap(), nodes: vec![node.clone()], users: Vec::new() };
    let keys = beehive::crew::keys::CrewKeys::generate(&crew).unwrap();
    let identity = Path::new(IDENTITY);
    let folder = fs::metadata(identity).unwrap();
    assert_eq!((folder.uid(), folder.mode() & 0o777), (0, 0o700));

    // without keys, with them, with what systemd cannot read, and with them again
    let said = restarted(|| {}).await;
    assert!(said.contains("there is no /etc/beehive/identity/identity.toml"), "{said}");
    let said = restarted(|| keys.node(&node).unwrap().save(identity).unwrap()).await;
    assert!(!said.contains("no keys of"), "{said}");
    let secret = identity.join("identity.toml");
    let whole = fs::read(&secret).unwrap();
    let said = restarted(|| fs::write(&secret, vec![b'x'; 2 * 1024 * 1024]).unwrap()).await;
    assert!(said.contains("starting without them") && said.contains("no keys of"), "{said}");
    let said = restarted(|| {
        fs::remove_file(&secret).unwrap();
        fs::create_dir(&secret).unwrap();
    })
    .await;
    assert!(said.contains("no keys of"), "{said}");
    let said = restarted(|| {
        fs::remove_dir(&secret).unwrap();
        fs::write(&secret, &whole).unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    })
    .await;
    assert!(!said.contains("no keys of") && !said.contains("without them"), "{said}");
    assert!(!Path::new("/run/systemd/system/beehive.service.d/without-keys.conf").exists(), "keys are tried again");

    // who it is
    assert!(daemon_status("Uid").split_whitespace().all(|id| id == user.to_string()), "{}", daemon_status("Uid"));
    for (field, value) in
        [("CapEff", "0000000000000000"), ("CapBnd", "0000000000000000"), ("NoNewPrivs", "1"), ("Seccomp", "2")]
    {
        assert_eq!(daemon_status(field), value, "{field}");
    }
    // whose what is
    until("the feed's record", || fs::metadata("/run/beehive/feed").ok()).await;
    for (path, owner, mode) in [
        ("/run/beehive", 0, 0o1775),
        ("/run/beehive/feed", user, 0o600),
        ("/run/beehive/drain", user, 0o600),
        ("/run/beehive/engine.sock", 0, 0o660),
        ("/var/lib/beehive", user, 0o700),
        ("/var/lib/beehive/audit/old", user, 0o644),
    ] {
        let found = fs::metadata(path).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o7777), (owner, mode), "{path}");
    }

    // the root unit hears it
    until("the root unit", || (systemctl(&["is-active", "beehive-engine.service"]).trim() == "active").then_some(()))
        .await;
    let said = fs::read_to_string(LOG).unwrap();
    assert!(!said.contains("the root unit cannot be reached") && !said.contains("may not ask"), "{said}");

    // killed, it comes back
    let before = systemctl(&["show", "--value", "--property=MainPID", "beehive.service"]);
    systemctl(&["kill", "--signal=SIGKILL", "--kill-whom=main", "beehive.service"]);
    until("the next daemon", || {
        let state = systemctl(&["is-active", "beehive.service"]);
        let now = systemctl(&["show", "--value", "--property=MainPID", "beehive.service"]);
        (state.trim() == "active" && now != before && now.trim() != "0").then_some(())
    })
    .await;

    // past logind: its word is taken away, and the target is asked for
    assert_eq!(systemctl(&["is-active", "reboot.target"]).trim(), "inactive");
    let word = "/run/beehive/force-reboot";
    let left = Command::new("/usr/bin/setpriv")
        .args([&format!("--reuid={user}"), "--regid=beehive", "--clear-groups", "/usr/bin/touch", word])
        .status();
    assert!(left.unwrap().success());
    until("its word to be taken", || (!Path::new(word).exists()).then_some(())).await;
    until("the target", || (systemctl(&["is-active", "reboot.target"]).trim() == "active").then_some(())).await;
}
