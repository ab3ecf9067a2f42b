//! The board below the agent: the SHIM's button and LED, the Pi's own LEDs, the PoE HAT.
//!
//! Whatever is missing, held by somebody else or broken becomes the status of a [`Part`]; the agent works without it.
//! **No backend can name the SHIM's power line**: the only line number that this module knows is the button's
//! ([`beehive_board::cut::BUTTON_LINE`]), and no function takes one.
//!
//! | module | way to the hardware |
//! | --- | --- |
//! | [`character_device`] | the button through the kernel's GPIO character device; the default |
//! | [`rppal`] | the button through rppal |
//! | [`linux_embedded_hal`] | the button through linux-embedded-hal |
//! | [`kernel_hat`] | the PoE HAT through the kernel's files; the default |
//! | [`i2c`] | the PoE HAT over an I2C bus that the configuration names |
//! | [`leds`] | the Pi's own LEDs |
//! | [`throttled`] | under-voltage and throttling through the kernel's files |
//! | [`give_back`] | what a dead agent left: triggers of LEDs, the fan |
//! | [`simulated`] | none; turned by knobs, for the demo and the tests |

pub mod character_device;
mod chips;
pub mod give_back;
pub mod i2c;
pub mod kernel_hat;
pub mod leds;
pub mod linux_embedded_hal;
pub mod poe_hat;
pub mod rppal;
pub mod simulated;
pub mod throttled;

use std::fmt;

use beehive_board::feed::HatReading;
use beehive_board::gesture::Level;
use beehive_board::led::Light;
use beehive_board::shim::ButtonLine;
use beehive_board::time::Instant;
use beehive_mqtt::Text;
use beehive_mqtt::node::{Part, PartStatus};
use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::config::{Config, HatBus, PinBackend, Switch};
use i2c::I2cHat;
use kernel_hat::KernelHat;
use leds::SysfsLeds;
use poe_hat::HatSensors;
use simulated::SimulatedBoard;

/// Edges that the agent has not taken yet. A person makes a few a second; bounce makes some more within milliseconds.
pub const MAX_EDGES: usize = 64;

/// A change of the button's line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// When, on the clock of [`crate::clock::Clock`]; from the kernel's time stamp where the backend has one.
    pub at: Instant,
    /// What the line changed to.
    pub level: Level,
}

/// Makes edges of the kernel's stamps, in their order: taking a stamp over to our clock rounds, and two close edges must not
/// change places by that. A recogniser would take it for a clock that went back.
#[derive(Debug)]
struct Order {
    last: Instant,
}

impl Order {
    fn new() -> Self {
        Self { last: Instant::from_ms(0) }
    }

    fn edge(&mut self, stamp_ns: u64, level: Level) -> Edge {
        let at = Clock.from_monotonic_ns(stamp_ns).max(self.last);
        self.last = at;
        Edge { at, level }
    }
}

/// Why a part of the board does not do as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct HalError {
    /// A stable word: `line`, `led`, `bus`.
    pub code: &'static str,
    /// A sentence: what happened, where, why.
    pub reason: String,
}

/// The line that is the SHIM's button and its LED.
///
/// It is only ever an input with pull-up, or driven low. While it is driven no edges come, and a level that is read is
/// our own LED: read it only after [`set_led`](Self::set_led) with `Dark` and [`beehive_board::shim::SETTLE_MS`]. The
/// driver [`beehive_board::shim::Shim`] sees to that; a `Box<dyn Button>` is the line that it asks for.
pub trait Button: Send {
    /// The level of the line.
    ///
    /// # Errors
    /// If it cannot be read.
    fn level(&mut self) -> Result<Level, HalError>;

    /// `Lit` drives the line low, `Dark` gives it back as an input with pull-up.
    ///
    /// # Errors
    /// If the line cannot be changed.
    fn set_led(&mut self, light: Light) -> Result<(), HalError>;
}

impl ButtonLine for Box<dyn Button> {
    type Error = HalError;

    fn level(&mut self) -> Result<Level, HalError> {
        (**self).level()
    }

    fn light(&mut self) -> Result<(), HalError> {
        self.set_led(Light::Lit)
    }

