//! Progress of an operation, from its reported steps and from nothing else: no guess, no clock. A line for each change
//! of a step and for each word of how far a drain is, and where there is a terminal a bar below them.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};

use beehive_mqtt::coordinator::{OperationPhase, StepKind, StepState};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::model::OperationView;
use super::render::clean;

/// Turns the reports of one operation into lines, each change once.
#[derive(Debug, Default)]
pub struct Tracker {
    steps: BTreeMap<u16, StepState>,
    /// What was last said of a running drain: it may take minutes, and says pod by pod how far it is.
    drains: BTreeMap<u16, String>,
    phase: Option<OperationPhase>,
}

impl Tracker {
    /// The lines for what changed since the last call. Steps that wait for their turn are not worth one.
    pub fn changes(&mut self, operation: &OperationView) -> Vec<String> {
        let mut lines = Vec::new();
        let (_, total) = operation.ended_of_total();
        let width = total.max(10).to_string().len();
        for (node, step) in operation.steps() {
            let reason = operation.nodes.get(node).map_or("", |of| of.reason.as_str());
            let same = self.steps.insert(step.number, step.state) == Some(step.state);
            let moved = step.step == StepKind::Drain
                && step.state == StepState::Running
                && self.drains.insert(step.number, reason.to_owned()).is_some_and(|before| before != reason);
            if (same && !moved) || step.state == StepState::Pending {
                continue;
            }
            let told = matches!(step.state, StepState::Failed | StepState::Running) && !reason.is_empty();
            let reason = if told { format!(": {}", clean(reason)) } else { String::new() };
            let of = if total == 0 { String::new() } else { format!("/{total}") };
            lines.push(format!(
                "[{:>width$}{of}] {:<8} {:<12} {node}{reason}",
                step.number,
                step.state.as_str(),
                step.step.as_str(),
            ));
        }
        if let Some(summary) = &operation.summary {
            let before = self.phase.replace(summary.phase);
            if before != Some(summary.phase) {
                match summary.phase {
                    OperationPhase::Paused => {
                        lines.push(format!("{} paused: another operation goes first", summary.kind))
                    }
                    OperationPhase::Aborting => {
                        lines.push(format!("{} is called off; the steps that run come to their end", summary.kind));
                    }
                    OperationPhase::Running if before.is_some() => lines.push(format!("{} goes on", summary.kind)),
                    // the end has its own words on standard output
                    OperationPhase::Running
                    | OperationPhase::Done
                    | OperationPhase::Failed
                    | OperationPhase::Aborted
                    | OperationPhase::PartlyDone => {}
                }
            }
        }
        lines
    }
}

/// What stands beside the bar: the steps that run.
pub fn now_running(operation: &OperationView) -> String {
    let running: Vec<String> = operation.running().iter().map(|(node, step)| format!("{} {node}", step.step)).collect();
    match running.as_slice() {
        [] => "waiting".to_owned(),
        [one] => one.clone(),
        [one, two] => format!("{one}, {two}"),
        [one, two, more @ ..] => format!("{one}, {two} and {} more", more.len()),
    }
}

/// Shows progress on standard error: a bar on a terminal, plain lines elsewhere.
pub struct Reporter {
    tracker: Tracker,
    bar: Option<ProgressBar>,
}

impl Reporter {
    /// A reporter for one operation.
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            // the template is a constant and valid; the default style would do too
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self { tracker: Tracker::default(), bar }
    }

    /// Shows what changed.
    pub fn show(&mut self, operation: &OperationView) {
        for line in self.tracker.changes(operation) {
            self.line(&line);
        }
        if let Some(bar) = &self.bar {
            let (ended, total) = operation.ended_of_total();
            bar.set_length(u64::from(total));
            bar.set_position(u64::from(ended));
            bar.set_message(now_running(operation));
        }
    }

    /// Shows how many of how many parts are done, and what is done now.
    pub fn at(&self, done: usize, of: usize, now: &str) {
        if let Some(bar) = &self.bar {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
            bar.set_message(now.to_owned());
        }
    }

    /// Shows a line of its own.
    pub fn line(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => {
                // progress that nobody can read is no reason to end
                let _ = writeln!(std::io::stderr(), "{line}");
            }
        }
    }
}

