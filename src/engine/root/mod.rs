//! The root unit, `beehive engine serve`: the few steps that need root, done by a process of their own that the daemon asks over
//! a local socket.
//!
//! The daemon faces the network and is not to be root; an engine has to be. So the daemon holds a [`RootEngine`], which is an
//! [`Engine`](super::Engine) like any other, and the root unit holds the real one. What is said between them is an enum of
//! verbs with checked fields ([`wire`]), checked on the root unit's side: the worst that a daemon in strange hands can ask
//! for is one of these verbs with well-formed arguments.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`wire`] | what is said, what each field admits |
//! | [`server`] | who may ask, one step at a time, what becomes of it when the asker goes |
//! | [`client`] | the daemon's end |
//! | [`command`] | `beehive engine serve` |

pub mod client;
pub mod command;
pub mod server;
pub mod wire;

pub use client::RootEngine;

/// The socket's name in the configuration's `run_dir`; `beehive-engine.socket` says the same.
pub const SOCKET: &str = "engine.sock";
