//! The button's line through `linux-embedded-hal`'s `CdevPin`: the kernel's GPIO character device, uAPI v1. For who wants
//! embedded-hal's traits all the way down; [`super::character_device`] is the better way.
//!
//! - uAPI v1 as this crate uses it sets no bias. The line needs a pull-up from elsewhere: `gpio=17=ip,pu` in `config.txt`.
//! - It tells no edges here. A thread samples the line every [`SAMPLE_EVERY_MS`]; a shorter tap may be missed, and an edge's
//!   time is that of the sample.
//! - Each change of direction gives the line back and takes it again; somebody else may take it in between, and the
//!   button is lost then.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use beehive_board::cut::BUTTON_LINE;
use beehive_board::gesture::Level;
use beehive_board::led::Light;
use embedded_hal::digital::{InputPin, PinState};
use linux_embedded_hal::CdevPin;
use linux_embedded_hal::gpio_cdev::{Chip, LineRequestFlags};
use tokio::sync::mpsc;

use super::chips::FoundChip;
use super::{Button, CONSUMER, Edge, HalError, Unusable};
use crate::clock::Clock;

/// How often the line is sampled: well below the shortest tap of a finger, which is about 50 ms.
pub const SAMPLE_EVERY_MS: u64 = 20;

enum Pin {
    Input(CdevPin),
    Low(CdevPin),
    /// A change failed.
    Lost,
}

struct Line {
    pin: Pin,
    /// The last level that was told or seen; none after the line was driven.
    last: Option<Level>,
}

struct PolledButton {
    chip_path: std::path::PathBuf,
    line: Arc<Mutex<Line>>,
}

/// Takes the line and begins to sample it.
pub(super) fn open(chip: &FoundChip, edges: mpsc::Sender<Edge>) -> Result<Box<dyn Button>, Unusable> {
    let pin = request(&chip.path).map_err(|error| chip.not_taken(&error))?;
    let mut line = Line { pin: Pin::Input(pin), last: None };
    line.last = Some(line.level().map_err(|error| chip.failed(&error))?);
    let line = Arc::new(Mutex::new(line));
    let sampled = Arc::downgrade(&line);
    thread::Builder::new()
        .name("button".to_owned())
        .spawn(move || sample(&sampled, &edges))
        .map_err(|error| chip.failed(&error))?;
    Ok(Box::new(PolledButton { chip_path: chip.path.clone(), line }))
}

fn request(chip_path: &std::path::Path) -> Result<CdevPin, HalError> {
    Chip::new(chip_path)
        .and_then(|mut chip| chip.get_line(BUTTON_LINE))
        .and_then(|line| line.request(LineRequestFlags::INPUT, 0, CONSUMER))
        .and_then(CdevPin::new)
        .map_err(|error| failed("take", &error))
}

/// Ends with the button, or when nobody takes the edges.
fn sample(line: &Weak<Mutex<Line>>, edges: &mpsc::Sender<Edge>) {
    loop {
        thread::sleep(Duration::from_millis(SAMPLE_EVERY_MS));
        let Some(line) = line.upgrade() else { return };
        let edge = lock(&line).changed();
        if let Some(level) = edge {
            if edges.blocking_send(Edge { at: Clock.now(), level }).is_err() {
                return;
            }
        } else if edges.is_closed() {
            return;
        }
    }
}

impl Line {
    fn level(&mut self) -> Result<Level, HalError> {
        match &mut self.pin {
            Pin::Input(pin) => match pin.is_low().map_err(|error| failed("read", &error))? {
                true => Ok(Level::Pressed),
                false => Ok(Level::Released),
            },
            Pin::Low(_) => Ok(Level::Pressed),
            Pin::Lost => Err(failed("read", &"it was lost at the last change")),
        }
    }

    /// The new level, if the input changed since the last sample. After we drove the line the first sample is no change.
    fn changed(&mut self) -> Option<Level> {
        match self.pin {
            Pin::Input(_) => {}
            Pin::Low(_) | Pin::Lost => return None,
        }
        let level = self.level().ok()?;
        let before = self.last.replace(level);
        (before.is_some() && before != Some(level)).then_some(level)
    }
}

fn lock(line: &Mutex<Line>) -> MutexGuard<'_, Line> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> HalError {
    HalError { code: "line", reason: format!("could not {what} the button's line {BUTTON_LINE}: {error}") }
}

impl Button for PolledButton {
    fn level(&mut self) -> Result<Level, HalError> {
        lock(&self.line).level()
    }

    fn set_led(&mut self, light: Light) -> Result<(), HalError> {
        let mut line = lock(&self.line);
        let changed = match (std::mem::replace(&mut line.pin, Pin::Lost), light) {
            (Pin::Input(pin), Light::Dark) => Pin::Input(pin),
            (Pin::Low(pin), Light::Lit) => Pin::Low(pin),
            (Pin::Input(pin), Light::Lit) => {
                line.last = None;
                Pin::Low(pin.into_output_pin(PinState::Low).map_err(|error| failed("drive", &error))?)
            }
            (Pin::Low(pin), Light::Dark) => {
                Pin::Input(pin.into_input_pin().map_err(|error| failed("let go of", &error))?)
            }
            (Pin::Lost, Light::Dark) => Pin::Input(request(&self.chip_path)?),
            // an input first, so that a press is seen before it is hidden
            (Pin::Lost, Light::Lit) => return Err(failed("drive", &"it was lost at the last change")),
        };
        line.pin = changed;
        Ok(())
    }
}
