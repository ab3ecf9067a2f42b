//! A release for one kind of processor: its programs and a manifest that the crew's offline key signed. On the operator's
//! machine it is a folder; on the way to a Pi it is one stream, the manifest first; on the Pi it is a folder again.
//!
//! The manifest is one header line and a JSON document:
//! ```text
//! beehive-release 1 bytes 300 sha256 9f86… sig 5d6c…
//! {"crew":"bee42-crew-01","version":"0.2.0","protocol":{"oldest":1,"newest":1},"architecture":"armv7","files":[…]}
//! ```
//! The checksum tells damage, the signature tells forgery. A file's name is one of two that this program knows, so that no
//! name in a manifest is ever a path.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use beehive_mqtt::CrewName;
use beehive_mqtt::sign::{PublicKey, RecordHash, Signature, Verdict, Verifier as _};
use serde::{Deserialize, Serialize};

use super::mark;
use super::version::{Protocols, ReleaseVersion};
use crate::keys::Ed25519;

/// The version of the header and of what the document has.
const FORMAT: u32 = 1;

/// The manifest's file name.
pub const MANIFEST: &str = "manifest";

/// The longest manifest, in bytes: two files and two hashes are some 600.
const MAX_MANIFEST_BYTES: u64 = 8 * 1024;

/// The largest program, in bytes. One for a Pi has 6 MB; a debug build, stripped, has 30.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// What the signature covers before the document, so that it holds for nothing else.
const DOMAIN: &str = "beehive release 1";

/// What stands before a stream.
const STREAM: &str = "beehive-release-stream 1";

/// A file of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileName {
    /// The program.
    #[serde(rename = "beehive")]
    Beehive,
    /// The final hook.
    #[serde(rename = "beehive-cut")]
    Cut,
}

impl FileName {
    /// Every file of a release.
    pub const ALL: [Self; 2] = [Self::Beehive, Self::Cut];

    /// Its name in the folder.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Beehive => "beehive",
            Self::Cut => "beehive-cut",
        }
    }
}

/// A kind of processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Architecture {
    /// A Pi with a 32-bit system.
    #[serde(rename = "armv7")]
    Armv7,
    /// A Pi with a 64-bit system.
    #[serde(rename = "aarch64")]
    Aarch64,
    /// A PC, where crews are tried out.
    #[serde(rename = "x86_64")]
    X86_64,
}

impl Architecture {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Armv7, Self::Aarch64, Self::X86_64];

    /// Its name, which is also the folder's in a release.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Armv7 => "armv7",
            Self::Aarch64 => "aarch64",
            Self::X86_64 => "x86_64",
        }
    }

    /// The one that this program was built for; nothing if it is none of those that releases are made for.
    pub fn own() -> Option<Self> {
        match std::env::consts::ARCH {
            "arm" => Some(Self::Armv7),
            "aarch64" => Some(Self::Aarch64),
            "x86_64" => Some(Self::X86_64),
            _ => None,
        }
    }

    /// The one that an ELF file was built for, by its header (elf(5): magic, class, byte order, `e_machine`).
    pub fn of_program(bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..20)?;
        let (little, machine) = (1, u16::from_le_bytes([header[18], header[19]]));
        if !header.starts_with(b"\x7fELF") || header[5] != little {
            return None;
        }
        match (header[4], machine) {
            (1, 40) => Some(Self::Armv7),
            (2, 183) => Some(Self::Aarch64),
            (2, 62) => Some(Self::X86_64),
            _ => None,
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is said of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its name.
    pub name: FileName,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: RecordHash,
}

/// What a release is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The crew whose key signed it.
    pub crew: CrewName,
    /// Its version.
    pub version: ReleaseVersion,
    /// The versions of the protocol that it speaks.
    pub protocol: Protocols,
    /// What it runs on.
    pub architecture: Architecture,
    /// Its files, each once.
    pub files: Vec<FileEntry>,
}

