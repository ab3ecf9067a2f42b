//! Requests: of operators (`q/<user>/request`) and of nodes whose button was pressed (`n/<node>/request`). The same id is
//! the same request: a repeat is answered from what is kept, and begins nothing.

use super::record::Answered;
use super::{Action, Coordinator, Operation, Scope, Step};
use crate::kube::Scheduling;
use crate::plan::{self, Belongs, Clean, Ghost, MasterEnd, PlannedStep};
use crate::{Destruction, Instant};
use alloc::boxed::Box;
use alloc::vec::Vec;
use beehive_mqtt::command::{Answer, Command, Verb};
use beehive_mqtt::console::{Ask, ConsoleRequest, ConsoleResponse, Force, Mode, PlanStep, ResponseStatus};
use beehive_mqtt::coordinator::{CoordinatorEventKind, OperationKind, OperationPhase, StepKind, StepState};
use beehive_mqtt::node::{NodeRequest, Want};
use beehive_mqtt::{NodeName, OperationId, RequestId, Text, UserName};

/// How long an answer to a node may take; it is sent again when the node asks again.
const ANSWER_MS: u64 = 30_000;

/// An answer under construction.
struct Reply {
    status: ResponseStatus,
    code: &'static str,
    text: Text<240>,
    operation: Option<OperationId>,
    plan: Vec<PlannedStep>,
}

impl Reply {
    fn new(status: ResponseStatus, code: &'static str, text: core::fmt::Arguments<'_>) -> Self {
        Self { status, code, text: Text::format(text), operation: None, plan: Vec::new() }
    }

    fn refused(code: &'static str, text: core::fmt::Arguments<'_>) -> Self {
        Self::new(ResponseStatus::Refused, code, text)
    }

    fn unchanged(text: core::fmt::Arguments<'_>) -> Self {
        Self::new(ResponseStatus::Unchanged, "unchanged", text)
    }
}

/// What an operator wants, taken apart.
struct Wanted<'a> {
    kind: OperationKind,
    node: Option<&'a NodeName>,
    force: Force,
}

impl Coordinator {
    pub(super) fn on_console(&mut self, now: Instant, user: &UserName, request: ConsoleRequest) {
        if let Some(answered) = self.record.answers.iter().find(|answered| answered.id == request.id) {
            let reply = Reply {
                status: answered.status,
                code: "",
                text: answered.text.clone(),
                operation: answered.operation.clone(),
                plan: Vec::new(),
            };
            let code = answered.code.clone();
            self.respond(user, &request.id, reply, code);
            return;
        }
        let reply = match &request.ask {
            Ask::Operation { kind, node, version, force } => {
                let wanted = Wanted { kind: *kind, node: node.as_ref(), force: *force };
                match self.plan_for(&wanted) {
                    Err(reply) => *reply,
                    Ok(plan) if request.mode == Mode::DryRun => {
                        let mut reply = Reply::new(
                            ResponseStatus::Planned,
                            "planned",
                            format_args!("{} steps; nothing was done", plan.len()),
                        );
                        reply.plan = plan;
                        reply
                    }
                    Ok(plan) => {
                        let by = Text::format(format_args!("user:{user}"));
                        self.begin_operation(now, request.id.clone().into(), &wanted, version.clone(), by, plan)
                    }
                }
            }
            Ask::Abort => self.abort(now, request.mode),
            Ask::Resume => self.resume(now, request.mode),
        };
        if reply.status == ResponseStatus::Refused {
            let detail = Text::format(format_args!("{user}: {} ({})", reply.text, reply.code));
            self.tell(now, CoordinatorEventKind::Refused, reply.operation.as_ref(), None, detail);
        }
        let code = Text::cut(reply.code);
        // a dry run changes nothing and may be asked again
        if request.mode == Mode::Execute {
            self.record.remember(Answered {
                id: request.id.clone(),
                status: reply.status,
                code: code.clone(),
                text: reply.text.clone(),
                operation: reply.operation.clone(),
            });
        }
        self.respond(user, &request.id, reply, code);
    }

