//! What the store does to the file system, behind a trait, so that a test can let the disk fail at its Nth change.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The changes that the store makes, and its one way to read.
pub trait Disk: Send + Sync {
    /// Makes a folder that only its owner enters; its parent has to be there. A folder that is there already is fine.
    ///
    /// # Errors
    /// Those of the file system.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// The first `limit` bytes of a file at most; `None` if there is no such file.
    ///
    /// # Errors
    /// Those of the file system.
    fn read(&self, path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>>;

    /// Writes a file that only its owner reads, over an older one of that name. The disk may not have it yet.
    ///
    /// # Errors
    /// Those of the file system.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;

    /// Waits until the disk has a file's bytes: before that a power cut may leave it torn or empty, whatever its name.
    ///
    /// # Errors
    /// Those of the file system.
    fn sync(&self, path: &Path) -> io::Result<()>;

    /// Gives a file a new name, in one step, over whatever has that name.
    ///
    /// # Errors
    /// Those of the file system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Waits until the disk has the folder's entries: before that a rename may be undone by a power cut.
    ///
    /// # Errors
    /// Those of the file system.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
}

/// The machine's file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            result => result,
        }
    }

    fn read(&self, path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        // removed first, so that the mode is ours whoever made the old one
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

/// How a disk fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This change is refused, the next ones work: a full disk that is emptied.
    Refused,
    /// The power goes before this change reaches the disk; nothing works any more.
    PowerCut,
    /// The power goes in the middle: of a written file the first half is there, a rename has happened unseen.
    PowerCutHalfDone,
}

/// The real file system, which fails at a chosen change. Changes are counted from 0: folders, writes, syncs, renames, syncs of folders.
#[derive(Debug, Default)]
pub struct FaultyDisk {
    real: RealDisk,
    state: Mutex<FaultyState>,
}

#[derive(Debug, Default)]
struct FaultyState {
    changes: u32,
    planned: Option<(u32, Fault)>,
    dead: Option<PathBuf>,
}

/// What becomes of one change.
enum Verdict {
    Works,
    Fails(io::Error),
    HalfDone(io::Error),
}

impl FaultyDisk {
    /// A disk that works.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets change number `change` fail, counted from the disk's start.
    pub fn fail_at(&self, change: u32, fault: Fault) {
        self.state().planned = Some((change, fault));
    }

    /// How many changes were asked for so far.
    pub fn changes(&self) -> u32 {
        self.state().changes
    }

    fn state(&self) -> std::sync::MutexGuard<'_, FaultyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn verdict(&self, path: &Path) -> Verdict {
        let mut state = self.state();
        let change = state.changes;
        state.changes += 1;
        if let Some(since) = &state.dead {
            return Verdict::Fails(io::Error::other(format!("no power since {}", since.display())));
        }
        match state.planned {
            Some((planned, fault)) if planned == change => match fault {
                Fault::Refused => Verdict::Fails(io::Error::from(io::ErrorKind::StorageFull)),
                Fault::PowerCut => {
                    state.dead = Some(path.to_owned());
                    Verdict::Fails(io::Error::other("power cut"))
                }
                Fault::PowerCutHalfDone => {
                    state.dead = Some(path.to_owned());
                    Verdict::HalfDone(io::Error::other("power cut half-way"))
                }
            },
            Some(_) | None => Verdict::Works,
        }
    }
}

impl Disk for FaultyDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        match self.verdict(path) {
            Verdict::Works => self.real.create_dir(path),
            Verdict::Fails(error) | Verdict::HalfDone(error) => Err(error),
        }
    }

    fn read(&self, path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
        match &self.state().dead {
            Some(since) => Err(io::Error::other(format!("no power since {}", since.display()))),
            None => self.real.read(path, limit),
        }
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        match self.verdict(path) {
            Verdict::Works => self.real.write(path, bytes),
            Verdict::Fails(error) => Err(error),
            Verdict::HalfDone(error) => {
                self.real.write(path, &bytes[..bytes.len() / 2])?;
                Err(error)
            }
        }
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        match self.verdict(path) {
            Verdict::Works => self.real.sync(path),
            Verdict::Fails(error) | Verdict::HalfDone(error) => Err(error),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        match self.verdict(to) {
            Verdict::Works => self.real.rename(from, to),
            Verdict::Fails(error) => Err(error),
            Verdict::HalfDone(error) => {
                self.real.rename(from, to)?;
                Err(error)
            }
        }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        match self.verdict(path) {
            Verdict::Works => self.real.sync_dir(path),
            Verdict::Fails(error) | Verdict::HalfDone(error) => Err(error),
        }
    }
}