/// Why a release is none, or none for us.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// A file cannot be read or written.
    #[error("{0}")]
    File(#[from] io::Error),
    /// It is no release, or was damaged.
    #[error("{place}: {why}; copy the release again, or sign it anew with `beehive crew sign-release`")]
    Damaged {
        /// Where it comes from.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// Nobody whom we believe signed it.
    #[error(
        "{place}: the key of this crew did not sign this release, so it is not run here. Its owner signs with `beehive crew \
         sign-release`"
    )]
    Untrusted {
        /// Where it comes from.
        place: String,
    },
    /// Of another format.
    #[error(
        "{place} is of release format {found}, and this program knows format {FORMAT}; take an earlier release first"
    )]
    Format {
        /// Where it comes from.
        place: String,
        /// The format that it names.
        found: u32,
    },
}

/// A release whose manifest is believed and whose files are what the manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// What it is.
    pub manifest: Manifest,
    /// The manifest as it was signed.
    pub signed: Vec<u8>,
    /// The files, in the manifest's order.
    pub files: Vec<Vec<u8>>,
}

/// What is signed.
pub fn signed_bytes(document: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(DOMAIN.len() + document.len() + 8);
    for part in [DOMAIN.as_bytes(), document] {
        // far below 4 GiB
        bytes.extend(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend(part);
    }
    bytes
}

/// A manifest's bytes, signed by `sign`, which gets what is to be signed.
///
/// # Errors
/// If it cannot be written as JSON.
pub fn compose(manifest: &Manifest, sign: impl FnOnce(&[u8]) -> Signature) -> io::Result<Vec<u8>> {
    let document = serde_json::to_vec(manifest)?;
    let (hash, sig) = (RecordHash::of(&document), sign(&signed_bytes(&document)));
    let mut bytes = format!("beehive-release {FORMAT} bytes {} sha256 {hash} sig {sig}\n", document.len()).into_bytes();
    bytes.extend(document);
    Ok(bytes)
}

/// Reads a manifest, if `key` signed it.
///
/// # Errors
/// Says what is wrong with it.
pub fn parse(place: &str, bytes: &[u8], key: &PublicKey) -> Result<Manifest, PackageError> {
    let damaged = |why: String| PackageError::Damaged { place: place.to_owned(), why };
    let no = |why: &str| damaged(why.to_owned());
    if bytes.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(damaged(format!("its manifest is longer than {MAX_MANIFEST_BYTES} bytes")));
    }
    let end =
        bytes.iter().position(|byte| *byte == b'\n').ok_or_else(|| no("its manifest's first line does not end"))?;
    let line = std::str::from_utf8(&bytes[..end]).map_err(|_| no("its manifest's first line is no text"))?;
    let mut words = line.split(' ');
    if words.next() != Some("beehive-release") {
        return Err(no("its manifest does not begin with \"beehive-release\""));
    }
    match words.next().and_then(|word| word.parse::<u32>().ok()) {
        None => return Err(no("its manifest names no format")),
        Some(FORMAT) => {}
        Some(found) => return Err(PackageError::Format { place: place.to_owned(), found }),
    }
    let mut field = |name: &str| (words.next() == Some(name)).then(|| words.next()).flatten();
    let length = field("bytes").and_then(|word| word.parse::<usize>().ok());
    let hash = field("sha256").and_then(|word| word.parse::<RecordHash>().ok());
    let signature = field("sig").and_then(|word| word.parse::<Signature>().ok());
    let (Some(length), Some(hash), Some(signature)) = (length, hash, signature) else {
        return Err(no("its manifest's first line is incomplete"));
    };
    let document = &bytes[end + 1..];
    if document.len() != length || RecordHash::of(document) != hash {
        return Err(no("its manifest's checksum is wrong"));
    }
    // before anything in it is looked at
    match Ed25519.verify(key, &signed_bytes(document), &signature) {
        Verdict::Good => {}
        Verdict::Bad => return Err(PackageError::Untrusted { place: place.to_owned() }),
    }
    let manifest: Manifest =
        serde_json::from_slice(document).map_err(|error| damaged(format!("its manifest: {error}")))?;
    let once = |name| manifest.files.iter().filter(|file| file.name == name).count() == 1;
    if manifest.files.len() != FileName::ALL.len() || !FileName::ALL.into_iter().all(once) {
        return Err(no("its manifest does not name each of beehive and beehive-cut once"));
    }
    if let Some(file) = manifest.files.iter().find(|file| file.bytes > MAX_FILE_BYTES) {
        return Err(damaged(format!("{} is said to have more than {MAX_FILE_BYTES} bytes", file.name.as_str())));
    }
    Ok(manifest)
}

