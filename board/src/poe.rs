//! Driver for the Raspberry Pi PoE HAT (2018) and PoE+ HAT (2021).
//!
//! # What this driver allows you to
//! - find out whether a HAT is there, on a bus that works: [`I2cRegisters::probe`];
//! - read the current that it delivers, its flags and its fan's duty: [`PoeHat::read`];
//! - hear of each over-current once: [`PoeHat::poll`];
//! - set the fan's duty: [`PoeHat::set_fan_duty`].
//!
//! # The registers
//! A microcontroller at I2C address 0x51. By default the firmware of the VideoCore owns it and Linux reaches the same
//! registers through the firmware's mailbox; with `dtoverlay=rpi-poe,i2c` or `rpi-poe-plus,i2c` Linux talks to it on
//! i2c-0. **Never open i2c-0 while the firmware owns it.** [`Registers`] is what both ways have in common.
//!
//! | register | I2C | mailbox | source |
//! | --- | --- | --- | --- |
//! | fan duty, 0 to 255 | 0xF0 | 0x0 | `pwm-raspberrypi-poe.c`, `rpi-poe-overlay.dts` (read) |
//! | default duty | 0xF1 | 0x1 | *inferred* |
//! | current, 16 bits little-endian, 3300/9821 mA a step | 0xF2, 0xF3 | 0x2 | `rpi_poe_power.c` (read) |
//! | flags: bit 0 802.3at, bit 1 over-current | 0xF4 | 0x4 | `rpi_poe_power.c` (read) |
//!
//! Current and flags exist on the PoE+ HAT only. What the older HAT answers there is not known; 0 and all ones are taken
//! for "no such register" (*inferred*).
//!
//! # The over-current latch
//! The HAT keeps its over-current bit set until somebody **writes the bit back** (`rpi_poe_power.c`, read). Reading
//! `health` in `/sys/class/power_supply/rpi-poe`, or anything that makes the kernel send the supply's uevent, does that
//! too, so an event can be lost to whoever looks first. Nothing on our side can prevent it; our own latch only makes one
//! event of what we see: it rises when the bit is seen set, and only after the bit was seen clear can it rise again.
//!
//! ```
//! use beehive_board::feed::HatReading;
//! use beehive_board::poe::{I2cRegisters, PoeHat};
//! # use embedded_hal_mock::eh1::i2c::{Mock, Transaction};
//! # let mut i2c = Mock::new(&[
//! #     Transaction::write_read(0x51, vec![0xF2], vec![0xD0, 0x07]),
//! #     Transaction::write_read(0x51, vec![0xF4], vec![0x01]),
//! #     Transaction::write_read(0x51, vec![0xF0], vec![0x20]),
//! # ]);
//! # let mut check = i2c.clone();
//! let mut hat = PoeHat::new(I2cRegisters::new(i2c));
//! let reading = hat.read()?;
//! assert_eq!(reading.current, HatReading::Current { current_ma: 672 });
//! assert_eq!(reading.fan_duty, 32);
//! # check.done();
//! # Ok::<(), beehive_board::poe::Error<embedded_hal::i2c::ErrorKind>>(())
//! ```

use core::fmt;

use embedded_hal::i2c::{Error as _, ErrorKind, I2c};

use crate::feed::HatReading;

/// The HAT's I2C address.
pub const ADDRESS: u8 = 0x51;

/// An address at which nothing may answer: 0x03 is reserved by the I2C specification "for future purposes", and no
/// device may take it. A bus with a line that is stuck low acknowledges every address, this one too.
///
/// It is only read from, which changes nothing should something be there after all.
pub const SILENT_ADDRESS: u8 = 0x03;

/// What the HAT may deliver on an 802.3af port, in milliamperes at 5 V.
pub const RATED_AF_MA: u32 = 2_500;

/// What the PoE+ HAT may deliver on an 802.3at port, in milliamperes at 5 V. The kernel's `current_max` says 5 A; the
/// HAT's own rating is 4 A and that is what counts.
pub const RATED_AT_MA: u32 = 4_000;

const FLAG_AT802_3: u8 = 1 << 0;
const FLAG_OVER_CURRENT: u8 = 1 << 1;

/// A register of the HAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Register {
    /// The fan's duty.
    FanDuty,
    /// The fan's duty after the HAT's start.
    DefaultDuty,
    /// The current that the HAT delivers, 16 bits.
    Current,
    /// The flags.
    Flags,
}

