//! The PoE HAT's registers over an I2C bus of the kernel (`/dev/i2c-N`), with `linux-embedded-hal`'s `I2cdev`.
//!
//! Only a bus that the configuration names is ever opened. `auto` opens none ([`super::kernel_hat`]), because no bus can be
//! opened safely on a guess: i2c-0, where the HAT is, belongs to the firmware unless an overlay says otherwise, and a second
//! master there disturbs it; on i2c-1 something else may sit at the HAT's address (a clock, an EEPROM), and clearing the
//! over-current bit is a write.
//!
//! Where the kernel's own driver holds the address, the kernel refuses the bus to us (`I2C_SLAVE` answers `EBUSY`), which
//! is told as a failed part. And i2c-0 is not opened beside a HAT that the kernel drives, through whichever way.

use std::fmt;
use std::path::{Path, PathBuf};

use beehive_board::poe::{I2cRegisters, Presence, Register, Registers};
use linux_embedded_hal::i2cdev::linux::LinuxI2CError;
use linux_embedded_hal::{I2CError, I2cdev};
use rustix::io::Errno;

use super::poe_hat::HatRegisters;

/// The registers on one bus, which is opened when it is first needed and again after it was missing.
pub struct I2cHat {
    path: PathBuf,
    bus: Option<I2cRegisters<I2cdev>>,
}

/// Why a transfer failed.
#[derive(Clone, PartialEq, Eq)]
pub struct I2cFault(String);

impl fmt::Debug for I2cFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl I2cHat {
    /// The HAT on the bus at `path`, which is not opened yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), bus: None }
    }

    fn bus(&mut self) -> Result<&mut I2cRegisters<I2cdev>, I2cFault> {
        match &mut self.bus {
            Some(bus) => Ok(bus),
            none @ None => {
                let device = I2cdev::new(&self.path)
                    .map_err(|error| I2cFault(format!("the bus cannot be opened: {error}; is i2c-dev loaded?")))?;
                Ok(none.insert(I2cRegisters::with_no_answer(device, nobody_answered)))
            }
        }
    }
}

/// `ENXIO` is what the kernel wants a driver to say when nobody acknowledged (Documentation/i2c/fault-codes.rst);
/// `i2c-bcm2835` says `EREMOTEIO`. Nothing else proves that nobody is there.
fn nobody_answered(error: &I2CError) -> bool {
    matches!(errno(error), Some(code) if code == Errno::NXIO.raw_os_error() || code == Errno::REMOTEIO.raw_os_error())
}

fn errno(error: &I2CError) -> Option<i32> {
    match error.inner() {
        LinuxI2CError::Errno(code) => Some(*code),
        LinuxI2CError::Io(error) => error.raw_os_error(),
    }
}

fn fault(error: &I2CError) -> I2cFault {
    I2cFault(error.to_string())
}

impl Registers for I2cHat {
    type Error = I2cFault;

    fn read_u8(&mut self, register: Register) -> Result<u8, I2cFault> {
        self.bus()?.read_u8(register).map_err(|error| fault(&error))
    }

    fn read_u16_le(&mut self, register: Register) -> Result<u16, I2cFault> {
        self.bus()?.read_u16_le(register).map_err(|error| fault(&error))
    }

    fn write_u8(&mut self, register: Register, value: u8) -> Result<(), I2cFault> {
        self.bus()?.write_u8(register, value).map_err(|error| fault(&error))
    }
}

impl HatRegisters for I2cHat {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn probe(&mut self) -> Result<Presence, String> {
        self.bus().map_err(|I2cFault(reason)| reason)?.probe().map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hal::Sensors as _;
    use crate::hal::poe_hat::HatSensors;
    use beehive_board::feed::HatReading;
    use beehive_board::time::Instant;
    use beehive_mqtt::node::PartStatus;

    #[test]
    fn only_a_missing_acknowledgement_proves_absence() {
        let error = |code: Errno| I2CError::from(LinuxI2CError::Errno(code.raw_os_error()));
        assert!(nobody_answered(&error(Errno::REMOTEIO)) && nobody_answered(&error(Errno::NXIO)));
        for code in [Errno::TIMEDOUT, Errno::IO, Errno::BUSY, Errno::AGAIN, Errno::NODEV, Errno::ACCESS] {
            assert!(!nobody_answered(&error(code)), "{code}");
        }
        let io = std::io::Error::from_raw_os_error(Errno::REMOTEIO.raw_os_error());
        assert!(nobody_answered(&I2CError::from(LinuxI2CError::Io(io))));
    }

    #[test]
    fn a_bus_that_is_not_there_is_a_failed_part_and_no_proof_of_absence() {
        let path = std::env::temp_dir().join("no-such-i2c-bus");
        let report = HatSensors::new(I2cHat::new(&path)).poll(Instant::from_ms(0));
        assert_eq!((report.hat, report.part.status), (HatReading::NoCurrent, PartStatus::Failed));
        assert!(report.part.detail.as_str().contains("no-such-i2c-bus"), "{}", report.part.detail);
    }
}
