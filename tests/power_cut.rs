//! The power goes at each single change that the store makes on any card of a crew of three, and the disk has all of it,
//! torn files, or nothing of what was not synced: a rebuild, a rolling reboot, a join and a leave come to their right end all
//! the same. The cores, the codec and the store are the real ones; the crew is the simulator's.
//!
//! And whole seeds of the simulator, with all their faults, on real stores: they come out as on the cards in memory that it
//! plays in bulk, so what those do at a cut is what the store does.

#![allow(clippy::unwrap_used, clippy::panic)]

use beehive::store::{Fate, MemoryDisk, Store};
use beehive_cluster::coordinator::CoordinatorRecord;
use beehive_cluster::node::NodeRecord;
use beehive_sim::{Card, Cut, Cuts, Left, Options, Saved, Scene, Trace, run, run_on, scene};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Under an emulated processor everything takes twenty times as long.
const PART: usize = if cfg!(target_arch = "arm") { 10 } else { 1 };

/// How many whole seeds are played.
const SEEDS: u64 = 20;

/// A real store on a disk that forgets.
struct StoreCard {
    disk: Arc<MemoryDisk>,
    store: Store,
    /// What becomes of what was not synced when the power goes while nothing is written.
    fate: Fate,
}

impl StoreCard {
    fn new(disk: &Arc<MemoryDisk>, fate: Fate) -> Self {
        let store = Store::open_on(Path::new("card"), disk.clone()).unwrap();
        Self { disk: disk.clone(), store, fate }
    }

    fn save(&self, name: &str, record: &impl Serialize) -> Saved {
        match self.store.save(name, record) {
            Ok(()) => Saved::Yes,
            Err(_) if self.disk.is_dead() => Saved::PowerGone,
            Err(_) => Saved::No,
        }
    }
}

impl Card for StoreCard {
    fn save_node(&mut self, record: &NodeRecord) -> Saved {
        self.save("node", record)
    }

    fn load_node(&mut self) -> NodeRecord {
        self.store.load("node").unwrap().unwrap_or_default()
    }

    fn save_coordinator(&mut self, record: &CoordinatorRecord) -> Saved {
        self.save("coordinator", record)
    }

    fn load_coordinator(&mut self) -> CoordinatorRecord {
        self.store.load("coordinator").unwrap().unwrap_or_default()
    }

    fn cut_the_next_save(&mut self, cut: Cut) {
        let fate = match cut.left {
            Left::Everything => Fate::Clean,
            Left::Torn => Fate::Torn,
            Left::Nothing => Fate::Lost,
        };
        self.disk.cut_at(self.disk.changes() + cut.change, fate);
    }

    fn power_goes(&mut self) {
        self.disk.power_goes(self.fate);
    }
}

fn crew(fate: Fate) -> (Vec<Arc<MemoryDisk>>, Vec<Box<dyn Card>>) {
    let disks: Vec<_> = (0..3).map(|_| Arc::new(MemoryDisk::new())).collect();
    let cards = disks.iter().map(|disk| Box::new(StoreCard::new(disk, fate)) as Box<dyn Card>).collect();
    (disks, cards)
}

/// Each change of each card from the operation's begin to its end, as it goes without a fault.
fn changes_of(what: Scene) -> Vec<(u64, u64)> {
    let (disks, cards) = crew(Fate::Lost);
    let mut begun = Vec::new();
    scene(what, cards, || begun = disks.iter().map(|disk| disk.changes()).collect()).unwrap();
    begun.into_iter().zip(&disks).map(|(from, disk)| (from, disk.changes())).collect()
}

/// `stores` is how many documents the operation stores without a fault: on the master and on the two nodes. A card wears, so a
/// change of the cores that stores more is seen.
fn cut_at_every_write(what: Scene, stores: [u64; 3]) {
    let changes = changes_of(what);
    let mut cuts = 0;
    for (card, (from, to)) in changes.iter().copied().enumerate() {
        for at in (from..to).step_by(PART) {
            for fate in [Fate::Clean, Fate::Torn, Fate::Lost] {
                let (disks, cards) = crew(fate);
                if let Err(why) = scene(what, cards, || disks[card].cut_at(at, fate)) {
                    panic!("{what:?}, card {} cut at change {at}, {fate:?}: {why}", card + 1);
                }
                cuts += 1;
            }
        }
    }
    // four changes are one document: write, sync, rename, sync of the folder
    let writes: Vec<u64> = changes.iter().map(|(from, to)| (to - from) / 4).collect();
    println!(
        "{what:?}: {cuts} power cuts; without one it stores {} documents on the master, {:?} on the nodes",
        writes[0],
        &writes[1..]
    );
    assert!(cuts > 60, "{cuts} cuts");
    assert_eq!(writes, stores);
}

#[test]
fn a_rebuild_survives_a_power_cut_at_every_write() {
    cut_at_every_write(Scene::Rebuild, [22, 4, 4]);
}

#[test]
fn a_rolling_reboot_survives_a_power_cut_at_every_write() {
    cut_at_every_write(Scene::Reboot, [27, 5, 5]);
}

#[test]
fn a_join_survives_a_power_cut_at_every_write() {
    cut_at_every_write(Scene::Join, [4, 2, 0]);
}

#[test]
fn a_leave_survives_a_power_cut_at_every_write() {
    cut_at_every_write(Scene::Leave, [6, 4, 0]);
}

/// Every save of a whole crew goes through the real store, and the power goes in many of them, at each of the four changes,
/// with everything, torn files or nothing left: one torn file after the other, and each start reads what the last cut left.
#[test]
fn whole_seeds_come_out_on_the_real_store_as_they_do_in_bulk() {
    let options = Options { events: 2_000, trace: Trace::On, cuts: Cuts::Often, ..Options::default() };
    let mut cuts = BTreeMap::new();
    for seed in (9_000..9_000 + SEEDS).step_by(PART) {
        let bulk = run(seed, &options).unwrap_or_else(|violation| panic!("seed {seed}: {}", violation.why));
        let card = || Box::new(StoreCard::new(&Arc::new(MemoryDisk::new()), Fate::Lost)) as Box<dyn Card>;
        let stored = run_on(seed, &options, &card).unwrap_or_else(|why| panic!("seed {seed} on real stores: {why}"));
        assert_eq!(stored, bulk, "seed {seed}");
        for (place, times) in stored.reached.iter().filter(|(place, _)| place.ends_with("write")) {
            *cuts.entry(place).or_insert(0) += times;
        }
    }
    println!("{cuts:?}");
    assert_eq!(cuts.len(), 3, "{cuts:?}");
    assert!(cuts.values().all(|times| *times >= SEEDS / PART as u64), "at least one a seed of each kind: {cuts:?}");
}
