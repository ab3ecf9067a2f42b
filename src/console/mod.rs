//! The ops console: `beehive status`, `node …`, `cluster …` and `events`, over MQTT from any machine.
//!
//! Data goes to standard output, everything else to standard error; `--json` makes the data one document, or one a line
//! for what goes on. What is asked of the coordinator travels with an id and is sent again until it is answered.
//! Nothing is assumed: progress comes from reported steps, and where the time runs out the outcome is called unknown.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`model`] | the crew as it is heard; pure |
//! | [`render`] | tables, lines and documents from it; pure |
//! | [`order`] | what a command asks for; pure |
//! | `enrolled` | what the crew is told when nodes were enrolled |
//! | `direct` | what is told to a node without the coordinator |
//! | [`progress`] | an operation's steps as they are reported |
//! | [`mod@confirm`] | the name that is typed before something is destroyed |
//! | [`exit`] | exit codes and errors |
//! | `access` | a way into the cluster: keys, and what is sealed to them |
//! | `session` | the link, the collecting, the asking |
//! | [`upgrade`] | beehive itself to another version, one Pi after the other |

mod access;
pub mod confirm;
mod direct;
#[cfg(feature = "workstation")]
pub mod enrolled;
pub mod exit;
pub mod model;
pub mod order;
pub mod progress;
pub mod render;
mod session;
pub mod upgrade;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use beehive_mqtt::console::{ConsoleResponse, Mode, ResponseStatus};
use beehive_mqtt::coordinator::{OperationKind, OperationPhase, OperationSummary};
use beehive_mqtt::{CrewName, NodeName, OperationId};
use serde_json::{Value, json};
use tokio::time::Instant;

use self::confirm::{Consent, OwnTerminal, Terminal, confirm};
pub use self::exit::ExitCode;
use self::exit::{Trouble, of_operation};
#[cfg(feature = "workstation")]
use self::model::CrewView;
use self::model::{Applied, OperationView};
use self::order::Order;
use self::progress::Reporter;
pub(crate) use self::session::trust;
use self::session::{Heard, Session};
use crate::cli::{Acting, ClusterCommand, ConsoleCommand, ConsoleOptions, NodeCommand};
use crate::config::TlsSwitch;

/// How long an answer is waited for, in seconds: the coordinator answers within milliseconds, a master that restarts its
/// coordinator within a few seconds.
const ANSWER_S: u32 = 30;

/// How long the end of an operation is waited for, in seconds: a rebuild of a large crew with image pulls takes minutes.
const END_S: u32 = 1_800;

/// How long `events` listens without `--follow`, in seconds: one heartbeat.
const LISTEN_S: u32 = 10;

/// At most this often `status --watch` shows a change, in milliseconds.
const REDRAW_MS: u64 = 250;

/// Runs one of the console's commands to its end and says how it went. Everything that there is to say has been said on
/// standard output and standard error.
pub async fn run(options: &ConsoleOptions, command: &ConsoleCommand) -> ExitCode {
    run_with(options, command, &mut OwnTerminal).await
}

/// As [`run`], with another terminal to ask on.
pub async fn run_with(options: &ConsoleOptions, command: &ConsoleCommand, terminal: &mut dyn Terminal) -> ExitCode {
    match perform(options, command, terminal).await {
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

/// A trouble, and the answer that says so where there is one.
struct Failure {
    trouble: Trouble,
    document: Option<Value>,
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        Self { trouble, document: None }
    }
}

/// Whether somebody still reads standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    There,
    Gone,
}

/// Says something that is not data.
fn note(text: &str) {
    // if standard error is closed there is no way to say so
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Writes data. A reader that has gone away (`| head`) is no error.
fn print(text: &str) -> Result<Reader, Trouble> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(Trouble::new(
            ExitCode::Failed,
            "standard output cannot be written",
            error.to_string(),
            "see where it leads and whether there is room",
        )),
    }
}

fn print_document(document: &Value) -> Result<Reader, Trouble> {
    print(&format!("{document}\n"))
}

