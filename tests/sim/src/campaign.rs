//! Operation after operation, each in a storm of its own, and what must have come of each.

use crate::card::{Card, MemoryCard};
use crate::reached::Reached;
use crate::sign::Signing;
use crate::world::{Faults, Kept, Programs, Random, Setup, Traced, World, name};
use beehive_cluster::node::Press;
use beehive_mqtt::console::{Ask, Force, Mode, ResponseStatus};
use beehive_mqtt::coordinator::{OperationKind, OperationPhase};
use beehive_mqtt::node::PowerGoal;
use beehive_mqtt::{ProtocolVersion, RequestId, Text};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

/// How many lines of the log a violation keeps.
const LOG_LINES: usize = 400;

/// The faults stop, and within this time the world must be what was asked for.
pub(crate) const SETTLES_MS: u64 = 600_000;

/// So much more for each Pi where they go down one after the other: a slow boot, and a kubelet that says nothing for long.
const EACH_MS: u64 = 120_000;

/// How a seed is played.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// At least so many events: delivered messages, completed actions, faults, acts of people.
    pub events: u64,
    /// What signs.
    pub signing: Signing,
    /// Which kinds of faults are allowed, a bit each in the order of [`crate::shrink::kinds`].
    pub mask: u32,
    /// Whether a hash over every delivered byte and every action is kept.
    pub trace: Trace,
    /// How often the power goes in the middle of a save.
    #[serde(default)]
    pub cuts: Cuts,
}

/// How often the power goes in the middle of a save.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cuts {
    /// As the seed says: at most at fifteen of a thousand, while there is a storm.
    #[default]
    BySeed,
    /// At one of twenty, while there is a storm.
    Often,
}

impl Default for Options {
    /// Five thousand events, signatures by hash, every fault, no trace.
    fn default() -> Self {
        Self { events: 5_000, signing: Signing::Hashed, mask: u32::MAX, trace: Trace::Off, cuts: Cuts::BySeed }
    }
}

/// Whether a hash over a run is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trace {
    /// It is.
    On,
    /// It is not: it costs a third of the time.
    Off,
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// How many Pis, the master included.
    pub nodes: usize,
    /// Events.
    pub events: u64,
    /// Faults among them.
    pub faults: u64,
    /// Operations that ended, in whatever way.
    pub operations: u64,
    /// How many of them had to be taken up again after the faults.
    pub taken_up_again: u64,
    /// How long it took in the world, in milliseconds.
    pub simulated_ms: u64,
    /// The hash over everything, where it was asked for.
    pub hash: Option<u64>,
    /// What was reached.
    pub reached: Reached,
}

/// A run that broke a rule.
#[derive(Debug, Clone)]
pub struct Violation {
    /// The seed.
    pub seed: u64,
    /// What was wrong, and when.
    pub why: String,
    /// The last lines of the log.
    pub log: Vec<String>,
}

/// Plays one seed.
///
/// # Errors
/// The rule that it broke.
pub fn run(seed: u64, options: &Options) -> Result<Report, Violation> {
    // the log is made only for a run that needs it: the same run once more
    match play(seed, options, None) {
        Ok(report) => Ok(report),
        Err(_) => {
            let kept = Rc::new(RefCell::new(VecDeque::new()));
            let lines = Rc::clone(&kept);
            let keep = move |line: &str| {
                let mut lines = lines.borrow_mut();
                if lines.len() >= LOG_LINES {
                    lines.pop_front();
                }
                lines.push_back(line.to_owned());
            };
            let why = match play(seed, options, Some(Box::new(keep))) {
                Ok(_) => "it failed once and not again: the simulator is not deterministic".to_owned(),
                Err(why) => why,
            };
            let log = kept.borrow_mut().drain(..).collect();
            Err(Violation { seed, why, log })
        }
    }
}

/// Plays one seed and hands out each line of the log.
///
/// # Errors
/// The rule that it broke.
pub fn watch(seed: u64, options: &Options, line: impl FnMut(&str) + 'static) -> Result<Report, String> {
    play(seed, options, Some(Box::new(line)))
}

