//! Figures of the wire with fifty nodes, against a real mosquitto on loopback: `cargo bench --bench wire`. It prints one
//! table, with the goal beside each figure, and never fails for a figure.
//!
//! - **Restart**: the broker is killed and started again; until the coordinator has every node's state anew.
//! - **Command**: from the coordinator's publishing until it has the node's `accepted`. The node verifies, runs its core,
//!   and stores the command with fsync before it answers, as the agent does. The other 49 are connected and repeat their
//!   states.
//! - **Loss**: a node's packets vanish (a fault proxy swallows them); until the coordinator is told by the broker. The
//!   keep-alive is three seconds, so the broker gives a client up after four and a half.
//! - **Flood**: 10,000 malformed messages a second for ten seconds at one node's command topic, a `beehive run` process; its
//!   memory, and the time that commands to it take meanwhile.

#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/common/crew.rs"]
mod crew;
#[path = "../tests/common/ends.rs"]
mod ends;
#[path = "../tests/common/keys.rs"]
mod keys;

use beehive::keys::new_nonce;
use beehive::link::{Incoming, LinkEvent};
use beehive::store::Store;
use beehive_cluster::node::{Action, Event, NodeConfig, NodeCore, NodeRecord};
use beehive_cluster::{Destruction, Instant as ClusterInstant};
use beehive_mqtt::command::{Command, Verb};
use beehive_mqtt::node::{CommandResult, Connection, NodeState, Presence, Role};
use beehive_mqtt::{Nonce, Topic, decode};
use common::proxy::{Proxy, Weather};
use common::{Mosquitto, Plain, Retain};
use crew::{Crew, MASTER, pi, read, wire};
use ends::{End, name, state};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const NODES: usize = 50;

fn row(what: &str, figure: &str, goal: &str) {
    println!("| {what} | {figure} | {goal} |");
}

fn main() {
    // `cargo test --benches` builds and calls it too; a benchmark is asked for
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    println!("| what | measured | goal |\n| --- | --- | --- |");
    runtime.block_on(restart());
    runtime.block_on(commands());
    runtime.block_on(loss());
    runtime.block_on(flood());
}

async fn every_state(coordinator: &mut End) {
    let mut seen = BTreeSet::new();
    while seen.len() < NODES {
        if let Some(LinkEvent::Message(Incoming { topic: Topic::State(node), .. })) = coordinator.events.recv().await {
            seen.insert(node);
        }
    }
}

async fn restart() {
    let mut broker = Mosquitto::start();
    let nodes: Vec<End> = (0..NODES).map(|number| End::node(broker.port, &format!("n{number}"))).collect();
    for (number, node) in nodes.iter().enumerate() {
        node.link.publish(&Topic::State(name(&format!("n{number}"))), &state(1)).unwrap();
    }
    let mut coordinator = End::coordinator(broker.port);
    every_state(&mut coordinator).await;
    let mut times = Vec::new();
    for _ in 0..5 {
        let begun = Instant::now();
        broker.restart();
        coordinator.down().await;
        every_state(&mut coordinator).await;
        times.push(begun.elapsed());
    }
    times.sort();
    let figure = format!("{:.1} s median, {:.1} s most of 5", times[2].as_secs_f64(), times[4].as_secs_f64());
    row("broker restart with 50 nodes until every state is there anew", &figure, "at most 5 s");
}

/// A node that does with a command what the agent does.
async fn serve(mut end: End, node: String, folder: std::path::PathBuf) {
    let store = Store::open(&folder).unwrap();
    let config = NodeConfig {
        role: Role::Node,
        destruction: Destruction::Allowed,
        boot: "boot-1".parse().unwrap(),
        nonce: new_nonce().unwrap(),
        term: 1,
    };
    let begun = Instant::now();
    let now = || ClusterInstant::from_ms(u64::try_from(begun.elapsed().as_millis()).unwrap());
    let (mut core, _) = NodeCore::start(now(), config, NodeRecord::default());
    let say = |core: &NodeCore| {
        let state = NodeState { nonce: core.nonce().clone(), ..state(1) };
        end.link.publish(&Topic::State(name(&node)), &state).unwrap();
    };
    say(&core);
    let mut beat = tokio::time::interval(Duration::from_secs(10));
    loop {
        tokio::select! {
            _ = beat.tick() => say(&core),
            event = end.events.recv() => {
                let Some(LinkEvent::Message(message)) = event else { continue };
                let (Topic::Command(_), Some(key)) = (&message.topic, message.key) else { continue };
                let command: Command = decode(&message.payload).unwrap();
                let mut actions = core.step(now(), Event::Command { key, command: Box::new(command) });
                while !actions.is_empty() {
                    let mut more = Vec::new();
                    for action in actions {
                        match action {
                            Action::Store(record) => store.save("node", record.as_ref()).unwrap(),
                            Action::Result(result) => {
                                end.link.publish(&Topic::Result(name(&node)), &result).unwrap();
                            }
                            Action::NewSession => more.extend(core.step(now(), Event::Session(new_nonce().unwrap()))),
                            _ => {}
                        }
                    }
                    say(&core);
                    actions = more;
                }
            }
        }
    }
}