/// The crew as its broker knows it, within `time`, and when that was on the view's own clock; nothing is asked of anybody.
#[cfg(feature = "workstation")]
pub(crate) async fn look(options: &ConsoleOptions, time: Duration) -> Result<(CrewView, u64), Trouble> {
    let limit = Instant::now() + time;
    let mut session = Session::open(options, crew_of(options)?)?;
    let heard = match session.connect(limit).await {
        Ok(()) => session.collect(limit).await,
        Err(trouble) => Err(trouble),
    };
    let (view, now_ms) = (std::mem::take(&mut session.view), session.now_ms());
    session.close().await;
    heard.map(|()| (view, now_ms))
}

/// Which crew is meant, if its broker may be spoken to.
fn crew_of(options: &ConsoleOptions) -> Result<&CrewName, Trouble> {
    let Some(crew) = &options.crew else {
        return Err(Trouble::new(
            ExitCode::Usage,
            "which crew?",
            "neither --crew nor BEEHIVE_CREW names one",
            "add --crew NAME, or set BEEHIVE_CREW; the name stands in /etc/beehive/beehive.toml on each Pi",
        ));
    };
    let broker = options.broker();
    if broker.tls == TlsSwitch::Off && !broker.is_loopback() {
        if !options.insecure_test_broker {
            return Err(Trouble::new(
                ExitCode::Refused,
                format!("refused: the broker at {broker} is not on this machine"),
                "rule insecure-broker: without TLS anybody on the way reads and changes what is sent there",
                "write --broker tls://HOST; on a test network --insecure-test-broker allows it without",
            )
            .with_code("insecure-broker"));
        }
        note(&format!("beehive: unencrypted to {broker}: for tests alone"));
    }
    Ok(crew)
}

async fn perform(
    options: &ConsoleOptions,
    command: &ConsoleCommand,
    terminal: &mut dyn Terminal,
) -> Result<ExitCode, Failure> {
    let crew = crew_of(options)?;
    let console = Console { options, crew };
    match command {
        ConsoleCommand::Status { watch: false } => console.show(&What::Status).await,
        ConsoleCommand::Status { watch: true } => console.watch().await,
        ConsoleCommand::Events { follow } => {
            let until = match (options.timeout, follow) {
                (Some(seconds), _) => Some(seconds),
                (None, true) => None,
                (None, false) => Some(LISTEN_S),
            };
            console.events(until).await
        }
        ConsoleCommand::Node(NodeCommand::List) => console.show(&What::List).await,
        ConsoleCommand::Node(NodeCommand::Show { node }) => console.show(&What::Node(node)).await,
        ConsoleCommand::Node(command) => match (direct::of(command), Order::on_node(command)) {
            (Some(told), _) => console.tell(&told).await,
            (None, Some((order, acting))) => console.act(&order, acting, terminal).await,
            (None, None) => console.show(&What::List).await,
        },
        ConsoleCommand::Cluster(command) => match (command, Order::on_cluster(command, crew)) {
            (ClusterCommand::Kubeconfig { output }, _) => console.kubeconfig(output.as_deref()).await,
            (_, Some((order, acting))) => console.act(&order, acting, terminal).await,
            (_, None) => console.show(&What::Status).await,
        },
    }
}

/// What is shown once.
enum What<'a> {
    Status,
    List,
    Node(&'a NodeName),
}

struct Console<'a> {
    options: &'a ConsoleOptions,
    crew: &'a CrewName,
}

