//! What a real engine stands on: the Pi's files below a root (`/`; a temporary folder in tests), the programs that it runs, its
//! settings, and a small store of its own for what has to survive a power cut.
//!
//! The engine runs as root in a unit of its own, so its store is not the daemon's: [`STATE_DIR`] belongs to root alone.
//! Paths are written as they are on the Pi; [`Files::at`] puts the root before them, and a program that is told of a file is
//! told of that one.
//!
//! A file is written beside its place, synced and renamed, so that a power cut leaves the old one or the new one. A tree is
//! removed only when nothing is mounted below it: what is mounted there is somebody's volume.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use beehive_mqtt::node::Role;
use beehive_mqtt::{NodeName, Text};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::tool::{Ran, ToolCall, ToolError, Tools};
use crate::config::{Config, EngineSettings};
use crate::doctor::{self, Finding, Refusal, Remote, Severity, Subject, Wanted};
use crate::store::{Disk, RealDisk, Store, StoreError};

/// Where the engines keep what has to survive: root's own.
pub const STATE_DIR: &str = "/var/lib/beehive-engine";

/// Where they put what need not survive a boot.
pub(super) const RUN_DIR: &str = "/run/beehive-engine";

/// How much of what a program said stands in the reason of a failure; the log has all that was kept of it.
const SAID_BYTES: usize = 600;

/// The longest text file that is read whole: a manifest, a kubeconfig, a list of mounts, a list of packet filter rules.
pub(super) const TEXT_BYTES: u64 = 4 * 1024 * 1024;

/// The processor that programs on this Pi are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// 32-bit ARM (armv7).
    Arm,
    /// 64-bit ARM.
    Arm64,
    /// 64-bit x86.
    Amd64,
    /// None of these.
    Other,
}

impl Arch {
    /// That of this program: a 32-bit system under a 64-bit kernel needs 32-bit programs.
    pub fn own() -> Self {
        match std::env::consts::ARCH {
            "arm" => Self::Arm,
            "aarch64" => Self::Arm64,
            "x86_64" => Self::Amd64,
            _ => Self::Other,
        }
    }

    /// As Kubernetes' releases write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Arm => "arm",
            Self::Arm64 => "arm64",
            Self::Amd64 => "amd64",
            Self::Other => std::env::consts::ARCH,
        }
    }
}

