//! Publishes what changed: the cluster's state (also as a heartbeat), operations, each node's steps.

use super::record::ENDED_OPERATIONS;
use super::{Action, Coordinator, Operation, Scope, Seen, Step};
use crate::Instant;
use crate::kube::{KubeNode, Ready, Scheduling};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use beehive_mqtt::coordinator::{
    AuditHead, ClusterPhase, CoordinatorEventKind, CoordinatorState, Failure, Member, Membership, OperationKind,
    OperationNode, OperationSummary, Slot, StepCounts, StepKind, StepReport, StepState,
};
use beehive_mqtt::node::Lifecycle;
use beehive_mqtt::{HEARTBEAT_MS, NodeName, OperationId, SpokenVersion, Text, Topic};

/// What was published last, so that only changes go out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    state: Option<CoordinatorState>,
    state_at: Option<Instant>,
    revision: u32,
    operations: BTreeMap<OperationId, u32>,
    nodes: BTreeMap<(OperationId, NodeName), OperationNode>,
    pub(crate) ending: Vec<OperationId>,
    /// What a node waits for before its turn, and since when.
    pub(crate) slot_waits: BTreeMap<(OperationId, NodeName), (Text<160>, Instant)>,
}

impl Told {
    pub(super) fn state_at(&self) -> Option<Instant> {
        self.state_at
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> [usize; 4] {
        [self.operations.len(), self.nodes.len(), self.ending.len(), self.slot_waits.len()]
    }

    /// The last state did not go out; the next one does.
    pub(super) fn forget_state(&mut self) {
        self.state_at = None;
    }
}

/// Whose steps are looked at for something new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// Everybody's: a step has changed.
    All,
    /// Those that work or wait for their turn: no step has changed, and what they wait for may have.
    Working,
}

/// What is looked up for every node, found once: a search for each would grow with the square of the crew.
struct Looks<'a> {
    /// What a running step makes of a node.
    worked_on: BTreeMap<&'a NodeName, Membership>,
    kube: BTreeMap<&'a NodeName, &'a KubeNode>,
}

impl<'a> Looks<'a> {
    fn of(core: &'a Coordinator) -> Self {
        let mut worked_on = BTreeMap::new();
        for operation in core.record.operations.iter().filter(|operation| operation.is_active()) {
            for step in operation.steps.iter().filter(|step| step.state == StepState::Running) {
                let joins =
                    || operation.steps.iter().any(|other| other.node == step.node && other.kind == StepKind::Join);
                let working = match step.kind {
                    StepKind::Drain => Membership::Draining,
                    StepKind::Initialise | StepKind::Join => Membership::Joining,
                    StepKind::WaitReady if joins() => Membership::Joining,
                    StepKind::Stop | StepKind::DeleteNode | StepKind::Reset => Membership::Leaving,
                    StepKind::WaitReady
                    | StepKind::Snapshot
                    | StepKind::Cordon
                    | StepKind::Uncordon
                    | StepKind::AddOns
                    | StepKind::Upgrade
                    | StepKind::Reboot
                    | StepKind::PowerOff
                    | StepKind::WaitUp
                    | StepKind::Identify
                    | StepKind::LetGo => continue,
                };
                worked_on.entry(&step.node).or_insert(working);
            }
        }
        Self { worked_on, kube: core.kube.nodes.iter().map(|seen| (&seen.node, seen)).collect() }
    }
}

impl Coordinator {
    pub(super) fn report(&mut self, now: Instant) {
        self.report_operations();
        self.report_state(now);
    }

    /// The cluster as it is now.
    pub fn state(&self, now: Instant) -> CoordinatorState {
        let mut members = heapless::Vec::new();
        let all = core::iter::once(self.config.master.clone()).chain(self.workers());
        let looks = Looks::of(self);
        let mut memberships = Vec::new();
        for node in all {
            let membership = self.membership(now, &node, &looks);
            memberships.push(membership);
            // a crew on the wire has no more; of a larger one the first are shown
            if !members.is_full() {
                let seen = self.seen.get(&node);
                let slot = if self.record.slots.contains(&node) { Slot::Held } else { Slot::Free };
                let boot = seen.and_then(|seen| seen.state.as_ref()).map(|state| state.boot.clone());
                let speaks = self.shown_version(&node);
                let _ = members.push(Member { node, membership, slot, boot, speaks });
            }
        }
        CoordinatorState {
            session: self.session(),
            master: self.config.master.clone(),
            phase: self.cluster_phase(&memberships),
            cluster: self.record.cluster.as_ref().map(|cluster| cluster.id.clone()),
            operation: self.record.active_exclusive().map(|operation| operation.id.clone()),
            members,
            uptime_ms: now.since_ms(self.started),
            revision: self.told.revision,
            // the log is the caller's
            audit: AuditHead::NONE,
            speaks: SpokenVersion::said_by(self.config.speaks),
        }
    }

