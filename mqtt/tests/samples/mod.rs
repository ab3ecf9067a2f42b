//! Messages of every kind: the smallest, usual ones with every variant, and the largest that the types allow. Fixtures, the
//! fuzzer and the AsyncAPI document are made of them, so a new field or variant is added here once.

#![allow(dead_code, unreachable_pub, missing_docs)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use beehive_mqtt::codec::Wrapping;
use beehive_mqtt::command::{Answer, Command, MAX_SECRET_BYTES, SealedCredential, Verb, VerbName};
use beehive_mqtt::console::{
    Ask, ConsoleRequest, ConsoleResponse, Force, MAX_PLAN_STEPS, Mode, PlanStep, ResponseStatus, SealedAccess,
};
use beehive_mqtt::coordinator::{
    AuditHead, ClusterPhase, CoordinatorEvent, CoordinatorEventKind, CoordinatorState, Failure, MAX_FAILURES,
    MAX_STEPS_PER_NODE, Member, Membership, OperationKind, OperationNode, OperationPhase, OperationSummary, Session,
    Slot, StepCounts, StepKind, StepReport, StepState,
};
use beehive_mqtt::direct::{DirectRequest, DirectVerb};
use beehive_mqtt::manifest::{MAX_USERS, NodeEntry, UserEntry, UserRole};
use beehive_mqtt::node::{
    BrokerTrust, CommandResult, CommandStatus, Connection, EngineRun, EngineState, LastShutdown, Lifecycle, NodeEvent,
    NodeEventKind, NodeInfo, NodeRequest, NodeState, Part, PartStatus, PowerGoal, PowerPhase, Presence, Refused, Role,
    Running, ShutdownOutcome, Telemetry, Throttling, Want,
};
use beehive_mqtt::sign::{ClientKey, ClientProof, PublicKey, RecordHash, SealKey, Signature, Signer};
use beehive_mqtt::{
    CrewName, DecodeError, KeyId, MAX_NODES, Manifest, Payload, ProtocolVersion, SpokenVersion, Text, Topic, decode,
    encode_in,
};
use std::cell::Cell;
use std::fmt::Debug;
use std::str::FromStr;

pub fn crew() -> CrewName {
    "bee42-crew-01".parse().unwrap()
}

/// A key that signs deterministically; Ed25519 itself is tested where the keys are.
pub struct TestKey;

impl Signer for TestKey {
    fn key(&self) -> KeyId {
        KeyId(*b"test-key")
    }

    fn sign(&self, message: &[u8]) -> Signature {
        let hash = RecordHash::of(message).0;
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&hash);
        bytes[32..].copy_from_slice(&hash);
        Signature(bytes)
    }
}

thread_local! {
    /// The version that samples are of.
    static VERSION: Cell<ProtocolVersion> = const { Cell::new(ProtocolVersion::CURRENT) };
}

/// What a program of the samples' version says of itself.
fn speaks(fill: Fill) -> Option<SpokenVersion> {
    match fill {
        Least => None,
        Usual => SpokenVersion::said_by(VERSION.get()),
        // also a version that nobody speaks yet
        Most => SpokenVersion::said_by(VERSION.get()).map(|_| SpokenVersion(u8::MAX)),
    }
}

/// How full a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// Everything empty or absent that may be.
    Least,
    /// As it usually is, with characters that need care.
    Usual,
    /// Everything as long as it may be, with the characters that need the most room on the wire.
    Most,
}

use Fill::{Least, Most, Usual};

fn text<const N: usize>(fill: Fill, usual: &str) -> Text<N> {
    match fill {
        Least => Text::new(),
        Usual => Text::cut(usual),
        // six characters in JSON for each byte of it
        Most => Text::cut(&"\u{1}".repeat(N)),
    }
}

fn id<T: FromStr<Err: Debug>>(fill: Fill, usual: &str, most: usize) -> T {
    match fill {
        Least => "a".parse().unwrap(),
        Usual => usual.parse().unwrap(),
        Most => "x".repeat(most).parse().unwrap(),
    }
}

macro_rules! ids {
    ($($name:ident: $type:ty = $usual:literal, $most:literal;)*) => {
        $(fn $name(fill: Fill) -> $type { id(fill, $usual, $most) })*
    };
}

