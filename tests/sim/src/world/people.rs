//! People who press, ask and upgrade, what keeps work from a node, and disasters.

use super::*;

impl World {
    /// A pod that is not to be disturbed runs on these nodes for a while.
    pub(crate) fn keeps_busy(&mut self, nodes: Vec<NodeName>, for_ms: u64) {
        self.note(|| format!("kept busy for {for_ms} ms: {nodes:?}"));
        for node in &nodes {
            self.busy.insert(node.clone(), self.now);
        }
        self.later(for_ms, Happening::Frees(nodes, self.now));
    }

    pub(super) fn looks(&mut self, token: u64, node: &NodeName) {
        let shown = if self.kube.serves(&self.pis[0]) {
            let label = Label { key: "keep".into(), value: "yes".into() };
            let pod = Pod { namespace: "data".into(), name: "db-0".into(), labels: vec![label] };
            let pods = self.busy.contains_key(node).then_some(pod);
            Ok(Shown { labels: Vec::new(), pods: pods.into_iter().collect() })
        } else {
            Err(Text::cut("no answer"))
        };
        self.reached.note("look", if shown.is_err() { "in vain" } else { "found" });
        let facts = Box::new(Facts { shown, minute: None, command: Said::Go });
        self.coordinate(coordinator::Event::Looked { token, facts });
    }

    pub(super) fn switches(&mut self, token: u64, node: &NodeName) {
        let fails = self.random.below(4) == 0;
        self.reached.note("switch", if fails { "fails" } else { "feeds" });
        let index = self.pis.iter().position(|pi| pi.name == *node).unwrap();
        if !fails && !self.pis[index].on && !self.pis[index].returns {
            self.boot(index);
        }
        let outcome = if fails { Err(Text::cut("no route")) } else { Ok(()) };
        self.coordinate(coordinator::Event::Switched { token, outcome });
    }

    pub(crate) fn ask(&mut self, ask: Ask, mode: Mode) -> RequestId {
        self.asked += 1;
        let id: RequestId = format!("r-{}-{}", self.seed, self.asked).parse().unwrap();
        let nonce = "unheard".parse().unwrap();
        self.asking.insert(id.clone(), ConsoleRequest { id: id.clone(), nonce, mode, ask });
        self.later(0, Happening::ConsoleAsks(id.clone()));
        id
    }

    pub(crate) fn operation(&mut self, kind: OperationKind, node: Option<NodeName>) -> RequestId {
        let version = self.version_for(kind);
        self.ask(Ask::Operation { kind, node, version, force: Force::No }, Mode::Execute)
    }

    pub(super) fn console_asks(&mut self, id: &RequestId) {
        let Some(request) = self.asking.get(id) else { return };
        let mut request = request.clone();
        if let Some(shown) = &self.shown {
            request.nonce = shown.session.nonce.clone();
            self.event();
            self.say(Topic::ConsoleRequest(user()), &request);
        }
        self.later(1_000, Happening::ConsoleAsks(id.clone()));
    }

    /// The answer, once it is there.
    pub(crate) fn answer(&mut self, id: &RequestId) -> ConsoleResponse {
        // a coordinator of forty Pis that dies every other second takes its time
        let limit_ms = if self.faults.disasters == 0 { 300_000 } else { 900_000 };
        self.run_until("answered", limit_ms, |world| {
            // an ordered shutdown that ran on took it down again, and people see that nobody answers
            if !world.undisturbed && world.faults.disasters == 0 {
                world.switch_on();
            } else if !world.undisturbed && !world.pis[0].on && !world.pis[0].returns {
                world.boot(0);
            }
            world.responses.contains_key(id)
        });
        self.responses[id].clone()
    }

    /// People switch on what is off and does not come back by itself.
    pub(crate) fn switch_on(&mut self) {
        for index in 0..self.pis.len() {
            if !self.pis[index].on && !self.pis[index].returns {
                self.boot(index);
            }
        }
    }

    pub(crate) fn phase(&self, id: &RequestId) -> Option<OperationPhase> {
        self.summaries.get(id.as_str()).map(|summary| summary.phase)
    }

