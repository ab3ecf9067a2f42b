//! State that survives a power cut at any instant: one small JSON document a name, in two generations.
//!
//! Facts it rests on: a file whose `write` returned may be empty or torn after a power cut until `fsync` returned, a
//! rename may be undone until the folder is synced (rename(2), fsync(2), ext4's `data=ordered`), and a cheap SD card may
//! lose a block that it had confirmed. So a save writes a new file, syncs it, renames it over the *older* of the two
//! generations `NAME.a` and `NAME.b`, and syncs the folder: at each instant at least one whole generation is there. A
//! load takes the newest one whose checksum is right, and says so in the log when that is not the newest.
//!
//! A file is one header line and the document; the checksum covers the document and the line up to itself:
//! ```text
//! beehive-store 1 generation 12 bytes 20 crc32 cbf43926
//! {"phase":"draining"}
//! ```
//!
//! All calls block, and a save takes as long as the card takes to sync: some milliseconds, at worst a second.

mod disk;
mod memory;

pub use disk::{Disk, Fault, FaultyDisk, RealDisk};
pub use memory::{Fate, MemoryDisk};

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The version of the header and of what it says about the document.
const FORMAT: u32 = 1;

/// The longest document. The largest one, the coordinator's operation with all steps of 64 nodes, is below 100 KiB.
const MAX_DOCUMENT_BYTES: usize = 1024 * 1024;

/// The longest header: four numbers and their names.
const MAX_HEADER_BYTES: usize = 128;

/// The longest name; a node's name fits.
const MAX_NAME_BYTES: usize = 64;

/// Why something could not be stored or loaded.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refuses.
    #[error("cannot {what} {path}: {source}; {hint}", path = .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// A file of this name was written, but no generation of it is whole.
    #[error(
        "{path} is damaged ({reason}) and so is, or was never written, its other generation; move both away to start \
         without this state, and check the SD card",
        path = .path.display()
    )]
    Damaged {
        /// The newer file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Written by a program with another format.
    #[error(
        "{path} is of store format {found}, and this program knows format {FORMAT}; install the version of beehive that \
         wrote it, or move the file away to start without this state",
        path = .path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// The format that it names.
        found: u32,
    },
    /// The file is whole, but is not the document that is wanted.
    #[error(
        "{path} is whole, but cannot be read: {reason}; another version of beehive may have written it: install that, or \
         move the file away to start without this state",
        path = .path.display()
    )]
    Content {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        reason: String,
    },
    /// The document cannot be written: a defect of the program.
    #[error("cannot store {name:?}: {reason}; this is a defect of beehive, please report it")]
    Document {
        /// The document's name.
        name: String,
        /// Why.
        reason: String,
    },
}

impl StoreError {
    /// A stable word for logs and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Io { .. } => "io",
            Self::Damaged { .. } => "damaged",
            Self::Format { .. } => "format",
            Self::Content { .. } => "content",
            Self::Document { .. } => "document",
        }
    }
}

/// A folder of documents. Clones share it; two programs must not.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    /// One save at a time: two of one name would take the same generation.
    saving: Mutex<()>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("dir", &self.0.dir).finish_non_exhaustive()
    }
}

/// One of the two files of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    A,
    B,
}

impl Slot {
    fn extension(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }
}

/// What a slot holds.
enum Found {
    Nothing,
    Whole { generation: u64, document: Vec<u8> },
    Damaged(String),
    Format(u32),
}

