//! What a node says: presence, state, info, telemetry, events, requests and results.

use crate::MAX_NODES;
use crate::codec::{Payload, Wrapping};
use crate::command::VerbName;
use crate::coordinator::Session;
use crate::id::{BootId, ClusterId, CommandId, MachineMark, Nonce, RequestId};
use crate::sign::Digest;
use crate::text::Text;
use crate::version::{ProtocolVersion, SpokenVersion};
use serde::{Deserialize, Serialize};

const _: () = assert!(MAX_NODES <= 64, "the coordinator's state is sized for 64 members");

/// Connected or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Connection {
    /// Connected.
    Online,
    /// Not connected: an orderly end, or the broker's last will.
    Offline,
}

/// `n/<node>/presence` and `c/presence`. A hint: it may delay a step, never permit one.
///
/// A message whose pair (start, connection) is lower than the highest seen is stale; an equal or higher `offline` counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Connected or not.
    pub status: Connection,
    /// How often the process has started; stored, grows by one at each start.
    pub start: u32,
    /// The number of this connection within that process, from 1.
    pub connection: u32,
    /// Why, for people.
    pub reason: Text<64>,
}

impl Presence {
    /// The order of presences: of two, the higher is the newer.
    pub fn order(&self) -> (u32, u32) {
        (self.start, self.connection)
    }
}

impl Payload for Presence {
    const NAME: &'static str = "presence";
    const WRAPPING: Wrapping = Wrapping::Plain;
    const MAX_BODY_BYTES: usize = 640;
}

/// Where a node is in its life with the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifecycle {
    /// In no cluster, nothing left of an earlier one.
    Blank,
    /// On its way into one.
    Joining,
    /// In a cluster.
    Member,
    /// On its way out.
    Leaving,
    /// A step failed half-way; a reset mends it.
    Broken,
}

/// The power sequence's phase, as it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerPhase {
    /// On.
    Running,
    /// Asked to stop; any press cancels.
    Grace,
    /// The coordinator empties the node.
    Draining,
    /// The engine stops.
    Stopping,
    /// systemd has been asked to shut down.
    HandingOver,
    /// Nothing more to do but the cut.
    Halted,
}

/// What a restart or power-off is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerGoal {
    /// Start again.
    Reboot,
    /// Stay off.
    PowerOff,
}

/// The command that a node is running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its id.
    pub id: CommandId,
    /// What it is.
    pub verb: VerbName,
}

/// The engine (k3s, kubeadm, simulated) on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineState {
    /// The cluster that this node belongs to.
    pub cluster: Option<ClusterId>,
    /// Whether it runs.
    pub run: EngineRun,
    /// Its version, where there is a cluster.
    pub version: Text<32>,
}

/// Whether an engine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineRun {
    /// Not running.
    Stopped,
    /// Running.
    Running,
}

/// How the last shutdown of this node went, as found at the next boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastShutdown {
    /// The last phase that was stored.
    pub phase: PowerPhase,
    /// Who or what asked.
    pub reason: Text<32>,
    /// Whether it reached its end.
    pub outcome: ShutdownOutcome,
}

/// How a shutdown ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShutdownOutcome {
    /// It was handed to systemd.
    Orderly,
    /// The power went, or the kernel died, before that.
    Interrupted,
}

/// `n/<node>/state`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// Where it is in its life with the cluster.
    pub lifecycle: Lifecycle,
    /// The power sequence's phase.
    pub power: PowerPhase,
    /// What that phase is for, while it is not running.
    pub goal: Option<PowerGoal>,
    /// The LED pattern that is shown.
    pub led: Text<24>,
    /// The command that runs.
    pub running: Option<Running>,
    /// This boot.
    pub boot: BootId,
    /// The process's start number, as in [`Presence`].
    pub start: u32,
    /// Grows with each change within one start.
    pub revision: u32,
    /// The node's session; commands name it.
    pub nonce: Nonce,
    /// The coordinator's session that the node has heard of last. The coordinator takes a state for evidence only if that is
    /// its own: a state that somebody recorded earlier proves nothing.
    pub heard: Option<Session>,
    /// The engine.
    pub engine: EngineState,
    /// How the last shutdown went.
    pub last_shutdown: Option<LastShutdown>,
    /// The highest version of the protocol that the node's program speaks, whatever version this is written in; absent where
    /// that is 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaks: Option<SpokenVersion>,
    /// Which machine it is; absent where its engine is the simulated one, of which any number may run on one machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineMark>,
}

impl Payload for NodeState {
    const NAME: &'static str = "node state";
    const WRAPPING: Wrapping = Wrapping::Envelope;
    const MAX_BODY_BYTES: usize = 2048;

