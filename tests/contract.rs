//! One contract for every way to the pins. It runs here against the simulated board, and the same program, built for
//! armv7, against the kernel's on the virtual Pi (`tests/virtual_pi/pins.rs`): the variable `BEEHIVE_CONTRACT` names the
//! backend there.
//!
//! The hand that presses the button comes from outside of the backend: the knobs of the simulated board, or the file of
//! `gpio-sim` that says what is wired to the line. QEMU's `raspi2b` has neither hand nor edges; what is left of the
//! contract there is that the line can be taken, read, driven and let go, while the test looks at the GPIO registers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use beehive::clock::Clock;
use beehive::config::Config;
use beehive::hal::simulated::{SimulatedBoard, SimulatedKnobs};
use beehive::hal::{self, Board, Edge};
use beehive_board::gesture::{Gesture, GestureEvent, Level, Recogniser, Thresholds};
use beehive_board::led::Light;
use beehive_board::shim::{SEEN_WITHIN_MS, SETTLE_MS};
use beehive_board::time::Instant;
use beehive_mqtt::node::PartStatus;
use tokio::runtime::Runtime;

/// How long an edge may take to arrive; on an emulated Pi beside others a thread may wait for seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where the kernel shows its simulated chips.
const GPIO_SIM: &str = "/sys/devices/platform";

/// Who presses the button.
enum Hand {
    Simulated(SimulatedKnobs),
    /// `gpio-sim`: the folder of line 17.
    Kernel(PathBuf),
    /// Nobody can.
    None,
}

impl Hand {
    fn find() -> Self {
        let lines = fs::read_dir(GPIO_SIM).into_iter().flatten().flatten().flat_map(|device| {
            let chips = fs::read_dir(device.path()).into_iter().flatten().flatten();
            chips.map(|chip| chip.path().join("sim_gpio17")).collect::<Vec<_>>()
        });
        lines.into_iter().find(|line| line.join("pull").exists()).map_or(Self::None, Self::Kernel)
    }

    fn put(&self, level: Level) {
        match (self, level) {
            (Self::Simulated(knobs), level) => knobs.button(level),
            (Self::Kernel(line), Level::Pressed) => fs::write(line.join("pull"), "hold").unwrap(),
            (Self::Kernel(line), Level::Released) => fs::write(line.join("pull"), "release").unwrap(),
            (Self::None, _) => panic!("nobody presses here"),
        }
    }

    /// Whether the line is low, seen from outside.
    fn sees_light(&self) -> bool {
        match self {
            Self::Simulated(knobs) => knobs.shim_led() == Light::Lit,
            Self::Kernel(line) => fs::read_to_string(line.join("value")).unwrap().trim() == "0",
            Self::None => panic!("nobody looks here"),
        }
    }
}

/// A board under the contract.
struct Rig {
    name: String,
    board: Board,
    hand: Hand,
    runtime: Runtime,
    /// Since when the line is a button again: edges with an older stamp are our own, and dropped, as the agent does it.
    listening_since: Instant,
    last: Level,
}

fn config(backend: &str, more: &str) -> Config {
    let text = format!(
        "crew = \"bee\"\nnode = \"pi-1\"\nrole = \"node\"\nleds = \"off\"\n[pins]\nbackend = \"{backend}\"\n{more}"
    );
    Config::parse(&text, "contract").unwrap()
}

impl Rig {
    fn open(name: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (board, hand) = match name {
            "simulated" => {
                let (board, knobs) = SimulatedBoard::build();
                (board, Hand::Simulated(knobs))
            }
            real => (hal::open(&config(real, "")), Hand::find()),
        };
        assert_eq!(board.info.button.status, PartStatus::Works, "{name}: {}", board.info.button.detail);
        assert_eq!(board.info.pins.as_str(), name);
        Self { name: name.to_owned(), board, hand, runtime, listening_since: Clock.now(), last: Level::Released }
    }

    fn level(&mut self) -> Level {
        self.board.button.as_mut().unwrap().level().unwrap()
    }