impl Console<'_> {
    fn open(&self) -> Result<Session, Trouble> {
        Session::open(self.options, self.crew)
    }

    fn limit(&self, default_s: u32) -> Instant {
        Instant::now() + Duration::from_secs(u64::from(self.options.timeout.unwrap_or(default_s)))
    }

    async fn show(&self, what: &What<'_>) -> Result<ExitCode, Failure> {
        let limit = self.limit(ANSWER_S);
        let mut session = self.open()?;
        session.connect(limit).await?;
        session.collect(limit).await?;
        let shown = self.shown(what, &session);
        session.close().await;
        let (text, document) = shown?;
        if self.options.json {
            print_document(&document)?
        } else {
            print(&text)?
        };
        Ok(ExitCode::Done)
    }

    fn shown(&self, what: &What<'_>, session: &Session) -> Result<(String, Value), Trouble> {
        let (view, now_ms) = (&session.view, session.now_ms());
        if view.coordinator().is_none() && view.nodes().is_empty() {
            return Err(Trouble::new(
                ExitCode::Failed,
                format!("nothing was heard of crew {} at the broker at {}", self.crew, self.options.broker()),
                "no node and no coordinator of that name has ever spoken there",
                "check the name (--crew), and that `beehive run` runs on the Pis",
            )
            .with_code("silent-crew"));
        }
        if view.refused() > 0 {
            note(&format!("beehive: {} messages could not be read and were left out", view.refused()));
        }
        Ok(match what {
            What::Status => {
                (render::status_text(self.crew, view, now_ms), render::status_document(self.crew, view, now_ms))
            }
            What::List => (render::node_table(view, now_ms), render::node_documents(view, now_ms)),
            What::Node(name) => match view.node(name) {
                Some(node) => {
                    (render::node_show_text(view, node, now_ms), render::node_show_document(view, node, now_ms))
                }
                None => {
                    let known: Vec<&str> = view.nodes().iter().map(|node| node.node.as_str()).collect();
                    return Err(Trouble::new(
                        ExitCode::UnknownNode,
                        format!("there is no node {name} in crew {}", self.crew),
                        format!("known are {}", known.join(", ")),
                        "check the name; `beehive node list` shows all of them",
                    ));
                }
            },
        })
    }

    async fn watch(&self) -> Result<ExitCode, Failure> {
        let end = self.options.timeout.map(|_| self.limit(ANSWER_S));
        let far = end.unwrap_or_else(|| self.limit(ANSWER_S));
        let mut session = self.open()?;
        session.connect(far).await?;
        session.collect(far).await?;
        let screen = std::io::stdout().is_terminal() && !self.options.json;
        let mut shown = String::new();
        let ended = loop {
            let now_ms = session.now_ms();
            let mut text = if self.options.json {
                format!("{}\n", render::status_document(self.crew, &session.view, now_ms))
            } else {
                render::status_text(self.crew, &session.view, now_ms)
            };
            if let (Some(reason), false) = (&session.down, self.options.json) {
                text.insert_str(
                    0,
                    &format!("NOT CONNECTED ({}); this is the last that was heard\n", render::clean(reason)),
                );
            }
            if text != shown {
                // home and clear below, rather than clear and home: the picture does not flicker
                let frame = if screen {
                    format!("\x1b[H\x1b[J{text}")
                } else if self.options.json || shown.is_empty() {
                    text.clone()
                } else {
                    format!("\n{text}")
                };
                if print(&frame)? == Reader::Gone {
                    break ExitCode::Done;
                }
                shown = text;
            }
            // changes that come together are shown together
            let pause = session.at(now_ms + REDRAW_MS);
            let mut interrupted = false;
            loop {
                match session.next(end.map_or(pause, |end| end.min(pause))).await {
                    Heard::Time => break,
                    Heard::Interrupt => {
                        interrupted = true;
                        break;
                    }
                    Heard::Up | Heard::Down | Heard::Applied(_) | Heard::Response(_) => {}
                }
            }
            if interrupted || end.is_some_and(|end| Instant::now() >= end) {
                break ExitCode::Done;
            }
        };
        session.close().await;
        Ok(ended)
    }

    async fn events(&self, seconds: Option<u32>) -> Result<ExitCode, Failure> {
        let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(u64::from(seconds)));
        let mut session = self.open()?;
        session.connect(end.unwrap_or_else(|| self.limit(ANSWER_S))).await?;
        let mut known = session.view.events_ever();
        loop {
            // without an end, any time will do to look again
            let until = end.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            match session.next(until).await {
                Heard::Applied(Applied::Event) => {
                    let mut text = String::new();
                    for event in session.view.events_after(known) {
                        if self.options.json {
                            text.push_str(&format!("{}\n", json!(event)));
                        } else {
                            text.push_str(&render::event_line(event));
                        }
                    }
                    known = session.view.events_ever();
                    if print(&text)? == Reader::Gone {
                        break;
                    }
                }
                Heard::Down => {
                    let reason = session.down.as_deref().unwrap_or_default();
                    note(&format!("beehive: connection lost ({}); events may be missed", render::clean(reason)));
                }
                Heard::Up => note("beehive: connected again"),
                Heard::Time if end.is_some() => break,
                Heard::Interrupt => break,
                Heard::Time | Heard::Applied(_) | Heard::Response(_) => {}
            }
        }
        session.close().await;
        Ok(ExitCode::Done)
    }

    async fn act(&self, order: &Order, acting: Acting, terminal: &mut dyn Terminal) -> Result<ExitCode, Failure> {
        if let (Some(stake), Mode::Execute) = (&order.stake, order.mode) {
            let consent = if acting.yes { Consent::Given } else { Consent::Ask };
            confirm(terminal, consent, &stake.effect, &stake.name)?;
        }
        let limit = self.limit(if acting.wait { END_S } else { ANSWER_S });
        let mut session = self.open()?;
        let done = self.converse(&mut session, order, acting, limit).await;
        session.close().await;
        done
    }

    /// Hands out a way into the cluster.
    async fn kubeconfig(&self, output: Option<&Path>) -> Result<ExitCode, Failure> {
        match output {
            Some(path) if path.symlink_metadata().is_ok() => return Err(access::there(path).into()),
            None if std::io::stdout().is_terminal() => {
                return Err(Trouble::new(
                    ExitCode::Usage,
                    "a kubeconfig holds a private key, and this is a terminal",
                    "what is on a screen stays in its memory",
                    "name a file: beehive cluster kubeconfig -o FILE",
                )
                .into());
            }
            Some(_) | None => {}
        }
        let limit = self.limit(ANSWER_S);
        let user = self.options.user();
        let asker = access::Asker::new(self.crew, &user)?;
        let order = asker.order()?;
        let mut session = self.open()?;
        session.connect(limit).await?;
        let response = session.ask(&order, limit).await;
        session.close().await;
        let response = response?;
        if let Some(trouble) = refusal(&order, &response) {
            return Err(trouble.into());
        }
        let kubeconfig = asker.open(&response)?;
        match output {
            None => {
                print(&kubeconfig.text)?;
            }
            Some(path) => {
                access::write(path, &kubeconfig)?;
                if self.options.json {
                    print_document(&json!({ "file": path, "server": kubeconfig.server, "user": user }))?;
                } else {
                    print(&format!(
                        "{}: opens {} for {user}; keep it as you keep a key\n",
                        path.display(),
                        kubeconfig.server
                    ))?;
                }
            }
        }
        Ok(ExitCode::Done)
    }

    async fn converse(
        &self,
        session: &mut Session,
        order: &Order,
        acting: Acting,
        limit: Instant,
    ) -> Result<ExitCode, Failure> {
        session.connect(limit).await?;
        if needs_the_picture(order, acting) {
            // half the time, so that enough is left for the answer
            session.collect(Instant::now() + limit.saturating_duration_since(Instant::now()) / 2).await?;
        }
        let hands = order.switches_off().then(|| order.need_a_hand(&session.view, session.now_ms()));
        if let Some(hands) = &hands {
            note(&format!("beehive: {}", render::hand_text(hands.as_deref())));
        }
        let hands = hands.flatten();
        let before = session.revisions();
        let answer_limit = limit.min(self.limit(ANSWER_S));
        let response = session.ask(order, answer_limit).await?;
        let document =
            |operation: Option<&OperationView>| render::answer_document(&response, hands.as_deref(), operation);
        if let Some(trouble) = refusal(order, &response) {
            return Err(Failure { trouble, document: Some(document(None)) });
        }
        let follow = match (&response.operation, response.status, acting.wait) {
            (Some(id), ResponseStatus::Started, true) => Some(id),
            (_, _, _) => None,
        };
        let Some(id) = follow else {
            if self.options.json {
                print_document(&document(None))?;
            } else {
                print(&answer_text(order, &response))?;
            }
            return Ok(ExitCode::from(response.status));
        };
        let end = self.follow(session, order, id, before.get(id).copied(), limit).await;
        let operation = session.view.operation_by_id(id);
        let (exit, summary) = match end {
            Ok(end) => end,
            Err(trouble) => return Err(Failure { trouble, document: Some(document(operation)) }),
        };
        if !self.options.json {
            print(&render::outcome_text(&order.title, &summary))?;
        }
        match exit {
            ExitCode::Done => {
                if self.options.json {
                    print_document(&document(operation))?;
                }
                Ok(exit)
            }
            ExitCode::Failed
            | ExitCode::Usage
            | ExitCode::UnknownNode
            | ExitCode::NotAuthorised
            | ExitCode::Refused
            | ExitCode::OutcomeUnknown
            | ExitCode::PartlyDone
            | ExitCode::Unreachable
            | ExitCode::Alarm => {
                let failed = summary.failures.first();
                let why = failed.map_or(String::new(), |failure| {
                    let reason = render::clean(failure.reason.as_str());
                    format!("{} on {} failed: {reason}", failure.step, failure.node)
                });
                let fix = "mend the cause, then `beehive cluster resume` tries what failed once more";
                let trouble = Trouble::new(exit, format!("the {} {}", order.title, ended(summary.phase)), why, fix);
                Err(Failure { trouble, document: Some(document(operation)) })
            }
        }
    }

    /// Shows the operation's steps until it has ended.
    async fn follow(
        &self,
        session: &mut Session,
        order: &Order,
        id: &OperationId,
        before: Option<u32>,
        limit: Instant,
    ) -> Result<(ExitCode, OperationSummary), Trouble> {
        let mut reporter = Reporter::new();
        reporter.line(&format!("{}: operation {id}", order.title));
        loop {
            if let Some(operation) = session.view.operation_by_id(id) {
                let fresh = operation.summary.as_ref().filter(|summary| match before {
                    Some(revision) => revision != summary.revision,
                    // of an operation that existed before, what the broker kept may be its earlier end
                    None => order.kind().is_some() || operation.was_heard_live(),
                });
                if let Some(summary) = fresh {
                    reporter.show(operation);
                    if let Some(exit) = of_operation(summary.phase, order.wanted) {
                        return Ok((exit, summary.clone()));
                    }
                }
            }
            match session.next(limit).await {
                Heard::Applied(_) | Heard::Response(_) => {}
                Heard::Down => {
                    let reason = render::clean(session.down.as_deref().unwrap_or_default());
                    reporter.line(&format!("connection to the broker lost ({reason}); the operation does not need it"));
                }
                Heard::Up => reporter.line("connected again"),
                Heard::Time => {
                    let why = match &session.down {
                        Some(reason) => format!("the connection to the broker was lost: {reason}"),
                        None => "its end was not reported in time".to_owned(),
                    };
                    return Err(unknown_end(order, id, why, "a longer --timeout waits longer"));
                }
                Heard::Interrupt => {
                    let fix = "`beehive cluster abort` calls it off";
                    return Err(unknown_end(order, id, "interrupted; the operation goes on".to_owned(), fix));
                }
            }
        }
    }
}

