//! The coordinator's task: what comes over the wire and from Kubernetes becomes events of the core in `beehive_cluster`,
//! and its actions are performed here, in order. It runs on the master beside the agent, with a link of its own, and may
//! start, die and come back at any time: everything it needs is in its record.

mod access;
mod auditor;
mod outside;

use crate::audit::{AuditError, Limits, Log};
use crate::clock::Clock;
use crate::keys::{self, Standing, new_nonce};
use crate::kube::{DrainProgress, Kubernetes, Observed};
use crate::link::{Incoming, Link, LinkEvent, Network, Refusal};
use crate::store::Store;
use auditor::Auditor;
use beehive_cluster::Instant;
use beehive_cluster::coordinator::{
    Action, BrokerLink, CERTIFY_MS, Coordinator, CoordinatorConfig, CoordinatorRecord, Event, FirstSession, Secret,
};
use beehive_cluster::kube::{KubeError, KubeWork};
use beehive_mqtt::Signer;
use beehive_mqtt::command::{Command, SealContext, SealedCredential, Verb};
use beehive_mqtt::console::{Ask, ConsoleRequest, ConsoleResponse, Force, Mode, ResponseStatus};
use beehive_mqtt::coordinator::OperationKind;
use beehive_mqtt::manifest::UserRole;
use beehive_mqtt::node::{CommandResult, Connection, NodeRequest, NodeState, Presence};
use beehive_mqtt::{
    DecodeError, KeyId, NodeName, Payload, ProtocolVersion, RequestId, SpokenVersion, Text, Topic, UserName,
};
pub use outside::Outside;
use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// The name of the coordinator's record in the store.
pub const RECORD: &str = "coordinator";

/// How many answers of the API server may wait; each comes from one request.
const OUTCOMES: usize = 64;

/// How often a coordinator that the manifest does not name looks whether it does now. It is off the wire meanwhile, so no
/// message wakes it; a grant is a person's deed, for which a second is soon.
const GRANT_AGAIN: Duration = Duration::from_secs(1);

/// So much earlier than the core takes a request for a certificate up anew, the present one is given up.
const CERTIFY_MARGIN_MS: u64 = 5_000;

/// The wait before a store that failed is tried again.
const STORE_AGAIN: Duration = Duration::from_secs(1);

/// What a coordinator is made of.
pub struct CoordinatorParts {
    /// What never changes.
    pub config: CoordinatorConfig,
    /// The API server.
    pub kubernetes: Arc<dyn Kubernetes>,
    /// The operator's own programs.
    pub outside: Outside,
    /// Where its record is kept.
    pub store: Store,
    /// The folder of its audit log.
    pub audit: PathBuf,
    /// The way to the broker.
    pub link: Link,
    /// What comes from there.
    pub inbound: mpsc::Receiver<LinkEvent>,
}

struct Task {
    audit: Auditor,
    clock: Clock,
    core: Coordinator,
    kubernetes: Arc<dyn Kubernetes>,
    outside: Outside,
    store: Store,
    link: Link,
    outcomes: mpsc::Sender<Event>,
    store_failed: bool,
    term: u64,
    /// The manifest's.
    revision: u64,
    /// The version of the protocol that the present request was written in.
    asked_in: ProtocolVersion,
}

/// How often an operator is told how far a drain is: a pod a line would be hundreds of messages.
const DRAINS_TOLD_EVERY: Duration = Duration::from_secs(1);

/// Runs a coordinator until `stop` resolves.
///
/// # Errors
/// If its record cannot be read: it would forget an operation that is half done.
pub async fn run(mut parts: CoordinatorParts, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let mut stop = std::pin::pin!(stop);
    loop {
        let granted = parts.granted();
        match granted {
            Grant::Ours => match coordinate(&mut parts, stop.as_mut()).await? {
                End::Stopped => break,
                End::Revoked => continue,
            },
            Grant::Of(other) => {
                tracing::warn!(
                    "the crew's manifest names {other} as coordinator, so this one does nothing; the crew's owner changes \
                     that with `beehive crew grant-coordinator {}`",
                    parts.config.master
                );
            }
            Grant::OtherKey => tracing::warn!("{}", other_key(&parts.config.master)),
        }
        // two that say who coordinates would contradict each other for ever; the agent's link goes on hearing the manifest
        parts.link.set_network(Network::Cut);
        while matches!(parts.granted(), Grant::Of(_) | Grant::OtherKey) {
            tokio::select! {
                () = tokio::time::sleep(GRANT_AGAIN) => {}
                () = stop.as_mut() => {
                    parts.link.close("the coordinator stops").await;
                    return Ok(());
                }
                event = parts.inbound.recv() => if event.is_none() { return Ok(()) },
            }
        }
        parts.link.set_network(Network::Up);
    }
    parts.link.close("the coordinator stops").await;
    Ok(())
}

