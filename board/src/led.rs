//! LED patterns: what the LED says, as data, and who may say it.
//!
//! A [`Pattern`] is a list of lit and dark stretches that repeats. [`level_at`] plays one as a pure function of time; a
//! [`Player`] holds the patterns that are active and shows the most urgent one. Both answer with the instant of the
//! next change, so nobody needs a ticking timer.
//!
//! The same pattern goes to the SHIM's LED, where it is ours (see [`crate::shim`]), and to the Pi's ACT or PWR LED.
//!
//! The two patterns of a halted Pi are static levels: no process is alive by then to blink. The alphabet of the others:
//! one, two, three flashes on dark ([`Blank`](Pattern::Blank), [`Joining`](Pattern::Joining),
//! [`Draining`](Pattern::Draining)), one or two winks on lit ([`Ready`](Pattern::Ready),
//! [`NotReady`](Pattern::NotReady)), steady blinking whose speed grows with urgency.

use serde::{Deserialize, Serialize};

use crate::time::Instant;

/// State of an LED.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Light {
    /// On.
    Lit,
    /// Off.
    Dark,
}

use Light::{Dark, Lit};

/// One stretch of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Lit or dark.
    pub light: Light,
    /// How long, in milliseconds. 0 only in a static pattern, which is one stretch without an end.
    pub ms: u32,
}

const fn lit(ms: u32) -> Stretch {
    Stretch { light: Lit, ms }
}

const fn dark(ms: u32) -> Stretch {
    Stretch { light: Dark, ms }
}

/// Highest error code; more flashes than that nobody counts.
pub const MAX_ERROR: u8 = 9;

/// Which LEDs play a pattern. ACT plays them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reach {
    /// The state of things: ACT alone. PWR keeps its own trigger, and the SHIM's LED, whose line would have to be let go
    /// and read all day long, stays dark but for a few seconds after a short press.
    Everyday,
    /// What needs somebody's eye, for days if nobody looks: ACT and PWR, and the SHIM's LED as above.
    Lasting,
    /// What needs somebody's eye now: ACT, PWR and the SHIM's LED.
    Everywhere,
    /// While the button is down: ACT and PWR. The hand lights the SHIM's LED whatever anybody does.
    Pressed,
    /// What is left when no process lives: a level of PWR. The SHIM's line is nobody's then and its LED dark; ACT blinks
    /// as [`Pattern::Stopping`] by the kernel's doing until the kernel has ended.
    Left,
}

/// A fault that the LEDs tell by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The supply's voltage is too low.
    UnderVoltage,
    /// The button's line is held by another program, or failed.
    Button,
    /// The PoE HAT does not answer as it should.
    Hat,
    /// No connection to the broker for a minute.
    Broker,
    /// A step of joining or leaving failed half-way; a reset mends it.
    Broken,
}

impl Fault {
    /// Every fault, in the order of their numbers. Of several the first one is told.
    pub const ALL: [Self; 5] = [Self::UnderVoltage, Self::Button, Self::Hat, Self::Broker, Self::Broken];

    /// How many short flashes.
    pub const fn code(self) -> u8 {
        match self {
            Self::UnderVoltage => 1,
            Self::Button => 2,
            Self::Hat => 3,
            Self::Broker => 4,
            Self::Broken => 5,
        }
    }

    /// What is wrong, for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnderVoltage => "the supply's voltage is too low",
            Self::Button => "the button's line is held by another program, or failed",
            Self::Hat => "the PoE HAT does not answer as it should",
            Self::Broker => "no connection to the broker for a minute",
            Self::Broken => "joining or leaving failed half-way; a reset mends it",
        }
    }
}

/// What the LED says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// In its cluster, and the engine has not run since the agent started.
    Booting,
    /// In no cluster.
    Blank,
    /// Joining a cluster, or leaving one.
    Joining,
    /// In its cluster and Ready.
    Ready,
    /// In its cluster and not Ready.
    NotReady,
    /// In the grace time, or the pods are being moved away.
    Draining,
    /// The engine stops, then the system.
    Stopping,
    /// Halted; the plug may be pulled. Static.
    SafeToUnplug,
    /// Halted, and 5 V are still present because nothing here can cut them. Static.
    HaltedFivePresent,
    /// The PoE HAT reported an over-current.
    OverCurrent,
    /// Somebody asked which Pi this is.
    Identify,
    /// The button is down; a release now shows the status or nothing.
    PressShort,
    /// The button is down; a release now powers off.
    PressHold,
    /// The button is down and a release now arms the reset, or the reset is armed and waits for its confirmation.
    PressReset,
    /// Something is wrong: one long flash, then as many short ones as the code says, 1 to [`MAX_ERROR`] (others count
    /// as the nearest of these).
    Error(u8),
}

