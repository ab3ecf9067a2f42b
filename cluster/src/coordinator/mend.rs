//! Mends what is left over: a node that we cordoned is uncordoned as soon as nothing needs the cordon any more, whether its
//! operation failed, was aborted, or ended with the node going down, and also after our own crash. Nobody else's cordon is
//! touched, because only ours are in the record.

use super::{Action, Coordinator, KubeOwner, Release};
use crate::Instant;
use crate::kube::{KubeDone, KubeError, KubeWork, Ready, Scheduling};
use alloc::vec::Vec;
use beehive_mqtt::coordinator::CoordinatorEventKind;
use beehive_mqtt::node::PowerPhase;
use beehive_mqtt::{NodeName, Text};

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
    /// There is no such Node any more.
    Forget,
}

impl Coordinator {
    pub(super) fn mend(&mut self, now: Instant) {
        let nodes: Vec<NodeName> = self.record.cordons.iter().map(|cordon| cordon.node.clone()).collect();
        for node in nodes {
            match self.due(&node) {
                Due::Not => {
                    self.mending.remove(&node);
                }
                Due::Forget => {
                    self.mending.remove(&node);
                    self.record.release(&node);
                }
                Due::Uncordon => self.uncordon(now, &node),
            }
        }
        self.mending.retain(|node, _| self.record.cordons.iter().any(|cordon| cordon.node == *node));
        self.free_slots();
    }

    fn due(&self, node: &NodeName) -> Due {
        let Some(cordon) = self.record.cordons.iter().find(|cordon| cordon.node == *node) else { return Due::Not };
        if self.record.is_alive(&cordon.operation) {
            return Due::Not;
        }
        let (Some(cluster), Some(seen)) = (&self.record.cluster, self.kube.cluster.as_ref()) else {
            // no cluster: nothing can be cordoned in it. No answer from the API server: wait for one.
            return if self.record.cluster.is_none() { Due::Forget } else { Due::Not };
        };
        if cluster.id != *seen {
            return Due::Not;
        }
        let Some(kube) = self.kube.node(node) else { return Due::Forget };
        match &cordon.release {
            Release::ByOperator => match kube.scheduling {
                // somebody uncordoned it without us
                Scheduling::Open => Due::Forget,
                Scheduling::Cordoned => Due::Not,
            },
            Release::WithOperation => Due::Uncordon,
            Release::OnReturn { boot, start } => {
                let Some(state) = self.state_of(node) else { return Due::Not };
                let another_boot = boot.as_ref().is_none_or(|boot| *boot != state.boot);
                let fresh = kube.ready == Ready::Yes && kube.boot.as_ref() == Some(&state.boot);
                let stayed = !another_boot && state.start > *start && state.power == PowerPhase::Running;
                let up = self.is_online(node) && state.power == PowerPhase::Running;
                if up && fresh && (another_boot || stayed) { Due::Uncordon } else { Due::Not }
            }
        }
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
        match outcome {
            Ok(_) => {
                self.record.release(node);
                let detail =
                    Text::format(format_args!("{node} uncordoned: it was cordoned by us and is needed no more"));
                self.tell(now, CoordinatorEventKind::Slot, None, Some(node), detail);
            }
            Err(_) => {
                let again_at = now.plus_ms(MEND_AGAIN_MS);
                self.mending.insert(node.clone(), Mending { asked: Asked::No, again_at });
            }
        }
    }

    /// A slot without a cordon of ours and without an operation that works on its node is free again once the node is
    /// ready, or is in no cluster. A dead holder keeps its slot.
    fn free_slots(&mut self) {
        let held: Vec<NodeName> = self.record.slots.clone();
        for node in held {
            let cordoned = self.record.cordons.iter().any(|cordon| cordon.node == node);
            let worked_on =
                self.record.operations.iter().any(|operation| {
                    !operation.phase.is_final() && operation.steps.iter().any(|step| step.node == node)
                });
            if cordoned || worked_on {
                continue;
            }
            let ready = self.kube.node(&node).is_some_and(|seen| seen.ready == Ready::Yes);
            let outside = self.record.cluster.is_none();
            if ready || outside {
                self.record.slots.retain(|name| *name != node);
            }
        }
    }
}
