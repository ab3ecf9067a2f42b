//! The console's conversation with the crew: a link to the broker, the crew as it is heard, and one request at a time.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use beehive_mqtt::console::{ConsoleRequest, ConsoleResponse};
use beehive_mqtt::coordinator::CoordinatorState;
use beehive_mqtt::direct::DirectRequest;
use beehive_mqtt::node::CommandResult;
use beehive_mqtt::{
    Audience, CrewName, HEARTBEAT_MS, NodeName, OperationId, ProtocolVersion, RequestId, Topic, UserName,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::exit::{ExitCode, Trouble};
use super::model::{Applied, CrewView, Gaps, Seen};
use super::order::Order;
use crate::audit::{Alarm, Kept};
use crate::cli::{AUDIT_HEAD, Broker, ConsoleOptions};
use crate::config::TlsSwitch;
use crate::keys::{Identity, Trust};
use crate::link::{Link, LinkConfig, LinkEvent, Tls};

/// How long the first connection may take. A broker on the local network answers within milliseconds; this is long
/// enough for one that is just starting, and short enough for somebody who mistyped its address.
pub(super) const CONNECT_LIMIT_MS: u64 = 5_000;

/// How often a request is sent again, under the same id, until it is answered. Broker and client may drop a message; the
/// coordinator answers a repeat from its memory.
pub(super) const RESEND_MS: u64 = 1_000;

/// With nothing new for this long the picture is taken as it is. A broker hands out what it keeps within milliseconds.
pub(super) const QUIET_MS: u64 = 1_500;

/// A picture without gaps is taken after this long without anything new, so that those who are not listed get a word in.
pub(super) const SETTLE_MS: u64 = 100;

/// When the picture of the crew after a start is good enough to be shown.
#[derive(Debug)]
pub(super) struct Collection {
    begun_ms: u64,
    new_ms: u64,
}

impl Collection {
    pub(super) fn new(now_ms: u64) -> Self {
        Self { begun_ms: now_ms, new_ms: now_ms }
    }

    pub(super) fn heard(&mut self, now_ms: u64, applied: &Applied) {
        match applied {
            Applied::New => self.new_ms = now_ms,
            Applied::Changed
            | Applied::Event
            | Applied::Stale
            | Applied::NotShown
            | Applied::Refused(_)
            | Applied::Full => {}
        }
    }

    /// When it ends if nothing more comes.
    pub(super) fn ends_ms(&self, gaps: &Gaps, coordinator: Seen) -> u64 {
        let a_heartbeat_later = self.begun_ms + HEARTBEAT_MS + QUIET_MS;
        if gaps.is_empty() {
            self.new_ms + SETTLE_MS
        } else if !gaps.expected_to_speak.is_empty() || (gaps.coordinator && coordinator == Seen::Online) {
            // somebody who is there was not handed out by the broker: the next heartbeat brings the word
            a_heartbeat_later
        } else {
            (self.new_ms + QUIET_MS).min(a_heartbeat_later)
        }
    }
}

/// What happened next.
#[derive(Debug)]
pub(super) enum Heard {
    /// The broker took us.
    Up,
    /// The connection ended or could not be made.
    Down,
    /// A message changed the view, or did not.
    Applied(Applied),
    /// An answer to some request of this user.
    Response(Box<ConsoleResponse>),
    /// The time is up.
    Time,
    /// Ctrl-C, or the service manager's wish.
    Interrupt,
}

/// Whether a request has gone out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Yes,
    No,
}

pub(super) struct Session {
    link: Link,
    events: mpsc::Receiver<LinkEvent>,
    /// Whether more may come from the link: it ends only when it is told to, or by a defect.
    link_lives: bool,
    interrupt: Signal,
    terminate: Signal,
    begun: Instant,
    pub(super) view: CrewView,
    pub(super) crew: CrewName,
    user: UserName,
    broker: Broker,
    /// Why there is no connection; nothing while there is one.
    pub(super) down: Option<String>,
    /// The last head of the coordinator's audit log.
    audit: Option<Kept>,
    alarmed: bool,
    /// Whether the broker has handed out the manifest that we have.
    #[cfg(feature = "workstation")]
    manifest_known: bool,
    /// What a node answered; only where its results are listened to.
    results: VecDeque<CommandResult>,
}

