//! Ends steps and operations: what the record learns from them, when a node that was cordoned is opened, what is forgotten.

use super::begin::Opens;
use super::{Coordinator, Release, Saved, Scope, Step};
use crate::Instant;
use crate::kube::Scheduling;
use crate::plan::{Belongs, Weight};
use alloc::vec::Vec;
use beehive_mqtt::coordinator::{CoordinatorEventKind, OperationKind, OperationPhase, StepKind, StepState};
use beehive_mqtt::node::{EngineRun, Lifecycle};
use beehive_mqtt::{NodeName, OperationId, Text};

impl Coordinator {
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
                    // they went with their cluster: what still runs must not keep them for the next one
                    self.record.cordons.clear();
                    self.record.slots.clear();
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
                    // somebody pressed its button meanwhile: it goes down, and its slot is that press'
                    let mut since = self.record.operations.iter().skip_while(|held| held.id != *id);
                    if since.any(|held| held.is_local_wish_of(node)) {
                        self.record.forget_cordon(node);
                    } else {
                        self.record.release(node);
                    }
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
    pub(super) fn conclude(&mut self, now: Instant, id: &OperationId) {
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
