//! The coordinator's life: its starts and deaths, and what it does.

use super::*;

/// How often in a row a coordinator dies within [`LIVES_MS`] of its start.
const DEATHS_IN_A_ROW: u32 = 10;

const LIVES_MS: u64 = 10_000;

impl World {
    pub(crate) fn config(&self) -> CoordinatorConfig {
        CoordinatorConfig {
            master: name(1),
            expected: (2..=self.pis.len()).map(name).collect(),
            max_unavailable: u16::try_from(self.max_unavailable).unwrap(),
            max_parallel: 8,
            server: Text::cut("https://10.0.0.1:6443"),
            drain_ms: 60_000,
            destruction: Destruction::Allowed,
            blockers: Blockers { pods: vec![keeps()], ..Blockers::default() },
            switch: self.switch,
            speaks: self.pis[0].speaks,
        }
    }

    pub(crate) fn start_coordinator(&mut self) {
        self.life += 1;
        let first = FirstSession { term: 1, nonce: self.nonce() };
        self.record = self.cards[0].load_coordinator();
        self.sees_what_is_resumed();
        let (core, actions) = Coordinator::start(self.clock(0), self.config(), first, self.record.clone());
        let life = self.life;
        self.note(|| format!("coordinator starts (life {life})"));
        self.coordinator = Some(core);
        self.coordinator_began = self.now;
        self.perform(actions);
        if !self.broker_down {
            self.coordinator_subscribes();
        }
        self.kube.shown = None;
        self.tick_coordinator();
    }

    /// Its subscriptions bring what the broker keeps.
    pub(crate) fn coordinator_subscribes(&mut self) {
        self.coordinate(coordinator::Event::Broker(BrokerLink::Up));
        let kept: Vec<_> = self.retained.values().cloned().collect();
        for (topic, bytes) in kept {
            if matches!(topic, Topic::Presence(_) | Topic::State(_)) {
                let after = self.random.between(1, 60);
                self.later(after, Happening::Arrives(topic, bytes));
            }
        }
    }

    pub(crate) fn stop_coordinator(&mut self) {
        if self.coordinator.take().is_some() {
            self.coordinator_ended = self.now;
        }
        self.life += 1;
        self.coordinator_tick_at = u64::MAX;
    }

    pub(crate) fn coordinate(&mut self, event: coordinator::Event) {
        let now = self.clock(0);
        let Some(core) = &mut self.coordinator else { return };
        let actions = core.step(now, event);
        self.perform(actions);
        self.tick_coordinator();
    }

    pub(super) fn tick_coordinator(&mut self) {
        let now = self.clock(0);
        let Some(core) = &self.coordinator else { return };
        let at = (core.next_deadline(now).as_ms() - self.pis[0].ahead).max(self.now + 1);
        if at < self.coordinator_tick_at {
            self.coordinator_tick_at = at;
            let life = self.life;
            self.later(at - self.now, Happening::CoordinatorTick(life));
        }
    }

    /// Counts an action, and says whether the power goes before it.
    pub(crate) fn cuts_here(&mut self) -> bool {
        self.performed += 1;
        self.cut_at == Some(self.performed)
    }

