//! The fan's curve, for a HAT whose fan the kernel does not drive.
//!
//! Where the kernel's `pwm-fan` is bound, the fan is the kernel's and this module is not used. With the I2C overlay
//! the agent drives it: steps with hysteresis, the same as in the overlays (`rpi-poe-overlay.dts`,
//! `rpi-poe-plus-overlay.dts`, read): on at 40, 45, 50, 55 °C, back 2, 2, 2, 5 °C lower. A sensor that cannot be read
//! means full speed: noise harms nobody. The caller also sets [`FULL_SPEED`] on exit and on panic.

use serde::{Deserialize, Serialize};

/// Duty of a fan at full speed.
pub const FULL_SPEED: u8 = 255;

const STEPS: usize = 4;

/// Where the fan goes one step up, in thousandths of a degree Celsius, as the kernel's thermal zone tells them.
const TRIPS_MILLI_C: [i32; STEPS] = [40_000, 45_000, 50_000, 55_000];

/// How far below its trip point a step is left again.
const HYSTERESIS_MILLI_C: [i32; STEPS] = [2_000, 2_000, 2_000, 5_000];

/// Which HAT's fan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FanModel {
    /// PoE HAT of 2018.
    Poe,
    /// PoE+ HAT of 2021.
    PoePlus,
}

impl FanModel {
    const fn levels(self) -> [u8; STEPS + 1] {
        match self {
            Self::Poe => [0, 1, 10, 100, FULL_SPEED],
            Self::PoePlus => [0, 32, 64, 128, FULL_SPEED],
        }
    }
}

/// What the sensor says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Temperature {
    /// Thousandths of a degree Celsius.
    MilliC(i32),
    /// It cannot be read.
    Lost,
}

/// The curve, with the step that it is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Curve {
    model: FanModel,
    step: usize,
}

impl Curve {
    /// A curve that begins with the fan off.
    pub const fn new(model: FanModel) -> Self {
        Self { model, step: 0 }
    }

    /// The duty (0 to 255) for this temperature.
    pub fn duty(&mut self, temperature: Temperature) -> u8 {
        match temperature {
            Temperature::Lost => {
                self.step = STEPS;
                FULL_SPEED
            }
            Temperature::MilliC(milli_c) => {
                while self.step < STEPS && milli_c >= TRIPS_MILLI_C[self.step] {
                    self.step += 1;
                }
                while self.step > 0 && milli_c < TRIPS_MILLI_C[self.step - 1] - HYSTERESIS_MILLI_C[self.step - 1] {
                    self.step -= 1;
                }
                self.model.levels()[self.step]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use Temperature::{Lost, MilliC};

    #[test]
    fn goes_up_at_the_trip_and_down_below_the_hysteresis() {
        let mut curve = Curve::new(FanModel::PoePlus);
        for (milli_c, duty) in [
            (20_000, 0),
            (39_999, 0),
            (40_000, 32),
            (38_000, 32),
            (37_999, 0),
            (56_000, 255),
            (50_000, 255),
            (49_999, 128),
            (47_999, 64),
            (-10_000, 0),
        ] {
            assert_eq!(curve.duty(MilliC(milli_c)), duty, "{milli_c}");
        }
    }

    #[test]
    fn each_hat_has_its_levels() {
        let duty = |model, milli_c| Curve::new(model).duty(MilliC(milli_c));
        assert_eq!([41, 46, 51, 56].map(|c| duty(FanModel::Poe, c * 1_000)), [1, 10, 100, 255]);
        assert_eq!([41, 46, 51, 56].map(|c| duty(FanModel::PoePlus, c * 1_000)), [32, 64, 128, 255]);
    }

    #[test]
    fn a_lost_sensor_means_full_speed_until_it_is_cool_for_certain() {
        let mut curve = Curve::new(FanModel::Poe);
        assert_eq!(curve.duty(Lost), 255);
        assert_eq!(curve.duty(MilliC(52_000)), 255);
        assert_eq!(curve.duty(MilliC(20_000)), 0);
    }

    proptest! {
        /// Within the hysteresis the past decides; outside it the temperature alone does.
        #[test]
        fn the_past_matters_only_within_the_hysteresis(
            past in prop::collection::vec(-20_000_i32..90_000, 0..8),
            now in -20_000_i32..90_000,
        ) {
            let mut curve = Curve::new(FanModel::PoePlus);
            for milli_c in past {
                curve.duty(MilliC(milli_c));
            }
            let least = Curve::new(FanModel::PoePlus).duty(MilliC(now));
            let mut hot = Curve { model: FanModel::PoePlus, step: STEPS };
            let most = hot.duty(MilliC(now));
            let duty = curve.duty(MilliC(now));
            prop_assert!(least <= duty && duty <= most);
        }
    }
}
