//! The Pi's own LEDs through the kernel's LED class: `/sys/class/leds/ACT` and `PWR`, on older kernels `led0` and `led1`
//! (Documentation/leds/leds-class.rst). Trigger `none` gives control; the trigger that was there is put back when the
//! value is dropped, and so is the brightness where there was none.
//!
//! A daemon that is killed cannot put anything back, so what has to be put back is written to [`RECORD`] before an LED is
//! taken. [`restore`] reads it after such an end; the next start, if it comes first, takes over from it. The file lies in
//! `/run`: after a boot the kernel has set the triggers anew, and an older record would be wrong.
//!
//! Before a power-off they are not given back but left as the halted Pi shows them ([`Halted`]): PWR at its static level,
//! ACT blinking by the kernel's `timer` trigger, which needs no process, until the kernel ends and its driver puts the LEDs
//! out (`leds-gpio.c`, `gpio_led_shutdown`, read; what the firmware shows after that only a board can tell).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use beehive_board::led::{Light, Pattern};

use super::{HalError, Halted, Led, Leds, Unusable};
use beehive_mqtt::node::PartStatus;

/// Where the kernel shows its LEDs.
pub const FOLDER: &str = "/sys/class/leds";

/// The file, below the configuration's `run_dir`, with what is put back: an LED a line, its folder's name, trigger and
/// brightness.
pub const RECORD: &str = "leds";

/// The kernel's trigger that blinks without a process (ledtrig-timer).
const TIMER: &str = "timer";

/// How long the files of a trigger that was just set are waited for: udev gives them to the daemon's group, a moment after
/// the kernel has made them.
const TRIGGER_TIME: Duration = Duration::from_secs(1);

/// How often they are tried meanwhile.
const TRIGGER_AGAIN: Duration = Duration::from_millis(10);

/// The LEDs that were found.
#[derive(Debug)]
pub struct SysfsLeds {
    act: Option<SysfsLed>,
    pwr: Option<SysfsLed>,
    record: PathBuf,
}

#[derive(Debug)]
struct SysfsLed {
    folder: PathBuf,
    /// What the brightness file takes for lit.
    lit: String,
    hold: Hold,
}

/// Whose an LED is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Hold {
    /// Somebody else's.
    Theirs,
    /// An agent that died took it; this has to be put back.
    Left(Before),
    /// Ours; this has to be put back.
    Ours(Before),
}

/// What is put back.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Before {
    trigger: String,
    brightness: String,
}

