//! The stage: a crew, a console that knows of it what MQTT says, and what was seen so far. A script is played on it here;
//! the terminal view shows the same stage.

use super::script::{Expectation, Line, NodeIs, Refusal, Script, Statement, Which, Wish};
use super::world::{CREW, Machine, Note, World, node_name, short};
use crate::console::model::{Applied, CrewView, EventSource, EventView, Seen, word};
use crate::console::render::clean;
use crate::keys::Trust;
use crate::link::{Link, LinkConfig, LinkEvent};
use anyhow::Context;
use beehive_mqtt::console::{Ask, ConsoleRequest, ConsoleResponse, Force, Mode, ResponseStatus};
use beehive_mqtt::coordinator::{Membership, OperationKind, OperationPhase};
use beehive_mqtt::node::Connection;
use beehive_mqtt::{Audience, NodeName, OperationId, RequestId, Text, Topic, UserName};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// Who asks.
pub(super) const USER: &str = "demo";

/// How often a request is sent again, under the same id, until it is answered.
const RESEND: Duration = Duration::from_secs(1);

/// How long an answer may take. It comes within milliseconds; a master that boots takes longer.
const ANSWER: Duration = Duration::from_secs(10);

/// The most lines that are kept.
const MAX_LOG: usize = 2_000;

/// Why the demo ends before its time.
#[derive(Debug)]
pub(super) enum Stop {
    /// Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// SIGHUP: the terminal was closed.
    HangUp,
    /// An expectation failed, or something that the script asked for was refused; says where, what, and what was seen.
    Failed(String),
    /// A defect, or a limit of this machine.
    Broken(anyhow::Error),
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self::Broken(error)
    }
}

/// The signals that end the demo. Listened for before anything is there to be tidied up.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// If the system has no room for that.
    pub(super) fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Stop {
        tokio::select! {
            _ = self.interrupt.recv() => Stop::Interrupt,
            _ = self.terminate.recv() => Stop::Terminate,
            _ = self.hang_up.recv() => Stop::HangUp,
        }
    }
}

/// What happened next.
#[derive(Debug)]
pub(super) enum Happened {
    /// Something was heard, or seen.
    News,
    /// An answer to a request.
    Answer(Box<ConsoleResponse>),
    /// The time is up.
    Time,
}

/// Where lines go as they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Echo {
    /// To standard output.
    Print,
    /// Nowhere; whoever draws reads them.
    Keep,
}

/// One line of what was seen.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Milliseconds since the demo's start.
    pub(super) at_ms: u64,
    /// The node's short name, `crew`, `pi 002` for what was seen at a Pi, or nothing.
    pub(super) who: String,
    pub(super) text: String,
}

impl Entry {
    /// As it is printed.
    pub(super) fn line(&self) -> String {
        format!("{:>4}.{:03} s  {:<6}  {}", self.at_ms / 1_000, self.at_ms % 1_000, self.who, self.text)
    }
}

/// A crew and everything that is known of it.
pub(super) struct Stage {
    pub(super) world: World,
    pub(super) broker: SocketAddr,
    pub(super) view: CrewView,
    /// What was seen; the newest last.
    pub(super) log: VecDeque<Entry>,
    notes: mpsc::UnboundedReceiver<Note>,
    link: Link,
    events: mpsc::Receiver<LinkEvent>,
    user: UserName,
    echo: Echo,
    begun: Instant,
    signals: Signals,
    /// Why a line could not be printed.
    unprinted: Option<std::io::Error>,
    events_known: u64,
    phases: BTreeMap<OperationId, OperationPhase>,
    /// Of each kind, the operation that began last.
    latest: BTreeMap<String, OperationId>,
    /// The lines since the last thing that the script did.
    since_deed: Vec<String>,
    rebuilt: bool,
}

fn console(broker: SocketAddr, user: &UserName, trust: Trust) -> anyhow::Result<(Link, mpsc::Receiver<LinkEvent>)> {
    Ok(Link::spawn(LinkConfig {
        host: broker.ip().to_string(),
        port: broker.port(),
        tls: None,
        client_id: format!("console-{}", uuid::Uuid::new_v4().simple()),
        crew: CREW.parse().map_err(|error| anyhow::anyhow!("the crew's name: {error}"))?,
        audience: Audience::Console(user.clone()),
        presence: None,
        trust,
    }))
}

