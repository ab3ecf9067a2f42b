//! Where a Pi keeps what its cores store, and what a power cut leaves of it.

use beehive_cluster::coordinator::CoordinatorRecord;
use beehive_cluster::node::NodeRecord;

/// What came of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saved {
    /// The card has it, whatever happens now.
    Yes,
    /// It was refused, as by a full disk.
    No,
    /// The power went meanwhile. What is there, the loads show.
    PowerGone,
}

/// One card. A test may put a real store behind it.
pub trait Card {
    /// Stores what the node's core keeps.
    fn save_node(&mut self, record: &NodeRecord) -> Saved;
    /// What was stored of the node's core; that of a new card if nothing was.
    fn load_node(&mut self) -> NodeRecord;
    /// Stores what the coordinator keeps.
    fn save_coordinator(&mut self, record: &CoordinatorRecord) -> Saved;
    /// What was stored of the coordinator; that of a new card if nothing was.
    fn load_coordinator(&mut self) -> CoordinatorRecord;
    /// The power went: what had not reached the card is gone.
    fn power_goes(&mut self);
}

/// A card that keeps every write.
#[derive(Debug, Default)]
pub struct MemoryCard {
    node: NodeRecord,
    coordinator: CoordinatorRecord,
}

impl Card for MemoryCard {
    fn save_node(&mut self, record: &NodeRecord) -> Saved {
        self.node.clone_from(record);
        Saved::Yes
    }

    fn load_node(&mut self) -> NodeRecord {
        self.node.clone()
    }

    fn save_coordinator(&mut self, record: &CoordinatorRecord) -> Saved {
        self.coordinator.clone_from(record);
        Saved::Yes
    }

    fn load_coordinator(&mut self) -> CoordinatorRecord {
        self.coordinator.clone()
    }

    fn power_goes(&mut self) {}
}
