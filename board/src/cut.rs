//! The decisions of the final hook: may the power be cut now?
//!
//! `beehive-cut` runs in systemd's last phase (`/usr/lib/systemd/system-shutdown/`, verb in `argv[1]`). By then the
//! services are stopped and the file systems are unmounted or read-only. This module decides, from what that program
//! read, whether it may drive the OnOff SHIM's power line low. It reads nothing itself, so every rule is tested here.
//!
//! The cut happens only if all of this is true:
//!
//! 1. The verb is `poweroff`. Reboot and kexec must keep the power, halt is asked for by somebody who wants it on.
//! 2. A flag that the power-off transaction of *this boot* wrote lies at [`FLAG_PATH`].
//! 3. The feed is the SHIM, by a fresh record at [`FEED_PATH`]. Behind a PoE HAT the SHIM's switch cuts nothing
//!    (*inferred* from the circuit: the HAT feeds the 5 V rail on the far side of the switch).
//! 4. No block-backed file system is writable ([`writable_block_mount`]).
//! 5. The button is released ([`ReleaseWait`]): a held button keeps the SHIM's switch closed whatever the power line
//!    does (*inferred* from the netlist in pimoroni/clean-shutdown, `simulation/`; it fits that project's issue 36).
//!
//! What cannot be read counts against the cut: an unreadable mount table is a writable disk, a broken feed record is a
//! missing one. The Pi then stays halted with its power on, which loses nothing.
//!
//! This is the only module of the crate that names the power line.

use core::fmt;
use core::fmt::Write as _;

use heapless::String;
use serde::{Deserialize, Serialize};

use crate::gesture::Level;
use crate::time::Instant;

/// BCM number of the line that is both the SHIM's button and its LED. Active low.
pub const BUTTON_LINE: u32 = 17;

/// BCM number of the SHIM's power line. High keeps the Pi alive, low cuts its 5 V at once.
///
/// Only `beehive-cut` requests it, as an output with an initial value. **The daemon never requests it**, under any
/// backend: no type of the daemon's can name it.
pub const POWER_LINE: u32 = 4;

/// Where the daemon keeps the [`FeedRecord`]. In `/run`, so that it is gone after a boot, and not in the daemon's
/// runtime directory, which would vanish with the daemon before the hook reads it.
pub const FEED_PATH: &str = "/run/beehive/feed";

/// Where the power-off transaction leaves its flag: the boot id, as text.
pub const FLAG_PATH: &str = "/run/beehive/poweroff";

/// A feed record older than this says nothing.
///
/// The daemon rewrites the record far more often. It stops before the hook runs, by as much as systemd needs to stop
/// everything else (90 s a service by default, several of them in a row at worst); ten minutes leave room for that and
/// still do not trust a daemon that died an hour before somebody plugged in another feed.
pub const FEED_STALE_AFTER_MS: u64 = 10 * 60 * 1_000;

/// How long the hook waits for the button's release. systemd ends its hooks after 90 s; this leaves room for the
/// remount before it and for the cut after it.
pub const RELEASE_WAIT_MS: u64 = 75_000;

/// How long the line must read released without a break before it counts: longer than any bounce of the button.
pub const RELEASE_STEADY_MS: u64 = 100;

/// How long the hook waits, after an emergency read-only remount, for the last writable file system to go.
pub const REMOUNT_WAIT_MS: u64 = 8_000;

/// How long the power line is held low. Charge left on the 5 V rail can close the SHIM's switch again after a shorter
/// pulse. Whoever is alive afterwards has a cut that failed.
pub const CUT_LOW_MS: u64 = 2_000;

/// systemd's limit for its shutdown hooks (`DEFAULT_TIMEOUT_USEC` in its `shutdown.c`).
pub const HOOK_LIMIT_MS: u64 = 90_000;

const _: () = assert!(REMOUNT_WAIT_MS + RELEASE_WAIT_MS + CUT_LOW_MS < HOOK_LIMIT_MS);

/// Room for the evidence of a feed record, in bytes.
pub const EVIDENCE_LEN: usize = 96;

