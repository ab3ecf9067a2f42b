//! The secret of a join is nowhere but where it is used. A crew of real agents and a real coordinator, in a process of its
//! own, makes a cluster; what its API server mints holds a canary. Then everything is searched for it, as it stands, in
//! hexadecimal and in base64: each message on the broker (a subscriber on everything), what the broker keeps, the log at
//! its most talkative, the arguments and the environment of every process, the cards, and the memory of the process, which
//! is what a core file holds.
//!
//! The canary comes from the process itself, masked, so that nothing but a leak can put it into its memory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "common/keys.rs"]
mod keys;

use beehive::agent::{self, AgentParts, AgentSettings};
use beehive::coordinator::{self, CoordinatorParts, Outside};
use beehive::engine::simulated::{Settings, SimulatedEngine};
use beehive::hal::simulated::SimulatedBoard;
use beehive::host::simulated::SimulatedHost;
use beehive::host::{Doors, Host};
use beehive::keys::{Identity, Opener, OperatorKey};
use beehive::kube::simulated::{ControlPlane, SimulatedKubernetes};
use beehive::kube::{CertificateWanted, Certified, KubeDone, KubeError, KubeView, KubeWork, Kubernetes, Observed};
use beehive::link::{Link, LinkConfig, LinkEvent, OwnPresence};
use beehive::store::Store;
use beehive_board::gesture::Thresholds;
use beehive_board::power::Deadlines;
use beehive_cluster::Destruction;
use beehive_cluster::blockers::{Blockers, Shown};
use beehive_cluster::coordinator::{CoordinatorConfig, PowerSwitch};
use beehive_mqtt::console::{AccessContext, Ask, ConsoleRequest, ConsoleResponse, Force, Mode};
use beehive_mqtt::coordinator::{CoordinatorState, OperationKind, OperationPhase, OperationSummary};
use beehive_mqtt::node::{BrokerTrust, Role};
use beehive_mqtt::{Audience, NodeName, Text, Topic, decode};
use common::{Mosquitto, PATIENCE, Plain};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use keys::Keys;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::sync::{mpsc, watch};

const CREW: &str = "bee";
const NODES: [&str; 2] = ["pi-1", "pi-2"];

/// Tells the process that it is the crew: the broker's port and a folder.
const CREW_PORT: &str = "BEEHIVE_CANARY_PORT";
const CREW_DIR: &str = "BEEHIVE_CANARY_DIR";

/// The file with the masked canaries, one a line.
const MASKED: &str = "masked";

/// A text that the crew's process does hold, so that the search of its memory is known to find what is there.
const DECOY: &str = "decoy-";

fn mask(text: &str) -> String {
    text.bytes().map(|byte| format!("{:02x}", byte ^ 0xa5)).collect()
}

fn unmask(masked: &str) -> String {
    let byte = |at: usize| u8::from_str_radix(&masked[at..at + 2], 16).unwrap() ^ 0xa5;
    (0..masked.len()).step_by(2).map(|at| char::from(byte(at))).collect()
}

// ---- the crew's process

/// Kubernetes as it is, whose credentials are told to the test, masked.
struct Telling(SimulatedKubernetes, Arc<Mutex<File>>);

impl Kubernetes for Telling {
    /// What opens the cluster is told in the same way; the simulated one has nothing to tell.
    fn certify(&self, _: CertificateWanted) -> BoxFuture<'static, Result<Certified, KubeError>> {
        let certificate = uuid::Uuid::new_v4().simple().to_string();
        writeln!(self.1.lock().unwrap(), "{}", mask(&certificate)).unwrap();
        let (server, authority) = ("https://pi-1:6443".to_owned(), "an authority".to_owned());
        std::future::ready(Ok(Certified { server, authority, certificate })).boxed()
    }

    fn perform(&self, work: KubeWork) -> BoxFuture<'static, Result<KubeDone, KubeError>> {
        let (done, file) = (self.0.perform(work), Arc::clone(&self.1));
        async move {
            let done = done.await?;
            if let KubeDone::Credential(credential) = &done {
                let secret = credential.reveal().rsplit(':').next().unwrap();
                writeln!(file.lock().unwrap(), "{}", mask(secret)).unwrap();
            }
            Ok(done)
        }
        .boxed()
    }

    fn look(&self, node: &NodeName) -> BoxFuture<'static, Result<Shown, KubeError>> {
        self.0.look(node)
    }

    fn watch(&self) -> watch::Receiver<KubeView> {
        self.0.watch()
    }

    fn observe(&self, node: &NodeName, observed: Observed<'_>) {
        self.0.observe(node, observed);
    }
}

