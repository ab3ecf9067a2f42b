//! Operations as steps in stages. A step begins when every step of lower stages has ended and this node's earlier steps
//! are done. Plans are made from what is known at that moment, shown by `--dry-run`, and stored before they are acted on.
//!
//! | operation | stages |
//! | --- | --- |
//! | create | initialise the master and wait until it is ready; then the nodes join; then the add-ons |
//! | rebuild | snapshot; reset the nodes; reset the master; then as create: the master is reset last and initialised first |
//! | reset | reset the nodes; reset the master |
//! | reboot | one Pi after the other, the master last: cordon, drain, reboot, wait until ready in a new boot, uncordon |
//! | upgrade | snapshot; then one member after the other, the master first: cordon, drain, upgrade, wait until ready at that version, uncordon |
//! | shutdown | cordon the nodes (nothing is evicted); switch them off; then the master |
//! | start | wait for each Pi that is off, all at once; then until its kubelet is ready |
//! | node leave | cordon, drain, stop, delete the Node, reset: a node that is reset before its Node is gone cannot come back; then make sure that the Node stayed away |

use alloc::vec::Vec;
use beehive_mqtt::coordinator::StepKind;
use beehive_mqtt::node::{EngineRun, Want};
use beehive_mqtt::{NodeName, Text};
use serde::{Deserialize, Serialize};

/// What a failure of a step means for its operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// The operation has no sense without it: nothing more begins.
    Essential,
    /// This node is left behind, the others go on.
    Local,
    /// The operation goes on as if it had been done; the failure is reported.
    BestEffort,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedStep {
    /// What.
    pub kind: StepKind,
    /// To which node.
    pub node: NodeName,
    /// Its stage.
    pub stage: u16,
    /// What its failure means.
    pub weight: Weight,
}

/// What is known of a node when a plan is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanNode {
    /// Its name.
    pub name: NodeName,
    /// Whether it is in the cluster.
    pub belongs: Belongs,
    /// Whether something of an earlier cluster is left on it.
    pub clean: Clean,
    /// Whether Kubernetes still has a Node of that name, though the Pi is in no cluster.
    pub ghost: Ghost,
    /// Whether its engine runs.
    pub engine: EngineRun,
}

impl PlanNode {
    /// Taken for a member, though nobody has said so: its Node is then its own and no ghost.
    pub(crate) fn passing_for_member(self) -> Self {
        Self { belongs: Belongs::Inside, ghost: Ghost::Absent, ..self }
    }
}

/// In the cluster or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Belongs {
    /// A member.
    Inside,
    /// Not.
    Outside,
}

/// Clean or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clean {
    /// Nothing is left of an earlier cluster.
    Yes,
    /// Something is.
    No,
}

/// A Node object without a Pi behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ghost {
    /// There is one: a join would be refused.
    Present,
    /// There is none.
    Absent,
}

/// A plan under construction.
#[derive(Debug, Default)]
struct Plan {
    steps: Vec<PlannedStep>,
    stage: u16,
}

impl Plan {
    fn add(&mut self, kind: StepKind, node: &NodeName, weight: Weight) {
        self.steps.push(PlannedStep { kind, node: node.clone(), stage: self.stage, weight });
    }

    fn next_stage(&mut self) {
        if self.steps.last().is_some_and(|step| step.stage == self.stage) {
            self.stage += 1;
        }
    }

    /// A member whose engine was stopped, by a leave that went no further, is started by joining once more.
    fn join(&mut self, node: &PlanNode, weight: Weight) {
        if node.ghost == Ghost::Present {
            self.add(StepKind::DeleteNode, &node.name, weight);
        }
        if node.clean == Clean::No {
            self.add(StepKind::Reset, &node.name, weight);
        }
        self.add(StepKind::Join, &node.name, weight);
        self.add(StepKind::WaitReady, &node.name, weight);
    }

    fn initialise(&mut self, master: &NodeName) {
        self.add(StepKind::Initialise, master, Weight::Essential);
        self.add(StepKind::WaitReady, master, Weight::Essential);
    }

    fn reboot(&mut self, node: &PlanNode) {
        match node.belongs {
            Belongs::Inside => {
                self.add(StepKind::Cordon, &node.name, Weight::Essential);
                self.add(StepKind::Drain, &node.name, Weight::Essential);
                self.add(StepKind::Reboot, &node.name, Weight::Essential);
                self.add(StepKind::WaitReady, &node.name, Weight::Essential);
                self.add(StepKind::Uncordon, &node.name, Weight::Essential);
            }
            Belongs::Outside => self.add(StepKind::Reboot, &node.name, Weight::Essential),
        }
    }
}

