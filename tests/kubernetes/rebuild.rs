//! A crew whose engine is kubeadm, created and rebuilt: real `beehive run` processes on three Pis, each with a root unit that works
//! with the real kubeadm on a folder that stands for that Pi (`tests/kubernetes/pi` says what is real there and what is played).
//! While the cluster is rebuilt the master's daemon, agent and coordinator in one, is killed at each step that begins.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use beehive::config::Config;
use beehive::engine::root::{self, server};
use beehive::engine::run::ChildTools;
use beehive::engine::{Ground, open_on};
use beehive_mqtt::Topic;
use beehive_mqtt::coordinator::{OperationNode, OperationPhase, StepKind, StepState};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::UnixListener;
use tokio::sync::watch;

use crate::daemons::{Crew, MASTER, Machines, phase, read, topic};
use crate::server::{script, until};

const NAMES: [&str; 3] = [MASTER, "pi-2", "pi-3"];

/// What the API server is reached at; the kit's namespace has it.
const ADDRESS: &str = "10.77.0.1";

/// What the kit can build; another version cannot be tried here.
const VERSION: &str = "v1.20.2";

/// The programs of such a Pi.
const PROGRAMS: [&str; 10] = [
    "bin/kubeadm",
    "bin/kubelet",
    "bin/kubectl",
    "bin/crictl",
    "bin/containerd",
    "bin/ctr",
    "bin/systemctl",
    "sbin/modprobe",
    "sbin/sysctl",
    "sbin/swapoff",
];

/// What an operator's cluster has as add-on, and what lives in it for a while.
const ADD_ON: &str =
    r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "add-on", "namespace": "default"}}"#;
const OBJECT: &str =
    r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "before", "namespace": "default"}}"#;

/// A Pi: its files, its programs, its root unit.
struct Pi {
    root: PathBuf,
    /// Ends the root unit.
    _stop: watch::Sender<()>,
    unit: tokio::task::JoinHandle<()>,
}

impl Pi {
    /// Makes its folder, and lets its root unit listen where its daemon looks for it.
    fn start(crew: &Crew, index: usize) -> Self {
        let name = NAMES[index];
        let config = Config::load(&crew.configure(name)).unwrap();
        let root = crew.folder(name).join("root");
        for folder in ["var/lib", "run", "root", "state", "proc/sys/kernel/random", "tools/usr/bin", "tools/usr/sbin"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        let copied = Command::new("cp").arg("-a").arg("/etc").arg(&root).status().unwrap();
        assert!(copied.success());
        let cache = std::env::var_os("BEEHIVE_KUBE").map_or_else(
            || Path::new(&std::env::var_os("HOME").unwrap()).join(".cache/beehive-kubernetes"),
            PathBuf::from,
        );
        let files: [(&str, String); 7] = [
            ("node", name.to_owned()),
            ("port", (22_000 + 2 * index).to_string()),
            ("cache", cache.to_str().unwrap().to_owned()),
            ("proc/sys/kernel/random/boot_id", uuid::Uuid::new_v4().to_string()),
            // nobody is asked for a name
            ("etc/hosts", format!("127.0.0.1 localhost\n{ADDRESS} {}\n", NAMES.join(" "))),
            ("etc/resolv.conf", "nameserver 127.0.0.1\n".to_owned()),
            ("etc/beehive/add-ons/one.json", ADD_ON.to_owned()),
        ];
        fs::create_dir_all(root.join("etc/beehive/add-ons")).unwrap();
        for (path, text) in files {
            // what /etc has may be a link to elsewhere
            let _ = fs::remove_file(root.join(path));
            fs::write(root.join(path), text).unwrap();
        }
        for program in PROGRAMS {
            symlink(script("pi"), root.join("tools/usr").join(program)).unwrap();
        }
        symlink("/usr/sbin/ip", root.join("tools/usr/sbin/ip")).unwrap();
        let ground = Ground::below(&root, Arc::new(ChildTools::below(&root.join("tools"))));
        let engine = open_on(&config, ground).unwrap();
        let listener = UnixListener::bind(config.run_dir.join(root::SOCKET)).unwrap();
        let (stop, mut stopped) = watch::channel(());
        let settings = server::ServerSettings::new(None, Duration::from_secs(3_600));
        let unit = tokio::spawn(async move {
            let stop = async move { while stopped.changed().await.is_ok() {} };
            server::serve(listener, engine, settings, stop).await.unwrap();
        });
        Self { root, _stop: stop, unit }
    }

    fn file(&self, path: &str) -> Vec<u8> {
        fs::read(self.root.join(path)).unwrap_or_default()
    }

    fn hash(&self, path: &str) -> String {
        let bytes = self.file(path);
        assert!(!bytes.is_empty(), "{path} is not there");
        format!("{:x?}", Sha256::digest(bytes))
    }

    /// One of its programs: whether it ended well, and what it said.
    fn runs(&self, program: &str, words: &[&str], input: &str) -> (bool, String) {
        use std::io::Write as _;
        let mut child = Command::new(self.root.join("tools/usr/bin").join(program))
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), said)
    }

    /// `kubectl` with that kubeconfig.
    fn kubectl_by(&self, kubeconfig: &Path, words: &[&str], input: &str) -> (bool, String) {
        let words: Vec<&str> = ["--kubeconfig", kubeconfig.to_str().unwrap()].iter().chain(words).copied().collect();
        self.runs("kubectl", &words, input)
    }

    /// `kubectl` as the administrator that this master's cluster has now.
    fn kubectl(&self, words: &[&str], input: &str) -> (bool, String) {
        self.kubectl_by(&self.root.join("etc/kubernetes/admin.conf"), words, input)
    }

    /// The Node objects: name, unique id, Ready.
    fn nodes(&self) -> Vec<(String, String, String)> {
        let (good, said) = self.kubectl(&["get", "nodes", "--output", "json"], "");
        let Some(list) = good.then(|| serde_json::from_str::<Value>(&said).unwrap()) else { return Vec::new() };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let one = |node: &Value| {
            let conditions = node["status"]["conditions"].as_array().unwrap();
            let ready = conditions.iter().find(|condition| condition["type"] == "Ready");
            let ready = ready.map(|condition| text(&condition["status"])).unwrap_or_default();
            (text(&node["metadata"]["name"]), text(&node["metadata"]["uid"]), ready)
        };
        list["items"].as_array().unwrap().iter().map(one).collect()
    }

    /// Its programs' calls: when they began and ended, in seconds, and their words.
    fn calls(&self) -> Vec<(f64, f64, String)> {
        let text = String::from_utf8(self.file("calls")).unwrap();
        let line = |line: &str| {
            let mut words = line.splitn(4, ' ');
            let mut number = || words.next().unwrap().parse::<f64>().unwrap();
            let (began, ended, _) = (number(), number(), number());
            (began, ended, words.next().unwrap().to_owned())
        };
        text.lines().map(line).collect()
    }
}

