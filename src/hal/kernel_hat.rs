//! The PoE HAT as the kernel shows it, which is what `auto` means: it works whether Linux reaches the HAT through the
//! firmware's mailbox or over I2C, and opens no bus.
//!
//! 1. `/sys/class/power_supply/rpi-poe` (`rpi_poe_power.c`, read): a PoE+ HAT with its current in microamperes. `health`
//!    says `Over current` once for each time that the HAT's bit was set, because the kernel clears the bit when it is asked;
//!    so does anything else that asks, and an over-current can be lost to it. What we see raises our own latch.
//! 2. A `pwm-fan`, or a HAT whose EEPROM says PoE: a HAT without a current.
//! 3. Else there is no HAT that anybody told the kernel of.

use std::fs;
use std::path::{Path, PathBuf};

use beehive_board::feed::HatReading;
use beehive_board::time::Instant;
use beehive_mqtt::node::PartStatus;

use super::{FanOwner, HalError, OverCurrent, SensorReport, Sensors, no_fan, part};

/// The HAT through the kernel's files.
#[derive(Debug)]
pub struct KernelHat {
    root: PathBuf,
    latch: Latch,
}

/// Whether an over-current goes on that was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Latch {
    Clear,
    Told,
}

impl KernelHat {
    /// The HAT of this machine.
    pub fn new() -> Self {
        Self::below(Path::new("/"))
    }

    /// The HAT of the machine whose `/sys` and `/proc` lie below `root`.
    pub(super) fn below(root: &Path) -> Self {
        Self { root: root.to_owned(), latch: Latch::Clear }
    }

    /// Whether the kernel drives a HAT, so that nobody else may.
    pub(super) fn is_driven(&self) -> bool {
        self.supply().exists() || self.fan().is_some()
    }

    fn supply(&self) -> PathBuf {
        self.root.join("sys/class/power_supply/rpi-poe")
    }

    /// Whether the kernel drives a fan.
    pub(super) fn has_fan(&self) -> bool {
        self.fan().is_some()
    }

    /// The folder of the kernel's `pwm-fan`. A Pi 5's cooler is one too; that makes the feed unknown where the
    /// configuration does not say it, which is the safe side.
    fn fan(&self) -> Option<PathBuf> {
        fs::read_dir(self.root.join("sys/class/hwmon"))
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|folder| read(&folder.join("name")).is_some_and(|name| name == "pwmfan"))
    }

    /// What the HAT's EEPROM says that it is, if that is a PoE HAT.
    fn product(&self) -> Option<String> {
        let product = read(&self.root.join("proc/device-tree/hat/product"))?;
        product.to_ascii_lowercase().contains("poe").then_some(product)
    }

    fn over_current(&mut self, health: Option<&str>) -> OverCurrent {
        match (health, self.latch) {
            (Some("Over current"), Latch::Clear) => {
                self.latch = Latch::Told;
                OverCurrent::New
            }
            (Some("Over current"), Latch::Told) => OverCurrent::None,
            (Some(_), _) => {
                self.latch = Latch::Clear;
                OverCurrent::None
            }
            (None, _) => OverCurrent::None,
        }
    }
}

impl Default for KernelHat {
    fn default() -> Self {
        Self::new()
    }
}

fn read(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim_matches(['\0', '\n', ' ']).to_owned())
}