    fn led(&mut self, light: Light) {
        self.board.button.as_mut().unwrap().set_led(light).unwrap();
    }

    /// Lets go of the line and waits until it has settled.
    fn listen(&mut self) {
        self.led(Light::Dark);
        self.run_until(Clock.now().plus_ms(SETTLE_MS + 1));
        self.listening_since = Clock.now();
    }

    /// Lets the clock reach `end`. The backend's own threads go on meanwhile.
    fn run_until(&self, end: Instant) {
        let left = end.saturating_since(Clock.now());
        self.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(left)).await });
    }

    /// The next edge that changes anything. The kernel reads the level when it comes to tell of an edge, so two that come
    /// close together are told as two of one kind; a recogniser takes the second release for nothing.
    fn edge(&mut self) -> Edge {
        let Self { name, board, runtime, listening_since, last, .. } = self;
        let edges = &mut board.edges;
        let next = async {
            loop {
                match edges.recv().await {
                    Some(edge) if edge.at < *listening_since || edge.level == *last => {}
                    other => return other,
                }
            }
        };
        let edge = runtime.block_on(async { tokio::time::timeout(PATIENCE, next).await });
        let edge = edge.unwrap_or_else(|_| panic!("{name}: no edge"));
        let edge = edge.unwrap_or_else(|| panic!("{name}: the edges ended"));
        *last = edge.level;
        edge
    }

    /// The edges until the last is one to `level` and none follows for `quiet`.
    fn edges_until(&mut self, level: Level, quiet: Duration) -> Vec<Edge> {
        let mut told: Vec<Edge> = Vec::new();
        loop {
            let wait = if told.last().is_some_and(|edge| edge.level == level) { quiet } else { PATIENCE };
            let edges = &mut self.board.edges;
            match self.runtime.block_on(async { tokio::time::timeout(wait, edges.recv()).await }) {
                Ok(Some(edge)) => told.push(edge),
                Ok(None) => panic!("{}: the edges ended", self.name),
                Err(_) => return told,
            }
        }
    }

    fn no_press_waits(&mut self, when: &str) {
        while let Ok(edge) = self.board.edges.try_recv() {
            let ours = edge.at < self.listening_since;
            assert!(ours || edge.level == Level::Released, "{}: {when}: {edge:?}", self.name);
        }
    }
}

fn a_press_is_two_edges_with_their_times(rig: &mut Rig) {
    assert_eq!(rig.level(), Level::Released, "{}: at rest", rig.name);
    rig.no_press_waits("nobody has pressed");
    let before = Clock.now();
    rig.hand.put(Level::Pressed);
    let down = rig.edge();
    assert_eq!((down.level, rig.level()), (Level::Pressed, Level::Pressed), "{}", rig.name);
    rig.hand.put(Level::Released);
    let up = rig.edge();
    assert_eq!((up.level, rig.level()), (Level::Released, Level::Released), "{}", rig.name);
    let after = Clock.now();
    // two clocks of the kernel are compared, which costs a millisecond of rounding
    assert!(
        down.at.plus_ms(1) >= before && down.at <= up.at && up.at <= after.plus_ms(1),
        "{}: {before:?} {down:?} {up:?} {after:?}",
        rig.name
    );
}

/// How often a hand presses that is held up by its machine. A busy host may make several presses of an emulated one void.
const ATTEMPTS: u32 = 20;

/// How far apart the edges of a bounce are.
const BOUNCE_MS: u64 = 2;

/// What a press is here: the longest bounce that a configuration may have, and a long short press, because an emulated processor
/// beside others takes ten milliseconds and more to move the line once, where a contact takes one.
fn slow_hand() -> Thresholds {
    Thresholds { debounce_ms: 100, short_max_ms: 2_000, ..Thresholds::default() }
}