impl Stage {
    /// A stage on which nothing has been heard yet. `begun` is the demo's start.
    pub(super) fn new(
        world: World,
        notes: mpsc::UnboundedReceiver<Note>,
        broker: SocketAddr,
        begun: Instant,
        echo: Echo,
        signals: Signals,
    ) -> anyhow::Result<Self> {
        let user: UserName = USER.parse().map_err(|error| anyhow::anyhow!("{USER}: {error}"))?;
        let (link, events) = console(broker, &user, world.trust_of(&user)?)?;
        Ok(Self {
            world,
            broker,
            view: CrewView::new(),
            log: VecDeque::new(),
            notes,
            link,
            events,
            user,
            echo,
            begun,
            signals,
            unprinted: None,
            events_known: 0,
            phases: BTreeMap::new(),
            latest: BTreeMap::new(),
            since_deed: Vec::new(),
            rebuilt: false,
        })
    }

    /// Milliseconds since the demo's start: the view's clock too.
    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Adds a line.
    pub(super) fn say(&mut self, who: &str, text: &str) {
        let entry = Entry { at_ms: self.now_ms(), who: clean(who), text: clean(text) };
        let line = entry.line();
        match self.echo {
            // whoever closed the pipe still gets the exit code
            Echo::Print => {
                if let Err(error) = crate::cli::print(format!("{line}\n").as_bytes()) {
                    self.unprinted = Some(error);
                }
            }
            Echo::Keep => {}
        }
        self.since_deed.push(format!("{} {}", entry.who, entry.text));
        if self.log.len() >= MAX_LOG {
            self.log.pop_front();
        }
        self.log.push_back(entry);
    }

    /// Waits for the next thing that happens, until `until`.
    pub(super) async fn next(&mut self, until: Instant) -> Result<Happened, Stop> {
        if let Some(error) = self.unprinted.take() {
            return Err(anyhow::Error::new(error).context("its lines cannot be written to standard output").into());
        }
        tokio::select! {
            biased;
            stop = self.signals.next() => Err(stop),
            Some(note) = self.notes.recv() => {
                self.say(&format!("pi {}", short(&note.node)), &note.text);
                Ok(Happened::News)
            }
            event = self.events.recv() => match event {
                Some(event) => Ok(self.heard(event)),
                None => Err(Stop::Broken(anyhow::anyhow!("the console's link has ended"))),
            },
            () = sleep_until(until) => Ok(Happened::Time),
        }
    }

    fn heard(&mut self, event: LinkEvent) -> Happened {
        match event {
            LinkEvent::Message(message) => {
                if let Topic::ConsoleResponse(_) = message.topic {
                    return match self.link.decode::<ConsoleResponse>(&message) {
                        Ok(response) => Happened::Answer(Box::new(response)),
                        Err(error) => {
                            self.say("", &format!("an answer cannot be read: {error}"));
                            Happened::News
                        }
                    };
                }
                let now_ms = self.now_ms();
                match self.view.apply(now_ms, &message) {
                    Applied::Event => self.tell_events(),
                    Applied::Changed | Applied::New => {
                        if let Topic::Operation(id) = &message.topic {
                            self.tell_operation(id);
                        }
                        self.tell_rebuilt();
                    }
                    Applied::Refused(error) => self.say("", &format!("a message cannot be read: {error}")),
                    Applied::Stale | Applied::NotShown | Applied::Full => {}
                }
            }
            LinkEvent::Down { reason } => self.say("", &format!("the console has no connection: {reason}")),
            LinkEvent::Refused { topic, why } => self.say("", &format!("refused at {topic}: {why:?}")),
            LinkEvent::Up { .. } => {}
        }
        Happened::News
    }

    fn tell_events(&mut self) {
        let new: Vec<(String, String)> = self.view.events_after(self.events_known).map(event_line).collect();
        self.events_known = self.view.events_ever();
        for (who, text) in new {
            self.say(&who, &text);
        }
    }

