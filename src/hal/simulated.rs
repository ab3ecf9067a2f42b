//! A board without a board: the same traits, turned by knobs. The demo's keys and the tests press its button.
//!
//! The line behaves as the SHIM's: pressed or driven, it is low and its LED is lit; no edges come while it is driven, and
//! none for what happened meanwhile. The HAT is a register file below the real driver, whose over-current bit stays set
//! until it is written back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use beehive_board::gesture::Level;
use beehive_board::led::Light;
use beehive_board::poe::{Presence, Register, Registers};
use beehive_board::time::Instant;
use beehive_mqtt::Text;
use beehive_mqtt::node::PartStatus;
use tokio::sync::mpsc;

use super::poe_hat::{HatRegisters, HatSensors};
use super::{Board, BoardInfo, Button, Edge, HalError, Halted, Led, Leds, MAX_EDGES, part};
use crate::clock::Clock;

const OVER_CURRENT_BIT: u8 = 1 << 1;

/// Milliamperes in a step of the HAT's converter, as a fraction.
const ADC_MA: (u32, u32) = (3_300, 9_821);

/// What is mounted on a simulated Pi.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hat {
    /// A PoE HAT that answers.
    Present,
    /// None.
    Absent,
}

/// Who drives one of the Pi's own LEDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PiLed {
    /// What drove it before the agent came.
    System,
    /// The agent.
    Agent(Light),
}

struct World {
    button: Level,
    driven: Light,
    edges: mpsc::Sender<Edge>,
    pi_leds: [PiLed; 2],
    hat: Hat,
    adc: u16,
    flags: u8,
    fan_duty: u8,
}

impl World {
    fn led(&mut self, led: Led) -> &mut PiLed {
        match led {
            Led::Act => &mut self.pi_leds[0],
            Led::Pwr => &mut self.pi_leds[1],
        }
    }
}

/// The knobs of a simulated board. Clones turn the same board.
#[derive(Clone)]
pub struct SimulatedKnobs {
    world: Arc<Mutex<World>>,
}

/// A simulated Pi with a SHIM, without a PoE HAT, its button released.
pub struct SimulatedBoard;

impl SimulatedBoard {
    /// The board and its knobs.
    pub fn build() -> (Board, SimulatedKnobs) {
        let (sender, edges) = mpsc::channel(MAX_EDGES);
        let world = Arc::new(Mutex::new(World {
            button: Level::Released,
            driven: Light::Dark,
            edges: sender,
            pi_leds: [PiLed::System; 2],
            hat: Hat::Absent,
            adc: 0,
            flags: 0,
            fan_duty: 0,
        }));
        let handle = || SimulatedKnobs { world: Arc::clone(&world) };
        let works = || part(PartStatus::Works, "simulated");
        let board = Board {
            button: Some(Box::new(SimulatedButton(handle()))),
            edges,
            leds: Some(Box::new(SimulatedLeds(handle()))),
            sensors: Box::new(HatSensors::new(SimulatedHat(handle()))),
            info: BoardInfo {
                pins: Text::cut("simulated"),
                button: works(),
                poe_hat: part(PartStatus::Missing, "not looked for yet"),
                leds: works(),
            },
        };
        (board, handle())
    }
}

impl SimulatedKnobs {
    /// Presses or releases the button, now.
    pub fn button(&self, level: Level) {
        self.button_at(Clock.now(), level);
    }

    /// The same with a time stamp of the caller's choice.
    pub fn button_at(&self, at: Instant, level: Level) {
        let mut world = self.world();
        if world.button == level {
            return;
        }
        world.button = level;
        match world.driven {
            // as the kernel's buffer: what nobody takes is lost
            Light::Dark => drop(world.edges.try_send(Edge { at, level })),
            Light::Lit => {}
        }
    }

    /// What the SHIM's LED shows: lit while the agent drives it, and while the button is held.
    pub fn shim_led(&self) -> Light {
        let world = self.world();
        match (world.driven, world.button) {
            (Light::Dark, Level::Released) => Light::Dark,
            (Light::Lit, _) | (Light::Dark, Level::Pressed) => Light::Lit,
        }
    }