/// A finger's press with bounce at both ends is one short gesture, whichever of the bounces the backend sees.
///
/// A machine that stands still in the middle says nothing of the backend, and then the hand presses again: the press was no
/// short one, a level in its bounce stood so long that it counts, or `gpio-sim` has lost an edge. (Its interrupt is a simple
/// one, which Linux drops while the one before is handled on another processor; an emulated processor may stand still in
/// there for as long as its host likes.)
fn bounce_makes_no_gesture(rig: &mut Rig) {
    let mut voids = Vec::new();
    for _ in 0..ATTEMPTS {
        match bouncing_press(rig) {
            Ok(told) => {
                let short = [GestureEvent::Pressed, GestureEvent::Released, GestureEvent::Gesture(Gesture::Short)];
                assert_eq!(told, short, "{}", rig.name);
                return;
            }
            Err(void) => voids.push(void),
        }
    }
    panic!("{}: no press of this hand came through: {voids:?}", rig.name);
}

/// What a recogniser makes of a press with bounce.
///
/// # Errors
/// Why nothing can be said.
fn bouncing_press(rig: &mut Rig) -> Result<Vec<GestureEvent>, String> {
    let thresholds = slow_hand();
    while rig.board.edges.try_recv().is_ok() {}
    let begun = Clock.now();
    let mut recogniser = Recogniser::new(thresholds, rig.level(), begun);
    let debounce_ms = u64::from(thresholds.debounce_ms);
    let bounce = |rig: &mut Rig, levels: [Level; 3]| {
        // a level stands, at the longest, from before it was put until after the next one was
        let begun = Clock.now();
        let mut put_since: Option<Instant> = None;
        let mut stood_ms = 0;
        let mut whole_ms = 0;
        for level in levels {
            let before = Clock.now();
            rig.hand.put(level);
            let after = Clock.now();
            if let Some(since) = put_since.replace(before) {
                stood_ms = stood_ms.max(after.saturating_since(since));
            }
            whole_ms = after.saturating_since(begun);
            rig.run_until(Clock.now().plus_ms(BOUNCE_MS));
        }
        // what stands as long as this is no bounce
        if stood_ms >= debounce_ms {
            Err(format!("a level of its bounce stood for {stood_ms} ms"))
        } else {
            Ok(whole_ms)
        }
    };
    let went_down = bounce(rig, [Level::Pressed, Level::Released, Level::Pressed]);
    // The kernel reads the level when it comes to tell of an edge: it has to have come before the hand goes up, or the
    // press was too short to be seen.
    let held = Duration::from_millis(SEEN_WITHIN_MS + 3 * debounce_ms);
    let mut edges = rig.edges_until(Level::Pressed, held);
    let down = edges.last().map(|edge| edge.level);
    let went_up = bounce(rig, [Level::Released, Level::Pressed, Level::Released]);
    let lasted_ms = Clock.now().saturating_since(begun);
    // an edge may be late where a processor is emulated beside others; its stamp is not
    let rest = Duration::from_millis(u64::from(thresholds.double_gap_ms) + 4 * debounce_ms);
    edges.extend(rig.edges_until(Level::Released, rest));
    went_down?;
    let went_up_ms = went_up?;
    if lasted_ms >= u64::from(thresholds.short_max_ms) {
        return Err(format!("it took {lasted_ms} ms"));
    }
    // the release at the head of a bounce may be told as a press; so late after it, the one at its end is another
    let repeated = edges.windows(2).any(|pair| pair.iter().all(|edge| edge.level == Level::Pressed));
    if repeated && went_up_ms >= debounce_ms {
        return Err(format!("a press was told twice, and the hand went up for {went_up_ms} ms"));
    }
    let ends = (down, edges.last().map(|edge| edge.level));
    if ends != (Some(Level::Pressed), Some(Level::Released)) {
        return Err(format!("the last edges down and up: {ends:?}"));
    }
    let mut told: Vec<GestureEvent> = edges.iter().flat_map(|edge| recogniser.edge(edge.at, edge.level)).collect();
    told.extend(recogniser.poll(Clock.now()));
    Ok(told)
}

