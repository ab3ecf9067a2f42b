//! `beehive image flash`: writes an image to a card, and reads it back.
//!
//! The kernel is asked what a disk is (`/sys/block`), and what is in use (`/proc/self/mountinfo`, `/proc/swaps`). A disk is
//! refused unless it is whole, a card or removable, there, writable, large enough, and nothing on it is mounted, swapped to
//! or held by another device. It is then opened for itself alone (`O_EXCL`: the kernel refuses that while it is mounted),
//! and its number is compared with the one that was looked at: another disk may have got the name meanwhile.
//!
//! The first mebibyte, with the partition table, is emptied first and written last: a card that was pulled half-way does
//! not boot. What is read back for the comparison is read after the kernel was told to forget what it holds of the disk.
//!
//! This module is for Linux. Under `/sys` `removable` is 0 for a card in a built-in reader, so a device of the kind `SD`
//! counts as a card.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::disk::fill;
use super::{refused, unreadable};
use crate::console::exit::{ExitCode, Trouble};
use crate::crew::files::named;

/// As much as is written at once, and as much as is written last.
const CHUNK_BYTES: usize = 1024 * 1024;

/// What `/sys/block/*/size` counts in.
const SECTOR_BYTES: u64 = 512;

/// The machine as the kernel shows it; below a folder of its own in tests.
#[derive(Debug, Clone)]
pub struct Machine {
    root: PathBuf,
}

/// A disk that may be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Its name: `sdb`, `mmcblk0`.
    pub name: String,
    /// The kernel's number of it.
    pub number: (u32, u32),
    /// How many bytes it has.
    pub bytes: u64,
    /// What its maker calls it.
    pub model: String,
}

impl Default for Machine {
    fn default() -> Self {
        Self { root: "/".into() }
    }
}