    fn cluster_phase(&self, memberships: &[Membership]) -> ClusterPhase {
        let changing = self.record.active_exclusive().is_some_and(|operation| match operation.kind {
            OperationKind::Create | OperationKind::Rebuild | OperationKind::Reset => true,
            OperationKind::Reboot
            | OperationKind::Upgrade
            | OperationKind::Shutdown
            | OperationKind::Start
            | OperationKind::NodeDrain
            | OperationKind::NodeUncordon
            | OperationKind::NodeJoin
            | OperationKind::NodeLeave
            | OperationKind::NodeReset
            | OperationKind::NodeReboot
            | OperationKind::NodeShutdown
            | OperationKind::NodeIdentify => false,
        });
        if changing {
            ClusterPhase::Changing
        } else if self.record.cluster.is_none() {
            ClusterPhase::Absent
        } else if memberships.iter().all(|membership| *membership == Membership::Ready) {
            ClusterPhase::Ready
        } else {
            ClusterPhase::Degraded
        }
    }

    fn membership(&self, now: Instant, node: &NodeName, looks: &Looks<'_>) -> Membership {
        if let Some(working) = looks.worked_on.get(node) {
            return *working;
        }
        let Some(state) = self.seen.get(node).and_then(|seen: &Seen| seen.state.as_ref()) else {
            return Membership::Expected;
        };
        let cluster = self.record.cluster.as_ref().map(|cluster| &cluster.id);
        match state.lifecycle {
            Lifecycle::Blank => Membership::Blank,
            Lifecycle::Joining => Membership::Joining,
            Lifecycle::Leaving => Membership::Leaving,
            Lifecycle::Broken => Membership::Broken,
            Lifecycle::Member if cluster.is_none() || state.engine.cluster.as_ref() != cluster => Membership::Broken,
            Lifecycle::Member if self.is_silent(now, node) => Membership::Lost,
            Lifecycle::Member => match looks.kube.get(node) {
                None => Membership::NotReady,
                Some(seen) => match (seen.scheduling, seen.ready) {
                    (Scheduling::Cordoned, _) => {
                        if self.record.cordons.iter().any(|cordon| cordon.node == *node) {
                            Membership::Cordoned
                        } else {
                            Membership::CordonedByOthers
                        }
                    }
                    (Scheduling::Open, Ready::Yes) => Membership::Ready,
                    (Scheduling::Open, Ready::No) => Membership::NotReady,
                },
            },
        }
    }

    fn report_state(&mut self, now: Instant) {
        let mut state = self.state(now);
        let same = self.told.state.as_ref().is_some_and(|told| {
            let told = (&told.session, told.phase, &told.cluster, &told.operation, &told.members);
            told == (&state.session, state.phase, &state.cluster, &state.operation, &state.members)
        });
        let beat = self.told.state_at.is_none_or(|at| now.since_ms(at) >= HEARTBEAT_MS);
        if same && !beat {
            return;
        }
        if !same {
            self.told.revision += 1;
            if let Some(told) = self.told.state.take() {
                self.report_members(now, &told, &state);
            }
        }
        state.revision = self.told.revision;
        self.told.state_at = Some(now);
        self.told.state = Some(state.clone());
        self.out.push(Action::State(Box::new(state)));
    }

    fn report_members(&mut self, now: Instant, told: &CoordinatorState, state: &CoordinatorState) {
        for member in &state.members {
            let before = told.members.iter().find(|held| held.node == member.node).map(|held| held.membership);
            if before != Some(member.membership) {
                let detail = Text::format(format_args!("{}: {}", member.node, member.membership));
                self.tell(now, CoordinatorEventKind::Membership, None, Some(&member.node), detail);
            }
        }
    }

