//! What the bridge does with what it hears; without a clock, a socket or randomness of its own.

use beehive_mqtt::bridge::{BIRTH_TOPIC, DoorTopic, Target, Wish};
use beehive_mqtt::console::{ConsoleRequest, ConsoleResponse, Mode};
use beehive_mqtt::coordinator::CoordinatorState;
use beehive_mqtt::node::{Connection, NodeState, Presence};
use beehive_mqtt::{CrewName, MAX_NODES, NodeName, Nonce, RequestId, UserName};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// How often a request is sent again until it is answered.
pub(super) const RESEND_MS: u64 = 1_000;
/// How long an answer is waited for; then the tool is told that the outcome is not known.
pub(super) const ANSWER_MS: u64 = 30_000;
/// The same wish of the same tool within this time is one wish: at quality of service 1 a message may come twice, and
/// a button may be pressed twice.
pub(super) const SAME_MS: u64 = 3_000;
/// The most wishes that wait for their answer. A household has a few; a tool in a loop must not fill the memory.
pub(super) const MAX_OPEN: usize = 16;

/// Whether the broker keeps a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// Yes.
    Yes,
    /// No.
    No,
}

/// Something that comes from a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    pub(super) kept: Keep,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    /// Ask the coordinator.
    Ask(ConsoleRequest),
    /// Publish at the door; an empty payload that is kept removes what was kept there.
    Tell { topic: DoorTopic, keep: Keep, payload: Vec<u8> },
}

struct Open {
    id: RequestId,
    tool: UserName,
    target: Target,
    wish: Wish,
    since_ms: u64,
    sent_ms: u64,
}

struct Last {
    tool: UserName,
    target: Target,
    wish: Wish,
    at_ms: u64,
}

#[derive(Default)]
struct Seen {
    presence: Option<Presence>,
    state: Option<NodeState>,
}

/// The bridge.
pub(super) struct Core {
    crew: CrewName,
    /// Whose key signs: the bridge's own name.
    name: UserName,
    /// The tool that Home Assistant's buttons speak for.
    assistant: UserName,
    /// What the coordinator says, once it has said something.
    coordinator: Option<CoordinatorState>,
    nodes: BTreeMap<NodeName, Seen>,
    open: Vec<Open>,
    /// The wishes of the last moments.
    last: Vec<Last>,
}

impl Core {
    pub(super) fn new(crew: CrewName, name: UserName, assistant: UserName) -> Self {
        Self { crew, name, assistant, coordinator: None, nodes: BTreeMap::new(), open: Vec::new(), last: Vec::new() }
    }

    /// The coordinator's session, for which everything is asked.
    fn session(&self) -> Option<Nonce> {
        self.coordinator.as_ref().map(|state| state.session.nonce.clone())
    }

    fn is_member(&self, node: &NodeName) -> bool {
        self.coordinator.as_ref().is_some_and(|state| state.members.iter().any(|member| member.node == *node))
    }

    /// Something came through the door. `id` is a fresh one, for the request that it may become.
    pub(super) fn heard(&mut self, now_ms: u64, heard: &Heard, id: RequestId) -> Vec<Action> {
        if heard.topic == BIRTH_TOPIC {
            return if heard.payload == b"online" { self.everything() } else { Vec::new() };
        }
        match DoorTopic::parse(&self.crew, &heard.topic) {
            Some(DoorTopic::Wish(tool, target)) => self.wished(now_ms, tool, target, heard, id),
            // what an earlier crew of the same name, or an earlier run, has left behind
            Some(DoorTopic::Discovery(node))
                if self.coordinator.is_some() && !heard.payload.is_empty() && !self.is_member(&node) =>
            {
                self.nodes.remove(&node);
                self.removed(node)
            }
            Some(DoorTopic::Discovery(_) | DoorTopic::Presence(_) | DoorTopic::Shown(..) | DoorTopic::Answer(..))
            | None => Vec::new(),
        }
    }