/// `8:16`.
fn number(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

impl Machine {
    /// The machine as it is shown below `root`.
    pub fn below(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok()
    }

    fn word(&self, path: &str) -> String {
        self.text(path).unwrap_or_default().trim().to_owned()
    }

    fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root.join(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// The disks that could be meant: cards and what is removable, whatever else may speak against them.
    pub fn candidates(&self) -> Vec<String> {
        self.names("sys/block").into_iter().filter(|name| self.is_card(name) && self.size(name) > 0).collect()
    }

    fn is_card(&self, name: &str) -> bool {
        let block = format!("sys/block/{name}");
        self.word(&format!("{block}/removable")) == "1" || self.word(&format!("{block}/device/type")) == "SD"
    }

    fn size(&self, name: &str) -> u64 {
        self.word(&format!("sys/block/{name}/size")).parse::<u64>().unwrap_or(0).saturating_mul(SECTOR_BYTES)
    }

    /// The disk that `device` is, if an image of `bytes` may be written to it.
    ///
    /// # Errors
    /// Says what speaks against it.
    pub fn disk(&self, device: &Path, bytes: u64) -> Result<Disk, Trouble> {
        let candidates = self.candidates();
        let others = match candidates.as_slice() {
            [] => "no card or removable disk is here".to_owned(),
            names => format!("cards and removable disks here: /dev/{}", names.join(", /dev/")),
        };
        let no = |why: String| {
            refused(format!("{} is not written to", device.display()), why, others.clone()).with_code("disk")
        };
        // /dev/disk/by-id/… leads to the name that the kernel uses
        let real = self.root.join(device.strip_prefix("/").unwrap_or(device));
        let real = fs::canonicalize(&real).unwrap_or(real);
        let folder = fs::canonicalize(self.root.join("dev")).unwrap_or_else(|_| self.root.join("dev"));
        let name = match real.strip_prefix(&folder).ok().and_then(Path::to_str) {
            Some(name) if device.is_absolute() && !name.is_empty() && !name.contains('/') => name.to_owned(),
            Some(_) | None => return Err(no("it is no device in /dev".to_owned())),
        };
        let block = format!("sys/block/{name}");
        if !self.root.join(&block).is_dir() {
            let whole = self
                .names("sys/block")
                .into_iter()
                .find(|disk| self.root.join(format!("sys/block/{disk}/{name}")).is_dir());
            return Err(no(match whole {
                Some(disk) => format!("it is a partition of /dev/{disk}, and an image is written to a whole disk"),
                None => "the kernel has no such disk".to_owned(),
            }));
        }
        let size = self.size(&name);
        if !self.is_card(&name) {
            return Err(no("it is neither a card nor removable".to_owned()));
        }
        if size == 0 {
            return Err(no("there is no card in it".to_owned()));
        }
        if self.word(&format!("{block}/ro")) == "1" {
            return Err(no("it is write-protected".to_owned()));
        }
        let parts: Vec<String> = self
            .names(&block)
            .into_iter()
            .filter(|part| self.root.join(format!("{block}/{part}/partition")).exists())
            .collect();
        let folders =
            parts.iter().map(|part| (part.clone(), format!("{block}/{part}"))).chain([(name.clone(), block.clone())]);
        let mounts = self.text("proc/self/mountinfo");
        let Some(mounts) = mounts else {
            return Err(no("it cannot be seen what is mounted (/proc/self/mountinfo)".to_owned()));
        };
        let swaps = self.text("proc/swaps").unwrap_or_default();
        for (part, folder) in folders {
            let own = self.word(&format!("{folder}/dev"));
            let source = format!("/dev/{part}");
            // the number is the kernel's; some file systems show another one, and then the name tells
            let mount = mounts.lines().find(|line| {
                let mut fields = line.split(' ');
                let by_number = fields.nth(2) == Some(own.as_str());
                let by_name = line.split(" - ").nth(1).and_then(|rest| rest.split(' ').nth(1)) == Some(source.as_str());
                by_number || by_name
            });
            if let Some(line) = mount {
                let point = line.split(' ').nth(4).unwrap_or_default();
                return Err(no(format!("{source} is mounted at {point}; unmount it first")));
            }
            if swaps.lines().any(|line| line.split_whitespace().next() == Some(source.as_str())) {
                return Err(no(format!("{source} is swap space in use")));
            }
            if let Some(holder) = self.names(&format!("{folder}/holders")).first() {
                return Err(no(format!("{source} is held by {holder} (RAID, LVM or encryption)")));
            }
        }
        if bytes > size {
            return Err(no(format!("the image has {bytes} bytes, and it has {size}")));
        }
        let Some(number) = number(&self.word(&format!("{block}/dev"))) else {
            return Err(no("the kernel does not say its number".to_owned()));
        };
        let model = self.word(&format!("{block}/device/model"));
        let model = if model.is_empty() { self.word(&format!("{block}/device/name")) } else { model };
        Ok(Disk { name, number, bytes: size, model })
    }
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Writing.
    Writing,
    /// Reading back.
    Verifying,
}

/// Whom to tell how far it is.
pub trait Progress {
    /// So many bytes of the stage are done.
    fn at(&mut self, stage: Stage, done: u64, of: u64);
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// How many bytes.
    pub bytes: u64,
    /// Their SHA-256, read back from the card.
    pub sha256: String,
}

/// Why a card is not as the image is.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The image cannot be read, or the card not written or read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// What was read back is something else.
    #[error(
        "what was read back from the card is not what was written, for the first time near byte {at}: the card is broken, or not as large as it says"
    )]
    Differs {
        /// Where.
        at: u64,
    },
    /// The image changed meanwhile.
    #[error("the image changed while it was written")]
    ImageChanged,
}

/// A card, and a file that stands for one.
pub trait Media: Read + Write + Seek {
    /// Brings everything to the card, and forgets what is held of it.
    ///
    /// # Errors
    /// As the system gives them.
    fn settle(&mut self) -> io::Result<()>;
}

impl Media for File {
    fn settle(&mut self) -> io::Result<()> {
        self.sync_all()?;
        rustix::fs::fadvise(&*self, 0, None, rustix::fs::Advice::DontNeed).map_err(io::Error::from)
    }
}