/// Asked before each change to a file; a test lets one fail.
pub trait Gate: Send + Sync {
    /// Whether the change `what` at `path` may happen.
    ///
    /// # Errors
    /// Those that the file system is to have.
    fn pass(&self, what: &'static str, path: &Path) -> io::Result<()>;
}

/// Lets every change pass.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenGate;

impl Gate for OpenGate {
    fn pass(&self, _: &'static str, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

/// The machine that an engine works on.
#[derive(Clone)]
pub struct Ground {
    /// What stands before every path: `/` on a Pi.
    pub root: PathBuf,
    /// What runs programs.
    pub tools: Arc<dyn Tools>,
    /// What the engine's store is written to.
    pub disk: Arc<dyn Disk>,
    /// Asked before each change to another file.
    pub gate: Arc<dyn Gate>,
    /// The processor.
    pub arch: Arch,
    /// Looks at the machine before a cluster is made on it or joined.
    pub preflight: Arc<dyn Preflight>,
}

/// Looks at a machine before a cluster is made on it or joined.
pub trait Preflight: Send + Sync {
    /// What was found that is no error. It may block for some seconds.
    ///
    /// # Errors
    /// If something would let the work fail.
    fn look(&self, subject: &Subject) -> Result<Vec<Finding>, Refusal>;
}

/// The look at this Pi that `beehive doctor` takes.
struct ThisPi;

impl Preflight for ThisPi {
    fn look(&self, subject: &Subject) -> Result<Vec<Finding>, Refusal> {
        doctor::before_join(subject)
    }
}

/// How often the clock is looked at, and how often at most: a time server answers within seconds of the network's coming up; a
/// minute and a half is not held against a Pi that has just booted. The coordinator waits longer for a join.
const CLOCK_AGAIN: Duration = Duration::from_secs(3);
const CLOCK_LOOKS: u32 = 30;

/// Looks until nothing is wrong but what a time server does not mend: a Pi that was just switched on has no time yet, and whoever
/// tells it to join should not have to know that. Everything else is refused at once.
async fn once_the_clock_is_set<L, E>(mut look: impl FnMut() -> L) -> Result<Result<Vec<Finding>, Refusal>, E>
where
    L: Future<Output = Result<Result<Vec<Finding>, Refusal>, E>>,
{
    let of_clock = |finding: &Finding| match finding.severity {
        Severity::Error => finding.id == doctor::Id::ClockWrong || finding.id == doctor::Id::ClockUnsynchronised,
        Severity::Note | Severity::Warning => true,
    };
    for _ in 1..CLOCK_LOOKS {
        match look().await {
            Ok(Err(refusal)) if refusal.findings.iter().all(of_clock) => tokio::time::sleep(CLOCK_AGAIN).await,
            looked => return looked,
        }
    }
    look().await
}

/// For a folder that stands in for a machine: there is nothing to look at.
struct Nowhere;

impl Preflight for Nowhere {
    fn look(&self, _subject: &Subject) -> Result<Vec<Finding>, Refusal> {
        Ok(Vec::new())
    }
}

impl Ground {
    /// This Pi.
    pub fn this_pi(tools: Arc<dyn Tools>) -> Self {
        Self { preflight: Arc::new(ThisPi), ..Self::below(Path::new("/"), tools) }
    }

    /// Everything below `root`, with the folders `/var/lib` and `/run` there.
    pub fn below(root: &Path, tools: Arc<dyn Tools>) -> Self {
        Self {
            root: root.to_owned(),
            tools,
            disk: Arc::new(RealDisk),
            gate: Arc::new(OpenGate),
            arch: Arch::own(),
            preflight: Arc::new(Nowhere),
        }
    }
}

/// Why a step of an engine did not come off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: &'static str,
    pub(super) reason: String,
}

impl Failure {
    pub(super) fn new(code: &'static str, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }

    fn io(what: &str, path: &Path, error: &io::Error) -> Self {
        Self::new(
            "disk",
            format!("cannot {what} {}: {error}; check that the card is neither full nor read-only", path.display()),
        )
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new("disk", error.to_string())
    }
}

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Root alone: it holds a secret, or may one day.
    Secret,
    /// Everybody.
    Public,
    /// Everybody may run it.
    Program,
}

impl Mode {
    fn bits(self) -> u32 {
        match self {
            Self::Secret => 0o600,
            Self::Public => 0o644,
            Self::Program => 0o755,
        }
    }
}

/// Whether something was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It was.
    Made,
    /// It was so already.
    None,
}

/// The Pi's files. Paths are those on the Pi. Blocking: called off the executor, one at a time.
pub(super) struct Files {
    root: PathBuf,
    gate: Arc<dyn Gate>,
    /// A step whose future was dropped may still be in a call: the next step waits for its end.
    busy: Mutex<()>,
}

impl Files {
    /// The file that is meant by `path` on the Pi.
    pub(super) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// As [`Self::at`], as a word for a program.
    pub(super) fn word(&self, path: impl AsRef<Path>) -> String {
        self.at(path).to_string_lossy().into_owned()
    }

    fn change<T>(
        &self,
        what: &'static str,
        path: &Path,
        work: impl FnOnce(&Path) -> io::Result<T>,
    ) -> Result<T, Failure> {
        self.gate.pass(what, path).and_then(|()| work(path)).map_err(|error| Failure::io(what, path, &error))
    }

    /// Whether something of that name is there, be it a link to nowhere.
    pub(super) fn has(&self, path: impl AsRef<Path>) -> bool {
        self.at(path).symlink_metadata().is_ok()
    }