/// What systemd says it is about to do, from the hook's first argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// `poweroff`: the only one that may cut.
    PowerOff,
    /// `halt`: stop, power stays on.
    Halt,
    /// `reboot`.
    Reboot,
    /// `kexec`: another kernel starts in place.
    Kexec,
    /// Anything else, also a verb that a later systemd invents.
    Other,
}

impl Verb {
    /// Reads the argument exactly as systemd writes it; no other spelling means a power-off.
    pub fn parse(argument: &str) -> Self {
        match argument {
            "poweroff" => Self::PowerOff,
            "halt" => Self::Halt,
            "reboot" => Self::Reboot,
            "kexec" => Self::Kexec,
            _ => Self::Other,
        }
    }

    /// The verb's name; `other` for one that is not known.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PowerOff => "poweroff",
            Self::Halt => "halt",
            Self::Reboot => "reboot",
            Self::Kexec => "kexec",
            Self::Other => "other",
        }
    }
}

/// Where the Pi's 5 V come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Feed {
    /// Through the OnOff SHIM: it can cut.
    Shim,
    /// Through a PoE HAT: the SHIM cannot cut; only the switch port can.
    Poe,
    /// Not known, so never cut.
    Unknown,
}

impl Feed {
    /// The name on the wire, in the configuration and in the feed record.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shim => "shim",
            Self::Poe => "poe",
            Self::Unknown => "unknown",
        }
    }

    /// The feed of that name; exact, lower case.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "shim" => Some(Self::Shim),
            "poe" => Some(Self::Poe),
            "unknown" => Some(Self::Unknown),
            _ => None,
        }
    }
}

impl fmt::Display for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the daemon last knew about the feed, as it lies at [`FEED_PATH`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedRecord {
    /// The feed.
    pub feed: Feed,
    /// Why the daemon thinks so, for the kernel log. One line.
    pub evidence: String<EVIDENCE_LEN>,
    /// `CLOCK_BOOTTIME` at the time of writing, in milliseconds.
    pub written_boottime_ms: u64,
}

/// Why a feed record cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedRecordError {
    /// The last line has no end: the file was read or written in part.
    Truncated,
    /// A line is not `key=value` with a known key.
    UnknownLine,
    /// A key stands twice.
    Duplicate,
    /// The feed is none of `shim`, `poe`, `unknown`.
    BadFeed,
    /// The evidence is longer than [`EVIDENCE_LEN`] bytes.
    LongEvidence,
    /// The time is not a number of milliseconds.
    BadTime,
    /// A key is missing.
    Incomplete,
}

impl fmt::Display for FeedRecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "the feed record does not end with a line end: it is cut short",
            Self::UnknownLine => "the feed record has a line that is none of feed=, evidence=, boottime_ms=",
            Self::Duplicate => "the feed record has the same key twice",
            Self::BadFeed => "the feed record's feed is none of shim, poe, unknown",
            Self::LongEvidence => "the feed record's evidence is longer than 96 bytes",
            Self::BadTime => "the feed record's boottime_ms is not a whole number of milliseconds",
            Self::Incomplete => "the feed record lacks one of feed=, evidence=, boottime_ms=",
        })
    }
}

impl core::error::Error for FeedRecordError {}

impl FeedRecord {
    /// Reads a record. Strict, because a cut hangs on it: three known keys, each once, every line ended.
    ///
    /// # Errors
    /// [`FeedRecordError`] says what is wrong; the caller treats each as a missing record.
    pub fn parse(text: &str) -> Result<Self, FeedRecordError> {
        let body = text.strip_suffix('\n').ok_or(FeedRecordError::Truncated)?;
        let mut feed = None;
        let mut evidence = None;
        let mut written = None;
        for line in body.split('\n') {
            let (key, value) = line.split_once('=').ok_or(FeedRecordError::UnknownLine)?;
            match key {
                "feed" => {
                    let parsed = Feed::parse(value).ok_or(FeedRecordError::BadFeed)?;
                    set_once(&mut feed, parsed)?;
                }
                "evidence" => {
                    let parsed = String::try_from(value).map_err(|()| FeedRecordError::LongEvidence)?;
                    set_once(&mut evidence, parsed)?;
                }
                "boottime_ms" => {
                    let parsed = value.parse().map_err(|_| FeedRecordError::BadTime)?;
                    set_once(&mut written, parsed)?;
                }
                _ => return Err(FeedRecordError::UnknownLine),
            }
        }
        match (feed, evidence, written) {
            (Some(feed), Some(evidence), Some(written_boottime_ms)) => Ok(Self { feed, evidence, written_boottime_ms }),
            _ => Err(FeedRecordError::Incomplete),
        }
    }

