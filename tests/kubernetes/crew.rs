//! A crew of Pis whose kubelets are hollow: the real agent, coordinator and link over a real mosquitto, on a simulated board and
//! machine, with an engine that joins as a kubelet does (a certificate request with the minted token) and starts a hollow kubelet.
//!
//! A reboot ends the agent and the kubelet and begins both anew, with another boot id. Every process is ended by its recorded id
//! when the crew is dropped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use beehive::agent::{self, AgentParts, AgentSettings};
use beehive::coordinator::{self, CoordinatorParts, Outside};
use beehive::engine::token::BootstrapToken;
use beehive::engine::{Engine, EngineDone, EngineError, EngineWork, Half, KubeAccess};
use beehive::hal::simulated::SimulatedBoard;
use beehive::host::{Doors, Host, SimulatedHost};
use beehive::keys::Identity;
use beehive::kube::{ApiKubernetes, DrainSettings};
use beehive::link::{Link, LinkConfig, LinkEvent, OwnPresence};
use beehive::store::Store;
use beehive_board::gesture::Thresholds;
use beehive_board::power::{Deadlines, Goal};
use beehive_cluster::Destruction;
use beehive_cluster::blockers::Blockers;
use beehive_cluster::coordinator::{CoordinatorConfig, PowerSwitch};
use beehive_mqtt::node::{BrokerTrust, EngineRun, EngineState, Role};
use beehive_mqtt::{Audience, ClusterId, NodeName, Text, Topic};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::client::Opens;
use crate::common::Mosquitto;
use crate::keys::Keys;
use crate::server::{Server, must, run, until};

pub const NAMES: [&str; 5] = ["pi-1", "pi-2", "pi-3", "pi-4", "pi-5"];

/// How long a drain may take here; a budget that blocks is waited for as long. A hundred pods of a hollow kubelet need about 40 s:
/// it makes five requests a second, and on a machine that is busy they are fewer.
pub const DRAIN_MS: u64 = 80_000;

/// How the drains are done here: as by default.
pub const SETTINGS: DrainSettings = DrainSettings {
    bare_pods: beehive::kube::OnLoss::Refuse,
    empty_dir: beehive::kube::OnLoss::Refuse,
    on_deadline: beehive::kube::OnDeadline::GiveUp,
    bypass_budget_after_ms: None,
    grace_period_s: None,
};

/// A member's engine: it is its hollow kubelet.
pub struct Hollow {
    name: String,
    role: Role,
    port: u16,
    server: Server,
    dir: PathBuf,
    state: Mutex<EngineState>,
    boot: Mutex<String>,
    /// The kubeconfig of its kubelet, once it has joined.
    kubeconfig: Mutex<Option<PathBuf>>,
    /// Whether its kubelet does not start, as one that hangs.
    pub held_back: Mutex<bool>,
    /// The tokens that it joined with.
    pub tokens: Mutex<Vec<BootstrapToken>>,
}

impl Hollow {
    fn kill(&self) {
        run("down", &[&format!("node-{}", self.name)]);
    }

    pub fn start_kubelet(&self) {
        if *self.held_back.lock().unwrap() {
            return;
        }
        let (Some(kubeconfig), boot) = (self.kubeconfig.lock().unwrap().clone(), self.boot()) else { return };
        self.kill();
        must("node", &[&self.name, &self.port.to_string(), &boot, kubeconfig.to_str().unwrap()]);
    }

    pub fn boot(&self) -> String {
        self.boot.lock().unwrap().clone()
    }

    fn is_member(&self) -> bool {
        self.state.lock().unwrap().run == EngineRun::Running
    }