ids! {
    node: beehive_mqtt::NodeName = "bee42-crew-01-002", 63;
    user: beehive_mqtt::UserName = "ann", 32;
    boot: beehive_mqtt::BootId = "0b3c5d7e-1f2a-4b3c-8d4e-5f6a7b8c9d0e", 40;
    cluster: beehive_mqtt::ClusterId = "4c5f0a1e2b3d4c5f8a9b0c1d2e3f4a5b", 64;
    request: beehive_mqtt::RequestId = "4c5f0a1e2b3d4c5f8a9b0c1d2e3f4a5b", 64;
    operation: beehive_mqtt::OperationId = "4c5f0a1e2b3d4c5f8a9b0c1d2e3f4a5b", 64;
    command_id: beehive_mqtt::CommandId = "4c5f0a1e2b3d4c5f8a9b0c1d2e3f4a5b-3-1", 80;
    nonce: beehive_mqtt::Nonce = "00112233445566778899aabbccddeeff", 32;
}

fn number(fill: Fill, usual: u64) -> u64 {
    match fill {
        Least => 0,
        Usual => usual,
        Most => u64::MAX,
    }
}

fn small(fill: Fill, usual: u32) -> u32 {
    u32::try_from(number(fill, usual.into())).unwrap_or(u32::MAX)
}

fn maybe<T>(fill: Fill, value: T) -> Option<T> {
    (fill != Least).then_some(value)
}

pub fn presence(fill: Fill, status: Connection) -> Presence {
    let reason = text(fill, "the Pi goes down \u{1f41d}");
    Presence { status, start: small(fill, 7), connection: small(fill, 2), reason }
}

fn session(fill: Fill) -> Session {
    Session { term: number(fill, 3), number: number(fill, 12), nonce: nonce(fill) }
}

fn engine(fill: Fill, run: EngineRun) -> EngineState {
    EngineState { cluster: maybe(fill, cluster(fill)), run, version: text(fill, "v1.31.4+k3s1") }
}

pub fn node_state(fill: Fill) -> NodeState {
    NodeState {
        lifecycle: if fill == Least { Lifecycle::Blank } else { Lifecycle::Leaving },
        power: if fill == Least { PowerPhase::Running } else { PowerPhase::HandingOver },
        goal: maybe(fill, PowerGoal::PowerOff),
        led: text(fill, "safe_to_unplug"),
        running: maybe(fill, Running { id: command_id(fill), verb: VerbName::Initialise }),
        boot: boot(fill),
        start: small(fill, 7),
        revision: small(fill, 41),
        nonce: nonce(fill),
        heard: maybe(fill, session(fill)),
        engine: engine(fill, if fill == Least { EngineRun::Stopped } else { EngineRun::Running }),
        last_shutdown: maybe(
            fill,
            LastShutdown {
                phase: PowerPhase::HandingOver,
                reason: text(fill, "button"),
                outcome: ShutdownOutcome::Interrupted,
            },
        ),
        speaks: speaks(fill),
        // of one that says nothing of its version it is not known either
        machine: speaks(fill).map(|_| "0f1e2d3c4b5a6978".parse().unwrap()),
    }
}

fn part(fill: Fill, status: PartStatus) -> Part {
    Part { status, detail: text(fill, "held by \"clean-shutdown\"\n\\ line 17") }
}

pub fn node_info(fill: Fill) -> NodeInfo {
    NodeInfo {
        role: Role::Master,
        model: text(fill, "Raspberry Pi 3 Model B Plus Rev 1.3"),
        version: text(fill, "0.1.0"),
        architecture: text(fill, "arm"),
        engine: text(fill, "k3s"),
        pins: text(fill, "character-device"),
        button: part(fill, PartStatus::Busy),
        poe_hat: part(fill, PartStatus::Missing),
        leds: part(fill, PartStatus::Works),
        broker: BrokerTrust::InsecureTest,
        speaks: speaks(fill),
    }
}

pub fn telemetry(fill: Fill) -> Telemetry {
    let count = |usual| small(fill, usual);
    Telemetry {
        uptime_ms: number(fill, 123_456),
        feed: text(fill, "shim"),
        feed_evidence: text(fill, "no PoE HAT at 0x51"),
        poe_current_ma: maybe(fill, count(612)),
        over_currents: count(1),
        fan_duty: maybe(fill, 255),
        processor_millicelsius: maybe(fill, i32::MIN),
        throttling: maybe(
            fill,
            Throttling {
                under_voltage: Some(false),
                frequency_capped: Some(false),
                throttled: Some(true),
                soft_temperature_limit: Some(false),
            },
        ),
        refused: Refused {
            malformed: count(1),
            oversized: count(2),
            unknown_version: count(3),
            retained: count(4),
            foreign: count(5),
            untrusted: count(6),
        },
    }
}

