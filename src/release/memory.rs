//! A card in memory that forgets as a real one does, with folders and links. As [`crate::store::MemoryDisk`], which knows
//! files in one folder alone.

use super::card::{Card, Mode};
use crate::store::{Disk, Fate};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

#[derive(Debug, Clone)]
enum Inode {
    Dir { seen: BTreeMap<String, u64>, durable: BTreeMap<String, u64> },
    File { seen: Vec<u8>, durable: Vec<u8> },
    Link(String),
}

impl Inode {
    fn dir() -> Self {
        Self::Dir { seen: BTreeMap::new(), durable: BTreeMap::new() }
    }
}

#[derive(Debug)]
struct State {
    inodes: BTreeMap<u64, Inode>,
    changes: u64,
    cut: Option<(u64, Fate)>,
    dead: bool,
}

/// The card. Its root is `/`.
#[derive(Debug)]
pub(super) struct MemoryCard(Mutex<State>);

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl State {
    fn new_inode(&mut self, inode: Inode) -> u64 {
        let number = self.inodes.keys().next_back().map_or(0, |last| last + 1);
        self.inodes.insert(number, inode);
        number
    }

    fn find(&self, path: &Path) -> io::Result<u64> {
        let mut at = 0;
        for name in path.iter().skip(1) {
            let Some(Inode::Dir { seen, .. }) = self.inodes.get(&at) else { return Err(not_found()) };
            at = *seen.get(name.to_str().unwrap()).ok_or_else(not_found)?;
            if let Some(Inode::Link(target)) = self.inodes.get(&at) {
                if path.file_name() != Some(name) {
                    let target =
                        path.ancestors().find(|place| place.file_name() == Some(name)).unwrap().with_file_name(target);
                    at = self.find(&target)?;
                }
            }
        }
        Ok(at)
    }

    fn entries(&mut self, path: &Path) -> io::Result<&mut BTreeMap<String, u64>> {
        let parent = self.find(path.parent().unwrap())?;
        match self.inodes.get_mut(&parent) {
            Some(Inode::Dir { seen, .. }) => Ok(seen),
            _ => Err(not_found()),
        }
    }

    fn add(&mut self, path: &Path, inode: Inode) -> io::Result<()> {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if self.entries(path)?.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let number = self.new_inode(inode);
        self.entries(path)?.insert(name, number);
        Ok(())
    }

    fn forget(&mut self, fate: Fate) {
        for inode in self.inodes.values_mut() {
            match (inode, fate) {
                (Inode::Dir { seen, durable }, Fate::Clean | Fate::Torn) => durable.clone_from(seen),
                (Inode::Dir { seen, durable }, Fate::Lost) => seen.clone_from(durable),
                (Inode::File { seen, durable }, Fate::Clean) => durable.clone_from(seen),
                (Inode::File { seen, durable }, Fate::Torn) => {
                    if seen != durable {
                        seen.truncate(seen.len() / 2);
                    }
                    durable.clone_from(seen);
                }
                (Inode::File { seen, durable }, Fate::Lost) => seen.clone_from(durable),
                (Inode::Link(_), _) => {}
            }
        }
    }
}

impl MemoryCard {
    pub(super) fn new() -> Self {
        let inodes = BTreeMap::from([(0, Inode::dir())]);
        Self(Mutex::new(State { inodes, changes: 0, cut: None, dead: false }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(super) fn changes(&self) -> u64 {
        self.state().changes
    }

    pub(super) fn cut_at(&self, change: u64, fate: Fate) {
        self.state().cut = Some((change, fate));
    }

    /// The power comes back; whether it had gone.
    pub(super) fn power_on(&self) -> bool {
        let mut state = self.state();
        state.cut = None;
        std::mem::take(&mut state.dead)
    }

    /// A file rots.
    pub(super) fn rot(&self, path: &str) {
        let mut state = self.state();
        let number = state.find(Path::new(path)).unwrap();
        if let Some(Inode::File { seen, durable }) = state.inodes.get_mut(&number) {
            *seen.last_mut().unwrap() ^= 1;
            durable.clone_from(seen);
        }
    }

    fn change(&self, change: impl FnOnce(&mut State) -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state();
        if state.dead {
            return Err(io::Error::other("no power"));
        }
        let number = state.changes;
        state.changes += 1;
        change(&mut state)?;
        if let Some((_, fate)) = state.cut.filter(|(at, _)| *at == number) {
            state.forget(fate);
            state.dead = true;
            return Err(io::Error::other("power cut"));
        }
        Ok(())
    }
}

impl Disk for MemoryCard {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.make_dir(path)
    }

    fn read(&self, path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let state = self.state();
        match state.find(path).ok().and_then(|number| state.inodes.get(&number)) {
            Some(Inode::File { seen, .. }) => Ok(Some(seen.iter().take(limit as usize).copied().collect())),
            _ => Ok(None),
        }
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.change(|state| {
            state.entries(path)?.remove(path.file_name().unwrap().to_str().unwrap());
            state.add(path, Inode::File { seen: bytes.to_vec(), durable: Vec::new() })
        })
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.change(|state| {
            let number = state.find(path)?;
            if let Some(Inode::File { seen, durable }) = state.inodes.get_mut(&number) {
                durable.clone_from(seen);
            }
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|state| {
            let number =
                state.entries(from)?.remove(from.file_name().unwrap().to_str().unwrap()).ok_or_else(not_found)?;
            state.entries(to)?.insert(to.file_name().unwrap().to_str().unwrap().to_owned(), number);
            Ok(())
        })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.change(|state| {
            let number = state.find(path)?;
            if let Some(Inode::Dir { seen, durable }) = state.inodes.get_mut(&number) {
                durable.clone_from(seen);
            }
            Ok(())
        })
    }
}

impl Card for MemoryCard {
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        if self.state().find(path).is_ok() {
            return Ok(());
        }
        self.change(|state| state.add(path, Inode::dir()))
    }

    fn put(&self, path: &Path, _mode: Mode, bytes: &[u8]) -> io::Result<()> {
        self.change(|state| state.add(path, Inode::File { seen: bytes.to_vec(), durable: Vec::new() }))
    }

    fn link(&self, target: &str, path: &Path) -> io::Result<()> {
        self.change(|state| state.add(path, Inode::Link(target.to_owned())))
    }

    fn read_link(&self, path: &Path) -> io::Result<Option<String>> {
        let state = self.state();
        match state.find(path).ok().and_then(|number| state.inodes.get(&number)) {
            Some(Inode::Link(target)) => Ok(Some(target.clone())),
            _ => Ok(None),
        }
    }

    fn names(&self, path: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        let number = state.find(path)?;
        match state.inodes.get(&number) {
            Some(Inode::Dir { seen, .. }) => Ok(seen.keys().cloned().collect()),
            _ => Err(not_found()),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if self.state().find(path).is_err() {
            return Ok(());
        }
        self.change(|state| {
            state.entries(path)?.remove(path.file_name().unwrap().to_str().unwrap());
            Ok(())
        })
    }

    fn room(&self, _path: &Path) -> Option<u64> {
        None
    }
}
