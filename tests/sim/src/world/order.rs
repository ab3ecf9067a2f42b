//! In which order things are to be done: a node is emptied before it is taken down, the others are reset and switched off before
//! the master. It reads Kubernetes, the power and the wire, never the cores.

use super::*;

/// What is known of the order of things.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    /// The nodes on which pods run: they come to whoever is ready and open, and go with a drain.
    pub(crate) pods: BTreeSet<NodeName>,
    /// Nodes that an operator let work onto again since they were cordoned last.
    opened: BTreeSet<NodeName>,
    /// Resets that were sent, by command, of which nobody has said how they ended: the operation and the node.
    resets: BTreeMap<String, (String, NodeName)>,
    /// In which boot each node was told to go off, by operation.
    told_off: BTreeMap<(String, NodeName), u32>,
    /// Nodes that were off when the wire said so: who is on again was switched on by somebody since.
    was_off: BTreeSet<(String, NodeName)>,
    /// Nodes that an operation has given up, as the wire says.
    given_up: BTreeSet<(String, NodeName)>,
    /// What the master was told since the last event.
    master_told: Vec<(String, Told)>,
}

/// What a master is told after all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    ToReset,
    ToGoOff,
}

impl World {
    /// Pods come to each node that is ready and open.
    pub(crate) fn pods_come(&mut self) {
        if !self.kube.serves(&self.pis[0]) {
            return;
        }
        for (node, object) in &self.kube.nodes {
            if !object.cordoned
                && self.now - object.heard < crate::kube::BELIEVES_MS
                && !self.orders.pods.contains(node)
            {
                self.orders.pods.insert(node.clone());
            }
        }
    }

    /// Kubernetes has cordoned a node, or emptied it.
    pub(crate) fn is_closed(&mut self, node: &NodeName) {
        self.orders.opened.remove(node);
    }

    /// An operator wants work on a node again, whatever is under way there.
    pub(super) fn is_opened(&mut self, node: &NodeName) {
        self.orders.opened.insert(node.clone());
    }

    /// A command goes out for the first time.
    pub(super) fn orders(&mut self, node: &NodeName, operation: &str, command: &Command) {
        let master = self.pis[0].name.clone();
        let takes_down = match &command.verb {
            Verb::Reset => {
                if *node == master {
                    self.orders.master_told.push((operation.to_owned(), Told::ToReset));
                } else {
                    let of = (operation.to_owned(), node.clone());
                    self.orders.resets.insert(command.id.as_str().to_owned(), of);
                }
                return;
            }
            Verb::PowerOff if self.kind_of(operation) == Some(OperationKind::Shutdown) => {
                if *node == master {
                    self.orders.master_told.push((operation.to_owned(), Told::ToGoOff));
                } else {
                    let boots = self.pis.iter().find(|pi| pi.name == *node).map_or(0, |pi| pi.boots);
                    self.orders.told_off.insert((operation.to_owned(), node.clone()), boots);
                }
                return;
            }
            Verb::Answer { .. } => {
                if *node == master && self.kind_of(operation) == Some(OperationKind::Shutdown) {
                    self.orders.master_told.push((operation.to_owned(), Told::ToGoOff));
                }
                return;
            }
            Verb::Stop => "its engine is stopped",
            Verb::Reboot => "it is restarted",
            Verb::PowerOff => "it is switched off",
            Verb::Upgrade { .. } => "its engine is replaced",
            Verb::Initialise { .. } | Verb::Join { .. } | Verb::Snapshot | Verb::AddOns | Verb::Identify { .. } => {
                return;
            }
        };
        let Some(summary) = self.summaries.get(operation) else { return };
        let empties = match summary.kind {
            OperationKind::Reboot
            | OperationKind::Upgrade
            | OperationKind::NodeReboot
            | OperationKind::NodeLeave
            | OperationKind::NodeShutdown => true,
            OperationKind::Create
            | OperationKind::Rebuild
            | OperationKind::Reset
            | OperationKind::Shutdown
            | OperationKind::Start
            | OperationKind::NodeDrain
            | OperationKind::NodeUncordon
            | OperationKind::NodeJoin
            | OperationKind::NodeReset
            | OperationKind::NodeIdentify => false,
        };
        // whoever stands at a button has it whatever becomes of the pods
        let ordered = summary.requested_by.as_str().starts_with("user:");
        let served = self.kube.cluster.clone().map(Kept::Member);
        let runs =
            self.pis.iter().any(|pi| pi.name == *node && pi.on && pi.running && Some(&pi.kept) == served.as_ref());
        if empties && ordered && runs && self.orders.pods.contains(node) && !self.orders.opened.contains(node) {
            self.fail(&format!("{node} is full of pods, and {takes_down}"));
        }
    }

    fn kind_of(&self, operation: &str) -> Option<OperationKind> {
        self.kinds.get(operation).copied().or_else(|| {
            // stored before its first command goes out; its coordinator may not have said it yet
            self.record.operations.iter().find(|held| held.id.as_str() == operation).map(|held| held.kind)
        })
    }

    /// A node says how a command of its ended.
    pub(crate) fn command_ended(&mut self, id: &str) {
        self.orders.resets.remove(id);
    }

    /// The wire says how far an operation is on a node.
    pub(super) fn sees_order(&mut self, report: &OperationNode) {
        let of = (report.id.as_str().to_owned(), report.node.clone());
        let is_off = self.pis.iter().any(|pi| pi.name == report.node && !pi.on);
        for step in &report.steps {
            let given_up = matches!(step.state, StepState::Failed | StepState::Skipped);
            match step.step {
                StepKind::Reset if given_up || step.state == StepState::Done => {
                    self.orders.resets.retain(|_, held| *held != of);
                }
                StepKind::PowerOff if given_up => {
                    self.orders.given_up.insert(of.clone());
                }
                StepKind::PowerOff if step.state == StepState::Done && is_off => {
                    self.orders.was_off.insert(of.clone());
                }
                _ => {}
            }
        }
    }

    /// What the master was told in this turn came after everybody else, as far as they could be heard. Asked when the turn is
    /// over: what the wire says of a node comes after what is asked of the next.
    pub(super) fn master_comes_last(&mut self) {
        for (operation, told) in core::mem::take(&mut self.orders.master_told) {
            if self.coordinator.is_none() {
                continue;
            }
            let left = self.pis.iter().skip(1).find(|pi| {
                let of = (operation.clone(), pi.name.clone());
                pi.on
                    && self.could_be_heard(pi)
                    && match told {
                        Told::ToReset => self.orders.resets.values().any(|held| *held == of),
                        Told::ToGoOff => {
                            let same_boot = self.orders.told_off.get(&of).is_none_or(|boots| *boots == pi.boots);
                            let goes = matches!(pi.phase, PowerPhase::HandingOver | PowerPhase::Halted);
                            let settled = self.orders.given_up.contains(&of) || self.orders.was_off.contains(&of);
                            same_boot && !goes && !settled
                        }
                    }
            });
            if let Some(left) = left.map(|pi| pi.name.clone()) {
                let what = match told {
                    Told::ToReset => "is reset",
                    Told::ToGoOff => "is switched off",
                };
                self.fail(&format!("the master {what}, and {left} is not done"));
            }
        }
    }
}
