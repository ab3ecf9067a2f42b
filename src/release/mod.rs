//! beehive's own releases on a Pi: several versions side by side, one in use, and a way back from a new one that does not work.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`version`] | versions, and which may be beside which in one crew; pure |
//! | [`mark`] | the version that can be read from a program's file |
//! | [`package`] | a release: programs and a manifest that the crew's key signed |
//! | [`trial`] | when a new release stays and when the Pi goes back; pure |
//! | [`shelf`] | the releases on the card, and what survives a power cut |
//! | [`card`] | what the shelf does to the file system |
//! | [`watch`] | the daemon confirms the release that it runs from |
//! | [`command`] | `beehive release …` |

pub mod card;
pub mod command;
pub mod mark;
#[cfg(test)]
mod memory;
pub mod package;
pub mod shelf;
pub mod trial;
pub mod version;
pub mod watch;