/// Make the cluster, or bring those in that are still outside.
pub fn create(master: &PlanNode, nodes: &[PlanNode]) -> Vec<PlannedStep> {
    let mut plan = Plan::default();
    if master.belongs == Belongs::Outside {
        if master.clean == Clean::No {
            plan.add(StepKind::Reset, &master.name, Weight::Essential);
        }
        plan.initialise(&master.name);
    }
    plan.next_stage();
    for node in nodes.iter().filter(|node| node.belongs == Belongs::Outside || node.engine == EngineRun::Stopped) {
        plan.join(node, Weight::Local);
    }
    if !plan.steps.is_empty() {
        plan.next_stage();
        plan.add(StepKind::AddOns, &master.name, Weight::Local);
    }
    plan.steps
}

/// Tear the cluster down and make it again. `snapshot` is what a failure to keep a copy means: where the cluster is broken
/// there may be nothing to copy.
pub fn rebuild(master: &PlanNode, nodes: &[PlanNode], snapshot: Weight) -> Vec<PlannedStep> {
    let mut plan = Plan::default();
    if master.belongs == Belongs::Inside {
        plan.add(StepKind::Snapshot, &master.name, snapshot);
        plan.next_stage();
    }
    teardown(&mut plan, master, nodes);
    plan.next_stage();
    plan.initialise(&master.name);
    plan.next_stage();
    for node in nodes {
        plan.add(StepKind::Join, &node.name, Weight::Local);
        plan.add(StepKind::WaitReady, &node.name, Weight::Local);
    }
    plan.next_stage();
    plan.add(StepKind::AddOns, &master.name, Weight::Local);
    plan.steps
}

fn teardown(plan: &mut Plan, master: &PlanNode, nodes: &[PlanNode]) {
    for node in nodes {
        plan.add(StepKind::Reset, &node.name, Weight::Local);
    }
    plan.next_stage();
    plan.add(StepKind::Reset, &master.name, Weight::Essential);
}

/// Tear the cluster down.
pub fn reset(master: &PlanNode, nodes: &[PlanNode]) -> Vec<PlannedStep> {
    let mut plan = Plan::default();
    teardown(&mut plan, master, nodes);
    plan.steps
}

/// Restart one Pi after the other, the master last.
pub fn reboot(master: &PlanNode, nodes: &[PlanNode]) -> Vec<PlannedStep> {
    let mut plan = Plan::default();
    for node in nodes {
        plan.reboot(node);
        plan.next_stage();
    }
    plan.reboot(master);
    plan.steps
}

/// Bring the engine of these members to another version, one after the other, the master first: no kubelet may be newer than
/// its API server. `snapshot` is what a failure to keep a copy means.
pub fn upgrade(master: &NodeName, members: &[PlanNode], snapshot: Weight) -> Vec<PlannedStep> {
    let mut plan = Plan::default();
    if members.is_empty() {
        return plan.steps;
    }
    plan.add(StepKind::Snapshot, master, snapshot);
    let (masters, nodes): (Vec<_>, Vec<_>) = members.iter().partition(|member| member.name == *master);
    for member in masters.into_iter().chain(nodes) {
        plan.next_stage();
        for kind in [StepKind::Cordon, StepKind::Drain, StepKind::Upgrade, StepKind::WaitReady, StepKind::Uncordon] {
            plan.add(kind, &member.name, Weight::Essential);
        }
    }
    plan.steps
}

/// Switch every Pi off, the master last. `end` is how the master goes: told to, or let go because its button asked.
pub fn shutdown(master: &PlanNode, nodes: &[PlanNode], end: MasterEnd) -> Vec<PlannedStep> {
    let mut plan = Plan { steps: shutdown_of(nodes, 0), stage: 0 };
    plan.next_stage();
    // the master goes whatever became of the nodes: it has waited for them, bounded by their steps' deadlines
    let last = match end {
        MasterEnd::Commanded => StepKind::PowerOff,
        MasterEnd::LetGo => StepKind::LetGo,
    };
    plan.add(last, &master.name, Weight::Local);
    plan.steps
}

/// The part of [`shutdown`] before the master's: these nodes, in this stage.
pub fn shutdown_of(nodes: &[PlanNode], stage: u16) -> Vec<PlannedStep> {
    let mut plan = Plan { steps: Vec::new(), stage };
    for node in nodes {
        if node.belongs == Belongs::Inside {
            plan.add(StepKind::Cordon, &node.name, Weight::BestEffort);
        }
        plan.add(StepKind::PowerOff, &node.name, Weight::Local);
    }
    plan.steps
}

