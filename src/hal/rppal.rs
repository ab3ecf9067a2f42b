//! The button's line through `rppal`: registers for its direction, the kernel's character device for its edges. For who
//! has programs on rppal already; [`super::character_device`] is the better way (rppal was retired in 2025).
//!
//! rppal writes the registers without asking whether the kernel gave the line to somebody, so that is asked here first.
//! Its input and output pins are different types; each change drops one and takes the other. An output pin is made with
//! its latch low already, so the line is never driven high.

use std::time::Duration;

use beehive_board::cut::BUTTON_LINE;
use beehive_board::gesture::Level;
use beehive_board::led::Light;
use beehive_mqtt::node::PartStatus;
use rppal::gpio::{Error, Event, Gpio, InputPin, OutputPin, Trigger};
use tokio::sync::mpsc;

use super::chips::FoundChip;
use super::{Button, Edge, HalError, Order, Unusable};

enum Pin {
    Input(InputPin),
    Low(OutputPin),
    /// A change failed; the next one begins from here.
    Lost,
}

struct RppalButton {
    gpio: Gpio,
    pin: Pin,
    edges: mpsc::Sender<Edge>,
}

/// Takes the line and begins to send its edges.
pub(super) fn open(chip: &FoundChip, edges: mpsc::Sender<Edge>) -> Result<Box<dyn Button>, Unusable> {
    let gpio = Gpio::new().map_err(|error| match error {
        Error::UnknownModel => Unusable {
            status: PartStatus::Missing,
            detail: "rppal does not know this board; use the backend character-device".to_owned(),
        },
        error => chip.failed(&error),
    })?;
    let mut button = RppalButton { gpio, pin: Pin::Lost, edges };
    button.listen().map_err(|error| chip.failed(&error))?;
    Ok(Box::new(button))
}

impl RppalButton {
    fn pin(&self) -> Result<rppal::gpio::Pin, HalError> {
        let line = u8::try_from(BUTTON_LINE).map_err(|error| failed("name", &error))?;
        self.gpio.get(line).map_err(|error| failed("take", &error))
    }

    fn listen(&mut self) -> Result<(), HalError> {
        // the old pin first: rppal hands a line out once
        self.pin = Pin::Lost;
        let mut pin = self.pin()?.into_input_pullup();
        // dropped, it stays an input with pull-up
        pin.set_reset_on_drop(false);
        let edges = self.edges.clone();
        let mut order = Order::new();
        pin.set_async_interrupt(Trigger::Both, None, move |event| send(&edges, &mut order, &event))
            .map_err(|error| failed("watch", &error))?;
        self.pin = Pin::Input(pin);
        Ok(())
    }

    fn light(&mut self) -> Result<(), HalError> {
        self.pin = Pin::Lost;
        self.pin = Pin::Low(self.pin()?.into_output_low());
        Ok(())
    }
}

/// On rppal's own thread. What nobody takes is dropped, as in the kernel's buffer.
fn send(edges: &mpsc::Sender<Edge>, order: &mut Order, event: &Event) {
    let level = match event.trigger {
        Trigger::FallingEdge => Level::Pressed,
        Trigger::RisingEdge => Level::Released,
        Trigger::Both | Trigger::Disabled => return,
    };
    let stamp_ns = u64::try_from(event.timestamp.min(Duration::from_nanos(u64::MAX)).as_nanos()).unwrap_or(u64::MAX);
    let _ = edges.try_send(order.edge(stamp_ns, level));
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> HalError {
    HalError { code: "line", reason: format!("rppal could not {what} the button's line {BUTTON_LINE}: {error}") }
}

impl Button for RppalButton {
    fn level(&mut self) -> Result<Level, HalError> {
        let low = match &self.pin {
            Pin::Input(pin) => pin.is_low(),
            Pin::Low(pin) => pin.is_set_low(),
            Pin::Lost => return Err(failed("read", &"it was lost at the last change")),
        };
        Ok(if low { Level::Pressed } else { Level::Released })
    }

    fn set_led(&mut self, light: Light) -> Result<(), HalError> {
        match (&self.pin, light) {
            (Pin::Low(_), Light::Lit) | (Pin::Input(_), Light::Dark) => Ok(()),
            (Pin::Input(_) | Pin::Lost, Light::Lit) => self.light(),
            (Pin::Low(_) | Pin::Lost, Light::Dark) => self.listen(),
        }
    }
}