    fn tell_operation(&mut self, id: &OperationId) {
        let Some(operation) = self.view.operation_by_id(id) else { return };
        let Some(summary) = &operation.summary else { return };
        let (kind, phase) = (summary.kind, summary.phase);
        if self.phases.get(id) == Some(&phase) {
            return;
        }
        let (ended, total) = operation.ended_of_total();
        let node = summary.node.as_ref().map(|node| format!(" of {}", short(node))).unwrap_or_default();
        let by = summary.requested_by.as_str().replace(&format!("{CREW}-"), "");
        let mut text = format!("operation {kind}{node}: {phase}, {ended} of {total} steps, asked for by {by}");
        for failure in &summary.failures {
            text.push_str(&format!("; {} on {} failed: {}", failure.step, short(&failure.node), failure.reason));
        }
        if self.phases.insert(id.clone(), phase).is_none() {
            self.latest.insert(kind.as_str().to_owned(), id.clone());
        }
        self.say("crew", &text);
    }

    /// Says once when the crew is rebuilt: the operation is done, and every member is ready.
    fn tell_rebuilt(&mut self) {
        if self.rebuilt {
            return;
        }
        let id = self.latest.get(OperationKind::Rebuild.as_str());
        let done = id.is_some_and(|id| self.phases.get(id) == Some(&OperationPhase::Done));
        let is_ready = |node: &NodeName| {
            let member = self.view.node(node).and_then(|view| view.member.as_ref());
            member.is_some_and(|member| member.membership == Membership::Ready)
        };
        if done && self.world.pis().iter().all(|pi| is_ready(&pi.node)) {
            self.rebuilt = true;
            let (now_ms, nodes) = (self.now_ms(), self.world.pis().len());
            let text = format!("rebuilt after {}.{:03} s: {nodes} nodes ready", now_ms / 1_000, now_ms % 1_000);
            self.say("crew", &text);
        }
    }

    /// Begins the console anew: another connection, and nothing known.
    pub(super) fn restart_console(&mut self) -> anyhow::Result<()> {
        self.link.abandon();
        (self.link, self.events) = console(self.broker, &self.user, self.world.trust_of(&self.user)?)?;
        self.view = CrewView::new();
        self.events_known = 0;
        self.say("", "the console starts anew and knows nothing");
        Ok(())
    }

    /// Sends a request; the answer comes as [`Happened::Answer`].
    pub(super) fn send(&mut self, request: &ConsoleRequest) -> anyhow::Result<()> {
        // for the session of which the coordinator has told; before that there is nobody to ask
        let Some(state) = self.view.coordinator() else { return Ok(()) };
        let request = &ConsoleRequest { nonce: state.session.nonce.clone(), ..request.clone() };
        Ok(self.link.publish(&Topic::ConsoleRequest(self.user.clone()), request)?)
    }

    /// A new request for `wish`.
    pub(super) fn request(wish: Wish) -> anyhow::Result<ConsoleRequest> {
        let ask = match wish {
            Wish::Abort => Ask::Abort,
            Wish::Resume => Ask::Resume,
            Wish::Operation { kind, node } => {
                Ask::Operation { kind, node: node.map(node_name).transpose()?, version: Text::new(), force: Force::No }
            }
        };
        let id: RequestId =
            uuid::Uuid::new_v4().simple().to_string().parse().map_err(|error| anyhow::anyhow!("an id: {error}"))?;
        let nonce = "unheard".parse().map_err(|error| anyhow::anyhow!("a session {error}"))?;
        Ok(ConsoleRequest { id, nonce, mode: Mode::Execute, ask })
    }

    /// Says what was answered.
    pub(super) fn tell_answer(&mut self, request: &ConsoleRequest, response: &ConsoleResponse) {
        if let (Ask::Operation { kind, .. }, Some(id), ResponseStatus::Started) =
            (&request.ask, &response.operation, response.status)
        {
            self.latest.insert(kind.as_str().to_owned(), id.clone());
        }
        let code = if response.code.as_str().is_empty() { String::new() } else { format!(" ({})", response.code) };
        self.say("crew", &format!("answer: {}{code} {}", word(&response.status), response.text));
    }