    /// The record as text. Control characters in the evidence become spaces, so that it stays one line.
    pub fn render(&self) -> String<256> {
        let mut text = String::new();
        // 256 bytes hold the longest record (96 of evidence and 57 of the rest), so nothing here can fail.
        let _ = write!(text, "feed={}\nevidence=", self.feed.as_str());
        for c in self.evidence.chars() {
            let _ = text.push(if c.is_control() { ' ' } else { c });
        }
        let _ = write!(text, "\nboottime_ms={}\n", self.written_boottime_ms);
        text
    }
}

fn set_once<T>(slot: &mut Option<T>, value: T) -> Result<(), FeedRecordError> {
    if slot.is_some() {
        return Err(FeedRecordError::Duplicate);
    }
    *slot = Some(value);
    Ok(())
}

/// What [`writable_block_mount`] answers when the mount table is empty or has a line that it cannot read.
pub const UNREADABLE_MOUNT: &str = "(unreadable line in mountinfo)";

/// File systems that keep their data on a disk or flash although their device number is anonymous (major 0) and their
/// source may lie outside `/dev`: ZFS names a pool, UBIFS a volume, bcachefs several devices, btrfs any of its devices.
const ANONYMOUS_DISK_TYPES: [&str; 4] = ["btrfs", "bcachefs", "ubifs", "zfs"];

/// The mount point of the first writable block-backed file system in the text of `/proc/self/mountinfo`, as it stands
/// there (blanks as `\040`; [`Unescaped`] shows it readable).
///
/// - *Block-backed*: the device's major number (field 3) is not 0, or the source lies under `/dev/`, or the type is one
///   that stores to disk behind an anonymous device.
/// - *Writable*: the **super block's** options (last field) do not say `ro`. The mount's own options (field 6) do not
///   count, in either direction: the emergency remount and systemd's make the super block read-only and may leave the
///   mount `rw`; a read-only bind mount leaves the super block writable, and its journal open.
///
/// Format: proc_pid_mountinfo(5). Zero or more optional fields stand before the lone `-`. A source can be empty, which
/// leaves two blanks in a row, so fields are split at each single blank.
pub fn writable_block_mount(mountinfo: &str) -> Option<&str> {
    let mut lines = 0_u32;
    for line in mountinfo.lines() {
        lines = lines.saturating_add(1);
        match parse_mount(line) {
            None => return Some(UNREADABLE_MOUNT),
            Some(mount) if mount.block_backed() && mount.writable() => return Some(mount.point),
            Some(_) => {}
        }
    }
    // There is always a root file system: a table without a line was not read.
    if lines == 0 { Some(UNREADABLE_MOUNT) } else { None }
}

struct Mount<'a> {
    major: u32,
    point: &'a str,
    fs_type: &'a str,
    source: &'a str,
    super_options: &'a str,
}

impl Mount<'_> {
    fn block_backed(&self) -> bool {
        self.major != 0 || self.source.starts_with("/dev/") || ANONYMOUS_DISK_TYPES.contains(&self.fs_type)
    }

    fn writable(&self) -> bool {
        // Whatever is not plainly read-only counts as writable.
        !self.super_options.split(',').any(|option| option == "ro")
    }
}

fn parse_mount(line: &str) -> Option<Mount<'_>> {
    let mut fields = line.split(' ');
    let _id = fields.next()?;
    let _parent = fields.next()?;
    let (major, minor) = fields.next()?.split_once(':')?;
    let major = major.parse().ok()?;
    let _minor: u32 = minor.parse().ok()?;
    let _root = fields.next()?;
    let point = fields.next()?;
    let _mount_options = fields.next()?;
    fields.find(|field| *field == "-")?;
    let fs_type = fields.next()?;
    let source = fields.next()?;
    let super_options = fields.next()?;
    if point.is_empty() || fs_type.is_empty() || super_options.is_empty() {
        return None;
    }
    Some(Mount { major, point, fs_type, source, super_options })
}

