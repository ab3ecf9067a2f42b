//! Both ends of the conversation between coordinator and node, as state machines without I/O: the coordinator plans and
//! drives what concerns more than one Pi, the node runs each command once and decides what happens next on its Pi.
//!
//! No clock, no randomness, no sockets: time is a parameter ([`Instant`]), ids come from those who ask, and what is to be
//! done comes back as actions. The caller performs them in their order and feeds outcomes back as events. An action that
//! stores comes before the actions that rest on it; when it fails, the caller drops the rest and says so.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`time`] | the time that is passed in |
//! | [`kube`] | what is asked of Kubernetes, and what is seen there |
//! | [`node`] | the node's core |
//! | [`coordinator`] | the coordinator's core |
//! | [`plan`] | operations as steps in stages |
//! | [`blockers`] | what keeps rolling work from a node, by the operator's configuration |
#![no_std]

extern crate alloc;

pub mod blockers;
pub mod coordinator;
pub mod kube;
pub mod node;
pub mod plan;
pub mod time;

pub use time::Instant;

/// Whether verbs that remove what cannot be brought back are carried out when they come over the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destruction {
    /// They are.
    Allowed,
    /// They are refused: the wire is neither signed nor encrypted, and the engine is a real one.
    RefusedInsecureWire,
}
