//! What an agent that died left behind is put right: the Pi's LEDs get the triggers that they had before it
//! ([`super::leds`] keeps them in a file), and a fan that is ours goes to full speed, because nobody watches the
//! temperature any more.
//!
//! `beehive give-back` does it; systemd runs that after each end of the daemon (`ExecStopPost`), so after a `kill -9`, a
//! panic and a bite of the watchdog too. The panic hook does the fan's part by itself, for a daemon that runs without
//! systemd. The next start takes both over again.

use beehive_board::fan::FULL_SPEED;
use beehive_board::poe::{Presence, Register};

use super::i2c::I2cHat;
use super::kernel_hat::KernelHat;
use super::leds;
use super::poe_hat::{HatRegisters, PROBES_AT_START};
use super::{HalError, is_driven_by_the_kernel};
use crate::config::{Config, HatBus};

/// Gives back all of it. Each part is tried whatever became of the others.
///
/// # Errors
/// What could not be given back, all of it in one sentence each.
pub fn everything(config: &Config) -> Result<(), Vec<HalError>> {
    let outcomes = [
        leds::restore(std::path::Path::new(leds::FOLDER), &config.run_dir.join(leds::RECORD)),
        fan_to_full_speed(config),
    ];
    let failed: Vec<HalError> = outcomes.into_iter().filter_map(Result::err).collect();
    if failed.is_empty() { Ok(()) } else { Err(failed) }
}

/// Sets the fan to full speed where it is ours: a HAT on a bus that the configuration names, and no `pwm-fan`.
///
/// # Errors
/// If a HAT is there, or may be, and does not take it.
pub fn fan_to_full_speed(config: &Config) -> Result<(), HalError> {
    let path = match &config.poe_hat.bus {
        HatBus::Auto | HatBus::Off => return Ok(()),
        HatBus::Path(path) => path,
    };
    if KernelHat::new().has_fan() || is_driven_by_the_kernel(path) {
        return Ok(());
    }
    full_speed(&mut I2cHat::new(path))
}

/// One lost transfer must not leave the fan slow.
fn full_speed<B: HatRegisters>(bus: &mut B) -> Result<(), HalError> {
    let mut reason = String::new();
    for _ in 0..PROBES_AT_START {
        match bus.probe() {
            Ok(Presence::Present) => match bus.write_u8(Register::FanDuty, FULL_SPEED) {
                Ok(()) => return Ok(()),
                Err(_) => reason = "the HAT does not take the duty".to_owned(),
            },
            Ok(Presence::Absent) => {}
            Err(why) => reason = why,
        }
    }
    if reason.is_empty() {
        return Ok(());
    }
    Err(HalError { code: "fan", reason: format!("the fan is not at full speed: {}: {reason}", bus.name()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use beehive_board::poe::Registers;

    /// A bus that answers as it is told.
    struct Script {
        probes: Vec<Result<Presence, String>>,
        duty: Option<u8>,
        writes: Vec<Result<(), ()>>,
    }

    impl Registers for Script {
        type Error = ();
        fn read_u8(&mut self, _: Register) -> Result<u8, ()> {
            Ok(0)
        }
        fn read_u16_le(&mut self, _: Register) -> Result<u16, ()> {
            Ok(0)
        }
        fn write_u8(&mut self, register: Register, value: u8) -> Result<(), ()> {
            assert_eq!(register, Register::FanDuty);
            self.writes.remove(0)?;
            self.duty = Some(value);
            Ok(())
        }
    }

    impl HatRegisters for Script {
        fn name(&self) -> String {
            "the test's bus".to_owned()
        }
        fn probe(&mut self) -> Result<Presence, String> {
            self.probes.remove(0)
        }
    }

    #[test]
    fn the_fan_goes_to_full_speed_where_a_hat_answers() {
        use Presence::{Absent, Present};
        let broken = || Err("stuck low".to_owned());
        for (probes, writes, duty, fails) in [
            (vec![Ok(Present)], vec![Ok(())], Some(255), false),
            (vec![Ok(Absent), Ok(Present)], vec![Ok(())], Some(255), false),
            (vec![broken(), Ok(Present)], vec![Ok(())], Some(255), false),
            (vec![Ok(Present), Ok(Present)], vec![Err(()), Ok(())], Some(255), false),
            (vec![Ok(Absent), Ok(Absent), Ok(Absent)], vec![], None, false),
            (vec![broken(), broken(), broken()], vec![], None, true),
            (vec![Ok(Present), Ok(Present), Ok(Present)], vec![Err(()), Err(()), Err(())], None, true),
        ] {
            let mut bus = Script { probes, duty: None, writes };
            assert_eq!(full_speed(&mut bus).is_err(), fails);
            assert_eq!(bus.duty, duty);
        }
    }
}