    /// Waits until an operation has ended; says how.
    #[track_caller]
    pub(crate) fn ended(&mut self, id: &RequestId, limit_ms: u64) -> OperationPhase {
        self.run_until("the operation's end", limit_ms, |world| world.phase(id).is_some_and(OperationPhase::is_final));
        self.phase(id).unwrap()
    }

    pub(crate) fn press(&mut self, index: usize, press: Press) {
        self.event();
        let name = self.pis[index].name.clone();
        self.reached.note(
            "act",
            match press {
                Press::Short => "short press",
                Press::Double => "double press",
                Press::PowerOff => "hold",
                Press::Reset => "long hold",
                Press::Nothing => "nothing",
            },
        );
        self.note(|| format!("{name} pressed: {press:?}"));
        if press == Press::Reset {
            let pi = &mut self.pis[index];
            pi.wants_reset = pi.core.is_some();
        }
        self.node(index, beehive_cluster::node::Event::ButtonDown);
        self.node(index, beehive_cluster::node::Event::Press(press));
        if let (Some(PowerGoal::PowerOff), Some(since)) = (self.pis[index].goal, self.pis[index].down_since) {
            let boots = self.pis[index].boots;
            self.later(crate::pi::DOWN_WITHIN_MS, Happening::IsOff(index, boots, since));
        }
    }

    /// Somebody stops or restarts the system of a Pi; both doors say so.
    pub(crate) fn system_stops(&mut self, index: usize, goal: PowerGoal) {
        self.event();
        self.reached.note("act", "system stops");
        let name = self.pis[index].name.clone();
        self.note(|| format!("the system of {name} is stopped by somebody: {goal:?}"));
        if self.pis[index].core.is_none() {
            return; // nobody there who could wait for it
        }
        self.pis[index].system_stops = Some(goal);
        self.node(index, beehive_cluster::node::Event::SystemStopping);
        self.node(index, beehive_cluster::node::Event::SystemStopping);
    }

    /// An operator does something in the middle of what runs.
    pub(crate) fn act(&mut self) {
        let whom = self.any_pi();
        match self.random.below(17) {
            14 | 15 => self.tells(whom),
            16 => self.coordinator_is_stopped(),
            0 => self.press(whom, Press::Double),
            1 => self.press(whom, Press::PowerOff),
            2 => self.press(whom, Press::Reset),
            3 => self.press(whom, Press::Short),
            4 => {
                let goal = if self.random.below(2) == 0 { PowerGoal::Reboot } else { PowerGoal::PowerOff };
                self.system_stops(whom, goal);
            }
            5 => {
                self.ask(Ask::Abort, Mode::Execute);
            }
            6 => {
                self.ask(Ask::Resume, Mode::Execute);
            }
            7 => {
                self.operation(OperationKind::NodeIdentify, Some(name(whom + 1)));
            }
            _ => self.asks_for_anything(whom),
        }
    }

    /// An order that makes sense, or none: what is refused must do nothing.
    pub(crate) fn asks_for_anything(&mut self, whom: usize) {
        const KINDS: [OperationKind; 15] = [
            OperationKind::Create,
            OperationKind::Rebuild,
            OperationKind::Reset,
            OperationKind::Reboot,
            OperationKind::Upgrade,
            OperationKind::Shutdown,
            OperationKind::Start,
            OperationKind::NodeDrain,
            OperationKind::NodeUncordon,
            OperationKind::NodeJoin,
            OperationKind::NodeLeave,
            OperationKind::NodeReset,
            OperationKind::NodeReboot,
            OperationKind::NodeShutdown,
            OperationKind::NodeIdentify,
        ];
        let kind = KINDS[usize::try_from(self.random.below(KINDS.len() as u64)).unwrap()];
        let node = match self.random.below(20) {
            0 => None,
            1 => Some(name(999)),
            _ => Some(name(whom + 1)),
        };
        let mode = if self.random.below(3) == 0 { Mode::DryRun } else { Mode::Execute };
        let version = self.version_for(kind);
        self.ask(Ask::Operation { kind, node, version, force: Force::No }, mode);
    }

    /// Another one each time.
    pub(super) fn version_for(&self, kind: OperationKind) -> Text<32> {
        if kind == OperationKind::Upgrade { Text::format(format_args!("v{}", self.asked)) } else { Text::new() }
    }