    /// Who drives one of the Pi's own LEDs, and how.
    pub fn pi_led(&self, led: Led) -> PiLed {
        *self.world().led(led)
    }

    /// Mounts a HAT, or takes it off.
    pub fn hat(&self, hat: Hat) {
        self.world().hat = hat;
    }

    /// Sets the current that the HAT delivers. 0 reads as "no such register".
    pub fn set_poe_current(&self, current_ma: u32) {
        // rounded up, so that the driver's rounding down gives the same number again
        let adc = (u64::from(current_ma) * u64::from(ADC_MA.1)).div_ceil(u64::from(ADC_MA.0));
        self.world().adc = u16::try_from(adc).unwrap_or(u16::MAX - 1);
    }

    /// Sets the over-current bit, as the HAT does once.
    pub fn over_current(&self) {
        self.world().flags |= OVER_CURRENT_BIT;
    }

    /// The fan's duty as the agent set it.
    pub fn fan_duty(&self) -> u8 {
        self.world().fan_duty
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct SimulatedButton(SimulatedKnobs);

impl Button for SimulatedButton {
    fn level(&mut self) -> Result<Level, HalError> {
        let world = self.0.world();
        Ok(match (world.driven, world.button) {
            (Light::Dark, Level::Released) => Level::Released,
            (Light::Lit, _) | (Light::Dark, Level::Pressed) => Level::Pressed,
        })
    }

    fn set_led(&mut self, light: Light) -> Result<(), HalError> {
        self.0.world().driven = light;
        Ok(())
    }
}

impl Drop for SimulatedButton {
    /// As the kernel does when the line's owner ends.
    fn drop(&mut self) {
        self.0.world().driven = Light::Dark;
    }
}

struct SimulatedLeds(SimulatedKnobs);

impl Leds for SimulatedLeds {
    fn set(&mut self, led: Led, light: Light) -> Result<(), HalError> {
        *self.0.world().led(led) = PiLed::Agent(light);
        Ok(())
    }

    fn give_back(&mut self, led: Led) -> Result<(), HalError> {
        *self.0.world().led(led) = PiLed::System;
        Ok(())
    }

    /// The demo draws a halted Pi itself.
    fn leave(&mut self, _halted: Halted) {}
}

impl Drop for SimulatedLeds {
    fn drop(&mut self) {
        self.0.world().pi_leds = [PiLed::System; 2];
    }
}

/// The simulated HAT does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoAnswer;

struct SimulatedHat(SimulatedKnobs);

impl SimulatedHat {
    fn answering(&self) -> Result<MutexGuard<'_, World>, NoAnswer> {
        let world = self.0.world();
        match world.hat {
            Hat::Present => Ok(world),
            Hat::Absent => Err(NoAnswer),
        }
    }
}

impl Registers for SimulatedHat {
    type Error = NoAnswer;

    fn read_u8(&mut self, register: Register) -> Result<u8, NoAnswer> {
        let world = self.answering()?;
        Ok(match register {
            Register::FanDuty | Register::DefaultDuty => world.fan_duty,
            Register::Current => world.adc.to_le_bytes()[0],
            Register::Flags => world.flags,
        })
    }

    fn read_u16_le(&mut self, register: Register) -> Result<u16, NoAnswer> {
        match register {
            Register::Current => Ok(self.answering()?.adc),
            Register::FanDuty | Register::DefaultDuty | Register::Flags => self.read_u8(register).map(u16::from),
        }
    }

    fn write_u8(&mut self, register: Register, value: u8) -> Result<(), NoAnswer> {
        let mut world = self.answering()?;
        match register {
            Register::FanDuty => world.fan_duty = value,
            Register::Flags => world.flags &= !(value & OVER_CURRENT_BIT),
            Register::DefaultDuty | Register::Current => {}
        }
        Ok(())
    }
}

impl HatRegisters for SimulatedHat {
    fn name(&self) -> String {
        "the simulated bus".to_owned()
    }

