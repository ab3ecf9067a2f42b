//! What a node keeps across restarts and power cuts.

use alloc::vec::Vec;
use beehive_mqtt::command::VerbName;
use beehive_mqtt::coordinator::Session;
use beehive_mqtt::node::{CommandStatus, Lifecycle, PowerGoal, PowerPhase};
use beehive_mqtt::{BootId, ClusterId, CommandId, Digest, KeyId, Nonce, OperationId, Text};
use serde::{Deserialize, Serialize};

/// How many commands a node remembers. The coordinator has one command at a time under way to a node and asks again for
/// seconds, not for days, so this covers many operations; an entry is about 400 bytes on the card. Only what an ended
/// session left makes room.
pub const RING: usize = 32;

/// With so many commands of one session in the ring it is time for a new one: then they may make room, and what is still
/// under way under the old one never runs.
pub const ROTATE_AT: usize = RING * 3 / 4;

/// A command that was seen, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The command.
    pub id: CommandId,
    /// Who sent it.
    pub key: KeyId,
    /// The session in which it arrived.
    pub nonce: Nonce,
    /// What it asked.
    pub digest: Digest,
    /// What it was.
    pub verb: VerbName,
    /// How far it is.
    pub status: CommandStatus,
    /// The outcome in a stable word.
    pub code: Text<32>,
    /// More, for people.
    pub reason: Text<160>,
}

/// The command that runs. Nothing secret is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// The command.
    pub id: CommandId,
    /// What it is.
    pub verb: VerbName,
    /// The boot in which it began.
    pub boot: BootId,
    /// The cluster that the node is in once it has succeeded.
    pub cluster: Option<ClusterId>,
    /// The version that its engine has once it has succeeded.
    #[serde(default)]
    pub version: Option<Text<32>>,
    /// The operation that it is a step of.
    #[serde(default)]
    pub operation: Option<OperationId>,
}

/// How far a shutdown was when it was last stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredShutdown {
    /// The phase.
    pub phase: PowerPhase,
    /// What it is for.
    pub goal: PowerGoal,
    /// Who or what asked.
    pub reason: Text<32>,
}

/// Everything that a node keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The boot in which this was last written.
    pub boot: Option<BootId>,
    /// The highest coordinator's term seen.
    pub term: u64,
    /// The coordinator's newest session that was heard of.
    #[serde(default)]
    pub heard: Option<Session>,
    /// Where the node is in its life with the cluster.
    pub lifecycle: Lifecycle,
    /// How many requests this node has made; part of their ids.
    pub requests: u32,
    /// The operation that takes this node out of the cluster because its own button asked for that.
    #[serde(default)]
    pub leaving: Option<OperationId>,
    /// The command that runs.
    pub running: Option<Started>,
    /// The commands that were seen, oldest first; at most [`RING`].
    pub ring: Vec<Remembered>,
    /// The shutdown that is under way.
    pub shutdown: Option<StoredShutdown>,
}

impl Default for NodeRecord {
    fn default() -> Self {
        Self {
            boot: None,
            term: 0,
            heard: None,
            lifecycle: Lifecycle::Blank,
            requests: 0,
            leaving: None,
            running: None,
            ring: Vec::new(),
            shutdown: None,
        }
    }
}

impl NodeRecord {
    /// What is remembered of a command of this sender.
    pub fn remembered(&self, key: KeyId, id: &CommandId) -> Option<&Remembered> {
        self.ring.iter().find(|entry| entry.key == key && entry.id == *id)
    }

    /// Remembers a command that is new. The oldest one that has ended and belongs to an earlier session than `present` makes
    /// room.
    ///
    /// # Errors
    /// If none does: then the command must not run, because it could not be known again.
    pub fn remember(&mut self, entry: Remembered, present: &Nonce) -> Result<(), RingFull> {
        if self.ring.len() >= RING {
            let oldest = self.ring.iter().position(|held| held.status.is_final() && held.nonce != *present);
            self.ring.remove(oldest.ok_or(RingFull)?);
        }
        self.ring.push(entry);
        Ok(())
    }

    /// Remembers what has become of a command.
    pub fn settle(&mut self, id: &CommandId, status: CommandStatus, code: &Text<32>, reason: &Text<160>) {
        // of two senders' the later one: only it can be under way
        if let Some(held) = self.ring.iter_mut().rev().find(|held| held.id == *id) {
            held.status = status;
            held.code = code.clone();
            held.reason = reason.clone();
        }
    }

    /// How many commands of a session are in the ring.
    pub fn of_session(&self, nonce: &Nonce) -> usize {
        self.ring.iter().filter(|entry| entry.nonce == *nonce).count()
    }
}

/// The ring holds nothing that may make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingFull;