    pub(crate) fn any_pi(&mut self) -> usize {
        usize::try_from(self.random.below(self.pis.len() as u64)).unwrap()
    }

    /// A machine stood still, or its clock leaps ahead.
    pub(crate) fn leaps(&mut self, index: usize) {
        self.fault("clock jump");
        let by = self.random.between(1_000, 120_000);
        let name = self.pis[index].name.clone();
        self.note(|| format!("the clock of {name} leaps ahead by {by} ms"));
        self.pis[index].ahead += by;
        self.leaps_of_hearing(index, by);
        self.node(index, beehive_cluster::node::Event::Tick);
        if index == 0 {
            self.coordinate(coordinator::Event::Tick);
        }
    }

    pub(super) fn disaster(&mut self) {
        if self.faults.disasters == 0 {
            return;
        }
        let index = self.any_pi();
        let name = self.pis[index].name.clone();
        match self.random.below(18) {
            16..=17 if self.faults.programs > 0 => self.another_program(index),
            15 if self.faults.broker > 0 => self.broker_stops(),
            14 if self.faults.clocks > 0 => {
                self.leaps(index);
            }
            13 if self.faults.blocks > 0 => {
                self.fault("drain blocks");
                self.note(|| format!("drains of {name} are blocked"));
                self.kube.blocked = Some(name);
                let after = self.random.between(5_000, 200_000);
                self.later(after, Happening::Unblocks);
            }
            10..=12 => {
                self.fault("partition");
                self.note(|| format!("the network of {name} is cut"));
                self.partition(index);
            }
            0..=2 => {
                self.fault("agent crash");
                self.note(|| format!("the agent of {name} dies"));
                self.agent_dies(index);
            }
            3..=5 => {
                self.fault("power cut");
                self.note(|| format!("the power of {name} goes"));
                self.power_cut(index);
            }
            _ => {
                self.fault("coordinator crash");
                self.note(|| "the coordinator dies".into());
                self.stop_coordinator();
                let after = self.random.between(200, 5_000);
                let life = self.life;
                self.later(after, Happening::CoordinatorStarts(life));
            }
        }
    }

    /// A Pi is upgraded, or set back to the program before.
    pub(super) fn another_program(&mut self, index: usize) {
        match self.pis[index].speaks {
            ProtocolVersion::V1 => self.put_program(index, ProtocolVersion::V2),
            // the program before cannot read a record of what it does not know, so nobody sets back what has one
            ProtocolVersion::V2 if self.keeps_what_is_new(index) => {}
            ProtocolVersion::V2 => self.put_program(index, ProtocolVersion::V1),
        }
    }

    pub(super) fn keeps_what_is_new(&self, index: usize) -> bool {
        let node = format!("{:?}", self.pis[index].stored).contains("Upgrade");
        node || (index == 0 && self.record.operations.iter().any(|held| held.kind == OperationKind::Upgrade))
    }

    /// Its daemon starts anew with this program; its engine runs on.
    pub(super) fn put_program(&mut self, index: usize, version: ProtocolVersion) {
        if self.pis[index].speaks == version {
            return;
        }
        self.pis[index].speaks = version;
        let name = self.pis[index].name.clone();
        self.fault(match version {
            ProtocolVersion::V1 => "set back",
            ProtocolVersion::V2 => "upgrade",
        });
        self.note(|| format!("{name} gets the program of version {version}"));
        self.agent_dies(index);
        if index == 0 {
            self.stop_coordinator();
            let after = self.random.between(200, 5_000);
            let life = self.life;
            self.later(after, Happening::CoordinatorStarts(life));
        }
    }

    /// Whether some Pi has the program before.
    pub(crate) fn is_mixed(&self) -> bool {
        self.pis.iter().any(|pi| pi.speaks < ProtocolVersion::CURRENT)
    }

    /// People upgrade beehive on every Pi, the master first.
    pub(crate) fn everybody_current(&mut self) {
        for index in 0..self.pis.len() {
            self.put_program(index, ProtocolVersion::CURRENT);
        }
    }

    /// An upgrade of the engines that is not done waits for programs that know how.
    pub(super) fn needs_programs(&self) -> bool {
        self.summaries.values().any(|held| held.kind == OperationKind::Upgrade && held.phase != OperationPhase::Done)
    }
}
