//! Performs what the cores decide: the node's core and the power sequencer, each in the order of its actions.

use super::{Agent, Outcome, RECORD, cluster};
use crate::engine::EngineWork;
use crate::host::Strength;
use crate::keys::new_nonce;
use beehive_board::power::{self, Goal, GraceTime, Phase, Reason};
use beehive_board::time::Instant;
use beehive_cluster::kube::JoinCredential;
use beehive_cluster::node::{Action, EngineOutcome, EngineTask, Event, Grace, Preparation};
use beehive_mqtt::command::{SealContext, SealedCredential};
use beehive_mqtt::node::{NodeEventKind, PowerGoal, PowerPhase};
use beehive_mqtt::{ClusterId, CommandId, OperationId, Text, Topic};
use std::time::Duration;

impl Agent {
    pub(super) fn node(&mut self, now: Instant, event: Event) {
        let actions = self.core.step(cluster(now), event);
        self.node_actions(now, actions);
    }

    pub(super) fn node_actions(&mut self, now: Instant, actions: Vec<Action>) {
        let mut renewal = None;
        for action in actions {
            match action {
                Action::Store(record) => {
                    if let Err(error) = self.store.save(RECORD, record.as_ref()) {
                        // what rests on it must not be done: a power cut would forget it; the core holds it back and
                        // stores again in a while
                        tracing::error!("{error}");
                        self.tell(NodeEventKind::Refused, "the record cannot be stored; what rests on it waits");
                        self.core.store_failed(cluster(now));
                        return;
                    }
                }
                Action::Result(result) => self.publish(&Topic::Result(self.settings.node.clone()), &result),
                Action::Request(request) => self.publish(&Topic::Request(self.settings.node.clone()), &request),
                Action::Tell(kind, detail) => self.tell(kind, detail.as_str()),
                Action::Engine { token, task, deadline_ms } => self.start_engine(token, task, deadline_ms),
                Action::Power { goal, reason, grace, preparation } => {
                    let request = power::Event::Request {
                        goal: board_goal(goal),
                        reason: board_reason(&reason),
                        grace: match grace {
                            Grace::None => GraceTime::None,
                            Grace::Standard => GraceTime::Standard,
                        },
                        preparation: match preparation {
                            Preparation::Needed => power::Preparation::Needed,
                            Preparation::Done => power::Preparation::Done,
                        },
                    };
                    self.power(now, request);
                }
                Action::CancelPower => self.power(now, power::Event::Cancel),
                Action::FollowSystem => self.power(now, power::Event::SystemStopping),
                Action::Prepared => self.power(now, power::Event::Prepared),
                Action::Identify { seconds } => self.show_identify(now, u64::from(seconds) * 1_000),
                Action::ShowStatus => self.show_status(now),
                Action::NewSession => match new_nonce() {
                    Ok(nonce) => renewal = Some(Event::Session(nonce)),
                    // it goes on in the present one; when that is full, commands are answered with `busy`
                    Err(error) => tracing::error!("no new session: {error}"),
                },
            }
        }
        if let Some(event) = renewal {
            self.node(now, event);
        }
    }

    pub(super) fn power(&mut self, now: Instant, event: power::Event) {
        for action in self.sequencer.step(now, event) {
            match action {
                power::Action::Announce(phase) => self.announce(now, phase),
                power::Action::Prepare { deadline } => {
                    let Some(goal) = self.goal else { continue };
                    let reason = self.power_reason();
                    let deadline_ms = deadline.saturating_since(now);
                    self.node(now, Event::PrepareAsked { goal, reason, deadline_ms });
                }
                power::Action::StopEngine { deadline } => self.stop_engine(deadline.saturating_since(now)),
                power::Action::HandOver(goal) => self.hand_over(now, goal, Strength::Polite),
                power::Action::ForceHandOver(goal) => self.hand_over(now, goal, Strength::Forced),
                // kept with the phase, by the node's core
                power::Action::Store { .. } => {}
                power::Action::Yield => {
                    // fresh for the hook, which runs when we are gone
                    self.look_for_another_user();
                    self.write_feed(now);
                    self.doors.let_go();
                }
            }
        }
    }

    fn announce(&mut self, now: Instant, phase: Phase) {
        self.phase = wire_phase(phase);
        self.goal = self.sequencer.state().goal().map(|goal| match goal {
            Goal::Reboot => PowerGoal::Reboot,
            Goal::PowerOff => PowerGoal::PowerOff,
        });
        let reason = self.power_reason();
        self.node(now, Event::Power { phase: self.phase, goal: self.goal, reason });
        self.show_power(now, phase);
        self.tell(NodeEventKind::Power, phase.as_str());
        self.publish_state(now);
    }

    fn power_reason(&self) -> Text<32> {
        Text::cut(self.sequencer.state().reason().map_or("", |reason| reason.as_str()))
    }