impl SysfsLeds {
    /// The LEDs below `folder` ([`FOLDER`]), with their names for people. Nothing is changed yet.
    pub(super) fn open(folder: &Path, record: &Path) -> Result<(Self, String), Unusable> {
        let left = read_record(record);
        let find = |names: [&'static str; 2]| {
            names.iter().find_map(|name| {
                let folder = folder.join(name);
                // A Pi without that LED may have the folder without a brightness that can be read.
                fs::read_to_string(folder.join("brightness")).ok()?;
                let lit = match fs::read_to_string(folder.join("max_brightness")) {
                    Ok(text) if text.trim().parse::<u32>().is_ok_and(|most| most > 0) => text.trim().to_owned(),
                    Ok(_) | Err(_) => "1".to_owned(),
                };
                let before = left.iter().find(|(of, _)| of == name).map(|(_, before)| before.clone());
                Some((SysfsLed { folder, lit, hold: before.map_or(Hold::Theirs, Hold::Left) }, *name))
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
        let (act, pwr) = (act.map(|(led, _)| led), pwr.map(|(led, _)| led));
        Ok((Self { act, pwr, record: record.to_owned() }, names))
    }

    fn led(&mut self, led: Led) -> Option<&mut SysfsLed> {
        match led {
            Led::Act => self.act.as_mut(),
            Led::Pwr => self.pwr.as_mut(),
        }
    }

    /// Writes down what has to be put back, with `taken` about to be added.
    fn write_record(&self, taken: Option<(Led, &Before)>) {
        let mut text = String::new();
        for led in Led::ALL {
            let found = match led {
                Led::Act => &self.act,
                Led::Pwr => &self.pwr,
            };
            let Some(found) = found else { continue };
            let before = match (&found.hold, taken) {
                (Hold::Ours(before) | Hold::Left(before), _) => before,
                (Hold::Theirs, Some((of, before))) if of == led => before,
                (Hold::Theirs, _) => continue,
            };
            let name = found.folder.file_name().unwrap_or_default().to_string_lossy();
            text += &format!("{name} {} {}\n", before.trigger, before.brightness);
        }
        let outcome = if text.is_empty() { remove(&self.record) } else { write_whole(&self.record, &text) };
        if let Err(error) = outcome {
            tracing::warn!(file = %self.record.display(), %error, "a killed daemon's LEDs will not be given back");
        }
    }

    fn switch(&mut self, led: Led, light: Light) -> io::Result<()> {
        let Some(found) = self.led(led) else { return Ok(()) };
        match &found.hold {
            Hold::Ours(_) => {}
            Hold::Left(before) => {
                let before = before.clone();
                found.take(before)?;
            }
            Hold::Theirs => {
                let before = found.before()?;
                self.write_record(Some((led, &before)));
                if let Some(found) = self.led(led) {
                    found.take(before)?;
                }
            }
        }
        match self.led(led) {
            Some(found) => found.shine(light),
            None => Ok(()),
        }
    }

    fn release(&mut self, led: Led) -> io::Result<()> {
        let Some(found) = self.led(led) else { return Ok(()) };
        match std::mem::replace(&mut found.hold, Hold::Theirs) {
            Hold::Theirs => return Ok(()),
            Hold::Ours(before) | Hold::Left(before) => before.put_back(&found.folder)?,
        }
        self.write_record(None);
        Ok(())
    }

    fn error(&mut self, led: Led, what: &str, error: &io::Error) -> HalError {
        let folder = self.led(led).map(|found| found.folder.display().to_string()).unwrap_or_default();
        HalError { code: "led", reason: format!("the LED {led} ({folder}) cannot be {what}: {error}") }
    }
}

impl Leds for SysfsLeds {
    fn set(&mut self, led: Led, light: Light) -> Result<(), HalError> {
        self.switch(led, light).map_err(|error| self.error(led, "set", &error))
    }

    fn give_back(&mut self, led: Led) -> Result<(), HalError> {
        self.release(led).map_err(|error| self.error(led, "given back", &error))
    }

    fn leave(&mut self, halted: Halted) {
        let level = match halted {
            Halted::Cut => Pattern::SafeToUnplug,
            Halted::FivePresent => Pattern::HaltedFivePresent,
        };
        let light = level.stretches().first().map_or(Light::Dark, |stretch| stretch.light);
        if let Err(error) = self.switch(Led::Pwr, light) {
            tracing::warn!(%error, "PWR cannot be left as the halted Pi shows it");
        }
        let blinks = self.act.as_ref().is_some_and(|act| match act.blink(Pattern::Stopping) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, "no timer trigger: ACT is given back");
                false
            }
        });
        for (led, stays) in [(&mut self.act, blinks), (&mut self.pwr, true)] {
            if let (Some(led), true) = (led, stays) {
                led.hold = Hold::Theirs;
            }
        }
        self.write_record(None);
    }
}

impl SysfsLed {
    fn before(&self) -> io::Result<Before> {
        Ok(Before {
            trigger: chosen(&fs::read_to_string(self.folder.join("trigger"))?).to_owned(),
            brightness: fs::read_to_string(self.folder.join("brightness"))?.trim().to_owned(),
        })
    }

    fn take(&mut self, before: Before) -> io::Result<()> {
        fs::write(self.folder.join("trigger"), "none")?;
        self.hold = Hold::Ours(before);
        Ok(())
    }

    fn shine(&self, light: Light) -> io::Result<()> {
        let brightness = match light {
            Light::Lit => &self.lit,
            Light::Dark => "0",
        };
        fs::write(self.folder.join("brightness"), brightness)
    }

    /// Has the kernel blink with the first two stretches of `pattern`.
    fn blink(&self, pattern: Pattern) -> io::Result<()> {
        let trigger = self.folder.join("trigger");
        let offered = fs::read_to_string(&trigger)?;
        if !offered.split_whitespace().any(|word| word.trim_matches(['[', ']']) == TIMER) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel has no timer trigger"));
        }
        fs::write(&trigger, TIMER)?;
        for (file, stretch) in ["delay_on", "delay_off"].into_iter().zip(pattern.stretches()) {
            write_when_given(&self.folder.join(file), &stretch.ms.to_string())?;
        }
        Ok(())
    }
}

