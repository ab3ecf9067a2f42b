//! The crew's keys and certificates, and what its broker needs: made on an operator's machine, never on a Pi. And the
//! backup of its coordinator, which is made on the master and put back there.

pub mod apply;
pub mod backup;
pub mod broker;
pub mod command;
#[cfg(feature = "workstation")]
pub mod file;
pub mod files;
pub mod folder;
pub mod keys;
pub mod tls;
