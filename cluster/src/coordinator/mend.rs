//! Mends what is left over: a node that we cordoned is uncordoned as soon as nothing needs the cordon any more, whether its
//! operation failed, was aborted, or ended with the node going down, and also after our own crash. Nobody else's cordon is
//! touched, because only ours are in the record.

use super::{Action, Coordinator, KubeOwner, Operation, Release, Scope};
use crate::Instant;
use crate::kube::{KubeDone, KubeError, KubeWork, Scheduling};
use alloc::vec::Vec;
use beehive_mqtt::coordinator::{CoordinatorEventKind, StepKind, StepState};
use beehive_mqtt::node::{Lifecycle, NodeState};
use beehive_mqtt::{NodeName, OperationId, Text};

/// How long to wait before the API server is asked again after an error.
const MEND_AGAIN_MS: u64 = 5_000;

/// How long one uncordon may take.
const UNCORDON_MS: u64 = 30_000;

/// An uncordon that is under way, or waits to be tried again.
#[derive(Debug, Clone)]
pub(crate) struct Mending {
    asked: Asked,
    again_at: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Yes,
    No,
}

/// What becomes of a cordon now.
enum Due {
    /// It stays.
    Not,
    /// The node is to be uncordoned.
    Uncordon,
    /// This operation needs it: it has emptied the node, and is not done with it.
    HandOver(OperationId),
    /// There is no such Node any more.
    Forget,
}

impl Coordinator {
    pub(super) fn mend(&mut self, now: Instant) {
        let nodes: Vec<NodeName> = self.record.cordons.iter().map(|cordon| cordon.node.clone()).collect();
        for node in nodes {
            match self.due(now, &node) {
                // what is under way is waited for, so that it cannot undo a later cordon
                Due::Not => self.mending.retain(|held, mending| *held != node || mending.asked == Asked::Yes),
                Due::Forget => self.record.forget_cordon(&node),
                Due::HandOver(operation) => self.hand_over(&node, operation),
                Due::Uncordon => self.uncordon(now, &node),
            }
        }
        let cordons = &self.record.cordons;
        self.mending
            .retain(|node, mending| mending.asked == Asked::Yes || cordons.iter().any(|cordon| cordon.node == *node));
        self.free_slots(now);
    }

    /// Whether an uncordon is under way.
    pub(super) fn is_being_uncordoned(&self, node: &NodeName) -> bool {
        self.mending.get(node).is_some_and(|mending| mending.asked == Asked::Yes)
    }

