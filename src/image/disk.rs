//! The image as a disk: where its boot partition is, and a window onto it that holds back every write.
//!
//! The images that are known here have a classic partition table (MBR): four entries of sixteen bytes from byte 446 on, a
//! signature at the end of the first sector. The Pi's boot ROM reads no other one up to the Pi 3, so no image of its
//! makers has a GUID partition table; one that has it is refused by name.
//!
//! A [`Window`] keeps what is written in memory until [`Window::commit`]. So a dry run is a run without the commit, what
//! cannot be finished (a full partition, say) has changed nothing, and a second run that changes nothing writes nothing.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

use zeroize::Zeroize as _;

/// The sector that the numbers of a partition table count in.
pub const SECTOR_BYTES: u64 = 512;

const TABLE_AT: usize = 446;
const ENTRY_BYTES: usize = 16;
const SIGNATURE: [u8; 2] = [0x55, 0xaa];
/// The types of a partition with a FAT file system: FAT16 and FAT32, by cylinders and by sectors.
const FAT_TYPES: [u8; 5] = [0x04, 0x06, 0x0b, 0x0c, 0x0e];
/// The one entry of the table that stands before a GUID partition table.
const PROTECTIVE: u8 = 0xee;

/// What packers and other tools begin their files with, and how the image is had from it.
const PACKED: [(&[u8], &str, &str); 6] = [
    (b"\xfd7zXZ\0", "xz", "unpack it first: xz -dk FILE"),
    (b"\x1f\x8b", "gzip", "unpack it first: gzip -dk FILE"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unpack it first: zstd -d FILE"),
    (b"BZh", "bzip2", "unpack it first: bzip2 -dk FILE"),
    (b"PK\x03\x04", "zip", "unpack it first: unzip FILE"),
    (b"QFI\xfb", "qcow2", "make a raw image of it first: qemu-img convert -O raw FILE IMAGE"),
];

/// Where a partition lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its first byte.
    pub from: u64,
    /// How many bytes it has.
    pub bytes: u64,
}

/// Why a file is no disk with a boot partition.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is packed.
    #[error("it is packed ({format}); {hint}")]
    Packed {
        /// How.
        format: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// There is no table.
    #[error("it has no partition table (no signature at the end of its first sector)")]
    NoTable,
    /// Another kind of table.
    #[error("it has a GUID partition table; the known images for a Pi have a classic one (MBR)")]
    Guid,
    /// No partition to boot from.
    #[error(
        "it has no FAT partition (looked for the types 04, 06, 0b, 0c and 0e in the partition table; found {found})"
    )]
    NoFat {
        /// The types that are there.
        found: String,
    },
    /// A partition that the file has no room for.
    #[error("it is cut off: its boot partition ends at byte {end}, and it has {has}")]
    CutOff {
        /// Where the partition ends.
        end: u64,
        /// How many bytes there are.
        has: u64,
    },
}

/// Finds the boot partition: the first one with FAT on it, as the Pi's boot ROM does.
///
/// # Errors
/// Says what is there instead.
pub fn boot_partition(disk: &mut (impl Read + Seek)) -> Result<Place, DiskError> {
    let has = disk.seek(SeekFrom::End(0))?;
    let mut sector = [0; SECTOR_BYTES as usize];
    disk.seek(SeekFrom::Start(0))?;
    let read = fill(disk, &mut sector)?;
    if let Some((_, format, hint)) = PACKED.iter().find(|(magic, ..)| sector.starts_with(magic)) {
        return Err(DiskError::Packed { format, hint });
    }
    if read < sector.len() || !sector.ends_with(&SIGNATURE) {
        return Err(DiskError::NoTable);
    }
    let number = |entry: &[u8], at: usize| {
        entry.iter().skip(at).take(4).rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
    };
    let mut found = Vec::new();
    for entry in sector.get(TABLE_AT..TABLE_AT + 4 * ENTRY_BYTES).unwrap_or_default().chunks_exact(ENTRY_BYTES) {
        let kind = entry.get(4).copied().unwrap_or_default();
        let place = Place { from: number(entry, 8) * SECTOR_BYTES, bytes: number(entry, 12) * SECTOR_BYTES };
        if kind == PROTECTIVE {
            return Err(DiskError::Guid);
        }
        if FAT_TYPES.contains(&kind) && place.from > 0 && place.bytes > 0 {
            let end = place.from + place.bytes;
            return if end <= has { Ok(place) } else { Err(DiskError::CutOff { end, has }) };
        }
        if kind != 0 {
            found.push(format!("{kind:02x}"));
        }
    }
    let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
    Err(DiskError::NoFat { found })
}

