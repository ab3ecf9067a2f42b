//! Requests: of operators (`q/<user>/request`) and of nodes whose button was pressed (`n/<node>/request`). The same id is
//! the same request: a repeat is answered from what is kept, and begins nothing.

use super::begin::is_rolling;
use super::look::LOOK_FRESH_MS;
use super::record::{Answered, Heeds, Room, Wish};
use super::{Action, Coordinator, Operation, Scope, Step};
use crate::blockers::Blocker;
use crate::kube::Scheduling;
use crate::plan::{self, Belongs, Clean, Ghost, MasterEnd, PlanNode, PlannedStep, Weight};
use crate::{Destruction, Instant};
use alloc::boxed::Box;
use alloc::vec::Vec;
use beehive_mqtt::command::{Answer, Command, Verb};
use beehive_mqtt::console::{
    Ask, ConsoleRequest, ConsoleResponse, Force, Mode, PlanStep, ResponseStatus, SealedAccess,
};
use beehive_mqtt::coordinator::{AuditHead, CoordinatorEventKind, OperationKind, OperationPhase, StepKind, StepState};
use beehive_mqtt::node::{EngineRun, NodeRequest, Want};
use beehive_mqtt::{KeyId, NodeName, OperationId, RequestId, Text, UserName};

/// How long an answer to a node may take; it is sent again when the node asks again.
const ANSWER_MS: u64 = 30_000;

/// How long after its start the coordinator waits for the word of those that it knows. The broker hands out what it keeps at
/// once, and a node that lives speaks every ten seconds; half of that is what a person waits without wondering.
const WARM_UP_MS: u64 = 5_000;

/// An answer under construction.
pub(super) struct Reply {
    status: ResponseStatus,
    pub(super) code: &'static str,
    text: Text<240>,
    operation: Option<OperationId>,
    plan: Vec<PlannedStep>,
    pub(super) sealed: Option<SealedAccess>,
}

impl Reply {
    pub(super) fn new(status: ResponseStatus, code: &'static str, text: core::fmt::Arguments<'_>) -> Self {
        Self { status, code, text: Text::format(text), operation: None, plan: Vec::new(), sealed: None }
    }

    pub(super) fn refused(code: &'static str, text: core::fmt::Arguments<'_>) -> Self {
        Self::new(ResponseStatus::Refused, code, text)
    }

    fn unchanged(text: core::fmt::Arguments<'_>) -> Self {
        Self::new(ResponseStatus::Unchanged, "unchanged", text)
    }
}

/// What becomes of a request, by the blockers.
enum Heed {
    /// Nothing is in its way but what `--force` sets aside, which is named.
    Free(Text<160>),
    /// It is blocked.
    Refused(Box<Reply>),
    /// That is being found out.
    NotYet,
}

/// What an operator wants, taken apart.
struct Wanted<'a> {
    kind: OperationKind,
    node: Option<&'a NodeName>,
    version: &'a Text<32>,
    force: Force,
}

impl Coordinator {
    pub(super) fn on_console(&mut self, now: Instant, user: &UserName, key: KeyId, request: ConsoleRequest) {
        let digest = request.digest();
        let same = |answered: &&Answered| answered.key == key && answered.id == request.id;
        if let Some(answered) = self.record.answers.iter().find(same) {
            if answered.digest != digest {
                let reply =
                    Reply::refused("id-reused", format_args!("this id was another request's; ask under a new one"));
                let detail = Text::format(format_args!("{user}: {} ({})", reply.text, reply.code));
                self.tell(now, CoordinatorEventKind::Refused, None, None, detail);
                let code = Text::cut(reply.code);
                return self.respond(user, &request.id, reply, code);
            }
            let reply = Reply {
                status: answered.status,
                code: "",
                text: answered.text.clone(),
                operation: answered.operation.clone(),
                plan: Vec::new(),
                sealed: self.accesses.of(key, &request.id),
            };
            let code = answered.code.clone();
            self.respond(user, &request.id, reply, code);
            return;
        }
        if request.nonce != self.nonce {
            // recorded and played again, or made before this session began: who asks in earnest asks for this one
            let text = format_args!("the coordinator has begun another session since; ask again with what it says now");
            let reply = Reply::refused("stale-nonce", text);
            let code = Text::cut(reply.code);
            return self.respond(user, &request.id, reply, code);
        }
        if self.knows_too_little(now) {
            return;
        }
        if request.mode == Mode::Execute && self.record.make_room() == Room::Full {
            let reply = Reply::refused("busy", format_args!("too many requests in one session; ask again in a moment"));
            let code = Text::cut(reply.code);
            return self.respond(user, &request.id, reply, code);
        }
        let reply = match &request.ask {
            Ask::Operation { kind, node, version, force } => {
                let wanted = Wanted { kind: *kind, node: node.as_ref(), version, force: *force };
                match self.plan_for(now, &request.id, &wanted).and_then(|plan| self.understood(plan)) {
                    Err(reply) => *reply,
                    Ok(plan) => match self.heed_blockers(now, &wanted, &plan) {
                        // asked again until it is known; nothing was begun
                        Heed::NotYet => return,
                        Heed::Refused(reply) => *reply,
                        Heed::Free(blockers) => {
                            let set_aside = self.set_aside(now, &request.id, &wanted, &plan, &blockers);
                            match request.mode {
                                Mode::DryRun => planned(plan, &set_aside),
                                Mode::Execute => {
                                    let by = Text::format(format_args!("user:{user}"));
                                    let id = request.id.clone().into();
                                    self.begin_operation(now, id, &wanted, by, plan, &set_aside)
                                }
                            }
                        }
                    },
                }
            }
            Ask::Abort => self.abort(request.mode),
            Ask::Resume => self.resume(now, request.mode),
            Ask::Kubeconfig { .. } => match self.certify(now, user, key, &request) {
                Some(reply) => reply,
                None => return,
            },
        };
        self.close_request(now, user, key, &request, reply);
    }