    fn release(&mut self) -> Result<(), HalError> {
        self.set_led(Light::Dark)
    }
}

/// One of the Pi's own LEDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Led {
    /// The green one.
    Act,
    /// The red one.
    Pwr,
}

impl Led {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Act, Self::Pwr];

    /// Its name on the board.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Act => "ACT",
            Self::Pwr => "PWR",
        }
    }
}

impl fmt::Display for Led {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The Pi's own LEDs. Dropped, they are given back to what drove them before.
pub trait Leds: Send {
    /// Switches one of them. One that this Pi does not have is left out silently: the other shows the same.
    ///
    /// # Errors
    /// If the LED is there and cannot be switched.
    fn set(&mut self, led: Led, light: Light) -> Result<(), HalError>;

    /// Gives one of them back to what drove it before, until it is set again.
    ///
    /// # Errors
    /// If the LED is there and cannot be given back.
    fn give_back(&mut self, led: Led) -> Result<(), HalError>;

    /// The last call before a power-off: the LEDs are left as the halted Pi shows them, and not given back. No process
    /// is alive by then, so they are left to the kernel: what a level cannot say, nobody says.
    fn leave(&mut self, halted: Halted);
}

/// How a Pi will be when it is halted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Halted {
    /// Its 5 V will be cut.
    Cut,
    /// Its 5 V stay: nothing here can cut them, or nobody knows.
    FivePresent,
}

/// Whose the fan is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FanOwner {
    /// There is none that anybody knows of.
    Nobody,
    /// The kernel drives it.
    Kernel,
    /// Nobody drives it if the agent does not.
    Agent,
}

/// Whether there was an over-current since the last poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverCurrent {
    /// No, or the same one still.
    None,
    /// A new one.
    New,
}

/// What the sensors say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SensorReport {
    /// The PoE HAT.
    pub hat: HatReading,
    /// Its over-current flag.
    pub over_current: OverCurrent,
    /// The fan's duty, 0 to 255, where it can be read.
    pub fan_duty: Option<u8>,
    /// How the HAT is.
    pub part: Part,
}

/// The PoE HAT's sensors.
pub trait Sensors: Send {
    /// Reads them. It may block for some milliseconds on the bus. `now` is the time of the reading.
    fn poll(&mut self, now: Instant) -> SensorReport;

    /// Whose the HAT's fan is, as of the last poll.
    fn fan_owner(&mut self) -> FanOwner;

    /// Sets the fan's duty, 0 to 255. Only where [`fan_owner`](Self::fan_owner) says that it is the agent's. Whoever has
    /// set it once leaves it at full speed when it is dropped.
    ///
    /// # Errors
    /// If the HAT does not take it.
    fn set_fan(&mut self, duty: u8) -> Result<(), HalError>;
}

/// What sensors that cannot set a fan say.
fn no_fan() -> HalError {
    HalError { code: "fan", reason: "the fan is not the agent's to set".to_owned() }
}

/// What was found of the board at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoardInfo {
    /// The way to the pins that is in use.
    pub pins: Text<32>,
    /// The SHIM's button.
    pub button: Part,
    /// The PoE HAT; each [`SensorReport`] renews it.
    pub poe_hat: Part,
    /// The Pi's own LEDs.
    pub leds: Part,
}

/// The board.
pub struct Board {
    /// The SHIM's line, where there is one.
    pub button: Option<Box<dyn Button>>,
    /// Its edges. Without a button the channel is closed.
    pub edges: mpsc::Receiver<Edge>,
    /// The Pi's own LEDs, where there are any.
    pub leds: Option<Box<dyn Leds>>,
    /// The PoE HAT's sensors; there always are some, if only to say that there is no HAT.
    pub sensors: Box<dyn Sensors>,
    /// What was found.
    pub info: BoardInfo,
}

/// The name under which the kernel shows our line to others.
const CONSUMER: &str = "beehive";

/// Why a part is not used.
#[derive(Debug)]
struct Unusable {
    status: PartStatus,
    detail: String,
}

impl From<Unusable> for Part {
    fn from(unusable: Unusable) -> Self {
        part(unusable.status, unusable.detail)
    }
}

