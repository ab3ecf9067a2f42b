//! What a node keeps across restarts and power cuts.

use alloc::vec::Vec;
use beehive_mqtt::command::VerbName;
use beehive_mqtt::node::{CommandStatus, Lifecycle, PowerGoal, PowerPhase};
use beehive_mqtt::{BootId, ClusterId, CommandId, OperationId, Text};
use serde::{Deserialize, Serialize};

/// How many commands a node remembers. The coordinator has one command at a time under way to a node and asks again for
/// seconds, not for days, so this covers many operations; an entry is about 300 bytes on the card.
pub const RING: usize = 32;

/// A command that was seen, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The command.
    pub id: CommandId,
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
    /// What is remembered of a command.
    pub fn remembered(&self, id: &CommandId) -> Option<&Remembered> {
        self.ring.iter().find(|entry| entry.id == *id)
    }

    /// Remembers a command, or what has become of it. The oldest ended one makes room.
    pub fn remember(&mut self, entry: Remembered) {
        if let Some(held) = self.ring.iter_mut().find(|held| held.id == entry.id) {
            *held = entry;
            return;
        }
        if self.ring.len() >= RING {
            let oldest = self.ring.iter().position(|held| held.status.is_final()).unwrap_or(0);
            self.ring.remove(oldest);
        }
        self.ring.push(entry);
    }
}
