//! Which Pis are brought to which version, in which order, and what stands in the way. Pure.

use std::collections::BTreeMap;

use beehive_mqtt::NodeName;
use serde::Serialize;

use crate::release::package::Architecture;
use crate::release::version::{ReleaseVersion, Running, side_by_side};

/// What a Pi says of the releases on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Its processor; nothing if releases are made for no such one.
    pub architecture: Option<Architecture>,
    /// The release in use; nothing before the first.
    pub current: Option<Running>,
    /// The one before.
    pub previous: Option<Running>,
    /// The release on trial.
    pub trial: Option<ReleaseVersion>,
}

/// One Pi before anything is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pi {
    /// Its name.
    pub node: NodeName,
    /// What it says of its releases; or why it could not be asked.
    pub facts: Result<Facts, String>,
    /// The version that its daemon signed in its `info`.
    pub running: Option<String>,
    /// Why it is not ready; nothing if it is.
    pub unready: Option<String>,
}

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// This release.
    Release {
        /// What it is.
        running: Running,
        /// What it has programs for.
        architectures: Vec<Architecture>,
    },
    /// The version before.
    Back,
}

/// What is done with one Pi.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    /// Nothing: it is there.
    Skip,
    /// Its trial goes on; its end is waited for.
    Await,
    /// It is changed.
    Change,
}

/// One Pi's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Which.
    pub node: NodeName,
    /// The version in use.
    pub from: ReleaseVersion,
    /// The version that is wanted.
    pub to: ReleaseVersion,
    /// What is done.
    pub deed: Deed,
}

/// Whether `--force` sets a rule aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// It does.
    Helps,
    /// It does not.
    HelpsNot,
}

/// What stands in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// The rule's name.
    pub rule: &'static str,
    /// What it is about.
    pub why: String,
    /// Whether `--force` sets it aside.
    pub force: Force,
}

/// The plan, and what stands in its way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
    /// Nothing is done while one of these is not set aside.
    pub obstacles: Vec<Obstacle>,
}

impl Plan {
    fn obstacle(&mut self, rule: &'static str, force: Force, why: String) {
        self.obstacles.push(Obstacle { rule, why, force });
    }
}

/// Makes the plan for the Pis that `scope` names, or for all if it names none. `pis` has every member of the crew, and
/// `master` among them; `operation` is one that runs.
pub fn plan(pis: &[Pi], master: &NodeName, scope: &[NodeName], goal: &Goal, operation: Option<&str>) -> Plan {
    let mut plan = Plan::default();
    if let Some(operation) = operation {
        let why = format!("{operation} runs; wait for its end, or `beehive cluster abort`");
        plan.obstacle("operation-running", Force::HelpsNot, why);
    }
    let wanted = |pi: &&Pi| scope.is_empty() || scope.contains(&pi.node);
    let (first, others): (Vec<&Pi>, Vec<&Pi>) = pis.iter().partition(|pi| pi.node == *master);
    let order: Vec<&Pi> = match goal {
        Goal::Release { .. } => first.into_iter().chain(others).filter(wanted).collect(),
        Goal::Back => others.into_iter().chain(first).filter(wanted).collect(),
    };
    let mut runs: BTreeMap<&NodeName, Running> = BTreeMap::new();
    for pi in pis {
        match &pi.facts {
            Ok(Facts { current: Some(current), .. }) => {
                runs.insert(&pi.node, current.clone());
            }
            // said below, where it is to be changed
            Ok(Facts { current: None, .. }) => {}
            Err(why) => {
                let force = if wanted(&pi) { Force::HelpsNot } else { Force::Helps };
                plan.obstacle("no-answer", force, format!("{} cannot be asked for its releases: {why}", pi.node));
            }
        }
    }
    let back = way_back(pis, master);
    for pi in order {
        let Ok(facts) = &pi.facts else { continue };
        let node = &pi.node;
        let Some(from) = facts.current.clone() else {
            let why = format!("{node} uses no release yet; docs/upgrade.md says how the first one gets there");
            plan.obstacle("not-set-up", Force::HelpsNot, why);
            continue;
        };
        let to = match goal {
            Goal::Release { running, architectures } => {
                if !facts.architecture.is_some_and(|architecture| architectures.contains(&architecture)) {
                    let kind =
                        facts.architecture.map_or("a processor that releases are not made for", Architecture::as_str);
                    let why = format!("{node} is {kind}, and the release has no programs for it");
                    plan.obstacle("no-binary", Force::HelpsNot, why);
                }
                running.clone()
            }
            Goal::Back => match &back {
                Some(back) => back.clone(),
                None => from.clone(),
            },
        };
        let deed = match &facts.trial {
            Some(trial) if *trial == to.version && from.version == to.version => Deed::Await,
            Some(trial) if matches!(goal, Goal::Release { .. }) => {
                plan.obstacle(
                    "on-trial",
                    Force::HelpsNot,
                    format!("{node} has {trial} on trial; wait for its end, or roll back"),
                );
                continue;
            }
            Some(_) | None if from.version == to.version => Deed::Skip,
            Some(_) | None => Deed::Change,
        };
        if deed == Deed::Change {
            let is_previous = facts.previous.as_ref().is_some_and(|previous| previous.version == to.version);
            match goal {
                Goal::Back if !is_previous => {
                    let why = format!("{node} uses {} and has no {} to go back to", from.version, to.version);
                    plan.obstacle("no-previous", Force::HelpsNot, why);
                }
                Goal::Release { .. } if to.version < from.version && !is_previous => {
                    let why = format!(
                        "{node} uses {}, which is newer than {}; the one way down leads to the version before \
                         (`beehive crew upgrade --rollback`)",
                        from.version, to.version
                    );
                    plan.obstacle("downgrade", Force::HelpsNot, why);
                }
                Goal::Back | Goal::Release { .. } => {}
            }
            if pi.running.as_deref() != Some(from.version.as_str()) {
                let said = pi.running.as_deref().unwrap_or("nothing");
                let why = format!(
                    "{node} says that it runs {said}, and {} is in use on its card: its unit starts another program, or was not \
                     restarted; docs/upgrade.md",
                    from.version
                );
                plan.obstacle("other-program", Force::HelpsNot, why);
            }
            if let Some(unready) = &pi.unready {
                plan.obstacle("not-ready", Force::Helps, format!("{node} is not ready: {unready}"));
            }
        }
        plan.steps.push(Step { node: node.clone(), from: from.version, to: to.version.clone(), deed });
        // as it is after this step
        runs.insert(node, to);
        if deed == Deed::Change {
            skew(&mut plan, &runs, master, node);
        }
    }
    plan
}

