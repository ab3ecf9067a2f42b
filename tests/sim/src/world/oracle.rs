//! What is asserted. It reads the simulated world and the wire, never the cores.

use super::*;

/// A node says every ten seconds that it is there; one of its words may be lost, and the next be late.
const HEARD_WITHIN_MS: u64 = 25_000;

/// Whether that is work that goes round the crew and may take down only as many as may be away. The check's own list: the cores' is
/// under test.
fn rolls(kind: OperationKind) -> bool {
    matches!(
        kind,
        OperationKind::Reboot
            | OperationKind::Upgrade
            | OperationKind::NodeReboot
            | OperationKind::NodeDrain
            | OperationKind::NodeLeave
            | OperationKind::NodeShutdown
    )
}

impl World {
    pub(super) fn check(&mut self) {
        let back = self.rolling_down.iter().filter(|(node, boots)| self.is_back(node, **boots));
        let back: Vec<NodeName> = back.map(|(node, _)| node.clone()).collect();
        for node in back {
            self.rolling_down.remove(&node);
        }
        // asked only now: what the wire says of the operation comes after what it asks for
        for node in core::mem::take(&mut self.asked_to_cordon) {
            // one that died in between has not said it
            if self.coordinator.is_some() {
                self.cordons(&node);
            }
        }
        for (operation, before) in core::mem::take(&mut self.sent_anew) {
            if self.coordinator.is_some() && !self.reopened.contains(&operation) {
                self.fail(&format!("another attempt is sent, and nobody knows what came of {before}"));
            }
        }
        self.master_comes_last();
        if let Some((id, runs)) = self.runs.iter().find(|(_, runs)| **runs > 1) {
            self.fail(&format!("the command {id} ran {runs} times"));
        }
        if self.exclusive.len() > 1 {
            let all = self.exclusive.clone();
            self.fail(&format!("two exclusive operations at once: {all:?}"));
        }
        if let Some(max) = self.max_down {
            let mut down: BTreeSet<NodeName> = self.rolling_down.keys().cloned().collect();
            down.extend(self.kube.cordoned().into_iter().filter(|node| !self.by_hand.contains(node)));
            if down.len() > max {
                self.fail(&format!("down or cordoned at once by rolling work: {down:?}"));
            }
        }
    }

    /// On in a boot after that one, its kubelet running, and Kubernetes says ready of this very boot. Or in no cluster, or in one
    /// that a rebuild has replaced by another while it was off: the new one is short of nobody.
    pub(crate) fn is_back(&self, node: &NodeName, boots: u32) -> bool {
        let Some(pi) = self.pis.iter().find(|pi| pi.name == *node) else { return false };
        let master = &self.pis[0];
        let outside = match (&pi.kept, &self.kube.cluster) {
            (Kept::Member(own), Some(served)) => own != served,
            (kept, _) => *kept == Kept::Blank,
        };
        outside || (pi.on && pi.boots > boots && pi.running && self.kube.is_ready(self.now, master, pi))
    }

    /// Rolling work that nobody forced has begun on a node: nothing may have kept it from there for long.
    pub(super) fn keeps_away(&mut self, report: &OperationNode) {
        let Some(since) = self.busy.get(&report.node).copied() else { return };
        let Some(summary) = self.summaries.get(report.id.as_str()) else { return };
        let rolling = rolls(summary.kind);
        let ordered = rolling && summary.requested_by.as_str().starts_with("user:");
        // what a coordinator says first of all, the one before it may have begun, who died before it could say so
        let decided = if self.now == self.coordinator_began { self.coordinator_ended } else { self.now };
        let for_long = decided.saturating_sub(since) > BLOCKED_FOR_SURE_MS;
        if ordered && !self.forced.contains(report.id.as_str()) && for_long {
            self.fail(&format!("{} is emptied, and a pod was to be left alone there", report.node));
        }
    }

