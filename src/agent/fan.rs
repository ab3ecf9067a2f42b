//! The fan of a PoE HAT whose registers are ours: the curve of [`beehive_board::fan`] on the processor's temperature, at
//! each reading of the sensors. A fan that the kernel drives (`pwm-fan`) is the kernel's, and left alone.
//!
//! Full speed is what everything ends in: a temperature that cannot be read, an orderly end ([`crate::hal::poe_hat`] sets
//! it when it is dropped), a panic ([`crate::hal::give_back`] from the panic hook) and a `kill -9` or the watchdog (the
//! same from the unit's `ExecStopPost`).

use super::Agent;
use crate::hal::FanOwner;
use beehive_board::fan::Temperature;

impl Agent {
    /// Sets the fan as hot as it is. The duty that the HAT tells is compared, so that a HAT that lost its setting gets
    /// it again, and nothing is written while all is well.
    pub(super) fn follow_fan(&mut self) {
        match self.sensors.fan_owner() {
            FanOwner::Kernel | FanOwner::Nobody => return,
            FanOwner::Agent => {}
        }
        let temperature = self.host.processor_millicelsius().map_or(Temperature::Lost, Temperature::MilliC);
        let wanted = self.fan_curve.duty(temperature);
        if self.fan_duty == Some(wanted) {
            return;
        }
        match self.sensors.set_fan(wanted) {
            Ok(()) => self.fan_duty = Some(wanted),
            Err(error) => tracing::warn!("{error}; tried again at the next reading"),
        }
    }
}