/// Reads until `into` is full or there is no more; how much it was.
pub(super) fn fill(from: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut at = 0;
    while let Some(rest) = into.get_mut(at..).filter(|rest| !rest.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(read) => at += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(at)
}

/// As much as is read and held at once.
const BLOCK_BYTES: u64 = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    AsOnDisk,
    Changed,
}

#[derive(Debug)]
struct Block {
    bytes: Vec<u8>,
    state: State,
}

/// A partition as a file of its own, whose changes stay in memory until they are committed.
#[derive(Debug)]
pub struct Window<D> {
    disk: D,
    place: Place,
    at: u64,
    blocks: BTreeMap<u64, Block>,
}

impl<D: Read + Seek> Window<D> {
    /// A window onto `place` of `disk`.
    pub fn new(disk: D, place: Place) -> Self {
        Self { disk, place, at: 0, blocks: BTreeMap::new() }
    }

    /// How many bytes a commit would write.
    pub fn changed_bytes(&self) -> u64 {
        self.blocks.values().filter(|block| block.state == State::Changed).map(|block| block.bytes.len() as u64).sum()
    }

    fn block(&mut self, number: u64) -> io::Result<&mut Block> {
        match self.blocks.entry(number) {
            std::collections::btree_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let from = number * BLOCK_BYTES;
                let mut bytes = vec![0; BLOCK_BYTES.min(self.place.bytes.saturating_sub(from)) as usize];
                self.disk.seek(SeekFrom::Start(self.place.from + from))?;
                self.disk.read_exact(&mut bytes)?;
                Ok(entry.insert(Block { bytes, state: State::AsOnDisk }))
            }
        }
    }

    /// Where `self.at` is: the block, the byte in it, and how many of `wanted` bytes are left there.
    fn here(&self, wanted: usize) -> (u64, usize, usize) {
        let inside = self.at % BLOCK_BYTES;
        let left = (BLOCK_BYTES - inside).min(self.place.bytes.saturating_sub(self.at));
        (self.at / BLOCK_BYTES, inside as usize, left.min(wanted as u64) as usize)
    }
}

impl<D> Window<D> {
    /// Writes what was changed to `disk`, which has what this window looks at, in the order in which it lies there. How many
    /// bytes it was.
    ///
    /// # Errors
    /// As the disk gives them; part of it may be written then.
    pub fn commit(&self, disk: &mut (impl Write + Seek)) -> io::Result<u64> {
        let mut written = 0;
        for (number, block) in &self.blocks {
            match block.state {
                State::AsOnDisk => {}
                State::Changed => {
                    disk.seek(SeekFrom::Start(self.place.from + number * BLOCK_BYTES))?;
                    disk.write_all(&block.bytes)?;
                    written += block.bytes.len() as u64;
                }
            }
        }
        disk.flush()?;
        Ok(written)
    }
}

impl<D> Drop for Window<D> {
    fn drop(&mut self) {
        // a node's secrets were among what passed through here
        for block in self.blocks.values_mut() {
            block.bytes.zeroize();
        }
    }
}

impl<D: Read + Seek> Read for Window<D> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let (number, inside, count) = self.here(into.len());
        if count == 0 {
            return Ok(0);
        }
        let block = self.block(number)?;
        let from = block.bytes.get(inside..inside + count).unwrap_or_default();
        into.iter_mut().zip(from).for_each(|(into, from)| *into = *from);
        self.at += count as u64;
        Ok(count)
    }
}

