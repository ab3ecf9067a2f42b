//! Files of the crew's folder: written whole or not at all, and private ones readable by their owner alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anybody.
    Public,
    /// Its owner.
    Private,
}

impl Access {
    fn mode(self) -> u32 {
        match self {
            Self::Public => 0o644,
            Self::Private => 0o600,
        }
    }
}

/// Certificates of the largest crew are some 60 KiB; what is beyond this is something else.
pub const MAX_BYTES: u64 = 1024 * 1024;

/// Writes a file beside `path` and renames it, so that a reader sees the old or the new one. Its mode is set when it is
/// made: a private file is never, not even for a moment, readable by others.
///
/// # Errors
/// As the system gives them, with the path.
pub fn write(path: &Path, access: Access, bytes: &[u8]) -> io::Result<()> {
    put(path, access, bytes, |beside| fs::rename(beside, path))
}

/// As [`fn@write`], but never over a file that is there.
///
/// # Errors
/// As the system gives them, with the path; `AlreadyExists` if there is such a file.
pub fn write_new(path: &Path, access: Access, bytes: &[u8]) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    put(path, access, bytes, |beside| {
        let placed = renameat_with(CWD, beside, CWD, path, RenameFlags::NOREPLACE);
        match placed.map_err(io::Error::from) {
            // a file system that cannot look and rename in one step
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
                if path.symlink_metadata().is_ok() {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                fs::rename(beside, path)
            }
            placed => placed,
        }
    })
}

fn put(path: &Path, access: Access, bytes: &[u8], place: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    let attempt = || {
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(access.mode()).open(&beside)?;
        // what anybody may read is for somebody: the caller's umask (a unit's is 0077) takes that from nobody
        file.set_permissions(fs::Permissions::from_mode(access.mode()))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        place(&beside).inspect_err(|_| {
            // what could not be placed is of no use there
            let _ = fs::remove_file(&beside);
        })?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    };
    faults::at(|| attempt().map_err(|error| named(path, "write", &error)))
}

/// Removes a file, if it is there.
///
/// # Errors
/// As the system gives them, with the path.
pub fn remove(path: &Path) -> io::Result<()> {
    faults::at(|| match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(named(path, "remove", &error)),
        Ok(()) | Err(_) => Ok(()),
    })
}

/// Removes a folder with what is in it, if it is there.
///
/// # Errors
/// As the system gives them, with the path.
pub fn remove_folder(path: &Path) -> io::Result<()> {
    faults::at(|| match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(named(path, "remove", &error)),
        Ok(()) | Err(_) => Ok(()),
    })
}

/// Makes a folder that its owner alone may enter, and those above it.
///
/// # Errors
/// As the system gives them, with the path.
pub fn private_folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    faults::at(|| {
        let made = path.parent().map_or(Ok(()), fs::create_dir_all);
        let made = made.and_then(|()| match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::set_permissions(path, fs::Permissions::from_mode(0o700))
            }
            made => made,
        });
        made.map_err(|error| named(path, "make", &error))
    })
}

/// Puts the folder `new` in the place of `old`, which may be there or not; never is there none. What was there is removed.
///
/// # Errors
/// As the system gives them, with the path.
pub fn replace_folder(new: &Path, old: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let settled = |path: &Path| File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all();
    faults::at(|| {
        let filled = fs::read_dir(old).is_ok_and(|mut entries| entries.next().is_some());
        let placed = if filled {
            renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE).map_err(io::Error::from)
        } else {
            // an empty one gives way
            fs::rename(new, old)
        };
        placed.and_then(|()| settled(old)).map_err(|error| named(old, "replace", &error))
    })?;
    // after an exchange: what was there
    remove_folder(new)
}

/// In tests of the crate a run ends at a file operation of the test's choice, before or after it, as a power cut ends it.
#[cfg(not(test))]
mod faults {
    pub(super) fn at<T>(operation: impl FnOnce() -> std::io::Result<T>) -> std::io::Result<T> {
        operation()
    }
}

#[cfg(test)]
pub(crate) mod faults {
    use std::cell::Cell;
    use std::io;

    /// Which of the two sides of an operation.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Side {
        Before,
        After,
    }

    thread_local! {
        static LEFT: Cell<Option<(usize, Side)>> = const { Cell::new(None) };
        static CUT: Cell<bool> = const { Cell::new(false) };
    }

    /// The run on this thread ends at its `nth` operation, counted from 0. What comes after it fails, too.
    pub(crate) fn cut(nth: usize, side: Side) {
        CUT.set(false);
        LEFT.set(Some((nth, side)));
    }

    /// The power is back. Whether it was cut.
    pub(crate) fn mend() -> bool {
        LEFT.set(None);
        CUT.get()
    }

    fn gone<T>() -> io::Result<T> {
        CUT.set(true);
        Err(io::Error::other("the power was cut"))
    }

    pub(super) fn at<T>(operation: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match LEFT.get() {
            None => operation(),
            Some((0, Side::Before)) => gone(),
            Some((0, Side::After)) => {
                // what came after the first one does not happen
                LEFT.set(Some((0, Side::Before)));
                operation().and_then(|_| gone())
            }
            Some((left, side)) => {
                LEFT.set(Some((left - 1, side)));
                operation()
            }
        }
    }
}

/// Reads a file, up to [`MAX_BYTES`].
///
/// # Errors
/// As the system gives them, with the path; or that it is too large or no text.
pub fn read(path: &Path) -> io::Result<String> {
    let attempt = || {
        let mut text = String::new();
        File::open(path)?.take(MAX_BYTES + 1).read_to_string(&mut text)?;
        if text.len() as u64 > MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is larger than {MAX_BYTES} bytes")));
        }
        Ok(text)
    };
    attempt().map_err(|error| named(path, "read", &error))
}

/// An error with what was tried, and on what.
pub(crate) fn named(path: &Path, what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn modes_are_as_asked_even_over_an_old_file() {
        let dir = tempfile::tempdir().unwrap();
        for (name, access, mode) in [("a", Access::Private, 0o600), ("b", Access::Public, 0o644)] {
            let path = dir.path().join(name);
            fs::write(&path, "old").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
            write(&path, access, b"new").unwrap();
            assert_eq!(read(&path).unwrap(), "new");
            let found = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            // the umask may take bits of a public one away, never add any
            assert_eq!(found & !mode, 0, "{found:o}");
            assert!(found & 0o600 == 0o600, "{found:o}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left beside them");
    }

    #[test]
    fn a_new_file_takes_nobodys_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write_new(&path, Access::Private, b"first").unwrap();
        let error = write_new(&path, Access::Private, b"second").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{error}");
        assert_eq!(read(&path).unwrap(), "first");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("absent");
        let error = read(&path).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot read {}: ", path.display())), "{error}");
        fs::write(&path, vec![b'x'; MAX_BYTES as usize + 1]).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("larger"));
    }
}
