//! Begins the steps of operations: whose turn it is, whether a slot is free, and whose a cordon is.

use super::{Coordinator, Heeds, Operation, Release, Scope, Step};
use crate::Instant;
use crate::kube::Scheduling;
use crate::plan::{self, Weight};
use alloc::vec::Vec;
use beehive_mqtt::coordinator::{OperationKind, OperationPhase, StepKind, StepState};
use beehive_mqtt::node::{Lifecycle, NodeState};
use beehive_mqtt::{NodeName, OperationId, Text};

/// How long rolling work waits for a slot whose holder does not come back, before it gives that node up: as long as the
/// longest step takes twice over. Somebody who sees it waiting frees the slot (`node uncordon`) or brings the holder back.
pub const SLOT_WAIT_MS: u64 = 1_800_000;

/// Whether a cordon becomes ours.
pub(super) enum Own {
    Yes,
    /// Nothing is to be done, for this reason.
    No(&'static str),
    /// It cannot be told yet.
    Wait,
}

/// Whether an uncordon is to be asked for.
pub(super) enum Opens {
    Yes,
    /// Nothing is to be done, for this reason.
    No(&'static str),
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
    /// A Pi that was away when the end of all was planned, and is heard before the master goes, goes before it: once the
    /// master is off nobody is left to say that it is on.
    pub(super) fn take_along(&mut self, now: Instant, id: &OperationId) {
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

    pub(super) fn begin_pending(&mut self, now: Instant, id: &OperationId) {
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
    pub(super) fn need_not_be_emptied(&self, now: Instant, kind: OperationKind, node: &NodeName) -> bool {
        is_rolling(kind) && self.is_blank_by_its_own_word(now, node)
    }

    /// Whether a node was not heard and the API server knows no Node of its name.
    fn is_untold(&self, node: &NodeName) -> bool {
        self.state_of(node).is_none() && self.kube_node(node) == Ok(None)
    }

    /// Whether a node is there and says that it is in no cluster, and nothing of it is cordoned by us.
    pub(super) fn is_blank_by_its_own_word(&self, now: Instant, node: &NodeName) -> bool {
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
        let pressed = self.record.operations.iter().any(|held| held.is_local_wish_of(node));
        if leaves || pressed {
            return Some(Text::cut("waits for its return: it goes down by itself"));
        }
        // also one that holds a slot waits while others are over the limit
        let holder = self.slots_full(Some(node))?;
        Some(Text::format(format_args!("waits for a slot, held by {holder} (max_unavailable)")))
    }

    /// Whether a node's turn has come and gone: while the API server did not answer, or the coordinator was away, buttons were
    /// pressed, and every slot is theirs. As long as the node is open it waits as if its turn had not come. What the record has
    /// of its cordon stays there: it may have been asked for, and not be seen yet.
    pub(super) fn lost_its_turn(&self, id: &OperationId, node: &NodeName) -> bool {
        let open = matches!(self.kube_node(node), Ok(Some(seen)) if seen.scheduling == Scheduling::Open);
        let noted = self.record.cordon_of(node).is_some_and(|cordon| cordon.operation == *id);
        let refused = |operation| self.slot_refusal(operation, StepKind::Cordon, node).is_some();
        (open || !noted) && self.operation(id).is_some_and(refused)
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
    pub(super) fn own_cordon(&mut self, id: &OperationId, node: &NodeName) -> Own {
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
    pub(super) fn opens(&self, id: &OperationId, node: &NodeName) -> Opens {
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
}
