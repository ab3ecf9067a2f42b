//! `beehive crew upgrade`: beehive itself to another version, one Pi after the other. What is done in which order is decided
//! in [`plan`]; here it is asked for, done, and waited for.
//!
//! A Pi counts as done when its daemon, in a later start than before, has signed an `info` with the new version and a state
//! that names the coordinator's present session, its membership is what it was, and the Pi's own trial has ended well.

pub mod plan;
pub mod transport;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use beehive_mqtt::coordinator::Membership;
use beehive_mqtt::node::PowerPhase;
use beehive_mqtt::{CrewName, NodeName};
use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;

use self::plan::{Deed, Facts, Force, Goal, Obstacle, Pi, Plan, Step};
use self::transport::{Answer, Remote};
use super::exit::{ExitCode, Trouble};
use super::model::{CrewView, NodeView, Seen};
use super::progress::Reporter;
use super::session::{Heard, Session};
use super::{Failure, crew_of, note, print, print_document, render};
use crate::cli::{ConsoleOptions, UpgradeArgs};
#[cfg(feature = "workstation")]
use crate::crew::file::crews::Crews;
use crate::keys;
use crate::release::package::{self, Package, PackageError};
use crate::release::trial::{CONFIRM_WITHIN_MS, How};
use crate::release::version::{ReleaseVersion, Running};

/// How long the crew's picture may take at the start, in seconds.
const PICTURE_S: u64 = 30;

/// How long every node's `info` is waited for after the picture is there, in milliseconds: the broker keeps it.
const INFO_MS: u64 = 2_000;

/// How long a Pi is waited for beyond its own deadline for the trial, in milliseconds: it goes back by itself first, and that
/// takes a start.
const BEYOND_MS: u64 = 60_000;

/// How long the next Pi is waited for until it is ready, in milliseconds: a coordinator that has just come back has to hear
/// everybody first.
const READY_WITHIN_MS: u64 = 60_000;

/// How often a Pi is asked how its trial goes, in milliseconds.
const ASK_AGAIN_MS: u64 = 2_000;

/// How one Pi's part ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Ended {
    Skipped,
    Done,
    Failed,
    NotBegun,
    Planned,
}

/// One line of the report.
#[derive(Debug, Clone, Serialize)]
struct Line {
    node: NodeName,
    from: ReleaseVersion,
    to: ReleaseVersion,
    result: Ended,
    reason: String,
}

/// Upgrades the crew, or brings it back. Everything that there is to say has been said on standard output and standard error.
pub async fn run(options: &ConsoleOptions, args: &UpgradeArgs) -> ExitCode {
    match perform(options, args).await {
        Ok(exit) => exit,
        Err(failure) => {
            note(&format!("beehive: {}", failure.trouble));
            if options.json {
                let error = &failure.trouble;
                let document =
                    failure.document.unwrap_or_else(|| json!({ "exit": error.exit.number(), "error": error }));
                // there is nobody left to tell
                let _ = print_document(&document);
            }
            failure.trouble.exit
        }
    }
}

/// The release in a folder, if the crew's key signed it.
fn read_release(options: &ConsoleOptions, crew: &CrewName, folder: &Path) -> Result<Vec<Package>, Trouble> {
    let key = keys::crew_key(&options.identity_dir(crew)).map_err(|error| {
        let fix = "name the folder operators/<you> of the crew's folder with --identity";
        Trouble::new(ExitCode::Usage, "the crew's public key is not known", error.to_string(), fix)
            .with_code("identity")
    })?;
    package::read_all(folder, &key).map_err(|error| {
        let (exit, code) = match &error {
            PackageError::Untrusted { .. } => (ExitCode::Refused, "untrusted-release"),
            PackageError::Damaged { .. } | PackageError::Format { .. } => (ExitCode::Refused, "bad-release"),
            PackageError::File(_) => (ExitCode::Failed, "bad-release"),
        };
        Trouble::new(exit, "the release is not taken; nothing was changed", error.to_string(), "").with_code(code)
    })
}

