//! The ops console as a program: its exit codes, what it says and where, and its conversation with a coordinator over a
//! real mosquitto. The coordinator here is scripted: it says what each test needs, in the protocol's own types.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "common/keys.rs"]
mod keys;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command as Process, Output, Stdio};
use std::time::{Duration, Instant};

use beehive_mqtt::console::{
    AccessContext, Ask, ConsoleRequest, ConsoleResponse, Mode, PlanStep, ResponseStatus, SealedAccess,
};
use beehive_mqtt::coordinator::{
    AuditHead, ClusterPhase, CoordinatorState, Failure, Member, Membership, OperationKind, OperationNode,
    OperationPhase, OperationSummary, Session, Slot, StepCounts, StepKind, StepReport, StepState,
};
use beehive_mqtt::node::{
    Connection, EngineRun, EngineState, Lifecycle, NodeEvent, NodeEventKind, NodeState, PowerPhase, Presence,
};
use beehive_mqtt::sign::{ClientKey, SealKey};
use beehive_mqtt::topic::Retention;
use beehive_mqtt::{CrewName, NodeName, OperationId, Payload, RequestId, Text, Topic, UserName, decode};
use common::{Mosquitto, PATIENCE, Plain, Retain, soon};
use keys::Keys;
use serde_json::{Value, json};
use std::sync::LazyLock;

/// The crew of these tests; the first node coordinates.
static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys::new("bee", &["pi-1", "pi-2", "pi-3"], &["ann"]));

const BEEHIVE: &str = env!("CARGO_BIN_EXE_beehive");

/// A command of the console, with nothing of this machine's environment.
fn beehive(args: &[&str]) -> assert_cmd::Command {
    let mut command = assert_cmd::Command::new(BEEHIVE);
    for variable in ["BEEHIVE_BROKER", "BEEHIVE_CREW", "BEEHIVE_USER", "RUST_LOG"] {
        command.env_remove(variable);
    }
    command.env("BEEHIVE_IDENTITY", KEYS.user_dir("ann"));
    command.env("USER", "ann").timeout(Duration::from_secs(60)).args(args);
    command
}

fn ended(command: &mut assert_cmd::Command) -> (i32, String, String) {
    seen(command.output().unwrap())
}

fn seen(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().expect("ended by a signal"), text(output.stdout), text(output.stderr))
}

fn bee() -> CrewName {
    "bee".parse().unwrap()
}

fn pi(text: &str) -> NodeName {
    text.parse().unwrap()
}

/// The console's command in the background, against the broker at `port`, as the user ann of the crew bee.
fn console(port: u16, args: &[&str]) -> tokio::task::JoinHandle<(i32, String, String)> {
    let broker = format!("127.0.0.1:{port}");
    let mut command = beehive(&["--broker", &broker, "--crew", "bee"]);
    command.args(args);
    tokio::task::spawn_blocking(move || ended(&mut command))
}

/// A coordinator that says what it is told to.
struct Scripted(Plain);

impl Scripted {
    async fn start(broker: &Mosquitto) -> Self {
        let mut started = Self(Plain::connect(broker.port, "coordinator", &["beehive/v1/bee/q/+/request"]).await);
        started.session(1, "c1").await;
        started
    }

    /// Says in which session it is; nothing is asked of one that has not said so.
    async fn session(&mut self, number: u64, nonce: &str) {
        let state = CoordinatorState { revision: 0, ..coordinator_state(number, nonce) };
        self.say(Topic::CoordinatorState, &state).await;
    }

    async fn say<P: Payload>(&mut self, topic: Topic, payload: &P) {
        let retain = match topic.retention() {
            Retention::Retained => Retain::Yes,
            Retention::Passing => Retain::No,
        };
        self.0.publish(&topic.name(&bee()), retain, &KEYS.signed(&topic, payload)).await;
    }

