//! Driver for the button and the LED of the Pimoroni OnOff SHIM, which share one line (BCM17).
//!
//! # What this driver allows you to
//! - read the button: [`Shim::poll`] answers with a level whenever it can be believed;
//! - light the LED: tell [`Shim::poll`] what the [`Player`](crate::led::Player) shows, and it takes turns with the button.
//!
//! # The hardware
//! (pimoroni/clean-shutdown: README and `setup.sh`, read)
//! - The button pulls the line low. So does whoever lights the LED. A held button lights it whatever anybody does.
//! - The line is therefore **only ever an input with pull-up, or driven low**. Driven high, a press would short the pad.
//! - While we drive it low, a read of it is our own LED. No edges come then. After letting go, the pull-up needs a moment
//!   ([`SETTLE_MS`]); a line that is low after that is a press *of unknown start, which counts only from there*.
//!
//! # How LED and button share the line
//! A lit LED would hide the button, so a lit stretch is cut into pieces: every [`SAMPLE_EVERY_MS`] the driver lets go for
//! [`SETTLE_MS`], reads, and lights again. The eye does not see the gap. While the button is held the driver does not
//! drive at all: edges come, and the LED is lit anyway.
//!
//! **Promise**: with calls on time, a press is seen at most [`SEEN_WITHIN_MS`] after it began, at any instant of any
//! pattern; one that is shorter may be missed while the LED is lit. The recogniser's debounce time is on top.
//!
//! The power line of the SHIM cannot be named here: this driver knows only the line that it is given.
//!
//! ```
//! use beehive_board::led::Light;
//! use beehive_board::shim::{OpenDrain, Shim};
//! use beehive_board::time::Instant;
//! # use embedded_hal_mock::eh1::digital::{Mock, State, Transaction};
//! # let mut pin = Mock::new(&[Transaction::set(State::High), Transaction::get(State::High)]);
//! # let mut check = pin.clone();
//! // Any pin that is open-drain with a pull-up, or a `ButtonLine` of your own.
//! let mut shim = Shim::new(OpenDrain(pin));
//! let seen = shim.poll(Instant::from_ms(0), Light::Dark).unwrap_or_default();
//! // An input again; it has to settle before a level can be believed.
//! assert_eq!(seen.level, None);
//! let seen = shim.poll(Instant::from_ms(2), Light::Dark).unwrap_or_default();
//! assert!(seen.level.is_some());
//! # check.done();
//! ```

use embedded_hal::digital::{InputPin, OutputPin};

use crate::gesture::Level;
use crate::led::Light;
use crate::time::Instant;

/// Time for the pull-up to lift the line after we let go. The SoC's pull-up is about 50 kΩ; with a generous nanofarad on
/// the line that is 50 µs. Two ticks of a millisecond clock are at least one whole millisecond.
pub const SETTLE_MS: u64 = 2;

/// How long the LED is lit before the button gets its turn: shorter than a quick tap.
pub const SAMPLE_EVERY_MS: u64 = 40;

/// Longest time from the start of a press until the driver sees it: one lit piece and the settling after it.
pub const SEEN_WITHIN_MS: u64 = SAMPLE_EVERY_MS + SETTLE_MS;

/// The line of button and LED.
///
/// An implementation may make the line an input with pull-up or drive it low, and **must never drive it high**.
pub trait ButtonLine {
    /// What can go wrong.
    type Error;

    /// Reads the line, active low. Called only while it is an input.
    ///
    /// # Errors
    /// The line cannot be read.
    fn level(&mut self) -> Result<Level, Self::Error>;

    /// Drives the line low: the LED lights.
    ///
    /// # Errors
    /// The line cannot be driven.
    fn light(&mut self) -> Result<(), Self::Error>;

    /// Makes the line an input with pull-up.
    ///
    /// # Errors
    /// The line cannot be let go; it may still be driven low.
    fn release(&mut self) -> Result<(), Self::Error>;
}

/// A [`ButtonLine`] on an open-drain pin with pull-up, which is read and written without a change of direction.
///
/// *High* of an open-drain pin means "let go". **A push-pull pin must not be put in here**: the types of embedded-hal
/// cannot tell the two apart, so this is the caller's duty.
#[derive(Clone, Debug)]
pub struct OpenDrain<P>(pub P);

impl<P: InputPin + OutputPin> ButtonLine for OpenDrain<P> {
    type Error = P::Error;

    fn level(&mut self) -> Result<Level, P::Error> {
        Ok(if self.0.is_low()? { Level::Pressed } else { Level::Released })
    }