impl<D: Read + Seek> Write for Window<D> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let (number, inside, count) = self.here(from.len());
        if count == 0 {
            return Ok(0);
        }
        let block = self.block(number)?;
        let into = block.bytes.get_mut(inside..inside + count).unwrap_or_default();
        let from = from.get(..count).unwrap_or_default();
        if *into != *from {
            into.copy_from_slice(from);
            block.state = State::Changed;
        }
        self.at += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<D> Seek for Window<D> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.place.bytes.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = target.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "before the partition's start"))?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn table(entries: &[(u8, u32, u32)], sectors: usize) -> Cursor<Vec<u8>> {
        let mut disk = vec![0; sectors * 512];
        for (index, (kind, from, count)) in entries.iter().enumerate() {
            let at = TABLE_AT + index * ENTRY_BYTES;
            disk[at + 4] = *kind;
            disk[at + 8..at + 12].copy_from_slice(&from.to_le_bytes());
            disk[at + 12..at + 16].copy_from_slice(&count.to_le_bytes());
        }
        disk[510..512].copy_from_slice(&SIGNATURE);
        Cursor::new(disk)
    }

    #[test]
    fn the_first_fat_partition_is_the_boot_partition_and_everything_else_is_named() {
        let place = boot_partition(&mut table(&[(0x83, 1, 1), (0x0c, 2, 4), (0x0c, 6, 2)], 8)).unwrap();
        assert_eq!(place, Place { from: 1024, bytes: 2048 });
        for (mut disk, said) in [
            (table(&[(0xee, 1, 7)], 8), "GUID"),
            (table(&[(0x83, 1, 2), (0x82, 3, 1)], 8), "found 83, 82"),
            (table(&[], 8), "found none"),
            (table(&[(0x0c, 2, 7)], 8), "ends at byte 4608, and it has 4096"),
            (Cursor::new(vec![0; 4096]), "no partition table"),
            (Cursor::new(vec![0x55; 20]), "no partition table"),
            (Cursor::new(b"\xfd7zXZ\0 and so on".to_vec()), "xz -dk"),
            (Cursor::new(b"PK\x03\x04 and so on".to_vec()), "unzip"),
        ] {
            let error = boot_partition(&mut disk).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn what_is_written_is_read_back_and_reaches_the_disk_with_the_commit_alone() {
        let bytes: Vec<u8> = (0..20_000_u32).map(|n| n as u8).collect();
        let mut disk = Cursor::new(bytes.clone());
        let place = Place { from: 512, bytes: 10_000 };
        let mut window = Window::new(&mut disk, place);
        let new = vec![0xee; 5000];
        window.seek(SeekFrom::Start(4000)).unwrap();
        window.write_all(&new).unwrap();
        window.seek(SeekFrom::Current(-5000)).unwrap();
        let mut read = vec![0; 5000];
        window.read_exact(&mut read).unwrap();
        assert_eq!(read, new);
        // no byte behind the partition is read or written
        window.seek(SeekFrom::End(-1)).unwrap();
        assert_eq!(window.write(&[1, 2]).unwrap(), 1);
        assert_eq!(window.read(&mut read).unwrap(), 0);
        assert!(window.seek(SeekFrom::Current(-20_000)).is_err());
        drop(window);
        assert_eq!(disk.get_ref(), &bytes, "nothing yet");

        let mut window = Window::new(&mut disk, place);
        window.seek(SeekFrom::Start(4000)).unwrap();
        window.write_all(&new).unwrap();
        assert_eq!(window.changed_bytes(), 3 * 4096 - (3 * 4096 - 10_000));
        let mut copy = Cursor::new(bytes.clone());
        assert_eq!(window.commit(&mut copy).unwrap(), window.changed_bytes());
        drop(window);
        assert_eq!(disk.get_ref(), &bytes, "what was looked at is as it was");
        let mut expected = bytes;
        expected[4512..9512].copy_from_slice(&new);
        assert_eq!(copy.get_ref(), &expected);
    }
}
