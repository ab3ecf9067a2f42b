//! Enrolment: how a Pi becomes a member of its crew with keys that it made itself.
//!
//! The card of a node carries a single-use secret: the seed of an Ed25519 key, the *card's key*. On its first boot the Pi makes
//! keys of its own and hands their public halves out, signed with the card's key; the crew's owner certifies them once and
//! answers, signed with the crew's key. No private key and nothing else that is secret travels, so nothing is encrypted.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`wire`] | what the two say to each other |
//! | [`card`] | the file that the card brings |
//! | [`pi`] | the Pi's part: `beehive enrol` |
//! | [`machine`] | which Pi this card is in: `beehive enrol --look` |
//! | [`command`] | the command |
//! | `owner` | the owner's part: `beehive crew enrol` |

pub mod card;
pub mod command;
pub mod machine;
#[cfg(feature = "workstation")]
pub mod owner;
pub mod pi;
#[cfg(test)]
#[cfg(feature = "workstation")]
mod tests;
pub mod wire;

/// Where a Pi that waits for its enrolment listens (TCP).
pub const PORT: u16 = 7884;

/// What the card brings, until it is used: crew, node, the card's key; root's alone (mode 0600).
pub const CARD_FILE: &str = "/etc/beehive/enrolment.toml";

/// What of it everybody may know, while this Pi waits: `key` (the id of the card's public key), `serial`, `model`, `port`. TOML.
/// It is not there on a member.
pub const WAITING_FILE: &str = "/run/beehive/enrolment.toml";