/// Whether the crew must be known before the coordinator is asked.
fn needs_the_picture(order: &Order, acting: Acting) -> bool {
    match order.kind() {
        // who is on, and so will need a hand
        Some(OperationKind::Shutdown) => true,
        Some(
            OperationKind::Create
            | OperationKind::Rebuild
            | OperationKind::Upgrade
            | OperationKind::Reset
            | OperationKind::Reboot
            | OperationKind::Start
            | OperationKind::NodeDrain
            | OperationKind::NodeUncordon
            | OperationKind::NodeJoin
            | OperationKind::NodeLeave
            | OperationKind::NodeReset
            | OperationKind::NodeReboot
            | OperationKind::NodeShutdown
            | OperationKind::NodeIdentify,
        ) => false,
        // abort and resume are about an operation that exists: what was reported of it before is not its end
        None => acting.wait,
    }
}

fn unknown_end(order: &Order, id: &OperationId, why: String, fix: &str) -> Trouble {
    let what = format!("the {} (operation {id}) has begun; how it ends is not known", order.title);
    Trouble::new(ExitCode::OutcomeUnknown, what, why, format!("`beehive status` shows how far it is; {fix}"))
}

/// How an operation ended, after its name in a sentence.
fn ended(phase: OperationPhase) -> &'static str {
    match phase {
        OperationPhase::Running | OperationPhase::Paused | OperationPhase::Aborting => "has not ended",
        OperationPhase::Done => "is done",
        OperationPhase::Failed => "failed",
        OperationPhase::Aborted => "was called off",
        OperationPhase::PartlyDone => "is only partly done",
    }
}

