//! `beehive image prepare`: a stock image and a [`Card`] become the image of one node's card.
//!
//! 1. The image is looked at: partition table, boot partition, which image it is. Nothing is written for one that is not
//!    known.
//! 2. Every change is made in memory ([`Window`]). What cannot be done ends here, and nothing was changed.
//! 3. The image is copied to `OUT.part`; with `--in-place` it is renamed to `IMG.part`.
//! 4. The changed blocks are written and the file is synced. Then the card's secret is kept in the crew's folder, and the file
//!    gets its name. So a file with the right name is whole and its secret is known, a run that was cut off leaves one that ends
//!    in `.part`, and one that was refused or failed before has cost no secret.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::boot::{Boot, Room};
use super::card::{Card, Credentials};
use super::disk::{self, Place, Window};
use super::kind::{Evidence, Kind};
use super::plan::{self, OWN, Present, Wish};
use super::{refused, unreadable};
use crate::console::exit::{ExitCode, Trouble};
use crate::crew::files::named;

/// Where the prepared image goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Into a new file.
    Copy(PathBuf),
    /// Into the image itself.
    InPlace,
    /// Nowhere: it is only said what would be changed.
    DryRun,
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was not there.
    Created,
    /// It was there, with other content.
    Changed,
    /// It was there and is not any more.
    Removed,
}

impl Change {
    /// A stable word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Removed => "removed",
        }
    }
}

/// One file of the boot partition that was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Which.
    pub path: String,
    /// How.
    pub change: Change,
    /// How large it is now.
    pub bytes: u64,
    /// What it is for.
    pub what: &'static str,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// Which image it is.
    pub kind: Kind,
    /// The boot partition's name.
    pub label: String,
    /// Every file that was changed.
    pub changed: Vec<Changed>,
    /// How many were as they should be.
    pub unchanged: usize,
    /// The mode that the image itself had, if others might read it and do not any more.
    pub mode_was: Option<u32>,
    /// Blocks of the image that were written, or would be.
    pub written_bytes: u64,
    /// How long the copy took, with its way to the disk.
    pub copying: Duration,
    /// How long everything else took.
    pub preparing: Duration,
}

/// What the plan needs to know of the files that are there.
#[derive(Debug, Default)]
struct There {
    files: Vec<(String, Vec<u8>)>,
    ours: Vec<String>,
}

impl Present for There {
    fn file(&self, path: &str) -> Option<&[u8]> {
        self.files.iter().find(|(name, _)| name.eq_ignore_ascii_case(path)).map(|(_, bytes)| bytes.as_slice())
    }

    fn ours(&self) -> Vec<String> {
        self.ours.clone()
    }
}

/// The files of the uppermost folder that a plan looks at.
const LOOKED_AT: [&str; 13] = [
    "cmdline.txt",
    "config.txt",
    "firstrun.sh",
    "custom.toml",
    "issue.txt",
    "os-release",
    "sysconf.txt",
    "user-data",
    "user-data.before-beehive",
    "meta-data",
    "meta-data.before-beehive",
    "network-config",
    "network-config.before-beehive",
];

type Disk<'a, 'b> = &'a mut Window<&'b mut File>;

fn look(boot: &Boot<Disk<'_, '_>>) -> io::Result<(There, Evidence)> {
    let names = boot.names()?;
    let mut there = There::default();
    for name in LOOKED_AT {
        if let Some(bytes) = boot.read(name)? {
            there.files.push((name.to_owned(), bytes));
        }
    }
    there.ours = names.iter().filter(|name| name.starts_with(OWN)).cloned().collect();
    let text = |name: &str| there.file(name).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let evidence =
        Evidence { names, config: text("config.txt"), issue: text("issue.txt"), os_release: text("os-release") };
    Ok((there, evidence))
}

/// What is to be done with a file, if anything.
fn difference(boot: &Boot<Disk<'_, '_>>, wish: &Wish) -> io::Result<Option<Change>> {
    Ok(match (boot.read(&wish.path)?, &wish.bytes) {
        (None, Some(_)) => Some(Change::Created),
        (Some(before), Some(after)) if before == **after => None,
        (Some(_), Some(_)) => Some(Change::Changed),
        (Some(_), None) => Some(Change::Removed),
        (None, None) => None,
    })
}

/// Refuses what there is no room for. What is replaced frees its room only when it is written, so that is not counted.
fn refuse_too_much(room: Room, changed: &[(Change, &Wish)]) -> Result<(), Trouble> {
    let needed: u64 = changed
        .iter()
        .filter_map(|(_, wish)| wish.bytes.as_ref())
        .map(|bytes| room.taken_by(bytes.len() as u64) + room.cluster_bytes)
        .sum();
    if needed <= room.free_bytes {
        return Ok(());
    }
    Err(refused(
        "the boot partition is too full",
        format!("{needed} bytes are needed, {} are free", room.free_bytes),
        "take a newer image, or leave the package out and install it from elsewhere",
    ))
}