fn link(
    keys: &Identity,
    store: &Store,
    port: u16,
    client_id: &str,
    audience: Audience,
    topic: Topic,
) -> (Link, mpsc::Receiver<LinkEvent>) {
    Link::spawn(LinkConfig {
        host: "127.0.0.1".to_owned(),
        port,
        tls: None,
        client_id: client_id.to_owned(),
        crew: CREW.parse().unwrap(),
        audience,
        presence: Some(OwnPresence { topic, start: 1 }),
        trust: keys.trust(Some(store.clone())).unwrap(),
    })
}

/// Not a test: the crew that the test below starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "no check: the process that the test below starts, and searches for the secret"]
async fn the_crew() {
    let (Ok(port), Ok(dir)) = (std::env::var(CREW_PORT), std::env::var(CREW_DIR)) else { return };
    let (port, dir): (u16, PathBuf) = (port.parse().unwrap(), dir.into());
    let level = tracing_subscriber::EnvFilter::new("trace");
    tracing_subscriber::fmt().with_env_filter(level).with_ansi(false).with_writer(std::io::stderr).init();
    let masked = Arc::new(Mutex::new(File::create(dir.join(MASKED)).unwrap()));
    let decoy = format!("{DECOY}{}", std::process::id());
    let mut works: Vec<BoxFuture<'static, ()>> = Vec::new();
    for name in NODES {
        let node: NodeName = name.parse().unwrap();
        let master = name == NODES[0];
        let keys = Identity::load(&dir.join("keys/nodes").join(name)).unwrap();
        let store = Store::open(&dir.join(name)).unwrap();
        let plane = master.then(|| ControlPlane::open(store.clone()).unwrap());
        let settings = Settings { step_ms: 0, ..Settings::default() };
        let engine = SimulatedEngine::new(node.clone(), store.clone(), plane.clone(), settings).unwrap();
        let (host, _) = SimulatedHost::new(format!("boot-{name}").parse().unwrap());
        let (board, _) = SimulatedBoard::build();
        let (doors, _nobody, knocks) = Doors::unattended();
        let (own, inbound) =
            link(&keys, &store, port, name, Audience::Node(node.clone()), Topic::Presence(node.clone()));
        let parts = AgentParts {
            settings: AgentSettings {
                node: node.clone(),
                role: if master { Role::Master } else { Role::Node },
                start: 1,
                thresholds: Thresholds::default(),
                deadlines: Deadlines::default(),
                feed: None,
                destruction: Destruction::Allowed,
                broker: BrokerTrust::Loopback,
                sensors_every_ms: 1_000,
            },
            board,
            engine: Arc::new(engine),
            host: Arc::new(host) as Arc<dyn Host>,
            store: store.clone(),
            link: own,
            inbound,
            doors,
            knocks,
        };
        works.push(agent::run(parts, std::future::pending()).map(|end| panic!("the agent has ended: {end:?}")).boxed());
        if let Some(plane) = plane {
            let (link, inbound) =
                link(&keys, &store, port, "coordinator", Audience::Coordinator, Topic::CoordinatorPresence);
            let parts = CoordinatorParts {
                config: CoordinatorConfig {
                    master: node,
                    expected: NODES[1..].iter().map(|name| name.parse().unwrap()).collect(),
                    max_unavailable: 1,
                    max_parallel: 8,
                    server: Text::cut(name),
                    drain_ms: 5_000,
                    destruction: Destruction::Allowed,
                    blockers: Blockers::default(),
                    switch: PowerSwitch::Absent,
                    speaks: beehive_mqtt::ProtocolVersion::CURRENT,
                },
                outside: Outside::default(),
                kubernetes: Arc::new(Telling(SimulatedKubernetes::new(plane, 0), Arc::clone(&masked))),
                store,
                audit: dir.join(name).join("audit"),
                link,
                inbound,
            };
            works.push(async move { coordinator::run(parts, std::future::pending()).await.unwrap() }.boxed());
        }
    }
    // until it is killed
    futures_util::future::join_all(works).await;
    println!("{decoy}");
}