    /// A crew of two, the second one off.
    async fn crew(&mut self) {
        let mut state = coordinator_state(1, "c1");
        for (node, membership) in [("pi-1", Membership::Ready), ("pi-2", Membership::Lost)] {
            state
                .members
                .push(Member { node: pi(node), membership, slot: Slot::Free, boot: None, speaks: None })
                .unwrap();
        }
        self.say(Topic::CoordinatorPresence, &presence(Connection::Online)).await;
        self.say(Topic::CoordinatorState, &state).await;
        for (node, connection) in [("pi-1", Connection::Online), ("pi-2", Connection::Offline)] {
            self.say(Topic::Presence(pi(node)), &presence(connection)).await;
            self.say(Topic::State(pi(node)), &node_state()).await;
        }
    }

    async fn request(&mut self) -> ConsoleRequest {
        let message = self.0.next("a request").await;
        assert!(message.topic.ends_with("/q/ann/request") && !message.retain, "{}", message.topic);
        decode(&message.payload).unwrap()
    }

    async fn answer(&mut self, id: &RequestId, status: ResponseStatus, code: &str, operation: Option<&str>) {
        let response = response(id, status, code, operation);
        self.say(Topic::ConsoleResponse(user("ann")), &response).await;
    }

    async fn summary(&mut self, summary: &OperationSummary) {
        self.say(Topic::Operation(summary.id.clone()), summary).await;
    }

    async fn steps(&mut self, id: &str, revision: u32, node: &str, steps: &[(u16, StepKind, StepState)]) {
        let id: OperationId = id.parse().unwrap();
        let mut report =
            OperationNode { id: id.clone(), node: pi(node), revision, steps: Default::default(), reason: Text::new() };
        for (number, step, state) in steps {
            report.steps.push(StepReport { number: *number, step: *step, state: *state }).unwrap();
        }
        self.say(Topic::OperationNode(id, pi(node)), &report).await;
    }
}

/// A cluster without members.
fn coordinator_state(number: u64, nonce: &str) -> CoordinatorState {
    CoordinatorState {
        session: Session { term: 1, number, nonce: nonce.parse().unwrap() },
        audit: AuditHead::NONE,
        speaks: None,
        master: pi("pi-1"),
        phase: ClusterPhase::Ready,
        cluster: Some("c-1".parse().unwrap()),
        operation: None,
        members: Default::default(),
        uptime_ms: 1,
        revision: 1,
    }
}

fn user(text: &str) -> UserName {
    text.parse().unwrap()
}

fn presence(status: Connection) -> Presence {
    Presence { status, start: 1, connection: 1, reason: Text::new() }
}

fn node_state() -> NodeState {
    NodeState {
        lifecycle: Lifecycle::Member,
        power: PowerPhase::Running,
        goal: None,
        led: Text::cut("steady"),
        running: None,
        boot: "boot-1".parse().unwrap(),
        start: 1,
        revision: 1,
        nonce: "s1".parse().unwrap(),
        heard: None,
        engine: EngineState {
            cluster: Some("c-1".parse().unwrap()),
            run: EngineRun::Running,
            version: Text::cut("v1.31.4"),
        },
        last_shutdown: None,
        speaks: None,
        machine: None,
    }
}

fn response(id: &RequestId, status: ResponseStatus, code: &str, operation: Option<&str>) -> ConsoleResponse {
    ConsoleResponse {
        id: id.clone(),
        status,
        code: Text::cut(code),
        text: Text::cut("so it is"),
        operation: operation.map(|id| id.parse().unwrap()),
        plan: Default::default(),
        audit: AuditHead::NONE,
        sealed: None,
    }
}

fn summary(id: &str, phase: OperationPhase, revision: u32, done: u16, pending: u16) -> OperationSummary {
    OperationSummary {
        id: id.parse().unwrap(),
        kind: OperationKind::Rebuild,
        node: None,
        phase,
        revision,
        requested_by: Text::cut("user:ann"),
        counts: StepCounts { done, pending, ..StepCounts::default() },
        failures: Default::default(),
    }
}

#[test]
fn a_wrong_command_line_ends_with_2_and_says_why() {
    for (args, reason) in [
        (&["status"][..], "--crew"),
        (&["--crew", "Bee", "status"], "only a-z, 0-9 and '-'"),
        (&["--crew", "bee", "node", "drain", "pi/2"], "only a-z, 0-9 and '-'"),
        (&["--crew", "bee", "--broker", "::1", "status"], "brackets"),
        (&["--crew", "bee", "node", "paint", "pi-2"], "unrecognized subcommand 'paint'"),
        (&["--crew", "bee", "status", "--timeout", "0"], "1..=86400"),
    ] {
        let (code, stdout, stderr) = ended(&mut beehive(args));
        assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}: {stderr}");
        assert!(stderr.contains(reason), "{args:?}: {stderr}");
    }
}