/// Why a file is not what its manifest says; nothing if it is.
pub fn fault(entry: &FileEntry, architecture: Architecture, bytes: &[u8]) -> Option<String> {
    let name = entry.name.as_str();
    if bytes.len() as u64 != entry.bytes {
        return Some(format!("{name} has {} of {} bytes", bytes.len(), entry.bytes));
    }
    if RecordHash::of(bytes) != entry.sha256 {
        return Some(format!("{name} is not the file that was signed: its SHA-256 is another"));
    }
    match Architecture::of_program(bytes) {
        Some(found) if found == architecture => None,
        Some(found) => Some(format!("{name} is a program for {found}, and the manifest says {architecture}")),
        None => Some(format!("{name} is no program for any Pi")),
    }
}

/// Opens a file that is one itself: a link could lead anywhere.
fn open(path: &Path) -> io::Result<std::fs::File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
    }
    Ok(file)
}

/// Reads a file of a release folder, `limit` bytes at most.
fn read(path: &Path, limit: u64) -> Result<Vec<u8>, PackageError> {
    let attempt = || {
        let mut bytes = Vec::new();
        open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = attempt().map_err(|error: io::Error| match error.raw_os_error() {
        Some(code) if code == rustix::io::Errno::LOOP.raw_os_error() => PackageError::Damaged {
            place: path.display().to_string(),
            why: "it is a symbolic link, and a release holds files alone".to_owned(),
        },
        Some(_) | None => {
            PackageError::File(io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display())))
        }
    })?;
    if bytes.len() as u64 > limit {
        return Err(PackageError::Damaged {
            place: path.display().to_string(),
            why: format!("it is larger than {limit} bytes"),
        });
    }
    Ok(bytes)
}

impl Package {
    /// Reads the release in a folder, which holds `manifest` and the files.
    ///
    /// # Errors
    /// If it is not whole or not signed by `key`.
    pub fn read_folder(folder: &Path, key: &PublicKey) -> Result<Self, PackageError> {
        let place = folder.display().to_string();
        let signed = read(&folder.join(MANIFEST), MAX_MANIFEST_BYTES)?;
        let manifest = parse(&place, &signed, key)?;
        let mut files = Vec::new();
        for entry in &manifest.files {
            let bytes = read(&folder.join(entry.name.as_str()), MAX_FILE_BYTES)?;
            if let Some(why) = fault(entry, manifest.architecture, &bytes) {
                return Err(PackageError::Damaged { place, why });
            }
            files.push(bytes);
        }
        Ok(Self { manifest, signed, files })
    }