    fn light(&mut self) -> Result<(), P::Error> {
        self.0.set_low()
    }

    fn release(&mut self) -> Result<(), P::Error> {
        self.0.set_high()
    }
}

/// What a poll found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The button, if the line could be believed at this instant. For [`Recogniser::sample`](crate::gesture::Recogniser::sample).
    pub level: Option<Level>,
    /// When to poll again, unless what the LED should show changes before; `None` if edges will tell.
    pub next: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drive {
    /// Not known: before the first call, and after an error.
    Unknown,
    /// An input; edges come.
    Listening,
    /// Driven low since then.
    Lit { since: Instant },
    /// An input since then, and the line may still be low from our own driving.
    Settling { since: Instant },
}

/// The driver. Owns the line; [`destroy`](Self::destroy) gives it back.
#[derive(Debug)]
pub struct Shim<L> {
    line: L,
    drive: Drive,
}

impl<L: ButtonLine> Shim<L> {
    /// A driver that makes the line an input at its first [`poll`](Self::poll).
    pub const fn new(line: L) -> Self {
        Self { line, drive: Drive::Unknown }
    }

    /// Takes one turn: shows `light` and reads the button where that is possible.
    ///
    /// Call it when [`Seen::next`] comes, when an edge came, and when the LED's pattern changes.
    ///
    /// # Errors
    /// Those of the line. The driver then does not believe any level until it let go of the line and waited; the next
    /// call begins with that.
    pub fn poll(&mut self, now: Instant, light: Light) -> Result<Seen, L::Error> {
        let result = self.turn(now, light);
        if result.is_err() {
            self.drive = Drive::Unknown;
        }
        result
    }

    /// Whether the line is an input that has settled. Edges that arrive while it is not are our own and must be dropped.
    pub fn is_listening(&self) -> bool {
        self.drive == Drive::Listening
    }

    /// Lets go of the line and gives it back.
    ///
    /// # Errors
    /// The line cannot be let go; it is given back with the error.
    pub fn destroy(mut self) -> Result<L, (L, L::Error)> {
        match self.line.release() {
            Ok(()) => Ok(self.line),
            Err(error) => Err((self.line, error)),
        }
    }

    /// The line itself, for what only its owner can do (collecting its edges, say).
    pub fn line_mut(&mut self) -> &mut L {
        &mut self.line
    }

    fn turn(&mut self, now: Instant, light: Light) -> Result<Seen, L::Error> {
        match self.drive {
            Drive::Unknown => self.let_go(now),
            Drive::Listening => self.read(now, light),
            Drive::Lit { since } => {
                let lit_ms = now.saturating_since(since);
                if light == Light::Dark || lit_ms >= SAMPLE_EVERY_MS || now < since {
                    self.let_go(now)
                } else {
                    Ok(Seen { level: None, next: Some(since.plus_ms(SAMPLE_EVERY_MS)) })
                }
            }
            Drive::Settling { since } => {
                if now.saturating_since(since) >= SETTLE_MS {
                    self.drive = Drive::Listening;
                    self.read(now, light)
                } else {
                    // A clock that went back starts the wait again rather than stretching it.
                    let since = since.min(now);
                    self.drive = Drive::Settling { since };
                    Ok(Seen { level: None, next: Some(since.plus_ms(SETTLE_MS)) })
                }
            }
        }
    }

    fn let_go(&mut self, now: Instant) -> Result<Seen, L::Error> {
        self.line.release()?;
        self.drive = Drive::Settling { since: now };
        Ok(Seen { level: None, next: Some(now.plus_ms(SETTLE_MS)) })
    }

