//! Drives the steps of operations: begins what may begin, sends and sends again, judges what came back.

use super::{
    Action, Coordinator, Hearing, Heeds, KubeOwner, Operation, PowerSwitch, Release, Saved, Scope, Secret, Step,
};
use crate::Instant;
use crate::kube::{JoinCredential, KubeDone, KubeError, KubeWork, Ready, Scheduling};
use crate::plan::{self, Belongs, Weight};
use alloc::boxed::Box;
use alloc::vec::Vec;
use beehive_mqtt::command::{Answer, Command, SealedCredential, Verb, VerbName};
use beehive_mqtt::coordinator::{CoordinatorEventKind, OperationKind, OperationPhase, StepKind, StepState};
use beehive_mqtt::node::{CommandResult, CommandStatus, EngineRun, Lifecycle, NodeState, PowerPhase, ShutdownOutcome};
use beehive_mqtt::{CommandId, NodeName, Nonce, OperationId, Text};

/// How often a command is sent again until the node has answered.
pub const SEND_AGAIN_MS: u64 = 1_000;

/// How often it is sent again after it was accepted: seldom, in case the final result was lost.
pub const SEND_AGAIN_ACCEPTED_MS: u64 = 5_000;

/// How often a step is tried before it counts as failed.
pub const ATTEMPTS: u32 = 3;

/// The wait before a second attempt; it doubles with each further one.
pub const RETRY_MS: u64 = 2_000;

/// How long rolling work waits for a slot whose holder does not come back, before it gives that node up: as long as the
/// longest step takes twice over. Somebody who sees it waiting frees the slot (`node uncordon`) or brings the holder back.
pub const SLOT_WAIT_MS: u64 = 1_800_000;

/// How long after a switch that could not be told, or has not answered, it is told again.
pub const SWITCH_AGAIN_MS: u64 = 60_000;

/// How long Identify blinks.
const IDENTIFY_S: u16 = 30;

/// What is known of a running step in this start of the coordinator. Nothing of it is stored: a credential must not be.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    begun: Instant,
    deadline: Instant,
    send_at: Instant,
    every_ms: u64,
    failures: u32,
    kube: Option<u64>,
    credential: Option<JoinCredential>,
    accepted: Accepted,
    patient: Patient,
    switch: Switch,
    /// How far the drain is that the API server was asked for, for people.
    drained: Text<160>,
    /// What it waits for, for people.
    pub(crate) waits: Text<160>,
}

/// Whether the time in which a silent node may come back still runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patient {
    Yes,
    No,
}

/// What the switch was told for a Pi that is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Switch {
    /// Nothing yet.
    Off,
    /// To feed it.
    Asked(u64),
    /// It has taken that.
    On,
    /// It has not.
    Failed(Text<120>),
}

impl Live {
    /// The coordinator was away for so long, and its steps are given that time again.
    pub(super) fn slept(&mut self, ms: u64) {
        self.begun = self.begun.plus_ms(ms);
        self.deadline = self.deadline.plus_ms(ms);
    }

