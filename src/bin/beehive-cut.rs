//! The final hook: cuts the Pi's power through the OnOff SHIM when everything is unmounted, or says why it does not.
//!
//! systemd runs it as `/usr/lib/systemd/system-shutdown/beehive-cut VERB` in the last phase of a shutdown
//! (systemd-shutdown(8)): the services are stopped, every other process is gone, the file systems are unmounted or
//! read-only, `/` and `/run` are there, and after 90 s it goes on without its hooks. This is the only program that ever
//! drives BCM4 low. It has no runtime, no configuration and no state; the rules are in [`beehive_board::cut`], which
//! reads nothing itself. In order:
//!
//! 1. What nothing can change any more: the verb, the flag of this boot's power-off, the feed.
//! 2. The mounts. If one is writable: sync, the kernel's emergency remount (`u` to `/proc/sysrq-trigger`), a bounded wait.
//! 3. The button: released and steady, or no cut. A held button keeps the SHIM's switch closed whatever BCM4 does.
//! 4. The mounts once more, since up to 75 s went by.
//! 5. BCM4 as an output *with initial value high* in one request, so that it never passes through low by accident; then
//!    low for 2 s. Whoever is alive after that says that the cut failed and ends; systemd halts the Pi.
//!
//! Whom it believes: the folder of flag and feed must be root's, and nobody may write there but root and the folder's group,
//! which is the daemon's. The flag must be root's own file, so a daemon that somebody took over arms no cut. The feed is the
//! daemon's word.
//!
//! Every decision goes to the kernel's log (so to netconsole and pstore) and to the console: nothing else is left to
//! write to. The program does not fail: whatever goes wrong is a reason to leave the power on.

use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant as Stopwatch};

use beehive_board::cut::{
    BUTTON_LINE, CUT_LOW_MS, Decision, Evidence, FEED_PATH, FLAG_PATH, FeedRecord, POWER_LINE, REMOUNT_WAIT_MS,
    Refusal, ReleaseState, ReleaseWait, UNREADABLE_MOUNT, Unescaped, Verb, decide, writable_block_mount,
};
use beehive_board::gesture::Level;
use beehive_board::time::Instant;
use gpiocdev::Request;
use gpiocdev::chip::{Chip, chips};
use gpiocdev::line::{Bias, Value};

/// Labels of the chips that carry the header's lines: BCM2835 to BCM2837 (Pi 1 to 3, Zero) and BCM2711 (Pi 4). The
/// number of a chip depends on who came first, its label does not.
const CHIP_LABELS: [&str; 2] = ["pinctrl-bcm2835", "pinctrl-bcm2711"];

/// How the kernel names us as the holder of a line.
const CONSUMER: &str = "beehive-cut";

/// Between two samples of the button, and between two looks at the mounts: a fifth of the time it must be steady.
const SAMPLE_MS: u64 = 20;

/// More than any mount table of a Pi; one that is larger counts as unreadable.
const MOUNTINFO_MAX: u64 = 1 << 20;

/// More than a boot id or a feed record.
const SMALL_FILE_MAX: u64 = 4096;

const O_NOCTTY: i32 = rustix::fs::OFlags::NOCTTY.bits() as i32;
const O_NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits() as i32;
const O_NOFOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits() as i32;

/// Others may write.
const WRITABLE_BY_OTHERS: u32 = 0o002;

/// The group or others may write.
const WRITABLE_BY_MORE: u32 = 0o022;

/// Whose word a file in the folder is.
#[derive(Clone, Copy)]
enum Word {
    /// Root's: nobody else's file is believed.
    Root,
    /// The daemon's: whoever may write in the folder.
    Daemon,
}

fn main() {
    let argument = std::env::args().nth(1).unwrap_or_default();
    let verb = Verb::parse(&argument);
    match run(verb) {
        Ok(never) => report(&never),
        Err(reason) => report(&reason),
    }
}

/// What is said when the machine lives on after the cut.
fn survived() -> String {
    format!(
        "the power is still there {CUT_LOW_MS} ms after BCM{POWER_LINE} went low: the cut failed; halted, 5 V still \
         present (is the Pi fed past the SHIM?)"
    )
}

