//! The crew as a reader of MQTT sees it: a pure model that takes messages in and gives nodes, operations and events out.
//! No clock, no socket, no terminal: the time comes in with each message, and the console's tables, its progress, its
//! JSON and the demo's live view all read from here.
//!
//! What it rests on (the protocol's rules, `beehive_mqtt`):
//! - Messages arrive in any order across topics, and a broker may hand a new subscriber only part of what it keeps. So
//!   every part of a node may be missing, and [`CrewView::gaps`] says what is.
//! - A presence whose pair (start, connection) is lower than the highest seen is stale; an equal or higher one counts.
//! - An operation's messages carry a revision that grows; a lower one than the highest seen is stale.
//! - A node repeats its state every [`HEARTBEAT_MS`]. So a state that was *not* kept by the broker shows that its node
//!   is connected, and an online node that says nothing for [`SILENT_AFTER_MS`] is not taken at its word.
//!
//! Everything is bounded: strangers on the broker cannot make the model grow without limit.

use std::collections::{BTreeMap, VecDeque};

use beehive_mqtt::coordinator::{
    CoordinatorEvent, CoordinatorState, Member, Membership, OperationNode, OperationSummary, StepReport, StepState,
};
use beehive_mqtt::node::{Connection, NodeEvent, NodeInfo, NodeState, Presence, Role, Telemetry};
use beehive_mqtt::{DecodeError, HEARTBEAT_MS, MAX_NODES, NodeName, OperationId, Payload, Topic, decode};
use serde::Serialize;

use crate::link::{Incoming, Retained};

/// After this long without a live message an online node counts as silent, in milliseconds. Three heartbeats may get
/// lost (quality of service 0); half of one more is margin.
pub const SILENT_AFTER_MS: u64 = 3 * HEARTBEAT_MS + HEARTBEAT_MS / 2;

/// The most nodes that are kept: a full crew, and as many again that speak without being listed (a Pi under a new name).
pub const MAX_NODES_SHOWN: usize = 2 * MAX_NODES;

/// The most operations that are kept. The coordinator keeps five finished ones; those of single nodes may run beside.
pub const MAX_OPERATIONS: usize = 16;

/// The most events that are kept: several screens full.
pub const MAX_EVENTS: usize = 256;

/// What a message did to the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// A node, the coordinator or an operation is now known better or differently.
    Changed,
    /// As [`Applied::Changed`], and it is the first presence or state of this node, or the first word of the coordinator
    /// or of an operation. Whoever collects the picture after a start waits for these.
    New,
    /// An event came; it is the last of [`CrewView::events`].
    Event,
    /// Nothing: it was said again, or is older than what is known.
    Stale,
    /// Nothing: the view does not show messages of this topic.
    NotShown,
    /// Nothing: it cannot be read. Counted in [`CrewView::refused`].
    Refused(DecodeError),
    /// Nothing: the view is full ([`MAX_NODES_SHOWN`]). Counted in [`CrewView::refused`].
    Full,
}

/// Whether a node is there, from all that was heard of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// Connected, and heard of lately.
    Online,
    /// Not connected: it said so, or the broker did in its stead.
    Offline,
    /// Said to be connected, but not heard for [`SILENT_AFTER_MS`].
    Silent,
    /// Nothing was heard that tells.
    Unknown,
}

impl Seen {
    /// The word in tables; `-` where nothing is known.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Silent => "silent",
            Self::Unknown => "-",
        }
    }
}

/// One node: the last of everything that it said, and what the coordinator says of it.
#[derive(Debug, Clone)]
pub struct NodeView {
    /// Its name.
    pub node: NodeName,
    /// Its last presence that is not stale.
    pub presence: Option<Presence>,
    /// Its last state.
    pub state: Option<NodeState>,
    /// What it is made of.
    pub info: Option<NodeInfo>,
    /// Its last measured values.
    pub telemetry: Option<Telemetry>,
    /// The coordinator's view of it, where the coordinator lists it.
    pub member: Option<Member>,
    /// Events that were sent but did not arrive here, by the gaps in their numbers.
    pub events_missed: u64,
    /// When it was last heard live (not from the broker's store), in the caller's milliseconds.
    pub live_ms: Option<u64>,
    presence_ms: Option<u64>,
    last_event: Option<(u32, u64)>,
}

impl NodeView {
    fn new(node: NodeName) -> Self {
        Self {
            node,
            presence: None,
            state: None,
            info: None,
            telemetry: None,
            member: None,
            events_missed: 0,
            live_ms: None,
            presence_ms: None,
            last_event: None,
        }
    }

    /// Whether it is there, at `now_ms`.
    pub fn seen(&self, now_ms: u64) -> Seen {
        let recent = |since: Option<u64>| since.is_some_and(|at| now_ms.saturating_sub(at) <= SILENT_AFTER_MS);
        match &self.presence {
            Some(Presence { status: Connection::Offline, .. }) => Seen::Offline,
            Some(Presence { status: Connection::Online, .. }) => {
                if recent(self.live_ms) || recent(self.presence_ms) {
                    Seen::Online
                } else {
                    Seen::Silent
                }
            }
            None => match self.live_ms {
                None => Seen::Unknown,
                Some(_) if recent(self.live_ms) => Seen::Online,
                Some(_) => Seen::Silent,
            },
        }
    }
}