    fn do_it(&self, work: EngineWork) -> Result<(), String> {
        match work {
            EngineWork::Initialise { cluster, .. } => {
                self.server.mark(cluster.as_str());
                *self.kubeconfig.lock().unwrap() = Some(std::env::var_os("KUBECONFIG").unwrap().into());
                self.start_kubelet();
                self.is(Some(cluster), EngineRun::Running);
            }
            EngineWork::Join { cluster, credential, .. } => {
                let token = BootstrapToken::parse(&credential).ok_or("it is no bootstrap token")?;
                self.tokens.lock().unwrap().push(token.clone());
                *self.kubeconfig.lock().unwrap() = Some(self.bootstrap(&token)?);
                self.start_kubelet();
                self.is(Some(cluster), EngineRun::Running);
            }
            EngineWork::Stop => {
                self.kill();
                let cluster = self.state().cluster;
                self.is(cluster, EngineRun::Stopped);
            }
            EngineWork::Start => {
                self.start_kubelet();
                let cluster = self.state().cluster;
                self.is(cluster, EngineRun::Running);
            }
            EngineWork::Reset => {
                self.kill();
                *self.kubeconfig.lock().unwrap() = None;
                self.is(None, EngineRun::Stopped);
            }
            EngineWork::Snapshot | EngineWork::AddOns | EngineWork::Upgrade { .. } => {}
        }
        Ok(())
    }

    fn is(&self, cluster: Option<ClusterId>, run: EngineRun) {
        let version = if cluster.is_some() { Text::cut("v1.20.2") } else { Text::new() };
        *self.state.lock().unwrap() = EngineState { cluster, run, version };
    }

    /// Has a kubelet's certificate signed, as a kubelet does that bootstraps; the kubeconfig that it can use then.
    fn bootstrap(&self, token: &BootstrapToken) -> Result<PathBuf, String> {
        let bearer = self.server.with_token(&format!("{}.{}", token.id, token.secret.as_str()));
        let (certificate, key) = certificate_for(&bearer, &self.server, &self.name)?;
        let data = |pem: &[u8]| STANDARD.encode(pem);
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "contexts": [{ "name": "x", "context": { "cluster": "c", "user": "u" } }],
            "clusters": [{ "name": "c", "cluster": { "server": "https://127.0.0.1:16443",
                "certificate-authority-data": data(&self.server.authority) } }],
            "users": [{ "name": "u", "user": { "client-certificate-data": data(certificate.as_bytes()),
                "client-key-data": data(key.as_bytes()) } }],
        });
        let path = self.dir.join(format!("{}.conf", self.name));
        std::fs::write(&path, kubeconfig.to_string()).unwrap();
        Ok(path)
    }
}

/// A kubelet's certificate and key, requested by who bears a token; the controllers approve and sign it.
pub fn certificate_for(bearer: &Server, admin: &Server, node: &str) -> Result<(String, String), String> {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("system:node:{node}"));
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
    let request = params.serialize_request(&key).unwrap().pem().unwrap();
    let name = format!("node-csr-{}", uuid::Uuid::new_v4().simple());
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let object = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": { "name": name },
        "spec": {
            "request": STANDARD.encode(request),
            "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
            "usages": ["digital signature", "key encipherment", "client auth"],
        },
    });
    let (status, said) = bearer.call("POST", requests, Some(&object)).ok_or("the API server does not answer")?;
    if status != 201 {
        return Err(format!("{status}: {}", said["message"]));
    }
    let signed = until("a signed certificate", || {
        Some(admin.get(&format!("{requests}/{name}"))?["status"]["certificate"].as_str()?.to_owned())
    });
    Ok((String::from_utf8(STANDARD.decode(signed).unwrap()).unwrap(), key.serialize_pem()))
}

/// Clones share one.
#[derive(Clone)]
struct Shared(Arc<Hollow>);

impl Engine for Shared {
    fn kind(&self) -> &'static str {
        "hollow"
    }

    fn perform(&self, work: EngineWork) -> BoxFuture<'static, Result<EngineDone, EngineError>> {
        let hollow = Arc::clone(&self.0);
        async move {
            let done = tokio::task::spawn_blocking(move || hollow.do_it(work)).await.unwrap();
            let half = |reason| EngineError { code: "hollow", reason, half: Half::HalfDone };
            done.map(|()| EngineDone { code: "done", detail: String::new() }).map_err(half)
        }
        .boxed()
    }

    fn state(&self) -> EngineState {
        self.0.state()
    }

    fn access(&self) -> BoxFuture<'static, Result<Option<KubeAccess>, EngineError>> {
        unreachable!("the coordinator is elsewhere")
    }
}

impl Hollow {
    fn state(&self) -> EngineState {
        self.state.lock().unwrap().clone()
    }
}

/// What was seen when a Pi was about to go down.
#[derive(Debug, Clone)]
pub struct Departure {
    pub node: String,
    /// The others that were not Ready in their present boot, or cordoned.
    pub others_away: Vec<String>,
}