const BOOTING: &[Stretch] = &[lit(500), dark(500)];
const BLANK: &[Stretch] = &[lit(80), dark(3_920)];
const JOINING: &[Stretch] = &[lit(150), dark(150), lit(150), dark(1_050)];
const READY: &[Stretch] = &[lit(2_850), dark(150)];
const NOT_READY: &[Stretch] = &[lit(1_050), dark(150), lit(150), dark(150)];
const DRAINING: &[Stretch] = &[lit(150), dark(150), lit(150), dark(150), lit(150), dark(750)];
const STOPPING: &[Stretch] = &[lit(125), dark(125)];
const SAFE_TO_UNPLUG: &[Stretch] = &[dark(0)];
const HALTED_FIVE_PRESENT: &[Stretch] = &[lit(0)];
const OVER_CURRENT: &[Stretch] =
    &[lit(60), dark(60), lit(60), dark(60), lit(60), dark(60), lit(60), dark(60), lit(60), dark(460)];
const IDENTIFY: &[Stretch] = &[lit(600), dark(200), lit(200), dark(200), lit(200), dark(600)];
const PRESS_SHORT: &[Stretch] = &[lit(0)];
const PRESS_HOLD: &[Stretch] = &[lit(250), dark(250)];
const PRESS_RESET: &[Stretch] = &[lit(60), dark(60)];

const ERROR_PREFIX_LEN: usize = 2;

/// The stretches of an error: the long flash, the short ones, and a pause after the last.
const fn error<const N: usize>() -> [Stretch; N] {
    let mut stretches = [dark(300); N];
    stretches[0] = lit(1_000);
    stretches[1] = dark(500);
    let mut at = ERROR_PREFIX_LEN;
    while at < N {
        stretches[at] = lit(200);
        at += 2;
    }
    stretches[N - 1] = dark(1_500);
    stretches
}

static ERRORS: [&[Stretch]; MAX_ERROR as usize] = [
    &const { error::<4>() },
    &const { error::<6>() },
    &const { error::<8>() },
    &const { error::<10>() },
    &const { error::<12>() },
    &const { error::<14>() },
    &const { error::<16>() },
    &const { error::<18>() },
    &const { error::<20>() },
];

impl Pattern {
    /// Every pattern, with one error code for all of them.
    pub const ALL: [Self; 15] = [
        Self::Booting,
        Self::Blank,
        Self::Joining,
        Self::Ready,
        Self::NotReady,
        Self::Draining,
        Self::Stopping,
        Self::SafeToUnplug,
        Self::HaltedFivePresent,
        Self::OverCurrent,
        Self::Identify,
        Self::PressShort,
        Self::PressHold,
        Self::PressReset,
        Self::Error(1),
    ];

    /// The stretches, which repeat from the start.
    pub fn stretches(self) -> &'static [Stretch] {
        match self {
            Self::Booting => BOOTING,
            Self::Blank => BLANK,
            Self::Joining => JOINING,
            Self::Ready => READY,
            Self::NotReady => NOT_READY,
            Self::Draining => DRAINING,
            Self::Stopping => STOPPING,
            Self::SafeToUnplug => SAFE_TO_UNPLUG,
            Self::HaltedFivePresent => HALTED_FIVE_PRESENT,
            Self::OverCurrent => OVER_CURRENT,
            Self::Identify => IDENTIFY,
            Self::PressShort => PRESS_SHORT,
            Self::PressHold => PRESS_HOLD,
            Self::PressReset => PRESS_RESET,
            Self::Error(code) => ERRORS[usize::from(code.clamp(1, MAX_ERROR) - 1)],
        }
    }

    /// Which pattern wins where several are active: the higher number.
    ///
    /// A halted Pi says nothing else any more. The hand on the button sees its answer before anything else. An alarm
    /// comes before what somebody asked for, and that before the state of things. A fault does not hide that the Pi is
    /// going down.
    pub const fn priority(self) -> u8 {
        match self {
            Self::SafeToUnplug | Self::HaltedFivePresent => 100,
            Self::PressReset | Self::PressHold | Self::PressShort => 90,
            Self::OverCurrent => 80,
            Self::Identify => 70,
            Self::Stopping => 50,
            Self::Draining => 40,
            Self::Error(_) => 35,
            Self::NotReady => 30,
            Self::Joining => 20,
            Self::Booting => 15,
            Self::Ready | Self::Blank => 10,
        }
    }

    /// Which LEDs play it.
    pub const fn reach(self) -> Reach {
        match self {
            Self::Booting | Self::Blank | Self::Ready | Self::NotReady => Reach::Everyday,
            Self::PressShort | Self::PressHold => Reach::Pressed,
            Self::Error(_) => Reach::Lasting,
            Self::Joining | Self::Draining | Self::Stopping | Self::OverCurrent | Self::Identify | Self::PressReset => {
                Reach::Everywhere
            }
            Self::SafeToUnplug | Self::HaltedFivePresent => Reach::Left,
        }
    }

    /// The name on the wire. The code of an error is told beside it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Booting => "booting",
            Self::Blank => "blank",
            Self::Joining => "joining",
            Self::Ready => "ready",
            Self::NotReady => "not_ready",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
            Self::SafeToUnplug => "safe_to_unplug",
            Self::HaltedFivePresent => "halted_five_present",
            Self::OverCurrent => "over_current",
            Self::Identify => "identify",
            Self::PressShort => "press_short",
            Self::PressHold => "press_hold",
            Self::PressReset => "press_reset",
            Self::Error(_) => "error",
        }
    }
}