/// Where the crew's file says that its Pis are; nothing where there is no such file.
fn hosts_of(crew: &CrewName) -> Result<BTreeMap<NodeName, String>, Trouble> {
    #[cfg(feature = "workstation")]
    let hosts = Crews::of_this_user().hosts(crew);
    #[cfg(not(feature = "workstation"))]
    let hosts: anyhow::Result<_> = {
        let _ = crew; // the program for the Pi knows no crew files
        Ok(BTreeMap::new())
    };
    hosts.map_err(|error| {
        let fix = "mend the crew's file, or move it away: then {host} of --via is the node's name";
        Trouble::new(ExitCode::Usage, "nothing was changed", format!("{error:#}"), fix).with_code("crew-file")
    })
}

async fn perform(options: &ConsoleOptions, args: &UpgradeArgs) -> Result<ExitCode, Failure> {
    let crew = crew_of(options)?;
    let hosts = hosts_of(crew)?;
    let packages = match &args.release {
        Some(folder) => read_release(options, crew, folder)?,
        None => Vec::new(),
    };
    let goal = match packages.first().map(|package| &package.manifest) {
        None => Goal::Back,
        Some(manifest) if manifest.crew != *crew => {
            let why = format!("it was signed for crew {}", manifest.crew);
            return Err(Trouble::new(ExitCode::Refused, "the release is not taken", why, "").into());
        }
        Some(manifest) => Goal::Release {
            running: Running { version: manifest.version.clone(), protocol: manifest.protocol },
            architectures: packages.iter().map(|package| package.manifest.architecture).collect(),
        },
    };
    let mut session = Session::open(options, crew)?;
    let limit = Instant::now() + Duration::from_secs(PICTURE_S);
    session.connect(limit).await?;
    session.collect(limit).await?;
    let mut work =
        Work { options, args, hosts, packages, reporter: Reporter::new(), lines: Vec::new(), overridden: Vec::new() };
    let outcome = work.all(&mut session, &goal).await;
    session.close().await;
    drop(work.reporter);
    let document = |exit: ExitCode, error: Option<&Trouble>| {
        json!({
            "exit": exit.number(),
            "goal": match &goal { Goal::Release { .. } => "upgrade", Goal::Back => "rollback" },
            "release": match &goal { Goal::Release { running, .. } => Some(&running.version), Goal::Back => None },
            "dry_run": args.dry_run,
            "overridden": work.overridden,
            "nodes": work.lines,
            "error": error,
        })
    };
    match outcome {
        Ok(()) => {
            if options.json {
                print_document(&document(ExitCode::Done, None))?;
            } else {
                print(&table(&work.lines))?;
            }
            Ok(ExitCode::Done)
        }
        Err(trouble) => {
            if !options.json && !work.lines.is_empty() {
                print(&table(&work.lines))?;
            }
            let document = document(trouble.exit, Some(&trouble));
            Err(Failure { trouble, document: Some(document) })
        }
    }
}

fn table(lines: &[Line]) -> String {
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let word = match line.result {
            Ended::Skipped => "is there already",
            Ended::Done => "done",
            Ended::Failed => "FAILED",
            Ended::NotBegun => "not begun",
            Ended::Planned => "",
        };
        let reason = if line.reason.is_empty() { String::new() } else { format!(": {}", line.reason) };
        let Line { node, from, to, .. } = line;
        text.push_str(format!("{:>2}. {node:<24} {from} -> {to}  {word}{reason}", number + 1).trim_end());
        text.push('\n');
    }
    text
}

struct Work<'a> {
    options: &'a ConsoleOptions,
    args: &'a UpgradeArgs,
    hosts: BTreeMap<NodeName, String>,
    packages: Vec<Package>,
    reporter: Reporter,
    lines: Vec<Line>,
    overridden: Vec<String>,
}