    /// For so long, until now, no node could be heard: one that says nothing is given that time again. The step's own time runs on,
    /// as it does for what is at work without us.
    pub(super) fn was_alone(&mut self, now: Instant, ms: u64) {
        self.begun = self.begun.plus_ms(ms).min(now);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accepted {
    No,
    Yes,
}

/// Whether a cordon becomes ours.
enum Own {
    Yes,
    /// Nothing is to be done, for this reason.
    No(&'static str),
    /// It cannot be told yet.
    Wait,
}

/// Whether an uncordon is to be asked for.
enum Opens {
    Yes,
    /// Nothing is to be done, for this reason.
    No(&'static str),
}

/// What a look at a running step says.
enum Verdict {
    /// Nothing new.
    Wait(Text<160>),
    Done(Text<160>),
    Failed(Text<160>),
}

/// How long a step may take, with its retries. An operation can therefore never hang.
pub const fn limit_ms(kind: StepKind, drain_ms: u64) -> u64 {
    match kind {
        // one request to the API server, which may be restarting
        StepKind::Cordon | StepKind::Uncordon => 60_000,
        StepKind::Drain => drain_ms.saturating_add(10_000),
        StepKind::DeleteNode | StepKind::Stop => 90_000,
        StepKind::Reset => 180_000,
        // kubeadm 1.16 took 213 s on an armv7 Pi
        StepKind::Initialise => 900_000,
        StepKind::Join | StepKind::WaitReady | StepKind::AddOns | StepKind::Snapshot => 300_000,
        // as long as an initialise: images are pulled, and a control plane migrates what it has
        StepKind::Upgrade => 900_000,
        // down 90 s at most by systemd's own limits, and a slow card takes minutes to boot
        StepKind::Reboot => 600_000,
        StepKind::PowerOff => 240_000,
        // somebody walks to the rack
        StepKind::WaitUp => 1_800_000,
        StepKind::Identify => 15_000,
        StepKind::LetGo => 30_000,
    }
}

/// Whether an operation is rolling work, bound by `max_unavailable`.
pub(super) fn is_rolling(kind: OperationKind) -> bool {
    match kind {
        OperationKind::Reboot
        | OperationKind::Upgrade
        | OperationKind::NodeReboot
        | OperationKind::NodeDrain
        | OperationKind::NodeLeave
        | OperationKind::NodeShutdown => true,
        OperationKind::Create
        | OperationKind::Rebuild
        | OperationKind::Reset
        | OperationKind::Shutdown
        | OperationKind::Start
        | OperationKind::NodeUncordon
        | OperationKind::NodeJoin
        | OperationKind::NodeReset
        | OperationKind::NodeIdentify => false,
    }
}

/// Whether rolling work takes a slot with this step.
fn takes_slot(operation: &Operation, step: StepKind) -> bool {
    // what a button asked for is never refused a slot: it proceeds, and is over the limit
    match step {
        StepKind::Cordon => {
            is_rolling(operation.kind) && operation.scope == Scope::Exclusive && operation.request.is_none()
        }
        StepKind::Snapshot
        | StepKind::Drain
        | StepKind::Uncordon
        | StepKind::Stop
        | StepKind::DeleteNode
        | StepKind::Reset
        | StepKind::Initialise
        | StepKind::Join
        | StepKind::WaitReady
        | StepKind::AddOns
        | StepKind::Upgrade
        | StepKind::Reboot
        | StepKind::PowerOff
        | StepKind::WaitUp
        | StepKind::Identify
        | StepKind::LetGo => false,
    }
}

impl Coordinator {
    pub(super) fn advance(&mut self, now: Instant) {
        let ids: Vec<_> =
            self.record.operations.iter().filter(|held| held.is_active()).map(|held| held.id.clone()).collect();
        for id in ids {
            // each round may end steps and so let others begin; bounded by the number of steps
            let rounds = self.operation(&id).map_or(0, |operation| operation.steps.len() + 1);
            for _ in 0..rounds {
                let before = self.operation(&id).map(|operation| operation.revision);
                self.drive_running(now, &id);
                self.take_along(now, &id);
                self.begin_pending(now, &id);
                if self.operation(&id).map(|operation| operation.revision) == before {
                    break;
                }
            }
            self.conclude(now, &id);
        }
    }

    pub(super) fn operation(&self, id: &OperationId) -> Option<&Operation> {
        self.record.operations.iter().find(|operation| operation.id == *id)
    }

    fn operation_mut(&mut self, id: &OperationId) -> Option<&mut Operation> {
        self.record.operations.iter_mut().find(|operation| operation.id == *id)
    }

    fn step_at(&self, id: &OperationId, index: usize) -> Option<&Step> {
        self.operation(id).and_then(|operation| operation.steps.get(index))
    }

    fn change(&mut self, id: &OperationId, index: usize, change: impl FnOnce(&mut Step)) {
        if let Some(operation) = self.operation_mut(id) {
            if let Some(step) = operation.steps.get_mut(index) {
                change(step);
                operation.revision += 1;
            }
        }
    }

    fn running_steps(&self, id: &OperationId) -> Vec<usize> {
        self.operation(id).map_or_else(Vec::new, |operation| {
            let running = |(index, step): (usize, &Step)| (step.state == StepState::Running).then_some(index);
            operation.steps.iter().enumerate().filter_map(running).collect()
        })
    }

    // ---- beginning

    /// A Pi that was away when the end of all was planned, and is heard before the master goes, goes before it: once the
    /// master is off nobody is left to say that it is on.
    fn take_along(&mut self, now: Instant, id: &OperationId) {
        let Some(operation) = self.operation(id) else { return };
        if operation.kind != OperationKind::Shutdown || operation.phase != OperationPhase::Running {
            return;
        }
        let masters = |step: &Step| step.node == self.config.master && step.state == StepState::Pending;
        let Some(last) = operation.steps.iter().position(masters) else { return };
        let late = |node: &NodeName| self.is_online(now, node) && operation.steps.iter().all(|step| step.node != *node);
        let late: Vec<_> = self.workers().iter().filter(|node| late(node)).map(|node| self.plan_node(node)).collect();
        if late.is_empty() {
            return;
        }
        let Some(operation) = self.operation_mut(id) else { return };
        let stage = operation.steps.get(last).map_or(0, |step| step.stage);
        // nothing behind this place has begun, so that what runs keeps its index
        for step in operation.steps.iter_mut().skip(last) {
            step.stage += 1;
        }
        let steps = plan::shutdown_of(&late, stage).into_iter().map(Step::from);
        operation.steps.splice(last..last, steps);
        operation.revision += 1;
    }

    fn begin_pending(&mut self, now: Instant, id: &OperationId) {
        let Some(operation) = self.operation(id) else { return };
        let called_off = operation.phase == OperationPhase::Aborting;
        if !operation.is_active() || operation.has_lost_its_sense() {
            return;
        }
        let Some(stage) = operation.steps.iter().filter(|step| !step.has_ended()).map(|step| step.stage).min() else {
            return;
        };
        let pending: Vec<usize> = operation
            .steps
            .iter()
            .enumerate()
            .filter(|(_, step)| step.state == StepState::Pending && step.stage == stage)
            .filter(|(index, _)| !called_off || operation.is_committed(*index))
            .map(|(index, _)| index)
            .collect();
        for index in pending {
            let Some(operation) = self.operation(id) else { return };
            let Some(step) = operation.steps.get(index) else { return };
            let node = step.node.clone();
            let earlier = operation.steps.iter().take(index).filter(|earlier| earlier.node == node);
            let mut blocked = false;
            let mut hopeless = false;
            for earlier in earlier {
                match (earlier.state, earlier.weight) {
                    (StepState::Pending | StepState::Running, _) => blocked = true,
                    (StepState::Done, _) | (StepState::Failed | StepState::Skipped, Weight::BestEffort) => {}
                    // the first step of a new stage is another chance only for the master's own essential work
                    (StepState::Failed | StepState::Skipped, Weight::Local | Weight::Essential) => hopeless = true,
                }
            }
            if hopeless && step.weight != Weight::BestEffort {
                self.change(id, index, |step| {
                    step.state = StepState::Skipped;
                    step.reason = Text::cut("an earlier step of this node failed");
                });
                continue;
            }
            if blocked {
                continue;
            }
            // whoever waits for people keeps nobody from working
            let works = |step: &&Step| step.state == StepState::Running && step.kind != StepKind::WaitUp;
            let busy = operation.steps.iter().filter(works).count();
            if busy >= usize::from(self.config.max_parallel.max(1)) {
                return;
            }
            let empties = step.kind == StepKind::Cordon || step.kind == StepKind::Drain;
            if empties && self.need_not_be_emptied(now, operation.kind, &node) {
                self.end(now, id, index, StepState::Done, Text::cut("is in no cluster"));
                continue;
            }
            let looks = operation.heeds == Heeds::Blockers && takes_slot(operation, step.kind);
            // one who was off before is nobody's work yet, so that it holds no slot
            let untold = empties && is_rolling(operation.kind) && self.is_untold(&node);
            let mut refusal = match untold {
                true => Some(Text::cut("waits for its word: it was not heard, and Kubernetes has no such Node")),
                false => self.slot_refusal(operation, step.kind, &node),
            };
            if refusal.is_none() && looks {
                refusal = self.blocked(now, &node);
            }
            if let Some(reason) = refusal {
                // told in the node's steps through `waits`
                let wait = self.told.slot_waits.entry((id.clone(), node.clone())).or_insert((Text::new(), now));
                wait.0 = reason;
                let (reason, since) = wait.clone();
                let listened = self.listened_until(now).since_ms(since);
                if untold && listened >= super::SILENT_MS && self.is_silent(now, &node) {
                    self.end(now, id, index, StepState::Failed, Text::cut("the node is silent"));
                } else if now.since_ms(since) >= SLOT_WAIT_MS {
                    let reason = Text::format(format_args!("timed out: {reason}"));
                    self.end(now, id, index, StepState::Failed, reason);
                }
                continue;
            }
            self.told.slot_waits.remove(&(id.clone(), node));
            self.begin(now, id, index);
        }
    }

    /// Whether a node passed for a member because nobody could tell, and says itself that it is none. Where the API server never
    /// answers, nobody else will.
    fn need_not_be_emptied(&self, now: Instant, kind: OperationKind, node: &NodeName) -> bool {
        is_rolling(kind) && self.is_blank_by_its_own_word(now, node)
    }

    /// Whether a node was not heard and the API server knows no Node of its name.
    fn is_untold(&self, node: &NodeName) -> bool {
        self.state_of(node).is_none() && self.kube_node(node) == Ok(None)
    }

    /// Whether a node is there and says that it is in no cluster, and nothing of it is cordoned by us.
    fn is_blank_by_its_own_word(&self, now: Instant, node: &NodeName) -> bool {
        let blank = |state: &NodeState| state.lifecycle == Lifecycle::Blank && state.engine.cluster.is_none();
        self.is_online(now, node) && self.state_of(node).is_some_and(blank) && self.record.cordon_of(node).is_none()
    }

    /// Why rolling work on this node must wait for a slot.
    fn slot_refusal(&self, operation: &Operation, step: StepKind, node: &NodeName) -> Option<Text<160>> {
        if !takes_slot(operation, step) {
            return None;
        }
        // its button was pressed: it goes down, and is worked on when it is back
        let leaves =
            self.record.cordon_of(node).is_some_and(|cordon| matches!(cordon.release, Release::OnReturn { .. }));
        let pressed = self
            .record
            .operations
            .iter()
            .any(|held| held.scope == Scope::Local && held.request.is_some() && held.node.as_ref() == Some(node));
        if leaves || pressed {
            return Some(Text::cut("waits for its return: it goes down by itself"));
        }
        // also one that holds a slot waits while others are over the limit
        let holder = self.slots_full(Some(node))?;
        Some(Text::format(format_args!("waits for a slot, held by {holder} (max_unavailable)")))
    }

    /// One who holds a slot, if every slot is held by somebody other than `but`.
    pub(super) fn slots_full(&self, but: Option<&NodeName>) -> Option<&NodeName> {
        let mut others = self.record.slots.iter().filter(|held| Some(*held) != but);
        let first = others.next()?;
        // with none allowed nothing could ever be restarted
        (1 + others.count() >= usize::from(self.config.max_unavailable.max(1))).then_some(first)
    }

    fn begin(&mut self, now: Instant, id: &OperationId, index: usize) {
        let Some(step) = self.step_at(id, index) else { return };
        let (kind, node) = (step.kind, step.node.clone());
        // a wait for readiness after a restart compares with the boot before that restart; a restart's own is known when
        // the node takes the command, a node's own wish names it
        let rebooted = self.operation(id).and_then(|operation| {
            let earlier = operation.steps.iter().take(index);
            earlier
                .filter(|step| step.node == node && step.kind == StepKind::Reboot)
                .find_map(|step| step.boot_before.clone())
        });
        self.change(id, index, |step| {
            step.state = StepState::Running;
            step.attempt += 1;
            step.nonce = None;
            step.reason = Text::new();
            match kind {
                StepKind::WaitReady => step.boot_before = rebooted,
                StepKind::Reboot | StepKind::PowerOff => step.boot_before = None,
                StepKind::Snapshot
                | StepKind::Cordon
                | StepKind::Drain
                | StepKind::Uncordon
                | StepKind::Stop
                | StepKind::DeleteNode
                | StepKind::Reset
                | StepKind::Initialise
                | StepKind::Join
                | StepKind::AddOns
                | StepKind::Upgrade
                | StepKind::WaitUp
                | StepKind::Identify
                | StepKind::LetGo => {}
            }
        });
        if kind == StepKind::Cordon {
            let holds = self.operation(id).is_some_and(|held| is_rolling(held.kind) || held.scope == Scope::Local);
            if holds {
                self.record.hold_slot(&node);
            }
        }
        self.live_of(now, id, index);
    }

    /// Whether a cordon is to be asked for. Before it is, it is noted that it is us who cordon; a cordon that somebody else
    /// made is theirs. While the API server does not answer nobody can tell, so that waits.
    fn own_cordon(&mut self, id: &OperationId, node: &NodeName) -> Own {
        let scheduling = match self.kube_node(node) {
            Err(()) => return Own::Wait,
            Ok(seen) => seen.map(|seen| seen.scheduling),
        };
        // an uncordon that is under way would undo it
        let opens =
            |step: &Step| step.node == *node && step.kind == StepKind::Uncordon && step.state == StepState::Running;
        let opening =
            self.record.operations.iter().filter(|held| held.is_active()).flat_map(|held| &held.steps).any(opens);
        if opening || self.is_being_uncordoned(node) {
            return Own::Wait;
        }
        let others = self.record.cordon_of(node).filter(|held| held.operation != *id);
        let stays = others.is_some_and(|cordon| {
            let owner = self.operation(&cordon.operation);
            owner.is_some_and(|held| held.kind == OperationKind::NodeDrain && !held.phase.is_final())
        });
        if scheduling.is_some() && stays {
            return Own::No("is being drained to stay so");
        }
        match (scheduling, self.record.cordon_of(node).map(|cordon| &cordon.release)) {
            (None, _) => Own::No("Kubernetes has no such Node"),
            (Some(Scheduling::Cordoned), None) => Own::No("was cordoned by somebody else"),
            // it was drained to stay so, and stays so after this
            (Some(Scheduling::Cordoned), Some(Release::ByOperator)) => Own::No("was drained before"),
            (Some(Scheduling::Cordoned), Some(Release::WithOperation | Release::OnReturn { .. }))
            | (Some(Scheduling::Open), _) => {
                let start = self.state_of(node).map_or(0, |state| state.start);
                let held = self.record.cordon_of(node).filter(|cordon| cordon.operation == *id);
                let start = held.map_or(start, |cordon| cordon.start);
                self.record.forget_cordon(node);
                self.record.cordons.push(super::Cordon {
                    node: node.clone(),
                    operation: id.clone(),
                    start,
                    release: Release::WithOperation,
                });
                Own::Yes
            }
        }
    }

    /// Whether a step opens its node. What is ours is in the record before it is asked for, so that alone decides: when the
    /// operator asked, the API server may have said nothing, and what Kubernetes shows now may be of somebody else since.
    fn opens(&self, id: &OperationId, node: &NodeName) -> Opens {
        let cordon = self.record.cordon_of(node);
        let Some(operation) = self.operation(id) else { return Opens::No("its operation is gone") };
        match (operation.kind, operation.heeds) {
            // an operator said that anybody's cordon is to go
            (OperationKind::NodeUncordon, Heeds::Nothing) => Opens::Yes,
            (OperationKind::NodeUncordon, Heeds::Blockers) => match cordon {
                Some(_) => Opens::Yes,
                None => Opens::No("its slot is free; no cordon of ours is left"),
            },
            (
                OperationKind::Create
                | OperationKind::Rebuild
                | OperationKind::Reset
                | OperationKind::Reboot
                | OperationKind::Upgrade
                | OperationKind::Shutdown
                | OperationKind::Start
                | OperationKind::NodeDrain
                | OperationKind::NodeJoin
                | OperationKind::NodeLeave
                | OperationKind::NodeReset
                | OperationKind::NodeReboot
                | OperationKind::NodeShutdown
                | OperationKind::NodeIdentify,
                Heeds::Blockers | Heeds::Nothing,
            ) => match cordon.filter(|cordon| cordon.operation == *id) {
                Some(_) => Opens::Yes,
                None => Opens::No("left as it is: this operation has not cordoned it"),
            },
        }
    }

    /// Whether this leave has stopped a node's engine before, though the word of that may have come too late, and it stands
    /// still. Then no kubelet is there to confirm that a pod has ended, and none runs: a stop ends them all.
    fn is_stopped_by(&self, now: Instant, id: &OperationId, node: &NodeName) -> bool {
        let Some(operation) = self.operation(id) else { return false };
        let told = |step: &Step| step.kind == StepKind::Stop && step.node == *node && step.attempt > 0;
        let stands = self.state_of(node).is_some_and(|state| {
            state.power == PowerPhase::Running
                && state.engine.run == EngineRun::Stopped
                && state.engine.cluster.is_some()
        });
        operation.kind == OperationKind::NodeLeave
            && stands
            && self.is_online(now, node)
            && operation.steps.iter().any(told)
    }

    /// The volatile part of a running step; made anew after a restart of the coordinator.
    fn live_of(&mut self, now: Instant, id: &OperationId, index: usize) -> Option<&mut Live> {
        let step = self.step_at(id, index)?;
        if step.state != StepState::Running {
            return None;
        }
        let limit = limit_ms(step.kind, self.config.drain_ms);
        let live = self.live.entry((id.clone(), index)).or_insert_with(|| Live {
            begun: now,
            deadline: now.plus_ms(limit),
            send_at: now,
            every_ms: SEND_AGAIN_MS,
            failures: 0,
            kube: None,
            credential: None,
            accepted: Accepted::No,
            patient: Patient::Yes,
            switch: Switch::Off,
            drained: Text::new(),
            waits: Text::new(),
        });
        Some(live)
    }

    pub(super) fn waits(&self, id: &OperationId, index: usize) -> Option<&Text<160>> {
        self.live.get(&(id.clone(), index)).map(|live| &live.waits).filter(|text| !text.is_empty())
    }

    /// When something is due for the steps that run.
    pub(super) fn step_deadlines(&self) -> impl Iterator<Item = Instant> + '_ {
        let slots = self.told.slot_waits.values().map(|(_, since)| since.plus_ms(SLOT_WAIT_MS));
        slots.chain(self.live.values().map(|live| {
            let sends = if live.kube.is_some() { live.deadline } else { live.send_at.min(live.deadline) };
            // after that a silent node is given up
            let patience = live.begun.plus_ms(super::SILENT_MS);
            match (live.patient, self.hearing) {
                (Patient::Yes, Hearing::Yes) => sends.min(patience),
                // nobody is given up meanwhile
                (Patient::Yes, Hearing::NotSince(_)) | (Patient::No, _) => sends,
            }
        }))
    }

    /// How far the drain of a node is, for whoever looks at its step. Nothing is decided by it.
    pub(super) fn on_draining(&mut self, node: &NodeName, progress: Text<160>) {
        let running = self.live.iter().filter(|(_, live)| live.kube.is_some());
        let drains = |(id, index): &&(OperationId, usize)| {
            self.step_at(id, *index).is_some_and(|step| step.kind == StepKind::Drain && step.node == *node)
        };
        let held: Vec<(OperationId, usize)> = running.map(|(key, _)| key).filter(drains).cloned().collect();
        for key in held {
            if let Some(live) = self.live.get_mut(&key) {
                live.drained.clone_from(&progress);
            }
        }
    }

    // ---- driving

    fn drive_running(&mut self, now: Instant, id: &OperationId) {
        for index in self.running_steps(id) {
            let known = self.live.contains_key(&(id.clone(), index));
            if self.live_of(now, id, index).is_none() {
                continue;
            }
            if !known {
                self.after_restart(id, index);
            }
            let listened = self.listened_until(now);
            if let Some(live) = self.live.get_mut(&(id.clone(), index)) {
                if listened.since_ms(live.begun) >= super::SILENT_MS {
                    live.patient = Patient::No;
                }
            }
            match self.judge(now, id, index) {
                Verdict::Done(reason) => self.end(now, id, index, StepState::Done, reason),
                Verdict::Failed(reason) => self.end(now, id, index, StepState::Failed, reason),
                Verdict::Wait(waits) => {
                    if let Some(live) = self.live.get_mut(&(id.clone(), index)) {
                        live.waits = waits;
                    }
                    self.push(now, id, index);
                }
            }
        }
    }

    /// A join's credential is not kept, so its command cannot be repeated under its id: another attempt, another id. If the
    /// old one did happen, the node's state shows it.
    fn after_restart(&mut self, id: &OperationId, index: usize) {
        let is_join = self.step_at(id, index).is_some_and(|step| step.kind == StepKind::Join && step.attempt > 0);
        let Some(command) = self.operation(id).and_then(|operation| operation.command_id(index)) else { return };
        let Some(node) = self.step_at(id, index).map(|step| step.node.clone()) else { return };
        let still_running =
            self.state_of(&node).and_then(|state| state.running.as_ref()).is_some_and(|running| running.id == command);
        if is_join && !still_running {
            self.change(id, index, |step| {
                step.attempt += 1;
                step.nonce = None;
            });
        }
    }

    /// Is it done, is it hopeless, or what does it wait for?
    fn judge(&self, now: Instant, id: &OperationId, index: usize) -> Verdict {
        let Some(operation) = self.operation(id) else { return Verdict::Wait(Text::new()) };
        let Some(step) = operation.steps.get(index) else { return Verdict::Wait(Text::new()) };
        let Some(live) = self.live.get(&(id.clone(), index)) else { return Verdict::Wait(Text::new()) };
        let node = &step.node;
        let state = self.state_of(node);
        let new_boot = match (&step.boot_before, state) {
            (Some(before), Some(state)) => *before != state.boot,
            (None, _) | (_, None) => false,
        };
        let online = self.is_online(now, node);
        let silent = self.is_silent(now, node);
        let late = now >= live.deadline;
        let waits = match step.kind {
            StepKind::Initialise | StepKind::Join => {
                let wanted = match step.kind {
                    StepKind::Initialise => operation.new_cluster(),
                    _ => self.record.cluster.as_ref().map(|cluster| cluster.id.clone()),
                };
                let there = state.is_some_and(|state| {
                    let runs = state.lifecycle == Lifecycle::Member && state.engine.run == EngineRun::Running;
                    runs && wanted.is_some() && state.engine.cluster == wanted
                });
                if there {
                    return Verdict::Done(Text::cut("is in the cluster"));
                }
                "waits for the node"
            }
            StepKind::WaitReady => {
                let restarted = operation
                    .steps
                    .iter()
                    .take(index)
                    .any(|earlier| earlier.node == *node && earlier.kind == StepKind::Reboot);
                let seen = self.kube_node(node).ok().flatten();
                // a kubelet's Ready outlives it by 40 s: after a restart only that of the present boot counts
                let fresh = !restarted
                    || seen.and_then(|seen| seen.boot.as_ref()).is_some_and(|boot| {
                        step.boot_before.as_ref() != Some(boot) && state.is_some_and(|state| state.boot == *boot)
                    });
                // it passed for a member because nobody could tell
                if restarted && seen.is_none() && self.is_blank_by_its_own_word(now, node) {
                    return Verdict::Done(Text::cut("is in no cluster"));
                }
                let upgraded = operation
                    .steps
                    .iter()
                    .take(index)
                    .any(|earlier| earlier.node == *node && earlier.kind == StepKind::Upgrade);
                let other = upgraded && seen.is_some_and(|seen| seen.version != operation.version);
                match seen.map(|seen| seen.ready) {
                    Some(Ready::Yes) if other => "ready, but still of the version before",
                    Some(Ready::Yes) if fresh && online => return Verdict::Done(Text::cut("is ready")),
                    Some(Ready::Yes) if fresh => "ready, but its agent is not connected",
                    Some(Ready::Yes) => "ready, but still of the boot before",
                    Some(Ready::No) => "not ready yet",
                    None => "Kubernetes does not know it yet",
                }
            }
            StepKind::Reboot => {
                if new_boot && online {
                    return Verdict::Done(Text::cut("came back in a new boot"));
                }
                if online { "restarts" } else { "waits for its return" }
            }
            StepKind::PowerOff => {
                // else the power was only cut under it, as its answer will say
                let orderly = state
                    .and_then(|state| state.last_shutdown.as_ref())
                    .is_some_and(|last| last.outcome == ShutdownOutcome::Orderly);
                if new_boot && orderly {
                    return Verdict::Done(Text::cut("was off and is back already"));
                }
                let handed_over =
                    state.is_some_and(|state| matches!(state.power, PowerPhase::HandingOver | PowerPhase::Halted));
                if handed_over && !online {
                    return Verdict::Done(Text::cut("is off"));
                }
                // it took the command and its last words were lost: presence alone permits nothing, so after a while
                if silent && (step.boot_before.is_some() || live.accepted == Accepted::Yes) {
                    return Verdict::Done(Text::cut("is silent since it was told"));
                }
                "goes down"
            }
            StepKind::LetGo => {
                let goes = state.is_some_and(|state| {
                    step.boot_before.as_ref() == Some(&state.boot)
                        && matches!(state.power, PowerPhase::Stopping | PowerPhase::HandingOver | PowerPhase::Halted)
                });
                if new_boot {
                    return Verdict::Done(Text::cut("has restarted"));
                }
                if goes {
                    return Verdict::Done(Text::cut("goes on by itself"));
                }
                if silent && step.boot_before.is_some() {
                    return Verdict::Done(Text::cut("is silent since it asked"));
                }
                "waits for the node's answer"
            }
            StepKind::DeleteNode => {
                if self.kube_node(node) == Ok(None) {
                    return Verdict::Done(Text::cut("Kubernetes has no such Node"));
                }
                "waits until the Node is gone"
            }
            StepKind::Drain | StepKind::Uncordon => {
                if self.kube_node(node) == Ok(None) {
                    return Verdict::Done(Text::cut("Kubernetes has no such Node"));
                }
                if step.kind == StepKind::Drain && self.need_not_be_emptied(now, operation.kind, node) {
                    return Verdict::Done(Text::cut("is in no cluster"));
                }
                if !live.drained.is_empty() {
                    return Verdict::Wait(live.drained.clone());
                }
                "waits for the API server"
            }
            StepKind::WaitUp => {
                let runs = state.is_some_and(|state| state.power == PowerPhase::Running);
                if online && runs {
                    return Verdict::Done(Text::cut("is on"));
                }
                match &live.switch {
                    Switch::Off | Switch::Asked(_) => "waits until somebody switches it on",
                    Switch::On => "waits for it: its switch was told to feed it",
                    Switch::Failed(why) => {
                        let waits =
                            Text::format(format_args!("waits until somebody switches it on: its switch: {why}"));
                        if !late {
                            return Verdict::Wait(waits);
                        }
                        "waits until somebody switches it on: its switch does not"
                    }
                }
            }
            StepKind::Cordon if self.need_not_be_emptied(now, operation.kind, node) => {
                return Verdict::Done(Text::cut("is in no cluster"));
            }
            StepKind::Cordon => "waits for the API server",
            StepKind::Upgrade => {
                let has = state.is_some_and(|state| {
                    state.engine.run == EngineRun::Running && state.engine.version == operation.version
                });
                if has && self.plan_node(node).belongs == Belongs::Inside {
                    return Verdict::Done(Text::cut("has that version"));
                }
                "waits for the node"
            }
            StepKind::Snapshot | StepKind::Stop | StepKind::Reset | StepKind::AddOns | StepKind::Identify => {
                "waits for the node"
            }
        };
        if late {
            let reason = if live.waits.is_empty() { Text::cut(waits) } else { live.waits.clone() };
            return Verdict::Failed(Text::format(format_args!("timed out: {reason}")));
        }
        // with no answer at all, and silent for long: nobody is there
        let taken = live.accepted == Accepted::Yes || step.boot_before.is_some();
        if is_command(step.kind) && !taken && silent && live.patient == Patient::No {
            return Verdict::Failed(Text::cut("the node is silent"));
        }
        let understood = verb_of(step.kind).filter(|_| !taken).and_then(|verb| self.not_understood(node, verb));
        if let Some(why) = understood {
            return Verdict::Wait(why);
        }
        let away = is_command(step.kind) && !online && step.kind != StepKind::Reboot;
        Verdict::Wait(Text::format(format_args!(
            "{waits}{}{}",
            if away { ", which is not connected" } else { "" },
            Again(live.failures)
        )))
    }

    /// Sends, or sends again, what the step needs.
    fn push(&mut self, now: Instant, id: &OperationId, index: usize) {
        let Some(step) = self.step_at(id, index) else { return };
        let (kind, node) = (step.kind, step.node.clone());
        let Some(live) = self.live.get(&(id.clone(), index)) else { return };
        if now < live.send_at || live.kube.is_some() {
            return;
        }
        let deadline_ms = live.deadline.since_ms(now);
        let drain_ms = self.config.drain_ms;
        let work = match kind {
            StepKind::Cordon => match self.own_cordon(id, &node) {
                Own::Yes => KubeWork::Cordon(node.clone()),
                Own::No(reason) => return self.end(now, id, index, StepState::Done, Text::cut(reason)),
                Own::Wait => {
                    if let Some(live) = self.live.get_mut(&(id.clone(), index)) {
                        live.send_at = now.plus_ms(RETRY_MS);
                    }
                    return;
                }
            },
            StepKind::Uncordon => match self.opens(id, &node) {
                Opens::Yes => KubeWork::Uncordon(node.clone()),
                Opens::No(reason) => return self.end(now, id, index, StepState::Done, Text::cut(reason)),
            },
            // its leave was taken up again: it was emptied, and nothing runs on it
            StepKind::Drain if self.is_stopped_by(now, id, &node) => {
                let reason = Text::cut("its engine is stopped already: nothing runs there");
                return self.end(now, id, index, StepState::Done, reason);
            }
            // a drain cordons too. What its operation cordoned may have been opened since: it was paused, and the node was
            // down and is back
            StepKind::Drain => match self.own_cordon(id, &node) {
                Own::Yes | Own::No(_) => KubeWork::Drain { node: node.clone(), deadline_ms: drain_ms.min(deadline_ms) },
                Own::Wait => {
                    if let Some(live) = self.live.get_mut(&(id.clone(), index)) {
                        live.send_at = now.plus_ms(RETRY_MS);
                    }
                    return;
                }
            },
            StepKind::DeleteNode => KubeWork::DeleteNode(node.clone()),
            StepKind::Join if live.credential.is_none() => {
                let Some(cluster) = self.record.cluster.as_ref().map(|cluster| cluster.id.clone()) else {
                    return self.end(now, id, index, StepState::Failed, Text::cut("there is no cluster to join"));
                };
                KubeWork::MintCredential { node: node.clone(), cluster }
            }
            StepKind::WaitUp if self.config.switch == PowerSwitch::Present => {
                return self.switch_on(now, id, index, node);
            }
            // what it waits for comes as an event
            StepKind::WaitReady | StepKind::WaitUp => {
                if let Some(live) = self.live.get_mut(&(id.clone(), index)) {
                    live.send_at = live.deadline;
                }
                return;
            }
            StepKind::Snapshot
            | StepKind::Stop
            | StepKind::Reset
            | StepKind::Initialise
            | StepKind::Join
            | StepKind::AddOns
            | StepKind::Upgrade
            | StepKind::Reboot
            | StepKind::PowerOff
            | StepKind::Identify
            | StepKind::LetGo => return self.send_command(now, id, index),
        };
        let token = self.take_token(KubeOwner::Step(id.clone(), index));
        if let Some(live) = self.live.get_mut(&(id.clone(), index)) {
            live.kube = Some(token);
        }
        self.out.push(Action::Kube { token, work, deadline_ms });
    }

    /// Lets the switch feed a Pi that is waited for: once, and again a while after it could not.
    fn switch_on(&mut self, now: Instant, id: &OperationId, index: usize, node: NodeName) {
        let token = self.next_token;
        let Some(live) = self.live.get_mut(&(id.clone(), index)) else { return };
        live.send_at = match live.switch {
            Switch::Off | Switch::Failed(_) | Switch::Asked(_) => now.plus_ms(SWITCH_AGAIN_MS),
            Switch::On => live.deadline,
        };
        if live.switch == Switch::On {
            return;
        }
        live.switch = Switch::Asked(token);
        self.next_token += 1;
        self.out.push(Action::SwitchOn { token, node });
    }

    pub(super) fn switched(&mut self, now: Instant, token: u64, outcome: Result<(), Text<120>>) {
        let asked = self.live.values_mut().find(|live| live.switch == Switch::Asked(token));
        let Some(live) = asked else { return };
        live.switch = match outcome {
            Ok(()) => {
                live.send_at = live.deadline;
                Switch::On
            }
            Err(why) => {
                live.send_at = now.plus_ms(SWITCH_AGAIN_MS);
                Switch::Failed(why)
            }
        };
    }

    /// The session for which this attempt's command is made: the node's present one when it is first sent, and no other
    /// afterwards.
    fn nonce_for(&mut self, id: &OperationId, index: usize) -> Option<Nonce> {
        let step = self.step_at(id, index)?;
        if let Some(nonce) = &step.nonce {
            return Some(nonce.clone());
        }
        let nonce = self.state_of(&step.node)?.nonce.clone();
        self.change(id, index, |step| step.nonce = Some(nonce.clone()));
        Some(nonce)
    }

    fn send_command(&mut self, now: Instant, id: &OperationId, index: usize) {
        let Some(nonce) = self.nonce_for(id, index) else {
            // it has not said yet in which session it is
            if let Some(live) = self.live.get_mut(&(id.clone(), index)) {
                live.send_at = now.plus_ms(SEND_AGAIN_MS);
            }
            return;
        };
        let Some(operation) = self.operation(id) else { return };
        let Some(step) = operation.steps.get(index) else { return };
        let Some(live) = self.live.get(&(id.clone(), index)) else { return };
        let node = step.node.clone();
        let cluster = self.record.cluster.as_ref();
        let boot = self.state_of(&node).map(|state| state.boot.clone());
        let secret = match (step.kind, &live.credential, boot) {
            (StepKind::Join, Some(credential), Some(boot)) => Some(Secret { credential: credential.clone(), boot }),
            _ => None,
        };
        let verb = match step.kind {
            StepKind::Snapshot => Some(Verb::Snapshot),
            StepKind::Stop => Some(Verb::Stop),
            StepKind::Reset => Some(Verb::Reset),
            StepKind::AddOns => Some(Verb::AddOns),
            StepKind::Upgrade => Some(Verb::Upgrade { version: operation.version.clone() }),
            StepKind::Reboot => Some(Verb::Reboot),
            StepKind::PowerOff => Some(Verb::PowerOff),
            StepKind::Identify => Some(Verb::Identify { seconds: IDENTIFY_S }),
            StepKind::Initialise => {
                operation.new_cluster().map(|cluster| Verb::Initialise { cluster, version: operation.version.clone() })
            }
            StepKind::Join => match (cluster, &secret) {
                (Some(cluster), Some(_)) => Some(Verb::Join {
                    cluster: cluster.id.clone(),
                    server: self.config.server.clone(),
                    version: cluster.version.clone(),
                    credential: SealedCredential::default(),
                }),
                (None, _) | (_, None) => None,
            },
            StepKind::LetGo => operation.request.clone().map(|request| {
                let undrained = operation.steps.iter().any(|other| {
                    other.kind == StepKind::Drain && other.node == node && other.state == StepState::Failed
                });
                Verb::Answer { request, answer: if undrained { Answer::GoUndrained } else { Answer::Go } }
            }),
            StepKind::Cordon
            | StepKind::Drain
            | StepKind::Uncordon
            | StepKind::DeleteNode
            | StepKind::WaitReady
            | StepKind::WaitUp => None,
        };
        let (Some(verb), Some(command_id)) = (verb, operation.command_id(index)) else {
            return self.end(now, id, index, StepState::Failed, Text::cut("the step lacks what its command needs"));
        };
        let command = Command {
            id: command_id,
            nonce,
            term: self.record.term,
            session: self.record.session,
            operation: Some(id.clone()),
            expires_ms: live.deadline.since_ms(now),
            verb,
        };
        let every_ms = live.every_ms;
        // also in the middle of an operation: a node may be set back to the program before
        let understood = self.not_understood(&node, command.verb.name()).is_none();
        if let Some(live) = self.live.get_mut(&(id.clone(), index)) {
            live.send_at = now.plus_ms(every_ms);
        }
        if understood {
            let version = self.version_of(&node);
            self.out.push(Action::Command { node, version, command: Box::new(command), secret });
        }
    }

    // ---- what came back

    pub(super) fn on_result(&mut self, now: Instant, node: &NodeName, result: &CommandResult) {
        let Some((id, index)) = self.find_command(node, &result.id) else { return };
        match result.status {
            CommandStatus::Accepted | CommandStatus::InProgress => {
                // noted only once a state of that boot was seen: an older one that is still shown would pass for a new one
                let here = self.state_of(node).is_some_and(|state| state.boot == result.boot);
                let restarts = self.step_at(&id, index).is_some_and(|step| {
                    matches!(step.kind, StepKind::Reboot | StepKind::PowerOff) && step.boot_before.is_none()
                });
                if restarts && here {
                    self.change(&id, index, |step| step.boot_before = Some(result.boot.clone()));
                }
                if let Some(live) = self.live_of(now, &id, index) {
                    live.accepted = Accepted::Yes;
                    live.every_ms = SEND_AGAIN_ACCEPTED_MS;
                    live.send_at = now.plus_ms(SEND_AGAIN_ACCEPTED_MS);
                }
            }
            CommandStatus::Succeeded => {
                let reason = if result.code.as_str() == "unchanged" {
                    Text::format(format_args!("unchanged: {}", result.reason))
                } else {
                    result.reason.clone()
                };
                let here = self.state_of(node).is_some_and(|state| state.boot == result.boot);
                // its agent has restarted and forgotten that it wanted to go, or it has gone on without the answer: which of
                // the two, its next states show
                if result.verb == VerbName::Answer && result.code.as_str() == "unchanged" {
                    self.change(&id, index, |step| step.boot_before = None);
                }
                match self.step_at(&id, index).map(|step| step.kind) {
                    // its new state is on its way; until then its old one would be taken for the new
                    Some(StepKind::Reboot) if !here => {
                        if let Some(live) = self.live_of(now, &id, index) {
                            live.accepted = Accepted::Yes;
                        }
                    }
                    None => {}
                    Some(
                        StepKind::Snapshot
                        | StepKind::Cordon
                        | StepKind::Drain
                        | StepKind::Uncordon
                        | StepKind::Stop
                        | StepKind::DeleteNode
                        | StepKind::Reset
                        | StepKind::Initialise
                        | StepKind::Join
                        | StepKind::WaitReady
                        | StepKind::AddOns
                        | StepKind::Upgrade
                        | StepKind::Reboot
                        | StepKind::PowerOff
                        | StepKind::WaitUp
                        | StepKind::Identify
                        | StepKind::LetGo,
                    ) => self.end(now, &id, index, StepState::Done, reason),
                }
            }
            // sent before our present session, and sent again since
            CommandStatus::Rejected if result.code.as_str() == "old-session" => {}
            // it never ran and never will; the next attempt is for the session that the node is in now
            CommandStatus::Rejected if result.code.as_str() == "stale-nonce" => {
                if let Some(state) = self.seen.get_mut(node).and_then(|seen| seen.state.as_mut()) {
                    state.nonce = result.nonce.clone();
                }
                self.retry(now, &id, index, Counts::No, &result.reason);
            }
            CommandStatus::Rejected if result.code.as_str() == "busy" => {
                self.retry(now, &id, index, Counts::No, &result.reason);
            }
            CommandStatus::Rejected => {
                let reason = Text::format(format_args!("{}: {}", result.code, result.reason));
                self.end(now, &id, index, StepState::Failed, reason);
            }
            CommandStatus::Failed | CommandStatus::TimedOut | CommandStatus::Interrupted | CommandStatus::Canceled => {
                let reason = Text::format(format_args!("{}: {}", result.code, result.reason));
                self.retry(now, &id, index, Counts::Yes, &reason);
            }
        }
    }

    fn find_command(&self, node: &NodeName, command: &CommandId) -> Option<(OperationId, usize)> {
        self.record.operations.iter().filter(|operation| operation.is_active()).find_map(|operation| {
            let mine = |index: &usize| {
                operation.steps.get(*index).is_some_and(|step| step.state == StepState::Running && step.node == *node)
                    && operation.command_id(*index).as_ref() == Some(command)
            };
            (0..operation.steps.len()).find(mine).map(|index| (operation.id.clone(), index))
        })
    }

    fn retry(&mut self, now: Instant, id: &OperationId, index: usize, counts: Counts, reason: &Text<160>) {
        let Some(live) = self.live_of(now, id, index) else { return };
        if counts == Counts::Yes {
            live.failures += 1;
        }
        let failures = live.failures;
        if failures >= ATTEMPTS {
            return self.end(now, id, index, StepState::Failed, reason.clone());
        }
        live.accepted = Accepted::No;
        live.credential = None;
        live.every_ms = SEND_AGAIN_MS;
        live.send_at = now.plus_ms(RETRY_MS << failures.saturating_sub(1).min(4));
        self.change(id, index, |step| {
            step.attempt += 1;
            step.nonce = None;
            step.reason = reason.clone();
            match step.kind {
                // that command restarted nothing
                StepKind::Reboot | StepKind::PowerOff => step.boot_before = None,
                StepKind::Snapshot
                | StepKind::Cordon
                | StepKind::Drain
                | StepKind::Uncordon
                | StepKind::Stop
                | StepKind::DeleteNode
                | StepKind::Reset
                | StepKind::Initialise
                | StepKind::Join
                | StepKind::WaitReady
                | StepKind::AddOns
                | StepKind::Upgrade
                | StepKind::WaitUp
                | StepKind::Identify
                | StepKind::LetGo => {}
            }
        });
    }

    pub(super) fn step_kube_ended(
        &mut self,
        now: Instant,
        id: &OperationId,
        index: usize,
        token: u64,
        outcome: Result<KubeDone, KubeError>,
    ) {
        let Some(kind) = self.step_at(id, index).map(|step| step.kind) else { return };
        let Some(live) = self.live.get_mut(&(id.clone(), index)).filter(|live| live.kube == Some(token)) else {
            return;
        };
        live.kube = None;
        live.drained = Text::new();
        match outcome {
            Ok(KubeDone::Credential(credential)) => {
                live.credential = Some(credential);
                live.send_at = now;
            }
            Ok(KubeDone::Done) => match kind {
                // done when it is no longer seen; asked again in case it came back in between
                StepKind::DeleteNode => live.send_at = now.plus_ms(RETRY_MS),
                StepKind::Cordon
                | StepKind::Drain
                | StepKind::Uncordon
                | StepKind::Snapshot
                | StepKind::Stop
                | StepKind::Reset
                | StepKind::Initialise
                | StepKind::Join
                | StepKind::WaitReady
                | StepKind::AddOns
                | StepKind::Upgrade
                | StepKind::Reboot
                | StepKind::PowerOff
                | StepKind::WaitUp
                | StepKind::Identify
                | StepKind::LetGo => self.end(now, id, index, StepState::Done, Text::new()),
            },
            Err(error) if error.code == "unreachable" => {
                live.waits = error.reason;
                live.send_at = now.plus_ms(RETRY_MS);
            }
            Err(error) if error.code == "not-found" => match kind {
                // there is nothing to be emptied or opened
                StepKind::Cordon | StepKind::Drain | StepKind::Uncordon | StepKind::DeleteNode => {
                    self.end(now, id, index, StepState::Done, Text::cut("Kubernetes has no such Node"));
                }
                StepKind::Snapshot
                | StepKind::Stop
                | StepKind::Reset
                | StepKind::Initialise
                | StepKind::Join
                | StepKind::WaitReady
                | StepKind::AddOns
                | StepKind::Upgrade
                | StepKind::Reboot
                | StepKind::PowerOff
                | StepKind::WaitUp
                | StepKind::Identify
                | StepKind::LetGo => self.end(now, id, index, StepState::Failed, kube_reason(&error)),
            },
            // another try would only take as long again
            Err(error)
                if matches!(
                    error.code,
                    "blocked-by-budget" | "refused" | "forbidden" | "timed-out" | "other-cluster"
                ) =>
            {
                self.end(now, id, index, StepState::Failed, kube_reason(&error));
            }
            Err(error) => self.retry(now, id, index, Counts::Yes, &kube_reason(&error)),
        }
    }

    // ---- ending

    pub(super) fn end(&mut self, now: Instant, id: &OperationId, index: usize, state: StepState, reason: Text<160>) {
        let Some(step) = self.step_at(id, index) else { return };
        if step.has_ended() {
            return;
        }
        let (kind, node) = (step.kind, step.node.clone());
        self.live.remove(&(id.clone(), index));
        self.change(id, index, |step| {
            step.state = state;
            step.reason = reason.clone();
        });
        if state == StepState::Done {
            self.after_done(id, kind, &node);
        }
        let detail = if reason.is_empty() {
            Text::format(format_args!("{kind} {node}: {}", state.as_str()))
        } else {
            Text::format(format_args!("{kind} {node}: {} ({reason})", state.as_str()))
        };
        self.tell(now, CoordinatorEventKind::Step, Some(id), Some(&node), detail);
    }

    /// What the crew's record learns from a step that is done.
    fn after_done(&mut self, id: &OperationId, kind: StepKind, node: &NodeName) {
        match kind {
            StepKind::Initialise => {
                let made = self.operation(id).and_then(|operation| {
                    operation.new_cluster().map(|id| super::Cluster { id, version: operation.version.clone() })
                });
                if made.is_some() {
                    self.record.cluster = made;
                }
                self.note_cluster(node, Lifecycle::Member);
            }
            StepKind::Join => self.note_cluster(node, Lifecycle::Member),
            StepKind::Upgrade => {
                let version = self.operation(id).map(|operation| operation.version.clone()).unwrap_or_default();
                // who joins from now on joins at the version of the API server
                if *node == self.config.master {
                    if let Some(cluster) = &mut self.record.cluster {
                        cluster.version = version.clone();
                    }
                }
                if let Some(state) = self.seen.get_mut(node).and_then(|seen| seen.state.as_mut()) {
                    state.engine.version = version;
                    state.engine.run = EngineRun::Running;
                }
            }
            StepKind::Reset => {
                self.note_cluster(node, Lifecycle::Blank);
                self.record.release(node);
                if *node == self.config.master {
                    self.record.cluster = None;
                }
            }
            StepKind::DeleteNode => self.record.forget_cordon(node),
            StepKind::Cordon => self.note_scheduling(node, Scheduling::Cordoned),
            StepKind::Uncordon => {
                // one that was left to others is not in the record as this operation's
                let asked = self.operation(id).is_some_and(|held| held.kind == OperationKind::NodeUncordon);
                let ours = self.record.cordon_of(node).is_none_or(|cordon| cordon.operation == *id);
                if asked {
                    match self.opens(id, node) {
                        Opens::Yes => self.note_scheduling(node, Scheduling::Open),
                        Opens::No(_) => {}
                    }
                    self.record.release(node);
                } else if ours {
                    if self.record.cordon_of(node).is_some() {
                        self.note_scheduling(node, Scheduling::Open);
                    }
                    self.record.forget_cordon(node);
                }
            }
            StepKind::Snapshot
            | StepKind::Drain
            | StepKind::Stop
            | StepKind::WaitReady
            | StepKind::AddOns
            | StepKind::Reboot
            | StepKind::PowerOff
            | StepKind::WaitUp
            | StepKind::Identify
            | StepKind::LetGo => {}
        }
    }

    /// Ends the operation when nothing of it runs or can begin.
    fn conclude(&mut self, now: Instant, id: &OperationId) {
        let Some(operation) = self.operation_mut(id) else { return };
        let essential = operation.has_lost_its_sense();
        if essential || operation.phase == OperationPhase::Aborting {
            let reason = if essential { "an essential step failed" } else { "the operation was aborted" };
            let mut changed = false;
            for index in 0..operation.steps.len() {
                let goes_on = !essential && operation.is_committed(index);
                let Some(step) = operation.steps.get_mut(index) else { continue };
                if step.state == StepState::Pending && !goes_on {
                    step.state = StepState::Skipped;
                    step.reason = Text::cut(reason);
                    changed = true;
                }
            }
            // a wait does nothing that would have to be brought to its end
            for step in operation.steps.iter_mut() {
                if step.state == StepState::Running && matches!(step.kind, StepKind::WaitReady | StepKind::WaitUp) {
                    step.state = StepState::Skipped;
                    step.reason = Text::cut(reason);
                    changed = true;
                }
            }
            if changed {
                operation.revision += 1;
            }
        }
        if !operation.steps.iter().all(Step::has_ended) {
            return;
        }
        let lost = operation.steps.iter().any(|step| {
            step.weight != Weight::BestEffort && matches!(step.state, StepState::Failed | StepState::Skipped)
        });
        let phase = match (operation.phase, essential, lost) {
            (OperationPhase::Aborting, false, true) => OperationPhase::Aborted,
            (_, true, _) => OperationPhase::Failed,
            (_, false, true) => OperationPhase::PartlyDone,
            (_, false, false) => OperationPhase::Done,
        };
        operation.phase = phase;
        operation.revision += 1;
        let (kind, scope) = (operation.kind, operation.scope);
        let went_in = operation.steps.last().and_then(|step| step.boot_before.clone());
        let back =
            went_in.is_some_and(|boot| self.state_of(&self.config.master).is_some_and(|state| state.boot != boot));
        self.settle_cordons(id);
        self.live.retain(|(held, _), _| held != id);
        self.told.slot_waits.retain(|(held, _), _| held != id);
        self.tell(
            now,
            CoordinatorEventKind::OperationEnded,
            Some(id),
            None,
            Text::format(format_args!("{kind}: {phase}")),
        );
        self.retire(id, scope);
        // after a shutdown only where the master was off in between: before that it would start work on nodes that are down
        if scope == Scope::Exclusive && (kind != OperationKind::Shutdown || back) {
            self.unpause();
        }
    }

    /// Decides when each node that this operation cordoned is uncordoned.
    fn settle_cordons(&mut self, id: &OperationId) {
        let Some(operation) = self.operation(id).cloned() else { return };
        let done = operation.phase == OperationPhase::Done;
        let nodes: Vec<NodeName> = self
            .record
            .cordons
            .iter()
            .filter(|cordon| cordon.operation == *id)
            .map(|cordon| cordon.node.clone())
            .collect();
        for node in nodes {
            // the boot in which it went, or may yet go: it took the command, or asked itself
            let went = operation.steps.iter().find_map(|step| {
                let goes = match step.kind {
                    StepKind::PowerOff | StepKind::LetGo => step.node == node && step.state != StepState::Skipped,
                    StepKind::Snapshot
                    | StepKind::Cordon
                    | StepKind::Drain
                    | StepKind::Uncordon
                    | StepKind::Stop
                    | StepKind::DeleteNode
                    | StepKind::Reset
                    | StepKind::Initialise
                    | StepKind::Join
                    | StepKind::WaitReady
                    | StepKind::AddOns
                    | StepKind::Upgrade
                    | StepKind::Reboot
                    | StepKind::WaitUp
                    | StepKind::Identify => false,
                };
                if !goes {
                    return None;
                }
                let done = step.state == StepState::Done;
                match (&step.boot_before, step.kind) {
                    (Some(boot), _) => Some(Some(boot.clone())),
                    // as soon as it is ready and says that it runs
                    (None, StepKind::LetGo) if done => Some(None),
                    (None, _) if done => self.state_of(&node).map(|state| Some(state.boot.clone())),
                    (None, _) => None,
                }
            });
            let Some(cordon) = self.record.cordons.iter_mut().find(|cordon| cordon.node == node) else { continue };
            cordon.release = if operation.kind == OperationKind::NodeDrain && done {
                Release::ByOperator
            } else if let Some(boot) = went {
                Release::OnReturn { boot, start: cordon.start }
            } else {
                Release::WithOperation
            };
        }
    }

    /// Keeps the last exclusive operation for `resume`, forgets the rest.
    fn retire(&mut self, id: &OperationId, scope: Scope) {
        self.told.ending.push(id.clone());
        match scope {
            Scope::Local => {}
            Scope::Exclusive => self.forget_ended(Some(id)),
        }
        if !self.record.ended.contains(id) {
            self.record.ended.push(id.clone());
        }
    }

    /// Forgets exclusive operations that have ended, but `kept`, and but what is not on the card yet: their end is told only
    /// after it is, and a coordinator that dies in between has to know of it to tell it.
    pub(super) fn forget_ended(&mut self, kept: Option<&OperationId>) {
        let stored = match self.saved {
            Saved::Yes => self.stored.operations.as_slice(),
            Saved::No { .. } => &[],
        };
        self.record.operations.retain(|held| {
            let told = || stored.iter().any(|on_card| on_card.id == held.id && on_card.phase.is_final());
            let stays = kept == Some(&held.id) || !held.phase.is_final() || held.scope == Scope::Local;
            stays || !told()
        });
    }

    /// A node that goes down by itself counts as unavailable.
    pub(super) fn hold_slot_if_inside(&mut self, node: &NodeName) {
        if self.plan_node(node).belongs == Belongs::Inside {
            self.record.hold_slot(node);
        }
    }
}

/// Whether a retry counts against [`ATTEMPTS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counts {
    Yes,
    No,
}

fn kube_reason(error: &KubeError) -> Text<160> {
    Text::format(format_args!("{}: {}", error.code, error.reason))
}

struct Again(u32);

impl core::fmt::Display for Again {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if self.0 == 0 { Ok(()) } else { write!(f, " (attempt {} of {ATTEMPTS})", self.0 + 1) }
    }
}

/// Whether a step is a command to the node.
fn is_command(kind: StepKind) -> bool {
    verb_of(kind).is_some()
}

/// What the node is told in a step, if it is told something.
pub(super) fn verb_of(kind: StepKind) -> Option<VerbName> {
    match kind {
        StepKind::Snapshot => Some(VerbName::Snapshot),
        StepKind::Stop => Some(VerbName::Stop),
        StepKind::Reset => Some(VerbName::Reset),
        StepKind::Initialise => Some(VerbName::Initialise),
        StepKind::Join => Some(VerbName::Join),
        StepKind::AddOns => Some(VerbName::AddOns),
        StepKind::Upgrade => Some(VerbName::Upgrade),
        StepKind::Reboot => Some(VerbName::Reboot),
        StepKind::PowerOff => Some(VerbName::PowerOff),
        StepKind::Identify => Some(VerbName::Identify),
        StepKind::LetGo => Some(VerbName::Answer),
        StepKind::Cordon
        | StepKind::Drain
        | StepKind::Uncordon
        | StepKind::DeleteNode
        | StepKind::WaitReady
        | StepKind::WaitUp => None,
    }
}