// ---- the search

/// The forms in which a secret may lie about.
fn forms(secret: &str) -> Vec<Vec<u8>> {
    let hexadecimal: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = vec![secret.as_bytes().to_vec(), hexadecimal.clone().into_bytes()];
    forms.push(hexadecimal.to_uppercase().into_bytes());
    // base64 of a text that begins anywhere: its middle, for each of the three alignments
    for lead in 0..3 {
        let text: Vec<u8> = vec![b'x'; lead].into_iter().chain(secret.bytes()).collect();
        let encoded = base64(&text);
        forms.push(encoded[4..encoded.len() - 4].to_vec());
    }
    forms
}

fn base64(bytes: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = Vec::new();
    for chunk in bytes.chunks(3) {
        let number = chunk.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        encoded.extend((0..4).map(|digit| DIGITS[(number >> (18 - 6 * digit) & 63) as usize]));
    }
    encoded
}

fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

#[track_caller]
fn is_clean(what: &str, bytes: &[u8], secrets: &[String]) {
    for secret in secrets {
        for (form, wanted) in forms(secret).iter().enumerate() {
            assert!(!holds(bytes, wanted), "the secret of a join is in {what} (form {form})");
        }
    }
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// What every process of this machine was started with, and its environment.
fn arguments(seen: &mut HashSet<Vec<u8>>) {
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        for file in ["cmdline", "environ"] {
            // it may be gone by now
            if let Ok(bytes) = fs::read(entry.path().join(file)) {
                seen.insert(bytes);
            }
        }
    }
}