/// Shows a field of mountinfo with its octal escapes (`\040`, `\134` …) resolved. Escapes of control characters stay
/// as they are, so that a log line stays one line.
#[derive(Clone, Copy, Debug)]
pub struct Unescaped<'a>(pub &'a str);

impl fmt::Display for Unescaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find('\\') {
            let (before, from_slash) = rest.split_at(at);
            f.write_str(before)?;
            let code = from_slash
                .get(1..4)
                .filter(|digits| digits.bytes().all(|b| (b'0'..=b'7').contains(&b)))
                .and_then(|digits| u8::from_str_radix(digits, 8).ok())
                .filter(|code| (0x20..0x7f).contains(code));
            match code {
                Some(code) => {
                    f.write_char(char::from(code))?;
                    rest = from_slash.get(4..).unwrap_or_default();
                }
                None => {
                    f.write_char('\\')?;
                    rest = from_slash.get(1..).unwrap_or_default();
                }
            }
        }
        f.write_str(rest)
    }
}

/// All that the hook read before it decides.
#[derive(Clone, Debug)]
pub struct Evidence<'a> {
    /// What systemd is about to do.
    pub verb: Verb,
    /// Content of [`FLAG_PATH`]; `None` if there is no such file.
    pub flag: Option<&'a str>,
    /// Content of `/proc/sys/kernel/random/boot_id`.
    pub boot_id: &'a str,
    /// Answer of [`writable_block_mount`].
    pub writable: Option<&'a str>,
    /// The record at [`FEED_PATH`]; `None` if it is missing or cannot be read.
    pub feed: Option<FeedRecord>,
    /// `CLOCK_BOOTTIME` now, in milliseconds.
    pub now_boottime_ms: u64,
}

/// Whether to cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision<'a> {
    /// Everything but the button allows it: wait for the release, then cut.
    Cut,
    /// Leave the power on, for this reason.
    Refuse(Refusal<'a>),
}

/// Why the power stays on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal<'a> {
    /// The verb is not `poweroff`.
    NotPowerOff,
    /// No power-off transaction left its flag.
    NoFlag,
    /// The flag is of another boot.
    StaleFlag,
    /// The file system at this mount point (as escaped in mountinfo) is still writable.
    StillWritable(&'a str),
    /// The Pi is not fed through the SHIM, or that is not known.
    FeedNotShim(Feed),
    /// There is no readable feed record.
    FeedMissing,
    /// The feed record is too old, or from the future and so not of this boot.
    FeedStale,
    /// The button was held until [`RELEASE_WAIT_MS`] ran out. The hook finds this, after [`Decision::Cut`].
    ButtonHeld,
}

impl Refusal<'_> {
    /// A stable label.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NotPowerOff => "not_power_off",
            Self::NoFlag => "no_flag",
            Self::StaleFlag => "stale_flag",
            Self::StillWritable(_) => "still_writable",
            Self::FeedNotShim(_) => "feed_not_shim",
            Self::FeedMissing => "feed_missing",
            Self::FeedStale => "feed_stale",
            Self::ButtonHeld => "button_held",
        }
    }
}

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPowerOff => f.write_str("this is not a power-off: the power stays on"),
            Self::NoFlag => f.write_str(
                "no flag of a power-off transaction in /run/beehive/poweroff: the power stays on; \
                 is the unit that writes it enabled?",
            ),
            Self::StaleFlag => f.write_str("the flag in /run/beehive/poweroff is not of this boot: the power stays on"),
            Self::StillWritable(point) => write!(
                f,
                "the file system at {} is still writable: a cut could damage it, so the power stays on",
                Unescaped(point)
            ),
            Self::FeedNotShim(Feed::Poe) => f.write_str(
                "halted, 5 V still present: this Pi is fed by PoE, which the SHIM cannot cut; cycle the switch port",
            ),
            Self::FeedNotShim(Feed::Unknown) => f.write_str(
                "halted, 5 V still present: it is not known what feeds this Pi; set the feed in the configuration",
            ),
            // decide() never makes this one; it reads as what it says.
            Self::FeedNotShim(Feed::Shim) => f.write_str("halted, 5 V still present"),
            Self::FeedMissing => f.write_str(
                "no readable feed record in /run/beehive/feed: the power stays on; did the daemon run in this boot?",
            ),
            Self::FeedStale => {
                f.write_str("the feed record in /run/beehive/feed is too old: the power stays on; did the daemon die?")
            }
            Self::ButtonHeld => f.write_str(
                "the button is held, and a held button defeats the cut: halted, 5 V still present; pull the plug",
            ),
        }
    }
}

