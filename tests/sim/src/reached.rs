//! What a run has reached: states, faults, refusals, acts. A search that never comes to a place says nothing of it, so a run
//! over many seeds fails if one of [`EXPECTED`] is missing.

use beehive_mqtt::ProtocolVersion;
use beehive_mqtt::node::{CommandStatus, PowerPhase};
use std::collections::BTreeMap;

/// How often each place was reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reached {
    counts: BTreeMap<(&'static str, &'static str), u64>,
    refusals: BTreeMap<(&'static str, String), u64>,
}

impl Reached {
    pub(crate) fn note(&mut self, kind: &'static str, word: &'static str) {
        *self.counts.entry((kind, word)).or_default() += 1;
    }

    pub(crate) fn refusal(&mut self, by: &'static str, code: &str) {
        *self.refusals.entry((by, code.to_owned())).or_default() += 1;
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        for (place, count) in &other.counts {
            *self.counts.entry(*place).or_default() += count;
        }
        for (place, count) in &other.refusals {
            *self.refusals.entry(place.clone()).or_default() += count;
        }
    }

    /// Every place with its count, as `kind: word`.
    pub fn iter(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        let counts = self.counts.iter().map(|((kind, word), count)| (format!("{kind}: {word}"), *count));
        let refusals = self.refusals.iter().map(|((by, code), count)| (format!("refused by {by}: {code}"), *count));
        counts.chain(refusals)
    }

    /// What should have been reached and was not.
    pub fn missing(&self) -> Vec<&'static str> {
        let all: BTreeMap<String, u64> = self.iter().collect();
        EXPECTED.iter().copied().filter(|place| !all.contains_key(*place)).collect()
    }
}

/// Fewer seeds than this may miss the rarest places by chance alone.
pub const ENOUGH: u64 = 2_000;

pub(crate) fn status_word(status: CommandStatus) -> &'static str {
    match status {
        CommandStatus::Accepted => "accepted",
        CommandStatus::Rejected => "rejected",
        CommandStatus::InProgress => "in_progress",
        CommandStatus::Succeeded => "succeeded",
        CommandStatus::Failed => "failed",
        CommandStatus::TimedOut => "timed_out",
        CommandStatus::Interrupted => "interrupted",
        CommandStatus::Canceled => "canceled",
    }
}

pub(crate) fn version_word(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::V1 => "1",
        ProtocolVersion::V2 => "2",
    }
}

pub(crate) fn power_word(phase: PowerPhase) -> &'static str {
    match phase {
        PowerPhase::Running => "running",
        PowerPhase::Grace => "grace",
        PowerPhase::Draining => "draining",
        PowerPhase::Stopping => "stopping",
        PowerPhase::HandingOver => "handing_over",
        PowerPhase::Halted => "halted",
    }
}

/// What a run of [`ENOUGH`] seeds has to reach. Left out, with the reason: `command: canceled` (the node's core never
/// says it), `power: halted` (nobody is left to say it), the refusals `insecure-wire` (a setting, not a state), `old-term`
/// (terms are the model's subject), `id-reused` of either and `busy` of the coordinator (nobody forges, and sessions are renewed
/// before they are full), `duplicate-machine` (no card is a copy here; unit tests), `not-authorised` and `bad-id` of the node (whose
/// key may ask is the link's subject, and the console makes ids of the right kind), `role` and whatever else is decided before the
/// cores.
pub const EXPECTED: &[&str] = &[
    "act: coordinator stopped",
    "act: direct",
    "act: double press",
    "act: hold",
    "act: long hold",
    "act: short press",
    "act: system stops",
    "broadcast in version: 1",
    "broadcast in version: 2",
    "command in version: 1",
    "command in version: 2",
    "command: accepted",
    "command: failed",
    "command: in_progress",
    "command: interrupted",
    "command: rejected",
    "command: succeeded",
    "command: timed_out",
    "direct: blinks",
    "direct: goes down",
    "direct: goes down, and a coordinator is back",
    "direct: on the master",
    "direct: refused beside a command",
    "fault: API server",
    "fault: agent crash",
    "fault: broker restart",
    "fault: clock jump",
    "fault: coordinator crash",
    "fault: delay",
    "fault: drain blocks",
    "fault: duplicate",
    "fault: engine fails half-way",
    "fault: engine fails",
    "fault: engine hangs",
    "fault: loss",
    "fault: lost write",
    "fault: partition",
    "fault: power cut in a write",
    "fault: power cut",
    "fault: replay",
    "fault: set back",
    "fault: store fails",
    "fault: torn write",
    "fault: upgrade",
    "lifecycle: blank",
    "lifecycle: broken",
    "lifecycle: joining",
    "lifecycle: leaving",
    "lifecycle: member",
    "look: found",
    "look: in vain",
    "membership: blank",
    "membership: broken",
    "membership: cordoned",
    "membership: cordoned_by_others",
    "membership: draining",
    "membership: expected",
    "membership: joining",
    "membership: leaving",
    "membership: lost",
    "membership: not_ready",
    "membership: ready",
    "operation: create",
    "operation: node_drain",
    "operation: node_identify",
    "operation: node_join",
    "operation: node_leave",
    "operation: node_reboot",
    "operation: node_reset",
    "operation: node_shutdown",
    "operation: node_uncordon",
    "operation: reboot",
    "operation: rebuild",
    "operation: reset",
    "operation: shutdown",
    "operation: start",
    "operation: upgrade",
    "phase: aborted",
    "phase: aborting",
    "phase: done",
    "phase: failed",
    "phase: partly_done",
    "phase: paused",
    "phase: running",
    "power: draining",
    "power: grace",
    "power: handing_over",
    "power: running",
    "power: stopping",
    "refused by coordinator: blocked",
    "refused by coordinator: cordoned-by-others",
    "refused by coordinator: going-down",
    "refused by coordinator: master-goes-last",
    "refused by coordinator: master-has-cluster",
    "refused by coordinator: no-cluster",
    "refused by coordinator: node-is-member",
    "refused by coordinator: not-a-member",
    "refused by coordinator: one-operation-at-a-time",
    "refused by coordinator: protocol-version",
    "refused by coordinator: slot-held",
    "refused by coordinator: stale-nonce",
    "refused by coordinator: unknown-version",
    "refused by node: busy",
    "refused by node: command-unfinished",
    "refused by node: coordinator-alive",
    "refused by node: going-down",
    "refused by node: old-session",
    "refused by node: stale-nonce",
    "refused by node: unknown-version",
    "step state: done",
    "step state: failed",
    "step state: pending",
    "step state: running",
    "step state: skipped",
    "step: add_ons",
    "step: cordon",
    "step: delete_node",
    "step: drain",
    "step: identify",
    "step: initialise",
    "step: join",
    "step: let_go",
    "step: power_off",
    "step: reboot",
    "step: reset",
    "step: snapshot",
    "step: stop",
    "step: uncordon",
    "step: upgrade",
    "step: wait_ready",
    "step: wait_up",
    "switch: fails",
    "switch: feeds",
];
