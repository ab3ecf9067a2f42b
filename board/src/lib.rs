//! The board of a beehive Pi: OnOff SHIM, PoE HAT, button gestures, LED patterns and the power sequence.
//!
//! `no_std` and pure: no clock, file, socket or thread. Time is a parameter ([`time::Instant`]), what happens comes in as
//! an event, what is to be done goes out as a value. The drivers stand on embedded-hal 1.0, so the same code runs on a
//! Pi's pins, behind a simulated board and against a list of expected transactions.
//!
//! # What this crate allows you to
//! - read the button and light the LED of the Pimoroni OnOff SHIM, which share one line: [`shim`];
//! - tell short, double and long presses apart, and none where there was none: [`gesture`];
//! - show on an LED what matters most: [`led`];
//! - read a PoE or PoE+ HAT and hear of each over-current once: [`poe`]; drive its fan: [`fan`];
//! - know what feeds the Pi: [`feed`];
//! - take a Pi down in order, within deadlines, whatever hangs: [`power`];
//! - decide at the very end whether the power may be cut: [`cut`].
//!
//! # Sources
//! - Pimoroni OnOff SHIM: [pimoroni/clean-shutdown](https://github.com/pimoroni/clean-shutdown), its README, `setup.sh`,
//!   the netlist in `simulation/`, and its issues 36 and 37.
//! - PoE HATs: [raspberrypi/linux](https://github.com/raspberrypi/linux), `drivers/pwm/pwm-raspberrypi-poe.c`,
//!   `drivers/power/supply/rpi_poe_power.c`, and the overlays `rpi-poe`, `rpi-poe-plus`.
//! - The end of a shutdown: systemd's `systemd-shutdown(8)` and `shutdown.c`, and `proc_pid_mountinfo(5)`.
//!
//! # What is inferred
//! Nothing in here was measured on a board. Where code rests on a conclusion rather than on a source, the word *inferred*
//! stands beside it: that a held button defeats the cut and that the SHIM cuts nothing on a Pi fed by PoE ([`cut`]), what
//! a HAT without a register answers ([`feed`], [`poe`]), the current from which a HAT counts as the feed
//! ([`feed::POE_FEED_MIN_MA`]).

#![no_std]

#[cfg(test)]
extern crate std;

pub mod cut;
pub mod fan;
pub mod feed;
pub mod gesture;
pub mod led;
pub mod poe;
pub mod power;
pub mod shim;
pub mod time;