/// Cuts, or says why not. What it answers after a cut is for the machine that the cut did not stop.
fn run(verb: Verb) -> Result<String, String> {
    let boot_id = read("/proc/sys/kernel/random/boot_id", SMALL_FILE_MAX).unwrap_or_default();
    let flag = believed(FLAG_PATH, Word::Root);
    let record = believed(FEED_PATH, Word::Daemon).and_then(|text| match FeedRecord::parse(&text) {
        Ok(record) => Some(record),
        Err(error) => {
            report(&error);
            None
        }
    });
    if let Some(record) = &record {
        report(&format!("feed {} ({})", record.feed, record.evidence));
    }
    let ask = |writable: Option<&str>| {
        let evidence = Evidence {
            verb,
            flag: flag.as_deref(),
            boot_id: &boot_id,
            writable,
            feed: record.clone(),
            now_boottime_ms: boottime().as_ms(),
        };
        match decide(&evidence) {
            Decision::Cut => Ok(()),
            Decision::Refuse(refusal) => Err(refusal.to_string()),
        }
    };

    ask(None)?;
    if let Some(mount) = writable() {
        report(&format!("{} is still writable: remounting everything read-only", Unescaped(&mount)));
        remount_read_only();
    }
    ask(writable().as_deref())?;

    let chip = find_chip()?;
    wait_for_release(&chip)?;
    ask(writable().as_deref())?;
    cut(&chip)?;
    Ok(survived())
}

/// The mount point of a writable block-backed file system, if there is one. A table that cannot be read has one.
fn writable() -> Option<String> {
    let text = read("/proc/self/mountinfo", MOUNTINFO_MAX).unwrap_or_default();
    if text.len() as u64 == MOUNTINFO_MAX {
        return Some(UNREADABLE_MOUNT.to_owned());
    }
    writable_block_mount(&text).map(str::to_owned)
}

/// Sync, and the kernel's emergency remount. Both can hang on a disk that does not answer, so they run in a thread of
/// their own, and the wait ends when no file system is writable or the time is up.
fn remount_read_only() {
    thread::spawn(|| {
        rustix::fs::sync();
        let trigger = OpenOptions::new().write(true).open("/proc/sysrq-trigger");
        if let Err(error) = trigger.and_then(|mut file| file.write_all(b"u")) {
            report(&format!("the kernel takes no emergency remount (/proc/sysrq-trigger: {error})"));
        }
    });
    let started = Stopwatch::now();
    while started.elapsed() < Duration::from_millis(REMOUNT_WAIT_MS) && writable().is_some() {
        thread::sleep(Duration::from_millis(SAMPLE_MS));
    }
}

fn find_chip() -> Result<PathBuf, String> {
    let paths = chips().map_err(|error| no_cut(&format!("cannot list the GPIO chips: {error}")))?;
    paths
        .into_iter()
        .find(|path| {
            Chip::from_path(path)
                .and_then(|chip| chip.info())
                .is_ok_and(|info| CHIP_LABELS.contains(&info.label.as_str()))
        })
        .ok_or_else(|| no_cut(&format!("no GPIO chip is labelled {}", CHIP_LABELS.join(" or "))))
}

fn wait_for_release(chip: &Path) -> Result<(), String> {
    let failed = |error: gpiocdev::Error| no_cut(&busy(chip, BUTTON_LINE, &error));
    let button = Request::builder()
        .on_chip(chip)
        .with_consumer(CONSUMER)
        .with_line(BUTTON_LINE)
        .as_input()
        .with_bias(Bias::PullUp)
        .request()
        .map_err(failed)?;
    let mut wait = ReleaseWait::new(boottime());
    let mut said = false;
    loop {
        let level = match button.value(BUTTON_LINE).map_err(failed)? {
            Value::Inactive => Level::Pressed,
            Value::Active => Level::Released,
        };
        match wait.sample(boottime(), level) {
            ReleaseState::Released => return Ok(()),
            ReleaseState::GaveUp => return Err(Refusal::ButtonHeld.to_string()),
            ReleaseState::Wait => {}
        }
        if level == Level::Pressed && !said {
            said = true;
            report(&"the button is held: waiting for its release");
        }
        thread::sleep(Duration::from_millis(SAMPLE_MS));
    }
}