/// The most results that wait to be read: what one node says is read as it comes.
const MAX_RESULTS: usize = 16;

impl Session {
    /// Opens a link; it connects by itself.
    pub(super) fn open(options: &ConsoleOptions, crew: &CrewName) -> Result<Self, Trouble> {
        Self::open_as(options, crew, Audience::Console(options.user()))
    }

    /// The same, listening to what concerns `audience`.
    pub(super) fn open_as(options: &ConsoleOptions, crew: &CrewName, audience: Audience) -> Result<Self, Trouble> {
        let (broker, user) = (&options.broker(), &options.user());
        let trust = trust(options, crew)?;
        let tls = tls(options, crew)?;
        let audit = match Kept::open(&options.identity_dir(crew).join(AUDIT_HEAD)) {
            Ok(kept) => Some(kept),
            Err(error) => {
                eprintln!("beehive: the last head of the audit log is not known: {error}");
                None
            }
        };
        let signals = |kind| {
            signal(kind).map_err(|error| {
                let fix = "raise the limits of this process and try again";
                Trouble::new(ExitCode::Failed, "the console cannot listen for signals", error.to_string(), fix)
            })
        };
        // two consoles of one user are two clients
        let tail = uuid::Uuid::new_v4().simple().to_string();
        let (link, events) = Link::spawn(LinkConfig {
            host: broker.host.clone(),
            port: broker.port,
            tls,
            client_id: format!("console-{user}-{}", &tail[..12]),
            crew: crew.clone(),
            audience,
            presence: None,
            trust,
        });
        Ok(Self {
            link,
            events,
            link_lives: true,
            interrupt: signals(SignalKind::interrupt())?,
            terminate: signals(SignalKind::terminate())?,
            begun: Instant::now(),
            view: CrewView::new(),
            crew: crew.clone(),
            user: user.clone(),
            broker: broker.clone(),
            down: Some("no answer yet".to_owned()),
            audit,
            alarmed: false,
            #[cfg(feature = "workstation")]
            manifest_known: false,
            results: VecDeque::new(),
        })
    }

    /// Milliseconds since this session was opened: the view's clock.
    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn at(&self, ms: u64) -> Instant {
        self.begun + Duration::from_millis(ms)
    }

    /// Waits for the next thing that happens, until `until`.
    pub(super) async fn next(&mut self, until: Instant) -> Heard {
        loop {
            let event = tokio::select! {
                biased;
                _ = self.interrupt.recv() => return Heard::Interrupt,
                _ = self.terminate.recv() => return Heard::Interrupt,
                event = self.events.recv(), if self.link_lives => event,
                () = sleep_until(until) => return Heard::Time,
            };
            match event {
                Some(LinkEvent::Up { .. }) => {
                    self.down = None;
                    return Heard::Up;
                }
                Some(LinkEvent::Down { reason }) => {
                    self.down = Some(reason);
                    return Heard::Down;
                }
                Some(LinkEvent::Message(message)) => {
                    if let Topic::ConsoleResponse(_) = message.topic {
                        // what cannot be read is counted and logged by the link
                        match self.link.decode::<ConsoleResponse>(&message) {
                            Ok(response) => {
                                self.see(|kept| kept.state(response.audit));
                                return Heard::Response(Box::new(response));
                            }
                            Err(_) => continue,
                        }
                    }
                    if let Topic::Result(_) = message.topic {
                        // what cannot be read is counted and logged by the link
                        let Ok(result) = self.link.decode::<CommandResult>(&message) else { continue };
                        if self.results.len() >= MAX_RESULTS {
                            self.results.pop_front();
                        }
                        self.results.push_back(result);
                        return Heard::Applied(Applied::NotShown);
                    }
                    if let (Topic::CoordinatorState, false) = (&message.topic, message.is_cleared()) {
                        if let Ok(state) = self.link.decode::<CoordinatorState>(&message) {
                            self.link.write_in(message.version.unwrap_or(ProtocolVersion::BEFORE));
                            self.see(|kept| kept.state(state.audit));
                        }
                    }
                    #[cfg(feature = "workstation")]
                    if message.topic == Topic::Manifest {
                        self.manifest_known = message.payload == self.link.trust().keyring.signed_manifest();
                    }
                    let now_ms = self.now_ms();
                    return Heard::Applied(self.view.apply(now_ms, &message));
                }
                // the link has counted and logged it
                Some(LinkEvent::Refused { .. }) => {}
                None => {
                    self.link_lives = false;
                    self.down = Some("the link has ended".to_owned());
                    return Heard::Down;
                }
            }
        }
    }