    /// A command goes out.
    pub(super) fn sends(&mut self, node: &NodeName, command: &Command) {
        let Some(operation) = &command.operation else { return };
        let operation = operation.as_str().to_owned();
        // another attempt is another id, and there is one only where the attempt before has come to nothing. What a join needs
        // is not stored, so that one is made anew by a coordinator that has started again
        let (step, attempt) = command.id.as_str().rsplit_once('-').unwrap();
        let known = self.attempts.insert(step.to_owned(), attempt.to_owned());
        if known.as_deref() != Some(attempt) {
            self.orders(node, &operation, command);
        }
        let before = known.filter(|before| before != attempt);
        let before = before.map(|before| format!("{step}-{before}"));
        if let Some(before) = before.filter(|before| !self.ended_badly.contains(before)) {
            if !matches!(command.verb, Verb::Join { .. }) {
                self.sent_anew.push((operation.clone(), before));
            }
        }
        if !matches!(command.verb, Verb::Reset) {
            return;
        }
        let master = self.pis[0].name.clone();
        if *node == master {
            // the master is reset last: every other member was told before
            let cluster = self.pis[0].kept.clone();
            let left = self.pis.iter().skip(1).find(|pi| {
                let told = self.resets.contains(&(operation.clone(), pi.name.clone()));
                pi.on && self.could_be_heard(pi) && pi.running && pi.kept == cluster && !told
            });
            if let Some(left) = left.map(|pi| pi.name.clone()) {
                self.fail(&format!("the master is reset before {left}"));
            }
        }
        self.resets.insert((operation, node.clone()));
    }

    /// Whether the coordinator has had the time to hear a Pi: what it says first may get lost, and is said again.
    pub(super) fn could_be_heard(&self, pi: &Pi) -> bool {
        let since = pi.connected_at.max(self.coordinator_began);
        !self.broker_down && pi.cut_until <= self.now && self.now - since >= HEARD_WITHIN_MS
    }

    /// An operator has had an operation taken up again. One that was paused had not ended on the wire, so it is the answer that
    /// tells; it is stored before anything of it is done, and a coordinator may die before it says it.
    pub(super) fn sees_what_is_resumed(&mut self) {
        let resumed = self.record.answers.iter().filter(|answered| answered.code.as_str() == "resumed");
        let operations = resumed.filter_map(|answered| answered.operation.as_ref());
        self.reopened.extend(operations.map(|id| id.as_str().to_owned()));
    }

    /// What the wire says of an operation.
    pub(super) fn sees_operation(&mut self, summary: &OperationSummary) {
        self.reached.note("operation", summary.kind.as_str());
        self.reached.note("phase", summary.phase.as_str());
        let id = summary.id.as_str().to_owned();
        self.summaries.insert(id.clone(), summary.clone());
        self.kinds.insert(id.clone(), summary.kind);
        match &summary.node {
            Some(node) if summary.requested_by.as_str().starts_with("node:") && !summary.phase.is_final() => {
                self.pressed.insert(id.clone(), node.clone());
            }
            Some(_) | None => {
                self.pressed.remove(&id);
            }
        }
        if !summary.phase.is_final() && self.finished.contains(&id) {
            self.reopened.insert(id.clone());
        }
        if summary.phase.is_final() && self.finished.insert(id.clone()) {
            self.operations_done += 1;
        }
        if let (OperationKind::NodeUncordon, Some(node)) = (summary.kind, &summary.node) {
            self.is_opened(node);
        }
        if let (OperationKind::NodeUncordon, OperationPhase::Done, Some(node)) =
            (summary.kind, summary.phase, &summary.node)
        {
            // an operator has freed its slot
            self.rolling_down.remove(node);
        }
        if let (OperationKind::NodeDrain, OperationPhase::Done, Some(node)) =
            (summary.kind, summary.phase, &summary.node)
        {
            self.drained.insert(node.clone());
        }
        let local = summary.requested_by.as_str().starts_with("node:")
            && matches!(summary.kind, OperationKind::NodeShutdown | OperationKind::NodeReboot)
            // a slot is freed beside what runs
            || matches!(summary.kind, OperationKind::NodeIdentify | OperationKind::NodeUncordon);
        let runs = matches!(summary.phase, OperationPhase::Running | OperationPhase::Aborting);
        if runs && !local {
            self.exclusive.insert(id);
        } else {
            self.exclusive.remove(&id);
        }
    }