/// Who coordinates, by the manifest.
enum Grant {
    Ours,
    Of(NodeName),
    /// Of this node, but with another key than this card's.
    OtherKey,
}

fn other_key(node: &NodeName) -> String {
    format!(
        "the crew's manifest names another key for {node} than the one on this card, so this coordinator does nothing: the \
         card was replaced (`beehive crew master replace`). If it was not meant to be, copy nodes/{node} of the crew's \
         folder here and start again"
    )
}

/// How coordinating ended.
enum End {
    Stopped,
    /// The manifest names another node.
    Revoked,
}

impl CoordinatorParts {
    fn granted(&self) -> Grant {
        let trust = self.link.trust();
        let (_, coordinator) = trust.keyring.term();
        if coordinator != self.config.master {
            return Grant::Of(coordinator);
        }
        match trust.keyring.standing(&Topic::CoordinatorPresence, &trust.signer.public()) {
            Standing::Writer => Grant::Ours,
            Standing::Replaced | Standing::Vacant => Grant::OtherKey,
        }
    }
}

/// Opens the audit log. One that is damaged where no power cut damages it is put aside as evidence, and another begins: the
/// crew goes on, and every console that saw the old one raises the alarm.
fn open_log(dir: &Path, link: &Link) -> anyhow::Result<Log> {
    let signer = || Arc::clone(&link.trust().signer) as Arc<dyn Signer + Send + Sync>;
    match Log::open(dir, signer(), Limits::default()) {
        Ok(log) => Ok(log),
        Err(error @ AuditError::Io { .. }) => Err(error.into()),
        Err(error @ AuditError::Damaged { .. }) => {
            let aside = (1..).map(|number| dir.with_extension(format!("damaged-{number}"))).find(|path| !path.exists());
            let aside = aside.unwrap_or_else(|| dir.with_extension("damaged"));
            std::fs::rename(dir, &aside)?;
            tracing::error!("{error}; it is kept in {}, and a new log begins", aside.display());
            Ok(Log::open(dir, signer(), Limits::default())?)
        }
    }
}

async fn coordinate(parts: &mut CoordinatorParts, mut stop: Pin<&mut impl Future<Output = ()>>) -> anyhow::Result<End> {
    let clock = Clock;
    let record: CoordinatorRecord = parts.store.load(RECORD)?.unwrap_or_default();
    let term = parts.link.trust().keyring.term().0;
    let first = FirstSession { term, nonce: new_nonce()? };
    let (core, first) = Coordinator::start(instant(clock), parts.config.clone(), first, record);
    let (outcomes, mut outcomes_in) = mpsc::channel(OUTCOMES);
    let mut view = parts.kubernetes.watch();
    let (mut drains, mut told_drains) = (parts.kubernetes.drains(), tokio::time::Instant::now());
    let audit = open_log(&parts.audit, &parts.link)?;
    let mut task = Task {
        audit: Auditor::new(audit),
        clock,
        core,
        kubernetes: Arc::clone(&parts.kubernetes),
        outside: parts.outside.clone(),
        store: parts.store.clone(),
        link: parts.link.clone(),
        outcomes,
        store_failed: false,
        term,
        revision: parts.link.trust().keyring.manifest().revision,
        asked_in: ProtocolVersion::BEFORE,
    };
    task.audit.started(&task.core.session());
    task.perform(first);
    let seen = view.borrow_and_update().clone();
    task.step(Event::Kube(seen));
    loop {
        match parts.granted() {
            Grant::Ours => {}
            Grant::Of(other) => {
                tracing::warn!("the crew's manifest names {other} as coordinator now; this one stops");
                return Ok(End::Revoked);
            }
            Grant::OtherKey => return Ok(End::Revoked),
        }
        let now = instant(task.clock);
        let pause = if task.store_failed {
            STORE_AGAIN
        } else {
            Duration::from_millis(task.core.next_deadline(now).since_ms(now))
        };
        tokio::select! {
            () = stop.as_mut() => return Ok(End::Stopped),
            event = parts.inbound.recv() => match event {
                Some(event) => task.link_event(event),
                None => return Ok(End::Stopped),
            },
            Some(event) = outcomes_in.recv() => task.ended(event),
            Ok(()) = view.changed() => {
                let seen = view.borrow_and_update().clone();
                task.step(Event::Kube(seen));
            }
            moved = drains_moved(&mut drains, told_drains) => {
                told_drains = tokio::time::Instant::now() + DRAINS_TOLD_EVERY;
                for (node, progress) in moved {
                    task.step(Event::Draining { node, progress });
                }
            }
            () = tokio::time::sleep(pause) => task.step(Event::Tick),
        }
    }
}

