//! The Kubernetes client, and the coordinator with it, against a real API server with hollow nodes: the real kubelet's code on a
//! runtime that starts no containers (`tests/kubernetes/build`, `up`, `node`).
//!
//! And a crew whose engine is kubeadm, the real one, with a control plane of its own (`rebuild`, and the programs of its Pis in `pi`).
//!
//! `./test kubernetes` builds that once into a cache, starts it in a network namespace of its own, runs this there and stops it
//! again. Needs root. The tests share one control plane and run one after the other; each has nodes of its own.

#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a program of its own, of tests alone

mod client;
#[path = "../common/mod.rs"]
mod common;
mod coordinator;
mod crew;
#[path = "../common/crew.rs"]
mod daemons;
#[path = "../common/keys.rs"]
mod keys;
mod rebuild;
mod server;