pub struct Crew {
    pub broker: Mosquitto,
    pub server: Server,
    pub hollows: Vec<Arc<Hollow>>,
    pub departures: Arc<Mutex<Vec<Departure>>>,
    pub keys: Arc<Keys>,
    coordinator: Arc<Mutex<u32>>,
    stop: Option<watch::Sender<()>>,
    pis: Vec<JoinHandle<()>>,
    dir: tempfile::TempDir,
}

impl Crew {
    /// Switches a crew's Pis on; it has no cluster yet.
    pub fn start(server: &Server) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut crew = Self {
            broker: Mosquitto::start(),
            server: server.clone(),
            hollows: Vec::new(),
            departures: Arc::default(),
            coordinator: Arc::default(),
            keys: Arc::new(Keys::new("bee", &NAMES, &["ann"])),
            stop: None,
            pis: Vec::new(),
            dir,
        };
        // of a run before
        for name in NAMES {
            server.delete(&format!("/api/v1/nodes/{name}"));
        }
        let (stop, stopped) = watch::channel(());
        crew.stop = Some(stop);
        for (index, name) in NAMES.iter().enumerate() {
            let hollow = Arc::new(Hollow {
                name: (*name).to_owned(),
                role: if index == 0 { Role::Master } else { Role::Node },
                port: 21_000 + 2 * u16::try_from(index).unwrap(),
                server: server.clone(),
                dir: crew.dir.path().to_owned(),
                state: Mutex::new(EngineState { cluster: None, run: EngineRun::Stopped, version: Text::new() }),
                boot: Mutex::new(String::new()),
                kubeconfig: Mutex::new(None),
                held_back: Mutex::new(false),
                tokens: Mutex::new(Vec::new()),
            });
            crew.hollows.push(hollow);
        }
        for hollow in crew.hollows.clone() {
            let pi = Pi {
                coordinator: Arc::clone(&crew.coordinator),
                store: crew.dir.path().join(&hollow.name),
                hollow,
                all: crew.hollows.clone(),
                port: crew.broker.port,
                keys: Arc::clone(&crew.keys),
                departures: Arc::clone(&crew.departures),
                stopped: stopped.clone(),
            };
            crew.pis.push(std::thread::spawn(move || pi.live()));
        }
        crew
    }

    pub fn hollow(&self, name: &str) -> &Hollow {
        self.hollows.iter().find(|hollow| hollow.name == name).unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_beehive"));
        for variable in ["BEEHIVE_BROKER", "BEEHIVE_CREW", "BEEHIVE_USER", "BEEHIVE_IDENTITY", "RUST_LOG"] {
            command.env_remove(variable);
        }
        let broker = format!("127.0.0.1:{}", self.broker.port);
        command.args(["--broker", &broker, "--crew", "bee", "--user", "ann", "--json"]);
        command.arg("--identity").arg(self.keys.user_dir("ann")).args(args);
        if args.contains(&"--wait") {
            command.args(["--timeout", "600"]);
        }
        command.stdin(std::process::Stdio::null());
        command
    }

    /// A command of the console; its document, and whether it ended well.
    pub fn console(&self, args: &[&str]) -> (i32, Value) {
        finished(self.command(args))
    }

    /// The same, with what it said on its way.
    pub fn console_says(&self, args: &[&str]) -> (i32, Value, String) {
        let output = self.command(args).output().unwrap();
        let document = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code().unwrap(), document, String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// The same beside the test.
    pub fn console_beside(&self, args: &[&str]) -> JoinHandle<(i32, Value)> {
        let command = self.command(args);
        std::thread::spawn(move || finished(command))
    }

    /// A command that has to end as wanted.
    pub fn done(&self, args: &[&str]) -> Value {
        let (code, document) = self.console(args);
        assert_eq!(code, 0, "{args:?}: {document:#}");
        assert_eq!(document["outcome"]["phase"], "done", "{args:?}: {document:#}");
        document
    }

    /// How much of the coordinator's process is in memory, in kB: now, and of that not in files.
    pub fn coordinator_memory(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.coordinator.lock().unwrap())).unwrap();
        let of = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        (of("VmRSS:"), of("RssAnon:"))
    }

    /// What the coordinators logged.
    pub fn coordinator_log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("pi-1.log")).unwrap_or_default()
    }

    pub fn status(&self) -> Value {
        self.console(&["status"]).1
    }

    /// Waits for what `status` shows of a node.
    pub fn until_node(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) {
        until(&format!("{name} to be {what}"), || {
            let status = self.status();
            let nodes = status["nodes"].as_array()?.clone();
            nodes.iter().find(|node| node["name"] == name || node["node"] == name).filter(|node| wanted(node)).map(drop)
        });
    }
}

