//! The Pi's own LEDs through the kernel's LED class: `/sys/class/leds/ACT` and `PWR`, on older kernels `led0` and `led1`
//! (Documentation/leds/leds-class.rst). Trigger `none` gives control; the trigger that was there is put back when the
//! value is dropped, and so is the brightness where there was none.
//!
//! A daemon that is killed cannot put anything back. The next one finds the trigger `none` then, and keeps it.

use std::fs;
use std::path::{Path, PathBuf};

use beehive_board::led::Light;

use super::{HalError, Led, Leds, Unusable};
use beehive_mqtt::node::PartStatus;

/// Where the kernel shows its LEDs.
pub const FOLDER: &str = "/sys/class/leds";

/// The LEDs that were found.
#[derive(Debug)]
pub struct SysfsLeds {
    act: Option<SysfsLed>,
    pwr: Option<SysfsLed>,
}

#[derive(Debug)]
struct SysfsLed {
    folder: PathBuf,
    /// What the brightness file takes for lit.
    lit: String,
    before: Option<Before>,
}

/// What is put back.
#[derive(Debug)]
struct Before {
    trigger: String,
    brightness: String,
}

impl SysfsLeds {
    /// The LEDs below `folder` ([`FOLDER`]), with their names for people. Nothing is changed yet.
    pub(super) fn open(folder: &Path) -> Result<(Self, String), Unusable> {
        let find = |names: [&'static str; 2]| {
            names.iter().find_map(|name| {
                let folder = folder.join(name);
                // A Pi without that LED may have the folder without a brightness that can be read.
                fs::read_to_string(folder.join("brightness")).ok()?;
                let lit = match fs::read_to_string(folder.join("max_brightness")) {
                    Ok(text) if text.trim().parse::<u32>().is_ok_and(|most| most > 0) => text.trim().to_owned(),
                    Ok(_) | Err(_) => "1".to_owned(),
                };
                Some((SysfsLed { folder, lit, before: None }, *name))
            })
        };
        let (act, pwr) = (find(["ACT", "led0"]), find(["PWR", "led1"]));
        let names: Vec<&str> = act.iter().chain(&pwr).map(|(_, name)| *name).collect();
        if names.is_empty() {
            return Err(Unusable {
                status: PartStatus::Missing,
                detail: format!("none of ACT, led0, PWR, led1 in {}", folder.display()),
            });
        }
        let names = names.join(", ");
        Ok((Self { act: act.map(|(led, _)| led), pwr: pwr.map(|(led, _)| led) }, names))
    }
}

impl Leds for SysfsLeds {
    fn set(&mut self, led: Led, light: Light) -> Result<(), HalError> {
        let found = match led {
            Led::Act => &mut self.act,
            Led::Pwr => &mut self.pwr,
        };
        match found {
            Some(found) => found.set(light).map_err(|error| HalError {
                code: "led",
                reason: format!("the LED {led} ({}) cannot be set: {error}", found.folder.display()),
            }),
            None => Ok(()),
        }
    }
}

impl SysfsLed {
    fn set(&mut self, light: Light) -> std::io::Result<()> {
        if self.before.is_none() {
            let before = Before {
                trigger: chosen(&fs::read_to_string(self.folder.join("trigger"))?).to_owned(),
                brightness: fs::read_to_string(self.folder.join("brightness"))?.trim().to_owned(),
            };
            fs::write(self.folder.join("trigger"), "none")?;
            self.before = Some(before);
        }
        let brightness = match light {
            Light::Lit => &self.lit,
            Light::Dark => "0",
        };
        fs::write(self.folder.join("brightness"), brightness)
    }
}

impl Drop for SysfsLed {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // the trigger last: one other than `none` takes the LED over
            let outcome = fs::write(self.folder.join("brightness"), &before.brightness)
                .and_then(|()| fs::write(self.folder.join("trigger"), &before.trigger));
            if let Err(error) = outcome {
                tracing::warn!(led = %self.folder.display(), %error, "the LED's trigger could not be put back");
            }
        }
    }
}

/// The trigger in brackets: `none rc-feedback [mmc0] timer`.
fn chosen(triggers: &str) -> &str {
    triggers
        .split_whitespace()
        .find_map(|word| word.strip_prefix('[').and_then(|word| word.strip_suffix(']')))
        .unwrap_or("none")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn led(root: &TempDir, name: &str, trigger: &str, most: &str) {
        let folder = root.path().join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("trigger"), trigger).unwrap();
        fs::write(folder.join("brightness"), "0\n").unwrap();
        fs::write(folder.join("max_brightness"), most).unwrap();
    }

    fn read(root: &TempDir, path: &str) -> String {
        fs::read_to_string(root.path().join(path)).unwrap()
    }

    #[test]
    fn an_led_is_taken_at_its_first_use_and_given_back() {
        let root = TempDir::new().unwrap();
        led(&root, "ACT", "none rc-feedback [mmc0] timer\n", "255\n");
        led(&root, "PWR", "none [default-on] timer\n", "1\n");
        let (mut leds, names) = SysfsLeds::open(root.path()).unwrap();
        assert_eq!(names, "ACT, PWR");
        leds.set(Led::Act, Light::Lit).unwrap();
        assert_eq!((read(&root, "ACT/trigger"), read(&root, "ACT/brightness")), ("none".into(), "255".into()));
        leds.set(Led::Act, Light::Dark).unwrap();
        assert_eq!(read(&root, "ACT/brightness"), "0");
        assert!(read(&root, "PWR/trigger").contains("[default-on]"), "not taken before its first use");
        drop(leds);
        assert_eq!((read(&root, "ACT/trigger"), read(&root, "ACT/brightness")), ("mmc0".into(), "0".into()));
        assert!(read(&root, "PWR/trigger").contains("[default-on]"));
    }

    #[test]
    fn older_names_are_found_and_a_missing_led_is_left_out() {
        let root = TempDir::new().unwrap();
        led(&root, "led0", "[none] timer\n", "nonsense");
        let (mut leds, names) = SysfsLeds::open(root.path()).unwrap();
        assert_eq!(names, "led0");
        leds.set(Led::Pwr, Light::Lit).unwrap();
        leds.set(Led::Act, Light::Lit).unwrap();
        assert_eq!(read(&root, "led0/brightness"), "1");
        fs::remove_dir_all(root.path().join("led0")).unwrap();
        let error = leds.set(Led::Act, Light::Dark).unwrap_err();
        assert!(error.reason.contains("ACT") && error.reason.contains("led0"), "{error}");
    }

    #[test]
    fn none_at_all_is_missing() {
        let root = TempDir::new().unwrap();
        assert_eq!(SysfsLeds::open(root.path()).unwrap_err().status, PartStatus::Missing);
    }
}