/// Plays one seed on cards of the caller's choice, one for each Pi. What comes of it must be what comes of it on the
/// simulator's own.
///
/// # Errors
/// The rule that it broke.
pub fn run_on(seed: u64, options: &Options, card: &dyn Fn() -> Box<dyn Card>) -> Result<Report, String> {
    play_on(seed, options, None, card)
}

fn play(seed: u64, options: &Options, watch: Option<crate::world::Watch>) -> Result<Report, String> {
    play_on(seed, options, watch, &|| Box::<MemoryCard>::default())
}

fn play_on(
    seed: u64,
    options: &Options,
    watch: Option<crate::world::Watch>,
    card: &dyn Fn() -> Box<dyn Card>,
) -> Result<Report, String> {
    let playing = AssertUnwindSafe(|| {
        let mut random = Random::new(seed ^ 0x0be3_411e);
        let nodes = crew_size(seed, &mut random);
        let setup = Setup {
            signing: options.signing,
            mask: options.mask,
            cuts: options.cuts,
            traced: match options.trace {
                Trace::On => Traced::Yes,
                Trace::Off => Traced::No,
            },
            watch,
            cards: (0..nodes).map(|_| card()).collect(),
            programs: programs(seed),
            ..Setup::plain(seed, nodes)
        };
        let world = campaign(setup, &mut random, options.events);
        Report {
            seed,
            nodes,
            events: world.events,
            faults: world.faults_done,
            operations: world.operations_done,
            taken_up_again: world.partly,
            simulated_ms: world.now,
            hash: world.trace.map(|trace| trace.value()),
            reached: world.reached,
        }
    });
    quietly(|| catch_unwind(playing)).map_err(|panic| words(&*panic))
}

/// The violation is the caller's to tell; the hook that prints panics is everybody's, so only its output is kept back.
fn quietly<R>(run: impl FnOnce() -> R) -> R {
    thread_local!(static QUIET: std::cell::Cell<u32> = const { std::cell::Cell::new(0) });
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if QUIET.with(std::cell::Cell::get) == 0 {
                before(info);
            }
        }));
    });
    QUIET.with(|quiet| quiet.set(quiet.get() + 1));
    let result = run();
    QUIET.with(|quiet| quiet.set(quiet.get() - 1));
    result
}

/// One operation of a crew of three that is in a cluster, without any other fault than what its cards do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scene {
    /// The cluster is torn down and made anew.
    Rebuild,
    /// Each Pi is restarted, one after the other.
    Reboot,
    /// A node that has left comes in again.
    Join,
    /// A node leaves.
    Leave,
}

