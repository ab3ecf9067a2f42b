//! The crew's keys and certificates, and what its broker needs: made on an operator's machine, never on a Pi.

pub mod apply;
pub mod broker;
pub mod command;
pub mod files;
pub mod folder;
pub mod keys;
pub mod tls;
