//! The daemon of a release on trial says that it is healthy: it has been up for some time, is connected, and hears the
//! coordinator live. On the master that is its own coordinator, through the broker, in the term that the manifest grants:
//! only who has taken it up can sign so.

use std::path::{Path, PathBuf};

use beehive_mqtt::Topic;
use beehive_mqtt::coordinator::CoordinatorState;
use tokio::sync::mpsc;

use super::shelf::{Judged, Shelf, ShelfError};
use super::trial::{Moment, is_healthy};
use super::version::ReleaseVersion;
use crate::clock::Clock;
use crate::link::{Link, LinkEvent};

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
        Err(error) => {
            tracing::error!("whether this release is on trial cannot be told: {error}");
            None
        }
    }
}

fn confirm(own: &Own) -> Result<Judged, ShelfError> {
    // neither matters to a confirmation
    let (boot, ms) = ("", Clock.now().as_ms());
    Shelf::open(&own.root)?.judge(boot, ms, &Moment::Healthy(own.version.clone()))
}

/// Lets what comes from the link through, and confirms the release when it has heard the coordinator.
pub fn confirm_when_heard(own: Own, link: &Link, mut from: mpsc::Receiver<LinkEvent>) -> mpsc::Receiver<LinkEvent> {
    let (to, events) = mpsc::channel(EVENTS);
    let (link, started_ms) = (link.clone(), Clock.now().as_ms());
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
                    tokio::task::spawn_blocking(move || match confirm(&own) {
                        Ok(Judged::Over(_)) => tracing::info!("release {} is confirmed", own.version),
                        // somebody was quicker: its trial is over already, or it is being left
                        Ok(Judged::Nothing) => tracing::info!("release {} is no longer on trial", own.version),
                        Ok(Judged::WentBack { to, reason }) => {
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