impl Drop for Pi {
    fn drop(&mut self) {
        self.unit.abort();
        // what it started, by the process ids that it wrote down
        for entry in fs::read_dir(self.root.join("state")).unwrap().flatten() {
            let path = entry.path();
            if std::thread::panicking() && path.extension().is_some_and(|end| end == "log") {
                let text = fs::read_to_string(&path).unwrap_or_default();
                let tail: Vec<&str> = text.lines().rev().take(15).collect();
                eprintln!("---- {}\n{}", path.display(), tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
            if path.extension().is_some_and(|end| end == "pid") {
                let id = fs::read_to_string(&path).unwrap_or_default();
                if let Some(id) = id.trim().parse().ok().and_then(rustix::process::Pid::from_raw) {
                    let _ = rustix::process::kill_process_group(id, rustix::process::Signal::KILL);
                }
            }
        }
    }
}

/// Everybody is in and Ready; the Nodes' ids.
fn all_ready(master: &Pi) -> BTreeSet<String> {
    until("three Ready nodes", || {
        let nodes = master.nodes();
        let names: Vec<&str> = nodes.iter().map(|(name, _, _)| name.as_str()).collect();
        (names == NAMES && nodes.iter().all(|(_, _, ready)| ready == "True")).then_some(())
    });
    master.nodes().into_iter().map(|(_, uid, _)| uid).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crew_with_kubeadm_is_rebuilt_though_its_coordinator_dies_at_each_step() {
    let mut crew = Crew::new(&NAMES, 0);
    crew.engine = Some(format!("kind = \"kubeadm\"\nadvertise_address = \"{ADDRESS}\""));
    crew.cluster_extra = format!("server = \"{ADDRESS}\"\n");
    crew.machines = Machines::Each;
    crew.operation_s = 900;
    let pis: Vec<Pi> = (0..NAMES.len()).map(|index| Pi::start(&crew, index)).collect();
    let master = &pis[0];
    for name in NAMES {
        crew.start(name);
    }
    let began = Instant::now();
    crew.create();
    println!("created: {:.1} s", began.elapsed().as_secs_f64());

    let uids = all_ready(master);
    let authority = master.hash("etc/kubernetes/pki/ca.crt");
    assert!(master.kubectl(&["get", "configmap", "add-on"], "").0, "the add-on is not there");
    overhead(&crew, &pis).await;
    let uids = {
        let anew = all_ready(master);
        assert_ne!(uids, anew, "a node that left and joined has another Node");
        anew
    };

    // what has to be gone afterwards
    let (made, said) = master.kubectl(&["create", "--filename", "-"], OBJECT);
    assert!(made, "{said}");
    let old_config = crew.folder(MASTER).join("old.conf");
    fs::copy(master.root.join("etc/kubernetes/admin.conf"), &old_config).unwrap();
    let admin = master.root.join("etc/kubernetes/admin.conf");
    let (made, said) = master.runs("kubeadm", &["token", "create", "--kubeconfig", admin.to_str().unwrap()], "");
    assert!(made, "{said}");
    let is_token = |word: &&str| word.len() == 23 && word.as_bytes()[6] == b'.';
    let old_token = said.split_whitespace().find(is_token).expect("no token").to_owned();
    assert!(may(master, &old_token), "the token is not in force");

    let began = Instant::now();
    let killed = rebuilt(&mut crew).await;
    println!("rebuilt: {:.1} s, the coordinator killed {} times", began.elapsed().as_secs_f64(), killed.len());
    // each kind of step of a rebuild, and each node's own
    for kind in [
        StepKind::Snapshot,
        StepKind::Reset,
        StepKind::Initialise,
        StepKind::Join,
        StepKind::WaitReady,
        StepKind::AddOns,
    ] {
        assert!(killed.iter().any(|(_, of)| *of == kind), "it was never killed at {kind:?}");
    }

    crew.is_ready();
    let anew = all_ready(master);
    assert!(uids.is_disjoint(&anew), "a Node outlived the rebuild: {uids:?} {anew:?}");
    assert_ne!(master.hash("etc/kubernetes/pki/ca.crt"), authority, "the authority outlived the rebuild");
    assert!(master.kubectl(&["get", "configmap", "add-on"], "").0, "the add-on is not there again");
    let (there, said) = master.kubectl(&["get", "configmap", "before"], "");
    assert!(!there && said.contains("NotFound"), "{said}");

    // the old kubeconfig: the server is another, and where that is let pass, so is whom it believes
    let (there, said) = master.kubectl_by(&old_config, &["get", "nodes"], "");
    assert!(!there && said.contains("x509"), "{said}");
    let text = fs::read_to_string(&old_config).unwrap();
    let authority_line = text.lines().find(|line| line.contains("certificate-authority-data")).unwrap();
    fs::write(&old_config, text.replace(authority_line, "    insecure-skip-tls-verify: true")).unwrap();
    let (there, said) = master.kubectl_by(&old_config, &["get", "nodes"], "");
    assert!(!there && said.contains("Unauthorized"), "{said}");
    assert!(!may(master, &old_token), "the old token is in force");

    // what was kept is of the cluster that was, with the object that is gone
    let snapshots = master.root.join("var/lib/beehive-engine/snapshots");
    let mut kept: Vec<PathBuf> = fs::read_dir(&snapshots).unwrap().map(|entry| entry.unwrap().path()).collect();
    kept.sort();
    let newest = kept.last().expect("no snapshot was kept");
    assert_eq!(format!("{:x?}", Sha256::digest(fs::read(newest.join("pki/ca.crt")).unwrap())), authority);
    let etcd = fs::read(newest.join("etcd.db")).unwrap();
    let key = b"/registry/configmaps/default/before";
    assert!(etcd.windows(key.len()).any(|bytes| bytes == key), "the copy lacks what was in the cluster");
}

/// Whether who bears the token is somebody to the API server: who may not look is told another word than who is nobody.
fn may(master: &Pi, token: &str) -> bool {
    let nobody = master.root.join("state/nobody.conf");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "contexts": [{ "name": "x", "context": { "cluster": "c", "user": "u" } }],
        "clusters": [{ "name": "c", "cluster": { "server": format!("https://{ADDRESS}:6443"), "insecure-skip-tls-verify": true } }],
        "users": [{ "name": "u", "user": { "token": token } }],
    });
    fs::write(&nobody, config.to_string()).unwrap();
    let (there, said) = master.kubectl_by(&nobody, &["get", "nodes"], "");
    assert!(there || said.contains("Forbidden") || said.contains("Unauthorized"), "{said}");
    !said.contains("Unauthorized")
}

/// Rebuilds, and kills the master's daemon whenever a step begins that it had not been killed at. Which steps those were.
async fn rebuilt(crew: &mut Crew) -> Vec<(String, StepKind)> {
    let mut wire = crew.listener().await;
    let mut rebuild = crew.console_beside(&["cluster", "rebuild", "--version", VERSION, "--yes", "--wait"]);
    let (began, mut killed, mut seen, mut operation) = (Instant::now(), Vec::new(), BTreeSet::new(), None);
    loop {
        let message = tokio::select! {
            message = wire.next_or_end() => message,
            ended = &mut rebuild => panic!("it ended before the wire said so: {:?}", ended.unwrap()),
        };
        // those that ended before are told of too
        if let (Some(Topic::Operation(id)), Some(OperationPhase::Running)) = (topic(&message), phase(&message)) {
            operation = Some(id);
        }
        match topic(&message) {
            Some(Topic::Operation(id))
                if Some(&id) == operation.as_ref() && phase(&message).is_some_and(OperationPhase::is_final) =>
            {
                break;
            }
            Some(Topic::OperationNode(id, node)) if Some(&id) == operation.as_ref() => {
                let Some(report) = read::<OperationNode>(&message, &Topic::OperationNode(id, node.clone())) else {
                    continue;
                };
                let steps = report.steps.iter().enumerate();
                let begun = steps.filter(|(_, step)| step.state == StepState::Running);
                let fresh: Vec<StepKind> =
                    begun.filter(|(index, _)| seen.insert((node.clone(), *index))).map(|(_, step)| step.step).collect();
                if fresh.is_empty() {
                    continue;
                }
                println!("  {:.1} s: {node} {fresh:?}", began.elapsed().as_secs_f64());
                killed.extend(fresh.into_iter().map(|kind| (node.to_string(), kind)));
                crew.kill(MASTER);
                crew.start(MASTER);
            }
            _ => {}
        }
    }
    let ended = rebuild.await.unwrap().with(0);
    assert_eq!(ended["outcome"]["phase"], "done", "{ended:#}");
    killed
}

/// What of a node's leave and join is ours: the time in which neither a program of the engine ran nor Kubernetes was waited for.
async fn overhead(crew: &Crew, pis: &[Pi]) {
    let (master, pi) = (&pis[0], &pis[2]);
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    for (what, words) in
        [("leave", vec!["node", "leave", "pi-3", "--yes", "--wait"]), ("join", vec!["node", "join", "pi-3", "--wait"])]
    {
        let before: usize = pis.iter().map(|pi| pi.calls().len()).sum();
        let began = now();
        let running = crew.console_beside(&words);
        // the moment in which Kubernetes says what is waited for: looked at again and again, some six times a second
        let mut ready = None;
        while !running.is_finished() {
            let state = master.nodes().into_iter().find(|(name, _, _)| name == "pi-3").map(|(_, _, ready)| ready);
            if what == "join" && ready.is_none() && state.as_deref() == Some("True") {
                ready = Some(now());
            }
        }
        let ended = running.await.unwrap().with(0);
        let took = now() - began;
        assert_eq!(ended["outcome"]["phase"], "done", "{ended:#}");
        let calls: Vec<(f64, f64, String)> =
            pi.calls().into_iter().filter(|(began_at, _, _)| *began_at >= began).collect();
        let inside = |words: &str| !words.starts_with("kubectl --kubeconfig /etc") && !words.starts_with("crictl -r");
        let own: Vec<&(f64, f64, String)> = calls.iter().filter(|(_, _, words)| inside(words)).collect();
        // whether it runs is asked for later too
        let works = own.iter().filter(|(_, _, words)| words.starts_with("kubeadm"));
        let last = works.map(|(_, ended, _)| *ended).fold(began, f64::max);
        let first = own.iter().map(|(at, _, _)| *at).fold(f64::MAX, f64::min);
        let programs = union(own.iter().map(|(began, ended, _)| (*began, *ended)));
        // not seen any more: the last look was under way when it ended
        let ready = ready.or((what == "join").then_some(began + took));
        let waited = ready.map_or(0.0, |ready| (ready - last).max(0.0));
        println!(
            "{what}: {took:.2} s, in programs of the engine {programs:.2} s, until Ready after them {waited:.2} s, ours {:.2} s \
             ({:.2} s before the first program, {:.2} s after the last and Ready); {} calls, {} of others before",
            took - programs - waited,
            first - began,
            began + took - last - waited,
            own.len(),
            before
        );
    }
}

/// How long at least one of the spans was under way.
fn union(spans: impl Iterator<Item = (f64, f64)>) -> f64 {
    let mut spans: Vec<(f64, f64)> = spans.collect();
    spans.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (mut total, mut end) = (0.0, f64::MIN);
    for (from, to) in spans {
        total += (to - from.max(end)).max(0.0);
        end = end.max(to);
    }
    total
}