/// CRC-32 as in IEEE 802.3 and zlib, bit by bit: documents are small.
fn crc32(parts: &[&[u8]]) -> u32 {
    let mut crc = u32::MAX;
    for byte in parts.iter().copied().flatten() {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

fn compose(generation: u64, document: &[u8]) -> Vec<u8> {
    let header = format!("beehive-store {FORMAT} generation {generation} bytes {}", document.len());
    let checksum = format!(" crc32 {:08x}\n", crc32(&[header.as_bytes(), document]));
    [header.as_bytes(), checksum.as_bytes(), document].concat()
}

fn parse(bytes: &[u8]) -> Found {
    let damaged = |reason: &str| Found::Damaged(reason.to_owned());
    if bytes.is_empty() {
        return damaged("it is empty");
    }
    let Some(end) = bytes.iter().take(MAX_HEADER_BYTES).position(|byte| *byte == b'\n') else {
        return damaged("its first line does not end");
    };
    let Ok(line) = std::str::from_utf8(&bytes[..end]) else { return damaged("its first line is no text") };
    let mut words = line.split(' ');
    if words.next() != Some("beehive-store") {
        return damaged("it does not begin with \"beehive-store\"");
    }
    match words.next().and_then(|word| word.parse::<u32>().ok()) {
        None => return damaged("its first line names no format"),
        Some(FORMAT) => {}
        Some(found) => return Found::Format(found),
    }
    let mut field = |name: &str| (words.next() == Some(name)).then(|| words.next()).flatten();
    let generation = field("generation").and_then(|word| word.parse::<u64>().ok());
    let length = field("bytes").and_then(|word| word.parse::<usize>().ok());
    let checksum = field("crc32").and_then(|word| u32::from_str_radix(word, 16).ok());
    let (Some(generation), Some(length), Some(checksum), Some((header, _))) =
        (generation, length, checksum, line.rsplit_once(" crc32 "))
    else {
        return damaged("its first line is incomplete");
    };
    let document = &bytes[end + 1..];
    if document.len() != length {
        return Found::Damaged(format!("it holds {} of {length} bytes", document.len()));
    }
    if crc32(&[header.as_bytes(), document]) != checksum {
        return damaged("its checksum is wrong");
    }
    Found::Whole { generation, document: document.to_vec() }
}

impl Store {
    /// Opens the folder `dir`, and makes it if only it is missing. A missing parent is an error: a file system that is not
    /// mounted must not look like a first start.
    ///
    /// # Errors
    /// If the folder cannot be made or is none.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::open_on(dir, Arc::new(RealDisk))
    }

    /// As [`Store::open`], on a disk of the caller's choice.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_on(dir: &Path, disk: Arc<dyn Disk>) -> Result<Self, StoreError> {
        disk.create_dir(dir).map_err(|source| StoreError::Io {
            what: "make the folder",
            path: dir.to_owned(),
            source,
            hint: "make its parent and let the user that runs beehive write there, or set state_dir in the configuration",
        })?;
        Ok(Self(Arc::new(Inner { dir: dir.to_owned(), disk, saving: Mutex::new(()) })))
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// The document `name`; `None` if it was never saved. When the newest generation is damaged, the one before it.
    ///
    /// # Errors
    /// If no generation is whole, a format is unknown, the document is not a `T`, or the disk refuses.
    pub fn load<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StoreError> {
        let Some((_, path, document)) = self.newest(name)? else { return Ok(None) };
        match serde_json::from_slice(&document) {
            Ok(value) => Ok(Some(value)),
            Err(error) => Err(StoreError::Content { path, reason: error.to_string() }),
        }
    }

    /// Saves the document `name`. When it returns, the document survives a power cut; if it fails, the document before it
    /// is still there, or the new one.
    ///
    /// # Errors
    /// If the disk refuses, or the document is too large.
    pub fn save<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StoreError> {
        let _one_at_a_time = self.0.saving.lock().unwrap_or_else(PoisonError::into_inner);
        self.write(name, value)
    }

    /// Adds one to the number `name` and gives the new value; the first time, 1. The new value is stored before it is
    /// given, so that no power cut lets a number come twice.
    ///
    /// # Errors
    /// As [`Store::load`] and [`Store::save`].
    pub fn counter(&self, name: &str) -> Result<u32, StoreError> {
        let _one_at_a_time = self.0.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let next = self.load::<u32>(name)?.unwrap_or(0).saturating_add(1);
        self.write(name, &next)?;
        Ok(next)
    }

    fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StoreError> {
        let document = serde_json::to_vec(value)
            .map_err(|error| StoreError::Document { name: name.to_owned(), reason: error.to_string() })?;
        if document.len() > MAX_DOCUMENT_BYTES {
            let reason = format!("it has {} bytes, more than the {MAX_DOCUMENT_BYTES} allowed", document.len());
            return Err(StoreError::Document { name: name.to_owned(), reason });
        }
        let (generation, slot) = match self.newest(name)? {
            Some((Newest { generation, slot: Slot::A }, ..)) => (generation, Slot::B),
            Some((Newest { generation, slot: Slot::B }, ..)) => (generation, Slot::A),
            None => (0, Slot::A),
        };
        let fail = |what, path: &Path, source| StoreError::Io {
            what,
            path: path.to_owned(),
            source,
            hint: "let the user that runs beehive write in that folder, and check that the disk is neither full nor \
                   read-only",
        };
        let fresh = self.0.dir.join(format!("{name}.new"));
        let path = self.path(name, slot);
        let disk = &self.0.disk;
        disk.write(&fresh, &compose(generation.saturating_add(1), &document))
            .map_err(|source| fail("write", &fresh, source))?;
        disk.sync(&fresh).map_err(|source| fail("write", &fresh, source))?;
        disk.rename(&fresh, &path).map_err(|source| fail("put in place", &path, source))?;
        disk.sync_dir(&self.0.dir).map_err(|source| fail("sync the folder", &self.0.dir, source))
    }

    fn path(&self, name: &str, slot: Slot) -> PathBuf {
        self.0.dir.join(format!("{name}.{}", slot.extension()))
    }

    fn read(&self, name: &str, slot: Slot) -> Result<Found, StoreError> {
        let path = self.path(name, slot);
        // one byte more than allowed, so that a longer file is seen to be longer
        let limit = (MAX_HEADER_BYTES + MAX_DOCUMENT_BYTES + 1) as u64;
        match self.0.disk.read(&path, limit) {
            Ok(None) => Ok(Found::Nothing),
            Ok(Some(bytes)) => Ok(parse(&bytes)),
            Err(source) => Err(StoreError::Io {
                what: "read",
                path,
                source,
                hint: "let the user that runs beehive read it, and check the SD card if the system reports an I/O error",
            }),
        }
    }

    fn newest(&self, name: &str) -> Result<Option<(Newest, PathBuf, Vec<u8>)>, StoreError> {
        let safe = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(safe) {
            let reason = format!("a name has 1 to {MAX_NAME_BYTES} of a-z, 0-9 and '-'");
            return Err(StoreError::Document { name: name.to_owned(), reason });
        }
        let whole =
            |slot, generation, document| Ok(Some((Newest { generation, slot }, self.path(name, slot), document)));
        let fall_back = |slot, reason: &str, generation, document| {
            tracing::warn!(
                path = %self.path(name, slot).display(),
                reason,
                "the file is damaged; its other generation is used"
            );
            let other = match slot {
                Slot::A => Slot::B,
                Slot::B => Slot::A,
            };
            whole(other, generation, document)
        };
        let damaged = |slot, reason| Err(StoreError::Damaged { path: self.path(name, slot), reason });
        match (self.read(name, Slot::A)?, self.read(name, Slot::B)?) {
            // a downgrade must not take an older generation for the truth
            (Found::Format(found), _) => Err(StoreError::Format { path: self.path(name, Slot::A), found }),
            (_, Found::Format(found)) => Err(StoreError::Format { path: self.path(name, Slot::B), found }),
            (Found::Nothing, Found::Nothing) => Ok(None),
            (Found::Whole { generation: a, document }, Found::Whole { generation: b, .. }) if a >= b => {
                whole(Slot::A, a, document)
            }
            (Found::Whole { .. } | Found::Nothing, Found::Whole { generation, document }) => {
                whole(Slot::B, generation, document)
            }
            (Found::Whole { generation, document }, Found::Nothing) => whole(Slot::A, generation, document),
            (Found::Whole { generation, document }, Found::Damaged(reason)) => {
                fall_back(Slot::B, &reason, generation, document)
            }
            (Found::Damaged(reason), Found::Whole { generation, document }) => {
                fall_back(Slot::A, &reason, generation, document)
            }
            (Found::Damaged(reason), Found::Nothing | Found::Damaged(_)) => damaged(Slot::A, reason),
            (Found::Nothing, Found::Damaged(reason)) => damaged(Slot::B, reason),
        }
    }
}

/// Which file is the newest whole one.
struct Newest {
    generation: u64,
    slot: Slot,
}

#[cfg(test)]
mod tests;