    fn respond(&mut self, user: &UserName, id: &RequestId, reply: Reply, code: Text<48>) {
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
        };
        self.out.push(Action::Respond { user: user.clone(), response: Box::new(response) });
    }

    /// The plan, or why there is none. Boxed, because a reply is large and rare.
    fn plan_for(&self, wanted: &Wanted<'_>) -> Result<Vec<PlannedStep>, Box<Reply>> {
        let refused = |code, text: core::fmt::Arguments<'_>| Err(Box::new(Reply::refused(code, text)));
        if wanted.kind.destroys() && self.config.destruction == Destruction::RefusedInsecureWire {
            return refused(
                "insecure-wire",
                format_args!("{} destroys, and this wire is neither signed nor encrypted", wanted.kind),
            );
        }
        if wanted.kind != OperationKind::NodeIdentify {
            if let Some(active) = self.record.active_exclusive() {
                let mut reply = Reply::refused(
                    "one-operation-at-a-time",
                    format_args!("{} ({}) runs; wait for it or abort it", active.kind, active.id),
                );
                reply.operation = Some(active.id.clone());
                return Err(Box::new(reply));
            }
        }
        let master = self.plan_node(&self.config.master);
        let workers: Vec<_> = self.workers().iter().map(|node| self.plan_node(node)).collect();
        let cluster = self.record.cluster.is_some();
        let plan = match wanted.kind {
            OperationKind::Create => {
                let plan = plan::create(&master, &workers);
                if plan.is_empty() {
                    return Err(Box::new(Reply::unchanged(format_args!(
                        "the cluster is there, and every node is in it"
                    ))));
                }
                plan
            }
            OperationKind::Rebuild => plan::rebuild(&master, &workers),
            OperationKind::Reset => plan::reset(&master, &workers),
            OperationKind::Reboot => plan::reboot(&master, &workers),
            OperationKind::Shutdown => {
                let on: Vec<_> = workers.into_iter().filter(|node| self.is_online(&node.name)).collect();
                plan::shutdown(&master, &on, MasterEnd::Commanded)
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

    fn plan_for_node(
        &self,
        wanted: &Wanted<'_>,
        name: &NodeName,
        cluster: bool,
    ) -> Result<Vec<PlannedStep>, Box<Reply>> {
        let refused = |code, text: core::fmt::Arguments<'_>| Err(Box::new(Reply::refused(code, text)));
        let unchanged = |text: core::fmt::Arguments<'_>| Err(Box::new(Reply::unchanged(text)));
        let node = self.plan_node(name);
        let is_master = *name == self.config.master;
        let inside = node.belongs == Belongs::Inside;
        let ours = self.record.cordons.iter().any(|cordon| cordon.node == *name);
        let cordoned = self.kube.node(name).is_some_and(|seen| seen.scheduling == Scheduling::Cordoned);
        match wanted.kind {
            OperationKind::NodeDrain if !inside => refused("not-a-member", format_args!("{name} is in no cluster")),
            OperationKind::NodeDrain => Ok(plan::node_drain(name)),
            OperationKind::NodeUncordon if !inside => refused("not-a-member", format_args!("{name} is in no cluster")),
            OperationKind::NodeUncordon if !cordoned && !self.record.slots.contains(name) => {
                unchanged(format_args!("{name} is not cordoned"))
            }
            OperationKind::NodeUncordon if cordoned && !ours && wanted.force == Force::No => refused(
                "cordoned-by-others",
                format_args!("{name} was cordoned by somebody else; --force uncordons it all the same"),
            ),
            OperationKind::NodeUncordon => Ok(plan::node_uncordon(name)),
            OperationKind::NodeJoin if !cluster => {
                refused("no-cluster", format_args!("there is no cluster to join; `beehive cluster create` makes one"))
            }
            OperationKind::NodeJoin if inside => unchanged(format_args!("{name} is in the cluster")),
            OperationKind::NodeJoin => Ok(plan::node_join(&node)),
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
            OperationKind::NodeIdentify => Ok(plan::node_identify(name)),
            // not about one node; `plan_for` has dealt with them
            OperationKind::Create
            | OperationKind::Rebuild
            | OperationKind::Reset
            | OperationKind::Reboot
            | OperationKind::Shutdown => Ok(Vec::new()),
        }
    }

    fn begin_operation(
        &mut self,
        now: Instant,
        id: OperationId,
        wanted: &Wanted<'_>,
        version: Text<32>,
        requested_by: Text<72>,
        plan: Vec<PlannedStep>,
    ) -> Reply {
        let scope = if wanted.kind == OperationKind::NodeIdentify { Scope::Local } else { Scope::Exclusive };
        let kind = wanted.kind;
        let steps = plan.len();
        self.start_operation(now, id.clone(), kind, wanted.node, scope, version, requested_by, None, plan);
        let overrides = match wanted.force {
            Force::Yes => "; rules that protect were set aside",
            Force::No => "",
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
            self.record.operations.retain(|held| !held.phase.is_final());
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
            request,
            steps: plan.into_iter().map(Step::from).collect(),
        });
        self.tell(now, CoordinatorEventKind::OperationStarted, Some(&id), node, detail);
    }

    fn abort(&mut self, now: Instant, mode: Mode) -> Reply {
        let Some(id) = self.record.active_exclusive().map(|operation| operation.id.clone()) else {
            return Reply::unchanged(format_args!("no operation runs"));
        };
        if mode == Mode::Execute {
            if let Some(operation) = self.record.operations.iter_mut().find(|operation| operation.id == id) {
                operation.phase = OperationPhase::Aborting;
                operation.revision += 1;
            }
            self.advance(now);
        }
        let mut reply = Reply::new(
            ResponseStatus::Started,
            "aborting",
            format_args!("no new step begins; those that run come to their end"),
        );
        reply.operation = Some(id);
        reply
    }

    fn resume(&mut self, now: Instant, mode: Mode) -> Reply {
        if let Some(active) = self.record.active_exclusive() {
            let mut reply = Reply::unchanged(format_args!("{} runs", active.kind));
            reply.operation = Some(active.id.clone());
            return reply;
        }
        let resumable = self.record.operations.iter_mut().rev().find(|operation| {
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
        let mut reply = Reply::new(ResponseStatus::Started, "resumed", format_args!("{kind} goes on where it stopped"));
        reply.operation = Some(id.clone());
        if mode == Mode::DryRun {
            reply.status = ResponseStatus::Planned;
            reply.plan = operation
                .steps
                .iter()
                .filter(|step| step.state != StepState::Done)
                .map(|step| PlannedStep {
                    kind: step.kind,
                    node: step.node.clone(),
                    stage: step.stage,
                    weight: step.weight,
                })
                .collect();
            return reply;
        }
        reopen(operation);
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
        if self.record.operations.iter().any(|operation| operation.id == id) {
            return self.answer(node, &request.id, Answer::Wait);
        }
        if self.record.ended.contains(&id) {
            return self.answer(node, &request.id, Answer::Go);
        }
        let target = self.plan_node(node);
        let is_master = *node == self.config.master;
        let by: Text<72> = Text::format(format_args!("node:{node}"));
        let (kind, scope, plan) = match (request.want, is_master) {
            (Want::PowerOff, true) => {
                self.pause(now);
                let workers = self.workers();
                let on: Vec<_> =
                    workers.iter().filter(|name| self.is_online(name)).map(|name| self.plan_node(name)).collect();
                (OperationKind::Shutdown, Scope::Exclusive, plan::shutdown(&target, &on, MasterEnd::LetGo))
            }
            (Want::PowerOff, false) => {
                (OperationKind::NodeShutdown, Scope::Local, plan::local(&target, Want::PowerOff))
            }
            (Want::Reboot, _) => (OperationKind::NodeReboot, Scope::Local, plan::local(&target, Want::Reboot)),
            (Want::Leave, true) => return, // the node's own core refuses that
            (Want::Leave, false) => {
                if let Some(active) = self.record.active_exclusive() {
                    let detail = Text::format(format_args!("{node} wants to leave, but {} runs", active.kind));
                    let id = active.id.clone();
                    self.tell(now, CoordinatorEventKind::Refused, Some(&id), Some(node), detail);
                    return self.answer(node, &request.id, Answer::Wait);
                }
                (OperationKind::NodeLeave, Scope::Exclusive, plan::local(&target, Want::Leave))
            }
        };
        self.answer(node, &request.id, Answer::Wait);
        if request.want != Want::Leave && !is_master {
            self.hold_slot_if_inside(node);
        }
        self.start_operation(now, id, kind, Some(node), scope, Text::new(), by, Some(request.id.clone()), plan);
    }

    /// The master's button switches the whole crew off, whatever runs; what runs goes on after the next start.
    fn pause(&mut self, now: Instant) {
        let Some(id) = self.record.active_exclusive().map(|operation| operation.id.clone()) else { return };
        if let Some(operation) = self.record.operations.iter_mut().find(|operation| operation.id == id) {
            operation.phase = OperationPhase::Paused;
            operation.revision += 1;
        }
        self.live.retain(|(held, _), _| *held != id);
        let detail = Text::cut("paused: the master's button switches the crew off");
        self.tell(now, CoordinatorEventKind::OperationEnded, Some(&id), None, detail);
    }

    /// Sent once for each time that the node asks; the node's ring makes a repeat harmless.
    fn answer(&mut self, node: &NodeName, request: &RequestId, answer: Answer) {
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
            term: self.record.term,
            operation: None,
            expires_ms: ANSWER_MS,
            verb: Verb::Answer { request: request.clone(), answer },
        };
        self.out.push(Action::Command { node: node.clone(), command: Box::new(command) });
    }
}

/// Makes an operation's failed and skipped steps pending again. A node that was cordoned and emptied for a step that did not
/// come off has been uncordoned since, so that begins anew too.
fn reopen(operation: &mut Operation) {
    let unfinished: Vec<NodeName> =
        operation.steps.iter().filter(|step| step.state != StepState::Done).map(|step| step.node.clone()).collect();
    let rebooted: Vec<NodeName> = operation
        .steps
        .iter()
        .filter(|step| step.kind == StepKind::Reboot && step.state == StepState::Done)
        .map(|step| step.node.clone())
        .collect();
    for step in &mut operation.steps {
        let again = match step.kind {
            StepKind::Cordon | StepKind::Drain => unfinished.contains(&step.node) && !rebooted.contains(&step.node),
            StepKind::Snapshot
            | StepKind::Uncordon
            | StepKind::Stop
            | StepKind::DeleteNode
            | StepKind::Reset
            | StepKind::Initialise
            | StepKind::Join
            | StepKind::WaitReady
            | StepKind::AddOns
            | StepKind::Reboot
            | StepKind::PowerOff
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