pub fn node_event(fill: Fill, kind: NodeEventKind) -> NodeEvent {
    let detail = text(fill, "gr\u{fc}n \u{1f41d} \u{2028} \"quoted\" \\ \t");
    NodeEvent { kind, detail, uptime_ms: number(fill, 5_000), sequence: small(fill, 9) }
}

pub fn node_request(fill: Fill, want: Want) -> NodeRequest {
    NodeRequest {
        id: request(fill),
        want,
        deadline_ms: number(fill, 120_000),
        reason: text(fill, "button"),
        boot: boot(fill),
        session: nonce(fill),
        nonce: maybe(fill, nonce(fill)),
    }
}

pub fn result(fill: Fill, status: CommandStatus) -> CommandResult {
    CommandResult {
        id: command_id(fill),
        verb: VerbName::Initialise,
        status,
        code: text(fill, "busy"),
        reason: text(fill, "runs reset (4c5f-3-1)"),
        boot: boot(fill),
        nonce: nonce(fill),
    }
}

pub fn command(fill: Fill, verb: Verb) -> Command {
    Command {
        id: command_id(fill),
        nonce: nonce(fill),
        term: number(fill, 3),
        session: number(fill, 12),
        operation: maybe(fill, operation(fill)),
        expires_ms: number(fill, 300_000),
        verb,
    }
}

pub fn direct(fill: Fill, verb: DirectVerb) -> DirectRequest {
    let id = match fill {
        Usual => "direct-4c5f0a1e2b3d4c5f8a9b0c1d2e3f4a5b-1".parse().unwrap(),
        Least | Most => command_id(fill),
    };
    DirectRequest { id, nonce: nonce(fill), verb }
}

pub fn join(fill: Fill) -> Verb {
    let sealed = match fill {
        Least => Vec::new(),
        Usual => (0..=255).collect(),
        Most => vec![0xff; MAX_SECRET_BYTES + 64],
    };
    Verb::Join {
        cluster: cluster(fill),
        server: text(fill, "https://10.0.0.1:6443"),
        version: text(fill, "v1.31.4+k3s1"),
        credential: SealedCredential::new(&sealed),
    }
}

fn head(fill: Fill) -> AuditHead {
    match fill {
        Least => AuditHead::NONE,
        Usual | Most => AuditHead { number: number(fill, 77), hash: RecordHash([0xab; 32]) },
    }
}

pub fn coordinator_state(fill: Fill) -> CoordinatorState {
    let member = |membership| Member {
        node: node(fill),
        membership,
        slot: Slot::Held,
        boot: maybe(fill, boot(fill)),
        // who was never heard has said nothing of that either
        speaks: speaks(fill).filter(|_| membership != Membership::Expected),
    };
    let members = match fill {
        Least => Vec::new(),
        Usual => MEMBERSHIPS.iter().map(|membership| member(*membership)).collect(),
        Most => vec![member(Membership::CordonedByOthers); MAX_NODES],
    };
    CoordinatorState {
        session: session(fill),
        master: node(fill),
        phase: ClusterPhase::Degraded,
        cluster: maybe(fill, cluster(fill)),
        operation: maybe(fill, operation(fill)),
        members: members.into_iter().collect(),
        uptime_ms: number(fill, 99),
        revision: small(fill, 5),
        audit: head(fill),
        speaks: speaks(fill),
    }
}

pub fn summary(fill: Fill, kind: OperationKind, phase: OperationPhase) -> OperationSummary {
    let failure = Failure { node: node(fill), step: StepKind::DeleteNode, reason: text(fill, "timed out") };
    let failures = match fill {
        Least => Vec::new(),
        Usual => vec![failure],
        Most => vec![failure; MAX_FAILURES],
    };
    let count = |usual: u16| u16::try_from(number(fill, usual.into())).unwrap_or(u16::MAX);
    OperationSummary {
        id: operation(fill),
        kind,
        node: maybe(fill, node(fill)),
        phase,
        revision: small(fill, 5),
        requested_by: text(fill, "user:ann"),
        counts: StepCounts {
            pending: count(1),
            running: count(2),
            done: count(3),
            failed: count(4),
            skipped: count(5),
        },
        failures: failures.into_iter().collect(),
    }
}