    fn start_engine(&self, token: u64, task: EngineTask, deadline_ms: u64) {
        let work = match task {
            EngineTask::Initialise { cluster, version } => EngineWork::Initialise { cluster, version },
            EngineTask::Join { cluster, server, version, credential, command, operation } => {
                match self.open(&cluster, &credential, &command, operation.as_ref()) {
                    Ok(credential) => EngineWork::Join { cluster, server, version, credential },
                    Err(reason) => {
                        return self.engine_ended(
                            token,
                            EngineOutcome::Failed { code: Text::cut("sealed"), reason: Text::cut(&reason) },
                        );
                    }
                }
            }
            EngineTask::Stop => EngineWork::Stop,
            EngineTask::Start => EngineWork::Start,
            EngineTask::Reset => EngineWork::Reset,
            EngineTask::Snapshot => EngineWork::Snapshot,
            EngineTask::AddOns => EngineWork::AddOns,
            EngineTask::Upgrade { version } => EngineWork::Upgrade { version },
        };
        let future = self.engine.perform(work);
        let outcomes = self.outcomes.clone();
        tokio::spawn(async move {
            let outcome = match tokio::time::timeout(Duration::from_millis(deadline_ms), future).await {
                Ok(Ok(done)) => EngineOutcome::Done { code: Text::cut(done.code), detail: Text::cut(&done.detail) },
                Ok(Err(error)) => {
                    EngineOutcome::Failed { code: Text::cut(error.code), reason: Text::cut(&error.reason) }
                }
                Err(_) => EngineOutcome::Failed {
                    code: Text::cut("deadline"),
                    reason: Text::cut("the engine did not end in time"),
                },
            };
            // fails only when the agent has ended
            let _ = outcomes.send(Outcome::Engine { token, outcome }).await;
        });
    }

    /// Comes back as an event, like every end of the engine's work.
    fn engine_ended(&self, token: u64, outcome: EngineOutcome) {
        let outcomes = self.outcomes.clone();
        tokio::spawn(async move {
            // fails only when the agent has ended
            let _ = outcomes.send(Outcome::Engine { token, outcome }).await;
        });
    }

    /// Opens a credential. It was sealed to this node's key for this boot, cluster, operation and command, or it does not open.
    fn open(
        &self,
        cluster: &ClusterId,
        sealed: &SealedCredential,
        command: &CommandId,
        operation: Option<&OperationId>,
    ) -> Result<JoinCredential, String> {
        let (crew, boot) = (self.link.crew(), self.host.boot_id());
        let context = SealContext { crew, node: &self.settings.node, boot: &boot, cluster, operation, command };
        let opener = self.link.trust().opener.as_ref().ok_or("this Pi has no key that opens what is sealed to it")?;
        let sealed = sealed.bytes().ok_or("the sealed credential is no hexadecimal")?;
        let secret = opener.open(&sealed, &context.bytes()).map_err(|error| error.to_string())?;
        let secret = std::str::from_utf8(&secret).map_err(|_| "the sealed credential holds no text")?;
        JoinCredential::new(secret).ok_or_else(|| "the sealed credential is too long".to_owned())
    }

    fn stop_engine(&self, deadline_ms: u64) {
        let future = self.engine.perform(EngineWork::Stop);
        let outcomes = self.outcomes.clone();
        tokio::spawn(async move {
            match tokio::time::timeout(Duration::from_millis(deadline_ms), future).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::warn!("the engine did not stop: {error}"),
                // the sequencer has the same deadline and goes on by itself
                Err(_) => return,
            }
            let _ = outcomes.send(Outcome::EngineStopped).await;
        });
    }

    fn hand_over(&mut self, now: Instant, goal: Goal, strength: Strength) {
        // fresh for the hook, which runs when we are gone
        self.look_for_another_user();
        self.write_feed(now);
        // our own inhibitor would hold up our own shutdown
        self.doors.let_go();
        let future = self.host.hand_over(goal, strength);
        let outcomes = self.outcomes.clone();
        tokio::spawn(async move {
            let outcome = future.await;
            let _ = outcomes.send(Outcome::HandedOver(outcome)).await;
        });
    }

    pub(super) fn outcome(&mut self, outcome: Outcome) {
        let now = self.clock.now();
        match outcome {
            Outcome::Engine { token, outcome } => {
                let engine = self.engine.state();
                self.engine_seen = engine.clone();
                self.node(now, Event::EngineEnded { token, outcome, engine });
            }
            Outcome::EngineStopped => self.power(now, power::Event::EngineStopped),
            Outcome::HandedOver(Ok(())) => {}
            Outcome::HandedOver(Err(error)) => {
                tracing::error!("the hand-over failed: {error}");
                self.tell(NodeEventKind::Power, &format!("hand-over failed: {error}"));
                self.power(now, power::Event::HandOverFailed);
            }
        }
    }
}

fn board_goal(goal: PowerGoal) -> Goal {
    match goal {
        PowerGoal::Reboot => Goal::Reboot,
        PowerGoal::PowerOff => Goal::PowerOff,
    }
}

/// The node's core has two reasons of its own; the word of the core is what is stored and shown.
fn board_reason(reason: &Text<32>) -> Reason {
    if reason.as_str() == "button" { Reason::Button } else { Reason::Command }
}

fn wire_phase(phase: Phase) -> PowerPhase {
    match phase {
        Phase::Running => PowerPhase::Running,
        Phase::Grace => PowerPhase::Grace,
        Phase::Draining => PowerPhase::Draining,
        Phase::Stopping => PowerPhase::Stopping,
        Phase::HandingOver => PowerPhase::HandingOver,
        Phase::Halted => PowerPhase::Halted,
    }
}