/// One operation, as far as it is reported.
#[derive(Debug, Clone, Default)]
pub struct OperationView {
    /// The last summary; its nodes' steps may arrive before it.
    pub summary: Option<OperationSummary>,
    /// Each node's steps. They stay here when the coordinator clears them from the broker at the operation's end.
    pub nodes: BTreeMap<NodeName, OperationNode>,
    /// Grows with each message of any operation: of two operations the higher was heard of later.
    order: u64,
    live: bool,
}

impl OperationView {
    /// The reported steps in the order of the plan.
    pub fn steps(&self) -> Vec<(&NodeName, StepReport)> {
        let mut steps: Vec<_> =
            self.nodes.values().flat_map(|of| of.steps.iter().map(move |step| (&of.node, *step))).collect();
        steps.sort_by_key(|(_, step)| step.number);
        steps
    }

    /// The steps that run.
    pub fn running(&self) -> Vec<(&NodeName, StepReport)> {
        self.steps().into_iter().filter(|(_, step)| step.state == StepState::Running).collect()
    }

    /// How many steps have ended (done, failed or skipped), and how many there are, by the summary.
    pub fn ended_of_total(&self) -> (u32, u32) {
        let Some(summary) = &self.summary else { return (0, 0) };
        let counts = summary.counts;
        let ended = u32::from(counts.done) + u32::from(counts.failed) + u32::from(counts.skipped);
        (ended, ended + u32::from(counts.pending) + u32::from(counts.running))
    }

    /// Whether a summary came as it was published, rather than from the broker's store.
    pub fn was_heard_live(&self) -> bool {
        self.live
    }

    /// Whether the summary says that nothing more comes.
    pub fn is_final(&self) -> bool {
        self.summary.as_ref().is_some_and(|summary| summary.phase.is_final())
    }
}

/// One event, from a node or from the coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EventView {
    /// Who said it.
    #[serde(flatten)]
    pub source: EventSource,
    /// What happened, in the protocol's word.
    pub kind: String,
    /// The node that it is about.
    pub node: Option<NodeName>,
    /// The operation that it is a part of.
    pub operation: Option<OperationId>,
    /// More, for people.
    pub detail: String,
    /// The speaker's milliseconds: since boot for a node, since its start for the coordinator.
    pub uptime_ms: u64,
    /// The node's number of the event.
    pub sequence: Option<u32>,
    /// When it arrived, in the caller's milliseconds.
    #[serde(skip)]
    pub received_ms: u64,
}

/// Who said an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum EventSource {
    /// A node.
    Node,
    /// The coordinator.
    Coordinator,
}

/// What a complete picture still lacks. See [`CrewView::gaps`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gaps {
    /// The coordinator's state has not been heard.
    pub coordinator: bool,
    /// Members without a state or a sign of presence that ought to be there.
    pub expected_to_speak: Vec<NodeName>,
    /// Members without a state or a presence of which the coordinator has not heard either.
    pub others: Vec<NodeName>,
    /// The coordinator names an operation of which nothing has been heard.
    pub operation: bool,
}

impl Gaps {
    /// Whether nothing lacks.
    pub fn is_empty(&self) -> bool {
        !self.coordinator && !self.operation && self.expected_to_speak.is_empty() && self.others.is_empty()
    }
}

/// The crew. See the [module's documentation](self).
#[derive(Debug, Clone, Default)]
pub struct CrewView {
    nodes: BTreeMap<NodeName, NodeView>,
    coordinator: Option<CoordinatorState>,
    coordinator_presence: Option<Presence>,
    operations: BTreeMap<OperationId, OperationView>,
    heard: u64,
    events: VecDeque<EventView>,
    events_ever: u64,
    refused: u64,
}

impl CrewView {
    /// A view that has heard nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in one message that arrived at `now_ms`, in milliseconds of whatever clock the caller has, as long as it is
    /// the same one for each call and never goes back.
    pub fn apply(&mut self, now_ms: u64, message: &Incoming) -> Applied {
        let applied = match &message.topic {
            Topic::Presence(node) => self.presence(now_ms, node, message),
            Topic::State(node) => self.state(now_ms, node, message),
            Topic::Info(node) => self.kept(now_ms, node, message, |view| &mut view.info),
            Topic::Telemetry(node) => self.kept(now_ms, node, message, |view| &mut view.telemetry),
            Topic::Event(node) => self.node_event(now_ms, node, message),
            Topic::CoordinatorPresence => self.coordinator_presence_arrived(message),
            Topic::CoordinatorState => self.coordinator_state(message),
            Topic::Operation(id) => self.operation_summary(id, message),
            Topic::OperationNode(id, node) => self.operation_node(id, node, message),
            Topic::CoordinatorEvent => self.coordinator_event(now_ms, message),
            // the link looks after the manifest
            Topic::Manifest
            | Topic::Request(_)
            | Topic::Result(_)
            | Topic::Command(_)
            | Topic::ConsoleRequest(_)
            | Topic::Direct(..)
            | Topic::ConsoleResponse(_) => Ok(Applied::NotShown),
        };
        let applied = applied.unwrap_or_else(Applied::Refused);
        if matches!(applied, Applied::Refused(_) | Applied::Full) {
            self.refused += 1;
        }
        applied
    }