fn finished(mut command: Command) -> (i32, Value) {
    let output = command.output().unwrap();
    let document = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| json!({ "stderr": String::from_utf8_lossy(&output.stderr) }));
    (output.status.code().unwrap(), document)
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.stop.take();
        for pi in self.pis.drain(..) {
            let _ = pi.join();
        }
        for hollow in &self.hollows {
            hollow.kill();
        }
    }
}

/// Resolves when the sender is dropped.
async fn ended(mut stop: watch::Receiver<()>) {
    while stop.changed().await.is_ok() {}
}

fn link(
    port: u16,
    keys: &Path,
    client: &str,
    audience: Audience,
    presence: OwnPresence,
    store: &Store,
) -> (Link, tokio::sync::mpsc::Receiver<LinkEvent>) {
    Link::spawn(LinkConfig {
        host: "127.0.0.1".to_owned(),
        port,
        tls: None,
        client_id: client.to_owned(),
        crew: "bee".parse().unwrap(),
        audience,
        presence: Some(presence),
        trust: Identity::load(keys).unwrap().trust(Some(store.clone())).unwrap(),
    })
}

/// The coordinator in a process of its own, so that its memory can be told: this very program, told by its environment to be that.
/// It ends when its standard input does.
struct Coordinating {
    child: Child,
}

/// Says where a coordinator has the broker, its keys and its state.
const COORDINATE: [&str; 3] = ["BEEHIVE_TEST_PORT", "BEEHIVE_TEST_KEYS", "BEEHIVE_TEST_STATE"];

impl Coordinating {
    fn start(port: u16, keys: &Path, state: &Path) -> Self {
        let [port_is, keys_are, state_is] = COORDINATE;
        let state = state.with_extension("coordinator");
        std::fs::create_dir_all(&state).unwrap();
        let log = std::fs::File::options().create(true).append(true).open(state.with_extension("log")).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crew::coordinates_if_it_is_told_to", "--nocapture"])
            .env(port_is, port.to_string())
            .env(keys_are, keys)
            .env(state_is, state)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child }
    }
}

impl Drop for Coordinating {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn coordinates_if_it_is_told_to() {
    let [Ok(port), Ok(keys), Ok(state)] = COORDINATE.map(std::env::var) else { return };
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let (port, keys, state) = (port.parse().unwrap(), PathBuf::from(keys), PathBuf::from(state));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let master: NodeName = NAMES[0].parse().unwrap();
        let store = Store::open(&state).unwrap();
        let start = store.counter("start").unwrap();
        let presence = OwnPresence { topic: Topic::CoordinatorPresence, start };
        let (link, inbound) = link(port, &keys, "pi-1-coordinator", Audience::Coordinator, presence, &store);
        let engine = Arc::new(Opens(Server::here().kubeconfig));
        let parts = CoordinatorParts {
            config: coordinator_config(&master),
            outside: Outside::default(),
            kubernetes: Arc::new(ApiKubernetes::new(engine, SETTINGS, master.clone())),
            audit: state.join("audit"),
            store,
            link,
            inbound,
        };
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            drop(stop);
        });
        coordinator::run(parts, stopped.map(drop)).await.unwrap();
    });
}

/// One Pi.
struct Pi {
    /// The process id of the coordinator.
    coordinator: Arc<Mutex<u32>>,
    hollow: Arc<Hollow>,
    all: Vec<Arc<Hollow>>,
    store: PathBuf,
    port: u16,
    keys: Arc<Keys>,
    departures: Arc<Mutex<Vec<Departure>>>,
    stopped: watch::Receiver<()>,
}