    fn since(&self) -> ProtocolVersion {
        self.running.as_ref().map_or(ProtocolVersion::V1, |running| running.verb.since())
    }
}

/// A node's part in its crew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Runs the coordinator, the broker and the control plane.
    Master,
    /// Runs work.
    Node,
}

/// How a part of the board is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartStatus {
    /// Found and in use.
    Works,
    /// Not there; the agent works without it.
    Missing,
    /// Held by another program, which `detail` names.
    Busy,
    /// There, but does not answer as it should.
    Failed,
    /// Switched off in the configuration.
    Off,
}

/// A part of the board.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// How it is.
    pub status: PartStatus,
    /// What was found, for people.
    pub detail: Text<120>,
}

/// How far the broker is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BrokerTrust {
    /// On this machine's loopback.
    Loopback,
    /// Spoken to over TLS, wherever it is.
    Tls,
    /// Elsewhere, unsigned and unencrypted, allowed by `insecure_test_broker`.
    InsecureTest,
}

/// `n/<node>/info`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Master or node.
    pub role: Role,
    /// The Pi's model, from its device tree.
    pub model: Text<64>,
    /// The version of beehive.
    pub version: Text<32>,
    /// The processor architecture.
    pub architecture: Text<16>,
    /// The engine that is configured.
    pub engine: Text<16>,
    /// The way to the pins that is in use.
    pub pins: Text<32>,
    /// The SHIM's button.
    pub button: Part,
    /// The PoE HAT.
    pub poe_hat: Part,
    /// The Pi's own LEDs.
    pub leds: Part,
    /// How far the broker is trusted.
    pub broker: BrokerTrust,
    /// The highest version of the protocol that its program speaks; absent where that is 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaks: Option<SpokenVersion>,
}

impl Payload for NodeInfo {
    const NAME: &'static str = "node info";
    const WRAPPING: Wrapping = Wrapping::Envelope;
    const MAX_BODY_BYTES: usize = 4096;
}

/// How many messages a node refused since its start, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Refused {
    /// No JSON, or wrong fields.
    pub malformed: u32,
    /// Longer than allowed.
    pub oversized: u32,
    /// Another protocol version.
    pub unknown_version: u32,
    /// A command or request that the broker had kept.
    pub retained: u32,
    /// Another crew's, or a topic that is not ours.
    pub foreign: u32,
    /// Not signed by whom it had to be.
    #[serde(default)]
    pub untrusted: u32,
}

/// What the firmware says of the supply's voltage and of the processor's clock at this moment. What it does not tell is
/// absent, not false.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Throttling {
    /// The 5 V are, or were within the last two seconds, too low.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub under_voltage: Option<bool>,
    /// The processor's clock is capped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frequency_capped: Option<bool>,
    /// The processor is throttled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled: Option<bool>,
    /// The soft temperature limit is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft_temperature_limit: Option<bool>,
}

/// `n/<node>/telemetry`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Telemetry {
    /// Milliseconds since boot.
    pub uptime_ms: u64,
    /// Where the power comes from: `shim`, `poe` or `unknown`.
    pub feed: Text<8>,
    /// Why we think so.
    pub feed_evidence: Text<96>,
    /// The PoE+ HAT's current.
    pub poe_current_ma: Option<u32>,
    /// Over-currents since the start.
    pub over_currents: u32,
    /// Fan duty, 0 to 255, where we can read it.
    pub fan_duty: Option<u8>,
    /// The processor's temperature.
    pub processor_millicelsius: Option<i32>,
    /// What the firmware says of the supply and of the processor's clock; absent where there is nobody to ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttling: Option<Throttling>,
    /// Messages refused.
    pub refused: Refused,
}

impl Payload for Telemetry {
    const NAME: &'static str = "telemetry";
    const WRAPPING: Wrapping = Wrapping::Plain;
    const MAX_BODY_BYTES: usize = 1536;
}

/// What happened on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeEventKind {
    /// The agent started; the detail says how the last shutdown went.
    Started,
    /// The button went down.
    ButtonPressed,
    /// The button is held beyond a threshold, which the detail names.
    ButtonThreshold,
    /// The button went up.
    ButtonReleased,
    /// A press was recognised; the detail names the class.
    Gesture,
    /// A gesture or request was refused by a rule, which the detail names.
    Refused,
    /// The power sequence entered a phase, which the detail names.
    Power,
    /// The PoE+ HAT reported an over-current.
    OverCurrent,
    /// The supply's voltage fell too low, or is normal again; the detail says `begins` or `ends`.
    UnderVoltage,
    /// The firmware slows the processor down, or no longer; the detail says what (`frequency_capped`, `throttled`,
    /// `soft_temperature_limit`) and `begins` or `ends`.
    Throttling,
    /// A part of the board came, went or failed.
    Board,
    /// The life with the cluster changed; the detail names the new state.
    Lifecycle,
    /// An operator told this node something without a coordinator, and it does it; the detail says who and what.
    Direct,
    /// Something of a newer version.
    #[serde(other)]
    Other,
}