    fn probe(&mut self) -> Result<Presence, String> {
        Ok(match self.0.world().hat {
            Hat::Present => Presence::Present,
            Hat::Absent => Presence::Absent,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hal::{FanOwner, OverCurrent};
    use beehive_board::feed::HatReading;
    use beehive_board::shim::{SETTLE_MS, Shim};

    fn at(ms: u64) -> Instant {
        Instant::from_ms(ms)
    }

    #[test]
    fn a_press_is_an_edge_and_a_level() {
        let (mut board, knobs) = SimulatedBoard::build();
        let button = board.button.as_mut().unwrap();
        assert_eq!(button.level().unwrap(), Level::Released);
        knobs.button_at(at(5), Level::Pressed);
        knobs.button_at(at(6), Level::Pressed);
        assert_eq!(button.level().unwrap(), Level::Pressed);
        assert_eq!(knobs.shim_led(), Light::Lit, "the button lights it");
        knobs.button_at(at(9), Level::Released);
        assert_eq!(board.edges.try_recv().unwrap(), Edge { at: at(5), level: Level::Pressed });
        assert_eq!(board.edges.try_recv().unwrap(), Edge { at: at(9), level: Level::Released });
        assert!(board.edges.try_recv().is_err(), "a press that is none makes no edge");
        assert_eq!(knobs.shim_led(), Light::Dark);
    }

    #[test]
    fn while_the_led_is_driven_no_edge_comes_and_the_level_is_our_own() {
        let (mut board, knobs) = SimulatedBoard::build();
        let button = board.button.as_mut().unwrap();
        button.set_led(Light::Lit).unwrap();
        assert_eq!((knobs.shim_led(), button.level().unwrap()), (Light::Lit, Level::Pressed));
        knobs.button_at(at(1), Level::Pressed);
        button.set_led(Light::Dark).unwrap();
        assert_eq!(button.level().unwrap(), Level::Pressed, "held since an unknown time");
        knobs.button_at(at(2), Level::Released);
        assert_eq!(board.edges.try_recv().unwrap(), Edge { at: at(2), level: Level::Released });
        assert!(board.edges.try_recv().is_err());
    }

    #[test]
    fn the_shims_driver_takes_the_line_as_it_is() {
        let (mut board, knobs) = SimulatedBoard::build();
        let mut shim = Shim::new(board.button.take().unwrap());
        shim.poll(at(0), Light::Lit).unwrap();
        assert_eq!(shim.poll(at(SETTLE_MS), Light::Lit).unwrap().level, Some(Level::Released));
        assert_eq!(knobs.shim_led(), Light::Lit);
        drop(shim);
        assert_eq!(knobs.shim_led(), Light::Dark, "the line goes back with its owner");
    }

    #[test]
    fn the_pis_leds_are_given_back() {
        let (mut board, knobs) = SimulatedBoard::build();
        assert_eq!(knobs.pi_led(Led::Act), PiLed::System);
        let mut leds = board.leds.take().unwrap();
        leds.set(Led::Act, Light::Lit).unwrap();
        assert_eq!((knobs.pi_led(Led::Act), knobs.pi_led(Led::Pwr)), (PiLed::Agent(Light::Lit), PiLed::System));
        drop(leds);
        assert_eq!(knobs.pi_led(Led::Act), PiLed::System);
    }

    #[test]
    fn a_hat_that_stops_answering_is_not_absent() {
        let (mut board, knobs) = SimulatedBoard::build();
        let absent = board.sensors.poll(at(0));
        assert_eq!((absent.hat, absent.part.status), (HatReading::Absent, PartStatus::Missing));
        knobs.hat(Hat::Present);
        let older = board.sensors.poll(at(1));
        assert_eq!((older.hat, older.part.status), (HatReading::NoCurrent, PartStatus::Works));
        for current_ma in [1, 49, 50, 672, 4_321] {
            knobs.set_poe_current(current_ma);
            assert_eq!(board.sensors.poll(at(2)).hat, HatReading::Current { current_ma });
        }
        knobs.hat(Hat::Absent);
        let gone = board.sensors.poll(at(3));
        assert_eq!((gone.hat, gone.part.status), (HatReading::NoCurrent, PartStatus::Failed));
    }

    #[test]
    fn the_fan_of_a_hat_that_answers_is_ours_and_ends_at_full_speed() {
        let (mut board, knobs) = SimulatedBoard::build();
        board.sensors.poll(at(0));
        assert_eq!(board.sensors.fan_owner(), FanOwner::Nobody);
        knobs.hat(Hat::Present);
        assert_eq!(board.sensors.poll(at(1)).fan_duty, Some(0));
        assert_eq!(board.sensors.fan_owner(), FanOwner::Agent);
        board.sensors.set_fan(64).unwrap();
        assert_eq!((knobs.fan_duty(), board.sensors.poll(at(2)).fan_duty), (64, Some(64)));
        knobs.hat(Hat::Absent);
        assert!(board.sensors.set_fan(32).unwrap_err().reason.contains("32"));
        knobs.hat(Hat::Present);
        drop(board);
        assert_eq!(knobs.fan_duty(), 255);

        // one that nobody has set is not touched
        let (mut board, knobs) = SimulatedBoard::build();
        knobs.hat(Hat::Present);
        board.sensors.poll(at(0));
        drop(board);
        assert_eq!(knobs.fan_duty(), 0);
    }

    #[test]
    fn each_over_current_is_told_once() {
        let (mut board, knobs) = SimulatedBoard::build();
        knobs.hat(Hat::Present);
        let mut told = || board.sensors.poll(at(0)).over_current;
        assert_eq!(told(), OverCurrent::None);
        knobs.over_current();
        assert_eq!([told(), told()], [OverCurrent::New, OverCurrent::None]);
        knobs.over_current();
        assert_eq!([told(), told()], [OverCurrent::New, OverCurrent::None]);
        // set again as often as it is cleared: one that stays
        knobs.over_current();
        assert_eq!(told(), OverCurrent::New);
        for _ in 0..3 {
            knobs.over_current();
            assert_eq!(told(), OverCurrent::None);
        }
    }

    /// A bus that fails as it is told, to see what silence is taken for.
    struct Script(Vec<Result<Presence, String>>);

    impl Registers for Script {
        type Error = NoAnswer;
        fn read_u8(&mut self, _: Register) -> Result<u8, NoAnswer> {
            Ok(0)
        }
        fn read_u16_le(&mut self, _: Register) -> Result<u16, NoAnswer> {
            Ok(0)
        }
        fn write_u8(&mut self, _: Register, _: u8) -> Result<(), NoAnswer> {
            Ok(())
        }
    }

    impl HatRegisters for Script {
        fn name(&self) -> String {
            "the test's bus".to_owned()
        }
        fn probe(&mut self) -> Result<Presence, String> {
            self.0.remove(0)
        }
    }

    #[test]
    fn one_lost_transfer_does_not_make_a_hat_absent_and_a_broken_bus_proves_nothing() {
        use crate::hal::Sensors as _;
        use Presence::{Absent, Present};
        let broken = || Err("stuck low".to_owned());
        for (probes, hat) in [
            (vec![Ok(Absent), Ok(Absent), Ok(Absent)], HatReading::Absent),
            (vec![Ok(Absent), Ok(Absent), Ok(Present)], HatReading::NoCurrent),
            (vec![Ok(Absent), broken()], HatReading::NoCurrent),
        ] {
            assert_eq!(HatSensors::new(Script(probes)).poll(at(0)).hat, hat);
        }
        let mut sensors = HatSensors::new(Script(vec![broken(), Ok(Absent), Ok(Absent), Ok(Absent), Ok(Present)]));
        assert_eq!(sensors.poll(at(0)).part.status, PartStatus::Failed);
        assert_eq!(sensors.poll(at(1)).hat, HatReading::Absent, "asked three times again");
        assert_eq!(sensors.poll(at(2)).part.status, PartStatus::Works, "plugged in later");
    }
}
