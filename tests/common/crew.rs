//! A crew of real `beehive run` processes with a mosquitto of their own, all on loopback. Each node has its state in a
//! folder of its own, so that it can be killed and started again; every process is ended by its pid when the crew is
//! dropped. This machine has none of a Pi's pins: the agents say so in their `info` and work without them.
//!
//! Nothing here may ask for a reboot or a power-off: the daemon would do it, to the machine that runs the tests.

#![allow(dead_code, unreachable_pub, missing_docs)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::common::{Mosquitto, PATIENCE, Plain};
use crate::keys::Keys;
use beehive_mqtt::coordinator::{OperationNode, OperationPhase, OperationSummary, StepKind, StepState};
use beehive_mqtt::node::NodeState;
use beehive_mqtt::{CrewName, NodeName, Payload, Topic, decode};
use rumqttc::Publish;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const BEEHIVE: &str = env!("CARGO_BIN_EXE_beehive");

/// The variables of this machine's environment that would change what the program does.
const VARIABLES: [&str; 6] =
    ["BEEHIVE_BROKER", "BEEHIVE_CREW", "BEEHIVE_USER", "BEEHIVE_IDENTITY", "RUST_LOG", PROTOCOL];

/// Lets the program play the one before; see `beehive::link::speaks`.
const PROTOCOL: &str = "BEEHIVE_TEST_PROTOCOL";

/// How often a process or a file is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The longest that an operation takes with the simulated engine; it bounds a test that has gone wrong.
const OPERATION_S: u32 = 80;

pub const MASTER: &str = "pi-1";

/// Looks again and again, but not for ever.
pub fn until<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(LOOK_AGAIN);
    }
}

pub fn bee() -> CrewName {
    "bee".parse().unwrap()
}

pub fn pi(name: &str) -> NodeName {
    name.parse().unwrap()
}

/// A topic of the crew as it stands on the wire.
pub fn wire(topic: &Topic) -> String {
    topic.name(&bee()).as_str().to_owned()
}

/// What a message is about; nothing if it is not the crew's.
pub fn topic(message: &Publish) -> Option<Topic> {
    Topic::parse(&bee(), &message.topic).ok()
}

/// A message's document, if it has one and is about `wanted`.
pub fn read<P: Payload>(message: &Publish, wanted: &Topic) -> Option<P> {
    (topic(message).as_ref() == Some(wanted)).then(|| decode(&message.payload).ok()).flatten()
}

/// How a command of the console ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// The one document that `--json` prints.
    pub fn document(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no document ({error}): {self:?}"))
    }

    /// The document, if the command ended with `code`.
    pub fn with(&self, code: i32) -> Value {
        assert_eq!(self.code, code, "{}\n{}", self.stdout, self.stderr);
        self.document()
    }
}

/// Whether nodes share this machine's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machines {
    /// They do.
    One,
    /// Each has one of its own; that needs root.
    Each,
}

pub struct Crew {
    pub broker: Mosquitto,
    /// What the configuration calls the broker's host.
    pub host: &'static str,
    /// What stands below `[broker]` beside host and port.
    pub broker_extra: &'static str,
    /// What stands below the master's `[cluster]` beside the nodes.
    pub cluster_extra: String,
    pub step_ms: u64,
    /// What stands below `[engine]`, where that is not the simulated one.
    pub engine: Option<String>,
    /// Whether the nodes are machines of their own to the others, as those of a real engine have to be.
    pub machines: Machines,
    /// The longest that an operation takes.
    pub operation_s: u32,
    names: Vec<&'static str>,
    pub keys: Arc<Keys>,
    dir: tempfile::TempDir,
    processes: BTreeMap<String, Child>,
    /// The nodes whose next start is one of the program of the protocol version before.
    pub before: BTreeSet<&'static str>,
}