pub fn operation_node(fill: Fill) -> OperationNode {
    let step = |step, state| StepReport { number: if fill == Most { u16::MAX } else { 3 }, step, state };
    let steps = match fill {
        Least => Vec::new(),
        Usual => STEP_STATES.iter().map(|state| step(StepKind::Drain, *state)).collect(),
        Most => vec![step(StepKind::DeleteNode, StepState::Pending); MAX_STEPS_PER_NODE],
    };
    OperationNode {
        id: operation(fill),
        node: node(fill),
        revision: small(fill, 5),
        steps: steps.into_iter().collect(),
        reason: text(fill, "waits for the API server"),
    }
}

pub fn coordinator_event(fill: Fill, kind: CoordinatorEventKind) -> CoordinatorEvent {
    CoordinatorEvent {
        kind,
        operation: maybe(fill, operation(fill)),
        node: maybe(fill, node(fill)),
        detail: text(fill, "drain bee42-crew-01-002: done"),
        uptime_ms: number(fill, 99),
    }
}

pub fn manifest(fill: Fill) -> Manifest {
    let name = |number: usize| -> beehive_mqtt::NodeName {
        let text = match fill {
            Least | Usual => format!("pi-{number}"),
            Most => format!("{}{number:03}", "x".repeat(60)),
        };
        text.parse().unwrap()
    };
    let user = |number: usize, role| {
        let text = match fill {
            Least | Usual => format!("user-{number}"),
            Most => format!("{}{number:03}", "x".repeat(29)),
        };
        UserEntry { name: text.parse().unwrap(), role, sign: PublicKey([0xcd; 32]) }
    };
    let (nodes, users) = match fill {
        Least => (1, Vec::new()),
        Usual => (2, [UserRole::Operator, UserRole::Bridge, UserRole::ReadOnly].into_iter().enumerate().collect()),
        Most => (MAX_NODES, vec![UserRole::Operator; MAX_USERS].into_iter().enumerate().collect()),
    };
    let entry = |number| NodeEntry { name: name(number), sign: PublicKey([0xab; 32]), seal: SealKey([0xef; 32]) };
    Manifest {
        crew: match fill {
            Most => "x".repeat(40).parse().unwrap(),
            Least | Usual => crew(),
        },
        revision: number(fill, 4),
        term: number(fill, 3),
        coordinator: name(0),
        nodes: (0..nodes).map(entry).collect(),
        users: users.into_iter().map(|(number, role)| user(number, role)).collect(),
    }
}

pub fn console_request(fill: Fill, mode: Mode, ask: Ask) -> ConsoleRequest {
    ConsoleRequest { id: request(fill), nonce: nonce(fill), mode, ask }
}

pub fn ask(fill: Fill, kind: OperationKind, force: Force) -> Ask {
    Ask::Operation { kind, node: maybe(fill, node(fill)), version: text(fill, "v1.31.4+k3s1"), force }
}

pub fn console_response(fill: Fill, status: ResponseStatus) -> ConsoleResponse {
    let step =
        PlanStep { step: StepKind::DeleteNode, node: node(fill), stage: if fill == Most { u16::MAX } else { 2 } };
    let plan = match fill {
        Least => Vec::new(),
        Usual => vec![step],
        Most => vec![step; MAX_PLAN_STEPS],
    };
    ConsoleResponse {
        id: request(fill),
        status,
        code: text(fill, "one-operation-at-a-time"),
        text: text(fill, "rebuild (r-1) runs; wait for it or abort it"),
        operation: maybe(fill, operation(fill)),
        plan: plan.into_iter().collect(),
        audit: head(fill),
        sealed: None,
    }
}

/// An answer with what opens the cluster.
fn console_access(fill: Fill) -> ConsoleResponse {
    let sealed = match fill {
        Least => SealedAccess::new(&[]),
        Usual => SealedAccess::new(&[0xa5; 100]),
        Most => SealedAccess::new(&[0xff; 4_096]),
    };
    ConsoleResponse { sealed: Some(sealed), plan: Default::default(), ..console_response(fill, ResponseStatus::Done) }
}

// ---- every word of every enumeration; the matches make a new variant a compile error