impl Register {
    /// The number on the I2C bus.
    pub const fn i2c(self) -> u8 {
        match self {
            Self::FanDuty => 0xF0,
            Self::DefaultDuty => 0xF1,
            Self::Current => 0xF2,
            Self::Flags => 0xF4,
        }
    }

    /// The number in the firmware's mailbox (tags 0x00030049 to read, 0x00030050 to write).
    pub const fn mailbox(self) -> u32 {
        match self {
            Self::FanDuty => 0x0,
            Self::DefaultDuty => 0x1,
            Self::Current => 0x2,
            Self::Flags => 0x4,
        }
    }
}

/// A way to the HAT's registers: I2C, the firmware's mailbox, the kernel's files, or a simulated HAT.
pub trait Registers {
    /// What can go wrong.
    type Error;

    /// Reads a register of 8 bits.
    ///
    /// # Errors
    /// The HAT did not answer, or the way to it is broken.
    fn read_u8(&mut self, register: Register) -> Result<u8, Self::Error>;

    /// Reads a register of 16 bits, both bytes in one transfer so that they belong together.
    ///
    /// # Errors
    /// As [`read_u8`](Self::read_u8).
    fn read_u16_le(&mut self, register: Register) -> Result<u16, Self::Error>;

    /// Writes a register of 8 bits.
    ///
    /// # Errors
    /// As [`read_u8`](Self::read_u8).
    fn write_u8(&mut self, register: Register, value: u8) -> Result<(), Self::Error>;
}

/// The registers over I2C.
#[derive(Debug)]
pub struct I2cRegisters<I2C: I2c> {
    i2c: I2C,
    no_answer: fn(&I2C::Error) -> bool,
}

/// Whether a HAT is on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Something acknowledges the HAT's address.
    Present,
    /// Nothing does, and the bus works.
    Absent,
}

/// Why a probe says nothing about the HAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeError<E> {
    /// An address answers at which nothing may: the bus is broken, and that the HAT's address answers means nothing.
    EveryAddressAnswers,
    /// The bus failed.
    Bus(E),
}

impl<E> ProbeError<E> {
    /// A stable label.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::EveryAddressAnswers => "every_address_answers",
            Self::Bus(_) => "bus",
        }
    }
}

impl<E: fmt::Debug> fmt::Display for ProbeError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EveryAddressAnswers => write!(
                f,
                "the I2C bus answers at address {SILENT_ADDRESS:#04x}, where nothing may: it is broken (a line stuck low, \
                 or the firmware owns it), so no HAT can be found on it; check the overlay and the wiring"
            ),
            Self::Bus(error) => write!(f, "the I2C bus failed while looking for the PoE HAT: {error:?}"),
        }
    }
}

impl<E: fmt::Debug> core::error::Error for ProbeError<E> {}

impl<I2C: I2c> I2cRegisters<I2C> {
    /// The registers on this bus. An address that nobody acknowledges is one whose error says so
    /// ([`ErrorKind::NoAcknowledge`]).
    pub fn new(i2c: I2C) -> Self {
        Self::with_no_answer(i2c, |error| matches!(error.kind(), ErrorKind::NoAcknowledge(_)))
    }

    /// The same, with a rule of one's own for which errors mean that nobody acknowledged.
    ///
    /// Needed on Linux: `i2c-bcm2835` answers `EREMOTEIO`, which `linux-embedded-hal` calls [`ErrorKind::Other`] as it
    /// does a time-out. The rule must be true for that one and false for a time-out: "absent" permits a power cut.
    pub fn with_no_answer(i2c: I2C, no_answer: fn(&I2C::Error) -> bool) -> Self {
        Self { i2c, no_answer }
    }

    /// Looks for the HAT: first at [`SILENT_ADDRESS`], where nothing may answer, then at [`ADDRESS`].
    ///
    /// # Errors
    /// The bus is broken or failed. Whether there is a HAT is then not known.
    pub fn probe(&mut self) -> Result<Presence, ProbeError<I2C::Error>> {
        let mut byte = [0];
        let silent = self.i2c.read(SILENT_ADDRESS, &mut byte);
        match self.answered(silent)? {
            Presence::Present => return Err(ProbeError::EveryAddressAnswers),
            Presence::Absent => {}
        }
        let hat = self.i2c.write_read(ADDRESS, &[Register::FanDuty.i2c()], &mut byte);
        self.answered(hat)
    }

