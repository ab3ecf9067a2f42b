//! The coordinator's audit log: who asked what, and what came of it. Append-only, each record signed and chained to the one
//! before, so that whoever holds a later head can tell whether the past was altered.
//!
//! # The file
//! One record a line, in JSON, in files `audit-000001.jsonl` … of at most [`SEGMENT_BYTES`]; the oldest go when there are
//! more than [`SEGMENTS`]. A line is `{"body":"…","sig":"…"}`, where `body` is a JSON string that holds the record's exact
//! bytes, as in the wire's envelope: no canonical JSON is needed. A record has its number, the hash of the line before
//! ([`Head`]), and what happened. The hash is SHA-256 over the line without its end.
//!
//! # What it proves, and what not
//! The head (number and hash of the last line) goes with the coordinator's signed state and with every answer, and consoles
//! keep the last one that they saw. So alteration, removal, reordering, truncation and rewriting *back to a head that
//! somebody keeps* are found by [`verify`]. Who holds the coordinator's key and its card can write another past after the
//! last head that anybody saw; nothing on that card can prevent it.
//!
//! # A power cut
//! A record is on the card before its outcome is told to anybody (fsync). A torn last line was never told: [`Log::open`]
//! moves it aside into a file of its own, names it, and records that.

mod command;
mod record;
mod seen;
mod verify;

pub use beehive_mqtt::coordinator::AuditHead as Head;
pub use command::{Found, head, show, verify_log};
pub use record::{Record, What};
pub use seen::{Alarm, Kept, SeenError};
pub use verify::{Fault, Report, read, verify};

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::keys::Ed25519;
use beehive_mqtt::Signer;
use beehive_mqtt::sign::{KeyId, PublicKey, RecordHash, Signature, Verdict, Verifier as _};
use record::Line;

/// The most bytes of one file. A record has some 400, so this is about 2,500 of them.
pub const SEGMENT_BYTES: u64 = 1024 * 1024;

/// The most files: 8 MiB of an SD card, about 20,000 records.
pub const SEGMENTS: usize = 8;

/// The folder of the log, below the state folder.
pub const FOLDER: &str = "audit";

/// The longest line that is read; a longer one is damaged.
pub const MAX_LINE_BYTES: usize = 8 * 1024;

/// Whether a key may have written a log, and whether a signature is its own.
pub trait Judge {
    /// Whether `signature` is `key`'s over `bytes`, and `key` was ever allowed to write this log.
    ///
    /// # Errors
    /// Why not, for people.
    fn judge(&self, key: KeyId, bytes: &[u8], signature: &Signature) -> Result<(), String>;
}

/// The coordinator's key, and the ones that it had before.
#[derive(Debug, Clone)]
pub struct Writers(pub Vec<PublicKey>);

impl Judge for Writers {
    fn judge(&self, key: KeyId, bytes: &[u8], signature: &Signature) -> Result<(), String> {
        let Some(public) = self.0.iter().find(|public| public.id() == key) else {
            return Err(format!("{key} is not the coordinator's key; name a key that it had before with --key"));
        };
        match Ed25519.verify(public, bytes, signature) {
            Verdict::Good => Ok(()),
            Verdict::Bad => Err("the signature does not hold".to_owned()),
        }
    }
}

/// Why the log cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file system refuses.
    #[error("the audit log: cannot {what} {path}: {source}; see whether the card is full or worn", path = .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The log is damaged where no power cut damages it.
    #[error(
        "the audit log {path} is damaged in line {line} ({reason}), which no power cut does: run `beehive audit verify`, keep \
         the folder as evidence, and move it away to begin a new log",
        path = .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
}

/// The log, open for writing. One process writes it.
pub struct Log {
    dir: PathBuf,
    signer: Arc<dyn Signer + Send + Sync>,
    head: Head,
    segment: u32,
    file: File,
    bytes: u64,
    limits: Limits,
    tail: Tail,
}

/// Whether the last file ends with a whole line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tail {
    Whole,
    /// A write failed half-way.
    Doubtful,
}

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of one file.
    pub segment_bytes: u64,
    /// The most files.
    pub segments: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { segment_bytes: SEGMENT_BYTES, segments: SEGMENTS }
    }
}