/// Decides from the evidence. The reasons that nothing can change any more come first; a file system that is still
/// writable comes last, because the hook can act on it (remount) and ask again.
pub fn decide<'a>(evidence: &Evidence<'a>) -> Decision<'a> {
    match refusal(evidence) {
        Some(refusal) => Decision::Refuse(refusal),
        None => Decision::Cut,
    }
}

fn refusal<'a>(evidence: &Evidence<'a>) -> Option<Refusal<'a>> {
    match evidence.verb {
        Verb::PowerOff => {}
        Verb::Halt | Verb::Reboot | Verb::Kexec | Verb::Other => return Some(Refusal::NotPowerOff),
    }
    let Some(flag) = evidence.flag else {
        return Some(Refusal::NoFlag);
    };
    if !same_boot(flag, evidence.boot_id) {
        return Some(Refusal::StaleFlag);
    }
    let Some(record) = &evidence.feed else {
        return Some(Refusal::FeedMissing);
    };
    match evidence.now_boottime_ms.checked_sub(record.written_boottime_ms) {
        Some(age_ms) if age_ms <= FEED_STALE_AFTER_MS => {}
        Some(_) | None => return Some(Refusal::FeedStale),
    }
    match record.feed {
        Feed::Shim => {}
        feed @ (Feed::Poe | Feed::Unknown) => return Some(Refusal::FeedNotShim(feed)),
    }
    evidence.writable.map(Refusal::StillWritable)
}

/// The kernel writes the boot id with dashes, systemd's `%b` without: only the digits count.
fn same_boot(flag: &str, boot_id: &str) -> bool {
    let flag = flag.trim();
    let boot_id = boot_id.trim();
    !boot_id.is_empty() && flag.chars().filter(|c| *c != '-').eq(boot_id.chars().filter(|c| *c != '-'))
}

/// Answer of [`ReleaseWait::sample`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseState {
    /// Sample again, in at most [`RELEASE_STEADY_MS`].
    Wait,
    /// Released long enough: cut now.
    Released,
    /// Held until the end: [`Refusal::ButtonHeld`].
    GaveUp,
}

/// Waits for the button to be released, from samples of its line.
///
/// The line must read released for [`RELEASE_STEADY_MS`] without a pressed sample in between; the whole wait ends
/// after [`RELEASE_WAIT_MS`].
#[derive(Clone, Copy, Debug)]
pub struct ReleaseWait {
    started: Instant,
    released_since: Option<Instant>,
}

impl ReleaseWait {
    /// Starts the wait.
    pub const fn new(now: Instant) -> Self {
        Self { started: now, released_since: None }
    }

    /// Takes one sample of the line.
    pub fn sample(&mut self, now: Instant, level: Level) -> ReleaseState {
        match level {
            Level::Pressed => self.released_since = None,
            Level::Released => {
                let since = *self.released_since.get_or_insert(now);
                if now.saturating_since(since) >= RELEASE_STEADY_MS {
                    return ReleaseState::Released;
                }
            }
        }
        if now.saturating_since(self.started) >= RELEASE_WAIT_MS {
            return ReleaseState::GaveUp;
        }
        ReleaseState::Wait
    }
}

#[cfg(test)]
mod tests {
    use std::format;
    use std::string::ToString as _;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const BOOT: &str = "0b1c9c1e-7f0a-4f54-9c1e-111122223333\n";

    fn record(feed: Feed, written_boottime_ms: u64) -> FeedRecord {
        FeedRecord { feed, evidence: String::try_from("no HAT").unwrap(), written_boottime_ms }
    }