/// Why a node cannot be brought down for a moment; nothing if it can.
fn unready(view: &CrewView, node: &NodeName, now_ms: u64) -> Option<String> {
    let Some(found) = view.node(node) else { return Some("nothing was heard of it".to_owned()) };
    let seen = found.seen(now_ms);
    if seen != Seen::Online {
        return Some(format!("it is not online ({})", seen.as_str()));
    }
    let Some(state) = &found.state else { return Some("its state was not heard".to_owned()) };
    if state.power != PowerPhase::Running {
        return Some("it is on its way down".to_owned());
    }
    if state.running.is_some() {
        return Some("a command runs on it".to_owned());
    }
    let Some(member) = &found.member else { return Some("the coordinator does not list it".to_owned()) };
    match member.membership {
        Membership::Ready | Membership::Blank => None,
        other @ (Membership::Expected
        | Membership::Joining
        | Membership::NotReady
        | Membership::Draining
        | Membership::Cordoned
        | Membership::CordonedByOthers
        | Membership::Leaving
        | Membership::Broken
        | Membership::Lost) => Some(format!("it is {}", other.as_str())),
    }
}

/// An operation that runs, for people.
fn operation(view: &CrewView) -> Option<String> {
    let named = |id| view.operation_by_id(id).and_then(|operation| operation.summary.as_ref());
    let running = view.operations().find(|(_, operation)| operation.summary.is_some() && !operation.is_final());
    let id = running.map(|(id, _)| id).or_else(|| view.coordinator()?.operation.as_ref())?;
    let kind = named(id).map_or_else(|| "an operation".to_owned(), |summary| summary.kind.to_string());
    Some(format!("{kind} (operation {id})"))
}

/// What a node was before it was changed.
#[derive(Debug, Clone, Default)]
struct Before {
    start: Option<u32>,
    membership: Option<Membership>,
}

impl Before {
    fn of(view: Option<&NodeView>) -> Self {
        let state = view.and_then(|view| view.state.as_ref());
        let member = view.and_then(|view| view.member.as_ref());
        Self { start: state.map(|state| state.start), membership: member.map(|member| member.membership) }
    }
}