    pub(super) fn mend_deadlines(&self) -> impl Iterator<Item = Instant> + '_ {
        self.mending.values().filter(|mending| mending.asked == Asked::No).map(|mending| mending.again_at)
    }

    fn due(&self, now: Instant, node: &NodeName) -> Due {
        let Some(cordon) = self.record.cordons.iter().find(|cordon| cordon.node == *node) else { return Due::Not };
        if self.record.is_alive(&cordon.operation) {
            return Due::Not;
        }
        // somebody pressed the button meanwhile, and the node is being emptied for that
        let local = self.record.operations.iter().filter(|held| held.scope == Scope::Local && !held.phase.is_final());
        let emptied = local.flat_map(|held| &held.steps).any(|step| {
            step.node == *node && !step.has_ended() && matches!(step.kind, StepKind::Cordon | StepKind::Drain)
        });
        if emptied {
            return Due::Not;
        }
        // what its Node object says is nobody's work any more; it is deleted before the Pi joins again
        if self.has_left_by_itself(node) {
            return Due::Forget;
        }
        // no cluster: nothing can be cordoned in it. No answer from the API server: wait for one.
        let kube = match self.kube_node(node) {
            Ok(Some(kube)) => kube,
            Ok(None) => return Due::Forget,
            Err(()) => return Due::Not,
        };
        match &cordon.release {
            Release::ByOperator => match kube.scheduling {
                // somebody uncordoned it without us
                Scheduling::Open => Due::Forget,
                Scheduling::Cordoned => Due::Not,
            },
            Release::WithOperation => self.no_longer_needed(node),
            Release::OnReturn { boot, start } => {
                let Some(state) = self.state_of(node) else { return Due::Not };
                let another_boot = boot.as_ref().is_none_or(|boot| *boot != state.boot);
                let stayed = !another_boot && state.start > *start;
                let returned = self.is_ready_again(now, node) && (another_boot || stayed);
                if returned { self.no_longer_needed(node) } else { Due::Not }
            }
        }
    }

    /// Nothing of what cordoned a node needs that any more. Somebody may have pressed its button in the middle of an operation,
    /// which made the cordon the button's; the operation goes on when the node is back, and must find it empty.
    fn no_longer_needed(&self, node: &NodeName) -> Due {
        let works_on = |operation: &&Operation| {
            let own = || operation.steps.iter().filter(|step| step.node == *node);
            let emptied = own().any(|step| step.kind == StepKind::Cordon && step.state == StepState::Done);
            emptied && own().any(|step| !step.has_ended())
        };
        // one that is paused goes on too, or is called off, and opens it then
        let user = self.record.operations.iter().filter(|operation| !operation.phase.is_final()).find(works_on);
        user.map_or(Due::Uncordon, |operation| Due::HandOver(operation.id.clone()))
    }

    fn hand_over(&mut self, node: &NodeName, operation: OperationId) {
        if let Some(cordon) = self.record.cordons.iter_mut().find(|cordon| cordon.node == *node) {
            cordon.operation = operation;
            cordon.release = Release::WithOperation;
        }
    }

    /// Whether a node is clean although Kubernetes still knows it: its button reset it while nobody answered.
    fn has_left_by_itself(&self, node: &NodeName) -> bool {
        let clean = |state: &NodeState| state.lifecycle == Lifecycle::Blank && state.engine.cluster.is_none();
        self.state_of(node).is_some_and(clean)
    }

    fn uncordon(&mut self, now: Instant, node: &NodeName) {
        let waiting = self.mending.get(node).is_some_and(|held| held.asked == Asked::Yes || now < held.again_at);
        if waiting {
            return;
        }
        let token = self.take_token(KubeOwner::Mend(node.clone()));
        self.mending.insert(node.clone(), Mending { asked: Asked::Yes, again_at: now });
        self.out.push(Action::Kube { token, work: KubeWork::Uncordon(node.clone()), deadline_ms: UNCORDON_MS });
    }

    pub(super) fn mend_ended(&mut self, now: Instant, node: &NodeName, outcome: Result<KubeDone, KubeError>) {
        if self.mending.remove(node).is_none() {
            return;
        }
        let gone = matches!(&outcome, Err(error) if error.code == "not-found");
        match outcome {
            Ok(_) => {
                self.note_scheduling(node, Scheduling::Open);
                self.record.forget_cordon(node);
                let detail =
                    Text::format(format_args!("{node} uncordoned: it was cordoned by us and is needed no more"));
                self.tell(now, CoordinatorEventKind::Slot, None, Some(node), detail);
            }
            Err(_) if gone => self.record.forget_cordon(node),
            Err(_) => {
                let again_at = now.plus_ms(MEND_AGAIN_MS);
                self.mending.insert(node.clone(), Mending { asked: Asked::No, again_at });
            }
        }
    }

    /// A slot without a cordon of ours and without a step that works on its node is free again once the node is ready, or is
    /// in no cluster. A dead holder keeps its slot.
    fn free_slots(&mut self, now: Instant) {
        let held: Vec<NodeName> = self.record.slots.clone();
        for node in held {
            let cordoned = self.record.cordon_of(&node).is_some();
            let worked_on = self
                .record
                .operations
                .iter()
                .filter(|operation| !operation.phase.is_final())
                .any(|held| held.steps.iter().any(|step| step.node == node && step.state == StepState::Running));
            if cordoned || worked_on {
                continue;
            }
            let outside = matches!(self.kube_node(&node), Ok(None)) || self.has_left_by_itself(&node);
            if outside || self.is_ready_again(now, &node) {
                self.record.slots.retain(|name| *name != node);
            }
        }
    }
}