    fn read(&mut self, now: Instant, light: Light) -> Result<Seen, L::Error> {
        let level = self.line.level()?;
        match (level, light) {
            (Level::Released, Light::Lit) => {
                self.line.light()?;
                self.drive = Drive::Lit { since: now };
                Ok(Seen { level: Some(level), next: Some(now.plus_ms(SAMPLE_EVERY_MS)) })
            }
            (Level::Released, Light::Dark) | (Level::Pressed, _) => Ok(Seen { level: Some(level), next: None }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use embedded_hal_mock::eh1::MockError;
    use embedded_hal_mock::eh1::digital::{Mock, State, Transaction};
    use proptest::prelude::*;

    use super::*;
    use crate::gesture::{Gesture, GestureEvent, Recogniser, Thresholds};
    use crate::led::{Pattern, Player, Source, level_at};

    fn at(ms: u64) -> Instant {
        Instant::from_ms(ms)
    }

    fn let_go() -> Transaction {
        Transaction::set(State::High)
    }

    fn light() -> Transaction {
        Transaction::set(State::Low)
    }

    fn read_up() -> Transaction {
        Transaction::get(State::High)
    }

    fn read_down() -> Transaction {
        Transaction::get(State::Low)
    }

    fn failed() -> MockError {
        MockError::Io(std::io::ErrorKind::Other)
    }

    fn with_line(expected: &[Transaction], test: impl FnOnce(&mut Shim<OpenDrain<Mock>>)) {
        let pin = Mock::new(expected);
        let mut check = pin.clone();
        let mut shim = Shim::new(OpenDrain(pin));
        test(&mut shim);
        check.done();
    }

    fn seen(level: Option<Level>, next: Option<u64>) -> Seen {
        Seen { level, next: next.map(at) }
    }

    #[test]
    fn it_lets_go_first_and_believes_the_line_only_after_the_settling() {
        with_line(&[let_go(), read_up(), read_down()], |shim| {
            assert_eq!(shim.poll(at(0), Light::Dark).unwrap(), seen(None, Some(2)));
            assert_eq!(shim.poll(at(1), Light::Dark).unwrap(), seen(None, Some(2)));
            assert!(!shim.is_listening());
            assert_eq!(shim.poll(at(2), Light::Dark).unwrap(), seen(Some(Level::Released), None));
            assert!(shim.is_listening());
            assert_eq!(shim.poll(at(500), Light::Dark).unwrap(), seen(Some(Level::Pressed), None));
        });
    }

    #[test]
    fn a_lit_led_takes_turns_with_the_button() {
        with_line(&[let_go(), read_up(), light(), let_go(), read_up(), light(), let_go(), read_up()], |shim| {
            shim.poll(at(0), Light::Lit).unwrap();
            assert_eq!(shim.poll(at(2), Light::Lit).unwrap(), seen(Some(Level::Released), Some(42)));
            assert!(!shim.is_listening());
            assert_eq!(shim.poll(at(41), Light::Lit).unwrap(), seen(None, Some(42)));
            assert_eq!(shim.poll(at(42), Light::Lit).unwrap(), seen(None, Some(44)));
            assert_eq!(shim.poll(at(44), Light::Lit).unwrap(), seen(Some(Level::Released), Some(84)));
            assert_eq!(shim.poll(at(50), Light::Dark).unwrap(), seen(None, Some(52)));
            assert_eq!(shim.poll(at(52), Light::Dark).unwrap(), seen(Some(Level::Released), None));
        });
    }

    #[test]
    fn a_held_button_is_never_driven() {
        with_line(&[let_go(), read_down(), read_down(), read_up(), light()], |shim| {
            shim.poll(at(0), Light::Lit).unwrap();
            assert_eq!(shim.poll(at(2), Light::Lit).unwrap(), seen(Some(Level::Pressed), None));
            assert_eq!(shim.poll(at(900), Light::Lit).unwrap(), seen(Some(Level::Pressed), None));
            assert_eq!(shim.poll(at(950), Light::Lit).unwrap(), seen(Some(Level::Released), Some(990)));
        });
    }

    #[test]
    fn after_each_error_it_lets_go_again_before_it_believes_anything() {
        with_line(
            &[
                let_go().with_error(failed()),
                let_go(),
                read_up().with_error(failed()),
                let_go(),
                read_up(),
                light().with_error(failed()),
                let_go(),
                read_up(),
                light(),
                let_go().with_error(failed()),
                let_go(),
                read_up(),
            ],
            |shim| {
                assert!(shim.poll(at(0), Light::Dark).is_err());
                shim.poll(at(10), Light::Dark).unwrap();
                assert!(shim.poll(at(12), Light::Dark).is_err());
                shim.poll(at(20), Light::Lit).unwrap();
                assert!(shim.poll(at(22), Light::Lit).is_err());
                assert!(!shim.is_listening());
                shim.poll(at(30), Light::Lit).unwrap();
                shim.poll(at(32), Light::Lit).unwrap();
                assert!(shim.poll(at(72), Light::Lit).is_err());
                shim.poll(at(80), Light::Dark).unwrap();
                assert_eq!(shim.poll(at(82), Light::Dark).unwrap().level, Some(Level::Released));
            },
        );
    }

    #[test]
    fn a_clock_that_goes_back_does_not_leave_the_led_on() {
        with_line(&[let_go(), read_up(), light(), let_go(), read_up()], |shim| {
            shim.poll(at(10_000), Light::Lit).unwrap();
            shim.poll(at(10_002), Light::Lit).unwrap();
            assert_eq!(shim.poll(at(5), Light::Lit).unwrap(), seen(None, Some(7)));
            assert_eq!(shim.poll(at(3), Light::Lit).unwrap(), seen(None, Some(5)));
            assert_eq!(shim.poll(at(5), Light::Dark).unwrap(), seen(Some(Level::Released), None));
        });
    }

    #[test]
    fn destroy_gives_the_line_back_as_an_input() {
        let pin = Mock::new(&[let_go(), let_go().with_error(failed())]);
        let mut check = pin.clone();
        assert!(Shim::new(OpenDrain(pin.clone())).destroy().is_ok());
        assert!(Shim::new(OpenDrain(pin)).destroy().is_err());
        check.done();
    }

    /// A line as the SHIM has it: low while somebody presses or while we drive, high again one millisecond after.
    struct SimulatedLine {
        now_ms: u64,
        press: core::ops::Range<u64>,
        driven: bool,
        let_go_ms: u64,
    }

    impl ButtonLine for &mut SimulatedLine {
        type Error = core::convert::Infallible;

        fn level(&mut self) -> Result<Level, Self::Error> {
            assert!(!self.driven, "read while driven: that is our own LED");
            let settling = self.now_ms <= self.let_go_ms;
            Ok(if settling || self.press.contains(&self.now_ms) { Level::Pressed } else { Level::Released })
        }

        fn light(&mut self) -> Result<(), Self::Error> {
            self.driven = true;
            Ok(())
        }

        fn release(&mut self) -> Result<(), Self::Error> {
            if self.driven {
                self.let_go_ms = self.now_ms;
            }
            self.driven = false;
            Ok(())
        }
    }

    /// Plays `pattern`, presses the button for `press`, and answers with what the recogniser told and when.
    fn play(pattern: Pattern, press: core::ops::Range<u64>) -> Vec<(u64, GestureEvent)> {
        let mut line = SimulatedLine { now_ms: 1, press: press.clone(), driven: false, let_go_ms: 0 };
        let mut player = Player::new();
        player.set(Source::Node, pattern, at(0));
        let mut shim = Shim::new(&mut line);
        let mut button = Recogniser::new(Thresholds::default(), Level::Released, at(0));
        let mut told = Vec::new();
        for now in 1..press.end + 3_000 {
            shim.line_mut().now_ms = now;
            // The kernel tells of an edge only while the line is an input; the rest comes by the driver's own turns.
            let seen = shim.poll(at(now), player.shown(at(now)).light).unwrap_or_else(|never| match never {});
            let events = match seen.level {
                Some(level) => button.sample(at(now), level),
                None => button.poll(at(now)),
            };
            told.extend(events.into_iter().map(|event| (now, event)));
        }
        told
    }

    proptest! {
        #[test]
        fn a_press_at_any_instant_of_any_pattern_is_recognised_in_time(
            index in 0..Pattern::ALL.len(),
            start in 10_u64..8_000,
            extra in 0_u64..800,
        ) {
            let debounce_ms = u64::from(Thresholds::default().debounce_ms);
            let press = start..start + SEEN_WITHIN_MS + debounce_ms + extra;
            let told = play(Pattern::ALL[index], press);
            let events: Vec<_> = told.iter().map(|(_, event)| *event).collect();
            prop_assert_eq!(
                events,
                [GestureEvent::Pressed, GestureEvent::Released, GestureEvent::Gesture(Gesture::Short)]
            );
            prop_assert!(told[0].0 - start <= SEEN_WITHIN_MS + debounce_ms);
        }

        /// The turns of the button leave the LED as bright as the pattern says, to the eye.
        #[test]
        fn a_lit_stretch_is_lit_for_nine_tenths(index in 0..Pattern::ALL.len()) {
            let pattern = Pattern::ALL[index];
            let mut line = SimulatedLine { now_ms: 1, press: 0..0, driven: false, let_go_ms: 0 };
            let mut shim = Shim::new(&mut line);
            let (mut wanted, mut driven) = (0_u64, 0_u64);
            for now in 1..12_000 {
                let light = level_at(pattern, at(0), at(now)).light;
                shim.line_mut().now_ms = now;
                let _ = shim.poll(at(now), light);
                wanted += u64::from(light == Light::Lit);
                driven += u64::from(shim.line_mut().driven);
            }
            prop_assert!(driven * 10 >= wanted * 9 && driven <= wanted + 12_000 / 60, "{} of {}", driven, wanted);
        }
    }
}