macro_rules! every {
    ($($name:ident: $type:ident { $($variant:ident),* $(,)? })*) => {
        $(pub const $name: &[$type] = &[$($type::$variant),*];
        const _: fn($type) = |value| match value { $($type::$variant => {}),* };)*
    };
}

every! {
    CONNECTIONS: Connection { Online, Offline }
    LIFECYCLES: Lifecycle { Blank, Joining, Member, Leaving, Broken }
    POWER_PHASES: PowerPhase { Running, Grace, Draining, Stopping, HandingOver, Halted }
    POWER_GOALS: PowerGoal { Reboot, PowerOff }
    ENGINE_RUNS: EngineRun { Stopped, Running }
    OUTCOMES: ShutdownOutcome { Orderly, Interrupted }
    ROLES: Role { Master, Node }
    PART_STATUSES: PartStatus { Works, Missing, Busy, Failed, Off }
    BROKER_TRUSTS: BrokerTrust { Loopback, Tls, InsecureTest }
    NODE_EVENTS: NodeEventKind {
        Started, ButtonPressed, ButtonThreshold, ButtonReleased, Gesture, Refused, Power, OverCurrent, UnderVoltage,
        Throttling, Board, Lifecycle, Direct, Other,
    }
    WANTS: Want { PowerOff, Reboot, Leave }
    STATUSES: CommandStatus {
        Accepted, Rejected, InProgress, Succeeded, Failed, TimedOut, Interrupted, Canceled,
    }
    VERBS: VerbName {
        Initialise, Join, Stop, Reset, Snapshot, AddOns, Upgrade, Reboot, PowerOff, Identify, Answer,
    }
    ANSWERS: Answer { Go, GoUndrained, Wait }
    MEMBERSHIPS: Membership {
        Expected, Blank, Joining, Ready, NotReady, Draining, Cordoned, CordonedByOthers, Leaving, Broken, Lost,
    }
    SLOTS: Slot { Free, Held }
    CLUSTER_PHASES: ClusterPhase { Absent, Changing, Ready, Degraded }
    KINDS: OperationKind {
        Create, Rebuild, Reset, Reboot, Upgrade, Shutdown, Start, NodeDrain, NodeUncordon, NodeJoin, NodeLeave, NodeReset,
        NodeReboot, NodeShutdown, NodeIdentify,
    }
    PHASES: OperationPhase { Running, Paused, Aborting, Done, Failed, Aborted, PartlyDone }
    STEPS: StepKind {
        Snapshot, Cordon, Drain, Uncordon, Stop, DeleteNode, Reset, Initialise, Join, WaitReady, AddOns, Upgrade,
        Reboot, PowerOff, WaitUp, Identify, LetGo,
    }
    STEP_STATES: StepState { Pending, Running, Done, Failed, Skipped }
    COORDINATOR_EVENTS: CoordinatorEventKind {
        Started, OperationStarted, Step, OperationEnded, Membership, Refused, Slot, Other,
    }
    USER_ROLES: UserRole { Operator, Bridge, ReadOnly }
    MODES: Mode { Execute, DryRun }
    FORCES: Force { No, Yes }
    RESPONSES: ResponseStatus {
        Started, Done, Unchanged, Planned, Refused, UnknownNode, NotAuthorised, Invalid, Failed,
    }
}

// ---- every message

/// Whether some bytes are read as a certain message.
pub type Is = Box<dyn Fn(&[u8]) -> Result<bool, DecodeError>>;

/// A message with what it takes to make it, and to read it back.
pub struct Sample {
    /// The fixture's name.
    pub name: String,
    pub kind: &'static str,
    pub fill: Fill,
    pub topic: Topic,
    pub wrapping: Wrapping,
    pub max_bytes: usize,
    pub max_body_bytes: usize,
    /// The inner document.
    pub body: String,
    pub bytes: Vec<u8>,
    /// The first version that knows it.
    pub since: ProtocolVersion,
    /// Whether some bytes are read as this message.
    pub is: Is,
}

fn sample<P: Payload + PartialEq + 'static>(name: &str, fill: Fill, topic: Topic, payload: P) -> Sample {
    let since = payload.since();
    let bytes = encode_in(since.max(VERSION.get()), &payload, &topic.name(&crew()), &TestKey)
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    Sample {
        since,
        name: format!("{}-{name}", P::NAME.replace([' ', '\''], "-")),
        kind: P::NAME,
        fill,
        topic,
        wrapping: P::WRAPPING,
        max_bytes: P::MAX_BYTES,
        max_body_bytes: P::MAX_BODY_BYTES,
        body: serde_json::to_string(&payload).unwrap(),
        bytes,
        is: Box::new(move |bytes| Ok(decode::<P>(bytes)? == payload)),
    }
}

fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).unwrap().as_str().unwrap().replace('_', "-")
}

fn verb(fill: Fill, name: VerbName) -> Verb {
    match name {
        VerbName::Initialise => Verb::Initialise { cluster: cluster(fill), version: text(fill, "v1.31.4+k3s1") },
        VerbName::Join => join(fill),
        VerbName::Stop => Verb::Stop,
        VerbName::Reset => Verb::Reset,
        VerbName::Snapshot => Verb::Snapshot,
        VerbName::AddOns => Verb::AddOns,
        VerbName::Upgrade => Verb::Upgrade { version: text(fill, "v1.32.0+k3s1") },
        VerbName::Reboot => Verb::Reboot,
        VerbName::PowerOff => Verb::PowerOff,
        VerbName::Identify => Verb::Identify { seconds: if fill == Most { u16::MAX } else { 30 } },
        VerbName::Answer => Verb::Answer { request: request(fill), answer: Answer::GoUndrained },
    }
}

/// Everything that a version knows, written in it.
pub fn all_in(version: ProtocolVersion) -> Vec<Sample> {
    VERSION.set(version);
    let samples = all().into_iter().filter(|sample| sample.since <= version).collect();
    VERSION.set(ProtocolVersion::CURRENT);
    samples
}

/// Every kind in every fill, and every variant that has fields or a place of its own in the protocol.
pub fn all() -> Vec<Sample> {
    let mut all = Vec::new();
    for (fill, size) in [(Least, "least"), (Usual, "usual"), (Most, "most")] {
        let (node, user, operation) = (node(fill), user(fill), operation(fill));
        all.push(sample(size, fill, Topic::Presence(node.clone()), presence(fill, Connection::Offline)));
        all.push(sample(
            &format!("coordinator-{size}"),
            fill,
            Topic::CoordinatorPresence,
            presence(fill, Connection::Online),
        ));
        all.push(sample(size, fill, Topic::State(node.clone()), node_state(fill)));
        all.push(sample(size, fill, Topic::Info(node.clone()), node_info(fill)));
        all.push(sample(size, fill, Topic::Telemetry(node.clone()), telemetry(fill)));
        all.push(sample(size, fill, Topic::Event(node.clone()), node_event(fill, NodeEventKind::ButtonThreshold)));
        all.push(sample(size, fill, Topic::Request(node.clone()), node_request(fill, Want::PowerOff)));
        all.push(sample(size, fill, Topic::Result(node.clone()), result(fill, CommandStatus::InProgress)));
        for name in VERBS {
            let command = command(fill, verb(fill, *name));
            all.push(sample(&format!("{}-{size}", word(name)), fill, Topic::Command(node.clone()), command));
        }
        all.push(sample(size, fill, Topic::CoordinatorState, coordinator_state(fill)));
        let summary = summary(fill, OperationKind::NodeUncordon, OperationPhase::PartlyDone);
        all.push(sample(size, fill, Topic::Operation(operation.clone()), summary));
        all.push(sample(size, fill, Topic::OperationNode(operation, node.clone()), operation_node(fill)));
        let event = coordinator_event(fill, CoordinatorEventKind::OperationStarted);
        all.push(sample(size, fill, Topic::CoordinatorEvent, event));
        all.push(sample(size, fill, Topic::Manifest, manifest(fill)));
        let topic = || Topic::ConsoleRequest(user.clone());
        let operation = ask(fill, OperationKind::NodeUncordon, Force::Yes);
        all.push(sample(&format!("operation-{size}"), fill, topic(), console_request(fill, Mode::DryRun, operation)));
        all.push(sample(&format!("abort-{size}"), fill, topic(), console_request(fill, Mode::Execute, Ask::Abort)));
        all.push(sample(&format!("resume-{size}"), fill, topic(), console_request(fill, Mode::Execute, Ask::Resume)));
        let byte = if fill == Most { 0xff } else { 0x5a };
        let kubeconfig = Ask::Kubeconfig {
            seal: SealKey([byte; 32]),
            client: ClientKey([byte; 65]),
            proof: ClientProof([byte; 64]),
        };
        let kubeconfig = console_request(fill, Mode::Execute, kubeconfig);
        all.push(sample(&format!("kubeconfig-{size}"), fill, topic(), kubeconfig));
        let topic_of_answer = Topic::ConsoleResponse(user.clone());
        all.push(sample(&format!("kubeconfig-{size}"), fill, topic_of_answer, console_access(fill)));
        for verb in [
            DirectVerb::Identify { seconds: if fill == Most { u16::MAX } else { 30 } },
            DirectVerb::Reboot,
            DirectVerb::PowerOff,
        ] {
            let name = format!("{}-{size}", word(&verb.name()));
            all.push(sample(&name, fill, Topic::Direct(user.clone(), node.clone()), direct(fill, verb)));
        }
        let response = console_response(fill, ResponseStatus::NotAuthorised);
        all.push(sample(size, fill, Topic::ConsoleResponse(user.clone()), response));
    }
    // every word once
    for kind in NODE_EVENTS {
        all.push(sample(&word(kind), Usual, Topic::Event(node(Usual)), node_event(Usual, *kind)));
    }
    for kind in COORDINATOR_EVENTS {
        all.push(sample(&word(kind), Usual, Topic::CoordinatorEvent, coordinator_event(Usual, *kind)));
    }
    for status in STATUSES {
        all.push(sample(&word(status), Usual, Topic::Result(node(Usual)), result(Usual, *status)));
    }
    for want in WANTS {
        all.push(sample(&word(want), Usual, Topic::Request(node(Usual)), node_request(Usual, *want)));
    }
    for status in RESPONSES {
        let topic = Topic::ConsoleResponse(user(Usual));
        all.push(sample(&word(status), Usual, topic, console_response(Usual, *status)));
    }
    for kind in KINDS {
        let request = console_request(Usual, Mode::Execute, ask(Usual, *kind, Force::No));
        all.push(sample(&word(kind), Usual, Topic::ConsoleRequest(user(Usual)), request));
    }
    for phase in PHASES {
        let summary = summary(Usual, OperationKind::Rebuild, *phase);
        all.push(sample(&word(phase), Usual, Topic::Operation(operation(Usual)), summary));
    }
    all
}