/// `n/<node>/event`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEvent {
    /// What happened.
    pub kind: NodeEventKind,
    /// More, for people; a single word where `kind` says that the detail names something.
    pub detail: Text<160>,
    /// Milliseconds since boot.
    pub uptime_ms: u64,
    /// Grows by one with each event of this start, so that a reader sees a gap.
    pub sequence: u32,
}

impl Payload for NodeEvent {
    const NAME: &'static str = "node event";
    const WRAPPING: Wrapping = Wrapping::Envelope;
    const MAX_BODY_BYTES: usize = 1280;

    fn since(&self) -> ProtocolVersion {
        match self.kind {
            NodeEventKind::Direct => ProtocolVersion::V2,
            NodeEventKind::Started
            | NodeEventKind::ButtonPressed
            | NodeEventKind::ButtonThreshold
            | NodeEventKind::ButtonReleased
            | NodeEventKind::Gesture
            | NodeEventKind::Refused
            | NodeEventKind::Power
            | NodeEventKind::OverCurrent
            | NodeEventKind::UnderVoltage
            | NodeEventKind::Throttling
            | NodeEventKind::Board
            | NodeEventKind::Lifecycle
            | NodeEventKind::Other => ProtocolVersion::V1,
        }
    }
}

/// What a node asks of the coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Want {
    /// To be emptied, because it goes off. From the master: to shut the whole crew down first.
    PowerOff,
    /// To be emptied, because it restarts.
    Reboot,
    /// To be taken out of the cluster and reset.
    Leave,
}

/// `n/<node>/request`. Sent again with the same id until the coordinator answers or the deadline passes, after which the
/// node goes on alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRequest {
    /// The request's id.
    pub id: RequestId,
    /// What is asked.
    pub want: Want,
    /// How long the node waits from now on, in milliseconds.
    pub deadline_ms: u64,
    /// Why, for people.
    pub reason: Text<32>,
    /// The boot in which it is asked.
    pub boot: BootId,
    /// The node's session; the answer names it.
    pub session: Nonce,
    /// The coordinator's session, once the node has heard of one. For any other an unknown request is not taken up; the node
    /// asks again when it has heard.
    pub nonce: Option<Nonce>,
}

impl NodeRequest {
    /// What it asks. Left out is what changes when it is sent again: the sessions and the time that is left.
    pub fn digest(&self) -> Digest {
        Digest::of(&(self.want, &self.reason, &self.boot))
    }
}

impl Payload for NodeRequest {
    const NAME: &'static str = "node request";
    const WRAPPING: Wrapping = Wrapping::Envelope;
    const MAX_BODY_BYTES: usize = 640;
}

/// How far a command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandStatus {
    /// Stored, to be run.
    Accepted,
    /// Not run, and never will be.
    Rejected,
    /// Running.
    InProgress,
    /// Done.
    Succeeded,
    /// Ended without success.
    Failed,
    /// Ran out of its time.
    TimedOut,
    /// The node restarted in the middle and cannot tell.
    Interrupted,
    /// Called off.
    Canceled,
}

impl CommandStatus {
    /// Whether nothing more comes after it.
    pub fn is_final(self) -> bool {
        match self {
            Self::Accepted | Self::InProgress => false,
            Self::Rejected | Self::Succeeded | Self::Failed | Self::TimedOut | Self::Interrupted | Self::Canceled => {
                true
            }
        }
    }
}

/// `n/<node>/result`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandResult {
    /// The command.
    pub id: CommandId,
    /// What it was.
    pub verb: VerbName,
    /// How far it is.
    pub status: CommandStatus,
    /// A stable word for the outcome or for what is going on: `done`, `unchanged`, `busy`, `stopping` …
    pub code: Text<32>,
    /// More, for people.
    pub reason: Text<160>,
    /// The boot in which this was written.
    pub boot: BootId,
    /// The session in which this was written.
    pub nonce: Nonce,
}

impl Payload for CommandResult {
    const NAME: &'static str = "command result";
    const WRAPPING: Wrapping = Wrapping::Envelope;
    const MAX_BODY_BYTES: usize = 1792;

    fn since(&self) -> ProtocolVersion {
        self.verb.since()
    }
}