/// How far the drains are, once that has changed; not before the moment `from`.
async fn drains_moved(
    drains: &mut Option<watch::Receiver<BTreeMap<NodeName, DrainProgress>>>,
    from: tokio::time::Instant,
) -> Vec<(NodeName, Text<160>)> {
    tokio::time::sleep_until(from).await;
    let Some(drains) = drains else { return std::future::pending().await };
    if drains.changed().await.is_err() {
        return std::future::pending().await;
    }
    let now = drains.borrow_and_update();
    now.iter().map(|(node, progress)| (node.clone(), Text::format(format_args!("{progress}")))).collect()
}

/// Whether a role allows a request.
enum May {
    Ask,
    Not(&'static str),
}

fn may(role: UserRole, request: &ConsoleRequest) -> May {
    match (role, &request.ask, request.mode) {
        (UserRole::Operator, _, _) => May::Ask,
        (UserRole::ReadOnly, _, Mode::DryRun) => May::Ask,
        (UserRole::ReadOnly, _, Mode::Execute) => May::Not("may only watch"),
        (UserRole::Bridge, Ask::Operation { force: Force::Yes, .. }, _) => May::Not("may set no rule aside"),
        (UserRole::Bridge, Ask::Operation { kind, .. }, _) => match kind {
            OperationKind::NodeIdentify
            | OperationKind::NodeDrain
            | OperationKind::NodeUncordon
            | OperationKind::NodeReboot
            | OperationKind::NodeShutdown
            | OperationKind::Reboot
            | OperationKind::Shutdown
            | OperationKind::Start => May::Ask,
            OperationKind::Create
            | OperationKind::Rebuild
            | OperationKind::Reset
            | OperationKind::Upgrade
            | OperationKind::NodeJoin
            | OperationKind::NodeLeave
            | OperationKind::NodeReset => May::Not("is a bridge, and may ask for nothing that makes or destroys"),
        },
        (UserRole::Bridge, Ask::Abort, _) => May::Ask,
        (UserRole::Bridge, Ask::Kubeconfig { .. }, _) => May::Not("is a bridge, and is given no way into the cluster"),
        (UserRole::Bridge, Ask::Resume, _) => May::Not("is a bridge, and may not resume what it does not know"),
    }
}

fn instant(clock: Clock) -> Instant {
    Instant::from_ms(clock.now().as_ms())
}

impl Task {
    fn step(&mut self, event: Event) {
        let actions = self.core.step(instant(self.clock), event);
        self.perform(actions);
    }

    fn perform(&mut self, actions: Vec<Action>) {
        let mut renewal = None;
        for action in actions {
            match action {
                Action::Store(record) => match self.store.save(RECORD, record.as_ref()) {
                    Ok(()) => self.store_failed = false,
                    Err(error) => {
                        tracing::error!("{error}; nothing that rests on it is done until it can be stored");
                        self.store_failed = true;
                        // only notes that the record is unsaved; what it asks for is dropped like the rest
                        let _ = self.core.step(instant(self.clock), Event::StoreFailed);
                        return;
                    }
                },
                Action::Command { node, version, mut command, secret } => {
                    if let Some(secret) = secret {
                        if let Err(why) = self.seal(&node, &mut command, &secret) {
                            // not sent; the step runs out of its time and says that it waits for the node
                            tracing::error!("no join credential for {node}: {why}");
                            continue;
                        }
                    }
                    self.publish_in(version, &Topic::Command(node), command.as_ref());
                }
                Action::Respond { user, mut response } => {
                    // told only when it is on the card; who asks asks again, and is answered from memory
                    if let Err(error) = self.audit.answered(&response) {
                        tracing::error!("{error}; {user} is not answered until it can be recorded");
                        continue;
                    }
                    response.audit = self.audit.head();
                    self.respond(user, response.as_ref());
                }
                Action::State(mut state) => {
                    state.audit = self.audit.head();
                    self.publish(&Topic::CoordinatorState, state.as_ref());
                }
                Action::Operation(summary) => self.publish(&Topic::Operation(summary.id.clone()), summary.as_ref()),
                Action::OperationNode(report) => {
                    self.publish(&Topic::OperationNode(report.id.clone(), report.node.clone()), report.as_ref());
                }
                Action::Clear(topic) => self.link.clear(&topic),
                Action::Tell(event) => {
                    tracing::info!(kind = ?event.kind, "{}", event.detail);
                    self.audit.event(&event);
                    self.publish(&Topic::CoordinatorEvent, &event);
                }
                Action::Kube { token, work, deadline_ms } => self.ask_kubernetes(token, work, deadline_ms),
                Action::Look { token, node } => self.look(token, node),
                Action::SwitchOn { token, node } => self.switch_on(token, node),
                Action::Certify { user, key, request } => self.certify(user, key, request),
                Action::NewSession => match new_nonce() {
                    Ok(nonce) => renewal = Some(Event::Session(nonce)),
                    // it goes on in the present one; when that is full, requests are answered with `busy`
                    Err(error) => tracing::error!("no new session: {error}"),
                },
            }
        }
        if let Some(event) = renewal {
            self.step(event);
        }
    }