    fn wished(&mut self, now_ms: u64, tool: UserName, target: Target, heard: &Heard, id: RequestId) -> Vec<Action> {
        let Some(wish) = Wish::parse(&heard.payload) else {
            // an empty one is how a kept one is removed
            if heard.payload.is_empty() {
                return Vec::new();
            }
            let text = "only identify, drain, uncordon, reboot and shutdown are understood, for the crew abort, too";
            return vec![self.answer(&tool, &target, None, "refused", "unknown-word", text)];
        };
        let refuse =
            |core: &Self, code: &str, text: &str| vec![core.answer(&tool, &target, Some(wish), "refused", code, text)];
        if heard.kept == Keep::Yes {
            return refuse(
                self,
                "retained",
                "a retained message is never carried out; publish it without the retain flag",
            );
        }
        let Some(ask) = wish.ask(&target) else {
            return refuse(self, "wrong-target", "this word is for the crew, or for a node, and not for the other");
        };
        if let Target::Node(node) = &target {
            if !self.is_member(node) {
                return refuse(
                    self,
                    "unknown-node",
                    "there is no such node in the crew, or the coordinator was not heard yet",
                );
            }
        }
        self.last.retain(|last| now_ms.saturating_sub(last.at_ms) < SAME_MS);
        if self.last.iter().any(|last| last.tool == tool && last.target == target && last.wish == wish) {
            return refuse(self, "repeated", "the same was asked a moment ago; it counts once");
        }
        if self.open.len() >= MAX_OPEN {
            return refuse(self, "busy", "too many requests wait for an answer; try again later");
        }
        let Some(nonce) = self.session() else {
            return refuse(self, "no-coordinator", "the coordinator was not heard yet");
        };
        let request = ConsoleRequest { id: id.clone(), nonce, mode: Mode::Execute, ask };
        // bounded by the same number: what is not open any more is forgotten soon
        if self.last.len() < 4 * MAX_OPEN {
            self.last.push(Last { tool: tool.clone(), target: target.clone(), wish, at_ms: now_ms });
        }
        self.open.push(Open { id, tool, target, wish, since_ms: now_ms, sent_ms: now_ms });
        vec![Action::Ask(request)]
    }

    fn answer(
        &self,
        tool: &UserName,
        target: &Target,
        wish: Option<Wish>,
        status: &str,
        code: &str,
        text: &str,
    ) -> Action {
        let target = match target {
            Target::Node(node) => node.as_str(),
            Target::Crew => "crew",
        };
        let document = json!({
            "target": target, "wish": wish.map(Wish::as_str), "status": status, "code": code, "text": text
        });
        let topic = DoorTopic::Answer(self.name.clone(), tool.clone());
        Action::Tell { topic, keep: Keep::No, payload: document.to_string().into_bytes() }
    }

    /// The coordinator has answered.
    pub(super) fn answered(&mut self, response: &ConsoleResponse) -> Vec<Action> {
        let Some(at) = self.open.iter().position(|open| open.id == response.id) else { return Vec::new() };
        if response.code.as_str() == "stale-nonce" {
            return Vec::new(); // it is asked again, for the session that has begun
        }
        let Open { tool, target, wish, .. } = self.open.swap_remove(at);
        let status = serde_json::to_value(response.status).ok();
        let status = status.as_ref().and_then(Value::as_str).unwrap_or("failed");
        vec![self.answer(&tool, &target, Some(wish), status, response.code.as_str(), response.text.as_str())]
    }

    /// When [`Core::tick`] is due.
    pub(super) fn due_ms(&self) -> Option<u64> {
        self.open.iter().map(|open| (open.sent_ms + RESEND_MS).min(open.since_ms + ANSWER_MS)).min()
    }

