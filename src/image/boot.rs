//! The files of the boot partition, through a FAT library: no mount, no root, no kernel.
//!
//! The library is `fatfs` 0.3 (MIT, no C). It stamps every file with the same date, so that the same card comes out byte
//! for byte the same. FAT does not tell upper from lower case in names.
//!
//! No folder is made: this version of the library gives the entries `.` and `..` of a new folder a long name too, which
//! Linux reads and `fsck.vfat` calls an error. So all that is ours lies in the uppermost folder, under names that begin with
//! `beehive-`.

use std::io::{self, Read as _, Seek, Write};

use fatfs::{FileSystem, FsOptions, ReadWriteSeek};

/// The largest file that is read into memory: more than any file that this program writes or edits.
pub const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// The boot partition's file system.
pub struct Boot<D: ReadWriteSeek> {
    files: FileSystem<D>,
}

impl<D: ReadWriteSeek> std::fmt::Debug for Boot<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Boot").finish_non_exhaustive()
    }
}

fn named(path: &str, doing: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {doing} {path} in the boot partition: {error}"))
}

impl<D: ReadWriteSeek> Boot<D> {
    /// Opens it.
    ///
    /// # Errors
    /// If there is no FAT file system in it.
    pub fn open(disk: D) -> io::Result<Self> {
        Ok(Self { files: FileSystem::new(disk, FsOptions::new())? })
    }

    /// The partition's name.
    pub fn label(&self) -> String {
        self.files.volume_label().trim().to_owned()
    }

    /// The names of what is in the uppermost folder.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in self.files.root_dir().iter() {
            names.push(entry.map_err(|error| named("the uppermost folder", "read", &error))?.file_name());
        }
        names.sort();
        Ok(names)
    }

    /// A file's bytes, if it is there.
    ///
    /// # Errors
    /// If it cannot be read, or is larger than [`MAX_FILE_BYTES`].
    pub fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        let root = self.files.root_dir();
        let file = match root.open_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(|error| named(path, "read", &error))?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| named(path, "read", &error))?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{path} in the boot partition is larger than {MAX_FILE_BYTES} bytes"),
            ));
        }
        Ok(Some(bytes))
    }

    /// Writes a file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let root = self.files.root_dir();
        let attempt = || {
            let mut file = root.create_file(path)?;
            file.rewind()?;
            file.truncate()?;
            file.write_all(bytes)?;
            file.flush()
        };
        attempt().map_err(|error| named(path, "write", &error))
    }

    /// Removes a file.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        self.files.root_dir().remove(path).map_err(|error| named(path, "remove", &error))
    }

    /// How many bytes are free, and how many are taken at once.
    ///
    /// # Errors
    /// If the allocation table cannot be read.
    pub fn room(&self) -> io::Result<Room> {
        let stats = self.files.stats()?;
        let cluster_bytes = u64::from(stats.cluster_size());
        Ok(Room { free_bytes: u64::from(stats.free_clusters()) * cluster_bytes, cluster_bytes })
    }

    /// Writes what the library still holds, and lets the disk go.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn close(self) -> io::Result<()> {
        self.files.unmount()
    }
}

/// How much room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// What is free.
    pub free_bytes: u64,
    /// The unit in which it is given out.
    pub cluster_bytes: u64,
}

impl Room {
    /// What a file of `bytes` takes.
    pub fn taken_by(self, bytes: u64) -> u64 {
        bytes.div_ceil(self.cluster_bytes.max(1)) * self.cluster_bytes
    }
}