/// The trouble in an answer; nothing if it is a good one.
fn refusal(order: &Order, response: &ConsoleResponse) -> Option<Trouble> {
    let (code, text) = (render::clean(response.code.as_str()), render::clean(response.text.as_str()));
    let exit = ExitCode::from(response.status);
    let title = &order.title;
    let (what, why, fix) = match response.status {
        ResponseStatus::Started | ResponseStatus::Done | ResponseStatus::Unchanged | ResponseStatus::Planned => {
            return None;
        }
        ResponseStatus::Refused => {
            let fix = match &response.operation {
                Some(id) => format!("operation {id} stands in the way: wait for it, or see `beehive status`"),
                None => "see `beehive status`; where the rule allows it --force sets it aside".to_owned(),
            };
            (format!("refused: {title}"), format!("rule {code}: {text}"), fix)
        }
        ResponseStatus::UnknownNode => {
            (format!("unknown node: {title}"), text, "check the name; `beehive node list` shows all nodes".to_owned())
        }
        ResponseStatus::NotAuthorised => (
            format!("not authorised: {title}"),
            text,
            "ask somebody who may, or as another user with --user".to_owned(),
        ),
        ResponseStatus::Invalid => (
            format!("the coordinator did not understand the request: {title}"),
            text,
            "compare `beehive version` here with the version that `beehive node show` gives for the master".to_owned(),
        ),
        ResponseStatus::Failed => (
            format!("failed: {title}"),
            if code.is_empty() { text } else { format!("{code}: {text}") },
            "see `journalctl -u beehive` on the master".to_owned(),
        ),
    };
    let trouble = Trouble::new(exit, what, why, fix);
    Some(if code.is_empty() { trouble } else { trouble.with_code(code) })
}

/// A good answer in words.
fn answer_text(order: &Order, response: &ConsoleResponse) -> String {
    let text = render::clean(response.text.as_str());
    let text = if text.is_empty() { String::new() } else { format!(": {text}") };
    let operation = response.operation.as_ref().map(|id| format!(" (operation {id})")).unwrap_or_default();
    let title = &order.title;
    match response.status {
        ResponseStatus::Planned => render::plan_text(&format!("plan for {title}"), &response.plan),
        ResponseStatus::Started => format!("{title} has begun{operation}{text}\n"),
        ResponseStatus::Done => format!("{title} is done{operation}{text}\n"),
        ResponseStatus::Unchanged => format!("{title}: nothing had to be done{text}\n"),
        ResponseStatus::Refused
        | ResponseStatus::UnknownNode
        | ResponseStatus::NotAuthorised
        | ResponseStatus::Invalid
        | ResponseStatus::Failed => format!("{title} is not done{text}\n"),
    }
}
