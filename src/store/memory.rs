//! A disk in memory that forgets as a real one does: what was not synced is lost or torn when the power goes. For tests: it
//! shows whether the store asks for every sync that it rests on, which a folder on the machine's own disk never shows.

use super::Disk;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a power cut leaves of what had not been synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fate {
    /// Everything: the disk was quicker than the cut.
    Clean,
    /// The names, and the first half of each file's bytes: ext4 journals the rename before the data is there.
    Torn,
    /// Nothing.
    #[default]
    Lost,
}

#[derive(Debug, Clone, Default)]
struct Bytes {
    /// What a reader sees.
    cached: Vec<u8>,
    /// What the disk has.
    durable: Vec<u8>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<u64, Bytes>,
    next: u64,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    changes: u64,
    /// The change in which the power goes, and what is left then.
    cut: Option<(u64, Fate)>,
    powered: Powered,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Powered {
    #[default]
    Yes,
    No,
}

/// The disk. Changes are counted from 0: writes, syncs, renames, syncs of folders.
#[derive(Debug, Default)]
pub struct MemoryDisk {
    state: Mutex<State>,
}

impl MemoryDisk {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many changes were asked for.
    pub fn changes(&self) -> u64 {
        self.state().changes
    }

    /// Lets the power go in change number `change`: the disk was told of it, and `fate` says what it made of it and of all
    /// that had not been synced.
    pub fn cut_at(&self, change: u64, fate: Fate) {
        self.state().cut = Some((change, fate));
    }

    /// Whether the power went in a change.
    pub fn is_dead(&self) -> bool {
        self.state().powered == Powered::No
    }

    /// The power goes now, or has gone: what is left is what the disk has. It works again afterwards.
    pub fn power_goes(&self, fate: Fate) {
        let mut state = self.state();
        if state.powered == Powered::Yes {
            state.forget(fate);
        }
        state.powered = Powered::Yes;
    }

    fn change(&self, change: impl FnOnce(&mut State) -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state();
        if state.powered == Powered::No {
            return Err(io::Error::other("no power"));
        }
        let number = state.changes;
        state.changes += 1;
        change(&mut state)?;
        if let Some((_, fate)) = state.cut.filter(|(at, _)| *at == number) {
            state.forget(fate);
            state.powered = Powered::No;
            return Err(io::Error::other("power cut"));
        }
        Ok(())
    }
}

impl State {
    fn forget(&mut self, fate: Fate) {
        match fate {
            Fate::Clean => self.durable_names.clone_from(&self.names),
            Fate::Torn => {
                self.durable_names.clone_from(&self.names);
                for bytes in self.files.values_mut().filter(|bytes| bytes.durable != bytes.cached) {
                    bytes.cached.truncate(bytes.cached.len() / 2);
                }
            }
            Fate::Lost => {
                self.names.clone_from(&self.durable_names);
                for bytes in self.files.values_mut() {
                    bytes.cached.clone_from(&bytes.durable);
                }
            }
        }
        for bytes in self.files.values_mut() {
            bytes.durable.clone_from(&bytes.cached);
        }
        let named: Vec<u64> = self.names.values().copied().collect();
        self.files.retain(|number, _| named.contains(number));
    }

    fn number(&self, path: &Path) -> io::Result<u64> {
        self.names.get(path).copied().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

impl Disk for MemoryDisk {
    fn create_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn read(&self, path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let state = self.state();
        if state.powered == Powered::No {
            return Err(io::Error::other("no power"));
        }
        let Some(bytes) = state.names.get(path).and_then(|number| state.files.get(number)) else { return Ok(None) };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(Some(bytes.cached.iter().take(limit).copied().collect()))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.change(|state| {
            // the old file of that name is unlinked, not written over
            let number = state.next;
            state.next += 1;
            state.files.insert(number, Bytes { cached: bytes.to_vec(), durable: Vec::new() });
            state.names.insert(path.to_owned(), number);
            Ok(())
        })
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.change(|state| {
            let number = state.number(path)?;
            if let Some(bytes) = state.files.get_mut(&number) {
                bytes.durable.clone_from(&bytes.cached);
            }
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|state| {
            let number = state.number(from)?;
            state.names.remove(from);
            state.names.insert(to.to_owned(), number);
            Ok(())
        })
    }

    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        self.change(|state| {
            state.durable_names.clone_from(&state.names);
            Ok(())
        })
    }
}
