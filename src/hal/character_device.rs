//! The button's line through the kernel's GPIO character device, uAPI v2 (`gpiocdev`): the default way. The kernel knows
//! that the line is ours, stamps each edge, and sets the pull-up.
//!
//! **No kernel debounce.** While the kernel debounces a line it answers with the debounced value, and after we drove the
//! line low it would tell our own LED for a debounce period longer, which is more than the settling time of
//! [`beehive_board::shim`]. The recogniser debounces by the edges' own stamps.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use beehive_board::cut::BUTTON_LINE;
use beehive_board::gesture::Level;
use beehive_board::led::Light;
use gpiocdev::line::{Bias, EdgeDetection, EdgeKind, Value};
use gpiocdev::request::{Config, Request};
use tokio::sync::mpsc;

use super::chips::FoundChip;
use super::{Button, CONSUMER, Edge, HalError, MAX_EDGES, Order, Unusable};
use crate::clock::Clock;

/// How often the thread that waits for edges looks whether anybody still wants them.
const STILL_WANTED_EVERY: Duration = Duration::from_secs(1);

/// What we last made of the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drive {
    Input,
    Low,
    /// A change failed.
    Unknown,
}

struct Line {
    request: Request,
    drive: Mutex<Drive>,
}

struct CharacterDeviceButton {
    line: Arc<Line>,
}

/// Takes the line and begins to send its edges.
pub(super) fn open(chip: &FoundChip, edges: mpsc::Sender<Edge>) -> Result<Box<dyn Button>, Unusable> {
    // the chip after the configuration, which brings an empty one
    let request = Request::from_config(input())
        .on_chip(&chip.path)
        .with_consumer(CONSUMER)
        .with_kernel_event_buffer_size(u32::try_from(MAX_EDGES).unwrap_or(u32::MAX))
        .request()
        .map_err(|error| chip.not_taken(&error))?;
    let line = Arc::new(Line { request, drive: Mutex::new(Drive::Input) });
    let watched = Arc::clone(&line);
    thread::Builder::new()
        .name("button".to_owned())
        .spawn(move || match send_edges(&watched, &edges) {
            Ok(()) => {}
            Err(error) => tracing::error!(%error, "the button is not heard any more"),
        })
        .map_err(|error| chip.failed(&error))?;
    Ok(Box::new(CharacterDeviceButton { line }))
}

fn input() -> Config {
    let mut config = Config::default();
    config.with_line(BUTTON_LINE).as_input().with_bias(Bias::PullUp).with_edge_detection(EdgeDetection::BothEdges);
    config
}

fn driven_low() -> Config {
    let mut config = Config::default();
    config.with_line(BUTTON_LINE).as_output(Value::Inactive);
    config
}

/// Sends edges until nobody takes them. On a thread of its own: the standard library has no safe way to hand a
/// descriptor of somebody else's to the reactor, and a sleeping thread costs one wake-up a second.
fn send_edges(line: &Line, edges: &mpsc::Sender<Edge>) -> Result<(), HalError> {
    let mut last_seqno = 0;
    let mut order = Order::new();
    while !edges.is_closed() {
        if !line.request.wait_edge_event(STILL_WANTED_EVERY).map_err(|error| failed("watch", &error))? {
            continue;
        }
        let mut lost = false;
        while line.request.has_edge_event().map_err(|error| failed("watch", &error))? {
            let event = line.request.read_edge_event().map_err(|error| failed("read the edges of", &error))?;
            // numbers that begin anew are no gap
            lost |= event.line_seqno > last_seqno + 1;
            last_seqno = event.line_seqno;
            let level = match event.kind {
                EdgeKind::Falling => Level::Pressed,
                EdgeKind::Rising => Level::Released,
            };
            if edges.blocking_send(order.edge(event.timestamp_ns, level)).is_err() {
                return Ok(());
            }
        }
        if lost {
            // The kernel's buffer ran over. Where the line stands now is what counts.
            let drive = *line.drive();
            let level = match drive {
                Drive::Input => line.level()?,
                Drive::Low | Drive::Unknown => continue,
            };
            if edges.blocking_send(Edge { at: Clock.now(), level }).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> HalError {
    HalError { code: "line", reason: format!("could not {what} the button's line {BUTTON_LINE}: {error}") }
}

impl Line {
    fn drive(&self) -> MutexGuard<'_, Drive> {
        self.drive.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn level(&self) -> Result<Level, HalError> {
        match self.request.value(BUTTON_LINE).map_err(|error| failed("read", &error))? {
            Value::Inactive => Ok(Level::Pressed),
            Value::Active => Ok(Level::Released),
        }
    }

    fn become_(&self, wanted: Drive, config: &Config) -> Result<(), HalError> {
        let mut drive = self.drive();
        if *drive == wanted {
            return Ok(());
        }
        *drive = Drive::Unknown;
        self.request.reconfigure(config).map_err(|error| failed("change", &error))?;
        *drive = wanted;
        Ok(())
    }
}

impl Button for CharacterDeviceButton {
    fn level(&mut self) -> Result<Level, HalError> {
        self.line.level()
    }

    fn set_led(&mut self, light: Light) -> Result<(), HalError> {
        match light {
            Light::Lit => self.line.become_(Drive::Low, &driven_low()),
            Light::Dark => self.line.become_(Drive::Input, &input()),
        }
    }
}

impl Drop for CharacterDeviceButton {
    /// The thread that sends edges holds the line a moment longer; it must not stay lit for that.
    fn drop(&mut self) {
        if let Err(error) = self.set_led(Light::Dark) {
            tracing::warn!(%error, "the SHIM's LED could not be let go");
        }
    }
}