impl Crew {
    /// A crew whose nodes are not started yet. The first of `names` is the master.
    pub fn new(names: &[&'static str], step_ms: u64) -> Self {
        assert_eq!(names[0], MASTER);
        Self {
            broker: Mosquitto::start(),
            host: "127.0.0.1",
            broker_extra: "",
            cluster_extra: String::new(),
            step_ms,
            engine: None,
            machines: Machines::One,
            operation_s: OPERATION_S,
            names: names.to_vec(),
            keys: Arc::new(Keys::new("bee", names, &["ann"])),
            dir: tempfile::tempdir().unwrap(),
            processes: BTreeMap::new(),
            before: BTreeSet::new(),
        }
    }

    /// A crew whose nodes are all started.
    pub fn started(names: &[&'static str], step_ms: u64) -> Self {
        let mut crew = Self::new(names, step_ms);
        for name in names {
            crew.start(name);
        }
        crew
    }

    /// What is a node's own.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where a node keeps a record.
    pub fn state_file(&self, name: &str, record: &str) -> PathBuf {
        self.folder(name).join("state").join(record)
    }

    /// Writes a node's configuration.
    pub fn configure(&self, name: &str) -> PathBuf {
        self.configure_card(name, name, &self.keys.node_dir(name))
    }

    /// Writes the configuration of a card of `name` with the keys in `keys`; a node may have had more than one card.
    fn configure_card(&self, card: &str, name: &str, keys: &Path) -> PathBuf {
        let folder = self.folder(card);
        fs::create_dir_all(folder.join("run")).unwrap();
        let (host, port, extra) = (self.host, self.broker.port, self.broker_extra);
        let engine = self.engine.clone().unwrap_or_else(|| format!("step_ms = {}", self.step_ms));
        let (state, run) = (folder.join("state"), folder.join("run"));
        let (role, cluster) = if name == MASTER {
            ("master", format!("[cluster]\nnodes = {:?}\n{}", &self.names[1..], self.cluster_extra))
        } else {
            ("node", String::new())
        };
        let text = format!(
            "crew = \"bee\"\nnode = {name:?}\nrole = {role:?}\nstate_dir = {state:?}\nrun_dir = {run:?}\n\
             [broker]\nhost = {host:?}\nport = {port}\n{extra}\n[engine]\n{engine}\n{cluster}[keys]\ndir = {keys:?}\n"
        );
        let path = folder.join("beehive.toml");
        fs::write(&path, text).unwrap();
        path
    }

    /// Starts a node.
    pub fn start(&mut self, name: &str) {
        let config = self.configure(name);
        self.run(name, &config);
    }

    /// Starts a node from another card: `card` stands for the node's name in everything else here.
    pub fn start_card(&mut self, card: &str, name: &str, keys: &Path) {
        let config = self.configure_card(card, name, keys);
        self.run(card, &config);
    }

    /// Takes a dead node's card out: its state is that of `card` from now on, and the node has none.
    pub fn set_aside(&self, name: &str, card: &str) {
        assert!(!self.processes.contains_key(name), "{name} runs");
        fs::create_dir_all(self.folder(card)).unwrap();
        fs::rename(self.folder(name).join("state"), self.folder(card).join("state")).unwrap();
    }

    fn run(&mut self, name: &str, config: &Path) {
        let log = File::options().create(true).append(true).open(self.folder(name).join("log")).unwrap();
        let mut command = match self.machines {
            Machines::One => clean(Command::new(BEEHIVE)),
            Machines::Each => {
                // in place of this machine's own, in a mount namespace that ends with the node
                let id = self.folder(name).join("machine-id");
                fs::write(&id, format!("{:032x}\n", 0xbee_0000 + name.bytes().map(u128::from).sum::<u128>())).unwrap();
                let mut command = clean(Command::new("unshare"));
                command
                    .args(["--mount", "--propagation", "private", "sh", "-c"])
                    .args(["mount --bind \"$1\" /etc/machine-id && shift && exec \"$@\"", "sh"])
                    .arg(id)
                    .arg(BEEHIVE);
                command
            }
        };
        if self.before.contains(name) {
            command.env(PROTOCOL, "1");
        }
        let child = command
            .args(["run", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        assert!(self.processes.insert(name.to_owned(), child).is_none(), "{name} runs already");
    }

    /// A node's process.
    pub fn pid(&self, name: &str) -> u32 {
        self.processes[name].id()
    }

    /// Ends a node as a power cut would.
    pub fn kill(&mut self, name: &str) {
        let mut child = self.processes.remove(name).unwrap();
        assert_eq!(child.try_wait().unwrap(), None, "{name} had ended by itself: {}", self.log(name));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Tells a node to end (SIGTERM), and says how it did and how long it took.
    pub fn terminate(&mut self, name: &str) -> (ExitStatus, Duration) {
        let mut child = self.processes.remove(name).unwrap();
        let told = Instant::now();
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        let status = until(&format!("the end of {name}"), PATIENCE, || child.try_wait().unwrap());
        (status, told.elapsed())
    }

    /// What a node wrote to standard error, in all its starts.
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.folder(name).join("log")).unwrap_or_default()
    }

    /// Waits until a node's log has `text`.
    pub fn logged(&self, name: &str, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log(name).contains(text) {
            assert!(Instant::now() < deadline, "{name} never wrote {text:?}:\n{}", self.log(name));
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// A command of the console, which is not started yet.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = clean(Command::new(BEEHIVE));
        let broker = format!("127.0.0.1:{}", self.broker.port);
        command.args(["--broker", &broker, "--crew", "bee", "--user", "ann", "--json"]);
        command.arg("--identity").arg(self.keys.user_dir("ann")).args(args);
        if args.contains(&"--wait") {
            command.args(["--timeout", &self.operation_s.to_string()]);
        }
        command.stdin(Stdio::null());
        command
    }

    /// As [`Crew::console`], with the program of the protocol version before.
    pub fn console_before(&self, args: &[&str]) -> Ended {
        ended(self.command(args).env(PROTOCOL, "1"))
    }

    /// Runs a command of the console to its end.
    pub fn console(&self, args: &[&str]) -> Ended {
        ended(&mut self.command(args))
    }

    /// Runs a command of the console beside the test.
    pub fn console_beside(&self, args: &[&str]) -> tokio::task::JoinHandle<Ended> {
        let mut command = self.command(args);
        tokio::task::spawn_blocking(move || ended(&mut command))
    }

    /// The crew as `status` shows it.
    pub fn status(&self) -> Value {
        self.console(&["status"]).with(0)
    }

    /// Checks that the cluster is there and that every node is in it, and gives its id.
    pub fn is_ready(&self) -> String {
        let status = self.status();
        assert_eq!(status["cluster"]["phase"], "ready", "{status:#}");
        assert_eq!(status["operations"], serde_json::json!([]), "{status:#}");
        let cluster = &status["cluster"]["id"];
        let nodes = status["nodes"].as_array().unwrap();
        assert_eq!(nodes.len(), self.names.len(), "{status:#}");
        for node in nodes {
            assert_eq!(node["presence"], "online", "{status:#}");
            assert_eq!(node["membership"], "ready", "{status:#}");
            assert_eq!(node["lifecycle"], "member", "{status:#}");
            assert_eq!(node["slot"], "free", "{status:#}");
            assert_eq!(node["running"], Value::Null, "{status:#}");
            assert_eq!(node["engine"]["run"], "running", "{status:#}");
            assert_eq!(&node["engine"]["cluster"], cluster, "{status:#}");
        }
        cluster.as_str().unwrap().to_owned()
    }

    /// Makes the cluster and gives its id.
    pub fn create(&self) -> String {
        let created = self.console(&["cluster", "create", "--wait"]).with(0);
        assert_eq!(created["outcome"]["phase"], "done", "{created:#}");
        self.is_ready()
    }

    /// A client that hears everything and knows nothing of beehive.
    pub async fn listener(&self) -> Plain {
        Plain::connect(self.broker.port, "listener", &["beehive/v1/bee/#"]).await
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for child in self.processes.values_mut() {
            // it may have ended by itself
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let others = self.processes.keys().map(String::as_str).filter(|card| !self.names.contains(card));
            for name in self.names.iter().copied().chain(others) {
                eprintln!("---- {name}\n{}", self.log(name));
            }
        }
    }
}

fn clean(mut command: Command) -> Command {
    for variable in VARIABLES {
        command.env_remove(variable);
    }
    command
}

/// Runs a command to its end.
pub fn ended(command: &mut Command) -> Ended {
    let output = command.output().unwrap();
    Ended {
        code: output.status.code().expect("ended by a signal"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A command of the program that needs no crew.
pub fn beehive(args: &[&str]) -> Ended {
    ended(clean(Command::new(BEEHIVE)).args(args).stdin(Stdio::null()))
}

/// `beehive run` with a configuration that it refuses.
pub fn run_refused(config: &Path) -> Ended {
    beehive(&["run", "--config", config.to_str().unwrap()])
}

/// Whether a message reports a step of this kind in this state, of `node` where one is named.
pub fn reports(message: &Publish, node: Option<&str>, kind: StepKind, state: StepState) -> bool {
    let Some(Topic::OperationNode(id, of)) = topic(message) else { return false };
    node.is_none_or(|node| of.as_str() == node)
        && read::<OperationNode>(message, &Topic::OperationNode(id, of))
            .is_some_and(|report| report.steps.iter().any(|step| step.step == kind && step.state == state))
}

/// An operation's phase, if the message is about one.
pub fn phase(message: &Publish) -> Option<OperationPhase> {
    let Some(Topic::Operation(id)) = topic(message) else { return None };
    read::<OperationSummary>(message, &Topic::Operation(id)).map(|summary| summary.phase)
}

/// The state of `node`, if the message is that.
pub fn state(message: &Publish, node: &str) -> Option<NodeState> {
    read(message, &Topic::State(pi(node)))
}