    /// Reads the release that [`Package::write_stream`] wrote. Nothing is read beyond what the signed manifest names.
    ///
    /// # Errors
    /// If it is not whole or not signed by `key`.
    pub fn read_stream(mut from: impl Read, key: &PublicKey) -> Result<Self, PackageError> {
        let place = "the release on standard input".to_owned();
        let damaged = |why: String| PackageError::Damaged { place: place.clone(), why };
        let mut line = Vec::new();
        loop {
            let mut byte = [0];
            match from.read(&mut byte)? {
                1 if byte[0] == b'\n' => break,
                1 if line.len() < STREAM.len() + 8 => line.push(byte[0]),
                _ => return Err(damaged(format!("it does not begin with {STREAM:?}"))),
            }
        }
        let length =
            std::str::from_utf8(&line).ok().and_then(|line| line.strip_prefix(STREAM)?.strip_prefix(' ')?.parse().ok());
        let length: u64 = length.ok_or_else(|| damaged(format!("it does not begin with {STREAM:?}")))?;
        let mut exactly = |what: &str, length: u64| {
            let mut bytes = Vec::new();
            Read::by_ref(&mut from).take(length).read_to_end(&mut bytes)?;
            if bytes.len() as u64 != length {
                return Err(damaged(format!(
                    "it ends in the middle of {what}, after {} of {length} bytes",
                    bytes.len()
                )));
            }
            Ok(bytes)
        };
        if length > MAX_MANIFEST_BYTES {
            return Err(damaged(format!("its manifest is longer than {MAX_MANIFEST_BYTES} bytes")));
        }
        let signed = exactly("the manifest", length)?;
        let manifest = parse(&place, &signed, key)?;
        let mut files = Vec::new();
        for entry in &manifest.files {
            let bytes = exactly(entry.name.as_str(), entry.bytes)?;
            if let Some(why) = fault(entry, manifest.architecture, &bytes) {
                return Err(damaged(why));
            }
            files.push(bytes);
        }
        Ok(Self { manifest, signed, files })
    }

    /// Writes it as one stream.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_stream(&self, mut to: impl Write) -> io::Result<()> {
        writeln!(to, "{STREAM} {}", self.signed.len())?;
        to.write_all(&self.signed)?;
        for file in &self.files {
            to.write_all(file)?;
        }
        to.flush()
    }
}

/// The releases of one version in a folder that has one folder for each kind of processor.
///
/// # Errors
/// If one is not right, they are of different versions, or there is none.
pub fn read_all(folder: &Path, key: &PublicKey) -> Result<Vec<Package>, PackageError> {
    let mut packages: Vec<Package> = Vec::new();
    for (architecture, place) in folders(folder) {
        let package = Package::read_folder(&place, key)?;
        let damaged = |why: String| PackageError::Damaged { place: place.display().to_string(), why };
        if package.manifest.architecture != architecture {
            return Err(damaged(format!("it is a release for {}", package.manifest.architecture)));
        }
        if let Some(first) = packages.first().map(|first| &first.manifest) {
            if (&first.version, first.protocol) != (&package.manifest.version, package.manifest.protocol) {
                return Err(damaged(format!(
                    "it is of version {}, and another one of {}",
                    package.manifest.version, first.version
                )));
            }
        }
        packages.push(package);
    }
    if packages.is_empty() {
        return Err(nothing(folder));
    }
    Ok(packages)
}

fn nothing(folder: &Path) -> PackageError {
    PackageError::Damaged {
        place: folder.display().to_string(),
        why: "it has none of the folders armv7, aarch64 and x86_64, so it is no release".to_owned(),
    }
}

fn folders(folder: &Path) -> Vec<(Architecture, PathBuf)> {
    let all = Architecture::ALL.into_iter().map(|architecture| (architecture, folder.join(architecture.as_str())));
    all.filter(|(_, place)| place.symlink_metadata().is_ok()).collect()
}

