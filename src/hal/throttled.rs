//! Under-voltage and throttling, as the firmware tells the kernel and the kernel tells us. Where neither file is there
//! (no Pi, no such driver) nothing is said, which is not the same as "all is well".
//!
//! | file | says | source |
//! | --- | --- | --- |
//! | `/sys/devices/platform/soc/soc:firmware/get_throttled`, hexadecimal | bit 0 under-voltage, 1 clock capped, 2 throttled, 3 soft temperature limit, all now; 16 to 19 the same since they were last cleared | Raspberry Pi's kernel, `drivers/firmware/raspberrypi.c`, `get_throttled_show` (read); the bits: Raspberry Pi's documentation of `vcgencmd get_throttled` |
//! | `in0_lcrit_alarm` of the hwmon device `rpi_volt` | bit 16 at the driver's last look, every two seconds | `drivers/hwmon/raspberrypi-hwmon.c` (read) |
//!
//! - The first file shows what the firmware last told *somebody*; the kernel asks for it on behalf of the second one's
//!   driver, so it is two seconds old at most where that driver is loaded.
//! - That driver asks with 0xffff, which clears bits 16 to 19. They do not mean "since boot" then, but "since two
//!   seconds ago", so they are not told; the alarm, which is bit 16, counts as under-voltage now. What happened since the
//!   start is what the agent's events tell.

use std::fs;
use std::path::{Path, PathBuf};

use beehive_mqtt::node::Throttling;

/// The file of Raspberry Pi's kernel.
const GET_THROTTLED: &str = "sys/devices/platform/soc/soc:firmware/get_throttled";

/// The name of the kernel's voltage sensor.
const VOLTAGE_SENSOR: &str = "rpi_volt";

/// The firmware's view of the supply, through the kernel's files.
#[derive(Debug)]
pub struct Throttled {
    root: PathBuf,
}

impl Throttled {
    /// The machine whose `/sys` lies below `root`.
    pub fn below(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// What is told now; `None` where nobody tells anything.
    pub fn read(&self) -> Option<Throttling> {
        let bits = self.bits();
        let bit = |number: u32| bits.map(|bits| bits & (1 << number) != 0);
        let under_voltage = match (bit(0), self.alarm()) {
            (None, None) => None,
            (bit, alarm) => Some(bit == Some(true) || alarm == Some(true)),
        };
        let told =
            Throttling { under_voltage, frequency_capped: bit(1), throttled: bit(2), soft_temperature_limit: bit(3) };
        (told != Throttling::default()).then_some(told)
    }

    fn bits(&self) -> Option<u32> {
        let text = fs::read_to_string(self.root.join(GET_THROTTLED)).ok()?;
        let text = text.trim();
        u32::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
    }

    fn alarm(&self) -> Option<bool> {
        let sensor = fs::read_dir(self.root.join("sys/class/hwmon"))
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|folder| fs::read_to_string(folder.join("name")).is_ok_and(|name| name.trim() == VOLTAGE_SENSOR))?;
        match fs::read_to_string(sensor.join("in0_lcrit_alarm")).ok()?.trim() {
            "0" => Some(false),
            "1" => Some(true),
            _ => None,
        }
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

    #[test]
    fn what_nobody_tells_is_absent_and_not_false() {
        let root = TempDir::new().unwrap();
        let throttled = Throttled::below(root.path());
        assert_eq!(throttled.read(), None);
        put(&root, "sys/class/hwmon/hwmon0/name", "cpu_thermal\n");
        put(&root, "sys/class/hwmon/hwmon0/in0_lcrit_alarm", "1\n");
        put(&root, GET_THROTTLED, "nonsense\n");
        assert_eq!(throttled.read(), None);
        put(&root, "sys/class/hwmon/hwmon1/name", "rpi_volt\n");
        put(&root, "sys/class/hwmon/hwmon1/in0_lcrit_alarm", "0\n");
        let only_voltage = Throttling { under_voltage: Some(false), ..Throttling::default() };
        assert_eq!(throttled.read(), Some(only_voltage));
        assert_eq!(serde_json::to_string(&only_voltage).unwrap(), r#"{"under_voltage":false}"#);
        put(&root, "sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1\n");
        assert_eq!(throttled.read().unwrap().under_voltage, Some(true));
    }

    #[test]
    fn each_bit_of_the_firmware_is_one_flag_and_the_sticky_ones_are_none() {
        let root = TempDir::new().unwrap();
        let throttled = Throttled::below(root.path());
        for (text, flags) in [
            ("0\n", [false; 4]),
            ("1\n", [true, false, false, false]),
            ("2\n", [false, true, false, false]),
            ("50004\n", [false, false, true, false]),
            ("0x8\n", [false, false, false, true]),
            ("f0000\n", [false; 4]),
        ] {
            put(&root, GET_THROTTLED, text);
            let told = throttled.read().unwrap();
            let each = [told.under_voltage, told.frequency_capped, told.throttled, told.soft_temperature_limit];
            assert_eq!(each, flags.map(Some), "{text}");
        }
        // the alarm is what the firmware kept until the driver looked
        put(&root, "sys/class/hwmon/hwmon1/name", "rpi_volt\n");
        put(&root, "sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1\n");
        assert_eq!(throttled.read().unwrap().under_voltage, Some(true));
    }
}