    /// Compares a head of the coordinator's audit log with the last one; says once what is wrong with it.
    fn see(&mut self, compare: impl FnOnce(&mut Kept) -> Result<(), Alarm>) {
        let Some(kept) = &mut self.audit else { return };
        if let Err(alarm) = compare(kept) {
            if !self.alarmed {
                eprintln!("beehive: {alarm}");
            }
            self.alarmed = true;
        }
    }

    /// Waits for the connection, until `limit` at most.
    pub(super) async fn connect(&mut self, limit: Instant) -> Result<(), Trouble> {
        let until = limit.min(self.at(CONNECT_LIMIT_MS));
        while let Some(reason) = self.down.clone() {
            match self.next(until).await {
                Heard::Up | Heard::Down | Heard::Applied(_) | Heard::Response(_) => {}
                Heard::Time => {
                    return Err(Trouble::new(
                        ExitCode::Unreachable,
                        format!("the broker at {} cannot be reached; nothing was asked", self.broker),
                        reason,
                        "see whether it runs there (systemctl status mosquitto), or name another one with --broker",
                    ));
                }
                Heard::Interrupt => return Err(interrupted()),
            }
        }
        Ok(())
    }

    /// Listens until the picture of the crew is complete, or as complete as it will become, until `limit` at most.
    pub(super) async fn collect(&mut self, limit: Instant) -> Result<(), Trouble> {
        let mut collection = Collection::new(self.now_ms());
        loop {
            let ends_ms = collection.ends_ms(&self.view.gaps(), self.view.coordinator_seen());
            match self.next(limit.min(self.at(ends_ms))).await {
                Heard::Applied(applied) => collection.heard(self.now_ms(), &applied),
                Heard::Up | Heard::Down | Heard::Response(_) => {}
                Heard::Time => return Ok(()),
                Heard::Interrupt => return Err(interrupted()),
            }
        }
    }

    /// Asks the coordinator, again each second under the same id, until the answer comes or the time is up.
    pub(super) async fn ask(&mut self, order: &Order, limit: Instant) -> Result<ConsoleResponse, Trouble> {
        let id: RequestId = uuid::Uuid::new_v4().simple().to_string().parse().map_err(|error| {
            Trouble::new(ExitCode::Failed, "no id for the request could be made", format!("it {error}"), "report this")
        })?;
        let topic = Topic::ConsoleRequest(self.user.clone());
        let mut resend = Instant::now();
        let mut asked = Asked::No;
        loop {
            // named anew each time: what the coordinator knows it answers whatever is named, and what it does not know it
            // takes up in its present session alone
            let session = self.view.coordinator().map(|state| state.session.nonce.clone());
            if let (Some(nonce), true) = (session, Instant::now() >= resend) {
                asked = Asked::Yes;
                let request = ConsoleRequest { id: id.clone(), nonce, mode: order.mode, ask: order.ask.clone() };
                self.link.publish(&topic, &request).map_err(|error| {
                    Trouble::new(ExitCode::Failed, "the request cannot be sent", error.to_string(), "report this")
                })?;
                resend = Instant::now() + Duration::from_millis(RESEND_MS);
            }
            let until = match asked {
                Asked::Yes => limit.min(resend),
                // its state is what is waited for
                Asked::No => limit,
            };
            match self.next(until).await {
                // its new state is on its way
                Heard::Response(response) if response.id == id && response.code.as_str() == "stale-nonce" => {}
                Heard::Response(response) if response.id == id => {
                    // nobody can have kept this one: its id is new
                    self.see(|kept| kept.answer(response.audit));
                    return Ok(*response);
                }
                Heard::Up => resend = Instant::now(),
                Heard::Applied(Applied::New | Applied::Changed) if asked == Asked::No => resend = Instant::now(),
                Heard::Down | Heard::Applied(_) | Heard::Response(_) => {}
                Heard::Time if Instant::now() >= limit && asked == Asked::No => return Err(self.unasked(order)),
                Heard::Time if Instant::now() >= limit => return Err(self.unanswered(order)),
                Heard::Time => {}
                Heard::Interrupt if asked == Asked::No => return Err(interrupted()),
                Heard::Interrupt => {
                    return Err(Trouble::new(
                        ExitCode::OutcomeUnknown,
                        format!("interrupted before the answer on the {} came", order.title),
                        "it was sent, and may have begun",
                        "`beehive status` shows whether it did; `beehive cluster abort` calls it off",
                    )
                    .with_code("interrupted"));
                }
            }
        }
    }