/// Plays a scene on these three cards. `begins` is called when the crew is ready and the operation has not begun; a power
/// cut of a card ends that Pi, which comes back. The operation has to come to its right end, taken up again if need be.
///
/// # Errors
/// The rule that was broken.
pub fn scene(scene: Scene, cards: Vec<Box<dyn Card>>, begins: impl FnOnce()) -> Result<(), String> {
    let playing = AssertUnwindSafe(|| {
        let mut world = World::new(Setup { cards, ..Setup::plain(7, 3) });
        let create = world.operation(OperationKind::Create, None);
        assert_done(&mut world, &create);
        world.run_for(3_000);
        let node = name(2);
        let (kind, whom) = match scene {
            Scene::Rebuild => (OperationKind::Rebuild, None),
            Scene::Reboot => (OperationKind::Reboot, None),
            Scene::Leave => (OperationKind::NodeLeave, Some(node)),
            Scene::Join => {
                let leave = world.operation(OperationKind::NodeLeave, Some(node.clone()));
                assert_done(&mut world, &leave);
                (OperationKind::NodeJoin, Some(node))
            }
        };
        begins();
        let before = world.common_cluster();
        let boots: Vec<u32> = world.pis.iter().map(|pi| pi.boots).collect();
        let id = world.operation(kind, whom);
        assert_done(&mut world, &id);
        match scene {
            Scene::Leave => {
                if world.pis[1].kept != Kept::Blank || world.kube.nodes.contains_key(&name(2)) {
                    world.fail("it left, and something is left");
                }
            }
            Scene::Rebuild | Scene::Reboot | Scene::Join => all_in(&mut world),
        }
        if scene == Scene::Rebuild && world.common_cluster() == before {
            world.fail("rebuilt, and still the same cluster");
        }
        if scene == Scene::Reboot && world.pis.iter().zip(boots).any(|(pi, before)| pi.boots <= before) {
            world.fail("a Pi was not restarted");
        }
        settles(&mut world);
    });
    quietly(|| catch_unwind(playing)).map_err(|panic| words(&*panic))
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// A third of the crews is being upgraded.
fn programs(seed: u64) -> Programs {
    if seed % 3 == 1 { Programs::Mixed } else { Programs::Current }
}

/// A fifth of the crews are large.
fn crew_size(seed: u64, random: &mut Random) -> usize {
    let nodes = if seed % 5 == 0 { random.between(20, 50) } else { random.between(3, 7) };
    usize::try_from(nodes).unwrap()
}

/// Faults of one storm: some kinds at a time, so that each also comes alone.
pub(crate) fn faults(random: &mut Random) -> Faults {
    let mut some = |most: u64| if random.below(2) == 0 { 0 } else { random.between(1, most) };
    Faults {
        loss: some(200),
        duplicate: some(200),
        delay: some(300),
        replay: some(100),
        engine: some(300),
        kube: some(200),
        hang: some(30),
        store: some(100),
        torn: some(15),
        crash: some(15),
        acts: 0,
        disasters: some(1),
        broker: some(1),
        clocks: some(1),
        blocks: some(1),
        programs: some(1),
    }
}

fn campaign(setup: Setup, random: &mut Random, events: u64) -> World {
    let mut world = World::new(setup);
    let storm = faults(random);
    world.storm(storm);
    let create = world.operation(OperationKind::Create, None);
    let for_ms = random.between(10_000, 200_000);
    world.run_for(for_ms);
    assert_done(&mut world, &create);
    all_in(&mut world);
    settles(&mut world);
    while world.events < events || world.operations_done < 3 {
        round(&mut world, random);
    }
    world
}

/// One operation in one storm.
fn round(world: &mut World, random: &mut Random) {
    world.note(|| "---- another round".into());
    world.max_down = None;
    world.due = None;
    world.undisturbed = true;
    let mut storm = faults(random);
    let calm_after = random.between(10_000, 400_000);
    let victim = usize::try_from(random.between(1, world.pis.len() as u64 - 1)).unwrap();
    let by_hand = cordons_by_hand(world, random);
    let disturbed = random.below(5) < 2;
    if disturbed {
        storm.acts = random.between(1, 12);
    }
    world.storm(storm);
    if disturbed {
        world.undisturbed = false;
        disturbed_round(world, random, victim, calm_after);
    } else {
        quiet_round(world, random, victim, calm_after);
    }
    world.max_down = None;
    settles(world);
    if let Some(node) = by_hand {
        opens_by_hand(world, &node);
    }
}

/// Somebody else cordons a node: theirs it stays.
fn cordons_by_hand(world: &mut World, random: &mut Random) -> Option<beehive_mqtt::NodeName> {
    if random.below(5) != 0 {
        return None;
    }
    let node = name(world.any_pi() + 1);
    world.by_hand.insert(node.clone());
    world.kube.nodes.get_mut(&node)?.cordoned = true;
    // a cordon that nobody could have seen yet is taken for ours
    world.run_until("seen", 60_000, |world| world.sees_cordon(&node));
    Some(node)
}

fn opens_by_hand(world: &mut World, node: &beehive_mqtt::NodeName) {
    if world.by_hand.remove(node) {
        if let Some(object) = world.kube.nodes.get_mut(node) {
            object.cordoned = false;
        }
        world.run_for(2_000);
    }
}

/// Nobody gives orders in between: what was asked for comes to its end, whatever breaks.
fn quiet_round(world: &mut World, random: &mut Random, victim: usize, calm_after: u64) {
    world.forgets_directs();
    let before = world.common_cluster();
    let boots: Vec<u32> = world.pis.iter().map(|pi| pi.boots).collect();
    let large = world.pis.len() > 12;
    match random.below(20) {
        12 => holder_dies(world, victim),
        13 | 14 => called_off(world, random, victim),
        15 | 16 => paused(world, random, victim),
        0 | 1 => {
            let rebuild = world.operation(OperationKind::Rebuild, None);
            world.run_for(calm_after);
            assert_done(world, &rebuild);
            all_in(world);
            if world.common_cluster() == before {
                world.fail("rebuilt, and still the same cluster");
            }
        }
        // in a large crew it takes an hour, so it comes seldom
        2 | 3 if !large || random.below(6) == 0 => {
            world.max_down = Some(world.max_unavailable);
            let reboot = world.operation(OperationKind::Reboot, None);
            keeps_some_busy(world, random, &reboot);
            world.run_for(calm_after);
            assert_done(world, &reboot);
            all_in(world);
            let left =
                world.pis.iter().zip(boots).find(|(pi, before)| pi.boots <= *before).map(|(pi, _)| pi.name.clone());
            if let Some(left) = left {
                world.fail(&format!("{left} was not restarted"));
            }
        }
        17 if !large || random.below(6) == 0 => {
            beehive_first(world);
            world.max_down = Some(world.max_unavailable);
            let upgrade = asks_for_upgrade(world);
            let wanted = format!("v{}", world.asked - 1);
            keeps_some_busy(world, random, &upgrade);
            world.run_for(calm_after);
            assert_done(world, &upgrade);
            all_in(world);
            let left = world.pis.iter().find(|pi| pi.version.as_str() != wanted).map(|pi| pi.name.clone());
            if let Some(left) = left {
                world.fail(&format!("{left} was not upgraded to {wanted}"));
            }
        }
        18 => left_alone(world, victim),
        4 => {
            let reset = world.operation(OperationKind::Reset, None);
            world.run_for(calm_after);
            assert_done(world, &reset);
            world.by_hand.clear();
            world.run_until("everything is clean", 60_000, |world| {
                world.pis.iter().all(|pi| pi.on && pi.kept == Kept::Blank)
            });
            let create = world.operation(OperationKind::Create, None);
            assert_done(world, &create);
            all_in(world);
        }
        5 | 6 => {
            let leave = world.operation(OperationKind::NodeLeave, Some(name(victim + 1)));
            world.run_for(calm_after);
            assert_done(world, &leave);
            if world.pis[victim].kept != Kept::Blank || world.kube.nodes.contains_key(&name(victim + 1)) {
                world.fail("it left, and something is left");
            }
            world.by_hand.remove(&name(victim + 1));
            let storm = faults(random);
            world.storm(storm);
            let join = world.operation(OperationKind::NodeJoin, Some(name(victim + 1)));
            world.run_for(calm_after);
            assert_done(world, &join);
            all_in(world);
        }
        7 => {
            world.max_down = Some(world.max_unavailable);
            let reboot = world.operation(OperationKind::NodeReboot, Some(name(victim + 1)));
            world.run_for(calm_after);
            assert_done(world, &reboot);
            all_in(world);
            if world.pis[victim].boots <= boots[victim] {
                world.fail("it was not restarted");
            }
        }
        8 => {
            world.max_down = Some(world.max_unavailable);
            let drain = world.operation(OperationKind::NodeDrain, Some(name(victim + 1)));
            world.run_for(calm_after);
            assert_done(world, &drain);
            if !world.kube.cordoned().contains(&name(victim + 1)) {
                world.fail("it was drained to stay so");
            }
            open_again(world, victim);
            all_in(world);
        }
        9 => {
            world.max_down = Some(world.max_unavailable);
            let shutdown = world.operation(OperationKind::NodeShutdown, Some(name(victim + 1)));
            world.run_for(calm_after);
            switched_off(world, &shutdown, victim);
            switch_on(world);
            all_in(world);
        }
        10 | 11 => {
            match random.below(5) {
                0 => world.press(victim, Press::Double),
                1 => world.press(victim, Press::PowerOff),
                2 => world.press(victim, Press::Reset),
                3 => world.system_stops(victim, PowerGoal::Reboot),
                _ => world.system_stops(victim, PowerGoal::PowerOff),
            }
            world.run_for(calm_after);
            world.calm();
            world.run_for(400_000);
            bring_home(world);
        }
        _ => whole_shutdown(world, calm_after),
    }
}

/// In the middle of it a pod comes up that is not to be disturbed, on every other Pi.
fn keeps_some_busy(world: &mut World, random: &mut Random, id: &RequestId) {
    if random.below(2) == 0 {
        return;
    }
    // in a storm that may take long; then they would only refuse it
    for _ in 0..60 {
        if world.phase(id).is_none() {
            world.run_for(5_000);
        }
    }
    if world.phase(id).is_none() {
        return;
    }
    let nodes = (2..=world.pis.len()).step_by(2).map(name).collect();
    let for_ms = random.between(30_000, 300_000);
    world.keeps_busy(nodes, for_ms);
}

/// What is to be left alone is refused, until somebody insists.
fn left_alone(world: &mut World, victim: usize) {
    world.storm(Faults::default());
    world.run_until("the API server answers", 300_000, |world| world.kube.serves(&world.pis[0]));
    world.keeps_busy(vec![name(victim + 1)], 3_600_000);
    // what a look said before is forgotten
    world.run_for(15_000);
    let refused = world.operation(OperationKind::NodeReboot, Some(name(victim + 1)));
    let answer = world.answer(&refused);
    if answer.code.as_str() != "blocked" {
        world.fail(&format!("a pod is to be left alone, and the answer was {} ({})", answer.code, answer.text));
    }
    let ask = Ask::Operation {
        kind: OperationKind::NodeReboot,
        node: Some(name(victim + 1)),
        version: Text::new(),
        force: Force::Yes,
    };
    let forced = world.ask(ask, Mode::Execute);
    world.forced.insert(forced.as_str().to_owned());
    let answer = world.answer(&forced);
    if !answer.text.as_str().contains("pod data/db-0") {
        world.fail(&format!("it was forced, and nobody says what was set aside: {}", answer.text));
    }
    assert_done(world, &forced);
    all_in(world);
}

/// A node that is restarted does not come back: nobody else is taken down until it does.
fn holder_dies(world: &mut World, victim: usize) {
    let other = if victim == 1 { 2 } else { 1 };
    let reboot = world.operation(OperationKind::NodeReboot, Some(name(victim + 1)));
    world.run_until("it goes down, or not at all", 900_000, |world| {
        !world.pis[victim].on || world.phase(&reboot).is_some_and(OperationPhase::is_final)
    });
    if !world.pis[victim].on {
        world.pis[victim].returns = false;
        world.pis[victim].stays_dark = true;
    }
    let dark = world.pis[victim].stays_dark && world.rolling_down.contains_key(&name(victim + 1));
    world.storm(Faults::default());
    if dark {
        world.ended(&reboot, 900_000);
        world.run_for(60_000);
    }
    // where more than one may be down another one may be taken down
    if dark && world.max_unavailable == 1 {
        let refused = world.operation(OperationKind::NodeReboot, Some(name(other + 1)));
        let answer = world.answer(&refused);
        if answer.code.as_str() != "slot-held" {
            world.fail(&format!("its slot is held, and the next one was answered {} ({})", answer.code, answer.text));
        }
    }
    world.calm();
    bring_home(world);
    settles(world);
    let next = world.operation(OperationKind::NodeReboot, Some(name(other + 1)));
    assert_done(world, &next);
    all_in(world);
}

/// Something is called off in its middle, at any step of it.
fn called_off(world: &mut World, random: &mut Random, victim: usize) {
    world.undisturbed = false;
    begins_something(world, random, victim);
    let after = random.between(0, 25_000);
    world.run_for(after);
    let abort = world.ask(Ask::Abort, Mode::Execute);
    world.answer(&abort);
    let after = random.between(0, 60_000);
    world.run_for(after);
    world.calm();
    bring_home(world);
}

/// The master's button switches the crew off in the middle of something; people switch it on again, and it goes on or is
/// called off.
fn paused(world: &mut World, random: &mut Random, victim: usize) {
    world.undisturbed = false;
    begins_something(world, random, victim);
    let after = random.between(0, 15_000);
    world.run_for(after);
    world.press(0, Press::PowerOff);
    let after = random.between(0, 120_000);
    world.run_for(after);
    world.calm();
    if random.below(2) == 0 {
        world.ask(Ask::Abort, Mode::Execute);
    }
    bring_home(world);
}

/// The engines of a crew in which somebody has the program before are not upgraded, and nothing of it begins; people upgrade
/// beehive first, and set nobody back.
fn beehive_first(world: &mut World) {
    let storm = std::mem::take(&mut world.faults);
    if world.is_mixed() {
        // until everybody was heard
        world.run_for(20_000);
        let upgrade = world.operation(OperationKind::Upgrade, None);
        let answer = world.answer(&upgrade);
        if answer.status == ResponseStatus::Started {
            world.fail("an operation has begun that somebody's program does not know");
        }
        world.everybody_current();
        world.run_until("everybody speaks the current version", 300_000, |world| {
            let current = ProtocolVersion::CURRENT.into();
            let shown = world.shown.as_ref();
            shown.is_some_and(|state| state.members.iter().all(|member| member.speaks == Some(current)))
        });
        world.run_for(5_000);
    }
    world.faults = Faults { programs: 0, ..storm };
}

/// A state of the time before, played again, makes a node pass for one of the program before until it speaks again; whoever asks
/// is told so, and asks once more.
fn asks_for_upgrade(world: &mut World) -> RequestId {
    for _ in 0..20 {
        let upgrade = world.operation(OperationKind::Upgrade, None);
        let answer = world.answer(&upgrade);
        if answer.code.as_str() != "protocol-version" {
            return upgrade;
        }
        world.run_for(15_000);
    }
    world.fail("everybody has the current program, and an upgrade is refused all the same")
}

fn begins_something(world: &mut World, random: &mut Random, victim: usize) {
    const KINDS: [OperationKind; 5] = [
        OperationKind::NodeLeave,
        OperationKind::NodeDrain,
        OperationKind::NodeReboot,
        OperationKind::Rebuild,
        OperationKind::Upgrade,
    ];
    let kind = KINDS[usize::try_from(random.below(KINDS.len() as u64)).unwrap()];
    let whole = matches!(kind, OperationKind::Rebuild | OperationKind::Upgrade);
    let node = (!whole).then(|| name(victim + 1));
    if kind == OperationKind::Upgrade {
        beehive_first(world);
    }
    let id = world.operation(kind, node);
    world.answer(&id);
}

fn whole_shutdown(world: &mut World, calm_after: u64) {
    let boots: Vec<u32> = world.pis.iter().map(|pi| pi.boots).collect();
    if world.random.below(3) == 0 {
        // the master stood still, and is asked as soon as it goes on
        world.leaps(0);
    }
    let shutdown = world.operation(OperationKind::Shutdown, None);
    // the answer may get lost, and nobody is left to repeat it
    world.run_until("begun", 300_000, |world| world.phase(&shutdown).is_some());
    world.run_for(calm_after);
    world.calm();
    // or its mains went and came back while it was going, and it says so
    world.run_until("the master is off", SETTLES_MS, |world| {
        let told = world.phase(&shutdown).is_some_and(OperationPhase::is_final);
        !world.pis[0].on || told || world.reported_lost(&name(1))
    });
    world.run_for(60_000);
    let left = world.pis.iter().zip(boots).find(|(pi, before)| {
        // one whose mains came back after it had gone is on, and nobody is left to notice
        pi.on && pi.boots == *before && !world.reported_lost(&pi.name)
    });
    if let Some(left) = left.map(|(pi, _)| pi.name.clone()) {
        world.fail(&format!("{left} is on, and nobody says so"));
    }
    if !world.pis[0].on {
        // people turn on the master first, and are told whom it still waits for
        world.boot(0);
    }
    let start = world.operation(OperationKind::Start, None);
    // people turn them on, and again where an end that the card forgot is taken up once more
    world.run_until("the operation's end", 900_000, |world| {
        world.switch_on();
        world.phase(&shutdown).is_some_and(OperationPhase::is_final)
    });
    match world.answer(&start).status {
        ResponseStatus::Started => {
            world.run_until("the start's end", SETTLES_MS, |world| {
                world.switch_on();
                world.phase(&start).is_some_and(OperationPhase::is_final)
            });
            if world.phase(&start) != Some(OperationPhase::Done) {
                world.fail("everybody is on, and the start says otherwise");
            }
        }
        // all were on before it asked, or what was ordered is still to end
        ResponseStatus::Unchanged | ResponseStatus::Refused => {}
        _ => world.fail("the start was not understood"),
    }
    all_in(world);
}

/// People press and order in the middle of what runs. Afterwards somebody puts it right with what the program offers.
fn disturbed_round(world: &mut World, random: &mut Random, victim: usize, calm_after: u64) {
    const KINDS: [OperationKind; 5] = [
        OperationKind::Rebuild,
        OperationKind::Reboot,
        OperationKind::Upgrade,
        OperationKind::NodeReboot,
        OperationKind::NodeDrain,
    ];
    let mut kind = KINDS[usize::try_from(random.below(KINDS.len() as u64)).unwrap()];
    let one_by_one = matches!(kind, OperationKind::Reboot | OperationKind::Upgrade);
    if one_by_one && world.pis.len() > 12 && random.below(6) != 0 {
        kind = OperationKind::NodeReboot;
    }
    let node = matches!(kind, OperationKind::NodeReboot | OperationKind::NodeDrain).then(|| name(victim + 1));
    if kind == OperationKind::Upgrade {
        beehive_first(world);
    }
    world.operation(kind, node);
    world.run_for(calm_after);
    world.calm();
    // what was asked for meanwhile comes to an end or to a stop
    world.run_for(200_000);
    bring_home(world);
}

/// An operator puts right what people have made of it: switches on what is off, calls off what is paused, opens what was
/// drained, and brings in who is outside.
fn bring_home(world: &mut World) {
    for _ in 0..8 {
        switch_on(world);
        // what runs may wait for its slot
        for index in 0..world.pis.len() {
            if world.drained_to_stay(index) || world.half_reset(index) {
                frees_slot(world, index);
            }
        }
        let limit_ms = SETTLES_MS + EACH_MS * world.pis.len() as u64;
        let patient_until = world.now + SETTLES_MS;
        // whoever reads that it waits for a slot whose holder does not come calls it off in the end
        let in_vain = |world: &World| world.now >= patient_until && !world.waits_for_slot.is_empty();
        world.run_until("no operation runs", limit_ms, |world| {
            // an ordered shutdown that ran on took it down again
            world.switch_on();
            let all_on = world.pis.iter().all(|pi| pi.on && pi.core.is_some());
            all_on && (world.exclusive.is_empty() || in_vain(world))
        });
        let in_vain = in_vain(world);
        world.run_for(90_000);
        if world.is_paused() || in_vain {
            let abort = world.ask(Ask::Abort, Mode::Execute);
            world.answer(&abort);
            world.run_for(5_000);
            continue;
        }
        if world.common_cluster().is_some() && world.cordons_left().is_empty() {
            return;
        }
        if world.common_cluster().is_none() {
            let create = world.operation(OperationKind::Create, None);
            let answer = world.answer(&create);
            if answer.status == ResponseStatus::Started {
                world.ended(&create, SETTLES_MS);
            } else {
                world.run_for(60_000);
            }
        } else {
            world.run_for(60_000);
        }
    }
    let kept: Vec<_> = world
        .pis
        .iter()
        .map(|pi| {
            format!(
                "{} {:?} {:?} running {} ready {}",
                pi.name,
                pi.kept,
                pi.phase,
                pi.running,
                world.is_back(&pi.name, 0)
            )
        })
        .collect();
    let left = world.cordons_left();
    world.fail(&format!("an operator cannot put it right: {kept:?}, cordoned {left:?}"));
}

/// Lets work onto a node again whose slot others wait for. If it is being worked on, that is refused, and tried later.
fn frees_slot(world: &mut World, index: usize) {
    let open = world.operation(OperationKind::NodeUncordon, Some(name(index + 1)));
    let answer = world.answer(&open);
    if answer.code.as_str() == "one-operation-at-a-time" {
        // what runs would wait for that node for half an hour; whoever does not want to is told to call it off
        let abort = world.ask(Ask::Abort, Mode::Execute);
        world.answer(&abort);
    }
    if answer.status == ResponseStatus::Started {
        world.run_until("the operation's end", SETTLES_MS, |world| {
            // the master was just going down when it took this up
            world.switch_on();
            world.phase(&open).is_some_and(OperationPhase::is_final)
        });
    }
}

/// Lets work onto a node again that was drained to stay so.
fn open_again(world: &mut World, index: usize) {
    let node = name(index + 1);
    if world.by_hand.contains(&node) {
        return;
    }
    let open = world.operation(OperationKind::NodeUncordon, Some(node));
    let answer = world.answer(&open);
    match answer.status {
        ResponseStatus::Started => assert_done(world, &open),
        ResponseStatus::Unchanged => {}
        _ => world.fail(&format!("uncordon: {:?} {}", answer.status, answer.text)),
    }
}

fn switch_on(world: &mut World) {
    world.switch_on();
    world.run_for(60_000);
}

/// A node that was to be switched off: it is off, or its mains came back after it had gone, and the operation is done.
fn switched_off(world: &mut World, id: &RequestId, victim: usize) {
    world.calm();
    let boots = world.pis[victim].boots;
    let phase = world.ended(id, SETTLES_MS);
    world.run_for(60_000);
    let pi = &world.pis[victim];
    // its power went before it had gone down by itself: it is off, and the operation says that it did not come to its end
    let off = !pi.on || pi.boots > boots;
    if phase == OperationPhase::Done || off {
        return;
    }
    assert_done(world, id);
}

/// After the faults an operation ends within ten minutes; taken up again without faults it comes to its end.
pub(crate) fn finish(world: &mut World, id: &RequestId) -> OperationPhase {
    world.calm();
    // an order that was never heard is no operation yet; it goes out until it is answered
    let limit_ms = SETTLES_MS + if world.max_down.is_some() { EACH_MS * world.pis.len() as u64 } else { 0 };
    world.due = Some(world.now + limit_ms);
    let mut phase = world.ended(id, limit_ms);
    for _ in 0..2 {
        if phase == OperationPhase::Done {
            break;
        }
        world.partly += 1;
        // what the operation left is mended first
        world.run_for(90_000);
        let left = world.cordons_left();
        if world.undisturbed && world.kube.serves(&world.pis[0]) && !left.is_empty() {
            world.fail(&format!("{phase}, and still cordoned: {left:?}"));
        }
        let resume = world.ask(Ask::Resume, Mode::Execute);
        let answer = world.answer(&resume);
        if answer.status != ResponseStatus::Started {
            world.fail(&format!("resume after {phase}: {:?} {}", answer.status, answer.text));
        }
        // what has come to nothing is done again, and a rebuild initialises for long
        let again_ms = limit_ms + 300_000;
        world.due = Some(world.now + again_ms);
        phase = world.ended(id, again_ms);
    }
    phase
}

#[track_caller]
pub(crate) fn assert_done(world: &mut World, id: &RequestId) {
    let phase = finish(world, id);
    if phase != OperationPhase::Done {
        world.fail(&format!("{id} ended as {phase} without faults"));
    }
}

#[track_caller]
pub(crate) fn all_in(world: &mut World) {
    world.run_until_due("every Pi is a ready member", 120_000, |world| world.common_cluster().is_some());
}

/// The cordons that are ours go, and the slots.
pub(crate) fn settles(world: &mut World) {
    world.run_until_due("our cordons are gone", 300_000, |world| world.cordons_left().is_empty());
    world.run_until_due("the slots are free", 300_000, |world| !world.slots_held());
    world.due = None;
    for node in world.by_hand.clone() {
        if !world.kube.cordoned().contains(&node) {
            world.fail(&format!("{node} is no longer cordoned"));
        }
    }
}
