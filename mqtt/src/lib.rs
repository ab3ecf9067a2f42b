//! The MQTT protocol of beehive, versions 1 and 2: topics, envelopes, payloads and their limits. Whoever speaks on the wire
//! (agent, coordinator, console, demo, tests) builds and reads every topic and every payload here and nowhere else.
//!
//! It rests on MQTT 3.1.1 (OASIS standard): ids, expiry and errors live in the payload, because that version has no
//! properties to carry them. Every string and list is bounded by its type, and the length of a message is checked before
//! it is parsed, so what a stranger publishes cannot make a receiver allocate without limit.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`id`] | names and ids as newtypes |
//! | [`text`] | bounded text for people |
//! | [`topic`] | the topic tree: who writes where, with which quality of service, retained or not |
//! | [`codec`] | envelope, sizes, encoding and decoding |
//! | [`sign`] | what is signed, and by whom |
//! | [`manifest`] | who is in the crew, with which keys |
//! | [`node`] | what a node says |
//! | [`command`] | what a node is told |
//! | [`coordinator`] | what the coordinator says |
//! | [`console`] | what an operator asks, and the answers |
//! | [`direct`] | what an operator tells a node while no coordinator is there |
//! | [`bridge`] | the door for tools that sign nothing |
//! | [`version`] | the versions that are spoken, and the layout of the topics |
#![no_std]

extern crate alloc;

pub mod bridge;
pub mod codec;
pub mod command;
pub mod console;
pub mod coordinator;
pub mod direct;
pub mod id;
pub mod manifest;
pub mod node;
pub mod sign;
pub mod text;
pub mod topic;
pub mod version;

pub use codec::{DecodeError, EncodeError, Payload, Verified, decode, encode, encode_in, verify, written_in};
pub use id::{BootId, ClusterId, CommandId, CrewName, MachineMark, NodeName, Nonce, OperationId, RequestId, UserName};
pub use manifest::Manifest;
pub use sign::{Digest, Distrust, KeyId, PublicKey, Signer, Verifier};
pub use text::Text;
pub use topic::{Audience, Topic, TopicError};
pub use version::{LAYOUT, ProtocolVersion, SpokenVersion};

/// The most nodes a crew may have, the master included. It bounds every list on the wire; a rack of Pis has fewer.
pub const MAX_NODES: usize = 64;

/// How often a node repeats its state and the coordinator its own, in milliseconds. Retained messages alone do not do:
/// some brokers hand a new subscriber only the first hundred of them.
pub const HEARTBEAT_MS: u64 = 10_000;