    /// Rolling work cordons a node: nobody else may be down or drained by it. Who goes down by a button, or was cordoned for a
    /// shutdown of all, is not its work.
    pub(super) fn cordons(&mut self, node: &NodeName) {
        let kinds: Vec<OperationKind> = self.exclusive.iter().filter_map(|id| self.kinds.get(id)).copied().collect();
        if kinds.contains(&OperationKind::Shutdown) {
            self.of_shutdown.insert(node.clone());
        }
        let pressed = self.pressed.values().any(|held| held == node);
        // what began in an earlier turn goes on, and is asked for again
        let turn = self.turns;
        let mut begins = false;
        for id in self.exclusive.clone() {
            begins |= *self.cordons_begun.entry((id, node.clone())).or_insert(turn) == turn;
        }
        let rolls = kinds.iter().copied().any(rolls);
        // nor does what is closed already: its coordinator may have died before the wire could say whose work that is
        let closed = self.kube.nodes.get(node).is_some_and(|object| object.cordoned);
        if pressed || !rolls || !begins || closed {
            return;
        }
        // the Node of one that was reset is nobody's work any more
        let member = |held: &NodeName| {
            let kept = self.kube.cluster.clone().map(Kept::Member);
            self.pis.iter().any(|pi| pi.name == *held && Some(&pi.kept) == kept.as_ref())
        };
        let counts = |held: &NodeName| held != node && !self.of_shutdown.contains(held);
        let mut others: BTreeSet<NodeName> = self.cordons_left().into_iter().filter(member).collect();
        others.extend(self.rolling_down.keys().cloned());
        others.retain(counts);
        if others.len() >= self.max_unavailable {
            self.fail(&format!("{node} is cordoned by rolling work while {others:?} are down or cordoned"));
        }
    }

    /// The cluster that every Pi is in, if they all are in the same one and it is served.
    pub(crate) fn common_cluster(&self) -> Option<ClusterId> {
        let Kept::Member(cluster) = &self.pis[0].kept else { return None };
        let all = self.pis.iter().all(|pi| pi.on && pi.running && pi.kept == Kept::Member(cluster.clone()));
        let ready = self.pis.iter().all(|pi| self.kube.is_ready(self.now, &self.pis[0], pi));
        (all && ready).then(|| cluster.clone())
    }

    /// Whether the last operation says of a node that it did not come off there.
    pub(crate) fn reported_lost(&self, node: &NodeName) -> bool {
        // a summary names a few; each node's own topic tells the rest
        let in_summary =
            || self.summaries.values().flat_map(|summary| &summary.failures).any(|held| held.node == *node);
        self.steps_failed.iter().any(|(_, held)| held == node) || in_summary()
    }

    /// Whether the coordinator was shown that a node is cordoned.
    pub(crate) fn sees_cordon(&self, node: &NodeName) -> bool {
        let shown = self.kube.shown.as_ref().and_then(|view| view.node(node));
        self.coordinator.is_some() && shown.is_some_and(|seen| seen.scheduling == Scheduling::Cordoned)
    }

    /// Whether the wire shows an operation that is paused.
    pub(crate) fn is_paused(&self) -> bool {
        self.summaries.values().any(|summary| summary.phase == OperationPhase::Paused)
    }

    /// Whether a drain that is done has left this node cordoned, to stay so.
    pub(crate) fn drained_to_stay(&self, index: usize) -> bool {
        let node = &self.pis[index].name;
        self.drained.contains(node) && self.cordons_left().contains(node)
    }

    /// Whether a node is cordoned whose reset failed: it keeps its slot until somebody frees it.
    pub(crate) fn half_reset(&self, index: usize) -> bool {
        let pi = &self.pis[index];
        pi.kept == Kept::HalfReset && self.cordons_left().contains(&pi.name)
    }

    /// Nobody but `by_hand` is cordoned.
    pub(crate) fn cordons_left(&self) -> Vec<NodeName> {
        self.kube.cordoned().into_iter().filter(|node| !self.by_hand.contains(node)).collect()
    }

    /// Whether the coordinator says of any node that it holds a slot.
    pub(crate) fn slots_held(&self) -> bool {
        self.shown.as_ref().is_none_or(|state| state.members.iter().any(|member| member.slot == Slot::Held))
    }
}