/// Writes to a file that udev may not have given to us yet.
fn write_when_given(path: &Path, text: &str) -> io::Result<()> {
    let until = Instant::now() + TRIGGER_TIME;
    loop {
        match fs::write(path, text) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && Instant::now() < until => {
                thread::sleep(TRIGGER_AGAIN);
            }
            outcome => return outcome,
        }
    }
}

impl Before {
    fn put_back(&self, folder: &Path) -> io::Result<()> {
        // the trigger last: one other than `none` takes the LED over
        fs::write(folder.join("brightness"), &self.brightness)?;
        fs::write(folder.join("trigger"), &self.trigger)
    }
}

impl Drop for SysfsLeds {
    fn drop(&mut self) {
        for led in Led::ALL {
            if let Err(error) = self.release(led) {
                tracing::warn!(%led, %error, "the LED's trigger could not be put back");
            }
        }
    }
}

/// Puts back what an agent that died has written down, below `folder` ([`FOLDER`]). Without a record nothing is done.
///
/// # Errors
/// The LEDs that could not be given back. The record is gone all the same: it is tried once.
pub fn restore(folder: &Path, record: &Path) -> Result<(), HalError> {
    let mut failed = Vec::new();
    for (name, before) in read_record(record) {
        if let Err(error) = before.put_back(&folder.join(&name)) {
            failed.push(format!("{name}: {error}"));
        }
    }
    if let Err(error) = remove(record) {
        failed.push(format!("{}: {error}", record.display()));
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(HalError { code: "led", reason: format!("LEDs are not given back: {}", failed.join("; ")) })
}

fn read_record(record: &Path) -> Vec<(String, Before)> {
    let text = fs::read_to_string(record).unwrap_or_default();
    let line = |line: &str| {
        let mut words = line.split_whitespace().map(str::to_owned);
        let (name, trigger, brightness) = (words.next()?, words.next()?, words.next()?);
        // a name is a folder of the LED class, and never a way out of it
        (!name.contains(['/', '.'])).then_some((name, Before { trigger, brightness }))
    };
    text.lines().filter_map(line).collect()
}

fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(&new, path)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The trigger in brackets: `none rc-feedback [mmc0] timer`. A single word is chosen with or without them.
fn chosen(triggers: &str) -> &str {
    let bracketed = |word: &'_ str| word.starts_with('[') && word.ends_with(']');
    let mut words = triggers.split_whitespace();
    let chosen = match (words.next(), words.next()) {
        (Some(only), None) => Some(only),
        _ => triggers.split_whitespace().find(|word| bracketed(word)),
    };
    chosen.map_or("none", |word| word.trim_matches(['[', ']']))
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

    fn record(root: &TempDir) -> PathBuf {
        root.path().join("run/leds")
    }

    fn read(root: &TempDir, path: &str) -> String {
        fs::read_to_string(root.path().join(path)).unwrap()
    }

    #[test]
    fn an_led_is_taken_at_its_first_use_and_given_back() {
        let root = TempDir::new().unwrap();
        led(&root, "ACT", "none rc-feedback [mmc0] timer\n", "255\n");
        led(&root, "PWR", "none [default-on] timer\n", "1\n");
        let (mut leds, names) = SysfsLeds::open(root.path(), &record(&root)).unwrap();
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
    fn the_trigger_is_the_word_in_brackets() {
        for (triggers, trigger) in [
            ("none rc-feedback [mmc0] timer\n", "mmc0"),
            ("[none] mmc0\n", "none"),
            ("none mmc0\n", "none"),
            ("mmc0", "mmc0"),
            ("[mmc0]\n", "mmc0"),
            ("", "none"),
        ] {
            assert_eq!(chosen(triggers), trigger, "{triggers}");
        }
    }

    #[test]
    fn older_names_are_found_and_a_missing_led_is_left_out() {
        let root = TempDir::new().unwrap();
        led(&root, "led0", "[none] timer\n", "nonsense");
        let (mut leds, names) = SysfsLeds::open(root.path(), &record(&root)).unwrap();
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
        assert_eq!(SysfsLeds::open(root.path(), &record(&root)).unwrap_err().status, PartStatus::Missing);
    }

    #[test]
    fn what_a_killed_agent_took_is_put_back_by_the_next_or_by_nobody_but_the_record() {
        let root = TempDir::new().unwrap();
        led(&root, "ACT", "none [mmc0] timer\n", "255\n");
        led(&root, "PWR", "none [default-on] timer\n", "255\n");
        let killed = || {
            let (mut leds, _) = SysfsLeds::open(root.path(), &record(&root)).unwrap();
            leds.set(Led::Act, Light::Lit).unwrap();
            leds.set(Led::Pwr, Light::Lit).unwrap();
            std::mem::forget(leds);
            assert_eq!((read(&root, "ACT/trigger"), read(&root, "PWR/trigger")), ("none".into(), "none".into()));
        };
        killed();
        // a second one dies too: it must not take `none` for what was there
        killed();
        let (mut next, _) = SysfsLeds::open(root.path(), &record(&root)).unwrap();
        next.set(Led::Act, Light::Dark).unwrap();
        drop(next);
        assert_eq!((read(&root, "ACT/trigger"), read(&root, "PWR/trigger")), ("mmc0".into(), "default-on".into()));
        assert!(!record(&root).exists());

        led_again(&root, "ACT", "none [mmc0] timer\n");
        killed();
        restore(root.path(), &record(&root)).unwrap();
        assert_eq!(read(&root, "ACT/trigger"), "mmc0");
        assert!(!record(&root).exists());
        restore(root.path(), &record(&root)).unwrap();

        fs::write(record(&root), "ACT mmc0 0\n../ACT mmc0 0\nhalf\nGONE mmc0 0\n").unwrap();
        let error = restore(root.path(), &record(&root)).unwrap_err();
        assert!(error.reason.contains("GONE") && !error.reason.contains(".."), "{error}");
    }

    fn led_again(root: &TempDir, name: &str, trigger: &str) {
        fs::write(root.path().join(name).join("trigger"), trigger).unwrap();
    }

    #[test]
    fn one_is_given_back_and_taken_again() {
        let root = TempDir::new().unwrap();
        led(&root, "PWR", "none [default-on] timer\n", "255\n");
        let (mut leds, _) = SysfsLeds::open(root.path(), &record(&root)).unwrap();
        leds.give_back(Led::Pwr).unwrap();
        assert!(read(&root, "PWR/trigger").contains("[default-on]"), "nothing was taken");
        leds.set(Led::Pwr, Light::Lit).unwrap();
        assert_eq!(fs::read_to_string(record(&root)).unwrap(), "PWR default-on 0\n");
        leds.give_back(Led::Pwr).unwrap();
        assert_eq!(read(&root, "PWR/trigger"), "default-on");
        assert!(!record(&root).exists());
    }

    #[test]
    fn a_halted_pi_shows_static_levels_and_blinks_by_the_kernel_until_then() {
        for (halted, level) in [(Halted::Cut, "0"), (Halted::FivePresent, "255")] {
            let root = TempDir::new().unwrap();
            led(&root, "ACT", "none [mmc0] timer\n", "255\n");
            led(&root, "PWR", "none [default-on] timer\n", "255\n");
            let (mut leds, _) = SysfsLeds::open(root.path(), &record(&root)).unwrap();
            leds.set(Led::Act, Light::Lit).unwrap();
            led_again(&root, "ACT", "[none] mmc0 timer\n");
            leds.leave(halted);
            drop(leds);
            assert_eq!((read(&root, "PWR/trigger"), read(&root, "PWR/brightness")), ("none".into(), level.into()));
            assert_eq!((read(&root, "ACT/trigger"), read(&root, "ACT/delay_on")), ("timer".into(), "125".into()));
            assert!(!record(&root).exists(), "nobody gives them back");
        }
        // a kernel without that trigger: what drove ACT before does again
        let root = TempDir::new().unwrap();
        led(&root, "ACT", "none [mmc0]\n", "255\n");
        let (mut leds, _) = SysfsLeds::open(root.path(), &record(&root)).unwrap();
        leds.set(Led::Act, Light::Lit).unwrap();
        leds.leave(Halted::Cut);
        drop(leds);
        assert_eq!(read(&root, "ACT/trigger"), "mmc0");
    }
}
