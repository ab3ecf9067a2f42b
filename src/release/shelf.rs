//! The releases on this Pi.
//!
//! ```text
//! /var/lib/beehive-releases/0.1.0/{beehive,beehive-cut,manifest}
//!                           0.2.0/{beehive,beehive-cut,manifest}
//!                           current  -> 0.2.0      what systemd starts
//!                           previous -> 0.1.0      what judges it, and where the way back leads
//!                           trial    -> 0.2.0      only while it is on trial
//!                           state/                 the trial's record
//! ```
//! A release appears whole: it is written beside (`.new-…`), synced, and renamed. A link changes in one step: a new one is
//! made beside it and renamed over it, and the folder is synced. So a power cut at any instant leaves `current` at a whole
//! release, the old one or the new one.
//!
//! `previous` never leads to a release that was not confirmed: after the way back both links are the same.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use beehive_mqtt::sign::PublicKey;
use serde::Serialize;

use super::card::{Card, Mode};
use super::package::{self, FileEntry, FileName, MANIFEST, Manifest, Package, PackageError};
use super::trial::{self, Ended, How, Moment, Now, Record, Trial, Verdict};
use super::version::ReleaseVersion;
use crate::store::{RealDisk, Store, StoreError};

/// Where the releases are. Not in the daemon's state folder: what root runs must not lie where the daemon's own user
/// writes, and a master's new card needs an empty state folder for `crew restore`.
pub const ROOT: &str = "/var/lib/beehive-releases";

/// So many releases are kept: the one in use, the one before, and the one that comes next. Each takes some 6 MB of the card.
pub const MAX_RELEASES: usize = 3;

/// What has to stay free on the card after an installation, in bytes: the daemon must be able to store its records.
const ROOM_LEFT_BYTES: u64 = 16 * 1024 * 1024;

/// The longest file that is read back, in bytes.
const MAX_READ_BYTES: u64 = 64 * 1024 * 1024;

/// So long another program that changes the shelf is waited for: it writes three programs to a slow card. No start of the
/// daemon may hang on it for ever.
const LOCK_WITHIN: Duration = Duration::from_secs(30);
/// The wait between two looks at the lock.
const LOCK_AGAIN: Duration = Duration::from_millis(20);

const CURRENT: &str = "current";
const PREVIOUS: &str = "previous";
/// Looked at by `beehive-release.service` (`ConditionPathIsSymbolicLink=`), so that nothing runs while nothing is on trial.
pub(super) const TRIAL: &str = "trial";
const STATE: &str = "state";
const RECORD: &str = "trial";

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum ShelfError {
    /// The file system refuses.
    #[error("cannot {what} {path}: {source}; run it as root, and check that the card is neither full nor read-only", path = .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The trial's record.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The release is not right.
    #[error("{0}")]
    Package(#[from] PackageError),
    /// A rule forbids it.
    #[error("refused ({rule}): {why}")]
    Refused {
        /// The rule's name.
        rule: &'static str,
        /// Why, and what to do.
        why: String,
    },
}

fn refused<T>(rule: &'static str, why: String) -> Result<T, ShelfError> {
    Err(ShelfError::Refused { rule, why })
}

/// What an installation did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Installed {
    /// It is there now.
    New,
    /// It was there, whole.
    Unchanged,
    /// It was there, and some file of it was damaged and is whole again.
    Repaired,
}

/// What `use` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Used {
    /// It is in use already.
    Unchanged,
    /// It is the first release on this Pi: there is nothing to go back to, and so no trial.
    First,
    /// It is on trial; the daemon has to be restarted.
    OnTrial {
        /// Where the way back leads.
        back: ReleaseVersion,
    },
}

/// What came of a look at the trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judged {
    /// Nothing changed.
    Nothing,
    /// The trial is over, and what is in use stays.
    Over(Ended),
    /// This Pi went back; the daemon has to be restarted unless it is only starting.
    WentBack {
        /// To which version.
        to: ReleaseVersion,
        /// Why.
        reason: String,
    },
}

/// One release, in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Its version.
    pub version: String,
    /// What it is to this Pi.
    pub part: Part,
    /// What is wrong with it; nothing if it is whole and signed.
    pub fault: Option<String>,
    /// The versions of the protocol, where its manifest is believed.
    pub protocol: Option<super::version::Protocols>,
}

