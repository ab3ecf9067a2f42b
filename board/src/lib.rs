//! Drivers and decisions of the board.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod cut;
pub mod gesture;
pub mod time;