    /// A file's bytes, `limit` at most; none if it is not there.
    pub(super) fn read(&self, path: impl AsRef<Path>, limit: u64) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
        let path = self.at(path);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(Failure::io("read", &path, &error)),
        };
        let mut bytes = Zeroizing::new(Vec::new());
        let read = file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| Failure::io("read", &path, &error))?;
        if read as u64 > limit {
            let reason = format!("{} has more than {limit} bytes, so it is not what it should be", path.display());
            return Err(Failure::new("file", reason));
        }
        Ok(Some(bytes))
    }

    /// A text file; empty where it is not there.
    pub(super) fn text(&self, path: impl AsRef<Path>) -> Result<Zeroizing<String>, Failure> {
        let bytes = self.read(path, TEXT_BYTES)?.unwrap_or_default();
        Ok(Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The names in a folder, sorted; none where it is not there.
    pub(super) fn list(&self, path: impl AsRef<Path>) -> Result<Vec<String>, Failure> {
        let path = self.at(path);
        let fail = |error: io::Error| Failure::io("list", &path, &error);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if is_absent(&error) => return Ok(Vec::new()),
            Err(error) => return Err(fail(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry.map_err(fail)?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    /// Makes a folder and those above it.
    pub(super) fn folder(&self, path: impl AsRef<Path>, mode: Mode) -> Result<(), Failure> {
        let path = self.at(path);
        if path.is_dir() {
            return Ok(());
        }
        let bits = match mode {
            Mode::Secret => 0o700,
            Mode::Public | Mode::Program => 0o755,
        };
        self.change("make the folder", &path, |path| DirBuilder::new().recursive(true).mode(bits).create(path))
    }

    /// Writes a file, with the folders above it; leaves it alone where it is so already.
    pub(super) fn write(&self, path: impl AsRef<Path>, bytes: &[u8], mode: Mode) -> Result<Change, Failure> {
        let place = self.at(&path);
        let same_mode = place.symlink_metadata().is_ok_and(|found| {
            found.is_file() && found.permissions().mode() & 0o7777 == mode.bits() && found.len() == bytes.len() as u64
        });
        if same_mode && fs::read(&place).is_ok_and(|found| Zeroizing::new(found).as_slice() == bytes) {
            return Ok(Change::None);
        }
        if let Some(folder) = path.as_ref().parent() {
            self.folder(folder, Mode::Public)?;
        }
        let fresh = beside(&place);
        self.change("write", &fresh, |fresh| {
            discard(fresh)?;
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(fresh)?;
            file.write_all(bytes)?;
            file.set_permissions(Permissions::from_mode(mode.bits()))?;
            file.sync_all()
        })?;
        self.put(&fresh, &place)?;
        Ok(Change::Made)
    }

    /// Copies a file, if its bytes have this hash.
    pub(super) fn copy(
        &self,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
        mode: Mode,
        sha256: Option<&str>,
    ) -> Result<(), Failure> {
        let (from, place) = (self.at(from), self.at(&to));
        if let Some(folder) = to.as_ref().parent() {
            self.folder(folder, Mode::Public)?;
        }
        let fresh = beside(&place);
        let found = self.change("write", &fresh, |fresh| {
            discard(fresh)?;
            let mut source = File::open(&from)?;
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(fresh)?;
            let found = pour(&mut source, Some(&mut file))?;
            file.set_permissions(Permissions::from_mode(mode.bits()))?;
            file.sync_all()?;
            Ok(found)
        })?;
        match sha256 {
            Some(wanted) if wanted != found => {
                self.change("remove", &fresh, discard)?;
                Err(Failure::new(
                    "bad-artefact",
                    format!(
                        "{} has another hash than the list beside it says; copy it to the card anew",
                        from.display()
                    ),
                ))
            }
            Some(_) | None => self.put(&fresh, &place),
        }
    }

    /// The SHA-256 of a file, in lower-case hexadecimal digits; none if it is not there.
    pub(super) fn sha256(&self, path: impl AsRef<Path>) -> Result<Option<String>, Failure> {
        let path = self.at(path);
        match File::open(&path) {
            Ok(mut file) => pour(&mut file, None).map(Some).map_err(|error| Failure::io("read", &path, &error)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(Failure::io("read", &path, &error)),
        }
    }

    /// Gives a file or folder a new name, over a file that has it.
    pub(super) fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<(), Failure> {
        self.put(&self.at(from), &self.at(to))
    }

    fn put(&self, from: &Path, to: &Path) -> Result<(), Failure> {
        self.change("put in place", to, |to| {
            fs::rename(from, to)?;
            // a folder that cannot be opened cannot be synced either
            to.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
        })
    }

    /// Removes a file or a link, and what a cut write of it left.
    pub(super) fn remove_file(&self, path: impl AsRef<Path>) -> Result<Change, Failure> {
        let place = self.at(path);
        let fresh = beside(&place);
        let mut change = Change::None;
        for path in [&place, &fresh] {
            if path.symlink_metadata().is_ok() {
                self.change("remove", path, discard)?;
                change = Change::Made;
            }
        }
        Ok(change)
    }

    /// Removes a folder with all that is in it, unless something is mounted below it. Where the folder itself is a mount, a
    /// disk of its own for the engine, it is emptied and stays.
    pub(super) fn remove_tree(&self, path: impl AsRef<Path>) -> Result<Change, Failure> {
        let path = path.as_ref();
        let place = self.at(path);
        if place.symlink_metadata().is_err() {
            return Ok(Change::None);
        }
        let mounts = self.mounts()?;
        // the kernel names a mount by its real place, whatever links lead there
        let real = self.real(&place).unwrap_or_else(|| path.to_owned());
        let is_here = |mount: &Path| mount == path || mount == real;
        let inside = |mount: &&String| {
            let mount = Path::new(mount);
            (mount.starts_with(path) || mount.starts_with(&real)) && !is_here(mount)
        };
        if let Some(mount) = mounts.iter().find(inside) {
            let why = "is still mounted, and what is mounted is not ours to remove";
            return Err(Failure::new("mounted", format!("{mount} {why}; unmount it and reset again")));
        }
        if !mounts.iter().any(|mount| is_here(Path::new(mount))) {
            self.change("remove", &place, |place| {
                if place.symlink_metadata()?.is_dir() { fs::remove_dir_all(place) } else { fs::remove_file(place) }
            })?;
            return Ok(Change::Made);
        }
        let names = self.list(path)?;
        for name in &names {
            self.remove_tree(path.join(name))?;
        }
        Ok(if names.is_empty() { Change::None } else { Change::Made })
    }

    /// Where a file really is, as a path on the Pi.
    fn real(&self, place: &Path) -> Option<PathBuf> {
        let root = self.root.canonicalize().ok()?;
        Some(Path::new("/").join(place.canonicalize().ok()?.strip_prefix(root).ok()?))
    }

    /// Where something is mounted, the deepest first.
    pub(super) fn mounts(&self) -> Result<Vec<String>, Failure> {
        let text = self.text("/proc/self/mounts")?;
        let mut places: Vec<String> = text.lines().filter_map(|line| line.split(' ').nth(1)).map(unescape).collect();
        places.sort_by(|a, b| b.cmp(a));
        Ok(places)
    }
}

/// As the kernel writes a path in `/proc/self/mounts`: blanks, tabs, line ends and backslashes as `\040` and the like.
fn unescape(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Where a file is written until it is whole.
fn beside(place: &Path) -> PathBuf {
    let name = place.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    place.with_file_name(format!(".{name}.beehive-new"))
}

fn discard(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if !is_absent(&error) => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The SHA-256 of all that `from` gives, copied to `to`.
fn pour(from: &mut File, mut to: Option<&mut File>) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut piece)?;
        let Some(bytes) = piece.get(..length).filter(|bytes| !bytes.is_empty()) else { break };
        hash.update(bytes);
        if let Some(to) = &mut to {
            to.write_all(bytes)?;
        }
    }
    Ok(hex(&hash.finalize()))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a real engine stands on.
pub(super) struct Site {
    pub(super) node: NodeName,
    pub(super) role: Role,
    pub(super) settings: EngineSettings,
    /// The version that the configuration wants; empty means the one that is installed.
    pub(super) version: Text<32>,
    pub(super) arch: Arch,
    pub(super) store: Store,
    files: Arc<Files>,
    tools: Arc<dyn Tools>,
    preflight: Arc<dyn Preflight>,
    /// Where the agent keeps its state: the card whose writes count.
    state_dir: PathBuf,
    /// What must not stand in a report: the secrets of the step under way.
    secrets: Mutex<Vec<Zeroizing<String>>>,
}

impl Site {
    /// On this ground, as the configuration says.
    pub(super) fn new(config: &Config, ground: Ground) -> Result<Self, Failure> {
        let files = Files { root: ground.root, gate: ground.gate, busy: Mutex::new(()) };
        let store = Store::open_on(&files.at(STATE_DIR), ground.disk)?;
        Ok(Self {
            node: config.node.clone(),
            role: config.role,
            settings: config.engine.settings.clone(),
            version: config.engine.version.clone(),
            arch: ground.arch,
            store,
            files: Arc::new(files),
            tools: ground.tools,
            preflight: ground.preflight,
            state_dir: config.state_dir.clone(),
            secrets: Mutex::new(Vec::new()),
        })
    }

    /// Looks at the machine before the engine `kind` makes a cluster in this version, or joins the one of `server`. The warnings,
    /// in one line.
    pub(super) async fn preflight(&self, kind: &str, version: &str, server: Option<&str>) -> Result<String, Failure> {
        let Some(wanted) = Wanted::of_kind(kind) else { return Ok(String::new()) };
        let mut subject = Subject::new(self.role, wanted, version);
        subject.node = Some(self.node.to_string());
        subject.state_dir.clone_from(&self.state_dir);
        subject.server = server.and_then(|server| Remote::parse(server, doctor::API_PORT).ok());
        let (preflight, subject) = (Arc::clone(&self.preflight), Arc::new(subject));
        let looked = once_the_clock_is_set(move || {
            let (preflight, subject) = (Arc::clone(&preflight), Arc::clone(&subject));
            tokio::task::spawn_blocking(move || preflight.look(&subject))
        });
        match looked.await {
            Ok(Ok(findings)) => Ok(doctor::warnings(&findings)),
            Ok(Err(refusal)) => Err(Failure::new(refusal.code, refusal.reason)),
            Err(error) => Err(Failure::new("preflight", format!("the look at this Pi did not end: {error}"))),
        }
    }

    /// Works on the files, off the executor: a card may take seconds for one write.
    pub(super) async fn disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let files = Arc::clone(&self.files);
        let done = tokio::task::spawn_blocking(move || {
            let _busy = lock(&files.busy);
            work(&files)
        });
        done.await.map_err(|error| Failure::new("internal", format!("the step ended early: {error}")))?
    }

    /// As a word for a program, the file that is meant by `path` on the Pi.
    pub(super) fn word(&self, path: &str) -> String {
        self.files.word(path)
    }

    /// Whether something of that name is there.
    pub(super) fn has(&self, path: &str) -> bool {
        self.files.has(path)
    }

    /// Looks at the files in passing, where that is a few names.
    pub(super) fn look_at<T>(&self, look: impl FnOnce(&Files) -> T) -> T {
        look(&self.files)
    }

    /// Whether the program is there.
    pub(super) fn has_tool(&self, program: &'static str) -> bool {
        self.tools.has(program)
    }

    /// Removes a file in [`RUN_DIR`] when what is given here is dropped.
    pub(super) fn removed_at_the_end(&self, path: &str) -> RemovedAtTheEnd {
        RemovedAtTheEnd(self.files.at(path))
    }

    /// Removes what a process that was killed left in [`RUN_DIR`]; the folder itself is systemd's.
    pub(super) fn tidy(&self) -> Result<(), Failure> {
        for name in self.files.list(RUN_DIR)? {
            self.files.remove_tree(format!("{RUN_DIR}/{name}"))?;
        }
        Ok(())
    }

    /// Keeps `secret` out of every report until [`Self::forget_secrets`].
    pub(super) fn hide(&self, secret: &str) {
        lock(&self.secrets).push(Zeroizing::new(secret.to_owned()));
    }

    /// At the end of a step.
    pub(super) fn forget_secrets(&self) {
        lock(&self.secrets).clear();
    }

    /// Runs a program to its end, whatever that is.
    pub(super) async fn run(&self, call: ToolCall) -> Result<Ran, Failure> {
        let tool = self.tools.run(call).await;
        tool.map_err(|error| self.not_run(&error))
    }

    /// As [`Self::run`]; none where the program was ended at its deadline.
    pub(super) async fn run_in_time(&self, call: ToolCall) -> Result<Option<Ran>, Failure> {
        match self.tools.run(call).await {
            Ok(ran) => Ok(Some(ran)),
            Err(ToolError::Deadline { .. }) => Ok(None),
            Err(error @ (ToolError::Missing { .. } | ToolError::NotStarted { .. })) => Err(self.not_run(&error)),
        }
    }

    /// What it means that a program came to no end of its own.
    fn not_run(&self, error: &ToolError) -> Failure {
        match error {
            ToolError::Missing { program } => {
                let hint = "install it, or put its package with the artefacts";
                Failure::new("no-tool", format!("{program} is not installed on this Pi; {hint}"))
            }
            ToolError::NotStarted { program, why } => {
                Failure::new("no-tool", format!("{program} could not be started: {}", self.bare(why)))
            }
            ToolError::Deadline { program, deadline, last } => {
                let (last, seconds) = (self.bare(last), deadline.as_secs());
                tracing::warn!(program, seconds, said = %last, "a program was ended at its deadline");
                let (code, advice) = diagnose(&last).unwrap_or(("tool-deadline", "it was ended"));
                let program = short(program);
                Failure::new(
                    code,
                    format!("{program} took more than {seconds} s: {advice}; it said: {}", end_of(&last)),
                )
            }
        }
    }

    /// Runs a program that has to succeed; `what` names the step for people.
    pub(super) async fn must(&self, what: &str, call: ToolCall) -> Result<Ran, Failure> {
        let program = call.program;
        let ran = self.run(call).await?;
        if ran.succeeded() { Ok(ran) } else { Err(self.failed(what, program, &ran)) }
    }

    /// What a program's bad end means. All that was kept of its output goes to the log.
    pub(super) fn failed(&self, what: &str, program: &str, ran: &Ran) -> Failure {
        let said = self.bare(&format!("{}\n{}", ran.stdout, ran.stderr));
        tracing::warn!(program, code = ?ran.code, %said, "{what} failed");
        let (code, advice) = diagnose(&said).unwrap_or(("tool-failed", "see what it said"));
        let status = ran.code.map_or_else(|| "a signal".to_owned(), |status| format!("status {status}"));
        let stderr = self.bare(&ran.stderr);
        let last = if stderr.trim().is_empty() { &said } else { &stderr };
        Failure::new(code, format!("{what} failed ({status}): {advice}; {} said: {}", short(program), end_of(last)))
    }

    /// Logs what a unit said, and gives the end of it. It has gone through [`Self::bare`].
    pub(super) fn report(&self, unit: &str, said: &str) -> String {
        tracing::warn!(unit, %said, "the unit does not come up");
        end_of(said)
    }

    /// `text` without what must not be read by others.
    pub(super) fn bare(&self, text: &str) -> String {
        let mut bare = text.to_owned();
        for secret in lock(&self.secrets).iter() {
            if !secret.is_empty() {
                bare = bare.replace(secret.as_str(), "…");
            }
        }
        without_tokens(&bare)
    }
}

/// Without whatever looks like a bootstrap token or a token of k3s, ours or not.
fn without_tokens(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '_' | '-');
    let mut bare = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let start = rest.find(is_part).unwrap_or(rest.len());
        let (between, from) = rest.split_at(start);
        let (word, after) = from.split_at(from.find(|c| !is_part(c)).unwrap_or(from.len()));
        bare.push_str(between);
        let bootstrap = word.split([':', '-', '_']).any(|part| {
            let piece = |text: &str, length| {
                text.len() == length && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
            };
            let parts: Vec<&str> = part.trim_matches('.').split('.').collect();
            parts.windows(2).any(|two| matches!(two, [id, secret] if piece(id, 6) && piece(secret, 16)))
        });
        let of_k3s = word.strip_prefix("K10").is_some_and(|rest| rest.len() >= 32);
        bare.push_str(if bootstrap || of_k3s { "…" } else { word });
        rest = after;
    }
    bare
}

/// The end of what a program said, on one line.
fn end_of(said: &str) -> String {
    let said = said.trim();
    let mut start = said.len().saturating_sub(SAID_BYTES);
    while !said.is_char_boundary(start) {
        start += 1;
    }
    said.get(start..)
        .unwrap_or_default()
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" | ")
}

fn short(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

/// What kubeadm, kubelet and k3s say, what it means, and what to do. The first that fits counts, so the particular stands
/// before the general.
///
/// Sources: kubeadm 1.20 as tried, its `discovery/token` and `preflight` packages; k3s issues 802, 5163, 6054 and its
/// `clientaccess` package.
const KNOWN: [(&str, &str, &str); 23] = [
    ("could not find a JWS signature", "bad-credential", "the cluster does not know this token; ask for a new one"),
    ("invalid username/password", "bad-credential", "the cluster does not know this token; ask for a new one"),
    ("401 Unauthorized", "bad-credential", "the cluster refuses this token; ask for a new one"),
    ("token CA hash does not match", "wrong-authority", "the server has another authority than the token names"),
    ("none of the public keys", "wrong-authority", "the server has another authority than the token names"),
    ("Node password rejected", "duplicate-name", "the cluster knows another node of this name; delete it there first"),
    (
        "and status \\\"Ready\\\" already exists",
        "node-exists",
        "delete the node of this name first, and wait until it is gone",
    ),
    (
        "and status \"Ready\" already exists",
        "node-exists",
        "delete the node of this name first, and wait until it is gone",
    ),
    ("encrypted with different token", "other-token", "the database was made with another token; reset this Pi"),
    ("is not yet valid", "clock", "this Pi's clock is behind; wait until it is synchronised"),
    ("[ERROR Swap]", "swap", "swap is on; switch it off"),
    ("memory cgroup", "cgroup", "the memory cgroup is off; add cgroup_memory=1 cgroup_enable=memory to cmdline.txt"),
    ("[ERROR SystemVerification]", "cgroup", "the kernel lacks what Kubernetes needs; `beehive doctor` names it"),
    ("[ERROR Port-", "port", "a port is in use; something of an earlier cluster may run"),
    ("[ERROR FileAvailable", "left-overs", "files of an earlier cluster are there; reset this Pi"),
    ("[ERROR DirAvailable", "left-overs", "files of an earlier cluster are there; reset this Pi"),
    ("[ERROR CRI]", "runtime", "containerd does not answer"),
    (
        "[ERROR ImagePull]",
        "images",
        "images cannot be fetched; check the registry, its mirror, or the images on the card",
    ),
    ("no space left on device", "disk", "the card is full"),
    ("no such host", "unreachable", "the server's name is not known here"),
    ("connection refused", "unreachable", "the server does not answer"),
    ("no route to host", "unreachable", "the server cannot be reached"),
    ("i/o timeout", "unreachable", "the server does not answer"),
];

/// A stable word and what to do, for what a program said.
pub(super) fn diagnose(said: &str) -> Option<(&'static str, &'static str)> {
    KNOWN.iter().find(|(words, ..)| said.contains(words)).map(|(_, code, advice)| (*code, *advice))
}

/// A file in memory that goes with this.
pub(super) struct RemovedAtTheEnd(PathBuf);

impl Drop for RemovedAtTheEnd {
    fn drop(&mut self) {
        for path in [beside(&self.0), self.0.clone()] {
            if let Err(error) = discard(&path) {
                tracing::warn!(path = %path.display(), %error, "a file that was of use for a moment cannot be removed");
            }
        }
    }
}

/// Waits before the next look.
pub(super) async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn files(dir: &Path) -> Files {
        Files { root: dir.to_owned(), gate: Arc::new(OpenGate), busy: Mutex::new(()) }
    }

    fn refusal(ids: &[doctor::Id]) -> Result<Vec<Finding>, Refusal> {
        let findings = ids.iter().map(|id| Finding::new(Severity::Error, *id, "evidence", "remedy")).collect();
        Err(Refusal { code: "preflight", reason: "the first one".to_owned(), findings })
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_is_waited_for_and_nothing_else_is() {
        use doctor::Id::{ClockUnsynchronised, ClockWrong, MachineId};
        let run = async |script: &[&[doctor::Id]]| {
            let (mut looks, begun) = (0, tokio::time::Instant::now());
            let looked = once_the_clock_is_set(|| {
                looks += 1;
                std::future::ready(Ok::<_, ()>(script.get(looks - 1).map_or(Ok(Vec::new()), |ids| refusal(ids))))
            });
            let found = looked.await.unwrap().is_ok();
            (found, begun.elapsed().as_secs() / CLOCK_AGAIN.as_secs())
        };
        assert_eq!(run(&[]).await, (true, 0));
        assert_eq!(run(&[&[ClockWrong], &[ClockUnsynchronised]]).await, (true, 2));
        assert_eq!(run(&[&[ClockWrong, MachineId]]).await, (false, 0), "a time server mends one of the two");
        let never = vec![&[ClockWrong][..]; 100];
        assert_eq!(run(&never).await, (false, u64::from(CLOCK_LOOKS - 1)), "bounded");
    }

    #[test]
    fn what_looks_like_a_token_is_left_out() {
        for (said, bare) in [
            ("token abcdef.0123456789abcdef is bad", "token … is bad"),
            ("--token=abcdef.0123456789abcdef.", "--token=…"),
            ("bootstrap-token-abcdef.0123456789abcdef", "…"),
            ("K10aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa::server:secret: 401", "… 401"),
            ("(K10aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa::ab.c)", "(…)"),
            ("K10 is no token, nor is k8s.io or 10.0.0.1:6443", "K10 is no token, nor is k8s.io or 10.0.0.1:6443"),
            ("images.metadata0123456789 ümlaut", "images.metadata0123456789 ümlaut"),
            ("", ""),
        ] {
            assert_eq!(without_tokens(said), bare);
        }
    }

    #[test]
    fn the_end_of_what_a_program_said_is_one_line_and_bounded() {
        assert_eq!(end_of("  first \n\n  second\n"), "first | second");
        let long = "ü".repeat(2000);
        assert!(end_of(&long).len() <= SAID_BYTES && end_of(&long).starts_with('ü'));
    }

    #[test]
    fn what_programs_say_is_understood() {
        // as kubeadm 1.20.2 said them when it was tried
        for (said, code) in [
            ("could not find a JWS signature in the cluster-info ConfigMap for token ID \"abc123\"", "bad-credential"),
            ("is invalid: none of the public keys \"sha256:f81\" are pinned", "wrong-authority"),
            ("dial tcp 127.0.0.1:1: connect: connection refused", "unreachable"),
            ("[ERROR FileAvailable--etc-kubernetes-kubelet.conf]: exists", "left-overs"),
            ("x509: certificate has expired or is not yet valid: current time 1970", "clock"),
            ("a Node with name \"c-007\" and status \"Ready\" already exists in the cluster", "node-exists"),
            (
                "Node password rejected, duplicate hostname or contents of '/etc/rancher/node/password' may not match",
                "duplicate-name",
            ),
        ] {
            assert_eq!(diagnose(said).unwrap().0, code, "{said}");
        }
        assert_eq!(diagnose("all is well"), None);
    }

    #[test]
    fn a_file_is_written_once_and_with_its_mode() {
        let dir = tempfile::TempDir::new().unwrap();
        let files = files(dir.path());
        assert_eq!(files.write("/etc/a/b", b"secret", Mode::Secret).unwrap(), Change::Made);
        assert_eq!(files.write("/etc/a/b", b"secret", Mode::Secret).unwrap(), Change::None);
        let mode = |path: &str| files.at(path).metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode("/etc/a/b"), 0o600);
        // one that others may read is not left so
        fs::set_permissions(files.at("/etc/a/b"), Permissions::from_mode(0o644)).unwrap();
        assert_eq!(files.write("/etc/a/b", b"secret", Mode::Secret).unwrap(), Change::Made);
        assert_eq!(mode("/etc/a/b"), 0o600);
        assert_eq!(files.write("/etc/a/b", b"SECRET", Mode::Program).unwrap(), Change::Made);
        assert_eq!((mode("/etc/a/b"), files.text("/etc/a/b").unwrap().as_str()), (0o755, "SECRET"));
        assert_eq!(files.list("/etc/a").unwrap(), ["b"], "nothing is left beside it");
        assert!(files.read("/etc/a/b", 3).is_err(), "a file that is too long is not cut");
        // a link is replaced, not followed
        std::os::unix::fs::symlink("/etc/passwd", files.at("/etc/a/link")).unwrap();
        files.write("/etc/a/link", b"x", Mode::Public).unwrap();
        assert!(files.at("/etc/a/link").symlink_metadata().unwrap().is_file());
    }

    #[test]
    fn a_copy_with_another_hash_is_not_put_in_place() {
        let dir = tempfile::TempDir::new().unwrap();
        let files = files(dir.path());
        files.write("/card/k3s", b"abc", Mode::Public).unwrap();
        files.write("/bin/k3s", b"old", Mode::Program).unwrap();
        let wrong = files.copy("/card/k3s", "/bin/k3s", Mode::Program, Some(&"0".repeat(64))).unwrap_err();
        assert_eq!((wrong.code, files.text("/bin/k3s").unwrap().as_str()), ("bad-artefact", "old"));
        // SHA-256 of "abc": FIPS 180-4
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        files.copy("/card/k3s", "/bin/k3s", Mode::Program, Some(abc)).unwrap();
        assert_eq!(
            (files.text("/bin/k3s").unwrap().as_str(), files.list("/bin").unwrap()),
            ("abc", vec!["k3s".to_owned()])
        );
        assert_eq!(files.sha256("/bin/k3s").unwrap().as_deref(), Some(abc));
    }

    #[test]
    fn a_tree_with_a_mount_in_it_is_not_removed() {
        let dir = tempfile::TempDir::new().unwrap();
        let files = files(dir.path());
        files.write("/var/x/a/b", b"1", Mode::Public).unwrap();
        files.write("/proc/self/mounts", b"/dev/sda1 /var/x/a\\040b ext4 rw 0 0\n", Mode::Public).unwrap();
        assert_eq!(files.mounts().unwrap(), ["/var/x/a b"]);
        let error = files.remove_tree("/var/x").unwrap_err();
        assert_eq!(error.code, "mounted");
        assert!(files.has("/var/x/a/b"));
        // a mount of a name that only begins alike is no reason
        assert_eq!(files.remove_tree("/var/x/a").unwrap(), Change::Made);
        // and one behind a link is seen
        files.write("/proc/self/mounts", b"/dev/sda1 /mnt/ssd/k/pods/1 ext4 rw 0 0\n", Mode::Public).unwrap();
        files.write("/mnt/ssd/k/pods/1/data", b"1", Mode::Public).unwrap();
        std::os::unix::fs::symlink(files.at("/mnt/ssd"), files.at("/var/ssd")).unwrap();
        assert_eq!(files.remove_tree("/var/ssd/k").unwrap_err().code, "mounted");
        assert!(files.has("/mnt/ssd/k/pods/1/data"));
        // what is behind a link is not ours
        files.write("/srv/film", b"1", Mode::Public).unwrap();
        files.folder("/var/y", Mode::Public).unwrap();
        std::os::unix::fs::symlink(files.at("/srv"), files.at("/var/y/link")).unwrap();
        files.remove_tree("/var/y").unwrap();
        assert!(files.has("/srv/film") && !files.has("/var/y"));
    }

    #[test]
    fn names_in_the_list_of_mounts_are_read_as_the_kernel_writes_them() {
        for (written, path) in
            [("/a\\040b", "/a b"), ("/a\\134b", "/a\\b"), ("/a\\", "/a\\"), ("/a\\9", "/a\\9"), ("/\\303\\274", "/ü")]
        {
            assert_eq!(unescape(written), path);
        }
    }
}