    /// What `--force` sets aside here, in words: the rule that would have refused this, what a failure of the snapshot would have
    /// meant, and the blockers. Empty where nothing was in the way.
    fn set_aside(
        &self,
        now: Instant,
        id: &RequestId,
        wanted: &Wanted<'_>,
        plan: &[PlannedStep],
        blockers: &Text<160>,
    ) -> Text<160> {
        match wanted.force {
            Force::No => return Text::new(),
            Force::Yes => {}
        }
        let rule = match self.plan_for(now, id, &Wanted { force: Force::No, ..*wanted }) {
            Err(refusal) if refusal.code == SLOT_HELD => {
                // nobody is taken down over the limit: this is begun, and waits
                let holder = self.slots_full(wanted.node).map_or("others", NodeName::as_str);
                Text::<120>::format(format_args!("{SLOT_HELD} (it waits for the slot of {holder} all the same)"))
            }
            Err(refusal) if refusal.status == ResponseStatus::Refused => Text::cut(refusal.code),
            // nothing that force has to do with
            Err(_) | Ok(_) => Text::new(),
        };
        let loses = |step: &PlannedStep| step.kind == StepKind::Snapshot && step.weight == Weight::BestEffort;
        let snapshot = if plan.iter().any(loses) { "a snapshot that fails" } else { "" };
        let mut words = Text::<160>::new();
        for part in [rule.as_str(), snapshot, blockers.as_str()] {
            words = match (words.is_empty(), part.is_empty()) {
                (_, true) => words,
                (true, false) => Text::cut(part),
                (false, false) => Text::format(format_args!("{words}; {part}")),
            };
        }
        words
    }

    /// Remembers the answer, so that a repeat begins nothing, and gives it.
    pub(super) fn close_request(
        &mut self,
        now: Instant,
        user: &UserName,
        key: KeyId,
        request: &ConsoleRequest,
        reply: Reply,
    ) {
        if reply.status == ResponseStatus::Refused {
            let detail = Text::format(format_args!("{user}: {} ({})", reply.text, reply.code));
            self.tell(now, CoordinatorEventKind::Refused, reply.operation.as_ref(), None, detail);
        }
        let code = Text::cut(reply.code);
        // a dry run changes nothing and may be asked again
        if request.mode == Mode::Execute {
            self.record.answers.push(Answered {
                id: request.id.clone(),
                key,
                session: self.record.session,
                digest: request.digest(),
                status: reply.status,
                code: code.clone(),
                text: reply.text.clone(),
                operation: reply.operation.clone(),
            });
        }
        self.respond(user, &request.id, reply, code);
    }

    /// What keeps the plan's rolling work from its nodes.
    fn heed_blockers(&mut self, now: Instant, wanted: &Wanted<'_>, plan: &[PlannedStep]) -> Heed {
        if !is_rolling(wanted.kind) {
            return Heed::Free(Text::new());
        }
        let nodes = plan.iter().filter(|step| step.kind == StepKind::Cordon).map(|step| &step.node);
        let looks: Vec<_> = nodes.map(|node| (node, self.blockers(now, node, LOOK_FRESH_MS))).collect();
        let mut blocked: Vec<(&NodeName, Blocker)> = Vec::new();
        for (node, found) in looks {
            let Some(found) = found else { return Heed::NotYet };
            // what cannot be read now is waited for in the node's turn, as everything is that the API server has to say
            let known = found.into_iter().filter(|blocker| !matches!(blocker, Blocker::Unread(_)));
            blocked.extend(known.map(|blocker| (node, blocker)));
        }
        let Some((node, first)) = blocked.first() else { return Heed::Free(Text::new()) };
        let more = match blocked.len() - 1 {
            0 => Text::<24>::new(),
            more => Text::format(format_args!(", and {more} more")),
        };
        match wanted.force {
            Force::Yes => Heed::Free(Text::format(format_args!("{node}: {first}{more}"))),
            Force::No => Heed::Refused(Box::new(Reply::refused(
                "blocked",
                format_args!("{node} is to be left alone: {first}{more}; --force goes on all the same"),
            ))),
        }
    }