    /// Gives the bus back.
    pub fn destroy(self) -> I2C {
        self.i2c
    }

    fn answered(&self, outcome: Result<(), I2C::Error>) -> Result<Presence, ProbeError<I2C::Error>> {
        match outcome {
            Ok(()) => Ok(Presence::Present),
            Err(error) if (self.no_answer)(&error) => Ok(Presence::Absent),
            Err(error) => Err(ProbeError::Bus(error)),
        }
    }
}

impl<I2C: I2c> Registers for I2cRegisters<I2C> {
    type Error = I2C::Error;

    fn read_u8(&mut self, register: Register) -> Result<u8, I2C::Error> {
        let mut bytes = [0; 1];
        self.i2c.write_read(ADDRESS, &[register.i2c()], &mut bytes)?;
        Ok(bytes[0])
    }

    fn read_u16_le(&mut self, register: Register) -> Result<u16, I2C::Error> {
        let mut bytes = [0; 2];
        self.i2c.write_read(ADDRESS, &[register.i2c()], &mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    }

    fn write_u8(&mut self, register: Register, value: u8) -> Result<(), I2C::Error> {
        self.i2c.write(ADDRESS, &[register.i2c(), value])
    }
}

/// The HAT's flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags {
    /// The switch port gives 802.3at (PoE+) power.
    pub at802_3: bool,
    /// The over-current bit as it stood when it was read.
    pub over_current: bool,
}

/// What the HAT told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The current; never [`HatReading::Absent`].
    pub current: HatReading,
    /// The flags; `None` if the register does not exist (it reads as all ones).
    pub flags: Option<Flags>,
    /// The fan's duty, 0 to 255.
    pub fan_duty: u8,
}

impl Reading {
    /// What the HAT may deliver on this port, in milliamperes: the lower rating unless the port says 802.3at.
    pub const fn rated_ma(&self) -> u32 {
        match self.flags {
            Some(Flags { at802_3: true, .. }) => RATED_AT_MA,
            Some(Flags { at802_3: false, .. }) | None => RATED_AF_MA,
        }
    }

    /// Whether the HAT delivers more than it may.
    pub const fn is_above_rating(&self) -> bool {
        match self.current {
            HatReading::Current { current_ma } => current_ma > self.rated_ma(),
            HatReading::Absent | HatReading::NoCurrent => false,
        }
    }
}

/// An operation on the HAT that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error<E> {
    /// The current, the flags or the fan's duty could not be read.
    Read(Register, E),
    /// A register could not be written.
    Write(Register, E),
}

impl<E> Error<E> {
    /// A stable label.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Read(..) => "read",
            Self::Write(..) => "write",
        }
    }
}

impl<E: fmt::Debug> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(register, error) => write!(f, "the PoE HAT's {register:?} cannot be read: {error:?}"),
            Self::Write(register, error) => write!(f, "the PoE HAT's {register:?} cannot be written: {error:?}"),
        }
    }
}

impl<E: fmt::Debug> core::error::Error for Error<E> {}

/// What happened on the HAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoeEvent {
    /// An over-current, told once for each time that the bit rose.
    OverCurrent,
}

/// What a [`PoeHat::poll`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Polled<E> {
    /// What the HAT told, before its bit was cleared.
    pub reading: Reading,
    /// What happened since the last poll.
    pub event: Option<PoeEvent>,
    /// The over-current bit could not be cleared. It is tried again at the next poll; the event above is true all the
    /// same.
    pub not_cleared: Option<E>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Latch {
    Clear,
    /// Told, and not seen clear since.
    Told,
}

/// The driver. Owns its way to the registers; [`destroy`](Self::destroy) gives it back.
#[derive(Debug)]
pub struct PoeHat<R> {
    registers: R,
    latch: Latch,
}

impl<R: Registers> PoeHat<R> {
    /// A HAT behind these registers. Talks to nobody yet.
    pub const fn new(registers: R) -> Self {
        Self { registers, latch: Latch::Clear }
    }