fn no_image(image: &Path, error: &disk::DiskError) -> Trouble {
    refused(format!("{} is no image of a Pi's card", image.display()), error.to_string(), "give an unpacked image")
        .with_code("unknown-image")
}

fn no_fat(image: &Path, error: &io::Error) -> Trouble {
    refused(
        format!("the boot partition of {} cannot be worked with", image.display()),
        error.to_string(),
        "give a stock image; a file system with an error is not mended here",
    )
    .with_code("unknown-image")
}

fn open_to_others(image: &Path, error: &io::Error) -> Trouble {
    refused(
        format!("others may read {}, and a secret is to be in it", image.display()),
        format!("its mode cannot be made 0600: {error}"),
        "give --out FILE, which is made for its owner alone; nothing was changed",
    )
}

/// Makes the changes in `window`, and says what they are. Nothing reaches the disk.
fn change(image: &Path, card: &Card, window: Disk<'_, '_>) -> Result<Prepared, Trouble> {
    let fat = |error: io::Error| no_fat(image, &error);
    let boot = Boot::open(window).map_err(fat)?;
    let (there, evidence) = look(&boot).map_err(fat)?;
    let kind = evidence.kind().map_err(|unknown| {
        refused(
            format!("{} is none of the images that are known", image.display()),
            unknown.to_string(),
            "docs/image.md says which images are; nothing was changed",
        )
        .with_code("unknown-image")
    })?;
    let wishes = plan::wishes(kind, card, &there).map_err(|error| {
        refused(format!("{} ({kind}) is not prepared", image.display()), error.to_string(), "nothing was changed")
            .with_code("image")
    })?;
    let mut changed = Vec::new();
    for wish in &wishes {
        if let Some(change) = difference(&boot, wish).map_err(fat)? {
            changed.push((change, wish));
        }
    }
    if !changed.is_empty() {
        refuse_too_much(boot.room().map_err(fat)?, &changed)?;
    }
    for (_, wish) in &changed {
        match &wish.bytes {
            Some(bytes) => boot.write(&wish.path, bytes),
            None => boot.remove(&wish.path),
        }
        .map_err(fat)?;
    }
    let label = boot.label();
    boot.close().map_err(fat)?;
    Ok(Prepared {
        kind,
        label,
        unchanged: wishes.len() - changed.len(),
        changed: changed
            .into_iter()
            .map(|(change, wish)| Changed {
                path: wish.path.clone(),
                change,
                bytes: wish.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
                what: wish.what,
            })
            .collect(),
        mode_was: None,
        written_bytes: 0,
        copying: Duration::ZERO,
        preparing: Duration::ZERO,
    })
}

/// The name of a file that is not finished.
pub fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What was renamed is so after a power cut too.
fn settle(path: &Path) -> io::Result<()> {
    File::open(parent(path))?.sync_all()
}

fn create(path: &Path, card: &Card) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    #[cfg(unix)]
    match &card.credentials {
        Credentials::NodeKeys(_) | Credentials::Enrolment(_) => {
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        }
        Credentials::None => {}
    }
    options.open(path)
}

/// An image that is changed in place and holds a secret is its owner's alone, before a byte of the secret is in it. Gives the mode
/// that it had.
#[cfg(unix)]
fn close(disk: &File, card: &Card) -> io::Result<Option<u32>> {
    use std::os::unix::fs::PermissionsExt as _;
    match &card.credentials {
        Credentials::None => return Ok(None),
        Credentials::NodeKeys(_) | Credentials::Enrolment(_) => {}
    }
    let mode = disk.metadata()?.permissions().mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(None);
    }
    disk.set_permissions(fs::Permissions::from_mode(0o600))?;
    Ok(Some(mode))
}

#[cfg(not(unix))]
fn close(_: &File, _: &Card) -> io::Result<Option<u32>> {
    Ok(None)
}

/// Finds the boot partition and makes the changes, in memory.
fn work<'a>(image: &Path, card: &Card, disk: &'a mut File) -> Result<(Window<&'a mut File>, Prepared), Trouble> {
    let place: Place = disk::boot_partition(disk).map_err(|error| no_image(image, &error))?;
    let mut window = Window::new(disk, place);
    let mut prepared = change(image, card, &mut window)?;
    prepared.written_bytes = window.changed_bytes();
    Ok((window, prepared))
}

/// Prepares `image` for `card`.
///
/// # Errors
/// As [`prepare_and`].
pub fn prepare(image: &Path, card: &Card, target: &Target) -> Result<Prepared, Trouble> {
    prepare_and(image, card, target, &mut || Ok(()))
}