    pub(super) fn respond(&mut self, user: &UserName, id: &RequestId, reply: Reply, code: Text<48>) {
        let mut plan = heapless::Vec::new();
        for step in reply.plan {
            // the plans keep below this bound
            let _ = plan.push(PlanStep { step: step.kind, node: step.node, stage: step.stage });
        }
        let response = ConsoleResponse {
            id: id.clone(),
            status: reply.status,
            code,
            text: reply.text,
            operation: reply.operation,
            plan,
            // the log is the caller's
            audit: AuditHead::NONE,
            sealed: reply.sealed,
        };
        self.out.push(Action::Respond { user: user.clone(), response: Box::new(response) });
    }

    /// The plan, or why there is none. Boxed, because a reply is large and rare.
    fn plan_for(&self, now: Instant, id: &RequestId, wanted: &Wanted<'_>) -> Result<Vec<PlannedStep>, Box<Reply>> {
        let refused = |code, text: core::fmt::Arguments<'_>| Err(Box::new(Reply::refused(code, text)));
        if wanted.kind.destroys() && self.config.destruction == Destruction::RefusedInsecureWire {
            return refused(
                "insecure-wire",
                format_args!("{} destroys, and this wire is neither signed nor encrypted", wanted.kind),
            );
        }
        // its answer was forgotten, its commands' ids may not be: nothing runs a second time under them
        let id: OperationId = id.clone().into();
        if self.record.ended.contains(&id) || self.record.operations.iter().any(|held| held.id == id) {
            let mut reply = Reply::unchanged(format_args!("this request has begun its operation already"));
            reply.operation = Some(id);
            return Err(Box::new(reply));
        }
        if wanted.kind != OperationKind::NodeIdentify {
            if let Some(reply) = self.in_the_way(wanted.kind, wanted.node) {
                return Err(Box::new(reply));
            }
        }
        let known = |node: &NodeName| self.plan_node_for(wanted, node);
        let master = known(&self.config.master);
        let workers: Vec<_> = self.workers().iter().map(known).collect();
        let cluster = self.record.cluster.is_some();
        let plan = match wanted.kind {
            OperationKind::Create => {
                let plan = plan::create(&master, &workers);
                if plan.is_empty() {
                    return Err(Box::new(Reply::unchanged(format_args!(
                        "the cluster is there, and every node is in it"
                    ))));
                }
                self.no_twins(wanted.force, plan.iter().map(|step| &step.node))?;
                plan
            }
            OperationKind::Rebuild => {
                self.no_twins(wanted.force, self.record.known.iter())?;
                let snapshot = match wanted.force {
                    Force::No => Weight::Essential,
                    Force::Yes => Weight::BestEffort,
                };
                plan::rebuild(&master, &workers, snapshot)
            }
            OperationKind::Reset => plan::reset(&master, &workers),
            OperationKind::Reboot => {
                if let (Some(holder), true) = (self.slots_full(None), wanted.force == Force::No && cluster) {
                    return Err(Box::new(slot_held(holder)));
                }
                plan::reboot(&master, &workers)
            }
            OperationKind::Upgrade => {
                if wanted.version.is_empty() {
                    return Err(Box::new(Reply::new(
                        ResponseStatus::Invalid,
                        "no-version",
                        format_args!("upgrade needs the engine version that is wanted (--engine-version)"),
                    )));
                }
                if !cluster {
                    return refused("no-cluster", format_args!("there is no cluster to upgrade"));
                }
                if let (Some(holder), true) = (self.slots_full(None), wanted.force == Force::No) {
                    return Err(Box::new(slot_held(holder)));
                }
                let all = core::iter::once(&master).chain(&workers);
                let members: Vec<_> = all
                    .filter(|node| node.belongs == Belongs::Inside && !self.runs_version(&node.name, wanted.version))
                    .cloned()
                    .collect();
                if members.is_empty() {
                    return Err(Box::new(Reply::unchanged(format_args!("every member runs {}", wanted.version))));
                }
                let snapshot = match wanted.force {
                    Force::No => Weight::Essential,
                    Force::Yes => Weight::BestEffort,
                };
                plan::upgrade(&self.config.master, &members, snapshot)
            }
            OperationKind::Shutdown => {
                let on: Vec<_> = workers.into_iter().filter(|node| self.may_be_on(now, &node.name)).collect();
                plan::shutdown(&master, &on, MasterEnd::Commanded)
            }
            OperationKind::Start => {
                let is_away = |node: &&PlanNode| {
                    let up = self.is_online(now, &node.name);
                    !up || (node.belongs == Belongs::Inside && !self.is_ready_again(now, &node.name))
                };
                let away: Vec<_> = core::iter::once(&master).chain(&workers).filter(is_away).cloned().collect();
                if away.is_empty() {
                    return Err(Box::new(Reply::unchanged(format_args!("every Pi is on, and every member is ready"))));
                }
                plan::start(&away)
            }
            OperationKind::NodeDrain
            | OperationKind::NodeUncordon
            | OperationKind::NodeJoin
            | OperationKind::NodeLeave
            | OperationKind::NodeReset
            | OperationKind::NodeReboot
            | OperationKind::NodeShutdown
            | OperationKind::NodeIdentify => {
                let Some(name) = wanted.node else {
                    return Err(Box::new(Reply::new(
                        ResponseStatus::Invalid,
                        "no-node",
                        format_args!("{} needs a node", wanted.kind),
                    )));
                };
                if !self.record.known.contains(name) {
                    return Err(Box::new(Reply::new(
                        ResponseStatus::UnknownNode,
                        "unknown-node",
                        format_args!("{name} was never heard of; `beehive node list` shows who is there"),
                    )));
                }
                return self.plan_for_node(wanted, name, cluster);
            }
        };
        Ok(plan)
    }

