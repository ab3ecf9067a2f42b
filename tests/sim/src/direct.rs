//! Operators who tell nodes something without the coordinator, at the worst moments, and what must never come of it.

use crate::world::{Happening, World, user};
use beehive_cluster::node::Event;
use beehive_mqtt::command::VerbName;
use beehive_mqtt::direct::{DIRECT_ID_PREFIX, DIRECT_QUIET_MS, DirectRequest, DirectVerb};
use beehive_mqtt::manifest::UserRole;
use beehive_mqtt::node::{CommandResult, CommandStatus, NodeState, PowerPhase};
use beehive_mqtt::{CommandId, NodeName, Topic, UserName, decode};
use std::collections::{BTreeMap, BTreeSet};

/// How often an operator's console sends the same request again, and for how long.
const AGAIN_MS: u64 = 1_000;
const GIVES_UP_MS: u64 = 30_000;

/// The most that a leap of a Pi's clock counts for silence: the time between two looks of a node.
const LEAP_COUNTS_MS: u64 = 15_000;

/// What the world knows of whom a Pi's agent has heard.
#[derive(Debug, Default)]
pub(crate) struct Hears {
    /// When it last heard a coordinator, or could not have heard one.
    at: u64,
    /// What leaps of its clock since then may count for.
    leapt: u64,
    /// The coordinator's command that it said to have begun, and not yet what came of it.
    unfinished: Option<CommandId>,
    /// Its card does not have what it last decided.
    pub(crate) unsaved: bool,
}

/// Requests of operators.
#[derive(Debug, Default)]
pub(crate) struct Directs {
    told: u32,
    /// Not answered yet: to whom, what, and until when it is sent again.
    open: BTreeMap<CommandId, (usize, DirectRequest, u64)>,
    /// Those that arrived at a moment at which they may be taken up.
    allowed: BTreeSet<CommandId>,
    /// Those that a node has said it will not carry out.
    refused: BTreeSet<CommandId>,
    /// Those that were seen to be taken up.
    taken: BTreeSet<CommandId>,
}

fn is_direct(id: &CommandId) -> bool {
    id.as_str().starts_with(DIRECT_ID_PREFIX)
}

impl World {
    /// An operator tells a Pi something, for the session that the broker keeps of it.
    pub(crate) fn tells(&mut self, index: usize) {
        self.event();
        self.reached.note("act", "direct");
        let verb = match self.random.below(3) {
            0 => DirectVerb::Identify { seconds: 10 },
            1 => DirectVerb::Reboot,
            _ => DirectVerb::PowerOff,
        };
        let name = self.pis[index].name.clone();
        let kept = self.retained.get(Topic::State(name.clone()).name(&crate::broker::crew()).as_str());
        let Some(nonce) = kept.map(|(_, bytes)| decode::<NodeState>(bytes).unwrap().nonce) else { return };
        self.directs.told += 1;
        let id: CommandId = format!("{DIRECT_ID_PREFIX}{}-{}", self.seed, self.directs.told).parse().unwrap();
        self.note(|| format!("an operator tells {name} {verb:?} without the coordinator: {id}"));
        let until = self.now + GIVES_UP_MS;
        self.directs.open.insert(id.clone(), (index, DirectRequest { id: id.clone(), nonce, verb }, until));
        self.tells_again(&id);
    }

    pub(crate) fn tells_again(&mut self, id: &CommandId) {
        let Some((index, request, until)) = self.directs.open.get(id).cloned() else { return };
        if self.now > until {
            self.directs.open.remove(id);
            return;
        }
        self.event();
        let name = self.pis[index].name.clone();
        self.say(Topic::Direct(user(), name), &request);
        self.later(AGAIN_MS, Happening::TellsAgain(id.clone()));
    }

    /// Somebody stops the coordinator's program for a while, and uses the way without it before and after the silence counts.
    pub(crate) fn coordinator_is_stopped(&mut self) {
        self.event();
        self.reached.note("act", "coordinator stopped");
        self.note(|| "somebody stops the coordinator".into());
        self.stop_coordinator();
        let lasts = self.random.between(25_000, 100_000);
        let life = self.life;
        self.later(lasts, Happening::CoordinatorStarts(life));
        for _ in 0..self.random.between(1, 4) {
            // whoever has begun something is told twice as often
            let busy = self.pis.iter().position(|pi| pi.hears.unfinished.is_some());
            let index = match busy {
                Some(busy) if self.random.below(2) == 0 => busy,
                Some(_) | None => self.any_pi(),
            };
            let after = self.random.between(20_000, lasts + 10_000);
            self.later(after, Happening::Tells(index));
        }
    }

    /// In a round in which nobody gives orders nothing is left of those of the round before: what no node has seen may still
    /// be played to it within the same session.
    pub(crate) fn forgets_directs(&mut self) {
        self.archive.retain(|(topic, _)| !matches!(topic, Topic::Direct(..)));
        self.directs.open.clear();
    }