/// What an LED shows, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Lit or dark.
    pub light: Light,
    /// When to ask again; `None` if this is for good.
    pub until: Option<Instant>,
}

/// What `pattern`, begun at `since`, shows at `now`. Before `since` it shows its beginning.
pub fn level_at(pattern: Pattern, since: Instant, now: Instant) -> Shown {
    let stretches = pattern.stretches();
    let period_ms: u64 = stretches.iter().map(|stretch| u64::from(stretch.ms)).sum();
    let begun = if now < since { since } else { now };
    if let Some(into_ms) = begun.saturating_since(since).checked_rem(period_ms) {
        let mut end_ms = 0;
        for stretch in stretches {
            end_ms += u64::from(stretch.ms);
            if into_ms < end_ms {
                return Shown { light: stretch.light, until: Some(begun.plus_ms(end_ms - into_ms)) };
            }
        }
    }
    // A period of 0: a static pattern.
    Shown { light: stretches.first().map_or(Dark, |stretch| stretch.light), until: None }
}

/// Who wants to show something. Each has one pattern at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The button's answer while it is held.
    Press,
    /// The power sequencer.
    Power,
    /// The PoE HAT.
    Hat,
    /// An operator.
    Identify,
    /// A fault of the agent.
    Fault,
    /// The node's place in its cluster.
    Node,
}

const SOURCES: usize = 6;