    /// Seals a join's credential to the key that the manifest names for the node.
    fn seal(&self, to: &NodeName, command: &mut Command, secret: &Secret) -> Result<(), String> {
        let manifest = self.link.trust().keyring.manifest();
        let entry = manifest.node(to).ok_or("the crew's manifest does not name it; `beehive crew add-node` adds it")?;
        let (id, operation) = (command.id.clone(), command.operation.clone());
        let Verb::Join { cluster, credential, .. } = &mut command.verb else { return Err("it is no join".to_owned()) };
        let context = SealContext {
            crew: self.link.crew(),
            node: to,
            boot: &secret.boot,
            cluster,
            operation: operation.as_ref(),
            command: &id,
        };
        let sealed = keys::seal(&entry.seal, secret.credential.reveal().as_bytes(), &context.bytes());
        *credential = SealedCredential::new(&sealed.map_err(|error| error.to_string())?);
        Ok(())
    }

    /// To everybody: in what every member of the crew reads. What that does not know is no word to those who speak no more.
    fn publish<P: Payload>(&self, topic: &Topic, payload: &P) {
        self.publish_in(self.core.broadcast_version().max(payload.since()), topic, payload);
    }

    /// To a user, in the version in which was asked.
    fn respond(&self, user: UserName, response: &ConsoleResponse) {
        self.publish_in(self.asked_in.max(response.since()), &Topic::ConsoleResponse(user), response);
    }

    fn publish_in<P: Payload>(&self, version: ProtocolVersion, topic: &Topic, payload: &P) {
        if let Err(error) = self.link.publish_in(version, topic, payload) {
            tracing::error!("{error}");
        }
    }

    fn ask_kubernetes(&self, token: u64, work: KubeWork, deadline_ms: u64) {
        let future = self.kubernetes.perform(work);
        let outcomes = self.outcomes.clone();
        tokio::spawn(async move {
            let outcome = match tokio::time::timeout(Duration::from_millis(deadline_ms), future).await {
                Ok(outcome) => outcome,
                Err(_) => Err(KubeError { code: "timed-out", reason: Text::cut("the API server did not end in time") }),
            };
            // fails only when the coordinator has ended
            let _ = outcomes.send(Event::KubeEnded { token, outcome }).await;
        });
    }

    fn look(&self, token: u64, node: NodeName) {
        let (kubernetes, outside, outcomes) =
            (Arc::clone(&self.kubernetes), self.outside.clone(), self.outcomes.clone());
        tokio::spawn(async move {
            let facts = Box::new(outside.look(kubernetes.as_ref(), &node).await);
            // fails only when the coordinator has ended
            let _ = outcomes.send(Event::Looked { token, facts }).await;
        });
    }

    fn switch_on(&self, token: u64, node: NodeName) {
        let (outside, outcomes) = (self.outside.clone(), self.outcomes.clone());
        tokio::spawn(async move {
            let outcome = outside.switch_on(&node).await;
            match &outcome {
                Ok(()) => tracing::info!(%node, "its switch was told to feed it"),
                Err(why) => tracing::warn!(%node, "its switch could not be told to feed it: {why}"),
            }
            // fails only when the coordinator has ended
            let _ = outcomes.send(Event::Switched { token, outcome }).await;
        });
    }

