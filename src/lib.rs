//! The program: everything that touches the world. What to do is decided in the cores (`beehive_board`,
//! `beehive_cluster`); here wires and pins become events, and actions are performed.
//!
//! Data flows one way: wire or pin → event → step → action → the one place that performs it.
