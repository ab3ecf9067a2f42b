//! The PoE HAT's sensors over a bus on which its registers are reached directly: I2C, or the simulated one. What is read
//! means what [`beehive_board::poe`] says; here is decided what silence means.
//!
//! "Absent" permits a power cut, so it is said only of a bus that works, on which nobody answered at the HAT's address
//! [`PROBES_AT_START`] times in a row, and only as long as no HAT was ever seen since the start: one that stops answering
//! is a HAT without a reading.
//!
//! The fan of a HAT on such a bus is the agent's, unless the kernel has bound its `pwm-fan`. Once set it is left at full
//! speed when these sensors are dropped.

use std::fmt;

use beehive_board::fan::FULL_SPEED;
use beehive_board::feed::HatReading;
use beehive_board::poe::{PoeEvent, PoeHat, Polled, Presence, Registers};
use beehive_board::time::Instant;
use beehive_mqtt::node::PartStatus;

use super::kernel_hat::KernelHat;
use super::{FanOwner, HalError, OverCurrent, SensorReport, Sensors, part};

/// How often a HAT must fail to answer before it is believed to be absent: a transfer may fail once on a noisy bus.
pub const PROBES_AT_START: u32 = 3;

/// A way to the HAT's registers on which it can be looked for.
pub trait HatRegisters: Registers {
    /// The bus, for people: `/dev/i2c-1`.
    fn name(&self) -> String;

    /// Whether the HAT answers.
    ///
    /// # Errors
    /// A sentence, if the bus itself does not work.
    fn probe(&mut self) -> Result<Presence, String>;
}

/// The sensors.
pub struct HatSensors<B: HatRegisters> {
    hat: PoeHat<B>,
    knowledge: Knowledge,
    /// The kernel beside us, whose `pwm-fan` goes first; none on a simulated bus.
    kernel: Option<KernelHat>,
    fan: Fan,
}

/// Whether the fan was ever set from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fan {
    Untouched,
    Set,
}

/// What is known of the HAT since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Knowledge {
    /// It never answered; so often in a row.
    Silent { probes: u32 },
    /// It has answered.
    Seen,
}

impl<B: HatRegisters> HatSensors<B> {
    /// Sensors on `bus`, which is not asked yet.
    pub fn new(bus: B) -> Self {
        let knowledge = Knowledge::Silent { probes: 0 };
        Self { hat: PoeHat::new(bus), knowledge, kernel: None, fan: Fan::Untouched }
    }

    /// The same on a machine whose kernel may drive the fan.
    pub(super) fn beside(bus: B, kernel: KernelHat) -> Self {
        let mut sensors = Self::new(bus);
        sensors.kernel = Some(kernel);
        sensors
    }

    /// Looks for a HAT that was never seen.
    fn look(&mut self, before: u32) -> Result<Presence, String> {
        let mut probes = before;
        loop {
            match self.hat.registers_mut().probe() {
                Ok(Presence::Present) => {
                    self.knowledge = Knowledge::Seen;
                    return Ok(Presence::Present);
                }
                Ok(Presence::Absent) => {
                    probes = probes.saturating_add(1);
                    self.knowledge = Knowledge::Silent { probes };
                    if probes >= PROBES_AT_START {
                        return Ok(Presence::Absent);
                    }
                }
                Err(reason) => {
                    self.knowledge = Knowledge::Silent { probes: 0 };
                    return Err(reason);
                }
            }
        }
    }
}

impl<B: HatRegisters + Send> Sensors for HatSensors<B>
where
    B::Error: fmt::Debug,
{
    fn poll(&mut self, _now: Instant) -> SensorReport {
        let found = match self.knowledge {
            Knowledge::Seen => Ok(Presence::Present),
            Knowledge::Silent { probes } => self.look(probes),
        };
        let name = self.hat.registers_mut().name();
        match found {
            Ok(Presence::Absent) => SensorReport {
                hat: HatReading::Absent,
                over_current: OverCurrent::None,
                fan_duty: None,
                part: part(PartStatus::Missing, format_args!("no PoE HAT answers on {name}")),
            },
            Err(reason) => silent(format_args!("{name}: {reason}")),
            Ok(Presence::Present) => match self.hat.poll() {
                Ok(Polled { reading, event, not_cleared }) => {
                    if let Some(error) = not_cleared {
                        tracing::debug!(bus = %name, ?error, "the over-current bit could not be cleared; tried again");
                    }
                    SensorReport {
                        hat: reading.current,
                        over_current: match event {
                            Some(PoeEvent::OverCurrent) => OverCurrent::New,
                            None => OverCurrent::None,
                        },
                        fan_duty: Some(reading.fan_duty),
                        part: part(PartStatus::Works, format_args!("answers on {name}")),
                    }
                }
                Err(error) => silent(format_args!("{name}: {error}")),
            },
        }
    }

    fn fan_owner(&mut self) -> FanOwner {
        match self.knowledge {
            Knowledge::Silent { .. } => FanOwner::Nobody,
            Knowledge::Seen if self.kernel.as_ref().is_some_and(KernelHat::has_fan) => FanOwner::Kernel,
            Knowledge::Seen => FanOwner::Agent,
        }
    }

    fn set_fan(&mut self, duty: u8) -> Result<(), HalError> {
        // before the transfer: one that failed may have reached the HAT
        self.fan = Fan::Set;
        self.hat
            .set_fan_duty(duty)
            .map_err(|error| HalError { code: "fan", reason: format!("the fan cannot be set to {duty}: {error}") })
    }
}

impl<B: HatRegisters> Drop for HatSensors<B> {
    fn drop(&mut self) {
        match self.fan {
            Fan::Untouched => {}
            Fan::Set => {
                if self.hat.set_fan_duty(FULL_SPEED).is_err() {
                    tracing::warn!("the fan could not be left at full speed: the HAT does not answer");
                }
            }
        }
    }
}

/// A HAT that is there, or may be there, and tells nothing.
fn silent(detail: fmt::Arguments<'_>) -> SensorReport {
    SensorReport {
        hat: HatReading::NoCurrent,
        over_current: OverCurrent::None,
        fan_duty: None,
        part: part(PartStatus::Failed, detail),
    }
}