impl Work<'_> {
    fn remote<'b>(&'b self, node: &'b NodeName) -> Remote<'b> {
        Remote { via: &self.args.via, host: self.hosts.get(node).map_or(node.as_str(), String::as_str) }
    }

    async fn all(&mut self, session: &mut Session, goal: &Goal) -> Result<(), Trouble> {
        let steps = self.planned(session, goal).await?;
        if self.args.dry_run {
            self.lines = steps.iter().map(|step| line(step, Ended::Planned, how(step.deed))).collect();
            return Ok(());
        }
        self.lines = steps.iter().map(|step| line(step, Ended::NotBegun, String::new())).collect();
        let mut failed = None;
        for (index, step) in steps.iter().enumerate() {
            self.reporter.at(index, steps.len(), step.node.as_str());
            let result = match step.deed {
                Deed::Skip => Ok(Ended::Skipped),
                Deed::Await | Deed::Change => self.one(session, goal, step).await.map(|()| Ended::Done),
            };
            match result {
                Ok(ended) => self.lines[index].result = ended,
                Err(Stop { trouble, begun }) => {
                    if begun == Begun::Yes {
                        self.lines[index].result = Ended::Failed;
                    }
                    self.lines[index].reason.clone_from(&trouble.why);
                    failed = Some(trouble);
                    break;
                }
            }
        }
        match failed {
            None => Ok(()),
            Some(mut trouble) => {
                let done = self.lines.iter().filter(|line| line.result == Ended::Done).count();
                if done > 0 && trouble.exit == ExitCode::Failed {
                    trouble.exit = ExitCode::PartlyDone;
                    trouble.code = ExitCode::PartlyDone.word().to_owned();
                }
                Err(trouble)
            }
        }
    }

    /// Asks every Pi, and makes the plan.
    async fn planned(&mut self, session: &mut Session, goal: &Goal) -> Result<Vec<Step>, Trouble> {
        let infos = Instant::now() + Duration::from_millis(INFO_MS);
        let lacks = |view: &CrewView| view.nodes().iter().any(|node| node.member.is_some() && node.info.is_none());
        while lacks(&session.view) {
            match session.next(infos).await {
                Heard::Time => break,
                Heard::Interrupt => return Err(interrupted("nothing was changed")),
                Heard::Up | Heard::Down | Heard::Applied(_) | Heard::Response(_) => {}
            }
        }
        let Some(coordinator) = session.view.coordinator() else {
            return Err(Trouble::new(
                ExitCode::Unreachable,
                "nothing was changed",
                "no coordinator of this crew was heard at the broker",
                "see `beehive status`, and on the master `journalctl -u beehive`",
            ));
        };
        let master = coordinator.master.clone();
        let members: Vec<NodeName> = coordinator.members.iter().map(|member| member.node.clone()).collect();
        if let Some(stranger) = self.args.nodes.iter().find(|node| !members.contains(node)) {
            let known: Vec<&str> = members.iter().map(NodeName::as_str).collect();
            return Err(Trouble::new(
                ExitCode::UnknownNode,
                format!("there is no node {stranger} in this crew; nothing was changed"),
                format!("known are {}", known.join(", ")),
                "check the name; `beehive node list` shows all of them",
            ));
        }
        let mut pis = Vec::new();
        for node in &members {
            self.reporter.at(0, members.len(), &format!("asking {node}"));
            let facts = self.remote(node).ask().await.map(|answer| answer.facts);
            let view = session.view.node(node);
            pis.push(Pi {
                node: node.clone(),
                facts,
                running: view.and_then(|view| view.info.as_ref()).map(|info| render::clean(info.version.as_str())),
                unready: unready(&session.view, node, session.now_ms()),
            });
        }
        let operation = operation(&session.view);
        let Plan { steps, obstacles } = plan::plan(&pis, &master, &self.args.nodes, goal, operation.as_deref());
        let aside = |obstacle: &&Obstacle| self.args.force && obstacle.force == Force::Helps;
        let in_the_way: Vec<&Obstacle> = obstacles.iter().filter(|obstacle| !aside(obstacle)).collect();
        if let Some(first) = in_the_way.first() {
            let why: Vec<String> =
                in_the_way.iter().map(|found| format!("rule {}: {}", found.rule, found.why)).collect();
            let fix = match first.force {
                Force::Helps => "mend that first; --force sets it aside",
                Force::HelpsNot => "",
            };
            let what = "refused: nothing was changed";
            return Err(Trouble::new(ExitCode::Refused, what, why.join("\n              "), fix).with_code(first.rule));
        }
        self.overridden = obstacles.iter().map(|found| format!("{}: {}", found.rule, found.why)).collect();
        for overridden in &self.overridden {
            self.reporter.line(&format!("--force sets aside {overridden}"));
        }
        Ok(steps)
    }

    /// Brings one Pi there.
    async fn one(&mut self, session: &mut Session, goal: &Goal, step: &Step) -> Result<(), Stop> {
        let Step { node, from, to, deed } = step;
        let mut before = Before::of(session.view.node(node));
        match deed {
            Deed::Skip => return Ok(()),
            // its start is before us
            Deed::Await => before.start = None,
            Deed::Change => {
                self.ready(session, node).await?;
                before = Before::of(session.view.node(node));
                match goal {
                    Goal::Release { .. } => {
                        self.install(node).await?;
                        self.reporter.line(&format!("{node}: {to} is on trial"));
                        let begun = |why| Stop::begun(failed(node, to, format!("{why}. {}", left_as_it_is(node))));
                        self.remote(node).use_version(to).await.map_err(begun)?;
                    }
                    Goal::Back => {
                        self.reporter.line(&format!("{node}: back to {to}"));
                        let begun = |why| Stop::begun(failed(node, to, format!("{why}. {}", left_as_it_is(node))));
                        self.remote(node).roll_back().await.map_err(begun)?;
                    }
                }
            }
        }
        match self.back(session, node, to, &before).await {
            Ok(()) => {
                self.reporter.line(&format!("{node}: {to} is in use and was {from} before"));
                Ok(())
            }
            Err(NotBack::Interrupted) => {
                let why = format!("{node} has {to} on trial; it goes on with it or back by itself");
                Err(Stop::begun(interrupted(&why)))
            }
            Err(NotBack::WentBack(reason)) => {
                let why = format!("{node} went back to {from} by itself: {reason}");
                Err(Stop::begun(failed(node, to, why)))
            }
            Err(NotBack::Late(lacks)) => {
                let why = match (goal, self.remote(node).roll_back().await) {
                    (Goal::Back, _) => lacks,
                    (Goal::Release { .. }, Ok(_)) => format!("{lacks}; it was brought back to {from}"),
                    (Goal::Release { .. }, Err(why)) => format!("{lacks}; it could not be brought back: {why}"),
                };
                Err(Stop::begun(failed(node, to, why)))
            }
        }
    }

    async fn install(&self, node: &NodeName) -> Result<(), Stop> {
        let stop = |why: String| Stop::before(failed_before(node, why));
        let Answer { facts: Facts { architecture, .. }, .. } = self.remote(node).ask().await.map_err(stop)?;
        let fits = |package: &&Package| Some(package.manifest.architecture) == architecture;
        let package = self.packages.iter().find(fits);
        // the plan has looked
        let package = package.ok_or_else(|| stop("the release has no programs for it".to_owned()))?;
        self.reporter.line(&format!("{node}: {} is copied", package.manifest.version));
        self.remote(node).install(package).await.map_err(stop)
    }

    /// Waits until the next Pi may be changed: those before it have just come back.
    async fn ready(&self, session: &mut Session, node: &NodeName) -> Result<(), Stop> {
        let limit = Instant::now() + Duration::from_millis(READY_WITHIN_MS);
        loop {
            let why = match (operation(&session.view), unready(&session.view, node, session.now_ms())) {
                (Some(operation), _) => format!("{operation} has begun meanwhile"),
                (None, Some(why)) if !self.args.force => why,
                (None, Some(_) | None) => return Ok(()),
            };
            // silence becomes known by the clock alone
            let look = limit.min(Instant::now() + Duration::from_millis(ASK_AGAIN_MS));
            match session.next(look).await {
                Heard::Interrupt => return Err(Stop::before(interrupted(&format!("{node} was not changed")))),
                Heard::Time if Instant::now() >= limit => {
                    return Err(Stop::before(failed_before(node, format!("it is not ready: {why}"))));
                }
                Heard::Time | Heard::Up | Heard::Down | Heard::Applied(_) | Heard::Response(_) => {}
            }
        }
    }

    /// Waits until a Pi is back with the wanted version.
    async fn back(
        &self,
        session: &mut Session,
        node: &NodeName,
        to: &ReleaseVersion,
        before: &Before,
    ) -> Result<(), NotBack> {
        let limit = match self.options.timeout {
            Some(seconds) => Duration::from_secs(u64::from(seconds)),
            None => Duration::from_millis(CONFIRM_WITHIN_MS + BEYOND_MS),
        };
        let limit = Instant::now() + limit;
        let mut ask = Instant::now();
        let mut trial = Some("its trial has not ended".to_owned());
        loop {
            let lacks = trial.clone().or_else(|| not_back(&session.view, node, to, before, session.now_ms()));
            let Some(lacks) = lacks else { return Ok(()) };
            if Instant::now() >= limit {
                return Err(NotBack::Late(lacks));
            }
            match session.next(limit.min(ask)).await {
                Heard::Interrupt => return Err(NotBack::Interrupted),
                Heard::Time | Heard::Up | Heard::Down | Heard::Applied(_) | Heard::Response(_) => {}
            }
            if Instant::now() >= ask {
                match self.remote(node).ask().await {
                    Ok(Answer { facts, last }) => {
                        let current = facts.current.as_ref().map(|running| &running.version);
                        let left = last.filter(|last| last.how == How::WentBack && last.version == *to);
                        if let (true, Some(left)) = (current != Some(to), left) {
                            return Err(NotBack::WentBack(render::clean(&left.reason)));
                        }
                        trial = match (current == Some(to), facts.trial) {
                            (true, None) => None,
                            (true, Some(_)) => Some("its trial has not ended".to_owned()),
                            (false, _) => Some(format!("{to} is not in use on its card")),
                        };
                    }
                    Err(why) => trial = Some(why),
                }
                ask = Instant::now() + Duration::from_millis(ASK_AGAIN_MS);
            }
        }
    }
}

