//! The daemon of a release on trial says that it is healthy: it has been up for some time, is connected, and hears the
//! coordinator live. On the master that is its own coordinator, through the broker, in the term that the manifest grants:
//! only who has taken it up can sign so.
//!
//! The shelf is root's, and what root runs is on it. A daemon that is not root says so in a file of its own instead
//! ([`HEALTHY`]); the guard, which is root's, believes it of the start that it has just seen.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use beehive_mqtt::Topic;
use beehive_mqtt::coordinator::CoordinatorState;
use tokio::sync::mpsc;

use super::shelf::{Judged, Shelf, ShelfError, TRIAL};
use super::trial::{Moment, is_healthy};
use super::version::ReleaseVersion;
use crate::clock::Clock;
use crate::link::{Link, LinkEvent};

/// The file in the folder of `/run` in which a daemon says that its release, whose version stands there, is healthy.
pub const HEALTHY: &str = "healthy";

/// More than a version.
const MAX_HEALTHY_BYTES: u64 = 256;

/// How many events may wait between the link and the agent; the link's own channel is before it.
const EVENTS: usize = 64;

/// The release that this program runs from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// The shelf's folder.
    pub root: PathBuf,
    /// Its version.
    pub version: ReleaseVersion,
}

/// The release that the program at `program` is of; nothing if it lies elsewhere than on a shelf.
pub fn of(program: &Path) -> Option<Own> {
    let folder = program.parent()?;
    let (root, version) = (folder.parent()?, folder.file_name()?.to_str()?.parse().ok()?);
    let current = root.join("current").symlink_metadata().ok()?;
    current.is_symlink().then(|| Own { root: root.to_owned(), version })
}

/// This program's release, if it is on trial. What was left by the last change is said in the log.
pub fn on_trial() -> Option<Own> {
    // the kernel names the file itself, not the link that led to it
    let own = of(&std::env::current_exe().ok()?)?;
    let record = Shelf::open_to_look(&own.root).and_then(|shelf| shelf.record());
    match record {
        Ok(record) => {
            if let (None, Some(last)) = (&record.trial, record.last.filter(|last| last.version != own.version)) {
                tracing::warn!("{} is in use and not {}: {}", own.version, last.version, last.reason);
            }
            record.trial.filter(|trial| trial.version == own.version).map(|_| own)
        }
        // the record is root's to read, and the mark of a trial everybody's
        Err(_) if fs::read_link(own.root.join(TRIAL)).is_ok_and(|to| to == Path::new(own.version.as_str())) => {
            Some(own)
        }
        Err(error) if is_ours(&own.root) => {
            tracing::error!("whether this release is on trial cannot be told: {error}");
            None
        }
        Err(_) => None,
    }
}

/// Whether the shelf is this user's to change.
fn is_ours(root: &Path) -> bool {
    let own = rustix::process::geteuid();
    own.is_root() || root.metadata().is_ok_and(|found| found.uid() == own.as_raw())
}

/// What came of saying that one is healthy.
enum Told {
    Judged(Judged),
    /// The guard is told, and judges at its next look.
    Guard,
}

fn confirm(own: &Own, run_dir: &Path) -> Result<Told, ShelfError> {
    if !is_ours(&own.root) {
        let path = run_dir.join(HEALTHY);
        let written = fs::write(&path, own.version.as_str());
        return written.map(|()| Told::Guard).map_err(|source| ShelfError::Io { what: "write", path, source });
    }
    // neither matters to a confirmation
    let (boot, ms) = ("", Clock.now().as_ms());
    Shelf::open(&own.root)?.judge(boot, ms, &Moment::Healthy(own.version.clone())).map(Told::Judged)
}