/// While we drive the line no edges come; let go, it is a button again, and one that is held is seen.
fn the_led_and_the_button_share_the_line(rig: &mut Rig) {
    rig.led(Light::Lit);
    assert!(rig.hand.sees_light(), "{}: not lit", rig.name);
    rig.led(Light::Lit);
    rig.hand.put(Level::Pressed);
    rig.hand.put(Level::Released);
    rig.listen();
    assert!(!rig.hand.sees_light(), "{}: still lit", rig.name);
    assert_eq!(rig.level(), Level::Released, "{}: let go", rig.name);
    rig.no_press_waits("our own LED is no press");

    rig.led(Light::Lit);
    rig.hand.put(Level::Pressed);
    rig.listen();
    assert_eq!(rig.level(), Level::Pressed, "{}: held while it was lit", rig.name);
    // as long as any finger does: a backend that samples has then looked
    rig.run_until(Clock.now().plus_ms(SEEN_WITHIN_MS));
    rig.hand.put(Level::Released);
    // the press began unseen; what comes next is its end, and with a sampled line perhaps the press before it
    rig.last = Level::Pressed;
    assert_eq!(rig.edge().level, Level::Released, "{}", rig.name);
    a_press_is_two_edges_with_their_times(rig);
}

/// The line has one owner, whom others are told; when the owner ends it is free and dark.
fn the_line_has_one_owner(rig: Rig) {
    let Rig { name, board, hand, .. } = rig;
    if name == "simulated" {
        return; // each simulated board is another one
    }
    let second = hal::open(&config(&name, ""));
    assert_eq!(second.info.button.status, PartStatus::Busy, "{name}: {}", second.info.button.detail);
    // rppal gives the kernel a name of its own
    let owner = if name == "rppal" { "RPPAL" } else { "beehive" };
    assert!(second.info.button.detail.as_str().contains(owner), "{name}: {}", second.info.button.detail);
    drop(second);
    let mut board = board;
    board.button.as_mut().unwrap().set_led(Light::Lit).unwrap();
    drop(board);
    // a thread that waits for edges looks once a second whether they are still wanted, and lets go of the line with them
    let deadline = std::time::Instant::now() + PATIENCE;
    while !matches!(hand, Hand::None) && hand.sees_light() {
        assert!(std::time::Instant::now() < deadline, "{name}: the LED outlives its owner");
    }
    loop {
        let again = hal::open(&config(&name, ""));
        match again.info.button.status {
            PartStatus::Works => break,
            PartStatus::Busy if std::time::Instant::now() < deadline => {}
            other => panic!("{name}: {other:?} after its owner: {}", again.info.button.detail),
        }
    }
    let missing = hal::open(&config(&name, "chips = [\"pinctrl-of-another-board\"]\n"));
    let detail = missing.info.button.detail.as_str();
    assert_eq!(missing.info.button.status, PartStatus::Missing, "{name}: {detail}");
    assert!(detail.contains("pinctrl-of-another-board") && detail.contains("pinctrl-bcm2835"), "{name}: {detail}");
}

/// Where nobody presses: the line is taken, driven and let go, again and again, so that somebody who looks at the
/// registers sees both.
fn the_line_can_be_driven_and_let_go(rig: &mut Rig) {
    for _ in 0..60 {
        rig.led(Light::Lit);
        assert_eq!(rig.level(), Level::Pressed, "{}: lit is low", rig.name);
        rig.run_until(Clock.now().plus_ms(25));
        rig.led(Light::Dark);
        rig.run_until(Clock.now().plus_ms(25));
        rig.level();
    }
}

#[test]
fn every_way_to_the_pins_keeps_the_contract() {
    let name = std::env::var("BEEHIVE_CONTRACT").unwrap_or_else(|_| "simulated".to_owned());
    let mut rig = Rig::open(&name);
    match rig.hand {
        Hand::Simulated(_) | Hand::Kernel(_) => {
            a_press_is_two_edges_with_their_times(&mut rig);
            bounce_makes_no_gesture(&mut rig);
            the_led_and_the_button_share_the_line(&mut rig);
        }
        Hand::None => the_line_can_be_driven_and_let_go(&mut rig),
    }
    the_line_has_one_owner(rig);
    println!("contract kept: {name}");
}