    /// Lets the cluster certify an operator's key, and seals what came of it.
    fn certify(&self, user: UserName, key: KeyId, request: Box<ConsoleRequest>) {
        let (kubernetes, outcomes, crew) =
            (Arc::clone(&self.kubernetes), self.outcomes.clone(), self.link.crew().clone());
        tokio::spawn(async move {
            let limit = Duration::from_millis(CERTIFY_MS.saturating_sub(CERTIFY_MARGIN_MS));
            let issued = tokio::time::timeout(limit, access::issue(kubernetes.as_ref(), &crew, &user, &request)).await;
            let outcome = match issued {
                Ok(outcome) => outcome,
                Err(_) => {
                    let reason = Text::cut("the API server issued no certificate in time");
                    Err(KubeError { code: "timed-out", reason })
                }
            };
            // fails only when the coordinator has ended
            let _ = outcomes.send(Event::Certified { user, key, request, outcome }).await;
        });
    }

    /// Something ended that was begun here.
    fn ended(&mut self, event: Event) {
        if let Event::Certified { user, key, request, .. } = &event {
            // answered in this step
            self.audit.asked(user, *key, request);
            self.asked_in = request.since();
        }
        self.step(event);
    }

    fn link_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up { connection } => {
                tracing::info!(connection, "the coordinator is connected to the broker");
                self.link.publish_manifest();
                self.step(Event::Broker(BrokerLink::Up));
            }
            LinkEvent::Down { reason } => {
                tracing::warn!("the coordinator has no connection to the broker: {reason}");
                self.step(Event::Broker(BrokerLink::Down));
            }
            LinkEvent::Refused { topic, why } => self.refused(&topic, why),
            LinkEvent::Message(message) => self.message(message),
        }
    }

    /// What cannot be read is counted and logged by the link, and changes nothing.
    fn message(&mut self, message: Incoming) {
        if message.is_cleared() {
            return;
        }
        let (term, _) = self.link.trust().keyring.term();
        let revision = self.link.trust().keyring.manifest().revision;
        if revision != self.revision {
            self.revision = revision;
            self.audit.manifest(revision, term);
        }
        if term != self.term {
            self.term = term;
            self.step(Event::Term(term));
        }
        match message.topic.clone() {
            Topic::Presence(node) => {
                let Ok(presence) = self.link.decode::<Presence>(&message) else { return };
                self.step(Event::Presence { node: node.clone(), presence: presence.clone() });
                // an older word is a will that was late, or was kept by somebody; the core has not taken it
                match presence.status {
                    Connection::Offline if self.core.presence_of(&node) == Some(&presence) => {
                        self.kubernetes.observe(&node, Observed::Offline);
                    }
                    Connection::Online | Connection::Offline => {}
                }
            }
            Topic::State(node) => {
                let Ok(state) = self.link.decode::<NodeState>(&message) else { return };
                self.step(Event::State { node: node.clone(), state: Box::new(state.clone()) });
                // one that was kept may be of a node that is long gone, or of another time
                let order = |state: &NodeState| (state.start, state.revision);
                if self.core.state_of(&node).is_some_and(|newest| order(newest) == order(&state)) {
                    self.kubernetes.observe(&node, Observed::State(&state));
                }
            }
            Topic::Result(node) => {
                let Ok(result) = self.link.decode::<CommandResult>(&message) else { return };
                self.step(Event::Result { node, result });
            }
            Topic::Request(node) => {
                let Ok(request) = self.link.decode::<NodeRequest>(&message) else { return };
                self.step(Event::Request { node, request });
            }
            Topic::ConsoleRequest(user) => match self.asked(&message) {
                Ok(request) => match self.link.trust().keyring.role(&user).map(|role| may(role, &request)) {
                    Some(May::Ask) => match message.key {
                        Some(key) => {
                            self.audit.asked(&user, key, &request);
                            self.step(Event::Console { user, key, request });
                        }
                        // cannot be: the link lets no request pass that nobody signed
                        None => tracing::error!("a request without a signature passed the link; it is not taken up"),
                    },
                    Some(May::Not(why)) => self.refuse_console(user, request.id, why),
                    // left the manifest since the link has looked
                    None => self.refuse_console(user, request.id, "is no user of this crew"),
                },
                Err(error) => self.answer_unreadable(user, &error),
            },
            // The link has taken a newer one. What is older was put there by a coordinator of an earlier term that has come
            // back: those who come later should find ours.
            Topic::Manifest => {
                if message.payload != self.link.trust().keyring.signed_manifest() {
                    self.link.publish_manifest();
                }
            }
            // the link watches the coordinator's own presence; the rest is our own or for others
            Topic::CoordinatorPresence
            | Topic::CoordinatorState
            | Topic::CoordinatorEvent
            | Topic::Operation(_)
            | Topic::OperationNode(..)
            | Topic::Info(_)
            | Topic::Telemetry(_)
            | Topic::Event(_)
            | Topic::Command(_)
            | Topic::Direct(..)
            | Topic::ConsoleResponse(_) => {}
        }
    }

    /// A request, whose answer is written as it was.
    fn asked(&mut self, message: &Incoming) -> Result<ConsoleRequest, DecodeError> {
        self.asked_in = message.version.unwrap_or(ProtocolVersion::BEFORE);
        self.link.decode(message)
    }

    /// The link has counted and logged it. Who asked gets an answer; what the broker kept was asked by nobody who waits.
    fn refused(&mut self, topic: &str, why: Refusal) {
        self.audit.refused(why.kind().as_str(), topic, &why.to_string());
        self.asked_in = ProtocolVersion::BEFORE;
        match why {
            Refusal::Oversized { bytes, limit } => {
                if let Ok(Topic::ConsoleRequest(user)) = Topic::parse(self.link.crew(), topic) {
                    let error = DecodeError::Oversized { name: ConsoleRequest::NAME, bytes, limit };
                    self.answer_unreadable(user, &error);
                }
            }
            // whoever it was, the user of that name should know; an answer to a forger tells nothing
            Refusal::Envelope(error) => match Topic::parse(self.link.crew(), topic) {
                Ok(Topic::ConsoleRequest(user)) => self.answer_unreadable(user, &error),
                Ok(Topic::State(node)) => {
                    if let DecodeError::Version { version, .. } = error {
                        let version = SpokenVersion(u8::try_from(version).unwrap_or(u8::MAX));
                        self.step(Event::Unspoken { node, version });
                    }
                }
                Ok(_) | Err(_) => {}
            },
            Refusal::Topic(_) | Refusal::Retained => {}
        }
    }

    /// The user's role does not allow this.
    fn refuse_console(&mut self, user: UserName, id: RequestId, why: &str) {
        self.audit.refused("role", user.as_str(), why);
        let response = ConsoleResponse {
            id,
            status: ResponseStatus::NotAuthorised,
            code: Text::cut("role"),
            text: Text::format(format_args!(
                "{user} {why}; the crew's owner can change that (`beehive crew add-user`)"
            )),
            operation: None,
            plan: heapless::Vec::new(),
            audit: self.audit.head(),
            sealed: None,
        };
        tracing::warn!(%user, "a request was refused: the user {why}");
        self.respond(user, &response);
    }

    /// Somebody asked something that cannot be read: the answer says why, under an id that stands for that.
    fn answer_unreadable(&self, user: UserName, error: &DecodeError) {
        let Ok(id) = "unreadable".parse::<RequestId>() else { return };
        let response = ConsoleResponse {
            id,
            status: match error {
                DecodeError::Distrusted { .. } => ResponseStatus::NotAuthorised,
                DecodeError::Oversized { .. } | DecodeError::Version { .. } | DecodeError::Malformed { .. } => {
                    ResponseStatus::Invalid
                }
            },
            code: Text::cut(error.kind()),
            text: Text::format(format_args!("{error}")),
            operation: None,
            plan: heapless::Vec::new(),
            audit: self.audit.head(),
            sealed: None,
        };
        self.respond(user, &response);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use beehive_mqtt::sign::{ClientKey, ClientProof, SealKey};

    #[test]
    fn only_operators_are_given_a_way_into_the_cluster() {
        let ask = Ask::Kubeconfig { seal: SealKey([1; 32]), client: ClientKey([2; 65]), proof: ClientProof([3; 64]) };
        let asked =
            |mode| ConsoleRequest { id: "r-1".parse().unwrap(), nonce: "c-1".parse().unwrap(), mode, ask: ask.clone() };
        let allowed = |role, mode| matches!(may(role, &asked(mode)), May::Ask);
        assert!(allowed(UserRole::Operator, Mode::Execute));
        assert!(!allowed(UserRole::ReadOnly, Mode::Execute));
        for mode in [Mode::Execute, Mode::DryRun] {
            assert!(!allowed(UserRole::Bridge, mode), "{mode:?}");
        }
    }
}
