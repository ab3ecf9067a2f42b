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

/// What a card makes of the changes that it had not been told to sync, when the power goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// All of them are there.
    Everything,
    /// Names are, and of the bytes a part.
    Torn,
    /// None is.
    Nothing,
}

/// The changes to a card that one save is: write, sync, rename, sync of the folder.
const CHANGES: u64 = 4;

/// The number of the rename, which puts the new document in the place of an old one.
const RENAME: u64 = 2;

/// The power goes in the middle of a save.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// In which of its changes, the first being 0; the card was told of it.
    pub change: u64,
    /// What is left.
    pub left: Left,
}

impl Cut {
    /// How many there are.
    pub(crate) const COUNT: u64 = 3 * CHANGES;

    /// One of them, by a number below [`Cut::COUNT`].
    pub(crate) fn by_number(number: u64) -> Self {
        let left = match number % 3 {
            0 => Left::Everything,
            1 => Left::Torn,
            _ => Left::Nothing,
        };
        Self { change: number / 3, left }
    }

    /// Whether the new document is there afterwards; else the one before it is. That is what the store promises, and
    /// `tests/power_cut.rs` plays whole seeds on the real one to see that they come out the same, byte for byte: a file is synced
    /// before its rename, so a torn one has no name that anybody reads.
    fn keeps_the_new_one(self) -> bool {
        self.change > RENAME || (self.change == RENAME && self.left != Left::Nothing)
    }
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
    /// The power will go in the middle of the next save.
    fn cut_the_next_save(&mut self, cut: Cut);
    /// The power went: what had not reached the card is gone.
    fn power_goes(&mut self);
}

/// A card that keeps what a save that was not cut off has brought, and of the others what the store promises.
#[derive(Debug, Default)]
pub struct MemoryCard {
    node: NodeRecord,
    coordinator: CoordinatorRecord,
    cut: Option<Cut>,
}

impl MemoryCard {
    fn keep<T: Clone>(cut: Option<Cut>, place: &mut T, record: &T) -> Saved {
        if cut.is_none_or(Cut::keeps_the_new_one) {
            place.clone_from(record);
        }
        if cut.is_some() { Saved::PowerGone } else { Saved::Yes }
    }
}

impl Card for MemoryCard {
    fn save_node(&mut self, record: &NodeRecord) -> Saved {
        Self::keep(self.cut.take(), &mut self.node, record)
    }

    fn load_node(&mut self) -> NodeRecord {
        self.node.clone()
    }

    fn save_coordinator(&mut self, record: &CoordinatorRecord) -> Saved {
        Self::keep(self.cut.take(), &mut self.coordinator, record)
    }

    fn load_coordinator(&mut self) -> CoordinatorRecord {
        self.coordinator.clone()
    }

    fn cut_the_next_save(&mut self, cut: Cut) {
        self.cut = Some(cut);
    }

    fn power_goes(&mut self) {}
}