    /// The coordinator was never heard, and without its session nothing can be asked.
    fn unasked(&self, order: &Order) -> Trouble {
        Trouble::new(
            ExitCode::Unreachable,
            format!("the {} was not asked for", order.title),
            self.why_silent(),
            format!("see `beehive status`, and on the master `journalctl -u beehive`{}", or_directly(order)),
        )
    }

    fn unanswered(&self, order: &Order) -> Trouble {
        Trouble::new(
            ExitCode::OutcomeUnknown,
            format!("no answer on the {}; whether it has begun is not known", order.title),
            self.why_silent(),
            format!(
                "see `beehive status`, and on the master `journalctl -u beehive`; a longer --timeout waits longer{}",
                or_directly(order)
            ),
        )
    }

    fn why_silent(&self) -> String {
        match (&self.down, self.view.coordinator_seen()) {
            (Some(reason), _) => format!("the connection to the broker at {} was lost: {reason}", self.broker),
            (None, Seen::Offline) => "the coordinator is not connected to the broker".to_owned(),
            (None, Seen::Unknown) => {
                format!("no coordinator of crew {} was ever heard at the broker at {}", self.crew, self.broker)
            }
            (None, Seen::Online | Seen::Silent) => "the coordinator is connected but did not answer in time".to_owned(),
        }
    }

    /// What a node answered since this was asked last.
    pub(super) fn take_results(&mut self) -> VecDeque<CommandResult> {
        std::mem::take(&mut self.results)
    }

    /// Whether the manifest has this node.
    pub(super) fn knows(&self, node: &NodeName) -> bool {
        self.link.trust().keyring.manifest().node(node).is_some()
    }

    /// Publishes the manifest that this user has.
    #[cfg(feature = "workstation")]
    pub(super) fn publish_manifest(&self) {
        self.link.publish_manifest();
    }

    /// Whether the broker has handed out the manifest that this user has.
    #[cfg(feature = "workstation")]
    pub(super) fn manifest_is_known(&self) -> bool {
        self.manifest_known
    }

    /// Tells a node something without the coordinator.
    pub(super) fn tell(&self, node: &NodeName, request: &DirectRequest) -> Result<(), Trouble> {
        let topic = Topic::Direct(self.user.clone(), node.clone());
        self.link.publish(&topic, request).map_err(|error| {
            Trouble::new(ExitCode::Failed, "the request cannot be sent", error.to_string(), "report this")
        })
    }

    /// Every known operation and its revision.
    pub(super) fn revisions(&self) -> BTreeMap<OperationId, u32> {
        let known = self.view.operations();
        known.filter_map(|(id, view)| Some((id.clone(), view.summary.as_ref()?.revision))).collect()
    }