/// What a Pi lacks to be back, by what it signed; nothing if it is.
fn not_back(view: &CrewView, node: &NodeName, to: &ReleaseVersion, before: &Before, now_ms: u64) -> Option<String> {
    let lacks = |what: &str| Some(what.to_owned());
    let Some(found) = view.node(node) else { return lacks("nothing was heard of it") };
    let (Some(info), Some(state)) = (&found.info, &found.state) else { return lacks("nothing was heard of it") };
    if info.version.as_str() != to.as_str() {
        return Some(format!("it says that it runs {}", render::clean(info.version.as_str())));
    }
    if before.start.is_some_and(|start| state.start <= start) {
        return lacks("its daemon was not started anew");
    }
    if found.seen(now_ms) != Seen::Online {
        return lacks("it is not online");
    }
    let session = view.coordinator().map(|coordinator| &coordinator.session);
    if session.is_none() || state.heard.as_ref() != session {
        return lacks("it has not heard the coordinator's present session");
    }
    let membership = found.member.as_ref().map(|member| member.membership);
    match (before.membership, membership) {
        (Some(was), Some(is)) if was != is && is != Membership::Ready => {
            Some(format!("it is {} and was {} before", is.as_str(), was.as_str()))
        }
        (Some(was), None) => Some(format!("the coordinator lists it no more; it was {} before", was.as_str())),
        (Some(_) | None, Some(_)) | (None, None) => None,
    }
}

