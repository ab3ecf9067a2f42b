//! The program: everything that touches the world. What to do is decided in the cores (`beehive_board`,
//! `beehive_cluster`); here wires and pins become events, and actions are performed.
//!
//! Data flows one way: wire or pin → event → step → action → the one place that performs it.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`agent`] | the task on each Pi |
//! | [`coordinator`] | the task on the master |
//! | [`console`], [`cli`] | the ops console, the command line |
//! | [`crew`] | keys, certificates, the broker's files and the description of a crew |
//! | [`bridge`] | the door for tools that sign nothing |
//! | [`daemon`], [`config`] | `beehive run` and its configuration |
//! | [`announce`], `discover` | what a Pi says on the local network, and who finds it |
//! | [`doctor`] | what keeps a Pi from being a good member |
//! | `demo` | a whole crew on one machine |
//! | `sim` | simulated crews with faults by seed |
//! | [`link`] | the way to the broker |
//! | `image` | from a stock image to a node's card |
//! | [`enrol`] | how a Pi gets keys of its own certified |
//! | [`release`] | beehive's own releases on a Pi, and the way back from one |
//! | [`store`] | what survives a power cut |
//! | [`hal`], [`host`] | board and machine, real and simulated |
//! | [`engine`], [`kube`] | k3s, kubeadm, simulated; the API server |
//! | [`clock`] | the one clock |

pub mod agent;
pub mod announce;
pub mod audit;
pub mod bridge;
pub mod cli;
pub mod clock;
pub mod config;
pub mod console;
pub mod coordinator;
pub mod crew;
pub mod daemon;
#[cfg(feature = "demo")]
pub mod demo;
#[cfg(feature = "workstation")]
pub mod discover;
pub mod doctor;
pub mod engine;
pub mod enrol;
pub mod hal;
pub mod host;
#[cfg(feature = "workstation")]
pub mod image;
pub mod keys;
pub mod kube;
pub mod link;
pub mod release;
#[cfg(feature = "sim")]
pub mod sim;
pub mod store;