    pub(super) fn perform(&mut self, actions: Vec<coordinator::Action>) {
        let mut renewal = None;
        for action in actions {
            self.trace(|| format!("{action:?}").into_bytes());
            if self.cuts_here() {
                self.fault("power cut");
                self.note(|| format!("the master's power goes before {action:?}"));
                self.power_cut(0);
                return;
            }
            if self.random.hits(self.faults.crash) && self.may_die() {
                self.fault("coordinator crash");
                self.note(|| "the coordinator dies between two actions".into());
                self.stop_coordinator();
                let after = self.random.between(200, 5_000);
                let life = self.life;
                self.later(after, Happening::CoordinatorStarts(life));
                return;
            }
            match action {
                coordinator::Action::Store(record) => {
                    match self.writes(0, |card| card.save_coordinator(&record)) {
                        Saved::Yes => {
                            self.record = *record;
                            self.sees_what_is_resumed();
                        }
                        Saved::No => {
                            self.note(|| "the coordinator's store fails".into());
                            let now = self.clock(0);
                            if let Some(core) = &mut self.coordinator {
                                // as the task does: what it answers now is dropped too
                                let _ = core.step(now, coordinator::Event::StoreFailed);
                            }
                            return;
                        }
                        Saved::PowerGone => {
                            self.note(|| "the master's power goes while the coordinator stores".into());
                            self.power_cut(0);
                            return;
                        }
                    }
                }
                coordinator::Action::Command { node, version, mut command, secret } => {
                    self.note(|| format!("-> {node} {:?} {} in version {version}", command.verb.name(), command.id));
                    self.reached.note("command in version", crate::reached::version_word(version));
                    self.sends(&node, &command);
                    let (id, operation) = (command.id.clone(), command.operation.clone());
                    if let (Verb::Join { credential, cluster, .. }, Some(secret)) = (&mut command.verb, secret) {
                        let context = SealContext {
                            crew: &broker::crew(),
                            node: &node,
                            boot: &secret.boot,
                            cluster: &*cluster,
                            operation: operation.as_ref(),
                            command: &id,
                        };
                        *credential = sign::seal(secret.credential.reveal(), &context);
                    }
                    self.say_in(version, Topic::Command(node), &*command);
                }
                coordinator::Action::Respond { user, response } => {
                    self.note(|| format!("answer {:?} {} {}", response.status, response.code, response.text));
                    self.say_in(self.asked_in.max(response.since()), Topic::ConsoleResponse(user), &*response);
                }
                coordinator::Action::State(state) => {
                    for member in &state.members {
                        self.reached.note("membership", member.membership.as_str());
                    }
                    self.shown_in = self.core_version();
                    self.reached.note("broadcast in version", crate::reached::version_word(self.shown_in));
                    self.say(Topic::CoordinatorState, &*state);
                    let kept = self.retained.get(Topic::CoordinatorState.name(&broker::crew()).as_str());
                    self.shown = kept.map(|(_, bytes)| decode(bytes).unwrap());
                    for index in 0..self.pis.len() {
                        self.tell(index);
                    }
                }
                coordinator::Action::Look { token, node } => {
                    let after = self.random.between(10, 3_000);
                    self.later(after, Happening::Looks(self.life, token, node));
                }
                coordinator::Action::SwitchOn { token, node } => {
                    let after = self.random.between(10, 3_000);
                    self.later(after, Happening::Switches(self.life, token, node));
                }
                coordinator::Action::Certify { .. } => unreachable!("nobody here asks for a certificate"),
                coordinator::Action::NewSession => {
                    self.note(|| "the coordinator's session is renewed".into());
                    self.renewed += 1;
                    let nonce = self.nonce();
                    renewal = Some(coordinator::Event::Session(nonce));
                }
                coordinator::Action::Operation(summary) => {
                    self.sees_operation(&summary);
                    self.say(Topic::Operation(summary.id.clone()), &*summary);
                }
                coordinator::Action::OperationNode(report) => {
                    self.sees_order(&report);
                    self.reads(&report);
                    for step in &report.steps {
                        self.reached.note("step", step.step.as_str());
                        self.reached.note("step state", step.state.as_str());
                        if step.step == StepKind::Cordon && step.state == StepState::Running {
                            let key = (report.id.as_str().to_owned(), report.node.clone());
                            if self.turns_come.insert(key) {
                                self.keeps_away(&report);
                            }
                        }
                        // given up, and said so: it may come back before the master is reset
                        if step.step == StepKind::Reset && step.state == StepState::Failed {
                            self.resets.insert((report.id.as_str().to_owned(), report.node.clone()));
                        }
                    }
                    let topic = Topic::OperationNode(report.id.clone(), report.node.clone());
                    self.say(topic, &*report);
                }
                coordinator::Action::Clear(topic) => {
                    if let Topic::Operation(id) = &topic {
                        self.summaries.remove(id.as_str());
                    }
                    if let Topic::OperationNode(id, node) = &topic {
                        self.steps_failed.remove(&(id.as_str().to_owned(), node.clone()));
                        self.waits_for_slot.remove(&(id.as_str().to_owned(), node.clone()));
                    }
                    self.retained.remove(topic.name(&broker::crew()).as_str());
                }
                coordinator::Action::Tell(event) => {
                    self.note(|| format!("event {:?} {}", event.kind, event.detail));
                }
                coordinator::Action::Kube { token, work, deadline_ms } => {
                    assert!(deadline_ms > 0, "no time for {work:?}");
                    self.kube_begins(token, work);
                }
            }
        }
        if let Some(event) = renewal {
            self.coordinate(event);
        }
    }

    /// What an operator reads of a node in an operation.
    fn reads(&mut self, report: &OperationNode) {
        let key = (report.id.as_str().to_owned(), report.node.clone());
        let waits = ["waits for a slot", "waits for its return"];
        if waits.iter().any(|words| report.reason.as_str().starts_with(words)) {
            self.waits_for_slot.insert(key.clone());
        } else {
            self.waits_for_slot.remove(&key);
        }
        if report.steps.iter().any(|step| step.state == StepState::Failed) {
            self.steps_failed.insert(key);
        } else {
            self.steps_failed.remove(&key);
        }
    }

    /// A coordinator does much at its start, and the more the larger its crew. One that dies at it again and again would never
    /// answer anybody, so in the end it lives for a while.
    pub(super) fn may_die(&mut self) -> bool {
        if self.now - self.coordinator_began >= LIVES_MS {
            self.died_early = 0;
        }
        self.died_early += 1;
        self.died_early <= DEATHS_IN_A_ROW
    }

    /// A write to a card, which may fail, or be cut off by the power's end.
    pub(crate) fn writes(&mut self, index: usize, save: impl FnOnce(&mut dyn Card) -> Saved) -> Saved {
        if self.random.hits(self.faults.store) {
            self.fault("store fails");
            return Saved::No;
        }
        if self.random.hits(self.faults.torn) {
            let cut = Cut::by_number(self.random.below(Cut::COUNT));
            self.fault(match cut.left {
                Left::Everything => "power cut in a write",
                Left::Torn => "torn write",
                Left::Nothing => "lost write",
            });
            self.cards[index].cut_the_next_save(cut);
        }
        save(&mut *self.cards[index])
    }

    /// What the coordinator writes to everybody in.
    pub(crate) fn core_version(&self) -> ProtocolVersion {
        self.coordinator.as_ref().map_or(ProtocolVersion::BEFORE, Coordinator::broadcast_version)
    }
}