    fn good() -> Evidence<'static> {
        Evidence {
            verb: Verb::PowerOff,
            flag: Some("0b1c9c1e-7f0a-4f54-9c1e-111122223333"),
            boot_id: BOOT,
            writable: None,
            feed: Some(record(Feed::Shim, 100_000)),
            now_boottime_ms: 160_000,
        }
    }

    #[test]
    fn all_rules_met_is_a_cut() {
        assert_eq!(decide(&good()), Decision::Cut);
    }

    #[test]
    fn each_rule_alone_refuses() {
        let refused = |change: &dyn Fn(&mut Evidence<'static>)| {
            let mut evidence = good();
            change(&mut evidence);
            decide(&evidence)
        };
        for verb in ["halt", "reboot", "kexec", "soft-reboot", "PowerOff", " poweroff", ""] {
            assert_eq!(refused(&|e| e.verb = Verb::parse(verb)), Decision::Refuse(Refusal::NotPowerOff), "{verb:?}");
        }
        assert_eq!(refused(&|e| e.flag = None), Decision::Refuse(Refusal::NoFlag));
        assert_eq!(refused(&|e| e.flag = Some("")), Decision::Refuse(Refusal::StaleFlag));
        assert_eq!(
            refused(&|e| e.flag = Some("ffffffff-7f0a-4f54-9c1e-111122223333")),
            Decision::Refuse(Refusal::StaleFlag)
        );
        assert_eq!(
            refused(&|e| {
                e.flag = Some("");
                e.boot_id = "";
            }),
            Decision::Refuse(Refusal::StaleFlag)
        );
        assert_eq!(refused(&|e| e.feed = None), Decision::Refuse(Refusal::FeedMissing));
        assert_eq!(
            refused(&|e| e.feed = Some(record(Feed::Poe, 100_000))),
            Decision::Refuse(Refusal::FeedNotShim(Feed::Poe))
        );
        assert_eq!(
            refused(&|e| e.feed = Some(record(Feed::Unknown, 100_000))),
            Decision::Refuse(Refusal::FeedNotShim(Feed::Unknown))
        );
        assert_eq!(
            refused(&|e| e.now_boottime_ms = 100_000 + FEED_STALE_AFTER_MS + 1),
            Decision::Refuse(Refusal::FeedStale)
        );
        assert_eq!(
            refused(&|e| e.now_boottime_ms = 99_999),
            Decision::Refuse(Refusal::FeedStale),
            "a record from the future is not of this boot"
        );
        assert_eq!(refused(&|e| e.writable = Some("/data")), Decision::Refuse(Refusal::StillWritable("/data")));
    }

    #[test]
    fn the_oldest_record_that_counts_is_ten_minutes_old() {
        let mut evidence = good();
        evidence.now_boottime_ms = 100_000 + FEED_STALE_AFTER_MS;
        assert_eq!(decide(&evidence), Decision::Cut);
    }

    #[test]
    fn systemd_writes_the_boot_id_without_dashes() {
        let mut evidence = good();
        evidence.flag = Some("0b1c9c1e7f0a4f549c1e111122223333\n");
        assert_eq!(decide(&evidence), Decision::Cut);
        evidence.flag = Some("0b1c9c1e7f0a4f549c1e11112222333");
        assert_eq!(decide(&evidence), Decision::Refuse(Refusal::StaleFlag), "a truncated id");
    }

    #[test]
    fn a_refusal_is_one_sentence_and_names_the_mount_point() {
        let refusals = [
            Refusal::NotPowerOff,
            Refusal::NoFlag,
            Refusal::StaleFlag,
            Refusal::StillWritable("/mnt/my\\040disk"),
            Refusal::FeedNotShim(Feed::Poe),
            Refusal::FeedNotShim(Feed::Unknown),
            Refusal::FeedMissing,
            Refusal::FeedStale,
            Refusal::ButtonHeld,
        ];
        for refusal in refusals {
            let text = refusal.to_string();
            assert!(text.len() > 20 && !text.contains('\n') && !text.contains("  "), "{text}");
        }
        assert!(Refusal::StillWritable("/mnt/my\\040disk").to_string().contains("/mnt/my disk is"));
        assert!(Refusal::FeedNotShim(Feed::Poe).to_string().contains("cycle the switch port"));
    }

    #[test]
    fn unescaping_leaves_control_characters_and_broken_escapes() {
        for (field, shown) in [
            ("/a\\040b\\134c", "/a b\\c"),
            ("/a\\012b", "/a\\012b"),
            ("/a\\", "/a\\"),
            ("/a\\04", "/a\\04"),
            ("/a\\999", "/a\\999"),
            ("/ä\\ö\\040", "/ä\\ö "),
            ("/\\777", "/\\777"),
        ] {
            assert_eq!(Unescaped(field).to_string(), shown);
        }
    }

    // What a Pi shows in the last phase: root read-only, the rest without a disk.
    const CLEAN: &str = "\
22 1 179:2 / / ro,noatime shared:1 - ext4 /dev/mmcblk0p2 ro
23 22 0:5 / /dev rw,nosuid - devtmpfs udev rw,size=400000k,mode=755
24 22 0:21 / /proc rw,nosuid,nodev,noexec,relatime shared:5 master:3 propagate_from:2 unbindable - proc proc rw
25 22 0:23 / /run rw,nosuid,nodev - tmpfs tmpfs rw,size=90000k,mode=755
26 22 0:40 / /mnt/nfs rw,relatime - nfs4 server:/srv rw,vers=4.2
27 25 0:44 / /run/odd rw - tmpfs  rw
";

    #[test]
    fn a_clean_table_has_no_writable_block_mount() {
        assert_eq!(writable_block_mount(CLEAN), None);
    }

    #[test]
    fn each_kind_of_writable_disk_is_found() {
        for (line, point) in [
            ("30 22 179:2 / / rw,noatime shared:1 - ext4 /dev/mmcblk0p2 rw,errors=remount-ro", "/"),
            ("30 22 8:1 / /data rw - ext4 /dev/sda1 rw", "/data"),
            ("30 22 8:1 / /my\\040disk rw shared:1 master:2 - vfat /dev/sda1 rw", "/my\\040disk"),
            ("30 22 7:0 / /loop rw - squashfs /dev/loop0 rw", "/loop"),
            ("30 22 0:44 /@ /btrfs rw - btrfs /dev/sda3 rw,space_cache=v2", "/btrfs"),
            ("30 22 0:44 / /pool rw - zfs tank/data rw,xattr", "/pool"),
            ("30 22 0:44 / /flash rw - ubifs ubi0:data rw", "/flash"),
            ("30 22 253:0 / /luks rw - ext4 none rw", "/luks"),
            ("30 22 8:1 / /hyphen rw - - - rw", "/hyphen"),
            // A read-only bind mount of a super block that is writable: its journal is open.
            ("30 22 8:1 / /bind ro - ext4 /dev/sda1 rw", "/bind"),
        ] {
            let table = format!("{CLEAN}{line}\n");
            assert_eq!(writable_block_mount(&table), Some(point), "{line}");
        }
    }

    #[test]
    fn a_read_only_super_block_is_not_writable_whatever_the_mount_says() {
        for line in [
            "30 22 8:1 / /data rw - ext4 /dev/sda1 ro",
            "30 22 8:1 / /data rw - ext4 /dev/sda1 ro,errors=remount-ro",
            "30 22 0:44 / /btrfs rw - btrfs /dev/sda3 ro",
        ] {
            assert_eq!(writable_block_mount(line), None, "{line}");
        }
        // `remount-ro` is an option of its own, not `ro`.
        assert_eq!(writable_block_mount("30 22 8:1 / /d ro - ext4 /dev/sda1 rw,errors=remount-ro"), Some("/d"));
    }

    #[test]
    fn an_option_that_only_begins_like_ro_does_not_make_it_read_only() {
        assert_eq!(writable_block_mount("30 22 8:1 / /d rw - ext4 /dev/sda1 rw,rootcontext=x"), Some("/d"));
    }

    #[test]
    fn a_table_that_cannot_be_read_counts_as_writable() {
        for table in [
            "",
            "\n",
            "nonsense",
            "30 22 8:1 / /data ro",
            "30 22 8:1 / /data ro - ext4 /dev/sda1",
            "30 22 8 / /data ro - ext4 /dev/sda1 ro",
            "30 22 x:1 / /data ro - ext4 /dev/sda1 ro",
            "30 22 8:1 / /data ro - ext4 /dev/sda1 ",
        ] {
            assert_eq!(writable_block_mount(table), Some(UNREADABLE_MOUNT), "{table:?}");
        }
    }

    #[test]
    fn the_record_is_the_text_that_the_documentation_shows() {
        let text = record(Feed::Shim, 123).render();
        assert_eq!(text.as_str(), "feed=shim\nevidence=no HAT\nboottime_ms=123\n");
    }

    #[test]
    fn a_broken_record_is_refused() {
        for (text, error) in [
            ("", FeedRecordError::Truncated),
            ("\n", FeedRecordError::UnknownLine),
            ("feed=shim\nevidence=x\nboottime_ms=12", FeedRecordError::Truncated),
            ("feed=shim\nevidence=x\n", FeedRecordError::Incomplete),
            ("feed=shim\nfeed=shim\nevidence=x\nboottime_ms=1\n", FeedRecordError::Duplicate),
            ("feed=Shim\nevidence=x\nboottime_ms=1\n", FeedRecordError::BadFeed),
            ("feed=shim\nevidence=x\nboottime_ms=-1\n", FeedRecordError::BadTime),
            ("feed=shim\nevidence=x\nboottime_ms=1\nmore=1\n", FeedRecordError::UnknownLine),
            ("feed=shim\nevidence=x\nboottime_ms=1\n\n", FeedRecordError::UnknownLine),
        ] {
            assert_eq!(FeedRecord::parse(text), Err(error), "{text:?}");
        }
        let long = format!("feed=shim\nevidence={}\nboottime_ms=1\n", "x".repeat(EVIDENCE_LEN + 1));
        assert_eq!(FeedRecord::parse(&long), Err(FeedRecordError::LongEvidence));
    }

    #[test]
    fn the_wait_needs_a_steady_release() {
        let at = Instant::from_ms;
        let mut wait = ReleaseWait::new(at(0));
        assert_eq!(wait.sample(at(0), Level::Pressed), ReleaseState::Wait);
        assert_eq!(wait.sample(at(10), Level::Released), ReleaseState::Wait);
        assert_eq!(wait.sample(at(60), Level::Pressed), ReleaseState::Wait, "a bounce starts it anew");
        assert_eq!(wait.sample(at(70), Level::Released), ReleaseState::Wait);
        assert_eq!(wait.sample(at(169), Level::Released), ReleaseState::Wait);
        assert_eq!(wait.sample(at(170), Level::Released), ReleaseState::Released);
    }

    #[test]
    fn the_wait_gives_up_on_a_held_or_chattering_button() {
        let at = Instant::from_ms;
        let mut wait = ReleaseWait::new(at(0));
        let mut answers = Vec::new();
        for step in 0..=1_500_u64 {
            let level = if step % 2 == 0 { Level::Pressed } else { Level::Released };
            answers.push(wait.sample(at(step * 50), level));
        }
        assert_eq!(answers.iter().position(|a| *a != ReleaseState::Wait), Some(1_500));
        assert_eq!(answers.last(), Some(&ReleaseState::GaveUp));
    }

    proptest! {
        #[test]
        fn a_record_reads_back(
            feed in prop_oneof![Just(Feed::Shim), Just(Feed::Poe), Just(Feed::Unknown)],
            evidence in "[ -~äß]{0,48}",
            written_boottime_ms: u64,
        ) {
            let record = FeedRecord { feed, evidence: String::try_from(evidence.as_str()).unwrap(), written_boottime_ms };
            prop_assert_eq!(FeedRecord::parse(&record.render()), Ok(record));
        }

        #[test]
        fn a_record_with_any_evidence_stays_three_lines(evidence in "\\PC{0,24}|[\\x00-\\x1f]{0,96}") {
            let record = FeedRecord {
                feed: Feed::Shim,
                evidence: String::try_from(evidence.as_str()).unwrap_or_default(),
                written_boottime_ms: 1,
            };
            let text = record.render();
            prop_assert_eq!(text.lines().count(), 3);
            prop_assert!(FeedRecord::parse(&text).is_ok());
        }

        #[test]
        fn nothing_that_can_be_read_makes_the_parsers_panic(text in "\\PC{0,200}") {
            let _ = FeedRecord::parse(&text);
            let _ = writable_block_mount(&text);
            let _ = Unescaped(&text).to_string();
        }
    }
}