    /// Every node, the coordinator's members first in its order (the master, then by name), then those that speak without
    /// being listed, by name.
    pub fn nodes(&self) -> Vec<&NodeView> {
        let members = self.coordinator.iter().flat_map(|state| state.members.iter());
        let listed = members.filter_map(|member| self.nodes.get(&member.node));
        listed.chain(self.nodes.values().filter(|view| view.member.is_none())).collect()
    }

    /// One node.
    pub fn node(&self, node: &NodeName) -> Option<&NodeView> {
        self.nodes.get(node)
    }

    /// A node's part in the crew, from the coordinator's word or else its own.
    pub fn role(&self, view: &NodeView) -> Option<Role> {
        match &self.coordinator {
            Some(state) if state.master == view.node => Some(Role::Master),
            Some(_) if view.member.is_some() => Some(Role::Node),
            Some(_) | None => view.info.as_ref().map(|info| info.role),
        }
    }

    /// The cluster as the coordinator sees it.
    pub fn coordinator(&self) -> Option<&CoordinatorState> {
        self.coordinator.as_ref()
    }

    /// Whether the coordinator is connected.
    pub fn coordinator_seen(&self) -> Seen {
        match self.coordinator_presence.as_ref().map(|presence| presence.status) {
            Some(Connection::Online) => Seen::Online,
            Some(Connection::Offline) => Seen::Offline,
            None => Seen::Unknown,
        }
    }

    /// The engine's version, as the master says it.
    pub fn engine_version(&self) -> Option<&str> {
        let master = &self.coordinator.as_ref()?.master;
        let state = self.nodes.get(master)?.state.as_ref()?;
        Some(state.engine.version.as_str()).filter(|version| !version.is_empty())
    }

    /// The operation to show: the one that the coordinator names as running, else one that has not ended, else the one
    /// that was seen to end last. One that had ended before this view began is not shown.
    pub fn operation(&self) -> Option<(&OperationId, &OperationView)> {
        let named = self.coordinator.as_ref().and_then(|state| state.operation.as_ref());
        let newest = |wanted: &dyn Fn(&OperationView) -> bool| {
            self.operations.iter().filter(|(_, view)| wanted(view)).max_by_key(|(_, view)| view.order)
        };
        named
            .and_then(|id| self.operations.get_key_value(id))
            .or_else(|| newest(&|view| view.summary.is_some() && !view.is_final()))
            .or_else(|| newest(&|view| view.is_final() && view.live))
    }

    /// Every operation that is known, by id.
    pub fn operations(&self) -> impl Iterator<Item = (&OperationId, &OperationView)> {
        self.operations.iter()
    }

    /// One operation.
    pub fn operation_by_id(&self, id: &OperationId) -> Option<&OperationView> {
        self.operations.get(id)
    }

    /// The last [`MAX_EVENTS`] events, the oldest first.
    pub fn events(&self) -> impl DoubleEndedIterator<Item = &EventView> {
        self.events.iter()
    }

    /// How many events there have ever been; remember it to ask [`CrewView::events_after`] for the newer ones.
    pub fn events_ever(&self) -> u64 {
        self.events_ever
    }

    /// The events after the first `known` ones, as far as they are still kept.
    pub fn events_after(&self, known: u64) -> impl Iterator<Item = &EventView> {
        let new = usize::try_from(self.events_ever.saturating_sub(known)).unwrap_or(usize::MAX);
        self.events.iter().skip(self.events.len().saturating_sub(new))
    }

    /// How many messages could not be read or had no room.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// What a complete picture still lacks.
    pub fn gaps(&self) -> Gaps {
        let Some(state) = &self.coordinator else { return Gaps { coordinator: true, ..Gaps::default() } };
        let mut gaps = Gaps {
            operation: state.operation.as_ref().is_some_and(|id| !self.operations.contains_key(id)),
            ..Gaps::default()
        };
        for member in &state.members {
            let complete = self
                .nodes
                .get(&member.node)
                .is_some_and(|view| view.state.is_some() && (view.presence.is_some() || view.live_ms.is_some()));
            if complete {
                continue;
            }
            match member.membership {
                Membership::Expected | Membership::Lost => gaps.others.push(member.node.clone()),
                Membership::Blank
                | Membership::Joining
                | Membership::Ready
                | Membership::NotReady
                | Membership::Draining
                | Membership::Cordoned
                | Membership::CordonedByOthers
                | Membership::Leaving
                | Membership::Broken => gaps.expected_to_speak.push(member.node.clone()),
            }
        }
        gaps
    }