/// Writes `image` onto `card`, the beginning last, and reads it back.
///
/// # Errors
/// As above. The card does not boot then, unless only the reading failed.
pub fn write(
    image: &mut (impl Read + Seek),
    card: &mut impl Media,
    progress: &mut dyn Progress,
) -> Result<Written, WriteError> {
    let bytes = image.seek(SeekFrom::End(0))?;
    image.seek(SeekFrom::Start(0))?;
    let mut first = vec![0; CHUNK_BYTES];
    let length = fill(image, &mut first)?;
    first.truncate(length);

    card.seek(SeekFrom::Start(0))?;
    card.write_all(&vec![0; first.len()])?;
    card.settle()?;
    let mut hash = Sha256::new();
    hash.update(&first);
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut done = first.len() as u64;
    loop {
        let length = fill(image, &mut chunk)?;
        let Some(part) = chunk.get(..length).filter(|part| !part.is_empty()) else { break };
        hash.update(part);
        card.write_all(part)?;
        done += part.len() as u64;
        progress.at(Stage::Writing, done, bytes);
    }
    if done != bytes {
        return Err(WriteError::ImageChanged);
    }
    card.settle()?;
    card.seek(SeekFrom::Start(0))?;
    card.write_all(&first)?;
    card.settle()?;
    progress.at(Stage::Writing, bytes, bytes);
    let expected = hash.finalize();

    // compared piece by piece, so that it can be said where it differs; the sum is what is told
    card.seek(SeekFrom::Start(0))?;
    image.seek(SeekFrom::Start(0))?;
    let mut hash = Sha256::new();
    let mut back = vec![0; CHUNK_BYTES];
    let mut at = 0;
    while at < bytes {
        let length = fill(image, &mut chunk)?;
        let Some(part) = chunk.get(..length).filter(|part| !part.is_empty()) else {
            return Err(WriteError::ImageChanged);
        };
        let same = back.get_mut(..length).map_or(Ok(0), |back| fill(card, back))?;
        let read = back.get(..same).unwrap_or_default();
        if read != part {
            let equal = read.iter().zip(part).take_while(|(a, b)| a == b).count();
            return Err(WriteError::Differs { at: at + equal as u64 });
        }
        hash.update(read);
        at += length as u64;
        progress.at(Stage::Verifying, at, bytes);
    }
    let found = hash.finalize();
    if found != expected {
        return Err(WriteError::ImageChanged);
    }
    Ok(Written { bytes, sha256: found.iter().map(|byte| format!("{byte:02x}")).collect() })
}

