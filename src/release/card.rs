//! What a shelf of releases does to the file system, beside what the store does: behind a trait, so that a test can take the
//! power away at any step.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use crate::store::{Disk, RealDisk};

/// Who may do what with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A program: everybody reads and runs it, its owner replaces it.
    Program,
    /// Everybody reads it.
    Text,
}

/// The further changes and looks.
pub trait Card: Disk {
    /// Makes a folder that everybody enters; its parent has to be there. A folder that is there already is fine.
    ///
    /// # Errors
    /// Those of the file system.
    fn make_dir(&self, path: &Path) -> io::Result<()>;

    /// Writes a file that is not there yet. The disk may not have it yet.
    ///
    /// # Errors
    /// Those of the file system.
    fn put(&self, path: &Path, mode: Mode, bytes: &[u8]) -> io::Result<()>;

    /// Makes a symbolic link that is not there yet.
    ///
    /// # Errors
    /// Those of the file system.
    fn link(&self, target: &str, path: &Path) -> io::Result<()>;

    /// Where a symbolic link leads; nothing if there is none of that name.
    ///
    /// # Errors
    /// Those of the file system; or something else has that name.
    fn read_link(&self, path: &Path) -> io::Result<Option<String>>;

    /// The names in a folder that are text, in no order.
    ///
    /// # Errors
    /// Those of the file system.
    fn names(&self, path: &Path) -> io::Result<Vec<String>>;

    /// Removes a file, a link, or a folder with all that is in it; nothing of that name is fine.
    ///
    /// # Errors
    /// Those of the file system.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// How many bytes there is room for; nothing if that cannot be told.
    fn room(&self, path: &Path) -> Option<u64>;
}

impl Card for RealDisk {
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        match DirBuilder::new().mode(0o755).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            result => result,
        }
    }

    fn put(&self, path: &Path, mode: Mode, bytes: &[u8]) -> io::Result<()> {
        let mode = match mode {
            Mode::Program => 0o755,
            Mode::Text => 0o644,
        };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        // whatever the umask is: systemd has to run it
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)
    }

    fn link(&self, target: &str, path: &Path) -> io::Result<()> {
        symlink(target, path)
    }

    fn read_link(&self, path: &Path) -> io::Result<Option<String>> {
        match fs::read_link(path) {
            Ok(target) => Ok(Some(target.to_string_lossy().into_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn names(&self, path: &Path) -> io::Result<Vec<String>> {
        let entries: io::Result<Vec<_>> = fs::read_dir(path)?.collect();
        Ok(entries?.into_iter().filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = match path.symlink_metadata() {
            Ok(found) if found.is_dir() => fs::remove_dir_all(path),
            Ok(_) => fs::remove_file(path),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    fn room(&self, path: &Path) -> Option<u64> {
        let found = rustix::fs::statvfs(path).ok()?;
        Some(found.f_bavail.saturating_mul(found.f_frsize))
    }
}