/// The memory of a process that may be read and written: what a core file holds of it.
fn memory(pid: u32) -> Vec<Vec<u8>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let file = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut regions = Vec::new();
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (from, to) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let (from, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        // the process goes on meanwhile and may give some back
        if file.read_exact_at(&mut bytes, from).is_ok() {
            regions.push(bytes);
        }
    }
    regions
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_secret_of_a_join_is_nowhere_but_where_it_is_used() {
    let broker = Mosquitto::start();
    let keys = Keys::new(CREW, &NODES, &["ann"]);
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("keys")).unwrap();
    fs::rename(keys.folder.path().join("nodes"), dir.path().join("keys/nodes")).unwrap();
    let mut everything = Plain::connect(broker.port, "everything", &["#"]).await;
    let log = dir.path().join("log");
    let crew = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_crew", "--ignored", "--nocapture"])
        .env(CREW_PORT, broker.port.to_string())
        .env(CREW_DIR, dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let crew = Ended(crew);

    let mut messages: Vec<Vec<u8>> = Vec::new();
    let mut processes = HashSet::new();
    let asked = Topic::ConsoleRequest("ann".parse().unwrap());
    let crew_name = CREW.parse().unwrap();
    let mut session = None;
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < PATIENCE, "no cluster: {}", fs::read_to_string(&log).unwrap());
        arguments(&mut processes);
        let message = everything.next("the crew's messages").await;
        messages.push([message.topic.as_bytes(), b" ", &message.payload].concat());
        match Topic::parse(&crew_name, &message.topic) {
            Ok(Topic::CoordinatorState) => {
                let state: CoordinatorState = decode(&message.payload).unwrap();
                let all = state.members.iter().all(|member| member.boot.is_some());
                if session.is_none() && all {
                    let (kind, node, version) = (OperationKind::Create, None, Text::new());
                    let request = ConsoleRequest {
                        id: "r-canary".parse().unwrap(),
                        nonce: state.session.nonce.clone(),
                        mode: Mode::Execute,
                        ask: Ask::Operation { kind, node, version, force: Force::No },
                    };
                    session = Some(state.session);
                    let bytes = keys.signed(&asked, &request);
                    everything.publish(&asked.name(&crew_name), common::Retain::No, &bytes).await;
                }
            }
            Ok(Topic::Operation(_)) => {
                let summary: OperationSummary = decode(&message.payload).unwrap();
                if summary.phase.is_final() {
                    assert_eq!(summary.phase, OperationPhase::Done, "{summary:?}");
                    break;
                }
            }
            Ok(_) | Err(_) => {}
        }
    }
    // and an operator asks for a way in
    let (ann, opener, key) =
        ("ann".parse().unwrap(), Opener::from_seed(&[5; 32]).unwrap(), OperatorKey::generate().unwrap());
    let request = ConsoleRequest {
        id: "r-access".parse().unwrap(),
        nonce: session.unwrap().nonce,
        mode: Mode::Execute,
        ask: Ask::Kubeconfig { seal: opener.public(), client: *key.public(), proof: key.proof(&ann).unwrap() },
    };
    everything.publish(&asked.name(&crew_name), common::Retain::No, &keys.signed(&asked, &request)).await;
    let answer: ConsoleResponse = loop {
        let message = everything.next("the answer on the way in").await;
        messages.push([message.topic.as_bytes(), b" ", &message.payload].concat());
        if let Ok(Topic::ConsoleResponse(_)) = Topic::parse(&crew_name, &message.topic) {
            let response: ConsoleResponse = decode(&message.payload).unwrap();
            if response.id == request.id {
                break response;
            }
        }
    };
    let context = AccessContext { crew: &crew_name, user: &ann, request: &request.id, client: key.public() };
    let sealed = answer.sealed.as_ref().unwrap_or_else(|| panic!("{answer:?}")).bytes().unwrap();
    let opened = opener.open(&sealed, &context.bytes()).unwrap();
    let certified: Certified = serde_json::from_slice(&opened).unwrap();
    // a newcomer is given what the broker keeps
    let mut newcomer = Plain::connect(broker.port, "newcomer", &["#"]).await;
    let kept = newcomer.find("what the broker keeps", |message| message.topic.ends_with("/c/state")).await;
    messages.push(kept.payload.to_vec());
    arguments(&mut processes);

    let masked = fs::read_to_string(dir.path().join(MASKED)).unwrap();
    let secrets: Vec<String> = masked.lines().map(unmask).collect();
    assert!(secrets.contains(&certified.certificate), "what was issued came to who asked for it");
    assert!(secrets.len() > 1 && secrets.iter().all(|secret| secret.len() == 32), "{secrets:?}");
    assert!(messages.iter().any(|message| holds(message, b"\\\"join\\\"")), "no join was seen on the broker");

    is_clean("a message", &messages.join(&b'\n'), &secrets);
    is_clean(
        "the arguments or the environment of a process",
        &processes.into_iter().collect::<Vec<_>>().concat(),
        &secrets,
    );
    let log = fs::read(&log).unwrap();
    assert!(log.len() > 10_000, "the log says little: {} bytes", log.len());
    is_clean("the log", &log, &secrets);
    let mut cards = Vec::new();
    files(dir.path(), &mut cards);
    for card in &cards {
        is_clean(&card.display().to_string(), &fs::read(card).unwrap(), &secrets);
    }
    let regions = memory(crew.0.id());
    let decoy = format!("{DECOY}{}", crew.0.id());
    assert!(regions.iter().any(|region| holds(region, decoy.as_bytes())), "the search of the memory finds nothing");
    let bytes: usize = regions.iter().map(Vec::len).sum();
    println!(
        "{} messages, {} files, {bytes} bytes of memory searched for {}",
        messages.len(),
        cards.len(),
        secrets.len()
    );
    for region in &regions {
        is_clean("the memory of the process", region, &secrets);
    }
}