impl Source {
    const fn index(self) -> usize {
        match self {
            Self::Press => 0,
            Self::Power => 1,
            Self::Hat => 2,
            Self::Identify => 3,
            Self::Fault => 4,
            Self::Node => 5,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Active {
    pattern: Pattern,
    since: Instant,
    until: Option<Instant>,
}

/// The active patterns, of which the most urgent one shows. With none, the LED is dark.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Player {
    active: [Option<Active>; SOURCES],
}

impl Player {
    /// A player with nothing to show.
    pub const fn new() -> Self {
        Self { active: [None; SOURCES] }
    }

    /// `source` shows `pattern` from now on. The pattern that it shows already goes on undisturbed.
    pub fn set(&mut self, source: Source, pattern: Pattern, now: Instant) {
        self.put(source, pattern, now, None);
    }

    /// `source` shows `pattern` for `for_ms`, then nothing.
    pub fn set_for(&mut self, source: Source, pattern: Pattern, now: Instant, for_ms: u64) {
        self.put(source, pattern, now, Some(now.plus_ms(for_ms)));
    }

    /// `source` shows nothing any more.
    pub fn clear(&mut self, source: Source) {
        self.active[source.index()] = None;
    }

    /// The pattern that shows at `now`.
    pub fn pattern(&self, now: Instant) -> Option<Pattern> {
        self.winner(now).map(|active| active.pattern)
    }

    /// What the LED shows at `now`, and when that may change.
    pub fn shown(&self, now: Instant) -> Shown {
        let mut shown = match self.winner(now) {
            Some(active) => level_at(active.pattern, active.since, now),
            None => Shown { light: Dark, until: None },
        };
        // A pattern under the winner that ends changes nothing, but asking once more does no harm.
        for end in self.active.iter().flatten().filter_map(|active| active.until).filter(|end| *end > now) {
            shown.until = Some(shown.until.map_or(end, |until| until.min(end)));
        }
        shown
    }

    fn put(&mut self, source: Source, pattern: Pattern, now: Instant, until: Option<Instant>) {
        let slot = &mut self.active[source.index()];
        let since = match *slot {
            Some(active) if active.pattern == pattern && active.until.is_none_or(|end| now < end) => active.since,
            Some(_) | None => now,
        };
        *slot = Some(Active { pattern, since, until });
    }

    fn winner(&self, now: Instant) -> Option<Active> {
        let mut winner: Option<Active> = None;
        for active in self.active.iter().flatten().filter(|active| active.until.is_none_or(|end| now < end)) {
            if winner.is_none_or(|best| active.pattern.priority() > best.pattern.priority()) {
                winner = Some(*active);
            }
        }
        winner
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_ms(ms)
    }

    /// Plays one period by following `until`, as the agent does.
    fn trace(pattern: Pattern) -> Vec<(Light, u64)> {
        let mut now = at(1_000);
        let mut trace = Vec::new();
        for _ in pattern.stretches() {
            let shown = level_at(pattern, at(1_000), now);
            let Some(until) = shown.until else {
                return [(shown.light, 0)].to_vec();
            };
            trace.push((shown.light, until.saturating_since(now)));
            now = until;
        }
        assert_eq!(level_at(pattern, at(1_000), now).light, trace[0].0, "it repeats");
        trace
    }

    #[test]
    fn a_player_of_changes_sees_the_table() {
        for pattern in Pattern::ALL {
            let table: Vec<_> =
                pattern.stretches().iter().map(|stretch| (stretch.light, u64::from(stretch.ms))).collect();
            assert_eq!(trace(pattern), table, "{pattern:?}");
        }
    }

    #[test]
    fn patterns_differ_and_have_names_of_their_own() {
        let names: BTreeSet<_> = Pattern::ALL.iter().map(|pattern| pattern.as_str()).collect();
        assert_eq!(names.len(), Pattern::ALL.len());
        for (index, one) in Pattern::ALL.iter().enumerate() {
            for other in &Pattern::ALL[index + 1..] {
                let same = one.stretches() == other.stretches();
                // A held button lights the SHIM's LED whatever we do, and a halted Pi holds no button.
                let allowed = (*one, *other) == (Pattern::HaltedFivePresent, Pattern::PressShort);
                assert_eq!(same, allowed, "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn only_the_halted_and_the_pressed_one_are_static_and_stretches_alternate() {
        for pattern in Pattern::ALL {
            let stretches = pattern.stretches();
            let is_static = level_at(pattern, at(0), at(5)).until.is_none();
            assert_eq!(
                is_static,
                matches!(pattern, Pattern::SafeToUnplug | Pattern::HaltedFivePresent | Pattern::PressShort)
            );
            if !is_static {
                assert_eq!(stretches.len() % 2, 0);
                for (index, stretch) in stretches.iter().enumerate() {
                    assert_eq!(stretch.light, if index % 2 == 0 { Lit } else { Dark }, "{pattern:?}");
                    // Shorter ones a person does not see.
                    assert!(stretch.ms >= 50, "{pattern:?}");
                }
            }
        }
    }

    fn seconds(ms: u32) -> std::string::String {
        std::format!("{}.{:03}", ms / 1_000, ms % 1_000).trim_end_matches('0').trim_end_matches('.').into()
    }

    /// `0.15 on, 0.15 off, 0.15 on, 1.05 off`, in seconds; runs of the same pair are drawn together.
    fn drawn(pattern: Pattern) -> std::string::String {
        if level_at(pattern, at(0), at(0)).until.is_none() {
            return if pattern.stretches()[0].light == Lit { "steadily lit" } else { "steadily dark" }.into();
        }
        let pairs: Vec<_> = pattern
            .stretches()
            .chunks(2)
            .map(|pair| std::format!("{} on {} off", seconds(pair[0].ms), seconds(pair[1].ms)))
            .collect();
        let mut words: Vec<(std::string::String, usize)> = Vec::new();
        for pair in pairs {
            match words.last_mut() {
                Some((last, count)) if *last == pair => *count += 1,
                _ => words.push((pair, 1)),
            }
        }
        let word = |(pair, count): &(std::string::String, usize)| match count {
            1 => pair.clone(),
            count => std::format!("{count} × ({pair})"),
        };
        words.iter().map(word).collect::<Vec<_>>().join(", ")
    }

    /// The words are the document's; what is drawn, where and before what is the data's.
    #[test]
    fn the_document_shows_the_data() {
        let document = include_str!("../../docs/leds.md");
        let row = |pattern: Pattern| {
            let reach = match pattern.reach() {
                Reach::Everyday => "ACT",
                Reach::Lasting | Reach::Pressed => "ACT, PWR",
                Reach::Everywhere => "ACT, PWR, SHIM",
                Reach::Left => "PWR",
            };
            std::format!("| `{}` | {} | {} | {} |", pattern.as_str(), drawn(pattern), reach, pattern.priority())
        };
        let mut patterns: Vec<_> = Pattern::ALL.to_vec();
        patterns.sort_by_key(|pattern| core::cmp::Reverse(pattern.priority()));
        let shown: Vec<&str> = document.lines().filter(|line| line.starts_with("| `")).collect();
        let wanted: Vec<_> = patterns.iter().map(|pattern| row(*pattern)).collect();
        assert_eq!(shown.len(), wanted.len(), "docs/leds.md should have the rows\n{}", wanted.join("\n"));
        for (shown, wanted) in shown.iter().zip(&wanted) {
            let wanted = wanted.strip_suffix(" |").unwrap_or(wanted);
            assert!(shown.starts_with(wanted), "docs/leds.md shows\n{shown}\nwhere the data says\n{wanted}");
        }
        for fault in Fault::ALL {
            let wanted = std::format!("| {} | {} |", fault.code(), fault.as_str());
            assert!(document.contains(&wanted), "docs/leds.md lacks {wanted}");
        }
        let within = std::format!("{} ms", crate::shim::SEEN_WITHIN_MS);
        assert!(document.contains(&within), "docs/leds.md does not say that a press is seen within {within}");
    }

    #[test]
    fn faults_have_codes_of_their_own_that_can_be_counted() {
        for (index, fault) in Fault::ALL.iter().enumerate() {
            assert_eq!(usize::from(fault.code()), index + 1);
            assert!(fault.code() <= MAX_ERROR);
        }
    }

    #[test]
    fn an_error_flashes_its_code() {
        for code in 1..=MAX_ERROR {
            let short = Pattern::Error(code).stretches().iter().filter(|s| **s == lit(200)).count();
            assert_eq!(short, usize::from(code));
            assert_eq!(Pattern::Error(code).stretches().last(), Some(&dark(1_500)));
        }
        assert_eq!(Pattern::Error(0).stretches(), Pattern::Error(1).stretches());
        assert_eq!(Pattern::Error(255).stretches(), Pattern::Error(9).stretches());
    }

    #[test]
    fn the_more_urgent_pattern_wins_and_gives_way() {
        let mut player = Player::new();
        assert_eq!(player.shown(at(0)), Shown { light: Dark, until: None });
        player.set(Source::Node, Pattern::Ready, at(0));
        player.set(Source::Power, Pattern::Draining, at(10));
        assert_eq!(player.pattern(at(20)), Some(Pattern::Draining));
        player.set(Source::Press, Pattern::PressHold, at(30));
        assert_eq!(player.pattern(at(40)), Some(Pattern::PressHold));
        player.clear(Source::Press);
        player.clear(Source::Power);
        assert_eq!(player.pattern(at(50)), Some(Pattern::Ready));
        assert_eq!(player.shown(at(50)).until, Some(at(2_850)), "in the rhythm that it had");
    }

    #[test]
    fn the_same_pattern_again_keeps_its_rhythm() {
        let mut player = Player::new();
        player.set(Source::Node, Pattern::Booting, at(0));
        player.set(Source::Node, Pattern::Booting, at(499));
        assert_eq!(player.shown(at(499)), Shown { light: Lit, until: Some(at(500)) });
    }

    #[test]
    fn identify_ends_by_itself() {
        let mut player = Player::new();
        player.set(Source::Node, Pattern::HaltedFivePresent, at(0));
        player.clear(Source::Node);
        player.set_for(Source::Identify, Pattern::Identify, at(0), 250);
        assert_eq!(player.shown(at(0)).until, Some(at(250)));
        assert_eq!(player.pattern(at(249)), Some(Pattern::Identify));
        assert_eq!(player.shown(at(250)), Shown { light: Dark, until: None });
    }

    proptest! {
        #[test]
        fn the_light_does_not_change_before_it_says_so(
            index in 0..Pattern::ALL.len(),
            since in 0_u64..10_000,
            now in 0_u64..100_000,
            part in 0.0_f64..1.0,
        ) {
            let pattern = Pattern::ALL[index];
            let shown = level_at(pattern, at(since), at(now));
            if let Some(until) = shown.until {
                prop_assert!(until > at(now));
                let before = until.as_ms() - 1;
                let between = now + ((before - now) as f64 * part) as u64;
                prop_assert_eq!(level_at(pattern, at(since), at(between)).light, shown.light);
                prop_assert_ne!(level_at(pattern, at(since), until).light, shown.light);
            }
        }
    }
}