/// The lightest command.
fn blink(id: &str, nonce: &Nonce) -> Command {
    Command {
        id: id.parse().unwrap(),
        nonce: nonce.clone(),
        term: 1,
        session: 1,
        operation: None,
        expires_ms: 10_000,
        verb: Verb::Identify { seconds: 1 },
    }
}

fn percentile(times: &[Duration], percent: usize) -> f64 {
    times[(times.len() - 1) * percent / 100].as_secs_f64() * 1_000.0
}

async fn commands() {
    let broker = Mosquitto::start();
    let folder = tempfile::tempdir().unwrap();
    let mut served = Vec::new();
    for number in 0..NODES {
        let node = format!("n{number}");
        let end = End::node(broker.port, &node);
        served.push(tokio::spawn(serve(end, node.clone(), folder.path().join(node))));
    }
    let mut coordinator = End::coordinator(broker.port);
    let mut nonces = vec![None; NODES];
    let mut times = Vec::new();
    let note = |nonces: &mut Vec<Option<_>>, message: &Incoming| {
        if let Topic::State(node) = &message.topic {
            let number: usize = node.as_str()[1..].parse().unwrap();
            nonces[number] = Some(decode::<NodeState>(&message.payload).unwrap().nonce);
        }
    };
    while nonces.iter().any(Option::is_none) {
        if let Some(LinkEvent::Message(message)) = coordinator.events.recv().await {
            note(&mut nonces, &message);
        }
    }
    for round in 0..2_000 {
        let number = round % NODES;
        let node = name(&format!("n{number}"));
        let command = blink(&format!("c-{round}"), nonces[number].as_ref().unwrap());
        let begun = Instant::now();
        coordinator.link.publish(&Topic::Command(node.clone()), &command).unwrap();
        loop {
            let Some(LinkEvent::Message(message)) = coordinator.events.recv().await else { continue };
            note(&mut nonces, &message);
            if message.topic == Topic::Result(node.clone())
                && decode::<CommandResult>(&message.payload).unwrap().id == command.id
            {
                times.push(begun.elapsed());
                break;
            }
        }
    }
    served.iter().for_each(tokio::task::JoinHandle::abort);
    times.sort();
    let figure = format!(
        "{:.1} ms median, {:.1} ms p99, {:.1} ms most of {}",
        percentile(&times, 50),
        percentile(&times, 99),
        percentile(&times, 100),
        times.len()
    );
    row("command until its node has stored and accepted it, 50 nodes connected", &figure, "p99 at most 20 ms");
}

async fn loss() {
    let broker = Mosquitto::start();
    let mut coordinator = End::coordinator(broker.port);
    coordinator.up().await;
    let mut times = Vec::new();
    for round in 0..5 {
        let proxy = Proxy::start(broker.port).await;
        let node = format!("n{round}");
        let mut end = End::node(proxy.port, &node);
        end.up().await;
        let status = |wanted: Connection| {
            let topic = Topic::Presence(name(&node));
            move |event| match event {
                LinkEvent::Message(message) if message.topic == topic => {
                    (decode::<Presence>(&message.payload).unwrap().status == wanted).then_some(())
                }
                _ => None,
            }
        };
        coordinator.find("online", status(Connection::Online)).await;
        proxy.set(Weather::BlackHole);
        let begun = Instant::now();
        coordinator.find("offline", status(Connection::Offline)).await;
        times.push(begun.elapsed());
    }
    times.sort();
    let (least, most) = (times[0].as_secs_f64(), times[4].as_secs_f64());
    row(
        "loss of a node until it is noticed, keep-alive 3 s",
        &format!("{least:.1} to {most:.1} s of 5"),
        "within 12 s",
    );
}