impl Log {
    /// Opens the log in `dir`, or begins one. A torn last line is moved aside, which becomes the first new record.
    ///
    /// # Errors
    /// If the folder cannot be used, or the log is damaged elsewhere than at its end.
    pub fn open(dir: &Path, signer: Arc<dyn Signer + Send + Sync>, limits: Limits) -> Result<Self, AuditError> {
        let at = |what| move |source| AuditError::Io { what, path: dir.to_owned(), source };
        match fs::DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(at("make the folder")(error)),
            Ok(()) | Err(_) => {}
        }
        let last = segments(dir).map_err(at("read the folder"))?.last().copied();
        let segment = last.unwrap_or(1);
        let path = segment_path(dir, segment);
        let (head, torn) = if last.is_some() { mend(&path)? } else { (None, None) };
        // an empty last file (the power went between its making and its first line) continues the one before
        let head = match head {
            Some(head) => head,
            None if segment > 1 && segment_path(dir, segment - 1).exists() => {
                mend(&segment_path(dir, segment - 1))?.0.unwrap_or(Head::NONE)
            }
            None => Head::NONE,
        };
        let (file, bytes) = append_to(&path).map_err(|source| AuditError::Io { what: "open", path, source })?;
        let mut log = Self { dir: dir.to_owned(), signer, head, segment, file, bytes, limits, tail: Tail::Whole };
        if let Some(torn) = torn {
            tracing::warn!(
                "the audit log ended in a torn line, as after a power cut; it is kept as {}",
                torn.display()
            );
            let name = torn.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            log.append(What::Mended { torn: name })?;
        }
        Ok(log)
    }

    /// The last record.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Writes a record and waits until the card has it.
    ///
    /// # Errors
    /// If it cannot be written. Then nothing was recorded; what was half written is removed before the next record, or moved
    /// aside by the next start.
    pub fn append(&mut self, what: What) -> Result<&Head, AuditError> {
        if self.tail == Tail::Doubtful {
            let path = segment_path(&self.dir, self.segment);
            let again = self.file.set_len(self.bytes).and_then(|()| self.file.sync_all());
            again.map_err(|source| AuditError::Io { what: "shorten", path, source })?;
            self.tail = Tail::Whole;
        }
        let record = Record { number: self.head.number + 1, before: self.head.hash, what };
        let line = Line::sign(&record, self.signer.as_ref());
        let bytes = u64::try_from(line.len()).unwrap_or(u64::MAX) + 1;
        if self.bytes > 0 && self.bytes.saturating_add(bytes) > self.limits.segment_bytes {
            self.rotate()?;
        }
        let path = segment_path(&self.dir, self.segment);
        let mut whole = line.clone().into_bytes();
        whole.push(b'\n');
        self.tail = Tail::Doubtful;
        self.file.write_all(&whole).and_then(|()| self.file.sync_data()).map_err(|source| AuditError::Io {
            what: "write",
            path,
            source,
        })?;
        self.tail = Tail::Whole;
        self.bytes = self.bytes.saturating_add(bytes);
        self.head = Head { number: record.number, hash: RecordHash::of(line.as_bytes()) };
        Ok(&self.head)
    }

    fn rotate(&mut self) -> Result<(), AuditError> {
        let at = |what, path: &Path| {
            let path = path.to_owned();
            move |source| AuditError::Io { what, path, source }
        };
        let next = self.segment + 1;
        let path = segment_path(&self.dir, next);
        let (file, bytes) = append_to(&path).map_err(at("begin", &path))?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(at("sync", &self.dir))?;
        (self.file, self.bytes, self.segment) = (file, bytes, next);
        let kept = segments(&self.dir).map_err(at("read the folder", &self.dir))?;
        for old in kept.iter().take(kept.len().saturating_sub(self.limits.segments)) {
            let path = segment_path(&self.dir, *old);
            fs::remove_file(&path).map_err(at("remove", &path))?;
        }
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

fn segment_path(dir: &Path, segment: u32) -> PathBuf {
    dir.join(format!("audit-{segment:06}.jsonl"))
}

/// The number of a file of the log, by its name.
fn segment_of(name: &str) -> Option<u32> {
    name.strip_prefix("audit-")?.strip_suffix(".jsonl")?.parse().ok()
}

/// Whether a file of the log is called so.
pub fn is_segment(name: &str) -> bool {
    segment_of(name).is_some()
}

/// The numbers of the files, ascending.
fn segments(dir: &Path) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        found.extend(segment_of(&entry?.file_name().to_string_lossy()));
    }
    found.sort_unstable();
    Ok(found)
}

/// The files of the log, each up to its last whole line, for a backup; its writer may go on. None if there is no log.
///
/// # Errors
/// If a file cannot be read.
pub fn copy(dir: &Path) -> io::Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    let segments = match segments(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
        segments => segments?,
    };
    for segment in segments {
        let path = segment_path(dir, segment);
        let mut bytes = match fs::read(&path) {
            // its writer has just made room
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            bytes => bytes?,
        };
        bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        // a damaged one stays damaged, and `verify` says so
        files.insert(name, String::from_utf8_lossy(&bytes).into_owned());
    }
    Ok(files)
}

/// The last whole line's head, after a torn one was moved aside into the file that is named.
fn mend(path: &Path) -> Result<(Option<Head>, Option<PathBuf>), AuditError> {
    let at = |what, path: &Path| {
        let path = path.to_owned();
        move |source| AuditError::Io { what, path, source }
    };
    let mut text = Vec::new();
    File::open(path).and_then(|mut file| file.read_to_end(&mut text)).map_err(at("read", path))?;
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let mut torn = None;
    if whole < text.len() {
        // a card may also have written the line's length and not its content, which is no line of ours either
        let aside = path.with_extension(format!("torn-at-{whole}"));
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&aside)
            .map_err(at("write", &aside))?;
        file.write_all(&text[whole..]).and_then(|()| file.sync_all()).map_err(at("write", &aside))?;
        let log = OpenOptions::new().write(true).open(path).map_err(at("open", path))?;
        let end = u64::try_from(whole).unwrap_or(u64::MAX);
        log.set_len(end).and_then(|()| log.sync_all()).map_err(at("shorten", path))?;
        torn = Some(aside);
    }
    let lines: Vec<&[u8]> = text[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    let Some(last) = lines.last() else { return Ok((None, torn)) };
    let damaged = |reason: String| AuditError::Damaged { path: path.to_owned(), line: lines.len(), reason };
    let last = std::str::from_utf8(last).map_err(|error| damaged(error.to_string()))?;
    let record = Line::read(last).map_err(damaged)?.record;
    Ok((Some(Head { number: record.number, hash: RecordHash::of(last.as_bytes()) }), torn))
}

#[cfg(test)]
mod tests;