fn cut(chip: &Path) -> Result<(), String> {
    let failed = |error: gpiocdev::Error| no_cut(&busy(chip, POWER_LINE, &error));
    let line = Request::builder()
        .on_chip(chip)
        .with_consumer(CONSUMER)
        .with_line(POWER_LINE)
        .as_output(Value::Active)
        .request()
        .map_err(failed)?;
    report(&format!("cutting the power: BCM{POWER_LINE} goes low"));
    line.set_value(POWER_LINE, Value::Inactive).map_err(failed)?;
    thread::sleep(Duration::from_millis(CUT_LOW_MS));
    Ok(())
}

fn no_cut(why: &str) -> String {
    format!("{why}: the power stays on")
}

/// The error of a line, with the name of whoever holds it: that is what somebody has to remove.
fn busy(chip: &Path, line: u32, error: &gpiocdev::Error) -> String {
    let info = Chip::from_path(chip).and_then(|chip| chip.line_info(line));
    match info {
        Ok(info) if info.used && info.consumer != CONSUMER => {
            format!("BCM{line} is held by `{}`", info.consumer)
        }
        Ok(_) | Err(_) => format!("BCM{line}: {error}"),
    }
}

/// `CLOCK_BOOTTIME`, the clock of the daemon's feed record.
fn boottime() -> Instant {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let ms = now.tv_sec * 1000 + now.tv_nsec as i64 / 1_000_000;
    Instant::from_ms(u64::try_from(ms).unwrap_or_default())
}

/// The text of a file of the folder, if it is there and whoever wrote it may be believed.
fn believed(path: &str, word: Word) -> Option<String> {
    let path = Path::new(path);
    let refused = |why: &str| {
        report(&format!("{} is not believed: {why}", path.display()));
        None
    };
    let folder = path.parent()?.symlink_metadata().ok()?;
    if !folder.is_dir() || folder.uid() != 0 || folder.mode() & WRITABLE_BY_OTHERS != 0 {
        return refused("its folder is not root's, or everybody may write there");
    }
    // a link or a pipe in its place must neither lead elsewhere nor hold us up
    let file = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path);
    let file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => return refused(&error.to_string()),
    };
    let found = file.metadata().ok()?;
    if !found.is_file() || found.nlink() != 1 || found.mode() & WRITABLE_BY_MORE != 0 {
        return refused("it is no file of its own, or others may write it");
    }
    match word {
        Word::Root if found.uid() != 0 => refused("it is not root's"),
        Word::Root | Word::Daemon => text_of(file, SMALL_FILE_MAX),
    }
}

/// The text of a file, at most `max` bytes of it; `None` if it is not there or is not text.
fn read(path: impl AsRef<Path>, max: u64) -> Option<String> {
    text_of(File::open(path).ok()?, max)
}

fn text_of(file: File, max: u64) -> Option<String> {
    let mut text = String::new();
    file.take(max).read_to_string(&mut text).ok()?;
    Some(text)
}

/// One line to the kernel's log and to the console. Neither may block or stop us: there is nobody left to tell.
fn report(what: &dyn Display) {
    let open = |path| OpenOptions::new().write(true).custom_flags(O_NOCTTY | O_NONBLOCK).open(path);
    // Level 4 (warning): kept by every log, shown by a console that is not quiet.
    let _ = open("/dev/kmsg").and_then(|mut log| write_whole(&mut log, &format!("<4>beehive-cut: {what}\n")));
    let _ = open("/dev/console").and_then(|mut tty| write_whole(&mut tty, &format!("beehive-cut: {what}\r\n")));
}

/// In one write: the kernel makes a record of each.
fn write_whole(file: &mut File, text: &str) -> std::io::Result<()> {
    file.write_all(text.as_bytes())
}