/// Opens the board as `config` wants it. What cannot be had is said in [`Board::info`].
pub fn open(config: &Config) -> Board {
    let (sender, mut edges) = mpsc::channel(MAX_EDGES);
    let (button, button_part) = match config.pins.button {
        Switch::Off => (None, part(PartStatus::Off, "switched off in the configuration")),
        Switch::Auto => match config.pins.backend {
            PinBackend::None => (None, part(PartStatus::Off, "pins.backend is none")),
            PinBackend::Simulated => {
                let (board, _) = SimulatedBoard::build();
                edges = board.edges;
                (board.button, board.info.button)
            }
            real @ (PinBackend::CharacterDevice | PinBackend::Rppal | PinBackend::LinuxEmbeddedHal) => {
                match open_button(real, &config.pins.chips, sender) {
                    Ok((button, detail)) => (Some(button), part(PartStatus::Works, detail)),
                    Err(unusable) => (None, unusable.into()),
                }
            }
        },
    };
    let (leds, leds_part): (Option<Box<dyn Leds>>, Part) = match config.leds {
        Switch::Off => (None, part(PartStatus::Off, "switched off in the configuration")),
        Switch::Auto => match SysfsLeds::open(std::path::Path::new(leds::FOLDER), &config.run_dir.join(leds::RECORD)) {
            Ok((leds, names)) => (Some(Box::new(leds)), part(PartStatus::Works, names)),
            Err(unusable) => (None, unusable.into()),
        },
    };
    let sensors = open_sensors(&config.poe_hat.bus);
    let poe_hat = part(PartStatus::Missing, "not looked for yet");
    let pins = Text::cut(config.pins.backend.as_str());
    Board { button, edges, leds, sensors, info: BoardInfo { pins, button: button_part, poe_hat, leds: leds_part } }
}

fn open_button(
    backend: PinBackend,
    labels: &[String],
    edges: mpsc::Sender<Edge>,
) -> Result<(Box<dyn Button>, String), Unusable> {
    let chip = chips::find(labels)?.if_free()?;
    let button = match backend {
        PinBackend::CharacterDevice => character_device::open(&chip, edges)?,
        PinBackend::Rppal => rppal::open(&chip, edges)?,
        PinBackend::LinuxEmbeddedHal => linux_embedded_hal::open(&chip, edges)?,
        PinBackend::Simulated | PinBackend::None => {
            return Err(Unusable { status: PartStatus::Off, detail: "no way to the pins".to_owned() });
        }
    };
    Ok((button, chip.line_name()))
}

fn open_sensors(bus: &HatBus) -> Box<dyn Sensors> {
    match bus {
        HatBus::Auto => Box::new(KernelHat::new()),
        HatBus::Off => Box::new(NoSensors(part(PartStatus::Off, "switched off in the configuration"))),
        HatBus::Path(path) => {
            if is_driven_by_the_kernel(path) {
                let why = "i2c-0 is not opened beside the kernel's own driver of a HAT; set poe_hat.bus to \"auto\"";
                return Box::new(NoSensors(part(PartStatus::Busy, why)));
            }
            Box::new(HatSensors::beside(I2cHat::new(path), KernelHat::new()))
        }
    }
}

/// Whether the bus is the HATs' own and the kernel drives a HAT.
fn is_driven_by_the_kernel(path: &std::path::Path) -> bool {
    path.file_name().is_some_and(|name| name == "i2c-0") && KernelHat::new().is_driven()
}

/// A HAT that nobody looks for may be there all the same: it tells no current.
struct NoSensors(Part);

impl Sensors for NoSensors {
    fn poll(&mut self, _now: Instant) -> SensorReport {
        SensorReport {
            hat: HatReading::NoCurrent,
            over_current: OverCurrent::None,
            fan_duty: None,
            part: self.0.clone(),
        }
    }

    fn fan_owner(&mut self) -> FanOwner {
        FanOwner::Nobody
    }

    fn set_fan(&mut self, _duty: u8) -> Result<(), HalError> {
        Err(no_fan())
    }
}

/// A part with `status` and why.
fn part(status: PartStatus, detail: impl fmt::Display) -> Part {
    Part { status, detail: Text::format(format_args!("{detail}")) }
}