/// Why a Pi did not come back.
enum NotBack {
    Interrupted,
    WentBack(String),
    Late(String),
}

/// Whether something was done to the Pi at which it stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begun {
    Yes,
    No,
}

/// Why it stops.
struct Stop {
    trouble: Trouble,
    begun: Begun,
}

impl Stop {
    fn begun(trouble: Trouble) -> Self {
        Self { trouble, begun: Begun::Yes }
    }

    fn before(trouble: Trouble) -> Self {
        Self { trouble, begun: Begun::No }
    }
}

const GO_ON: &str = "mend the cause and run the same command again: what is done stays done. `beehive crew upgrade --rollback` \
                     brings all back to the version before";

fn left_as_it_is(node: &NodeName) -> String {
    format!("`beehive release list` on {node} says which version is in use")
}

fn failed(node: &NodeName, to: &ReleaseVersion, why: String) -> Trouble {
    Trouble::new(ExitCode::Failed, format!("{node} does not run {to}; nobody after it was changed"), why, GO_ON)
}

fn failed_before(node: &NodeName, why: String) -> Trouble {
    Trouble::new(ExitCode::Failed, format!("{node} was not changed, and nobody after it"), why, GO_ON)
}

fn interrupted(state: &str) -> Trouble {
    Trouble::new(ExitCode::OutcomeUnknown, "interrupted", state, "run the same command again to go on")
        .with_code("interrupted")
}

fn how(deed: Deed) -> String {
    match deed {
        Deed::Skip => "is there already",
        Deed::Await => "is on trial there; its end is waited for",
        Deed::Change => "",
    }
    .to_owned()
}

fn line(step: &Step, result: Ended, reason: String) -> Line {
    Line { node: step.node.clone(), from: step.from.clone(), to: step.to.clone(), result, reason }
}