    /// Reads current, flags and duty. Changes nothing.
    ///
    /// # Errors
    /// The first register that could not be read. A HAT that vanished gives this until it returns; the driver needs no
    /// new start then.
    pub fn read(&mut self) -> Result<Reading, Error<R::Error>> {
        let adc = self.registers.read_u16_le(Register::Current).map_err(|e| Error::Read(Register::Current, e))?;
        let flags = self.registers.read_u8(Register::Flags).map_err(|e| Error::Read(Register::Flags, e))?;
        let fan_duty = self.registers.read_u8(Register::FanDuty).map_err(|e| Error::Read(Register::FanDuty, e))?;
        let flags = match flags {
            0xFF => None,
            flags => Some(Flags { at802_3: flags & FLAG_AT802_3 != 0, over_current: flags & FLAG_OVER_CURRENT != 0 }),
        };
        Ok(Reading { current: HatReading::from_adc(adc), flags, fan_duty })
    }

    /// Reads, tells an over-current once, and clears its bit on the HAT by writing it back.
    ///
    /// A bit that is set again at the next poll is the same over-current that goes on; after a poll that saw it clear it
    /// is another.
    ///
    /// # Errors
    /// As [`read`](Self::read). The latch stays as it was: a HAT that does not answer has not cleared anything.
    pub fn poll(&mut self) -> Result<Polled<R::Error>, Error<R::Error>> {
        let reading = self.read()?;
        let mut polled = Polled { reading, event: None, not_cleared: None };
        match reading.flags {
            Some(Flags { over_current: true, .. }) => {
                match self.latch {
                    Latch::Clear => polled.event = Some(PoeEvent::OverCurrent),
                    Latch::Told => {}
                }
                self.latch = Latch::Told;
                polled.not_cleared = self.registers.write_u8(Register::Flags, FLAG_OVER_CURRENT).err();
            }
            Some(Flags { over_current: false, .. }) => self.latch = Latch::Clear,
            None => {}
        }
        Ok(polled)
    }

    /// Sets the fan's duty, 0 to 255. Only where the kernel's `pwm-fan` is not bound.
    ///
    /// # Errors
    /// The register could not be written; the fan goes on as before.
    pub fn set_fan_duty(&mut self, duty: u8) -> Result<(), Error<R::Error>> {
        self.registers.write_u8(Register::FanDuty, duty).map_err(|e| Error::Write(Register::FanDuty, e))
    }

    /// Gives the registers back.
    pub fn destroy(self) -> R {
        self.registers
    }

    /// The registers, for what only they can do ([`I2cRegisters::probe`], say).
    pub fn registers_mut(&mut self) -> &mut R {
        &mut self.registers
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString as _;
    use std::vec;
    use std::vec::Vec;

    use embedded_hal::i2c::NoAcknowledgeSource;
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction};
    use proptest::prelude::*;

    use super::*;