    fn entry(&mut self, node: &NodeName) -> Option<&mut NodeView> {
        if !self.nodes.contains_key(node) && self.nodes.len() >= MAX_NODES_SHOWN {
            return None;
        }
        Some(self.nodes.entry(node.clone()).or_insert_with(|| NodeView::new(node.clone())))
    }

    /// Somebody cleared what the broker kept of a node: forget that part, and the node with its last one.
    fn cleared(&mut self, node: &NodeName, clear: impl FnOnce(&mut NodeView)) -> Applied {
        let Some(view) = self.nodes.get_mut(node) else { return Applied::Stale };
        clear(view);
        if view.presence.is_none() && view.state.is_none() && view.info.is_none() && view.member.is_none() {
            self.nodes.remove(node);
        }
        Applied::Changed
    }

    fn presence(&mut self, now_ms: u64, node: &NodeName, message: &Incoming) -> Result<Applied, DecodeError> {
        if message.payload.is_empty() {
            return Ok(self.cleared(node, |view| view.presence = None));
        }
        let presence: Presence = decode(&message.payload)?;
        let Some(view) = self.entry(node) else { return Ok(Applied::Full) };
        let applied = match &view.presence {
            None => Applied::New,
            Some(known) if presence.order() < known.order() => return Ok(Applied::Stale),
            Some(known) if *known == presence => Applied::Stale,
            Some(_) => Applied::Changed,
        };
        view.presence_ms = Some(now_ms);
        view.presence = Some(presence);
        Ok(applied)
    }

    fn state(&mut self, now_ms: u64, node: &NodeName, message: &Incoming) -> Result<Applied, DecodeError> {
        let first = self.nodes.get(node).is_none_or(|view| view.state.is_none());
        let applied = self.kept(now_ms, node, message, |view| &mut view.state)?;
        Ok(match applied {
            Applied::Changed if first => Applied::New,
            other => other,
        })
    }

    /// Takes in a message of which the last one counts.
    fn kept<P: Payload + PartialEq>(
        &mut self,
        now_ms: u64,
        node: &NodeName,
        message: &Incoming,
        part: fn(&mut NodeView) -> &mut Option<P>,
    ) -> Result<Applied, DecodeError> {
        if message.payload.is_empty() {
            return Ok(self.cleared(node, |view| *part(view) = None));
        }
        let new: P = decode(&message.payload)?;
        let Some(view) = self.entry(node) else { return Ok(Applied::Full) };
        if message.retained == Retained::No {
            view.live_ms = Some(now_ms);
        }
        let part = part(view);
        if part.as_ref() == Some(&new) {
            return Ok(Applied::Stale);
        }
        *part = Some(new);
        Ok(Applied::Changed)
    }

    fn coordinator_presence_arrived(&mut self, message: &Incoming) -> Result<Applied, DecodeError> {
        if message.payload.is_empty() {
            self.coordinator_presence = None;
            return Ok(Applied::Changed);
        }
        let presence: Presence = decode(&message.payload)?;
        let applied = match &self.coordinator_presence {
            None => Applied::New,
            Some(known) if presence.order() < known.order() => return Ok(Applied::Stale),
            Some(known) if *known == presence => return Ok(Applied::Stale),
            Some(_) => Applied::Changed,
        };
        self.coordinator_presence = Some(presence);
        Ok(applied)
    }

    fn coordinator_state(&mut self, message: &Incoming) -> Result<Applied, DecodeError> {
        let order = |state: &CoordinatorState| (state.session.term, state.session.number, state.revision);
        if message.payload.is_empty() {
            self.coordinator = None;
            for view in self.nodes.values_mut() {
                view.member = None;
            }
            return Ok(Applied::Changed);
        }
        let state: CoordinatorState = decode(&message.payload)?;
        let applied = match &self.coordinator {
            None => Applied::New,
            // a replaced coordinator's, or kept by somebody and played again
            Some(known) if order(&state) < order(known) => return Ok(Applied::Stale),
            Some(known) if *known == CoordinatorState { uptime_ms: known.uptime_ms, ..state.clone() } => Applied::Stale,
            Some(_) => Applied::Changed,
        };
        for view in self.nodes.values_mut() {
            view.member = None;
        }
        for member in &state.members {
            // a listed member has its place even where strangers fill the view
            let view = self.nodes.entry(member.node.clone()).or_insert_with(|| NodeView::new(member.node.clone()));
            view.member = Some(member.clone());
        }
        self.nodes.retain(|_, view| {
            view.member.is_some() || view.presence.is_some() || view.state.is_some() || view.info.is_some()
        });
        self.coordinator = Some(state);
        Ok(applied)
    }