#[test]
fn what_destroys_is_not_done_without_a_terminal_and_without_yes() {
    for args in [
        &["cluster", "rebuild"][..],
        &["cluster", "reset", "--force"],
        &["node", "leave", "pi-2"],
        &["node", "reset", "pi-2", "--wait"],
    ] {
        // port 1 of loopback: if it asked the broker first, the code would be another
        let mut command = beehive(&["--crew", "bee", "--broker", "127.0.0.1:1"]);
        let (code, stdout, stderr) = ended(command.args(args).write_stdin("bee\npi-2\n"));
        assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}: {stderr}");
        assert!(stderr.contains("no terminal") && stderr.contains("--yes"), "{args:?}: {stderr}");
    }
}

#[test]
fn a_broker_elsewhere_is_refused_by_a_named_rule() {
    let (code, _, stderr) = ended(&mut beehive(&["--crew", "bee", "--broker", "192.0.2.1", "status"]));
    assert_eq!(code, 5, "{stderr}");
    assert!(stderr.contains("rule insecure-broker") && stderr.contains("--insecure-test-broker"), "{stderr}");
}

#[test]
fn an_unreachable_broker_ends_with_8_and_is_named() {
    let args = ["--crew", "bee", "--broker", "127.0.0.1:1", "--timeout", "1", "--json", "cluster", "create"];
    let (code, stdout, stderr) = ended(&mut beehive(&args));
    assert_eq!(code, 8, "{stderr}");
    assert!(stderr.contains("127.0.0.1:1 cannot be reached") && stderr.contains("--broker"), "{stderr}");
    let document: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&document["exit"], &document["error"]["code"]), (&json!(8), &json!("broker_unreachable")));
}