impl Default for Reporter {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::CrewView;
    use super::super::model::tests::{operation, steps, steps_that_wait, summary};
    use super::*;
    use crate::link::Retained;

    #[test]
    fn each_change_of_a_step_is_told_once() {
        let mut view = CrewView::new();
        let mut tracker = Tracker::default();
        let id = "op-1".parse().unwrap();
        view.apply(0, &operation(&summary("op-1", OperationPhase::Running, 1), Retained::No));
        let plan = [(1, StepKind::Snapshot, StepState::Running), (2, StepKind::Reset, StepState::Pending)];
        view.apply(0, &steps("op-1", "pi-1", 1, &plan));
        assert_eq!(tracker.changes(view.operation_by_id(&id).unwrap()), ["[ 1/6] running  snapshot     pi-1"]);
        assert_eq!(now_running(view.operation_by_id(&id).unwrap()), "snapshot pi-1");
        assert!(tracker.changes(view.operation_by_id(&id).unwrap()).is_empty());
        let plan = [(1, StepKind::Snapshot, StepState::Done), (2, StepKind::Reset, StepState::Failed)];
        view.apply(0, &steps("op-1", "pi-1", 2, &plan));
        assert_eq!(
            tracker.changes(view.operation_by_id(&id).unwrap()),
            ["[ 1/6] done     snapshot     pi-1", "[ 2/6] failed   reset        pi-1"]
        );
        assert_eq!(now_running(view.operation_by_id(&id).unwrap()), "waiting");
        view.apply(0, &operation(&summary("op-1", OperationPhase::Paused, 3), Retained::No));
        assert_eq!(
            tracker.changes(view.operation_by_id(&id).unwrap()),
            ["rebuild paused: another operation goes first"]
        );
        view.apply(0, &operation(&summary("op-1", OperationPhase::Running, 4), Retained::No));
        assert_eq!(tracker.changes(view.operation_by_id(&id).unwrap()), ["rebuild goes on"]);
    }

    #[test]
    fn how_far_a_drain_is_is_told_as_it_goes_on() {
        let mut view = CrewView::new();
        let mut tracker = Tracker::default();
        let id = "op-1".parse().unwrap();
        view.apply(0, &operation(&summary("op-1", OperationPhase::Running, 1), Retained::No));
        let mut lines = Vec::new();
        for (number, kind, reason) in [
            (1, StepKind::Drain, "waits for the API server"),
            (1, StepKind::Drain, "1 of 3 pods gone, 2 ending"),
            (1, StepKind::Drain, "1 of 3 pods gone, 2 ending"),
            (2, StepKind::Stop, "waits for the node"),
            (2, StepKind::Stop, "waits for its answer"),
        ] {
            view.apply(0, &steps_that_wait("op-1", "pi-1", 1, &[(number, kind, StepState::Running)], reason));
            lines.extend(tracker.changes(view.operation_by_id(&id).unwrap()));
        }
        assert_eq!(
            lines,
            [
                "[ 1/6] running  drain        pi-1: waits for the API server",
                "[ 1/6] running  drain        pi-1: 1 of 3 pods gone, 2 ending",
                "[ 2/6] running  stop         pi-1: waits for the node",
            ]
        );
    }

    #[test]
    fn many_running_steps_are_counted() {
        let mut view = CrewView::new();
        for number in 1..=4u16 {
            view.apply(0, &steps("op-1", &format!("pi-{number}"), 1, &[(number, StepKind::Join, StepState::Running)]));
        }
        let shown = now_running(view.operation_by_id(&"op-1".parse().unwrap()).unwrap());
        assert_eq!(shown, "join pi-1, join pi-2 and 2 more");
    }
}
