//! What an operator tells this node while no coordinator is there.

use super::{
    Action, CommandStatus, DIRECT_QUIET_MS, DirectRequest, Grace, Instant, KeyId, NodeCore, NodeEventKind, PowerGoal,
    Preparation, RUNS_A_PRESS, Remembered, RingFull, Role, Started, Text, UserName, UserRole,
};
use alloc::vec::Vec;
use beehive_mqtt::HEARTBEAT_MS;
use beehive_mqtt::direct::{DIRECT_ID_PREFIX, DirectVerb, May, may_direct};

/// The longest time between two looks that counts as silence. Whoever looks later stood still or has a clock that leapt, and
/// could hear nobody: one leap together with what passes between two heartbeats stays below [`DIRECT_QUIET_MS`].
const LOOK_MS: u64 = HEARTBEAT_MS + HEARTBEAT_MS / 2;

const _: () = assert!(HEARTBEAT_MS + LOOK_MS < DIRECT_QUIET_MS);

/// For how long this node has listened without hearing a coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Silence {
    ms: u64,
    at: Instant,
}

impl Silence {
    /// From now on.
    pub(super) fn begin(now: Instant) -> Self {
        Self { ms: 0, at: now }
    }

    /// Nobody was heard until now.
    pub(super) fn goes_on(&mut self, now: Instant) {
        let more = now.since_ms(self.at).min(LOOK_MS);
        self.ms = self.ms.saturating_add(more).min(DIRECT_QUIET_MS);
        self.at = now;
    }

    /// When it has to be looked at again, so that all of it counts.
    pub(super) fn next_look(&self) -> Option<Instant> {
        (self.ms < DIRECT_QUIET_MS).then(|| self.at.plus_ms(LOOK_MS.min(DIRECT_QUIET_MS - self.ms)))
    }

    /// How much longer it has to last before an operator may step in; nothing if it has.
    fn too_short_by(self) -> Option<u64> {
        (self.ms < DIRECT_QUIET_MS).then(|| DIRECT_QUIET_MS - self.ms)
    }
}

/// Why a request is not carried out.
struct Refusal {
    code: &'static str,
    reason: Text<160>,
}

impl NodeCore {
    pub(super) fn direct(
        &mut self,
        user: &UserName,
        key: KeyId,
        role: Option<UserRole>,
        request: &DirectRequest,
        actions: &mut Vec<Action>,
    ) {
        let (id, verb, digest) = (&request.id, request.verb.name(), request.digest());
        match role.map(may_direct) {
            Some(May::Tell) => {}
            Some(May::Not) | None => {
                let reason = Text::cut("only an operator may tell a node anything directly");
                return self.refuse_direct(user, request, &Refusal { code: "not-authorised", reason }, actions);
            }
        }
        if !id.as_str().starts_with(DIRECT_ID_PREFIX) {
            let reason = Text::format(format_args!("its id has to begin with {DIRECT_ID_PREFIX}"));
            return self.refuse_direct(user, request, &Refusal { code: "bad-id", reason }, actions);
        }
        if let Some(entry) = self.record.remembered(key, id) {
            let entry = entry.clone();
            if entry.digest != digest {
                let reason = Text::cut("this id was another request's");
                return self.refuse_direct(user, request, &Refusal { code: "id-reused", reason }, actions);
            }
            actions.push(self.result(&entry.id, entry.verb, entry.status, &entry.code, &entry.reason));
            return;
        }
        if request.nonce != self.nonce {
            let reason = Text::cut("it was meant for another session of this node");
            actions.push(self.result(id, verb, CommandStatus::Rejected, &Text::cut("stale-nonce"), &reason));
            return;
        }
        // a refusal is remembered too: whoever was told no must not be obeyed later, when a lost copy arrives
        let entry = Remembered {
            id: id.clone(),
            key,
            nonce: self.nonce.clone(),
            digest,
            verb,
            status: CommandStatus::Accepted,
            code: Text::new(),
            reason: Text::new(),
        };
        if let Err(RingFull) = self.record.remember(entry, &self.nonce) {
            let reason = Text::cut("too many commands of one session; another one begins");
            actions.push(self.result(id, verb, CommandStatus::Rejected, &Text::cut("busy"), &reason));
            return;
        }
        if let Some(refusal) = self.stands_in_the_way() {
            self.record.settle(id, CommandStatus::Rejected, &Text::cut(refusal.code), &refusal.reason);
            return self.refuse_direct(user, request, &refusal, actions);
        }
        actions.push(Action::Tell(
            NodeEventKind::Direct,
            Text::format(format_args!("{user}: {verb} without a coordinator ({id})")),
        ));
        match request.verb {
            DirectVerb::Identify { seconds } => {
                actions.push(Action::Identify { seconds });
                self.settle(id, verb, CommandStatus::Succeeded, &Text::cut("done"), &Text::new(), actions);
            }
            DirectVerb::Reboot => self.direct_power(request, PowerGoal::Reboot, actions),
            DirectVerb::PowerOff => self.direct_power(request, PowerGoal::PowerOff, actions),
        }
    }

    /// Why an operator may not step in now.
    fn stands_in_the_way(&self) -> Option<Refusal> {
        if let Some(ms) = self.silence.too_short_by() {
            let seconds = ms.div_ceil(1_000);
            let reason = Text::format(format_args!(
                "a coordinator was heard, or could have been, within the last {} s; ask it, or again in {seconds} s",
                DIRECT_QUIET_MS / 1_000
            ));
            return Some(Refusal { code: "coordinator-alive", reason });
        }
        if let Some(started) = &self.record.running {
            let reason = Text::format(format_args!("{} ({}) is unfinished", started.verb, started.id));
            return Some(Refusal { code: "command-unfinished", reason });
        }
        if let Some(reason) = self.goes_down() {
            return Some(Refusal { code: "going-down", reason });
        }
        let local = Refusal { code: "busy", reason: Text::cut(RUNS_A_PRESS) };
        self.work.is_some().then_some(local)
    }

    /// As after a press: a node asks to be emptied and goes on without an answer. A master does not ask: the coordinator that
    /// would empty it, and would take its wish for one to switch the whole crew off, is on this Pi and silent.
    fn direct_power(&mut self, request: &DirectRequest, goal: PowerGoal, actions: &mut Vec<Action>) {
        let verb = request.verb.name();
        self.record.running = Some(Started {
            id: request.id.clone(),
            verb,
            boot: self.config.boot.clone(),
            cluster: None,
            version: None,
            operation: None,
        });
        self.expires = None;
        self.settle(&request.id, verb, CommandStatus::InProgress, &Text::cut("stopping"), &Text::new(), actions);
        let preparation = match self.config.role {
            Role::Node => Preparation::Needed,
            Role::Master => Preparation::Done,
        };
        actions.push(Action::Power { goal, reason: Text::cut("direct"), grace: Grace::None, preparation });
    }

    /// Says so, to whoever watches and to who asked.
    fn refuse_direct(&self, user: &UserName, request: &DirectRequest, refusal: &Refusal, actions: &mut Vec<Action>) {
        let Refusal { code, reason } = refusal;
        let verb = request.verb.name();
        actions.push(Action::Tell(
            NodeEventKind::Refused,
            Text::format(format_args!("{user}: {verb} without a coordinator refused ({code}): {reason}")),
        ));
        actions.push(self.result(&request.id, verb, CommandStatus::Rejected, &Text::cut(code), reason));
    }
}