/// Makes the manifests of the releases in `folder`, one for each kind of processor that has a folder there. Version and
/// protocol are read from the program itself. Gives each folder with its manifest, not written yet.
///
/// # Errors
/// If a file is missing, not a program for that processor, or has no mark.
pub fn describe(folder: &Path, crew: &CrewName) -> Result<Vec<(PathBuf, Manifest)>, PackageError> {
    let mut described: Vec<(PathBuf, Manifest)> = Vec::new();
    for (architecture, place) in folders(folder) {
        let damaged = |why: String| PackageError::Damaged { place: place.display().to_string(), why };
        let mut files = Vec::new();
        let mut marked = None;
        for name in FileName::ALL {
            let bytes = read(&place.join(name.as_str()), MAX_FILE_BYTES)?;
            let entry = FileEntry { name, bytes: bytes.len() as u64, sha256: RecordHash::of(&bytes) };
            if let Some(why) = fault(&entry, architecture, &bytes) {
                return Err(damaged(why));
            }
            match name {
                FileName::Beehive => marked = mark::find(&bytes),
                FileName::Cut => {}
            }
            files.push(entry);
        }
        let marked = marked
            .ok_or_else(|| damaged("beehive has no mark of its version: it is no beehive, or too old".to_owned()))?;
        let manifest =
            Manifest { crew: crew.clone(), version: marked.version, protocol: marked.protocol, architecture, files };
        if let Some((_, first)) = described.first() {
            if (&first.version, first.protocol) != (&manifest.version, manifest.protocol) {
                return Err(damaged(format!(
                    "it is of version {}, and another one of {}",
                    manifest.version, first.version
                )));
            }
        }
        described.push((place, manifest));
    }
    if described.is_empty() {
        return Err(nothing(folder));
    }
    Ok(described)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::keys::SignKey;
    use beehive_mqtt::Signer as _;
    use std::fs;

    pub(crate) fn key() -> SignKey {
        SignKey::from_seed(&[7; 32])
    }

    pub(crate) fn program(architecture: Architecture, text: &str) -> Vec<u8> {
        let (class, machine): (u8, u16) = match architecture {
            Architecture::Armv7 => (1, 40),
            Architecture::Aarch64 => (2, 183),
            Architecture::X86_64 => (2, 62),
        };
        let mut bytes = b"\x7fELF".to_vec();
        bytes.extend([class, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
        bytes.extend(machine.to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes
    }

    pub(crate) fn package(version: &str, architecture: Architecture) -> Package {
        let files: Vec<Vec<u8>> =
            FileName::ALL.iter().map(|name| program(architecture, &format!("{} {version}", name.as_str()))).collect();
        let entry = |(name, bytes): (FileName, &Vec<u8>)| FileEntry {
            name,
            bytes: bytes.len() as u64,
            sha256: RecordHash::of(bytes),
        };
        let manifest = Manifest {
            crew: "bee".parse().unwrap(),
            version: version.parse().unwrap(),
            protocol: Protocols::new(1, 1).unwrap(),
            architecture,
            files: FileName::ALL.into_iter().zip(&files).map(entry).collect(),
        };
        let signed = compose(&manifest, |bytes| key().sign(bytes)).unwrap();
        Package { manifest, signed, files }
    }

    fn written(package: &Package) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(MANIFEST), &package.signed).unwrap();
        for (entry, bytes) in package.manifest.files.iter().zip(&package.files) {
            fs::write(dir.path().join(entry.name.as_str()), bytes).unwrap();
        }
        dir
    }

    #[test]
    fn it_is_read_back_from_a_folder_and_from_a_stream() {
        let package = package("1.0.0", Architecture::Armv7);
        let dir = written(&package);
        assert_eq!(Package::read_folder(dir.path(), &key().public()).unwrap(), package);
        let mut stream = Vec::new();
        package.write_stream(&mut stream).unwrap();
        assert_eq!(Package::read_stream(&stream[..], &key().public()).unwrap(), package);
        for length in 0..stream.len() {
            assert!(Package::read_stream(&stream[..length], &key().public()).is_err(), "the first {length} bytes");
        }
    }

    #[test]
    fn no_bit_of_a_manifest_or_file_can_be_changed() {
        let package = package("1.0.0", Architecture::Armv7);
        let mut stream = Vec::new();
        package.write_stream(&mut stream).unwrap();
        for at in 0..stream.len() {
            let mut bytes = stream.clone();
            bytes[at] ^= 1;
            assert!(Package::read_stream(&bytes[..], &key().public()).is_err(), "byte {at}");
        }
    }

    #[test]
    fn another_key_counts_nothing() {
        let package = package("1.0.0", Architecture::Armv7);
        let other = SignKey::from_seed(&[8; 32]);
        let error = parse("x", &package.signed, &other.public()).unwrap_err();
        assert!(matches!(error, PackageError::Untrusted { .. }), "{error}");
        // a signature for something else than a release
        let document = serde_json::to_vec(&package.manifest).unwrap();
        let elsewhere = compose(&package.manifest, |_| key().sign(&document)).unwrap();
        assert!(matches!(parse("x", &elsewhere, &key().public()), Err(PackageError::Untrusted { .. })));
    }

    #[test]
    fn a_signed_manifest_with_a_name_that_is_none_of_ours_is_refused() {
        let package = package("1.0.0", Architecture::Armv7);
        let text = serde_json::to_string(&package.manifest).unwrap();
        for (from, to, why) in [
            ("\"beehive-cut\"", "\"../../../etc/passwd\"", "unknown variant"),
            ("\"beehive-cut\"", "\"/bin/sh\"", "unknown variant"),
            ("\"beehive-cut\"", "\"beehive\"", "once"),
            ("\"1.0.0\"", "\"../1.0.0\"", "no version"),
            ("\"1.0.0\"", "\"current\"", "no version"),
            ("\"armv7\"", "\"../armv7\"", "unknown variant"),
            ("\"oldest\":1", "\"oldest\":0", "none"),
            ("{\"crew\"", "{\"run\":\"x\",\"crew\"", "unknown field"),
        ] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text, "{from}");
            let (hash, sig) = (RecordHash::of(changed.as_bytes()), key().sign(&signed_bytes(changed.as_bytes())));
            let bytes = format!("beehive-release 1 bytes {} sha256 {hash} sig {sig}\n{changed}", changed.len());
            let error = parse("x", bytes.as_bytes(), &key().public()).unwrap_err().to_string();
            assert!(error.contains(why), "{to}: {error}");
        }
    }

    #[test]
    fn links_other_processors_and_what_is_no_program_are_refused() {
        let ours = package("1.0.0", Architecture::Armv7);
        let dir = written(&ours);
        let (path, aside) = (dir.path().join("beehive"), dir.path().join("aside"));
        fs::rename(&path, &aside).unwrap();
        std::os::unix::fs::symlink(&aside, &path).unwrap();
        let error = Package::read_folder(dir.path(), &key().public()).unwrap_err().to_string();
        assert!(error.contains("symbolic link"), "{error}");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(Package::read_folder(dir.path(), &key().public()).is_err());

        let entry = |bytes: &[u8]| FileEntry {
            name: FileName::Beehive,
            bytes: bytes.len() as u64,
            sha256: RecordHash::of(bytes),
        };
        for (bytes, why) in [
            (program(Architecture::Aarch64, ""), "for aarch64"),
            (b"#!/bin/sh\nexec rm -rf /\n".to_vec(), "no program"),
            (b"\x7fELF".to_vec(), "no program"),
            (Vec::new(), "no program"),
        ] {
            let found = fault(&entry(&bytes), Architecture::Armv7, &bytes).unwrap();
            assert!(found.contains(why), "{found}");
        }
        for architecture in Architecture::ALL {
            assert_eq!(Architecture::of_program(&program(architecture, "")), Some(architecture));
        }
    }

    #[test]
    fn a_folder_of_releases_is_of_one_version() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read_all(dir.path(), &key().public()).unwrap_err().to_string().contains("no release"));
        let put = |package: &Package, name: &str| fs::rename(written(package).keep(), dir.path().join(name)).unwrap();
        put(&package("1.0.0", Architecture::Armv7), "armv7");
        put(&package("1.0.0", Architecture::Aarch64), "aarch64");
        assert_eq!(read_all(dir.path(), &key().public()).unwrap().len(), 2);
        put(&package("1.0.1", Architecture::X86_64), "x86_64");
        assert!(read_all(dir.path(), &key().public()).unwrap_err().to_string().contains("1.0.1"));
        fs::remove_dir_all(dir.path().join("x86_64")).unwrap();
        fs::rename(dir.path().join("armv7"), dir.path().join("x86_64")).unwrap();
        assert!(read_all(dir.path(), &key().public()).unwrap_err().to_string().contains("for armv7"));
    }
}