    /// Ends the link in good order.
    pub(super) async fn close(self) {
        if let Some(Err(error)) = self.audit.as_ref().map(Kept::save) {
            eprintln!("beehive: the last head of the audit log is not kept: {error}");
        }
        self.link.close("done").await;
    }
}

/// The way without a coordinator, where there is one.
fn or_directly(order: &Order) -> String {
    order
        .direct_command()
        .map_or(String::new(), |command| format!("; without a coordinator `{command}` asks the node itself"))
}

/// Who asks, and whom to believe.
pub(crate) fn trust(options: &ConsoleOptions, crew: &CrewName) -> Result<Trust, Trouble> {
    let (dir, user) = (options.identity_dir(crew), options.user());
    let trouble = |cause: String| {
        let fix = "name the folder operators/<you> of the crew's folder with --identity, or copy it there; `beehive crew \
                   init` makes it for a new crew, `beehive crew add-user` for a new user";
        Trouble::new(ExitCode::Usage, format!("no keys for {user} of crew {crew}"), cause, fix).with_code("identity")
    };
    let identity = Identity::load(&dir).map_err(|error| trouble(error.to_string()))?;
    if identity.crew != *crew || identity.name != user.as_str() {
        let (crew, name) = (&identity.crew, &identity.name);
        return Err(trouble(format!("the keys in {} are of {name} in crew {crew}", dir.display())));
    }
    identity.trust(None).map_err(|error| trouble(error.to_string()))
}

/// What TLS needs, where the broker is spoken to over it.
fn tls(options: &ConsoleOptions, crew: &CrewName) -> Result<Option<Tls>, Trouble> {
    match options.broker().tls {
        TlsSwitch::Off => Ok(None),
        TlsSwitch::On => Tls::load(&options.identity_dir(crew), crew).map(Some).map_err(|error| {
            let fix = "`beehive broker config` on the crew's folder makes certificates; copy this user's folder again";
            Trouble::new(ExitCode::Usage, "the certificates cannot be used", error.to_string(), fix)
        }),
    }
}

/// Ctrl-C before anything was asked.
pub(super) fn interrupted() -> Trouble {
    Trouble::new(ExitCode::Failed, "interrupted; nothing was asked", "", "").with_code("interrupted")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(change: impl FnOnce(&mut Gaps)) -> Gaps {
        let mut gaps = Gaps::default();
        change(&mut gaps);
        gaps
    }

    #[test]
    fn a_complete_picture_is_taken_at_once_and_a_gap_is_waited_for() {
        let mut collection = Collection::new(1_000);
        let none = Gaps::default();
        assert_eq!(collection.ends_ms(&none, Seen::Online), 1_000 + SETTLE_MS);
        collection.heard(1_050, &Applied::New);
        // what repeats or concerns nobody new does not prolong it
        collection.heard(1_090, &Applied::Changed);
        collection.heard(1_090, &Applied::Stale);
        assert_eq!(collection.ends_ms(&none, Seen::Online), 1_050 + SETTLE_MS);

        let absent = gaps(|gaps| gaps.others.push("pi-3".parse().unwrap()));
        assert_eq!(collection.ends_ms(&absent, Seen::Online), 1_050 + QUIET_MS);
        let withheld = gaps(|gaps| gaps.expected_to_speak.push("pi-2".parse().unwrap()));
        assert_eq!(collection.ends_ms(&withheld, Seen::Online), 1_000 + HEARTBEAT_MS + QUIET_MS);
        let unknown = gaps(|gaps| gaps.coordinator = true);
        assert_eq!(collection.ends_ms(&unknown, Seen::Unknown), 1_050 + QUIET_MS);
        assert_eq!(collection.ends_ms(&unknown, Seen::Online), 1_000 + HEARTBEAT_MS + QUIET_MS);
    }

    #[test]
    fn a_stream_of_news_cannot_keep_it_open_for_ever() {
        let mut collection = Collection::new(0);
        collection.heard(1_000_000, &Applied::New);
        let absent = gaps(|gaps| gaps.operation = true);
        assert_eq!(collection.ends_ms(&absent, Seen::Online), HEARTBEAT_MS + QUIET_MS);
    }
}