/// What the guard believes: the version that the daemon of this start has called healthy. A link, a pipe or a large file in that
/// place, which is not root's alone, is nothing.
pub(super) fn said_healthy(run_dir: &Path) -> Option<ReleaseVersion> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).ok()?;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(run_dir.join(HEALTHY)).ok()?;
    let mut text = String::new();
    file.metadata().ok().filter(fs::Metadata::is_file)?;
    file.take(MAX_HEALTHY_BYTES).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Before a start: what the daemon before it said is of no weight for the next one.
pub(super) fn forget_healthy(run_dir: &Path) -> io::Result<()> {
    match fs::remove_file(run_dir.join(HEALTHY)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Lets what comes from the link through, and confirms the release when it has heard the coordinator.
pub fn confirm_when_heard(
    own: Own,
    run_dir: &Path,
    link: &Link,
    mut from: mpsc::Receiver<LinkEvent>,
) -> mpsc::Receiver<LinkEvent> {
    let (to, events) = mpsc::channel(EVENTS);
    let (link, run_dir, started_ms) = (link.clone(), run_dir.to_owned(), Clock.now().as_ms());
    tracing::info!("release {} is on trial", own.version);
    tokio::spawn(async move {
        let mut own = Some(own);
        while let Some(event) = from.recv().await {
            let heard = match &event {
                LinkEvent::Message(message) if message.topic == Topic::CoordinatorState && !message.is_cleared() => {
                    link.decode::<CoordinatorState>(message).ok().map(|_| message.retained)
                }
                LinkEvent::Message(_) | LinkEvent::Up { .. } | LinkEvent::Down { .. } | LinkEvent::Refused { .. } => {
                    None
                }
            };
            if to.send(event).await.is_err() {
                return;
            }
            if heard.is_some_and(|retained| is_healthy(started_ms, Clock.now().as_ms(), retained)) {
                if let Some(own) = own.take() {
                    let run_dir = run_dir.clone();
                    tokio::task::spawn_blocking(move || match confirm(&own, &run_dir) {
                        Ok(Told::Guard) => tracing::info!("release {} is healthy: the guard is told", own.version),
                        Ok(Told::Judged(Judged::Over(_))) => tracing::info!("release {} is confirmed", own.version),
                        // somebody was quicker: its trial is over already, or it is being left
                        Ok(Told::Judged(Judged::Nothing)) => {
                            tracing::info!("release {} is no longer on trial", own.version)
                        }
                        Ok(Told::Judged(Judged::WentBack { to, reason })) => {
                            tracing::warn!("release {} is left for {to} at the next start: {reason}", own.version);
                        }
                        Err(error) => tracing::error!("release {} cannot be confirmed: {error}", own.version),
                    });
                }
            }
        }
    });
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_believes_a_plain_file_of_this_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(HEALTHY);
        assert_eq!(said_healthy(dir.path()), None);
        fs::write(&path, "1.2.3").unwrap();
        assert_eq!(said_healthy(dir.path()).unwrap().as_str(), "1.2.3");
        forget_healthy(dir.path()).unwrap();
        forget_healthy(dir.path()).unwrap();
        assert_eq!(said_healthy(dir.path()), None);
        // nothing that would lead elsewhere, hold the guard up or fill its memory
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, "1.2.3").unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert_eq!(said_healthy(dir.path()), None);
        fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert_eq!(said_healthy(dir.path()), None);
        fs::remove_file(&path).unwrap();
        fs::write(&path, " ".repeat(300) + "1.2.3").unwrap();
        assert_eq!(said_healthy(dir.path()), None);
    }

    #[test]
    fn a_program_on_a_shelf_knows_its_release() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(of(&dir.path().join("1.0.0/beehive")), None, "no shelf");
        std::os::unix::fs::symlink("1.0.0", dir.path().join("current")).unwrap();
        let own = of(&dir.path().join("1.0.0/beehive")).unwrap();
        assert_eq!((own.root.as_path(), own.version.as_str()), (dir.path(), "1.0.0"));
        assert_eq!(of(&dir.path().join("bin/beehive")), None);
        assert_eq!(of(Path::new("/beehive")), None);
    }
}