/// As [`decode_any_in`], in the current version.
pub fn decode_any(topic: &Topic, bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    decode_any_in(ProtocolVersion::CURRENT, topic, bytes)
}

/// Reads bytes as what their topic carries. The answer is what they were read as, in bytes of a version that knows it:
/// reading those again has to give the same.
pub fn decode_any_in(version: ProtocolVersion, topic: &Topic, bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    fn read<P: Payload>(version: ProtocolVersion, topic: &Topic, bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let payload: P = decode(bytes)?;
        // what was read within its limits can be written within them
        let version = version.max(payload.since());
        Ok(encode_in(version, &payload, &topic.name(&crew()), &TestKey).unwrap_or_else(|error| panic!("{error}")))
    }
    match topic {
        Topic::Presence(_) | Topic::CoordinatorPresence => read::<Presence>(version, topic, bytes),
        Topic::State(_) => read::<NodeState>(version, topic, bytes),
        Topic::Info(_) => read::<NodeInfo>(version, topic, bytes),
        Topic::Telemetry(_) => read::<Telemetry>(version, topic, bytes),
        Topic::Event(_) => read::<NodeEvent>(version, topic, bytes),
        Topic::Request(_) => read::<NodeRequest>(version, topic, bytes),
        Topic::Result(_) => read::<CommandResult>(version, topic, bytes),
        Topic::Command(_) => read::<Command>(version, topic, bytes),
        Topic::CoordinatorState => read::<CoordinatorState>(version, topic, bytes),
        Topic::Operation(_) => read::<OperationSummary>(version, topic, bytes),
        Topic::OperationNode(..) => read::<OperationNode>(version, topic, bytes),
        Topic::CoordinatorEvent => read::<CoordinatorEvent>(version, topic, bytes),
        Topic::Manifest => read::<Manifest>(version, topic, bytes),
        Topic::ConsoleRequest(_) => read::<ConsoleRequest>(version, topic, bytes),
        Topic::ConsoleResponse(_) => read::<ConsoleResponse>(version, topic, bytes),
        Topic::Direct(..) => read::<DirectRequest>(version, topic, bytes),
    }
}