    async fn ask(&mut self, wish: Wish) -> Result<ResponseStatus, Stop> {
        let request = Self::request(wish)?;
        let limit = Instant::now() + ANSWER;
        let mut again = Instant::now();
        loop {
            if Instant::now() >= again {
                self.send(&request)?;
                again = Instant::now() + RESEND;
            }
            match self.next(limit.min(again)).await? {
                Happened::Answer(response) if response.id == request.id && response.code.as_str() == "stale-nonce" => {}
                Happened::Answer(response) if response.id == request.id => {
                    self.tell_answer(&request, &response);
                    return Ok(response.status);
                }
                Happened::Time if Instant::now() >= limit => {
                    return Err(Stop::Failed(format!("no answer within {} s", ANSWER.as_secs())));
                }
                Happened::Answer(_) | Happened::News | Happened::Time => {}
            }
        }
    }

    /// Plays a script to its end.
    pub(super) async fn play(&mut self, script: &Script) -> Result<(), Stop> {
        for line in &script.lines {
            self.line(line).await.map_err(|stop| match stop {
                Stop::Failed(why) => Stop::Failed(format!("{}:{}: {}: {why}", script.name, line.number, line.text)),
                Stop::Interrupt | Stop::Terminate | Stop::HangUp | Stop::Broken(_) => stop,
            })?;
        }
        Ok(())
    }

    async fn line(&mut self, line: &Line) -> Result<(), Stop> {
        match &line.statement {
            Statement::Expect { .. } => {}
            Statement::Ask { .. }
            | Statement::Press { .. }
            | Statement::Mains { .. }
            | Statement::Network { .. }
            | Statement::RestartConsole => {
                // what has come by now was before this deed
                while let Ok(note) = self.notes.try_recv() {
                    self.say(&format!("pi {}", short(&note.node)), &note.text);
                }
                self.say(">", &line.text);
                self.since_deed.clear();
            }
        }
        match &line.statement {
            Statement::Ask { wish, refusal } => {
                let status = self.ask(*wish).await?;
                match (status, refusal) {
                    (
                        ResponseStatus::Started
                        | ResponseStatus::Done
                        | ResponseStatus::Unchanged
                        | ResponseStatus::Planned,
                        _,
                    )
                    | (_, Refusal::IsPrinted) => Ok(()),
                    (
                        ResponseStatus::Refused
                        | ResponseStatus::UnknownNode
                        | ResponseStatus::NotAuthorised
                        | ResponseStatus::Invalid
                        | ResponseStatus::Failed,
                        Refusal::EndsTheScript,
                    ) => Err(Stop::Failed(format!("the coordinator's answer is {}", word(&status)))),
                }
            }
            Statement::Press { press, node } => {
                self.pi(*node)?.press(*press);
                Ok(())
            }
            Statement::Mains { node, mains } => {
                self.pi(*node)?.mains(*mains);
                Ok(())
            }
            Statement::Network { node, network } => {
                self.pi(*node)?.network(*network);
                Ok(())
            }
            Statement::RestartConsole => Ok(self.restart_console()?),
            Statement::Expect { within_s, what } => self.expect(*within_s, what).await,
        }
    }

    fn pi(&self, number: u8) -> anyhow::Result<&std::sync::Arc<super::world::Pi>> {
        let pi = usize::from(number).checked_sub(1).and_then(|index| self.world.pis().get(index));
        pi.ok_or_else(|| anyhow::anyhow!("there is no Pi {number:03}"))
    }

    async fn expect(&mut self, within_s: u32, what: &Expectation) -> Result<(), Stop> {
        let until = Instant::now() + Duration::from_secs(u64::from(within_s));
        while !self.holds(what)? {
            match self.next(until).await? {
                Happened::News | Happened::Answer(_) => {}
                Happened::Time => {
                    return Err(Stop::Failed(format!("not within {within_s} s; instead: {}", self.instead(what)?)));
                }
            }
        }
        Ok(())
    }

    fn nodes(&self, which: Which) -> anyhow::Result<Vec<NodeName>> {
        Ok(match which {
            Which::One(number) => vec![node_name(number)?],
            Which::All => self.world.pis().iter().map(|pi| pi.node.clone()).collect(),
        })
    }

