//! The armv7 programs on a virtual Pi: Debian's kernel and systemd under QEMU, GPIO lines and an I2C bus that behave like
//! the OnOff SHIM and the PoE HAT, a mosquitto on the host's loopback (`hardware/virtual-pi/README.md`).
//!
//! `./test` builds the programs and runs this; by hand see the message that a missing `BEEHIVE_VPI_PROGRAMS` gives. Needs
//! root, since the files of an image belong to root.

#![allow(unreachable_pub, clippy::unwrap_used, clippy::panic)] // a program of its own, of tests alone

mod agent;
mod card_life;
#[path = "../common/mod.rs"]
mod common;
mod crew;
mod daemon;
mod doors;
mod hook;
#[path = "../common/keys.rs"]
mod keys;
mod machine;
mod own_image;
mod own_user;
mod packages;
mod pins;
mod releases;
mod wire;