/// Opens the disk for itself alone, if it is still the one that was looked at.
///
/// # Errors
/// If it is in use, or another one.
pub fn open(disk: &Disk) -> Result<File, Trouble> {
    let path = PathBuf::from("/dev").join(&disk.name);
    let exclusive = rustix::fs::OFlags::EXCL.bits();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(i32::try_from(exclusive).unwrap_or_default())
        .open(&path)
        .map_err(|error| {
            Trouble::new(
                ExitCode::Failed,
                format!("{} is not written to", path.display()),
                named(&path, "open", &error).to_string(),
                "run it as a user who may write it (root, or the group disk), and let nothing else use it",
            )
        })?;
    let meta = file.metadata().map_err(|error| unreadable(&named(&path, "read", &error)))?;
    let number = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
    if meta.file_type().is_block_device() && number == disk.number {
        Ok(file)
    } else {
        Err(refused(
            format!("{} is not written to", path.display()),
            "it is not the disk any more that was looked at",
            "run it again",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    struct Tree {
        dir: tempfile::TempDir,
    }

    impl Tree {
        /// A reader with a card in it (`sdb`), a built-in reader (`mmcblk0`), the machine's own disk (`sda`).
        fn new() -> Self {
            let tree = Self { dir: tempfile::tempdir().unwrap() };
            for (path, text) in [
                ("sys/block/sda/removable", "0"),
                ("sys/block/sda/size", "900000"),
                ("sys/block/sda/dev", "8:0"),
                ("sys/block/sdb/removable", "1"),
                ("sys/block/sdb/ro", "0"),
                ("sys/block/sdb/size", "2000"),
                ("sys/block/sdb/dev", "8:16"),
                ("sys/block/sdb/device/model", "STORAGE DEVICE  "),
                ("sys/block/sdb/sdb1/partition", "1"),
                ("sys/block/sdb/sdb1/dev", "8:17"),
                ("sys/block/sdc/removable", "1"),
                ("sys/block/sdc/size", "0"),
                ("sys/block/sdc/dev", "8:32"),
                ("sys/block/mmcblk0/removable", "0"),
                ("sys/block/mmcblk0/device/type", "SD"),
                ("sys/block/mmcblk0/device/name", "SC16G"),
                ("sys/block/mmcblk0/size", "3000"),
                ("sys/block/mmcblk0/dev", "179:0"),
                ("dev/sda", ""),
                ("dev/sdb", ""),
                ("dev/sdb1", ""),
                ("dev/sdc", ""),
                ("dev/mmcblk0", ""),
                ("dev/tty", ""),
                ("proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"),
                ("proc/swaps", "Filename Type Size Used Priority\n"),
            ] {
                tree.put(path, text);
            }
            tree
        }

        fn put(&self, path: &str, text: &str) {
            let path = self.dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn disk(&self, device: &str) -> Result<Disk, Trouble> {
            Machine::below(self.dir.path()).disk(Path::new(device), 1_000_000)
        }
    }

    #[test]
    fn a_card_may_be_written_in_a_reader_of_either_kind() {
        let tree = Tree::new();
        let disk = tree.disk("/dev/sdb").unwrap();
        assert_eq!(
            disk,
            Disk { name: "sdb".into(), number: (8, 16), bytes: 1_024_000, model: "STORAGE DEVICE".into() }
        );
        assert_eq!(tree.disk("/dev/mmcblk0").unwrap().model, "SC16G");
        std::os::unix::fs::symlink("sdb", tree.dir.path().join("dev/card")).unwrap();
        assert_eq!(tree.disk("/dev/card").unwrap().name, "sdb");
    }

    #[test]
    fn everything_else_is_refused_with_the_reason() {
        type Also = (&'static str, &'static str);
        let none: &[Also] = &[];
        for (device, also, said) in [
            ("/dev/sda", none, "neither a card nor removable"),
            ("/dev/sdb1", none, "a partition of /dev/sdb"),
            ("/dev/sdc", none, "no card in it"),
            ("/dev/sdx", none, "no such disk"),
            ("/dev/tty", none, "no such disk"),
            ("/proc/swaps", none, "no device in /dev"),
            ("sdb", none, "no device in /dev"),
            ("/dev/../dev", none, "no device in /dev"),
            ("/dev/sdb", &[("sys/block/sdb/ro", "1")], "write-protected"),
            ("/dev/sdb", &[("sys/block/sdb/size", "1900")], "the image has 1000000 bytes"),
            ("/dev/sdb", &[("sys/block/sdb/dev", "")], "number"),
            ("/dev/sdb", &[("sys/block/sdb/sdb1/holders/dm-0", "")], "held by dm-0"),
            ("/dev/sdb", &[("proc/swaps", "Filename Type\n/dev/sdb1 partition 1 0 -2\n")], "swap"),
            (
                "/dev/sdb",
                &[("proc/self/mountinfo", "40 22 8:17 / /media/card rw - vfat /dev/sdb1 rw\n")],
                "mounted at /media/card",
            ),
            ("/dev/sdb", &[("proc/self/mountinfo", "40 22 8:16 / /mnt rw - vfat /dev/sdb rw\n")], "mounted at /mnt"),
            (
                "/dev/sdb",
                &[("proc/self/mountinfo", "40 22 0:44 /a /mnt rw shared:1 - btrfs /dev/sdb1 rw\n")],
                "mounted at /mnt",
            ),
        ] {
            let tree = Tree::new();
            for (path, text) in also {
                tree.put(path, text);
            }
            let error = tree.disk(device).unwrap_err();
            assert!(error.why.contains(said), "{device}: {error}");
            assert_eq!(error.exit, ExitCode::Refused);
            assert!(error.fix.contains("/dev/mmcblk0"), "what could be meant is named: {error}");
        }
        let tree = Tree::new();
        fs::remove_file(tree.dir.path().join("proc/self/mountinfo")).unwrap();
        assert!(tree.disk("/dev/sdb").unwrap_err().why.contains("cannot be seen"));
    }

    #[derive(Default)]
    struct Told(Vec<(Stage, u64)>);

    impl Progress for Told {
        fn at(&mut self, stage: Stage, done: u64, of: u64) {
            assert!(done <= of);
            self.0.push((stage, done));
        }
    }

    /// A card that breaks.
    struct Broken {
        bytes: Cursor<Vec<u8>>,
        lies_at: Option<u64>,
        writes_left: u32,
    }

    impl Read for Broken {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.bytes.read(into)
        }
    }

    impl Write for Broken {
        fn write(&mut self, from: &[u8]) -> io::Result<usize> {
            self.writes_left = self.writes_left.checked_sub(1).ok_or_else(|| io::Error::other("pulled"))?;
            self.bytes.write(from)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Seek for Broken {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.bytes.seek(to)
        }
    }

    impl Media for Broken {
        fn settle(&mut self) -> io::Result<()> {
            if let Some(at) = self.lies_at.and_then(|at| usize::try_from(at).ok()) {
                if let Some(byte) = self.bytes.get_mut().get_mut(at) {
                    *byte ^= 1;
                    self.lies_at = None;
                }
            }
            Ok(())
        }
    }

    fn image(bytes: usize) -> Cursor<Vec<u8>> {
        Cursor::new((0..bytes).map(|at| (at / 7 % 251) as u8 + 1).collect())
    }

    #[test]
    fn a_file_that_stands_for_a_card_holds_the_image_and_keeps_what_is_behind_it() {
        for bytes in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 12_345] {
            let mut card = tempfile::tempfile().unwrap();
            card.write_all(&vec![9; bytes + 1000]).unwrap();
            let mut told = Told::default();
            let written = write(&mut image(bytes), &mut card, &mut told).unwrap();
            assert_eq!(written.bytes, bytes as u64);
            let mut all = Vec::new();
            card.rewind().unwrap();
            card.read_to_end(&mut all).unwrap();
            assert!(all[..bytes] == image(bytes).into_inner()[..] && all[bytes..] == vec![9; 1000][..]);
            let sum: String = Sha256::digest(&all[..bytes]).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(written.sha256, sum);
            let last = told.0.iter().rev().find(|(stage, _)| *stage == Stage::Writing).unwrap();
            assert_eq!(last.1, bytes as u64);
        }
    }

    #[test]
    fn a_card_that_keeps_something_else_is_told_apart() {
        let at = 2 * CHUNK_BYTES as u64 + 17;
        let mut card = Broken { bytes: Cursor::new(vec![0; 4 * CHUNK_BYTES]), lies_at: None, writes_left: 99 };
        write(&mut image(3 * CHUNK_BYTES), &mut card, &mut Told::default()).unwrap();
        // from the first time on that it is settled, that byte comes back wrong
        let mut card = Broken { bytes: Cursor::new(Vec::new()), lies_at: Some(at), writes_left: 99 };
        match write(&mut image(3 * CHUNK_BYTES), &mut card, &mut Told::default()) {
            Err(WriteError::Differs { at: found }) => assert_eq!(found, at),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_card_that_was_pulled_half_way_has_no_partition_table() {
        for writes_left in 1..5 {
            let mut card = Broken { bytes: image(5 * CHUNK_BYTES), lies_at: None, writes_left };
            let error = write(&mut image(5 * CHUNK_BYTES), &mut card, &mut Told::default()).unwrap_err();
            assert!(error.to_string().contains("pulled"));
            assert!(card.bytes.get_ref()[..512].iter().all(|byte| *byte == 0), "{writes_left}");
        }
    }
}