    /// Another node that says that it is the same machine: one card was copied from the other. Such two have one machine-id, and
    /// with that often one address (DHCP) and, to some network add-ons, one node.
    fn twin(&self, name: &NodeName) -> Option<&NodeName> {
        let machine = |name: &NodeName| self.state_of(name).and_then(|state| state.machine.as_ref());
        let own = machine(name)?;
        self.record.known.iter().find(|other| *other != name && machine(other) == Some(own))
    }

    /// None of these is to join while another node is the same machine.
    fn no_twins<'a>(&self, force: Force, mut names: impl Iterator<Item = &'a NodeName>) -> Result<(), Box<Reply>> {
        let found = match force {
            Force::No => names.find_map(|name| self.twin(name).map(|twin| (name, twin))),
            Force::Yes => None,
        };
        let Some((name, twin)) = found else { return Ok(()) };
        Err(Box::new(Reply::refused(
            "duplicate-machine",
            format_args!(
                "{name} and {twin} have one machine-id, so one card is a copy; on one of them remove /etc/machine-id, run \
                 systemd-machine-id-setup and restart it; --force lets them in as they are"
            ),
        )))
    }

    /// What a node that was not heard counts as, for what is wanted.
    fn plan_node_for(&self, wanted: &Wanted<'_>, name: &NodeName) -> PlanNode {
        match (wanted.kind, wanted.force) {
            (OperationKind::Reboot | OperationKind::NodeReboot | OperationKind::NodeShutdown, _) => {
                self.plan_node_that_may_have_joined(name)
            }
            (OperationKind::Upgrade | OperationKind::NodeDrain | OperationKind::NodeLeave, _)
            | (OperationKind::NodeReset, Force::No) => self.plan_node_that_may_be_inside(name),
            (
                OperationKind::Create
                | OperationKind::Rebuild
                | OperationKind::Reset
                | OperationKind::Shutdown
                | OperationKind::Start
                | OperationKind::NodeUncordon
                | OperationKind::NodeJoin
                | OperationKind::NodeIdentify,
                _,
            )
            | (OperationKind::NodeReset, Force::Yes) => self.plan_node(name),
        }
    }

    fn plan_for_node(
        &self,
        wanted: &Wanted<'_>,
        name: &NodeName,
        cluster: bool,
    ) -> Result<Vec<PlannedStep>, Box<Reply>> {
        let refused = |code, text: core::fmt::Arguments<'_>| Err(Box::new(Reply::refused(code, text)));
        let unchanged = |text: core::fmt::Arguments<'_>| Err(Box::new(Reply::unchanged(text)));
        let node = self.plan_node_for(wanted, name);
        let is_master = *name == self.config.master;
        let inside = node.belongs == Belongs::Inside;
        let ours = self.record.cordon_of(name).is_some();
        let holds = self.record.slots.contains(name);
        let scheduling = self.kube_node(name).map(|seen| seen.map(|seen| seen.scheduling));
        let takes_a_slot = match wanted.kind {
            OperationKind::NodeDrain
            | OperationKind::NodeLeave
            | OperationKind::NodeReboot
            | OperationKind::NodeShutdown => inside && wanted.force == Force::No,
            OperationKind::Create
            | OperationKind::Rebuild
            | OperationKind::Reset
            | OperationKind::Reboot
            | OperationKind::Upgrade
            | OperationKind::Shutdown
            | OperationKind::Start
            | OperationKind::NodeUncordon
            | OperationKind::NodeJoin
            | OperationKind::NodeReset
            | OperationKind::NodeIdentify => false,
        };
        if let (Some(holder), true) = (self.slots_full(Some(name)), takes_a_slot) {
            return Err(Box::new(slot_held(holder)));
        }
        match wanted.kind {
            OperationKind::NodeDrain if !inside => refused("not-a-member", format_args!("{name} is in no cluster")),
            OperationKind::NodeDrain => Ok(plan::node_drain(name)),
            // one whose reset by its button failed keeps its slot, and somebody has to be able to free it
            OperationKind::NodeUncordon if !inside && !holds => {
                refused("not-a-member", format_args!("{name} is in no cluster"))
            }
            // its cordon may just be under way, and would come after this
            OperationKind::NodeUncordon if self.is_being_emptied(name) => {
                refused("going-down", format_args!("{name} is being emptied, because somebody pressed its button"))
            }
            OperationKind::NodeUncordon if holds => Ok(plan::node_uncordon(name)),
            OperationKind::NodeUncordon => match (scheduling, wanted.force) {
                (Ok(None | Some(Scheduling::Open)), _) => unchanged(format_args!("{name} is not cordoned")),
                (Ok(Some(Scheduling::Cordoned)), Force::No) if !ours => refused(
                    "cordoned-by-others",
                    format_args!("{name} was cordoned by somebody else; --force uncordons it all the same"),
                ),
                // nobody can tell whether it is cordoned, but nothing that this could free or open is ours
                (Err(()), Force::No) if !ours => unchanged(format_args!(
                    "{name} holds no slot and was not cordoned by us; the API server does not answer"
                )),
                (Ok(Some(Scheduling::Cordoned)) | Err(()), Force::No | Force::Yes) => Ok(plan::node_uncordon(name)),
            },
            OperationKind::NodeJoin if !cluster => {
                refused("no-cluster", format_args!("there is no cluster to join; `beehive cluster create` makes one"))
            }
            OperationKind::NodeJoin if inside && node.engine == EngineRun::Running => {
                unchanged(format_args!("{name} is in the cluster"))
            }
            OperationKind::NodeJoin => {
                self.no_twins(wanted.force, core::iter::once(name))?;
                Ok(plan::node_join(&node))
            }
            OperationKind::NodeLeave | OperationKind::NodeReset if is_master && cluster => refused(
                "master-has-cluster",
                format_args!("{name} is the master of a cluster; `beehive cluster reset` takes it down"),
            ),
            OperationKind::NodeLeave if !inside && node.clean == Clean::Yes && node.ghost == Ghost::Absent => {
                unchanged(format_args!("{name} is in no cluster"))
            }
            OperationKind::NodeLeave if !inside => Ok(plan::node_reset(&node)),
            OperationKind::NodeLeave => Ok(plan::node_leave(name)),
            OperationKind::NodeReset if inside && wanted.force == Force::No => refused(
                "node-is-member",
                format_args!("{name} is in the cluster; `node leave` empties it first, --force does not"),
            ),
            OperationKind::NodeReset => Ok(plan::node_reset(&node)),
            OperationKind::NodeReboot => Ok(plan::node_reboot(&node)),
            OperationKind::NodeShutdown if is_master => refused(
                "master-goes-last",
                format_args!("{name} is the master; `beehive cluster shutdown` switches the crew off in order"),
            ),
            OperationKind::NodeShutdown => Ok(plan::node_shutdown(&node)),
            OperationKind::NodeIdentify
                if self.record.operations.iter().any(|held| {
                    held.kind == OperationKind::NodeIdentify && held.node.as_ref() == Some(name) && held.is_active()
                }) =>
            {
                unchanged(format_args!("{name} blinks already"))
            }
            OperationKind::NodeIdentify => Ok(plan::node_identify(name)),
            // not about one node; `plan_for` has dealt with them
            OperationKind::Create
            | OperationKind::Rebuild
            | OperationKind::Reset
            | OperationKind::Reboot
            | OperationKind::Upgrade
            | OperationKind::Shutdown
            | OperationKind::Start => Ok(Vec::new()),
        }
    }

    /// Whether an operation beside the exclusive one has not done with a node: its button was pressed.
    fn is_being_emptied(&self, node: &NodeName) -> bool {
        let mut wishes = self.record.operations.iter().filter(|held| !held.phase.is_final() && held.request.is_some());
        wishes.any(|held| held.steps.iter().any(|step| step.node == *node && !step.has_ended()))
    }

    /// Whether a member's engine runs and is of that version.
    fn runs_version(&self, node: &NodeName, version: &Text<32>) -> bool {
        self.state_of(node)
            .is_some_and(|state| state.engine.run == EngineRun::Running && state.engine.version == *version)
    }

    /// Just after its start the coordinator has not heard everybody; a plan made then would be wrong. Whoever asks, asks again.
    fn knows_too_little(&self, now: Instant) -> bool {
        if self.listened_until(now).since_ms(self.listens_since) >= WARM_UP_MS {
            return false;
        }
        let all_heard = self.record.known.iter().all(|node| self.state_of(node).is_some());
        let served = self.record.cluster.is_none() || self.kube.cluster.is_some();
        !(all_heard && served)
    }

    /// The operation that excludes another one now.
    fn in_the_way(&self, kind: OperationKind, node: Option<&NodeName>) -> Option<Reply> {
        if let Some(active) = self.record.active_exclusive() {
            // what runs may be waiting for just that: a slot is freed beside it, unless it works on that node
            let works_on_it =
                |step: &Step| Some(&step.node) == node && matches!(step.state, StepState::Running | StepState::Pending);
            if kind == OperationKind::NodeUncordon && !active.steps.iter().any(works_on_it) {
                return None;
            }
            let (kind, id) = (active.kind, &active.id);
            let mut reply =
                Reply::refused("one-operation-at-a-time", format_args!("{kind} ({id}) runs; wait for it or abort it"));
            reply.operation = Some(active.id.clone());
            return Some(reply);
        }
        // what a shutdown paused, another shutdown may leave paused
        let paused = self.record.operations.iter().find(|held| held.phase == OperationPhase::Paused)?;
        if kind == OperationKind::Shutdown {
            return None;
        }
        let (kind, id) = (paused.kind, &paused.id);
        let mut reply = Reply::refused(
            "one-operation-at-a-time",
            format_args!("{kind} ({id}) is paused; resume or abort it first"),
        );
        reply.operation = Some(paused.id.clone());
        Some(reply)
    }

    fn begin_operation(
        &mut self,
        now: Instant,
        id: OperationId,
        wanted: &Wanted<'_>,
        requested_by: Text<72>,
        plan: Vec<PlannedStep>,
        set_aside: &Text<160>,
    ) -> Reply {
        let beside = wanted.kind == OperationKind::NodeUncordon && self.record.active_exclusive().is_some();
        let scope = if beside || wanted.kind == OperationKind::NodeIdentify { Scope::Local } else { Scope::Exclusive };
        let kind = wanted.kind;
        let steps = plan.len();
        // its slot alone is freed
        let stays = kind == OperationKind::NodeUncordon
            && wanted.node.is_some_and(|node| {
                let seen = self.kube_node(node).ok().flatten();
                let cordoned = seen.is_some_and(|seen| seen.scheduling == Scheduling::Cordoned);
                cordoned && self.record.cordon_of(node).is_none()
            });
        self.start_operation(
            now,
            id.clone(),
            kind,
            wanted.node,
            scope,
            wanted.version.clone(),
            requested_by,
            None,
            plan,
        );
        if let (Force::Yes, Some(operation)) =
            (wanted.force, self.record.operations.iter_mut().find(|operation| operation.id == id))
        {
            operation.heeds = Heeds::Nothing;
        }
        let overrides: Text<180> = match (wanted.force, set_aside.is_empty()) {
            (Force::Yes, false) => Text::format(format_args!("; set aside: {set_aside}")),
            (Force::Yes, true) => Text::new(),
            (Force::No, _) if stays => Text::cut("; it was cordoned by somebody else, and stays so without --force"),
            (Force::No, _) => Text::new(),
        };
        let mut reply =
            Reply::new(ResponseStatus::Started, "started", format_args!("{kind} has begun: {steps} steps{overrides}"));
        reply.operation = Some(id);
        reply
    }

    #[allow(clippy::too_many_arguments)] // the parts of one operation
    fn start_operation(
        &mut self,
        now: Instant,
        id: OperationId,
        kind: OperationKind,
        node: Option<&NodeName>,
        scope: Scope,
        version: Text<32>,
        requested_by: Text<72>,
        request: Option<RequestId>,
        plan: Vec<PlannedStep>,
    ) {
        if scope == Scope::Exclusive {
            // the one before can no longer be resumed
            self.forget_ended(None);
        }
        let detail = Text::format(format_args!("{kind}: {} steps, asked for by {requested_by}", plan.len()));
        self.record.operations.push(Operation {
            id: id.clone(),
            kind,
            node: node.cloned(),
            scope,
            phase: OperationPhase::Running,
            revision: 1,
            requested_by,
            version,
            heeds: Heeds::Blockers,
            request,
            steps: plan.into_iter().map(Step::from).collect(),
        });
        self.tell(now, CoordinatorEventKind::OperationStarted, Some(&id), node, detail);
    }

    fn abort(&mut self, mode: Mode) -> Reply {
        let held = self.record.active_exclusive();
        let held = held.or_else(|| self.record.operations.iter().find(|held| held.phase == OperationPhase::Paused));
        let Some(id) = held.map(|operation| operation.id.clone()) else {
            return Reply::unchanged(format_args!("no operation runs"));
        };
        let (status, code) = match mode {
            Mode::Execute => (ResponseStatus::Started, "aborting"),
            Mode::DryRun => (ResponseStatus::Planned, "planned"),
        };
        match mode {
            Mode::Execute => {
                if let Some(operation) = self.record.operations.iter_mut().find(|operation| operation.id == id) {
                    operation.phase = OperationPhase::Aborting;
                    operation.revision += 1;
                }
            }
            Mode::DryRun => {}
        }
        let mut reply = Reply::new(status, code, format_args!("no new step begins; those that run come to their end"));
        reply.operation = Some(id);
        reply
    }

    fn resume(&mut self, now: Instant, mode: Mode) -> Reply {
        if let Some(active) = self.record.active_exclusive() {
            let mut reply = Reply::unchanged(format_args!("{} runs", active.kind));
            reply.operation = Some(active.id.clone());
            return reply;
        }
        let resumable = self.record.operations.iter().rev().find(|operation| {
            operation.scope == Scope::Exclusive
                && matches!(
                    operation.phase,
                    OperationPhase::Paused
                        | OperationPhase::Failed
                        | OperationPhase::Aborted
                        | OperationPhase::PartlyDone
                )
        });
        let Some(operation) = resumable else {
            return Reply::unchanged(format_args!("there is no operation to take up again"));
        };
        let (id, kind) = (operation.id.clone(), operation.kind);
        let left = operation.steps.iter().filter(|step| step.state != StepState::Done).map(|step| PlannedStep {
            kind: step.kind,
            node: step.node.clone(),
            stage: step.stage,
            weight: step.weight,
        });
        let left = match self.understood(left.collect()) {
            Ok(left) => left,
            Err(mut reply) => {
                reply.operation = Some(id);
                return *reply;
            }
        };
        let mut reply = Reply::new(ResponseStatus::Started, "resumed", format_args!("{kind} goes on where it stopped"));
        reply.operation = Some(id.clone());
        if mode == Mode::DryRun {
            reply.status = ResponseStatus::Planned;
            reply.plan = left;
            return reply;
        }
        if let Some(operation) = self.record.operations.iter_mut().find(|held| held.id == id) {
            reopen(operation);
        }
        self.record.ended.retain(|ended| *ended != id);
        self.tell(
            now,
            CoordinatorEventKind::OperationStarted,
            Some(&id),
            None,
            Text::format(format_args!("{kind}: resumed")),
        );
        reply
    }

    // ---- nodes

    pub(super) fn on_node_request(&mut self, now: Instant, node: &NodeName, request: &NodeRequest) {
        if !self.record.known.contains(node) {
            return;
        }
        let id: OperationId = request.id.clone().into();
        let wish = self.record.wishes.iter().find(|wish| wish.node == *node && wish.id == request.id);
        let known = wish.is_some();
        if wish.is_some_and(|wish| wish.digest != request.digest()) {
            let detail = Text::format(format_args!("{node}: {} was another wish's id (id-reused)", request.id));
            return self.tell(now, CoordinatorEventKind::Refused, None, Some(node), detail);
        }
        if let Some(held) = self.record.operations.iter().find(|operation| operation.id == id) {
            if held.node.as_ref() != Some(node) {
                return; // another node's
            }
            // a leave that has begun is the coordinator's; a node that goes down waits for the step that lets it go
            let answer = match request.want {
                Want::Leave => Answer::Go,
                Want::PowerOff | Want::Reboot if held.phase.is_final() => Answer::Go,
                Want::PowerOff | Want::Reboot => Answer::Wait,
            };
            return self.answer(node, request, answer);
        }
        if known || self.record.ended.contains(&id) {
            return self.answer(node, request, Answer::Go);
        }
        if request.nonce.as_ref() != Some(&self.nonce) {
            // recorded and played again, or the node has not heard of us yet: our state tells it, and it asks again
            self.told.forget_state();
            return;
        }
        let ended = self.state_of(node).is_some_and(|state| state.nonce != request.session);
        if ended || self.knows_too_little(now) || self.record.make_room() == Room::Full {
            return; // it asks again, if it still wants it
        }
        let target = self.plan_node(node);
        let is_master = *node == self.config.master;
        let by: Text<72> = Text::format(format_args!("node:{node}"));
        let (kind, scope, plan) = match (request.want, is_master) {
            (Want::PowerOff, true) => {
                // a shutdown that runs comes to the master last and hurries it then
                if self.record.active_exclusive().is_some_and(|active| active.kind == OperationKind::Shutdown) {
                    return self.answer(node, request, Answer::Wait);
                }
                self.pause(now);
                let workers = self.workers();
                let on: Vec<_> =
                    workers.iter().filter(|name| self.may_be_on(now, name)).map(|name| self.plan_node(name)).collect();
                (OperationKind::Shutdown, Scope::Exclusive, plan::shutdown(&target, &on, MasterEnd::LetGo))
            }
            (Want::PowerOff, false) => {
                (OperationKind::NodeShutdown, Scope::Local, plan::local(&target, Want::PowerOff))
            }
            (Want::Reboot, _) => (OperationKind::NodeReboot, Scope::Local, plan::local(&target, Want::Reboot)),
            (Want::Leave, true) => return, // the node's own core refuses that
            (Want::Leave, false) => {
                // it waits and asks again
                if self.in_the_way(OperationKind::NodeLeave, None).is_some() {
                    return self.answer(node, request, Answer::Wait);
                }
                (OperationKind::NodeLeave, Scope::Exclusive, plan::local(&target, Want::Leave))
            }
        };
        match request.want {
            Want::Leave => self.answer(node, request, Answer::Go),
            Want::PowerOff | Want::Reboot => self.answer(node, request, Answer::Wait),
        }
        let (session, digest) = (self.record.session, request.digest());
        self.record.wishes.push(Wish { id: request.id.clone(), node: node.clone(), session, digest });
        if scope == Scope::Local {
            self.hold_slot_if_inside(node);
        }
        let wish = Some(request.id.clone());
        self.start_operation(now, id.clone(), kind, Some(node), scope, Text::new(), by, wish, plan);
        // the boot that it is about to leave
        if let Some(operation) = self.record.operations.iter_mut().find(|held| held.id == id) {
            for step in operation.steps.iter_mut().filter(|step| step.kind == StepKind::LetGo) {
                step.boot_before = Some(request.boot.clone());
            }
        }
    }

    /// The master's button switches the whole crew off, whatever runs; what runs goes on after the next start.
    fn pause(&mut self, now: Instant) {
        let Some(id) = self.record.active_exclusive().map(|operation| operation.id.clone()) else { return };
        if let Some(operation) = self.record.operations.iter_mut().find(|operation| operation.id == id) {
            operation.phase = OperationPhase::Paused;
            operation.revision += 1;
        }
        self.live.retain(|(held, _), _| *held != id);
        self.told.slot_waits.retain(|(held, _), _| *held != id);
        let detail = Text::cut("paused: the master's button switches the crew off");
        self.tell(now, CoordinatorEventKind::OperationEnded, Some(&id), None, detail);
    }

    /// Sent once for each time that the node asks; the node's ring makes a repeat harmless.
    fn answer(&mut self, node: &NodeName, asked: &NodeRequest, answer: Answer) {
        let request = &asked.id;
        let suffix = match answer {
            Answer::Wait => "wait",
            Answer::Go => "go",
            Answer::GoUndrained => "undrained",
        };
        let mut id = heapless::String::<{ beehive_mqtt::CommandId::MAX_BYTES }>::new();
        if core::fmt::Write::write_fmt(&mut id, format_args!("{request}-{suffix}")).is_err() {
            return;
        }
        let Ok(id) = id.parse() else { return };
        let command = Command {
            id,
            nonce: asked.session.clone(),
            term: self.record.term,
            session: self.record.session,
            operation: None,
            expires_ms: ANSWER_MS,
            verb: Verb::Answer { request: request.clone(), answer },
        };
        let version = self.version_of(node);
        self.out.push(Action::Command { node: node.clone(), version, command: Box::new(command), secret: None });
    }
}