    const NAK: ErrorKind = ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address);

    fn current(adc: u16) -> Transaction {
        Transaction::write_read(0x51, vec![0xF2], adc.to_le_bytes().to_vec())
    }

    fn flags(bits: u8) -> Transaction {
        Transaction::write_read(0x51, vec![0xF4], vec![bits])
    }

    fn duty(duty: u8) -> Transaction {
        Transaction::write_read(0x51, vec![0xF0], vec![duty])
    }

    fn clear() -> Transaction {
        Transaction::write(0x51, vec![0xF4, 0x02])
    }

    fn silent() -> Transaction {
        Transaction::read(0x03, vec![0])
    }

    fn with_hat<T>(expected: &[Transaction], test: impl FnOnce(&mut PoeHat<I2cRegisters<Mock>>) -> T) -> T {
        let bus = Mock::new(expected);
        let mut check = bus.clone();
        let mut hat = PoeHat::new(I2cRegisters::new(bus));
        let outcome = test(&mut hat);
        check.done();
        outcome
    }

    #[test]
    fn reads_current_flags_and_duty() {
        let reading = with_hat(&[current(2_000), flags(0x01), duty(64)], |hat| hat.read().unwrap());
        assert_eq!(
            reading,
            Reading {
                current: HatReading::Current { current_ma: 672 },
                flags: Some(Flags { at802_3: true, over_current: false }),
                fan_duty: 64
            }
        );
        assert_eq!((reading.rated_ma(), reading.is_above_rating()), (4_000, false));
    }

    #[test]
    fn the_alarm_is_against_the_rating_of_the_port() {
        for (adc, bits, rated_ma, above) in
            [(7_440, 0, 2_500, false), (7_444, 0, 2_500, true), (7_444, 1, 4_000, false), (11_908, 1, 4_000, true)]
        {
            let reading = with_hat(&[current(adc), flags(bits), duty(0)], |hat| hat.read().unwrap());
            assert_eq!((reading.rated_ma(), reading.is_above_rating()), (rated_ma, above), "{reading:?}");
        }
    }

    #[test]
    fn a_hat_without_the_registers_tells_nothing_and_raises_no_alarm() {
        for (adc, bits, expected) in
            [(0xFFFF, 0xFF, None), (0, 0xFF, None), (0, 0, Some(Flags { at802_3: false, over_current: false }))]
        {
            let polled = with_hat(&[current(adc), flags(bits), duty(0)], |hat| hat.poll().unwrap());
            assert_eq!(polled.reading.current, HatReading::NoCurrent);
            assert_eq!(polled.reading.flags, expected);
            assert_eq!(polled.event, None);
            assert!(!polled.reading.is_above_rating());
        }
    }

    fn poll_events(hat: &mut PoeHat<I2cRegisters<Mock>>, polls: usize) -> Vec<bool> {
        (0..polls).map(|_| hat.poll().unwrap().event.is_some()).collect()
    }

    #[test]
    fn two_over_currents_are_two_events_and_one_that_stays_is_one() {
        let two = [
            current(9_000),
            flags(0x02),
            duty(0),
            clear(),
            current(9_000),
            flags(0x00),
            duty(0),
            current(9_000),
            flags(0x03),
            duty(0),
            clear(),
            current(9_000),
            flags(0x01),
            duty(0),
        ];
        assert_eq!(with_hat(&two, |hat| poll_events(hat, 4)), [true, false, true, false]);
        let stays = [
            current(9_000),
            flags(0x02),
            duty(0),
            clear(),
            current(9_000),
            flags(0x02),
            duty(0),
            clear(),
            current(9_000),
            flags(0x02),
            duty(0),
            clear(),
            current(9_000),
            flags(0x00),
            duty(0),
        ];
        assert_eq!(with_hat(&stays, |hat| poll_events(hat, 4)), [true, false, false, false]);
    }

    #[test]
    fn an_event_survives_a_bit_that_cannot_be_cleared() {
        let expected = [
            current(9_000),
            flags(0x02),
            duty(0),
            clear().with_error(ErrorKind::Bus),
            current(9_000),
            flags(0x02),
            duty(0),
            clear(),
            current(9_000),
            flags(0x00),
            duty(0),
        ];
        with_hat(&expected, |hat| {
            let polled = hat.poll().unwrap();
            assert_eq!((polled.event, polled.not_cleared), (Some(PoeEvent::OverCurrent), Some(ErrorKind::Bus)));
            let polled = hat.poll().unwrap();
            assert_eq!((polled.event, polled.not_cleared), (None, None));
            assert_eq!(hat.poll().unwrap().event, None);
        });
    }

    #[test]
    fn each_failing_register_is_named() {
        for kind in [NAK, ErrorKind::Bus, ErrorKind::ArbitrationLoss, ErrorKind::Overrun, ErrorKind::Other] {
            let error = |expected: &[Transaction]| with_hat(expected, |hat| hat.read().unwrap_err());
            assert_eq!(error(&[current(1).with_error(kind)]), Error::Read(Register::Current, kind));
            assert_eq!(error(&[current(1), flags(0).with_error(kind)]), Error::Read(Register::Flags, kind));
            assert_eq!(error(&[current(1), flags(0), duty(0).with_error(kind)]), Error::Read(Register::FanDuty, kind));
            let written = Transaction::write(0x51, vec![0xF0, 200]).with_error(kind);
            let error = with_hat(&[written], |hat| hat.set_fan_duty(200).unwrap_err());
            assert_eq!(error, Error::Write(Register::FanDuty, kind));
            assert!(error.to_string().contains("FanDuty cannot be written"));
        }
    }

    #[test]
    fn a_hat_that_vanishes_and_comes_back_needs_no_new_start_and_repeats_no_event() {
        let expected = [
            current(9_000),
            flags(0x02),
            duty(0),
            clear(),
            current(0).with_error(NAK),
            current(9_000),
            flags(0).with_error(NAK),
            current(9_000),
            flags(0x02),
            duty(0),
            clear(),
            current(9_000),
            flags(0x00),
            duty(0),
            current(0).with_error(NAK),
            current(9_000),
            flags(0x02),
            duty(0),
            clear(),
        ];
        with_hat(&expected, |hat| {
            assert!(hat.poll().unwrap().event.is_some());
            assert!(hat.poll().is_err());
            assert!(hat.poll().is_err());
            assert!(hat.poll().unwrap().event.is_none());
            assert!(hat.poll().unwrap().event.is_none());
            assert!(hat.poll().is_err());
            assert!(hat.poll().unwrap().event.is_some());
        });
    }

    #[test]
    fn the_fan_is_set_by_one_write() {
        with_hat(&[Transaction::write(0x51, vec![0xF0, 0xFF])], |hat| hat.set_fan_duty(255).unwrap());
    }

    #[test]
    fn a_probe_tells_present_absent_and_a_broken_bus_apart() {
        let probe = |expected: &[Transaction]| with_hat(expected, |hat| hat.registers_mut().probe());
        assert_eq!(probe(&[silent().with_error(NAK), duty(0)]), Ok(Presence::Present));
        assert_eq!(probe(&[silent().with_error(NAK), duty(0).with_error(NAK)]), Ok(Presence::Absent));
        assert_eq!(probe(&[silent()]), Err(ProbeError::EveryAddressAnswers));
        for kind in [ErrorKind::Bus, ErrorKind::ArbitrationLoss, ErrorKind::Overrun, ErrorKind::Other] {
            assert_eq!(probe(&[silent().with_error(kind)]), Err(ProbeError::Bus(kind)));
            assert_eq!(probe(&[silent().with_error(NAK), duty(0).with_error(kind)]), Err(ProbeError::Bus(kind)));
        }
        assert!(ProbeError::<ErrorKind>::EveryAddressAnswers.to_string().contains("0x03"));
    }

    #[test]
    fn a_caller_can_say_which_errors_are_no_answer() {
        let mut bus = Mock::new(&[silent().with_error(ErrorKind::Other), duty(0).with_error(ErrorKind::Other)]);
        let mut registers = I2cRegisters::with_no_answer(bus.clone(), |error| *error == ErrorKind::Other);
        assert_eq!(registers.probe(), Ok(Presence::Absent));
        bus.done();
    }

    #[test]
    fn the_bus_comes_back_from_destroy() {
        with_hat(&[], |_| ());
        let hat = PoeHat::new(I2cRegisters::new(Mock::new(&[])));
        hat.destroy().destroy().done();
    }

    /// A HAT as it is told to behave: the bit stays set until it is written back, and is set again while the
    /// over-current lasts.
    struct SimulatedHat {
        overloaded: bool,
        bits: u8,
    }

    impl Registers for SimulatedHat {
        type Error = core::convert::Infallible;

        fn read_u8(&mut self, register: Register) -> Result<u8, Self::Error> {
            Ok(if register == Register::Flags { self.bits } else { 0 })
        }

        fn read_u16_le(&mut self, _: Register) -> Result<u16, Self::Error> {
            Ok(1_000)
        }

        fn write_u8(&mut self, _: Register, value: u8) -> Result<(), Self::Error> {
            if !self.overloaded {
                self.bits &= !value;
            }
            Ok(())
        }
    }

    proptest! {
        /// As many events as stretches of overload, if each pause between them lasts two polls: one clears the bit, one
        /// sees it clear.
        #[test]
        fn one_event_for_each_overload(stretches in prop::collection::vec((1_usize..5, 2_usize..5), 0..8)) {
            let mut hat = PoeHat::new(SimulatedHat { overloaded: false, bits: 0 });
            let mut events = 0;
            for &(overloaded, pause) in &stretches {
                for poll in 0..overloaded + pause {
                    let now = poll < overloaded;
                    let simulated = hat.registers_mut();
                    simulated.overloaded = now;
                    if now {
                        simulated.bits |= 0x02;
                    }
                    let polled = hat.poll().unwrap_or_else(|error| match error {
                        Error::Read(_, never) | Error::Write(_, never) => match never {},
                    });
                    events += usize::from(polled.event.is_some());
                }
            }
            prop_assert_eq!(events, stretches.len());
        }
    }
}