impl Sensors for KernelHat {
    fn poll(&mut self, _now: Instant) -> SensorReport {
        let fan = self.fan();
        let fan_duty = fan.as_ref().and_then(|folder| read(&folder.join("pwm1"))?.parse().ok());
        let supply = self.supply();
        if supply.exists() {
            let health = read(&supply.join("health"));
            let over_current = self.over_current(health.as_deref());
            let current = read(&supply.join("current_now")).and_then(|text| text.parse::<u32>().ok());
            return match current {
                Some(current_ua) => SensorReport {
                    hat: HatReading::from_micro_amperes(current_ua),
                    over_current,
                    fan_duty,
                    part: part(PartStatus::Works, "the kernel's power supply rpi-poe"),
                },
                None => SensorReport {
                    hat: HatReading::NoCurrent,
                    over_current,
                    fan_duty,
                    part: part(PartStatus::Failed, "the kernel's power supply rpi-poe tells no current"),
                },
            };
        }
        let (hat, part) = match (self.product(), fan) {
            (Some(product), _) => {
                (HatReading::NoCurrent, part(PartStatus::Works, format_args!("{product}, which tells no current")))
            }
            (None, Some(_)) => (
                HatReading::NoCurrent,
                part(PartStatus::Works, "the kernel drives a fan (pwm-fan), as a PoE HAT has; it tells no current"),
            ),
            (None, None) => (HatReading::Absent, part(PartStatus::Missing, "the kernel knows of no PoE HAT")),
        };
        SensorReport { hat, over_current: OverCurrent::None, fan_duty, part }
    }

    fn fan_owner(&mut self) -> FanOwner {
        if self.has_fan() { FanOwner::Kernel } else { FanOwner::Nobody }
    }

    fn set_fan(&mut self, _duty: u8) -> Result<(), HalError> {
        Err(no_fan())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn put(root: &TempDir, path: &str, text: &str) {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn poll(hat: &mut KernelHat) -> SensorReport {
        hat.poll(Instant::from_ms(0))
    }

    #[test]
    fn what_the_kernel_knows_decides() {
        let root = TempDir::new().unwrap();
        let mut hat = KernelHat::below(root.path());
        assert_eq!((poll(&mut hat).hat, hat.is_driven()), (HatReading::Absent, false));
        put(&root, "sys/class/hwmon/hwmon0/name", "cpu_thermal\n");
        put(&root, "proc/device-tree/hat/product", "Sense HAT\0");
        assert_eq!(poll(&mut hat).hat, HatReading::Absent, "another HAT and another sensor");

        put(&root, "proc/device-tree/hat/product", "PoE HAT\0");
        let report = poll(&mut hat);
        assert_eq!((report.hat, report.part.status), (HatReading::NoCurrent, PartStatus::Works));
        assert!(report.part.detail.as_str().starts_with("PoE HAT,"), "{}", report.part.detail);

        fs::remove_file(root.path().join("proc/device-tree/hat/product")).unwrap();
        put(&root, "sys/class/hwmon/hwmon1/name", "pwmfan\n");
        put(&root, "sys/class/hwmon/hwmon1/pwm1", "64\n");
        let report = poll(&mut hat);
        assert_eq!((report.hat, report.fan_duty, hat.is_driven()), (HatReading::NoCurrent, Some(64), true));

        put(&root, "sys/class/power_supply/rpi-poe/current_now", "672036\n");
        put(&root, "sys/class/power_supply/rpi-poe/health", "Good\n");
        let report = poll(&mut hat);
        assert_eq!((report.hat, report.fan_duty), (HatReading::Current { current_ma: 672 }, Some(64)));
        put(&root, "sys/class/power_supply/rpi-poe/current_now", "nonsense\n");
        let report = poll(&mut hat);
        assert_eq!((report.hat, report.part.status), (HatReading::NoCurrent, PartStatus::Failed));
    }

    #[test]
    fn an_over_current_is_told_once_until_it_was_seen_clear() {
        let root = TempDir::new().unwrap();
        let mut hat = KernelHat::below(root.path());
        put(&root, "sys/class/power_supply/rpi-poe/current_now", "100000\n");
        let mut told = Vec::new();
        for health in ["Good", "Over current", "Over current", "Good", "Over current"] {
            put(&root, "sys/class/power_supply/rpi-poe/health", health);
            told.push(poll(&mut hat).over_current == OverCurrent::New);
        }
        fs::remove_file(root.path().join("sys/class/power_supply/rpi-poe/health")).unwrap();
        told.push(poll(&mut hat).over_current == OverCurrent::New);
        assert_eq!(told, [false, true, false, false, true, false]);
    }
}