    /// A request reaches its node.
    pub(crate) fn direct_arrives(&mut self, user: &UserName, node: &NodeName, request: DirectRequest) {
        let index = self.pis.iter().position(|pi| pi.name == *node).unwrap();
        let hears = &self.pis[index].hears;
        let silent = self.now - hears.at + hears.leapt >= DIRECT_QUIET_MS;
        if hears.unsaved || (silent && hears.unfinished.is_none()) {
            self.directs.allowed.insert(request.id.clone());
        }
        let key = self.keys.key(&Topic::Direct(user.clone(), node.clone()));
        let (user, role) = (user.clone(), Some(UserRole::Operator));
        self.node(index, Event::Direct { user, key, role, request: Box::new(request) });
    }

    /// A node says how far something is.
    pub(crate) fn says_of_direct(&mut self, index: usize, result: &CommandResult) {
        let id = &result.id;
        if !is_direct(id) {
            let hears = &mut self.pis[index].hears;
            match result.status {
                CommandStatus::Accepted | CommandStatus::InProgress => hears.unfinished = Some(id.clone()),
                CommandStatus::Rejected
                | CommandStatus::Succeeded
                | CommandStatus::Failed
                | CommandStatus::TimedOut
                | CommandStatus::Interrupted
                | CommandStatus::Canceled => {
                    if hears.unfinished.as_ref() == Some(id) {
                        hears.unfinished = None;
                    }
                }
            }
            return;
        }
        match result.status {
            CommandStatus::Rejected => {
                if result.code.as_str() == "command-unfinished" && self.pis[index].hears.unfinished.is_some() {
                    self.reached.note("direct", "refused beside a command");
                }
                if result.code.as_str() != "stale-nonce" {
                    self.directs.refused.insert(id.clone());
                }
            }
            CommandStatus::Succeeded | CommandStatus::InProgress => {
                if self.directs.taken.insert(id.clone()) {
                    if result.verb == VerbName::Identify {
                        self.reached.note("direct", "blinks");
                    }
                    self.may_be_taken(id);
                }
            }
            CommandStatus::Accepted
            | CommandStatus::Failed
            | CommandStatus::TimedOut
            | CommandStatus::Interrupted
            | CommandStatus::Canceled => {}
        }
    }

    /// A node goes down because an operator told it so.
    pub(crate) fn goes_down_directly(&mut self, index: usize) {
        let Some(id) = self.pis[index].stored.running.as_ref().map(|started| started.id.clone()) else { return };
        self.reached.note("direct", if index == 0 { "on the master" } else { "goes down" });
        self.directs.taken.insert(id.clone());
        self.may_be_taken(&id);
    }

    fn may_be_taken(&mut self, id: &CommandId) {
        if self.directs.refused.contains(id) {
            self.fail(&format!("{id} was refused and is done all the same"));
        }
        if !self.directs.allowed.contains(id) {
            self.fail(&format!("{id} is done beside a coordinator or its unfinished command"));
        }
    }

    /// A command's work begins.
    pub(crate) fn not_beside_direct(&mut self, index: usize, id: &CommandId) {
        let pi = &self.pis[index];
        // an agent that starts while systemd shuts down knows nothing of that, nor of the operator
        if pi.reason.as_str() == "direct" && pi.phase != PowerPhase::Running && !pi.unaware && !is_direct(id) {
            self.fail(&format!("{id} begins on a Pi that an operator has told to go down"));
        }
    }

    /// An operator's console hears an answer.
    pub(crate) fn answers_direct(&mut self, result: &CommandResult) {
        self.directs.open.remove(&result.id);
    }

    pub(crate) fn hears_a_coordinator(&mut self, index: usize) {
        let now = self.now;
        let pi = &mut self.pis[index];
        if pi.reason.as_str() == "direct" && pi.phase == PowerPhase::Draining && self.coordinator.is_some() {
            self.reached.note("direct", "goes down, and a coordinator is back");
        }
        let hears = &mut self.pis[index].hears;
        (hears.at, hears.leapt) = (now, 0);
    }

    /// A new agent has heard nobody, and knows nothing of what it has not stored.
    pub(crate) fn agent_hears_anew(&mut self, index: usize) {
        // what it had stored as ended it may not have come to say
        let running = self.pis[index].stored.running.as_ref().map(|started| started.id.clone());
        let unfinished = self.pis[index].hears.unfinished.take().filter(|id| running.as_ref() == Some(id));
        self.pis[index].hears = Hears { at: self.now, unfinished, ..Hears::default() };
    }

    /// The card has what the node decided. What it has as ended may never be said, where the word was lost with a store.
    pub(crate) fn card_has_it(&mut self, index: usize) {
        let pi = &mut self.pis[index];
        pi.hears.unsaved = false;
        let running = pi.stored.running.as_ref().map(|started| &started.id);
        if pi.hears.unfinished.as_ref() != running {
            pi.hears.unfinished = None;
        }
    }

    /// The way to the broker is open again.
    pub(crate) fn listens(&mut self, index: usize) {
        let hears = &mut self.pis[index].hears;
        (hears.at, hears.leapt) = (self.now, 0);
        self.node(index, Event::Listening);
    }

    pub(crate) fn leaps_of_hearing(&mut self, index: usize, by: u64) {
        self.pis[index].hears.leapt += by.min(LEAP_COUNTS_MS);
    }
}