    fn report_operations(&mut self) {
        // taken out and put back: a copy at every event would be the largest part of its work
        let operations = core::mem::take(&mut self.record.operations);
        // an end is told before what goes on because of it, so that nobody sees two run at once
        let (ended, going_on): (Vec<_>, Vec<_>) = operations.iter().partition(|operation| operation.phase.is_final());
        for operation in ended.into_iter().chain(going_on) {
            let waiting = self.told.slot_waits.keys().any(|(id, _)| *id == operation.id);
            let known = self.told.operations.get(&operation.id) == Some(&operation.revision);
            if known && !waiting && operation.phase.is_final() {
                continue;
            }
            // how its last steps ended is said before its end is, and before the nodes' topics are cleared
            if self.told.ending.contains(&operation.id) {
                self.report_nodes(operation, Whose::All);
            }
            if !known {
                self.told.operations.insert(operation.id.clone(), operation.revision);
                self.out.push(Action::Operation(Box::new(summary(operation))));
            }
            if !operation.phase.is_final() {
                self.report_nodes(operation, if known { Whose::Working } else { Whose::All });
            }
        }
        let ids: Vec<OperationId> = operations.iter().map(|operation| operation.id.clone()).collect();
        self.record.operations = operations;
        for id in core::mem::take(&mut self.told.ending) {
            let nodes: Vec<_> = self.told.nodes.keys().filter(|(held, _)| *held == id).cloned().collect();
            for key in nodes {
                self.told.nodes.remove(&key);
                self.out.push(Action::Clear(Topic::OperationNode(key.0, key.1)));
            }
            self.record.operations.retain(|held| held.id != id || held.scope == Scope::Exclusive);
            self.told.operations.retain(|held, _| *held != id || ids.contains(&id));
        }
        while self.record.ended.len() > ENDED_OPERATIONS {
            let oldest = self.record.ended.remove(0);
            self.told.operations.remove(&oldest);
            self.out.push(Action::Clear(Topic::Operation(oldest)));
        }
    }

    fn report_nodes(&mut self, operation: &Operation, whose: Whose) {
        let looked_at: BTreeSet<&NodeName> = match whose {
            Whose::All => operation.steps.iter().map(|step| &step.node).collect(),
            Whose::Working => {
                let running = operation.steps.iter().filter(|step| step.state == StepState::Running);
                let waiting = self.told.slot_waits.keys().filter(|(id, _)| *id == operation.id);
                running.map(|step| &step.node).chain(waiting.map(|(_, node)| node)).collect()
            }
        };
        if looked_at.is_empty() {
            return;
        }
        let mut nodes: BTreeMap<NodeName, Vec<(usize, &Step)>> = BTreeMap::new();
        for (index, step) in operation.steps.iter().enumerate().filter(|(_, step)| looked_at.contains(&step.node)) {
            nodes.entry(step.node.clone()).or_default().push((index, step));
        }
        for (node, own) in nodes {
            let mut steps = heapless::Vec::new();
            let mut reason = Text::new();
            for (index, step) in own {
                let number = u16::try_from(index + 1).unwrap_or(u16::MAX);
                // the plans keep below this bound
                let _ = steps.push(StepReport { number, step: step.kind, state: step.state });
                match step.state {
                    StepState::Failed => reason = step.reason.clone(),
                    StepState::Running if reason.is_empty() => {
                        reason = self.waits(&operation.id, index).cloned().unwrap_or_default();
                    }
                    StepState::Running | StepState::Pending | StepState::Done | StepState::Skipped => {}
                }
            }
            let key = (operation.id.clone(), node.clone());
            if reason.is_empty() {
                reason = self.told.slot_waits.get(&key).map(|(reason, _)| reason.clone()).unwrap_or_default();
            }
            let mut report = OperationNode {
                id: operation.id.clone(),
                node,
                revision: 0, // compared without it
                steps,
                reason,
            };
            let told = self.told.nodes.get(&key);
            if told.is_some_and(|told| told.steps == report.steps && told.reason == report.reason) {
                continue;
            }
            report.revision = operation.revision;
            self.told.nodes.insert(key, report.clone());
            self.out.push(Action::OperationNode(Box::new(report)));
        }
    }
}

/// An operation in short.
pub(super) fn summary(operation: &Operation) -> OperationSummary {
    let mut counts = StepCounts::default();
    let mut failures = heapless::Vec::new();
    for step in &operation.steps {
        match step.state {
            StepState::Pending => counts.pending += 1,
            StepState::Running => counts.running += 1,
            StepState::Done => counts.done += 1,
            StepState::Skipped => counts.skipped += 1,
            StepState::Failed => {
                counts.failed += 1;
                // the first ones; the others are in the nodes' own topics
                let _ =
                    failures.push(Failure { node: step.node.clone(), step: step.kind, reason: step.reason.clone() });
            }
        }
    }
    OperationSummary {
        id: operation.id.clone(),
        kind: operation.kind,
        node: operation.node.clone(),
        phase: operation.phase,
        revision: operation.revision,
        requested_by: operation.requested_by.clone(),
        counts,
        failures,
    }
}