fn planned(plan: Vec<PlannedStep>, set_aside: &Text<160>) -> Reply {
    let steps = plan.len();
    let mut reply = if set_aside.is_empty() {
        Reply::new(ResponseStatus::Planned, "planned", format_args!("{steps} steps; nothing was done"))
    } else {
        Reply::new(
            ResponseStatus::Planned,
            "planned",
            format_args!("{steps} steps; nothing was done; it would set aside: {set_aside}"),
        )
    };
    reply.plan = plan;
    reply
}

/// The refusal of rolling work while as many nodes are away as may be.
const SLOT_HELD: &str = "slot-held";

fn slot_held(holder: &NodeName) -> Reply {
    Reply::refused(
        SLOT_HELD,
        format_args!("{holder} is down or drained (max_unavailable); bring it back or `node uncordon {holder}` first"),
    )
}

/// Makes an operation's failed and skipped steps pending again. A node that was cordoned and emptied for a step that did not
/// come off has been uncordoned since, so that begins anew too, unless what it was emptied for is behind it.
fn reopen(operation: &mut Operation) {
    let unfinished: Vec<NodeName> =
        operation.steps.iter().filter(|step| step.state != StepState::Done).map(|step| step.node.clone()).collect();
    let past_it: Vec<NodeName> = operation
        .steps
        .iter()
        .filter(|step| {
            matches!(step.kind, StepKind::Reboot | StepKind::Stop | StepKind::Upgrade) && step.state == StepState::Done
        })
        .map(|step| step.node.clone())
        .collect();
    for step in &mut operation.steps {
        let again = match step.kind {
            StepKind::Cordon | StepKind::Drain => unfinished.contains(&step.node) && !past_it.contains(&step.node),
            StepKind::Snapshot
            | StepKind::Uncordon
            | StepKind::Stop
            | StepKind::DeleteNode
            | StepKind::Reset
            | StepKind::Initialise
            | StepKind::Join
            | StepKind::WaitReady
            | StepKind::AddOns
            | StepKind::Upgrade
            | StepKind::Reboot
            | StepKind::PowerOff
            | StepKind::WaitUp
            | StepKind::Identify
            | StepKind::LetGo => false,
        };
        match step.state {
            StepState::Done if !again => {}
            StepState::Running => {}
            StepState::Done | StepState::Pending | StepState::Failed | StepState::Skipped => {
                step.state = StepState::Pending;
                step.reason = Text::new();
            }
        }
    }
    operation.phase = OperationPhase::Running;
    operation.revision += 1;
}