    /// Sends again what is not answered, and gives up what was not answered for long.
    pub(super) fn tick(&mut self, now_ms: u64) -> Vec<Action> {
        let (late, mut open): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.open).into_iter().partition(|open| now_ms >= open.since_ms + ANSWER_MS);
        let mut actions: Vec<_> = late
            .iter()
            .map(|open| {
                let text = "the coordinator did not answer; whether it will be done is not known";
                self.answer(&open.tool, &open.target, Some(open.wish), "unknown", "no-answer", text)
            })
            .collect();
        let session = self.session();
        for open in &mut open {
            if now_ms >= open.sent_ms + RESEND_MS {
                open.sent_ms = now_ms;
                if let (Some(ask), Some(nonce)) = (open.wish.ask(&open.target), session.clone()) {
                    actions.push(Action::Ask(ConsoleRequest { id: open.id.clone(), nonce, mode: Mode::Execute, ask }));
                }
            }
        }
        self.open = open;
        actions
    }

    /// The coordinator has spoken: members come and go.
    pub(super) fn coordinator(&mut self, state: CoordinatorState) -> Vec<Action> {
        let before = self.coordinator.replace(state);
        let first = before.is_none();
        let gone: Vec<NodeName> = (before.iter().flat_map(|state| state.members.iter()))
            .map(|member| member.node.clone())
            .filter(|node| !self.is_member(node))
            .collect();
        let mut actions = Vec::new();
        for node in gone {
            self.nodes.remove(&node);
            actions.extend(self.removed(node));
        }
        let members = || self.coordinator.iter().flat_map(|state| state.members.iter().map(|member| &member.node));
        let old = |node: &NodeName| before.iter().any(|state| state.members.iter().any(|member| member.node == *node));
        for node in members().filter(|node| !old(node)) {
            actions.push(self.discovery(node));
            actions.push(self.shown(node));
        }
        let shown = |state: &CoordinatorState| (state.phase, state.operation.clone());
        if first || before.as_ref().map(shown) != self.coordinator.as_ref().map(shown) {
            actions.extend(self.crew());
        }
        actions
    }

    /// A node has spoken.
    pub(super) fn state(&mut self, node: NodeName, state: NodeState) -> Vec<Action> {
        self.changed(node, |seen| seen.state = Some(state))
    }

    /// A node has come or gone. An older word than the last is not listened to.
    pub(super) fn presence(&mut self, node: NodeName, presence: Presence) -> Vec<Action> {
        self.changed(node, |seen| {
            if seen.presence.as_ref().is_none_or(|known| presence.order() >= known.order()) {
                seen.presence = Some(presence);
            }
        })
    }

    fn changed(&mut self, node: NodeName, change: impl FnOnce(&mut Seen)) -> Vec<Action> {
        // a stranger's names must not fill the memory
        if !self.nodes.contains_key(&node) && self.nodes.len() >= MAX_NODES {
            return Vec::new();
        }
        let before = self.document(&node);
        change(self.nodes.entry(node.clone()).or_default());
        if self.is_member(&node) && self.document(&node) != before { vec![self.shown(&node)] } else { Vec::new() }
    }

    /// Everything that is kept, again: for a broker or an assistant that has started anew.
    pub(super) fn everything(&self) -> Vec<Action> {
        let members: Vec<_> =
            self.coordinator.iter().flat_map(|state| state.members.iter().map(|member| &member.node)).collect();
        let discovery = members.iter().map(|node| self.discovery(node));
        let shown = members.iter().map(|node| self.shown(node));
        discovery.chain(shown).chain(self.crew()).collect()
    }

    fn crew(&self) -> Option<Action> {
        let state = self.coordinator.as_ref()?;
        let document = json!({ "phase": state.phase, "operation": state.operation, "master": state.master });
        let topic = DoorTopic::Shown(self.name.clone(), Target::Crew);
        Some(Action::Tell { topic, keep: Keep::Yes, payload: document.to_string().into_bytes() })
    }

    fn document(&self, node: &NodeName) -> Value {
        let seen = self.nodes.get(node);
        let online = seen.and_then(|seen| seen.presence.as_ref()).map(|presence| presence.status);
        let online = match online {
            Some(Connection::Online) => "online",
            Some(Connection::Offline) | None => "offline",
        };
        let state = seen.and_then(|seen| seen.state.as_ref());
        json!({
            "presence": online,
            "lifecycle": state.map(|state| state.lifecycle),
            "power": state.map(|state| state.power),
            "engine": state.map(|state| state.engine.run),
        })
    }

    fn shown(&self, node: &NodeName) -> Action {
        let topic = DoorTopic::Shown(self.name.clone(), Target::Node(node.clone()));
        Action::Tell { topic, keep: Keep::Yes, payload: self.document(node).to_string().into_bytes() }
    }

    fn removed(&self, node: NodeName) -> Vec<Action> {
        let shown = DoorTopic::Shown(self.name.clone(), Target::Node(node.clone()));
        [DoorTopic::Discovery(node), shown]
            .map(|topic| Action::Tell { topic, keep: Keep::Yes, payload: Vec::new() })
            .to_vec()
    }

    /// The device form of Home Assistant's discovery: the device, the origin, and its components, each with its platform
    /// and a `unique_id`; available while both the bridge and the node are.
    fn discovery(&self, node: &NodeName) -> Action {
        let Self { crew, name, assistant, .. } = self;
        let device = format!("beehive-{crew}-{node}");
        let shown = DoorTopic::Shown(name.clone(), Target::Node(node.clone())).name(crew);
        let wish = DoorTopic::Wish(assistant.clone(), Target::Node(node.clone())).name(crew);
        let mut components = serde_json::Map::new();
        for (field, title) in [("lifecycle", "Cluster"), ("power", "Power"), ("engine", "Engine")] {
            let component = json!({
                "p": "sensor",
                "unique_id": format!("{device}-{field}"),
                "name": title,
                "state_topic": shown.as_str(),
                "value_template": format!("{{{{ value_json.{field} }}}}"),
            });
            components.insert(field.to_owned(), component);
        }
        for (what, title, class) in [
            (Wish::Identify, "Identify", Some("identify")),
            (Wish::Reboot, "Reboot", Some("restart")),
            (Wish::Shutdown, "Shut down", None),
            (Wish::Drain, "Drain", None),
            (Wish::Uncordon, "Uncordon", None),
        ] {
            let word = what.as_str();
            let mut component = json!({
                "p": "button",
                "unique_id": format!("{device}-{word}"),
                "name": title,
                "command_topic": wish.as_str(),
                "payload_press": word,
                "qos": 1,
                "retain": false,
            });
            if let (Some(class), Some(fields)) = (class, component.as_object_mut()) {
                fields.insert("device_class".to_owned(), json!(class));
            }
            components.insert(word.to_owned(), component);
        }
        let document = json!({
            "dev": { "ids": [device], "name": node.as_str(), "mf": "bee42", "mdl": "Raspberry Pi" },
            "o": { "name": "beehive", "sw": env!("CARGO_PKG_VERSION"), "url": env!("CARGO_PKG_REPOSITORY") },
            "availability": [
                { "topic": DoorTopic::Presence(name.clone()).name(crew).as_str() },
                { "topic": shown.as_str(), "value_template": "{{ value_json.presence }}" },
            ],
            "availability_mode": "all",
            "cmps": components,
        });
        let topic = DoorTopic::Discovery(node.clone());
        Action::Tell { topic, keep: Keep::Yes, payload: document.to_string().into_bytes() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use beehive_mqtt::Text;
    use beehive_mqtt::console::{Ask, ResponseStatus};
    use beehive_mqtt::coordinator::{ClusterPhase, Member, Membership, OperationKind, Slot};

    fn core() -> Core {
        let mut core = Core::new("c1".parse().unwrap(), "door".parse().unwrap(), "ha".parse().unwrap());
        core.coordinator(state(&["n0", "n1"]));
        core
    }

    fn state(nodes: &[&str]) -> CoordinatorState {
        let member = |node: &&str| Member {
            node: node.parse().unwrap(),
            membership: Membership::Expected,
            slot: Slot::Free,
            boot: None,
            speaks: None,
        };
        CoordinatorState {
            session: beehive_mqtt::coordinator::Session { term: 1, number: 1, nonce: "c1".parse().unwrap() },
            audit: beehive_mqtt::coordinator::AuditHead::NONE,
            speaks: None,
            master: "n0".parse().unwrap(),
            phase: ClusterPhase::Absent,
            cluster: None,
            operation: None,
            members: nodes.iter().map(member).collect(),
            uptime_ms: 1,
            revision: 1,
        }
    }

    fn heard(topic: &str, payload: &str) -> Heard {
        Heard { topic: topic.to_owned(), payload: payload.into(), kept: Keep::No }
    }

    fn id(text: &str) -> RequestId {
        text.parse().unwrap()
    }

    /// The code of the one answer.
    fn code(actions: &[Action]) -> String {
        let [Action::Tell { topic: DoorTopic::Answer(bridge, tool), keep: Keep::No, payload }] = actions else {
            panic!("{actions:?}")
        };
        assert_eq!((bridge.as_str(), tool.as_str()), ("door", "ha"));
        serde_json::from_slice::<Value>(payload).unwrap()["code"].as_str().unwrap().to_owned()
    }

    const N1: &str = "beehive/v1/c1/b/ha/node/n1";

    #[test]
    fn a_word_becomes_a_request_that_is_repeated_until_it_is_answered() {
        let mut core = core();
        let asked = core.heard(0, &heard(N1, "reboot"), id("r1"));
        let [Action::Ask(request)] = asked.as_slice() else { panic!("{asked:?}") };
        let Ask::Operation { kind: OperationKind::NodeReboot, node: Some(node), .. } = &request.ask else { panic!() };
        assert_eq!((request.id.as_str(), node.as_str()), ("r1", "n1"));
        assert_eq!(core.due_ms(), Some(RESEND_MS));
        assert_eq!(core.tick(RESEND_MS), asked);
        let response = ConsoleResponse {
            id: id("r1"),
            status: ResponseStatus::Started,
            code: Text::cut("started"),
            text: Text::new(),
            operation: None,
            plan: heapless::Vec::new(),
            audit: beehive_mqtt::coordinator::AuditHead::NONE,
            sealed: None,
        };
        assert_eq!(code(&core.answered(&response)), "started");
        assert!(core.answered(&response).is_empty() && core.due_ms().is_none());
    }

    #[test]
    fn without_an_answer_the_tool_is_told_so() {
        let mut core = core();
        core.heard(0, &heard(N1, "drain"), id("r1"));
        assert_eq!(code(&core.tick(ANSWER_MS)), "no-answer");
        assert!(core.tick(ANSWER_MS + RESEND_MS).is_empty());
    }

    #[test]
    fn what_is_not_carried_out_is_answered() {
        let mut core = core();
        for (topic, word, expected) in [
            (N1, "rebuild", "unknown-word"),
            (N1, "reset", "unknown-word"),
            (N1, &"reboot".repeat(10), "unknown-word"),
            (N1, "abort", "wrong-target"),
            ("beehive/v1/c1/b/ha/crew", "identify", "wrong-target"),
            ("beehive/v1/c1/b/ha/node/n7", "reboot", "unknown-node"),
        ] {
            assert_eq!(code(&core.heard(0, &heard(topic, word), id("r1"))), expected, "{word}");
        }
        let kept = Heard { kept: Keep::Yes, ..heard(N1, "reboot") };
        assert_eq!(code(&core.heard(0, &kept, id("r1"))), "retained");
        assert!(core.heard(0, &Heard { kept: Keep::Yes, ..heard(N1, "") }, id("r1")).is_empty());
        assert!(core.due_ms().is_none(), "nothing was asked");
    }

    #[test]
    fn the_same_wish_at_once_counts_once_and_a_loop_is_stopped() {
        let mut core = core();
        assert!(matches!(core.heard(0, &heard(N1, "reboot"), id("r1"))[..], [Action::Ask(_)]));
        assert_eq!(code(&core.heard(SAME_MS - 1, &heard(N1, "reboot"), id("r2"))), "repeated");
        assert!(matches!(core.heard(SAME_MS, &heard(N1, "reboot"), id("r3"))[..], [Action::Ask(_)]));
        let mut refused = None;
        for at in 2..100 {
            let actions = core.heard(at * SAME_MS, &heard(N1, "identify"), id(&format!("i{at}")));
            if !matches!(actions[..], [Action::Ask(_)]) {
                refused = Some((at, code(&actions)));
                break;
            }
        }
        assert_eq!(refused, Some((MAX_OPEN as u64, "busy".to_owned())));
    }

    #[test]
    fn discovery_has_what_home_assistant_demands() {
        let core = core();
        let Action::Tell { topic, keep, payload } = core.discovery(&"n1".parse().unwrap()) else { panic!() };
        assert_eq!(topic.name(&core.crew).as_str(), "homeassistant/device/beehive-c1-n1/config");
        assert_eq!(keep, Keep::Yes);
        let document: Value = serde_json::from_slice(&payload).unwrap();
        assert_eq!(document["dev"]["ids"][0], "beehive-c1-n1");
        assert_eq!(document["o"]["name"], "beehive");
        assert_eq!(document["availability"].as_array().unwrap().len(), 2);
        let components = document["cmps"].as_object().unwrap();
        let mut ids: Vec<_> = components.values().map(|one| one["unique_id"].as_str().unwrap()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!((components.len(), ids.len()), (8, 8));
        for component in components.values() {
            match component["p"].as_str().unwrap() {
                "sensor" => assert_eq!(component["state_topic"], "beehive/v1/c1/h/door/node/n1"),
                "button" => {
                    assert_eq!((&component["command_topic"], &component["retain"]), (&json!(N1), &json!(false)));
                    assert!(Wish::parse(component["payload_press"].as_str().unwrap().as_bytes()).is_some());
                }
                other => panic!("{other}"),
            }
        }
        assert_eq!(components["lifecycle"]["value_template"], "{{ value_json.lifecycle }}");
    }

    #[test]
    fn who_leaves_the_crew_is_removed_and_birth_brings_everything_again() {
        let mut core = core();
        // discovery and state of two nodes, and the crew
        assert_eq!(core.heard(0, &heard(BIRTH_TOPIC, "online"), id("r")).len(), 5);
        assert!(core.heard(0, &heard(BIRTH_TOPIC, "offline"), id("r")).is_empty());
        let actions = core.coordinator(state(&["n0"]));
        let cleared: Vec<_> = actions
            .iter()
            .filter_map(|action| match action {
                Action::Tell { topic, keep: Keep::Yes, payload } if payload.is_empty() => Some(topic.name(&core.crew)),
                Action::Tell { .. } | Action::Ask(_) => None,
            })
            .collect();
        let cleared: Vec<_> = cleared.iter().map(|name| name.as_str()).collect();
        assert_eq!(cleared, ["homeassistant/device/beehive-c1-n1/config", "beehive/v1/c1/h/door/node/n1"]);
        // what an earlier run left
        let left = |node: &str| heard(&format!("homeassistant/device/beehive-c1-{node}/config"), "{}");
        assert_eq!(core.heard(0, &left("n9"), id("r")).len(), 2);
        assert!(core.heard(0, &left("n0"), id("r")).is_empty());
        let mut young = Core::new("c1".parse().unwrap(), "door".parse().unwrap(), "ha".parse().unwrap());
        assert!(young.heard(0, &left("n9"), id("r")).is_empty(), "who belongs to the crew is not known yet");
    }

    #[test]
    fn a_late_last_will_does_not_take_a_node_off() {
        let mut core = core();
        let node: NodeName = "n1".parse().unwrap();
        let word = |status, connection| Presence { status, start: 1, connection, reason: Text::new() };
        assert_eq!(core.presence(node.clone(), word(Connection::Online, 2)).len(), 1);
        assert!(core.presence(node.clone(), word(Connection::Offline, 1)).is_empty());
        assert_eq!(core.presence(node, word(Connection::Offline, 2)).len(), 1);
        assert!(core.presence("n8".parse().unwrap(), word(Connection::Online, 1)).is_empty(), "no member");
    }
}