/// What a release is to this Pi.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// In use.
    Current,
    /// Where the way back leads.
    Previous,
    /// Neither.
    Kept,
}

/// The shelf.
pub struct Shelf {
    root: PathBuf,
    card: Arc<dyn Card>,
    store: Store,
    /// Held for as long as this value lives: two that change links or the record at once would undo each other.
    _lock: Option<File>,
}

impl Shelf {
    /// Opens the shelf at `root`, for one program at a time: another one is waited for. It is made if only it is missing.
    ///
    /// # Errors
    /// If it cannot be made or locked.
    pub fn open(root: &Path) -> Result<Self, ShelfError> {
        let fail = |what, source| ShelfError::Io { what, path: root.to_owned(), source };
        RealDisk.make_dir(root).map_err(|source| fail("make the folder", source))?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(root.join(".lock"));
        let lock = lock.map_err(|source| fail("lock", source))?;
        let until = Instant::now() + LOCK_WITHIN;
        while let Err(errno) = rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            if errno != rustix::io::Errno::WOULDBLOCK || Instant::now() >= until {
                return Err(fail("lock", errno.into()));
            }
            std::thread::sleep(LOCK_AGAIN);
        }
        let mut shelf = Self::open_on(root, Arc::new(RealDisk))?;
        shelf._lock = Some(lock);
        Ok(shelf)
    }

    /// Opens the shelf at `root` to look at it, without a lock: what is looked at changes in one step.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn open_to_look(root: &Path) -> Result<Self, ShelfError> {
        Self::open_on(root, Arc::new(RealDisk))
    }

    /// As [`Shelf::open`], on a card of the caller's choice, and without a lock.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn open_on<C: Card + 'static>(root: &Path, card: Arc<C>) -> Result<Self, ShelfError> {
        let fail = |what, source| ShelfError::Io { what, path: root.to_owned(), source };
        let is_new = !card.names(root).is_ok_and(|names| names.iter().any(|name| name == STATE));
        card.make_dir(root).map_err(|source| fail("make the folder", source))?;
        let store = Store::open_on(&root.join(STATE), Arc::clone(&card) as Arc<dyn crate::store::Disk>)?;
        if is_new {
            // or all that is stored in it is lost with its name
            card.sync_dir(root).map_err(|source| fail("sync", source))?;
            let parent = root.parent().unwrap_or(root);
            card.sync_dir(parent).map_err(|source| fail("sync", source))?;
        }
        Ok(Self { root: root.to_owned(), card, store, _lock: None })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn io<T>(&self, what: &'static str, path: &Path, result: io::Result<T>) -> Result<T, ShelfError> {
        result.map_err(|source| ShelfError::Io { what, path: path.to_owned(), source })
    }

    fn sync_root(&self) -> Result<(), ShelfError> {
        self.io("sync", &self.root, self.card.sync_dir(&self.root))
    }

    fn leads_to(&self, link: &str) -> Result<Option<ReleaseVersion>, ShelfError> {
        let path = self.path(link);
        match self.io("read the link", &path, self.card.read_link(&path))? {
            None => Ok(None),
            Some(target) => match target.parse() {
                Ok(version) => Ok(Some(version)),
                Err(error) => refused("foreign-link", format!("{} leads elsewhere: {error}", path.display())),
            },
        }
    }

    /// The version in use.
    ///
    /// # Errors
    /// If the link cannot be read or leads elsewhere.
    pub fn current(&self) -> Result<Option<ReleaseVersion>, ShelfError> {
        self.leads_to(CURRENT)
    }

    /// The version before.
    ///
    /// # Errors
    /// If the link cannot be read or leads elsewhere.
    pub fn previous(&self) -> Result<Option<ReleaseVersion>, ShelfError> {
        self.leads_to(PREVIOUS)
    }

    /// The trial's record.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn record(&self) -> Result<Record, ShelfError> {
        Ok(self.store.load(RECORD)?.unwrap_or_default())
    }

    /// Lets a link lead to another version, in one step.
    fn switch(&self, link: &str, version: &ReleaseVersion) -> Result<(), ShelfError> {
        if self.leads_to(link)?.as_ref() == Some(version) {
            return Ok(());
        }
        let (path, fresh) = (self.path(link), self.path(&format!(".new-{link}")));
        self.io("remove", &fresh, self.card.remove(&fresh))?;
        self.io("make the link", &fresh, self.card.link(version.as_str(), &fresh))?;
        self.io("put in place", &path, self.card.rename(&fresh, &path))?;
        self.sync_root()
    }

    fn versions(&self) -> Result<Vec<ReleaseVersion>, ShelfError> {
        let names = self.io("read", &self.root, self.card.names(&self.root))?;
        let mut versions: Vec<ReleaseVersion> = names.iter().filter_map(|name| name.parse().ok()).collect();
        versions.sort();
        Ok(versions)
    }

    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, ShelfError> {
        self.io("read", path, self.card.read(path, MAX_READ_BYTES + 1))
    }

    /// The manifest of an installed release, and what is wrong with its files.
    fn look(
        &self,
        version: &ReleaseVersion,
        key: &PublicKey,
    ) -> Result<(Manifest, Vec<(FileName, String)>), ShelfError> {
        let folder = self.path(version.as_str());
        let place = folder.display().to_string();
        let damaged = |why: String| PackageError::Damaged { place: place.clone(), why };
        let signed = self.read(&folder.join(MANIFEST))?.ok_or_else(|| damaged("it has no manifest".to_owned()))?;
        let manifest = package::parse(&place, &signed, key)?;
        if manifest.version != *version {
            return Err(damaged(format!("its manifest is of version {}", manifest.version)).into());
        }
        let mut faults = Vec::new();
        for entry in &manifest.files {
            let bytes = self.read(&folder.join(entry.name.as_str()))?;
            let fault = match bytes {
                None => Some(format!("{} is missing", entry.name.as_str())),
                Some(bytes) => package::fault(entry, manifest.architecture, &bytes),
            };
            faults.extend(fault.map(|fault| (entry.name, fault)));
        }
        Ok((manifest, faults))
    }

    /// Whether an installed release is whole and signed.
    ///
    /// # Errors
    /// Why it is not.
    pub fn verify(&self, version: &ReleaseVersion, key: &PublicKey) -> Result<Manifest, ShelfError> {
        let (manifest, faults) = self.look(version, key)?;
        match faults.into_iter().next() {
            None => Ok(manifest),
            Some((_, why)) => {
                let place = self.path(version.as_str()).display().to_string();
                Err(PackageError::Damaged { place, why }.into())
            }
        }
    }

    fn write_file(&self, path: &Path, mode: Mode, bytes: &[u8]) -> Result<(), ShelfError> {
        self.io("write", path, self.card.put(path, mode, bytes))?;
        self.io("write", path, self.card.sync(path))
    }

    /// What must not be removed.
    fn in_use(&self) -> Result<Vec<ReleaseVersion>, ShelfError> {
        let mut kept: Vec<ReleaseVersion> = self.current()?.into_iter().chain(self.previous()?).collect();
        kept.extend(self.record()?.trial.into_iter().flat_map(|trial| [trial.version, trial.back]));
        Ok(kept)
    }

    /// Takes a release away: under another name first, so that a half of it is never taken for one.
    fn remove(&self, version: &ReleaseVersion) -> Result<(), ShelfError> {
        let (path, aside) = (self.path(version.as_str()), self.path(&format!(".old-{version}")));
        self.io("remove", &aside, self.card.remove(&aside))?;
        self.io("move away", &path, self.card.rename(&path, &aside))?;
        self.sync_root()?;
        self.io("remove", &aside, self.card.remove(&aside))
    }

    /// Removes what a power cut left half done, and releases until `room_for` more may come.
    fn tidy(&self, room_for: usize, spare: &ReleaseVersion) -> Result<(), ShelfError> {
        for name in self.io("read", &self.root, self.card.names(&self.root))? {
            if name.starts_with(".new-") || name.starts_with(".old-") {
                let path = self.path(&name);
                self.io("remove", &path, self.card.remove(&path))?;
            }
        }
        let kept = self.in_use()?;
        let versions = self.versions()?;
        let mut too_many = (versions.len() + room_for).saturating_sub(MAX_RELEASES);
        // the oldest first
        for version in versions.iter().filter(|version| !kept.contains(version) && *version != spare) {
            if too_many == 0 {
                break;
            }
            self.remove(version)?;
            too_many -= 1;
        }
        Ok(())
    }

    /// Puts a release whose manifest `key` signed onto the shelf. It is not used by that.
    ///
    /// # Errors
    /// If it is for another processor, there is no room, or another release has its version.
    pub fn install(&self, package: &Package, key: &PublicKey) -> Result<Installed, ShelfError> {
        let version = &package.manifest.version;
        let folder = self.path(version.as_str());
        let known = self.versions()?.contains(version);
        if known {
            let same = self.read(&folder.join(MANIFEST))?.as_ref() == Some(&package.signed);
            if same {
                return self.repair(package, key);
            }
            if self.in_use()?.contains(version) {
                return refused(
                    "other-content",
                    format!("{version} is in use here with other content; give what is new another version"),
                );
            }
            self.remove(version)?;
        }
        self.tidy(1, version)?;
        let need = package.files.iter().map(|file| file.len() as u64).sum::<u64>() + ROOM_LEFT_BYTES;
        if let Some(room) = self.card.room(&self.root).filter(|room| *room < need) {
            let mib = |bytes: u64| bytes.div_ceil(1024 * 1024);
            return refused(
                "no-room",
                format!("{} MiB are free and {} are needed; make room on this card", mib(room), mib(need)),
            );
        }
        let fresh = self.path(&format!(".new-{version}"));
        self.io("make the folder", &fresh, self.card.make_dir(&fresh))?;
        for (entry, bytes) in package.manifest.files.iter().zip(&package.files) {
            self.write_file(&fresh.join(entry.name.as_str()), Mode::Program, bytes)?;
        }
        self.write_file(&fresh.join(MANIFEST), Mode::Text, &package.signed)?;
        self.io("sync", &fresh, self.card.sync_dir(&fresh))?;
        self.io("put in place", &folder, self.card.rename(&fresh, &folder))?;
        self.sync_root()?;
        Ok(Installed::New)
    }

    /// Puts whole files over damaged ones.
    fn repair(&self, package: &Package, key: &PublicKey) -> Result<Installed, ShelfError> {
        let version = &package.manifest.version;
        let (_, faults) = self.look(version, key)?;
        if faults.is_empty() {
            return Ok(Installed::Unchanged);
        }
        let folder = self.path(version.as_str());
        let files = package.manifest.files.iter().zip(&package.files);
        let bad = |entry: &FileEntry| faults.iter().any(|(name, _)| *name == entry.name);
        for (entry, bytes) in files.filter(|(entry, _)| bad(entry)) {
            let (path, fresh) = (folder.join(entry.name.as_str()), self.path(&format!(".new-{}", entry.name.as_str())));
            self.io("remove", &fresh, self.card.remove(&fresh))?;
            self.write_file(&fresh, Mode::Program, bytes)?;
            self.io("put in place", &path, self.card.rename(&fresh, &path))?;
            self.io("sync", &folder, self.card.sync_dir(&folder))?;
        }
        Ok(Installed::Repaired)
    }

    fn mark_trial(&self, version: &ReleaseVersion) -> Result<(), ShelfError> {
        self.switch(TRIAL, version)
    }

    fn unmark_trial(&self) -> Result<(), ShelfError> {
        let path = self.path(TRIAL);
        if self.io("read the link", &path, self.card.read_link(&path))?.is_some() {
            self.io("remove", &path, self.card.remove(&path))?;
            self.sync_root()?;
        }
        Ok(())
    }

    /// Lets this Pi use an installed release from the daemon's next start on: on trial, unless it is the first.
    ///
    /// # Errors
    /// If the release is not whole, older than the one in use and not the one before it, or something is on trial.
    pub fn use_version(
        &self,
        version: &ReleaseVersion,
        key: &PublicKey,
        boot: &str,
        ms: u64,
    ) -> Result<Used, ShelfError> {
        if !self.versions()?.contains(version) {
            return refused(
                "not-installed",
                format!("{version} is not installed here; `beehive release install` puts it there"),
            );
        }
        // what is left of a change that was interrupted
        if let Some(current) = self.current()? {
            if self.record()?.trial.is_some_and(|trial| trial.version != current || trial.going_back.is_some()) {
                self.judge(boot, ms, &Moment::Tick)?;
            }
        }
        let record = self.record()?;
        if let Some(trial) = &record.trial {
            if trial.version == *version {
                return Ok(Used::OnTrial { back: trial.back.clone() });
            }
            return refused(
                "on-trial",
                format!("{} is on trial here; wait for its end, or `beehive release rollback`", trial.version),
            );
        }
        let manifest = self.verify(version, key)?;
        if package::Architecture::own().is_some_and(|own| own != manifest.architecture) {
            return refused("other-processor", format!("{version} is for {}", manifest.architecture));
        }
        let Some(current) = self.current()? else {
            self.switch(PREVIOUS, version)?;
            self.switch(CURRENT, version)?;
            return Ok(Used::First);
        };
        if current == *version {
            return Ok(Used::Unchanged);
        }
        if *version < current && self.previous()?.as_ref() != Some(version) {
            return refused(
                "downgrade",
                format!(
                    "{version} is older than {current}, which is in use; the one way back leads to the version before it"
                ),
            );
        }
        // the record first: a release is never in use without the trial that it is on
        self.store.save(RECORD, &trial::begin(Now { current: &current, boot, ms }, version, &record))?;
        self.mark_trial(version)?;
        self.switch(PREVIOUS, &current)?;
        self.switch(CURRENT, version)?;
        Ok(Used::OnTrial { back: current })
    }

    /// Judges the trial, and goes back if that is what comes of it.
    ///
    /// # Errors
    /// If the record or a link cannot be read or written. It may be called again.
    pub fn judge(&self, boot: &str, ms: u64, moment: &Moment) -> Result<Judged, ShelfError> {
        let Some(current) = self.current()? else { return Ok(Judged::Nothing) };
        let record = self.record()?;
        let verdict = trial::judge(&record, Now { current: &current, boot, ms }, moment);
        match verdict {
            Verdict::Nothing => {
                match &record.trial {
                    // the mark follows the record, whatever a power cut left of it
                    Some(Trial { version, .. }) => self.mark_trial(version)?,
                    None => self.unmark_trial()?,
                }
                Ok(Judged::Nothing)
            }
            Verdict::GoesOn(record) => {
                self.store.save(RECORD, &record)?;
                if let Some(trial) = &record.trial {
                    self.mark_trial(&trial.version)?;
                }
                Ok(Judged::Nothing)
            }
            Verdict::Over(record) => {
                self.store.save(RECORD, &record)?;
                self.unmark_trial()?;
                Ok(record.last.map_or(Judged::Nothing, Judged::Over))
            }
            Verdict::GoBack { begun, to, done } => {
                self.store.save(RECORD, &begun)?;
                self.switch(CURRENT, &to)?;
                self.store.save(RECORD, &done)?;
                self.unmark_trial()?;
                let reason = done.last.map(|last| last.reason).unwrap_or_default();
                Ok(Judged::WentBack { to, reason })
            }
        }
    }

    /// Goes back to the version before, on trial or not.
    ///
    /// # Errors
    /// If there is none.
    pub fn roll_back(&self, boot: &str, ms: u64) -> Result<Judged, ShelfError> {
        match self.judge(boot, ms, &Moment::Asked)? {
            Judged::WentBack { to, reason } => return Ok(Judged::WentBack { to, reason }),
            Judged::Nothing | Judged::Over(_) => {}
        }
        let (Some(current), Some(previous)) = (self.current()?, self.previous()?) else {
            return refused("no-previous", "no release is in use here".to_owned());
        };
        if current == previous {
            return refused("no-previous", format!("there is no version before {current} here"));
        }
        let reason = "somebody asked for it".to_owned();
        self.switch(CURRENT, &previous)?;
        let last = Ended { version: current, how: How::WentBack, reason: reason.clone() };
        self.store.save(RECORD, &Record { trial: None, last: Some(last) })?;
        Ok(Judged::WentBack { to: previous, reason })
    }

    /// Every release.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn list(&self, key: &PublicKey) -> Result<Vec<Listed>, ShelfError> {
        let (current, previous) = (self.current()?, self.previous()?);
        let listed = self.versions()?.into_iter().map(|version| {
            let part = if current.as_ref() == Some(&version) {
                Part::Current
            } else if previous.as_ref() == Some(&version) {
                Part::Previous
            } else {
                Part::Kept
            };
            let found = self.verify(&version, key);
            Listed {
                version: version.to_string(),
                part,
                protocol: found.as_ref().ok().map(|manifest| manifest.protocol),
                fault: found.err().map(|error| error.to_string()),
            }
        });
        Ok(listed.collect())
    }
}

#[cfg(test)]
#[path = "shelf_tests.rs"]
mod tests;
