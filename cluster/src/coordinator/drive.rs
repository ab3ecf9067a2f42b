//! Drives the steps of operations: sends and sends again, judges what came back. What lets them begin is in `begin`, what their
//! end means in `end`.

use super::begin::{Opens, Own, SLOT_WAIT_MS};
use super::{Action, Coordinator, Hearing, KubeOwner, Operation, PowerSwitch, Secret, Step};
use crate::Instant;
use crate::kube::{JoinCredential, KubeDone, KubeError, KubeWork, Ready};
use crate::plan::Belongs;
use alloc::boxed::Box;
use alloc::vec::Vec;
use beehive_mqtt::command::{Answer, Command, SealedCredential, Verb, VerbName};
use beehive_mqtt::coordinator::{OperationKind, StepKind, StepState};
use beehive_mqtt::node::{CommandResult, CommandStatus, EngineRun, Lifecycle, PowerGoal, PowerPhase, ShutdownOutcome};
use beehive_mqtt::{CommandId, NodeName, Nonce, OperationId, Text};

/// How often a command is sent again until the node has answered.
pub const SEND_AGAIN_MS: u64 = 1_000;

/// How often it is sent again after it was accepted: seldom, in case the final result was lost.
pub const SEND_AGAIN_ACCEPTED_MS: u64 = 5_000;

/// How often a step is tried before it counts as failed.
pub const ATTEMPTS: u32 = 3;

/// The wait before a second attempt; it doubles with each further one.
pub const RETRY_MS: u64 = 2_000;

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
    /// What decides what becomes of the step.
    pub(super) fn decides(&self) -> impl core::fmt::Debug + '_ {
        (self.begun, self.deadline, self.failures, &self.kube, self.accepted, self.patient, &self.switch)
    }

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

    pub(super) fn operation_mut(&mut self, id: &OperationId) -> Option<&mut Operation> {
        self.record.operations.iter_mut().find(|operation| operation.id == *id)
    }

    pub(super) fn step_at(&self, id: &OperationId, index: usize) -> Option<&Step> {
        self.operation(id).and_then(|operation| operation.steps.get(index))
    }

    pub(super) fn change(&mut self, id: &OperationId, index: usize, change: impl FnOnce(&mut Step)) {
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
    pub(super) fn live_of(&mut self, now: Instant, id: &OperationId, index: usize) -> Option<&mut Live> {
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
                // one that restarts for a reason of its own is told when it is back
                let handed_over = state.is_some_and(|state| {
                    let down = matches!(state.power, PowerPhase::HandingOver | PowerPhase::Halted);
                    down && state.goal != Some(PowerGoal::Reboot)
                });
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
            StepKind::Cordon if self.lost_its_turn(id, &node) => {
                self.live.remove(&(id.clone(), index));
                return self.change(id, index, |step| step.state = StepState::Pending);
            }
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