impl Pi {
    /// One boot after the other, until the crew is dropped.
    fn live(&self) {
        loop {
            *self.hollow.boot.lock().unwrap() = uuid::Uuid::new_v4().to_string();
            if self.hollow.is_member() {
                self.hollow.start_kubelet();
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let goal = runtime.block_on(self.boot());
            let Some(goal) = goal else { return };
            // gone at once, as the kubelet is that shuts down with its machine: the API server hears nothing
            self.hollow.kill();
            assert_eq!(goal, Goal::Reboot, "nobody switches a Pi on here");
        }
    }

    async fn boot(&self) -> Option<Goal> {
        let node: NodeName = self.hollow.name.parse().unwrap();
        let store = Store::open(&self.store).unwrap();
        let start = store.counter("start").unwrap();
        let (host, mut hand_overs) = SimulatedHost::new(self.hollow.boot().parse().unwrap());
        let (board, _knobs) = SimulatedBoard::build();
        let (doors, _nobody, knocks) = Doors::unattended();
        let presence = OwnPresence { topic: Topic::Presence(node.clone()), start };
        let keys = self.keys.node_dir(&self.hollow.name);
        let (link, inbound) = link(self.port, &keys, node.as_str(), Audience::Node(node.clone()), presence, &store);
        let deadlines = Deadlines { grace_ms: 1_000, ..Deadlines::default() };
        let parts = AgentParts {
            settings: AgentSettings {
                node: node.clone(),
                role: self.hollow.role,
                start,
                thresholds: Thresholds::default(),
                deadlines,
                feed: None,
                destruction: Destruction::Allowed,
                broker: BrokerTrust::Loopback,
                sensors_every_ms: 10_000,
            },
            board,
            engine: Arc::new(Shared(Arc::clone(&self.hollow))),
            host: Arc::new(host) as Arc<dyn Host>,
            store: store.clone(),
            link,
            inbound,
            doors,
            knocks,
        };
        let coordinator = (self.hollow.role == Role::Master).then(|| {
            let running = Coordinating::start(self.port, &self.keys.node_dir(&self.hollow.name), &self.store);
            *self.coordinator.lock().unwrap() = running.child.id();
            running
        });
        let (stop_out, stop) = watch::channel(());
        let mut agent = std::pin::pin!(agent::run(parts, ended(stop)));
        let goal = tokio::select! {
            end = &mut agent => panic!("{node} ended by itself: {end:?}"),
            () = ended(self.stopped.clone()) => None,
            hand_over = hand_overs.recv() => hand_over.map(|hand_over| hand_over.goal),
        };
        if goal.is_some() {
            self.departs().await;
        }
        drop(stop_out);
        // an orderly end says goodbye to the broker; nobody waits for one that does not come to it
        let _ = tokio::time::timeout(Duration::from_secs(10), agent).await;
        drop(coordinator);
        goal
    }

    /// Notes who else is away now, by the API server.
    async fn departs(&self) {
        let (name, all, server) = (self.hollow.name.clone(), self.all.clone(), self.hollow.server.clone());
        let departure = tokio::task::spawn_blocking(move || {
            let away = |hollow: &&Arc<Hollow>| {
                let here = server.ready(&hollow.name) == Some(("True".to_owned(), hollow.boot()));
                hollow.name != name && (!here || server.is_cordoned(&hollow.name))
            };
            let others_away = all.iter().filter(away).map(|hollow| hollow.name.clone()).collect();
            Departure { node: name.clone(), others_away }
        });
        let departure = departure.await.unwrap();
        self.departures.lock().unwrap().push(departure);
    }
}

pub fn coordinator_config(master: &NodeName) -> CoordinatorConfig {
    CoordinatorConfig {
        master: master.clone(),
        expected: NAMES[1..].iter().map(|name| name.parse().unwrap()).collect(),
        max_unavailable: 1,
        max_parallel: 8,
        server: Text::cut("127.0.0.1"),
        drain_ms: DRAIN_MS,
        destruction: Destruction::Allowed,
        blockers: Blockers::default(),
        switch: PowerSwitch::Absent,
        speaks: beehive_mqtt::ProtocolVersion::CURRENT,
    }
}

/// How long a stage took.
pub fn timed<T>(what: &str, stage: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let done = stage();
    println!("{what}: {:.1} s", begun.elapsed().as_secs_f64());
    done
}