    fn operation_entry(&mut self, id: &OperationId) -> &mut OperationView {
        if !self.operations.contains_key(id) && self.operations.len() >= MAX_OPERATIONS {
            // those that have ended go first, then the one that was not heard of for longest
            let oldest = self.operations.iter().min_by_key(|(_, view)| (!view.is_final(), view.order));
            if let Some(oldest) = oldest.map(|(id, _)| id.clone()) {
                self.operations.remove(&oldest);
            }
        }
        self.heard += 1;
        let order = self.heard;
        let view = self.operations.entry(id.clone()).or_default();
        view.order = order;
        view
    }

    fn operation_summary(&mut self, id: &OperationId, message: &Incoming) -> Result<Applied, DecodeError> {
        if message.payload.is_empty() {
            return Ok(match self.operations.remove(id) {
                Some(_) => Applied::Changed,
                None => Applied::Stale,
            });
        }
        let summary: OperationSummary = decode(&message.payload)?;
        let known = self.operations.get(id).and_then(|view| view.summary.as_ref());
        let applied = match known {
            None => Applied::New,
            Some(known) if summary.revision < known.revision || *known == summary => return Ok(Applied::Stale),
            Some(_) => Applied::Changed,
        };
        let view = self.operation_entry(id);
        view.live |= message.retained == Retained::No;
        view.summary = Some(summary);
        Ok(applied)
    }

    fn operation_node(
        &mut self,
        id: &OperationId,
        node: &NodeName,
        message: &Incoming,
    ) -> Result<Applied, DecodeError> {
        if message.payload.is_empty() {
            // cleared at the operation's end: whoever watched it still wants to see how it went
            return Ok(Applied::Stale);
        }
        let report: OperationNode = decode(&message.payload)?;
        let known = self.operations.get(id).and_then(|view| view.nodes.get(node));
        if known.is_some_and(|known| report.revision < known.revision || *known == report) {
            return Ok(Applied::Stale);
        }
        let view = self.operation_entry(id);
        if !view.nodes.contains_key(node) && view.nodes.len() >= MAX_NODES {
            return Ok(Applied::Full);
        }
        view.nodes.insert(node.clone(), report);
        Ok(Applied::Changed)
    }

    fn push_event(&mut self, event: EventView) -> Applied {
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
        self.events_ever += 1;
        Applied::Event
    }

    fn node_event(&mut self, now_ms: u64, node: &NodeName, message: &Incoming) -> Result<Applied, DecodeError> {
        let event: NodeEvent = decode(&message.payload)?;
        if let Some(view) = self.entry(node) {
            view.live_ms = Some(now_ms);
            let this = (event.sequence, event.uptime_ms);
            match view.last_event {
                // quality of service 1 may deliver twice
                Some(last) if last == this => return Ok(Applied::Stale),
                // the numbers start anew with each start of the node's program
                Some((last, _)) if event.sequence > last => view.events_missed += u64::from(event.sequence - last - 1),
                Some(_) | None => {}
            }
            view.last_event = Some(this);
        }
        Ok(self.push_event(EventView {
            source: EventSource::Node,
            kind: word(&event.kind),
            node: Some(node.clone()),
            operation: None,
            detail: event.detail.as_str().to_owned(),
            uptime_ms: event.uptime_ms,
            sequence: Some(event.sequence),
            received_ms: now_ms,
        }))
    }

    fn coordinator_event(&mut self, now_ms: u64, message: &Incoming) -> Result<Applied, DecodeError> {
        let event: CoordinatorEvent = decode(&message.payload)?;
        let view = EventView {
            source: EventSource::Coordinator,
            kind: word(&event.kind),
            node: event.node,
            operation: event.operation,
            detail: event.detail.as_str().to_owned(),
            uptime_ms: event.uptime_ms,
            sequence: None,
            received_ms: now_ms,
        };
        let repeated = self.events.iter().rev().find(|last| last.source == EventSource::Coordinator);
        if repeated.is_some_and(|last| EventView { received_ms: now_ms, ..last.clone() } == view) {
            return Ok(Applied::Stale);
        }
        Ok(self.push_event(view))
    }
}

