//! The crew's keys and certificates, and what its broker needs: made on an operator's machine, never on a Pi.

pub mod broker;
pub mod files;
pub mod tls;