/// The memory of a process that is its own, in KiB, and the most that it ever was.
fn memory_kib(pid: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    (field("VmRSS:"), field("VmHWM:"))
}

async fn flood() {
    const PER_TENTH: usize = 1_000;
    // twice the ten seconds that are asked for: what grows in the first half and not in the second is no leak
    const TENTHS: usize = 200;
    let mut crew = Crew::new(&[MASTER, "pi-2"], 0);
    crew.start("pi-2");
    let topic = Topic::Command(pi("pi-2"));
    let result = Topic::Result(pi("pi-2"));
    let mut coordinator = Plain::connect(crew.broker.port, "coordinator", &["beehive/v1/bee/n/pi-2/+"]).await;
    let stranger = Plain::connect(crew.broker.port, "stranger", &[]).await;
    let states = Topic::State(pi("pi-2"));
    let mut nonce = None;
    while nonce.is_none() {
        let message = coordinator.next("the node's session").await;
        nonce = read::<NodeState>(&message, &states).map(|state| state.nonce);
    }
    let mut nonce = nonce.unwrap();
    let pid = crew.pid("pi-2");
    // warm: the first messages of each kind allocate
    for number in 0..30_000 {
        stranger.publish_at_most_once(&wire(&topic), &garbage(number)).await;
    }
    // answered when the node has come to it, behind all that
    let warm = blink("f-0", &nonce);
    coordinator.publish_carelessly(&wire(&topic), Retain::No, &crew.keys.signed(&topic, &warm)).await;
    coordinator
        .find("the answer", |message| {
            read::<CommandResult>(message, &result).is_some_and(|result| result.id == warm.id)
        })
        .await;
    let (before, _) = memory_kib(pid);
    let begun = Instant::now();
    let (mut times, mut sent) = (Vec::new(), 0);
    let (mut number, mut due, mut half) = (0, None, 0);
    for tenth in 0..TENTHS {
        if tenth == TENTHS / 2 {
            half = memory_kib(pid).0;
        }
        for _ in 0..PER_TENTH {
            stranger.publish_at_most_once(&wire(&topic), &garbage(sent)).await;
            sent += 1;
        }
        if due.is_none() {
            number += 1;
            let command = blink(&format!("f-{number}"), &nonce);
            let signed = crew.keys.signed(&topic, &command);
            coordinator.publish_carelessly(&wire(&topic), Retain::No, &signed).await;
            due = Some((Instant::now(), command.id));
        }
        let until = begun + Duration::from_millis(100) * u32::try_from(tenth + 1).unwrap();
        while let Ok(message) = tokio::time::timeout_at(until.into(), coordinator.next_or_end()).await {
            if let Some(state) = read::<NodeState>(&message, &states) {
                nonce = state.nonce;
            }
            let answer = read::<CommandResult>(&message, &result);
            if let Some((asked, _)) =
                due.as_ref().filter(|(_, id)| answer.as_ref().is_some_and(|answer| answer.id == *id))
            {
                times.push(asked.elapsed());
                due = None;
            }
        }
    }
    let lasted = begun.elapsed().as_secs_f64();
    let (after, most) = memory_kib(pid);
    times.sort();
    let rate = f64::from(u32::try_from(sent).unwrap()) / lasted;
    row(
        &format!("{rate:.0} malformed messages a second for {lasted:.0} s: the node's memory"),
        &format!("{before} KiB before, {half} KiB half-way, {after} KiB after, {most} KiB at most"),
        "no growth",
    );
    row(
        "commands to it meanwhile",
        &format!(
            "{} of {number} answered, {:.0} ms median, {:.0} ms most",
            times.len(),
            percentile(&times, 50),
            percentile(&times, 100)
        ),
        "still answered",
    );
}

fn garbage(number: usize) -> Vec<u8> {
    match number % 4 {
        0 => b"garbage".to_vec(),
        1 => br#"{"v":1,"key":"0011223344556677","body":"{}","sig":"00"}"#.to_vec(),
        2 => [&br#"{"v":1,"body":""#[..], &[b'['; 1_000]].concat(),
        _ => format!("{{\"v\":1,\"key\":\"{number:016x}\",\"body\":\"{{}}\",\"sig\":\"{}\"}}", "ab".repeat(64))
            .into_bytes(),
    }
}
