//! Whole crews in one thread: the real cores and the real codec talk through a simulated broker; engines, boards, power and
//! Kubernetes are simulated, and so is time. Faults and people come by a seed, and a seed is the whole of a run: it replays
//! exactly, on every machine.
//!
//! [`run`] plays one seed: a crew of 3 to 50 nodes is made, and then operation follows operation, each in a storm of faults of
//! its own. Invariants are looked at after every event. Then the faults stop, and within ten simulated minutes (and two more
//! for each Pi where they are restarted one after the other) the world must be what was asked for. What is asserted reads the
//! simulated world and the wire, never the cores' own state. A core that panics is a violation too.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `world` | time, what happens next, the coordinator and its console, people and disasters |
//! | `pi` | a Pi: power, agent, engine |
//! | `kube` | Kubernetes |
//! | `broker` | the broker and the network |
//! | [`card`] | what is left of what was stored |
//! | `sign` | who signs |
//! | `campaign` | operation after operation, and what must have come of each |
//! | [`batch`] | many seeds on every processor |
//! | [`reached`] | which states, faults and refusals a run has come to |
//! | [`shrink`] | which kinds of faults a violation needs |
// A simulator: whatever cannot be ends the run, and `run` turns that into a violation.
#![allow(clippy::unwrap_used, clippy::panic, clippy::result_large_err)] // errors are few here

pub mod batch;
mod broker;
mod campaign;
pub mod card;
mod direct;
mod kube;
#[cfg(test)]
mod model;
mod pi;
pub mod reached;
pub mod shrink;
mod sign;
mod world;

pub use campaign::{Cuts, Options, Report, Scene, Trace, Violation, run, run_on, scene, watch};
pub use card::{Card, Cut, Left, Saved};
pub use reached::Reached;
pub use sign::Signing;

#[cfg(test)]
mod tests;