/// A value's word on the wire.
pub(crate) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(_) | Err(_) => "other".to_owned(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use beehive_mqtt::coordinator::{
        ClusterPhase, CoordinatorEventKind, OperationKind, OperationPhase, Slot, StepCounts, StepKind,
    };
    use beehive_mqtt::node::{EngineRun, EngineState, Lifecycle, NodeEventKind, PowerPhase};
    use beehive_mqtt::{Text, encode};

    pub(crate) fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    /// The view reads what the link has believed already.
    fn signed<P: Payload>(payload: &P) -> Vec<u8> {
        encode(payload, "", &crate::keys::SignKey::from_seed(&[1; 32])).unwrap()
    }

    pub(crate) fn incoming<P: Payload>(topic: Topic, payload: &P, retained: Retained) -> Incoming {
        Incoming { topic, payload: signed(payload), retained, key: None, version: None }
    }

    fn empty(topic: Topic) -> Incoming {
        Incoming { topic, payload: Vec::new(), retained: Retained::No, key: None, version: None }
    }

    pub(crate) fn presence(node: &str, status: Connection, order: (u32, u32), retained: Retained) -> Incoming {
        let presence = Presence { status, start: order.0, connection: order.1, reason: Text::new() };
        incoming(Topic::Presence(name(node)), &presence, retained)
    }

    pub(crate) fn node_state() -> NodeState {
        NodeState {
            lifecycle: Lifecycle::Member,
            power: PowerPhase::Running,
            goal: None,
            led: Text::cut("steady"),
            running: None,
            boot: "boot-1".parse().unwrap(),
            start: 1,
            revision: 1,
            nonce: "s1".parse().unwrap(),
            heard: None,
            engine: EngineState {
                cluster: Some("c-1".parse().unwrap()),
                run: EngineRun::Running,
                version: Text::cut("v1.31.4"),
            },
            last_shutdown: None,
            speaks: None,
            machine: None,
        }
    }

    pub(crate) fn state(node: &str, state: &NodeState, retained: Retained) -> Incoming {
        incoming(Topic::State(name(node)), state, retained)
    }

    pub(crate) fn coordinator_state(members: &[(&str, Membership)]) -> CoordinatorState {
        let mut all = beehive_mqtt::coordinator::CoordinatorState {
            session: beehive_mqtt::coordinator::Session { term: 1, number: 1, nonce: "c1".parse().unwrap() },
            audit: beehive_mqtt::coordinator::AuditHead::NONE,
            speaks: None,
            master: name(members[0].0),
            phase: ClusterPhase::Ready,
            cluster: Some("c-1".parse().unwrap()),
            operation: None,
            members: Default::default(),
            uptime_ms: 1000,
            revision: 1,
        };
        for (node, membership) in members {
            let member =
                Member { node: name(node), membership: *membership, slot: Slot::Free, boot: None, speaks: None };
            all.members.push(member).unwrap();
        }
        all
    }

    pub(crate) fn summary(id: &str, phase: OperationPhase, revision: u32) -> OperationSummary {
        OperationSummary {
            id: id.parse().unwrap(),
            kind: OperationKind::Rebuild,
            node: None,
            phase,
            revision,
            requested_by: Text::cut("user:ann"),
            counts: StepCounts { pending: 2, running: 1, done: 3, failed: 0, skipped: 0 },
            failures: Default::default(),
        }
    }

    pub(crate) fn operation(summary: &OperationSummary, retained: Retained) -> Incoming {
        incoming(Topic::Operation(summary.id.clone()), summary, retained)
    }

    pub(crate) fn steps(id: &str, node: &str, revision: u32, steps: &[(u16, StepKind, StepState)]) -> Incoming {
        steps_that_wait(id, node, revision, steps, "")
    }

    pub(crate) fn steps_that_wait(
        id: &str,
        node: &str,
        revision: u32,
        steps: &[(u16, StepKind, StepState)],
        reason: &str,
    ) -> Incoming {
        let mut report = OperationNode {
            id: id.parse().unwrap(),
            node: name(node),
            revision,
            steps: Default::default(),
            reason: Text::cut(reason),
        };
        for (number, step, state) in steps {
            report.steps.push(StepReport { number: *number, step: *step, state: *state }).unwrap();
        }
        incoming(Topic::OperationNode(id.parse().unwrap(), name(node)), &report, Retained::No)
    }

    pub(crate) fn node_event(node: &str, sequence: u32, uptime_ms: u64) -> Incoming {
        let kind = NodeEventKind::ButtonPressed;
        let event = NodeEvent { kind, detail: Text::cut("short"), uptime_ms, sequence };
        incoming(Topic::Event(name(node)), &event, Retained::No)
    }

    #[test]
    fn a_lower_presence_is_stale_an_equal_offline_counts() {
        let mut view = CrewView::new();
        let node = name("pi-2");
        assert_eq!(view.apply(0, &presence("pi-2", Connection::Online, (3, 2), Retained::No)), Applied::New);
        assert_eq!(view.apply(1, &presence("pi-2", Connection::Offline, (3, 1), Retained::No)), Applied::Stale);
        assert_eq!(view.apply(1, &presence("pi-2", Connection::Offline, (2, 9), Retained::No)), Applied::Stale);
        assert_eq!(view.node(&node).unwrap().seen(1), Seen::Online);
        assert_eq!(view.apply(2, &presence("pi-2", Connection::Offline, (3, 2), Retained::No)), Applied::Changed);
        assert_eq!(view.node(&node).unwrap().seen(2), Seen::Offline);
        assert_eq!(view.apply(3, &presence("pi-2", Connection::Online, (3, 2), Retained::No)), Applied::Changed);
        assert_eq!(view.node(&node).unwrap().seen(3), Seen::Online);
    }

    #[test]
    fn a_node_that_says_nothing_turns_silent_and_a_live_state_shows_that_it_is_there() {
        let mut view = CrewView::new();
        let node = name("pi-2");
        view.apply(0, &presence("pi-2", Connection::Online, (1, 1), Retained::Yes));
        assert_eq!(view.node(&node).unwrap().seen(SILENT_AFTER_MS), Seen::Online);
        assert_eq!(view.node(&node).unwrap().seen(SILENT_AFTER_MS + 1), Seen::Silent);
        view.apply(SILENT_AFTER_MS, &state("pi-2", &node_state(), Retained::No));
        assert_eq!(view.node(&node).unwrap().seen(2 * SILENT_AFTER_MS), Seen::Online);

        // no presence at all: what the broker kept proves nothing, what comes live does
        let other = name("pi-3");
        view.apply(0, &state("pi-3", &node_state(), Retained::Yes));
        assert_eq!(view.node(&other).unwrap().seen(0), Seen::Unknown);
        view.apply(1, &state("pi-3", &node_state(), Retained::No));
        assert_eq!(view.node(&other).unwrap().seen(1), Seen::Online);
        assert_eq!(view.node(&other).unwrap().seen(2 + SILENT_AFTER_MS), Seen::Silent);
    }

    #[test]
    fn the_master_comes_first_and_the_unlisted_last() {
        let mut view = CrewView::new();
        view.apply(0, &state("a-stranger", &node_state(), Retained::No));
        view.apply(0, &state("pi-2", &node_state(), Retained::No));
        let crew = coordinator_state(&[("pi-9", Membership::Ready), ("pi-2", Membership::Ready)]);
        assert_eq!(view.apply(0, &incoming(Topic::CoordinatorState, &crew, Retained::Yes)), Applied::New);
        let order: Vec<_> = view.nodes().iter().map(|view| view.node.as_str().to_owned()).collect();
        assert_eq!(order, ["pi-9", "pi-2", "a-stranger"]);
        assert_eq!(view.role(view.node(&name("pi-9")).unwrap()), Some(Role::Master));
        assert_eq!(view.role(view.node(&name("pi-2")).unwrap()), Some(Role::Node));
        assert_eq!(view.role(view.node(&name("a-stranger")).unwrap()), None);
    }

    #[test]
    fn a_heartbeat_that_says_nothing_new_is_no_change_and_a_lower_term_is_stale() {
        let mut view = CrewView::new();
        let mut crew = coordinator_state(&[("pi-1", Membership::Ready)]);
        crew.session.term = 4;
        view.apply(0, &incoming(Topic::CoordinatorState, &crew, Retained::No));
        crew.uptime_ms += 10_000;
        assert_eq!(view.apply(0, &incoming(Topic::CoordinatorState, &crew, Retained::No)), Applied::Stale);
        crew.session.term = 3;
        crew.phase = ClusterPhase::Absent;
        assert_eq!(view.apply(0, &incoming(Topic::CoordinatorState, &crew, Retained::No)), Applied::Stale);
        assert_eq!(view.coordinator().unwrap().phase, ClusterPhase::Ready);
        crew.session.term = 5;
        assert_eq!(view.apply(0, &incoming(Topic::CoordinatorState, &crew, Retained::No)), Applied::Changed);
    }

    #[test]
    fn the_gaps_name_who_is_missing() {
        let mut view = CrewView::new();
        assert!(view.gaps().coordinator);
        let mut crew = coordinator_state(&[
            ("pi-1", Membership::Ready),
            ("pi-2", Membership::NotReady),
            ("pi-3", Membership::Expected),
            ("pi-4", Membership::Lost),
        ]);
        crew.operation = Some("op-1".parse().unwrap());
        view.apply(0, &incoming(Topic::CoordinatorState, &crew, Retained::Yes));
        view.apply(0, &presence("pi-1", Connection::Online, (1, 1), Retained::Yes));
        view.apply(0, &state("pi-1", &node_state(), Retained::Yes));
        view.apply(0, &presence("pi-2", Connection::Online, (1, 1), Retained::Yes));
        let gaps = view.gaps();
        assert_eq!(gaps.expected_to_speak, [name("pi-2")]);
        assert_eq!(gaps.others, [name("pi-3"), name("pi-4")]);
        assert!(gaps.operation && !gaps.coordinator && !gaps.is_empty());
        view.apply(0, &operation(&summary("op-1", OperationPhase::Running, 1), Retained::Yes));
        // a live state is a sign of presence
        for node in ["pi-2", "pi-3", "pi-4"] {
            view.apply(0, &state(node, &node_state(), Retained::No));
        }
        assert!(view.gaps().is_empty());
    }

    #[test]
    fn operations_keep_their_newest_word_and_their_steps() {
        let mut view = CrewView::new();
        // one that had ended before is known but not shown
        view.apply(0, &operation(&summary("op-0", OperationPhase::Done, 9), Retained::Yes));
        assert!(view.operation().is_none());
        assert_eq!(view.apply(0, &operation(&summary("op-1", OperationPhase::Running, 5), Retained::No)), Applied::New);
        assert_eq!(
            view.apply(0, &operation(&summary("op-1", OperationPhase::Failed, 4), Retained::No)),
            Applied::Stale
        );
        let running = [(2, StepKind::Join, StepState::Running), (3, StepKind::WaitReady, StepState::Pending)];
        assert_eq!(view.apply(0, &steps("op-1", "pi-2", 5, &running)), Applied::Changed);
        view.apply(0, &steps("op-1", "pi-1", 5, &[(1, StepKind::Snapshot, StepState::Done)]));
        assert_eq!(view.apply(0, &steps("op-1", "pi-2", 4, &[])), Applied::Stale);
        let (id, shown) = view.operation().unwrap();
        assert_eq!(id.as_str(), "op-1");
        assert_eq!(shown.ended_of_total(), (3, 6));
        assert_eq!(shown.steps().iter().map(|(_, step)| step.number).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(shown.running().len(), 1);
        // at its end the nodes' topics are cleared, and it is still there to be seen
        view.apply(0, &operation(&summary("op-1", OperationPhase::Done, 6), Retained::No));
        view.apply(0, &empty(Topic::OperationNode("op-1".parse().unwrap(), name("pi-2"))));
        let (id, shown) = view.operation().unwrap();
        assert_eq!((id.as_str(), shown.is_final(), shown.steps().len()), ("op-1", true, 3));
        view.apply(0, &empty(Topic::Operation("op-1".parse().unwrap())));
        assert!(view.operation().is_none());
    }

    #[test]
    fn events_are_numbered_repeats_dropped_and_gaps_counted() {
        let mut view = CrewView::new();
        assert_eq!(view.apply(0, &node_event("pi-2", 1, 100)), Applied::Event);
        assert_eq!(view.apply(0, &node_event("pi-2", 1, 100)), Applied::Stale);
        let known = view.events_ever();
        view.apply(7, &node_event("pi-2", 4, 200));
        // a new start of the program counts from the beginning
        view.apply(8, &node_event("pi-2", 1, 300));
        assert_eq!(view.node(&name("pi-2")).unwrap().events_missed, 2);
        let new: Vec<_> = view.events_after(known).map(|event| (event.sequence, event.received_ms)).collect();
        assert_eq!(new, [(Some(4), 7), (Some(1), 8)]);
        assert_eq!(view.events_after(view.events_ever()).count(), 0);

        let event = CoordinatorEvent {
            kind: CoordinatorEventKind::OperationStarted,
            operation: Some("op-1".parse().unwrap()),
            node: None,
            detail: Text::cut("rebuild"),
            uptime_ms: 5,
        };
        let message = incoming(Topic::CoordinatorEvent, &event, Retained::No);
        assert_eq!(view.apply(9, &message), Applied::Event);
        assert_eq!(view.apply(9, &message), Applied::Stale);
        let last = view.events().next_back().unwrap();
        assert_eq!((last.kind.as_str(), last.source), ("operation_started", EventSource::Coordinator));
    }

    #[test]
    fn what_cannot_be_read_is_counted_and_changes_nothing() {
        let mut view = CrewView::new();
        let bad = Incoming {
            topic: Topic::State(name("pi-2")),
            payload: b"{".to_vec(),
            retained: Retained::No,
            key: None,
            version: None,
        };
        assert!(matches!(view.apply(0, &bad), Applied::Refused(DecodeError::Malformed { .. })));
        assert_eq!((view.refused(), view.nodes().len()), (1, 0));
    }

    #[test]
    fn strangers_cannot_make_it_grow_nor_crowd_out_a_member() {
        let mut view = CrewView::new();
        for number in 0..MAX_NODES_SHOWN + 10 {
            view.apply(0, &state(&format!("stranger-{number}"), &node_state(), Retained::No));
        }
        assert_eq!(view.nodes().len(), MAX_NODES_SHOWN);
        assert_eq!(view.refused(), 10);
        let crew = coordinator_state(&[("pi-1", Membership::Ready)]);
        view.apply(0, &incoming(Topic::CoordinatorState, &crew, Retained::No));
        assert_eq!(view.nodes()[0].node, name("pi-1"));
        for number in 0..2 * MAX_OPERATIONS {
            let phase = if number == 0 { OperationPhase::Running } else { OperationPhase::Done };
            view.apply(0, &operation(&summary(&format!("op-{number}"), phase, 1), Retained::No));
        }
        assert_eq!(view.operations().count(), MAX_OPERATIONS);
        assert!(view.operation_by_id(&"op-0".parse().unwrap()).is_some(), "one that runs stays");
        for sequence in 0..2 * u32::try_from(MAX_EVENTS).unwrap() {
            view.apply(0, &node_event("pi-1", sequence, 0));
        }
        assert_eq!(view.events().count(), MAX_EVENTS);
    }

    #[test]
    fn a_cleared_node_is_forgotten() {
        let mut view = CrewView::new();
        view.apply(0, &state("pi-2", &node_state(), Retained::No));
        assert_eq!(view.apply(0, &empty(Topic::State(name("pi-2")))), Applied::Changed);
        assert!(view.nodes().is_empty());
    }
}