#[test]
fn help_completions_and_man_pages_have_the_exit_codes_and_commands() {
    for args in [&["--help"][..], &["cluster", "rebuild", "--help"], &["man"]] {
        let (code, stdout, _) = ended(&mut beehive(args));
        assert_eq!(code, 0);
        assert!(stdout.contains("the outcome is not known"), "{args:?}");
    }
    let (code, stdout, _) = ended(&mut beehive(&["completions", "bash"]));
    assert!(code == 0 && stdout.contains("uncordon"));
    let (code, stdout, _) = ended(&mut beehive(&["--json", "version"]));
    let document: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &document["version"]), (0, &json!(env!("CARGO_PKG_VERSION"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_what_the_broker_kept() {
    let broker = Mosquitto::start();
    let mut crew = Scripted::start(&broker).await;
    crew.crew().await;
    let expected = "\
crew bee: cluster ready, id c-1, v1.31.4, coordinator online on pi-1, term 1

NODE  ROLE    PRESENCE  MEMBERSHIP  POWER      LED     RUNNING
pi-1  master  online    ready       running    steady  -
pi-2  node    offline   lost        (running)  -       -
";
    assert_eq!(console(broker.port, &["status"]).await.unwrap(), (0, expected.to_owned(), String::new()));
    let (code, stdout, _) = console(broker.port, &["node", "list", "--json"]).await.unwrap();
    let nodes: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &nodes[1]["node"], &nodes[1]["presence"]), (0, &json!("pi-2"), &json!("offline")));
    let (code, stdout, _) = console(broker.port, &["node", "show", "pi-1"]).await.unwrap();
    assert!(code == 0 && stdout.contains("boot           boot-1\n"), "{stdout}");
    let (code, _, stderr) = console(broker.port, &["node", "show", "pi-9"]).await.unwrap();
    assert!(code == 3 && stderr.contains("pi-1, pi-2"), "{code} {stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crew_that_nobody_ever_heard_of_is_an_error() {
    let broker = Mosquitto::start();
    let (code, stdout, stderr) = console(broker.port, &["status", "--json"]).await.unwrap();
    assert_eq!(code, 1);
    assert!(stderr.contains("nothing was heard of crew bee"), "{stderr}");
    let document: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(document["error"]["code"], "silent-crew");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_is_followed_step_by_step_to_its_end() {
    let broker = Mosquitto::start();
    let mut crew = Scripted::start(&broker).await;
    let run = console(broker.port, &["cluster", "rebuild", "--yes", "--wait", "--engine-version", "v9"]);
    let request = crew.request().await;
    let version = Text::cut("v9");
    let force = beehive_mqtt::console::Force::No;
    let ask = Ask::Operation { kind: OperationKind::Rebuild, node: None, version, force };
    assert_eq!((&request.ask, request.mode), (&ask, Mode::Execute));
    let id = request.id.as_str();
    crew.answer(&request.id, ResponseStatus::Started, "", Some(id)).await;
    crew.summary(&summary(id, OperationPhase::Running, 1, 0, 2)).await;
    let snapshot = |state| (1, StepKind::Snapshot, state);
    crew.steps(id, 1, "pi-1", &[snapshot(StepState::Running)]).await;
    crew.steps(id, 2, "pi-1", &[snapshot(StepState::Done)]).await;
    crew.steps(id, 3, "pi-2", &[(2, StepKind::Join, StepState::Done)]).await;
    crew.summary(&summary(id, OperationPhase::Done, 3, 2, 0)).await;
    let (code, stdout, stderr) = run.await.unwrap();
    assert_eq!((code, stdout.as_str()), (0, "rebuild of crew bee: done, 2 of 2 steps done\n"), "{stderr}");
    let told: Vec<&str> = stderr.lines().filter(|line| line.starts_with('[')).collect();
    assert_eq!(
        told,
        ["[ 1/2] running  snapshot     pi-1", "[ 1/2] done     snapshot     pi-1", "[ 2/2] done     join         pi-2"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn how_an_operation_ends_is_the_exit_code_and_in_the_document() {
    let broker = Mosquitto::start();
    let mut crew = Scripted::start(&broker).await;
    for (phase, expected) in
        [(OperationPhase::Failed, 1), (OperationPhase::Aborted, 1), (OperationPhase::PartlyDone, 7)]
    {
        let run = console(broker.port, &["node", "join", "pi-2", "--wait", "--json"]);
        let request = crew.request().await;
        let id = request.id.as_str();
        let mut end = summary(id, phase, 2, 1, 0);
        end.failures.push(Failure { node: pi("pi-2"), step: StepKind::Join, reason: Text::cut("no route") }).unwrap();
        // what was reported before the answer counts too
        crew.summary(&end).await;
        crew.answer(&request.id, ResponseStatus::Started, "", Some(id)).await;
        let (code, stdout, stderr) = run.await.unwrap();
        assert_eq!(code, expected, "{stderr}");
        assert!(stderr.contains("join on pi-2 failed: no route") && stderr.contains("cluster resume"), "{stderr}");
        let document: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(document["outcome"]["phase"], json!(phase.as_str()));
        assert_eq!(document["outcome"]["failures"][0]["reason"], "no route");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_is_sent_again_until_it_is_answered() {
    let broker = Mosquitto::start();
    let mut crew = Scripted::start(&broker).await;
    let run = console(broker.port, &["node", "identify", "pi-2"]);
    let first = crew.request().await;
    let second = crew.request().await;
    assert_eq!(first, second);
    // an answer to somebody else's request is not ours
    crew.answer(&"another".parse().unwrap(), ResponseStatus::Refused, "not-yours", None).await;
    let third = crew.request().await;
    assert_eq!(first, third);
    crew.answer(&third.id, ResponseStatus::Done, "", None).await;
    let (code, stdout, stderr) = run.await.unwrap();
    assert_eq!((code, stdout.as_str()), (0, "identify of pi-2 is done: so it is\n"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_an_ended_session_is_asked_again_under_the_same_id() {
    let broker = Mosquitto::start();
    let mut crew = Scripted::start(&broker).await;
    let run = console(broker.port, &["node", "identify", "pi-2"]);
    let first = crew.request().await;
    assert_eq!(first.nonce.as_str(), "c1");
    crew.answer(&first.id, ResponseStatus::Refused, "stale-nonce", None).await;
    crew.session(2, "c2").await;
    // an older word that somebody plays again changes nothing
    crew.session(1, "c0").await;
    let second = loop {
        let request = crew.request().await;
        if request.nonce.as_str() != "c1" {
            break request;
        }
    };
    assert_eq!((second.nonce.as_str(), &second.id, &second.ask), ("c2", &first.id, &first.ask));
    crew.answer(&second.id, ResponseStatus::Done, "", None).await;
    let (code, _, stderr) = run.await.unwrap();
    assert_eq!(code, 0, "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_coordinator_that_was_never_heard_nothing_is_asked() {
    let broker = Mosquitto::start();
    let (code, _, stderr) = console(broker.port, &["cluster", "create", "--timeout", "1"]).await.unwrap();
    assert_eq!(code, 8, "{stderr}");
    assert!(stderr.contains("was not asked for") && stderr.contains("no coordinator of crew bee"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_answer_the_outcome_is_unknown() {
    let broker = Mosquitto::start();
    let mut crew = Scripted::start(&broker).await;
    crew.say(Topic::CoordinatorPresence, &presence(Connection::Offline)).await;
    let (code, _, stderr) = console(broker.port, &["cluster", "create", "--timeout", "1"]).await.unwrap();
    assert_eq!(code, 6, "{stderr}");
    assert!(stderr.contains("coordinator is not connected"), "{stderr}");
    let asked = crew.request().await;

    // the same when it has begun but its end is not reported
    let run = console(broker.port, &["cluster", "create", "--timeout", "2", "--wait"]);
    let request = loop {
        let request = crew.request().await;
        if request.id != asked.id {
            break request;
        }
    };
    crew.answer(&request.id, ResponseStatus::Started, "", Some(request.id.as_str())).await;
    let (code, _, stderr) = run.await.unwrap();
    assert_eq!(code, 6, "{stderr}");
    assert!(stderr.contains("has begun; how it ends is not known"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_has_its_code_and_names_its_rule() {
    let broker = Mosquitto::start();
    let mut crew = Scripted::start(&broker).await;
    for (status, rule, expected, said) in [
        (ResponseStatus::Refused, "one-operation-at-a-time", 5, "rule one-operation-at-a-time: so it is"),
        (ResponseStatus::UnknownNode, "", 3, "unknown node"),
        (ResponseStatus::NotAuthorised, "", 4, "not authorised"),
        (ResponseStatus::Failed, "store", 1, "store: so it is"),
        (ResponseStatus::Invalid, "", 1, "did not understand"),
        (ResponseStatus::Unchanged, "", 0, ""),
    ] {
        let run = console(broker.port, &["node", "drain", "pi-2", "--json"]);
        let request = crew.request().await;
        crew.answer(&request.id, status, rule, None).await;
        let (code, stdout, stderr) = run.await.unwrap();
        assert_eq!(code, expected, "{stderr}");
        assert!(stderr.contains(said), "{stderr}");
        let document: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(document["status"], json!(status));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_shows_the_plan_and_asks_nobody() {
    let broker = Mosquitto::start();
    let mut crew = Scripted::start(&broker).await;
    let run = console(broker.port, &["cluster", "reset", "--dry-run"]);
    let request = crew.request().await;
    assert_eq!(request.mode, Mode::DryRun);
    let mut plan = response(&request.id, ResponseStatus::Planned, "", None);
    for (stage, step, node) in [(1, StepKind::Snapshot, "pi-1"), (2, StepKind::Reset, "pi-2")] {
        plan.plan.push(PlanStep { step, node: pi(node), stage }).unwrap();
    }
    crew.say(Topic::ConsoleResponse(user("ann")), &plan).await;
    let expected = "\
plan for reset of crew bee: 2 steps, last stage 2; nothing has been done
STEP  STAGE  WHAT      NODE
   1  1      snapshot  pi-1
   2  2      reset     pi-2
";
    assert_eq!(run.await.unwrap(), (0, expected.to_owned(), String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_says_first_who_will_need_a_hand() {
    let broker = Mosquitto::start();
    let mut crew = Scripted::start(&broker).await;
    crew.crew().await;
    let run = console(broker.port, &["cluster", "shutdown", "--json"]);
    let request = crew.request().await;
    crew.answer(&request.id, ResponseStatus::Started, "", Some(request.id.as_str())).await;
    let (code, stdout, stderr) = run.await.unwrap();
    assert_eq!(code, 0, "{stderr}");
    // pi-2 is off already
    assert!(stderr.contains("1 Pi will need a hand to come back") && stderr.contains("pi-1"), "{stderr}");
    let document: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(document["need_a_hand"], json!(["pi-1"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_before_a_resume_is_not_its_end() {
    let broker = Mosquitto::start();
    let mut crew = Scripted::start(&broker).await;
    crew.crew().await;
    crew.summary(&summary("op-7", OperationPhase::Failed, 5, 1, 1)).await;
    let run = console(broker.port, &["cluster", "resume", "--wait"]);
    let request = crew.request().await;
    assert_eq!(request.ask, Ask::Resume);
    crew.answer(&request.id, ResponseStatus::Started, "", Some("op-7")).await;
    crew.summary(&summary("op-7", OperationPhase::Running, 6, 1, 1)).await;
    crew.summary(&summary("op-7", OperationPhase::Done, 7, 2, 0)).await;
    let (code, stdout, stderr) = run.await.unwrap();
    assert_eq!((code, stdout.as_str()), (0, "resume: done, 2 of 2 steps done\n"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_that_was_waited_for_is_a_success() {
    let broker = Mosquitto::start();
    let mut crew = Scripted::start(&broker).await;
    crew.crew().await;
    crew.summary(&summary("op-7", OperationPhase::Running, 5, 1, 1)).await;
    let run = console(broker.port, &["cluster", "abort", "--wait"]);
    let request = crew.request().await;
    assert_eq!(request.ask, Ask::Abort);
    crew.summary(&summary("op-7", OperationPhase::Aborting, 6, 1, 1)).await;
    crew.answer(&request.id, ResponseStatus::Started, "", Some("op-7")).await;
    crew.summary(&summary("op-7", OperationPhase::Aborted, 7, 1, 0)).await;
    let (code, _, stderr) = run.await.unwrap();
    assert_eq!(code, 0, "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_restarts_does_not_end_the_waiting() {
    let mut broker = Mosquitto::start();
    let mut crew = Scripted::start(&broker).await;
    let mut run = Following::start(broker.port, &["cluster", "rebuild", "--yes", "--wait"]);
    let request = crew.request().await;
    let id = request.id.as_str();
    crew.answer(&request.id, ResponseStatus::Started, "", Some(id)).await;
    assert_eq!(run.line("the answer").await, format!("rebuild of crew bee: operation {id}"));
    broker.restart();
    assert!(run.line("the loss").await.starts_with("connection to the broker lost"));
    let mut crew = Scripted::start(&broker).await;
    crew.summary(&summary(id, OperationPhase::Done, 9, 2, 0)).await;
    while run.line("the end").await != "rebuild of crew bee: done, 2 of 2 steps done" {}
    assert_eq!(run.end(), Some(0));
}

/// A console that goes on, and its lines: those of standard output and of standard error, as they come.
struct Following {
    child: Child,
    lines: tokio::sync::mpsc::UnboundedReceiver<String>,
}

impl Following {
    fn start(port: u16, args: &[&str]) -> Self {
        let broker = format!("127.0.0.1:{port}");
        let mut child = Process::new(BEEHIVE)
            .env("BEEHIVE_IDENTITY", KEYS.user_dir("ann"))
            .args(["--broker", &broker, "--crew", "bee", "--user", "ann"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (out, lines) = tokio::sync::mpsc::unbounded_channel();
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for stream in streams {
            let out = out.clone();
            let lines = BufReader::new(stream).lines().map_while(Result::ok);
            std::thread::spawn(move || lines.map(|line| out.send(line)).find(Result::is_err));
        }
        Self { child, lines }
    }

    async fn line(&mut self, what: &str) -> String {
        soon(what, self.lines.recv()).await.expect("the console has ended")
    }

    /// Ctrl-C; the code with which it ends.
    fn interrupt(self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(Process::new("kill").args(["-INT", &pid]).status().unwrap().success());
        self.end()
    }

    /// The code with which it ends.
    fn end(mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

async fn subscribed(broker: &Mosquitto) {
    soon("the console's subscription", async {
        while !broker.log().contains("Sending SUBACK to console-") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_followed_until_ctrl_c() {
    let line = "pi-2                       1.500  button_pressed     \u{fffd}[2J";
    let document = json!({
        "from": "node", "kind": "button_pressed", "node": "pi-2", "operation": null, "detail": "\u{1b}[2J",
        "uptime_ms": 1500, "sequence": 1,
    });
    for (args, expected) in
        [(&["events", "-f"][..], line), (&["events", "-f", "--json"], document.to_string().as_str())]
    {
        // a broker for each, so that its log speaks of this console
        let broker = Mosquitto::start();
        let mut crew = Scripted::start(&broker).await;
        let mut events = Following::start(broker.port, args);
        subscribed(&broker).await;
        let kind = NodeEventKind::ButtonPressed;
        let mut event = NodeEvent { kind, detail: Text::cut("\u{1b}[2J"), uptime_ms: 1_500, sequence: 1 };
        crew.say(Topic::Event(pi("pi-2")), &event).await;
        assert_eq!(events.line("the event").await, expected);
        event.sequence = 2;
        event.detail = Text::cut("again");
        crew.say(Topic::Event(pi("pi-2")), &event).await;
        assert!(events.line("the second event").await.contains("again"));
        assert_eq!(events.interrupt(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn status_watch_shows_each_change_and_a_silent_end() {
    let broker = Mosquitto::start();
    let mut crew = Scripted::start(&broker).await;
    crew.crew().await;
    let mut watch = Following::start(broker.port, &["status", "--watch", "--json"]);
    let read = |line: String| serde_json::from_str::<Value>(&line).unwrap();
    let first = read(watch.line("the first picture").await);
    assert_eq!(first["nodes"][1]["presence"], "offline");
    crew.say(Topic::Presence(pi("pi-2")), &presence(Connection::Online)).await;
    let second = read(watch.line("the second picture").await);
    assert_eq!(second["nodes"][1]["presence"], "online");
    assert_eq!(watch.interrupt(), Some(0));
}

/// Runs a command of the console on a pseudo-terminal (util-linux's `script`) and types `typed`.
fn on_a_terminal(port: u16, args: &str, typed: &'static str) -> tokio::task::JoinHandle<(i32, String, String)> {
    let line = format!("{BEEHIVE} --broker 127.0.0.1:{port} --crew bee --user ann {args}");
    let mut command = assert_cmd::Command::new("script");
    command.env("BEEHIVE_IDENTITY", KEYS.user_dir("ann"));
    command.args(["-qec", &line, "/dev/null"]).timeout(Duration::from_secs(60)).write_stdin(typed);
    tokio::task::spawn_blocking(move || ended(&mut command))
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_terminal_the_name_is_asked_for() {
    let broker = Mosquitto::start();
    let mut crew = Scripted::start(&broker).await;
    let (code, stdout, _) = on_a_terminal(broker.port, "cluster rebuild", "yes\n").await.unwrap();
    assert_eq!(code, 1, "{stdout}");
    assert!(stdout.contains("Type bee to go on") && stdout.contains("it was not confirmed"), "{stdout}");
    let run = on_a_terminal(broker.port, "cluster rebuild --wait", "bee\n");
    let request = crew.request().await;
    let id = request.id.as_str();
    crew.answer(&request.id, ResponseStatus::Started, "", Some(id)).await;
    crew.steps(id, 1, "pi-1", &[(1, StepKind::Snapshot, StepState::Running)]).await;
    crew.summary(&summary(id, OperationPhase::Done, 2, 1, 0)).await;
    let (code, stdout, _) = run.await.unwrap();
    assert_eq!(code, 0, "{stdout}");
    assert!(stdout.contains("rebuild of crew bee: done, 1 of 1 steps done"), "{stdout}");
}

/// An authority that certifies a key without asking whose it is.
struct Certifies<'a>(&'a ClientKey);

impl rcgen::PublicKeyData for Certifies<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.0.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Certifies<'_> {
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(vec![0; 70])
    }
}

/// The answer to a request for a kubeconfig, sealed to `seal`, or to the key that it names.
fn access(request: &ConsoleRequest, seal: Option<SealKey>) -> ConsoleResponse {
    let Ask::Kubeconfig { seal: named, client, proof } = &request.ask else { panic!("{request:?}") };
    // the key was meant for this very user
    beehive::keys::certification_request(&user("ann"), client, proof).unwrap();
    assert!(beehive::keys::certification_request(&user("bob"), client, proof).is_err());
    let certificate = rcgen::CertificateParams::default().self_signed(&Certifies(client)).unwrap().pem();
    let document = json!({ "server": "https://pi-1:6443", "authority": certificate, "certificate": certificate });
    let crew = bee();
    let user = user("ann");
    let context = AccessContext { crew: &crew, user: &user, request: &request.id, client };
    let sealed =
        beehive::keys::seal(&seal.unwrap_or(*named), document.to_string().as_bytes(), &context.bytes()).unwrap();
    ConsoleResponse {
        sealed: Some(SealedAccess::new(&sealed)),
        ..response(&request.id, ResponseStatus::Done, "certified", None)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubeconfig_comes_sealed_and_its_private_key_never_travels() {
    let broker = Mosquitto::start();
    let mut crew = Scripted::start(&broker).await;
    crew.crew().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config");
    let run = console(broker.port, &["cluster", "kubeconfig", "-o", file.to_str().unwrap()]);
    let asked = crew.0.next("a request").await;
    let request: ConsoleRequest = decode(&asked.payload).unwrap();
    crew.say(Topic::ConsoleResponse(user("ann")), &access(&request, None)).await;
    let (code, stdout, stderr) = run.await.unwrap();
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("opens https://pi-1:6443 for ann") && !stdout.contains("PRIVATE"), "{stdout}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let written: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let private = written["users"][0]["user"]["client-key-data"].as_str().unwrap().to_owned();
    assert!(private.len() > 100 && !String::from_utf8_lossy(&asked.payload).contains(&private[40..80]));
    // never over a file that is there, and then nothing is asked
    let (code, _, stderr) =
        console(broker.port, &["cluster", "kubeconfig", "-o", file.to_str().unwrap()]).await.unwrap();
    assert!(code == 5 && stderr.contains("rule file-exists"), "{code} {stderr}");
    // for a program that reads it
    let run = console(broker.port, &["cluster", "kubeconfig"]);
    let request = crew.request().await;
    crew.say(Topic::ConsoleResponse(user("ann")), &access(&request, None)).await;
    let (code, stdout, _) = run.await.unwrap();
    let printed: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &printed["kind"], &printed["current-context"]), (0, &json!("Config"), &json!("bee")));
    assert_ne!(printed["users"][0]["user"]["client-key-data"], private, "another key each time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubeconfig_that_is_not_for_this_console_is_not_written() {
    let broker = Mosquitto::start();
    let mut crew = Scripted::start(&broker).await;
    crew.crew().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config");
    let line = ["cluster", "kubeconfig", "-o", file.to_str().unwrap(), "--json"];
    // sealed to another key
    let run = console(broker.port, &line);
    let request = crew.request().await;
    let other = beehive::keys::Opener::from_seed(&[9; 32]).unwrap().public();
    crew.say(Topic::ConsoleResponse(user("ann")), &access(&request, Some(other))).await;
    let (code, stdout, stderr) = run.await.unwrap();
    let document: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &document["error"]["code"]), (1, &json!("bad-answer")), "{stderr}");
    // not issued
    for (status, word, exit) in [
        (ResponseStatus::Failed, "no-api", 1),
        (ResponseStatus::NotAuthorised, "role", 4),
        (ResponseStatus::Refused, "no-cluster", 5),
        (ResponseStatus::Done, "certified", 1),
    ] {
        let run = console(broker.port, &line);
        let request = crew.request().await;
        crew.answer(&request.id, status, word, None).await;
        let (code, stdout, stderr) = run.await.unwrap();
        assert_eq!(code, exit, "{stdout} {stderr}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