    fn holds(&self, what: &Expectation) -> anyhow::Result<bool> {
        Ok(match what {
            Expectation::Node { which, is } => self.nodes(*which)?.iter().all(|node| self.node_is(node, *is)),
            Expectation::Cluster(phase) => self.view.coordinator().is_some_and(|state| state.phase == *phase),
            Expectation::Operation(kind, phase) => {
                let id = self.latest.get(kind.as_str());
                id.is_some_and(|id| self.phases.get(id) == Some(phase))
            }
            Expectation::Event(text) => self.since_deed.iter().any(|line| line.contains(text)),
        })
    }

    fn node_is(&self, node: &NodeName, is: NodeIs) -> bool {
        if let NodeIs::Machine(machine) = is {
            return self.world.pi(node).is_some_and(|pi| pi.machine().as_str() == machine);
        }
        let Some(view) = self.view.node(node) else { return false };
        match is {
            NodeIs::Membership(wanted) => view.member.as_ref().is_some_and(|member| member.membership == wanted),
            NodeIs::Power(wanted) => view.state.as_ref().is_some_and(|state| state.power == wanted),
            NodeIs::Lifecycle(wanted) => view.state.as_ref().is_some_and(|state| state.lifecycle == wanted),
            NodeIs::Presence(Connection::Online) => view.seen(self.now_ms()) == Seen::Online,
            NodeIs::Presence(Connection::Offline) => view.seen(self.now_ms()) == Seen::Offline,
            NodeIs::Machine(_) => false,
        }
    }

    /// What was seen instead of what was expected.
    fn instead(&self, what: &Expectation) -> anyhow::Result<String> {
        Ok(match what {
            Expectation::Node { which, is } => {
                let nodes = self.nodes(*which)?;
                let others = nodes.iter().filter(|node| !self.node_is(node, *is));
                others.map(|node| self.describe(node)).collect::<Vec<_>>().join("; ")
            }
            Expectation::Cluster(_) => match self.view.coordinator() {
                Some(state) => format!("the cluster is {}", word(&state.phase)),
                None => "nothing was heard of the coordinator".to_owned(),
            },
            Expectation::Operation(kind, _) => {
                let phase = self.latest.get(kind.as_str()).map(|id| self.phases.get(id));
                match phase {
                    Some(Some(phase)) => format!("the {kind} is {phase}"),
                    Some(None) => format!("the {kind} was answered, but not reported"),
                    None => format!("no {kind} was heard of"),
                }
            }
            Expectation::Event(_) => match self.since_deed.last() {
                Some(last) => format!("{} other lines, the last: {last}", self.since_deed.len()),
                None => "nothing happened".to_owned(),
            },
        })
    }

    fn describe(&self, node: &NodeName) -> String {
        let machine = match self.world.pi(node).map(|pi| pi.machine()) {
            Some(Machine::Halted(why)) => format!("halted ({why})"),
            Some(machine) => machine.as_str().to_owned(),
            None => "not there".to_owned(),
        };
        let Some(view) = self.view.node(node) else {
            return format!("node {}: nothing heard, machine {machine}", short(node));
        };
        let membership = view.member.as_ref().map_or("-", |member| member.membership.as_str());
        let (power, lifecycle) = match &view.state {
            Some(state) => (word(&state.power), word(&state.lifecycle)),
            None => ("-".to_owned(), "-".to_owned()),
        };
        format!(
            "node {}: membership {membership}, power {power}, presence {}, lifecycle {lifecycle}, machine {machine}",
            short(node),
            view.seen(self.now_ms()).as_str()
        )
    }

    /// Ends the console's link and every Pi.
    pub(super) async fn end(self) {
        self.link.abandon();
        self.world.end().await;
    }
}

/// Who said an event, and what. Names lose the crew's part, which is the same for all.
fn event_line(event: &EventView) -> (String, String) {
    let detail = event.detail.replace(&format!("{CREW}-"), "");
    let text = if detail.is_empty() { event.kind.clone() } else { format!("{}: {detail}", event.kind) };
    let node = event.node.as_ref().map(short).unwrap_or_default();
    match event.source {
        EventSource::Node => (node.to_owned(), text),
        EventSource::Coordinator if text.contains(node) => ("crew".to_owned(), text),
        EventSource::Coordinator => ("crew".to_owned(), format!("{node} {text}")),
    }
}