/// Prepares `image` for `card`. `keep` is called when the image is written, before it has its name; it is not called by a dry run.
///
/// # Errors
/// If the image is not known, is not as it should be, or cannot be read or written; or what `keep` says. A file that is not
/// finished ends in `.part`.
pub fn prepare_and(
    image: &Path,
    card: &Card,
    target: &Target,
    keep: &mut dyn FnMut() -> Result<(), Trouble>,
) -> Result<Prepared, Trouble> {
    let begun = Instant::now();
    let failed = |path: &Path, doing: &str, error: &io::Error| {
        Trouble::new(ExitCode::Failed, "the image was not prepared", named(path, doing, error).to_string(), "")
    };
    // after `keep`
    let unnamed = |path: &Path, doing: &str, error: &io::Error| {
        let fix = match &card.credentials {
            Credentials::Enrolment(_) => {
                "run it again, without --renew: the secret is kept in the crew's folder already"
            }
            Credentials::None | Credentials::NodeKeys(_) => "run it again",
        };
        Trouble { fix: fix.to_owned(), ..failed(path, doing, error) }
    };
    let regular = fs::metadata(image).map_err(|error| unreadable(&named(image, "read", &error)))?.is_file();
    if !regular {
        return Err(refused(
            format!("{} is no file", image.display()),
            "a card is not prepared where it is",
            "prepare the image, then write it with `beehive image flash`",
        ));
    }
    let mut source = File::open(image).map_err(|error| unreadable(&named(image, "open", &error)))?;
    let (window, mut prepared) = work(image, card, &mut source)?;
    match target {
        Target::DryRun => {}
        Target::InPlace if prepared.written_bytes == 0 => {
            let disk = File::open(image).map_err(|error| failed(image, "open", &error))?;
            prepared.mode_was = close(&disk, card).map_err(|error| open_to_others(image, &error))?;
            keep()?;
        }
        Target::InPlace => {
            // the file itself is renamed, not a name that leads to it
            let image = &fs::canonicalize(image).map_err(|error| unreadable(&named(image, "read", &error)))?;
            let part = unfinished(image);
            // a file of that name may be what a run that was cut off left, and the only one there is
            if part.exists() {
                return Err(refused(
                    format!("{} is there", part.display()),
                    "a run in place that was cut off leaves such a file",
                    "remove it if you do not need it",
                ));
            }
            let mut disk = OpenOptions::new().write(true).open(image).map_err(|error| failed(image, "open", &error))?;
            prepared.mode_was = close(&disk, card).map_err(|error| open_to_others(image, &error))?;
            fs::rename(image, &part).map_err(|error| failed(image, "rename", &error))?;
            window.commit(&mut disk).map_err(|error| failed(&part, "write", &error))?;
            disk.sync_all().map_err(|error| failed(&part, "write", &error))?;
            keep().map_err(|trouble| {
                let (part, image) = (part.display(), image.display());
                let fix = format!(
                    "what is in {part} is whole but for its secret: rename it to {image}, and prepare it again"
                );
                Trouble { fix, ..trouble }
            })?;
            let fix = format!("rename {} to {}: it is whole, and its secret is kept", part.display(), image.display());
            let unnamed = |error: &io::Error| Trouble { fix, ..failed(&part, "rename", error) };
            fs::rename(&part, image).and_then(|()| settle(image)).map_err(|error| unnamed(&error))?;
        }
        Target::Copy(out) => {
            if out.exists() {
                return Err(refused(
                    format!("{} is there", out.display()),
                    "no file is overwritten",
                    "remove it, or give another name with --out",
                ));
            }
            let part = unfinished(out);
            match fs::remove_file(&part) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&part, "remove", &error)),
                Ok(()) | Err(_) => {}
            }
            let mut disk = create(&part, card).map_err(|error| failed(&part, "make", &error))?;
            let copying = Instant::now();
            let result = copy(image, &mut disk).and_then(|()| {
                prepared.copying = copying.elapsed();
                window.commit(&mut disk)?;
                disk.sync_all()
            });
            result.map_err(|error| failed(&part, "write", &error)).inspect_err(|_| {
                // it is of no use to anybody
                let _ = fs::remove_file(&part);
            })?;
            keep().inspect_err(|_| {
                let _ = fs::remove_file(&part);
            })?;
            // no other file is taken for ours, not even one that came meanwhile
            fs::hard_link(&part, out)
                .and_then(|()| fs::remove_file(&part))
                .or_else(|error| match error.kind() {
                    io::ErrorKind::AlreadyExists => Err(error),
                    // FAT and some network file systems have no second name for a file
                    _ => fs::rename(&part, out),
                })
                .map_err(|error| unnamed(out, "make", &error))?;
            settle(out).map_err(|error| unnamed(out, "write", &error))?;
        }
    }
    prepared.preparing = begun.elapsed().saturating_sub(prepared.copying);
    Ok(prepared)
}

/// Copies the image, and brings the copy to the disk: what the changes cost is not to be hidden behind it.
fn copy(image: &Path, to: &mut File) -> io::Result<()> {
    io::copy(&mut File::open(image)?, to)?;
    to.sync_all()
}