/// Wait for those that are off or not ready. Nothing here wakes a Pi: people or a switch do.
pub fn start(away: &[PlanNode]) -> Vec<PlannedStep> {
    let mut plan = Plan::default();
    for node in away {
        plan.add(StepKind::WaitUp, &node.name, Weight::Local);
        if node.belongs == Belongs::Inside {
            plan.add(StepKind::WaitReady, &node.name, Weight::Local);
        }
    }
    plan.steps
}

/// How the master ends a shutdown of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MasterEnd {
    /// It is told to.
    Commanded,
    /// Its own button asked for it, and it waits for the answer.
    LetGo,
}

/// Cordon and empty one node.
pub fn node_drain(node: &NodeName) -> Vec<PlannedStep> {
    let mut plan = Plan::default();
    plan.add(StepKind::Cordon, node, Weight::Essential);
    plan.add(StepKind::Drain, node, Weight::Essential);
    plan.steps
}

/// Let work onto one node again.
pub fn node_uncordon(node: &NodeName) -> Vec<PlannedStep> {
    let mut plan = Plan::default();
    plan.add(StepKind::Uncordon, node, Weight::Essential);
    plan.steps
}

/// Bring one node in.
pub fn node_join(node: &PlanNode) -> Vec<PlannedStep> {
    let mut plan = Plan::default();
    plan.join(node, Weight::Essential);
    plan.steps
}

/// Take one node out.
pub fn node_leave(node: &NodeName) -> Vec<PlannedStep> {
    leave(node, Weight::Essential)
}

fn leave(node: &NodeName, emptying: Weight) -> Vec<PlannedStep> {
    let mut plan = Plan::default();
    for kind in [StepKind::Cordon, StepKind::Drain] {
        plan.add(kind, node, emptying);
    }
    // deleted once more at the end: a Pi that restarts in between starts its engine, and that registers it anew
    for kind in [StepKind::Stop, StepKind::DeleteNode, StepKind::Reset, StepKind::DeleteNode] {
        plan.add(kind, node, Weight::Essential);
    }
    plan.steps
}

/// Clean one node whatever state it is in, and remove what Kubernetes still has of it.
pub fn node_reset(node: &PlanNode) -> Vec<PlannedStep> {
    let mut plan = Plan::default();
    if node.belongs == Belongs::Inside || node.ghost == Ghost::Present {
        plan.add(StepKind::Stop, &node.name, Weight::BestEffort);
        plan.add(StepKind::DeleteNode, &node.name, Weight::BestEffort);
    }
    plan.add(StepKind::Reset, &node.name, Weight::Essential);
    if node.belongs == Belongs::Inside || node.ghost == Ghost::Present {
        plan.add(StepKind::DeleteNode, &node.name, Weight::BestEffort);
    }
    plan.steps
}

/// Restart one Pi.
pub fn node_reboot(node: &PlanNode) -> Vec<PlannedStep> {
    let mut plan = Plan::default();
    plan.reboot(node);
    plan.steps
}

/// Switch one Pi off.
pub fn node_shutdown(node: &PlanNode) -> Vec<PlannedStep> {
    let mut plan = Plan::default();
    if node.belongs == Belongs::Inside {
        plan.add(StepKind::Cordon, &node.name, Weight::Essential);
        plan.add(StepKind::Drain, &node.name, Weight::Essential);
    }
    plan.add(StepKind::PowerOff, &node.name, Weight::Essential);
    plan.steps
}

/// Let one Pi be found.
pub fn node_identify(node: &NodeName) -> Vec<PlannedStep> {
    let mut plan = Plan::default();
    plan.add(StepKind::Identify, node, Weight::Essential);
    plan.steps
}

/// Empty a node that goes down by itself (its button was pressed), then let it go; it goes whatever becomes of that.
pub fn local(node: &PlanNode, want: Want) -> Vec<PlannedStep> {
    let mut plan = Plan::default();
    match want {
        Want::PowerOff | Want::Reboot => {
            if node.belongs == Belongs::Inside {
                plan.add(StepKind::Cordon, &node.name, Weight::BestEffort);
                plan.add(StepKind::Drain, &node.name, Weight::BestEffort);
            }
            plan.add(StepKind::LetGo, &node.name, Weight::Essential);
            plan.steps
        }
        // somebody stands there and wants it clean
        Want::Leave => leave(&node.name, Weight::BestEffort),
    }
}

