//! The last head of the coordinator's audit log that this user saw, one file a crew. A log that no longer has it was cut off
//! or written anew, whoever holds its key.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Head;
use crate::crew::files::{self, Access};

/// Why the last head is not known or not kept.
#[derive(Debug, thiserror::Error)]
pub enum SeenError {
    /// The file cannot be read or written.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds something else.
    #[error("{path} holds no head of an audit log; move it away if somebody has edited it", path = .path.display())]
    Content {
        /// The file.
        path: PathBuf,
    },
}

/// What a head says that cannot follow the one that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alarm {
    /// A fresh answer's log ends before the record that was seen.
    Shorter {
        /// What was seen.
        seen: Head,
        /// What came.
        found: Head,
    },
    /// The record that was seen is another one now.
    Rewritten {
        /// What was seen.
        seen: Head,
        /// What came.
        found: Head,
    },
}

impl std::fmt::Display for Alarm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self {
            Self::Shorter { seen, found } => {
                format!(
                    "ends with record {}, and record {} was seen before: its end was cut off",
                    found.number, seen.number
                )
            }
            Self::Rewritten { seen, .. } => format!("has another record {} than was seen before", seen.number),
        };
        write!(
            f,
            "ALARM: the coordinator's audit log {what}. Somebody has altered the past, or the coordinator was restored from \
             a backup. Run `beehive audit verify --head {}` on the master",
            match self {
                Self::Shorter { seen, .. } | Self::Rewritten { seen, .. } => seen,
            }
        )
    }
}

/// The file, and what is in it.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
    head: Option<Head>,
}

impl Kept {
    /// Reads what was kept.
    ///
    /// # Errors
    /// If there is something that cannot be read.
    pub fn open(path: &Path) -> Result<Self, SeenError> {
        let head = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(SeenError::Io { path: path.to_owned(), source }),
            Ok(text) => Some(text.trim().parse().map_err(|_| SeenError::Content { path: path.to_owned() })?),
        };
        Ok(Self { path: path.to_owned(), head })
    }

    /// The last head that was seen.
    pub fn head(&self) -> Option<Head> {
        self.head
    }

    /// A head that came with the coordinator's state, which the broker may have kept for long: an older one says nothing.
    pub fn state(&mut self, found: Head) -> Result<(), Alarm> {
        match self.head {
            Some(seen) if found.number < seen.number => Ok(()),
            Some(_) | None => self.answer(found),
        }
    }

    /// A head that came with the answer to what was just asked.
    ///
    /// # Errors
    /// If it cannot follow the one that is kept, which then stays.
    pub fn answer(&mut self, found: Head) -> Result<(), Alarm> {
        match self.head {
            Some(seen) if found.number < seen.number => Err(Alarm::Shorter { seen, found }),
            Some(seen) if found.number == seen.number && found.hash != seen.hash => {
                Err(Alarm::Rewritten { seen, found })
            }
            Some(_) | None => {
                self.head = Some(found);
                Ok(())
            }
        }
    }

    /// Keeps it.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn save(&self) -> Result<(), SeenError> {
        let Some(head) = self.head else { return Ok(()) };
        let io = |source| SeenError::Io { path: self.path.clone(), source };
        if let Some(dir) = self.path.parent() {
            fs::create_dir_all(dir).map_err(io)?;
        }
        files::write(&self.path, Access::Private, format!("{head}\n").as_bytes()).map_err(io)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use beehive_mqtt::sign::RecordHash;

    fn head(number: u64, byte: u8) -> Head {
        Head { number, hash: RecordHash([byte; 32]) }
    }

    #[test]
    fn the_newest_is_kept_and_what_cannot_follow_is_an_alarm() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bee").join("audit-head");
        let mut kept = Kept::open(&path).unwrap();
        assert_eq!(kept.head(), None);
        kept.answer(head(5, 1)).unwrap();
        kept.save().unwrap();
        let mut kept = Kept::open(&path).unwrap();
        assert_eq!(kept.head(), Some(head(5, 1)));
        // an old state that the broker has kept
        kept.state(head(3, 9)).unwrap();
        kept.state(head(5, 1)).unwrap();
        assert_eq!(kept.state(head(5, 2)), Err(Alarm::Rewritten { seen: head(5, 1), found: head(5, 2) }));
        let alarm = kept.answer(head(4, 1)).unwrap_err();
        assert_eq!(alarm, Alarm::Shorter { seen: head(5, 1), found: head(4, 1) });
        assert!(alarm.to_string().contains("--head 5:0101"), "{alarm}");
        kept.state(head(9, 3)).unwrap();
        assert_eq!(kept.head(), Some(head(9, 3)));
        fs::write(&path, "nonsense").unwrap();
        assert!(Kept::open(&path).unwrap_err().to_string().contains("audit-head"));
    }
}