/// Looks at everybody who would be beside `changed`.
fn skew(plan: &mut Plan, runs: &BTreeMap<&NodeName, Running>, master: &NodeName, changed: &NodeName) {
    let Some(coordinator) = runs.get(master) else { return };
    for (node, running) in runs.iter().filter(|(node, _)| **node != master) {
        if *node != changed && master != changed {
            continue;
        }
        if let Err(skew) = side_by_side(coordinator, running) {
            let why = format!("when {changed} is changed, {master} would coordinate {node}: {skew}");
            plan.obstacle("skew", Force::HelpsNot, why);
            return;
        }
    }
}

/// Where the way back of the whole crew leads: to the master's version before, or to the master's version where it has gone
/// back already (it goes last).
fn way_back(pis: &[Pi], master: &NodeName) -> Option<Running> {
    let facts = pis.iter().find(|pi| pi.node == *master)?.facts.as_ref().ok()?;
    facts.previous.clone().or_else(|| facts.current.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::version::Protocols;

    fn run(version: &str, oldest: u8, newest: u8) -> Running {
        Running { version: version.parse().unwrap(), protocol: Protocols::new(oldest, newest).unwrap() }
    }

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    fn pi(node: &str, current: Running, previous: Running) -> Pi {
        Pi {
            node: name(node),
            running: Some(current.version.to_string()),
            facts: Ok(Facts {
                architecture: Some(Architecture::Armv7),
                current: Some(current),
                previous: Some(previous),
                trial: None,
            }),
            unready: None,
        }
    }

    fn crew() -> Vec<Pi> {
        ["pi-1", "pi-2", "pi-3"].map(|node| pi(node, run("1.0.0", 1, 1), run("0.9.0", 1, 1))).to_vec()
    }

    fn to(running: Running) -> Goal {
        Goal::Release { running, architectures: vec![Architecture::Armv7] }
    }

    fn make(pis: &[Pi], scope: &[&str], goal: &Goal) -> Plan {
        plan(pis, &name("pi-1"), &scope.iter().map(|node| name(node)).collect::<Vec<_>>(), goal, None)
    }

    fn deeds(plan: &Plan) -> Vec<(&str, Deed)> {
        plan.steps.iter().map(|step| (step.node.as_str(), step.deed)).collect()
    }

    fn rules(plan: &Plan) -> Vec<&str> {
        plan.obstacles.iter().map(|obstacle| obstacle.rule).collect()
    }

    fn facts(pi: &mut Pi) -> &mut Facts {
        pi.facts.as_mut().unwrap()
    }

    #[test]
    fn the_master_goes_first_and_comes_back_last() {
        let mut pis = crew();
        // whatever the order in which they are listed
        pis.rotate_left(1);
        let up = make(&pis, &[], &to(run("1.1.0", 1, 2)));
        assert_eq!(deeds(&up), [("pi-1", Deed::Change), ("pi-2", Deed::Change), ("pi-3", Deed::Change)]);
        assert_eq!(rules(&up), [""; 0]);
        let down = make(&pis, &[], &Goal::Back);
        assert_eq!(deeds(&down), [("pi-2", Deed::Change), ("pi-3", Deed::Change), ("pi-1", Deed::Change)]);
        assert_eq!(rules(&down), [""; 0]);
        assert!(down.steps.iter().all(|step| step.to.as_str() == "0.9.0"));
    }

    #[test]
    fn it_goes_on_where_it_stopped() {
        let mut pis = crew();
        pis[0] = pi("pi-1", run("1.1.0", 1, 2), run("1.0.0", 1, 1));
        pis[1] = pi("pi-2", run("1.1.0", 1, 2), run("1.0.0", 1, 1));
        facts(&mut pis[1]).trial = Some("1.1.0".parse().unwrap());
        let up = make(&pis, &[], &to(run("1.1.0", 1, 2)));
        assert_eq!(deeds(&up), [("pi-1", Deed::Skip), ("pi-2", Deed::Await), ("pi-3", Deed::Change)]);
        assert_eq!(rules(&up), [""; 0]);
        // and back: who was never changed is not brought to what was before that
        facts(&mut pis[1]).trial = None;
        let down = make(&pis, &[], &Goal::Back);
        assert_eq!(deeds(&down), [("pi-2", Deed::Change), ("pi-3", Deed::Skip), ("pi-1", Deed::Change)]);
        pis[0] = pi("pi-1", run("1.0.0", 1, 1), run("1.0.0", 1, 1));
        let down = make(&pis, &[], &Goal::Back);
        assert_eq!(deeds(&down), [("pi-2", Deed::Change), ("pi-3", Deed::Skip), ("pi-1", Deed::Skip)]);
    }

    #[test]
    fn what_does_not_fit_together_is_refused_at_the_first_step_that_would_break_it() {
        for (scope, running, rule) in [
            (&[][..], run("2.0.0", 1, 3), "skew"),
            (&[], run("2.0.0", 2, 2), "skew"),
            (&["pi-2"], run("1.1.0", 1, 1), "skew"),
            (&["pi-2"], run("1.1.0", 1, 2), "skew"),
            (&["pi-1"], run("0.9.5", 1, 1), "downgrade"),
            // the master alone would be behind its nodes
            (&["pi-1"], run("0.9.0", 1, 1), "skew"),
        ] {
            let found = make(&crew(), scope, &to(running.clone()));
            assert!(rules(&found).contains(&rule), "{running:?}: {:?}", found.obstacles);
            assert!(found.obstacles.iter().all(|obstacle| obstacle.force == Force::HelpsNot));
        }
        assert_eq!(rules(&make(&crew(), &["pi-1"], &to(run("1.1.0", 1, 2)))), [""; 0]);
        assert_eq!(rules(&make(&crew(), &["pi-1"], &Goal::Back)), ["skew"]);
        assert_eq!(rules(&make(&crew(), &["pi-3"], &Goal::Back)), [""; 0]);
    }

    #[test]
    fn every_obstacle_is_named_and_only_two_can_be_set_aside() {
        type Change = fn(&mut Vec<Pi>);
        let cases: [(Change, &str, Force); 7] = [
            (|pis| pis[1].unready = Some("lost".into()), "not-ready", Force::Helps),
            (|pis| pis[1].facts = Err("no route".into()), "no-answer", Force::HelpsNot),
            (|pis| facts(&mut pis[1]).current = None, "not-set-up", Force::HelpsNot),
            (|pis| facts(&mut pis[1]).architecture = Some(Architecture::Aarch64), "no-binary", Force::HelpsNot),
            (|pis| facts(&mut pis[1]).architecture = None, "no-binary", Force::HelpsNot),
            (|pis| facts(&mut pis[1]).trial = Some("1.0.0".parse().unwrap()), "on-trial", Force::HelpsNot),
            (|pis| pis[1].running = Some("1.0.1".into()), "other-program", Force::HelpsNot),
        ];
        for (change, rule, force) in cases {
            let mut pis = crew();
            change(&mut pis);
            let found = make(&pis, &[], &to(run("1.1.0", 1, 1)));
            let obstacles: Vec<_> = found.obstacles.iter().map(|obstacle| (obstacle.rule, obstacle.force)).collect();
            assert_eq!(obstacles, [(rule, force)]);
            assert!(found.obstacles[0].why.contains("pi-2"), "{:?}", found.obstacles);
        }
        let running = plan(&crew(), &name("pi-1"), &[], &to(run("1.1.0", 1, 1)), Some("rebuild op-7"));
        assert_eq!(rules(&running), ["operation-running"]);
        assert!(running.obstacles[0].why.contains("op-7"));
        // who is not asked for need not answer, if somebody says so
        let mut pis = crew();
        pis[2].facts = Err("off".into());
        let found = make(&pis, &["pi-1", "pi-2"], &to(run("1.1.0", 1, 1)));
        assert_eq!((rules(&found), found.obstacles[0].force), (vec!["no-answer"], Force::Helps));
        let mut pis = crew();
        facts(&mut pis[1]).previous = None;
        assert_eq!(rules(&make(&pis, &[], &Goal::Back)), ["no-previous"]);
    }
}