/// The text of a step in plans and events.
pub fn describe(kind: StepKind, node: &NodeName) -> Text<120> {
    Text::format(format_args!("{kind} {node}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, belongs: Belongs) -> PlanNode {
        let (clean, ghost, engine) = (Clean::Yes, Ghost::Absent, EngineRun::Running);
        PlanNode { name: name.parse().unwrap(), belongs, clean, ghost, engine }
    }

    fn words(steps: &[PlannedStep]) -> Vec<alloc::string::String> {
        steps.iter().map(|step| alloc::format!("{} {} {}", step.stage, step.kind, step.node)).collect()
    }

    #[test]
    fn rebuild_resets_the_master_last_and_initialises_it_first() {
        let plan = rebuild(
            &node("m", Belongs::Inside),
            &[node("a", Belongs::Inside), node("b", Belongs::Outside)],
            Weight::Essential,
        );
        assert_eq!(
            words(&plan),
            [
                "0 snapshot m",
                "1 reset a",
                "1 reset b",
                "2 reset m",
                "3 initialise m",
                "3 wait_ready m",
                "4 join a",
                "4 wait_ready a",
                "4 join b",
                "4 wait_ready b",
                "5 add_ons m",
            ]
        );
    }

    #[test]
    fn create_of_what_is_there_is_empty() {
        assert!(create(&node("m", Belongs::Inside), &[node("a", Belongs::Inside)]).is_empty());
        let plan = create(&node("m", Belongs::Outside), &[node("a", Belongs::Outside)]);
        assert_eq!(words(&plan), ["0 initialise m", "0 wait_ready m", "1 join a", "1 wait_ready a", "2 add_ons m"]);
    }

    #[test]
    fn a_join_waits_until_the_old_node_is_gone_and_the_card_is_clean() {
        let ghost = PlanNode { clean: Clean::No, ghost: Ghost::Present, ..node("a", Belongs::Outside) };
        assert_eq!(words(&node_join(&ghost)), ["0 delete_node a", "0 reset a", "0 join a", "0 wait_ready a"]);
    }

    #[test]
    fn a_shutdown_ends_with_the_master_and_evicts_nothing() {
        let plan = shutdown(&node("m", Belongs::Inside), &[node("a", Belongs::Inside)], MasterEnd::Commanded);
        assert_eq!(words(&plan), ["0 cordon a", "0 power_off a", "1 power_off m"]);
    }

    #[test]
    fn an_upgrade_begins_with_the_master_and_takes_one_after_the_other() {
        let members = [node("a", Belongs::Inside), node("m", Belongs::Inside)];
        assert_eq!(
            words(&upgrade(&members[1].name, &members, Weight::Essential)),
            [
                "0 snapshot m",
                "1 cordon m",
                "1 drain m",
                "1 upgrade m",
                "1 wait_ready m",
                "1 uncordon m",
                "2 cordon a",
                "2 drain a",
                "2 upgrade a",
                "2 wait_ready a",
                "2 uncordon a",
            ]
        );
        assert!(upgrade(&members[1].name, &[], Weight::Essential).is_empty());
    }

    #[test]
    fn a_start_waits_for_each_pi_and_for_the_kubelets_of_members() {
        let plan = start(&[node("a", Belongs::Inside), node("b", Belongs::Outside)]);
        assert_eq!(words(&plan), ["0 wait_up a", "0 wait_ready a", "0 wait_up b"]);
    }

    #[test]
    fn the_largest_plan_fits_into_an_answer() {
        let nodes: Vec<_> =
            (1..beehive_mqtt::MAX_NODES).map(|number| node(&alloc::format!("n{number}"), Belongs::Inside)).collect();
        let plan = reboot(&node("m", Belongs::Inside), &nodes);
        assert!(plan.len() <= beehive_mqtt::console::MAX_PLAN_STEPS);
        let all: Vec<_> = nodes.iter().cloned().chain([node("m", Belongs::Inside)]).collect();
        let plan = upgrade(&all[all.len() - 1].name, &all, Weight::Essential);
        assert!(plan.len() <= beehive_mqtt::console::MAX_PLAN_STEPS, "{}", plan.len());
        assert!(
            rebuild(&node("m", Belongs::Inside), &nodes, Weight::Essential).len()
                <= beehive_mqtt::console::MAX_PLAN_STEPS
        );
    }
}
